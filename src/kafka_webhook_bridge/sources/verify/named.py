"""The twelve schemes that data cannot say, one function each: from the operator's side to the function of a request.

What makes them code: Twilio's addresses and sorted forms, Contentful's canonical request, signatures for each item of
a batch (Adyen), for the first of one (Segment) or inside the body (Exact Online, Unisender), certificates by address
(SNS, PayPal), keys from an API (eBay), a key id in Authorization (Sinch).
"""

from __future__ import annotations

import hmac
import json
import re
from base64 import b64encode
from binascii import unhexlify
from collections.abc import Callable
from hashlib import md5, sha1, sha256
from hmac import compare_digest
from typing import Any, Final
from urllib.parse import quote

from kafka_webhook_bridge.sources.verify.fetched import ebay, paypal, sns
from kafka_webhook_bridge.sources.verify.keys import (
    check_secrets,
    shared_key,
)
from kafka_webhook_bridge.sources.verify.model import Key, Named
from kafka_webhook_bridge.sources.verify.request import Number, Signed, text_of
from kafka_webhook_bridge.sources.verify.schemes import Context, Run, is_utf8, mismatch_unless, one_of
from kafka_webhook_bridge.sources.verify.signatures import (
    SIGNATURES_MAX,
    check_window,
    decode_base64,
    decoded,
    parse_time,
)
from kafka_webhook_bridge.sources.verify.verdict import CompileError, Refused

ITEMS_MAX: Final = 1000


def _secrets(context: Context) -> list[bytes]:
    check_secrets(context.secrets)
    return [secret.encode() for secret in context.secrets]


def _hex(text: bytes) -> bytes:
    return decoded([text], unhexlify)[0]


# --- Twilio -------------------------------------------------------------------------------------------------

_ADDRESS = re.compile(
    rb"(https?)://((?:[^/?#@]*@)?(?:[^/:?#@]+|\[[0-9A-Fa-f:.]+\]))(?::([0-9]{1,5}))?((?:[/?].*)?)", re.DOTALL
)
_TWILIO_HASHES: Final = {b"HMAC_SHA1": "sha1", b"HMAC_SHA256": "sha256"}


def twilio(row: Named, context: Context) -> Run:
    """HMAC of the address and the sorted form; a JSON body is covered by its hash in the address (bodySHA256).

    Twilio leaves a port out of https addresses and puts the usual one into others, so all three spellings are tried.
    The algorithm is SHA-1, or one of two that the settings header names.
    """
    secrets = _secrets(context)

    def run(signed: Signed, now: float) -> None:
        signature = decoded([signed.need_header(b"x-twilio-signature")], decode_base64)[0]
        name = _twilio_hash(signed.header(b"x-twilio-webhooks-signature-settings"))
        body_hash = signed.query(b"bodySHA256")
        tail = b""
        if body_hash is not None:
            if not compare_digest(sha256(signed.body).hexdigest().encode(), body_hash.lower()):
                raise Refused("body.mismatch")
        elif signed.body:
            tail = b"".join([field + value for field, value in sorted(set(_text_pairs(signed)))])
        urls = _spellings(signed.address)
        expected = (hmac.digest(secret, url + tail, name) for url in urls for secret in secrets)
        mismatch_unless(one_of(expected, signature))

    return run


def _twilio_hash(settings: bytes | None) -> str:
    found = [item.strip().partition(b"=")[2] for item in (settings or b"").split(b",")
             if item.strip().partition(b"=")[0] == b"algorithm"]  # fmt: skip
    if len(found) > 1 or (found and found[0].upper() not in _TWILIO_HASHES):
        raise Refused("signature.malformed", "the settings name no algorithm that Twilio has")
    return _TWILIO_HASHES[found[0].upper()] if found else "sha1"


def _spellings(url: bytes) -> list[bytes]:
    match = _ADDRESS.fullmatch(url)
    if match is None:
        raise Refused("url.mismatch", "the address is not known")
    scheme, host, port, rest = match.groups()
    usual = b"443" if scheme == b"https" else b"80"
    return [url, b"%s://%s%s" % (scheme, host, rest), b"%s://%s:%s%s" % (scheme, host, port or usual, rest)]


