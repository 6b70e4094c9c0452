"""The judgement over settings: what an acknowledgement is worth."""

from __future__ import annotations

import pytest

from kafka_webhook_bridge.observability.durability import (
    Verdict,
    clock_trouble,
    of_postgres,
    of_topic,
    weakest,
)


@pytest.mark.parametrize(
    ("replicas", "settings", "word", "durable", "todo"),
    [
        (1, {"flush.messages": "1"}, "flushed", True, ""),
        (1, {"flush.messages": "9223372036854775807"}, "page cache", False, "flush.messages=1"),
        (1, {"flush.messages": "2"}, "page cache", False, "flush.messages=1"),
        (1, {"min.insync.replicas": "2"}, "page cache", False, "flush.messages=1"),
        (3, {"min.insync.replicas": "2"}, "replicated", True, ""),
        (3, {"min.insync.replicas": "1"}, "page cache", False, "min.insync.replicas=2"),
        (3, {"cleanup.policy": "delete"}, "page cache", False, "min.insync.replicas=2"),
        (2, {"min.insync.replicas": "3"}, "replicated", True, ""),
        (3, {"min.insync.replicas": "2", "unclean.leader.election.enable": "true"}, "none", False, "unclean.leader"),
        (3, {}, "unknown", None, "DescribeConfigs"),
    ],
)
def test_rule_10_a_topic(replicas: int, settings: dict[str, str], word: str, durable: bool | None, todo: str) -> None:
    found = of_topic(replicas, settings)
    assert (found.word, found.durable) == (word, durable)
    assert todo in found.todo
    assert bool(found.todo) == (durable is not True)


GOOD = {"fsync": True, "full_page_writes": True, "synchronous_commit": "on", "read_only": False}


@pytest.mark.parametrize(
    ("changed", "word", "todo"),
    [
        ({}, "flushed", ""),
        ({"synchronous_commit": "local"}, "flushed", ""),
        ({"synchronous_commit": "remote_apply"}, "flushed", ""),
        ({"synchronous_commit": "off"}, "asynchronous commit", "synchronous_commit=on"),
        ({"fsync": False}, "none", "fsync=on"),
        ({"fsync": False, "synchronous_commit": "off"}, "none", "fsync=on"),
        ({"full_page_writes": False}, "none", "full_page_writes=on"),
        ({"read_only": True}, "none", "primary"),
    ],
)
def test_a_server(changed: dict[str, object], word: str, todo: str) -> None:
    found = of_postgres(**{**GOOD, **changed})  # type: ignore[arg-type]
    assert (found.word, found.durable) == (word, not todo)
    assert todo in found.todo


def test_the_weakest_place_is_told() -> None:
    good, bad = of_topic(3, {"min.insync.replicas": "2"}), of_topic(1, {"flush.messages": "7"})
    unknown = of_topic(3, {})
    assert weakest([]) is None
    assert weakest([("a", good), ("b", unknown), ("c", bad)]) == ("c", bad)
    assert weakest([("a", good), ("b", unknown)]) == ("b", unknown)


def test_a_sentence_says_what_holds_and_what_to_do() -> None:
    assert Verdict("flushed", True, "on disk").sentence("Here") == "Here: on disk."
    assert of_topic(1, {"x": "y"}).sentence("Kafka") == (
        "Kafka: one broker, in memory: lost with its power. Set flush.messages=1."
    )


@pytest.mark.parametrize(("ahead_ms", "words"), [(0, ""), (-4_999, ""), (5_001, "ahead of"), (-90_000, "behind")])
def test_a_clock_that_is_off(ahead_ms: float, words: str) -> None:
    found = clock_trouble("Kafka", ahead_ms)
    assert bool(found) == bool(words)
    assert words in found
