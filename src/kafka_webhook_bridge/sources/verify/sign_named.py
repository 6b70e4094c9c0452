"""The twelve schemes of named.py the other way round: each signs a draft in place."""

from __future__ import annotations

import hmac
import json
import zlib
from base64 import b64encode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from hashlib import md5, sha1, sha256
from typing import Any, Final
from urllib.parse import quote

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from kafka_webhook_bridge.body import NOT_JSON
from kafka_webhook_bridge.sources.verify.draft import Draft
from kafka_webhook_bridge.sources.verify.identity import KEY_ID, Identity
from kafka_webhook_bridge.sources.verify.keys import decode_loose
from kafka_webhook_bridge.sources.verify.request import Signed

# Draft, `scheme://host[:port][/prefix]` or None, time of signing (Unix, s), a text that no other request has.
SignDraft = Callable[[Draft, bytes | None, float, str], None]


def _url(draft: Draft, base: bytes | None) -> bytes:
    if base is None:
        raise ValueError("the profile signs the address, and it is not known")
    return base + draft.path + (b"" if draft.query is None else b"?" + draft.query)


def _path(draft: Draft, base: bytes | None) -> bytes:
    """The path as the sender knows it: behind the prefix of the public address."""
    return Signed(draft.request, NOT_JSON, base, {}).path


