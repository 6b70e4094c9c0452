"""What is signed for a profile is right to the engine, for every profile, and any change of it is not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from verify_world import CATALOG, NOW, VECTORS

from kafka_webhook_bridge.body import parse_json
from kafka_webhook_bridge.event import Request
from kafka_webhook_bridge.sources.verify import Verifier, parse_verify
from kafka_webhook_bridge.sources.verify import compile as compile_verifier
from kafka_webhook_bridge.sources.verify.compiled import traits_of
from kafka_webhook_bridge.sources.verify.identity import (
    Identity,
    forged,
    key_kind,
    leaves,
    load_private,
    make_identity,
    make_private,
    private_pem,
)
from kafka_webhook_bridge.sources.verify.sign import compile_signer, example, window_s

URL = "https://hooks.example.com/in"
UNIQUE = "0123456789abcdef0123456789abcdef"
JSON = [(b"Content-Type", b"application/json")]
NAMES = CATALOG.names()
# The token is in the body, and what is around it carries nothing.
TOKENS = {"kinde", "shipmondo", "wix"}


def made(name: str, **options: Any) -> tuple[Identity, Verifier]:
    """A sender of the profile, and the verifier of a receiver that knows it."""
    profile = CATALOG.load(name)
    identity = make_identity(profile.verify, now=NOW, **options)
    secrets = [identity.secret] if identity.secret else []
    return identity, compile_verifier(profile, secrets, params=identity.params, public_url=URL, keys=identity.keys)


def signed(name: str, identity: Identity, body: bytes = b'{"id":"e1","type":"a.b"}', now: float = NOW) -> Request:
    sign = compile_signer(CATALOG.load(name).verify, identity, public_url=URL)
    return sign(Request(b"POST", b"/orders", b"a=1", JSON, body, ""), now, UNIQUE)


def right(verifier: Verifier, request: Request, now: float = NOW) -> bool:
    return verifier(request, parse_json(request.body), now).ok


@pytest.mark.parametrize("name", NAMES)
def test_every_profile_accepts_what_is_signed_for_it(name: str) -> None:
    identity, verifier = made(name)
    request = signed(name, identity)
    assert verifier(request, parse_json(request.body), NOW) == (True, "ok", "", None)


@pytest.mark.parametrize("name", [name for name in NAMES if CATALOG.load(name).verify.scheme != "none"])
def test_every_profile_refuses_what_another_key_signed(name: str) -> None:
    identity, verifier = made(name)
    request = signed(name, forged(CATALOG.load(name).verify, identity))
    assert not right(verifier, request)


def covers_body(name: str) -> bool:
    profile = CATALOG.load(name)
    return traits_of(profile.verify).covers_body if profile.covers_body is None else profile.covers_body


COVERED = [name for name in NAMES if covers_body(name)]


def test_the_body_is_covered_by_most_profiles() -> None:
    assert len(COVERED) > 230


@pytest.mark.parametrize("name", COVERED)
def test_a_covered_body_cannot_be_changed_after_signing(name: str) -> None:
    identity, verifier = made(name)
    assert verifier.covers_body
    request = signed(name, identity)
    at = 3 if name in TOKENS else len(request.body) // 2
    changed = request.body[:at] + bytes([request.body[at] ^ 1]) + request.body[at + 1 :]
    assert not right(verifier, request._replace(body=changed))


WINDOWS = [name for name in NAMES if window_s(CATALOG.load(name).verify) is not None]


@pytest.mark.parametrize("name", WINDOWS)
def test_what_was_signed_before_the_window_is_refused(name: str) -> None:
    identity, verifier = made(name)
    window = window_s(CATALOG.load(name).verify)
    assert window is not None
    request = signed(name, identity, now=NOW - window - 60)
    assert not right(verifier, request)
    assert right(verifier, request, NOW - window - 60)


def test_windows_are_those_of_the_rows() -> None:
    assert len(WINDOWS) > 60
    assert window_s(CATALOG.load("stripe").verify) == 300
    assert window_s(CATALOG.load("shopify").verify) is None


PEMS = [name for name in NAMES if key_kind(CATALOG.load(name).verify)]


@pytest.mark.parametrize("name", PEMS)
def test_a_key_of_ones_own_signs(name: str) -> None:
    """The private key that `kwb send` printed can be given to it again."""
    first, _ = made(name)
    assert first.private is not None
    again, verifier = made(name, private=load_private(private_pem(first.private).encode()))
    assert again.secret == first.secret
    assert right(verifier, signed(name, again))


def test_a_key_of_another_kind_is_told() -> None:
    row = CATALOG.load("discord").verify
    with pytest.raises(ValueError, match="an Ed25519 key"):
        make_identity(row, private=make_private("ES256"))
    with pytest.raises(ValueError, match="no private key in PEM"):
        load_private(b"-----BEGIN NOTHING-----")


OFFICIAL = [
    vector
    for vector in VECTORS
    if vector["expected"] and vector["origin"].startswith("official") and vector["profile"] not in PEMS
]


@pytest.mark.parametrize("vector", OFFICIAL, ids=lambda vector: vector["id"])
def test_the_secrets_of_official_vectors_sign_their_bodies(vector: dict[str, Any]) -> None:
    """A given secret is used as the provider shows it; what a vector's receiver takes from us is what it took."""
    profile = CATALOG.load(vector["profile"])
    params = {name: value for name, value in vector.get("params", {}).items() if isinstance(value, str)}
    sender = make_identity(profile.verify, secret=vector["secrets"][0], params=params)
    headers = [(name.encode(), value.encode()) for name, value in vector["headers"].items()]
    request = Request(vector["method"].encode(), b"/orders", None, headers, vector["body"].encode(), "")
    sign = compile_signer(profile.verify, sender, public_url=URL)
    verifier = compile_verifier(profile, vector["secrets"], params=sender.params, public_url=URL, keys=sender.keys)
    assert right(verifier, sign(request, NOW, UNIQUE))