def _text_pairs(signed: Signed) -> list[tuple[bytes, bytes]]:
    pairs = signed.form_pairs
    if not all(is_utf8(name) and is_utf8(value) for name, value in pairs):
        raise Refused("body.malformed", "not UTF-8")
    return pairs


# --- Adyen --------------------------------------------------------------------------------------------------

_ADYEN_FIELDS: Final = (
    "pspReference", "originalReference", "merchantAccountCode", "merchantReference", "value", "currency", "eventCode",
    "success",
)  # fmt: skip


def adyen(row: Named, context: Context) -> Run:
    """HMAC over eight fields of every item; one wrong item spoils the batch. Keys are hex.

    The fields are joined by colons and not escaped. Only merchantReference may hold one, else two would be one.
    """
    check_secrets(context.secrets)
    keys = [shared_key(secret, Key(encoding="hex"), index) for index, secret in enumerate(context.secrets, 1)]

    def run(signed: Signed, now: float) -> None:
        right = True
        for item in _adyen_items(signed.json):
            data = item.get("additionalData")
            text = data.get("hmacSignature") if type(data) is dict else None
            if not isinstance(text, str):
                raise Refused("signature.malformed", "an item without hmacSignature")
            signature = decoded([text.encode()], decode_base64)[0]
            message = _adyen_text(item)
            right &= one_of((hmac.digest(key, message, "sha256") for key in keys), signature)
        mismatch_unless(right)

    return run


def _adyen_items(document: Any) -> list[dict[str, Any]]:
    if type(document) is not dict:
        raise Refused("body.malformed", "no notification")
    if "notificationItems" not in document:
        return [document]
    items = document["notificationItems"]
    if type(items) is not list or not 0 < len(items) <= ITEMS_MAX:
        raise Refused("body.malformed", "no notificationItems")
    found = [item.get("NotificationRequestItem") if type(item) is dict else None for item in items]
    if not all(type(item) is dict for item in found):
        raise Refused("body.malformed", "no NotificationRequestItem")
    return [item for item in found if item is not None]


def _adyen_text(item: dict[str, Any]) -> bytes:
    amount = item.get("amount")
    texts = []
    for name in _ADYEN_FIELDS:
        source = amount if name in ("value", "currency") else item
        text = text_of(source.get(name), name) if type(source) is dict else None
        if text and b":" in text and name != "merchantReference":
            raise Refused("body.malformed", f"{name} holds a colon")
        texts.append(text or b"")
    return b":".join(texts)


# --- Braintree ----------------------------------------------------------------------------------------------

# Not what the answer to a bt_challenge signs for anybody who asks.
_BT_PAYLOAD = re.compile(rb"(?![a-f0-9]{20,32}\n?\Z)[A-Za-z0-9+=/\n]+")


def braintree(row: Named, context: Context) -> Run:
    """HMAC of a form field; the signature names the public key, and a secret is `public|private`."""
    check_secrets(context.secrets)
    keys = []
    for index, secret in enumerate(context.secrets, 1):
        public, bar, private = secret.partition("|")
        if not bar or not public or not private or "|" in private:
            raise CompileError("key.malformed", f"secret {index} is not of the form public|private")
        keys.append((public.encode(), sha1(private.encode(), usedforsecurity=False).digest()))

    def run(signed: Signed, now: float) -> None:
        text, payload = signed.form(b"bt_signature"), signed.form(b"bt_payload")
        if text is None:
            raise Refused("signature.malformed", "no bt_signature")
        if payload is None or not _BT_PAYLOAD.fullmatch(payload):
            raise Refused("body.malformed", "no bt_payload, or not base64")
        pairs = [pair.partition(b"|") for pair in text.split(b"&")]
        if len(pairs) > SIGNATURES_MAX:
            raise Refused("signature.too_many", f"more than {SIGNATURES_MAX}")
        right = False
        for public, key in keys:
            for name, _, signature in pairs:
                for message in (payload, payload + b"\n"):
                    expected = hmac.digest(key, message, "sha1").hex().encode()
                    right |= (name == public) & compare_digest(expected, signature.lower())
        mismatch_unless(right)

    return run


# --- Contentful ---------------------------------------------------------------------------------------------

_SIGNED_NAME = re.compile(rb"[a-z0-9-]+")


