"""Partition keys: what a template takes of a request, and that no request can make it fail."""

from __future__ import annotations

import contextlib
from hashlib import sha256
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_webhook_bridge.body import JSON_BYTES_MAX, NOT_JSON, parse_json
from kafka_webhook_bridge.event import Request
from kafka_webhook_bridge.sources.keys import (
    ELEMENTS_MAX,
    KEY_BYTES_MAX,
    PARTS_MAX,
    BodyHash,
    KeyTemplate,
    Part,
    dedupe_key,
    parse_template,
)


def request(query: bytes | None = None, headers: list[tuple[bytes, bytes]] | None = None, body: bytes = b"") -> Request:
    return Request(b"POST", b"/s", query, headers or [], body, "127.0.0.1")


def of_json(template: str, value: Any) -> bytes | None:
    return parse_template(template).render(request(), value)


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("A-1", b"A-1"),
        ("ü", "ü".encode()),
        (0, b"0"),
        (-7, b"-7"),
        (2**64 - 1, b"18446744073709551615"),
        (True, b"true"),
        (False, b"false"),
        ("", None),
        (1.5, None),
        (None, None),
        ({"x": 1}, None),
        ([1], None),
    ],
)
def test_which_json_values_are_keys(value: Any, key: bytes | None) -> None:
    assert of_json("{json:order.id}", {"order": {"id": value}}) == key


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("a.0", b"x"),
        ("a.1.b", b"y"),
        ("a.2", None),
        ("a.-1", None),
        ("a.00", b"x"),
        ("a.999999999", None),
        ("a.٠", None),
        ("b", None),
        ("a", None),
        ("a.0.c", None),
        ("0", b"zero"),
        ("a.1.b.c", None),
    ],
)
def test_steps_into_lists_and_objects(path: str, key: bytes | None) -> None:
    assert of_json(f"{{json:{path}}}", {"a": ["x", {"b": "y"}], "0": "zero"}) == key


def test_a_body_that_is_no_json_has_no_key() -> None:
    assert of_json("{json:id}", NOT_JSON) is None
    assert of_json("{json:0}", ["x"]) == b"x"
    assert of_json("{json:id}", "id") is None


@pytest.mark.parametrize(
    ("query", "key"),
    [
        (b"shop=a", b"a"),
        (b"x=1&shop=a&shop=b", b"a"),
        (b"shop=", None),
        (b"shop", None),
        (None, None),
        (b"", None),
        (b"sh%6Fp=a%20b+c%ff", b"a b c\xff"),
        (b"SHOP=a", None),
        (b"&&=&shop=a=b", b"a=b"),
        (b"shop=%zz", b"%zz"),
    ],
)
def test_query(query: bytes | None, key: bytes | None) -> None:
    assert parse_template("{query:shop}").render(request(query)) == key


@pytest.mark.parametrize(
    ("body", "key"),
    [
        (b"MessageSid=SM1&Body=a%26b", b"SM1"),
        (b"Body=x&MessageSid=S+M%31", b"S M1"),
        (b"MessageSid=", None),
        (b"", None),
        (b'{"MessageSid":"SM1"}', None),
        (b"&" * (ELEMENTS_MAX - 1) + b"MessageSid=1", b"1"),
        (b"&" * ELEMENTS_MAX + b"MessageSid=1", None),
        (b"MessageSid=1&" + b"x" * JSON_BYTES_MAX, None),
    ],
)
def test_form(body: bytes, key: bytes | None) -> None:
    template = parse_template("{form:MessageSid}")
    assert not template.needs_json
    assert template.render(request(body=body)) == key


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ([{"id": "a"}, {"id": 2}], b"a,2"),
        ([{"id": "a"}], b"a"),
        ([{"id": "a"}, {}], None),
        ([], None),
        ([{"id": 1}] * ELEMENTS_MAX, b"1" + b",1" * (ELEMENTS_MAX - 1)),
        ([{"id": 1}] * (ELEMENTS_MAX + 1), None),
        ({"message_event": {"id": "a"}}, b"a"),
        ("a", None),
    ],
)
def test_a_star_is_every_element(value: Any, key: bytes | None) -> None:
    if key is not None and len(key) > KEY_BYTES_MAX:
        key = sha256(key).hexdigest().encode()
    assert of_json("{json:events.*.id}", {"events": value}) == key