@given(body=st.binary(max_size=200), query=st.none() | st.text("abc=&%1", max_size=20))
@settings(max_examples=60)
def test_any_request_is_signed_or_told_why_not(body: bytes, query: str | None) -> None:
    said = []
    for name in (
        "stripe",
        "mailgun",
        "twilio",
        "adyen-standard",
        "dropbox-sign",
        "exact-online",
        "livekit",
        "gitea-form",
    ):
        if name not in IDENTITIES:
            IDENTITIES[name] = made(name)
        identity, _ = IDENTITIES[name]
        sign = compile_signer(CATALOG.load(name).verify, identity, public_url=URL)
        try:
            sign(Request(b"POST", b"/", None if query is None else query.encode(), JSON, body, ""), NOW, UNIQUE)
        except ValueError as error:
            said.append(str(error))
    assert all(said)


MANY_KINDS = (
    "stripe", "mailgun", "twilio", "adyen-standard", "dropbox-sign", "exact-online", "livekit", "gitea-form",
)  # fmt: skip
IDENTITIES: dict[str, tuple[Identity, Verifier]] = {}


def test_prefixes_by_pattern_have_an_example() -> None:
    patterns = [
        way.signature.prefix_pattern
        for name in NAMES
        for way in leaves(CATALOG.load(name).verify)
        if getattr(getattr(way, "signature", None), "prefix_pattern", None)
    ]
    assert patterns
    assert all(example(pattern) for pattern in patterns)
    with pytest.raises(ValueError, match="no example"):
        example("(a|b)?c")


def test_a_profile_that_signs_the_address_needs_it() -> None:
    row = parse_verify(CATALOG.load("square").verify)
    sign = compile_signer(row, make_identity(row), public_url=None)
    with pytest.raises(ValueError, match="cannot be signed"):
        sign(Request(b"POST", b"/", None, [], b"{}", ""), NOW, UNIQUE)
