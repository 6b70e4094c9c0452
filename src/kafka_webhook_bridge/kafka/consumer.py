"""Reading records from given positions: the archive, audits, `kwb tail`. No group: Kafka keeps no position for us.

    assign({Place: offset})  ──▶  read() ──▶ Batch(records, lost, failures)  ──▶  …
    read_between(starts, ends)  ──▶  every record that lies there

Blocking, to be called from one thread at a time.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import confluent_kafka as ck

from kafka_webhook_bridge.errors import KafkaError
from kafka_webhook_bridge.kafka import login
from kafka_webhook_bridge.kafka.config import RECORD_BYTES_DEFAULT, client_config
from kafka_webhook_bridge.kafka.errors import translate
from kafka_webhook_bridge.settings import KafkaSettings

BEGINNING: int = ck.OFFSET_BEGINNING
END: int = ck.OFFSET_END
READ_AHEAD_BYTES = 32 * 1024**2  # that librdkafka may hold for us, all partitions together
_SLICE_RECORDS_MAX = 500  # fetched from librdkafka in one call
# A name that is not UTF-8 makes `headers` return with an exception set. CPython's quickened calls of a method do not
# look at that and crash later; this way of calling does, and raises SystemError.
_headers = operator.methodcaller("headers")
_ASSUMED_RECORD_BYTES = 4096  # until records were seen
_ERRORS_KEPT = 8
_GONE = frozenset({ck.KafkaError.UNKNOWN_TOPIC_OR_PART, ck.KafkaError._UNKNOWN_TOPIC, ck.KafkaError._UNKNOWN_PARTITION})
_OUT_OF_RANGE = frozenset({ck.KafkaError._AUTO_OFFSET_RESET, ck.KafkaError.OFFSET_OUT_OF_RANGE})


class Place(NamedTuple):
    """One partition of a topic."""

    topic: str
    partition: int


class Record(NamedTuple):
    """A record as it is in Kafka. `timestamp_ms` is None when it has none; `headers` are in order."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes
    headers: list[tuple[str, bytes | None]]
    timestamp_ms: int | None


@dataclass(slots=True)
class Batch:
    """What one `read` gave. `lost` are places whose position does not exist in Kafka (any more); they are not read on.

    `gone` are places that the cluster does not know. `ended` are places whose end was met, told only by a reader that
    was asked to. `failures` are other errors, in words.
    `gone` are places that the cluster does not know. `ended` are places whose last record was read, if the reader tells
    ends. `failures` are other errors, in words.
    """

    records: list[Record] = field(default_factory=list)
    size_bytes: int = 0
    lost: set[Place] = field(default_factory=set)
    gone: set[Place] = field(default_factory=set)
    ended: set[Place] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)


