"""Kafka and PostgreSQL compared all the time: what is missing is told, and nothing else."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import confluent_kafka as ck
import pytest
from archive_world import DEADLINE_S, NOW_MS, World, count, run, until
from confluent_kafka.admin import AdminClient

from kafka_webhook_bridge import formats
from kafka_webhook_bridge.archive import reconcile
from kafka_webhook_bridge.archive.reconcile import Reconciler, Turn
from kafka_webhook_bridge.kafka.config import client_config
from kafka_webhook_bridge.stack import Stack
from kafka_webhook_bridge.store import Store, audit

pytestmark = pytest.mark.integration

LATER_MS = NOW_MS + 2 * reconcile.SETTLED_MS


@asynccontextmanager
async def reconciler(world: World, now_ms: int = LATER_MS) -> AsyncIterator[Reconciler]:
    async with Store(world.settings.store) as store:
        made = Reconciler(world.settings, store, clock=lambda: now_ms)
        try:
            yield made
        finally:
            await made._close()


async def archived(world: World) -> None:
    async with world.archiving():
        await world.archived()


def missing(turn: Turn) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Events without a row, events without a record."""
    return (
        {topic: list(map(str, found)) for topic, found in turn.missing_rows.items()},
        {topic: list(map(str, found)) for topic, found in turn.missing_records.items()},
    )


async def forge(world: World, event_id: str, copy: str) -> None:
    """A row that says to be where another one is."""
    names = await world.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'events'::regclass AND attnum > 0 AND attname <> 'event_id'"
    )
    columns = ", ".join(f'"{row[0]}"' for row in names)
    await world.fetch(
        f"INSERT INTO events (event_id, {columns}) SELECT $1, {columns} FROM events WHERE event_id = $2",
        uuid.UUID(event_id), uuid.UUID(copy),
    )  # fmt: skip


def test_what_is_right_is_compared_and_nothing_is_missing(world: World) -> None:
    async def test() -> None:
        world.produce(*(world.event() for _ in range(100)))
        world.producer.produce(world.topic, b"not ours")
        event = world.event()
        world.produce(event, event)
        replayed = formats.encode(world.event())
        world.producer.produce(world.topic, b"x", headers=[*replayed.headers, ("kwb_replay_id", b"r")])
        await archived(world)
        async with reconciler(world) as made:
            turn = await made.turn()
            assert (missing(turn), turn.more) == (({}, {}), False)
            assert turn.compared == 101
            assert (await made.turn()).compared == 0
            # What is not archived yet is not missing.
            world.produce(*(world.event() for _ in range(20)))
            assert missing(await made.turn()) == ({}, {})
            await archived(world)
            turn = await made.turn()
            assert (missing(turn), turn.compared) == (({}, {}), 20)

    run(test())


@pytest.mark.parametrize("when", ["old", "new"])
@pytest.mark.parametrize("deleted", [0, 7, 49])
def test_a_record_without_a_row_and_a_row_without_a_record_are_found(world: World, when: str, deleted: int) -> None:
    """`new`: younger than what is settled, so that the walk along the log alone finds the record."""

    async def test() -> None:
        sent = world.produce(*(world.event() for _ in range(50)), partition=2)
        await archived(world)
        await world.fetch("DELETE FROM events WHERE event_id = $1", uuid.UUID(sent[deleted]))
        forged = world.event().event_id
        await forge(world, forged, sent[8])
        async with reconciler(world, LATER_MS if when == "old" else NOW_MS) as made:
            turn = await made.turn()
            assert missing(turn) == ({world.topic: [sent[deleted]]}, {world.topic: [forged]} if when == "old" else {})
            assert missing(await made.turn()) == ({}, {})  # told once

    run(test())


def test_a_turn_is_bounded_and_many_turns_see_everything(stack: Stack, database: str, topic: str) -> None:
    world = World(stack, database, topic, KWB_ARCHIVE_RECONCILE_EVENTS_MAX="10")

    async def test() -> None:
        sent = world.produce(*(world.event(at_ms=NOW_MS + number) for number in range(100)), partition=3)
        await archived(world)
        deleted = [sent[3], sent[11], sent[50], sent[99]]
        for event_id in deleted:
            await world.fetch("DELETE FROM events WHERE event_id = $1", uuid.UUID(event_id))
        found: set[str] = set()
        async with reconciler(world) as made:
            turns = [await made.turn()]
            while turns[-1].compared:
                turns.append(await made.turn())
            for turn in turns:
                assert turn.compared <= 3 * 10
                assert missing(turn)[1] == {}
                found |= set(missing(turn)[0].get(topic, []))
        assert len(turns) >= 10
        assert found == set(deleted)

    run(test())


