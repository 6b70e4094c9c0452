"""A request of a source that suppresses duplicates, on its way: event → claim → record (rules.md 14).

Other sources make the record at once. Here the event comes first and its record after the claim, because an event
that an earlier delivery has begun keeps the id it was given then.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, TypeVar

from kafka_webhook_bridge import errors
from kafka_webhook_bridge.body import NOT_JSON, parse_json
from kafka_webhook_bridge.event import Event, Record, Request
from kafka_webhook_bridge.formats import encode
from kafka_webhook_bridge.ingest.auth import Moment, No, taken_over, verify
from kafka_webhook_bridge.ingest.no_event import answer_no_event
from kafka_webhook_bridge.ingest.suppress import Answer, Claim
from kafka_webhook_bridge.observability.failpoints import failpoint
from kafka_webhook_bridge.sources.source import Source
from kafka_webhook_bridge.sources.split import Split
from kafka_webhook_bridge.store.deliveries import Durable

if TYPE_CHECKING:
    from kafka_webhook_bridge.ingest.accept import Edge
    from kafka_webhook_bridge.ingest.protocol import Connection, Incoming
    from kafka_webhook_bridge.ingest.route import Route

_COMPARED_BYTES_MAX = 512 * 1024  # SHA-256 of more would hold the loop for about a millisecond

Verified = tuple[Event | No, bool | None]
Value = TypeVar("Value")


def make_event(request: Request, source: Source, moment: Moment) -> Verified:
    """From a request whose login was right to its event, and whether its body is JSON (None: nobody asks)."""
    document = parse_json(request.body) if source.needs_json else NOT_JSON
    event = verify(request, source, document, moment)
    assert not isinstance(event, Split), "sources that suppress split nothing"
    return event, document is not NOT_JSON if source.needs_json else None


class Once:
    """The request at hand of one connection. Its steps are callbacks, and a fault in one is answered."""

    __slots__ = ("_connection", "_edge", "_incoming", "_is_json", "_large", "_route")

    def __init__(self, edge: Edge, connection: Connection, incoming: Incoming, route: Route) -> None:
        self._edge = edge
        self._connection = connection
        self._incoming = incoming
        self._route = route
        self._large = len(incoming.body) > route.off_loop_bytes

    def accept(self, request: Request, moment: Moment) -> None:
        """Begin; the connection is answered now or by a later callback."""
        work = partial(make_event, request, self._route.source, moment)
        if self._large:
            self._edge.off_loop(self._connection, self._incoming, work, partial(self._guarded, self._verified))
        else:
            self._verified(work())

    def _verified(self, made: Verified) -> None:
        event, self._is_json = made
        if not isinstance(event, Event):
            answer_no_event(self._edge, self._connection, self._incoming, self._route, event)
        elif event.dedupe_key is None:  # a request that lacks the id is never a duplicate (rules.md 13)
            self._encode(event)
        else:
            then = partial(self._guarded, partial(self._claimed, event))
            self._edge.suppress.claim(event, self._edge.deadline_of(self._incoming), then)

    def _claimed(self, event: Event, answer: Answer) -> None:
        connection = self._connection
        if isinstance(answer, Claim):
            if connection.gone:
                answer.release()
                return
            connection.claim = answer
            self._encode(event if answer.event_id == event.event_id else taken_over(event, answer.event_id))
        elif isinstance(answer, Durable):
            self._suppress(answer)
        else:
            connection.refuse(errors.UNDER_WAY, event_id=answer.event_id)

    def _encode(self, event: Event) -> None:
        work = partial(encode, event, self._is_json)
        if self._large:
            self._edge.off_loop(self._connection, self._incoming, work, self._encoded)
        else:
            self._encoded(work())

    def _encoded(self, record: Record) -> None:
        claim = self._connection.claim
        if claim is not None:
            claim.encoded(record)
        self._edge.encoded_later(self._connection, self._incoming, self._route, record)
        if claim is not None:
            failpoint("deliveries.sent")

    def _suppress(self, first: Durable) -> None:
        body = self._incoming.body
        other_body = len(body) <= _COMPARED_BYTES_MAX and sha256(body).hexdigest() != first.body_sha256
        self._edge.suppressed(self._connection, self._route, first, other_body=other_body)

    def _guarded(self, step: Callable[[Value], None], value: Value) -> None:
        try:
            step(value)
        except Exception:
            self._edge.log.exception("fault while a request was accepted")
            if self._connection.pending:
                self._connection.refuse(errors.INTERNAL)
