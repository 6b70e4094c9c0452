"""Who sent it: the Basic login at the headers, the proof once the body is whole, and the step from Request to Event."""

from __future__ import annotations

import secrets
from hashlib import blake2b, sha256
from typing import Any, Final, NamedTuple
from uuid import UUID

from uuid_utils import uuid7

from kafka_webhook_bridge import errors, ids
from kafka_webhook_bridge.body import NOT_JSON
from kafka_webhook_bridge.errors import Refusal
from kafka_webhook_bridge.event import Altered, Event, Request
from kafka_webhook_bridge.sources.basic import matches, parse_basic
from kafka_webhook_bridge.sources.handshake import Greeting
from kafka_webhook_bridge.sources.keys import dedupe_key
from kafka_webhook_bridge.sources.rules import Dropped, Rules
from kafka_webhook_bridge.sources.source import Source
from kafka_webhook_bridge.sources.split import Split, Splitter
from kafka_webhook_bridge.sources.verify import Verdict

_PASSED_MAX = 1024


class Logins:
    """Checks Basic credentials of one source in constant time, for unknown users too.

    A header that passed is remembered by a keyed hash, so that the next one costs one hash instead of base64 and a
    comparison with every credential. The key is random, so the time of the look-up tells nothing about the header.
    """

    __slots__ = ("_key", "_passed", "_source")

    def __init__(self, source: Source) -> None:
        self._source = source
        self._key = secrets.token_bytes(32)
        self._passed: set[bytes] = set()

    def right(self, header: bytes | None) -> bool:
        """Whether an Authorization header (None: there was none) may send to the source."""
        if self._source.auth == "none":
            return True
        if header is None:
            return False
        digest = blake2b(header, key=self._key, digest_size=16).digest()
        if digest in self._passed:
            return True
        login = parse_basic(header)
        if login is None or not matches(self._source.credentials, *login):
            return False
        if len(self._passed) >= _PASSED_MAX:
            self._passed.clear()
        self._passed.add(digest)
        return True


class Moment(NamedTuple):
    """When a request came (Unix, s), and its `scheme://host` by the word of a trusted proxy, or None."""

    now: float
    base: bytes | None


No = Verdict | Greeting | Dropped | Refusal
"""Why a request becomes no event: it proves nothing, is a hand-shake, is filtered, or is refused for another reason."""

_NEVER: Final = Moment(0.0, None)


def verify(request: Request, source: Source, document: Any = NOT_JSON, moment: Moment = _NEVER) -> Event | Split | No:
    """The event of a request whose login was right, or several, or why there is none. The only maker of Events.

    `document` is the parsed body where the source wants it. Nothing durable has happened yet, and no I/O.
    """
    proof = source.proof
    if proof is None:
        if source.rules is None:
            return _event(request, source, document)
        return _ruled(request, source, source.rules, document)
    seen = request
    if proof.path is not None:
        seen = request._replace(path=proof.path + request.path[len(source.name_bytes) + 1 :])
    for shake in proof.handshakes:
        if shake.matches(seen, document):
            if shake.verify_first:
                verdict = proof.verifier(seen, document, *moment)
                if not verdict.ok:
                    return verdict
            return shake.answer(seen, document, _address(seen, source, moment)) or errors.HANDSHAKE
    if request.method not in source.methods:
        return errors.METHOD  # admitted for a hand-shake that it is not
    verdict = proof.verifier(seen, document, *moment)
    if not verdict.ok:
        return verdict
    if proof.decode is not None:
        document = proof.decode(request)
    request = proof.places.redact(request)
    if source.rules is None:
        return _event(request, source, document)
    return _ruled(request, source, source.rules, document)


def _ruled(request: Request, source: Source, rules: Rules, document: Any) -> Event | Split | No:
    """The event, or the events, of a request that has proved its sender, as the source's rules want it."""
    dropped = rules.dropped(request, document)
    if dropped is not None:
        return dropped
    event = _event(request, _branch(source, rules, request, document), document)
    if rules.redaction is not None:
        redacted = rules.redaction.apply(event, document)
        if redacted is None:
            return errors.NOT_REDACTABLE
        event = redacted
    return event if rules.split is None else _split(event, request, source, rules, rules.split, document)


def _branch(source: Source, rules: Rules, request: Request, document: Any) -> Source:
    return source.branches.get(rules.topic_of(request, document), source) if source.branches else source


def _split(
    whole: Event, request: Request, source: Source, rules: Rules, splitter: Splitter, document: Any
) -> Event | Split:
    """The parts of an event, which has come as `request`; itself where there is nothing to split (rules.md 28, 29)."""
    came = splitter.pieces(request.body, document)
    kept = came if whole.request.body == request.body else splitter.pieces(whole.request.body, document)
    if came is None or kept is None or len(came) != len(kept):
        return whole
    how = "split" if whole.altered is None else f"{whole.altered.how},split"
    digest = sha256(request.body).hexdigest() if whole.altered is None else whole.altered.body_sha256
    parent = UUID(whole.event_id)
    apart = splitter.tells_apart(source.delivery_id)
    events = []
    for number, element in enumerate(splitter.elements(document), 1):
        alone = splitter.alone(document, element)
        part = request._replace(body=came[number - 1])
        event = _event(part, _branch(source, rules, part, alone), alone, b"" if apart else b"#%d" % number)
        events.append(
            event._replace(
                event_id=str(ids.part(parent, number)),
                received_ms=whole.received_ms,
                request=whole.request._replace(body=kept[number - 1]),
                covers_body=False,
                altered=Altered(how, digest, whole.event_id, number, len(came)),
            )
        )
    return Split(events)


def _address(seen: Request, source: Source, moment: Moment) -> bytes:
    base = moment.base if source.public is None else source.public.base
    path = seen.path if seen.query is None else seen.path + b"?" + seen.query
    return b"" if base is None else base + path


def _event(request: Request, source: Source, document: Any, part: bytes = b"") -> Event:
    """The id is minted here, before any I/O. `part` follows the delivery id, where that is one of several parts."""
    event_id = uuid7()
    delivery_id = None if source.delivery_id is None else source.delivery_id.render(request, document)
    return Event(
        str(event_id),
        event_id.timestamp,
        source,
        request,
        source.default_type if source.type is None else _type(source, request, document),
        None if source.key is None else source.key.render(request, document),
        source.verified,
        source.covers_body,
        None if delivery_id is None else dedupe_key(source.name_bytes, delivery_id + part),
    )


def _type(source: Source, request: Request, document: Any) -> str:
    """The event's type by the source's template; the default one where that gives nothing that a type can be."""
    text = source.type.render(request, document) if source.type is not None else None
    try:
        kind = (text or b"").decode()
    except UnicodeDecodeError:
        return source.default_type
    return kind if kind and kind.isprintable() else source.default_type


def taken_over(event: Event, event_id: str) -> Event:
    """The event under the id that an earlier delivery of it was given (rules.md 14)."""
    return event._replace(event_id=event_id, received_ms=ids.time_ms(UUID(event_id)))
