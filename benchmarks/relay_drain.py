"""relay_drain: events of 1 KiB JSON out of the outbox, records in Kafka. See README.md.

    python benchmarks/relay_drain.py [--quick] [--events N] [--modes flush,plain] [--runs N]

The outbox is filled first, as after an outage of Kafka; then one worker process (`kwb serve --role worker`) relays it,
and archives at the same time what it has relayed, as it always does.
"""

from __future__ import annotations

import argparse
import os
import random
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import uvloop
from rich.console import Console
from rich.table import Table
from uuid_utils import uuid7

import results
from archive import BODY_BYTES, HEADERS, STALL_S, body, run_sql, source, worker
from kafka_webhook_bridge import formats, ids
from kafka_webhook_bridge.event import Event, Record, Request
from kafka_webhook_bridge.formats.packed import pack_headers
from kafka_webhook_bridge.formats.rows import COLUMNS, EventRow, RowMaker
from kafka_webhook_bridge.settings import load_settings
from kafka_webhook_bridge.stack import Stack
from kafka_webhook_bridge.store import Store, migrate
from processes import cpu_seconds, resident
from servers import POSTGRES_OPTIONS, embedded_stack
from topics import PARTITIONS, Cluster, Topics

MODES = {"flush": "an acknowledged record is on disk", "plain": "an acknowledged record is in memory"}
CHUNK = 2_000
OUTBOX = ("event_id", "source", "topic", "key", "value", "headers", "size_bytes", "created_at", "relay_after", "state",
          "attempts")  # fmt: skip
console = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class Profile:
    """How much is relayed."""

    name: str
    events: int
    runs: int


FULL = Profile("relay-drain", 500_000, 3)
QUICK = Profile("relay-drain-quick", 50_000, 1)


def waiting(topic: str, count: int) -> Iterator[list[tuple[EventRow, Record]]]:
    """Events as the bridge encodes them, in chunks."""
    sender, rng, maker = source(topic), random.Random(7), RowMaker(lambda _: True)
    chunk: list[tuple[EventRow, Record]] = []
    for number in range(count):
        event_id = uuid7()
        request = Request(b"POST", b"/" + topic.encode(), None, list(HEADERS), body(number, rng), "127.0.0.1")
        event = Event(
            str(event_id), event_id.timestamp, sender, request, "orders/create", b"%d" % number, "none", False, None
        )
        record = formats.encode(event)
        row = maker.make(record.key, record.value, record.headers, topic)
        assert isinstance(row, EventRow)
        chunk.append((row, record))
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


async def fill(url: str, topic: str, count: int) -> None:
    """Migrate, and leave the outbox and its rows of `events` as the ingest would."""
    settings = load_settings({"DATABASE_URL": url})
    async with Store(settings.store) as store:
        await migrate(store)
        for chunk in waiting(topic, count):
            async with store.connection("filling the outbox", timeout_ms=120_000) as connection:
                await copy(connection, topic, chunk)


async def copy(connection: Any, topic: str, chunk: Sequence[tuple[EventRow, Record]]) -> None:
    await connection.copy_records_to_table(
        "events", records=[(*row, "waiting") for row, _ in chunk], columns=(*COLUMNS, "state")
    )
    rows = []
    for row, record in chunk:
        headers = pack_headers(record.headers)
        size = len(record.key or b"") + len(record.value) + len(headers)
        now = ids.moment(row.event_id.int >> 80)
        rows.append((row.event_id, topic, topic, record.key, record.value, headers, size, now, now, "waiting", 0))
    await connection.copy_records_to_table("outbox", records=rows, columns=OUTBOX)


