"""How every client of this bridge connects, and how large a record may be (rules.md 9).

The password is revealed here and nowhere else.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from typing import Any

from kafka_webhook_bridge.errors import ConfigError, Problem
from kafka_webhook_bridge.kafka.login import password_in_force
from kafka_webhook_bridge.settings import KafkaSettings

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
    sasl = protocol.startswith("SASL")
    if sasl and not settings.username:
        problems.append(Problem("KAFKA_USERNAME", f"is not set, but {protocol} needs a user"))
    if sasl and settings.password is None:
        problems.append(Problem("KAFKA_PASSWORD", f"is not set, but {protocol} needs one"))
    if protocol.endswith("SSL") and settings.ssl_ca:
        problems += _ca_problems(settings.ssl_ca)
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
    if protocol.endswith("SSL") and settings.ssl_ca:
        config["ssl.ca.location"] = settings.ssl_ca
    return config | extra


def _ca_problems(path: str) -> list[Problem]:
    """librdkafka tells of a file that it cannot use in OpenSSL's words, and only when a client is made."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        return [Problem("KWB_KAFKA_SSL_CA", f"{path}: no PEM certificate is in there")]
    except OSError as error:
        return [Problem("KWB_KAFKA_SSL_CA", f"{path}: {error.strerror}")]
    return []


def security_protocol(settings: KafkaSettings) -> str:
    """The setting, or its default: a password never crosses a network unencrypted unless someone says so."""
    if settings.security_protocol is not None:
        return settings.security_protocol
    if not settings.username:
        return "PLAINTEXT"
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
