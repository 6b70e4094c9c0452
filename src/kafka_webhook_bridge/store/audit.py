"""What an audit and the continuous reconciliation ask of the archive. Everything is read by event_id, page by page."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from kafka_webhook_bridge.formats.rows import COLUMNS, EventRow
from kafka_webhook_bridge.store.pool import Store
from kafka_webhook_bridge.store.sql import QUERIES

PAGE_ROWS = 1000
_PAGE_TIMEOUT_MS = 120_000  # a page of the largest bodies has gigabytes to hash
_WAITING_MAX = 10_000
_COLUMNS = ", ".join(
    {"body": "''::bytea AS body", "body_json": "NULL::jsonb AS body_json"}.get(column, f'e."{column}"')
    for column in COLUMNS
)


class Row(NamedTuple):
    """A row of `events`; `event.body` is empty, `event.offset` None while nobody knows its place in Kafka.

    `partial` tells that PostgreSQL took it only in part, `outbox_state` is None when it has no row in the outbox.
    """

    event: EventRow
    body_sha256: bytes
    outbox_state: str | None
    partial: bool
    released: bool


class Placed(NamedTuple):
    """An event and where the archive says that its record is."""

    event_id: uuid.UUID
    topic: str
    topic_id: uuid.UUID
    partition: int
    offset: int


async def pages(store: Store, source: str | None, low: uuid.UUID, high: uuid.UUID) -> AsyncIterator[list[Row]]:
    """All rows with `low` <= event_id < `high`, of one source or of all, in the order of their ids."""
    after, comparison = low, ">="
    while True:
        where = f"e.event_id {comparison} $1 AND e.event_id < $2" + (" AND e.source = $3" if source else "")
        rows = await _rows(store, where, after, high, *([source] if source else []))
        if rows:
            yield rows
        if len(rows) < PAGE_ROWS:
            return
        after, comparison = rows[-1].event.event_id, ">"


async def by_id(store: Store, event_ids: Sequence[uuid.UUID]) -> list[Row]:
    """The rows of these events, of PAGE_ROWS ids at most."""
    if not event_ids:
        return []
    events = "unnest($1::uuid[]) AS asked (event_id) JOIN events AS e ON e.event_id = asked.event_id"
    where = "e.event_id >= $2 AND e.event_id <= $3"  # leaves out partitions
    return await _rows(store, where, list(event_ids), min(event_ids), max(event_ids), events=events)


async def _rows(store: Store, where: str, *arguments: object, events: str = "events AS e") -> list[Row]:
    query = QUERIES["audit_rows"].format(columns=_COLUMNS, events=events, where=where, limit=PAGE_ROWS)
    async with store.connection("reading rows for an audit", timeout_ms=_PAGE_TIMEOUT_MS) as connection:
        found = await connection.fetch(query, *arguments)
    width = len(COLUMNS)
    return [Row(EventRow(*row[:width]), *row[width:]) for row in map(tuple, found)]


async def waiting(store: Store, before: uuid.UUID) -> int:
    """Events received before that id that the relay still has to send; no more than 10 000 are counted."""
    async with store.connection("counting the outbox", timeout_ms=_PAGE_TIMEOUT_MS) as connection:
        return int(await connection.fetchval(QUERIES["audit_waiting"], before, _WAITING_MAX) or 0)


async def placed(store: Store, after: uuid.UUID, high: uuid.UUID, limit: int) -> list[Placed]:
    """The next events after an id that are in Kafka."""
    timeout_ms = store.settings.connect_timeout_ms + store.settings.statement_timeout_ms
    async with store.connection("reconciling", timeout_ms=timeout_ms) as connection:
        return [Placed(*row) for row in await connection.fetch(QUERIES["reconcile_rows"], after, high, limit)]


async def followed(store: Store) -> set[str]:
    """Names of the topics that the archive has positions of."""
    timeout_ms = store.settings.connect_timeout_ms + store.settings.statement_timeout_ms
    async with store.connection("reconciling", timeout_ms=timeout_ms) as connection:
        return {row[0] for row in await connection.fetch(QUERIES["reconcile_topics"])}


async def known(store: Store, event_ids: Sequence[uuid.UUID]) -> set[uuid.UUID]:
    """Which of these events have a row."""
    if not event_ids:
        return set()
    timeout_ms = store.settings.connect_timeout_ms + store.settings.statement_timeout_ms
    bounds = min(event_ids), max(event_ids)
    async with store.connection("reconciling", timeout_ms=timeout_ms) as connection:
        return {row[0] for row in await connection.fetch(QUERIES["reconcile_known"], list(event_ids), *bounds)}
