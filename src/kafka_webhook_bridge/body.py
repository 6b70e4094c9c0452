"""What can be told of a request body without knowing its sender: whether it is JSON.

One answer for the partition key, the structured formats and whoever else asks (rules.md 28): strict RFC 8259 in UTF-8
without a byte order mark, numbers that fit a double, no lone surrogates, at most 1 MiB and 100 levels deep. Above these
bounds a body counts as text, so that no sender can make the bridge slow, nor a consumer fail.
"""

from __future__ import annotations

from typing import Any, Final

import orjson

JSON_BYTES_MAX = 1024**2
JSON_DEPTH_MAX = 100

NOT_JSON: Final = object()


def parse_json(body: bytes) -> Any:
    """The JSON value of `body`, or NOT_JSON. Never raises."""
    if not body or len(body) > JSON_BYTES_MAX:
        return NOT_JSON
    try:
        value = orjson.loads(body)
    except ValueError:
        return NOT_JSON
    # Depth cannot exceed the count of opening brackets, so the walk is for the few bodies with many of them.
    if body.count(b"{") + body.count(b"[") > JSON_DEPTH_MAX and _too_deep(value):
        return NOT_JSON
    return value


def _too_deep(value: Any) -> bool:
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(JSON_DEPTH_MAX):
        level = [
            child
            for container in level
            for child in (container.values() if type(container) is dict else container)
            if type(child) is dict or type(child) is list
        ]
        if not level:
            return False
    return True
