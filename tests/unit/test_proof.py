"""Profiles in bridge.yaml: what the row says, what the source overrides, and every mistake with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from kafka_webhook_bridge.body import NOT_JSON, parse_json
from kafka_webhook_bridge.event import Request
from kafka_webhook_bridge.sources.config import check_configuration, load_configuration
from kafka_webhook_bridge.sources.source import Public, Source
from kafka_webhook_bridge.sources.table import describe

CANARY = "canary-5d1e"
LOGIN = {"WEBHOOK_USERNAME": "hooks", "WEBHOOK_PASSWORD": "x"}


def problems(text: str, **environ: str) -> list[str]:
    _, _, table, found = check_configuration({**LOGIN, "S": CANARY, **environ, "KWB_CONFIG": text})
    assert (table is None) == bool(found)
    assert CANARY not in repr(found)
    return [str(problem) for problem in found]


def source(keys: str, bridge: str = "") -> Source:
    text = f"sources:\n  s: {{{keys}}}\n{bridge}"
    found = load_configuration({**LOGIN, "S": CANARY, "KWB_CONFIG": text})[1].get("s")
    assert found is not None
    assert CANARY not in repr(found)
    assert CANARY not in repr(describe(found))
    return found


def verdict(found: Source, *headers: tuple[bytes, bytes], body: bytes = b"{}", now: float = 1_760_000_000) -> str:
    assert found.proof is not None
    return found.proof.verifier(Request(b"POST", b"/s", None, list(headers), body, ""), NOT_JSON, now).code


def test_a_row_says_what_the_source_does_not() -> None:
    found = source('profile: slack, secrets: ["${S}"]')
    assert (found.auth, found.credentials, found.verified, found.covers_body) == ("none", (), "hmac-sha256", True)
    assert describe(found)["key"].startswith("{json:team_id}.{json:event.channel}, else {json:team_id}")
    assert (describe(found)["type"][:17], describe(found)["delivery_id"]) == ("{json:event.type}", "{json:event_id}")
    assert (describe(found)["profile"], describe(found)["secrets"]) == ("slack", 1)
    assert found.answer is not None
    assert (found.answer.status, found.answer.body) == (200, b"")
    assert found.needs_json
    own = source('profile: slack, secrets: ["${S}"], key: "{header:K}", type: "{header:T}", delivery_id: "{header:D}"')
    assert (describe(own)["key"], describe(own)["type"], describe(own)["delivery_id"]) == (
        "{header:K}", "{header:T}", "{header:D}",
    )  # fmt: skip
    assert own.needs_json  # for the hand-shake


def test_a_proxy_that_says_who_sends_is_one_of_ours() -> None:
    (said,) = problems('sources:\n  s: {profile: mtls-header, secrets: ["${S}"]}\n')
    assert "trusted_proxies" in said
    found = source('profile: mtls-header, secrets: ["${S}"]', "trusted_proxies: [10.0.0.0/24]\n")
    assert found.proof is not None
    assert found.proof.from_proxy


def test_a_sender_without_ids_has_none_unless_the_body_is_taken_for_one() -> None:
    assert source('profile: asana, secrets: ["${S}"]').delivery_id is None
    found = source('profile: asana, secrets: ["${S}"], dedupe: body').delivery_id
    assert found is not None
    assert found.text == "SHA-256 of the body"


def test_secrets_come_from_files_and_variables(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(CANARY + "\n")
    found = source(f'profile: gitlab-token, secrets: ["file:{tmp_path}/secret", other]')
    assert found.proof is not None
    assert found.proof.secrets == 2
    for secret, code in ((CANARY, "ok"), ("other", "ok"), (CANARY + "\n", "credentials.wrong"), ("", "header.missing")):
        assert verdict(found, (b"X-Gitlab-Token", secret.encode())).startswith(code[:7])


def test_the_window_of_a_row_can_be_another() -> None:
    headers = ((b"X-Slack-Signature", b"v0=" + b"0" * 64), (b"X-Slack-Request-Timestamp", b"1759999600"))
    assert verdict(source('profile: slack, secrets: ["${S}"]'), *headers) == "timestamp.old"
    wide = source('profile: slack, secrets: ["${S}"], replay_window_s: 600')
    assert verdict(wide, *headers) == "signature.mismatch"


def test_a_generic_row_can_be_any() -> None:
    found = source(
        "profile: hmac, secrets: [Zm9v], verify: {hash: sha512, key: {encoding: base64}, "
        'signed: "{header:X-Id}.{body}", signature: {name: X-S, encoding: base64, prefix: v1=}}'
    )
    assert found.verified == "hmac-sha512"
    assert verdict(found, (b"X-S", b"v1=AAAA"), (b"X-Id", b"1")) == "signature.mismatch"
    assert verdict(found, (b"X-S", b"AAAA"), (b"X-Id", b"1")) == "signature.malformed"


@pytest.mark.parametrize(
    ("place", "query", "header", "body"),
    [
        ("{name: X-T}", None, (b"X-T", CANARY.encode()), b""),
        ("{name: X-T, strip_prefix: 'Key '}", None, (b"X-T", b"Key " + CANARY.encode()), b""),
        ("{}", None, (b"Authorization", b"Bearer " + CANARY.encode()), b""),
        ("{from: query, name: t}", b"t=" + CANARY.encode(), (b"A", b"b"), b""),
        ("{from: json, path: a.b}", None, (b"A", b"b"), b'{"a":{"b":"%b"}}' % CANARY.encode()),
    ],
)
def test_a_token_can_stand_anywhere(place: str, query: bytes | None, header: tuple[bytes, bytes], body: bytes) -> None:
    found = source(f'profile: token, secrets: ["${{S}}"], verify: {{signature: {place}}}')
    assert found.proof is not None
    for sent, ok in ((Request(b"POST", b"/s", query, [header], body, ""), True),
                     (Request(b"POST", b"/s", None, [(b"X-T", b"x")], b"{}", ""), False)):  # fmt: skip
        assert found.proof.verifier(sent, parse_json(sent.body), 0.0).ok is ok


@pytest.mark.parametrize(
    ("keys", "bridge", "public"),
    [
        ("", "", None),
        ("", "public_url: https://h.test", Public(b"https://h.test", b"/s")),
        ("", "public_url: https://h.test:8443/in/", Public(b"https://h.test:8443", b"/in/s")),
        (", public_url: https://h.test/in/", "", Public(b"https://h.test", b"/in/")),
        (", public_url: https://h.test", "public_url: https://other.test", Public(b"https://h.test", b"")),
        (", public_url: http://h.test:80/x", "", Public(b"http://h.test:80", b"/x")),
    ],
)
def test_rule_24_the_address_that_is_signed(keys: str, bridge: str, public: Public | None) -> None:
    assert source(f'profile: github, secrets: ["${{S}}"]{keys}', bridge).public == public


def test_a_source_of_the_open_rule_has_the_address_of_its_name() -> None:
    text = "public_url: https://h.test\nopen_rule: true\ntopic_prefix: o.\n"
    environ = {**LOGIN, "DATABASE_URL": "postgresql://h/d", "KWB_CONFIG": text}
    found = load_configuration(environ)[1].open_source("any")
    assert found is not None
    assert found.public is None


def test_a_catalog_of_ones_own_lies_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    row = '[profiles.NAME]\nevidence = "docs"\n[profiles.NAME.verify]\nscheme = "token"\n'
    row += 'signature = { from = "header", name = "X-T" }\n'
    (tmp_path / "rows/a.toml").write_text('provider = "A"\n' + row.replace("NAME", "a-shop"))
    (tmp_path / "b.toml").write_text('provider = "B"\n' + row.replace("NAME", "b-shop").replace("header", "haeder", 1))
    file = tmp_path / "bridge.yaml"
    file.write_text("catalog: [rows]\nsources:\n  s: {profile: a-shop, secrets: [x]}\n")
    assert problems(str(file)) == []
    file.write_text("catalog: [rows, b.toml, no.toml]\nsources:\n  s: {profile: b-shop, secrets: [x]}\n")
    found = problems(str(file))
    assert any(problem.startswith(f"{tmp_path}/b.toml:6: profiles.b-shop.verify") for problem in found), found
    assert f"{tmp_path}/no.toml: cannot be read: No such file or directory" in found
    assert f"{file}:3: sources.s.profile: there is no profile 'b-shop'; did you mean a-shop?" in found


WRONG: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "an unknown profile": ("profile: slak, secrets: [x]", [("profile", "did you mean slack?")]),
    "no secret": ("profile: github", [("secrets", "the profile needs a secret, and the source has none")]),
    "an empty secret": ('profile: github, secrets: [""]', [("secrets.0", "the secret is empty")]),
    "a blank secret": ('profile: github, secrets: ["  "]', [("secrets", "secret 1 is empty")]),
    "eleven secrets": (f"profile: github, secrets: [{', '.join('abcdefghijk')}]", [("secrets", "at most 10")]),
    "secrets as text": ("profile: github, secrets: x", [("secrets", "must be a list")]),
    "a key that does not decode": ("profile: adyen-payload, secrets: [xyz]", [("secrets", "secret 1 is not hex")]),
    "a parameter that lacks": ("profile: aws-sns", [("params", "topic_arn")]),
    "an unknown parameter": (
        "profile: aws-sns, params: {topic_arm: x}", [("params.topic_arm", "did you mean `topic_arn`?")]
    ),
    "a parameter of a row without": (
        "profile: github, secrets: [x], params: {a: b}", [("params.a", "github has no parameters")]
    ),
    "an unsafe row": ("profile: none", [("profile", "anybody may send; if that is meant, say `i_know: true`")]),
    "words for a row that is not generic": (
        "profile: github, secrets: [x], verify: {hash: sha1}", [("verify", "a profile of your own (`catalog`)")]
    ),
    "an unknown word of a generic row": (
        "profile: hmac, secrets: [x], verify: {hsh: sha1, signature: {encoding: hxe, name: X}}",
        [("verify.signature.encoding", "did you mean hex?"), ("verify.hsh", "did you mean `hash`?")],
    ),
    "another scheme": ("profile: hmac, secrets: [x], verify: {scheme: token}", [("verify.scheme", "is hmac")]),
    "a window without a time": (
        "profile: github, secrets: [x], replay_window_s: 60", [("replay_window_s", "github signs no time")]
    ),
    "a window of no length": (
        "profile: slack, secrets: [x], replay_window_s: 0", [("replay_window_s", "greater than 0")]
    ),
    "an address that is not known": ("profile: square, secrets: [x]", [("public_url", "square signs the address")]),
    "an address with a query": (
        "profile: square, secrets: [x], public_url: 'https://h/?a'", [("public_url", "no query, fragment or user")]
    ),
    "nobody and somebody": (
        "profile: github, secrets: [x], auth: none", [("auth", "the profile decides who may send")]
    ),
    "two that read one header": (
        "profile: token, secrets: [x], auth: basic", [("auth", "there is no room for Basic beside it")]
    ),
    "a password alone": ("profile: github, secrets: [x], password: y", [("", "only come together")]),
    "secrets without a profile": ("secrets: [x]", [("secrets", "there is no profile that `secrets` could be for")]),
    "a window without a profile": ("replay_window_s: 5", [("replay_window_s", "there is no profile")]),
    "suppress without an id": (
        "profile: asana, secrets: [x], dedupe: suppress", [("", "needs a `delivery_id`"), ("dedupe", "DATABASE_URL")]
    ),
    "an answer that is an error": (
        "profile: github, secrets: [x], answer: {status: 404}", [("answer.status", "less than or equal to 299")]
    ),
    "an unknown word of the answer": ("answer: {staus: 200}", [("answer.staus", "did you mean `status`?")]),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong(case: str) -> None:
    keys, expected = WRONG[case]
    found = problems(f"sources:\n  fine: {{}}\n  s: {{{keys}}}\n")
    assert len(found) == len(expected), found
    for problem, (key, words) in zip(found, expected, strict=True):
        assert problem.startswith(f"KWB_CONFIG:3: sources.s{'.' if key else ''}{key}"), problem
        assert words in problem


def test_mistakes_of_several_sources_are_told_at_once() -> None:
    text = (
        "sources:\n  a:\n    profile: slak\n  b:\n    profile: hmac\n    secrets: [x]\n    verify:\n      hash: sha3\n"
        "  c:\n    profile: adyen-payload\n    secrets:\n      - xyz\n"
    )
    assert [problem.split(": ")[0] for problem in problems(text)] == ["KWB_CONFIG:3", "KWB_CONFIG:8", "KWB_CONFIG:11"]


def test_a_command_that_receives_nothing_needs_no_secret() -> None:
    text = "sources:\n  s: {profile: github, secrets: ['${NOWHERE}']}\n"
    _, _, table, found = check_configuration({**LOGIN, "KWB_CONFIG": text}, receives=False)
    assert (found, table is not None) == ([], True)
