"""What bounds a sender, without a socket."""

from __future__ import annotations

import ipaddress

import pytest

from kafka_webhook_bridge.ingest.auth import Logins
from kafka_webhook_bridge.ingest.limits import FailedLogins, TokenBucket, TrustedProxies
from kafka_webhook_bridge.settings import load_settings
from kafka_webhook_bridge.sources.basic import parse_basic
from kafka_webhook_bridge.sources.config import load_sources


def test_a_second_of_tokens_may_come_at_once() -> None:
    bucket = TokenBucket(3, 100.0)
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.wait_s() >= 1
    assert [bucket.take(100.4), bucket.take(100.4)] == [True, False]
    assert [bucket.take(900.0) for _ in range(4)] == [True, True, True, False]  # no more is saved up
    slow = TokenBucket(0.5, 0.0)
    assert [slow.take(0.0), slow.take(1.9), slow.take(2.1)] == [True, False, True]


def test_rule_24_failures_count_per_address_and_minute() -> None:
    failed = FailedLogins(2)
    assert [failed.failed("192.0.2.1", t) for t in (0.0, 10.0)] == [None, None]
    assert failed.failed("192.0.2.1", 20.0) == 40
    assert failed.wait_s("192.0.2.1", 30.0) == 30
    assert failed.failed("192.0.2.2", 20.0) is None
    assert failed.failed("192.0.2.1", 60.0) is None


def test_an_ipv6_host_owns_a_whole_network() -> None:
    failed = FailedLogins(1)
    assert failed.failed("2001:db8::1", 0.0) is None
    assert failed.failed("2001:db8::ffff:2", 0.0) is not None
    assert failed.failed("2001:db8:0:1::1", 0.0) is None


def test_the_memory_of_failures_is_bounded() -> None:
    failed = FailedLogins(1)
    for n in range(30_000):
        failed.failed(str(ipaddress.ip_address(n)), 0.0)
    assert len(failed._seen) == 10_000
    assert failed.failed(str(ipaddress.ip_address(29_999)), 0.0) is not None
    assert failed.failed(str(ipaddress.ip_address(0)), 0.0) is None  # forgotten


@pytest.mark.parametrize(
    ("peer", "lines", "sender"),
    [
        ("10.0.0.1", [b"198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", [b"203.0.113.1, 198.51.100.7, 10.0.0.2"], "198.51.100.7"),
        ("10.0.0.1", [b"203.0.113.1", b"198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", [b"10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", [b"nonsense"], "10.0.0.1"),
        ("10.0.0.1", [b"198.51.100.7, nonsense"], "10.0.0.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("192.0.2.9", [b"198.51.100.7"], "192.0.2.9"),
        ("", [b"198.51.100.7"], ""),
    ],
)
def test_rule_24_forwarded_for_is_read_from_the_right(peer: str, lines: list[bytes], sender: str) -> None:
    assert TrustedProxies((ipaddress.ip_network("10.0.0.0/8"),)).sender(peer, lines) == sender


def test_basic_headers() -> None:
    assert parse_basic(b"Basic dTpwOnE=") == (b"u", b"p:q")
    assert parse_basic(b"basic   dTpw ") == (b"u", b"p")
    for malformed in (b"", b"Basic", b"Basic dXA=", b"Basic d Tpw", b"Bearer dTpw", b"Basic\tdTpw"):
        assert parse_basic(malformed) is None, malformed


def test_a_login_that_passed_is_known_again_and_a_wrong_one_is_not() -> None:
    environ = {"WEBHOOK_USERNAME": "u", "WEBHOOK_PASSWORD": "p", "KWB_CONFIG": "sources: {s: {}}"}
    source = load_sources(load_settings(environ), environ).get("s")
    assert source is not None
    logins = Logins(source)
    for _ in range(2):
        assert logins.right(b"Basic dTpw")
        assert not logins.right(b"Basic dTpx")
        assert not logins.right(None)
    for n in range(3000):  # spellings of the right one: what is remembered is bounded
        assert logins.right(b"Basic " + b" " * n + b"dTpw")
    assert len(logins._passed) <= 1024
