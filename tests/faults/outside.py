"""Who reads from outside: a partner's stock consumer, in a group, through nginx's TLS, with every check on."""

from __future__ import annotations

import os
import ssl
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

import confluent_kafka as ck

from edge import Edge
from faults.checker import Outside, Read

USER = "partner"
_PASSWORD = "partner-password"
_CALL_S = 10.0
_REFUSED = "certificate verify failed"

Place = tuple[str, int]  # topic and partition


def settings(front: Edge) -> dict[str, Any]:
    """What a partner is told; each call makes a group of its own."""
    return {
        "bootstrap.servers": f"localhost:{front.kafka_port}", "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512", "sasl.username": USER, "sasl.password": _PASSWORD,
        "ssl.ca.location": str(front.ca), "group.id": f"{USER}-{os.urandom(4).hex()}",
        "auto.offset.reset": "earliest", "enable.auto.commit": False, "broker.address.family": "v4", "log_level": 0,
    }  # fmt: skip


def let_in(users: Any, prefix: str) -> None:
    """Make the partner, who may read the topics that begin with `prefix`."""
    users.put(USER, _PASSWORD)
    users.allow_reading(USER, (f"{prefix}*",), (f"{USER}-*",))


class Reader:
    """Reads in a thread of its own and commits what it has read, after each batch."""

    def __init__(self, front: Edge, topics: Iterable[str]) -> None:
        self.errors: list[str] = []  # what the client said of its connections
        self.newest = 0.0  # Unix time of the youngest record so far
        self.back_s: list[float] = []  # filled by the scenario: after each cut, until a new record came
        self._reads: list[Read] = []
        self._next: dict[Place, int] = {}
        self._committed: dict[Place, int] = {}  # what the broker has confirmed
        self._broke: BaseException | None = None
        self._ends = threading.Event()
        self._consumer = ck.Consumer(
            {**settings(front), "error_cb": lambda error: self.errors.append(str(error)), "on_commit": self._confirmed}
        )
        self._consumer.subscribe(list(topics))
        self._thread = threading.Thread(target=self._run, name="outside", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._ends.is_set():
                self._take(self._consumer.consume(500, 0.2))
        except BaseException as error:
            self._broke = error

    def _take(self, messages: list[ck.Message]) -> None:
        touched: set[Place] = set()
        for message in messages:
            if message.error():
                self.errors.append(str(message.error()))
                continue
            place = message.topic(), message.partition()
            self._reads.append(Read(*place, message.offset(), self._committed.get(place, 0)))
            self._next[place] = message.offset() + 1
            self.newest = max(self.newest, message.timestamp()[1] / 1000)
            touched.add(place)
        if touched:
            self._consumer.commit(offsets=self._positions(touched), asynchronous=True)

    def _confirmed(self, error: ck.KafkaError | None, partitions: list[ck.TopicPartition]) -> None:
        for partition in () if error else partitions:
            if partition.error is None and partition.offset >= 0:
                self._committed[partition.topic, partition.partition] = partition.offset

    def _positions(self, places: Iterable[Place]) -> list[ck.TopicPartition]:
        return [ck.TopicPartition(*place, self._next[place]) for place in places]

    @property
    def committed(self) -> int:
        """How many records it has committed, as the broker has confirmed it."""
        return sum(self._committed.values())

    def has(self, ends: Mapping[Place, int]) -> bool:
        """Whether it has read to these ends. Raises what its thread ended with."""
        if self._broke is not None:
            raise self._broke
        return all(self._next.get(place, 0) >= end for place, end in ends.items())

    def finish(self) -> Outside:
        """Commit the last position and end. Nothing may be read afterwards."""
        self._ends.set()
        self._thread.join()
        found: list[ck.TopicPartition] = []
        if self._next:
            deadline = time.monotonic() + _CALL_S
            while True:
                try:
                    self._consumer.commit(offsets=self._positions(self._next), asynchronous=False)
                    break
                except ck.KafkaException:
                    if time.monotonic() > deadline:
                        break  # the verdict says what is not committed
                    self._consumer.poll(0.1)
            found = self._consumer.committed(self._positions(self._next), _CALL_S)
        return Outside(self._reads, {(one.topic, one.partition): one.offset for one in found}, self.back_s)

    def close(self) -> None:
        self._ends.set()
        self._thread.join()
        self._consumer.close()


def verify_code(front: Edge) -> int:
    """What a client says of the certificate on Kafka's port: OpenSSL's X509_V_ERR number, 0 when all is well."""
    try:
        with front.open("localhost", port=front.kafka_port):
            return 0
    except ssl.SSLCertVerificationError as error:
        return error.verify_code


def serial(front: Edge) -> int:
    """Of the certificate on Kafka's port."""
    with front.open("localhost", port=front.kafka_port) as client:
        return int(client.socket.getpeercert()["serialNumber"], 16)  # type: ignore[attr-defined]


def refused(front: Edge, topic: str, timeout_s: float = 60.0) -> bool:
    """Whether another stock consumer is turned away for the certificate's sake. False: it read something."""
    said: list[str] = []
    consumer = ck.Consumer({**settings(front), "error_cb": lambda error: said.append(str(error))})
    try:
        consumer.subscribe([topic])
        deadline = time.monotonic() + timeout_s
        while not any(_REFUSED in text for text in said):
            message = consumer.poll(0.1)
            if message is not None and not message.error():
                return False
            assert time.monotonic() < deadline, f"neither refused nor let in: {said}"
        return True
    finally:
        consumer.close()
