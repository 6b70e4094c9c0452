"""Partitions are made, filled and dropped while others read and write; leases and turns between processes."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from typing import Any

import pytest
from events_data import TIMEOUT_MS, archive, days_ago, now_ms, row, store_settings, with_store

from kafka_webhook_bridge import ids
from kafka_webhook_bridge.errors import StoreError
from kafka_webhook_bridge.store import Store, events, partitions
from kafka_webhook_bridge.store.coordination import Lease, known_topics, making_topics, record_topic, topic_names
from kafka_webhook_bridge.store.partitions import Partition

DAY = ids.DAY_MS
WAIT_S = 60


def day(days_before: int) -> tuple[int, int]:
    low = (now_ms() // DAY - days_before) * DAY
    return low, low + DAY


async def value(store: Store, sql: str, *arguments: Any) -> Any:
    async with store.connection("asking", timeout_ms=TIMEOUT_MS) as connection:
        return await connection.fetchval(sql, *arguments)


async def waits(store: Store, sql_part: str) -> None:
    """Until a statement with `sql_part` waits for a lock in this database."""
    deadline = time.monotonic() + WAIT_S
    sql = """SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
             AND wait_event_type = 'Lock' AND query LIKE '%' || $1 || '%'"""
    while not await value(store, sql, sql_part):
        assert time.monotonic() < deadline, "nobody waits"
        await asyncio.sleep(0.01)


@with_store
async def test_rule_18_events_outside_all_partitions_are_kept_and_moved(store: Store) -> None:
    low, high = day(0)
    inside, before, after = row(low + 5), row(low - 1), row(high)
    await archive(store, inside, before, after)
    assert await partitions.existing(store) == []
    assert await partitions.default_times(store, 0, 2**48) == (low - 1, high)
    assert await partitions.default_times(store, low, high) == (low + 5, low + 5)

    name = await partitions.make(store, low, high)
    assert name == f"events_{ids.moment(low):%Y%m%d}"
    assert await partitions.existing(store) == [Partition(low, high, name)]
    assert await value(store, f"SELECT event_id FROM {name}") == inside.event_id
    assert await value(store, "SELECT count(*) FROM events_default") == 2
    assert await partitions.default_times(store, low, high) is None

    assert await partitions.make(store, low, high) == name  # another process was faster
    again = inside._replace(body=b"again")
    assert (await archive(store, again, row(low + 6))).events == 1  # still one row per event
    assert await value(store, f"SELECT count(*) FROM {name}") == 2
    found = await events.get(store, inside.event_id)
    assert found is not None
    assert found["body"] == inside.body


@with_store
async def test_a_new_partition_has_every_index_and_check(store: Store) -> None:
    name = await partitions.make(store, *day(0))
    sql = """SELECT count(*) FROM pg_indexes WHERE tablename = $1"""
    assert await value(store, sql, name) == await value(store, sql, "events") == 6
    checks = "SELECT count(*) FROM pg_constraint WHERE conrelid = $1::regclass AND contype = 'c'"
    assert await value(store, checks, name) == await value(store, checks, "events") == 2
    options = await value(store, "SELECT reloptions FROM pg_class WHERE oid = $1::regclass", name)
    assert options == ["toast_tuple_target=4080"]


@with_store
async def test_of_several_that_make_or_drop_one_partition_all_succeed(store: Store) -> None:
    low, high = day(0)
    await archive(store, row(low + 1))
    names = await asyncio.gather(*(partitions.make(store, low, high) for _ in range(3)))
    (partition,) = await partitions.existing(store)
    assert set(names) == {partition.name}
    await asyncio.gather(*(partitions.drop(store, partition) for _ in range(3)))
    assert await partitions.existing(store) == []
    assert await value(store, "SELECT count(*) FROM events") == 0


@with_store
async def test_missing_partitions_are_made_around_those_of_another_width(store: Store) -> None:
    low, high = day(3)
    await partitions.make(store, low, high)
    from_ms, to_ms = day(10)[0], day(-7)[1]
    for bounds in partitions.missing(await partitions.existing(store), from_ms, to_ms, 7):
        await partitions.make(store, *bounds)
    there = await partitions.existing(store)
    assert Partition(low, high, f"events_{ids.moment(low):%Y%m%d}") in there
    assert there[0].low_ms <= from_ms
    assert there[-1].high_ms >= to_ms
    assert all(first.high_ms == second.low_ms for first, second in itertools.pairwise(there))
    assert partitions.missing(there, from_ms, to_ms, 1) == []


@with_store
async def test_dropping_gives_up_while_somebody_reads_and_lets_others_through(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "LOCK_TIMEOUT_MS", 50)
    monkeypatch.setattr(partitions, "LOCK_TRIES", 2)
    monkeypatch.setattr(partitions, "_RETRY_WAIT_S", 0)
    low, high = day(0)
    await partitions.make(store, low, high)
    await archive(store, row(low + 1))
    (partition,) = await partitions.existing(store)
    async with store.connection("reading", timeout_ms=TIMEOUT_MS) as reader:
        async with reader.transaction():
            await reader.fetch("SELECT 1 FROM events")
            with pytest.raises(StoreError, match=f"dropping the partition {partition.name}.*55P03"):
                await partitions.drop(store, partition)
            assert len(await events.search(store, events.Search())) == 1  # it holds no lock any more
            await archive(store, row(low + 2))
        await partitions.drop(store, partition)
    assert await partitions.existing(store) == []


@with_store
async def test_making_goes_on_when_a_writer_is_done(store: Store) -> None:
    """It waits a little, gives way, and comes back."""
    low, high = day(0)
    async with store.connection("writing", timeout_ms=TIMEOUT_MS) as writer, writer.transaction():
        await writer.execute("LOCK TABLE events_default IN ROW EXCLUSIVE MODE")
        making = asyncio.create_task(partitions.make(store, low, high))
        await waits(store, "events_default")
    assert await making == (await partitions.existing(store))[0].name


@with_store
async def test_old_events_of_the_default_partition_expire_in_steps(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "EXPIRE_ROWS", 3)
    old, young = [row(days_ago(100) + n) for n in range(7)], row()
    await archive(store, *old, young)
    assert await partitions.expire_default(store, days_ago(90)) == 7
    assert await partitions.expire_default(store, days_ago(90)) == 0
    assert [one["event_id"] for one in await events.search(store, events.Search())] == [young.event_id]


# ---- leases and turns ------------------------------------------------------------------------------------------------


@with_store
async def test_a_lease_has_one_holder_at_a_time(store: Store) -> None:
    first, second = Lease(store, "archive", 3600), Lease(store, "archive", 3600)
    other = Lease(store, "retention", 3600)
    assert await first.take()
    assert await first.take()  # renewed
    assert not await second.take()
    assert await other.take()
    await second.release()  # not its own: nothing happens
    assert not await second.take()
    await first.release()
    assert await second.take()
    assert not await first.take()


@with_store
async def test_a_lease_ends_by_the_clock_of_the_database(store: Store) -> None:
    stopped, successor = Lease(store, "archive", 0), Lease(store, "archive", 3600)
    assert await stopped.take()
    assert await successor.take()
    assert not await stopped.take()


@with_store
async def test_of_many_that_want_a_lease_one_gets_it(store: Store) -> None:
    leases = [Lease(store, "archive", 3600) for _ in range(20)]
    assert sum(await asyncio.gather(*(lease.take() for lease in leases))) == 1


@with_store
async def test_rule_11_topics_are_made_in_turns(store: Store, database: str) -> None:
    """The second waits until the first is done, and then sees what it made."""
    order: list[str] = []

    async def second() -> None:
        async with Store(store_settings(database)) as another, making_topics(another):
            order.append(f"second sees {sorted(await topic_names(another))}")

    async with making_topics(store):
        task = asyncio.create_task(second())
        await waits(store, "pg_advisory_xact_lock")
        await record_topic(store, "erp", str(uuid.uuid4()), "open_rule")
        order.append("first is done")
    await task
    assert order == ["first is done", "second sees ['erp']"]

    with pytest.raises(RuntimeError, match="Kafka"):
        async with making_topics(store):
            raise RuntimeError("Kafka did not make it")
    async with making_topics(store):  # the turn was given back
        pass


@with_store
async def test_rule_10_a_topic_keeps_its_maker_and_follows_its_id(store: Store) -> None:
    first, anew = str(uuid.uuid4()), str(uuid.uuid4())
    await record_topic(store, "erp", first, "source")
    await record_topic(store, "erp", anew, "outside", only_new=True)
    assert (await known_topics(store))["erp"].topic_id == first
    await record_topic(store, "erp", anew, "outside")
    known = (await known_topics(store))["erp"]
    assert (known.topic_id, known.made_by) == (anew, "source")
