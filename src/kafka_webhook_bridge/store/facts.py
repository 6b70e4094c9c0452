"""What PostgreSQL is and what the bridge's role may do there, for `kwb doctor` and `kwb topics`.

One short connection per question, so it works while the bridge itself cannot.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import asyncpg

from kafka_webhook_bridge.errors import ConfigError, Problem, StoreError
from kafka_webhook_bridge.settings import StoreSettings

OLDEST, NEWEST = 15, 18  # major versions that the bridge is tried with

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
       to_regclass('topics') IS NOT NULL AS has_topics
"""
_CLOCK = "SELECT extract(epoch FROM clock_timestamp())::float8"
_TOPICS = "SELECT name, made_by FROM topics"
_OFFSETS = "SELECT topic_id::text, partition, next_offset FROM archive_offsets"


@dataclass(frozen=True, slots=True)
class Facts:
    """The server and the database. `clock_ahead_ms` is its clock less ours; `answer_ms` the time of one question.

    `made_by` tells who made each topic (`source`, `open_rule`, `outside`); `next_offsets` how far the archive is, by
    topic id and partition. Both are empty before the first start of the bridge.
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
    answer_ms: float
    clock_ahead_ms: float
    made_by: Mapping[str, str]
    next_offsets: Mapping[tuple[str, int], int]

    @property
    def major(self) -> int:
        return self.version_num // 10_000

    @property
    def durable(self) -> bool:
        """Whether a commit is on disk when it is reported."""
        return self.fsync and self.synchronous_commit != "off"


async def read_facts(settings: StoreSettings) -> Facts:
    """Raises ConfigError without a URL, StoreError when PostgreSQL refuses or does not answer in time."""
    if settings.url is None:
        raise ConfigError([Problem("DATABASE_URL", "is not set")], hint="There is no archive without it.")
    timeout_s = settings.connect_timeout_ms / 1000
    try:
        connection = await asyncpg.connect(
            settings.url.get_secret_value(), timeout=timeout_s, command_timeout=timeout_s, statement_cache_size=0
        )
    except (OSError, TimeoutError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise _failed("connecting", error) from error
    try:
        found = await connection.fetchrow(_FACTS)
        assert found is not None
        sent = time.time()
        theirs = await connection.fetchval(_CLOCK)
        received = time.time()
        topics = await connection.fetch(_TOPICS) if found["has_topics"] else []
        offsets = await connection.fetch(_OFFSETS) if found["has_archive"] else []
        return Facts(
            **{name: value for name, value in found.items() if name not in {"has_topics", "fsync", "full_page_writes"}},
            fsync=found["fsync"] == "on",
            full_page_writes=found["full_page_writes"] == "on",
            answer_ms=(received - sent) * 1000,
            clock_ahead_ms=(theirs - (sent + received) / 2) * 1000,
            made_by={row[0]: row[1] for row in topics},
            next_offsets={(row[0], row[1]): row[2] for row in offsets},
        )
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise _failed("reading what it is", error) from error
    finally:
        connection.terminate()


def _failed(doing: str, error: Exception) -> StoreError:
    said = str(error) or "no answer in time"
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
        hint = "Check the user and the password in DATABASE_URL."
    elif isinstance(error, asyncpg.InvalidCatalogNameError):
        hint = "Make the database, or correct its name in DATABASE_URL."
    elif isinstance(error, asyncpg.PostgresError):
        hint = "The server's log says more."
    elif isinstance(error, (ValueError, asyncpg.InterfaceError)):
        hint = "DATABASE_URL looks like postgresql://user:password@host:5432/database."
        said = "DATABASE_URL is not understood" if isinstance(error, ValueError) else said
    else:
        hint = "Is PostgreSQL up, and is the address in DATABASE_URL right from this machine?"
    return StoreError(f"PostgreSQL failed while {doing}: {said}", hint=hint)
