"""What the bridge claims of itself, against servers that keep what they acknowledge, and servers that do not."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import confluent_kafka.admin
import pytest

from bridge import Serve, eventually, request, serving
from kafka_webhook_bridge.event import Record
from kafka_webhook_bridge.kafka import producer
from kafka_webhook_bridge.kafka.admin import Admin
from kafka_webhook_bridge.kafka.config import client_config
from kafka_webhook_bridge.stack import Kafka, Postgres, Stack

OFTEN = {"KWB_INGEST_DURABILITY_CHECK_MS": "200"}


def alter(stack: Stack, topic: str, **settings: str) -> None:
    """Make the topic with these settings, or give it them."""
    admin: Any = confluent_kafka.admin
    client = admin.AdminClient(client_config(stack.kafka.settings))
    if topic not in Admin(stack.kafka.settings).list_topics():
        client.create_topics([admin.NewTopic(topic, 1, 1, config=settings)])[topic].result(30)
        return
    entries = [
        admin.ConfigEntry(name, value, incremental_operation=admin.AlterConfigOpType.SET)
        for name, value in settings.items()
    ]
    resource = admin.ConfigResource(admin.ResourceType.TOPIC, topic, incremental_configs=entries)
    for future in client.incremental_alter_configs([resource]).values():
        future.result(30)


def config(topic: str, more: str = "") -> str:
    return f"sources: {{s: {{auth: none, topic: {topic}{more}}}}}"


def part(server: Serve, name: str) -> dict[str, str]:
    return server.health()[1]["parts"].get(name, {"status": "ready", "reason": ""})


def test_rule_10_a_bridge_on_durable_places_says_so(stack: Stack, folder: Path, database: str, topic: str) -> None:
    with serving(stack, folder, config=config(topic), DATABASE_URL=database, **OFTEN) as server:
        eventually(lambda: server.health()[1]["status"] == "ready", "ready")
        assert part(server, "durability") == {"status": "ready", "reason": ""}
        assert "clocks" not in server.health()[1]["parts"]
        for place in ("kafka", "postgres"):
            assert server.total("kwb_durable", place=place) == 1
        eventually(lambda: server.ask(request("/s", b"x")).status == 200, "served")
        (line,) = eventually(lambda: server.said("acknowledged events are durable"), "told at the start")
        assert line["places"]["PostgreSQL"] == "flushed: on disk at commit"
        assert "flushed: one broker, on disk before the ack" in line["places"].values()


def test_rule_10_a_topic_that_is_not_flushed_is_degraded_until_it_is(
    stack: Stack, folder: Path, database: str, topic: str
) -> None:
    alter(stack, topic, **{"max.message.bytes": "500000"})
    with serving(stack, folder, config=config(topic), DATABASE_URL=database, **OFTEN) as server:
        words = f"Kafka, topic {topic}: one broker, in memory: lost with its power. Set flush.messages=1."
        eventually(lambda: part(server, "durability")["reason"] == words, "what to change")
        status, body = server.health()
        assert (status, body["status"]) == (200, "degraded")
        assert server.total("kwb_durable", place="kafka") == 0
        assert server.total("kwb_durable", place="postgres") == 1
        (line,) = eventually(lambda: server.said("acknowledged events are less safe than they should be"), "told")
        assert line["change"] == [words]
        assert "max.message.bytes=500000" in str(server.said("what sources take is bounded by their topics"))  # rule 9
        assert server.ask(request("/s", b"x" * 100_000)).status == 200  # it works on
        assert server.ask(request("/s", b"x" * 600_000)).status == 413
        alter(stack, topic, **{"flush.messages": "1"})
        eventually(lambda: server.health()[1]["status"] == "ready", "ready without a restart")
        assert server.total("kwb_durable", place="kafka") == 1
        eventually(lambda: server.said("acknowledged events are durable"), "told")


@pytest.fixture(scope="module")
def weak_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="kwb-weak-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("fsync", "NOT on disk at commit: fsync=off. Set fsync=on."),
        ("synchronous_commit", "NOT on disk at commit: synchronous_commit=off. Set synchronous_commit=on."),
    ],
)
def test_a_postgresql_that_may_forget_is_never_ready(
    stack: Stack, folder: Path, weak_folder: Path, topic: str, setting: str, words: str
) -> None:
    weak = Postgres(weak_folder / "postgres", options={setting: "off"})
    weak.start()
    try:
        with serving(stack, folder, config=config(topic), DATABASE_URL=weak.url, **OFTEN) as server:
            eventually(lambda: words in part(server, "durability")["reason"], "what to change")
            assert server.health()[1]["status"] == "degraded"
            assert server.total("kwb_durable", place="postgres") == 0
        environ = {**stack.environ(), "DATABASE_URL": weak.url, "KWB_CONFIG": config(topic), "PATH": os.defpath}
        done = subprocess.run(
            [sys.executable, "-m", "kafka_webhook_bridge.cli", "doctor"],
            env=environ, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert words.rpartition(". Set")[0] in done.stdout
        assert f"Set {setting}=on." in done.stdout
    finally:
        weak.stop()


def test_rule_9_no_record_is_larger_than_a_request_that_the_broker_takes(folder: Path, topic: str) -> None:
    """A larger one would make it cut the connection, and records of others would die with it."""
    small = Kafka(folder / "kafka", properties={"socket.request.max.bytes": "2000000"})
    small.start()
    try:
        stack: Any = SimpleNamespace(kafka=small, environ=lambda: {
            "KAFKA_BOOTSTRAP_SERVERS": small.bootstrap, "KAFKA_USERNAME": small.username,
            "KAFKA_PASSWORD": small.password, "DATABASE_URL": "",
        })  # fmt: skip
        with serving(stack, folder, config=config(topic, ", body_bytes_max: 5MiB"), **OFTEN) as server:
            eventually(lambda: server.said("records are bounded by the brokers' socket.request.max.bytes"), "bounded")
            eventually(lambda: server.ask(request("/s", b"x")).status == 200, "served")
            assert server.ask(request("/s", b"x" * 3_000_000)).status == 413
            assert server.ask(request("/s", b"x" * 1_900_000)).status == 200
            assert server.total("kwb_kafka_delivery_errors_total") == 0
    finally:
        small.destroy()


def test_the_brokers_clock_is_told_by_a_record(stack: Stack, topic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours is an hour behind here."""
    real = producer.time
    slow = SimpleNamespace(monotonic=real.monotonic, time=lambda: real.time() - 3600)

    async def run() -> None:
        finished: list[producer.Outcome] = []
        made = producer.Producer(
            stack.kafka.settings, finished.extend, body_bytes_max=1000, died=lambda name, error: pytest.fail(name)
        )
        Admin(stack.kafka.settings).ensure_topic(topic, 1_000_000)
        monkeypatch.setattr(producer, "time", slow)
        monkeypatch.setattr(producer, "_CLOCK_S", 0)
        monkeypatch.setattr(producer, "_PROBE_S", 0)
        while made.clock_ahead_ms is None:
            made.send(Record("id", topic, None, b"x", [], ""), producer.Outcome())
            await asyncio.sleep(0.05)
        assert abs(made.clock_ahead_ms - 3_600_000) < 60_000
        await made.close()
        assert all(outcome.error is None for outcome in finished)

    asyncio.run(asyncio.wait_for(run(), 60))
