"""Kafka and PostgreSQL compared all the time, a little every ten seconds: a loss is seen when it happens.

    rows by id, a minute old ──▶ the spans of the log that they name ──▶ does each row have its record?
    the rest of these spans, up to the archive's position ─────────────▶ does each record have its row?

Only what is settled is judged: a row has a position once its record was read, and a record below the archive's position
has its row. So nothing that is on its way is ever called missing. A turn reads `reconcile_events_max` events and
about as many records. Traffic beyond that is compared in samples; `kwb audit` compares everything.

One worker does it, under a lease. It writes nothing, so nothing else protects it.
"""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

from kafka_webhook_bridge import ids
from kafka_webhook_bridge.archive.rows import look_at
from kafka_webhook_bridge.errors import KafkaError, StoreError
from kafka_webhook_bridge.kafka.admin import Admin
from kafka_webhook_bridge.kafka.config import record_bytes_limit
from kafka_webhook_bridge.kafka.consumer import Place, Record
from kafka_webhook_bridge.kafka.spans import Span, SpanReader
from kafka_webhook_bridge.observability import logs, metrics
from kafka_webhook_bridge.observability.background import pause
from kafka_webhook_bridge.settings import Settings
from kafka_webhook_bridge.store import Store, archive, audit
from kafka_webhook_bridge.store.coordination import Lease

P = ParamSpec("P")
T = TypeVar("T")

EVERY_S = 10.0
SETTLED_MS = 60_000  # younger events are left alone: what a power cut takes away, it has taken by then
_BACK_MS = 3_600_000  # where a worker begins; one that falls further behind goes on with the newest
_LEASE_S = 60.0
_ASK_S = 10.0
_BACK_OFF_S = (10.0, 300.0)
_CLOSE_S = 2.0
_EXAMPLES = 5


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


@dataclass(slots=True)
class Turn:
    """What one turn compared and found, by topic. `more` tells that it was not all there is."""

    compared: int = 0
    missing_rows: dict[str, list[uuid.UUID]] = field(default_factory=lambda: defaultdict(list))
    missing_records: dict[str, list[uuid.UUID]] = field(default_factory=lambda: defaultdict(list))
    more: bool = False


@dataclass(frozen=True, slots=True)
class _Log:
    topic_id: uuid.UUID
    ranges: Mapping[int, Span]


