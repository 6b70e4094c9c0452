"""From a Record to a receipt or a refusal, by the deadline. One state machine (rules.md 1 to 5).

                    ┌──acknowledged──────────────────────────────────────────────▶ 200 kafka
    ack: any ──▶ Kafka ──kafka_wait, failed, not taken, connection lost──▶ outbox ──committed──▶ 200 outbox
        └── breaker open ──▶ outbox ──not taken──▶ Kafka                      └── Kafka may still be first
    ack: kafka ──▶ Kafka         ack: store ──▶ outbox         ack: both ──▶ Kafka and outbox ──both──▶ 200 both
                                  any of them ──deadline, or no place left──▶ 503: unknown is never 2xx

What comes after the answer is put in order: an acknowledgement of Kafka closes the row of the outbox, and a row whose
request was refused stays and is counted.

The deadlines are timers of the loop: nothing here awaits a driver. All waits of a kind are equally long, so they stand
in the order of the requests, and one timer for the whole process looks at the oldest. The few that came late to their
delivery (a large body encoded in a thread, a topic made first) are kept apart and all looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Protocol

from kafka_webhook_bridge import errors
from kafka_webhook_bridge.errors import Refusal
from kafka_webhook_bridge.event import Record, Stored
from kafka_webhook_bridge.ingest.breaker import Breakers
from kafka_webhook_bridge.kafka.producer import NotTaken, Outcome, Producer, QueueFull
from kafka_webhook_bridge.observability import logs, metrics
from kafka_webhook_bridge.observability.failpoints import failpoint
from kafka_webhook_bridge.settings import DeliverSettings

if TYPE_CHECKING:
    from kafka_webhook_bridge.ingest.protocol import Connection
    from kafka_webhook_bridge.ingest.route import Route
    from kafka_webhook_bridge.ingest.suppress import Claim

_SWEEP_S = 0.02

# What is known of one event, as bits of Pending.state.
SENT = 1  # handed to Kafka, which owes a report
TRIED = 2  # was handed to Kafka once
ACKED = 4  # Kafka has it
QUEUED = 8  # waits for the outbox, or its statement runs
UNSURE = 16  # a statement with it ended unseen
STORED = 32  # the outbox has it
ANSWERED = 64
BOTH = 128  # Kafka and outbox must have it
LATE = 256  # counted as a failure of Kafka already
CLAIMED = 512  # with a claim, which is settled before the answer
_DIRECT = SENT | TRIED  # the hot path: waits for Kafka alone


class Outbox(Protocol):
    """What Deliver needs of the outbox. `put` takes an event, or gives the refusal; it tells the end by a callback."""

    @property
    def away(self) -> bool:
        """Whether PostgreSQL is known not to answer."""

    def put(self, pending: Pending) -> Refusal | None: ...

    def close_row(self, event_id: str) -> None: ...


class Pending(Outcome):
    """One event that waits for its acknowledgement. `deadline` is when it is looked at next (seconds of the clock).

    `claim` is its delivery's, where the source suppresses duplicates.
    """

    __slots__ = ("claim", "connection", "deadline", "record", "route", "state", "submitted")

    def __init__(self, connection: Connection, route: Route, record: Record, submitted: float, deadline: float) -> None:
        self.connection = connection
        self.route = route
        self.record = record
        self.submitted = submitted
        self.deadline = deadline
        self.state = _DIRECT
        self.claim: Claim | None = None

    @property
    def event_id(self) -> str:
        return self.record.event_id


class Waiting:
    """Events that wait equally long, `wait_s` seconds from the last byte of their requests."""

    __slots__ = ("_in_order", "_last", "_stragglers", "wait_s")

    def __init__(self, wait_ms: int) -> None:
        self.wait_s = wait_ms / 1000
        self._in_order: dict[Pending, bool] = {}
        self._stragglers: dict[Pending, bool] = {}
        self._last = 0.0

    def __len__(self) -> int:
        return len(self._in_order) + len(self._stragglers)

    def add(self, pending: Pending) -> None:
        deadline = pending.deadline
        if deadline >= self._last:
            self._last = deadline
            self._in_order[pending] = True
        else:
            self._stragglers[pending] = True

    def __contains__(self, pending: Pending) -> bool:
        return pending in self._in_order or pending in self._stragglers

    def remove(self, pending: Pending) -> bool:
        """Whether it was there."""
        return self._in_order.pop(pending, False) or self._stragglers.pop(pending, False)

    def all(self) -> list[Pending]:
        return [*self._in_order, *self._stragglers]

    def over(self, now: float) -> list[Pending]:
        """Those whose time is up."""
        found = [pending for pending in self._stragglers if pending.deadline <= now]
        for pending in self._in_order:
            if pending.deadline > now:
                break
            found.append(pending)
        return found


class Deliver:
    """Makes records durable and answers their connections. Belongs to one loop.

    `answered(pending, stored)` or `refused(pending, refusal, reason)` is called once per submitted record. `producer`
    is set before the first one, `outbox` too where there is PostgreSQL. Without it `any` means `kafka` (rules.md 5).
    """

    def __init__(
        self,
        settings: DeliverSettings,
        clock: Callable[[], float],
        *,
        answered: Callable[[Pending, Stored], None],
        refused: Callable[[Pending, Refusal, str], None],
        topic_missing: Callable[[str], None],
    ) -> None:
        self.producer: Producer | None = None
        self.outbox: Outbox | None = None
        self.breakers = Breakers(
            settings.breaker_failures, settings.breaker_probe_ms, settings.breaker_closes_after, clock
        )
        self.deadline_s = settings.deadline_ms / 1000
        self.kafka_wait_s = settings.kafka_wait_ms / 1000
        self._clock = clock
        self._answered = answered
        self._refused = refused
        self._topic_missing = topic_missing
        self._first = Waiting(settings.kafka_wait_ms)  # for Kafka, and then the outbox
        self._last = Waiting(settings.deadline_ms)  # for whatever comes, and then the refusal
        registry = metrics.registry()
        self._late = registry.counter("kwb_kafka_late_acks_total")
        self._stored_after_refusal = registry.counter("kwb_outbox_stored_after_refusal_total")
        self._seconds = registry.histogram("kwb_kafka_delivery_seconds")
        self._registry = registry
        self._log = logs.get_logger("ingest")
        self._timer = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)

    def __len__(self) -> int:
        return len(self._first) + len(self._last)

    # ── a record comes ────────────────────────────────────────────────────────────────────────────────────────────

    def submit(
        self, record: Record, connection: Connection, route: Route, last_byte: float, claim: Claim | None = None
    ) -> None:
        """Start the delivery of one record whose request's last byte came at `last_byte` (seconds of the clock).

        A record with a claim belongs to a route that is not plain.
        """
        first = self._first
        pending = Pending(connection, route, record, self._clock(), last_byte + first.wait_s)
        if not route.plain or self.breakers.any_open:
            self._choose(pending, last_byte, claim)
            return
        try:
            assert self.producer is not None
            self.producer.send(record, pending)
        except (QueueFull, NotTaken) as error:
            self._not_sent(pending, error)
            return
        first.add(pending)

    def submit_unsent(
        self, record: Record, connection: Connection, route: Route, last_byte: float, claim: Claim | None = None
    ) -> None:
        """As `submit`, for a record that Kafka cannot take now: its topic is missing, or not known to be there.

        Only for what the outbox may answer alone (`may_store`).
        """
        pending = Pending(connection, route, record, self._clock(), last_byte + self._first.wait_s)
        pending.claim = claim
        pending.state = TRIED if claim is None else TRIED | CLAIMED  # so that it is not tried
        self._to_outbox(pending)

    def may_store(self, route: Route) -> bool:
        """Whether the outbox alone may answer for this source."""
        return self.outbox is not None and route.ack in ("any", "store")

    def _choose(self, pending: Pending, last_byte: float, claim: Claim | None) -> None:
        """The way of a record that does not simply go to Kafka first."""
        ack, outbox = pending.route.ack, self.outbox
        pending.claim = claim
        pending.state = 0 if claim is None else CLAIMED
        if ack == "store":
            self._to_outbox(pending)
        elif ack == "both":
            pending.state |= BOTH
            self._to_outbox(pending)
            if not pending.state & ANSWERED:
                self._send(pending)
        elif ack == "any" and outbox is not None:
            if self.breakers.kafka_first(pending.record.topic):
                self._first.add(pending)
                self._send(pending)
            elif outbox.away:
                self._wait_to_the_end(pending)
                self._send(pending)
            else:
                self._to_outbox(pending)
        else:
            pending.deadline = last_byte + self.deadline_s
            self._last.add(pending)
            self._send(pending)

    def _send(self, pending: Pending) -> None:
        pending.state |= SENT | TRIED
        try:
            assert self.producer is not None
            self.producer.send(pending.record, pending)
        except (QueueFull, NotTaken) as error:
            self._not_sent(pending, error)

    def _not_sent(self, pending: Pending, error: QueueFull | NotTaken) -> None:
        pending.state &= ~SENT
        refusal = errors.QUEUE_FULL if isinstance(error, QueueFull) else errors.KAFKA_REFUSED
        self._kafka_is_over(pending, refusal, str(error))

    def _wait_to_the_end(self, pending: Pending) -> None:
        if self._first.remove(pending) or pending not in self._last:  # else it does so already
            pending.deadline += self.deadline_s - self.kafka_wait_s
            self._last.add(pending)

    def _to_outbox(self, pending: Pending) -> None:
        """From now on the outbox may answer, and Kafka where it owes a report."""
        self._wait_to_the_end(pending)
        assert self.outbox is not None
        refusal = self.outbox.put(pending)
        if refusal is None:
            pending.state |= QUEUED
        else:
            self._outbox_is_over(pending, refusal, "")

    # ── one of the two places is over, and has not got it ─────────────────────────────────────────────────────────

    def _kafka_is_over(self, pending: Pending, refusal: Refusal, reason: str) -> None:
        state = pending.state
        if state & ANSWERED:
            return
        if pending.route.ack == "any" and self.outbox is not None:
            if not state & QUEUED:  # else it answers, or the deadline
                self._to_outbox(pending)
            return
        self._refuse(pending, refusal, reason)

    def _outbox_is_over(self, pending: Pending, refusal: Refusal, reason: str) -> None:
        state = pending.state
        if state & (ANSWERED | ACKED):
            return
        if pending.route.ack == "any" and state & SENT:
            return  # Kafka answers, or the deadline
        if pending.route.ack == "any" and not state & TRIED:
            self._send(pending)
        else:
            self._refuse(pending, refusal, reason)

    # ── reports of the producer ───────────────────────────────────────────────────────────────────────────────────

    def finished(self, batch: list[Outcome]) -> None:
        """Reports of the producer. A fault with one does not take the others' answers."""
        first, breakers = self._first, self.breakers
        answered, now = self._answered, self._clock()
        observe = self._seconds.observe
        failpoint("deliver.acked")
        for pending in batch:
            assert isinstance(pending, Pending)
            try:
                if pending.error is not None:
                    self._not_acked(pending, pending.error.name())
                    continue
                observe(now - pending.submitted)
                if breakers.troubled and not pending.state & LATE:
                    breakers.acked(pending.record.topic, pending.submitted)
                if pending.state != _DIRECT:
                    self._acked(pending)
                    continue
                pending.state = TRIED | ACKED | ANSWERED
                first.remove(pending) or self._last.remove(pending)
                pending.route.direct.add()
                answered(pending, "kafka")
            except Exception:
                self._log.exception("fault while a report was taken")

    def _acked(self, pending: Pending) -> None:
        """Kafka has a record that did not wait for it alone."""
        state = pending.state = pending.state & ~SENT | ACKED
        if not state & STORED:
            pending.route.direct.add()
        if state & (STORED | UNSURE):
            self._close_row(pending)
        if state & ANSWERED:
            self._late.add()
            self._settle_late(pending)
        elif not state & BOTH:
            self._settle(pending, "kafka")
        elif state & STORED:
            self._settle(pending, "both")

    def _settle(self, pending: Pending, stored: Stored) -> None:
        """Answer, once the claim is settled or cannot be; at the deadline all the same (rules.md 14)."""
        if pending.claim is None:
            self._answer(pending, stored)
        else:
            self._wait_to_the_end(pending)
            pending.claim.settle(stored, partial(self._settled, pending, stored))

    @staticmethod
    def _settle_late(pending: Pending) -> None:
        """Durable after its request was answered: the next delivery shall know. The outbox settles by itself."""
        state = pending.state
        if pending.claim is not None and state & ACKED and bool(state & BOTH) == bool(state & STORED):
            pending.claim.settle("both" if state & BOTH else "kafka")

    def _settled(self, pending: Pending, stored: Stored) -> None:
        if not pending.state & ANSWERED:
            self._answer(pending, stored)

    def _not_acked(self, pending: Pending, name: str) -> None:
        self._registry.counter("kwb_kafka_delivery_errors_total", error=name).add()
        topic = pending.record.topic
        if pending.topic_is_missing:
            self._topic_missing(topic)
        if pending.blames is not None and not pending.state & LATE:
            self.breakers.failed(topic, topic_alone=pending.blames == "topic")
        pending.state = pending.state & ~SENT | LATE
        refusal = errors.NOT_DURABLE if pending.unknown else errors.KAFKA_REFUSED
        if pending.topic_is_missing:
            refusal = errors.TOPIC_BLOCKED
        self._kafka_is_over(pending, refusal, name)

    def lost(self) -> None:
        """No broker can be reached: whatever waits for Kafka and may go to the outbox goes there at once."""
        self.breakers.lost()
        for pending in self._first.all():
            pending.state |= LATE  # the breaker knows already
            self._guarded(self._to_outbox, pending)

    def found(self) -> None:
        """A broker can be reached again."""
        self.breakers.found()

    # ── reports of the outbox ─────────────────────────────────────────────────────────────────────────────────────

    def stored(self, batch: Iterable[Pending]) -> None:
        """These events are committed in the outbox."""
        for pending in batch:
            self._guarded(self._stored, pending)

    def _stored(self, pending: Pending) -> None:
        state = pending.state = pending.state & ~QUEUED | STORED
        if not state & ACKED:
            pending.route.by_outbox.add()
        if state & ACKED:
            self._close_row(pending)  # the acknowledgement came while the statement ran
        if state & ANSWERED:
            if not state & ACKED:
                self._stored_after_refusal.add()
            self._settle_late(pending)
        elif not state & BOTH:
            self._answer(pending, "outbox")
        elif state & ACKED:
            self._settle(pending, "both")

    def unsure(self, batch: Iterable[Pending]) -> None:
        """A statement with these failed or was late; it may have been committed."""
        for pending in batch:
            pending.state |= UNSURE
            if pending.state & ACKED:
                self._close_row(pending)

    def stalled(self, queue: Iterable[Pending]) -> None:
        """The outbox cannot be written now; it goes on trying with these. Those that Kafka may answer go there too."""
        for pending in queue:
            if not pending.state & (ANSWERED | TRIED) and pending.route.ack == "any":
                self._guarded(self._send, pending)

    def not_stored(self, pending: Pending, reason: str) -> None:
        """PostgreSQL refuses this one for what it is."""
        pending.state &= ~QUEUED
        self._guarded(lambda p: self._outbox_is_over(p, errors.OUTBOX_REFUSED, reason), pending)

    def _close_row(self, pending: Pending) -> None:
        assert self.outbox is not None
        self.outbox.close_row(pending.event_id)

    # ── time ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _sweep(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)  # first: a fault below ends nothing
        now = self._clock()
        if self.breakers.any_open:
            self.breakers.close_idle()
        for pending in self._first.over(now):
            self._guarded(self._kafka_is_late, pending)
        for pending in self._last.over(now):
            self._guarded(self._too_late, pending)

    def _kafka_is_late(self, pending: Pending) -> None:
        if not pending.state & LATE:
            pending.state |= LATE
            # One that came late to its delivery gave Kafka no time: that says nothing about Kafka.
            if self._clock() - pending.submitted >= self.kafka_wait_s / 2:
                self.breakers.failed(pending.record.topic)
        self._to_outbox(pending)

    def _too_late(self, pending: Pending) -> None:
        state = pending.state
        if state & SENT and not state & LATE:
            pending.state |= LATE
            self.breakers.failed(pending.record.topic)
        # A claim that could not be settled in time keeps nobody from the answer.
        if state & ACKED and not state & BOTH:
            self._answer(pending, "kafka")
        elif state & ACKED and state & STORED:
            self._answer(pending, "both")
        else:
            self._refuse(pending, errors.NOT_DURABLE, "deadline")

    # ── the answer ────────────────────────────────────────────────────────────────────────────────────────────────

    def _answer(self, pending: Pending, stored: Stored) -> None:
        self._over(pending)
        self._answered(pending, stored)
        self._forget(pending)

    def _refuse(self, pending: Pending, refusal: Refusal, reason: str) -> None:
        self._over(pending)
        self._refused(pending, refusal, reason)
        self._forget(pending)

    def _over(self, pending: Pending) -> None:
        pending.state |= ANSWERED
        self._first.remove(pending) or self._last.remove(pending)

    @staticmethod
    def _forget(pending: Pending) -> None:
        """Kafka's report may be seconds away; the bytes are not kept for it."""
        pending.record = pending.record._replace(value=b"", headers=[])

    def _guarded(self, step: Callable[[Pending], None], pending: Pending) -> None:
        """A fault with one event does not take the others' answers."""
        try:
            step(pending)
        except Exception:
            self._log.exception("fault in the delivery of an event", event_id=pending.event_id)

    def close(self) -> None:
        """Stop the timer."""
        self._timer.cancel()
