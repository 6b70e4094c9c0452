"""Kafka that stands still, is away, loses a topic or hears nothing: 503 by the deadline, and recovery by itself."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import confluent_kafka as ck
import confluent_kafka.admin
import pytest
from outbox_world import PATIENT

from bridge import Serve, consume, eventually, request, serving
from kafka_webhook_bridge.kafka.config import client_config
from kafka_webhook_bridge.stack import Stack


@pytest.fixture
def server(stack: Stack, folder: Path, topic: str) -> Iterator[Serve]:
    with serving(stack, folder, config=f"sources: {{s: {{auth: none, topic: {topic}}}}}") as server:
        eventually(lambda: server.ask(request("/s", b"first")).status == 200, "served")
        yield server


@contextlib.contextmanager
def frozen(stack: Stack) -> Iterator[None]:
    """The broker keeps its connections and says nothing."""
    os.kill(stack.kafka.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(stack.kafka.pid, signal.SIGCONT)


def test_rule_1_a_silent_broker_is_503_by_the_deadline_and_its_late_ack_is_counted(
    server: Serve, stack: Stack, topic: str
) -> None:
    with server.open() as client, server.open() as gone:
        with frozen(stack):
            client.send(request("/s", b"late"))
            gone.send(request("/s", b"nobody waits"))
            eventually(lambda: server.total("kwb_in_flight_requests") == 2, "they wait")
            gone.reset()
            eventually(lambda: server.balance()["aborted"] == 1, "one has gone")
            server.forward(1.9)
            answer = client.answer()
            assert (answer.status, answer.code, answer.closes) == (503, "deliver.timeout", False)
            assert 5 <= int(answer.headers["retry-after"]) <= 30
            assert answer.json["event_id"] == answer.headers["kwb-event-id"]
        eventually(lambda: server.total("kwb_kafka_late_acks_total") >= 1, "the late ack")
        assert client.send(request("/s", b"again")).answer().status == 200  # the same connection, no restart
    messages = consume(stack.kafka, topic, 4)
    assert {m.value for m in messages} == {b"first", b"late", b"nobody waits", b"again"}
    balance = server.balance()
    assert balance.pop("received") == sum(balance.values())


def test_a_broker_that_is_away_is_503_in_health_and_comes_back(server: Serve, stack: Stack) -> None:
    stack.kafka.kill()
    try:
        status, body = eventually(lambda: (found := server.health())[0] == 503 and found, "unavailable")
        assert (status, body["status"], body["parts"]["kafka"]["status"]) == (503, "unavailable", "unavailable")
        assert body["parts"]["kafka"]["reason"]
        eventually(lambda: server.health(server.management_port)[0] == 503, "the management port says so")
        eventually(lambda: server.total("kwb_kafka_available") == 0, "the metric says so")
        answer = server.ask(request("/s", b"lost"))
        assert (answer.status, answer.code) == (503, "deliver.timeout")
        assert server.ask(request("/health", method="GET", login="")).status == 200
    finally:
        stack.kafka.start()
    eventually(lambda: server.ask(request("/s", b"again")).status == 200, "recovered")
    assert server.health()[1]["status"] == "degraded"  # there is no PostgreSQL
    eventually(lambda: server.total("kwb_kafka_available") == 1, "available")


def test_rule_10_a_topic_that_vanished_is_blocked_until_an_operator_makes_it_anew(
    server: Serve, stack: Stack, topic: str
) -> None:
    admin = ck.admin.AdminClient(client_config(stack.kafka.settings))
    admin.delete_topics([topic])[topic].result(30)
    answer = eventually(
        lambda: (found := server.ask(request("/s", b"x"))).status == 503 and found.code == "deliver.blocked" and found,
        "blocked",
    )
    assert "retry-after" in answer.headers
    parts = server.health()[1]["parts"]
    assert parts["topics"] == {"status": "degraded", "reason": f"missing in Kafka: {topic}"}
    # A look at it later, and a new configuration, change nothing.
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: server.said("configuration reloaded"), "reloaded")
    assert server.ask(request("/s", b"x")).code == "deliver.blocked"
    assert topic not in admin.list_topics(timeout=10).topics
    admin.create_topics([ck.admin.NewTopic(topic, 3, 1)])[topic].result(30)
    eventually(lambda: server.ask(request("/s", b"new")).status == 200, "unblocked")
    assert b"new" in {m.value for m in consume(stack.kafka, topic, 1)}


def test_a_full_queue_is_503_at_once(stack: Stack, folder: Path, topic: str) -> None:
    limits = {"KWB_KAFKA_QUEUE_RECORDS_MAX": "3", "KWB_KAFKA_FAST_LANE_REQUESTS_MAX": "0"}
    config = f"sources: {{s: {{auth: none, topic: {topic}}}}}"
    with serving(stack, folder, config=config, **limits) as server:
        eventually(lambda: server.ask(request("/s", b"x")).status == 200, "served")
        with contextlib.ExitStack() as clients:
            with frozen(stack):
                waiting = [clients.enter_context(server.open()).send(request("/s", b"x")) for _ in range(3)]
                eventually(lambda: server.total("kwb_in_flight_requests") == 3, "they wait")
                answer = server.ask(request("/s", b"x"))
                assert (answer.status, answer.code) == (503, "deliver.queue_full")
            # Within their deadline or after it, by how soon the broker wakes up: the clock of the records is real.
            assert {client.answer().status for client in waiting} <= {200, 503}
        eventually(lambda: server.ask(request("/s", b"x")).status == 200, "served again")


# The poll thread of the first generation hears no reports, while the cluster answers; or it is told a fatal error.
SABOTAGE = {
    "stuck": """
    real = Lane._poll
    def deaf(self):
        if self.generation == 1:
            import time
            while not self._stopping:
                time.sleep(0.05)
        real(self)
    Lane._poll = deaf
