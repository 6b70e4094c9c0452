"""Deliveries that shall not be stored twice: sources with `dedupe: suppress` (rules.md 14).

    claim ──mine──▶ encode, deliver ──acknowledged──▶ settle ──written, or not in time──▶ 2xx
      ├──durable──▶ 2xx duplicate:true, with the first event's id
      ├──pending──▶ claimed again every 50 ms, until the request's deadline ──▶ 503
      └──no word of PostgreSQL in time──▶ delivered all the same; the archive marks what is a duplicate (rules.md 12)

Two tasks, one for claims and one for what is durable, each with one statement at a time: what comes meanwhile goes with
the next. Nobody waits for them: a timer of the loop answers what has waited for `claim_wait_ms` (rules.md 1).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from kafka_webhook_bridge import ids
from kafka_webhook_bridge.errors import StoreError
from kafka_webhook_bridge.event import Event, Record, Stored
from kafka_webhook_bridge.observability import logs, metrics
from kafka_webhook_bridge.observability.failpoints import failpoint
from kafka_webhook_bridge.settings import Settings
from kafka_webhook_bridge.store import Store, deliveries
from kafka_webhook_bridge.store.deliveries import Durable, Mine, Settled, Standing, UnderWay
from kafka_webhook_bridge.store.pool import Connection

_SWEEP_S = 0.02
_AGAIN_S = 0.05  # how often a delivery looks whether the pending one has become durable
_RETRY_S = 1.0  # while PostgreSQL is away, one try in so long; all others do without it
_ROWS_MAX = 1_000  # of one statement
_LEASE_MARGIN_MS = 1_000


class Claim:
    """One delivery on its way, with the id under which its event is stored.

    `topic` and `body_sha256` are known once its record is made (`encoded`); `both` tells that Kafka and PostgreSQL must
    have the event before it is durable.
    """

    __slots__ = (
        "_suppress", "again_at", "answer", "body_sha256", "both", "deadline", "dedupe_key", "event_id", "limit", "met",
        "topic",
    )  # fmt: skip

    def __init__(self, suppress: Suppress, event: Event, deadline: float, answer: Callable[[Answer], None]) -> None:
        assert event.dedupe_key is not None
        self._suppress = suppress
        self.dedupe_key = event.dedupe_key
        self.event_id = event.event_id
        self.both = event.source.ack == "both"
        self.deadline = deadline
        self.limit = 0.0
        self.again_at = 0.0
        self.met: UnderWay | None = None
        self.answer = answer
        self.topic = self.body_sha256 = ""

    def encoded(self, record: Record) -> None:
        """What the receipt will say of the event."""
        self.topic = record.topic
        self.body_sha256 = record.body_sha256

    def settled(self, stored: Stored) -> Settled:
        """The row that says that the event is durable."""
        return Settled(self.dedupe_key, Durable(self.event_id, stored, self.topic, self.body_sha256))

    def settle(self, stored: Stored, then: Callable[[], None] = lambda: None) -> None:
        """The event is durable. `then` is called on the loop once that is written, or cannot be in time."""
        self._suppress._settle(self.settled(stored), then)

    def release(self) -> None:
        """Nothing was stored: whoever delivers it next need not wait."""
        self._suppress._release(self)


async def settle_beside(connection: Connection, claims: list[Claim]) -> None:
    """Make the claims durable in the transaction that writes their events into the outbox.

    Not where Kafka must have the event as well: such a claim is settled when it has.
    """
    once = {claim.dedupe_key: claim.settled("outbox") for claim in reversed(claims) if not claim.both}
    await deliveries.settle_in(connection, list(once.values()))


class _Settlement:
    __slots__ = ("dedupe_key", "limit", "settled", "then")

    def __init__(self, settled: Settled, then: Callable[[], None], limit: float) -> None:
        self.dedupe_key = settled.dedupe_key
        self.settled = settled
        self.then = then
        self.limit = limit


Answer = Claim | Durable | UnderWay
Item = TypeVar("Item", Claim, _Settlement)


class _Queue(Generic[Item]):
    """What the next statement of a task is made of."""

    def __init__(self) -> None:
        self._items: dict[Item, None] = {}
        self._wake = asyncio.Event()

    def put(self, item: Item) -> None:
        self._items[item] = None
        self._wake.set()

    def drop(self, item: Item) -> None:
        self._items.pop(item, None)

    async def take(self) -> dict[str, Item]:
        """Items by dedupe key, each key once; another of the same key has to wait for the next statement."""
        while not self._items:
            self._wake.clear()
            await self._wake.wait()
        batch: dict[str, Item] = {}
        for item in self._items:
            if len(batch) == _ROWS_MAX:
                break
            batch.setdefault(item.dedupe_key, item)
        for item in batch.values():
            del self._items[item]
        return batch


class Suppress:
    """Knows of every delivery whether it is the first. Belongs to one loop; without a store it knows nothing.

    A connection has one claim at most, and every settlement is a record that Kafka has just acknowledged: that bounds
    both. `clock` gives monotonic seconds; tests move it (rules.md 33).
    """

    def __init__(self, settings: Settings, store: Store | None, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._wait_ms = settings.deliver.claim_wait_ms
        # Until the last moment at which Kafka could still report: whoever takes over then meets no one (rules.md 2).
        self._lease_ms = settings.deliver.deadline_ms + settings.kafka.delivery_timeout_ms + _LEASE_MARGIN_MS
        self._window_ms = settings.archive.dedupe_window_days * ids.DAY_MS
        self._claims: _Queue[Claim] = _Queue()
        self._settlements: _Queue[_Settlement] = _Queue()
        self._open: dict[Claim | _Settlement, None] = {}
        self._again: list[Claim] = []
        self._released: dict[str, str] = {}
        self._well = True
        self._retry_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._log = logs.get_logger("ingest")
        registry = metrics.registry()
        self._unknown = registry.counter("kwb_dedupe_unknown_total")
        self._unsettled = registry.counter("kwb_dedupe_unsettled_total")
        self._taken_over = registry.counter("kwb_dedupe_taken_over_total")

    def __len__(self) -> int:
        return len(self._open)

    # ── what the requests ask ─────────────────────────────────────────────────────────────────────────────────────

    def claim(self, event: Event, deadline: float, answer: Callable[[Answer], None]) -> None:
        """Whether this is the first delivery of an event that has a dedupe key. `deadline` is the request's (seconds).

        `answer` is called once: with the claim, whose `event_id` the event is to be stored under; or with the durable
        event of an earlier delivery; or, at the deadline, with one that is still under way.
        """
        claim = Claim(self, event, deadline, answer)
        if not self._may_try():
            self._answer_unknown(claim)
            return
        claim.limit = min(self._clock() + self._wait_ms / 1000, deadline)
        self._claims.put(claim)
        self._watch(claim)

    def _settle(self, settled: Settled, then: Callable[[], None]) -> None:
        if not self._may_try():
            self._unsettled.add()
            then()
            return
        settlement = _Settlement(settled, then, self._clock() + self._wait_ms / 1000)
        self._settlements.put(settlement)
        self._watch(settlement)

    def _release(self, claim: Claim) -> None:
        """With the next claims: it may fail, and then the lease ends by itself."""
        if len(self._released) < _ROWS_MAX:
            self._released[claim.dedupe_key] = claim.event_id

    def _may_try(self) -> bool:
        """Whether PostgreSQL is worth a question. While it is away, one in a second."""
        if self._store is None:
            return False
        if not self._well:
            now = self._clock()
            if now < self._retry_at:
                return False
            self._retry_at = now + _RETRY_S
        return True

    # ── the two tasks ─────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self, store: Store) -> None:
        """Ask PostgreSQL, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._run_claims(store))
            group.create_task(self._run_settlements(store))

    async def _run_claims(self, store: Store) -> None:
        while True:
            batch = await self._claims.take()
            released, self._released = self._released, {}
            oldest_ms = time.time_ns() // 1_000_000 - self._window_ms
            try:
                if released:
                    await deliveries.release(store, released, timeout_ms=self._wait_ms)
                found = await deliveries.claim(
                    store,
                    {key: claim.event_id for key, claim in batch.items()},
                    lease_ms=self._lease_ms,
                    oldest_ms=oldest_ms,
                    timeout_ms=self._wait_ms,
                )
            except StoreError as error:
                self._failed(error)
                for claim in batch.values():
                    self._not_answered(claim)
                continue
            self._succeeded()
            failpoint("deliveries.claimed")
            for key, claim in batch.items():
                self._answered(claim, found[key])

    async def _run_settlements(self, store: Store) -> None:
        while True:
            batch = await self._settlements.take()
            failpoint("deliveries.acked")
            try:
                await deliveries.settle(store, [s.settled for s in batch.values()], timeout_ms=self._wait_ms)
            except StoreError as error:
                self._failed(error)
                for settlement in batch.values():
                    self._end_settlement(settlement, written=False)
                continue
            self._succeeded()
            failpoint("deliveries.durable")
            for settlement in batch.values():
                self._end_settlement(settlement, written=True)

    def _succeeded(self) -> None:
        if not self._well:
            self._well = True
            self._log.info("duplicates are suppressed again")

    def _failed(self, error: StoreError | None = None) -> None:
        self._retry_at = self._clock() + _RETRY_S
        if self._well:
            self._well = False
            why = "no answer in time" if error is None else error.message
            self._log.warning("duplicates are only marked: PostgreSQL does not tell of them", error=why)

    # ── answers ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _answered(self, claim: Claim, standing: Standing) -> None:
        if claim not in self._open:  # it went its way without the answer
            if isinstance(standing, Mine) and standing.event_id != claim.event_id:
                self._released[claim.dedupe_key] = standing.event_id  # nobody is at work on that one
            return
        if isinstance(standing, UnderWay):
            claim.met = standing if standing.event_id is not None or claim.met is None else claim.met
            claim.limit = claim.deadline
            self._repeat(claim)
            return
        del self._open[claim]
        if isinstance(standing, Mine):
            if standing.event_id != claim.event_id:
                self._taken_over.add()
                claim.event_id = standing.event_id
            claim.answer(claim)
        else:
            claim.answer(standing)

    def _repeat(self, claim: Claim) -> None:
        claim.again_at = self._clock() + _AGAIN_S
        self._again.append(claim)

    def _not_answered(self, claim: Claim) -> None:
        if claim not in self._open:
            return
        if claim.met is not None:  # somebody is at work on the event, so it must not be stored beside them
            self._repeat(claim)
            return
        del self._open[claim]
        self._answer_unknown(claim)

    def _answer_unknown(self, claim: Claim) -> None:
        self._unknown.add()
        claim.answer(claim)

    def _end_settlement(self, settlement: _Settlement, *, written: bool) -> None:
        if settlement not in self._open:
            return  # its request was answered without it
        del self._open[settlement]
        if not written:
            self._unsettled.add()
        try:
            settlement.then()
        except Exception:
            self._log.exception("fault while a settled claim was answered")

    # ── time ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _watch(self, item: Claim | _Settlement) -> None:
        self._open[item] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        if not self._open:
            return
        self._timer = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)  # first: a fault below ends nothing
        now = self._clock()
        again = [claim for claim in self._again if claim.again_at <= now]
        self._again = [claim for claim in self._again if claim.again_at > now]
        for claim in again:
            if claim in self._open:
                self._claims.put(claim)
        for item in [item for item in self._open if item.limit <= now]:
            if isinstance(item, Claim):
                self._claims.drop(item)
                self._too_late(item, now)
            else:
                self._settlements.drop(item)
                self._failed()
                self._end_settlement(item, written=False)

    def _too_late(self, claim: Claim, now: float) -> None:
        del self._open[claim]
        if claim.met is not None:
            claim.answer(claim.met)
            return
        if now < claim.deadline:
            self._failed()
        self._answer_unknown(claim)

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
