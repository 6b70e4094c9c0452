"""Hand-shakes: requests by which a sender asks whether the address is right. They are answered, and are no events.

    match → (verify first) → templated answer → effect

The first of a row's hand-shakes that matches counts. An answer is a text with `{query:x}` `{header:x}` `{json:a.b}`
`{form:x}` `{param:x}` `{url}` `{secret_public}`, and around others `{hmac:sha256:hex:…}` (with the secret as key) and
`{sha256:hex:…}`. In a JSON answer each value is escaped as inside a JSON string, and no header of an answer holds what
could end it: what a stranger sends is only ever given back to the stranger, as text.

Whoever answers with an HMAC of what a stranger chose signs for strangers; so a row bounds by a pattern what it signs,
to what no event of that sender can be.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hmac import compare_digest
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from kafka_webhook_bridge.event import Request
from kafka_webhook_bridge.sources import profile
from kafka_webhook_bridge.sources.keys import Kind, Part, parse_part
from kafka_webhook_bridge.sources.verify.schemes import one_of

VALUE_BYTES_MAX: Final = 8 * 1024

_PARAM = re.compile(r"\{param:([A-Za-z0-9_]+)\}")
_HEADER_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_HASHES: Final = ("md5", "sha1", "sha256", "sha384", "sha512")
_ENCODERS: Final[dict[str, Callable[[bytes], bytes]]] = {"hex": lambda raw: raw.hex().encode(), "base64": b64encode}


class Greeting(NamedTuple):
    """The answer to a hand-shake.

    `fetch` is the address to GET once it is given, empty for none. `secret` must be kept before it is given; it is
    empty where there is none, or where the source has it already.
    """

    name: str
    status: int
    content_type: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    fetch: str
    notice: str
    secret: bytes = b""


class _Unanswerable(Exception):
    """A value that the answer needs is not there, or could end a header."""


class _Asked(NamedTuple):
    """What an answer is made of."""

    request: Request
    document: Any
    url: bytes
    escaped: bool


class _Own(NamedTuple):
    """The operator's side of a source."""

    params: Mapping[str, str]
    secret: bytes
    key: bytes
    public: bytes


_Piece = Callable[[_Asked], bytes]
_Condition = Callable[[Request, Any], bool]


@dataclass(frozen=True, slots=True, eq=False)
class Handshake:
    """One hand-shake of one source."""

    name: str
    methods: frozenset[bytes]
    verify_first: bool
    needs_json: bool
    _conditions: tuple[_Condition, ...]
    _answer: Callable[[Request, Any, bytes], Greeting | None]

    def matches(self, request: Request, document: Any) -> bool:
        """Whether the request is one. `document` is its body as `body.parse_json` gave it."""
        if request.method not in self.methods:
            return False
        return all(condition(request, document) for condition in self._conditions)

    def answer(self, request: Request, document: Any, url: bytes) -> Greeting | None:
        """The answer, or None if there is none. `url` is the address of the request as the sender knows it."""
        return self._answer(request, document, url)


def compile_handshakes(
    rows: Sequence[profile.Handshake], *, params: Mapping[str, str], secrets: Sequence[str]
) -> tuple[Handshake, ...]:
    """The hand-shakes of a row for one source. Raises ValueError with a sentence for people."""
    return tuple(_compile(row, params, secrets) for row in rows)


def _compile(row: profile.Handshake, params: Mapping[str, str], secrets: Sequence[str]) -> Handshake:
    answer = row.answer
    templates = [answer.body, *answer.headers.values(), row.secret, row.url]
    kinds = {part.kind for text in templates for part in _parts(text)} | ({"json"} if row.match.json_ else set())
    return Handshake(
        row.name,
        frozenset(method.encode() for method in row.match.method),
        row.verify_first,
        "json" in kinds,
        tuple(_conditions(row.match, params)),
        _compile_answer(row, _own(row, params, secrets), secrets),
    )


