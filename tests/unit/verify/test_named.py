"""The twelve schemes in code: what their senders sign, and what comes close to it."""

from __future__ import annotations

import hashlib
import json
from typing import Any
from urllib.parse import urlencode

from verify_world import NOW, b64, judge, mac, request, verifier

from kafka_webhook_bridge.sources.verify import Verdict

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


# Twilio


def twilio(url_tail: str, body: str, signed: str, base: str = "https://x.example.com", **headers: str) -> Verdict:
    path, _, query = url_tail.partition("?")
    sent = {"X-Twilio-Signature": b64(mac("token", signed, "sha1")), **FORM, **headers}
    v = verifier("twilio", "token", public_url=base)
    return judge(v, request(body, sent, path=path, query=query if "?" in url_tail else None))


def test_twilio_signs_the_address_and_the_sorted_form() -> None:
    assert twilio("/in?a=1", "b=2&a=1", "https://x.example.com/in?a=1a1b2").ok
    assert twilio("/in", "b=%2B1+2&a=", "https://x.example.com/inab+1 2").ok
    assert twilio("/in", "", "https://x.example.com/in").ok
    assert twilio("/in", "a=2&a=1&a=2", "https://x.example.com/ina1a2").ok  # values once each, sorted
    assert twilio("/in", "a=å".encode().decode(), "https://x.example.com/inaå").ok
    for tail, body in (
        ("/in?a=1", "b=2&a=2"),
        ("/in?a=2", "b=2&a=1"),
        ("/in", "b=2&a=1"),
        ("/in?a=1&", "b=2&a=1"),
        ("/in/?a=1", "b=2&a=1"),
        ("/In?a=1", "b=2&a=1"),
        ("/in?a=1", "b=2"),
        ("/in?a=1", "b=2&a=1&c=3"),
        ("/in?a=1", ""),
        ("/in?a=%31", "b=2&a=1"),
    ):
        assert not twilio(tail, body, "https://x.example.com/in?a=1a1b2").ok, (tail, body)


def test_twilio_ports_and_nothing_else_about_the_address() -> None:
    for base in ("https://x.example.com", "https://x.example.com:443", "https://x.example.com:8443"):
        assert twilio("/in", "", f"{base}/in", base).ok
        assert twilio("/in", "", "https://x.example.com/in", base).ok
    assert twilio("/in", "", "https://x.example.com:443/in", "https://x.example.com").ok
    assert twilio("/in", "", "http://x.example.com:80/in", "http://x.example.com").ok
    for signed in (
        "http://x.example.com/in",
        "https://x.example.com:80/in",
        "https://x.example.com:8443/in",
        "https://X.example.com/in",
        "https://x.example.com/in/",
        "https://x.example.com./in",
        "https://y.example.com/in",
        "https://u@x.example.com/in",
    ):
        assert twilio("/in", "", signed).code == "signature.mismatch", signed


def test_twilio_signs_the_login_inside_an_address() -> None:
    base = "https://user:pa-ss@x.example.com"
    for signed in (base, f"{base}:443", f"{base}"):
        assert twilio("/in", "", f"{signed}/in", base).ok
        assert twilio("/in", "", f"{signed}/in", f"{base}:443").ok
    for signed in ("https://x.example.com", "https://user@x.example.com", "https://user:pa-ss@x.example.com:1"):
        assert not twilio("/in", "", f"{signed}/in", base).ok


def test_twilio_covers_a_json_body_by_its_hash_in_the_address() -> None:
    body = '{"a":1}'
    digest = hashlib.sha256(body.encode()).hexdigest()
    tail = f"/in?x=1&bodySHA256={digest}"
    signed = f"https://x.example.com{tail}"
    assert twilio(tail, body, signed).ok
    assert twilio(tail.replace(digest, digest.upper()), body, signed.replace(digest, digest.upper())).ok
    assert twilio(tail, body + " ", signed).code == "body.mismatch"
    assert twilio(tail, "", signed).code == "body.mismatch"
    assert not twilio("/in?x=1", body, "https://x.example.com/in?x=1").ok
    twice = f"{tail}&bodySHA256={digest}"
    assert not twilio(twice, body, f"https://x.example.com{twice}").ok
    assert not twilio(tail, body, "https://x.example.com/in?x=1").ok


