"""PROXY meets clients that do not keep to the protocol: they are cut, the log says so, and nobody else notices."""

from __future__ import annotations

import errno
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import confluent_kafka as ck
import confluent_kafka.admin
import pytest
from raw_kafka import API_VERSIONS, CUT, PATIENCE_S, Raw, request, text

from kafka_webhook_bridge.kafka.users import Users
from kafka_webhook_bridge.stack import Kafka

TOPIC = "control"
PASSWORD = secrets.token_hex(12)
REFUSED = 58
SAID = b"during authentication due to invalid credentials with SASL mechanism SCRAM-SHA-512"
SILENT_MS = 4_000  # instead of five minutes, so that a test can see the end


def bridge_config(kafka: Kafka) -> dict[str, Any]:
    return {
        "bootstrap.servers": kafka.bootstrap, "security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN",
        "sasl.username": kafka.username, "sasl.password": kafka.password,
    }  # fmt: skip


def reader(kafka: Kafka, user: str = "control") -> ck.Consumer:
    return ck.Consumer(
        {
            "bootstrap.servers": kafka.proxy_bootstrap, "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "SCRAM-SHA-512", "sasl.username": user, "sasl.password": PASSWORD,
            "group.id": f"{user}-{secrets.token_hex(4)}", "auto.offset.reset": "earliest",
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    broker = Kafka(tmp_path_factory.mktemp("edge") / "kafka", properties={"connections.max.idle.ms": str(SILENT_MS)})
    try:
        broker.start()
        admin: Any = confluent_kafka.admin
        client = admin.AdminClient(bridge_config(broker))
        client.create_topics([admin.NewTopic(TOPIC, 1, 1)])[TOPIC].result(PATIENCE_S)
        users = Users(broker.settings)
        users.put("control", PASSWORD)
        users.allow_reading("control")
        yield broker
    finally:
        broker.destroy()


class Control:
    """A consumer on PROXY that was there before, and what it must go on reading."""

    def __init__(self, kafka: Kafka) -> None:
        self.kafka = kafka
        self.producer = ck.Producer(bridge_config(kafka))
        self.consumer = reader(kafka)
        self.consumer.subscribe([TOPIC])
        self.reads()

    def reads(self, consumer: ck.Consumer | None = None) -> None:
        """A record that is written now arrives."""
        sentinel = secrets.token_bytes(8)
        self.producer.produce(TOPIC, sentinel)
        assert self.producer.flush(PATIENCE_S) == 0
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            message = (consumer or self.consumer).poll(1)
            if message is not None and not message.error() and message.value() == sentinel:
                return
        raise AssertionError("the control consumer stands still")

    def newcomer_reads(self) -> None:
        """Whoever comes after the attack is served."""
        consumer = reader(self.kafka)
        try:
            consumer.subscribe([TOPIC])
            self.reads(consumer)
        finally:
            consumer.close()


@pytest.fixture(scope="module")
def control(kafka: Kafka) -> Iterator[Control]:
    found = Control(kafka)
    yield found
    found.consumer.close()


@pytest.fixture(autouse=True)
def nobody_notices(kafka: Kafka, control: Control) -> Iterator[None]:
    pid = kafka.pid
    yield
    control.reads()
    control.newcomer_reads()
    assert kafka.alive
    assert kafka.pid == pid, "the broker was not started anew"


@pytest.fixture
def logged(kafka: Kafka) -> Callable[[str], None]:
    """`logged(words)` waits until the broker's log has them, after this moment."""
    start = kafka.log.stat().st_size

    def wait(words: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            with kafka.log.open("rb") as log:
                log.seek(start)
                said = log.read().decode(errors="replace")
            if words in said:
                return
            assert time.monotonic() < deadline, f"{words!r} is not in: {said[-2000:]}"
            time.sleep(0.05)

    return wait


TAG_MAX = b"\xff\xff\xff\xff\x07"  # 0x7fffffff as an unsigned varint
FRAMES = {
    "the longest length": b"\x7f\xff\xff\xff" + b"x" * 1000,
    "a negative length": b"\xff\xff\xff\xff" + b"x" * 1000,
    "one byte more than before a login": (65536 + 1).to_bytes(4) + b"x" * 1000,
    "many tagged fields that are not there": request(API_VERSIONS, 3, b"", tags=TAG_MAX),
    "many tagged fields": request(API_VERSIONS, 3, b"", tags=TAG_MAX + b"\x00\x00" * 30_000),
    "one tagged field that claims the heap": request(API_VERSIONS, 3, b"", tags=b"\x01\x00" + TAG_MAX),
    "a mechanism longer than its frame": request(17, 1, b"\x7f\xffPLAIN"),
    "an unknown request": request(9_999, 0, b""),
    "a fetch before the login": request(1, 4, b"\x00" * 40),
    "HTTP": b"GET / HTTP/1.1\r\nHost: kafka\r\n\r\n",
    "TLS": bytes.fromhex("16030100a5010000a10303") + b"\x00" * 160,
    "garbage": len(junk := bytes(range(256)) * 16).to_bytes(4) + junk,
}


@pytest.mark.parametrize("data", FRAMES.values(), ids=FRAMES.keys())
def test_a_frame_that_lies_is_cut_and_logged(kafka: Kafka, data: bytes, logged: Callable[[str], None]) -> None:
    with Raw(kafka.ports.proxy) as raw:
        name = f"127.0.0.1:{raw.socket.getsockname()[1]}"
        raw.send(data)
        assert raw.cut()
    logged(name)  # the log names the peer


def test_a_length_just_over_the_limit_is_refused_and_at_the_limit_is_read(kafka: Kafka) -> None:
    with Raw(kafka.ports.proxy) as raw:
        assert raw.handshake() == 0
        raw.send((65536).to_bytes(4) + request(36, 0, b"")[4:])
        raw.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):  # it waits for the rest
            raw.socket.recv(1)


def test_plain_is_not_offered(kafka: Kafka) -> None:
    with Raw(kafka.ports.proxy) as raw:
        assert raw.handshake(b"PLAIN") == 33
        assert raw.cut()


GAMES = {
    "a wrong password": (b"control", b"wrong", {}),
    "an unknown user": (b"nobody", b"wrong", {}),
    "the bridge": (b"bridge", b"wrong", {}),
    "nobody's name": (b"", b"", {}),
    "another's nonce": (b"control", PASSWORD.encode(), {"nonce": b"rOprNGfwEbeRWgbNEkqO"}),
    "an empty proof": (b"control", PASSWORD.encode(), {"proof": b""}),
    "a proof of zeros": (b"control", PASSWORD.encode(), {"proof": b"\0" * 64}),
    "in the name of the bridge": (b"control", PASSWORD.encode(), {"gs2": b"n,a=bridge,"}),
    "with channel binding": (b"control", PASSWORD.encode(), {"gs2": b"p=tls-unique,,"}),
}


@pytest.mark.parametrize(("user", "password", "games"), GAMES.values(), ids=GAMES.keys())
def test_games_with_scram_are_refused(
    kafka: Kafka, user: bytes, password: bytes, games: dict[str, bytes], logged: Callable[[str], None]
) -> None:
    with Raw(kafka.ports.proxy) as raw:
        peer = f"127.0.0.1:{raw.socket.getsockname()[1]}"
        assert raw.handshake() == 0
        answer = raw.scram(user, password, **games)
        if games:  # what is no SCRAM message may end the connection without an answer
            assert answer.code in {REFUSED, CUT}
        else:  # one answer for all: it does not say which of the two was wrong
            assert (answer.code, answer.message) == (REFUSED, b"Authentication failed " + SAID)
        assert raw.cut()
    logged(peer)


def test_the_right_proof_is_let_in(kafka: Kafka) -> None:
    """Or the games above would be lost for a reason of their own."""
    with Raw(kafka.ports.proxy) as raw:
        assert raw.handshake() == 0
        assert raw.scram(b"control", PASSWORD.encode()).code == 0


def test_one_who_tries_passwords_is_held_back_and_nobody_else(kafka: Kafka, control: Control) -> None:
    guesses = [Raw(kafka.ports.proxy) for _ in range(50)]
    for guess in guesses:
        assert guess.handshake() == 0
    for number, guess in enumerate(guesses):
        # The first message is answered at once; the refusal is what waits.
        first = guess.authenticate(b"n,,n=control,r=%d" % number)
        assert first.code == 0
        guess.send(request(36, 0, len(proof := b"c=biws,r=x,p=eA==").to_bytes(4) + proof))
    control.reads()
    assert all(guess.cut() for guess in guesses)
    for guess in guesses:
        guess.socket.close()


def test_one_who_says_nothing_or_stops_in_the_middle_is_cut(kafka: Kafka) -> None:
    with Raw(kafka.ports.proxy) as silent, Raw(kafka.ports.proxy) as half, Raw(kafka.ports.proxy) as login:
        half.send(b"\x00\x00")
        assert login.handshake() == 0
        login.send(request(36, 0, b"\x00\x00\x10\x00")[:-1])
        assert all(raw.cut() for raw in (silent, half, login))


def test_the_broker_comes_back_on_another_address_behind_the_same_name(folder: Path) -> None:
    """Fault row 9: the broker comes back on another address, with its data."""
    broker = Kafka(folder / "kafka", proxy_advertised="localhost:29095")
    try:
        broker.start()
        Users(broker.settings).put("partner", PASSWORD)
        broker.stop()
        broker.host = "127.0.0.3"
        broker.start()
        client = confluent_kafka.admin.AdminClient(bridge_config(broker) | {"bootstrap.servers": broker.bootstrap})
        assert client.describe_user_scram_credentials(["partner"])["partner"].result(PATIENCE_S)
        proxy = confluent_kafka.admin.AdminClient(
            {
                "bootstrap.servers": broker.proxy_bootstrap, "security.protocol": "SASL_PLAINTEXT",
                "sasl.mechanism": "SCRAM-SHA-512", "sasl.username": "partner", "sasl.password": PASSWORD,
            }
        )  # fmt: skip
        brokers = proxy.list_topics(timeout=PATIENCE_S).brokers.values()
        assert [f"{one.host}:{one.port}" for one in brokers] == ["localhost:29095"]
    finally:
        broker.destroy()


def test_a_thousand_half_open_connections_disturb_nobody_who_reads(kafka: Kafka, control: Control) -> None:
    opened = [socket.socket() for _ in range(1000)]
    try:
        for number, one in enumerate(opened):
            one.setblocking(False)
            assert one.connect_ex(("127.0.0.1", kafka.ports.proxy)) in {0, errno.EINPROGRESS}
            if number % 100 == 0:
                control.reads()
        for one in opened:
            with suppress(OSError):  # many are not let in yet
                one.send(request(17, 1, text(b"SCRAM-SHA-512"))[:9])
        control.reads()
    finally:
        for one in opened:
            one.close()