def contentful(row: Named, context: Context) -> Run:
    """HMAC of method, encoded address, the headers that the sender lists, and the body.

    The list itself and the time must be among them, else the time could be another.
    """
    secrets = _secrets(context)
    past_s = row.past_s or 0.0
    future_s = past_s if row.future_s is None else row.future_s

    def run(signed: Signed, now: float) -> None:
        signature = _hex(signed.need_header(b"x-contentful-signature"))
        names = signed.need_header(b"x-contentful-signed-headers").split(b",")
        text = signed.need_header(b"x-contentful-timestamp")
        age_s = now - _time(text, "unix_ms")
        check_window(age_s, past_s, future_s)
        if age_s == past_s:
            raise Refused("timestamp.old", "at the edge of the window")
        if not all(map(_SIGNED_NAME.fullmatch, names)) or len(set(names)) != len(names):
            raise Refused("signature.malformed", "the list of signed headers")
        if not {b"x-contentful-signed-headers", b"x-contentful-timestamp"} <= set(names):
            raise Refused("signature.malformed", "the time is not among the signed headers")
        headers = b";".join([name + b":" + signed.need_header(name) for name in sorted(names)])
        message = b"\n".join([signed.request.method, _contentful_uri(signed), headers, signed.body])
        mismatch_unless(one_of((hmac.digest(secret, message, "sha256") for secret in secrets), signature))

    return run


def _contentful_uri(signed: Signed) -> bytes:
    """encodeURI(path + "?" + querystring.escape(query)), which encodes a % of the address again."""
    uri = signed.path
    if signed.request.query:
        uri += b"?" + quote(signed.request.query, safe="!'()*-._~").encode()
    return quote(uri, safe=";,/?:@&=+$-_.!~*'()#").encode()


def _time(text: bytes, form: str) -> float:
    try:
        return parse_time(text, form, touches=True)
    except ValueError:
        raise Refused("timestamp.malformed", f"not as {form}") from None


# --- Segment ------------------------------------------------------------------------------------------------

_BLANKS = " \t\r\n"


def segment(row: Named, context: Context) -> Run:
    """HMAC of the body; of a batch only the first event is signed, as it stands in the array."""
    secrets = _secrets(context)

    def run(signed: Signed, now: float) -> None:
        signature = _hex(signed.need_header(b"x-signature"))
        document = signed.json
        message = signed.body
        if type(document) is list:
            message = _first_element(signed.body)
            document = document[0] if document else None
        if type(document) is not dict:
            raise Refused("body.malformed", "no event")
        mismatch_unless(one_of((hmac.digest(secret, message, "sha1") for secret in secrets), signature))

    return run


def _first_element(body: bytes) -> bytes:
    """The text of the first element of a JSON array that was parsed before."""
    text = body.decode()
    start = len(text) - len(text.lstrip(_BLANKS)) + 1
    start += len(text) - start - len(text[start:].lstrip(_BLANKS))
    try:
        _, end = json.JSONDecoder(parse_int=Number, parse_float=Number).raw_decode(text, start)
    except (ValueError, RecursionError):
        raise Refused("body.malformed", "no event") from None
    return text[start:end].encode()


# --- Plivo, Sinch: forms and headers ------------------------------------------------------------------------

_NONCE = re.compile(rb"[A-Za-z0-9_+/=-]{1,100}")


def plivo3(row: Named, context: Context) -> Run:
    """HMAC of the address without query, the sorted query, the sorted form, and a nonce.

    Only the form of a POST is covered. So other methods may have no body, and a POST has a form: the text of a form
    could pass for the end of a query.
    """
    secrets = _secrets(context)

    def run(signed: Signed, now: float) -> None:
        texts = signed.need_header(b"x-plivo-signature-v3").split(b",")
        nonce = signed.need_header(b"x-plivo-signature-v3-nonce")
        if len(texts) > SIGNATURES_MAX:
            raise Refused("signature.too_many", f"more than {SIGNATURES_MAX}")
        found = decoded([text.strip() for text in texts], decode_base64)
        if not _NONCE.fullmatch(nonce):
            raise Refused("header.malformed", "x-plivo-signature-v3-nonce")
        if (signed.request.method == b"POST") != bool(signed.body):
            raise Refused("body.malformed", "a POST has a form, and only a POST has a body")
        message = _plivo_text(signed, nonce)
        right = False
        for secret in secrets:
            expected = hmac.digest(secret, message, "sha256")
            for signature in found:
                right |= compare_digest(expected, signature)
        mismatch_unless(right)

    return run