class Reconciler:
    """Walks along the archive. Where it is, it knows itself: another worker begins an hour back."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        migrated: asyncio.Event | None = None,
        *,
        body_bytes_max: int = 0,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        """`migrated` as for the archiver; `body_bytes_max` of any source; `clock` gives milliseconds since 1970."""
        self._settings = settings
        self._store = store
        self._migrated = migrated
        self._clock = clock
        self._record_bytes_max = record_bytes_limit(body_bytes_max)
        self._limit = settings.archive.reconcile_events_max
        self._lease = Lease(store, "reconcile", _LEASE_S)
        self._admin = Admin(settings.kafka, timeout_s=_ASK_S, client_id="kwb-reconcile-admin")
        self._thread = ThreadPoolExecutor(1, "reconcile")
        self._stopped = threading.Event()
        self._reader: SpanReader | None = None
        self._after: uuid.UUID | None = None
        self._checked: dict[archive.Place, int] = {}  # the offset up to which the log was compared
        self._log = logs.get_logger("archive")
        registry = metrics.registry()
        self._compared = registry.counter("kwb_reconcile_events_total")
        self._behind = registry.gauge("kwb_reconcile_behind_ms")

    async def run(self, stop: asyncio.Event) -> None:
        """Compare every ten seconds until `stop`, whatever is away meanwhile."""
        if not self._limit:
            await stop.wait()
        wait_s, told = EVERY_S, ""
        while not stop.is_set():
            await pause(stop, wait_s)
            if stop.is_set() or (self._migrated is not None and not self._migrated.is_set()):
                continue
            try:
                turn = await self._until(stop)
                wait_s, told = EVERY_S, ""
            except (KafkaError, StoreError) as error:
                wait_s = min(max(2 * wait_s, _BACK_OFF_S[0]), _BACK_OFF_S[1])
                if error.message != told:
                    told = error.message
                    self._log.warning("Kafka and PostgreSQL not compared", error=error.message, hint=error.hint)
                await self._close()
            else:
                if turn is not None:
                    self._tell(turn)
        await self._close()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _until(self, stop: asyncio.Event) -> Turn | None:
        """A turn that `stop` cuts; None when it was cut, or when somebody else has the lease."""
        turn, stopping = asyncio.create_task(self._leased()), asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({turn, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not turn.done():
                self._stopped.set()
                turn.cancel()
            stopping.cancel()
            await asyncio.wait({turn})
        return None if turn.cancelled() else turn.result()

    async def _leased(self) -> Turn | None:
        if not await self._lease.take():
            self._after, self._checked = None, {}
            self._behind.set(0)  # the one that works tells it
            return None
        return await self.turn()

    def _tell(self, turn: Turn) -> None:
        registry = metrics.registry()
        self._compared.add(turn.compared)
        for topic in sorted(turn.missing_rows.keys() | turn.missing_records.keys()):
            rows, records = turn.missing_rows.get(topic, []), turn.missing_records.get(topic, [])
            registry.counter("kwb_reconcile_missing_rows_total", topic=topic).add(len(rows))
            registry.counter("kwb_reconcile_missing_records_total", topic=topic).add(len(records))
            self._log.error(
                "events are missing", topic=topic, without_row=len(rows), without_record=len(records),
                examples=[str(event_id) for event_id in (*rows, *records)[:_EXAMPLES]],
                hint="`kwb audit` compares everything; docs/howto/prove-nothing-lost.md says what to do.",
            )  # fmt: skip

    # ── one turn ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def turn(self) -> Turn:
        """Compare the next events. Raises KafkaError and StoreError; then the next turn begins at the same place."""
        now = self._clock()
        settled = ids.floor(now - SETTLED_MS)
        after = self._after
        if after is None or now - ids.time_ms(after) > SETTLED_MS + _BACK_MS:
            after = ids.floor(now - SETTLED_MS - (_BACK_MS if after is None else 0))
        rows = await audit.placed(self._store, after, settled, self._limit)
        logs_now = await self._look(await audit.followed(self._store))
        positions = await self._positions(logs_now)
        turn = Turn(more=len(rows) == self._limit)
        spans = self._spans(rows, logs_now, positions, more=turn.more)
        found = await self._read(spans)
        await self._judge(turn, rows, spans, found, logs_now, positions)
        for place, (_, end) in spans.items():
            stored = archive.Place(logs_now[place.topic].topic_id, place.partition)
            self._checked[stored] = max(self._checked.get(stored, 0), end)
        self._after = rows[-1].event_id if turn.more else max(after, settled)
        self._behind.set(max(0, now - SETTLED_MS - ids.time_ms(self._after)))
        return turn

    async def _look(self, names: set[str]) -> dict[str, _Log]:
        if not names:
            return {}
        topic_ids = await self._call(self._admin.topic_ids, names, skip_denied=True)
        ranges = await self._call(self._admin.offsets, set(topic_ids)) if topic_ids else {}
        return {name: _Log(uuid.UUID(text), ranges[name]) for name, text in topic_ids.items() if name in ranges}

    async def _positions(self, logs_now: Mapping[str, _Log]) -> Mapping[archive.Place, int]:
        if not logs_now:
            return {}
        topic_ids = {name: log.topic_id for name, log in logs_now.items()}
        return (await archive.read_positions(self._store, topic_ids)).next_offset

    def _spans(
        self,
        rows: Iterable[audit.Placed],
        logs_now: Mapping[str, _Log],
        positions: Mapping[archive.Place, int],
        *,
        more: bool,
    ) -> dict[Place, Span]:
        """What to read, no more than twice the limit in all: where these rows are, and what lies between them and
        what was compared before. Behind the last row it goes on to the archive's position."""
        named: dict[Place, list[int]] = defaultdict(list)
        for row in rows:
            log = logs_now.get(row.topic)
            if log is not None and log.topic_id == row.topic_id and row.partition in log.ranges:
                named[Place(row.topic, row.partition)].append(row.offset)
        if not more:  # the last page: where nothing was compared yet, begin as far back as one page may reach
            for log in logs_now.values():
                for partition, (first, _) in log.ranges.items():
                    stored = archive.Place(log.topic_id, partition)
                    self._checked.setdefault(stored, max(first, positions.get(stored, first) - self._limit))
        spans: dict[Place, Span] = {}
        left = 2 * self._limit
        for place, offsets in named.items():
            log = logs_now[place.topic]
            low, high = max(log.ranges[place.partition][0], min(offsets)), max(offsets) + 1
            checked = self._checked.get(archive.Place(log.topic_id, place.partition), low)
            if checked < low and high - checked <= left:
                low = checked
            # An event that waited for long lies far behind its neighbours: a row beyond the span is left out.
            high = min(high, low + left)
            if low < high:
                spans[place] = (low, high)
                left -= high - low
        if more:
            return spans  # the log is as far as the rows
        for topic, log in logs_now.items():
            for partition, (first, _) in log.ranges.items():
                stored, place = archive.Place(log.topic_id, partition), Place(topic, partition)
                position = positions.get(stored, first)
                checked = max(first, self._checked[stored])
                low, high = spans.get(place, (checked, checked))
                further = min(position, high + left)
                if checked <= high < further:
                    spans[place] = (low, further)
                    left -= further - high
        return spans

    async def _read(self, spans: Mapping[Place, Span]) -> dict[Place, dict[int, tuple[uuid.UUID, bool]]]:
        """Offset → event and whether it is a copy, of each place; records of others are left out."""
        found: dict[Place, dict[int, tuple[uuid.UUID, bool]]] = {place: {} for place in spans}

        def take(record: Record) -> None:
            seen = look_at(record.headers)
            if seen.event_id is not None:
                found[Place(record.topic, record.partition)][record.offset] = (seen.event_id, seen.copy)

        if spans:
            if self._reader is None:
                self._reader = await self._call(
                    SpanReader, self._settings.kafka, self._admin,
                    client_id="kwb-reconcile", record_bytes_max=self._record_bytes_max,
                )  # fmt: skip
            await self._call(self._reader.read, spans, take, self._stopped)
        return found

    async def _judge(
        self,
        turn: Turn,
        rows: Iterable[audit.Placed],
        spans: Mapping[Place, Span],
        found: Mapping[Place, Mapping[int, tuple[uuid.UUID, bool]]],
        before: Mapping[str, _Log],
        positions: Mapping[archive.Place, int],
    ) -> None:
        # Retention may have taken records while they were read, and a topic may have been made anew.
        after = await self._look({place.topic for place in spans})
        same = {name for name, log in after.items() if log.topic_id == before[name].topic_id}
        with_row: set[uuid.UUID] = set()
        for row in rows:
            with_row.add(row.event_id)
            place = Place(row.topic, row.partition)
            low, high = spans.get(place, (0, 0))
            if row.topic not in same or after[row.topic].topic_id != row.topic_id or not low <= row.offset < high:
                continue
            turn.compared += 1
            here = found[place].get(row.offset)
            gone = row.offset < after[row.topic].ranges.get(row.partition, (0, 0))[0]
            if not gone and (here is None or here[0] != row.event_id):
                turn.missing_records[row.topic].append(row.event_id)
        kept = ids.floor(self._clock() - self._settings.archive.retention_days * ids.DAY_MS)
        for place in spans:
            if place.topic not in same:
                continue
            position = positions.get(archive.Place(before[place.topic].topic_id, place.partition), 0)
            unseen = {
                event_id
                for offset, (event_id, copy) in found[place].items()
                if offset < position and not copy and event_id not in with_row and event_id >= kept
            }
            turn.compared += len(unseen)
            missing = unseen - await audit.known(self._store, list(unseen)) if unseen else unseen
            if missing:
                turn.missing_rows[place.topic] += sorted(missing)

    async def _close(self) -> None:
        """Wait for a moment, then leave the reader to its thread."""
        if self._reader is not None:
            reader, self._reader = self._reader, None
            await asyncio.wait({asyncio.ensure_future(self._call(reader.close))}, timeout=_CLOSE_S)

    async def _call(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A blocking call, after everything that was asked before."""
        return await asyncio.wrap_future(self._thread.submit(call, *args, **kwargs))
