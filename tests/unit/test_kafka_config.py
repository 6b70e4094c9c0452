"""How clients connect by default, and the sizes of rules.md 9."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from kafka_webhook_bridge.errors import ConfigError, KafkaError
from kafka_webhook_bridge.kafka.admin import TopicInfo
from kafka_webhook_bridge.kafka.config import (
    body_bytes_limit,
    client_config,
    record_bytes_limit,
    record_bytes_needed,
    security_protocol,
)
from kafka_webhook_bridge.kafka.errors import HINTS, translate
from kafka_webhook_bridge.settings import KafkaSettings

MIB = 1024**2


@pytest.mark.parametrize(
    ("servers", "user", "expected"),
    [
        ("127.0.0.1:9094", "bridge", "SASL_PLAINTEXT"),
        ("localhost:9094,[::1]:9094", "bridge", "SASL_PLAINTEXT"),
        ("127.0.0.1:9094,kafka.example.com:9094", "bridge", "SASL_SSL"),
        ("kafka:9094", "bridge", "SASL_SSL"),
        ("127.0.0.1.example.com:9094", "bridge", "SASL_SSL"),
        ("kafka:9094", "", "PLAINTEXT"),
    ],
)
def test_a_password_crosses_no_network_in_clear_by_default(servers: str, user: str, expected: str) -> None:
    assert security_protocol(KafkaSettings(bootstrap_servers=servers, username=user)) == expected


def test_the_setting_wins() -> None:
    settings = KafkaSettings(
        bootstrap_servers="k:1", username="u", password=SecretStr("p"), security_protocol="SASL_PLAINTEXT"
    )
    config = client_config(settings, **{"client.id": "x"})
    assert (config["security.protocol"], config["client.id"]) == ("SASL_PLAINTEXT", "x")
    assert (config["sasl.username"], config["sasl.password"]) == ("u", "p")


@pytest.mark.parametrize(
    "servers", ["k", "k:9092", " a:1, b:2 ,", "[::1]:9092", "SASL_SSL://k.example.com:9096", "a_b:1"]
)
def test_servers(servers: str) -> None:
    assert client_config(KafkaSettings(bootstrap_servers=servers))["bootstrap.servers"] == servers


@pytest.mark.parametrize("server", ["a b:1", "k:port", "k:99999", "k:1/x", "::1", "k:"])
def test_what_is_no_server_is_told(server: str) -> None:
    with pytest.raises(ConfigError) as caught:
        client_config(KafkaSettings(bootstrap_servers=f"k:1,{server}"))
    assert caught.value.message == f"KAFKA_BOOTSTRAP_SERVERS: {server!r} is not host:port"


def test_authorities_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    for name, words in (("ca.pem", "no PEM certificate is in there"), ("no.pem", "No such file or directory")):
        settings = KafkaSettings(bootstrap_servers="k:1", security_protocol="SSL", ssl_ca=str(tmp_path / name))
        with pytest.raises(ConfigError) as caught:
            client_config(settings)
        assert caught.value.message == f"KWB_KAFKA_SSL_CA: {tmp_path / name}: {words}"


def test_rule_9_a_record_holds_the_largest_body_in_any_format() -> None:
    assert record_bytes_limit(MIB) == 16 * MIB
    assert record_bytes_limit(10 * MIB) == 16 * MIB
    assert record_bytes_needed(3 * MIB) == 4 * MIB + 128 * 1024
    for body in (0, 1, 2, 1000, MIB, 10 * MIB):
        assert body_bytes_limit(record_bytes_needed(body)) >= body
        assert record_bytes_needed(body_bytes_limit(record_bytes_needed(body))) <= record_bytes_needed(body)
    assert body_bytes_limit(1000) == 0


@pytest.mark.parametrize(
    ("replicas", "settings", "words", "survives"),
    [
        (1, {"flush.messages": "1"}, "one broker, on disk before the ack", True),
        (1, {"flush.messages": "9223372036854775807"}, "one broker, in memory: lost with its power", False),
        (3, {"min.insync.replicas": "2"}, "on ≥ 2 of 3 brokers", True),
        (3, {"min.insync.replicas": "1"}, "on ≥ 1 of 3 brokers, one may be the only copy", False),
        (3, {}, "3 replicas, settings unknown", None),
    ],
)
def test_durability_in_words(replicas: int, settings: dict[str, str], words: str, survives: bool | None) -> None:
    info = TopicInfo("t", "id", 6, replicas, settings=settings)
    assert (info.durability, info.survives_power_cut) == (words, survives)


def test_a_bare_time_out_names_no_cause_but_says_where_to_look() -> None:
    error = translate("describing the cluster", TimeoutError())
    assert isinstance(error, KafkaError)
    assert error.message == "Kafka failed while describing the cluster: no answer in time"
    assert "KAFKA_BOOTSTRAP_SERVERS" in error.hint
    assert all(hint.endswith(".") or hint.endswith("?") for hint in HINTS.values())
