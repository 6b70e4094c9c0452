"""Keeps servers running: starts them side by side, starts again what dies, stops them in order.

Starting blocks for seconds, so each start has a thread of its own and the owner looks in with `look`. The threads are
daemons: an owner that leaves is not held back, and what they started goes with it (see process.py).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from kafka_webhook_bridge.errors import StackError
from kafka_webhook_bridge.stack.server import Server

RESTART_FIRST_S = 0.5
RESTART_MAX_S = 30.0
_STEADY_S = 60.0
_LATE_START_S = 5.0


@dataclass
class _Kept:
    server: Server
    starting: Future[None] | None = None
    since: float = field(default_factory=time.monotonic)
    wait_s: float = RESTART_FIRST_S
    retry_at: float | None = None
    told: str = ""


class Keeper:
    """`tell(server, what)` says what happened in a sentence for people."""

    def __init__(self, tell: Callable[[Server, str], None]) -> None:
        self._kept: list[_Kept] = []
        self._tell = tell
        self._begun: list[Future[None]] = []
        self._killed = False

    def keep(self, server: Server) -> None:
        """From now on: a server that runs. It is stopped before those kept earlier."""
        self._kept.append(_Kept(server))

    def begin(self, start: Callable[[], None]) -> Future[None]:
        """Run a start of kept servers in a thread, so that `stop` knows of it."""
        self._begun = [future for future in self._begun if not future.done()]
        self._begun.append(in_thread(start))
        return self._begun[-1]

    def look(self) -> None:
        """Notice deaths and starts that ended; begin the starts that are due. Never blocks."""
        now = time.monotonic()
        for one in self._kept:
            if one.starting is not None:
                if one.starting.done():
                    self._started(one, now)
            elif one.retry_at is not None:
                if now >= one.retry_at:
                    one.retry_at = None
                    one.starting = self.begin(one.server.start)
            elif not one.server.alive:
                if now - one.since > _STEADY_S:
                    one.wait_s = RESTART_FIRST_S
                self._again_later(one, one.server.failure(), now)
            else:
                one.server.trim_log()

    def _started(self, one: _Kept, now: float) -> None:
        assert one.starting is not None
        error, one.starting = one.starting.exception(), None
        if error is None:
            one.since, one.told = now, ""
            self._tell(one.server, f"{one.server.name} is up again")
        elif isinstance(error, StackError):
            self._again_later(one, error, now)
        else:
            raise error

    def _again_later(self, one: _Kept, why: StackError, now: float) -> None:
        if why.message != one.told:  # the same sentence again every 30 seconds tells nothing new
            self._tell(one.server, f"{why.message.rstrip('.')}; starting it again. {why.hint}".rstrip())
            one.told = why.message
        one.retry_at = now + one.wait_s
        one.wait_s = min(2 * one.wait_s, RESTART_MAX_S)

    def stop(self) -> None:
        """Cleanly: the one kept last first, since it uses the others; those before it side by side.

        A start under way fails once its server is stopped, or it is about to run one: then that is stopped too.
        """
        deadline = time.monotonic() + _LATE_START_S
        self._stop_once()
        while not (self._killed or time.monotonic() > deadline or all(future.done() for future in self._begun)):
            time.sleep(0.05)
            self._stop_once()

    def _stop_once(self) -> None:
        servers = [one.server for one in self._kept]
        if servers:
            servers.pop().stop()
        together([server.stop for server in servers])

    def kill(self) -> None:
        """All at once, at once. They recover at the next start: nothing acknowledged is lost."""
        self._killed = True
        together([one.server.kill for one in self._kept])


def in_thread(call: Callable[[], None]) -> Future[None]:
    """Run `call` in a daemon thread."""
    future: Future[None] = Future()

    def run() -> None:
        try:
            call()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(None)

    threading.Thread(target=run, daemon=True, name=getattr(call, "__qualname__", "start")).start()
    return future


def together(calls: Sequence[Callable[[], None]]) -> None:
    """Run all side by side and wait for all; then raise the first error."""
    futures = [in_thread(call) for call in calls]
    errors = [error for future in futures if (error := future.exception()) is not None]
    if errors:
        raise errors[0]
