"""Records out of Kafka: a batch as rows of `events`, and one as those see it who only compare."""

from __future__ import annotations

import re
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

from kafka_webhook_bridge import ids
from kafka_webhook_bridge.formats.headers import ALTERED, BODY_SHA256, FORMAT, PARENT_ID
from kafka_webhook_bridge.formats.rows import RELEASED, REPLAY, REQUEST_HEADER, EventRow, RowMaker, Skip
from kafka_webhook_bridge.kafka.consumer import Place, Record

_EVERY_RECORD_HAS = "kwb_verified"
_HEX_DIGEST = re.compile(rb"[0-9a-f]{64}")


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


def fingerprint(
    key: bytes | None, headers: Sequence[tuple[str, bytes | None]], body_sha256: bytes
) -> tuple[bytes, bytes]:
    """The digest of the body that the sender sent, and the label. `body_sha256` is that of the body that is stored.

    Of an altered event they are two bodies: then the label tells of the one that is stored, too (rules.md 29).
    """
    if any(name == ALTERED for name, _ in headers):
        for name, value in headers:
            if name == BODY_SHA256 and _HEX_DIGEST.fullmatch(value or b""):
                return bytes.fromhex((value or b"").decode()), label(key, [*headers, ("", body_sha256)])
    return body_sha256, label(key, headers)


class Seen(NamedTuple):
    """Whose record it is: `event_id` is None where it is none of the bridge's, `format` None for raw.

    `made_here` tells a record of the bridge from one of somebody else who has such ids, too; `parent` is the id of the
    request whose part it is, None where it is a whole one, or its first part.
    """

    event_id: uuid.UUID | None
    source: str
    format: str | None
    copy: bool
    released: bool
    made_here: bool
    parent: bytes | None


def look_at(headers: Iterable[tuple[str, bytes | None]]) -> Seen:
    """What the headers of a record tell."""
    event_id = form = None
    source = ""
    parent = None
    copy = released = made_here = False
    for name, value in headers:
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
        elif name == PARENT_ID:
            parent = ids.parse((value or b"").decode("latin-1"))
    told = None if parent is None or parent == event_id else parent.bytes
    return Seen(event_id, source, form, copy, released, made_here, told)
