"""`kwb serve` as a stranger starts it, with a clock that the test moves, and raw sockets to speak to it."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import mmap
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import confluent_kafka as ck

from databases import migrate_database
from kafka_webhook_bridge.errors import StoreError
from kafka_webhook_bridge.kafka.config import client_config
from kafka_webhook_bridge.stack import Bridge, Kafka, Stack
from kafka_webhook_bridge.stack.ports import free_ports

WAIT_S = 60.0
USER, PASSWORD = "hooks", "canary-password"
LOGIN = "Authorization: Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
# A busy machine may be slow; what is acknowledged is judged, not when.
PATIENT = {
    "KWB_DELIVER_KAFKA_WAIT_MS": "30000", "KWB_DELIVER_DEADLINE_MS": "60000", "KWB_KAFKA_DELIVERY_TIMEOUT_MS": "90000",
}  # fmt: skip
ERRORS = ("background task ended", "fault", "Traceback", "Exception in callback", "child died")


def eventually(condition: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> Any:
    """The first true value of a condition. A deadline for the hopeless case alone."""
    end = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.02)
    return value


def total(text: str, name: str, **labels: str) -> float:
    """The sum of a metric in a scrape over all series with these labels."""
    found = 0.0
    for line in text.splitlines():
        series, _, value = line.rpartition(" ")
        if series.partition("{")[0] == name and all(f'{k}="{v}"' in series for k, v in labels.items()):
            found += float(value)
    return found


class Answer(NamedTuple):
    """One answer: status, headers by lower-case name, body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return self.json["code"]

    @property
    def closes(self) -> bool:
        return self.headers.get("connection") == "close"


def answers(data: bytes) -> list[Answer]:
    """Every complete answer in what came back. Raises on anything that is none."""
    found = []
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        status = int(re.fullmatch(r"HTTP/1\.1 (\d{3}) .*", lines[0])[1])
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        size = int(headers.get("content-length", "0")) if status >= 200 else 0
        assert len(rest) >= size, f"cut off: {data!r}"
        found.append(Answer(status, headers, rest[:size]))
        data = rest[size:]
    return found


class Client:
    """One connection. `sent` raises nothing when the other side has closed."""

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), WAIT_S, (address, 0))
        self.socket.settimeout(WAIT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.kept = b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> Client:
        with contextlib.suppress(OSError):
            self.socket.sendall(data)
        return self

    def head(self) -> Answer:
        """The next answer without its body, as to HEAD."""
        while b"\r\n\r\n" not in self.kept:
            self._more()
        head, _, self.kept = self.kept.partition(b"\r\n\r\n")
        return answers(re.sub(rb"(?i)content-length: \d+", b"content-length: 0", head) + b"\r\n\r\n")[0]

    def answer(self) -> Answer:
        """The next answer (100 too)."""
        while b"\r\n\r\n" not in self.kept:
            self._more()
        head = self.kept.partition(b"\r\n\r\n")[0]
        size = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        end = len(head) + 4 + (int(size[1]) if size else 0)
        while len(self.kept) < end:
            self._more()
        data, self.kept = self.kept[:end], self.kept[end:]
        return answers(data)[0]

    def _more(self) -> None:
        data = self.socket.recv(65_536)
        assert data, f"closed after {self.kept!r}"
        self.kept += data

    def rest(self) -> bytes:
        """Everything until the other side closes; a reset ends it too."""
        while True:
            try:
                data = self.socket.recv(65_536)
            except ConnectionResetError:
                data = b""
            if not data:
                return self.kept
            self.kept += data

    def reset(self) -> None:
        """End the connection at once and for both sides."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def half_close(self) -> Client:
        self.socket.shutdown(socket.SHUT_WR)
        return self


def request(
    path: str, body: bytes = b"", *lines: str, method: str = "POST", login: str = LOGIN, size: int | None = None
) -> bytes:
    """A request with the usual headers."""
    head = [f"{method} {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body) if size is None else size}", *lines]
    return "\r\n".join([*head, *([login] if login else [])]).encode("latin-1") + b"\r\n\r\n" + body


class Serve:
    """One `kwb serve`. Its log may not show a fault unless `expect_faults` is set."""

    def __init__(self, environ: dict[str, str], folder: Path, *arguments: str) -> None:
        self.port, self.management_port = free_ports(2)
        self.log = folder / f"serve-{self.port}.log"
        self.expect_faults = False
        self._page = os.memfd_create("clock")
        os.ftruncate(self._page, mmap.PAGESIZE)
        self._clock = memoryview(mmap.mmap(self._page, mmap.PAGESIZE)).cast("d")
        self.environ = {
            "PATH": os.defpath, "WEBHOOK_USERNAME": USER, "WEBHOOK_PASSWORD": PASSWORD, "KWB_LOG_FORMAT": "json",
            "KWB_INGEST_DRAIN_GRACE_MS": "200", "KWB_HARNESS_FD": str(self._page),
            "KWB_INGEST_PORT": str(self.port), "KWB_MANAGEMENT_PORT": str(self.management_port), **environ,
        }  # fmt: skip
        self.port, self.management_port = (int(self.environ[f"KWB_{room}_PORT"]) for room in ("INGEST", "MANAGEMENT"))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "kafka_webhook_bridge.cli", "serve", *arguments], env=self.environ,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[self._page],
            )  # fmt: skip

    def forward(self, seconds: float) -> None:
        """Move the clock of all processes."""
        self._clock[0] += seconds

    def set_time(self, now: float) -> None:
        """Let signed times be judged at `now` (Unix, s) by all processes, until it is set anew; 0: the real time."""
        self._clock[1] = now

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def said(self, event: str, **fields: Any) -> list[dict[str, Any]]:
        """Log lines of that event."""
        return [x for x in self.lines() if x["event"] == event and all(x.get(k) == v for k, v in fields.items())]

    def wait_ready(self) -> Serve:
        def ready() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            assert not self.said("child died"), self.log.read_text()
            with contextlib.suppress(OSError, http.client.HTTPException):
                return self.health()[0] == 200 and self.health(self.management_port)[0] == 200
            return False

        eventually(ready, "ready")
        return self

    def health(self, port: int | None = None) -> tuple[int, dict[str, Any]]:
        """Status and body of /health/ready."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", "/health/ready")
            found = connection.getresponse()
            return found.status, json.loads(found.read())

    def scrape(self) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.management_port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", "/metrics")
            return connection.getresponse().read().decode()

    def total(self, name: str, **labels: str) -> float:
        """The sum of a metric over all series with these labels."""
        return total(self.scrape(), name, **labels)

    def balance(self) -> dict[str, float]:
        """The terms of rules.md 17 and `received`."""
        names = ("received", "acked", "suppressed", "filtered", "handshakes", "rejected", "refused", "aborted")
        text = self.scrape()
        return {
            name: sum(float(x) for x in re.findall(rf"(?m)^kwb_requests_{name}_total(?:{{.*}})? (\S+)$", text))
            for name in names
        }

    def open(self, address: str = "127.0.0.1") -> Client:
        """A connection from an address of this machine."""
        return Client(self.port, address)

    def ask(self, data: bytes) -> Answer:
        """One request on a connection of its own."""
        with self.open() as client:
            return client.send(data).answer()

    def children(self, role: str = "ingest") -> list[int]:
        """Pids of the children of a role."""
        found = []
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            with contextlib.suppress(OSError):
                for pid in (task / "children").read_text().split():
                    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                    if b"kafka_webhook_bridge.app.child" in words and role.encode() in words:
                        found.append(int(pid))
        return sorted(found)

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(WAIT_S)
        text = self.log.read_text()
        assert PASSWORD not in text, "the password is in the log"
        if not self.expect_faults:
            found = [line for line in text.splitlines() if any(f'"{x}"' in line or x + ":" in line for x in ERRORS)]
            assert not found, found
            assert '"traceback"' not in text, text
        return status


