"""Kafka → PostgreSQL: every record once, whatever is redelivered, restarted or away (rules.md 7, 12, 18 to 20).

    reader thread   read ──▶ rows ──▶ are the topics still the same? ──▶ a batch, one ahead
    loop                                                                 └──▶ rows and positions in one transaction

One archiver works at a time, the one with the lease; what protects the data is the fence of the positions.

Every failure has one answer: forget what was read, wait, ask PostgreSQL for the positions, begin there. So nothing is
passed that is not committed, and after a commit that nobody confirmed the positions tell.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import uuid
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

from kafka_webhook_bridge.archive.rows import Made, make_all
from kafka_webhook_bridge.errors import Fenced, KafkaError, StoreError
from kafka_webhook_bridge.formats.rows import RowMaker
from kafka_webhook_bridge.kafka.admin import Admin
from kafka_webhook_bridge.kafka.config import record_bytes_limit
from kafka_webhook_bridge.kafka.consumer import Batch, Place, RecordReader
from kafka_webhook_bridge.observability import logs, metrics
from kafka_webhook_bridge.observability.background import pause, until
from kafka_webhook_bridge.settings import Settings
from kafka_webhook_bridge.sources.table import SourceTable
from kafka_webhook_bridge.store import Store, archive
from kafka_webhook_bridge.store.archive import Move
from kafka_webhook_bridge.store.coordination import Lease, topic_names
from kafka_webhook_bridge.store.errors import sqlstate

P = ParamSpec("P")
T = TypeVar("T")

LEASE_S = 5.0  # how long an archiver that died keeps the others waiting
_RENEW_S = 1.0
_LOOK_S = 1.0  # at new topics, and at the lag
_ASK_S = 5.0  # Kafka about its topics
_BACK_OFF_S = (0.1, 5.0)
_LAST_S = 2.0  # on stop: so long what came last is still archived
_STOP_S = 5.0  # on stop: then the work is cut
_CLOSE_S = 2.0


@dataclass(slots=True)
class Plan:
    """What is read: topics under their ids, committed positions, and the ends of the partitions when last seen."""

    ids: dict[str, uuid.UUID]
    next_offset: dict[Place, int]
    ends: dict[Place, int]
    outdated: bool = False

    def stored(self, place: Place) -> archive.Place:
        return archive.Place(self.ids[place.topic], place.partition)

    @property
    def lag(self) -> int:
        return sum(max(0, self.ends.get(place, 0) - offset) for place, offset in self.next_offset.items())


@dataclass(frozen=True, slots=True)
class Fetched:
    """A batch. `same` tells that its topics had the plan's ids after it was read."""

    made: Made
    lost: set[Place] = field(default_factory=set)
    gone: set[Place] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)
    same: bool = True