def test_header() -> None:
    template = parse_template("{header:X-Tenant}")
    assert not template.needs_json
    assert template.render(request(headers=[(b"x-TENANT", b"\xff1"), (b"X-Tenant", b"2")])) == b"\xff1"
    assert template.render(request(headers=[(b"X-Tenant", b"")])) is None
    assert template.render(request(headers=[(b"X-Tenants", b"1")])) is None


def test_a_template_of_everything() -> None:
    template = parse_template("{{{query:shop}}}/{header:T}-{json:id}!")
    assert template.needs_json
    assert template.render(request(b"shop=s", [(b"T", b"t")]), {"id": 5}) == b"{s}/t-5!"
    assert template.render(request(b"shop=s"), {"id": 5}) is None


def test_a_long_key_becomes_its_hash() -> None:
    at_most = "k" * KEY_BYTES_MAX
    assert of_json("{json:id}", {"id": at_most}) == at_most.encode()
    assert of_json("{json:id}", {"id": at_most + "k"}) == sha256((at_most + "k").encode()).hexdigest().encode()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the same for every event"),
        ("order", "the same for every event"),
        ("{{json:id}}", "the same for every event"),
        ("{json:id", "a brace without its partner at column 1; write {{ for"),
        ("json:id}", "at column 8; write }} for"),
        ("{JSON:id}", "none of json, header, query"),
        ("{headers:X}", "did you mean header?"),
        ("{json}", "lacks a name"),
        ("{json:}", "lacks a name"),
        ("{}", "none of json"),
        ("{json:a..b}", "an empty step"),
        ("{json:.a}", "an empty step"),
        ("{json:a.*.b.*}", "more than one `*`"),
        ("{query:a}" * (PARTS_MAX + 1), "more than 16 parts"),
    ],
)
def test_a_wrong_template_is_told(text: str, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_template(text)
    assert words in str(caught.value)


@given(st.text(alphabet=st.sampled_from("{}:.*jsonheaderqueryfm0a- ü"), max_size=40))
def test_any_text_is_a_template_or_a_sentence(text: str) -> None:
    with contextlib.suppress(ValueError):
        template = parse_template(text)
        assert any(isinstance(part, Part) for part in template.parts)
        assert template.text == text


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60), st.text("ab{}", min_size=1, max_size=60))
def test_literals_come_out_as_they_went_in(before: str, after: str) -> None:
    escaped = [text.replace("{", "{{").replace("}", "}}") for text in (before, after)]
    template = parse_template("{query:q}".join(escaped))
    assert template.render(request(b"q=1")) == f"{before}1{after}".encode()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.sampled_from("ab01"), inside, max_size=3),
    max_leaves=10,
)
TEMPLATES = [
    parse_template(text)
    for text in ("{json:a}", "{json:a.b.0}", "x{json:0}{query:q}", "{header:H}{json:b.1}", "{json:a.*.b}", "{json:*}")
]


@given(st.sampled_from(TEMPLATES), _JSON, st.binary(max_size=30), st.binary(max_size=10))
def test_no_request_makes_a_template_fail(template: KeyTemplate, value: Any, query: bytes, header: bytes) -> None:
    key = template.render(request(query, [(b"h", header)]), value)
    assert key is None or 0 < len(key) <= KEY_BYTES_MAX


@given(st.binary(max_size=200))
def test_rule_28_any_body_has_a_key_or_none(body: bytes) -> None:
    assert isinstance(TEMPLATES[0].render(request(body=body), parse_json(body)), bytes | None)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=KEY_BYTES_MAX // 4))
def test_equal_ids_have_equal_keys(text: str) -> None:
    document = parse_json(orjson.dumps({"a": text}))
    assert TEMPLATES[0].render(request(), document) == text.encode()


def test_rule_13_a_dedupe_key_is_known_beforehand() -> None:
    """So that whoever reads Kafka can make it, too."""
    framed = b"\0\0\0\x06github" + b"\0\0\0\x02d1"
    assert dedupe_key(b"github", b"d1") == sha256(framed).hexdigest()


@given(st.binary(), st.binary(), st.binary(), st.binary())
def test_rule_13_other_parts_are_another_dedupe_key(a: bytes, b: bytes, c: bytes, d: bytes) -> None:
    assert (dedupe_key(a, b) == dedupe_key(c, d)) == ((a, b) == (c, d))
    assert dedupe_key(a + b, c) != dedupe_key(a, b + c) or not b


def test_rule_13_equal_bodies_have_one_delivery_id() -> None:
    assert BodyHash().render(request(body=b"x")) == sha256(b"x").digest()
    assert BodyHash().render(request(body=b"")) == sha256(b"").digest()
