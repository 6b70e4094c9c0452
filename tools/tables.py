"""Tables of Markdown, as whole pages and as parts of pages that people write."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of one, and an empty line after it."""
    lines = [_row(columns), "|" + "---|" * len(columns)]
    return [*lines, *map(_row, rows), ""]


def _row(cells: Iterable[str]) -> str:
    escape: Callable[[str], str] = lambda cell: cell.replace("\\|", "|").replace("|", "\\|")  # noqa: E731
    return "| " + " | ".join(map(escape, cells)) + " |"


# What stands between these two lines of a page is made; the rest of the page is somebody's.
_PLACE = re.compile(r"(?P<begin><!-- made by `make docs`: (?P<name>[a-z-]+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)


def places(page: str) -> list[str]:
    """The names of the tables that a page has a place for."""
    return [match["name"] for match in _PLACE.finditer(page)]


def fill(page: str, made: Mapping[str, Sequence[str]]) -> str:
    """The page with every place filled. Raises KeyError for a name that nobody makes."""
    return _PLACE.sub(lambda match: match["begin"] + "\n".join(["", *made[match["name"]], match["end"]]), page)
