"""The guard's two judgements: which bytes are frames, and who may come again."""

from __future__ import annotations

import asyncio
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
)
from kafka_webhook_bridge.stack.kafka import _PROPERTIES

ROOT = Path(__file__).parents[2]


def frame(length: int, said: int | None = None) -> bytes:
    return (length if said is None else said).to_bytes(4, signed=True) + b"x" * length


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


async def talk(port: int, said: bytes = HELLO) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"PROXY TCP4 203.0.113.7 192.0.2.1 40000 29095\r\n" + said)
    found = await asyncio.wait_for(reader.read(100), 60)
    writer.close()
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

        broker = await asyncio.start_server(says, "127.0.0.1", 0)
        guard = Guard("127.0.0.1", broker.sockets[0].getsockname()[1])
        own = await guard.listen("127.0.0.1", 0)
        for said in (frame(0), frame(1), frame(40), frame(0, -1), b"GET / HTTP/1.1\r\n\r\n", HELLO[:4] + b"\0\1\0\0"):
            assert await talk(own, said) == b""
        assert await talk(own) == HELLO
        assert came == [HELLO]
        await guard.close()
        broker.close()

    asyncio.run(main())


def test_rule_9_all_that_outsiders_may_hold_fits_the_brokers_memory_for_requests() -> None:
    """In both places where a broker's settings stand."""
    embedded = dict(re.findall(r"(?m)^([a-z.]+)=(\S+)$", _PROPERTIES))
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["kafka"]["environment"]
    for pool, most in (
        (embedded["queued.max.request.bytes"], embedded["listener.name.proxy.max.connections"]),
        (compose["KAFKA_QUEUED_MAX_REQUEST_BYTES"], compose["KAFKA_LISTENER_NAME_PROXY_MAX_CONNECTIONS"]),
    ):
        assert int(most) == CONNECTIONS_MAX
        assert int(pool) >= CONNECTIONS_MAX * FRAME_BYTES_MAX
