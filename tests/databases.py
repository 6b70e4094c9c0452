"""Databases of a test's own on the session's PostgreSQL."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
from pydantic import SecretStr

from kafka_webhook_bridge.settings import StoreSettings
from kafka_webhook_bridge.stack import Postgres
from kafka_webhook_bridge.store import Store, migrate


def migrate_database(url: str) -> None:
    """Make the tables, as `kwb migrate` does."""

    async def run() -> None:
        async with Store(StoreSettings(url=SecretStr(url))) as store:
            await migrate(store)

    asyncio.run(run())


def rows(url: str, sql: str, *arguments: Any) -> list[Any]:
    """What a statement of the test finds."""

    async def run() -> list[Any]:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetch(sql, *arguments)
        finally:
            await connection.close()

    return asyncio.run(run())


@contextmanager
def empty_database(postgres: Postgres) -> Iterator[str]:
    """URL of an empty database that belongs to the bridge's role; gone afterwards."""
    name = f"test_{secrets.token_hex(6)}"

    async def run(sql: str) -> None:
        connection = await asyncpg.connect(postgres.admin_url)
        try:
            await connection.execute(sql)
        finally:
            await connection.close()

    asyncio.run(run(f"CREATE DATABASE {name} OWNER kwb"))
    yield postgres.url.rpartition("/")[0] + f"/{name}"
    asyncio.run(run(f"DROP DATABASE {name} WITH (FORCE)"))
