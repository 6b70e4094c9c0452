"""The role console as a browser and a script meet it: over the socket, with what a real bridge has archived."""

from __future__ import annotations

import contextlib
import html
import http.client
import json
import re
import signal
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from events_data import days_ago, fill, row
from outbox_world import frozen

from bridge import Answer, Serve, eventually, request, serving, total
from databases import rows
from kafka_webhook_bridge.stack import Stack

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{7*7}}"
LOGIN = ("me", "console-canary")


class Console:
    """One `kwb serve --role console` that needs nothing but its login, Kafka and PostgreSQL."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        given = {"CONSOLE_USERNAME": LOGIN[0], "CONSOLE_PASSWORD": LOGIN[1], "WEBHOOK_USERNAME": "",
                 "KWB_STORE_CONNECT_TIMEOUT_MS": "30000", "KWB_STORE_STATEMENT_TIMEOUT_MS": "60000"}  # fmt: skip
        self.server = Serve({**given, **environ}, folder, "--role", "console")

    def get(self, target: str, login: tuple[str, str] | None = LOGIN, method: str = "GET", **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.management_port, timeout=90)
        if login is not None:
            headers["authorization"] = "Basic " + b64encode(":".join(login).encode()).decode()
        with contextlib.closing(connection):
            connection.request(method, target, headers=headers)
            found = connection.getresponse()
            return Answer(found.status, {k.lower(): v for k, v in found.getheaders()}, found.read())

    def page(self, target: str) -> str:
        """A page of status 200."""
        answer = self.get(target)
        assert (answer.status, answer.headers["content-type"]) == (200, "text/html; charset=utf-8"), answer
        return answer.body.decode()

    def api(self, target: str) -> Any:
        answer = self.get(f"/api/v1{target}")
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json"), answer
        return answer.json

    def found(self, query: str) -> list[str]:
        return [event["event_id"] for event in self.api(f"/events?{query}")["events"]]


@contextlib.contextmanager
def console(folder: Path, **environ: str) -> Iterator[Console]:
    running = Console(folder, environ)

    def lives() -> bool:
        assert running.server.process.poll() is None, running.server.log.read_text()
        with contextlib.suppress(OSError):
            return running.get("/health/live", None).status == 200
        return False

    try:
        eventually(lives, "the console")
        yield running
        assert running.server.stop() == 0
        assert "canary" not in running.server.log.read_text()
    except BaseException:
        running.server.process.terminate()
        running.server.process.wait(60)
        print(running.server.log.read_text()[-6000:])
        raise
    finally:
        running.server.process.kill()
        running.server.process.wait()


def escaped(text: str) -> str:
    """As it must stand in a page."""
    return html.escape(text).replace("&#x27;", "&#39;").replace("&quot;", "&#34;")


def environ(stack: Stack, database: str) -> dict[str, str]:
    return {**stack.environ(), "DATABASE_URL": database}


def test_what_a_bridge_archived_is_shown_and_nothing_of_it_becomes_markup(
    stack: Stack, folder: Path, database: str, topic: str
) -> None:
    config = f'sources: {{s: {{auth: none, topic: {topic}, key: "{{header:X-Key}}"}}}}'
    evil = EVIL.encode()
    with serving(stack, folder, role="all", config=config, DATABASE_URL=database) as bridge:
        path = f"/s?q={quote(EVIL)}"
        sent = request(path, evil, f"X-Key: {EVIL}", "Content-Type: text/html", f"X-Evil: {EVIL}", login="")
        answer = eventually(lambda: (got := bridge.ask(sent)).status == 200 and got, "accepted")
        event_id = answer.json["event_id"]
        eventually(
            lambda: rows(database, f"SELECT 1 FROM events WHERE event_id = '{event_id}' AND state = 'stored'"),
            "archived",
        )
        with console(folder, **environ(stack, database)) as shown:
            for page in (shown.page("/events?source=s"), shown.page(f"/events/{event_id}"), shown.page("/")):
                assert event_id in page
                assert not re.search(r"<(script|img)|alert\(1\)[^<]*>", page)
            page = shown.page(f"/events/{event_id}")
            assert escaped(EVIL) in page
            assert "{{7*7}}" in page  # and not 49

            found = shown.api(f"/events/{event_id}")
            assert (found["body_text"], found["body_bytes"], found["body_complete"]) == (EVIL, len(evil), True)
            assert (found["event"]["key"], found["event"]["topic"]) == (EVIL, topic)
            assert ["x-evil", EVIL] in [[name.lower(), value] for name, value in found["headers"]]
            (listed,) = [e for e in shown.api("/events")["events"] if e["event_id"] == event_id]
            assert (listed["source"], listed["key"], listed["state"]) == ("s", EVIL, "stored")

            body = shown.get(f"/events/{event_id}/body")
            assert (body.status, body.body) == (200, evil)
            assert body.headers["content-type"] == "application/octet-stream"
            assert body.headers["content-disposition"] == f'attachment; filename="{event_id}.bin"'
            assert body.headers["content-security-policy"] == "sandbox; default-src 'none'"
            assert body.headers["x-content-type-options"] == "nosniff"

            def settled() -> Any:
                status = shown.api("/status")
                return status["archive_lag_records"] == 0 and status

            status = eventually(settled, "the archive's lag")
            assert status["status"] == "ready"
            assert set(status["parts"]) == {"kafka", "postgres"}
            assert status["outbox"] == {"waiting": 0, "blocked": 0, "quarantined": 0}
            assert status["newest_event"]["event_id"] >= event_id
            assert "<script" not in shown.get("/nothing<script>").body.decode()
            assert "script" not in shown.get("/style.css").body.decode()


@pytest.fixture
def archive(stack: Stack, database: str, folder: Path) -> Iterator[tuple[Console, list[str]]]:
    """A console over three events, the newest first."""
    old = row(days_ago(3), source="shop", type="orders/create", key="1234", body_json=b'{"order":{"id":1234}}')
    shop = row(days_ago(0.1), source="shop", type="orders/paid", key="1234", body_json=b'{"order":{"id":1234}}')
    erp = row(key="77", body=b"\xff\x00", body_json=None)
    fill(database, old, shop, erp)
    with console(folder, **environ(stack, database)) as shown:
        yield shown, [str(one.event_id) for one in (erp, shop, old)]


def test_searches_filters_and_pages(archive: tuple[Console, list[str]]) -> None:
    shown, (erp, shop, old) = archive
    assert shown.found("") == [erp, shop, old]
    assert shown.found("source=shop&key=1234") == [shop, old]
    assert shown.found("type=orders/create&until=2d") == [old]
    assert shown.found("since=4d&until=1d") == [old]
    contains = quote('{"order": {"id": 1234}}')
    assert shown.found(f"json={contains}") == [shop]  # of the last day
    assert shown.found(f"json={contains}&since=1w") == [shop, old]
    assert shown.found("source=nobody") == []
    assert "No event matches." in shown.page("/events?source=nobody")

    first = shown.api("/events?limit=2")
    assert (len(first["events"]), first["next_after"]) == (2, shop)
    assert shown.found(f"limit=2&after={shop}") == [old]
    seen, target = [], "/events?limit=1&key=1234"
    while target:
        page = shown.page(target)
        seen += re.findall(r'<td><a href="/events/([0-9a-f-]{36})"', page)
        older = re.search(r'href="([^"]+)">Older ones', page)
        target = html.unescape(older[1]) if older else ""
    assert seen == [shop, old]
    assert f'value="{escaped(EVIL)}"' in shown.page(f"/events?source={quote(EVIL)}")

    binary = shown.api(f"/events/{erp}")
    assert (binary["body_text"], binary["body_bytes"], binary["body_complete"]) == ("", 2, False)
    assert "(not shown in full)" in shown.page(f"/events/{erp}")
    assert shown.get(f"/events/{erp}/body").body == b"\xff\x00"


def test_bad_input_is_refused_in_words(archive: tuple[Console, list[str]]) -> None:
    shown, (erp, *_) = archive
    zeros = quote('{"a": "\\u0000"}')
    for query in ("limit=0", "limit=9999", "since=soon", "after=x", "json=%7B", f"json={zeros}", "since=999999999w"):
        for path in ("/events", "/api/v1/events"):
            answer = shown.get(f"{path}?{query}")
            assert answer.status == 400, (path, query, answer)
    assert shown.get("/api/v1/events?source=%00").status == 200  # which nothing has
    for path in ("/events/x", "/api/v1/events/x", "/events/x/body", f"/api/v1/events/{erp[:-1]}"):
        assert shown.get(path).status == 400, path
    absent = "019a2f4e-5b6c-7d8e-9f01-23456789abcd"
    for path in (f"/events/{absent}", f"/api/v1/events/{absent}", f"/events/{absent}/body"):
        assert shown.get(path).status == 404, path
    assert shown.get("/nothing").status == 404
    assert shown.get("/events?source=" + "x" * 5000).status == 414
    for method in ("POST", "PUT", "DELETE"):
        assert shown.get("/events", method=method).status == 405
    assert shown.get("/events", method="HEAD").body == b""
    assert shown.found("limit=1") == [erp]  # and it goes on


def test_everything_but_what_probes_ask_needs_the_login(stack: Stack, folder: Path, database: str) -> None:
    """A right one is let in whatever others do from its address (rules.md 24)."""
    with console(folder, **environ(stack, database)) as shown:
        paths = ("/", "/events", "/api/v1/status", "/api/v1/events", "/metrics", "/health",
                 "/style.css", "/nothing", "/health/live/", "//health/live", "/health/live%2f..")  # fmt: skip
        for path in paths:
            answer = shown.get(path, None)
            assert answer.status == 401, path
            assert answer.headers["www-authenticate"].startswith("Basic ")
        assert shown.get("/health/live", None).json == {"status": "live"}
        assert set(shown.get("/health/ready", None).json) == {"status", "parts"}
        assert shown.get("/health/live", ("me", "wrong")).status == 200  # a probe that has an old password
        wrong = [("me", ""), ("", ""), ("ME", LOGIN[1]), ("me", LOGIN[1] + " "), ("hooks", "canary-password")]
        for login in wrong:
            assert shown.get("/", login).status == 401, login
        statuses = [shown.get("/", ("me", "guess"), **{"x-forwarded-for": f"10.0.0.{n}"}).status for n in range(12)]
        assert statuses[-1] == 429  # nobody's word about addresses is believed by default
        assert shown.get("/").status == 200
        assert total(shown.get("/metrics").body.decode(), "kwb_process_open_files") > 0
        assert shown.server.said("login to the console refused", address="127.0.0.1")


def test_servers_that_are_away_are_named_and_come_back(stack: Stack, folder: Path, database: str) -> None:
    fill(database, row(key="77"))
    short = {"KWB_STORE_CONNECT_TIMEOUT_MS": "2000"}
    with console(folder, **environ(stack, database), **short) as shown:
        eventually(lambda: shown.get("/health/ready").status == 200, "ready")
        stack.postgres.stop()
        try:
            for path in ("/events", "/api/v1/events"):
                answer = shown.get(path)
                assert answer.status == 503, answer
                assert b"PostgreSQL failed while" in answer.body
                assert b"Is PostgreSQL up" in answer.body
            away = eventually(lambda: (s := shown.api("/status"))["parts"]["postgres"]["reason"] and s, "told")
            assert away["parts"]["kafka"]["status"] == "ready"
            assert "error" in away["outbox"]
            assert "PostgreSQL failed while" in shown.page("/")
            assert shown.get("/health/live", None).status == 200
        finally:
            stack.postgres.start()
        eventually(lambda: shown.get("/events").status == 200, "PostgreSQL is there again")
        with frozen(stack.kafka.pid or 0):
            parts = eventually(
                lambda: (p := shown.api("/status")["parts"])["kafka"]["status"] == "unavailable" and p, "told"
            )
            assert parts["kafka"]["reason"]
            assert parts["postgres"]["status"] == "ready"
            assert shown.found("key=77")
            assert shown.server.stop() == 0  # it waits for nobody
    assert shown.server.said("stopped", clean=True)


def test_a_changed_password_is_taken_without_a_restart(stack: Stack, folder: Path, database: str) -> None:
    secret = folder / "console-password"
    secret.write_text("first-canary\n")
    given = {**environ(stack, database), "CONSOLE_PASSWORD": f"file:{secret}"}
    with console(folder, **given) as shown:
        assert shown.get("/", ("me", "first-canary")).status == 200
        secret.write_text("second-canary\n")
        shown.server.process.send_signal(signal.SIGHUP)
        eventually(lambda: shown.get("/", ("me", "second-canary")).status == 200, "the new one")
        assert shown.get("/", ("me", "first-canary")).status == 401
        secret.unlink()
        shown.server.process.send_signal(signal.SIGHUP)
        eventually(lambda: shown.server.said("configuration not reloaded; the old one stays"), "told")
        assert shown.get("/", ("me", "second-canary")).status == 200


def test_it_needs_a_login_and_a_database_and_no_source(folder: Path) -> None:
    running = Console(folder, {"CONSOLE_USERNAME": "", "CONSOLE_PASSWORD": "", "KAFKA_BOOTSTRAP_SERVERS": "x:1"})
    assert running.server.process.wait(60) == 2
    said = running.server.log.read_text()
    for name in ("CONSOLE_USERNAME", "CONSOLE_PASSWORD", "DATABASE_URL"):
        assert name in said
    for name in ("KWB_CONFIG", "WEBHOOK"):
        assert name not in said


def test_it_reads_the_bridge_yaml_of_its_bridge_without_the_secrets_in_it(
    stack: Stack, folder: Path, database: str
) -> None:
    """Of whose proxies it takes addresses; a name is counted, not a machine (rules.md 24)."""
    config = "trusted_proxies: [127.0.0.0/8]\nsources: {s: {username: a, password: '${NOT_HERE}'}}"
    given = {**environ(stack, database), "KWB_CONFIG": config, "KWB_BRIDGE_OPEN_RULE": "true"}
    with console(folder, **given) as shown:
        for n in range(12):
            assert shown.get("/", ("me", "guess"), **{"x-forwarded-for": f"10.0.0.{n}"}).status == 401
        assert shown.server.said("login to the console refused", address="10.0.0.3")


def test_json_of_the_api_is_what_the_pages_show(archive: tuple[Console, list[str]]) -> None:
    shown, ids = archive
    for event_id in ids:
        found = json.loads(shown.get(f"/api/v1/events/{event_id}").body)["event"]
        page = shown.page(f"/events/{event_id}")
        for name, value in found.items():
            assert value is None or escaped(str(value)) in page, name
