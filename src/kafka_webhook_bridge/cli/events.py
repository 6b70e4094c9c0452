"""`kwb events`: find archived events, and show one with everything that is known of it."""

from __future__ import annotations

import base64
import json as jsonlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kafka_webhook_bridge.cli import bodies
from kafka_webhook_bridge.cli.output import FOUND_PROBLEM, Json, Output, safe
from kafka_webhook_bridge.errors import UsageError
from kafka_webhook_bridge.times import iso, moment, short

if TYPE_CHECKING:
    import uuid

    from kafka_webhook_bridge.settings import Settings
    from kafka_webhook_bridge.store.events import Search

_CELL_CHARACTERS_MAX = 40
_COPIES_MAX = 20
_ARCHIVE_FOLLOWS = timedelta(seconds=30)  # generous: within a second while all is well


def register(app: typer.Typer) -> None:
    """`kwb events search`, `kwb events show ID`."""
    events = typer.Typer(no_args_is_help=True)
    app.add_typer(events, name="events")

    @events.callback()
    def default() -> None:
        """Search and show archived events."""

    @events.command()
    def search(
        source: Annotated[str | None, typer.Option(help="Name of the source.")] = None,
        type: Annotated[str | None, typer.Option(help="Event type: orders/create, webhook.erp.")] = None,  # noqa: A002
        key: Annotated[str | None, typer.Option(help="Partition key, for example the order's id.")] = None,
        since: Annotated[str, typer.Option(help="Not older: 15m, 1h, 2d ago, or ISO 8601 (UTC).")] = "",
        until: Annotated[str, typer.Option(help="Older than that.")] = "",
        json_contains: Annotated[
            str | None, typer.Option(help='JSON that the body contains: \'{"order": {"id": 1234}}\'.')
        ] = None,
        limit: Annotated[int, typer.Option(help="Most events on a page.")] = 50,
        after: Annotated[str, typer.Option(help="Id of the last event of the page before.")] = "",
        json: Json = False,
    ) -> None:
        """The newest events first. Filters go together; times are those at which the webhook came.

        A search by JSON without --since looks back one day.
        """
        from kafka_webhook_bridge.store.events import Search

        now = datetime.now(UTC)
        wanted = Search(
            source=source,
            type=type,
            since=moment("--since", since, now) if since else None,
            until=moment("--until", until, now) if until else None,
            key=key,
            json=None if json_contains is None else document(json_contains),
            after=event_id_of(after) if after else None,
            limit=limit,
        )
        search_events(wanted.bounded(now), Output(json=json), bounded=json_contains is not None and not since)

    @events.command()
    def show(
        event_id: Annotated[str, typer.Argument(help="The event's id, from a receipt or a search.", metavar="ID")],
        body: Annotated[bool, typer.Option("--body", help="Write the body, byte for byte, and nothing else.")] = False,
        json: Json = False,
    ) -> None:
        """One event: the request as it came, what the bridge found, and where it is in Kafka."""
        if body and json:
            raise UsageError("--body and --json exclude each other.")
        show_event(event_id_of(event_id), Output(json=json), body=body)


# ---- search ----------------------------------------------------------------------------------------------------------


def search_events(wanted: Search, out: Output, *, bounded: bool = False) -> None:
    """One page. `bounded` tells that the search was given its beginning by us, which people should know."""
    import asyncio

    from kafka_webhook_bridge.settings import load_settings
    from kafka_webhook_bridge.store import Store, events

    async def find() -> list[Mapping[str, Any]]:
        async with Store(load_settings().store) as store:
            return await events.search(store, wanted)

    rows = asyncio.run(find())
    full = len(rows) == wanted.limit
    out.data(
        {
            "events": [_plain(row) for row in rows],
            "since": iso(wanted.since) if wanted.since else None,
            "next_after": rows[-1]["event_id"] if full else None,
        }
    )
    if bounded and wanted.since:
        out.note(f"Searched back to {iso(wanted.since)}; --since reaches further.")
    if not rows:
        out.note("No event matches.")
        return
    columns = ("event", "received (UTC)", "state", "source", "type", "key", "bytes")
    cells = [
        (
            str(row["event_id"]),
            short(row["received_at"]),
            *(cell(row[column]) for column in ("state", "source", "type", "key")),
            str(row["body_bytes"]),
        )
        for row in rows
    ]
    head, *lines = aligned([columns, *cells])
    out.say(head, "bold")
    for line in lines:
        out.say(line)
    if full:
        out.note(f"Older ones: {_next_command(wanted, rows[-1]['event_id'])}")


def _next_command(wanted: Search, last: uuid.UUID) -> str:
    """The command for the next page. Times are written out, so that all pages are of one search."""

    options = {
        "--source": wanted.source,
        "--type": wanted.type,
        "--key": wanted.key,
        "--since": iso(wanted.since) if wanted.since else None,
        "--until": iso(wanted.until) if wanted.until else None,
        "--json-contains": wanted.json,
        "--limit": str(wanted.limit),
        "--after": str(last),
    }
    given = [f"{name}={value}" for name, value in options.items() if value is not None]
    return shlex.join(["kwb", "events", "search", *given])


