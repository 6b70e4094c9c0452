"""`kwb topics` against the real servers, through the command."""

from __future__ import annotations

import json
import subprocess
import sys

import confluent_kafka as ck

from kafka_webhook_bridge.kafka.admin import Admin
from kafka_webhook_bridge.kafka.config import client_config, record_bytes_limit
from kafka_webhook_bridge.stack import Stack


def kwb(stack: Stack, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kafka_webhook_bridge.cli", *arguments],
        env={"COLUMNS": "200", **stack.environ(), **environ}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_list(stack: Stack, topic: str) -> None:
    Admin(stack.kafka.settings).ensure_topic(topic, record_bytes_limit(0))
    producer = ck.Producer(client_config(stack.kafka.settings))
    for _ in range(3):
        producer.produce(topic, b"x")
    assert producer.flush(10) == 0
    for arguments in (["topics", "--json"], ["topics", "list", "--json"]):
        done = kwb(stack, *arguments)
        assert done.returncode == 0, done.stderr
        (row,) = [row for row in json.loads(done.stdout) if row["topic"] == topic]
        assert (row["partitions"], row["replicas"], row["records"]) == (6, 1, 3)
        assert row["durability"] == "one broker, on disk before the ack"
    people = kwb(stack, "topics")
    (line,) = [line for line in people.stdout.splitlines() if topic in line]
    assert "on disk before the ack" in line


def test_show(stack: Stack, topic: str) -> None:
    Admin(stack.kafka.settings).ensure_topic(topic, 1_000_000)
    done = kwb(stack, "topics", "show", topic, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["settings"]["message.timestamp.type"] == "LogAppendTime"
    assert found["differences"] == [
        {"setting": "max.message.bytes", "value": "1000000", "bridge": str(record_bytes_limit(0))}
    ]
    assert set(found["partitions"]) == set("012345")
    people = kwb(stack, "topics", "show", topic)
    assert "max.message.bytes" in people.stdout


def test_a_missing_topic_is_a_found_problem(stack: Stack, topic: str) -> None:
    done = kwb(stack, "topics", "show", topic)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: There is no topic {topic}.\nhint: ")


def test_it_works_without_postgresql(stack: Stack, topic: str) -> None:
    Admin(stack.kafka.settings).ensure_topic(topic, record_bytes_limit(0))
    done = kwb(stack, "topics", "--json", DATABASE_URL="postgresql://kwb:canary@127.0.0.1:1/kwb")
    assert done.returncode == 0
    (row,) = [row for row in json.loads(done.stdout) if row["topic"] == topic]
    assert row["made_by"] is None
    assert "canary" not in done.stdout + done.stderr


def test_a_broker_that_is_not_there_is_an_error_with_a_hint(stack: Stack) -> None:
    done = kwb(stack, "topics", "--json", KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert (done.returncode, done.stdout) == (1, "")
    error = json.loads(done.stderr)["error"]
    assert error["code"] == "kafka.failed"
    assert "KAFKA_BOOTSTRAP_SERVERS" in error["hint"]
