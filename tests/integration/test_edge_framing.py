"""Where a request ends: ambiguous framing is answered 400 and closed, and none is two requests (rules.md 22)."""

from __future__ import annotations

import hashlib

import pytest

from bridge import Serve, answers, eventually, request
from framing import CHUNKED, CORPUS, SMUGGLED, H


@pytest.mark.parametrize("name", CORPUS)
def test_rule_22_no_vector_yields_two_requests(bridge: Serve, name: str) -> None:
    data, status = CORPUS[name]
    before = bridge.balance()
    with bridge.open() as client:
        # A valid vector leaves the connection open: the end of our side tells that nothing more will come.
        client.send(data).half_close()
        found = answers(client.rest())
    assert [answer.status for answer in found] == [status]
    after = bridge.balance()
    assert after["received"] - before["received"] == 1
    assert after["acked"] - before["acked"] == (status == 200)
    if status != 200:
        assert found[0].closes
        assert found[0].headers["content-type"] == "application/problem+json"


def test_pipelined_requests_are_answered_in_order(bridge: Serve) -> None:
    before = bridge.balance()
    paths = ["/open", "/nobody", "/closed", "/open/x", "/health", "/open?a=1", "/small", "/open", "/open", "/open"]
    with bridge.open() as client:
        client.send(b"".join(request(path, b"x" * 10, login="") for path in paths))
        found = [client.answer().status for _ in paths]
    assert found == [200, 404, 401, 200, 200, 200, 401, 200, 200, 200]
    eventually(lambda: bridge.balance()["acked"] - before["acked"] == 6, "acked")
    assert bridge.balance()["received"] - before["received"] == 9  # health is no webhook


def test_large_pipelined_bodies_do_not_count_as_headers(bridge: Serve) -> None:
    with bridge.open() as client:
        client.send(request("/open", b"b" * 300_000) * 4 + request("/open", b"")[:30])
        assert [client.answer().status for _ in range(4)] == [200] * 4
        assert client.send(request("/open", b"")[30:]).answer().status == 200


@pytest.mark.parametrize("kind", ["length", "chunked"])
def test_a_request_may_be_cut_at_every_byte(bridge: Serve, kind: str) -> None:
    data = (
        request("/open/p?q=1", b"abc", "X-A: b", login="")
        if kind == "length"
        else CHUNKED + b"3;e\r\nabc\r\n0\r\nT: u\r\n\r\n"
    )
    hashes = set()
    with bridge.open() as client:
        for cut in range(1, len(data)):
            client.send(data[:cut]).send(data[cut:])
            answer = client.answer()
            assert answer.status == 200, cut
            hashes.add(answer.json["body_sha256"])
        for byte in data:
            client.send(bytes([byte]))
        hashes.add(client.answer().json["body_sha256"])
    assert hashes == {"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}


def test_many_tiny_chunks_are_one_body(bridge: Serve) -> None:
    size = 100_000
    data = H + b"Transfer-Encoding: chunked\r\n\r\n" + b"2\r\nab\r\n" * size + b"0\r\n\r\n"
    with bridge.open() as client:
        answer = client.send(data).answer()
    assert (answer.status, answer.json["body_sha256"]) == (200, hashlib.sha256(b"ab" * size).hexdigest())


def test_expect_100_continue(bridge: Serve) -> None:
    with bridge.open() as client:
        client.send(request("/open", b"", "Expect: 100-Continue", size=3))
        assert client.answer().status == 100
        assert client.send(b"abc").answer().status == 200
        # refused before the body is sent
        client.send(request("/closed", b"", "Expect: 100-continue", login="", size=3))
        answer = client.answer()
        assert (answer.status, answer.closes) == (401, True)
    for line, path, status in (
        ("Expect: magic", "/open", 417), ("Expect: 100-continue", "/small", 413), ("Expect: 100-continue", "/no", 404),
    ):  # fmt: skip
        assert bridge.ask(request(path, b"", line, size=5000)).status == status
    # behind another request the 100 comes after its answer, and never when the body was there already
    with bridge.open() as client:
        client.send(request("/open", b"1") + request("/open", b"", "Expect: 100-continue", size=1))
        assert [client.answer().status, client.answer().status] == [200, 100]
        assert client.send(b"2").answer().status == 200
        client.send(request("/open", b"1") + request("/open", b"2", "Expect: 100-continue") + request("/open", b"3"))
        assert [client.answer().status for _ in range(3)] == [200] * 3
        assert client.send(request("/open", b"4")).answer().status == 200


def test_http_1_0_and_methods_without_an_answer_body(bridge: Serve) -> None:
    with bridge.open() as client:
        (answer,) = answers(client.send(b"POST /open HTTP/1.0\r\nHost: x\r\nContent-Length: 1\r\n\r\na").rest())
        assert (answer.status, answer.closes) == (200, True)
    with bridge.open() as client:
        assert client.send(request("/closed", method="HEAD", login="")).head().status == 405
        assert client.send(request("/health", method="HEAD", login="")).head().status == 200
        assert client.send(request("/open", method="OPTIONS")).answer().status == 200


def test_an_upgrade_is_ignored_and_nothing_behind_it_is_read(bridge: Serve) -> None:
    before = bridge.balance()["received"]
    for body in (b"", b"abc"):
        lines = "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"
        with bridge.open() as client:
            found = answers(client.send(request("/open", body, *lines) + SMUGGLED).rest())
        assert [(a.status, a.closes) for a in found] == [(200, True)]
    assert bridge.balance()["received"] - before == 2


def test_a_half_closed_sender_is_answered_and_let_go(bridge: Serve) -> None:
    with bridge.open() as client:
        assert [a.status for a in answers(client.send(request("/open", b"a")).half_close().rest())] == [200]
    with bridge.open() as client:
        assert answers(client.send(b"POST /open HT").half_close().rest()) == []


def test_rule_17_a_sender_that_goes_is_counted_as_aborted(bridge: Serve) -> None:
    before = bridge.balance()["aborted"]
    with bridge.open() as client:
        client.send(request("/open", b"a", size=100))
        eventually(lambda: bridge.total("kwb_in_flight_bytes") == 1, "the byte is held")
    eventually(lambda: bridge.balance()["aborted"] == before + 1, "aborted")
    eventually(lambda: bridge.total("kwb_in_flight_bytes") == 0, "the byte is released")
