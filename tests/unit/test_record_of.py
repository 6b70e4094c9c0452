"""A row gives back its record to the byte, whatever was sent (rules.md 15)."""

# ruff: noqa: A002  `format` is the word of the contract

from __future__ import annotations

import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_webhook_bridge import formats, ids
from kafka_webhook_bridge.archive.rows import label
from kafka_webhook_bridge.event import Altered, Event, Record, Request
from kafka_webhook_bridge.formats.rows import EventRow, RowMaker, record_of
from kafka_webhook_bridge.sources.source import Format, Source, named

FORMATS: tuple[Format, ...] = ("raw", "cloudevents", "envelope")
EVENT_ID = "019b7a1b-8e9f-7000-8000-000000000001"
TOPIC_ID = uuid.UUID(int=7)

# Real names beside any, because some of them are treated apart.
names = st.sampled_from([b"Content-Type", b"traceparent", b"Connection", b"X-Sig", b"COOKIE", b"content-length"])
names |= st.text("abcABC-_01", min_size=1, max_size=12).map(str.encode)
values = st.binary(max_size=20) | st.sampled_from([b"x-sig", b"content-type, traceparent", b"application/json", b"\0"])
bodies = st.binary(max_size=200) | st.sampled_from(
    [b"", b"{}", b' {"a":[1,2]}\n', b'"text"', b"text", b'{"a":"\\u0000"}']
)
targets = st.text([chr(c) for c in range(0x21, 0x7F) if chr(c) not in "?#"], max_size=20).map(
    lambda s: ("/" + s).encode()
)


def source(format: Format, proofs: frozenset[bytes] = frozenset()) -> Source:
    return Source(
        topic="shop.events", methods=frozenset({b"POST"}), allow=b"POST", body_bytes_max=1024**2, auth="none",
        credentials=(), format=format, key=None, needs_json=False, content_encoding_opaque=False,
        rate_limit_per_second=None, index_json=True, **named("shop"), proof_headers=proofs,
    )  # fmt: skip


def row_of(record: Record, headers: list[tuple[str, bytes | None]] | None = None, *, indexed: bool = True) -> EventRow:
    made = RowMaker(lambda _: indexed).make(
        record.key, record.value, headers or record.headers, record.topic, TOPIC_ID, 3, 7
    )
    assert isinstance(made, EventRow)
    return made


@pytest.mark.parametrize("format", FORMATS)
@given(
    body=bodies,
    lines=st.lists(st.tuples(names, values), max_size=8),
    key=st.none() | st.binary(max_size=20) | st.just(b"k" * 600),
    target=st.tuples(targets, st.none() | targets),
    kind=st.just("webhook.shop")
    | st.text(max_size=20).filter(lambda t: t.isprintable())
    | st.sampled_from(["t" * 600, "a\0b"]),
    verified=st.sampled_from(["none", "basic", "hmac"]),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    altered=st.sampled_from([None, Altered("redact", "ab" * 32), Altered("split", "ab" * 32, EVENT_ID, 2, 3)]),
)
def test_rule_15_a_row_gives_back_its_record_to_the_byte(
    format: Format, body: bytes, lines: list[tuple[bytes, bytes]], key: bytes | None,
    target: tuple[bytes, bytes | None], kind: str, verified: str, flags: tuple[bool, bool, bool],
    altered: Altered | None,
) -> None:  # fmt: skip
    covers, deduped, indexed = flags
    request = Request(b"POST", *target, lines, body, "127.0.0.1")
    at_ms = ids.time_ms(uuid.UUID(EVENT_ID))
    proofs = frozenset({b"cookie"} if deduped else ())
    of, dedupe_key = source(format, proofs), "0" * 64 if deduped else None
    event = Event(EVENT_ID, at_ms, of, request, kind, key, verified, covers, dedupe_key, altered)
    record = formats.encode(event)
    assert deduped or not any(name == "http_cookie" for name, _ in record.headers)
    row = row_of(record, indexed=indexed)
    again = record_of(row)
    assert again == record
    assert row_of(again, indexed=indexed) == row
    # As an audit compares them: without bodies, and whatever a replay adds.
    bodiless = record_of(row._replace(body=b"", body_json=None))
    assert label(bodiless.key, bodiless.headers) == label(record.key, [("kwb_replay_id", b"1"), *record.headers])


@given(data=st.data())
def test_rule_15_marks_and_values_of_a_wrong_format_come_back(data: Any) -> None:
    """Not made by `encode` as it is: by another version, or altered on the way."""
    request = Request(b"POST", b"/shop", None, [(b"Content-Type", b"a/b")], b"{", "127.0.0.1")
    record = formats.encode(Event(EVENT_ID, 1, source("raw"), request, "t", None, "none", False, None))
    form = data.draw(st.sampled_from([b"cloudevents", b"envelope", b"avro", b"\xff"]))
    marks = data.draw(
        st.lists(st.tuples(st.sampled_from(["kwb_altered", "kwb_part"]), values), unique_by=lambda m: m[0])
    )
    row = row_of(record, [*record.headers, *marks, ("kwb_format", form)])
    again = record_of(row)
    assert again.value == b"{"
    assert {("kwb_format", form), *marks} <= set(again.headers)
    assert row_of(again)._replace(marks=None) == row._replace(marks=None)
    assert sorted(again.headers) == sorted(record_of(row_of(again)).headers)


@pytest.mark.parametrize("key", [b"order 1", b"\xff", None])
def test_a_row_that_postgresql_took_in_part_keeps_its_key(key: bytes | None) -> None:
    request = Request(b"POST", b"/shop", None, [(b"X-Sig", b"1")], b"body", "127.0.0.1")
    record = formats.encode(
        Event(EVENT_ID, ids.time_ms(uuid.UUID(EVENT_ID)), source("raw"), request, "t", key, "none", False, None)
    )
    row = row_of(record)
    assert record_of(row.without_derived("refused: 22000")) == record
    bare = record_of(row.bare("refused: 22000"))
    assert (bare.event_id, bare.value, bare.topic) == (EVENT_ID, b"body", "shop.events")


BASE: list[tuple[str, bytes | None]] = [("ce_id", b"1"), ("kwb_path", b"/a"), ("http_a", b"1"), ("http_b", b"2")]


@pytest.mark.parametrize(
    ("key", "headers", "same"),
    [
        (b"k", [BASE[1], BASE[2], BASE[0], BASE[3]], True),  # the bridge's own in any order
        (b"k", [*BASE, ("kwb_replay_id", b"x")], True),
        (None, BASE, False),
        (b"", BASE, False),
        (b"k2", BASE, False),
        (b"k", BASE[:3], False),
        (b"k", [*BASE, ("http_b", b"2")], False),
        (b"k", [*BASE, ("x-other", b"")], False),
        (b"k", [*BASE[:3], ("http_b", b"3")], False),
        (b"k", [*BASE[:3], ("http_b", None)], False),
        (b"k", [*BASE[:2], BASE[3], BASE[2]], False),  # the request's in theirs
        (b"k", [("ce_id", b"2"), *BASE[1:]], False),
        (b"k", [("ce_id", None), *BASE[1:]], False),
    ],
)
def test_a_label_is_of_the_key_and_every_header(
    key: bytes | None, headers: list[tuple[str, bytes | None]], same: bool
) -> None:
    assert (label(key, headers) == label(b"k", BASE)) is same
