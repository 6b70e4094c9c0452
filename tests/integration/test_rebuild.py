"""`kwb rebuild` through the command: a topic that was lost, with the same ids in the same order, whatever dies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import confluent_kafka as ck
import pytest
from archive_world import World, until
from events_data import event_id, fill, now_ms, row
from relay_world import RelayWorld

from bridge import consume, eventually, request, serving
from kafka_webhook_bridge import formats
from kafka_webhook_bridge.archive.rebuild import create, plan
from kafka_webhook_bridge.errors import KafkaError, ReplayError
from kafka_webhook_bridge.kafka.config import client_config
from kafka_webhook_bridge.kafka.consumer import Place, Record, read_between
from kafka_webhook_bridge.stack import Stack
from kafka_webhook_bridge.store import Store, rebuilds

QUICK = {"KWB_KAFKA_DELIVERY_TIMEOUT_MS": "2000", "KWB_STORE_CONNECT_TIMEOUT_MS": "30000"}  # so the look comes sooner


def start(world: World, *arguments: str, fail: str = "") -> subprocess.Popen[str]:
    harness = {"KWB_HARNESS_FD": "0", "KWB_FAIL": fail} if fail else {}
    return subprocess.Popen(
        [sys.executable, "-m", "kafka_webhook_bridge.cli", "rebuild", *arguments],
        env={"PATH": os.defpath, "COLUMNS": "200", **world.environ, **QUICK, **harness},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def rebuild(world: World, *arguments: str, status: int = 0, fail: str = "") -> dict[str, Any]:
    """The last line of its JSON."""
    process = start(world, *arguments, "--json", fail=fail)
    out, err = process.communicate(timeout=120)
    assert process.returncode == status, out + err
    return json.loads(out.splitlines()[-1]) if out and "\n}" not in out else json.loads(out or "{}")


def records(world: World, topic: str) -> dict[int, list[Record]]:
    """Every record by partition, in the order of the offsets."""
    ends = {Place(topic, partition): end for partition, (_, end) in world.admin.offsets([topic])[topic].items()}
    found: dict[int, list[Record]] = {place.partition: [] for place in ends}
    for record in read_between(world.stack.kafka.settings, dict.fromkeys(ends, 0), ends, client_id="test"):
        found[record.partition].append(record)
    return found


def id_of(record: Record) -> str:
    return (dict(record.headers)["ce_id"] or b"").decode()


async def agree(world: World, topic: str) -> None:
    """Every archived event of the topic is where its row says, and the other way round."""
    topic_id = uuid.UUID((await asyncio.to_thread(world.admin.topic_ids, [topic]))[topic])
    rows = await world.fetch('SELECT event_id, topic_id, partition, "offset" FROM events WHERE topic = $1', topic)
    there = await asyncio.to_thread(records, world, topic)
    placed = {(id_of(r), topic_id, r.partition, r.offset) for found in there.values() for r in found}
    assert {(str(r["event_id"]), r["topic_id"], r["partition"], r["offset"]) for r in rows} == placed
    assert len(placed) == len(rows)


async def positions(world: World, topic: str) -> dict[int, int]:
    topic_id = uuid.UUID((await asyncio.to_thread(world.admin.topic_ids, [topic]))[topic])
    rows = await world.fetch("SELECT partition, next_offset FROM archive_offsets WHERE topic_id = $1", topic_id)
    return {row["partition"]: row["next_offset"] for row in rows}


def test_rule_15_a_lost_topic_is_made_anew_and_the_bridge_goes_on(stack: Stack, world: World, folder: Path) -> None:
    """Webhooks over HTTP before and after, the worker at work all the time, a stock client for what is there."""
    topic = world.topic
    config = f'sources: {{{topic}: {{key: "{{json:order}}"}}}}'
    environ = {"DATABASE_URL": world.environ["DATABASE_URL"], "KWB_ARCHIVE_TOPIC_CHECK_MS": "100"}
    with serving(stack, folder, config=config, role="all", **environ) as bridge:
        bridge.expect_faults = True  # librdkafka's words about a topic that vanished

        def send(count: int, status: int = 200) -> None:
            with bridge.open() as client:
                for n in range(count):
                    assert (
                        client.send(request(f"/{topic}/a?x={n}", b'{"order":%d}' % (n % 40))).answer().status == status
                    )

        send(150)
        asyncio.run(world.archived())
        before = records(world, topic)
        world.admin.delete_topic(topic)

        def noticed() -> bool:
            with bridge.open() as client:
                client.send(request(f"/{topic}", b"{}")).answer()
            return bool(bridge.said("topic is gone; create it anew or choose another"))

        eventually(noticed, "the bridge has noticed")
        eventually(lambda: not world.admin.topic_ids([topic]), "the topic is gone")
        there = asyncio.run(world.fetch('SELECT count(*) FROM events WHERE "offset" IS NOT NULL'))[0][0]
        done = rebuild(world, topic)
        assert (done["state"], done["passed"]) == ("done", there)
        after = records(world, topic)
        assert len(after) == len(before) == 6
        for partition, found in before.items():
            again = after[partition][: len(found)]
            assert [(r.key, r.value, r.headers) for r in again] == [(r.key, r.value, r.headers) for r in found]

        def answers() -> bool:
            with bridge.open() as client:
                return client.send(request(f"/{topic}", b'{"order":1}')).answer().status == 200

        eventually(answers, "the topic's new life is accepted")
        send(20)

        async def settled() -> bool:
            unplaced = await world.fetch('SELECT 1 FROM events WHERE "offset" IS NULL')
            return not unplaced and await world.at_the_end()

        asyncio.run(until(settled))
        asyncio.run(agree(world, topic))
        eventually(lambda: bridge.total("kwb_archive_lag_records") == 0, "lag 0")
        count = sum(map(len, records(world, topic).values()))
        assert len({dict(m.headers)["ce_id"] for m in consume(stack.kafka, topic, count)}) == count


CRASHES: dict[str, tuple[str, ...]] = {
    "before the topic is there": ("rebuild.listed:kill", "rebuild.started:kill"),
    "before the topic is on record": ("rebuild.made:kill", "rebuild.recorded:kill"),
    "in the middle of a batch": ("rebuild.handed:kill:30",),
    "sent, not on record": ("rebuild.sent:kill:2", "rebuild.looked:kill"),
    "again and again": ("rebuild.handed:kill:25", "rebuild.checkpointed:kill:1"),
    "before it is called done": ("rebuild.finished:kill",),
}


def test_rule_15_a_rebuild_loses_nothing_and_writes_nothing_twice_whenever_it_is_killed(world: World) -> None:
    """In order of partition and offset, which is not the order of receipt here; three partitions, one of them empty."""
    topics = {f"{world.topic}-{n}": case for n, case in enumerate(CRASHES)}
    expected: dict[str, dict[int, list[str]]] = {}
    rows = []
    for topic in topics:
        life = uuid.uuid4()
        ids = [event_id(now_ms() - 1000 + n) for n in range(60)]
        places = [(n % 2 * 2, 1000 - n) for n in range(60)]  # partitions 0 and 2, the youngest first
        rows += [
            row(event_id=i, topic=topic, topic_id=life, partition=p, offset=o)
            for i, (p, o) in zip(ids, places, strict=True)
        ]
        order = sorted(zip(places, map(str, ids), strict=True))
        expected[topic] = {p: [i for (at, _), i in order if at == p] for p in range(3)}
    fill(world.environ["DATABASE_URL"], *rows)

    def crash(topic: str) -> None:
        for fail in CRASHES[topics[topic]]:
            rebuild(world, topic, "--rate", "200", status=-signal.SIGKILL, fail=fail)
        done = rebuild(world, topic, "--rate", "100000")
        assert (done["state"], done["passed"], done["duplicates"]) == ("done", 60, 0), topics[topic]

    with ThreadPoolExecutor(len(CRASHES)) as threads:
        list(threads.map(crash, topics))
    for topic, case in topics.items():
        found = {partition: [id_of(r) for r in there] for partition, there in records(world, topic).items()}
        assert found == expected[topic], case
        asyncio.run(agree(world, topic))
        ends = {partition: end for partition, (_, end) in world.admin.offsets([topic])[topic].items()}
        assert asyncio.run(positions(world, topic)) == ends, case  # the archive has nothing to read
    assert asyncio.run(world.fetch("SELECT * FROM rebuild_events")) == []


def test_webhooks_that_come_meanwhile_are_archived_and_the_rest_is_not_read_again(world: World) -> None:
    """Records of others between those of the rebuild: the archive's position stops before each."""
    topic = f"{world.topic}-busy"
    ids = [event_id(now_ms() - 1000 + n) for n in range(40)]
    fill(
        world.environ["DATABASE_URL"],
        *(row(event_id=i, topic=topic, topic_id=uuid.uuid4(), partition=0, offset=n) for n, i in enumerate(ids)),
    )
    process = start(world, topic, "--rate", "20", "--json")
    eventually(lambda: _end(world, topic) > 4, "it has begun")
    producer = ck.Producer({**_config(world), "linger.ms": 0})
    live = [world.event() for _ in range(5)]
    for n, event in enumerate(live):
        record = formats.encode(event)
        producer.produce(topic, record.value, record.key, 0, headers=record.headers)
        assert producer.flush(60) == 0
        eventually(lambda n=n: _end(world, topic) > 8 + 4 * n, "it goes on")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert json.loads(out.splitlines()[-1])["passed"] == 40

    async def archive() -> None:
        async with world.archiving():

            async def all_there() -> bool:
                found = await world.fetch("SELECT event_id::text FROM events WHERE topic = $1", topic)
                return {r[0] for r in found} == {*map(str, ids), *(e.event_id for e in live)}

            await until(all_there)

            async def at_the_end() -> bool:
                return await positions(world, topic) == {0: 45}

            await until(at_the_end)
        await agree(world, topic)

    asyncio.run(archive())


