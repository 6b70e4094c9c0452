"""A record as a row of `events` (rules.md 18, 20, 25), for the archive and the outbox.

    headers ──▶ the request, and what the bridge found            value ──formats.decode──▶ body ──check──▶ body_json
    record_of(row) ──▶ the record again, key, value and headers to the byte (rules.md 15)

Total: any record gives a row, or the reason why it has none. Text columns never hold what PostgreSQL refuses; where
that made a header or the key differ from its bytes, the bytes are kept beside it. Millions of rows are made, so
microseconds count.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import uuid
from collections.abc import Callable, Container, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

import orjson

from kafka_webhook_bridge import formats, ids
from kafka_webhook_bridge.body import NOT_JSON, parse_json
from kafka_webhook_bridge.event import Event, Record, Request
from kafka_webhook_bridge.formats import cloudevents, envelope
from kafka_webhook_bridge.formats.headers import BODY_SHA256, FORMAT

if TYPE_CHECKING:
    from kafka_webhook_bridge.sources.source import Source

Skip = Literal["not_ours", "replay"]

INDEXED_CHARACTERS_MAX = 500  # of `type` and `key`: an entry of a B-tree takes 2 704 bytes
JSON_BYTES_MAX = 256 * 1024  # of a body that is indexed
NUMBER_CHARACTERS_MAX = 400  # of a number in it, and the largest exponent: numeric has no bound of a double's kind

NOT_PARSED = "not JSON in UTF-8, numbers of a double, at most 100 levels deep"
TOO_LARGE = f"larger than {JSON_BYTES_MAX // 1024} KiB"
HAS_NUL = "holds U+0000, which PostgreSQL cannot keep in text"
NUMBER_TOO_LONG = "holds a number that is too long"

REQUEST_HEADER = "http_"
_MARK = "kwb_"
_NO_MARKS = frozenset(
    {
        "ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "content-type", "traceparent", FORMAT,
        "kwb_source", "kwb_method", "kwb_path", "kwb_query", "kwb_dedupe_key", "kwb_verified", "kwb_covers_body",
    }
)  # fmt: skip
RELEASED = "kwb_released_at"  # of events that were refused at first, and let in by an operator
REPLAY = "kwb_replay_id"  # of records that were sent again; they make no row
_TYPE = "ce_type"
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

_NUL_ESCAPE = b"\\u0000"
_NUL_IN_JSON = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")  # an odd number of backslashes
# Perhaps: text may look alike. Beginning with a class of characters makes the search three times as fast.
_LONG_NUMBER = re.compile(rb"[\s:,\[]-?[0-9](?:[0-9.]{39}|[0-9.]*[eE][+-]?[0-9]{3})")
_NUMBER_FIRST = frozenset(b"-0123456789")

_WORDS_MAX = 2048
_WORD_BYTES_MAX = 256
_new = tuple.__new__  # half a microsecond less than the constructor of a NamedTuple


class EventRow(NamedTuple):
    """The columns in the order of the table; `state` and `duplicate_of` are the database's work.

    `headers`, `body_json` and `marks` are JSON as UTF-8 bytes. No text holds U+0000 or a lone surrogate.
    """

    event_id: uuid.UUID
    received_at: datetime
    source: str
    type: str
    method: str
    path: str
    query: str | None
    content_type: str | None
    headers: bytes
    body: bytes
    body_json: bytes | None
    parse_error: str | None
    key: str | None
    key_bytes: bytes | None
    verified: str
    covers_body: bool
    dedupe_key: str | None
    format: str
    traceparent: str | None
    marks: bytes | None
    topic: str
    topic_id: uuid.UUID | None
    partition: int | None
    offset: int | None

    def without_derived(self, reason: str) -> EventRow:
        """What is left of a row that PostgreSQL refused: everything that was received, nothing that was made of it."""
        key_bytes = self.key.encode() if self.key_bytes is None and self.key is not None else self.key_bytes
        return self._replace(
            body_json=None, parse_error=reason, key=None, key_bytes=key_bytes, marks=None, traceparent=None
        )

    def bare(self, reason: str) -> EventRow:
        """The last resort: the id, the body and the position."""
        return self.without_derived(reason)._replace(
            type="", method="", path="", query=None, content_type=None, headers=b"[]", key_bytes=None, dedupe_key=None
        )


COLUMNS = EventRow._fields


def text_of(data: bytes) -> str:
    """The text that PostgreSQL takes: U+0000 and what is not UTF-8 become U+FFFD."""
    text = data.decode("utf-8", "replace")
    return text.replace("\0", _REPLACEMENT) if "\0" in text else text


class _Words(dict[bytes, str]):
    """Bytes → indexed text, for what takes few values. Senders may choose some, so it holds few, and starts anew."""

    def __missing__(self, data: bytes) -> str:
        text = text_of(data)[:INDEXED_CHARACTERS_MAX]
        if len(data) <= _WORD_BYTES_MAX:
            if len(self) >= _WORDS_MAX:
                self.clear()
            self[data] = text
        return text


def check_json(body: bytes) -> str | None:
    """Why `body` cannot be a jsonb, or None."""
    if len(body) > JSON_BYTES_MAX:
        return TOO_LARGE
    if parse_json(body) is NOT_JSON:
        return NOT_PARSED
    if _NUL_ESCAPE in body and _NUL_IN_JSON.search(body):
        return HAS_NUL
    if (_LONG_NUMBER.search(body) or body[0] in _NUMBER_FIRST) and _has_long_number(body):
        return NUMBER_TOO_LONG
    return None


class _TooLong(ValueError):
    pass


def _number(text: str) -> None:
    exponent = text.lower().partition("e")[2]
    if len(text) > NUMBER_CHARACTERS_MAX or abs(int(exponent or 0)) > NUMBER_CHARACTERS_MAX:
        raise _TooLong


def _has_long_number(document: bytes) -> bool:
    try:
        json.loads(document, parse_int=_number, parse_float=_number)
    except _TooLong:
        return True
    return False


def headers_json(pairs: Iterable[tuple[str, bytes | None]]) -> bytes:
    """[[name, value], …] as JSON; a third member holds base64 where the value is not exact."""
    text = b""
    found = list(pairs)
    with contextlib.suppress(ValueError, AttributeError, TypeError):  # not UTF-8, no value, a surrogate in a name
        text = orjson.dumps([(name, data.decode()) for name, data in found])  # type: ignore[union-attr]
    if text and _NUL_ESCAPE not in text:
        return text
    return orjson.dumps([_careful_pair(name, data or b"") for name, data in found])


def _careful_pair(name: str, data: bytes) -> list[str]:
    pair = [text_of(name.encode("utf-8", "replace")), text_of(data)]
    if pair[1].encode() != data:
        pair.append(base64.b64encode(data).decode())
    return pair


class RowMaker:
    """Makes rows. `index_json` tells for a source's name whether its bodies are parsed for search."""

    def __init__(self, index_json: Callable[[str], bool]) -> None:
        self._index_json = index_json
        self._words = _Words()
        self._indexed: dict[str, bool] = {}

    def forget(self) -> None:
        """Ask `index_json` anew: the configuration has changed."""
        self._indexed = {}

    def make(
        self,
        key: bytes | None,
        value: bytes,
        headers: Sequence[tuple[str, bytes | None]],
        topic: str,
        topic_id: uuid.UUID | None = None,
        partition: int | None = None,
        offset: int | None = None,
    ) -> EventRow | Skip:
        """The row of one record, or why it has none. Without a position it is one that waits in the outbox."""
        own: dict[str, bytes | None] = {}
        kept: list[tuple[str, bytes | None]] = []
        for name, data in headers:
            if name[:5] == REQUEST_HEADER:
                kept.append((name[5:], data))
            else:
                own[name] = data
        event_id = ids.parse((own.get("ce_id") or b"").decode("latin-1"))
        if event_id is None:
            return "not_ours"
        marks: list[tuple[str, bytes | None]] | None = None
        if not own.keys() <= _NO_MARKS:
            if REPLAY in own:
                return "replay"
            marks = [(n, d) for n, d in own.items() if n[:4] == _MARK and n not in _NO_MARKS]

        words = self._words
        get = own.get
        source = words[get("kwb_source") or b""]
        type_bytes = get(_TYPE) or b""
        kind = words[type_bytes]
        if (len(kind) == INDEXED_CHARACTERS_MAX or _REPLACEMENT in kind) and kind.encode() != type_bytes:
            marks = [*(marks or ()), (_TYPE, type_bytes)]
        content_type = get("content-type")
        form, body, error = "raw", value, None
        wanted = get(FORMAT)
        if wanted is not None:
            form = words[wanted]
            content_type = next((data for name, data in kept if name == "content-type"), None)
            try:
                body = formats.decode(form, value)
            except ValueError:
                # Kept as what it is, a record whose value is these bytes: nothing that carries an id is left out.
                error, form = f"not of the format {form[:50]}", "raw"
                marks = [*(marks or ()), (FORMAT, wanted)]
        body_json = None
        if error is None and body:
            indexed = self._indexed.get(source)
            if indexed is None:
                indexed = self._is_indexed(source)
            if indexed:
                error = check_json(body)
                if error is None:
                    body_json = body
        key_text = key_bytes = None
        if key is not None:
            key_text = text_of(key)[:INDEXED_CHARACTERS_MAX]
            if key_text.encode() != key:
                key_bytes = key
        query, dedupe_key, traceparent = get("kwb_query"), get("kwb_dedupe_key"), get("traceparent")
        return _new(
            EventRow,
            (
                event_id,
                ids.moment(event_id.int >> 80),
                source,
                kind,
                words[get("kwb_method") or b""],
                text_of(get("kwb_path") or b""),
                None if query is None else text_of(query),
                None if content_type is None else words[content_type],
                headers_json(kept),
                body,
                body_json,
                error,
                key_text,
                key_bytes,
                words[get("kwb_verified") or b"none"],
                get("kwb_covers_body") == b"true",
                None if dedupe_key is None else text_of(dedupe_key)[:INDEXED_CHARACTERS_MAX],
                form,
                None if traceparent is None else text_of(traceparent),
                None if not marks else headers_json(marks),
                topic,
                topic_id,
                partition,
                offset,
            ),
        )

    def _is_indexed(self, source: str) -> bool:
        if len(self._indexed) >= _WORDS_MAX:
            self._indexed.clear()
        return self._indexed.setdefault(source, self._index_json(source))


