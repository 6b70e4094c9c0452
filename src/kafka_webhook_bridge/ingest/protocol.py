"""HTTP/1.1 from bytes to a complete request within its limits, and the answer back.

httptools (llhttp) parses and refuses most ambiguous framing by itself; what it lets pass is refused here (rules.md 22).
Callbacks only: no task and no future per request. A connection answers one request at a time, in order, and reads
a bounded number ahead.

    IDLE ──first byte──▶ HEAD ──headers complete──▶ BODY ──last byte──▶ IDLE     while `pending`: an answer is awaited
      any ──fatal refusal──▶ answer ──▶ LINGER (the rest is read and dropped, so that the answer is not lost) ──▶ closed
"""

from __future__ import annotations

import asyncio
import fcntl
import math
import sys
import termios
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import httptools

from kafka_webhook_bridge import errors
from kafka_webhook_bridge.errors import Refusal
from kafka_webhook_bridge.ingest import responses
from kafka_webhook_bridge.ingest.no_event import keeps, reject_login

if TYPE_CHECKING:
    from kafka_webhook_bridge.ingest.accept import Edge
    from kafka_webhook_bridge.ingest.route import Route
    from kafka_webhook_bridge.ingest.suppress import Claim

IDLE, HEAD, BODY, LINGER = range(4)
_FRESH_S = 5.0  # in a drain, a connection without a request for so long is idle: a sender may use it until it sees
# the end, and a request that crosses it on the way is lost; what is used more often ends with an answer
_LINGER_S = 2.0  # how long the rest of a refused request is read and dropped
_CHUNK_FRAME_BYTES = 16  # framing that an honest chunk may cost
_PARTS_MAX = 256  # so many pieces of a body become one: an object each would outweigh what tiny chunks hold

# What a header means to the protocol, by its name as sent. Spellings are cached, within a bound.
_PLAIN, _HOST, _LENGTH, _CODING, _EXPECT, _ENCODING, _LOGIN, _FORWARDED = range(8)
_KINDS = {
    b"host": _HOST,
    b"content-length": _LENGTH,
    b"transfer-encoding": _CODING,
    b"expect": _EXPECT,
    b"content-encoding": _ENCODING,
    b"authorization": _LOGIN,
    b"x-forwarded-for": _FORWARDED,
}
_SPELLINGS_MAX = 4096
_spellings = {spelling: kind for name, kind in _KINDS.items() for spelling in (name, name.title())}


def _kind(name: bytes) -> int:
    kind = _KINDS.get(name.lower(), _PLAIN)
    if len(_spellings) < _SPELLINGS_MAX:
        _spellings[name] = kind
    return kind


def _bytes_of(headers: list[tuple[bytes, bytes]]) -> int:
    """What the lines took on the wire: name, colon, space, value, line end."""
    return sum(len(name) + len(value) + 4 for name, value in headers)


class _Stop(Exception):
    """Ends the parsing of the bytes at hand; the connection's `fatal` says why."""


class Incoming(NamedTuple):
    """A request as far as the connection is concerned; `refusal` is set when it will not be accepted."""

    method: bytes
    target: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    route: Route | None
    refusal: Refusal | None
    peer: str
    keep_alive: bool
    last_byte: float
    kept: bool = False  # although it is refused


