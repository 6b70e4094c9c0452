"""`python -m fuzz`: looks for inputs that make the code raise, wait or believe a forger. Exit status 1 if there are.

atheris lives in an environment of its own, `.venv-fuzz`, made from requirements/fuzz.txt and kept for the next time.
Where it has no wheel, nothing is run and the reason told; the exit status is 0 then, 3 where it could not be installed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from fuzz.child import slow
from fuzz.targets import TARGETS

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements/fuzz.txt"
ENVIRONMENT = ROOT / ".venv-fuzz"
NOT_RUN = 3


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("target", nargs="*", help=f"of {', '.join(TARGETS)}; none: all of them")
    parser.add_argument("--seconds", type=int, default=600, metavar="N", help="for all of them together")
    parser.add_argument("--folder", type=Path, default=ROOT / ".fuzz", help="keeps what is found, and what was learned")
    parser.add_argument("--replay", type=Path, nargs="+", metavar="FILE", help="run the one target on these and end")
    args = parser.parse_args(argv)
    if unknown := set(args.target) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    names = args.target or list(TARGETS)
    if args.replay:
        for path in args.replay:
            TARGETS[names[0]].run(path.read_bytes())
        return 0
    if why := lacking():
        print(f"SKIPPED: {why}")
        return 0
    try:
        packages = prepare()
    except subprocess.CalledProcessError as error:
        last = (error.stderr or error.stdout or "").strip().splitlines()[-1:]
        print(f"NOT RUN: {ENVIRONMENT.name} could not be made: {' '.join(last) or error}", file=sys.stderr)
        return NOT_RUN
    args.folder.mkdir(exist_ok=True)
    return 1 if sum([search(name, args.folder, max(1, args.seconds // len(names)), packages) for name in names]) else 0


def lacking() -> str:
    """Why there is no atheris for this interpreter; empty if there is."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"atheris has wheels for Linux on x86_64, this is {sys.platform} on {platform.machine()}"
    if not (3, 11) <= sys.version_info < (3, 14):
        return f"atheris has wheels for Python 3.11 to 3.13, this is {platform.python_version()}"
    return ""


def prepare() -> Path:
    """The folder with atheris; made anew when the lock or the Python has changed. Raises CalledProcessError."""
    ready = ENVIRONMENT / ".ready"
    made_of = f"{sys.version_info[:2]} {hashlib.sha256(LOCK.read_bytes()).hexdigest()}"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = ENVIRONMENT / "lib" / version / "site-packages"
    if ready.exists() and ready.read_text() == made_of:
        return packages
    print(f"preparing {ENVIRONMENT.name}, once", file=sys.stderr, flush=True)
    inside = str(ENVIRONMENT / "bin/python")
    for step in (
        (sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)),
        (inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes",
         "--only-binary", ":all:", "-r", str(LOCK)),
    ):  # fmt: skip
        subprocess.run(step, capture_output=True, text=True, check=True)
    ready.write_text(made_of)
    return packages


def search(name: str, folder: Path, seconds: int, packages: Path) -> int:
    """Run one target, say what it did; the number of inputs that were found."""
    before = set(folder.glob(f"{name}-*"))
    for path in folder.glob(f"slow-{name}-*"):
        path.unlink()
    done = subprocess.run(
        [sys.executable, "-m", "fuzz.child", name, str(folder), str(seconds)],
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'tests'}:{packages}"},
        capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    runs = re.search(r"number_of_executed_units:\s*(\d+)", said)
    found = sorted(set(folder.glob(f"{name}-*")) - before)
    # Coverage costs time, too: what is slow without it counts.
    waits = [path for path in sorted(folder.glob(f"slow-{name}-*")) if slow(TARGETS[name].run, path.read_bytes())]
    count = f"{int(runs[1]):,} inputs" if runs else "ended early"
    print(f"{name:9} {count} in {seconds} s, {len(found)} failed, {len(waits)} took longer than 50 ms", flush=True)
    if done.returncode and not found:
        print(said[-4000:])
        return 1 + len(waits)
    for path in found:
        print(f"  failed: {path}")
    if found:
        print(re.sub(r"(?m)^", "  ", said[said.rfind("Traceback") :][:4000]))
    for path in waits:
        print(f"  slow: {path}")
    return len(found) + len(waits)


if __name__ == "__main__":
    sys.exit(main())
