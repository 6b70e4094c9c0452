"""Batches of rows with their positions: all or nothing, one row per event, one bad row spoils no other."""

from __future__ import annotations

import asyncio
import os
import uuid

import pytest
from events_data import TIMEOUT_MS, archive, days_ago, event_id, now_ms, row, with_store

from kafka_webhook_bridge.errors import Fenced
from kafka_webhook_bridge.store import Store, events
from kafka_webhook_bridge.store.archive import Move, Place, Written, read_positions, start_positions, write

TOPIC_ID, FORMER_ID = uuid.UUID(int=11), uuid.UUID(int=12)
PLACE, OTHER = Place(TOPIC_ID, 0), Place(TOPIC_ID, 1)


async def count(store: Store) -> int:
    return len(await events.search(store, events.Search(limit=1000)))


async def position(store: Store, place: Place = PLACE) -> int:
    return (await read_positions(store, {"erp": TOPIC_ID})).next_offset[place]


# ---- positions -------------------------------------------------------------------------------------------------------


@with_store
async def test_rule_19_rows_and_positions_move_together_or_not_at_all(store: Store) -> None:
    await start_positions(store, [("erp", PLACE, 0), ("erp", OTHER, 5)])
    await start_positions(store, [("erp", PLACE, 99)])  # whoever is slower changes nothing
    moves = {PLACE: Move(0, 2), OTHER: Move(5, 6)}
    rows = [row(), row()]
    assert await write(store, rows, moves, dedupe_window_days=7, timeout_ms=TIMEOUT_MS) == Written(2, 0, 0)
    assert (await position(store), await position(store, OTHER)) == (2, 6)

    for wrong in ({PLACE: Move(0, 3)}, {PLACE: Move(2, 3), OTHER: Move(5, 7)}, {Place(TOPIC_ID, 9): Move(0, 1)}):
        with pytest.raises(Fenced, match="Another archiver"):
            await write(store, [row()], wrong, dedupe_window_days=7, timeout_ms=TIMEOUT_MS)
    assert (await position(store), await position(store, OTHER)) == (2, 6)
    assert await count(store) == 2


@with_store
async def test_rule_19_of_two_archivers_with_one_position_one_writes(store: Store) -> None:
    await start_positions(store, [("erp", PLACE, 0)])
    both = [write(store, [row()], {PLACE: Move(0, 1)}, dedupe_window_days=7, timeout_ms=TIMEOUT_MS) for _ in range(2)]
    done = await asyncio.gather(*both, return_exceptions=True)
    assert sorted(type(one).__name__ for one in done) == ["Fenced", "Written"]
    assert (await position(store), await count(store)) == (1, 1)


@with_store
async def test_rule_19_a_topic_made_anew_has_positions_of_its_own(store: Store) -> None:
    await start_positions(store, [("erp", Place(FORMER_ID, 0), 7), ("erp", PLACE, 0), ("else", OTHER, 3)])
    found = await read_positions(store, {"erp": TOPIC_ID})
    assert found.next_offset == {PLACE: 0, OTHER: 3}
    assert found.former_ids == {"erp": {FORMER_ID}}
    nothing = await read_positions(store, {"new": uuid.UUID(int=1)})
    assert (nothing.next_offset, nothing.former_ids) == ({}, {})


@with_store
async def test_positions_move_without_rows(store: Store) -> None:
    """Records that are none of the bridge's are passed over."""
    await start_positions(store, [("erp", PLACE, 0)])
    done = await write(store, [], {PLACE: Move(0, 500)}, dedupe_window_days=7, timeout_ms=TIMEOUT_MS)
    assert (done, await position(store)) == (Written(0, 0, 0), 500)


# ---- one row per event -----------------------------------------------------------------------------------------------


@with_store
async def test_promise_3_one_row_per_event_whatever_is_redelivered(store: Store) -> None:
    first = row(offset=1, body=b"first")
    assert (await archive(store, first)).events == 1
    assert (await archive(store, first._replace(offset=9, body=b"again"), row())).events == 1
    found = await events.get(store, first.event_id)
    assert found is not None
    assert (found["offset"], found["body"], found["state"]) == (1, b"first", "stored")
    assert await count(store) == 2


@with_store
async def test_rule_4_a_row_that_waited_gets_its_position(store: Store) -> None:
    waiting = row(topic_id=None, partition=None, offset=None)
    await archive(store, waiting)
    async with store.connection("waiting", timeout_ms=TIMEOUT_MS) as connection:
        await connection.execute("UPDATE events SET state = 'waiting'")
    assert (await archive(store, waiting._replace(topic_id=TOPIC_ID, partition=4, offset=44))).events == 1
    found = await events.get(store, waiting.event_id)
    assert found is not None
    assert (found["state"], found["topic_id"], found["partition"], found["offset"]) == ("stored", TOPIC_ID, 4, 44)


