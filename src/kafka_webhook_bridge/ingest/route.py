"""A source with the handles that its requests need: resolved once, when a configuration is taken."""

from __future__ import annotations

from dataclasses import replace

from kafka_webhook_bridge import errors
from kafka_webhook_bridge.errors import Refusal
from kafka_webhook_bridge.event import Stored
from kafka_webhook_bridge.ingest import responses
from kafka_webhook_bridge.ingest.auth import Logins
from kafka_webhook_bridge.ingest.limits import TokenBucket
from kafka_webhook_bridge.observability import metrics
from kafka_webhook_bridge.sources.source import Source
from kafka_webhook_bridge.sources.table import SourceTable

_PARSED_ON_LOOP_BYTES_MAX = 32 * 1024  # bodies that are parsed and larger go to a thread (rules.md 28)
_HASHED_ON_LOOP_BYTES_MAX = 512 * 1024  # SHA-256 of more would hold the loop for about a millisecond
_PROVEN_ON_LOOP_BYTES_MAX = 64 * 1024  # what a scheme may read of a body, fields of a form for one, takes as long
_NONE_ON_LOOP = -1  # public keys are always asked in a thread


class Route:
    """A source with the handles that its requests need."""

    __slots__ = (
        "_acked", "_outcomes", "ack", "answer", "bodies_differ", "bucket", "by_outbox", "challenge", "direct",
        "forwarded", "from_proxy", "logins", "methods", "name", "off_loop_bytes", "plain", "proof", "received",
        "redacts", "ruled", "source", "suppressed", "suppresses", "table", "topic", "unlisted", "unproven", "unsplit",
    )  # fmt: skip

    def __init__(self, source: Source, workers: int, now: float, table: SourceTable, outbox: bool) -> None:
        self.source = source
        self.ack = source.ack
        self.suppresses = source.dedupe == "suppress"
        # Kafka first, and then the outbox; nothing else to be done
        self.plain = outbox and source.ack == "any" and not self.suppresses
        self.table = table
        self.name = source.name.encode()
        self.topic = b"" if source.branches else source.topic.encode()  # empty: each event has its own
        self.logins = Logins(source)
        per_second = source.rate_limit_per_second
        self.bucket = None if per_second is None else TokenBucket(per_second / workers, now)
        self.off_loop_bytes = _PARSED_ON_LOOP_BYTES_MAX if source.needs_json else _HASHED_ON_LOOP_BYTES_MAX
        self.methods = source.methods
        self.answer = source.answer
        proof = self.proof = source.proof
        self.challenge = responses.BASIC
        self.from_proxy = proof is not None and proof.from_proxy
        if proof is not None:
            self.methods |= proof.greets
            self.challenge = proof.challenge
            self.unproven = errors.SIGNATURE
            if proof.refused_status != errors.SIGNATURE.status:
                self.unproven = replace(errors.SIGNATURE, status=proof.refused_status)
            # Without an address of its own, a signed one is what a trusted proxy says.
            self.forwarded = source.public is None and (proof.verifier.needs_url or bool(proof.handshakes))
            self.off_loop_bytes = (
                _NONE_ON_LOOP if proof.verifier.slow else min(self.off_loop_bytes, _PROVEN_ON_LOOP_BYTES_MAX)
            )
        registry = metrics.registry()
        self.received = registry.counter("kwb_requests_received_total", source=source.name)
        self.direct = registry.counter("kwb_events_total", source=source.name, path="direct")
        self.by_outbox = registry.counter("kwb_events_total", source=source.name, path="outbox")
        self.unlisted = registry.counter("kwb_events_unlisted_total", source=source.name) if source.branches else None
        self.redacts = source.rules is not None and source.rules.redaction is not None
        splits = source.rules is not None and source.rules.split is not None
        self.unsplit = registry.counter("kwb_events_unsplit_total", source=source.name) if splits else None
        self.ruled = self.unlisted is not None or splits
        if splits:
            self.off_loop_bytes = _NONE_ON_LOOP  # up to a thousand records are made
        if self.suppresses:
            self.suppressed = registry.counter("kwb_requests_suppressed_total", source=source.name)
            self.bodies_differ = registry.counter("kwb_dedupe_bodies_differ_total", source=source.name)
        self._acked: dict[Stored, metrics.Cell] = {}
        self._outcomes: dict[str, metrics.Cell] = {}

    def acked(self, stored: Stored) -> None:
        """Count a 2xx by the place that is durable."""
        cell = self._acked.get(stored)
        if cell is None:
            cell = self._acked[stored] = metrics.registry().counter(
                "kwb_requests_acked_total", source=self.source.name, stored=stored
            )
        cell.add()

    def refused(self, refusal: Refusal) -> None:
        """Count a 4xx as rejected and a 5xx as refused."""
        cell = self._outcomes.get(refusal.code)
        if cell is None:
            cell = self._outcomes[refusal.code] = outcome(self.source.name, refusal)
        cell.add()


def outcome(source: str, refusal: Refusal) -> metrics.Cell:
    """The counter of a refusal."""
    registry = metrics.registry()
    if refusal.status >= 500:
        return registry.counter("kwb_requests_refused_total", source=source, code=refusal.code)
    return registry.counter("kwb_requests_rejected_total", source=source, code=refusal.code)