def test_twilio_takes_no_algorithm_but_its_two() -> None:
    name = "X-Twilio-Webhooks-Signature-Settings"
    text = "https://x.example.com/in"
    v = verifier("twilio", "token", public_url="https://x.example.com")

    def of(settings: str, algorithm: str) -> Verdict:
        return judge(v, request("", {"X-Twilio-Signature": b64(mac("token", text, algorithm)), name: settings}))

    assert of("key=k,algorithm=HMAC_SHA256", "sha256").ok
    assert of("key=k, algorithm=HMAC_SHA1", "sha1").ok
    assert of("key=k", "sha1").ok
    assert not of("key=k,algorithm=HMAC_SHA256", "sha1").ok
    assert not of("key=k", "sha256").ok
    for settings in ("algorithm=HMAC_MD5", "algorithm=", "algorithm=none", "algorithm=HMAC_SHA1,algorithm=HMAC_SHA256"):
        assert of(settings, "sha1").code == "signature.malformed", settings


def test_twilio_forms_are_as_encoders_write_them() -> None:
    """`a=b` has the signed text of `a&b`, and of bytes that are no text."""
    signed = "https://x.example.com/inab"
    assert twilio("/in", "a=b", signed).ok
    for body in ("a&b", "a&b=", "ab", "=ab", "a=b&", "&a=b", "a=b&&", "a=%62%"):
        assert not twilio("/in", body, signed).ok, body
    assert twilio("/in", "a=%FF", "https://x.example.com/ina\ufffd").code == "body.malformed"


# Adyen

ADYEN_KEY = "44782DEF547AAA06C910C43932B1EB0C71FC68D9D0C057550C48EC2ACF6BA056"
ITEM = {
    "pspReference": "7914073381342284",
    "originalReference": "",
    "merchantAccountCode": "Merchant",
    "merchantReference": "order-1",
    "amount": {"value": 1130, "currency": "EUR"},
    "eventCode": "AUTHORISATION",
    "success": "true",
}


def adyen_item(**changes: Any) -> dict[str, Any]:
    item = {**ITEM, **changes}
    amount = item["amount"] or {}
    texts = [
        item["pspReference"],
        item["originalReference"],
        item["merchantAccountCode"],
        item["merchantReference"],
        amount.get("value", ""),
        amount.get("currency", ""),
        item["eventCode"],
        item["success"],
    ]
    text = ":".join("" if value is None else str(value) for value in texts)
    return {**item, "additionalData": {"hmacSignature": b64(mac(bytes.fromhex(ADYEN_KEY), text))}}


def adyen(document: Any, *keys: str) -> str:
    text = document if isinstance(document, str) else json.dumps(document)
    return judge(verifier("adyen-standard", *(keys or (ADYEN_KEY,))), request(text)).code


def batch(*items: Any) -> dict[str, Any]:
    return {"live": "false", "notificationItems": [{"NotificationRequestItem": item} for item in items]}


def test_adyen_signs_every_item() -> None:
    one, two = adyen_item(), adyen_item(pspReference="2", eventCode="CAPTURE")
    assert adyen(batch(one)) == "ok"
    assert adyen(batch(one, two)) == "ok"
    assert adyen(batch(one, two), "00" * 32, ADYEN_KEY) == "ok"
    assert adyen(one) == "ok"
    for field, value in (
        ("pspReference", "3"),
        ("originalReference", "x"),
        ("merchantAccountCode", "M"),
        ("merchantReference", "order-2"),
        ("amount", {"value": 1131, "currency": "EUR"}),
        ("amount", {"value": 1130, "currency": "SEK"}),
        ("amount", None),
        ("eventCode", "REFUND"),
        ("success", "false"),
        ("success", False),
        ("amount", {"value": 1130.0, "currency": "EUR"}),
    ):
        for items in ([{**one, field: value}], [two, {**one, field: value}], [{**one, field: value}, two]):
            assert adyen(batch(*items)) == "signature.mismatch", (field, value)


