"""Outbox → Kafka (rules.md 2, 4, 10): every event that PostgreSQL vouched for, as soon as Kafka takes it.

    claim ──▶ lease ──▶ send ──▶ Kafka's report ──▶ settle: delete, try later, block or quarantine
      ▲                                               │
      └───────────── room for the next ───────────────┘

Claiming and settling run side by side, so the next batch is on its way while one waits for its reports. A relay that is
killed leaves leases that end by themselves: what it had sent and not deleted is sent twice, with the same id, and
nothing is lost. What fails for a while is tried again for ever. An error that names the record is believed only when
the record was sent alone: Kafka refuses whole batches.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, ParamSpec, TypeVar

from kafka_webhook_bridge.archive.strict import StrictRelay
from kafka_webhook_bridge.errors import KafkaError, StoreError
from kafka_webhook_bridge.formats.packed import unpack
from kafka_webhook_bridge.kafka.admin import Admin, TopicInfo
from kafka_webhook_bridge.kafka.config import record_bytes_limit
from kafka_webhook_bridge.kafka.errors import blame, reason_of
from kafka_webhook_bridge.kafka.producer import NotTaken, Outcome, Producer, QueueFull
from kafka_webhook_bridge.observability import health, logs, metrics
from kafka_webhook_bridge.observability.background import pause, until
from kafka_webhook_bridge.observability.failpoints import failpoint
from kafka_webhook_bridge.settings import Settings
from kafka_webhook_bridge.sources.table import SourceTable
from kafka_webhook_bridge.store import Store
from kafka_webhook_bridge.store.coordination import NOT_MADE_YET, has_existed, making_topics, record_topic
from kafka_webhook_bridge.store.errors import sqlstate
from kafka_webhook_bridge.store.relay import CHUNK_ROWS, STATES, Outbox, OutboxRow, Settlement, Size

P = ParamSpec("P")
T = TypeVar("T")

_BATCHES = 2  # under way at once
_ASK_S = 5.0  # Kafka about a topic
_KNOWN_S = 30.0  # how long what Kafka said of a topic is believed
_BREAKER_FAILURES = 3
_BREAKER_S = (0.5, 5.0)
_BACK_OFF_S = (0.1, 5.0)
_LEASE_MARGIN_S = 5.0  # beyond a delivery and the statement that settles it
_AWAY_S = 0.2  # how often a cluster that is away is asked about
_GATHER_S = 0.01  # reports that come together are settled together
_MEASURE_S = 5.0  # how often the outbox is measured,
_MEASURE_SHARE = 20  # and how much longer than the measuring took it is left alone
_CHUNKS = 20  # of one topic in one turn
_STOP_S = 6.0  # on stop: then the work is cut
_CLOSE_S = 2.0  # on stop: for the reports of what is under way
_MISSING = "UNKNOWN_TOPIC"
_NAMES_MAX = 5  # that health tells


@dataclass(slots=True)
class Topic:
    """What this relay knows of a topic. `outstanding` records have no report yet; `suspects` go one at a time."""

    name: str
    outstanding: int = 0
    checked_at: float | None = None
    record_bytes_max: int | None = None
    blocked: str | None = None
    failures: int = 0
    held_until: float = 0.0
    suspects: deque[Held] = field(default_factory=deque)

    def well(self) -> None:
        self.failures, self.held_until = 0, 0.0

    def failed(self, now: float) -> None:
        """After a few failures the topic is left alone for a moment, and then one row tries."""
        self.failures += 1
        rounds = self.failures - _BREAKER_FAILURES
        if rounds >= 0 and now >= self.held_until:
            self.held_until = now + min(_BREAKER_S[0] * 2 ** min(rounds, 10), _BREAKER_S[1])

    @property
    def on_trial(self) -> bool:
        return self.failures >= _BREAKER_FAILURES


@dataclass(frozen=True, slots=True)
class Held:
    """A leased row. After `until`, by this loop's clock, it may no longer be sent: another relay soon takes it."""

    row: OutboxRow
    until: float


