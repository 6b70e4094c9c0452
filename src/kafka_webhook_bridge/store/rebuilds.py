"""The list of a rebuild, and the positions that its events get (rules.md 15)."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from kafka_webhook_bridge import ids
from kafka_webhook_bridge.store.pool import Store
from kafka_webhook_bridge.store.replays import (
    PAGE_EVENTS,
    Holder,
    Listed,
    Selection,
    Step,
    Target,
    insert,
    insert_targets,
)
from kafka_webhook_bridge.store.sql import QUERIES

_LIST_TIMEOUT_MS = 3_600_000  # it reads and sorts every event of the topic once
_TIMEOUT_MS = 120_000


class Contents(NamedTuple):
    """What the archive has of a topic. `left_out`: events that wait in the outbox, by their state.

    `partitions` is 0 where the archive never read the topic.
    """

    events: int
    size_bytes: int
    left_out: Mapping[str, int]
    partitions: int


class Written(NamedTuple):
    """An event and where it is in the topic's new life."""

    event_id: uuid.UUID
    partition: int
    offset: int


class Run(NamedTuple):
    """Offsets of one partition, `end` excluded, that all hold records of the rebuild."""

    partition: int
    start: int
    end: int


def runs(written: Iterable[Written], before: Iterable[Run] = ()) -> list[Run]:
    """The longest runs of offsets. One that goes on where one of `before` ended begins where that began."""
    starts = {(run.partition, run.end): run.start for run in before}
    found: list[Run] = []
    for partition, offset in sorted({(one.partition, one.offset) for one in written}):
        if found and found[-1].partition == partition and found[-1].end == offset:
            found[-1] = found[-1]._replace(end=offset + 1)
        else:
            found.append(Run(partition, starts.get((partition, offset), offset), offset + 1))
    return found


async def contents(store: Store, topic: str, since: datetime | None) -> Contents:
    """Of every life of the topic; `since` bounds the time of receipt, but not the number of partitions."""
    async with store.connection("counting a topic's events", timeout_ms=_LIST_TIMEOUT_MS) as connection:
        rows = await connection.fetch(QUERIES["rebuild_count"], topic, _low(since))
        partitions = await connection.fetchval(QUERIES["rebuild_partitions"], topic)
    return Contents(
        sum(row["events"] for row in rows if row["written"]),
        sum(row["size_bytes"] for row in rows if row["written"]),
        {row["state"]: row["events"] for row in rows if not row["written"]},
        partitions or 0,
    )


def _low(since: datetime | None) -> uuid.UUID:
    return ids.floor(0 if since is None else ids.milliseconds(since))


async def unfinished(store: Store, topic: str) -> uuid.UUID | None:
    """The rebuild of this topic that is not done."""
    async with store.connection("looking for a rebuild", timeout_ms=_TIMEOUT_MS) as connection:
        found: uuid.UUID | None = await connection.fetchval(QUERIES["rebuild_open"], topic)
        return found


async def create(
    store: Store,
    topic: str,
    found: Contents,
    *,
    since: datetime | None,
    rate: float | None,
    then: Callable[[], Awaitable[object]],
) -> uuid.UUID:
    """Put on record what will be written, in its order. What `then` raises undoes it."""
    rebuild_id = uuid.uuid4()
    doing = "listing the events of a topic"
    async with store.connection(doing, timeout_ms=_LIST_TIMEOUT_MS) as connection, connection.transaction():
        await insert(
            connection, rebuild_id, "rebuild", Selection(since=since), topic, found.partitions, rate, found.events,
            found.size_bytes,
        )  # fmt: skip
        await connection.execute(QUERIES["rebuild_list"], rebuild_id, topic, _low(since))
        await then()
    return rebuild_id


async def made(store: Store, holder: Holder, targets: Sequence[Target]) -> None:
    """The topic is there anew: where the archive begins to read it, and where the rebuild looks after a crash."""
    async with store.connection("recording a topic", timeout_ms=_TIMEOUT_MS) as connection, connection.transaction():
        await holder.made(connection, targets[0].topic_id)
        await insert_targets(connection, holder.replay_id, targets)
        await connection.execute(
            QUERIES["offsets_start"],
            *(
                [*column]
                for column in zip(*((t.topic_id, t.partition, t.topic, t.next_offset) for t in targets), strict=True)
            ),
        )


async def page(store: Store, rebuild_id: uuid.UUID, after: int) -> list[Listed]:
    """The next events, up to PAGE_EVENTS."""
    async with store.connection("reading which events come next", timeout_ms=_TIMEOUT_MS) as connection:
        rows = await connection.fetch(QUERIES["rebuild_page"], rebuild_id, after, PAGE_EVENTS)
    return [Listed(row["event_id"], row["size_bytes"], row["place"]) for row in rows]


async def checkpoint(
    store: Store, holder: Holder, step: Step, topic_id: uuid.UUID, written: Sequence[Written], own: Sequence[Run]
) -> None:
    """Where the events are now, and that the archive need not read them, in one transaction.

    The positions of the archive first, as the archiver has it: so neither waits for the other for ever.
    """
    async with (
        store.connection("recording how far a rebuild is", timeout_ms=_TIMEOUT_MS) as connection,
        connection.transaction(),
    ):
        await connection.execute(
            QUERIES["rebuild_pass"], topic_id, [r.partition for r in own], [r.start for r in own], [r.end for r in own]
        )
        await holder.step(connection, step)
        if written:
            event_ids = [one.event_id for one in written]
            await connection.execute(
                QUERIES["rebuild_place"], topic_id, event_ids, [one.partition for one in written],
                [one.offset for one in written], min(event_ids), max(event_ids),
            )  # fmt: skip


async def forget(store: Store, rebuild_id: uuid.UUID) -> None:
    """The list is not needed any more."""
    async with store.connection("clearing the list of a rebuild", timeout_ms=_LIST_TIMEOUT_MS) as connection:
        await connection.execute(QUERIES["rebuild_forget"], rebuild_id)
