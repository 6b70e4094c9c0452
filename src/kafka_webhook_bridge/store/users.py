"""When outside users end, and whose turn it is to change one. The rest Kafka alone knows (kafka/users.py)."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

from kafka_webhook_bridge.errors import StoreError
from kafka_webhook_bridge.store.errors import FAILURES, translate
from kafka_webhook_bridge.store.pool import Connection, Store
from kafka_webhook_bridge.store.sql import QUERIES


async def put_end(store: Store, name: str, expires_at: datetime) -> None:
    """From then on the worker removes the user."""
    async with _connection(store, "recording when a user ends") as connection:
        await connection.execute(QUERIES["users_put"], name, expires_at)


async def forget_end(store: Store, name: str) -> None:
    """The user never ends, or has ended."""
    async with _connection(store, "forgetting when a user ends") as connection:
        await connection.execute(QUERIES["users_forget"], name)


async def ends(store: Store) -> dict[str, datetime]:
    """Every user that ends, and when; those whose time is over first."""
    async with _connection(store, "reading when users end") as connection:
        return {row["name"]: row["expires_at"] for row in await connection.fetch(QUERIES["users_ends"])}


async def ended(store: Store) -> dict[str, datetime]:
    """Users whose time is over by the clock of the database."""
    async with _connection(store, "reading which users have ended") as connection:
        return {row["name"]: row["expires_at"] for row in await connection.fetch(QUERIES["users_ended"])}


async def forget_ended(store: Store, name: str, expires_at: datetime) -> None:
    """It was removed; a row that was written for another user of that name meanwhile stays."""
    async with _connection(store, "forgetting a user that has ended") as connection:
        await connection.execute(QUERIES["users_forget_ended"], name, expires_at)


@asynccontextmanager
async def changing(store: Store, name: str) -> AsyncIterator[bool]:
    """Whether this is the only change of the user under way, of all who use this database; so it stays in the block.

    It needs no table, and it is over when the process ends, however it ends. One connection is kept for it.
    """
    doing = f"waiting for a turn to change the user {name}"
    connection = await store.hold(doing)
    mine = False
    try:
        yield (mine := await _turn(store, connection, "users_turn", name, doing))
    finally:
        if mine:
            with contextlib.suppress(StoreError):  # the end of the connection is the end of the turn as well
                await _turn(store, connection, "users_turn_over", name, doing)
        store.drop(connection)


async def _turn(store: Store, connection: Connection, query: str, name: str, doing: str) -> bool:
    number = int.from_bytes(hashlib.sha256(f"kwb users {name}".encode()).digest()[:8], "big", signed=True)
    try:
        async with asyncio.timeout(store.settings.statement_timeout_ms / 1000):
            return bool(await connection.fetchval(QUERIES[query], number))
    except FAILURES as failure:
        raise translate(doing, failure) from failure


@asynccontextmanager
async def _connection(store: Store, doing: str) -> AsyncIterator[Connection]:
    timeout_ms = store.settings.connect_timeout_ms + store.settings.statement_timeout_ms
    async with store.connection(doing, timeout_ms=timeout_ms) as connection:
        yield connection
