"""Hand-shakes: which requests they are, and what is given back to a stranger."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from base64 import b64encode
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_webhook_bridge.body import NOT_JSON, parse_json
from kafka_webhook_bridge.event import Request
from kafka_webhook_bridge.sources import profile
from kafka_webhook_bridge.sources.catalog import Catalog
from kafka_webhook_bridge.sources.handshake import Greeting, Handshake, compile_handshakes
from kafka_webhook_bridge.sources.proof import NoKeys
from kafka_webhook_bridge.sources.verify import compile as compile_verifier

URL = b"https://hooks.test/in/s"


def request(method: str = "POST", query: bytes | None = None, body: bytes = b"", **headers: str) -> Request:
    lines = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    return Request(method.encode(), b"/s", query, lines, body, "")


def shake(
    params: dict[str, str] | None = None, secrets: tuple[str, ...] = ("secret",), method: str = "POST", **row: Any
) -> Handshake:
    row["match"] = {"method": method, **row.get("match", {})}
    parsed = profile.Handshake.model_validate({"name": "h", **row})
    return compile_handshakes([parsed], params=params or {}, secrets=secrets)[0]


def matches(found: Handshake, asked: Request) -> bool:
    return found.matches(asked, parse_json(asked.body))


def answer(found: Handshake, asked: Request) -> Greeting | None:
    return found.answer(asked, parse_json(asked.body), URL)


@pytest.mark.parametrize(
    ("match", "asked", "right"),
    [
        ({}, request(), True),
        ({}, request("GET"), False),
        ({"query": {"a": True}}, request(query=b"a=1"), True),
        ({"query": {"a": True}}, request(query=b"a="), False),
        ({"query": {"a": True}}, request(), False),
        ({"query": {"a": False}}, request(query=b"b=1"), True),
        ({"query": {"a b": "c d"}}, request(query=b"a+b=c%20d"), True),
        ({"header": {"X-A": "1"}}, request(x_a="1"), True),
        ({"header": {"X-A": "1"}}, request(x_a="10"), False),
        ({"header": {"X-A": {"pattern": "[a-z]+"}}}, request(x_a="abc"), True),
        ({"header": {"X-A": {"pattern": "[a-z]+"}}}, request(x_a="abc1"), False),
        ({"header": {"X-A": {"pattern": ".*"}}}, request(x_a="\xff"), False),
        ({"json": {"type": 1}}, request(body=b'{"type":1}'), True),
        ({"json": {"type": 1}}, request(body=b'{"type":11}'), False),
        ({"json": {"a.0.b": True, "c": False}}, request(body=b'[{"b":1}]'), False),
        ({"json": {"0.b": True, "c": False}}, request(body=b'[{"b":1}]'), True),
        ({"json": {"a": True}}, request(body=b"{a"), False),
        ({"form": {"id": {"pattern": "[0-9]+"}}}, request(body=b"x=1&id=7"), True),
        ({"form": {"id": {"pattern": "[0-9]+"}}}, request(body=b"id=seven"), False),
        ({"body_empty": True}, request(), True),
        ({"body_empty": True}, request(body=b"x"), False),
        ({"query": {"t": "{param:token}"}}, request(query=b"t=right"), True),
        ({"query": {"t": "{param:token}"}}, request(query=b"t=rightly"), False),
        ({"query": {"t": "{param:other}"}}, request(query=b"t="), False),
        ({"query": {"t": "{param:other}"}}, request(query=b"t={param:other}"), False),
    ],
)
def test_which_requests_it_is(match: dict[str, Any], asked: Request, right: bool) -> None:
    assert matches(shake({"token": "right"}, match=match), asked) is right


def test_answers_are_made_of_what_was_asked() -> None:
    body = "{query:q}|{header:X-H}|{json:a.0}|{param:p}|{url}|{{}}"
    found = shake({"p": "own"}, answer={"content_type": "text/plain", "body": body})
    asked = request(query=b"q=%3Cx%3E", body=b'{"a":["j"]}', x_h="h")
    assert answer(found, asked) == Greeting("h", 200, b"text/plain", (), b"<x>|h|j|own|" + URL + b"|{}", "", "")
    form = shake(answer={"body": "{form:f}"})
    assert not form.needs_json
    assert answer(form, request(body=b"f=1+2")).body == b"1 2"  # type: ignore[union-attr]


def test_digests_and_their_keys() -> None:
    found = shake(answer={"body": "{hmac:sha256:hex:{query:q}.x} {sha1:base64:{query:q}{param:p}}"}, params={"p": "p"})
    keyed = hmac.digest(b"secret", b"1.x", "sha256").hex()
    assert (
        answer(found, request(query=b"q=1")).body
        == f"{keyed} {b64encode(hashlib.sha1(b'1p').digest()).decode()}".encode()
    )  # type: ignore[union-attr]
    row = {"answer": {"body": "{secret_public}:{hmac:sha1:hex:{query:q}}"}, "key": {"after": "|", "hash": "sha1"}}
    found = shake(secrets=("pub|priv", "other|x"), **row)
    keyed = hmac.digest(hashlib.sha1(b"priv").digest(), b"1", "sha1").hex()
    assert answer(found, request(query=b"q=1")).body == f"pub:{keyed}".encode()  # type: ignore[union-attr]
    assert answer(shake(secrets=(), answer={"body": "{hmac:sha1:hex:{query:q}}"}), request(query=b"q=1")) is None


@given(st.text(min_size=1, max_size=50))
def test_no_value_escapes_its_place_in_json(value: str) -> None:
    found = shake(answer={"content_type": "application/json; charset=utf-8", "body": '{{"a":"{json:v}","b":1}}'})
    asked = request(body=json.dumps({"v": value}).encode())
    given = answer(found, asked)
    if parse_json(asked.body) is NOT_JSON:  # a lone surrogate
        assert given is None
    else:
        assert json.loads(given.body) == {"a": value, "b": 1}  # type: ignore[union-attr]


@given(st.binary(max_size=30))
def test_no_value_ends_the_header_that_it_stands_in(value: bytes) -> None:
    found = shake(answer={"headers": {"X-Back": "{query:q}"}})
    escaped = b"".join(b"%%%02X" % byte for byte in value)
    given = answer(found, request(query=b"q=" + escaped))
    if given is not None:
        ((name, text),) = given.headers
        assert (name, text) == (b"x-back", value)
        assert not set(text) & set(b"\r\n\0\x7f")


def test_what_is_missing_or_too_long_has_no_answer() -> None:
    found = shake(answer={"body": "{query:q}"})
    assert answer(found, request(query=b"q=")) is None
    assert answer(found, request()) is None
    assert answer(found, request(query=b"q=" + b"x" * 8193)) is None
    assert len(answer(found, request(query=b"q=" + b"x" * 8192)).body) == 8192  # type: ignore[union-attr]
    assert answer(shake(answer={"body": "{param:p}"}), request()) is None


def test_a_secret_that_the_source_has_not_must_be_kept_first() -> None:
    found = shake(secrets=("one", "two"), effect="store_secret", secret="{header:X-S}")
    known, new = answer(found, request(x_s="two")), answer(found, request(x_s="three"))
    assert known is not None
    assert new is not None
    assert (known.secret, new.secret) == (b"", b"three")
    assert answer(found, request()) is None


@pytest.mark.parametrize(
    ("url", "right"),
    [
        ("https://sns.eu-north-1.example.com/?a=b", True),
        ("https://SNS.eu-north-1.example.com/", True),
        ("https://sns.eu-north-1.example.com:443/", True),
        ("https://sns.eu-north-1.example.com:8443/", False),
        ("http://sns.eu-north-1.example.com/", False),
        ("https://sns.example.com/", False),
        ("https://sns.a.b.example.com/", False),
        ("https://sns.x.example.com.evil.test/", False),
        ("https://sns.x.example.com@evil.test/", False),
        ("https://evil.test/#https://sns.x.example.com/", False),
        ("https://sns.x.example.com\\@evil.test/", False),
        ("https://sns.\u00e9.example.com/", False),
        ("https://[::1]/", False),
        ("https://sns.x.example.com:99999/", False),
        ("//sns.x.example.com/", False),
    ],
)
def test_an_address_is_fetched_at_its_hosts_alone(url: str, right: bool) -> None:
    found = shake(effect="fetch_url", url="{json:u}", hosts=["sns.*.example.com"])
    given = answer(found, request(body=json.dumps({"u": url}).encode()))
    assert (given is not None) is right
    assert given is None or given.fetch == url


@pytest.mark.parametrize(
    "text", ["{query:q", "}", "{", "{hmac:sha256:{query:q}}", "{crc32:hex:{query:q}}", "{nothing:x}", "{sha256:hex:x}"]
)
def test_a_template_that_is_none(text: str) -> None:
    with pytest.raises(ValueError):
        shake(answer={"body": text})


@pytest.mark.parametrize(
    ("name", "challenge", "forged"),
    [
        ("x-twitter", {"query": b"crc_token=12345"}, {"x-twitter-webhooks-signature": "{answer}"}),
        ("smartcar", {"body": b'{"eventType":"VERIFY","data":{"challenge":"12345"}}'}, {"SC-Signature": "{answer}"}),
        (
            "smartcar", {"body": b'{"eventName":"verify","payload":{"challenge":"12345"}}'},
            {"SC-Signature": "{answer}"},
        ),
        ("linkedin", {"query": b"challengeCode=12345"}, {"X-LI-Signature": "{answer}"}),
    ],
)  # fmt: skip
def test_what_a_handshake_signs_for_a_stranger_is_no_event(
    name: str, challenge: dict[str, bytes], forged: dict[str, str]
) -> None:
    row = Catalog().load(name)
    shakes = compile_handshakes(row.handshakes, params={}, secrets=["consumer"])
    asked = Request(
        b"GET" if "query" in challenge else b"POST", b"/x", challenge.get("query"), [], challenge.get("body", b""), ""
    )
    document = parse_json(asked.body)
    (found,) = [one for one in shakes if one.matches(asked, document)]
    greeting = found.answer(asked, document, b"")
    assert greeting is not None
    told = json.loads(greeting.body)
    answer = told.get("response_token") or told.get("challengeResponse") or told["challenge"]
    verifier = compile_verifier(row, ["consumer"], params={}, public_url=None, keys=NoKeys())
    for said in (b"12345", b" 12345", b"12345\n", b"hmacsha256=12345"):
        headers = [(key.encode(), value.format(answer=answer).encode()) for key, value in forged.items()]
        request = Request(b"POST", b"/x", None, headers, said, "")
        assert not verifier(request, parse_json(said), 0.0).ok


def test_what_braintree_is_answered_is_no_payload() -> None:
    secret, challenge = "public|private", "20f9f8ed05f77439fe955c977e4c8a53"
    row = Catalog().load("braintree")
    (found,) = compile_handshakes(row.handshakes, params={}, secrets=[secret])
    greeting = found.answer(Request(b"GET", b"/x", f"bt_challenge={challenge}".encode(), [], b"", ""), NOT_JSON, b"")
    assert greeting is not None
    verifier = compile_verifier(row, [secret], params={}, public_url=None, keys=NoKeys())
    signature = quote(greeting.body)
    for payload in (challenge, quote(f"{challenge}\n")):
        body = f"bt_signature={signature}&bt_payload={payload}".encode()
        headers = [(b"content-type", b"application/x-www-form-urlencoded")]
        assert not verifier(Request(b"POST", b"/x", None, headers, body, ""), NOT_JSON, 0.0).ok


def test_who_signs_what_a_stranger_chose_is_one_of_these() -> None:
    """Whoever adds another one adds a case above."""
    signing = {
        row.name
        for row in Catalog().load_all()
        for one in row.handshakes
        if not one.verify_first and "{hmac:" in one.answer.body
    }
    assert signing == {"x-twitter", "smartcar", "linkedin", "braintree"}


def test_who_signs_what_a_stranger_chose_bounds_it_by_a_pattern() -> None:
    """Else a hand-shake would be a way to get any event signed."""
    for row in Catalog().load_all():
        for one in row.handshakes:
            if "{hmac:" in one.answer.body and not one.verify_first:
                conditions = {**one.match.query, **one.match.json_, **one.match.header, **one.match.form}
                chosen = one.answer.body.partition("{hmac:")[2].partition("{")[2].partition("}")[0].partition(":")[2]
                pattern = conditions[chosen]
                assert isinstance(pattern, profile.Condition), row.name
                assert not re.fullmatch(pattern.pattern, '{"a":1}'), row.name
