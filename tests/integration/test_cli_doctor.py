"""`kwb doctor` on real servers that are well, and on each thing that may be wrong."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import confluent_kafka.admin
import pytest
from pydantic import SecretStr

from bridge import Serve, eventually
from kafka_webhook_bridge.cli import checks
from kafka_webhook_bridge.kafka.admin import Admin, Broker, Cluster
from kafka_webhook_bridge.kafka.config import client_config, record_bytes_limit
from kafka_webhook_bridge.settings import StoreSettings
from kafka_webhook_bridge.sources.config import load_configuration
from kafka_webhook_bridge.stack import Stack
from kafka_webhook_bridge.stack.ports import free_ports
from kafka_webhook_bridge.store import Store, migrate
from kafka_webhook_bridge.store.coordination import record_topic

CANARY = "canary-2b7d"


class Examined:
    """What one run said."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code = done.returncode
        self.found: dict[str, Any] = json.loads(done.stdout)
        assert done.stderr == ""
        assert CANARY not in done.stdout
        assert all(check["todo"] for check in self.found["checks"] if check["status"] in {"warn", "fail"}), "no way out"

    def status(self, name: str) -> str:
        """The worst of the checks of that name."""
        return max(
            (c["status"] for c in self.found["checks"] if c["name"] == name), key=["ok", "skip", "warn", "fail"].index
        )

    def words(self, name: str) -> str:
        return "\n".join(f"{c['found']} → {c['todo']}" for c in self.found["checks"] if c["name"] == name)

    def failed(self) -> set[str]:
        return {check["name"] for check in self.found["checks"] if check["status"] == "fail"}


def run(environ: dict[str, str], *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "kafka_webhook_bridge.cli", "doctor", *arguments],
        env={"COLUMNS": "200", **environ}, cwd=cwd, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done


def doctor(environ: dict[str, str], *arguments: str) -> Examined:
    return Examined(run(environ, "--json", *arguments))


@pytest.fixture
def environ(stack: Stack, database: str, topic: str) -> dict[str, str]:
    """A right configuration with one source, on free ports."""
    ingest, management = free_ports(2)
    return {
        **stack.environ(), "DATABASE_URL": database, "WEBHOOK_USERNAME": "hooks", "WEBHOOK_PASSWORD": CANARY,
        "KWB_CONFIG": f"sources: {{shop: {{topic: {topic}}}}}",
        "KWB_INGEST_PORT": str(ingest), "KWB_MANAGEMENT_PORT": str(management),
        "KWB_INGEST_CONNECTIONS_MAX": "10",
    }  # fmt: skip


def record(url: str, topic: str) -> None:
    """As the bridge does before it makes a topic."""

    async def put() -> None:
        async with Store(StoreSettings(url=SecretStr(url))) as store:
            await migrate(store)
            await record_topic(store, topic, str(uuid.uuid4()), "source")

    asyncio.run(put())


def test_before_the_first_start_all_is_well(environ: dict[str, str], topic: str, stack: Stack) -> None:
    found = doctor(environ, "--write")
    assert (found.code, found.found["ok"], found.failed()) == (0, True, set())
    assert found.words(f"topic {topic}").startswith("will be made at the start of the bridge")
    assert "version 0 of" in found.words("postgresql.schema")
    assert found.words("kafka.creation").startswith("the bridge may make topics")
    assert found.words("kafka.write").startswith("acknowledged in ")
    assert {found.status("kafka.clock"), found.status("postgresql.clock")} == {"ok"}
    assert "is free; no bridge runs there" in found.words("port.ingest")
    assert found.found["durability"] == {
        "kafka": "one broker, on disk before the ack (of topics to be made)",
        "postgresql": "on disk at commit",
    }
    assert not [name for name in Admin(stack.kafka.settings).list_topics() if name.startswith("kwb-doctor-")]


def test_beside_a_worker_the_ingest_port_is_not_called_free(environ: dict[str, str], folder: Path) -> None:
    """As in its container, where a whole bridge may run around it."""
    worker = Serve(environ, folder, "--role", "worker")
    try:

        def ready() -> bool:
            with contextlib.suppress(OSError, http.client.HTTPException):
                return worker.health(worker.management_port)[0] == 200
            return False

        eventually(ready, "the worker is ready")
        found = doctor(environ)
        assert found.code == 0
        assert found.words("port.ingest") == (
            f"nothing listens on 127.0.0.1:{worker.port}: the bridge that runs here takes no webhooks → "
        )
        assert found.words("port.management").startswith("a bridge answers")
    finally:
        worker.stop()