def _config(world: World) -> dict[str, Any]:
    return client_config(world.stack.kafka.settings)


def _end(world: World, topic: str) -> int:
    with contextlib.suppress(KafkaError):  # it is being made
        return world.admin.offsets([topic]).get(topic, {}).get(0, (0, 0))[1]
    return 0


def test_what_is_not_lost_is_refused(world: World, topic: str) -> None:
    fill(world.environ["DATABASE_URL"], row(topic=world.topic, partition=3), row(topic="other", partition=8, offset=1))
    world.produce(world.event())
    for name, said in ((world.topic, f"The topic {world.topic} exists and has 1 records."), ("empty", "no event")):
        process = start(world, name)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (1, "")
        assert said in err
    found = rebuild(world, "other", "--dry-run")
    assert (found["events"], found["partitions"], found["left_out"]) == (1, 9, {})
    assert world.admin.topic_ids(["other"]) == {}


def test_only_as_far_back_as_is_asked_for(world: World) -> None:
    topic = f"{world.topic}-since"
    rows = [row(now_ms() - n * 3_600_000, topic=topic, partition=4, offset=9 - n) for n in range(4)]
    fill(world.environ["DATABASE_URL"], *rows)
    assert rebuild(world, topic, "--since", "90m")["passed"] == 2
    there = records(world, topic)
    assert [id_of(r) for r in there[4]] == [str(rows[1].event_id), str(rows[0].event_id)]
    assert len(there) == 5


