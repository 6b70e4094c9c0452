"""Basic authentication (RFC 7617): reading the header, and comparing without a clock that talks.

Passwords are kept as SHA-256 digests only. Both halves of every credential are compared by digest with
hmac.compare_digest and without an early exit, so the time tells neither which user exists nor how much was right.
"""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from hmac import compare_digest


@dataclass(frozen=True, slots=True)
class Credential:
    """The digests of one user name and password."""

    user_sha256: bytes = field(repr=False)
    password_sha256: bytes = field(repr=False)

    @classmethod
    def of(cls, user: str, password: str) -> Credential:
        """The credential of these, in UTF-8 (RFC 7617 section 2.1)."""
        return cls(sha256(user.encode()).digest(), sha256(password.encode()).digest())


def parse_basic(value: bytes) -> tuple[bytes, bytes] | None:
    """User and password of an Authorization header, or None if it is not of scheme Basic or is malformed."""
    scheme, _, rest = value.strip().partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        user, colon, password = binascii.a2b_base64(rest.strip(b" "), strict_mode=True).partition(b":")
    except binascii.Error:
        return None
    return (user, password) if colon else None


def matches(credentials: Sequence[Credential], user: bytes, password: bytes) -> bool:
    """Whether any of the credentials is this one. Every one is compared in full."""
    user_sha256, password_sha256 = sha256(user).digest(), sha256(password).digest()
    found = False
    for credential in credentials:
        user_right = compare_digest(credential.user_sha256, user_sha256)
        password_right = compare_digest(credential.password_sha256, password_sha256)
        found |= user_right & password_right
    return found
