"""How commands talk: tables and colour for people, JSON with `--json`, errors with a hint.

Results go to standard output, everything else to standard error. Whatever came from outside (topics, headers,
bodies) passes `safe`, so that no sender can move the reader's cursor or recolour the terminal.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json as jsonlib
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from kafka_webhook_bridge.errors import ConfigError, KwbError
from kafka_webhook_bridge.times import iso

if TYPE_CHECKING:
    import rich.console

OK = 0
FOUND_PROBLEM = 1  # raise typer.Exit(FOUND_PROBLEM)

# A command's parameter: `json: Json = False`.
Json = Annotated[bool, typer.Option("--json", help="Write JSON for machines.")]


def safe(text: str) -> str:
    """`text` with control characters (C0, DEL, C1, line and paragraph separators, surrogates) shown as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class Output:
    """Standard output and error of one command.

    `say`, `note`, `table` speak to people and are silent with `--json`; `data` and `line` are the JSON side and
    silent without it. So a command writes both, one after the other, without asking which is wanted.
    """

    def __init__(self, json: bool = False, *, stdout: TextIO | None = None, stderr: TextIO | None = None) -> None:
        self.json = json
        self._stdout, self._stderr = stdout, stderr

    def say(self, text: str = "", style: str = "") -> None:
        """A line for people on standard output."""
        if not self.json:
            self._people(error=False).print(_text(text, style), soft_wrap=True)

    def note(self, text: str, style: str = "dim") -> None:
        """A line for people on standard error: progress, advice."""
        if not self.json:
            self._people(error=True).print(_text(text, style), soft_wrap=True)

    def table(
        self, columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str = "", whole: Collection[str] = ()
    ) -> None:
        """A table for people; None is shown as a dash. The columns `whole` are never folded."""
        if self.json:
            return
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False)
        for column in columns:
            table.add_column(column, overflow="fold", no_wrap=column in whole)
        for row in rows:
            table.add_row(*(_text("–" if cell is None else str(cell)) for cell in row))
        self._people(error=False).print(table)

    @contextlib.contextmanager
    def working(self, what: str) -> Iterator[Callable[[str], None] | None]:
        """A spinner with what is being done, where somebody watches; it gives a call that tells of the next step.

        None where nobody does: nothing is written.
        """
        if self.json or not (self._stderr or sys.stderr).isatty():
            yield None
            return
        with self._people(error=True).status(_text(what)) as status:
            yield lambda step: status.update(_text(step))

    def data(self, value: Any) -> None:
        """The result as one indented JSON document."""
        if self.json:
            self.write(jsonlib.dumps(value, indent=2, default=_plain))

    def line(self, value: Any) -> None:
        """One JSON document on one line, written at once, for streams."""
        if self.json:
            self.write(jsonlib.dumps(value, default=_plain))

    def write(self, text: str) -> None:
        """`text` and a line end on standard output as it is, in both modes."""
        stream = self._stdout or sys.stdout
        stream.write(text + "\n")
        stream.flush()

    def failure(self, error: KwbError) -> None:
        """An error for an operator on standard error: what happened and what to do."""
        problems = (
            [{"where": p.where, "what": p.what} for p in error.problems] if isinstance(error, ConfigError) else []
        )
        self._failure(error.code, error.message, error.hint, problems)

    def usage(self, error: typer.TyperException) -> None:
        """Wrong use as the parser tells it."""
        if type(error).__name__ == "NoArgsIsHelpError":  # Typer has printed the help
            return
        context = getattr(error, "ctx", None)
        hint = f"See `{context.command_path} --help`." if context else "See `kwb --help`."
        self._failure("usage.wrong", error.format_message(), hint, [])

    def _failure(self, code: str, message: str, hint: str, problems: list[dict[str, str]]) -> None:
        if self.json:
            document = {"error": {"code": code, "message": message, "hint": hint, "problems": problems}}
            stream = self._stderr or sys.stderr
            stream.write(jsonlib.dumps(document) + "\n")
            return
        console = self._people(error=True)
        first, *more = message.split("\n")
        console.print(_text("error: ", "bold red").append(safe(first), ""), soft_wrap=True)
        for line in more:
            console.print(_text(f"       {line}"), soft_wrap=True)
        if hint:
            console.print(_text(f"hint: {hint}", "cyan"), soft_wrap=True)

    def _people(self, *, error: bool) -> rich.console.Console:
        from rich.console import Console

        stream = (self._stderr or sys.stderr) if error else (self._stdout or sys.stdout)
        return Console(file=stream, highlight=False, markup=False, emoji=False)


def _text(text: str, style: str = "") -> Any:
    from rich.text import Text

    return Text("\n".join(map(safe, text.split("\n"))), style=style)


def _plain(value: Any) -> Any:
    """JSON for what json does not know: bytes as text or base64, times as RFC 3339, dataclasses as objects, the rest as
    text."""
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"base64": base64.b64encode(value).decode()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return str(value)
