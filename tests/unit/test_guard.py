"""The guard's judgements: for whom a proxy comes, which bytes are frames, and who may come again."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml

from kafka_webhook_bridge.kafka.guard import (
    ADDRESSES_MAX,
    CONNECTIONS_MAX,
    FRAME_BYTES_MAX,
    NEW_BURST,
    NEW_PER_S,
    Allowances,
    Frames,
    Guard,
    Header,
)
from kafka_webhook_bridge.stack.kafka import _PROPERTIES

ROOT = Path(__file__).parents[2]


def frame(length: int, said: int | None = None) -> bytes:
    return (length if said is None else said).to_bytes(4, signed=True) + b"x" * length


SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
FOUR = bytes([203, 0, 113, 7, 192, 0, 2, 1]) + (40_000).to_bytes(2) + (29_095).to_bytes(2)
SIX = bytes.fromhex("20010db8" + "00" * 11 + "07") + bytes(16) + FOUR[8:]
ENDPOINT = b"\xea" + (23).to_bytes(2) + b"\1vpce-0123456789abcdef0"  # as AWS tells a VPC endpoint


def second(command: int, family: int, block: bytes = b"", *, said: int | None = None) -> bytes:
    """A header of version 2. `said` is a length that it has not."""
    length = len(block) if said is None else said
    return SIGNATURE + bytes([command, family]) + length.to_bytes(2) + block


# Name → header, and the address in it; None where a proxy comes for itself.
HEADERS: dict[str, tuple[bytes, str | None]] = {
    "1, IPv4": (b"PROXY TCP4 203.0.113.7 192.0.2.1 40000 29095\r\n", "203.0.113.7"),
    "1, IPv6": (b"PROXY TCP6 2001:db8:0::7 :: 40000 29095\r\n", "2001:db8::7"),
    "1, the longest": (b"PROXY UNKNOWN " + b" ".join([b"f" * 39] * 2 + [b"65535"] * 2) + b"\r\n", ""),
    "1, unknown": (b"PROXY UNKNOWN\r\n", ""),
    "2, IPv4": (second(0x21, 0x11, FOUR), "203.0.113.7"),
    "2, IPv4 and more": (second(0x21, 0x11, FOUR + ENDPOINT + b"\4\0\0"), "203.0.113.7"),
    "2, IPv6": (second(0x21, 0x21, SIX + ENDPOINT), "2001:db8::7"),
    "2, datagrams": (second(0x21, 0x12, FOUR), "203.0.113.7"),
    "2, a socket of one machine": (second(0x21, 0x31, b"/" * 216), ""),
    "2, of an unknown family": (second(0x21, 0x00), ""),
    "2, of an unknown family with a block": (second(0x21, 0x01, FOUR), ""),
    "2, of an unknown transport": (second(0x21, 0x10, FOUR), ""),
    "2, the longest": (second(0x21, 0x11, FOUR + bytes(500)), "203.0.113.7"),
    "2, a health check": (second(0x20, 0x00), None),
    "2, a health check with a block": (second(0x20, 0x11, FOUR + ENDPOINT), None),
    "2, a health check whose family is ignored": (second(0x20, 0xFF), None),
}


@pytest.mark.parametrize(("data", "address"), HEADERS.values(), ids=HEADERS.keys())
@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_a_header_says_for_whom_however_its_bytes_are_cut(data: bytes, address: str | None, step: int) -> None:
    sent = data + frame(3)
    header = Header()
    for at in range(0, len(sent), step):
        if (found := header.whole(sent[at : at + step])) is not None:
            assert found == (address, sent[len(data) : at + step])
            return
    raise AssertionError("it never was whole")


@pytest.mark.parametrize(("data", "address"), HEADERS.values(), ids=HEADERS.keys())
def test_no_header_is_whole_before_its_end(data: bytes, address: str | None) -> None:
    header = Header()
    assert header.whole(data[:-1]) is None
    assert header.whole(data[-1:]) == (address, b"")


@pytest.mark.parametrize(
    "data",
    [
        b"G", b"\0", b"\r\r", b"PROXYX", b"proxy TCP4", SIGNATURE[:-1] + b"\r", b"PROXY \r\n",
        b"PROXY TCP4 203.0.113.7\r\n",
        b"PROXY TCP4 2001:db8::7 192.0.2.1 40000 29095\r\n", b"PROXY TCP6 203.0.113.7 192.0.2.1 40000 29095\r\n",
        b"PROXY TCP4 203.0.113.7x 192.0.2.1 40000 29095\r\n", b"PROXY TCP4 \xff 192.0.2.1 40000 29095\r\n",
        b"PROXY UDP4 203.0.113.7 192.0.2.1 40000 29095\r\n", b"PROXY UNKNOWN " + b"x" * 93,
        b"PROXY " + b"x" * 106 + b"\r\n",
        second(0x11, 0x11, FOUR), second(0x31, 0x11, FOUR), second(0x22, 0x11, FOUR), second(0x2F, 0x11, FOUR),
        second(0x21, 0x41, FOUR), second(0x21, 0x13, FOUR), second(0x21, 0xFF), second(0x21, 0x11, FOUR, said=11),
        second(0x21, 0x21, FOUR), second(0x21, 0x11, said=513), second(0x20, 0x00, said=0xFFFF),
    ],
)  # fmt: skip
def test_what_is_no_header_is_refused_as_soon_as_it_can_be_seen(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        Header().whole(data)


def test_frames_come_out_whole_however_the_bytes_are_cut() -> None:
    sent = frame(0) + frame(1) + frame(300) + frame(FRAME_BYTES_MAX) + frame(7)
    for step in (1, 2, 3, 5, 303, 65_536, len(sent)):
        frames = Frames()
        found = b"".join(frames.whole(sent[at : at + step]) for at in range(0, len(sent), step))
        assert found == sent
        assert frames.partial == b""


def test_nothing_of_a_frame_passes_before_its_end() -> None:
    frames = Frames()
    assert frames.whole(frame(5) + frame(100)[:-1]) == frame(5)
    assert frames.whole(b"") == b""
    assert frames.whole(b"x" + frame(2)[:5]) == frame(100)
    assert bytes(frames.partial) == frame(2)[:5]


@pytest.mark.parametrize("length", [FRAME_BYTES_MAX + 1, 20 * 1024**2, 2**31 - 1, -1, -(2**31)])
def test_a_length_that_no_consumer_sends_is_refused_with_its_four_bytes(length: int) -> None:
    with pytest.raises(ValueError, match=str(length)):
        Frames().whole(frame(9) + frame(0, length))


def test_an_address_has_a_burst_and_then_a_rate_and_others_have_their_own() -> None:
    now = 0.0
    allowances = Allowances(lambda: now)
    assert [allowances.allow("a") for _ in range(NEW_BURST + 1)] == [True] * NEW_BURST + [False]
    assert allowances.allow("b")
    now += 1.0
    assert [allowances.allow("a") for _ in range(int(NEW_PER_S) + 1)] == [True] * int(NEW_PER_S) + [False]


def test_addresses_are_forgotten_and_never_more_than_so_many_are_kept() -> None:
    now = 0.0
    allowances = Allowances(lambda: now)
    for number in range(ADDRESSES_MAX + 2 * NEW_BURST):
        allowances.allow(str(number))
    assert len(allowances._left) <= ADDRESSES_MAX + 1
    assert not allowances.allow("one too many")  # the shared allowance is used up
    now += NEW_BURST / NEW_PER_S + 1
    assert allowances.allow("one too many")
    assert len(allowances._left) < 3


HELLO = frame(0, 4) + b"\0\x12\0\0"  # ApiVersions, with which a client begins
FIRST = b"PROXY TCP4 203.0.113.7 192.0.2.1 40000 29095\r\n"


async def talk(port: int, header: bytes = FIRST, *, said: bytes = HELLO) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(header + said)
    found = await asyncio.wait_for(reader.read(100), 60)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return found


def test_a_broker_that_moves_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what it says passes as it is."""
    where = "127.0.0.1"
    really = socket.getaddrinfo

    def lookup(host: object, *more: Any, **others: Any) -> Any:
        return really(where if host == "kafka.test" else host, *more, **others)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)

    async def main() -> None:
        nonlocal where

        async def says(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            assert await reader.readexactly(8) == HELLO
            writer.write(writer.get_extra_info("sockname")[0].encode())
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

        first = await asyncio.start_server(says, "127.0.0.1", 0)
        port = first.sockets[0].getsockname()[1]
        second = await asyncio.start_server(says, "127.0.0.2", port)
        guard = Guard("kafka.test", port)
        own = await guard.listen("127.0.0.1", 0)
        assert await talk(own) == b"127.0.0.1"
        where = "127.0.0.2"
        assert await talk(own) == b"127.0.0.2"
        await guard.close()
        first.close()
        second.close()

    asyncio.run(main())


def test_a_name_with_several_addresses_is_reached_at_the_one_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    really = socket.getaddrinfo

    def lookup(host: object, *more: Any, **others: Any) -> Any:
        if host != "kafka.test":
            return really(host, *more, **others)
        return [found for one in ("127.0.0.3", "127.0.0.2") for found in really(one, *more, **others)]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)

    async def main() -> None:
        async def says(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readexactly(8))
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

        second = await asyncio.start_server(says, "127.0.0.2", 0)
        guard = Guard("kafka.test", second.sockets[0].getsockname()[1])
        assert await talk(await guard.listen("127.0.0.1", 0)) == HELLO
        await guard.close()
        second.close()

    asyncio.run(main())


