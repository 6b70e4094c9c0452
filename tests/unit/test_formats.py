"""The three formats and their inverses, the record's headers, and the bound of a record's size."""

# ruff: noqa: A001, A002  `format` and `type` are the words of the contract

from __future__ import annotations

import base64
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_webhook_bridge import formats
from kafka_webhook_bridge.body import JSON_BYTES_MAX, JSON_DEPTH_MAX, NOT_JSON, parse_json
from kafka_webhook_bridge.event import Event, Record, Request
from kafka_webhook_bridge.formats import headers as record_headers
from kafka_webhook_bridge.formats.headers import rfc3339
from kafka_webhook_bridge.sources.source import Format, Source

EVENT_ID = "01980000-0000-7000-8000-000000000001"
RECEIVED_MS = 1_767_225_599_007  # 2025-12-31T23:59:59.007Z
FORMATS: tuple[Format, ...] = ("raw", "cloudevents", "envelope")
MEMBER = {"cloudevents": "data", "envelope": "body"}
TEXT = {"cloudevents": "bodyistext", "envelope": "body_is_text"}

header_lines = st.lists(
    st.tuples(st.text("abcABC-_01", min_size=1, max_size=12).map(str.encode), st.binary(max_size=20)), max_size=8
)


def source(format: Format = "raw", name: str = "shop") -> Source:
    return Source(
        name=name,
        topic=f"{name}.events",
        methods=frozenset({b"POST"}),
        allow=b"POST",
        body_bytes_max=1024**2,
        auth="none",
        credentials=(),
        format=format,
        key=None,
        needs_json=format != "raw",
        content_encoding_opaque=False,
        rate_limit_per_second=None,
        index_json=True,
        ce_source=f"/sources/{name}".encode(),
        default_type=f"webhook.{name}",
        name_bytes=name.encode(),
        default_type_bytes=f"webhook.{name}".encode(),
    )


def event(
    body: bytes = b"{}",
    headers: list[tuple[bytes, bytes]] | None = None,
    *,
    format: Format = "raw",
    query: bytes | None = None,
    dedupe_key: str | None = None,
    type: str = "webhook.shop",
) -> Event:
    request = Request(b"POST", b"/shop/a%2Fb", query, headers or [], body, "127.0.0.1")
    return Event(EVENT_ID, RECEIVED_MS, source(format), request, type, b"k", "basic", False, dedupe_key)


def value(body: bytes, format: Format, headers: list[tuple[bytes, bytes]] | None = None) -> bytes:
    return formats.encode(event(body, headers, format=format)).value


def test_raw_is_the_body_itself() -> None:
    record = formats.encode(event(b"\x00\xff\r\n"))
    assert record == Record(
        EVENT_ID, "shop.events", b"k", b"\x00\xff\r\n", record.headers, hashlib.sha256(b"\x00\xff\r\n").hexdigest()
    )


@pytest.mark.parametrize("format", FORMATS)
@given(body=st.binary(max_size=300), headers=header_lines)
def test_rule_26_every_byte_string_comes_back(format: Format, body: bytes, headers: list[tuple[bytes, bytes]]) -> None:
    record = formats.encode(event(body, headers, format=format))
    assert formats.decode(formats.format_of(record.headers), record.value) == body


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("format", ["cloudevents", "envelope"])
@given(document=json_values, space=st.text(" \t\r\n", max_size=3), ascii_only=st.booleans())
def test_rule_26_json_is_spliced_in_verbatim(format: Format, document: object, space: str, ascii_only: bool) -> None:
    try:
        body = (space + json.dumps(document, ensure_ascii=ascii_only) + space).encode()
    except UnicodeEncodeError:
        return
    encoded = value(body, format)
    assert formats.decode(format, encoded) == body
    if parse_json(body) is not NOT_JSON:
        assert encoded.endswith(b'"%b":%b}' % (MEMBER[format].encode(), body))
        assert json.loads(encoded)[MEMBER[format]] == json.loads(body)


