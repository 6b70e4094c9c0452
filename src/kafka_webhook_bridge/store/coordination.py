"""What processes agree on through the database: leases, and the topics that the bridge made or found."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from kafka_webhook_bridge.store.pool import Store
from kafka_webhook_bridge.store.sql import QUERIES

MadeBy = Literal["open_rule", "source", "outside"]

NOT_MADE_YET = str(uuid.UUID(int=0))  # the id on record of a topic that is about to be made
_TURN_MS = 60_000  # a turn is over within a few seconds, even where Kafka is slow
_TURN_LOCK = 0x6B77620002  # "kwb", 2; 1 is the migrations'


class Lease:
    """The right to do one job, for `seconds` at a time by the clock of the database alone.

    A lease saves work, it protects nothing: a process that was stopped for long goes on believing that it holds it.
    Whatever must not happen twice is fenced as well.
    """

    def __init__(self, store: Store, name: str, seconds: float) -> None:
        self.name = name
        self.seconds = seconds
        self.holder = uuid.uuid4()
        self._store = store
        self._timeout_ms = store.settings.connect_timeout_ms + store.settings.statement_timeout_ms

    async def take(self) -> bool:
        """Take it or renew it; false when somebody else holds it."""
        async with self._store.connection(f"taking the lease {self.name}", timeout_ms=self._timeout_ms) as connection:
            return bool(await connection.fetchval(QUERIES["lease_take"], self.name, self.holder, self.seconds))

    async def release(self) -> None:
        """Let somebody else have it at once."""
        async with self._store.connection(
            f"releasing the lease {self.name}", timeout_ms=self._timeout_ms
        ) as connection:
            await connection.execute(QUERIES["lease_release"], self.name, self.holder)


@dataclass(frozen=True, slots=True)
class KnownTopic:
    """A topic on record. `topic_id` is the id that it had when it was last seen by whoever recorded it."""

    name: str
    topic_id: str
    made_by: MadeBy
    created_at: datetime


@asynccontextmanager
async def making_topics(store: Store) -> AsyncIterator[None]:
    """A turn that one process at a time has in this database: to count the topics and then to make one."""
    doing = "waiting for a turn to make a topic"
    async with store.connection(doing, timeout_ms=_TURN_MS) as connection, connection.transaction():
        await connection.execute(QUERIES["topics_turn"], _TURN_LOCK)
        yield


async def record_topic(store: Store, name: str, topic_id: str, made_by: MadeBy, *, only_new: bool = False) -> None:
    """Remember a topic that is about to be made or was found, so that it is archived, and missed when it vanishes.

    Whoever is on record as its maker stays; its id follows the real one, unless `only_new`.
    """
    query = QUERIES["topics_announce" if only_new else "topics_record"]
    async with store.connection("recording a topic", timeout_ms=store.settings.connect_timeout_ms) as connection:
        await connection.execute(query, name, uuid.UUID(topic_id), made_by)


async def known_topics(store: Store) -> dict[str, KnownTopic]:
    """Every topic on record by name."""
    async with store.connection("reading the topics", timeout_ms=store.settings.connect_timeout_ms) as connection:
        rows = await connection.fetch(QUERIES["topics_all"])
    return {r["name"]: KnownTopic(r["name"], str(r["topic_id"]), r["made_by"], r["created_at"]) for r in rows}


async def has_existed(store: Store, name: str) -> bool:
    """Whether the topic was ever there, as far as is known: it is on record with an id, or the archive followed it."""
    async with store.connection("reading the topics", timeout_ms=store.settings.connect_timeout_ms) as connection:
        return bool(await connection.fetchval(QUERIES["topics_existed"], name, uuid.UUID(NOT_MADE_YET)))


async def topic_names(store: Store) -> set[str]:
    """Only their names."""
    async with store.connection("reading the topics", timeout_ms=store.settings.connect_timeout_ms) as connection:
        return {row["name"] for row in await connection.fetch(QUERIES["topics_names"])}
