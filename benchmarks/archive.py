"""archive: records of 1 KiB JSON out of Kafka, rows in PostgreSQL. See README.md.

    python benchmarks/archive.py [--quick] [--events N] [--cases plain,json] [--runs N]

A topic is filled first; then one worker process (`kwb serve --role worker`) archives it as it comes. Every million of
rows is timed by itself, because an index that grows makes writing slower.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import asyncpg
import uvloop
from confluent_kafka import Producer
from rich.console import Console
from rich.table import Table
from uuid_utils import uuid7

import results
from kafka_webhook_bridge import formats
from kafka_webhook_bridge.event import Event, Request
from kafka_webhook_bridge.sources.source import Source, named
from kafka_webhook_bridge.stack import Stack
from processes import cpu_seconds, resident
from servers import POSTGRES_OPTIONS, embedded_stack
from topics import Cluster, Topics

BODY_BYTES = 1024
CASES = {"plain": "no index of the bodies' JSON", "json": "JSON parsed and indexed (the default)"}
HEADERS = (
    (b"Host", b"hooks.example.com"), (b"User-Agent", b"Shop-Webhooks/1.0"), (b"Content-Type", b"application/json"),
    (b"Content-Length", b"1024"), (b"Accept", b"*/*"), (b"Accept-Encoding", b"gzip;q=1.0,identity;q=0.3"),
    (b"X-Shop-Topic", b"orders/create"), (b"X-Shop-Domain", b"shop.example.com"), (b"X-Shop-Version", b"2026-01"),
    (b"X-Shop-Signature", b"q1W2e3R4t5Y6u7I8o9P0a1S2d3F4g5H6j7K8l9Z0x1C="),
    (b"X-Shop-Triggered", b"2026-01-01T00:00:00Z"),
    (b"X-Shop-Test", b"false"),
)  # fmt: skip
START_TIMEOUT_S = 60.0
STALL_S = 60.0
console = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class Profile:
    """How much is archived, and the rows in one line of the table."""

    name: str
    events: int
    step: int
    runs: int


FULL = Profile("archive", 5_000_000, 1_000_000, 1)
QUICK = Profile("archive-quick", 200_000, 50_000, 1)


def source(topic: str) -> Source:
    """As `auth: none` makes it."""
    return Source(
        topic=topic, methods=frozenset({b"POST"}), allow=b"POST", body_bytes_max=1024**2, auth="none", credentials=(),
        format="raw", key=None, needs_json=False, content_encoding_opaque=False, rate_limit_per_second=None,
        index_json=True, **named(topic),
    )  # fmt: skip


def body(number: int, rng: random.Random) -> bytes:
    """An order of 1 KiB with some 40 values, most of them its own."""
    items = [
        {"sku": f"SKU-{rng.randrange(100_000):05}", "quantity": rng.randrange(1, 9), "price": f"{rng.randrange(99)}.95"}
        for _ in range(9)
    ]
    order = {
        "id": number, "email": f"customer{rng.randrange(1_000_000)}@example.com", "currency": "EUR", "test": False,
        "total": f"{rng.randrange(1000)}.00", "items": items, "note": "",
    }  # fmt: skip
    room = BODY_BYTES - len(json.dumps(order))
    order["note"] = f"{rng.getrandbits(4 * room):0{room}x}"[:room] if room > 0 else ""
    return json.dumps(order).encode()


def fill(cluster: Cluster, topic: str, count: int) -> None:
    """Events as the bridge encodes them, their ids in order of time."""
    producer = Producer({**cluster.client_config(), "linger.ms": 50, "queue.buffering.max.messages": 200_000})
    sender, rng = source(topic), random.Random(7)
    for number in range(count):
        event_id = uuid7()
        request = Request(b"POST", b"/" + topic.encode(), None, list(HEADERS), body(number, rng), "127.0.0.1")
        record = formats.encode(
            Event(str(event_id), event_id.timestamp, sender, request, "orders/create", None, "none", False, None)
        )
        while True:
            try:
                producer.produce(topic, record.value, headers=record.headers)
                break
            except BufferError:
                producer.poll(0.1)
        if number % 1000 == 0:
            producer.poll(0)
    if producer.flush(120):
        raise SystemExit("the topic could not be filled")


@contextmanager
def worker(environ: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`kwb serve --role worker`."""
    kwb = Path(sys.executable).parent / "kwb"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(kwb), "serve", "--role", "worker"], env=environ, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


