"""What answers a request that becomes no event: a hand-shake, one that is filtered, one that does not prove its sender.

The last is kept for a while, off the answer's path (rejections.py).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from kafka_webhook_bridge import errors
from kafka_webhook_bridge.errors import Refusal
from kafka_webhook_bridge.ingest import responses
from kafka_webhook_bridge.ingest.auth import No
from kafka_webhook_bridge.ingest.learned import learn_first
from kafka_webhook_bridge.ingest.rejections import rejection_of
from kafka_webhook_bridge.observability import metrics
from kafka_webhook_bridge.sources.handshake import Greeting
from kafka_webhook_bridge.sources.rules import Dropped
from kafka_webhook_bridge.sources.verify import Verdict

if TYPE_CHECKING:
    from kafka_webhook_bridge.ingest.accept import Edge
    from kafka_webhook_bridge.ingest.protocol import Connection, Incoming
    from kafka_webhook_bridge.ingest.route import Route


def answer_no_event(edge: Edge, connection: Connection, incoming: Incoming, route: Route, no: No) -> None:
    """Answer a request that becomes no event: a hand-shake, one that is filtered, or one that proves nothing."""
    if connection.gone:
        return
    if isinstance(no, Refusal):
        connection.refuse(no)
    elif isinstance(no, Greeting):
        if no.secret:
            learn_first(edge, connection, route, no.secret, partial(_greet, edge, connection, incoming, route, no))
        else:
            _greet(edge, connection, incoming, route, no)
    elif isinstance(no, Dropped):
        _drop(edge, connection, incoming, route, no)
    elif route.proof is not None and route.proof.learns and edge.learned is not None and not edge.learned.loaded:
        connection.refuse(errors.NOT_LEARNED, reason=no.code)
    elif no.key_needed is not None and route.proof and edge.keys.ask(no.key_needed, route.proof.params):
        connection.refuse(errors.KEY_PENDING, reason=no.code)
    else:
        _reject(edge, connection, incoming, route, _unproven(edge, route, incoming, no), no.code, no.detail)


def keeps(edge: Edge, route: Route, size: int) -> bool:
    """Whether a request with a wrong login is kept, whose body is so long and not read yet."""
    return edge.rejections is not None and not route.redacts and edge.rejections.takes(route.source.name, size)


def reject_login(edge: Edge, connection: Connection, incoming: Incoming, route: Route) -> None:
    """Refuse a request that is kept and whose login is wrong."""
    there = any(name.lower() == b"authorization" for name, _ in incoming.headers)
    code = "credentials.wrong" if there else "credentials.missing"
    _reject(edge, connection, incoming, route, errors.UNAUTHORIZED, code, "the login in the headers")


def _reject(
    edge: Edge, connection: Connection, incoming: Incoming, route: Route, refusal: Refusal, code: str, detail: str
) -> None:
    """Refuse a request that does not prove its sender; an event that it may become one day has its id now."""
    reason = f"{code}: {detail}".removesuffix(": ")
    rejections = edge.rejections
    if rejections is None or not rejections.on or refusal is errors.BACK_OFF or route.redacts:
        connection.refuse(refusal, reason=reason)
        return
    base = None if route.proof is None else edge.moment(connection, incoming, route).base
    rejection = rejection_of(incoming, route.source, edge.wall_clock(), base, code, detail)
    connection.refuse(refusal, event_id=rejection.event_id, reason=reason)
    if incoming.kept or rejections.takes(route.source.name, len(incoming.body)):
        rejections.put(rejection)


def _unproven(edge: Edge, route: Route, incoming: Incoming, verdict: Verdict) -> Refusal:
    """Passwords and tokens can be guessed, so their failures count for the back-off; a signature cannot."""
    if verdict.code == "credentials.wrong":
        return route.unproven if edge.wrong_login(incoming.peer) is errors.UNAUTHORIZED else errors.BACK_OFF
    edge.auth_failures.add()
    return route.unproven


def _greet(edge: Edge, connection: Connection, incoming: Incoming, route: Route, greeting: Greeting) -> None:
    name, status, content_type, headers, body, fetch, notice, _ = greeting
    if status >= 400:
        refusal = replace(errors.HANDSHAKE, status=status)
        route.refused(refusal)
    else:
        metrics.registry().counter("kwb_requests_handshakes_total", source=route.source.name).add()
    edge.log.info("hand-shake", source=route.source.name, handshake=name, status=status)
    if notice:
        edge.log.warning("notice of a sender", source=route.source.name, notice=notice)
    if fetch:
        edge.keys.visit(fetch, route.source.name)
    close = edge.answered(incoming)
    answer = responses.plain(
        status, content_type, body, date=edge.date, close=close, head=incoming.method == b"HEAD", headers=headers
    )
    connection.answer(answer, close)


def _drop(edge: Edge, connection: Connection, incoming: Incoming, route: Route, no: Dropped) -> None:
    metrics.registry().counter("kwb_requests_filtered_total", source=route.source.name, rule=no.rule).add()
    close = edge.answered(incoming)
    if route.answer is None:
        answer = responses.dropped(route.name, edge.date, close, head=incoming.method == b"HEAD")
    else:
        answer = edge.answer_of(route.answer, None, close)
    connection.answer(answer, close)
