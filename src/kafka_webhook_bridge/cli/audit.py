"""`kwb audit`: prove that nothing was lost, or show what was."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kafka_webhook_bridge.cli.output import FOUND_PROBLEM, Json, Output
from kafka_webhook_bridge.cli.times import iso, moment
from kafka_webhook_bridge.errors import UsageError

if TYPE_CHECKING:
    from kafka_webhook_bridge.archive.audit import Asked, Result
    from kafka_webhook_bridge.archive.verdicts import Verdicts, Window

_STEPS = {
    "receipts": "reading receipts",
    "waiting": "waiting for outbox and archive",
    "kafka": "reading Kafka",
    "postgresql": "reading PostgreSQL",
}
_FATES = {
    "stored": "in Kafka and in PostgreSQL",
    "not_archived_yet": "in Kafka, not archived yet",
    "waiting": "in PostgreSQL, waiting for Kafka",
    "quarantined": "in PostgreSQL, quarantined",
    "before_log_start": "in PostgreSQL, Kafka's log begins later",
    "expired": "older than the archive keeps events",
    "missing_in_kafka": "missing in Kafka",
    "missing_in_archive": "missing in PostgreSQL",
    "lost": "LOST: in neither",
}
_PROBLEMS = ("lost", "missing_in_kafka", "missing_in_archive", "corrupt", "rejected_but_stored")
_SHOWN = (*_PROBLEMS, "spurious", "duplicated")


def register(app: typer.Typer) -> None:
    """`kwb audit`."""

    @app.command()
    def audit(
        receipts: Annotated[
            list[Path] | None,
            typer.Option("--receipts", help="File of `kwb send --receipts`, repeatable.", metavar="FILE"),
        ] = None,
        source: Annotated[str, typer.Option(help="Only this source.")] = "",
        since: Annotated[str, typer.Option(help="Only from then on: 15m, 1h, 2d ago, or ISO 8601 (UTC).")] = "",
        until: Annotated[str, typer.Option(help="Only before that.")] = "",
        wait: Annotated[bool, typer.Option("--wait", help="First let the outbox and the archive catch up.")] = False,
        json: Json = False,
    ) -> None:
        """Reconcile receipts, Kafka and PostgreSQL: what is lost, changed, there twice, or there without a reason.

        Without receipts, Kafka and PostgreSQL are compared with each other. Only reads. Exit code 1 when anything is
        missing, changed, or stored although it was refused.
        """
        from kafka_webhook_bridge.archive.audit import Asked

        now = datetime.now(UTC)
        since_ms, until_ms = (
            int(moment(option, text, now).timestamp() * 1000) if text else None
            for option, text in (("--since", since), ("--until", until))
        )
        if since_ms is not None and until_ms is not None and since_ms >= until_ms:
            raise UsageError("--since is not before --until.")
        asked = Asked(tuple(receipts or ()), source or None, since_ms, until_ms, wait)
        if len(set(asked.receipts)) < len(asked.receipts):
            raise UsageError("--receipts names a file twice.")
        out = Output(json)
        result = run(asked, progress=not json and sys.stderr.isatty())
        show(result, out)
        if not result.verdicts.sound:
            raise typer.Exit(FOUND_PROBLEM)


def run(asked: Asked, *, progress: bool) -> Result:
    """The audit itself, with a bar on a terminal."""
    import asyncio

    from kafka_webhook_bridge.archive.audit import Audit
    from kafka_webhook_bridge.settings import load_settings
    from kafka_webhook_bridge.sources.config import load_sources
    from kafka_webhook_bridge.store import Store

    settings = load_settings()
    sources = load_sources(settings)

    async def work(told: Callable[[str, float, float], None]) -> Result:
        if settings.store.url is None:
            return await Audit(settings, sources, None, asked, told).run()
        async with Store(settings.store) as store:
            return await Audit(settings, sources, store, asked, told).run()

    with _bar() if progress else contextlib.nullcontext(lambda *_: None) as told:
        return asyncio.run(work(told))


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[str, float, float], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    with Progress(
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(),
        console=Console(stderr=True), transient=True,
    ) as bar:  # fmt: skip
        tasks = {step: bar.add_task(words, total=None, visible=False) for step, words in _STEPS.items()}

        def told(step: str, done: float, total: float) -> None:
            bar.update(tasks[step], completed=done, total=total, visible=True)

        yield told


# ---- the result ------------------------------------------------------------------------------------------------------


def described(result: Result) -> dict[str, Any]:
    """The result for machines."""
    found = result.verdicts
    return {
        "sound": found.sound,
        "receipts": {
            "acknowledged": found.acknowledged,
            "suppressed": found.suppressed,
            "refused": found.refused,
            "unknown_present": found.unknown_present,
            "unknown_absent": found.unknown_absent,
            "incomplete_files": [str(path) for path in result.incomplete],
        }
        if found.receipts
        else None,
        "events": found.events,
        "fates": {fate: found.fates[fate] for fate in _FATES},  # type: ignore[index]
        "lost": found.lost,
        "missing": found.missing,
        "corrupt": found.corrupt,
        "corrupt_in_kafka": found.corrupt_in_kafka,
        "corrupt_in_archive": found.corrupt_in_archive,
        "corrupt_key_or_headers": found.corrupt_labels,
        "rejected_but_stored": found.rejected_but_stored,
        "spurious": found.spurious,
        "duplicated": found.duplicated,
        "extra_records": found.extra_records,
        "replayed": found.replayed,
        "records": found.records,
        "rows": found.rows,
        "examples": found.examples,
        "places": {event_id: [at._asdict() for at in places] for event_id, places in found.places.items()},
        "sources": result.sources,
        "topics": result.topics,
        "windows": [_window(window) for window in result.windows],
        "lag_records": result.lag_records,
        "notes": result.notes,
    }


def _window(window: Window) -> dict[str, Any]:
    from kafka_webhook_bridge.ids import moment as at

    return {
        "source": window.source,
        "since": iso(at(window.low_ms)) if window.low_ms > 0 else None,
        "until": iso(at(window.high_ms)),
        "complete": window.complete,
    }


def show(result: Result, out: Output) -> None:
    found = result.verdicts
    out.data(described(result))
    for note in result.notes:
        out.note(note, "yellow")
    if found.receipts:
        rows = [("acknowledged", found.acknowledged)]
        rows += [("  of them duplicates of another", found.suppressed)] if found.suppressed else []
        rows += [("refused", found.refused)]
        rows += [("unknown, and there", found.unknown_present), ("unknown, and not there", found.unknown_absent)]
        out.table(("requests in the receipts", "number"), [(name, f"{count:,}") for name, count in rows])
    words = _FATES if found.archive else {"stored": "in Kafka", "lost": "LOST: not in Kafka"}
    fates = [(text, found.fates[fate]) for fate, text in words.items()]  # type: ignore[index]
    rows = [*[row for row in fates if row[1]], ("together", found.events)]
    out.table(("events", "number"), [(name, f"{count:,}") for name, count in rows])
    out.table(("verdict", "number", "meaning"), [(name, f"{count:,}", said) for name, count, said in _verdicts(found)])
    for verdict in _SHOWN:
        if ids := found.examples.get(verdict):
            out.say(f"{verdict.replace('_', ' ')}: {', '.join(ids)}")
            for event_id in ids:
                if places := found.places.get(event_id):
                    out.say(f"  {event_id} at {', '.join(map(str, places))}")
    where = f"{found.records:,} records of {_names(result.topics, 'topic')}, {found.rows:,} rows"
    if result.lag_records:
        out.note(f"The archive was {result.lag_records:,} records behind Kafka; --wait lets it catch up.", "yellow")
    if found.sound and not found.events:
        out.say("Nothing is missing, but there was no event either.", "yellow")
    elif found.sound:
        out.say(f"Nothing is lost: {found.events:,} events in {where}.", "bold green")
    else:
        out.say(f"Not all is well: {found.events:,} events in {where}.", "bold red")


def _verdicts(found: Verdicts) -> list[tuple[str, int, str]]:
    rows = [
        ("lost", found.lost, "acknowledged, and in neither place"),
        ("missing", found.missing - found.lost, "in one place, and must be in both"),
        ("corrupt", found.corrupt, f"body, key or headers are others; key or headers of {found.corrupt_labels:,}"),
        ("duplicated", found.duplicated, f"more than one record; {found.extra_records:,} records too many"),
    ]
    if found.receipts:
        rows.insert(3, ("rejected but stored", found.rejected_but_stored, "answered 4xx, and there"))
        rows.insert(4, ("spurious", found.spurious, "in the receipts' time and source, and not theirs"))
    if found.replayed:
        rows.append(("replayed", found.replayed, "records of replays and rebuilds; no duplicates"))
    return rows


def _names(names: list[str], what: str) -> str:
    return f"{what} {names[0]}" if len(names) == 1 else f"{len(names)} {what}s"
