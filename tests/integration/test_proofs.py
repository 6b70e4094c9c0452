"""Sources with a profile: wrong proofs, rotation, windows, addresses, credentials, keys (rules.md 24 to 30)."""

from __future__ import annotations

import base64
import hmac
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from senders_world import JWKS, NOW, Publisher, by_id, publishing, settled, source_of, wire, write_config
from test_handshakes import CERTIFICATE, certificate, sns

from bridge import LOGIN, Answer, Serve, consume, eventually, request, serving
from databases import rows
from kafka_webhook_bridge.kafka.admin import Admin
from kafka_webhook_bridge.stack import Stack

OLD, NEW, STRANGER = "the-old-secret", "the-new-secret", "a-strangers-secret"
BODY = b'{"action":"opened","repository":{"id":7}}'


def github(name: str, secret: str = OLD, body: bytes = BODY, *lines: str, login: str = "") -> bytes:
    """A request as GitHub signs it."""
    signature = "sha256=" + hmac.digest(secret.encode(), body, "sha256").hex()
    return request(f"/{name}", body, f"X-Hub-Signature-256: {signature}", *lines, login=login)


def slack(name: str, time: int) -> bytes:
    """A request as Slack signs it, at that time."""
    signature = "v0=" + hmac.digest(OLD.encode(), b"v0:%d:%b" % (time, BODY), "sha256").hex()
    return request(f"/{name}", BODY, f"X-Slack-Signature: {signature}", f"X-Slack-Request-Timestamp: {time}", login="")


def refused(answer: Answer, status: int = 401) -> bool:
    return (answer.status, answer.code) == (status, "auth.signature")


