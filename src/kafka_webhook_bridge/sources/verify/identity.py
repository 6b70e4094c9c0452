"""What a made-up sender is made of: a secret or a key pair in the form that a row asks for.

The other side of keys.py. `secret` is what the receiver is configured with; where public keys sign it is the public
half, and `private` stays with the sender. Where a receiver would fetch keys (a JWKS, a certificate, eBay's API), the
identity has the document that it has to be given instead.

Keys come from the operating system's random numbers; nothing else here is impure.
"""

from __future__ import annotations

import secrets as random
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from kafka_webhook_bridge.sources.verify import model
from kafka_webhook_bridge.sources.verify.template import Item, parse_signed
from kafka_webhook_bridge.sources.verify.verdict import OfflineKeys

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

KEY_ID: Final = "kwb-test-key"
PAYPAL_CERTIFICATE: Final = "https://api.paypal.com/v1/notifications/certs/CERT-kwb-test"
SNS_FILE: Final = "SimpleNotificationService-kwbtest.pem"
_RSA_BITS: Final = 2048
_SECRET_BYTES: Final = 24
_CURVES: Final[dict[str, type[ec.EllipticCurve]]] = {
    "ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1,
}  # fmt: skip

# What made-up senders say of themselves, where a row asks for a parameter that nobody gave.
_PARAMS: Final = {
    "topic_arn": "arn:aws:sns:eu-north-1:123456789012:kwb-test",
    "email": "kwb-test@example.iam.gserviceaccount.com",
    "audience": "https://hooks.example.com",
    "issuer": "kwb-test-issuer",
    "app_key": "kwbtestapp",
}


@dataclass(frozen=True, slots=True)
class Identity:
    """One sender. `jwks`, `certificates` (address → PEM) and `ebay` (key id → answer) are what a receiver fetches."""

    secret: str = field(repr=False)
    private: PrivateKey | None = field(default=None, repr=False)
    params: Mapping[str, str] = field(default_factory=dict)
    jwks: Sequence[Mapping[str, Any]] = ()
    certificates: Mapping[str, str] = field(default_factory=dict)
    ebay: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def keys(self) -> OfflineKeys:
        """What a receiver would have fetched."""
        return OfflineKeys(self.jwks or None, self.certificates, self.ebay)

    @property
    def fetched(self) -> bool:
        """Whether the receiver has no secret that would do, but fetches keys."""
        return bool(self.jwks or self.certificates or self.ebay)


def leaves(row: model.Verify) -> Iterator[model.Verify]:
    """The ways of a row that are no `any` and no `all`."""
    if isinstance(row, (model.AnyOf, model.AllOf)):
        for way in row.of:
            yield from leaves(way)
    else:
        yield row


def key_kind(row: model.Verify) -> str:
    """`rsa`, `ed25519`, `ES256` … of the private key that signs; empty where a shared secret does."""
    for way in leaves(row):
        match way:
            case model.Asymmetric():
                return _asymmetric_kind(way.scheme)
            case model.Jwt() | model.JwsDetached() if not way.algorithms[0].startswith("HS"):
                return _jwt_kind(way.algorithms[0])
            case model.Named(code="sns" | "paypal"):
                return "rsa"
            case model.Named(code="ebay"):
                return "ES256"
    return ""


def needed_params(row: model.Verify) -> set[str]:
    """Names of the parameters that a verifier of the row asks for; addresses of a JWKS are none of a sender's."""
    found: set[str] = set()
    for way in leaves(row):
        match way:
            case model.Hmac() | model.Digest() | model.Asymmetric():
                items = (item for text in way.signed for item in parse_signed(text).walk())
                found |= {item.name for item in items if isinstance(item, Item) and item.kind == "param"}
            case model.Jwt():
                found |= {
                    value[1:-1].partition(":")[2] or name
                    for name, values in (("issuer", way.issuer), ("audience", way.audience))
                    for value in values or []
                    if value.startswith("{param")
                }
                found |= {"email"} if way.email_param else set()
            case model.Named(code="sns"):
                found.add("topic_arn")
    return found