def test_who_begins_with_something_else_costs_the_broker_no_connection() -> None:
    async def main() -> None:
        came: list[bytes] = []

        async def says(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            came.append(await reader.readexactly(8))
            writer.write(came[-1])
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

        broker = await asyncio.start_server(says, "127.0.0.1", 0)
        guard = Guard("127.0.0.1", broker.sockets[0].getsockname()[1])
        own = await guard.listen("127.0.0.1", 0)
        for said in (frame(0), frame(1), frame(40), frame(0, -1), b"GET / HTTP/1.1\r\n\r\n", HELLO[:4] + b"\0\1\0\0"):
            assert await talk(own, said=said) == b""
        assert await talk(own) == HELLO
        assert came == [HELLO]
        await guard.close()
        broker.close()

    asyncio.run(main())


def test_a_health_check_of_the_proxy_reaches_no_broker_and_counts_for_nobody() -> None:
    """AWS's load balancer asks so every ten seconds; what it says beyond its header is nobody's."""

    async def main() -> None:
        came = 0

        def says(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal came
            came += 1
            writer.close()

        broker = await asyncio.start_server(says, "127.0.0.1", 0)
        guard = Guard("127.0.0.1", broker.sockets[0].getsockname()[1])
        port = await guard.listen("127.0.0.1", 0)
        for data in (second(0x20, 0x00), second(0x20, 0x00) + frame(3) + frame(0, -1)):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(data)
            writer.write_eof()
            await asyncio.wait_for(guard_is_empty(guard), 60)
            writer.close()
        assert guard.allowances._left == {}
        assert await talk(port, second(0x21, 0x11, FOUR)) == b""  # the sentinel
        assert came == 1
        assert set(guard.allowances._left) == {"203.0.113.7"}
        await guard.close()
        broker.close()

    asyncio.run(main())


async def guard_is_empty(guard: Guard) -> None:
    """Somebody came, and has gone."""
    while not guard.outsides:
        await asyncio.sleep(0)
    while guard.outsides:
        await asyncio.sleep(0.001)


def test_rule_9_all_that_outsiders_may_hold_fits_the_brokers_memory_for_requests() -> None:
    """In each place where a broker's settings stand."""
    embedded = dict(re.findall(r"(?m)^([a-z.]+)=(\S+)$", _PROPERTIES))
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["kafka"]["environment"]
    aws = dict(re.findall(r"\{Name: (KAFKA_\w+), Value: '(\d+)'\}", (ROOT / "aws/templates/bridge.yaml").read_text()))
    for pool, most in (
        (aws["KAFKA_QUEUED_MAX_REQUEST_BYTES"], aws["KAFKA_LISTENER_NAME_PROXY_MAX_CONNECTIONS"]),
        (embedded["queued.max.request.bytes"], embedded["listener.name.proxy.max.connections"]),
        (compose["KAFKA_QUEUED_MAX_REQUEST_BYTES"], compose["KAFKA_LISTENER_NAME_PROXY_MAX_CONNECTIONS"]),
    ):
        assert int(most) == CONNECTIONS_MAX
        assert int(pool) >= CONNECTIONS_MAX * FRAME_BYTES_MAX
