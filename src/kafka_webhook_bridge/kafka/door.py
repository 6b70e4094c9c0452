"""The outside door: the address by which consumers elsewhere reach the cluster, looked at as such a consumer does.

    the name resolves ──▶ TCP connects ──▶ TLS, chain and name ──▶ a broker answers ──▶ it takes SCRAM-SHA-512

Each step needs the one before. Nothing is logged in and nothing secret is sent. Where the chain is refused, the
certificate is fetched once more without a check, because its names and its end tell most about why.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kafka_webhook_bridge.errors import ConfigError, Problem
from kafka_webhook_bridge.kafka.trust import trusting

if TYPE_CHECKING:
    from kafka_webhook_bridge.observability.certificate import Certificate

MECHANISM = "SCRAM-SHA-512"
Step = Literal["resolve", "connect", "tls", "kafka", "mechanism", "open"]

_SASL_HANDSHAKE, _VERSION, _CORRELATION = 17, 1, 7
_ANSWER_BYTES_MAX = 65_536
_NO_ERROR, _UNSUPPORTED_MECHANISM = 0, 33


@dataclass(frozen=True, slots=True)
class Look:
    """What one address is like. `step` is the first that failed, `open` when none did; `reason` says why it failed.

    `certificate` is what the door served, whether it was accepted or not; `trusted` tells whether chain and name were
    checked, which needs the authority's file; `mechanisms` are those that the broker behind takes.
    """

    address: str
    step: Step
    reason: str = ""
    certificate: Certificate | None = None
    trusted: bool = False
    mechanisms: tuple[str, ...] = ()


def look(host: str, port: int, *, tls: bool, ca: str, timeout_s: float) -> Look:
    """Go through the door at `host`, each step within `timeout_s`.

    `ca` is a PEM file of the authorities to trust, empty for the system's. Where the file is not on this machine,
    neither chain nor name are checked. Raises ConfigError for a file without a certificate.
    """
    address = f"{host}:{port}"
    certificate: Certificate | None = None
    trusted = False
    try:
        with _connected(host, port, timeout_s) as plain:
            if not tls:
                return _behind(address, plain, certificate, trusted)
            context, trusted = _context(ca)
            with context.wrap_socket(plain, server_hostname=host) as wrapped:
                certificate = _served(wrapped)
                return _behind(address, wrapped, certificate, trusted)
    except socket.gaierror as error:
        return Look(address, "resolve", error.strerror or str(error))
    except ssl.SSLCertVerificationError as error:
        return Look(address, "tls", error.verify_message, served(host, port, timeout_s))
    except ssl.SSLError as error:
        return Look(address, "tls", _tls_words(error))
    except _ConnectError as error:
        return Look(address, "connect", str(error))
    except OSError as error:
        step: Step = "tls" if tls and certificate is None else "kafka"
        return Look(address, step, _words(error), certificate, trusted)


def served(host: str, port: int, timeout_s: float) -> Certificate | None:
    """The certificate that is served there, whoever signed it; None where none can be had."""
    context = _unchecked()
    with (
        contextlib.suppress(OSError, ValueError, _ConnectError),
        _connected(host, port, timeout_s) as plain,
        context.wrap_socket(plain, server_hostname=host) as wrapped,
    ):
        return _served(wrapped)
    return None


def _context(ca: str) -> tuple[ssl.SSLContext, bool]:
    """As consumers check, and whether anything is checked: not where their file of authorities is not here.

    Raises ConfigError for a file without a certificate.
    """
    if ca and not Path(ca).exists():
        return _unchecked(), False
    try:
        return trusting(ca), True
    except (ssl.SSLError, OSError) as error:
        what = "no PEM certificate is in there" if isinstance(error, ssl.SSLError) else _words(error)
        raise ConfigError([Problem("KWB_KAFKA_EXTERNAL_CA", f"{ca}: {what}")]) from None


class _ConnectError(Exception):
    """No connection came about."""


@contextlib.contextmanager
def _connected(host: str, port: int, timeout_s: float) -> Iterator[socket.socket]:
    try:
        plain = socket.create_connection((host, port), timeout_s)
    except (socket.gaierror, UnicodeError) as error:  # UnicodeError: a label that is no host name
        raise error if isinstance(error, socket.gaierror) else socket.gaierror(0, "not a host name") from None
    except OSError as error:
        raise _ConnectError(_words(error)) from None
    with plain:
        yield plain


def _unchecked() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _served(wrapped: ssl.SSLSocket) -> Certificate | None:
    from kafka_webhook_bridge.observability.certificate import read_der

    data = wrapped.getpeercert(binary_form=True)
    return read_der(data) if data else None


def _behind(address: str, connection: socket.socket, certificate: Certificate | None, trusted: bool) -> Look:
    """Ask the broker for a login by MECHANISM; it answers with those that it takes, and waits for the login."""
    client = b"kwb-doctor"
    request = struct.pack(">hhih", _SASL_HANDSHAKE, _VERSION, _CORRELATION, len(client)) + client
    request += struct.pack(">h", len(MECHANISM)) + MECHANISM.encode()
    connection.sendall(struct.pack(">i", len(request)) + request)
    try:
        (size,) = struct.unpack(">i", _read(connection, 4))
        if not 10 <= size <= _ANSWER_BYTES_MAX:
            raise ValueError
        error, mechanisms = _answer(_read(connection, size))
    except EOFError:
        return Look(address, "kafka", "the connection was closed without an answer", certificate, trusted)
    except (ValueError, struct.error):
        return Look(address, "kafka", "something else than Kafka answers", certificate, trusted)
    if error not in {_NO_ERROR, _UNSUPPORTED_MECHANISM}:
        return Look(address, "mechanism", f"the broker asks for no login (error {error})", certificate, trusted)
    step: Step = "open" if MECHANISM in mechanisms else "mechanism"
    reason = "" if step == "open" else f"the broker takes {', '.join(mechanisms) or 'nothing'}, not {MECHANISM}"
    return Look(address, step, reason, certificate, trusted, mechanisms)


def _answer(data: bytes) -> tuple[int, tuple[str, ...]]:
    """Kafka's error number, and the mechanisms. Raises ValueError or struct.error for anything else."""
    correlation, error, count = struct.unpack_from(">ihi", data)
    if correlation != _CORRELATION or not 0 <= count <= 100:
        raise ValueError
    at, mechanisms = 10, []
    for _ in range(count):
        (length,) = struct.unpack_from(">h", data, at)
        mechanisms.append(data[at + 2 : at + 2 + length].decode())
        at += 2 + length
    return error, tuple(mechanisms)


def _read(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def _tls_words(error: ssl.SSLError) -> str:
    if error.reason in {"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"}:
        return "no TLS is spoken there"
    return (error.reason or str(error)).replace("_", " ").lower()


def _words(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return error.strerror or str(error)
