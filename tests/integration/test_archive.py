"""The archive on real servers: every record once, whatever is redelivered, killed, made anew or away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import confluent_kafka as ck
import pytest
from archive_world import DEADLINE_S, NOW_MS, RECORD_BYTES_MAX, World, count, run, until
from confluent_kafka.admin import AdminClient

from kafka_webhook_bridge import formats, ids
from kafka_webhook_bridge.kafka.config import client_config
from kafka_webhook_bridge.observability import metrics
from kafka_webhook_bridge.sources.source import Format
from kafka_webhook_bridge.stack import Bridge, Stack
from kafka_webhook_bridge.store import Store, migrate
from kafka_webhook_bridge.store.coordination import Lease

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("format", ["raw", "cloudevents", "envelope"])
def test_a_row_says_what_was_sent(stack: Stack, database: str, topic: str, format: Format) -> None:  # noqa: A002
    world = World(stack, database, topic, KWB_CONFIG=f"sources: {{{topic}: {{auth: none, format: {format}}}}}")
    sent = world.event(b'{"order": {"id": 7}}', key=b"o7")

    async def test() -> None:
        async with world.archiving():
            world.produce(sent, partition=4)
            await world.archived()
        (row,) = await world.fetch('SELECT *, body_json @> \'{"order":{"id":7}}\' AS found FROM events')
        assert str(row["event_id"]) == sent.event_id
        assert row["received_at"] == ids.moment(NOW_MS)
        assert row["body"] == b'{"order": {"id": 7}}'
        assert (row["source"], row["type"], row["key"]) == (topic, "orders/create", "o7")
        assert (row["method"], row["path"], row["query"]) == ("POST", f"/{topic}/a", "x=1")
        assert row["headers"] == '[["content-type", "application/json"], ["x-signature", "abc="]]'
        assert (row["content_type"], row["format"], row["state"]) == ("application/json", format, "stored")
        assert (row["topic"], row["partition"], row["offset"]) == (topic, 4, 0)
        assert str(row["topic_id"]) == world.admin.topic_ids([topic])[topic]
        assert row["found"] is True

    run(test())


def test_rule_18_one_row_per_event_whatever_is_redelivered(world: World) -> None:
    events = [world.event() for _ in range(200)]

    async def test() -> None:
        async with world.archiving():
            sent = world.produce(*events, *events)
            await world.archived()
            world.produce(*events[:50])
            await world.archived()
            assert sorted(await world.ids()) == sorted(sent[:200])
        async with world.archiving():  # another one begins where the first ended
            sent += world.produce(world.event())
            await world.archived()
            assert sorted(await world.ids()) == sorted(set(sent))

    run(test())


def test_rule_12_deliveries_of_one_event_are_marked(world: World) -> None:
    day = ids.DAY_MS

    async def test() -> None:
        first = [
            world.event(at_ms=NOW_MS - 8 * day, dedupe_key="k"),
            world.event(at_ms=NOW_MS - 2 * day, dedupe_key="k"),
        ]
        last = [world.event(at_ms=NOW_MS - 3 * day, dedupe_key="k"), world.event(at_ms=NOW_MS, dedupe_key="k")]
        other = world.event(dedupe_key="other")
        marked = count("kwb_archive_duplicates_marked_total")
        async with world.archiving():
            world.produce(*first, other, first[1])  # a copy with the same id marks nothing
            await world.archived()
            world.produce(*last)
            await world.archived()
        rows = await world.fetch("SELECT event_id::text, duplicate_of::text FROM events")
        assert dict(map(tuple, rows)) == {
            first[0].event_id: None,
            last[0].event_id: first[0].event_id,
            first[1].event_id: first[0].event_id,
            last[1].event_id: last[0].event_id,  # the very first one is out of the window of 7 days
            other.event_id: None,
        }
        assert count("kwb_archive_duplicates_marked_total") - marked == 3

    run(test())


def test_rule_20_what_postgresql_refuses_is_kept_bare_and_the_rest_goes_on(world: World) -> None:
    refused, skipped = count("kwb_archive_refused_total"), count("kwb_archive_skipped_total", reason="not_ours")

    async def test() -> None:
        async with Store(world.settings.store) as store:
            await migrate(store)
        await world.fetch("ALTER TABLE events ADD CHECK (NOT body_json ? 'poison')")
        await world.fetch("ALTER TABLE events ADD CHECK (path NOT LIKE '%poison%')")
        good = [world.event() for _ in range(30)]
        bad = world.event(b'{"poison":1}')
        worse = world.event(b"\0\xff")
        worse = worse._replace(request=worse.request._replace(path=b"/poison"))
        world.producer.produce(world.topic, b"not ours")
        world.produce(*good[:20], bad, worse, *good[20:], partition=0)
        async with world.archiving():
            await world.archived()
        rows = {str(r["event_id"]): r for r in await world.fetch("SELECT * FROM events")}
        assert rows.keys() == {event.event_id for event in (*good, bad, worse)}
        assert rows[bad.event_id]["body"] == b'{"poison":1}'
        assert rows[bad.event_id]["body_json"] is None
        assert rows[bad.event_id]["parse_error"] == "refused: 23514"
        assert rows[bad.event_id]["path"] == f"/{world.topic}/a"
        assert (rows[worse.event_id]["body"], rows[worse.event_id]["path"]) == (b"\0\xff", "")
        assert all(rows[event.event_id]["body_json"] == '{"order": 1}' for event in good)

    run(test())
    assert count("kwb_archive_refused_total") - refused == 2
    assert count("kwb_archive_skipped_total", reason="not_ours") - skipped == 1


@pytest.mark.parametrize("running", [True, False])
def test_rule_19_a_topic_made_anew_loses_nothing(stack: Stack, database: str, topic: str, running: bool) -> None:
    """Noticed by what is read alone: the regular comparison of the ids is too rare to help."""
    world = World(stack, database, topic, KWB_ARCHIVE_TOPIC_CHECK_MS="3600000")
    recreated = count("kwb_archive_positions_lost_total", reason="topic_recreated")
    lives: dict[str, str] = {}  # event → id of the topic that it was written to

    def produce(number: int) -> None:
        topic_id = world.admin.topic_ids([topic])[topic]
        lives.update(dict.fromkeys(world.produce(*(world.event() for _ in range(number)), partition=1), topic_id))

    def anew() -> None:
        world.make_anew()
        produce(60)  # more than there were

    async def test() -> None:
        async with world.archiving():
            produce(40)
            await world.archived()
            if running:
                await asyncio.to_thread(anew)
                await world.archived()
        if not running:
            anew()
            async with world.archiving():
                await world.archived()
        rows = await world.fetch("SELECT event_id::text, topic_id::text FROM events")
        assert dict(map(tuple, rows)) == lives

    run(test())
    assert count("kwb_archive_positions_lost_total", reason="topic_recreated") - recreated == 1


def test_rule_19_an_idle_topic_made_anew_is_noticed_in_time(world: World) -> None:
    recreated = count("kwb_archive_positions_lost_total", reason="topic_recreated")

    async def test() -> None:
        async with world.archiving():
            world.produce(world.event())
            await world.archived()
            await asyncio.to_thread(world.make_anew)
            await world.archived()

    run(test())
    assert count("kwb_archive_positions_lost_total", reason="topic_recreated") - recreated == 1


def test_rule_19_a_position_out_of_range_goes_to_the_earliest(world: World) -> None:
    lost = count("kwb_archive_positions_lost_total", reason="out_of_range")

    async def test() -> None:
        async with world.archiving():
            sent = world.produce(*(world.event() for _ in range(5)), partition=2)
            await world.archived()
        late = world.produce(*(world.event() for _ in range(20)), partition=2)
        client = AdminClient(client_config(world.stack.kafka.settings))
        for future in client.delete_records([ck.TopicPartition(world.topic, 2, 15)]).values():
            future.result(DEADLINE_S)
        async with world.archiving():
            await world.archived()
        assert sorted(await world.ids()) == sorted(sent + late[10:])

    run(test())
    assert count("kwb_archive_positions_lost_total", reason="out_of_range") - lost == 1


def test_rule_19_a_position_beyond_the_end_goes_to_the_earliest(world: World) -> None:
    """As after a broker that lost its last records."""
    lost = count("kwb_archive_positions_lost_total", reason="out_of_range")

    async def test() -> None:
        async with world.archiving():
            sent = world.produce(*(world.event() for _ in range(5)), partition=2)
            await world.archived()
        await world.fetch("UPDATE archive_offsets SET next_offset = 1000 WHERE partition = 2")
        sent += world.produce(*(world.event() for _ in range(5)), partition=2)
        async with world.archiving():
            await world.archived()
        assert sorted(await world.ids()) == sorted(sent)

    run(test())
    assert count("kwb_archive_positions_lost_total", reason="out_of_range") - lost == 1


def test_rule_19_two_archivers_write_each_event_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both believe that they hold the lease, as after a long stop of one of them."""

    async def yes(_: Lease) -> bool:
        return True

    monkeypatch.setattr(Lease, "take", yes)
    written = count("kwb_archive_events_total")
    fenced = count("kwb_archive_errors_total", error="fenced")

    async def test() -> None:
        sent = world.produce(*(world.event() for _ in range(1000)))
        async with world.archiving(), world.archiving():
            await world.archived()
            await until(lambda: count("kwb_archive_errors_total", error="fenced") > fenced)
        found = await world.ids()
        assert sorted(found) == sorted(sent)

    run(test())
    assert count("kwb_archive_events_total") - written == 1000  # the fence let nothing be written twice


