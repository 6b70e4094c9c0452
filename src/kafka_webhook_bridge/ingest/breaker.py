"""Circuit breakers: whether a record goes to Kafka first, or to the outbox first (rules.md 3).

    closed ──so many failures in a row, or the connection lost──▶ open ──so many acknowledgements in a row──▶ closed
                                                                   └── now and then one record tries Kafka

One for the cluster and one per topic, in each process; no message passes between processes. A healthy request reads
two attributes: `any_open` before it is sent, `troubled` after its acknowledgement.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from kafka_webhook_bridge.observability import logs, metrics

_LATELY_S = 10.0
_IDLE_S = 60.0  # nothing came for so long: the next record finds out


class Breaker:
    """The cluster's or one topic's. `try_after` is the time in seconds from which the next record may try Kafka."""

    __slots__ = ("acks", "asked_at", "failures", "open", "opened_at", "try_after")

    def __init__(self) -> None:
        self.open = False
        self.failures = 0  # in a row, while closed
        self.acks = 0  # in a row, while open
        self.opened_at = 0.0
        self.asked_at = 0.0  # the last record that came while it was open
        self.try_after = 0.0


class Breakers:
    """All breakers of one process. Belongs to one loop.

    `any_open` is false while every record goes to Kafka first; `troubled` is false while no outcome needs counting but
    a failure. `clock` gives monotonic seconds.
    """

    def __init__(self, failures_max: int, probe_ms: int, closes_after: int, clock: Callable[[], float]) -> None:
        self.any_open = False
        self.troubled = False
        self._failures_max = failures_max
        self._probe_s = probe_ms / 1000
        self._closes_after = closes_after
        self._clock = clock
        self._cluster = Breaker()
        self._topics: dict[str, Breaker] = {}
        # While the cluster's breaker is open, topics whose own is open share one turn, or a busy topic that is broken
        # for itself would take every turn of those that are well.
        self._turn_of_broken = Breaker()
        self._failed_at = -math.inf
        self._lost = False
        self._gauge = metrics.registry().gauge("kwb_breaker_open")
        self._log = logs.get_logger("ingest")

    @property
    def cluster_open(self) -> bool:
        return self._cluster.open

    @property
    def failing(self) -> bool:
        """Whether the cluster's is open and something failed lately. Without traffic an open breaker says nothing."""
        return self._cluster.open and self._clock() - self._failed_at < _LATELY_S

    def kafka_first(self, topic: str) -> bool:
        """Whether a record of the topic goes to Kafka first now. Takes the turn of an open breaker if it is due."""
        own = self._topics.get(topic)
        own_open = own is not None and own.open
        if self._cluster.open:
            turn = self._turn_of_broken if own_open else self._cluster
        elif own is not None and own_open:
            turn = own
        else:
            return True
        now = self._clock()
        self._cluster.asked_at = now
        if own is not None:
            own.asked_at = now
        if now < turn.try_after:
            return False
        turn.try_after = now + self._probe_s
        return True

    def acked(self, topic: str, sent_at: float = math.inf) -> None:
        """A record that was sent then was acknowledged in time. Needed only while `troubled`."""
        own = self._topics.get(topic)
        if own is not None and self._succeeded(own, topic, sent_at):
            del self._topics[topic]
        self._succeeded(self._cluster, None, sent_at)
        self._look()

    def failed(self, topic: str, *, topic_alone: bool = False) -> None:
        """A record was not acknowledged in time, or failed. `topic_alone`: for a reason that is the topic's own."""
        self._failed_at = self._clock()
        own = self._topics.get(topic)
        if own is None:
            own = self._topics[topic] = Breaker()
        self._failed(own, topic)
        if not topic_alone:
            self._failed(self._cluster, None)
        self._look()

    def lost(self) -> None:
        """No broker can be reached."""
        self._lost = True
        if not self._cluster.open:
            self._open(self._cluster, None, "the connection is lost")
        self._look()

    def found(self) -> None:
        """A broker can be reached again: the next record tries it."""
        self._lost = False
        for breaker in (self._cluster, self._turn_of_broken, *self._topics.values()):
            breaker.try_after = 0.0

    def close_idle(self) -> None:
        """Close what nothing asked for a minute: a source that fell silent would leave its alarm on for ever."""
        before = self._clock() - _IDLE_S
        idle: list[tuple[str | None, Breaker]] = [
            (topic, own) for topic, own in self._topics.items() if own.open and own.asked_at < before
        ]
        if self._cluster.open and self._cluster.asked_at < before and not self._lost:
            idle.append((None, self._cluster))
        for topic, breaker in idle:
            breaker.open = False
            if topic is not None:
                del self._topics[topic]
            self._log.info("breaker closed: nothing came for a minute", topic=topic)
        if idle:
            self._look()

    def _succeeded(self, breaker: Breaker, topic: str | None, sent_at: float) -> bool:
        """Whether the breaker is closed now. Of what was sent before it opened the last reports are just coming in."""
        breaker.failures = 0
        if breaker.open and sent_at > breaker.opened_at:
            breaker.acks += 1
            if breaker.acks >= self._closes_after:
                breaker.open = False
                breaker.acks = 0
                self._log.info("breaker closed: Kafka acknowledges", topic=topic)
        return not breaker.open

    def _failed(self, breaker: Breaker, topic: str | None) -> None:
        breaker.acks = 0
        if breaker.open:
            breaker.asked_at = self._clock()
            return
        breaker.failures += 1
        if breaker.failures >= self._failures_max:
            self._open(breaker, topic, f"{breaker.failures} records in a row were not acknowledged in time")

    def _open(self, breaker: Breaker, topic: str | None, why: str) -> None:
        breaker.open = True
        breaker.failures = breaker.acks = 0
        breaker.opened_at = breaker.asked_at = self._clock()
        breaker.try_after = breaker.opened_at + self._probe_s
        if breaker is self._cluster:
            self._turn_of_broken.try_after = breaker.try_after
        self._log.warning("breaker open: events go to the outbox first", topic=topic, reason=why)

    def _look(self) -> None:
        opened = self._cluster.open + sum(breaker.open for breaker in self._topics.values())
        self.any_open = opened > 0
        self.troubled = self.any_open or bool(self._topics) or self._cluster.failures > 0
        self._gauge.set(opened)
