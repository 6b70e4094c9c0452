"""Which topics may be produced to, and making those that are missing (rules.md 10, 11).

    unknown ──ensure──▶ ready ──Kafka: unknown topic──▶ blocked ──operator makes it anew──▶ ready
                └─────▶ refused (no room, or somebody else's topic)

A topic is made once, at load or at first use, outside the wait for Kafka. One that existed and vanished is never made
anew: events would seem durable in a topic whose history is gone. What the bridge made is recorded in PostgreSQL.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from kafka_webhook_bridge import errors
from kafka_webhook_bridge.errors import KafkaError, Refusal, StoreError
from kafka_webhook_bridge.kafka.admin import Admin
from kafka_webhook_bridge.observability import logs
from kafka_webhook_bridge.sources.source import Source

_RECHECK_S = 5.0
_REFUSED_KEPT_S = 10.0  # an answer "no room" is asked again no sooner


class TopicRecords(Protocol):
    """What PostgreSQL knows about topics: `store.topics.Topics`."""

    async def known(self) -> dict[str, tuple[str, str]]:
        """Name → (topic id, `source` or `open_rule`)."""

    async def record(self, name: str, topic_id: str, made_by: str, open_rule_max: int | None = None) -> bool:
        """Remember a topic. False when the open rule has `open_rule_max` topics already."""


class Topics:
    """Keeps the set of topics that are ready. `ready` is all that the hot path looks at."""

    def __init__(self, admin: Admin, records: TopicRecords | None, record_bytes_max: int, topics_max: int) -> None:
        self.ready: set[str] = set()
        self.blocked: dict[str, str] = {}
        self._admin = admin
        self._records = records
        self._record_bytes_max = record_bytes_max
        self._topics_max = topics_max
        self._tasks: dict[str, asyncio.Task[Refusal | None]] = {}
        self._refused: dict[str, tuple[float, Refusal]] = {}
        self._sources: list[Source] = []
        self._one_at_a_time = asyncio.Lock()
        self._log = logs.get_logger("ingest")

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
                refusal = await self._make(source)
        except (KafkaError, StoreError, OSError) as error:
            self._log.warning("topic not checked", topic=topic, error=str(error))
            return errors.NOT_DURABLE
        except Exception:
            self._log.exception("fault while a topic was checked", topic=topic)
            return errors.INTERNAL
        if refusal is None:
            self.ready.add(topic)
            if self.blocked.pop(topic, None) is not None:
                self._log.info("topic is there again", topic=topic)
        elif refusal is not errors.TOPIC_BLOCKED:
            if len(self._refused) > 10_000:
                self._refused.clear()
            self._refused[topic] = (asyncio.get_running_loop().time() + _REFUSED_KEPT_S, refusal)
        return refusal

    async def _make(self, source: Source) -> Refusal | None:
        topic = source.topic
        known = await self._records.known() if self._records is not None else {}
        found = (await asyncio.to_thread(self._admin.topic_ids, [topic])).get(topic)
        if found is not None:
            if source.open and topic not in known:
                return errors.UNKNOWN_SOURCE  # somebody else's topic: the open rule keeps its hands off
            if self._records is not None and known.get(topic, ("",))[0] != found:
                await self._records.record(topic, found, known.get(topic, ("", "found"))[1])
            return None
        if topic in known or topic in self.ready or topic in self.blocked:
            self.block(topic, "UNKNOWN_TOPIC")
            return errors.TOPIC_BLOCKED
        if source.open and sum(made_by == "open_rule" for _, made_by in known.values()) >= self._topics_max:
            return errors.TOPICS_MAX
        info = await asyncio.to_thread(self._admin.ensure_topic, topic, self._record_bytes_max)
        if self._records is not None:
            await self._records.record(topic, info.topic_id, "open_rule" if source.open else "source")
        return None

    def block(self, topic: str, reason: str) -> None:
        """Kafka says that the topic is gone."""
        self.ready.discard(topic)
        if topic not in self.blocked:
            self.blocked[topic] = reason
            self._log.error("topic is gone; create it anew or choose another", topic=topic, reason=reason)

    def use(self, sources: list[Source]) -> None:
        """The configured sources, at start and after a reload: their topics are made before the first request."""
        self._sources = sources

    async def run(self) -> None:
        """Make what is missing, and look again after topics that are blocked or could not be checked."""
        while True:
            wanted = {s.topic: s for s in self._sources if s.topic not in self.ready}
            for source in wanted.values():
                await self._ensure(source)
            for topic in [t for t in self.blocked if t not in wanted]:
                await self._recheck(topic)
            await asyncio.sleep(_RECHECK_S)

    async def _recheck(self, topic: str) -> None:
        try:
            found = (await asyncio.to_thread(self._admin.topic_ids, [topic])).get(topic)
        except KafkaError:
            return
        if found is not None:
            del self.blocked[topic]
            self._log.info("topic is there again", topic=topic)
