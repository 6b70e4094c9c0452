"""What senders sign, made here with plain hmac and nothing of the engine, in every form that they send it."""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode

import pytest
from verify_world import CATALOG, NOW

from kafka_webhook_bridge.cli.cases import judge_line

SECRET = "s3cret-of-40-characters-0123456789abcdef"
KEY = b"0123456789abcdef0123456789abcdef"
JSON = b'{"type":"order.paid","data":{"id":18446744073709551615,"price":2.00,"name":"\xc3\xa5\\u00e5 \\/"}}'
ISO = "2025-10-09T08:53:20"
HOST = "https://hooks.example.com"

BODIES = {
    "json": JSON,
    "spaces": b'\r\n { "a" : [ 1 , 2.50 ] }\n',
    "empty": b"",
    "not UTF-8": b'{"a":"\xff\xfe"}',
    "NUL": b'{"a":"\x00"}',
    "form": b"a=1+2&b=%c3%a5&c=&a=3&d=%2B%26",
    "text": b"hello",
    "latin": "{é}".encode("latin-1"),
}


def mac(text: bytes, name: str = "sha256", key: bytes = SECRET.encode()) -> bytes:
    return hmac.new(key, text, name).digest()


def b64(raw: bytes) -> str:
    return b64encode(raw).decode()


class Sender(NamedTuple):
    headers: Callable[[bytes], dict[str, str]]
    secret: str = SECRET
    leave: tuple[str, ...] = ()


def plain(header: str, prefix: str = "", name: str = "sha256", how: Callable[[bytes], str] = bytes.hex) -> Sender:
    return Sender(lambda body: {header: prefix + how(mac(body, name))})


def standard(word: str, key: bytes = KEY, secret: str = "whsec_" + b64(KEY), key_id: str = "msg_2KWPBg") -> Sender:
    def headers(body: bytes) -> dict[str, str]:
        text = f"{key_id}.{NOW}.".encode() + body
        right = b64(hmac.new(key, text, "sha256").digest())
        return {f"{word}-id": key_id, f"{word}-timestamp": str(NOW), f"{word}-signature": f"v1a,x v1,{right} v2,y"}

    return Sender(headers, secret)


def timed(
    header: str, form: str, text: str, time: str = str(NOW), name: str = "sha256",
    how: Callable[[bytes], str] = bytes.hex, time_header: str = "",
) -> Sender:  # fmt: skip
    """`form` and `text` hold {t}; the signature is {s} of `form`, the body {b} of `text`."""

    def headers(body: bytes) -> dict[str, str]:
        before, after = text.replace("{t}", time).encode().split(b"{b}")
        signed = {header: form.replace("{t}", time).replace("{s}", how(mac(before + body + after, name)))}
        return signed | ({time_header: time} if time_header else {})

    return Sender(headers)


