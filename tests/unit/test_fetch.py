"""Fetches of the bridge's own: to public addresses alone, and bounded (rules.md 30)."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from kafka_webhook_bridge.ingest import fetch as module
from kafka_webhook_bridge.ingest.fetch import FetchError, fetch


def error_of(address: str, **options: Any) -> str:
    with pytest.raises(FetchError) as caught:
        asyncio.run(fetch(address, **options))
    return str(caught.value)


@pytest.mark.parametrize(
    "address",
    ["http://keys.test/", "ftp://keys.test/", "https:///x", "https://u:p@keys.test/", "https://k\u00e9ys.test/", "x"],
)
def test_rule_30_only_plain_https_addresses_are_fetched(address: str) -> None:
    assert error_of(address) == "only plain https addresses are fetched"


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "240.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fc00::1", "ff02::1", "::ffff:127.0.0.1",
        "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::1", "2002:a00:1::", "2001:db8::1",
    ],
)  # fmt: skip
def test_rule_30_a_name_that_leads_inside_is_never_connected_to(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    async def resolve(*_: Any, **__: Any) -> list[Any]:
        # A public one beside it does not help: which one is connected to would be chance.
        return [(0, 0, 0, "", ("93.184.215.14", 443)), (0, 0, 0, "", (address, 443))]

    async def connect(*_: Any, **__: Any) -> Any:
        raise AssertionError("connected")

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", resolve)
    monkeypatch.setattr(asyncio, "open_connection", connect)
    assert "which is no public address" in error_of("https://keys.test/jwks")


def test_rule_30_what_was_looked_up_is_what_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    async def resolve(*_: Any, **__: Any) -> list[Any]:
        return [(0, 0, 0, "", ("93.184.215.14", 443))]

    async def connect(host: str, port: int, **options: Any) -> Any:
        seen.append((host, port, options["server_hostname"], options["ssl"].check_hostname))
        raise ConnectionRefusedError(111, "refused")

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", resolve)
    monkeypatch.setattr(asyncio, "open_connection", connect)
    assert "refused" in error_of("https://keys.test:8443/jwks")
    assert seen == [("93.184.215.14", 8443, "keys.test", True)]


def test_a_name_that_does_not_exist_is_an_error_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolve(*_: Any, **__: Any) -> list[Any]:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", resolve)
    with pytest.raises(FetchError) as caught:
        asyncio.run(fetch("https://keys.test/"))
    assert not caught.value.answered


class _Reader:
    """An answer in pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = list(pieces)

    async def read(self, _: int) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""


def read(*pieces: bytes) -> module.Answer:
    return asyncio.run(module._read(_Reader(*pieces)))  # type: ignore[arg-type]


def test_an_answer_is_read_whole() -> None:
    answer = read(b"HTTP/1.1 200 OK\r\nContent-Le", b"ngth: 5\r\nCache-Control: public, Max-Age=900\r\n\r\nhe", b"llo")
    assert answer == (b"hello", 900)
    assert read(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n0\r\n\r\n") == (b"he", None)
    assert read(b"HTTP/1.0 200 OK\r\n\r\nhello") == (b"hello", None)  # its end is that of the connection


@pytest.mark.parametrize(
    ("pieces", "what"),
    [
        ([b"HTTP/1.1 301 Moved\r\nLocation: https://other/\r\nContent-Length: 0\r\n\r\n"], "answered 301"),
        ([b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"], "answered 404"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe"], "cut off"),
        ([], "cut off"),
        ([b"HTTP/1.1 200 OK\r\n\r\n"] + [b"x" * 65_536] * 6, "larger than 256 KiB"),
        ([b"HTTP/1.1 200 OK\r\nA: "] + [b"x" * 65_536] * 3, "larger than 256 KiB"),
    ],
)
def test_rule_30_an_answer_that_is_none(pieces: list[bytes], what: str) -> None:
    with pytest.raises(FetchError, match=what) as caught:
        read(*pieces)
    assert caught.value.answered == what.startswith("answered")