class Archiver:
    """Archives every topic on record and those of configured sources, as far as they exist in Kafka."""

    def __init__(
        self, settings: Settings, store: Store, sources: SourceTable, migrated: asyncio.Event | None = None
    ) -> None:
        """`migrated` is set once the tables are there; None where they are from the start."""
        self._settings = settings
        self._store = store
        self._sources = sources
        self._migrated = migrated
        self._lease = Lease(store, "archive", LEASE_S)
        self._maker = RowMaker(self._indexes)
        self._records_max = settings.archive.batch_records_max
        self._admin = Admin(settings.kafka, timeout_s=_ASK_S, client_id="kwb-archive-admin")
        self._threads = ThreadPoolExecutor(2, "archive-admin")
        self._plan: Plan | None = None
        self._log = logs.get_logger("archive")
        registry = metrics.registry()
        self._events = registry.counter("kwb_archive_events_total")
        self._batches = registry.counter("kwb_archive_batches_total")
        self._seconds = registry.histogram("kwb_archive_batch_seconds")
        self._marked = registry.counter("kwb_archive_duplicates_marked_total")
        self._refused = registry.counter("kwb_archive_refused_total")
        self._lag = registry.gauge("kwb_archive_lag_records")
        self._at_risk = registry.gauge("kwb_archive_at_risk_events")

    def use(self, sources: SourceTable) -> None:
        """Take a configuration, after a reload."""
        self._sources = sources
        self._maker.forget()

    def _indexes(self, name: str) -> bool:
        source = self._sources.get(name)
        return source is None or source.index_json

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`, whatever is away meanwhile. Then what came last is archived, within seconds."""
        self._show_lag(math.nan)  # unknown until someone has looked
        try:
            await until(stop, self._beside(self._work(stop), self._watch_lag()), _STOP_S)
        finally:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _work(self, stop: asyncio.Event) -> None:
        while self._migrated is not None and not self._migrated.is_set() and not stop.is_set():
            await pause(stop, _BACK_OFF_S[0])
        wait_s, leased = 0.0, False
        while not stop.is_set():
            batches = self._batches.value
            try:
                leased = await self._lease.take()
                if leased:
                    await self._beside(self._session(stop), self._keep_lease())
                else:
                    self._plan = None
                    self._show_lag(0)  # the one that works tells it
                wait_s = _RENEW_S
            except (KafkaError, StoreError) as error:
                self._failed(error)
                progress = self._batches.value > batches
                wait_s = _BACK_OFF_S[0] if progress else min(max(2 * wait_s, _BACK_OFF_S[0]), _BACK_OFF_S[1])
            await pause(stop, wait_s)
        if leased:
            with contextlib.suppress(StoreError):
                await self._lease.release()

    def _failed(self, error: KafkaError | StoreError) -> None:
        if isinstance(error, KafkaError):
            name = "kafka"
        elif isinstance(error, Fenced):
            name = "fenced"
        else:
            name = sqlstate(error.__cause__ or error)
            self._records_max = max(1, self._records_max // 2)  # perhaps it was too much for the time allowed
        metrics.registry().counter("kwb_archive_errors_total", error=name).add()
        self._log.warning("archiving begins again where it was", error=error.message, hint=error.hint)

    async def _keep_lease(self) -> None:
        while True:
            await asyncio.sleep(_RENEW_S)
            if not await self._lease.take():
                raise Fenced("Another archiver has the lease.", hint="It goes on from where this one is.")

    # ── what is read ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _session(self, stop: asyncio.Event) -> None:
        """One reader, until something fails or `stop`."""
        reader = await ReaderThread.start(self._settings, record_bytes_limit(self._sources.body_bytes_max))
        lost: set[archive.Place] = set()
        try:
            while True:
                plan = self._plan = await self._make_plan(lost)
                self._show_lag(plan.lag)
                await reader.call(reader.reader.assign, plan.next_offset)
                lost = await self._beside(self._follow(plan, reader, stop), self._survey(plan))
                if stop.is_set():
                    return
        finally:
            await reader.close()

    async def _names(self) -> set[str]:
        return await topic_names(self._store) | self._sources.by_topic().keys()

    async def _topic_ids(self, names: set[str]) -> dict[str, uuid.UUID]:
        """Of those that exist."""
        found = await self._ask(self._admin.topic_ids, names, skip_denied=True) if names else {}
        return {name: uuid.UUID(topic_id) for name, topic_id in found.items()}

    async def _make_plan(self, lost: set[archive.Place]) -> Plan:
        """Positions of everything that there is. Those in `lost` do not exist in Kafka and go to the earliest."""
        ids = await self._topic_ids(await self._names())
        positions = await archive.read_positions(self._store, ids)
        ends = await self._ask(self._admin.offsets, set(ids)) if ids else {}
        plan = Plan({name: ids[name] for name in ends}, {}, {})
        starts: list[tuple[str, archive.Place, int]] = []
        moves: dict[archive.Place, Move] = {}
        for name, partitions in ends.items():
            stored = {partition: archive.Place(ids[name], partition) for partition in partitions}
            if positions.former_ids.get(name) and not any(place in positions.next_offset for place in stored.values()):
                self._count_lost("topic_recreated", topic=name, topic_id=str(ids[name]))
            for partition, (first, end) in partitions.items():
                place = stored[partition]
                offset = positions.next_offset.get(place)
                if offset is None:
                    offset = first
                    starts.append((name, place, first))
                elif place in lost:
                    self._count_lost("out_of_range", topic=name, partition=partition, offset=offset, earliest=first)
                    moves[place] = Move(offset, first)
                    offset = first
                plan.next_offset[Place(name, partition)] = offset
                plan.ends[Place(name, partition)] = end
        if starts:
            await archive.start_positions(self._store, starts)
        if moves:
            await self._transaction([], moves)
        return plan

    def _count_lost(self, reason: Any, **fields: object) -> None:
        metrics.registry().counter("kwb_archive_positions_lost_total", reason=reason).add()
        self._log.warning("a position is lost; the archive reads from the earliest", reason=reason, **fields)

    async def _survey(self, plan: Plan) -> None:
        """Say when the plan is outdated: topics that came, and every `topic_check_ms` those that were made anew."""
        loop = asyncio.get_running_loop()
        check_s = self._settings.archive.topic_check_ms / 1000
        checked = loop.time()
        while not plan.outdated:
            await asyncio.sleep(min(_LOOK_S, check_s))
            if await self._topic_ids(await self._names() - plan.ids.keys()):
                plan.outdated = True
            elif loop.time() - checked >= check_s:
                checked = loop.time()
                plan.outdated = await self._topic_ids(set(plan.ids)) != plan.ids

    async def _watch_lag(self) -> None:
        """How far Kafka is ahead, also while PostgreSQL is away. While Kafka is away, what was known stays."""
        while True:
            await asyncio.sleep(_LOOK_S)
            plan = self._plan
            if plan is None or not plan.ids:
                continue
            with contextlib.suppress(KafkaError):
                found = await self._ask(self._admin.offsets, set(plan.ids))
                if plan is self._plan:
                    plan.ends = {Place(name, p): end for name, ends in found.items() for p, (_, end) in ends.items()}
                    plan.outdated |= plan.ends.keys() != plan.next_offset.keys()
                    self._show_lag(plan.lag)

    def _show_lag(self, records: float) -> None:
        self._lag.set(records)
        self._at_risk.set(records)

    # ── batches ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _follow(self, plan: Plan, reader: ReaderThread, stop: asyncio.Event) -> set[archive.Place]:
        """Archive until the plan is outdated or `stop`; the places whose position does not exist."""
        loop = asyncio.get_running_loop()
        until = math.inf
        fetching = asyncio.create_task(self._fetch(plan, reader))
        try:
            while True:
                batch = await fetching
                if stop.is_set():
                    until = min(until, loop.time() + _LAST_S)
                last = plan.outdated or not batch.same or bool(batch.lost or batch.gone)
                last |= stop.is_set() and (not batch.made.next_offsets or loop.time() > until)
                if not last:
                    fetching = asyncio.create_task(self._fetch(plan, reader))
                if batch.same and batch.made.next_offsets:
                    await self._write(plan, batch.made)
                if batch.failures:
                    self._log.warning("Kafka reports trouble", failures=batch.failures)
                    await asyncio.sleep(_BACK_OFF_S[0])
                if batch.same and batch.gone:
                    raise KafkaError(f"The broker does not know {', '.join(sorted({p.topic for p in batch.gone}))}.")
                if last:
                    return {plan.stored(place) for place in batch.lost} if batch.same else set()
        finally:
            fetching.cancel()
            await asyncio.gather(fetching, return_exceptions=True)

    async def _fetch(self, plan: Plan, reader: ReaderThread) -> Fetched:
        """The next batch as rows. Whatever the topics' ids are now, they were so when it was read, if they are the
        plan's: an id never comes back (rules.md 19)."""
        limits = self._settings.archive
        read, made = await reader.call(
            _read, reader.reader, self._maker, plan.ids, self._records_max, limits.batch_bytes_max, limits.batch_wait_ms
        )
        topics = {place.topic for place in (*made.next_offsets, *read.lost)}
        ids = await self._topic_ids(topics)
        same = all(ids.get(topic) == plan.ids[topic] for topic in topics)
        return Fetched(made, read.lost, read.gone, read.failures, same)

    async def _write(self, plan: Plan, made: Made) -> None:
        moves = {
            plan.stored(place): Move(plan.next_offset[place], offset) for place, offset in made.next_offsets.items()
        }
        loop = asyncio.get_running_loop()
        begun = loop.time()
        written = await self._transaction(made.rows, moves)
        self._seconds.observe(loop.time() - begun)
        plan.next_offset.update(made.next_offsets)
        self._records_max = min(2 * self._records_max, self._settings.archive.batch_records_max)
        self._batches.add()
        self._events.add(written.events)
        self._marked.add(written.marked)
        for reason, count in made.skipped.items():
            metrics.registry().counter("kwb_archive_skipped_total", reason=reason).add(count)
        if written.refused:
            self._refused.add(written.refused)
            self._log.warning("PostgreSQL took events only in part; see their parse_error", events=written.refused)
        self._show_lag(plan.lag)

    async def _transaction(self, rows: list[Any], moves: dict[archive.Place, Move]) -> archive.Written:
        limits = self._settings.archive
        return await archive.write(
            self._store, rows, moves,
            dedupe_window_days=limits.dedupe_window_days, timeout_ms=limits.write_timeout_ms,
        )  # fmt: skip

    async def _ask(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A blocking call to Kafka, in a thread that nobody waits for at the end."""
        return await _in_thread(self._threads, call, *args, **kwargs)

    @staticmethod
    async def _beside(work: Coroutine[Any, Any, T], helper: Coroutine[Any, Any, None]) -> T:
        """The result of `work`, which ends with the error of its helper when that fails."""
        task, beside = asyncio.create_task(work), asyncio.create_task(helper)
        try:
            await asyncio.wait({task, beside}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                beside.result()  # raises what it failed with
            return await task
        finally:
            task.cancel()
            beside.cancel()
            await asyncio.gather(task, beside, return_exceptions=True)


class ReaderThread:
    """A RecordReader and the one thread that uses it."""

    def __init__(self, thread: ThreadPoolExecutor, reader: RecordReader) -> None:
        self.reader = reader
        self._thread = thread

    @classmethod
    async def start(cls, settings: Settings, record_bytes_max: int) -> ReaderThread:
        thread = ThreadPoolExecutor(1, "archive-reader")
        reader = await _in_thread(
            thread, RecordReader, settings.kafka, client_id="kwb-archive", record_bytes_max=record_bytes_max
        )
        return cls(thread, reader)

    async def call(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run it after everything that was asked before, finished or given up by whoever asked."""
        return await _in_thread(self._thread, call, *args, **kwargs)

    async def close(self) -> None:
        """Wait for a moment, then leave it to its thread."""
        closing = asyncio.wrap_future(self._thread.submit(self.reader.close))
        self._thread.shutdown(wait=False)
        await asyncio.wait({closing}, timeout=_CLOSE_S)


async def _in_thread(threads: Executor, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    return await asyncio.wrap_future(threads.submit(call, *args, **kwargs))


def _read(
    reader: RecordReader, maker: RowMaker, ids: dict[str, uuid.UUID], records_max: int, bytes_max: int, wait_ms: int
) -> tuple[Batch, Made]:
    read = reader.read(records_max, bytes_max, wait_ms / 1000)
    made = make_all(maker, read.records, ids)
    read.records = []
    return read, made
