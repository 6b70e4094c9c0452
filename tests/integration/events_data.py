"""Rows for the archive, and tests that run inside an open store."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import SecretStr

from kafka_webhook_bridge import ids
from kafka_webhook_bridge.formats.rows import EventRow
from kafka_webhook_bridge.settings import StoreSettings
from kafka_webhook_bridge.store import Store, migrate
from kafka_webhook_bridge.store.archive import Written, write

TIMEOUT_MS = 60_000
TOPIC_ID = uuid.UUID(int=7)


def now_ms() -> int:
    return ids.milliseconds(datetime.now(UTC))


def days_ago(days: float) -> int:
    return ids.milliseconds(datetime.now(UTC) - timedelta(days=days))


def event_id(time_ms: int | None = None) -> uuid.UUID:
    """A UUIDv7 of that millisecond (default: now)."""
    random = int.from_bytes(os.urandom(10)) & ~(0xF << 76 | 0x3 << 62)
    return uuid.UUID(int=ids.floor(now_ms() if time_ms is None else time_ms).int | 0x7 << 76 | 0x2 << 62 | random)


def row(time_ms: int | None = None, **columns: Any) -> EventRow:
    """An event as the archive would write it; `columns` replace what is given here."""
    identity = columns.pop("event_id", None) or event_id(time_ms)
    made: dict[str, Any] = {
        "event_id": identity, "received_at": ids.moment(ids.time_ms(identity)), "source": "erp",
        "type": "webhook.erp", "method": "POST", "path": "/erp", "query": None, "content_type": "application/json",
        "headers": b'[["host", "bridge.example"]]', "body": b'{"n":1}', "body_json": b'{"n":1}', "parse_error": None,
        "key": None, "key_bytes": None, "verified": "basic", "covers_body": False, "dedupe_key": None, "format": "raw",
        "traceparent": None, "marks": None, "topic": "erp", "topic_id": TOPIC_ID, "partition": 0, "offset": 0,
    }  # fmt: skip
    return EventRow(**{**made, **columns})


def store_settings(url: str, **changes: Any) -> StoreSettings:
    """Generous times, so that a busy machine fails no test."""
    generous: dict[str, Any] = {"connect_timeout_ms": 30_000, "statement_timeout_ms": 60_000}
    return StoreSettings(url=SecretStr(url), **{**generous, **changes})


async def archive(store: Store, *rows: EventRow, window_days: int = 7) -> Written:
    """Rows without positions."""
    return await write(store, rows, {}, dedupe_window_days=window_days, timeout_ms=TIMEOUT_MS)


def fill(url: str, *rows: EventRow) -> None:
    """Migrate a database and archive these rows."""

    async def run() -> None:
        async with Store(store_settings(url)) as store:
            await migrate(store)
            if rows:
                await archive(store, *rows)

    asyncio.run(run())


def with_store(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """`async def test(store, …)` as a test on an empty, migrated database; further parameters are fixtures."""
    parameters = [p for name, p in inspect.signature(test).parameters.items() if name != "store"]
    if "database" not in inspect.signature(test).parameters:
        parameters.append(inspect.Parameter("database", inspect.Parameter.POSITIONAL_OR_KEYWORD))

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        database = fixtures["database"]
        if "database" not in inspect.signature(test).parameters:
            del fixtures["database"]

        async def inside() -> None:
            async with Store(store_settings(database)) as store:
                await migrate(store)
                await test(store, **fixtures)

        asyncio.run(inside())

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run
