"""Secrets that come by a hand-shake: only while an operator waits for one, encrypted, good while PostgreSQL is away."""

from __future__ import annotations

import contextlib
import hmac
import io
import json
import os
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from outbox_world import backends, balanced, frozen

from bridge import Serve, eventually, request, serving
from databases import rows
from kafka_webhook_bridge.cli import main
from kafka_webhook_bridge.stack import Stack

pytestmark = pytest.mark.integration

KEY = "canary-key-0123456789abcdef0123456789abcdef"
SECRET, OTHER = "canary-of-asana", "canary-of-a-stranger"


def kwb(server: Serve, *arguments: str, code: int = 0, **environ: str) -> Any:
    """What `kwb … --json` says."""
    out = io.StringIO()
    with mock.patch.dict(os.environ, {**server.environ, **environ}, clear=True), contextlib.redirect_stdout(out):
        assert main([*arguments, "--json"]) == code
    return json.loads(out.getvalue()) if out.getvalue() else None


def greeting(secret: str) -> bytes:
    return request("/hook", b"", f"X-Hook-Secret: {secret}", login="")


def event(body: bytes, secret: str = SECRET) -> bytes:
    return request("/hook", body, f"X-Hook-Signature: {hmac.digest(secret.encode(), body, 'sha256').hex()}", login="")


def config(topic: str) -> str:
    return f"sources: {{hook: {{profile: asana, topic: {topic}}}}}"


def test_rule_30_a_secret_is_learned_while_a_registration_is_open(
    stack: Stack, folder: Path, database: str, topic: str
) -> None:
    environ = {"DATABASE_URL": database, "KWB_STORE_SECRET_KEY": KEY}
    with serving(stack, folder, config=config(topic), role="all", **environ) as server:
        eventually(lambda: server.health()[1]["parts"]["postgres"]["status"] == "ready", "PostgreSQL")
        early = eventually(lambda: _refused(server), "the secrets of before are known")
        answer = server.ask(greeting(OTHER))
        assert (answer.status, answer.code) == (403, "auth.handshake")
        assert kwb(server, "sources", "register", "hook", "--minutes", "5")["source"] == "hook"
        answer = server.ask(greeting(SECRET))
        assert (answer.status, answer.headers["x-hook-secret"]) == (200, SECRET)
        assert server.ask(event(b"first")).status == 200
        assert server.ask(greeting(OTHER)).status == 403  # the registration is closed
        assert server.ask(event(b"forged", OTHER)).status == 401
        assert server.ask(greeting(SECRET)).status == 200  # known by now
        assert "canary" not in repr(
            rows(database, "SELECT s::text, convert_from(ciphertext, 'latin1') FROM learned_secrets AS s")
        )

        (kept,) = kwb(server, "sources", "secrets", "hook")["secrets"]
        assert kept["readable"]
        assert "secret" not in kept
        assert kwb(server, "sources", "secrets", "hook", "--show")["secrets"][0]["secret"] == SECRET
        assert not kwb(server, "sources", "secrets", "hook", KWB_STORE_SECRET_KEY=KEY[::-1])["secrets"][0]["readable"]
        assert kwb(server, "rejections", "release", early)["released"] == [early]

        with frozen(*backends(database)):
            assert server.ask(event(b"while PostgreSQL is away")).status == 200
        assert balanced(server)
        assert server.stop() == 0
        assert "canary" not in server.log.read_text()

    with serving(stack, folder, config=config(topic), role="all", **environ) as server:
        eventually(lambda: server.ask(event(b"after a restart")).status == 200, "learned for good")
        assert kwb(server, "sources", "secrets", "hook", "--forget", kept["secret_id"])["forgotten"]
        eventually(lambda: server.ask(event(b"x")).status == 401, "it proves nothing any more")
        kwb(server, "sources", "secrets", "hook", "--forget", kept["secret_id"], code=1)


def _refused(server: Serve) -> str:
    """The id of an event that came before its secret."""
    answer = server.ask(event(b"early"))
    return answer.headers["kwb-event-id"] if answer.status == 401 else ""


def test_rule_30_of_two_hand_shakes_at_once_one_is_learned(
    stack: Stack, folder: Path, database: str, topic: str
) -> None:
    environ = {"DATABASE_URL": database, "KWB_STORE_SECRET_KEY": KEY, "KWB_INGEST_WORKERS": "2"}
    with serving(stack, folder, config=config(topic), **environ) as server:
        eventually(lambda: server.health()[1]["parts"]["postgres"]["status"] == "ready", "PostgreSQL")
        kwb(server, "sources", "register", "hook")
        clients = [server.open().send(greeting(f"canary-{n}")) for n in range(8)]
        answers = [client.answer() for client in clients]
        (learned,) = [answer.headers["x-hook-secret"] for answer in answers if answer.status == 200]
        assert {answer.status for answer in answers} <= {200, 403, 503}
        for client in clients:  # by now connected to either process

            def proves(client: Any = client) -> bool:
                body = b"by any process"
                return client.send(event(body, learned)).answer().status == 200

            eventually(proves, "each process has taken it up")
            client.socket.close()
        assert len(rows(database, "SELECT 1 FROM learned_secrets")) == 1


def test_rule_30_a_registration_ends_by_time(stack: Stack, folder: Path, database: str, topic: str) -> None:
    environ = {"DATABASE_URL": database, "KWB_STORE_SECRET_KEY": KEY}
    with serving(stack, folder, config=config(topic), **environ) as server:
        eventually(lambda: server.health()[1]["parts"]["postgres"]["status"] == "ready", "PostgreSQL")
        kwb(server, "sources", "register", "hook")
        rows(database, "UPDATE registrations SET expires_at = now() - interval '1 s'")
        assert server.ask(greeting(SECRET)).status == 403
        assert rows(database, "SELECT 1 FROM learned_secrets") == []


def test_without_postgresql_nobody_is_refused_for_good(stack: Stack, folder: Path, topic: str) -> None:
    """The secrets are not at hand: the sender shall come again."""
    environ = {"DATABASE_URL": "postgresql://kwb:x@127.0.0.1:1/kwb", "KWB_STORE_SECRET_KEY": KEY}
    with serving(stack, folder, config=config(topic), **environ) as server:
        for data in (event(b"x"), greeting(SECRET)):
            answer = server.ask(data)
            assert (answer.status, answer.code) == (503, "auth.not_learned")
            assert "retry-after" in answer.headers


def test_the_commands_say_what_is_wrong(stack: Stack, folder: Path, topic: str) -> None:
    environ = {**stack.environ(), "KWB_CONFIG": config(topic)}
    words = ("sources", "register", "hook")
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        with mock.patch.dict(os.environ, environ, clear=True):
            assert main([*words]) == 2
        assert "KWB_STORE_SECRET_KEY" in err.getvalue()
        right = {**environ, "KWB_STORE_SECRET_KEY": KEY}
        with mock.patch.dict(os.environ, right, clear=True):
            assert main(["sources", "register", "nobody"]) == 2
            assert main(["sources", "secrets", "hook", "--forget", "x"]) == 2
        github = f"sources: {{hook: {{profile: github, secrets: [x], topic: {topic}}}}}"
        with mock.patch.dict(os.environ, {**right, "KWB_CONFIG": github}, clear=True):
            assert main([*words]) == 2
    assert "gives no secret by a hand-shake" in err.getvalue()
