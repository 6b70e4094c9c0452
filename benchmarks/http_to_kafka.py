"""http_to_kafka: webhooks of 1 KiB in, Kafka's acknowledgement of all in-sync replicas out. See README.md.

    python benchmarks/http_to_kafka.py [--quick] [--runs N] [--systems bridge,go-2ms,go-0s] [--modes flush,plain]

Every round measures every system on a topic of its own, one after the other, so that a slow minute of the machine
hits all of them; the figures are medians over the rounds.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import openloop
import results
from processes import cpu_seconds
from servers import embedded_stack
from systems import Bridge, GoFranz, Running, System, running
from topics import Topics

RATES = (500, 2_000, 12_000)
IDLE_CONNECTIONS = 1_000
SUMMED = {"acked", "records", "lost", "errors", "missing", "duplicates"}  # over the rounds; of all else a spread
MODES = {"flush": "flush.messages=1: an acknowledgement follows an fsync (the default)", "plain": "no fsync"}
# As Kafka's own start script runs a broker (bin/kafka-server-start.sh), not the quick start of `kwb up`.
JVM = ("-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35", "-Djava.awt.headless=true")
console = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class Profile:
    """How long one measurement takes and how exactly the highest rate is searched."""

    name: str
    runs: int
    warm_up_seconds: float
    rate_seconds: float
    probe_seconds: float
    confirm_seconds: float
    step: float
    precision: float
    systems: tuple[str, ...]


FULL = Profile("http_to_kafka", 5, 5, 8, 5, 12, 1.2, 0.04, ("bridge", "go-2ms", "go-0s"))
QUICK = Profile("http_to_kafka-quick", 1, 3, 3, 3, 5, 1.3, 0.12, ("bridge", "go-2ms"))


class Account:
    """No acknowledgement without a record: counted after every run of the generator.

    `count` tells how many records are at `place`, where an acknowledgement says that they are.
    """

    def __init__(self, count: Callable[[], int], place: str) -> None:
        self._count, self._place = count, place
        self._before = count()
        self.acked = 0

    def add(self, load: openloop.Load) -> None:
        self.acked += load.acked
        if self.lost:
            console.print(f"[bold red]{self.lost} acknowledged events are not in {self._place}")

    @property
    def records(self) -> int:
        return self._count() - self._before

    @property
    def lost(self) -> int:
        return max(0, self.acked - self.records)


def highest_rate(
    probe: Callable[[int], openloop.Load], confirm: Callable[[int], openloop.Load], start: int, profile: Profile
) -> openloop.Load:
    """The confirming run at the highest rate with a good p99 and no error; the last try when none holds."""
    good, bad, rate = 0, 0, start
    while not (good and bad and bad - good <= profile.precision * bad) and rate >= 100:
        if probe(rate).good:
            good = rate
        else:
            bad = rate
        rate = int(good * profile.step) if not bad else int(bad / profile.step) if not good else (good + bad) // 2
    rate = good or rate
    while not (load := confirm(rate)).good and rate >= 100:
        rate = int(rate * 0.95)
    return load


def measure(
    server: Running, generator: openloop.Generator, account: Account, start: int, profile: Profile
) -> dict[str, Any]:
    """Everything about one system on one topic."""

    def load(rate: int, seconds: float, warm_up: float = 0.5) -> openloop.Load:
        found = generator.run(rate, seconds, warm_up)
        account.add(found)
        time.sleep(0.5 if found.good else 2.0)  # what an overload left behind is worked off
        console.print(
            f"  {server.system.name:8} {rate:6}/s  p50 {found.latency_ms['p50']:7.2f} ms"
            f"  p99 {found.latency_ms['p99']:8.2f} ms  errors {found.errors}",
            highlight=False,
        )
        return found

    cost: dict[str, float] = {}

    def at_saturation(rate: int) -> openloop.Load:
        cpu, moment = cpu_seconds(server.pid), time.monotonic()
        found = load(rate, profile.confirm_seconds)
        spent, span = cpu_seconds(server.pid) - cpu, time.monotonic() - moment
        cost["cpu_us_per_request"] = round(spent / max(found.acked, 1) * 1e6, 1)
        cost["cores_used"] = round(spent / span, 2)
        return found

    load(2_000, profile.warm_up_seconds)
    with generator.idle_connections(IDLE_CONNECTIONS) as idle:
        account.add(idle)
        idle_mib = server.worker_mib()
    rates = {str(rate): load(rate, profile.rate_seconds) for rate in RATES}
    top = highest_rate(lambda rate: load(rate, profile.probe_seconds), at_saturation, start, profile)
    return {
        "rates": {rate: {**found.latency_ms, "errors": found.errors} for rate, found in rates.items()},
        "highest": {
            "rate": top.offered_per_second, "confirmed": top.good, **top.latency_ms, **cost,
            "generator_cpu": top.facts["generator_cpu"],
        },
        "rss_mib": {f"idle_{IDLE_CONNECTIONS}_connections": idle_mib, "after_saturation": server.worker_mib()},
        "acked": account.acked,
        "records": account.records,
        "lost": account.lost,
    }  # fmt: skip


def summarise(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Numbers that stand at the same place of every run become a spread."""
    first = runs[0]
    found: dict[str, Any] = {}
    for key, value in first.items():
        values = [run[key] for run in runs]
        if isinstance(value, dict):
            found[key] = summarise(values)
        elif isinstance(value, bool):
            found[key] = all(values)
        elif key in SUMMED:
            found[key] = sum(values)
        elif isinstance(value, int | float):
            found[key] = results.spread(values)
    return found


