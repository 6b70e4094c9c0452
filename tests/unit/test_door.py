"""The outside door as a consumer elsewhere meets it: each step that may fail, what doctor says, and the certificate's
end as metric and log line."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from authority import DAY, Authority
from certificate_world import DOMAIN, NOW, Other, Place
from doors import Behind, Door, door, sasl, says
from kafka_webhook_bridge.cli.checks import Check, Doctor
from kafka_webhook_bridge.errors import ConfigError
from kafka_webhook_bridge.kafka import certificate
from kafka_webhook_bridge.kafka.certificate import CertificateWatch
from kafka_webhook_bridge.kafka.door import Look, look
from kafka_webhook_bridge.kafka.second import Second
from kafka_webhook_bridge.observability import metrics
from kafka_webhook_bridge.settings import KafkaSettings, Settings, load_settings
from kafka_webhook_bridge.sources.config import load_sources
from kafka_webhook_bridge.stack.ports import free_ports

KAFKA = sasl("SCRAM-SHA-512")
LOCAL = ("localhost", "127.0.0.1")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    place = Place(tmp_path)
    place.make(DOMAIN)
    return place


@pytest.fixture
def opened(place: Place) -> Iterator[Door]:
    with door(place.pem, place.key, KAFKA) as opened:
        yield opened


def through(port: int, ca: Path | str, host: str = "localhost", *, tls: bool = True, timeout_s: float = 60) -> Look:
    return look(host, port, tls=tls, ca=str(ca), timeout_s=timeout_s)


# ── the steps ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("host", LOCAL)
def test_an_open_door(opened: Door, place: Place, host: str) -> None:
    found = through(opened.port, place.ca, host)
    assert (found.step, found.reason, found.trusted, found.mechanisms) == ("open", "", True, ("SCRAM-SHA-512",))
    assert found.certificate == place.look().certificate


def test_without_tls() -> None:
    with door(None, None, sasl("PLAIN", "SCRAM-SHA-512")) as plain:
        found = through(plain.port, "", tls=False)
        assert (found.step, found.mechanisms) == ("open", ("PLAIN", "SCRAM-SHA-512"))
    with door(None, None, says(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as plain:
        found = through(plain.port, "")
        assert (found.step, found.reason) == ("tls", "no TLS is spoken there")


def test_a_name_that_is_unknown_and_a_port_that_is_closed() -> None:
    for host in ("kafka.does-not-exist.invalid", "kafka." + "x" * 64 + ".example"):
        found = through(29_095, "", host)
        assert found.step == "resolve"
        assert found.reason
    (port,) = free_ports(1)
    found = through(port, "")
    assert (found.step, found.reason) == ("connect", "Connection refused")


def test_a_door_that_says_nothing(place: Place) -> None:
    with door(None, None, lambda connection: connection.recv(100_000) and connection.recv(1)) as silent:
        found = through(silent.port, place.ca, timeout_s=0.3)
    assert (found.step, found.reason) == ("tls", "no answer in time")


@pytest.mark.parametrize(
    ("names", "more", "reason"),
    [
        (("other.example",), {}, "Hostname mismatch, certificate is not valid for 'localhost'."),
        (("localhost",), {"start": NOW - 100 * DAY}, "certificate has expired"),
        (("localhost",), {"start": NOW + DAY}, "certificate is not yet valid"),
    ],
)
def test_certificates_that_consumers_refuse(tmp_path: Path, names: tuple[str, ...], more: Any, reason: str) -> None:
    place, other = Place(tmp_path), Other(names, **more)
    other.put(place)
    with door(place.pem, place.key, KAFKA) as refused:
        found = through(refused.port, place.ca)
    assert (found.step, found.reason) == ("tls", reason)
    assert found.certificate is not None
    assert found.certificate.names == names


def test_an_authority_that_consumers_do_not_know(opened: Door, place: Place, tmp_path: Path) -> None:
    for ca in ("", Authority.named("other").save(tmp_path / "other.pem")):
        found = through(opened.port, ca)
        assert found.step == "tls"
        assert "issuer certificate" in found.reason or "self-signed" in found.reason
        assert found.certificate == place.look().certificate


def test_what_only_python_3_13_asks_for_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chains without key identifiers: Kafka's clients take them, so doctor, `kwb tls` and `kwb users` do."""
    lenient = ssl.create_default_context

    def strict(**how: Any) -> ssl.SSLContext:
        context = lenient(**how)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)
    place = Place(tmp_path)
    Other(["localhost"], identifiers=False).put(place)
    with door(place.pem, place.key, KAFKA) as opened:
        found = through(opened.port, place.ca)
    assert (found.step, found.reason) == ("open", "")
    assert place.look().verified
    kafka = KafkaSettings(bootstrap_servers="k:1", security_protocol="SSL", ssl_ca=str(place.ca))
    second = Second(kafka, timeout_s=1, hints={})._config()["ssl_context"]
    assert not second.verify_flags & ssl.VERIFY_X509_STRICT


