"""Who sent it: the Basic login at the headers, and the step from Request to Event."""

from __future__ import annotations

import secrets
from hashlib import blake2b
from typing import Any
from uuid import UUID

from uuid_utils import uuid7

from kafka_webhook_bridge import ids
from kafka_webhook_bridge.body import NOT_JSON
from kafka_webhook_bridge.event import Event, Request
from kafka_webhook_bridge.sources.basic import matches, parse_basic
from kafka_webhook_bridge.sources.keys import dedupe_key
from kafka_webhook_bridge.sources.source import Source

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


def verify(request: Request, source: Source, document: Any = NOT_JSON) -> Event:
    """The event of a request whose login was right. The only place that makes an Event.

    The id is minted here, before any I/O. Basic credentials do not cover the body, and say so. `document` is the
    parsed body where the key or the delivery id wants it.
    """
    event_id = uuid7()
    delivery_id = None if source.delivery_id is None else source.delivery_id.render(request, document)
    return Event(
        str(event_id),
        event_id.timestamp,
        source,
        request,
        source.default_type,
        None if source.key is None else source.key.render(request, document),
        source.auth,
        False,
        None if delivery_id is None else dedupe_key(source.name_bytes, delivery_id),
    )


def taken_over(event: Event, event_id: str) -> Event:
    """The event under the id that an earlier delivery of it was given (rules.md 14)."""
    return event._replace(event_id=event_id, received_ms=ids.time_ms(UUID(event_id)))
