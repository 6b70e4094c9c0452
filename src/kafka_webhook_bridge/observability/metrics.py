"""Metrics as typed names, counted in shared memory so that totals survive the death of a worker (rules.md 31).

    child   registry().counter("kwb_…").add() ──▶ a double in the child's segment (memfd, made by the supervisor)
    supervisor                                     Exporter.collect_text(segments) ──▶ Prometheus text

A segment is a value area of doubles and a key area. A key is written first and published after by moving the end mark,
so a process killed between the two leaves nothing behind; a restarted child reads the keys and goes on counting.
`docs/reference/metrics.md` is made from TABLE. Accounting (rules.md 17): received = acked + suppressed + filtered +
handshakes + rejected + refused + aborted; direct + outbox = events.
"""

from __future__ import annotations

import mmap
import os
import platform
import struct
import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict, Unpack, cast, get_args

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from kafka_webhook_bridge import __version__
from kafka_webhook_bridge.event import Stored

CounterName = Literal[
    "kwb_requests_received_total",
    "kwb_requests_acked_total",
    "kwb_requests_suppressed_total",
    "kwb_requests_filtered_total",
    "kwb_requests_handshakes_total",
    "kwb_requests_rejected_total",
    "kwb_requests_refused_total",
    "kwb_requests_aborted_total",
    "kwb_events_total",
    "kwb_events_unlisted_total",
    "kwb_events_unsplit_total",
    "kwb_body_bytes_total",
    "kwb_auth_failures_total",
    "kwb_slow_closed_total",
    "kwb_kafka_producer_rebuilds_total",
    "kwb_kafka_delivery_errors_total",
    "kwb_kafka_late_acks_total",
    "kwb_outbox_rows_total",
    "kwb_outbox_closed_total",
    "kwb_outbox_stored_after_refusal_total",
    "kwb_outbox_simplified_total",
    "kwb_outbox_errors_total",
    "kwb_worker_restarts_total",
    "kwb_archive_events_total",
    "kwb_archive_batches_total",
    "kwb_archive_skipped_total",
    "kwb_archive_duplicates_marked_total",
    "kwb_archive_refused_total",
    "kwb_archive_errors_total",
    "kwb_archive_positions_lost_total",
    "kwb_rejections_kept_total",
    "kwb_rejections_dropped_total",
    "kwb_dedupe_unknown_total",
    "kwb_dedupe_unsettled_total",
    "kwb_dedupe_taken_over_total",
    "kwb_dedupe_bodies_differ_total",
    "kwb_relay_relayed_total",
    "kwb_relay_failures_total",
    "kwb_relay_quarantined_total",
    "kwb_relay_errors_total",
    "kwb_reconcile_events_total",
    "kwb_reconcile_missing_rows_total",
    "kwb_reconcile_missing_records_total",
    "kwb_users_expired_total",
    "kwb_users_expiry_failures_total",
    "kwb_log_lines_dropped_total",
]
GaugeName = Literal[
    "kwb_connections",
    "kwb_in_flight_bytes",
    "kwb_in_flight_requests",
    "kwb_kafka_available",
    "kwb_kafka_connected",
    "kwb_kafka_auth_failed",
    "kwb_kafka_external_certificate_seconds",
    "kwb_durable",
    "kwb_clock_skew_seconds",
    "kwb_kafka_outstanding_records",
    "kwb_kafka_producer_generation",
    "kwb_breaker_open",
    "kwb_outbox_queue_records",
    "kwb_outbox_queue_bytes",
    "kwb_archive_lag_records",
    "kwb_archive_at_risk_events",
    "kwb_outbox_rows",
    "kwb_outbox_bytes",
    "kwb_outbox_oldest_seconds",
    "kwb_relay_blocked_topics",
    "kwb_relay_blocked_sources",
    "kwb_reconcile_behind_ms",
]
HistogramName = Literal[
    "kwb_request_seconds",
    "kwb_kafka_delivery_seconds",
    "kwb_outbox_batch_seconds",
    "kwb_archive_batch_seconds",
]


Place = Literal["kafka", "postgres"]
PLACES: tuple[Place, ...] = ("kafka", "postgres")


