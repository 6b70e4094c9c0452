"""What a machine may lack for a scenario, and limits on the processes of a bridge."""

from __future__ import annotations

import contextlib
import functools
import os
import resource
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from faults import disk

_FAKETIME = (
    "/usr/lib/*/faketime/libfaketime.so.1",
    "/usr/lib/faketime/libfaketime.so.1",
    "/usr/local/lib/faketime/*.so.1",
)
_CGROUP = Path("/sys/fs/cgroup")


@functools.cache
def faketime() -> str:
    """The library that changes the clock of a process; empty where it is not installed."""
    for pattern in _FAKETIME:
        for path in sorted(Path("/").glob(pattern.lstrip("/"))):
            return str(path)
    return ""


def _no_faketime() -> str:
    return "" if faketime() else "needs libfaketime"


def _no_cgroup() -> str:
    if os.geteuid() != 0:
        return "needs root"
    return "" if (_CGROUP / "memory").is_dir() or (_CGROUP / "cgroup.controllers").exists() else "needs cgroups"


NEEDS: Mapping[str, Callable[[], str]] = {
    "disk": disk.why_not,
    "clock": _no_faketime,
    "memory": _no_cgroup,
}


def lacks(needs: Iterable[str]) -> str:
    """Why a scenario cannot run here; empty when it can."""
    return "; ".join(filter(None, (NEEDS[need]() for need in needs)))


class Clock:
    """The wall clock of processes started with `environ`; the monotonic one stays true."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set("+0")
        self.environ = {
            "LD_PRELOAD": faketime(),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, offset: str) -> None:
        """`+2h`, `-1d`, `+0`."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(offset + "\n")
        fresh.replace(self._file)


@contextlib.contextmanager
def open_files_limited(pids: Iterable[int], spare: int) -> Iterator[None]:
    """Each process may open `spare` more files than it has open now."""
    before = {pid: resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in pids}
    for pid, (_, hard) in before.items():
        used = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + spare, hard))
    try:
        yield
    finally:
        for pid, limits in before.items():
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)


class Memory:
    """A group of processes that share a limit of memory (control groups, version 1 or 2)."""

    def __init__(self, name: str, bytes_max: int) -> None:
        old = (_CGROUP / "memory").is_dir()
        self._folder = (_CGROUP / "memory" if old else _CGROUP) / name
        self._folder.mkdir()
        (self._folder / ("memory.limit_in_bytes" if old else "memory.max")).write_text(str(bytes_max))
        self._events = self._folder / ("memory.oom_control" if old else "memory.events")

    def add(self, pids: Iterable[int]) -> None:
        for pid in pids:
            (self._folder / "cgroup.procs").write_text(str(pid))

    @property
    def kills(self) -> int:
        """How many processes the kernel ended for want of memory."""
        facts = dict(line.split() for line in self._events.read_text().splitlines())
        return int(facts["oom_kill"])

    def close(self) -> None:
        """After its processes have ended."""
        with contextlib.suppress(OSError):
            self._folder.rmdir()