def test_a_file_of_authorities_that_is_not_here_or_is_none(opened: Door, tmp_path: Path) -> None:
    found = through(opened.port, tmp_path / "nowhere.pem")
    assert (found.step, found.trusted) == ("open", False)
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("garbage")
    with pytest.raises(ConfigError, match=r"KWB_KAFKA_EXTERNAL_CA: .* no PEM certificate"):
        through(opened.port, garbage)


@pytest.mark.parametrize(
    ("behind", "step", "reason"),
    [
        (says(b""), "kafka", "the connection was closed without an answer"),
        (says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "kafka", "something else than Kafka answers"),
        (says(b"\x00\x00\x00\x0a" + b"\xff" * 10), "kafka", "something else than Kafka answers"),
        (
            says(b"\x00\x00\x00\x0a\x00\x00\x00\x07\x00\x00\x00\x00\x00\x09"),
            "kafka",
            "something else than Kafka answers",
        ),
        (says(b"\x00\x00\x00\x0a\x00"), "kafka", "the connection was closed without an answer"),
        (sasl("PLAIN", error=33), "mechanism", "the broker takes PLAIN, not SCRAM-SHA-512"),
        (sasl(error=34), "mechanism", "the broker asks for no login (error 34)"),
    ],
)
def test_what_is_behind(place: Place, behind: Behind, step: str, reason: str) -> None:
    with door(place.pem, place.key, behind) as opened:
        found = through(opened.port, place.ca)
    assert (found.step, found.reason) == (step, reason)
    assert found.certificate is not None
    assert found.trusted


# ── what doctor says ──────────────────────────────────────────────────────────────────────────────────────────────────


def settings(port: int = 0, **environ: str) -> Settings:
    servers = {"KWB_KAFKA_EXTERNAL_SERVERS": f"localhost:{port}"} if port else {}
    return load_settings({"KWB_CONFIG": "sources: {shop: {auth: none}}", **servers, **environ})


def checks(settings: Settings) -> dict[str, list[Check]]:
    found: dict[str, list[Check]] = {}
    for check in Doctor(settings, load_sources(settings))._outside():
        assert bool(check.todo) == (check.status != "ok"), check
        found.setdefault(check.name, []).append(check)
    return found


def status(found: dict[str, list[Check]]) -> dict[str, list[str]]:
    return {name: [check.status for check in of_name] for name, of_name in found.items()}


def test_doctor_finds_an_open_door(opened: Door, place: Place) -> None:
    found = checks(settings(opened.port, KWB_KAFKA_EXTERNAL_CA=str(place.ca)))
    assert status(found) == {"outside": ["ok"], "outside.certificate": ["ok"]}
    assert found["outside"][0].found.endswith("takes SCRAM-SHA-512")
    assert found["outside.certificate"][0].found.startswith("395 days left, by CN=Local authority")


def test_doctor_looks_at_no_door_where_there_is_none() -> None:
    assert checks(settings()) == {}


def test_doctor_only_warns_where_the_door_cannot_be_reached_from_here() -> None:
    (port,) = free_ports(1)
    found = checks(settings(DOMAIN_NAME="localhost", KAFKA_EXTERNAL_PORT=str(port)))
    found |= {"closed": checks(settings(port))["outside"]}
    assert status(found) == {"outside": ["warn"], "closed": ["warn"]}


def test_doctor_tells_what_is_wrong_with_a_certificate(tmp_path: Path) -> None:
    cases: list[tuple[Other, list[str], list[str], str]] = [
        (Other(["other.example"]), ["fail"], ["fail", "ok"], "it is for other.example, not for localhost"),
        (Other(["localhost"], start=NOW - 100 * DAY), ["fail"], ["fail"], "it has expired on"),
        (Other(["localhost"], start=NOW + DAY), ["fail"], ["fail"], "it is not good before"),
        (Other(["localhost"], start=NOW - 85 * DAY), ["ok"], ["warn"], "it expires on"),
        (Other(["localhost"], start=NOW - 70 * DAY), ["ok"], ["warn"], "it is to be renewed; 19 days left"),
    ]
    for number, (other, outside, judged, words) in enumerate(cases):
        place = Place(tmp_path / str(number))
        other.put(place)
        with door(place.pem, place.key, KAFKA) as opened:
            found = checks(settings(opened.port, KWB_KAFKA_EXTERNAL_CA=str(place.ca)))
        assert status(found) == {"outside": outside, "outside.certificate": judged}, words
        assert found["outside.certificate"][0].found.startswith(words)
        assert "-" not in found["outside.certificate"][0].found.partition("UTC")[2]  # no days below 0 are left


