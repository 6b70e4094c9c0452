"""`kwb migrate`: bring the database up to date, once, before the bridge is started or upgraded (deploy-rules.md 27)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from kafka_webhook_bridge.cli.output import Json, Output
from kafka_webhook_bridge.times import seconds

if TYPE_CHECKING:
    from kafka_webhook_bridge.settings import Settings
    from kafka_webhook_bridge.store.migrate import Migration

_PAUSE_S = 0.5


def register(app: typer.Typer) -> None:
    @app.command()
    def migrate(
        wait: Annotated[str, typer.Option(help="How long to wait for a PostgreSQL that does not answer yet.")] = "60s",
        json: Json = False,
    ) -> None:
        """Bring PostgreSQL's tables up to date. Needs DATABASE_URL alone; does nothing where nothing is to be done.

        Several at once are no harm: one works, the others wait for it. A bridge of the version before goes on.
        """
        run(Output(json=json), wait_s=seconds("--wait", wait))


def run(out: Output, *, wait_s: float) -> None:
    import asyncio

    from kafka_webhook_bridge.settings import load_settings
    from kafka_webhook_bridge.store.migrate import migrations

    applied, version = asyncio.run(_migrate(load_settings(), wait_s, out))
    known = migrations()[-1].version
    out.data({"version": version, "applied": [{"version": m.version, "name": m.name} for m in applied]})
    for migration in applied:
        out.say(f"{migration.version:04d}  {migration.name}")
    done = f"{len(applied)} migration{'s'[: len(applied) != 1]} applied" if applied else "Nothing to do"
    later = f", later than the {known} that this bridge knows; it goes on with it" if version > known else ""
    out.say(f"{done}: the database is at version {version}{later}.", "bold green")


async def _migrate(settings: Settings, wait_s: float, out: Output) -> tuple[list[Migration], int]:
    """What was applied, and the database's version.

    Raises StoreError at once for a refusal, and when PostgreSQL still does not answer after `wait_s`.
    """
    import asyncio

    from kafka_webhook_bridge.errors import StoreError
    from kafka_webhook_bridge.store import Store, migrate
    from kafka_webhook_bridge.store.errors import may_pass
    from kafka_webhook_bridge.store.migrate import check

    deadline = time.monotonic() + wait_s
    told = ""
    async with Store(settings.store) as store:
        while True:
            try:
                await store.ping()  # it alone is asked again: a migration that failed is not tried for a minute
                break
            except StoreError as error:
                if not may_pass(error) or time.monotonic() >= deadline:
                    raise
                if error.message != told:
                    told = error.message
                    out.note(f"Waiting for PostgreSQL: {error.message}")
            await asyncio.sleep(_PAUSE_S)
        return await migrate(store), await check(store)
