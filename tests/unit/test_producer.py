"""What a report of librdkafka is worth."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import confluent_kafka as ck
import pytest

from kafka_webhook_bridge.kafka.producer import Outcome, Producer


def reported(error: ck.KafkaError | None, offset: int | None) -> Outcome:
    outcome = Outcome()
    lane: Any = SimpleNamespace(batch=[])
    message: Any = SimpleNamespace(offset=lambda: offset)
    outcome.lane = lane
    outcome.reported(error, message)
    assert lane.batch == [outcome]
    return outcome


def test_rule_1_a_success_without_an_offset_is_unknown() -> None:
    """librdkafka concluded that an earlier try was written; it may be wrong, so nobody may be told 2xx."""
    outcome = reported(None, None)
    assert outcome.error is not None
    assert outcome.error.name() == "_NO_OFFSET"
    assert outcome.unknown
    assert not outcome.topic_is_missing


@pytest.mark.parametrize("offset", [0, 1, 2**62])
def test_a_success_with_an_offset_is_one(offset: int) -> None:
    outcome = reported(None, offset)
    assert outcome.error is None
    assert not outcome.unknown


@pytest.mark.parametrize(
    ("code", "unknown"),
    [
        (ck.KafkaError._MSG_TIMED_OUT, True),
        (ck.KafkaError._PURGE_INFLIGHT, True),
        (ck.KafkaError.MSG_SIZE_TOO_LARGE, False),
    ],
)
def test_an_error_stays_what_it_is(code: int, unknown: bool) -> None:
    outcome = reported(ck.KafkaError(code), None)
    assert outcome.error is not None
    assert (outcome.error.code(), outcome.unknown) == (code, unknown)


class SilentLane:
    """One record is outstanding, and nothing was heard for a minute."""

    fatal = None
    heard = 0.0

    def __init__(self) -> None:
        self.idle = time.monotonic() - 60

    def __len__(self) -> int:
        return 1


def test_rule_8_a_lane_is_stuck_only_while_the_cluster_answers() -> None:
    producer: Any = SimpleNamespace(_settings=SimpleNamespace(stuck_after_ms=5_000))
    lane: Any = SilentLane()
    assert "no report for" in (Producer._sick(producer, lane, True) or "")
    assert Producer._sick(producer, lane, False) is None
    assert Producer._sick(producer, lane, True) is None  # the time that it was away does not count
