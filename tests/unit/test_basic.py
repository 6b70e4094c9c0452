"""Basic credentials: what is read from the header, and that every credential is compared in full."""

from __future__ import annotations

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_webhook_bridge.sources import basic
from kafka_webhook_bridge.sources.basic import Credential, matches, parse_basic

CANARY = "canary-5d1e"


def header(login: bytes, scheme: bytes = b"Basic ") -> bytes:
    return scheme + b64encode(login)


@pytest.mark.parametrize("scheme", [b"Basic ", b"basic ", b"BASIC   ", b"  Basic "])
def test_the_scheme_is_read_as_the_rfc_wants(scheme: bytes) -> None:
    assert parse_basic(header(b"user:pass", scheme)) == (b"user", b"pass")


@pytest.mark.parametrize(
    "value",
    [
        b"", b"Basic", b"Basic ", b"Bearer dTpw", b"Basic dTpw!", b"Basic dTp", b"Basic dT pw",
        header(b"no colon"), b"Basicdxpw", b"Digest username=u", b"Basic \xff\xff", b"Basic dTpw\x00",
    ],
)  # fmt: skip
def test_what_is_no_login(value: bytes) -> None:
    assert parse_basic(value) is None


@given(st.binary(), st.binary())
def test_every_login_is_read_back(user: bytes, password: bytes) -> None:
    found = parse_basic(header(user + b":" + password))
    whole_user, _, rest = (user + b":" + password).partition(b":")
    assert found == (whole_user, rest)


@given(st.binary(max_size=100))
def test_no_header_makes_it_fail(value: bytes) -> None:
    for text in (value, b"Basic " + value):
        assert isinstance(parse_basic(text), tuple | None)


def test_matches() -> None:
    two = (Credential.of("a", "1"), Credential.of("ü", "pässword:x"))
    assert matches(two, b"a", b"1")
    assert matches(two, "ü".encode(), "pässword:x".encode())
    for user, password in ((b"a", b"pass"), (b"a", b""), (b"", b""), (b"A", b"1"), (b"b", b"1"), (b"a", b"1 ")):
        assert not matches(two, user, password)
    assert not matches(two, b"a", "pässword:x".encode())  # halves of two credentials
    assert not matches((), b"", b"")


def test_rule_35_every_credential_is_compared_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def spy(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return left == right

    monkeypatch.setattr(basic, "compare_digest", spy)
    three = tuple(Credential.of(name, "p") for name in "abc")
    for user, password in ((b"a", b"p"), (b"c", b"p"), (b"nobody", b"p"), (b"a", b"wrong")):
        compared.clear()
        matches(three, user, password)
        assert len(compared) == 6
        assert {len(side) for pair in compared for side in pair} == {32}  # digests, never the texts


def test_a_credential_shows_nothing() -> None:
    credential = Credential.of(CANARY, CANARY)
    assert repr(credential) == "Credential()"
    assert CANARY.encode() not in credential.user_sha256 + credential.password_sha256