class Labels(TypedDict, total=False):
    """Every label there is and its values. Open ones (`str`) are bounded by OPEN_LABELS_MAX."""

    source: str
    topic: str
    stored: Stored
    code: str  # of errors.REFUSALS
    path: Literal["direct", "outbox"]
    phase: Literal["header", "body", "idle"]
    lane: Literal["fast", "bulk"]
    place: Place
    error: str  # Kafka's or PostgreSQL's name of an error
    role: Literal["ingest", "worker"]
    rule: str  # of a source's filter
    reason: Literal["not_ours", "replay", "out_of_range", "topic_recreated", "rate", "stalled", "full", "refused"]
    state: Literal["waiting", "blocked", "quarantined"]


Label = Literal[
    "source", "topic", "stored", "code", "path", "phase", "lane", "place", "error", "role", "reason", "state",
    "rule",
]  # fmt: skip
UNKNOWN_SOURCE = "_unknown"  # requests whose source does not exist
OTHER = "_other"  # label values beyond the bound
OPEN_LABELS_MAX: Mapping[str, int] = {"source": 1000, "topic": 1000, "code": 128, "error": 64, "rule": 1000}
_LABEL_CHARACTERS_MAX = 120


@dataclass(frozen=True, slots=True)
class Row:
    """One metric. `merge` says how a gauge of several processes becomes one number."""

    sentence: str
    labels: tuple[Label, ...] = ()
    merge: Literal["sum", "max", "min"] = "sum"
    buckets_seconds: tuple[float, ...] = ()

    @property
    def width(self) -> int:
        """Doubles that one series takes: a histogram has its buckets, one for what is above them, and the sum."""
        return len(self.buckets_seconds) + 2 if self.buckets_seconds else 1


_SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)

