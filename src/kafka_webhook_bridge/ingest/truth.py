"""What this bridge may claim: the durability, limits and clocks really in force, told at start and looked at again.

    Kafka: topics' settings, brokers' limits ──┐
    PostgreSQL: how it commits, its clock      ├──▶ one judgement ──▶ log, /health/ready, metrics
    a report of Kafka: its clock ──────────────┘

A bridge whose places are not durable works on and is never `ready`: it is `degraded`, with what to change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from kafka_webhook_bridge.errors import KafkaError, StoreError
from kafka_webhook_bridge.kafka.admin import Admin, TopicInfo, request_bytes_max
from kafka_webhook_bridge.kafka.config import limit_trouble
from kafka_webhook_bridge.observability import health, logs, metrics
from kafka_webhook_bridge.observability.durability import Verdict, clock_trouble, weakest
from kafka_webhook_bridge.sources.table import SourceTable
from kafka_webhook_bridge.store.facts import read_verdict
from kafka_webhook_bridge.store.pool import Store

_LOOK_FIRST_S = 1.0  # until both places have told


class Truth:
    """Looks at both places again and again. Belongs to one loop.

    `ready` are the topics in use, `kafka_clock` how far Kafka's clock is ahead in ms as far as a report has told it.
    `bound` is called with the largest request in bytes that the brokers take.
    """

    def __init__(
        self,
        admin: Admin,
        store: Store | None,
        sources: SourceTable,
        check_ms: int,
        *,
        ready: Mapping[str, int],
        kafka_clock: Callable[[], float | None],
        bound: Callable[[int], None],
    ) -> None:
        self.sources = sources
        self._check_s = check_ms / 1000
        self._admin = admin
        self._store = store
        self._ready = ready
        self._kafka_clock = kafka_clock
        self._bound = bound
        self._kafka: tuple[str, Verdict] | None = None
        self._postgres: Verdict | None = None
        self._unread: dict[str, str] = {}
        self._limits: list[str] = []
        self._told_limits: list[str] = []
        self._clocks: list[str] = []
        self._told: object = None
        self._log = logs.get_logger("truth")
        registry = metrics.registry()
        self._durable = {p: registry.gauge("kwb_durable", place=p) for p in metrics.PLACES}
        self._skew = {p: registry.gauge("kwb_clock_skew_seconds", place=p) for p in metrics.PLACES}

    def parts(self) -> list[health.Part]:
        """`durability` always, `clocks` where one is wrong."""
        sentences = []
        for place, verdict in self._verdicts().items():
            if verdict is None:
                why = self._unread.get(place)
                sentences.append(f"{place} has not told its settings" + (f": {why}" if why else " yet"))
            elif verdict.durable is not True:
                sentences.append(verdict.sentence(place))
        parts = [health.Part("durability", "degraded" if sentences else "ready", "; ".join(sentences))]
        if self._clocks:
            parts.append(health.Part("clocks", "degraded", "; ".join(self._clocks)))
        return parts

    def _verdicts(self) -> dict[str, Verdict | None]:
        if self._kafka is None:
            found: dict[str, Verdict | None] = {"Kafka": None}
        else:
            name, verdict = self._kafka
            found = {f"Kafka, topic {name}" if name and not verdict.durable else "Kafka": verdict}
        if self._store is not None:
            found["PostgreSQL"] = self._postgres
        return found

    async def run(self) -> None:
        """Look, tell what is new, wait. A place that is away keeps what it told last."""
        while True:
            for place, look in (("Kafka", self._ask_kafka), ("PostgreSQL", self._ask_postgres)):
                try:
                    await look()
                except (KafkaError, StoreError) as error:
                    self._unread[place] = error.message
                except Exception:  # what is only told must not end what answers
                    self._unread[place] = "the bridge failed to read them"
                    self._log.exception("fault while settings were read", place=place)
            self._judge_clock("kafka", self._kafka_clock())
            self._tell()
            known = self._kafka is not None and (self._store is None or self._postgres is not None)
            await asyncio.sleep(self._check_s if known else min(_LOOK_FIRST_S, self._check_s))

    async def _ask_kafka(self) -> None:
        names = self.sources.by_topic().keys() | self._ready.keys()
        topics = await asyncio.to_thread(self._admin.describe, names)
        brokers = await asyncio.to_thread(self._admin.brokers)
        if topics:
            self._kafka = weakest((name, info.verdict) for name, info in topics.items())
        else:
            self._kafka = ("", self._admin.planned(len(brokers)).verdict)
        self._limits = self._too_small(topics)
        if (limit := request_bytes_max(brokers)) is not None:
            self._bound(limit)

    def _too_small(self, topics: Mapping[str, TopicInfo]) -> list[str]:
        found = []
        for topic, source in [(topic, one) for one in self.sources.all() for topic in one.topics]:
            info = topics.get(topic)
            if info is not None and (trouble := limit_trouble(info.record_bytes_max, source.body_bytes_max)):
                found.append(f"source {source.name}, topic {info.name}: {' '.join(trouble)}")
        return found

    async def _ask_postgres(self) -> None:
        self._clocks = []
        if self._store is not None:
            self._postgres, ahead_ms = await read_verdict(self._store)
            self._judge_clock("postgres", ahead_ms)

    def _judge_clock(self, place: metrics.Place, ahead_ms: float | None) -> None:
        if ahead_ms is None:
            return
        self._skew[place].set(abs(ahead_ms) / 1000)
        if trouble := clock_trouble({"kafka": "Kafka", "postgres": "PostgreSQL"}[place], ahead_ms):
            self._clocks.append(trouble)

    def _tell(self) -> None:
        """One line at the start, and one whenever something else holds."""
        self._durable["kafka"].set(self._kafka is not None and self._kafka[1].durable is True)
        self._durable["postgres"].set(self._postgres is not None and self._postgres.durable is True)
        verdicts = self._verdicts()
        if None in verdicts.values():
            return  # not known yet; health says so
        words = {place: f"{verdict.word}: {verdict.words}" for place, verdict in verdicts.items() if verdict}
        troubles = [part.reason for part in self.parts() if part.reason]
        if self._limits != self._told_limits:
            self._told_limits = self._limits
            self._log.warning("what sources take is bounded by their topics", limits=self._limits)
        if (words, len(troubles)) == self._told:
            return
        self._told = (words, len(troubles))
        if troubles:
            self._log.warning("acknowledged events are less safe than they should be", places=words, change=troubles)
        else:
            self._log.info("acknowledged events are durable", places=words)
