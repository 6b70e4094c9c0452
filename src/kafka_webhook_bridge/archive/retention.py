"""Partitions of `events`: made ahead, the default one emptied into them, dropped when too old (rules.md 7, 18).
Deliveries that suppress no duplicate any more (rules.md 14), and replays as old as the oldest events, are forgotten
here too, and refused requests that nobody released in time.

One worker does it, under a lease. Done twice it would do no harm, so nothing else protects it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from kafka_webhook_bridge import ids
from kafka_webhook_bridge.errors import StoreError
from kafka_webhook_bridge.observability import logs
from kafka_webhook_bridge.observability.background import pause
from kafka_webhook_bridge.settings import Settings
from kafka_webhook_bridge.store import Store, deliveries, partitions, rejections, replays
from kafka_webhook_bridge.store.coordination import Lease

_EVERY_S = 600.0
_CLOCK_AHEAD_MS_MAX = 3_600_000  # one wrong clock must not empty the archive
_BACK_OFF_S = (1.0, 60.0)
_LEASE_S = 150.0  # longer than one statement may take


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class Retention:
    """Keeps the partitions as the settings say."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        migrated: asyncio.Event | None = None,
        *,
        clock: Callable[[], int] = now_ms,
    ) -> None:
        """`migrated` as for the archiver; `clock` gives milliseconds since 1970."""
        self._limits = settings.archive
        self._rejections_days = settings.rejections.retention_days
        self._past_days = settings.kafka.topic_retention_days
        self._store = store
        self._migrated = migrated
        self._clock = clock
        self._lease = Lease(store, "retention", _LEASE_S)
        self._log = logs.get_logger("archive")

    async def run(self, stop: asyncio.Event) -> None:
        """Tidy at once and then every ten minutes, until `stop`."""
        wait_s = _BACK_OFF_S[0]
        while not stop.is_set():
            if self._migrated is not None and not self._migrated.is_set():
                await pause(stop, 0.1)
                continue
            try:
                done = await self._until(stop)
                wait_s = _EVERY_S if done else _LEASE_S
            except StoreError as error:
                wait_s = min(2 * wait_s, _BACK_OFF_S[1])
                self._log.warning("partitions not tidied", error=error.message, hint=error.hint)
            await pause(stop, wait_s)

    async def _until(self, stop: asyncio.Event) -> bool:
        """A turn that `stop` cuts: a transaction is undone, the rest is done next time."""
        turn, stopping = asyncio.create_task(self.tidy()), asyncio.create_task(stop.wait())
        try:
            await asyncio.wait({turn, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            turn.cancel()
            stopping.cancel()
            await asyncio.wait({turn})
        return not turn.cancelled() and turn.result()

    async def tidy(self) -> bool:
        """One turn; false if somebody else has it. Raises StoreError."""
        for step in (
            self._make_ahead, self._empty_default, self._drop_old, self._forget_deliveries, self._forget_replays,
            self._forget_rejections,
        ):  # fmt: skip
            if not await self._lease.take():
                return False
            try:
                await step()
            except BaseException:
                await self._give_back()
                raise
        await self._give_back()
        return True

    async def _give_back(self) -> None:
        with contextlib.suppress(StoreError):
            await self._lease.release()

    @property
    def _oldest_ms(self) -> int:
        return self._clock() - self._limits.retention_days * ids.DAY_MS

    @property
    def _newest_ms(self) -> int:
        return self._clock() + self._limits.partitions_ahead_days * ids.DAY_MS

    async def _make_ahead(self) -> None:
        """From what Kafka may still hold to the days ahead, so that hardly an event meets the default partition."""
        await self._make(self._clock() - self._past_days * ids.DAY_MS, self._newest_ms + 1)

    async def _empty_default(self) -> None:
        """Events that came before their partition get it now."""
        found = await partitions.default_times(self._store, self._oldest_ms, self._newest_ms)
        if found is not None:
            self._log.info("emptying the default partition", first_ms=found[0], last_ms=found[1])
            await self._make(found[0], found[1] + 1)

    async def _make(self, from_ms: int, to_ms: int) -> None:
        days = self._limits.partition_days
        for low_ms, high_ms in partitions.missing(await partitions.existing(self._store), from_ms, to_ms, days):
            name = await partitions.make(self._store, low_ms, high_ms)
            self._log.info("partition made", partition=name)

    async def _drop_old(self) -> None:
        oldest_ms = self._oldest_ms
        ahead_ms = self._clock() - await partitions.server_time_ms(self._store)
        if ahead_ms > _CLOCK_AHEAD_MS_MAX:
            self._log.error("nothing dropped: this clock is far ahead of PostgreSQL's", ahead_ms=ahead_ms)
            return
        for partition in await partitions.existing(self._store):
            if partition.high_ms <= oldest_ms:
                await partitions.drop(self._store, partition)
                self._log.info("partition dropped: its events are too old", partition=partition.name)
        deleted = await partitions.expire_default(self._store, oldest_ms)
        if deleted:
            self._log.info("events deleted from the default partition: too old", events=deleted)

    async def _forget_deliveries(self) -> None:
        """Outside the window they suppress nothing. By PostgreSQL's clock, in case that this one is wrong."""
        window_ms = max(1, self._limits.dedupe_window_days) * ids.DAY_MS
        deleted = await deliveries.expire(self._store, await partitions.server_time_ms(self._store) - window_ms)
        if deleted:
            self._log.info("deliveries forgotten: older than the window", deliveries=deleted)

    async def _forget_replays(self) -> None:
        """What they sent is past retention, too. By PostgreSQL's clock."""
        kept_ms = self._limits.retention_days * ids.DAY_MS
        deleted = await replays.expire(self._store, await partitions.server_time_ms(self._store) - kept_ms)
        if deleted:
            self._log.info("replays forgotten: done before the oldest event that is kept", replays=deleted)

    async def _forget_rejections(self) -> None:
        """By PostgreSQL's clock."""
        kept_ms = self._rejections_days * ids.DAY_MS
        deleted = await rejections.expire(self._store, await partitions.server_time_ms(self._store) - kept_ms)
        if deleted:
            self._log.info("refused requests forgotten: too old", requests=deleted)
