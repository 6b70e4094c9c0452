"""The outbox as the relay sees it (rules.md 2, 4, 6): rows are leased, sent, and then deleted, or told why not.

    waiting ──claim──▶ leased ──acknowledged──▶ gone
       ▲                 │ ├──failed──▶ waiting, later
       │                 │ └──returned──▶ waiting
       └──release── blocked, quarantined ◀──halted

A lease is a row's own, by the database's clock, taken with SKIP LOCKED: two relays never wait for each other. Nothing
is passed by a position, so an event whose transaction was slow to commit is relayed like any other.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, NamedTuple

from kafka_webhook_bridge.store.pool import Connection, Store
from kafka_webhook_bridge.store.sql import QUERIES

State = Literal["waiting", "blocked", "quarantined"]
Halt = Literal["blocked", "quarantined"]

STATES: tuple[State, ...] = ("waiting", "blocked", "quarantined")
HALTS: tuple[Halt, ...] = ("blocked", "quarantined")
CHUNK_ROWS = 1000  # of one statement that changes many rows


class OutboxRow(NamedTuple):
    """One event that waits. `headers` are as formats.packed makes them; `reason` is of the last attempt."""

    event_id: uuid.UUID
    source: str
    topic: str
    key: bytes | None
    value: bytes
    headers: bytes
    size_bytes: int
    reason: str | None


@dataclass(slots=True)
class Settlement:
    """What became of leased rows. `failed`, `blocked` and `quarantined` have a reason each."""

    acknowledged: list[uuid.UUID] = field(default_factory=list)
    returned: list[uuid.UUID] = field(default_factory=list)
    failed: dict[uuid.UUID, str] = field(default_factory=dict)
    blocked: dict[uuid.UUID, str] = field(default_factory=dict)
    quarantined: dict[uuid.UUID, str] = field(default_factory=dict)

    def __len__(self) -> int:
        halted = len(self.blocked) + len(self.quarantined)
        return len(self.acknowledged) + len(self.returned) + len(self.failed) + halted


@dataclass(frozen=True, slots=True)
class Size:
    """What the outbox holds in one state."""

    rows: int
    bytes: int
    oldest_seconds: float


@dataclass(frozen=True, slots=True)
class Count:
    """Rows of one state, topic and reason. `strict` tells that sources with ordering: strict are among them."""

    state: str
    topic: str
    reason: str | None
    rows: int
    bytes: int
    oldest: datetime
    attempts: int
    strict: bool


class Outbox:
    """The outbox for one relay. Every method raises StoreError; then nothing is changed, or nobody knows."""

    def __init__(self, store: Store, timeout_ms: int) -> None:
        self.holder = uuid.uuid4()
        self._store = store
        self._timeout_ms = timeout_ms

    @asynccontextmanager
    async def _transaction(self, doing: str) -> AsyncIterator[Connection]:
        async with (
            self._store.connection(doing, timeout_ms=self._timeout_ms) as connection,
            connection.transaction(),
        ):
            await connection.execute(QUERIES["relay_plan"])
            yield connection

    async def claim(
        self, rows: int, bytes_max: int, seconds: float, *, held: Collection[str] = (), trial: Collection[str] = ()
    ) -> list[OutboxRow]:
        """Lease up to about `rows` rows; none of the topics in `held`, one of each in `trial`."""
        async with self._transaction("claiming events of the outbox") as connection:
            found = await connection.fetch(
                QUERIES["relay_claim"], rows, self.holder, list(held), list(trial), bytes_max, seconds
            )
        return [OutboxRow(*row) for row in found]

    async def settle(self, settlement: Settlement, back_off_max_s: float) -> None:
        """Everything in one transaction. Rows whose lease another relay has by now are left alone."""
        async with self._transaction("settling events of the outbox") as connection:
            if settlement.acknowledged:
                await connection.execute(QUERIES["relay_done"], settlement.acknowledged, self.holder)
            if settlement.returned:
                await connection.execute(QUERIES["relay_returned"], settlement.returned, self.holder)
            if settlement.failed:
                await connection.execute(
                    QUERIES["relay_failed"], *_pairs(settlement.failed), self.holder, back_off_max_s
                )
            halts: tuple[tuple[Halt, dict[uuid.UUID, str]], ...] = (
                ("blocked", settlement.blocked),
                ("quarantined", settlement.quarantined),
            )
            for state, halted in halts:
                if halted:
                    rows = await connection.fetch(QUERIES["relay_halted"], *_pairs(halted), self.holder, state)
                    await _events_state(connection, [row[0] for row in rows], state)

    # ── whole topics ──────────────────────────────────────────────────────────────────────────────────────────────

    async def blocked_topics(self) -> dict[str, str]:
        """Topics with blocked events, and why; strict sources left out."""
        async with self._transaction("reading the blocked topics") as connection:
            return {row[0]: row[1] or "" for row in await connection.fetch(QUERIES["relay_blocked_topics"])}

    async def block_topic(self, topic: str, reason: str) -> int:
        """Block up to CHUNK_ROWS more events of a topic; how many they were."""
        async with self._transaction("blocking a topic") as connection:
            rows = await connection.fetch(QUERIES["relay_block_topic"], topic, reason, CHUNK_ROWS)
            await _events_state(connection, [row[0] for row in rows], "blocked")
        return len(rows)

    async def release(
        self,
        states: Sequence[Halt],
        *,
        topic: str | None = None,
        reason: str | None = None,
        event_id: uuid.UUID | None = None,
        strict: bool = False,
    ) -> int:
        """Let up to CHUNK_ROWS events wait again; how many they were. `strict` includes those of strict sources."""
        async with self._transaction("releasing events of the outbox") as connection:
            rows = await connection.fetch(
                QUERIES["relay_release"], list(states), topic, reason, event_id, CHUNK_ROWS, strict
            )
            await _events_state(connection, [row[0] for row in rows], "waiting")
        return len(rows)

    # ── how much there is ─────────────────────────────────────────────────────────────────────────────────────────

    async def sizes(self) -> Mapping[str, Size]:
        """By state. Reads every row."""
        async with self._store.connection("measuring the outbox", timeout_ms=self._timeout_ms) as connection:
            rows = await connection.fetch(QUERIES["relay_sizes"])
        return {row["state"]: Size(row["rows"], row["bytes"], row["oldest_seconds"]) for row in rows}

    async def counts(self) -> list[Count]:
        """By state, topic and reason. Reads every row."""
        async with self._store.connection("counting the outbox", timeout_ms=self._timeout_ms) as connection:
            return [Count(*row) for row in await connection.fetch(QUERIES["relay_counts"])]

    # ── sources with ordering: strict ─────────────────────────────────────────────────────────────────────────────

    async def strict_sources(self) -> set[str]:
        """Those that have events here."""
        async with self._transaction("reading the strict sources") as connection:
            return {row[0] for row in await connection.fetch(QUERIES["strict_sources"])}

    async def strict_next(self, source: str, rows: int, bytes_max: int) -> list[OutboxRow]:
        """The next events of a source, in their order. Not leased: the source is."""
        async with self._transaction("reading the next events of a strict source") as connection:
            return [OutboxRow(*row) for row in await connection.fetch(QUERIES["strict_next"], source, rows, bytes_max)]

    async def strict_settle(
        self, acknowledged: Sequence[uuid.UUID], failed: tuple[uuid.UUID, str, Literal["waiting", "blocked"]] | None
    ) -> None:
        """Delete what Kafka has; tell of the first event that it did not take, why, and its state."""
        async with self._transaction("settling events of a strict source") as connection:
            if acknowledged:
                await connection.execute(QUERIES["strict_done"], list(acknowledged))
            if failed is not None:
                await connection.execute(QUERIES["strict_failed"], *failed)
                await _events_state(connection, [failed[0]], failed[2])


def _pairs(reasons: Mapping[uuid.UUID, str]) -> tuple[list[uuid.UUID], list[str]]:
    return list(reasons), list(reasons.values())


async def _events_state(connection: Connection, event_ids: Sequence[uuid.UUID], state: str) -> None:
    if event_ids:
        await connection.execute(QUERIES["relay_events_state"], event_ids, state, min(event_ids), max(event_ids))
