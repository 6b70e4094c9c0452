"""Taking values out of a request before it is stored: members of its JSON, headers, parameters of the query.

What is taken out becomes `[redacted]`; every other byte stays as it came. JSON is not written anew, for that would
round numbers and lose members of one name: the values' places are found in the text, and all members of that name are
taken out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from kafka_webhook_bridge.body import NOT_JSON
from kafka_webhook_bridge.event import Altered, Event
from kafka_webhook_bridge.sources.places import Places

STEPS_MAX: Final = 20  # of a path
_REDACTED: Final = b'"[redacted]"'

_SPACE = re.compile(rb"[ \t\r\n]*")
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_SCALAR = re.compile(rb"[^,\]}\s]++")
# Up to the next bracket. Strings are passed whole, so that no bracket in them counts.
_TO_BRACKET = re.compile(rb'(?:[^"\[\]{}]++|"[^"\\]*+(?:\\.[^"\\]*+)*+")*+', re.DOTALL)

Tree = dict[str, "Tree | None"]  # the steps of all paths; None ends one


@dataclass(frozen=True, slots=True)
class Redaction:
    """What one source takes out. `tree` are the paths into the JSON, `places` headers and parameters."""

    tree: Tree
    places: Places

    @property
    def needs_json(self) -> bool:
        """Whether the body is read."""
        return bool(self.tree)

    def apply(self, event: Event, document: Any) -> Event | None:
        """The event without these values; itself when it has none of them. `document` is its body, parsed.

        None: the body is not JSON, so nobody can tell what is in it.
        """
        request = event.request
        body = request.body
        if self.tree and body:
            if document is NOT_JSON:
                return None
            body = redact_json(body, self.tree)
        changed = self.places.redact(request)._replace(body=body)
        if changed == request:
            return event
        return event._replace(
            request=changed,
            covers_body=event.covers_body and body == request.body,
            altered=Altered("redact", sha256(request.body).hexdigest()),
        )


def parse_path(text: str) -> tuple[str, ...]:
    """The steps of `a.b.0.*`. Raises ValueError with a sentence for people."""
    steps = tuple(text.split("."))
    if "" in steps:
        raise ValueError(f"{text!r} has an empty step")
    if len(steps) > STEPS_MAX:
        raise ValueError(f"more than {STEPS_MAX} steps")
    return steps


def tree_of(paths: Sequence[tuple[str, ...]]) -> Tree:
    """All paths in one; a path that goes on behind the end of another adds nothing."""
    root: Tree = {}
    for path in sorted(paths, key=len):
        at: Tree | None = root
        for step in path[:-1]:
            at = at.setdefault(step, {}) if at is not None else None
        if at is not None:
            at.setdefault(path[-1], None)
    return root


def overlap(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether a value at the one path may hold, or be in, one at the other."""
    return all(a == b or "*" in (a, b) for a, b in zip(one, other, strict=False))


def redact_json(body: bytes, tree: Tree) -> bytes:
    """`body`, which is JSON by `body.parse_json`, with `"[redacted]"` in place of the values at these paths."""
    pieces: list[bytes] = []
    last = 0
    for start, end in find_json(body, tree):
        pieces += (body[last:start], _REDACTED)
        last = end
    pieces.append(body[last:])
    return b"".join(pieces)


def find_json(body: bytes, tree: Tree) -> list[tuple[int, int]]:
    """Where in `body`, which is JSON, the values at these paths begin and end, in order."""
    return _Finder(body).find(tree)


class _Finder:
    """Walks along the paths alone; what lies beside them is passed over by its brackets."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._found: list[tuple[int, int]] = []

    def find(self, tree: Tree) -> list[tuple[int, int]]:
        """Where the values begin and end, in order."""
        self._value(self._skip_space(0), [tree])
        return self._found

    def _skip_space(self, at: int) -> int:
        match = _SPACE.match(self._body, at)
        assert match is not None
        return match.end()

    def _value(self, at: int, trees: list[Tree]) -> int:
        """Look into the value that begins at `at`; where it ends."""
        first = self._body[at : at + 1]
        if not trees or first not in (b"{", b"["):
            return self._end(at)
        number = 0
        at = self._skip_space(at + 1)
        while self._body[at : at + 1] not in (b"}", b"]"):
            if first == b"{":
                end = self._end(at)
                step = _name(self._body[at:end])
                at = self._skip_space(self._skip_space(end) + 1)  # behind the colon
            else:
                step = str(number)
            inner = [tree[name] for tree in trees for name in {step, "*"} if name in tree]
            if None in inner:
                end = self._end(at)
                self._found.append((at, end))
            else:
                end = self._value(at, [tree for tree in inner if tree is not None])
            at = self._skip_space(end)
            if self._body[at : at + 1] == b",":
                at = self._skip_space(at + 1)
            number += 1
        return at + 1

    def _end(self, at: int) -> int:
        first = self._body[at : at + 1]
        if first == b'"':
            match = _STRING.match(self._body, at)
        elif first in (b"{", b"["):
            return self._end_of_brackets(at)
        else:
            match = _SCALAR.match(self._body, at)
        assert match is not None, "the body is JSON"
        return match.end()

    def _end_of_brackets(self, at: int) -> int:
        body, to_bracket = self._body, _TO_BRACKET.match
        depth = 0
        while True:
            depth += 1 if body[at] in b"[{" else -1
            at += 1
            if not depth:
                return at
            match = to_bracket(body, at)
            assert match is not None
            at = match.end()


def _name(text: bytes) -> str:
    """The name of a member, whatever escapes it is written with."""
    name: str = json.loads(text) if b"\\" in text else text[1:-1].decode()
    return name


def redaction_of(paths: Sequence[str], headers: Sequence[str], query: Sequence[str]) -> Redaction:
    """Of the words of bridge.yaml. Raises ValueError with a sentence for people."""
    places = Places(frozenset(name.lower().encode() for name in headers), frozenset(name.encode() for name in query))
    return Redaction(tree_of([parse_path(path) for path in paths]), places)
