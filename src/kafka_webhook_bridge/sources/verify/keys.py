"""Secrets as text become keys. What cannot be a key is found when the configuration loads, never by a request.

Public keys must be of the kind that the scheme uses: an RSA key of at least 1024 bits (older DKIM keys have no more), a
point on the very curve. A key that fits no scheme of the row is refused, so that no request can choose another.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64decode
from binascii import Error as BinasciiError
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from kafka_webhook_bridge.sources.verify.model import Key
from kafka_webhook_bridge.sources.verify.verdict import CompileError, KeyStore

SECRETS_MAX: Final = 10
RSA_BITS_MIN: Final = 1024

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


def check_secrets(secrets: Sequence[str]) -> None:
    """Raises CompileError unless there are one to ten secrets, none empty."""
    if not secrets:
        raise CompileError("credentials.missing", "the profile needs a secret, and the source has none")
    if len(secrets) > SECRETS_MAX:
        raise CompileError("key.malformed", f"at most {SECRETS_MAX} secrets are tried, the source has {len(secrets)}")
    for index, secret in enumerate(secrets, 1):
        if not secret.strip():
            raise CompileError("key.malformed", f"secret {index} is empty")
        if "\x00" in secret or not _encodes(secret):
            raise CompileError("key.malformed", f"secret {index} is no text")


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shared_key(secret: str, key: Key, index: int = 1) -> bytes:
    """The key of an HMAC. Raises CompileError; `index` names the secret, from 1."""
    text = secret.removeprefix(key.strip_prefix) if key.strip_prefix else secret
    text += key.suffix or ""
    encoding = key.encoding or "utf8"
    try:
        raw = _decoded(text, encoding)
    except (ValueError, BinasciiError):
        raise CompileError("key.malformed", f"secret {index} is not {encoding}") from None
    if key.hash is not None:
        raw = hashlib.new(key.hash, raw, usedforsecurity=False).digest()
    if not raw:
        raise CompileError("key.malformed", f"secret {index} is empty")
    return raw


def _decoded(text: str, encoding: str) -> bytes:
    if encoding == "hex":
        if not re.fullmatch(r"\s*(?:[0-9A-Fa-f]{2})+\s*", text):
            raise ValueError("not hex")
        return bytes.fromhex(text.strip())
    if encoding == "base64":
        return decode_loose(text)
    return text.encode()


def decode_loose(text: str) -> bytes:
    """The bytes of base64 as people paste it: blanks around it, with or without padding. Raises ValueError."""
    bare = text.strip().rstrip("=")
    return b64decode(bare + "=" * (-len(bare) % 4), validate=True)


def public_key(secret: str, key: Key, scheme: str, index: int = 1) -> PublicKey:
    """The public key of a row's asymmetric scheme. Raises CompileError; `index` names the secret, from 1."""
    text = secret.removeprefix(key.strip_prefix) if key.strip_prefix else secret
    encoding = key.encoding or "pem"
    if encoding in ("hex", "base64"):
        try:
            return ed25519.Ed25519PublicKey.from_public_bytes(_decoded(text, encoding))
        except (ValueError, BinasciiError):
            raise CompileError("key.malformed", f"secret {index} is no Ed25519 key in {encoding}") from None
    loaded = load_public(text, encoding)
    if loaded is None:
        raise CompileError("key.malformed", f"secret {index} is no public key as {encoding}")
    if not fits(loaded, scheme):
        raise CompileError("key.malformed", f"secret {index} is a key of another kind than {scheme} uses")
    return loaded


def load_public(text: str, encoding: str) -> PublicKey | None:
    """The public key of a PEM text, or of base64 of a SubjectPublicKeyInfo (or PEM all the same); None if none."""
    try:
        if encoding == "pem" or text.lstrip().startswith("-----BEGIN PUBLIC KEY-----"):
            loaded = serialization.load_pem_public_key(text.strip().encode())
        else:
            loaded = serialization.load_der_public_key(decode_loose(text))
    except (ValueError, BinasciiError, TypeError, UnsupportedAlgorithm):
        return None
    return (
        loaded if isinstance(loaded, (rsa.RSAPublicKey, ec.EllipticCurvePublicKey, ed25519.Ed25519PublicKey)) else None
    )


