"""Each verdict turns red for its own reason, and for nothing else; a clean run is green."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import orjson
import pytest

from faults.checker import Copy, Expect, Judge, Observed, Outside, Read, Row, SourceFacts, Verdict, Waiting, percentile
from faults.journal import Op, outcome, parse
from faults.load import LoadPlan, Script
from faults.payloads import Delivery

SEED = "s"
SOURCES = {
    "plain": SourceFacts("t-plain"),
    "keyed": SourceFacts("t-keyed", keyed=True),
    "once": SourceFacts("t-once", delivery_ids=True, suppress=True),
    "strict": SourceFacts("t-strict", strict=True),
    "shut": SourceFacts("t-shut"),
}
COUNT = 40  # of each source


class Run:
    """A run in which all went well, to be spoiled by a test. Requests follow each other without overlap."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.seen = Observed(recovery_s=1.0, windows=[(0.0, 1e9)])
        self.expect = Expect(acked_during_min=10)
        self.time = True
        for number in range(COUNT * len(SOURCES)):
            self.send(tuple(SOURCES)[number % len(SOURCES)], f"r-{number:06d}")
        first = self.of("once")[0]
        again = self.send("once", first.id, stored=False)
        again.event_id, again.duplicate = first.event_id, True
        acked = [op for op in self.ops if op.outcome == "ok"]
        suppressed = [op for op in acked if op.duplicate]
        self.seen.totals = {
            "kwb_requests_received_total": len(self.ops),
            "kwb_requests_acked_total": len(acked) - len(suppressed),
            "kwb_requests_suppressed_total": len(suppressed),
            "kwb_requests_rejected_total": len(self.ops) - len(acked),
            "kwb_events_total": len(acked) - len(suppressed),
        }

    def send(self, source: str, name: str, *, stored: bool = True) -> Op:
        seq, facts = len(self.ops), SOURCES[source]
        delivery = Delivery(SEED, name, {source: 1})
        op = Op(
            seq, name, source, delivery.key, delivery.sha256, sent=float(seq), done=seq + 0.5, due_s=0.5, sent_s=0.5
        )
        self.ops.append(op)
        if source == "shut":
            op.outcome, op.status = "fail", 401
            return op
        op.outcome, op.status, op.event_id, op.stored = "ok", 200, f"e{seq}", "kafka"
        op.receipt_sha256 = delivery.sha256
        if stored:
            key = delivery.key if facts.keyed else None
            dedupe = f"d-{name}" if facts.delivery_ids else ""
            self.seen.copies.append(
                Copy(facts.topic, 0, seq, op.event_id, name, source, key, delivery.sha256, dedupe)
            )  # fmt: skip
            self.seen.rows.append(
                Row(op.event_id, name, source, "stored", key, delivery.sha256, facts.topic, 0, seq, dedupe or None)
            )
        return op

    def of(self, source: str) -> list[Op]:
        return [op for op in self.ops if op.source == source]

    def change_copy(self, event_id: str, **changes: object) -> None:
        self.seen.copies = [
            dataclasses.replace(c, **changes) if c.event_id == event_id else c for c in self.seen.copies
        ]

    def judge(self) -> list[Verdict]:
        return Judge(self.ops, self.seen, SOURCES, SEED, self.expect, time=self.time).verdicts()

    def red(self) -> set[int]:
        return {verdict.number for verdict in self.judge() if verdict.red}


Spoil = Callable[[Run], None]
SPOILERS: dict[str, tuple[set[int], Spoil]] = {}


def spoils(*numbers: int) -> Callable[[Spoil], Spoil]:
    def take(spoil: Spoil) -> Spoil:
        SPOILERS[spoil.__name__] = (set(numbers), spoil)
        return spoil

    return take


def forget(run: Run, event_id: str, *, rows: bool = True) -> None:
    run.seen.copies = [copy for copy in run.seen.copies if copy.event_id != event_id]
    if rows:
        run.seen.rows = [row for row in run.seen.rows if row.event_id != event_id]


@spoils(1, 2)
def acked_and_nowhere(run: Run) -> None:
    forget(run, run.of("plain")[3].event_id)


