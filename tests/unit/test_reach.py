"""What reports of librdkafka and the answers of the cluster are taken to mean."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import confluent_kafka as ck
import pytest

from kafka_webhook_bridge.kafka import reach
from kafka_webhook_bridge.kafka.reach import Reach
from kafka_webhook_bridge.observability import metrics

K = ck.KafkaError
NOTHING_HEARD: Callable[[], float] = lambda: 0.0  # noqa: E731


class Cluster:
    """Answers, or fails with a code; counts how often it was asked, and with how much patience."""

    def __init__(self, code: int | None = None, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.code = code
        self.waits: list[float] = []
        self._meanwhile = meanwhile

    def __call__(self, timeout_s: float) -> None:
        self.waits.append(timeout_s)
        self._meanwhile()
        if self.code is not None:
            raise ck.KafkaException(K(self.code))


class Woken:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def gauge(name: Any) -> float:
    return metrics.registry().gauge(name).value


def test_an_answer_is_all_that_is_needed() -> None:
    woken = Woken()
    found = Reach(woken)
    assert (found.connected, found.available, found.reason) == (True, False, "not connected yet")
    found.report(K(K._ALL_BROKERS_DOWN))  # an idle connection was closed
    assert woken.count == 1
    cluster = Cluster()
    assert found.ask(cluster, NOTHING_HEARD)
    assert (found.connected, found.available, found.reason) == (True, True, "")
    assert len(cluster.waits) == 1


def test_trouble_and_no_connection_is_lost_after_the_short_wait() -> None:
    woken = Woken()
    found = Reach(woken)
    refused = K(K._TRANSPORT, "Connect to x failed: Connection refused")
    cluster = Cluster(K._TRANSPORT, meanwhile=lambda: found.report(refused))
    assert not found.ask(cluster, NOTHING_HEARD)
    assert (found.connected, found.available, found.reason) == (False, False, refused.str())
    assert cluster.waits == [reach._ANSWER_S[0]]
    assert gauge("kwb_kafka_connected") == 0
    before = woken.count
    found.report(refused)
    assert woken.count == before  # it is known already: a cluster that is away reports many times a second
    assert found.ask(Cluster(), NOTHING_HEARD)
    assert (found.connected, found.reason, gauge("kwb_kafka_connected")) == (True, "", 1)


def test_a_connection_that_is_slow_to_come_gets_the_whole_wait() -> None:
    found = Reach(lambda: None)
    cluster = Cluster(K._TRANSPORT)
    assert not found.ask(cluster, NOTHING_HEARD)
    assert cluster.waits == list(reach._ANSWER_S)
    assert not found.connected


def test_a_broker_that_stands_still_is_not_lost() -> None:
    found = Reach(lambda: None)
    cluster = Cluster(K._TIMED_OUT, meanwhile=lambda: found.report(K(K._ALL_BROKERS_DOWN)))
    assert not found.ask(cluster, NOTHING_HEARD)
    assert (found.connected, found.available) == (True, False)
    assert "connected" in found.reason
    assert cluster.waits == list(reach._ANSWER_S)


def test_a_connection_that_brings_reports_is_not_lost() -> None:
    found = Reach(lambda: None)
    assert not found.ask(Cluster(K._TRANSPORT), lambda: time.monotonic() + 1)
    assert (found.connected, found.available) == (True, False)


@pytest.mark.parametrize(
    ("code", "words", "lost"),
    [
        (K._AUTHENTICATION, "refuses the login", True),
        (K.TOPIC_AUTHORIZATION_FAILED, "denies a right (TOPIC_AUTHORIZATION_FAILED)", False),
    ],
)
def test_a_refusal_is_no_outage(code: int, words: str, lost: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Reach(lambda: None)
    told: list[str] = []
    monkeypatch.setattr(found, "_log", SimpleNamespace(error=lambda event, **_: told.append(event), info=told.append))
    error = K(code, "said the broker")
    found.report(error)
    cluster = Cluster(K._TRANSPORT if lost else None, meanwhile=lambda: found.report(error))
    assert found.ask(cluster, NOTHING_HEARD) != lost
    for text in (found.refused, found.reason if lost else found.refused):
        assert words in text
        assert "said the broker" in text
        assert "KAFKA_PASSWORD" in text or "Grant" in text  # what to do
    assert found.connected != lost
    assert gauge("kwb_kafka_auth_failed") == 1
    found.ask(cluster, NOTHING_HEARD)
    assert told == ["Kafka refuses the bridge"]  # once
    if lost:
        found.forget()
    else:
        monkeypatch.setattr(reach, "_REFUSED_SHOWN_S", -1)
    assert found.refused == ""
    assert found.ask(Cluster(), NOTHING_HEARD)
    assert gauge("kwb_kafka_auth_failed") == 0
    assert told == ["Kafka refuses the bridge", "Kafka is reached again"]
