"""Work that must not end by itself: when it does, the process says so and ends, and its supervisor starts a new one.

A task that died unseen would leave a process that answers and is not what it claims to be.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

from kafka_webhook_bridge.observability import logs


class Background:
    """The background tasks of one process. Whoever owns the process waits for `died`."""

    def __init__(self, room: str) -> None:
        self.died = asyncio.Event()
        self._log = logs.get_logger(room)
        self._loop = asyncio.get_running_loop()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    def start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run `work` until `cancel`."""
        task = self._loop.create_task(work, name=name)
        task.add_done_callback(self._ended)
        self._tasks.append(task)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.fault(task.get_name(), None if task.cancelled() else task.exception())

    def fault(self, name: str, error: BaseException | None) -> None:
        """Something that works in the background has ended; call it on the loop."""
        if self._stopping:
            return
        self._log.error("background task ended", task=name, exc_info=error)
        self.died.set()

    def fault_in_thread(self, name: str, error: BaseException) -> None:
        """As `fault`, from another thread."""
        self._loop.call_soon_threadsafe(self.fault, name, error)

    def let_end(self) -> None:
        """The end is meant from now on."""
        self._stopping = True

    def cancel(self) -> None:
        """Stop them all."""
        self.let_end()
        for task in self._tasks:
            task.cancel()


async def until(stop: asyncio.Event, work: Coroutine[Any, Any, None], last_s: float) -> None:
    """Run `work` to its end; after `stop` for at most `last_s` seconds more. Its error is raised."""
    task, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({task}, timeout=last_s)
    finally:
        stopping.cancel()
        task.cancel()
        await asyncio.wait({task})
    if not task.cancelled():
        task.result()


async def pause(stop: asyncio.Event, seconds: float) -> None:
    """So long, or until `stop`. Not by wait_for: before Python 3.12 it may lose a cancellation."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()
