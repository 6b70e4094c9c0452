"""Key templates: `{json:order.id}`, `{header:X-Tenant}`, `{query:shop}`, `{form:id}` and literal text around them.

`*` in a path stands for every element of a list or member of an object: `{json:events.*.id}` is all their ids with
commas between them, which tells one batch from another. `form` reads a body of `application/x-www-form-urlencoded`.

A part that is missing or empty makes the whole key null: a record then goes to any partition. JSON strings, whole
numbers of 64 bits and booleans can be keys; other values count as missing. Literal braces are written `{{` and `}}`.
A key longer than KEY_BYTES_MAX is replaced by its SHA-256 in hex, which keeps equal keys together.

A sender's delivery id is written by the same templates, or it is the body (rules.md 13).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Literal, cast, get_args
from urllib.parse import unquote_to_bytes

from kafka_webhook_bridge.body import JSON_BYTES_MAX, NOT_JSON
from kafka_webhook_bridge.event import Request

KEY_BYTES_MAX: Final = 1024
PARTS_MAX: Final = 16
# More than these, in a `*` or in a form, and the part is missing: no sender can make the bridge slow.
ELEMENTS_MAX: Final = 1000

Kind = Literal["json", "header", "query", "form"]
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, token
_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]|[^{}]+")


@dataclass(frozen=True, slots=True)
class Part:
    """One `{kind:name}`: `path` are the steps into the JSON, `name` the header in lower case or the parameter."""

    kind: Kind
    name: bytes
    path: tuple[str, ...] = ()

    def read(self, request: Request, document: Any) -> bytes | None:
        """What stands there; None or empty where it is absent. Never raises."""
        if self.kind == "json":
            return _json(document, self.path)
        if self.kind == "header":
            return _header(request.headers, self.name)
        if self.kind == "query":
            return _field(request.query or b"", self.name)
        return _field(request.body, self.name) if len(request.body) <= JSON_BYTES_MAX else None


@dataclass(frozen=True, slots=True)
class KeyTemplate:
    """A parsed template; literals are bytes."""

    text: str
    parts: tuple[bytes | Part, ...]

    @property
    def needs_json(self) -> bool:
        """Whether the body must be parsed for the key."""
        return any(isinstance(part, Part) and part.kind == "json" for part in self.parts)

    def render(self, request: Request, document: Any = NOT_JSON) -> bytes | None:
        """The key of a request, whose body `document` is as `body.parse_json` gave it. Never raises."""
        pieces = []
        for part in self.parts:
            if isinstance(part, bytes):
                pieces.append(part)
                continue
            piece = part.read(request, document)
            if not piece:
                return None
            pieces.append(piece)
        key = b"".join(pieces)
        return key if len(key) <= KEY_BYTES_MAX else sha256(key).hexdigest().encode()


@dataclass(frozen=True, slots=True)
class FirstOf:
    """Several templates, of which the first that gives something counts."""

    templates: tuple[KeyTemplate, ...]

    @property
    def text(self) -> str:
        """As people write it."""
        return ", else ".join(template.text for template in self.templates)

    @property
    def needs_json(self) -> bool:
        """Whether the body must be parsed for one of them."""
        return any(template.needs_json for template in self.templates)

    def render(self, request: Request, document: Any = NOT_JSON) -> bytes | None:
        """The key of a request, as that of a KeyTemplate."""
        for template in self.templates:
            if (key := template.render(request, document)) is not None:
                return key
        return None


@dataclass(frozen=True, slots=True)
class BodyHash:
    """The delivery id of senders that give none: equal bodies are one delivery."""

    text: str = "SHA-256 of the body"
    needs_json: bool = False

    def render(self, request: Request, document: Any = NOT_JSON) -> bytes:
        """32 bytes."""
        return sha256(request.body).digest()


def dedupe_key(source: bytes, delivery_id: bytes) -> str:
    """64 hex digits that name one delivery of one source; each part is told apart by its length (rules.md 13)."""
    parts = (len(source).to_bytes(4, "big"), source, len(delivery_id).to_bytes(4, "big"), delivery_id)
    return sha256(b"".join(parts)).hexdigest()


def parse_templates(texts: Sequence[str]) -> KeyTemplate | FirstOf:
    """The templates of a row. Raises ValueError with a sentence for people."""
    templates = tuple(map(parse_template, texts))
    return templates[0] if len(templates) == 1 else FirstOf(templates)


def parse_part(inside: str) -> Part:
    """One `kind:name` without its braces. Raises ValueError with a sentence for people."""
    return _part(inside)


def parse_template(text: str) -> KeyTemplate:
    """The template of a text. Raises ValueError with a sentence for people."""
    parts: list[bytes | Part] = []
    literal = ""
    for token in _TOKEN.finditer(text):
        found = token[0]
        if found in ("{{", "}}"):
            literal += found[0]
        elif token[1] is not None:
            if literal:
                parts.append(literal.encode())
                literal = ""
            parts.append(_part(token[1]))
        elif found in "{}":
            raise ValueError(
                f"a brace without its partner at column {token.start() + 1}; write {found * 2} for a literal"
            )
        else:
            literal += found
    if literal:
        parts.append(literal.encode())
    if not any(isinstance(part, Part) for part in parts):
        raise ValueError("without {json:…}, {header:…}, {query:…} or {form:…} it would be the same for every event")
    if len(parts) > PARTS_MAX:
        raise ValueError(f"more than {PARTS_MAX} parts")
    return KeyTemplate(text, tuple(parts))


def _part(inside: str) -> Part:
    kind, colon, name = inside.partition(":")
    if kind not in get_args(Kind):
        near = difflib.get_close_matches(kind, get_args(Kind), 1)
        raise ValueError(
            f"{{{inside}}} is none of json, header, query, form" + (f"; did you mean {near[0]}?" if near else "")
        )
    if not colon or not name:
        raise ValueError(f"{{{inside}}} lacks a name, as in {{{kind}:id}}")
    if kind == "json":
        path = tuple(name.split("."))
        if "" in path:
            raise ValueError(f"{{{inside}}} has an empty step in its path")
        if path.count("*") > 1:
            raise ValueError(f"{{{inside}}} has more than one `*`")
        return Part("json", name.encode(), path)
    if kind == "header" and not HEADER_NAME.fullmatch(name):
        bad = next(character for character in name if not HEADER_NAME.fullmatch(character))
        raise ValueError(f"{{{inside}}} can match nothing: the name of a header has no {bad!r}")
    return Part(cast(Kind, kind), name.lower().encode() if kind == "header" else name.encode())


def _json(document: Any, path: tuple[str, ...]) -> bytes | None:
    for depth, step in enumerate(path, 1):
        if isinstance(document, dict):
            if step == "*":
                return _joined(list(document.values()), path[depth:])
            document = document.get(step)
        elif isinstance(document, list):
            if step == "*":
                return _joined(document, path[depth:])
            if not (step.isascii() and step.isdigit() and len(step) < 9):
                return None
            document = document[int(step)] if int(step) < len(document) else None
        else:
            return None
    if isinstance(document, str):
        return document.encode()
    if isinstance(document, bool):
        return b"true" if document else b"false"
    if isinstance(document, int):
        return b"%d" % document
    return None


def _joined(elements: list[Any], path: tuple[str, ...]) -> bytes | None:
    if len(elements) > ELEMENTS_MAX:
        return None
    pieces = []
    for element in elements:
        piece = _json(element, path)
        if not piece:
            return None
        pieces.append(piece)
    return b",".join(pieces)


def _header(headers: list[tuple[bytes, bytes]], wanted: bytes) -> bytes | None:
    size = len(wanted)
    for name, value in headers:
        if len(name) == size and name.lower() == wanted:
            return value
    return None


def _field(fields: bytes, wanted: bytes) -> bytes | None:
    for pair in fields.split(b"&", ELEMENTS_MAX)[:ELEMENTS_MAX]:
        name, _, value = pair.partition(b"=")
        if unquote_to_bytes(name.replace(b"+", b" ")) == wanted:
            return unquote_to_bytes(value.replace(b"+", b" "))
    return None
