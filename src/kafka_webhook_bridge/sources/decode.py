"""From a body that wraps its event to the JSON that type, key and delivery id are read of: a profile's `decode`.

    jwt           the claims of a token; whether it is genuine is the verifier's business
    json          text that is JSON                     json:a.b      a member
    form:name     a field of a urlencoded or multipart body
    expand:a.b    the text there becomes the JSON that it is
    aes-256-cbc   base64 of IV and text; the key is the secret's SHA-256

A body that cannot be read so is no reason to refuse it (rules.md 28): it has no key and no type.
"""

from __future__ import annotations

from base64 import b64decode, urlsafe_b64decode
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

from kafka_webhook_bridge.body import JSON_BYTES_MAX, NOT_JSON, parse_json
from kafka_webhook_bridge.event import Request
from kafka_webhook_bridge.sources.verify.request import Signed, step_into
from kafka_webhook_bridge.sources.verify.verdict import Refused

Decode = Callable[[Request], Any]

_Step = Callable[[Any, Request], Any]
_BLOCK_BYTES = 16


class _Unreadable(Exception):
    """The body is not of that form."""


def compile_decode(steps: Sequence[str], secrets: Sequence[str]) -> Decode:
    """The function from a request to its document; NOT_JSON where there is none. It never raises."""
    chain = [_step(step, secrets) for step in steps]

    def decode(request: Request) -> Any:
        if len(request.body) > JSON_BYTES_MAX:
            return NOT_JSON
        value: Any = request.body
        try:
            for step in chain:
                value = step(value, request)
        except (_Unreadable, Refused, ValueError):
            return NOT_JSON
        return NOT_JSON if isinstance(value, bytes) else value

    return decode


def _step(step: str, secrets: Sequence[str]) -> _Step:
    kind, _, name = step.partition(":")
    path = tuple(name.split("."))
    if kind == "jwt":
        return lambda value, _: _claims(_bytes(value))
    if kind == "json":
        return (lambda value, _: _parsed(value)) if not name else lambda value, _: step_into(_parsed(value), path)
    if kind == "form":
        field = name.encode()
        return lambda _, request: Signed(request, NOT_JSON, None, {}).field(field)
    if kind == "expand":
        return lambda value, _: _expanded(value, path)
    keys = [sha256(secret.encode()).digest() for secret in secrets]
    return lambda value, _: _decrypted(_bytes(value), keys)


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return value
    raise _Unreadable


def _parsed(value: Any) -> Any:
    """A document; bytes and text are read as one, what was read before stays."""
    if not isinstance(value, bytes | str):
        return value
    found = parse_json(_bytes(value))
    if found is NOT_JSON:
        raise _Unreadable
    return found


def _claims(token: bytes) -> Any:
    parts = token.strip().split(b".")
    if len(parts) != 3:
        raise _Unreadable
    return _parsed(urlsafe_b64decode(parts[1] + b"=" * (-len(parts[1]) % 4)))


def _expanded(value: Any, path: tuple[str, ...]) -> Any:
    """`value` with the JSON in its member instead of the text; what is around is copied, for others read it too."""
    if not isinstance(value, dict) or path[0] not in value:
        raise _Unreadable
    inner = value[path[0]]
    return {**value, path[0]: _expanded(inner, path[1:]) if len(path) > 1 else _parsed(inner)}


def _decrypted(text: bytes, keys: Sequence[bytes]) -> bytes:
    sealed = b64decode(text, validate=True)
    if len(sealed) < 2 * _BLOCK_BYTES or len(sealed) % _BLOCK_BYTES:
        raise _Unreadable
    for key in keys:
        decryptor = Cipher(algorithms.AES256(key), modes.CBC(sealed[:_BLOCK_BYTES])).decryptor()
        padded = decryptor.update(sealed[_BLOCK_BYTES:]) + decryptor.finalize()
        unpadder = PKCS7(8 * _BLOCK_BYTES).unpadder()
        try:
            plain = unpadder.update(padded) + unpadder.finalize()
        except ValueError:
            continue  # of another key
        if parse_json(plain) is not NOT_JSON:
            return plain
    raise _Unreadable
