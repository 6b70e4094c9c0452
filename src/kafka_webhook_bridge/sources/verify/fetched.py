"""The named schemes whose public keys are fetched: certificates by address (Amazon SNS, PayPal), a key by id (eBay).

The address stands in the request, so its host is judged first, by a rule and not by what it serves. A right signature
of such a service proves some customer of it: what belongs to the operator is compared, too.
"""

from __future__ import annotations

import re
import zlib
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa

from kafka_webhook_bridge.sources.verify.keys import RSA_BITS_MIN, check_secrets, fits, load_public, signature_right
from kafka_webhook_bridge.sources.verify.model import Named
from kafka_webhook_bridge.sources.verify.request import Number, Signed, exact_json
from kafka_webhook_bridge.sources.verify.schemes import Context, Run, mismatch_unless, need_param
from kafka_webhook_bridge.sources.verify.signatures import decode_base64, decoded, parse_time
from kafka_webhook_bridge.sources.verify.verdict import CompileError, KeyNeeded, Refused

_ARN = re.compile(r"arn:(aws|aws-cn|aws-us-gov):sns:([a-z0-9-]{1,30}):[0-9]{12}:[A-Za-z0-9_.-]{1,256}")
_SNS_DOMAIN: Final = {"aws": "amazonaws.com", "aws-us-gov": "amazonaws.com", "aws-cn": "amazonaws.com.cn"}
_SNS_PATH = r"/SimpleNotificationService-[0-9A-Za-z_-]{1,64}\.pem"
_SNS_FIELDS: Final = {
    "Notification": ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    "SubscriptionConfirmation": ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
    "UnsubscribeConfirmation": ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
}
_SNS_SCHEMES: Final = {"1": "rsa-sha1", "2": "rsa-sha256"}


def sns(row: Named, context: Context) -> Run:
    """RSA over named lines of the body, with a certificate from the region of the topic.

    A right signature proves some customer of AWS, so the topic must be one of the parameter `topic_arn` (several with
    blanks between). Only Message may have several lines, else one field could pass for two.
    """
    topics = need_param(context, "topic_arn").replace(",", " ").split()
    for topic in topics:
        if not _ARN.fullmatch(topic):
            raise CompileError("params.missing", f"topic_arn: {topic!r} is no ARN of an SNS topic")
    store = context.keys

    def run(signed: Signed, now: float) -> None:
        document = signed.json
        if type(document) is not dict:
            raise Refused("body.malformed", "no message")
        topic = document.get("TopicArn")
        if topic not in topics:
            raise Refused("topic.refused", "not one of topic_arn")
        partition, region = _ARN.fullmatch(topic).groups()  # type: ignore[union-attr]
        address = document.get("SigningCertURL")
        host = re.escape(f"sns.{region}.{_SNS_DOMAIN[partition]}")
        if not isinstance(address, str) or not re.fullmatch(f"https://{host}{_SNS_PATH}", address):
            raise Refused("key.host", "the certificate is not from the topic's region")
        fields = _SNS_FIELDS.get(_string(document, "Type") or "")
        scheme = _SNS_SCHEMES.get(_string(document, "SignatureVersion") or "")
        if fields is None or scheme is None:
            raise Refused("body.malformed", "Type or SignatureVersion")
        signature = decoded([(_string(document, "Signature") or "").encode()], decode_base64)[0]
        message = "".join(_sns_line(document, name) for name in fields).encode()
        mismatch_unless(signature_right(_certified(store.certificate(address), address), scheme, signature, message))

    return run


def _string(document: dict[str, Any], name: str) -> str | None:
    value = document.get(name)
    if isinstance(value, Number) and name == "SignatureVersion":
        return value.text
    if value is not None and not isinstance(value, str):
        raise Refused("body.malformed", f"{name} is no text")
    return value


def _sns_line(document: dict[str, Any], name: str) -> str:
    value = _string(document, name)
    if value is None:
        if name == "Subject":
            return ""
        raise Refused("body.malformed", f"no {name}")
    if name != "Message" and "\n" in value:
        raise Refused("body.malformed", f"{name} has two lines")
    return f"{name}\n{value}\n"


