"""Finding events: each filter has an index, every page is read by event_id, every statement has a time limit."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from kafka_webhook_bridge import ids
from kafka_webhook_bridge.errors import UsageError
from kafka_webhook_bridge.formats.rows import INDEXED_CHARACTERS_MAX
from kafka_webhook_bridge.store.pool import Connection, Store
from kafka_webhook_bridge.store.sql import QUERIES

ACKNOWLEDGED = "acknowledged"
JSON_WINDOW = timedelta(days=1)  # of a JSON search without --since
LIMIT_MAX = 10_000


def check_bounds(limit: int, since: datetime | None, until: datetime | None) -> None:
    """Of a search by a person. Raises UsageError."""
    if not 1 <= limit <= LIMIT_MAX:
        raise UsageError(f"--limit is from 1 to {LIMIT_MAX}.")
    if since and until and since >= until:
        raise UsageError("--since is not before --until.")


@dataclass(frozen=True, slots=True)
class Search:
    """What to look for; None asks for everything. Times are those inside the event id, `until` excluded.

    `json` is a JSON document (text) that the body contains in the sense of PostgreSQL's `@>`. `after` is the last id
    of the page before: the next page has older ones.
    """

    source: str | None = None
    type: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    key: str | None = None
    json: str | None = None
    after: uuid.UUID | None = None
    limit: int = 50

    def __post_init__(self) -> None:
        check_bounds(self.limit, self.since, self.until)

    def bounded(self, now: datetime) -> Search:
        """The same search; one by JSON is given a beginning when it has none (rules.md 21)."""
        if self.json is None or self.since is not None:
            return self
        end = self.until or now
        if self.after is not None:
            end = min(end, ids.moment(ids.time_ms(self.after)))
        return replace(self, since=end - JSON_WINDOW)

    def statement(self) -> tuple[str, list[Any]]:
        """SQL and its arguments. Values travel as parameters, never as text."""
        low = ids.floor(ids.milliseconds(self.since)) if self.since else None
        high = ids.floor(ids.milliseconds(self.until)) if self.until else None
        if self.after is not None:
            high = min(high, self.after) if high else self.after
        conditions = (
            ("event_id >= $", low),
            ("event_id < $", high),
            ("source = $", as_kept(self.source)),
            ("type = $", as_kept(self.type)),
            ("key = $", as_kept(self.key)),
            ("body_json @> $", self.json.encode() if self.json is not None else None),
        )
        wanted = [(text, value) for text, value in conditions if value is not None]
        where = " AND ".join(f"{text}{place}" for place, (text, _) in enumerate(wanted, 1)) or "true"
        query = QUERIES["events_search" if self.json is None else "events_search_json"]
        return query.format(where=where, limit=self.limit), [value for _, value in wanted]


def as_kept(text: str | None) -> str | None:
    """As the archive keeps what it indexes: no U+0000, no bytes that are not UTF-8, and cut."""
    if text is None:
        return None
    text = text.encode(errors="surrogateescape").decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
    return text[:INDEXED_CHARACTERS_MAX]


async def search(store: Store, wanted: Search) -> list[Mapping[str, Any]]:
    """The newest events that match; `state` is the table's or ACKNOWLEDGED.

    Raises StoreError with advice when it takes longer than the statement time-out.
    """
    sql, arguments = wanted.statement()
    async with _reading(store, "searching") as connection:
        return await _told(connection, await connection.fetch(sql, *arguments))


async def get(store: Store, event_id: uuid.UUID) -> Mapping[str, Any] | None:
    """All columns of one event, `state` as a search tells it."""
    async with _reading(store, "reading an event") as connection:
        found = await _told(connection, await connection.fetch(QUERIES["events_get"], event_id))
        return found[0] if found else None


async def _told(connection: Connection, rows: Sequence[Any]) -> list[Mapping[str, Any]]:
    """Rows as they are told. One that has no position and is in no outbox was acknowledged by Kafka, and the archive
    has not read it yet: its `state` is ACKNOWLEDGED, which the table need not keep."""
    told = [dict(row) for row in rows]
    unread = {row["event_id"]: row for row in told if row["state"] != "stored"}
    if unread:
        waiting = await connection.fetch(QUERIES["events_waiting"], list(unread))
        for event_id in unread.keys() - {row["event_id"] for row in waiting}:
            unread[event_id]["state"] = ACKNOWLEDGED
    return list(told)


async def copies(store: Store, event: Mapping[str, Any], limit: int) -> list[uuid.UUID]:
    """Ids of the first events that are marked as duplicates of this one."""
    async with _reading(store, "reading the duplicates of an event") as connection:
        rows = await connection.fetch(QUERIES["events_copies"], event["dedupe_key"], event["event_id"], limit)
        return [row["event_id"] for row in rows]


@asynccontextmanager
async def _reading(store: Store, doing: str) -> AsyncIterator[Connection]:
    """A transaction in which PostgreSQL ends a statement that is too slow, and that is cut when it does not answer."""
    settings = store.settings
    patience_ms = settings.connect_timeout_ms + 2 * settings.statement_timeout_ms
    async with store.connection(doing, timeout_ms=patience_ms) as connection, connection.transaction(readonly=True):
        await connection.execute(f"SET LOCAL statement_timeout = {settings.statement_timeout_ms:d}")
        yield connection