@spoils(1)
def in_the_archive_alone(run: Run) -> None:
    forget(run, run.of("plain")[3].event_id, rows=False)


@spoils(1, 2)
def a_2xx_without_an_id(run: Run) -> None:
    run.of("plain")[0].event_id = ""


@spoils(2)
def no_row(run: Run) -> None:
    run.seen.rows = [row for row in run.seen.rows if row.event_id != run.of("keyed")[1].event_id]


@spoils(2)
def two_rows(run: Run) -> None:
    run.seen.rows.append(run.seen.rows[5])


@spoils(2)
def a_row_that_waits_for_nothing(run: Run) -> None:
    run.seen.rows[0] = dataclasses.replace(run.seen.rows[0], state="waiting", partition=None, offset=None)


@spoils(3)
def a_record_that_nobody_sent(run: Run) -> None:
    run.seen.copies.append(dataclasses.replace(run.seen.copies[0], event_id="x", delivery_id="r-999999", offset=9999))


@spoils(3)
def a_row_without_a_delivery(run: Run) -> None:
    run.seen.rows.append(dataclasses.replace(run.seen.rows[0], event_id="x", delivery_id=""))


@spoils(4)
def one_byte_differs(run: Run) -> None:
    run.change_copy(run.of("plain")[7].event_id, body_sha256="0" * 64)


@spoils(4)
def one_byte_differs_in_the_archive(run: Run) -> None:
    run.seen.rows[9] = dataclasses.replace(run.seen.rows[9], body_sha256="0" * 64)


@spoils(4)
def a_key_is_gone(run: Run) -> None:
    run.change_copy(run.of("keyed")[7].event_id, key=None)


@spoils(4)
def in_the_topic_of_another(run: Run) -> None:
    run.change_copy(run.of("plain")[7].event_id, topic="t-keyed")


@spoils(4)
def a_receipt_of_other_bytes(run: Run) -> None:
    run.of("plain")[1].receipt_sha256 = "0" * 64


@spoils(5)
def refused_and_written(run: Run) -> None:
    op = run.of("shut")[2]
    run.seen.copies.append(Copy("t-shut", 0, 0, "x", op.id, "shut", None, op.body_sha256))


@spoils(6)
def written_twice(run: Run) -> None:
    run.seen.copies.append(dataclasses.replace(run.seen.copies[4], offset=9999))


@spoils(7)
def two_ids_for_one_request(run: Run) -> None:
    op = run.of("plain")[6]
    copy = next(copy for copy in run.seen.copies if copy.event_id == op.event_id)
    run.seen.copies.append(dataclasses.replace(copy, event_id="x", offset=9999))


@spoils(6)
def more_copies_than_a_relay_died_for(run: Run) -> None:
    for n in (1, 2):
        run.seen.copies += [dataclasses.replace(copy, offset=copy.offset + 1000 * n) for copy in run.seen.copies[:6]]
    run.seen.deaths = 1
    run.expect = dataclasses.replace(run.expect, copies_max=2, rows_at_death=5)


@spoils(6)
def one_event_more_often_than_relays_died(run: Run) -> None:
    copy = run.seen.copies[0]
    run.seen.copies += [dataclasses.replace(copy, offset=1000 + n) for n in range(3)]
    run.seen.deaths = 1
    run.expect = dataclasses.replace(run.expect, copies_max=2, rows_at_death=5)


@spoils(7)
def one_id_for_two_deliveries(run: Run) -> None:
    run.seen.copies.append(
        dataclasses.replace(run.seen.copies[0], delivery_id=run.of("plain")[1].id, offset=9999,
                            body_sha256=run.of("plain")[1].body_sha256)
    )  # fmt: skip
    run.expect = dataclasses.replace(run.expect, copies_max=2)


@spoils(7)
def a_suppressed_delivery_has_an_event_of_its_own(run: Run) -> None:
    again = run.ops[-1]
    copy = next(copy for copy in run.seen.copies if copy.event_id == again.event_id)
    row = next(row for row in run.seen.rows if row.event_id == again.event_id)
    again.event_id = "x"
    run.seen.copies.append(dataclasses.replace(copy, event_id="x", offset=9999))
    run.seen.rows.append(dataclasses.replace(row, event_id="x", offset=9999))


