"""`python -m faults`: runs scenarios, says what was found, writes the report. Exit status 1 when anything is red."""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from faults import machine, report
from faults.ground import Ground
from faults.mutations import MUTATIONS, Mutation
from faults.runner import Result, Scenario, run, shared_ground
from faults.scenarios import MATRIX, SCENARIOS


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument("name", nargs="*", help="scenarios or mutations; none: all of them")
    parser.add_argument("--list", action="store_true", help="show the table and end")
    parser.add_argument("--seed", default=secrets.token_hex(4), help="repeats what was sent and when faults began")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="run each N times, with seeds made of --seed")
    parser.add_argument("--times", type=int, metavar="N", help="repeat the fault N times within a run")
    parser.add_argument("--rate", type=float, metavar="R", help="requests per second instead of the scenario's")
    parser.add_argument("--no-time", action="store_true", help="judge what is lost and altered, not how long it took")
    parser.add_argument("--report", type=Path, metavar="FOLDER", help="write faults.md and its pictures there")
    args = parser.parse_args(argv)
    if args.list:
        _show_table()
        return 0
    known = {s.name for s in SCENARIOS} | {m.name for m in MUTATIONS}
    if unknown := set(args.name) - known:
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}; --list shows them")
    scenarios = [s for s in SCENARIOS if not args.name or s.name in args.name]
    mutations = [m for m in MUTATIONS if not args.name or m.name in args.name]
    seeds = [args.seed] if args.seeds == 1 else [f"{args.seed}.{n}" for n in range(args.seeds)]
    print(f"seed {args.seed}", flush=True)

    results: list[Result] = []
    seen: list[tuple[Mutation, Result]] = []
    with ExitStack() as servers:
        ground: list[Ground] = []

        def go(scenario: Scenario, seed: str) -> Result:
            if why := machine.lacks(scenario.needs):
                return Result(scenario, seed, scenario.times, scenario.rate, not_run=why)
            if not ground:
                ground.append(servers.enter_context(shared_ground()))
            return run(
                scenario, ground[0], seed, times=args.times, rate=args.rate, time_counts=not args.no_time
            )  # fmt: skip

        for seed in seeds:
            for scenario in scenarios:
                results.append(go(scenario, seed))
                _say(results[-1])
            for mutation in mutations:
                seen.append((mutation, go(mutation.armed(), seed)))
                _say(seen[-1][1], mutation)
    if args.report:
        print(f"written: {report.write(args.report, results, seen, args.seed)}")
    missed = [mutation.name for mutation, result in seen if not result.not_run and not mutation.seen(result)]
    red = [result.scenario.name for result in results if not result.good]
    print("red: " + ", ".join(red) if red else "all green", *(f"; NOT SEEN: {name}" for name in missed))
    return 1 if red or missed else 0


def _show_table() -> None:
    for scenario in SCENARIOS:
        rows = ",".join(map(str, scenario.rows)) or "-"
        lacks = machine.lacks(scenario.needs)
        print(f"{scenario.name:<22}{rows:>6}  {scenario.title}" + (f"  NOT RUN here: {lacks}" if lacks else ""))
    for mutation in MUTATIONS:
        print(f"{mutation.name:<22}        wrong on purpose: {mutation.title}")
    covered = {row for scenario in SCENARIOS for row in scenario.rows}
    print(f"rows covered: {len(covered)} of {len(MATRIX)}")


def _say(result: Result, mutation: Mutation | None = None) -> None:
    name = result.scenario.name
    if result.not_run:
        print(f"{name}: NOT RUN, {result.not_run}", flush=True)
        return
    word = "ok" if result.good else "RED"
    if mutation is not None:
        word = "seen" if mutation.seen(result) else "NOT SEEN"
    print(f"{name}: {word} in {result.seconds:.0f} s", flush=True)
    if facts := result.facts:
        recovery = "never" if result.recovery_s is None else f"{result.recovery_s:.1f} s"
        lines = (
            f"{facts.requests} requests, {facts.acked} acked ({facts.fallbacks} by the outbox, {facts.suppressed} "
            f"suppressed), {facts.rejected} rejected, {facts.refused} refused, {facts.unknown} unknown",
            f"{facts.further_copies} further copies, {facts.inversions} inversions, {facts.at_risk} at risk",
            f"during the fault {facts.acked_during} acked, p50 {facts.p50_during_s * 1000:.1f} ms, settled "
            f"{facts.p50_settled_s * 1000:.1f} ms, p99 {facts.p99_during_s * 1000:.0f} ms",
            f"slowest {facts.slowest_s * 1000:.0f} ms; memory x{facts.growth:.2f}; recovered in {recovery}",
        )
        print(*(f"    {line}" for line in lines), sep="\n")
    for note in result.notes:
        print(f"    {note}")
    if result.broke:
        print(f"    broke down: {result.broke}")
    for verdict in result.red:
        print(f"    {verdict.number} {verdict.name}: {verdict.found}")
        for example in verdict.examples:
            print(f"        {example}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
