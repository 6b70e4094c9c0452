"""Stands before PROXY, Kafka's listener for outside consumers, and lets nothing through that no consumer needs.

    consumer ──TLS──▶ nginx, NLB ──PROXY header──▶ guard ──whole frames──▶ Kafka's PROXY

Kafka holds memory for a frame from the moment it has read its length, up to `socket.request.max.bytes`, and takes it
from one pool for all listeners (`queued.max.request.bytes`). Neither is a listener's own setting, and the first must
have room for the largest record of the bridge. So seven connections of one user, each with a length of 20 MiB and two
bytes of it, make the whole broker mute for as long as they last. Here a frame is kept until it is whole, and is short:

    CONNECTIONS_MAX x FRAME_BYTES_MAX <= queued.max.request.bytes

The broker takes 50 new connections a second, of everybody together. So it is given one when a first frame is whole and
is one with which a client begins: who only connects, or says something else, takes no place from others.

What Kafka answers passes as it comes. Everything is refused by the end of the connection and a line in the log: Kafka's
protocol has no words for it, and clients come again.

The header is the PROXY protocol's (HAProxy, "The PROXY protocol, versions 1 & 2"): nginx writes the line of version 1,
AWS's load balancer the bytes of version 2, and its health checks those of a connection that nobody outside asked for.
"""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from kafka_webhook_bridge.observability import logs

# A frame of a consumer is a few hundred bytes. The longest: a first Fetch, about 30 bytes for each partition and the
# topics' names, or the assignment of a large group by its leader. This has room for 2 500 partitions.
FRAME_BYTES_MAX = 128 * 1024
FRAME_S_MAX = 10.0  # from its first byte to its last; the first one of a connection from the PROXY header on
CONNECTIONS_MAX = 1000  # as listener.name.proxy.max.connections
# New connections of one address. A consumer opens two or three and keeps them; the broker takes 50 a second of all.
NEW_BURST = 200
NEW_PER_S = 20.0
ADDRESSES_MAX = 4096  # that are told apart; the others share one allowance
CONNECT_S_MAX = 10.0
_FIRST_APIS = (17, 18)  # SaslHandshake, ApiVersions: the broker takes nothing else before a login
_V1, _V2 = b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n"
_V1_BYTES_MAX = 107  # its end included
_V2_BYTES = 16  # before the addresses, whose length it says
# After these 16. Two addresses take 12, 36 or 216; what may follow, such as the name of a VPC endpoint, a few more.
_V2_BYTES_MAX = 512
_LOCAL, _PROXY = 0x20, 0x21  # version and command
_IPS = {"TCP4": ipaddress.IPv4Address, "TCP6": ipaddress.IPv6Address}
_IP_BYTES = {1: 4, 2: 16}  # of an address, by family; 0 is none, 3 a socket of one machine
_PAUSE_AT_BYTES = 64 * 1024  # that one side has not taken; asyncio's own high-water mark

_log = logs.get_logger("guard")


