"""A topic, a database and an archiver between them, for the tests of the archive."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import asyncpg
import confluent_kafka as ck

from kafka_webhook_bridge import formats
from kafka_webhook_bridge.archive.archiver import Archiver
from kafka_webhook_bridge.errors import KafkaError
from kafka_webhook_bridge.event import Event, Request
from kafka_webhook_bridge.kafka.admin import Admin
from kafka_webhook_bridge.kafka.config import client_config, record_bytes_limit
from kafka_webhook_bridge.observability import metrics
from kafka_webhook_bridge.settings import Settings, load_settings
from kafka_webhook_bridge.sources.config import load_sources
from kafka_webhook_bridge.sources.source import Source
from kafka_webhook_bridge.stack import Stack
from kafka_webhook_bridge.store import Store, migrate

DEADLINE_S = 60.0
RECORD_BYTES_MAX = record_bytes_limit(1024**2)
NOW_MS = time.time_ns() // 1_000_000


def event_id(at_ms: int = NOW_MS) -> str:
    """A UUIDv7 of that time."""
    bits = at_ms << 80 | 7 << 76 | random.getrandbits(12) << 64 | 2 << 62 | random.getrandbits(62)
    return str(uuid.UUID(int=bits))


class World:
    """One database, one topic of one source, and what a test does with them."""

    def __init__(self, stack: Stack, database: str, topic: str, **environ: str) -> None:
        self.stack = stack
        self.topic = topic
        self.environ = {
            **stack.environ(),
            "DATABASE_URL": database,
            "KWB_CONFIG": f"sources: {{{topic}: {{auth: none}}}}",
            "KWB_ARCHIVE_TOPIC_CHECK_MS": "100",
            "KWB_ARCHIVE_BATCH_RECORDS_MAX": "50",
            **environ,
        }
        self.settings: Settings = load_settings(self.environ)
        self.sources = load_sources(self.settings, self.environ)
        self.admin = Admin(stack.kafka.settings)
        self.admin.ensure_topic(topic, RECORD_BYTES_MAX)
        self.producer = ck.Producer(client_config(stack.kafka.settings))

    @property
    def source(self) -> Source:
        source = self.sources.get(self.topic)
        assert source is not None
        return source

    def event(
        self,
        body: bytes = b'{"order":1}',
        *,
        at_ms: int = NOW_MS,
        dedupe_key: str | None = None,
        key: bytes | None = None,
    ) -> Event:
        headers = [(b"Content-Type", b"application/json"), (b"X-Signature", b"abc=")]
        request = Request(b"POST", b"/" + self.topic.encode() + b"/a", b"x=1", headers, body, "127.0.0.1")
        kind = "orders/create"
        return Event(event_id(at_ms), at_ms, self.source, request, kind, key, "none", False, dedupe_key)

    def produce(self, *events: Event, partition: int = -1) -> list[str]:
        """Write them as the bridge does; their ids."""
        for event in events:
            record = formats.encode(event)
            while True:
                try:
                    self.producer.produce(record.topic, record.value, record.key, partition, headers=record.headers)
                    break
                except BufferError:
                    self.producer.poll(0.1)
        assert self.producer.flush(DEADLINE_S) == 0
        return [event.event_id for event in events]

    def make_anew(self) -> None:
        """Delete the topic and make another of its name."""
        former = self.admin.topic_ids([self.topic])
        self.admin.delete_topic(self.topic)
        deadline = time.monotonic() + DEADLINE_S
        while self.admin.topic_ids([self.topic]) in ({}, former):  # the broker goes on showing it for a moment
            assert time.monotonic() < deadline
            with contextlib.suppress(KafkaError):
                self.admin.ensure_topic(self.topic, RECORD_BYTES_MAX)
        self.producer = ck.Producer(client_config(self.stack.kafka.settings))  # the other one knows the old topic

    async def fetch(self, sql: str, *arguments: Any) -> list[Any]:
        connection = await asyncpg.connect(self.environ["DATABASE_URL"])
        try:
            return await connection.fetch(sql, *arguments)
        finally:
            await connection.close()

    async def ids(self) -> list[str]:
        return [str(row[0]) for row in await self.fetch("SELECT event_id FROM events")]

    async def at_the_end(self) -> bool:
        """Whether the positions of the topic are its ends."""
        topic_id = (await asyncio.to_thread(self.admin.topic_ids, [self.topic]))[self.topic]
        ends = (await asyncio.to_thread(self.admin.offsets, [self.topic]))[self.topic]
        rows = await self.fetch(
            "SELECT partition, next_offset FROM archive_offsets WHERE topic_id = $1", uuid.UUID(topic_id)
        )
        return {row[0]: row[1] for row in rows} == {partition: end for partition, (_, end) in ends.items()}

    @contextlib.asynccontextmanager
    async def archiving(self) -> AsyncIterator[Archiver]:
        """An archiver at work. Whatever it dies of fails the test; `stop` must end it."""
        async with Store(self.settings.store) as store:
            await migrate(store)
            stop = asyncio.Event()
            archiver = Archiver(self.settings, store, self.sources)
            task = asyncio.create_task(archiver.run(stop))
            try:
                yield archiver
                assert not task.done()
            finally:
                stop.set()
                async with asyncio.timeout(DEADLINE_S):
                    await task

    async def archived(self) -> None:
        """Wait until the archive is at the end of the topic."""
        await until(self.at_the_end)


async def until(condition: Callable[[], Awaitable[bool] | bool]) -> None:
    """Raises TimeoutError when it does not become true."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            with contextlib.suppress(OSError, asyncpg.PostgresError, KafkaError):
                found = condition()
                if found if isinstance(found, bool) else await found:
                    return
            await asyncio.sleep(0.02)


def count(name: Any, **labels: Any) -> float:
    return metrics.registry().counter(name, **labels).value


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)
