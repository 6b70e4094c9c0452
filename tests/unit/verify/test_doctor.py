"""The doctor: each thing that usually goes wrong is done to a signed request, and must be found and named."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from verify_world import CATALOG, NOW, VALID, VECTORS, request_of

from kafka_webhook_bridge.event import Request
from kafka_webhook_bridge.sources.verify import CODES, changes, doctor
from kafka_webhook_bridge.sources.verify.advice import ADVICE
from kafka_webhook_bridge.sources.verify.doctor import Diagnosis, Examined, Row, duration, examine
from kafka_webhook_bridge.sources.verify.identity import Identity, forged, make_identity
from kafka_webhook_bridge.sources.verify.sign import compile_signer

BASE = "https://hooks.example.com"
SECRET = "8f3c0a51b2d94e6f"
BODY = b'{"id":820982911946154508,"total":"2.00","note":"caf\xc3\xa9 <b>&</b> a/b","price":2.00}'
ROWS = [Row(name, CATALOG.load(name).verify.model_dump(by_alias=True, exclude_unset=True)) for name in CATALOG.names()]


def sign(
    name: str, body: bytes = BODY, *, path: bytes = b"/in", query: bytes | None = None, base: str = BASE,
    now: float = NOW, kind: bytes = b"application/json", secret: str = SECRET,
) -> Request:  # fmt: skip
    """A request as the sender sends it."""
    row = CATALOG.load(name).verify
    identity = make_identity(row, secret=secret)
    headers = [(b"Content-Type", kind), (b"Host", base.partition("://")[2].encode())]
    return compile_signer(row, identity, public_url=base)(
        Request(b"POST", path, query, headers, body, ""), now, "u" * 32
    )


def look(name: str, request: Request, *, secret: str = SECRET, **changed: Any) -> Diagnosis:
    """What the doctor says of the request that came."""
    facts: dict[str, Any] = {
        "profile": name,
        "table": CATALOG.load(name).verify.model_dump(by_alias=True, exclude_unset=True),
        "request": request,
        "secrets": [secret],
        "labels": ["the secret"],
        "base": BASE,
        "params": {},
        "keys": Identity("").keys,
        "now": NOW,
        "others": {},
    }
    return examine(Examined(**{**facts, **changed}), ROWS)


def proved(found: Diagnosis) -> list[str]:
    return [finding.code for finding in found.findings if finding.proved]


def test_what_is_right_has_no_findings() -> None:
    assert look("shopify", sign("shopify")) == ((True, "ok", "", None), [], "the secret", 1)


PRETTY = json.dumps(
    {"id": 8, "name": "café", "a": [1, 2.50, {"b": {}}], "empty": []}, indent=2, ensure_ascii=False
).replace("2.5", "2.50")
GO = b'{"b":1,"a":"\\u003cb\\u003e \\u0026"}'
PHP = rb'{"url":"https:\/\/shop.example\/a","name":"caf\u00e9"}'

BODIES: list[tuple[str, bytes, bytes]] = [
    ("body.newline_added", BODY, BODY + b"\n"),
    ("body.newline_added", BODY, BODY + b"\r\n"),
    ("body.newline_lost", BODY + b"\n", BODY),
    ("body.newline_lost", BODY + b"\r\n", BODY),
    ("body.crlf", b'{"a":1,\n"b":2}', b'{"a":1,\r\n"b":2}'),
    ("body.lf", b'{"a":1,\r\n"b":2}', b'{"a":1,\n"b":2}'),
    ("body.bom_added", BODY, b"\xef\xbb\xbf" + BODY),
    ("body.bom_lost", b"\xef\xbb\xbf" + BODY, BODY),
    ("body.json_blanks", PRETTY.encode(), b"".join(PRETTY.encode().split())),
    ("body.json_blanks", b'{"price": 2.00, "n": 1e5}', b'{"price":2.00,"n":1e5}'),
    ("body.json_escapes", json.dumps({"n": "café"}).encode(), '{"n":"café"}'.encode()),
    ("body.json_order", b'{"a":1,"b":2}', b'{"b":2,"a":1}'),
    ("body.json_escapes", GO, b'{"b":1,"a":"<b> &"}'),
    ("body.json_escapes", PHP, '{"url":"https://shop.example/a","name":"café"}'.encode()),
    ("body.charset", "{\"n\":\"é\"}".encode("latin-1"), "{\"n\":\"é\"}".encode()),
    ("body.empty", b"", BODY),
]  # fmt: skip


@pytest.mark.parametrize(("code", "sent", "came"), BODIES, ids=[f"{code}-{n}" for n, (code, *_) in enumerate(BODIES)])
def test_a_body_that_was_changed_on_the_way(code: str, sent: bytes, came: bytes) -> None:
    found = look("shopify", sign("shopify", sent)._replace(body=came))
    assert found.verdict.code == "signature.mismatch"
    assert code in proved(found)


def test_forms_that_were_decoded_or_written_anew() -> None:
    kind = b"application/x-www-form-urlencoded"
    sent = b"payload=%7B%22a%22%3A%22x+y%22%7D"
    for came in (b"payload=%7B%22a%22%3A%22x%20y%22%7D", b'payload={"a":"x y"}', sent.lower().replace(b"%7b", b"%7b")):
        request = sign("shopify", sent, kind=kind)._replace(body=came)
        assert proved(look("shopify", request))[0].startswith("body.form_"), came


def test_the_end_of_the_body_is_told_by_its_length() -> None:
    request = sign("shopify")
    request = request._replace(
        body=request.body + b"   \n\n", headers=[*request.headers, (b"Content-Length", b"%d" % len(BODY))]
    )
    found = look("shopify", request)
    assert proved(found)[0] == "body.longer"
    assert "5 bytes longer" in found.findings[0].what


def test_a_compressed_body() -> None:
    packed = next(body for change, body in changes.bodies(sign("shopify")) if change.code == "body.uncompressed")
    assert proved(look("shopify", sign("shopify")._replace(body=packed))) == ["body.compressed"]
    assert "body.uncompressed" in proved(look("shopify", sign("shopify", packed)._replace(body=BODY)))


SECRETS: list[tuple[str, str, str]] = [
    ("secret.blanks", SECRET, f" {SECRET}\n"),
    ("secret.newline", f"{SECRET}\n", SECRET),
    ("secret.quotes", SECRET, f'"{SECRET}"'),
    ("secret.percent", "a+b/c==", "a%2Bb%2Fc%3D%3D"),
    ("secret.entities", "a&b", "a&amp;b"),
    ("secret.entities", "a&amp;b", "a&b"),
    ("secret.prefix", SECRET, f"whsec_{SECRET}"),
    ("secret.prefix", f"whsec_{SECRET}", SECRET),
    ("secret.case", SECRET, SECRET.upper()),
]


@pytest.mark.parametrize(("code", "theirs", "ours"), SECRETS)
def test_a_secret_that_was_copied_wrongly(code: str, theirs: str, ours: str) -> None:
    found = look("stripe", sign("stripe", secret=theirs), secret=ours)
    assert code in proved(found)
    assert all(theirs not in finding.what + finding.do for finding in found.findings)


def encoded_with(secret: str, key: bytes) -> Request:
    """A request as a sender signs it that takes `key` for the key."""
    digest = base64.b64encode(hmac.digest(key, BODY, "sha256"))
    return Request(b"POST", b"/in", None, [(b"X-Shopify-Hmac-Sha256", digest)], BODY, "")


@pytest.mark.parametrize(
    ("secret", "key"),
    [
        ("c2VjcmV0LWtleS1vZi0yNC1ieXRlcw==", b"secret-key-of-24-bytes"),
        ("whsec_c2VjcmV0LWtleS1vZi0yNC1ieXRlcw==", b"secret-key-of-24-bytes"),
        ("0a0b0c0d", b"\n\x0b\x0c\r"),
    ],
)
def test_a_secret_that_is_read_in_another_way(secret: str, key: bytes) -> None:
    found = look("shopify", encoded_with(secret, key), secret=secret)
    assert proved(found) == ["secret.encoding"]


def test_the_secret_of_another_source_and_which_of_several_is_right() -> None:
    request = sign("shopify")
    found = look("shopify", request, secret="another", others={"secret 1 of shop-de": SECRET})
    assert proved(found) == ["secret.other"]
    assert "secret 1 of shop-de" in found.findings[0].what
    both = look("shopify", request, secrets=["another", SECRET], labels=["OLD", "NEW"])
    assert both.verdict.ok
    assert both.secret == "NEW"


URLS: list[tuple[dict[str, Any], Callable[[Request], Request], str]] = [
    ({"base": "http://hooks.example.com"}, lambda r: r, BASE),
    ({}, lambda r: r, "http://hooks.example.com"),
    ({"base": "https://hooks.example.com:443"}, lambda r: r, BASE),
    ({}, lambda r: r, "https://hooks.example.com:8080"),
    ({"path": b"/in/"}, lambda r: r._replace(path=b"/in"), BASE),
    ({"path": b"/in"}, lambda r: r._replace(path=b"/in/"), BASE),
    ({"query": b"a=1&b=2&c=3"}, lambda r: r._replace(query=b"c=3&a=1&b=2"), BASE),
    ({"query": None}, lambda r: r._replace(query=b"trace=1"), BASE),
    ({"path": b"/in"}, lambda r: r._replace(path=b"/prefix/in"), BASE),
    ({"path": b"/in"}, lambda r: r, f"{BASE}/prefix"),
    ({"base": "https://shop.example"}, lambda r: r, "https://internal.example"),
    ({"base": "https://www.shop.example"}, lambda r: r._replace(headers=[h for h in r.headers if h[0] != b"Host"]),
     "https://shop.example"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(URLS)))
def test_an_address_that_a_proxy_changed(number: int) -> None:
    theirs, change, ours = URLS[number]
    came = change(sign("square", **theirs))
    found = look("square", came, base=ours)
    assert proved(found) == ["url.other"]
    base, path, query = theirs.get("base", BASE), theirs.get("path", b"/in"), theirs.get("query")
    assert base + path.decode() + (f"?{query.decode()}" if query else "") in found.findings[0].what


@pytest.mark.parametrize(
    ("name", "theirs", "words"),
    [
        ("stripe", NOW - 900, "15.0 minutes (900 s) before"),
        ("slack", NOW + 7200, "2.0 hours (7200 s) after"),
        ("contentful", NOW - 95, "95 s before"),
        ("standard-webhooks-v1", NOW - 86400 * 3, "3.0 days (259200 s) before"),
    ],
)
def test_a_clock_that_is_wrong_or_a_request_that_is_old(name: str, theirs: float, words: str) -> None:
    secret = {"standard-webhooks-v1": "whsec_" + base64.b64encode(b"k" * 24).decode()}.get(name, SECRET)
    found = look(name, sign(name, now=theirs, secret=secret), secret=secret)
    assert found.verdict.code in ("timestamp.old", "timestamp.future")
    assert proved(found) == [found.verdict.code]
    assert words in found.findings[0].what


def test_an_old_request_with_another_fault_tells_both() -> None:
    found = look("slack", sign("slack", now=NOW - 900)._replace(body=BODY + b"\n"))
    assert proved(found) == ["body.newline_added", "timestamp.old"]


def test_an_expired_token() -> None:
    found = look("livekit", sign_jwt(NOW - 4000), params={"issuer": "kwb-test-issuer"})
    assert found.verdict.code == "token.expired"
    assert found.findings[0].code == "token.expired"


def sign_jwt(now: float) -> Request:
    return sign("livekit", now=now)


OTHERS = [
    ("github", "github-sha1"), ("github", "bitbucket"), ("zoom", "slack"), ("hubspot-v1", "hubspot-v3"),
    ("mailerlite", "greenhouse"), ("clickup", "segment"), ("gitlab-token", "gitlab-signing"),
]  # fmt: skip


@pytest.mark.parametrize(("configured", "real"), OTHERS)
def test_the_profile_of_another_sender(configured: str, real: str) -> None:
    secret = "whsec_" + base64.b64encode(b"k" * 24).decode() if real == "gitlab-signing" else SECRET
    found = look(configured, sign(real, secret=secret), secret=secret)
    what = " ".join(finding.what for finding in found.findings if finding.proved)
    assert real in what or "SHA-1" in what, found
    assert len(found.findings) <= 3


def test_a_hash_or_encoding_that_the_row_does_not_say() -> None:
    digest = hmac.digest(SECRET.encode(), BODY, "sha1").hex().encode()
    found = look("clickup", Request(b"POST", b"/in", None, [(b"X-Signature", digest)], BODY, ""), others={})
    assert "signature.form" in proved(found)


@pytest.mark.parametrize("age_s", [0, 9_000])
def test_times_in_another_unit(age_s: int) -> None:
    moment = (NOW - age_s) * 1000
    digest = hmac.digest(SECRET.encode(), b"v0:%d:%s" % (moment, BODY), "sha256").hex().encode()
    headers = [(b"X-Slack-Request-Timestamp", b"%d" % moment), (b"X-Slack-Signature", b"v0=" + digest)]
    found = look("slack", sign("slack")._replace(headers=headers))
    assert found.verdict.code == "timestamp.malformed"
    assert proved(found)[0] == "timestamp.format"


def test_headers_of_a_record_and_quotes() -> None:
    request = sign("shopify")
    renamed = [(b"http_" + name.lower(), value) for name, value in request.headers]
    assert proved(look("shopify", request._replace(headers=renamed))) == ["header.names"]
    quoted = [(name, b'"' + value + b'"') for name, value in request.headers]
    assert proved(look("shopify", request._replace(headers=quoted))) == ["header.quotes"]


def test_two_things_at_once() -> None:
    found = look("shopify", sign("shopify")._replace(body=BODY + b"\n"), secret=f"{SECRET}\n")
    assert sorted(proved(found)) == ["body.newline_added", "secret.blanks"]
    found = look("square", sign("square", base="http://hooks.example.com")._replace(body=BODY + b"\n"))
    assert sorted(proved(found)) == ["body.newline_added", "url.other"]


def test_hints_where_nothing_is_proved() -> None:
    missing = look("shopify", Request(b"POST", b"/in", None, [(b"X-Hub-Signature", b"sha1=00")], BODY, ""))
    assert missing.verdict.code == "header.missing"
    assert "X-Hub-Signature" in " ".join(finding.what for finding in missing.findings)
    wrong = forged(CATALOG.load("stripe").verify, Identity(SECRET)).secret
    live = look("stripe", sign("stripe", b'{"livemode":false}', secret=wrong), secret="sk_test_1234")
    assert {"secret.mode", "secret.api_key"} <= {finding.code for finding in live.findings}
    assert not any(finding.proved for finding in live.findings)
    short = look("clickup", Request(b"POST", b"/in", None, [(b"X-Signature", b"00" * 20)], BODY, ""))
    assert "SHA-1" in next(finding.what for finding in short.findings if finding.code == "signature.length")
    lost = look("shopify", sign("shopify", secret=wrong)._replace(body=b'{"a":"\xef\xbf\xbd"}'))
    assert "body.lossy" in {finding.code for finding in lost.findings}


def test_every_code_has_advice() -> None:
    assert set(ADVICE) == set(CODES) - {"ok"}


@pytest.mark.parametrize("vector", VALID[::5], ids=lambda vector: vector["id"])
def test_any_vector_with_a_line_feed_more(vector: dict[str, Any]) -> None:
    """Whatever the profile, the doctor comes to an end with a finding, and never calls a wrong request right."""
    request = request_of(vector)
    found = look(
        vector["profile"], request._replace(body=request.body + b"\n"), secrets=vector["secrets"],
        labels=[f"secret {number}" for number in range(len(vector["secrets"]))], now=vector["now"],
        base="/".join(vector["url"].split("/")[:3]),
        params={name: value for name, value in vector.get("params", {}).items() if isinstance(value, str)},
    )  # fmt: skip
    assert found.verdict.ok or found.findings


def test_what_it_tries_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "BYTES_MAX", 3_000_000)
    body = b'{"a":"' + b"x" * 300_000 + b'"}'
    found = look("shopify", sign("shopify", body, secret="another"))
    assert not proved(found)
    assert found.tries < 20
    monkeypatch.setattr(doctor, "BYTES_MAX", 10**12)
    monkeypatch.setattr(doctor, "TRIES_MAX", 500)
    assert look("square", sign("square", secret="another", query=b"a=1&b=2&c=3&d=4&e=5")).tries <= 501


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_no_request_makes_it_fail(data: st.DataObject) -> None:
    vector = data.draw(st.sampled_from(VECTORS))
    request = request_of(vector)
    body = data.draw(st.binary(max_size=60) | st.just(request.body[: len(request.body) // 2]))
    headers = data.draw(st.permutations(request.headers).map(lambda lines: list(lines)[: len(lines) // 2]))
    found = look(
        vector["profile"], request._replace(body=body, headers=headers), secrets=vector["secrets"],
        labels=[str(number) for number in range(len(vector["secrets"]))],
        params={"topic_arn": "arn:aws:sns:eu-north-1:123456789012:t", "issuer": "i", "audience": "a", "email": "e"},
    )  # fmt: skip
    assert found.verdict.ok or found.findings


def test_durations() -> None:
    assert [duration(seconds) for seconds in (0, 119, 120, 7199, 7200, 172_800)] == [
        "0 s", "119 s", "2.0 minutes (120 s)", "120.0 minutes (7199 s)", "2.0 hours (7200 s)", "2.0 days (172800 s)",
    ]  # fmt: skip
