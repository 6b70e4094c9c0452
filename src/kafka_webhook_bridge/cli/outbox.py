"""`kwb outbox`: what PostgreSQL vouches for until Kafka has it, why it waits, and letting go what is held."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from kafka_webhook_bridge.cli.events import aligned, cell
from kafka_webhook_bridge.cli.output import FOUND_PROBLEM, Json, Output
from kafka_webhook_bridge.cli.resending import events, size
from kafka_webhook_bridge.errors import UsageError
from kafka_webhook_bridge.times import iso, short

if TYPE_CHECKING:
    import uuid

    from kafka_webhook_bridge.store.relay import Count, Halt


def register(app: typer.Typer) -> None:
    """`kwb outbox [list]`, `kwb outbox release`."""
    outbox = typer.Typer(invoke_without_command=True)
    app.add_typer(outbox, name="outbox")

    @outbox.callback()
    def default(context: typer.Context, json: Json = False) -> None:
        """What waits for Kafka, and letting go what is held."""
        if context.invoked_subcommand is None:
            list_outbox(Output(json=json))

    @outbox.command("list")
    def list_(json: Json = False) -> None:
        """Events by state, topic and reason."""
        list_outbox(Output(json=json))

    @outbox.command()
    def release(
        event_id: Annotated[
            str, typer.Argument(help="One event; else all that the options name.", metavar="[ID]")
        ] = "",
        topic: Annotated[str | None, typer.Option(help="Only of this topic.")] = None,
        reason: Annotated[str | None, typer.Option(help="Only with this reason: MSG_SIZE_TOO_LARGE.")] = None,
        quarantined: Annotated[bool, typer.Option("--quarantined", help="Only quarantined ones.")] = False,
        blocked: Annotated[bool, typer.Option("--blocked", help="Only blocked ones.")] = False,
        everything: Annotated[bool, typer.Option("--all", help="All that are quarantined or blocked.")] = False,
        json: Json = False,
    ) -> None:
        """Let the relay try blocked and quarantined events again.

        One that fails as before is held again. The bridge itself releases blocked ones when their topic is there.
        """
        if not (event_id or topic or reason or quarantined or blocked or everything):
            raise UsageError("Say which: an event id, --topic, --reason, --quarantined, --blocked or --all.")
        states: list[Halt] = []
        if blocked or not quarantined:
            states.append("blocked")
        if quarantined or not blocked:
            states.append("quarantined")
        found = _event_id(event_id) if event_id else None
        release_events(Output(json=json), states, topic, reason, found)


def list_outbox(out: Output) -> None:
    counts = _counts()
    out.data([_described(count) for count in counts])
    if not counts:
        out.note("The outbox is empty: Kafka has everything.")
        return
    columns = ("state", "events", "oldest (UTC)", "topic")
    head, *lines = aligned([columns, *((c.state, f"{c.rows:,}", short(c.oldest), cell(c.topic)) for c in counts)])
    out.say(head, "bold")
    for count, line in zip(counts, lines, strict=True):
        out.say(line)
        out.say(f"    {_besides(count)}", "dim")
    for topic in sorted({c.topic for c in counts if c.reason == "UNKNOWN_TOPIC"}):
        out.note(f"{topic} is gone: `kwb rebuild {topic}` makes it anew with its events; what waits here follows.")
    if any(count.state != "waiting" for count in counts):
        out.note("What to do about blocked and quarantined events: docs/howto/outbox.md")


def _described(count: Count) -> dict[str, Any]:
    """For machines, named as in `kwb replay`."""
    return {
        "state": count.state,
        "topic": count.topic,
        "reason": count.reason,
        "events": count.rows,
        "size_bytes": count.bytes,
        "oldest": iso(count.oldest),
        "attempts": count.attempts,
        "strict": count.strict,
    }


def _besides(count: Count) -> str:
    """What the line of a state and topic has no room for."""
    facts = [size(count.bytes), f"{count.attempts:,} attempt{'s'[: count.attempts != 1]}"]
    facts += ["strict order"] if count.strict else []
    return ", ".join([*([count.reason] if count.reason else []), *facts])


def release_events(
    out: Output, states: list[Halt], topic: str | None, reason: str | None, event_id: uuid.UUID | None
) -> None:
    import asyncio

    from kafka_webhook_bridge.settings import load_settings
    from kafka_webhook_bridge.store import Store
    from kafka_webhook_bridge.store.relay import Outbox

    settings = load_settings()

    async def release() -> int:
        async with Store(settings.store) as store:
            outbox, released = Outbox(store, settings.relay.statement_timeout_ms), 0
            held = sum(
                count.rows
                for count in await outbox.counts()
                if count.state in states and topic in (None, count.topic) and reason in (None, count.reason)
            )
            while released < held:  # no more: a relay at work may hold again what was let go
                rows = await outbox.release(states, topic=topic, reason=reason, event_id=event_id, strict=True)
                released += rows
                if not rows or event_id is not None:
                    break
            return released

    released = asyncio.run(release())
    out.data({"released": released})
    out.say(f"The relay tries {events(released)} again.")
    if not released:
        out.note("Nothing that is held matches; `kwb outbox list` shows what there is.")
        raise typer.Exit(FOUND_PROBLEM)


def _counts() -> list[Count]:
    import asyncio

    from kafka_webhook_bridge.settings import load_settings
    from kafka_webhook_bridge.store import Store
    from kafka_webhook_bridge.store.relay import Outbox

    settings = load_settings()

    async def read() -> list[Count]:
        async with Store(settings.store) as store:
            return await Outbox(store, settings.relay.statement_timeout_ms).counts()

    return asyncio.run(read())


def _event_id(text: str) -> uuid.UUID:
    from kafka_webhook_bridge import ids

    found = ids.parse(text.strip().lower())
    if found is None:
        raise UsageError(f"{text} is not an event id.")
    return found
