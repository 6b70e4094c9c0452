"""How clients connect by default, and the sizes of rules.md 9."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import confluent_kafka as ck
import pytest
from pydantic import SecretStr

from authority import Authority
from kafka_webhook_bridge.errors import ConfigError, KafkaError
from kafka_webhook_bridge.kafka import tokens
from kafka_webhook_bridge.kafka.admin import TopicInfo
from kafka_webhook_bridge.kafka.config import (
    body_bytes_limit,
    client_config,
    record_bytes_limit,
    record_bytes_needed,
    security_protocol,
    ssl_context,
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


@pytest.fixture
def pem(tmp_path: Path) -> dict[str, Path]:
    """A client's certificate, its key, and another key."""
    authority = Authority.named(folder=tmp_path)
    for file in ("client", "other"):
        authority.issue(tmp_path, ("bridge",), file=file)
    return {"ca": authority.ca, **{name: tmp_path / name for name in ("client.pem", "client.key", "other.key")}}


def test_rule_6_certificates_may_be_files_or_texts(pem: dict[str, Path]) -> None:
    files = [str(pem[name]) for name in ("ca", "client.pem", "client.key")]
    for kind, values in (("location", files), ("pem", ["\n" + Path(name).read_text() for name in files])):
        ca, cert, key = values
        settings = KafkaSettings(bootstrap_servers="k:1", ssl_ca=ca, ssl_cert=cert, ssl_key=SecretStr(key))
        config = client_config(settings)
        assert config["security.protocol"] == "SSL"
        assert [config[f"ssl.{name}.{kind}"] for name in ("ca", "certificate", "key")] == values
        assert {name for name in config if name.startswith("ssl.")} == {
            f"ssl.{name}.{kind}" for name in ("ca", "certificate", "key")
        }
        assert len(ssl_context(settings).get_ca_certs()) == 1
        ck.Producer(config)  # librdkafka takes them


@pytest.mark.parametrize(
    ("cert", "key", "problem"),
    [
        ("client.pem", "", "KWB_KAFKA_SSL_KEY: is not set, but KWB_KAFKA_SSL_CERT is"),
        ("", "client.key", "KWB_KAFKA_SSL_CERT: is not set, but KWB_KAFKA_SSL_KEY is"),
        ("client.pem", "other.key", "KWB_KAFKA_SSL_KEY: is of another certificate"),
        ("client.pem", "ca", "KWB_KAFKA_SSL_KEY: is no PEM private key, or an encrypted one"),
        ("client.key", "client.key", "KWB_KAFKA_SSL_CERT: no PEM certificate is in there"),
    ],
)
def test_certificates_that_cannot_be_used_are_told(pem: dict[str, Path], cert: str, key: str, problem: str) -> None:
    settings = KafkaSettings(
        bootstrap_servers="k:1", security_protocol="SSL", ssl_cert=pem[cert].read_text() if cert else "",
        ssl_key=SecretStr(pem[key].read_text()) if key else None,
    )  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        client_config(settings)
    assert caught.value.message == problem
    assert "BEGIN" not in repr(caught.value)


IAM = KafkaSettings(bootstrap_servers="k:1", sasl_mechanism="AWS_MSK_IAM", aws_region="eu-north-1")


def test_rule_6_iam_needs_neither_user_nor_password_and_never_crosses_a_network_in_clear() -> None:
    config = client_config(IAM)
    assert (config["security.protocol"], config["sasl.mechanism"]) == ("SASL_SSL", "OAUTHBEARER")
    assert callable(config["oauth_cb"])
    assert not {"sasl.username", "sasl.password"} & set(config)


@pytest.mark.parametrize(
    ("servers", "expected"),
    [
        ("b-1.orders.x1y2.c4.kafka.eu-central-1.amazonaws.com:9098,b-2.orders.x1y2.c4.kafka.eu-central-1.amazonaws.com:9098",
         "eu-central-1"),
        ("boot-x1.c1.kafka-serverless.us-east-2.amazonaws.com:9098", "us-east-2"),
        ("b-1.o.x.c1.kafka.cn-north-1.amazonaws.com.cn:9098", "cn-north-1"),
        ("kafka.example.com:9098", "eu-north-1"),
        ("b-1.kafka.eu-central-1.amazonaws.com.example.com:9098", "eu-north-1"),
    ],
)  # fmt: skip
def test_tokens_are_for_the_region_of_the_cluster(servers: str, expected: str) -> None:
    assert tokens.region(replace(IAM, bootstrap_servers=servers)) == expected


@pytest.mark.parametrize(
    ("changes", "where", "words"),
    [
        ({"aws_region": ""}, "AWS_REGION", "is not set"),
        ({"username": "u"}, "KAFKA_USERNAME", "logs in as the role"),
        ({"password": SecretStr("p")}, "KAFKA_PASSWORD", "logs in as the role"),
        ({"security_protocol": "SSL"}, "KWB_KAFKA_SECURITY_PROTOCOL", "knows no login"),
    ],
)
def test_what_is_wrong_with_iam_is_told(changes: dict[str, Any], where: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        client_config(replace(IAM, **changes))
    assert [problem.where for problem in caught.value.problems] == [where]
    assert words in caught.value.message


def test_iam_without_the_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_LIBRARY", "no_such_library")
    with pytest.raises(ConfigError, match="kafka-webhook-bridge\\[aws\\]"):
        client_config(IAM)


def test_a_token_is_signed_for_the_cluster_by_awss_own_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    token, over_s = tokens.Tokens(IAM)()
    url = urlsplit(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode())
    query = parse_qs(url.query)
    assert url.netloc == "kafka.eu-north-1.amazonaws.com"
    assert query["Action"] == ["kafka-cluster:Connect"]
    assert query["X-Amz-Credential"][0].startswith("AKIDEXAMPLE/")
    signed = datetime.strptime(query["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    assert over_s == signed.timestamp() + int(query["X-Amz-Expires"][0])


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