@spoils(7)
def two_dedupe_keys(run: Run) -> None:
    run.change_copy(run.of("once")[0].event_id, dedupe_key="another")


@spoils(7)
def no_dedupe_key(run: Run) -> None:
    event_id = run.of("once")[3].event_id
    run.change_copy(event_id, dedupe_key="")
    run.seen.rows = [dataclasses.replace(r, dedupe_key=None) if r.event_id == event_id else r for r in run.seen.rows]


@spoils(8)
def a_strict_source_out_of_order(run: Run) -> None:
    first, second = run.of("strict")[:2]
    run.change_copy(first.event_id, offset=second.seq)
    run.change_copy(second.event_id, offset=first.seq)


@spoils(8)
def a_key_out_of_order(run: Run) -> None:
    first, second = next((a, b) for a in run.of("keyed") for b in run.of("keyed") if a.seq < b.seq and a.key == b.key)
    run.change_copy(first.event_id, offset=9998)
    run.change_copy(second.event_id, offset=9997)
    run.expect = dataclasses.replace(run.expect, order=True)


@spoils(9)
def an_answer_is_late(run: Run) -> None:
    run.of("plain")[0].sent_s = 2.21


@spoils(9)
def the_percentile_is_late(run: Run) -> None:
    for op in run.of("plain"):
        op.due_s = 1.1
    run.expect = dataclasses.replace(run.expect, p99_during_s_max=1.0)


@spoils(9, 10)
def no_answer(run: Run) -> None:
    op = run.of("shut")[0]
    op.outcome, op.status, op.reason = "info", 0, "timeout"


@spoils(10)
def an_answer_is_a_reset(run: Run) -> None:
    op = run.of("shut")[0]
    op.outcome, op.status, op.reason = "info", 0, "connection closed before the answer"


@spoils(10)
def a_refusal(run: Run) -> None:
    op = run.of("shut")[0]
    op.outcome, op.status = "info", 503


@spoils(10)
def no_recovery(run: Run) -> None:
    run.seen.recovery_s = None


@spoils(10)
def a_slow_recovery(run: Run) -> None:
    run.seen.recovery_s = 61.0


@spoils(10)
def a_scenario_saw_a_problem(run: Run) -> None:
    run.seen.problems.append("ready is 200")


@spoils(10)
def a_fresh_event_is_stuck(run: Run) -> None:
    run.seen.fresh_event_passed = False


@spoils(10)
def the_outbox_is_not_empty(run: Run) -> None:
    event_id = run.of("plain")[3].event_id
    forget(run, event_id, rows=False)
    run.seen.rows = [
        dataclasses.replace(row, state="waiting", partition=None, offset=None) if row.event_id == event_id else row
        for row in run.seen.rows
    ]
    run.seen.outbox.append(Waiting(event_id, "t-plain", "waiting"))


@spoils(11)
def a_request_that_the_counters_lost(run: Run) -> None:
    run.seen.totals["kwb_requests_received_total"] += 1


@spoils(11)
def more_acknowledged_than_told(run: Run) -> None:
    run.seen.totals["kwb_requests_acked_total"] += 1
    run.seen.totals["kwb_requests_rejected_total"] -= 1


@spoils(11)
def fewer_events_than_acknowledgements(run: Run) -> None:
    run.seen.totals["kwb_events_total"] -= 1


@spoils(12)
def no_acknowledgement_during_the_fault(run: Run) -> None:
    run.seen.windows = [(-2.0, -1.0)]


@spoils(12)
def no_fallback(run: Run) -> None:
    run.expect = dataclasses.replace(run.expect, fallbacks_min=1)


@spoils(12)
def no_duplicate(run: Run) -> None:
    run.expect = dataclasses.replace(run.expect, copies_min=1)