MS = f"{NOW}123"
SENDERS = {
    "github": plain("X-Hub-Signature-256", "sha256="),
    "github-sha1": plain("X-Hub-Signature", "sha1=", "sha1"),
    "shopify": plain("X-Shopify-Hmac-Sha256", how=b64),
    "intercom": plain("X-Hub-Signature", "sha1=", "sha1"),
    "vercel": plain("x-vercel-signature", name="sha1"),
    "typeform": plain("Typeform-Signature", "sha256=", how=b64),
    "paystack": plain("x-paystack-signature", name="sha512"),
    "razorpay": plain("X-Razorpay-Signature"),
    "line": plain("x-line-signature", how=b64),
    "notion": plain("X-Notion-Signature", "sha256="),
    "easypost": plain("X-Hmac-Signature", "hmac-sha256-hex="),
    "greenhouse": plain("Signature", "sha256 "),
    "websub": plain("X-Hub-Signature", "sha384=", "sha384"),
    "dropbox": plain("X-Dropbox-Signature"),
    "woocommerce": plain("X-WC-Webhook-Signature", how=b64),
    "sentry": plain("Sentry-Hook-Signature"),
    "authorize-net": Sender(
        lambda body: {"X-ANET-Signature": "sha512=" + mac(body, "sha512", KEY).hex().upper()}, KEY.hex().upper()
    ),
    "airtable": Sender(
        lambda body: {"X-Airtable-Content-MAC": "hmac-sha256=" + mac(body, "sha256", KEY).hex()}, b64(KEY)
    ),
    "adyen-payload": Sender(lambda body: {"HmacSignature": b64(mac(body, "sha256", KEY))}, KEY.hex()),
    "linkedin": Sender(lambda body: {"X-LI-Signature": mac(b"hmacsha256=" + body).hex()}),
    "tebex": Sender(lambda body: {"X-Signature": mac(hashlib.sha256(body).hexdigest().encode()).hex()}),
    "sellsy": Sender(
        lambda body: {"X-Webhook-Signature": hashlib.sha1(SECRET.encode() + body).hexdigest()},
        leave=("not UTF-8", "latin"),  # a hash of the secret and the body could be lengthened
    ),
    "payu": Sender(
        lambda body: {
            "OpenPayu-Signature": f"sender=checkout;signature={hashlib.md5(body + SECRET.encode()).hexdigest()};"
            "algorithm=MD5;content=DOCUMENT"
        }
    ),
    "square": Sender(
        lambda body: {"x-square-hmacsha256-signature": b64(mac(f"{HOST}/in?a=b".encode() + body))},
        leave=("text", "form"),  # the address could end in what these begin with
    ),
    "standard-webhooks-v1": standard("webhook"),
    "clerk-svix": standard("svix", key_id="evt.a-b_c"),
    "supabase-auth": standard("webhook", secret="v1,whsec_" + b64(KEY)),
    "bigcommerce": standard("webhook", SECRET.encode(), SECRET),
    "polar": standard("webhook", SECRET.encode(), SECRET),
    "openai": standard("webhook", secret="whsec_" + b64(KEY).rstrip("=")),
    "stripe": timed("Stripe-Signature", "t={t},v1=00,v1={s},v0=ff", "{t}.{b}"),
    "slack": timed("X-Slack-Signature", "v0={s}", "v0:{t}:{b}", time_header="X-Slack-Request-Timestamp"),
    "zoom": timed("x-zm-signature", "v0={s}", "v0:{t}:{b}", time_header="x-zm-request-timestamp"),
    "paddle": timed("Paddle-Signature", "ts={t};h1=00;h1={s}", "{t}:{b}"),
    "calendly": timed("Calendly-Webhook-Signature", "t={t},v1={s}", "{t}.{b}"),
    "workos": timed("WorkOS-Signature", "t={t}, v1={s}", "{t}.{b}", MS),
    "webflow": timed("x-webflow-signature", "{s}", "{t}:{b}", MS, time_header="x-webflow-timestamp"),
    "recurly": timed("recurly-signature", "{t},00,{s}", "{t}.{b}", MS),
    "affirm": timed("X-Affirm-Signature", "t={t},v0={s}", "{t}.{b}", name="sha512"),
    "knock": timed("x-knock-signature", "t={t},s={s}", "{t}.{b}", MS, how=b64),
    "persona": timed("Persona-Signature", "t={t},v1=00 t={t},v1={s}", "{t}.{b}"),
    "sanity": timed(
        "sanity-webhook-signature", "t={t},v1={s}", "{t}.{b}", MS,
        how=lambda raw: urlsafe_b64encode(raw).decode().rstrip("="),
    ),
    "zendesk": timed(
        "X-Zendesk-Webhook-Signature", "{s}", "{t}{b}", f"{ISO}Z", how=b64,
        time_header="X-Zendesk-Webhook-Signature-Timestamp",
    ),
    "orb": timed("X-Orb-Signature", "v1={s}", "v1:{t}:{b}", f"{ISO}.123456", time_header="X-Orb-Timestamp"),
    "metronome": timed(
        "Metronome-Webhook-Signature", "{s}", "{t}\n{b}", "Thu, 09 Oct 2025 08:53:20 GMT",
        time_header="X-Metronome-Date",
    ),
    "discourse": plain("X-Discourse-Event-Signature", "sha256="),
    "courier": timed("courier-signature", "t={t},signature={s}", "{t}.{b}", MS),
    "box": timed(
        "box-signature-primary", "{s}", "{b}{t}", "2025-10-09T01:53:20-07:00", how=b64,
        time_header="box-delivery-timestamp",
    )._replace(leave=("text", "form")),
}  # fmt: skip


def case(profile: str, sender: Sender, raw: bytes, headers: Any, **more: Any) -> dict[str, Any]:
    whole = {
        "id": 1, "profile": profile, "method": "POST", "url": f"{HOST}/in?a=b", "headers": headers,
        "body_base64": b64(raw), "secrets": [sender.secret], "now": NOW, **more,
    }  # fmt: skip
    answer = judge_line(json.dumps(whole).encode(), CATALOG, lambda: 0)
    assert answer["id"] == 1
    return answer


ALL = pytest.mark.parametrize(("profile", "sender"), SENDERS.items(), ids=SENDERS)


def test_there_are_many() -> None:
    assert len(SENDERS) >= 40


@ALL
@pytest.mark.parametrize("kind", BODIES)
def test_every_body_that_is_signed_passes(profile: str, sender: Sender, kind: str) -> None:
    if kind in sender.leave:
        assert case(profile, sender, BODIES[kind], sender.headers(BODIES[kind]))["code"] == "body.malformed"
        return
    assert case(profile, sender, BODIES[kind], sender.headers(BODIES[kind]))["code"] == "ok"
    assert not case(profile, sender, BODIES[kind] + b"}", sender.headers(BODIES[kind]))["verified"]


@ALL
def test_forms_in_which_a_request_is_written(profile: str, sender: Sender) -> None:
    """Spelling of names, lists of values, other headers, the other secret of two, blanks around a value."""
    headers = sender.headers(JSON)
    others = [
        {name.lower(): value for name, value in headers.items()},
        {name.upper(): value for name, value in headers.items()},
        {name: [value] for name, value in headers.items()},
        [[name, value] for name, value in reversed(headers.items())],
        {name: f" {value}\t" for name, value in headers.items()},
        {**headers, "Content-Type": "application/json; charset=utf-8", "Accept": ["*/*", "a/b"], "X-Empty": ""},
    ]
    for other in others:
        assert case(profile, sender, JSON, other)["code"] == "ok"
    assert case(profile, sender, JSON, headers, method="PUT")["code"] == "ok"
    assert case(profile, sender, JSON, headers, body="")["code"] == "ok"
    other_secret = "0123456789abcdef"  # text, hex, base64
    assert case(profile, sender, JSON, headers, secrets=[other_secret, sender.secret])["code"] == "ok"


