"""The status line: once a minute what an alarm wants to know, for whoever reads logs and not /metrics.

    {"event": "status", "received_requests": 812, "refused_requests": 0, …}          of ingest, since the line before
    {"event": "status", "outbox_rows": 0, "archive_lag_records": 3, …}               of a worker, as it is now

What is not known is left out: a number that stays away is an alarm of its own. The metric filters of
aws/templates/bridge.yaml read these names.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable

from kafka_webhook_bridge.observability import health, logs, metrics
from kafka_webhook_bridge.observability.background import pause

EVERY_S = 60.0
_LOOK_S = 1.0
# Field → the counter whose growth it is.
SINCE: dict[str, metrics.CounterName] = {
    "received_requests": "kwb_requests_received_total",
    "acked_requests": "kwb_requests_acked_total",
    "rejected_requests": "kwb_requests_rejected_total",
    "refused_requests": "kwb_requests_refused_total",
}
# Field → the gauge that it is, summed over its labels.
NOW: dict[str, metrics.GaugeName] = {
    "outbox_rows": "kwb_outbox_rows",
    "archive_lag_records": "kwb_archive_lag_records",
    "at_risk_events": "kwb_archive_at_risk_events",
}


class StatusLine:
    """Written by the supervisor, out of the memory that it shares with its children.

    `ingest` and `worker` give the segments of the children of each role, none where there is no such role; `parts` what
    the worker says of its health.
    """

    def __init__(
        self,
        ingest: Iterable[metrics.Segment],
        worker: Iterable[metrics.Segment],
        parts: Callable[[], Iterable[health.Part]],
        clock: Callable[[], float],
    ) -> None:
        self._ingest, self._worker = list(ingest), list(worker)
        self._parts = parts
        self._clock = clock
        self._before = dict.fromkeys(SINCE, 0.0)
        self._log = logs.get_logger("status")

    async def run(self, stop: asyncio.Event) -> None:
        """A line every EVERY_S until `stop`."""
        last = self._clock()
        while not stop.is_set():
            await pause(stop, _LOOK_S)
            if self._clock() - last >= EVERY_S:
                last = self._clock()
                self.write()

    def write(self) -> None:
        """One line. Also at the end, so that no refusal is left out."""
        fields = {**self._since(), **self._now()}
        if fields:
            self._log.info("status", **{name: int(value) for name, value in fields.items()})

    def _since(self) -> dict[str, float]:
        if not self._ingest:
            return {}
        total = _sums(self._ingest)
        now = {field: total.get(name, 0.0) for field, name in SINCE.items()}
        grown = {field: value - self._before[field] for field, value in now.items()}
        self._before = now
        return grown

    def _now(self) -> dict[str, float]:
        if not any(part.name == "postgres" and part.status != "unavailable" for part in self._parts()):
            return {}  # these numbers are of the last time that PostgreSQL answered, or of none
        total = _sums(self._worker)
        now = {field: total.get(name, math.nan) for field, name in NOW.items()}
        return {field: value for field, value in now.items() if not math.isnan(value)}  # as unknown gauges are


def _sums(segments: list[metrics.Segment]) -> dict[str, float]:
    """Of each metric that was counted, its labels added up."""
    found: dict[str, float] = {}
    for key, values in metrics.totals(segments).items():
        found[key[0]] = found.get(key[0], 0.0) + values[0]
    return found
