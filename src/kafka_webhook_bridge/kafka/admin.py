"""Topics, their settings and ids, and what the cluster can do. Blocking calls with a time limit, safe in any thread."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import confluent_kafka as ck

from kafka_webhook_bridge.errors import KafkaError
from kafka_webhook_bridge.kafka.calls import CALL_TIMEOUT_S, Calls, ck_admin
from kafka_webhook_bridge.kafka.errors import blame, code_of, reason_of
from kafka_webhook_bridge.observability import logs
from kafka_webhook_bridge.observability.durability import Verdict, of_topic
from kafka_webhook_bridge.settings import KafkaSettings

_VISIBLE_TIMEOUT_S = 10.0  # until a new topic is known to the broker that is asked
_SETTING_REFUSED = frozenset(
    {ck.KafkaError.INVALID_CONFIG, ck.KafkaError.POLICY_VIOLATION, ck.KafkaError.INVALID_REQUEST}
)
_MISSING = frozenset({ck.KafkaError.UNKNOWN_TOPIC_OR_PART, ck.KafkaError._UNKNOWN_TOPIC})
_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """A topic as the cluster describes it. `settings` is empty when the bridge may not read them.

    `operations` are what the bridge's user may do with it (`read`, `write`, …); `warnings` what a provider refused.
    """

    name: str
    topic_id: str
    partitions: int
    replicas: int
    under_replicated: int = 0
    settings: Mapping[str, str] = field(default_factory=dict)
    operations: frozenset[str] = frozenset()
    created: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def record_bytes_max(self) -> int | None:
        """`max.message.bytes`, None when unknown."""
        value = self.settings.get("max.message.bytes")
        return int(value) if value else None

    def differences(self, wanted: Mapping[str, str]) -> list[tuple[str, str, str]]:
        """(setting, as it is, as the bridge makes it) where they differ."""
        return [
            (name, self.settings[name], value)
            for name, value in wanted.items()
            if name in self.settings and self.settings[name] != value
        ]

    @property
    def verdict(self) -> Verdict:
        """What an acknowledgement of this topic is worth."""
        return of_topic(self.replicas, self.settings)

    @property
    def durability(self) -> str:
        """The same in words."""
        return self.verdict.words

    @property
    def survives_power_cut(self) -> bool | None:
        """Whether an acknowledged record outlives one broker; None when the settings are unknown."""
        return self.verdict.durable


@dataclass(frozen=True, slots=True)
class Broker:
    """One broker and its limits; None where the bridge may not read them."""

    broker_id: int
    address: str
    settings: Mapping[str, str] | None


@dataclass(frozen=True, slots=True)
class Cluster:
    """The cluster as doctor sees it. `operations` are what the bridge's user may do with the cluster itself."""

    cluster_id: str
    controller: str
    brokers: tuple[Broker, ...]
    operations: frozenset[str]


def request_bytes_max(brokers: Iterable[Broker]) -> int | None:
    """The largest request that every broker takes (`socket.request.max.bytes`), None when none shows it.

    A broker cuts the connection over a larger one, and other records die with it.
    """
    limits = [int((broker.settings or {}).get("socket.request.max.bytes", 0)) for broker in brokers]
    return min(filter(None, limits), default=None)