@pytest.fixture(scope="module")
def shared(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    folder = tmp_path_factory.mktemp("proofs")
    (folder / "own.toml").write_text(
        'provider = "Our shop"\n[profiles.our-shop]\nevidence = "docs"\n[profiles.our-shop.verify]\nscheme = "hmac"\n'
        'hash = "sha512"\nsignature = { from = "header", name = "X-Shop", encoding = "base64" }\nsigned = "{body}"\n'
    )
    signed = {"profile": "github", "secrets": [OLD]}
    sources: dict[str, Any] = {
        "one": signed,
        "both": {**signed, "secrets": [OLD, NEW]},
        "login": {**signed, "auth": "basic"},
        "timed": {"profile": "slack", "secrets": [OLD]},
        "patient": {"profile": "slack", "secrets": [OLD], "replay_window_s": 3600},
        "generic": {
            "profile": "hmac", "secrets": [OLD],
            "verify": {"hash": "sha1", "signature": {"name": "X-Sign"}, "signed": "{header:X-Id}.{body}"},
        },
        "named": {**signed, "type": "{header:X-Event}", "key": "{json:action}", "delivery_id": "{json:action}",
                  "answer": {"status": 204}},
        "square": {"profile": "square", "secrets": [OLD]},
        "seen": {"profile": "square", "secrets": [OLD], "public_url": "https://seen.test/in/s/"},
        "token": {"profile": "gitlab-token", "secrets": [OLD], "answer": {"content_type": "text/plain", "body": "ok"}},
        "query": {"profile": "query-token", "secrets": [OLD], "format": "envelope"},
        "teams": {"profile": "ms-teams", "secrets": [base64.b64encode(OLD.encode()).decode()]},
        "pay": {"profile": "worldpay", "secrets": [OLD]},
        "notion": {"profile": "notion", "secrets": [OLD]},
        "meta": {"profile": "meta", "secrets": [OLD], "params": {"verify_token": "v-token"}},
        "forgetful": {"profile": "meta", "secrets": [OLD]},
        "anybody": {"profile": "none", "i_know": True},
        "shop": {"profile": "our-shop", "secrets": [OLD]},
        "subject": {"profile": "mtls-header", "secrets": ["CN=sender"]},
        "big": {**signed, "body_bytes_max": "10MiB"},
    }  # fmt: skip
    config = write_config(folder, sources, catalog=["own.toml"], trusted_proxies=["127.0.0.2/32"])
    with serving(stack, folder, config=config, KWB_INGEST_FAILED_LOGINS_MAX="3") as server:
        yield server
        text = server.log.read_text()
        assert not [secret for secret in (OLD, NEW, STRANGER) if secret in text]
        assert server.stop() == 0


@pytest.fixture
def bridge(shared: Serve) -> Serve:
    """The shared bridge, later than the failed logins of another test, and at the real time."""
    shared.forward(61)
    shared.set_time(0)
    return shared


def headers_of(stack: Stack, topic: str, answer: Answer) -> dict[str, bytes]:
    """The headers of the record of an answered event."""
    ends = Admin(stack.kafka.settings).offsets([topic])[topic].values()
    for message in consume(stack.kafka, topic, sum(end - start for start, end in ends)):
        headers = dict(message.headers)
        if headers["ce_id"].decode() == answer.headers["kwb-event-id"]:
            return {**headers, "key": message.key or b"", "value": message.value}
    raise AssertionError("no such record")


# ── wrong proofs ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_wrong_signature_is_401_and_says_nothing_more(bridge: Serve, stack: Stack) -> None:
    with bridge.open() as client:
        right = client.send(github("both")).answer()
        wrong = [
            client.send(data).answer()
            for data in (
                github("both", STRANGER),
                github("both", OLD, BODY).replace(BODY, BODY.replace(b"7", b"8")),
                github("both", OLD).replace(b"sha256=", b"sha256=0"),
                request("/both", BODY, login=""),
                request("/both", BODY, "X-Hub-Signature-256: sha1=00", login=""),
            )
        ]
    assert right.status == 200
    assert all(map(refused, wrong))
    assert len({answer.body for answer in wrong}) == 1  # neither which secret was close nor what was wrong
    assert {answer.headers["www-authenticate"] for answer in wrong} == {'Signature realm="webhooks"'}
    assert not any("kwb-event-id" in answer.headers for answer in wrong)
    wanted = {"signature.mismatch", "signature.malformed", "header.missing"}

    def said() -> set[str]:
        return {line["reason"].partition(":")[0] for line in bridge.said("request rejected", source="both")}

    eventually(lambda: said() == wanted, "each reason is in the log")
    balance = bridge.balance()
    assert balance.pop("received") == sum(balance.values())
    ends = Admin(stack.kafka.settings).offsets(["both"])["both"].values()
    assert sum(end - start for start, end in ends) == bridge.total("kwb_requests_acked_total", source="both")


def test_duplicate_signature_headers_are_never_last_wins(bridge: Serve) -> None:
    forged = github("one", OLD, BODY, "X-Hub-Signature-256: sha256=" + "0" * 64)
    assert refused(bridge.ask(forged))
    assert refused(bridge.ask(request("/one", BODY, *["X-Hub-Signature-256: sha256=" + "0" * 64] * 2, login="")))


def test_the_status_is_the_one_that_the_sender_wants(bridge: Serve) -> None:
    answer = bridge.ask(request("/pay", BODY, "Event-Signature: 1/SHA256/" + "0" * 64, login=""))
    assert refused(answer, 400)
    assert answer.json["status"] == 400
    assert "www-authenticate" not in answer.headers


def test_rule_24_guesses_of_a_token_are_slowed_and_signatures_are_not(bridge: Serve) -> None:
    with bridge.open() as client:
        guesses = [client.send(request("/token", b"x", f"X-Gitlab-Token: {n}", login="")).answer() for n in range(5)]
        assert [answer.status for answer in guesses] == [401, 401, 401, 429, 429]
        right = client.send(request("/token", b"x", f"X-Gitlab-Token: {OLD}", login="")).answer()
        assert (right.status, right.headers["content-type"], right.body) == (200, "text/plain", b"ok")
        assert all(refused(client.send(github("one", STRANGER)).answer()) for _ in range(5))


def test_a_profile_can_be_combined_with_basic(bridge: Serve, stack: Stack) -> None:
    answer = bridge.ask(github("login", login=LOGIN))
    assert answer.status == 200
    headers = headers_of(stack, "login", answer)
    assert (headers["kwb_verified"], headers["kwb_covers_body"]) == (b"basic+hmac-sha256", b"true")
    without = bridge.ask(github("login"))
    assert (without.code, without.headers["www-authenticate"][:5]) == ("auth.wrong", "Basic")
    assert refused(bridge.ask(github("login", STRANGER, login=LOGIN)))


def test_a_profile_of_ones_own_and_a_generic_one(bridge: Serve) -> None:
    signature = base64.b64encode(hmac.digest(OLD.encode(), BODY, "sha512")).decode()
    assert bridge.ask(request("/shop", BODY, f"X-Shop: {signature}", login="")).status == 200
    assert refused(bridge.ask(request("/shop", b"{}", f"X-Shop: {signature}", login="")))
    signature = hmac.digest(OLD.encode(), b"id7." + BODY, "sha1").hex()
    assert bridge.ask(request("/generic", BODY, "X-Id: id7", f"X-Sign: {signature}", login="")).status == 200
    assert refused(bridge.ask(request("/generic", BODY, "X-Id: id8", f"X-Sign: {signature}", login="")))
    assert bridge.ask(request("/anybody", b"x", login="")).status == 200


def test_a_large_body_is_verified_in_a_thread(bridge: Serve, stack: Stack) -> None:
    body = bytes(range(256)) * 20_000
    answer = bridge.ask(github("big", OLD, body))
    assert answer.status == 200
    assert headers_of(stack, "big", answer)["value"] == body
    assert refused(bridge.ask(github("big", STRANGER, body)))


# ── what the source says and what the row says ────────────────────────────────────────────────────────────────────


def test_the_source_overrides_its_row(bridge: Serve, stack: Stack) -> None:
    lines = ("X-GitHub-Event: push", "X-GitHub-Delivery: d-1", "X-Event: mine")
    answer = bridge.ask(github("one", OLD, BODY, *lines))
    headers = headers_of(stack, "one", answer)
    assert (headers["ce_type"], headers["key"]) == (b"push.opened", b"7")
    answer = bridge.ask(github("named", OLD, BODY, *lines))
    assert (answer.status, answer.body) == (204, b"")
    assert "content-length" not in answer.headers
    own = headers_of(stack, "named", answer)
    assert (own["ce_type"], own["key"]) == (b"mine", b"opened")
    assert own["kwb_dedupe_key"] != headers["kwb_dedupe_key"]


def test_a_type_that_no_header_can_hold_is_the_default_one(bridge: Serve, stack: Stack) -> None:
    for value in (b"\xff", b"a\tb", b""):
        data = github("named", OLD, BODY, "X-Event: HERE").replace(b"HERE", value)
        assert headers_of(stack, "named", bridge.ask(data))["ce_type"] == b"webhook.named"


# ── rotation, reload, time ────────────────────────────────────────────────────────────────────────────────────────


def test_any_of_several_secrets_counts_while_they_are_rotated(bridge: Serve) -> None:
    assert [bridge.ask(github("both", secret)).status for secret in (OLD, NEW, STRANGER)] == [200, 200, 401]
    assert refused(bridge.ask(github("one", NEW)))


def test_a_reload_rotates_secrets_and_loses_no_request(stack: Stack, folder: Path, topic: str) -> None:
    def write(*secrets: str) -> str:
        return write_config(folder, {"s": {"profile": "github", "secrets": secrets, "topic": topic}})

    def reload(times: int) -> None:
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: len(server.said("configuration reloaded", process="ingest-0")) == times, "reloaded")

    with serving(stack, folder, config=write(OLD)) as server, server.open() as client, server.open() as waiting:
        assert client.send(github("s")).answer().status == 200
        assert refused(client.send(github("s", NEW)).answer())
        data = github("s")
        waiting.send(data[:-5])  # its headers were admitted under the old configuration
        eventually(lambda: server.total("kwb_requests_received_total", source="s") == 3, "it is under way")
        write(OLD, NEW)
        reload(1)
        assert [client.send(github("s", secret)).answer().status for secret in (OLD, NEW)] == [200, 200]
        write(NEW)
        reload(2)
        assert [client.send(github("s", secret)).answer().status for secret in (OLD, NEW)] == [401, 200]
        assert waiting.send(data[-5:]).answer().status == 200  # it keeps the one that it began with
        write("")
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: server.said("configuration not reloaded; the old one stays"), "refused")
        assert client.send(github("s", NEW)).answer().status == 200


