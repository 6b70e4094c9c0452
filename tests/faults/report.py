"""docs/reports/faults.md and its pictures, from the results of one run of the suite."""

from __future__ import annotations

import datetime
import html
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from faults.checker import ANSWER_S_MAX, BACK_S_MAX, percentile
from faults.mutations import Mutation
from faults.runner import Result

ROOT = Path(__file__).parents[2]
_COLUMNS = (
    "row", "fault", "times", "requests", "acked", "by the outbox", "lost", "duplicates", "refused", "reset",
    "p50 / p99 during it, ms", "slowest, ms", "recovery, s",
)  # fmt: skip


def write(folder: Path, results: Sequence[Result], mutations: Sequence[tuple[Mutation, Result]], seed: str) -> Path:
    """The page in `folder`, the pictures in its folder `faults`."""
    pictures = folder / "faults"
    pictures.mkdir(parents=True, exist_ok=True)
    for old in pictures.glob("*.svg"):
        old.unlink()
    for result in results:
        if result.ops:
            (pictures / f"{result.scenario.name}.svg").write_text(picture(result), encoding="utf-8")
    page = folder / "faults.md"
    page.write_text("\n".join(_page(results, mutations, seed)) + "\n", encoding="utf-8")
    return page


def _page(results: Sequence[Result], mutations: Sequence[tuple[Mutation, Result]], seed: str) -> Iterable[str]:
    ran = [result for result in results if not result.not_run]
    requests = sum(result.facts.requests for result in ran if result.facts)
    acked = sum(result.facts.acked for result in ran if result.facts)
    lost = sum(verdict.found for result in ran for verdict in result.verdicts if verdict.number == 1)
    yield "<!-- Made by `make faults`; changes here are lost. -->"
    yield ""
    yield "# What faults did to it"
    yield ""
    yield (
        f"{len(ran)} faults, {requests:,} requests, {acked:,} acknowledged, **{lost} of these lost**. Every request "
        "is in a journal before it is sent; afterwards every record of Kafka and every row of PostgreSQL is read from "
        "the start and held against it. How it is done: tests/faults."
    )
    yield ""
    yield f"Made on {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC by `make faults`, seed `{seed}`."
    yield f"{machine()}. Commit {commit()}."
    yield "Kafka and PostgreSQL are one node each, on the same machine as the bridge and the load."
    yield ""
    yield "## The faults"
    yield ""
    yield "| " + " | ".join(_COLUMNS) + " | |"
    yield "|---" * (len(_COLUMNS) + 1) + "|"
    for result in ran:
        yield _row(result)
    yield ""
    yield (
        "*Duplicates* are further copies of an event in Kafka, all with the same `event_id`. *Refused* are answers "
        "503, *reset* the requests inside a process that was killed. Latency counts from the moment a request was "
        "due, over all answers to requests sent while the fault lasted; *slowest* from a request's first byte, over "
        "the whole run. *Recovery* is from the end of the last fault until the bridge is ready, its breakers are "
        "closed and the outbox holds nothing of the time before. Nothing may be lost, altered, invented or written "
        "more often than the fault allows; a consumer behind nginx must have a new record within "
        f"{BACK_S_MAX:.0f} s, every record in the end, and none again that it had committed; every request must be "
        "answered within "
        f"{ANSWER_S_MAX} s"
        + "".join(
            f" ({scenario.expect.answer_s_max} s in {scenario.name}, where a killed process is made anew meanwhile)"
            for scenario in (result.scenario for result in ran)
            if scenario.expect.answer_s_max != ANSWER_S_MAX
        )
        + "."
    )
    yield ""
    red = [result for result in ran if not result.good]
    if red:
        yield "## Red"
        yield ""
        for result in red:
            yield f"- **{result.scenario.name}** {_why(result)}"
        yield ""
    noted = [result for result in ran if result.notes]
    if noted:
        yield "## Seen besides"
        yield ""
        yield from (f"- {result.scenario.name}: {'; '.join(result.notes)}" for result in noted)
        yield ""
    yield "## The checker sees"
    yield ""
    yield "Each of these is wrong on purpose. A run that stays green fails the suite."
    yield ""
    yield "| what is wrong | run with | verdicts that turned red | |"
    yield "|---|---|---|---|"
    for mutation, result in mutations:
        if result.not_run:
            continue
        said = ", ".join(f"{verdict.name} ({verdict.found})" for verdict in result.red) or result.broke or "none"
        mark = "seen" if mutation.seen(result) else "**not seen**"
        yield f"| {mutation.title} | {mutation.scenario.name} | {said} | {mark} |"
    yield ""
    yield "## NOT RUN"
    yield ""
    skipped = [(result.scenario.name, result.not_run) for result in results if result.not_run]
    skipped += [(mutation.name, result.not_run) for mutation, result in mutations if result.not_run]
    skipped.append(("2 % packet loss (part of row 7)", "needs netem or netfilter"))
    yield from (f"- {name}: {why}" for name, why in skipped)
    yield ""
    yield "## Again"
    yield ""
    yield "`make faults` runs all of it. One fault, more often, with this seed:"
    yield ""
    yield "```"
    yield f"PYTHONPATH=tests .venv/bin/python -m faults kafka-killed --times 20 --seed {seed}"
    yield "```"
    yield ""
    yield "The seed decides what is sent and when faults begin; what the machine makes of it is its own."
    yield ""
    yield "## Pictures"
    yield ""
    for result in ran:
        if result.ops:
            yield f"![{result.scenario.name}](faults/{result.scenario.name}.svg)"


