"""Connections that fail, hang or vanish: an error in words, in bounded time, and the pool goes on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import traceback
from collections.abc import Iterator

import asyncpg
import pytest
from events_data import store_settings, with_store

from kafka_webhook_bridge.errors import ConfigError, KwbError, StoreError
from kafka_webhook_bridge.settings import StoreSettings
from kafka_webhook_bridge.stack import Stack
from kafka_webhook_bridge.store import Store
from kafka_webhook_bridge.store.pool import is_open

GUARD_S = 60  # far above every time limit here: reached only by a wait without end


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("in_transaction", [False, True])
def test_rule_1_a_backend_that_does_not_answer_is_cut(database: str, in_transaction: bool) -> None:
    """Its only slot is free again for another connection, while the backend still hangs."""

    async def ask(store: Store) -> None:
        async with store.connection("counting", timeout_ms=300) as connection:
            if in_transaction:
                async with connection.transaction():
                    await connection.execute("SELECT 1")
            else:
                await connection.execute("SELECT 1")

    async def run() -> None:
        async with Store(store_settings(database, connections_max=1)) as store:
            async with store.connection("asking", timeout_ms=30_000) as connection:
                pid = await connection.fetchval("SELECT pg_backend_pid()")
            with stopped(pid):
                with pytest.raises(StoreError, match="while counting: no answer in time") as caught:
                    await ask(store)
                assert "DATABASE_URL" in caught.value.hint
                await store.ping()
                async with store.connection("asking", timeout_ms=30_000) as connection:
                    assert await connection.fetchval("SELECT pg_backend_pid()") != pid

    asyncio.run(asyncio.wait_for(run(), GUARD_S))


def test_a_statement_that_is_too_slow_is_cut(database: str) -> None:
    async def run() -> None:
        async with Store(store_settings(database, connections_max=1)) as store:
            with pytest.raises(StoreError, match="no answer in time"):
                async with store.connection("sleeping", timeout_ms=300) as connection, connection.transaction():
                    await connection.execute("SELECT pg_sleep(3600)")
            await store.ping()

    asyncio.run(asyncio.wait_for(run(), GUARD_S))


def test_a_cancelled_task_leaves_no_slot_behind(database: str) -> None:
    async def run() -> None:
        async with Store(store_settings(database, connections_max=1)) as store:
            asked = asyncio.Event()

            async def work() -> None:
                async with store.connection("sleeping", timeout_ms=60_000) as connection, connection.transaction():
                    asked.set()
                    await connection.execute("SELECT pg_sleep(3600)")

            task = asyncio.create_task(work())
            await asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await store.ping()

    asyncio.run(asyncio.wait_for(run(), GUARD_S))


def test_waiting_for_a_connection_is_bounded(database: str) -> None:
    async def run() -> None:
        async with (
            Store(store_settings(database, connections_max=1)) as store,
            store.connection("holding it", timeout_ms=30_000) as connection,
        ):
            with pytest.raises(StoreError, match="while waiting: no answer in time"):
                async with store.connection("waiting", timeout_ms=100):
                    raise AssertionError("there was a second connection")
            assert await connection.fetchval("SELECT 1") == 1

    asyncio.run(asyncio.wait_for(run(), GUARD_S))


def test_a_server_that_hangs_is_an_error_and_comes_back(stack: Stack, database: str) -> None:
    """The postmaster is stopped: the port takes connections and nobody answers."""

    async def run() -> None:
        async with Store(store_settings(database, connect_timeout_ms=500)) as store:
            assert stack.postgres.pid is not None
            with stopped(stack.postgres.pid), pytest.raises(StoreError, match="no answer in time"):
                await store.ping()
        async with Store(store_settings(database)) as store:
            await store.ping()

    asyncio.run(asyncio.wait_for(run(), GUARD_S))


def test_the_pool_survives_a_restart_of_postgresql(stack: Stack, database: str) -> None:
    async def run() -> None:
        async with Store(store_settings(database)) as store:
            async with contextlib.AsyncExitStack() as connections:
                for _ in range(3):
                    await connections.enter_async_context(store.connection("being there", timeout_ms=30_000))
            await asyncio.to_thread(stack.postgres.stop)
            try:
                with pytest.raises(StoreError, match="PostgreSQL failed while answering"):
                    await store.ping()
            finally:
                await asyncio.to_thread(stack.postgres.start)
            for _ in range(5):
                await store.ping()

            connection_lost = pytest.raises(StoreError, match="while sleeping")
            with connection_lost:
                async with store.connection("sleeping", timeout_ms=60_000) as connection, connection.transaction():
                    pid = await connection.fetchval("SELECT pg_backend_pid()")
                    async with store.connection("ending it", timeout_ms=30_000) as other:
                        await other.execute("SELECT pg_terminate_backend($1)", pid)
                    await connection.execute("SELECT pg_sleep(3600)")
            await store.ping()

    asyncio.run(asyncio.wait_for(run(), 3 * GUARD_S))


@pytest.mark.parametrize(
    ("change", "kind", "hint"),
    [
        (lambda url: url.replace("kwb:", "kwb:canary"), StoreError, "password in DATABASE_URL"),
        (lambda url: url.replace("kwb:", "nobody:canary"), StoreError, "password in DATABASE_URL"),
        (lambda _: "postgresql://kwb:canary@127.0.0.1:1/kwb", StoreError, "Is PostgreSQL up"),
        (lambda _: "postgresql://kwb:canary@no-such-host.invalid/kwb", StoreError, "Is PostgreSQL up"),
        (lambda _: "http://kwb:canary@127.0.0.1/kwb", ConfigError, "postgresql://user:password@host"),
        (lambda _: "postgresql://kwb:canary@127.0.0.1:port/kwb", ConfigError, "postgresql://user:password@host"),
        (lambda _: "postgresql://kwb:can/ary@127.0.0.1/kwb", ConfigError, "percent-encoded"),
        (lambda url: url + "?sslmode=canary", ConfigError, "postgresql://user:password@host"),
        (lambda url: url.rpartition("/")[0] + "/missing", StoreError, "Make the database"),
    ],
    ids=["password", "user", "port", "host", "scheme", "no port", "slash", "parameter", "database"],
)
def test_an_error_names_what_to_do_and_never_the_password(database: str, change, kind, hint: str) -> None:
    url = change(database)

    async def run() -> None:
        async with Store(store_settings(url, connect_timeout_ms=10_000)) as store:
            await store.ping()

    with pytest.raises(kind) as caught:
        asyncio.run(run())
    assert isinstance(caught.value, KwbError)
    assert hint in caught.value.message + caught.value.hint
    told = "".join(traceback.format_exception(caught.value))  # as a log would show it, causes included
    frames_off = "\n".join(line for line in told.splitlines() if not line.startswith("    "))
    for secret in ("canary", "can/ary", database.partition("kwb:")[2].partition("@")[0]):
        assert secret not in frames_off


def test_no_url_is_a_sentence() -> None:
    with pytest.raises(ConfigError, match="DATABASE_URL: is not set"):
        Store(StoreSettings())


@with_store
async def test_a_closed_store_says_so(store: Store) -> None:
    await store.close()
    await store.close()
    with pytest.raises(StoreError, match="closed"):
        await store.ping()


def test_a_cancellation_while_a_connection_is_given_back_is_not_lost(database: str) -> None:
    """Else a background task that is told to end goes on, and whoever waits for its end waits for ever."""

    async def run() -> None:
        async with Store(store_settings(database)) as store:
            with contextlib.ExitStack() as stack:
                hangs = asyncio.Event()

                async def work() -> None:
                    async with store.connection("working", timeout_ms=60_000) as connection:
                        stack.enter_context(stopped(await connection.fetchval("SELECT pg_backend_pid()")))
                        hangs.set()  # from here on it is given back, which asks the backend

                task = asyncio.create_task(work())
                await hangs.wait()
                await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            await store.ping()

    asyncio.run(asyncio.wait_for(run(), GUARD_S))


def test_a_connection_that_the_server_ended_may_be_cut_once_more(stack: Stack, database: str) -> None:
    """The pool takes such a one back by itself; a late statement that wants to cut it then has nothing to cut."""

    async def wait_too_long(store: Store) -> None:
        async with store.connection("waiting too long", timeout_ms=3_000) as connection:
            pid = await connection.fetchval("SELECT pg_backend_pid()")
            other = await asyncpg.connect(stack.postgres.admin_url)
            await other.execute("SELECT pg_terminate_backend($1)", pid)
            await other.close()
            while is_open(connection):
                await asyncio.sleep(0.01)
            await asyncio.Event().wait()

    async def run() -> None:
        async with Store(store_settings(database)) as store:
            with pytest.raises(StoreError, match="no answer in time"):
                await wait_too_long(store)
            await store.ping()

    asyncio.run(asyncio.wait_for(run(), GUARD_S))
