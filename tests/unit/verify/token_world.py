"""Tokens made by hand, right and wrong: one key of each kind, kept for the session."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from verify_world import b64url, mac

HASHES = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
SIZES = {"ES256": 32, "ES384": 48, "ES512": 66}
CURVES = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}


def private(kind: str, number: int = 0) -> Any:
    """A private key for an algorithm's kind, always the same; another `number` is another key."""
    return _private(kind, number)


@cache
def _private(kind: str, number: int) -> Any:
    if kind.startswith("ES"):
        return ec.generate_private_key(CURVES[kind])
    if kind == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65537, 2048)


def pem(kind: str, number: int = 0) -> str:
    key = private(kind, number).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def number64(value: int, size: int | None = None) -> str:
    return b64url(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


def jwk(kind: str, number: int = 0, **more: Any) -> dict[str, Any]:
    key = private(kind, number).public_key()
    if kind.startswith("ES"):
        numbers, size = key.public_numbers(), SIZES[kind]
        crv = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}[kind]
        return {"kty": "EC", "crv": crv, "x": number64(numbers.x, size), "y": number64(numbers.y, size), **more}
    if kind == "EdDSA":
        return {"kty": "OKP", "crv": "Ed25519", "x": b64url(key.public_bytes_raw()), **more}
    numbers = key.public_numbers()
    return {"kty": "RSA", "n": number64(numbers.n), "e": number64(numbers.e), **more}


def signature(algorithm: str, key: Any, message: bytes) -> bytes:
    if algorithm.startswith("HS"):
        return mac(key, message, f"sha{algorithm[2:]}")
    if algorithm == "EdDSA":
        return bytes(key.sign(message))
    digest = HASHES[algorithm[2:]]
    if algorithm.startswith("RS"):
        return bytes(key.sign(message, padding.PKCS1v15(), digest))
    if algorithm.startswith("PS"):
        return bytes(key.sign(message, padding.PSS(padding.MGF1(digest), digest.digest_size), digest))
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(digest)))
    size = SIZES[algorithm]
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


def part(value: Mapping[str, Any] | str | bytes) -> str:
    """A part of a token; text and bytes are taken as they are, for what no encoder writes."""
    if isinstance(value, Mapping):
        value = json.dumps(value)
    return b64url(value.encode() if isinstance(value, str) else value)


def token(algorithm: str, key: Any, claims: Mapping[str, Any] | str | bytes, header: Any = None) -> str:
    """A signed token; `header` takes the place of the usual one, or is added to it where it is a mapping."""
    head = header if isinstance(header, str) else {"alg": algorithm, "typ": "JWT", **(header or {})}
    text = f"{part(head)}.{part(claims)}"
    return f"{text}.{b64url(signature(algorithm, key, text.encode()))}"


def detached(algorithm: str, key: Any, body: bytes, header: Mapping[str, Any]) -> str:
    """A detached JWS of a body, plain where `b64` is false."""
    head = part({"alg": algorithm, **header})
    payload = body if header.get("b64") is False else b64url(body).encode()
    return f"{head}..{b64url(signature(algorithm, key, head.encode() + b'.' + payload))}"
