"""Sources with `ordering: strict` (rules.md 6): their events, one source at a time in the order of their numbers.

    lease of the source ──▶ the next events ──▶ Kafka ──all acknowledged──▶ delete ──▶ the next ones
                                   ▲                └──one was not──▶ that one alone, again and again ──┐
                                   └───────────────────────────────────────────────────────────────────┘

An event that Kafka does not take blocks its source, which is told and never quarantined: what came after it may not
pass. Other sources go on. Within a batch librdkafka keeps the order (`enable.gapless.guarantee`); its time limit is
long, because a record that gives up while its successor does not would be passed by it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Literal

from kafka_webhook_bridge.errors import KafkaError, StoreError
from kafka_webhook_bridge.formats.packed import unpack
from kafka_webhook_bridge.kafka.admin import TopicInfo
from kafka_webhook_bridge.kafka.errors import blame, reason_of
from kafka_webhook_bridge.kafka.producer import NotTaken, Outcome, Producer, QueueFull
from kafka_webhook_bridge.observability import logs, metrics
from kafka_webhook_bridge.observability.background import pause
from kafka_webhook_bridge.observability.failpoints import failpoint
from kafka_webhook_bridge.settings import Settings
from kafka_webhook_bridge.sources.table import SourceTable
from kafka_webhook_bridge.store import Store
from kafka_webhook_bridge.store.coordination import Lease
from kafka_webhook_bridge.store.relay import Outbox, OutboxRow

LEASE_S = 10.0  # how long a relay that died keeps a source from the others
_RENEW_S = 1.0
_IDLE_S = 5.0  # after that the lease is given back
_BACK_OFF_S = (0.1, 5.0)
_STUCK_MS = 30_000  # longer than for others: a topic that lacks replicas gives no report either
_CLOSE_S = 1.0
_RECORD_OVERHEAD_BYTES = 100  # of one record in a batch, at most, its share of the batch's own included

_LOOK_S = 5.0  # how long what Kafka said of a topic is believed

Look = Callable[[str], Awaitable[TopicInfo | str]]
_Failed = tuple[uuid.UUID, str, Literal["waiting", "blocked"]]


class _Batch:
    """Events that were sent together: who was acknowledged, and the first that was not, with Kafka's name for it."""

    def __init__(self) -> None:
        self.acknowledged: list[uuid.UUID] = []
        self.failed: dict[uuid.UUID, str] = {}
        self.waiting = 0
        self.finished = asyncio.Event()


class _Sent(Outcome):
    __slots__ = ("batch", "event_id")

    def __init__(self, event_id: uuid.UUID, batch: _Batch) -> None:
        self.event_id = event_id
        self.batch = batch


@dataclass(slots=True)
class _Source:
    """One source while this relay has it."""

    name: str
    lease: Lease
    rows: int  # of the next batch; 1 after a failure
    lost: bool = False
    blocked: str | None = None


