"""The headers of a Kafka record (rules.md 25).

Fixed ones: CloudEvents 1.0 attributes in the Kafka binding's binary mode (`ce_…`), `content-type`, and the bridge's own
`kwb_…`. Then one `http_<lower-case name>` per field line of the request, in order, with the bytes as received, except
credentials and what belongs to the connection (RFC 9110 section 7.6.1). A sender only ever gets names that begin with
`http_`, so it cannot set one of the bridge's; `traceparent` alone is copied out, for tracing.
"""

from __future__ import annotations

import time

from kafka_webhook_bridge.event import Altered, Event

Headers = list[tuple[str, bytes]]

# How a reader knows a structured value; absent means raw (a content-type proves nothing, senders may send CloudEvents).
FORMAT = "kwb_format"

# Of records whose value, or whose request's headers, are not what came (rules.md 29).
ALTERED, BODY_SHA256 = "kwb_altered", "kwb_body_sha256"
PARENT_ID, PART = "kwb_parent_id", "kwb_part"

# Names that only the bridge sets.
RESERVED = ("ce_", "kwb_", "http_", "content-type", "traceparent")

CREDENTIALS = frozenset({b"authorization", b"cookie", b"cookie2", b"set-cookie", b"set-cookie2"})
HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"})
_PROXY = b"proxy-"  # Proxy-Authorization, Proxy-Connection, …


def is_credential(name: bytes) -> bool:
    """Whether a header, by its name in lower case, holds credentials whatever the sender."""
    return name in CREDENTIALS or name == b"proxy-authorization"


_CONTENT_TYPE = "http_content-type"
_TRACEPARENT = "http_traceparent"
_CONNECTION = "connection"  # spelled without http_, hence never copied
_SPECIAL = frozenset({_CONTENT_TYPE, _TRACEPARENT, _CONNECTION})
_DROPPED = ""

_SPELLINGS_MAX = 2048
_SPELLING_BYTES_MAX = 64


class _Spellings(dict[bytes, str]):
    """Name on the wire → name in the record. Senders choose names, so it holds few and short ones, and starts anew."""

    def __missing__(self, name: bytes) -> str:
        lower = name.lower()
        if lower == b"connection":
            spelling = _CONNECTION
        elif lower in CREDENTIALS or lower in HOP_BY_HOP or lower.startswith(_PROXY):
            spelling = _DROPPED
        else:
            spelling = "http_" + lower.decode("latin-1")
        if len(name) <= _SPELLING_BYTES_MAX:
            if len(self) >= _SPELLINGS_MAX:
                self.clear()
            self[name] = spelling
        return spelling


_spellings = _Spellings()

_SPECVERSION = ("ce_specversion", b"1.0")
_COVERS = {True: ("kwb_covers_body", b"true"), False: ("kwb_covers_body", b"false")}
_VERIFIED = {scheme: ("kwb_verified", scheme.encode()) for scheme in ("none", "basic")}
_MILLISECONDS = [b".%03dZ" % ms for ms in range(1000)]
_second: tuple[int, bytes] = (-1, b"")


def rfc3339(ms: int) -> bytes:
    """`2026-01-31T23:59:59.123Z` of milliseconds since 1970 (RFC 3339, UTC)."""
    global _second
    second, rest = divmod(ms, 1000)
    cached, text = _second
    if cached != second:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
        _second = (second, text)
    return text + _MILLISECONDS[rest]


def request_headers(event: Event) -> tuple[Headers, bytes | None, bytes | None]:
    """The kept `http_…` headers in order, the request's Content-Type and its traceparent (first one each, or None)."""
    spellings = _spellings
    proofs = event.source.proof_headers
    kept: Headers = []
    content_type = traceparent = connection = None
    for name, value in event.request.headers:
        spelling = spellings[name]
        if spelling in _SPECIAL:
            if spelling == _CONNECTION:
                connection = value if connection is None else connection + b"," + value
                continue
            if spelling == _CONTENT_TYPE:
                content_type = value if content_type is None else content_type
            else:
                traceparent = value if traceparent is None else traceparent
        if spelling:
            kept.append((spelling, value))
        elif proofs and (lower := name.lower()) in proofs and lower not in HOP_BY_HOP:
            kept.append(("http_" + lower.decode("latin-1"), value))
    if connection is not None and connection not in (b"keep-alive", b"close", b"Keep-Alive"):
        kept = _without(kept, connection)
    return kept, content_type, traceparent


def _without(kept: Headers, connection: bytes) -> Headers:
    """`kept` less the fields that Connection names as belonging to the connection.

    Content-Type and traceparent are meant for whoever reads the body, so no connection can claim them.
    """
    named = {"http_" + token.strip().lower().decode("latin-1") for token in connection.split(b",")} - _SPECIAL
    return [pair for pair in kept if pair[0] not in named]


def fixed(event: Event, content_type: bytes | None, traceparent: bytes | None) -> Headers:
    """The bridge's own headers; what is None is left out."""
    event_id, received_ms, source, request, kind, _, verified, covers_body, dedupe_key, _ = event
    headers = [
        _SPECVERSION,
        ("ce_id", event_id.encode()),
        ("ce_source", source.ce_source),
        ("ce_type", source.default_type_bytes if kind is source.default_type else kind.encode()),
        ("ce_time", rfc3339(received_ms)),
    ]
    if content_type is not None:
        headers.append(("content-type", content_type))
    headers += (
        ("kwb_source", source.name_bytes),
        ("kwb_method", request.method),
        ("kwb_path", request.path),
        _VERIFIED.get(verified) or ("kwb_verified", verified.encode()),
        _COVERS[covers_body],
    )
    if request.query is not None:
        headers.append(("kwb_query", request.query))
    if dedupe_key is not None:
        headers.append(("kwb_dedupe_key", dedupe_key.encode()))
    if traceparent is not None:
        headers.append(("traceparent", traceparent))
    if source.format != "raw":
        headers.append((FORMAT, source.format.encode()))
    return headers


def altered_headers(altered: Altered) -> Headers:
    """What a record says of an event that is not as it came; behind the request's own headers, as a row gives it."""
    headers = [(ALTERED, altered.how.encode()), (BODY_SHA256, altered.body_sha256.encode())]
    if altered.parts:
        headers += [(PARENT_ID, altered.parent_id.encode()), (PART, b"%d/%d" % (altered.part, altered.parts))]
    return headers
