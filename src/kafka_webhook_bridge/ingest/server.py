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
from kafka_webhook_bridge.ingest.drain import drain, take_in
from kafka_webhook_bridge.ingest.protocol import Connection
from kafka_webhook_bridge.ingest.topics import Topics
from kafka_webhook_bridge.kafka.admin import Admin
from kafka_webhook_bridge.kafka.config import record_bytes_limit
from kafka_webhook_bridge.kafka.producer import Producer
from kafka_webhook_bridge.observability import health, logs, metrics
from kafka_webhook_bridge.observability.background import Background
from kafka_webhook_bridge.settings import IngestSettings, Settings
from kafka_webhook_bridge.sources.table import SourceTable
from kafka_webhook_bridge.store.pool import Store

_CERTIFICATE_CHECK_S = 2.0
_TLS_HANDSHAKE_S = 10.0
_GC_THRESHOLD = (50_000, 50, 100)  # requests make no cycles; scanning them again and again costs 5 to 30 %


def tls_context(settings: IngestSettings) -> ssl.SSLContext | None:
    """The certificate to serve, None without one. Raises OSError (ssl.SSLError too) when it cannot be read."""
    if not settings.tls_cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    # Without a password here, OpenSSL would ask the terminal for that of an encrypted key.
    context.load_cert_chain(settings.tls_cert, settings.tls_key or None, password="")
    return context


class IngestServer:
    """Answers webhooks on a listening socket until it is drained.

    `store` is PostgreSQL, None without one; `database` tells why it cannot be used (None: it can). Whoever owns the
    process watches `background`.
    """

    def __init__(
        self,
        settings: Settings,
        sources: SourceTable,
        listener: socket.socket,
        store: Store | None,
        database: Callable[[], str | None],
        clock: Callable[[], float],
        background: Background,
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._database = database
        self._log = logs.get_logger("ingest")
        size = max(settings.ingest.body_bytes_max, sources.body_bytes_max)  # record sizes follow (rules.md 9)
        self._topics = Topics(Admin(settings.kafka), store, record_bytes_limit(size), sources)
        self.edge = Edge(settings, sources, self._topics, self.health, clock)
        self.producer = self.edge.deliver.producer = Producer(
            settings.kafka, self.edge.deliver.finished, body_bytes_max=size, died=background.fault_in_thread
        )
        self._available = metrics.registry().gauge("kwb_kafka_available")
        self._background = background
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begin to answer. Raises OSError when the certificate cannot be read."""
        loop = asyncio.get_running_loop()
        context = tls_context(self._settings.ingest)
        take_in(self._listener)
        self._background.start(self._topics.run(), "topics")
        if context is not None:
            self._background.start(self._renew(context), "certificate")
        handshake: dict[str, Any] = {} if context is None else {"ssl_handshake_timeout": _TLS_HANDSHAKE_S}
        self._server = await loop.create_server(
            lambda: Connection(self.edge), sock=self._listener.dup(), ssl=context, **handshake
        )
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLD)

    def reload(self, sources: SourceTable) -> None:
        """Take a new configuration. Requests under way are not disturbed."""
        self.edge.use(sources)

    def parts(self) -> list[health.Part]:
        """What this process stands on."""
        reason = "" if self.producer.available else self.producer.reason
        self._available.set(self.producer.available)
        parts = [health.Part("kafka", "unavailable" if reason else "ready", reason, durable=True)]
        database = self._database()
        parts.append(health.Part("postgres", "unavailable" if database else "ready", database or ""))
        if self._topics.blocked:
            names = ", ".join(sorted(self._topics.blocked)[:5])
            parts.append(health.Part("topics", "degraded", f"missing in Kafka: {names}"))
        return parts

    def health(self) -> tuple[int, dict[str, Any]]:
        """The answer of /health/ready."""
        return health.summarise(self.parts(), self.edge.draining)

    async def drain(self, grace_ms: int | None = None) -> None:
        """Stop without leaving a request unanswered; returns when everything is closed. `grace_ms`: not the setting."""
        s = self._settings.ingest
        assert self._server is not None
        grace_ms = s.drain_grace_ms if grace_ms is None else grace_ms
        await drain(self.edge, self._server, self._listener, grace_ms, s.drain_timeout_ms)
        self._background.cancel()
        await self.producer.close()
        self.edge.close()

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