class _Sent(Outcome):
    __slots__ = ("alone", "held", "topic")

    def __init__(self, held: Held, topic: Topic, alone: bool) -> None:
        self.held = held
        self.topic = topic
        self.alone = alone


class Relay:
    """One relay; any number of them share a database. Strict sources have a part of their own beside it."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        sources: SourceTable,
        died: Callable[[str, BaseException], None],
        migrated: asyncio.Event | None = None,
    ) -> None:
        """`died(name, error)` as for the producer; `migrated` as for the archiver."""
        self._settings = settings
        self._limits = settings.relay
        # The batches under way must find room in the producer's queue together.
        self._batch_records_max = min(
            settings.relay.batch_records_max, max(1, settings.kafka.queue_records_max // _BATCHES)
        )
        # Longer than all that it is for: what one relay sends, another must not send too (rules.md 2).
        self._lease_s = _LEASE_MARGIN_S + (
            (settings.kafka.delivery_timeout_ms + settings.relay.statement_timeout_ms) / 1000
        )
        self._store = store
        self._body_bytes_max = sources.body_bytes_max
        self._record_bytes_max = record_bytes_limit(max(settings.ingest.body_bytes_max, sources.body_bytes_max))
        self._died = died
        self._migrated = migrated
        self._outbox = Outbox(store, settings.relay.statement_timeout_ms)
        self._admin = Admin(settings.kafka, timeout_s=_ASK_S, client_id="kwb-relay-admin")
        self._threads = ThreadPoolExecutor(2, "relay-admin")
        self._one_at_a_time = asyncio.Lock()
        self._topics: dict[str, Topic] = {}
        self._rows = 0  # leased and not settled
        self._todo = Settlement()
        self._finished_some = asyncio.Event()
        self._settled_some = asyncio.Event()
        self._unsettled = False  # the database did not take what is finished
        self._ended = False
        self._told = ""
        self._log = logs.get_logger("relay")
        registry = metrics.registry()
        self._relayed = registry.counter("kwb_relay_relayed_total")
        self._quarantined = registry.counter("kwb_relay_quarantined_total")
        self._blocked_topics = registry.gauge("kwb_relay_blocked_topics")
        self._strict = StrictRelay(settings, self._outbox, store, self.look_at, sources, died)

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`, whatever is away meanwhile; then what is under way gets a moment."""
        try:
            await until(stop, self._work(stop), _STOP_S)
        finally:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _work(self, stop: asyncio.Event) -> None:
        while self._migrated is not None and not self._migrated.is_set() and not stop.is_set():
            await pause(stop, _BACK_OFF_S[0])
        self._producer = Producer(
            replace(self._settings.kafka, fast_lane_requests_max=0),  # there is always a batch
            self._finished,
            body_bytes_max=self._body_bytes_max,
            died=self._died,
            client_id="kwb-relay",
        )
        async with asyncio.TaskGroup() as group:
            settling = group.create_task(self._settling())
            work = (self._claiming(stop), self._watching(stop), self._measuring(stop), self._strict.run(stop))
            await asyncio.wait([group.create_task(part) for part in work])
            for topic in self._topics.values():
                self._give_back(topic.suspects)
                topic.suspects.clear()
            await self._producer.close(_CLOSE_S)
            self._ended = True
            self._finished_some.set()
            await settling

    # ── claim and send ────────────────────────────────────────────────────────────────────────────────────────────

    async def _claiming(self, stop: asyncio.Event) -> None:
        loop, limits, records_max = asyncio.get_running_loop(), self._limits, self._batch_records_max
        wait_s = 0.0
        while not stop.is_set():
            room = min(records_max, _BATCHES * records_max - self._rows)
            if self._unsettled or not self._producer.available:
                await pause(stop, _AWAY_S)
                continue
            if self._rows and 2 * room < records_max:
                self._settled_some.clear()
                await _first(self._settled_some.wait(), stop.wait())
                continue
            now = loop.time()
            until = now + self._lease_s - self._settings.kafka.delivery_timeout_ms / 1000
            held = [t.name for t in self._topics.values() if t.blocked or t.suspects or t.held_until > now]
            trial = [t.name for t in self._topics.values() if t.on_trial]
            try:
                rows = await self._outbox.claim(room, limits.batch_bytes_max, self._lease_s, held=held, trial=trial)
                wait_s = 0.0
            except StoreError as error:
                self._trouble(error)
                wait_s = min(max(2 * wait_s, _BACK_OFF_S[0]), _BACK_OFF_S[1])
                await pause(stop, wait_s)
                continue
            if rows:
                failpoint("relay.claimed")
                self._rows += len(rows)
                await self._send_all([Held(row, until) for row in rows])
            if 20 * len(rows) < room:
                await pause(stop, limits.poll_ms / 1000)

    async def _send_all(self, batch: list[Held]) -> None:
        """Send what was claimed, after a look at topics that are new or were not asked about for long."""
        loop = asyncio.get_running_loop()
        by_topic: dict[str, list[Held]] = {}
        for held in batch:
            by_topic.setdefault(held.row.topic, []).append(held)
        for name, members in by_topic.items():
            topic = self._topics.setdefault(name, Topic(name))
            largest = max(held.row.size_bytes for held in members)
            known = topic.checked_at is not None and loop.time() - topic.checked_at < _KNOWN_S
            try:
                if not known or self._too_large(topic, largest):
                    await self._examine(topic)
            except (KafkaError, StoreError) as error:
                self._say("a topic cannot be looked at", error)
                topic.failed(loop.time())
                self._give_back(members)
                continue
            for held in members:
                self._send(topic, held)
        self._finished_some.set()

    def _too_large(self, topic: Topic, size_bytes: int) -> bool:
        return topic.record_bytes_max is not None and size_bytes > topic.record_bytes_max

    def _send(self, topic: Topic, held: Held) -> None:
        row = held.row
        if topic.blocked:
            self._block(topic, row.event_id, topic.blocked)
        elif self._too_large(topic, row.size_bytes):
            self._quarantine(row, "MSG_SIZE_TOO_LARGE")
        elif topic.suspects or (row.reason is not None and blame(row.reason) == "record"):
            topic.suspects.append(held)
            self._next_suspect(topic)
        else:
            self._hand_over(topic, held, alone=False)

    def _next_suspect(self, topic: Topic) -> None:
        while topic.suspects and not topic.outstanding:
            self._hand_over(topic, topic.suspects.popleft(), alone=True)

    def _hand_over(self, topic: Topic, held: Held, *, alone: bool) -> None:
        row = held.row
        if asyncio.get_running_loop().time() > held.until:
            self._give_back([held])
            return
        try:
            self._producer.send(
                unpack(str(row.event_id), row.topic, row.key, row.value, row.headers), _Sent(held, topic, alone)
            )
        except QueueFull:  # by bytes
            metrics.registry().counter("kwb_relay_failures_total", error="_QUEUE_FULL").add()
            self._todo.failed[row.event_id] = "_QUEUE_FULL"
        except NotTaken as refused:  # alone, because nobody else was asked about it
            self._judge(topic, held, str(refused), alone=True)
        else:
            topic.outstanding += 1

    # ── reports ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _finished(self, batch: list[Outcome]) -> None:
        """On the loop, by the producer."""
        topics = set()
        for sent in batch:
            assert isinstance(sent, _Sent)
            topic = sent.topic
            topic.outstanding -= 1
            if sent.error is None:
                topic.well()
                self._todo.acknowledged.append(sent.held.row.event_id)
            else:
                self._judge(topic, sent.held, sent.error.name(), alone=sent.alone)
            if topic.suspects:
                topics.add(topic.name)
        for name in topics:
            self._next_suspect(self._topics[name])
        self._finished_some.set()

    def _judge(self, topic: Topic, held: Held, name: str, *, alone: bool) -> None:
        metrics.registry().counter("kwb_relay_failures_total", error=name).add()
        fault = blame(name)
        if fault == "topic":
            self._block(topic, held.row.event_id, reason_of(name))
        elif fault == "record" and alone:
            self._quarantine(held.row, name)
        elif fault == "record":
            topic.suspects.append(held)
        else:
            was = topic.on_trial
            topic.failed(asyncio.get_running_loop().time())
            if topic.on_trial and not was:
                self._log.warning("topic left alone for a moment", topic=topic.name, error=name)
            self._todo.failed[held.row.event_id] = name

    def _block(self, topic: Topic, event_id: uuid.UUID, reason: str) -> None:
        if topic.blocked is None:
            self._log.error("topic blocked: its events wait in the outbox", topic=topic.name, reason=reason)
        topic.blocked = reason
        self._todo.blocked[event_id] = reason

    def _quarantine(self, row: OutboxRow, reason: str) -> None:
        self._quarantined.add()
        self._log.error(
            "event quarantined: Kafka does not take it as it is",
            event_id=str(row.event_id), source=row.source, topic=row.topic, reason=reason, bytes=row.size_bytes,
        )  # fmt: skip
        self._todo.quarantined[row.event_id] = reason

    def _give_back(self, batch: Iterable[Held]) -> None:
        self._todo.returned += [held.row.event_id for held in batch]
        self._finished_some.set()

    async def _settling(self) -> None:
        """What is finished, as often as the database takes it. Until then nothing takes its room."""
        wait_s = 0.0
        while True:
            await self._finished_some.wait()
            if not self._ended:
                await asyncio.sleep(_GATHER_S)
            self._finished_some.clear()
            while self._todo:
                todo, self._todo = self._todo, Settlement()
                if todo.acknowledged:
                    failpoint("relay.acked")
                while True:
                    try:
                        await self._outbox.settle(todo, self._limits.back_off_max_ms / 1000)
                        break
                    except StoreError as error:
                        self._unsettled = True
                        self._trouble(error)
                        if self._ended:
                            return  # their leases end by themselves
                        wait_s = min(max(2 * wait_s, _BACK_OFF_S[0]), _BACK_OFF_S[1])
                        await asyncio.sleep(wait_s)
                wait_s, self._told, self._unsettled = 0.0, "", False
                if todo.acknowledged:
                    failpoint("relay.deleted")
                self._relayed.add(len(todo.acknowledged))
                self._rows -= len(todo)
                self._settled_some.set()
            if self._ended:
                return

    # ── topics that cannot be written to ──────────────────────────────────────────────────────────────────────────

    async def look_at(self, name: str) -> TopicInfo | str:
        """The topic, or why it cannot be written to. Raises KafkaError and StoreError.

        A topic that never was is made: the source whose events wait for it may have come and gone while Kafka was away,
        so nobody else would. One that was there and is lost stays lost (rules.md 10).
        """
        found = await self._ask(self._admin.writable, name)
        if found == _MISSING and not await has_existed(self._store, name):
            async with self._one_at_a_time:  # each takes two connections
                found = await self._make(name)
        return found

    async def _make(self, name: str) -> TopicInfo | str:
        """On record first without an id, as in the ingest: after a crash nothing looks lost that was never made."""
        async with making_topics(self._store):
            found = await self._ask(self._admin.writable, name)  # another process may have made it meanwhile
            if found != _MISSING or await has_existed(self._store, name):
                return found
            await record_topic(self._store, name, NOT_MADE_YET, "source", only_new=True)
            try:
                info = await self._ask(self._admin.ensure_topic, name, self._record_bytes_max)
            except KafkaError as error:
                self._say("a topic that events wait for cannot be made", error)
                return _MISSING
            await record_topic(self._store, name, info.topic_id, "source")
            return info

    async def _ask(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """A blocking call to Kafka, in a thread that nobody waits for at the end."""
        return await asyncio.wrap_future(self._threads.submit(call, *args, **kwargs))

    async def _examine(self, topic: Topic) -> None:
        found = await self.look_at(topic.name)
        topic.checked_at = asyncio.get_running_loop().time()
        if isinstance(found, str):
            if topic.blocked is None:
                self._log.error("topic blocked: its events wait in the outbox", topic=topic.name, reason=found)
            topic.blocked = found
            return
        topic.record_bytes_max = found.record_bytes_max
        if topic.blocked is not None:
            self._log.info("topic can be written to again", topic=topic.name)
            topic.blocked = None
            topic.failures, topic.held_until = _BREAKER_FAILURES, 0.0  # one event goes first

    async def _watching(self, stop: asyncio.Event) -> None:
        """Block the rest of a topic that is blocked, release the events of one that is no more."""
        while not stop.is_set():
            try:
                held = await self._outbox.blocked_topics()
                for name, reason in held.items():
                    topic = self._topics.setdefault(name, Topic(name))
                    topic.blocked = topic.blocked or reason or "blocked"
                more = False
                for topic in [topic for topic in self._topics.values() if topic.blocked]:
                    if self._producer.available:
                        more |= await self._watch(topic, waited_for=topic.name in held)
                if more:
                    continue
            except StoreError as error:
                self._trouble(error)
            except KafkaError as error:
                self._say("blocked topics cannot be looked at", error)
            self._blocked_topics.set(sum(topic.blocked is not None for topic in self._topics.values()))
            await pause(stop, self._limits.topic_check_ms / 1000)

    async def _watch(self, topic: Topic, *, waited_for: bool) -> bool:
        """Whether there is more to do."""
        await self._examine(topic)
        rows = 0
        for _ in range(_CHUNKS):
            if topic.blocked:
                changed = await self._outbox.block_topic(topic.name, topic.blocked)
            else:
                changed = await self._outbox.release(["blocked"], topic=topic.name)
            rows += changed
            if changed < CHUNK_ROWS:
                break
        if rows:
            self._log.info("events " + ("blocked" if topic.blocked else "released"), topic=topic.name, events=rows)
        elif (
            topic.blocked and not waited_for and not self._rows
            # Asked again: its events may have been put aside after `waited_for` was read.
            and topic.name not in await self._outbox.blocked_topics()
        ):  # fmt: skip
            topic.blocked = topic.checked_at = None  # nothing waits for it any more; whatever comes is looked at first
        return changed == CHUNK_ROWS

    # ── what is told ──────────────────────────────────────────────────────────────────────────────────────────────

    def parts(self) -> list[health.Part]:
        """What somebody must do something about, so that events go on. Webhooks are as durable as before."""
        topics = [f"{topic.name} ({topic.blocked})" for topic in self._topics.values() if topic.blocked]
        found = ((topics, "topics that cannot be written to"), (list(self._strict.blocked), "strict sources that wait"))
        told = [f"{what}: {', '.join(sorted(names)[:_NAMES_MAX])}" for names, what in found if names]
        if not told:
            return []
        return [health.Part("relay", "degraded", f"{'; '.join(told)}; `kwb outbox list` tells what mends it")]

    async def _measuring(self, stop: asyncio.Event) -> None:
        loop, registry = asyncio.get_running_loop(), metrics.registry()
        while not stop.is_set():
            begun = loop.time()
            try:
                sizes = await self._outbox.sizes()
            except StoreError:
                pass  # others tell; what was known stays
            else:
                for state in STATES:
                    size = sizes.get(state, Size(0, 0, 0.0))
                    registry.gauge("kwb_outbox_rows", state=state).set(size.rows)
                    registry.gauge("kwb_outbox_bytes", state=state).set(size.bytes)
                    registry.gauge("kwb_outbox_oldest_seconds", state=state).set(size.oldest_seconds)
            await pause(stop, max(_MEASURE_S, _MEASURE_SHARE * (loop.time() - begun)))

    def _trouble(self, error: StoreError) -> None:
        metrics.registry().counter("kwb_relay_errors_total", error=sqlstate(error.__cause__ or error)).add()
        self._say("the outbox cannot be used", error)

    def _say(self, event: str, error: KafkaError | StoreError) -> None:
        if error.message != self._told:  # several times a second it would tell nothing new
            self._told = error.message
            self._log.warning(event, error=error.message, hint=error.hint)


async def _first(*conditions: Coroutine[Any, Any, object]) -> None:
    tasks = [asyncio.create_task(condition) for condition in conditions]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
