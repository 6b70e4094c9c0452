"""A record written for trial: the only proof of the right to produce, and a look at the broker's clock."""

from __future__ import annotations

import time
from dataclasses import dataclass

import confluent_kafka as ck

from kafka_webhook_bridge.errors import KafkaError
from kafka_webhook_bridge.kafka.config import client_config
from kafka_webhook_bridge.kafka.errors import translate
from kafka_webhook_bridge.settings import KafkaSettings


@dataclass(frozen=True, slots=True)
class Trial:
    """`ack_ms` from produce to the acknowledgement of all in-sync replicas; `clock_ahead_ms` the broker's less ours.

    `clock_ahead_ms` is None where the topic keeps the producer's time.
    """

    ack_ms: float
    clock_ahead_ms: float | None


def try_write(settings: KafkaSettings, topic: str, *, timeout_s: float = 10.0) -> Trial:
    """Write two records to the topic, the first to warm the connection. Raises KafkaError with Kafka's reason."""
    producer = ck.Producer(
        client_config(
            settings,
            **{"client.id": "kwb-trial", "acks": "all", "linger.ms": 0, "delivery.timeout.ms": int(timeout_s * 1000)},
        )
    )
    trial = None
    for _ in range(2):
        trial = _write(producer, topic, timeout_s)
    assert trial is not None
    return trial


def _write(producer: ck.Producer, topic: str, timeout_s: float) -> Trial:
    reports: list[tuple[ck.KafkaError | None, ck.Message]] = []
    sent, sent_wall = time.monotonic(), time.time()
    producer.produce(topic, b"kwb doctor", on_delivery=lambda error, message: reports.append((error, message)))
    while not reports and time.monotonic() - sent < timeout_s + 1:
        producer.poll(0.1)
    if not reports:
        raise KafkaError(f"Kafka failed while writing to {topic}: no answer in time", hint="Look at the brokers' logs.")
    error, message = reports[0]
    if error is not None:
        raise translate(f"writing to {topic}", ck.KafkaException(error))
    took_s = time.monotonic() - sent
    kind, stamp_ms = message.timestamp()
    ahead_ms = stamp_ms - (sent_wall + took_s / 2) * 1000 if kind == ck.TIMESTAMP_LOG_APPEND_TIME else None
    return Trial(took_s * 1000, ahead_ms)
