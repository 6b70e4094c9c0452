"""Where a profile's senders put secrets, and how these leave a request before it is stored (rules.md 27).

What a row reads is *proof* and kept: it is the evidence. What whoever reads it could send again is a *credential*, and
replaced by `[redacted]`: tokens in headers and in the query. Authorization, Cookie and Proxy-Authorization are
credentials for every source (formats/headers.py leaves them out) unless the row calls them proof. A body is never
touched: it is what the signature covers, and what a consumer is promised to the byte.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import unquote_to_bytes

from kafka_webhook_bridge.event import Request
from kafka_webhook_bridge.sources.profile import Place
from kafka_webhook_bridge.sources.verify import model

REDACTED: Final = b"[redacted]"

Kind = Literal["header", "query"]
_Names = frozenset[bytes]


@dataclass(frozen=True, slots=True)
class Places:
    """Names in lower case for headers, decoded for parameters of the query. `kept` are headers that are proof."""

    headers: _Names = frozenset()
    query: _Names = frozenset()
    kept: _Names = frozenset()

    def redact(self, request: Request) -> Request:
        """The request without its credentials; the same one where there can be none."""
        if self.headers:
            headers = [
                (name, REDACTED) if name.lower() in self.headers else (name, value) for name, value in request.headers
            ]
            request = request._replace(headers=headers)
        if self.query and request.query is not None:
            request = request._replace(query=b"&".join(map(self._redacted, request.query.split(b"&"))))
        return request

    def _redacted(self, pair: bytes) -> bytes:
        return pair.partition(b"=")[0] + b"=" + REDACTED if self.hides(pair) else pair

    def hides(self, pair: bytes) -> bool:
        """Whether a pair of the query holds a credential."""
        name, mark, _ = pair.partition(b"=")
        return bool(mark) and decoded(name) in self.query


def decoded(text: bytes) -> bytes:
    """A name or value of a query."""
    return unquote_to_bytes(text.replace(b"+", b" "))


def places_of(row: model.Verify, headers: Mapping[str, Place]) -> Places:
    """The places of a row; `headers` are those of which it says otherwise."""
    secret: set[bytes] = set()
    query: set[bytes] = set()
    for way in ways_of(row):
        if isinstance(way, model.Token) and way.signature.name is not None:
            if way.signature.from_ == "header":
                secret.add(way.signature.name.lower().encode())
            elif way.signature.from_ == "query":
                query.add(way.signature.name.encode())
    said = {name.lower().encode(): place for name, place in headers.items()}
    kept = {name for name, place in said.items() if place == "proof"}
    secret |= {name for name, place in said.items() if place == "credential"}
    return Places(frozenset(secret - kept), frozenset(query), frozenset(kept))


Rights = Mapping[tuple[Kind, bytes], tuple[bytes, ...]]
"""Kind and name of a place, in lower case for headers → what stands there when a secret is right."""


def rights_of(row: model.Verify, secrets: Sequence[str]) -> Rights:
    """What the places of a row hold when they are right: enough to know a credential by its hash (rules.md 27)."""
    found: dict[tuple[Kind, bytes], tuple[bytes, ...]] = {}

    def add(place: tuple[Kind, bytes], values: list[bytes]) -> None:
        found[place] = (*found.get(place, ()), *values)

    for way in ways_of(row):
        if isinstance(way, model.Basic):
            add(("header", b"authorization"), [b"Basic " + b64encode(secret.encode()) for secret in secrets])
        elif isinstance(way, model.Token) and way.signature.name is not None:
            prefix = way.signature.strip_prefix or ""
            values = [
                (text + secret).encode() for text in dict.fromkeys((prefix, prefix.lower())) for secret in secrets
            ]
            if way.signature.from_ == "header":
                add(("header", way.signature.name.lower().encode()), values)
            elif way.signature.from_ == "query":
                add(("query", way.signature.name.encode()), values)
    return found


def ways_of(row: model.Verify) -> list[model.Verify]:
    """The row itself, or the ways that it is made of."""
    if isinstance(row, model.AnyOf | model.AllOf):
        return [inner for way in row.of for inner in ways_of(way)]
    return [row]


def reads_authorization(row: model.Verify) -> bool:
    """Whether a way of the row stands in the header Authorization."""
    for way in ways_of(row):
        if isinstance(way, model.Basic) or (isinstance(way, model.Named) and way.code == "sinch"):
            return True
        signature = getattr(way, "signature", None)
        if signature is not None and signature.from_ == "header" and signature.name.lower() == "authorization":
            return True
    return False
