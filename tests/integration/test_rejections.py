"""Requests that did not prove their sender: kept, told, bounded, and delivered once the source is right."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import io
import json
import os
import secrets
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest
from outbox_world import balanced, frozen

from bridge import Answer, Serve, consume, eventually, request, serving
from databases import empty_database, rows
from kafka_webhook_bridge.cli import main
from kafka_webhook_bridge.ingest.keys import Keys
from kafka_webhook_bridge.ingest.release import Outcome, Releaser
from kafka_webhook_bridge.receipts import ReceiptsFile
from kafka_webhook_bridge.settings import load_settings
from kafka_webhook_bridge.sources.config import load_sources
from kafka_webhook_bridge.stack import Stack
from kafka_webhook_bridge.store import Store, rejections

pytestmark = pytest.mark.integration

KEY = "canary-key-0123456789abcdef0123456789abcdef"
RIGHT, WRONG = "canary-right-secret", "canary-wrong-secret"


def config(topic: str, *, secret: str = RIGHT, password: str = RIGHT) -> str:
    return f"""
sources:
  hub: {{profile: github, secrets: ["{secret}"], topic: {topic}-hub}}
  desk: {{profile: github, secrets: ["{secret}"], topic: {topic}-desk}}
  bell: {{profile: gitlab-token, secrets: ["{secret}"], topic: {topic}-desk}}
  shop: {{profile: stripe, secrets: ["{secret}"], topic: {topic}-shop}}
  counted: {{profile: github, secrets: ["{secret}"], topic: {topic}-counted}}
  late: {{profile: github, secrets: ["{secret}"], topic: {topic}}}
  lab: {{profile: gitlab-token, secrets: ["{secret}"], topic: {topic}-lab}}
  erp: {{username: partner, password: "{password}", topic: {topic}-lab}}
  own: {{username: partner, password: "{password}", topic: {topic}-lab}}
  once: {{profile: github, secrets: ["{secret}"], topic: {topic}, dedupe: suppress}}
  ordered: {{profile: github, secrets: ["{secret}"], topic: {topic}-ordered, ordering: strict}}
  parts:
    {{profile: github, secrets: ["{secret}"], topic: {topic}-parts, split: "json:items",
     filter: [{{drop: drafts, when: {{"json:draft": "true"}}}}]}}
  sealed: {{profile: github, secrets: ["{secret}"], topic: {topic}, redact: {{json: [card]}}}}
