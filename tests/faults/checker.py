"""The verdicts: what the journal says was promised, against what Kafka and PostgreSQL hold. Plain data in, plain out.

    1 lost        acknowledged and in neither Kafka nor the outbox      7 identity  ids and dedupe keys disagree
    2 archive     acknowledged without exactly one row                  8 order     acked earlier, written later
    3 spurious    stored, but nobody sent it                            9 time      late, or never answered
    4 corrupt     other bytes, key, source or topic than were sent     10 liveness  not healthy in time afterwards
    5 rejected    answered 4xx and stored all the same                 11 accounts  the bridge's counters disagree
    6 duplicates  more copies of one event than the scenario allows    12 vacuous   what was to happen did not
   13 outside     what a consumer in a group did not get, or got after it had committed it

An op whose outcome is unknown (`info`) may be there or not. Nothing here knows how the bridge works: the bytes come
from payloads.py, the rest from what is observed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from faults.journal import Op
from faults.payloads import Delivery

EXAMPLES = 5
ANSWER_S_MAX = 2.2
BACK_S_MAX = 10.0  # from nginx's return to a consumer's next new record
AT_RISK_S = 5.0  # the archive may be so far behind


@dataclass(frozen=True, slots=True)
class Copy:
    """One record of Kafka. Empty texts stand for what it lacks."""

    topic: str
    partition: int
    offset: int
    event_id: str
    delivery_id: str
    source: str
    key: str | None
    body_sha256: str
    dedupe_key: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of `events`."""

    event_id: str
    delivery_id: str
    source: str
    state: str
    key: str | None
    body_sha256: str
    topic: str
    partition: int | None
    offset: int | None
    dedupe_key: str | None = None
    duplicate_of: str | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """One row of `outbox`."""

    event_id: str
    topic: str
    state: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Read:
    """One record that a consumer in a group was given. `committed` is the position that the group had there by then."""

    topic: str
    partition: int
    offset: int
    committed: int


@dataclass(frozen=True, slots=True)
class Outside:
    """What the consumer was given, in that order, and the group's positions at the end as the broker has them."""

    reads: list[Read]
    committed: dict[tuple[str, int], int]
    back_s: list[float] = field(default_factory=list)  # after each cut: until it had a new record again


@dataclass(slots=True)
class Observed:
    """Everything that was found after the faults, read from the start."""

    copies: list[Copy] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    outbox: list[Waiting] = field(default_factory=list)
    totals: dict[str, float] = field(default_factory=dict)  # the bridge's own counters, over all series
    recovery_s: float | None = None  # None: it did not recover in its time
    fresh_event_passed: bool = True
    archive: bool = True  # there is a worker that writes rows
    counters_whole: bool = True  # no supervisor was replaced, so the counters tell of the whole run
    windows: list[tuple[float, float]] = field(default_factory=list)  # Unix times of the faults
    starts: list[tuple[float, float]] = field(default_factory=list)  # of the starts of bridges, and of their first word
    deaths: float = 0  # of children that were started anew
    problems: list[str] = field(default_factory=list)  # what the scenario itself saw that must not be
    resident_bytes: list[tuple[float, int]] = field(default_factory=list)  # of the ingest processes, by Unix time
    outside: Outside | None = None  # None: nobody read from outside


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """How a source of the scenario is configured."""

    topic: str
    keyed: bool = False
    suppress: bool = False
    delivery_ids: bool = False  # its records carry kwb_dedupe_key
    strict: bool = False


@dataclass(frozen=True, slots=True)
class Expect:
    """What a scenario demands and allows."""

    copies_max: int = 1  # of one event in Kafka
    rows_at_death: int = 0  # at each death of a relay so many rows may be sent once more
    refused_max: int | None = 0  # of these, answered 5xx
    resets: bool = False  # an ingest process is killed: what was inside ends as reset
    answer_s_max: float = ANSWER_S_MAX  # from a request's first byte
    kafka_forgets: bool = False  # a topic is deleted or a log lost: the archive alone decides what is lost
    quarantine: bool = False  # rows may stay in the outbox in state quarantined
    blocked: bool = False  # rows may stay in the outbox in state blocked
    order: bool = False  # of keyed sources; strict ones are always judged
    recovery_s_max: float = 60.0
    acked_during_min: int = 100  # answers 2xx while the fault lasted
    fallbacks_min: int = 0  # answers `outbox`
    refused_min: int = 0
    copies_min: int = 0  # further copies of events in Kafka
    p99_during_s_max: float | None = None
    p50_settled_s_max: float | None = None  # of what was sent a second after a fault began, or later
    growth_max: float | None = None  # resident memory at the end of the faults, as a multiple of that at their start
    at_risk: str = ""  # a source whose topic is deleted: what Kafka alone had and no archive yet dies with it


