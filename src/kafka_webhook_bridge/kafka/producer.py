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
from collections.abc import Callable, Mapping
from typing import Any, Literal

import confluent_kafka as ck

from kafka_webhook_bridge.event import Record
from kafka_webhook_bridge.kafka import login
from kafka_webhook_bridge.kafka.config import client_config, record_bytes_limit
from kafka_webhook_bridge.kafka.reach import REFUSALS, Reach
from kafka_webhook_bridge.observability import logs, metrics
from kafka_webhook_bridge.settings import KafkaSettings

LaneName = Literal["fast", "bulk"]
Report = Callable[[ck.KafkaError | None, ck.Message], None]

_POLL_S = 0.2  # how soon a poll thread sees that it shall stop
_PROBE_S = 1.0  # how often the cluster is asked whether it answers
_PROBE_LOST_S = 0.2  # and how often while its connection is lost
_PROBE_LEAST_S = 0.05  # between two looks, whatever is reported meanwhile
_BACK_OFF_MAX_S = 5.0
_CLOCK_S = 10.0  # how often a record is asked for the broker's time
_CLOCK_WITHIN_S = 1.0  # a report that took longer tells too little of it
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
# Of one topic alone; of one record alone, or of the producer's end. Every other failure is the cluster's.
_OF_TOPIC = _UNKNOWN_TOPIC | {ck.KafkaError.TOPIC_AUTHORIZATION_FAILED, ck.KafkaError.TOPIC_EXCEPTION}
_OF_RECORD = frozenset(
    {
        ck.KafkaError.MSG_SIZE_TOO_LARGE,
        ck.KafkaError.RECORD_LIST_TOO_LARGE,
        ck.KafkaError.INVALID_RECORD,
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
    def blames(self) -> Literal["cluster", "topic"] | None:
        """What other records will fail with, too; None for an acknowledgement and for what is of this record alone."""
        if self.error is None or self.error.code() in _OF_RECORD:
            return None
        return "topic" if self.error.code() in _OF_TOPIC else "cluster"

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
        settings: KafkaSettings,
        config: dict[str, Any],
        hand_over: HandOver,
        reach: Reach,
        died: Callable[[str, BaseException], None],
    ) -> None:
        self.name = name
        self.generation = generation
        self.batch: list[Outcome] = []
        self.fatal: str | None = None
        self.heard = 0.0  # when a broker told the fate of a record last; monotonic seconds
        self.idle = time.monotonic()  # when it last had no reason to hear anything
        self._reach = reach
        self._hand_over = hand_over
        self._stopping = False
        self.producer = ck.Producer({**config, "error_cb": self._errored})
        self.produce: Callable[..., None] = self.producer.produce
        self.clock_ahead_ms: float | None = None
        login.follow(self, settings)
        self.thread = threading.Thread(
            target=_guarded, args=(self._poll, died), name=f"lane-{name}-{generation}", daemon=True
        )
        self.thread.start()

    def __len__(self) -> int:
        return len(self.producer)

    def log_in(self, username: str, password: str) -> None:
        """Use another password from the next connection on."""
        self.producer.set_sasl_credentials(username, password)
        self._reach.forget()

    def look_at_clock(self) -> None:
        """Let the next record tell what time it is at the broker. All others go by librdkafka's own method."""
        self.produce = self._produce_timed

    def _produce_timed(
        self, topic: str, value: bytes, key: bytes | None, partition: int, report: Report, *rest: Any
    ) -> None:
        self.produce = self.producer.produce
        sent, sent_wall = time.monotonic(), time.time()

        def timed(error: ck.KafkaError | None, message: ck.Message) -> None:
            kind, stamp_ms = message.timestamp()
            took_s = time.monotonic() - sent
            if error is None and kind == ck.TIMESTAMP_LOG_APPEND_TIME and took_s < _CLOCK_WITHIN_S:
                self.clock_ahead_ms = stamp_ms - (sent_wall + took_s / 2) * 1000
            report(error, message)

        self.producer.produce(topic, value, key, partition, timed, *rest)

    def _errored(self, error: ck.KafkaError) -> None:
        if error.fatal():
            self.fatal = str(error)
        self._reach.report(error)

    def _poll(self) -> None:
        producer = self.producer
        while not self._stopping:
            self._poll_once()
        # Dropping a producer fires no callback; purging and polling delivers every report (rules.md 8).
        producer.purge()
        give_up = time.monotonic() + _BACK_OFF_MAX_S
        while len(producer) and time.monotonic() < give_up:
            self._poll_once()
        self._pass_on()

    def _poll_once(self) -> None:
        try:
            self.producer.poll(_POLL_S)
        except ck.KafkaException as error:  # a fatal error comes by this way as well, and reports come after it
            self._errored(error.args[0])
        self._pass_on()

    def _pass_on(self) -> None:
        if self.batch:
            batch, self.batch = self.batch, []
            for outcome in batch:
                if not outcome.unknown:  # a record that timed out here is no word from the broker
                    self.heard = time.monotonic()
                    break
            for outcome in batch:
                if outcome.error is not None:
                    self._failed(outcome.error)
            self._hand_over.put(batch)

    def _failed(self, error: ck.KafkaError) -> None:
        if error.fatal():
            self.fatal = str(error)
        if error.fatal() or error.code() in REFUSALS:
            self._reach.report(error)

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
    is called from a thread of the producer that ended by a fault. `extra` are librdkafka's own names and win.
    `available` tells whether the cluster answered lately, `reason` why not. `connected` is false from the moment that
    no broker takes a connection until one answers again; `on_lost()` and `on_found()` are called on the loop when it
    changes, `on_lost` first. A broker that stands still keeps its connection: it is not lost, its records time out.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        finished: Callable[[list[Outcome]], None],
        *,
        body_bytes_max: int,
        died: Callable[[str, BaseException], None],
        client_id: str = "kwb-ingest",
        extra: Mapping[str, Any] | None = None,
        on_lost: Callable[[], None] = lambda: None,
        on_found: Callable[[], None] = lambda: None,
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
        self._body_bytes_max = body_bytes_max
        self._client_id = client_id
        self._extra = dict(extra or {})
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._reach = Reach(self._wake.set)
        self.connected = self._told_connected = True
        self._clock_ahead_ms: float | None = None
        self._on_lost = on_lost
        self._on_found = on_found
        self._generations = {"fast": 1, "bulk": 1}
        self._retry_at = {"fast": 0.0, "bulk": 0.0}
        self._failures = {"fast": 0, "bulk": 0}
        self._gauge_outstanding = self._metrics.gauge("kwb_kafka_outstanding_records")
        self._fast = self._lane("fast", 1)
        self._bulk = self._lane("bulk", 1)
        self._watchdog = threading.Thread(target=_guarded, args=(self._watch, died), name="producer-watch", daemon=True)
        self._watchdog.start()

    @property
    def available(self) -> bool:
        return self._reach.available

    @property
    def clock_ahead_ms(self) -> float | None:
        """The broker's clock less ours, as the last record told that was asked; None where the topic keeps our time."""
        return self._clock_ahead_ms

    @property
    def reason(self) -> str:
        return self._reach.reason

    @property
    def refused(self) -> str:
        """What the cluster refused lately, the login or a right, in words; empty when nothing."""
        return self._reach.refused

    def _config(self, lane: LaneName) -> dict[str, Any]:
        s = self._settings
        return client_config(
            s,
            **{
                "client.id": f"{self._client_id}-{lane}",
                "acks": "all",
                "enable.idempotence": True,
                "partitioner": "murmur2_random",  # as Java clients do
                "linger.ms": s.linger_fast_ms if lane == "fast" else s.linger_bulk_ms,
                "delivery.timeout.ms": s.delivery_timeout_ms,
                "queue.buffering.max.messages": s.queue_records_max,
                "queue.buffering.max.kbytes": max(1, s.queue_bytes_max // 1024),
                "message.max.bytes": record_bytes_limit(self._body_bytes_max),
                "socket.timeout.ms": min(3_000, s.delivery_timeout_ms),
                "topic.metadata.propagation.max.ms": 2_000,
                "topic.metadata.refresh.interval.ms": 10_000,
            },
        )

    def _lane(self, name: LaneName, generation: int) -> Lane:
        self._metrics.gauge("kwb_kafka_producer_generation", lane=name).set(generation)
        config = self._config(name) | self._extra
        return Lane(name, generation, self._settings, config, self._hand_over, self._reach, self._died)

    def send(self, record: Record, outcome: Outcome) -> None:
        """Hand one record to Kafka; its outcome arrives in a batch.

        Raises QueueFull or NotTaken, and then nothing was taken.
        """
        n = self._outstanding
        outcome.lane = lane = self._fast if n < self._fast_max else self._bulk
        try:
            lane.produce(record.topic, record.value, record.key, -1, outcome.reported, None, 0, record.headers)
        except BufferError:
            raise QueueFull(lane.name) from None
        except ck.KafkaException as error:
            if error.args[0].fatal():
                lane.fatal = str(error.args[0])
                self._wake.set()
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
        pause_s = 0.0  # at once: until the first answer the process is not ready
        clock_at = 0.0
        while True:
            self._wake.wait(pause_s)
            self._wake.clear()
            if self._stop.is_set():
                return
            self._gauge_outstanding.set(self._outstanding)
            answered = self._reach.ask(self._metadata, lambda: max(self._fast.heard, self._bulk.heard))
            if self._reach.connected != self._told_connected:
                self._told_connected = self._reach.connected
                self._loop.call_soon_threadsafe(self._connection, self._told_connected)
            if time.monotonic() >= clock_at:
                clock_at = time.monotonic() + _CLOCK_S
                self._fast.look_at_clock()
            if self._fast.clock_ahead_ms is not None:
                self._clock_ahead_ms = self._fast.clock_ahead_ms
            for lane in (self._fast, self._bulk):
                why = self._sick(lane, answered)
                if why is not None:
                    self._rebuild(lane, why)
            self._stop.wait(_PROBE_LEAST_S)
            pause_s = _PROBE_S if self._reach.connected else _PROBE_LOST_S

    def _connection(self, connected: bool) -> None:
        self.connected = connected
        (self._on_found if connected else self._on_lost)()

    def _rebuild(self, lane: Lane, why: str) -> None:
        """A lane in the place of a sick one, at once; with longer and longer waits while that does not help."""
        now = time.monotonic()
        if lane.generation != self._generations[lane.name]:
            return  # the loop has not put the new one in its place yet
        if lane.heard:  # this generation has worked
            self._failures[lane.name] = 0
        elif now < self._retry_at[lane.name]:
            return
        self._failures[lane.name] += 1
        self._retry_at[lane.name] = now + min(_BACK_OFF_MAX_S, 0.5 * 2 ** self._failures[lane.name])
        self._metrics.counter("kwb_kafka_producer_rebuilds_total", lane=lane.name).add()
        self._log.warning("producer rebuilt", lane=lane.name, generation=lane.generation + 1, reason=why)
        try:
            fresh = self._lane(lane.name, lane.generation + 1)
        except ck.KafkaException as error:
            self._log.error("producer not rebuilt", lane=lane.name, error=str(error))
        else:
            self._generations[lane.name] = fresh.generation
            self._loop.call_soon_threadsafe(self._replace, fresh)

    def _replace(self, fresh: Lane) -> None:
        """On the loop, as `send` is: no record can slip into a lane that has been purged already."""
        if fresh.name == "fast":
            old, self._fast = self._fast, fresh
        else:
            old, self._bulk = self._bulk, fresh
        old.retire()

    def _metadata(self, timeout_s: float) -> None:
        """Ask the cluster, by the fast lane's connection, so that its troubles are seen too.

        One known topic is asked for: a large cluster's whole metadata every second would be a burden, and asking
        for an unknown one could create it where the cluster allows that.
        """
        self._fast.producer.list_topics(self._probe_topic, timeout=timeout_s)

    def _sick(self, lane: Lane, answered: bool) -> str | None:
        if lane.fatal is not None:
            return lane.fatal
        now = time.monotonic()
        if len(lane) == 0 or not answered:  # a lane is not to blame while the cluster is away
            lane.idle = now
        silent_ms = (now - max(lane.idle, lane.heard)) * 1000
        if silent_ms > self._settings.stuck_after_ms:
            return f"no report for {silent_ms:.0f} ms while the cluster answers"
        return None

    async def close(self, timeout: float = 5.0) -> None:
        """Wait up to `timeout` seconds for what is outstanding, then report the rest as purged.

        Nothing may be sent any more. librdkafka's own flush() is not used: it would run the callbacks in a second
        thread beside the poll thread.
        """
        self._stop.set()
        self._wake.set()
        self._idle = asyncio.Event()
        if self._outstanding:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), timeout)
        for lane in (self._fast, self._bulk):
            lane.retire()
        for thread in (self._fast.thread, self._bulk.thread, self._watchdog):
            await asyncio.to_thread(thread.join, 2 * _BACK_OFF_MAX_S)
        self._hand_over.close()
