"""Writing batches of records, each to its end, for replays and rebuilds.

    write([ToWrite, …])  ──▶  [Written(partition, offset) | Failed, …]     in the same order, when all are reported

Blocking, to be called from one thread at a time. One idempotent producer with acks=all; a record that fails leaves the
order of those behind it open, so whoever gets a Failed closes the writer and looks at the topic.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import NamedTuple

import confluent_kafka as ck

from kafka_webhook_bridge.errors import KafkaError
from kafka_webhook_bridge.kafka.config import client_config
from kafka_webhook_bridge.kafka.errors import HINTS, translate
from kafka_webhook_bridge.settings import KafkaSettings

BY_KEY = -1  # partition: as the key says

_BATCH_BYTES = 1_000_000  # librdkafka's batch.size
_POLL_S = 0.1
_GRACE_S = 10.0  # beyond delivery.timeout.ms, in which every report must come
# Trying again does not help until somebody has changed something.
_LASTING = frozenset(
    {
        ck.KafkaError.MSG_SIZE_TOO_LARGE,
        ck.KafkaError.INVALID_RECORD,
        ck.KafkaError.TOPIC_AUTHORIZATION_FAILED,
        ck.KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        ck.KafkaError._UNKNOWN_PARTITION,
        ck.KafkaError.POLICY_VIOLATION,
    }
)


class ToWrite(NamedTuple):
    """A record and where it goes."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes
    headers: list[tuple[str, bytes]]


class Written(NamedTuple):
    """Where a record is, acknowledged by all in-sync replicas."""

    partition: int
    offset: int


class Failed(NamedTuple):
    """Kafka's error in words; the record may be in the topic all the same. `lasting`: trying again will not help."""

    message: str
    hint: str
    lasting: bool


class Writer:
    """Raises ConfigError at once when the settings cannot be used.

    `batch_bytes_max` is the least `max.message.bytes` of the topics: a broker holds a whole batch against that.
    """

    def __init__(
        self, settings: KafkaSettings, *, client_id: str, record_bytes_max: int, batch_bytes_max: int = _BATCH_BYTES
    ) -> None:
        self._patience_s = settings.delivery_timeout_ms / 1000 + _GRACE_S
        self._producer = ck.Producer(
            client_config(
                settings,
                **{
                    "client.id": client_id,
                    "acks": "all",
                    "enable.idempotence": True,
                    "partitioner": "murmur2_random",  # as Java clients do
                    "linger.ms": settings.linger_bulk_ms,
                    "delivery.timeout.ms": settings.delivery_timeout_ms,
                    "queue.buffering.max.messages": settings.queue_records_max,
                    "queue.buffering.max.kbytes": max(1, settings.queue_bytes_max // 1024),
                    "message.max.bytes": record_bytes_max,
                    "batch.size": min(_BATCH_BYTES, batch_bytes_max),
                    "socket.timeout.ms": min(3_000, settings.delivery_timeout_ms),
                },
            )
        )

    def write(self, records: Iterable[ToWrite]) -> list[Written | Failed]:
        """Hand them all over and wait for all reports. Raises KafkaError when a report does not come at all."""
        count = 0
        outcomes: dict[int, Written | Failed] = {}
        deadline = time.monotonic() + self._patience_s
        for number, record in enumerate(records):
            count += 1
            while True:
                try:
                    self._producer.produce(
                        record.topic, record.value, record.key, record.partition, _Report(outcomes, number),
                        headers=record.headers,  # type: ignore[arg-type]  # an invariant list in its stub
                    )  # fmt: skip
                    break
                except BufferError:
                    self._producer.poll(_POLL_S)
                    if time.monotonic() > deadline:
                        raise KafkaError("Kafka takes no more records: its queue stays full.") from None
                except ck.KafkaException as failure:
                    outcomes[number] = _failed(failure.args[0])
                    break
        deadline = time.monotonic() + self._patience_s
        while len(outcomes) < count:
            self._producer.poll(_POLL_S)
            if time.monotonic() > deadline:
                raise KafkaError("Kafka's client gave no report of some records in time.")
        return [outcomes[number] for number in range(count)]

    def close(self) -> None:
        """Whatever is not acknowledged is given up: nothing is sent by this writer any more."""
        self._producer.purge()
        self._producer.poll(0)


class _Report:
    """The report of one record; a class, because it costs less than a closure."""

    __slots__ = ("_number", "_outcomes")

    def __init__(self, outcomes: dict[int, Written | Failed], number: int) -> None:
        self._outcomes = outcomes
        self._number = number

    def __call__(self, error: ck.KafkaError | None, message: ck.Message) -> None:
        if error is not None:
            self._outcomes[self._number] = _failed(error)
            return
        partition, offset = message.partition(), message.offset()
        if partition is None or offset is None:  # docs/decisions/success-without-offset.md
            self._outcomes[self._number] = Failed(
                "Kafka failed while writing: acknowledged without an offset", "", False
            )
        else:
            self._outcomes[self._number] = Written(partition, offset)


def _failed(error: ck.KafkaError) -> Failed:
    told = translate("writing a record", ck.KafkaException(error))
    return Failed(told.message, HINTS.get(error.code(), told.hint), error.code() in _LASTING)
