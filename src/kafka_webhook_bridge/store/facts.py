"""What PostgreSQL is and what the bridge's role may do there, for `kwb doctor` and `kwb topics`.

A connection of its own, so it works while the bridge itself does not run.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from kafka_webhook_bridge.observability.durability import Verdict, of_postgres
from kafka_webhook_bridge.settings import StoreSettings
from kafka_webhook_bridge.store.coordination import NOT_MADE_YET
from kafka_webhook_bridge.store.migrate import migrations
from kafka_webhook_bridge.store.pool import Connection, Store

NEWEST_MAJOR = 18  # that the bridge is tried with; the oldest is store.pool.SERVER_MAJOR_MIN

_FACTS = """
SELECT current_setting('server_version_num')::int AS version_num,
       current_setting('server_version') AS version,
       current_setting('server_encoding') AS encoding,
       current_setting('fsync') AS fsync,
       current_setting('synchronous_commit') AS synchronous_commit,
       current_setting('full_page_writes') AS full_page_writes,
       pg_is_in_recovery() OR current_setting('transaction_read_only')::bool AS read_only,
       current_schema() AS schema,
       coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS may_create,
       current_setting('max_connections')::int AS connections_max,
       (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')::int AS connections,
       pg_database_size(current_database()) AS size_bytes,
       to_regclass('archive_offsets') IS NOT NULL AS has_archive,
       to_regclass('outbox') IS NOT NULL AS has_outbox,
       to_regclass('topics') IS NOT NULL AS has_topics,
       to_regclass('kwb_migrations') IS NOT NULL AS has_migrations
"""
_COMMITS = """
SELECT current_setting('fsync') = 'on' AS fsync,
       current_setting('full_page_writes') = 'on' AS full_page_writes,
       current_setting('synchronous_commit') AS synchronous_commit,
       pg_is_in_recovery() OR current_setting('transaction_read_only')::bool AS read_only
"""
_NOT_AS_THEY_ARE = {"has_topics", "has_migrations", "fsync", "full_page_writes"}
_CLOCK = "SELECT extract(epoch FROM clock_timestamp())::float8"
_SCHEMA_VERSION = "SELECT max(version) FROM kwb_migrations"
_TOPICS = "SELECT name, made_by FROM topics WHERE topic_id <> $1"
_OFFSETS = "SELECT topic_id::text, partition, next_offset FROM archive_offsets"


@dataclass(frozen=True, slots=True)
class Facts:
    """The server and the database.

    `clock_ahead_ms` is its clock less ours; `answer_ms` the time of one question. `schema_version` is of the migrations
    applied, `schema_known` the newest that this bridge brings. `made_by` tells who made each topic (`source`,
    `open_rule`, `outside`); `next_offsets` how far the archive is, by topic id and partition. Before the first start of
    the bridge they are empty and the version is 0.
    """

    version_num: int
    version: str
    encoding: str
    fsync: bool
    synchronous_commit: str
    full_page_writes: bool
    read_only: bool
    schema: str | None
    may_create: bool
    connections_max: int
    connections: int
    size_bytes: int
    has_archive: bool
    has_outbox: bool
    schema_version: int
    schema_known: int
    answer_ms: float
    clock_ahead_ms: float
    made_by: Mapping[str, str]
    next_offsets: Mapping[tuple[str, int], int]

    @property
    def major(self) -> int:
        return self.version_num // 10_000

    @property
    def verdict(self) -> Verdict:
        """What a commit is worth."""
        return of_postgres(
            fsync=self.fsync, full_page_writes=self.full_page_writes,
            synchronous_commit=self.synchronous_commit, read_only=self.read_only,
        )  # fmt: skip


async def read_verdict(store: Store) -> tuple[Verdict, float]:
    """What a commit is worth, as a connection of the bridge finds it, and how far the server's clock is ahead in ms.

    Raises StoreError when PostgreSQL refuses or does not answer.
    """
    async with store.connection(
        "telling how it commits", timeout_ms=2 * store.settings.connect_timeout_ms
    ) as connection:
        found = await connection.fetchrow(_COMMITS)
        assert found is not None
        return of_postgres(**found), await _clock_ahead_ms(connection)


async def _clock_ahead_ms(connection: Connection) -> float:
    sent = time.time()
    theirs: float = await connection.fetchval(_CLOCK)
    return (theirs - (sent + time.time()) / 2) * 1000


async def next_offsets(store: Store) -> dict[tuple[str, int], tuple[str, int]]:
    """How far the archive is: topic id and partition → topic and next offset. Raises StoreError."""
    async with store.connection("reading positions", timeout_ms=2 * store.settings.connect_timeout_ms) as connection:
        rows = await connection.fetch("SELECT topic_id::text, partition, topic, next_offset FROM archive_offsets")
        return {(row[0], row[1]): (row[2], row[3]) for row in rows}


async def read_facts(settings: StoreSettings) -> Facts:
    """Raises ConfigError for a URL that cannot be used, StoreError when PostgreSQL refuses or does not answer."""
    async with (
        Store(settings) as store,
        store.connection("telling what it is", timeout_ms=2 * settings.connect_timeout_ms) as connection,
    ):
        found = await connection.fetchrow(_FACTS)
        assert found is not None
        sent = time.monotonic()
        clock_ahead_ms = await _clock_ahead_ms(connection)
        answered = time.monotonic()
        version = await connection.fetchval(_SCHEMA_VERSION) if found["has_migrations"] else 0
        topics = await connection.fetch(_TOPICS, uuid.UUID(NOT_MADE_YET)) if found["has_topics"] else []
        offsets = await connection.fetch(_OFFSETS) if found["has_archive"] else []
        return Facts(
            **{name: value for name, value in found.items() if name not in _NOT_AS_THEY_ARE},
            schema_version=version or 0,
            schema_known=len(migrations()),
            fsync=found["fsync"] == "on",
            full_page_writes=found["full_page_writes"] == "on",
            answer_ms=(answered - sent) * 1000,
            clock_ahead_ms=clock_ahead_ms,
            made_by={row[0]: row[1] for row in topics},
            next_offsets={(row[0], row[1]): row[2] for row in offsets},
        )
