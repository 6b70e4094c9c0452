"""How every client of this bridge connects, and how large a record may be (rules.md 9).

The password is revealed here and nowhere else.
"""

from __future__ import annotations

import inspect
import ipaddress
import re
import ssl
import weakref
from collections.abc import Callable
from typing import Any

from kafka_webhook_bridge.errors import ConfigError, Problem
from kafka_webhook_bridge.kafka import tokens
from kafka_webhook_bridge.kafka.login import password_in_force
from kafka_webhook_bridge.kafka.trust import trusting
from kafka_webhook_bridge.settings import KafkaSettings
from kafka_webhook_bridge.texts import is_pem, pem_file

RECORD_BYTES_DEFAULT = 16 * 1024**2
_SERVER = re.compile(r"(?:[A-Za-z_]+://)?(?:\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+)(?::(\d{1,5}))?")
_RECORD_OVERHEAD_BYTES = 128 * 1024  # headers, and what an encoding adds besides base64's third


def record_bytes_limit(body_bytes_max: int) -> int:
    """The largest record in bytes that bodies of up to `body_bytes_max` may become; 16 MiB unless more is needed."""
    return max(RECORD_BYTES_DEFAULT, record_bytes_needed(body_bytes_max))


def record_bytes_needed(body_bytes_max: int) -> int:
    """The least `max.message.bytes` that takes every body of up to `body_bytes_max`: base64 makes 4/3 of it."""
    return -(-4 * body_bytes_max // 3) + _RECORD_OVERHEAD_BYTES


def body_bytes_limit(record_bytes_max: int) -> int:
    """The largest body in bytes that fits a topic with this `max.message.bytes`, whatever its format."""
    return max(0, (record_bytes_max - _RECORD_OVERHEAD_BYTES) * 3 // 4)


def limit_trouble(record_bytes_max: int | None, body_bytes_max: int) -> tuple[str, str] | None:
    """What is wrong, and what to do, where a topic with this `max.message.bytes` cannot take every such body."""
    need = record_bytes_needed(body_bytes_max)
    if record_bytes_max is None or record_bytes_max >= need:
        return None
    return (
        f"max.message.bytes={record_bytes_max}, but bodies of {body_bytes_max} bytes may need {need}.",
        f"Raise it, or lower body_bytes_max to {body_bytes_limit(record_bytes_max)}; larger ones are answered 413.",
    )


def client_config(settings: KafkaSettings, **extra: Any) -> dict[str, Any]:
    """librdkafka's configuration; `extra` are its own names and win. Raises ConfigError when settings contradict.

    librdkafka's own writing to standard error is off: failures arrive as exceptions, reports and `error_cb`.
    """
    problems = []
    if not settings.bootstrap_servers.strip():
        problems.append(Problem("KAFKA_BOOTSTRAP_SERVERS", "is not set: the bridge needs a Kafka cluster"))
    for server in filter(None, map(str.strip, settings.bootstrap_servers.split(","))):
        match = _SERVER.fullmatch(server)
        if match is None or int(match[1] or 0) > 65535:
            problems.append(Problem("KAFKA_BOOTSTRAP_SERVERS", f"{server!r} is not host:port"))
    protocol = security_protocol(settings)
    iam = settings.sasl_mechanism == tokens.MECHANISM
    sasl = protocol.startswith("SASL") and not iam
    if iam:
        problems += tokens.problems(settings)
        if not protocol.startswith("SASL"):
            problems.append(Problem("KWB_KAFKA_SECURITY_PROTOCOL", f"{protocol} knows no login by {tokens.MECHANISM}"))
    if sasl and not settings.username:
        problems.append(Problem("KAFKA_USERNAME", f"is not set, but {protocol} needs a user"))
    if sasl and settings.password is None:
        problems.append(Problem("KAFKA_PASSWORD", f"is not set, but {protocol} needs one"))
    if protocol.endswith("SSL"):
        problems += _ssl_problems(settings)
    if problems:
        raise ConfigError(
            problems,
            hint="With `make up`: `. .kwb/env` in this terminal. Another cluster: docs/howto/existing-cluster.md.",
        )
    config: dict[str, Any] = {
        "bootstrap.servers": settings.bootstrap_servers,
        "security.protocol": protocol,
        "client.id": "kwb",
        "log_level": 0,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 1_000,
        "socket.keepalive.enable": True,
        "socket.connection.setup.timeout.ms": 5_000,
    }
    if sasl:
        password = password_in_force(settings)
        assert password is not None
        config["sasl.mechanism"] = settings.sasl_mechanism
        config["sasl.username"] = settings.username
        config["sasl.password"] = password.get_secret_value()
    if iam:
        config["sasl.mechanism"] = "OAUTHBEARER"
        config["oauth_cb"] = tokens.Tokens(settings)
        if inspect.ismethod(extra.get("error_cb")):
            extra["error_cb"] = _weakly(extra["error_cb"])
    if protocol.endswith("SSL"):
        key = settings.ssl_key.get_secret_value() if settings.ssl_key is not None else ""
        for name, text in (("ca", settings.ssl_ca), ("certificate", settings.ssl_cert), ("key", key)):
            if text:
                config[f"ssl.{name}.{'pem' if is_pem(text) else 'location'}"] = text
    return config | extra


def _weakly(method: Callable[[Any], None]) -> Callable[[Any], None]:
    """The same, without its object being kept alive by the client that it holds.

    Such a circle ends when the garbage collector runs, in any thread. If that is the client's own, which asks for
    tokens, librdkafka ends the process (2.16: "rd_kafka_destroy() called from librdkafka owned thread").
    """
    found = weakref.WeakMethod(method)

    def call(argument: Any) -> None:
        if (bound := found()) is not None:
            bound(argument)

    return call


def ssl_context(settings: KafkaSettings) -> ssl.SSLContext:
    """The same authorities and certificate for a client that is not librdkafka. Raises OSError (ssl.SSLError too)."""
    with pem_file(settings.ssl_ca) as authorities:
        context = trusting(authorities)
    if settings.ssl_cert and settings.ssl_key is not None:
        with pem_file(settings.ssl_cert) as certificate, pem_file(settings.ssl_key.get_secret_value()) as key:
            # Without a password here, OpenSSL would ask the terminal for that of an encrypted key.
            context.load_cert_chain(certificate, key, password="")
    return context


def _ssl_problems(settings: KafkaSettings) -> list[Problem]:
    """librdkafka tells of what it cannot use in OpenSSL's words, and only when a client is made."""
    found = []
    shown = {"ca": settings.ssl_ca, "cert": settings.ssl_cert}
    for name, text in shown.items():
        if not text:
            continue
        where, before = f"KWB_KAFKA_SSL_{name.upper()}", "" if is_pem(text) else f"{text}: "
        try:
            with pem_file(text) as path:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
        except ssl.SSLError:
            found.append(Problem(where, f"{before}no PEM certificate is in there"))
        except OSError as error:
            found.append(Problem(where, f"{before}{error.strerror}"))
    if bool(settings.ssl_cert) != (settings.ssl_key is not None):
        missing, there = ("KEY", "CERT") if settings.ssl_cert else ("CERT", "KEY")
        found.append(Problem(f"KWB_KAFKA_SSL_{missing}", f"is not set, but KWB_KAFKA_SSL_{there} is"))
    if found:
        return found
    try:
        ssl_context(settings)
    except ssl.SSLError as error:
        mismatch = error.reason == "KEY_VALUES_MISMATCH"
        what = "is of another certificate" if mismatch else "is no PEM private key, or an encrypted one"
        return [Problem("KWB_KAFKA_SSL_KEY", what)]
    except OSError as error:
        return [Problem("KWB_KAFKA_SSL_KEY", str(error.strerror))]
    return []


def security_protocol(settings: KafkaSettings) -> str:
    """The setting, or its default: a password never crosses a network unencrypted unless someone says so."""
    if settings.security_protocol is not None:
        return settings.security_protocol
    if settings.sasl_mechanism == tokens.MECHANISM:
        return "SASL_SSL"
    if not settings.username:
        return "SSL" if settings.ssl_cert else "PLAINTEXT"
    hosts = [server.strip().rpartition("://")[2] for server in settings.bootstrap_servers.split(",") if server.strip()]
    return "SASL_PLAINTEXT" if hosts and all(map(_is_loopback, hosts)) else "SASL_SSL"


def _is_loopback(server: str) -> bool:
    host = server.rpartition(":")[0].strip("[]") or server
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
