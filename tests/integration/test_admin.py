"""Topics and cluster facts on the real broker."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace

import confluent_kafka as ck
import pytest
from pydantic import SecretStr

from kafka_webhook_bridge.errors import ConfigError, KafkaError
from kafka_webhook_bridge.kafka.admin import Admin
from kafka_webhook_bridge.kafka.config import client_config, record_bytes_limit
from kafka_webhook_bridge.kafka.groups import Groups
from kafka_webhook_bridge.kafka.users import Users
from kafka_webhook_bridge.settings import KafkaSettings
from kafka_webhook_bridge.stack import Stack

RECORD_BYTES_MAX = record_bytes_limit(1024**2)


@pytest.fixture
def admin(stack: Stack) -> Admin:
    return Admin(stack.kafka.settings)


def test_rule_10_a_new_topic_has_the_settings_of_the_promise(admin: Admin, topic: str) -> None:
    info = admin.ensure_topic(topic, RECORD_BYTES_MAX)
    assert (info.created, info.partitions, info.replicas, info.warnings) == (True, 6, 1, ())
    assert info.settings["message.timestamp.type"] == "LogAppendTime"
    assert info.settings["cleanup.policy"] == "delete"
    assert info.settings["retention.ms"] == str(7 * 86_400_000)
    assert info.settings["flush.messages"] == "1"  # one replica: an ack follows an fsync
    assert info.record_bytes_max == 16 * 1024**2
    assert info.durability == "one broker, on disk before the ack"
    assert info.survives_power_cut is True
    assert uuid.UUID(info.topic_id).int != 0
    assert {"read", "write", "describe"} <= info.operations
    assert info.differences(admin.wanted_settings(1, RECORD_BYTES_MAX)) == []

    again = admin.ensure_topic(topic, 2 * RECORD_BYTES_MAX)
    assert (again.created, again.topic_id) == (False, info.topic_id)
    assert again.record_bytes_max == RECORD_BYTES_MAX  # what exists is never altered
    assert again.differences(admin.wanted_settings(1, 2 * RECORD_BYTES_MAX)) == [
        ("max.message.bytes", str(RECORD_BYTES_MAX), str(2 * RECORD_BYTES_MAX))
    ]


def test_rule_10_a_refused_setting_is_a_warning(admin: Admin, topic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker refuses a setting that it does not know; everything else is kept."""
    wanted = admin.wanted_settings(1, RECORD_BYTES_MAX) | {"no.such.setting": "1"}
    monkeypatch.setattr(Admin, "wanted_settings", lambda *_: dict(wanted))
    assert [w.partition("=")[0] for w in admin.check_create(topic, RECORD_BYTES_MAX)] == ["no.such.setting"]
    assert admin.describe([topic]) == {}  # it was only asked
    info = admin.ensure_topic(topic, RECORD_BYTES_MAX)
    assert [w.partition("=")[0] for w in info.warnings] == ["no.such.setting"]
    assert info.settings["flush.messages"] == "1"


def test_rule_19_a_topic_made_anew_has_another_id(admin: Admin, topic: str) -> None:
    admin.ensure_topic(topic, RECORD_BYTES_MAX)
    first = admin.topic_ids([topic, "no-such-topic"])
    assert list(first) == [topic]
    admin.delete_topic(topic)
    admin.ensure_topic(topic, RECORD_BYTES_MAX)
    assert admin.topic_ids([topic])[topic] != first[topic]


def test_offsets_count_the_records(stack: Stack, admin: Admin, topic: str) -> None:
    admin.ensure_topic(topic, RECORD_BYTES_MAX)
    producer = ck.Producer(client_config(stack.kafka.settings))
    for n in range(10):
        producer.produce(topic, b"x", partition=n % 2)
    assert producer.flush(10) == 0
    ends = admin.offsets([topic, "no-such-topic"])
    assert list(ends) == [topic]
    assert [ends[topic][p] for p in range(6)] == [(0, 5), (0, 5), (0, 0), (0, 0), (0, 0), (0, 0)]
    assert topic in admin.list_topics()


def test_cluster_facts(stack: Stack, admin: Admin) -> None:
    cluster = admin.cluster()
    assert [broker.address for broker in cluster.brokers] == [stack.kafka.bootstrap]
    settings = cluster.brokers[0].settings
    assert settings is not None
    assert settings["socket.request.max.bytes"] == str(20 * 1024**2)
    assert {"create", "describe"} <= cluster.operations
    assert cluster.cluster_id


def test_a_wrong_password_is_named(stack: Stack) -> None:
    settings = replace(stack.kafka.settings, password=SecretStr("canary-wrong"))
    with pytest.raises(KafkaError, match="_AUTHENTICATION") as caught:
        Admin(settings, timeout_s=5).cluster()
    assert "KAFKA_PASSWORD" in caught.value.hint
    assert "canary-wrong" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize(
    "call",
    [
        lambda settings: Admin(settings, timeout_s=2).describe(["x"]),
        lambda settings: Groups(settings, timeout_s=2).states(),
        lambda settings: Groups(settings, timeout_s=2).progress(["x"]),
        lambda settings: Users(settings, timeout_s=2).put("x", "of-a-test-only"),
    ],
    ids=["topics", "groups", "progress", "users"],
)
def test_an_absent_broker_is_named(stack: Stack, call: Callable[[KafkaSettings], object]) -> None:
    settings = replace(stack.kafka.settings, bootstrap_servers="127.0.0.1:1")
    with pytest.raises(KafkaError, match="refused") as caught:
        call(settings)
    assert "KAFKA_BOOTSTRAP_SERVERS" in caught.value.hint


def test_contradicting_settings_are_found_at_once(stack: Stack) -> None:
    with pytest.raises(ConfigError) as caught:
        Admin(replace(stack.kafka.settings, bootstrap_servers="", username="", security_protocol="SASL_SSL"))
    assert [p.where for p in caught.value.problems] == ["KAFKA_BOOTSTRAP_SERVERS", "KAFKA_USERNAME"]


def test_a_topic_that_may_not_be_seen_does_not_stop_the_others(stack: Stack, admin: Admin, topic: str) -> None:
    hidden, name, password = f"{topic}-hidden", f"limited-{topic}", "of-a-test-only"
    for one in (topic, hidden):
        admin.ensure_topic(one, RECORD_BYTES_MAX)
    users = Users(stack.kafka.settings)
    users.put(name, password)
    users.allow_reading(name, [topic])
    limited = Admin(
        replace(
            stack.kafka.settings, bootstrap_servers=stack.kafka.proxy_bootstrap, username=name,
            password=SecretStr(password), sasl_mechanism="SCRAM-SHA-512",
        )
    )  # fmt: skip
    assert limited.topic_ids([topic, hidden], skip_denied=True) == admin.topic_ids([topic])
    with pytest.raises(KafkaError, match="TOPIC_AUTHORIZATION_FAILED") as caught:
        limited.topic_ids([topic, hidden])
    assert "Grant" in caught.value.hint