def test_adyen_batches_have_items() -> None:
    one = adyen_item()
    for document in (
        {"notificationItems": []},
        {"notificationItems": None},
        {"notificationItems": {}},
        [],
        [one],
        {},
        "null",
        "",
        "x",
        {"notificationItems": [one]},
        {"notificationItems": [{"NotificationRequestItem": None}]},
        {**one, "notificationItems": []},
        batch({**one, "additionalData": {}}),
        batch({**one, "additionalData": None}),
        batch({**one, "additionalData": {"hmacSignature": ""}}),
        batch({**one, "additionalData": {"hmacSignature": [one["additionalData"]["hmacSignature"]]}}),
        batch(one, None),
        batch(*[one] * 1001),
    ):
        assert adyen(document) in ("body.malformed", "signature.malformed"), document
    doubled = json.dumps(batch(one)).replace('"pspReference"', '"pspReference": "evil", "pspReference"')
    assert adyen(doubled) == "body.malformed"


def test_adyen_fields_cannot_move_into_each_other() -> None:
    right = adyen_item(merchantReference="order:1")
    assert adyen(batch(right)) == "ok"
    moved = {**right, "merchantReference": "order", "amount": {"value": "1:1130", "currency": "EUR"}}
    assert adyen(batch(moved)) == "body.malformed"
    moved = {**right, "merchantAccountCode": "Merchant:order", "merchantReference": "1"}
    assert adyen(batch(moved)) == "body.malformed"


# Braintree


def braintree(signature: str, payload: str, secret: str = "pub|priv") -> str:
    body = urlencode({"bt_signature": signature, "bt_payload": payload})
    return judge(verifier("braintree", secret), request(body, FORM)).code


def test_braintree() -> None:
    payload = "PG5vdGlmaWNhdGlvbj4=\n"
    key = hashlib.sha1(b"priv").digest()
    right, bare = mac(key, payload, "sha1").hex(), mac(key, payload + "\n", "sha1").hex()
    assert braintree(f"pub|{right}", payload) == "ok"
    assert braintree(f"other|00&pub|{right}", payload) == "ok"
    assert braintree(f"pub|{bare}", payload) == "ok"
    for signature in (
        right,
        f"other|{right}",
        f"PUB|{right}",
        f"pub|{right[:-1]}",
        f"pub|{right}00",
        f"pub||{right}",
        f"|{right}",
        "pub|",
        "&",
        f"pub|{mac('priv', payload, 'sha1').hex()}",
        f"pub |{right}",
    ):
        assert braintree(signature, payload) == "signature.mismatch", signature
    assert braintree("", payload) == "signature.malformed"
    for wrong in ("", "<xml>", "PG5v dGlm", "PG5v\x00", payload + "!"):
        assert braintree(f"pub|{mac(key, wrong, 'sha1').hex()}", wrong) == "body.malformed", wrong
    assert braintree("&".join([f"pub|{right}"] * 21), payload) == "signature.too_many"
    v = verifier("braintree", "pub|priv")
    for body in (
        f"bt_signature=pub|{right}&bt_payload=x&bt_payload=y",
        f"bt_signature=a&bt_signature=pub|{right}&bt_payload=x",
        "",
        "bt_payload=x",
    ):
        assert not judge(v, request(body, FORM)).ok


# Contentful


def contentful(
    names: str, now: float = NOW, body: str = "{}", sent: dict[str, str] | None = None, **more: Any
) -> Verdict:
    stamp = f"{NOW}000"
    headers = {"x-contentful-signed-headers": names, "x-contentful-timestamp": stamp, "x-contentful-topic": "T;x:y"}
    listed = ";".join(f"{name}:{headers[name]}" for name in sorted(names.split(",")) if name in headers)
    encoded = mac("k", f"POST\n/in?a%253D1\n{listed}\n{{}}").hex()
    headers["x-contentful-signature"] = encoded
    return judge(
        verifier("contentful", "k"),
        request(body, {**headers, **(sent or {})}, query=more.pop("query", "a=1"), **more),
        now,
    )


ALL = "x-contentful-signed-headers,x-contentful-timestamp,x-contentful-topic"


