"""Two producer lanes and the supervisor that rebuilds them.

One linger suits one end only: 0 ms answers a single request in half a millisecond but collapses at high rates, 2 ms
carries high rates but makes every single request wait (docs/decisions/two-lanes.md). So while few records
are outstanding they go by the fast lane, the others by the bulk lane. Both are idempotent, with acks=all.

    loop thread     send() ──▶ librdkafka                                   finished(batch) ◀── eventfd
    poll threads                 └──▶ delivery reports ──▶ a batch per poll ──▶ hand-over ────────┘
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import Any, Literal

import confluent_kafka as ck

from kafka_webhook_bridge.event import Record
from kafka_webhook_bridge.kafka.config import client_config, record_bytes_limit
from kafka_webhook_bridge.observability import logs, metrics
from kafka_webhook_bridge.settings import KafkaSettings

LaneName = Literal["fast", "bulk"]

_POLL_S = 0.2  # how soon a poll thread sees that it shall stop
_PROBE_S = 1.0  # how often the cluster is asked whether it answers
_BACK_OFF_MAX_S = 5.0
_UNKNOWN_TOPIC = frozenset({ck.KafkaError.UNKNOWN_TOPIC_OR_PART, ck.KafkaError._UNKNOWN_TOPIC})
# librdkafka reports a success without an offset when it concludes from sequence numbers that an earlier try of a batch
# was written ("already persisted"). On a partition whose first batch failed and whose second one was taken, as may
# happen while its leader is new, that conclusion is wrong and the records are nowhere: such a success proves nothing.
# docs/decisions/success-without-offset.md
_NO_OFFSET = ck.KafkaError(ck.KafkaError._NO_OFFSET, "acknowledged without an offset")
_UNKNOWN = frozenset(
    {
        ck.KafkaError._MSG_TIMED_OUT,
        ck.KafkaError._PURGE_QUEUE,
        ck.KafkaError._PURGE_INFLIGHT,
        ck.KafkaError._NO_OFFSET,
    }
)


class QueueFull(Exception):
    """The lane holds as many records or bytes as it may."""


class NotTaken(Exception):
    """The lane takes no record now, as after a fatal error; the supervisor rebuilds it."""


class Outcome:
    """What became of one record. Subclassed by whoever waits; `finished` of the batch runs on the loop.

    `error` is None after the acknowledgement of all in-sync replicas with the record's offset, else Kafka's error; a
    record of a purged or timed-out lane may be in the log all the same, so an error never means "not written".
    """

    __slots__ = ("error", "lane")
    error: ck.KafkaError | None
    lane: Lane

    def reported(self, error: ck.KafkaError | None, message: ck.Message) -> None:
        """Called by librdkafka in the lane's poll thread; a method, because it costs less than a closure."""
        if error is None and message.offset() is None:
            error = _NO_OFFSET
        self.error = error
        self.lane.batch.append(self)

    @property
    def topic_is_missing(self) -> bool:
        return self.error is not None and self.error.code() in _UNKNOWN_TOPIC

    @property
    def unknown(self) -> bool:
        """Whether nobody can tell that the record was not written."""
        return self.error is not None and self.error.code() in _UNKNOWN


class Lane:
    """One generation of one producer with its poll thread. Made in the process that uses it, never forked."""

    def __init__(
        self,
        name: LaneName,
        generation: int,
        config: dict[str, Any],
        hand_over: HandOver,
        died: Callable[[str, BaseException], None],
    ) -> None:
        self.name = name
        self.generation = generation
        self.batch: list[Outcome] = []
        self.fatal: str | None = None
        self.last_report = time.monotonic()
        self._hand_over = hand_over
        self._stopping = False
        self.producer = ck.Producer({**config, "error_cb": self._errored})
        self.produce = self.producer.produce
        self.thread = threading.Thread(
            target=_guarded, args=(self._poll, died), name=f"lane-{name}-{generation}", daemon=True
        )
        self.thread.start()

    def __len__(self) -> int:
        return len(self.producer)

    def _errored(self, error: ck.KafkaError) -> None:
        if error.fatal():
            self.fatal = str(error)

    def _poll(self) -> None:
        poll, producer = self.producer.poll, self.producer
        while not self._stopping:
            poll(_POLL_S)
            self._pass_on()
        # Dropping a producer fires no callback; purging and polling delivers every report (rules.md 8).
        producer.purge()
        give_up = time.monotonic() + _BACK_OFF_MAX_S
        while len(producer) and time.monotonic() < give_up:
            poll(_POLL_S)
            self._pass_on()
        self._pass_on()

    def _pass_on(self) -> None:
        if self.batch:
            batch, self.batch = self.batch, []
            for outcome in batch:
                if not outcome.unknown:  # a record that timed out here is no word from the broker
                    self.last_report = time.monotonic()
                    break
            for outcome in batch:
                if outcome.error is not None and outcome.error.fatal():
                    self.fatal = str(outcome.error)
                    break
            self._hand_over.put(batch)

    def retire(self) -> None:
        """Stop taking records; every outstanding one is reported (purged) by the poll thread, which then ends."""
        self._stopping = True