class RecordReader:
    """Reads what it was assigned. Raises KafkaError when librdkafka refuses, ConfigError at once."""

    def __init__(
        self,
        settings: KafkaSettings,
        *,
        client_id: str = "kwb-reader",
        record_bytes_max: int = RECORD_BYTES_DEFAULT,
        tell_ends: bool = False,
    ) -> None:
        """`tell_ends`: say when a place is read to its end; its last offsets may hold no record."""
        # The fetch sizes follow the largest record (rules.md 9); a broker sends a larger one all the same (KIP-74).
        fetch_bytes_max = max(READ_AHEAD_BYTES, record_bytes_max)
        self._consumer = ck.Consumer(
            client_config(
                settings,
                **{
                    "client.id": client_id,
                    "group.id": client_id,  # librdkafka wants one; it is never joined and nothing is committed
                    "enable.auto.commit": False,
                    "enable.auto.offset.store": False,
                    "auto.offset.reset": "error",  # never skip silently
                    "enable.partition.eof": tell_ends,
                    "allow.auto.create.topics": False,
                    "fetch.wait.max.ms": 100,
                    "fetch.max.bytes": fetch_bytes_max,
                    "receive.message.max.bytes": fetch_bytes_max + record_bytes_max + 1024**2,
                    "queued.max.messages.kbytes": READ_AHEAD_BYTES // 1024,
                    "topic.metadata.refresh.interval.ms": 10_000,
                    "error_cb": self._errored,
                },
            )
        )
        login.follow(self, settings)
        self._record_bytes = float(_ASSUMED_RECORD_BYTES)
        self._errors: list[str] = []

    def log_in(self, username: str, password: str) -> None:
        """Use another password from the next connection on."""
        self._consumer.set_sasl_credentials(username, password)

    def _errored(self, error: ck.KafkaError) -> None:
        if len(self._errors) < _ERRORS_KEPT:
            self._errors.append(f"{error.name()}: {error.str()}")

    def assign(self, positions: Mapping[Place, int]) -> None:
        """Read these places from these offsets (or BEGINNING, END) and no others; what was read ahead is forgotten."""
        self._errors.clear()
        try:
            self._consumer.assign([ck.TopicPartition(p.topic, p.partition, o) for p, o in positions.items()])
        except ck.KafkaException as failure:
            raise translate("beginning to read", failure) from failure

    def read(self, records_max: int, bytes_max: int, wait_s: float) -> Batch:
        """Up to so many records and about so many bytes; fewer after `wait_s`.

        Records come in slices sized by those seen before, so a sudden run of large ones may exceed `bytes_max` by what
        librdkafka had read ahead (READ_AHEAD_BYTES) and received meanwhile.
        """
        batch = Batch()
        while len(batch.records) < records_max and batch.size_bytes < bytes_max:
            room = int((bytes_max - batch.size_bytes) / self._record_bytes) + 1
            count = min(records_max - len(batch.records), room, _SLICE_RECORDS_MAX)
            try:
                messages = self._consumer.consume(count, 0 if batch.records else wait_s)
            except (ck.KafkaException, RuntimeError) as failure:
                raise translate("reading records", failure) from failure
            before, size_before = len(batch.records), batch.size_bytes
            for message in messages:
                self._take(message, batch)
            if taken := len(batch.records) - before:
                self._record_bytes = max(1.0, (batch.size_bytes - size_before) / taken)
            if len(messages) < count:
                break
        batch.failures += self._errors
        self._errors.clear()
        return batch

    @staticmethod
    def _take(message: Any, batch: Batch) -> None:
        error = message.error()
        if error is not None:
            code = error.code()
            place = Place(message.topic(), message.partition())
            if code == ck.KafkaError._PARTITION_EOF:
                batch.ended.add(place)
            elif code in _OUT_OF_RANGE:
                batch.lost.add(place)
            elif code in _GONE:
                batch.gone.add(place)
            elif code == ck.KafkaError._PARTITION_EOF:
                batch.ended.add(place)
            else:
                batch.failures.append(f"{error.name()}: {error.str()}")
            return
        try:
            headers = _headers(message) or []
        except (SystemError, UnicodeDecodeError):
            headers = []  # one has a name that is not UTF-8, which confluent_kafka cannot give; none of ours has
        value = message.value() or b""
        kind, timestamp_ms = message.timestamp()
        batch.size_bytes += len(value)
        batch.records.append(
            Record(
                message.topic(),
                message.partition(),
                message.offset(),
                message.key(),
                value,
                headers,
                None if kind == ck.TIMESTAMP_NOT_AVAILABLE else timestamp_ms,
            )
        )

    def close(self) -> None:
        """Leave. Bounded by librdkafka's own time limits."""
        self._consumer.close()


_BETWEEN_RECORDS = 1_000
_BETWEEN_BYTES = 8 * 1024**2
_BETWEEN_WAIT_S = 0.5
_BETWEEN_SILENCE_S = 30.0


def read_between(
    settings: KafkaSettings,
    starts: Mapping[Place, int],
    ends: Mapping[Place, int],
    *,
    client_id: str,
    record_bytes_max: int = RECORD_BYTES_DEFAULT,
) -> Iterator[Record]:
    """Every record from `starts` to before `ends`. Raises KafkaError when a place cannot be read to its end.

    A partition is done at its end, too: the last offsets of one need not be records (transactions, compaction).
    """
    left = {place: start for place, start in starts.items() if start < ends[place]}
    if not left:
        return
    reader = RecordReader(settings, client_id=client_id, record_bytes_max=record_bytes_max, tell_ends=True)
    try:
        reader.assign(left)
        heard = time.monotonic()
        while left:
            batch = reader.read(_BETWEEN_RECORDS, _BETWEEN_BYTES, _BETWEEN_WAIT_S)
            if lost := batch.lost | batch.gone:
                raise KafkaError(f"{', '.join(f'{p.topic}[{p.partition}]' for p in sorted(lost))} cannot be read.")
            for record in batch.records:
                place = Place(record.topic, record.partition)
                if place in left and record.offset < ends[place]:
                    yield record
                if record.offset + 1 >= ends[place]:
                    left.pop(place, None)
            for place in batch.ended:
                left.pop(place, None)
            if batch.records or batch.ended:
                heard = time.monotonic()
            elif time.monotonic() - heard > _BETWEEN_SILENCE_S:
                said = f": {batch.failures[0]}" if batch.failures else ""
                raise KafkaError(f"Kafka gives no records of {sorted(left)[0].topic}{said}")
    finally:
        reader.close()
