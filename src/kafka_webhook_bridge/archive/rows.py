"""A batch of records out of Kafka as rows of `events`."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kafka_webhook_bridge.formats.rows import EventRow, RowMaker, Skip
from kafka_webhook_bridge.kafka.consumer import Place, Record


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
