"""A broker that has just started knows of no broker, itself included; librdkafka's DescribeCluster aborts then.

The broker here speaks as much of the Kafka protocol as librdkafka asks of it: ApiVersions 0 and Metadata 4
(https://kafka.apache.org/protocol).
"""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

METADATA, API_VERSIONS = 3, 18
UNSUPPORTED_VERSION, UNKNOWN_TOPIC = 35, 3
CHILD = """
import os, sys
from kafka_webhook_bridge.errors import KafkaError
from kafka_webhook_bridge.kafka.admin import Admin
from kafka_webhook_bridge.settings import load_settings
admin = Admin(load_settings().kafka, timeout_s=3)
assert len(admin._nodes()) == 1
print("known", flush=True)
sys.stdin.readline()
assert admin.describe(["t"]) == {}
try:
    admin.brokers()
except KafkaError as error:
    print(error.message, flush=True)
"""


class StartingBroker:
    """Tells of itself, until `forget`; from then on of nobody. Any topic is unknown."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._forgot = False
        threading.Thread(target=self._accept, daemon=True).start()

    def forget(self) -> None:
        self._forgot = True

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer_all, args=(connection,), daemon=True).start()

    def _answer_all(self, connection: socket.socket) -> None:
        # A client that ends with answers unread resets the connection.
        with contextlib.suppress(ConnectionError), connection, connection.makefile("rb") as requests:
            while size := requests.read(4):
                request = requests.read(struct.unpack("!i", size)[0])
                api, version, correlation = struct.unpack_from("!hhi", request)
                body = self._metadata(request) if api == METADATA else _versions(version)
                connection.sendall(struct.pack("!ii", 4 + len(body), correlation) + body)

    def _metadata(self, request: bytes) -> bytes:
        at = 10 + struct.unpack_from("!h", request, 8)[0]  # behind the client's id
        (count,) = struct.unpack_from("!i", request, at)
        at += 4
        topics = b""
        for _ in range(max(0, count)):
            size = 2 + struct.unpack_from("!h", request, at)[0]
            topics += struct.pack("!h", UNKNOWN_TOPIC) + request[at : at + size] + struct.pack("!?i", False, 0)
            at += size
        host = b"127.0.0.1"
        me = struct.pack("!ih", 1, len(host)) + host + struct.pack("!ih", self.port, -1)
        brokers = struct.pack("!i", 0) if self._forgot else struct.pack("!i", 1) + me
        nobody_or_me = -1 if self._forgot else 1
        return struct.pack("!i", 0) + brokers + struct.pack("!hii", -1, nobody_or_me, max(0, count)) + topics


def _versions(version: int) -> bytes:
    ranges = [(METADATA, 0, 4), (API_VERSIONS, 0, 0)]
    error = UNSUPPORTED_VERSION if version else 0
    return struct.pack("!hi", error, len(ranges)) + b"".join(struct.pack("!hhh", *row) for row in ranges)


@pytest.fixture
def broker() -> Iterator[StartingBroker]:
    broker = StartingBroker()
    yield broker
    broker.close()


def test_a_broker_that_knows_of_no_broker_ends_no_process(broker: StartingBroker) -> None:
    environ = {"KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{broker.port}"}
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        assert child.stdout.readline() == "known\n"
        broker.forget()
        told, faults = child.communicate("go\n")
    assert child.returncode == 0, faults
    assert "listing the brokers" in told
