"""Records out of Kafka: a batch as rows of `events`, and one as those see it who only compare."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

from kafka_webhook_bridge import ids
from kafka_webhook_bridge.formats.headers import FORMAT
from kafka_webhook_bridge.formats.rows import RELEASED, REPLAY, REQUEST_HEADER, EventRow, RowMaker, Skip
from kafka_webhook_bridge.kafka.consumer import Place, Record

_EVERY_RECORD_HAS = "kwb_verified"


@dataclass(frozen=True, slots=True)
class Made:
    """What records became: rows with different event ids, the offset after the last record of each place, skips."""

    rows: list[EventRow]
    next_offsets: dict[Place, int]
    skipped: Counter[Skip]


def make_all(maker: RowMaker, records: Iterable[Record], topic_ids: Mapping[str, uuid.UUID]) -> Made:
    """Rows of a batch. Of records with one event id the first counts: the others are redelivered copies."""
    rows: dict[uuid.UUID, EventRow] = {}
    next_offsets: dict[Place, int] = {}
    skipped: Counter[Skip] = Counter()
    for topic, partition, offset, key, value, headers, _ in records:
        next_offsets[Place(topic, partition)] = offset + 1
        row = maker.make(key, value, headers, topic, topic_ids[topic], partition, offset)
        if isinstance(row, str):
            skipped[row] += 1
        elif row[0] not in rows:
            rows[row[0]] = row
    return Made(list(rows.values()), next_offsets, skipped)


def label(key: bytes | None, headers: Iterable[tuple[str, bytes | None]]) -> bytes:
    """SHA-256 of key and headers, but for what a replay adds.

    The request's headers count in their order, the bridge's own in any: marks come back from a row behind the others.
    """
    kept, own = [], []
    for name, value in headers:
        if name.startswith(REQUEST_HEADER):
            kept.append((name, value))
        elif name != REPLAY:
            own.append((name, value is not None, value))
    # No two values are spelled alike.
    return sha256(repr((key, sorted(own), kept)).encode("utf-8", "backslashreplace")).digest()


class Seen(NamedTuple):
    """Whose record it is: `event_id` is None where it is none of the bridge's, `format` None for raw.

    `made_here` tells a record of the bridge from one of somebody else who has such ids, too.
    """

    event_id: uuid.UUID | None
    source: str
    format: str | None
    copy: bool
    released: bool
    made_here: bool


def look_at(record: Record) -> Seen:
    """What the headers of a record tell."""
    event_id = form = None
    source = ""
    copy = released = made_here = False
    for name, value in record.headers:
        if name == "ce_id":
            event_id = ids.parse((value or b"").decode("latin-1"))
        elif name == "kwb_source":
            source = (value or b"").decode("utf-8", "replace")
        elif name == _EVERY_RECORD_HAS:
            made_here = True
        elif name == FORMAT:
            form = (value or b"").decode("latin-1")
        elif name == REPLAY:  # a copy has no row of its own, and is no duplicate (rules.md 16)
            copy = True
        elif name == RELEASED:
            released = True
    return Seen(event_id, source, form, copy, released, made_here)