def test_one_archiver_works_and_another_takes_over(world: World) -> None:
    async def test() -> None:
        async with contextlib.AsyncExitStack() as second:
            async with world.archiving():
                sent = world.produce(world.event())
                await world.archived()
                fenced = count("kwb_archive_errors_total", error="fenced")
                await second.enter_async_context(world.archiving())
                sent += world.produce(*(world.event() for _ in range(100)))
                await world.archived()
                (holders,) = await world.fetch("SELECT count(*), min(holder::text) FROM leases WHERE name = 'archive'")
            sent += world.produce(world.event())
            await world.archived()
            (after,) = await world.fetch("SELECT count(*), min(holder::text) FROM leases WHERE name = 'archive'")
            assert (holders[0], after[0]) == (1, 1)
            assert holders[1] != after[1]
            assert count("kwb_archive_errors_total", error="fenced") == fenced
        assert sorted(await world.ids()) == sorted(sent)

    run(test())


def test_a_new_topic_on_record_is_found(world: World) -> None:
    other = f"{world.topic}-other"

    async def test() -> None:
        async with world.archiving():
            sent = world.produce(world.event())
            await world.archived()
            world.admin.ensure_topic(other, RECORD_BYTES_MAX)
            await world.fetch("INSERT INTO topics VALUES ($1, $2, 'open_rule')", other, uuid.uuid4())
            event = world.event()
            record = formats.encode(event)
            world.producer.produce(other, record.value, headers=record.headers)
            assert world.producer.flush(DEADLINE_S) == 0

            async def there() -> bool:
                return sorted(await world.ids()) == sorted([*sent, event.event_id])

            await until(there)

    run(test())