def test_for_people_it_says_what_an_acknowledgement_means(environ: dict[str, str]) -> None:
    done = run(environ)
    assert (done.returncode, done.stderr) == (0, "")
    _, _, end = done.stdout.partition("A webhook answered 2xx is\n")
    assert end.splitlines()[0].split(maxsplit=1) == [
        "kafka",
        "one broker, on disk before the ack (of topics to be made)",
    ]
    assert end.splitlines()[1].split(maxsplit=1) == ["postgresql", "on disk at commit"]


def test_kafka_is_down(environ: dict[str, str]) -> None:
    found = doctor({**environ, "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}, "--write")
    assert found.code == 1
    assert found.failed() == {"kafka"}
    assert "KAFKA_BOOTSTRAP_SERVERS" in found.words("kafka")
    assert {found.status(name) for name in ("kafka.creation", "topics", "kafka.write", "archive")} == {"skip"}
    assert found.status("postgresql") == "ok"
    assert found.found["durability"]["kafka"] == "unknown: Kafka was not reached"


def test_postgresql_is_down(environ: dict[str, str]) -> None:
    found = doctor({**environ, "DATABASE_URL": f"postgresql://kwb:{CANARY}@127.0.0.1:1/kwb"})
    assert (found.code, found.failed()) == (1, {"postgresql"})
    assert "DATABASE_URL" in found.words("postgresql")
    assert found.status("kafka") == "ok"
    assert found.found["durability"]["postgresql"] == "unknown: PostgreSQL was not reached"


def test_wrong_passwords_on_both_sides(environ: dict[str, str]) -> None:
    url = environ["DATABASE_URL"]
    login, _, rest = url.rpartition("@")
    wrong = f"{login.rpartition(':')[0]}:{CANARY}@{rest}"
    found = doctor({**environ, "KAFKA_PASSWORD": CANARY, "DATABASE_URL": wrong})
    assert (found.code, found.failed()) == (1, {"kafka", "postgresql"})
    assert "KAFKA_PASSWORD" in found.words("kafka")
    assert "password in DATABASE_URL" in found.words("postgresql")


def test_a_database_that_is_not_there(environ: dict[str, str]) -> None:
    found = doctor({**environ, "DATABASE_URL": environ["DATABASE_URL"] + "_no"})
    assert found.failed() == {"postgresql"}
    assert "Make the database" in found.words("postgresql")


def test_without_postgresql_it_warns(environ: dict[str, str]) -> None:
    found = doctor({name: value for name, value in environ.items() if name != "DATABASE_URL"})
    assert (found.code, found.status("postgresql"), found.status("archive")) == (0, "warn", "skip")
    assert found.found["durability"]["postgresql"] == "no archive: DATABASE_URL is not set"


def make_topic(stack: Stack, name: str, **settings: str) -> None:
    admin: Any = confluent_kafka.admin
    client = admin.AdminClient(client_config(stack.kafka.settings))
    client.create_topics([admin.NewTopic(name, 1, 1, config=settings)])[name].result(30)


def test_rule_9_a_topic_too_small_for_its_source(environ: dict[str, str], stack: Stack, topic: str) -> None:
    make_topic(stack, topic, **{"max.message.bytes": "500000"})
    found = doctor(environ)
    assert (found.code, found.failed()) == (1, {f"topic {topic}"})
    words = found.words(f"topic {topic}")
    assert "max.message.bytes=500000, but bodies of 1048576 bytes may need" in words
    assert "lower body_bytes_max to " in words
    limit = words.partition("lower body_bytes_max to ")[2].partition(";")[0]
    smaller = environ["KWB_CONFIG"].replace("topic:", f"body_bytes_max: {limit}, topic:")
    assert doctor({**environ, "KWB_CONFIG": smaller}).failed() == set()


def test_rule_9_brokers_too_small_for_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    """No broker here is so small, so this cluster is told of instead of asked."""
    small, hidden = Broker(1, "one:1", {"socket.request.max.bytes": "1000000"}), Broker(2, "two:2", None)

    class Told:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def cluster(self) -> Cluster:
            return Cluster("id", "one:1", (small, hidden), frozenset())

    monkeypatch.setattr(checks, "Admin", Told)
    configuration = {"KWB_CONFIG": "sources: {a: {auth: none}}", "KAFKA_BOOTSTRAP_SERVERS": "one:1"}
    found = list(checks.Doctor(*load_configuration(configuration))._kafka())
    assert [(check.name, check.status) for check in found] == [
        ("kafka", "ok"), ("kafka.brokers", "warn"), ("kafka.limits", "fail"), ("kafka.limits", "warn"),
    ]  # fmt: skip
    assert found[2].found == "one:1 takes requests of 1000000 bytes, records need 16777216"
    assert "Raise socket.request.max.bytes" in found[2].todo


def test_rule_10_a_topic_that_is_not_flushed_or_is_compacted(environ: dict[str, str], stack: Stack, topic: str) -> None:
    make_topic(stack, topic, **{"max.message.bytes": "16777216", "cleanup.policy": "compact", "retention.ms": "-1"})
    found = doctor(environ)
    words = found.words(f"topic {topic}")
    assert found.code == 0
    assert "in memory: lost with its power → Set flush.messages=1." in words
    assert "cleanup.policy=compact drops records by key" in words
    assert "retention.ms=-1 is longer than the archive keeps events" in words
    assert "message.timestamp.type=CreateTime (bridge: LogAppendTime)" in words
    assert found.found["durability"]["kafka"] == "one broker, in memory: lost with its power"


def test_rule_10_a_topic_that_existed_and_is_gone(environ: dict[str, str], topic: str) -> None:
    record(environ["DATABASE_URL"], topic)
    found = doctor(environ)
    assert (found.code, found.failed()) == (1, {f"topic {topic}"})
    assert "it existed and is gone" in found.words(f"topic {topic}")


def test_rule_7_events_in_kafka_alone_are_counted(environ: dict[str, str], stack: Stack, topic: str) -> None:
    Admin(stack.kafka.settings).ensure_topic(topic, record_bytes_limit(0))
    producer = confluent_kafka.Producer(client_config(stack.kafka.settings))
    for _ in range(3):
        producer.produce(topic, b"x")
    assert producer.flush(30) == 0
    found = doctor(environ)
    assert found.words("archive").startswith("3 records of 1 topics are in Kafka alone")


def test_a_port_of_another_program(environ: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        found = doctor({**environ, "KWB_INGEST_PORT": str(port)})
    assert (found.code, found.failed()) == (1, {"port.ingest"})
    assert f"another program has 127.0.0.1:{port}" in found.words("port.ingest")
    assert "KWB_INGEST_PORT" in found.words("port.ingest")


def test_an_address_of_another_machine(environ: dict[str, str]) -> None:
    found = doctor({**environ, "KWB_MANAGEMENT_HOST": "192.0.2.1"})
    assert found.status("port.management") in {"warn", "fail"}
    assert "KWB_MANAGEMENT_PORT" in found.words("port.management")


def test_too_few_open_files_are_a_warning(environ: dict[str, str]) -> None:
    found = doctor({**environ, "KWB_INGEST_CONNECTIONS_MAX": "100000000"})
    assert (found.code, found.status("files")) == (0, "warn")
    assert "ulimit -n" in found.words("files")


def test_the_disk_is_that_of_make_up_not_of_compose(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / ".kwb/compose").mkdir(parents=True)
    for embedded in (False, True):
        if embedded:
            (tmp_path / ".kwb/kafka").mkdir()
        done = run(environ, "--json", cwd=tmp_path)
        assert ("disk" in {check["name"] for check in json.loads(done.stdout)["checks"]}) == embedded


@pytest.mark.parametrize(("ahead_ms", "status"), [(0, "ok"), (-999, "ok"), (1_001, "warn"), (-60_001, "fail")])
def test_clocks_apart(ahead_ms: float, status: str) -> None:
    check = checks._clock("postgresql.clock", ahead_ms)
    assert check.status == status
    assert ("NTP" in check.todo) == (status != "ok")
    assert ("behind" in check.found) == (ahead_ms <= 0)


def test_a_wrong_configuration_is_told_whole(environ: dict[str, str]) -> None:
    wrong = {**environ, "KWB_INGEST_PROT": "1", "KWB_BRIDGE_OPEN_RULE": "true", "KWB_ARCHIVE_RETENTION_DAYS": "1"}
    found = doctor(wrong)
    assert (found.code, found.failed()) == (1, {"settings"})
    words = found.words("settings")
    assert "did you mean KWB_INGEST_PORT?" in words
    assert "KWB_ARCHIVE_RETENTION_DAYS: 1 days, but the topics keep 7" in words
    del wrong["DATABASE_URL"]
    assert "DATABASE_URL: is not set, but the open rule" in doctor(wrong).words("settings")
    people = run(wrong)
    assert people.returncode == 1
    assert "FAILED  settings" in people.stdout
    assert "→ Mend them" in people.stdout
