"""Writing batches of events together with the Kafka position that they came from."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from kafka_webhook_bridge import ids
from kafka_webhook_bridge.errors import Fenced
from kafka_webhook_bridge.formats.rows import COLUMNS, EventRow
from kafka_webhook_bridge.store.errors import refuses_a_row, sqlstate
from kafka_webhook_bridge.store.pool import Connection, Store
from kafka_webhook_bridge.store.sql import COLUMN_LIST, QUERIES

_STORE = QUERIES["events_store"].format(columns=COLUMN_LIST)


class Place(NamedTuple):
    """One partition of one life of a topic: a topic made anew has another id."""

    topic_id: uuid.UUID
    partition: int


class Move(NamedTuple):
    """A position's way through a batch: from the offset that the archiver expects to the one after the last record."""

    expected: int
    next_offset: int


@dataclass(frozen=True, slots=True)
class Written:
    """What one transaction did: new or completed rows, events newly marked as duplicates, rows that were refused."""

    events: int
    marked: int
    refused: int


@dataclass(frozen=True, slots=True)
class Positions:
    """`next_offset` by place, and the ids under which each topic name was read before."""

    next_offset: Mapping[Place, int]
    former_ids: Mapping[str, set[uuid.UUID]]


async def read_positions(store: Store, topics: Mapping[str, uuid.UUID]) -> Positions:
    """The positions of these topics (name → id)."""
    async with store.connection("reading the positions", timeout_ms=store.settings.connect_timeout_ms) as connection:
        rows = await connection.fetch(QUERIES["offsets_read"], list(topics.values()), list(topics))
    current = set(topics.values())
    former: dict[str, set[uuid.UUID]] = {}
    for row in rows:
        if row["topic_id"] not in current:
            former.setdefault(row["topic"], set()).add(row["topic_id"])
    return Positions(
        {Place(r["topic_id"], r["partition"]): r["next_offset"] for r in rows if r["topic_id"] in current}, former
    )


async def start_positions(store: Store, starts: Iterable[tuple[str, Place, int]]) -> None:
    """Record where partitions (topic name, place, first offset) begin that were never read."""
    names, places, offsets = zip(*starts, strict=True)
    async with store.connection("starting positions", timeout_ms=store.settings.connect_timeout_ms) as connection:
        await connection.execute(
            QUERIES["offsets_start"], [p.topic_id for p in places], [p.partition for p in places], names, offsets
        )


async def write(
    store: Store,
    rows: Sequence[EventRow],
    moves: Mapping[Place, Move],
    *,
    dedupe_window_days: int,
    timeout_ms: int,
) -> Written:
    """Rows and positions in one transaction. Event ids must be unique within `rows`.

    A batch that PostgreSQL refuses because of a row is bisected; that row is kept without what was derived from it.
    Raises Fenced when a position is not where `moves` expects it, StoreError for everything else; then nothing is
    written, except that after a broken connection nobody knows: reading the positions tells.
    """
    async with store.connection("archiving events", timeout_ms=timeout_ms) as connection:
        if not await connection.fetchval(QUERIES["staging_there"]):
            async with connection.transaction():
                await connection.execute(QUERIES["staging_make"])
                await connection.execute(QUERIES["staging_relax"])
        try:
            return await _transaction(connection, rows, moves, dedupe_window_days, careful=False)
        except Exception as failure:
            if not refuses_a_row(failure):
                raise
        return await _transaction(connection, rows, moves, dedupe_window_days, careful=True)


async def _transaction(
    connection: Connection,
    rows: Sequence[EventRow],
    moves: Mapping[Place, Move],
    dedupe_window_days: int,
    *,
    careful: bool,
) -> Written:
    async with connection.transaction():
        await _move(connection, moves)
        refused = 0
        if careful:
            events, refused = await _store_bisecting(connection, rows)
        else:
            events = await _store(connection, rows)
        marked = await _mark_duplicates(connection, rows, dedupe_window_days)
    return Written(events, marked, refused)


async def _move(connection: Connection, moves: Mapping[Place, Move]) -> None:
    places = sorted(moves)
    done = await connection.execute(
        QUERIES["offsets_move"],
        [place.topic_id for place in places],
        [place.partition for place in places],
        [moves[place].expected for place in places],
        [moves[place].next_offset for place in places],
    )
    if int(done.split()[-1]) != len(places):
        raise Fenced("Another archiver moved the positions.", hint="It goes on from where the other one is.")


async def _store(connection: Connection, rows: Sequence[EventRow]) -> int:
    if not rows:
        return 0
    await connection.copy_records_to_table("kwb_staging", records=rows, columns=COLUMNS)
    return int((await connection.execute(_STORE)).split()[-1])


async def _store_bisecting(connection: Connection, rows: Sequence[EventRow]) -> tuple[int, int]:
    """Rows stored, and how many of them only in part."""
    try:
        async with connection.transaction():  # a savepoint
            await connection.execute(QUERIES["staging_empty"])
            return await _store(connection, rows), 0
    except Exception as failure:
        if not refuses_a_row(failure):
            raise
        reason = f"refused: {sqlstate(failure)}"
    if len(rows) > 1:
        middle = len(rows) // 2
        left = await _store_bisecting(connection, rows[:middle])
        right = await _store_bisecting(connection, rows[middle:])
        return left[0] + right[0], left[1] + right[1]
    row = rows[0].without_derived(reason)
    try:
        async with connection.transaction():
            return await _store(connection, [row]), 1
    except Exception as failure:
        if not refuses_a_row(failure):
            raise
    return await _store(connection, [row.bare(reason)]), 1


async def _mark_duplicates(connection: Connection, rows: Sequence[EventRow], window_days: int) -> int:
    keys = [row.dedupe_key for row in rows if row.dedupe_key is not None]
    if not keys or not window_days:
        return 0
    times = [ids.time_ms(row.event_id) for row in rows if row.dedupe_key is not None]
    window_ms = window_days * ids.DAY_MS
    done = await connection.execute(
        QUERIES["events_mark_duplicates"],
        keys,
        ids.floor(min(times) - window_ms),
        ids.floor(max(times) + window_ms),
        window_days,
    )
    return int(done.split()[-1])