# ---- rows that PostgreSQL refuses ------------------------------------------------------------------------------------

LONG = os.urandom(4000).hex()  # more than an index entry takes, and it does not compress


@with_store
async def test_rule_20_a_refused_row_is_stored_without_what_was_derived(store: Store) -> None:
    await start_positions(store, [("erp", PLACE, 0)])
    derived = [
        row(body_json=b'{"broken"', key="k", body=b"1"),
        row(body_json=b'"\\u0000"', body=b"2"),
        row(key="nul\0", body=b"3"),
        row(key=LONG, body=b"4"),
        row(marks=b"{", body=b"5"),
        row(traceparent="\udc80", body=b"6"),
    ]
    rows = [row(key=str(n)) for n in range(40)]
    for place, bad in zip((0, 7, 8, 20, 33, 39), derived, strict=True):
        rows.insert(place, bad)
    done = await write(store, rows, {PLACE: Move(0, 46)}, dedupe_window_days=7, timeout_ms=TIMEOUT_MS)
    assert done == Written(events=46, marked=0, refused=6)
    assert await position(store) == 46
    for bad in derived:
        found = await events.get(store, bad.event_id)
        assert found is not None
        assert found["parse_error"].startswith("refused: ")
        assert (found["body"], found["body_json"], found["key"], found["type"]) == (bad.body, None, None, bad.type)
    for good in (one for one in rows if one not in derived):
        found = await events.get(store, good.event_id)
        assert found is not None
        assert (found["key"], found["body_json"], found["parse_error"]) == (good.key, b'{"n": 1}', None)


@with_store
async def test_rule_20_the_last_resort_keeps_the_body_and_the_position(store: Store) -> None:
    bare = [
        row(path="/nul\0", body=b"1", offset=1),
        row(type=LONG, body=b"2", offset=2),
        row(headers=b"[", body=b"3", offset=3),
        row(query="\ud800", body=b"4", offset=4),
        row(dedupe_key=LONG, body=b"5", offset=5),
    ]
    good = row()
    assert await archive(store, *bare, good) == Written(events=6, marked=0, refused=5)
    for bad in bare:
        found = await events.get(store, bad.event_id)
        assert found is not None
        assert (found["body"], found["offset"], found["source"]) == (bad.body, bad.offset, "erp")
        assert (found["type"], found["path"], found["headers"], found["dedupe_key"]) == ("", "", b"[]", None)


@with_store
async def test_every_byte_of_a_body_is_kept(store: Store) -> None:
    rows = [row(body=bytes(range(256)) * 100), row(body=b"", body_json=None), row(body=os.urandom(10 * 1024**2))]
    await archive(store, *rows)
    for one in rows:
        found = await events.get(store, one.event_id)
        assert found is not None
        assert found["body"] == one.body


# ---- duplicates ------------------------------------------------------------------------------------------------------


async def duplicates(store: Store) -> dict[uuid.UUID, uuid.UUID | None]:
    return {found["event_id"]: found["duplicate_of"] for found in await events.search(store, events.Search())}


@with_store
async def test_rule_12_the_earliest_of_a_dedupe_key_is_the_original(store: Store) -> None:
    """Also when it comes last: records of several partitions arrive in any order."""
    times = [days_ago(3) + n for n in range(4)]
    first, second, third, alone = (row(at, dedupe_key="d") for at in times)
    alone = alone._replace(dedupe_key="other")
    nobody = row(dedupe_key=None)
    assert (await archive(store, third, alone, nobody)).marked == 0
    assert (await archive(store, second)).marked == 1  # the third is a copy of the second
    assert (await archive(store, first)).marked == 2
    expected: dict[uuid.UUID, uuid.UUID | None] = dict.fromkeys((first.event_id, alone.event_id, nobody.event_id))
    assert await duplicates(store) == expected | dict.fromkeys((second.event_id, third.event_id), first.event_id)
    original = await events.get(store, first.event_id)
    assert original is not None
    assert await events.copies(store, original, 10) == [second.event_id, third.event_id]
    assert await events.copies(store, original, 1) == [second.event_id]
    assert (await archive(store, first, second)).marked == 0  # redelivered: nothing changes


@with_store
async def test_rule_12_outside_the_window_nothing_is_a_duplicate(store: Store) -> None:
    old, young = row(days_ago(8), dedupe_key="d"), row(dedupe_key="d")
    middle = row(days_ago(4), dedupe_key="d")
    assert (await archive(store, old, young)).marked == 0
    assert (await archive(store, middle)).marked == 2
    assert await duplicates(store) == {
        old.event_id: None, middle.event_id: old.event_id, young.event_id: middle.event_id,
    }  # fmt: skip
    assert (await archive(store, row(event_id=event_id(now_ms()), dedupe_key="d"), window_days=0)).marked == 0
