"""A case: one request with all that is needed to judge it, as data. What `kwb verify` reads (rules.md 33).

    {"id", "profile", "method", "url", "headers", "body" | "body_base64", "secrets", "now", "params", "jwks", "certs"}

`headers` are an object, whose values may be lists, or an array of pairs. `url` is the public address, of which all but
path and query counts as the `public_url`. `jwks` (with `keys`), `certs` (address → PEM) and the parameter `keys`
(eBay's keys by id) stand for what the bridge would fetch.
"""

from __future__ import annotations

import math
import re
from base64 import b64decode
from binascii import Error as BinasciiError
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from kafka_webhook_bridge.body import NOT_JSON, parse_json
from kafka_webhook_bridge.event import Request
from kafka_webhook_bridge.sources.verify import CompileError, HasVerify, OfflineKeys, Verdict
from kafka_webhook_bridge.sources.verify import compile as compile_verifier

BODY_BYTES_MAX: Final = 10 * 1024**2
MEMBERS: Final = (
    "id", "profile", "method", "url", "headers", "body", "body_base64", "secrets", "now", "params", "jwks", "certs",
)  # fmt: skip

_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,50}")
_ADDRESS = re.compile(
    r"((?i:https?)://(?:[^/?#\[\]]+|(?:[^/?#\[\]@]*@)?\[[0-9A-Fa-f:.]+\][:0-9]*))([^?]*)(?:\?(.*))?", re.DOTALL
)
_LINE_ENDS = re.compile(r"[\r\n\x00]")


class CaseError(ValueError):
    """Something is not a case; the message is a sentence that shows no secret."""


class Case(NamedTuple):
    """One request to judge. `base` is `scheme://host[:port]` or None, `now` the Unix time (s) or None: the clock's."""

    profile: str
    request: Request
    base: str | None
    secrets: Sequence[str]
    params: Mapping[str, str]
    keys: OfflineKeys
    now: float | None


def parse_case(data: Any) -> Case:
    """The case of a JSON value; members that it does not know are let be. Raises CaseError."""
    if not isinstance(data, dict):
        raise CaseError("a case is a JSON object")
    method = _text(data, "method") or "POST"
    if not _METHOD.fullmatch(method):
        raise CaseError("`method` is no method")
    base, path, query = split_url(_text(data, "url"))
    request = Request(method.encode(), path, query, _headers(data.get("headers")), _body(data), "")
    params = _object(data, "params")
    return Case(
        _text(data, "profile"),
        request,
        base,
        _secrets(data.get("secrets")),
        {name: str(value) for name, value in params.items() if not isinstance(value, (dict, list))},
        OfflineKeys(_jwks(data.get("jwks")), _object(data, "certs"), _ebay(params)),
        _now(data.get("now")),
    )


def judge(profile: HasVerify, case: Case, now: float) -> Verdict:
    """The verdict on a case at the time `now` (Unix, s); what cannot be configured so is a verdict, too."""
    try:
        verify = compile_verifier(profile, case.secrets, params=case.params, public_url=case.base, keys=case.keys)
    except CompileError as error:
        return Verdict(False, error.code, str(error))
    document = parse_json(case.request.body) if verify.needs_json else NOT_JSON
    return verify(case.request, document, now)


def split_url(url: str) -> tuple[str | None, bytes, bytes | None]:
    """`scheme://host[:port]`, path and query of an address, as bytes that are not changed. Raises CaseError."""
    if not url:
        return None, b"/", None
    match = _ADDRESS.fullmatch(url)
    if match is None:
        raise CaseError("`url` is no http or https address")
    base, path, query = match.groups()
    return base, _encoded(path), None if query is None else _encoded(query)


def _headers(data: Any) -> list[tuple[bytes, bytes]]:
    pairs: list[tuple[Any, Any]] = []
    if isinstance(data, dict):
        for name, values in data.items():
            pairs += [(name, value) for value in (values if isinstance(values, list) else [values])]
    elif isinstance(data, list):
        if not all(isinstance(pair, list) and len(pair) == 2 for pair in data):
            raise CaseError("`headers` are an object or an array of pairs")
        pairs = [(name, value) for name, value in data]
    elif data is not None:
        raise CaseError("`headers` are an object or an array of pairs")
    found = []
    for name, value in pairs:
        if not isinstance(name, str) or not isinstance(value, str) or _LINE_ENDS.search(name + value):
            raise CaseError("names and values of headers are text without line ends")
        found.append((_encoded(name), _encoded(value)))
    return found


def _body(data: dict[str, Any]) -> bytes:
    if data.get("body") and data.get("body_base64") is not None:
        raise CaseError("either `body` or `body_base64`")
    if data.get("body_base64") is not None:
        try:
            body = b64decode(_text(data, "body_base64"), validate=True)
        except (BinasciiError, ValueError):
            raise CaseError("`body_base64` is not base64") from None
    else:
        body = _encoded(_text(data, "body"))
    if len(body) > BODY_BYTES_MAX:
        raise CaseError("the body is larger than 10 MiB")
    return body


def _secrets(data: Any) -> list[str]:
    if data is None:
        return []
    if not isinstance(data, list) or not all(isinstance(secret, str) for secret in data):
        raise CaseError("`secrets` are an array of texts")
    return data


def _jwks(data: Any) -> list[Mapping[str, Any]] | None:
    if isinstance(data, dict):
        data = data.get("keys")
    if data is None:
        return None
    if not isinstance(data, list) or not all(isinstance(key, dict) for key in data):
        raise CaseError("`jwks` has no array `keys` of objects")
    return data


def _ebay(params: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    keys = params.get("keys")
    if not isinstance(keys, dict):
        return {}
    return {key_id: key for key_id, key in keys.items() if isinstance(key, dict)}


def _now(data: Any) -> float | None:
    if data is None:
        return None
    if isinstance(data, bool) or not isinstance(data, (int, float)) or not math.isfinite(data) or abs(data) > 1e12:
        raise CaseError("`now` is a Unix time in seconds")
    return float(data)


def _object(data: dict[str, Any], name: str) -> dict[str, Any]:
    value = data.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise CaseError(f"`{name}` is an object")
    if name == "certs" and not all(isinstance(pem, str) for pem in value.values()):
        raise CaseError("`certs` are PEM texts by address")
    return value


def _text(data: dict[str, Any], name: str) -> str:
    value = data.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise CaseError(f"`{name}` is text")
    return value


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise CaseError("half of a surrogate pair is no text") from None
