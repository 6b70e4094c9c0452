"""An outside door for tests: TLS on a free port of loopback, and something behind it."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

Behind = Callable[[socket.socket], None]


class Door:
    """Serves each connection in a thread of its own. Without `certificate` it speaks no TLS."""

    def __init__(self, certificate: Path | None, key: Path | None, behind: Behind) -> None:
        self._behind = behind
        self.context: ssl.SSLContext | None = None
        if certificate is not None:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.context.load_cert_chain(certificate, key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, plain: socket.socket) -> None:
        plain.settimeout(60)
        with plain, contextlib.suppress(OSError):
            if self.context is None:
                self._behind(plain)
            else:
                with self.context.wrap_socket(plain, server_side=True) as wrapped:
                    self._behind(wrapped)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in (self._accepting, *self._threads):
            thread.join(60)
            assert not thread.is_alive()


@contextlib.contextmanager
def door(certificate: Path | None, key: Path | None, behind: Behind) -> Iterator[Door]:
    opened = Door(certificate, key, behind)
    try:
        yield opened
    finally:
        opened.close()


def sasl(*mechanisms: str, error: int = 0) -> Behind:
    """A broker that answers a SaslHandshake."""

    def answer(connection: socket.socket) -> None:
        whole = connection.recv(1_024)
        if not whole:
            return  # who only looks at the certificate
        request = whole[4:]
        assert struct.unpack_from(">i", whole) == (len(request),)
        key, version, correlation, client = struct.unpack_from(">hhih", request)
        assert (key, version) == (17, 1)
        (length,) = struct.unpack_from(">h", request, 10 + client)
        assert request[12 + client :] == request[-length:] == b"SCRAM-SHA-512"
        body = struct.pack(">ihi", correlation, error, len(mechanisms))
        body += b"".join(struct.pack(">h", len(name)) + name.encode() for name in mechanisms)
        connection.sendall(struct.pack(">i", len(body)) + body)
        connection.recv(1)

    return answer


def says(data: bytes) -> Behind:
    """Answers the first bytes with `data`, and closes."""

    def answer(connection: socket.socket) -> None:
        connection.recv(1_024)
        connection.sendall(data)

    return answer


def passes_on(port: int) -> Behind:
    """To a server on loopback, both ways, as a TLS proxy does."""

    def pump(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def relay(connection: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", port), 60) as server:
            back = threading.Thread(target=pump, args=(server, connection), daemon=True)
            back.start()
            pump(connection, server)
            back.join(60)

    return relay
