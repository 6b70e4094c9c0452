"""Hand-shakes over HTTP: each is answered as its sender wants, and writes nothing to Kafka."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
from cryptography.x509.oid import NameOID
from senders_world import NOW, VECTORS, Publisher, by_id, publishing, settled, write_config

from bridge import Answer, Serve, consume, eventually, request, serving
from kafka_webhook_bridge.kafka.admin import Admin
from kafka_webhook_bridge.stack import Stack

PAIRS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "data/providers/handshakes.json").read_text("utf-8")
)
URL = "https://hooks.example.com/in/hook"
ARN = "arn:aws:sns:us-west-2:123456789012:MyTopic"
CERTIFICATE = "https://sns.us-west-2.amazonaws.com/SimpleNotificationService-0123456789abcdef.pem"
SUBSCRIBE = f"https://sns.us-west-2.amazonaws.com/?Action=ConfirmSubscription&TopicArn={ARN}&Token=t0"

# Answers to events, not hand-shakes: what is asked is an event, and lands.
EVENTS = {"adyen/standard-ack", "dropbox-sign/ack", "ms-teams/answer", "salesforce/outbound-message-ack"}
PROFILES = {"adyen": "adyen-standard"}
PARAMS = {
    "meta": {"verify_token": "meatyhamhock"},
    "oura": {"verify_token": "my-token"},
    "websub": {"topic": "https://example.com/feed"},
    "aws-sns": {"topic_arn": ARN},
}
SECRETS = {"notion": ["secret_tok"], "salesforce": ["CN=proxy.salesforce.com"], "google-channel": ["chan-token"]}

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
ED25519 = ed25519.Ed25519PrivateKey.generate()


def source_of(pair: dict[str, Any], topic: str) -> dict[str, Any]:
    provider = pair["provider"]
    profile = PROFILES.get(provider, provider)
    valid = next((v["secrets"] for v in VECTORS if v["profile"] == profile and v["expected"]), [])
    secrets = pair.get("secrets") or SECRETS.get(provider) or valid or (["a-secret"] if provider != "aws-sns" else [])
    if provider == "discord":
        raw = ED25519.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        secrets = [raw.hex()]
    return {
        "profile": profile, "secrets": secrets, "params": PARAMS.get(provider, {}), "public_url": URL, "topic": topic,
    }  # fmt: skip


def asked(pair: dict[str, Any]) -> tuple[str, str, dict[str, str], bytes]:
    """Method, query, headers and body of a pair, signed where its sender signs and the pair leaves it out."""
    given = dict(pair["request"])
    headers = dict(given.get("headers", {}))
    body = given.get("body", "").encode()
    if (reference := given.get("body_ref")) and pair["provider"] != "aws-sns":
        vector = by_id()[reference.removeprefix("vector ")]
        headers, body = {**vector["headers"], **headers}, vector["body"].encode()
    if pair["provider"] == "aws-sns":
        body = sns("SubscriptionConfirmation")
    elif pair["provider"] == "discord":
        headers = {
            "X-Signature-Ed25519": ED25519.sign(f"{NOW}".encode() + body).hex(),
            "X-Signature-Timestamp": f"{NOW}",
        }
    elif pair["id"] == "twitch/revocation":
        time = datetime.fromtimestamp(NOW, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        digest = hmac.digest(SECRET_OF_TWITCH, b"m1" + time.encode() + body, "sha256").hex()
        headers |= {
            "Twitch-Eventsub-Message-Id": "m1", "Twitch-Eventsub-Message-Timestamp": time,
            "Twitch-Eventsub-Message-Signature": f"sha256={digest}",
        }  # fmt: skip
    elif pair["provider"] == "salesforce":
        headers["X-SSL-Client-S-DN"] = SECRETS["salesforce"][0]
    return given["method"], given.get("url", "").partition("?")[2], headers, body


SECRET_OF_TWITCH = next(v["secrets"][0] for v in VECTORS if v["id"] == "twitch/valid").encode()


def sns(kind: str, **members: str) -> bytes:
    """A message of Amazon SNS, signed with our key."""
    message = {
        "Type": kind, "MessageId": "m1", "Token": "t0", "TopicArn": ARN, "Message": "You have chosen to subscribe",
        "SubscribeURL": SUBSCRIBE, "Timestamp": "2025-10-09T08:53:20.000Z", "SignatureVersion": "2",
        "SigningCertURL": CERTIFICATE, **members,
    }  # fmt: skip
    names = ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type")
    text = "".join(f"{name}\n{message[name]}\n" for name in names).encode()
    message["Signature"] = base64.b64encode(RSA.sign(text, padding.PKCS1v15(), hashes.SHA256())).decode()
    return json.dumps(message).encode()


def certificate() -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.amazonaws.com")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(RSA.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    return builder.sign(RSA, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def wire(name: str, method: str, query: str, headers: dict[str, str], body: bytes) -> bytes:
    lines = [f"{key}: {value}" for key, value in headers.items()]
    return request(f"/{name}" + (f"?{query}" if query else ""), body, *lines, method=method, login="")


@pytest.fixture
def publisher(folder: Path) -> Iterator[Publisher]:
    with publishing(folder) as found:
        found.pages[CERTIFICATE.removeprefix("https://")] = 200, certificate()
        found.pages["sns.us-west-2.amazonaws.com/"] = 200, b"<ConfirmSubscriptionResponse/>"
        yield found


def test_all_hand_shakes_over_http(stack: Stack, folder: Path, topic: str, publisher: Publisher) -> None:
    sources = {f"h{index}": source_of(pair, topic) for index, pair in enumerate(PAIRS)}
    sources["last"] = {"auth": "none", "topic": topic}
    wrong = []
    with serving(
        stack, folder, config=write_config(folder, sources, trusted_proxies=["127.0.0.1/32"]), **publisher.environ
    ) as server:
        for index, pair in enumerate(PAIRS):
            server.set_time(pair.get("now", NOW))
            method, query, headers, body = asked(pair)
            data = wire(f"h{index}", method, query, headers, body)
            answer = head(server, data) if method == "HEAD" else settled(server, data)
            if why := differs(pair["response"], answer):
                wrong.append((pair["id"], why, answer))
            assert ("kwb-event-id" in answer.headers) == (pair["id"] in EVENTS), pair["id"]
        assert wrong == []
        eventually(lambda: "sns.us-west-2.amazonaws.com/" in publisher.asked, "the subscription is confirmed")
        eventually(lambda: server.said("hand-shake confirmed", host="sns.us-west-2.amazonaws.com"), "it is said")
        assert server.said("notice of a sender", notice="Twitch revoked the subscription")
        assert server.ask(request("/last", b"sentinel", login="")).status == 200
        balance = server.balance()
        errors = sum(pair["response"]["status"] >= 400 for pair in PAIRS)
        assert balance["handshakes"] == len(PAIRS) - len(EVENTS) - errors
        assert balance["acked"] == len(EVENTS) + 1
        assert balance.pop("received") == sum(balance.values())
    consume(stack.kafka, topic, len(EVENTS) + 1)
    ends = Admin(stack.kafka.settings).offsets([topic])[topic].values()
    assert sum(end - start for start, end in ends) == len(EVENTS) + 1


def differs(wanted: dict[str, Any], answer: Answer) -> str:
    """What of an answer is not as the pair says; empty when it all is."""
    if answer.status != wanted["status"]:
        return "status"
    if "content_type" in wanted and answer.headers.get("content-type") != wanted["content_type"]:
        return "content type"
    if "content_type" in wanted and answer.headers.get("x-content-type-options") != "nosniff":
        return "nosniff"
    if answer.status < 300 and answer.body.decode() != wanted.get("body", "") and wanted.get("body") is not None:
        return "body"
    missing = [name for name, value in wanted.get("headers", {}).items() if answer.headers.get(name.lower()) != value]
    return f"headers {missing}" if missing else ""


def head(server: Serve, data: bytes) -> Answer:
    """An answer to HEAD, which has no body whatever its length says."""
    with server.open() as client:
        text = client.send(data).half_close().rest()
    first, _, rest = text.partition(b"\r\n\r\n")
    assert rest == b""
    lines = first.decode().split("\r\n")
    pairs = (line.partition(": ") for line in lines[1:])
    return Answer(int(lines[0].split()[1]), {name.lower(): value for name, _, value in pairs}, b"")
