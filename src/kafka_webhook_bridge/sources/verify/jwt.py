"""JSON Web Tokens (RFC 7519) and detached JWS (RFC 7797), as far as senders of webhooks use them.

What decides is the row and the operator's keys: the algorithm must be one of the row's, the key must be of that
algorithm's kind, a `kid` chooses among the keys of the configured JWKS alone. Keys and addresses inside a token (`jwk`,
`jku`, `x5c`, `x5u`) are never looked at. `crit` is refused but for `b64` in a detached JWS, and so are nested and
encrypted tokens, members that stand twice, and times that are no numbers.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping, Sequence
from hmac import compare_digest
from math import isfinite
from typing import Any, Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from kafka_webhook_bridge.sources.verify import model
from kafka_webhook_bridge.sources.verify.keys import (
    SECRETS_MAX,
    PublicKey,
    check_secrets,
    jwk_key,
    jwks_address,
    load_public,
    shared_key,
)
from kafka_webhook_bridge.sources.verify.request import Signed, plain_json
from kafka_webhook_bridge.sources.verify.schemes import Context, Run, need_param
from kafka_webhook_bridge.sources.verify.signatures import DECODERS, compile_place, decode_base64url
from kafka_webhook_bridge.sources.verify.verdict import CompileError, KeyNeeded, Refused

# How far in the future a token may have been issued, where its age counts: clocks differ.
ISSUED_AHEAD_S: Final = 60.0
KEY_ID_CHARACTERS_MAX: Final = 200

_HASHES: Final[dict[str, type[hashes.SHA256 | hashes.SHA384 | hashes.SHA512]]] = {
    "256": hashes.SHA256,
    "384": hashes.SHA384,
    "512": hashes.SHA512,
}
_CURVES: Final[dict[str, tuple[type[ec.EllipticCurve], int]]] = {
    "ES256": (ec.SECP256R1, 32),
    "ES384": (ec.SECP384R1, 48),
    "ES512": (ec.SECP521R1, 66),
}
_TYPES: Final = frozenset({"jwt", "jose", "jws"})

Check = Callable[[Signed, dict[str, Any], float], None]
Right = Callable[[dict[str, Any], bytes, bytes], bool]


def jwt_scheme(row: model.Jwt, context: Context) -> Run:
    """A token with claims."""
    read = _token_reader(row.signature)
    right = _compile_right(row, context)
    checks = _compile_checks(row, context)
    algorithms = frozenset(row.algorithms)

    def run(signed: Signed, now: float) -> None:
        head, claims_text, signature_text = _three(read(signed))
        header = _header(head, algorithms)
        if "crit" in header:
            raise Refused("token.malformed", "crit names an extension that is not understood")
        signature = _bytes(signature_text)
        claims = _object(_bytes(claims_text))
        if not right(header, signature, head + b"." + claims_text):
            raise Refused("signature.mismatch")
        for check in checks:
            check(signed, claims, now)

    return run


def _token_reader(place: model.Place) -> Callable[[Signed], bytes]:
    """A token in Authorization stands there bare or as `Bearer`: of senders of bare ones, some write both."""
    read = compile_place(place)
    if place.strip_prefix is not None or place.from_ != "header" or (place.name or "").lower() != "authorization":
        return read

    def bare(signed: Signed) -> bytes:
        value = read(signed)
        return value[7:] if value[:7].lower() == b"bearer " else value

    return bare


def jws_detached_scheme(row: model.JwsDetached, context: Context) -> Run:
    """A signature of the body, `header..signature`."""
    read = compile_place(row.signature)
    right = _compile_right(row, context)
    algorithms = frozenset(row.algorithms)

    def run(signed: Signed, now: float) -> None:
        parts = read(signed).split(b".")
        if len(parts) != 3 or parts[1]:
            raise Refused("token.malformed", "no detached JWS")
        header = _header(parts[0], algorithms)
        plain = _is_plain(header)
        payload = signed.body if plain else _url_base64(signed.body)
        if not right(header, _bytes(parts[2]), parts[0] + b"." + payload):
            raise Refused("signature.mismatch")

    return run


def _is_plain(header: Mapping[str, Any]) -> bool:
    """Whether the payload is signed as it is (`b64` false, which must be critical: RFC 7797 section 6)."""
    if "crit" not in header:
        if "b64" in header:
            raise Refused("token.malformed", "b64 without crit")
        return False
    if header["crit"] != ["b64"] or not isinstance(header.get("b64"), bool):
        raise Refused("token.malformed", "crit names an extension that is not understood")
    return header["b64"] is False


def _url_base64(raw: bytes) -> bytes:
    return urlsafe_b64encode(raw).rstrip(b"=")


def _three(token: bytes) -> tuple[bytes, bytes, bytes]:
    parts = token.split(b".")
    if len(parts) != 3 or not all(parts):
        raise Refused("token.malformed", "not three parts")
    return parts[0], parts[1], parts[2]


def _bytes(text: bytes) -> bytes:
    try:
        return decode_base64url(text)
    except ValueError:
        raise Refused("token.malformed", "not base64url") from None


def _object(text: bytes) -> dict[str, Any]:
    try:
        value = plain_json(text)
    except Refused as refused:
        raise Refused("token.malformed", refused.verdict.detail) from None
    if type(value) is not dict:
        raise Refused("token.malformed", "no JSON object")
    return value


def _header(text: bytes, algorithms: frozenset[str]) -> dict[str, Any]:
    header = _object(_bytes(text))
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in algorithms:
        raise Refused("token.algorithm", "not one of the profile's algorithms")
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in _TYPES:
        raise Refused("token.malformed", "typ is another")
    if "cty" in header or "enc" in header or "zip" in header:
        raise Refused("token.malformed", "nested or encrypted")
    return header


def _compile_right(row: model.Jwt | model.JwsDetached, context: Context) -> Right:
    """The function that tells whether a signature is right; it takes the header, the signature, the signed text."""
    if row.key.from_ == "jwks":
        return _compile_fetched(row.key, context)
    check_secrets(context.secrets)
    if row.algorithms[0].startswith("HS"):
        secrets = [_hs_secret(secret, row.key, index) for index, secret in enumerate(context.secrets, 1)]

        def right_shared(header: dict[str, Any], signature: bytes, message: bytes) -> bool:
            name = f"sha{header['alg'][2:]}"
            found = False
            for secret in secrets:
                found |= compare_digest(hmac.digest(secret, message, name), signature)
            return found

        return right_shared
    keys = [_configured(secret, row, index) for index, secret in enumerate(context.secrets, 1)]

    def right_public(header: dict[str, Any], signature: bytes, message: bytes) -> bool:
        found = False
        for key in keys:
            found |= _right(key, header["alg"], signature, message)
        return found

    return right_public


def _hs_secret(secret: str, key: model.Key, index: int) -> bytes:
    if "-----BEGIN" in secret:
        raise CompileError("key.malformed", f"secret {index} is a PEM key; anybody who has it could sign with HS…")
    return shared_key(secret, key, index)


def _configured(secret: str, row: model.Jwt | model.JwsDetached, index: int) -> PublicKey:
    text = secret.removeprefix(row.key.strip_prefix) if row.key.strip_prefix else secret
    key = load_public(text, row.key.encoding or "pem")
    if key is None or not any(_suits(key, algorithm) for algorithm in row.algorithms):
        raise CompileError("key.malformed", f"secret {index} is no public key for {', '.join(row.algorithms)}")
    return key


def _compile_fetched(key: model.Key, context: Context) -> Right:
    address = jwks_address(key, context.params, context.keys)
    store = context.keys

    def right(header: dict[str, Any], signature: bytes, message: bytes) -> bool:
        key_id = header.get("kid")
        if key_id is not None and (not isinstance(key_id, str) or not 0 < len(key_id) <= KEY_ID_CHARACTERS_MAX):
            raise Refused("key.unknown", "the token's kid is no name of a key")
        jwks = store.jwks(address)
        needed = KeyNeeded("jwks", address, key_id or "")
        if jwks is None:
            raise Refused("key.unknown", "the keys are not there yet", needed)
        # A token that names no key can be by one without a name, and by no other.
        named = [jwk for jwk in jwks if jwk.get("kid") == key_id][:SECRETS_MAX]
        if not named and key_id is None:
            raise Refused("key.unknown", "the token names no key")
        if not named:
            raise Refused("key.unknown", "the key is not among those of the sender", needed)
        found = False
        for jwk in named:
            if jwk.get("alg", header["alg"]) == header["alg"] and (public := jwk_key(jwk)) is not None:
                found |= _right(public, header["alg"], signature, message)
        return found

    return right


def _suits(key: PublicKey, algorithm: str) -> bool:
    """Whether a key is of the kind that an algorithm uses (RFC 7518, RFC 8037)."""
    if algorithm[:2] in ("RS", "PS"):
        return isinstance(key, rsa.RSAPublicKey)
    if algorithm in _CURVES:
        return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, _CURVES[algorithm][0])
    return algorithm == "EdDSA" and isinstance(key, ed25519.Ed25519PublicKey)


def _right(key: PublicKey, algorithm: str, signature: bytes, message: bytes) -> bool:
    if not _suits(key, algorithm):
        return False
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, message)
            return True
        digest = _HASHES[algorithm[2:]]()
        if isinstance(key, ec.EllipticCurvePublicKey):
            size = _CURVES[algorithm][1]
            if len(signature) != 2 * size:
                return False
            numbers = (int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big"))
            key.verify(encode_dss_signature(*numbers), message, ec.ECDSA(digest))
        elif algorithm.startswith("PS"):
            key.verify(signature, message, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
        else:
            key.verify(signature, message, padding.PKCS1v15(), digest)
    except (InvalidSignature, ValueError):
        return False
    return True


def _compile_checks(row: model.Jwt, context: Context) -> Sequence[Check]:
    checks = [_times(row)]
    if row.claims:
        checks.append(_present(row.claims))
    if row.issuer is not None:
        checks.append(_issuer([_expected(value, "issuer", context) for value in row.issuer]))
    if row.audience is not None:
        checks.append(_audience([_expected(value, "audience", context) for value in row.audience]))
    if row.email_param:
        checks.append(_email(need_param(context, "email")))
    if row.body_claim is not None:
        checks.append(_body(row.body_claim))
    if row.url_claim is not None:
        checks.append(_url(row.url_claim))
    return checks


def _expected(value: str, name: str, context: Context) -> str | None:
    """The text of an issuer or audience; None stands for the address of the request."""
    if value == "{url}":
        return None
    if value.startswith("{param"):
        return need_param(context, value[1:-1].partition(":")[2] or name)
    return value


def _times(row: model.Jwt) -> Check:
    leeway, age_max = row.leeway_s, row.age_max_s

    def check(signed: Signed, claims: dict[str, Any], now: float) -> None:
        expires, begins = _time(claims, "exp"), _time(claims, "nbf")
        if expires is None:
            if row.require_expiry:
                raise Refused("token.malformed", "no exp")
        elif now >= expires + leeway:
            raise Refused("token.expired", f"{now - expires:.0f} s ago")
        if begins is not None and now < begins - leeway:
            raise Refused("token.not_yet", f"in {begins - now:.0f} s")
        if age_max is not None:
            issued = _time(claims, "iat")
            if issued is None:
                raise Refused("token.malformed", "no iat")
            if now - issued > age_max + leeway:
                raise Refused("token.expired", f"{now - issued:.0f} s old, at most {age_max:.0f}")
            if issued - now > max(leeway, ISSUED_AHEAD_S):
                raise Refused("token.not_yet", f"issued in {issued - now:.0f} s")

    return check


def _time(claims: dict[str, Any], name: str) -> float | None:
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
        raise Refused("token.malformed", f"{name} is no number")
    return float(value)


def _present(names: Sequence[str]) -> Check:
    def check(signed: Signed, claims: dict[str, Any], now: float) -> None:
        for name in names:
            if claims.get(name) is None:
                raise Refused("token.malformed", f"no {name}: a token of the same keys for another purpose")

    return check


def _issuer(expected: list[str | None]) -> Check:
    def check(signed: Signed, claims: dict[str, Any], now: float) -> None:
        issuer = claims.get("iss")
        if not isinstance(issuer, str) or issuer not in _with_url(expected, signed):
            raise Refused("token.issuer")

    return check


def _audience(expected: list[str | None]) -> Check:
    def check(signed: Signed, claims: dict[str, Any], now: float) -> None:
        audience = claims.get("aud")
        found = audience if isinstance(audience, list) else [audience]
        wanted = _with_url(expected, signed)
        if not all(isinstance(value, str) for value in found) or not any(value in wanted for value in found):
            raise Refused("token.audience")

    return check


def _with_url(expected: list[str | None], signed: Signed) -> list[str]:
    return [signed.address.decode("latin-1") if value is None else value for value in expected]


def _email(expected: str) -> Check:
    def check(signed: Signed, claims: dict[str, Any], now: float) -> None:
        if claims.get("email") != expected or claims.get("email_verified") is not True:
            raise Refused("token.subject", "another account, or its address is not verified")

    return check


def _body(row: model.BodyClaim) -> Check:
    decode = DECODERS[row.encoding]

    def check(signed: Signed, claims: dict[str, Any], now: float) -> None:
        value = claims.get(row.claim)
        if row.claim not in claims and (row.only_if_claim or (row.optional_if_empty and not signed.body)):
            return
        try:
            digest = decode(value.encode()) if isinstance(value, str) else b""
        except ValueError:
            digest = b""
        if not compare_digest(digest, hashlib.new(row.hash, signed.body).digest()):
            raise Refused("body.mismatch")

    return check


def _url(row: model.UrlClaim) -> Check:
    def check(signed: Signed, claims: dict[str, Any], now: float) -> None:
        url = signed.address
        expected = url if row.hash == "none" else hashlib.new(row.hash, url).hexdigest().encode()
        value = claims.get(row.claim)
        if not isinstance(value, str) or not compare_digest(value.encode(), expected):
            raise Refused("url.mismatch")

    return check