@ALL
def test_hex_is_of_either_case_and_base64_of_one(profile: str, sender: Sender) -> None:
    headers = sender.headers(JSON)
    for name, value in headers.items():
        for digest in (part for part in value.replace(",", " ").replace("=", " ").replace(";", " ").split()):
            if len(digest) >= 32 and all(letter in "0123456789abcdef" for letter in digest):
                respelt = {**headers, name: value.replace(digest, digest.upper())}
                assert case(profile, sender, JSON, respelt)["code"] == "ok"


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example.com", "https://hooks.example.com/", "https://hooks.example.com:8443/in",
        "http://127.0.0.1:8080/in?x=%2f&y=&z", "https://hooks.example.com?a=b",
    ],
)  # fmt: skip
def test_addresses(url: str) -> None:
    """Square signs the address to the letter, Twilio one without a port, too."""
    square = {"x-square-hmacsha256-signature": b64(mac(url.encode() + JSON))}
    assert case("square", Sender(dict), JSON, square, url=url)["code"] == "ok"
    twilio = {"X-Twilio-Signature": b64(mac(url.encode(), "sha1"))}
    assert case("twilio", Sender(dict), b"", twilio, url=url, method="GET")["code"] == "ok"


@pytest.mark.parametrize(
    "body", ["", "Body=", "Body=a+b&From=%2b1555&To=%2B1556&Body=c&Empty=", "B=%c3%a5&A=%F0%9f%98%80"]
)
def test_forms(body: str) -> None:
    """Twilio and Mandrill sign the decoded fields, sorted; empty ones, too."""
    url = f"{HOST}/in?filter[a]=b"
    pairs = sorted(set(parse_qsl(body, keep_blank_values=True)))
    text = url + "".join(name + value for name, value in pairs)
    sent = {"X-Twilio-Signature": b64(mac(text.encode(), "sha1"))}
    assert case("twilio", Sender(dict), body.encode(), sent, url=url)["code"] == "ok"
    pairs = sorted(parse_qsl(body, keep_blank_values=True))
    text = f"{HOST}/in" + "".join(name + value for name, value in pairs)
    sent = {"X-Mandrill-Signature": b64(mac(text.encode(), "sha1"))}
    assert case("mandrill", Sender(dict), body.encode(), sent, url=f"{HOST}/in")["code"] == "ok"


def test_the_time_before_each_signature() -> None:
    """Persona writes it so while secrets change; two times that differ are none."""
    right = mac(f"{NOW}.".encode() + JSON).hex()
    sent = {"Persona-Signature": f"t={NOW},v1={'0' * 64} t={NOW},v1={right}"}
    assert case("persona", Sender(dict), JSON, sent)["code"] == "ok"
    sent = {"Persona-Signature": f"t={NOW - 1},v1={'0' * 64} t={NOW},v1={right}"}
    assert case("persona", Sender(dict), JSON, sent)["code"] == "signature.malformed"


def test_times_of_mercado_pago_are_of_either_unit() -> None:
    for time in (NOW, NOW * 1000):
        right = mac(f"id:abc1;request-id:r-1;ts:{time};".encode()).hex()
        sent = {"x-signature": f"ts={time},v1={right}", "x-request-id": "r-1"}
        url = f"{HOST}/in?{urlencode({'data.id': 'ABC1'})}"
        assert case("mercado-pago", Sender(dict), b"{}", sent, url=url)["code"] == "ok"


def test_a_token_where_the_sender_writes_bearer_or_not() -> None:
    """LiveKit's is bare; a list of audiences, odd headers and a clock that is ahead are no reason to refuse."""
    claims = {
        "iss": "key", "exp": NOW + 60, "nbf": NOW + 30, "iat": NOW + 30, "aud": ["a", "b"],
        "sha256": b64(hashlib.sha256(JSON).digest()), "n": 18446744073709551616,
    }  # fmt: skip
    header = {"typ": "jwt", "alg": "HS256", "x5t": "x", "jku": "https://example.com", "kid": "k", "x5c": ["y"]}
    text = ".".join(urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in (header, claims))
    token = f"{text}.{urlsafe_b64encode(mac(text.encode())).decode().rstrip('=')}"
    for value in (token, f"Bearer {token}", f"bearer {token}"):
        assert case("livekit", Sender(dict), JSON, {"Authorization": value}, params={"issuer": "key"})["code"] == "ok"
    for value in (f"Basic {token}", f"Bearer{token}", f"Bearer Bearer {token}"):
        assert not case("livekit", Sender(dict), JSON, {"Authorization": value}, params={"issuer": "key"})["verified"]
