"""The engine the other way round: a row and an identity become a function that signs requests as the sender does.

What schemes.py and jwt.py read is written here, with the same templates and keys. What a signature needs and the
request lacks (an id, a nonce, a member of the body) is made up. Pure, as the engine is: time and uniqueness are given.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from kafka_webhook_bridge.body import NOT_JSON
from kafka_webhook_bridge.event import Request
from kafka_webhook_bridge.sources.verify import model
from kafka_webhook_bridge.sources.verify.draft import Draft
from kafka_webhook_bridge.sources.verify.identity import KEY_ID, Identity, PrivateKey, leaves
from kafka_webhook_bridge.sources.verify.keys import shared_key
from kafka_webhook_bridge.sources.verify.request import Signed
from kafka_webhook_bridge.sources.verify.sign_named import SIGNERS
from kafka_webhook_bridge.sources.verify.template import Item, parse_signed
from kafka_webhook_bridge.sources.verify.verdict import Refused

# From a request, the time of signing (Unix, s) and a text that no other request has, to the signed request.
Signer = Callable[[Request, float, str], Request]

TOKEN_LIFE_S: Final = 300
# Of several hashes that a sender may use, the one that most do.
_USUAL: Final = ("sha256", "sha1", "sha512", "sha384", "md5")
# Items of a signature header that are no ids: the name of an environment.
_ITEM_TEXTS: Final[dict[str, str]] = {"env": "master"}

TextRow = model.Hmac | model.Digest | model.Asymmetric


def compile_signer(row: model.Verify, identity: Identity, *, public_url: str | None) -> Signer:
    """The function that signs requests to `public_url` (`scheme://host[:port][/prefix]`) as the row says.

    It raises ValueError with a sentence where a request cannot be signed: no address, a body of another kind.
    """
    base = public_url.rstrip("/").encode() if public_url is not None else None
    signer = _signer(row, identity, base)

    def sign(request: Request, now: float, unique: str) -> Request:
        try:
            return signer(request, now, unique)
        except Refused as refused:
            code, detail = refused.verdict.code, refused.verdict.detail
            raise ValueError(f"this request cannot be signed so: {detail or code}") from None

    return sign


def window_s(row: model.Verify) -> float | None:
    """For how long a signature of the row counts; None where it has no time, or no limit."""
    windows = []
    for way in leaves(row):
        match way:
            case model.Hmac() | model.Digest() | model.Asymmetric() if way.timestamp is not None:
                windows.append(way.timestamp.past_s)
            case model.Jwt():
                windows.append(TOKEN_LIFE_S + way.leeway_s)
            case model.Named():
                windows.append(way.past_s)
    found = [window for window in windows if window is not None]
    return max(found) if found else None


def _signer(row: model.Verify, identity: Identity, base: bytes | None) -> Signer:
    match row:
        case model.Hmac() | model.Digest() | model.Asymmetric():
            return _sign_text(row, identity, base)
        case model.Token():
            return _sign_token(row, identity.secret)
        case model.TokenEach():
            return _sign_each(row, identity.secret)
        case model.Basic():
            return _sign_basic(identity.secret)
        case model.Open():
            return lambda request, now, unique: request
        case model.Jwt():
            return _sign_jwt(row, identity, base)
        case model.JwsDetached():
            return _sign_detached(row, identity)
        case model.Named():
            named = SIGNERS[row.code](identity)
            return lambda request, now, unique: _named(named, request, base, now, unique)
        case model.AnyOf():
            return _signer(row.of[0], identity, base)
        case model.AllOf():
            return _sign_all([_signer(way, identity, base) for way in row.of])


def _named(
    named: Callable[[Draft, bytes | None, float, str], None],
    request: Request,
    base: bytes | None,
    now: float,
    unique: str,
) -> Request:
    draft = Draft(request)
    named(draft, base, now, unique)
    return draft.request


def _sign_all(signers: list[Signer]) -> Signer:
    def sign(request: Request, now: float, unique: str) -> Request:
        for signer in signers:
            request = signer(request, now, unique)
        return request

    return sign


# ---- signed texts ----------------------------------------------------------------------------------------------------


def _sign_text(row: TextRow, identity: Identity, base: bytes | None) -> Signer:
    template = parse_signed(row.signed[0])
    items = [item for item in template.walk() if isinstance(item, Item)]
    render = template.compile()
    make = _maker(row, identity)
    time, place = row.timestamp, row.signature
    key_id, text = _key_id(row, identity.secret)
    hash_name = next((name for name in _USUAL if name in row.hashes), "") if isinstance(row, model.Hmac) else ""

    def sign(request: Request, now: float, unique: str) -> Request:
        draft = Draft(request, json_field=row.json_field, unique=unique)
        moment = format_time(time, now) if time is not None else ""
        if time is not None:
            _place_time(draft, time, moment)
        fields = {} if time is None or time.field is None else {time.field: moment}
        _fill(draft, items, fields, now, unique)
        if row.key_select is not None:
            draft.set_header(row.key_select.header, key_id.encode())
        signed = Signed(draft.request, NOT_JSON, base, identity.params)
        signed.json_field = row.json_field.encode() if row.json_field is not None else None
        signed.timestamp = moment.encode()
        signed.fields = {name.encode(): value.encode() for name, value in fields.items()}
        signed.secret = text.encode()
        signature = encode(make(render(signed), hash_name), place.encoding)
        _place_signature(draft, place, _listed(place, fields, hash_name, signature))
        return draft.request

    return sign


def _key_id(row: TextRow, secret: str) -> tuple[str, str]:
    """The key id that goes into a header, and the secret without it."""
    if row.key_select is None:
        return "", secret
    key_id, colon, text = secret.partition(":")
    return (key_id, text) if colon else (KEY_ID, secret)


def _maker(row: TextRow, identity: Identity) -> Callable[[bytes, str], bytes]:
    """The function from the signed text and, with `by_field`, a hash to the signature."""
    _, text = _key_id(row, identity.secret)
    if isinstance(row, model.Digest):
        name = row.hash
        return lambda message, _: hashlib.new(name, message, usedforsecurity=False).digest()
    if isinstance(row, model.Hmac):
        key, fixed = shared_key(text, row.key), row.hash
        return lambda message, chosen: hmac.digest(key, message, chosen or fixed)
    private, scheme = identity.private, row.scheme
    if private is None:
        raise ValueError("the profile signs with a private key, and there is none")
    return lambda message, _: signature_of(private, scheme, message)


def signature_of(private: PrivateKey, scheme: str, message: bytes) -> bytes:
    """A signature by an asymmetric scheme of model.py."""
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return private.sign(message)
    digest = _HASHES[scheme.rpartition("-")[2]]()
    if isinstance(private, ec.EllipticCurvePrivateKey):
        return private.sign(message, ec.ECDSA(digest))
    if scheme.startswith("rsa-pss"):
        return private.sign(message, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
    return private.sign(message, padding.PKCS1v15(), digest)


_HASHES: Final[dict[str, Callable[[], hashes.HashAlgorithm]]] = {
    "sha1": hashes.SHA1, "sha256": hashes.SHA256, "sha384": hashes.SHA384, "sha512": hashes.SHA512,
}  # fmt: skip


def encode(signature: bytes, encoding: str) -> str:
    """A signature as a row's `encoding` writes it."""
    if encoding == "hex":
        return signature.hex()
    if encoding == "base64url":
        return urlsafe_b64encode(signature).rstrip(b"=").decode()
    return b64encode(signature.hex().encode() if encoding == "base64-of-hex" else signature).decode()


