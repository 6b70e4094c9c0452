"""What a machine may lack for a scenario, and limits on the processes of a bridge."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from edge import why_not as no_nginx
from faults import disk

_CGROUP = Path("/sys/fs/cgroup")


def _compiler() -> str | None:
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def _no_compiler() -> str:
    return "" if _compiler() else "needs a C compiler"


def _no_cgroup() -> str:
    if os.geteuid() != 0:
        return "needs root"
    return "" if (_CGROUP / "memory").is_dir() or (_CGROUP / "cgroup.controllers").exists() else "needs cgroups"


NEEDS: Mapping[str, Callable[[], str]] = {
    "disk": disk.why_not,
    "clock": _no_compiler,
    "memory": _no_cgroup,
    "nginx": no_nginx,
}


def lacks(needs: Iterable[str]) -> str:
    """Why a scenario cannot run here; empty when it can."""
    return "; ".join(filter(None, (NEEDS[need]() for need in needs)))


class Clock:
    """The wall clock of processes started with `environ`; the monotonic ones stay true.

    A library of our own (clock.c): libfaketime 0.9.10 makes waits of threads end hours late: it knows no cnd_timedwait.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        compiler, library = _compiler(), folder / "clock.so"
        assert compiler is not None
        subprocess.run(
            [compiler, "-O2", "-shared", "-fPIC", "-o", library, Path(__file__).with_name("clock.c"), "-ldl"],
            check=True,
        )
        self._file = folder / "offset"
        self.set(0)
        self.environ = {"LD_PRELOAD": str(library), "FAULTS_CLOCK": str(self._file)}

    def set(self, offset_s: int) -> None:
        """How far it is ahead of the true one. The processes have the file mapped: it is written, never replaced."""
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write((offset_s * 10**9).to_bytes(8, sys.byteorder, signed=True))


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