class Allowances:
    """So many new connections of an address at once, and then so many a second. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}  # address → allowance, moment of it

    def allow(self, address: str) -> bool:
        """Whether one more connection of this address may come now."""
        now = self._clock()
        if address not in self._left and len(self._left) >= ADDRESSES_MAX:
            rested = now - NEW_BURST / NEW_PER_S
            self._left = {one: state for one, state in self._left.items() if state[1] > rested}
            if len(self._left) >= ADDRESSES_MAX:
                address = ""
        left, then = self._left.get(address, (float(NEW_BURST), now))
        left = min(float(NEW_BURST), left + (now - then) * NEW_PER_S)
        allowed = left >= 1
        self._left[address] = (left - 1 if allowed else left, now)
        return allowed


class Header:
    """What a proxy says before a consumer's first byte. Which version it speaks is in the first bytes, and no other."""

    def __init__(self) -> None:
        self.partial = bytearray()

    def whole(self, data: bytes) -> tuple[str | None, bytes] | None:
        """The consumer's address and what follows the header; None while that is not whole.

        An address is empty where the proxy tells none, and None where it comes for itself (`LOCAL`). Raises ValueError
        for anything else, as soon as it can be seen.
        """
        self.partial += data
        for signature, read in ((_V1, self._line), (_V2, self._binary)):
            if self.partial.startswith(signature):
                return read()
        if not _V1.startswith(self.partial) and not _V2.startswith(self.partial):
            raise ValueError("no PROXY header")
        return None

    def _line(self) -> tuple[str, bytes] | None:
        end = self.partial.find(b"\r\n", 0, _V1_BYTES_MAX)
        if end < 0:
            if len(self.partial) >= _V1_BYTES_MAX:
                raise ValueError("a line without an end")
            return None
        words = self.partial[:end].decode("ascii").split(" ")
        rest = bytes(self.partial[end + 2 :])
        if words[1] == "UNKNOWN":
            return "", rest
        if words[1] not in _IPS or len(words) != 6:
            raise ValueError("neither TCP4 nor TCP6")
        return str(_IPS[words[1]](words[2])), rest

    def _binary(self) -> tuple[str | None, bytes] | None:
        if len(self.partial) < _V2_BYTES:
            return None
        command, (family, transport) = self.partial[12], divmod(self.partial[13], 16)
        length = int.from_bytes(self.partial[14:16])
        if command not in (_LOCAL, _PROXY) or length > _V2_BYTES_MAX:
            raise ValueError("no header of version 2")
        size = 0
        if command == _PROXY:
            if family > 3 or transport > 2:
                raise ValueError("a family that version 2 does not have")
            size = _IP_BYTES.get(family, 0) if transport else 0
            if size and length < 2 * (size + 2):
                raise ValueError("too short for its addresses")
        end = _V2_BYTES + length
        if len(self.partial) < end:
            return None
        address = str(ipaddress.ip_address(bytes(self.partial[_V2_BYTES : _V2_BYTES + size]))) if size else ""
        return None if command == _LOCAL else address, bytes(self.partial[end:])


class Frames:
    """Kafka's frames out of bytes as they come: a length of four bytes, signed, then so many."""

    def __init__(self) -> None:
        self.partial = bytearray()

    def whole(self, data: bytes) -> bytes:
        """The frames that are whole now, one after another. Raises ValueError for a length that no consumer sends."""
        self.partial += data
        end, have = 0, len(self.partial)
        while have - end >= 4:
            length = int.from_bytes(self.partial[end : end + 4], signed=True)
            if not 0 <= length <= FRAME_BYTES_MAX:
                raise ValueError(length)
            if have - end < 4 + length:
                break
            end += 4 + length
        found = bytes(self.partial[:end])
        del self.partial[:end]
        return found


class Guard:
    """One listening port before one broker's listener. All of it runs on one event loop."""

    def __init__(self, host: str, port: int, *, allowances: Allowances | None = None) -> None:
        """Where Kafka's PROXY is. The name is looked up for each connection: a broker may move."""
        self.host, self.port = host, port
        self.allowances = allowances or Allowances()
        self.outsides: set[_Outside] = set()
        self._server: asyncio.Server | None = None
        self._lookup: asyncio.Task[list[Any]] | None = None

    async def listen(self, host: str, port: int) -> int:
        """Serve from now on; returns the port, for 0 a free one."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Outside(self), host, port, backlog=1024)
        found: int = self._server.sockets[0].getsockname()[1]
        return found

    async def where(self) -> list[tuple[str, int]]:
        """Kafka's addresses now. One lookup for all who wait: while a name is missing it may take seconds, and lookups
        of clients that come again and again would queue up behind each other."""
        loop = asyncio.get_running_loop()
        if self._lookup is None or self._lookup.done():
            self._lookup = loop.create_task(self._look_up())
            self._lookup.add_done_callback(lambda done: done.cancelled() or done.exception())
        return [found[4][:2] for found in await asyncio.shield(self._lookup)]

    async def _look_up(self) -> list[Any]:
        found = await asyncio.get_running_loop().getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        return list(found)

    async def close(self) -> None:
        """End all of it now: consumers connect again."""
        if self._server is not None:
            self._server.close()
        for outside in list(self.outsides):
            outside.end()


class _Side(asyncio.Protocol):
    """What both sides do: whoever takes nothing makes the other side wait."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.other: _Side | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are of no class of asyncio's
        self.transport.set_write_buffer_limits(high=_PAUSE_AT_BYTES)

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.hold()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.go_on()

    def hold(self) -> None:
        """Read nothing."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def go_on(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    def close(self) -> None:
        """End it when what was written has been sent."""
        if self.transport is not None:
            self.transport.close()


class _Inside(_Side):
    """Kafka's side. Its bytes pass as they are."""

    def __init__(self, outside: _Outside) -> None:
        super().__init__()
        self.other = outside
        self._outside = outside

    def data_received(self, data: bytes) -> None:
        if (transport := self._outside.transport) is not None:
            transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._outside.close()


