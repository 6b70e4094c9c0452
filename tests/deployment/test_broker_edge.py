"""PROXY meets clients that do not keep to the protocol: they are cut, the log says so, and nobody else notices."""

from __future__ import annotations

import errno
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import confluent_kafka as ck
import confluent_kafka.admin
import pytest

from bridge import eventually
from kafka_webhook_bridge.kafka.users import Users
from kafka_webhook_bridge.stack import Kafka
from raw_kafka import (
    BEFORE_LOGIN_BYTES_MAX,
    CUT,
    FRAMES,
    PATIENCE_S,
    SASL_AUTHENTICATE,
    SASL_HANDSHAKE,
    SCRAM,
    Raw,
    request,
    text,
)

TOPIC = "control"
PASSWORD = secrets.token_hex(12)
REFUSED = 58
SAID = b"during authentication due to invalid credentials with SASL mechanism SCRAM-SHA-512"
# Smaller than they are, so that a test can see them at work.
CONNECTIONS_MAX = 100
PROPERTIES = {
    "connections.max.idle.ms": "4000",
    "listener.name.proxy.max.connections": str(CONNECTIONS_MAX),
}
ITERATIONS_MIN = 4096


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
            "heartbeat.interval.ms": 1000,  # well below the end of silent connections
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    broker = Kafka(tmp_path_factory.mktemp("edge") / "kafka", properties=PROPERTIES)
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


@pytest.mark.parametrize("data", FRAMES.values(), ids=FRAMES.keys())
def test_a_frame_that_lies_is_cut_and_logged(kafka: Kafka, data: bytes, logged: Callable[[str], None]) -> None:
    with Raw(kafka.ports.proxy) as raw:
        name = f"127.0.0.1:{raw.socket.getsockname()[1]}"
        raw.send(data)
        assert raw.cut()
    logged(name)  # the log names the peer


@pytest.mark.parametrize(("more", "code"), [(0, 0), (1, CUT)], ids=["at the limit", "one byte more"])
def test_before_a_login_a_frame_at_the_limit_is_read_and_one_byte_more_is_cut(
    kafka: Kafka, more: int, code: int
) -> None:
    with Raw(kafka.ports.proxy) as raw:
        assert raw.handshake() == 0
        message = b"n,,n=control,r="
        size = BEFORE_LOGIN_BYTES_MAX - len(request(SASL_AUTHENTICATE, 0, b"")) - len(message) + more
        answer = raw.authenticate(message + b"x" * size)  # four bytes of length, sent and not counted, are those inside
        assert answer.code == code


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


def test_a_login_that_comes_byte_by_byte_is_read(kafka: Kafka, control: Control) -> None:
    with ExitStack() as stack:
        slow = [stack.enter_context(Raw(kafka.ports.proxy, trickle=True)) for _ in range(20)]
        for byte in request(SASL_HANDSHAKE, 1, text(SCRAM)):
            for raw in slow:
                raw.send(bytes([byte]))
        assert all(raw.frame()[4:6] == b"\0\0" for raw in slow)
        control.reads()
        assert slow[0].scram(b"control", PASSWORD.encode()).code == 0
        assert slow[1].scram(b"control", b"wrong").code == REFUSED


def test_the_broker_sets_the_price_of_a_guess_and_nobody_can_lower_it(kafka: Kafka) -> None:
    """The iteration count is the server's word, and no credential with a small one can be stored."""
    with Raw(kafka.ports.proxy) as raw:
        assert raw.handshake() == 0
        first = raw.authenticate(b"n,,n=control,r=abc,i=1")
        assert first.code == 0
        said = dict(field.split(b"=", 1) for field in first.data.split(b","))
        assert int(said[b"i"]) >= ITERATIONS_MIN
    admin: Any = confluent_kafka.admin
    client = admin.AdminClient(bridge_config(kafka))
    for iterations in (1, ITERATIONS_MIN - 1):
        info = admin.ScramCredentialInfo(admin.ScramMechanism.SCRAM_SHA_512, iterations)
        cheap = admin.UserScramCredentialUpsertion("cheap", info, b"cheap")
        with pytest.raises(ck.KafkaException) as refused:
            client.alter_user_scram_credentials([cheap])["cheap"].result(PATIENCE_S)
        assert refused.value.args[0].code() == ck.KafkaError.UNACCEPTABLE_CREDENTIAL


def test_those_who_try_passwords_are_refused_and_nobody_waits_for_them(kafka: Kafka, control: Control) -> None:
    def guess(number: int) -> tuple[int, bytes]:
        with Raw(kafka.ports.proxy) as raw:
            assert raw.handshake() == 0
            answer = raw.scram(b"control", b"guess %d" % number)
            assert raw.cut()
            return answer.code, answer.message

    with ThreadPoolExecutor(25) as guessers:
        guesses = [guessers.submit(guess, number) for number in range(100)]
        control.reads()
        assert {one.result(PATIENCE_S) for one in guesses} == {(REFUSED, b"Authentication failed " + SAID)}


def test_one_who_says_nothing_or_stops_in_the_middle_is_cut(kafka: Kafka) -> None:
    with Raw(kafka.ports.proxy) as silent, Raw(kafka.ports.proxy) as half, Raw(kafka.ports.proxy) as login:
        half.send(b"\x00\x00")
        assert login.handshake() == 0
        login.send(request(SASL_AUTHENTICATE, 0, b"\x00\x00\x10\x00")[:-1])
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

        def told() -> list[str]:
            """A client that knows brokers already may ask one of these, and nobody listens there."""
            proxy = confluent_kafka.admin.AdminClient(
                {
                    "bootstrap.servers": broker.proxy_bootstrap, "security.protocol": "SASL_PLAINTEXT",
                    "sasl.mechanism": "SCRAM-SHA-512", "sasl.username": "partner", "sasl.password": PASSWORD,
                }
            )  # fmt: skip
            with suppress(confluent_kafka.KafkaException):
                return [f"{one.host}:{one.port}" for one in proxy.list_topics(timeout=5).brokers.values()]
            return []

        eventually(lambda: told() == ["localhost:29095"], "the broker tells its clients where they reach it")
    finally:
        broker.destroy()


def served(port: int) -> int:
    """Connections that the broker has accepted. Those that wait for it belong to no process yet: their inode is 0."""
    rows = [row.split() for name in ("tcp", "tcp6") for row in Path(f"/proc/net/{name}").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "01" and row[9] != "0" for row in rows)


def test_a_thousand_half_open_connections_wait_outside_and_nobody_who_reads_is_disturbed(
    kafka: Kafka, control: Control
) -> None:
    opened = [socket.socket() for _ in range(1000)]
    try:
        for number, one in enumerate(opened):
            one.setblocking(False)
            assert one.connect_ex(("127.0.0.1", kafka.ports.proxy)) in {0, errno.EINPROGRESS}
            with suppress(OSError):  # many are not let in yet
                one.send(request(SASL_HANDSHAKE, 1, text(SCRAM))[:9])
            if number % 100 == 0:
                control.reads()
        most, deadline = 0, time.monotonic() + PATIENCE_S
        while most < CONNECTIONS_MAX:
            assert time.monotonic() < deadline, f"{most} were let in"
            most = max(most, served(kafka.ports.proxy))
        for _ in range(20):
            control.reads()
            # One more waits with the thread that takes them, and a few are being closed.
            assert served(kafka.ports.proxy) <= CONNECTIONS_MAX + 5
    finally:
        for one in opened:
            one.close()
    control.newcomer_reads()
