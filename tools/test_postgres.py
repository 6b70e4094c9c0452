"""Runs the tests of store and archive on every PostgreSQL that the project supports besides the embedded one.

Its binaries are looked for where Debian's and PostgreSQL's own packages have them, and in the wheel, which brings two
versions; one that is not here is said, never passed over in silence. Exit status 1 when tests fail.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from kafka_webhook_bridge.stack.postgres import POSTGRES_MAJOR, major_of, wheel
from kafka_webhook_bridge.store.pool import SERVER_MAJOR_MIN

ROOT = Path(__file__).parents[1]
PLACES = ("/usr/lib/postgresql/{}/bin", "/usr/pgsql-{}/bin")
# Whatever speaks SQL; `kwb up` brings the embedded one, so its tests say nothing about another.
TESTS = ("archive", "outbox", "relay", "deliver", "retention", "store", "events", "replay", "rebuild", "audit")


def main() -> int:
    """One line per version on standard output."""
    results = {major: run(major) for major in range(SERVER_MAJOR_MIN, int(POSTGRES_MAJOR))}
    print()
    for major, outcome in results.items():
        print(f"PostgreSQL {major}: {outcome}")
    return 1 if "failed" in results.values() else 0


def run(major: int) -> str:
    """`passed`, `failed` or NOT RUN and why."""
    places = [*(Path(place.format(major)) for place in PLACES), wheel("pginstall") / "bin"]
    binaries = next((p for p in places if (p / "initdb").exists() and major_of(p) == str(major)), None)
    if binaries is None:
        return "NOT RUN (it is neither installed nor in the wheel)"
    print(f"\nPostgreSQL {major}: {binaries}", flush=True)
    files = [f for word in TESTS for f in (ROOT / "tests/integration").glob(f"test_*{word}*.py")]
    command = [sys.executable, "-m", "pytest", "-q", f"--postgres={binaries}", *sorted({str(f) for f in files})]
    return "passed" if subprocess.run(command, cwd=ROOT, check=False).returncode == 0 else "failed"


if __name__ == "__main__":
    sys.exit(main())
