"""Outside users whose time is over: their rights, quota, credential and groups are removed from Kafka.

One worker does it, under a lease. Done twice it would do no harm. While Kafka or PostgreSQL is away it is tried again,
and a user that cannot be removed holds up no other.
"""

from __future__ import annotations

import asyncio
import contextlib

from kafka_webhook_bridge.errors import KafkaError, StoreError, UsageError
from kafka_webhook_bridge.kafka.users import Users, check_name
from kafka_webhook_bridge.observability import logs, metrics
from kafka_webhook_bridge.observability.background import pause
from kafka_webhook_bridge.settings import Settings
from kafka_webhook_bridge.store import Store, users
from kafka_webhook_bridge.store.coordination import Lease

EVERY_S = 30.0
_LEASE_S = 120.0
_MIGRATION_LOOK_S = 0.1


class Expiry:
    """Ends users when they are to end."""

    def __init__(
        self, settings: Settings, store: Store, migrated: asyncio.Event | None = None, *, every_s: float = EVERY_S
    ) -> None:
        """`migrated` as for the archiver."""
        self._settings = settings.kafka
        self._store = store
        self._migrated = migrated
        self._every_s = every_s
        self._users: Users | None = None
        self._lease = Lease(store, "users", _LEASE_S)
        self._removed = metrics.registry().counter("kwb_users_expired_total")
        self._failures = metrics.registry().counter("kwb_users_expiry_failures_total")
        self._log = logs.get_logger("archive")

    async def run(self, stop: asyncio.Event) -> None:
        """Look at once and then every half a minute, until `stop`."""
        while not stop.is_set():
            if self._migrated is not None and not self._migrated.is_set():
                await pause(stop, _MIGRATION_LOOK_S)
                continue
            try:
                await self.turn()
            except StoreError as error:
                self._log.warning("users that end not looked at", error=error.message, hint=error.hint)
            await pause(stop, self._every_s)

    async def turn(self) -> None:
        """Remove all whose time is over. Raises StoreError."""
        if not await users.ended(self._store) or not await self._lease.take():
            return
        try:
            for name, expires_at in (await users.ended(self._store)).items():
                async with users.changing(self._store, name) as mine:  # not while somebody gives it another end
                    still = mine and (await users.ended(self._store)).get(name) == expires_at
                    if still and await self._remove(name):
                        await users.forget_ended(self._store, name, expires_at)
        finally:
            with contextlib.suppress(StoreError):
                await self._lease.release()

    async def _remove(self, name: str) -> bool:
        try:
            warnings = await asyncio.to_thread(self._delete, name)
        except UsageError as error:  # nobody may end the bridge through a row in its database
            self._log.error("user not removed", user=name, error=error.message)
            self._failures.add()
            return False
        except KafkaError as error:
            self._log.warning("user not removed", user=name, error=error.message, hint=error.hint)
            self._failures.add()
            return False
        for warning in warnings or ():
            self._log.warning("not all of a user removed", user=name, error=warning)
        if warnings is not None:
            self._removed.add()
        self._log.info("user removed: its time is over", user=name, found=warnings is not None)
        return True

    def _delete(self, name: str) -> list[str] | None:
        self._users = self._users or Users(self._settings)
        check_name(name, self._users.super_users())
        return self._users.delete(name)
