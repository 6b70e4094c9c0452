"""A TCP proxy that breaks what passes it, with the vocabulary of toxiproxy. It stands before Kafka and PostgreSQL.

    down      connections are reset and refused                limit       the connection is reset after so many bytes
    latency   every piece is late by so much                   cut         one direction stands still (a lost ack)
    bandwidth bytes a second                                   deaf        both do, and new connections meet silence
    slice     pieces of at most so many bytes

Runs in a thread with a loop of its own; its methods are for the thread of the scenario. What stands still is kept and
goes on after `clear`, as TCP would send it again when the network heals.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import uvloop

Way = Literal["to_server", "to_client"]
HOST = "127.0.0.1"
_READ_BYTES = 64 * 1024
_QUEUE_PIECES = 256
_START_S = 10.0


@dataclass(frozen=True, slots=True)
class Link:
    """The state of the network. `jitter_s` is added to the latency, evenly spread from 0."""

    latency_s: float = 0.0
    jitter_s: float = 0.0
    bytes_per_s: float = 0.0
    slice_bytes: int = 0
    limit_bytes: int = 0
    cut: frozenset[Way] = frozenset()

    @property
    def late(self) -> bool:
        return bool(self.latency_s or self.jitter_s)


class Proxy:
    """One address before one server. Seeded, so jitter is the same for the same seed and traffic."""

    def __init__(self, port: int, server_port: int, seed: int = 0) -> None:
        self.port, self.server_port = port, server_port
        self.connections = 0  # ever
        self.passed: dict[Way, int] = {"to_server": 0, "to_client": 0}
        self._link = Link()
        self._dice = random.Random(seed)
        self._loop = uvloop.new_event_loop()
        self._changed: asyncio.Event = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{port}", daemon=True)

    def start(self) -> Proxy:
        self._thread.start()
        self.up()
        return self

    def stop(self) -> None:
        if not self._thread.is_alive():  # it was never started
            return
        self.down()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_START_S)
        self._loop.close()

    # ── what breaks ───────────────────────────────────────────────────────────────────────────────────────────────

    def shape(self, **link: Any) -> None:
        """The network is like this from now on (fields of Link)."""
        self._call(self._set, Link(**link))

    def cut(self, *ways: Way) -> None:
        """These directions stand still; without a way, both."""
        self.shape(cut=frozenset(ways or ("to_server", "to_client")))

    def clear(self) -> None:
        """A healthy network; what was held back goes on."""
        self.shape()

    def reset(self) -> None:
        """Every connection ends with RST; new ones are taken."""
        self._call(self._reset)

    def down(self) -> None:
        """Connections end with RST, new ones are refused."""
        self._wait(self._close())
        self.reset()

    def up(self) -> None:
        self._wait(self._listen())

    # ── in the loop's thread ──────────────────────────────────────────────────────────────────────────────────────

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        async def run() -> None:
            function(*arguments)

        self._wait(run())

    def _wait(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_START_S)

    def _set(self, link: Link) -> None:
        self._link = link
        self._changed.set()
        self._changed = asyncio.Event()

    def _reset(self) -> None:
        for writer in list(self._writers):
            _abort(writer)

    async def _listen(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._connected, HOST, self.port)

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        other: asyncio.StreamWriter | None = None
        try:
            while len(self._link.cut) == 2:  # nobody hears the call
                await self._changed.wait()
            server, other = await asyncio.open_connection(HOST, self.server_port)
            self._writers.add(other)
            _no_delay(writer)
            _no_delay(other)
            pumps = (_Pump(self, "to_server", reader, other), _Pump(self, "to_client", server, writer))
            await asyncio.gather(*(pump.run() for pump in pumps))
        except OSError:
            pass  # a side has gone: so does the other
        finally:
            for side in (writer, other):
                if side is not None:
                    self._writers.discard(side)
                    _abort(side)


class _Pump:
    """One direction of one connection."""

    def __init__(self, proxy: Proxy, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy, self._way, self._reader, self._writer = proxy, way, reader, writer
        self._late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_QUEUE_PIECES)
        self._passed = 0

    async def run(self) -> None:
        giving = asyncio.ensure_future(self._give())
        reading = asyncio.ensure_future(self._read())
        try:
            await asyncio.gather(giving, reading)
        finally:
            giving.cancel()
            reading.cancel()

    async def _read(self) -> None:
        loop, proxy = asyncio.get_running_loop(), self._proxy
        data = b"-"
        while data:
            data = await self._reader.read(_READ_BYTES)
            link = proxy._link
            wait_s = link.latency_s + proxy._dice.uniform(0, link.jitter_s) if link.late else 0.0
            await self._late.put((loop.time() + wait_s, data))

    async def _give(self) -> None:
        loop, proxy = asyncio.get_running_loop(), self._proxy
        while True:
            due, data = await self._late.get()
            if (wait_s := due - loop.time()) > 0:
                await asyncio.sleep(wait_s)
            if not data:
                await self._passable()
                if not self._writer.transport.is_closing():
                    self._writer.write_eof()
                return
            size = proxy._link.slice_bytes or len(data)
            for start in range(0, len(data), size):
                piece = data[start : start + size]
                await self._passable()
                if self._writer.transport.is_closing():
                    raise ConnectionResetError
                self._writer.write(piece)
                await self._writer.drain()
                proxy.passed[self._way] += len(piece)
                self._passed += len(piece)
                if 0 < proxy._link.limit_bytes <= self._passed:
                    raise ConnectionResetError
                if proxy._link.bytes_per_s:
                    await asyncio.sleep(len(piece) / proxy._link.bytes_per_s)

    async def _passable(self) -> None:
        while self._way in self._proxy._link.cut:
            await self._proxy._changed.wait()


def _abort(writer: asyncio.StreamWriter) -> None:
    """With RST, not with a polite end."""
    sock = writer.get_extra_info("socket")
    if sock is not None and not writer.transport.is_closing():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _no_delay(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
