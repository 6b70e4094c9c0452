"""Archived events once more to Kafka, batch by batch, through every crash: what replay and rebuild have in common
(rules.md 15).

    take ──▶ running ──▶ (look) ──▶ ┌▶ read ──▶ write, wait for all reports ──▶ checkpoint ─┐ ──▶ done
              in PostgreSQL   ▲     └────────────────────────────────────────────────────────┘ └─▶ paused
                              └── only when a batch may be under way: wait until nothing of it can come any more,
                                  read the target from the last checkpoint, and leave out what is there

One batch is under way at a time, so a crash leaves no more than one in doubt. The next one is read meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from kafka_webhook_bridge import ids
from kafka_webhook_bridge.errors import Fenced, KafkaError, ReplayError, StoreError
from kafka_webhook_bridge.event import Record
from kafka_webhook_bridge.formats import record_bytes
from kafka_webhook_bridge.formats.rows import EventRow
from kafka_webhook_bridge.kafka.admin import Admin
from kafka_webhook_bridge.kafka.config import record_bytes_limit
from kafka_webhook_bridge.kafka.consumer import Place, read_between
from kafka_webhook_bridge.kafka.writer import Failed, ToWrite, Writer, Written
from kafka_webhook_bridge.observability.background import pause
from kafka_webhook_bridge.observability.failpoints import failpoint
from kafka_webhook_bridge.settings import Settings
from kafka_webhook_bridge.store import Store, replays
from kafka_webhook_bridge.store.replays import Holder, Listed, Replay, Step, Target

BATCH_EVENTS = 2_000
BATCH_BYTES = 8 * 1024**2  # of bodies
LEASE_S = 5.0  # how long a process that died keeps the others waiting
_RENEW_S = 1.0
_BESIDES_BYTES = 128 * 1024  # more than key and headers take; nearer to the limit a record is measured
_BATCHES_PER_S = 10  # where a rate makes batches smaller
_AFTER_TIMEOUT_S = 1.0  # nothing of a dead process comes later than that after delivery.timeout.ms
_RETRY_S = 1.0
_GIVE_UP_S = 300.0  # without progress
_MISSING_S = 15.0  # a broker that starts says for a moment that a topic is not there
_DOUBTFUL_MAX = 100_000

Doing = Literal["running", "waiting", "looking", "paused", "done"]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is. `reason` says why it waits."""

    replay_id: uuid.UUID
    doing: Doing
    events: int
    passed: int
    found: int
    duplicates: int
    reason: str = ""


class At(NamedTuple):
    """Where a record is."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What comes next: events in order; the rows of those that are sent."""

    listed: list[Listed]
    rows: list[EventRow]

    @property
    def last(self) -> Listed:
        return self.listed[-1]


def batch_events(rate: float | None) -> int:
    """Small where the rate is low, so that records flow evenly."""
    return BATCH_EVENTS if rate is None else max(1, min(BATCH_EVENTS, int(rate / _BATCHES_PER_S)))


def wait_s(sent: int, rate: float | None, elapsed_s: float) -> float:
    """How long `sent` records are ahead of the rate."""
    return 0.0 if rate is None else max(0.0, sent / rate - elapsed_s)


