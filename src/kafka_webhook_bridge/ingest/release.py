"""Refused requests once more (rules.md 30): verified by the configuration as it is now, at the time of their receipt.

What proves its sender now becomes the event that it would have been, under the id of its 401, by way of the outbox. The
event and the mark on the rejection are one transaction, so two releases make one event.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import orjson

from kafka_webhook_bridge import errors, ids
from kafka_webhook_bridge.body import NOT_JSON, parse_json
from kafka_webhook_bridge.event import Event, Record, Request
from kafka_webhook_bridge.formats import encode, record_bytes
from kafka_webhook_bridge.formats.packed import pack_headers
from kafka_webhook_bridge.formats.rows import RELEASED, RowMaker, pairs_of
from kafka_webhook_bridge.ingest.auth import Moment, No, taken_over, verify
from kafka_webhook_bridge.ingest.keys import Keys
from kafka_webhook_bridge.ingest.withheld import Withheld, login_was_right, purpose_key, restore
from kafka_webhook_bridge.kafka.config import record_bytes_limit
from kafka_webhook_bridge.settings import Settings
from kafka_webhook_bridge.sources.handshake import Greeting
from kafka_webhook_bridge.sources.rules import Dropped
from kafka_webhook_bridge.sources.source import Source
from kafka_webhook_bridge.sources.split import Split
from kafka_webhook_bridge.sources.table import SourceTable
from kafka_webhook_bridge.sources.verify import Verdict
from kafka_webhook_bridge.store import Store, deliveries, rejections
from kafka_webhook_bridge.store.deliveries import Durable, Settled
from kafka_webhook_bridge.store.outbox import OutboxRow
from kafka_webhook_bridge.store.pool import Connection
from kafka_webhook_bridge.times import iso

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CLAIM_MS = 60_000  # no more than the transaction takes

OK = "ok"
RELEASED_BEFORE = "rejections.released"
GONE = "rejections.unknown"
_HASH_ALONE = "of its credentials a hash is kept, and none of the source's secrets has that hash"
_NO_KEY = "it holds credentials, and of these only a hash is kept, which KWB_STORE_SECRET_KEY was needed for"


class Outcome(NamedTuple):
    """What became of one. `code` is `ok`, a code of the engine or of errors.REFUSALS, or RELEASED_BEFORE or GONE."""

    event_id: uuid.UUID
    source: str
    code: str
    detail: str = ""


class _Delivered(Exception):
    """The sender delivered it another time meanwhile, and the source suppresses duplicates."""


class Releaser:
    """Judges and delivers. Belongs to one loop; `keys` must be those that `sources` look into."""

    def __init__(self, settings: Settings, store: Store, sources: SourceTable, keys: Keys) -> None:
        secret_key = settings.store.secret_key
        self._key = None if secret_key is None else purpose_key(secret_key.get_secret_value())
        self._window = timedelta(days=settings.archive.dedupe_window_days)
        self._record_bytes_max = record_bytes_limit(max(settings.ingest.body_bytes_max, sources.body_bytes_max))
        self._store = store
        self._sources = sources
        self._keys = keys

    async def release(self, event_id: uuid.UUID, *, dry_run: bool) -> Outcome:
        """Judge one again and deliver it, unless it is a `dry_run`. Raises StoreError."""
        row = await rejections.get(self._store, event_id)
        if row is None:
            return Outcome(event_id, "", GONE, "there is no such request, or it was forgotten")
        if row["released_at"] is not None:
            return Outcome(event_id, row["source"], RELEASED_BEFORE, f"at {iso(row['released_at'])}")
        source = self._sources.get(row["source"]) or self._sources.open_source(row["source"])
        if source is None:
            return Outcome(event_id, row["source"], errors.UNKNOWN_SOURCE.code, "bridge.yaml has no such source")
        made = await self._judged(row, source)
        if not isinstance(made, Event | Split):
            return Outcome(event_id, source.name, *_words(made))
        events = made.events if isinstance(made, Split) else [made]
        records = [_marked(encode(one)) for one in _under(event_id, events)]
        if max(map(record_bytes, records)) > self._record_bytes_max:
            return Outcome(event_id, source.name, errors.RECORD_TOO_LARGE.code, errors.RECORD_TOO_LARGE.detail)
        if dry_run:
            return Outcome(event_id, source.name, OK)
        return await self._deliver(event_id, source, events[0].dedupe_key, records)

    # ── is it right? ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _judged(self, row: Mapping[str, Any], source: Source) -> Event | Split | No:
        """The event or its parts, or why there is none. A key that is missing is fetched once."""
        withheld = [Withheld(*one) for one in orjson.loads(row["withheld"])]
        kept = _request(row)
        if source.auth == "basic" and not login_was_right(kept, withheld, source.credentials, self._key):
            return Verdict(False, "credentials.wrong", self._why_unknown(withheld))
        request, unknown = restore(kept, withheld, source, self._key)
        base = None if row["base"] is None else row["base"].encode()
        moment = Moment((row["received_at"] - _EPOCH) / timedelta(seconds=1), base)
        made = await asyncio.to_thread(_verified, request, source, moment)
        if isinstance(made, Verdict) and made.key_needed is not None and source.proof is not None:
            if self._keys.ask(made.key_needed, source.proof.params):
                await self._keys.fetched()
            made = await asyncio.to_thread(_verified, request, source, moment)
        if isinstance(made, Verdict) and unknown:
            return made._replace(detail="; ".join(filter(None, (made.detail, self._why_unknown(unknown)))))
        return made

    def _why_unknown(self, withheld: list[Withheld]) -> str:
        if not withheld:
            return "there were none"
        return _HASH_ALONE if self._key is not None and all(one.digest for one in withheld) else _NO_KEY

    # ── deliver ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def _deliver(
        self, event_id: uuid.UUID, source: Source, dedupe_key: str | None, records: list[Record]
    ) -> Outcome:
        rows = []
        for record in records:
            made = RowMaker(lambda _: source.index_json).make(record.key, record.value, record.headers, record.topic)
            assert not isinstance(made, str), "a record of the bridge's own"
            rows.append(OutboxRow(made, record, pack_headers(record.headers), False, None, source.strict, None))
        settled = None
        if source.dedupe == "suppress" and dedupe_key is not None:  # never of a source that splits
            durable = Durable(str(event_id), "outbox", records[0].topic, records[0].body_sha256)
            settled = Settled(dedupe_key, durable)

        async def claim(connection: Connection) -> None:
            if settled is None:
                return
            oldest_ms = int((datetime.now(UTC) - self._window - _EPOCH) / timedelta(milliseconds=1))
            if not await deliveries.claim_in(connection, settled, lease_ms=_CLAIM_MS, oldest_ms=oldest_ms):
                raise _Delivered
            await deliveries.settle_in(connection, [settled])

        try:
            refused = await rejections.release(self._store, rows, claim)
        except rejections.AlreadyReleased:
            return Outcome(event_id, source.name, RELEASED_BEFORE, "by somebody else, at this moment")
        except _Delivered:
            what = "the sender has delivered it again, or is doing so, and the source suppresses duplicates"
            return Outcome(event_id, source.name, errors.UNDER_WAY.code, what)
        if refused is not None:
            return Outcome(event_id, source.name, errors.OUTBOX_REFUSED.code, f"SQLSTATE {refused}")
        return Outcome(event_id, source.name, OK)


def _request(row: Mapping[str, Any]) -> Request:
    return Request(
        row["method"].encode("latin-1"),
        row["path"].encode("latin-1"),
        None if row["query"] is None else row["query"].encode("latin-1"),
        [(name.encode("latin-1"), value) for name, value in pairs_of(row["headers"])],
        row["body"],
        row["peer"],
    )


def _under(event_id: uuid.UUID, events: list[Event]) -> list[Event]:
    """The event under the id of its 401; parts under those that follow from it."""
    if events[0].altered is None or not events[0].altered.parent_id:
        return [taken_over(event, str(event_id)) for event in events]
    return [
        taken_over(event, str(ids.part(event_id, number)))._replace(
            altered=event.altered and event.altered._replace(parent_id=str(event_id))
        )
        for number, event in enumerate(events, 1)
    ]


def _verified(request: Request, source: Source, moment: Moment) -> Event | Split | No:
    return verify(request, source, parse_json(request.body) if source.needs_json else NOT_JSON, moment)


def _marked(record: Record) -> Record:
    """With the time of its release (rules.md 30)."""
    return record._replace(headers=[*record.headers, (RELEASED, iso(datetime.now(UTC)).encode())])


def _words(no: No) -> tuple[str, str]:
    if isinstance(no, Verdict):
        return no.code, no.detail
    if isinstance(no, Greeting):
        return "rejections.handshake", f"it is the hand-shake {no.name}, and no event"
    if isinstance(no, Dropped):
        return "rejections.filtered", f"the source's rule {no.rule} leaves it out"
    return no.code, no.detail
