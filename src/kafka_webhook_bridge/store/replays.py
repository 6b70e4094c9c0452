"""What is sent to Kafka once more: which events, how far it is, and who works at it (rules.md 15).

Replays and rebuilds are rows of one table. Only the holder of a row writes to it; a row is held for seconds at a time
by the clock of the database.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, Literal, NamedTuple

import orjson

from kafka_webhook_bridge import ids
from kafka_webhook_bridge.errors import Fenced
from kafka_webhook_bridge.formats.rows import COLUMNS, EventRow
from kafka_webhook_bridge.store.events import JSON_WINDOW, as_kept
from kafka_webhook_bridge.store.pool import Connection, Store
from kafka_webhook_bridge.store.sql import QUERIES

Kind = Literal["replay", "rebuild"]
State = Literal["paused", "running", "done"]

IDS_MAX = 10_000  # named one by one
SAMPLE_EVENTS = 5
PAGE_EVENTS = 10_000  # ids read ahead
_COUNT_EVENTS = 100_000  # counted by one statement
_TIMEOUT_MS = 120_000  # nobody waits for an answer here, but a lock must not last for ever
_LIST_MAX = 1_000
# The document is derived from the body, and half the bytes.
_ROW_COLUMNS = ", ".join(
    {"body_json": "NULL::jsonb AS body_json", "offset": '"offset"'}.get(column, column) for column in COLUMNS
)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which events; None asks for all. Times are those inside the event id, `until` excluded.

    `json` as in a search, and then there is a `since`. `topics` bounds it to events of these topics.
    """

    source: str | None = None
    type: str | None = None
    key: str | None = None
    json: str | None = None
    ids: tuple[uuid.UUID, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    topics: tuple[str, ...] | None = None

    @property
    def everything(self) -> bool:
        return self == Selection(until=self.until, topics=self.topics)

    def bounded(self, now: datetime) -> Selection:
        """The same, closed: it ends now where it had no end, and by JSON it begins a day before (rules.md 21)."""
        until = self.until if self.until or self.ids else now
        since = self.since
        if self.json is not None and since is None and not self.ids:
            since = (until or now) - JSON_WINDOW
        return replace(self, since=since, until=until)

    def where(self, after: uuid.UUID | None = None) -> tuple[str, list[Any]]:
        """SQL and its arguments: what lies after that event. Values travel as parameters, never as text."""
        low = ids.floor(ids.milliseconds(self.since)) if self.since else None
        conditions = (
            ("event_id > $", after),
            ("event_id >= $", low),
            ("event_id < $", ids.floor(ids.milliseconds(self.until)) if self.until else None),
            ("source = $", as_kept(self.source)),
            ("type = $", as_kept(self.type)),
            ("key = $", as_kept(self.key)),
            ("body_json @> $", self.json.encode() if self.json is not None else None),
            ("topic = ANY ($", list(self.topics) if self.topics is not None else None),
            ("event_id = ANY ($", list(self.ids) or None),
            ("event_id >= $", min(self.ids, default=None)),
            ("event_id <= $", max(self.ids, default=None)),
        )
        wanted = [(text, value) for text, value in conditions if value is not None]
        where = " AND ".join(f"{text}{place}{')' * ('(' in text)}" for place, (text, _) in enumerate(wanted, 1))
        return where or "true", [value for _, value in wanted]

    def dump(self) -> bytes:
        """As JSON, without what is None."""
        members = {name: value for name, value in asdict(self).items() if value is not None}
        return orjson.dumps({name: list(map(str, v)) if name == "ids" else v for name, v in members.items()})

    @classmethod
    def load(cls, document: bytes) -> Selection:
        members = orjson.loads(document)
        for name in members.keys() & {"since", "until"}:
            members[name] = datetime.fromisoformat(members[name])
        if "topics" in members:
            members["topics"] = tuple(members["topics"])
        members["ids"] = tuple(map(uuid.UUID, members.get("ids", ())))
        return cls(**members)

    def statement(self, name: str, limit: int, after: uuid.UUID | None = None) -> tuple[str, list[Any]]:
        """Left to itself the planner believes that one document in a thousand contains whatever is asked for, and walks
        the table; so what an index of documents finds is sorted afterwards."""
        where, arguments = self.where(after)
        how = "NOT MATERIALIZED" if self.json is None else "MATERIALIZED"
        return QUERIES[name].format(where=where, limit=limit, materialized=how), arguments


@dataclass(slots=True)
class Count:
    """What a selection has: `events` and `size_bytes` (of bodies) by topic; others by the state that keeps them out."""

    events: dict[str, int] = field(default_factory=dict)
    size_bytes: int = 0
    first_id: uuid.UUID | None = None
    last_id: uuid.UUID | None = None
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.events.values())