"""


@contextlib.contextmanager
def refusing(stack: Stack, folder: Path, database: str, topic: str, **environ: str) -> Iterator[Serve]:
    """A bridge whose secrets are wrong."""
    environ = {"DATABASE_URL": database, "KWB_STORE_SECRET_KEY": KEY, **environ}
    with serving(stack, folder, config=config(topic, secret=WRONG, password=WRONG), role="all", **environ) as server:
        eventually(lambda: server.health()[1]["parts"]["postgres"]["status"] == "ready", "PostgreSQL")
        yield server


class Shared(NamedTuple):
    """A bridge that refuses, for tests that have sources of their own in it."""

    stack: Stack
    server: Serve
    database: str
    topic: str
    kwb: Command


@pytest.fixture(scope="module")
def shared(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    topic = f"t-{secrets.token_hex(6)}"
    with (
        empty_database(stack.postgres) as database,
        refusing(stack, tmp_path_factory.mktemp("refusing"), database, topic) as server,
    ):
        yield Shared(stack, server, database, topic, Command(server, topic))
        assert balanced(server)
        assert server.stop() == 0
        assert "canary" not in server.log.read_text()


class Done(NamedTuple):
    returncode: int
    stdout: bytes
    stderr: bytes


class Command:
    """`kwb rejections` with a configuration that is right by now, in this process, and as a process of its own."""

    def __init__(self, server: Serve, topic: str, **environ: str) -> None:
        self.environ = {**server.environ, "COLUMNS": "200", "KWB_CONFIG": config(topic), **environ}
        self.environ.pop("KWB_HARNESS_FD")

    def __call__(self, *arguments: str, group: str = "rejections", **environ: str) -> Done:
        out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
        with (
            mock.patch.dict(os.environ, {**self.environ, **environ}, clear=True),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = main([group, *arguments])
        return Done(code, *(stream.buffer.getvalue() for stream in (out, err)))  # type: ignore[attr-defined]

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "kafka_webhook_bridge.cli", "rejections", *arguments],
            env=self.environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        )  # fmt: skip

    def told(self, *arguments: str, code: int = 0, **environ: str) -> Any:
        done = self(*arguments, "--json", **environ)
        assert done.returncode == code, done
        return json.loads(done.stdout)


def signed(path: str, body: bytes, *lines: str, secret: str = RIGHT) -> bytes:
    """As GitHub signs."""
    proof = hmac.digest(secret.encode(), body, "sha256").hex()
    return request(path, body, f"X-Hub-Signature-256: sha256={proof}", *lines, login="")


def striped(path: str, body: bytes, at: float, secret: str = RIGHT) -> bytes:
    """As Stripe signs."""
    proof = hmac.digest(secret.encode(), b"%d." % at + body, "sha256").hex()
    return request(path, body, f"Stripe-Signature: t={int(at)},v1={proof}", login="")


def basic(password: str, user: str = "partner") -> str:
    return "Authorization: Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def refused(server: Serve, data: bytes, status: int = 401) -> str:
    """The id that the refusal tells."""
    answer = server.ask(data)
    assert answer.status == status, answer
    event_id = answer.headers["kwb-event-id"]
    assert answer.json["event_id"] == event_id
    return event_id


def kept(database: str) -> dict[str, Any]:
    return {str(row["event_id"]): row for row in rows(database, "SELECT * FROM rejections ORDER BY event_id")}


def wait_kept(database: str, *event_ids: str) -> None:
    eventually(lambda: set(event_ids) <= kept(database).keys(), "kept")


def test_rule_30_a_release_delivers_what_was_refused(shared: Shared, folder: Path) -> None:
    body = b'{"repository": {"id": 7}, "text": "\xc3\xa9"}'
    stack, server, database, topic, kwb = shared
    event_id = refused(server, signed("/hub?a=%00", body, "X-GitHub-Event: push", "X-GitHub-Delivery: d-1"))
    wait_kept(database, event_id)
    (listed,) = kwb.told("list", "--source", "hub")["rejections"]
    assert (listed["event_id"], listed["source"], listed["code"]) == (event_id, "hub", "signature.mismatch")
    shown = kwb.told("show", event_id)
    assert (shown["body"], shown["path"], shown["query"]) == (body.decode(), "/hub", "a=%00")
    assert kwb("show", event_id, "--body").stdout == body
    raw = kwb("show", event_id, "--raw").stdout
    assert raw.startswith(b"POST /hub?a=%00 HTTP/1.1\r\nHost: x\r\n")
    assert raw.endswith(b"\r\n\r\n" + body)

    saved = folder / "saved.http"
    saved.write_bytes(raw)
    wrong = config(topic, secret=WRONG)
    assert kwb(str(saved), "--source", "hub", group="verify").returncode == 0
    assert kwb(str(saved), "--source", "hub", group="verify", KWB_CONFIG=wrong).returncode == 1
    still = kwb.told("release", event_id, code=1, KWB_CONFIG=wrong)
    assert [one["code"] for one in still["refused"]] == ["signature.mismatch"]
    assert kwb.told("release", event_id, "--dry-run")["released"] == [event_id]
    assert not rows(database, "SELECT 1 FROM events WHERE source = 'hub'")
    assert kwb.told("release", event_id)["released"] == [event_id]

    record = consume(stack.kafka, f"{topic}-hub", 1)[0]
    headers = dict(record.headers)
    assert (record.value, record.key) == (body, b"7")
    assert headers["ce_id"].decode() == event_id
    assert headers["ce_type"] == b"push"
    assert headers["kwb_verified"] == b"hmac-sha256"
    assert datetime.fromisoformat(headers["kwb_released_at"].decode())
    again = kwb.told("release", event_id)
    assert (again["released"], again["released_before"]) == ([], [event_id])
    assert kept(database)[event_id]["released_at"] is not None
    assert kwb.told("list", "--source", "hub", "--waiting")["rejections"] == []
    sql = "SELECT event_id, state, marks FROM events WHERE source = 'hub'"
    eventually(lambda: [row["state"] for row in rows(database, sql)] == ["stored"], "archived")
    (row,) = rows(database, sql)
    assert str(row["event_id"]) == event_id
    assert json.loads(row["marks"])[0][0] == "kwb_released_at"


def test_rule_29_a_released_batch_becomes_its_parts(shared: Shared) -> None:
    stack, server, database, topic, kwb = shared
    event_id = refused(server, signed("/parts", b'{"items": [{"id": 1}, {"id": 22}, 3]}'))
    wait_kept(database, event_id)
    draft = refused(server, signed("/parts", b'{"items": [1], "draft": true}'))
    wait_kept(database, draft)
    (left_out,) = kwb.told("release", draft, code=1)["refused"]
    assert (left_out["code"], "drafts" in left_out["detail"]) == ("rejections.filtered", True)
    processes = [kwb.start("release", event_id, "--json") for _ in range(2)]
    told = [json.loads(process.communicate()[0]) for process in processes]
    assert sorted(len(one["released"]) for one in told) == [0, 1]
    records = consume(stack.kafka, f"{topic}-parts", 3)
    found = {dict(record.headers)["kwb_part"]: record for record in records}
    assert {part: record.value for part, record in found.items()} == {
        b"1/3": b'{"id": 1}', b"2/3": b'{"id": 22}', b"3/3": b"3",
    }  # fmt: skip
    headers = [dict(found[part].headers) for part in (b"1/3", b"2/3", b"3/3")]
    assert headers[0]["ce_id"].decode() == event_id
    assert {one["kwb_parent_id"].decode() for one in headers[1:]} == {event_id}
    assert len({one["ce_id"] for one in headers}) == 3
    assert all(one["kwb_released_at"] for one in headers)
    sql = "SELECT state FROM events WHERE source = 'parts'"
    eventually(lambda: [row["state"] for row in rows(database, sql)] == ["stored"] * 3, "archived")


def test_rule_30_the_time_of_receipt_counts(shared: Shared) -> None:
    """Signed 50 minutes ago by every clock but the one of the bridge when it came."""
    _, server, database, _, kwb = shared
    came = time.time() - 3000
    server.set_time(came)
    right = refused(server, striped("/shop", b'{"id": "evt_1"}', came))
    old = refused(server, striped("/shop", b'{"id": "evt_2"}', came - 1000))
    server.set_time(0)
    wait_kept(database, right, old)
    done = kwb.told("release", right, old, code=1)
    assert done["released"] == [right]
    assert [(one["event_id"], one["code"]) for one in done["refused"]] == [(old, "timestamp.old")]


def test_rule_27_credentials_are_kept_as_a_hash_that_a_release_needs(shared: Shared) -> None:
    stack, server, database, topic, kwb = shared
    token = request("/lab", b'{"object_kind": "push"}', f"X-Gitlab-Token: {RIGHT}", login="")
    other = request("/lab", b"{}", "X-Gitlab-Token: canary-of-a-stranger", "Cookie: canary-cookie", login="")
    login = request("/erp", b"order", login=basic(RIGHT).replace("Basic", "basic "))
    ids = [refused(server, data) for data in (token, other, login)]
    wait_kept(database, *ids)
    text = repr(rows(database, "SELECT to_jsonb(r)::text FROM rejections AS r"))
    text += kwb("list").stdout.decode() + "".join(kwb("show", i, "--raw").stdout.decode() for i in ids)
    assert "canary" not in text
    assert base64.b64encode(f"partner:{RIGHT}".encode()).decode() not in text
    assert text.count("[redacted]") >= 4
    codes = {event_id: row["code"] for event_id, row in kept(database).items()}
    assert [codes[event_id] for event_id in ids] == ["credentials.wrong"] * 3

    without = kwb.told("release", *ids, "--dry-run", code=1, KWB_STORE_SECRET_KEY="")
    assert without["released"] == []
    assert all("KWB_STORE_SECRET_KEY" in one["detail"] for one in without["refused"])
    another = kwb.told("release", *ids, "--dry-run", code=1, KWB_STORE_SECRET_KEY=KEY[::-1])
    assert another["released"] == []
    done = kwb.told("release", *ids, code=1)
    assert done["released"] == [ids[0], ids[2]]
    assert [(one["event_id"], one["code"]) for one in done["refused"]] == [(ids[1], "credentials.wrong")]
    found = {dict(m.headers)["ce_id"].decode(): m for m in consume(stack.kafka, f"{topic}-lab", 2)}
    assert found[ids[2]].value == b"order"
    assert "canary" not in repr(found)
    assert dict(found[ids[0]].headers)["http_x-gitlab-token"] == b"[redacted]"
    assert "canary" not in server.log.read_text()


def test_two_releases_at_once_make_one_event(shared: Shared) -> None:
    stack, server, database, topic, kwb = shared
    ids = [refused(server, signed("/ordered", b"%d" % n)) for n in range(3)]
    wait_kept(database, *ids)
    processes = [kwb.start("release", "--source", "ordered", "--since", "1h", "--json") for _ in range(3)]
    done = [json.loads(process.communicate(timeout=120)[0]) for process in processes]
    released = [event_id for one in done for event_id in one["released"]]
    assert sorted(released) == sorted(ids)
    sentinel = refused(server, signed("/ordered", b"last"))
    wait_kept(database, sentinel)
    assert kwb.told("release", sentinel)["released"] == [sentinel]
    records = consume(stack.kafka, f"{topic}-ordered", 4)
    assert sorted(m.value for m in records) == [b"0", b"1", b"2", b"last"]


def test_rule_16_an_audit_knows_a_released_event(shared: Shared, folder: Path) -> None:
    _, server, database, _, kwb = shared
    ids = [refused(server, signed("/counted", b"%d" % n)) for n in range(2)]
    wait_kept(database, *ids)
    assert kwb.told("release", ids[0])["released"] == ids[:1]
    receipts = folder / "receipts.jsonl"
    with ReceiptsFile(receipts, run="r", source="counted", url="") as file:
        for n, event_id in enumerate(ids):
            file.invoke(n, f"r-{n}", sha256(b"%d" % n).hexdigest())
            file.ended(n, 401, {"code": "auth.signature", "event_id": event_id}, "")
    done = kwb("--receipts", str(receipts), "--source", "counted", "--wait", "--json", group="audit")
    found = json.loads(done.stdout)
    assert done.returncode == 0, found
    assert (found["rejected_but_stored"], found["spurious"], found["receipts"]["refused"]) == (0, 0, 2)
    assert found["fates"]["stored"] == 1


def test_a_release_that_was_overtaken_stores_nothing(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have read that it waits; by the time of the second one the relay has sent the event of the first."""
    _, server, database, _, kwb = shared
    event_id = uuid.UUID(refused(server, signed("/late", b"x")))
    wait_kept(database, str(event_id))

    async def release() -> Outcome:
        settings = load_settings(kwb.environ)
        keys = Keys(time.monotonic)
        async with Store(settings.store) as store:
            sources = load_sources(settings, kwb.environ, keys=keys)
            return await Releaser(settings, store, sources, keys).release(event_id, dry_run=False)

    async def read() -> Any:
        async with Store(load_settings(kwb.environ).store) as store:
            return await rejections.get(store, event_id)

    waiting = asyncio.run(read())
    assert asyncio.run(release()).code == "ok"
    sql = "SELECT 1 FROM outbox WHERE event_id = $1"
    eventually(lambda: not rows(database, sql, event_id), "relayed")

    async def stale(store: Store, _: uuid.UUID) -> Any:
        return waiting

    monkeypatch.setattr(rejections, "get", stale)
    assert asyncio.run(release()).code == "rejections.released"
    assert not rows(database, sql, event_id)