DEEP = b"[" * JSON_DEPTH_MAX + b"]" * JSON_DEPTH_MAX
CORNERS = {
    "empty": (b"", "text"),
    "string": (b'"hello"', "json"),
    "bare word": (b"hello", "text"),
    "the same as its own encoding": (b'"data":"x"}', "text"),
    "a brace too many": (b"{}}", "text"),
    "two documents": (b"{}{}", "text"),
    "member injection": (b'1,"specversion":"9"', "text"),
    "duplicate keys": (b'{"a":1,"a":2}', "json"),
    "whitespace around": (b" \r\n\t{} \n", "json"),
    "byte order mark": (b"\xef\xbb\xbf{}", "text"),
    "NaN": (b"[NaN]", "text"),
    "Infinity": (b"-Infinity", "text"),
    "huge exponent": (b"1e999", "text"),
    "65 bit": (b"18446744073709551617", "json"),
    "many digits": (b"1" * 100_000, "text"),
    "lone surrogate escape": (rb'"\ud800"', "text"),
    "escaped NUL": (rb'{"a":"\u0000"}', "json"),
    "raw NUL": (b'"\x00"', "text"),
    "deep": (DEEP, "json"),
    "one too deep": (b"[" + DEEP + b"]", "text"),
    "deep objects": (b'{"a":' * 101 + b"1" + b"}" * 101, "text"),
    "wide, not deep": (b"[" + b"[],{}," * 200 + b"1]", "json"),
    "brackets in a string": (b'"' + b"[" * 5000 + b'"', "json"),
    "very deep": (b"[" * 200_000, "text"),
    "very deep and closed": (b"[" * 100_000 + b"]" * 100_000, "text"),
    "not UTF-8": (b"\xff\xfe", "base64"),
    "encoded surrogate": (b'"\xed\xa0\x80"', "base64"),
    "overlong": (b"\xc0\x80", "base64"),
    "larger than is parsed": (b'"' + b"a" * JSON_BYTES_MAX + b'"', "text"),
    "control characters": (b"\x00" * 100_000, "base64"),
}


@pytest.mark.parametrize("format", ["cloudevents", "envelope"])
@pytest.mark.parametrize(("body", "kind"), CORNERS.values(), ids=CORNERS.keys())
def test_rule_26_corner_cases_of_json(format: Format, body: bytes, kind: str) -> None:
    encoded = value(body, format)
    assert formats.decode(format, encoded) == body
    document = json.loads(encoded)
    member = MEMBER[format]
    assert (member in document) == (kind != "base64")
    assert document.get(TEXT[format], False) == (kind == "text")
    assert list(document)[-1] == (f"{member}_base64" if kind == "base64" else member)
    if kind == "text":
        assert document[member] == body.decode()
    if kind == "base64":
        assert base64.b64decode(document[f"{member}_base64"]) == body


@pytest.mark.parametrize("format", ["cloudevents", "envelope"])
@pytest.mark.parametrize("size", [100_000, 1_000_000])
@pytest.mark.parametrize("unit", [b"\x00", b'"', b"\xff", "é".encode(), b"a", b"[]"])
def test_rule_9_no_body_outgrows_four_thirds(format: Format, size: int, unit: bytes) -> None:
    body = unit * (size // len(unit))
    record = formats.encode(event(body, format=format))
    assert formats.record_bytes(record) <= len(body) * 4 / 3 + 128 * 1024


@pytest.mark.parametrize("format", ["cloudevents", "envelope"])
@pytest.mark.parametrize(
    "foreign",
    [
        *(b"", b"{", b"{}", b"[]", b"null", b'{"a":1}', b'{"a":' * 5000, b"\xff", b'{[]:2,"data":3}', b'{"data"}'),
        *(b'{"data_base64":"!"}', b'{"data_base64":7}', b'{"body_base64":"="}', b'{"x" "data":1}', b'{"a":[],'),
        *(b'{"bodyistext":true,"data":7}', b'{"body_is_text":true,"body":nope}'),
    ],
)
def test_a_foreign_value_is_a_value_error(format: Format, foreign: bytes) -> None:
    with pytest.raises(ValueError, match="not a record of this format"):
        formats.decode(format, foreign)


def test_an_unknown_format_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="no such format"):
        formats.decode("avro", b"")


