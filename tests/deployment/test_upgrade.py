"""Each step of docs/howto/upgrade.md from the data of the step before (deploy-rules.md 31)."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from bridge import WAIT_S, Serve, consume, eventually, request
from databases import migrate_database, rows
from kafka_webhook_bridge import ids
from kafka_webhook_bridge.stack import Kafka, Postgres, Stack
from kafka_webhook_bridge.stack.files import write_private
from kafka_webhook_bridge.stack.kafka import tool
from kafka_webhook_bridge.stack.postgres import major_of, wheel
from kafka_webhook_bridge.store.migrate import migrations

migrate_module = importlib.import_module("kafka_webhook_bridge.store.migrate")
NEWEST = migrations()[-1].version
OLD_LEVEL, OLD_POSTGRES = "4.0", Path("/usr/lib/postgresql/15/bin")
EVENT = """
INSERT INTO events (event_id, received_at, source, type, method, path, headers, body, body_json, key, verified,
                    covers_body, format, topic, topic_id, partition, "offset")
VALUES ($1, $2, 'shop', 'orders/paid', 'POST', '/shop', '[["host", "x"]]', $3, $4, $5, 'basic', false, 'raw',
        'shop', $1, 0, 7)
"""
OUTBOX = """
INSERT INTO outbox (event_id, source, topic, value, headers, size_bytes, relay_after)
VALUES ($1, 'shop', 'shop', '\\x00ff', '[]', 4, now())
"""


def kwb(database: str, *arguments: str) -> Any:
    """What the command says in JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "kafka_webhook_bridge.cli", *arguments, "--json"],
        env={"PATH": os.defpath, "DATABASE_URL": database, "KWB_STORE_CONNECT_TIMEOUT_MS": "30000"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def new_id() -> uuid.UUID:
    now = ids.floor(ids.milliseconds(datetime.now(UTC))).int
    return uuid.UUID(int=now | 0x7 << 76 | 0x2 << 62 | int.from_bytes(os.urandom(7)))


@pytest.mark.parametrize("version", range(1, NEWEST))
def test_rule_31_schema_rows_of_each_version_are_there_and_found_after_kwb_migrate(version: int, database: str) -> None:
    """The statements name the columns of the first version, which no later one may take away."""
    with mock.patch.object(migrate_module, "migrations", return_value=migrations()[:version]):
        migrate_database(database)
    events = [new_id() for _ in range(3)]
    for number, event_id in enumerate(events):
        body = json.dumps({"order": number})
        rows(database, EVENT, event_id, ids.moment(ids.time_ms(event_id)), body.encode(), body, str(number))
    if version >= 2:
        rows(database, OUTBOX, events[0])
    rows(database, "INSERT INTO archive_offsets VALUES ($1, 0, 'shop', 8)", events[0])

    applied = kwb(database, "migrate")["applied"]
    assert [m["version"] for m in applied] == list(range(version + 1, NEWEST + 1))
    found = kwb(database, "events", "search", "--source", "shop", "--type", "orders/paid")["events"]
    assert [event["event_id"] for event in found] == sorted(map(str, events), reverse=True)
    (one,) = kwb(database, "events", "search", "--json-contains", '{"order": 1}', "--key", "1")["events"]
    assert one["event_id"] == str(events[1])
    assert [bytes(row[0]) for row in rows(database, "SELECT value FROM outbox")] == [b"\x00\xff"] * (version >= 2)
    assert [row[0] for row in rows(database, "SELECT next_offset FROM archive_offsets")] == [8]


class KafkaOfBefore(Kafka):
    """A data folder as an older Kafka formats it, which its newer self goes on using."""

    def _java(self, classpath: list[Path], main: str, *arguments: str) -> list[str]:
        level = ("--release-version", OLD_LEVEL) if "format" in arguments else ()
        return super()._java(classpath, main, *arguments, *level)


@pytest.fixture
def older_kafka(folder: Path) -> Iterator[Kafka]:
    kafka = KafkaOfBefore(folder / "kafka")
    kafka.start()
    yield kafka
    kafka.destroy()


def features(kafka: Kafka, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`kafka-features.sh`."""
    config = folder / "features.properties"
    login = f'username="{kafka.username}" password="{kafka.password}"'
    write_private(
        config,
        "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\n"
        f"sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required {login};\n",
    )
    command = ("--bootstrap-server", kafka.bootstrap, "--command-config", str(config), *arguments)
    return subprocess.run(
        tool("org.apache.kafka.tools.FeatureCommand", *command), capture_output=True, text=True, timeout=90, check=False
    )


def level(kafka: Kafka, folder: Path) -> str:
    said = features(kafka, folder, "describe").stdout
    found = re.search(r"metadata\.version .*FinalizedVersionLevel: (\S+)", said)
    assert found, said
    return found[1]


@contextlib.contextmanager
def ingest(folder: Path, environ: dict[str, str], role: str = "ingest") -> Iterator[Serve]:
    server = Serve(environ, folder, "--role", role)
    try:
        yield server.wait_ready() if role == "ingest" else server
    except BaseException:
        print(server.log.read_text()[-6000:])
        raise
    finally:
        server.process.terminate()
        server.process.wait(WAIT_S)


def test_rule_31_kafka_records_outlive_the_rise_of_the_feature_level(
    older_kafka: Kafka, folder: Path, topic: str
) -> None:
    """Raised while a bridge sends; after it there is no way back, and the broker starts anew."""
    kafka = older_kafka
    environ = {
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap, "KAFKA_USERNAME": kafka.username, "KAFKA_PASSWORD": kafka.password,
        "KWB_KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT", "KWB_KAFKA_SASL_MECHANISM": "PLAIN",
        "KWB_CONFIG": f"sources: {{s: {{auth: none, topic: {topic}}}}}",
    }  # fmt: skip
    with ingest(folder, environ) as server:
        sent: list[bytes] = []

        def send() -> bool:
            body = b"%d" % len(sent)
            if server.ask(request("/s", body)).status != 200:
                return False
            sent.append(body)
            return True

        def send_some() -> None:
            for _ in range(20):
                eventually(send, "accepted")

        send_some()
        before = level(kafka, folder)
        assert before.startswith(f"{OLD_LEVEL}-")
        raised = features(kafka, folder, "upgrade", "--release-version", "4.4")
        assert raised.returncode == 0, raised.stdout + raised.stderr
        assert level(kafka, folder).startswith("4.4-")
        send_some()
        for unsafe in ((), ("--unsafe",)):
            back = features(kafka, folder, "downgrade", "--release-version", OLD_LEVEL, *unsafe)
            assert back.returncode == 1
            assert "Unsupported metadata.version downgrade" in back.stdout
        kafka.stop()
        kafka.start()
        send_some()
        assert level(kafka, folder).startswith("4.4-")
        assert sorted(m.value for m in consume(kafka, topic, len(sent))) == sorted(sent)
        assert len(sent) == 60


@pytest.mark.skipif(not (OLD_POSTGRES / "pg_dump").exists(), reason="NOT RUN: PostgreSQL 15 is not installed here")
def test_rule_31_postgresql_15_is_dumped_and_restored_into_the_newest_while_kafka_answers(
    stack: Stack, folder: Path, topic: str
) -> None:
    old = Postgres(folder / "old", binaries=OLD_POSTGRES)
    new = Postgres(folder / "new", port=old.port)
    try:
        old.start()
        environ = {
            **stack.environ(), "DATABASE_URL": old.url, "KWB_ARCHIVE_TOPIC_CHECK_MS": "500",
            "KWB_CONFIG": f"sources: {{s: {{auth: none, topic: {topic}}}}}",
        }  # fmt: skip
        sent: set[str] = set()

        def archived() -> bool:
            return {str(row[0]) for row in rows(old.url, "SELECT event_id FROM events")} == sent

        assert kwb(old.url, "migrate")["version"] == NEWEST
        with ingest(folder, environ) as server:

            def send(count: int) -> None:
                for number in range(count):
                    answer = eventually(
                        lambda n=number: (a := server.ask(request("/s", b'{"n":%d}' % n))).status == 200 and a, "200"
                    )
                    sent.add(answer.json["event_id"])

            def stored() -> Any:
                answer = server.ask(request("/s", b'{"n":0}'))
                if answer.status == 200:
                    sent.add(answer.json["event_id"])
                return answer.status == 200 and answer.json["stored"]

            with ingest(folder, environ, "worker"):
                send(10)
                eventually(archived, "archived in PostgreSQL 15")
            # The steps of the page. The bridge's role is refused first: nothing is written behind the dump's back.
            ends = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'kwb'"
            run(OLD_POSTGRES / "psql", admin(old), "-c", "ALTER ROLE kwb NOLOGIN", "-c", ends)
            eventually(lambda: server.health()[1]["parts"]["postgres"]["status"] == "unavailable", "refused")
            eventually(lambda: stored() == "kafka", "Kafka answers alone")
            send(5)
            dump = folder / "kwb.dump"
            run(OLD_POSTGRES / "pg_dump", "--format=custom", "--no-owner", f"--file={dump}", admin(old))
            old.stop()
            send(5)
            secrets = folder / "new" / "secrets.json"
            secrets.parent.mkdir(mode=0o711)
            shutil.copy(folder / "old" / "secrets.json", secrets)
            new.start()
            run(
                wheel() / "bin" / "pg_restore", "--exit-on-error", "--single-transaction", "--no-owner",
                f"--dbname={admin(new)}", dump, "--role=kwb",
            )  # fmt: skip
            assert major_of(wheel() / "bin") == "18"
            assert kwb(new.url, "migrate")["applied"] == []
            eventually(lambda: server.health()[1]["status"] == "ready", "PostgreSQL 18 is taken")
            assert len(kwb(new.url, "events", "search", "--source", "s", "--limit", "100")["events"]) == 10
            with ingest(folder, environ, "worker"):
                eventually(archived, "the archive has caught up")
        found = kwb(new.url, "events", "search", "--source", "s", "--limit", "100")["events"]
        assert {event["event_id"] for event in found} == sent
        assert len(sent) >= 21
        assert kwb(new.url, "events", "search", "--json-contains", '{"n": 9}')["events"]
    finally:
        old.destroy()
        new.destroy()


def admin(postgres: Postgres) -> str:
    """The super user in the bridge's database."""
    return postgres.admin_url.rpartition("/")[0] + "/kwb"


def run(program: Path, *arguments: object) -> None:
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
