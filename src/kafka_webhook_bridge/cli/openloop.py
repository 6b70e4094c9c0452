"""An open-loop HTTP/1.1 client: it sends when a request is due, whether or not the server has kept up.

A request's clock starts at the moment it was due, so a server that stalls is charged for everybody who would have come
meanwhile ("coordinated omission" would hide them). One request at a time on each keep-alive connection; what is due
while none is free stays in the schedule, so nothing grows: outstanding requests are bounded by the connections.

    schedule ──due──▶ Load ──journal, then bytes──▶ Connection ──answer──▶ Load ──▶ listener
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import math
import os
import random
import ssl
import sys
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, cast
from urllib.parse import urlsplit

import httptools

from kafka_webhook_bridge.errors import UnreachableError, UsageError

Arrivals = Literal["poisson", "fixed"]

CONNECT_TIMEOUT_S = 5.0
RECONNECT_S = 0.1
ANSWER_BYTES_MAX = 64 * 1024  # more of an answer is read and dropped
_SCAN_S = 0.1
_POOL_S = 1.0

clock = time.perf_counter


# ---- what to do ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """Where to send. `prefix` is the URL's path without its last slash."""

    host: str
    port: int
    prefix: str
    tls: ssl.SSLContext | None

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.authority}{self.prefix}"


def parse_url(url: str, ca: str = "") -> Target:
    """`http://host:port/prefix`; `ca` is a PEM file of authorities to trust besides the system's. Raises UsageError."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"{url!r} is not a URL: {error}") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise UsageError(f"{url!r} is not a URL of a bridge", hint="For example --url http://127.0.0.1:8080")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UsageError(
            "a URL with credentials, a query or a fragment is not taken",
            hint="Credentials come from WEBHOOK_USERNAME and WEBHOOK_PASSWORD; a query goes with --path.",
        )
    tls = None
    if parts.scheme == "https":
        tls = ssl.create_default_context()
        if ca:
            try:
                tls.load_verify_locations(ca)
            except (OSError, ssl.SSLError) as error:
                raise UsageError(f"{ca}: {error}", hint="--ca takes a PEM file of certificates.") from None
    return Target(parts.hostname, port or (443 if tls else 80), parts.path.rstrip("/"), tls)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to send. Without a rate, the next request is due as soon as a connection is free (a closed loop).

    `rate` is requests per second; the run ends at `duration_s` or after `count` requests, whichever comes first.
    """

    rate: float | None = None
    duration_s: float | None = None
    count: int | None = None
    arrivals: Arrivals = "poisson"
    connections: int = 1
    timeout_s: float = 10.0

    def schedule(self) -> Iterator[float]:
        """Seconds after the start at which requests are due; 0 for "at once" where there is no rate."""
        due, number = 0.0, 0
        while (self.count is None or number < self.count) and (self.duration_s is None or due < self.duration_s):
            yield due
            number += 1
            if self.rate is not None:
                due = number / self.rate if self.arrivals == "fixed" else due + random.expovariate(self.rate)


class Message(NamedTuple):
    """One request, ready to send. `id` is unique; `body_sha256` the hex digest of the body."""

    id: str
    wire: bytes
    body_sha256: str


class Answer(NamedTuple):
    """What became of request `seq`. `status` 0: no answer came, and `reason` says why; it may have been accepted."""

    seq: int
    status: int
    body: bytes
    reason: str
    latency_s: float


class Listener(Protocol):
    """Who hears of every request."""

    def invoked(self, seq: int, message: Message) -> None:
        """The request is about to be sent."""

    def sending(self) -> None:
        """All that were `invoked` are sent when this returns: what has to be on file is on file."""

    def answered(self, answer: Answer) -> None:
        """The request came to its end."""


# ---- latencies -------------------------------------------------------------------------------------------------------


