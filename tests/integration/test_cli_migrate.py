"""`kwb migrate`, and an ingest beside a database that is older or newer than it (deploy-rules.md 27)."""

from __future__ import annotations

import importlib
import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

from bridge import WAIT_S, Serve, eventually, request
from databases import migrate_database, rows
from kafka_webhook_bridge.kafka.admin import Admin
from kafka_webhook_bridge.stack import Stack
from kafka_webhook_bridge.store.migrate import migrations

migrate_module = importlib.import_module("kafka_webhook_bridge.store.migrate")
NEWEST = migrations()[-1].version
TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
NEXT_RELEASE = f"""
CREATE TABLE of_the_next_release (id integer);
ALTER TABLE outbox ADD COLUMN of_the_next_release text;
INSERT INTO kwb_migrations VALUES ({NEWEST + 1}, 'of_the_next_release', 'x', now())
"""


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "kafka_webhook_bridge.cli", "migrate", *arguments]


def migrate(database: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command with nothing but DATABASE_URL."""
    return subprocess.run(
        command(*arguments), env={"PATH": os.defpath, "DATABASE_URL": database},
        capture_output=True, text=True, timeout=WAIT_S + 30, check=False,
    )  # fmt: skip


def execute(database: str, script: str) -> None:
    for statement in script.split(";"):
        rows(database, statement)


def ingest(stack: Stack, folder: Path, database: str, topic: str, role: str = "ingest") -> Serve:
    environ = {**stack.environ(), "DATABASE_URL": database}
    environ["KWB_CONFIG"] = f"sources: {{s: {{auth: none, topic: {topic}}}}}"
    return Serve(environ, folder, "--role", role)


def postgres(server: Serve) -> dict[str, str]:
    part: dict[str, str] = server.health()[1]["parts"]["postgres"]
    return part


def stored(server: Serve) -> Any:
    answer = server.ask(request("/s", b"{}"))
    return answer.json.get("stored") if answer.status < 300 else None


def test_rule_27_migrates_once_and_says_what_it_did(database: str) -> None:
    first = migrate(database, "--json")
    assert (first.returncode, first.stderr) == (0, "")
    expected = [{"version": m.version, "name": m.name} for m in migrations()]
    assert json.loads(first.stdout) == {"version": NEWEST, "applied": expected}
    again = migrate(database, "--json")
    assert (again.returncode, json.loads(again.stdout)) == (0, {"version": NEWEST, "applied": []})
    assert migrate(database).stdout == f"Nothing to do: the database is at version {NEWEST}.\n"


def test_rule_27_of_several_at_once_one_migrates(database: str) -> None:
    environ = {"PATH": os.defpath, "DATABASE_URL": database}
    running = [subprocess.Popen(command("--json"), env=environ, stdout=subprocess.PIPE) for _ in range(3)]
    outputs = [process.communicate(timeout=WAIT_S + 30)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    applied = [m["version"] for output in outputs for m in json.loads(output)["applied"]]
    assert sorted(applied) == [m.version for m in migrations()]


def test_it_waits_for_a_postgresql_that_is_not_up_yet(database: str) -> None:
    """A port that refuses at first, and later leads to the server."""
    behind = database.rpartition("@")[2].partition("/")[0]
    with socket.socket() as front:
        front.bind(("127.0.0.1", 0))
        port = front.getsockname()[1]
        url = database.replace(behind, f"127.0.0.1:{port}")
        process = subprocess.Popen(
            command("--wait", "2m"), env={"PATH": os.defpath, "DATABASE_URL": url},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stderr is not None
        assert process.stderr.readline().startswith("Waiting for PostgreSQL: ")
        front.listen()
        host, _, real = behind.partition(":")
        threading.Thread(target=_forward, args=(front, (host, int(real))), daemon=True).start()
        output, _ = process.communicate(timeout=WAIT_S + 60)
    assert process.returncode == 0
    assert f"the database is at version {NEWEST}." in output


def _forward(front: socket.socket, behind: tuple[str, int]) -> None:
    while True:
        try:
            near, _ = front.accept()
        except OSError:
            return
        far = socket.create_connection(behind)
        for source, target in ((near, far), (far, near)):
            threading.Thread(target=_pump, args=(source, target), daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with closing(target):
        try:
            while data := source.recv(65_536):
                target.sendall(data)
        except OSError:
            pass


def test_what_waiting_does_not_mend_is_told_at_once(database: str) -> None:
    """A wrong password, wrong use: none waits for `--wait`, or the time-out ends the test."""
    user = database.partition("://")[2].partition(":")[0]
    wrong = f"postgresql://{user}:wrong-canary@{database.rpartition('@')[2]}"
    refused = migrate(wrong, "--wait", "1h", "--json")
    assert refused.returncode == 1
    assert "wrong-canary" not in refused.stdout + refused.stderr
    assert "password" in json.loads(refused.stderr)["error"]["hint"]

    assert migrate("", "--json").returncode == 2
    assert migrate(database, "--wait", "soon").returncode == 2


def test_rule_27_a_release_that_is_taken_back_goes_on_with_the_later_tables(database: str) -> None:
    assert migrate(database).returncode == 0
    execute(database, NEXT_RELEASE)
    newer = migrate(database)
    assert newer.returncode == 0
    assert f"at version {NEWEST + 1}, later than the {NEWEST} that this bridge knows" in " ".join(newer.stdout.split())


def test_it_gives_up_after_the_wait() -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        done = migrate(f"postgresql://kwb:x@127.0.0.1:{nobody.getsockname()[1]}/kwb", "--wait", "1s")
    assert done.returncode == 1
    assert "Is PostgreSQL up" in done.stderr


def test_rule_27_ingest_serves_with_the_schema_of_the_next_release(
    stack: Stack, folder: Path, database: str, topic: str
) -> None:
    assert migrate(database).returncode == 0
    execute(database, NEXT_RELEASE)
    server = ingest(stack, folder, database, topic)
    try:
        server.wait_ready()
        eventually(lambda: postgres(server)["status"] == "ready", "PostgreSQL")
        (line,) = server.said("the database is of a later version")
        assert (line["version"], line["known"]) == (NEWEST + 1, NEWEST)
        eventually(lambda: stored(server) in ("kafka", "both"), "served")
    finally:
        assert server.stop() == 0


def test_rule_27_a_worker_goes_on_with_the_schema_of_the_next_release_and_leaves_it_as_it_is(
    stack: Stack, folder: Path, database: str, topic: str
) -> None:
    assert migrate(database).returncode == 0
    execute(database, NEXT_RELEASE)
    versions = "SELECT version, sha256 FROM kwb_migrations ORDER BY version"
    before = rows(database, versions)
    server = ingest(stack, folder, database, topic, "worker")
    try:
        eventually(lambda: server.said("the database is of a later version"), "it has looked")
        eventually(lambda: server.health(server.management_port)[0] == 200, "it works")
        assert rows(database, versions) == before
    finally:
        assert server.stop() == 0


def test_rule_27_ingest_never_migrates_and_serves_through_kafka_meanwhile(
    stack: Stack, folder: Path, database: str, topic: str
) -> None:
    """The database of the release before."""
    with mock.patch.object(migrate_module, "migrations", return_value=migrations()[:-1]):
        migrate_database(database)
    before = rows(database, TABLES)
    server = ingest(stack, folder, database, topic)
    try:
        server.wait_ready()
        eventually(lambda: server.said("waiting for the tables"), "it has looked")
        eventually(lambda: stored(server) == "kafka", "Kafka alone answers")
        status, body = server.health()
        assert (status, body["status"]) == (200, "degraded")
        why = (
            f"The database is at version {NEWEST - 1}, this bridge needs version {NEWEST}: "
            "`kwb migrate` or the worker brings it there."
        )
        assert body["parts"]["postgres"] == {"status": "unavailable", "reason": why}
        assert rows(database, TABLES) == before

        worker = ingest(stack, folder, database, topic, "worker")
        try:
            eventually(lambda: postgres(server)["status"] == "ready", "the worker's tables")
            eventually(lambda: rows(database, "SELECT 1 FROM events"), "and its archive")
        finally:
            assert worker.stop() == 0
    finally:
        assert server.stop() == 0


def test_rules_10_and_11_in_an_empty_database_topics_that_exist_are_used_and_none_is_made(
    stack: Stack, folder: Path, database: str, topic: str
) -> None:
    """What is made must be on record first. The others wait, and health and the log say for what."""
    admin = Admin(stack.kafka.settings)
    admin.ensure_topic(topic, 1_000_000)
    new = f"{topic}-new"
    environ = {**stack.environ(), "DATABASE_URL": database, "KWB_BRIDGE_OPEN_RULE": "true"}
    environ["KWB_CONFIG"] = f"sources: {{s: {{auth: none, topic: {topic}}}, n: {{auth: none, topic: {new}}}}}"
    server = Serve(environ, folder, "--role", "ingest")
    try:
        server.wait_ready()
        eventually(lambda: stored(server) == "kafka", "the topic that exists is used")
        assert server.ask(request("/n", b"{}")).status == 503
        assert server.ask(request(f"/{topic}-open", b"{}")).status == 503
        status, body = eventually(lambda: "topics" in (found := server.health())[1]["parts"] and found, "the reason")
        assert (status, body["status"]) == (200, "degraded")
        assert body["parts"]["topics"]["status"] == "degraded"
        reason = body["parts"]["topics"]["reason"]
        assert new in reason
        assert "`kwb migrate`" in reason
        assert "`kwb migrate`" in body["parts"]["postgres"]["reason"]
        assert any("`kwb migrate`" in line["hint"] for line in server.said("topic not checked"))
        assert set(admin.describe([topic, new, f"{topic}-open"])) == {topic}
        assert rows(database, TABLES) == []

        assert migrate(database).returncode == 0
        eventually(lambda: server.ask(request("/n", b"{}")).status == 200, "the other is made")
        eventually(lambda: server.health()[1]["status"] == "ready", "nothing waits any more")
        assert server.ask(request(f"/{topic}-open", b"{}")).status == 200
    finally:
        assert server.stop() == 0


def test_the_probe_of_a_real_bridge(stack: Stack, folder: Path, topic: str, database: str) -> None:
    """As Compose runs it, for each role; after the bridge has ended it says so."""
    for role in ("ingest", "worker"):
        server = ingest(stack, folder, database, topic, role)
        probe = [sys.executable, "-m", "kafka_webhook_bridge.health", "--port", str(server.management_port)]
        try:
            for path in ("/health/live", "/health/ready"):
                asked = [*probe, "--path", path]
                eventually(lambda asked=asked: subprocess.run(asked, capture_output=True).returncode == 0, path)
        finally:
            assert server.stop() == 0
        done = subprocess.run(probe, capture_output=True, text=True, timeout=WAIT_S, check=False)
        assert done.returncode == 1
        assert "does not answer" in done.stdout
