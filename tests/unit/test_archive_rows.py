"""From a record to a row: everything is a row or has a reason, and no row holds what PostgreSQL refuses."""

# ruff: noqa: A002  `format` is the word of the contract

from __future__ import annotations

import base64
import json
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_webhook_bridge import formats
from kafka_webhook_bridge.archive.rows import make_all
from kafka_webhook_bridge.event import Event, Request
from kafka_webhook_bridge.formats import rows
from kafka_webhook_bridge.formats.rows import INDEXED_CHARACTERS_MAX, EventRow, RowMaker
from kafka_webhook_bridge.kafka.consumer import Batch, Place, Record, RecordReader
from kafka_webhook_bridge.sources.source import Format, Source, named

EVENT_ID = "019b7a1b-8e9f-7000-8000-000000000001"
RECEIVED = datetime.fromtimestamp((uuid.UUID(EVENT_ID).int >> 80) / 1000, UTC)
TOPIC_ID = uuid.UUID("0198c0de-0000-4000-8000-00000000000a")
FORMATS: tuple[Format, ...] = ("raw", "cloudevents", "envelope")
UNCHANGED: Any = object()


def record(
    body: bytes = b"{}",
    *,
    format: Format = "raw",
    request_headers: list[tuple[bytes, bytes]] | None = None,
    key: bytes | None = None,
    query: bytes | None = None,
    more: list[tuple[str, bytes | None]] | None = None,
    without: str = "",
    value: bytes = UNCHANGED,
    event_id: str = EVENT_ID,
    offset: int = 7,
) -> Record:
    source = Source(
        topic="shop.events", methods=frozenset({b"POST"}), allow=b"POST", body_bytes_max=1024**2, auth="none",
        credentials=(), format=format, key=None, needs_json=False, content_encoding_opaque=False,
        rate_limit_per_second=None, index_json=True, **named("shop"),
    )  # fmt: skip
    request = Request(b"POST", b"/shop/a%2Fb", query, request_headers or [], body, "127.0.0.1")
    made = formats.encode(Event(event_id, 1, source, request, "webhook.shop", key, "basic", False, None))
    headers: list[tuple[str, bytes | None]] = [h for h in made.headers if h[0] != without]
    value = made.value if value is UNCHANGED else value
    return Record("shop.events", 3, offset, made.key, value, headers + (more or []), None)


def parts(found: Record) -> tuple[Any, ...]:
    return found.key, found.value, found.headers, found.topic, TOPIC_ID, found.partition, found.offset


def make(found: Record, *, index: bool = True) -> EventRow:
    row = RowMaker(lambda _: index).make(*parts(found))
    assert isinstance(row, EventRow)
    for text in row:  # what PostgreSQL refuses in any text
        if isinstance(text, str):
            assert "\0" not in text
            text.encode()
    for document in (row.headers, row.marks, row.body_json):
        if document is not None:
            json.loads(document)
    return row


def test_a_row_says_everything() -> None:
    headers = [(b"X-Id", b"1"), (b"Content-Type", b"application/json"), (b"x-id", b"2")]
    row = make(record(b'{"a":1}', request_headers=headers, key=b"order 1", query=b"a=%00&b"))
    assert row == EventRow(
        event_id=uuid.UUID(EVENT_ID),
        received_at=RECEIVED,
        source="shop",
        type="webhook.shop",
        method="POST",
        path="/shop/a%2Fb",
        query="a=%00&b",
        content_type="application/json",
        headers=b'[["x-id","1"],["content-type","application/json"],["x-id","2"]]',
        body=b'{"a":1}',
        body_json=b'{"a":1}',
        parse_error=None,
        key="order 1",
        key_bytes=None,
        verified="basic",
        covers_body=False,
        dedupe_key=None,
        format="raw",
        traceparent=None,
        marks=None,
        topic="shop.events",
        topic_id=TOPIC_ID,
        partition=3,
        offset=7,
    )


@pytest.mark.parametrize("format", FORMATS)
@given(body=st.binary(max_size=200))
def test_rule_20_every_byte_string_is_kept_exactly(format: Format, body: bytes) -> None:
    row = make(record(body, format=format, request_headers=[(b"content-type", b"text/odd")]))
    assert row.body == body
    assert row.format == format
    assert row.content_type == "text/odd"
    assert row.body_json in (None, body)
    assert (row.body_json is None) == (row.parse_error is not None or not body)