def make_identity(
    row: model.Verify,
    *,
    params: Mapping[str, str] | None = None,
    secret: str = "",
    private: PrivateKey | None = None,
    now: float = 0.0,
) -> Identity:
    """A sender as the row wants it, with new keys where none are given. `now` (Unix, s) dates a certificate.

    Raises ValueError if `private` is of another kind than the row uses.
    """
    given = {**{name: _PARAMS.get(name, f"kwb-test-{name}") for name in needed_params(row)}, **(params or {})}
    kind = key_kind(row)
    if not kind:
        return Identity(secret or _shared_secret(row), params=given)
    private = private or make_private(kind)
    if not _is_of_kind(private, kind):
        raise ValueError(f"the profile signs with {_words(kind)}, the given key is another")
    identity = Identity(secret, private, given)
    return _with_public(row, identity, now)


def forged(row: model.Verify, identity: Identity) -> Identity:
    """The same sender with another key: what it signs must be refused by whoever knows the right one."""
    if identity.private is not None:
        return replace(identity, private=make_private(key_kind(row)))
    name, mark, _ = identity.secret.partition(_separator(row) or "\0")
    other = _shared_secret(row)
    if mark:  # the name stays, so that it is the secret that is wrong
        other = name + mark + other.partition(mark)[2]
    return replace(identity, secret=other)


def make_private(kind: str) -> PrivateKey:
    """A new key of a kind that `key_kind` names."""
    if kind == "rsa":
        return rsa.generate_private_key(65537, _RSA_BITS)
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(_CURVES[kind]())


def load_private(pem: bytes) -> PrivateKey:
    """The private key of an unencrypted PEM file. Raises ValueError with a sentence."""
    try:
        key = serialization.load_pem_private_key(pem, None)
    except TypeError:
        raise ValueError("the private key has a password; store it without one") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("there is no private key in PEM in it") from None
    if not isinstance(key, (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey, ed25519.Ed25519PrivateKey)):
        raise ValueError("the private key is neither RSA, EC nor Ed25519")
    return key