def test_the_replay_window_holds_both_ways(bridge: Serve) -> None:
    bridge.set_time(NOW)
    times = {-3601: (401, 401), -3599: (401, 200), -301: (401, 200), -299: (200, 200), 0: (200, 200), 301: (401, 200)}
    for offset, statuses in times.items():
        found = tuple(bridge.ask(slack(name, NOW + offset)).status for name in ("timed", "patient"))
        assert found == statuses, offset
    bridge.set_time(NOW + 301)
    assert refused(bridge.ask(slack("timed", NOW)))
    assert {line["reason"].partition(":")[0] for line in bridge.said("request rejected", source="timed")} == {
        "timestamp.old", "timestamp.future",
    }  # fmt: skip


# ── the address ───────────────────────────────────────────────────────────────────────────────────────────────────


def square(path: str, address: str, *lines: str, source: str = "127.0.0.1") -> bytes:
    signature = base64.b64encode(hmac.digest(OLD.encode(), address.encode() + BODY, "sha256")).decode()
    return request(path, BODY, f"X-Square-HmacSha256-Signature: {signature}", *lines, login="")


def test_rule_24_a_public_url_is_what_is_signed(bridge: Serve, stack: Stack) -> None:
    answer = bridge.ask(square("/seen", "https://seen.test/in/s/"))
    assert answer.status == 200
    assert headers_of(stack, "seen", answer)["kwb_path"] == b"/seen"
    assert bridge.ask(square("/seen/a%2fb?x=%20", "https://seen.test/in/s//a%2fb?x=%20")).status == 200
    forwarded = ("X-Forwarded-Proto: https", "X-Forwarded-Host: x")
    assert refused(bridge.ask(square("/seen", "https://x/seen", *forwarded)))


