"""When the outbox is first, and when Kafka is again (rules.md 3)."""

from __future__ import annotations

import pytest

from kafka_webhook_bridge.ingest.breaker import Breakers
from kafka_webhook_bridge.observability import metrics


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breakers(clock: Clock) -> Breakers:
    return Breakers(3, 500, 3, clock)


def gauge() -> float:
    return metrics.registry().gauge("kwb_breaker_open").value


def test_closed_and_quiet(breakers: Breakers) -> None:
    assert breakers.kafka_first("t")
    assert not breakers.any_open
    assert not breakers.troubled


def test_rule_3_failures_count_in_a_row(breakers: Breakers) -> None:
    for _ in range(5):
        breakers.failed("t")
        breakers.failed("t")
        assert breakers.troubled
        breakers.acked("t")
        assert not breakers.troubled
    assert not breakers.any_open
    for _ in range(3):
        breakers.failed("t")
    assert breakers.any_open
    assert breakers.cluster_open
    assert gauge() == 2  # the topic's and the cluster's


def test_rule_3_one_record_has_a_turn_every_500_ms(breakers: Breakers, clock: Clock) -> None:
    breakers.lost()
    for _ in range(3):
        assert not breakers.kafka_first("t")
        clock.now += 0.499
        assert not breakers.kafka_first("t")
        clock.now += 0.002
        assert breakers.kafka_first("t")
        assert not breakers.kafka_first("other")


def test_rule_3_acknowledgements_close_in_a_row(breakers: Breakers) -> None:
    breakers.lost()
    breakers.acked("t")
    breakers.acked("t")
    breakers.failed("t")
    breakers.acked("t")
    breakers.acked("t")
    assert breakers.any_open
    breakers.acked("t")
    assert not breakers.any_open
    assert not breakers.troubled
    assert gauge() == 0


def test_rule_3_the_last_reports_from_before_close_nothing(breakers: Breakers, clock: Clock) -> None:
    for _ in range(3):
        breakers.failed("t")
    for _ in range(10):
        breakers.acked("t", clock.now - 0.6)
    assert breakers.any_open
    clock.now += 0.6
    for _ in range(3):
        breakers.acked("t", clock.now)
    assert not breakers.any_open


def test_rule_3_a_topic_that_fails_for_itself_leaves_the_others_alone(breakers: Breakers) -> None:
    for _ in range(5):
        breakers.failed("broken", topic_alone=True)
    assert not breakers.kafka_first("broken")
    assert breakers.kafka_first("well")
    assert not breakers.cluster_open


def test_a_busy_broken_topic_does_not_take_the_turns_of_the_others(breakers: Breakers, clock: Clock) -> None:
    for _ in range(3):
        breakers.failed("broken")
    assert breakers.cluster_open
    for _ in range(3):
        clock.now += 0.501
        assert breakers.kafka_first("broken")
        breakers.failed("broken")
        assert not breakers.kafka_first("broken")
        assert breakers.kafka_first("well")
        assert not breakers.kafka_first("well")


def test_acknowledgements_of_others_close_the_clusters_alone(breakers: Breakers) -> None:
    for _ in range(3):
        breakers.failed("broken")
    for _ in range(3):
        breakers.acked("well")
    assert not breakers.cluster_open
    assert breakers.kafka_first("well")
    assert breakers.any_open
    assert not breakers.kafka_first("broken")


def test_a_broker_that_is_found_is_tried_at_once(breakers: Breakers) -> None:
    breakers.lost()
    assert not breakers.kafka_first("t")
    breakers.found()
    assert breakers.any_open  # it has to acknowledge first
    assert breakers.kafka_first("t")
    assert not breakers.kafka_first("t")


def test_an_open_breaker_without_traffic_is_no_news(breakers: Breakers, clock: Clock) -> None:
    breakers.lost()
    assert not breakers.failing  # health has it from the producer
    breakers.failed("t")
    assert breakers.failing
    clock.now += 10.1
    assert not breakers.failing
    assert breakers.cluster_open


def test_what_nobody_asks_for_a_minute_closes(breakers: Breakers, clock: Clock) -> None:
    for _ in range(3):
        breakers.failed("quiet")
    clock.now += 59
    breakers.kafka_first("busy")
    breakers.close_idle()
    assert gauge() == 2
    clock.now += 2
    breakers.close_idle()
    assert gauge() == 1  # the cluster's: a record of another topic asked for it
    clock.now += 61
    breakers.close_idle()
    assert gauge() == 0
    assert breakers.kafka_first("quiet")


def test_a_lost_connection_is_no_silence(breakers: Breakers, clock: Clock) -> None:
    breakers.lost()
    clock.now += 3600
    breakers.close_idle()
    assert breakers.cluster_open
    breakers.found()
    breakers.close_idle()
    assert not breakers.cluster_open