""",
    "fatal": """
    real = Lane._pass_on
    def doomed(self):
        if self.generation == 1 and self.batch:
            self.fatal = "a fatal error"
        real(self)
    Lane._pass_on = doomed
""",
}


@pytest.mark.parametrize("fault", SABOTAGE)
def test_rule_8_a_sick_lane_is_rebuilt_and_its_records_are_unknown(
    stack: Stack, folder: Path, topic: str, fault: str
) -> None:
    (folder / "sitecustomize.py").write_text(
        'import sys\nif "kafka_webhook_bridge.app.child" in sys.orig_argv:\n'
        f"    from kafka_webhook_bridge.kafka.producer import Lane\n{SABOTAGE[fault]}"
    )
    config = f"sources: {{s: {{auth: none, topic: {topic}}}}}"
    environ = {"PYTHONPATH": str(folder), "KWB_KAFKA_STUCK_AFTER_MS": "500"}
    with serving(stack, folder, config=config, **environ) as server:
        statuses = []

        def rebuilt() -> bool:
            with server.open() as client:
                client.send(request("/s", b"x"))
                if fault == "stuck" and not statuses:
                    eventually(lambda: server.total("kwb_in_flight_requests") == 1, "it waits")
                    server.forward(2)
                statuses.append(client.answer().status)
            return server.total("kwb_kafka_producer_rebuilds_total", lane="fast") >= 1

        eventually(rebuilt, "rebuilt")
        eventually(lambda: server.total("kwb_kafka_producer_generation", lane="fast") == 2, "the second generation")
        eventually(lambda: server.ask(request("/s", b"y")).status == 200, "served by it")
        assert server.said("producer rebuilt", lane="fast")
        assert set(statuses) <= {200, 503}
        if fault == "stuck":
            assert 503 in statuses  # unknown is never 2xx
            eventually(lambda: server.total("kwb_kafka_outstanding_records") == 0, "every record is reported")
        balance = server.balance()
        assert balance.pop("received") == sum(balance.values())


def test_rule_8_a_log_that_lost_its_end_makes_the_producer_useless_and_it_is_replaced(
    stack: Stack, folder: Path, topic: str
) -> None:
    """As after a power cut of a broker that does not flush: the next record is out of sequence, which is fatal."""
    log, copy = stack.kafka.folder / "data" / f"{topic}-0", folder / "copy"
    config = f"sources: {{s: {{auth: none, topic: {topic}}}}}"

    def restarted(meanwhile: Callable[[], object]) -> None:
        stack.kafka.kill()
        meanwhile()
        stack.kafka.start()
        eventually(lambda: server.total("kwb_kafka_connected") == 1 == server.total("kwb_kafka_available"), "back")

    def put_back() -> None:
        shutil.rmtree(log)
        shutil.copytree(copy, log)

    with serving(stack, folder, config=config, KWB_KAFKA_TOPIC_PARTITIONS="1") as server:
        eventually(lambda: server.ask(request("/s", b"x")).status == 200, "served")
        before = server.children()
        restarted(lambda: shutil.copytree(log, copy))
        with server.open() as client:
            for _ in range(20):
                assert client.send(request("/s", b"y")).answer().status == 200
        assert server.total("kwb_kafka_producer_generation", lane="fast") == 1
        restarted(put_back)
        answer = server.ask(request("/s", b"z"))  # alone in its lane: nothing else could wake the watch
        assert answer.status in {200, 503}
        eventually(lambda: server.total("kwb_kafka_producer_generation", lane="fast") == 2, "the second generation")
        eventually(lambda: server.ask(request("/s", b"z")).status == 200, "served by it")
        assert "out of order" in str(server.said("producer rebuilt", lane="fast")).lower().replace("_", " ")
        assert server.children() == before  # a dead producer is not a dead process
        eventually(lambda: server.total("kwb_kafka_outstanding_records") == 0, "every record is reported")


def test_health_without_postgresql(stack: Stack, folder: Path, database: str, server: Serve) -> None:
    for port in (server.port, server.management_port):
        status, body = server.health(port)
        assert (status, body["status"], body["parts"]["kafka"]["status"]) == (200, "degraded", "ready")
        assert body["parts"]["postgres"] == {"status": "unavailable", "reason": "DATABASE_URL is not set"}
    with serving(stack, folder, config="sources: {s: {auth: none}}", DATABASE_URL=database) as other:
        eventually(lambda: other.health()[1]["status"] == "ready", "ready")
        eventually(lambda: other.health(other.management_port)[1]["status"] == "ready", "ready")
        eventually(lambda: other.ask(request("/s", b"x")).status == 200, "the topic is there")
        stack.postgres.stop()
        try:
            eventually(lambda: other.health()[1]["status"] == "degraded", "degraded")
            assert other.ask(request("/s", b"x")).status == 200
        finally:
            stack.postgres.start()
        eventually(lambda: other.health()[1]["status"] == "ready", "ready again")


def test_rule_17_the_accounts_balance_after_a_mixed_storm(bridge: Serve) -> None:
    before = bridge.balance()
    clients = []
    for n in range(120):
        client = bridge.open()
        clients.append(client)
        client.send(
            [
                request("/open", b"x"), request("/closed", b"x", login=""), request("/nobody", b"x"),
                request("/open", b"x", size=50), b"POST /open HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
                request("/open", b"x") * 5, request("/small", b"", size=2000), b"garbage\r\n\r\n",
                request("/closed", b"x" * 40_000, login=""), request("/closed", method="GET"),
                request("/health", method="GET") * 3, request("/open", b"x") + request("/health", method="GET"),
            ][n % 12]
        )  # fmt: skip
        if n % 3 == 0:
            client.socket.close()
    for client in clients:
        client.socket.close()

    def settled() -> bool:
        after = bridge.balance()
        grown = {name: after[name] - before[name] for name in after}
        return grown["received"] >= 60 and grown.pop("received") == sum(grown.values())

    eventually(lambda: bridge.total("kwb_connections") == 0, "all have gone")
    eventually(settled, "received = acked + rejected + refused + aborted")
    eventually(lambda: bridge.total("kwb_in_flight_bytes") == 0, "nothing is held")  # shown every second


def test_a_new_topic_under_load_keeps_what_was_acknowledged(
    stack: Stack, folder: Path, database: str, topic: str
) -> None:
    """Its leaders come up while records wait for them; an early batch may be overtaken by a later one."""
    topics = [f"{topic}-{n}" for n in range(15)]
    environ = {
        "DATABASE_URL": database,
        "KWB_BRIDGE_OPEN_RULE": "true",
        "WEBHOOK_USERNAME": "u",
        "WEBHOOK_PASSWORD": "p",
    }
    with serving(stack, folder, **environ, **PATIENT) as server:
        eventually(lambda: server.health()[1]["parts"]["postgres"]["status"] == "ready", "the tables are there")
        for name in topics:
            clients = [server.open() for _ in range(40)]
            for client in clients:
                client.send(request(f"/{name}", os.urandom(600), login="Authorization: Basic dTpw"))
            for client in clients[:10]:
                client.send(request(f"/{name}", os.urandom(600), login="Authorization: Basic dTpw"))
            found = [client.answer() for client in (*clients, *clients[:10])]
            for client in clients:
                client.socket.close()
            acked = {answer.json["event_id"] for answer in found if answer.status == 200}
            assert {answer.json["stored"] for answer in found if answer.status == 200} == {"kafka"}
            assert acked  # or nothing is proved
            records = consume(stack.kafka, name, len(acked))
            assert acked <= {dict(record.headers)["ce_id"].decode() for record in records}
