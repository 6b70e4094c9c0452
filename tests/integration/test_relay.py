"""The relay on real servers: what PostgreSQL vouched for reaches Kafka, whatever is away, killed, slow or refused."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import asyncpg
import confluent_kafka as ck
import confluent_kafka.admin
import pytest
from archive_world import RECORD_BYTES_MAX, count, run, until
from relay_world import RelayWorld

from bridge import eventually, request, serving
from kafka_webhook_bridge import formats
from kafka_webhook_bridge.event import Record
from kafka_webhook_bridge.kafka.config import client_config
from kafka_webhook_bridge.kafka.producer import Outcome, Producer
from kafka_webhook_bridge.kafka.users import Users
from kafka_webhook_bridge.stack import Stack
from kafka_webhook_bridge.store import Store
from kafka_webhook_bridge.store.relay import Outbox
from kafka_webhook_bridge.store.sql import QUERIES

pytestmark = pytest.mark.integration

ck_admin: Any = confluent_kafka.admin


@pytest.fixture
def world(stack: Stack, database: str, topic: str) -> RelayWorld:
    return RelayWorld(stack, database, topic)


def test_what_waits_is_relayed_as_the_direct_path_would_have_sent_it(world: RelayWorld) -> None:
    async def test() -> None:
        await world.migrate()
        events = [world.event(os.urandom(n), key=b"k%d" % n if n % 2 else None) for n in range(700)]
        await world.put(*events)
        relayed = count("kwb_relay_relayed_total")
        async with world.relaying():
            await world.empty()
            await until(lambda: count("kwb_relay_relayed_total") - relayed == 700)
        sent = {event.event_id: formats.encode(event) for event in events}
        found = await world.read()
        assert len(found) == 700
        for record in found:
            expected = sent[dict(record.headers)["ce_id"].decode()]
            assert (record.key, record.value, record.headers) == (expected.key, expected.value, expected.headers)
        assert set((await world.states()).values()) == {"waiting"}  # until the archive has seen them in Kafka

    run(test())


def test_two_relays_share_the_work_and_send_nothing_twice(world: RelayWorld) -> None:
    async def test() -> None:
        await world.migrate()
        sent = await world.put(*(world.event() for _ in range(2000)))
        async with world.relaying(KWB_RELAY_BATCH_RECORDS_MAX="50") as one:
            async with world.relaying(KWB_RELAY_BATCH_RECORDS_MAX="50") as other:
                await world.empty()
            assert one._outbox.holder != other._outbox.holder
        assert sorted(await world.ids_in()) == sorted(sent)

    run(test())


def test_no_more_is_claimed_than_the_producer_has_room_for(world: RelayWorld) -> None:
    async def test() -> None:
        await world.migrate()
        sent = await world.put(*(world.event() for _ in range(300)))
        full = count("kwb_relay_failures_total", error="_QUEUE_FULL")
        async with world.relaying(KWB_KAFKA_QUEUE_RECORDS_MAX="10"):
            await world.empty()
        assert count("kwb_relay_failures_total", error="_QUEUE_FULL") == full
        assert sorted(await world.ids_in()) == sorted(sent)

    run(test())


def test_rows_that_somebody_locks_hold_nobody_up(world: RelayWorld) -> None:
    async def test() -> None:
        await world.migrate()
        sent = await world.put(*(world.event() for _ in range(100)))
        connection = await asyncpg.connect(world.environ["DATABASE_URL"])
        transaction = connection.transaction()
        await transaction.start()
        locked = await connection.fetch("SELECT event_id FROM outbox ORDER BY event_id LIMIT 10 FOR UPDATE")
        async with world.relaying():

            async def others_are_gone() -> bool:
                return len(await world.rows()) == 10

            await until(others_are_gone)
            assert (await world.rows()).keys() == {str(row[0]) for row in locked}
            await transaction.rollback()
            await world.empty()
        await connection.close()
        assert sorted(await world.ids_in()) == sorted(sent)

    run(test())


def test_rule_4_what_a_long_transaction_commits_late_is_not_passed(world: RelayWorld) -> None:
    """There is no position to be behind. An old snapshot beside it changes nothing."""

    async def test() -> None:
        await world.migrate()
        url = world.environ["DATABASE_URL"]
        idle, slow = await asyncpg.connect(url), await asyncpg.connect(url)
        snapshot, late = idle.transaction(isolation="repeatable_read"), slow.transaction()
        await snapshot.start()
        assert await idle.fetchval("SELECT count(*) FROM outbox") == 0
        await late.start()
        first = await world.put(world.event(), connection=slow)
        async with world.relaying():
            sent = first
            for _ in range(5):
                sent = sent + await world.put(*(world.event() for _ in range(20)))
                await world.empty()
            assert first[0] not in await world.ids_in()
            await late.commit()

            async def all_there() -> bool:
                return len(await world.ids_in()) == 101

            await until(all_there)
            await world.empty()
        await snapshot.rollback()
        await idle.close()
        await slow.close()
        assert sorted(await world.ids_in()) == sorted(sent)

    run(test())


def test_rule_2_a_row_waits_until_its_first_report_can_no_longer_come(world: RelayWorld) -> None:
    async def test() -> None:
        await world.migrate()
        (early,) = await world.put(world.event(), relay_after_s=3600)
        async with world.relaying():
            await world.put(world.event())

            async def only_the_other() -> bool:
                return len(await world.rows()) == 1

            await until(only_the_other)
            assert (await world.rows())[early]["attempts"] == 0
            assert early not in await world.ids_in()
            await world.fetch("UPDATE outbox SET relay_after = now()")
            await world.empty()
        assert early in await world.ids_in()

    run(test())


@pytest.mark.parametrize(("fail", "copies"), [("relay.claimed:kill", 1), ("relay.acked:kill", 2)])
def test_rule_2_a_relay_that_is_killed_loses_nothing(
    world: RelayWorld, stack: Stack, folder: Path, fail: str, copies: int
) -> None:
    """Killed between Kafka's report and the deletion it sends twice, with the same id."""
    environ = {
        **{name: world.environ[name] for name in ("DATABASE_URL", "KWB_RELAY_POLL_MS")},
        "KWB_KAFKA_DELIVERY_TIMEOUT_MS": "2000", "KWB_RELAY_STATEMENT_TIMEOUT_MS": "3000",
    }  # fmt: skip
    asyncio.run(world.migrate())
    events = [world.event(b"%d" % n) for n in range(20)]
    config = world.environ["KWB_CONFIG"]
    with serving(stack, folder, config=config, role="all", KWB_FAIL=fail, **environ) as broken:
        broken.expect_faults = True
        asyncio.run(world.put(*events))
        eventually(lambda: broken.said("child died"), "killed")
        broken.process.kill()
        broken.process.wait()
    assert len(asyncio.run(world.rows())) == 20
    with serving(stack, folder, config=config, role="all", **environ):
        asyncio.run(world.empty())
    found = Counter(asyncio.run(world.ids_in()))
    assert found.keys() == {event.event_id for event in events}
    assert max(found.values()) == copies


