"""Sources with `ordering: strict`: their events in order, whatever is away, refused, or relayed by whom."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest
from archive_world import RECORD_BYTES_MAX, run, until
from relay_world import RelayWorld

from kafka_webhook_bridge.archive import strict
from kafka_webhook_bridge.archive.relay import Relay
from kafka_webhook_bridge.event import Event
from kafka_webhook_bridge.observability import metrics
from kafka_webhook_bridge.observability.failpoints import Failure
from kafka_webhook_bridge.stack import Stack
from kafka_webhook_bridge.store import Store

pytestmark = pytest.mark.integration

BLOCKED = metrics.registry().gauge("kwb_relay_blocked_sources")


@pytest.fixture
def world(stack: Stack, database: str, topic: str) -> RelayWorld:
    return RelayWorld(stack, database, topic, KWB_RELAY_BATCH_RECORDS_MAX="20")


def one_partition(world: RelayWorld, number: int) -> list[Event]:
    """Events with one key, so that the order of the topic is theirs."""
    return [world.event(b"%d" % place, key=b"k") for place in range(number)]


def first_seen(found: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(found))


def test_rule_6_the_order_is_kept_while_kafka_and_relays_come_and_go(world: RelayWorld) -> None:
    async def test() -> None:
        await world.migrate()
        sent = await world.put(*one_partition(world, 400), number=1)

        async def left(rows: int) -> None:
            async def fewer() -> bool:
                return len(await world.rows()) <= rows

            await until(fewer)

        async with world.relaying():
            await left(300)
        async with world.relaying():
            await left(200)
            await asyncio.to_thread(world.stack.kafka.kill)
            await asyncio.to_thread(world.stack.kafka.start)
            await world.empty()
        assert first_seen(await world.ids_in()) == sent

    run(test())


def test_rule_6_two_relays_send_a_source_one_after_the_other(world: RelayWorld) -> None:
    async def test() -> None:
        await world.migrate()
        sent = await world.put(*one_partition(world, 200), number=1)
        async with world.relaying(), world.relaying():
            sent += await world.put(*one_partition(world, 100), number=1000)  # numbers may have gaps
            await world.empty()
        assert await world.ids_in() == sent

    run(test())


def test_rule_6_a_relay_that_fails_after_the_report_sends_again_in_order(
    world: RelayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> None:
        raise Failure(name)

    async def test() -> None:
        await world.migrate()
        sent = await world.put(*one_partition(world, 50), number=1)
        with monkeypatch.context() as broken:
            broken.setattr(strict, "failpoint", fail)
            async with Store(world.settings.store) as store:
                relay = Relay(world.settings, store, world.sources, lambda *_: None)
                with pytest.raises(ExceptionGroup) as raised:
                    await relay.run(asyncio.Event())
                assert raised.group_contains(Failure)
        assert len(await world.rows()) == 50
        async with world.relaying():
            await world.empty()
        found = await world.ids_in()
        assert len(found) > 50
        assert first_seen(found) == sent

    run(test())


def test_rule_6_a_source_that_is_blocked_holds_no_other_up(world: RelayWorld) -> None:
    missing = f"{world.topic}-missing"

    async def test() -> None:
        await world.migrate()
        await world.lost(missing)
        blocked = await world.put(*one_partition(world, 30), topic=missing, source="a", number=1)
        async with world.relaying() as relay:
            await until(lambda: BLOCKED.value == 1)
            assert [part.reason.partition(";")[0] for part in relay.parts()] == ["strict sources that wait: a"]
            strictly = await world.put(*one_partition(world, 30), source="b", number=1)
            freely = await world.put(*one_partition(world, 30))

            async def others_are_gone() -> bool:
                return (await world.rows()).keys() == set(blocked)

            await until(others_are_gone)
            head = (await world.rows())[blocked[0]]
            assert (head["state"], head["reason"]) == ("blocked", "UNKNOWN_TOPIC")
            assert (await world.states())[blocked[0]] == "blocked"
            assert missing not in world.admin.list_topics()
            world.admin.ensure_topic(missing, RECORD_BYTES_MAX)
            await world.empty()
            await until(lambda: BLOCKED.value == 0)
        assert await world.ids_in(missing) == blocked
        found = await world.ids_in()
        assert [one for one in found if one in strictly] == strictly
        assert sorted(found) == sorted([*strictly, *freely])

    run(test())


def test_rule_6_an_event_that_is_too_large_blocks_and_is_never_quarantined(world: RelayWorld) -> None:
    small = f"{world.topic}-small"
    world.admin.ensure_topic(small, 20_000)

    async def test() -> None:
        await world.migrate()
        before = await world.put(*one_partition(world, 10), topic=small, number=1)
        large = await world.put(world.event(b"x" * 50_000, key=b"k"), topic=small, number=11)
        after = await world.put(*one_partition(world, 10), topic=small, number=12)
        async with world.relaying():
            await until(lambda: BLOCKED.value == 1)
            rows = await world.rows()
            assert rows.keys() == {*large, *after}
            assert (rows[large[0]]["state"], rows[large[0]]["reason"]) == ("blocked", "MSG_SIZE_TOO_LARGE")
            assert await world.ids_in(small) == before
            await world.alter(small, "max.message.bytes", 1_000_000)
            await world.empty()
        assert await world.ids_in(small) == [*before, *large, *after]

    run(test())


def test_rule_6_what_stands_behind_a_refused_record_does_not_pass_it(
    world: RelayWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafka's limit was lowered since it was looked at, and the next records are under way already."""
    monkeypatch.setattr(strict, "_LOOK_S", 3600.0)

    async def test() -> None:
        await world.migrate()
        async with world.relaying():
            first = await world.put(world.event(key=b"k"), number=1)
            await world.empty()
            await world.alter(world.topic, "max.message.bytes", 1_100_000)
            large = world.event(b"x" * 1_200_000, key=b"k")  # a batch of its own
            rest = await world.put(large, *one_partition(world, 10), number=3)
            await until(lambda: BLOCKED.value == 1)
            assert await world.ids_in() == first
            assert (await world.rows()).keys() == set(rest)
            await world.alter(world.topic, "max.message.bytes", 2_000_000)
            await world.empty()
        assert await world.ids_in() == [*first, *rest]

    run(test())
