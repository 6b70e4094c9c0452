"""How long the certificate of the outside door is good for: a metric all the time, a log line when the end is near.

It is asked of the door by a handshake. A file tells what was made; only the door tells what is served, after a reload
that was forgotten and behind a load balancer, too. Where the door cannot be reached from here there is no metric.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from kafka_webhook_bridge.kafka.door import served
from kafka_webhook_bridge.observability import logs, metrics
from kafka_webhook_bridge.observability.background import pause
from kafka_webhook_bridge.settings import Settings
from kafka_webhook_bridge.texts import parse_servers

if TYPE_CHECKING:
    from kafka_webhook_bridge.observability.certificate import Certificate

_EVERY_S = 300.0
_FIRST_S = 5.0  # the door may come up after us
_TIMEOUT_S = 5.0
_AGAIN_S = 86_400.0


def now_utc() -> datetime:
    """This machine's time."""
    return datetime.now(UTC)


class CertificateWatch:
    """Watches the door of these settings; `addresses` is empty where there is none with TLS."""

    def __init__(self, settings: Settings, *, clock: Callable[[], datetime] = now_utc) -> None:
        tls = settings.kafka.external_protocol == "SASL_SSL"
        self.addresses = parse_servers(settings.external_servers) if tls else []
        self._clock = clock
        self._last: Certificate | None = None
        self._told: tuple[int, float] | None = None  # how near the end was, and when that was said
        self._log = logs.get_logger("kafka")

    async def run(self, stop: asyncio.Event) -> None:
        """Look at once and then every five minutes, until `stop`; more often as long as the door was never seen."""
        wait_s = _FIRST_S
        while not stop.is_set():
            found = await asyncio.to_thread(self.look)
            if found or self._last is not None:
                wait_s = _EVERY_S
            elif wait_s < _EVERY_S:
                wait_s = min(2 * wait_s, _EVERY_S)
                if wait_s == _EVERY_S:
                    servers = ", ".join(f"{host}:{port}" for host, port in self.addresses)
                    self._log.info("the outside door is not reached; its certificate is not watched", servers=servers)
            await pause(stop, wait_s)

    def look(self) -> bool:
        """One look at each address; whether any was reached. The one that ends first counts."""
        found = [c for host, port in self.addresses if (c := served(host, port, _TIMEOUT_S)) is not None]
        if found:
            first = min(found, key=lambda certificate: certificate.not_after)
            if self._last is not None and first.not_after > self._last.not_after:
                self._told = None
                self._log.info("the outside door has a new certificate", not_after=first.not_after.isoformat())
            self._last = first
        if self._last is not None:  # time passes while the door is away, too
            metrics.registry().gauge("kwb_kafka_external_certificate_seconds").set(
                self._last.seconds_left(self._clock())
            )
            self._tell(self._last)
        return bool(found)

    def _tell(self, certificate: Certificate) -> None:
        """Once for each degree of nearness, and once a day."""
        from kafka_webhook_bridge.observability.certificate import DAY_S, NEAR_DAYS

        left_s, now_s = certificate.seconds_left(self._clock()), time.monotonic()
        near = sum(left_s < days * DAY_S for days in (*NEAR_DAYS, 0))
        if not near or (self._told is not None and near <= self._told[0] and now_s - self._told[1] < _AGAIN_S):
            return
        self._told = (near, now_s)
        tell = self._log.error if left_s < NEAR_DAYS[-1] * DAY_S else self._log.warning
        tell(
            "the certificate of the outside door has expired" if left_s < 0
            else "the certificate of the outside door expires soon",
            not_after=certificate.not_after.isoformat(), days_left=certificate.days_left(self._clock()),
            hint="docs/howto/certificates.md says how it is renewed.",
        )  # fmt: skip
