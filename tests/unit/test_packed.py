"""A record comes out of the outbox as it went in."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kafka_webhook_bridge.event import Record
from kafka_webhook_bridge.formats.packed import pack_headers, unpack

NAMES = st.text(st.characters(exclude_categories=["Cs"]))
HEADERS = st.lists(st.tuples(NAMES, st.binary()))


@given(st.none() | st.binary(), st.binary(), HEADERS)
def test_every_byte_comes_back(key: bytes | None, value: bytes, headers: list[tuple[str, bytes]]) -> None:
    assert unpack("id", "topic", key, value, pack_headers(headers)) == Record("id", "topic", key, value, headers, "")


def test_the_form_in_the_table() -> None:
    assert pack_headers([("a", b"\0\xff"), ("a", b"")]) == '[["a","\\u0000ÿ"],["a",""]]'.encode()
