"""`cloudevents`: CloudEvents 1.0 structured mode, JSON format.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md. The extension attribute `bodyistext`
is there, and true, when `data` is a JSON string made from a body that was not JSON.
"""

from __future__ import annotations

from kafka_webhook_bridge.event import Event
from kafka_webhook_bridge.formats import structured
from kafka_webhook_bridge.formats.headers import Headers, rfc3339

CONTENT_TYPE = b"application/cloudevents+json; charset=UTF-8"


def encode(event: Event, kept: Headers, content_type: bytes | None, is_json: bool | None) -> bytes:
    """The value of the record."""
    members: dict[str, object] = {
        "specversion": "1.0",
        "id": event.event_id,
        "source": event.source.ce_source.decode(),
        "type": event.type,
        "time": rfc3339(event.received_ms).decode(),
    }
    if content_type:
        members["datacontenttype"] = content_type.decode("latin-1")
    return structured.compose(members, event.request.body, "data", "bodyistext", is_json)


def decode(value: bytes) -> bytes:
    """The body as the sender sent it. Raises ValueError."""
    return structured.body_of(value, "data", "bodyistext")