@contextlib.contextmanager
def serving(
    stack: Stack, folder: Path, *arguments: str, config: str = "", role: str = "ingest", **environ: str
) -> Iterator[Serve]:
    """A bridge with `bridge.yaml` of this text against the stack; without PostgreSQL unless DATABASE_URL is given."""
    kafka = stack.environ()
    kafka.pop("DATABASE_URL")
    if config:
        environ["KWB_CONFIG"] = config
    if role == "ingest" and "DATABASE_URL" in environ:  # which makes no tables
        with contextlib.suppress(StoreError):  # a PostgreSQL that is away is what some tests are about
            migrate_database(environ["DATABASE_URL"])
    server = Serve({**kafka, **environ}, folder, "--role", role, *arguments)
    try:
        yield server.wait_ready()
    except BaseException:
        print(server.log.read_text()[-6000:])
        server.process.kill()
        server.process.wait()
        raise
    finally:
        if server.process.poll() is None:
            server.stop()


class Message(NamedTuple):
    key: bytes | None
    value: bytes
    headers: list[tuple[str, bytes]]
    partition: int


def consume(kafka: Kafka, topic: str, count: int) -> list[Message]:
    """The first `count` records of a topic, by a stock client; asserts that they come."""
    consumer = ck.Consumer(
        client_config(
            kafka.settings, **{"group.id": f"test-{os.urandom(4).hex()}", "auto.offset.reset": "earliest",
                               "fetch.message.max.bytes": 20_000_000, "enable.auto.commit": False},
        )
    )  # fmt: skip
    found: list[Message] = []
    try:
        consumer.subscribe([topic])
        end = time.monotonic() + WAIT_S
        while len(found) < count:
            assert time.monotonic() < end, f"only {len(found)} of {count}"
            message = consumer.poll(1.0)
            if message is not None and not message.error():
                found.append(
                    Message(message.key(), message.value() or b"", message.headers() or [], message.partition())
                )
    finally:
        consumer.close()
    return found


@contextlib.contextmanager
def patient_bridge(stack: Stack, folder: Path, database: str, **environ: str) -> Iterator[Bridge]:
    """A bridge as `kwb up` starts it, on free ports."""
    ports = {"KWB_INGEST_PORT": "0", "KWB_MANAGEMENT_PORT": "0", "KWB_INGEST_DRAIN_GRACE_MS": "0"}
    started = Bridge(folder / "bridge", {**stack.environ(), "DATABASE_URL": database, **ports, **PATIENT, **environ})
    started.start()
    try:
        yield started
    finally:
        started.stop()
