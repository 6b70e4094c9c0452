"""Whether a body is JSON: one strict answer with bounds (rules.md 28)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_webhook_bridge.body import JSON_BYTES_MAX, JSON_DEPTH_MAX, NOT_JSON, parse_json


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"{}", {}),
        (b" [1, 2.5e3] \r\n", [1, 2500.0]),
        (b'"\xc3\xbc"', "ü"),
        (b"null", None),
        (b"0", 0),
        (b'"\\u0000"', "\0"),
        (b'{"a":1,"a":2}', {"a": 2}),
        (b"18446744073709551615", 2**64 - 1),
        (b"true", True),
    ],
)
def test_json(body: bytes, value: Any) -> None:
    assert parse_json(body) == value


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"\xef\xbb\xbf{}",
        b"\xff",
        b'"\xed\xa0\x80"',
        b'"\\ud800"',
        b"NaN",
        b"[Infinity]",
        b"1e999",
        b"{'a':1}",
        b"[1,]",
        b"{} {}",
        b"01",
        b'"a\nb"',
        b"a=1&b=2",
        b"{}\0",
        '{"a":1}'.encode("utf-16"),
        b"<xml/>",
    ],
)
def test_not_json(body: bytes) -> None:
    assert parse_json(body) is NOT_JSON


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def test_rule_28_depth_is_bounded() -> None:
    assert parse_json(nested(JSON_DEPTH_MAX)) is not NOT_JSON
    assert parse_json(nested(JSON_DEPTH_MAX + 1)) is NOT_JSON
    objects = b'{"a":' * (JSON_DEPTH_MAX + 1) + b"1" + b"}" * (JSON_DEPTH_MAX + 1)
    assert parse_json(objects) is NOT_JSON
    assert parse_json(nested(500_000)) is NOT_JSON
    wide = b"[" + b",".join([b'{"a":[]}'] * 10_000) + b"]"
    assert len(parse_json(wide)) == 10_000
    assert parse_json(b'"' + b"[" * 1000 + b'"') == "[" * 1000


def test_rule_28_size_is_bounded() -> None:
    assert parse_json(b'"' + b"x" * (JSON_BYTES_MAX - 2) + b'"') is not NOT_JSON
    assert parse_json(b'"' + b"x" * (JSON_BYTES_MAX - 1) + b'"') is NOT_JSON


@given(st.binary(max_size=200))
def test_any_bytes_are_json_or_not(body: bytes) -> None:
    value = parse_json(body)
    if value is not NOT_JSON:
        assert json.loads(body.decode("utf-8")) == value


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inside: st.lists(inside) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inside),
)


@given(_VALUES)
def test_what_python_writes_is_read_back(value: Any) -> None:
    assert parse_json(json.dumps(value).encode()) == value
