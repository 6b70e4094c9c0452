"""An Event as a record of Kafka, and back to the body. Pure; `raw` is the hot path.

`encode` is the only maker of a Record.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from kafka_webhook_bridge.event import Event, Record
from kafka_webhook_bridge.formats import cloudevents, envelope, raw
from kafka_webhook_bridge.formats.headers import FORMAT, altered_headers, fixed, request_headers

_ENCODERS = {
    "cloudevents": (cloudevents.encode, cloudevents.CONTENT_TYPE),
    "envelope": (envelope.encode, envelope.CONTENT_TYPE),
}
_DECODERS = {"raw": raw.decode, "cloudevents": cloudevents.decode, "envelope": envelope.decode}

# Record batch and record of magic 2 without their variable parts, varints at their longest.
_BATCH_BYTES, _RECORD_BYTES, _HEADER_BYTES = 61, 36, 10


def encode(event: Event, is_json: bool | None = None) -> Record:
    """The record of an event in its source's format.

    `is_json` is the answer of `body.parse_json` where the caller has parsed the body already (rules.md 28).
    """
    source = event.source
    body = event.request.body
    kept, content_type, traceparent = request_headers(event)
    if source.format == "raw":
        value = body
        own = fixed(event, content_type, traceparent)
    else:
        encoder, own_type = _ENCODERS[source.format]
        value = encoder(event, kept, content_type, is_json)
        own = fixed(event, own_type, traceparent)
    altered = event.altered
    if altered is None:
        return Record(event.event_id, source.topic, event.key, value, own + kept, sha256(body).hexdigest())
    headers = own + kept + altered_headers(altered)
    return Record(event.event_id, source.topic, event.key, value, headers, altered.body_sha256)


def decode(format: str, value: bytes) -> bytes:  # noqa: A002
    """The body of a record, as the sender sent it. Raises ValueError if the value is not of that format."""
    decoder = _DECODERS.get(format)
    if decoder is None:
        raise ValueError(f"no such format: {format!r}")
    return decoder(value)


def format_of(headers: Sequence[tuple[str, bytes]]) -> str:
    """The format that `encode` gave a record."""
    return next((value.decode("latin-1") for name, value in headers if name == FORMAT), "raw")


def record_bytes(record: Record) -> int:
    """An upper bound of what the record takes in a request to Kafka, uncompressed and alone in its batch."""
    size = _BATCH_BYTES + _RECORD_BYTES + len(record.value) + len(record.key or b"")
    for name, value in record.headers:
        size += _HEADER_BYTES + len(name) * (1 if name.isascii() else 2) + len(value)
    return size
