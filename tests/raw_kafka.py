"""Kafka's protocol by hand, for clients that do not keep to it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

PATIENCE_S = 60
FETCH, SASL_HANDSHAKE, API_VERSIONS, SASL_AUTHENTICATE = 1, 17, 18, 36
BEFORE_LOGIN_BYTES_MAX = 65536  # sasl.server.max.receive.size
CUT = -1
SCRAM = b"SCRAM-SHA-512"


def request(api: int, version: int, body: bytes, *, tags: bytes | None = None) -> bytes:
    """One frame, length included. `tags` are the tagged fields of a flexible header, their number first."""
    head = api.to_bytes(2) + version.to_bytes(2) + (7).to_bytes(4) + b"\xff\xff"
    frame = head + (tags or b"") + body
    return len(frame).to_bytes(4) + frame


def text(value: bytes) -> bytes:
    return len(value).to_bytes(2) + value


def sized(value: bytes) -> bytes:
    return len(value).to_bytes(4) + value


_TAG_MAX = b"\xff\xff\xff\xff\x07"  # 0x7fffffff as an unsigned varint
# What is no request: each must end the connection, and only this one.
FRAMES = {
    "the longest length": b"\x7f\xff\xff\xff" + b"x" * 1000,
    "a negative length": b"\xff\xff\xff\xff" + b"x" * 1000,
    "many tagged fields that are not there": request(API_VERSIONS, 3, b"", tags=_TAG_MAX),
    "many tagged fields": request(API_VERSIONS, 3, b"", tags=_TAG_MAX + b"\x00\x00" * 30_000),
    "one tagged field that claims the heap": request(API_VERSIONS, 3, b"", tags=b"\x01\x00" + _TAG_MAX),
    "a mechanism longer than its frame": request(SASL_HANDSHAKE, 1, b"\x7f\xffPLAIN"),
    "an unknown request": request(9_999, 0, b""),
    "a fetch before the login": request(FETCH, 4, b"\x00" * 40),
    "HTTP": b"GET / HTTP/1.1\r\nHost: kafka\r\n\r\n",
    "TLS": bytes.fromhex("16030100a5010000a10303") + b"\x00" * 160,
    "garbage": sized(bytes(range(256)) * 16),
}


@dataclass
class Answer:
    """Of SaslAuthenticate: an error code (0: none, 58: refused, -1: the connection ended without an answer), what is
    said about it, and the mechanism's bytes."""

    code: int
    message: bytes
    data: bytes


class Raw:
    """One connection. Every read has a limit in time; the end of the connection reads as b''."""

    def __init__(
        self, port: int, *, trickle: bool = False, tls: ssl.SSLContext | None = None, source: str = "127.0.0.1"
    ) -> None:
        """`trickle` sends every byte as a segment of its own; `source` is the address it comes from."""
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE_S, (source, 0))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            try:
                self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
            except OSError:
                self.socket.close()
                raise
        self._step = 1 if trickle else 2**31

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """All of it, unless the broker has ended the connection: the next read tells."""
        with suppress(ConnectionResetError, BrokenPipeError):
            for start in range(0, len(data), self._step):
                self.socket.sendall(data[start : start + self._step])

    def frame(self) -> bytes:
        """The next whole answer without its length; b'' when the broker has ended the connection."""
        size = self._exactly(4)
        return self._exactly(int.from_bytes(size)) if size else b""

    def cut(self) -> bool:
        """Whether the broker ends the connection, whatever it says before. Raises TimeoutError when it does not."""
        try:
            while self.socket.recv(65536):
                pass
        except (ConnectionResetError, BrokenPipeError):
            pass
        return True

    def handshake(self, mechanism: bytes = SCRAM) -> int:
        """The error code: 0, or 33 for a mechanism that is not offered."""
        self.send(request(SASL_HANDSHAKE, 1, text(mechanism)))
        return int.from_bytes(self.frame()[4:6])

    def plain(self, user: bytes, password: bytes) -> Answer:
        return self.authenticate(b"\0".join((b"", user, password)))

    def authenticate(self, data: bytes) -> Answer:
        self.send(request(SASL_AUTHENTICATE, 0, sized(data)))
        body = self.frame()[4:]
        if not body:
            return Answer(CUT, b"", b"")
        code, length = int.from_bytes(body[:2]), int.from_bytes(body[2:4], signed=True)
        said, rest = (b"", body[4:]) if length < 0 else (body[4 : 4 + length], body[4 + length :])
        return Answer(code, said, rest[4:])

    def scram(self, user: bytes, password: bytes, **games: Any) -> Answer:
        """The whole exchange. Games: `nonce` (our final nonce), `proof` (bytes), `gs2` (the header)."""
        ours = base64.b64encode(secrets.token_bytes(18))
        gs2 = games.get("gs2", b"n,,")
        bare = b"n=" + user + b",r=" + ours
        first = self.authenticate(gs2 + bare)
        if first.code:
            return first
        fields = dict(part.split(b"=", 1) for part in first.data.split(b","))
        final = b"c=" + base64.b64encode(gs2) + b",r=" + games.get("nonce", fields[b"r"])
        proof = games.get("proof")
        if proof is None:
            salted = hashlib.pbkdf2_hmac("sha512", password, base64.b64decode(fields[b"s"]), int(fields[b"i"]))
            key = hmac.digest(salted, b"Client Key", "sha512")
            signature = hmac.digest(hashlib.sha512(key).digest(), b",".join((bare, first.data, final)), "sha512")
            proof = bytes(a ^ b for a, b in zip(key, signature, strict=True))
        return self.authenticate(final + b",p=" + base64.b64encode(proof))

    def _exactly(self, count: int) -> bytes:
        data = b""
        try:
            while len(data) < count:
                part = self.socket.recv(count - len(data))
                if not part:
                    return b""
                data += part
        except ConnectionResetError:
            return b""
        return data
