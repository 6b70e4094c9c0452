"""The outside door before a real broker: what doctor finds behind it, and the worker's metric."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge import eventually, serving
from certificate_world import DOMAIN, Place
from doors import Door, door, passes_on
from kafka_webhook_bridge.stack import Stack
from kafka_webhook_bridge.stack.ports import free_ports


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path)
    place.make(DOMAIN)
    return place


@pytest.fixture
def opened(place: Place, stack: Stack) -> Iterator[Door]:
    with door(place.pem, place.key, passes_on(stack.kafka.ports.proxy)) as opened:
        yield opened


def test_doctor_finds_the_brokers_mechanisms_through_tls(opened: Door, place: Place, stack: Stack) -> None:
    ingest, management = free_ports(2)
    environ = {
        **stack.environ(), "COLUMNS": "200", "WEBHOOK_USERNAME": "hooks", "WEBHOOK_PASSWORD": "a-password",
        "KWB_BRIDGE_OPEN_RULE": "true",
        "KWB_INGEST_PORT": str(ingest), "KWB_MANAGEMENT_PORT": str(management),
        "KWB_KAFKA_EXTERNAL_SERVERS": f"localhost:{opened.port}", "KWB_KAFKA_EXTERNAL_CA": str(place.ca),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "kafka_webhook_bridge.cli", "doctor", "--json"],
        env=environ, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    found = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert found["outside"]["status"] == "ok", found["outside"]
    assert "SCRAM-SHA-512" in found["outside"]["found"]
    assert found["outside.certificate"]["status"] == "ok"


def test_the_worker_tells_how_long_the_certificate_lasts(
    opened: Door, place: Place, stack: Stack, folder: Path, database: str
) -> None:
    environ = {"DATABASE_URL": database, "KWB_KAFKA_EXTERNAL_SERVERS": f"localhost:{opened.port}"}
    with serving(stack, folder, role="all", config="sources: {shop: {auth: none}}", **environ) as bridge:
        name = "kwb_kafka_external_certificate_seconds"
        eventually(lambda: bridge.total(name) > 0, "the door was looked at")
        left_s = place.look().certificate.seconds_left()
        assert left_s <= bridge.total(name) <= left_s + 600
