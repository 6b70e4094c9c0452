"""What is there: every record of a run's topics and every row of its database, read from the start by stock clients."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterable, Mapping
from typing import Any

import asyncpg
import confluent_kafka as ck
import orjson

from faults.checker import Copy, Row, Waiting
from faults.load import ID_HEADER

_WAIT_S = 60.0
_HEADER = f"http_{ID_HEADER.lower()}"


def records(config: Mapping[str, Any], topics: Iterable[str]) -> list[Copy]:
    """Every record from the log's start to the end that it has now; by assignment, never by a group."""
    consumer = ck.Consumer(
        {**config, "group.id": "observer", "enable.auto.commit": False, "auto.offset.reset": "earliest",
         "fetch.message.max.bytes": 20_000_000, "isolation.level": "read_uncommitted"}
    )  # fmt: skip
    found: list[Copy] = []
    try:
        ends: dict[tuple[str, int], int] = {}
        places = []
        for topic in topics:
            known = consumer.list_topics(topic, timeout=_WAIT_S).topics[topic]
            for partition in known.partitions if known.error is None else ():
                low, high = consumer.get_watermark_offsets(ck.TopicPartition(topic, partition), timeout=_WAIT_S)
                if high > low:
                    ends[topic, partition] = high
                    places.append(ck.TopicPartition(topic, partition, low))
        consumer.assign(places)
        deadline = time.monotonic() + _WAIT_S
        while ends:
            for message in consumer.consume(1000, 1.0):
                if message.error():
                    continue
                deadline = time.monotonic() + _WAIT_S
                end = ends.get((message.topic(), message.partition()))
                if end is None or message.offset() >= end:
                    continue
                found.append(_copy(message))
                if message.offset() == end - 1:
                    del ends[message.topic(), message.partition()]
            assert time.monotonic() < deadline, f"not read to the end: {ends}"
    finally:
        consumer.close()
    return found


def _copy(message: ck.Message) -> Copy:
    headers: dict[str, bytes] = dict(message.headers() or ())  # type: ignore[arg-type]
    text = {name: (value or b"").decode("utf-8", "replace") for name, value in headers.items()}
    key = message.key()
    return Copy(
        message.topic(), message.partition(), message.offset(), text.get("ce_id", ""), text.get(_HEADER, ""),
        text.get("kwb_source", ""), None if key is None else key.decode(),
        hashlib.sha256(message.value() or b"").hexdigest(), text.get("kwb_dedupe_key", ""),
    )  # fmt: skip


def rows(url: str, *, except_source: str) -> tuple[list[Row], list[Waiting]]:
    """Every row of `events` and of `outbox` but those of one source."""
    return asyncio.run(_rows(url, except_source))


async def _rows(url: str, except_source: str) -> tuple[list[Row], list[Waiting]]:
    connection = await asyncpg.connect(url, timeout=_WAIT_S)
    try:
        events = await connection.fetch(
            "SELECT event_id, headers, source, state, key, encode(sha256(body), 'hex') AS sha256, topic, partition,"
            ' "offset", dedupe_key, duplicate_of FROM events WHERE source <> $1',
            except_source,
        )
        waiting = await connection.fetch(
            "SELECT event_id, topic, state, reason FROM outbox WHERE source <> $1", except_source
        )
    finally:
        await connection.close()
    return (
        [
            Row(
                str(row["event_id"]), _delivery_id(row["headers"]), row["source"], row["state"], row["key"],
                row["sha256"], row["topic"], row["partition"], row["offset"], row["dedupe_key"],
                str(row["duplicate_of"]) if row["duplicate_of"] else None,
            )
            for row in events
        ],
        [Waiting(str(row["event_id"]), row["topic"], row["state"], row["reason"] or "") for row in waiting],
    )  # fmt: skip


def _delivery_id(headers: str) -> str:
    for header in orjson.loads(headers):
        if header[0].lower() == ID_HEADER.lower():
            return str(header[1])
    return ""


def totals(text: str) -> dict[str, float]:
    """The sum of each metric over all its series, from Prometheus text."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            series, _, value = line.rpartition(" ")
            name = series.partition("{")[0]
            found[name] = found.get(name, 0.0) + float(value)
    return found