def test_rule_14_a_release_is_no_second_event_of_a_suppressed_delivery(
    stack: Stack, folder: Path, database: str, topic: str
) -> None:
    lines = ("X-GitHub-Delivery: d-1",)
    with refusing(stack, folder, database, topic) as server:
        first = refused(server, signed("/once", b"one", *lines))
        second = refused(server, signed("/once", b"two", "X-GitHub-Delivery: d-2"))
        wait_kept(database, first, second)
        kwb = Command(server, topic)
        assert server.stop() == 0
    environ = {"DATABASE_URL": database, "KWB_STORE_SECRET_KEY": KEY}
    with serving(stack, folder, config=config(topic), role="all", **environ) as server:
        eventually(lambda: server.health()[1]["parts"]["postgres"]["status"] == "ready", "PostgreSQL")
        assert server.ask(signed("/once", b"one", *lines)).status == 200
        done = kwb.told("release", first, second, code=1)
        assert done["released"] == [second]
        assert [one["code"] for one in done["refused"]] == ["deliver.under_way"]
        eventually(lambda: not rows(database, "SELECT 1 FROM outbox"), "relayed")
        answer = server.ask(signed("/once", b"two", "X-GitHub-Delivery: d-2"))
        assert (answer.json["duplicate"], answer.json["event_id"]) == (True, second)


