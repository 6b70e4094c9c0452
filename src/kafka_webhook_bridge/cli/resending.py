"""A replay or a rebuild at work in this terminal: progress, Ctrl-C, and what came of it."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
import uuid
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import typer

from kafka_webhook_bridge.cli.beat import Beat
from kafka_webhook_bridge.cli.fates import STATES
from kafka_webhook_bridge.cli.output import Output, safe

if TYPE_CHECKING:
    from kafka_webhook_bridge.archive.resend import Progress
    from kafka_webhook_bridge.settings import Settings
    from kafka_webhook_bridge.store import Store
    from kafka_webhook_bridge.store.replays import Replay

PAUSED = 130  # exit status, as after Ctrl-C
_LINE_EVERY_S = 1.0  # with --json
_UNITS = ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB"))


def size(size_bytes: int) -> str:
    """`1.5 MiB`, for people."""
    for unit, name in _UNITS:
        if size_bytes >= unit:
            return f"{size_bytes / unit:.1f} {name}"
    return f"{size_bytes} bytes"


def events(count: int) -> str:
    """`1 event`, `1,234 events`."""
    return f"{count:,} event{'s'[: count != 1]}"


def left_out(states: dict[str, int]) -> list[str]:
    """What becomes of events that never reached Kafka."""
    return [f"{events(count)} left out, {state}: {STATES.get(state, '')}" for state, count in sorted(states.items())]


class Shown:
    """Progress on the terminal, as lines of JSON, or as a line now and then where nobody watches."""

    def __init__(self, out: Output, resume: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._resume = resume
        self._told = -_LINE_EVERY_S
        self._reason = ""
        self._bar: Any = None
        self._task: Any = None
        self._clock = clock
        self._beat = Beat(out, clock)

    def begin(self, one: Replay) -> None:
        self._out.note(f"{one.kind} {one.replay_id}; Ctrl-C pauses it. After a crash: {self._resume}")
        if not self._out.json and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), console=Console(stderr=True),
            )  # fmt: skip
            self._task = self._bar.add_task("running", total=one.events, completed=one.passed, rate="")
            self._bar.start()

    def tell(self, progress: Progress) -> None:
        now = self._clock()
        if progress.doing != "running" or now - self._told >= _LINE_EVERY_S:
            self._out.line(described(progress))
            self._told = now
        if self._bar is not None:
            speed = self._bar.tasks[0].speed
            rate = f"{speed:,.0f}/s" if speed else ""
            self._bar.update(self._task, description=progress.doing, completed=progress.passed, rate=rate)
        elif progress.doing not in ("paused", "done"):
            self._beat.say(f"{progress.doing}: {progress.passed:,} of {events(progress.events)} passed")
        if progress.reason != self._reason:
            self._reason = progress.reason
            if progress.reason:
                self.note(f"{progress.doing}: {progress.reason}")

    def note(self, text: str) -> None:
        """A line above the bar."""
        if self._bar is not None:
            self._bar.console.print(safe(text), markup=False, highlight=False, style="yellow")
        else:
            self._out.note(text, "yellow")

    def end(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def described(progress: Progress) -> dict[str, Any]:
    """For machines."""
    return {
        "replay_id": progress.replay_id,
        "state": progress.doing,
        "events": progress.events,
        "passed": progress.passed,
        "found": progress.found,
        "duplicates": progress.duplicates,
        "reason": progress.reason or None,
    }


async def work(settings: Settings, store: Store, replay_id: uuid.UUID, rate: float | None, out: Output) -> None:
    """Until it is done or paused. Raises typer.Exit(PAUSED) after a pause, and whatever keeps it from going on."""
    from kafka_webhook_bridge.archive.rebuild import RebuildWork
    from kafka_webhook_bridge.archive.replay import ReplayWork
    from kafka_webhook_bridge.errors import KwbError, ReplayError
    from kafka_webhook_bridge.store import replays

    one = await replays.get(store, replay_id)
    if one is None:
        raise ReplayError(f"There is no replay {replay_id}.", hint="`kwb replay list` shows them.")
    resume = f"kwb replay resume {replay_id}" if one.kind == "replay" else f"kwb rebuild {one.to_topic}"
    kind = ReplayWork if one.kind == "replay" else RebuildWork
    shown, stop, loop = Shown(out, resume), asyncio.Event(), asyncio.get_running_loop()
    signals = (signal.SIGINT, signal.SIGTERM)

    def pause() -> None:
        stop.set()
        for one_signal in signals:  # the second one ends it at once
            loop.remove_signal_handler(one_signal)
            signal.signal(one_signal, signal.default_int_handler)
        shown.note("Pausing after this batch.")

    for one_signal in signals:
        loop.add_signal_handler(one_signal, pause)
    shown.begin(one)
    try:
        progress = await kind(settings, store, one, rate=rate, stop=stop, tell=shown.tell).run()
    except KwbError as error:
        if one.state != "done":
            error.hint = f"{error.hint} Then go on: {resume}".strip()
        raise
    finally:
        shown.end()
    if progress.doing == "paused":
        out.say(f"Paused after {progress.passed:,} of {events(progress.events)}. Go on: {resume}", "yellow")
        raise typer.Exit(PAUSED)
    out.say(f"Done: {events(progress.passed)} to {one.to_topic or 'their topics'}.", "bold green")
    if progress.found:
        out.say(f"{events(progress.found)} of them were there already, from a process that died.")
    if progress.duplicates:
        out.say(f"{progress.duplicates:,} duplicates: the broker stalled and wrote them later.", "yellow")
    if progress.passed < progress.events:
        out.say(f"{events(progress.events - progress.passed)} selected are no longer in the archive.", "yellow")


def run(main: Callable[[Settings, Store], Coroutine[Any, Any, None]]) -> None:
    """`main` with the settings and an open store."""
    from kafka_webhook_bridge.settings import load_settings
    from kafka_webhook_bridge.store import Store

    settings = load_settings()

    async def inside() -> None:
        async with Store(settings.store) as store:
            await main(settings, store)

    asyncio.run(inside())