def read_by_a_group(run: Run) -> list[Read]:
    """Offsets of a topic without gaps, all read; a position is committed for every second record."""
    ends: dict[str, int] = {}
    reads = []
    for number, copy in enumerate(run.seen.copies):
        offset = ends.get(copy.topic, 0)
        run.seen.copies[number] = dataclasses.replace(copy, offset=offset)
        reads.append(Read(copy.topic, 0, offset, offset // 2 * 2))
        ends[copy.topic] = offset + 1
    rows = {copy.event_id: copy.offset for copy in run.seen.copies}
    run.seen.rows = [dataclasses.replace(row, offset=rows[row.event_id]) for row in run.seen.rows]
    run.seen.outside = Outside(reads, {(topic, 0): end for topic, end in ends.items()})
    return reads


@spoils(13)
def a_record_that_the_consumer_never_got(run: Run) -> None:
    read_by_a_group(run).pop()


@spoils(13)
def a_record_that_the_consumer_passed_over(run: Run) -> None:
    reads = read_by_a_group(run)
    reads.append(reads.pop(4))  # it came in the end; its group had gone on without it


@spoils(13)
def a_record_again_that_was_committed(run: Run) -> None:
    reads = read_by_a_group(run)
    reads += [dataclasses.replace(reads[-1], committed=reads[-1].offset + 1)]


@spoils(13)
def a_position_that_the_broker_lost(run: Run) -> None:
    read_by_a_group(run)
    assert run.seen.outside is not None
    run.seen.outside.committed["t-plain", 0] = 3


@spoils(13)
def a_consumer_that_is_late_to_come_back(run: Run) -> None:
    read_by_a_group(run)
    assert run.seen.outside is not None
    run.seen.outside.back_s.append(10.1)


def test_a_clean_run_is_green() -> None:
    assert [verdict for verdict in Run().judge() if verdict.found] == []
    assert len(Run().judge()) == 13


def test_a_consumer_may_get_again_what_it_had_not_committed() -> None:
    run = Run()
    reads = read_by_a_group(run)
    assert run.red() == set()
    reads.append(dataclasses.replace(reads[-1], committed=reads[-1].offset))
    assert run.red() == set()


@pytest.mark.parametrize("name", SPOILERS)
def test_a_verdict_turns_red(name: str) -> None:
    numbers, spoil = SPOILERS[name]
    run = Run()
    spoil(run)
    assert run.red() == numbers
    assert all(verdict.examples for verdict in run.judge() if verdict.red)


def test_every_verdict_has_a_test_that_turns_it_red() -> None:
    assert set().union(*(numbers for numbers, _ in SPOILERS.values())) == set(range(1, 14))


def test_what_a_scenario_allows_is_green() -> None:
    run = Run()
    written_twice(run)
    in_the_archive_alone(run)
    an_answer_is_a_reset(run)
    run.of("shut")[1].outcome, run.of("shut")[1].status = "info", 503
    run.expect = Expect(copies_max=2, kafka_forgets=True, resets=True, refused_max=1)
    assert run.red() == set()


def test_each_death_of_a_relay_may_repeat_what_was_under_way() -> None:
    run = Run()
    run.seen.copies += [dataclasses.replace(copy, offset=copy.offset + 1000) for copy in run.seen.copies[:5]]
    run.seen.deaths, run.expect = 1, Expect(rows_at_death=5)
    assert run.red() == set()


def test_an_answer_counts_from_the_first_word_of_a_bridge_that_starts() -> None:
    run = Run()
    op = run.of("plain")[0]
    op.done, op.sent_s = op.sent + 3.0, 3.0
    assert run.red() == {9}
    run.seen.starts = [(op.sent - 1.0, op.sent + 1.0)]
    assert run.red() == set()
    op.done = op.sent + 3.3
    assert run.red() == {9}


def test_a_claim_of_the_dead_is_waited_for() -> None:
    run = Run()
    run.expect = Expect(resets=True)
    op = run.of("shut")[0]
    op.outcome, op.status, op.code = "info", 503, "deliver.under_way"
    assert run.red() == set()
    op.code = "deliver.timeout"
    assert run.red() == {10}


def test_a_quarantined_event_is_no_loss_where_the_scenario_makes_some() -> None:
    run = Run()
    the_outbox_is_not_empty(run)
    event_id = run.seen.outbox[0].event_id
    run.seen.outbox = [Waiting(event_id, "t-plain", "quarantined", "MSG_SIZE_TOO_LARGE")]
    assert run.red() == {10}
    run.expect = dataclasses.replace(run.expect, quarantine=True)
    assert run.red() == set()


def test_an_unknown_outcome_may_be_stored_or_not() -> None:
    run = Run()
    there, gone = run.of("plain")[:2]
    forget(run, gone.event_id)
    for op in (there, gone):
        op.outcome, op.status, op.reason, op.event_id = "info", 503, "", ""
    run.seen.totals["kwb_requests_acked_total"] -= 2
    run.seen.totals["kwb_requests_refused_total"] = 2
    run.expect = dataclasses.replace(run.expect, refused_max=2)
    assert run.red() == set()
    assert Judge(run.ops, run.seen, SOURCES, SEED, run.expect).facts().info_present == 1


def test_rule_34_time_is_no_verdict_where_it_does_not_count() -> None:
    run = Run()
    an_answer_is_late(run)
    a_slow_recovery(run)
    a_consumer_that_is_late_to_come_back(run)
    run.time = False
    assert run.red() == set()


def test_order_is_no_verdict_among_requests_that_overlap() -> None:
    run = Run()
    first, second = run.of("strict")[:2]
    first.done = second.sent + 0.1
    run.change_copy(first.event_id, offset=second.seq)
    run.change_copy(second.event_id, offset=first.seq)
    assert run.red() == set()


# ── the journal and the payloads ──────────────────────────────────────────────────────────────────────────────────


def test_a_journal_that_is_cut_off_leaves_what_was_under_way_unknown() -> None:
    lines = [
        {"op": "start", "version": 1, "t": 0.0},
        {"op": "invoke", "seq": 0, "id": "a", "source": "plain", "key": "k1", "body_sha256": "00", "t": 1.0},
        {"op": "invoke", "seq": 1, "id": "b", "source": "plain", "key": "k1", "body_sha256": "00", "t": 1.5},
        {"op": "ok", "seq": 0, "status": 200, "event_id": "e", "stored": "outbox", "t": 2.0, "due_s": 1.25},
    ]
    text = [orjson.dumps(line) + b"\n" for line in lines]
    first, second = parse([*text, b'{"op":"ok","seq":1,"st'])
    assert (first.outcome, first.event_id, first.stored, first.sent_s, first.due_s) == ("ok", "e", "outbox", 1.0, 1.25)
    assert (second.outcome, second.status) == (None, 0)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(200, "ok"), (202, "ok"), (400, "fail"), (429, "fail"), (500, "info"), (503, "info"), (0, "info")],
)
def test_what_an_answer_promises(status: int, kind: str) -> None:
    assert outcome(status) == kind


