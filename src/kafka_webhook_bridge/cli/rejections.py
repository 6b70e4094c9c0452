"""`kwb rejections`: requests that did not prove their sender, why, and delivering them once the source is right."""

from __future__ import annotations

import json as jsonlib
import sys
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kafka_webhook_bridge.cli import bodies
from kafka_webhook_bridge.cli.events import aligned, cell, event_id_of
from kafka_webhook_bridge.cli.output import FOUND_PROBLEM, Json, Output, safe
from kafka_webhook_bridge.errors import UsageError
from kafka_webhook_bridge.times import iso, moment, short

if TYPE_CHECKING:
    import uuid

    from kafka_webhook_bridge.ingest.release import Outcome
    from kafka_webhook_bridge.store import Store
    from kafka_webhook_bridge.store.rejections import Search

_PAGE_ROWS = 500

Source = Annotated[str | None, typer.Option(help="Only of this source.")]
Code = Annotated[str | None, typer.Option(help="Only refused for this reason: signature.mismatch.")]
Since = Annotated[str, typer.Option(help="Not older: 15m, 1h, 2d ago, or ISO 8601 (UTC).")]
Until = Annotated[str, typer.Option(help="Older than that.")]


def register(app: typer.Typer) -> None:
    """`kwb rejections [list]`, `kwb rejections show ID`, `kwb rejections release ID…`."""
    rejections = typer.Typer(invoke_without_command=True)
    app.add_typer(rejections, name="rejections")

    @rejections.callback()
    def default(context: typer.Context, json: Json = False) -> None:
        """Requests that did not prove their sender: why, and delivering them once the source is right."""
        if context.invoked_subcommand is None:
            list_rejections(_search(None, None, "", ""), Output(json=json))

    @rejections.command("list")
    def list_(
        source: Source = None,
        code: Code = None,
        since: Since = "",
        until: Until = "",
        waiting: Annotated[bool, typer.Option("--waiting", help="Only those that nobody released.")] = False,
        limit: Annotated[int, typer.Option(help="Most requests on a page.")] = 50,
        after: Annotated[str, typer.Option(help="Id of the last request of the page before.")] = "",
        json: Json = False,
    ) -> None:
        """The newest first. Times are those at which the request came."""
        wanted = _search(source, code, since, until, after=after, waiting=waiting, limit=limit)
        list_rejections(wanted, Output(json=json))

    @rejections.command()
    def show(
        event_id: Annotated[str, typer.Argument(help="The id that the answer told, or of `list`.", metavar="ID")],
        body: Annotated[bool, typer.Option("--body", help="Write the body, byte for byte, and nothing else.")] = False,
        raw: Annotated[bool, typer.Option("--raw", help="Write the request as text of HTTP.")] = False,
        json: Json = False,
    ) -> None:
        """One refused request and the reason; credentials are shown as [redacted]."""
        if body + raw + json > 1:
            raise UsageError("--body, --raw and --json exclude each other.")
        show_rejection(event_id_of(event_id), Output(json=json), body=body, raw=raw)

    @rejections.command()
    def release(
        event_ids: Annotated[list[str] | None, typer.Argument(help="Which ones.", metavar="[ID…]")] = None,
        source: Source = None,
        code: Code = None,
        since: Since = "",
        until: Until = "",
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell which would be released.")] = False,
        json: Json = False,
    ) -> None:
        """Verify again, by the configuration as it is now and the time at which each came, and deliver what is right.

        The event keeps the id that the refusal told, and has the header kwb_released_at. Without ids, --source and
        --since say which. Ends with 1 when one of them is still refused.
        """
        out = Output(json=json)
        ids = [event_id_of(text) for text in event_ids or []]
        if ids and (source or code or since or until):
            raise UsageError("Either ids or --source, --code, --since, --until.")
        if not ids and not (source and since):
            raise UsageError("Say which: ids, or --source and --since.")
        release_rejections(
            dict.fromkeys(ids), None if ids else _search(source, code, since, until), out, dry_run=dry_run
        )


def _search(source: str | None, code: str | None, since: str, until: str, *, after: str = "", **more: Any) -> Search:
    from kafka_webhook_bridge.store.rejections import Search

    now = datetime.now(UTC)
    return Search(
        source=source,
        code=code,
        since=moment("--since", since, now) if since else None,
        until=moment("--until", until, now) if until else None,
        after=event_id_of(after) if after else None,
        **more,
    )


# ── list ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def list_rejections(wanted: Search, out: Output) -> None:
    import asyncio

    from kafka_webhook_bridge.settings import load_settings
    from kafka_webhook_bridge.store import Store, rejections

    async def find() -> list[Mapping[str, Any]]:
        async with Store(load_settings().store) as store:
            return await rejections.search(store, wanted)

    rows = asyncio.run(find())
    full = len(rows) == wanted.limit
    out.data({"rejections": [_plain(row) for row in rows], "next_after": rows[-1]["event_id"] if full else None})
    if not rows:
        out.note("No refused request matches.")
        return
    columns = ("id", "received (UTC)", "source", "code", "request", "bytes", "released (UTC)")
    head, *lines = aligned([columns, *map(_cells, rows)])
    out.say(head, "bold")
    for line in lines:
        out.say(line)
    if full:
        out.note(f"Older ones: --after {rows[-1]['event_id']}")


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    released = row["released_at"]
    return (
        str(row["event_id"]), short(row["received_at"]), cell(row["source"]), row["code"],
        cell(f"{row['method']} {row['path']}"), str(row["body_bytes"]), "–" if released is None else short(released),
    )  # fmt: skip


