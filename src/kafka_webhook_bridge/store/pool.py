"""Connections to PostgreSQL. asyncpg is known in this folder alone; what leaves it is a StoreError."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg

from kafka_webhook_bridge.errors import ConfigError, Problem, StoreError
from kafka_webhook_bridge.settings import StoreSettings
from kafka_webhook_bridge.store.errors import FAILURES, translate
from kafka_webhook_bridge.store.sql import QUERIES
from kafka_webhook_bridge.texts import check_postgres_url, has_password, url_option

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

# As a string, because asyncpg's classes take type arguments in their stubs alone.
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]"

SERVER_MAJOR_MIN = 15
IDLE_CONNECTION_S = 60.0
IDLE_IN_TRANSACTION_MS = 60_000  # ends what a stopped process holds: its locks and its snapshot
_CLOSE_WAIT_S = 2.0


class Store:
    """A bounded pool. Nothing connects before the first use, so a process starts while PostgreSQL is down.

    Every use raises ConfigError for a URL that cannot be used, and StoreError when PostgreSQL fails or does not answer.
    """

    def __init__(self, settings: StoreSettings) -> None:
        if settings.url is None:
            raise ConfigError(
                [Problem("DATABASE_URL", "is not set: the archive needs PostgreSQL")],
                hint="`make up` gives one; elsewhere postgresql://user:password@host:5432/database.",
            )
        if problems := url_problems(settings):
            raise ConfigError(problems)
        self.settings = settings
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._dropping: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Bind the pool to the running loop."""
        self._pool = asyncpg.create_pool(
            min_size=0,
            max_size=self.settings.connections_max,
            max_inactive_connection_lifetime=IDLE_CONNECTION_S,
            init=_prepare,
            **_connecting(self.settings),
        )
        await self._pool

    def log_in(self, settings: StoreSettings) -> None:
        """Use their URL and password from the next connection on. Those that are open stay."""
        if self._pool is not None and settings.url is not None:
            self._pool.set_connect_args(**_connecting(settings))

    async def close(self) -> None:
        """Give connections in use a moment, then cut them."""
        if self._pool is not None:
            pool, self._pool = self._pool, None
            try:
                await asyncio.wait_for(pool.close(), _CLOSE_WAIT_S)
            except TimeoutError:
                pool.terminate()

    async def __aenter__(self) -> Store:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def ping(self) -> None:
        """Raises StoreError when PostgreSQL does not answer in time."""
        async with self.connection("answering", timeout_ms=self.settings.connect_timeout_ms) as connection:
            await connection.execute(QUERIES["ping"])

    @asynccontextmanager
    async def connection(self, doing: str, *, timeout_ms: int) -> AsyncIterator[Connection]:
        """A connection for at most `timeout_ms`, waiting for one included. `doing` names the work in errors.

        A connection whose work did not end in time is cut, not asked: the cancellation of a statement may itself wait
        for ever on a server that is stopped (rules.md 1).
        """
        if self._pool is None:
            raise StoreError("The store is closed.")
        pool = self._pool
        acquired: Connection | None = None
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                acquired = await _acquire(pool)
                yield acquired
        except FAILURES as failure:
            if acquired is not None and isinstance(failure, TimeoutError):
                _cut(acquired)
            raise translate(doing, failure) from failure
        except asyncio.CancelledError:
            if acquired is not None:
                _cut(acquired)
            raise
        finally:
            if acquired is not None:
                await _release(pool, acquired)

    async def hold(self, doing: str) -> Connection:
        """A connection to keep, for work that cannot wait for one; `drop` ends it. It counts in the pool's bound."""
        if self._pool is None:
            raise StoreError("The store is closed.")
        try:
            async with asyncio.timeout(self.settings.connect_timeout_ms / 1000):
                return await _acquire(self._pool)
        except FAILURES as failure:
            raise translate(doing, failure) from failure

    def drop(self, connection: Connection) -> None:
        """Cut a connection that was held, whatever it is doing. Waits for nothing."""
        if not is_open(connection):
            return
        _cut(connection)
        if self._pool is not None:
            task = asyncio.ensure_future(_release(self._pool, connection))
            self._dropping.add(task)
            task.add_done_callback(self._dropping.discard)


def url_problems(settings: StoreSettings) -> list[Problem]:
    """What is known to be wrong with DATABASE_URL before anything connects; nothing without one."""
    if settings.url is None:
        return []
    url = settings.url.get_secret_value()
    try:
        check_postgres_url(url)
    except ValueError as error:
        return [Problem("DATABASE_URL", str(error))]
    authorities = url_option(url, "sslrootcert")
    try:
        if authorities:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(authorities)
    except ssl.SSLError:
        return [Problem("DATABASE_URL", f"sslrootcert={authorities}: no PEM certificate is in there")]
    except OSError as error:
        return [Problem("DATABASE_URL", f"sslrootcert={authorities}: {error.strerror}")]
    return []


def _connecting(settings: StoreSettings) -> dict[str, Any]:
    assert settings.url is not None
    url, password = settings.url.get_secret_value(), settings.password
    return {
        "dsn": url,
        # To asyncpg the argument is worth more than the URL.
        "password": None if password is None or has_password(url) else password.get_secret_value(),
        "timeout": settings.connect_timeout_ms / 1000,
        "server_settings": {
            "application_name": "kwb",
            "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_MS),
            "jit": "off",  # it compiles for longer than any of these queries runs
        },
    }


def _cut(connection: Any) -> None:
    """End a connection at once. One that the server ended has been taken back by the pool already."""
    with contextlib.suppress(asyncpg.InterfaceError):
        connection.terminate()


def is_open(connection: Connection) -> bool:
    """Whether a connection that is held can still be used."""
    try:
        return not connection.is_closed()
    except asyncpg.InterfaceError:  # the server ended it, and so the pool took it back
        return False


async def _acquire(pool: asyncpg.Pool[asyncpg.Record]) -> Connection:
    try:
        return await pool.acquire()
    except ssl.SSLCertVerificationError:  # a ValueError too, and no fault of the URL's form
        raise
    except (ValueError, asyncpg.ClientConfigurationError):  # their text may show the URL with its password
        raise ConfigError(
            [Problem("DATABASE_URL", "is not a URL that PostgreSQL's client understands")],
            hint="postgresql://user:password@host:5432/database, special characters percent-encoded.",
        ) from None


async def _release(pool: asyncpg.Pool[asyncpg.Record], connection: Any) -> None:
    """Give it back. A cancellation cuts it and goes on its way: whoever cancels waits for the end of the work."""
    releasing = asyncio.ensure_future(pool.release(connection, timeout=_CLOSE_WAIT_S))
    try:
        await asyncio.shield(releasing)
    except FAILURES:
        _cut(connection)
    except asyncio.CancelledError:
        _cut(connection)
        releasing.add_done_callback(lambda done: done.cancelled() or done.exception())  # looked at, so not logged
        raise


async def _prepare(connection: Connection) -> None:
    version = connection.get_server_version()
    if version.major < SERVER_MAJOR_MIN:
        raise StoreError(
            f"PostgreSQL {version.major} is too old.", hint="Supported are PostgreSQL 15 to 18; upgrade the server."
        )
    # jsonb as bytes: the archive has them as bytes already, and whoever reads decides how to parse them.
    # In PostgreSQL's binary form the text follows one byte with the version of the format.
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        format="binary",
        encoder=lambda text: b"\x01" + text,
        decoder=lambda data: bytes(data[1:]),
    )
