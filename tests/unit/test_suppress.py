"""Claims and settlements with a PostgreSQL that the test plays: nobody waits for it longer than they may."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest

from kafka_webhook_bridge import ids
from kafka_webhook_bridge.errors import StoreError
from kafka_webhook_bridge.event import Event, Record
from kafka_webhook_bridge.ingest import suppress
from kafka_webhook_bridge.ingest.auth import taken_over
from kafka_webhook_bridge.ingest.suppress import Answer, Claim, Suppress
from kafka_webhook_bridge.settings import load_settings
from kafka_webhook_bridge.store.deliveries import Durable, Mine, Settled, Standing, UnderWay

OURS, THEIRS = "01a2101b-bf46-7641-b0d2-5e6c126dcc3e", "01a2101b-0000-7641-b0d2-5e6c126dcc3e"
DURABLE = Durable(THEIRS, "kafka", "t", "00" * 32)


class Database:
    """`claims` and `settlements` are the statements so far; `answer` makes an answer, or raises, or never ends."""

    def __init__(self) -> None:
        self.claims: list[dict[str, str]] = []
        self.settlements: list[list[Settled]] = []
        self.released: list[dict[str, str]] = []
        self.answer: Callable[[dict[str, str]], Awaitable[dict[str, Standing]]] = self.mine

    async def mine(self, wanted: dict[str, str]) -> dict[str, Standing]:
        return {key: Mine(event_id) for key, event_id in wanted.items()}

    async def silent(self, _: dict[str, str]) -> dict[str, Standing]:
        await asyncio.Event().wait()
        raise AssertionError

    async def away(self, _: dict[str, str]) -> dict[str, Standing]:
        raise StoreError("away")

    async def claim(self, _: object, wanted: dict[str, str], **__: Any) -> dict[str, Standing]:
        self.claims.append(wanted)
        return await self.answer(wanted)

    async def settle(self, _: object, settled: list[Settled], **__: Any) -> None:
        self.settlements.append(settled)
        await self.answer({})

    async def release(self, _: object, claims: dict[str, str], **__: Any) -> None:
        self.released.append(claims)


class World:
    def __init__(self, database: Database) -> None:
        self.now = 1000.0
        self.database = database
        self.store: Any = object()
        self.suppress = Suppress(load_settings({}), self.store, lambda: self.now)
        self.answers: list[Answer] = []

    def claim(self, key: str = "aa", event_id: str = OURS) -> None:
        source: Any = type("S", (), {"ack": "any"})
        request: Any = None
        event = Event(event_id, 0, source, request, "t", None, "none", False, key)
        self.suppress.claim(event, self.now + 1.9, self.answers.append)

    async def forward(self, seconds: float) -> None:
        """The clock, and whatever follows from it."""
        self.now += seconds + 1e-6
        self.suppress._sweep()
        await settled_down()

    async def claimed(self) -> Claim:
        self.claim()
        await settled_down()
        found = self.answers.pop()
        assert isinstance(found, Claim)
        found.encoded(Record(found.event_id, "t", None, b"", [], "11" * 32))
        return found


async def settled_down() -> None:
    """Let every task go as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def working(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    database = Database()
    for name in ("claim", "settle", "release"):
        monkeypatch.setattr(suppress.deliveries, name, getattr(database, name))
    world = World(database)
    task = asyncio.create_task(world.suppress.run(world.store))
    try:
        yield world
        assert not task.done()
    finally:
        world.suppress.close()
        task.cancel()


def run(test: Callable[[World], Coroutine[Any, Any, None]], monkeypatch: pytest.MonkeyPatch) -> None:
    async def inside() -> None:
        async with working(monkeypatch) as world:
            await test(world)

    asyncio.run(inside())


def test_rule_1_a_silent_postgresql_is_not_waited_for_and_tried_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World) -> None:
        world.database.answer = world.database.silent
        world.claim()
        await world.forward(0.29)
        assert world.answers == []
        await world.forward(0.01)
        (claim,) = world.answers
        assert isinstance(claim, Claim)
        assert claim.event_id == OURS
        for n in range(100):
            world.claim(f"{n:02x}")
        assert len(world.answers) == 101
        claim.settle("kafka", lambda: world.answers.append(DURABLE))
        assert world.answers[-1] == DURABLE
        await world.forward(1)
        world.claim("b1")
        world.claim("b2")
        assert len(world.answers) == 103  # one of them tries
        await world.forward(0.3)
        assert len(world.answers) == 104
        assert len(world.suppress) == 0

    run(test, monkeypatch)


