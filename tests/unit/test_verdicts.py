"""Every verdict of an audit turns on in a world that has it, and in no other."""

from __future__ import annotations

import hashlib
import uuid
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_webhook_bridge.archive import verdicts
from kafka_webhook_bridge.archive.verdicts import ENDS, EXAMPLES_MAX, At, Ledger, Verdicts, Window, unaccounted

LOW_MS, HIGH_MS = 1_000_000, 2_000_000
BODY, OTHER = (hashlib.sha256(body).digest() for body in (b"one", b"other"))
WINDOW = Window("shop", LOW_MS, HIGH_MS, complete=True)
PROBLEMS = ("missing", "corrupt", "rejected_but_stored", "spurious", "duplicated")


def an_id(number: int = 1, at_ms: int = 1_500_000) -> bytes:
    return uuid.UUID(int=at_ms << 80 | 7 << 76 | 2 << 62 | number).bytes


def ledger(window: Window = WINDOW, **options: Any) -> Ledger:
    made = Ledger(**{"receipts": True, **options})
    made.cover(window)
    return made


def problems(found: Verdicts) -> dict[str, int]:
    return {name: getattr(found, name) for name in PROBLEMS if getattr(found, name)}


def good(world: Ledger, number: int = 1, **record: Any) -> bytes:
    """An event as it must be."""
    event_id = an_id(number)
    world.acked(event_id, BODY)
    world.record(event_id, "shop", BODY, **{"passed": True, **record})
    world.row(event_id, "shop", BODY, "log")
    return event_id


def test_a_sound_world_has_no_problem() -> None:
    world = ledger()
    for number in range(5000):  # the table of ids grows a few times
        good(world, number)
    found = world.verdicts()
    assert problems(found) == {}
    assert found.sound
    assert found.fates == {"stored": 5000}
    assert (found.acknowledged, found.events, found.records, found.rows) == (5000, 5000, 5000, 5000)
    assert found.examples == {}


# ---- acknowledged, and where it is -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "row", "fate", "sound"),
    [
        ({"passed": True}, "log", "stored", True),
        ({"passed": True}, None, "missing_in_archive", False),
        ({"passed": False}, None, "not_archived_yet", True),
        (None, None, "lost", False),
        (None, "log", "missing_in_kafka", False),
        (None, "before_log_start", "before_log_start", True),
        (None, "waiting", "waiting", True),
        (None, "quarantined", "quarantined", True),
        ({"passed": True}, "before_log_start", "stored", True),
        ({"passed": False}, "waiting", "stored", True),  # relayed, and the archive has not filled in its position
        ({"copy": True}, "log", "stored", True),  # a rebuild put it back
    ],
)
def test_rule_16_every_acknowledged_event_has_one_fate(record: Any, row: Any, fate: Any, sound: bool) -> None:
    world = ledger()
    good(world, 2)
    world.acked(an_id(), BODY)
    if record is not None:
        world.record(an_id(), "shop", BODY, **record)
    if row is not None:
        world.row(an_id(), "shop", BODY, row)
    found = world.verdicts()
    assert found.fates == Counter(["stored", fate])
    assert found.sound is sound
    assert found.lost == (fate == "lost")
    assert world.unsettled() == (fate in ("lost", "missing_in_kafka"))
    assert found.examples == ({} if fate == "stored" else {fate: [str(uuid.UUID(bytes=an_id()))]})


def test_without_an_archive_kafka_alone_decides() -> None:
    world = ledger(archive=False)
    world.acked(an_id(1), BODY)
    world.acked(an_id(2), BODY)
    world.record(an_id(1), "shop", BODY)
    assert world.verdicts().fates == {"stored": 1, "lost": 1}


def test_what_the_archive_may_have_forgotten_is_not_lost() -> None:
    world = ledger(kept_from_ms=1_400_000)
    for number, at_ms in ((1, 1_399_999), (2, 1_400_000)):
        world.acked(an_id(number, at_ms), BODY)
    world.acked(an_id(3, 1_399_999), BODY)
    world.record(an_id(3, 1_399_999), "shop", BODY, passed=True)
    assert world.verdicts().fates == {"expired": 2, "lost": 1}