def _row(result: Result) -> str:
    rows = ", ".join(map(str, result.scenario.rows)) or "–"
    mark = "ok" if result.good else "**red**"
    facts = result.facts
    if facts is None:
        return f"| {rows} | {result.scenario.title} | {result.times} | | | | | | | | | | | {mark} |"
    lost = next(verdict.found for verdict in result.verdicts if verdict.number == 1)
    share = 100 * facts.further_copies / max(1, facts.acked)
    recovery = "never" if result.recovery_s is None else f"{result.recovery_s:.1f}"
    at_risk = f" ({facts.at_risk} at risk)" if facts.at_risk else ""
    return (
        f"| {rows} | {result.scenario.title} | {result.times} | {facts.requests} | {facts.acked} | {facts.fallbacks} | "
        f"{lost}{at_risk} | {facts.further_copies} ({share:.2f} %) | {facts.refused} | {facts.unknown} | "
        f"{facts.p50_during_s * 1000:.1f} / {facts.p99_during_s * 1000:.0f} | {facts.slowest_s * 1000:.0f} | "
        f"{recovery} | {mark} |"
    )


def _why(result: Result) -> str:
    if result.broke:
        return f"broke down: {result.broke.splitlines()[0]}"
    return "; ".join(f"{v.number} {v.name}: {v.found} ({v.examples[0]})" for v in result.red)


def machine() -> str:
    """What it ran on, in a sentence."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    return (
        f"{os.cpu_count()} cores of {model}, {memory:.0f} GiB, Linux {platform.release()}, "
        f"CPython {platform.python_version()}"
    )


def commit() -> str:
    """The commit, and whether there is more than it says."""
    say = lambda *argv: subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()  # noqa: E731
    changed = say("git", "status", "--porcelain", "--", "src", "tests")
    return say("git", "rev-parse", "--short=12", "HEAD") + (" with changes" if changed else "")


# ── pictures ──────────────────────────────────────────────────────────────────────────────────────────────────────

_WIDTH, _LEFT, _RIGHT, _TOP = 960, 70, 12, 34
_BANDS = (("answers / s", 90), ("p99, ms", 70), ("outbox rows", 70))
_GAP = 22
_POINTS = 240


def picture(result: Result) -> str:
    """A timeline: what was answered and when, how long it took, how deep the outbox was; faults as bars."""
    start = min(op.sent for op in result.ops)
    end = max([op.done for op in result.ops if op.done] + [window.end for window in result.windows])
    step = max(0.25, (end - start) / _POINTS)
    count = int((end - start) / step) + 1
    good, bad, waits = [0.0] * count, [0.0] * count, [[] for _ in range(count)]  # type: ignore[var-annotated]
    for op in result.ops:
        if op.done:
            (bad if op.status >= 500 or not op.status else good)[int((op.done - start) / step)] += 1 / step
        if op.status:
            waits[int((op.sent - start) / step)].append(op.due_s * 1000)
    slow = [percentile(sorted(values), 0.99) for values in waits]
    depth = [
        (sample.at - start, sample.outbox)
        for sample in result.samples
        if sample.outbox is not None and start <= sample.at <= end
    ]
    height = _TOP + sum(height + _GAP for _, height in _BANDS) + 14
    x = lambda seconds: _LEFT + (_WIDTH - _LEFT - _RIGHT) * seconds / (end - start)  # noqa: E731
    times = [n * step for n in range(count)]
    series = (
        (("#2a7d4f", list(zip(times, good, strict=True))), ("#b3261e", list(zip(times, bad, strict=True)))),
        (("#33528a", list(zip(times, slow, strict=True))),),
        (("#8a5a00", depth),),
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="{_LEFT}" y="16" font-size="13" font-weight="bold">{html.escape(result.scenario.title)}</text>',
        f'<text x="{_WIDTH - _RIGHT}" y="16" text-anchor="end" fill="#666">{html.escape(result.scenario.name)}, '
        f"{result.rate:.0f} requests/s</text>",
    ]
    for window in result.windows:
        left, right = x(window.start - start), x(window.end - start)
        parts.append(
            f'<rect x="{left:.1f}" y="{_TOP - 8}" width="{max(1.0, right - left):.1f}" height="{height - _TOP - 6}" '
            f'fill="#f3d9d7"><title>{html.escape(window.label)}</title></rect>'
        )
    top = _TOP
    for (label, band), lines in zip(_BANDS, series, strict=True):
        most = max([value for _, line in lines for _, value in line] + [1.0])
        parts.append(f'<line x1="{_LEFT}" y1="{top + band}" x2="{_WIDTH - _RIGHT}" y2="{top + band}" stroke="#999"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{top + 10}" text-anchor="end" fill="#666">{most:,.0f}</text>')
        parts.append(f'<text x="{_LEFT - 6}" y="{top + band}" text-anchor="end" fill="#666">{label}</text>')
        for colour, line in lines:
            points = " ".join(f"{x(at):.1f},{top + band - band * value / most:.1f}" for at, value in line)
            if any(value for _, value in line):
                parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.2"/>')
        top += band + _GAP
    for n in range(7):
        seconds = (end - start) * n / 6
        parts.append(
            f'<text x="{x(seconds):.0f}" y="{height - 4}" text-anchor="middle" fill="#666">{seconds:.0f} s</text>'
        )
    return "\n".join([*parts, "</svg>", ""])