def test_rule_14_a_failure_is_an_answer_and_so_is_the_return(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World) -> None:
        world.database.answer = world.database.away
        await world.claimed()
        world.claim()
        assert len(world.database.claims) == 1  # the second one was not asked for
        world.database.answer = world.database.mine
        await world.forward(1)
        await world.claimed()
        await world.claimed()
        assert len(world.database.claims) == 3

    run(test, monkeypatch)


def test_rule_14_one_key_stands_in_a_statement_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World) -> None:
        world.claim()
        world.claim()
        world.claim("bb")
        await settled_down()
        assert [list(wanted) for wanted in world.database.claims] == [["aa", "bb"], ["aa"]]
        assert len(world.answers) == 3
        for claim in world.answers:
            assert isinstance(claim, Claim)
            claim.settle("kafka")
        await settled_down()
        assert [[s.dedupe_key for s in batch] for batch in world.database.settlements] == [["aa", "bb"], ["aa"]]

    run(test, monkeypatch)


def test_rule_14_one_that_meets_a_pending_delivery_asks_again_until_its_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test(world: World) -> None:
        async def pending(wanted: dict[str, str]) -> dict[str, Standing]:
            return {key: UnderWay(THEIRS) for key in wanted}

        async def durable(wanted: dict[str, str]) -> dict[str, Standing]:
            return dict.fromkeys(wanted, DURABLE)

        world.database.answer = pending
        world.claim("aa")
        world.claim("bb")
        await settled_down()
        await world.forward(0.04)
        assert len(world.database.claims) == 1
        await world.forward(0.01)
        assert [list(wanted) for wanted in world.database.claims] == [["aa", "bb"]] * 2
        # What is known to be under way is not stored beside it, whatever PostgreSQL says next, or does not say.
        for answer in (world.database.away, world.database.silent):
            world.database.answer = answer
            await world.forward(0.05)
        await world.forward(0.5)
        assert world.answers == []
        await world.forward(1.3)
        assert world.answers == [UnderWay(THEIRS)] * 2

    async def becomes_durable(world: World) -> None:
        async def pending(wanted: dict[str, str]) -> dict[str, Standing]:
            return {key: DURABLE if len(world.database.claims) > 1 else UnderWay(None) for key in wanted}

        world.database.answer = pending
        world.claim()
        await settled_down()
        await world.forward(0.05)
        assert world.answers == [DURABLE]

    run(test, monkeypatch)
    run(becomes_durable, monkeypatch)


def test_rule_14_a_2xx_waits_for_its_note_and_no_longer_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World) -> None:
        first, second, third = [await world.claimed() for _ in range(3)]
        noted: list[str] = []
        first.settle("kafka", lambda: noted.append("first"))
        assert noted == []
        await settled_down()
        assert noted == ["first"]
        (settled,) = world.database.settlements[0]
        assert settled == Settled("aa", Durable(OURS, "kafka", "t", "11" * 32))
        world.database.answer = world.database.silent
        second.settle("kafka", lambda: noted.append("second"))
        third.settle("kafka", lambda: 1 / 0)  # whose fault is not the others'
        await world.forward(0.31)
        assert noted == ["first", "second"]
        assert len(world.suppress) == 0

    run(test, monkeypatch)


def test_rule_14_what_came_to_nothing_is_released_before_the_next_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World) -> None:
        (await world.claimed()).release()
        await world.claimed()
        assert world.database.released == [{"aa": OURS}]

    run(test, monkeypatch)


def test_rule_14_an_event_that_is_taken_over_has_the_time_of_its_id() -> None:
    nothing: Any = None
    event = taken_over(Event(OURS, 5, nothing, nothing, "t", None, "none", False, "aa"), THEIRS)
    assert event.event_id == THEIRS
    assert event.received_ms == 0x01A2101B0000
    assert ids.parse(event.event_id) is not None