def show(summary: dict[str, dict[str, dict[str, Any]]]) -> None:
    """The table for people, on standard output."""
    for mode, systems in summary.items():
        table = Table(title=MODES[mode], title_justify="left")
        table.add_column("ms: p50 / p99 / p99.9")
        for name in systems:
            table.add_column(name, justify="right")

        def row(name: str, cell: Callable[[dict[str, Any]], str], table: Table = table, systems: Any = systems) -> None:
            table.add_row(name, *(cell(found) for found in systems.values()))

        for rate in RATES:
            row(f"at {rate:,}/s", lambda found, rate=rate: _latency(found["rates"][str(rate)]))  # type: ignore[misc]
        row("highest rate, p99 ≤ 300 ms", lambda found: f"{found['highest']['rate']['median']:,.0f}/s{_doubt(found)}")
        row("  at that rate", lambda found: _latency(found["highest"]))
        row("  CPU per request", lambda found: f"{found['highest']['cpu_us_per_request']['median']:.1f} µs")
        row("  spread of the rounds", lambda found: f"{found['highest']['rate']['width_percent']:.0f} %")
        row("RSS, 1 000 idle connections", lambda found: f"{_idle_mib(found):.0f} MiB")
        row("acknowledged, not in the topic", lambda found: f"{found['lost']:,}")
        Console(width=max(100, console.width)).print(table)


def _latency(found: dict[str, Any]) -> str:
    marks = " / ".join(f"{found[mark]['median']:.2f}" for mark in ("p50", "p99", "p999"))
    return marks + (f" ({found['errors']} errors)" if found.get("errors") else "")


def _doubt(found: dict[str, Any]) -> str:
    return "" if found["highest"]["confirmed"] else " (not confirmed)"


def _idle_mib(found: dict[str, Any]) -> float:
    return float(found["rss_mib"][f"idle_{IDLE_CONNECTIONS}_connections"]["median"])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="one round, short runs, at most three minutes")
    parser.add_argument("--runs", type=int, help="rounds (5; with --quick 1)")
    parser.add_argument("--systems", help="comma separated: bridge, go-2ms, go-0s")
    parser.add_argument("--modes", default="flush,plain", help="comma separated: flush, plain")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    profile = QUICK if args.quick else FULL
    wanted = args.systems.split(",") if args.systems else profile.systems
    cores = (None, None) if (os.cpu_count() or 1) < 2 else (0, 1)
    try:
        openloop.build()
    except (results.NotRunError, subprocess.CalledProcessError) as error:
        sys.exit(f"NOT RUN: {error}")
    machine, not_run = results.machine(), {}
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    with embedded_stack(jvm=JVM) as (stack, cluster):
        contestants: list[System] = []
        for system in (Bridge(stack.environ()), GoFranz("2ms"), GoFranz("0s")):
            if system.name not in wanted:
                continue
            try:
                system.build()
                contestants.append(system)
            except results.NotRunError as reason:
                not_run[system.name] = str(reason)
                console.print(f"[yellow]NOT RUN[/] {system.name}: {reason}")
        topics = Topics(cluster)
        for turn in range(args.runs or profile.runs):
            for mode in args.modes.split(","):
                for system in contestants:
                    console.print(f"round {turn + 1}, {mode}, {system.name}")
                    name = f"bench-{mode}-{system.name}-{turn}"
                    found = runs.setdefault((mode, system.name), [])
                    start = int(found[-1]["highest"]["rate"]) if found else 12_000
                    with topics.topic(name, flush=mode == "flush"), running(system, cluster, name, cores[0]) as server:
                        request = results.WORK / "request.http"
                        request.write_bytes(
                            openloop.shopify_like(f"/{name}", server.login.username, server.login.password)
                        )
                        generator = openloop.Generator(server.port, request, cores[1])
                        account = Account(lambda name=name: topics.count(name), f"the topic {name}")  # type: ignore[misc]
                        found.append(measure(server, generator, account, start, profile))
        topics.close()
    summary: dict[str, dict[str, dict[str, Any]]] = {}
    for (mode, name), several in runs.items():
        summary.setdefault(mode, {})[name] = summarise(several)
    path = results.write(
        profile.name,
        {
            **results.commit(),
            "machine": machine,
            "load": {
                "generator": "open loop, Poisson, keep-alive", "connections": 256, "body_bytes": openloop.BODY_BYTES,
                "request_headers": 12, "server_core": cores[0], "generator_core": cores[1],
                "broker": "embedded Apache Kafka, one node, acks=all, not pinned", "modes": MODES,
            },
            "not_run": not_run,
            "summary": summary,
            "rounds": [{"mode": mode, "system": name, "runs": several} for (mode, name), several in runs.items()],
        },
    )  # fmt: skip
    show(summary)
    console.print(f"written to {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")
    if any(found["lost"] for systems in summary.values() for found in systems.values()):
        sys.exit("acknowledged events are missing in Kafka")


if __name__ == "__main__":
    main()
