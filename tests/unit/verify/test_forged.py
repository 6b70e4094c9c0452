"""A forger's corpus: what can be made of each valid vector without its secret, and that nothing of it passes."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from token_world import private, signature
from verify_world import BODIES, CATALOG, VALID, b64url, judge, request_of, verifier_of

from kafka_webhook_bridge.event import Request
from kafka_webhook_bridge.sources.verify.model import Verify, parse_verify

Forgery = tuple[str, Request]

# Each character becomes another of its kind, so that what is written stays well-formed.
_TURNED = bytes.maketrans(
    b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
    b"1234567890bcdefaghijklmnopqrstuvwxzyBCDEFAGHIJKLMNOPQRSTUVWXZY",
)
_LONG = re.compile(rb"[A-Za-z0-9+/_=-]{16,}")
_EMPTY = (
    b"null",
    b"undefined",
    b"None",
    b"true",
    b"*",
    b"0",
    b"[object Object]",
    b"''",
    b"sha256=",
    b"v1,",
    b"t=1,v1=",
)
_HASHES = ("md5", "sha1", "sha256", "sha384", "sha512")


def needed(vector: dict[str, Any]) -> list[int]:
    """The headers without which it does not pass."""
    verifier, request = verifier_of(vector), request_of(vector)
    return [
        index
        for index, (name, _) in enumerate(request.headers)
        if name.lower() != b"content-type" and not judge(verifier, without(request, index), vector["now"]).ok
    ]


def without(request: Request, index: int) -> Request:
    return request._replace(headers=request.headers[:index] + request.headers[index + 1 :])


def with_value(request: Request, index: int, value: bytes) -> Request:
    headers = [*request.headers]
    headers[index] = (headers[index][0], value)
    return request._replace(headers=headers)


def signature_of(vector: dict[str, Any]) -> dict[str, Any]:
    """The row's `signature`; the lists that twelve schemes in code and ways of `any` have are not told."""
    place = getattr(parse_verify(CATALOG.load(vector["profile"]).verify), "signature", None)
    return {"separator": ","} if place is None else place.model_dump()


def other_values(vector: dict[str, Any], request: Request, index: int) -> Iterator[Forgery]:
    """Signatures and tokens that somebody could try who knows how they are written."""
    name, value = request.headers[index]
    yield "turned", with_value(request, index, value.translate(_TURNED))
    longest = max(_LONG.findall(value), key=len, default=b"")
    if longest and longest.translate(_TURNED) != longest:
        yield "turned signature", with_value(request, index, _LONG.sub(lambda m: m[0].translate(_TURNED), value))
        for text in _tries(request.body, longest):
            yield "made up", with_value(request, index, _LONG.sub(lambda _, text=text: text, value))
    for text in _EMPTY:
        yield "nothing", with_value(request, index, text)
    if not (row := signature_of(vector)).get("separator") and not row.get("separator_pattern"):
        yield "two in one", with_value(request, index, value + b", " + value)
        yield "behind another", with_value(request, index, b"x" + value)
    for other in (name.replace(b"-", b"_"), b"X-" + name, name + b"-", name + b" "):
        if other != name and other.decode().lower() not in map(str.lower, row.get("also", [])):
            yield (
                "another name",
                request._replace(
                    headers=[(other if at == index else line, text) for at, (line, text) in enumerate(request.headers)]
                ),
            )
    moved = without(request, index)
    yield "in the query", moved._replace(query=name.lower() + b"=" + value)


