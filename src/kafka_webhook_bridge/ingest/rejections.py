"""Requests that did not prove their sender, kept off the path of their answers (rules.md 27, 30).

    takes() ──▶ 401 ──▶ put() ──▶ queue ──▶ one statement for many rows ──▶ the source's oldest rows go
      └── over the source's rate           └── full: dropped, counted

An answer never waits for any of this. What a stranger sends may fill a source's own share of the table and nothing
more: rates and bounds are per source, and sources that do not exist have none.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, NamedTuple

import orjson
from uuid_utils import uuid7

from kafka_webhook_bridge.errors import StoreError
from kafka_webhook_bridge.event import Request
from kafka_webhook_bridge.formats.rows import headers_json
from kafka_webhook_bridge.ingest.withheld import purpose_key, withhold
from kafka_webhook_bridge.observability import logs, metrics
from kafka_webhook_bridge.settings import Settings
from kafka_webhook_bridge.sources.source import Source
from kafka_webhook_bridge.store import Store, rejections
from kafka_webhook_bridge.store.rejections import RejectionRow

if TYPE_CHECKING:
    from kafka_webhook_bridge.ingest.protocol import Incoming

_BATCH_ROWS = 200
_BATCH_BYTES = 8 * 1024**2
_TIMEOUT_MS = 10_000
_BACK_OFF_S = (0.5, 5.0)
_TRIM_SHARE = 20  # a source is looked at anew once it has grown by so small a part of its bounds

Dropped = Literal["rate", "full", "refused"]


class Rejection(NamedTuple):
    """One request with its credentials still in it. `received_s` is Unix time; `base` what a trusted proxy says."""

    event_id: str
    received_s: float
    source: Source
    request: Request
    code: str
    detail: str
    base: bytes | None
    size_bytes: int


class _Allowance:
    """How much of one source is kept. A second's worth may come at once; one large request is paid for later."""

    __slots__ = ("_bytes", "_bytes_per_s", "_last", "_rows", "_rows_per_s")

    def __init__(self, rows_per_s: float, bytes_per_s: float, now: float) -> None:
        self._rows = self._rows_per_s = rows_per_s
        self._bytes = self._bytes_per_s = bytes_per_s
        self._last = now

    def take(self, size_bytes: int, now: float) -> bool:
        passed_s, self._last = now - self._last, now
        self._rows = min(max(1.0, self._rows_per_s), self._rows + passed_s * self._rows_per_s)
        self._bytes = min(self._bytes_per_s, self._bytes + passed_s * self._bytes_per_s)
        if self._rows < 1 or self._bytes <= 0:
            return False
        self._rows -= 1
        self._bytes -= size_bytes
        return True