@pytest.mark.parametrize("ever", [True, False], ids=["all-older", "never-one"])
def test_a_lost_topic_without_an_event_to_write_is_made_empty(world: World, ever: bool) -> None:
    """The bridge does not make what it had seen, so without this its sources would wait for ever."""
    topic = f"{world.topic}-quiet"
    older = row(now_ms() - 86_400_000, topic=topic if ever else "other", partition=1, offset=7)
    fill(world.environ["DATABASE_URL"], older)
    asyncio.run(
        world.fetch("INSERT INTO topics (name, topic_id, made_by) VALUES ($1, $2, 'source')", topic, uuid.uuid4())
    )
    done = rebuild(world, topic, "--since", "1h")
    assert (done["state"], done["passed"]) == ("done", 0)
    assert {*map(len, records(world, topic).values())} == {0}
    known = asyncio.run(world.fetch("SELECT topic_id FROM topics WHERE name = $1", topic))[0][0]
    assert str(known) == str(uuid.UUID(world.admin.topic_ids([topic])[topic]))


def test_events_that_wait_in_the_outbox_are_left_to_it(world: World) -> None:
    topic = f"{world.topic}-some"
    nowhere = {"topic_id": None, "partition": None, "offset": None}
    waiting = row(topic=topic, **nowhere)
    fill(world.environ["DATABASE_URL"], row(topic=topic, partition=1, offset=5), waiting)
    asyncio.run(world.fetch("UPDATE events SET state = 'blocked' WHERE event_id = $1", waiting.event_id))
    asyncio.run(
        world.fetch(
            """INSERT INTO outbox (event_id, source, topic, value, headers, size_bytes, relay_after, state)
               VALUES ($1, 'erp', $2, '', '[]', 0, now(), 'blocked')""",
            waiting.event_id, topic,
        )
    )  # fmt: skip
    process = start(world, topic)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "1 event left out, blocked: in PostgreSQL; the bridge sends it when its topic is well" in err
    assert [len(there) for there in records(world, topic).values()] == [0, 1]
    assert asyncio.run(world.fetch("SELECT \"offset\" FROM events WHERE state = 'blocked'"))[0][0] is None