def test_kafka_away_and_back(world: RelayWorld) -> None:
    async def test() -> None:
        await world.migrate()
        async with world.relaying() as relay:
            sent = await world.put(*(world.event() for _ in range(50)))
            await world.empty()
            await asyncio.to_thread(world.stack.kafka.kill)
            try:
                await until(lambda: not relay._producer.available)
                sent += await world.put(*(world.event() for _ in range(50)))
            finally:
                await asyncio.to_thread(world.stack.kafka.start)
            await world.empty()
        assert sorted(await world.ids_in()) == sorted(sent)

    run(test())


def test_rule_10_a_lost_topic_blocks_its_events_alone_until_it_is_made(world: RelayWorld) -> None:
    missing = f"{world.topic}-missing"

    async def test() -> None:
        await world.migrate()
        await world.lost(missing)
        blocked = await world.put(*(world.event() for _ in range(30)), topic=missing)
        async with world.relaying() as relay:

            async def all_blocked() -> bool:
                rows = await world.rows()
                return bool(rows) and {row["state"] for row in rows.values()} == {"blocked"}

            await until(all_blocked)
            assert {row["reason"] for row in (await world.rows()).values()} == {"UNKNOWN_TOPIC"}
            assert set((await world.states()).values()) == {"blocked"}
            others = await world.put(*(world.event() for _ in range(30)))

            async def others_are_gone() -> bool:
                return (await world.rows()).keys() == set(blocked)

            await until(others_are_gone)
            assert missing not in world.admin.list_topics()  # nobody made it by trying
            (part,) = relay.parts()
            assert (part.name, part.status, part.durable) == ("relay", "degraded", False)
            assert f"{missing} (UNKNOWN_TOPIC)" in part.reason
            world.admin.ensure_topic(missing, RECORD_BYTES_MAX)
            await world.empty()
            await until(lambda: relay.parts() == [])
        assert sorted(await world.ids_in(missing)) == sorted(blocked)
        assert sorted(await world.ids_in()) == sorted(others)
        assert set((await world.states()).values()) == {"waiting"}

    run(test())


