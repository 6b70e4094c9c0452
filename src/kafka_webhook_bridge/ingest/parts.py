"""A request that was split, on its way: one answer, given once every part is durable (rules.md 29).

    records ──all fit?──▶ each is delivered like the record of a request ──all durable──▶ 2xx
                                  └──the first that is refused──▶ that refusal; what is durable already stays

To the rest of the edge a part looks like the connection of its request. Once the request is answered, what its parts
still report answers nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kafka_webhook_bridge import errors
from kafka_webhook_bridge.errors import Refusal
from kafka_webhook_bridge.event import Record, Stored
from kafka_webhook_bridge.formats import encode, record_bytes
from kafka_webhook_bridge.ingest.auth import No
from kafka_webhook_bridge.sources.split import Split

if TYPE_CHECKING:
    from kafka_webhook_bridge.ingest.accept import Edge
    from kafka_webhook_bridge.ingest.protocol import Connection, Incoming
    from kafka_webhook_bridge.ingest.route import Route
    from kafka_webhook_bridge.ingest.suppress import Claim


class Part:
    """What the delivery of one part sees of the connection."""

    __slots__ = ("_batch",)

    claim: Claim | None = None  # sources that split suppress nothing

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    @property
    def gone(self) -> bool:
        """Whether nobody waits for it: the sender has gone, or is answered."""
        return self._batch.over

    @property
    def current(self) -> Incoming:
        return self._batch.incoming

    def refuse(self, refusal: Refusal, *, event_id: str | None = None, reason: str = "") -> None:
        """Nothing confirms this part, so nothing confirms the request. `event_id` is the part's; the answer has the
        request's."""
        self._batch.refuse(refusal, reason)

    def acked(self, stored: Stored) -> None:
        """The part is durable."""
        self._batch.acked(stored)


class Batch:
    """The parts of one request. Belongs to the loop; `records` are in the order of the array."""

    def __init__(
        self, edge: Edge, connection: Connection, incoming: Incoming, route: Route, records: Sequence[Record]
    ) -> None:
        self.incoming = incoming
        self._edge = edge
        self._connection = connection
        self._route = route
        self._records = records
        self._first = records[0]
        self._count = self._left = len(records)
        self._stored: Stored | None = None
        self._over = False

    @property
    def over(self) -> bool:
        return self._over or self._connection.gone

    def start(self) -> None:
        """Deliver all parts, or none where one would not fit."""
        topics = self._edge.topics
        total = 0
        for record in self._records:
            size = record_bytes(record)
            total += size
            if size > topics.ready.get(record.topic, topics.record_bytes_max):
                self.refuse(errors.RECORD_TOO_LARGE, "")
                return
        if total > topics.record_bytes_max:  # each part has all headers, so together they may be many times the request
            self.refuse(errors.RECORD_TOO_LARGE, f"{self._count} parts")
            return
        records, self._records = self._records, ()
        try:
            for record in records:
                if self.over:
                    return
                self._edge.deliver_part(Part(self), self.incoming, self._route, record)
        except Exception:
            self._over = True  # the edge answers it, and no part may answer the request behind it
            raise

    def acked(self, stored: Stored) -> None:
        """One more is durable. Of several places the receipt names the one from where some are still to be sent."""
        if self.over:
            return
        self._stored = stored if self._stored in (None, stored) else "outbox"
        self._left -= 1
        if not self._left:
            self._over = True
            self._edge.acked_all(self._connection, self._route, self._first, self._stored, self._count)

    def refuse(self, refusal: Refusal, reason: str) -> None:
        """Answer with the first refusal of a part."""
        if not self.over:
            self._over = True
            self._connection.refuse(refusal, event_id=self._first.event_id, reason=reason)


def encode_parts(made: Split | No) -> list[Record] | No:
    """The records of a request that was split; their bodies are JSON, being parts of it."""
    return [encode(event, True) for event in made.events] if isinstance(made, Split) else made
