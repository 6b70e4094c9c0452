"""Secrets learned in hand-shakes, in the memory of one process (rules.md 30).

PostgreSQL is looked at every two seconds; while it is away, what is in memory goes on to prove senders. A hand-shake is
answered only once its secret is kept, so that no sender signs with one that nobody has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from kafka_webhook_bridge import errors
from kafka_webhook_bridge.errors import StoreError
from kafka_webhook_bridge.observability import logs
from kafka_webhook_bridge.store import Store, learned
from kafka_webhook_bridge.store.learned import SECRET_CHARACTERS_MAX, Seal

if TYPE_CHECKING:
    from kafka_webhook_bridge.ingest.accept import Edge
    from kafka_webhook_bridge.ingest.protocol import Connection
    from kafka_webhook_bridge.ingest.route import Route

_LOOK_S = 2.0
_LEARN_TIMEOUT_MS = 1_500  # within the deadline of a request

Changed = Callable[[], None]


class LearnedSecrets:
    """Belongs to one loop; `run` is its task. `changed` is called with new secrets in place, and takes them up."""

    def __init__(self, store: Store, secret_key: str, migrated: asyncio.Event, changed: Changed) -> None:
        self.secrets: Mapping[str, tuple[str, ...]] = {}
        self.loaded = False
        self._store = store
        self._seal = Seal(secret_key)
        self._migrated = migrated
        self._changed = changed
        self._unreadable = 0
        self._learned = 0  # so often
        self._learning = asyncio.Lock()
        self._log = logs.get_logger("ingest")

    async def run(self) -> None:
        """Until it is cancelled, whatever PostgreSQL does."""
        await self._migrated.wait()
        while True:
            try:
                await self._look()
            except StoreError as error:
                self._log.debug("learned secrets were not read", error=error.message)
            await asyncio.sleep(_LOOK_S)

    async def _look(self) -> None:
        before = self._learned
        found = await learned.read(self._store, self._seal)
        if self._learned != before:  # what was read may be older than what is known
            return
        unreadable = sum(one.text is None for one in found)
        if unreadable > self._unreadable:
            self._log.error("learned secrets were sealed with another KWB_STORE_SECRET_KEY", secrets=unreadable)
        self._unreadable = unreadable
        secrets = learned.texts_of(found)
        fresh = not self.loaded
        self.loaded = True
        if secrets != self.secrets:
            self.secrets = secrets
            self._changed()
            self._log.info("learned secrets taken up", sources=sorted(secrets), first=fresh)

    async def learn(self, source: str, secret: bytes) -> bool:
        """Keep the secret of a hand-shake; false where none may be learned now. Raises StoreError."""
        try:
            text = secret.decode()
        except UnicodeDecodeError:
            return False
        if not text.isprintable() or len(text) > SECRET_CHARACTERS_MAX:
            return False
        if self._learning.locked():  # strangers must not take every connection
            raise StoreError("Another hand-shake is at it.")
        async with self._learning:
            if not await learned.learn(self._store, self._seal, source, text, timeout_ms=_LEARN_TIMEOUT_MS):
                return False
            self._learned += 1
            self._log.warning("a secret was learned in a hand-shake", source=source)
            self.secrets = {**self.secrets, source: (text, *self.secrets.get(source, ()))}
            self._changed()
            return True


def learn_first(edge: Edge, connection: Connection, route: Route, secret: bytes, greet: Callable[[], None]) -> None:
    """Keep the secret that a hand-shake brings, and greet then; refuse it where nobody waits for one."""
    secrets = edge.learned
    if secrets is None or route.proof is None or not route.proof.learns:
        connection.refuse(errors.HANDSHAKE, reason="no secrets are learned here")
        return

    def learned(done: asyncio.Task[bool]) -> None:
        connection.work = None
        try:
            if connection.gone:
                return
            if done.cancelled() or isinstance(done.exception(), StoreError):
                connection.refuse(errors.NOT_LEARNED, reason="PostgreSQL does not answer, or is busy with another")
            elif done.result():
                greet()
            else:
                connection.refuse(errors.HANDSHAKE, reason="no registration is open")
        except Exception:
            edge.log.exception("fault while a secret was learned")
            connection.refuse(errors.INTERNAL)

    task = connection.work = asyncio.create_task(secrets.learn(route.source.name, secret), name="learn")
    task.add_done_callback(learned)