async def follow(url: str, pid: int, profile: Profile) -> list[dict[str, float]]:
    """The moment and the CPU time of the worker at each step; rows are counted by the positions."""
    connection = await asyncpg.connect(url)
    marks: list[dict[str, float]] = []
    seen, moved = 0, time.monotonic()
    try:
        while seen < profile.events:
            try:
                passed = await connection.fetchval("SELECT sum(next_offset)::bigint FROM archive_offsets") or 0
            except asyncpg.UndefinedTableError:
                passed = 0
            now = time.monotonic()
            if passed != seen:
                seen, moved = passed, now
            if passed >= min(profile.events, len(marks) * profile.step or 1):
                marks.append({"rows": passed, "at": now, "cpu": cpu_seconds(pid)})
                if len(marks) > 1:
                    per_second = (passed - marks[-2]["rows"]) / (now - marks[-2]["at"])
                    console.print(f"  {passed:,} rows, {per_second:,.0f}/s")
            if now - moved > STALL_S:
                raise SystemExit(f"the archive stands still at {seen} rows")
            time.sleep(0.02)
        rows = await connection.fetchval("SELECT count(*) FROM events")
        if rows != profile.events:
            raise SystemExit(f"{profile.events} events were sent, {rows} rows were written")
    finally:
        await connection.close()
    return marks


def measure(stack: Stack, cluster: Cluster, case: str, turn: int, profile: Profile) -> dict[str, Any]:
    """One topic into one empty database."""
    topic = f"bench-{case}-{turn}"
    topics = Topics(cluster)
    try:
        with topics.topic(topic, flush=False):
            console.print(f"{case}: filling a topic with {profile.events:,} records")
            fill(cluster, topic, profile.events)
            name = f"bench_{uuid.uuid4().hex[:8]}"
            uvloop.run(run_sql(stack.postgres.admin_url, f"CREATE DATABASE {name} OWNER kwb"))
            url = stack.postgres.url.rpartition("/")[0] + f"/{name}"
            index = "true" if case == "json" else "false"
            environ = {
                **os.environ, **stack.environ(), "DATABASE_URL": url, "KWB_MANAGEMENT_PORT": "0",
                "KWB_CONFIG": f"sources: {{{topic}: {{auth: none, index_json: {index}}}}}",
            }  # fmt: skip
            log = results.WORK / "logs" / f"archive-{case}.log"
            log.parent.mkdir(parents=True, exist_ok=True)
            with worker(environ, log) as process:
                marks = uvloop.run(follow(url, process.pid, profile))
                memory = max((p.mib for p in resident(process.pid) if "app.child worker" in p.command), default=0.0)
            uvloop.run(run_sql(stack.postgres.admin_url, f"DROP DATABASE {name} WITH (FORCE)"))
    finally:
        topics.close()
    steps = [
        {
            "rows": int(after["rows"]),
            "events_per_second": round((after["rows"] - before["rows"]) / (after["at"] - before["at"])),
            "cpu_us_per_event": round((after["cpu"] - before["cpu"]) / (after["rows"] - before["rows"]) * 1e6, 1),
        }
        for before, after in pairwise(marks)
    ]
    first, last = marks[0], marks[-1]
    whole = (last["rows"] - first["rows"]) / (last["at"] - first["at"])
    return {"events_per_second": round(whole), "steps": steps, "rss_mib": memory}


async def run_sql(url: str, sql: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


def show(runs: dict[str, list[dict[str, Any]]]) -> None:
    """The table for people, on standard output."""
    table = Table("rows", *(CASES[case] for case in runs), title="events per second (CPU of the worker per event)")
    for place in range(max(len(found[0]["steps"]) for found in runs.values())):
        cells = []
        for found in runs.values():
            step = found[0]["steps"][place] if place < len(found[0]["steps"]) else None
            cells.append(f"{step['events_per_second']:,}/s ({step['cpu_us_per_event']} µs)" if step else "")
        rows = next(f[0]["steps"][place]["rows"] for f in runs.values() if place < len(f[0]["steps"]))
        table.add_row(f"{rows:,}", *cells)
    table.add_row(
        "all", *(f"{results.spread([r['events_per_second'] for r in f])['median']:,.0f}/s" for f in runs.values())
    )
    table.add_row("RSS", *(f"{max(r['rss_mib'] for r in f):.0f} MiB" for f in runs.values()))
    Console(width=max(100, console.width)).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="200 000 events, at most two minutes")
    parser.add_argument("--events", type=int, help="events per case")
    parser.add_argument("--runs", type=int, help="runs per case")
    parser.add_argument("--cases", default="plain,json", help="comma separated: plain, json")
    args = parser.parse_args()
    base = QUICK if args.quick else FULL
    events = args.events or base.events
    profile = Profile(base.name, events, min(base.step, max(1, events // 4)), args.runs or base.runs)
    machine = results.machine()
    runs: dict[str, list[dict[str, Any]]] = {case: [] for case in args.cases.split(",")}
    with embedded_stack(POSTGRES_OPTIONS) as (stack, cluster):
        for turn in range(profile.runs):
            for case, found in runs.items():
                found.append(measure(stack, cluster, case, turn, profile))
    load = {
        "body_bytes": BODY_BYTES,
        "request_headers": len(HEADERS),
        "partitions": 6,
        "events": events,
        "postgresql": POSTGRES_OPTIONS,
    }
    path = results.write_runs(profile.name, machine, load, runs)
    show(runs)
    console.print(f"written: {path.relative_to(results.ROOT)}")


if __name__ == "__main__":
    main()
