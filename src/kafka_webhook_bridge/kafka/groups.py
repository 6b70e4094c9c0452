"""How far consumer groups are: what they have read, and what waits for them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import confluent_kafka as ck
import confluent_kafka.admin

from kafka_webhook_bridge.kafka import login
from kafka_webhook_bridge.kafka.admin import Admin
from kafka_webhook_bridge.kafka.config import client_config
from kafka_webhook_bridge.kafka.errors import translate
from kafka_webhook_bridge.settings import KafkaSettings

ck_admin: Any = confluent_kafka.admin  # it does not export its names to type checkers


@dataclass(frozen=True, slots=True)
class Progress:
    """One group. `passed` is the sum of its positions, `lag` the records between them and the ends of the topics.

    Both count offsets, which bound records. Of a topic that the group has a position in, partitions without one count
    from their first record.
    """

    group: str
    passed: int
    lag: int


class Groups:
    """Blocking calls with a time limit, safe in any thread. Raises KafkaError, and ConfigError at once."""

    def __init__(self, settings: KafkaSettings, *, timeout_s: float = 10.0) -> None:
        self._timeout_s = timeout_s
        self._client = ck_admin.AdminClient(client_config(settings, **{"client.id": "kwb-groups"}))
        self._admin = Admin(settings, timeout_s=timeout_s)
        login.follow(self, settings)

    def log_in(self, username: str, password: str) -> None:
        """Use another password from the next connection on."""
        self._client.set_sasl_credentials(username, password)

    def states(self) -> dict[str, str]:
        """Every group that the bridge may see, and its state in Kafka's words (`stable`, `empty`)."""
        (found,) = self._wait(
            "listing the consumer groups", [self._client.list_consumer_groups(request_timeout=self._timeout_s)]
        )
        return {group.group_id: group.state.name.lower() for group in found.valid}

    def progress(self, groups: Iterable[str]) -> dict[str, Progress]:
        """How far each of `groups` is now."""
        doing = "reading the positions of consumer groups"
        asked = [
            self._client.list_consumer_group_offsets(
                [ck.ConsumerGroupTopicPartitions(group)], request_timeout=self._timeout_s
            )[group]
            for group in groups
        ]
        positions = {
            found.group_id: {
                (place.topic, place.partition): place.offset
                for place in found.topic_partitions or ()
                if place.offset >= 0 and place.error is None
            }
            for found in self._wait(doing, asked)
        }
        topics = {topic for own in positions.values() for topic, _ in own}
        offsets = self._admin.offsets(topics)  # later than the positions, so that no lag is negative
        return {group: _progress(group, own, offsets) for group, own in positions.items()}

    def _wait(self, doing: str, futures: Iterable[Any]) -> list[Any]:
        """All results by one deadline."""
        deadline = time.monotonic() + self._timeout_s + 1  # librdkafka's own end is the better answer
        try:
            return [future.result(max(0.05, deadline - time.monotonic())) for future in futures]
        except (ck.KafkaException, TimeoutError) as failure:
            raise translate(doing, failure) from failure


def _progress(
    group: str, positions: Mapping[tuple[str, int], int], offsets: Mapping[str, Mapping[int, tuple[int, int]]]
) -> Progress:
    """`offsets` are the first and the next of each partition; topics that are gone are not there."""
    lag = sum(
        max(0, end - positions.get((topic, partition), start))
        for topic in {topic for topic, _ in positions}
        for partition, (start, end) in offsets.get(topic, {}).items()
    )
    return Progress(group, sum(positions.values()), lag)
