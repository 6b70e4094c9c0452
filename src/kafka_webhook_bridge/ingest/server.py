"""One ingest process: wires the edge to Kafka, serves its socket, and drains."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kafka_webhook_bridge.ingest.accept import Edge
from kafka_webhook_bridge.ingest.door import Door
from kafka_webhook_bridge.ingest.drain import drain, take_in
from kafka_webhook_bridge.ingest.keys import Keys
from kafka_webhook_bridge.ingest.outbox import OutboxWriter
from kafka_webhook_bridge.ingest.protocol import Connection
from kafka_webhook_bridge.ingest.rejections import Rejections
from kafka_webhook_bridge.ingest.suppress import Suppress, settle_beside
from kafka_webhook_bridge.ingest.topics import Topics
from kafka_webhook_bridge.ingest.truth import Truth
from kafka_webhook_bridge.kafka.admin import Admin
from kafka_webhook_bridge.kafka.config import record_bytes_limit
from kafka_webhook_bridge.kafka.producer import Producer
from kafka_webhook_bridge.observability import health, logs, metrics
from kafka_webhook_bridge.observability.background import Background
from kafka_webhook_bridge.settings import MADE, IngestSettings, Settings
from kafka_webhook_bridge.sources.table import SourceTable
from kafka_webhook_bridge.store.pool import Store
from kafka_webhook_bridge.texts import pem_file

_CERTIFICATE_CHECK_S = 2.0
_TLS_HANDSHAKE_S = 10.0
_LAST_CLOSES_S = 2.0  # at the end: rows of the outbox that Kafka acknowledged meanwhile
_LATE = "records are not acknowledged in time; events go to the outbox first"
_FULL = "the outbox is full: Kafka alone takes events"
_GC_THRESHOLD = (50_000, 50, 100)  # requests make no cycles; scanning them again and again costs 5 to 30 %


def tls_context(settings: IngestSettings) -> ssl.SSLContext | None:
    """The certificate to serve, None without one. Raises OSError (ssl.SSLError too) when it cannot be read."""
    certificate = settings.tls_cert
    if not certificate:
        return None
    if certificate == MADE:
        from kafka_webhook_bridge.ingest import selfsigned  # the others need none of its library

        certificate = selfsigned.make()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    # Without a password here, OpenSSL would ask the terminal for that of an encrypted key.
    with pem_file(certificate) as path:
        context.load_cert_chain(path, settings.tls_key or None, password="")
    return context


class IngestServer:
    """Answers webhooks on a listening socket until it is drained.

    `store` is PostgreSQL, None without one; `database` tells why it cannot be used (None: it can), `migrated` is set
    once it has its tables. Whoever owns the process watches `background`.
    """

    def __init__(
        self,
        settings: Settings,
        sources: SourceTable,
        listener: socket.socket,
        store: Store | None,
        database: Callable[[], str | None],
        migrated: asyncio.Event,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        keys: Keys,
        background: Background,
    ) -> None:
        self._settings = settings
        self._store = store
        self._listener = listener
        self._database = database
        self._log = logs.get_logger("ingest")
        size = max(settings.ingest.body_bytes_max, sources.body_bytes_max)  # record sizes follow (rules.md 9)
        admin = Admin(settings.kafka)
        self._topics = Topics(admin, store, record_bytes_limit(size), sources)
        self._suppress = Suppress(settings, store, clock)
        self.edge = Edge(settings, sources, self._topics, self._suppress, self.health, clock, wall_clock, keys)
        deliver = self.edge.deliver
        self.producer = deliver.producer = Producer(
            settings.kafka, deliver.finished, body_bytes_max=size, died=background.fault_in_thread,
            on_lost=deliver.lost, on_found=deliver.found,
        )  # fmt: skip
        self._truth = Truth(
            admin, store, sources, settings.ingest.durability_check_ms,
            ready=self._topics.ready, kafka_clock=lambda: self.producer.clock_ahead_ms, bound=self._topics.bound,
        )  # fmt: skip
        self._sources = sources
        self.outbox: OutboxWriter | None = None
        if store is not None:
            self.outbox = deliver.outbox = OutboxWriter(
                settings,
                store,
                migrated,
                deliver,
                index_json=self._indexes,
                blocked=self._topics.blocked.get,
                beside=settle_beside,
            )
            self.edge.rejections = Rejections(settings, store, migrated, clock)
        self._available = metrics.registry().gauge("kwb_kafka_available")
        self._background = background
        self._door: Door | None = None

    async def start(self) -> None:
        """Begin to answer. Raises OSError when the certificate cannot be read."""
        context = tls_context(self._settings.ingest)
        take_in(self._listener)
        self._background.start(self._topics.run(), "topics")
        if self._store is not None:
            self._background.start(self._suppress.run(self._store), "suppress")
        if self.outbox is not None:
            self._background.start(self.outbox.run(), "outbox")
            self._background.start(self.outbox.watch_usage(), "outbox-usage")
        if self.edge.learned is not None:
            self._background.start(self.edge.learned.run(), "learned")
        if self.edge.rejections is not None:
            self._background.start(self.edge.rejections.run(), "rejections")
        self._background.start(self._truth.run(), "truth")
        if context is not None and self._settings.ingest.tls_cert != MADE:
            self._background.start(self._renew(context), "certificate")
        handshake: dict[str, Any] = {} if context is None else {"ssl_handshake_timeout": _TLS_HANDSHAKE_S}
        self._door = Door(
            self._listener, lambda: Connection(self.edge), lambda: self.edge.connections, ssl=context, **handshake
        )
        await self._door.open()
        self._background.start(self._door.run(), "door")
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLD)

    def reload(self, sources: SourceTable) -> None:
        """Take a new configuration. Requests under way are not disturbed."""
        self._sources = sources
        self.edge.use(sources)
        self._truth.sources = sources
        if self.outbox is not None:
            self.outbox.forget()

    def _indexes(self, name: str) -> bool:
        source = self._sources.get(name)
        return source is None or source.index_json

    def parts(self) -> list[health.Part]:
        """What this process stands on."""
        reason = "" if self.producer.available else self.producer.reason
        self._available.set(self.producer.available)
        parts = [health.Part("kafka", "unavailable" if reason else "ready", reason, durable=True)]
        if not reason and (worry := self.producer.refused or self._lateness()):
            parts = [health.Part("kafka", "degraded", worry, durable=True)]
        parts.append(self._postgres())
        if self._topics.blocked:
            names = ", ".join(sorted(self._topics.blocked)[:5])
            parts.append(health.Part("topics", "degraded", f"missing in Kafka: {names}"))
        if self._topics.waiting:
            names = ", ".join(sorted(self._topics.waiting)[:5])
            why = next(iter(self._topics.waiting.values()))
            parts.append(health.Part("topics", "degraded", f"cannot be made without PostgreSQL: {names}. {why}"))
        if self._door is not None:
            parts += self._door.parts()
        return parts + self._truth.parts()

    def _lateness(self) -> str:
        return _LATE if self.edge.deliver.breakers.failing else ""

    def _postgres(self) -> health.Part:
        reason = self._database()
        if reason is None and self.outbox is not None:
            if self.outbox.away:
                reason = self.outbox.reason
            elif self.outbox.full:
                return health.Part("postgres", "degraded", _FULL, durable=True)
        return health.Part("postgres", "unavailable" if reason else "ready", reason or "", durable=True)

    def health(self) -> tuple[int, dict[str, Any]]:
        """The answer of /health/ready."""
        return health.summarise(self.parts(), self.edge.draining)

    async def drain(self, grace_ms: int | None = None) -> None:
        """Stop without leaving a request unanswered; returns when everything is closed. `grace_ms`: not the setting."""
        s = self._settings.ingest
        assert self._door is not None
        grace_ms = s.drain_grace_ms if grace_ms is None else grace_ms
        await drain(self.edge, self._door, self._listener, grace_ms, s.drain_timeout_ms)
        self._background.let_end()
        await self.producer.close()
        if self.outbox is not None:
            await self.outbox.finish(_LAST_CLOSES_S)
        if self.edge.rejections is not None:
            await self.edge.rejections.finish(_LAST_CLOSES_S)
        self._background.cancel()
        self.edge.close()
        self._suppress.close()

    async def _renew(self, context: ssl.SSLContext) -> None:
        """Load the certificate again when its file changes; a broken one is refused and the old one kept."""
        s = self._settings.ingest
        files = [Path(name) for name in (s.tls_cert, s.tls_key) if name]

        def stamps() -> list[tuple[int, int]]:
            return [(f.stat().st_mtime_ns, f.stat().st_ino) for f in files]

        seen = stamps()
        while True:
            await asyncio.sleep(_CERTIFICATE_CHECK_S)
            try:
                now = stamps()
                if now == seen:
                    continue
                tls_context(s)  # into a context of its own first: a half-written pair must not harm the one in use
                context.load_cert_chain(s.tls_cert, s.tls_key or None)
            except OSError as error:
                self._log.warning("certificate not reloaded", error=str(error))
            else:
                seen = now
                self._log.info("certificate reloaded")
