"""`kwb replay`: archived events once more to Kafka. What it would do is shown first; `--run` does it."""

from __future__ import annotations

import shlex
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kafka_webhook_bridge.cli.events import aligned, cell, document, event_id_of
from kafka_webhook_bridge.cli.output import FOUND_PROBLEM, Json, Output
from kafka_webhook_bridge.cli.resending import events, left_out, run, size, work
from kafka_webhook_bridge.errors import ConfigError, KafkaError, ReplayError, UsageError
from kafka_webhook_bridge.times import iso, moment, short

if TYPE_CHECKING:
    from kafka_webhook_bridge.settings import Settings
    from kafka_webhook_bridge.store import Store
    from kafka_webhook_bridge.store.replays import Count, Replay, Selection

Rate = Annotated[float | None, typer.Option(help="At most so many records a second.", min=0.1)]
Id = Annotated[str, typer.Argument(metavar="ID", help="The replay's id, from `kwb replay list`.")]


def register(app: typer.Typer) -> None:
    """`kwb replay [OPTIONS]`, `kwb replay list|resume|pause`."""
    replay = typer.Typer(invoke_without_command=True)
    app.add_typer(replay, name="replay")

    @replay.callback()
    def default(
        context: typer.Context,
        source: Annotated[str | None, typer.Option(help="Name of the source.")] = None,
        type: Annotated[str | None, typer.Option(help="Event type: orders/create, webhook.erp.")] = None,  # noqa: A002
        key: Annotated[str | None, typer.Option(help="Partition key, for example the order's id.")] = None,
        since: Annotated[str, typer.Option(help="Not older: 15m, 1h, 2d ago, or ISO 8601 (UTC).")] = "",
        until: Annotated[str, typer.Option(help="Older than that. Default: now.")] = "",
        json_contains: Annotated[
            str | None, typer.Option(help='JSON that the body contains: \'{"order": {"id": 1234}}\'.')
        ] = None,
        id: Annotated[list[str] | None, typer.Option(help="One event by its id, repeatable.", metavar="ID")] = None,  # noqa: A002
        ids: Annotated[Path | None, typer.Option(help="File with one event id a line; - is standard input.")] = None,
        everything: Annotated[
            bool, typer.Option("--all", help="Every event there is; no filter goes with it.")
        ] = False,
        to: Annotated[str | None, typer.Option(help="Topic to send to. Default: each event's own.")] = None,
        rate: Rate = None,
        go: Annotated[bool, typer.Option("--run", help="Send them; else only show what would be sent.")] = False,
        json: Json = False,
    ) -> None:
        """Send archived events once more: the same key, value and headers, and `kwb_replay_id`.

        Filters go together; times are those at which the webhook came. Without --run nothing is sent. A search by JSON
        without --since looks back one day. With --json and --run, one line a second and one at the end.
        """
        if context.invoked_subcommand is not None:
            return
        from kafka_webhook_bridge.store.replays import Selection

        now = datetime.now(UTC)
        selection = Selection(
            source=source,
            type=type,
            key=key,
            json=None if json_contains is None else document(json_contains),
            ids=_ids(id or [], ids),
            since=moment("--since", since, now) if since else None,
            until=moment("--until", until, now) if until else None,
        )
        if everything and not (selection.everything and selection.until is None):
            raise UsageError(
                "--all takes every event, so no filter goes with it.", hint="Leave out the one or the other."
            )
        if selection.everything and selection.until is None and not everything:
            raise UsageError("Nothing is selected.", hint="--source, --since, --key …, or --all for every event.")
        if selection.since and selection.until and selection.since >= selection.until:
            raise UsageError("--since is not before --until.")
        closed, out = selection.bounded(now), Output(json=json)
        run(lambda settings, store: _replay(settings, store, closed, to, rate, out, go=go))

    @replay.command("list")
    def list_(json: Json = False) -> None:
        """Replays and rebuilds, the newest first, and how far they are."""
        out = Output(json=json)
        run(lambda _, store: _list(store, out))

    @replay.command()
    def resume(replay_id: Id, rate: Rate = None, json: Json = False) -> None:
        """Go on with one that was paused, or whose process died."""
        wanted, out = _replay_id(replay_id), Output(json=json)
        run(lambda settings, store: work(settings, store, wanted, rate, out))

    @replay.command()
    def pause(replay_id: Id, json: Json = False) -> None:
        """Ask the process that works at it to pause after its batch."""
        wanted, out = _replay_id(replay_id), Output(json=json)
        run(lambda _, store: _pause(store, wanted, out))


def _ids(given: list[str], file: Path | None) -> tuple[uuid.UUID, ...]:
    from kafka_webhook_bridge.store.replays import IDS_MAX

    if file is not None:
        try:
            text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{file}: {getattr(error, 'strerror', None) or 'is not UTF-8 text'}") from None
        given = [*given, *filter(None, map(str.strip, text.splitlines()))]
        if not given:
            raise UsageError(f"{file} names no event.")
    found = tuple(dict.fromkeys(map(event_id_of, given)))
    if len(found) > IDS_MAX:
        raise UsageError(f"{len(found)} ids are too many, at most {IDS_MAX}.", hint="Select by source and time.")
    return found


