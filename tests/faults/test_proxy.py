"""The proxy breaks what it says it breaks, and changes no byte."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator

import pytest

from bridge import eventually
from faults.proxy import Proxy
from kafka_webhook_bridge.stack.ports import free_ports

WAIT_S = 60.0


class Echo:
    """A server that says back what it hears, and counts."""

    def __init__(self, port: int) -> None:
        self.listener = socket.create_server(("127.0.0.1", port))
        self.heard = 0
        self.connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.connections.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := connection.recv(65_536):
                self.heard += len(data)
                connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        for one in (self.listener, *self.connections):
            one.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo(free_ports(1)[0])
    yield server
    server.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    found = Proxy(free_ports(1)[0], echo.listener.getsockname()[1]).start()
    yield found
    found.stop()


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), WAIT_S)


def read(client: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count and (data := client.recv(count - len(found))):
        found += data
    return found


@pytest.mark.parametrize(
    "link", [{}, {"slice_bytes": 100}, {"latency_s": 0.01, "jitter_s": 0.01}, {"bytes_per_s": 1e7}]
)
def test_every_byte_passes_in_its_order(proxy: Proxy, link: dict[str, float]) -> None:
    proxy.shape(**link)
    data = os.urandom(200_000)
    with connect(proxy) as client:
        threading.Thread(target=client.sendall, args=(data,), daemon=True).start()
        assert read(client, len(data)) == data
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""  # the end passes too
    assert proxy.passed == {"to_server": len(data), "to_client": len(data)}


def test_down_resets_and_refuses_until_up(proxy: Proxy) -> None:
    with connect(proxy) as client:
        client.sendall(b"x")
        assert read(client, 1) == b"x"
        proxy.down()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    proxy.up()
    with connect(proxy) as client:
        client.sendall(b"y")
        assert read(client, 1) == b"y"


def test_a_reset_takes_new_connections(proxy: Proxy) -> None:
    with connect(proxy) as client:
        client.sendall(b"x")
        assert read(client, 1) == b"x"
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    with connect(proxy) as client:
        client.sendall(b"y")
        assert read(client, 1) == b"y"


def test_a_lost_answer_is_heard_by_the_server_and_comes_when_the_wire_heals(proxy: Proxy, echo: Echo) -> None:
    with connect(proxy) as client, connect(proxy) as other:
        client.sendall(b"a")
        assert read(client, 1) == b"a"
        proxy.cut("to_client")
        client.sendall(b"b")
        eventually(lambda: echo.heard == 2, "the server heard it")
        other.sendall(b"c")  # the sentinel: by then the answer to b would have come
        eventually(lambda: echo.heard == 3, "the server heard the other")
        assert proxy.passed["to_client"] == 1
        proxy.clear()
        assert (read(client, 1), read(other, 1)) == (b"b", b"c")


def test_deaf_keeps_what_is_said_and_meets_new_connections_with_silence(proxy: Proxy, echo: Echo) -> None:
    with connect(proxy) as client:
        client.sendall(b"a")
        assert read(client, 1) == b"a"
        proxy.cut()
        client.sendall(b"b")
        with connect(proxy) as late:
            late.sendall(b"c")
            eventually(lambda: proxy.connections == 2, "taken")
            assert (echo.heard, len(echo.connections)) == (1, 1)
            proxy.clear()
            assert (read(client, 1), read(late, 1)) == (b"b", b"c")


def test_a_connection_ends_in_the_middle(proxy: Proxy, echo: Echo) -> None:
    proxy.shape(limit_bytes=1000, slice_bytes=100)
    with connect(proxy) as client:
        client.sendall(b"x" * 5000)
        with pytest.raises(ConnectionResetError):
            read(client, 5000)
    assert echo.heard <= 1100
