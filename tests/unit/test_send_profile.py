"""`kwb send --profile`: what it sends is right to a receiver that verifies, and wrong where that was asked for."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from send_server import RECEIPT, Reply, Seen, always, answer, serving

from kafka_webhook_bridge.body import parse_json
from kafka_webhook_bridge.cli import main
from kafka_webhook_bridge.cli.messages import Place
from kafka_webhook_bridge.cli.openloop import parse_url
from kafka_webhook_bridge.cli.simulator import Faults, SignedMessages, Signing, own_key, to_configure
from kafka_webhook_bridge.event import Request
from kafka_webhook_bridge.sources.catalog import Catalog
from kafka_webhook_bridge.sources.keys import parse_template
from kafka_webhook_bridge.sources.profile import HASH
from kafka_webhook_bridge.sources.samples import FOLDER, has_samples, marks, render, samples_of
from kafka_webhook_bridge.sources.verify import OfflineKeys, Verifier
from kafka_webhook_bridge.sources.verify import compile as compile_verifier
from kafka_webhook_bridge.sources.verify.saved import parse_saved

CATALOG = Catalog()
SAMPLED = [name for name in CATALOG.names() if has_samples(CATALOG.load(name))]
REFUSED = b'{"type":"about:blank","title":"Unauthorized","status":401,"code":"auth.wrong"}'


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("KWB_", "WEBHOOK_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WEBHOOK_USERNAME", "hooks")
    monkeypatch.setenv("WEBHOOK_PASSWORD", "not-for-others")
    monkeypatch.setenv("SENDER_SECRET", "c2VjcmV0LWtleS1vZi0yNC1ieXRlcw==")


def kwb(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> dict[str, Any]:
    assert main(["send", *arguments, "--json"]) == code, capsys.readouterr()
    return dict(json.loads(capsys.readouterr().out))


def request_of(seen: Seen) -> Request:
    return parse_saved(seen.head + b"\r\n\r\n" + seen.body)


def verifier(name: str, *secrets: str, url: str, **options: Any) -> Verifier:
    facts: dict[str, Any] = {"params": {}, "keys": OfflineKeys(), **options}
    return compile_verifier(CATALOG.load(name), secrets, public_url=url, **facts)


def right(check: Verifier, request: Request) -> bool:
    return check(request, parse_json(request.body), time.time()).ok


def verifying(check: Callable[[str], Verifier], url: list[str]) -> Reply:
    """A receiver that answers 401 to what is not right. `url` gets its address once it is known."""

    async def reply(seen: Seen, writer: asyncio.StreamWriter) -> None:
        good = right(check(url[0]), request_of(seen))
        writer.write(answer(200, RECEIPT) if good else answer(401, REFUSED))

    return reply


# What these senders do not say.
WITHOUT = {
    ("intercom", "ping", "key"), ("meta", "feed.page", "delivery_id"), ("meta", "leadgen.page", "delivery_id"),
}  # fmt: skip


@pytest.mark.parametrize("name", SAMPLED)
def test_bodies_are_what_the_profile_reads(name: str) -> None:
    """Type, delivery id and key of every sample are found, and its type is what it is called."""
    profile = CATALOG.load(name)
    for sample in samples_of(profile):
        values = marks("0123456789abcdef0123456789abcdef", 1_760_000_000)
        event = render(sample, values)
        assert b"$" not in event.body
        headers = [*event.headers, (b"Content-Type", event.content_type.encode())]
        headers += [(b"webhook-id", b"1"), (b"svix-id", b"1")]  # the signature brings these
        request = Request(b"POST", b"/", None, headers, event.body, "")
        document = parse_json(event.body)
        if sample.handshake:
            continue
        facts = profile.event
        for what, templates in (("type", facts.type), ("delivery_id", facts.delivery_id), ("key", facts.key)):
            if templates and templates != [HASH] and (name, sample.type, what) not in WITHOUT:
                found = [parse_template(text).render(request, document) for text in templates]
                assert any(found), (what, sample.type)
                if what == "type":
                    assert next(filter(None, found)).decode() == sample.type


def test_there_are_bodies_for_the_25_most_used() -> None:
    assert len(list(FOLDER.glob("*.toml"))) >= 25
    assert len(SAMPLED) >= 25
    assert all(len(samples_of(CATALOG.load(name))) >= 2 for name in SAMPLED)


@pytest.mark.parametrize("name", CATALOG.names())
def test_every_profile_can_be_sent(name: str) -> None:
    """The bytes that go out are read back, and right to a verifier that was given what is to be configured."""
    profile = CATALOG.load(name)
    identity, made = own_key(profile.verify, "", "", {})
    signing = Signing(profile, profile.verify, identity, "https://hooks.example.com", "/in", made)
    place = Place(parse_url("https://hooks.example.com"), "/in")
    messages = SignedMessages(
        place, signing, Faults(), login="", method="POST", headers=[], content_type="", body="", events=[]
    )
    told = to_configure(signing)
    secret = told.get("secret", told.get("public_key", ""))
    keys = OfflineKeys(told.get("jwks", {}).get("keys"), told.get("certificates"), told.get("keys"))
    check = verifier(
        name, *([secret] if secret else []), url="https://hooks.example.com", params=told.get("params", {}), keys=keys
    )
    for seq in range(3):
        message = messages.make(seq)
        request = parse_saved(message.wire)
        assert (b"Content-Length", b"%d" % len(request.body)) in request.headers
        assert check(request, parse_json(request.body), time.time()).code == "ok"


def test_events_are_sent_in_turn_or_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(always(answer())) as server:
        url = f"{server.url}/in"
        kwb(capsys, url, "--profile", "github", "--secret-env", "SENDER_SECRET", "--count", "5")
        kwb(capsys, url, "-p", "github", "--secret-env", "SENDER_SECRET", "--count", "2", "--event", "ping")
        kwb(capsys, url, "-p", "pipedrive", "--event", "deal.updated")
    assert [seen.header("x-github-event")[0] for seen in server.seen[:-1]] == [
        "push", "pull_request", "issues", "ping", "push", "ping", "ping",
    ]  # fmt: skip
    assert len({seen.header("x-github-delivery")[0] for seen in server.seen[:-1]}) == 7
    assert b"deal.updated" in server.seen[-1].body + server.seen[-1].head


def test_wrong_requests_come_at_the_stated_rate_and_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    url = [""]
    check = verifying(lambda address: verifier("stripe", os.environ["SENDER_SECRET"], url=address), url)
    with serving(check) as server:
        url[0] = server.url
        result = kwb(
            capsys, f"{server.url}/in", "-p", "stripe", "--secret-env", "SENDER_SECRET", "--count", "300",
            "--connections", "4", "--bad-signature", "10%", "--stale", "5%", "--duplicates", "0.1",
        )  # fmt: skip
    assert result["wrong"] == {
        "bad_signature": {"sent": 30, "accepted": 0, "refused": 30, "other": 0},
        "stale": {"sent": 15, "accepted": 0, "refused": 15, "other": 0},
        "duplicate": {"sent": 30, "accepted": 30, "refused": 0, "other": 0},
    }
    assert result["status"] == {"200": 255, "401": 45}
    assert len({seen.body for seen in server.seen}) == 270


def test_a_receiver_that_takes_wrong_signatures_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(always(answer())) as server:
        arguments = [f"{server.url}/in", "-p", "shopify", "--count", "4", "--bad-signature", "25%"]
        result = kwb(capsys, *arguments, code=1)
        assert result["wrong"]["bad_signature"]["accepted"] == 1
        assert main(["send", *arguments]) == 1
    assert "1 with a wrong signature were accepted" in capsys.readouterr().out


def test_a_receiver_with_another_secret_is_a_problem(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(always(answer(401, REFUSED))) as server:
        assert main(["send", f"{server.url}/in", "-p", "shopify", "--secret-env", "SENDER_SECRET"]) == 1
    said = capsys.readouterr()
    assert "kwb verify" in said.err
    assert os.environ["SENDER_SECRET"] not in said.out + said.err


def test_credentials_of_the_bridge_do_not_go_to_others(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(always(answer())) as server:
        kwb(capsys, f"{server.url}/in", "-p", "github")
        kwb(capsys, f"{server.url}/in")
        kwb(capsys, "github", "--url", server.url, "-p", "github")
        kwb(capsys, "erp", "--url", server.url)
    assert [bool(seen.header("authorization")) for seen in server.seen] == [False, False, False, True]


def test_the_address_is_signed_as_it_is_sent_or_as_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(always(answer())) as server:
        url = f"{server.url}/a/b?x=1&y=%2F"
        kwb(capsys, url, "-p", "square", "--secret-env", "SENDER_SECRET")
        public = "https://hooks.example.com/shop"
        kwb(capsys, url, "-p", "square", "--secret-env", "SENDER_SECRET", "--public-url", public)
        kwb(capsys, server.url, "-p", "square", "--secret-env", "SENDER_SECRET")
    plain, said, root = map(request_of, server.seen)
    assert server.seen[0].line == server.seen[1].line == "POST /a/b?x=1&y=%2F HTTP/1.1"
    assert server.seen[2].line == "POST / HTTP/1.1"
    secret = os.environ["SENDER_SECRET"]
    assert right(verifier("square", secret, url=server.url), plain)
    assert right(verifier("square", secret, url=server.url), root)
    assert not right(verifier("square", secret, url=server.url), said)
    assert right(verifier("square", secret, url="https://hooks.example.com"), said._replace(path=b"/shop"))


def test_a_body_of_ones_own_is_signed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = tmp_path / "order.json"
    body.write_bytes(b'{ "id": 1 }\n')
    with serving(always(answer())) as server:
        kwb(capsys, f"{server.url}/in", "-p", "shopify", "--secret-env", "SENDER_SECRET", "--body", str(body),
            "-H", "X-Shopify-Topic: orders/create")  # fmt: skip
    request = request_of(server.seen[0])
    assert request.body == body.read_bytes()
    assert (b"X-Shopify-Topic", b"orders/create") in request.headers
    assert right(verifier("shopify", os.environ["SENDER_SECRET"], url=server.url), request)


@pytest.mark.parametrize("name", ["shopify", "discord", "sendgrid", "adobe-io-events", "kinde"])
def test_a_key_is_made_once_and_used_again(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "key"
    with serving(always(answer())) as server:
        arguments = [f"{server.url}/in", "-p", name, "--secret-file", str(file)]
        told = kwb(capsys, *arguments)["configure"]
        assert server.seen == []
        assert file.stat().st_mode & 0o777 == 0o600
        kwb(capsys, *arguments)
    secret = told.get("secret", told.get("public_key", ""))
    keys = OfflineKeys(told.get("jwks", {}).get("keys"))
    check = verifier(name, *([secret] if secret else []), url=server.url, keys=keys, params={"jwks_url": "https://a.b"})
    assert right(check, request_of(server.seen[0]))


CONFIG = """
public_url: https://hooks.example.com/kwb
sources:
  shop:
    profile: square
    secrets: ["${SENDER_SECRET}", "older"]
  interactions:
    profile: discord
    secrets: ["{public}"]
  erp: {auth: basic}
  hidden: {username: u, password: "${NOT_SET_HERE}"}
