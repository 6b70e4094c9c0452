"""Places between two durable steps where a test kills, stops or fails the process. Nothing outside tests (rules.md 33).

    KWB_FAIL="relay.acked:kill,outbox.committed:stop:3,deliveries.claimed:raise:0.01"

`kill` and `stop` send the process that signal, so a stopped one is seen in /proc and goes on with SIGCONT; `raise`
raises Failure. The third part is the hit at which it happens, once (1 unless given), or a probability for every hit.
Read only in a process that a test harness started. Names are `<room>.<what has just happened>`.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable

from kafka_webhook_bridge.settings import harness_failpoints

Action = Callable[[], None]


class Failure(Exception):
    """A failpoint that was asked to raise."""


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _raise() -> None:
    raise Failure


_ACTIONS: dict[str, Action] = {"kill": _kill, "stop": _stop, "raise": _raise}


class _Armed:
    """What one name does at which hit."""

    def __init__(self, action: Action, when: str) -> None:
        self._action = action
        self._probability = float(when) if "." in when else 0.0
        self._at = 0 if self._probability else int(when)
        self._hits = 0

    def hit(self) -> None:
        self._hits += 1
        if self._hits == self._at or random.random() < self._probability:  # noqa: S311 - not for secrets
            self._action()


def parse(text: str) -> dict[str, _Armed]:
    """The failpoints of a KWB_FAIL. Raises ValueError or KeyError for one that is not of the form."""
    armed = {}
    for part in filter(None, text.split(",")):
        name, mode, *when = part.split(":")
        armed[name] = _Armed(_ACTIONS[mode], when[0] if when else "1")
    return armed


_armed = parse(harness_failpoints())


def failpoint(name: str) -> None:
    """Do what was asked for at this place; nothing unless a test asked."""
    if _armed and name in _armed:
        _armed[name].hit()
