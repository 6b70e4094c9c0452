"""Kafka as compose.yaml starts it: from its environment, by the image's own set-up program."""

from __future__ import annotations

import re
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import confluent_kafka as ck
import confluent_kafka.admin
import pytest
import yaml
from compose_kafka import ComposeKafka, compose, environment, interpolate, properties, service

from kafka_webhook_bridge.kafka.config import client_config
from kafka_webhook_bridge.kafka.probe import await_broker
from kafka_webhook_bridge.kafka.users import Users
from kafka_webhook_bridge.stack import Kafka
from raw_kafka import Raw

REFUSED, UNSUPPORTED_MECHANISM = 58, 33
# What may differ between the embedded broker and the container's, and why.
ALLOWED_DIFFERENCES = {
    "listeners": "addresses",
    "advertised.listeners": "addresses",
    "controller.quorum.voters": "addresses",
    "log.dirs": "a path",
    "listener.name.internal.plain.sasl.jaas.config": "the password comes from the secret's file",
    "listener.name.broker.plain.sasl.jaas.config": "the password comes from the secret's file",
    "listener.name.proxy.plain.sasl.jaas.config": "`kwb up` may name consumers that know PLAIN alone",
    "config.providers": "reads the secret's file",
    "config.providers.secrets.class": "reads the secret's file",
    "config.providers.secrets.param.allowed.paths": "reads the secret's file",
}


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComposeKafka]:
    broker = ComposeKafka(tmp_path_factory.mktemp("compose"))
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()


def plain(port: int, password: str) -> int:
    """The error code of the bridge's login: 0, or 58."""
    with Raw(port) as raw:
        assert raw.handshake(b"PLAIN") == 0
        return raw.plain(b"bridge", password.encode()).code


def test_the_bridge_works_on_internal(kafka: ComposeKafka) -> None:
    assert plain(kafka.internal, kafka.password) == 0
    assert plain(kafka.internal, "wrong") == REFUSED


def test_rule_7_proxy_knows_scram_alone_and_never_the_bridges_password(kafka: ComposeKafka) -> None:
    with Raw(kafka.proxy) as raw:
        assert raw.handshake(b"PLAIN") == UNSUPPORTED_MECHANISM
    with Raw(kafka.proxy) as raw:
        assert raw.handshake() == 0
        assert raw.scram(b"bridge", kafka.password.encode()).code == REFUSED


def test_a_partner_reads_and_nobody_makes_a_topic_by_writing(
    kafka: ComposeKafka, topic: str, java_consumer: Callable[..., bytes]
) -> None:
    settings = kafka.settings()
    config = {
        "bootstrap.servers": settings.bootstrap_servers, "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN", "sasl.username": "bridge", "sasl.password": kafka.password,
        "message.timeout.ms": 1_500,
    }  # fmt: skip
    producer = ck.Producer(config)
    failures: list[Any] = []
    producer.produce(topic, b"early", on_delivery=lambda error, _: failures.append(error))
    producer.flush(60)
    assert failures[0] is not None
    admin: Any = confluent_kafka.admin
    client = admin.AdminClient(config)
    assert topic not in client.list_topics(timeout=60).topics
    client.create_topics([admin.NewTopic(topic, 1, 1)])[topic].result(60)
    password = secrets.token_hex(12)
    users = Users(settings)
    users.put("partner", password)
    users.allow_reading("partner")
    producer = ck.Producer({**config, "message.timeout.ms": 60_000})
    producer.produce(topic, b"hello")
    assert producer.flush(60) == 0
    proxy: Any = SimpleNamespace(proxy_bootstrap=f"127.0.0.1:{kafka.proxy}")
    assert b"hello" in java_consumer(proxy, topic, 1, user="partner", password=password)


def test_a_new_password_in_the_secrets_file_holds_after_a_restart(kafka: ComposeKafka) -> None:
    old = kafka.password
    kafka.write_password(secrets.token_hex(16))
    kafka.stop()
    kafka.start()
    assert await_broker(kafka.settings(), 60)
    assert plain(kafka.internal, old) == REFUSED


