"""The first show: `kwb up`, real payloads by curl, read by Kafka's own consumer and by kcat, found in PostgreSQL.

The same again after a second start, which keeps data and credentials.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from running_up import CLEAN, KWB, RunningUp, up

from kafka_webhook_bridge.stack.kafka import tool

PAYLOADS = Path(__file__).parents[1] / "data" / "payloads"
ALWAYS = {"ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "kwb_source", "kwb_method", "kwb_path",
          "kwb_verified", "kwb_covers_body"}  # fmt: skip


@dataclass
class Sent:
    """One payload, its receipt, and what a record of it must carry."""

    source: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    receipt: dict[str, Any]


def curl(running: RunningUp, path: str, file: Path, headers: dict[str, str], password: str) -> tuple[int, bytes]:
    """Status and body, as the printed line sends it."""
    if shutil.which("curl") is None:
        pytest.skip("NOT RUN: curl is not installed")
    user = running.ready["webhook"]["username"]
    lines = [part for name, value in headers.items() for part in ("-H", f"{name}: {value}")]
    done = subprocess.run(
        ["curl", "-sS", "--noproxy", "*", "-u", f"{user}:{password}", *lines, "--data-binary", f"@{file}",
         "-w", "\n%{http_code}", running.ready["url"] + path],
        capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    body, _, status = done.stdout.rpartition(b"\n")
    return int(status), body


@dataclass
class Show:
    running: RunningUp
    sent: list[Sent]

    def of_source(self, source: str) -> dict[str, Sent]:
        return {one.receipt["event_id"]: one for one in self.sent if one.source == source}

    @property
    def sources(self) -> set[str]:
        return {one.source for one in self.sent}


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="kwb-show-") as name:
        Path(name).chmod(0o711)
        yield Path(name) / "kwb"


@pytest.fixture(scope="module", params=["first start", "second start"])
def show(request: pytest.FixtureRequest, home: Path, memory: dict[str, Any]) -> Iterator[Show]:
    with up(home) as running:
        if request.param == "first start":
            memory["sent"] = [send(running, row) for row in json.loads((PAYLOADS / "index.json").read_text())]
            memory["logins"] = (running.ready["webhook"], running.ready["consumer"]["password"])
        yield Show(running, memory["sent"])


@pytest.fixture(scope="module")
def memory() -> dict[str, Any]:
    """What the first start has seen, for the second."""
    return {}


def send(running: RunningUp, row: dict[str, Any]) -> Sent:
    file = PAYLOADS / row["file"]
    password = running.ready["webhook"]["password"]
    status, answer = curl(running, f"/{row['source']}{row['path']}", file, row["headers"], password)
    assert status == 200, answer
    path, _, query = row["path"].partition("?")
    return Sent(row["source"], f"/{row['source']}{path}", query, row["headers"], file.read_bytes(), json.loads(answer))


def check_headers(one: Sent, headers: dict[str, str]) -> None:
    """product.md, section 2."""
    assert headers.keys() >= ALWAYS
    assert headers["ce_specversion"] == "1.0"
    assert headers["ce_id"] == one.receipt["event_id"]
    assert uuid.UUID(headers["ce_id"]).version == 7
    assert headers["ce_source"] == f"/sources/{one.source}"
    assert headers["ce_type"] == f"webhook.{one.source}"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", headers["ce_time"])
    assert headers["content-type"] == one.headers["Content-Type"]
    assert (headers["kwb_source"], headers["kwb_method"]) == (one.source, "POST")
    assert headers["kwb_path"] == one.path
    assert headers.get("kwb_query", "") == one.query
    assert (headers["kwb_verified"], headers["kwb_covers_body"]) == ("basic", "false")
    for name, value in one.headers.items():
        if name != "Content-Type":
            assert headers[f"http_{name.lower()}"] == value
    assert "http_authorization" not in headers


def test_every_payload_has_its_receipt_and_the_second_start_the_same_credentials(show: Show, memory: Any) -> None:
    assert len(show.sent) == len({one.receipt["event_id"] for one in show.sent}) == 11
    for one in show.sent:
        assert (one.receipt["source"], one.receipt["topic"]) == (one.source, one.source)
        assert one.receipt["stored"] in {"kafka", "outbox"}  # a new topic on a slow machine: PostgreSQL was first
        assert one.receipt["duplicate"] is False
    assert (show.running.ready["webhook"], show.running.ready["consumer"]["password"]) == memory["logins"]


def test_a_wrong_password_is_401(show: Show) -> None:
    status, body = curl(show.running, "/github/any?x=1", PAYLOADS / "github-push.json", {}, "wrong")
    assert status == 401
    assert json.loads(body)["status"] == 401


def test_the_stock_java_consumer_reads_the_exact_bytes_and_the_headers(show: Show) -> None:
    """With the file that the printed line names. One JVM for all: `--include` takes a pattern."""
    done = subprocess.run(
        tool(
            "org.apache.kafka.tools.consumer.ConsoleConsumer",
            "--bootstrap-server", show.running.ready["consumer"]["bootstrap_servers"],
            "--include", "|".join(sorted(show.sources)), "--from-beginning",
            "--max-messages", str(len(show.sent)), "--timeout-ms", "60000",
            "--command-config", str(show.running.folder / "consumer.properties"),
            "--formatter-property", "print.headers=true",
            "--formatter-property", "headers.separator=\x1e",
            "--formatter-property", "key.separator=\x1d",
            "--formatter-property", "line.separator=\x1cEND\x1c\n",
        ),
        capture_output=True, timeout=120, check=True,
    )  # fmt: skip
    records = done.stdout.split(b"\x1cEND\x1c\n")
    assert records.pop() == b""
    found = {}
    for record in records:
        # A body may hold any byte, so it is what follows the first separator.
        head, _, body = record.partition(b"\x1d")
        headers = dict(line.decode().split(":", 1) for line in head.split(b"\x1e"))
        found[headers["ce_id"]] = (headers, body)
    assert len(found) == len(show.sent)
    for one in show.sent:
        headers, body = found[one.receipt["event_id"]]
        assert body == one.body
        check_headers(one, headers)


def kcat() -> str:
    found = shutil.which("kcat")
    if found is None:
        pytest.skip("NOT RUN: kcat is not installed (Debian and Ubuntu: apt-get install kcat)")
    return found


def test_kcat_reads_the_exact_bytes_and_the_headers(show: Show) -> None:
    program = kcat()
    for source in show.sources:
        sent = show.of_source(source)
        # %S is the value's length, so that no byte of a body can be taken for an end.
        done = subprocess.run(
            [program, "-q", "-F", str(show.running.folder / "kcat.conf"), "-C", "-t", source, "-o", "beginning", "-e",
             "-f", r"%h\x1d%S\x1d%s"],
            capture_output=True, timeout=60, check=True, env=CLEAN,
        )  # fmt: skip
        rest, found = done.stdout, {}
        while rest:
            head, size, rest = rest.split(b"\x1d", 2)
            body, rest = rest[: max(0, int(size))], rest[max(0, int(size)) :]
            headers = dict(re.findall(r"(?:^|,)((?:ce|kwb|http)_[a-z0-9_-]+|content-type)=(.*?)(?=,(?:ce|kwb|http)_"
                                      r"[a-z0-9_-]+=|,content-type=|$)", head.decode(), re.DOTALL))  # fmt: skip
            found[headers["ce_id"]] = (headers, body)
        assert found.keys() == sent.keys()
        for event_id, (headers, body) in found.items():
            assert body == sent[event_id].body
            check_headers(sent[event_id], headers)


async def rows(url: str, event_ids: list[str], wait_s: float = 60) -> dict[str, asyncpg.Record]:
    """The rows of these events, as soon as all are there with their Kafka position."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_s
    connection = await asyncpg.connect(url)
    try:
        while True:
            found = await connection.fetch(
                "SELECT * FROM events WHERE event_id = ANY($1) AND state = 'stored'", list(map(uuid.UUID, event_ids))
            )
            if len(found) == len(event_ids):
                return {str(row["event_id"]): row for row in found}
            assert loop.time() < deadline, f"{len(found)} of {len(event_ids)} rows"
            await asyncio.sleep(0.05)
    finally:
        await connection.close()


