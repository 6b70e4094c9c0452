"""What a person sees. Results on standard output; progress, notes and errors on standard error.

On a terminal a bar shows how far a stack is and what happens now; elsewhere (CI, a file) each step is one plain line.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

QUIET_S = 30.0  # how often a plain log is told that something still goes on


class Output:
    """`interactive`: somebody can be asked."""

    def __init__(self) -> None:
        self._out = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._err = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)

    @property
    def interactive(self) -> bool:
        return sys.stdin.isatty() and sys.stderr.isatty()

    def say(self, text: str = "", style: str = "") -> None:
        """A result."""
        self._out.print(Text(safe(text), style=style))

    def note(self, text: str, style: str = "") -> None:
        """Something on the way to it."""
        self._err.print(Text(safe(text), style=style))

    def warn(self, text: str) -> None:
        self.note(f"warning: {text}", "yellow")

    def heading(self, text: str) -> None:
        self.note(text, "bold")

    def failure(self, message: str, hint: str = "") -> None:
        self._err.print(Text("error: ", "bold red").append(safe(message), ""))
        if hint:
            self._err.print(Text(safe(f"hint: {hint}"), "cyan"))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A result of several columns; plain and aligned where nobody looks at a terminal.

        On a terminal that is too narrow it is written row by row: what is broken into lines cannot be copied.
        """
        found = [[safe(cell) for cell in row] for row in rows]
        widths = [max(len(row[i]) for row in [list(columns), *found]) for i in range(len(columns))]
        if not self._out.is_terminal:
            for row in [list(columns), *found]:
                cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
                self._out.print(Text("  ".join(cells).rstrip()))
            return
        if sum(widths) + 2 * len(widths) > self._out.width:
            for first, *more in found:
                self._out.print(Text(first, "bold"))
                for column, cell in zip(columns[1:], more, strict=True):
                    if cell:
                        self._out.print(Text(f"  {column}: {cell}"))
            return
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in found:
            table.add_row(*map(Text, row))
        self._out.print(table)

    def ask(self, question: str) -> str:
        """What somebody types; callers have looked at `interactive`."""
        self._err.print(Text(question + " "), end="")
        return sys.stdin.readline().strip()

    @contextmanager
    def progress(self, what: str, total: int | None = None) -> Iterator[Steps]:
        """Something that takes a while; `total` resources, where that is known."""
        if not self._err.is_terminal:
            self.note(f"{what} …")
            yield Steps(self, None, what)
            return
        columns = [SpinnerColumn(), TextColumn("{task.description}", markup=False)]
        if total:
            columns += [BarColumn(bar_width=24), MofNCompleteColumn()]
        with Progress(*columns, TimeElapsedColumn(), console=self._err, transient=True) as bar:
            bar.add_task(what, total=total)
            yield Steps(self, bar, what)


class Steps:
    """Something under way. `bar` is None where there is no terminal."""

    def __init__(self, out: Output, bar: Progress | None, what: str) -> None:
        self._out, self._bar, self._what = out, bar, what
        self._last, self._said = "", time.monotonic()

    def now(self, text: str) -> None:
        """What is waited for; said again in a plain log only when it changes, or after a while."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], description=f"{self._what}: {safe(text)}")
            return
        if text != self._last or time.monotonic() - self._said > QUIET_S:
            self._last, self._said = text, time.monotonic()
            self._out.note(f"  {text}")

    def event(self, at: datetime, status: str, resource: str, reason: str = "", *, done: int = 0) -> None:
        """One event of a stack; `done` resources are finished.

        A plain log gets what is finished, a terminal what begins, and there failures alone stay in sight.
        """
        bad = "FAILED" in status
        line = f"  {at:%H:%M:%S}  {status:<22} {resource}" + (f"  {reason}" if reason and bad else "")
        if self._bar is None:
            if not status.endswith("_IN_PROGRESS"):
                self._out.note(line)
            return
        if bad:
            self._bar.console.print(Text(safe(line), "red"))
        self._bar.update(self._bar.task_ids[0], completed=done, description=f"{self._what}: {safe(resource)}")


def safe(text: str) -> str:
    """Without characters that move a terminal's cursor: logs and reasons come from elsewhere."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)
