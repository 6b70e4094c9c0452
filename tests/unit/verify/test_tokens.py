"""Tokens, Basic, several ways at once, and where in a body or address a value stands."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from token_world import jwk, private
from verify_world import NOW, b64, judge, mac, request, verifier

from kafka_webhook_bridge.body import NOT_JSON
from kafka_webhook_bridge.sources.verify import OfflineKeys


def token(value: str | bytes, *secrets: str) -> str:
    return judge(verifier("gitlab-token", *(secrets or ("s3cret",))), request("", {"X-Gitlab-Token": value})).code


def test_a_token_is_the_secret_and_nothing_near() -> None:
    assert token("s3cret") == "ok"
    assert token("s3cret", "old", "s3cret") == "ok"
    assert token("pässwörd", "pässwörd") == "ok"
    for value in (
        "S3cret",
        "s3cre",
        "s3crett",
        "s3cret\x00",
        "x",
        "s3cret s3cret",
        "Bearer s3cret",
        b"\xff\xfe",
        "s3cret,s3cret",
        "*",
    ):
        assert token(value) == "credentials.wrong", value
    for value in ("", " ", "\t"):
        assert token(value) == "header.missing"
    assert token("pa\u0308sswo\u0308rd", "pässwörd") == "credentials.wrong"  # not normalised
    assert judge(verifier("gitlab-token", "s"), request("", [("X-Gitlab-Token", "s")] * 2)).code == "header.duplicate"


def test_a_token_behind_a_word() -> None:
    v = verifier("brevo", "brevo-token")
    for value in ("Bearer brevo-token", "bearer brevo-token"):
        assert judge(v, request("", {"Authorization": value})).ok
    for value in (
        "brevo-token",
        "Bearer",
        "Bearer ",
        "Bearer  brevo-token",
        "Bearer brevo-token x",
        "Basic brevo-token",
    ):
        assert not judge(v, request("", {"Authorization": value})).ok, value


def test_a_token_in_the_address() -> None:
    v = verifier("query-token", "a b&c")
    assert judge(v, request("", query="token=a%20b%26c")).ok
    assert judge(v, request("", query="x=1&token=a+b%26c&y")).ok
    assert judge(v, request("", query="%74oken=a+b%26c")).ok
    for query in (
        None,
        "",
        "token",
        "token=",
        "TOKEN=a+b%26c",
        "token=a+b",
        "token=a+b&c",
        "token[]=a+b%26c",
        "x=token=a+b%26c",
        "token=a+b%26c;x",
    ):
        assert not judge(v, request("", query=query)).ok, query
    for query in (
        "token=a+b%26c&token=a+b%26c",
        "token=x&token=a+b%26c",
        "token=a+b%26c&token=",
        "token&token=a+b%26c",
    ):
        assert not judge(v, request("", query=query)).ok, query
    assert not judge(v, request("", query="&".join(["x=1"] * 2000 + ["token=a+b%26c"]))).ok


def test_a_token_in_the_body() -> None:
    v = verifier("figma", "pass")
    assert judge(v, request('{"passcode":"pass"}')).ok
    assert judge(v, request('{"x":{"passcode":"no"},"passcode":"pass"}')).ok
    assert judge(v, request('{"passcode":"p\\u0061ss"}')).ok
    for body in (
        '{"passcode":"Pass"}',
        '{"passcode":""}',
        '{"passcode":null}',
        "{}",
        "[]",
        "",
        "null",
        '"pass"',
        '{"passcode":["pass"]}',
        '{"passcode":{"passcode":"pass"}}',
        '{"passcode":true}',
        '{"PASSCODE":"pass"}',
        '{"passcode":"pass"',
        "passcode=pass",
        '\ufeff{"passcode":"pass"}',
        '{"passcode":"pass"}{}',
        "{'passcode':'pass'}",
    ):
        assert not judge(v, request(body)).ok, body
    for body in (
        '{"passcode":"x","passcode":"pass"}',
        '{"passcode":"pass","passcode":"x"}',
        '{"passcode":"pass","a":{"b":1,"b":1}}',
    ):
        assert judge(v, request(body)).code == "body.malformed", body
    assert judge(verifier("figma", "123"), request('{"passcode":123}')).ok  # as it is written
    assert not judge(verifier("figma", "123"), request('{"passcode":123.0}')).ok
    assert not judge(verifier("figma", "true"), request('{"passcode":"True"}')).ok


def test_bodies_above_the_bounds_are_not_read() -> None:
    v = verifier("figma", "pass")
    deep = '{"a":' * 101 + "1" + "}" * 101
    for body in (
        f'{{"passcode":"pass","x":{deep}}}',
        '{"passcode":"pass","x":"' + "x" * 1024**2 + '"}',
        '{"passcode":"pass","x":' + "[" * 100_000,
    ):
        assert judge(v, request(body)).code == "body.malformed"
    assert judge(v, request('{"passcode":"pass","x":' + "9" * 10_000 + "}")).code in ("ok", "body.malformed")


def test_a_document_that_was_not_parsed_is_parsed() -> None:
    v = verifier("figma", "pass")
    assert v(request('{"passcode":"pass"}'), NOT_JSON, NOW).ok
    assert v(request("no"), NOT_JSON, NOW).code == "body.malformed"


def test_every_element_has_the_token() -> None:
    v = verifier("ms-graph", "one", "two")

    def of(document: Any) -> str:
        return judge(v, request(json.dumps(document))).code

    assert of({"value": [{"clientState": "one"}]}) == "ok"
    assert of({"value": [{"clientState": "one"}, {"clientState": "two"}]}) == "ok"
    for wrong in ({"clientState": "no"}, {"clientState": "One"}, {"clientState": "one "}):
        for elements in ([wrong], [wrong, {"clientState": "one"}], [{"clientState": "one"}, wrong]):
            assert of({"value": elements}) == "credentials.wrong"
    for lacking in ({}, {"clientState": None}, {"clientState": ""}, [], None, "one", {"clientstate": "one"}):
        assert of({"value": [{"clientState": "one"}, lacking]}) == "credentials.missing", lacking
    for document in (
        {"value": []},
        {},
        [],
        None,
        {"value": {"clientState": "one"}},
        {"value": "one"},
        {"Value": [{"clientState": "one"}]},
    ):
        assert of(document) == "body.malformed", document


def basic(value: str, *secrets: str) -> str:
    return judge(verifier("postmark", *(secrets or ("hook:s3:cret",))), request("", {"Authorization": value})).code


def test_basic() -> None:
    def of(text: str) -> str:
        return "Basic " + b64(text.encode())

    assert basic(of("hook:s3:cret")) == "ok"
    assert basic(of("hook:s3:cret").replace("Basic", "bAsIc")) == "ok"
    assert basic(of("two:2"), "one:1", "two:2") == "ok"
    assert basic(of("one:2"), "one:1", "two:2") == "credentials.wrong"
    assert basic(of("åsa:lösen"), "åsa:lösen") == "ok"
    for text in (
        "hook:s3",
        "hook:",
        ":s3:cret",
        "",
        ":",
        "Hook:s3:cret",
        "hook:s3:cret ",
        "hook",
        "hook:s3:cret\n",
        "hook:s3:cret\x00",
    ):
        assert basic(of(text)) == "credentials.wrong", text
    right = of("hook:s3:cret")
    for value in (
        "hook:s3:cret",
        right[6:],
        right.replace("Basic", "Bearer"),
        right.replace(" ", ""),
        right + "=",
        right + " x",
        f"{right}, {right}",
        "Basic",
        "Basic ",
        right[:-1],
        "Basic " + base64.urlsafe_b64encode(b"hook:s3:cret\xff\xff").decode(),
    ):
        assert basic(value) != "ok", value
    assert judge(verifier("postmark", "a:b"), request("")).code == "credentials.missing"
    assert (
        judge(
            verifier("postmark", "a:b"), request("", [("Authorization", of("a:b")), ("authorization", of("a:b"))])
        ).code
        == "header.duplicate"
    )


TOKEN = {"scheme": "token", "signature": {"from": "header", "name": "X-Token"}}
HMAC = {
    "scheme": "hmac",
    "hash": "sha256",
    "signature": {"from": "header", "name": "X-Sig", "encoding": "hex"},
    "signed": "{body}",
}


def test_all_ways_and_any_way() -> None:
    both, either = (
        verifier({"scheme": "all", "of": [TOKEN, HMAC]}, "s"),
        verifier({"scheme": "any", "of": [TOKEN, HMAC]}, "s"),
    )
    good, bad = mac("s", "b").hex(), mac("s", "c").hex()
    for token_text, signature, all_ok, any_ok in (
        ("s", good, 1, 1),
        ("s", bad, 0, 1),
        ("x", good, 0, 1),
        ("x", bad, 0, 0),
    ):
        sent = request("b", {"X-Token": token_text, "X-Sig": signature})
        assert judge(both, sent).ok is bool(all_ok)
        assert judge(either, sent).ok is bool(any_ok)
    assert both.covers_body
    assert not either.covers_body
    assert (both.scheme, either.scheme) == ("token+hmac-sha256", "token|hmac-sha256")
    assert not judge(either, request("b")).ok


def test_a_secret_need_be_a_key_for_one_reading_alone() -> None:
    """Polar's secret is text, or base64 behind `whsec_`."""
    text = f"id.{NOW}.b"
    for secret, key in (
        ("polar_whs_x-y", b"polar_whs_x-y"),
        ("whsec_" + b64(b"k" * 32), b"k" * 32),
        ("whsec_" + b64(b"k" * 32), ("whsec_" + b64(b"k" * 32)).encode()),
    ):
        headers = {"webhook-id": "id", "webhook-timestamp": str(NOW), "webhook-signature": "v1," + b64(mac(key, text))}
        assert judge(verifier("polar", secret), request("b", headers)).ok
        assert not judge(
            verifier("polar", secret), request("b", {**headers, "webhook-timestamp": str(NOW - 301)}), NOW
        ).ok


