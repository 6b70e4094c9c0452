"""What a webhook is on its way: Request → Event → Record → Receipt.

Tuples, because millions are made: a NamedTuple costs a quarter of a frozen dataclass. Only `ingest.auth.verify`
makes an Event from a Request, and only `formats.encode` a Record from an Event, so a forgotten check is a type error;
`formats.rows.record_of` asks it for the record of an event that is archived.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from kafka_webhook_bridge.sources.source import Source

Stored = Literal["kafka", "outbox", "both"]


class Request(NamedTuple):
    """One HTTP request, complete and within its limits, as the bytes that came.

    `path` and `query` are the request line's bytes, undecoded; `query` is None without a `?`.
    `headers` are (name, value) pairs in order, names as sent; `peer` is the sender's address after trusted proxies.
    """

    method: bytes
    path: bytes
    query: bytes | None
    headers: list[tuple[bytes, bytes]]
    body: bytes
    peer: str


class Altered(NamedTuple):
    """What is stored of a request is not what came: `how` says why, `body_sha256` is the hex digest of its own body.

    Of a request that was split, `parent_id` is the event id of its first part, `part` the number of this one, from 1
    to `parts`.
    """

    how: str
    body_sha256: str
    parent_id: str = ""
    part: int = 0
    parts: int = 0


class Event(NamedTuple):
    """A verified request. `event_id` is a UUIDv7 (RFC 9562) minted before any I/O; `received_ms` is the time inside it.

    `key` is the Kafka partition key or None; `verified` the scheme (`basic`, `none`); `covers_body` tells
    whether that scheme signs the body; `dedupe_key` is the hex digest of rules.md 13 or None; `altered` is None where
    the request is as it came.
    """

    event_id: str
    received_ms: int
    source: Source
    request: Request
    type: str
    key: bytes | None
    verified: str
    covers_body: bool
    dedupe_key: str | None
    altered: Altered | None = None


class Record(NamedTuple):
    """An event encoded for Kafka. `body_sha256` is the hex digest of the request body as it came."""

    event_id: str
    topic: str
    key: bytes | None
    value: bytes
    headers: list[tuple[str, bytes]]
    body_sha256: str


class Receipt(NamedTuple):
    """The promise made to the sender: the event is durable in `stored`."""

    event_id: str
    source: str
    duplicate: bool
    stored: Stored
    topic: str
    body_sha256: str
