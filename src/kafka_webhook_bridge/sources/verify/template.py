"""Signed texts as templates: `v0:{ts}:{body}`, parsed once into parts that are joined for each request.

    {body}              the body                        {ts}            the signed time, as sent
    {body_b64}          its base64                      {method}        the method
    {body_ascii}        with \\u escapes (Box)           {url}           the whole public address
    {body_json_string}  as a JSON string                {url_noquery}   without its query
    {body_crc32}        CRC-32 in decimal               {path}          the path
    {body_md5_b64}      MD5 in base64                   {path_query}    path and query
    {body_sha256_hex}   SHA-256 in hex                  {header:x}      a header
    {json:a.b}          a member of the body            {query:x}       a query parameter, decoded
    {form:x}            a form field, decoded           {query_lower:x} the same in lower case
    {form_sorted}       names and values, sorted        {sigfield:x}    an item of the signature header
    {secret}            the secret (digest)             {param:x}       a parameter of the source
    {header_or_empty:x} {json_or_empty:a.b}             as above, nothing when absent
    {{ }}               literal braces                  [[ … ]]         left out when a value in it is absent

A text could be cut in two ways where a sender's values touch: an id `a.b` before `.{ts}`, a body that begins with
what a header ended with. Whoever saw one signed request could then send another with the same signed text. So values
are held apart: a value may not hold the literal text after it (an id before a time: not with a digit behind), headers
hold no characters that JSON is made of, a body beside a header or an address begins and ends with what these cannot
hold, and times have one length.
"""

from __future__ import annotations

import difflib
import json
import re
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import md5, sha256
from itertools import pairwise
from typing import Final

from kafka_webhook_bridge.body import JSON_BYTES_MAX
from kafka_webhook_bridge.sources.verify.request import URL_BYTES, Signed
from kafka_webhook_bridge.sources.verify.verdict import Absent, Refused

PARTS_MAX: Final = 20
_TOKEN = re.compile(r"\{\{|\}\}|\[\[|\]\]|\{([^{}]*)\}|[{}]|\[|\]|[^{}\[\]]+")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# What a signed header may hold: printable ASCII but for the characters that begin or end JSON.
_HEADER = re.compile(rb"[ !#-Z\\^-z|~]+")
_HEADER_BYTES = frozenset(byte for byte in range(32, 127) if byte not in b'"[]{}')

Piece = Callable[[Signed], bytes]