def test_rule_24_only_a_trusted_proxy_says_the_address(bridge: Serve) -> None:
    forwarded = ("X-Forwarded-Proto: https", "X-Forwarded-Host: evil.test, shop.test")
    data = square("/square", "https://shop.test/square", *forwarded)
    assert ask_from("127.0.0.2", bridge, data).status == 200
    assert refused(ask_from("127.0.0.3", bridge, data))
    assert refused(ask_from("127.0.0.2", bridge, square("/square", "https://evil.test/square", *forwarded)))
    assert refused(ask_from("127.0.0.2", bridge, square("/square", "https://shop.test/square")))


def test_only_a_trusted_proxy_says_whose_certificate_it_saw(bridge: Serve) -> None:
    data = request("/subject", b"x", "X-SSL-Client-S-DN: CN=sender", login="")
    assert ask_from("127.0.0.2", bridge, data).status == 200
    assert refused(ask_from("127.0.0.3", bridge, data))
    assert refused(ask_from("127.0.0.2", bridge, data.replace(b"CN=sender", b"CN=nobody")))


def ask_from(address: str, server: Serve, data: bytes) -> Answer:
    with server.open(address) as client:
        return client.send(data).answer()


# ── credentials ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_rule_27_credentials_are_redacted_and_proof_is_kept(bridge: Serve, stack: Stack) -> None:
    answer = bridge.ask(request("/token", b"x", f"x-gitlab-TOKEN: {OLD}", "X-Gitlab-Event: Push", login=""))
    headers = headers_of(stack, "token", answer)
    assert headers["http_x-gitlab-token"] == b"[redacted]"
    assert headers["http_x-gitlab-event"] == b"Push"
    answer = bridge.ask(request(f"/query/p?a=1&t%6fken={OLD}&b=", b"{}", login=""))
    headers = headers_of(stack, "query", answer)
    assert headers["kwb_query"] == b"a=1&t%6fken=[redacted]&b="
    assert json.loads(headers["value"])["query"] == {"a": "1", "token": "[redacted]", "b": ""}
    assert OLD.encode() not in b"".join(headers.values())
    signature = "HMAC " + base64.b64encode(hmac.digest(OLD.encode(), BODY, "sha256")).decode()
    answer = bridge.ask(request("/teams", BODY, f"Authorization: {signature}", "Cookie: a=b", login=""))
    headers = headers_of(stack, "teams", answer)
    assert headers["http_authorization"].decode() == signature
    assert "http_cookie" not in headers