def _iso(now: float) -> str:
    return datetime.fromtimestamp(int(now), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _object(draft: Draft) -> dict[str, Any]:
    document = draft.document()
    if not isinstance(document, dict):
        raise ValueError("the profile signs a JSON object, and this body is none")
    return document


def _b64(raw: bytes) -> bytes:
    return b64encode(raw)


def twilio(identity: Identity) -> SignDraft:
    """A form is signed with the address; any other body goes by its hash in the address."""
    key = identity.secret.encode()

    def sign(draft: Draft, base: bytes | None, now: float, unique: str) -> None:
        tail = ""
        if draft.is_form:
            tail = "".join(name + value for name, value in sorted(set(draft.fields())))
        elif draft.body:
            draft.set_parameter("bodySHA256", sha256(draft.body).hexdigest())
        draft.need_header("I-Twilio-Idempotency-Token", unique)
        signature = hmac.digest(key, _url(draft, base) + tail.encode(), "sha1")
        draft.set_header("X-Twilio-Signature", _b64(signature))

    return sign


_ADYEN_FIELDS: Final = (
    "pspReference", "originalReference", "merchantAccountCode", "merchantReference", "value", "currency", "eventCode",
    "success",
)  # fmt: skip


def adyen(identity: Identity) -> SignDraft:
    """Every item of the batch has its own signature."""
    key = bytes.fromhex(identity.secret.strip())

    def sign(draft: Draft, base: bytes | None, now: float, unique: str) -> None:
        document = _object(draft)
        items = document.get("notificationItems")
        if not isinstance(items, list) or not items:
            item = {"pspReference": unique[:16].upper(), "eventCode": "AUTHORISATION", "success": "true", **document}
            items = [{"NotificationRequestItem": item}]
            document = {"live": "false", "notificationItems": items}
        for item in items:
            inside = item.get("NotificationRequestItem") if isinstance(item, dict) else None
            if not isinstance(inside, dict):
                raise ValueError("an element of notificationItems has no NotificationRequestItem")
            signature = hmac.digest(key, _adyen_text(inside).encode(), "sha256")
            inside["additionalData"] = {
                **(inside.get("additionalData") or {}),
                "hmacSignature": _b64(signature).decode(),
            }
        draft.set_document(document)

    return sign


def _adyen_text(item: Mapping[str, Any]) -> str:
    values = {**item, **(item.get("amount") or {})}
    texts = []
    for name in _ADYEN_FIELDS:
        value = values.get(name)
        texts.append("" if value is None else json.dumps(value) if isinstance(value, bool) else str(value))
    return ":".join(texts)


def braintree(identity: Identity) -> SignDraft:
    """The form's field bt_payload is base64 in lines, as Ruby writes it."""
    public, _, private = identity.secret.partition("|")
    key = sha1(private.encode(), usedforsecurity=False).digest()

    def sign(draft: Draft, base: bytes | None, now: float, unique: str) -> None:
        payload = dict(draft.fields()).get("bt_payload")
        if payload is None:
            text = _b64(draft.body).decode()
            payload = "".join(f"{text[start : start + 60]}\n" for start in range(0, len(text), 60))
        signature = hmac.digest(key, payload.encode(), "sha1").hex()
        draft.set_fields([("bt_signature", f"{public}|{signature}"), ("bt_payload", payload)])

    return sign


def contentful(identity: Identity) -> SignDraft:
    """The canonical request: method, encoded address, the headers that are listed, and the body."""
    key = identity.secret.encode()

    def sign(draft: Draft, base: bytes | None, now: float, unique: str) -> None:
        names = ["x-contentful-signed-headers", "x-contentful-timestamp"]
        names += ["x-contentful-topic"] if draft.header("X-Contentful-Topic") else []
        draft.set_header("x-contentful-signed-headers", ",".join(names).encode())
        draft.set_header("x-contentful-timestamp", str(int(now * 1000)).encode())
        uri = _path(draft, base) + (b"?" + quote(draft.query, safe="!'()*-._~").encode() if draft.query else b"")
        headers = b";".join(name.encode() + b":" + (draft.header(name) or b"") for name in sorted(names))
        escaped = quote(uri, safe=";,/?:@&=+$-_.!~*'()#").encode()
        message = b"\n".join([draft.method, escaped, headers, draft.body])
        draft.set_header("x-contentful-signature", hmac.digest(key, message, "sha256").hex().encode())

    return sign


def segment(identity: Identity) -> SignDraft:
    """The body; of a batch, which is sent without blanks, its first event."""
    key = identity.secret.encode()

    def sign(draft: Draft, base: bytes | None, now: float, unique: str) -> None:
        document, message = draft.document(), draft.body
        if isinstance(document, list):
            if not document:
                raise ValueError("an empty batch has nothing to sign")
            draft.set_document(document)
            message = json.dumps(document[0], separators=(",", ":"), ensure_ascii=False).encode()
        draft.set_header("X-Signature", hmac.digest(key, message, "sha1").hex().encode())

    return sign


_SNS_TYPES: Final = ("Notification", "SubscriptionConfirmation", "UnsubscribeConfirmation")
_SNS_LINES: Final = ("Message", "MessageId", "Subject", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type")


def sns(identity: Identity) -> SignDraft:
    """A notification around the body, unless it is a message of SNS already."""
    private = identity.private
    assert isinstance(private, rsa.RSAPrivateKey)
    topic = identity.params["topic_arn"].replace(",", " ").split()[0]
    (address,) = identity.certificates

    def sign(draft: Draft, base: bytes | None, now: float, unique: str) -> None:
        message = draft.document() if draft.body[:1] == b"{" else {}
        if not isinstance(message, dict) or message.get("Type") not in _SNS_TYPES:
            message = {"Type": "Notification", "Message": draft.body.decode(errors="replace")}
        message |= {"MessageId": message.get("MessageId") or unique, "TopicArn": topic, "Timestamp": _iso(now)}
        message |= {"SignatureVersion": "2", "SigningCertURL": address}
        names = [name for name in _SNS_LINES if message.get(name) is not None]
        if message["Type"] == "Notification":
            names = [name for name in names if name not in ("SubscribeURL", "Token")]
        text = "".join(f"{name}\n{message[name]}\n" for name in names)
        signature = private.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
        draft.set_document({**message, "Signature": _b64(signature).decode()})
        draft.set_header("Content-Type", b"text/plain; charset=UTF-8")
        draft.set_header("x-amz-sns-message-type", str(message["Type"]).encode())

    return sign


def paypal(identity: Identity) -> SignDraft:
    """Ids, time and the CRC-32 of the body; the secret is the webhook's id."""
    private = identity.private
    assert isinstance(private, rsa.RSAPrivateKey)
    (address,) = identity.certificates

    def sign(draft: Draft, base: bytes | None, now: float, unique: str) -> None:
        text = f"{unique}|{_iso(now)}|{identity.secret}|{zlib.crc32(draft.body)}"
        signature = private.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
        draft.set_header("PAYPAL-TRANSMISSION-ID", unique.encode())
        draft.set_header("PAYPAL-TRANSMISSION-TIME", _iso(now).encode())
        draft.set_header("PAYPAL-CERT-URL", address.encode())
        draft.set_header("PAYPAL-AUTH-ALGO", b"SHA256withRSA")
        draft.set_header("PAYPAL-TRANSMISSION-SIG", _b64(signature))

    return sign


def plivo3(identity: Identity) -> SignDraft:
    """Address, sorted query, sorted form, nonce; a body that is no form becomes one."""
    key = identity.secret.encode()

    def sign(draft: Draft, base: bytes | None, now: float, unique: str) -> None:
        if draft.method == b"POST":
            draft.need_form("Payload")
        url = _url(draft, base).partition(b"?")[0].decode()
        query = "&".join(f"{name}={value}" for name, value in sorted(draft.parameters()))
        form = "".join(name + value for name, value in sorted(draft.fields()))
        text = url + ("?" if query or form else "") + query + ("." if query and form else "") + form
        draft.set_header("X-Plivo-Signature-V3-Nonce", unique.encode())
        signature = hmac.digest(key, f"{text}.{unique}".encode(), "sha256")
        draft.set_header("X-Plivo-Signature-V3", _b64(signature))

    return sign


def ebay(identity: Identity) -> SignDraft:
    """The header is base64 of JSON with key id and signature."""
    private = identity.private
    assert isinstance(private, ec.EllipticCurvePrivateKey)

    def sign(draft: Draft, base: bytes | None, now: float, unique: str) -> None:
        signature = private.sign(draft.body, ec.ECDSA(hashes.SHA1()))  # noqa: S303 - eBay's
        header = {"alg": "ecdsa", "kid": KEY_ID, "signature": _b64(signature).decode(), "digest": "SHA1"}
        draft.set_header("X-EBAY-SIGNATURE", _b64(json.dumps(header, separators=(",", ":")).encode()))

    return sign


def unisender(identity: Identity) -> SignDraft:
    """MD5 of the body with the API key in the signature's place."""

    def sign(draft: Draft, base: bytes | None, now: float, unique: str) -> None:
        document = {**_object(draft), "auth": "\0"}
        draft.set_document(document)
        before, mark, after = draft.body.partition(b'"\\u0000"')
        if not mark or b"\\u0000" in after:
            raise ValueError("the body has characters that stand for its signature")
        digest = md5(before + b'"' + identity.secret.encode() + b'"' + after, usedforsecurity=False).hexdigest()
        draft.body = before + f'"{digest}"'.encode() + after

    return sign


def sinch(identity: Identity) -> SignDraft:
    """Authorization names the key; the secret is base64."""
    key_id, _, text = identity.secret.partition(":")
    key = decode_loose(text)

    def sign(draft: Draft, base: bytes | None, now: float, unique: str) -> None:
        draft.set_header("x-timestamp", _iso(now).encode())
        content = _b64(md5(draft.body, usedforsecurity=False).digest()) if draft.body else b""
        kind = draft.header("Content-Type") or b""
        message = b"\n".join([draft.method, content, kind, b"x-timestamp:" + _iso(now).encode(), _path(draft, base)])
        value = f"application {key_id}:{_b64(hmac.digest(key, message, 'sha256')).decode()}"
        draft.set_header("Authorization", value.encode())

    return sign


def exactonline(identity: Identity) -> SignDraft:
    """Content, and the signature of its text behind it."""
    key = identity.secret.encode()

    def sign(draft: Draft, base: bytes | None, now: float, unique: str) -> None:
        document = _object(draft)
        content = document["Content"] if set(document) == {"Content", "HashCode"} else document
        text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
        digest = hmac.digest(key, text.encode(), "sha256").hex().upper()
        draft.body = f'{{"Content":{text},"HashCode":"{digest}"}}'.encode()

    return sign


SIGNERS: Final[dict[str, Callable[[Identity], SignDraft]]] = {
    "adyen": adyen,
    "braintree": braintree,
    "contentful": contentful,
    "ebay": ebay,
    "exactonline": exactonline,
    "paypal": paypal,
    "plivo3": plivo3,
    "segment": segment,
    "sinch": sinch,
    "sns": sns,
    "twilio": twilio,
    "unisender": unisender,
}