def test_a_source_has_its_own_bounds(stack: Stack, folder: Path, database: str, topic: str) -> None:
    environ = {
        "KWB_REJECTIONS_ROWS_MAX": "40", "KWB_REJECTIONS_ROWS_PER_SECOND_MAX": "1000",
        "KWB_REJECTIONS_BYTES_MAX": "200KiB", "KWB_REJECTIONS_BYTES_PER_SECOND_MAX": "10485760",
    }  # fmt: skip
    with refusing(stack, folder, database, topic, **environ) as server:
        other = refused(server, signed("/hub", b"of another source"))
        with server.open() as client:
            for n in range(90):
                answer: Answer = client.send(striped("/shop", b"%d" % n, 1)).answer()
                assert answer.status == 401

        def settled() -> bool:
            return server.total("kwb_rejections_kept_total", source="shop") == 90

        eventually(settled, "all were written")
        last = refused(server, striped("/shop", b"last", 1))
        wait_kept(database, last)

        def shop() -> list[bytes]:
            sql = "SELECT body FROM rejections WHERE source = 'shop' ORDER BY event_id"
            return [row[0] for row in rows(database, sql)]

        eventually(lambda: len(shop()) <= 42, "the oldest went")  # bounds are looked at every twentieth part
        assert len(shop()) >= 40
        assert shop()[-2:] == [b"89", b"last"]
        assert other in kept(database)

        for n in range(8):
            large = refused(server, signed("/once", b"%d" % n * 60_000))
            wait_kept(database, large)
        sql = "SELECT sum(size_bytes) AS bytes, count(*) AS rows FROM rejections WHERE source = 'once'"
        eventually(lambda: rows(database, sql)[0]["bytes"] <= 200 * 1024, "the oldest went")
        assert rows(database, sql)[0]["rows"] == 3
        assert large in kept(database)


