"""Outside consumers through nginx's TLS and the guard: stock clients with every check on, while all of it moves."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import os
import pty
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import confluent_kafka as ck
import confluent_kafka.admin as ck_admin
import pytest

from authority import Authority
from bridge import WAIT_S, eventually
from edge import Edge, edge, guarding
from kafka_webhook_bridge.kafka.config import client_config
from kafka_webhook_bridge.kafka.users import Users
from kafka_webhook_bridge.stack import Kafka, KafkaPorts
from kafka_webhook_bridge.stack.kafka import tool
from kafka_webhook_bridge.stack.ports import free_ports
from npm_packages import node_path

USER, PASSWORD = "partner", "partner-canary"
PARTITIONS = 3


def broker(folder: Path, ports: KafkaPorts, proxy_port: int, host: str = "127.0.0.1") -> Kafka:
    """Whose PROXY listens on `host` and tells clients to come to nginx."""
    inner = f"INTERNAL://127.0.0.1:{ports.internal},BROKER://127.0.0.1:{ports.broker}"
    return Kafka(
        folder, ports=ports,
        properties={
            "listeners": f"CONTROLLER://127.0.0.1:{ports.controller},{inner},PROXY://{host}:{ports.proxy}",
            "advertised.listeners": f"{inner},PROXY://localhost:{proxy_port}",
        },
    )  # fmt: skip


class Outside:
    """The broker, guard and nginx in front, and a partner who may read."""

    def __init__(self, kafka: Kafka, front: Edge, guard_elsewhere: Callable[[str], None]) -> None:
        self.kafka, self.front, self.guard_elsewhere = kafka, front, guard_elsewhere
        self.admin = ck_admin.AdminClient(client_config(kafka.settings))
        self.producer = ck.Producer(client_config(kafka.settings, **{"enable.idempotence": True, "linger.ms": 5}))
        users = Users(kafka.settings)
        users.put(USER, PASSWORD)
        users.allow_reading(USER)

    def make(self, topic: str) -> None:
        (future,) = self.admin.create_topics([ck_admin.NewTopic(topic, PARTITIONS, 1)]).values()
        future.result(WAIT_S)

    def produce(self, topic: str, numbers: range) -> None:
        failed: list[Any] = []
        for number in numbers:
            self.producer.produce(
                topic, b"%d" % number, partition=number % PARTITIONS,
                on_delivery=lambda error, _: failed.append(error) if error else None,
            )  # fmt: skip
        assert self.producer.flush(WAIT_S) == 0
        assert failed == []

    def settings(self, **other: Any) -> dict[str, Any]:
        """What a partner is told, and nothing else."""
        return {
            "bootstrap.servers": f"localhost:{self.front.kafka_port}", "security.protocol": "SASL_SSL",
            "sasl.mechanism": "SCRAM-SHA-512", "sasl.username": USER, "sasl.password": PASSWORD,
            "ssl.ca.location": str(self.front.ca), "group.id": f"{USER}-{os.urandom(4).hex()}",
            "auto.offset.reset": "earliest", **other,
        }  # fmt: skip


class Reader:
    """A member of a group that commits what it has read. `numbers` is everything, in the order in which it came."""

    def __init__(self, outside: Outside, topic: str, **other: Any) -> None:
        self.errors: list[Any] = []
        self.numbers: list[int] = []
        self.topic = topic
        self._consumer = ck.Consumer(
            outside.settings(**{"enable.auto.commit": False, "error_cb": self.errors.append, **other})
        )
        self._consumer.subscribe([topic])

    def read_to(self, count: int) -> None:
        """Until so many have come in all, then commit."""
        end = time.monotonic() + WAIT_S
        while len(self.numbers) < count:
            assert time.monotonic() < end, f"only {len(self.numbers)} of {count}: {self.errors}"
            message = self._consumer.poll(0.5)
            if message is not None and not message.error():
                self.numbers.append(int(message.value()))
        end = time.monotonic() + WAIT_S
        while True:  # the coordinator may just be coming back
            try:
                self._consumer.commit(asynchronous=False)
                return
            except ck.KafkaException:
                assert time.monotonic() < end, self.errors
                self._consumer.poll(0.1)

    def committed(self) -> int:
        found = self._consumer.committed([ck.TopicPartition(self.topic, p) for p in range(PARTITIONS)], WAIT_S)
        return sum(x.offset for x in found)

    def nothing_lost_or_twice(self, count: int) -> None:
        """Every number once, each partition in order, all of it committed."""
        assert sorted(self.numbers) == list(range(count))
        for partition in range(PARTITIONS):
            mine = [number for number in self.numbers if number % PARTITIONS == partition]
            assert mine == sorted(mine)
        assert self.committed() == count

    def close(self) -> None:
        self._consumer.close()


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    folder = tmp_path_factory.mktemp("outside")
    *ports, port = free_ports(5)
    kafka = broker(folder / "kafka", KafkaPorts(*ports), port)
    with contextlib.ExitStack() as guards:
        guard = guards.enter_context(guarding(folder, kafka.ports.proxy))

        def elsewhere(host: str) -> None:
            guards.enter_context(guarding(folder, kafka.ports.proxy, host=host, port=guard.port))

        with edge(folder, kafka=guard.port, port=port) as front:
            try:
                kafka.start()
                found = Outside(kafka, front, elsewhere)
                yield found
                kafka = found.kafka
            finally:
                kafka.destroy()
        for log in folder.glob("guard-*.log"):
            assert "traceback" not in log.read_text()
        assert PASSWORD not in front.log.read_text()


@pytest.fixture
def reader(outside: Outside, topic: str) -> Iterator[Reader]:
    outside.make(topic)
    found = Reader(outside, topic)
    yield found
    found.close()


# ── four stock clients, as `kwb users create` prints them ─────────────────────────────────────────────────────────────


class Printed:
    """A user made by the command, which wrote its snippets and the authority's certificate into a folder."""

    def __init__(self, outside: Outside, folder: Path) -> None:
        self.name = f"p{os.urandom(4).hex()}"
        self.topic = f"{self.name}.orders"
        outside.make(self.topic)
        outside.produce(self.topic, range(30))
        shutil.copyfile(outside.front.ca, folder / "ca.pem")
        kafka = outside.kafka
        environ = {
            "PATH": os.defpath, "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap, "KAFKA_USERNAME": kafka.username,
            "KAFKA_PASSWORD": kafka.password, "KWB_KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
            "KWB_KAFKA_SASL_MECHANISM": "PLAIN", "KWB_KAFKA_EXTERNAL_CA": "ca.pem",
            "KWB_KAFKA_EXTERNAL_SERVERS": f"localhost:{outside.front.kafka_port}",
        }  # fmt: skip
        done = subprocess.run(
            [
                sys.executable, "-m", "kafka_webhook_bridge.cli", "users", "create", self.name,
                "--topics", f"{self.name}.*", "--group-prefix", self.name, "--output", "partner", "--json",
            ],
            cwd=folder, env=environ, capture_output=True, text=True, timeout=WAIT_S, check=True,
        )  # fmt: skip
        self.folder = folder / "partner"
        self.use: dict[str, str] = json.loads(done.stdout)["use"]
        # What the partner has installed: names on PATH that lead to this machine's clients. Nothing is left to install.
        self.programs = folder / "bin"
        self.programs.mkdir()
        self._program("python", [sys.executable])
        self._program("pip", ["true"])
        self._program("npm", ["true"])
        self._program("kafka-console-consumer.sh", tool("org.apache.kafka.tools.consumer.ConsoleConsumer"))

    def _program(self, name: str, argv: list[str]) -> None:
        (self.programs / name).write_text(f'#!/bin/sh\nexec {shlex.join(argv)} "$@"\n')
        (self.programs / name).chmod(0o755)

    @contextlib.contextmanager
    def running(self, kind: str, **environ: str) -> Iterator[Callable[[], str]]:
        """The line that was printed, in a terminal, until Ctrl-C. Yields what gives all that was said so far."""
        master, terminal = pty.openpty()
        said = bytearray()
        process = subprocess.Popen(
            ["sh", "-c", self.use[kind]], cwd=self.folder, stdin=terminal, stdout=terminal, stderr=terminal,
            env={"PATH": f"{self.programs}:{os.environ['PATH']}", "HOME": str(self.folder), **environ},
            start_new_session=True,
        )  # fmt: skip
        os.close(terminal)
        os.set_blocking(master, False)

        def heard() -> str:
            with contextlib.suppress(BlockingIOError, OSError):  # EIO: it has ended
                while data := os.read(master, 65_536):
                    said.extend(data)
            return said.decode(errors="replace")

        try:
            yield heard
            os.killpg(process.pid, signal.SIGINT)
            eventually(lambda: heard() and process.poll() is not None, f"{kind} ends after Ctrl-C")
        except BaseException:
            print(heard()[-4000:])
            raise
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            os.close(master)


