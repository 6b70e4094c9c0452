"""The names of what becomes of an event, and what each means: one table for people, JSON and the docs.

A name is spelled as JSON has it wherever it is shown, so that what is read on a terminal is found in a script's output
and in docs/howto.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kafka_webhook_bridge.archive.verdicts import Fate

# The `state` of an event: in the archive, in the outbox, in what a replay leaves out.
STATES: Final[dict[str, str]] = {
    "stored": "in Kafka and in PostgreSQL",
    "acknowledged": "in Kafka; the archive has not come to it",
    "waiting": "in PostgreSQL; the bridge sends it to Kafka",
    "blocked": "in PostgreSQL; the bridge sends it when its topic is well",
    "quarantined": "in PostgreSQL; Kafka refuses it: `kwb outbox` shows why",
}

# What an audit finds of an event that was acknowledged. `waiting` has blocked ones, too.
FATES: Final[dict[Fate, str]] = {
    "stored": "in Kafka and in PostgreSQL",
    "not_archived_yet": "in Kafka; the archive has not come to it",
    "waiting": "in PostgreSQL; to be sent to Kafka, or blocked",
    "quarantined": "in PostgreSQL; Kafka refuses it",
    "before_log_start": "in PostgreSQL; Kafka's log begins later, or the topic is gone",
    "expired": "older than the archive keeps events",
    "missing_in_kafka": "in PostgreSQL, and must be in Kafka, too",
    "missing_in_archive": "in Kafka, and must be in PostgreSQL, too",
    "lost": "acknowledged, and in neither",
}

# What senders were told, by receipts.
ANSWERS: Final[dict[str, str]] = {
    "acknowledged": "answered 2xx",
    "suppressed": "of them, duplicates answered with the first one's receipt",
    "refused": "answered 3xx or 4xx, or left out by a filter",
    "unknown_present": "no answer, or 5xx; there",
    "unknown_absent": "no answer, or 5xx; not there",
}

# What an audit counts besides.
VERDICTS: Final[dict[str, str]] = {
    "lost": "acknowledged, and in neither place",
    "missing": "not where they must be, lost ones included",
    "corrupt": "not what was sent",
    "rejected_but_stored": "answered 4xx, and there",
    "spurious": "in the receipts' time and source, and not theirs",
    "duplicated": "more than one record",
    "replayed": "records of replays and rebuilds; no duplicates",
}
