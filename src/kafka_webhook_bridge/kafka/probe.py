"""Does a broker answer? The question that everything which starts a broker asks until it gets a yes."""

from __future__ import annotations

import time
from collections.abc import Callable

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from kafka_webhook_bridge.kafka.config import client_config
from kafka_webhook_bridge.settings import KafkaSettings

_ANSWER_S = 1.0
_PAUSE_S = 0.05
# A broker that starts refuses connections; a longer back-off would be slower than the broker.
_EAGER = {"reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 100}


def await_broker(settings: KafkaSettings, timeout_s: float, go_on: Callable[[], bool] = lambda: True) -> bool:
    """Whether a logged-in client got metadata naming a broker within `timeout_s`; `go_on` false ends the wait."""
    client = AdminClient(client_config(settings, **_EAGER, error_cb=lambda _: None))
    deadline = time.monotonic() + timeout_s
    while go_on() and time.monotonic() < deadline:
        try:
            if client.list_topics(timeout=_ANSWER_S).brokers:
                return True
        except KafkaException:
            time.sleep(_PAUSE_S)
    return False