def test_postgresql_away_and_back(world: World) -> None:
    lag = metrics.registry().gauge("kwb_archive_lag_records")
    at_risk = metrics.registry().gauge("kwb_archive_at_risk_events")

    async def test() -> None:
        async with world.archiving():
            sent = world.produce(world.event())
            await world.archived()
            await until(lambda: lag.value == 0)
            await asyncio.to_thread(world.stack.postgres.stop)
            try:
                sent += world.produce(*(world.event() for _ in range(120)))
                await until(lambda: lag.value == at_risk.value == 120)  # told while PostgreSQL is away
            finally:
                await asyncio.to_thread(world.stack.postgres.start)
            await world.archived()
            await until(lambda: lag.value == at_risk.value == 0)
            assert sorted(await world.ids()) == sorted(sent)
            await asyncio.to_thread(world.stack.postgres.kill)
        # It stopped while PostgreSQL was away.
        await asyncio.to_thread(world.stack.postgres.start)

    run(test())


def test_kafka_away_and_back(world: World) -> None:
    async def test() -> None:
        async with world.archiving():
            sent = world.produce(*(world.event() for _ in range(10)))
            await world.archived()
            await asyncio.to_thread(world.stack.kafka.stop)
            failed = count("kwb_archive_errors_total", error="kafka")
            await until(lambda: count("kwb_archive_errors_total", error="kafka") > failed)
            await asyncio.to_thread(world.stack.kafka.start)
            sent += await asyncio.to_thread(world.produce, *(world.event() for _ in range(10)))
            await world.archived()
            assert sorted(await world.ids()) == sorted(sent)

    run(test())


