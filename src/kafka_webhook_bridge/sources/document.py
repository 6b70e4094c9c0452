"""YAML as plain values that remember their lines. Every problem is collected, none raised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from kafka_webhook_bridge.errors import Problem
from kafka_webhook_bridge.texts import is_unicode

Path = tuple[str | int, ...]

# bridge.yaml is shallow; more than this is a mistake or an attack by aliases.
DEPTH_MAX: Final = 20
NODES_MAX: Final = 200_000


@dataclass
class Document:
    """`data` are dicts with text keys, lists and scalars; `lines` the line (from 1) of each path's key or item."""

    name: str
    data: Any = None
    lines: dict[Path, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    faulty: set[Path] = field(default_factory=set)

    def where(self, path: Path) -> str:
        """`file:line` of a path, or of the nearest thing around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return f"{self.name}:{self.lines.get(path, 1)}"

    def problem(self, path: Path, what: str) -> None:
        """Record one problem, unless that very place has one already."""
        if path not in self.faulty:
            self.faulty.add(path)
            self.problems.append(Problem(self.where(path), what))


def parse_document(name: str, text: str, expand: Callable[[str], str]) -> Document:
    """The document called `name`; `expand` replaces variables in strings and raises KeyError with a missing name."""
    document = Document(name)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        document.lines[()] = mark.line + 1 if mark else 1
        what = error.problem or str(error)
        if "'\\t'" in what:
            what = "a tab cannot indent YAML; use spaces"
        document.problem((), f"not YAML: {what}" + (f" ({error.context})" if error.context else ""))
        return document
    except yaml.reader.ReaderError as error:
        document.lines[()] = text.count("\n", 0, error.position) + 1
        document.problem((), f"not YAML: the character U+{ord(text[error.position]):04X} is not allowed")
        return document
    except RecursionError:
        document.problem((), f"nested deeper than {DEPTH_MAX} levels")
        return document
    if root is not None:
        document.data = _Reader(document, expand).read(root, ())
    return document


class _Reader:
    def __init__(self, document: Document, expand: Callable[[str], str]) -> None:
        self._document = document
        self._expand = expand
        self._constructor = yaml.SafeLoader("")
        self._nodes = 0

    def read(self, node: yaml.Node, path: Path) -> Any:
        self._nodes += 1
        if len(path) > DEPTH_MAX or self._nodes > NODES_MAX:
            self._document.problem((), f"nested deeper than {DEPTH_MAX} levels, or larger than {NODES_MAX} values")
            return None
        self._document.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                self._document.problems.append(Problem(f"{self._document.name}:{line}", "a key must be plain text"))
                continue
            name = key.value  # as written: `no:` and `123:` are names here, not a boolean and a number
            inside = (*path, name)
            if name in found:
                first = self._document.lines[inside]
                what = f"`{name}` stands twice; the first is in line {first}"
                self._document.problems.append(Problem(f"{self._document.name}:{line}", what))
                continue
            self._document.lines[inside] = line
            found[name] = self.read(value, inside)
        return found

    def _scalar(self, node: yaml.Node, path: Path) -> Any:
        try:
            value = self._constructor.construct_object(node)
        except (yaml.YAMLError, ValueError):
            self._document.problem(path, f"{'.'.join(map(str, path))}: the tag {node.tag} is not understood here")
            return None
        if not isinstance(value, str):
            return value
        try:
            expanded = self._expand(value)
        except KeyError as missing:
            self._document.problem(path, f"{'.'.join(map(str, path))}: the variable {missing.args[0]} is not set")
            return value
        if is_unicode(expanded):
            return expanded
        self._document.problem(path, f"{'.'.join(map(str, path))}: there is something in it that is not UTF-8 text")
        return value if is_unicode(value) else ""
