"""Runs the unit tests on every Python that the project supports; a missing one is said, never passed over in silence.

Each gets an environment of its own, `.venv-3.X`, made from requirements/dev.txt and kept for the next time.
Exit status 1 when tests fail or an environment cannot be made. A Python that is not here does not fail.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements/dev.txt"
_PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")


def main() -> int:
    """One line per version on standard output."""
    results = [(version, *run(version)) for version in supported()]
    print()
    for version, outcome, reason in results:
        print(f"Python {version}: {outcome}{f' ({reason})' if reason else ''}")
    return 1 if any(outcome == "failed" for _, outcome, _ in results) else 0


def supported() -> list[str]:
    """The versions that pyproject.toml names: `3.11`, …"""
    return re.findall(r"Programming Language :: Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())


def run(version: str) -> tuple[str, str]:
    """(`passed`, `failed` or `NOT RUN`; why)."""
    python = find(version)
    if python is None:
        return "NOT RUN", f"no python{version} on PATH or among pyenv's versions"
    try:
        environment = prepare(version, python)
    except subprocess.CalledProcessError as error:
        return "failed", f"its environment could not be made: exit {error.returncode}"
    print(f"\nPython {version}: {python}", flush=True)
    done = subprocess.run([environment / "bin/python", "-m", "pytest", "tests/unit", "-q"], cwd=ROOT, check=False)
    return ("passed", "") if done.returncode == 0 else ("failed", f"pytest ended with {done.returncode}")


def find(version: str) -> Path | None:
    """An interpreter of that version that really starts: a pyenv shim may stand on PATH without one behind it."""
    return next((python for python in candidates(version) if starts(python, version)), None)


def candidates(version: str) -> Iterator[Path]:
    """Where an interpreter of that version may be, the most likely first."""
    if on_path := shutil.which(f"python{version}"):
        yield Path(on_path)
    roots: Iterable[str | None] = (os.environ.get("PYENV_ROOT"), str(Path.home() / ".pyenv"))
    for root in filter(None, roots):
        yield from sorted(Path(root).glob(f"versions/{version}.*/bin/python{version}"), reverse=True)


def starts(python: Path, version: str) -> bool:
    """Whether the interpreter runs, is that version and can make environments."""
    code = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    except OSError:
        return False
    return done.returncode == 0 and done.stdout.strip() == version


def prepare(version: str, python: Path) -> Path:
    """The environment of that version, made anew when the lock has changed."""
    environment = ROOT / f".venv-{version}"
    ready = environment / ".ready"
    lock = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    if ready.exists() and ready.read_text() == lock:
        return environment
    print(f"Python {version}: preparing {environment.name}, once", flush=True)
    subprocess.run([python, "-m", "venv", "--clear", environment], check=True)
    inside = str(environment / "bin/python")
    subprocess.run([inside, *_PIP, "--require-hashes", "-r", str(LOCK)], check=True)
    subprocess.run([inside, *_PIP, "--no-deps", "--no-build-isolation", "-e", str(ROOT)], check=True)
    ready.write_text(lock)
    return environment


if __name__ == "__main__":
    sys.exit(main())