# ── needs the archive ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_postgresql_has_the_row_of_every_event(show: Show) -> None:
    found = asyncio.run(rows(show.running.env()["DATABASE_URL"], [one.receipt["event_id"] for one in show.sent]))
    for one in show.sent:
        row = found[one.receipt["event_id"]]
        assert row["body"] == one.body
        assert (row["source"], row["method"], row["path"], row["topic"]) == (one.source, "POST", one.path, one.source)
        assert (row["query"] or "") == one.query
        assert row["offset"] is not None
        names = {name.lower(): value for name, value in json.loads(row["headers"])}
        for name, value in one.headers.items():
            assert names[name.lower()] == value


def test_psql_finds_the_row(show: Show) -> None:
    psql = shutil.which("psql")
    if psql is None:
        pytest.skip("NOT RUN: psql is not installed (Debian and Ubuntu: apt-get install postgresql-client)")
    url, one = show.running.env()["DATABASE_URL"], show.sent[0]
    asyncio.run(rows(url, [one.receipt["event_id"]]))
    done = subprocess.run(
        [psql, "--no-psqlrc", "-At", "-c",
         f"SELECT encode(body, 'base64') FROM events WHERE event_id = '{one.receipt['event_id']}'", url],
        capture_output=True, check=True, timeout=60, env=CLEAN,
    )  # fmt: skip
    assert base64.b64decode(done.stdout) == one.body


def test_kwb_events_show_finds_the_event(show: Show) -> None:
    env, one = show.running.env(), show.sent[0]
    asyncio.run(rows(env["DATABASE_URL"], [one.receipt["event_id"]]))
    done = subprocess.run(
        [*KWB, "events", "show", one.receipt["event_id"], "--json"],
        env={**CLEAN, **env}, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert one.receipt["event_id"] in done.stdout
