"""Whose fault one of Kafka's errors is."""

from __future__ import annotations

import confluent_kafka as ck
import pytest

from kafka_webhook_bridge.kafka.errors import blame, reason_of


@pytest.mark.parametrize(
    ("code", "fault", "reason"),
    [
        (ck.KafkaError._UNKNOWN_TOPIC, "topic", "UNKNOWN_TOPIC"),
        (ck.KafkaError.UNKNOWN_TOPIC_OR_PART, "topic", "UNKNOWN_TOPIC"),
        (ck.KafkaError.TOPIC_AUTHORIZATION_FAILED, "topic", "TOPIC_AUTHORIZATION_FAILED"),
        (ck.KafkaError.TOPIC_EXCEPTION, "topic", "TOPIC_EXCEPTION"),
        (ck.KafkaError.MSG_SIZE_TOO_LARGE, "record", "MSG_SIZE_TOO_LARGE"),
        (ck.KafkaError.INVALID_RECORD, "record", "INVALID_RECORD"),
        (ck.KafkaError._MSG_TIMED_OUT, "cluster", "_MSG_TIMED_OUT"),
        (ck.KafkaError._PURGE_INFLIGHT, "cluster", "_PURGE_INFLIGHT"),
        (ck.KafkaError.NOT_ENOUGH_REPLICAS, "cluster", "NOT_ENOUGH_REPLICAS"),
        (ck.KafkaError._GAPLESS_GUARANTEE, "cluster", "_GAPLESS_GUARANTEE"),
    ],
)
def test_by_the_names_that_the_client_tells(code: int, fault: str, reason: str) -> None:
    name = ck.KafkaError(code).name()
    assert (blame(name), reason_of(name)) == (fault, reason)
    assert blame(reason_of(name)) == fault  # what is kept with an event says the same
