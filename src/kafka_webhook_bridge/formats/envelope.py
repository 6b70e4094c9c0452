"""`envelope`: the whole request as one JSON object, in the shape that the bridge's ancestor (Express) produced.

`headers` and `query` are objects of strings: names in lower case and repeated fields joined with a comma as Node does,
query parameters percent-decoded with repeated ones as an array. The exact bytes of both are in the record's headers.
`body_is_text` is there, and true, when `body` is a JSON string made from a body that was not JSON.
"""

from __future__ import annotations

from urllib.parse import parse_qsl

from kafka_webhook_bridge.event import Event
from kafka_webhook_bridge.formats import structured
from kafka_webhook_bridge.formats.headers import Headers, rfc3339

CONTENT_TYPE = b"application/json"


def encode(event: Event, kept: Headers, content_type: bytes | None, is_json: bool | None) -> bytes:
    """The value of the record."""
    request = event.request
    members: dict[str, object] = {
        "method": request.method.decode("latin-1"),
        "headers": _headers(kept),
        "path": request.path.decode("latin-1"),
        "query": _query(request.query or b""),
        "timestamp": rfc3339(event.received_ms).decode(),
        "event_id": event.event_id,
        "source": event.source.name,
    }
    return structured.compose(members, request.body, "body", "body_is_text", is_json)


def decode(value: bytes) -> bytes:
    """The body as the sender sent it. Raises ValueError."""
    return structured.body_of(value, "body", "body_is_text")


def _headers(kept: Headers) -> dict[str, str]:
    found: dict[str, str] = {}
    for spelling, value in kept:
        name = spelling.removeprefix("http_")
        text = _text(value)
        found[name] = f"{found[name]}, {text}" if name in found else text
    return found


def _query(query: bytes) -> dict[str, str | list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True, errors="replace"):
        found.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
