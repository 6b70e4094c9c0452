"""`raw`: the value is the body, byte for byte; what is known about it stands in the headers."""

from __future__ import annotations


def decode(value: bytes) -> bytes:
    """The body as the sender sent it."""
    return value