# ── hand-shakes that are not answered ─────────────────────────────────────────────────────────────────────────────


def test_a_secret_by_hand_shake_must_be_one_that_the_operator_gave(bridge: Serve) -> None:
    def given(secret: str) -> Answer:
        return bridge.ask(request("/notion", json.dumps({"verification_token": secret}).encode(), login=""))

    assert given(OLD).status == 200
    answer = given(STRANGER)
    assert (answer.status, answer.code) == (403, "auth.handshake")
    balance = bridge.balance()
    assert balance.pop("received") == sum(balance.values())


def test_a_hand_shake_that_has_to_prove_itself_is_401_without(bridge: Serve) -> None:
    bridge.set_time(NOW)
    body = b'{"type":"url_verification","challenge":"c-1"}'
    signature = "v0=" + hmac.digest(OLD.encode(), b"v0:%d:%b" % (NOW, body), "sha256").hex()
    lines = (f"X-Slack-Signature: {signature}", f"X-Slack-Request-Timestamp: {NOW}")
    greeting = bridge.ask(request("/timed", body, *lines, login=""))
    assert (greeting.status, greeting.body) == (200, b"c-1")
    assert refused(bridge.ask(request("/timed", body.replace(b"c-1", b"c-2"), *lines, login="")))
    assert refused(bridge.ask(request("/timed", body, login="")))


def test_a_parameter_that_is_not_set_refuses_its_hand_shake(bridge: Serve) -> None:
    query = "hub.mode=subscribe&hub.challenge=1&hub.verify_token="
    for token in ("", "%7Bparam:verify_token%7D"):
        assert bridge.ask(request(f"/forgetful?{query}{token}", method="GET", login="")).status == 403
    (line,) = bridge.said("parameters are not set; hand-shakes that need them are refused")
    assert (line["source"], line["params"]) == ("forgetful", "verify_token")
    assert bridge.ask(github("forgetful")).status == 200


def test_a_method_is_taken_for_its_hand_shake_alone(bridge: Serve) -> None:
    query = "hub.mode=subscribe&hub.challenge=%3Cb%3E1&hub.verify_token="
    greeting = bridge.ask(request(f"/meta?{query}v-token", method="GET", login=""))
    assert (greeting.status, greeting.body) == (200, b"<b>1")
    assert greeting.headers["x-content-type-options"] == "nosniff"
    assert bridge.ask(request(f"/meta?{query}other", method="GET", login="")).status == 403
    for method in ("GET", "OPTIONS"):
        answer = bridge.ask(request("/meta", method=method, login=""))
        assert (answer.status, answer.code) == (405, "sources.method")
        assert answer.headers["allow"] == "POST, PUT, PATCH, DELETE"


# ── public keys ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def publisher(folder: Path) -> Iterator[Publisher]:
    with publishing(folder) as found:
        yield found


@pytest.fixture
def remote(stack: Stack, folder: Path, publisher: Publisher) -> Iterator[Callable[..., Serve]]:
    """Starts a bridge whose keys come from the publisher."""
    with_it: list[Any] = []

    def start(sources: dict[str, Any]) -> Serve:
        with_it.append(serving(stack, folder, config=write_config(folder, sources), **publisher.environ))
        server: Serve = with_it[-1].__enter__()
        return server

    yield start
    for context in with_it:
        context.__exit__(None, None, None)


