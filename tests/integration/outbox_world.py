"""A bridge with a database, servers that a test stops, and what is in the tables."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg

import bridge
from bridge import Serve, eventually, request, serving, total
from databases import rows
from kafka_webhook_bridge.stack import Stack

# Long enough for a machine that has other things to do; the tests move the clock of the bridge.
KAFKA_WAIT_S, DEADLINE_S = 30, 60
PATIENT = {**bridge.PATIENT, "KWB_DELIVER_OUTBOX_WAIT_MS": "20000"}


def outbox(database: str) -> dict[str, Any]:
    """Rows of the outbox by event id."""
    return {str(row["event_id"]): row for row in rows(database, "SELECT * FROM outbox")}


def states(database: str) -> dict[str, str]:
    """The state of each event by its id."""
    return {str(row[0]): row[1] for row in rows(database, "SELECT event_id, state FROM events")}


@contextlib.contextmanager
def frozen(*pids: int) -> Iterator[None]:
    """Processes that keep their connections and say nothing."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def backends(database: str) -> list[int]:
    """Pids of the bridge's sessions in this database."""
    sql = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'kwb'"
    return [row[0] for row in rows(database, sql)]


@contextlib.contextmanager
def kafka_killed(stack: Stack) -> Iterator[None]:
    stack.kafka.kill()
    try:
        yield
    finally:
        stack.kafka.start()


@contextlib.contextmanager
def locked(database: str) -> Iterator[Any]:
    """The outbox's table locked: statements that write it wait. Call what is yielded to let them go."""
    loop = asyncio.new_event_loop()
    connection = loop.run_until_complete(asyncpg.connect(database))
    loop.run_until_complete(connection.execute("BEGIN; LOCK TABLE outbox IN EXCLUSIVE MODE"))

    def let_go() -> None:
        if not connection.is_closed():
            loop.run_until_complete(connection.close())

    try:
        yield let_go
    finally:
        let_go()
        loop.close()


def waiting_statements(database: str) -> int:
    """Statements of the bridge that wait for a lock."""
    sql = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'kwb' "
        "AND wait_event_type = 'Lock'"
    )
    return int(rows(database, sql)[0][0])


@contextlib.contextmanager
def bridging(
    stack: Stack, folder: Path, database: str, config: str, *, ready_for: str = "/s", **environ: str
) -> Iterator[Serve]:
    """A bridge with an outbox, ready to write it, whose `ready_for` Kafka has taken."""
    with serving(stack, folder, config=config, **{"DATABASE_URL": database, **PATIENT, **environ}) as server:
        eventually(lambda: server.health()[1]["parts"]["postgres"]["status"] == "ready", "PostgreSQL")
        if ready_for:
            eventually(lambda: _stored(server, ready_for) in ("kafka", "both"), "served by Kafka")
            rows(database, "DELETE FROM outbox")  # of before
        yield server


class Grown:
    """What metrics have grown by since this was made."""

    def __init__(self, server: Serve) -> None:
        self._server = server
        self._before = server.scrape()

    def __call__(self, name: str, **labels: str) -> float:
        return self._server.total(name, **labels) - total(self._before, name, **labels)


def _stored(server: Serve, path: str) -> str:
    answer = server.ask(request(path, b"first"))
    return answer.json["stored"] if answer.status == 200 else ""


def balanced(server: Serve) -> bool:
    """Rules.md 17."""
    balance = server.balance()
    return balance.pop("received") == sum(balance.values())
