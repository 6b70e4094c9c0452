"""A request as signatures see it: raw bytes, each part parsed when a rule asks for it, and never more than once.

Strict where senders are exact: a header, parameter or field that is read must stand once, JSON has no member twice,
text that is compared or signed is bytes. Bounds are those of body.py. What is wrong ends it all with `Refused`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn
from urllib.parse import unquote_to_bytes

from kafka_webhook_bridge.body import JSON_BYTES_MAX, NOT_JSON, parse_json
from kafka_webhook_bridge.event import Request
from kafka_webhook_bridge.sources.verify.verdict import Absent, Refused

FIELDS_MAX: Final = 1000
PARTS_MAX: Final = 100

# RFC 3986 without square brackets, which it allows in the host alone.
_URL = re.compile(rb"[A-Za-z0-9._~:/?#@!$&'()*+,;=%-]*")
URL_BYTES: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~:/?#@!$&'()*+,;=%-")


class Number:
    """A JSON number as it was written: `2.00` is signed as `2.00`."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


class Signed:
    """One request under verification.

    `base` is `scheme://host[:port][/prefix]` as the sender knows it, or None; `params` are the operator's parameters.
    The schemes write `timestamp` (the text of the signed time), `fields` (items of the signature header) and `secret`.
    """

    __slots__ = (
        "_document", "_form", "_json", "_query", "base", "body", "fields", "headers", "json_field", "params", "request",
        "secret", "timestamp",
    )  # fmt: skip

    def __init__(self, request: Request, document: Any, base: bytes | None, params: Mapping[str, str]) -> None:
        self.request = request
        self.headers = request.headers
        self.body = request.body
        self.base = base
        self.params = params
        self.json_field: bytes | None = None
        self.timestamp = b""
        self.fields: Mapping[bytes, bytes] = {}
        self.secret = b""
        self._document = document
        self._json: Any = None
        self._form: list[tuple[bytes, bytes]] | None = None
        self._query: list[tuple[bytes, bytes]] | None = None

    def header(self, name: bytes) -> bytes | None:
        """The value of the header `name` (lower case), without blanks around it; None if absent or empty."""
        size = len(name)
        found = None
        for line, value in self.headers:
            if len(line) == size and line.lower() == name:
                if found is not None:
                    raise Refused("header.duplicate", name.decode())
                found = value
        return found.strip(b" \t") or None if found is not None else None

    def need_header(self, name: bytes) -> bytes:
        """The same, but it must be there."""
        value = self.header(name)
        if value is None:
            raise Absent("header.missing", name.decode())
        return value

    @property
    def path(self) -> bytes:
        """The path as the sender knows it: behind the prefix of the public address."""
        prefix = b"/".join((self.base or b"").split(b"/")[3:])
        return (b"/" + prefix if prefix else b"") + self.request.path or b"/"

    @property
    def path_query(self) -> bytes:
        """That path, and the query as it came."""
        query = self.request.query
        return self.path if query is None else self.path + b"?" + query

    @property
    def address(self) -> bytes:
        """The whole address as it came, for where nothing stands beside it."""
        if self.base is None:
            raise Refused("url.mismatch", "the address is not known; set public_url")
        query = self.request.query
        return self.base + self.request.path + (b"" if query is None else b"?" + query)

    @property
    def url(self) -> bytes:
        """The same; characters that no address has are refused: they could belong to the body after it."""
        url = self.address
        if not _URL.fullmatch(url):
            raise Refused("url.mismatch", "the address holds characters that must be percent-encoded")
        return url

    @property
    def query_pairs(self) -> list[tuple[bytes, bytes]]:
        """Parameters of the query, decoded, in order."""
        if self._query is None:
            items = _items(self.request.query or b"", "signature.malformed")
            self._query = [_pair(item) for item in items if item]
        return self._query

    @property
    def form_pairs(self) -> list[tuple[bytes, bytes]]:
        """Fields of an urlencoded body, decoded, in order; each as encoders write it, `name=value`."""
        if self._form is None:
            if len(self.body) > JSON_BYTES_MAX:
                raise Refused("body.malformed", "a form of more than 1 MiB")
            items = _items(self.body, "body.malformed")
            if not all(map(_FORM.fullmatch, items)):
                raise Refused("body.malformed", "no urlencoded form")
            self._form = [_pair(item) for item in items]
        return self._form

    def query(self, name: bytes) -> bytes | None:
        """The parameter `name`, or None if it is absent or empty."""
        return _one(self.query_pairs, name, "signature.malformed", "query parameter")

    def form(self, name: bytes) -> bytes | None:
        """The form field `name`, or None if it is absent or empty."""
        return _one(self.form_pairs, name, "body.malformed", "form field")

    @property
    def json(self) -> Any:
        """The JSON document that the signature is read from; numbers are Number. No member stands twice."""
        if self._json is None:
            if self.json_field is None:
                self._json = exact_json(self.body, self._document)
            else:
                self._json = exact_json(self.field(self.json_field))
        return self._json

    def member(self, path: tuple[str, ...]) -> bytes | None:
        """Text of a member: a string, or a number or boolean as written. None if it is absent, null or empty."""
        return text_of(step_into(self.json, path), ".".join(path))

    def field(self, name: bytes) -> bytes:
        """The field `name` of an urlencoded or multipart body; it must be there."""
        kind = self.header(b"content-type") or b""
        if kind[:10].lower() == b"multipart/":
            if len(self.body) > JSON_BYTES_MAX:
                raise Refused("body.malformed", "multipart of more than 1 MiB")
            value = _one(_multipart(self.body, kind), name, "body.malformed", "part")
        else:
            value = self.form(name)
        if value is None:
            raise Absent("body.malformed", f"no field {name.decode()}")
        return value