def test_contentful() -> None:
    assert contentful(ALL).ok
    assert contentful("x-contentful-timestamp,x-contentful-signed-headers").ok
    assert contentful(ALL, NOW + 29.9).ok
    assert contentful(ALL, NOW + 30).code == "timestamp.old"
    assert contentful(ALL, NOW - 31).code == "timestamp.future"
    assert contentful(ALL, body="{} ").code == "signature.mismatch"
    assert contentful(ALL, query="a=2").code == "signature.mismatch"
    assert contentful(ALL, path="/on").code == "signature.mismatch"
    assert contentful(ALL, method="PUT").code == "signature.mismatch"
    assert contentful(ALL, sent={"x-contentful-topic": "U"}).code == "signature.mismatch"
    assert contentful(ALL, sent={"x-contentful-timestamp": f"{NOW + 1}000"}).code == "signature.mismatch"
    assert contentful(ALL, sent={"x-contentful-timestamp": f"{NOW}"}).code == "timestamp.malformed"
    for names in (
        "x-contentful-topic",
        "x-contentful-timestamp",
        "x-contentful-signed-headers",
        f"{ALL},x-contentful-topic",
        f"{ALL},",
        ALL.upper(),
        f"{ALL},a b",
        "x-contentful-signed-headers,x-contentful-topic",
    ):
        assert contentful(names).code == "signature.malformed", names
    assert contentful(f"{ALL},x-none").code == "header.missing"


# Segment


def segment(body: str, signed: str) -> str:
    return judge(verifier("segment", "k"), request(body, {"X-Signature": mac("k", signed, "sha1").hex()})).code


def test_segment_signs_the_first_event_as_it_stands() -> None:
    event = '{"type":"track","p":2.00,"å":"\\u00e5 [1,{"}'
    assert segment(event, event) == "ok"
    for body in (f"[{event}]", f"[ {event} , {{}}]", f" [\n{event},1]\n", f'[{event},{{"x":[]}}]'):
        assert segment(body, event) == "ok", body
    for body in (
        f"[{{}},{event}]",
        f"[[{event}]]",
        "[]",
        f"[{event}",
        f"[{event}]]",
        f'{{"0":{event}}}',
        f"[{event.replace('2.00', '2.0')}]",
        f"[{event.replace(':2', ': 2')}]",
        f"[{event.replace('u00e5', 'u00E5')}]",
        f"[1,{event}]",
        "",
    ):
        assert segment(body, event) != "ok", body
    assert segment("[1]", "1") == "body.malformed"
    assert segment('["x"]', '"x"') == "body.malformed"
    doubled = '{"a":1,"a":2}'
    assert segment(doubled, doubled) == "body.malformed"


# Plivo, Sinch


def plivo(signed: str, body: str = "", query: str | None = None, **more: Any) -> str:
    signature = b64(mac("k", signed + ".n0"))
    sent = {
        "X-Plivo-Signature-V3": more.pop("signature", signature),
        "X-Plivo-Signature-V3-Nonce": more.pop("nonce", "n0"),
    }
    return judge(verifier("plivo-v3", "k"), request(body, sent, query=query, **more)).code


def test_plivo() -> None:
    address = "https://hooks.example.com/in"
    assert plivo(f"{address}?a=1&b=2.From1To2", "To=2&From=1", "b=2&a=1") == "ok"
    assert plivo(f"{address}?From1To2", "To=2&From=1") == "ok"
    assert plivo(f"{address}?a=1&b=2", "", "b=2&a=1", method="GET") == "ok"
    assert plivo(address, "", method="GET") == "ok"
    assert plivo(f"{address}?a=1.x1", "x=1", "a=1", signature="bogus," + b64(mac("k", f"{address}?a=1.x1.n0"))) == "ok"
    assert plivo(f"{address}?a=1.x1", "", "a=1.x1") == "body.malformed"  # a form that passes for a query
    assert plivo(f"{address}?a=1", "evil=1", "a=1", method="GET") == "body.malformed"
    assert plivo(f"{address}?a=1", "evil=1", "a=1", method="PUT") == "body.malformed"
    assert plivo(f"{address}?a=1.x1", "x=2", "a=1") == "signature.mismatch"
    assert plivo(f"{address}?a=1.x1", "x=1", "a=2") == "signature.mismatch"
    assert plivo(f"{address}?x1.y", "x=1", nonce="y.n0") == "header.malformed"
    assert plivo(f"{address}?x1", "x=1", signature=",".join(["AAAA"] * 21)) == "signature.too_many"
    assert plivo(f"{address}?x1", "x=1", signature=",") == "signature.malformed"


