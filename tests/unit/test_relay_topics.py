"""The relay's breaker of one topic."""

from __future__ import annotations

from kafka_webhook_bridge.archive.relay import Topic


def test_a_topic_is_left_alone_after_three_failures_and_longer_each_time() -> None:
    topic = Topic("t")
    topic.failed(10.0)
    topic.failed(10.0)
    assert (topic.on_trial, topic.held_until) == (False, 0.0)
    topic.failed(10.0)
    assert (topic.on_trial, topic.held_until) == (True, 10.5)
    topic.failed(10.1)  # of the same batch
    assert topic.held_until == 10.5
    topic.failures = 4
    topic.failed(20.0)
    assert topic.held_until == 22.0
    topic.failures = 500
    topic.failed(30.0)
    assert topic.held_until == 35.0  # and never longer


def test_one_success_ends_it() -> None:
    topic = Topic("t")
    for _ in range(9):
        topic.failed(10.0)
    topic.well()
    assert (topic.on_trial, topic.held_until) == (False, 0.0)
    topic.failed(20.0)
    assert topic.held_until == 0.0