def test_the_caller_may_have_parsed_the_body_before() -> None:
    assert formats.encode(event(b"1", format="envelope"), is_json=False).value.endswith(
        b'"body_is_text":true,"body":"1"}'
    )
    assert formats.encode(event(b"1", format="envelope"), is_json=True).value.endswith(b'"body":1}')


def test_cloudevents_attributes() -> None:
    document = json.loads(value(b'{"a":1}', "cloudevents", [(b"Content-Type", b"application/json")]))
    assert document == {
        "specversion": "1.0",
        "id": EVENT_ID,
        "source": "/sources/shop",
        "type": "webhook.shop",
        "time": "2025-12-31T23:59:59.007Z",
        "datacontenttype": "application/json",
        "data": {"a": 1},
    }


def test_envelope_has_the_shape_of_the_ancestor() -> None:
    headers = [(b"X-A", b"1"), (b"x-a", b"2"), (b"Authorization", b"Basic x"), (b"body", b"{}"), (b"X-Raw", b"\xe9")]
    record = formats.encode(event(b"a=b", headers, format="envelope", query=b"x=1&y=%C3%A9&y=2&z&w=%FF"))
    assert json.loads(record.value) == {
        "method": "POST",
        "headers": {"x-a": "1, 2", "body": "{}", "x-raw": "é"},
        "path": "/shop/a%2Fb",
        "query": {"x": "1", "y": ["é", "2"], "z": "", "w": "\ufffd"},
        "timestamp": "2025-12-31T23:59:59.007Z",
        "event_id": EVENT_ID,
        "source": "shop",
        "body_is_text": True,
        "body": "a=b",
    }


def test_rule_25_headers_of_a_record() -> None:
    headers = [
        (b"Host", b"x"),
        (b"X-Hub-Signature-256", b"sha256=\xff\x00"),
        (b"content-TYPE", b"text/plain"),
        (b"X-Twice", b"1"),
        (b"x-twice", b""),
        (b"TraceParent", b"00-ab-cd-01"),
    ]
    record = formats.encode(event(b"", headers, query=b"a=%20", dedupe_key="dd" * 32, type="orders/créate"))
    assert record.headers == [
        ("ce_specversion", b"1.0"),
        ("ce_id", EVENT_ID.encode()),
        ("ce_source", b"/sources/shop"),
        ("ce_type", "orders/créate".encode()),
        ("ce_time", b"2025-12-31T23:59:59.007Z"),
        ("content-type", b"text/plain"),
        ("kwb_source", b"shop"),
        ("kwb_method", b"POST"),
        ("kwb_path", b"/shop/a%2Fb"),
        ("kwb_verified", b"basic"),
        ("kwb_covers_body", b"false"),
        ("kwb_query", b"a=%20"),
        ("kwb_dedupe_key", b"dd" * 32),
        ("traceparent", b"00-ab-cd-01"),
        ("http_host", b"x"),
        ("http_x-hub-signature-256", b"sha256=\xff\x00"),
        ("http_content-type", b"text/plain"),
        ("http_x-twice", b"1"),
        ("http_x-twice", b""),
        ("http_traceparent", b"00-ab-cd-01"),
    ]


def test_rule_25_an_absent_value_means_no_header() -> None:
    names = {name for name, _ in formats.encode(event()).headers}
    assert names.isdisjoint({"content-type", "kwb_query", "kwb_dedupe_key", "traceparent", "kwb_format"})
    assert ("kwb_query", b"") in formats.encode(event(query=b"")).headers


