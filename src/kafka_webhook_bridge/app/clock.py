"""The clock of the processes of a bridge, which tests move."""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable

from kafka_webhook_bridge.settings import harness_fd


def make_clock() -> Callable[[], float]:
    """Monotonic seconds. A test harness that started this process may move them by a shared double (rules.md 33)."""
    fd = harness_fd()
    if fd is None:
        return time.monotonic
    offset = memoryview(mmap.mmap(fd, mmap.PAGESIZE)).cast("d")
    return lambda: time.monotonic() + offset[0]
