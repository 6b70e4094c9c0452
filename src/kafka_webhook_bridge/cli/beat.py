"""How far long work is, where nobody watches a bar: a line on standard error each ten seconds."""

from __future__ import annotations

import time
from collections.abc import Callable

from kafka_webhook_bridge.cli.output import Output

EVERY_S = 10.0


class Beat:
    """Says what it is given, but not more often than every `EVERY_S` seconds; the first time after as long."""

    def __init__(self, out: Output, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._said_at = clock()

    def say(self, text: str) -> None:
        now = self._clock()
        if now - self._said_at >= EVERY_S:
            self._said_at = now
            self._out.note(text)
