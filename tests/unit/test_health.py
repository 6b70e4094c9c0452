"""The summary of product.md section 1."""

from __future__ import annotations

import pytest

from kafka_webhook_bridge.observability.health import Part, summarise

KAFKA = Part("kafka", "ready", durable=True)
NO_KAFKA = Part("kafka", "unavailable", "connection refused", durable=True)
POSTGRES = Part("postgresql", "ready")
NO_POSTGRES = Part("postgresql", "unavailable", "DATABASE_URL is not set")
OUTBOX = Part("outbox", "ready", durable=True)
NO_OUTBOX = Part("outbox", "unavailable", "connection refused", durable=True)


@pytest.mark.parametrize(
    ("parts", "draining", "status", "word"),
    [
        ([KAFKA, POSTGRES], False, 200, "ready"),
        ([KAFKA, NO_POSTGRES], False, 200, "degraded"),
        ([NO_KAFKA, POSTGRES], False, 503, "unavailable"),
        ([NO_KAFKA, OUTBOX], False, 200, "degraded"),
        ([KAFKA, NO_OUTBOX], False, 200, "degraded"),
        ([NO_KAFKA, NO_OUTBOX], False, 503, "unavailable"),
        ([KAFKA, POSTGRES], True, 503, "draining"),
        ([NO_KAFKA, POSTGRES], True, 503, "draining"),
        ([Part("kafka", "degraded", "slow", durable=True)], False, 200, "degraded"),
        ([POSTGRES], False, 503, "unavailable"),
        ([], False, 503, "unavailable"),
    ],
)
def test_summary(parts: list[Part], draining: bool, status: int, word: str) -> None:
    found, body = summarise(parts, draining)
    assert (found, body["status"]) == (status, word)


def test_a_reason_per_part_and_the_worst_of_several_processes() -> None:
    status, body = summarise([KAFKA, NO_KAFKA, KAFKA, POSTGRES], draining=False)
    assert status == 503
    assert body["parts"] == {
        "kafka": {"status": "unavailable", "reason": "connection refused"},
        "postgresql": {"status": "ready", "reason": ""},
    }
