"""The archive on real servers: every record once, whatever is redelivered, killed, made anew or away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import time
import urllib.request
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import confluent_kafka as ck
import pytest
from confluent_kafka.admin import AdminClient

from kafka_webhook_bridge import formats
from kafka_webhook_bridge.archive.archiver import Archiver
from kafka_webhook_bridge.archive.retention import Retention
from kafka_webhook_bridge.errors import KafkaError
from kafka_webhook_bridge.event import Event, Request
from kafka_webhook_bridge.kafka.admin import Admin
from kafka_webhook_bridge.kafka.config import client_config, record_bytes_limit
from kafka_webhook_bridge.observability import metrics
from kafka_webhook_bridge.settings import Settings, load_settings
from kafka_webhook_bridge.sources.config import load_sources
from kafka_webhook_bridge.sources.source import Format, Source
from kafka_webhook_bridge.stack import Bridge, Stack
from kafka_webhook_bridge.store import Store, ids, migrate
from kafka_webhook_bridge.store import archive as store_archive
from kafka_webhook_bridge.store.coordination import Lease

pytestmark = pytest.mark.integration

DEADLINE_S = 60.0
RECORD_BYTES_MAX = record_bytes_limit(1024**2)
NOW_MS = time.time_ns() // 1_000_000


def event_id(at_ms: int = NOW_MS) -> str:
    """A UUIDv7 of that time."""
    bits = at_ms << 80 | 7 << 76 | random.getrandbits(12) << 64 | 2 << 62 | random.getrandbits(62)
    return str(uuid.UUID(int=bits))


class World:
    """One database, one topic of one source, and what a test does with them."""

    def __init__(self, stack: Stack, database: str, topic: str, **environ: str) -> None:
        self.stack = stack
        self.topic = topic
        self.environ = {
            **stack.environ(),
            "DATABASE_URL": database,
            "KWB_CONFIG": f"sources: {{{topic}: {{auth: none}}}}",
            "KWB_ARCHIVE_TOPIC_CHECK_MS": "100",
            "KWB_ARCHIVE_BATCH_RECORDS_MAX": "50",
            **environ,
        }
        self.settings: Settings = load_settings(self.environ)
        self.sources = load_sources(self.settings, self.environ)
        self.admin = Admin(stack.kafka.settings)
        self.admin.ensure_topic(topic, RECORD_BYTES_MAX)
        self.producer = ck.Producer(client_config(stack.kafka.settings))

    @property
    def source(self) -> Source:
        source = self.sources.get(self.topic)
        assert source is not None
        return source

    def event(
        self,
        body: bytes = b'{"order":1}',
        *,
        at_ms: int = NOW_MS,
        dedupe_key: str | None = None,
        key: bytes | None = None,
    ) -> Event:
        headers = [(b"Content-Type", b"application/json"), (b"X-Signature", b"abc=")]
        request = Request(b"POST", b"/" + self.topic.encode() + b"/a", b"x=1", headers, body, "127.0.0.1")
        kind = "orders/create"
        return Event(event_id(at_ms), at_ms, self.source, request, kind, key, "none", False, dedupe_key)

    def produce(self, *events: Event, partition: int = -1) -> list[str]:
        """Write them as the bridge does; their ids."""
        for event in events:
            record = formats.encode(event)
            while True:
                try:
                    self.producer.produce(record.topic, record.value, record.key, partition, headers=record.headers)
                    break
                except BufferError:
                    self.producer.poll(0.1)
        assert self.producer.flush(DEADLINE_S) == 0
        return [event.event_id for event in events]

    def make_anew(self) -> None:
        """Delete the topic and make another of its name."""
        former = self.admin.topic_ids([self.topic])
        self.admin.delete_topic(self.topic)
        deadline = time.monotonic() + DEADLINE_S
        while self.admin.topic_ids([self.topic]) in ({}, former):  # the broker goes on showing it for a moment
            assert time.monotonic() < deadline
            with contextlib.suppress(KafkaError):
                self.admin.ensure_topic(self.topic, RECORD_BYTES_MAX)
        self.producer = ck.Producer(client_config(self.stack.kafka.settings))  # the other one knows the old topic

    async def fetch(self, sql: str, *arguments: Any) -> list[Any]:
        connection = await asyncpg.connect(self.environ["DATABASE_URL"])
        try:
            return await connection.fetch(sql, *arguments)
        finally:
            await connection.close()

    async def ids(self) -> list[str]:
        return [str(row[0]) for row in await self.fetch("SELECT event_id FROM events")]

    async def at_the_end(self) -> bool:
        """Whether the positions of the topic are its ends."""
        topic_id = (await asyncio.to_thread(self.admin.topic_ids, [self.topic]))[self.topic]
        ends = (await asyncio.to_thread(self.admin.offsets, [self.topic]))[self.topic]
        rows = await self.fetch(
            "SELECT partition, next_offset FROM archive_offsets WHERE topic_id = $1", uuid.UUID(topic_id)
        )
        return {row[0]: row[1] for row in rows} == {partition: end for partition, (_, end) in ends.items()}

    @contextlib.asynccontextmanager
    async def archiving(self) -> AsyncIterator[Archiver]:
        """An archiver at work. Whatever it dies of fails the test; `stop` must end it."""
        async with Store(self.settings.store) as store:
            await migrate(store)
            stop = asyncio.Event()
            archiver = Archiver(self.settings, store, self.sources)
            task = asyncio.create_task(archiver.run(stop))
            try:
                yield archiver
                assert not task.done()
            finally:
                stop.set()
                async with asyncio.timeout(DEADLINE_S):
                    await task

    async def archived(self) -> None:
        """Wait until the archive is at the end of the topic."""
        await until(self.at_the_end)


@pytest.fixture
def world(stack: Stack, database: str, topic: str) -> World:
    return World(stack, database, topic)


async def until(condition: Callable[[], Awaitable[bool] | bool]) -> None:
    """Raises TimeoutError when it does not become true."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            with contextlib.suppress(OSError, asyncpg.PostgresError, KafkaError):
                found = condition()
                if found if isinstance(found, bool) else await found:
                    return
            await asyncio.sleep(0.02)


