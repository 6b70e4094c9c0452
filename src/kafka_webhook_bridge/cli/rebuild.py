"""`kwb rebuild`: a lost topic made anew out of the archive, with the same ids in the same order."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from kafka_webhook_bridge.cli.output import Json, Output
from kafka_webhook_bridge.cli.resending import events, left_out, run, size, work
from kafka_webhook_bridge.times import iso, moment

if TYPE_CHECKING:
    from kafka_webhook_bridge.settings import Settings
    from kafka_webhook_bridge.store import Store


def register(app: typer.Typer) -> None:
    @app.command()
    def rebuild(
        topic: Annotated[str, typer.Argument(help="The topic that was lost.")],
        since: Annotated[
            str, typer.Option(help="Only events not older: 7d ago, or ISO 8601 (UTC). Default: all there are.")
        ] = "",
        rate: Annotated[float | None, typer.Option(help="At most so many records a second.", min=0.1)] = None,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Show what would be written, and nothing else.")
        ] = False,
        json: Json = False,
    ) -> None:
        """Make a lost topic anew out of PostgreSQL: the same records and ids, each in its old partition, in order.

        A topic that has records is refused. After Ctrl-C or a crash the same command goes on. Webhooks may come
        meanwhile. Events that wait in the outbox were never in the topic; the bridge sends them itself.
        """
        out = Output(json=json)
        begin = moment("--since", since, datetime.now(UTC)) if since else None
        run(lambda settings, store: _rebuild(settings, store, topic, begin, rate, out, dry_run=dry_run))


async def _rebuild(
    settings: Settings,
    store: Store,
    topic: str,
    since: datetime | None,
    rate: float | None,
    out: Output,
    *,
    dry_run: bool,
) -> None:
    from kafka_webhook_bridge.archive import rebuild

    planned = await rebuild.plan(settings, store, topic, since)
    found = planned.found
    if planned.unfinished is not None:
        out.note(f"Going on with the rebuild {planned.unfinished}.")
    if dry_run:
        out.data(
            {
                "dry_run": True,
                "topic": topic,
                "events": found.events,
                "size_bytes": found.size_bytes,
                "partitions": found.partitions,
                "left_out": dict(found.left_out),
                "unfinished": planned.unfinished,
            }
        )
        out.say(f"{events(found.events)}, {size(found.size_bytes)} of bodies, {found.partitions} partitions", "bold")
    for line in left_out(dict(found.left_out)):
        out.note(line, "yellow")
    if dry_run:
        begin = f" --since={iso(since)}" if since else ""
        out.note(f"Nothing was written. To write them: kwb rebuild {topic}{begin}")
        return
    await work(settings, store, await rebuild.create(store, planned, rate), rate, out)
