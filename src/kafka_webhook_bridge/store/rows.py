"""A row of `events` as the archive and the outbox write it."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import NamedTuple


class EventRow(NamedTuple):
    """The columns in the order of the table; `state` and `duplicate_of` are the database's work.

    `headers`, `body_json` and `marks` are JSON as UTF-8 bytes. No text holds U+0000 or a lone surrogate.
    """

    event_id: uuid.UUID
    received_at: datetime
    source: str
    type: str
    method: str
    path: str
    query: str | None
    content_type: str | None
    headers: bytes
    body: bytes
    body_json: bytes | None
    parse_error: str | None
    key: str | None
    key_bytes: bytes | None
    verified: str
    covers_body: bool
    dedupe_key: str | None
    format: str
    traceparent: str | None
    marks: bytes | None
    topic: str
    topic_id: uuid.UUID | None
    partition: int | None
    offset: int | None

    def without_derived(self, reason: str) -> EventRow:
        """What is left of a row that PostgreSQL refused: everything that was received, nothing that was made of it."""
        return self._replace(body_json=None, parse_error=reason, key=None, marks=None, traceparent=None)

    def bare(self, reason: str) -> EventRow:
        """The last resort: the id, the body and the position."""
        return self.without_derived(reason)._replace(
            type="", method="", path="", query=None, content_type=None, headers=b"[]", key_bytes=None, dedupe_key=None
        )


COLUMNS = EventRow._fields
COLUMN_LIST = ", ".join(f'"{name}"' if name == "offset" else name for name in COLUMNS)