class Admin(Calls):
    """The cluster's administration. Raises KafkaError, whose message names Kafka's error, and ConfigError at once."""

    def __init__(self, settings: KafkaSettings, *, timeout_s: float = CALL_TIMEOUT_S, client_id: str = "kwb-admin"):
        super().__init__(settings, client_id, timeout_s=timeout_s)
        self._log = logs.get_logger("kafka")

    # ── topics ────────────────────────────────────────────────────────────────────────────────────────────────────

    def wanted_settings(self, replicas: int, record_bytes_max: int) -> dict[str, str]:
        """The settings of topics that the bridge makes (rules.md 10)."""
        wanted = {
            "message.timestamp.type": "LogAppendTime",
            "cleanup.policy": "delete",
            "retention.ms": str(self._settings.topic_retention_days * _DAY_MS),
            "max.message.bytes": str(record_bytes_max),
        }
        if replicas >= 3:
            wanted["min.insync.replicas"] = "2"
        if replicas == 1:
            wanted["flush.messages"] = "1"  # the ack then follows an fsync
        return wanted

    def planned(self, brokers: int) -> TopicInfo:
        """A topic as the bridge would make it with so many brokers."""
        replicas = max(1, min(self._settings.topic_replication_max, brokers))
        return TopicInfo("", "", self._settings.topic_partitions, replicas, settings=self.wanted_settings(replicas, 0))

    def list_topics(self) -> list[str]:
        """Names of all topics that the user may see, sorted, the cluster's own (`__…`) left out."""
        try:
            found = self._client.list_topics(timeout=self._timeout_s).topics
        except ck.KafkaException as failure:
            raise self._failed("listing the topics", failure) from failure
        return sorted(name for name in found if not name.startswith("__"))

    def topic_ids(self, names: Iterable[str], *, skip_denied: bool = False) -> dict[str, str]:
        """Id of each topic that exists, as a UUID's text.

        `skip_denied` leaves out, and logs, topics that the user may not see, so that they do not stop the others.
        """
        found = self._describe(names, operations=False, skip_denied=skip_denied)
        return {name: info.topic_id for name, info in found.items()}

    def describe(self, names: Iterable[str]) -> dict[str, TopicInfo]:
        """Each topic that exists, with its settings where they may be read."""
        topics = self._describe(names, operations=True)
        settings = self._topic_settings(topics)
        return {name: replace(info, settings=settings.get(name, {})) for name, info in topics.items()}

    def writable(self, name: str) -> TopicInfo | str:
        """The topic, or the reason why nothing can be written to it: `UNKNOWN_TOPIC`, `TOPIC_AUTHORIZATION_FAILED`."""
        try:
            info = self.describe([name]).get(name)
        except KafkaError as error:
            inner = error.__cause__.args[0] if error.__cause__ and error.__cause__.args else None
            if isinstance(inner, ck.KafkaError) and blame(inner.name()) == "topic":
                return reason_of(inner.name())
            raise
        if info is None:
            return "UNKNOWN_TOPIC"
        if info.operations and "write" not in info.operations:
            return "TOPIC_AUTHORIZATION_FAILED"
        return info

    def ensure_topic(self, name: str, record_bytes_max: int) -> TopicInfo:
        """The topic, made by rules.md 10 when it does not exist. Made or found, its real settings are told.

        A setting that the provider refuses is left out, logged and told in `warnings`. What exists is never altered.
        """
        found = self.describe([name])
        if name in found:
            return found[name]
        brokers = len(self._nodes())
        replicas = max(1, min(self._settings.topic_replication_max, brokers))
        settings = self.wanted_settings(replicas, record_bytes_max)
        warnings: list[str] = []
        created = self._create(name, replicas, settings, warnings)
        for warning in warnings:
            self._log.warning("the provider refused a setting of a new topic", topic=name, refused=warning)
        info = self._await_topic(name)
        self._log.info("topic made", topic=name, partitions=info.partitions, replicas=info.replicas)
        return replace(info, created=created, warnings=tuple(warnings))

    def check_create(self, name: str, record_bytes_max: int) -> list[str]:
        """Ask the cluster whether it would make such a topic, without making it. The settings it would refuse."""
        replicas = max(1, min(self._settings.topic_replication_max, len(self._nodes())))
        warnings: list[str] = []
        self._create(name, replicas, self.wanted_settings(replicas, record_bytes_max), warnings, validate_only=True)
        return warnings

    def _create(
        self, name: str, replicas: int, settings: dict[str, str], warnings: list[str], *, validate_only: bool = False
    ) -> bool:
        """Whether this call made the topic. Takes out of `settings` what is refused, into `warnings`."""
        while True:
            topic = ck_admin.NewTopic(name, self._settings.topic_partitions, replicas, config=settings)
            future = self._client.create_topics([topic], request_timeout=self._timeout_s, validate_only=validate_only)[
                name
            ]
            try:
                future.result(self._timeout_s + 1)
                return True
            except (ck.KafkaException, TimeoutError) as failure:
                code = code_of(failure)
                if code == ck.KafkaError.TOPIC_ALREADY_EXISTS:
                    return False
                if code not in _SETTING_REFUSED or not settings:
                    raise self._failed(f"making the topic {name}", failure) from failure
                said = str(failure.args[0].str())
                refused = next((setting for setting in settings if setting in said), next(reversed(settings)))
                warnings.append(f"{refused}={settings.pop(refused)}: {said}")

    def _await_topic(self, name: str) -> TopicInfo:
        """A new topic is known to all brokers, and its partitions have leaders that answer, a moment later."""
        deadline = time.monotonic() + _VISIBLE_TIMEOUT_S
        while True:
            found = self.describe([name])
            late = time.monotonic() > deadline
            if name in found and (late or (found[name].settings and self._is_led(name))):
                return found[name]
            if late:
                raise KafkaError(
                    f"Kafka made the topic {name}, but does not show it after {_VISIBLE_TIMEOUT_S:.0f} s",
                    hint="Grant the bridge's user Describe on it.",
                )
            time.sleep(0.05)

    def _is_led(self, name: str) -> bool:
        """Whether the leader of every partition answers: it alone knows the ends of the log."""
        try:
            return bool(self.offsets([name]).get(name))
        except KafkaError:
            return False

    def delete_topic(self, name: str) -> None:
        """Delete a topic with all its records."""
        futures = self._client.delete_topics([name], request_timeout=self._timeout_s)
        self._wait(f"deleting the topic {name}", futures.values())

    def offsets(self, names: Iterable[str]) -> dict[str, dict[int, tuple[int, int]]]:
        """First and next offset of each partition: their difference bounds the number of records."""
        topics = self._describe(names, operations=False)
        places = [ck.TopicPartition(name, p) for name, info in topics.items() for p in range(info.partitions)]
        if not places:
            return {}
        ends = []
        for spec in (ck_admin.OffsetSpec.earliest(), ck_admin.OffsetSpec.latest()):
            futures = self._client.list_offsets(dict.fromkeys(places, spec), request_timeout=self._timeout_s)
            results = self._wait("reading the ends of the topics", futures.values())
            ends.append({(p.topic, p.partition): r.offset for p, r in zip(futures, results, strict=True)})
        found: dict[str, dict[int, tuple[int, int]]] = {name: {} for name in topics}
        for (topic, partition), start in ends[0].items():
            found[topic][partition] = (start, ends[1][topic, partition])
        return found

    def offsets_at(self, name: str, time_ms: int) -> dict[int, int]:
        """In each partition of a topic the first offset with a timestamp of `time_ms` or later, -1 where none has."""
        topics = self._describe([name], operations=False)
        places = [ck.TopicPartition(name, p) for info in topics.values() for p in range(info.partitions)]
        spec = ck_admin.OffsetSpec.for_timestamp(time_ms)
        if not places:
            return {}
        futures = self._client.list_offsets(dict.fromkeys(places, spec), request_timeout=self._timeout_s)
        results = self._wait(f"finding a time in {name}", futures.values())
        return {place.partition: result.offset for place, result in zip(futures, results, strict=True)}

    def _describe(self, names: Iterable[str], *, operations: bool, skip_denied: bool = False) -> dict[str, TopicInfo]:
        wanted = sorted(set(names))
        if not wanted:
            return {}
        futures = self._client.describe_topics(
            ck.TopicCollection(wanted), include_authorized_operations=operations, request_timeout=self._timeout_s
        )
        found = {}
        deadline = time.monotonic() + self._timeout_s
        for name, future in futures.items():
            try:
                found[name] = _topic_info(future.result(max(0.05, deadline - time.monotonic())))
            except (ck.KafkaException, TimeoutError) as failure:
                if code_of(failure) in _MISSING:
                    continue
                error = self._failed(f"describing the topic {name}", failure)
                if not skip_denied or code_of(failure) != ck.KafkaError.TOPIC_AUTHORIZATION_FAILED:
                    raise error from failure
                self._log.warning("topic left out", topic=name, error=error.message, hint=error.hint)
        return found

    def _topic_settings(self, names: Iterable[str]) -> dict[str, dict[str, str]]:
        resources = [ck_admin.ConfigResource(ck_admin.ResourceType.TOPIC, name) for name in names]
        if not resources:
            return {}
        found = {}
        deadline = time.monotonic() + self._timeout_s
        for resource, future in self._client.describe_configs(resources, request_timeout=self._timeout_s).items():
            try:
                entries = future.result(max(0.05, deadline - time.monotonic()))
            except ck.KafkaException as failure:
                if code_of(failure) in _MISSING or code_of(failure) == ck.KafkaError.TOPIC_AUTHORIZATION_FAILED:
                    continue
                raise self._failed(f"reading the settings of {resource.name}", failure) from failure
            except TimeoutError as failure:
                raise self._failed(f"reading the settings of {resource.name}", failure) from failure
            found[resource.name] = {entry.name: entry.value for entry in entries.values() if entry.value is not None}
        return found

    # ── the cluster ───────────────────────────────────────────────────────────────────────────────────────────────

    def cluster(self) -> Cluster:
        """The brokers, their limits where they may be read, and what the user may do. For `kwb doctor` alone.

        librdkafka ends the whole process when a broker that has just started knows of no broker yet and is asked to
        describe the cluster (2.16, an assertion in rd_kafka_admin_response_parse), so no bridge may ask that.
        """
        brokers = self.brokers()
        future = self._client.describe_cluster(include_authorized_operations=True, request_timeout=self._timeout_s)
        (result,) = self._wait("describing the cluster", [future])
        controller = f"{result.controller.host}:{result.controller.port}" if result.controller else ""
        return Cluster(result.cluster_id or "", controller, brokers, _operations(result.authorized_operations))

    def brokers(self) -> tuple[Broker, ...]:
        """Every broker, with its limits where they may be read."""
        return tuple(
            Broker(node.id, f"{node.host}:{node.port}", self._broker_settings(node.id))
            for node in sorted(self._nodes(), key=lambda node: int(node.id))
        )

    def _nodes(self) -> Sequence[Any]:
        try:
            return list(self._client.list_topics(timeout=self._timeout_s).brokers.values())
        except ck.KafkaException as failure:
            raise self._failed("listing the brokers", failure) from failure

    def _broker_settings(self, broker_id: int) -> dict[str, str] | None:
        resource = ck_admin.ConfigResource(ck_admin.ResourceType.BROKER, str(broker_id))
        future = self._client.describe_configs([resource], request_timeout=self._timeout_s)[resource]
        try:
            entries = future.result(self._timeout_s + 1)
        except (ck.KafkaException, TimeoutError):
            return None
        return {entry.name: entry.value for entry in entries.values() if entry.value is not None}


def _topic_info(description: Any) -> TopicInfo:
    partitions = description.partitions
    return TopicInfo(
        name=description.name,
        topic_id=_uuid_text(description.topic_id),
        partitions=len(partitions),
        replicas=min((len(partition.replicas) for partition in partitions), default=0),
        under_replicated=sum(len(partition.isr) < len(partition.replicas) for partition in partitions),
        operations=_operations(description.authorized_operations),
    )


def _operations(found: Iterable[Any] | None) -> frozenset[str]:
    return frozenset(str(operation.name).lower() for operation in found or ())


def _uuid_text(kafka_id: Any) -> str:
    high, low = kafka_id.get_most_significant_bits(), kafka_id.get_least_significant_bits()
    return str(uuid.UUID(int=(high & (2**64 - 1)) << 64 | (low & (2**64 - 1))))
