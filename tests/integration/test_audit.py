"""`kwb audit` beside a running bridge: what is well is called so, and every sabotage is found (rules.md 16, 17)."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import asyncpg
import confluent_kafka as ck
import pytest
from confluent_kafka.admin import AdminClient

from bridge import Message, consume, patient_bridge
from databases import empty_database
from kafka_webhook_bridge.cli import beat, main
from kafka_webhook_bridge.ids import TIME_MS_MAX, moment, part
from kafka_webhook_bridge.kafka.config import client_config
from kafka_webhook_bridge.receipts import ReceiptsFile
from kafka_webhook_bridge.stack import Bridge, Stack

pytestmark = pytest.mark.integration

WAIT_S = 60.0
SOURCES = (
    "labels", "sound", "rows", "foreign", "bodies", "dropped", "forged", "refused", "cut", "killed", "copies", "outbox",
    "wrapped", "counted", "gone", "process", "busy", "watched", "altered", "filtered",
    "split", "parts",
)  # fmt: skip
RUN = secrets.token_hex(4)
WORDS = {
    "wrapped": ", format: envelope",
    "altered": ", format: envelope, redact: {json: [secret]}",
    "filtered": ", filter: [{drop: all}]",
    "split": ", split: json, redact: {json: ['*.secret']}",
    "parts": ", split: json",
}
YAML = "sources:\n" + "".join(f"  {name}: {{topic: {name}-{RUN}{WORDS.get(name, '')}}}\n" for name in SOURCES)


def topic_of(source: str) -> str:
    return f"{source}-{RUN}"


@pytest.fixture(scope="module")
def bridge(stack: Stack) -> Iterator[Bridge]:
    with empty_database(stack.postgres) as url, tempfile.TemporaryDirectory(prefix="kwb-test-") as name:
        login = {"WEBHOOK_USERNAME": "hooks", "WEBHOOK_PASSWORD": "canary-audit"}
        with patient_bridge(stack, Path(name), url, KWB_CONFIG=YAML, **login) as bridge:
            yield bridge


class Done(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


class Site:
    """The bridge, its servers, and what a test does to them."""

    def __init__(self, bridge: Bridge, stack: Stack, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.bridge, self.stack, self.folder = bridge, stack, folder
        self.producer = ck.Producer(client_config(stack.kafka.settings))
        self._capsys = capsys

    def kwb(self, *arguments: str, **environ: str) -> Done:
        """The command in this process, which saves a second each."""
        with mock.patch.dict(os.environ, {"COLUMNS": "200", **self.bridge.environ, **environ}, clear=True):
            self._capsys.readouterr()
            code = main(arguments)
        return Done(code, *self._capsys.readouterr())

    def send(self, source: str, count: int = 20, *options: str, code: int = 0, **environ: str) -> Path:
        """So many webhooks; their receipts."""
        file = self.folder / f"{source}-{secrets.token_hex(4)}.jsonl"
        done = self.kwb(
            "send", source, "--count", str(count), "--connections", "8", "--timeout", "60s", "--receipts", str(file),
            *options, **environ,
        )  # fmt: skip
        assert done.returncode == code, done.stderr + done.stdout
        return file

    def audit(self, *files: Path, code: int, options: tuple[str, ...] = ("--wait",), **environ: str) -> dict[str, Any]:
        """What `kwb audit --json` says."""
        receipts = [word for file in files for word in ("--receipts", str(file))]
        done = self.kwb("audit", *receipts, *options, "--json", **environ)
        assert done.returncode == code, done.stderr + done.stdout
        found: dict[str, Any] = json.loads(done.stdout if code != 2 else done.stderr)
        if code != 2:
            assert found["sound"] is (code == 0)
            found["fates"] = {fate: count for fate, count in found["fates"].items() if count}
            found["problems"] = {
                name: found[name]
                for name in ("missing", "corrupt", "rejected_but_stored", "spurious", "duplicated")
                if found[name]
            }
        return found

    def sql(self, text: str, *arguments: Any) -> list[Any]:
        async def fetch() -> list[Any]:
            connection = await asyncpg.connect(self.bridge.environ["DATABASE_URL"])
            try:
                return await connection.fetch(text, *arguments)
            finally:
                await connection.close()

        return asyncio.run(fetch())

    def until(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def produce(self, source: str, message: Message, **headers: str) -> None:
        """A record with the headers of another one, some of them changed or added."""
        changed = [(name, value) for name, value in message.headers if name not in headers]
        changed += [(name, value.encode()) for name, value in headers.items()]
        self.producer.produce(topic_of(source), message.value, message.key, message.partition, headers=changed)
        assert self.producer.flush(WAIT_S) == 0

    def drop_records(self, source: str) -> None:
        """Kafka forgets everything that the topic has now."""
        admin = AdminClient(client_config(self.stack.kafka.settings))
        places = [ck.TopicPartition(topic_of(source), partition, ck.OFFSET_END) for partition in range(6)]
        for future in admin.delete_records(places).values():
            future.result(WAIT_S)


@pytest.fixture
def site(bridge: Bridge, stack: Stack, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Site:
    return Site(bridge, stack, tmp_path, capsys)


def told(file: Path, op: str = "ok") -> list[dict[str, Any]]:
    return [line for line in map(json.loads, file.read_text().splitlines()) if line["op"] == op]


def id_near(event_id: str) -> str:
    """Another id of the same millisecond."""
    return str(uuid.UUID(int=uuid.UUID(event_id).int & ~(2**62 - 1) | secrets.randbits(62)))


# ---- all is well -----------------------------------------------------------------------------------------------------


def test_rule_16_what_was_acknowledged_is_found(site: Site) -> None:
    first, second = site.send("sound", 300), site.send("sound", 5)
    found = site.audit(first, second, code=0)
    assert found["receipts"] | {"incomplete_files": None} == {
        "acknowledged": 305, "suppressed": 0, "refused": 0, "unknown_present": 0, "unknown_absent": 0,
        "incomplete_files": None,
    }  # fmt: skip
    assert (found["fates"], found["problems"], found["examples"]) == ({"stored": 305}, {}, {})
    assert (found["events"], found["records"], found["rows"], found["lag_records"]) == (305, 305, 305, 0)
    assert (found["sources"], found["topics"]) == (["sound"], [topic_of("sound")])
    shown = site.kwb("audit", "--receipts", str(first), "--wait")
    assert shown.returncode == 0
    assert "Nothing is lost: 300 events in 300 records" in shown.stdout
    assert re.search(r"^ acknowledged +300 +answered 2xx *$", shown.stdout, re.MULTILINE)
    # One file does not know of the other's events, which were sent at another time.
    assert site.audit(second, code=0)["events"] == 5
    # Kafka alone, and no receipts at all.
    alone = site.audit(first, code=0, options=(), DATABASE_URL="")
    assert (alone["fates"], alone["rows"]) == ({"stored": 300}, 0)
    assert "Kafka alone" in alone["notes"][0]
    both = site.audit(code=0, options=("--source", "sound", "--since", "1h"))
    assert (both["fates"], both["receipts"]) == ({"stored": 305}, None)
    assert site.audit(code=0, options=("--source", "sound", "--until", "1h"))["events"] == 0


def test_bodies_in_a_structured_format_are_compared_as_they_were_sent(site: Site) -> None:
    (body := site.folder / "body.bin").write_bytes(bytes(range(256)))
    found = site.audit(site.send("wrapped", 5, "--body", str(body)), site.send("wrapped", 5), code=0)
    assert found["fates"] == {"stored": 10}


def test_rule_29_altered_events_are_compared_with_what_was_sent_and_with_each_other(site: Site) -> None:
    (body := site.folder / "body.json").write_bytes(b'{"secret": "canary", "n": 1}')
    file = site.send("altered", 10, "--body", str(body))
    found = site.audit(file, code=0)
    assert (found["fates"], found["problems"]) == ({"stored": 10}, {})
    # Another body in the archive than in Kafka.
    victim, other = (uuid.UUID(line["event_id"]) for line in told(file)[3:5])
    changed = b'{"secret": "[redacted]", "n": 2}'
    site.sql("UPDATE events SET body = $2 WHERE event_id = $1", victim, changed)
    assert site.audit(file, code=1)["examples"]["corrupt"] == [str(victim)]
    # And the sign that it was altered is gone: then the body is not what was sent.
    site.sql("UPDATE events SET body = $2, marks = NULL WHERE event_id = $1", other, body.read_bytes())
    assert sorted(site.audit(file, code=1)["examples"]["corrupt"]) == sorted([str(victim), str(other)])


def test_rule_29_every_part_of_an_acknowledged_request_must_be_there(site: Site) -> None:
    (body := site.folder / "body.json").write_bytes(b'[{"secret": "canary"}, {"n": 1}, 3]')
    file = site.send("split", 10, "--body", str(body))
    found = site.audit(file, code=0)
    assert (found["receipts"]["acknowledged"], found["events"], found["records"]) == (10, 30, 30)
    assert (found["fates"], found["problems"]) == ({"stored": 30}, {})
    # A part is lost, from both places or from one; no answer has named it.
    parent = uuid.UUID(told(file)[3]["event_id"])
    text = file.read_text()
    assert text.count(f'"{parent}","stored":"kafka","duplicate":false,"parts":3') == 1
    (more := site.folder / "more.jsonl").write_text(
        text.replace(f'"{parent}","stored":"kafka","duplicate":false,"parts":3',
                     f'"{parent}","stored":"kafka","duplicate":false,"parts":4')
    )  # fmt: skip
    found = site.audit(more, code=1)
    assert (found["fates"], found["examples"]["lost"]) == ({"stored": 30, "lost": 1}, [str(part(parent, 4))])
    victim = part(parent, 3)
    site.sql("DELETE FROM events WHERE event_id = $1", victim)
    found = site.audit(file, code=1)
    assert found["fates"] == {"stored": 29, "missing_in_archive": 1}
    assert found["examples"]["missing_in_archive"] == [str(victim)]


def test_rule_16_parts_of_requests_of_unknown_outcome_are_not_spurious(site: Site) -> None:
    (body := site.folder / "body.json").write_bytes(b"[1, 2, 3]")
    file = site.send("parts", 4, "--body", str(body))
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    answers = [line for line in lines if line["op"] == "ok"]
    # One answer was a 503 with an id, one never came; one was refused.
    answers[0].update(op="info", status=503)
    del answers[1]["event_id"], answers[1]["parts"], answers[1]["status"]
    answers[1].update(op="info", reason="timeout")
    answers[2].update(op="fail", status=401)
    lines[-1].update(ok=1, fail=1, info=2)
    (changed := site.folder / "changed.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = site.audit(changed, code=1)
    assert found["problems"] == {"rejected_but_stored": 3}
    assert found["receipts"]["unknown_present"] == 4  # three of the 503, and the one of which no answer told


def test_rule_17_what_a_filter_left_out_is_neither_lost_nor_stored(site: Site) -> None:
    file = site.send("filtered", 5)
    found = site.audit(file, code=0)
    assert (found["receipts"]["acknowledged"], found["receipts"]["refused"], found["events"]) == (0, 5, 0)
    assert all(line["dropped"] is True and "event_id" not in line for line in told(file))


def test_rule_17_requests_events_and_receipts_add_up(site: Site) -> None:
    file = site.send("counted", 40)
    site.send("counted", 7, code=1, WEBHOOK_PASSWORD="wrong")

    def total(name: str, text: str) -> float:
        return sum(float(x) for x in re.findall(rf'(?m)^{name}{{[^}}]*source="counted"[^}}]*}} (\S+)$', text))

    with urllib.request.urlopen(f"{site.bridge.management_url}/metrics", timeout=WAIT_S) as answer:
        text = answer.read().decode()
    ends = ("acked", "suppressed", "filtered", "handshakes", "rejected", "refused")
    by_end = {name: total(f"kwb_requests_{name}_total", text) for name in ends}
    assert by_end == dict.fromkeys(ends, 0) | {"acked": 40, "rejected": 7}
    assert total("kwb_requests_received_total", text) == sum(by_end.values())
    found = site.audit(file, code=0)
    assert found["receipts"]["acknowledged"] == by_end["acked"]
    assert found["events"] == total("kwb_events_total", text)


def test_it_is_right_while_webhooks_come_in(site: Site) -> None:
    """What comes after the end of the log was taken has its row, too."""
    command = ["send", "busy", "--rate", "300", "--duration", "1h", "--timeout", "60s", "--json"]
    process = subprocess.Popen([sys.executable, "-m", "kafka_webhook_bridge.cli", *command], env=site.bridge.environ)
    try:
        options = ("--source", "busy", "--since", "1h", "--until", "2099-01-01")
        site.until(lambda: site.sql("SELECT count(*) FROM events WHERE source = 'busy'")[0][0] > 100)
        events = [site.audit(code=0, options=options)["events"] for _ in range(3)]
        assert 100 < events[0] < events[1] < events[2]
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 0


# ---- sabotage --------------------------------------------------------------------------------------------------------


def test_a_deleted_row_is_missing(site: Site) -> None:
    file = site.send("rows")
    assert site.audit(file, code=0)["fates"] == {"stored": 20}
    victim = told(file)[3]["event_id"]
    site.sql("DELETE FROM events WHERE event_id = $1", uuid.UUID(victim))
    found = site.audit(file, code=1)
    assert found["fates"] == {"stored": 19, "missing_in_archive": 1}
    assert found["examples"] == {"missing_in_archive": [victim]}
    assert site.audit(code=1, options=("--source", "rows"))["fates"] == found["fates"]
    shown = site.kwb("audit", "--receipts", str(file))
    assert shown.returncode == 1
    assert f"missing_in_archive: {victim}" in shown.stdout
    assert "Not all is well" in shown.stdout


def test_rule_16_a_foreign_record_with_the_headers_of_the_bridge_is_spurious(site: Site) -> None:
    file = site.send("foreign")
    record = consume(site.stack.kafka, topic_of("foreign"), 20)[0]
    stranger = id_near(dict(record.headers)["ce_id"].decode())
    site.produce("foreign", record, ce_id=stranger)
    found = site.audit(file, code=0)
    assert found["problems"] == {"spurious": 1}
    assert found["examples"]["spurious"] == [stranger]
    # What was produced without the bridge's headers is nobody's event.
    site.producer.produce(topic_of("foreign"), b"x")
    site.producer.flush(WAIT_S)
    assert site.audit(file, code=0)["problems"] == {"spurious": 1}
    # An incomplete file knows no strangers; neither does one of another source.
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:-1]))
    assert site.audit(file, code=0)["problems"] == {}


def test_a_changed_body_is_corrupt(site: Site) -> None:
    file = site.send("bodies")
    assert site.audit(file, code=0)["corrupt"] == 0
    victim = told(file)[0]["event_id"]
    site.sql("UPDATE events SET body = body || '\\x20' WHERE event_id = $1", uuid.UUID(victim))
    found = site.audit(file, code=1)
    assert (found["problems"], found["corrupt_in_archive"]) == ({"corrupt": 1}, 1)
    assert found["examples"] == {"corrupt": [victim]}
    assert site.audit(code=1, options=("--source", "bodies"))["problems"] == {"corrupt": 1}


@pytest.mark.parametrize("source", ["labels", "wrapped"])
def test_another_key_or_header_is_corrupt(site: Site, source: str) -> None:
    """A stock producer writes records with the ids of events, and without receipts nobody tells which is right."""
    file = site.send(source, 5)
    assert site.audit(file, code=0)["corrupt"] == 0
    same, added, changed, keyed, replayed = sorted(line["event_id"] for line in told(file))
    count = len(site.sql("SELECT 1 FROM events WHERE source = $1", source))
    records = consume(site.stack.kafka, topic_of(source), count)
    by_id = {dict(message.headers)["ce_id"].decode(): message for message in records}
    site.produce(source, by_id[same])
    assert site.audit(file, code=0)["problems"] == {"duplicated": 1}
    site.produce(source, by_id[added], **{"x-more": "1"})
    site.produce(source, by_id[changed], kwb_method="PUT")
    site.produce(source, by_id[keyed]._replace(key=b"another"))
    site.produce(source, by_id[replayed], kwb_replay_id=str(uuid.uuid4()), http_host="elsewhere")
    found = site.audit(file, code=1)
    assert found["problems"] == {"corrupt": 4, "duplicated": 4}
    assert (found["corrupt_key_or_headers"], found["corrupt_in_kafka"], found["corrupt_in_archive"]) == (4, 4, 0)
    assert sorted(found["examples"]["corrupt"]) == [added, changed, keyed, replayed]
    first, second = found["places"][same]
    assert first["topic"] == second["topic"] == topic_of(source)
    assert (first["partition"], first["offset"]) < (second["partition"], second["offset"])
    assert [len(found["places"][event_id]) for event_id in (added, changed, keyed, replayed)] == [2, 2, 2, 1]
    shown = site.kwb("audit", "--receipts", str(file)).stdout
    assert f"{first['topic']}/{first['partition']}@{first['offset']}, {second['topic']}/" in shown
    # And where the row is the one that was changed.
    victim = told(site.send(source, 1))[0]["event_id"]
    site.audit(code=1, options=("--source", source, "--wait"))
    site.sql('UPDATE events SET headers = headers || \'[["x-more", "1"]]\' WHERE event_id = $1', uuid.UUID(victim))
    found = site.audit(code=1, options=("--source", source))
    assert found["corrupt_in_archive"] == 1
    assert victim in found["examples"]["corrupt"]


def test_rule_16_before_the_start_of_the_log_the_archive_alone_decides(site: Site) -> None:
    file = site.send("dropped")
    assert site.audit(file, code=0)["fates"] == {"stored": 20}
    site.drop_records("dropped")
    assert site.audit(file, code=0)["fates"] == {"before_log_start": 20}
    victim = told(file)[19]["event_id"]
    site.sql("DELETE FROM events WHERE event_id = $1", uuid.UUID(victim))
    found = site.audit(file, code=1)
    assert (found["lost"], found["fates"]) == (1, {"before_log_start": 19, "lost": 1})
    assert found["examples"]["lost"] == [victim]
    assert f"lost: {victim}" in site.kwb("audit", "--receipts", str(file)).stdout
    later = site.send("dropped", 5)
    assert site.audit(file, later, code=1)["fates"] == {"before_log_start": 19, "stored": 5, "lost": 1}


def test_a_row_without_its_record_is_missing_in_kafka(site: Site) -> None:
    """As after a power cut of a broker that did not flush: the archive was faster than the disk."""
    file = site.send("forged")
    site.audit(file, code=0)
    columns = ", ".join(
        f'"{row[0]}"'
        for row in site.sql("SELECT attname FROM pg_attribute WHERE attrelid = 'events'::regclass AND attnum > 0")
    )
    forged = uuid.UUID(id_near(told(file)[2]["event_id"]))
    site.sql(
        f"INSERT INTO events ({columns}) SELECT {columns.replace(chr(34) + 'event_id' + chr(34), '$1::uuid')} "
        "FROM events WHERE event_id = $2",
        forged, uuid.UUID(told(file)[2]["event_id"]),
    )  # fmt: skip
    found = site.audit(code=1, options=("--source", "forged", "--since", "1h"))
    assert found["fates"] == {"stored": 20, "missing_in_kafka": 1}
    assert found["examples"] == {"missing_in_kafka": [str(forged)]}
    assert site.audit(file, code=1)["problems"] == {"missing": 1, "spurious": 1}


def test_rule_16_what_was_refused_and_is_there_all_the_same_is_found(site: Site) -> None:
    (body := site.folder / "body.json").write_text(json.dumps({"secret": secrets.token_hex(8)}))
    refused = site.send("refused", 3, "--body", str(body), code=1, WEBHOOK_PASSWORD="wrong")
    good = site.send("refused", 1, "--body", str(body))
    found = site.audit(refused, code=0)
    assert (found["receipts"]["refused"], found["events"]) == (3, 0)
    (record,) = consume(site.stack.kafka, topic_of("refused"), 1)
    at_ms = int(told(refused, "end")[0]["t"] * 1000)
    inside = id_near(str(uuid.UUID(int=at_ms << 80 | 7 << 76 | 2 << 62)))
    at = moment(at_ms).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    site.produce("refused", record, ce_id=inside, ce_time=at)
    found = site.audit(refused, code=1)
    assert found["problems"] == {"rejected_but_stored": 1}
    assert found["examples"]["rejected_but_stored"] == [inside]
    assert site.audit(good, code=0)["fates"] == {"stored": 1}
    released = id_near(inside)
    site.produce("refused", record, ce_id=released, ce_time=at, kwb_released_at="2026-01-31T23:59:59.123Z")
    assert site.audit(refused, code=1)["problems"] == {"rejected_but_stored": 1}


def test_rule_16_copies_are_counted_and_replays_are_none(site: Site) -> None:
    file = site.send("copies", 5)
    records = consume(site.stack.kafka, topic_of("copies"), 5)
    site.produce("copies", records[0])
    site.produce("copies", records[1])
    site.produce("copies", records[1])
    site.produce("copies", records[2], kwb_replay_id=str(uuid.uuid4()))
    found = site.audit(file, code=0)
    assert (found["problems"], found["extra_records"], found["replayed"]) == ({"duplicated": 2}, 3, 1)
    assert found["fates"] == {"stored": 5}


def test_rule_16_waiting_and_quarantined_are_not_lost(site: Site) -> None:
    """An event of the outbox is in PostgreSQL; one that has left it must be in Kafka."""
    template = told(site.send("outbox", 1))[0]["event_id"]
    site.audit(code=0, options=("--source", "outbox", "--wait"))
    body = site.sql("SELECT sha256(body) FROM events WHERE event_id = $1", uuid.UUID(template))[0][0].hex()
    # As one that was there and is lost: the relay makes a topic that never was.
    site.sql(
        "INSERT INTO topics (name, topic_id, made_by) VALUES ($1, gen_random_uuid(), 'source')", topic_of("nowhere")
    )
    states = {"waiting": id_near(template), "blocked": id_near(template), "quarantined": id_near(template)}
    receipts = site.folder / "outbox.jsonl"
    with ReceiptsFile(receipts, run="r", source="outbox", url="") as file:
        for seq, event_id in enumerate(states.values()):
            file.invoke(seq, f"r-{seq}", body)
            file.ended(seq, 200, {"event_id": event_id, "stored": "outbox", "duplicate": False}, "")
    assert site.audit(receipts, code=1, options=())["fates"] == {"lost": 3}
    for state, event_id in states.items():
        site.sql(
            """INSERT INTO events (event_id, received_at, source, type, state, method, path, headers, body, verified,
                                   covers_body, format, topic)
               SELECT $1, received_at, source, type, $2, method, path, headers, body, verified,
                      covers_body, format, topic
               FROM events WHERE event_id = $3""",
            uuid.UUID(event_id), state, uuid.UUID(template),
        )  # fmt: skip
        site.sql(
            """INSERT INTO outbox (event_id, source, topic, value, headers, size_bytes, relay_after, state)
               VALUES ($1, 'outbox', $2, '', '[]', 0, now() + interval '1 day', $3)""",
            uuid.UUID(event_id), topic_of("nowhere" if state == "blocked" else "outbox"), state,
        )  # fmt: skip
    assert site.audit(receipts, code=0, options=())["fates"] == {"waiting": 2, "quarantined": 1}
    site.sql("DELETE FROM outbox WHERE event_id = $1", uuid.UUID(states["waiting"]))
    found = site.audit(receipts, code=1, options=())
    assert found["fates"] == {"waiting": 1, "quarantined": 1, "missing_in_kafka": 1}
    assert found["examples"]["missing_in_kafka"] == [states["waiting"]]


def test_a_topic_that_is_gone_leaves_the_archive(site: Site) -> None:
    file = site.send("gone", 5)
    site.audit(file, code=0)
    admin = AdminClient(client_config(site.stack.kafka.settings))
    admin.delete_topics([topic_of("gone")])[topic_of("gone")].result(WAIT_S)
    site.until(lambda: topic_of("gone") not in admin.list_topics(timeout=WAIT_S).topics)
    for found in (site.audit(file, code=0, options=()), site.audit(code=0, options=("--source", "gone"))):
        assert found["fates"] == {"before_log_start": 5}
        assert found["topics_gone"] == {topic_of("gone"): 5}
    people = site.kwb("audit", "--source", "gone")
    assert f"The topic {topic_of('gone')} is gone: 5 events of it in PostgreSQL alone." in people.stderr
    assert f"kwb rebuild {topic_of('gone')}" in people.stderr
    assert "Nothing is lost, but 5 events of 5 are in PostgreSQL alone" in people.stdout
    assert "before_log_start" in people.stdout


def test_where_nobody_watches_a_line_tells_how_far_it_is(site: Site) -> None:
    site.send("watched", 5)
    with mock.patch.object(beat, "EVERY_S", 0.0):
        assert "reading Kafka: 100%" in site.kwb("audit", "--source", "watched", "--wait").stderr
        quiet = site.kwb("audit", "--source", "watched", "--wait", "--json")
    assert (quiet.stderr, json.loads(quiet.stdout)["sound"]) == ("", True)


# ---- receipts that are not whole -------------------------------------------------------------------------------------


def test_rule_16_a_truncated_file_is_judged_by_what_it_has(site: Site) -> None:
    file = site.send("cut")
    site.audit(file, code=0)
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    assert not file.read_bytes().endswith(b"\n")
    found = site.audit(file, code=0)
    assert found["problems"] == {}
    assert found["receipts"]["incomplete_files"] == [str(file)]
    assert "its last line is cut" in found["notes"][0]
    requests = file.read_bytes().count(b'"op":"invoke"')
    assert 0 < sum(found["receipts"][name] for name in ("acknowledged", "unknown_present")) <= requests < 20
    assert found["receipts"]["unknown_absent"] == 0


def test_rule_16_after_a_kill_of_the_sender_the_unknown_may_be_there_or_not(site: Site) -> None:
    file = site.folder / "killed.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-m", "kafka_webhook_bridge.cli", "send", "killed", "--rate", "200", "--duration", "1h",
         "--timeout", "60s", "--receipts", str(file), "--json"], env=site.bridge.environ,
    )  # fmt: skip
    site.until(lambda: file.exists() and file.read_bytes().count(b'"op":"ok"') > 100)
    process.send_signal(signal.SIGKILL)
    process.wait(WAIT_S)
    found = site.audit(file, code=0)
    receipts = found["receipts"]
    requests = file.read_bytes().count(b'"op":"invoke"')
    assert receipts["acknowledged"] + receipts["unknown_present"] + receipts["unknown_absent"] == requests
    assert receipts["acknowledged"] > 100
    assert found["fates"] == {"stored": receipts["acknowledged"] + receipts["unknown_present"]}


def test_as_a_process_of_its_own_it_ends_with_the_code(site: Site) -> None:
    file = site.send("process", 3)
    command = [sys.executable, "-m", "kafka_webhook_bridge.cli", "audit", "--wait", "--receipts"]
    for receipts, code in ((file, 0), (site.folder / "missing", 2)):
        done = subprocess.run([*command, str(receipts)], env=site.bridge.environ, capture_output=True, timeout=WAIT_S)
        assert done.returncode == code, done.stderr
        assert b"Traceback" not in done.stderr


def test_the_worker_compares_all_the_time(site: Site) -> None:
    site.send("sound", 1)

    def compared() -> bool:
        with urllib.request.urlopen(f"{site.bridge.management_url}/metrics", timeout=WAIT_S) as answer:
            found = re.search(rb"(?m)^kwb_reconcile_events_total (\S+)$", answer.read())
        return found is not None and float(found[1]) > 0

    site.until(compared)


def test_wrong_use_is_told(site: Site) -> None:
    missing, other = site.folder / "missing", site.folder / "other"
    other.write_text('{"op":"invoke"}\n')
    assert "No such file" in site.audit(missing, code=2)["error"]["message"]
    assert "is not a receipts file" in site.audit(other, code=2)["error"]["message"]
    assert "--since is not before" in site.audit(code=2, options=("--since", "1m", "--until", "1h"))["error"]["message"]
    assert "twice" in site.audit(missing, missing, code=2)["error"]["message"]
    assert "neither an age" in site.audit(code=2, options=("--since", "yesterday"))["error"]["message"]
    assert "DATABASE_URL" in site.audit(code=2, options=(), DATABASE_URL="")["error"]["message"]
    with ReceiptsFile(other := site.folder / "empty", run="r", source="sound", url=""):
        pass
    assert "no request" in site.audit(other, code=2)["error"]["message"]


def test_receipts_of_the_last_minute_that_a_clock_can_tell(site: Site) -> None:
    with ReceiptsFile(file := site.folder / "late", run="r", source="sound", url="") as late:
        late.invoke(0, "r-0", "0" * 64)
    lines = [json.loads(line) | {"t": (TIME_MS_MAX - 30_000) / 1000} for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = site.audit(file, code=0, options=())
    assert found["windows"][0]["until"] == "9999-12-31T23:59:59.999Z"
