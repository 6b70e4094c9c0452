"""`kwb send`, `kwb doctor` and `kwb serve` with one running bridge: what was promised is what is there."""

from __future__ import annotations

import json
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import confluent_kafka as ck
import pytest

from bridge import patient_bridge
from databases import empty_database
from kafka_webhook_bridge.kafka.config import client_config
from kafka_webhook_bridge.stack import Bridge, Stack

CANARY = "canary-c40f"
TOPIC = f"t-{secrets.token_hex(6)}"
OWN = f"t-{secrets.token_hex(6)}"
YAML = f"""\
sources:
  shop: {{topic: {TOPIC}, key: "{{json:id}}"}}
  own: {{topic: {OWN}, username: me, password: {CANARY}-own, methods: [PUT, GET]}}
"""


@pytest.fixture(scope="module")
def own_database(stack: Stack) -> Iterator[str]:
    """As `database`, for all tests of this file: what others left behind is not this bridge's business."""
    with empty_database(stack.postgres) as url:
        yield url


@pytest.fixture(scope="module")
def bridge(stack: Stack, own_database: str) -> Iterator[Bridge]:
    with tempfile.TemporaryDirectory(prefix="kwb-test-") as name:
        own = {"WEBHOOK_USERNAME": "hooks", "WEBHOOK_PASSWORD": CANARY, "KWB_INGEST_CONNECTIONS_MAX": "100"}
        with patient_bridge(stack, Path(name), own_database, KWB_CONFIG=YAML, **own) as bridge:
            yield bridge


def kwb(bridge: Bridge, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "kafka_webhook_bridge.cli", *arguments],
        env={"COLUMNS": "200", **bridge.environ, **environ}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert CANARY not in done.stdout + done.stderr
    return done


def _ends(consumer: ck.Consumer, topic: str) -> tuple[list[ck.TopicPartition], int]:
    """The partitions of a topic and the number of its records; a new topic's leaders are known a moment later."""
    deadline = time.monotonic() + 60
    while True:
        try:
            partitions = consumer.list_topics(topic, 30).topics[topic].partitions
            places = [ck.TopicPartition(topic, p, 0) for p in partitions]
            return places, sum(consumer.get_watermark_offsets(place, 30)[1] for place in places)
        except ck.KafkaException:
            if time.monotonic() > deadline:
                raise


def records(stack: Stack, topic: str) -> list[dict[str, Any]]:
    """Everything in the topic, read to the end that it has now."""
    config = {"group.id": f"g-{secrets.token_hex(6)}", "auto.offset.reset": "earliest", "enable.auto.commit": False}
    consumer = ck.Consumer(client_config(stack.kafka.settings, **config))
    try:
        places, left = _ends(consumer, topic)
        consumer.assign(places)
        found = []
        while len(found) < left:
            message = consumer.poll(60)
            assert message is not None, f"{len(found)} of {left} records"
            assert message.error() is None
            headers = dict(message.headers())
            found.append({"id": headers["ce_id"].decode(), "key": message.key(), "value": message.value()})
        return found
    finally:
        consumer.close()