TABLE: Mapping[CounterName | GaugeName | HistogramName, Row] = {
    "kwb_requests_received_total": Row("Requests whose headers were read, whatever became of them.", ("source",)),
    "kwb_requests_acked_total": Row("Requests answered 2xx after their events were durable.", ("source", "stored")),
    "kwb_requests_suppressed_total": Row("Deliveries answered as a duplicate of a durable event.", ("source",)),
    "kwb_requests_filtered_total": Row(
        "Requests answered 2xx that a rule of the source's filter leaves out.", ("source", "rule")
    ),
    "kwb_requests_handshakes_total": Row("Hand-shakes of senders that were answered.", ("source",)),
    "kwb_requests_rejected_total": Row("Requests answered 4xx.", ("source", "code")),
    "kwb_requests_refused_total": Row("Requests answered 5xx: nothing durable confirmed them.", ("source", "code")),
    "kwb_requests_aborted_total": Row("Requests whose connection ended before an answer could be given."),
    "kwb_events_total": Row("Events made durable, by the path they took.", ("source", "path")),
    "kwb_events_unlisted_total": Row("Events for which the topic's template gave none of `topics`.", ("source",)),
    "kwb_events_unsplit_total": Row("Requests stored whole, because `split` finds no array in them.", ("source",)),
    "kwb_body_bytes_total": Row("Bytes of request bodies received."),
    "kwb_request_seconds": Row("From the last byte of a request to its answer.", buckets_seconds=_SECONDS),
    "kwb_connections": Row("Open connections of senders."),
    "kwb_in_flight_bytes": Row("Bytes of request bodies held now."),
    "kwb_in_flight_requests": Row("Requests that wait for their answer now."),
    "kwb_auth_failures_total": Row("Requests with missing or wrong credentials."),
    "kwb_slow_closed_total": Row("Connections closed because a deadline passed.", ("phase",)),
    "kwb_kafka_available": Row("1 while every process reaches the cluster, else 0.", merge="min"),
    "kwb_kafka_connected": Row("0 while a process has lost every connection to the cluster, else 1.", merge="min"),
    "kwb_kafka_auth_failed": Row("1 while the cluster refuses the bridge's login or a right of it.", merge="max"),
    "kwb_kafka_external_certificate_seconds": Row(
        "Until the certificate of the outside door expires; below 0 afterwards.", merge="min"
    ),
    "kwb_durable": Row("1 where what the place acknowledged is known to outlive a power cut.", ("place",), "min"),
    "kwb_clock_skew_seconds": Row("How far the place's clock is from this machine's, either way.", ("place",), "max"),
    "kwb_kafka_outstanding_records": Row("Records handed to Kafka that have no report yet."),
    "kwb_kafka_producer_generation": Row(
        "How often the lane's producer was made, the most of any process.", ("lane",), "max"
    ),
    "kwb_kafka_producer_rebuilds_total": Row("Producers replaced because they were stuck or dead.", ("lane",)),
    "kwb_kafka_delivery_errors_total": Row("Records that Kafka did not acknowledge.", ("error",)),
    "kwb_kafka_late_acks_total": Row("Records acknowledged after their request was answered otherwise."),
    "kwb_kafka_delivery_seconds": Row("From produce to the report of Kafka.", buckets_seconds=_SECONDS),
    "kwb_dedupe_unknown_total": Row("Deliveries stored without PostgreSQL's word on whether they are duplicates."),
    "kwb_dedupe_unsettled_total": Row("Durable events of which PostgreSQL could not take note, so a copy may follow."),
    "kwb_dedupe_taken_over_total": Row("Deliveries stored under the id that an unfinished one before was given."),
    "kwb_dedupe_bodies_differ_total": Row(
        "Deliveries suppressed although their body is another than the first one's.", ("source",)
    ),
    "kwb_rejections_kept_total": Row("Refused requests kept in PostgreSQL.", ("source",)),
    "kwb_rejections_dropped_total": Row("Refused requests that were not kept.", ("source", "reason")),
    "kwb_breaker_open": Row("Circuit breakers that are open now."),
    "kwb_outbox_rows_total": Row("Events written to the outbox."),
    "kwb_outbox_closed_total": Row("Rows of the outbox deleted because Kafka's acknowledgement came after all."),
    "kwb_outbox_stored_after_refusal_total": Row("Events that came into the outbox after their request was refused."),
    "kwb_outbox_simplified_total": Row("Events of the outbox that PostgreSQL took only without what was derived."),
    "kwb_outbox_errors_total": Row("Statements of the outbox that failed or were late.", ("error",)),
    "kwb_outbox_batch_seconds": Row("Time of one statement of the outbox.", buckets_seconds=_SECONDS),
    "kwb_outbox_queue_records": Row("Records in memory that wait for the outbox."),
    "kwb_outbox_queue_bytes": Row("Bytes in memory that wait for the outbox."),
    "kwb_worker_restarts_total": Row("Processes that died and were started again.", ("role",)),
    "kwb_archive_events_total": Row("Events written to PostgreSQL."),
    "kwb_archive_batches_total": Row("Transactions of the archive that were committed."),
    "kwb_archive_batch_seconds": Row("Time of one transaction of the archive.", buckets_seconds=_SECONDS),
    "kwb_archive_lag_records": Row("Records in Kafka that the archive has not passed yet."),
    "kwb_archive_at_risk_events": Row("Acknowledged events that are in Kafka alone."),
    "kwb_archive_skipped_total": Row("Records passed without a row.", ("reason",)),
    "kwb_archive_duplicates_marked_total": Row("Events marked as duplicates of an earlier one."),
    "kwb_archive_refused_total": Row("Events that PostgreSQL took only without what was derived from them."),
    "kwb_archive_errors_total": Row("Batches that failed and are tried again.", ("error",)),
    "kwb_archive_positions_lost_total": Row("Positions that no longer existed in Kafka.", ("reason",)),
    "kwb_outbox_rows": Row("Events in the outbox.", ("state",), "max"),
    "kwb_outbox_bytes": Row("Bytes of the events in the outbox.", ("state",), "max"),
    "kwb_outbox_oldest_seconds": Row("Age of the oldest event in the outbox.", ("state",), "max"),
    "kwb_relay_relayed_total": Row("Events of the outbox that Kafka acknowledged to the relay."),
    "kwb_relay_failures_total": Row("Events of the outbox that Kafka did not take at one attempt.", ("error",)),
    "kwb_relay_quarantined_total": Row("Events that Kafka will never take as they are."),
    "kwb_relay_errors_total": Row("Statements of the relay that failed and are tried again.", ("error",)),
    "kwb_relay_blocked_topics": Row("Topics that are missing, or that the bridge may not write to."),
    "kwb_relay_blocked_sources": Row("Sources with ordering: strict whose next event cannot be sent."),
    "kwb_reconcile_events_total": Row("Events compared between Kafka and PostgreSQL."),
    "kwb_reconcile_missing_rows_total": Row("Records that the archive passed and that have no row.", ("topic",)),
    "kwb_reconcile_missing_records_total": Row("Rows whose record is not where they say.", ("topic",)),
    "kwb_reconcile_behind_ms": Row("How far the comparison of Kafka and PostgreSQL is behind what is settled."),
    "kwb_users_expired_total": Row("Outside users removed because their time was over."),
    "kwb_users_expiry_failures_total": Row("Attempts to remove such a user that failed and are made again."),
    "kwb_log_lines_dropped_total": Row("Log lines left out: too many alike, or nobody reads them.", ("reason",)),
}
PROCESS_TABLE: Mapping[str, str] = {
    "kwb_process_cpu_seconds_total": "CPU time, restarted predecessors included.",
    "kwb_process_resident_bytes": "Resident memory.",
    "kwb_process_open_files": "Open file descriptors.",
}
_ROWS = cast(Mapping[str, Row], TABLE)  # for keys read back from memory
_COUNTERS: frozenset[str] = frozenset(get_args(CounterName))
_GAUGES: frozenset[str] = frozenset(get_args(GaugeName))

