"""Counters in shared memory, judged through real processes that are killed (rules.md 31)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, get_args

import pytest
from mypy import api
from prometheus_client.parser import text_string_to_metric_families

from kafka_webhook_bridge.observability import metrics
from kafka_webhook_bridge.observability.metrics import OPEN_LABELS_MAX, OTHER, TABLE, Exporter, Registry, Segment

COUNT_FOR_EVER = """
    registry = metrics.registry()
    received = registry.counter("kwb_requests_received_total", source="erp")
    registry.gauge("kwb_connections").set(7)
    seconds = registry.histogram("kwb_request_seconds")
    while True:
        received.add()
        seconds.observe(0.004)
        if received.value % 1000 == 0:
            print(int(received.value), flush=True)
"""
DIE_BEFORE_PUBLISHING = """
    import os, signal
    registry = metrics.registry()
    registry.counter("kwb_auth_failures_total").add(5)
    entry = metrics._ENTRY
    class Torn:
        size = entry.size
        unpack_from = staticmethod(entry.unpack_from)
        @staticmethod
        def pack_into(*arguments):
            entry.pack_into(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
    metrics._ENTRY = Torn
    registry.counter("kwb_requests_received_total", source="torn").add()
"""
ONCE = """
    registry = metrics.registry()
    registry.counter("kwb_requests_received_total", source="after").add(3)
    registry.counter("kwb_auth_failures_total").add(1)
"""


@pytest.fixture
def segment() -> Iterator[Segment]:
    made = Segment.create()
    yield made
    os.close(made.fd)


def child(segment: Segment, body: str) -> subprocess.Popen[str]:
    script = "from kafka_webhook_bridge.observability import metrics\n"
    script += f"metrics.attach({segment.fd})\n" + textwrap.dedent(body)
    return subprocess.Popen(
        [sys.executable, "-c", script], pass_fds=[segment.fd], stdout=subprocess.PIPE, text=True, bufsize=1
    )


def read_count(process: subprocess.Popen[str]) -> int:
    output: IO[str] | None = process.stdout
    assert output is not None
    return int(output.readline())


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    if process.stdout:
        process.stdout.close()


def samples(*segments: Segment, processes: dict[str, int] | None = None) -> dict[tuple[str, ...], float]:
    """(sample name, label values sorted by label name) → value, as Prometheus reads the text."""
    text = Exporter().collect_text(segments, processes).decode()
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_rule_31_totals_never_fall_when_a_worker_is_killed(segment: Segment) -> None:
    other = Segment.create()
    Registry(other).counter("kwb_requests_received_total", source="erp").add(10)
    seen = 0.0
    for _ in range(3):
        worker = child(segment, COUNT_FOR_EVER)
        said = read_count(worker)
        kill(worker)
        now = samples(segment, other)
        total = now["kwb_requests_received_total", "erp"]
        assert total >= said + 10
        assert total > seen
        assert now["kwb_request_seconds_bucket", "+Inf"] == now["kwb_request_seconds_count",]
        seen = total
    assert worker.returncode == -signal.SIGKILL
    os.close(other.fd)


def test_rule_31_gauges_of_a_dead_worker_are_zeroed_and_counters_kept(segment: Segment) -> None:
    worker = child(segment, COUNT_FOR_EVER)
    read_count(worker)
    kill(worker)
    before = samples(segment)
    assert before["kwb_connections",] == 7
    segment.zero_gauges()
    after = samples(segment)
    assert after["kwb_connections",] == 0
    assert after["kwb_requests_received_total", "erp"] == before["kwb_requests_received_total", "erp"]


def test_a_key_torn_by_a_kill_leaves_nothing_behind(segment: Segment) -> None:
    worker = child(segment, DIE_BEFORE_PUBLISHING)
    assert worker.wait() == -signal.SIGKILL
    kill(worker)
    assert samples(segment)["kwb_auth_failures_total",] == 5
    assert child_ends(segment, ONCE) == 0
    now = samples(segment)
    assert now["kwb_auth_failures_total",] == 6
    assert now["kwb_requests_received_total", "after"] == 3
    assert ("kwb_requests_received_total", "torn") not in now


def child_ends(segment: Segment, body: str) -> int:
    worker = child(segment, body)
    code = worker.wait()
    kill(worker)
    return code


def test_handles_resolved_before_attach_stay_valid(segment: Segment) -> None:
    registry = Registry()
    early = registry.counter("kwb_auth_failures_total")
    early.add(2)
    seconds = registry.histogram("kwb_request_seconds")
    seconds.observe(0.2)
    registry.attach(segment)
    early.add()
    seconds.observe(9.0)
    now = samples(segment)
    assert now["kwb_auth_failures_total",] == 3
    assert now["kwb_request_seconds_bucket", "0.2"] == 1
    assert now["kwb_request_seconds_count",] == 2
    assert now["kwb_request_seconds_sum",] == pytest.approx(9.2)


def test_threads_lose_no_count() -> None:
    cell = Registry().counter("kwb_auth_failures_total")

    def run() -> None:
        for _ in range(50_000):
            cell.add()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cell.value == 200_000


def test_source_names_are_bounded_also_over_restarts(segment: Segment) -> None:
    most = OPEN_LABELS_MAX["source"]
    first = Registry(segment)
    for n in range(most):
        first.counter("kwb_requests_received_total", source=f"s{n}").add()
    again = Registry()
    again.attach(segment)
    again.counter("kwb_requests_received_total", source="one-more").add()
    again.counter("kwb_requests_received_total", source="and-another").add()
    again.counter("kwb_requests_received_total", source="s7").add()
    now = samples(segment)
    assert now["kwb_requests_received_total", OTHER] == 2
    assert now["kwb_requests_received_total", "s7"] == 2
    assert sum(key[0] == "kwb_requests_received_total" for key in now) == most + 1


def test_the_segment_holds_every_series_that_the_bounds_allow() -> None:
    registry = Registry()
    per_source = 3 + 30  # `stored`, and the codes of errors.REFUSALS
    for n in range(OPEN_LABELS_MAX["source"]):
        source = f"{n:0100d}"
        for i in range(per_source):
            registry.counter("kwb_requests_rejected_total", source=source, code=f"room.what_happened_{i}").add()
    assert len(registry.segment.series()) == OPEN_LABELS_MAX["source"] * per_source


def test_a_full_segment_fails_no_webhook(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry()
    monkeypatch.setattr(metrics, "_SLOTS", 1)
    registry.counter("kwb_auth_failures_total").add()
    registry.counter("kwb_body_bytes_total").add()
    registry.histogram("kwb_request_seconds").observe(1.0)
    assert list(registry.segment.series()) == [("kwb_auth_failures_total",)]


def test_gauges_are_merged_as_their_row_says(segment: Segment) -> None:
    other = Segment.create()
    for one, generation, available in ((segment, 1, 1), (other, 4, 0)):
        registry = Registry(one)
        registry.gauge("kwb_connections").set(5)
        registry.gauge("kwb_kafka_producer_generation", lane="fast").set(generation)
        registry.gauge("kwb_kafka_available").set(available)
    now = samples(segment, other)
    assert now["kwb_connections",] == 10
    assert now["kwb_kafka_producer_generation", "fast"] == 4
    assert now["kwb_kafka_available",] == 0
    os.close(other.fd)


def test_labels_must_be_those_of_the_row() -> None:
    registry = Registry()
    with pytest.raises(TypeError, match="labels"):
        registry.counter("kwb_requests_received_total")
    with pytest.raises(TypeError, match="labels"):
        registry.counter("kwb_auth_failures_total", source="erp")


def test_every_name_stands_once_and_has_its_row() -> None:
    names = [
        name for kind in (metrics.CounterName, metrics.GaugeName, metrics.HistogramName) for name in get_args(kind)
    ]
    assert sorted(names) == sorted(TABLE)
    for name, row in TABLE.items():
        assert row.sentence.endswith("."), name
        assert set(row.labels) <= set(metrics.Labels.__annotations__), name
        assert name.endswith("_total") == (name in get_args(metrics.CounterName)), name
        assert name.endswith("_seconds") or not row.buckets_seconds, name


def test_misuse_fails_the_type_checker(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text("""\
from kafka_webhook_bridge.observability.metrics import registry
registry().counter("kwb_requests_recieved_total", source="erp")
registry().counter("kwb_connections")
registry().counter("kwb_slow_closed_total", phase="headers")
registry().counter("kwb_slow_closed_total", fase="header")
""")
    output, _, status = api.run([str(wrong)])
    assert status == 1
    assert [f"wrong.py:{line}: error" in output for line in (1, 2, 3, 4, 5)] == [False, *[True] * 4], output


def test_process_cpu_time_never_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = {1: metrics.Process(5.0, 10, 3), 2: metrics.Process(1.0, 20, 4), os.getpid(): None}
    monkeypatch.setattr(metrics, "read_process", lambda pid: readings[pid])
    exporter = Exporter()

    def cpu(pid: int) -> float:
        text = exporter.collect_text([], {"ingest-0": pid}).decode()
        (line,) = [line for line in text.splitlines() if line.startswith('kwb_process_cpu_seconds_total{process="ing')]
        return float(line.split()[-1])

    assert [cpu(1), cpu(2), cpu(2)] == [5.0, 6.0, 6.0]


def test_a_living_process_is_read_from_proc() -> None:
    now = samples(processes={"gone": 2**22 + 1})
    assert now["kwb_process_resident_bytes", "supervisor"] > 1024**2
    assert now["kwb_process_open_files", "supervisor"] >= 3
    assert ("kwb_process_resident_bytes", "gone") not in now
    assert any(key[0] == "kwb_build_info" for key in now)
