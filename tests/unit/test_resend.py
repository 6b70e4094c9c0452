"""Replay and rebuild without servers: the pace, the runs of offsets, and a selection that is written down and read."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_webhook_bridge.archive.resend import BATCH_EVENTS, batch_events, wait_s
from kafka_webhook_bridge.store.rebuilds import Run, Written, runs
from kafka_webhook_bridge.store.replays import JSON_WINDOW, Selection

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
ID = uuid.UUID("019b7a1b-8e9f-7000-8000-000000000001")


def test_the_pace_is_the_rate_that_was_asked_for() -> None:
    assert wait_s(1000, None, 0.0) == 0.0
    assert wait_s(1000, 500, 0.5) == 1.5
    assert wait_s(1000, 500, 3.0) == 0.0
    assert batch_events(None) == BATCH_EVENTS
    assert (batch_events(0.1), batch_events(200), batch_events(1e9)) == (1, 20, BATCH_EVENTS)


def test_runs_of_offsets() -> None:
    written = [Written(ID, 1, offset) for offset in (7, 5, 6, 9)] + [Written(ID, 0, 3)]
    assert runs(written) == [Run(0, 3, 4), Run(1, 5, 8), Run(1, 9, 10)]
    assert runs(written, [Run(1, 2, 5), Run(0, 0, 2)]) == [Run(0, 3, 4), Run(1, 2, 8), Run(1, 9, 10)]


@given(st.sets(st.tuples(st.integers(0, 2), st.integers(0, 20))))
def test_runs_of_two_batches_are_those_of_both(places: set[tuple[int, int]]) -> None:
    """Whatever offset is inside a run was written, and every one that was written is inside a run."""
    first = [Written(ID, p, o) for p, o in places if o < 10]
    second = [Written(ID, p, o) for p, o in places if o >= 10]
    found = runs(second, runs(first))
    assert {(run.partition, at) for run in found for at in range(run.start, run.end)} <= places
    assert {(one.partition, one.offset) for one in second} == {
        (run.partition, at) for run in found for at in range(run.start, run.end) if at >= 10
    }


@pytest.mark.parametrize(
    "selection",
    [
        Selection(),
        Selection(source="shop", type="a/b", key="1", since=NOW, until=NOW, topics=("t", "u")),
        Selection(json='{"a": "\\u0041"}', ids=(ID,)),
        Selection(topics=(), key=""),
    ],
)
def test_a_selection_is_read_as_it_was_written(selection: Selection) -> None:
    assert Selection.load(selection.dump()) == selection


def test_a_selection_is_closed_before_it_is_used() -> None:
    assert Selection().bounded(NOW).until == NOW
    assert Selection(until=NOW - JSON_WINDOW).bounded(NOW).until == NOW - JSON_WINDOW
    assert Selection(ids=(ID,)).bounded(NOW).until is None  # named, so there is nothing to close
    assert Selection(json="{}").bounded(NOW).since == NOW - JSON_WINDOW  # rules.md 21
    assert Selection(json="{}", since=NOW).bounded(NOW).since == NOW


def test_only_a_filter_makes_a_selection() -> None:
    assert Selection().bounded(NOW).everything
    assert Selection(until=NOW, topics=("t",)).everything
    assert not Selection(key="").everything
    assert not Selection(since=NOW).everything


def test_values_travel_as_parameters() -> None:
    where, arguments = Selection(source="it's", key="k", topics=("t",), ids=(ID,)).where(ID)
    assert where == (
        "event_id > $1 AND source = $2 AND key = $3 AND topic = ANY ($4) AND event_id = ANY ($5)"
        " AND event_id >= $6 AND event_id <= $7"
    )
    assert arguments == [ID, "it's", "k", ["t"], [ID], ID, ID]