def _guarded(work: Callable[[], None], died: Callable[[str, BaseException], None]) -> None:
    """What a thread runs: without it the process is not what it claims to be, so its fault is told."""
    try:
        work()
    except BaseException as error:
        died(threading.current_thread().name, error)


class HandOver:
    """Batches of finished records on their way from the poll threads to the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, finished: Callable[[list[Outcome]], None]) -> None:
        self._loop = loop
        self._finished = finished
        self._lock = threading.Lock()
        self._waiting: list[Outcome] = []
        self._closed = False
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        loop.add_reader(self._fd, self._take)

    def put(self, batch: list[Outcome]) -> None:
        with self._lock:
            if not self._closed:  # else the process is ending, and the number may be another file's by now
                self._waiting += batch
                os.eventfd_write(self._fd, 1)

    def _take(self) -> None:
        with self._lock:
            os.eventfd_read(self._fd)
            batch, self._waiting = self._waiting, []
        self._finished(batch)

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        with self._lock:
            self._closed = True
            batch, self._waiting = self._waiting, []
        if batch:
            self._finished(batch)
        os.close(self._fd)


class Producer:
    """Sends records by two lanes and keeps both alive. Belongs to one running loop.

    `finished(batch)` is called on the loop with every record handed to `send`, exactly once each. `died(name, error)`
    is called from a thread of the producer that ended by a fault.
    `available` tells whether the cluster answered lately, `reason` why not.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        finished: Callable[[list[Outcome]], None],
        *,
        body_bytes_max: int,
        died: Callable[[str, BaseException], None],
        client_id: str = "kwb-ingest",
    ) -> None:
        self._settings = settings
        self._log = logs.get_logger("kafka")
        self._metrics = metrics.registry()
        self._loop = asyncio.get_running_loop()
        self._hand_over = HandOver(self._loop, self._count)
        self._idle: asyncio.Event | None = None
        self._probe_topic: str | None = None
        self._finished = finished
        self._died = died
        self._outstanding = 0
        self._fast_max = settings.fast_lane_requests_max
        self._configs = {lane: self._config(lane, body_bytes_max, client_id) for lane in ("fast", "bulk")}
        self._stop = threading.Event()
        self.available = False
        self.reason = "not connected yet"
        self._gauge_outstanding = self._metrics.gauge("kwb_kafka_outstanding_records")
        self._fast = self._lane("fast", 1)
        self._bulk = self._lane("bulk", 1)
        self._watchdog = threading.Thread(target=_guarded, args=(self._watch, died), name="producer-watch", daemon=True)
        self._watchdog.start()

    def _config(self, lane: str, body_bytes_max: int, client_id: str) -> dict[str, Any]:
        s = self._settings
        return client_config(
            s,
            **{
                "client.id": f"{client_id}-{lane}",
                "acks": "all",
                "enable.idempotence": True,
                "partitioner": "murmur2_random",  # as Java clients do
                "linger.ms": s.linger_fast_ms if lane == "fast" else s.linger_bulk_ms,
                "delivery.timeout.ms": s.delivery_timeout_ms,
                "queue.buffering.max.messages": s.queue_records_max,
                "queue.buffering.max.kbytes": max(1, s.queue_bytes_max // 1024),
                "message.max.bytes": record_bytes_limit(body_bytes_max),
                "socket.timeout.ms": min(3_000, s.delivery_timeout_ms),
                "topic.metadata.propagation.max.ms": 2_000,
                "topic.metadata.refresh.interval.ms": 10_000,
            },
        )

    def _lane(self, name: LaneName, generation: int) -> Lane:
        self._metrics.gauge("kwb_kafka_producer_generation", lane=name).set(generation)
        return Lane(name, generation, self._configs[name], self._hand_over, self._died)

    def send(self, record: Record, outcome: Outcome) -> None:
        """Hand one record to Kafka; its outcome arrives in a batch.

        Raises QueueFull or NotTaken, and then nothing was taken.
        """
        n = self._outstanding
        outcome.lane = lane = self._fast if n < self._fast_max else self._bulk
        try:
            lane.produce(record.topic, record.value, record.key, -1, outcome.reported, None, 0, record.headers)  # type: ignore[arg-type]  # an invariant list in its stub
        except BufferError:
            raise QueueFull(lane.name) from None
        except ck.KafkaException as error:
            if error.args[0].fatal():
                lane.fatal = str(error.args[0])
            raise NotTaken(error.args[0].name()) from None
        self._outstanding = n + 1
        self._probe_topic = record.topic

    def _count(self, batch: list[Outcome]) -> None:
        self._outstanding -= len(batch)
        self._finished(batch)
        if self._outstanding == 0 and self._idle is not None:
            self._idle.set()

    def __len__(self) -> int:
        return self._outstanding

    # ── the supervisor ────────────────────────────────────────────────────────────────────────────────────────────

    def _watch(self) -> None:
        failures = 0
        pause_s = 0.0  # at once: until the first answer the process is not ready
        while not self._stop.wait(pause_s):
            pause_s = _PROBE_S
            self._gauge_outstanding.set(self._outstanding)
            answered = self._probe()
            for name in ("fast", "bulk"):
                lane = self._fast if name == "fast" else self._bulk
                why = self._sick(lane, answered)
                if why is None:
                    continue
                failures += 1
                self._metrics.counter("kwb_kafka_producer_rebuilds_total", lane=name).add()
                self._log.warning("producer rebuilt", lane=name, generation=lane.generation + 1, reason=why)
                try:
                    fresh = self._lane(lane.name, lane.generation + 1)
                except ck.KafkaException as error:
                    self._log.error("producer not rebuilt", lane=name, error=str(error))
                else:
                    self._loop.call_soon_threadsafe(self._replace, fresh)
                self._stop.wait(min(_BACK_OFF_MAX_S, 0.5 * 2 ** min(failures, 4)))
                break
            else:
                failures = 0

    def _replace(self, fresh: Lane) -> None:
        """On the loop, as `send` is: no record can slip into a lane that has been purged already."""
        if fresh.name == "fast":
            old, self._fast = self._fast, fresh
        else:
            old, self._bulk = self._bulk, fresh
        old.retire()

    def _probe(self) -> bool:
        """Whether the cluster answers. The fast lane's connection is asked, so its troubles are seen too.

        One known topic is asked for: a large cluster's whole metadata every second would be a burden, and asking
        for an unknown one could create it where the cluster allows that.
        """
        try:
            self._fast.producer.list_topics(self._probe_topic, timeout=2.0)
        except ck.KafkaException as error:
            self.available, self.reason = False, str(error.args[0].str() if error.args else error)
            return False
        self.available, self.reason = True, ""
        return True

    def _sick(self, lane: Lane, answered: bool) -> str | None:
        if lane.fatal is not None:
            return lane.fatal
        silent_ms = (time.monotonic() - lane.last_report) * 1000
        if len(lane) == 0:
            lane.last_report = time.monotonic()
        elif answered and silent_ms > self._settings.stuck_after_ms:
            return f"no report for {silent_ms:.0f} ms while the cluster answers"
        return None

    async def close(self, timeout: float = 5.0) -> None:
        """Wait up to `timeout` seconds for what is outstanding, then report the rest as purged.

        Nothing may be sent any more. librdkafka's own flush() is not used: it would run the callbacks in a second
        thread beside the poll thread.
        """
        self._stop.set()
        self._idle = asyncio.Event()
        if self._outstanding:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), timeout)
        for lane in (self._fast, self._bulk):
            lane.retire()
        for thread in (self._fast.thread, self._bulk.thread, self._watchdog):
            await asyncio.to_thread(thread.join, 2 * _BACK_OFF_MAX_S)
        self._hand_over.close()