def workers_of(bridge: Bridge) -> list[int]:
    found = []
    for children in Path(f"/proc/{bridge.pid}/task").glob("*/children"):
        for child in children.read_text().split():
            with contextlib.suppress(OSError):
                if b"app.child\0worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(int(child))
    return found


@pytest.fixture
def bridge(world: World, folder: Path) -> Iterator[Bridge]:
    ports = {"KWB_INGEST_PORT": "0", "KWB_MANAGEMENT_PORT": "0"}
    environ = {**os.environ, **world.environ, **ports, "KWB_INGEST_DRAIN_GRACE_MS": "0"}
    bridge = Bridge(folder / "bridge", environ)
    try:
        bridge.start()
        yield bridge
    finally:
        bridge.kill()


def test_a_webhook_becomes_a_row_and_the_last_one_before_the_end_too(world: World, bridge: Bridge) -> None:
    def send(body: bytes) -> str:
        with urllib.request.urlopen(f"{bridge.url}/{world.topic}/a?b=1", data=body, timeout=DEADLINE_S) as answer:
            return str(json.load(answer)["event_id"])

    async def test() -> None:
        sent = {await asyncio.to_thread(send, b"first"): b"first"}
        await world.archived()
        for number in range(20):
            body = b"%d" % number
            sent[await asyncio.to_thread(send, body)] = body
        await asyncio.to_thread(bridge.stop)
        rows = await world.fetch("SELECT event_id::text, body FROM events")
        assert dict(map(tuple, rows)) == sent

    run(test())


def test_rule_19_a_killed_worker_loses_and_doubles_nothing(world: World, bridge: Bridge) -> None:
    async def test() -> None:
        sent: list[str] = []
        enough = asyncio.Event()

        async def produce() -> None:
            while not enough.is_set():
                sent.extend(await asyncio.to_thread(world.produce, *(world.event() for _ in range(100))))
                await until(lambda: behind(1000))  # no more than that, or the test takes long

        async def behind(records: int) -> bool:
            return enough.is_set() or len(sent) - len(await world.ids()) < records

        producing = asyncio.create_task(produce())
        for _ in range(2):
            before = len(await world.ids())

            async def more(before: int = before) -> bool:
                return len(await world.ids()) >= before + 200

            await until(more)  # so it is at work, and has more to do
            await until(lambda: len(workers_of(bridge)) == 1)
            os.kill(workers_of(bridge)[0], signal.SIGKILL)
        enough.set()
        await producing
        await world.archived()
        assert sorted(await world.ids()) == sorted(sent)
        # Each batch moved its position in the transaction of its rows: what is stored is what was passed.
        (passed,) = await world.fetch("SELECT sum(next_offset) FROM archive_offsets")
        assert passed[0] == len(sent)

    run(test())
