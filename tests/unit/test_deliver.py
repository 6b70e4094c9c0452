"""The state machine from a record to its answer, with a clock that the test moves (rules.md 1 to 5)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import confluent_kafka as ck
import pytest
from deliver_world import FAILURE, World

from kafka_webhook_bridge import errors
from kafka_webhook_bridge.kafka.producer import NotTaken, QueueFull
from kafka_webhook_bridge.observability import metrics


@pytest.fixture
def loop() -> Iterator[None]:
    """Deliver has a timer; nothing runs here."""
    made = asyncio.new_event_loop()
    asyncio._set_running_loop(made)
    yield
    asyncio._set_running_loop(None)
    made.close()


@pytest.fixture
def world(loop: None) -> World:
    return World()


def count(name: str, **labels: str) -> float:
    return metrics.registry().counter(name, **labels).value  # type: ignore[arg-type]


# ── ack: any ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_acknowledgement_answers_kafka(world: World) -> None:
    world.report(world.submit())
    assert world.answers == {"e1": "kafka"}
    assert (world.queue, world.closed, world.events) == ([], [], {"e1": ["direct"]})
    assert len(world.deliver) == 0


def test_rule_1_kafka_has_its_wait_and_then_the_outbox(world: World) -> None:
    pending = world.submit()
    world.forward(0.699)
    assert world.queue == []
    world.forward(0.001)
    assert (world.queue, world.answers) == ([pending], {})
    world.commit(world.take())
    assert world.answers == {"e1": "outbox"}
    assert world.events == {"e1": ["outbox"]}


def test_rule_1_the_deadline_counts_from_the_last_byte_whatever_happened_before(world: World) -> None:
    world.submit()
    world.forward(0.7)
    world.fail(world.take())
    world.forward(1.199)
    assert world.answers == {}
    world.forward(0.001)
    assert world.answers == {"e1": "deliver.timeout"}
    assert len(world.deliver) == 0


def test_rule_1_unknown_is_never_2xx(world: World) -> None:
    pending = world.submit()
    world.forward(0.7)
    world.fail(world.take(), committed=True)
    world.report(pending, FAILURE)
    world.forward(1.2)
    assert world.answers == {"e1": "deliver.timeout"}


@pytest.mark.parametrize("code", [
    ck.KafkaError._MSG_TIMED_OUT, ck.KafkaError._PURGE_INFLIGHT, ck.KafkaError._NO_OFFSET,
    ck.KafkaError._AUTHENTICATION,
    ck.KafkaError.TOPIC_AUTHORIZATION_FAILED, ck.KafkaError.MSG_SIZE_TOO_LARGE, ck.KafkaError.UNKNOWN_TOPIC_OR_PART,
])  # fmt: skip
def test_any_failure_goes_to_the_outbox_at_once(world: World, code: int) -> None:
    pending = world.submit()
    world.report(pending, code)
    assert (world.queue, world.answers) == ([pending], {})
    assert world.missing == (["t"] if code == ck.KafkaError.UNKNOWN_TOPIC_OR_PART else [])
    world.commit(world.take())
    assert world.answers == {"e1": "outbox"}


@pytest.mark.parametrize("error", [QueueFull("fast"), NotTaken("_FATAL")])
def test_what_kafkas_client_does_not_take_goes_to_the_outbox_at_once(world: World, error: Exception) -> None:
    world.refuse_kafka = error
    world.submit()
    world.commit(world.take())
    assert world.answers == {"e1": "outbox"}


def test_rule_3_a_lost_connection_sends_everything_to_the_outbox_at_once(world: World) -> None:
    pendings = [world.submit() for _ in range(3)]
    kafka = world.submit("kafka")
    world.deliver.lost()
    assert world.queue == pendings
    assert world.deliver.breakers.any_open
    world.commit(world.take())
    assert world.answers == {"e1": "outbox", "e2": "outbox", "e3": "outbox"}
    world.report(kafka)
    assert world.answers["e4"] == "kafka"


def test_the_outbox_is_over_but_kafka_answers_until_the_deadline(world: World) -> None:
    pending = world.submit()
    world.refuse_outbox = errors.OUTBOX_FULL
    world.forward(0.7)
    assert world.answers == {}
    world.forward(1.1)
    world.report(pending)
    assert world.answers == {"e1": "kafka"}


def test_both_places_are_over(world: World) -> None:
    pending = world.submit()
    world.refuse_outbox = errors.OUTBOX_FULL
    world.report(pending, FAILURE)
    assert world.answers == {"e1": "deliver.outbox_full"}


def test_poison_that_postgresql_refuses_waits_for_kafka(world: World) -> None:
    pending = world.submit()
    world.forward(0.7)
    (taken,) = world.take()
    world.deliver.not_stored(taken, "22P05")
    assert world.answers == {}
    world.report(pending)
    assert world.answers == {"e1": "kafka"}


# ── races (rules.md 2) ────────────────────────────────────────────────────────────────────────────────────────────


def test_rule_2_a_late_acknowledgement_closes_the_row(world: World) -> None:
    late = count("kwb_kafka_late_acks_total")
    pending = world.submit()
    world.forward(0.7)
    world.commit(world.take())
    world.report(pending)
    assert (world.answers, world.rows, world.closed) == ({"e1": "outbox"}, set(), ["e1"])
    assert world.events == {"e1": ["outbox"]}
    assert count("kwb_kafka_late_acks_total") == late + 1


def test_rule_2_an_acknowledgement_while_the_insert_runs_answers_at_once(world: World) -> None:
    pending = world.submit()
    world.forward(0.7)
    batch = world.take()
    world.report(pending)
    assert (world.answers, world.closed) == ({"e1": "kafka"}, [])
    world.commit(batch)
    assert (world.rows, world.closed) == (set(), ["e1"])
    assert world.events == {"e1": ["direct"]}


def test_rule_2_an_acknowledgement_before_the_statement_needs_no_row(world: World) -> None:
    pending = world.submit()
    world.forward(0.7)
    world.report(pending)
    assert world.take() == []
    assert (world.answers, world.closed) == ({"e1": "kafka"}, [])


def test_rule_2_an_acknowledgement_after_a_statement_that_ended_unseen_closes_what_may_be_there(world: World) -> None:
    pending = world.submit()
    world.forward(0.7)
    world.fail(world.take(), committed=True)
    world.report(pending)
    assert (world.answers, world.rows) == ({"e1": "kafka"}, set())
    assert world.take() == []  # and it is not written again


def test_rule_2_a_statement_that_ends_unseen_after_the_acknowledgement_is_closed_too(world: World) -> None:
    pending = world.submit()
    world.forward(0.7)
    batch = world.take()
    world.report(pending)
    world.fail(batch, committed=True)
    assert (world.answers, world.rows) == ({"e1": "kafka"}, set())


def test_rule_2_an_insert_that_ends_after_the_refusal_stays_and_is_counted(world: World) -> None:
    before = count("kwb_outbox_stored_after_refusal_total")
    pending = world.submit()
    world.forward(0.7)
    batch = world.take()
    world.forward(1.2)
    assert world.answers == {"e1": "deliver.timeout"}
    world.commit(batch)
    assert world.rows == {"e1"}
    assert count("kwb_outbox_stored_after_refusal_total") == before + 1
    assert world.events == {"e1": ["outbox"]}
    world.report(pending)  # later still
    assert (world.rows, world.events) == (set(), {"e1": ["outbox"]})


def test_a_refused_event_that_waits_for_its_statement_is_not_written(world: World) -> None:
    world.submit()
    world.forward(0.7)
    world.forward(1.2)
    assert world.answers == {"e1": "deliver.timeout"}
    assert world.take() == []


def test_an_event_is_tried_again_on_the_next_connection(world: World) -> None:
    world.submit()
    world.forward(0.7)
    world.fail(world.take())
    world.commit(world.take())
    assert world.answers == {"e1": "outbox"}


def test_the_bytes_are_not_kept_after_the_answer(world: World) -> None:
    pending = world.submit()
    world.forward(0.7)
    world.commit(world.take())
    assert (pending.record.value, pending.record.event_id) == (b"", "e1")


# ── the breaker (rules.md 3) ──────────────────────────────────────────────────────────────────────────────────────


def opened(world: World) -> None:
    for _ in range(3):
        world.submit()
        world.forward(0.7)
    world.commit(world.take())
    for pending in list(world.sent):
        world.report(pending, FAILURE)
    assert world.deliver.breakers.any_open
    world.answers.clear()


def test_rule_3_three_late_records_open_the_breaker_and_the_outbox_is_first(world: World) -> None:
    opened(world)
    first = world.submit()
    assert (world.queue, world.sent) == ([first], [])
    world.commit(world.take())
    assert world.answers == {first.event_id: "outbox"}


def test_rule_3_one_record_tries_kafka_every_500_ms_and_three_acknowledgements_close(world: World) -> None:
    opened(world)
    for _ in range(3):
        world.forward(0.5)
        probe, other = world.submit(), world.submit()
        assert (world.sent, world.queue) == ([probe], [other])
        world.report(probe)
        world.commit(world.take())
        assert (world.answers[probe.event_id], world.answers[other.event_id]) == ("kafka", "outbox")
    assert not world.deliver.breakers.any_open
    world.report(world.submit())


def test_rule_3_the_record_that_tries_kafka_has_the_usual_fall_back(world: World) -> None:
    opened(world)
    world.forward(0.5)
    probe = world.submit()
    assert world.sent == [probe]
    world.forward(0.7)
    assert world.queue == [probe]
    world.commit(world.take())
    assert world.answers == {probe.event_id: "outbox"}
    assert world.deliver.breakers.any_open


def test_rule_3_with_postgresql_away_kafka_has_the_whole_deadline(world: World) -> None:
    opened(world)
    world.away = True
    pending = world.submit()
    world.forward(1.8)
    assert (world.sent, world.queue, world.answers) == ([pending], [], {})
    world.report(pending)
    assert world.answers == {pending.event_id: "kafka"}


def test_rule_3_kafka_is_tried_when_the_outbox_fails_first(world: World) -> None:
    opened(world)
    pending = world.submit()
    world.fail(world.take())
    assert world.sent == [pending]
    world.report(pending)
    assert world.answers == {pending.event_id: "kafka"}


def test_rule_3_kafka_is_tried_when_the_outbox_takes_nothing(world: World) -> None:
    opened(world)
    world.refuse_outbox = errors.OUTBOX_FULL
    pending = world.submit()
    assert world.sent == [pending]
    world.report(pending, FAILURE)
    assert world.answers == {pending.event_id: "deliver.outbox_full"}


# ── ack modes (rules.md 5) ────────────────────────────────────────────────────────────────────────────────────────


def test_rule_5_kafka_never_uses_the_outbox(world: World) -> None:
    late, failed = world.submit("kafka"), world.submit("kafka")
    world.report(failed, FAILURE)
    assert world.answers == {"e2": "deliver.timeout"}
    world.forward(1.8)
    assert (world.queue, world.answers) == ([], {"e2": "deliver.timeout"})
    world.forward(0.1)
    assert world.answers["e1"] == "deliver.timeout"
    world.report(late)
    assert world.events["e1"] == ["direct"]


def test_rule_5_store_never_uses_kafka(world: World) -> None:
    world.submit("store")
    world.submit("store")
    assert world.sent == []
    (first, second) = world.take()
    world.commit([first])
    assert world.answers == {"e1": "outbox"}
    world.fail([second])
    assert world.sent == []
    world.forward(1.9)
    assert world.answers["e2"] == "deliver.timeout"


@pytest.mark.parametrize("kafka_first", [True, False])
def test_rule_5_both_needs_both_and_leaves_no_row(world: World, kafka_first: bool) -> None:
    pending = world.submit("both")
    assert (world.sent, world.queue) == ([pending], [pending])
    if kafka_first:
        world.report(pending)
        assert world.answers == {}
        world.commit(world.take())
    else:
        world.commit(world.take())
        assert world.answers == {}
        world.report(pending)
    assert world.answers == {"e1": "both"}
    assert world.rows == set()
    assert len(world.events["e1"]) == 1


def test_rule_5_both_with_one_of_them_is_a_refusal(world: World) -> None:
    acked, stored, failed = world.submit("both"), world.submit("both"), world.submit("both")
    batch = world.take()
    world.report(acked)
    world.commit([stored])
    world.report(failed, FAILURE)
    assert world.answers == {"e3": "deliver.timeout"}
    world.forward(1.9)
    assert world.answers == dict.fromkeys(["e1", "e2", "e3"], "deliver.timeout")
    world.commit([acked, failed])
    assert batch == [acked, stored, failed]
    assert world.rows == {"e2", "e3"}  # e1 is in Kafka


def test_rule_5_without_postgresql_any_means_kafka(loop: None) -> None:
    world = World(outbox=False)
    pending = world.submit()
    world.forward(1.8)
    world.report(pending)
    world.submit()
    world.forward(1.9)
    assert world.answers == {"e1": "kafka", "e2": "deliver.timeout"}


# ── claims ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Claimed:
    """A claim that is settled when the test calls `then`."""

    def __init__(self) -> None:
        self.settled: list[str] = []
        self.then: list[Callable[[], None]] = []

    def settle(self, stored: str, then: Callable[[], None] = lambda: None) -> None:
        self.settled.append(stored)
        self.then.append(then)


def test_rule_14_the_answer_follows_the_settled_claim(world: World) -> None:
    claim, both = Claimed(), Claimed()
    world.report(world.submit(claim=claim))
    assert (claim.settled, world.answers) == (["kafka"], {})
    claim.then.pop()()
    assert world.answers == {"e1": "kafka"}
    pending = world.submit("both", claim=both)
    world.report(pending)
    assert both.settled == []
    world.commit(world.take())
    assert (both.settled, world.answers) == (["both"], {"e1": "kafka"})
    both.then.pop()()
    assert world.answers == {"e1": "kafka", "e2": "both"}


@pytest.mark.parametrize("ack", ["any", "kafka", "both"])
def test_rule_14_a_claim_that_cannot_be_settled_never_makes_it_a_refusal(world: World, ack: str) -> None:
    claim = Claimed()
    pending = world.submit(ack, claim=claim)
    world.commit(world.take())
    world.report(pending)
    world.forward(0.7)
    assert (world.queue, world.answers) == ([], {})  # Kafka has it
    world.forward(1.2)
    assert world.answers == {"e1": "both" if ack == "both" else "kafka"}
    claim.then.pop()()  # too late, and harmless


def test_rule_14_the_outbox_settles_in_its_own_transaction(world: World) -> None:
    claim = Claimed()
    pending = world.submit(claim=claim)
    world.forward(0.7)
    world.commit(world.take())
    assert world.answers == {"e1": "outbox"}
    world.report(pending)  # late: the receipt said outbox
    assert claim.settled == []


@pytest.mark.parametrize("ack", ["any", "kafka", "both"])
def test_rule_14_what_becomes_durable_after_a_refusal_is_settled(world: World, ack: str) -> None:
    claim = Claimed()
    pending = world.submit(ack, claim=claim)
    world.forward(0.7)
    batch = world.take()
    world.forward(1.2)
    assert world.answers == {"e1": "deliver.timeout"}
    world.report(pending)
    if ack == "both":
        assert claim.settled == []
        world.commit(batch)
    assert claim.settled == ["both" if ack == "both" else "kafka"]


# ── order and faults ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_straggler_has_the_deadline_of_its_last_byte(world: World) -> None:
    """Its body was encoded in a thread: it comes after others whose last byte came later."""
    world.submit()
    world.now -= 0.6
    world.submit()
    world.now += 0.6
    world.forward(0.1)
    assert [pending.event_id for pending in world.queue] == ["e2"]
    world.forward(0.6)
    assert [pending.event_id for pending in world.queue] == ["e2", "e1"]


def test_a_fault_with_one_event_does_not_take_the_others_answers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    pendings = [world.submit() for _ in range(3)]
    real = world._answer
    world.deliver._answered = lambda pending, stored: 1 / 0 if pending is pendings[1] else real(pending, stored)  # type: ignore[assignment]
    for pending in pendings:
        pending.error = None
    world.deliver.finished([*pendings])
    assert world.answers == {"e1": "kafka", "e3": "kafka"}
