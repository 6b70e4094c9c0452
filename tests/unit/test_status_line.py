"""The status line: what grew since the line before, what is now, and nothing that is not known."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from kafka_webhook_bridge.app.status import EVERY_S, NOW, SINCE, StatusLine
from kafka_webhook_bridge.observability import metrics
from kafka_webhook_bridge.observability.health import Part

WELL = Part("postgres", "ready", durable=True)


def processes(count: int) -> tuple[list[metrics.Registry], list[metrics.Segment]]:
    registries = [metrics.Registry() for _ in range(count)]
    return registries, [registry.segment for registry in registries]


class Lines(list[dict[str, Any]]):
    """In the place of the log."""

    def info(self, event: str, **fields: Any) -> None:
        assert event == "status"
        assert all(type(value) is int for value in fields.values())
        self.append(fields)


def written(line: StatusLine) -> dict[str, Any] | None:
    line._log = lines = Lines()  # type: ignore[assignment]
    line.write()
    return lines.pop() if lines else None


def test_rule_13_an_ingest_tells_what_grew_in_all_its_processes() -> None:
    registries, segments = processes(2)
    line = StatusLine(segments, [], list, lambda: 0.0)
    assert written(line) == dict.fromkeys(SINCE, 0)
    for registry in registries:
        for source in ("a", "b"):
            registry.counter("kwb_requests_received_total", source=source).add(3)
            registry.counter("kwb_requests_refused_total", source=source, code="kafka.timeout").add(1)
    assert written(line) == {
        "received_requests": 12, "acked_requests": 0, "rejected_requests": 0, "refused_requests": 4,
    }  # fmt: skip
    registries[0].counter("kwb_requests_refused_total", source="a", code="kafka.timeout").add(2)
    assert (written(line) or {})["refused_requests"] == 2
    assert (written(line) or {})["refused_requests"] == 0


def test_rule_13_a_worker_tells_what_is_now_and_only_what_it_knows() -> None:
    (registry,), segments = processes(1)
    parts: list[Part] = []
    line = StatusLine([], segments, lambda: parts, lambda: 0.0)
    assert written(line) is None
    for state in ("waiting", "blocked", "quarantined"):
        registry.gauge("kwb_outbox_rows", state=state).set(5)
    registry.gauge("kwb_archive_lag_records").set(7)
    assert written(line) is None, "it was not heard yet"
    parts.append(WELL)
    assert written(line) == {"outbox_rows": 15, "archive_lag_records": 7}, "nothing was said of events at risk"
    registry.gauge("kwb_archive_at_risk_events").set(math.nan)
    assert written(line) == {"outbox_rows": 15, "archive_lag_records": 7}, "nobody has looked yet"
    registry.gauge("kwb_archive_at_risk_events").set(8)
    assert written(line) == {"outbox_rows": 15, "archive_lag_records": 7, "at_risk_events": 8}
    parts[0] = Part("postgres", "unavailable", "away", durable=True)
    assert written(line) is None, "what was known last is no news"


def test_a_bridge_of_both_roles_writes_one_line() -> None:
    (ingest, worker), segments = processes(2)
    ingest.counter("kwb_requests_acked_total", source="a", stored="kafka").add()
    for name in NOW.values():
        labels: Any = {"state": "waiting"} if metrics.TABLE[name].labels else {}
        worker.gauge(name, **labels).set(1)
    found = written(StatusLine(segments[:1], segments[1:], lambda: [WELL], lambda: 0.0))
    assert found == {**dict.fromkeys(SINCE, 0), "acked_requests": 1, **dict.fromkeys(NOW, 1)}


def test_a_line_is_written_every_minute_of_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kafka_webhook_bridge.app.status._LOOK_S", 0.001)
    now, stop = [100.0], asyncio.Event()
    _, segments = processes(1)
    line = StatusLine(segments, [], list, lambda: now[0])

    async def looks() -> None:
        """Long enough for it to look at the clock again."""
        seen = asyncio.Event()
        original = line._clock
        line._clock = lambda: (seen.set(), original())[1]  # type: ignore[func-returns-value]
        async with asyncio.timeout(60):
            await seen.wait()
            seen.clear()
            await seen.wait()
        line._clock = original

    async def run() -> list[int]:
        task, counts = asyncio.create_task(line.run(stop)), []
        line._log = lines = Lines()  # type: ignore[assignment]
        for forward_s in (0.0, EVERY_S - 1, 1.0, 0.0, EVERY_S):
            now[0] += forward_s
            await looks()
            counts.append(len(lines))
        stop.set()
        async with asyncio.timeout(60):
            await task
        return counts

    assert asyncio.run(run()) == [0, 0, 1, 1, 2]
