"""The outbox's side of an ingest process: one task that writes what waits, as many events in a statement as there are.

    put() ──▶ queue ──▶ one statement (events and outbox) ──▶ stored
                 ▲          └── late, or failed: the connection is cut, the rows are unknown
                 └────────────── who waits still is written again on a fresh connection

A connection of its own is held, and replaced in the background; nobody waits for the driver longer than
`outbox_wait_ms` (rules.md 1). Writing an event twice is harmless, so what is unknown is simply tried again until its
request's deadline. Late acknowledgements of Kafka delete rows by the same connection (rules.md 2).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from kafka_webhook_bridge import errors
from kafka_webhook_bridge.errors import Refusal, StoreError
from kafka_webhook_bridge.event import Record
from kafka_webhook_bridge.formats import record_bytes
from kafka_webhook_bridge.formats.packed import pack_headers
from kafka_webhook_bridge.formats.rows import RowMaker
from kafka_webhook_bridge.ingest.deliver import ANSWERED, QUEUED, SENT, Deliver, Pending
from kafka_webhook_bridge.observability import logs, metrics
from kafka_webhook_bridge.observability.failpoints import failpoint
from kafka_webhook_bridge.settings import Settings
from kafka_webhook_bridge.store.errors import sqlstate
from kafka_webhook_bridge.store.outbox import (
    Beside,
    OutboxRow,
    Taken,
    close_rows,
    read_usage,
    store_rows,
)
from kafka_webhook_bridge.store.pool import Connection, Store, is_open

T = TypeVar("T")

_BACK_OFF_S = (0.1, 1.0)  # before the next connection, after a failure
_REPORT_MARGIN_S = 1.0  # beyond delivery.timeout.ms, until no report of Kafka can come any more
_CLOSES_MAX = 100_000  # rows to be closed while PostgreSQL is away; of more, the relay makes a duplicate
_CLOSES_BATCH = 1_000
_USAGE_S = 2.0  # between two looks at the size of the outbox
_USAGE_SHARE = 20  # a look that takes long is followed by a pause so many times as long
_USAGE_TIMEOUT_MS = 60_000

Entry = tuple[Pending, Record, int]  # with the bytes that it holds


class Late(StoreError):
    """PostgreSQL did not answer in `outbox_wait_ms`."""

    code = "store.late"


class OutboxWriter:
    """Writes events into the outbox and tells `deliver`. Belongs to one loop; `run` and `watch_usage` are its tasks.

    `migrated` is set once the tables are there. `blocked` tells why a topic cannot be produced to (None: it can).
    `beside` makes what sources claimed durable in the transaction of their events.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        migrated: asyncio.Event,
        deliver: Deliver,
        *,
        index_json: Callable[[str], bool],
        blocked: Callable[[str], str | None],
        beside: Beside | None = None,
    ) -> None:
        s = settings.deliver
        self.away = True
        self.full = False
        self.reason = "not connected yet"
        self._store = store
        self._migrated = migrated
        self._deliver = deliver
        self._blocked = blocked
        self._beside = beside
        self._wait_s = s.outbox_wait_ms / 1000
        self._relay_after_s = settings.kafka.delivery_timeout_ms / 1000 + _REPORT_MARGIN_S
        self._queue_records_max = s.outbox_queue_records_max
        self._queue_bytes_max = s.outbox_queue_bytes_max
        self._batch_records_max = s.outbox_batch_records_max
        self._batch_bytes_max = s.outbox_batch_bytes_max
        self._rows_max = s.outbox_rows_max
        self._bytes_max = s.outbox_bytes_max
        self._rows = self._bytes = 0  # in the table, as far as known
        self._queue: deque[Entry] = deque()
        self._queue_bytes = 0
        self._closes: deque[str] = deque(maxlen=_CLOSES_MAX)
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._maker = RowMaker(index_json)
        self._thread = ThreadPoolExecutor(1, "outbox-rows")
        self._connection: Connection | None = None
        self._log = logs.get_logger("ingest")
        registry = metrics.registry()
        self._registry = registry
        self._written = registry.counter("kwb_outbox_rows_total")
        self._closed = registry.counter("kwb_outbox_closed_total")
        self._simplified = registry.counter("kwb_outbox_simplified_total")
        self._seconds = registry.histogram("kwb_outbox_batch_seconds")
        self._gauge_records = registry.gauge("kwb_outbox_queue_records")
        self._gauge_bytes = registry.gauge("kwb_outbox_queue_bytes")

    def forget(self) -> None:
        """A new configuration: which sources index their JSON is asked anew."""
        self._maker.forget()

    # ── what Deliver calls ────────────────────────────────────────────────────────────────────────────────────────

    def put(self, pending: Pending) -> Refusal | None:
        """Take an event, to be reported to Deliver; or why not."""
        record = pending.record
        size = record_bytes(record)
        if self.full or len(self._queue) >= self._queue_records_max or self._queue_bytes + size > self._queue_bytes_max:
            return errors.OUTBOX_FULL
        self._queue.append((pending, record, size))
        self._count_queue(size)
        self._idle.clear()
        self._wake.set()
        return None

    def close_row(self, event_id: str) -> None:
        """Kafka has acknowledged it: its row, if there is one, goes when it can."""
        self._closes.append(event_id)
        self._idle.clear()
        self._wake.set()

    def _count_queue(self, size: int) -> None:
        self._queue_bytes += size
        self._gauge_records.set(len(self._queue))
        self._gauge_bytes.set(self._queue_bytes)

    # ── the task ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Until it is cancelled, whatever PostgreSQL does."""
        await self._migrated.wait()
        pause_s = 0.0
        try:
            while True:
                await asyncio.sleep(pause_s)
                written = self._written.value
                try:
                    await self._serve(await self._connect())
                    self._drop()
                    pause_s = 0.0
                except StoreError as error:
                    self._failed(error)
                    progress = self._written.value > written
                    pause_s = _BACK_OFF_S[0] if progress else min(max(2 * pause_s, _BACK_OFF_S[0]), _BACK_OFF_S[1])
        finally:
            self._drop()
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def _connect(self) -> Connection:
        connection = self._connection = await self._store.hold("connecting the outbox")
        if self.reason:
            self._log.info("the outbox can be written")
        self.away, self.reason = False, ""
        return connection

    def _failed(self, error: StoreError) -> None:
        self._drop()
        name = "late" if isinstance(error, Late) else sqlstate(error.__cause__ or error)
        self._registry.counter("kwb_outbox_errors_total", error=name).add()
        if not self.away or error.message != self.reason:  # else it would say the same several times a second
            self._log.error("the outbox cannot be written", error=error.message, hint=error.hint)
        self.away, self.reason = True, error.message
        self._deliver.stalled([pending for pending, _, _ in self._queue])

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._store.drop(connection)

    async def _serve(self, connection: Connection) -> None:
        """Write and close until the connection ends. Raises StoreError."""
        while is_open(connection):
            batch = self._take()
            if batch:
                await self._write(connection, batch)
            if self._closes:
                await self._close(connection)
            if not self._queue and not self._closes:
                self._idle.set()
                self._wake.clear()
                await self._wake.wait()

    async def _close(self, connection: Connection) -> None:
        event_ids = [self._closes.popleft() for _ in range(min(len(self._closes), _CLOSES_BATCH))]
        try:
            self._closed.add(await self._in_time(close_rows(connection, event_ids)))
        except StoreError:
            self._closes.extendleft(reversed(event_ids))
            raise
        failpoint("outbox.closed")

    def _take(self) -> list[Entry]:
        """The next batch, without those that nobody waits for any more."""
        batch: list[Entry] = []
        taken_bytes = size_of_batch = 0
        while self._queue and len(batch) < self._batch_records_max and size_of_batch < self._batch_bytes_max:
            entry = self._queue.popleft()
            pending, _, size = entry
            taken_bytes += size
            if pending.state & ANSWERED:
                pending.state &= ~QUEUED
            else:
                batch.append(entry)
                size_of_batch += size
        self._count_queue(-taken_bytes)
        return batch

    async def _write(self, connection: Connection, batch: list[Entry]) -> None:
        loop = asyncio.get_running_loop()
        failpoint("outbox.taken")
        begun = loop.time()
        try:
            jobs = [
                (record, pending.route.source.strict, bool(pending.state & SENT), pending.claim)
                for pending, record, _ in batch
            ]
            reasons = {record.topic: self._blocked(record.topic) for _, record, _ in batch}
            rows = await loop.run_in_executor(self._thread, _rows, self._maker, jobs, reasons)
            taken = await self._in_time(
                store_rows(connection, rows, relay_after_s=self._relay_after_s, beside=self._beside)
            )
        except StoreError:
            for entry in reversed(batch):
                self._queue.appendleft(entry)
            self._count_queue(sum(size for _, _, size in batch))
            self._deliver.unsure([pending for pending, _, _ in batch])
            raise
        failpoint("outbox.committed")
        self._seconds.observe(loop.time() - begun)
        self._count(batch, taken)

    def _count(self, batch: list[Entry], taken: Taken) -> None:
        refused = set(taken.refused)
        stored = [entry for at, entry in enumerate(batch) if at not in refused]
        self._written.add(len(stored))
        self._simplified.add(taken.simplified)
        self._rows += len(stored)
        self._bytes += sum(size for _, _, size in stored)
        self._look_at_limits()
        if taken.simplified or refused:
            self._log.warning(
                "PostgreSQL took events only in part; see their parse_error",
                events=taken.simplified, refused=len(refused), error=taken.error,
            )  # fmt: skip
        self._deliver.stored(pending for pending, _, _ in stored)
        for at in taken.refused:
            self._deliver.not_stored(batch[at][0], taken.error)

    async def _in_time(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a statement. One that is late is abandoned with its connection; nobody waits for its end."""
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task}, timeout=self._wait_s)
        finally:
            if not task.done():
                self._drop()
                task.cancel()
                task.add_done_callback(lambda done: done.cancelled() or done.exception())  # looked at, so not logged
        if not task.done() or task.cancelled():
            raise Late(
                f"PostgreSQL did not answer the outbox in {self._wait_s:g} s.",
                hint="Is the database overloaded, locked or stopped? KWB_DELIVER_OUTBOX_WAIT_MS is the limit.",
            )
        return task.result()

    # ── limits of the table ───────────────────────────────────────────────────────────────────────────────────────

    def _look_at_limits(self) -> None:
        full = self._rows >= self._rows_max or self._bytes >= self._bytes_max
        if full != self.full:
            self.full = full
            if full:
                self._log.error("the outbox is full", rows=self._rows, size_bytes=self._bytes)
            else:
                self._log.info("the outbox has room again", rows=self._rows, size_bytes=self._bytes)

    async def watch_usage(self) -> None:
        """Look at the size of the table now and then; in between, what this process writes is added."""
        await self._migrated.wait()
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            before = self._rows, self._bytes
            try:
                usage = await read_usage(self._store, self._rows_max, self._bytes_max, timeout_ms=_USAGE_TIMEOUT_MS)
            except StoreError as error:
                self._log.debug("the outbox was not measured", error=error.message)
            else:
                self._rows += usage.rows - before[0]
                self._bytes += usage.size_bytes - before[1]
                self._look_at_limits()
            await asyncio.sleep(max(_USAGE_S, _USAGE_SHARE * (loop.time() - begun)))

    async def finish(self, timeout_s: float) -> None:
        """Wait until everything is written and closed, or the time is up. Nothing may be put any more."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()


def _rows(
    maker: RowMaker, jobs: list[tuple[Record, bool, bool, Any]], reasons: dict[str, str | None]
) -> list[OutboxRow]:
    """In a thread: a body that is indexed is parsed."""
    rows = []
    for record, strict, handed, claim in jobs:
        event = maker.make(record.key, record.value, record.headers, record.topic)
        assert not isinstance(event, str), "a record of the bridge's own"
        # A source that keeps order is halted by its relay alone.
        reason = None if strict else reasons[record.topic]
        rows.append(OutboxRow(event, record, pack_headers(record.headers), handed, reason, strict, claim))
    return rows
