"""The console without servers: its login, its headers, and that nothing of an event becomes markup."""

from __future__ import annotations

import asyncio
import json
import uuid
from base64 import b64encode
from datetime import UTC, datetime
from typing import Any
from unittest import mock

import pytest

pytest.importorskip("jinja2", reason="NOT RUN: jinja2 is not installed")

from pydantic import SecretStr
from starlette.applications import Starlette

from kafka_webhook_bridge.console.login import FAILED_LOGINS_MAX, Door
from kafka_webhook_bridge.console.site import Site
from kafka_webhook_bridge.ingest.limits import TrustedProxies
from kafka_webhook_bridge.settings import ConsoleSettings, load_settings
from kafka_webhook_bridge.store import Store

URL = "postgresql://kwb:x@127.0.0.1:1/kwb"
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{7*7}}"
ID = uuid.UUID("019a2f4e-5b6c-7d8e-9f01-23456789abcd")
ROW = {
    "event_id": ID, "received_at": datetime.now(UTC), "source": EVIL, "type": EVIL, "key": EVIL, "path": EVIL,
    "query": EVIL, "method": "POST", "state": "stored", "headers": json.dumps([[EVIL, EVIL]]).encode(),
    "body": EVIL.encode(), "body_json": None, "marks": None, "key_bytes": None, "body_bytes": len(EVIL),
}  # fmt: skip
RIGHT = {"authorization": "Basic " + b64encode(b"me:canary").decode()}
WRONG = {"authorization": "Basic " + b64encode(b"me:wrong").decode()}


class Console:
    def __init__(self) -> None:
        self.now = 0.0
        settings = load_settings({"DATABASE_URL": URL, "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"})
        site = Site(settings, Store(settings.store))
        login = ConsoleSettings(username="me", password=SecretStr("canary"))
        self.door = Door(Starlette(routes=site.routes()), login, TrustedProxies(()), lambda: self.now)

    def get(self, target: str, headers: dict[str, str], client: str = "1.2.3.4") -> tuple[int, dict[str, str], bytes]:
        path, _, query = target.partition("?")
        scope = {
            "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": query.encode(),
            "headers": [(k.encode(), v.encode()) for k, v in headers.items()], "client": (client, 1),
            "http_version": "1.1", "scheme": "http", "server": ("x", 80), "root_path": "",
        }  # fmt: skip
        sent: list[Any] = []

        async def run() -> None:
            async def receive() -> Any:
                return {"type": "http.request", "body": b""}

            async def send(message: Any) -> None:
                sent.append(message)

            await self.door(scope, receive, send)

        asyncio.run(run())
        found = {k.decode(): v.decode() for k, v in sent[0]["headers"]}
        return sent[0]["status"], found, b"".join(m.get("body", b"") for m in sent[1:])


@pytest.mark.parametrize("path", ["/events", f"/events/{ID}"])
def test_nothing_of_an_event_becomes_markup(path: str) -> None:
    async def search(*_: Any) -> Any:
        return [ROW]

    async def get(*_: Any) -> Any:
        return ROW

    with mock.patch.multiple("kafka_webhook_bridge.store.events", search=search, get=get):
        status, headers, body = Console().get(path, RIGHT)
    assert status == 200
    assert b"<script" not in body
    assert b"<img" not in body
    assert b"&lt;script&gt;" in body
    assert b"{{7*7}}" in body
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'self'; ")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")
    assert "set-cookie" not in headers


def test_a_body_is_a_download_in_a_sandbox() -> None:
    async def get(*_: Any) -> Any:
        return ROW

    with mock.patch("kafka_webhook_bridge.store.events.get", get):
        status, headers, body = Console().get(f"/events/{ID}/body", RIGHT)
    assert (status, body) == (200, EVIL.encode())
    assert headers["content-type"] == "application/octet-stream"
    assert headers["content-disposition"].startswith("attachment;")
    assert headers["content-security-policy"] == "sandbox; default-src 'none'"


@pytest.mark.parametrize("path", ["/", "/metrics", "/health", "/api/v1/events", "/style.css"])
def test_all_but_probes_needs_the_login(path: str) -> None:
    console = Console()
    assert console.get(path, {})[0] == 401
    assert console.get(path, WRONG)[0] == 401


def test_rule_24_guessing_is_slowed_per_address_and_the_right_login_never() -> None:
    console = Console()
    statuses = [console.get("/style.css", WRONG)[0] for _ in range(FAILED_LOGINS_MAX + 1)]
    assert statuses == [401] * FAILED_LOGINS_MAX + [429]
    assert console.get("/style.css", {})[0] == 401  # which is no guess
    assert console.get("/style.css", RIGHT)[0] == 200
    assert console.get("/style.css", WRONG, "5.6.7.8")[0] == 401
    console.now = 61.0
    assert console.get("/style.css", WRONG)[0] == 401


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=x", "since=soon", "json={", "after=x"])
def test_bad_searches_are_refused_in_words(query: str) -> None:
    status, headers, body = Console().get(f"/api/v1/events?{query}", RIGHT)
    assert (status, headers["content-type"]) == (400, "application/problem+json")
    assert json.loads(body)["title"]