def _tries(body: bytes, like: bytes) -> Iterator[bytes]:
    """Digests that need no secret: of nothing, of the body, with keys that are no keys; in hex and base64."""
    raws = [bytes(len(like) // 2), b"\xff" * 32]
    for name in _HASHES:
        raws += [hashlib.new(name, body).digest(), hashlib.new(name, b"").digest()]
        raws += [hmac.digest(key, body, name) for key in (b"", b"\0", b"secret", b"None", b"undefined")]
    for raw in raws:
        yield raw.hex().encode()
        yield base64.b64encode(raw)


@pytest.mark.parametrize("vector", VALID, ids=lambda vector: vector["id"])
def test_no_forged_header_passes(vector: dict[str, Any]) -> None:
    verifier, request = verifier_of(vector), request_of(vector)
    for index in needed(vector):
        for what, forged in other_values(vector, request, index):
            assert not judge(verifier, forged, vector["now"]).ok, (what, forged.headers[index : index + 1])


def bodies(body: bytes) -> Iterator[Forgery]:
    """Bodies that mean the same to somebody, or more."""
    request = Request(b"POST", b"/", None, [], body, "")
    texts = [
        b"\xef\xbb\xbf" + body, body + b"\0", body + b"\r\n", body.replace(b" ", b""), body.replace(b"/", rb"\/"),
        body.replace(b"\n", b"\r\n"), body[:-1] + b',"a":1}', b"[" + body + b"]", body + b"&a=1", body * 2,
        body.decode("latin-1").encode("utf-16"), base64.b64encode(body), body.upper(), body.swapcase(),
        body + b"\x80" + bytes(55), hashlib.sha256(body).hexdigest().encode(),
    ]  # fmt: skip
    try:
        value = json.loads(body)
    except ValueError:
        pass
    else:
        texts += [
            json.dumps(value).encode(), json.dumps(value, indent=2).encode(),
            json.dumps(value, separators=(",", ":"), sort_keys=True).encode(),
            json.dumps(value, ensure_ascii=False).encode(),
        ]  # fmt: skip
    for text in texts:
        if text != body:
            yield "body", request._replace(body=text)


@pytest.mark.parametrize("vector", BODIES, ids=lambda vector: vector["id"])
def test_no_other_body_passes(vector: dict[str, Any]) -> None:
    verifier, request = verifier_of(vector), request_of(vector)
    for _, forged in bodies(request.body):
        assert not judge(verifier, request._replace(body=forged.body), vector["now"]).ok, forged.body


@pytest.mark.parametrize("vector", BODIES, ids=lambda vector: vector["id"])
def test_no_other_secret_and_no_other_request_of_the_sender_passes(vector: dict[str, Any]) -> None:
    """A request under the headers of another, whatever they have in common."""
    verifier, request = verifier_of(vector), request_of(vector)
    for other in VALID:
        if other["profile"] == vector["profile"] and other["body"] != vector["body"]:
            mixed = request._replace(body=request_of(other).body)
            assert not judge(verifier, mixed, vector["now"]).ok, other["id"]


def windows(row: Verify) -> Iterator[tuple[float | None, Any]]:
    for way in getattr(row, "of", [row]):
        if (time := getattr(way, "timestamp", None)) is not None:
            yield time.past_s, time.past_s if time.future_s is None else time.future_s


def window(vector: dict[str, Any]) -> list[tuple[float | None, Any]]:
    return list(windows(parse_verify(CATALOG.load(vector["profile"]).verify)))


WINDOWED = [vector for vector in VALID if window(vector) and all(past for past, _ in window(vector))]


@pytest.mark.parametrize("vector", WINDOWED, ids=lambda vector: vector["id"])
def test_no_request_passes_outside_of_its_window(vector: dict[str, Any]) -> None:
    verifier, request = verifier_of(vector), request_of(vector)
    found = window(vector)
    past = max(age or 0 for age, _ in found)
    for later in (2 * past + 1, 86_400, 10 * 365 * 86_400):
        if later > 2 * past:
            assert judge(verifier, request, vector["now"] + later).code == "timestamp.old"
    if all(future != "any" for _, future in found):
        for earlier in (2 * past + 1, 86_400, 10 * 365 * 86_400):
            if earlier > 2 * past:
                assert judge(verifier, request, vector["now"] - earlier).code == "timestamp.future"


ADDRESSED = [vector for vector in VALID if verifier_of(vector).needs_url]


@pytest.mark.parametrize("vector", ADDRESSED, ids=lambda vector: vector["id"])
def test_no_request_passes_at_another_address(vector: dict[str, Any]) -> None:
    verifier, request = verifier_of(vector), request_of(vector)
    query = request.query or b""
    for forged in (
        request._replace(path=request.path + b"x"),
        request._replace(path=request.path + b"/"),
        request._replace(path=request.path.upper()),
        request._replace(path=b"//" + request.path),
        request._replace(query=query + b"&a=b"),
        request._replace(query=b"a=b&" + query),
    ):
        # Plivo's second version leaves the query out.
        if forged == request or (forged.path == request.path and vector["profile"] == "plivo"):
            continue
        assert not judge(verifier, forged, vector["now"]).ok, (forged.path, forged.query)


def tokens(text: str) -> Iterator[str]:
    """Tokens with the claims of a right one, by nobody, or by a forger's own key."""
    head, claims, right = text.split(".")
    header = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))

    def made(more: dict[str, Any]) -> str:
        return b64url(json.dumps({**header, **more}).encode())

    for name in ("none", "None", "NONE", "nOnE", "", None, [], 0, ["none"]):
        yield f"{made({'alg': name})}.{claims}."
        yield f"{made({'alg': name})}.{claims}.{right}"
    forger = private("RSA", 1)
    numbers = forger.public_key().public_numbers()
    jwk = {"kty": "RSA", "n": b64url(numbers.n.to_bytes(256, "big")), "e": "AQAB"}
    for name in ("HS256", "HS384", "HS512", "RS256", "RS512", "PS256"):
        for more in ({}, {"jwk": jwk}, {"jku": "https://forger.example/keys"}, {"kid": "../../dev/null"}, {"kid": ""}):
            first = made({"alg": name, **more})
            for key in (b"", b"\0", b"secret", b"null") if name.startswith("HS") else (forger,):
                message = f"{first}.{claims}".encode()
                yield f"{first}.{claims}.{b64url(signature(name, key, message))}"
    yield f"{head}.{claims}."
    yield f"{head}.{claims}"
    yield f"{head}.{claims}.{right}."
    yield f"{head}.{claims}.{right}="
    yield f"{head}.{claims}.{right[:-4]}"
    yield f"{head}..{right}"
    yield f"{head}.{b64url(b'{}')}.{right}"
    yield f"{made({'typ': 'JWT', 'x': 1})}.{claims}.{right}"


JWTS = [vector for vector in VALID if parse_verify(CATALOG.load(vector["profile"]).verify).scheme == "jwt"]


def test_there_are_tokens_to_forge() -> None:
    assert len({vector["profile"] for vector in JWTS}) > 10


@pytest.mark.parametrize("vector", JWTS, ids=lambda vector: vector["id"])
def test_no_forged_token_passes(vector: dict[str, Any]) -> None:
    verifier, request = verifier_of(vector), request_of(vector)
    whole = b"\n".join([*(value for _, value in request.headers), request.body])
    match = re.search(rb"[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+", whole)
    assert match is not None
    for text in tokens(match[0].decode()):
        put = text.encode()
        forged = request._replace(
            headers=[(name, value.replace(match[0], put)) for name, value in request.headers],
            body=request.body.replace(match[0], put),
        )
        assert forged != request
        assert not judge(verifier, forged, vector["now"]).ok, text
