"""Refused requests, kept for a while (rules.md 27, 30): written in batches, bounded per source, found, and released."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from kafka_webhook_bridge import ids
from kafka_webhook_bridge.store.errors import refuses_a_row
from kafka_webhook_bridge.store.events import check_bounds
from kafka_webhook_bridge.store.outbox import OutboxRow, store_rows
from kafka_webhook_bridge.store.pool import Connection, Store
from kafka_webhook_bridge.store.sql import QUERIES

EXPIRE_ROWS = 1_000  # in one transaction: a row may hold 10 MiB
_TIMEOUT_MS = 120_000


class RejectionRow(NamedTuple):
    """The columns that are written, in their order. `headers` and `withheld` are JSON as UTF-8 bytes."""

    event_id: uuid.UUID
    source: str
    received_at: datetime
    code: str
    detail: str
    method: str
    path: str
    query: str | None
    headers: bytes
    withheld: bytes
    body: bytes
    peer: str
    base: str | None
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Search:
    """Which rejections; None asks for all. Times are those inside the id, `until` excluded.

    `after` is the last id of the page before; `waiting` leaves out what was released.
    """

    source: str | None = None
    code: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    after: uuid.UUID | None = None
    waiting: bool = False
    oldest_first: bool = False
    limit: int = 50

    def __post_init__(self) -> None:
        check_bounds(self.limit, self.since, self.until)

    def statement(self) -> tuple[str, list[Any]]:
        """SQL and its arguments."""
        conditions = (
            ("source = $", self.source),
            ("code = $", self.code),
            ("event_id >= $", ids.floor(ids.milliseconds(self.since)) if self.since else None),
            ("event_id < $", ids.floor(ids.milliseconds(self.until)) if self.until else None),
            ("event_id > $" if self.oldest_first else "event_id < $", self.after),
        )
        wanted = [(text, value) for text, value in conditions if value is not None]
        terms = [f"{text}{place}" for place, (text, _) in enumerate(wanted, 1)]
        terms += ["released_at IS NULL"] if self.waiting else []
        order = "ASC" if self.oldest_first else "DESC"
        query = QUERIES["rejections_search"].format(where=" AND ".join(terms) or "true", order=order, limit=self.limit)
        return query, [value for _, value in wanted]


class _Refused(Exception):
    """PostgreSQL's error for one of the rows: then none is stored."""


class AlreadyReleased(Exception):
    """Somebody else released it; nothing was stored."""


async def write(store: Store, rows: Sequence[RejectionRow], *, timeout_ms: int) -> set[uuid.UUID]:
    """Write a batch; those that PostgreSQL refused, each for itself. Raises StoreError when it does not answer."""
    async with store.connection("keeping refused requests", timeout_ms=timeout_ms) as connection:
        return await _write_bisecting(connection, rows)


async def _write_bisecting(connection: Connection, rows: Sequence[RejectionRow]) -> set[uuid.UUID]:
    try:
        await connection.execute(QUERIES["rejections_write"], *map(list, zip(*rows, strict=True)))
        return set()
    except Exception as failure:
        if not refuses_a_row(failure):
            raise
    if len(rows) == 1:
        return {rows[0].event_id}
    middle = len(rows) // 2
    return await _write_bisecting(connection, rows[:middle]) | await _write_bisecting(connection, rows[middle:])


async def trim(store: Store, sources: Collection[str], rows_max: int, bytes_max: int, *, timeout_ms: int) -> int:
    """Delete the oldest rows of these sources beyond the bounds of each; their number. Raises StoreError."""
    async with store.connection("bounding refused requests", timeout_ms=timeout_ms) as connection:
        done = await connection.execute(QUERIES["rejections_trim"], list(sources), rows_max, bytes_max)
    return int(done.split()[-1])


async def expire(store: Store, before_ms: int) -> int:
    """Forget what was refused before that time (ms since 1970); how many rows."""
    total = 0
    while True:
        async with store.connection("forgetting refused requests", timeout_ms=_TIMEOUT_MS) as connection:
            done = await connection.execute(QUERIES["rejections_expire"], ids.floor(before_ms), EXPIRE_ROWS)
        count = int(done.split()[-1])
        total += count
        if count < EXPIRE_ROWS:
            return total


async def search(store: Store, wanted: Search) -> list[Mapping[str, Any]]:
    """A page, without headers and bodies. Raises StoreError."""
    sql, arguments = wanted.statement()
    async with _connection(store, "searching refused requests") as connection:
        return [dict(row) for row in await connection.fetch(sql, *arguments)]


async def get(store: Store, event_id: uuid.UUID) -> Mapping[str, Any] | None:
    """Everything about one."""
    async with _connection(store, "reading a refused request") as connection:
        row = await connection.fetchrow(QUERIES["rejections_get"], event_id)
        return None if row is None else dict(row)


async def release(
    store: Store, rows: Sequence[OutboxRow], also: Callable[[Connection], Awaitable[None]] | None = None
) -> str | None:
    """Store the event of a rejection, or its parts, and say so there, all or nothing; what PostgreSQL has against it.

    The first row has the rejection's id.

    `also` runs in the same transaction. Raises AlreadyReleased, StoreError, and what `also` raises.
    """

    async def mark(connection: Connection, _: Sequence[Any]) -> None:
        if await connection.fetchval(QUERIES["rejections_released"], rows[0].event.event_id) is None:
            raise AlreadyReleased
        if also is not None:
            await also(connection)

    doing = "releasing a refused request"
    marking = [rows[0]._replace(claim=True), *rows[1:]]
    try:
        async with store.connection(doing, timeout_ms=_TIMEOUT_MS) as connection, connection.transaction():
            taken = await store_rows(connection, marking, relay_after_s=0, beside=mark)
            if taken.refused:
                raise _Refused(taken.error)
    except _Refused as refused:
        return str(refused)
    return None


def _connection(store: Store, doing: str) -> Any:
    settings = store.settings
    return store.connection(doing, timeout_ms=settings.connect_timeout_ms + 2 * settings.statement_timeout_ms)