def _certified(pem: str | None, address: str) -> rsa.RSAPublicKey:
    if pem is None:
        raise Refused("key.unknown", "the certificate is not there yet", KeyNeeded("certificate", address, ""))
    try:
        key = x509.load_pem_x509_certificate(pem.encode()).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size < RSA_BITS_MIN:
        raise Refused("key.malformed", "no certificate with an RSA key")
    return key


_PAYPAL_ADDRESS = re.compile(
    rb"https://(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.){1,3}paypal\.com/v1/notifications/certs/[A-Za-z0-9_-]{1,100}"
)
_PAYPAL_ID = re.compile(rb"[A-Za-z0-9-]{1,100}")


def paypal(row: Named, context: Context) -> Run:
    """RSA over ids, the time and the CRC-32 of the body, with a certificate from PayPal. A secret is a webhook's id."""
    check_secrets(context.secrets)
    ids = [secret.encode() for secret in context.secrets]
    store = context.keys

    def run(signed: Signed, now: float) -> None:
        transmission = signed.need_header(b"paypal-transmission-id")
        time = signed.need_header(b"paypal-transmission-time")
        address = signed.need_header(b"paypal-cert-url")
        if signed.need_header(b"paypal-auth-algo") != b"SHA256withRSA":
            raise Refused("signature.malformed", "another algorithm than SHA256withRSA")
        signature = decoded([signed.need_header(b"paypal-transmission-sig")], decode_base64)[0]
        if not _PAYPAL_ID.fullmatch(transmission):
            raise Refused("header.malformed", "paypal-transmission-id")
        _check_time(time)
        if not _PAYPAL_ADDRESS.fullmatch(address):
            raise Refused("key.host", "the certificate is not from PayPal")
        key = _certified(store.certificate(address.decode()), address.decode())
        right = False
        for webhook in ids:
            message = b"%s|%s|%s|%d" % (transmission, time, webhook, zlib.crc32(signed.body))
            right |= signature_right(key, "rsa-sha256", signature, message)
        mismatch_unless(right)

    return run


_EBAY_KEY_ID = re.compile(r"[0-9A-Za-z-]{1,64}")
_EBAY_SCHEMES: Final = {"SHA1": "ecdsa-p256-sha1", "SHA256": "ecdsa-p256-sha256"}


def ebay(row: Named, context: Context) -> Run:
    """ECDSA with a key that eBay's API gives by its id; the hash is the one that the API names."""
    store = context.keys

    def run(signed: Signed, now: float) -> None:
        text = decoded([signed.need_header(b"x-ebay-signature")], decode_base64)[0]
        try:
            header = exact_json(text)
        except Refused:
            raise Refused("signature.malformed", "not base64 of JSON") from None
        key_id = header.get("kid") if type(header) is dict else None
        encoded = header.get("signature") if type(header) is dict else None
        if not isinstance(key_id, str) or not isinstance(encoded, str) or not _EBAY_KEY_ID.fullmatch(key_id):
            raise Refused("signature.malformed", "no kid or signature")
        if str(header.get("alg", "ecdsa")).lower() != "ecdsa":
            raise Refused("signature.malformed", "another algorithm than ecdsa")
        signature = decoded([encoded.encode()], decode_base64)[0]
        known = store.ebay(key_id)
        if known is None:
            raise Refused("key.unknown", "the key is not there yet", KeyNeeded("ebay", "", key_id))
        scheme = _EBAY_SCHEMES.get(str(known.get("digest")))
        bare = re.sub(r"-----(?:BEGIN|END) PUBLIC KEY-----|\s", "", str(known.get("key")))
        key = load_public(bare, "spki-base64")
        if scheme is None or key is None or not fits(key, scheme):
            raise Refused("key.malformed", "eBay's answer has no P-256 key")
        mismatch_unless(signature_right(key, scheme, signature, signed.body))

    return run


def _check_time(text: bytes) -> None:
    try:
        parse_time(text, "iso8601", touches=True)
    except ValueError:
        raise Refused("timestamp.malformed", "not as iso8601") from None