class Resend(ABC):
    """One replay or rebuild at work in this process. `tell` is called on the loop, `stop` pauses it."""

    kind = "replay"

    def __init__(
        self,
        settings: Settings,
        store: Store,
        one: Replay,
        *,
        rate: float | None = None,
        stop: asyncio.Event,
        tell: Callable[[Progress], None],
    ) -> None:
        self._settings = settings
        self._store = store
        self._one = one
        self._new_rate = rate
        self._rate = rate or one.rate
        self._stop = stop
        self._tell = tell
        self._holder = Holder(store, one.replay_id, LEASE_S)
        self._admin = Admin(settings.kafka, client_id=f"kwb-{self.kind}-admin")
        self._record_bytes_max = record_bytes_limit(settings.ingest.body_bytes_max)
        self._progress = Progress(one.replay_id, "running", one.events, one.passed, one.found, one.duplicates)
        self._clean = one.clean
        self._valid_until = 0.0
        self._limits: dict[str, int] = {}
        self._targets: dict[Place, Target] = {}
        self._there: dict[uuid.UUID, At] = {}
        self._copies = 0
        self._tried = False
        self._listed: deque[Listed] = deque()
        self._cursor: Listed | None = None
        self._at_end = False
        self._doubtful: set[uuid.UUID] = set()
        self._doubted_from: dict[Place, int] = {}
        self._sent, self._began = 0, 0.0
        self._missing_since: float | None = None

    # ── what replay and rebuild do differently ────────────────────────────────────────────────────────────────────

    async def _ready(self, one: Replay) -> None:  # noqa: B027 - one of the two has nothing to do
        """Before the first look at the target."""

    @abstractmethod
    async def _page(self, after: Listed | None) -> list[Listed]:
        """The next events in order, PAGE_EVENTS of them unless there are no more."""

    @abstractmethod
    def _cursor_of(self, one: Replay) -> Listed | None:
        """The last event that was passed."""

    @abstractmethod
    def _to_write(self, row: EventRow) -> tuple[Record, int]:
        """The record and its partition, BY_KEY or one."""

    @abstractmethod
    def _is_ours(self, headers: Mapping[str, bytes | None]) -> bool:
        """Whether this replay or rebuild may have sent a record."""

    async def _in_doubt(self) -> set[uuid.UUID] | None:
        """The events that may be under way; None where a record says itself what sent it."""
        return None

    async def _checkpoint(self, step: Step, places: Mapping[uuid.UUID, At]) -> None:
        """`places`: of every event that was passed."""
        await self._holder.checkpoint(step)

    async def _finish(self) -> None:  # noqa: B027 - one of the two has nothing to do
        """When nothing is left."""

    # ── from the first to the last ────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> Progress:
        """Until it is done or paused. Kafka and PostgreSQL may go away meanwhile.

        Raises ReplayError when it cannot be done now, KafkaError and StoreError after `_GIVE_UP_S` without progress; it
        can be resumed all the same.
        """
        loop = asyncio.get_running_loop()
        await self._take()
        moved = loop.time()
        while True:
            passed = self._progress.passed
            try:
                done = await self._session()
                if done:
                    await self._finish()
                    failpoint(f"{self.kind}.finished")
                await self._holder.end("done" if done else "paused", clean=self._clean)
                self._show("done" if done else "paused")
                return self._progress
            except Fenced:
                raise
            except ReplayError as error:
                await self._give_back(error.message)
                raise
            except (KafkaError, StoreError) as error:
                if self._progress.passed > passed:
                    moved = loop.time()
                if self._stop.is_set() or loop.time() - moved > _GIVE_UP_S:
                    await self._give_back(error.message)
                    if self._stop.is_set():
                        self._show("paused", error.message)
                        return self._progress
                    raise
                self._show("waiting", error.message)
            await pause(self._stop, _RETRY_S)

    async def _take(self) -> None:
        """A process that died holds it for a moment; one that lives goes on holding it."""
        loop = asyncio.get_running_loop()
        until = loop.time() + LEASE_S + _RENEW_S
        while not await self._holder.take():
            one = await replays.get(self._store, self._one.replay_id)
            if one is not None and one.state == "done":
                raise ReplayError(f"The {self.kind} {self._one.replay_id} is done.")
            if loop.time() > until or self._stop.is_set():
                raise ReplayError(
                    f"Another process works at the {self.kind} {self._one.replay_id}.",
                    hint="`kwb replay list` shows how far it is, `kwb replay pause ID` makes it pause.",
                )
            self._show("waiting", "another process holds it; should that have died, this one goes on in a moment")
            await pause(self._stop, _RENEW_S)

    async def _give_back(self, reason: str) -> None:
        with contextlib.suppress(StoreError):
            await self._holder.end("paused", clean=self._clean, reason=reason)

    async def _session(self) -> bool:
        """From the last checkpoint on; whether nothing is left. Else it was stopped."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        if not await self._holder.take():
            raise Fenced(f"Another process works at this {self.kind}.")
        self._valid_until = begun + LEASE_S
        keeping = asyncio.create_task(self._keep())
        writer = None
        try:
            one = await replays.get(self._store, self._one.replay_id)
            assert one is not None
            await self._holder.start(self._new_rate)
            failpoint(f"{self.kind}.started")
            self._listed.clear()
            self._there.clear()
            self._cursor, self._at_end = self._cursor_of(one), False
            self._progress = replace(
                self._progress, passed=one.passed, found=one.found, duplicates=one.duplicates, events=one.events
            )
            await self._ready(one)
            await self._find_targets()
            if not self._clean:
                await self._look()
                if self._stop.is_set():
                    return False
            self._show("running")
            writer = await asyncio.to_thread(
                Writer,
                self._settings.kafka,
                client_id=f"kwb-{self.kind}",
                record_bytes_max=self._record_bytes_max,
                batch_bytes_max=min(self._limits.values(), default=self._record_bytes_max),
            )
            done = await self._send_all(writer, keeping)
            if done and self._doubtful:
                await self._count_copies()
            return done
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            if writer is not None:
                await asyncio.to_thread(writer.close)

    async def _keep(self) -> None:
        """Renew the lease. A pause that somebody else asked for is noticed here."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_RENEW_S)
            begun = loop.time()
            try:
                if not await self._holder.take():
                    raise Fenced(f"Another process works at this {self.kind}.")
            except Fenced:
                raise
            except StoreError:
                if loop.time() > self._valid_until:
                    raise
                continue
            self._valid_until = begun + LEASE_S
            if self._holder.pause_asked:
                self._stop.set()

    def _show(self, doing: Doing, reason: str = "") -> None:
        self._progress = replace(self._progress, doing=doing, reason=reason)
        self._tell(self._progress)

    # ── batches ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _send_all(self, writer: Writer, keeping: asyncio.Task[None]) -> bool:
        loop = asyncio.get_running_loop()
        self._sent, self._began = 0, loop.time()
        reading = asyncio.create_task(self._next())
        try:
            while True:
                batch = await reading
                if batch is None:
                    return True
                reading = asyncio.create_task(self._next())
                await pause(self._stop, wait_s(self._sent, self._rate, loop.time() - self._began))
                if self._stop.is_set():
                    return False
                if keeping.done():
                    keeping.result()
                if loop.time() > self._valid_until:
                    raise StoreError("PostgreSQL did not renew the lease in time.")
                failpoint(f"{self.kind}.read")
                await self._send(writer, batch)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _next(self) -> Batch | None:
        """The next batch, None at the end."""
        if not self._listed and not self._at_end:
            page = await self._page(self._cursor)
            self._at_end = len(page) < replays.PAGE_EVENTS
            self._listed.extend(page)
            if page:
                self._cursor = page[-1]
        if not self._listed:
            return None
        taken: list[Listed] = []
        size, most = 0, batch_events(self._rate)
        while self._listed and len(taken) < most and (not taken or size + self._listed[0].size_bytes <= BATCH_BYTES):
            taken.append(self._listed.popleft())
            size += taken[-1].size_bytes
        wanted = [one.event_id for one in taken if one.event_id not in self._there]
        found = await replays.rows(self._store, wanted) if wanted else {}
        return Batch(taken, [found[event_id] for event_id in wanted if event_id in found])

    async def _send(self, writer: Writer, batch: Batch) -> None:
        self._clean, self._tried = False, True
        outcomes = await asyncio.to_thread(self._write, writer, batch.rows)
        failpoint(f"{self.kind}.sent")
        places: dict[uuid.UUID, At] = {}
        for row, outcome in zip(batch.rows, outcomes, strict=True):
            if isinstance(outcome, Failed):
                self._refused(row, outcome)
            else:
                places[row.event_id] = At(self._topic_of(row), outcome.partition, outcome.offset)
        self._sent += len(outcomes)
        if self._doubted_from and len(self._doubtful) < _DOUBTFUL_MAX:
            self._doubtful.update(places)
        found = {one.event_id: self._there.pop(one.event_id) for one in batch.listed if one.event_id in self._there}
        passed = places | found
        step = Step(batch.last, len(passed), len(found), self._copies, self._ends(passed.values()))
        await self._checkpoint(step, passed)
        failpoint(f"{self.kind}.checkpointed")
        self._clean, self._copies = True, 0
        self._progress = replace(
            self._progress, passed=self._progress.passed + step.passed, found=self._progress.found + step.found
        )
        self._show("running")

    def _write(self, writer: Writer, rows: Sequence[EventRow]) -> list[Written | Failed]:
        """In a thread. Records are made as they are handed over."""
        name = f"{self.kind}.handed"

        def records() -> Iterator[ToWrite]:
            for row in rows:
                record, partition = self._to_write(row)
                topic = self._topic_of(row)
                limit = self._limits.get(topic, self._record_bytes_max)
                if len(record.value) + _BESIDES_BYTES > limit and record_bytes(record) > limit:  # rules.md 9
                    raise ReplayError(
                        f"Event {row.event_id} is too large for {topic}, which takes records of {limit} bytes.",
                        hint="Raise the topic's max.message.bytes.",
                    )
                yield ToWrite(topic, partition, record.key, record.value, record.headers)
                failpoint(name)

        return writer.write(records())

    def _topic_of(self, row: EventRow) -> str:
        return self._one.to_topic or row.topic

    @staticmethod
    def _refused(row: EventRow, failed: Failed) -> None:
        if failed.lasting:
            raise ReplayError(f"Event {row.event_id}: {failed.message}", hint=failed.hint)
        raise KafkaError(failed.message, hint=failed.hint)

    def _ends(self, places: Iterable[At]) -> dict[tuple[str, int], int]:
        """Where the target is read from after the next crash: behind what was passed, but not behind anything that is
        there and was not passed yet."""
        ends: dict[tuple[str, int], int] = {}
        for topic, partition, offset in places:
            ends[topic, partition] = max(offset + 1, ends.get((topic, partition), 0))
        for topic, partition, offset in self._there.values():
            if (topic, partition) in ends:
                ends[topic, partition] = min(offset, ends[topic, partition])
        return ends

    # ── after a crash ─────────────────────────────────────────────────────────────────────────────────────────────

    async def _find_targets(self) -> None:
        """The target must be what it was: its offsets mean nothing in another topic of that name."""
        self._targets = {
            Place(t.topic, t.partition): t for t in await replays.targets(self._store, self._one.replay_id)
        }
        names = {place.topic for place in self._targets}
        found = await asyncio.to_thread(self._admin.describe, names)
        self._limits = {name: info.record_bytes_max for name, info in found.items() if info.record_bytes_max}
        loop = asyncio.get_running_loop()
        if missing := sorted(names - found.keys()):
            self._missing_since = self._missing_since or loop.time()
            if loop.time() - self._missing_since > _MISSING_S:
                raise ReplayError(f"The topic {missing[0]} is gone.", hint="`kwb topics` lists what there is.")
            raise KafkaError(f"Kafka does not know the topic {missing[0]}.")
        self._missing_since = None
        for target in self._targets.values():
            if str(target.topic_id) != found[target.topic].topic_id:
                raise ReplayError(
                    f"The topic {target.topic} was made anew since the {self.kind} began.",
                    hint="Begin another one.",
                )

    async def _look(self) -> None:
        """What the batch in doubt left in the target, once nothing of it can come any more."""
        why = "a batch has had no answer" if self._tried else "a process may have died in the middle of a batch"
        self._show("looking", why)
        await pause(self._stop, self._settings.kafka.delivery_timeout_ms / 1000 + _AFTER_TIMEOUT_S)
        if self._stop.is_set():
            return
        starts, ends = await self._bounds({place: t.next_offset for place, t in self._targets.items()})
        seen = await asyncio.to_thread(self._read, starts, ends, await self._in_doubt())
        self._there = {event_id: places[0] for event_id, places in seen.items()}
        self._count(sum(len(places) - 1 for places in seen.values()))
        if self._tried and not self._doubted_from:  # this process sent it and got no answer: the broker stalls
            self._doubted_from = starts
        self._clean = True
        failpoint(f"{self.kind}.looked")

    async def _bounds(self, starts: Mapping[Place, int]) -> tuple[dict[Place, int], dict[Place, int]]:
        """From where to where the target is read; what retention has removed is not there."""
        found = await asyncio.to_thread(self._admin.offsets, {place.topic for place in starts})
        begin, end = {}, {}
        for place, start in starts.items():
            first, last = found[place.topic][place.partition]
            begin[place], end[place] = max(first, start), last
        return begin, end

    def _read(
        self, starts: Mapping[Place, int], ends: Mapping[Place, int], wanted: set[uuid.UUID] | None
    ) -> dict[uuid.UUID, list[At]]:
        """In a thread: where the events are that this replay or rebuild sent, those in `wanted` or all."""
        seen: dict[uuid.UUID, list[At]] = {}
        for record in read_between(
            self._settings.kafka, starts, ends, client_id=f"kwb-{self.kind}-look",
            record_bytes_max=self._record_bytes_max,
        ):  # fmt: skip
            headers = dict(record.headers)
            event_id = ids.parse((headers.get("ce_id") or b"").decode("latin-1"))
            if event_id is not None and (wanted is None or event_id in wanted) and self._is_ours(headers):
                seen.setdefault(event_id, []).append(At(record.topic, record.partition, record.offset))
        return seen

    def _count(self, copies: int) -> None:
        self._copies += copies
        self._progress = replace(self._progress, duplicates=self._progress.duplicates + copies)

    async def _count_copies(self) -> None:
        """A broker that stalled may have written a batch later than it was looked for."""
        self._show("looking", "the broker stalled; copies are counted")
        doubtful, self._doubtful = self._doubtful, set()
        seen = await asyncio.to_thread(self._read, *await self._bounds(self._doubted_from), doubtful)
        self._count(sum(len(places) - 1 for places in seen.values()))
        assert self._cursor is not None
        await self._holder.checkpoint(Step(self._cursor, 0, 0, self._copies))
        self._copies = 0
