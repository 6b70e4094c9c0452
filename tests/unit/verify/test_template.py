"""Signed texts: what each part is, and that no text can be cut in two ways."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from verify_world import NOW, b64, judge, mac, request, verifier

from kafka_webhook_bridge.event import Request
from kafka_webhook_bridge.sources.verify.request import Signed
from kafka_webhook_bridge.sources.verify.template import parse_signed
from kafka_webhook_bridge.sources.verify.verdict import Refused

BODY = b'{"a":{"b":"x"},"n":2.00,"t":true,"big":12345678901234567890123,"e":"\xc3\xa5"}'


def rendered(text: str, body: bytes = BODY, **more: Any) -> bytes:
    base = more.pop("base", b"https://hooks.example.com:8443/prefix")
    headers = [(name.encode(), value.encode()) for name, value in more.pop("headers", {}).items()]
    query = more.pop("query", b"q=A%20B&data.id=AB&flag")
    signed = Signed(Request(b"PUT", b"/in/x", query, headers, body, ""), None, base, more.pop("params", {}))
    signed.timestamp, signed.secret, signed.fields = b"1760000000", b"s3cret", {b"env": b"prod"}
    return parse_signed(text).compile()(signed)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{body}", BODY),
        ("{body_b64}", b64(BODY).encode()),
        ("{body_sha256_hex}", hashlib.sha256(BODY).hexdigest().encode()),
        ("{body_md5_b64}", b64(hashlib.md5(BODY).digest()).encode()),
        ("{body_json_string}", b'"' + BODY.replace(b'"', b'\\"') + b'"'),
        ("{ts}", b"1760000000"),
        ("{method} {path} {path_query}", b"PUT /prefix/in/x /prefix/in/x?q=A%20B&data.id=AB&flag"),
        ("{url}", b"https://hooks.example.com:8443/prefix/in/x?q=A%20B&data.id=AB&flag"),
        ("{url_noquery}", b"https://hooks.example.com:8443/prefix/in/x"),
        ("{query:q}-{query_lower:data.id}", b"A B-ab"),
        ("{json:a.b}|{json:n}|{json:t}|{json:big}|{json:e}", "x|2.00|true|12345678901234567890123|å".encode()),
        ("{json_or_empty:a.z}.{json_or_empty:zz}.{ts}", b"..1760000000"),
        ("{{{ts}}}", b"{1760000000}"),
        ("[{ts};{body}]", b"[1760000000;" + BODY + b"]"),
        ("{secret}{ts}", b"s3cret1760000000"),
        ("{sigfield:env}/{ts}", b"prod/1760000000"),
        ("[[id:{query:none};]]ts:{ts};", b"ts:1760000000;"),
        ("[[id:{query:q};]][[h:{header:X-None};]]ts:{ts};", b"id:A B;ts:1760000000;"),
        ("{header_or_empty:X-None}.{ts}", b".1760000000"),
    ],
)
def test_parts(text: str, expected: bytes) -> None:
    assert rendered(text) == expected


def test_the_path_of_a_source_without_a_public_address_is_its_own() -> None:
    assert rendered("{path}{ts}", base=None) == b"/in/x1760000000"
    with pytest.raises(Refused) as refused:
        rendered("{url}", base=None)
    assert refused.value.verdict.code == "url.mismatch"


def test_ascii_escapes_are_those_of_box() -> None:
    body = 'å\n\t\r"\\/ \\n 😀\x7f'.encode()
    assert rendered("{body_ascii}", body) == rb"\u00e5\n\t\r" + rb'"\/ \\n \ud83d\ude00\u007f'


@pytest.mark.parametrize("text", ["{body_json_string}", "{body_ascii}"])
def test_text_of_a_body_that_is_none(text: str) -> None:
    with pytest.raises(Refused):
        rendered(text, b"\xff\xfe")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{bodi}", "did you mean body"),
        ("{header}", "not understood"),
        ("{body:x}", "not understood"),
        ("{header:}", "lacks a name"),
        ("{header:a b}", "can match nothing"),
        ("{json:a..b}", "empty step"),
        ("{ts", "without its partner"),
        ("ts}", "without its partner"),
        ("[[{ts}", "without ]]"),
        ("{ts}]]", "without [["),
        ("[[a[[{ts}]]]]", "inside"),
        ("[[]]{ts}", "empty group"),
        ("", "the same for every request"),
        ("{secret}", "the same for every request"),
        ("v0:{param:x}", "the same for every request"),
        ("{ts}" * 21, "more than 20"),
    ],
)
def test_mistakes_are_found_at_load(text: str, word: str) -> None:
    with pytest.raises(ValueError, match=word.replace("[", r"\[").replace("]", r"\]")):
        parse_signed(text)


# One signed request is seen; the same signed text is sent again, cut elsewhere.


def cut(profile: str, headers: dict[str, str], body: str, **more: Any) -> str:
    path = more.pop("path", "/in")
    v = verifier(profile, "s3cret", **{key: more.pop(key) for key in ("params",) if key in more})
    return judge(v, request(body, headers, path=path, query=more.pop("query", None)), more.pop("now", NOW)).code


def test_an_id_cannot_swallow_time_and_body() -> None:
    inner = f".{NOW}." + '{"type":"invoice.paid"}'
    body = '{"comment":"' + inner + '"}'
    right = "v1," + b64(mac(b"0123456789abcdef0123456789abcdef", f"msg_1.{NOW}.{body}"))
    v = verifier("standard-webhooks-v1", "whsec_" + b64(b"0123456789abcdef0123456789abcdef"))
    sent = {"webhook-id": "msg_1", "webhook-timestamp": str(NOW), "webhook-signature": right}
    assert judge(v, request(body, sent)).ok
    shifted = {**sent, "webhook-id": f'msg_1.{NOW}.{{"comment":"'}
    assert judge(v, request('{"type":"invoice.paid"}"}', shifted)).code == "header.malformed"


@given(
    st.text(
        st.characters(codec="ascii", exclude_characters='"[]{}\x7f', min_codepoint=33), min_size=1, max_size=6
    ).filter(lambda key_id: not re.search("[.][0-9]", key_id)),
    st.lists(st.sampled_from([".", "{", '"', "x", "1", f"{NOW}", f".{NOW}.", "}", "é"]), max_size=8).map("".join),
)
def test_of_all_cuts_of_a_signed_text_one_counts(key_id: str, rest: str) -> None:
    """Standard Webhooks: id, time and body with dots between, every other pair of dots for them."""
    key, body = b"0123456789abcdef0123456789abcdef", "{" + rest
    text = f"{key_id}.{NOW}.{body}"
    v = verifier("standard-webhooks-v1", "whsec_" + b64(key))
    signature = "v1," + b64(mac(key, text))
    parts = text.split(".")
    accepted = []
    for one in range(1, len(parts)):
        for two in range(one + 1, len(parts)):
            cut = (".".join(parts[:one]), ".".join(parts[one:two]), ".".join(parts[two:]))
            headers = {"webhook-id": cut[0], "webhook-timestamp": cut[1], "webhook-signature": signature}
            if judge(v, request(cut[2], headers)).ok:
                accepted.append(cut)
    assert accepted == [(key_id, str(NOW), body)]


@pytest.mark.parametrize(
    ("key_id", "code"),
    [
        ("evt.a.b", "ok"),
        ("order.paid@shop.example", "ok"),
        ("msg.1", "header.malformed"),
        (f"msg.{NOW}", "header.malformed"),
        ("a.Thu, 09 Oct", "header.malformed"),
    ],
)
def test_an_id_holds_no_dot_before_what_a_time_begins_with(key_id: str, code: str) -> None:
    key = b"0123456789abcdef0123456789abcdef"
    v = verifier("standard-webhooks-v1", "whsec_" + b64(key))
    signature = "v1," + b64(mac(key, f"{key_id}.{NOW}.x"))
    headers = {"webhook-id": key_id, "webhook-timestamp": str(NOW), "webhook-signature": signature}
    assert judge(v, request("x", headers)).code == code


def test_of_several_signed_texts_one_that_cannot_be_made_spoils_no_other() -> None:
    """Box signs the bytes, or their escapes; what is no UTF-8 has none."""
    time, body = "2025-10-09T08:53:20Z", b'"\xff"'
    v = verifier("box", "s3cret")
    for right, code in ((mac("s3cret", body + time.encode()), "ok"), (mac("s3cret", body), "signature.mismatch")):
        sent = request(body, {"box-signature-primary": b64(right), "box-delivery-timestamp": time})
        assert judge(v, sent).code == code


def test_escapes_of_a_body() -> None:
    body = 'a/\\/ \\/ \\\\/ "é\\ \u20ac\U0001f600" \n\r\t\b\x7f'
    escaped = 'a/\\/ \\/ \\\\\\/ "\\u00e9\\\\ \\u20ac\\ud83d\\ude00" \\n\\r\\t\\u0008\\u007f'
    assert rendered("{body_ascii}", body.encode()) == escaped.encode()


def test_digits_cannot_move_between_time_and_body() -> None:
    """Airwallex signs `{ts}{body}` in ms, and no window is fixed."""
    body = '1{"a":1}'
    right = mac("s3cret", f"{NOW}000{body}").hex()
    assert cut("airwallex", {"x-signature": right, "x-timestamp": f"{NOW}000"}, body) == "ok"
    assert cut("airwallex", {"x-signature": right, "x-timestamp": f"{NOW}0001"}, body[1:]) == "timestamp.malformed"
    assert cut("airwallex", {"x-signature": right, "x-timestamp": f"{NOW}00"}, "0" + body) == "timestamp.malformed"


def test_a_zone_cannot_move_into_the_body() -> None:
    stamp = "2025-10-09T08:53:20"
    right = b64(mac("s3cret", stamp + 'Z{"a":1}'))
    names = ("X-Zendesk-Webhook-Signature", "X-Zendesk-Webhook-Signature-Timestamp")
    assert cut("zendesk", dict(zip(names, (right, stamp + "Z"), strict=True)), '{"a":1}') == "ok"
    assert cut("zendesk", dict(zip(names, (right, stamp), strict=True)), 'Z{"a":1}') == "timestamp.malformed"


def test_seconds_cannot_move_into_the_body() -> None:
    stamp = "2025-10-09T08:53:20"
    right = "v1=" + mac("s3cret", f"v1:{stamp}:" + "{}").hex()
    assert cut("orb", {"X-Orb-Signature": right, "X-Orb-Timestamp": stamp}, "{}") == "ok"
    assert cut("orb", {"X-Orb-Signature": right, "X-Orb-Timestamp": stamp[:-3]}, "20:{}") == "timestamp.malformed"


def test_a_nonce_cannot_swallow_the_end_of_the_body() -> None:
    body = '{"a":1.5}'
    right = b64(mac("s3cret", f"{body}.n0nce.{NOW}"))
    name = "x-sinch-webhook-signature"
    sent = {name: right, f"{name}-nonce": "n0nce", f"{name}-timestamp": str(NOW)}
    assert cut("sinch", sent, body) == "ok"
    assert cut("sinch", {**sent, f"{name}-nonce": "5}.n0nce"}, '{"a":1') == "header.malformed"


def test_a_nonce_cannot_swallow_a_whole_time_and_the_start_of_the_body() -> None:
    """Twitch signs `{id}{ts}{body}`, and bodies hold times."""
    created = "2025-10-09T08:53:20Z"
    body = '{"created_at":"' + created + '","x":1}'
    right = "sha256=" + mac("s3cret", "id-1" + created + body).hex()
    name = "Twitch-Eventsub-Message-"
    sent = {f"{name}Id": "id-1", f"{name}Timestamp": created, f"{name}Signature": right}
    assert cut("twitch", sent, body) == "ok"
    shifted = {**sent, f"{name}Id": "id-1" + created + '{"created_at":"'}
    assert cut("twitch", shifted, '","x":1}') == "header.malformed"


def test_the_address_cannot_swallow_the_start_of_the_body() -> None:
    body = '{"a":1}'
    right = b64(mac("s3cret", "https://hooks.example.com/in?x=1" + body))
    sent = {"x-square-hmacsha256-signature": right}
    assert cut("square", sent, body, query="x=1") == "ok"
    assert cut("square", sent, '"a":1}', query="x=1{") == "url.mismatch"
    assert cut("square", sent, "1" + body, query="x=") == "body.malformed"


def test_the_address_and_a_list_in_the_body_stay_apart() -> None:
    right = b64(mac("s3cret", "POSThttps://hooks.example.com/in?x=" + "[1]" + f"{NOW}000"))
    sent = {"X-HubSpot-Signature-v3": right, "X-HubSpot-Request-Timestamp": f"{NOW}000"}
    assert cut("hubspot-v3", sent, "[1]", query="x=") == "ok"
    assert cut("hubspot-v3", sent, "1]", query="x=[") == "url.mismatch"


def test_a_query_value_cannot_hold_another_field() -> None:
    """Mercado Pago signs `id:…;request-id:…;ts:…;`."""
    text = f"id:1;request-id:r;ts:{NOW};"
    sent = {"x-signature": f"ts={NOW},v1={mac('s3cret', text).hex()}", "x-request-id": "r"}
    assert cut("mercado-pago", sent, "{}", query="data.id=1") == "ok"
    del sent["x-request-id"]
    assert cut("mercado-pago", sent, "{}", query="data.id=1%3Brequest-id%3Ar") == "header.malformed"
    assert cut("mercado-pago", sent, "{}", query="data.id=1") == "signature.mismatch"


def test_a_query_parameter_that_is_signed_stands_once() -> None:
    text = f"id:1;ts:{NOW};"
    sent = {"x-signature": f"ts={NOW},v1={mac('s3cret', text).hex()}"}
    assert cut("mercado-pago", sent, "{}", query="data.id=1&type=x") == "ok"
    for query in ("data.id=1&data.id=2", "data.id=2&data.id=1", "data.id=1&data%2Eid=2", "data%2Eid=2&data.id=1"):
        assert cut("mercado-pago", sent, "{}", query=query) == "signature.malformed"


def test_key_and_body_stay_apart_where_a_header_is_on_both_sides() -> None:
    row = {
        "scheme": "hmac",
        "hash": "sha256",
        "signature": {"from": "header", "name": "signature", "encoding": "hex"},
        "signed": "{header:merchant}{body}{header:merchant}",
    }
    v = verifier(row, "s")
    signature = mac("s", 'aba{"x":1}aba').hex()
    assert judge(v, request('{"x":1}', {"merchant": "aba", "signature": signature})).ok
    assert judge(v, request('ba{"x":1}ab', {"merchant": "a", "signature": signature})).code == "body.malformed"


def test_a_plain_hash_cannot_be_grown() -> None:
    """SHA-256(secret + body) tells whoever sees it the inner state; what can be appended begins with 0x80."""
    secret, body = "s3cret", b'{"a":1}'
    v = verifier("hubspot-v1", secret)
    assert judge(v, request(body, {"X-HubSpot-Signature": hashlib.sha256(secret.encode() + body).hexdigest()})).ok
    size = len(secret) + len(body)
    padding = b"\x80" + bytes(-(size + 9) % 64) + (size * 8).to_bytes(8, "big")
    grown = body + padding + b'{"admin":true}'
    headers = {"X-HubSpot-Signature": hashlib.sha256(secret.encode() + grown).hexdigest()}
    assert judge(v, request(grown, headers)).code == "body.malformed"


@pytest.mark.parametrize("value", ['a"b', "a{b", "a}b", "a[b", "a]b", "é", "a\x01b", "a\x7fb"])
def test_a_signed_header_holds_no_json(value: str) -> None:
    row = {
        "scheme": "hmac",
        "hash": "sha256",
        "signature": {"from": "header", "name": "s", "encoding": "hex"},
        "signed": "{header:x}\n{body}",
    }
    v = verifier(row, "s")
    assert judge(v, request("b", {"x": value, "s": mac("s", f"{value}\nb").hex()})).code == "header.malformed"
    assert judge(v, request("b", {"x": "a b~!", "s": mac("s", "a b~!\nb").hex()})).ok


ADDRESS = "https://hooks.example.com/in/a%20b?x=1&y=%C3%A5"


@pytest.mark.parametrize(
    ("base", "path", "query"),
    [
        ("http://hooks.example.com", "/in/a%20b", "x=1&y=%C3%A5"),
        ("https://hooks.example.com:443", "/in/a%20b", "x=1&y=%C3%A5"),
        ("https://hooks.example.com:8443", "/in/a%20b", "x=1&y=%C3%A5"),
        ("https://Hooks.example.com", "/in/a%20b", "x=1&y=%C3%A5"),
        ("https://hooks.example.com.", "/in/a%20b", "x=1&y=%C3%A5"),
        ("https://hooks.example.com/x", "/in/a%20b", "x=1&y=%C3%A5"),
        ("https://hooks.example.com", "/in/a%20b/", "x=1&y=%C3%A5"),
        ("https://hooks.example.com", "/in//a%20b", "x=1&y=%C3%A5"),
        ("https://hooks.example.com", "/In/a%20b", "x=1&y=%C3%A5"),
        ("https://hooks.example.com", "/in/a b", "x=1&y=%C3%A5"),
        ("https://hooks.example.com", "/in/a+b", "x=1&y=%C3%A5"),
        ("https://hooks.example.com", "/in/./a%20b", "x=1&y=%C3%A5"),
        ("https://hooks.example.com", "/%69n/a%20b", "x=1&y=%C3%A5"),
        ("https://hooks.example.com", "/in/a%20b", "y=%C3%A5&x=1"),
        ("https://hooks.example.com", "/in/a%20b", "x=1&y=%c3%a5"),
        ("https://hooks.example.com", "/in/a%20b", "x=1&y=å"),
        ("https://hooks.example.com", "/in/a%20b", "x=1&y=%C3%A5&"),
        ("https://hooks.example.com", "/in/a%20b", "x=1&y=%C3%A5#f"),
        ("https://hooks.example.com", "/in/a%20b", ""),
        ("https://hooks.example.com", "/in/a%20b", None),
    ],
)
@pytest.mark.parametrize("profile", ["square", "trello"])
def test_an_address_is_signed_byte_for_byte(profile: str, base: str, path: str, query: str | None) -> None:
    def of(base: str, path: str, query: str | None) -> str:
        v = verifier(profile, "s", public_url=base)
        return judge(v, request("{}", headers, path=path, query=query)).code

    text, name, hashed = {
        "square": (ADDRESS + "{}", "x-square-hmacsha256-signature", "sha256"),
        "trello": ("{}" + ADDRESS, "X-Trello-Webhook", "sha1"),
    }[profile]
    headers = {name: b64(mac("s", text, hashed))}
    assert of("https://hooks.example.com", "/in/a%20b", "x=1&y=%C3%A5") == "ok"
    assert of("https://hooks.example.com/in/", "/a%20b", "x=1&y=%C3%A5") == "ok"
    assert of(base, path, query) in ("signature.mismatch", "url.mismatch")


def test_the_address_as_the_request_came_serves_a_source_without_public_url() -> None:
    v = verifier("square", "s", public_url=None)
    sent = request("{}", {"x-square-hmacsha256-signature": b64(mac("s", "https://h.example/in{}"))})
    assert v(sent, None, NOW, b"https://h.example").ok
    assert v(sent, None, NOW, b"http://h.example").code == "signature.mismatch"
    assert v(sent, None, NOW).code == "url.mismatch"
    assert v.needs_url
    fixed = verifier("square", "s", public_url="https://h.example")
    assert fixed(sent, None, NOW, b"https://evil.example").ok  # what is configured counts
