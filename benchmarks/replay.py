"""replay: archived events of 1 KiB JSON out of PostgreSQL, records in Kafka. See README.md.

    python benchmarks/replay.py [--quick] [--events N] [--cases flush,plain,rebuild] [--runs N]

The archive is filled first, without Kafka; then `kwb replay --all --to` or `kwb rebuild` sends it: one process that
reads, encodes, writes and puts every batch on record.
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
from pathlib import Path
from typing import Any

import uvloop
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table
from uuid_utils import uuid7

import results
from archive import HEADERS, body, run_sql, source
from kafka_webhook_bridge import formats
from kafka_webhook_bridge.event import Event, Request
from kafka_webhook_bridge.formats.rows import EventRow, RowMaker
from kafka_webhook_bridge.settings import StoreSettings
from kafka_webhook_bridge.stack import Stack
from kafka_webhook_bridge.store import Store, migrate
from kafka_webhook_bridge.store.archive import write
from servers import POSTGRES_OPTIONS, embedded_stack
from topics import PARTITIONS, Cluster, Topics

CASES = {
    "flush": "replay to a topic whose acks follow an fsync (as the bridge makes it)",
    "plain": "replay to a topic that acks from memory",
    "rebuild": "rebuild: the topic is made, positions are moved",
}
EVENTS, QUICK_EVENTS = 1_000_000, 50_000
_BATCH = 5_000
console = Console(stderr=True)


async def fill(url: str, topic: str, count: int) -> None:
    """Events as the archive writes them, their ids in the order of time, over all partitions."""
    sender, rng, maker = source(topic), random.Random(7), RowMaker(lambda _: False)
    topic_id = uuid.uuid4()
    async with Store(StoreSettings(url=SecretStr(url))) as store:
        await migrate(store)
        rows: list[EventRow] = []
        for number in range(count):
            event_id = uuid7()
            request = Request(b"POST", b"/" + topic.encode(), None, list(HEADERS), body(number, rng), "127.0.0.1")
            kind = "orders/create"
            record = formats.encode(
                Event(str(event_id), event_id.timestamp, sender, request, kind, None, "none", False, None)
            )
            place = number % PARTITIONS, number // PARTITIONS
            row = maker.make(record.key, record.value, record.headers, topic, topic_id, *place)
            assert not isinstance(row, str)
            rows.append(row)
            if len(rows) == _BATCH or number == count - 1:
                await write(store, rows, {}, dedupe_window_days=0, timeout_ms=60_000)
                rows = []
    await run_sql(url, "VACUUM ANALYZE")


def send(environ: dict[str, str], *arguments: str) -> dict[str, float]:
    """The command: seconds of all of it and of the sending alone, its CPU time and its largest memory."""
    kwb = Path(sys.executable).parent / "kwb"
    started = time.monotonic()
    process = subprocess.Popen([str(kwb), *arguments, "--json"], env=environ, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = [(time.monotonic(), json.loads(line)) for line in process.stdout]
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    ended = time.monotonic()
    if process.returncode or not lines or lines[-1][1]["state"] != "done":
        raise SystemExit(f"kwb {' '.join(arguments)} ended with {process.returncode}")
    return {
        "events": lines[-1][1]["passed"],
        "seconds": ended - started,
        "sending_seconds": lines[-1][0] - lines[0][0],
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "rss_mib": usage.ru_maxrss / 1024,
    }


def measure(stack: Stack, cluster: Cluster, url: str, case: str, turn: int, events: int) -> dict[str, Any]:
    """One turn of one case; the records in the topic are counted."""
    topics = Topics(cluster)
    environ = {**os.environ, **stack.environ(), "DATABASE_URL": url}
    try:
        if case == "rebuild":
            found = send(environ, "rebuild", "bench-lost")
            written = topics.count("bench-lost")
            topics.delete("bench-lost")
        else:
            topic = f"bench-{case}-{turn}"
            with topics.topic(topic, flush=case == "flush"):
                found = send(environ, "replay", "--all", "--to", topic, "--run")
                written = topics.count(topic)
    finally:
        topics.close()
    if written != events:
        raise SystemExit(f"{events} events are archived, {written} records were written")
    return {
        "events_per_second": round(events / found["sending_seconds"]),
        "with_start_per_second": round(events / found["seconds"]),
        "cpu_us_per_event": round(found["cpu_seconds"] / events * 1e6, 1),
        "rss_mib": round(found["rss_mib"], 1),
    }


def show(runs: dict[str, list[dict[str, Any]]]) -> None:
    """The table for people, on standard output."""
    table = Table("case", "events/s", "with its start", "CPU µs per event", "RSS MiB")
    for case, found in runs.items():
        middle = {name: results.spread([run[name] for run in found])["median"] for name in found[0]}
        table.add_row(
            CASES[case],
            f"{middle['events_per_second']:,.0f}",
            f"{middle['with_start_per_second']:,.0f}",
            f"{middle['cpu_us_per_event']:.1f}",
            f"{middle['rss_mib']:.0f}",
        )
    Console(width=max(120, console.width)).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_EVENTS} events, one run of each")
    parser.add_argument("--events", type=int, help="events in the archive")
    parser.add_argument("--runs", type=int, default=3, help="runs of each case")
    parser.add_argument("--cases", default=",".join(CASES), help=f"comma separated: {', '.join(CASES)}")
    args = parser.parse_args()
    events = args.events or (QUICK_EVENTS if args.quick else EVENTS)
    turns = 1 if args.quick else args.runs
    machine = results.machine()
    runs: dict[str, list[dict[str, Any]]] = {case: [] for case in args.cases.split(",")}
    with embedded_stack(POSTGRES_OPTIONS) as (stack, cluster):
        console.print(f"archiving {events:,} events")
        uvloop.run(fill(stack.postgres.url, "bench-lost", events))
        for turn in range(turns):
            for case, found in runs.items():
                found.append(measure(stack, cluster, stack.postgres.url, case, turn, events))
                console.print(f"{case}: {found[-1]['events_per_second']:,}/s")
    load = {"request_headers": len(HEADERS), "partitions": PARTITIONS, "events": events}
    path = results.write_runs("replay-quick" if args.quick else "replay", machine, load, runs)
    show(runs)
    console.print(f"written: {path.relative_to(results.ROOT)}")


if __name__ == "__main__":
    main()