class StrictRelay:
    """The strict sources that this relay has the lease of."""

    def __init__(
        self,
        settings: Settings,
        outbox: Outbox,
        store: Store,
        look_at: Look,
        sources: SourceTable,
        died: Callable[[str, BaseException], None],
    ) -> None:
        """`look_at(topic)` tells whether it can be written to, or why not."""
        self._settings = settings
        self._limits = settings.relay
        self._outbox = outbox
        self._store = store
        self._look_at = look_at
        self._body_bytes_max = sources.body_bytes_max
        self._died = died
        self._producer: Producer | None = None
        self.blocked: set[str] = set()
        self._looked: dict[str, tuple[float, TopicInfo]] = {}
        self._log = logs.get_logger("relay")
        registry = metrics.registry()
        self._relayed = registry.counter("kwb_relay_relayed_total")
        self._blocked_sources = registry.gauge("kwb_relay_blocked_sources")

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`: whatever strict source has events gets a task, until it has none."""
        working: dict[str, asyncio.Task[None]] = {}
        try:
            while not stop.is_set():
                try:
                    for name in await self._outbox.strict_sources() - working.keys():
                        working[name] = asyncio.create_task(self._work(name, stop), name=f"strict-{name}")
                except StoreError:
                    await pause(stop, _BACK_OFF_S[0])  # the relay tells of it
                await pause(stop, self._limits.poll_ms / 1000)
                for name in [name for name, task in working.items() if task.done()]:
                    working.pop(name).result()
            if working:
                await asyncio.wait(working.values(), timeout=_CLOSE_S)
        finally:
            for task in working.values():
                task.cancel()
            await asyncio.gather(*working.values(), return_exceptions=True)
            if self._producer is not None:
                await self._producer.close(0)

    def _lane(self) -> Producer:
        if self._producer is None:
            kafka = replace(
                self._settings.kafka,
                fast_lane_requests_max=0,
                delivery_timeout_ms=self._limits.strict_delivery_timeout_ms,
                stuck_after_ms=max(_STUCK_MS, self._settings.kafka.stuck_after_ms),
            )
            self._producer = Producer(
                kafka, self._finished, body_bytes_max=self._body_bytes_max, died=self._died, client_id="kwb-strict",
                extra={"enable.gapless.guarantee": True},
            )  # fmt: skip
        return self._producer

    async def _work(self, name: str, stop: asyncio.Event) -> None:
        """One source, as long as it has events and this relay the lease."""
        lease, rows = Lease(self._store, f"strict:{name}", LEASE_S), self._limits.batch_records_max
        source = _Source(name, lease, rows)
        try:
            if not await source.lease.take():
                await pause(stop, _RENEW_S)
                return
        except StoreError:
            await pause(stop, _RENEW_S)
            return
        keeping = asyncio.create_task(self._keep(source))
        try:
            await self._relay(source, stop)
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            self._show_blocked(source, None)
            if not source.lost:
                with contextlib.suppress(StoreError):
                    await source.lease.release()

    async def _keep(self, source: _Source) -> None:
        loop = asyncio.get_running_loop()
        renewed = loop.time()
        while not source.lost:
            await asyncio.sleep(_RENEW_S)
            asked = loop.time()
            with contextlib.suppress(StoreError):
                source.lost = not await source.lease.take()
                renewed = asked
            source.lost |= loop.time() - renewed > LEASE_S

    async def _relay(self, source: _Source, stop: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        wait_s, busy_at = 0.0, loop.time()
        lane = self._lane()
        while not stop.is_set() and not source.lost and loop.time() - busy_at < _IDLE_S:
            if not lane.available:
                busy_at = loop.time()
                await pause(stop, _BACK_OFF_S[0])
                continue
            try:
                rows = await self._outbox.strict_next(source.name, source.rows, self._limits.batch_bytes_max)
                if not rows:
                    self._show_blocked(source, None)
                    await pause(stop, self._limits.poll_ms / 1000)
                    continue
                well = await self._send(source, rows)
            except (KafkaError, StoreError) as error:
                self._log.warning("a strict source waits", source=source.name, error=error.message, hint=error.hint)
                well = False
            busy_at = loop.time()
            wait_s = 0.0 if well else min(max(2 * wait_s, _BACK_OFF_S[0]), _BACK_OFF_S[1])
            if not well:
                await pause(stop, wait_s)

    async def _send(self, source: _Source, rows: list[OutboxRow]) -> bool:
        """Send rows in their order, as far as they may be sent, and wait for every report; whether all were taken."""
        refusals: list[str | None] = []
        for row in rows:
            refusals.append(await self._refused(row))
            if refusals[-1] is not None:
                break
        batch = _Batch()
        sent = size_bytes = 0
        for row, refused in zip(rows, refusals, strict=False):  # from here on without a pause
            # Together no more than one record may be, or Kafka might refuse them as a batch.
            size_bytes += row.size_bytes + _RECORD_OVERHEAD_BYTES
            if sent and size_bytes > self._limit(row.topic):
                break
            reason = refused or self._hand_over(row, batch)
            if reason is not None:
                # It ends the batch, and is told of when nothing is left before it.
                if not sent:
                    batch.failed[row.event_id] = reason
                break
            sent += 1
        if sent:
            await batch.finished.wait()
        if batch.acknowledged:
            failpoint("strict.acked")
        failed = self._first_failure(rows, batch, alone=sent <= 1)
        await self._settle(batch.acknowledged, failed)
        self._relayed.add(len(batch.acknowledged))
        if failed is None:
            source.rows = min(2 * source.rows, self._limits.batch_records_max)
            self._show_blocked(source, None)
            return True
        event_id, reason, state = failed
        metrics.registry().counter("kwb_relay_failures_total", error=reason).add()
        source.rows = 1
        self._looked.clear()  # what was believed of a topic may be the cause
        if state == "blocked":
            self._show_blocked(source, reason, event_id=str(event_id))
        return False

    def _hand_over(self, row: OutboxRow, batch: _Batch) -> str | None:
        """Why it was not taken, or None."""
        record = unpack(str(row.event_id), row.topic, row.key, row.value, row.headers)
        try:
            self._lane().send(record, _Sent(row.event_id, batch))
        except QueueFull:
            return "_QUEUE_FULL"
        except NotTaken as error:
            return str(error)
        batch.waiting += 1
        return None

    async def _refused(self, row: OutboxRow) -> str | None:
        """Why a row cannot be sent, before it is tried: a topic that is missing must not be made by trying."""
        now = asyncio.get_running_loop().time()
        looked_at, info = self._looked.get(row.topic, (now, None))
        if info is None or now - looked_at >= _LOOK_S or row.size_bytes > self._limit(row.topic):
            found = await self._look_at(row.topic)
            if isinstance(found, str):
                self._looked.pop(row.topic, None)
                return found
            self._looked[row.topic] = (now, found)
        return "MSG_SIZE_TOO_LARGE" if row.size_bytes > self._limit(row.topic) else None

    def _limit(self, topic: str) -> float:
        """The largest record in bytes that the topic takes."""
        _, info = self._looked.get(topic, (0.0, None))
        return math.inf if info is None or info.record_bytes_max is None else info.record_bytes_max

    @staticmethod
    def _first_failure(rows: list[OutboxRow], batch: _Batch, *, alone: bool) -> _Failed | None:
        """The first row that was not acknowledged. Batches are refused as a whole, so only a lone record is blamed."""
        for row in rows:
            name = batch.failed.get(row.event_id)
            if name is not None:
                fault = blame(name)
                stays = fault == "cluster" or (fault == "record" and not alone)
                return row.event_id, reason_of(name), "waiting" if stays else "blocked"
        return None

    async def _settle(self, acknowledged: list[uuid.UUID], failed: _Failed | None) -> None:
        """Until the database has it, so that nothing is sent again that Kafka has."""
        wait_s = 0.0
        while True:
            try:
                await self._outbox.strict_settle(acknowledged, failed)
                return
            except StoreError as error:
                if not wait_s:
                    self._log.warning("the outbox cannot be used", error=error.message, hint=error.hint)
                wait_s = min(max(2 * wait_s, _BACK_OFF_S[0]), _BACK_OFF_S[1])
                await asyncio.sleep(wait_s)

    def _finished(self, outcomes: list[Outcome]) -> None:
        """On the loop, by the producer."""
        for sent in outcomes:
            assert isinstance(sent, _Sent)
            batch = sent.batch
            if sent.error is None:
                batch.acknowledged.append(sent.event_id)
            else:
                batch.failed[sent.event_id] = sent.error.name()
            batch.waiting -= 1
            if not batch.waiting:
                batch.finished.set()

    def _show_blocked(self, source: _Source, reason: str | None, **fields: str) -> None:
        if reason and source.blocked != reason:
            self._log.error("strict source blocked", source=source.name, reason=reason, **fields)
        elif source.blocked and not reason:
            self._log.info("strict source goes on", source=source.name)
        source.blocked = reason
        (self.blocked.add if reason else self.blocked.discard)(source.name)
        self._blocked_sources.set(len(self.blocked))
