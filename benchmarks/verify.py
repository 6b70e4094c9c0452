"""verify: what it costs to know who sent a webhook, one case for each scheme. See README.md.

    python benchmarks/verify.py [--quick] [--cases hmac,jwt] [--runs N]

No server and no network: a verifier is made once, as when a configuration loads, and asked again and again.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from rich.console import Console
from rich.table import Table

import results
from archive import BODY_BYTES, HEADERS, body
from kafka_webhook_bridge.body import parse_json
from kafka_webhook_bridge.event import Request
from kafka_webhook_bridge.sources.catalog import Catalog
from kafka_webhook_bridge.sources.verify import OfflineKeys
from kafka_webhook_bridge.sources.verify import compile as compile_verifier

NOW = 1_760_000_000
SECRET = "a-secret-of-thirty-two-characters"
BODY = body(0, random.Random(7))
VECTORS = results.ROOT / "tests" / "data" / "providers" / "vectors.json"
console = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class Profile:
    """How long each case is asked in one run, and how often in all."""

    name: str
    seconds: float
    runs: int


FULL = Profile("verify", 0.5, 9)
QUICK = Profile("verify-quick", 0.1, 3)


@dataclass(frozen=True, slots=True)
class Case:
    """A valid request of a catalog's profile, and what it is verified with."""

    profile: str
    request: Request
    secrets: Sequence[str]
    params: Mapping[str, str]
    public_url: str
    keys: OfflineKeys
    now: float


def case(profile: str, secret: str, signed: Mapping[str, str], keys: Sequence[Mapping[str, Any]] | None = None) -> Case:
    """1 KiB of JSON with twelve header lines and those that prove the sender."""
    headers = [*HEADERS, *((name.encode(), value.encode()) for name, value in signed.items())]
    request = Request(b"POST", b"/in", None, headers, BODY, "127.0.0.1")
    return Case(profile, request, [secret] if secret else [], {}, "https://hooks.example.com", OfflineKeys(keys), NOW)


def vector_case(vector: Mapping[str, Any]) -> Case:
    """A vector of the tests, of the size that its provider gave it."""
    url = urlsplit(vector["url"])
    params = dict(vector.get("params", {}))
    ebay = params.pop("keys", None)
    headers = [*HEADERS, *((name.encode(), value.encode()) for name, value in vector["headers"].items())]
    names = [name.lower() for name, _ in headers]
    headers = [pair for index, pair in enumerate(headers) if pair[0].lower() not in names[index + 1 :]]
    query = url.query.encode() if "?" in vector["url"] else None
    request = Request(
        vector["method"].encode(), url.path.encode(), query, headers, vector["body"].encode(), "127.0.0.1"
    )
    keys = OfflineKeys(vector.get("jwks", {}).get("keys"), vector.get("certs"), ebay)
    base = f"{url.scheme}://{url.netloc}"
    return Case(vector["profile"], request, vector["secrets"], params, base, keys, vector["now"])


def mac(text: bytes, name: str = "sha256") -> bytes:
    return hmac.digest(SECRET.encode(), text, name)


def b64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def token(algorithm: str, sign: Callable[[bytes], bytes], claims: Mapping[str, Any], **header: Any) -> str:
    parts = [b64url(json.dumps(part).encode()) for part in ({"alg": algorithm, "typ": "JWT", **header}, claims)]
    text = ".".join(parts)
    return f"{text}.{b64url(sign(text.encode()))}"


