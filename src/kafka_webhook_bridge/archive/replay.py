"""Events once more to their topics or to another one, each marked with the replay's id (rules.md 15)."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping

from kafka_webhook_bridge.archive.resend import Resend
from kafka_webhook_bridge.errors import ReplayError
from kafka_webhook_bridge.event import Record
from kafka_webhook_bridge.formats.rows import REPLAY, EventRow, record_of
from kafka_webhook_bridge.kafka.admin import Admin
from kafka_webhook_bridge.kafka.writer import BY_KEY
from kafka_webhook_bridge.settings import Settings
from kafka_webhook_bridge.store import Store, replays
from kafka_webhook_bridge.store.replays import Count, Listed, Replay, Selection, Target


async def create(
    settings: Settings, store: Store, selection: Selection, found: Count, *, to: str | None, rate: float | None
) -> uuid.UUID:
    """Put a replay on record, with the ends of what it writes to; nothing is sent yet.

    Raises ReplayError when a topic is missing.
    """
    topics = [to] if to else sorted(found.events)
    if not to:
        selection = _only(selection, topics)
    return await replays.create(store, selection, found, await _targets(settings, topics), to=to, rate=rate)


def _only(selection: Selection, topics: list[str]) -> Selection:
    """An event that comes late with another topic would have no target."""
    members = {name: getattr(selection, name) for name in Selection.__dataclass_fields__}
    return Selection(**{**members, "topics": tuple(topics)})


async def missing(settings: Settings, topics: list[str]) -> list[str]:
    """Those of these topics that Kafka does not have. Raises KafkaError when it does not answer."""
    there = await asyncio.to_thread(Admin(settings.kafka, client_id="kwb-replay-admin").topic_ids, topics)
    return [topic for topic in topics if topic not in there]


async def _targets(settings: Settings, topics: list[str]) -> list[Target]:
    admin = Admin(settings.kafka, client_id="kwb-replay-admin")
    topic_ids = await asyncio.to_thread(admin.topic_ids, topics)
    for topic in topics:
        if topic not in topic_ids:
            raise ReplayError(
                f"There is no topic {topic}.",
                hint=f"A topic that was lost is made anew by `kwb rebuild {topic}`; --to sends to another one.",
            )
    ends = await asyncio.to_thread(admin.offsets, topics)
    return [
        Target(topic, partition, uuid.UUID(topic_ids[topic]), end)
        for topic, partitions in ends.items()
        for partition, (_, end) in partitions.items()
    ]


class ReplayWork(Resend):
    """Sends what a selection has, in the order in which it was received."""

    kind = "replay"

    async def _page(self, after: Listed | None) -> list[Listed]:
        return await replays.page(self._store, self._one.selection, after.event_id if after else None)

    def _cursor_of(self, one: Replay) -> Listed | None:
        return None if one.after_id is None else Listed(one.after_id, 0)

    def _to_write(self, row: EventRow) -> tuple[Record, int]:
        record = record_of(row)
        record.headers.append((REPLAY, str(self._one.replay_id).encode()))
        return record, BY_KEY

    def _is_ours(self, headers: Mapping[str, bytes | None]) -> bool:
        return headers.get(REPLAY) == str(self._one.replay_id).encode()