@dataclass(frozen=True, slots=True)
class Verdict:
    """`found` is how many; red where `red`. `judged` is false where the scenario or the machine cannot tell."""

    number: int
    name: str
    found: int
    examples: tuple[str, ...] = ()
    judged: bool = True

    @property
    def red(self) -> bool:
        return self.judged and self.found > 0


@dataclass(frozen=True, slots=True)
class Facts:
    """The numbers of a run for the report."""

    requests: int
    acked: int
    rejected: int
    refused: int
    unknown: int
    fallbacks: int
    suppressed: int
    further_copies: int
    inversions: int
    info_present: int
    acked_during: int
    p50_during_s: float
    p99_during_s: float
    p50_settled_s: float
    growth: float
    at_risk: int
    slowest_s: float


class Judge:
    """One run. `time` is false where the machine's speed shall not decide (rules.md 34)."""

    def __init__(
        self,
        ops: Sequence[Op],
        observed: Observed,
        sources: Mapping[str, SourceFacts],
        seed: str,
        expect: Expect = Expect(),
        *,
        time: bool = True,
    ) -> None:
        self.ops, self.seen, self.sources, self.expect, self.time = ops, observed, sources, expect, time
        self._seed = seed
        self._acked = [op for op in ops if op.outcome == "ok"]
        self._by_event: dict[str, list[Copy]] = defaultdict(list)
        for copy in observed.copies:
            self._by_event[copy.event_id].append(copy)
        self._rows = Counter(row.event_id for row in observed.rows)
        self._outbox = {row.event_id: row for row in observed.outbox}
        self._sent: dict[str, list[Op]] = defaultdict(list)
        for op in ops:
            self._sent[op.id].append(op)

    def verdicts(self) -> list[Verdict]:
        """All of them, in their order."""
        return [
            self._verdict(1, "lost", self._lost()),
            self._verdict(2, "archive", self._archive(), judged=self.seen.archive),
            self._verdict(3, "spurious", self._spurious()),
            self._verdict(4, "corrupt", self._corrupt()),
            self._verdict(5, "rejected", self._rejected()),
            self._verdict(6, "duplicates", self._duplicates()),
            self._verdict(7, "identity", self._identity()),
            self._verdict(8, "order", self._order()),
            self._verdict(9, "time", self._late(), judged=self.time),
            self._verdict(10, "liveness", self._liveness()),
            self._verdict(11, "accounts", self._accounts(), judged=self.seen.counters_whole),
            self._verdict(12, "vacuous", self._vacuous()),
            self._verdict(13, "outside", self._outside(), judged=self.seen.outside is not None),
        ]

    @staticmethod
    def _verdict(number: int, name: str, found: Iterable[str], *, judged: bool = True) -> Verdict:
        found = list(found) if judged else []
        return Verdict(number, name, len(found), tuple(islice(found, EXAMPLES)), judged)

    # ── what is where ─────────────────────────────────────────────────────────────────────────────────────────────

    def _lost(self) -> Iterator[str]:
        for op in self._acked:
            if not op.event_id:
                yield f"{op.id}: 2xx without an event id"
            elif self._nowhere(op) and not self._died_with_its_topic(op):
                yield f"{op.id}: event {op.event_id} ({op.stored}) is nowhere"

    def _nowhere(self, op: Op) -> bool:
        archived = self.expect.kafka_forgets and op.event_id in self._rows
        return not archived and op.event_id not in self._by_event and op.event_id not in self._outbox

    def _died_with_its_topic(self, op: Op) -> bool:
        """Kafka alone had it when the topic was deleted (rules.md 7): at risk, not lost by the bridge."""
        if op.source != self.expect.at_risk or op.stored != "kafka":
            return False
        return any(start - AT_RISK_S <= op.done <= end for start, end in self.seen.windows)

    def _archive(self) -> Iterator[str]:
        for op in self._acked:
            if self._rows[op.event_id] != 1 and not self._died_with_its_topic(op):
                yield f"{op.id}: event {op.event_id} has {self._rows[op.event_id]} rows"
        for row in () if self.expect.kafka_forgets else self.seen.rows:  # a record died before it was archived
            waits = self._outbox.get(row.event_id)
            if (row.offset is None) != (waits is not None) or (row.state == "stored") != (waits is None):
                yield f"{row.delivery_id}: event {row.event_id} is {row.state} at {row.offset}, outbox: {waits}"

    def _spurious(self) -> Iterator[str]:
        for what in (*self.seen.copies, *self.seen.rows):
            if what.delivery_id not in self._sent:
                yield f"{what.delivery_id or 'no id'}: event {what.event_id} was never sent"

    def _corrupt(self) -> Iterator[str]:
        for what in (*self.seen.copies, *self.seen.rows):
            sent = self._sent.get(what.delivery_id)
            facts = self.sources.get(what.source)
            if not sent:
                continue
            wanted = Delivery(self._seed, what.delivery_id, {sent[0].source: 1})
            if what.body_sha256 != wanted.sha256:
                yield f"{what.delivery_id}: the body of event {what.event_id} ({wanted.kind}) has other bytes"
            if what.source != sent[0].source or facts is None or what.topic != facts.topic:
                yield f"{what.delivery_id}: event {what.event_id} of {sent[0].source} is in {what.source}, {what.topic}"
            elif what.key != (wanted.key if facts.keyed else None):
                yield f"{what.delivery_id}: event {what.event_id} has the key {what.key!r}"
        for op in self._acked:
            if op.receipt_sha256 and op.receipt_sha256 != op.body_sha256:
                yield f"{op.id}: the receipt tells of other bytes"

    def _rejected(self) -> Iterator[str]:
        refused = {
            delivery: ops[0].status for delivery, ops in self._sent.items() if all(op.outcome == "fail" for op in ops)
        }
        for what in (*self.seen.copies, *self.seen.rows):
            if status := refused.get(what.delivery_id):
                yield f"{what.delivery_id}: event {what.event_id} was refused with {status}"

    # ── how often, in which order, under which id ─────────────────────────────────────────────────────────────────

    def _duplicates(self) -> Iterator[str]:
        again = 0
        for event_id, copies in self._by_event.items():
            more = len(copies) - self.expect.copies_max - self._taken_over(copies[0])
            again += max(0, more)
            if more > (self.seen.deaths if self.expect.rows_at_death else 0):
                yield f"{copies[0].delivery_id}: event {event_id} is in Kafka {len(copies)} times"
        if again > (most := self.seen.deaths * self.expect.rows_at_death) > 0:
            yield f"{again} copies by {self.seen.deaths:.0f} deaths of a relay, {most:.0f} at most"

    def _taken_over(self, copy: Copy) -> int:
        """A delivery whose first try came to nothing certain is tried again under its event's id (rules.md 14)."""
        facts, ops = self.sources.get(copy.source), self._sent.get(copy.delivery_id, [])
        unclear = any(op.outcome in ("info", None) for op in ops)
        return len(ops) - 1 if facts is not None and facts.suppress and unclear else 0

    def _identity(self) -> Iterator[str]:
        events: dict[str, set[str]] = defaultdict(set)
        keys: dict[str, set[str]] = defaultdict(set)
        first: dict[str, str] = {}
        for what in (*self.seen.copies, *self.seen.rows):
            events[what.delivery_id].add(what.event_id)
            facts = self.sources.get(what.source)
            if facts is not None and facts.delivery_ids:
                keys[what.delivery_id].add(what.dedupe_key or "")
            if first.setdefault(what.event_id, what.delivery_id) != what.delivery_id:
                yield f"{what.delivery_id}: event {what.event_id} is that of {first[what.event_id]} too"
        for delivery, ids in events.items():
            if delivery in self._sent and len(ids) > len(self._sent[delivery]):
                yield f"{delivery}: {len(ids)} events of {len(self._sent[delivery])} requests"
        for delivery, found in keys.items():
            if len(found) != 1 or "" in found:
                yield f"{delivery}: the dedupe keys {sorted(found)}"
        apart = list(self._suppressed(events))
        # Where PostgreSQL gave no word in time, a delivery is stored as one of its own (rules.md 14) and counted so.
        if self.seen.counters_whole and len(apart) > self.seen.totals.get("kwb_dedupe_unknown_total", 0):
            yield from apart

    def _suppressed(self, events: Mapping[str, set[str]]) -> Iterator[str]:
        for delivery, ops in self._sent.items():
            facts = self.sources.get(ops[0].source)
            if facts is None or not facts.suppress:
                continue
            told = {op.event_id for op in ops if op.outcome == "ok"}
            if len(told | events.get(delivery, set())) > 1:
                yield f"{delivery}: {sorted(told | events[delivery])} of one delivery"

    def inversions(self, *, strict: bool, direct: bool = False) -> Iterator[str]:
        """Records of one key (or of one strict source) that stand before one that was acknowledged before they came.

        `direct`: only among those that Kafka itself acknowledged; what comes by the outbox is overtaken, and may be.
        """
        acked = {op.event_id: op for op in self._acked}
        lanes: dict[tuple[str, int, str], list[Copy]] = defaultdict(list)
        for copy in self.seen.copies:
            facts = self.sources.get(copy.source)
            if facts is not None and (facts.strict if strict else facts.keyed and not facts.strict):
                lanes[copy.topic, copy.partition, copy.source if strict else copy.key or ""].append(copy)
        for lane in lanes.values():
            latest: Op | None = None
            seen: set[str] = set()
            for copy in sorted(lane, key=lambda copy: copy.offset):
                op = acked.get(copy.event_id)
                if op is None or copy.event_id in seen or (direct and op.stored != "kafka"):
                    continue
                seen.add(copy.event_id)
                if latest is not None and op.done < latest.sent:
                    yield f"{op.id} was acknowledged before {latest.id} was sent, and stands after it"
                if latest is None or op.sent > latest.sent:
                    latest = op

    def _order(self) -> Iterator[str]:
        yield from self.inversions(strict=True)
        if self.expect.order:
            yield from self.inversions(strict=False, direct=True)

    # ── time and life ─────────────────────────────────────────────────────────────────────────────────────────────

    def _late(self) -> Iterator[str]:
        for op in self.ops:
            if op.outcome is None or op.reason in ("timeout", "the run ended"):
                yield f"{op.id}: never answered"
            elif op.status and self._answer_s(op) > self.expect.answer_s_max:
                yield f"{op.id}: answered {op.status} after {self._answer_s(op):.2f} s"
        facts = self.facts()
        for name, found_s, limit_s in (
            ("p99 during the fault", facts.p99_during_s, self.expect.p99_during_s_max),
            ("p50 from the fault's second second on", facts.p50_settled_s, self.expect.p50_settled_s_max),
        ):
            if limit_s is not None and found_s > limit_s:
                yield f"{name} is {found_s * 1000:.0f} ms, {limit_s * 1000:.0f} at most"
        if self.expect.growth_max is not None and facts.growth > self.expect.growth_max:
            yield f"resident memory grew to {facts.growth:.2f} times what it was, {self.expect.growth_max} at most"

    def _answer_s(self, op: Op) -> float:
        """From a request's first byte to its answer; but from a bridge's first word where it came before that.

        A bridge that starts binds its port before it can answer. Who connects then waits in the kernel's queue, which
        is better than to be turned away, and no deadline of the bridge can begin before the bridge.
        """
        for began, answered in self.seen.starts:
            if began <= op.sent < answered:
                return op.done - answered
        return op.sent_s

    def _liveness(self) -> Iterator[str]:
        if self.seen.recovery_s is None:
            yield "it did not recover"
        elif self.time and self.seen.recovery_s > self.expect.recovery_s_max:
            yield f"it recovered after {self.seen.recovery_s:.1f} s"
        yield from self.seen.problems
        if not self.seen.fresh_event_passed:
            yield "a fresh event does not pass"
        for row in self.seen.outbox:
            stays = {"quarantined": self.expect.quarantine, "blocked": self.expect.blocked}
            if not stays.get(row.state):
                yield f"event {row.event_id} is still {row.state} in the outbox: {row.reason or 'no reason'}"
        for op in self.ops:
            if not op.status and not self.expect.resets:
                yield f"{op.id}: {op.reason or 'no outcome'}"
        refused = [op for op in self.ops if op.status >= 500 and not self._waits_for_the_dead(op)]
        if self.expect.refused_max is not None and len(refused) > self.expect.refused_max:
            yield f"{len(refused)} requests were refused with {sorted({op.status for op in refused})}"

    def _waits_for_the_dead(self, op: Op) -> bool:
        """A delivery whose first try died with its process is claimed until the lease ends (rules.md 14)."""
        return self.expect.resets and op.code == "deliver.under_way"

    def _accounts(self) -> Iterator[str]:
        totals = self.seen.totals
        terms = ("acked", "suppressed", "filtered", "handshakes", "rejected", "refused", "aborted")
        found = sum(totals.get(f"kwb_requests_{term}_total", 0) for term in terms)
        received = totals.get("kwb_requests_received_total", 0)
        unanswered = sum(1 for op in self.ops if not op.status)
        if not 0 <= received - found <= (unanswered if self.expect.resets else 0):
            yield f"received {received:.0f}, but {found:.0f} came to an end"
        said = totals.get("kwb_requests_acked_total", 0) + totals.get("kwb_requests_suppressed_total", 0)
        if not 0 <= said - len(self._acked) <= unanswered:
            yield f"the bridge acknowledged {said:.0f}, the journal has {len(self._acked)}"
        events, acked = totals.get("kwb_events_total", 0), totals.get("kwb_requests_acked_total", 0)
        if events < acked:
            yield f"{events:.0f} events were made durable, {acked:.0f} requests acknowledged"

    def _vacuous(self) -> Iterator[str]:
        facts, wanted = self.facts(), self.expect
        for name, found, least in (
            ("acknowledged during the fault", facts.acked_during, wanted.acked_during_min if self.seen.windows else 0),
            ("fallbacks to the outbox", facts.fallbacks, wanted.fallbacks_min),
            ("refused", facts.refused, wanted.refused_min),
            ("further copies in Kafka", facts.further_copies, wanted.copies_min),
        ):
            if found < least:
                yield f"{name}: {found}, at least {least} wanted"

    # ── a consumer ────────────────────────────────────────────────────────────────────────────────────────────────

    def _outside(self) -> Iterator[str]:
        """A group that reads from the logs' start: every record, in order, none again that it had committed."""
        outside = self.seen.outside
        assert outside is not None
        after: dict[tuple[str, int], int] = {}
        for read in outside.reads:
            place = read.topic, read.partition
            if read.offset > (expected := after.get(place, 0)):
                yield f"{place}: {read.offset} was read after {expected - 1}"
            if read.offset < read.committed:
                yield f"{place}: {read.offset} was read again, and {read.committed} was committed"
            after[place] = read.offset + 1
        given = {(read.topic, read.partition, read.offset) for read in outside.reads}
        for copy in self.seen.copies:
            if (copy.topic, copy.partition, copy.offset) not in given:
                yield f"{copy.delivery_id}: event {copy.event_id} was never read"
        for place, end in after.items():
            if (found := outside.committed.get(place, 0)) != end:
                yield f"{place}: read to {end}, and {found} is committed"
        for seconds in outside.back_s if self.time else ():
            if seconds > BACK_S_MAX:
                yield f"it was back after {seconds:.1f} s"

    def facts(self) -> Facts:
        """The numbers for the report. Latencies are those of senders: from the moment a request was due."""
        during = [op for op in self.ops if op.status and self._during(op)]
        waits = sorted(op.due_s for op in during)
        told = {op.event_id for op in self._acked}
        return Facts(
            requests=len(self.ops),
            acked=len(self._acked),
            rejected=sum(1 for op in self.ops if op.outcome == "fail"),
            refused=sum(1 for op in self.ops if op.status >= 500),
            unknown=sum(1 for op in self.ops if not op.status),
            fallbacks=sum(1 for op in self._acked if op.stored == "outbox"),
            suppressed=sum(1 for op in self._acked if op.duplicate),
            further_copies=sum(len(copies) - 1 for copies in self._by_event.values()),
            inversions=sum(1 for _ in self.inversions(strict=False)),
            info_present=len(self._by_event.keys() - told),
            acked_during=sum(1 for op in during if op.outcome == "ok"),
            p50_during_s=percentile(waits, 0.5),
            p99_during_s=percentile(waits, 0.99),
            p50_settled_s=percentile(sorted(op.due_s for op in during if self._settled(op)), 0.5),
            growth=self._growth(),
            at_risk=sum(1 for op in self._acked if self._nowhere(op) and self._died_with_its_topic(op)),
            slowest_s=max((self._answer_s(op) for op in self.ops if op.status), default=0.0),
        )

    def _during(self, op: Op) -> bool:
        return any(start <= op.sent <= end for start, end in self.seen.windows)

    def _settled(self, op: Op) -> bool:
        return any(start + 1 <= op.sent <= end for start, end in self.seen.windows)

    def _growth(self) -> float:
        """1 where nobody looked."""
        if not self.seen.windows:
            return 1.0
        start, end = min(start for start, _ in self.seen.windows), max(end for _, end in self.seen.windows)
        before = [size for at, size in self.seen.resident_bytes if at <= start and size]
        after = [size for at, size in self.seen.resident_bytes if start < at <= end and size]
        return after[-1] / before[-1] if before and after else 1.0


def percentile(ordered: Sequence[float], quantile: float) -> float:
    """Of values in ascending order; 0 where there are none."""
    return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))] if ordered else 0.0
