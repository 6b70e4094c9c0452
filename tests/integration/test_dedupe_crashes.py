"""A bridge that dies or stands still between two steps of a delivery: the next finds the same event (rules.md 14)."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from dedupe_world import bridge_for, claimed, delivered, delivery, ids_in, refused_while_pending, set_lease
from outbox_world import Grown, outbox

from bridge import Serve, eventually
from databases import empty_database
from kafka_webhook_bridge.stack import Stack

pytestmark = pytest.mark.integration

TOPIC = f"crashes-{secrets.token_hex(4)}"


@pytest.fixture(scope="module")
def database(stack: Stack) -> Iterator[str]:
    with empty_database(stack.postgres) as url:
        yield url


@pytest.fixture(scope="module")
def second(stack: Stack, database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """The bridge beside the one that dies: same sources, same database."""
    with bridge_for(stack, tmp_path_factory.mktemp("second"), TOPIC, database) as server:
        yield server


@contextlib.contextmanager
def doomed(stack: Stack, folder: Path, database: str, fail: str) -> Iterator[Serve]:
    with bridge_for(stack, folder, TOPIC, database, KWB_FAIL=fail) as server:
        server.expect_faults = True
        yield server


@pytest.mark.parametrize(("step", "source", "durable", "copies"), [
    ("deliveries.claimed", "any", "", {1}),  # nothing was handed to Kafka
    ("deliveries.sent", "any", "", {1, 2}),  # perhaps it was
    ("deliveries.acked", "any", "", {2}),  # it was, and nobody knows
    ("deliveries.durable", "any", "kafka", {1}),
    ("outbox.taken", "store", "", {0}),
    ("outbox.committed", "store", "outbox", {0}),  # the claim is durable in the transaction of the event
])  # fmt: skip
def test_rule_14_killed_between_two_steps_an_event_keeps_its_id_and_is_stored(
    stack: Stack, folder: Path, database: str, second: Serve, step: str, source: str, durable: str, copies: set[int]
) -> None:
    name = f"killed-{step}"
    body = name.encode()
    grown = Grown(second)
    with doomed(stack, folder, database, f"{step}:kill") as first, first.open() as client:
        assert client.send(delivery(source, name, body)).rest() == b"", "it was not killed"
    found = claimed(database, source, name)
    assert found is not None
    event_id = found[0]
    assert (found[1] or "") == durable
    if not durable:  # the sender has no answer; it tries again before and after the end of the lease
        set_lease(database, source, name, 1)  # on a slow machine the end of the first one outlasts it
        refused = refused_while_pending(second, source, name, body)
        assert (refused.status, refused.code, refused.json["event_id"]) == (503, "deliver.under_way", event_id)
        set_lease(database, source, name, 0)
    receipt = delivered(second, source, name, body)
    assert (receipt["event_id"], receipt["duplicate"]) == (event_id, bool(durable))
    assert grown("kwb_dedupe_taken_over_total") == (not durable)
    assert delivered(second, source, name, body) == {**receipt, "duplicate": True}
    in_kafka = ids_in(stack, TOPIC, body)
    assert set(in_kafka) <= {event_id}
    assert len(in_kafka) in copies
    assert (event_id in outbox(database)) == (source == "store")


def test_rule_14_one_that_was_stopped_and_one_that_took_over_store_one_event(
    stack: Stack, folder: Path, database: str, second: Serve
) -> None:
    body = b"stopped"
    with doomed(stack, folder, database, "deliveries.claimed:stop") as first, first.open() as client:
        (child,) = first.children()

        def stopped() -> bool:
            return Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "T"

        client.send(delivery("any", "stopped", body))
        eventually(stopped, "stopped after its claim")
        os.kill(first.process.pid, signal.SIGSTOP)  # else it would end a child that is silent for long
        set_lease(database, "any", "stopped", 0)
        receipt = delivered(second, "any", "stopped", body)
        os.kill(child, signal.SIGCONT)
        os.kill(first.process.pid, signal.SIGCONT)
        late = client.answer()
    assert receipt["duplicate"] is False
    assert (late.status, late.json["event_id"]) == (200, receipt["event_id"])
    assert ids_in(stack, TOPIC, body) == [receipt["event_id"]] * 2
    assert claimed(database, "any", "stopped") == (receipt["event_id"], "kafka")