# ── show ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def show_rejection(event_id: uuid.UUID, out: Output, *, body: bool = False, raw: bool = False) -> None:
    import asyncio

    from kafka_webhook_bridge.settings import load_settings
    from kafka_webhook_bridge.store import Store, rejections

    async def read() -> Mapping[str, Any] | None:
        async with Store(load_settings().store) as store:
            return await rejections.get(store, event_id)

    row = asyncio.run(read())
    if row is None:
        out.data(None)
        (out.note if body or raw else out.say)(f"There is no refused request {event_id}.", "")
        out.note("hint: They are forgotten after KWB_REJECTIONS_RETENTION_DAYS, or when a source has too many.", "cyan")
        raise typer.Exit(FOUND_PROBLEM)
    if body or raw:
        sys.stdout.buffer.write(row["body"] if body else _raw(row))
        sys.stdout.buffer.flush()
        return
    headers = jsonlib.loads(row["headers"])
    members = {name: value for name, value in row.items() if name not in ("body", "headers", "withheld")}
    hashed = [(kind, at) for kind, at, digest in jsonlib.loads(row["withheld"]) if digest]
    out.data({
        **_plain(members), "credentials_hashed": len(hashed), "headers": headers, **bodies.for_json("body", row["body"])
    })  # fmt: skip
    facts = [
        ("id", str(event_id)), ("received", iso(row["received_at"])), ("from", row["peer"]), ("source", row["source"]),
        ("code", row["code"]), ("detail", row["detail"] or "–"),
        ("released", "no" if row["released_at"] is None else iso(row["released_at"])),
    ]  # fmt: skip
    for name, value in facts:
        out.say(f"{name:<10} {safe(value)}")
    bodies.say_request(out, row["method"], _target(row), headers, row["body"], f"kwb rejections show {event_id} --body")


def _target(row: Mapping[str, Any]) -> str:
    return str(row["path"]) + ("" if row["query"] is None else f"?{row['query']}")


def _raw(row: Mapping[str, Any]) -> bytes:
    from kafka_webhook_bridge.formats.rows import pairs_of

    lines = [f"{row['method']} {_target(row)} HTTP/1.1".encode("latin-1")]
    lines += [name.encode("latin-1") + b": " + value for name, value in pairs_of(row["headers"])]
    return b"\r\n".join(lines) + b"\r\n\r\n" + bytes(row["body"])


# ── release ───────────────────────────────────────────────────────────────────────────────────────────────────────


def release_rejections(ids: Mapping[uuid.UUID, None], wanted: Search | None, out: Output, *, dry_run: bool) -> None:
    """Each by itself: what is right goes, whatever the others are."""
    import asyncio

    done = asyncio.run(_release(ids, wanted, out, dry_run=dry_run))
    released = [outcome for outcome in done if outcome.code == "ok"]
    refused = [outcome for outcome in done if outcome.code not in ("ok", "rejections.released")]
    out.data({
        "dry_run": dry_run,
        "released": [outcome.event_id for outcome in released],
        "released_before": [outcome.event_id for outcome in done if outcome.code == "rejections.released"],
        "refused": [outcome._asdict() for outcome in refused],
    })  # fmt: skip
    if not done:
        out.note("No refused request matches; `kwb rejections list` shows what there is.")
        raise typer.Exit(FOUND_PROBLEM)
    words = "would be delivered" if dry_run else "delivered; `kwb events show ID` tells where they are"
    out.say(f"{len(released):,} of {len(done):,} {words}.")
    if refused:
        out.say(f"{len(refused):,} still refused.", "yellow")
        raise typer.Exit(FOUND_PROBLEM)


async def _release(
    ids: Mapping[uuid.UUID, None], wanted: Search | None, out: Output, *, dry_run: bool
) -> list[Outcome]:
    import time

    from kafka_webhook_bridge.ingest.keys import Keys
    from kafka_webhook_bridge.ingest.release import Releaser
    from kafka_webhook_bridge.settings import load_settings
    from kafka_webhook_bridge.sources.config import load_sources
    from kafka_webhook_bridge.store import Store, learned

    settings = load_settings()
    keys = Keys(time.monotonic)
    done = []
    try:
        async with Store(settings.store) as store:
            sources = load_sources(settings, keys=keys, learned=await learned.known(settings, store))
            releaser = Releaser(settings, store, sources, keys)
            async for event_id in _chosen(store, ids, wanted):
                outcome = await releaser.release(event_id, dry_run=dry_run)
                done.append(outcome)
                if outcome.code != "ok":
                    out.say(safe(f"{event_id}  {outcome.source or '–'}  {outcome.code}  {outcome.detail}".rstrip()))
    finally:
        keys.close()
    return done


async def _chosen(store: Store, ids: Mapping[uuid.UUID, None], wanted: Search | None) -> AsyncIterator[uuid.UUID]:
    """In the order of their receipt, those that wait when their page is read."""
    from dataclasses import replace

    from kafka_webhook_bridge.store import rejections

    for event_id in ids:
        yield event_id
    while wanted is not None:
        wanted = replace(wanted, oldest_first=True, waiting=True, limit=_PAGE_ROWS)
        rows = await rejections.search(store, wanted)
        for row in rows:
            yield row["event_id"]
        wanted = replace(wanted, after=rows[-1]["event_id"]) if len(rows) == _PAGE_ROWS else None


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row for machines: times as RFC 3339."""
    return {name: iso(value) if isinstance(value, datetime) else value for name, value in row.items()}