@pytest.mark.parametrize("announced", [False, True])
@pytest.mark.parametrize("number", [None, 1])
def test_rule_10_a_topic_that_never_was_is_made_for_the_events_that_wait_for_it(
    world: RelayWorld, announced: bool, number: int | None
) -> None:
    """Also when whoever began to make it died, and for a source that keeps order."""
    topic = f"{world.topic}-new"

    async def test() -> None:
        await world.migrate()
        if announced:
            await world.fetch("INSERT INTO topics VALUES ($1, $2, 'open_rule')", topic, uuid.UUID(int=0))
        sent = await world.put(*(world.event() for _ in range(30)), topic=topic, number=number)
        async with world.relaying(), world.relaying():
            await world.empty()
        assert sorted(await world.ids_in(topic)) == sorted(sent)
        topic_id = world.admin.topic_ids([topic])[topic]
        made = await world.fetch("SELECT topic_id::text, made_by FROM topics WHERE name = $1", topic)
        assert [tuple(row) for row in made] == [(topic_id, "open_rule" if announced else "source")]

    run(test())


def test_rule_10_a_topic_that_the_archive_followed_is_lost_and_not_made(world: RelayWorld) -> None:
    """Even where it is not on record."""
    topic = f"{world.topic}-followed"

    async def test() -> None:
        await world.migrate()
        await world.fetch("INSERT INTO archive_offsets VALUES (gen_random_uuid(), 0, $1, 7)", topic)
        (event_id,) = await world.put(world.event(), topic=topic)
        async with world.relaying() as relay:

            async def blocked() -> bool:
                return (await world.rows())[event_id]["state"] == "blocked"

            await until(blocked)
            assert world.admin.topic_ids([topic]) == {}
            await world.fetch("DELETE FROM outbox")
            await until(lambda: relay.parts() == [])  # nobody waits for it any more

    run(test())


def test_rule_10_a_source_that_came_and_went_while_kafka_was_away_loses_nothing(
    world: RelayWorld, stack: Stack, folder: Path
) -> None:
    file = folder / "bridge.yaml"
    topic = f"{world.topic}-brief"
    one, both = "one: {auth: none}", f"one: {{auth: none}}, brief: {{auth: none, topic: {topic}}}"
    file.write_text(f"sources: {{{one}}}\n")
    environ = {
        "DATABASE_URL": world.environ["DATABASE_URL"], "KWB_CONFIG": str(file), "KWB_RELAY_TOPIC_CHECK_MS": "200",
        "KWB_DELIVER_OUTBOX_WAIT_MS": "2000", "KWB_DELIVER_DEADLINE_MS": "4000",
    }  # fmt: skip
    with serving(stack, folder, role="all", **environ) as server:
        server.expect_faults = True  # librdkafka's words about a broker that is away
        eventually(lambda: server.ask(request("/one", b"x")).status == 200, "it serves")
        stack.kafka.kill()
        try:
            file.write_text(f"sources: {{{both}}}\n")
            server.process.send_signal(signal.SIGHUP)

            def stored() -> str:
                answer = server.ask(request("/brief", b"kept"))
                return answer.json["event_id"] if answer.status == 200 else ""

            event_id = eventually(stored, "the outbox takes it")
            file.write_text(f"sources: {{{one}}}\n")
            server.process.send_signal(signal.SIGHUP)
            eventually(lambda: server.ask(request("/brief", b"late")).status == 404, "the source is gone")
            server.stop()  # else a question about its topic may be under way still, and make it
        finally:
            stack.kafka.start()
    with serving(stack, folder, role="all", **environ) as server:
        asyncio.run(world.empty())
        assert event_id in asyncio.run(world.ids_in(topic))
        assert "relay" not in server.health(server.management_port)[1]["parts"]