async def follow(url: str, topics: Topics, topic: str, pid: int, events: int) -> dict[str, float]:
    """From the first record in Kafka to the empty outbox."""
    connection = await asyncpg.connect(url)
    seen, moved = 0, time.monotonic()
    first: tuple[float, int, float] | None = None
    try:
        while seen < events:
            found = topics.count(topic)
            now = time.monotonic()
            if found != seen:
                seen, moved = found, now
                first = first or (now, found, cpu_seconds(pid))
            if now - moved > STALL_S:
                raise SystemExit(f"the relay stands still at {seen} records")
            time.sleep(0.01)
        assert first is not None
        while await connection.fetchval("SELECT EXISTS (SELECT FROM outbox)"):
            if time.monotonic() - moved > STALL_S:
                raise SystemExit("records are in Kafka, and their rows stay in the outbox")
            time.sleep(0.01)
        took = time.monotonic() - first[0]
        if (records := topics.count(topic)) != events:
            raise SystemExit(f"{events} events waited, {records} records are in the topic")
        return {
            "events_per_second": round((events - first[1]) / took),
            "cpu_us_per_event": round((cpu_seconds(pid) - first[2]) / (events - first[1]) * 1e6, 1),
        }
    finally:
        await connection.close()


def measure(stack: Stack, cluster: Cluster, mode: str, turn: int, profile: Profile) -> dict[str, Any]:
    """One outbox into one topic."""
    topic = f"bench-{mode}-{turn}"
    topics = Topics(cluster)
    name = f"bench_{uuid.uuid4().hex[:8]}"
    url = stack.postgres.url.rpartition("/")[0] + f"/{name}"
    try:
        with topics.topic(topic, flush=mode == "flush"):
            console.print(f"{mode}: filling an outbox with {profile.events:,} events")
            uvloop.run(run_sql(stack.postgres.admin_url, f"CREATE DATABASE {name} OWNER kwb"))
            uvloop.run(fill(url, topic, profile.events))
            environ = {
                **os.environ, **stack.environ(), "DATABASE_URL": url, "KWB_MANAGEMENT_PORT": "0",
                "KWB_CONFIG": f"sources: {{{topic}: {{auth: none}}}}",
            }  # fmt: skip
            log = results.WORK / "logs" / f"relay-{mode}.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            with worker(environ, log) as process:
                found = uvloop.run(follow(url, topics, topic, process.pid, profile.events))
                memory = max((p.mib for p in resident(process.pid) if "app.child worker" in p.command), default=0.0)
            uvloop.run(run_sql(stack.postgres.admin_url, f"DROP DATABASE {name} WITH (FORCE)"))
    finally:
        topics.close()
    return {**found, "rss_mib": memory}


def show(runs: dict[str, list[dict[str, Any]]]) -> None:
    """The table for people, on standard output."""
    table = Table("topic", "events per second", "lowest", "CPU of the worker per event", "RSS")
    for mode, found in runs.items():
        rates = [run["events_per_second"] for run in found]
        cpu = results.spread([run["cpu_us_per_event"] for run in found])["median"]
        memory = max(run["rss_mib"] for run in found)
        table.add_row(
            f"{mode}: {MODES[mode]}", f"{results.spread(rates)['median']:,.0f}/s", f"{min(rates):,}/s", f"{cpu} µs",
            f"{memory:.0f} MiB",
        )  # fmt: skip
    Console(width=max(100, console.width)).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="50 000 events, about a minute")
    parser.add_argument("--events", type=int, help="events per run")
    parser.add_argument("--runs", type=int, help="runs per kind of topic")
    parser.add_argument("--modes", default="flush,plain", help="comma separated: flush, plain")
    args = parser.parse_args()
    base = QUICK if args.quick else FULL
    profile = Profile(base.name, args.events or base.events, args.runs or base.runs)
    machine = results.machine()
    runs: dict[str, list[dict[str, Any]]] = {mode: [] for mode in args.modes.split(",")}
    with embedded_stack(POSTGRES_OPTIONS) as (stack, cluster):
        for turn in range(profile.runs):
            for mode, found in runs.items():
                found.append(measure(stack, cluster, mode, turn, profile))
    load = {
        "body_bytes": BODY_BYTES,
        "request_headers": len(HEADERS),
        "partitions": PARTITIONS,
        "events": profile.events,
        "postgresql": POSTGRES_OPTIONS,
    }
    path = results.write_runs(profile.name, machine, load, runs)
    show(runs)
    console.print(f"written: {path.relative_to(results.ROOT)}")


if __name__ == "__main__":
    main()