"""


def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str = CONFIG) -> None:
    file = tmp_path / "bridge.yaml"
    file.write_text(text)
    monkeypatch.setenv("KWB_CONFIG", str(file))


def test_a_source_of_bridge_yaml_brings_profile_secret_and_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "\n".join(line for line in CONFIG.splitlines() if "hidden" not in line)
    configuration(tmp_path, monkeypatch, text.replace("{public}", "0" * 64))
    with serving(always(answer())) as server:
        kwb(capsys, "shop", "--url", server.url, "--path", "/orders?x=1")
    seen = server.seen[0]
    assert seen.line == "POST /shop/orders?x=1 HTTP/1.1"
    assert not seen.header("authorization")
    check = verifier("square", os.environ["SENDER_SECRET"], url="https://hooks.example.com")
    assert right(check, request_of(seen)._replace(path=b"/kwb/shop/orders"))
    assert main(["send", "interactions", "--url", server.url]) == 2
    assert "public key alone" in capsys.readouterr().err


def test_a_source_without_a_profile_needs_no_secret_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configuration(tmp_path, monkeypatch)
    with serving(always(answer())) as server:
        kwb(capsys, "erp", "--url", server.url)
    assert server.seen[0].header("authorization")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-p", "shopfy"], "did you mean shopify"),
        (["-p", "shopify", "--stale", "1%"], "signs no time"),
        (["-p", "none", "--bad-signature", "1%"], "signs nothing"),
        (["-p", "stripe", "--stale", "150%"], "a share of all requests"),
        (["-p", "stripe", "--stale", "60%", "--duplicates", "60%"], "more than all"),
        (["-p", "stripe", "--secret-env", "NO_SUCH_VARIABLE"], "is not set"),
        (["-p", "stripe", "--secret-env", "SENDER_SECRET", "--secret-file", "x"], "exclude each other"),
        (["-p", "stripe", "--size", "1KiB"], "--size is for bodies without a profile"),
        (["-p", "stripe", "--event", "no.such"], "payment_intent.succeeded"),
        (["-p", "stripe", "--public-url", "hooks"], "is no address"),
        (["-p", "discord", "--secret-env", "SENDER_SECRET"], "private key"),
        (["-p", "aws-sns", "--param", "topic_arn"], "NAME=VALUE"),
        (["-p", "aws-sns", "--param", "topic_arn=x"], "no ARN"),
        (["--event", "push"], "only a profile signs"),
        (["--url", "http://127.0.0.1:1"], "stands for itself"),
        (["--path", "/x"], "an address has its own"),
    ],
)
def test_wrong_use(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["send", "http://127.0.0.1:1/in", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_body_that_cannot_be_signed_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = tmp_path / "x.txt"
    body.write_bytes(b"no JSON")
    with serving(always(answer())) as server:
        assert main(["send", f"{server.url}/in", "-p", "mailgun", "--body", str(body)]) == 2
    assert "not JSON" in capsys.readouterr().err