def test_what_comes_too_fast_is_counted_and_not_kept(stack: Stack, folder: Path, database: str, topic: str) -> None:
    with refusing(stack, folder, database, topic, KWB_REJECTIONS_ROWS_PER_SECOND_MAX="1") as server:
        ids: list[str] = []

        def dropped() -> float:
            ids.append(refused(server, signed("/hub", b"x")))
            return server.total("kwb_rejections_dropped_total", source="hub", reason="rate")

        eventually(dropped, "one was dropped")
        server.forward(10)
        last = refused(server, signed("/hub", b"last"))
        wait_kept(database, last)
        lost = server.total("kwb_rejections_dropped_total", source="hub", reason="rate")
        assert len(set(ids) - kept(database).keys()) == lost


def test_refusals_do_not_wait_for_postgresql(stack: Stack, folder: Path, database: str, topic: str) -> None:
    """While it keeps silent, the answers are the same; what the queue has no room for is counted."""
    with refusing(stack, folder, database, topic, KWB_REJECTIONS_QUEUE_ROWS_MAX="3") as server:
        before = refused(server, signed("/hub", b"before"))
        wait_kept(database, before)
        backends = [
            row[0]
            for row in rows(
                database,
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'kwb'",
            )
        ]
        with frozen(*backends):
            while not server.total("kwb_rejections_dropped_total", source="hub", reason="full"):
                refused(server, signed("/hub", b"meanwhile"))
        sentinel: list[str] = []

        def again() -> bool:
            sentinel.append(refused(server, signed("/hub", b"after")))
            return sentinel[0] in kept(database) or sentinel[-1] in kept(database)

        eventually(again, "kept again")
        assert balanced(server)