def count(name: Any, **labels: Any) -> float:
    return metrics.registry().counter(name, **labels).value


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


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


def test_rule_18_partitions_ahead_and_the_old_ones_dropped(world: World) -> None:
    day, retention_days = ids.DAY_MS, world.settings.archive.retention_days

    async def partitions() -> set[str]:
        rows = await world.fetch("SELECT relname FROM pg_class WHERE relname ~ '^events_2.......$'")
        return {row[0] for row in rows}

    def name(at_ms: int) -> str:
        return f"events_{ids.moment(at_ms):%Y%m%d}"

    async def places() -> dict[str, str]:
        return dict(map(tuple, await world.fetch("SELECT event_id::text, tableoid::regclass::text FROM events")))

    async def test() -> None:
        early = world.event(at_ms=NOW_MS - 30 * day)
        wrong_clock = world.event(at_ms=NOW_MS + 40 * day)
        ancient = world.event(at_ms=NOW_MS - (retention_days + 1) * day)
        today = world.event()
        world.produce(early, wrong_clock, ancient, today)
        async with world.archiving():
            await world.archived()
        assert set((await places()).values()) == {"events_default"}
        clock = [NOW_MS]
        async with Store(world.settings.store) as store:
            retention = Retention(world.settings, store, clock=lambda: clock[0])
            assert await retention.tidy()
            made = await partitions()
            assert {name(NOW_MS + n * day) for n in range(-7, 8)} <= made
            assert await places() == {
                early.event_id: name(NOW_MS - 30 * day),
                today.event_id: name(NOW_MS),
                wrong_clock.event_id: "events_default",
            }
            clock[0] += 40 * day
            assert await retention.tidy()
            assert (await places())[wrong_clock.event_id] == name(NOW_MS + 40 * day)
            clock[0] += (retention_days - 40) * day  # the last moment of today is not old enough
            assert await retention.tidy()
            assert name(NOW_MS) in await partitions()
            clock[0] += day
            assert await retention.tidy()
            assert name(NOW_MS) not in await partitions()
            assert list(await places()) == [wrong_clock.event_id]

    run(test())


def test_retention_is_the_work_of_one_worker(world: World) -> None:
    async def test() -> None:
        async with Store(world.settings.store) as store:
            await migrate(store)
            other = Lease(store, "retention", 60)
            assert await other.take()
            assert not await Retention(world.settings, store).tidy()
            assert await store_archive.read_positions(store, {}) is not None
            await other.release()
            assert await Retention(world.settings, store).tidy()

    run(test())


def test_retention_drops_under_a_reader_without_making_others_wait(world: World) -> None:
    """A drop waits for its lock a second at a time, and is tried again."""

    async def test() -> None:
        clock = [NOW_MS]
        async with Store(world.settings.store) as store:
            await migrate(store)
            retention = Retention(world.settings, store, clock=lambda: clock[0])
            assert await retention.tidy()
            old = f"events_{ids.moment(NOW_MS - 7 * ids.DAY_MS):%Y%m%d}"
            clock[0] += (world.settings.archive.retention_days - 6) * ids.DAY_MS
            reader = await asyncpg.connect(world.environ["DATABASE_URL"])
            transaction = reader.transaction()
            await transaction.start()
            await reader.fetch(f"SELECT 1 FROM {old}")
            tidying = asyncio.create_task(retention.tidy())

            async def waits() -> bool:
                return bool(await world.fetch("SELECT 1 FROM pg_locks WHERE NOT granted AND locktype = 'relation'"))

            await until(waits)
            await transaction.rollback()
            await reader.close()
            async with asyncio.timeout(DEADLINE_S):
                assert await tidying
            assert not await world.fetch("SELECT 1 FROM pg_class WHERE relname = $1", old)

    run(test())
