"""Credentials of refused requests: gone, and known again by those who have the key and the right secret."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_webhook_bridge.event import Request
from kafka_webhook_bridge.ingest.withheld import Withheld, login_was_right, purpose_key, restore, withhold
from kafka_webhook_bridge.settings import load_settings
from kafka_webhook_bridge.sources.config import load_sources
from kafka_webhook_bridge.sources.places import REDACTED
from kafka_webhook_bridge.sources.source import Source

KEY = purpose_key("k" * 32)
RIGHT = "canary right"


def source(words: str) -> Source:
    config = f"sources: {{s: {{{words}}}}}"
    found = load_sources(load_settings({"KWB_CONFIG": config, "WEBHOOK_USERNAME": "u", "WEBHOOK_PASSWORD": "p"})).get(
        "s"
    )
    assert found is not None
    return found


TOKEN = source(f'profile: gitlab-token, secrets: ["other", "{RIGHT}"]')
QUERY = source(f'profile: query-token, secrets: ["{RIGHT}"]')
BASIC = source(f'profile: basic, secrets: ["user:{RIGHT}"]')
BEARER = source(f'profile: token, secrets: ["{RIGHT}"]')
SIGNED = source(f'profile: github, secrets: ["{RIGHT}"]')
LOGIN = source(f'username: user, password: "{RIGHT}"')


def sent(*headers: tuple[bytes, bytes], query: bytes | None = None) -> Request:
    return Request(b"POST", b"/s", query, list(headers), b"body", "192.0.2.1")


def basic(text: str, scheme: str = "Basic") -> tuple[bytes, bytes]:
    return b"Authorization", f"{scheme} ".encode() + base64.b64encode(text.encode())


CASES: dict[str, tuple[Source, Request]] = {
    "header": (TOKEN, sent((b"X-Gitlab-TOKEN", RIGHT.encode()), (b"X-Other", b"kept"))),
    "query": (QUERY, sent(query=b"a=1&tok%65n=canary%20right&b")),
    "basic": (BASIC, sent(basic(f"user:{RIGHT}", "bASIC"))),
    "bearer": (BEARER, sent((b"authorization", f"Bearer {RIGHT}".encode()))),
}


@pytest.mark.parametrize("case", CASES)
def test_rule_27_what_is_withheld_comes_back_with_the_key_and_the_secret(case: str) -> None:
    of, request = CASES[case]
    without, withheld = withhold(request, of, KEY)
    assert REDACTED in repr(without).encode()
    assert "canary" not in repr(without) + repr(withheld)
    again, unknown = restore(without, withheld, of, KEY)
    assert not unknown
    assert of.proof is not None
    assert of.proof.verifier(again, None, 0).ok
    assert again.body == request.body
    for other in (purpose_key("x" * 32), None):
        assert restore(without, withheld, of, other)[1] == withheld
    nothing, hashed = withhold(request, of, None)
    assert nothing == without
    assert [one.digest for one in hashed] == [""]
    assert restore(nothing, hashed, of, KEY)[1] == hashed


def test_rule_27_a_wrong_secret_stays_unknown() -> None:
    request = sent(
        (b"X-Gitlab-Token", b"canary of somebody"), (b"Cookie", b"canary"), (b"Proxy-Authorization", b"canary")
    )
    without, withheld = withhold(request, TOKEN, KEY)
    assert [value for _, value in without.headers] == [REDACTED] * 3
    assert restore(without, withheld, TOKEN, KEY) == (without, withheld)


def test_rule_27_proof_is_kept() -> None:
    request = sent((b"X-Hub-Signature-256", b"sha256=00"), (b"Authorization", b"canary"))
    without, withheld = withhold(request, SIGNED, KEY)
    assert without.headers == [request.headers[0], (b"Authorization", REDACTED)]
    assert [(one.kind, one.at) for one in withheld] == [("header", 1)]


@pytest.mark.parametrize(
    ("headers", "right"),
    [
        ([basic(f"user:{RIGHT}")], True),
        ([basic(f"user:{RIGHT}", "basic ")], True),
        ([basic("user:other")], False),
        ([basic(f"other:{RIGHT}")], False),
        ([(b"Authorization", b"Bearer x")], False),
        ([basic(f"user:{RIGHT}"), basic(f"user:{RIGHT}")], False),
        ([(b"X", b"y")], False),
    ],
)
def test_rule_27_a_login_is_known_by_its_hash(headers: list[tuple[bytes, bytes]], right: bool) -> None:
    without, withheld = withhold(sent(*headers), LOGIN, KEY)
    assert login_was_right(without, withheld, LOGIN.credentials, KEY) is right
    assert not login_was_right(without, withheld, LOGIN.credentials, purpose_key("x" * 32))
    nothing, hashed = withhold(sent(*headers), LOGIN, None)
    assert not login_was_right(nothing, hashed, LOGIN.credentials, None)


@given(
    headers=st.lists(
        st.tuples(st.sampled_from([b"X-Gitlab-Token", b"Authorization", b"X", b"token"]), st.binary(max_size=30))
    ),
    query=st.none()
    | st.lists(st.sampled_from([b"token=a", b"token", b"x=1", b"", b"%74oken=b=c", b"token=[redacted]"])),
    of=st.sampled_from([TOKEN, QUERY, BASIC, BEARER, SIGNED, LOGIN]),
)
def test_every_request_goes_there_and_back(headers: list[tuple[bytes, bytes]], query: Any, of: Source) -> None:
    request = sent(*headers, query=None if query is None else b"&".join(query))
    without, withheld = withhold(request, of, KEY)
    assert [name for name, _ in without.headers] == [name for name, _ in headers]
    places = {(one.kind, one.at) for one in withheld}
    for at, ((_, before), (_, after)) in enumerate(zip(request.headers, without.headers, strict=True)):
        assert after == (REDACTED if ("header", at) in places else before)
    again, unknown = restore(without, [Withheld(*tuple(one)) for one in withheld], of, KEY)
    assert len(again.headers) == len(headers)
    assert set(unknown) <= set(withheld)
