"""TOML as plain values, with the line of each place where one is needed. tomllib reads; it forgets lines.

Lines are found by a second look at the text, which happens only when there is something to tell.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator

from kafka_webhook_bridge.errors import Problem
from kafka_webhook_bridge.sources.document import Document, Path

_KEY = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_KEYS = rf"{_KEY}(?:\s*\.\s*{_KEY})*"
_HEADER = re.compile(rf"\s*(\[\[?)\s*({_KEYS})\s*\]")
_MEMBER = re.compile(rf"\s*({_KEYS})\s*=")
_STEP = re.compile(_KEY)
# What a value is made of, as far as brackets need to be told from text.
_TOKEN = re.compile(r'"""|\'\'\'|"(?:[^"\\]|\\.)*"|\'[^\']*\'|#.*|[\[\]{}]')
_AT_LINE = re.compile(r" \(at line (\d+), column \d+\)$")


def parse_toml(name: str, text: str) -> Document:
    """The document called `name`. A mistake in the TOML is its one problem, and then `data` is None."""
    document = Document(name)
    try:
        document.data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = _AT_LINE.search(str(error))
        line = int(at[1]) if at else text.count("\n") + 1
        what = str(error)[: at.start()] if at else str(error).removesuffix(" (at end of document)")
        document.problems.append(Problem(f"{name}:{line}", f"not TOML: {what[:1].lower()}{what[1:]}"))
    except RecursionError:
        document.problems.append(Problem(f"{name}:1", "not TOML: nested too deep"))
    except ValueError as error:  # of int(), of which tomllib lets some through
        document.problems.append(Problem(f"{name}:1", f"not TOML: {error}"))
    return document


def find_lines(text: str) -> dict[Path, int]:
    """The line, from 1, of every table, list of tables and member; what stands inside a value has the value's line."""
    lines: dict[Path, int] = {(): 1}
    tables: dict[Path, int] = {}  # how many there are so far of each list of tables
    prefix: Path = ()
    for number, line in _logical_lines(text):
        if header := _HEADER.match(line):
            path = _inside(tables, _steps(header[2]))
            if header[1] == "[[":
                tables[path] = tables.get(path, -1) + 1
                lines.setdefault(path, number)
                path = (*path, tables[path])
            prefix = path
            lines.setdefault(path, number)
        elif member := _MEMBER.match(line):
            lines.setdefault((*prefix, *_steps(member[1])), number)
    return lines


def _steps(keys: str) -> list[str]:
    return [step[1:-1] if step[0] in "\"'" else step for step in _STEP.findall(keys)]


def _inside(tables: dict[Path, int], steps: list[str]) -> Path:
    """The path of a header: a step into a list of tables is one into its last table so far."""
    path: Path = ()
    for index, step in enumerate(steps, 1):
        path = (*path, step)
        if index < len(steps) and path in tables:
            path = (*path, tables[path])
    return path


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines that begin a header or a member, not those inside a value of several lines."""
    depth, quote = 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        outside = not depth and not quote
        if outside:
            yield number, line
        position = 0
        if outside and (start := _HEADER.match(line) or _MEMBER.match(line)):
            position = start.end()
        while position <= len(line):
            if quote:
                end = line.find(quote, position)
                if end < 0:
                    break
                position, quote = end + 3, ""
                continue
            token = _TOKEN.search(line, position)
            if token is None:
                break
            position = token.end()
            if token[0] in ('"""', "'''"):
                quote = token[0]
            elif token[0] in "[{":
                depth += 1
            elif token[0] in "]}":
                depth = max(0, depth - 1)