def exact_json(text: bytes, document: Any = NOT_JSON) -> Any:
    """The value of a JSON text whose members stand once each; numbers are Number. `document`: if parsed before."""
    _bounded_json(text, document)
    try:
        return json.loads(
            text, object_pairs_hook=_members, parse_int=Number, parse_float=Number, parse_constant=_constant
        )
    except (ValueError, RecursionError) as error:
        raise Refused("body.malformed", _sentence(error)) from None


def plain_json(text: bytes) -> Any:
    """The same with numbers as numbers, for the header and claims of a token; longer integers stay Number."""
    _bounded_json(text, NOT_JSON)
    try:
        return json.loads(text, object_pairs_hook=_members, parse_int=_integer, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise Refused("body.malformed", _sentence(error)) from None


def _bounded_json(text: bytes, document: Any) -> None:
    if document is NOT_JSON and parse_json(text) is NOT_JSON:
        raise Refused("body.malformed", "not JSON, or above the bounds")


def step_into(value: Any, path: tuple[str, ...]) -> Any:
    """What stands at `path`, or None."""
    for step in path:
        if type(value) is dict:
            value = value.get(step)
        elif type(value) is list and step.isascii() and step.isdigit() and len(step) < 9:
            value = value[int(step)] if int(step) < len(value) else None
        else:
            return None
    return value


def text_of(value: Any, name: str) -> bytes | None:
    """The text of a JSON value as it would be signed; None for null and the empty string."""
    if type(value) is str:
        return value.encode() or None
    if type(value) is Number:
        return value.text.encode()
    if type(value) is bool:
        return b"true" if value else b"false"
    if value is None:
        return None
    raise Refused("body.malformed", f"{name} is no text")


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member stands twice")
    return found


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _integer(text: str) -> int | Number:
    return int(text) if len(text) < 20 else Number(text)


def _sentence(error: Exception) -> str:
    return "a member stands twice" if str(error) == "a member stands twice" else "not JSON, or above the bounds"


def _decoded(text: bytes) -> bytes:
    return unquote_to_bytes(text.replace(b"+", b" "))


_FORM = re.compile(rb"(?:[^%&=]|%[0-9A-Fa-f]{2})+=(?:[^%&]|%[0-9A-Fa-f]{2})*")


def _items(text: bytes, code: str) -> list[bytes]:
    items = text.split(b"&", FIELDS_MAX + 1) if text else []
    if len(items) > FIELDS_MAX:
        raise Refused(code, f"more than {FIELDS_MAX} fields")
    return items


def _pair(item: bytes) -> tuple[bytes, bytes]:
    name, _, value = item.partition(b"=")
    return _decoded(name), _decoded(value)


def _one(pairs: list[tuple[bytes, bytes]], wanted: bytes, code: str, what: str) -> bytes | None:
    found = [value for name, value in pairs if name == wanted]
    if len(found) > 1:
        raise Refused(code, f"the {what} {wanted.decode()} stands twice")
    return found[0] or None if found else None


_BOUNDARY = re.compile(rb'(?i);[ \t]*boundary=(?:"([^"\r\n]{1,70})"|([^"\s;,]{1,70}))')
_PART_NAME = re.compile(rb'(?i)^content-disposition:[ \t]*form-data;(?:[^\r\n"]|"[^"\r\n]*")*?[; \t]name="([^"\r\n]*)"')


def _multipart(body: bytes, kind: bytes) -> list[tuple[bytes, bytes]]:
    """Name and content of the parts of multipart/form-data (RFC 7578), strictly with CRLF."""
    boundaries = _BOUNDARY.findall(kind)
    if len(boundaries) != 1:
        raise Refused("body.malformed", "multipart without one boundary")
    delimiter = b"\r\n--" + (boundaries[0][0] or boundaries[0][1])
    pieces = (b"\r\n" + body).split(delimiter, PARTS_MAX + 1)
    if not 2 < len(pieces) <= PARTS_MAX + 1 or pieces[-1] not in (b"--", b"--\r\n"):
        raise Refused("body.malformed", "multipart without an end")
    parts = []
    for piece in pieces[1:-1]:
        head, blank, content = piece.partition(b"\r\n\r\n")
        if not blank or not head.startswith(b"\r\n"):
            raise Refused("body.malformed", "a part without a header")
        names = [match[1] for line in head.split(b"\r\n") if (match := _PART_NAME.match(line))]
        if len(names) != 1:
            raise Refused("body.malformed", "a part without one name")
        parts.append((names[0], content))
    return parts