@given(value=st.binary(max_size=60), name=st.binary(min_size=1, max_size=20))
def test_rule_25_every_header_value_is_kept_exactly(value: bytes, name: bytes) -> None:
    (pair,) = json.loads(make(record(more=[("http_" + name.decode("latin-1"), value)])).headers)
    exact = base64.b64decode(pair[2]) if len(pair) == 3 else pair[1].encode()
    assert exact == value
    assert pair[0] == name.decode("latin-1").replace("\0", "\N{REPLACEMENT CHARACTER}")


def test_rule_20_nul_and_bad_utf8_become_a_replacement() -> None:
    headers = [(b"a", b"x\xffy"), (b"b", rb"\u0000"), (b"c", b"fine \xc3\xa9")]
    row = make(record(request_headers=headers, key=b"k\0\xff", query=b"\xff\0"))
    assert json.loads(row.headers) == [["a", "x�y", base64.b64encode(b"x\xffy").decode()], ["b", r"\u0000"],
                                       ["c", "fine é"]]  # fmt: skip
    assert (row.key, row.key_bytes, row.query) == ("k��", b"k\0\xff", "��")


@given(key=st.binary(max_size=40) | st.integers(490, 510).map(lambda n: b"k" * n))
def test_rule_20_every_key_is_kept_exactly_and_fits_its_index(key: bytes) -> None:
    row = make(record(key=key))
    assert row.key is not None
    assert len(row.key) <= INDEXED_CHARACTERS_MAX
    assert (row.key.encode() if row.key_bytes is None else row.key_bytes) == key
    assert (row.key_bytes is None) == (row.key.encode() == key)


DEEP = b"[" * 100 + b"]" * 100
BODIES: dict[str, tuple[bytes, str | None]] = {
    "deep": (DEEP, None),
    "too deep": (b"[" + DEEP + b"]", rows.NOT_PARSED),
    "largest": (b'"' + b"a" * (rows.JSON_BYTES_MAX - 2) + b'"', None),
    "too large": (b'"' + b"a" * (rows.JSON_BYTES_MAX - 1) + b'"', rows.TOO_LARGE),
    "no JSON": (b"a=1&b=2", rows.NOT_PARSED),
    "NUL": (rb'{"a":"x\u0000"}', rows.HAS_NUL),
    "NUL in a name": (rb'{"\u0000":1}', rows.HAS_NUL),
    "NUL after a backslash": (rb'"\\\u0000"', rows.HAS_NUL),
    "no NUL, a backslash": (rb'"\\u0000"', None),
    "lone surrogate": (rb'"\ud800"', rows.NOT_PARSED),
    "a pair": (rb'"\ud83d\ude00"', None),
    "65 bit": (b"18446744073709551617", None),
    "many digits": (b"0." + b"1" * 398, None),
    "too many digits": (b"[0." + b"1" * 399 + b"]", rows.NUMBER_TOO_LONG),
    "tiny": (b"1e-400", None),
    "too tiny": (b'{"a":1E-401}', rows.NUMBER_TOO_LONG),
    "far too tiny": (b"1e-99999999999999999999", rows.NUMBER_TOO_LONG),
    "a long one inside": (b'{"a":[1, -' + b"1" * 40 + b"." + b"1" * 400 + b"]}", rows.NUMBER_TOO_LONG),
    "a tiny one after a tab": (b"[\t-1.5e-0401]", rows.NUMBER_TOO_LONG),
    "a number's look alike": (b'"' + b"1" * 1000 + b'9e999"', None),
    "empty": (b"", None),
}


@pytest.mark.parametrize(("body", "why"), BODIES.values(), ids=BODIES.keys())
def test_rule_20_what_can_be_jsonb(body: bytes, why: str | None) -> None:
    row = make(record(body))
    assert row.parse_error == why
    assert row.body_json == (body if body and why is None else None)


