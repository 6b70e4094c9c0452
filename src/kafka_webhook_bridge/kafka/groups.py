"""How far consumer groups are: what they have read, and what waits for them; and their end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import confluent_kafka as ck

from kafka_webhook_bridge.errors import KafkaError
from kafka_webhook_bridge.kafka.admin import Admin
from kafka_webhook_bridge.kafka.calls import CALL_TIMEOUT_S, Calls
from kafka_webhook_bridge.kafka.errors import code_of
from kafka_webhook_bridge.settings import KafkaSettings

_HAS_MEMBERS = "it has members; Kafka forgets it when they have been gone for offsets.retention.minutes (7 days)."


@dataclass(frozen=True, slots=True)
class Progress:
    """One group. `passed` is the sum of its positions, `lag` the records between them and the ends of the topics.

    Both count offsets, which bound records. Of a topic that the group has a position in, partitions without one count
    from their first record.
    """

    group: str
    passed: int
    lag: int


class Groups(Calls):
    """Blocking calls with a time limit, safe in any thread. Raises KafkaError, and ConfigError at once."""

    def __init__(self, settings: KafkaSettings, *, timeout_s: float = CALL_TIMEOUT_S) -> None:
        super().__init__(settings, "kwb-groups", timeout_s=timeout_s)
        self._admin = Admin(settings, timeout_s=timeout_s)

    def states(self) -> dict[str, str]:
        """Every group that the bridge may see, and its state in Kafka's words (`stable`, `empty`)."""
        doing = "listing the consumer groups"
        (found,) = self._wait(doing, [self._client.list_consumer_groups(request_timeout=self._timeout_s)])
        if found.errors:  # of a broker that did not answer: its groups are not in the list
            failure = ck.KafkaException(found.errors[0])
            raise self._failed(doing, failure) from failure
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

    def delete(self, groups: Iterable[str]) -> dict[str, str]:
        """Forget these groups and their positions. Those that stay, and why, in words."""
        wanted, stay = list(groups), {}
        asked = self._client.delete_consumer_groups(wanted, request_timeout=self._timeout_s) if wanted else {}
        for group, future in asked.items():
            try:
                self._wait("deleting a consumer group", [future])
            except KafkaError as error:
                code = code_of(error.__cause__) if error.__cause__ else None
                if code != ck.KafkaError.GROUP_ID_NOT_FOUND:
                    stay[group] = _HAS_MEMBERS if code == ck.KafkaError.NON_EMPTY_GROUP else error.message
        return stay


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
