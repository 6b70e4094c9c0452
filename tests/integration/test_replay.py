"""`kwb replay` through the command, on a real archive and a real Kafka: what a stranger reads, and every crash."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import confluent_kafka as ck
import confluent_kafka.admin
import pytest
from archive_world import NOW_MS, RECORD_BYTES_MAX, World
from events_data import fill, now_ms, row

from bridge import Message, consume, eventually
from kafka_webhook_bridge.errors import KafkaError
from kafka_webhook_bridge.kafka.config import client_config

QUICK = {"KWB_KAFKA_DELIVERY_TIMEOUT_MS": "2000", "KWB_STORE_CONNECT_TIMEOUT_MS": "30000"}  # so the look comes sooner


def start(world: World, *arguments: str, fail: str = "", **environ: str) -> subprocess.Popen[str]:
    harness = {"KWB_HARNESS_FD": "0", "KWB_FAIL": fail} if fail else {}
    return subprocess.Popen(
        [sys.executable, "-m", "kafka_webhook_bridge.cli", *arguments],
        env={"PATH": os.defpath, "COLUMNS": "200", **world.environ, **QUICK, **harness, **environ},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def kwb(world: World, *arguments: str, status: int = 0, fail: str = "", **environ: str) -> str:
    """Standard output of the command."""
    process = start(world, *arguments, fail=fail, **environ)
    out, err = process.communicate(timeout=120)
    assert process.returncode == status, out + err
    return out


def last_line(out: str) -> dict[str, Any]:
    return json.loads(out.splitlines()[-1])


def listed(world: World) -> list[dict[str, Any]]:
    return json.loads(kwb(world, "replay", "list", "--json"))


def all_of(world: World, topic: str) -> list[Message]:
    """Every record of a topic: nothing was deleted and there are no transactions, so the ends count them."""
    count = sum(end for _, end in world.admin.offsets([topic])[topic].values())
    return consume(world.stack.kafka, topic, count)


def header(message: Message, name: str) -> str:
    return dict(message.headers)[name].decode()


def event_ids(messages: list[Message]) -> Counter[str]:
    return Counter(header(message, "ce_id") for message in messages)


@pytest.fixture
def target(world: World) -> str:
    """An empty topic with one partition, so that order can be seen."""
    name = f"{world.topic}-target"
    make_topic(world, name)
    return name


def make_topic(world: World, name: str, record_bytes_max: int = RECORD_BYTES_MAX) -> None:
    client = confluent_kafka.admin.AdminClient(client_config(world.stack.kafka.settings))
    topic = confluent_kafka.admin.NewTopic(name, 1, 1, config={"max.message.bytes": str(record_bytes_max)})
    client.create_topics([topic])[name].result(60)
    eventually(lambda: end_of(world, name) >= 0, "the topic is led")


def end_of(world: World, topic: str) -> int:
    """How many records a topic of one partition has, -1 while Kafka does not tell."""
    with contextlib.suppress(KafkaError):
        return world.admin.offsets([topic]).get(topic, {}).get(0, (0, -1))[1]
    return -1


def archive(world: World, *events: Any) -> list[str]:
    """Produce and archive them; their ids in order."""

    async def run() -> None:
        async with world.archiving():
            await world.archived()

    found = world.produce(*events)
    asyncio.run(run())
    return sorted(found)


def some(world: World, count: int) -> list[str]:
    return archive(
        world, *(world.event(b'{"n":%d}' % n, at_ms=NOW_MS - count + n, key=b"%d" % n) for n in range(count))
    )


def test_rule_15_what_is_sent_again_is_the_same_record_with_the_id_of_the_replay(
    world: World, target: str, java_consumer: Callable[..., bytes]
) -> None:
    bodies = (b'{"order":1}', b"\x00\xff", b"", b'{"b":"\\u0000"}')
    events = [
        world.event(body, at_ms=NOW_MS - 9 + n, key=key)
        for n, (body, key) in enumerate(zip(bodies, (b"k", b"\xff\0", None, b""), strict=True))
    ]
    sent = archive(world, *events)
    originals = {header(message, "ce_id"): message for message in all_of(world, world.topic)}
    done = last_line(kwb(world, "replay", "--source", world.topic, "--to", target, "--run", "--json"))
    assert (done["state"], done["passed"], done["found"]) == ("done", 4, 0)
    again = all_of(world, target)
    assert [header(message, "ce_id") for message in again] == sent
    for message in again:
        original = originals[header(message, "ce_id")]
        assert (message.key, message.value) == (original.key, original.value)
        assert message.headers == [*original.headers, ("kwb_replay_id", done["replay_id"].encode())]
    assert java_consumer(world.stack.kafka, target, 4).count(f"kwb_replay_id:{done['replay_id']}".encode()) == 4


def test_rule_15_to_its_own_topic_by_the_same_key_and_the_archive_makes_no_row(world: World) -> None:
    world.producer = ck.Producer({**client_config(world.stack.kafka.settings), "partitioner": "murmur2_random"})
    sent = some(world, 30)
    kwb(world, "replay", "--all", "--run")
    messages = all_of(world, world.topic)
    assert event_ids(messages) == Counter(2 * sent)
    for n in range(30):  # one partition for each key
        assert len({message.partition for message in messages if message.key == b"%d" % n}) == 1
    (sentinel,) = archive(world, world.event())
    assert sorted(asyncio.run(world.ids())) == sorted([*sent, sentinel])


def test_the_dry_run_is_the_default_and_shows_count_bytes_and_a_sample(world: World, target: str) -> None:
    sent = some(world, 8)
    found = json.loads(kwb(world, "replay", "--source", world.topic, "--json"))
    assert (found["dry_run"], found["events"], found["size_bytes"]) == (True, 8, 8 * len(b'{"n":1}'))
    assert found["topics"] == {world.topic: {"events": 8, "to": world.topic}}
    assert [event["event_id"] for event in found["sample"]] == sent[:5]
    process = start(world, "replay", "--source", world.topic, "--to", target)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "8 events, 56 bytes of bodies" in out
    assert f"8 from {world.topic} to {target}" in out
    assert "… 3 more" in out
    assert "Nothing was sent. To send them: kwb replay --source=" in err
    assert err.rstrip().endswith(f"--to={target} --run")
    assert listed(world) == []
    assert len(all_of(world, world.topic)) == 8
    archive(world, world.event(at_ms=now_ms()))  # not among those that were shown
    program, *arguments = shlex.split(err.rstrip().rpartition("To send them: ")[2])
    assert program == "kwb"
    kwb(world, *arguments)
    assert [header(message, "ce_id") for message in all_of(world, target)] == sent


def test_every_filter_selects(world: World) -> None:
    at = now_ms()
    rows = [
        row(at - 5 * 3_600_000, source="shop", type="orders/create", key="1", body_json=b'{"order":{"id":1}}'),
        row(at - 2 * 3_600_000, source="shop", type="orders/paid", key="2", body_json=b'{"order":{"id":2}}'),
        row(at - 60_000, source="erp", type="webhook.erp", key="2", body_json=b'{"order":{"id":2,"x":1}}'),
    ]
    fill(world.environ["DATABASE_URL"], *rows)
    a, b, c = (str(one.event_id) for one in rows)

    def selected(*arguments: str) -> list[str]:
        found = json.loads(kwb(world, "replay", *arguments, "--to", world.topic, "--json"))
        assert found["events"] == len(found["sample"])
        return [event["event_id"] for event in found["sample"]]

    cases = {
        ("--all",): [a, b, c],
        ("--source", "shop"): [a, b],
        ("--type", "orders/paid"): [b],
        ("--key", "2"): [b, c],
        ("--key", "2", "--source", "erp"): [c],
        ("--since", "3h"): [b, c],
        ("--since", "6h", "--until", "1h"): [a, b],
        ("--json-contains", '{"order":{"id":2}}'): [b, c],
        ("--json-contains", '{"order":{"id":2}}', "--since", "1h"): [c],
        ("--id", c, "--id", a): [a, c],
    }
    with ThreadPoolExecutor(4) as threads:
        assert dict(zip(cases, threads.map(lambda case: selected(*case), cases), strict=True)) == cases
    assert kwb(world, "replay", status=2) == ""
    assert kwb(world, "replay", "--id", "nonsense", status=2) == ""


def test_events_that_never_reached_kafka_are_left_out_and_told(world: World, target: str) -> None:
    sent = some(world, 5)
    for event_id, state in zip(sent, ("waiting", "blocked", "quarantined"), strict=False):
        asyncio.run(
            world.fetch(
                'UPDATE events SET state = $2, "offset" = NULL WHERE event_id = $1::text::uuid', event_id, state
            )
        )
        asyncio.run(
            world.fetch(
                """INSERT INTO outbox (event_id, source, topic, value, headers, size_bytes, relay_after, state)
                   SELECT event_id, source, topic, body, '[]', 0, now() + interval '1 day', state FROM events
                   WHERE event_id = $1::text::uuid""",
                event_id,
            )
        )
    found = json.loads(kwb(world, "replay", "--all", "--json"))
    assert (found["events"], found["left_out"]) == (2, {"waiting": 1, "blocked": 1, "quarantined": 1})
    process = start(world, "replay", "--all", "--to", target, "--run")
    _, err = process.communicate(timeout=60)
    assert "1 event left out, waiting: in PostgreSQL; the bridge sends it to Kafka" in err
    assert [header(message, "ce_id") for message in all_of(world, target)] == sent[3:]


def test_what_kafka_acknowledged_and_the_archive_never_read_is_sent_again(world: World, target: str) -> None:
    """As when its topic was lost in between: it is in no outbox, and has no position."""
    sent = some(world, 3)
    lost = "state = 'waiting', topic_id = NULL, partition = NULL, \"offset\" = NULL"
    asyncio.run(world.fetch(f"UPDATE events SET {lost} WHERE event_id = $1", uuid.UUID(sent[1])))
    found = json.loads(kwb(world, "replay", "--all", "--json"))
    assert (found["events"], found["left_out"], len(found["sample"])) == (3, {}, 3)
    assert last_line(kwb(world, "replay", "--all", "--to", target, "--run", "--json"))["passed"] == 3
    assert [header(message, "ce_id") for message in all_of(world, target)] == sent


# Where it is killed, one time after the other; and whether some must then be found in the target.
CRASHES: dict[str, tuple[tuple[str, ...], bool]] = {
    "before anything is sent": (("replay.stored:kill", "replay.started:kill"), False),
    "between two batches": (("replay.read:kill:3",), False),
    "in the middle of a batch": (("replay.handed:kill:35",), False),
    "after the first record": (("replay.handed:kill:1",), False),
    "sent, not on record": (("replay.sent:kill:2",), True),
    "on record": (("replay.checkpointed:kill:2",), False),
    "after the look": (("replay.sent:kill:2", "replay.looked:kill"), True),
    "again and again": (("replay.sent:kill:3", "replay.handed:kill:15"), True),
    "before it is called done": (("replay.finished:kill",), False),
}


def test_rule_15_none_is_missing_and_none_is_twice_whenever_the_process_is_killed(world: World) -> None:
    """Each crash with a target of its own, side by side, because most of the time they wait."""
    sent = some(world, 80)

    def crash(case: str) -> str:
        target = f"{world.topic}-{list(CRASHES).index(case)}"
        make_topic(world, target)
        (first, *others), must_find = CRASHES[case]
        # 20 records in a batch
        kwb(world, "replay", "--all", "--to", target, "--rate", "200", "--run", status=-signal.SIGKILL, fail=first)
        ((replay_id,),) = asyncio.run(world.fetch("SELECT replay_id::text FROM replays WHERE to_topic = $1", target))
        for fail in others:
            kwb(world, "replay", "resume", replay_id, status=-signal.SIGKILL, fail=fail)
        done = last_line(kwb(world, "replay", "resume", replay_id, "--rate", "100000", "--json"))
        assert (done["state"], done["passed"], done["duplicates"]) == ("done", 80, 0), case
        (one,) = asyncio.run(world.fetch("SELECT * FROM replays WHERE to_topic = $1", target))
        assert (one["state"], one["passed"], one["duplicates"]) == ("done", 80, 0), case
        assert done["found"] > 0 or not must_find, case
        return target

    with ThreadPoolExecutor(len(CRASHES)) as threads:
        targets = dict(zip(CRASHES, threads.map(crash, CRASHES), strict=True))
    for case, target in targets.items():
        assert [header(message, "ce_id") for message in all_of(world, target)] == sent, case


def test_people_see_a_bar_and_what_came_of_it(world: World, target: str) -> None:
    some(world, 30)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "kafka_webhook_bridge.cli", "replay", "--all", "--to", target, "--run", "--rate", "30"],
        env={"PATH": os.defpath, "TERM": "xterm", "COLUMNS": "120", **world.environ, **QUICK},
        stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # so a terminal ends
        while part := os.read(ours, 65_536):
            shown += part
    os.close(ours)
    assert process.wait(60) == 0, shown
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert "Ctrl-C pauses it. After a crash: kwb replay resume " in text
    assert "30/30" in text
    assert f"Done: 30 events to {target}." in text


def test_only_one_process_works_at_it_and_ctrl_c_pauses_it(world: World, target: str) -> None:
    sent = some(world, 1200)  # two minutes of work: it is not done before it is asked to pause
    process = start(world, "replay", "--all", "--to", target, "--rate", "10", "--run")
    eventually(lambda: end_of(world, target) > 3, "it has begun")
    (one,) = listed(world)
    assert one["state"] == "running"
    other = start(world, "replay", "resume", one["replay_id"])
    _, err = other.communicate(timeout=60)
    assert (other.returncode, "Another process works at the replay" in err) == (1, True)
    assert "waiting: another process holds it" in err
    assert "died in the middle" not in err
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert f"Go on: kwb replay resume {one['replay_id']}" in out
    (one,) = listed(world)
    assert one["state"] == "paused"
    assert 3 < one["passed"] < 1200

    process = start(world, "replay", "resume", one["replay_id"], "--rate", "10")
    eventually(lambda: listed(world)[0]["state"] == "running", "it goes on")
    kwb(world, "replay", "pause", one["replay_id"])
    process.communicate(timeout=60)
    assert process.returncode == 130
    done = last_line(kwb(world, "replay", "resume", one["replay_id"], "--rate", "5000", "--json"))
    assert (done["state"], done["found"]) == ("done", 0)
    assert listed(world)[0]["recoveries"] == 0  # after a pause nothing need be looked for
    assert [header(message, "ce_id") for message in all_of(world, target)] == sent
    assert kwb(world, "replay", "resume", one["replay_id"], status=1) == ""
    assert "done" in kwb(world, "replay", "pause", one["replay_id"], status=1)


def test_rule_15_a_broker_that_stands_still_takes_none_and_copies_are_counted(world: World, target: str) -> None:
    sent = some(world, 200)
    process = start(world, "replay", "--all", "--to", target, "--rate", "40", "--run", "--json")
    eventually(lambda: end_of(world, target) > 8, "it has begun")
    kafka = world.stack.kafka
    os.kill(kafka.pid, signal.SIGSTOP)
    try:
        assert process.stdout is not None
        lines = []
        while not lines or lines[-1]["state"] != "waiting":
            lines.append(json.loads(process.stdout.readline()))
    finally:
        os.kill(kafka.pid, signal.SIGCONT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    done = last_line(out)
    found = event_ids(all_of(world, target))
    assert sorted(found) == sent
    assert done["passed"] == 200
    assert done["duplicates"] == sum(found.values()) - 200
    assert listed(world)[0]["duplicates"] == done["duplicates"]


def test_rule_15_a_database_that_dies_takes_none_and_brings_none_twice(world: World, target: str) -> None:
    sent = some(world, 100)
    process = start(world, "replay", "--all", "--to", target, "--rate", "40", "--run", "--json")
    eventually(lambda: end_of(world, target) > 8, "it has begun")
    world.stack.postgres.kill()
    world.stack.postgres.start()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert last_line(out)["passed"] == 100
    assert [header(message, "ce_id") for message in all_of(world, target)] == sent


def test_a_record_that_the_target_refuses_stops_it_until_that_is_mended(world: World) -> None:
    target = f"{world.topic}-small"
    make_topic(world, target, 2_000)
    events = [world.event(b"x" * (5_000 if n == 2 else 10), at_ms=NOW_MS - 9 + n) for n in range(5)]
    sent = archive(world, *events)
    process = start(world, "replay", "--all", "--to", target, "--run")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"Event {events[2].event_id}" in err
    assert "max.message.bytes" in err
    (one,) = listed(world)
    assert one["state"] == "paused"
    assert str(events[2].event_id) in one["reason"]
    client = confluent_kafka.admin.AdminClient(client_config(world.stack.kafka.settings))
    admin: Any = confluent_kafka.admin
    entry = admin.ConfigEntry("max.message.bytes", "100000", incremental_operation=admin.AlterConfigOpType.SET)
    resource = admin.ConfigResource(admin.ResourceType.TOPIC, target, incremental_configs=[entry])
    client.incremental_alter_configs([resource])[resource].result(60)
    assert last_line(kwb(world, "replay", "resume", one["replay_id"], "--json"))["state"] == "done"
    assert event_ids(all_of(world, target)) == Counter(sent)


def test_a_topic_that_is_missing_or_made_anew_is_told(world: World, target: str) -> None:
    some(world, 60)
    process = start(world, "replay", "--all", "--to", "nowhere")
    _, err = process.communicate(timeout=60)
    assert (process.returncode, "There is no topic nowhere" in err, "--run would be refused" in err) == (1, True, True)
    assert "To send them" not in err
    assert json.loads(kwb(world, "replay", "--all", "--to", "nowhere", "--json", status=1))["missing_topics"] == [
        "nowhere"
    ]
    away = start(world, "replay", "--all", "--json", KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    out, _ = away.communicate(timeout=120)
    assert (away.returncode, json.loads(out)["missing_topics"]) == (0, None)
    process = start(world, "replay", "--all", "--to", "nowhere", "--run")
    _, err = process.communicate(timeout=60)
    assert (process.returncode, "There is no topic nowhere" in err) == (1, True)
    kwb(world, "replay", "--all", "--to", target, "--rate", "100", "--run", status=-9, fail="replay.checkpointed:kill")
    former = world.admin.topic_ids([target])
    world.admin.delete_topic(target)
    eventually(lambda: not world.admin.topic_ids([target]), "it is gone")
    eventually(lambda: _made(world, target), "it is there anew")
    assert world.admin.topic_ids([target]) != former
    process = start(world, "replay", "resume", listed(world)[0]["replay_id"])
    _, err = process.communicate(timeout=60)
    assert (process.returncode, "was made anew since the replay began" in err) == (1, True), err


def test_replays_are_listed_within_80_columns(world: World, target: str) -> None:
    some(world, 3)
    kwb(world, "replay", "--all", "--to", target, "--run")
    (one,) = listed(world)
    head, line, more = kwb(world, "replay", "list", COLUMNS="80").splitlines()
    assert head.split() == ["id", "kind", "state", "passed"]
    assert line.split() == [one["replay_id"], "replay", "done", "3", "of", "3"]
    assert more.split() == ["begun", *more.split()[1:3], "(UTC),", "to", target]
    assert len(line) <= 80
    asyncio.run(world.fetch("UPDATE replays SET duplicates = 2, reason = 'The broker stalled.'"))
    assert kwb(world, "replay", "list", COLUMNS="80").splitlines()[3:] == [
        "    2 duplicates", "    reason: The broker stalled.",
    ]  # fmt: skip


def _made(world: World, name: str) -> bool:
    try:
        make_topic(world, name)
    except ck.KafkaException:
        return False
    return True