def test_an_acknowledgement_without_an_id_is_found_by_its_body() -> None:
    world = ledger()
    world.acked(None, BODY)
    world.acked(None, BODY)
    world.record(an_id(1), "shop", BODY, passed=True)
    world.row(an_id(1), "shop", BODY, "log")
    found = world.verdicts()
    assert problems(found) == {"missing": 1}
    assert found.fates == {"stored": 1, "lost": 1}
    assert found.examples["lost"] == [f"sha256:{BODY[:16].hex()}…"]


# ---- refused, unknown, nobody's --------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["kafka", "archive"])
@pytest.mark.parametrize("with_id", [True, False])
@pytest.mark.parametrize("released", [True, False])
def test_rule_16_what_was_refused_must_not_be_there_unless_it_was_released(
    where: str, with_id: bool, released: bool
) -> None:
    world = ledger(Window("shop", LOW_MS, HIGH_MS))
    world.refused(an_id() if with_id else None, BODY)
    assert world.verdicts().rejected_but_stored == 0
    if where == "kafka":
        world.record(an_id(), "shop", BODY, released=released)
    else:
        world.row(an_id(), "shop", BODY, "waiting", released=released)
    assert problems(world.verdicts()) == ({} if released else {"rejected_but_stored": 1})
    assert world.verdicts().sound is released


@pytest.mark.parametrize("with_id", [True, False])
def test_rule_16_what_is_unknown_may_be_there_or_not(with_id: bool) -> None:
    world = ledger()
    world.unknown(an_id(1) if with_id else None, BODY)
    world.unknown(an_id(2) if with_id else None, BODY)
    found = world.verdicts()
    assert (found.unknown_present, found.unknown_absent) == (0, 2)
    world.record(an_id(1), "shop", BODY)
    found = world.verdicts()
    assert (found.unknown_present, found.unknown_absent) == (1, 1)
    assert problems(found) == {}
    assert found.sound


def test_of_equal_bodies_the_unknown_explain_first_and_no_more_than_they_are() -> None:
    world = ledger()
    world.unknown(None, BODY)
    world.refused(None, BODY)
    for number in (1, 2, 3):
        world.record(an_id(number), "shop", BODY)
    found = world.verdicts()
    assert (found.unknown_present, found.rejected_but_stored, found.spurious) == (1, 1, 1)


def test_an_id_that_was_taken_over_is_the_acknowledged_one() -> None:
    """A delivery that failed, and another that was given its id and another body."""
    world = ledger()
    world.unknown(an_id(), OTHER)
    world.acked(an_id(), BODY)
    world.record(an_id(), "shop", BODY, passed=True)
    world.row(an_id(), "shop", BODY, "log")
    found = world.verdicts()
    assert problems(found) == {}
    assert (found.unknown_present, found.unknown_absent, found.events) == (0, 0, 1)


@pytest.mark.parametrize(
    ("at_ms", "source", "complete", "spurious"),
    [
        (LOW_MS, "shop", True, 1),
        (HIGH_MS, "shop", True, 1),
        (LOW_MS - 1, "shop", True, 0),
        (HIGH_MS + 1, "shop", True, 0),
        (LOW_MS, "other", True, 0),
        (LOW_MS, "shop", False, 0),
    ],
)
def test_rule_16_spurious_is_what_a_complete_file_does_not_know_in_its_source_and_time(
    at_ms: int, source: str, complete: bool, spurious: int
) -> None:
    world = ledger(WINDOW._replace(complete=complete))
    good(world)
    world.record(an_id(9, at_ms), source, OTHER, passed=False)
    found = world.verdicts()
    assert problems(found) == ({"spurious": 1} if spurious else {})
    assert found.sound  # others may send to a source


def test_rule_16_a_file_that_may_lack_lines_makes_nothing_spurious() -> None:
    world = ledger()
    world.cover(WINDOW._replace(complete=False, low_ms=1_500_000))
    world.record(an_id(1, 1_500_000), "shop", BODY)
    assert problems(world.verdicts()) == {}
    world.record(an_id(2, 1_499_999), "shop", BODY)
    assert problems(world.verdicts()) == {"spurious": 1}


# ---- bodies and copies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("receipts", [True, False])
@pytest.mark.parametrize("where", ["kafka", "archive"])
def test_another_body_is_corrupt(receipts: bool, where: str) -> None:
    world = ledger(receipts=receipts)
    good(world, 2)
    if receipts:
        world.acked(an_id(), BODY)
    world.record(an_id(), "shop", OTHER if where == "kafka" else BODY, passed=True)
    world.row(an_id(), "shop", OTHER if where == "archive" else BODY, "log")
    found = world.verdicts()
    assert problems(found) == {"corrupt": 1}
    if receipts:
        assert (found.corrupt_in_kafka, found.corrupt_in_archive) == ((1, 0) if where == "kafka" else (0, 1))
    assert not found.sound