def test_what_kafka_forgets_is_not_missing(world: World) -> None:
    async def test() -> None:
        sent = world.produce(*(world.event() for _ in range(30)))
        await archived(world)
        admin = AdminClient(client_config(world.stack.kafka.settings))
        places = [ck.TopicPartition(world.topic, partition, ck.OFFSET_END) for partition in range(6)]
        for future in admin.delete_records(places).values():
            future.result(DEADLINE_S)
        await world.fetch("DELETE FROM events WHERE event_id = $1", uuid.UUID(sent[0]))
        async with reconciler(world) as made:
            turn = await made.turn()
            assert (missing(turn), turn.compared) == (({}, {}), 0)
        world.make_anew()
        sent += world.produce(*(world.event() for _ in range(30)))
        await archived(world)
        async with reconciler(world) as made:
            turn = await made.turn()
            assert (missing(turn), turn.compared) == (({}, {}), 30)

    run(test())


def test_retention_that_is_faster_than_the_reader_is_passed_over(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log's start moves after the rows were read and before the records are."""

    async def test() -> None:
        world.produce(*(world.event() for _ in range(30)))
        await archived(world)
        admin = AdminClient(client_config(world.stack.kafka.settings))
        real = Reconciler._read

        async def read(self: Reconciler, spans: Any) -> Any:
            assert spans
            places = [ck.TopicPartition(world.topic, partition, ck.OFFSET_END) for partition in range(6)]
            for future in admin.delete_records(places).values():
                future.result(DEADLINE_S)
            return await real(self, spans)

        monkeypatch.setattr(Reconciler, "_read", read)
        async with reconciler(world) as made:
            assert missing(await made.turn()) == ({}, {})

    run(test())


def running(world: World, check: Callable[[asyncio.Task[None]], Coroutine[Any, Any, None]]) -> None:
    """`run` beside the check, ended by `stop`. Whatever it dies of fails the test."""

    async def test() -> None:
        async with Store(world.settings.store) as store:
            stop = asyncio.Event()
            task = asyncio.create_task(Reconciler(world.settings, store, clock=lambda: LATER_MS).run(stop))
            try:
                await check(task)
                assert not task.done()
            finally:
                stop.set()
                async with asyncio.timeout(DEADLINE_S):
                    await task

    run(test())


def test_the_worker_counts_and_says_what_is_missing(
    world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reconcile, "EVERY_S", 0.05)
    sent = world.produce(*(world.event() for _ in range(20)))
    run(archived(world))
    run(world.fetch("DELETE FROM events WHERE event_id = $1", uuid.UUID(sent[4])))
    compared = count("kwb_reconcile_events_total")

    async def check(_: asyncio.Task[None]) -> None:
        await until(lambda: count("kwb_reconcile_missing_rows_total", topic=world.topic) == 1)
        assert count("kwb_reconcile_missing_records_total", topic=world.topic) == 0
        assert count("kwb_reconcile_events_total") - compared == 20
        said = ""

        def told() -> bool:
            nonlocal said
            said += "".join(capfd.readouterr())
            return "events are missing" in said and sent[4] in said

        await until(told)

    running(world, check)


def test_it_goes_on_when_postgresql_comes_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "EVERY_S", 0.05)
    monkeypatch.setattr(reconcile, "_BACK_OFF_S", (0.05, 0.05))
    world.produce(*(world.event() for _ in range(20)))
    run(archived(world))
    compared = count("kwb_reconcile_events_total")
    real, failed = audit.placed, asyncio.Event()

    async def placed(*arguments: Any) -> Any:
        if not failed.is_set():
            failed.set()
            await world.fetch("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'kwb'")
        return await real(*arguments)

    monkeypatch.setattr(audit, "placed", placed)

    async def check(_: asyncio.Task[None]) -> None:
        await until(lambda: count("kwb_reconcile_events_total") - compared == 20)
        assert failed.is_set()

    running(world, check)


def test_it_can_be_turned_off(stack: Stack, database: str, topic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "EVERY_S", 0.01)
    world = World(stack, database, topic, KWB_ARCHIVE_RECONCILE_EVENTS_MAX="0")
    turns: list[int] = []
    monkeypatch.setattr(Reconciler, "_until", lambda *_: turns.append(1))

    async def check(task: asyncio.Task[None]) -> None:
        for _ in range(50):
            await asyncio.sleep(0)
        assert not task.done()

    running(world, check)
    assert turns == []
