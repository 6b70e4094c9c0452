"""Who delivers which event, of sources with `dedupe: suppress` (rules.md 14): claimed, then durable.

Every call is one statement for many deliveries, and dedupe keys are unique within a call.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from kafka_webhook_bridge import ids
from kafka_webhook_bridge.event import Stored
from kafka_webhook_bridge.store.pool import Connection, Store
from kafka_webhook_bridge.store.sql import QUERIES

EXPIRE_ROWS = 10_000  # in one transaction
_EXPIRE_TIMEOUT_MS = 120_000


class Mine(NamedTuple):
    """The claim holds; the event is stored under this id, which an earlier delivery may have been given."""

    event_id: str


class UnderWay(NamedTuple):
    """Another request makes the event durable; its id, where it could be seen."""

    event_id: str | None


class Durable(NamedTuple):
    """The event of an earlier delivery, as its receipt tells it."""

    event_id: str
    stored: Stored
    topic: str
    body_sha256: str


class Settled(NamedTuple):
    """A delivery whose event is durable. `dedupe_key` and `body_sha256` are hex."""

    dedupe_key: str
    event: Durable


Standing = Mine | UnderWay | Durable
_UNSEEN = UnderWay(None)


async def claim(
    store: Store, wanted: Mapping[str, str], *, lease_ms: int, oldest_ms: int, timeout_ms: int
) -> dict[str, Standing]:
    """How each delivery (dedupe key in hex → event id) stands after an attempt to claim it for `lease_ms`.

    Events from before `oldest_ms` (since 1970) are forgotten. Raises StoreError; then nobody knows what is claimed.
    """
    async with store.connection("claiming deliveries", timeout_ms=timeout_ms) as connection:
        rows = await connection.fetch(
            QUERIES["deliveries_claim"],
            [bytes.fromhex(key) for key in wanted],
            [uuid.UUID(event_id) for event_id in wanted.values()],
            ids.floor(oldest_ms),
            lease_ms,
        )
    found: dict[str, Standing] = dict.fromkeys(wanted, _UNSEEN)
    for key, event_id, mine, stored, topic, sha256 in rows:
        standing: Standing
        if mine:
            standing = Mine(str(event_id))
        elif stored is None:
            standing = UnderWay(str(event_id))
        else:
            standing = Durable(str(event_id), stored, topic, sha256.hex())
        found[key.hex()] = standing
    return found


async def claim_in(connection: Connection, wanted: Settled, *, lease_ms: int, oldest_ms: int) -> bool:
    """Whether nobody else delivers it or has: claimed then, in the transaction of the connection."""
    rows = await connection.fetch(
        QUERIES["deliveries_claim"], [bytes.fromhex(wanted.dedupe_key)], [uuid.UUID(wanted.event.event_id)],
        ids.floor(oldest_ms), lease_ms,
    )  # fmt: skip
    return any(row["mine"] and str(row["event_id"]) == wanted.event.event_id for row in rows)


async def settle(store: Store, deliveries: Sequence[Settled], *, timeout_ms: int) -> None:
    """Write that these are durable. One that was never claimed is written too. Raises StoreError."""
    async with store.connection("settling deliveries", timeout_ms=timeout_ms) as connection:
        await settle_in(connection, deliveries)


async def settle_in(connection: Connection, deliveries: Sequence[Settled]) -> None:
    """As `settle`, in the transaction of the connection. Raises what the driver raises."""
    await connection.execute(
        QUERIES["deliveries_settle"],
        [bytes.fromhex(d.dedupe_key) for d in deliveries],
        [uuid.UUID(d.event.event_id) for d in deliveries],
        [d.event.stored for d in deliveries],
        [d.event.topic for d in deliveries],
        [bytes.fromhex(d.event.body_sha256) for d in deliveries],
    )


async def release(store: Store, claims: Mapping[str, str], *, timeout_ms: int) -> None:
    """End the claims (dedupe key in hex → event id) of events that were not stored. Raises StoreError."""
    async with store.connection("releasing deliveries", timeout_ms=timeout_ms) as connection:
        await connection.execute(
            QUERIES["deliveries_release"],
            [bytes.fromhex(key) for key in claims],
            [uuid.UUID(event_id) for event_id in claims.values()],
        )


async def expire(store: Store, before_ms: int) -> int:
    """Forget the deliveries of events from before that time (ms since 1970); their number."""
    total = 0
    while True:
        async with store.connection("forgetting old deliveries", timeout_ms=_EXPIRE_TIMEOUT_MS) as connection:
            done = await connection.execute(QUERIES["deliveries_expire"], ids.floor(before_ms), EXPIRE_ROWS)
        count = int(done.split()[-1])
        total += count
        if count < EXPIRE_ROWS:
            return total
