"""What the console sees of Kafka and PostgreSQL. Looks are shared, so that many readers cost no more than one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

from kafka_webhook_bridge.errors import KafkaError, StoreError
from kafka_webhook_bridge.kafka.admin import Admin
from kafka_webhook_bridge.observability import health
from kafka_webhook_bridge.settings import Settings
from kafka_webhook_bridge.store import Store, events
from kafka_webhook_bridge.store.facts import next_offsets
from kafka_webhook_bridge.store.migrate import check
from kafka_webhook_bridge.store.relay import Outbox
from kafka_webhook_bridge.times import iso

LOOK_S = 5.0
_KAFKA_TIMEOUT_S = 3.0


class Look:
    """Belongs to one loop. `parts` is what was found last."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._admin = Admin(settings.kafka, timeout_s=_KAFKA_TIMEOUT_S, client_id="kwb-console")
        self._lock = asyncio.Lock()
        self._status: tuple[float, dict[str, Any]] | None = None
        self.parts = [health.Part(name, "unavailable", "not looked at yet") for name in ("kafka", "postgres")]

    async def run(self) -> None:
        """Look at both again and again."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        found = [
            ("kafka", await _trouble(lambda: asyncio.to_thread(self._admin.brokers))),
            ("postgres", await _trouble(lambda: check(self._store))),
        ]
        self.parts = [health.Part(name, "unavailable" if why else "ready", why) for name, why in found]

    async def status(self) -> dict[str, Any]:
        """Health, the outbox, the archive and the newest event; at most LOOK_S old. A part that fails says why."""
        async with self._lock:
            if self._status is None or time.monotonic() - self._status[0] > LOOK_S:
                await self.look()
                self._status = (time.monotonic(), await self._collect())
            return self._status[1]

    async def _collect(self) -> dict[str, Any]:
        _, summary = health.summarise([health.Part(p.name, p.status, p.reason, True) for p in self.parts], False)
        return {
            "time": iso(datetime.now(UTC)),
            **summary,
            "outbox": await _told(self._outbox),
            "archive_lag_records": await _told(self._lag),
            "newest_event": await _told(self._newest),
        }

    async def _outbox(self) -> dict[str, int]:
        found = {"waiting": 0, "blocked": 0, "quarantined": 0}
        for count in await Outbox(self._store, self._settings.relay.statement_timeout_ms).counts():
            found[count.state] += count.rows
        return found

    async def _newest(self) -> dict[str, Any] | None:
        rows = await events.search(self._store, events.Search(limit=1))
        return {"event_id": str(rows[0]["event_id"]), "received_at": iso(rows[0]["received_at"])} if rows else None

    async def _lag(self) -> int:
        """Records in Kafka that the archive has not passed, of the topics in which it has a position."""
        positions = await next_offsets(self._store)
        names = {topic for topic, _ in positions.values()}
        if not names:
            return 0
        ids = await asyncio.to_thread(self._admin.topic_ids, names, skip_denied=True)
        ends = await asyncio.to_thread(self._admin.offsets, ids)
        return sum(
            max(0, ends[topic][partition][1] - offset)
            for (topic_id, partition), (topic, offset) in positions.items()
            if ids.get(topic) == topic_id and partition in ends.get(topic, {})
        )


async def _trouble(ask: Callable[[], Awaitable[object]]) -> str:
    try:
        await ask()
    except (KafkaError, StoreError) as error:
        return error.message
    return ""


async def _told(ask: Callable[[], Awaitable[Any]]) -> Any:
    try:
        return await ask()
    except (KafkaError, StoreError) as error:
        return {"error": error.message}