LABEL, FOREIGN = (hashlib.sha256(label).digest() for label in (b"label", b"foreign"))


@pytest.mark.parametrize(
    ("labels", "row", "corrupt", "where"),
    [
        ((LABEL,), LABEL, 0, (0, 0)),
        ((LABEL, LABEL), LABEL, 0, (0, 0)),
        ((LABEL,), FOREIGN, 1, (0, 1)),
        ((LABEL, FOREIGN), LABEL, 1, (1, 0)),
        ((FOREIGN, LABEL), LABEL, 1, (1, 0)),  # whichever was read first
        ((LABEL, FOREIGN), None, 1, (1, 0)),
        ((LABEL,), None, 0, (0, 0)),
        ((None,), LABEL, 0, (0, 0)),
    ],
)
def test_another_key_or_header_is_corrupt(
    labels: tuple[bytes | None, ...], row: bytes | None, corrupt: int, where: tuple[int, int]
) -> None:
    world = ledger()
    good(world, 2)
    world.acked(an_id(), BODY)
    for offset, label in enumerate(labels):
        world.record(an_id(), "shop", BODY, label, at=At("t", 0, offset), copy=offset > 0, passed=True)
    world.row(an_id(), "shop", BODY, "log", row)
    found = world.verdicts()
    assert problems(found) == ({"corrupt": corrupt} if corrupt else {})
    assert (found.corrupt_labels, found.corrupt_in_kafka, found.corrupt_in_archive) == (corrupt, *where)
    expected = {str(uuid.UUID(bytes=an_id())): [At("t", 0, 1)]} if where[0] else {}
    assert found.places == expected


def test_a_row_that_postgresql_took_in_part_says_nothing_of_its_label() -> None:
    world = ledger()
    world.acked(an_id(), BODY)
    world.record(an_id(), "shop", BODY, LABEL, passed=True)
    world.record(an_id(), "shop", BODY, FOREIGN, copy=True)  # a replay of what was kept
    world.row(an_id(), "shop", BODY, "log", FOREIGN, label_lost=True)
    assert problems(world.verdicts()) == {}


def test_of_a_record_that_somebody_else_made_a_row_need_not_have_everything() -> None:
    world = ledger(receipts=False)
    world.record(an_id(), "shop", BODY, FOREIGN, made_here=False, passed=True)
    world.row(an_id(), "shop", BODY, "log", LABEL)
    assert problems(world.verdicts()) == {}
    world.record(an_id(), "shop", BODY, LABEL, copy=True)  # but two records of one event are alike
    assert problems(world.verdicts()) == {"corrupt": 1}


def test_duplicates_are_told_with_their_places_and_only_of_a_few() -> None:
    world = ledger()
    for number in range(30, 0, -1):
        world.acked(an_id(number), BODY)
    for copy in range(20):
        for number in range(1, 31):
            world.record(an_id(number), "shop", BODY, at=At("t" if copy else "u", copy, 2**40 + number), passed=True)
    for number in range(1, 31):
        world.row(an_id(number), "shop", BODY, "log")
    found = world.verdicts()
    assert found.duplicated == 30
    assert len(found.examples["duplicated"]) == EXAMPLES_MAX
    assert found.places.keys() == set(found.examples["duplicated"])
    (first, *_), places = found.examples["duplicated"], found.places[found.examples["duplicated"][0]]
    number = uuid.UUID(first).int & 0xFF
    assert places == [At("t" if copy else "u", copy, 2**40 + number) for copy in range(EXAMPLES_MAX)]
    assert str(places[0]) == f"u/0@{2**40 + number}"


def test_rule_16_replays_rebuilds_and_releases_are_no_duplicates() -> None:
    world = ledger()
    event_id = good(world)
    world.record(event_id, "shop", BODY, copy=True)
    world.record(event_id, "shop", BODY, released=True)
    found = world.verdicts()
    assert problems(found) == {}
    assert (found.replayed, found.records) == (1, 3)


def test_records_too_many_are_counted_and_are_no_loss() -> None:
    world = ledger()
    event_id = good(world)
    for _ in range(300):
        world.record(event_id, "shop", BODY)
    good(world, 2)
    found = world.verdicts()
    assert problems(found) == {"duplicated": 1}
    assert found.extra_records == 254  # no more are counted
    assert found.sound