class Rejections:
    """Keeps refused requests. Belongs to one loop; `run` is its task. `clock` gives monotonic seconds."""

    def __init__(self, settings: Settings, store: Store, migrated: asyncio.Event, clock: Callable[[], float]) -> None:
        s = self._limits = settings.rejections
        workers = settings.ingest.workers
        secret_key = settings.store.secret_key
        self.on = s.rows_max > 0
        self._rows_per_s = s.rows_per_second_max / workers
        self._bytes_per_s = s.bytes_per_second_max / workers
        self._key = None if secret_key is None else purpose_key(secret_key.get_secret_value())
        self._store = store
        self._migrated = migrated
        self._clock = clock
        self._allowances: dict[str, _Allowance] = {}
        self._queue: deque[Rejection] = deque()
        self._queue_bytes = 0
        self._grown: dict[str, tuple[int, int]] = {}  # rows and bytes of a source since its bounds were looked at
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._thread = ThreadPoolExecutor(1, "rejections")
        self._told = ""
        self._log = logs.get_logger("ingest")

    # ── what the edge calls ───────────────────────────────────────────────────────────────────────────────────────

    def takes(self, source: str, size_bytes: int) -> bool:
        """Whether one more request of that source is to be kept; if so, it counts from now on."""
        if not self.on:
            return False
        allowance = self._allowances.get(source)
        if allowance is None:
            allowance = _Allowance(self._rows_per_s, self._bytes_per_s, self._clock())
            self._allowances[source] = allowance
        if allowance.take(size_bytes, self._clock()):
            return True
        self._dropped(source, "rate")
        return False

    def put(self, rejection: Rejection) -> None:
        """Keep a request that was refused, if there is room."""
        size = rejection.size_bytes
        if len(self._queue) >= self._limits.queue_rows_max or (
            self._queue_bytes + size > self._limits.queue_bytes_max and self._queue
        ):
            self._dropped(rejection.source.name, "full")
            return
        self._queue.append(rejection)
        self._queue_bytes += size
        self._idle.clear()
        self._wake.set()

    def _dropped(self, source: str, reason: Dropped) -> None:
        metrics.registry().counter("kwb_rejections_dropped_total", source=source, reason=reason).add()

    # ── the task ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Until it is cancelled, whatever PostgreSQL does."""
        await self._migrated.wait()
        pause_s = 0.0
        try:
            while True:
                await asyncio.sleep(pause_s)
                try:
                    await self._work()
                    pause_s = 0.0
                except StoreError as error:
                    if error.message != self._told:
                        self._told = error.message
                        self._log.error("refused requests are not kept", error=error.message, hint=error.hint)
                    pause_s = min(max(2 * pause_s, _BACK_OFF_S[0]), _BACK_OFF_S[1])
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def _work(self) -> None:
        """Write what waits, and the bounds of what has grown."""
        while self._queue:
            batch = self._batch()
            rows = await asyncio.get_running_loop().run_in_executor(self._thread, _rows, batch, self._key)
            refused = await rejections.write(self._store, rows, timeout_ms=_TIMEOUT_MS)
            self._told = ""
            for rejection in batch:
                self._queue.popleft()
                self._queue_bytes -= rejection.size_bytes
            self._count(batch, refused)
            await self._trim()
        self._idle.set()
        self._wake.clear()
        await self._wake.wait()

    def _batch(self) -> list[Rejection]:
        """The next ones; they stay in the queue until they are written."""
        batch: list[Rejection] = []
        size = 0
        for rejection in self._queue:
            if batch and (len(batch) >= _BATCH_ROWS or size + rejection.size_bytes > _BATCH_BYTES):
                break
            batch.append(rejection)
            size += rejection.size_bytes
        return batch

    def _count(self, batch: list[Rejection], refused: set[uuid.UUID]) -> None:
        for rejection in batch:
            if uuid.UUID(rejection.event_id) in refused:
                self._log.error("PostgreSQL refused to keep a request", event_id=rejection.event_id)
                self._dropped(rejection.source.name, "refused")
                continue
            metrics.registry().counter("kwb_rejections_kept_total", source=rejection.source.name).add()
            # The first one of a process finds out what others have left.
            rows, size = self._grown.get(rejection.source.name, (self._limits.rows_max, 0))
            self._grown[rejection.source.name] = rows + 1, size + rejection.size_bytes

    async def _trim(self) -> None:
        limits = self._limits
        grown = [
            source
            for source, (rows, size) in self._grown.items()
            if rows * _TRIM_SHARE >= limits.rows_max or size * _TRIM_SHARE >= limits.bytes_max
        ]
        if grown:
            await rejections.trim(self._store, grown, limits.rows_max, limits.bytes_max, timeout_ms=_TIMEOUT_MS)
            self._grown.update(dict.fromkeys(grown, (0, 0)))

    async def finish(self, timeout_s: float) -> None:
        """Wait until everything is written or the time is up; the rest is dropped and counted."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        for rejection in self._queue:
            self._dropped(rejection.source.name, "full")
        self._queue.clear()


def rejection_of(
    incoming: Incoming, source: Source, now: float, base: bytes | None, code: str, detail: str
) -> Rejection:
    """A request that is refused, with the id that its answer tells. `now` is Unix time (s)."""
    path, mark, query = incoming.target.partition(b"?")
    request = Request(incoming.method, path, query if mark else None, incoming.headers, incoming.body, incoming.peer)
    return Rejection(str(uuid7()), now, source, request, code, detail, base, _size_of(request))


def _rows(batch: list[Rejection], key: bytes | None) -> list[RejectionRow]:
    return [row_of(rejection, key) for rejection in batch]


def row_of(rejection: Rejection, key: bytes | None) -> RejectionRow:
    """The row of a refused request, without its credentials. The edge lets no request line in that is not ASCII."""
    request, withheld = withhold(rejection.request, rejection.source, key)
    return RejectionRow(
        uuid.UUID(rejection.event_id),
        rejection.source.name,
        datetime.fromtimestamp(rejection.received_s, UTC),
        rejection.code,
        rejection.detail,
        request.method.decode("latin-1"),
        request.path.decode("latin-1"),
        None if request.query is None else request.query.decode("latin-1"),
        headers_json((name.decode("latin-1"), value) for name, value in request.headers),
        orjson.dumps([tuple(one) for one in withheld]),
        request.body,
        request.peer,
        None if rejection.base is None else rejection.base.decode("latin-1"),
        rejection.size_bytes,
    )


def _size_of(request: Request) -> int:
    """Bytes that a request takes, roughly: what it brought, and a row around it."""
    return (
        200
        + len(request.body)
        + len(request.path)
        + len(request.query or b"")
        + sum(len(name) + len(value) + 8 for name, value in request.headers)
    )
