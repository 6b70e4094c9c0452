"""An outbox filled by hand, and relays at work on it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import confluent_kafka.admin
from archive_world import DEADLINE_S, World, until

from kafka_webhook_bridge import formats, ids
from kafka_webhook_bridge.archive.relay import Relay
from kafka_webhook_bridge.errors import KafkaError
from kafka_webhook_bridge.event import Event
from kafka_webhook_bridge.formats.packed import pack_headers
from kafka_webhook_bridge.kafka.config import client_config
from kafka_webhook_bridge.kafka.consumer import Place, RecordReader
from kafka_webhook_bridge.settings import load_settings
from kafka_webhook_bridge.stack import Stack
from kafka_webhook_bridge.store import Store, migrate

ck_admin: Any = confluent_kafka.admin

_EVENT = """
INSERT INTO events (event_id, received_at, source, type, state, method, path, headers, body, verified, covers_body,
                    format, topic)
VALUES ($1, $2, $3, $4, $5, 'POST', '/x', '[]', $6, 'none', false, 'raw', $7)
"""
_OUTBOX = """
INSERT INTO outbox (event_id, source, topic, key, value, headers, size_bytes, relay_after, state, reason, number)
VALUES ($1, $2, $3, $4, $5, $6, $7, now() + make_interval(secs => $8), $9, $10, $11)
"""
_QUICK = {
    "KWB_RELAY_POLL_MS": "20",
    "KWB_RELAY_TOPIC_CHECK_MS": "200",
    "KWB_RELAY_BACK_OFF_MAX_MS": "1000",
}


class RelayWorld(World):
    """One database, one topic, an outbox."""

    def __init__(self, stack: Stack, database: str, topic: str, **environ: str) -> None:
        super().__init__(stack, database, topic, **{**_QUICK, **environ})

    async def migrate(self) -> None:
        async with Store(self.settings.store) as store:
            await migrate(store)

    async def put(
        self,
        *events: Event,
        connection: asyncpg.Connection | None = None,
        topic: str | None = None,
        source: str | None = None,
        relay_after_s: float = 0.0,
        state: str = "waiting",
        reason: str | None = None,
        number: int | None = None,
    ) -> list[str]:
        """Rows of `events` and `outbox` in one transaction, as the ingest writes them; their ids.

        `number` is of the first event; without one the source keeps no order.
        """
        opened = connection or await asyncpg.connect(self.environ["DATABASE_URL"])
        try:
            async with opened.transaction():
                for place, event in enumerate(events):
                    record = formats.encode(event)
                    identity = ids.parse(event.event_id)
                    where = topic or record.topic
                    name = source or event.source.name
                    packed = pack_headers(record.headers)
                    size = len(record.key or b"") + len(record.value) + len(packed)
                    body = event.request.body
                    await opened.execute(
                        _EVENT, identity, ids.moment(event.received_ms), name, event.type, state, body, where
                    )
                    await opened.execute(
                        _OUTBOX, identity, name, where, record.key, record.value, packed, size, relay_after_s, state,
                        reason, None if number is None else number + place,
                    )  # fmt: skip
        finally:
            if connection is None:
                await opened.close()
        return [event.event_id for event in events]

    @contextlib.asynccontextmanager
    async def relaying(self, **environ: str) -> AsyncIterator[Relay]:
        """A relay at work. Whatever it or its threads die of fails the test; `stop` must end it."""
        settings = load_settings({**self.environ, **environ})
        dead: list[BaseException] = []
        async with Store(settings.store) as store:
            await migrate(store)
            stop = asyncio.Event()
            relay = Relay(settings, store, self.sources, lambda _, error: dead.append(error))
            task = asyncio.create_task(relay.run(stop))
            try:
                yield relay
                assert not task.done()
            finally:
                stop.set()
                async with asyncio.timeout(DEADLINE_S):
                    await task
        assert dead == []

    async def lost(self, topic: str) -> None:
        """Put a topic on record that is not there, as one that was."""
        await self.fetch("INSERT INTO topics (name, topic_id, made_by) VALUES ($1, gen_random_uuid(), 'source')", topic)

    async def rows(self) -> dict[str, Any]:
        """The outbox by event id."""
        return {str(row["event_id"]): row for row in await self.fetch("SELECT * FROM outbox")}

    async def states(self) -> dict[str, str]:
        """States of events by id."""
        return {str(row[0]): row[1] for row in await self.fetch("SELECT event_id, state FROM events")}

    async def empty(self) -> None:
        """Wait until the outbox is."""

        async def none() -> bool:
            return not await self.fetch("SELECT 1 FROM outbox LIMIT 1")

        await until(none)

    async def read(self, topic: str | None = None) -> list[Any]:
        """Every record of a topic, from its start to the end that it has now, in order within each partition."""
        return await asyncio.to_thread(self._read, topic or self.topic)

    def _offsets(self, topic: str) -> dict[int, tuple[int, int]]:
        """As soon as the leaders tell: a broker that has just come back may not, for a moment."""
        end = time.monotonic() + DEADLINE_S
        while True:
            try:
                return self.admin.offsets([topic])[topic]
            except KafkaError:
                if time.monotonic() > end:
                    raise

    def _read(self, topic: str) -> list[Any]:
        ends = {Place(topic, p): end for p, (_, end) in self._offsets(topic).items()}
        reader = RecordReader(self.stack.kafka.settings, client_id="test-reader", record_bytes_max=16_000_000)
        found: list[Any] = []
        try:
            reader.assign(dict.fromkeys(ends, 0))
            while len(found) < sum(ends.values()):
                found += reader.read(10_000, 2**30, 1.0).records
        finally:
            reader.close()
        return found

    async def alter(self, topic: str, setting: str, value: object) -> None:
        """Change a setting of a topic."""
        entry = ck_admin.ConfigEntry(setting, str(value), incremental_operation=ck_admin.AlterConfigOpType.SET)
        resource = ck_admin.ConfigResource(ck_admin.ResourceType.TOPIC, topic, incremental_configs=[entry])
        client = ck_admin.AdminClient(client_config(self.stack.kafka.settings))
        for future in client.incremental_alter_configs([resource]).values():
            await asyncio.to_thread(future.result, DEADLINE_S)

    async def ids_in(self, topic: str | None = None) -> list[str]:
        return [dict(record.headers)["ce_id"].decode() for record in await self.read(topic)]