def cell(text: str | None) -> str:
    if text is None:
        return "–"
    text = safe(text)
    return text if len(text) <= _CELL_CHARACTERS_MAX else text[: _CELL_CHARACTERS_MAX - 1] + "…"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """One line an event, however narrow the terminal: ids are copied and lines are searched."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def document(text: str) -> str:
    """The JSON that was asked for. Raises UsageError when it is none, or none that a body can contain."""
    import orjson

    try:
        value = orjson.loads(text)
    except (ValueError, UnicodeEncodeError) as error:
        hint = 'In a shell it stands in single quotes: --json-contains \'{"order": {"id": 1234}}\''
        raise UsageError(f"--json-contains is not JSON: {error}", hint=hint) from None
    if "\\u0000" in orjson.dumps(value).decode():
        raise UsageError("--json-contains has a U+0000, which PostgreSQL cannot keep in JSON: nothing contains it.")
    return text


def event_id_of(text: str) -> uuid.UUID:
    from kafka_webhook_bridge import ids

    found = ids.parse(text.strip().lower())
    if found is None:
        raise UsageError(
            f"{text} is not an event id.",
            hint="They look like 019a2f4e-5b6c-7d8e-9f01-23456789abcd: in receipts, Kwb-Event-Id, ce_id.",
        )
    return found


# ---- show ------------------------------------------------------------------------------------------------------------


def show_event(event_id: uuid.UUID, out: Output, *, body: bool = False) -> None:
    import asyncio

    from kafka_webhook_bridge.settings import load_settings
    from kafka_webhook_bridge.store import Store, events

    settings = load_settings()

    async def read() -> tuple[Mapping[str, Any] | None, list[uuid.UUID]]:
        async with Store(settings.store) as store:
            event = await events.get(store, event_id)
            if event is None or event["dedupe_key"] is None or body:
                return event, []
            return event, await events.copies(store, event, _COPIES_MAX)

    event, copies = asyncio.run(read())
    if event is None:
        out.data(None)
        (out.note if body else out.say)(f"There is no event {event_id} in the archive.", "")
        out.note(f"hint: {_where_it_may_be(event_id, settings)}", "cyan")
        raise typer.Exit(FOUND_PROBLEM)
    if body:
        sys.stdout.buffer.write(event["body"])
        sys.stdout.buffer.flush()
        return
    headers = jsonlib.loads(event["headers"])
    members = _plain(event, without=("body", "body_json", "headers", "marks", "key_bytes"))
    out.data(
        {
            **members,
            "duplicates": copies,
            "marks": jsonlib.loads(event["marks"]) if event["marks"] else [],
            **({"key_base64": _base64(event["key_bytes"])} if event["key_bytes"] is not None else {}),
            "indexed": event["body_json"] is not None,
            "headers": headers,
            **bodies.for_json("body", event["body"]),
        }
    )
    for name, value in _facts(event, copies):
        out.say(f"{name:<10} {value}")
    target = event["path"] + ("" if event["query"] is None else f"?{event['query']}")
    bodies.say_request(out, event["method"], target, headers, event["body"], f"kwb events show {event_id} --body")


def _facts(event: Mapping[str, Any], copies: Sequence[uuid.UUID]) -> list[tuple[str, str]]:
    from kafka_webhook_bridge.store.events import ACKNOWLEDGED

    covers = "it covers the body" if event["covers_body"] else "it does not cover the body"
    verified = "nothing: the source takes anybody" if event["verified"] == "none" else f"{event['verified']}, {covers}"
    if event["offset"] is not None:
        place = f"partition {event['partition']}, offset {event['offset']} (topic id {event['topic_id']})"
    elif event["state"] == ACKNOWLEDGED:
        place = "acknowledged; the archive has not read it yet"
    else:
        place = "not yet there"
    facts = [
        ("event", str(event["event_id"])),
        ("received", iso(event["received_at"])),
        ("source", event["source"]),
        ("type", event["type"]),
        ("key", "none" if event["key"] is None else event["key"]),
        ("verified", verified),
        ("state", event["state"]),
        ("kafka", f"{event['topic']}, {place}"),
        ("format", event["format"]),
    ]
    if event["key_bytes"] is not None:
        facts.insert(5, ("", f"not exactly: base64 {_base64(event['key_bytes'])}"))
    if event["duplicate_of"] is not None:
        facts.append(("duplicate", f"of {event['duplicate_of']}"))
    if copies:
        more = ", …" if len(copies) == _COPIES_MAX else ""
        facts.append(("duplicates", ", ".join(map(str, copies)) + more))
    if event["parse_error"] is not None:
        facts.append(("JSON", f"not indexed: {event['parse_error']}"))
    facts += [(name, str(value)) for name, value, *_ in (jsonlib.loads(event["marks"]) if event["marks"] else ())]
    return [(name, safe(value)) for name, value in facts]


def _where_it_may_be(event_id: uuid.UUID, settings: Settings) -> str:
    """Advice by the age of the id."""
    from kafka_webhook_bridge import ids

    received, now = ids.moment(ids.time_ms(event_id)), datetime.now(UTC)
    if abs(now - received) <= _ARCHIVE_FOLLOWS:
        return "The archive follows Kafka within about a second: try again."
    if received > now:
        return f"The id is of {iso(received)}, which is still to come."
    if now - received > timedelta(days=settings.archive.retention_days):
        return f"It would be of {iso(received)}; events are kept {settings.archive.retention_days} days."
    return (
        f"Only an event answered 2xx is archived. If that one was, it is in Kafka: "
        f"kwb tail TOPIC --from {iso(received)}; kwb doctor tells whether the archive is behind."
    )


# ---- both ------------------------------------------------------------------------------------------------------------


def _plain(row: Mapping[str, Any], *, without: Sequence[str] = ()) -> dict[str, Any]:
    """A row for machines: times as RFC 3339."""

    return {
        name: iso(value) if isinstance(value, datetime) else value for name, value in row.items() if name not in without
    }


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()