class Target(NamedTuple):
    """One partition of what is written to, and from where it is read after a crash."""

    topic: str
    partition: int
    topic_id: uuid.UUID
    next_offset: int


class Listed(NamedTuple):
    """An event that is sent next. `place` orders a rebuild, the id a replay."""

    event_id: uuid.UUID
    size_bytes: int
    place: int | None = None


@dataclass(frozen=True, slots=True)
class Replay:
    """One row. `working`: a process holds it now. `clean`: nothing of it is under way."""

    replay_id: uuid.UUID
    kind: Kind
    state: State
    clean: bool
    working: bool
    reason: str | None
    selection: Selection
    to_topic: str | None
    topic_id: uuid.UUID | None
    partitions: int | None
    rate: float | None
    events: int
    size_bytes: int
    after_id: uuid.UUID | None
    after_place: int
    passed: int
    found: int
    duplicates: int
    recoveries: int
    created_at: datetime
    updated_at: datetime

    @property
    def shown(self) -> str:
        """The state as people see it: one that was running and is held by nobody has crashed."""
        return "crashed" if self.state == "running" and not self.working else self.state


_FIELDS = tuple(Replay.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class Step:
    """What a checkpoint records: `passed` more events, up to `last`; `found` of them were there already."""

    last: Listed
    passed: int
    found: int = 0
    duplicates: int = 0
    ends: Mapping[tuple[str, int], int] = field(default_factory=dict)  # offset after the last record, by partition


# ---- what a selection has --------------------------------------------------------------------------------------------


async def count(store: Store, selection: Selection) -> Count:
    """In parts, so that no statement is long."""
    found, after = Count(), None
    while True:
        sql, arguments = selection.statement("replays_count", _COUNT_EVENTS, after)
        async with _connection(store, "counting events") as connection:
            rows = await connection.fetch(sql, *arguments)
        for row in rows:
            if row["state"] == "stored":
                found.events[row["topic"]] = found.events.get(row["topic"], 0) + row["events"]
                found.size_bytes += row["size_bytes"]
                found.first_id = min(found.first_id or row["first_id"], row["first_id"])
                found.last_id = max(found.last_id or row["last_id"], row["last_id"])
            else:
                found.left_out[row["state"]] = found.left_out.get(row["state"], 0) + row["events"]
        if sum(row["events"] for row in rows) < _COUNT_EVENTS:
            return found
        after = max(row["last_id"] for row in rows)


async def sample(store: Store, selection: Selection) -> list[Mapping[str, Any]]:
    """The oldest few."""
    sql, arguments = selection.statement("replays_sample", SAMPLE_EVENTS)
    async with _connection(store, "reading a sample") as connection:
        return [dict(row) for row in await connection.fetch(sql, *arguments)]


async def page(store: Store, selection: Selection, after: uuid.UUID | None) -> list[Listed]:
    """The next events, up to PAGE_EVENTS."""
    sql, arguments = selection.statement("replays_page", PAGE_EVENTS, after)
    async with _connection(store, "reading which events come next") as connection:
        return [Listed(row["event_id"], row["size_bytes"]) for row in await connection.fetch(sql, *arguments)]


async def rows(store: Store, event_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, EventRow]:
    """These events with everything but the indexed JSON; those that retention has dropped are missing."""
    async with _connection(store, "reading events") as connection:
        found = await connection.fetch(
            QUERIES["replays_rows"].format(columns=_ROW_COLUMNS), event_ids, min(event_ids), max(event_ids)
        )
    return {row["event_id"]: EventRow(*row) for row in found}


# ---- one replay ------------------------------------------------------------------------------------------------------


async def create(
    store: Store, selection: Selection, found: Count, targets: Iterable[Target], *, to: str | None, rate: float | None
) -> uuid.UUID:
    """Put on record what will be sent, and where its target ends now."""
    replay_id = uuid.uuid4()
    async with _connection(store, "recording a replay") as connection, connection.transaction():
        await insert(connection, replay_id, "replay", selection, to, None, rate, found.total, found.size_bytes)
        await insert_targets(connection, replay_id, targets)
    return replay_id


async def insert(connection: Connection, replay_id: uuid.UUID, kind: Kind, selection: Selection, *columns: Any) -> None:
    await connection.execute(QUERIES["replays_insert"], replay_id, kind, selection.dump(), *columns)


async def insert_targets(connection: Connection, replay_id: uuid.UUID, targets: Iterable[Target]) -> None:
    names, partitions, topic_ids, offsets = ([*column] for column in zip(*targets, strict=True))
    await connection.execute(QUERIES["replays_targets_insert"], replay_id, names, partitions, topic_ids, offsets)


async def get(store: Store, replay_id: uuid.UUID) -> Replay | None:
    async with _connection(store, "reading a replay") as connection:
        row = await connection.fetchrow(QUERIES["replays_get"], replay_id)
    return None if row is None else _replay(row)


async def newest(store: Store, limit: int = _LIST_MAX) -> list[Replay]:
    """Replays and rebuilds, the newest first."""
    async with _connection(store, "listing the replays") as connection:
        return [_replay(row) for row in await connection.fetch(QUERIES["replays_list"], limit)]


async def targets(store: Store, replay_id: uuid.UUID) -> list[Target]:
    async with _connection(store, "reading the target of a replay") as connection:
        found = await connection.fetch(QUERIES["replays_targets"], replay_id)
    return [Target(row["topic"], row["partition"], row["topic_id"], row["next_offset"]) for row in found]


async def expire(store: Store, before_ms: int) -> int:
    """Forget replays and rebuilds that were done before that time (ms since 1970); their number."""
    async with _connection(store, "forgetting old replays") as connection:
        return int((await connection.execute(QUERIES["replays_expire"], before_ms)).split()[-1])


class Holder:
    """One process's right to work at a replay, for `seconds` after every `take`."""

    def __init__(self, store: Store, replay_id: uuid.UUID, seconds: float) -> None:
        self.replay_id = replay_id
        self.seconds = seconds
        self.pause_asked = False
        self._holder = uuid.uuid4()
        self._store = store

    async def take(self) -> bool:
        """Take it or renew it; false while somebody else has it."""
        timeout_ms = round(self.seconds * 1000)
        async with self._store.connection("holding a replay", timeout_ms=timeout_ms) as connection:
            asked = await connection.fetchval(QUERIES["replays_take"], self.replay_id, self._holder, self.seconds)
        self.pause_asked = bool(asked)
        return asked is not None

    async def start(self, rate: float | None) -> None:
        """From now on it is running, and what it sent must be looked for should it die."""
        async with _connection(self._store, "starting a replay") as connection:
            _held(await connection.execute(QUERIES["replays_start"], self.replay_id, self._holder, rate))

    async def checkpoint(self, step: Step) -> None:
        """Everything up to here is acknowledged."""
        async with _connection(self._store, "recording how far a replay is") as connection, connection.transaction():
            await self.step(connection, step)

    async def step(self, connection: Connection, step: Step) -> None:
        """The same inside a transaction."""
        asked = await connection.fetchval(
            QUERIES["replays_checkpoint"], self.replay_id, self._holder,
            step.last.event_id if step.last.place is None else None, step.last.place,
            step.passed, step.found, step.duplicates,
        )  # fmt: skip
        if asked is None:
            raise _fenced()
        if step.ends:
            places, offsets = [*step.ends], [*step.ends.values()]
            await connection.execute(
                QUERIES["replays_targets_move"], self.replay_id, [t for t, _ in places], [p for _, p in places], offsets
            )

    async def made(self, connection: Connection, topic_id: uuid.UUID) -> None:
        """The topic of a rebuild has got its new life."""
        _held(await connection.execute(QUERIES["rebuild_made"], self.replay_id, self._holder, topic_id))

    async def end(self, state: State, *, clean: bool, reason: str | None = None) -> None:
        """Give it back."""
        async with _connection(self._store, "ending a replay") as connection:
            await connection.execute(QUERIES["replays_end"], self.replay_id, self._holder, state, clean, reason)


async def ask_pause(store: Store, replay_id: uuid.UUID) -> bool:
    """Ask whoever works at it to pause; false when nobody does."""
    async with _connection(store, "asking for a pause") as connection:
        return bool(await connection.fetchval(QUERIES["replays_ask_pause"], replay_id))


def _replay(row: Any) -> Replay:
    return Replay(**{**{name: row[name] for name in _FIELDS}, "selection": Selection.load(row["selection"])})


def _held(done: str) -> None:
    if not int(done.split()[-1]):
        raise _fenced()


def _fenced() -> Fenced:
    return Fenced("Another process works at this replay.", hint="It goes on from where this one is.")


@asynccontextmanager
async def _connection(store: Store, doing: str) -> AsyncIterator[Connection]:
    async with store.connection(doing, timeout_ms=store.settings.connect_timeout_ms + _TIMEOUT_MS) as connection:
        yield connection