def fits(key: PublicKey, scheme: str) -> bool:
    """Whether a scheme such as `rsa-sha256` can use a key."""
    if scheme.startswith("rsa"):
        return isinstance(key, rsa.RSAPublicKey) and key.key_size >= RSA_BITS_MIN
    if scheme.startswith("ecdsa-p256"):
        return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
    return isinstance(key, ed25519.Ed25519PublicKey)


def signature_right(key: PublicKey, scheme: str, signature: bytes, message: bytes) -> bool:
    """Whether a signature is by the holder of a key. `scheme` is an asymmetric one of model.py, and fits the key."""
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, message)
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, message, ec.ECDSA(_HASHES[scheme.rpartition("-")[2]]()))
        elif scheme.startswith("rsa-pss"):
            pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.AUTO)
            key.verify(signature, message, pss, hashes.SHA256())
        else:
            key.verify(signature, message, padding.PKCS1v15(), _HASHES[scheme.rpartition("-")[2]]())
    except (InvalidSignature, ValueError):
        return False
    return True


_HASHES: Final[dict[str, type[hashes.SHA1 | hashes.SHA256 | hashes.SHA512]]] = {
    "sha1": hashes.SHA1,
    "sha256": hashes.SHA256,
    "sha512": hashes.SHA512,
}
_CURVES: Final[dict[str, type[ec.EllipticCurve]]] = {
    "P-256": ec.SECP256R1,
    "P-384": ec.SECP384R1,
    "P-521": ec.SECP521R1,
}


def jwks_address(key: Key, params: Mapping[str, str], store: KeyStore) -> str:
    """The address of a row's JWKS. Raises CompileError if the operator has to name it and did not."""
    if key.url is not None:
        return key.url
    address = params.get(key.param or "", "")
    if not address and store.offline:
        return ""
    if not re.fullmatch(r"https://[A-Za-z0-9.-]+(?::[0-9]{1,5})?(?:/[!-~]*)?", address):
        raise CompileError("params.missing", f"the profile needs the parameter `{key.param}`, an https:// address")
    return address


def jwk_key(jwk: Mapping[str, Any]) -> PublicKey | None:
    """The public key of a JWK (RFC 7517, RFC 8037) that may be used for signatures; None for every other."""
    if jwk.get("use", "sig") != "sig":
        return None
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return None
    members = tuple(jwk.get(name) for name in ("kty", "crv", "n", "e", "x", "y"))
    if any(member is not None and not isinstance(member, str) for member in members):
        return None
    return _jwk_key(*members)


@lru_cache(maxsize=256)
def _jwk_key(
    kty: str | None, crv: str | None, n: str | None, e: str | None, x: str | None, y: str | None
) -> PublicKey | None:
    try:
        if kty == "RSA" and n and e:
            modulus, exponent = (int.from_bytes(_url_bytes(part), "big") for part in (n, e))
            rsa_key = rsa.RSAPublicNumbers(exponent, modulus).public_key()
            return rsa_key if rsa_key.key_size >= RSA_BITS_MIN else None
        if kty == "EC" and crv in _CURVES and x and y:
            left, right = (int.from_bytes(_url_bytes(part), "big") for part in (x, y))
            return ec.EllipticCurvePublicNumbers(left, right, _CURVES[crv]()).public_key()
        if kty == "OKP" and crv == "Ed25519" and x:
            return ed25519.Ed25519PublicKey.from_public_bytes(_url_bytes(x))
    except (ValueError, BinasciiError, UnsupportedAlgorithm):
        pass
    return None


def _url_bytes(text: str) -> bytes:
    if "+" in text or "/" in text:
        raise ValueError("not base64url")
    return decode_loose(text.replace("-", "+").replace("_", "/"))