def public_pem(private: PrivateKey) -> str:
    """The public half as PEM."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return private.public_key().public_bytes(serialization.Encoding.PEM, form).decode()


def private_pem(private: PrivateKey) -> str:
    """The private key as unencrypted PEM (PKCS 8)."""
    form, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return private.private_bytes(serialization.Encoding.PEM, form, none).decode()


# ---- shared secrets --------------------------------------------------------------------------------------------------


def _separator(row: model.Verify) -> str:
    """What stands between the name and the text of a secret."""
    for way in leaves(row):
        match way:
            case model.Basic() | model.Named(code="sinch"):
                return ":"
            case model.Named(code="braintree"):
                return "|"
            case model.Hmac() | model.Digest() | model.Asymmetric() if way.key_select is not None:
                return ":"
    return ""


def _shared_secret(row: model.Verify) -> str:
    """A secret that each way of the row can read; the first one says how it is written."""
    way = next(leaves(row))
    match way:
        case model.Basic():
            return f"kwb-test:{random.token_hex(_SECRET_BYTES)}"
        case model.Named(code="braintree"):
            return f"{random.token_hex(8)}|{random.token_hex(16)}"
        case model.Named(code="sinch"):
            return f"{random.token_hex(8)}:{_base64()}"
        case model.Named(code="adyen"):
            return random.token_hex(32).upper()
        case model.Hmac() | model.Jwt() | model.JwsDetached():
            text = (way.key.strip_prefix or "") + _written(way.key.encoding)
        case _:
            text = _plain()
    select = getattr(way, "key_select", None)
    return f"{KEY_ID}:{text}" if select is not None else text


def _written(encoding: str | None) -> str:
    if encoding == "hex":
        return random.token_hex(32)
    return _base64() if encoding == "base64" else _plain()


def _plain() -> str:
    return random.token_hex(_SECRET_BYTES)


def _base64() -> str:
    return b64encode(random.token_bytes(_SECRET_BYTES)).decode()


# ---- key pairs -------------------------------------------------------------------------------------------------------


def _asymmetric_kind(scheme: str) -> str:
    if scheme.startswith("rsa"):
        return "rsa"
    return "ed25519" if scheme == "ed25519" else "ES256"


def _jwt_kind(algorithm: str) -> str:
    if algorithm[:2] in ("RS", "PS"):
        return "rsa"
    return "ed25519" if algorithm == "EdDSA" else algorithm


def _is_of_kind(private: PrivateKey, kind: str) -> bool:
    if kind == "rsa":
        return isinstance(private, rsa.RSAPrivateKey)
    if kind == "ed25519":
        return isinstance(private, ed25519.Ed25519PrivateKey)
    return isinstance(private, ec.EllipticCurvePrivateKey) and isinstance(private.curve, _CURVES[kind])


def _words(kind: str) -> str:
    return {"rsa": "an RSA key", "ed25519": "an Ed25519 key"}.get(kind, f"an elliptic curve key for {kind}")


def _with_public(row: model.Verify, identity: Identity, now: float) -> Identity:
    """The identity with its public half where the row looks for it."""
    private = identity.private
    assert private is not None
    way = next(way for way in leaves(row) if key_kind(way))
    match way:
        case model.Named(code="sns"):
            region, partition = _arn(identity.params["topic_arn"])
            host = f"sns.{region}.amazonaws.com" + (".cn" if partition == "aws-cn" else "")
            return replace(identity, certificates={f"https://{host}/{SNS_FILE}": certificate(private, host, now)})
        case model.Named(code="paypal"):
            pem = certificate(private, "messageverificationcerts.paypal.com", now)
            secret = identity.secret or "4JH86294D6297924G"
            return replace(identity, secret=secret, certificates={PAYPAL_CERTIFICATE: pem})
        case model.Named():
            answer = {"key": public_pem(private), "algorithm": "ECDSA", "digest": "SHA1"}
            return replace(identity, ebay={KEY_ID: answer})
        case model.Asymmetric() | model.Jwt() | model.JwsDetached() if way.key.from_ == "jwks":
            return replace(identity, jwks=(jwk_of(private),))
        case model.Asymmetric() | model.Jwt() | model.JwsDetached():
            text = (way.key.strip_prefix or "") + _public_text(private, way.key.encoding or "pem")
            select = getattr(way, "key_select", None)
            return replace(identity, secret=f"{KEY_ID}:{text}" if select is not None else text)
    return identity


def _arn(arn: str) -> tuple[str, str]:
    parts = (arn.split() or [""])[0].split(":")
    if len(parts) != 6:
        raise ValueError(f"topic_arn: {arn!r} is no ARN of an SNS topic")
    return parts[3], parts[1]


def _public_text(private: PrivateKey, encoding: str) -> str:
    if encoding == "pem":
        return public_pem(private)
    public = private.public_key()
    if encoding == "spki-base64":
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return b64encode(public.public_bytes(serialization.Encoding.DER, form)).decode()
    raw = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return raw.hex() if encoding == "hex" else b64encode(raw).decode()


def jwk_of(private: PrivateKey) -> Mapping[str, Any]:
    """The public half as a JWK (RFC 7517, RFC 8037)."""
    common = {"kid": KEY_ID, "use": "sig"}
    if isinstance(private, rsa.RSAPrivateKey):
        numbers = private.public_key().public_numbers()
        return {"kty": "RSA", **common, "n": _number(numbers.n), "e": _number(numbers.e)}
    if isinstance(private, ec.EllipticCurvePrivateKey):
        point = private.public_key().public_numbers()
        size = (private.curve.key_size + 7) // 8
        curve = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}[private.curve.name]
        return {"kty": "EC", "crv": curve, **common, "x": _number(point.x, size), "y": _number(point.y, size)}
    raw = private.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return {"kty": "OKP", "crv": "Ed25519", **common, "x": urlsafe_b64encode(raw).rstrip(b"=").decode()}


def _number(value: int, size: int = 0) -> str:
    raw = value.to_bytes(size or (value.bit_length() + 7) // 8, "big")
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def certificate(private: PrivateKey, host: str, now: float) -> str:
    """A self-signed certificate in PEM, valid for a year from a day before `now` (Unix, s)."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    start = datetime.fromtimestamp(now, UTC) - timedelta(days=1)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=366))
        .sign(private, hashes.SHA256())
    )
    return built.public_bytes(serialization.Encoding.PEM).decode()
