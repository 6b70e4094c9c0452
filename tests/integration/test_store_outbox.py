"""The outbox's statement on a real PostgreSQL: rows, states, numbers, poison, and what is deleted."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import orjson
import pytest
from archive_world import World, event_id, run

from kafka_webhook_bridge import formats
from kafka_webhook_bridge.errors import StoreError
from kafka_webhook_bridge.event import Record
from kafka_webhook_bridge.formats.packed import pack_headers, unpack_headers
from kafka_webhook_bridge.formats.rows import RowMaker
from kafka_webhook_bridge.store import Store, migrate
from kafka_webhook_bridge.store.outbox import (
    OutboxRow,
    close_rows,
    read_usage,
    store_rows,
)
from kafka_webhook_bridge.store.pool import Connection

RELAY_AFTER_S = 6.0


@asynccontextmanager
async def opened(world: World) -> AsyncIterator[tuple[Store, Connection]]:
    async with Store(world.settings.store) as store:
        await migrate(store)
        connection = await store.hold("testing")
        try:
            yield store, connection
        finally:
            store.drop(connection)


def row(world: World, body: bytes = b'{"a":1}', **fields: Any) -> OutboxRow:
    record = formats.encode(world.event(body, key=fields.pop("key", b"k\x00\xff")))
    event = RowMaker(lambda _: True).make(record.key, record.value, record.headers, record.topic)
    assert not isinstance(event, str)
    facts: dict[str, Any] = {"handed": False, "reason": None, "strict": False, "claim": None, **fields}
    return OutboxRow(event, record, pack_headers(record.headers), **facts)


def test_rule_4_the_event_and_its_row_of_the_outbox_are_one_statement(world: World) -> None:
    async def test() -> None:
        async with opened(world) as (_, connection):
            plain, structured = row(world), row(world, b"\x00\xff not JSON")
            taken = await store_rows(connection, [plain, structured], relay_after_s=RELAY_AFTER_S)
            assert (taken.simplified, taken.refused) == (0, ())
            for one in (plain, structured):
                (found,) = await connection.fetch("SELECT * FROM outbox WHERE event_id = $1", one.event.event_id)
                record: Record = one.record
                assert (found["key"], found["value"], found["topic"]) == (record.key, record.value, record.topic)
                assert unpack_headers(found["headers"]) == record.headers
                assert (found["state"], found["reason"], found["number"]) == ("waiting", None, None)
                (event,) = await connection.fetch("SELECT * FROM events WHERE event_id = $1", one.event.event_id)
                assert (event["state"], event["body"], event["offset"]) == ("waiting", one.event.body, None)
                assert orjson.loads(event["headers"]) == orjson.loads(one.event.headers)
                assert event["key_bytes"] == one.event.key_bytes

    run(test())


def test_rule_4_the_archive_completes_the_row(world: World) -> None:
    async def test() -> None:
        async with opened(world) as (_, connection):
            waiting = row(world)
            await store_rows(connection, [waiting], relay_after_s=RELAY_AFTER_S)
        record = waiting.record
        world.producer.produce(record.topic, record.value, record.key, headers=record.headers)
        world.producer.flush(60)
        async with world.archiving():
            await world.archived()
        (found,) = await world.fetch('SELECT state, "offset" FROM events')
        assert (found["state"], found["offset"]) == ("stored", 0)

    run(test())


def test_rule_2_only_what_kafka_still_owes_a_report_of_waits(world: World) -> None:
    async def test() -> None:
        async with opened(world) as (_, connection):
            handed, fresh = row(world, handed=True), row(world)
            await store_rows(connection, [handed, fresh], relay_after_s=RELAY_AFTER_S)
            sql = "SELECT extract(epoch FROM relay_after - created_at)::float8 FROM outbox WHERE event_id = $1"
            assert await connection.fetchval(sql, handed.event.event_id) == RELAY_AFTER_S
            assert await connection.fetchval(sql, fresh.event.event_id) == 0

    run(test())


def test_rule_6_numbers_rise_in_the_order_of_the_batch_and_of_the_commits(world: World) -> None:
    async def numbers(connection: Connection, rows: list[OutboxRow]) -> list[int | None]:
        sql = "SELECT number FROM outbox WHERE event_id = $1"
        return [await connection.fetchval(sql, one.event.event_id) for one in rows]

    async def test() -> None:
        async with opened(world) as (store, connection):
            mixed = [row(world, strict=at != 2) for at in range(5)]
            await store_rows(connection, mixed, relay_after_s=RELAY_AFTER_S)
            assert await numbers(connection, mixed) == [1, 2, None, 3, 4]
            # A second process waits for the first one's commit, so its numbers never become visible before.
            other = await store.hold("testing")
            transaction = connection.transaction()
            await transaction.start()
            first, second = [row(world, strict=True)], [row(world, strict=True)]
            await store_rows(connection, first, relay_after_s=RELAY_AFTER_S)
            writing = asyncio.create_task(store_rows(other, second, relay_after_s=RELAY_AFTER_S))
            sql = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            while not (await world.fetch(sql))[0][0]:
                assert not writing.done()
                await asyncio.sleep(0.02)
            await transaction.commit()
            await writing
            assert await numbers(connection, [*first, *second]) == [5, 6]
            store.drop(other)

    run(test())


def test_a_batch_may_be_written_again(world: World) -> None:
    async def test() -> None:
        async with opened(world) as (_, connection):
            rows = [row(world, strict=True), row(world)]
            await store_rows(connection, rows[:1], relay_after_s=RELAY_AFTER_S)
            await store_rows(connection, rows, relay_after_s=RELAY_AFTER_S)
            assert await connection.fetchval("SELECT count(*) FROM outbox") == 2
            assert await connection.fetchval("SELECT count(*) FROM events") == 2
            assert await connection.fetchval("SELECT number FROM outbox WHERE number IS NOT NULL") == 1

    run(test())


SPOILERS: dict[str, Callable[[OutboxRow], OutboxRow]] = {
    "derived": lambda one: one._replace(event=one.event._replace(body_json=b'{"a":"\\u0000"}')),
    "more": lambda one: one._replace(event=one.event._replace(path="a\0b")),
}


@pytest.mark.parametrize("spoiler", SPOILERS)
def test_rule_20_a_refused_batch_is_bisected_and_the_record_is_kept_exactly(world: World, spoiler: str) -> None:
    async def test() -> None:
        async with opened(world) as (_, connection):
            rows = [row(world, strict=True) for _ in range(7)]
            rows[4] = SPOILERS[spoiler](rows[4])
            taken = await store_rows(connection, rows, relay_after_s=RELAY_AFTER_S)
            assert (taken.simplified, taken.refused) == (1, ())
            found = await connection.fetch("SELECT * FROM outbox ORDER BY number")
            assert [record["event_id"] for record in found] == [one.event.event_id for one in rows]
            assert found[4]["value"] == rows[4].record.value
            assert unpack_headers(found[4]["headers"]) == rows[4].record.headers
            sql = "SELECT body, body_json, parse_error FROM events WHERE event_id = $1"
            (event,) = await connection.fetch(sql, rows[4].event.event_id)
            assert (event["body"], event["body_json"]) == (rows[4].event.body, None)
            assert event["parse_error"].startswith("refused: 22")

    run(test())


def test_a_row_that_nothing_helps_is_told(world: World) -> None:
    async def test() -> None:
        async with opened(world) as (_, connection):
            rows = [row(world) for _ in range(3)]
            rows[1] = rows[1]._replace(event=rows[1].event._replace(source="a\0b"))
            taken = await store_rows(connection, rows, relay_after_s=RELAY_AFTER_S)
            assert (taken.simplified, taken.refused, taken.error[:2]) == (0, (1,), "22")
            assert await connection.fetchval("SELECT count(*) FROM outbox") == 2

    run(test())


def test_a_topic_that_is_missing_blocks_the_row(world: World) -> None:
    async def test() -> None:
        async with opened(world) as (_, connection):
            await store_rows(connection, [row(world, reason="UNKNOWN_TOPIC")], relay_after_s=RELAY_AFTER_S)
            (found,) = await connection.fetch("SELECT state, reason FROM outbox")
            assert tuple(found) == ("blocked", "UNKNOWN_TOPIC")
            assert await connection.fetchval("SELECT state FROM events") == "blocked"

    run(test())


def test_rule_2_a_leased_row_is_the_relays(world: World) -> None:
    async def test() -> None:
        async with opened(world) as (_, connection):
            rows = [row(world) for _ in range(3)]
            ids = [str(one.event.event_id) for one in rows]
            await store_rows(connection, rows, relay_after_s=RELAY_AFTER_S)
            lease = "UPDATE outbox SET lease_holder = $2, lease_until = now() + $3::interval WHERE event_id = $1"
            await connection.execute(lease, uuid.UUID(ids[0]), uuid.uuid4(), timedelta(minutes=1))
            await connection.execute(lease, uuid.UUID(ids[1]), uuid.uuid4(), timedelta(minutes=-1))
            assert await close_rows(connection, [*ids, event_id()]) == 2
            (left,) = await connection.fetch("SELECT event_id FROM outbox")
            assert str(left["event_id"]) == ids[0]
            assert await connection.fetchval("SELECT count(*) FROM events") == 3

    run(test())


def test_what_was_claimed_is_in_the_same_transaction(world: World) -> None:
    seen: list[list[str]] = []

    async def beside(connection: Connection, claims: list[str]) -> None:
        assert await connection.fetchval("SELECT count(*) FROM outbox") == 2
        seen.append(claims)
        raise TimeoutError

    async def test() -> None:
        async with opened(world) as (_, connection):
            rows = [row(world), row(world, claim="mine")]
            with pytest.raises(StoreError):
                await store_rows(connection, rows, relay_after_s=1, beside=beside)
            assert seen == [["mine"]]
            assert await connection.fetchval("SELECT count(*) FROM outbox") == 0
            await store_rows(connection, [row(world)], relay_after_s=1, beside=beside)  # nothing is claimed
            assert seen == [["mine"]]

    run(test())


def test_usage_is_counted_only_near_a_limit(world: World) -> None:
    async def test() -> None:
        async with opened(world) as (store, connection):
            await store_rows(connection, [row(world) for _ in range(3)], relay_after_s=1)
            far = await read_usage(store, 10**9, 10**12, timeout_ms=30_000)
            assert (far.rows, far.size_bytes) == (0, 0)
            near = await read_usage(store, 10, 10**12, timeout_ms=30_000)
            assert (near.rows, near.size_bytes > 600) == (3, True)

    run(test())
