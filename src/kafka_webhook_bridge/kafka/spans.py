"""Reading given spans of partitions to their ends, for those who compare what is there.

    read({Place: (first, end)}, take)  ──▶  take(record) for each, in the order of each partition

Blocking, to be called from one thread at a time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from kafka_webhook_bridge.errors import KafkaError
from kafka_webhook_bridge.kafka.admin import Admin
from kafka_webhook_bridge.kafka.consumer import Place, Record, RecordReader
from kafka_webhook_bridge.settings import KafkaSettings

Span = tuple[int, int]  # first offset, and the one after the last

_READ_RECORDS = 2_000
_READ_BYTES = 8 * 1024**2
_READ_WAIT_S = 0.5  # so soon `stopped` is noticed
_SILENCE_S = 60.0  # no record for so long, although there are some: Kafka does not answer


class SpanReader:
    """Offsets that hold no record, and those that retention takes away meanwhile, are passed over."""

    def __init__(self, settings: KafkaSettings, admin: Admin, *, client_id: str, record_bytes_max: int) -> None:
        self._admin = admin
        self._reader = RecordReader(settings, client_id=client_id, record_bytes_max=record_bytes_max, tell_ends=True)

    def read(
        self,
        spans: Mapping[Place, Span],
        take: Callable[[Record], None],
        stopped: threading.Event,
        progress: Callable[[int, int], None] = lambda *_: None,
    ) -> None:
        """Every record of these spans, or until `stopped`. `progress` is told offsets done and in all.

        Raises KafkaError when the cluster does not give them.
        """
        left = {place: span for place, span in spans.items() if span[0] < span[1]}
        if not left:
            return
        next_offset = {place: first for place, (first, _) in left.items()}
        first_offset = dict(next_offset)
        total = sum(end - first for first, end in left.values())
        self._reader.assign(next_offset)
        heard_at = time.monotonic()
        while left and not stopped.is_set():
            batch = self._reader.read(_READ_RECORDS, _READ_BYTES, _READ_WAIT_S)
            for record in batch.records:
                place = Place(record.topic, record.partition)
                if place in left and next_offset[place] <= record.offset < left[place][1]:
                    take(record)
                    next_offset[place] = record.offset + 1
            for place in [p for p, (_, end) in left.items() if next_offset[p] >= end or p in batch.ended]:
                next_offset[place] = left.pop(place)[1]
            if batch.gone:
                raise KafkaError(f"The broker does not know {_topics(batch.gone)}.")
            if lost := batch.lost & left.keys():
                self._go_on(lost, left, next_offset)
            if batch.records or batch.ended or batch.lost:
                heard_at = time.monotonic()
            elif time.monotonic() - heard_at > _SILENCE_S:
                why = f" ({batch.failures[0]})" if batch.failures else ""
                raise KafkaError(
                    f"Kafka gives no more records of {_topics(left)}{why}.",
                    hint="`kwb doctor` checks the cluster and the right to read.",
                )
            progress(sum(next_offset[place] - first for place, first in first_offset.items()), total)

    def _go_on(self, lost: set[Place], left: dict[Place, Span], next_offset: dict[Place, int]) -> None:
        """Retention was faster: the beginning of these places went while they were read."""
        ranges = self._admin.offsets({place.topic for place in lost})
        for place in lost:
            first, _ = ranges[place.topic][place.partition]
            next_offset[place] = max(next_offset[place], first)
            if next_offset[place] >= left[place][1]:
                next_offset[place] = left.pop(place)[1]
        self._reader.assign({place: next_offset[place] for place in left})

    def close(self) -> None:
        """Leave. Bounded by librdkafka's own time limits."""
        self._reader.close()


def _topics(places: Mapping[Place, Span] | set[Place]) -> str:
    return ", ".join(sorted({place.topic for place in places}))
