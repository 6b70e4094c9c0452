"""`kwb guard` before a real broker: what no consumer sends never reaches it, and the bridge's listeners stay awake."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import confluent_kafka as ck
import confluent_kafka.admin as ck_admin
import pytest

from bridge import eventually
from edge import Guard, guarding
from kafka_webhook_bridge.kafka.config import client_config
from kafka_webhook_bridge.kafka.guard import CONNECTIONS_MAX, FRAME_BYTES_MAX, NEW_BURST
from kafka_webhook_bridge.kafka.users import Users
from kafka_webhook_bridge.stack import Kafka
from raw_kafka import API_VERSIONS, FRAMES, PATIENCE_S, Raw, request

USER, PASSWORD = "partner", secrets.token_hex(12)
TOPIC = "guarded"
# `queued.max.request.bytes` is used up by seven lengths of `socket.request.max.bytes`.
BOMBS = 12
BOMB = (20 * 1024 * 1024).to_bytes(4) + b"\0\1"


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    broker = Kafka(tmp_path_factory.mktemp("guarded") / "kafka")
    try:
        broker.start()
        admin = ck_admin.AdminClient(client_config(broker.settings))
        admin.create_topics([ck_admin.NewTopic(TOPIC, 1, 1)])[TOPIC].result(PATIENCE_S)
        users = Users(broker.settings)
        users.put(USER, PASSWORD)
        users.allow_reading(USER)
        yield broker
    finally:
        broker.destroy()


@pytest.fixture
def guard(kafka: Kafka, folder: Path) -> Iterator[Guard]:
    with guarding(folder, kafka.ports.proxy) as found:
        yield found
        assert "traceback" not in found.log.read_text()


def come(guard: Guard, address: str = "203.0.113.7") -> Raw:
    """A connection as nginx brings it."""
    raw = Raw(guard.port)
    raw.send(f"PROXY TCP4 {address} 192.0.2.1 40000 29095\r\n".encode())
    return raw


def log_in(guard: Guard) -> Raw:
    raw = come(guard)
    assert raw.handshake() == 0
    assert raw.scram(USER.encode(), PASSWORD.encode()).code == 0
    return raw


def the_bridge_publishes(kafka: Kafka) -> bool:
    producer = ck.Producer(client_config(kafka.settings, **{"acks": "all", "linger.ms": 0}))
    failed: list[object] = []
    producer.produce(TOPIC, b"x", on_delivery=lambda error, _: failed.append(error))
    producer.flush(PATIENCE_S)
    return failed == [None]


def test_rule_9_lengths_of_twenty_mebibytes_after_a_login_never_reach_the_broker(kafka: Kafka, guard: Guard) -> None:
    bombs = [log_in(guard) for _ in range(BOMBS)]
    try:
        for one in bombs:
            one.send(BOMB)
        assert the_bridge_publishes(kafka)
        assert all(one.cut() for one in bombs)
    finally:
        for one in bombs:
            one.socket.close()
    eventually(lambda: guard.log.read_text().count('"length":20971520') == BOMBS, "each is logged")
    assert '"client":"203.0.113.7"' in guard.log.read_text()


def test_the_longest_frame_passes_and_one_byte_more_does_not(kafka: Kafka, guard: Guard) -> None:
    head = request(API_VERSIONS, 0, b"")
    for more, passes in ((0, True), (1, False)):
        with log_in(guard) as raw:
            body = request(API_VERSIONS, 0, b"x" * (FRAME_BYTES_MAX - len(head) + 4 + more))
            raw.send(body + request(API_VERSIONS, 0, b""))
            assert bool(raw.frame()) == passes


@pytest.mark.parametrize("data", FRAMES.values(), ids=FRAMES.keys())
def test_what_is_no_request_is_cut(kafka: Kafka, guard: Guard, data: bytes) -> None:
    with come(guard) as raw:
        raw.send(data)
        assert raw.cut()
    assert the_bridge_publishes(kafka)


def test_frames_byte_by_byte_pass_and_one_that_stops_is_cut(kafka: Kafka, guard: Guard) -> None:
    with (
        log_in(guard) as slow, come(guard) as stopped, come(guard) as mute, Raw(guard.port) as silent,
        Raw(guard.port) as half,
    ):  # fmt: skip
        stopped.send(request(API_VERSIONS, 0, b"")[:-1])
        half.send(b"PROXY TCP4 203.0.113.7")
        for byte in request(API_VERSIONS, 0, b""):
            slow.send(bytes([byte]))
        assert slow.frame()
        assert all(raw.cut() for raw in (stopped, mute, silent, half))
        slow.send(request(API_VERSIONS, 0, b""))  # silence after a first frame is not cut
        assert slow.frame()
    eventually(lambda: guard.log.read_text().count("a frame that does not end") == 3, "each is logged")


def test_who_comes_without_saying_for_whom_is_cut(guard: Guard) -> None:
    for data in (request(API_VERSIONS, 0, b"") + b"\r\n", b"PROXI TCP4 a b 1 2\r\n", b"P" * 200):
        with Raw(guard.port) as raw:
            raw.send(data)
            assert raw.cut()
    eventually(lambda: guard.log.read_text().count("no PROXY header") == 3, "each is logged")


def test_an_address_that_comes_too_often_keeps_nobody_else_out(kafka: Kafka, guard: Guard) -> None:
    """The broker takes 50 new connections a second of all; one address has a part of them."""
    served = 0
    for _ in range(2 * NEW_BURST):
        with come(guard, "203.0.113.66") as raw:
            raw.send(request(API_VERSIONS, 0, b""))
            served += bool(raw.frame())
    assert NEW_BURST <= served < 2 * NEW_BURST
    assert "too many new connections from this address" in guard.log.read_text()
    with come(guard, "203.0.113.8") as other:
        other.send(request(API_VERSIONS, 0, b""))
        assert other.frame()


def test_a_broker_that_is_not_there_is_said(folder: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with guarding(folder, nobody.getsockname()[1]) as guard, come(guard) as raw:
            raw.send(request(API_VERSIONS, 0, b""))
            assert raw.cut()
            eventually(lambda: "the broker was not reached" in guard.log.read_text(), "it is logged")


def test_no_more_connections_than_the_broker_takes(kafka: Kafka, guard: Guard) -> None:
    opened = [socket.create_connection(("127.0.0.1", guard.port), PATIENCE_S) for _ in range(CONNECTIONS_MAX)]
    try:
        with Raw(guard.port) as one_more:
            assert one_more.cut()
        eventually(lambda: "too many connections" in guard.log.read_text(), "it is logged")
    finally:
        for one in opened:
            one.close()
    eventually(lambda: _answers(guard), "they are gone")


def _answers(guard: Guard) -> bool:
    with come(guard) as raw:
        raw.send(request(API_VERSIONS, 0, b""))
        return bool(raw.frame())
