"""How far consumer groups are: what they have read, and what waits for them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import confluent_kafka as ck
import confluent_kafka.admin

from kafka_webhook_bridge.kafka import login
from kafka_webhook_bridge.kafka.config import client_config
from kafka_webhook_bridge.kafka.errors import code_of, translate
from kafka_webhook_bridge.settings import KafkaSettings

ck_admin: Any = confluent_kafka.admin  # it does not export its names to type checkers

_GONE = frozenset({ck.KafkaError.UNKNOWN_TOPIC_OR_PART, ck.KafkaError._UNKNOWN_TOPIC, ck.KafkaError._UNKNOWN_PARTITION})


@dataclass(frozen=True, slots=True)
class Progress:
    """One group. `passed` is the sum of its positions, `lag` the records between them and the ends of the topics.

    Both count offsets, which bound records. A partition that the group never committed counts in neither.
    """

    group: str
    passed: int
    lag: int


class Groups:
    """Blocking calls with a time limit, safe in any thread. Raises KafkaError, and ConfigError at once."""

    def __init__(self, settings: KafkaSettings, *, timeout_s: float = 10.0) -> None:
        self._timeout_s = timeout_s
        self._client = ck_admin.AdminClient(client_config(settings, **{"client.id": "kwb-groups"}))
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
        ends = self._ends({place for own in positions.values() for place in own})  # later, so that no lag is negative
        return {
            group: Progress(
                group, sum(own.values()), sum(max(0, ends[place] - at) for place, at in own.items() if place in ends)
            )
            for group, own in positions.items()
        }

    def _ends(self, places: Iterable[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """The next offset of each place; topics that are gone are left out."""
        latest = ck_admin.OffsetSpec.latest()
        wanted = {ck.TopicPartition(*place): latest for place in places}
        if not wanted:
            return {}
        futures = self._client.list_offsets(wanted, request_timeout=self._timeout_s)
        found = {}
        for place, result in zip(
            futures, self._wait("reading the ends of the topics", futures.values(), _GONE), strict=True
        ):
            if result is not None:
                found[place.topic, place.partition] = result.offset
        return found

    def _wait(self, doing: str, futures: Iterable[Any], passed_over: frozenset[int] = frozenset()) -> list[Any]:
        """All results by one deadline; None for those that failed with a code of `passed_over`."""
        deadline = time.monotonic() + self._timeout_s + 1  # librdkafka's own end is the better answer
        results = []
        for future in futures:
            try:
                results.append(future.result(max(0.05, deadline - time.monotonic())))
            except (ck.KafkaException, TimeoutError) as failure:
                if code_of(failure) not in passed_over:
                    raise translate(doing, failure) from failure
                results.append(None)
        return results
