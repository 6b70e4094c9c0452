"""Results on file: what was measured, where, on which commit, and how far the runs lay apart."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
WORK = ROOT / ".bench"  # binaries, logs, data of the servers; ignored by git


class NotRunError(Exception):
    """This machine lacks what a part of the benchmark needs; the reason is for people."""


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median and extremes of the runs; `width_percent` is (highest - lowest) / median."""
    middle = statistics.median(values)
    width = round(100 * (max(values) - min(values)) / middle, 1) if middle else 0.0
    return {
        "median": round(middle, 3),
        "low": min(values),
        "high": max(values),
        "width_percent": width,
        "runs": len(values),
    }


def machine() -> dict[str, Any]:
    """The machine as a reader must know it to compare: nothing that names or places it."""
    return {
        "cpu": _first_value("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average_at_start": [round(load, 2) for load in os.getloadavg()],
    }


def commit() -> dict[str, Any]:
    """The commit that was measured; `dirty` when the tree differs from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    return {"commit": git("rev-parse", "HEAD") or None, "dirty": bool(git("status", "--porcelain", "--", "src"))}


def write(name: str, facts: dict[str, Any]) -> Path:
    """`results/<name>-<date>.json`; a second run of the same day replaces the first. Returns the path."""
    moment = datetime.now(UTC)
    path = HERE / "results" / f"{name}-{moment:%Y-%m-%d}.json"
    path.parent.mkdir(exist_ok=True)
    whole = {"name": name, "finished_at": f"{moment:%Y-%m-%dT%H:%M:%SZ}", **facts}
    path.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    return path


def _first_value(path: str, key: str) -> str:
    for line in Path(path).read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def write_runs(name: str, machine: dict[str, Any], load: dict[str, Any], runs: dict[str, list[dict[str, Any]]]) -> Path:
    """The file of a benchmark whose runs have `events_per_second`: the summary is its spread. Returns the path."""
    summary = {case: spread([run["events_per_second"] for run in found]) for case, found in runs.items()}
    return write(name, {**commit(), "machine": machine, "load": load, "summary": summary, "runs": runs})
