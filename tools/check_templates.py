"""Checkov's opinion on aws/templates: `python tools/check_templates.py [folder]`.

Its pins bear no other package beside them, so it lives in an environment of its own, `.venv-checkov`, made from
requirements/checkov.txt and kept for the next time. What it may pass over, and why, stands in aws/checkov.yaml and in
the Metadata of the templates' resources.

Exit status 0 when it finds nothing, 1 when it does, 3 when it could not be run at all.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements/checkov.txt"
ENVIRONMENT = ROOT / ".venv-checkov"
NOT_RUN = 3


def main(arguments: list[str]) -> int:
    """Findings on standard output, as checkov writes them."""
    folder = Path(arguments[0]) if arguments else ROOT / "aws/templates"
    try:
        checkov = prepare()
    except subprocess.CalledProcessError as error:
        last = (error.stderr or error.stdout or "").strip().splitlines()[-1:]
        print(f"NOT RUN: {ENVIRONMENT.name} could not be made: {' '.join(last) or error}", file=sys.stderr)
        return NOT_RUN
    done = subprocess.run(
        [checkov, "--config-file", ROOT / "aws/checkov.yaml", "--directory", folder],
        cwd=ROOT, env={**os.environ, "LOG_LEVEL": "ERROR"}, check=False,
    )  # fmt: skip
    return 1 if done.returncode else 0


def prepare() -> Path:
    """Checkov's command; its environment is made anew when the lock has changed. Raises CalledProcessError."""
    command, ready = ENVIRONMENT / "bin/checkov", ENVIRONMENT / ".ready"
    lock = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    if ready.exists() and ready.read_text() == lock:
        return command
    print(f"preparing {ENVIRONMENT.name}, once", file=sys.stderr, flush=True)
    inside = str(ENVIRONMENT / "bin/python")
    for step in (
        (sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)),
        (inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "-r", str(LOCK)),
    ):
        subprocess.run(step, capture_output=True, text=True, check=True)
    ready.write_text(lock)
    return command


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