class _Outside(_Side):
    """The proxy's side: a header that says for whom, then the frames of a consumer."""

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self._guard = guard
        self._frames = Frames()
        self._header: Header | None = Header()  # None when it has come
        self._for_itself = False  # a health check: it may say what it likes, and ends or is ended
        self._connecting: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.address = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if len(self._guard.outsides) >= CONNECTIONS_MAX:
            self._cut("too many connections")
            return
        self._guard.outsides.add(self)
        self._wait()

    def data_received(self, data: bytes) -> None:
        if self._for_itself:
            return
        if self._header is not None:
            self._read_header(self._header, data)
        else:
            self._take(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.end()

    def hold(self) -> None:
        super().hold()
        self._wait_no_more()  # the rest of a frame cannot come now

    def go_on(self) -> None:
        super().go_on()
        if self._frames.partial:
            self._wait()

    def end(self) -> None:
        """Both sides, at once."""
        self._wait_no_more()
        self._guard.outsides.discard(self)
        if self._connecting is not None:
            self._connecting.cancel()
        for side in (self, self.other):
            if side is not None and side.transport is not None:
                side.transport.abort()

    def _read_header(self, header: Header, data: bytes) -> None:
        try:
            found = header.whole(data)
        except ValueError:
            self._cut("no PROXY header")
            return
        if found is None:
            return
        address, rest = found
        self._header = None
        if address is None:
            self._for_itself = True
            return
        self.address = address
        if not self._guard.allowances.allow(address):
            self._cut("too many new connections from this address")
            return
        self._wait()
        if rest:
            self._take(rest)

    def _take(self, data: bytes) -> None:
        waited = bool(self._frames.partial)
        try:
            found = self._frames.whole(data)
        except ValueError as error:
            self._cut("a frame that no consumer sends", length=error.args[0])
            return
        if found and self.other is None:
            self._begin(found)
            return
        if found:
            self._send(found)
        if self._frames.partial and self.other is not None and (found or not waited):
            self._wait()
        elif found:
            self._wait_no_more()

    def _begin(self, frames: bytes) -> None:
        """To the broker with the first frames. Whoever sends none, or others, never costs it a connection."""
        if int.from_bytes(frames[4:6]) not in _FIRST_APIS:
            self._cut("a first frame that no client sends")
            return
        self.hold()
        self._connecting = asyncio.get_running_loop().create_task(self._connect(frames))

    async def _connect(self, frames: bytes) -> None:
        inside = _Inside(self)
        try:
            async with asyncio.timeout(CONNECT_S_MAX):
                await self._reach(inside)
        except (OSError, TimeoutError) as error:
            self._connecting = None
            self._cut("the broker was not reached", said=str(error))
            return
        self._connecting = None
        self.other = inside
        if self._closing():
            self.end()
            return
        self._send(frames)
        self.go_on()

    async def _reach(self, inside: _Inside) -> None:
        """The first of the broker's addresses that answers. Raises the last one's OSError."""
        loop = asyncio.get_running_loop()
        *others, last = await self._guard.where()
        for address in others:
            with suppress(OSError):
                await loop.create_connection(lambda: inside, *address)
                return
        await loop.create_connection(lambda: inside, *last)

    def _send(self, frames: bytes) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(frames)

    def _wait(self) -> None:
        self._wait_no_more()
        self._timer = asyncio.get_running_loop().call_later(FRAME_S_MAX, self._late)

    def _wait_no_more(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        if self._for_itself or (self._header is not None and not self._header.partial):
            self.end()  # a health check; the other kind connects and says nothing
        else:
            self._cut("a frame that does not end")

    def _cut(self, code: str, **more: object) -> None:
        _log.warning("kafka connection cut", code=code, client=self.address, **more)
        self.end()

    def _closing(self) -> bool:
        return self.transport is None or self.transport.is_closing()


async def run(listen: tuple[str, int], broker: tuple[str, int]) -> None:
    """Serve until SIGTERM or SIGINT."""
    guard = Guard(*broker)
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    for wanted in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(wanted, done.set)
    port = await guard.listen(*listen)
    _log.info("the guard listens", host=listen[0], port=port, broker=f"{broker[0]}:{broker[1]}")
    await done.wait()
    await guard.close()