def made_cases() -> dict[str, Case]:
    """The schemes that sign any body."""
    rsa_key, ec_key = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())
    ed_key = ed25519.Ed25519PrivateKey.generate()
    stamp = str(NOW)
    digest = hashlib.sha256(BODY).hexdigest()

    def pem(key: Any) -> str:
        return str(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())

    def rsa_sign(text: bytes, algorithm: hashes.HashAlgorithm = hashes.SHA256()) -> bytes:  # noqa: B008
        return rsa_key.sign(text, padding.PKCS1v15(), algorithm)

    def ec_raw(text: bytes) -> bytes:
        r, s = decode_dss_signature(ec_key.sign(text, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    point, numbers = ec_key.public_key().public_numbers(), rsa_key.public_key().public_numbers()
    ec_jwk = {"kty": "EC", "crv": "P-256", "kid": "k", "x": b64url(point.x.to_bytes(32, "big")),
              "y": b64url(point.y.to_bytes(32, "big"))}  # fmt: skip
    rsa_jwk = {"kty": "RSA", "kid": "k", "n": b64url(numbers.n.to_bytes(256, "big")), "e": "AQAB"}
    id_time = f"msg_1.{stamp}.".encode()
    svix = base64.b64encode(hmac.digest(b"k" * 32, id_time + BODY, "sha256")).decode()
    spki = base64.b64encode(ec_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()
    ec_proof = base64.b64encode(ec_key.sign(stamp.encode() + BODY, ec.ECDSA(hashes.SHA256()))).decode()
    return {
        "none": case("none", "", {}),
        "hmac": case("github", SECRET, {"X-Hub-Signature-256": f"sha256={mac(BODY).hex()}"}),
        "hmac, time in the header": case(
            "stripe", SECRET, {"Stripe-Signature": f"t={stamp},v1={mac(f'{stamp}.'.encode() + BODY).hex()},v0=00"}
        ),
        "hmac, id and time": case(
            "standard-webhooks-v1", "whsec_" + base64.b64encode(b"k" * 32).decode(),
            {"webhook-id": "msg_1", "webhook-timestamp": stamp, "webhook-signature": f"v1,{svix}"},
        ),
        "hmac, the address signed": case(
            "square", SECRET,
            {"x-square-hmacsha256-signature": base64.b64encode(mac(b"https://hooks.example.com/in" + BODY)).decode()},
        ),
        "digest": case(
            "hubspot-v1", SECRET, {"X-HubSpot-Signature": hashlib.sha256(SECRET.encode() + BODY).hexdigest()}
        ),
        "token": case("gitlab-token", SECRET, {"X-Gitlab-Token": SECRET}),
        "basic": case(
            "postmark", "user:" + SECRET,
            {"Authorization": "Basic " + base64.b64encode(b"user:" + SECRET.encode()).decode()},
        ),
        "ed25519": case(
            "discord", ed_key.public_key().public_bytes_raw().hex(),
            {"X-Signature-Ed25519": ed_key.sign(stamp.encode() + BODY).hex(), "X-Signature-Timestamp": stamp},
        ),
        "ecdsa-p256-sha256": case(
            "sendgrid", spki,
            {"X-Twilio-Email-Event-Webhook-Signature": ec_proof, "X-Twilio-Email-Event-Webhook-Timestamp": stamp},
        ),
        "rsa-sha256": case("highlevel", pem(rsa_key), {"x-wh-signature": base64.b64encode(rsa_sign(BODY)).decode()}),
        "jwt HS256": case(
            "netlify", SECRET, {"X-Webhook-Signature": token("HS256", mac, {"iss": "netlify", "sha256": digest})}
        ),
        "jwt ES256, keys fetched": case(
            "plaid", "",
            {"Plaid-Verification": token("ES256", ec_raw, {"iat": NOW, "request_body_sha256": digest}, kid="k")},
            [ec_jwk],
        ),
        "jwt RS256": case(
            "gong", pem(rsa_key),
            {"Authorization": token("RS256", rsa_sign, {
                "webhook_url": "https://hooks.example.com/in", "body_sha256": digest, "iat": NOW, "exp": NOW + 300})},
        ),
        "jws_detached": case(
            "fireblocks", "", {"Fireblocks-Webhook-Signature": _detached(rsa_sign)}, [rsa_jwk]
        ),
    }  # fmt: skip


def _detached(sign: Callable[[bytes, hashes.HashAlgorithm], bytes]) -> str:
    head = b64url(json.dumps({"alg": "RS512", "kid": "k"}).encode())
    return f"{head}..{b64url(sign(f'{head}.{b64url(BODY)}'.encode(), hashes.SHA512()))}"


# The schemes that sign what their own bodies say, by a vector each.
VECTOR_CASES = {
    "token_each": "ms-graph/valid",
    "hmac, signature in the body": "mailgun/body-not-covered",
    "any": "polar/valid",
    "twilio": "twilio/http-port-kept",
    "adyen": "adyen/standard",
    "braintree": "braintree/notification",
    "contentful": "contentful/query",
    "segment": "segment/batch-first-event",
    "sns": "aws-sns/notification-v1",
    "paypal": "paypal/own-cert",
    "plivo3": "plivo-v3/v3",
    "ebay": "ebay/sdk-test",
    "unisender": "unisender-go/anymail-formula",
    "sinch": "sinch-voice/voice",
    "exactonline": "exact-online/hashcode",
}


def cases(wanted: str) -> dict[str, Case]:
    """The cases whose names begin with one of the comma separated words; all of them without any."""
    vectors = {vector["id"]: vector for vector in json.loads(VECTORS.read_text("utf-8"))["vectors"]}
    found = {**made_cases(), **{name: vector_case(vectors[key]) for name, key in VECTOR_CASES.items()}}
    words = tuple(word.strip() for word in wanted.split(",") if word.strip())
    return {name: one for name, one in found.items() if not words or name.startswith(words)}


def measure(catalog: Catalog, one: Case, seconds: float) -> float:
    """µs of one verdict: the median of batches that fill the time. Parsing the body for the verifier counts."""
    verifier = compile_verifier(
        catalog.load(one.profile), one.secrets, params=one.params, public_url=one.public_url, keys=one.keys
    )
    request, now, needs_json = one.request, one.now, verifier.needs_json
    verdict = verifier(request, parse_json(request.body), now)
    if not verdict.ok:
        raise RuntimeError(f"{one.profile}: {verdict}")
    batches = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(100):
            verifier(request, parse_json(request.body) if needs_json else None, now)
        batches.append((time.perf_counter() - start) * 10_000)
    return round(sorted(batches)[len(batches) // 2], 2)


def compile_all(catalog: Catalog) -> float:
    """ms to make a verifier of each profile's first valid vector, as a configuration with all of them would."""
    vectors = json.loads(VECTORS.read_text("utf-8"))["vectors"]
    firsts = {vector["profile"]: vector_case(vector) for vector in reversed(vectors) if vector["expected"]}
    rows = {name: catalog.load(name) for name in firsts}
    start = time.perf_counter()
    for name, one in firsts.items():
        compile_verifier(rows[name], one.secrets, params=one.params, public_url=one.public_url, keys=one.keys)
    return round((time.perf_counter() - start) * 1000, 1)


def show(found: Mapping[str, Case], runs: Mapping[str, Sequence[float]], compiled_ms: Sequence[float]) -> None:
    """The table for people, on standard output."""
    table = Table("scheme", "profile", "body", "a verdict", "lowest", "highest")
    for name, values in runs.items():
        one = found[name]
        middle = results.spread(values)["median"]
        times = [f"{value:.1f} µs" for value in (middle, min(values), max(values))]
        table.add_row(name, one.profile, f"{len(one.request.body)} B", *times)
    out = Console(width=max(100, console.width))
    out.print(table)
    out.print(f"verifiers of all profiles that have a vector: {results.spread(compiled_ms)['median']} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a quarter of a minute")
    parser.add_argument("--runs", type=int, help="runs of all cases")
    parser.add_argument("--cases", default="", help="comma separated beginnings of names, such as hmac,jwt")
    args = parser.parse_args()
    profile = QUICK if args.quick else FULL
    machine = results.machine()
    catalog, found = Catalog(), cases(args.cases)
    runs: dict[str, list[float]] = {name: [] for name in found}
    compiled_ms = []
    for _ in range(args.runs or profile.runs):
        for name, one in found.items():
            runs[name].append(measure(catalog, one, profile.seconds))
        compiled_ms.append(compile_all(catalog))
    facts = {
        **results.commit(),
        "machine": machine,
        "load": {"body_bytes": BODY_BYTES, "request_headers": len(HEADERS), "seconds_per_case": profile.seconds},
        "summary": {name: {"unit": "us_per_verdict", **results.spread(values)} for name, values in runs.items()},
        "compile_all_ms": results.spread(compiled_ms),
        "runs": runs,
    }
    path = results.write(profile.name, facts)
    show(found, runs, compiled_ms)
    console.print(f"written: {path.relative_to(results.ROOT)}")


if __name__ == "__main__":
    main()
