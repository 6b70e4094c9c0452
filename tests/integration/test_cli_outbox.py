"""`kwb outbox`, `kwb events show` and `kwb doctor` about events that wait, through the command."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from typing import Any

import pytest
from relay_world import RelayWorld

from kafka_webhook_bridge.stack import Stack

pytestmark = pytest.mark.integration


@pytest.fixture
def world(stack: Stack, database: str, topic: str) -> RelayWorld:
    made = RelayWorld(stack, database, topic)
    asyncio.run(made.migrate())
    return made


def put(world: RelayWorld, events: int, **columns: Any) -> list[str]:
    return asyncio.run(world.put(*(world.event() for _ in range(events)), **columns))


def kwb(world: RelayWorld, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    environ = {"COLUMNS": "200", **world.environ, "KWB_MANAGEMENT_PORT": "0", "KWB_INGEST_PORT": "0", **environ}
    return subprocess.run(
        [sys.executable, "-m", "kafka_webhook_bridge.cli", *arguments],
        env=environ, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def told(world: RelayWorld, *arguments: str, code: int = 0) -> Any:
    done = kwb(world, *arguments, "--json")
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def test_an_empty_outbox(world: RelayWorld) -> None:
    assert told(world, "outbox") == []
    assert told(world, "outbox", "release", "--all", code=1) == {"released": 0}
    assert "Kafka has everything" in kwb(world, "outbox", "list").stderr


def test_what_waits_and_why(world: RelayWorld) -> None:
    put(world, 3)
    put(world, 2, topic="gone", state="blocked", reason="UNKNOWN_TOPIC", source="ordered", number=1)
    put(world, 1, state="quarantined", reason="MSG_SIZE_TOO_LARGE")
    found = told(world, "outbox", "list")
    assert [(c["state"], c["topic"], c["reason"], c["events"], c["strict"]) for c in found] == [
        ("blocked", "gone", "UNKNOWN_TOPIC", 2, True),
        ("quarantined", world.topic, "MSG_SIZE_TOO_LARGE", 1, False),
        ("waiting", world.topic, None, 3, False),
    ]
    assert all(c["size_bytes"] > 0 and c["attempts"] == 0 for c in found)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", c["oldest"]) for c in found)
    people = kwb(world, "outbox", COLUMNS="80")
    head, *lines = people.stdout.splitlines()
    assert head.split() == ["state", "events", "oldest", "(UTC)", "topic"]
    first, besides, *_ = lines
    assert (first.split()[:2], first.split()[-1]) == (["blocked", "2"], "gone")
    assert re.fullmatch(r" +UNKNOWN_TOPIC, [0-9.]+ (bytes|KiB), 0 attempts, strict order", besides)
    assert len(lines) == 6
    assert max(map(len, people.stdout.splitlines())) <= 80
    assert "docs/howto/outbox.md" in people.stderr
    assert "gone is gone: `kwb rebuild gone` makes it anew" in people.stderr


def test_rule_4_a_release_makes_events_wait_again(world: RelayWorld) -> None:
    (quarantined,) = put(world, 1, state="quarantined", reason="MSG_SIZE_TOO_LARGE")
    blocked = put(world, 3, topic="gone", state="blocked", reason="UNKNOWN_TOPIC")
    assert told(world, "events", "show", quarantined)["state"] == "quarantined"
    assert kwb(world, "outbox", "release").returncode == 2
    assert kwb(world, "outbox", "release", "not-an-id").returncode == 2
    assert told(world, "outbox", "release", "--topic", "gone", "--quarantined", code=1) == {"released": 0}
    assert told(world, "outbox", "release", blocked[0]) == {"released": 1}
    assert told(world, "outbox", "release", "--quarantined") == {"released": 1}
    assert told(world, "events", "show", quarantined)["state"] == "waiting"
    rows = asyncio.run(world.rows())
    assert {name: rows[name]["state"] for name in (quarantined, *blocked)} == {
        quarantined: "waiting", blocked[0]: "waiting", blocked[1]: "blocked", blocked[2]: "blocked",
    }  # fmt: skip
    assert told(world, "outbox", "release", "--reason", "UNKNOWN_TOPIC", "--topic", "gone") == {"released": 2}
    assert {row["state"] for row in asyncio.run(world.rows()).values()} == {"waiting"}


def test_rule_4_an_event_is_found_from_the_outbox_to_the_archive(world: RelayWorld) -> None:
    (event_id,) = put(world, 1)
    waiting = told(world, "events", "show", event_id)
    assert (waiting["state"], waiting["topic"], waiting["offset"]) == ("waiting", world.topic, None)
    assert "not yet there" in kwb(world, "events", "show", event_id).stdout

    async def relay() -> None:
        async with world.relaying():
            await world.empty()

    asyncio.run(relay())
    relayed = told(world, "events", "show", event_id)
    assert (relayed["state"], relayed["topic"], relayed["offset"]) == ("acknowledged", world.topic, None)
    assert [event["state"] for event in told(world, "events", "search")["events"]] == ["acknowledged"]
    assert "acknowledged; the archive has not read it yet" in kwb(world, "events", "show", event_id).stdout

    async def archive() -> None:
        async with world.archiving():
            await world.archived()

    asyncio.run(archive())
    stored = told(world, "events", "show", event_id)
    assert (stored["state"], stored["topic"], stored["offset"]) == ("stored", world.topic, 0)


def test_doctor_tells_of_the_outbox(world: RelayWorld) -> None:
    def checks() -> dict[str, dict[str, str]]:
        done = kwb(world, "doctor", "--json")
        return {c["name"]: c for c in json.loads(done.stdout)["checks"] if c["name"].startswith("outbox")}

    assert {name: c["status"] for name, c in checks().items()} == {"outbox": "ok"}
    put(world, 2)
    put(world, 1, state="quarantined", reason="MSG_SIZE_TOO_LARGE")
    asyncio.run(world.fetch("UPDATE outbox SET created_at = now() - interval '1 hour' WHERE state = 'waiting'"))
    found = checks()
    assert {name: c["status"] for name, c in found.items()} == {"outbox": "warn", "outbox.quarantined": "warn"}
    assert found["outbox"]["found"].startswith("2 events (0 MiB) to be sent to Kafka, the oldest for 36")
    assert "kwb outbox list" in found["outbox.quarantined"]["todo"]