def test_a_topic_that_fails_for_a_while_holds_no_other_up_and_loses_nothing(
    world: RelayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one whose replicas are away; a single broker cannot be brought to that, so the producer is."""
    weak = f"{world.topic}-weak"
    world.admin.ensure_topic(weak, RECORD_BYTES_MAX)
    tries = 0
    real = Producer.send

    def send(producer: Producer, record: Record, outcome: Outcome) -> None:
        nonlocal tries
        if record.topic != weak:
            real(producer, record, outcome)
            return
        tries += 1
        outcome.error = ck.KafkaError(ck.KafkaError._MSG_TIMED_OUT)
        asyncio.get_running_loop().call_soon(producer._finished, [outcome])

    async def test() -> None:
        await world.migrate()
        failing = await world.put(*(world.event() for _ in range(1000)), topic=weak)
        monkeypatch.setattr(Producer, "send", send)
        async with world.relaying(KWB_RELAY_BATCH_RECORDS_MAX="50"):
            await until(lambda: tries >= 50)
            sent = await world.put(*(world.event() for _ in range(50)))

            async def others_are_gone() -> bool:
                return (await world.rows()).keys() == set(failing)

            await until(others_are_gone)
            rows = (await world.rows()).values()
            assert {row["state"] for row in rows} == {"waiting"}
            assert {row["reason"] for row in rows} == {None, "_MSG_TIMED_OUT"}  # only some were tried: it is left alone
            monkeypatch.setattr(Producer, "send", real)
            await world.empty()
        assert sorted(await world.ids_in()) == sorted(sent)
        assert sorted(await world.ids_in(weak)) == sorted(failing)

    run(test())


def test_a_record_that_is_too_large_is_quarantined_and_the_others_go_on(world: RelayWorld) -> None:
    small = f"{world.topic}-small"
    world.admin.ensure_topic(small, 20_000)

    async def test() -> None:
        await world.migrate()
        (large,) = await world.put(world.event(b"x" * 50_000), topic=small)
        (edge,) = await world.put(world.event(b"x" * 19_000), topic=small)
        await world.fetch("UPDATE outbox SET size_bytes = 100 WHERE event_id = $1", uuid.UUID(edge))
        sent = await world.put(*(world.event() for _ in range(100)), topic=small)
        quarantined = count("kwb_relay_quarantined_total")
        async with world.relaying():

            async def rest_is_gone() -> bool:
                rows = await world.rows()
                return not {row["state"] for row in rows.values()} - {"quarantined"}

            await until(rest_is_gone)
            await until(lambda: count("kwb_relay_quarantined_total") > quarantined)
        rows = await world.rows()
        assert (rows[large]["reason"], rows[large]["lease_holder"]) == ("MSG_SIZE_TOO_LARGE", None)
        assert (await world.states())[large] == "quarantined"
        assert sorted([*await world.ids_in(small), *rows]) == sorted([large, edge, *sent])

    run(test())


def test_a_batch_that_is_too_large_condemns_none_of_its_records(world: RelayWorld) -> None:
    """Kafka's limit holds for a batch too; librdkafka fills batches beyond it."""
    small = f"{world.topic}-small"
    world.admin.ensure_topic(small, 5_000)

    async def test() -> None:
        await world.migrate()
        sent = await world.put(*(world.event(b"x" * 2_000, key=b"one") for _ in range(60)), topic=small)
        failures = count("kwb_relay_failures_total", error="MSG_SIZE_TOO_LARGE")
        async with world.relaying():
            await world.empty()
        assert count("kwb_relay_failures_total", error="MSG_SIZE_TOO_LARGE") > failures
        assert sorted(await world.ids_in(small)) == sorted(sent)

    run(test())


def test_a_topic_that_may_not_be_written_to_blocks_its_events_alone(world: RelayWorld, stack: Stack) -> None:
    """The bridge's own fault is no fault of the event: it waits until the right is granted."""
    user, denied, unseen = f"u-{world.topic}", f"{world.topic}-denied", f"{world.topic}-unseen"
    users = Users(stack.kafka.settings)
    users.put(user, "secret-1")
    for name in (denied, unseen):
        world.admin.ensure_topic(name, RECORD_BYTES_MAX)
    users.allow_reading(user, [denied])
    allow_writing(stack, user, world.topic)
    proxy = {
        "KAFKA_BOOTSTRAP_SERVERS": stack.kafka.proxy_bootstrap, "KAFKA_USERNAME": user, "KAFKA_PASSWORD": "secret-1",
        "KWB_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
    }  # fmt: skip

    async def test() -> None:
        await world.migrate()
        held = await world.put(*(world.event() for _ in range(20)), topic=denied)
        hidden = await world.put(*(world.event() for _ in range(20)), topic=unseen)
        sent = await world.put(*(world.event() for _ in range(20)))
        async with world.relaying(**proxy):

            async def the_others_are_blocked() -> bool:
                rows = await world.rows()
                return rows.keys() == {*held, *hidden} and {row["state"] for row in rows.values()} == {"blocked"}

            await until(the_others_are_blocked)
            assert {row["reason"] for row in (await world.rows()).values()} == {"TOPIC_AUTHORIZATION_FAILED"}
            await asyncio.to_thread(allow_writing, stack, user, denied)
            await asyncio.to_thread(allow_writing, stack, user, unseen)
            await world.empty()
        assert sorted(await world.ids_in()) == sorted(sent)
        assert sorted(await world.ids_in(denied)) == sorted(held)
        assert sorted(await world.ids_in(unseen)) == sorted(hidden)

    run(test())


def allow_writing(stack: Stack, user: str, topic: str) -> None:
    client = ck_admin.AdminClient(client_config(stack.kafka.settings))
    rule = ck_admin.AclBinding(
        ck_admin.ResourceType.TOPIC, topic, ck_admin.ResourcePatternType.LITERAL, f"User:{user}", "*",
        ck_admin.AclOperation.WRITE, ck_admin.AclPermissionType.ALLOW,
    )  # fmt: skip
    for future in client.create_acls([rule]).values():
        future.result(60)


def test_postgresql_away_while_kafka_acknowledges(world: RelayWorld) -> None:
    """What Kafka has is deleted as soon as PostgreSQL is back, and not sent again."""

    async def test() -> None:
        await world.migrate()
        sent = await world.put(*(world.event() for _ in range(300)))
        async with world.relaying(KWB_RELAY_BATCH_RECORDS_MAX="20"):

            async def begun() -> bool:
                return len(await world.rows()) < 300

            await until(begun)
            await asyncio.to_thread(world.stack.postgres.kill)
            await asyncio.to_thread(world.stack.postgres.start)
            await world.empty()
        assert set(await world.ids_in()) == set(sent)

    run(test())


def test_a_claim_reads_no_more_than_it_takes(world: RelayWorld) -> None:
    """Ten thousand rows of a topic that is held, and an outbox that was empty when it was last analysed."""

    async def test() -> None:
        await world.migrate()
        await world.fetch("ANALYZE outbox")
        await world.fetch("""
            INSERT INTO outbox (event_id, source, topic, value, headers, size_bytes, relay_after)
            SELECT gen_random_uuid(), 's', 'held', 'x', '[]', 3, now() - interval '1 hour'
            FROM generate_series(1, 10000)
        """)
        (one,) = await world.put(world.event())
        async with Store(world.settings.store) as store:
            outbox = Outbox(store, 60_000)
            rows = await outbox.claim(500, 2**20, 60.0, held=["held"])
            assert [str(row.event_id) for row in rows] == [one]
            assert await outbox.claim(500, 2**20, 60.0, held=["held"]) == []
            assert len(await outbox.claim(500, 2**20, 60.0, trial=["held"])) == 1
            assert len(await outbox.claim(500, 30, 60.0)) == 10  # of 3 bytes each
            async with store.connection("explaining", timeout_ms=60_000) as connection, connection.transaction():
                await connection.execute(QUERIES["relay_plan"])
                values = (500, uuid.uuid4(), ["held"], [], 2**20, 60.0)
                found = await connection.fetch("EXPLAIN (ANALYZE, TIMING OFF) " + QUERIES["relay_claim"], *values)
        plan = "\n".join(row[0] for row in found)
        assert "outbox_due_idx" in plan
        assert "Seq Scan" not in plan
        assert not re.search(r"Rows Removed by Filter: \d{3}", plan), plan

    run(test())