class Connection(asyncio.Protocol):
    """One connection of a sender."""

    __slots__ = (
        "_announced", "_body_max", "_chunked", "_chunks", "_coded", "_continue", "_head_bytes", "_header_count",
        "_headers", "_keep_alive", "_kept", "_parser", "_parts", "_queue", "_reading", "_refusal", "_route", "_size",
        "_small", "_target", "_transport", "_wire_bytes", "_writable", "claim", "current", "deadline", "edge", "fatal",
        "peer", "pending", "phase", "sender", "work",
    )  # fmt: skip

    def __init__(self, edge: Edge) -> None:
        self.edge = edge
        self.phase = IDLE
        self.pending = False
        self.work: asyncio.Future[Any] | None = None  # in a thread, for the request at hand
        self.claim: Claim | None = None  # of the request at hand, where its source suppresses duplicates
        self.fatal: Refusal | None = None
        self.deadline = math.inf
        self._queue: deque[Incoming] = deque()
        self._keep_alive = True
        self._writable = True
        self._continue = False
        self._reading = True
        self._refusal: Refusal | None = None
        self._route: Route | None = None
        self._size = 0
        self._announced = False
        self._head_bytes = 0
        self._wire_bytes = 0
        self._chunked = 0
        self._coded = False

    # ── the transport's side ──────────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport) or hasattr(transport, "write")
        self._transport: asyncio.Transport | None = transport  # type: ignore[assignment]
        self._parser = httptools.HttpRequestParser(self)
        peer = transport.get_extra_info("peername")
        # An IPv4 sender on a socket of both families has its own address, not a place in one IPv6 network.
        self.peer: str = peer[0].removeprefix("::ffff:") if isinstance(peer, tuple) else ""
        edge = self.edge
        self.deadline = edge.clock() + edge.keep_alive_s
        if not edge.opened(self):
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.edge.closed(self)
        aborted = self._counted() + self.pending + (self._announced and self.phase == BODY)
        if self.phase != LINGER and aborted:
            self.edge.aborted(aborted)
        for waiting in self._queue:
            self.edge.release(len(waiting.body))
        if self.phase == BODY:
            self.edge.release(self._size)
        if self.pending:
            self.edge.release(len(self.current.body))
            self.pending = False
        self._queue.clear()
        if self.work is not None:
            self.work.cancel()  # else bodies of senders that are gone pile up before the threads
        self._transport = None
        self._parser = None  # type: ignore[assignment]  # ends the cycle; nobody calls a lost connection's parser
        self.deadline = math.inf

    def _counted(self) -> int:
        """Requests read ahead that count as received: all but those for health."""
        return sum(waiting.route is not None or waiting.refusal is not None for waiting in self._queue)

    @property
    def gone(self) -> bool:
        """Whether the sender's connection has ended, so that nobody can be answered."""
        return self._transport is None

    def eof_received(self) -> bool:
        """A half-closed sender still gets its answers; one that waits for nothing is let go."""
        self._keep_alive = False
        return self.pending or bool(self._queue)

    def pause_writing(self) -> None:
        self._writable = False
        self._read(False)

    def resume_writing(self) -> None:
        self._writable = True
        self._read(len(self._queue) < self.edge.pipelined_max)

    def _read(self, on: bool) -> None:
        transport = self._transport
        if transport is not None and on != self._reading and not transport.is_closing():
            self._reading = on
            (transport.resume_reading if on else transport.pause_reading)()

    def data_received(self, data: bytes) -> None:
        if self.phase == LINGER or self.fatal is not None or not self._keep_alive:
            return
        # A head that begins and ends in one small read is within its bytes; counting them line by line costs a lot.
        self._small = self.phase != HEAD and len(data) <= self.edge.header_bytes_max
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # The request itself was read whole (RFC 9110 7.8 lets a server ignore Upgrade); what follows is not HTTP.
            self._keep_alive = False
        except httptools.HttpParserCallbackError as error:
            if not isinstance(error.__context__, _Stop):
                self.edge.log.exception("fault in the protocol", error=repr(error.__context__))
                self.fatal = errors.INTERNAL
            self._fail()
            return
        except httptools.HttpParserError as error:
            self.fatal = self._reason(error)
            self._fail(str(error))
            return
        if self.phase == HEAD:
            # A single endless header never reaches on_header, so the raw bytes are bounded too. The read in which the
            # head began (-1) is left out, for it may hold other requests before it.
            self._head_bytes = 0 if self._head_bytes < 0 else self._head_bytes + len(data)
            if self._head_bytes > self.edge.head_bytes_max:
                long_target = len(self._target) > self.edge.url_bytes_max
                self.fatal = errors.URL_TOO_LONG if long_target else errors.HEADERS_TOO_LARGE
                self._fail()
        elif self.phase == BODY and self._coded:
            # Likewise for chunk extensions and trailers.
            self._wire_bytes = 0 if self._wire_bytes < 0 else self._wire_bytes + len(data)
            framing = self._wire_bytes - self._size - self._chunked * _CHUNK_FRAME_BYTES
            if self._refusal is None and framing > self.edge.head_bytes_max:
                self.fatal = errors.HEADERS_TOO_LARGE
                self._fail()

    def _reason(self, error: httptools.HttpParserError) -> Refusal:
        text = str(error)
        if "Content-Length" in text or "Transfer-Encoding" in text or "chunk" in text:
            return errors.FRAMING
        return errors.TARGET if isinstance(error, httptools.HttpParserInvalidURLError) else errors.MALFORMED

    # ── the parser's side ─────────────────────────────────────────────────────────────────────────────────────────

    def on_message_begin(self) -> None:
        self.phase = HEAD
        self.deadline = self.edge.clock() + self.edge.header_timeout_s
        self._headers: list[tuple[bytes, bytes]] = []
        self._target = b""
        self._chunks: list[bytes] = []
        self._size = self._parts = 0
        self._head_bytes = -1
        self._announced = self._kept = False
        self._route = self._refusal = None

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_chunk_header(self) -> None:
        self._chunked += 1

    def on_headers_complete(self) -> None:
        edge, headers, target = self.edge, self._headers, self._target
        hosts = 0
        size: int | None = None
        coding = login = encoding = expect = None
        forwarded: list[bytes] = []
        for name, value in headers:
            kind = _spellings.get(name)
            if kind is None:
                kind = _kind(name)
            if kind == _PLAIN:
                continue
            if kind == _HOST:
                hosts += 1
            elif kind == _LENGTH:
                size = int(value)  # llhttp let only digits through, once
            elif kind == _LOGIN:
                login = value if login is None else b""  # two of them prove nothing
            elif kind == _CODING:
                coding = value if coding is None else b""
            elif kind == _EXPECT:
                expect = value.strip()
            elif kind == _ENCODING:
                encoding = value
            else:
                forwarded.append(value)
        if len(target) > edge.url_bytes_max:
            self._stop(errors.URL_TOO_LONG)
        if len(headers) > edge.header_lines_max or not (self._small or _bytes_of(headers) <= edge.header_bytes_max):
            self._stop(errors.HEADERS_TOO_LARGE)
        version = self._parser.get_http_version()
        if version not in {"1.1", "1.0"}:
            self._stop(errors.MALFORMED)
        if coding is not None and (coding.lower() != b"chunked" or version == "1.0"):
            self._stop(errors.FRAMING)
        if hosts != 1:
            self._stop(errors.HOST)
        if target[:1] != b"/" or not target.isascii():
            self._stop(errors.TARGET)
        self._header_count = len(headers)
        self._coded = coding is not None
        self._wire_bytes = -1
        self._chunked = 0
        method = self._parser.get_method()
        self.sender = edge.proxies.sender(self.peer, forwarded) if forwarded else self.peer
        self._route, self._refusal, self._body_max = edge.admit(
            method, target, login, encoding, size, self.sender, version
        )
        self.phase = BODY
        self._announced = self._route is not None or self._refusal is not None  # health is not counted
        self.deadline = edge.clock() + edge.body_timeout_s
        refusal = self._refusal
        if refusal is None and expect is not None and expect.lower() != b"100-continue":
            refusal = self._refusal = errors.EXPECTATION
        if refusal is not None:
            # Small bodies of refused requests are read and dropped, so that the connection can go on.
            if refusal.close or expect is not None or (size or 0) > edge.dropped_bytes_max:
                self._stop(refusal)
            self._body_max = edge.dropped_bytes_max
            if refusal is errors.UNAUTHORIZED and self._route is not None and not self._coded:
                self._kept = keeps(edge, self._route, size or 0)
        elif expect is not None and version == "1.1":
            if self.pending or self._queue:
                self._continue = True  # after the answers that come before
            elif self._transport is not None:
                self._transport.write(responses.CONTINUE)

    def on_body(self, part: bytes) -> None:
        size = self._size + len(part)
        if size > self._body_max:
            self._stop(self._refusal or errors.BODY_TOO_LARGE)
        if self._refusal is not None and not self._kept:
            self._body_max -= len(part)
            return
        if not self.edge.hold(len(part)):
            self._stop(self._refusal or errors.IN_FLIGHT)
        chunks = self._chunks
        chunks.append(part)
        self._size = size
        self._parts += 1
        if self._parts == _PARTS_MAX:
            chunks[-_PARTS_MAX:] = [b"".join(chunks[-_PARTS_MAX:])]
            self._parts = 0

    def on_message_complete(self) -> None:
        headers = self._headers
        if len(headers) != self._header_count:  # trailers: bounded with the headers, then dropped (RFC 9110 6.5.1)
            if len(headers) > self.edge.header_lines_max or _bytes_of(headers) > self.edge.header_bytes_max:
                self._stop(errors.HEADERS_TOO_LARGE)
            del headers[self._header_count :]
        chunks = self._chunks
        parser = self._parser
        now = self.edge.clock()
        incoming = Incoming(
            parser.get_method(),
            self._target,
            headers,
            chunks[0] if len(chunks) == 1 else b"".join(chunks),
            self._route,
            self._refusal,
            self.sender,
            parser.should_keep_alive() and not parser.should_upgrade() and parser.get_http_version() == "1.1",
            now,
            self._kept,
        )
        self._chunks = []
        self._size = 0
        self._announced = self._continue = False
        self.phase = IDLE
        if self.pending or self._queue:
            self._queue.append(incoming)
            self.deadline = math.inf
            if len(self._queue) >= self.edge.pipelined_max:
                self._read(False)
        else:
            self._handle(incoming)

    def _stop(self, refusal: Refusal) -> None:
        self.fatal = refusal
        raise _Stop

    # ── answers ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _handle(self, incoming: Incoming) -> None:
        self.pending = True
        if self.phase == IDLE:  # else the next request has begun, and its own deadline runs
            self.deadline = math.inf
        self.current = incoming
        if incoming.refusal is not None and not incoming.kept:
            self.refuse(incoming.refusal)
        else:
            try:
                if incoming.kept and incoming.route is not None:
                    reject_login(self.edge, self, incoming, incoming.route)
                else:
                    self.edge.accept(self, incoming)
            except Exception:
                self.edge.log.exception("fault while a request was accepted")
                if self.pending:
                    self.refuse(errors.INTERNAL)

    def refuse(self, refusal: Refusal, *, event_id: str | None = None, reason: str = "") -> None:
        """Answer the request at hand with a refusal; one whose sender has gone is counted as aborted already."""
        if self._transport is None:
            return
        if self.claim is not None and refusal is not errors.NOT_DURABLE:  # then it may still become durable
            self.claim.release()
        incoming = self.current
        close = self._closes(incoming) or refusal.close
        answer = self.edge.refused(
            refusal, incoming.method, incoming.target, incoming.route, incoming.peer,
            last_byte=incoming.last_byte, close=close, event_id=event_id, reason=reason,
        )  # fmt: skip
        self.answer(answer, close)

    def _closes(self, incoming: Incoming) -> bool:
        return not incoming.keep_alive or self.edge.draining

    def answer(self, data: bytes, close: bool | None = None) -> None:
        """Write the answer to the request at hand and go on with the next one."""
        transport = self._transport
        if transport is None:
            return
        incoming = self.current
        self.pending = False
        self.claim = None
        self.edge.release(len(incoming.body))
        transport.write(data)
        last = not self._keep_alive and not self._queue  # of a half-closed sender
        if last or (self._closes(incoming) if close is None else close):
            self._leave()
        elif self._queue:
            self._handle(self._queue.popleft())
            if not self._reading and self._writable and len(self._queue) < self.edge.pipelined_max:
                self._read(True)
        elif self.fatal is not None:
            self._fail()
        else:
            if self._continue:
                self._continue = False
                transport.write(responses.CONTINUE)
            if self.phase == IDLE:
                self.deadline = self.edge.clock() + self.edge.keep_alive_s

    def _fail(self, reason: str = "") -> None:
        """Answer a request that could not be read to its end, after those before it, and close."""
        if self.phase == LINGER or self.pending or self._queue or self.fatal is None:
            return
        edge = self.edge
        if self.phase == BODY:
            edge.release(self._size)
            self._size = 0
        if not self._announced:
            edge.received_unknown()
        known = self.phase in (HEAD, BODY)
        answer = edge.refused(
            self.fatal, self._parser.get_method() if known else b"", self._target if known else b"", self._route,
            getattr(self, "sender", self.peer), last_byte=edge.clock(), close=True, reason=reason,
        )  # fmt: skip
        if self._transport is not None:
            self._transport.write(answer)
        self._leave(unread=True)

    def _leave(self, unread: bool = False) -> None:
        """Close after the answer. Closing with bytes unread would reset the connection and lose the answer."""
        transport = self._transport
        if transport is None:
            return
        for waiting in self._queue:
            self.edge.release(len(waiting.body))
        if counted := self._counted():
            self.edge.aborted(counted)
        self._queue.clear()
        if unread or self.phase in (HEAD, BODY):
            if self._announced and self.phase == BODY and not unread:
                self.edge.aborted(1)
                self.edge.release(self._size)
                self._size = 0
            self.phase = LINGER
            self._read(True)
            self.deadline = self.edge.clock() + _LINGER_S
            if transport.can_write_eof():
                transport.write_eof()
                return
        transport.close()

    # ── time ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def expire(self) -> None:
        """Called when the deadline of the phase has passed."""
        self.deadline = math.inf
        phase, transport = self.phase, self._transport
        if transport is None:
            return
        if phase == LINGER or not self._writable:
            transport.abort()
        elif phase == IDLE:
            self.edge.slow_closed("idle")
            transport.close()
        else:
            self.edge.slow_closed("header" if phase == HEAD else "body")
            self.fatal = errors.HEADER_TIMEOUT if phase == HEAD else errors.BODY_TIMEOUT
            self._fail("timeout")

    def finish(self) -> None:
        """The drain is over: half-close what waits for nothing, answer the rest and close it then.

        A connection that was just made has a request on its way, and so has one whose bytes wait in the kernel.
        """
        transport = self._transport
        if transport is None or self.pending or self._queue or self.phase != IDLE:
            return
        idle_s = self.edge.clock() - (self.deadline - self.edge.keep_alive_s)
        if idle_s > _FRESH_S and not _unread_bytes(transport):
            self._leave(unread=True)


def _unread_bytes(transport: asyncio.Transport) -> int:
    sock = transport.get_extra_info("socket")
    try:
        return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4)), sys.byteorder)
    except OSError:
        return 0
