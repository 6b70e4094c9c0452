"""`kwb audit`: prove that nothing was lost, or show what was."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kafka_webhook_bridge.cli.beat import Beat
from kafka_webhook_bridge.cli.fates import ANSWERS, FATES, VERDICTS
from kafka_webhook_bridge.cli.output import FOUND_PROBLEM, Json, Output
from kafka_webhook_bridge.cli.resending import events
from kafka_webhook_bridge.errors import UsageError
from kafka_webhook_bridge.times import iso, moment

if TYPE_CHECKING:
    from kafka_webhook_bridge.archive.audit import Asked, Result
    from kafka_webhook_bridge.archive.verdicts import Fate, Verdicts, Window

_STEPS = {
    "receipts": "reading receipts",
    "waiting": "waiting for outbox and archive",
    "kafka": "reading Kafka",
    "postgresql": "reading PostgreSQL",
}
_PROBLEMS = ("lost", "missing_in_kafka", "missing_in_archive", "corrupt", "rejected_but_stored")
_SHOWN = (*_PROBLEMS, "spurious", "duplicated")
_OF_RECEIPTS = ("rejected_but_stored", "spurious")
_KAFKA_ALONE: dict[Fate, str] = {"stored": "in Kafka", "lost": "acknowledged, and not in Kafka"}


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
        result = run(asked, out)
        show(result, out)
        if not result.verdicts.sound:
            raise typer.Exit(FOUND_PROBLEM)


def run(asked: Asked, out: Output) -> Result:
    """The audit itself, with a bar on a terminal, and a line now and then elsewhere."""
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

    beat = Beat(out)

    def say(step: str, done: float, total: float) -> None:
        if total:
            beat.say(f"{_STEPS[step]}: {min(done / total, 1):.0%}")

    with _bar() if not out.json and sys.stderr.isatty() else contextlib.nullcontext(say) as told:
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
        "fates": {fate: found.fates[fate] for fate in FATES},
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
        "topics_gone": result.gone,
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
        told = [(answer, f"{getattr(found, answer):,}", words) for answer, words in ANSWERS.items()]
        out.table(("receipts", "requests", "meaning"), told, whole=("receipts", "requests"))
    words = FATES if found.archive else _KAFKA_ALONE
    fates = [(fate, f"{found.fates[fate]:,}", text) for fate, text in words.items() if found.fates[fate]]
    out.table(("fate", "events", "meaning"), [*fates, ("all", f"{found.events:,}", None)], whole=("fate", "events"))
    out.table(("verdict", "number", "meaning"), _verdicts(found), whole=("verdict", "number"))
    for verdict in _SHOWN:
        if ids := found.examples.get(verdict):
            out.say(f"{verdict}: {', '.join(ids)}")
            for event_id in ids:
                if places := found.places.get(event_id):
                    out.say(f"  {event_id} at {', '.join(map(str, places))}")
    for topic, count in result.gone.items():
        out.note(f"The topic {topic} is gone: {events(count)} of it in PostgreSQL alone.", "bold yellow")
        out.note(f"hint: `kwb rebuild {topic}` makes it anew, with its events.", "cyan")
    where = f"{found.records:,} records of {_names(result.topics, 'topic')}, {found.rows:,} rows"
    if result.lag_records:
        out.note(f"The archive was {result.lag_records:,} records behind Kafka; --wait lets it catch up.", "yellow")
    if found.sound and not found.events:
        out.say("Nothing is missing, but there was no event either.", "yellow")
    elif found.sound and not result.gone:
        out.say(f"Nothing is lost: {found.events:,} events in {where}.", "bold green")
    elif found.sound:
        out.say(
            f"Nothing is lost, but {events(sum(result.gone.values()))} of {found.events:,} are in PostgreSQL alone: "
            f"{_names([*result.gone], 'topic')} {'is' if len(result.gone) == 1 else 'are'} gone.",
            "bold yellow",
        )
    else:
        out.say(f"Not all is well: {found.events:,} events in {where}.", "bold red")


def _verdicts(found: Verdicts) -> list[tuple[str, str, str]]:
    rows = []
    for verdict, words in VERDICTS.items():
        count: int = getattr(found, verdict)
        if verdict == "duplicated":
            words += f"; {found.extra_records:,} records too many"
        elif verdict == "corrupt":
            words += f"; key or headers of {found.corrupt_labels:,}"
        if (found.receipts or verdict not in _OF_RECEIPTS) and (count or verdict != "replayed"):
            rows.append((verdict, f"{count:,}", words))
    return rows


def _names(names: list[str], what: str) -> str:
    return f"{what} {names[0]}" if len(names) == 1 else f"{len(names)} {what}s"