@dataclass(frozen=True, slots=True)
class Item:
    """One `{kind:name}` of a template."""

    kind: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """`[[ … ]]`."""

    items: tuple[bytes | Item, ...]


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed signed text; literals are bytes."""

    text: str
    items: tuple[bytes | Item | Group, ...]

    def walk(self) -> Iterable[bytes | Item]:
        """All literals and items, in order, groups opened."""
        for item in self.items:
            if isinstance(item, Group):
                yield from item.items
            else:
                yield item

    def uses(self, kind: str, name: str | None = None) -> bool:
        """Whether it has such an item."""
        return any(
            isinstance(item, Item) and item.kind == kind and (name is None or item.name.lower() == name)
            for item in self.walk()
        )

    @property
    def needs_json(self) -> bool:
        """Whether it reads the parsed body."""
        return self.uses("json") or self.uses("json_or_empty")

    @property
    def covers_body(self) -> bool:
        """Whether the whole body is in it."""
        return any(isinstance(item, Item) and item.kind in _WHOLE_BODY for item in self.walk())

    @property
    def touches_time(self) -> bool:
        """Whether something else than literal text stands beside {ts}, so that the time must tell where it ends."""
        flat = list(self.walk())
        return any(
            isinstance(one, Item) and isinstance(two, Item) and "ts" in (one.kind, two.kind)
            for one, two in pairwise(flat)
        )

    def compile(self) -> Piece:
        """The function from a request to the signed bytes. It raises Refused."""
        pieces = _pieces(self.items)
        if len(pieces) == 1:
            only = pieces[0]
            return only if not isinstance(only, bytes) else lambda signed: only
        return _join(pieces)


@lru_cache(maxsize=1024)
def parse_signed(text: str) -> Template:
    """The template of a text. Raises ValueError with a sentence for people."""
    items: list[bytes | Item | Group] = []
    group: list[bytes | Item] | None = None
    literal = ""
    for token in _TOKEN.finditer(text):
        found = token[0]
        here = items if group is None else group
        if found in ("{{", "}}", "[", "]") or (token[1] is None and found not in ("{", "}", "[[", "]]")):
            literal += found[0] if found in ("{{", "}}") else found
            continue
        if literal:
            here.append(literal.encode())
            literal = ""
        if found == "[[":
            if group is not None:
                raise ValueError("[[ inside [[ ]]")
            group = []
        elif found == "]]":
            if not group:
                raise ValueError("]] without [[, or an empty group")
            items.append(Group(tuple(group)))
            group = None
        elif token[1] is None:
            raise ValueError(
                f"a brace without its partner at column {token.start() + 1}; write {found * 2} for a literal"
            )
        else:
            here.append(_item(token[1]))
    if group is not None:
        raise ValueError("[[ without ]]")
    if literal:
        items.append(literal.encode())
    template = Template(text, tuple(items))
    if not any(isinstance(item, Item) and item.kind not in ("secret", "param") for item in template.walk()):
        raise ValueError("the signed text would be the same for every request")
    if sum(1 for _ in template.walk()) > PARTS_MAX:
        raise ValueError(f"more than {PARTS_MAX} parts")
    return template


def _item(inside: str) -> Item:
    kind, colon, name = inside.partition(":")
    kinds = _NAMED if colon else _PLAIN
    if kind not in kinds:
        near = difflib.get_close_matches(kind, [*_NAMED, *_PLAIN], 1)
        raise ValueError(f"{{{inside}}} is not understood" + (f"; did you mean {near[0]}?" if near else ""))
    if colon and not name:
        raise ValueError(f"{{{inside}}} lacks a name")
    if kind in ("json", "json_or_empty") and "" in name.split("."):
        raise ValueError(f"{{{inside}}} has an empty step in its path")
    if kind in ("header", "header_or_empty") and not _NAME.fullmatch(name):
        raise ValueError(f"{{{inside}}} can match nothing")
    return Item(kind, name)


def _pieces(items: tuple[bytes | Item | Group, ...]) -> list[bytes | Piece]:
    pieces: list[bytes | Piece] = []
    for index, item in enumerate(items):
        if isinstance(item, bytes):
            pieces.append(item)
        elif isinstance(item, Group):
            pieces.append(_group(_join(_pieces(item.items))))
        else:
            before = items[index - 1] if index else None
            after = items[index + 1] if index + 1 < len(items) else None
            timed = index == 0 and items[2:3] == (Item("ts"),)
            pieces.append(_guarded(item, before, after, timed))
    return pieces


def _join(pieces: list[bytes | Piece]) -> Piece:
    fixed = tuple(pieces)

    def render(signed: Signed) -> bytes:
        return b"".join([piece if type(piece) is bytes else piece(signed) for piece in fixed])  # type: ignore[operator]

    return render


def _group(inside: Piece) -> Piece:
    def render(signed: Signed) -> bytes:
        try:
            return inside(signed)
        except Absent:
            return b""

    return render


def _guarded(item: Item, before: bytes | Item | Group | None, after: bytes | Item | Group | None, timed: bool) -> Piece:
    """The piece of an item, held apart from what stands beside it; `timed`: it is first, and a time follows `after`."""
    if item.kind == "header":
        if timed and isinstance(after, bytes):
            return _before_time(_header(item.name), after)
        return _header(item.name, after if isinstance(after, bytes) else None)
    piece = _piece(item)
    if item.kind in _FREE and isinstance(after, bytes):
        return _without(piece, after)
    if item.kind in ("body", "body_ascii"):
        starts = _alphabet(before)
        ends = _alphabet(after)
        if starts or ends:
            return _edged(piece, starts, ends)
    return piece


def _alphabet(item: bytes | Item | Group | None) -> frozenset[int]:
    """What the neighbour of a body may be made of, where nothing stands between."""
    if isinstance(item, Item):
        if item.kind in ("url", "url_noquery", "path", "path_query"):
            return URL_BYTES
        if item.kind in ("header", "header_or_empty", "sigfield"):
            return _HEADER_BYTES
    return frozenset()


def _without(piece: Piece, literal: bytes) -> Piece:
    def render(signed: Signed) -> bytes:
        value = piece(signed)
        if literal in value:
            raise Refused("header.malformed", "a signed value holds the text that ends it")
        return value

    return render


def _before_time(piece: Piece, literal: bytes) -> Piece:
    """A value at the start, before a literal text and a time: an id such as `a.b` before `.{ts}`.

    It may hold that text, but not with what a time begins with behind it. So the first such place ends it, and there
    is one way to cut the signed text.
    """
    ends = re.compile(re.escape(literal) + rb"(?:[0-9]|[A-Z][a-z][a-z], )").search

    def render(signed: Signed) -> bytes:
        value = piece(signed)
        if ends(value):
            raise Refused("header.malformed", "a signed value holds the text that ends it")
        return value

    return render


def _edged(piece: Piece, starts: frozenset[int], ends: frozenset[int]) -> Piece:
    def render(signed: Signed) -> bytes:
        body = piece(signed)
        if body and (body[0] in starts or body[-1] in ends):
            raise Refused("body.malformed", "the body could begin or end elsewhere in the signed text")
        return body

    return render


def _piece(item: Item) -> Piece:
    return _NAMED[item.kind](item.name) if item.name else _PLAIN[item.kind]


def _header(name: str, end: bytes | None = None) -> Piece:
    """A header, which may not hold the literal text `end` after it: in one function, as it is on the hot path."""
    wanted = name.lower().encode()
    clean = _HEADER.fullmatch

    def render(signed: Signed) -> bytes:
        value = signed.need_header(wanted)
        if not clean(value) or (end is not None and end in value):
            raise Refused("header.malformed", name)
        return value

    return render


def _header_or_empty(name: str) -> Piece:
    wanted = name.lower().encode()

    def render(signed: Signed) -> bytes:
        value = signed.header(wanted)
        return b"" if value is None else _clean(value, name)

    return render


def _clean(value: bytes, name: str) -> bytes:
    if not _HEADER.fullmatch(value):
        raise Refused("header.malformed", name)
    return value


def _required(find: Callable[[Signed], bytes | None], code: str, missing: str) -> Piece:
    """What a request must have; it is absent, not wrong, where a group is optional."""

    def render(signed: Signed) -> bytes:
        value = find(signed)
        if value is None:
            raise Absent(code, missing)
        return value

    return render


def _json(name: str) -> Piece:
    path = tuple(name.split("."))
    return _required(lambda signed: signed.member(path), "body.malformed", f"no member {name}")


def _json_or_empty(name: str) -> Piece:
    path = tuple(name.split("."))
    return lambda signed: signed.member(path) or b""


def _query(name: str) -> Piece:
    wanted = name.encode()
    return _required(lambda signed: signed.query(wanted), "signature.malformed", f"no query parameter {name}")


def _query_lower(name: str) -> Piece:
    exact = _query(name)
    return lambda signed: exact(signed).lower()


def _form(name: str) -> Piece:
    wanted = name.encode()
    return _required(lambda signed: signed.form(wanted), "body.malformed", f"no form field {name}")


def _sigfield(name: str) -> Piece:
    wanted = name.encode()

    def render(signed: Signed) -> bytes:
        value = signed.fields.get(wanted)
        if not value:
            raise Absent("signature.malformed", f"no item {name}")
        return _clean(value, name)

    return render


def _param(name: str) -> Piece:
    def render(signed: Signed) -> bytes:
        value = signed.params.get(name)
        if not value:
            raise Refused("params.missing", name)
        return value.encode()

    return render


def _url_noquery(signed: Signed) -> bytes:
    return signed.url.partition(b"?")[0]


def _form_sorted(signed: Signed) -> bytes:
    return b"".join([name + value for name, value in sorted(signed.form_pairs)])


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise Refused("body.malformed", "not UTF-8") from None


def _body_json_string(signed: Signed) -> bytes:
    return json.dumps(_text(signed.body), ensure_ascii=False).encode()


_NOT_PLAIN = re.compile(r"[^\x20-\x7e]+")


def _body_ascii(signed: Signed) -> bytes:
    if len(signed.body) > JSON_BYTES_MAX:
        raise Refused("body.malformed", "a body of more than 1 MiB is not escaped")
    text = _text(signed.body).replace("\\", "\\\\").replace("\\\\/", "\\/")
    text = text.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    return _NOT_PLAIN.sub(_escaped, text).encode()


def _escaped(match: re.Match[str]) -> str:
    return "\\u" + match[0].encode("utf-16-be").hex("-", 2).replace("-", "\\u")


_PLAIN: Final[dict[str, Piece]] = {
    "body": lambda signed: signed.body,
    "body_b64": lambda signed: b64encode(signed.body),
    "body_ascii": _body_ascii,
    "body_json_string": _body_json_string,
    "body_crc32": lambda signed: b"%d" % zlib.crc32(signed.body),
    "body_md5_b64": lambda signed: b64encode(md5(signed.body, usedforsecurity=False).digest()),
    "body_sha256_hex": lambda signed: sha256(signed.body).hexdigest().encode(),
    "ts": lambda signed: signed.timestamp,
    "url": lambda signed: signed.url,
    "url_noquery": _url_noquery,
    "path": lambda signed: signed.path,
    "path_query": lambda signed: signed.path_query,
    "method": lambda signed: signed.request.method,
    "secret": lambda signed: signed.secret,
    "form_sorted": _form_sorted,
}
_NAMED: Final[dict[str, Callable[[str], Piece]]] = {
    "header": _header,
    "header_or_empty": _header_or_empty,
    "json": _json,
    "json_or_empty": _json_or_empty,
    "query": _query,
    "query_lower": _query_lower,
    "form": _form,
    "sigfield": _sigfield,
    "param": _param,
}
_FREE: Final = frozenset(
    {"header", "header_or_empty", "json", "json_or_empty", "query", "query_lower", "form", "sigfield"}
)
_WHOLE_BODY: Final = frozenset(
    {"body", "body_b64", "body_ascii", "body_json_string", "body_md5_b64", "body_sha256_hex"}
)