def test_its_settings_are_the_embedded_brokers_but_for_those_named(kafka: ComposeKafka, folder: Path) -> None:
    embedded = Kafka(folder / "kafka")
    try:
        embedded.launch()
        ours = properties(embedded.folder / "server.properties")
    finally:
        embedded.destroy()
    theirs = properties(kafka.final / "server.properties")
    differ = {name for name in ours | theirs if ours.get(name) != theirs.get(name)}
    assert differ == set(ALLOWED_DIFFERENCES)


def test_no_password_is_written_into_the_configuration_or_the_log(kafka: ComposeKafka) -> None:
    assert kafka.password not in (kafka.final / "server.properties").read_text()
    assert kafka.password not in kafka.log()


@pytest.fixture
def question(kafka: ComposeKafka) -> Callable[[int], list[str]]:
    """`question(port)` is the health check of the service, asked at that port."""
    test = [interpolate(word) for word in service("kafka")["healthcheck"]["test"]]
    assert test[0] == "CMD"
    assert "9094" in test[-1]
    return lambda port: [word.replace("9094", str(port)) for word in test[1:]]


def test_the_health_check_wants_an_answer_and_no_open_port(
    kafka: ComposeKafka, question: Callable[[int], list[str]]
) -> None:
    def healthy(port: int) -> bool:
        return subprocess.run(question(port), capture_output=True, timeout=60, check=False).returncode == 0

    assert healthy(kafka.internal)
    with socket.create_server(("127.0.0.1", 0)) as mute:  # takes connections and says nothing, as without memory
        port = mute.getsockname()[1]
        assert not healthy(port)
    assert not healthy(port)


def test_what_groups_keep_on_the_heap_is_bounded(kafka: ComposeKafka, topic: str) -> None:
    settings = kafka.settings()
    admin: Any = confluent_kafka.admin
    config = client_config(settings)
    client = admin.AdminClient(config)
    client.create_topics([admin.NewTopic(topic, 1, 1)])[topic].result(60)

    def commit(letters: int) -> Any:
        consumer = ck.Consumer({**config, "group.id": f"metadata-{letters}"})
        try:
            offset = ck.TopicPartition(topic, 0, 1, "m" * letters)
            return consumer.commit(offsets=[offset], asynchronous=False)[0].error
        finally:
            consumer.close()

    assert commit(511) is None  # librdkafka counts its own end, too
    with pytest.raises(ck.KafkaException) as refused:
        commit(513)
    assert refused.value.args[0].code() == ck.KafkaError.OFFSET_METADATA_TOO_LARGE
    consumer = ck.Consumer(
        {**config, "group.id": "patient", "session.timeout.ms": 300_001, "max.poll.interval.ms": 400_000}
    )
    try:
        consumer.subscribe([topic])
        deadline = time.monotonic() + 60
        while (message := consumer.poll(1)) is None:
            assert time.monotonic() < deadline, "a session of more than five minutes was let in"
        assert message.error().code() == ck.KafkaError.INVALID_SESSION_TIMEOUT
    finally:
        consumer.close()


def test_the_controller_is_bound_to_loopback() -> None:
    addresses = re.findall(r"CONTROLLER://([^,]+)", environment()["KAFKA_LISTENERS"])
    assert addresses == ["127.0.0.1:9093"]
    assert "CONTROLLER" not in environment()["KAFKA_ADVERTISED_LISTENERS"]
    assert "ports" not in service("kafka")


def test_compose_yaml_has_no_password() -> None:
    for match in re.finditer(r'(?i)password["=: ]+([^\s"]+)', yaml.safe_dump(environment())):
        assert match[1].startswith("${secrets:"), match[0]
    named = [
        (name, str(value))
        for one in compose()["services"].values()
        for name, value in (one.get("environment") or {}).items()
        if re.search("PASSWORD|SECRET|TOKEN|DATABASE_URL", name) and "JAAS" not in name and "PROVIDERS" not in name
    ]
    assert named
    assert [one for one in named if not one[1].startswith(("file:/run/secrets/", "/run/secrets/"))] == []
    assert all(set(secret) == {"file"} for secret in compose()["secrets"].values())
