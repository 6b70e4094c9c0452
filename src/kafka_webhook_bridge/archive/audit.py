"""An audit: receipts, Kafka and PostgreSQL against each other, read only (rules.md 16).

    receipts ──▶ records, from the log's start to its end ──▶ rows ──▶ what came meanwhile ──▶ verdicts

The order makes it right while webhooks come in. A record below the archive's position has its row, because positions
were read before and rows after. A row's record is in what was read, or behind the end that was taken first, which is
read last. Where times bound the log, the part before them is read as well before anything is called missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import ParamSpec, TypeVar

from kafka_webhook_bridge import formats, ids
from kafka_webhook_bridge.archive.rows import fingerprint, look_at
from kafka_webhook_bridge.archive.verdicts import At, Ledger, Verdicts, Where, Window
from kafka_webhook_bridge.errors import KafkaError, UsageError
from kafka_webhook_bridge.formats.rows import record_of
from kafka_webhook_bridge.kafka.admin import Admin
from kafka_webhook_bridge.kafka.config import record_bytes_limit
from kafka_webhook_bridge.kafka.consumer import Place, Record
from kafka_webhook_bridge.kafka.spans import Span, SpanReader
from kafka_webhook_bridge.receipts import ReceiptsReader
from kafka_webhook_bridge.settings import Settings
from kafka_webhook_bridge.sources.table import SourceTable
from kafka_webhook_bridge.store import Store, archive, audit
from kafka_webhook_bridge.store.coordination import topic_names

P = ParamSpec("P")
T = TypeVar("T")

STEPS = ("receipts", "waiting", "kafka", "postgresql")
Progress = Callable[[str, float, float], None]  # a step, how far it is, how far it goes

_MARGIN_MS = 3_600_000  # clocks of broker and bridge may differ by so much before a reading is made twice
_UNANSWERED_MS = 60_000  # after the last line of a file without an end, what it sent may still have been received
_PATIENCE_S = 60.0  # of --wait, while nothing moves
_ASK_S = 0.2


@dataclass(frozen=True, slots=True)
class Asked:
    """What to audit. Times are Unix times in milliseconds, `until_ms` excluded."""

    receipts: tuple[Path, ...] = ()
    source: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    wait: bool = False


@dataclass(slots=True)
class Result:
    """The verdicts and what they are of. `notes` are whole sentences for people.

    `gone` are topics that rows name and Kafka does not have: their events (number) are in PostgreSQL alone."""

    verdicts: Verdicts
    sources: list[str] | None
    topics: list[str]
    windows: list[Window]
    incomplete: list[Path]
    lag_records: int
    notes: list[str]
    gone: dict[str, int]


@dataclass(slots=True)
class _Log:
    """One topic: its id, and first and next offset of every partition."""

    topic_id: uuid.UUID
    ranges: dict[int, Span]


class Audit:
    """One audit. Blocking work is done in threads, which `run` ends when it is cancelled."""

    def __init__(
        self,
        settings: Settings,
        sources: SourceTable,
        store: Store | None,
        asked: Asked,
        progress: Progress = lambda *_: None,
    ) -> None:
        """`store` is open; None where there is no PostgreSQL."""
        self._settings = settings
        self._sources = sources
        self._store = store
        self._asked = asked
        self._progress = progress
        self._admin = Admin(settings.kafka, client_id="kwb-audit-admin")
        self._stopped = threading.Event()
        self._notes: list[str] = []
        self._incomplete: list[Path] = []
        self._names: set[str] | None = {asked.source} if asked.source else None
        self._archived: dict[Place, int] = {}  # the archive's positions, before anything was read
        self._logs: dict[str, _Log] = {}
        self._gone: Counter[str] = Counter()
        self._spans: dict[Place, Span] = {}  # what was read of each place
        kept_ms = settings.archive.retention_days * ids.DAY_MS
        self._now_ms = time.time_ns() // 1_000_000
        self.ledger = Ledger(
            receipts=bool(asked.receipts), archive=store is not None, kept_from_ms=self._now_ms - kept_ms
        )

    async def run(self) -> Result:
        """Raises UsageError for receipts that are none, KafkaError and StoreError."""
        try:
            return await self._run()
        finally:
            self._stopped.set()

    async def _run(self) -> Result:
        if self._store is None:
            if not self._asked.receipts:
                raise UsageError("Without DATABASE_URL there is nothing to compare Kafka with but receipts.")
            self._notes.append("DATABASE_URL is not set: Kafka alone is looked at.")
        await self._thread(self._take_receipts)
        if not self._asked.receipts:
            high_ms = self._now_ms if self._asked.until_ms is None else self._asked.until_ms - 1
            self.ledger.cover(Window(self._asked.source, self._asked.since_ms or 0, high_ms))
        names = await self._topic_names()
        if self._asked.wait:
            await self._wait(names)
        self._logs = await self._look(names)
        self._archived = await self._positions()
        await self._read(await self._ranges())
        first = self._logs
        if self._store is not None:
            await self._compare_rows(self._store)
        await self._look_again(first)
        lag = self._behind(first, self._archived)
        if self._store is None and any(start for log in first.values() for start, _ in log.ranges.values()):
            self._notes.append("Kafka has forgotten its oldest records, and PostgreSQL is not looked at.")
        return Result(
            self.ledger.verdicts(), sorted(self._names) if self._names else None, sorted(self._logs),
            self.ledger.windows, self._incomplete, lag if self._store is not None else 0, self._notes,
            dict(sorted(self._gone.items())),
        )  # fmt: skip

    # ── receipts ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _take_receipts(self) -> None:
        paths = self._asked.receipts
        sizes = [path.stat().st_size if path.is_file() else 0 for path in paths]

        def reader(number: int) -> ReceiptsReader:
            before, total = sum(sizes[:number]), sum(sizes)
            return ReceiptsReader(paths[number], lambda done: self._progress("receipts", before + done, total))

        taken: set[str] = set()
        for path, opened in [(path, reader(number)) for number, path in enumerate(paths)]:
            taken |= self._take_file(path, opened)
        if paths:
            if not taken:
                raise UsageError("The receipts have no request of that source and time.")
            self._names = taken

    def _take_file(self, path: Path, reader: ReceiptsReader) -> set[str]:
        """Every request of one file into the ledger; the sources."""
        asked, ledger = self._asked, self.ledger
        low_s = 0.0 if asked.since_ms is None else asked.since_ms / 1000
        high_s = float("inf") if asked.until_ms is None else asked.until_ms / 1000
        sources: set[str] = set()
        for source, digest, outcome, event_id, duplicate, dropped, at_s, parts in reader:
            if asked.source not in (None, source) or not low_s <= at_s < high_s:
                continue
            sources.add(source)
            if dropped:
                ledger.refused(None, digest)
            elif outcome == "ok":
                ledger.acked(event_id, digest, duplicate=duplicate, parts=parts)
            elif outcome == "fail":
                ledger.refused(event_id, digest)
            else:
                ledger.unknown(event_id, digest)
            if self._stopped.is_set():
                break
        if not reader.complete:
            self._incomplete.append(path)
            cut = "; its last line is cut" if reader.cut else ""
            self._notes.append(f"{path} does not claim to be complete{cut}: nothing is called spurious because of it.")
        ended_ms = int(reader.ended_s * 1000) + (0 if reader.complete else _UNANSWERED_MS)
        whole = int(reader.started_s * 1000), min(ended_ms, ids.TIME_MS_MAX)
        low_ms = max(whole[0], asked.since_ms or 0)
        high_ms = min(whole[1], whole[1] if asked.until_ms is None else asked.until_ms - 1)
        # A request that was sent before the cut may have been received behind it: then it would look like nobody's.
        complete = reader.complete and (low_ms, high_ms) == whole
        for source in sources:
            ledger.cover(Window(source, low_ms, high_ms, complete))
        return sources

    # ── what there is ─────────────────────────────────────────────────────────────────────────────────────────────

    async def _topic_names(self) -> set[str]:
        """Topics in which the audited events may be. Rows may name more."""
        if self._names is None:
            known = await topic_names(self._store) if self._store is not None else set()
            return known | self._sources.by_topic().keys()
        found: set[str] = set()
        for name in self._names:
            source = self._sources.get(name) or self._sources.open_source(name)
            if source is not None:
                found.update(source.topics)
            else:
                self._notes.append(f"{name} is not configured here; its topics are those that its rows name.")
        return found

    async def _look(self, names: Iterable[str]) -> dict[str, _Log]:
        """The topics of these names that exist."""
        wanted = set(names)
        if not wanted:
            return {}
        topic_ids = await self._thread(self._admin.topic_ids, wanted)
        ranges = await self._thread(self._admin.offsets, set(topic_ids)) if topic_ids else {}
        return {name: _Log(uuid.UUID(topic_id), ranges[name]) for name, topic_id in topic_ids.items() if name in ranges}

    async def _positions(self) -> dict[Place, int]:
        if self._store is None or not self._logs:
            return {}
        names = {log.topic_id: name for name, log in self._logs.items()}
        found = await archive.read_positions(self._store, {name: log.topic_id for name, log in self._logs.items()})
        return {Place(names[place.topic_id], place.partition): offset for place, offset in found.next_offset.items()}

    async def _wait(self, names: set[str]) -> None:
        """Until the outbox has sent what it had, and the archive has passed the ends that the topics then have."""
        if self._store is None:
            return
        store, before = self._store, ids.floor(self._now_ms)

        async def unsent() -> int:
            return await audit.waiting(store, before)

        async def behind() -> int:
            return self._behind(self._logs, await self._positions())

        for left_of, what in ((unsent, "events wait in the outbox"), (behind, "records are not archived")):
            self._logs = await self._look(names)
            if left := await self._settle(left_of):
                self._notes.append(f"Waited in vain: {left:,} {what}, and nothing moves.")

    @staticmethod
    def _behind(logs: Mapping[str, _Log], archived: Mapping[Place, int]) -> int:
        """Records up to these ends that the archive has not passed."""
        return sum(
            max(0, end - archived.get(Place(topic, partition), first))
            for topic, log in logs.items()
            for partition, (first, end) in log.ranges.items()
        )

    async def _settle(self, left_of: Callable[[], Awaitable[int]]) -> int:
        """Ask until nothing is left or nothing moves for a while; what is left."""
        most = left = await left_of()
        least, moved_at = left, time.monotonic()
        while left and time.monotonic() - moved_at < _PATIENCE_S:
            self._progress("waiting", most - left, most)
            await asyncio.sleep(_ASK_S)
            left = await left_of()
            if left < least:
                least, moved_at = left, time.monotonic()
        return left

    # ── Kafka ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _ranges(self) -> dict[Place, Span]:
        """What to read first: from the log's start, or from where the windows can begin."""
        low_ms = min((window.low_ms for window in self.ledger.windows), default=0) - _MARGIN_MS
        found = {}
        for topic, log in self._logs.items():
            begins = await self._thread(self._admin.offsets_at, topic, low_ms) if low_ms > 0 else {}
            for partition, (first, end) in log.ranges.items():
                at = begins.get(partition, first)
                found[Place(topic, partition)] = (end if at < 0 else max(first, at), end)
        return found

    async def _look_again(self, first: Mapping[str, _Log]) -> None:
        """What was left out: records that came since, topics that rows named, and what lies before the windows."""
        now = await self._look(set(self._logs))
        for topic, log in first.items():
            if topic not in now or now[topic].topic_id != log.topic_id:
                raise KafkaError(
                    f"The topic {topic} was deleted or made anew during the audit.", hint="Run the audit again."
                )
        if not self.ledger.unsettled():
            return
        tails, heads = {}, {}
        for topic, log in now.items():
            for partition, (start, end) in log.ranges.items():
                place = Place(topic, partition)
                low, high = self._spans.get(place, (start, start))
                tails[place] = (max(start, high), end)
                heads[place] = (start, min(low, end))
        await self._read(tails)
        if self.ledger.unsettled():
            await self._read(heads)

    async def _read(self, ranges: Mapping[Place, Span]) -> None:
        """Every record of these ranges into the ledger."""
        await self._thread(self._read_all, ranges)
        for place, (low, high) in ranges.items():
            before = self._spans.get(place, (low, high))
            self._spans[place] = (min(before[0], low), max(before[1], high))

    def _read_all(self, spans: Mapping[Place, Span]) -> None:
        """In a thread."""
        limit = record_bytes_limit(self._sources.body_bytes_max)
        reader = SpanReader(self._settings.kafka, self._admin, client_id="kwb-audit", record_bytes_max=limit)
        try:
            reader.read(spans, self._take_record, self._stopped, lambda *far: self._progress("kafka", *far))
        finally:
            reader.close()

    def _take_record(self, record: Record) -> None:
        seen = look_at(record.headers)
        if seen.event_id is None:
            return  # not the bridge's (rules.md 20)
        body = record.value
        if seen.format is not None:
            with contextlib.suppress(ValueError):  # the archive keeps such a value as the body, too
                body = formats.decode(seen.format, body)
        at = At(record.topic, record.partition, record.offset)
        digest, label = fingerprint(record.key, record.headers, sha256(body).digest())
        self.ledger.record(
            seen.event_id.bytes, seen.source, digest, label, at=at,
            copy=seen.copy, passed=at.offset < self._archived.get(Place(at.topic, at.partition), 0),
            released=seen.released, made_here=seen.made_here, parent=seen.parent,
        )  # fmt: skip

    # ── PostgreSQL ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _compare_rows(self, store: Store) -> None:
        self._logs = await self._look(set(self._logs))  # retention may have moved their starts
        elsewhere: set[str] = set()
        windows = _joined(self.ledger.windows)
        total = sum(max(1, window.high_ms - window.low_ms) for window in windows)
        done = 0
        for window in windows:
            low, high = ids.floor(window.low_ms), ids.floor(window.high_ms + 1)
            async for rows in audit.pages(store, window.source, low, high):
                await self._take_rows(rows, elsewhere)
                self._progress("postgresql", done + ids.time_ms(rows[-1].event.event_id) - window.low_ms, total)
            done += max(1, window.high_ms - window.low_ms)
        wanted = [uuid.UUID(bytes=event_id) for event_id in self.ledger.told_without_row()]
        for start in range(0, len(wanted), audit.PAGE_ROWS):
            await self._take_rows(await audit.by_id(store, wanted[start : start + audit.PAGE_ROWS]), elsewhere)
            self._progress("postgresql", start, len(wanted))
        self._progress("postgresql", total, total)

    async def _take_rows(self, rows: list[audit.Row], elsewhere: set[str]) -> None:
        """Rows into the ledger. Topics that they name and that were not read are read at the end; `elsewhere` are
        those that do not exist."""
        for name in {row.event.topic for row in rows} - self._logs.keys() - elsewhere:
            found = await self._look([name])
            self._logs |= found
            elsewhere |= {name} - found.keys()
        for row in rows:
            event = row.event
            record = record_of(event)  # its value is none of the event's, but nothing else hangs on it
            digest, label = fingerprint(record.key, record.headers, row.body_sha256)
            self.ledger.row(
                event.event_id.bytes, event.source, digest, self._where(row), label,
                label_lost=row.partial, released=row.released, parent=look_at(record.headers).parent,
            )  # fmt: skip

    def _where(self, row: audit.Row) -> Where:
        """Where a row says that its record is."""
        event = row.event
        log = self._logs.get(event.topic)
        if event.offset is None and row.outbox_state is not None:
            return "quarantined" if row.outbox_state == "quarantined" else "waiting"
        if log is None:
            self._gone[event.topic] += 1
            return "before_log_start"
        if event.offset is None:
            return "log"  # it has left the outbox, so Kafka acknowledged it; the archive fills in its position later
        if log.topic_id != event.topic_id:
            return "before_log_start"  # that life of the topic is over
        first, _ = log.ranges.get(event.partition or 0, (0, 0))
        return "log" if event.offset >= first else "before_log_start"

    async def _thread(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A blocking call. When this is cancelled, the thread is told and ends soon."""
        try:
            return await asyncio.to_thread(call, *args, **kwargs)
        except asyncio.CancelledError:
            self._stopped.set()
            raise


def _joined(windows: Iterable[Window]) -> list[Window]:
    """The same times and sources without overlaps, so that no row is read twice."""
    found: list[Window] = []
    for window in sorted(windows, key=lambda w: (w.source or "", w.low_ms)):
        last = found[-1] if found else None
        if last is not None and last.source == window.source and window.low_ms <= last.high_ms:
            found[-1] = last._replace(high_ms=max(last.high_ms, window.high_ms))
        elif window.low_ms <= window.high_ms:
            found.append(window)
    return found