def format_time(time: model.Timestamp, now: float) -> str:
    """The time `now` (Unix, s) as a row writes it."""
    if time.format == "unix_ms":
        return str(int(now * 1000))
    if time.format == "iso8601":
        return datetime.fromtimestamp(int(now), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if time.format == "http-date":
        return format_datetime(datetime.fromtimestamp(int(now), UTC), usegmt=True)
    return str(int(now))


def _place_time(draft: Draft, time: model.Timestamp, moment: str) -> None:
    path = time.path or ""
    number = time.from_ == "json" and moment.isdigit() and not isinstance(draft.member(path), str)
    _place(draft, time, int(moment) if number else moment)


def _place(draft: Draft, place: model.Timestamp | model.Place, value: str | int) -> None:
    """Writes a value where a row looks for it; an item of the signature comes with that."""
    text = str(value)
    match place.from_:
        case "header":
            draft.set_header(place.name or "", text.encode())
        case "query":
            draft.set_parameter(place.name or "", text)
        case "form":
            draft.need_form("payload")
            draft.set_field(place.name or "", text)
        case "json":
            draft.set_member(place.path or "", value)
        case "body":
            draft.body = text.encode()


def _fill(draft: Draft, items: list[Item], fields: dict[str, str], now: float, unique: str) -> None:
    """Makes up what the signed text reads and the request lacks."""
    whole = {item.kind for item in items}
    forms = [item.name for item in items if item.kind == "form"]
    if forms or "form_sorted" in whole:
        draft.need_form(forms[0] if len(forms) == 1 else "payload")
    for item in items:
        match item.kind:
            case "header":
                draft.need_header(item.name, f"kwb_{unique}")
            case "query" | "query_lower":
                if not any(name == item.name and value for name, value in draft.parameters()):
                    draft.set_parameter(item.name, unique)
            case "form":
                if not dict(draft.fields()).get(item.name):
                    draft.set_field(item.name, _made_up(item.name, now, unique))
            case "json":
                if draft.member(item.name) in (None, ""):
                    draft.set_member(item.name, _made_up(item.name, now, unique))
            case "sigfield":
                fields.setdefault(item.name, _ITEM_TEXTS.get(item.name, unique))


def _made_up(name: str, now: float, unique: str) -> str:
    """A value for a field: a time where its name says so, else something that no other request has."""
    is_time = re.search(r"time|created", name.rpartition(".")[2], re.IGNORECASE)
    return str(int(now)) if is_time else unique


def _listed(place: model.Signature, fields: Mapping[str, str], hash_name: str, signature: str) -> str:
    """The signature among the other items of its header, as the row takes them apart."""
    if place.first_is_timestamp:
        return _separator(place).join([*fields.values(), signature])
    if place.pair is not None:
        name = hash_name or place.field or ""
        items = [f"{item}{place.pair}{value}" for item, value in {**fields, name: signature}.items()]
        return _separator(place).join(items)
    if place.prefix_pattern is not None:
        return example(place.prefix_pattern) + signature
    return (place.prefix or "") + signature


def _separator(place: model.Signature) -> str:
    if place.separator is not None:
        return place.separator
    usual = (",", ", ", " ", ";")
    return next((text for text in usual if re.fullmatch(place.separator_pattern or ",", text)), ",")


def example(pattern: str) -> str:
    """A text that a simple pattern matches, such as `\\d+/SHA256/`. Raises ValueError for others."""
    text = re.sub(r"\\d(?:\+|\{\d+\})?", "1", pattern)
    text = re.sub(r"(?:\\w|\[\^[^\]]*\]|\[[^\]]*\])[+*]?", "k", text)
    if re.fullmatch(pattern, text) is None:
        raise ValueError(f"no example of the prefix {pattern!r} is known")
    return text


def _place_signature(draft: Draft, place: model.Place, text: str) -> None:
    _place(draft, place, (place.strip_prefix or "") + text)


# ---- what is no signature --------------------------------------------------------------------------------------------


def _sign_token(row: model.Token, secret: str) -> Signer:
    def sign(request: Request, now: float, unique: str) -> Request:
        draft = Draft(request, json_field=row.json_field, unique=unique)
        _place_signature(draft, row.signature, secret)
        return draft.request

    return sign


def _sign_each(row: model.TokenEach, secret: str) -> Signer:
    def sign(request: Request, now: float, unique: str) -> Request:
        draft = Draft(request)
        elements = draft.member(row.array)
        if not isinstance(elements, list) or not elements or not all(isinstance(one, dict) for one in elements):
            elements = [{"id": unique}]
        draft.set_member(row.array, [{**element, row.field: secret} for element in elements])
        return draft.request

    return sign


def _sign_basic(secret: str) -> Signer:
    value = b"Basic " + b64encode(secret.encode())

    def sign(request: Request, now: float, unique: str) -> Request:
        draft = Draft(request)
        draft.set_header("Authorization", value)
        return draft.request

    return sign


# ---- tokens ----------------------------------------------------------------------------------------------------------


def _sign_jwt(row: model.Jwt, identity: Identity, base: bytes | None) -> Signer:
    seal = _sealer(row, identity)
    carries = row.signature.from_ in ("body", "json")  # the event is in the token

    def sign(request: Request, now: float, unique: str) -> Request:
        draft = Draft(request, json_field=row.json_field, unique=unique)
        claims = _claims(row, identity, Signed(request, NOT_JSON, base, identity.params), now, unique)
        if carries:
            document = draft.document()
            needed = dict.fromkeys(row.claims, "example")
            claims = {**needed, **(document if isinstance(document, dict) else {"data": document}), **claims}
            draft.body = b""
        token = seal(_part(claims), {"typ": "JWT"})
        _place_signature(draft, row.signature, token)
        return draft.request

    return sign


def _claims(row: model.Jwt, identity: Identity, signed: Signed, now: float, unique: str) -> dict[str, Any]:
    issued = int(now)
    claims: dict[str, Any] = {"iat": issued, "exp": issued + TOKEN_LIFE_S, "jti": unique}
    for name, param, values in (("iss", "issuer", row.issuer), ("aud", "audience", row.audience)):
        if values:
            claims[name] = _claim(values[0], param, identity, signed)
    if row.email_param:
        claims |= {"email": identity.params["email"], "email_verified": True}
    if (body := row.body_claim) is not None:
        digest = hashlib.new(body.hash, signed.body).digest()
        claims[body.claim] = encode(digest, body.encoding)
    if (url := row.url_claim) is not None:
        text = signed.url
        claims[url.claim] = text.decode() if url.hash == "none" else hashlib.new(url.hash, text).hexdigest()
    return claims


def _claim(value: str, param: str, identity: Identity, signed: Signed) -> str:
    if value == "{url}":
        return signed.url.decode()
    if value.startswith("{param"):
        return identity.params[value[1:-1].partition(":")[2] or param]
    return value


def _sign_detached(row: model.JwsDetached, identity: Identity) -> Signer:
    seal = _sealer(row, identity)

    def sign(request: Request, now: float, unique: str) -> Request:
        head, _, signature = seal(_url64(request.body), {}).split(".")
        draft = Draft(request)
        _place_signature(draft, row.signature, f"{head}..{signature}")
        return draft.request

    return sign


def _sealer(row: model.Jwt | model.JwsDetached, identity: Identity) -> Callable[[bytes, Mapping[str, str]], str]:
    """The function from an encoded payload and more of the header to a token in compact form (RFC 7515)."""
    algorithm, private = row.algorithms[0], identity.private
    shared = algorithm.startswith("HS")
    if not shared and private is None:
        raise ValueError("the profile signs with a private key, and there is none")
    key = shared_key(identity.secret, row.key) if shared else b""

    def seal(payload: bytes, more: Mapping[str, str]) -> str:
        header = {"alg": algorithm, **more, **({"kid": KEY_ID} if row.key.from_ == "jwks" else {})}
        message = _part(header) + b"." + payload
        if private is None or shared:
            signature = hmac.digest(key, message, f"sha{algorithm[2:]}")
        else:
            signature = _jws(private, algorithm, message)
        return (message + b"." + _url64(signature)).decode()

    return seal


def _jws(private: PrivateKey, algorithm: str, message: bytes) -> bytes:
    """A signature as RFC 7518 section 3 and RFC 8037 write it."""
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return private.sign(message)
    digest = _HASHES[f"sha{algorithm[2:]}"]()
    if isinstance(private, ec.EllipticCurvePrivateKey):
        size = (private.curve.key_size + 7) // 8
        r, s = decode_dss_signature(private.sign(message, ec.ECDSA(digest)))
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")
    assert isinstance(private, rsa.RSAPrivateKey)
    if algorithm.startswith("PS"):
        return private.sign(message, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
    return private.sign(message, padding.PKCS1v15(), digest)


def _part(document: Mapping[str, Any]) -> bytes:
    return _url64(json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode())


def _url64(raw: bytes) -> bytes:
    return urlsafe_b64encode(raw).rstrip(b"=")
