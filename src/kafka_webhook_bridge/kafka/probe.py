"""Does a broker answer? The question that everything which starts a broker asks until it gets a yes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from kafka_webhook_bridge.settings import KafkaSettings

_ANSWER_S = 1.0


def await_broker(settings: KafkaSettings, timeout_s: float, go_on: Callable[[], bool] = lambda: True) -> bool:
    """Whether a logged-in client got metadata naming a broker within `timeout_s`; `go_on` false ends the wait."""
    # A broker that starts refuses connections; librdkafka's back-off of up to 10 s would be slower than the broker.
    extra: dict[str, Any] = {
        "reconnect.backoff.ms": 20,
        "reconnect.backoff.max.ms": 100,
        "log_level": 0,
        "error_cb": lambda _: None,
    }
    login = {
        "bootstrap.servers": settings.bootstrap_servers,
        "security.protocol": settings.security_protocol or "SASL_PLAINTEXT",
        "sasl.mechanism": settings.sasl_mechanism,
        "sasl.username": settings.username,
        "sasl.password": settings.password.get_secret_value() if settings.password else "",
    }
    client = AdminClient({**login, **extra})
    deadline = time.monotonic() + timeout_s
    while go_on() and time.monotonic() < deadline:
        try:
            if client.list_topics(timeout=_ANSWER_S).brokers:
                return True
        except KafkaException:
            time.sleep(0.05)
    return False