def test_rule_16_the_receipts_say_what_is_in_kafka(bridge: Bridge, stack: Stack, tmp_path: Path) -> None:
    file = tmp_path / "receipts.jsonl"
    before = {record["id"] for record in records(stack, TOPIC)}
    done = kwb(
        bridge, "send", "shop", "--rate", "200", "--duration", "2s", "--arrivals", "fixed", "--size", "600",
        "--timeout", "60s", "--receipts", str(file), "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    said = json.loads(done.stdout)
    assert (said["sent"], said["accepted"], said["unsent"]) == (400, 400, 0)
    assert said["status"] == {"200": 400}
    assert said["stored"] == {"kafka": 400}
    assert said["receipts"] == {"invoke": 400, "ok": 400, "fail": 0, "info": 0}
    assert said["latency_ms"]["max"] >= said["latency_ms"]["p50"] > 0

    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines[0]["op"] == "start"
    assert (lines[-1]["op"], lines[-1]["complete"], lines[-1]["ok"]) == ("end", True, 400)
    invoked = {line["seq"]: line for line in lines if line["op"] == "invoke"}
    acked = {line["event_id"]: invoked[line["seq"]] for line in lines if line["op"] == "ok"}
    assert len(acked) == 400
    found = {record["id"]: record for record in records(stack, TOPIC) if record["id"] not in before}
    assert found.keys() == acked.keys()
    for event_id, line in acked.items():
        body = found[event_id]["value"]
        assert len(body) == 600
        assert json.loads(body)["id"] == line["id"]
        assert found[event_id]["key"] == line["id"].encode()
    assert kwb(bridge, "send", "shop", "--receipts", str(file)).returncode == 2  # never overwritten


def test_one_webhook_is_told_with_its_receipt(bridge: Bridge, stack: Stack) -> None:
    done = kwb(bridge, "send", "shop", "--path", "/orders?x=1")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^200 in \d+\.\d ms$", done.stdout, re.MULTILINE)
    event_id = re.search(r"event_id +(\S+)", done.stdout)
    assert event_id is not None
    assert event_id[1] in {record["id"] for record in records(stack, TOPIC)}


def test_any_bytes_arrive_as_they_are(bridge: Bridge, stack: Stack, tmp_path: Path) -> None:
    body = bytes(range(256)) * 100
    (tmp_path / "body.bin").write_bytes(body)
    done = kwb(bridge, "send", "shop", "--body", str(tmp_path / "body.bin"), "--json")
    event_id = json.loads(done.stdout)["answer"]["event_id"]
    assert {record["id"]: record["value"] for record in records(stack, TOPIC)}[event_id] == body


def test_bad_credentials_are_exit_1_with_a_way_on(bridge: Bridge, stack: Stack, tmp_path: Path) -> None:
    count = len(records(stack, TOPIC))
    file = tmp_path / "receipts.jsonl"
    done = kwb(bridge, "send", "shop", "--count", "3", "--receipts", str(file), WEBHOOK_PASSWORD="wrong")
    assert done.returncode == 1
    assert "answered 401" in done.stdout
    assert "auth.wrong" in done.stdout
    assert "WEBHOOK_USERNAME and WEBHOOK_PASSWORD" in done.stderr
    assert [json.loads(line)["op"] for line in file.read_text().splitlines()].count("fail") == 3
    assert kwb(bridge, "send", "shop").returncode == 0  # right ones are never locked out; and the sentinel
    assert len(records(stack, TOPIC)) == count + 1


@pytest.mark.parametrize(
    ("source", "options", "status", "code"),
    [
        ("nobody", [], "404", "sources.unknown"),
        ("own", [], "405", "sources.method"),
        ("shop", ["--size", "2MiB"], "413", "http.body_too_large"),
    ],
)
def test_refusals_are_told_by_their_code(
    bridge: Bridge, source: str, options: list[str], status: str, code: str
) -> None:
    done = kwb(bridge, "send", source, *options, "--json")
    assert done.returncode == 1
    said = json.loads(done.stdout)
    assert (said["accepted"], said["status"], said["codes"]) == (0, {status: 1}, {code: 1})


def test_the_line_of_kwb_sources_works(bridge: Bridge) -> None:
    shown = json.loads(kwb(bridge, "sources", "show", "own", "--json").stdout)
    login = {"OWN_USERNAME": "me", "OWN_PASSWORD": f"{CANARY}-own"}
    assert shown["variables"] == list(login)
    done = subprocess.run(
        ["sh", "-c", shown["try"]], env={**login, "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if done.returncode == 127:
        pytest.skip("NOT RUN: there is no curl")
    assert done.stdout.startswith("HTTP/1.1 200")
    assert f'"topic":"{OWN}"' in done.stdout


def test_nobody_listens(bridge: Bridge) -> None:
    done = kwb(bridge, "send", "shop", "--url", "http://127.0.0.1:1")
    assert done.returncode == 1
    assert "refused" in (done.stdout + done.stderr).lower()


def test_doctor_finds_all_well_while_the_bridge_runs(bridge: Bridge) -> None:
    assert (
        kwb(
            bridge, "send", "own", "--method", "PUT", WEBHOOK_USERNAME="me", WEBHOOK_PASSWORD=f"{CANARY}-own"
        ).returncode
        == 0
    )
    done = kwb(bridge, "doctor", "--json")
    found = json.loads(done.stdout)
    checks = {check["name"]: check for check in found["checks"] if check["name"] != "archive"}
    assert done.returncode == 0, found
    assert [name for name, check in checks.items() if check["status"] == "fail"] == []
    assert checks["port.ingest"]["found"] == f"a bridge answers on 127.0.0.1:{bridge.port}"
    assert checks["bridge"]["status"] == "ok"
    assert checks["bridge"]["found"].startswith("ready")
    assert checks[f"topic {TOPIC}"]["found"].startswith("6 partitions, one broker, on disk before the ack")
    assert found["durability"] == {"kafka": "one broker, on disk before the ack", "postgresql": "on disk at commit"}


def test_a_second_bridge_on_the_same_port_is_refused(bridge: Bridge) -> None:
    done = kwb(bridge, "serve")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"Cannot listen on 127.0.0.1:{bridge.port}: Address already in use." in done.stderr
    assert "KWB_INGEST_PORT" in done.stderr
    managed = kwb(bridge, "serve", "--port", "0")
    assert managed.returncode == 2
    assert f"KWB_MANAGEMENT_PORT: cannot listen on 127.0.0.1:{bridge.management_port}" in managed.stderr
    assert kwb(bridge, "send", "shop").returncode == 0
