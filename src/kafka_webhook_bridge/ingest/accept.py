"""The edge of one process: who may send what (admit), and from a complete request to its delivery (accept).

Everything per source is resolved once, into a Route (route.py). Accounting (rules.md 17): every request whose headers
were read counts as received and then as exactly one of acked, suppressed, filtered, handshakes, rejected (4xx),
refused (5xx) or aborted. A hand-shake that is answered with an error is rejected; so is a request that proves nothing,
whatever the status that its sender wants for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from functools import partial
from typing import Any, Literal, TypeVar, cast

from kafka_webhook_bridge import errors
from kafka_webhook_bridge.body import NOT_JSON, parse_json
from kafka_webhook_bridge.errors import Refusal
from kafka_webhook_bridge.event import Event, Record, Request, Stored
from kafka_webhook_bridge.formats import encode, record_bytes
from kafka_webhook_bridge.ingest import responses
from kafka_webhook_bridge.ingest.auth import Logins, Moment, No, verify
from kafka_webhook_bridge.ingest.deliver import Deliver, Pending
from kafka_webhook_bridge.ingest.keys import Keys
from kafka_webhook_bridge.ingest.learned import LearnedSecrets
from kafka_webhook_bridge.ingest.limits import FailedLogins, TrustedProxies
from kafka_webhook_bridge.ingest.no_event import answer_no_event
from kafka_webhook_bridge.ingest.once import Once
from kafka_webhook_bridge.ingest.parts import Batch, Part, encode_parts
from kafka_webhook_bridge.ingest.protocol import Connection, Incoming
from kafka_webhook_bridge.ingest.rejections import Rejections
from kafka_webhook_bridge.ingest.route import Route, outcome
from kafka_webhook_bridge.ingest.suppress import Suppress
from kafka_webhook_bridge.ingest.topics import Topics
from kafka_webhook_bridge.observability import logs, metrics
from kafka_webhook_bridge.settings import IngestSettings, Settings
from kafka_webhook_bridge.sources.source import Answer, Source
from kafka_webhook_bridge.sources.table import SourceTable
from kafka_webhook_bridge.store.deliveries import Durable

_SWEEP_S = 0.25
_NAME_BYTES_MAX = 100
_HEADERS_BYTES = 64 * 1024  # a record whose value leaves so much room fits for sure
_REFUSED_BODY_BYTES_MAX = 65_536  # of requests that are refused, and of health: read, dropped

_NEVER = Moment(0.0, None)

Health = Callable[[], tuple[int, dict[str, Any]]]
Admission = tuple[Route | None, Refusal | None, int]
Result = TypeVar("Result")
Made = Record | list[Record] | No


class Edge:
    """What all connections of one process share. Belongs to one loop.

    `clock` gives monotonic seconds and `wall_clock` Unix time; tests move them (rules.md 33). `health` makes the answer
    of /health/ready.
    """

    def __init__(
        self,
        settings: Settings,
        sources: SourceTable,
        topics: Topics,
        suppress: Suppress,
        health: Health,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        keys: Keys,
    ) -> None:
        s: IngestSettings = settings.ingest
        self.clock = clock
        self.wall_clock = wall_clock
        self.keys = keys
        self.log = logs.get_logger("ingest")
        self.header_timeout_s = s.header_timeout_ms / 1000
        self.body_timeout_s = s.body_timeout_ms / 1000
        self.keep_alive_s = s.keep_alive_ms / 1000
        self.url_bytes_max = s.url_bytes_max
        self.header_lines_max = s.header_lines_max
        self.header_bytes_max = s.header_bytes_max
        # The request line with its target, the headers with their line ends, and one read of the transport beyond.
        self.head_bytes_max = s.url_bytes_max + s.header_bytes_max + 4 * s.header_lines_max
        self.pipelined_max = s.pipelined_max
        self.dropped_bytes_max = _REFUSED_BODY_BYTES_MAX
        self.draining = False
        self.topics = topics
        self.suppress = suppress
        self._outbox = settings.store.url is not None
        self.learned: LearnedSecrets | None = None
        self.rejections: Rejections | None = None  # without PostgreSQL nothing is kept of what is refused
        self.deliver = Deliver(
            settings.deliver, clock, answered=self._acked, refused=self._failed, topic_missing=self._missing
        )
        self._health = health
        self._workers = s.workers
        self._connections: set[Connection] = set()
        self._connections_max = max(1, s.connections_max // s.workers)
        self._in_flight_bytes = 0
        self._in_flight_bytes_max = s.in_flight_bytes_max // s.workers
        self._log_every = settings.log.accepted_every
        self._logged = 0
        self._failed_logins = FailedLogins(max(1, s.failed_logins_max // s.workers))
        self._pool = ThreadPoolExecutor(2, "encode")
        self._loop = asyncio.get_running_loop()
        registry = metrics.registry()
        self._unknown = registry.counter("kwb_requests_received_total", source=metrics.UNKNOWN_SOURCE)
        self._unknown_outcomes: dict[str, metrics.Cell] = {}
        self._aborted = registry.counter("kwb_requests_aborted_total")
        self.auth_failures = registry.counter("kwb_auth_failures_total")
        self._body_bytes = registry.counter("kwb_body_bytes_total")
        self._seconds = registry.histogram("kwb_request_seconds")
        self._gauges: tuple[tuple[metrics.Cell, Callable[[], int]], ...] = (
            (registry.gauge("kwb_connections"), lambda: len(self._connections)),
            (registry.gauge("kwb_in_flight_bytes"), lambda: self._in_flight_bytes),
            (registry.gauge("kwb_in_flight_requests"), lambda: len(self.deliver) + len(suppress)),
        )
        self._slow = {
            phase: registry.counter("kwb_slow_closed_total", phase=phase) for phase in ("header", "body", "idle")
        }
        self.use(sources)
        self._second = -1
        self._sweep()

    def use(self, sources: SourceTable) -> None:
        """Take a configuration; requests under way keep the one they began with."""
        self._sources = sources
        self.proxies = TrustedProxies(sources.trusted_proxies)
        for source in sources.all():
            if source.proof is not None and source.proof.missing:
                names = ", ".join(source.proof.missing)
                self.log.warning("parameters are not set; hand-shakes that need them are refused",
                                 source=source.name, profile=source.proof.profile, params=names)  # fmt: skip
        now = self.clock()
        self._routes = {s.name.encode(): Route(s, self._workers, now, sources, self._outbox) for s in sources.all()}
        self._open_login: Logins | None = None
        self._health_routes = {
            b"/health": self._live,
            b"/health/live": self._live,
            b"/health/ready": self._health,
        }
        self.topics.use(sources)

    # ── admission, at the end of the headers ──────────────────────────────────────────────────────────────────────

    def admit(
        self,
        method: bytes,
        target: bytes,
        login: bytes | None,
        encoding: bytes | None,
        size: int | None,
        sender: str,
        version: str,
    ) -> Admission:
        """The route of a request, why it is refused (None: it is not), and how long its body may be (bytes).

        `size` is the announced length, None when chunked or absent. Nothing of the body has been kept yet.
        """
        path = target.partition(b"?")[0]
        name = path[1:].partition(b"/")[0]
        route = self._routes.get(name)
        if route is None:
            if path in self._health_routes and name == b"health":
                return None, None, _REFUSED_BODY_BYTES_MAX
            found = self._open(name, login, sender)
            if isinstance(found, Refusal):
                self._unknown.add()
                return None, found, _REFUSED_BODY_BYTES_MAX
            route = found
        route.received.add()
        source = route.source
        body_max = source.body_bytes_max
        if method not in route.methods:
            return route, errors.METHOD, body_max
        if not route.logins.right(login):
            return route, self.wrong_login(sender), body_max
        if encoding is not None and not source.content_encoding_opaque and encoding.strip().lower() != b"identity":
            return route, errors.CONTENT_ENCODING, body_max
        if size is not None and size > body_max:
            return route, errors.BODY_TOO_LARGE, body_max
        if size is not None and self._in_flight_bytes + size > self._in_flight_bytes_max:
            return route, errors.IN_FLIGHT, body_max
        if route.bucket is not None and not route.bucket.take(self.clock()):
            return route, errors.RATE_LIMIT, body_max
        return route, None, body_max

    def wrong_login(self, sender: str) -> Refusal:
        """Count a failure of a password or a token, which can be guessed; what answers it."""
        self.auth_failures.add()
        wait_s = self._failed_logins.failed(sender, self.clock())
        return errors.UNAUTHORIZED if wait_s is None else errors.BACK_OFF

    def _open(self, name: bytes, login: bytes | None, sender: str) -> Route | Refusal:
        """The route of a source that the open rule makes.

        The login comes first: strangers must not fill the tables of routes and metrics with names of their own.
        """
        source = self._sources.open_source(name.decode("latin-1")) if len(name) <= _NAME_BYTES_MAX else None
        if source is None:
            return errors.UNKNOWN_SOURCE
        if not self._open_logins(source).right(login):
            return self.wrong_login(sender)
        return Route(source, self._workers, self.clock(), self._sources, self._outbox)  # kept once it is of use

    def _open_logins(self, source: Source) -> Logins:
        """One for all open sources, which share their credentials."""
        if self._open_login is None:
            self._open_login = Logins(source)
        return self._open_login

    # ── a complete request ────────────────────────────────────────────────────────────────────────────────────────

    def accept(self, connection: Connection, incoming: Incoming) -> None:
        """Verify, encode and deliver; the connection is answered now or by a later callback."""
        route = incoming.route
        target = incoming.target
        path, mark, query = target.partition(b"?")
        if route is None:
            head = incoming.method == b"HEAD"
            status, body = self._health_routes[path]()
            connection.answer(responses.json(status, body, date=self.date, close=not incoming.keep_alive, head=head))
            return
        self._body_bytes.add(len(incoming.body))
        request = Request(
            incoming.method, path, query if mark else None, incoming.headers, incoming.body, incoming.peer
        )
        moment = _NEVER if route.proof is None else self.moment(connection, incoming, route)
        if route.from_proxy and not self.proxies.trusts(connection.peer):
            self.auth_failures.add()
            connection.refuse(route.unproven, reason="not by a trusted proxy")
        elif route.suppresses:
            Once(self, connection, incoming, route).accept(request, moment)
        elif len(incoming.body) <= route.off_loop_bytes:
            self._made(connection, incoming, route, make_record(request, route.source, moment))
        else:
            work = partial(make_record, request, route.source, moment)
            self.off_loop(connection, incoming, work, partial(self.encoded_later, connection, incoming, route))

    def moment(self, connection: Connection, incoming: Incoming, route: Route) -> Moment:
        base = self.proxies.base(connection.peer, incoming.headers) if route.forwarded else None
        return Moment(self.wall_clock(), base)

    def off_loop(
        self, connection: Connection, incoming: Incoming, work: Callable[[], Result], then: Callable[[Result], None]
    ) -> None:
        """In a thread. The deadline holds while the event waits for one; a sender that is gone waits no more."""

        def made(done: asyncio.Future[Result]) -> None:
            timer.cancel()
            connection.work = None
            if done.cancelled():
                connection.refuse(errors.NOT_DURABLE, reason="deadline")
            elif (error := done.exception()) is not None:
                self.log.error("fault in encoding", exc_info=error)
                connection.refuse(errors.INTERNAL)
            else:
                then(done.result())

        future = connection.work = self._loop.run_in_executor(self._pool, work)
        timer = self._loop.call_later(self._left_s(incoming, self.deliver.deadline_s), future.cancel)
        future.add_done_callback(made)

    def deadline_of(self, incoming: Incoming) -> float:
        """When the request is answered at the latest, by the clock."""
        return incoming.last_byte + self.deliver.deadline_s

    def _left_s(self, incoming: Incoming, wait_s: float) -> float:
        return max(0.0, incoming.last_byte + wait_s - self.clock())

    def encoded_later(self, connection: Connection, incoming: Incoming, route: Route, made: Made) -> None:
        """As `_made`, from a callback of the loop: there a fault would leave the sender without an answer."""
        try:
            self._made(connection, incoming, route, made)
        except Exception:
            self.log.exception("fault while a request was accepted")
            connection.refuse(errors.INTERNAL, event_id=made.event_id if isinstance(made, Record) else None)

    def _made(self, connection: Connection, incoming: Incoming, route: Route, made: Made) -> None:
        if isinstance(made, Record):
            if route.unsplit is not None:
                route.unsplit.add()
            self._encoded(connection, incoming, route, made)
        elif isinstance(made, list):
            Batch(self, connection, incoming, route, made).start()
        else:
            answer_no_event(self, connection, incoming, route, made)

    def deliver_part(self, part: Part, incoming: Incoming, route: Route, record: Record) -> None:
        """One record of a batch; `part` hears what becomes of it, and is asked what a connection would be."""
        self._encoded(cast(Connection, part), incoming, route, record)

    def _encoded(self, connection: Connection, incoming: Incoming, route: Route, record: Record) -> None:
        bytes_max = self.topics.ready.get(record.topic)
        if bytes_max is None:
            self._without_topic(connection, incoming, route, record)
        elif len(record.value) + _HEADERS_BYTES > bytes_max and record_bytes(record) > bytes_max:
            connection.refuse(errors.RECORD_TOO_LARGE, event_id=record.event_id)
        else:
            if route.source.open and route.table is self._sources:
                self._routes.setdefault(route.name, route)
            self.deliver.submit(record, connection, route, incoming.last_byte, connection.claim)

    def _without_topic(self, connection: Connection, incoming: Incoming, route: Route, record: Record) -> None:
        """First use of a topic, or it is missing, or Kafka is away."""
        source = route.source
        if self._may_store(route) and (
            source.ack == "store"
            or record.topic in self.topics.blocked
            or self.topics.away
            or self.deliver.breakers.cluster_open
        ):
            self._store(connection, incoming, route, record)
            self.topics.look_at(source)
        else:
            self._wait_for_topic(connection, incoming, route, record)

    def _may_store(self, route: Route) -> bool:
        """Whether the outbox may take an event whose topic is not known to be there."""
        return self.deliver.may_store(route) and self.topics.expected(route.source)

    def _store(self, connection: Connection, incoming: Incoming, route: Route, record: Record) -> None:
        """To the outbox alone; the relay looks at the topic."""
        if record_bytes(record) > self.topics.record_bytes_max:
            connection.refuse(errors.RECORD_TOO_LARGE, event_id=record.event_id)
            return
        if route.source.open and route.table is self._sources:
            self._routes.setdefault(route.name, route)
        self.deliver.submit_unsent(record, connection, route, incoming.last_byte, connection.claim)

    def _wait_for_topic(self, connection: Connection, incoming: Incoming, route: Route, record: Record) -> None:
        """While it is made or looked at. The deadlines of the request hold here too."""
        answered = False

        def over(refusal: Refusal | None) -> None:
            nonlocal answered
            timer.cancel()
            if answered:
                return
            answered = True
            try:
                self._topic_known(connection, incoming, route, record, refusal)
            except Exception:
                self.log.exception("fault while a request was accepted")
                connection.refuse(errors.INTERNAL, event_id=record.event_id)

        def late() -> None:
            over(errors.NOT_DURABLE)

        wait_s = self.deliver.kafka_wait_s if self._may_store(route) else self.deliver.deadline_s
        timer = self._loop.call_later(self._left_s(incoming, wait_s), late)
        self.topics.ensure(route.source.branches.get(record.topic, route.source), over)

    def _topic_known(
        self, connection: Connection, incoming: Incoming, route: Route, record: Record, refusal: Refusal | None
    ) -> None:
        if refusal is None and record.topic in self.topics.ready:
            self._encoded(connection, incoming, route, record)
            return
        refusal = refusal or errors.TOPIC_BLOCKED  # blocked again in the same moment
        if refusal in (errors.NOT_DURABLE, errors.TOPIC_BLOCKED) and self._may_store(route):
            self._store(connection, incoming, route, record)
        else:
            connection.refuse(refusal, event_id=record.event_id)

    def _acked(self, pending: Pending, stored: Stored) -> None:
        connection = pending.connection
        if connection.gone:
            return  # counted as aborted when the connection ended
        route, record = pending.route, pending.record
        if route.ruled:
            if route.unlisted is not None:
                route.unlisted.add(record.topic == route.source.topic)
            waiting: object = connection
            if isinstance(waiting, Part):
                waiting.acked(stored)
                return
        route.acked(stored)
        incoming = connection.current
        close = self.answered(incoming)
        if route.answer is None:
            body = responses.receipt(
                record.event_id.encode(), route.name, stored.encode(), route.topic or record.topic.encode(),
                record.body_sha256.encode(), self.date, close,
            )  # fmt: skip
        else:
            body = self.answer_of(route.answer, record.event_id, close)
        connection.answer(body, close)
        if self._log_every:
            self._logged += 1
            if self._logged % self._log_every == 0:
                self.log.info("request accepted", source=route.source.name, event_id=pending.event_id)

    def acked_all(self, connection: Connection, route: Route, first: Record, stored: Stored, parts: int) -> None:
        """Answer a request all of whose parts are durable."""
        route.acked(stored)
        incoming = connection.current
        close = self.answered(incoming)
        if route.answer is None:
            body = responses.receipt_of_parts(route.name, first, stored, parts, self.date, close)
        else:
            body = self.answer_of(route.answer, first.event_id, close)
        connection.answer(body, close)

    def answered(self, incoming: Incoming) -> bool:
        """Take the time that a request took; whether its connection is closed after the answer."""
        self._seconds.observe(self.clock() - incoming.last_byte)
        return self.draining or not incoming.keep_alive

    def answer_of(self, answer: Answer, event_id: str | None, close: bool) -> bytes:
        """What the profile says instead of the receipt. Without an id where nothing was stored."""
        headers = () if event_id is None else ((b"kwb-event-id", event_id.encode()),)
        return responses.plain(
            answer.status, answer.content_type, answer.body, date=self.date, close=close, headers=headers
        )

    def suppressed(self, connection: Connection, route: Route, first: Durable, *, other_body: bool) -> None:
        """Answer a delivery of an event that is durable already."""
        if connection.gone:
            return
        route.suppressed.add()
        route.bodies_differ.add(other_body)
        incoming = connection.current
        close = self.answered(incoming)
        if route.answer is None:
            body = responses.duplicate(route.name, first, self.date, close)
        else:
            body = self.answer_of(route.answer, first.event_id, close)
        connection.answer(body, close)

    def _failed(self, pending: Pending, refusal: Refusal, reason: str) -> None:
        if not pending.connection.gone:
            pending.connection.refuse(refusal, event_id=pending.event_id, reason=reason)

    def _missing(self, topic: str) -> None:
        self.topics.block(topic)

    def refused(
        self,
        refusal: Refusal,
        method: bytes,
        target: bytes,
        route: Route | None,
        peer: str,
        *,
        last_byte: float,
        close: bool,
        event_id: str | None = None,
        reason: str = "",
    ) -> bytes:
        """Count and log a refusal; the bytes that answer it."""
        source = metrics.UNKNOWN_SOURCE
        if route is not None:
            source = route.source.name
            route.refused(refusal)
        else:
            cell = self._unknown_outcomes.get(refusal.code)
            if cell is None:
                cell = self._unknown_outcomes[refusal.code] = outcome(source, refusal)
            cell.add()
        now = self.clock()
        self._seconds.observe(now - last_byte)
        logs.request_refused(
            self.log, refusal, source=source, method=method, path=target.partition(b"?")[0], peer=peer,
            event_id=event_id, ms=(now - last_byte) * 1000, reason=reason,
        )  # fmt: skip
        retry_after_s = None
        if refusal is errors.RATE_LIMIT and route is not None and route.bucket is not None:
            retry_after_s = route.bucket.wait_s()
        elif refusal is errors.BACK_OFF:
            retry_after_s = self._failed_logins.wait_s(peer, now)
        return responses.refusal(
            refusal, date=self.date, close=close, event_id=event_id, head=method == b"HEAD",
            allow=b"" if route is None else route.source.allow, retry_after_s=retry_after_s,
            challenge=responses.BASIC if route is None or refusal is errors.UNAUTHORIZED else route.challenge,
        )  # fmt: skip

    # ── what the connections report ───────────────────────────────────────────────────────────────────────────────

    def opened(self, connection: Connection) -> bool:
        """False when there are too many connections; the others go on."""
        self._connections.add(connection)
        return len(self._connections) <= self._connections_max

    def closed(self, connection: Connection) -> None:
        self._connections.discard(connection)

    def received_unknown(self) -> None:
        self._unknown.add()

    def aborted(self, requests: int) -> None:
        self._aborted.add(requests)

    def slow_closed(self, phase: Literal["header", "body", "idle"]) -> None:
        self._slow[phase].add()

    def hold(self, size: int) -> bool:
        """Reserve memory for bytes of a body. False, and nothing reserved, when there is no more."""
        held = self._in_flight_bytes + size
        if held > self._in_flight_bytes_max:
            return False
        self._in_flight_bytes = held
        return True

    def release(self, size: int) -> None:
        self._in_flight_bytes -= size

    @property
    def connections(self) -> int:
        return len(self._connections)

    def finish(self) -> None:
        """Let go every connection that waits for nothing; the others close after their answer."""
        for connection in list(self._connections):
            connection.finish()

    def close(self) -> None:
        self._timer.cancel()
        self.keys.close()
        self.deliver.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _sweep(self) -> None:
        self._timer = self._loop.call_later(_SWEEP_S, self._sweep)  # first, so that a fault below ends nothing
        now = self.clock()
        for connection in [c for c in self._connections if c.deadline < now]:
            connection.expire()
        for gauge, read in self._gauges:
            gauge.set(read())
        second = int(self._loop.time())
        if second != self._second:
            self._second = second
            self.date = b"date: " + formatdate(usegmt=True).encode() + b"\r\n"

    def _live(self) -> tuple[int, dict[str, Any]]:
        return 200, {"status": "live"}


def make_record(request: Request, source: Source, moment: Moment = _NEVER) -> Made:
    """From a request whose login was right to its record, or records, or why there is none.

    The body is parsed once, where the source needs it.
    """
    if not source.needs_json:
        event = verify(request, source, NOT_JSON, moment)
        return encode(event) if isinstance(event, Event) else encode_parts(event)
    document = parse_json(request.body)
    event = verify(request, source, document, moment)
    return encode(event, document is not NOT_JSON) if isinstance(event, Event) else encode_parts(event)
