"""What the store computes itself: ids as places in time, statements by name, partitions to make."""

from __future__ import annotations

import itertools
import uuid
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_webhook_bridge import ids
from kafka_webhook_bridge.errors import UsageError
from kafka_webhook_bridge.store import sql
from kafka_webhook_bridge.store.errors import refuses_a_row
from kafka_webhook_bridge.store.events import LIMIT_MAX, Search
from kafka_webhook_bridge.store.partitions import Partition, missing

DAY = ids.DAY_MS
TIMES = st.integers(0, ids.TIME_MS_MAX)


@given(TIMES, st.integers(0, 2**12 - 1), st.integers(0, 2**62 - 1))
def test_rule_18_a_floor_sorts_before_every_id_of_its_millisecond(time_ms: int, rand_a: int, rand_b: int) -> None:
    made = uuid.UUID(int=time_ms << 80 | 7 << 76 | rand_a << 64 | 2 << 62 | rand_b)  # RFC 9562, section 5.7
    assert ids.time_ms(made) == time_ms
    assert ids.floor(time_ms) <= made < ids.floor(time_ms + 1)
    assert ids.parse(str(made)) == made


@given(TIMES)
def test_times_come_back_to_the_millisecond(time_ms: int) -> None:
    assert ids.milliseconds(ids.moment(time_ms)) == time_ms
    assert ids.time_ms(ids.floor(time_ms)) == time_ms


def test_floors_outside_the_range_of_ids() -> None:
    assert ids.floor(-1) == uuid.UUID(int=0)
    assert ids.time_ms(ids.floor(2**60)) == 2**48 - 1


@pytest.mark.parametrize(
    "text",
    [
        "", "1234", "019A2F4E-5B6C-7D8E-9F01-23456789ABCD", "019a2f4e-5b6c-4d8e-9f01-23456789abcd",
        "019a2f4e-5b6c-7d8e-cf01-23456789abcd", "ffffffff-ffff-7d8e-9f01-23456789abcd",
        "019a2f4e5b6c7d8e9f0123456789abcd", "019a2f4e-5b6c-7d8e-9f01-23456789abcd\n",
    ],
)  # fmt: skip
def test_what_is_no_id_of_the_bridge(text: str) -> None:
    assert ids.parse(text) is None


@pytest.mark.parametrize(
    ("failure", "a_row"),
    [
        (asyncpg.UntranslatableCharacterError("U+0000"), True),  # 22P05
        (asyncpg.CheckViolationError("state"), True),
        (asyncpg.ProgramLimitExceededError("index row too long"), True),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "a lone surrogate"), True),
        (asyncpg.InternalServerError("could not read block 7"), False),
        (asyncpg.IndexCorruptedError("unexpected zero page"), False),
        (asyncpg.DataCorruptedError("invalid page"), False),
        (asyncpg.DiskFullError("no space left"), False),
        (asyncpg.QueryCanceledError("statement timeout"), False),
        (TimeoutError(), False),
    ],
)
def test_rule_20_only_what_is_wrong_with_a_row_is_its_fault(failure: Exception, a_row: bool) -> None:
    assert refuses_a_row(failure) is a_row


def test_statements_by_name() -> None:
    read = sql.read("-- name: one\n-- A sentence.\nSELECT 1;\n\n-- name: two\nSELECT ';';\n")
    assert read == {"one": "-- A sentence.\nSELECT 1", "two": "SELECT ';'"}
    with pytest.raises(AssertionError, match="twice"):
        sql.read("-- name: one\nSELECT 1;\n-- name: one\nSELECT 2;\n")
    for name, statement in sql.QUERIES.items():
        assert statement.startswith("-- "), f"{name} has no sentence"
        assert ";" not in "\n".join(line for line in statement.splitlines() if not line.startswith("--")), name


@pytest.mark.parametrize(
    ("existing", "days", "expected"),
    [
        ([], 1, [(0, 1), (1, 2), (2, 3)]),
        ([(0, 1), (1, 2), (2, 3)], 1, []),
        ([(1, 2)], 1, [(0, 1), (2, 3)]),
        ([], 7, [(0, 7)]),
        ([(0, 1), (1, 2)], 7, [(2, 7)]),  # days was 1 before
        ([(0, 7)], 1, []),
        ([(-7, 2)], 1, [(2, 3)]),
        ([(5, 6)], 7, [(0, 5)]),  # what lies behind the end stays out
        ([(2, 3), (0, 1)], 2, [(1, 2)]),  # days between two are closed; the order does not matter
    ],
)
def test_missing_partitions(existing: list[tuple[int, int]], days: int, expected: list[tuple[int, int]]) -> None:
    there = [Partition(low * DAY, high * DAY, f"events_{low}") for low, high in existing]
    found = missing(there, DAY // 2, 2 * DAY + 1, days)
    assert found == [(low * DAY, high * DAY) for low, high in expected]


@given(
    st.lists(st.integers(0, 40), min_size=0, max_size=12, unique=True),
    st.integers(1, 9),
    st.integers(0, 30 * DAY),
    st.integers(1, 12 * DAY),
)
def test_missing_partitions_cover_all_and_overlap_nothing(edges: list[int], days: int, from_ms: int, span: int) -> None:
    edges = sorted(edges)
    there = [Partition(a * DAY, b * DAY, f"events_{a}") for a, b in zip(edges[::2], edges[1::2], strict=False)]
    made = missing(there, from_ms, from_ms + span, days)
    ranges = sorted([(p.low_ms, p.high_ms) for p in there] + made)
    assert all(low < high for low, high in ranges)
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(ranges))
    at = from_ms
    for low, high in ranges:
        if low <= at < high:
            at = high
    assert at >= from_ms + span
    assert all(high - low <= days * DAY for low, high in made)


NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def test_rule_21_a_json_search_has_a_beginning() -> None:
    day = timedelta(days=1)
    assert Search(json="{}").bounded(NOW).since == NOW - day
    assert Search(json="{}", until=NOW - day).bounded(NOW).since == NOW - 2 * day
    assert Search(json="{}", since=NOW - 9 * day).bounded(NOW).since == NOW - 9 * day
    page = Search(json="{}", after=ids.floor(ids.milliseconds(NOW - 3 * day)))
    assert page.bounded(NOW).since == NOW - 4 * day
    assert Search().bounded(NOW).since is None


def test_rule_18_times_are_bounds_of_the_id() -> None:
    since, until, after = NOW - timedelta(hours=2), NOW, ids.floor(ids.milliseconds(NOW) - 1)
    statement, arguments = Search(source="erp", since=since, until=until, after=after).statement()
    assert "WHERE event_id >= $1 AND event_id < $2 AND source = $3" in statement
    assert arguments == [ids.floor(ids.milliseconds(since)), after, "erp"]
    assert "received_at >" not in statement


def test_values_travel_as_parameters_and_as_the_archive_keeps_them() -> None:
    evil = "'; DROP TABLE events; --"
    statement, arguments = Search(source=evil, type=evil, key=evil, json="{}").statement()
    assert evil not in statement
    assert arguments == [evil, evil, evil, b"{}"]
    _, (kept,) = Search(key="a\0b\udce9" + "x" * 1000).statement()
    assert kept == "a\ufffdb\ufffd" + "x" * 496


@pytest.mark.parametrize("limit", [0, -1, LIMIT_MAX + 1])
def test_a_page_is_bounded(limit: int) -> None:
    with pytest.raises(UsageError):
        Search(limit=limit)
