"""A split request has one answer: when all parts are durable, or the first refusal (rules.md 29)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_webhook_bridge import errors
from kafka_webhook_bridge.errors import Refusal
from kafka_webhook_bridge.event import Record, Stored
from kafka_webhook_bridge.ingest.parts import Batch, Part

REFUSALS = (errors.NOT_DURABLE, errors.TOPIC_BLOCKED, errors.QUEUE_FULL)
LIMIT = 16 * 1024**2


class Scene:
    """An edge that keeps the parts it is given, and a connection that keeps its answers."""

    def __init__(self, count: int, *, value: bytes = b"x", limits: dict[str, int] | None = None) -> None:
        self.answers: list[Any] = []
        self.parts: list[Part] = []
        self.gone = False
        self.fault_at = -1
        self.topics = SimpleNamespace(ready={"t": LIMIT} if limits is None else limits, record_bytes_max=LIMIT)
        records = [Record(f"id-{number}", "t", None, value, [], "") for number in range(1, count + 1)]
        self.batch = Batch(*cast(Any, (self, self, None, None)), records)

    def deliver_part(self, part: Part, incoming: Any, route: Any, record: Record) -> None:
        assert record.event_id == f"id-{len(self.parts) + 1}"
        if len(self.parts) == self.fault_at:
            raise RuntimeError("a fault")
        self.parts.append(part)

    def acked_all(self, connection: Any, route: Any, first: Record, stored: Stored, parts: int) -> None:
        self.answers.append((stored, first.event_id, parts))

    def refuse(self, refusal: Refusal, *, event_id: str | None = None, reason: str = "") -> None:
        self.answers.append((refusal, event_id))


@given(
    st.lists(st.sampled_from(["kafka", "outbox", "both", *REFUSALS]), min_size=1, max_size=8),
    st.randoms(use_true_random=False),
)
def test_rule_29_there_is_one_answer_and_it_is_2xx_only_when_all_are_durable(ends: list[Any], random: Any) -> None:
    scene = Scene(len(ends))
    scene.batch.start()
    order = list(range(len(ends)))
    random.shuffle(order)
    refusal = None
    for told, number in enumerate(order, 1):
        assert len(scene.answers) == (refusal is not None)
        end, part = ends[number], scene.parts[number]
        assert part.gone is (refusal is not None)
        if isinstance(end, Refusal):
            part.refuse(end, event_id=f"id-{number + 1}")
            refusal = refusal or end
        else:
            part.acked(end)
        if refusal is not None:
            assert scene.answers == [(refusal, "id-1")]
        elif told < len(ends):
            assert scene.answers == []
    if refusal is None:
        stored = ends[0] if len(set(ends)) == 1 else "outbox"
        assert scene.answers == [(stored, "id-1", len(ends))]
    assert all(part.gone for part in scene.parts)


def test_nothing_more_is_delivered_once_the_request_is_refused_or_its_sender_gone() -> None:
    class Refusing(Scene):
        def deliver_part(self, part: Part, *rest: Any) -> None:
            super().deliver_part(part, *rest)
            part.refuse(errors.QUEUE_FULL)

    refusing = Refusing(3)
    refusing.batch.start()
    assert (len(refusing.parts), refusing.answers) == (1, [(errors.QUEUE_FULL, "id-1")])
    left = Scene(3)
    left.gone = True
    left.batch.start()
    assert (left.parts, left.answers) == ([], [])
    left = Scene(1)
    left.batch.start()
    left.gone = True
    left.parts[0].acked("kafka")
    assert left.answers == []


def test_after_a_fault_no_part_answers_the_request_behind_it() -> None:
    scene = Scene(3)
    scene.fault_at = 2
    with pytest.raises(RuntimeError):
        scene.batch.start()
    for part in scene.parts:
        part.refuse(errors.NOT_DURABLE)
        part.acked("kafka")
    assert scene.answers == []  # the edge gives one


@pytest.mark.parametrize(
    "scene",
    [Scene(2, limits={"t": 50}), Scene(20, value=b"x" * 1024**2)],
    ids=["one part alone", "all together"],
)
def test_what_does_not_fit_is_refused_before_anything_is_delivered(scene: Scene) -> None:
    scene.batch.start()
    assert (scene.parts, scene.answers) == ([], [(errors.RECORD_TOO_LARGE, "id-1")])