CONTENT_TYPE = CONTENT_TYPE_LATEST  # of Exporter.collect_text

SEGMENT_BYTES = 8 * 1024**2  # a memfd is sparse: only pages that were written take memory
_MAGIC = 0x4B57424D31000000
_HEADER_BYTES = 64
_SLOTS = 65_536
_KEYS_AT = _HEADER_BYTES + _SLOTS * 8
_ENTRY = struct.Struct("<III")  # first slot, width, bytes of the key

Key = tuple[str, ...]  # the name, then the values of the row's labels in order


class Segment:
    """The memory of one process's metrics. Layout: magic, end of the published keys, slots in use; values; keys."""

    def __init__(self, buffer: mmap.mmap | bytearray, fd: int = -1) -> None:
        self.fd = fd
        self._bytes = memoryview(buffer)
        self._header = self._bytes[:_HEADER_BYTES].cast("q")
        self.values: memoryview[float] = self._bytes[_HEADER_BYTES:_KEYS_AT].cast("d")
        if self._header[0] != _MAGIC:
            self._header[1] = _KEYS_AT
            self._header[0] = _MAGIC
        self._read_to = _KEYS_AT
        self._slots_used = 0
        self._keys: dict[Key, int] = {}

    @classmethod
    def create(cls) -> Segment:
        """A segment that can be passed to a child by `fd` (`pass_fds`), to be used with `attach`."""
        fd = os.memfd_create("kwb-metrics")
        os.ftruncate(fd, SEGMENT_BYTES)
        return cls.open(fd)

    @classmethod
    def open(cls, fd: int) -> Segment:
        """The segment behind a descriptor, with everything that was counted in it."""
        return cls(mmap.mmap(fd, SEGMENT_BYTES), fd)

    @classmethod
    def in_process(cls) -> Segment:
        """A segment for one process alone."""
        return cls(mmap.mmap(-1, SEGMENT_BYTES))

    def series(self) -> dict[Key, int]:
        """Every published series and its first slot. Entries of another table version are passed over."""
        end = min(self._header[1], len(self._bytes))
        while self._read_to + _ENTRY.size <= end:
            slot, width, size = _ENTRY.unpack_from(self._bytes, self._read_to)
            start = self._read_to + _ENTRY.size
            self._read_to = start + size
            self._slots_used = max(self._slots_used, slot + width)
            key = tuple(orjson.loads(self._bytes[start : start + size]))
            row = _ROWS.get(key[0])
            if row is not None and row.width == width and len(row.labels) == len(key) - 1:
                self._keys[key] = slot
        return self._keys

    def find_or_add(self, key: Key, width: int) -> int | None:
        """First slot of a series; None when the segment is full. Only the process that owns the segment adds."""
        known = self.series().get(key)
        if known is not None:
            return known
        text = orjson.dumps(key)
        end = self._read_to + _ENTRY.size + len(text)
        slot = self._slots_used
        if end > len(self._bytes) or slot + width > _SLOTS:
            return None
        _ENTRY.pack_into(self._bytes, self._read_to, slot, width, len(text))
        self._bytes[self._read_to + _ENTRY.size : end] = text
        self._header[1] = end  # one aligned 8-byte store: published entirely or not at all
        self.series()
        return slot

    def zero_gauges(self) -> None:
        """What was true of a process that has ended is true no more."""
        for key, slot in self.series().items():
            if key[0] in _GAUGES:
                self.values[slot] = 0.0


