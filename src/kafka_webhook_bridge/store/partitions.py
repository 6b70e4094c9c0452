"""The partitions of `events`: made ahead, filled from the default one where events came first, dropped when too old."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import asyncpg

from kafka_webhook_bridge import ids
from kafka_webhook_bridge.store.pool import Connection, Store
from kafka_webhook_bridge.store.sql import QUERIES

LOCK_TIMEOUT_MS = 1_000  # whoever waits for a lock makes all others wait behind it
LOCK_TRIES = 5
EXPIRE_ROWS = 10_000  # of the default partition in one transaction
_TIMEOUT_MS = 120_000
_RETRY_WAIT_S = 0.5
_BOUNDS = re.compile(r"FOR VALUES FROM \('([0-9a-f-]{36})'\) TO \('([0-9a-f-]{36})'\)")
_SAFE_NAME = re.compile(r"events_[0-9a-z_]{1,50}")


@dataclass(frozen=True, slots=True, order=True)
class Partition:
    """A partition with its times in milliseconds, `high_ms` excluded."""

    low_ms: int
    high_ms: int
    name: str


def missing(existing: list[Partition], from_ms: int, to_ms: int, days: int) -> list[tuple[int, int]]:
    """The times (low, high) of the partitions to make, so that `from_ms` to `to_ms` is covered.

    They begin at multiples of `days` since 1970, but never overlap what exists: `days` may have been another before.
    """
    width = days * ids.DAY_MS
    found = []
    at = from_ms // width * width
    for low, high in [*((p.low_ms, p.high_ms) for p in sorted(existing)), (2**63, 2**63)]:
        while at < min(low, to_ms):
            end = min((at // width + 1) * width, low)
            found.append((at, end))
            at = end
        at = max(at, high)
    return found


async def existing(store: Store) -> list[Partition]:
    """All but the default one, in the order of time."""
    async with store.connection("reading the partitions", timeout_ms=_TIMEOUT_MS) as connection:
        rows = await connection.fetch(QUERIES["partitions_all"])
    found = []
    for row in rows:
        if match := _BOUNDS.fullmatch(row["bounds"]):
            low, high = (ids.time_ms(uuid.UUID(text)) for text in match.groups())
            found.append(Partition(low, high, row["name"]))
    return sorted(found)


async def make(store: Store, low_ms: int, high_ms: int) -> str:
    """Make one partition and move into it what the default one has of its time. Its name: events_20251124."""
    name = f"events_{ids.moment(low_ms):%Y%m%d}"
    assert _SAFE_NAME.fullmatch(name)
    low, high = ids.floor(low_ms), ids.floor(high_ms)

    async def work(connection: Connection) -> None:
        await connection.execute(QUERIES["partitions_lock_default"])
        await connection.execute(QUERIES["partitions_make"].format(name=name))
        await connection.execute(QUERIES["partitions_move"].format(name=name), low, high)
        await connection.execute(QUERIES["partitions_attach"].format(name=name, low=low, high=high))

    await _locked(store, f"making the partition {name}", work)
    return name


async def drop(store: Store, partition: Partition) -> None:
    """Drop a partition with all its events."""
    assert _SAFE_NAME.fullmatch(partition.name)

    async def work(connection: Connection) -> None:
        await connection.execute(QUERIES["partitions_drop"].format(name=partition.name))

    await _locked(store, f"dropping the partition {partition.name}", work)


async def expire_default(store: Store, before_ms: int) -> int:
    """Delete what the default partition has from before that time; the number of events."""
    total = 0
    while True:
        async with store.connection("deleting old events", timeout_ms=_TIMEOUT_MS) as connection:
            done = await connection.execute(QUERIES["partitions_expire_default"], ids.floor(before_ms), EXPIRE_ROWS)
        count = int(done.split()[-1])
        total += count
        if count < EXPIRE_ROWS:
            return total


async def server_time_ms(store: Store) -> int:
    """PostgreSQL's clock in milliseconds since 1970."""
    async with store.connection("reading PostgreSQL's clock", timeout_ms=_TIMEOUT_MS) as connection:
        return int(await connection.fetchval(QUERIES["server_time_ms"]))


async def default_times(store: Store, from_ms: int, to_ms: int) -> tuple[int, int] | None:
    """First and last time in ms of the events in the default partition within these times."""
    async with store.connection("reading the default partition", timeout_ms=_TIMEOUT_MS) as connection:
        row = await connection.fetchrow(QUERIES["partitions_default_ids"], ids.floor(from_ms), ids.floor(to_ms))
    if row is None or row["first_id"] is None:
        return None
    return ids.time_ms(uuid.UUID(row["first_id"])), ids.time_ms(uuid.UUID(row["last_id"]))


async def _locked(store: Store, doing: str, work: Callable[[Connection], Awaitable[None]]) -> None:
    """Run `work` in a transaction that never waits for a lock longer than LOCK_TIMEOUT_MS, a few times."""
    for attempt in range(1, LOCK_TRIES + 1):
        async with store.connection(doing, timeout_ms=_TIMEOUT_MS) as connection:
            try:
                async with connection.transaction():
                    await connection.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
                    await work(connection)
                return
            except (asyncpg.DuplicateTableError, asyncpg.UndefinedTableError):
                return  # another process was faster
            # InternalServerError: the partition was dropped while this transaction looked it up.
            except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError, asyncpg.InternalServerError):
                if attempt == LOCK_TRIES:
                    raise
        await asyncio.sleep(_RETRY_WAIT_S)
