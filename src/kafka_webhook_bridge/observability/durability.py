"""What an acknowledgement is worth: the judgement over the real settings of Kafka and PostgreSQL (rules.md 10).

One place judges for all who tell it: the bridge at its start and in /health/ready, the metric, `kwb doctor` and
`kwb topics`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Word = Literal["replicated", "flushed", "page cache", "asynchronous commit", "none", "unknown"]

CLOCK_WARN_MS, CLOCK_ALARM_MS = 1_000, 5_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one place promises with an acknowledgement.

    `durable` tells whether an acknowledged event outlives a power cut of one machine, None where that is not known.
    `words` complete "an acknowledged record is …"; `todo` says what to change, empty where nothing is.
    """

    word: Word
    durable: bool | None
    words: str
    todo: str = ""

    def sentence(self, place: str) -> str:
        """For people: what holds at this place, and what to do about it."""
        return f"{place}: {self.words}. {self.todo}".rstrip()


def of_topic(replicas: int, settings: Mapping[str, str]) -> Verdict:
    """A topic with so many replicas; `settings` is empty when they may not be read."""
    if not settings:
        todo = "Grant the bridge's user DescribeConfigs on the topic, so that it can be told."
        return Verdict("unknown", None, f"{replicas} replicas, settings unknown", todo)
    if replicas == 1:
        if settings.get("flush.messages") == "1":
            return Verdict("flushed", True, "one broker, on disk before the ack")
        return Verdict("page cache", False, "one broker, in memory: lost with its power", "Set flush.messages=1.")
    surely = min(int(settings.get("min.insync.replicas", "1")), replicas)
    words = f"on ≥ {surely} of {replicas} brokers"
    if surely < 2:
        return Verdict("page cache", False, f"{words}, one may be the only copy", "Set min.insync.replicas=2.")
    if settings.get("unclean.leader.election.enable") == "true":
        todo = "Set unclean.leader.election.enable=false."
        return Verdict("none", False, f"{words}, but one that lacks records may become the leader", todo)
    return Verdict("replicated", True, words)


def of_postgres(*, fsync: bool, full_page_writes: bool, synchronous_commit: str, read_only: bool) -> Verdict:
    """A server, as the bridge's own connection finds it."""
    if read_only:
        return Verdict("none", False, "read-only or a standby", "DATABASE_URL must name the primary.")
    if not fsync:
        return Verdict("none", False, "NOT on disk at commit: fsync=off", "Set fsync=on.")
    if synchronous_commit == "off":
        words = "NOT on disk at commit: synchronous_commit=off"
        return Verdict("asynchronous commit", False, words, "Set synchronous_commit=on.")
    if not full_page_writes:
        words = "on disk at commit, but a power cut may tear pages: full_page_writes=off"
        return Verdict("none", False, words, "Set full_page_writes=on.")
    return Verdict("flushed", True, "on disk at commit")


def weakest(verdicts: Iterable[tuple[str, Verdict]]) -> tuple[str, Verdict] | None:
    """The place that promises least, by name; one that is not known counts as less than a durable one."""
    return min(verdicts, key=lambda one: {False: 0, None: 1, True: 2}[one[1].durable], default=None)


def clock_trouble(place: str, ahead_ms: float) -> str:
    """A sentence when the clock of `place` is off by so much that it is an alarm, else empty."""
    if abs(ahead_ms) < CLOCK_ALARM_MS:
        return ""
    return f"{place} is {clock_words(ahead_ms)}. Let NTP set both clocks: event ids hold the time."


def clock_words(ahead_ms: float) -> str:
    """How far a clock is from ours."""
    return f"{abs(ahead_ms):.0f} ms {'ahead of' if ahead_ms > 0 else 'behind'} this machine"