class Cell:
    """One counter or gauge. `add` is one store without a call in between, which the interpreter lock makes atomic."""

    __slots__ = ("_slot", "_values")

    def __init__(self, values: memoryview[float], slot: int) -> None:
        self._values = values
        self._slot = slot

    def add(self, n: float = 1) -> None:
        self._values[self._slot] += n

    def set(self, value: float) -> None:
        self._values[self._slot] = value

    @property
    def value(self) -> float:
        return self._values[self._slot]


class Histogram(Cell):
    """Counts of durations by bucket, and their sum."""

    __slots__ = ("_buckets", "_sum_at")

    def __init__(self, values: memoryview[float], slot: int, buckets_seconds: tuple[float, ...]) -> None:
        super().__init__(values, slot)
        self._buckets = buckets_seconds
        self._sum_at = len(buckets_seconds) + 1

    def observe(self, seconds: float) -> None:
        values, slot = self._values, self._slot
        values[slot + bisect_left(self._buckets, seconds)] += 1
        values[slot + self._sum_at] += seconds


class Registry:
    """The metrics of this process. Resolve a handle once and keep it; resolving costs microseconds, `add` a tenth."""

    def __init__(self, segment: Segment | None = None) -> None:
        self.segment = segment or Segment.in_process()
        self._cells: dict[Key, Cell] = {}
        self._seen: dict[str, set[str]] = {label: set() for label in OPEN_LABELS_MAX}
        self._lock = threading.Lock()

    def counter(self, name: CounterName, **labels: Unpack[Labels]) -> Cell:
        """The counter of these labels: all that the TABLE row names, no others."""
        return self._cell(name, labels)

    def gauge(self, name: GaugeName, **labels: Unpack[Labels]) -> Cell:
        """The gauge of these labels; it starts at 0 in every new process."""
        return self._cell(name, labels)

    def histogram(self, name: HistogramName, **labels: Unpack[Labels]) -> Histogram:
        """The histogram of these labels."""
        return cast(Histogram, self._cell(name, labels))

    def attach(self, segment: Segment) -> None:
        """Continue in another segment: its counters are kept, its gauges start anew, handles stay valid."""
        with self._lock:
            segment.zero_gauges()
            for key in segment.series():
                for label, value in zip(_ROWS[key[0]].labels, key[1:], strict=True):
                    if label in self._seen:
                        self._seen[label].add(value)
            self.segment = segment
            for key, cell in self._cells.items():
                row = _ROWS[key[0]]
                before, was = cell._values, cell._slot
                cell._values, cell._slot = self._place(key, row)
                for i in range(row.width):
                    cell._values[cell._slot + i] += before[was + i]

    def _cell(self, name: CounterName | GaugeName | HistogramName, labels: Labels) -> Cell:
        row = TABLE[name]
        if labels.keys() != set(row.labels):
            raise TypeError(f"{name} has the labels {row.labels}, not {tuple(labels)}")
        with self._lock:
            key = (name, *(self._bounded(label, str(labels[label])) for label in row.labels))
            cell = self._cells.get(key)
            if cell is None:
                values, slot = self._place(key, row)
                made = Histogram(values, slot, row.buckets_seconds) if row.buckets_seconds else Cell(values, slot)
                cell = self._cells[key] = made
            return cell

    def _place(self, key: Key, row: Row) -> tuple[memoryview[float], int]:
        slot = self.segment.find_or_add(key, row.width)
        if slot is None:  # full, which OPEN_LABELS_MAX prevents: count where nobody reads rather than fail a webhook
            return memoryview(bytearray(row.width * 8)).cast("d"), 0
        return self.segment.values, slot

    def _bounded(self, label: str, value: str) -> str:
        seen = self._seen.get(label)
        if seen is None or value in seen:
            return value
        if len(seen) >= OPEN_LABELS_MAX[label]:
            return OTHER
        value = value.encode("ascii", "replace").decode()[:_LABEL_CHARACTERS_MAX]
        seen.add(value)
        return value


_registry = Registry()


def registry() -> Registry:
    """The registry of this process."""
    return _registry


def attach(fd: int) -> None:
    """Bind this process to the segment that its supervisor passed. Handles resolved before stay valid."""
    _registry.attach(Segment.open(fd))