def test_doctor_says_where_nothing_was_checked(opened: Door) -> None:
    found = checks(settings(opened.port, KWB_KAFKA_EXTERNAL_CA="nowhere.pem"))
    assert status(found) == {"outside": ["ok"], "outside.certificate": ["ok", "warn"]}
    assert "nowhere.pem is not here" in found["outside.certificate"][1].found


def test_doctor_fails_without_a_broker_or_its_mechanism(place: Place) -> None:
    for behind in (says(b""), sasl("PLAIN", error=33)):
        with door(place.pem, place.key, behind) as opened:
            found = checks(settings(opened.port, KWB_KAFKA_EXTERNAL_CA=str(place.ca)))
        assert status(found) == {"outside": ["fail"], "outside.certificate": ["ok"]}


def test_servers_that_are_none() -> None:
    for text in ("kafka.example", "kafka.example:0", "kafka.example:70000", ":29095", "a:1,b"):
        with pytest.raises(ConfigError, match=r"KWB_KAFKA_EXTERNAL_SERVERS: .* is not host:port"):
            settings(KWB_KAFKA_EXTERNAL_SERVERS=text)
    assert settings(DOMAIN_NAME=DOMAIN).external_servers == f"kafka.{DOMAIN}:29095"
    assert settings(KWB_KAFKA_EXTERNAL_SERVERS="a:1, [::1]:2").external_servers == "a:1, [::1]:2"


# ── the end of the certificate ────────────────────────────────────────────────────────────────────────────────────────


class Watched:
    """A watch whose clock the test moves, and what it logged."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
        self.now = NOW
        self.said: list[tuple[str, str]] = []
        self.expiry = CertificateWatch(settings, clock=lambda: self.now)
        log = {level: self._say(level) for level in ("info", "warning", "error")}
        monkeypatch.setattr(self.expiry, "_log", SimpleNamespace(**log))

    def _say(self, level: str) -> Any:
        return lambda event, **_: self.said.append((level, event))

    def at(self, now: datetime) -> tuple[float, list[tuple[str, str]]]:
        """Seconds left by the metric, and what was logged meanwhile."""
        self.now, self.said = now, []
        self.expiry.look()
        return metrics.registry().gauge("kwb_kafka_external_certificate_seconds").value, self.said


def test_the_metric_and_the_log_follow_the_end(opened: Door, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch, settings(opened.port))
    end = place.look().certificate.not_after
    soon, over = "the certificate of the outside door expires soon", "the certificate of the outside door has expired"
    for left, said in (
        (timedelta(days=31), []),
        (timedelta(days=29), [("warning", soon)]),
        (timedelta(days=8), []),
        (timedelta(days=6), [("warning", soon)]),
        (timedelta(hours=25), []),
        (timedelta(hours=23), [("error", soon)]),
        (-timedelta(hours=1), [("error", over)]),
        (-timedelta(hours=2), []),
    ):
        assert watched.at(end - left) == (left.total_seconds(), said)


def test_a_renewed_certificate_is_seen_once_it_is_served(
    opened: Door, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(monkeypatch, settings(opened.port))
    before = place.look().certificate.not_after
    assert watched.at(before - DAY / 2)[0] == DAY.total_seconds() / 2
    place.make(DOMAIN, now=NOW + 50 * DAY, renew=True)
    assert watched.at(before - DAY / 2) == (DAY.total_seconds() / 2, []), "the file alone tells nothing"
    assert opened.context is not None
    opened.context.load_cert_chain(place.pem, place.key)
    left, said = watched.at(before - DAY / 2)
    assert left == (place.look().certificate.not_after - watched.now).total_seconds() > 50 * DAY.total_seconds()
    assert said == [("info", "the outside door has a new certificate")]


def test_time_passes_while_the_door_is_away(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    with door(place.pem, place.key, KAFKA) as opened:
        watched = Watched(monkeypatch, settings(opened.port))
        left, _ = watched.at(NOW)
    assert watched.at(NOW + DAY) == (left - DAY.total_seconds(), [])


def test_a_door_that_was_never_seen_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    watched = Watched(monkeypatch, settings(port))
    waits: list[float] = []

    async def pause(stop: asyncio.Event, seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 10:
            stop.set()

    monkeypatch.setattr(certificate, "pause", pause)
    asyncio.run(watched.expiry.run(asyncio.Event()))
    assert waits == [10, 20, 40, 80, 160, 300, 300, 300, 300, 300]
    assert watched.said == [("info", "the outside door is not reached; its certificate is not watched")]


def test_without_tls_there_is_nothing_to_watch() -> None:
    assert CertificateWatch(settings()).addresses == []
    plain = settings(DOMAIN_NAME=DOMAIN, KWB_KAFKA_EXTERNAL_PROTOCOL="SASL_PLAINTEXT")
    assert CertificateWatch(plain).addresses == []
    tls = replace(plain, kafka=replace(plain.kafka, external_protocol="SASL_SSL"))
    assert CertificateWatch(tls).addresses == [(f"kafka.{DOMAIN}", 29_095)]
