"""The outbox: events that PostgreSQL vouches for until they are in Kafka (rules.md 1, 2, 4, 6).

One statement writes a batch, each event with its row of `events`. Whoever runs it must be ready to abandon it with its
connection: then nobody knows whether it was committed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from kafka_webhook_bridge.event import Record
from kafka_webhook_bridge.formats.rows import EventRow
from kafka_webhook_bridge.store.errors import FAILURES, refuses_a_row, sqlstate, translate
from kafka_webhook_bridge.store.pool import Connection, Store
from kafka_webhook_bridge.store.sql import QUERIES

ROW_BYTES_LEAST = 200  # that a row takes on disk with its indexes
_BODY_AT = EventRow._fields.index("body")
_COLUMNS_OF_EVENT = EventRow._fields.index("topic_id")  # from there on the position, and there is none yet

Beside = Callable[[Connection, list[Any]], Awaitable[None]]


class OutboxRow(NamedTuple):
    """One event on its way into the outbox.

    `handed` tells that Kafka's client still owes a report of this record; `reason` why it cannot be relayed now (None:
    it can); `strict` that its source keeps order; `claim` is whatever must become durable in the same transaction.
    """

    event: EventRow
    record: Record
    headers: bytes
    handed: bool
    reason: str | None
    strict: bool
    claim: Any


@dataclass(frozen=True, slots=True)
class Taken:
    """How many events lost what was derived from them, and the places in the batch of those that were not taken."""

    simplified: int
    refused: tuple[int, ...]
    error: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """What the outbox holds, as far as its limits need to know."""

    rows: int
    size_bytes: int


async def store_rows(
    connection: Connection, rows: Sequence[OutboxRow], *, relay_after_s: float, beside: Beside | None = None
) -> Taken:
    """Write a batch in one transaction, or in parts where PostgreSQL refuses a row.

    A record whose report may still come is relayed `relay_after_s` after the commit, any other at once. `beside` runs
    in the transaction with the claims of the rows, where there are any. An event that is there already stays as it is,
    so a batch may be written again. Raises StoreError, and then nobody knows what was written.
    """
    try:
        return await _store_bisecting(connection, rows, relay_after_s, beside)
    except FAILURES as failure:
        raise translate("writing the outbox", failure) from failure


async def _store_bisecting(
    connection: Connection, rows: Sequence[OutboxRow], relay_after_s: float, beside: Beside | None
) -> Taken:
    try:
        await _store(connection, rows, relay_after_s, beside)
        return Taken(0, ())
    except Exception as failure:
        if not refuses_a_row(failure):
            raise
        error = sqlstate(failure)
    if len(rows) > 1:
        middle = len(rows) // 2
        left = await _store_bisecting(connection, rows[:middle], relay_after_s, beside)
        right = await _store_bisecting(connection, rows[middle:], relay_after_s, beside)
        refused = (*left.refused, *(middle + at for at in right.refused))
        return Taken(left.simplified + right.simplified, refused, left.error or right.error)
    (row,) = rows
    reason = f"refused: {error}"
    for event in (row.event.without_derived(reason), row.event.bare(reason)):
        try:
            await _store(connection, [row._replace(event=event)], relay_after_s, beside)
            return Taken(1, ())
        except Exception as failure:
            if not refuses_a_row(failure):
                raise
            error = sqlstate(failure)
    return Taken(0, (0,), error)


async def _store(
    connection: Connection, rows: Sequence[OutboxRow], relay_after_s: float, beside: Beside | None
) -> None:
    claims = [row.claim for row in rows if row.claim is not None]
    if beside is None or not claims:
        await connection.execute(QUERIES["outbox_store"], *_columns(rows), relay_after_s)
        return
    async with connection.transaction():
        await connection.execute(QUERIES["outbox_store"], *_columns(rows), relay_after_s)
        await beside(connection, claims)


def _columns(rows: Sequence[OutboxRow]) -> list[Sequence[Any]]:
    """The arrays of `outbox_store`, in its order. A value that is the body is sent once."""
    events = [row.event for row in rows]
    records = [row.record for row in rows]
    columns: list[Sequence[Any]] = list(zip(*(event[:_COLUMNS_OF_EVENT] for event in events), strict=True))
    columns[_BODY_AT] = [
        None if event.body == record.value else event.body for event, record in zip(events, records, strict=True)
    ]
    return [
        *columns,
        [record.key for record in records],
        [record.value for record in records],
        [row.headers for row in rows],
        [len(row.record.value) + len(row.record.key or b"") + len(row.headers) for row in rows],
        [row.handed for row in rows],
        [row.reason for row in rows],
        [row.strict for row in rows],
    ]


async def close_rows(connection: Connection, event_ids: Sequence[str]) -> int:
    """Delete rows whose records Kafka has acknowledged, except those that a relay sends now. How many.

    Raises StoreError; it may be done again.
    """
    try:
        done = await connection.execute(QUERIES["outbox_close"], event_ids)
    except FAILURES as failure:
        raise translate("closing rows of the outbox", failure) from failure
    return int(done.split()[-1])


async def read_usage(store: Store, rows_max: int, bytes_max: int, *, timeout_ms: int) -> Usage:
    """Rows and bytes, counted only once the table is large enough to come near one of the limits.

    Until then 0: their number is not known, and cannot be too high. Raises StoreError.
    """
    async with store.connection("measuring the outbox", timeout_ms=timeout_ms) as connection:
        on_disk_bytes = int(await connection.fetchval(QUERIES["outbox_disk_bytes"]))
        if on_disk_bytes < min(bytes_max, rows_max * ROW_BYTES_LEAST) // 2:
            return Usage(0, 0)
        row = await connection.fetchrow(QUERIES["outbox_usage"])
    assert row is not None
    return Usage(row["rows"], row["size_bytes"])
