"""Every vector gets its verdict, and no request near a valid one is taken for it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from verify_world import BODIES, CATALOG, NOW, VALID, VECTORS, judge, request_of, verdict_of, verifier_of

from kafka_webhook_bridge.body import parse_json
from kafka_webhook_bridge.event import Request
from kafka_webhook_bridge.sources.verify import CODES
from kafka_webhook_bridge.sources.verify.compiled import traits_of
from kafka_webhook_bridge.sources.verify.model import Named, parse_verify


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["id"])
def test_vector(vector: dict[str, Any]) -> None:
    verdict = verdict_of(vector)
    assert verdict.ok is vector["expected"], verdict
    assert verdict.code in CODES
    assert (verdict.code == "ok") is verdict.ok


def test_the_vectors_are_all_there() -> None:
    assert len(VECTORS) == 945
    assert len(VALID) == 317
    assert {vector["profile"] for vector in VECTORS} <= set(CATALOG.names())


def test_most_vectors_are_changed_below() -> None:
    assert len(BODIES) > 200


@pytest.mark.parametrize("vector", BODIES, ids=lambda vector: vector["id"])
def test_no_byte_of_a_covered_body_can_change(vector: dict[str, Any]) -> None:
    verifier, request, now = verifier_of(vector), request_of(vector), vector["now"]
    body = request.body
    step = max(1, len(body) // 40)
    changed = [
        *(body[:at] + bytes([body[at] ^ bit]) + body[at + 1 :] for at in range(0, len(body), step) for bit in (1, 32)),
        *(body[:at] + body[at + 1 :] for at in range(0, len(body), step)),
        *(body[:at] + b" " + body[at:] for at in range(0, len(body) + 1, step)),
        body + b"\n", body + b"\0", b"\xef\xbb\xbf" + body, body[::-1] + b"x", b"", body + body, body[1:],
    ]  # fmt: skip
    for one in changed:
        if one != body:
            assert not judge(verifier, request._replace(body=one), now).ok, one


@pytest.mark.parametrize("vector", VALID, ids=lambda vector: vector["id"])
def test_nothing_but_the_secret_verifies(vector: dict[str, Any]) -> None:
    if not vector["secrets"]:
        return
    for secret in ("x", vector["secrets"][0] + "x", vector["secrets"][0][:-1] or "y", vector["secrets"][0].swapcase()):
        other = {**vector, "secrets": [secret]}
        if secret in vector["secrets"] or (vector["profile"] == "polar" and secret.swapcase() == secret):
            continue
        if _same_key(vector, secret):
            continue
        assert not verdict_of(other).ok, secret


def _same_key(vector: dict[str, Any], secret: str) -> bool:
    """Keys in hex are of either case, base64 may lack its padding, and what is around PEM does not matter."""
    row = parse_verify(CATALOG.load(vector["profile"]).verify)
    key = getattr(row, "key", None)
    in_hex = (key is not None and key.encoding == "hex") or (isinstance(row, Named) and row.code == "adyen")
    known = vector["secrets"][0]
    if "BEGIN PUBLIC KEY" in known:
        return secret != "x"
    return (in_hex and secret.lower() == known.lower()) or secret.rstrip("=") == known.rstrip("=")


def _sent_twice(request: Request) -> list[Request]:
    return [request._replace(headers=[*request.headers, pair]) for pair in request.headers]


@pytest.mark.parametrize("vector", VALID, ids=lambda vector: vector["id"])
def test_a_header_that_is_read_stands_once(vector: dict[str, Any]) -> None:
    """Equal or not, first or last, another spelling: a second line is refused, or the header is not read at all."""
    verifier, request, now = verifier_of(vector), request_of(vector), vector["now"]
    for index, (name, value) in enumerate(request.headers):
        without = request._replace(headers=request.headers[:index] + request.headers[index + 1 :])
        if judge(verifier, without, now).ok:
            continue
        for more in (value, b"x", b"", value + b"x"):
            for second in (name, name.upper(), name.lower()):
                before = request._replace(headers=[(second, more), *request.headers])
                after = request._replace(headers=[*request.headers, (second, more)])
                assert judge(verifier, before, now).code == "header.duplicate"
                assert judge(verifier, after, now).code == "header.duplicate"


@pytest.mark.parametrize("vector", VALID, ids=lambda vector: vector["id"])
def test_the_spelling_of_header_names_means_nothing(vector: dict[str, Any]) -> None:
    verifier, request = verifier_of(vector), request_of(vector)
    for spell in (bytes.upper, bytes.lower, bytes.title):
        respelt = request._replace(headers=[(spell(name), value) for name, value in request.headers])
        assert judge(verifier, respelt, vector["now"]).ok


@pytest.mark.parametrize("vector", VALID, ids=lambda vector: vector["id"])
def test_headers_that_are_needed_cannot_be_empty_cut_or_longer(vector: dict[str, Any]) -> None:
    verifier, request, now = verifier_of(vector), request_of(vector), vector["now"]
    for index, (name, value) in enumerate(request.headers):
        without = request._replace(headers=request.headers[:index] + request.headers[index + 1 :])
        if judge(verifier, without, now).ok or name.lower() == b"content-type":
            continue
        others = [b"", b" ", b"0", b"="]
        if b"," not in value and b";" not in value:  # a list has items that prove nothing
            others += [value[:-1], value[1:], value[: len(value) // 2], value + b"0", value + b"="]
        for other in others:
            headers = [*request.headers]
            headers[index] = (name, other)
            assert not judge(verifier, request._replace(headers=headers), now).ok, (name, other)


@pytest.mark.parametrize("vector", VALID, ids=lambda vector: vector["id"])
def test_a_verdict_is_of_its_request_alone(vector: dict[str, Any]) -> None:
    """A verifier keeps nothing: the same request passes again, also after one that was refused."""
    verifier, request, now = verifier_of(vector), request_of(vector), vector["now"]
    assert judge(verifier, request, now).ok
    judge(verifier, request._replace(body=b"[]", headers=[]), now)
    assert judge(verifier, request, now).ok


def test_traits_are_known_for_every_profile() -> None:
    for profile in CATALOG.load_all():
        traits = traits_of(parse_verify(profile.verify))
        assert traits.scheme
        assert not (traits.scheme in ("token", "basic", "none") and traits.covers_body)


SAMPLE = st.sampled_from(VALID)
HEADER_BYTES = st.binary(max_size=80).map(lambda raw: raw.replace(b"\r", b"").replace(b"\n", b"").strip())


@given(SAMPLE, st.data())
def test_arbitrary_requests_never_raise_and_never_verify(vector: dict[str, Any], data: st.DataObject) -> None:
    """Headers that the profile reads, with whatever in them, before whatever body."""
    names = [name.encode() for name in vector["headers"]]
    body = data.draw(
        st.one_of(st.binary(max_size=200), st.just(b"{}"), st.just(b"[]"), st.just(vector["body"].encode()))
    )
    pairs = [(name, data.draw(HEADER_BYTES)) for name in names if data.draw(st.booleans())]
    query = data.draw(st.one_of(st.none(), st.binary(max_size=40)))
    path = data.draw(st.one_of(st.just(b"/in"), st.binary(max_size=20)))
    assume(names or body != vector["body"].encode() or query is not None)
    assume(vector["profile"] not in NOTHING_BUT_BODY or body != vector["body"].encode())
    method = data.draw(st.sampled_from([b"GET", b"POST", b"PUT"]))
    request = Request(method, path, query, pairs, body, "127.0.0.1")
    verdict = verifier_of(vector)(request, parse_json(body), data.draw(st.sampled_from([vector["now"], 0, NOW * 1000])))
    assert not verdict.ok
    assert verdict.code in CODES


# What proves them is all in the body.
NOTHING_BUT_BODY = {
    vector["profile"] for vector in VALID if not any(name.lower() != "content-type" for name in vector["headers"])
} | {"shipmondo", "aws-sns", "pandadoc"}


@given(SAMPLE, st.data())
def test_a_valid_request_with_one_other_byte_never_raises(vector: dict[str, Any], data: st.DataObject) -> None:
    request = request_of(vector)
    if request.body and data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(request.body) - 1))
        byte = data.draw(st.integers(0, 255))
        request = request._replace(body=request.body[:at] + bytes([byte]) + request.body[at + 1 :])
    elif request.headers:
        index = data.draw(st.integers(0, len(request.headers) - 1))
        name, value = request.headers[index]
        at = data.draw(st.integers(0, len(value)))
        headers = [*request.headers]
        headers[index] = (name, value[:at] + bytes([data.draw(st.integers(0, 255))]) + value[at + 1 :])
        request = request._replace(headers=headers)
    assert judge(verifier_of(vector), request, vector["now"]).code in CODES
