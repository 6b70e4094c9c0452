"""What bounds a sender: rate, failed logins, and whose word about addresses is believed."""

from __future__ import annotations

import ipaddress
import re
from collections import OrderedDict

from kafka_webhook_bridge.sources.table import Network

_WINDOW_S = 60.0
_ADDRESSES_MAX = 10_000
_HOST = re.compile(rb"[A-Za-z0-9.-]{1,253}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?")


class TokenBucket:
    """A source's rate limit. One second's worth may come at once."""

    __slots__ = ("_last", "_per_second", "_tokens")

    def __init__(self, per_second: float, now: float) -> None:
        self._per_second = per_second
        self._tokens = max(1.0, per_second)
        self._last = now

    def take(self, now: float) -> bool:
        """Whether one more request fits now (seconds of any monotonic clock)."""
        self._tokens = min(max(1.0, self._per_second), self._tokens + (now - self._last) * self._per_second)
        self._last = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def wait_s(self) -> int:
        """Whole seconds until the next token."""
        return max(1, round((1.0 - self._tokens) / self._per_second + 0.5))


class FailedLogins:
    """Counts wrong passwords per address and minute.

    Only asked about requests whose credentials are wrong, so right ones are never delayed (rules.md 24). The oldest
    addresses are forgotten beyond a bound; IPv6 counts by /64, which one host owns whole.
    """

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def failed(self, address: str, now: float) -> int | None:
        """Note a failure. None while the address may go on, else whole seconds until it may."""
        key = _network(address)
        since, count = self._seen.pop(key, (now, 0))
        if now - since >= _WINDOW_S:
            since, count = now, 0
        self._seen[key] = (since, count + 1)
        if len(self._seen) > _ADDRESSES_MAX:
            self._seen.popitem(last=False)
        return None if count < self._per_minute else self.wait_s(address, now)

    def wait_s(self, address: str, now: float) -> int:
        """Whole seconds until the address may go on."""
        since, _ = self._seen.get(_network(address), (now, 0))
        return max(1, round(since + _WINDOW_S - now))


def _network(address: str) -> str:
    if ":" not in address:
        return address
    try:
        return str(ipaddress.ip_network((address.partition("%")[0], 64), strict=False))
    except ValueError:
        return address


class TrustedProxies:
    """Reads X-Forwarded-For from right to left, as far as each hop is one of ours (rules.md 24)."""

    def __init__(self, networks: tuple[Network, ...]) -> None:
        self._networks = networks

    def trusts(self, address: str) -> bool:
        """Whether the address lies in one of the networks."""
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(ip in network for network in self._networks)

    def sender(self, peer: str, forwarded_for: list[bytes]) -> str:
        """The nearest address that is not ours; the peer itself unless it is trusted."""
        if not self._networks or not forwarded_for or not self.trusts(peer):
            return peer
        hops = [hop.strip() for line in forwarded_for for hop in line.decode("latin-1").split(",")]
        for hop in reversed(hops):
            try:
                address = str(ipaddress.ip_address(hop))
            except ValueError:
                return peer
            if not self.trusts(address):
                return address
            peer = address
        return peer

    def base(self, peer: str, headers: list[tuple[bytes, bytes]]) -> bytes | None:
        """`scheme://host` by X-Forwarded-Proto and -Host of the nearest proxy, None unless it is ours and says both.

        Each proxy may add to a list, so the last word is that of the nearest one; what stands before it may be a
        stranger's.
        """
        if not self._networks or not self.trusts(peer):
            return None
        scheme, host = _last(headers, b"x-forwarded-proto"), _last(headers, b"x-forwarded-host")
        if scheme not in (b"https", b"http") or not _HOST.fullmatch(host):
            return None
        return scheme + b"://" + host


def _last(headers: list[tuple[bytes, bytes]], wanted: bytes) -> bytes:
    """The last element of a header that is a list, over all its lines; empty if it is absent."""
    found = b""
    for name, value in headers:
        if len(name) == len(wanted) and name.lower() == wanted:
            found = value
    return found.rpartition(b",")[2].strip()