def test_none_is_open_and_says_so() -> None:
    v = verifier("none")
    assert judge(v, request("x")).ok
    assert (v.scheme, v.covers_body, v.slow, v.needs_json) == ("none", False, False, False)


FORM = "application/x-www-form-urlencoded"


def test_a_signed_form_field_is_decoded_and_stands_once() -> None:
    v = verifier("gitea-form", "s")
    payload = '{"a":"å b+&="}'
    sent = {"X-Gitea-Signature": mac("s", payload).hex(), "Content-Type": FORM}
    encoded = "payload=%7B%22a%22%3A%22%C3%A5+b%2B%26%3D%22%7D"
    assert judge(v, request(encoded, sent)).ok
    assert judge(v, request(f"x=1&{encoded}&y=", sent)).ok
    for body in (
        f"{encoded}&payload=x",
        f"payload=x&{encoded}",
        f"{encoded}&%70ayload=x",
        f"{encoded}&",
        f"&{encoded}",
        f"{encoded}&x",
        encoded[:-1],
        encoded + "%",
        encoded + "%2",
        encoded.replace("%22", "%ZZ"),
        "payload",
        "",
        f"{encoded}&=1",
        encoded.upper(),
    ):
        assert not judge(v, request(body, sent)).ok, body


def test_other_times_and_ids_in_a_form() -> None:
    v = verifier("mailgun-legacy-form", "s")
    right = mac("s", f"{NOW}abc").hex()
    assert judge(v, request(f"timestamp={NOW}&token=abc&signature={right}")).ok
    assert not judge(v, request(f"timestamp={NOW}a&token=bc&signature={right}")).ok
    assert not judge(v, request(f"timestamp={str(NOW)[:-1]}&token=0abc&signature={right}")).ok
    assert not judge(v, request(f"timestamp={NOW}&token=abc&token=abc&signature={right}")).ok


