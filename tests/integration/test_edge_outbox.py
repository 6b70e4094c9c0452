"""Kafka or PostgreSQL stand still, are away, come back: what is acknowledged is in the one or the other."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import confluent_kafka as ck
import confluent_kafka.admin
import pytest
from outbox_world import (
    DEADLINE_S,
    KAFKA_WAIT_S,
    Grown,
    backends,
    balanced,
    bridging,
    frozen,
    kafka_killed,
    locked,
    outbox,
    states,
    waiting_statements,
)

from bridge import Serve, consume, eventually, request
from databases import rows
from kafka_webhook_bridge.kafka.config import client_config
from kafka_webhook_bridge.stack import Stack


@pytest.fixture
def server(stack: Stack, folder: Path, topic: str, database: str) -> Iterator[Serve]:
    config = f"sources: {{s: {{auth: none, topic: {topic}}}}}"
    with bridging(stack, folder, database, config) as server:
        yield server


def test_rule_1_a_silent_broker_makes_the_outbox_answer(server: Serve, stack: Stack, database: str, topic: str) -> None:
    grown = Grown(server)
    with server.open() as client:
        with frozen(stack.kafka.pid):
            client.send(request("/s", b"late"))
            eventually(lambda: server.total("kwb_in_flight_requests") == 1, "it waits")
            assert outbox(database) == {}
            server.forward(KAFKA_WAIT_S)
            answer = client.answer()
            assert (answer.status, answer.json["stored"]) == (200, "outbox")
            event_id = answer.json["event_id"]
            assert list(outbox(database)) == [event_id]
            assert states(database)[event_id] == "waiting"
        eventually(lambda: outbox(database) == {}, "the late acknowledgement closes the row")
    assert grown("kwb_outbox_closed_total") == 1
    assert grown("kwb_kafka_late_acks_total") == 1
    assert states(database)[event_id] == "waiting"  # the archive, which does not run here, completes it
    assert {m.value for m in consume(stack.kafka, topic, 2)} >= {b"late"}
    assert grown("kwb_requests_acked_total", stored="outbox") == 1
    assert grown("kwb_events_total", path="outbox") == 1
    assert balanced(server)


def test_rule_3_a_killed_broker_opens_the_breaker_and_its_return_closes_it(
    server: Serve, stack: Stack, database: str
) -> None:
    with kafka_killed(stack):
        eventually(lambda: server.total("kwb_breaker_open") >= 1 or server.ask(request("/s", b"x")) is None, "open")
        answer = server.ask(request("/s", b"away"))
        assert (answer.status, answer.json["stored"]) == (200, "outbox")
        status, body = eventually(
            lambda: (found := server.health())[1]["parts"]["kafka"]["status"] == "unavailable" and found, "told"
        )
        assert (status, body["status"]) == (200, "degraded")
    eventually(lambda: server.ask(request("/s", b"x")).json["stored"] == "kafka", "Kafka again")
    eventually(lambda: server.ask(request("/s", b"x")) and server.total("kwb_breaker_open") == 0, "closed")
    assert server.said("breaker open: events go to the outbox first")
    assert balanced(server)


def test_rule_2_an_acknowledgement_while_the_insert_runs_answers_at_once_and_closes_the_row(
    server: Serve, stack: Stack, database: str
) -> None:
    with server.open() as client:
        grown = Grown(server)
        with locked(database) as let_go:
            with frozen(stack.kafka.pid):
                client.send(request("/s", b"both at once"))
                eventually(lambda: server.total("kwb_in_flight_requests") == 1, "it waits")
                server.forward(KAFKA_WAIT_S)
                eventually(lambda: waiting_statements(database) == 1, "the statement waits")
            answer = client.answer()
            assert (answer.status, answer.json["stored"]) == (200, "kafka")
            let_go()
        eventually(lambda: grown("kwb_outbox_closed_total") == 1, "the row is deleted")
        assert answer.json["event_id"] in states(database)
        assert outbox(database) == {}
        assert grown("kwb_kafka_late_acks_total") == 0
        assert grown("kwb_events_total", path="outbox") == 0


def test_rule_1_both_places_silent_is_503_by_the_deadline_and_both_come_back(
    stack: Stack, folder: Path, database: str, topic: str
) -> None:
    config = f"sources: {{s: {{auth: none, topic: {topic}}}}}"
    with (
        bridging(stack, folder, database, config, KWB_DELIVER_OUTBOX_WAIT_MS="500") as server,
        server.open() as client,
    ):
        with frozen(stack.kafka.pid, *backends(database)):
            client.send(request("/s", b"nowhere"))
            eventually(lambda: server.total("kwb_in_flight_requests") == 1, "it waits")
            server.forward(KAFKA_WAIT_S)
            eventually(lambda: server.total("kwb_outbox_errors_total", error="late") >= 1, "the statement is late")
            server.forward(DEADLINE_S - KAFKA_WAIT_S)
            answer = client.answer()
            assert (answer.status, answer.code) == (503, "deliver.timeout")
            assert 5 <= int(answer.headers["retry-after"]) <= 30
        eventually(lambda: client.send(request("/s", b"again")).answer().status == 200, "no restart is needed")
        assert balanced(server)


# ── ack modes (rules.md 5, 6) ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def modes(stack: Stack, folder: Path, topic: str, database: str) -> Iterator[Serve]:
    names = {"any": "", "kafka": "ack: kafka", "store": "ack: store", "both": "ack: both", "strict": "ordering: strict"}
    lines = [f"  {name}: {{auth: none, topic: {topic}-{name}, {extra}}}" for name, extra in names.items()]
    config = "\n".join(["sources:", *lines])
    with bridging(stack, folder, database, config, ready_for="/both") as server:
        for name in ("any", "kafka"):
            eventually(lambda name=name: server.ask(request(f"/{name}")).json.get("stored") == "kafka", name)
        made = {f"{topic}-{name}" for name in names}
        eventually(lambda: made <= {line["topic"] for line in server.said("topic made")}, "every topic is there")
        rows(database, "DELETE FROM outbox")
        yield server


def test_rule_5_each_mode_asks_its_places(modes: Serve, stack: Stack, database: str, topic: str) -> None:
    grown = Grown(modes)
    stored = {name: modes.ask(request(f"/{name}", name.encode())).json for name in ("any", "kafka", "store", "both")}
    assert {name: answer["stored"] for name, answer in stored.items()} == {
        "any": "kafka", "kafka": "kafka", "store": "outbox", "both": "both",
    }  # fmt: skip
    eventually(lambda: list(outbox(database)) == [stored["store"]["event_id"]], "the row of `both` is closed")
    assert states(database)[stored["both"]["event_id"]] == "waiting"
    assert stored["kafka"]["event_id"] not in states(database)
    assert b"both" in {m.value for m in consume(stack.kafka, f"{topic}-both", 2)}
    for place, count in {"kafka": 2, "outbox": 1, "both": 1}.items():
        assert grown("kwb_requests_acked_total", stored=place) == count
    assert grown("kwb_events_total") == 4
    assert balanced(modes)


def test_rule_5_each_mode_while_a_place_is_away(modes: Serve, stack: Stack, database: str) -> None:
    def answers(*names: str) -> dict[str, str]:
        clients = {name: modes.open().send(request(f"/{name}", b"x")) for name in names}
        found = {}
        for name, client in clients.items():
            answer = client.answer()
            found[name] = answer.json["stored"] if answer.status == 200 else answer.code
            client.socket.close()
        return found

    with kafka_killed(stack):
        eventually(lambda: modes.total("kwb_breaker_open") >= 1, "the connection is lost")
        assert answers("any", "store", "strict") == {"any": "outbox", "store": "outbox", "strict": "outbox"}
        with modes.open() as kafka, modes.open() as both:
            kafka.send(request("/kafka", b"x"))
            both.send(request("/both", b"x"))
            eventually(lambda: modes.total("kwb_in_flight_requests") == 2, "they wait")
            modes.forward(DEADLINE_S)
            assert [client.answer().code for client in (kafka, both)] == ["deliver.timeout"] * 2
    in_kafka = {"any": "kafka", "kafka": "kafka"}
    eventually(lambda: answers("any", "kafka") == in_kafka and modes.total("kwb_breaker_open") == 0, "Kafka again")
    with frozen(*backends(database)), modes.open() as store, modes.open() as both:
        assert answers("any", "kafka") == {"any": "kafka", "kafka": "kafka"}
        store.send(request("/store", b"x"))
        both.send(request("/both", b"x"))
        eventually(lambda: modes.total("kwb_in_flight_requests") == 2, "they wait")
        modes.forward(DEADLINE_S)
        assert [client.answer().code for client in (store, both)] == ["deliver.timeout"] * 2
    eventually(lambda: answers("store", "both") == {"store": "outbox", "both": "both"}, "PostgreSQL again")
    assert balanced(modes)


def test_rule_6_a_source_that_keeps_order_has_numbers_and_no_kafka(modes: Serve, database: str) -> None:
    with modes.open() as client:
        sent = [client.send(request("/strict", b"%d" % n)).answer().json for n in range(20)]
    assert {answer["stored"] for answer in sent} == {"outbox"}
    found = outbox(database)
    numbers = [found[answer["event_id"]]["number"] for answer in sent]
    assert numbers == sorted(numbers)
    assert None not in numbers
    assert modes.total("kwb_events_total", source="strict", path="direct") == 0


# ── limits, poison, topics ────────────────────────────────────────────────────────────────────────────────────────


def test_the_outbox_takes_no_more_than_it_may(stack: Stack, folder: Path, database: str, topic: str) -> None:
    config = f"sources: {{s: {{auth: none, topic: {topic}, ack: store}}, k: {{auth: none, topic: {topic}}}}}"
    with bridging(stack, folder, database, config, ready_for="/k", KWB_DELIVER_OUTBOX_ROWS_MAX="3") as server:
        grown = Grown(server)
        for _ in range(3):
            server.ask(request("/s", b"x"))
        answer = eventually(lambda: (found := server.ask(request("/s", b"x"))).status == 503 and found, "full")
        assert answer.code == "deliver.outbox_full"
        assert "retry-after" in answer.headers
        assert server.health()[1]["parts"]["postgres"]["status"] == "degraded"
        assert server.health()[1]["status"] == "degraded"
        assert server.ask(request("/k", b"x")).json["stored"] == "kafka"
        assert len(outbox(database)) == grown("kwb_outbox_rows_total")
        rows(database, "DELETE FROM outbox")
        eventually(lambda: server.ask(request("/s", b"x")).status == 200, "room again")


def test_the_queue_before_the_outbox_is_bounded(stack: Stack, folder: Path, database: str, topic: str) -> None:
    config = f"sources: {{s: {{auth: none, topic: {topic}, ack: store}}, k: {{auth: none, topic: {topic}}}}}"
    limits = {"KWB_DELIVER_OUTBOX_QUEUE_RECORDS_MAX": "2", "KWB_DELIVER_OUTBOX_BATCH_RECORDS_MAX": "1"}
    with (
        bridging(stack, folder, database, config, ready_for="/k", **limits) as server,
        contextlib.ExitStack() as stack_,
    ):
        with locked(database) as let_go:
            waiting = [stack_.enter_context(server.open()).send(request("/s", b"x")) for _ in range(3)]
            eventually(lambda: server.total("kwb_outbox_queue_records") == 2, "one is being written, two wait")
            assert server.ask(request("/s", b"x")).code == "deliver.outbox_full"
            let_go()
        assert [client.answer().json["stored"] for client in waiting] == ["outbox"] * 3
        eventually(lambda: server.total("kwb_outbox_queue_bytes") == 0, "nothing waits")


def test_rule_20_what_postgresql_cannot_keep_as_text_is_kept_as_bytes(modes: Serve, database: str) -> None:
    bodies = [b'{"a":"\\u0000"}', b"\xff\x00", b'{"a":' + b"1" * 500 + b"}", b"{" * 5000, b""]
    for body in bodies:
        answer = modes.ask(request("/store?a=%00", body, "Content-Type: \xff/json"))
        assert (answer.status, answer.json["stored"]) == (200, "outbox")
        found = outbox(database)[answer.json["event_id"]]
        assert found["value"] == body


def test_a_topic_that_is_gone_blocks_its_events_and_they_are_kept(
    server: Serve, stack: Stack, database: str, topic: str
) -> None:
    admin = ck.admin.AdminClient(client_config(stack.kafka.settings))
    admin.delete_topics([topic])[topic].result(30)

    def blocked() -> str:
        answer = server.ask(request("/s", b"kept"))
        assert answer.status == 200
        event_id = answer.json["event_id"]
        return event_id if states(database).get(event_id) == "blocked" else ""

    event_id = eventually(blocked, "blocked")
    row = outbox(database)[event_id]
    assert (row["state"], row["reason"], row["value"]) == ("blocked", "UNKNOWN_TOPIC", b"kept")
    assert server.health()[1]["parts"]["topics"]["status"] == "degraded"
    admin.create_topics([ck.admin.NewTopic(topic, 3, 1)])[topic].result(30)
    eventually(lambda: server.ask(request("/s", b"new")).json["stored"] == "kafka", "released")


def test_kafka_away_at_the_start(stack: Stack, folder: Path, database: str, topic: str) -> None:
    """Configured topics, and those of the open rule that are on record, are taken by the outbox; others are not."""
    environ = {"KWB_BRIDGE_OPEN_RULE": "true", "WEBHOOK_USERNAME": "u", "WEBHOOK_PASSWORD": "p"}
    login = "Authorization: Basic dTpw"

    def ask(server: Serve, path: str) -> str:
        answer = server.ask(request(path, b"early", login=login))
        return answer.json["stored"] if answer.status == 200 else str(answer.status)

    with bridging(stack, folder, database, f"sources: {{s: {{auth: none, topic: {topic}-s}}}}", **environ) as server:
        eventually(lambda: ask(server, f"/{topic}") == "kafka", "on record")
    stack.kafka.kill()
    try:
        environ |= {"KWB_DELIVER_KAFKA_WAIT_MS": "2000", "KWB_DELIVER_DEADLINE_MS": "4000"}
        config = f"sources: {{s: {{auth: none, topic: {topic}-new}}}}"
        with bridging(stack, folder, database, config, ready_for="", **environ) as server:
            for path in ("/s", f"/{topic}"):
                eventually(lambda path=path: ask(server, path) == "outbox", path)
            assert ask(server, f"/{topic}-stranger") == "503"
            found = outbox(database).values()
            assert {row["topic"] for row in found} == {f"{topic}-new", topic}
            assert {(row["state"], row["value"]) for row in found} == {("waiting", b"early")}
            assert server.health()[1]["status"] == "degraded"
            stack.kafka.start()
            for path in ("/s", f"/{topic}", f"/{topic}-stranger"):
                eventually(lambda path=path: ask(server, path) == "kafka", f"{path} without a restart")
    finally:
        if not stack.kafka.alive:
            stack.kafka.start()


def test_a_4xx_is_none_of_the_outboxs_business(server: Serve, stack: Stack, database: str) -> None:
    with kafka_killed(stack):
        eventually(lambda: server.total("kwb_breaker_open") >= 1, "open")
        assert server.ask(request("/nobody", b"x")).status == 404
        assert server.ask(request("/s", b"x", method="GET")).status == 405
        assert server.ask(request("/s", b"x", size=2_000_000)).status == 413
        sentinel = server.ask(request("/s", b"sentinel")).json
        assert set(outbox(database)) == {sentinel["event_id"]}


# ── PostgreSQL comes and goes ─────────────────────────────────────────────────────────────────────────────────────


def test_a_stopped_postgresql_leaves_kafka_and_both_away_is_503_in_health(
    server: Serve, stack: Stack, database: str
) -> None:
    stack.postgres.stop()
    try:
        eventually(lambda: server.health()[1]["parts"]["postgres"]["status"] == "unavailable", "told")
        assert server.health()[0] == 200
        assert server.ask(request("/s", b"x")).json["stored"] == "kafka"
        with kafka_killed(stack):
            status, body = eventually(lambda: (found := server.health())[0] == 503 and found, "neither")
            assert (status, body["status"]) == (503, "unavailable")
            assert server.ask(request("/health", method="GET", login="")).status == 200
            with server.open() as client:
                client.send(request("/s", b"nowhere"))
                eventually(lambda: server.total("kwb_in_flight_requests") == 1, "it waits")
                server.forward(DEADLINE_S)
                answer = client.answer()
                assert (answer.status, answer.code) == (503, "deliver.timeout")
                assert "retry-after" in answer.headers
    finally:
        stack.postgres.start()
    eventually(lambda: server.health()[1]["status"] == "ready", "both again, without a restart")
    with frozen(stack.kafka.pid), server.open() as client:
        client.send(request("/s", b"x"))
        eventually(lambda: server.total("kwb_in_flight_requests") == 1, "it waits")
        server.forward(KAFKA_WAIT_S)
        assert client.answer().json["stored"] == "outbox"
    assert balanced(server)


def test_rule_2_an_insert_that_ends_after_the_refusal_stays_and_is_counted(
    stack: Stack, folder: Path, database: str, topic: str
) -> None:
    config = f"sources: {{s: {{auth: none, topic: {topic}, ack: store}}, k: {{auth: none, topic: {topic}}}}}"
    with (
        bridging(stack, folder, database, config, ready_for="/k", KWB_DELIVER_OUTBOX_WAIT_MS="60000") as server,
        server.open() as client,
    ):
        with locked(database) as let_go:
            client.send(request("/s", b"too late"))
            eventually(lambda: waiting_statements(database) == 1, "the statement waits")
            server.forward(DEADLINE_S)
            answer = client.answer()
            assert (answer.status, answer.code) == (503, "deliver.timeout")
            let_go()
        eventually(lambda: server.total("kwb_outbox_stored_after_refusal_total") == 1, "counted")
        assert list(outbox(database)) == [answer.json["event_id"]]
        assert balanced(server)


@pytest.mark.parametrize(("failpoint", "there"), [("outbox.taken", False), ("outbox.committed", True)])
def test_rule_1_a_process_killed_around_the_commit_has_promised_nothing(
    stack: Stack, folder: Path, database: str, topic: str, failpoint: str, there: bool
) -> None:
    """Nobody was answered, so the row may be there or not; a new process works on."""
    config = f"sources: {{s: {{auth: none, topic: {topic}, ack: store}}, k: {{auth: none, topic: {topic}}}}}"
    with bridging(stack, folder, database, config, ready_for="/k", KWB_FAIL=f"{failpoint}:kill:1") as server:
        server.expect_faults = True
        with server.open() as client:
            assert client.send(request("/s", b"unknown")).rest() == b""
        values = [row["value"] for row in outbox(database).values()]
        assert values == ([b"unknown"] if there else [])


def test_a_drain_brings_what_waits_into_the_outbox_before_it_answers(
    server: Serve, stack: Stack, database: str
) -> None:
    with server.open() as client:
        with frozen(stack.kafka.pid):
            client.send(request("/s", b"last"))
            eventually(lambda: server.total("kwb_in_flight_requests") == 1, "it waits")
            server.process.send_signal(signal.SIGTERM)
            eventually(lambda: server.health(server.management_port)[1]["status"] == "draining", "draining")
            server.forward(KAFKA_WAIT_S)
            answer = client.answer()
            assert (answer.status, answer.json["stored"], answer.closes) == (200, "outbox", True)
        assert server.process.wait(60) == 0
    assert outbox(database) == {}  # the late acknowledgement closed it before the end
