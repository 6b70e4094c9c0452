"""JSON documents that end with the body and give it back to the byte (rules.md 26).

A body that is JSON (`body.parse_json`) is spliced in as it came, other UTF-8 becomes a JSON string, the rest base64.
Since a JSON string may have been either, documents with text say so in a member of their own.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import orjson

from kafka_webhook_bridge.body import NOT_JSON, parse_json

# Text is base64 where its escapes would outgrow that (control characters take six bytes each), as the size of a
# record is bounded by 4/3 of its body (rules.md 9).
_ESCAPES_BYTES_MAX = 16 * 1024

_decoder = json.JSONDecoder()


def compose(members: dict[str, object], body: bytes, member: str, text_member: str, is_json: bool | None) -> bytes:
    """`members` as an object whose last member is the body: `member`, or `<member>_base64`.

    `text_member` is set to true when the body is text. `is_json` is the answer of parse_json where the caller has it.
    """
    if is_json is None:
        is_json = parse_json(body) is not NOT_JSON
    if is_json:
        return b'%b,"%b":%b}' % (orjson.dumps(members)[:-1], member.encode(), body)
    try:
        text = orjson.dumps(body.decode())
    except UnicodeDecodeError:
        text = b""
    if text and 3 * (len(text) - _ESCAPES_BYTES_MAX) <= 4 * len(body):
        members[text_member] = True
        return b'%b,"%b":%b}' % (orjson.dumps(members)[:-1], member.encode(), text)
    return b'%b,"%b_base64":"%b"}' % (orjson.dumps(members)[:-1], member.encode(), base64.b64encode(body))


def body_of(value: bytes, member: str, text_member: str) -> bytes:
    """The body that `compose` was given. Raises ValueError if the document is none of its making."""
    try:
        document = value.decode()
        _expect(document, 0, "{")
        _expect(document, -1, "}")
        before: dict[str, Any] = {}
        position = 1
        while True:
            name, position = _decoder.raw_decode(document, position)
            position = _expect(document, position, ":")
            if name in (member, f"{member}_base64"):
                break
            before[name], position = _decoder.raw_decode(document, position)
            position = _expect(document, position, ",")
        rest = document[position:-1]
        if name != member:
            return base64.b64decode(json.loads(rest), validate=True)
        text: str = json.loads(rest) if before.get(text_member) is True else rest
        return text.encode()
    except (IndexError, TypeError, AttributeError, RecursionError, ValueError) as error:
        raise ValueError(f"not a record of this format: {error}") from None


def _expect(document: str, position: int, character: str) -> int:
    if document[position] != character:
        raise ValueError(f"{character} is missing")
    return position + 1
