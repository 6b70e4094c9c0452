"""A lost topic made anew out of PostgreSQL (rules.md 15).

The same records with the same ids, in the order of partition and offset, each to the partition that it had. Events that
Kafka acknowledged and the archive had not come to are written behind these, where their keys belong. With every batch
the events get their new positions, and the archive's own position moves over what the rebuild wrote, so nothing is read
and stored twice. Webhooks may come meanwhile: they stand among the rebuilt records, and the archive reads them.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from kafka_webhook_bridge.archive.resend import BATCH_EVENTS, At, Resend
from kafka_webhook_bridge.errors import ReplayError
from kafka_webhook_bridge.event import Record
from kafka_webhook_bridge.formats.rows import REPLAY, EventRow, record_of
from kafka_webhook_bridge.kafka.admin import Admin
from kafka_webhook_bridge.kafka.writer import BY_KEY
from kafka_webhook_bridge.observability.failpoints import failpoint
from kafka_webhook_bridge.settings import Settings
from kafka_webhook_bridge.store import Store, rebuilds
from kafka_webhook_bridge.store.coordination import has_existed, record_topic
from kafka_webhook_bridge.store.rebuilds import Contents, Run
from kafka_webhook_bridge.store.replays import Listed, Replay, Step, Target


@dataclass(frozen=True, slots=True)
class Plan:
    """What a rebuild would do; `unfinished` is the id of one that began already and is gone on with. `lost` raises
    ReplayError when the topic is there and has records."""

    topic: str
    since: datetime | None
    found: Contents
    unfinished: uuid.UUID | None
    lost: Callable[[], Awaitable[int]]


async def plan(settings: Settings, store: Store, topic: str, since: datetime | None) -> Plan:
    """`since` leaves older events out; what is gone on with stays as it was begun.

    A topic that was there and of which nothing is to be written is made anew without a record: nobody else makes it.

    Raises ReplayError when the topic is not lost, or when nobody here knows it."""
    unfinished = await rebuilds.unfinished(store, topic)
    found = await rebuilds.contents(store, topic, since)
    lost = partial(_lost, Admin(settings.kafka, client_id="kwb-rebuild-admin"), topic, found.partitions)
    if unfinished is not None:
        return Plan(topic, since, found, unfinished, lost)
    if not found.events and not await has_existed(store, topic):
        raise ReplayError(
            f"The archive has no event that was in the topic {topic}.",
            hint="`kwb events search` shows what there is. What waits in the outbox is sent by the bridge itself once "
            "the topic is there: make it with Kafka's own tools.",
        )
    partitions = await lost()
    found = found._replace(partitions=found.partitions or partitions or settings.kafka.topic_partitions)
    return Plan(topic, since, found, None, lost)


async def _lost(admin: Admin, topic: str, partitions: int) -> int:
    """The partitions of an empty topic, 0 when there is none. Raises ReplayError for one that cannot be rebuilt."""
    ends = (await asyncio.to_thread(admin.offsets, [topic])).get(topic, {})
    records = sum(end - first for first, end in ends.values())
    if records:
        raise ReplayError(
            f"The topic {topic} exists and has {records} records.",
            hint="Only a topic that is lost or empty is rebuilt; `kwb replay --to` sends events to another one.",
        )
    if ends and len(ends) < partitions:
        raise ReplayError(
            f"The topic {topic} has {len(ends)} partitions, its events come from {partitions}.",
            hint="Delete it; the rebuild makes it with as many partitions as before.",
        )
    return len(ends)


async def create(store: Store, planned: Plan, rate: float | None) -> uuid.UUID:
    """Put on record what will be written, or find what is."""
    if planned.unfinished is not None:
        return planned.unfinished
    # The list is made first: whatever it has was acknowledged by then, so a topic that is missing or empty after that
    # has nothing of it.
    rebuild_id = await rebuilds.create(
        store, planned.topic, planned.found, since=planned.since, rate=rate, then=planned.lost
    )
    failpoint("rebuild.listed")
    return rebuild_id


class RebuildWork(Resend):
    """Writes what the list of the rebuild has."""

    kind = "rebuild"
    _own: list[Run]

    @property
    def _topic(self) -> str:
        assert self._one.to_topic is not None
        return self._one.to_topic

    async def _ready(self, one: Replay) -> None:
        """Make the topic. Nothing was written as long as its new life is not on record."""
        self._own = []
        if one.topic_id is not None:
            self._one = one
            return
        assert one.partitions is not None
        kafka = replace(self._settings.kafka, topic_partitions=one.partitions)
        admin = Admin(kafka, client_id="kwb-rebuild-admin")
        info = await asyncio.to_thread(admin.ensure_topic, self._topic, self._record_bytes_max)
        failpoint("rebuild.made")
        if info.partitions < one.partitions:
            raise ReplayError(f"The topic {self._topic} has {info.partitions} partitions, not {one.partitions}.")
        topic_id = uuid.UUID(info.topic_id)
        ends = (await asyncio.to_thread(admin.offsets, [self._topic]))[self._topic]
        targets = [Target(self._topic, partition, topic_id, first) for partition, (first, _) in ends.items()]
        await rebuilds.made(self._store, self._holder, targets)
        await record_topic(self._store, self._topic, info.topic_id, "source")
        failpoint("rebuild.recorded")
        self._one = replace(one, topic_id=topic_id)

    async def _page(self, after: Listed | None) -> list[Listed]:
        return await rebuilds.page(self._store, self._one.replay_id, (after.place or 0) if after else 0)

    def _cursor_of(self, one: Replay) -> Listed | None:
        return Listed(uuid.UUID(int=0), 0, one.after_place)

    def _to_write(self, row: EventRow) -> tuple[Record, int]:
        return record_of(row), BY_KEY if row.partition is None else row.partition

    def _is_ours(self, headers: Mapping[str, bytes | None]) -> bool:
        return REPLAY not in headers

    async def _in_doubt(self) -> set[uuid.UUID]:
        return {one.event_id for one in (await self._page(self._cursor))[:BATCH_EVENTS]}

    async def _checkpoint(self, step: Step, places: Mapping[uuid.UUID, At]) -> None:
        assert self._one.topic_id is not None
        written = [rebuilds.Written(event_id, at.partition, at.offset) for event_id, at in places.items()]
        own = rebuilds.runs(written, self._own)
        await rebuilds.checkpoint(self._store, self._holder, step, self._one.topic_id, written, own)
        ended = {run.partition for run in own}
        self._own = [*own, *(run for run in self._own if run.partition not in ended)]

    async def _finish(self) -> None:
        await rebuilds.forget(self._store, self._one.replay_id)