def test_rule_30_an_unknown_key_is_503_while_it_is_fetched_then_401(
    remote: Callable[..., Serve], publisher: Publisher, topic: str
) -> None:
    vector = by_id()["kinde/jwt-body"]
    server = remote({"s": source_of(vector, topic)})
    server.set_time(vector["now"])
    publisher.held.clear()
    answer = server.ask(wire(vector, "s"))
    assert (answer.status, answer.code) == (503, "auth.key_pending")
    assert int(answer.headers["retry-after"]) > 0
    eventually(lambda: publisher.asked, "the host is asked")
    assert server.ask(wire(vector, "s")).status == 503  # the same fetch, no second one
    publisher.held.set()
    assert refused(settled(server, wire(vector, "s")))  # it has no such page
    assert len(publisher.asked) == 1
    publisher.publish(vector)
    assert refused(server.ask(wire(vector, "s")))  # within the minute nobody is asked
    server.forward(61)
    assert settled(server, wire(vector, "s")).status == 200
    assert len(publisher.asked) == 2
    for _ in range(3):  # a key id that the host does not know
        other = {**vector, "body": re_signed(vector["body"])}
        assert refused(server.ask(wire(other, "s")))
    assert len(publisher.asked) == 2
    server.forward(61)
    assert refused(settled(server, wire(other, "s")))
    assert len(publisher.asked) == 3
    assert server.ask(wire(vector, "s")).status == 200


def re_signed(token: str) -> str:
    """The token under another key id."""
    header, payload, signature = token.split(".")
    fields = json.loads(base64.urlsafe_b64decode(header + "=="))
    other = base64.urlsafe_b64encode(json.dumps({**fields, "kid": "unknown"}).encode()).decode().rstrip("=")
    return ".".join((other, payload, signature))


def test_rule_30_keys_are_renewed_and_serve_while_their_host_is_away(
    remote: Callable[..., Serve], publisher: Publisher, topic: str
) -> None:
    vector = by_id()["kinde/jwt-body"]
    server = remote({"s": source_of(vector, topic)})
    server.set_time(vector["now"])
    publisher.publish(vector)
    assert settled(server, wire(vector, "s")).status == 200
    publisher.pages.clear()
    server.forward(3601)
    assert server.ask(wire(vector, "s")).status == 200
    eventually(lambda: len(publisher.asked) == 2, "the keys are asked for anew")
    assert server.ask(wire(vector, "s")).status == 200
    server.forward(24 * 3600)
    assert refused(settled(server, wire(vector, "s")))


@pytest.mark.parametrize("page", ["a redirect", "no JWKS", "too large"])
def test_rule_30_what_is_no_key_set_is_none(
    remote: Callable[..., Serve], publisher: Publisher, topic: str, page: str
) -> None:
    vector = by_id()["kinde/jwt-body"]
    server = remote({"s": source_of(vector, topic)})
    server.set_time(vector["now"])
    publisher.publish(vector)
    place = JWKS.removeprefix("https://")
    text = publisher.pages[place][1]
    publisher.pages[place] = {
        "a redirect": (302, text), "no JWKS": (200, b'{"keys": 1}'), "too large": (200, text + b" " * 400_000),
    }[page]  # fmt: skip
    answer = server.ask(wire(vector, "s"))
    assert answer.status == 503
    eventually(lambda: server.said("keys not fetched"), "it failed")
    # What a host answers is final for a minute; where there was no answer, the sender may come again.
    assert server.ask(wire(vector, "s")).status == (503 if page == "too large" else 401)
    assert publisher.asked == [place]


