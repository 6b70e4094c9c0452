"""http_to_outbox: webhooks of 1 KiB in while Kafka is away, rows in PostgreSQL's outbox out. See README.md.

    python benchmarks/http_to_outbox.py [--quick] [--runs N]

Every round takes a fresh database and topic, kills the broker and keeps it away; `kwb serve` (one ingest process, one
worker) answers from the outbox. Then the broker comes back and the outbox is relayed to its end.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import asyncpg
import uvloop
from rich.console import Console
from rich.table import Table

import openloop
import results
from archive import STALL_S, run_sql
from http_to_kafka import JVM, Account, Profile, highest_rate, summarise
from kafka_webhook_bridge.stack import Stack
from processes import cpu_seconds
from servers import POSTGRES_OPTIONS, embedded_stack
from systems import Bridge, Running, running
from topics import PARTITIONS, Cluster, Topics

RATES = (500, 1_000, 3_000)
P99_MS_MAX = 100.0
START_RATE = 4_000
FULL = Profile("http_to_outbox", 3, 5, 15, 5, 30, 1.2, 0.04, ("bridge",))
QUICK = Profile("http_to_outbox-quick", 1, 3, 4, 3, 6, 1.3, 0.12, ("bridge",))
AWAY_TIMEOUT_S = 30.0
console = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class Outage:
    """One round: the bridge that answers, what feeds it, and the database that takes the events."""

    server: Running
    generator: openloop.Generator
    database: str
    postgres_pid: int
    profile: Profile

    def sql(self, query: str) -> Any:
        """One statement; the rows as tuples."""

        async def fetch() -> list[tuple[Any, ...]]:
            connection = await asyncpg.connect(self.database)
            try:
                return [tuple(row) for row in await connection.fetch(query, timeout=120)]
            finally:
                await connection.close()

        return uvloop.run(fetch())

    def rows(self) -> int:
        """Rows in the outbox."""
        return int(self.sql("SELECT count(*) FROM outbox")[0][0])

    def begin(self, kill: Callable[[], None], topic: str) -> None:
        """Take the broker away. Comes back when a webhook is answered `outbox` without a wait for Kafka."""
        deadline = time.monotonic() + AWAY_TIMEOUT_S
        while self.sql("SELECT to_regclass('outbox') IS NULL")[0][0]:
            if time.monotonic() > deadline:
                raise SystemExit("the worker has not made its tables")
            time.sleep(0.05)
        kill()
        deadline = time.monotonic() + AWAY_TIMEOUT_S
        while (last := self._post(topic)) != "outbox":
            if time.monotonic() > deadline:
                raise SystemExit(f"Kafka is away, and webhooks do not go to the outbox (last: {last})")

    def _post(self, topic: str) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=10)
        try:
            connection.request("POST", f"/{topic}", b"{}", {"Authorization": self.server.login.header})
            answer = connection.getresponse()
            body = answer.read()
            return str(json.loads(body)["stored"]) if answer.status == 200 else f"{answer.status} {body[:200]!r}"
        finally:
            connection.close()

    def measure(self, account: Account, start: int) -> dict[str, Any]:
        """Latency at each rate, the highest rate, and what they cost, with Kafka away."""
        worker = self.server.worker().pid
        began = time.monotonic()

        def load(rate: int, seconds: float) -> tuple[openloop.Load, dict[str, Any]]:
            before = cpu_seconds(worker), cpu_seconds(self.postgres_pid)
            found = self.generator.run(rate, seconds, 0.5)
            spent = cpu_seconds(worker) - before[0], cpu_seconds(self.postgres_pid) - before[1]
            account.add(found)
            console.print(
                f"  {rate:6}/s  p50 {found.latency_ms['p50']:7.2f} ms  p99 {found.latency_ms['p99']:8.2f} ms"
                f"  errors {found.errors}",
                highlight=False,
            )
            time.sleep(0.5 if found.good else 2.5)  # what an overload left behind is worked off
            return found, {
                **found.latency_ms,
                "errors": found.errors,
                "ingest_cpu_us": round(spent[0] / max(found.acked, 1) * 1e6, 1),
                "postgres_cpu_us": round(spent[1] / max(found.acked, 1) * 1e6, 1),
                "load_average": round(os.getloadavg()[0], 1),
            }

        load(1_000, self.profile.warm_up_seconds)
        first_mib = self.server.worker_mib()
        rates = {str(rate): load(rate, self.profile.rate_seconds)[1] for rate in RATES}
        costs: dict[str, Any] = {}

        def confirm(rate: int) -> openloop.Load:
            found, cost = load(rate, self.profile.confirm_seconds)
            costs.update(cost)
            return found

        top = highest_rate(lambda rate: load(rate, self.profile.probe_seconds)[0], confirm, start, self.profile)
        last_mib = self.server.worker_mib()
        return {
            "rates": rates,
            "highest": {
                "rate": top.offered_per_second, "confirmed": top.good, **costs,
                "generator_cpu": top.facts["generator_cpu"],
            },
            "away_seconds": round(time.monotonic() - began, 1),
            "rss_mib": {"first": first_mib, "last": last_mib, "last_to_first": round(last_mib / first_mib, 2)},
            "acked": account.acked,
            "records": account.records,
            "lost": account.lost,
        }  # fmt: skip

    def end(self, restart: Callable[[], None], topics: Topics, topic: str) -> dict[str, Any]:
        """Bring the broker back and wait for the empty outbox; then every event that waited is looked for."""
        waiting = {str(row[0]) for row in self.sql("SELECT event_id FROM outbox")}
        rows, began = len(waiting), time.monotonic()
        restart()
        serves = moved = time.monotonic()
        left = rows
        while left:
            found = self.rows()
            if found != left:
                left, moved = found, time.monotonic()
            if time.monotonic() - moved > STALL_S:
                raise SystemExit(f"Kafka is back, and {left} events stay in the outbox")
            time.sleep(0.05)
        empty = time.monotonic()
        seen = Counter(topics.event_ids(topic))
        return {
            "broker_start_seconds": round(serves - began, 2),
            "empty_after_seconds": round(empty - serves, 2),
            "events_per_second": round(rows / (empty - serves)),
            "missing": len(waiting - seen.keys()),
            "duplicates": sum(seen.values()) - len(seen),
        }


def round_of(
    stack: Stack, cluster: Cluster, turn: int, start: int, profile: Profile, cores: Sequence[int | None]
) -> dict[str, Any]:
    """Kafka goes, load, Kafka comes back."""
    topic, name = f"bench-outbox-{turn}", f"bench_{uuid.uuid4().hex[:8]}"
    uvloop.run(run_sql(stack.postgres.admin_url, f"CREATE DATABASE {name} OWNER kwb"))
    database = stack.postgres.url.rpartition("/")[0] + f"/{name}"
    system = Bridge({**stack.environ(), "DATABASE_URL": database}, role="all")
    topics = Topics(cluster)
    assert stack.postgres.pid is not None
    try:
        with topics.topic(topic, flush=True), running(system, cluster, topic, cores[0]) as server:
            request = results.WORK / "request.http"
            request.write_bytes(openloop.shopify_like(f"/{topic}", server.login.username, server.login.password))
            generator = openloop.Generator(server.port, request, cores[1], p99_ms_max=P99_MS_MAX)
            outage = Outage(server, generator, database, stack.postgres.pid, profile)
            try:
                outage.begin(stack.kafka.kill, topic)
                found = outage.measure(Account(outage.rows, "the outbox"), start)
                console.print(f"  Kafka comes back; {outage.rows():,} events wait")
                return {**found, "back": outage.end(stack.kafka.start, topics, topic)}
            finally:
                if not stack.kafka.alive:
                    stack.kafka.start()
    finally:
        topics.close()
        uvloop.run(run_sql(stack.postgres.admin_url, f"DROP DATABASE {name} WITH (FORCE)"))


def show(found: dict[str, Any]) -> None:
    """The table for people, on standard output."""
    table = Table(title="Kafka away, 2xx from the outbox", title_justify="left")
    for column in ("requests", "ms: p50 / p99 / p99.9", "CPU of ingest, µs", "of PostgreSQL, µs", "load average"):
        table.add_column(column)

    def latency(name: str, at: dict[str, Any]) -> None:
        marks = " / ".join(f"{at[mark]['median']:.1f}" for mark in ("p50", "p99", "p999"))
        table.add_row(
            name, marks + (f" ({at['errors']} errors)" if at["errors"] else ""),
            *(f"{at[mark]['median']:.0f}" for mark in ("ingest_cpu_us", "postgres_cpu_us")),
            f"{at['load_average']['median']:.1f}",
        )  # fmt: skip

    for rate in RATES:
        latency(f"{rate:,}/s", found["rates"][str(rate)])
    top, rss, back = found["highest"], found["rss_mib"], found["back"]
    doubt = "" if top["confirmed"] else " (not confirmed)"
    latency(f"{top['rate']['median']:,.0f}/s, the highest{doubt}", top)
    out = Console(width=max(110, console.width))
    out.print(table)
    width = top["rate"]["width_percent"]
    out.print(
        f"The highest rate with p99 ≤ {P99_MS_MAX:.0f} ms and no error; spread of the rounds {width:.0f} %",
        highlight=False,
    )
    out.print(
        f"RSS of ingest {rss['first']['median']:.0f} → {rss['last']['median']:.0f} MiB "
        f"(× {rss['last_to_first']['median']:.2f}) in {found['away_seconds']['median']:.0f} s; "
        f"{found['acked']:,} acknowledged, {found['records']:,} in the outbox, {found['lost']:,} lost",
        highlight=False,
    )
    out.print(
        f"Kafka back: outbox empty after {back['empty_after_seconds']['median']:.1f} s "
        f"({back['events_per_second']['median']:,.0f} events/s); "
        f"{back['missing']:,} missing in the topic, {back['duplicates']:,} there twice",
        highlight=False,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="one round, short runs, about three minutes")
    parser.add_argument("--runs", type=int, help="rounds (3; with --quick 1)")
    args = parser.parse_args()
    base = QUICK if args.quick else FULL
    profile = replace(base, runs=args.runs or base.runs)
    cores = (None, None) if (os.cpu_count() or 1) < 2 else (0, 1)
    try:
        openloop.build()
    except (results.NotRunError, subprocess.CalledProcessError) as error:
        sys.exit(f"NOT RUN: {error}")
    machine = results.machine()
    rounds: list[dict[str, Any]] = []
    with embedded_stack(POSTGRES_OPTIONS, jvm=JVM) as (stack, cluster):
        for turn in range(profile.runs):
            console.print(f"round {turn + 1}")
            start = int(rounds[-1]["highest"]["rate"]) if rounds else START_RATE
            rounds.append(round_of(stack, cluster, turn, start, profile, cores))
    summary = summarise(rounds)
    path = results.write(
        profile.name,
        {
            **results.commit(),
            "machine": machine,
            "load": {
                "generator": "open loop, Poisson, keep-alive", "connections": 256, "body_bytes": openloop.BODY_BYTES,
                "request_headers": 12, "bridge_core": cores[0], "generator_core": cores[1], "partitions": PARTITIONS,
                "p99_ms_max": P99_MS_MAX, "broker": "killed, and kept away", "postgresql": POSTGRES_OPTIONS,
            },
            "summary": summary,
            "rounds": rounds,
        },
    )  # fmt: skip
    show(summary)
    console.print(f"written to {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")
    if summary["lost"] or summary["back"]["missing"]:
        sys.exit("acknowledged events are missing")


if __name__ == "__main__":
    main()