def test_a_delivery_follows_from_seed_and_id() -> None:
    sources = {"plain": 3, "keyed": 1}
    one, two = (Delivery("7", "r-1", sources) for _ in range(2))
    assert (one.body, one.key, one.source) == (two.body, two.key, two.source)
    assert Delivery("8", "r-1", sources).body != one.body
    many = [Delivery("7", f"r-{n}", sources) for n in range(3000)]
    assert {delivery.kind for delivery in many} == {"tiny", "json", "binary", "hostile", "large"}
    assert {delivery.source for delivery in many} == set(sources)
    assert len({delivery.key for delivery in many}) > 50


def test_a_tenth_is_sent_again_under_its_old_id() -> None:
    script = Script(LoadPlan("http://x", "", "1", "r", 1.0, 1.0, 1, {"plain": 1}))
    ids = [script().id for _ in range(5000)]
    again = len(ids) - len(set(ids))
    assert 400 < again < 600
    other = Script(LoadPlan("http://x", "", "1", "r", 1.0, 1.0, 1, {"plain": 1}))
    assert [other().id for _ in range(5000)] == ids


def test_percentiles() -> None:
    assert percentile([], 0.99) == 0.0
    assert percentile([1.0, 2.0, 3.0], 0.5) == 2.0
    assert percentile([1.0, 2.0, 3.0], 0.99) == 3.0


def test_what_came_by_the_outbox_may_be_overtaken_unless_the_source_is_strict() -> None:
    run = Run()
    a_key_out_of_order(run)
    assert run.red() == {8}
    for op in run.of("keyed"):
        op.stored = "outbox"
    assert run.red() == set()
