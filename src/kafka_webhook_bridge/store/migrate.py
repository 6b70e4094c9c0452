"""Migrations: numbered files, applied forward only, each in a transaction of its own, by one process at a time."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from kafka_webhook_bridge.errors import StoreError
from kafka_webhook_bridge.observability import logs
from kafka_webhook_bridge.store.pool import Store
from kafka_webhook_bridge.store.sql import QUERIES

TIMEOUT_MS = 600_000  # a later migration may rebuild an index of a large table
_LOCK = 0x6B77620001  # "kwb", 1
_FILE = re.compile(r"(\d{4})_(\w+)\.sql")


@dataclass(frozen=True, slots=True)
class Migration:
    """One file. `sha256` shows whether the file was changed after it had been applied."""

    version: int
    name: str
    sql: str
    sha256: str


class SchemaOld(StoreError):
    """The database has not the tables that this bridge needs yet."""

    def __init__(self, version: int, needed: int) -> None:
        found = f"at version {version}" if version else "empty"
        super().__init__(
            f"The database is {found}, this bridge needs version {needed}: "
            "`kwb migrate` or the worker brings it there.",
            hint="An ingest process never migrates; it answers through Kafka alone until the tables are there.",
        )


def migrations() -> list[Migration]:
    """All that this version of the bridge knows, in order."""
    found = []
    for file in files(__package__).joinpath("migrations").iterdir():
        if match := _FILE.fullmatch(file.name):
            sql = file.read_text(encoding="utf-8")
            found.append(Migration(int(match[1]), match[2], sql, hashlib.sha256(sql.encode()).hexdigest()))
    found.sort(key=lambda migration: migration.version)
    assert [m.version for m in found] == list(range(1, len(found) + 1)), "migrations must be numbered without a gap"
    return found


async def migrate(store: Store) -> list[Migration]:
    """Bring the database up to date; what was applied now. Does nothing, quickly, when there is nothing to do.

    A database that is newer is left as it is: a release that is taken back finds what it needs (see `check`). Raises
    StoreError when the database was migrated by an altered file.
    """
    applied: list[Migration] = []
    for migration in migrations():
        doing = "migrating the database"
        async with store.connection(doing, timeout_ms=TIMEOUT_MS) as connection, connection.transaction():
            await connection.execute(QUERIES["migrations_lock"], _LOCK)
            await connection.execute(QUERIES["migrations_table"])
            there = {row["version"]: dict(row) for row in await connection.fetch(QUERIES["migrations_applied"])}
            _check_files(there)
            if migration.version in there:
                continue
            await connection.execute(migration.sql)
            await connection.execute(QUERIES["migrations_record"], migration.version, migration.name, migration.sha256)
        applied.append(migration)
        logs.get_logger("store").info("migration applied", version=migration.version, migration=migration.name)
    return applied


async def check(store: Store) -> int:
    """The version of a database that has every table which this bridge needs; it migrates nothing.

    A later version is right too: what a migration adds is no harm to the bridge before it (deploy-rules.md 27).
    Raises SchemaOld while tables are missing, StoreError as `migrate` does for altered files.
    """
    async with store.connection("looking at its tables", timeout_ms=store.settings.connect_timeout_ms) as connection:
        if await connection.fetchval(QUERIES["migrations_there"]):
            there = {row["version"]: dict(row) for row in await connection.fetch(QUERIES["migrations_applied"])}
        else:
            there = {}
    wanted = {migration.version for migration in migrations()}
    _check_files(there)
    version: int = max(there, default=0)
    if not wanted <= there.keys():
        raise SchemaOld(version, max(wanted))
    return version


def _check_files(there: Mapping[int, Mapping[str, Any]]) -> None:
    known = {migration.version: migration for migration in migrations()}
    for version, row in there.items():
        if version in known and row["sha256"] != known[version].sha256:
            raise StoreError(
                f"Migration {version} ({row['name']}) was applied from another file than this bridge has.",
                hint="Use a released version of the bridge; an applied migration is never edited.",
            )
