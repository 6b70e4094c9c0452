"""Schemes whose keys are fetched: which hosts may offer a certificate, whose topics count, and what is signed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from token_world import pem, private
from verify_world import b64, by_id, judge, request, request_of, verifier, verifier_of

from kafka_webhook_bridge.sources.verify import KeyNeeded, OfflineKeys, Verdict

# Amazon SNS and PayPal


def sns(changes: dict[str, Any], **more: Any) -> Verdict:
    vector = by_id()["aws-sns/notification-v1"]
    body = json.loads(vector["body"])
    body.update(changes)
    body = {name: value for name, value in body.items() if value is not ...}
    certificates = dict(vector["certs"])
    certificate = next(iter(certificates.values()))
    certificates.update({str(body.get("SigningCertURL")): certificate})
    v = verifier(
        "aws-sns",
        params={"topic_arn": more.pop("topics", vector["params"]["topic_arn"])},
        keys=OfflineKeys(None, certificates),
    )
    return judge(v, request(json.dumps(body)), vector["now"])


def test_sns_takes_certificates_of_the_topics_region_alone() -> None:
    assert sns({}).ok
    name = "SimpleNotificationService-f3ecfb7224c7233fe7bb5f59f96de52f.pem"
    for url in (
        f"http://sns.us-west-2.amazonaws.com/{name}",
        f"https://sns.us-west-2.amazonaws.com.evil.example/{name}",
        f"https://evil.example/{name}",
        f"https://sns.us-west-2.amazonaws.com@evil.example/{name}",
        f"https://u@sns.us-west-2.amazonaws.com/{name}",
        f"https://sns.eu-west-1.amazonaws.com/{name}",
        f"https://sns.us-west-2.amazonaws.com:443/{name}",
        f"https://sns.us-west-2.amazonaws.com:8443/{name}",
        f"https://SNS.us-west-2.amazonaws.com/{name}",
        f"https://sns-us-west-2.amazonaws.com/{name}",
        f"https://snsxus-west-2.amazonaws.com/{name}",
        f"https://s3.us-west-2.amazonaws.com/{name}",
        f"https://xsns.us-west-2.amazonaws.com/{name}",
        f"https://a.sns.us-west-2.amazonaws.com/{name}",
        f"https://sns.us-west-2.amazonaws.com.cn/{name}",
        f"https://sns.us-west-2.amazonaws.com/bucket/{name}",
        f"https://sns.us-west-2.amazonaws.com/../{name}",
        f"https://sns.us-west-2.amazonaws.com/{name}?x",
        f"https://sns.us-west-2.amazonaws.com/{name}#x",
        f"https://sns.us-west-2.amazonaws.com/{name}\n",
        f" https://sns.us-west-2.amazonaws.com/{name}",
        f"https://sns.us-west-2.xn--amazonaws-x.com/{name}",
        f"https://sns.us-west-2.amazonaw\u0455.com/{name}",
        f"https:\\\\sns.us-west-2.amazonaws.com/{name}",
        f"//sns.us-west-2.amazonaws.com/{name}",
        "https://sns.us-west-2.amazonaws.com/",
        "",
        None,
        1,
        [],
        ...,
    ):
        assert sns({"SigningCertURL": url}).code == "key.host", url


def test_sns_takes_the_operators_topics_alone() -> None:
    arn = "arn:aws:sns:us-west-2:123456789012:MyTopic"
    assert sns({}, topics=f"arn:aws:sns:eu-west-1:123456789012:Other {arn}").ok
    assert sns({}, topics=f"{arn}2").code == "topic.refused"
    for topic in (f"{arn}2", arn[:-1], arn.upper(), "", None, [arn], {"a": 1}, 5, ..., f" {arn}"):
        assert sns({"TopicArn": topic}).code == "topic.refused", topic


def test_sns_signs_its_lines() -> None:
    for changes in (
        {"Message": "Hello world"},
        {"MessageId": "x"},
        {"Subject": "S"},
        {"Timestamp": "2012-05-02T00:54:06.656Z"},
        {"SignatureVersion": "2"},
        {"Type": "SubscriptionConfirmation", "Token": "t", "SubscribeURL": "u"},
    ):
        assert sns(changes).code == "signature.mismatch", changes
    for changes in (
        {"SignatureVersion": "3"},
        {"SignatureVersion": ...},
        {"Type": "notification"},
        {"Type": ...},
        {"Message": ...},
        {"Message": None},
        {"Message": ["Hello world!"]},
        {"MessageId": 5},
        {"Signature": ...},
        {"Signature": ""},
        {"Signature": "x"},
        {"Timestamp": ...},
        {"MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324\nSubject\nS"},
        {"Subject": "a\nb"},
        {"Type": "UnsubscribeConfirmation"},
    ):
        assert sns(changes).code in ("body.malformed", "signature.malformed"), changes
    assert sns({"UnsubscribeURL": "https://x"}).ok  # not signed


def test_sns_certificates_are_asked_for() -> None:
    vector = by_id()["aws-sns/notification-v1"]
    v = verifier("aws-sns", params=vector["params"])
    verdict = judge(v, request_of(vector))
    assert verdict.key_needed == KeyNeeded("certificate", json.loads(vector["body"])["SigningCertURL"], "")
    for broken in ("", "x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        url = json.loads(vector["body"])["SigningCertURL"]
        bad = verifier("aws-sns", params=vector["params"], keys=OfflineKeys(None, {url: broken}))
        assert judge(bad, request_of(vector)).code == "key.malformed"


def paypal(**headers: str) -> Verdict:
    vector = by_id()["paypal/own-cert"]
    sent = {**vector["headers"], **{name.replace("_", "-"): value for name, value in headers.items()}}
    certificate = next(iter(vector["certs"].values()))
    v = verifier("paypal", *vector["secrets"], keys=OfflineKeys(None, {sent["PAYPAL-CERT-URL"]: certificate}))
    return judge(v, request(vector["body"], sent), vector["now"])


def test_paypal_takes_certificates_of_paypal_alone() -> None:
    assert paypal().ok
    assert paypal(PAYPAL_CERT_URL="https://api.sandbox.paypal.com/v1/notifications/certs/CERT-1").ok
    path = "/v1/notifications/certs/CERT-1"
    for url in (
        f"http://api.paypal.com{path}",
        f"https://api.paypal.com.evil.example{path}",
        f"https://evilpaypal.com{path}",
        f"https://paypal.com{path}",
        f"https://api.paypal.com@evil.example{path}",
        f"https://u:p@api.paypal.com{path}",
        f"https://api.paypal.com:443{path}",
        f"https://.paypal.com{path}",
        f"https://api.paypal.com.{path}",
        f"https://evil.example/api.paypal.com{path}",
        f"https://API.PAYPAL.COM{path}",
        f"https://api.paypal.com{path}?x",
        f"https://api.paypal.com{path}#x",
        f"https://api.paypal.com{path}/../x",
        "https://api.paypal.com/redirect?to=x",
        f"https://api.paypal.com\\@evil.example{path}",
        f"https://xn--pypal-4ve.com{path}",
        f"https://api.pаypal.com{path}",
        f"https://a..paypal.com{path}",
        f"https://-.paypal.com{path}",
        f"https://api.paypal.com/{path}",
        "x",
        f"https://api.paypal.com%2eevil.example{path}",
    ):
        assert paypal(PAYPAL_CERT_URL=url).code == "key.host", url


def test_paypal_signs_ids_time_and_checksum() -> None:
    assert paypal(PAYPAL_TRANSMISSION_ID="other-id").code == "signature.mismatch"
    assert paypal(PAYPAL_TRANSMISSION_TIME="2015-05-18T15:45:14Z").code == "signature.mismatch"
    assert paypal(PAYPAL_TRANSMISSION_ID="a|b").code == "header.malformed"
    assert paypal(PAYPAL_TRANSMISSION_TIME="yesterday").code == "timestamp.malformed"
    for name in ("SHA1withRSA", "sha256withrsa", "none", "SHA256withECDSA"):
        assert paypal(PAYPAL_AUTH_ALGO=name).code == "signature.malformed"
    assert not verifier_of(by_id()["paypal/own-cert"]).covers_body  # a CRC-32 is no proof of a body


# eBay


def test_ebay() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    der = b64(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    answer = {
        "key": f"-----BEGIN PUBLIC KEY-----{der}-----END PUBLIC KEY-----",
        "algorithm": "ECDSA",
        "digest": "SHA256",
    }
    body = b'{"metadata":{}}'
    proof = b64(key.sign(body, ec.ECDSA(hashes.SHA256())))

    def of(header: Any, known: Any = answer, text: bytes = body, raw: str | None = None) -> Verdict:
        v = verifier("ebay", keys=OfflineKeys(None, None, {"k-1": known} if known else {}))
        return judge(v, request(text, {"X-EBAY-SIGNATURE": raw or b64(json.dumps(header).encode())}))

    good = {"alg": "ecdsa", "kid": "k-1", "signature": proof, "digest": "SHA1"}
    assert of(good).ok  # the API's digest counts, not the request's
    assert of(good, text=body + b" ").code == "signature.mismatch"
    assert of(good, {**answer, "digest": "SHA1"}).code == "signature.mismatch"
    assert of({**good, "kid": "k-2"}).key_needed == KeyNeeded("ebay", "", "k-2")
    for header in (
        {},
        [],
        None,
        "x",
        {**good, "kid": 1},
        {**good, "kid": ""},
        {**good, "kid": "../x"},
        {**good, "signature": None},
        {**good, "signature": "x"},
        {**good, "signature": ""},
        {**good, "alg": "none"},
        {**good, "alg": "hmac"},
        {**good, "alg": 1},
        {**good, "kid": "k" * 65},
    ):
        assert of(header).code == "signature.malformed", header
    for raw in (
        "x",
        "{}",
        b64(b"\xff"),
        b64(b'{"kid":"k-1","kid":"k-1","signature":"' + proof.encode() + b'"}'),
        b64(json.dumps(good).encode()).rstrip("=") + "!",
    ):
        assert of(None, raw=raw).code == "signature.malformed"
    for known in ({**answer, "digest": "MD5"}, {**answer, "key": "x"}, {**answer, "key": None}, {"x": 1}):
        assert of(good, known).code == "key.malformed"


@pytest.mark.parametrize("digest", [hashes.SHA1(), hashes.SHA512()])
def test_an_rsa_signature_of_another_hash_does_not_count(digest: Any) -> None:
    signature = private("RSA").sign(b"b", padding.PKCS1v15(), digest)
    v = verifier("highlevel", pem("RSA"))
    assert judge(v, request("b", {"x-wh-signature": b64(signature)})).code == "signature.mismatch"
    good = private("RSA").sign(b"b", padding.PKCS1v15(), hashes.SHA256())
    assert judge(v, request("b", {"x-wh-signature": b64(good)})).ok
    assert not judge(v, request("b", {"x-wh-signature": b64(b"\0" + good)})).ok
