"""Whatever order Kafka, the outbox and the clock choose: one answer in time, and never a promise without a copy."""

from __future__ import annotations

import asyncio

import confluent_kafka as ck
from deliver_world import World
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from kafka_webhook_bridge import errors
from kafka_webhook_bridge.ingest.deliver import Pending
from kafka_webhook_bridge.kafka.producer import QueueFull

FAILURES = st.sampled_from(
    [ck.KafkaError._MSG_TIMED_OUT, ck.KafkaError.MSG_SIZE_TOO_LARGE, ck.KafkaError.UNKNOWN_TOPIC_OR_PART]
)


class AnyOrder(RuleBasedStateMachine):
    """Rules 1, 2, 3, 5 and 17 over every interleaving that the search finds."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        asyncio._set_running_loop(self.loop)
        self.world = World()
        self.came: dict[str, float] = {}
        self.modes: dict[str, str] = {}
        self.acked: set[str] = set()
        self.committed: set[str] = set()  # at some time, seen or not
        self.unsure: set[str] = set()
        self.statement: list[Pending] = []

    def teardown(self) -> None:
        world = self.world
        world.refuse_outbox = world.refuse_kafka = None
        self.end(seen=True)
        for pending in list(world.sent):
            self.acknowledge(pending)
        self.begin()
        self.end(seen=True)
        for _ in range(20):
            world.forward(0.1)
        assert set(world.answers) == set(self.came)
        assert len(world.deliver) == 0
        for event_id in self.came:
            durable = event_id in self.acked or event_id in self.committed - self.unsure
            assert len(world.events[event_id]) == durable or event_id in self.unsure
            assert len(world.events[event_id]) <= 1  # direct + outbox = events
        for event_id in world.rows & self.acked:
            raise AssertionError(f"{event_id} is in Kafka, and its row stays")
        asyncio._set_running_loop(None)
        self.loop.close()

    @rule(ack=st.sampled_from(["any", "any", "any", "kafka", "store", "both"]), topic=st.sampled_from("ab"))
    def submit(self, ack: str, topic: str) -> None:
        event_id = f"e{len(self.came) + 1}"
        self.came[event_id], self.modes[event_id] = self.world.now, ack
        self.world.submit(ack, topic=topic)

    @rule(seconds=st.sampled_from([0.02, 0.2, 0.5, 0.7, 1.2]))
    def time_goes_on(self, seconds: float) -> None:
        self.world.forward(seconds)

    @rule(at=st.integers(0, 5), error=st.none() | FAILURES)
    def kafka_reports(self, at: int, error: int | None) -> None:
        if at < len(self.world.sent):
            pending = self.world.sent[at]
            if error is None:
                self.acknowledge(pending)
            else:
                self.world.report(pending, error)

    def acknowledge(self, pending: Pending) -> None:
        self.acked.add(pending.event_id)
        self.world.report(pending)

    @rule()
    def begin(self) -> None:
        if not self.statement:
            self.statement = self.world.take()

    @rule(seen=st.booleans(), written=st.booleans())
    def end(self, seen: bool, written: bool = True) -> None:
        batch, self.statement = self.statement, []
        ids = {pending.event_id for pending in batch}
        if seen or written:
            self.committed |= ids
        if seen:
            self.world.away = False
            self.world.commit(batch)
        elif batch:
            self.unsure |= ids
            self.world.fail(batch, committed=written)

    @rule(at=st.integers(0, 3))
    def poison(self, at: int) -> None:
        if at < len(self.statement):
            self.world.deliver.not_stored(self.statement.pop(at), "22P05")

    @rule(lost=st.booleans())
    def connection(self, lost: bool) -> None:
        (self.world.deliver.lost if lost else self.world.deliver.found)()

    @rule(full=st.booleans())
    def outbox_is_full(self, full: bool) -> None:
        self.world.refuse_outbox = errors.OUTBOX_FULL if full else None

    @rule(full=st.booleans())
    def kafka_is_full(self, full: bool) -> None:
        self.world.refuse_kafka = QueueFull("fast") if full else None

    @invariant()
    def promises_are_kept(self) -> None:
        for event_id, answer in self.world.answers.items():
            if answer == "kafka":
                assert event_id in self.acked
                assert self.modes[event_id] in ("any", "kafka")
            elif answer == "outbox":
                assert event_id in self.acked or event_id in self.world.rows
                assert self.modes[event_id] in ("any", "store")
            elif answer == "both":
                assert event_id in self.acked & self.committed
                assert self.modes[event_id] == "both"

    @invariant()
    def nobody_waits_for_ever(self) -> None:
        for event_id, came in self.came.items():
            assert event_id in self.world.answers or self.world.now < came + 1.9 + 1e-5

    @invariant()
    def modes_keep_to_their_places(self) -> None:
        assert not any(self.modes[pending.event_id] == "store" for pending in self.world.sent)
        assert not any(self.modes[pending.event_id] == "kafka" for pending in self.world.queue)


AnyOrder.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestRule1InAnyOrder = AnyOrder.TestCase
