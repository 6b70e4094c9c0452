"""Migrations: once, by one process, never from an altered file, never backwards."""

from __future__ import annotations

import asyncio
import importlib.util
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import asyncpg
import pytest
from events_data import store_settings, with_store

from kafka_webhook_bridge.errors import StoreError
from kafka_webhook_bridge.store import Store, migrate
from kafka_webhook_bridge.store.migrate import SchemaOld, check, migrations

TOOL = Path(__file__).parents[2] / "tools" / "schema.py"
migrate_module = importlib.import_module("kafka_webhook_bridge.store.migrate")


async def execute(database: str, sql: str, *arguments: object) -> None:
    connection = await asyncpg.connect(database)
    try:
        await connection.execute(sql, *arguments)
    finally:
        await connection.close()


async def tables(store: Store) -> set[str]:
    async with store.connection("listing tables", timeout_ms=30_000) as connection:
        rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return {row["tablename"] for row in rows}


def test_schema_sql_is_what_the_migrations_make(database: str, request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--postgres"):
        pytest.skip("NOT RUN: schema.sql is in the words of the embedded PostgreSQL's pg_dump")
    spec = importlib.util.spec_from_file_location("schema", TOOL)
    assert spec is not None
    assert spec.loader is not None
    tool: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.SCHEMA.read_text() == tool.schema(database), "run tools/schema.py and read the diff"


def test_a_second_time_does_nothing(database: str) -> None:
    async def run() -> None:
        async with Store(store_settings(database)) as store:
            assert await migrate(store) == migrations()
            assert await migrate(store) == []

    asyncio.run(run())


def test_of_several_at_once_one_migrates(database: str) -> None:
    """Each has connections of its own, as processes have; the lock is the server's."""

    async def run() -> None:
        stores = [Store(store_settings(database)) for _ in range(5)]
        for store in stores:
            await store.open()
        try:
            applied = await asyncio.gather(*map(migrate, stores))
        finally:
            for store in stores:
                await store.close()
        assert sorted(m.version for done in applied for m in done) == [m.version for m in migrations()]

    asyncio.run(run())


@with_store
async def test_check_takes_the_same_version_and_later_ones_and_changes_nothing(store: Store, database: str) -> None:
    newest = migrations()[-1].version
    assert await check(store) == newest
    await execute(database, "INSERT INTO kwb_migrations VALUES ($1, 'later', 'x', now())", newest + 1)
    assert await check(store) == newest + 1
    await execute(database, "DELETE FROM kwb_migrations WHERE version >= $1", newest)
    with pytest.raises(SchemaOld, match=rf"at version {newest - 1}, this bridge needs version {newest}"):
        await check(store)
    await execute(database, "UPDATE kwb_migrations SET sha256 = 'another' WHERE version = 1")
    with pytest.raises(StoreError, match="another file"):
        await check(store)


def test_check_of_an_empty_database_makes_nothing(database: str) -> None:
    async def run() -> set[str]:
        async with Store(store_settings(database)) as store:
            with pytest.raises(SchemaOld, match="is empty, this bridge needs"):
                await check(store)
            return await tables(store)

    assert asyncio.run(run()) == set()


@with_store
async def test_an_altered_file_is_refused(store: Store, database: str) -> None:
    await execute(database, "UPDATE kwb_migrations SET sha256 = 'another' WHERE version = 1")
    with pytest.raises(StoreError, match=r"Migration 1 \(archive\) was applied from another file") as caught:
        await migrate(store)
    assert "released version" in caught.value.hint


@with_store
async def test_rule_27_a_newer_database_is_left_as_it_is(store: Store, database: str) -> None:
    await execute(database, "INSERT INTO kwb_migrations (version, name, sha256) VALUES (9999, 'later', '')")
    assert await migrate(store) == []
    assert await check(store) == 9999


def test_a_migration_that_fails_leaves_nothing(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = migrations()[0]
    broken = replace(first, sql="CREATE TABLE half_done (x integer); SELECT no_such_function();")

    async def run() -> None:
        async with Store(store_settings(database)) as store:
            with monkeypatch.context() as patched:
                patched.setattr(migrate_module, "migrations", lambda: [broken])
                with pytest.raises(StoreError, match="no_such_function"):
                    await migrate(store)
            assert await tables(store) == set()
            assert await migrate(store) == migrations()

    asyncio.run(run())
