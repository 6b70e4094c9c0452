"""The clocks of the processes of a bridge, which tests move."""

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
    offset = _page(fd)
    return lambda: time.monotonic() + offset[0]


def make_wall_clock() -> Callable[[], float]:
    """Unix time (s), by which signed times are judged. A test harness may set it, and then it stands (rules.md 33)."""
    fd = harness_fd()
    if fd is None:
        return time.time
    page = _page(fd)
    return lambda: page[1] or time.time()


def _page(fd: int) -> memoryview[float]:
    return memoryview(mmap.mmap(fd, mmap.PAGESIZE)).cast("d")
