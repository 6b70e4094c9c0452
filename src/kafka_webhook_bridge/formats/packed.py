"""A record as the outbox keeps it: bytes in, the same bytes out.

Headers are one JSON array of [name, value] pairs in order. A value's bytes stand as the characters U+0000 to U+00FF, so
that any byte has its place in JSON.
"""

from __future__ import annotations

import orjson

from kafka_webhook_bridge.event import Record


def pack_headers(headers: list[tuple[str, bytes]]) -> bytes:
    """The headers of a record in one value."""
    return orjson.dumps([(name, value.decode("latin-1")) for name, value in headers])


def unpack_headers(data: bytes) -> list[tuple[str, bytes]]:
    """What pack_headers made."""
    return [(name, text.encode("latin-1")) for name, text in orjson.loads(data)]


def unpack(event_id: str, topic: str, key: bytes | None, value: bytes, headers: bytes) -> Record:
    """The record again, to be sent as the direct path would have sent it; `body_sha256` is not kept."""
    return Record(event_id, topic, key, value, unpack_headers(headers), "")
