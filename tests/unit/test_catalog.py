"""The packaged profiles: all are there, all load, and what they say can be used and is safe."""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from json_schema import accepts

from kafka_webhook_bridge.sources import catalog
from kafka_webhook_bridge.sources.catalog import PACKAGED, Catalog, read_file
from kafka_webhook_bridge.sources.keys import parse_template
from kafka_webhook_bridge.sources.profile import EVIDENCE, HASH, Condition, Handshake, Profile, json_schema

VECTORS = Path(__file__).parents[1] / "data/providers/vectors.json"
GENERIC = {"basic", "token", "hmac", "jwt", "mtls-header", "none"}
# Senders without a signature of their own: rows for their ids, answers and hand-shakes.
UNSIGNED = {"azure-event-grid", "cloudevents", "datadog", "docker-hub", "salesforce", "strapi"}

PROFILES = {profile.name: profile for profile in Catalog().load_all()}
SCHEMA = json_schema()
FILES = sorted(PACKAGED.glob("*.toml"))


def named(*names: str) -> Iterator[Profile]:
    return (PROFILES[name] for name in names)


def test_every_profile_of_the_vectors_is_there() -> None:
    wanted = {vector["profile"] for vector in json.loads(VECTORS.read_text(encoding="utf-8"))["vectors"]}
    assert len(wanted) == 286
    assert set(PROFILES) == wanted | GENERIC | UNSIGNED


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_is_as_the_schema_says(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    document, profiles = read_file(path.name, text, packaged=True)
    assert document.problems == []
    assert set(profiles) == {name for name, file in catalog._index().items() if file == path.stem}
    assert accepts(SCHEMA, tomllib.loads(text))
    assert text.endswith("\n")
    assert not text.endswith("\n\n")


def test_a_profile_knows_its_place() -> None:
    github = Catalog().load("github-sha1")
    assert (github.name, github.provider, github.file, github.packaged) == ("github-sha1", "GitHub", "github", True)
    assert github.docs


def test_all_of_the_file_is_its_profiles() -> None:
    assert sum(len(tomllib.loads(path.read_text(encoding="utf-8"))["profiles"]) for path in FILES) == len(PROFILES)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_a_profile_says_what_it_rests_on(profile: Profile) -> None:
    assert profile.evidence in EVIDENCE
    assert (profile.evidence == "generic") == (profile.file == "generic")
    if profile.evidence != "generic":
        assert profile.sources or "unverified" in profile.note
    if profile.evidence == "third-party":
        assert "confirm on a first real delivery" in EVIDENCE[profile.evidence]
    assert profile.setup.secret


def test_rows_rest_on_no_less_than_the_spec_says() -> None:
    """The grades as the research gave them; a change of one is a change of what people may rely on."""
    assert Counter(profile.evidence for profile in PROFILES.values()) == {
        "vector": 42, "sdk": 79, "docs": 43, "third-party": 126, "generic": 8,
    }  # fmt: skip


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_templates_can_be_read(profile: Profile) -> None:
    for text in [*(profile.event.delivery_id or []), *(profile.event.type or []), *(profile.event.key or [])]:
        if text != HASH:
            assert parse_template(text).parts
    for name in profile.setup.params:
        assert re.fullmatch("[a-z0-9_]+", name)


def parameters(value: Any) -> set[str]:
    """The `{param:…}` in all texts of a row."""
    return set(re.findall(r"\{param:([a-z0-9_]+)\}", json.dumps(value)))


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_every_parameter_is_explained(profile: Profile) -> None:
    row = tomllib.loads((PACKAGED / f"{profile.file}.toml").read_text(encoding="utf-8"))["profiles"][profile.name]
    used = parameters(row)
    if "email_param" in row["verify"]:
        used.add("email")
    if profile.name == "aws-sns":  # in code
        used.add("topic_arn")
    if profile.name in ("ebay", "plaid"):  # whose keys are given to their customers alone (ingest/keys.py)
        used |= {"client_id", "client_secret"}
    used |= {key["param"] for key in [row["verify"].get("key", {})] if "param" in key}
    assert used == set(profile.setup.params)


# ---- credentials -----------------------------------------------------------------------------------------------------


def test_rule_27_what_signs_in_authorization_is_proof() -> None:
    """Authorization is redacted unless the row says otherwise; a signature in it is the evidence of its record."""
    kept = {name for name, profile in PROFILES.items() if profile.headers.get("Authorization") == "proof"}
    assert kept == {"ms-teams", "tiktok-shop", "sinch-voice", "livekit", "gong"}
    for profile in named(*kept):
        assert profile.verify.scheme not in ("token", "basic")


def test_rule_27_a_token_that_covers_no_body_is_a_credential() -> None:
    """Whoever reads it in a record could send with it."""
    for profile in PROFILES.values():
        if profile.verify.scheme == "jwt" and profile.covers_body is False:
            header = profile.verify.signature.name
            assert header == "Authorization" or profile.headers[header] == "credential"


def test_rows_say_what_their_signature_leaves_open() -> None:
    assert {name for name, profile in PROFILES.items() if profile.covers_body is False} == {
        "adyen-standard", "aws-sns", "braintree", "dropbox-sign", "ecwid", "gcp-pubsub", "gitea-form", "mailgun",
        "mailgun-legacy-form", "mercado-pago", "monday", "paypal", "plivo", "segment", "travis-ci", "vonage",
        "zoho-desk",
    }  # fmt: skip


def test_only_one_row_is_unsafe() -> None:
    assert {name: profile.unsafe for name, profile in PROFILES.items() if profile.unsafe} == {
        "none": "anybody may send"
    }


# ---- hand-shakes -----------------------------------------------------------------------------------------------------

HANDSHAKES = {f"{profile.name}/{one.name}": one for profile in PROFILES.values() for one in profile.handshakes}
ITEM = re.compile(
    r"query:[^{}]+|header:[A-Za-z0-9-]+|json:[^{}]+|form:[^{}]+|param:[a-z0-9_]+|url|secret_public"
    r"|(hmac:)?(sha1|sha256|sha384|sha512):(hex|base64):"
)


def items(template: str) -> list[tuple[str, ...]]:
    """Each `{…}` of an answer, with those around it: `{hmac:sha256:hex:{json:x}}` gives the outer and the inner one."""
    found: list[tuple[str, ...]] = []
    stack: list[str] = []
    place = 0
    while place < len(template):
        if not stack and template[place : place + 2] in ("{{", "}}"):
            place += 2
        elif template[place] == "{":
            head = re.match(r"[^{}]*", template[place + 1 :])
            assert head is not None
            stack.append(head[0])
            found.append(tuple(stack))
            place += 1 + len(head[0])
        elif template[place] == "}":
            stack.pop()
            place += 1
        else:
            place += 1
    assert stack == []
    return found


@pytest.mark.parametrize("handshake", HANDSHAKES.values(), ids=HANDSHAKES)
def test_the_answer_of_a_hand_shake_can_be_made(handshake: Handshake) -> None:
    texts = [handshake.answer.body, handshake.secret, handshake.url, *handshake.answer.headers.values()]
    for item in [item for text in texts for item in items(text)]:
        assert ITEM.fullmatch(item[-1]), item
        assert all(":" in outer and outer.endswith(":") for outer in item[:-1]), item
    if handshake.answer.content_type == "application/json":
        json.loads(re.sub(r"\{[a-z]+[^{}\"]*(\{[^{}]*\})*\}", "x", handshake.answer.body.replace("{{", "\0"))
                   .replace("\0", "{").replace("}}", "}"))  # fmt: skip
    assert (handshake.effect == "store_secret") == bool(handshake.secret)
    assert (handshake.effect == "fetch_url") == bool(handshake.url) == bool(handshake.hosts)
    assert handshake.effect != "fetch_url" or handshake.verify_first


@pytest.mark.parametrize("handshake", HANDSHAKES.values(), ids=HANDSHAKES)
def test_no_hand_shake_signs_what_anybody_chooses(handshake: Handshake) -> None:
    """A keyed answer to an unsigned request would sign forged bodies, if the request could hold one.

    So the request is verified first, or what is signed cannot be JSON, a form or any other body.
    """
    if handshake.verify_first:
        return
    places = {
        **{f"query:{name}": value for name, value in handshake.match.query.items()},
        **{f"json:{name}": value for name, value in handshake.match.json_.items()},
    }
    for item in items(handshake.answer.body):
        if len(item) > 1 and item[-2].startswith("hmac:"):
            condition = places[item[-1]]
            assert isinstance(condition, Condition)
            for body in ('{"a":1}', "[1]", "a=1&b=2", "<a/>", "v0:1:{}", 'hmacsha256={"a":1}', "x" * 1000):
                assert not re.fullmatch(condition.pattern, body)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_a_hand_shake_takes_no_event(profile: Profile) -> None:
    """One that matches every POST would swallow what should be kept."""
    for handshake in profile.handshakes:
        match = handshake.match
        conditions = {**match.query, **match.header, **match.json_, **match.form}
        assert "POST" not in match.method or any(value is not False for value in conditions.values())
