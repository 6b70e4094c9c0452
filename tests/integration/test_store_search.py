"""Searching: pages that hold while rows come, an index behind every filter, an end to every statement."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from events_data import TIMEOUT_MS, archive, days_ago, now_ms, row, store_settings, with_store

from kafka_webhook_bridge import ids
from kafka_webhook_bridge.errors import StoreError
from kafka_webhook_bridge.formats.rows import EventRow
from kafka_webhook_bridge.stack import Stack
from kafka_webhook_bridge.store import Store, events, migrate, partitions
from kafka_webhook_bridge.store.events import Search
from kafka_webhook_bridge.store.sql import QUERIES

MINUTE = timedelta(minutes=1)


async def found(store: Store, **wanted: Any) -> list[Any]:
    return [one["event_id"] for one in await events.search(store, Search(**wanted))]


@with_store
async def test_each_filter_alone_and_all_together(store: Store) -> None:
    base = days_ago(1)
    rows = [
        row(base + n, source=f"s{n % 2}", type=f"t{n % 3}", key=f"k{n % 5}", body_json=b'{"n":%d,"a":[1,%d]}' % (n, n))
        for n in range(30)
    ]
    await archive(store, *rows)
    newest_first = rows[::-1]

    def expected(*remainders: tuple[int, int]) -> list[Any]:
        return [r.event_id for n, r in reversed(list(enumerate(rows))) if all(n % m == r_ for m, r_ in remainders)]

    assert await found(store) == [r.event_id for r in newest_first]
    assert await found(store, source="s1") == expected((2, 1))
    assert await found(store, type="t2") == expected((3, 2))
    assert await found(store, key="k4") == expected((5, 4))
    assert await found(store, source="s1", type="t2", key="k4") == expected((2, 1), (3, 2), (5, 4))
    since, until = ids.moment(base + 10), ids.moment(base + 20)
    assert await found(store, since=since) == [r.event_id for r in rows[:9:-1]]
    assert await found(store, until=until) == [r.event_id for r in rows[19::-1]]
    between = await found(store, since=since, until=until)
    assert between == [r.event_id for r in rows[19:9:-1]]
    assert await found(store, json='{"n": 7}', since=since - MINUTE) == [rows[7].event_id]
    assert await found(store, json='{"a": [12]}', since=since - MINUTE) == [rows[12].event_id]
    assert await found(store, json='{"n": 7}', since=since) == []
    everything = await found(
        store, source="s1", type="t2", key="k1", json='{"n": 11}', since=since, until=until, after=rows[19].event_id
    )
    assert everything == [rows[11].event_id]
    assert await found(store, source="S1") == []
    assert await found(store, after=rows[3].event_id, limit=2) == [rows[2].event_id, rows[1].event_id]


@with_store
async def test_pages_never_overlap_or_skip_while_rows_come(store: Store) -> None:
    """Newer rows come before the first page, late ones (another partition of Kafka) into pages not read yet."""
    base = now_ms() - 60_000
    rows = [row(base + n // 3, source="erp") for n in range(100)]  # several of one millisecond
    await archive(store, *rows)
    seen: list[Any] = []
    late: list[EventRow] = []
    after = None
    while page := await found(store, source="erp", after=after, limit=7):
        seen += page
        after = page[-1]
        arriving = [row(now_ms()), row(base - 1 - len(late))]
        late.append(arriving[1])
        await archive(store, *arriving)
        if len(late) == 20:
            break
    assert len(seen) == len(set(seen))
    assert seen == sorted(seen, reverse=True)
    assert set(seen) >= {r.event_id for r in rows}
    assert set(seen) <= {r.event_id for r in [*rows, *late]}


@with_store
async def test_get_tells_nothing_or_everything(store: Store) -> None:
    one = row(marks=b'[["kwb_part","1/2"]]', traceparent="00-1", query="x=1", key_bytes=b"\xff")
    assert await events.get(store, one.event_id) is None
    await archive(store, one)
    stored = await events.get(store, one.event_id)
    assert stored is not None
    assert {name: stored[name] for name in ("query", "traceparent", "key_bytes", "headers", "marks")} == {
        "query": "x=1", "traceparent": "00-1", "key_bytes": b"\xff", "headers": b'[["host", "bridge.example"]]',
        "marks": b'[["kwb_part", "1/2"]]',
    }  # fmt: skip


def test_a_search_that_takes_too_long_is_ended_with_advice(database: str) -> None:
    """A lock makes it wait; PostgreSQL itself ends the statement, and the connection stays usable."""

    async def run() -> None:
        async with Store(store_settings(database, statement_timeout_ms=200, connections_max=2)) as store:
            await migrate(store)
            async with store.connection("locking", timeout_ms=TIMEOUT_MS) as other, other.transaction():
                await other.execute("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
                with pytest.raises(StoreError, match=r"while searching: .*statement timeout.*57014") as caught:
                    await events.search(store, Search(source="erp"))
                assert "--since 1h" in caught.value.hint
                with pytest.raises(StoreError, match=r"while reading an event: .*57014"):
                    await events.get(store, row().event_id)
            assert await events.search(store, Search(source="erp")) == []

    asyncio.run(run())


@pytest.mark.parametrize("document", ['"\\u0000"', "1e200000", "[" * 20_000 + "]" * 20_000], ids=["nul", "big", "deep"])
@with_store
async def test_json_that_postgresql_refuses_is_an_error(store: Store, document: str) -> None:
    with pytest.raises(StoreError, match="while searching"):
        await events.search(store, Search(json=document))
    assert await events.search(store, Search()) == []


# ---- plans -----------------------------------------------------------------------------------------------------------

DAYS, ROWS_A_DAY = 8, 8_000
TODAY = now_ms() // ids.DAY_MS * ids.DAY_MS  # once: midnight may pass while the tests run
DAY = timedelta(days=1)
FILL = """
INSERT INTO events (event_id, received_at, source, type, method, path, headers, body, body_json, key, verified,
                    covers_body, dedupe_key, format, topic, topic_id, partition, "offset")