def test_who_is_not_kept(shared: Shared) -> None:
    """Sources that do not exist, methods that a source does not take, large bodies behind a wrong login, back-off, and
    sources whose events are redacted before they are stored."""
    server, database = shared.server, shared.database
    answer = server.ask(signed("/sealed", b'{"card": "canary-card"}'))
    assert (answer.status, "kwb-event-id" in answer.headers) == (401, False)
    assert server.ask(request("/stranger", b"x")).status == 404
    assert server.ask(request("/bell", b"x", method="GET", login="")).status == 405
    assert server.ask(request("/own", b"x" * 70_000, login=basic("no"))).status == 401
    assert server.ask(request("/own", b"", "Transfer-Encoding: chunked", login=basic("no"))).status == 400
    chunked = b"POST /own HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"
    assert server.ask(chunked).status == 401
    with server.open() as client:
        while (answer := client.send(request("/own", b"x", login=basic("no"))).answer()).status == 401:
            last = answer.headers["kwb-event-id"]
    assert answer.status == 429
    assert "kwb-event-id" not in answer.headers
    wait_kept(database, last)
    found = [row for row in kept(database).values() if row["source"] in ("own", "bell", "sealed")]
    assert {(row["source"], row["code"], bytes(row["body"])) for row in found} == {("own", "credentials.wrong", b"x")}
    assert server.total("kwb_in_flight_bytes") == 0
    server.forward(61)  # no failed login counts any more


def test_nothing_is_kept_where_none_is_wanted(stack: Stack, folder: Path, database: str, topic: str) -> None:
    with refusing(stack, folder, database, topic, KWB_REJECTIONS_ROWS_MAX="0") as server:
        answers = [server.ask(data) for data in (signed("/hub", b"x"), request("/erp", b"x", login=basic("no")))]
        assert [answer.status for answer in answers] == [401, 401]
        assert all("kwb-event-id" not in answer.headers for answer in answers)
        assert server.stop() == 0  # whatever waited is written by now
        assert kept(database) == {}


def test_the_command(shared: Shared) -> None:
    _, server, database, topic, kwb = shared
    assert kwb.told("list", "--source", "desk") == {"rejections": [], "next_after": None}
    desk = [refused(server, signed("/desk", b"%d" % n)) for n in range(3)]
    lab = refused(server, request("/bell", b"{}", login=""))
    wait_kept(database, *desk, lab)
    first = kwb.told("list", "--source", "desk", "--limit", "2")
    assert [one["event_id"] for one in first["rejections"]] == desk[:0:-1]
    rest = kwb.told("list", "--source", "desk", "--after", first["next_after"])
    assert [one["event_id"] for one in rest["rejections"]] == desk[:1]
    (other,) = kwb.told("list", "--code", "header.missing", "--source", "bell")["rejections"]
    assert other["event_id"] == lab
    people = kwb("list").stdout.decode()
    assert people.split("\n")[0].split()[:2] == ["id", "received"]
    assert lab in people
    assert "header.missing" in kwb("show", lab).stdout.decode()
    unknown = desk[0][:-1] + ("0" if desk[0][-1] != "0" else "1")
    assert kwb("show", unknown).returncode == 1
    assert [one["code"] for one in kwb.told("release", unknown, code=1)["refused"]] == ["rejections.unknown"]
    assert kwb.told("release", "--source", "none", "--since", "1h", code=1)["refused"] == []
    for wrong in ((), ("--source", "desk"), (desk[0], "--source", "desk"), ("not-an-id",)):
        assert kwb("release", *wrong).returncode == 2, wrong
    assert kwb("show", lab, "--raw", "--json").returncode == 2
    gone = f"sources: {{s: {{auth: none, topic: {topic}}}}}"
    (told,) = kwb.told("release", lab, code=1, KWB_CONFIG=gone)["refused"]
    assert (told["code"], told["source"]) == ("sources.unknown", "bell")
    assert lab in [one["event_id"] for one in kwb.told()["rejections"]]
    done = kwb.told("release", "--source", "desk", "--since", "1h", "--code", "signature.mismatch")
    assert done["released"] == desk
    text = kwb("release", lab).stdout.decode()
    assert "header.missing" in text
    assert "1 still refused" in text