def _own(row: profile.Handshake, params: Mapping[str, str], secrets: Sequence[str]) -> _Own:
    text = secrets[0] if secrets else ""
    public, key = "", text
    if row.key is not None and row.key.after:
        public, _, key = text.partition(row.key.after)
    raw = key.encode()
    if row.key is not None and row.key.hash:
        raw = hashlib.new(row.key.hash, raw, usedforsecurity=False).digest()
    return _Own(params, text.encode(), raw, public.encode())


# ── which requests ────────────────────────────────────────────────────────────────────────────────────────────────


def _conditions(match: profile.Match, params: Mapping[str, str]) -> list[_Condition]:
    found: list[_Condition] = []
    places: tuple[tuple[Kind, Mapping[str, Any]], ...] = (
        ("query", match.query), ("header", match.header), ("json", match.json_), ("form", match.form),
    )  # fmt: skip
    for kind, wanted in places:
        for name, value in wanted.items():
            found.append(_condition(parse_part(f"{kind}:{name}"), value, params))
    if match.body_empty is not None:
        empty = match.body_empty
        found.append(lambda request, _: (not request.body) is empty)
    return found


def _condition(part: Part, value: Any, params: Mapping[str, str]) -> _Condition:
    if isinstance(value, bool):
        there = value
        return lambda request, document: bool(part.read(request, document)) is there
    if isinstance(value, profile.Condition):
        pattern = re.compile(value.pattern)

        def fits(request: Request, document: Any) -> bool:
            try:
                return pattern.fullmatch((part.read(request, document) or b"").decode()) is not None
            except UnicodeDecodeError:
                return False

        return fits
    text = str(value)
    if (param := _PARAM.fullmatch(text)) is not None and not (text := params.get(param[1], "")):
        return lambda request, document: False  # what is not set is equal to nothing
    wanted = text.encode()
    return lambda request, document: compare_digest(part.read(request, document) or b"", wanted)


# ── the answer ────────────────────────────────────────────────────────────────────────────────────────────────────


def _compile_answer(
    row: profile.Handshake, own: _Own, secrets: Sequence[str]
) -> Callable[[Request, Any, bytes], Greeting | None]:
    answer = row.answer
    escaped = answer.content_type.partition(";")[0].strip().lower() in ("application/json", "text/json")
    body = _template(answer.body, own)
    headers = [(name.lower().encode(), _template(text, own)) for name, text in answer.headers.items()]
    secret = _template(row.secret, own) if row.effect == "store_secret" else None
    fetch = _template(row.url, own) if row.effect == "fetch_url" else None
    known = [text.encode() for text in secrets]
    content_type = answer.content_type.encode()

    def render(request: Request, document: Any, url: bytes) -> Greeting | None:
        asked = _Asked(request, document, url, False)
        try:
            given = b"" if secret is None else secret(asked)
            address = "" if fetch is None else _allowed(fetch(asked), row.hosts)
            lines = tuple((name, _line(value(asked))) for name, value in headers)
            text = body(asked._replace(escaped=escaped))
        except _Unanswerable:
            return None
        # Strangers cannot plant a secret: one that is not known is kept only while an operator waits for it.
        new = b"" if one_of(known, given) else given
        return Greeting(row.name, answer.status, content_type, lines, text, address, row.notice, new)

    return render


def _line(value: bytes) -> bytes:
    if not _HEADER_VALUE.fullmatch(value):
        raise _Unanswerable
    return value


def _allowed(address: bytes, hosts: Sequence[str]) -> str:
    """An https address at one of the hosts, where `*` stands for one label."""
    try:
        parts = urlsplit(address.decode("ascii"))
        plain = parts.scheme == "https" and parts.port in (None, 443) and "@" not in parts.netloc
    except ValueError:
        raise _Unanswerable from None
    host = parts.hostname or ""
    if not plain or not any(
        re.fullmatch(re.escape(pattern).replace(r"\*", "[a-z0-9-]{1,63}"), host) for pattern in hosts
    ):
        raise _Unanswerable
    return address.decode("ascii")


# ── its templates ─────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Item:
    """`{name}`, or `{words:…}` around others."""

    words: str
    inside: tuple[bytes | _Item, ...]


