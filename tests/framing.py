"""Requests whose end is ambiguous, and what the bridge answers to each (rules.md 22)."""

from __future__ import annotations

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