def test_what_was_relayed_and_lost_before_the_archive_read_it_comes_back(
    stack: Stack, database: str, topic: str, folder: Path
) -> None:
    """PostgreSQL vouched for it, Kafka acknowledged it, the topic went: only its row tells of it. No archive ran."""
    world = RelayWorld(stack, database, topic)
    config = f"sources: {{s: {{auth: none, ack: store, topic: {topic}, key: '{{json:order}}'}}}}"
    with serving(stack, folder, config=config, DATABASE_URL=database) as server:
        server.expect_faults = True
        eventually(lambda: server.ask(request("/s", b"{}")).status == 200, "it serves")
        answers = [server.ask(request("/s", b'{"order":%d}' % n)) for n in range(20)]
        assert {(answer.status, answer.json["stored"]) for answer in answers} == {(200, "outbox")}

    async def relay() -> None:
        async with world.relaying():
            await world.empty()

    asyncio.run(relay())
    before = records(world, topic)
    assert {answer.json["event_id"] for answer in answers} < {id_of(r) for found in before.values() for r in found}
    world.admin.delete_topic(topic)
    eventually(lambda: not world.admin.topic_ids([topic]), "the topic is gone")
    count = sum(map(len, before.values()))
    planned = rebuild(world, topic, "--dry-run")
    assert (planned["events"], planned["partitions"], planned["left_out"]) == (count, 6, {})
    rebuild(world, topic, status=-signal.SIGKILL, fail="rebuild.sent:kill")
    assert rebuild(world, topic)["passed"] == count
    after = records(world, topic)
    for partition, found in before.items():  # to where their keys belong; those without a key have none
        keyed = [(id_of(r), r.key, r.value, r.headers) for r in found if r.key is not None]
        again = [(id_of(r), r.key, r.value, r.headers) for r in after[partition] if r.key is not None]
        assert sorted(again) == sorted(keyed)
    asyncio.run(agree(world, topic))
    assert {row[0] for row in asyncio.run(world.fetch("SELECT DISTINCT state FROM events"))} == {"stored"}


def test_a_topic_that_gets_records_while_the_list_is_made_is_not_rebuilt(world: World) -> None:
    """Else what somebody has just written there would be written once more."""
    fill(world.environ["DATABASE_URL"], row(topic=world.topic, partition=0, offset=3))

    async def test() -> None:
        async with Store(world.settings.store) as store:
            planned = await plan(world.settings, store, world.topic, None)
            world.produce(world.event())
            with pytest.raises(ReplayError, match="exists and has 1 records"):
                await create(store, planned, None)
            assert await rebuilds.unfinished(store, world.topic) is None

    asyncio.run(test())
