"""Runs one scenario from an empty database to its verdicts."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from faults.checker import Expect, Facts, Judge, Verdict
from faults.ground import Ground
from faults.journal import Op
from faults.load import RESEND_WINDOW, RESENDS
from faults.world import Options, Sample, Window, World, until

TAIL_S = 2.0  # the load goes on for so long after the recovery: writers resume
RATE = 500.0
EVENTS = {"plain": 50, "keyed": 30, "marked": 10, "shut": 2}  # what the outage of one store must not touch
STORED = {**EVENTS, "once": 10, "store": 8, "strict": 8}  # and what needs PostgreSQL


@dataclass(frozen=True, slots=True)
class Scenario:
    """One row of the table. `fault` breaks and heals; everything around it is the same for all.

    `rows` are those of the fault matrix that it covers, `needs` what a machine may lack (needs.py), `ground` makes
    servers of its own where the scenario ruins them; without it they are shared. `times` is how often the fault is
    repeated by default.
    """

    name: str
    rows: tuple[int, ...]
    title: str
    fault: Callable[[World], None]
    expect: Expect = field(default_factory=Expect)
    sources: dict[str, int] = field(default_factory=lambda: dict(STORED))
    rate: float = RATE
    connections: int = 0  # 0: enough for the rate when every answer takes two seconds
    environ: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    resends: float = RESENDS
    resend_window: int = RESEND_WINDOW
    times: int = 1
    needs: tuple[str, ...] = ()
    ground: Callable[[Path], contextlib.AbstractContextManager[Ground]] | None = None
    setup: Callable[[World], contextlib.AbstractContextManager[None]] | None = None  # around the bridge's whole life

    def options(self, rate: float) -> Options:
        return Options(
            sources=self.sources,
            rate=rate,
            connections=self.connections or max(50, int(rate * 2.4)),
            environ=dict(self.environ),
            arguments=self.arguments,
            resends=self.resends,
            resend_window=self.resend_window,
        )


@dataclass(slots=True)
class Result:
    """What a run showed."""

    scenario: Scenario
    seed: str
    times: int
    rate: float
    verdicts: list[Verdict] = field(default_factory=list)
    facts: Facts | None = None
    recovery_s: float | None = None
    windows: list[Window] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    broke: str = ""  # the suite itself could not go on, and why
    not_run: str = ""  # what the machine lacks
    seconds: float = 0.0

    @property
    def red(self) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if verdict.red]

    @property
    def good(self) -> bool:
        return not self.red and not self.broke


@contextlib.contextmanager
def folder(name: str) -> Iterator[Path]:
    """A folder that PostgreSQL can reach; kept when KWB_FAULTS_KEEP names a place for it."""
    with tempfile.TemporaryDirectory(prefix=f"kwb-faults-{name}-", ignore_cleanup_errors=True) as text:
        path = Path(text)
        path.chmod(0o711)
        try:
            yield path
        finally:
            if keep := os.environ.get("KWB_FAULTS_KEEP"):
                target = Path(keep) / name
                target.mkdir(parents=True, exist_ok=True)
                for file in path.iterdir():
                    if file.is_file():
                        shutil.copy(file, target)


@contextlib.contextmanager
def shared_ground() -> Iterator[Ground]:
    """Servers for many scenarios."""
    with folder("ground") as path:
        ground = Ground(path / "servers")
        try:
            yield ground.start()
        finally:
            ground.destroy()


def run(
    scenario: Scenario, ground: Ground, seed: str, *, times: int | None = None, rate: float | None = None,
    time_counts: bool = True,
) -> Result:  # fmt: skip
    """One run. Raises nothing that a scenario may meet: what broke is told in the result."""
    times = times or scenario.times
    rate = rate or scenario.rate
    result = Result(scenario, seed, times, rate)
    began = time.monotonic()
    with folder(scenario.name) as path, contextlib.ExitStack() as around:
        try:
            mine = around.enter_context(scenario.ground(path)) if scenario.ground else ground
            world = World(mine, path, scenario.name, seed, scenario.options(rate), times)
            if scenario.setup:
                around.enter_context(scenario.setup(world))
            with world:
                _run(world, scenario, result, time_counts)
        except Exception as error:
            result.broke = f"{type(error).__name__}: {str(error)[-2000:]}"
    result.seconds = time.monotonic() - began
    return result


def _run(world: World, scenario: Scenario, result: Result, time_counts: bool) -> None:
    expect = scenario.expect
    world.start_load()
    try:
        scenario.fault(world)
        healed_at = max((window.end for window in world.windows), default=time.time())
        stays = [
            state for state, may in (("quarantined", expect.quarantine), ("blocked", expect.blocked)) if may
        ]  # fmt: skip
        with contextlib.suppress(AssertionError):
            until(lambda: world.recovered(healed_at, stays), "recovered", expect.recovery_s_max * 2)
            result.recovery_s = time.time() - healed_at
        world.acks(world.options.rate * TAIL_S * 0.5)
    finally:
        result.windows, result.samples, result.notes = world.windows, world.samples, world.notes
    said = world.end_load()
    if said["unsent"]:
        world.notes.append(f"{said['unsent']} requests were never sent")
    ops, observed = world.observe(result.recovery_s)
    resumed = [op for op in ops if op.outcome == "ok" and op.sent > healed_at]
    stored = {copy.event_id for copy in observed.copies}
    observed.fresh_event_passed = any(op.event_id in stored for op in resumed)
    judge = Judge(ops, observed, world.facts(), world.seed, expect, time=time_counts)
    result.verdicts, result.facts, result.ops = judge.verdicts(), judge.facts(), ops
