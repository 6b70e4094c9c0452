"""Deliver with a Kafka, an outbox and a clock that the test moves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import confluent_kafka as ck

from kafka_webhook_bridge.errors import Refusal
from kafka_webhook_bridge.event import Record
from kafka_webhook_bridge.ingest.deliver import ANSWERED, QUEUED, SENT, Deliver, Pending
from kafka_webhook_bridge.settings import DeliverSettings

SETTINGS = DeliverSettings()
FAILURE = ck.KafkaError._MSG_TIMED_OUT


class World:
    """`answers` has what each event was answered: `kafka`, `outbox`, `both` or the code of a refusal."""

    def __init__(self, *, outbox: bool = True) -> None:
        self.now = 1000.0
        self.answers: dict[str, str] = {}
        self.sent: list[Pending] = []
        self.queue: list[Pending] = []
        self.rows: set[str] = set()  # of the table
        self.closed: list[str] = []
        self.missing: list[str] = []
        self.away = False
        self.refuse_outbox: Refusal | None = None
        self.refuse_kafka: Exception | None = None
        self.events: dict[str, list[str]] = {}
        self._n = 0
        self.deliver = Deliver(
            SETTINGS, lambda: self.now, answered=self._answer, refused=self._refuse, topic_missing=self.missing.append
        )
        self.deliver._timer.cancel()  # the test looks at the clock
        producer: Any = SimpleNamespace(send=self._send)
        self.deliver.producer = producer
        if outbox:
            self.deliver.outbox = self
        self.has_outbox = outbox

    # ── what Deliver calls ────────────────────────────────────────────────────────────────────────────────────────

    def _answer(self, pending: Pending, stored: str) -> None:
        assert pending.event_id not in self.answers, "answered twice"
        assert pending.record.body_sha256 == "sha"  # what the receipt needs is still there
        self.answers[pending.event_id] = stored

    def _refuse(self, pending: Pending, refusal: Refusal, reason: str) -> None:
        assert pending.event_id not in self.answers, "answered twice"
        self.answers[pending.event_id] = refusal.code

    def _send(self, record: Record, pending: Pending) -> None:
        if self.refuse_kafka is not None:
            raise self.refuse_kafka
        assert record.value == b"body", "sent without its bytes"
        self.sent.append(pending)

    def put(self, pending: Pending) -> Refusal | None:
        if self.refuse_outbox is not None:
            return self.refuse_outbox
        assert pending.record.value == b"body", "stored without its bytes"
        assert pending not in self.queue, "queued twice"
        self.queue.append(pending)
        return None

    def close_row(self, event_id: str) -> None:
        self.closed.append(event_id)
        self.rows.discard(event_id)

    # ── what the test does ────────────────────────────────────────────────────────────────────────────────────────

    def submit(self, ack: str = "any", *, topic: str = "t", claim: object = None) -> Pending:
        """One event whose last byte comes now. The Pending, from wherever it went."""
        self._n += 1
        event_id = f"e{self._n}"
        count: list[str] = []
        self.events[event_id] = count
        route: Any = SimpleNamespace(
            ack=ack, plain=self.has_outbox and ack == "any" and claim is None,
            source=SimpleNamespace(strict=False),
            direct=SimpleNamespace(add=lambda: count.append("direct")),
            by_outbox=SimpleNamespace(add=lambda: count.append("outbox")),
        )  # fmt: skip
        before = {*self.sent, *self.queue}
        connection: Any = SimpleNamespace(gone=False)
        self.deliver.submit(Record(event_id, topic, None, b"body", [], "sha"), connection, route, self.now, claim)
        new = {*self.sent, *self.queue} - before
        return new.pop() if new else SimpleNamespace(event_id=event_id)  # type: ignore[return-value]

    def forward(self, seconds: float) -> None:
        self.now += seconds + 1e-6  # sums of floats
        self.deliver._sweep()
        self.deliver._timer.cancel()

    def report(self, pending: Pending, error: int | None = None) -> None:
        """Kafka's report."""
        self.sent.remove(pending)
        assert pending.state & SENT
        pending.error = None if error is None else ck.KafkaError(error)
        self.deliver.finished([pending])

    def take(self) -> list[Pending]:
        """A statement begins, as the writer does it: without those that are answered."""
        batch = [pending for pending in self.queue if not pending.state & ANSWERED]
        for pending in self.queue:
            if pending.state & ANSWERED:
                pending.state &= ~QUEUED
        self.queue.clear()
        return batch

    def commit(self, batch: list[Pending]) -> None:
        self.rows |= {pending.event_id for pending in batch}
        self.deliver.stored(batch)

    def fail(self, batch: list[Pending], *, committed: bool = False) -> None:
        """The statement ends unseen; what it wrote may be there."""
        if committed:
            self.rows |= {pending.event_id for pending in batch}
        self.queue[:0] = batch
        self.deliver.unsure(batch)
        self.away = True
        self.deliver.stalled(list(self.queue))
