"""Bodies and times as commands show them."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_webhook_bridge.cli import bodies
from kafka_webhook_bridge.errors import UsageError
from kafka_webhook_bridge.times import iso, moment, short

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON, st.sampled_from([None, 1]), st.booleans())
def test_pretty_is_the_same_document(value: object, indent: int | None, ascii_only: bool) -> None:
    lines = bodies.pretty(json.dumps(value, indent=indent, ensure_ascii=ascii_only))
    assert json.loads("\n".join(lines)) == value
    assert "\n".join(lines) == json.dumps(value, indent=2, ensure_ascii=ascii_only)


def test_pretty_changes_no_number_and_no_member() -> None:
    document = '{"a":1.10,"a":1E5,"big":123456789012345678901234567890,"s":"{\\"x\\":[1]}","e":[],"o":{ }}'
    assert bodies.pretty(document) == [
        "{", '  "a": 1.10,', '  "a": 1E5,', '  "big": 123456789012345678901234567890,', '  "s": "{\\"x\\":[1]}",',
        '  "e": [],', '  "o": {}', "}",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "kind", "lines", "left_out"),
    [
        (b"", "text", [""], 0),
        (b'{"a":1}', "JSON", ["{", '  "a": 1', "}"], 0),
        (b"a=1&b=2\n", "text", ["a=1&b=2"], 0),
        ("grüß\n\tgott".encode(), "text", ["grüß", "\tgott"], 0),
        (b"\x00\xffA~", "bytes", [f"00000000  {'00 ff 41 7e':<48} ..A~"], 0),
        (b"nul\x00", "bytes", [f"00000000  {'6e 75 6c 00':<48} nul."], 0),
        (b"\x1b[2J", "bytes", [f"00000000  {'1b 5b 32 4a':<48} .[2J"], 0),
    ],
)
def test_how_a_body_is_shown(body: bytes, kind: str, lines: list[str], left_out: int) -> None:
    assert bodies.shown(body) == (kind, lines, left_out)


def test_a_large_body_is_cut_between_characters() -> None:
    half = bodies.TEXT_BYTES_MAX // 2
    kind, (line,), left_out = bodies.shown(b"x" + "ü".encode() * half)
    assert (kind, len(line), left_out) == ("text", half, 2)
    kind, lines, left_out = bodies.shown(json.dumps("x" * bodies.TEXT_BYTES_MAX).encode())
    assert (kind, len(lines), left_out) == ("JSON", 1, 2)
    kind, lines, left_out = bodies.shown(bytes(2000))
    assert (kind, len(lines), left_out) == ("bytes", 64, 2000 - bodies.HEX_BYTES_MAX)


@given(st.binary())
def test_machines_get_every_byte(body: bytes) -> None:
    found = bodies.for_json("body", body)
    if "body" in found:
        assert found["body"] is not None
        assert found["body"].encode() == body
    else:
        assert base64.b64decode(found["body_base64"] or "") == body
    assert bodies.for_json("key", None) == {"key": None}


def test_a_preview_is_cut() -> None:
    assert bodies.preview(b"abc", 3) == "abc"
    assert bodies.preview(b"abcd", 3) == "abc…"


NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30s", NOW - timedelta(seconds=30)),
        ("15m", NOW - timedelta(minutes=15)),
        (" 1h ", NOW - timedelta(hours=1)),
        ("2d", NOW - timedelta(days=2)),
        ("1w", NOW - timedelta(days=7)),
        ("2026-01-30", datetime(2026, 1, 30, tzinfo=UTC)),
        ("2026-01-30T10:00", datetime(2026, 1, 30, 10, tzinfo=UTC)),
        ("2026-01-30 10:00:00.5+02:00", datetime(2026, 1, 30, 8, 0, 0, 500_000, tzinfo=UTC)),
        ("2026-01-30T10:00:00.123Z", datetime(2026, 1, 30, 10, 0, 0, 123_000, tzinfo=UTC)),
    ],
)
def test_times_that_people_write(text: str, expected: datetime) -> None:
    assert moment("--since", text, NOW) == expected


@pytest.mark.parametrize("text", ["", "yesterday", "1y", "-1h", "99999999999d", "2026-13-01", "0001-01-01T00:00+02:00"])
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--since"):
        moment("--since", text, NOW)


def test_times_that_commands_write_are_read_again() -> None:
    time = datetime(2026, 1, 31, 23, 59, 59, 123_000, tzinfo=UTC)
    assert iso(time) == "2026-01-31T23:59:59.123Z"
    assert moment("--since", iso(time), NOW) == time
    assert short(time) == "2026-01-31 23:59:59"