SELECT (lpad(to_hex($1 + n), 12, '0') || '7000' || '8' || lpad(to_hex(n), 15, '0'))::uuid,
       to_timestamp(($1 + n) / 1000.0), 's' || n % 500, 't' || n % 50, 'POST', '/erp', '[]', '\\x7b7d',
       jsonb_build_object('order', jsonb_build_object('id', n), 'shop', n % 4), 'k' || n % 2000, 'basic', false,
       CASE WHEN n % 2 = 0 THEN 'd' || n % 3000 END, 'raw', 'erp', gen_random_uuid(), n % 6, n
FROM generate_series(1, $2::bigint) AS n
"""


@pytest.fixture(scope="module")
def filled(stack: Stack) -> Iterator[str]:
    """A database with eight days of events, analysed as autovacuum does, so that the planner decides as there."""
    name = "test_plans"

    async def admin(sql: str) -> None:
        connection = await asyncpg.connect(stack.postgres.admin_url)
        try:
            await connection.execute(sql)
        finally:
            await connection.close()

    async def fill(url: str) -> None:
        async with Store(store_settings(url)) as store:
            await migrate(store)
            for day in range(DAYS):
                await partitions.make(store, TODAY - day * ids.DAY_MS, TODAY - (day - 1) * ids.DAY_MS)
            async with store.connection("filling", timeout_ms=TIMEOUT_MS) as connection:
                for day in range(DAYS):
                    await connection.execute(FILL, TODAY - day * ids.DAY_MS, ROWS_A_DAY)
                await connection.execute("ANALYZE events")

    asyncio.run(admin(f"CREATE DATABASE {name} OWNER kwb"))
    url = stack.postgres.url.rpartition("/")[0] + f"/{name}"
    try:
        asyncio.run(fill(url))
        yield url
    finally:
        asyncio.run(admin(f"DROP DATABASE {name} WITH (FORCE)"))


class Plan:
    """What a statement reads: `tables` (partitions), those `scanned` from end to end, `indexes` by their columns.

    The default partition is left out: it is empty here and almost so elsewhere, where any way through it is as good.
    """

    def __init__(self, node: dict[str, Any]) -> None:
        self.tables: set[str] = set()
        self.scanned: set[str] = set()
        self.indexes: set[str] = set()
        self._walk(node)

    def _walk(self, node: dict[str, Any]) -> None:
        for child in node.get("Plans", ()):
            self._walk(child)
        name = node.get("Relation Name") or node.get("Index Name", "")  # below a bitmap an index stands alone
        if not name or name.startswith("events_default"):
            return
        if "Relation Name" in node and node["Node Type"] != "ModifyTable":
            self.tables.add(name)
        if node["Node Type"] == "Seq Scan":
            self.scanned.add(name)
        if index := node.get("Index Name"):
            kinds = ("source", "type", "dedupe_key", "key", "body_json", "pkey")
            self.indexes.add(next(kind for kind in kinds if f"_{kind}_" in f"{index}_"))


def plan(url: str, sql: str, *arguments: Any) -> Plan:
    async def run() -> Plan:
        async with (
            Store(store_settings(url)) as store,
            store.connection("explaining", timeout_ms=TIMEOUT_MS) as connection,
            connection.transaction(),
        ):
            (line,) = await connection.fetch(f"EXPLAIN (FORMAT JSON) {sql}", *arguments)
            return Plan(json.loads(line[0])[0]["Plan"])

    return asyncio.run(run())


def search_plan(url: str, **wanted: Any) -> Plan:
    sql, arguments = Search(**wanted).statement()
    return plan(url, sql, *arguments)


def table(days_before: int) -> str:
    return f"events_{ids.moment(TODAY - days_before * ids.DAY_MS):%Y%m%d}"


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        ({}, {"pkey"}),
        ({"source": "s3"}, {"source"}),
        ({"type": "t7"}, {"type"}),
        ({"key": "k9"}, {"key"}),
        ({"source": "s3", "key": "k3"}, {"source", "key"}),
        ({"source": "none"}, {"source"}),
    ],
    ids=lambda value: str(sorted(value)),  # the same in every process
)
def test_habit_6_each_filter_reads_its_index_in_order(filled: str, wanted: dict[str, str], index: set[str]) -> None:
    """No table is read through: the first page costs the same in a large archive.

    (Of a filter that every twentieth event passes, PostgreSQL rightly walks the primary key instead.)
    """
    got = search_plan(filled, **wanted)
    assert got.indexes
    assert got.indexes <= index
    assert got.scanned == set()
    assert got.tables == {table(day) for day in range(DAYS)}


@pytest.mark.parametrize("wanted", [{}, {"source": "s3"}, {"type": "t7"}, {"key": "k9"}], ids=str)
def test_rule_18_times_and_pages_prune_partitions(filled: str, wanted: dict[str, str]) -> None:
    today = ids.moment(TODAY)
    since = search_plan(filled, since=today - DAY, until=today, **wanted)
    assert since.tables == {table(1)}
    older = search_plan(filled, after=ids.floor(TODAY - 5 * ids.DAY_MS), **wanted)
    assert older.tables == {table(6), table(7)}
    assert since.scanned == older.scanned == set()


def test_rule_21_json_containment_reads_its_index_inside_its_time(filled: str) -> None:
    since = ids.moment(TODAY) - DAY
    for document in ('{"order": {"id": 77}}', '{"order": {"id": -1}}'):
        got = search_plan(filled, json=document, since=since)
        assert got.indexes <= {"body_json", "pkey"}
        assert "body_json" in got.indexes
        assert got.tables == {table(0), table(1)}
        assert got.scanned == set()
        # However few are asked for: the planner would rather walk backwards until one is found, or none.
        assert search_plan(filled, json=document, since=since - 6 * DAY, limit=1).indexes == {"body_json"}
    combined = search_plan(filled, json='{"shop": 1, "order": {"id": 77}}', source="s17", since=since)
    assert combined.indexes <= {"source", "body_json"}  # whichever leaves fewer
    assert combined.scanned == set()


def test_one_event_is_read_from_one_partition(filled: str) -> None:
    event_id = ids.floor(TODAY - 3 * ids.DAY_MS)
    got = plan(filled, QUERIES["events_get"], event_id)
    assert (got.indexes, got.tables) == ({"pkey"}, {table(3)})


def test_duplicates_are_found_by_their_key(filled: str) -> None:
    low, high = ids.floor(TODAY - 2 * ids.DAY_MS), ids.floor(TODAY + ids.DAY_MS)
    marking = plan(filled, QUERIES["events_mark_duplicates"], ["d2", "d4", "d6"], low, high, 7)
    assert "dedupe_key" in marking.indexes
    assert marking.indexes <= {"dedupe_key", "pkey"}
    assert marking.scanned == set()
    assert marking.tables == {table(0), table(1), table(2)}
    listing = plan(filled, QUERIES["events_copies"], "d2", low, 20)
    assert (listing.indexes, listing.scanned) == ({"dedupe_key"}, set())
    assert listing.tables == {table(0), table(1), table(2)}
