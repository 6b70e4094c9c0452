"""Credentials of a refused request: taken out, and known again by a keyed hash (rules.md 27).

A wrong password may well be the right one of something else, so nobody may read it in the table. With the hash and the
key the bridge can tell, once the configuration is right, whether it was one of the source's secrets; without the key
nobody can tell anything.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple
from urllib.parse import quote_from_bytes

from kafka_webhook_bridge.event import Request
from kafka_webhook_bridge.formats.headers import is_credential
from kafka_webhook_bridge.sources.basic import Credential, parse_basic
from kafka_webhook_bridge.sources.places import REDACTED, Kind, Places, decoded
from kafka_webhook_bridge.sources.source import Source

_PURPOSE = b"kwb credentials of refused requests"
_LOGIN = b"authorization"
_NO_PLACES = Places()


class Withheld(NamedTuple):
    """What was at that place, counted from 0 among header lines or pairs of the query.

    `digest` is hex, and empty where there was no key.
    """

    kind: Kind
    at: int
    digest: str


def purpose_key(secret_key: str) -> bytes:
    """The key of these hashes, made of the store's."""
    return hmac.digest(secret_key.encode(), _PURPOSE, "sha256")


def withhold(request: Request, source: Source, key: bytes | None) -> tuple[Request, list[Withheld]]:
    """The request without credentials, and what is known of them."""
    places = _NO_PLACES if source.proof is None else source.proof.places
    found: list[Withheld] = []
    headers = list(request.headers)
    for at, (name, value) in enumerate(headers):
        lower = name.lower()
        if lower in places.headers or (is_credential(lower) and lower not in places.kept):
            headers[at] = (name, REDACTED)
            found.append(Withheld("header", at, _digest(_canonical(value), key)))
    query = request.query
    if places.query and query is not None:
        pairs = query.split(b"&")
        for at, pair in enumerate(pairs):
            if places.hides(pair):
                name, _, value = pair.partition(b"=")
                pairs[at] = name + b"=" + REDACTED
                found.append(Withheld("query", at, _digest(_canonical(decoded(value)), key)))
        query = b"&".join(pairs)
    return request._replace(headers=headers, query=query), found


def restore(
    request: Request, withheld: Sequence[Withheld], source: Source, key: bytes | None
) -> tuple[Request, list[Withheld]]:
    """The request with every credential that is right by the source as it is now, and what stays unknown."""
    rights = {} if source.proof is None else source.proof.rights
    headers = list(request.headers)
    pairs = [] if request.query is None else request.query.split(b"&")
    unknown = []
    for one in withheld:
        if one.kind == "header":
            name, _ = headers[one.at]
            value = _known(one, rights.get(("header", name.lower()), ()), key)
            if value is not None:
                headers[one.at] = (name, value)
        else:
            name, _, _ = pairs[one.at].partition(b"=")
            value = _known(one, rights.get(("query", decoded(name)), ()), key)
            if value is not None:
                pairs[one.at] = name + b"=" + quote_from_bytes(value, safe="").encode()
        if value is None:
            unknown.append(one)
    query = None if request.query is None else b"&".join(pairs)
    return request._replace(headers=headers, query=query), unknown


def login_was_right(
    request: Request, withheld: Sequence[Withheld], credentials: Sequence[Credential], key: bytes | None
) -> bool:
    """Whether the request had one header Authorization, with one of these Basic credentials."""
    lines = [at for at, (name, _) in enumerate(request.headers) if name.lower() == _LOGIN]
    hashes = [one.digest for one in withheld if one.kind == "header" and one.at in lines]
    if key is None or len(lines) != 1 or len(hashes) != 1:
        return False
    right = False
    for credential in credentials:
        wanted = _digest(credential.user_sha256 + credential.password_sha256, key)
        right |= hmac.compare_digest(wanted, hashes[0])
    return right


def _known(one: Withheld, values: Sequence[bytes], key: bytes | None) -> bytes | None:
    """The value that was there, if it is one of these."""
    if key is None:
        return None
    found = None
    for value in values:
        if hmac.compare_digest(_digest(_canonical(value), key), one.digest):
            found = value
    return found


def _canonical(value: bytes) -> bytes:
    """One text for all spellings of the same Basic credentials, that of their digests; else the value itself."""
    login = parse_basic(value)
    return value if login is None else b"".join(sha256(half).digest() for half in login)


def _digest(text: bytes, key: bytes | None) -> str:
    return "" if key is None else hmac.digest(key, text, "sha256").hex()