class Latencies:
    """A histogram of fixed size: buckets grow with the value and are never wider than 0.8 % of it."""

    _SUB_BITS = 6
    _OCTAVES = 40  # 2^40 µs is twelve days

    def __init__(self) -> None:
        self._buckets = array("Q", bytes(8 * (self._OCTAVES << self._SUB_BITS)))
        self.count = 0
        self.max_s = 0.0

    def add(self, seconds: float) -> None:
        micros = max(0, int(seconds * 1e6))
        shift = max(0, micros.bit_length() - self._SUB_BITS - 1)
        self._buckets[(shift << self._SUB_BITS) + (micros >> shift)] += 1
        self.count += 1
        if seconds > self.max_s:
            self.max_s = seconds

    def percentile_s(self, quantile: float) -> float:
        """Seconds that `quantile` (0 to 1) of the samples did not exceed; 0 without samples."""
        left = math.ceil(quantile * self.count)
        for index, number in enumerate(self._buckets):
            left -= number
            if left <= 0 and self.count:
                shift = max(0, (index >> self._SUB_BITS) - 1)
                top = ((index - (shift << self._SUB_BITS) + 1) << shift) - 1
                return min(top / 1e6, self.max_s)
        return 0.0

    def milliseconds(self) -> dict[str, float]:
        """p50, p90, p99, p999 and max."""
        marks = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
        found = {name: round(self.percentile_s(quantile) * 1e3, 3) for name, quantile in marks.items()}
        return {**found, "max": round(self.max_s * 1e3, 3)}


# ---- time ------------------------------------------------------------------------------------------------------------


class Alarm:
    """Calls `ring` on the loop after a wait.

    The loops' own timers round to a millisecond, more than the latency that is measured; Linux's timerfd_create(2)
    does not. Elsewhere the loop's timer has to do.
    """

    _MONOTONIC, _NONBLOCK, _CLOEXEC = 1, 0o4000, 0o2000000

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop, self._ring = loop, ring
        self._libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        self._fd = self._libc.timerfd_create(self._MONOTONIC, self._NONBLOCK | self._CLOEXEC) if self._libc else -1
        self._timer: asyncio.TimerHandle | None = None
        if self._fd >= 0:
            loop.add_reader(self._fd, self._expired)

    def set(self, wait_s: float) -> None:
        """Rings once, `wait_s` from now; an earlier setting is forgotten."""
        if self._fd >= 0:
            assert self._libc
            wait_ns = max(1, int(wait_s * 1e9))  # zero would disarm it
            self._libc.timerfd_settime(self._fd, 0, (ctypes.c_long * 4)(0, 0, *divmod(wait_ns, 10**9)), None)
            return
        if self._timer:
            self._timer.cancel()
        self._timer = self._loop.call_later(wait_s, self._ring)

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
        if self._timer:
            self._timer.cancel()

    def _expired(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 8)
        self._ring()