def test_times_and_types_cannot_move_into_each_other() -> None:
    """Dropbox Sign signs `{time}{type}` of JSON inside a form field."""
    v = verifier("dropbox-sign", "s")

    def of(time: str, kind: str, signature: str) -> str:
        event = {"event": {"event_time": time, "event_type": kind, "event_hash": signature}}
        boundary = '--b0\r\nContent-Disposition: form-data; name="json"\r\n\r\n' + json.dumps(event) + "\r\n--b0--\r\n"
        return judge(v, request(boundary, {"Content-Type": "multipart/form-data; boundary=b0"})).code

    right = mac("s", f"{NOW}sent").hex()
    assert of(str(NOW), "sent", right) == "ok"
    assert of(str(NOW)[:-1], "0sent", right) != "ok"
    assert of(f"{NOW}s", "ent", right) != "ok"


PART = (
    'Content-Disposition: form-data; name="json"\r\n\r\n'
    '{"event":{"event_time":"%d","event_type":"t","event_hash":"%s"}}'
)


@pytest.mark.parametrize(
    ("kind", "body", "ok"),
    [
        ("multipart/form-data; boundary=b", "--b\r\nPART\r\n--b--\r\n", True),
        ('multipart/form-data; boundary="b"', "--b\r\nPART\r\n--b--", True),
        (
            "Multipart/Form-Data; charset=utf-8; Boundary=b",
            "--b\r\nContent-Disposition: form-data; name=x\r\n\r\n\r\n--b\r\nPART\r\n--b--\r\n",
            False,
        ),
        (
            "multipart/form-data; boundary=b",
            '--b\r\nContent-Disposition: form-data; name="x"; filename="json"\r\n\r\n1\r\n--b\r\nPART\r\n--b--\r\n',
            True,
        ),
        ("multipart/form-data; boundary=b", "--b\r\nPART\r\n--b\r\nPART\r\n--b--\r\n", False),
        ("multipart/form-data; boundary=b", "--b\r\nPART\r\n", False),
        ("multipart/form-data; boundary=b", "--b\nPART\n--b--\n", False),
        ("multipart/form-data; boundary=c", "--b\r\nPART\r\n--b--\r\n", False),
        ("multipart/form-data", "--b\r\nPART\r\n--b--\r\n", False),
        ("multipart/form-data; boundary=b; boundary=c", "--b\r\nPART\r\n--b--\r\n", False),
        ("multipart/form-data; boundary=b", "", False),
        ("multipart/form-data; boundary=b", "--b--", False),
        (
            "multipart/form-data; boundary=b",
            '--b\r\nContent-Disposition: form-data; name="x\\"; name="json"\r\n\r\n{}\r\n--b--',
            False,
        ),
        ("multipart/form-data; boundary=b", "--b\r\nPART" * 200 + "\r\n--b--", False),
    ],
)
def test_multipart(kind: str, body: str, ok: bool) -> None:
    part = PART % (NOW, mac("s", f"{NOW}t").hex())
    assert judge(verifier("dropbox-sign", "s"), request(body.replace("PART", part), {"Content-Type": kind})).ok is ok


def test_public_keys_of_a_set_are_all_tried() -> None:
    message = f"r\nu\n{NOW}\n" + hashlib.sha256(b"b").hexdigest()
    sent = {"X-Fal-Webhook-Request-Id": "r", "X-Fal-Webhook-User-Id": "u", "X-Fal-Webhook-Timestamp": str(NOW)}
    sent["X-Fal-Webhook-Signature"] = private("EdDSA").sign(message.encode()).hex()
    for keys in ([jwk("EdDSA", 1), jwk("EdDSA")], [jwk("RSA"), {"kty": "OKP"}, jwk("EdDSA")]):
        assert judge(verifier("fal", keys=OfflineKeys(keys)), request("b", sent)).ok
    for keys in ([], [jwk("EdDSA", 1)], [jwk("RSA")], [jwk("EdDSA", use="enc")]):
        assert judge(verifier("fal", keys=OfflineKeys(keys)), request("b", sent)).code == "signature.mismatch"
    missing = judge(verifier("fal"), request("b", sent))
    assert missing.code == "key.unknown"
    assert missing.key_needed is not None
