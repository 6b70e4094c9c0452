"""Answers as bytes. Lines that never change are made once; `date` is renewed once a second by the edge."""

from __future__ import annotations

import random
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import orjson

from kafka_webhook_bridge.errors import REFUSALS, Refusal
from kafka_webhook_bridge.event import Record
from kafka_webhook_bridge.store.deliveries import Durable

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
BASIC = b'Basic realm="webhooks", charset="UTF-8"'
_CLOSE = b"connection: close\r\n"
_ALIVE = b""
_LINES = {status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus}
_RETRY_AFTER_S = (5, 30)  # jitter, so that senders do not come back together

_RECEIPT = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\nkwb-event-id: %b\r\n%b%b\r\n"
    b'{"event_id":"%b","source":"%b","duplicate":false,"stored":"%b","topic":"%b","body_sha256":"%b"}'
)
_DUPLICATE = _RECEIPT.replace(b'"duplicate":false', b'"duplicate":true')
# Everything in the receipt's body but its five variable values.
_RECEIPT_FRAME_BYTES = len(b'{"event_id":"","source":"","duplicate":false,"stored":"","topic":"","body_sha256":""}')


def receipt(
    event_id: bytes, source: bytes, stored: bytes, topic: bytes, sha256: bytes, date: bytes, close: bool
) -> bytes:
    """The 200 of an accepted event. Source and topic names need no JSON escape: their alphabets have none."""
    size = _RECEIPT_FRAME_BYTES + len(event_id) + len(source) + len(stored) + len(topic) + len(sha256)
    return _RECEIPT % (
        size, event_id, date, _CLOSE if close else _ALIVE, event_id, source, stored, topic, sha256,
    )  # fmt: skip


def dropped(source: bytes, date: bytes, close: bool, *, head: bool = False) -> bytes:
    """The 200 of a request that the source's filter leaves out: there is no event, and nothing of it was stored."""
    body = b'{"dropped":true,"source":"%b"}' % source
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%b%b\r\n%b" % (
        len(body), date, _CLOSE if close else _ALIVE, b"" if head else body,
    )  # fmt: skip


def receipt_of_parts(source: bytes, first: Record, stored: str, parts: int, date: bytes, close: bool) -> bytes:
    """The 200 of a request that was split, with the values of its first part."""
    body = orjson.dumps(
        {
            "event_id": first.event_id, "source": source.decode(), "duplicate": False, "stored": stored,
            "topic": first.topic, "body_sha256": first.body_sha256, "parts": parts,
        }
    )  # fmt: skip
    return (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\nkwb-event-id: %b\r\n%b%b\r\n%b"
        % (len(body), first.event_id.encode(), date, _CLOSE if close else _ALIVE, body)
    )


def duplicate(source: bytes, first: Durable, date: bytes, close: bool) -> bytes:
    """The 200 of a delivery whose event is durable already, with that event's values."""
    event_id, stored, topic, sha256 = (text.encode() for text in first)
    size = _RECEIPT_FRAME_BYTES - 1 + len(event_id) + len(source) + len(stored) + len(topic) + len(sha256)
    return _DUPLICATE % (
        size, event_id, date, _CLOSE if close else _ALIVE, event_id, source, stored, topic, sha256,
    )  # fmt: skip


def plain(
    status: int,
    content_type: bytes,
    body: bytes,
    *,
    date: bytes,
    close: bool,
    head: bool = False,
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> bytes:
    """What a profile answers: to an event in place of the receipt, or to a hand-shake. No browser may take it for more.

    A 204 has neither a body nor its length (RFC 9110 section 8.6).
    """
    extra = b"".join([b"%b: %b\r\n" % line for line in headers])
    if status != 204:
        kind = b"content-type: %b\r\nx-content-type-options: nosniff\r\n" % content_type if content_type else b""
        extra = b"%bcontent-length: %d\r\n%b" % (kind, len(body), extra)
    return b"%b%b%b%b\r\n%b" % (
        _LINES[status], extra, date, _CLOSE if close else _ALIVE, b"" if head or status == 204 else body,
    )  # fmt: skip


def _problem(refusal: Refusal, event_id: str | None) -> bytes:
    body: dict[str, Any] = {
        "type": f"urn:kwb:error:{refusal.code}",
        "title": refusal.title,
        "status": refusal.status,
        "code": refusal.code,
        "detail": refusal.detail,
    }
    if event_id is not None:
        body["event_id"] = event_id
    return orjson.dumps(body)


def _jitter() -> int:
    return random.randint(*_RETRY_AFTER_S)  # noqa: S311


_PROBLEMS = {code: _problem(refusal, None) for code, refusal in REFUSALS.items()}


def refusal(
    no: Refusal,
    *,
    date: bytes,
    close: bool,
    event_id: str | None = None,
    allow: bytes = b"",
    retry_after_s: int | None = None,
    head: bool = False,
    challenge: bytes = BASIC,
) -> bytes:
    """problem+json (RFC 9457). `head` leaves the body out, as an answer to HEAD must; `challenge` is that of a 401."""
    known = event_id is None and no is REFUSALS[no.code]
    body = _PROBLEMS[no.code] if known else _problem(no, event_id)
    extra = b""
    if no.status == 401:
        extra += b"www-authenticate: %b\r\n" % challenge
    if no.status == 405:
        extra += b"allow: %b\r\n" % allow
    if no.retry:
        extra += b"retry-after: %d\r\n" % (_jitter() if retry_after_s is None else retry_after_s)
    if event_id is not None:
        extra += b"kwb-event-id: %b\r\n" % event_id.encode()
    return b"%bcontent-type: application/problem+json\r\ncontent-length: %d\r\n%b%b%b\r\n%b" % (
        _LINES[no.status], len(body), extra, date, _CLOSE if close else _ALIVE, b"" if head else body,
    )  # fmt: skip


def json(status: int, value: Any, *, date: bytes, close: bool, head: bool = False) -> bytes:
    """Health and whatever else is answered in JSON."""
    body = orjson.dumps(value)
    return b"%bcontent-type: application/json\r\ncontent-length: %d\r\ncache-control: no-store\r\n%b%b\r\n%b" % (
        _LINES[status], len(body), date, _CLOSE if close else _ALIVE, b"" if head else body,
    )  # fmt: skip