# ---- connections -----------------------------------------------------------------------------------------------------


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request on it. Everything else is `Load`'s."""

    def __init__(self, load: Load, *, head: bool) -> None:
        self._load = load
        self._head = head  # answers to HEAD have no body, whatever their Content-Length says
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.seq = -1  # -1: idle
        self.due = self.sent = 0.0
        self._body = bytearray()
        self._framed = self._answering = False

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def send(self, seq: int, wire: bytes, due: float, now: float) -> None:
        self.seq, self.due, self.sent = seq, due, now
        assert self._transport
        self._transport.write(wire)

    def give_up(self, reason: str) -> None:
        """Closes; the request on it, if any, came to no answer."""
        self._end(0, reason)
        if self._transport:
            self._transport.abort()

    def _end(self, status: int, reason: str = "") -> None:
        if self.seq >= 0:
            body = bytes(self._body) if status else b""  # else it is a part, or the answer before
            answer = Answer(self.seq, status, body, reason, clock() - self.due)
            self.seq = -1
            self._load.ended(answer)

    # asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are of no class of asyncio's
        self._load.idle(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.give_up("the answer is not HTTP")

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answering and not self._framed and exc is None:
            self._end(self._parser.get_status_code())  # RFC 9112, 6.3: such a body ends with the connection
        self._end(0, "connection closed before the answer")
        self._load.gone(self)
        if not self.closed.done():
            self.closed.set_result(None)

    # httptools

    def on_message_begin(self) -> None:
        self._body.clear()
        self._framed = False

    def on_header(self, name: bytes, _value: bytes) -> None:
        if name.lower() in {b"content-length", b"transfer-encoding"}:
            self._framed = True

    def on_headers_complete(self) -> None:
        self._answering = self._parser.get_status_code() >= 200
        if self._head and self._answering:
            self._end(self._parser.get_status_code())
            self._close()

    def on_body(self, data: bytes) -> None:
        if len(self._body) < ANSWER_BYTES_MAX:
            self._body += data[: ANSWER_BYTES_MAX - len(self._body)]

    def on_message_complete(self) -> None:
        if not self._answering:  # 100 Continue and its kin
            return
        self._answering = False
        if self.seq < 0 or not self._parser.should_keep_alive():  # an answer that nobody asked for says goodbye, too
            self._close()
            self._end(self._parser.get_status_code())
            return
        self._end(self._parser.get_status_code())
        self._load.idle(self)

    def _close(self) -> None:
        if self._transport:
            self._transport.close()


# ---- the run ---------------------------------------------------------------------------------------------------------


class Load:
    """One run of a plan. `message(seq)` makes each request just before it is sent."""

    def __init__(
        self, target: Target, plan: Plan, message: Callable[[int], Message], listener: Listener, *, head: bool = False
    ) -> None:
        self._target, self._plan, self._message, self._listener, self._head = target, plan, message, listener, head
        self._loop = asyncio.get_running_loop()
        self._alarm = Alarm(self._loop, self._rung)
        self._schedule = plan.schedule()
        self._next: float | None = None
        self._set_for: float | None = None
        self._dispatching = False
        self._idle: deque[Connection] = deque()
        self._open: set[Connection] = set()
        self._last_open = clock()
        self._places = plan.connections if plan.count is None else min(plan.connections, plan.count)
        self._pool_stands = asyncio.Event()
        self._finished: asyncio.Future[None] = self._loop.create_future()
        self._end_s = 0.0
        self.started = self.ended_at = 0.0
        self.sent = self.ended_requests = self.unsent = 0
        self.interrupted = False
        self.latencies = Latencies()  # of requests answered 2xx, from the moment they were due
        self.lateness = Latencies()  # how long requests waited for a free connection, or for this process

    async def run(self) -> None:
        """Sends and waits for the last answer.

        Raises UnreachableError when nobody listens at the start, and whatever the listener raises.
        """
        slots: list[asyncio.Task[None]] = []
        scan = None
        self._loop.set_exception_handler(self._callback_failed)
        try:
            first = await self._connect_first()
            places = range(self._places)
            slots = [self._loop.create_task(self._keep_open(first if i == 0 else None)) for i in places]
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._pool_stands.wait(), _POOL_S)
            self.started = self.ended_at = clock()
            self._end_s = self.started + (self._plan.duration_s or math.inf)
            self._next = next(self._schedule, None)
            scan = self._loop.create_task(self._scan())
            self._dispatch()
            await self._finished
        finally:
            self._alarm.close()
            for task in [*slots, *([scan] if scan else [])]:
                task.cancel()
            await asyncio.gather(*slots, *([scan] if scan else []), return_exceptions=True)
            for connection in list(self._open):
                connection.give_up("the run ended")

    def stop(self) -> None:
        """Sends nothing more; a second call does not wait for the answers that are under way."""
        if not self.interrupted:
            self.interrupted = True
            self._next = None
            self._dispatch()
            return
        for connection in list(self._open):
            connection.give_up("interrupted")

    @property
    def in_flight(self) -> int:
        return self.sent - self.ended_requests

    # connections tell

    def idle(self, connection: Connection) -> None:
        self._open.add(connection)
        self._idle.append(connection)
        if len(self._open) == self._places:
            self._pool_stands.set()
        if not self._dispatching:  # once for all answers of one turn of the loop
            self._dispatching = True
            self._loop.call_soon(self._dispatch)

    def gone(self, connection: Connection) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        self._last_open = clock()

    def ended(self, answer: Answer) -> None:
        self.ended_at = clock()
        self.ended_requests += 1
        if 200 <= answer.status < 300:
            self.latencies.add(answer.latency_s)
        try:
            self._listener.answered(answer)
        except Exception as error:
            self._fail(error)
        self._finish_when_done()

    # the schedule

    def _dispatch(self) -> None:
        """Sends all that is due and has a connection; sets the alarm for the next."""
        self._dispatching = False
        if not self.started or self._finished.done():
            return
        try:
            self._send_due()
        except Exception as error:
            self._fail(error)

    def _send_due(self) -> None:
        now = clock()
        batch: list[tuple[Connection, Message, float]] = []
        if self._plan.rate is None and now >= self._end_s:
            self._next = None
        while self._next is not None and self._idle and self.started + self._next <= now:
            connection = self._idle.popleft()
            if not connection.usable:
                continue
            due = now if self._plan.rate is None else self.started + self._next
            message = self._message(self.sent)
            self._listener.invoked(self.sent, message)
            batch.append((connection, message, due))
            connection.seq = self.sent
            self.sent += 1
            self._next = next(self._schedule, None)
        if batch:
            self._listener.sending()
            now = clock()
            for connection, message, due in batch:
                self.lateness.add(now - due)
                connection.send(connection.seq, message.wire, due, now)
        if self._next is not None and self._idle and self._set_for != self._next:
            self._set_for = self._next
            self._alarm.set(self.started + self._next - now)
        self._finish_when_done()

    def _rung(self) -> None:
        self._set_for = None
        self._dispatch()

    def _fail(self, error: Exception) -> None:
        """Ends the run: a request that cannot be journalled must not be sent."""
        if not self._finished.done():
            self._finished.set_exception(error)

    def _callback_failed(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception") or RuntimeError(context["message"])
        if not isinstance(error, OSError):  # those end as `connection_lost`
            self._fail(error)

    def _finish_when_done(self) -> None:
        if self._next is None and not self.in_flight and not self._finished.done():
            self._finished.set_result(None)

    async def _scan(self) -> None:
        """Ends requests without an answer, and a schedule that cannot be kept."""
        while True:
            await asyncio.sleep(_SCAN_S)
            now = clock()
            for connection in [c for c in self._open if c.seq >= 0 and now - c.sent > self._plan.timeout_s]:
                connection.give_up("timeout")
            if self._next is not None and now > self._latest_useful() + self._plan.timeout_s:
                self.unsent += 1 + (sum(1 for _ in self._schedule) if self._plan.rate or self._plan.count else 0)
                self._next = None
            self._dispatch()

    def _latest_useful(self) -> float:
        """From here on the schedule has so long as a request has; then what is left of it stays unsent."""
        assert self._next is not None
        if self._plan.rate is None:
            return clock() if self._open else self._last_open
        counted = self.started + self._plan.count / self._plan.rate if self._plan.count else math.inf
        return max(min(self._end_s, counted), self.started + self._next)

    # connections

    async def _connect(self) -> Connection:
        target = self._target
        connecting = self._loop.create_connection(
            lambda: Connection(self, head=self._head),
            target.host,
            target.port,
            ssl=target.tls,
            server_hostname=target.host if target.tls else None,
        )
        # Not wait_for: before Python 3.12 it swallows a cancellation that comes as the connection does (gh-86296), and
        # the end of the run would wait for this task for ever.
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, connection = await connecting
        return connection

    async def _connect_first(self) -> Connection:
        try:
            return await self._connect()
        except ssl.SSLError as error:
            raise UnreachableError(
                f"{self._target.url}: the TLS handshake failed ({getattr(error, 'reason', None) or error})",
                hint="--ca FILE trusts the authority of a self-signed certificate.",
            ) from None
        except (OSError, TimeoutError) as error:
            what = "no connection in time" if isinstance(error, TimeoutError) else (error.strerror or str(error))
            raise UnreachableError(
                f"nobody answers at {self._target.url} ({what})",
                hint="`kwb up` starts a bridge with Kafka and PostgreSQL on this machine; --url names another address.",
            ) from None

    async def _keep_open(self, connection: Connection | None) -> None:
        """One place in the pool: connects again whenever the server closed."""
        while True:
            if connection is None:
                try:
                    connection = await self._connect()
                except (OSError, TimeoutError):
                    await asyncio.sleep(RECONNECT_S)
                    continue
            await connection.closed
            connection = None
