"""What a process tree costs, read from /proc (see proc(5)): CPU time of all threads, resident memory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def tree(pid: int) -> list[int]:
    """`pid` and everything that it started."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            children = (task / "children").read_text().split()
        except OSError:  # it ended meanwhile
            continue
        for child in children:
            found += tree(int(child))
    return found


def cpu_seconds(pid: int) -> float:
    """User and system time of the tree, librdkafka's threads and processes that have ended meanwhile included."""
    return sum(_cpu_ticks(member) for member in tree(pid)) / _TICKS_PER_SECOND


def _cpu_ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return sum(map(int, fields[11:15]))


@dataclass(frozen=True, slots=True)
class Resident:
    """Resident memory of one process of a tree."""

    pid: int
    command: str
    mib: float


def resident(pid: int) -> list[Resident]:
    """Each process of the tree, the largest first."""
    found = []
    for member in tree(pid):
        try:
            command = Path(f"/proc/{member}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            pages = int(Path(f"/proc/{member}/statm").read_text().split()[1])
        except OSError:
            continue
        found.append(Resident(member, command, round(pages * _PAGE_BYTES / 1024**2, 1)))
    return sorted(found, key=lambda process: -process.mib)
