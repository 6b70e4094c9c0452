"""Deliveries sent again: marked in the archive, or answered with the receipt of the first (rules.md 12 to 14)."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import asyncpg
import pytest
from dedupe_world import (
    CLAIM_WAIT_S,
    bridge_for,
    claimed,
    deliver,
    delivered,
    delivery,
    ids_in,
    in_flight,
    key_of,
    records,
    refused_while_pending,
    set_lease,
)
from outbox_world import DEADLINE_S, KAFKA_WAIT_S, Grown, balanced, frozen, outbox

from bridge import Serve, eventually, request, serving
from databases import empty_database, rows
from kafka_webhook_bridge.stack import Stack

pytestmark = pytest.mark.integration

TOPIC = f"dedupe-{secrets.token_hex(4)}"


@pytest.fixture(scope="module")
def database(stack: Stack) -> Iterator[str]:
    with empty_database(stack.postgres) as url:
        yield url


@pytest.fixture(scope="module")
def server(stack: Stack, database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """A bridge with its archive. Every test has delivery ids and bodies of its own."""
    with bridge_for(stack, tmp_path_factory.mktemp("dedupe"), TOPIC, database, role="all") as server:
        yield server


@contextlib.contextmanager
def mute_table(database: str) -> Iterator[None]:
    """PostgreSQL answers, but for the table of deliveries."""

    async def hold() -> asyncpg.Connection:
        connection = await asyncpg.connect(database)
        await connection.execute("BEGIN; LOCK TABLE deliveries IN ACCESS EXCLUSIVE MODE")
        return connection

    with asyncio.Runner() as runner:
        connection = runner.run(hold())
        try:
            yield
        finally:
            runner.run(connection.close())


# ── mark ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_rule_12_a_delivery_sent_again_is_an_event_of_its_own_that_the_archive_marks(
    server: Serve, stack: Stack, database: str
) -> None:
    grown = Grown(server)
    body = b"marked"
    sent = [*(("marks", name) for name in ("1", "1", "2", "", "")), ("others", "1"), ("marks", "1")]
    receipts = [delivered(server, source, name, body) for source, name in sent]
    assert [r["duplicate"] for r in receipts] == [False] * len(sent)
    assert len({r["event_id"] for r in receipts}) == len(sent)
    query = "SELECT event_id::text, dedupe_key, duplicate_of::text FROM events WHERE body = $1"
    eventually(lambda: len(rows(database, query, body)) == len(sent), "archived")
    eventually(lambda: grown("kwb_archive_duplicates_marked_total") == 2, "marked")
    found = {row[0]: (row[1], row[2]) for row in rows(database, query, body)}
    first = receipts[0]["event_id"]
    one, two, others = key_of("marks", b"1"), key_of("marks", b"2"), key_of("others", b"1")
    assert [found[r["event_id"]] for r in receipts] == [
        (one, None), (one, first), (two, None), (None, None), (None, None), (others, None), (one, first),
    ]  # fmt: skip
    keys = Counter(dict(m.headers).get("kwb_dedupe_key") for m in records(stack, TOPIC, body))
    assert keys == {one.encode(): 3, two.encode(): 1, others.encode(): 1, None: 2}


def test_rule_13_the_delivery_id_may_stand_in_the_body_or_be_the_body(server: Serve, stack: Stack) -> None:
    large = b'{"id": "D-9", "filler": "' + b"x" * 40_000 + b'"}'
    sent = {
        ("inside", b'{"id": 7}'): key_of("inside", b"7"),
        ("inside", large): key_of("inside", b"D-9"),
        ("inside", b"no JSON"): None,
        ("whole", b"\0\xff"): key_of("whole", sha256(b"\0\xff").digest()),
    }
    for (source, body), key in sent.items():
        delivered(server, source, "", body)
        (record,) = records(stack, TOPIC, body)
        assert dict(record.headers).get("kwb_dedupe_key") == (key.encode() if key else None)


# ── suppress ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("source", ["any", "kafka", "store", "both"])
def test_rule_14_a_second_delivery_gets_the_first_ones_receipt_and_makes_no_record(
    server: Serve, stack: Stack, database: str, source: str
) -> None:
    grown = Grown(server)
    body, large = f"one {source}".encode(), f"large {source}".encode().ljust(600_000, b".")
    first = delivered(server, source, "1", body)
    again = delivered(server, source, "1", body)
    assert first["stored"] == {"store": "outbox", "both": "both"}.get(source, "kafka")
    assert (first["duplicate"], again) == (False, {**first, "duplicate": True})
    # The body of the third is not stored, so its receipt does not tell of it either.
    assert delivered(server, source, "1", b"altered") == again
    larger = [delivered(server, source, "large", large) for _ in range(2)]
    assert (larger[0]["duplicate"], larger[1]) == (False, {**larger[0], "duplicate": True})
    without = [delivered(server, source, "", b"without an id") for _ in range(2)]
    assert [r["duplicate"] for r in without] == [False, False]
    assert grown("kwb_requests_suppressed_total", source=source) == 3
    assert grown("kwb_dedupe_bodies_differ_total", source=source) == 1
    assert grown("kwb_dedupe_unknown_total") == 0
    assert eventually(lambda: balanced(server), "the accounts balance")
    assert claimed(database, source, "1") == (first["event_id"], first["stored"])
    if source != "store":  # else the relay brings it to Kafka, later
        assert ids_in(stack, TOPIC, body) == [first["event_id"]]
        assert ids_in(stack, TOPIC, large) == [larger[0]["event_id"]]
        assert ids_in(stack, TOPIC, b"altered") == []


def test_rule_14_of_concurrent_duplicates_one_is_stored(stack: Stack, folder: Path, topic: str, database: str) -> None:
    ids = [f"concurrent-{n}" for n in range(4)]
    with (
        bridge_for(stack, folder, topic, database, KWB_INGEST_WORKERS="2") as server,
        contextlib.ExitStack() as clients,
    ):
        waiting = [(i, clients.enter_context(server.open())) for _ in range(8) for i in ids]
        for name, client in waiting:
            client.send(delivery("any", name, name.encode()))
        receipts = [(name, client.answer().json) for name, client in waiting]
    for name in ids:
        mine = [receipt for i, receipt in receipts if i == name]
        assert len({receipt["event_id"] for receipt in mine}) == 1
        assert Counter(receipt["duplicate"] for receipt in mine) == {False: 1, True: 7}
        assert ids_in(stack, topic, name.encode()) == [mine[0]["event_id"]]


def test_rule_14_a_late_ack_makes_a_refused_delivery_durable(server: Serve, stack: Stack) -> None:
    body = b"late ack"
    with server.open() as client:
        with frozen(stack.kafka.pid):
            refused = refused_while_pending(server, "kafka", "late", body)
            assert (refused.status, refused.code) == (503, "deliver.timeout")
            again = refused_while_pending(server, "kafka", "late", body)
            assert (again.status, again.code) == (503, "deliver.under_way")
            assert again.json["event_id"] == refused.json["event_id"]
            assert "retry-after" in again.headers
            client.send(delivery("kafka", "late", body))
        receipt = client.answer().json
    assert (receipt["duplicate"], receipt["event_id"]) == (True, refused.json["event_id"])
    assert ids_in(stack, TOPIC, body) == [receipt["event_id"]]


def test_rule_14_what_the_outbox_has_is_durable_with_its_event(server: Serve, stack: Stack, database: str) -> None:
    body = b"to the outbox"
    with frozen(stack.kafka.pid):
        with server.open() as client:
            in_flight(server, 0)
            client.send(delivery("any", "outbox", body))
            in_flight(server, 1)
            server.forward(KAFKA_WAIT_S)
            first = client.answer().json
        assert (first["stored"], first["duplicate"]) == ("outbox", False)
        assert first["event_id"] in outbox(database)
        assert claimed(database, "any", "outbox") == (first["event_id"], "outbox")
        again = delivered(server, "any", "outbox", body)
    assert again == {**first, "duplicate": True}
    eventually(lambda: first["event_id"] not in outbox(database), "the late ack closes its row")
    assert delivered(server, "any", "outbox", body) == again  # the first receipt said outbox
    assert ids_in(stack, TOPIC, body) == [first["event_id"]]


def test_rule_14_where_both_must_have_it_the_outbox_alone_is_not_durable(
    server: Serve, stack: Stack, database: str
) -> None:
    body = b"in both"
    with frozen(stack.kafka.pid), server.open() as client:
        client.send(delivery("both", "both", body))
        pending = eventually(lambda: claimed(database, "both", "both"), "claimed")
        eventually(lambda: pending[0] in outbox(database), "the outbox has it")
        assert claimed(database, "both", "both") == (pending[0], None)
        server.forward(DEADLINE_S)
        assert (client.answer().status, pending[1]) == (503, None)
    receipt = delivered(server, "both", "both", body)
    assert receipt == {**receipt, "event_id": pending[0], "stored": "both", "duplicate": True}
    assert ids_in(stack, TOPIC, body) == [pending[0]]


def test_rule_14_a_claim_of_which_nothing_came_is_given_back(
    stack: Stack, folder: Path, topic: str, database: str
) -> None:
    limits = {"KWB_KAFKA_QUEUE_RECORDS_MAX": "1", "KWB_KAFKA_FAST_LANE_REQUESTS_MAX": "0"}
    with bridge_for(stack, folder, topic, database, **limits) as server:
        with frozen(stack.kafka.pid), server.open() as client:
            in_flight(server, 0)
            client.send(request("/plain", b"fills the queue"))
            in_flight(server, 1)
            refused = deliver(server, "kafka", "back", b"refused")
            assert (refused.status, refused.code) == (503, "deliver.queue_full")
        receipt = delivered(server, "kafka", "back", b"refused")  # long before the end of the lease
    assert (receipt["duplicate"], receipt["event_id"]) == (False, refused.json["event_id"])
    assert ids_in(stack, topic, b"refused") == [receipt["event_id"]]


def test_rule_14_without_an_answer_of_postgresql_deliveries_are_stored_and_marked(server: Serve, database: str) -> None:
    grown = Grown(server)
    with mute_table(database), server.open() as client:
        in_flight(server, 0)
        client.send(delivery("kafka", "mute", b"mute"))
        in_flight(server, 1)
        server.forward(CLAIM_WAIT_S)
        receipts = [client.answer().json]
        # Now it is known to be away: nobody else waits, but for one in a second.
        receipts += [deliver(server, "kafka", "mute", b"mute").json for _ in range(2)]
        assert server.said("duplicates are only marked: PostgreSQL does not tell of them")
        assert (grown("kwb_dedupe_unknown_total"), grown("kwb_dedupe_unsettled_total")) == (3, 3)
    assert [r["duplicate"] for r in receipts] == [False] * 3
    assert len({r["event_id"] for r in receipts}) == 3
    query = "SELECT duplicate_of::text FROM events WHERE dedupe_key = $1 ORDER BY event_id"
    marks = [None, receipts[0]["event_id"], receipts[0]["event_id"]]
    key = key_of("kafka", b"mute")
    eventually(lambda: [row[0] for row in rows(database, query, key)] == marks, "marked")
    server.forward(1)
    delivered(server, "kafka", "after mute")
    assert server.said("duplicates are suppressed again")
    assert delivered(server, "kafka", "after mute")["duplicate"] is True


def test_rule_14_a_2xx_does_not_wait_for_the_note_that_it_is_durable(
    server: Serve, stack: Stack, database: str
) -> None:
    grown, body = Grown(server), b"noted late"
    with server.open() as client, contextlib.ExitStack() as muted:
        with frozen(stack.kafka.pid):
            client.send(delivery("kafka", "note", body))
            eventually(lambda: claimed(database, "kafka", "note"), "claimed")
            muted.enter_context(mute_table(database))
        eventually(lambda: grown("kwb_events_total", source="kafka", path="direct") == 1, "acknowledged")
        server.forward(CLAIM_WAIT_S)
        first = client.answer().json
        assert (first["duplicate"], grown("kwb_dedupe_unsettled_total")) == (False, 1)
    server.forward(1)
    set_lease(database, "kafka", "note", 0)
    again = delivered(server, "kafka", "note", body)  # a duplicate or not: perhaps the note was written after all
    assert again["event_id"] == first["event_id"]
    assert set(ids_in(stack, TOPIC, body)) == {first["event_id"]}


def test_rule_14_while_postgresql_is_away_every_delivery_is_stored(server: Serve, stack: Stack) -> None:
    first = delivered(server, "any", "away", b"away")
    stack.postgres.stop()
    try:
        receipts = [delivered(server, "any", "away", b"away") for _ in range(3)]
        assert [r["duplicate"] for r in receipts] == [False] * 3
    finally:
        stack.postgres.start()

    def suppressed() -> bool:
        server.forward(1)
        return delivered(server, "any", "away", b"away") == {**first, "duplicate": True}

    eventually(suppressed, "suppressed again")


def test_rule_12_beyond_the_window_a_delivery_is_a_new_event(server: Serve, database: str) -> None:
    first = delivered(server, "any", "window")
    day_ago = int(first["event_id"].replace("-", ""), 16) - (86_400_000 << 80)
    rows(
        database, "UPDATE deliveries SET event_id = $1 WHERE event_id = $2::text::uuid", f"{day_ago:032x}",
        first["event_id"],
    )  # fmt: skip
    later = delivered(server, "any", "window")
    assert (later["duplicate"], later["event_id"] > first["event_id"]) == (False, True)
    assert delivered(server, "any", "window") == {**later, "duplicate": True}


def test_a_source_that_suppresses_is_an_error_without_postgresql(stack: Stack, folder: Path, topic: str) -> None:
    words = f'sources: {{s: {{auth: none, topic: {topic}, delivery_id: "{{header:X-Id}}", dedupe: suppress}}}}'
    with pytest.raises(AssertionError, match="DATABASE_URL is not set"), serving(stack, folder, config=words):
        pass