def sinch(
    body: str = "{}",
    now: float = NOW,
    stamp: str = "2025-10-09T08:53:20Z",
    authorization: str | None = None,
    **more: Any,
) -> str:
    content = b64(hashlib.md5(body.encode()).digest()) if body else ""
    text = f"POST\n{content}\napplication/json\nx-timestamp:{stamp}\n/in"
    right = b64(mac(b"app-secret", text))
    sent = {
        "Content-Type": "application/json",
        "x-timestamp": stamp,
        "Authorization": (authorization or "application KEY:{}").replace("{}", right),
    }
    sent.update(more.pop("sent", {}))
    return judge(
        verifier("sinch-voice", f"KEY:{b64(b'app-secret')}"), request(more.pop("changed", body), sent, **more), now
    ).code


def test_sinch_voice() -> None:
    assert sinch() == "ok"
    assert sinch("") == "ok"
    for authorization in ("Application KEY:{}", "service KEY:{}"):
        assert sinch(authorization=authorization) == "ok"
    assert sinch(authorization="application OTHER:{}") == "key.unknown"
    for authorization in (
        "KEY:{}",
        "Basic KEY:{}",
        "application KEY{}",
        "application :{}",
        "application KEY:{} x",
        "application  KEY:{}",
        "application KEY:",
    ):
        assert sinch(authorization=authorization) == "signature.malformed", authorization
    assert sinch(now=NOW + 300) == "ok"
    assert sinch(now=NOW + 301) == "timestamp.old"
    assert sinch(now=NOW - 301) == "timestamp.future"
    assert sinch(stamp="2025-10-09T08:53:20") == "timestamp.malformed"
    assert sinch(changed="{} ") == "signature.mismatch"
    assert sinch(changed="") == "signature.mismatch"
    assert sinch(sent={"Content-Type": "text/plain"}) == "signature.mismatch"
    assert sinch(path="/on") == "signature.mismatch"
    assert sinch(method="PUT") == "signature.mismatch"


# Unisender Go, Exact Online


def test_unisender() -> None:
    template = '{"auth":"%s","events":[{"x":1}]}'
    right = hashlib.md5((template % "api-key").encode()).hexdigest()
    v = verifier("unisender-go", "api-key")
    assert judge(v, request(template % right)).ok
    for body in (
        template % right.upper(),
        template % right[:-1],
        template % (right + "0"),
        (template % right).replace("1", "2"),
        (template % right) + " ",
        "{}",
        "[]",
        "",
        template % "api-key",
        '{"auth":null}',
        '{"x":{"auth":"' + right + '"}}',
        (template % right).replace("[", f'["{right}",'),
    ):
        assert not judge(v, request(body)).ok, body
    twice = '{"auth":"%s","x":"%s"}'
    digest = hashlib.md5((twice % ("api-key", "api-key")).encode()).hexdigest()
    assert judge(v, request(twice % (digest, digest))).code == "signature.malformed"
    size = len(template % "api-key")
    padding = b"\x80" + bytes(-(size + 9) % 64) + (size * 8).to_bytes(8, "little")
    assert (
        judge(v, request((template % right).encode() + padding + b"x")).code == "body.malformed"
    )  # MD5 can be grown, JSON not


def test_exact_online() -> None:
    content = '{"Topic":"Accounts","n":2.00,"x":"\\u00e5"}'
    right = mac("k", content).hex().upper()
    v = verifier("exact-online", "k")
    assert judge(v, request(f'{{"Content":{content},"HashCode":"{right}"}}')).ok
    for body in (
        f'{{"Content":{content},"HashCode":"{right[:-1]}0"}}',
        f'{{"Content":{content.replace("2.00", "2.0")},"HashCode":"{right}"}}',
        f'{{"HashCode":"{right}","Content":{content}}}',
        f'{{"Content": {content},"HashCode":"{right}"}}',
        f'{{"Content":{content},"HashCode":"{right}"}} ',
        f' {{"Content":{content},"HashCode":"{right}"}}',
        f'{{"Content":{content},"X":1,"HashCode":"{right}"}}',
        f'{{"Content":{content}}}',
        "{}",
        "",
        f'{{"Content":{content},"HashCode":"{right}","HashCode":"{right}"}}',
        f'{{"Content":{content},"Content":{content},"HashCode":"{right}"}}',
        f'[{{"Content":{content},"HashCode":"{right}"}}]',
        f'{{"Content":{content},"HashCode":"{right[:-1]}"}}',
    ):
        assert not judge(v, request(body)).ok, body
    inner = content + ',"Evil":1'
    body = f'{{"Content":{inner},"HashCode":"{mac("k", inner).hex()}"}}'
    assert judge(v, request(body)).code == "signature.malformed"