@pytest.fixture(scope="module")
def printed(outside: Outside, tmp_path_factory: pytest.TempPathFactory) -> Printed:
    return Printed(outside, tmp_path_factory.mktemp("printed"))


def needs(kind: str, folder: Path) -> dict[str, str]:
    """Variables that a client of this machine needs. Skips where it is missing."""
    if kind == "kcat":
        if shutil.which("kcat") is None:
            pytest.skip("NOT RUN: kcat is not installed (tools/ci_packages.sh)")
        return {"LD_LIBRARY_PATH": str(librdkafka(folder))}
    return {"NODE_PATH": node_path()} if kind == "node" else {}


NUMBER = {"java": r"(\d+)", "kcat": r"(\d+)", "python": r"\S+ \d \d+ b'(\d+)'", "node": r"\S+ \d \d+ (\d+)"}


@pytest.mark.parametrize("kind", NUMBER)
def test_a_printed_snippet_reads_through_tls(outside: Outside, printed: Printed, folder: Path, kind: str) -> None:
    """Hostname checking is on in each: none is told anything but the authority."""
    with printed.running(kind, **needs(kind, folder)) as heard:

        def numbers() -> list[int]:
            return sorted(map(int, re.findall(rf"(?m)^{NUMBER[kind]}\r?$", heard())))

        eventually(lambda: len(numbers()) >= 30, f"{kind} reads")
        assert numbers() == list(range(30))
        assert "Traceback" not in heard()