class _Every:
    """Holds every name: what stands in a row was kept when its record was made."""

    def __contains__(self, name: object) -> bool:
        return True


class _Sender(NamedTuple):
    """What `formats.encode` needs of a source, for one that may no longer be configured."""

    name: str
    topic: str
    format: str
    ce_source: bytes
    name_bytes: bytes
    default_type: str = ""
    default_type_bytes: bytes = b""
    proof_headers: Container[bytes] = _Every()


_OWN_TYPES = {b"cloudevents": cloudevents.CONTENT_TYPE, b"envelope": envelope.CONTENT_TYPE}


def record_of(row: EventRow) -> Record:
    """The record that a row was made of: the inverse of RowMaker.make.

    Exact for every record that `formats.encode` made. Marks follow the request's headers, wherever they stood. Of a row
    that PostgreSQL took only in part (`parse_error` begins with `refused`), it is a record of what was kept.
    """
    marks = pairs_of(row.marks)
    exact = dict(marks)
    kind = exact[_TYPE].decode("utf-8", "replace") if _TYPE in exact else row.type
    name = row.source.encode()
    request = Request(
        row.method.encode(),
        row.path.encode(),
        None if row.query is None else row.query.encode(),
        [(spelling.encode("latin-1", "replace"), value) for spelling, value in pairs_of(row.headers)],
        row.body,
        "",
    )
    key = row.key_bytes if row.key_bytes is not None or row.key is None else row.key.encode()
    sender = cast("Source", _Sender(row.source, row.topic, row.format, b"/sources/" + name, name))
    record = formats.encode(
        Event(
            str(row.event_id), ids.time_ms(row.event_id), sender, request, kind, key, row.verified, row.covers_body,
            row.dedupe_key,
        ),
        True if row.body_json is not None else None,
    )  # fmt: skip
    if marks:
        headers = record.headers
        if FORMAT in exact:  # a value that is not of its format is the body of a raw row
            own_type = _OWN_TYPES.get(exact[FORMAT])
            headers = [(n, own_type if n == "content-type" and own_type else v) for n, v in headers]
        headers = [(n, exact[_TYPE] if n == _TYPE and _TYPE in exact else v) for n, v in headers]
        headers = headers + [pair for pair in marks if pair[0] != _TYPE]
        digest = exact[BODY_SHA256].decode("latin-1") if BODY_SHA256 in exact else record.body_sha256
        record = record._replace(headers=headers, body_sha256=digest)
    return record


def pairs_of(document: bytes | None) -> list[tuple[str, bytes]]:
    """The inverse of `headers_json`."""
    if not document:
        return []
    return [
        (pair[0], base64.b64decode(pair[2]) if len(pair) > 2 else pair[1].encode()) for pair in orjson.loads(document)
    ]
