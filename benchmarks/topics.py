"""The topics of a benchmark: made before a run, counted after it, deleted at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

PARTITIONS = 6
_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """The broker under load."""

    bootstrap: str
    username: str
    password: str

    def client_config(self) -> dict[str, object]:
        return {
            "bootstrap.servers": self.bootstrap,
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanisms": "PLAIN",
            "sasl.username": self.username,
            "sasl.password": self.password,
            "log_level": 0,
        }


class Topics:
    """Makes and counts topics of one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._admin = AdminClient(cluster.client_config())
        self._reader = Consumer({**cluster.client_config(), "group.id": "benchmark", "enable.auto.commit": False})

    def close(self) -> None:
        self._reader.close()

    @contextmanager
    def topic(self, name: str, *, flush: bool) -> Iterator[str]:
        """A topic as the bridge makes it, with or without `flush.messages=1` (an ack follows an fsync)."""
        config = {"message.timestamp.type": "LogAppendTime", "file.delete.delay.ms": "1000"}
        if flush:
            config["flush.messages"] = "1"
        made = self._admin.create_topics([NewTopic(name, PARTITIONS, 1, config=config)], request_timeout=_TIMEOUT_S)
        made[name].result(_TIMEOUT_S)
        try:
            yield name
        finally:
            self.delete(name)

    def delete(self, name: str) -> None:
        """With all its records. Comes back when it is gone, so that it can be made anew."""
        self._admin.delete_topics([name], request_timeout=_TIMEOUT_S)[name].result(_TIMEOUT_S)
        deadline = time.monotonic() + _TIMEOUT_S
        while name in self._admin.list_topics(timeout=_TIMEOUT_S).topics and time.monotonic() < deadline:
            time.sleep(0.1)

    def count(self, topic: str) -> int:
        """Records in the topic: the sum of its partitions' end offsets (no transactions, nothing compacted)."""
        deadline = time.monotonic() + _TIMEOUT_S
        while True:
            try:
                return sum(
                    self._reader.get_watermark_offsets(TopicPartition(topic, partition), timeout=_TIMEOUT_S)[1]
                    for partition in range(PARTITIONS)
                )
            except Exception:  # a fresh topic's leaders are known a moment later
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def event_ids(self, topic: str) -> Iterator[str]:
        """`ce_id` of every record that is in the topic now, as often as it is there."""
        ends = {}
        for partition in range(PARTITIONS):
            low, high = self._reader.get_watermark_offsets(TopicPartition(topic, partition), timeout=_TIMEOUT_S)
            if high > low:
                ends[partition] = high
        self._reader.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in ends])
        while ends:
            messages = self._reader.consume(1_000, timeout=_TIMEOUT_S)
            if not messages:
                raise SystemExit(f"the topic {topic} cannot be read to its end")
            for message in messages:
                if message.error():
                    raise SystemExit(f"the topic {topic} cannot be read: {message.error()}")
                yield dict(message.headers() or ())["ce_id"].decode()
                if message.offset() + 1 >= ends.get(message.partition(), message.offset() + 2):
                    del ends[message.partition()]
        self._reader.unassign()
