"""Partitions of `events` over time: made ahead, emptied into, dropped, by one worker."""

from __future__ import annotations

import asyncio
import uuid

import asyncpg
import pytest
from archive_world import DEADLINE_S, NOW_MS, World, event_id, run, until

from kafka_webhook_bridge import ids
from kafka_webhook_bridge.archive.retention import Retention
from kafka_webhook_bridge.store import Store, deliveries, migrate, partitions, rejections
from kafka_webhook_bridge.store import archive as store_archive
from kafka_webhook_bridge.store.coordination import Lease

pytestmark = pytest.mark.integration


def both_clocks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The time in ms that PostgreSQL tells retention, and that the test gives it as its own."""
    clock = [NOW_MS]

    async def server_time_ms(_: Store) -> int:
        return clock[0]

    monkeypatch.setattr(partitions, "server_time_ms", server_time_ms)
    return clock


def test_rule_18_partitions_ahead_and_the_old_ones_dropped(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    day, retention_days = ids.DAY_MS, world.settings.archive.retention_days

    async def names() -> set[str]:
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
        clock = both_clocks(monkeypatch)
        async with Store(world.settings.store) as store:
            retention = Retention(world.settings, store, clock=lambda: clock[0])
            assert await retention.tidy()
            made = await names()
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
            assert name(NOW_MS) in await names()
            clock[0] += day
            assert await retention.tidy()
            assert name(NOW_MS) not in await names()
            assert list(await places()) == [wrong_clock.event_id]

    run(test())


def test_a_clock_that_jumped_ahead_drops_nothing(world: World) -> None:
    async def test() -> None:
        async with Store(world.settings.store) as store:
            await migrate(store)
            retention = Retention(world.settings, store)
            assert await retention.tidy()
            before = await partitions.existing(store)
            assert await Retention(world.settings, store, clock=lambda: NOW_MS + 400 * ids.DAY_MS).tidy()
            assert set(before) <= set(await partitions.existing(store))

    run(test())


def test_rule_14_deliveries_are_forgotten_after_the_window(world: World) -> None:
    days = world.settings.archive.dedupe_window_days

    async def test() -> None:
        ages = {"before": days + 1, "within": days - 1}
        claims = {name.encode().hex(): event_id(NOW_MS - age * ids.DAY_MS) for name, age in ages.items()}
        async with Store(world.settings.store) as store:
            await migrate(store)
            await deliveries.claim(store, claims, lease_ms=1, oldest_ms=0, timeout_ms=60_000)
            ahead = Retention(world.settings, store, clock=lambda: NOW_MS + 400 * ids.DAY_MS)
            assert await ahead.tidy()  # PostgreSQL's clock counts
        assert [row[0] for row in await world.fetch("SELECT dedupe_key FROM deliveries")] == [b"within"]

    run(test())


def test_refused_requests_are_forgotten_after_their_days(world: World) -> None:
    days = world.settings.rejections.retention_days

    async def test() -> None:
        async with Store(world.settings.store) as store:
            await migrate(store)
            rows = [
                rejections.RejectionRow(
                    uuid.UUID(event_id(NOW_MS - age * ids.DAY_MS)), name, ids.moment(NOW_MS), "code", "", "POST", "/s",
                    None, b"[]", b"[]", b"", "", None, 0,
                )
                for name, age in {"before": days + 1, "within": days - 1}.items()
            ]  # fmt: skip
            assert await rejections.write(store, rows, timeout_ms=60_000) == set()
            ahead = Retention(world.settings, store, clock=lambda: NOW_MS + 400 * ids.DAY_MS)
            assert await ahead.tidy()  # PostgreSQL's clock counts
        assert [row[0] for row in await world.fetch("SELECT source FROM rejections")] == ["within"]

    run(test())


def test_replays_are_forgotten_with_the_oldest_events(world: World) -> None:
    """With what belongs to them. What is not done can still be gone on with."""
    days = world.settings.archive.retention_days
    aged = {"old": ("done", days + 1), "young": ("done", days - 1), "paused": ("paused", days + 1)}

    async def test() -> None:
        async with Store(world.settings.store) as store:
            await migrate(store)
            for name, (state, age) in aged.items():
                one = await world.fetch(
                    """INSERT INTO replays (replay_id, kind, selection, to_topic, state, events, size_bytes, updated_at)
                       VALUES (gen_random_uuid(), 'replay', '{}', $1, $2, 1, 1, now() - make_interval(days => $3))
                       RETURNING replay_id""",
                    name, state, age,
                )  # fmt: skip
                await world.fetch("INSERT INTO replay_targets VALUES ($1, $2, 0, $1, 7)", one[0][0], name)
            ahead = Retention(world.settings, store, clock=lambda: NOW_MS + 400 * ids.DAY_MS)
            assert await ahead.tidy()  # PostgreSQL's clock counts
        for table, column in (("replays", "to_topic"), ("replay_targets", "topic")):
            rows = await world.fetch(f"SELECT {column} FROM {table} ORDER BY 1")
            assert [row[0] for row in rows] == ["paused", "young"]

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


def test_retention_drops_under_a_reader_without_making_others_wait(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drop waits for its lock a second at a time, and is tried again."""

    async def test() -> None:
        clock = both_clocks(monkeypatch)
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