def _parse(text: str) -> tuple[bytes | _Item, ...]:
    items, end = _read(text, 0, inside=False)
    assert end == len(text)
    return items


def _read(text: str, at: int, *, inside: bool) -> tuple[tuple[bytes | _Item, ...], int]:
    """Items from `at` to the end of the text, or to the brace that closes them."""
    items: list[bytes | _Item] = []
    literal = ""
    while at < len(text):
        two, one = text[at : at + 2], text[at]
        if not inside and two in ("{{", "}}"):
            literal += one
            at += 2
        elif one == "{":
            if literal:
                items.append(literal.encode())
                literal = ""
            item, at = _item(text, at + 1)
            items.append(item)
        elif one == "}":
            if not inside:
                raise ValueError(f"a brace without its partner at column {at + 1}; write }}}} for a literal")
            break
        else:
            literal += one
            at += 1
    if literal:
        items.append(literal.encode())
    return tuple(items), at


def _item(text: str, at: int) -> tuple[_Item, int]:
    opened = text.find("{", at)
    closed = text.find("}", at)
    if closed < 0:
        raise ValueError(f"a brace without its partner at column {at}; write {{{{ for a literal")
    if opened < 0 or closed < opened:
        return _Item(text[at:closed], ()), closed + 1
    inside, end = _read(text, opened, inside=True)
    if end >= len(text):
        raise ValueError(f"a brace without its partner at column {at}; write {{{{ for a literal")
    return _Item(text[at:opened], inside), end + 1


def _parts(text: str) -> list[Part]:
    """What a template reads of a request."""
    found: list[Part] = []

    def walk(items: tuple[bytes | _Item, ...]) -> None:
        for item in items:
            if isinstance(item, _Item):
                if item.inside:
                    walk(item.inside)
                elif item.words.partition(":")[0] in ("query", "header", "json", "form"):
                    found.append(parse_part(item.words))

    walk(_parse(text))
    return found


def _template(text: str, own: _Own) -> _Piece:
    return _joined(_parse(text), own)


def _joined(items: tuple[bytes | _Item, ...], own: _Own) -> _Piece:
    pieces = [item if isinstance(item, bytes) else _piece(item, own) for item in items]
    return lambda asked: b"".join([piece if isinstance(piece, bytes) else piece(asked) for piece in pieces])


def _piece(item: _Item, own: _Own) -> _Piece:
    if item.inside:
        return _digest(item, own)
    kind, _, name = item.words.partition(":")
    if kind == "param":
        value = own.params.get(name, "").encode()
        return lambda asked: _escape(value, asked)
    if item.words == "secret_public":
        return lambda asked: _escape(own.public, asked)
    if item.words == "url":
        return lambda asked: _escape(asked.url, asked)
    part = parse_part(item.words)
    return lambda asked: _escape(part.read(asked.request, asked.document), asked)


def _digest(item: _Item, own: _Own) -> _Piece:
    words = item.words.removesuffix(":").split(":")
    keyed = words[0] == "hmac"
    if keyed:
        del words[0]
    if len(words) != 2 or words[0] not in _HASHES or words[1] not in _ENCODERS:
        raise ValueError(f"{{{item.words}…}} is neither hmac:HASH:ENCODING: nor HASH:ENCODING:")
    name, encode = words[0], _ENCODERS[words[1]]
    inner = _joined(item.inside, own)

    def render(asked: _Asked) -> bytes:
        text = inner(asked._replace(escaped=False))
        if keyed:
            if not own.key:
                raise _Unanswerable
            return encode(hmac.digest(own.key, text, name))
        return encode(hashlib.new(name, text, usedforsecurity=False).digest())

    return render


def _escape(value: bytes | None, asked: _Asked) -> bytes:
    """A value as it stands in the answer. What is absent, empty, or longer than anybody asks, has no answer."""
    if not value or len(value) > VALUE_BYTES_MAX:
        raise _Unanswerable
    if not asked.escaped:
        return value
    return json.dumps(value.decode("utf-8", "replace"))[1:-1].encode()