# In their own words: this certificate is not for 127.0.0.2.
MISMATCH = {
    "java": "No subject alternative names matching IP address 127.0.0.2", "kcat": "certificate verify failed",
    "python": "certificate verify failed", "node": "does not match certificate",
}  # fmt: skip


@pytest.mark.parametrize("kind", MISMATCH)
def test_a_printed_snippet_refuses_another_name(outside: Outside, printed: Printed, folder: Path, kind: str) -> None:
    right, wrong = (f"{host}:{outside.front.kafka_port}" for host in ("localhost", "127.0.0.2"))
    elsewhere = copy.copy(printed)
    elsewhere.folder = folder / "elsewhere"
    shutil.copytree(printed.folder, elsewhere.folder)
    elsewhere.use = {name: line.replace(right, wrong) for name, line in printed.use.items()}
    for path in elsewhere.folder.iterdir():
        path.write_text(path.read_text().replace(right, wrong))
    with elsewhere.running(kind, **needs(kind, folder)) as heard:
        eventually(lambda: MISMATCH[kind] in heard(), f"{kind} refuses")


def test_python_reads_with_hostname_checking(outside: Outside, reader: Reader) -> None:
    outside.produce(reader.topic, range(300))
    reader.read_to(300)
    reader.nothing_lost_or_twice(300)
    assert reader.errors == []


def librdkafka(folder: Path) -> Path:
    """A folder for LD_LIBRARY_PATH: the client's wheel brings a newer library than distributions (2.6.1 is needed)."""
    libraries = Path(ck.__file__).parents[1] / "confluent_kafka.libs"
    (found,) = libraries.glob("librdkafka-*.so*")
    (folder / "librdkafka.so.1").symlink_to(found)
    return folder


# ── who is refused ────────────────────────────────────────────────────────────────────────────────────────────────


def refusal(settings: dict[str, Any], *words: str) -> str:
    """What a client says when it does not get in; it must say one of the words."""
    said: list[str] = []
    logger = logging.Logger("refused")  # a client without TLS says what happened in its log alone
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logger.addHandler(handler)
    consumer = ck.Consumer({**settings, "error_cb": lambda error: said.append(str(error))}, logger=logger)
    try:
        consumer.subscribe(["anything"])

        def told() -> str | None:
            message = consumer.poll(0.1)
            assert message is None or message.error(), "it got in"
            return next((text for text in said if any(word in text for word in words)), None)

        return eventually(told, f"one of {words} in {said}")
    finally:
        consumer.close()