def test_rule_21_a_source_may_do_without_the_index() -> None:
    row = make(record(b'{"a":1}'), index=False)
    assert (row.body, row.body_json, row.parse_error) == (b'{"a":1}', None, None)


def test_a_reload_asks_again() -> None:
    answers = iter([False, True])
    maker = RowMaker(lambda _: next(answers))
    first = maker.make(*parts(record())), maker.make(*parts(record()))
    maker.forget()
    assert [row.body_json for row in (*first, maker.make(*parts(record())))] == [None, None, b"{}"]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "event_id", ["", "x", EVENT_ID.upper(), EVENT_ID + " ", "00000000-0000-4000-8000-000000000000"]
)
def test_rule_20_a_record_that_is_not_ours_is_skipped(event_id: str) -> None:
    assert RowMaker(lambda _: True).make(*parts(record(event_id=event_id))) == "not_ours"
    assert RowMaker(lambda _: True).make(*parts(record(without="ce_id"))) == "not_ours"


class OddMessage:
    """As confluent_kafka gives a foreign record that has a header whose name is not UTF-8."""

    def headers(self) -> None:
        raise SystemError

    def timestamp(self) -> tuple[int, int]:
        return 0, 0

    def __getattr__(self, name: str) -> Any:
        return {"error": lambda: None, "topic": lambda: "t", "partition": lambda: 0, "offset": lambda: 5}.get(
            name, lambda: b"x"
        )


def test_rule_20_a_record_that_the_client_cannot_read_is_skipped() -> None:
    batch = Batch()
    RecordReader._take(OddMessage(), batch)
    made = make_all(RowMaker(lambda _: True), batch.records, {"t": TOPIC_ID})
    assert (made.rows, made.next_offsets, made.skipped) == ([], {Place("t", 0): 6}, {"not_ours": 1})


def test_rule_15_a_replayed_record_makes_no_row() -> None:
    assert RowMaker(lambda _: True).make(*parts(record(more=[("kwb_replay_id", b"r")]))) == "replay"


def test_a_mark_without_a_column_is_kept() -> None:
    row = make(record(more=[("kwb_part", b"1/2"), ("other", b"x"), ("kwb_odd", b"\xff")]))
    assert row.marks is not None
    assert json.loads(row.marks) == [["kwb_part", "1/2"], ["kwb_odd", "�", "/w=="]]


@pytest.mark.parametrize("format", ["cloudevents", "envelope"])
def test_a_value_that_is_not_of_its_format_is_kept_as_it_is(format: Format) -> None:
    row = make(record(format=format, value=b'{"not":"ours"}'))
    assert (row.format, row.body, row.parse_error) == ("raw", b'{"not":"ours"}', f"not of the format {format}")
    assert row.marks is not None
    assert json.loads(row.marks) == [["kwb_format", format]]


header_names = st.sampled_from(
    ["ce_id", "ce_type", "kwb_source", "kwb_method", "kwb_path", "kwb_query", "kwb_dedupe_key", "kwb_verified",
     "kwb_covers_body", "kwb_format", "content-type", "traceparent", "kwb_x", "http_x", "x"]
)  # fmt: skip


@given(
    value=st.binary(max_size=40),
    headers=st.lists(st.tuples(header_names, st.none() | st.binary(max_size=30)), max_size=12),
    key=st.none() | st.binary(max_size=10),
)
def test_any_record_with_an_id_is_a_row(
    value: bytes, headers: list[tuple[str, bytes | None]], key: bytes | None
) -> None:
    row = make(Record("t", 0, 0, key, value, [*headers, ("ce_id", EVENT_ID.encode())], None))
    assert row.body == value or row.format != "raw"


def test_rule_18_of_one_event_in_a_batch_the_first_counts() -> None:
    other = EVENT_ID[:-1] + "2"
    records = [record(offset=4), record(offset=5), record(offset=6, event_id=other), record(offset=7, event_id="")]
    made = make_all(RowMaker(lambda _: True), records, {"shop.events": TOPIC_ID})
    assert [(str(row.event_id), row.offset) for row in made.rows] == [(EVENT_ID, 4), (other, 6)]
    assert made.next_offsets == {Place("shop.events", 3): 8}
    assert made.skipped == {"not_ours": 1}
