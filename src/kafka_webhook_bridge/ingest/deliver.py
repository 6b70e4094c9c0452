"""From a Record to a Receipt or a refusal, by the deadline. One state machine.

    submitted ──report ok──▶ acked            ──report late──▶ counted (late_acks)
        ├──report failed──▶ refused (503)
        └──deadline──▶ refused (503): unknown is never 2xx

The deadline is a timer of the loop: nothing here awaits a driver (rules.md 1). All waits are equally long, so the
deadlines stand in the order of the requests, and one timer for the whole process looks at the oldest. The few that
came late to their delivery (a large body encoded in a thread, a topic made first) are kept apart and all looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from kafka_webhook_bridge import errors
from kafka_webhook_bridge.errors import Refusal
from kafka_webhook_bridge.event import Record
from kafka_webhook_bridge.kafka.producer import NotTaken, Outcome, Producer, QueueFull
from kafka_webhook_bridge.observability import logs, metrics

if TYPE_CHECKING:
    from kafka_webhook_bridge.ingest.accept import Route
    from kafka_webhook_bridge.ingest.protocol import Connection

_SWEEP_S = 0.02


class Pending(Outcome):
    """One event that waits for its acknowledgement."""

    __slots__ = ("answered", "connection", "deadline", "event_id", "route", "sha256", "submitted")

    def __init__(self, connection: Connection, route: Route, record: Record, submitted: float, deadline: float) -> None:
        self.connection = connection
        self.route = route
        self.event_id = record.event_id
        self.sha256 = record.body_sha256
        self.submitted = submitted
        self.deadline = deadline
        self.answered = False


class Deliver:
    """Hands records to Kafka and answers their connections. Belongs to one loop.

    `acked` and `failed` are called once per submitted record, whichever of report and deadline comes first.
    """

    def __init__(
        self,
        wait_ms: int,
        clock: Callable[[], float],
        *,
        acked: Callable[[Pending], None],
        failed: Callable[[Pending, Refusal, str], None],
        topic_missing: Callable[[str], None],
    ) -> None:
        self.producer: Producer | None = None
        self.wait_s = wait_ms / 1000
        self._clock = clock
        self._acked = acked
        self._failed = failed
        self._topic_missing = topic_missing
        self._waiting: dict[Pending, bool] = {}  # in the order of their deadlines
        self._stragglers: dict[Pending, bool] = {}  # out of it
        self._last_deadline = 0.0
        registry = metrics.registry()
        self._late = registry.counter("kwb_kafka_late_acks_total")
        self._seconds = registry.histogram("kwb_kafka_delivery_seconds")
        self._registry = registry
        self._log = logs.get_logger("ingest")
        self._timer = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)

    def __len__(self) -> int:
        return len(self._waiting) + len(self._stragglers)

    def submit(self, record: Record, connection: Connection, route: Route, last_byte: float) -> None:
        """Start the delivery of one record whose request's last byte came at `last_byte` (seconds of the clock)."""
        deadline = last_byte + self.wait_s
        pending = Pending(connection, route, record, self._clock(), deadline)
        try:
            assert self.producer is not None
            self.producer.send(record, pending)
        except QueueFull:
            pending.answered = True
            self._failed(pending, errors.QUEUE_FULL, "")
            return
        except NotTaken as error:
            pending.answered = True
            self._failed(pending, errors.KAFKA_REFUSED, str(error))
            return
        if deadline >= self._last_deadline:
            self._last_deadline = deadline
            self._waiting[pending] = True
        else:
            self._stragglers[pending] = True

    def _forget(self, pending: Pending) -> None:
        pending.answered = True
        if not self._waiting.pop(pending, False):
            del self._stragglers[pending]

    def finished(self, batch: list[Outcome]) -> None:
        """Reports of the producer. A fault with one does not take the others' answers."""
        acked, now = self._acked, self._clock()
        observe = self._seconds.observe
        for pending in batch:
            assert isinstance(pending, Pending)
            try:
                if pending.error is None:
                    pending.route.events.add()
                    observe(now - pending.submitted)
                    if pending.answered:
                        self._late.add()
                        continue
                    self._forget(pending)
                    acked(pending)
                else:
                    self._not_acked(pending, pending.error.name())
            except Exception:
                self._log.exception("fault while a report was taken")

    def _not_acked(self, pending: Pending, name: str) -> None:
        self._registry.counter("kwb_kafka_delivery_errors_total", error=name).add()
        if pending.topic_is_missing:
            self._topic_missing(pending.route.source.topic)
        if not pending.answered:
            self._forget(pending)
            refusal = errors.NOT_DURABLE if pending.unknown else errors.KAFKA_REFUSED
            if pending.topic_is_missing:
                refusal = errors.TOPIC_BLOCKED
            self._failed(pending, refusal, name)

    def _sweep(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)  # first: a fault below ends nothing
        now = self._clock()
        late = [pending for pending in self._stragglers if pending.deadline <= now]
        for pending in self._waiting:
            if pending.deadline > now:
                break
            late.append(pending)
        for pending in late:
            self._forget(pending)
            self._failed(pending, errors.NOT_DURABLE, "deadline")

    def close(self) -> None:
        """Stop the timer."""
        self._timer.cancel()
