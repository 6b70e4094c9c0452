"""One HTTPS request of the bridge itself, to an address that a sender may have a hand in (rules.md 30).

So it goes to public addresses alone, which are looked up first and then connected to, so that no name can change in
between; certificates are checked; a redirect is an error; time and bytes are bounded. HTTP_PROXY is not read.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple
from urllib.parse import urlsplit

import httptools

from kafka_webhook_bridge import __version__
from kafka_webhook_bridge.settings import harness_fetch

ANSWER_BYTES_MAX = 256 * 1024
_HEAD_BYTES_MAX = 32 * 1024
_TIMEOUT_S = 5.0


class FetchError(Exception):
    """There is no answer that could be used; the message says why, for operators.

    `answered` tells that the host itself said so, not the network on the way.
    """

    def __init__(self, message: str, *, answered: bool = False) -> None:
        super().__init__(message)
        self.answered = answered


class Answer(NamedTuple):
    """A 200: its body, and for how long it may be kept by its own word (s; None: it says nothing)."""

    body: bytes
    max_age_s: int | None


async def fetch(
    address: str, *, method: str = "GET", headers: Sequence[tuple[str, str]] = (), body: bytes = b""
) -> Answer:
    """The answer of an https address. Raises FetchError."""
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            return await _fetch(address, method, headers, body)
    except TimeoutError:
        raise FetchError(f"no answer within {_TIMEOUT_S:g} s") from None
    except (OSError, ValueError, httptools.HttpParserError) as error:  # ssl.SSLError is an OSError
        raise FetchError(str(error) or type(error).__name__) from None


async def _fetch(address: str, method: str, headers: Sequence[tuple[str, str]], body: bytes) -> Answer:
    parts = urlsplit(address)
    host = parts.hostname
    if parts.scheme != "https" or not host or parts.username is not None or not address.isascii():
        raise FetchError("only plain https addresses are fetched")
    harness = harness_fetch()
    if harness is None:
        place = await _public(host, parts.port or 443), parts.port or 443
    else:
        place = harness.host, harness.port
    # Reading the authorities takes tens of milliseconds, once.
    context = await asyncio.to_thread(_context, None if harness is None else harness.authority)
    reader, writer = await asyncio.open_connection(*place, ssl=context, server_hostname=host)
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        lines = [
            f"{method} {target} HTTP/1.1", f"Host: {parts.netloc}", f"User-Agent: kafka-webhook-bridge/{__version__}",
            "Accept: */*", "Accept-Encoding: identity", "Connection: close",
            *(f"{name}: {value}" for name, value in headers), *([f"Content-Length: {len(body)}"] if body else ()),
        ]  # fmt: skip
        if any(character < " " or character > "~" for line in lines for character in line):
            raise FetchError("the address holds characters that no request has")
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        return await _read(reader)
    finally:
        writer.close()


async def _public(host: str, port: int) -> str:
    """An address of the host, if all that it has are public."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [ipaddress.ip_address(str(info[4][0]).partition("%")[0]) for info in found]
    for address in addresses:
        if not _is_public(address):
            raise FetchError(f"{host} is at {address}, which is no public address")
    if not addresses:
        raise FetchError(f"{host} has no address")
    return str(addresses[0])


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Addresses of IPv4 inside IPv6 count as what they lead to."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is not None:
            return _is_public(inner)
        if address in _NAT64:
            return _is_public(ipaddress.IPv4Address(address.packed[-4:]))
    return address.is_global and not address.is_multicast


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


@cache
def _context(authority: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


async def _read(reader: asyncio.StreamReader) -> Answer:
    answer = _Reading()
    parser = httptools.HttpResponseParser(answer)
    while not answer.complete:
        data = await reader.read(65_536)
        if not data:
            if not answer.headers_complete or answer.announced:
                raise FetchError("the answer was cut off")
            break  # without a length, its end is the connection's
        answer.take(len(data))
        parser.feed_data(data)
    if parser.get_status_code() != 200:
        raise FetchError(f"answered {parser.get_status_code()}", answered=True)
    return Answer(b"".join(answer.parts), answer.max_age_s)


class _Reading:
    """The parser's side."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.max_age_s: int | None = None
        self.complete = self.headers_complete = self.announced = False
        self._bytes = 0

    def take(self, size: int) -> None:
        self._bytes += size
        if self._bytes > ANSWER_BYTES_MAX + _HEAD_BYTES_MAX or (
            not self.headers_complete and self._bytes > _HEAD_BYTES_MAX + 65_536
        ):
            raise FetchError(f"the answer is larger than {ANSWER_BYTES_MAX // 1024} KiB")

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in (b"content-length", b"transfer-encoding"):
            self.announced = True
        elif name == b"cache-control":
            for word in value.lower().split(b","):
                key, _, number = word.strip().partition(b"=")
                if key == b"max-age" and number.isdigit() and len(number) < 10:
                    self.max_age_s = int(number)

    def on_headers_complete(self) -> None:
        self.headers_complete = True

    def on_body(self, part: bytes) -> None:
        self.parts.append(part)

    def on_message_complete(self) -> None:
        self.complete = True
