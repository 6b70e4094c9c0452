"""Claims on deliveries: one at a time has one, an id stays, a durable one is never claimed again inside the window."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from hashlib import sha256

import pytest
from events_data import TIMEOUT_MS, days_ago, event_id, now_ms, store_settings, with_store

from kafka_webhook_bridge.event import Stored
from kafka_webhook_bridge.store import Store, deliveries, migrate
from kafka_webhook_bridge.store.deliveries import Durable, Mine, Settled, Standing, UnderWay

pytestmark = pytest.mark.integration

SHA256 = sha256(b"{}").hexdigest()


def key(name: str) -> str:
    return sha256(name.encode()).hexdigest()


def new(at_ms: int | None = None) -> str:
    return str(event_id(at_ms))


async def claim(store: Store, name: str, identity: str, *, lease_ms: int = 600_000, window_days: int = 7) -> Standing:
    found = await deliveries.claim(
        store, {key(name): identity}, lease_ms=lease_ms, oldest_ms=days_ago(window_days), timeout_ms=TIMEOUT_MS
    )
    return found[key(name)]


async def settle(store: Store, name: str, identity: str, stored: Stored = "kafka") -> Durable:
    durable = Durable(identity, stored, "t", SHA256)
    await deliveries.settle(store, [Settled(key(name), durable)], timeout_ms=TIMEOUT_MS)
    return durable


@with_store
async def test_rule_14_a_claim_a_pending_one_and_a_durable_one(store: Store) -> None:
    first, other = new(), new()
    assert await claim(store, "a", first) == Mine(first)
    assert await claim(store, "a", other) == UnderWay(first)
    durable = await settle(store, "a", first)
    assert await claim(store, "a", other) == durable
    assert await claim(store, "b", other) == Mine(other)


@with_store
async def test_rule_14_an_expired_or_released_claim_is_taken_over_with_its_id(store: Store) -> None:
    first = new()
    assert await claim(store, "a", first, lease_ms=0) == Mine(first)
    assert await claim(store, "a", new()) == Mine(first)
    assert await claim(store, "a", new()) == UnderWay(first)
    await deliveries.release(store, {key("a"): new()}, timeout_ms=TIMEOUT_MS)  # somebody else's
    assert await claim(store, "a", new()) == UnderWay(first)
    await deliveries.release(store, {key("a"): first}, timeout_ms=TIMEOUT_MS)
    assert await claim(store, "a", new()) == Mine(first)
    durable = await settle(store, "a", first)
    await deliveries.release(store, {key("a"): first}, timeout_ms=TIMEOUT_MS)
    assert await claim(store, "a", new()) == durable


@with_store
async def test_rule_14_a_row_is_settled_by_its_own_event_alone(store: Store) -> None:
    first, other = new(), new()
    await claim(store, "a", first)
    await settle(store, "a", other)  # stored without a claim, while PostgreSQL did not answer
    assert await claim(store, "a", new()) == UnderWay(first)
    durable = await settle(store, "a", first, "outbox")
    await settle(store, "a", first, "kafka")  # the relay's, later: the first receipt said outbox
    assert await claim(store, "a", new()) == durable
    more = await settle(store, "a", first, "both")
    assert await claim(store, "a", new()) == more
    never_claimed = await settle(store, "b", other)
    assert await claim(store, "b", new()) == never_claimed


@with_store
async def test_rule_12_beyond_the_window_nothing_is_a_duplicate(store: Store) -> None:
    old, older, fresh = new(days_ago(6.9)), new(days_ago(7.1)), new()
    await claim(store, "old", old)
    durable = await settle(store, "old", old)
    await claim(store, "older", older)
    await settle(store, "older", older)
    await claim(store, "pending", older)
    assert await claim(store, "old", fresh) == durable
    assert await claim(store, "older", fresh) == Mine(fresh)
    assert await claim(store, "pending", fresh) == UnderWay(older)  # somebody is at work on it all the same
    await deliveries.release(store, {key("pending"): older}, timeout_ms=TIMEOUT_MS)
    assert await claim(store, "pending", fresh) == Mine(fresh)
    assert await deliveries.expire(store, days_ago(7)) == 0
    assert await deliveries.expire(store, days_ago(6)) == 1
    assert await claim(store, "old", fresh) == Mine(fresh)


def test_rule_14_of_many_callers_at_once_each_delivery_has_one(database: str) -> None:
    """Batches in any order: nobody waits for somebody who waits for them."""
    names = [f"n{i}" for i in range(200)]
    callers, rounds = 6, 5

    async def call(store: Store, won: Counter[str]) -> None:
        for _ in range(rounds):
            batch = {key(name): new() for name in random.sample(names, 150)}
            found = await deliveries.claim(store, batch, lease_ms=600_000, oldest_ms=days_ago(7), timeout_ms=TIMEOUT_MS)
            mine = [k for k, standing in found.items() if isinstance(standing, Mine)]
            won.update(mine)
            durable = [Settled(k, Durable(batch[k], "kafka", "t", SHA256)) for k in mine]
            random.shuffle(durable)
            await deliveries.settle(store, durable, timeout_ms=TIMEOUT_MS)

    async def run() -> None:
        won: Counter[str] = Counter()
        stores = [Store(store_settings(database)) for _ in range(callers)]
        for store in stores:
            await store.open()
        await migrate(stores[0])
        await asyncio.gather(*(call(store, won) for store in stores))
        assert set(won.values()) == {1}
        for name in names:
            assert isinstance(await claim(stores[0], name, new()), Durable | Mine)
        for store in stores:
            await store.close()

    asyncio.run(run())


@with_store
async def test_an_empty_settlement_and_a_large_batch(store: Store) -> None:
    batch = {key(str(n)): new() for n in range(1_000)}
    found = await deliveries.claim(store, batch, lease_ms=1, oldest_ms=now_ms() - 1, timeout_ms=TIMEOUT_MS)
    assert found == {k: Mine(identity) for k, identity in batch.items()}
    await deliveries.settle(store, [], timeout_ms=TIMEOUT_MS)
    assert await deliveries.expire(store, now_ms() + 1_000) == 1_000
