"""Where a request ends: ambiguous framing is answered 400 and closed, and none is two requests (rules.md 22)."""

from __future__ import annotations

import hashlib

import pytest

from bridge import Serve, answers, eventually, request

H = b"POST /open HTTP/1.1\r\nHost: x\r\n"
CHUNKED = H + b"Transfer-Encoding: chunked\r\n\r\n"
SMUGGLED = b"GET /open HTTP/1.1\r\nHost: x\r\n\r\n"

# name → (bytes, status of the one answer). The first 44 are a corpus that was tried on six other servers.
CORPUS: dict[str, tuple[bytes, int]] = {
    "valid length": (H + b"Content-Length: 3\r\n\r\nabc", 200),
    "valid chunked": (CHUNKED + b"3\r\nabc\r\n0\r\n\r\n", 200),
    "length and chunked": (
        H + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED, 400),
    "two lengths": (H + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
    "two equal lengths": (H + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
    "list of lengths": (H + b"Content-Length: 3, 3\r\n\r\nabc", 400),
    "length +3": (H + b"Content-Length: +3\r\n\r\nabc", 400),
    "length -1": (H + b"Content-Length: -1\r\n\r\nabc", 400),
    "length 0x3": (H + b"Content-Length: 0x3\r\n\r\nabc", 400),
    "length 1_0": (H + b"Content-Length: 1_0\r\n\r\nabcdefghij", 400),
    "length 2^64+3": (H + b"Content-Length: 18446744073709551619\r\n\r\nabc", 400),
    "space before the colon of length": (H + b"Content-Length : 3\r\n\r\nabc", 400),
    "space before the colon of coding": (H + b"Transfer-Encoding : chunked\r\nContent-Length: 3\r\n\r\nabc", 400),
    "xchunked": (H + b"Transfer-Encoding: xchunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 400),
    "chunked, identity": (H + b"Transfer-Encoding: chunked, identity\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 400),
    "gzip, chunked": (H + b"Transfer-Encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 400),
    "two codings": (
        H + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 400),
    "\\x0bchunked": (H + b"Transfer-Encoding: \x0bchunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 400),
    "chunked on 1.0": (
        b"POST /open HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 400),
    "bad end of a chunk": (CHUNKED + b"3\r\nabcXX0\r\n\r\n", 400),
    "chunk lines with LF": (CHUNKED + b"3\nabc\n0\n\n", 400),
    "chunk 0x3": (CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n", 400),
    "chunk +3": (CHUNKED + b"+3\r\nabc\r\n0\r\n\r\n", 400),
    "chunk 0_3": (CHUNKED + b"0_3\r\nabc\r\n0\r\n\r\n", 400),
    "chunk overflow": (CHUNKED + b"10000000000000003\r\nabc\r\n0\r\n\r\n", 400),
    "LF in a chunk extension": (CHUNKED + b"3;a\nX\r\nabc\r\n0\r\n\r\n", 400),
    "bare CR in a header": (H + b"X: a\rTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc", 400),
    "bare LF lines": (b"POST /open HTTP/1.1\nHost: x\nContent-Length: 3\n\nabc", 400),
    "NUL in a header": (H + b"X: a\x00b\r\nContent-Length: 3\r\n\r\nabc", 400),
    "obs-fold": (H + b"X: a\r\n Content-Length: 9\r\nContent-Length: 3\r\n\r\nabc", 400),
    "no Host": (b"POST /open HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 400),
    "two Hosts": (b"POST /open HTTP/1.1\r\nHost: x\r\nHost: y\r\nContent-Length: 3\r\n\r\nabc", 400),
    "version 1.10": (b"POST /open HTTP/1.10\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 400),
    "space before a header": (b"POST /open HTTP/1.1\r\n Host: x\r\nContent-Length: 3\r\n\r\nabc", 400),
    "empty header name": (H + b": x\r\nContent-Length: 3\r\n\r\nabc", 400),
    "%00 in the path": (b"POST /open/a%00b HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 200),
    "\\x80 in the path": (b"POST /open/a\x80 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 400),
    "absolute URI": (b"POST http://evil/open HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 400),
    "200 headers": (H + b"".join(b"X%d: y\r\n" % i for i in range(200)) + b"Content-Length: 0\r\n\r\n", 431),
    "10000 headers": (H + b"".join(b"X%d: y\r\n" % i for i in range(10000)) + b"Content-Length: 0\r\n\r\n", 431),
    "64K header": (H + b"X: " + b"a" * 65000 + b"\r\nContent-Length: 0\r\n\r\n", 431),
    "1M header": (H + b"X: " + b"a" * 1000000 + b"\r\nContent-Length: 0\r\n\r\n", 431),
    "1M URL": (b"POST /open/" + b"a" * 1000000 + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 414),
    "1M trailer": (CHUNKED + b"0\r\nX: " + b"a" * 1000000 + b"\r\n\r\n", 431),
    # of our own
    "coding and length reversed": (
        H + b"Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\n" + SMUGGLED, 400),
    "identity coding": (H + b"Transfer-Encoding: identity\r\nContent-Length: 3\r\n\r\nabc", 400),
    "empty length": (H + b"Content-Length: \r\n\r\n", 400),
    "length with a tab inside": (H + b"Content-Length: 1\t0\r\n\r\nabcdefghij", 400),
    "two codings, both chunked": (
        H + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "negative chunk": (CHUNKED + b"-3\r\nabc\r\n0\r\n\r\n", 400),
    "empty chunk size": (CHUNKED + b"\r\nabc\r\n0\r\n\r\n", 400),
    "long chunk extension": (CHUNKED + b"3;" + b"e" * 400_000 + b"\r\nabc\r\n0\r\n\r\n", 431),
    "a chunk extension": (CHUNKED + b'3;a=b;c="d e"\r\nabc\r\n0;last\r\n\r\n', 200),
    "trailers": (CHUNKED + b"3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n", 200),
    "101 trailers": (
        CHUNKED + b"3\r\nabc\r\n0\r\n" + b"".join(b"X%d: y\r\n" % i for i in range(101)) + b"\r\n", 431),
    "asterisk": (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "authority": (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "NUL in the target": (b"POST /open/\x00 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 400),
    "tab in the target": (b"POST /open/\ta HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", 400),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "HTTP/0.9": (b"GET /open\r\n\r\n", 400),
    "TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "no method": (b" /open HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "unknown method": (b"BREW /open HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "length in a trailer": (CHUNKED + b"3\r\nabc\r\n0\r\nContent-Length: 9\r\n\r\n", 400),
}  # fmt: skip


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