def _plivo_text(signed: Signed, nonce: bytes) -> bytes:
    query = b"&".join([name + b"=" + value for name, value in sorted(signed.query_pairs)])
    form = b"".join([name + value for name, value in sorted(_text_pairs(signed))]) if signed.body else b""
    text = signed.address.partition(b"?")[0]
    if query or form:
        text += b"?" + query
    if query and form:
        text += b"."
    return text + form + b"." + nonce


_SINCH = re.compile(rb"(?i:application|service) ([^: ]{1,100}):([A-Za-z0-9+/=]{1,100})")


def sinch(row: Named, context: Context) -> Run:
    """HMAC of method, MD5 of the body, type, time and path.

    Authorization names the key, and a secret is `key:secret`.
    """
    check_secrets(context.secrets)
    keys = []
    for index, secret in enumerate(context.secrets, 1):
        name, colon, text = secret.partition(":")
        if not colon or not name:
            raise CompileError("key.malformed", f"secret {index} is not of the form key:secret")
        keys.append((name.encode(), shared_key(text, Key(encoding="base64"), index)))
    past_s = row.past_s or 0.0
    future_s = past_s if row.future_s is None else row.future_s

    def run(signed: Signed, now: float) -> None:
        match = _SINCH.fullmatch(signed.need_header(b"authorization"))
        if match is None:
            raise Refused("signature.malformed", "Authorization is not `application key:signature`")
        signature = decoded([match[2]], decode_base64)[0]
        time = signed.need_header(b"x-timestamp")
        check_window(now - _time(time, "iso8601"), past_s, future_s)
        content = b64encode(md5(signed.body, usedforsecurity=False).digest()) if signed.body else b""
        kind = signed.header(b"content-type") or b""
        message = b"\n".join([signed.request.method, content, kind, b"x-timestamp:" + time, signed.path])
        chosen = [key for name, key in keys if name == match[1]]
        if not chosen:
            raise Refused("key.unknown", "no secret has that key id")
        mismatch_unless(one_of((hmac.digest(key, message, "sha256") for key in chosen), signature))

    return run


# --- signatures inside the body: Unisender Go, Exact Online -------------------------------------------------


def unisender(row: Named, context: Context) -> Run:
    """MD5 of the body in which the API key stands in the signature's place, which is but one."""
    secrets = _secrets(context)

    def run(signed: Signed, now: float) -> None:
        document = signed.json
        auth = document.get("auth") if type(document) is dict else None
        if not isinstance(auth, str) or not re.fullmatch("[0-9a-f]{32}", auth):
            raise Refused("signature.malformed", "auth is no MD5 in hex")
        text = auth.encode()
        if signed.body.count(text) != 1:
            raise Refused("signature.malformed", "auth stands twice")
        bodies = (signed.body.replace(text, secret) for secret in secrets)
        expected = (md5(body, usedforsecurity=False).hexdigest().encode() for body in bodies)
        mismatch_unless(one_of(expected, text))

    return run


_EXACT = re.compile(rb'\{"Content":(.+),"HashCode":"([0-9A-Fa-f]{64})"\}', re.DOTALL)


def exactonline(row: Named, context: Context) -> Run:
    """HMAC of the text of Content as it stands in the body, which has nothing but it and the signature."""
    secrets = _secrets(context)

    def run(signed: Signed, now: float) -> None:
        match = _EXACT.fullmatch(signed.body)
        if match is None or type(signed.json) is not dict or set(signed.json) != {"Content", "HashCode"}:
            raise Refused("signature.malformed", "not Content and HashCode")
        signature = _hex(match[2])
        mismatch_unless(one_of((hmac.digest(secret, match[1], "sha256") for secret in secrets), signature))

    return run


NAMED: Final[dict[str, Callable[[Named, Context], Run]]] = {
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
NEEDS_JSON: Final = frozenset({"adyen", "exactonline", "segment", "sns", "unisender"})
NEEDS_URL: Final = frozenset({"plivo3", "twilio"})
# Public keys: too slow for the loop.
SLOW: Final = frozenset({"ebay", "paypal", "sns"})
# The signature leaves parts of the body open; PayPal's CRC-32 can be kept while the body changes.
OPEN_BODY: Final = frozenset({"adyen", "paypal", "segment"})