@pytest.mark.parametrize(
    ("format", "content_type"),
    [("cloudevents", b"application/cloudevents+json; charset=UTF-8"), ("envelope", b"application/json")],
)
def test_rule_25_content_type_of_structured_formats(format: Format, content_type: bytes) -> None:
    headers = formats.encode(event(b"x", [(b"Content-Type", b"text/plain")], format=format)).headers
    assert [v for n, v in headers if n == "content-type"] == [content_type]
    assert [v for n, v in headers if n == "http_content-type"] == [b"text/plain"]
    assert formats.format_of(headers) == format


@pytest.mark.parametrize(
    "name",
    [
        *("Authorization", "Cookie", "Cookie2", "Set-Cookie", "Set-Cookie2", "Proxy-Authorization", "Proxy-Connection"),
        *("Connection", "Keep-Alive", "TE", "Trailer", "Transfer-Encoding", "Upgrade", "X-Named", "x-also"),
    ],
)
def test_rule_27_credentials_and_hop_by_hop_fields_are_left_out(name: str) -> None:
    named = [(b"Connection", b"close, X-Named"), (b"connection", b" x-ALSO ,")]
    lines = [(spelling.encode(), b"canary") for spelling in (name, name.lower(), name.upper())]
    for format in FORMATS:
        record = formats.encode(event(b"", [*named, *lines, (b"X-Kept", b"1")], format=format))
        assert [v for n, v in record.headers if n.startswith("http_")] == [b"1"]
        assert b"canary" not in record.value


def test_connection_names_do_not_touch_the_bridges_own_headers() -> None:
    record = formats.encode(event(b"", [(b"Connection", b"content-type, ce_id"), (b"Content-Type", b"a/b")]))
    assert ("content-type", b"a/b") in record.headers
    assert ("ce_id", EVENT_ID.encode()) in record.headers
    assert ("http_content-type", b"a/b") in record.headers  # what was made of it can be made again (rules.md 15)


@given(header_lines)
def test_a_sender_cannot_set_a_reserved_name(lines: list[tuple[bytes, bytes]]) -> None:
    forged = [(name, b"forged") for name in (b"ce_id", b"kwb_verified", b"http_host", b"kwb_replay_id", b"Kwb_Source")]
    plain = formats.encode(event()).headers
    assert formats.encode(event(headers=[*lines, *forged])).headers[: len(plain)] == plain or any(
        name.lower() in (b"content-type", b"traceparent") for name, _ in lines
    )
    for name, header in formats.encode(event(headers=forged)).headers:
        assert (header == b"forged") == name.startswith("http_")


def test_header_names_of_senders_take_bounded_memory() -> None:
    limit = record_headers._SPELLINGS_MAX
    for n in range(3 * limit):
        lines = [(b"X-Random-%d" % n, b""), (b"X-" + b"%08d" % n * 1000, b""), (b"X-Real", b"1")]
        assert formats.encode(event(headers=lines)).headers[-1] == ("http_x-real", b"1")
    assert len(record_headers._spellings) <= limit
    assert max(map(len, record_headers._spellings)) <= record_headers._SPELLING_BYTES_MAX


def test_time_is_rfc_3339_in_milliseconds() -> None:
    assert [rfc3339(ms) for ms in (0, 999, 1000, 951_782_400_001, RECEIVED_MS, 1)] == [
        b"1970-01-01T00:00:00.000Z",
        b"1970-01-01T00:00:00.999Z",
        b"1970-01-01T00:00:01.000Z",
        b"2000-02-29T00:00:00.001Z",
        b"2025-12-31T23:59:59.007Z",
        b"1970-01-01T00:00:00.001Z",
    ]


def test_record_bytes_counts_every_part() -> None:
    small = Record(EVENT_ID, "t", None, b"", [], "")
    parts = Record(EVENT_ID, "t", b"k" * 10, b"v" * 100, [("name", b"value"), ("http_é", b"")], "")
    assert formats.record_bytes(parts) - formats.record_bytes(small) >= 10 + 100 + 4 + 5 + len("http_é".encode())