def test_who_is_refused_hears_why_and_nobody_else_does(outside: Outside, reader: Reader, folder: Path) -> None:
    outside.produce(reader.topic, range(30))
    reader.read_to(30)
    port = outside.front.kafka_port
    stranger = str(Authority.named("stranger").save(folder / "stranger.pem"))
    # librdkafka says no more about a certificate than this; test_nginx_tls.py sees the three reasons apart.
    for other, *words in (
        ({"sasl.password": "wrong"}, "SASL authentication error", "Authentication failed"),
        ({"sasl.username": "nobody"}, "SASL authentication error", "Authentication failed"),
        ({"sasl.mechanism": "PLAIN"}, "mechanism"),
        ({"security.protocol": "SASL_PLAINTEXT"}, "connection closed by peer"),
        ({"ssl.ca.location": stranger}, "certificate verify failed"),
        ({"bootstrap.servers": f"127.0.0.2:{port}"}, "certificate verify failed"),
    ):
        refusal(outside.settings(**other), *words)
    with guarding(folder, outside.kafka.ports.proxy) as guard, edge(folder, kafka=guard.port) as expired:
        expired.authority.issue(expired.tls, days=-1)
        expired.reload()
        settings = outside.settings(**{
            "bootstrap.servers": f"localhost:{expired.kafka_port}", "ssl.ca.location": str(expired.ca),
        })  # fmt: skip
        refusal(settings, "certificate verify failed")
    outside.produce(reader.topic, range(30, 60))
    reader.read_to(60)
    reader.nothing_lost_or_twice(60)
    assert reader.errors == []


# ── what moves ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_reload_with_a_new_certificate_cuts_no_consumer(outside: Outside, reader: Reader) -> None:
    outside.produce(reader.topic, range(60))
    reader.read_to(60)
    front = outside.front
    old = set(front.workers())
    front.authority.issue(front.tls)
    front.reload()
    outside.produce(reader.topic, range(60, 120))
    reader.read_to(120)
    assert old & set(front.workers()), "the old workers still hold the consumer's connections"
    assert reader.errors == []
    # A second member comes through the new workers and the group goes on.
    second = Reader(outside, reader.topic)
    second.read_to(120)
    second.close()
    reader.nothing_lost_or_twice(120)


def test_the_printed_snippets_go_on_after_restarts_of_the_broker(outside: Outside, folder: Path) -> None:
    """Nobody starts them again; what was read once may come twice."""
    (folder / "user").mkdir()
    printed = Printed(outside, folder / "user")
    with contextlib.ExitStack() as running:
        heard = {}
        for kind in NUMBER:
            (folder / kind).mkdir()
            heard[kind] = running.enter_context(printed.running(kind, **needs(kind, folder / kind)))

        def numbers(kind: str) -> set[int]:
            return set(map(int, re.findall(rf"(?m)^{NUMBER[kind]}\r?$", heard[kind]())))

        quick = [
            kind for kind in NUMBER if kind != "node"
        ]  # whose second restart comes before it is back from the first
        for restarts, kinds in enumerate((NUMBER, quick, NUMBER)):
            count = 30 * (restarts + 1)
            if restarts:
                outside.kafka.stop()
                outside.kafka.start()
                outside.produce(printed.topic, range(count - 30, count))
            for kind in kinds:
                eventually(
                    lambda kind=kind, count=count: numbers(kind) == set(range(count)),  # type: ignore[misc]
                    f"{kind} reads after {restarts} restarts",
                )


def test_nginx_killed_and_started_again(outside: Outside, reader: Reader) -> None:
    outside.produce(reader.topic, range(60))
    reader.read_to(60)
    outside.front.stop()
    outside.produce(reader.topic, range(60, 120))  # the bridge's side does not notice
    eventually(lambda: reader._consumer.poll(0.1) is None and reader.errors, "the consumer notices")
    outside.front.start()
    reader.read_to(120)
    reader.nothing_lost_or_twice(120)


def test_a_broker_that_comes_back_at_a_new_address(outside: Outside, reader: Reader) -> None:
    outside.produce(reader.topic, range(60))
    reader.read_to(60)
    kafka, front = outside.kafka, outside.front
    kafka.stop()
    # It stays there: whatever comes later finds it as the consumer does.
    outside.kafka = broker(kafka.folder, kafka.ports, front.kafka_port, "127.0.0.2")
    outside.guard_elsewhere("127.0.0.2")
    front.resolver.names["kafka.test"] = "127.0.0.2"
    outside.kafka.start()
    outside.produce(reader.topic, range(60, 120))
    reader.read_to(120)
    reader.nothing_lost_or_twice(120)