def _replay_id(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise UsageError(f"{text} is not the id of a replay.", hint="`kwb replay list` shows them.") from None


async def _replay(
    settings: Settings, store: Store, selection: Selection, to: str | None, rate: float | None, out: Output, *, go: bool
) -> None:
    from kafka_webhook_bridge.archive import replay
    from kafka_webhook_bridge.observability.failpoints import failpoint
    from kafka_webhook_bridge.store import replays

    found = await replays.count(store, selection)
    if not go:
        missing = await _missing(settings, [to] if to else sorted(found.events), out)
        _show_plan(selection, found, await replays.sample(store, selection), to, missing, out)
        if missing:
            raise typer.Exit(FOUND_PROBLEM)
        return
    for line in left_out(found.left_out):
        out.note(line, "yellow")
    if not found.total:
        out.line({"state": "nothing", "events": 0, "left_out": found.left_out})
        out.say("No event matches; nothing was sent.")
        return
    replay_id = await replay.create(settings, store, selection, found, to=to, rate=rate)
    failpoint("replay.stored")
    await work(settings, store, replay_id, None, out)


async def _missing(settings: Settings, topics: list[str], out: Output) -> list[str] | None:
    """Topics that --run would write to and that are not there; None while Kafka does not tell."""
    from kafka_webhook_bridge.archive import replay

    try:
        return await replay.missing(settings, topics) if topics else []
    except (ConfigError, KafkaError) as error:
        out.note(f"Whether the topics are there is not known: {error.message}", "yellow")
        return None


def _show_plan(
    selection: Selection, found: Count, sample: list[Any], to: str | None, missing: list[str] | None, out: Output
) -> None:
    from kafka_webhook_bridge import ids

    times = [ids.moment(ids.time_ms(i)) for i in (found.first_id, found.last_id) if i is not None]
    out.data(
        {
            "dry_run": True,
            "events": found.total,
            "size_bytes": found.size_bytes,
            "first": iso(times[0]) if times else None,
            "last": iso(times[1]) if times else None,
            "since": iso(selection.since) if selection.since else None,
            "until": iso(selection.until) if selection.until else None,
            "topics": {topic: {"events": count, "to": to or topic} for topic, count in sorted(found.events.items())},
            "missing_topics": missing,
            "left_out": found.left_out,
            "sample": [{**row, "received_at": iso(row["received_at"])} for row in sample],
        }
    )
    if times:
        out.say(f"{events(found.total)}, {size(found.size_bytes)} of bodies", "bold")
        out.say(f"received {short(times[0])} to {short(times[1])} (UTC)")
        for topic, count in sorted(found.events.items()):
            out.say(f"{count:,} from {topic} to {to or topic}")
        out.say()
        columns = ("event", "received (UTC)", "source", "type", "key", "bytes")
        head, *lines = aligned(
            [
                columns,
                *(
                    (
                        str(row["event_id"]), short(row["received_at"]),
                        *(cell(row[column]) for column in ("source", "type", "key")), str(row["body_bytes"]),
                    )
                    for row in sample
                ),
            ]
        )  # fmt: skip
        out.say(head, "bold")
        for line in lines:
            out.say(line)
        if found.total > len(sample):
            out.say(f"… {found.total - len(sample):,} more")
    else:
        out.say("No event matches.")
    for line in left_out(found.left_out):
        out.note(line, "yellow")
    for topic in missing or ():
        out.note(f"There is no topic {topic}, so --run would be refused.", "bold yellow")
        lost = f"A topic that was lost is made anew by `kwb rebuild {topic}`; --to sends to another one."
        out.note(f"hint: {'Make it, or correct --to.' if to else lost}", "cyan")
    if times and not missing:
        out.note(f"Nothing was sent. To send them: {_command(selection, to)}")


def _command(selection: Selection, to: str | None) -> str:
    """The command that does what was shown. Times are written out, so that it is the same selection."""
    if selection.ids:
        return "the same command with --run"
    options = {
        "--source": selection.source,
        "--type": selection.type,
        "--key": selection.key,
        "--since": iso(selection.since) if selection.since else None,
        "--until": iso(selection.until) if selection.until else None,
        "--json-contains": selection.json,
        "--to": to,
    }
    given = [f"{name}={value}" for name, value in options.items() if value is not None]
    return shlex.join(["kwb", "replay", *given, "--run"])


async def _list(store: Store, out: Output) -> None:
    from kafka_webhook_bridge.store import replays

    found = await replays.newest(store)
    out.data([_described(one) for one in found])
    if not found:
        out.note("There are no replays yet.")
        return
    columns = ("id", "kind", "state", "passed")
    cells = [(str(one.replay_id), one.kind, one.shown, f"{one.passed:,} of {one.events:,}") for one in found]
    head, *lines = aligned([columns, *cells])
    out.say(head, "bold")
    for one, line in zip(found, lines, strict=True):
        out.say(line)
        out.say(f"    begun {short(one.created_at)} (UTC), to {one.to_topic or 'their topics'}", "dim")
        if one.duplicates:
            out.say(f"    {one.duplicates:,} duplicates", "yellow")
        if one.reason:
            out.say(f"    reason: {one.reason}", "yellow")


def _described(one: Replay) -> dict[str, Any]:
    return {
        "replay_id": one.replay_id,
        "kind": one.kind,
        "state": one.shown,
        "events": one.events,
        "size_bytes": one.size_bytes,
        "passed": one.passed,
        "found": one.found,
        "duplicates": one.duplicates,
        "recoveries": one.recoveries,
        "to": one.to_topic,
        "rate": one.rate,
        "reason": one.reason,
        "created_at": iso(one.created_at),
        "updated_at": iso(one.updated_at),
    }


async def _pause(store: Store, replay_id: uuid.UUID, out: Output) -> None:
    from kafka_webhook_bridge.store import replays

    asked = await replays.ask_pause(store, replay_id)
    one = await replays.get(store, replay_id)
    if one is None:
        raise ReplayError(f"There is no replay {replay_id}.", hint="`kwb replay list` shows them.")
    out.data({"replay_id": replay_id, "asked": asked, "state": one.shown})
    if not asked:
        out.say(f"Nobody works at it; it is {one.shown}.")
        raise typer.Exit(FOUND_PROBLEM)
    out.say("Asked; it pauses after its batch.")