def test_rule_30_a_subscription_is_confirmed_at_the_host_of_its_service_alone(
    remote: Callable[..., Serve], publisher: Publisher, topic: str
) -> None:
    source = {"profile": "aws-sns", "params": {"topic_arn": json.loads(sns("x"))["TopicArn"]}, "topic": topic}
    server = remote({"s": source})
    publisher.pages[CERTIFICATE.removeprefix("https://")] = 200, certificate()
    evil = "https://keys.test/?Action=ConfirmSubscription"
    answer = settled(server, request("/s", sns("SubscriptionConfirmation", SubscribeURL=evil), login=""))
    assert (answer.status, answer.code) == (403, "auth.handshake")
    foreign = sns("SubscriptionConfirmation", TopicArn="arn:aws:sns:us-west-2:123456789012:Other")
    assert refused(settled(server, request("/s", foreign, login="")))
    assert settled(server, request("/s", sns("SubscriptionConfirmation"), login="")).status == 200
    eventually(lambda: server.said("hand-shake not confirmed"), "the host has no such page here")
    publisher.pages["sns.us-west-2.amazonaws.com/"] = 200, b"<ConfirmSubscriptionResponse/>"
    eventually(lambda: server.said("hand-shake confirmed"), "it is tried again")
    first, *others = publisher.asked
    assert first == CERTIFICATE.removeprefix("https://")
    assert set(others) == {"sns.us-west-2.amazonaws.com/"}
    assert len(others) in (2, 3)


# ── deadlines, duplicates ─────────────────────────────────────────────────────────────────────────────────────────

SLOW = """
import sys
if "kafka_webhook_bridge.app.child" in sys.orig_argv:
    import pathlib, time
    from kafka_webhook_bridge.sources.verify.compiled import Compiled
    real = Compiled.__call__
    def slow(self, *arguments):
        while self.slow and not pathlib.Path({go!r}).exists():
            time.sleep(0.01)
        return real(self, *arguments)
    Compiled.__call__ = slow
"""


def test_rule_1_the_deadline_holds_while_a_slow_proof_waits_for_its_thread(
    stack: Stack, folder: Path, topic: str
) -> None:
    go = folder / "go"
    (folder / "sitecustomize.py").write_text(SLOW.format(go=str(go)))
    vector = by_id()["freshchat/own-key"]
    config = write_config(
        folder,
        {"slow": source_of(vector, topic), "quick": {"profile": "github", "secrets": [OLD], "topic": topic}},
    )
    with serving(stack, folder, config=config, PYTHONPATH=str(folder)) as server:
        server.set_time(vector["now"])
        waiting = [server.open().send(wire(vector, "slow")) for _ in range(4)]  # there are two threads
        eventually(lambda: server.total("kwb_requests_received_total", source="slow") == 4, "they wait")
        assert server.ask(github("quick")).status == 200
        answers = [client.answer() for client in waiting]
        assert {(answer.status, answer.code) for answer in answers} == {(503, "deliver.timeout")}
        go.touch()
        eventually(lambda: server.ask(wire(vector, "slow")).status == 200, "the threads are free again")
        for client in waiting:
            client.socket.close()
    assert len(consume(stack.kafka, topic, 2)) == 2


def test_suppress_asks_for_the_proof_first(stack: Stack, folder: Path, topic: str, database: str) -> None:
    config = write_config(folder, {"s": {"profile": "github", "secrets": [OLD], "dedupe": "suppress", "topic": topic}})
    delivery = "X-GitHub-Delivery: 72d3162e"
    with serving(stack, folder, role="all", config=config, DATABASE_URL=database) as server:
        eventually(lambda: server.health()[1]["parts"]["postgres"]["status"] == "ready", "it can tell of duplicates")
        assert refused(server.ask(github("s", STRANGER, BODY, delivery)))
        first = server.ask(github("s", OLD, BODY, delivery))
        assert (first.status, first.json["duplicate"]) == (200, False)
        again = eventually(
            lambda: (found := server.ask(github("s", OLD, BODY, delivery))).status == 200 and found, "it is durable"
        )
        assert (again.json["duplicate"], again.json["event_id"]) == (True, first.json["event_id"])
        assert refused(server.ask(github("s", STRANGER, BODY, delivery)))
        eventually(lambda: rows(database, "SELECT count(*) FROM events")[0][0] == 1, "it is archived once")
        (row,) = rows(database, "SELECT type, key, verified FROM events")
        assert tuple(row) == ("webhook.s", "7", "hmac-sha256")
