"""Batches: requests that carry several events, as elements of an array in their JSON (rules.md 29).

Each element becomes an event whose body is the element's own bytes. What templates read of a part is the whole request
as if the batch had that one element alone: `{json:items.*.id}` and `{json:items.0.id}` are the element's, `{json:shop}`
is the batch's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from kafka_webhook_bridge.event import Event
from kafka_webhook_bridge.receipts import PARTS_MAX
from kafka_webhook_bridge.sources.keys import FirstOf, KeyTemplate, Part
from kafka_webhook_bridge.sources.redact import find_json, overlap, parse_path, tree_of

PREFIX: Final = "json"


class Split(NamedTuple):
    """The events of one request in the order of its array. The first has the id that the request was given."""

    events: list[Event]


@dataclass(frozen=True, slots=True)
class Splitter:
    """Finds the elements at one path. `text` is as people wrote it."""

    text: str
    path: tuple[str, ...]

    def pieces(self, body: bytes, document: Any) -> list[bytes] | None:
        """The elements' bytes. None where there is no such array, an empty one, or one of too many elements.

        `document` is the body, parsed. Where a name stands twice in an object, nobody can tell which array is meant.
        """
        elements = self.elements(document)
        if not isinstance(elements, list) or not 0 < len(elements) <= PARTS_MAX:
            return None
        found = find_json(body, tree_of([(*self.path, "*")]))
        return [body[start:end] for start, end in found] if len(found) == len(elements) else None

    def elements(self, document: Any) -> Any:
        """What stands at the path; None where nothing does."""
        for step in self.path:
            if isinstance(document, dict):
                document = document.get(step)
            elif isinstance(document, list) and step.isascii() and step.isdigit() and int(step) < len(document):
                document = document[int(step)]
            else:
                return None
        return document

    def alone(self, document: Any, element: Any, depth: int = 0) -> Any:
        """The document as if its array had this element alone. What is around it is copied, for others read it too."""
        if depth == len(self.path):
            return [element]
        step = self.path[depth]
        if isinstance(document, dict):
            return {**document, step: self.alone(document[step], element, depth + 1)}
        copy = list(document)
        copy[int(step)] = self.alone(copy[int(step)], element, depth + 1)
        return copy

    def tells_apart(self, template: Any) -> bool:
        """Whether a template reads inside the elements, so that what it gives may differ from part to part."""
        if isinstance(template, FirstOf):
            return all(self.tells_apart(one) for one in template.templates)
        return isinstance(template, KeyTemplate) and any(
            isinstance(part, Part)
            and part.kind == "json"
            and len(part.path) > len(self.path)
            and overlap(self.path, part.path)
            for part in template.parts
        )


def parse_split(text: str) -> Splitter:
    """`json:a.b`, or `json` for a body that is an array itself. Raises ValueError with a sentence for people."""
    kind, colon, path = text.partition(":")
    if kind != PREFIX or (colon and not path):
        raise ValueError(f"{text!r} is neither `json:` and a path to an array, nor `json` for the whole body")
    steps = parse_path(path) if colon else ()
    if "*" in steps:
        raise ValueError(f"{text}: one array is split, so there is no `*` in its path")
    return Splitter(text, steps)