def totals(segments: Iterable[Segment]) -> dict[Key, list[float]]:
    """Every series merged over the processes. One value, or a histogram's buckets and its sum."""
    merged: dict[Key, list[float]] = {}
    for segment in segments:
        for key, slot in segment.series().items():
            row = _ROWS[key[0]]
            values: list[float] = list(segment.values[slot : slot + row.width])
            if key not in merged:
                merged[key] = values
            elif row.merge == "sum":
                merged[key] = [a + b for a, b in zip(merged[key], values, strict=True)]
            else:
                merged[key] = [(max if row.merge == "max" else min)(merged[key][0], values[0])]
    return merged


class Exporter(Collector):
    """Prometheus text of several processes, made in their supervisor."""

    def __init__(self) -> None:
        self._segments: Sequence[Segment] = ()
        self._processes: Mapping[str, int] = {}
        self._cpu: dict[str, tuple[int, float, float]] = {}  # name → pid, seconds of predecessors, last reading
        self._prometheus = CollectorRegistry(auto_describe=False)
        self._prometheus.register(self)

    def collect_text(self, segments: Sequence[Segment], processes: Mapping[str, int] | None = None) -> bytes:
        """`processes` are the pids of the children by name (`ingest-0`); the calling process counts as `supervisor`."""
        self._segments = segments
        self._processes = {"supervisor": os.getpid(), **(processes or {})}
        return generate_latest(self._prometheus)

    def collect(self) -> Iterator[Metric]:
        """Called by prometheus_client."""
        merged = totals(self._segments)
        for name, row in TABLE.items():
            series = [(key[1:], merged[key]) for key in sorted(k for k in merged if k[0] == name)]
            if not series and not row.labels:
                series = [((), [0.0] * row.width)]
            yield _family(name, row, series)
        info = GaugeMetricFamily("kwb_build_info", "What is running.", labels=("version", "python"))
        info.add_metric((__version__, platform.python_version()), 1)
        yield info
        yield from self._process_families()

    def _process_families(self) -> Iterator[Metric]:
        cpu_name, memory_name, files_name = PROCESS_TABLE
        cpu = CounterMetricFamily(cpu_name, PROCESS_TABLE[cpu_name], labels=("process",))
        memory = GaugeMetricFamily(memory_name, PROCESS_TABLE[memory_name], labels=("process",))
        files = GaugeMetricFamily(files_name, PROCESS_TABLE[files_name], labels=("process",))
        for name, pid in self._processes.items():
            reading = read_process(pid)
            if reading is None:
                continue
            was_pid, before, last = self._cpu.get(name, (pid, 0.0, 0.0))
            if was_pid != pid:
                before += last
            self._cpu[name] = (pid, before, reading.cpu_seconds)
            cpu.add_metric((name,), before + reading.cpu_seconds)
            memory.add_metric((name,), reading.resident_bytes)
            files.add_metric((name,), reading.open_files)
        yield from (cpu, memory, files)


def _family(name: str, row: Row, series: list[tuple[tuple[str, ...], list[float]]]) -> Metric:
    if row.buckets_seconds:
        histogram = HistogramMetricFamily(name, row.sentence, labels=row.labels)
        for labels, values in series:
            buckets, running = [], 0.0
            for bound, count in zip((*map(str, row.buckets_seconds), "+Inf"), values[:-1], strict=True):
                running += count
                buckets.append((bound, running))
            histogram.add_metric(labels, buckets, values[-1])
        return histogram
    make = CounterMetricFamily if name in _COUNTERS else GaugeMetricFamily
    family = make(name, row.sentence, labels=row.labels)
    for labels, values in series:
        family.add_metric(labels, values[0])
    return family


@dataclass(frozen=True, slots=True)
class Process:
    """What /proc tells about one process (proc(5))."""

    cpu_seconds: float
    resident_bytes: int
    open_files: int


def read_process(pid: int) -> Process | None:
    """None when the process is gone or /proc is not there."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
            fields = file.read().rpartition(b") ")[2].split()
        return Process(
            cpu_seconds=(int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"),
            resident_bytes=int(fields[21]) * os.sysconf("SC_PAGE_SIZE"),
            open_files=len(os.listdir(f"/proc/{pid}/fd")),  # noqa: PTH208
        )
    except (OSError, IndexError, ValueError):
        return None