def test_a_suppressed_duplicate_is_its_first_event() -> None:
    world = ledger()
    good(world)
    world.acked(an_id(), OTHER, duplicate=True)  # the sender signed it anew: another body, the same delivery
    earlier = an_id(7, LOW_MS - 500)
    world.acked(earlier, BODY, duplicate=True)
    world.record(earlier, "shop", OTHER, passed=True)
    world.row(earlier, "shop", OTHER, "before_log_start")
    found = world.verdicts()
    assert problems(found) == {}
    assert (found.acknowledged, found.suppressed, found.events) == (3, 2, 2)


def test_a_suppressed_duplicate_whose_event_is_nowhere_is_lost() -> None:
    world = ledger()
    world.acked(an_id(), BODY, duplicate=True)
    assert problems(world.verdicts()) == {"missing": 1}


# ---- without receipts ------------------------------------------------------------------------------------------------


def test_without_receipts_records_and_rows_are_compared_and_nothing_is_spurious() -> None:
    world = ledger(Window(None, LOW_MS, HIGH_MS), receipts=False)
    for number, source in ((1, "shop"), (2, "other"), (3, "other")):
        if number != 2:
            world.record(an_id(number), source, BODY, passed=True)
        if number != 3:
            world.row(an_id(number), source, BODY, "log")
    world.record(an_id(4, HIGH_MS + 1), "shop", BODY, passed=True)  # not asked for
    found = world.verdicts()
    assert found.fates == {"stored": 1, "missing_in_kafka": 1, "missing_in_archive": 1}
    assert problems(found) == {"missing": 2}
    assert found.spurious == 0


def test_examples_are_few() -> None:
    world = ledger()
    for number in range(50):
        world.acked(an_id(number), BODY)
    assert len(world.verdicts().examples["lost"]) == EXAMPLES_MAX
    assert world.verdicts().lost == 50


# ---- all worlds ------------------------------------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(
            st.integers(1, 12),
            st.sampled_from(["acked", "duplicate", "refused", "unknown", "record", "copy", "row"]),
            st.sampled_from([BODY, OTHER]),
            st.sampled_from(["log", "before_log_start", "waiting", "quarantined"]),
            st.booleans(),
        ),
        max_size=60,
    )
)
def test_rule_17_every_event_is_counted_once(acts: list[tuple[int, str, bytes, Any, bool]]) -> None:
    """In any world the fates add up to the events, every request has one outcome, and judging changes nothing."""
    world = ledger()
    told: Counter[str] = Counter()
    seen: set[int] = set()
    for number, act, digest, where, flag in acts:
        told[act] += 1
        if act in ("acked", "duplicate"):
            world.acked(an_id(number), digest, duplicate=act == "duplicate")
        elif act == "refused":
            world.refused(an_id(number), digest)
        elif act == "unknown":
            world.unknown(an_id(number), digest)
        elif act == "row":
            world.row(an_id(number), "shop", digest, where)
        else:
            world.record(an_id(number), "shop", digest, copy=act == "copy", passed=flag)
        if act not in ("refused", "unknown"):
            seen.add(number)
    found = world.verdicts()
    assert found.fates.total() == found.events == len(seen)
    assert found.acknowledged == told["acked"] + told["duplicate"]
    assert (found.suppressed, found.refused) == (told["duplicate"], told["refused"])
    assert world.verdicts() == found


def test_rule_17_the_terms_add_up() -> None:
    totals = dict.fromkeys(("received", *ENDS), 0.0)
    assert unaccounted(totals) == 0
    assert unaccounted(totals | {"received": 9, "acked": 5, "rejected": 3, "aborted": 1}) == 0
    assert unaccounted(totals | {"received": 9, "acked": 5}) == 4


def test_the_index_finds_what_was_added_and_nothing_else() -> None:
    index = verdicts._Index()
    keys = [an_id(number % 7 + (number << 20)) for number in range(1000)]  # many share their first slot
    assert [index.find_or_add(key) for key in keys] == list(range(1000))
    assert [index.find_or_add(key) for key in keys] == list(range(1000))
    assert [index.find(key) for key in keys] == list(range(1000))
    assert [index.key(number) for number in range(1000)] == keys
    assert index.find(an_id(123 + (5000 << 20))) == -1
