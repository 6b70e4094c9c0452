"""Which topics may be produced to, and making those that are missing (rules.md 9 to 11).

    unknown ──ensure──▶ ready ──Kafka: unknown topic──▶ blocked ──operator makes it anew──▶ ready
                └─────▶ refused (no room, or somebody else's topic)

A topic is made once, at load or at first use, outside the wait for Kafka. One that existed and vanished is never made
anew: events would seem durable in a topic whose history is gone. What the bridge uses is on record in PostgreSQL, first
without an id: a crash between the record and the making leaves nothing that looks vanished, or like somebody else's.
A topic of a configured source that exists is used even while PostgreSQL is away; its record follows. While Kafka is
away, events of configured topics and of those on record wait in the outbox (`expected`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from kafka_webhook_bridge import errors
from kafka_webhook_bridge.errors import KafkaError, Refusal, StoreError
from kafka_webhook_bridge.kafka.admin import Admin, TopicInfo
from kafka_webhook_bridge.observability import logs
from kafka_webhook_bridge.sources.source import Source
from kafka_webhook_bridge.sources.table import SourceTable
from kafka_webhook_bridge.store.coordination import (
    NOT_MADE_YET,
    KnownTopic,
    MadeBy,
    known_topics,
    making_topics,
    record_topic,
)
from kafka_webhook_bridge.store.pool import Store

_RECHECK_S = 5.0
_RETRY_S = 1.0  # while a configured topic is missing, as before the first migration
_LIMITS_EVERY = 6  # rechecks between two looks at the topics' limits
_REFUSED_KEPT_S = 10.0  # an answer "no room" is asked again no sooner
_REFUSED_MAX = 10_000
_REQUEST_OVERHEAD_BYTES = 4096  # of a produce request with one record


class Topics:
    """Keeps the topics that are ready, with the largest record in bytes that each takes. Belongs to one loop.

    `ready` is all that the hot path looks at; `away` tells that Kafka did not answer the last question. `waiting` are
    topics of configured sources that cannot be made without PostgreSQL, and why. `store` is None where there is none.
    """

    def __init__(self, admin: Admin, store: Store | None, record_bytes_max: int, sources: SourceTable) -> None:
        self.ready: dict[str, int] = {}
        self.blocked: dict[str, str] = {}
        self.waiting: dict[str, str] = {}
        self._admin = admin
        self._store = store
        self.away = False
        self.record_bytes_max = record_bytes_max
        self._own: set[str] = set()
        self._sources = sources
        self._unrecorded: dict[str, tuple[str, MadeBy]] = {}
        self._tasks: dict[str, asyncio.Task[Refusal | None]] = {}
        self._refused: dict[str, tuple[float, Refusal]] = {}
        self._one_at_a_time = asyncio.Lock()
        self._told = ""
        self._log = logs.get_logger("ingest")

    def use(self, sources: SourceTable) -> None:
        """Take a configuration, after a reload: `run` makes its topics."""
        self._sources = sources

    def expected(self, source: Source) -> bool:
        """Whether the source's topic is, or will be, the bridge's to produce to, whatever Kafka says now."""
        return not source.open or source.topic in self._own

    def look_at(self, source: Source) -> None:
        """Nobody waits for the topic, but it is wanted. Those of configured sources are looked at by `run`."""
        if source.open and source.topic not in self._tasks and source.topic not in self.blocked:
            self.ensure(source, lambda _: None)

    def bound(self, request_bytes_max: int) -> None:
        """The brokers take no larger request: they would cut the connection, and others' records with it."""
        room = request_bytes_max - _REQUEST_OVERHEAD_BYTES
        if room < self.record_bytes_max:
            self._log.warning("records are bounded by the brokers' socket.request.max.bytes", record_bytes_max=room)
            self.record_bytes_max = room
            self.ready.update({name: min(limit, room) for name, limit in self.ready.items()})

    def ensure(self, source: Source, then: Callable[[Refusal | None], None]) -> None:
        """Call `then` on the loop once the source's topic can be used (None) or cannot."""
        topic = source.topic
        if topic in self.blocked:
            then(errors.TOPIC_BLOCKED)
            return
        until, refusal = self._refused.get(topic, (0.0, None))
        if refusal is not None and until > asyncio.get_running_loop().time():
            then(refusal)
            return
        task = self._tasks.get(topic)
        if task is None:
            task = self._tasks[topic] = asyncio.create_task(self._ensure(source))
            task.add_done_callback(lambda _: self._tasks.pop(topic, None))
        task.add_done_callback(lambda done: then(errors.INTERNAL if done.cancelled() else done.result()))

    async def _ensure(self, source: Source) -> Refusal | None:
        topic = source.topic
        try:
            async with self._one_at_a_time:
                refusal = await self._find_or_make(source)
        except (KafkaError, StoreError) as error:
            self.away = isinstance(error, KafkaError)
            if not self.away and not source.open:
                self.waiting[topic] = "; ".join(filter(None, (error.message, error.hint)))
            self._warn("topic not checked", error, topic=topic)
            return errors.NOT_DURABLE
        except Exception:
            self._log.exception("fault while a topic was checked", topic=topic)
            return errors.INTERNAL
        if refusal is not None and refusal is not errors.TOPIC_BLOCKED:
            if len(self._refused) >= _REFUSED_MAX:
                self._refused.clear()
            self._refused[topic] = (asyncio.get_running_loop().time() + _REFUSED_KEPT_S, refusal)
        return refusal

    async def _find_or_make(self, source: Source) -> Refusal | None:
        topic = source.topic
        info = await self._describe(topic)
        if info is not None:
            made_by: MadeBy = "outside"
            if source.open:
                known = (await self._known()).get(topic)
                if known is None or known.made_by == "outside":
                    return errors.UNKNOWN_SOURCE  # somebody else's topic: the open rule keeps its hands off
                made_by = known.made_by
            self._found(info, made_by)
            return None
        if topic in self.ready or topic in self.blocked:
            return self.block(topic)
        if self._store is None:
            self._found(await asyncio.to_thread(self._admin.ensure_topic, topic, self.record_bytes_max), "source")
            return None
        return await self._make(source, self._store)

    async def _make(self, source: Source, store: Store) -> Refusal | None:
        """Record, make, record again with the id. The turn counts right while several bridges make topics."""
        topic = source.topic
        made_by: MadeBy = "open_rule" if source.open else "source"
        async with making_topics(store):
            known = await self._known()
            if topic in known and known[topic].topic_id != NOT_MADE_YET:
                if await self._describe(topic) is None:  # else another process has made it meanwhile
                    return self.block(topic)
            elif source.open:
                others = sum(other.made_by == "open_rule" for name, other in known.items() if name != topic)
                if others >= self._sources.topics_max:
                    return errors.TOPICS_MAX
            await record_topic(store, topic, NOT_MADE_YET, made_by, only_new=True)
            info = await asyncio.to_thread(self._admin.ensure_topic, topic, self.record_bytes_max)
            self._found(info, made_by)
            await self._record()
        return None

    async def _describe(self, topic: str) -> TopicInfo | None:
        return (await asyncio.to_thread(self._admin.describe, [topic])).get(topic)

    async def _known(self) -> dict[str, KnownTopic]:
        return {} if self._store is None else await known_topics(self._store)

    def _found(self, info: TopicInfo, made_by: MadeBy) -> None:
        # The broker cuts the connection over a record that is too large, and others die with it (rules.md 9).
        self.ready[info.name] = min(self.record_bytes_max, info.record_bytes_max or self.record_bytes_max)
        self.away = False
        self._refused.pop(info.name, None)
        self.waiting.pop(info.name, None)
        if made_by == "open_rule":
            self._own.add(info.name)
        if self.blocked.pop(info.name, None) is not None:
            self._log.info("topic is there again", topic=info.name)
        if self._store is not None:
            self._unrecorded[info.name] = (info.topic_id, made_by)

    async def _record(self) -> None:
        """Whatever is not on record yet. Raises StoreError; then it is tried again."""
        for name, (topic_id, made_by) in list(self._unrecorded.items()):
            assert self._store is not None
            await record_topic(self._store, name, topic_id, made_by)
            if self._unrecorded.get(name) == (topic_id, made_by):
                del self._unrecorded[name]

    def _warn(self, event: str, error: KafkaError | StoreError, **fields: str) -> None:
        """Asked again every second, so the same answer is told once."""
        if error.message != self._told:
            self._told = error.message
            self._log.warning(event, error=error.message, hint=error.hint, **fields)

    def block(self, topic: str) -> Refusal:
        """Kafka says that the topic is gone. What its sources are answered."""
        self.ready.pop(topic, None)
        self.waiting.pop(topic, None)
        if topic not in self.blocked:
            self.blocked[topic] = "UNKNOWN_TOPIC"
            self._log.error("topic is gone; create it anew or choose another", topic=topic, reason="UNKNOWN_TOPIC")
        return errors.TOPIC_BLOCKED

    async def run(self) -> None:
        """Make what is missing, put on record what is not, and look again after what is blocked or may have changed."""
        turn = 0
        while True:
            await self._remember()
            missing = {t: s for t, s in self._sources.by_topic().items() if t not in self.ready}
            self.waiting = {topic: why for topic, why in self.waiting.items() if topic in missing}
            for source in missing.values():
                await self._ensure(source)
                if self.away:
                    break  # each would take its time to say the same
            again = [topic for topic in self.blocked if topic not in missing]
            turn = (turn + 1) % _LIMITS_EVERY
            if turn == 0:
                again += self.ready
            try:
                await self._look_again(again)
                await self._record()
                self._told = "" if not self.away and not self.waiting else self._told
            except (KafkaError, StoreError) as error:
                self._warn("topics not checked", error)
            await asyncio.sleep(_RETRY_S if missing.keys() - self.ready.keys() - self.blocked.keys() else _RECHECK_S)

    async def _remember(self) -> None:
        """Which topics the open rule made, so that their events can be taken while Kafka is away."""
        if self._sources.open_rule:
            with contextlib.suppress(StoreError):
                self._own |= {name for name, topic in (await self._known()).items() if topic.made_by != "outside"}

    async def _look_again(self, topics: list[str]) -> None:
        if not topics:
            return
        found = await asyncio.to_thread(self._admin.describe, topics)
        for topic in topics:
            if topic in found:
                self._found(found[topic], "outside")  # on record already, so who made it stays as it was
            else:
                self.block(topic)
