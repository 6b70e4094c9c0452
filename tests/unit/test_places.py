"""What of a request is a credential, and how it leaves (rules.md 27)."""

from __future__ import annotations

import pytest

from kafka_webhook_bridge.event import Request
from kafka_webhook_bridge.sources.catalog import Catalog
from kafka_webhook_bridge.sources.places import Places, places_of, reads_authorization

CATALOG = Catalog()


def request(query: bytes | None = None, headers: list[tuple[bytes, bytes]] | None = None) -> Request:
    return Request(b"POST", b"/s/t", query, headers or [], b"body", "")


@pytest.mark.parametrize(
    ("query", "left"),
    [
        (None, None),
        (b"", b""),
        (b"token=s", b"token=[redacted]"),
        (b"a=1&token=s&token=t&b", b"a=1&token=[redacted]&token=[redacted]&b"),
        (b"t%6Fken=s%20t&to+ken=x", b"t%6Fken=[redacted]&to+ken=x"),
        (b"token&token=&mytoken=x&Token=y", b"token&token=[redacted]&mytoken=x&Token=y"),
    ],
)
def test_rule_27_a_token_leaves_the_query_and_nothing_else_changes(query: bytes | None, left: bytes | None) -> None:
    assert Places(query=frozenset({b"token"})).redact(request(query)).query == left


def test_rule_27_every_line_of_a_header_is_redacted() -> None:
    headers = [(b"X-Token", b"a"), (b"x-token", b"b"), (b"X-Token-Id", b"c")]
    found = Places(headers=frozenset({b"x-token"})).redact(request(headers=headers))
    assert found.headers == [(b"X-Token", b"[redacted]"), (b"x-token", b"[redacted]"), (b"X-Token-Id", b"c")]
    assert headers[0] == (b"X-Token", b"a")  # the verifier has another use for it


def test_a_request_without_credentials_is_not_copied() -> None:
    plain = request(b"a=b", [(b"a", b"b")])
    assert Places(kept=frozenset({b"authorization"})).redact(plain) is plain


def test_rule_27_what_the_rows_say() -> None:
    def places(name: str) -> Places:
        profile = CATALOG.load(name)
        return places_of(profile.verify, profile.headers)

    assert places("github") == Places()
    assert places("gitlab-token").headers == {b"x-gitlab-token"}
    assert places("query-token").query == {b"token"}
    assert places("ms-teams").kept == {b"authorization"}
    assert places("cloudevents") == Places(frozenset({b"authorization"}), frozenset({b"access_token"}), frozenset())
    assert places("mtls-header").headers == frozenset()
    assert places("zoho-desk").headers == {b"x-zdesk-jwt"}


def test_every_row_that_reads_a_bare_secret_names_it_a_credential() -> None:
    for profile in CATALOG.load_all():
        if profile.verify.scheme == "token" and profile.verify.signature.from_ in ("header", "query"):
            found = places_of(profile.verify, profile.headers)
            assert found.headers or found.query or "proof" in profile.headers.values(), profile.name


def test_which_rows_leave_no_room_for_basic() -> None:
    assert [reads_authorization(CATALOG.load(name).verify) for name in ("basic", "token", "vonage", "sinch-voice")] == [
        True
    ] * 4
    assert not any(reads_authorization(CATALOG.load(name).verify) for name in ("github", "adyen-standard", "twilio"))
