"""Times as people write them, on the command line and in the console, and as they are written back."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from kafka_webhook_bridge.errors import UsageError

_AGO = re.compile(r"(\d+)\s*(s|m|h|d|w)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def moment(option: str, text: str, now: datetime) -> datetime:
    """The time that `text` means: `15m`, `1h`, `2d` before `now`, or ISO 8601; UTC where no offset is given.

    Raises UsageError that names `option`.
    """
    text = text.strip()
    try:
        if match := _AGO.fullmatch(text):
            return now - timedelta(seconds=int(match[1]) * _SECONDS[match[2]])
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        what = f"{option} {text}: neither an age such as 15m, 1h, 2d nor a time such as 2026-01-31T23:59 (UTC)"
        raise UsageError(what) from None


def seconds(option: str, text: str) -> float:
    """The length of time that `text` means: `30s`, `2m`. Raises UsageError that names `option`."""
    match = _AGO.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{option} {text}: not a length of time such as 30s or 2m")
    return float(int(match[1]) * _SECONDS[match[2]])


def later(option: str, text: str, now: datetime) -> datetime:
    """The time `90d` or `12h` after `now`. Raises UsageError that names `option`."""
    match = _AGO.fullmatch(text.strip())
    try:
        if match and int(match[1]):
            return now + timedelta(seconds=int(match[1]) * _SECONDS[match[2]])
    except OverflowError:
        pass
    raise UsageError(f"{option} {text}: not a time from now such as 12h, 90d, 4w") from None


def iso(time: datetime) -> str:
    """`2026-01-31T23:59:59.123Z`, as record headers have it (RFC 3339, UTC)."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def short(time: datetime) -> str:
    """`2026-01-31 23:59:59`, UTC, for a column."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
