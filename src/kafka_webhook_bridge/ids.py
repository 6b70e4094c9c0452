"""Event ids as places in time: the first 48 bits of a UUIDv7 are milliseconds since 1970 (RFC 9562, section 5.7).

The bounds of partitions and of time filters are such prefixes followed by zeros, which sort before every id of that
millisecond. They are computed here, because no PostgreSQL before 18 can (rules.md 18).
"""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime, timedelta
from hashlib import sha256

DAY_MS = 86_400_000
TIME_MS_MAX = 253_402_300_799_999  # the end of the year 9999, the last that datetime knows
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_RANDOM_BITS = (2**12 - 1) << 64 | 2**62 - 1  # of a UUIDv7; the others are its time, version and variant
_UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def floor(time_ms: int) -> uuid.UUID:
    """The least id of that millisecond or later; times outside the range of ids become its ends."""
    return uuid.UUID(int=min(max(time_ms, 0), 2**48 - 1) << 80)


def time_ms(event_id: uuid.UUID) -> int:
    """Milliseconds since 1970 inside an id or a bound."""
    return event_id.int >> 80


def moment(milliseconds: int) -> datetime:
    """The time as PostgreSQL takes it, without the rounding of floats."""
    return _EPOCH + timedelta(milliseconds=milliseconds)


def milliseconds(time: datetime) -> int:
    """Milliseconds since 1970 of an aware time."""
    return (time - _EPOCH) // timedelta(milliseconds=1)


def part(event_id: uuid.UUID, number: int) -> uuid.UUID:
    """The id of a part, from 1, of a request that was split: the first has the request's id, and the others follow from
    it, so that whoever knows the one and their number knows all."""
    if number == 1:
        return event_id
    digest = int.from_bytes(sha256(event_id.bytes + number.to_bytes(4, "big")).digest()[:16], "big")
    return uuid.UUID(int=event_id.int & ~_RANDOM_BITS | digest & _RANDOM_BITS)


def parse(text: str) -> uuid.UUID | None:
    """The id, or None when the text is not a UUIDv7 as the bridge writes them, with a time before the year 10000."""
    if _UUID7.fullmatch(text) is None:
        return None
    found = uuid.UUID(text)
    return found if found.int >> 80 <= TIME_MS_MAX else None
