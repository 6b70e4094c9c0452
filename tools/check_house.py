"""The house's own rules that no other tool knows, for `make lint`: one line per problem, exit status 1 if there is one.

- no file of code is longer than LINES_MAX
- ARCHITECTURE.md names every module of src
- no tracked file names a package registry, an index address or a folder of one machine
- the generated pages of docs/reference are what the code says
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import reference

ROOT = Path(__file__).parents[1]
PACKAGE = "src/kafka_webhook_bridge"
LINES_MAX = 600
CODE = ("src/", "tests/", "tools/", "benchmarks/")
CODE_ENDINGS = (".py", ".c", ".go", ".sql", ".sh")

# Written as expressions, so that this file does not contain what it looks for.
FORBIDDEN: dict[str, re.Pattern[str]] = {
    "a registry's host name": re.compile(
        r"pypi\.org|pythonhosted\.org|repo1?\.maven\.(org|apache\.org)|registry\.npmjs\.|proxy\.golang\.org|"
        r"index\.docker\.io|conda\.anaconda\.org"
    ),
    "an index address": re.compile(r"--(extra-)?index-url[ =]|--find-links[ =]|--trusted-host[ =]"),
    "a folder of one machine": re.compile(r"(?<![\w.~*-])/(home|Users)/\w|(?<![\w.~*-])/(root|work|workspace)/\w"),
}
# The data of tests holds what senders send.
UNREAD = ("tests/data/", "LICENSE")
REQUIREMENTS = re.compile(r"https?://|@ file:|--index|--find")


def main() -> int:
    """Print the problems."""
    problems = [
        *long_files(ROOT, tracked(ROOT)),
        *unnamed_modules(tracked(ROOT), (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")),
        *forbidden_names(ROOT, tracked(ROOT)),
        *reference.stale(),
    ]
    for problem in problems:
        print(problem)
    return 1 if problems else 0


def tracked(root: Path) -> list[str]:
    """Every file of the repository that is, or could be, committed and still exists."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return sorted(name for name in listed.stdout.split("\0") if name and (root / name).is_file())


def long_files(root: Path, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        if name.startswith(CODE) and name.endswith(CODE_ENDINGS):
            lines = (root / name).read_bytes().count(b"\n")
            if lines > LINES_MAX:
                yield f"{name}: {lines} lines, {LINES_MAX} at most; a room that grows becomes a folder"


def modules(names: Iterable[str]) -> list[str]:
    """Modules of the package as ARCHITECTURE.md writes them: `kafka/producer.py`. Empty files are none."""
    found = [name.removeprefix(f"{PACKAGE}/") for name in names if name.startswith(PACKAGE) and name.endswith(".py")]
    return [name for name in found if (ROOT / PACKAGE / name).stat().st_size]


def unnamed_modules(names: Iterable[str], architecture: str) -> Iterator[str]:
    """Modules without a line in ARCHITECTURE.md, and lines without a module."""
    here = set(modules(names))
    said = set(re.findall(r"^\| `([a-z_/]+\.py)` \|", architecture, re.MULTILINE))
    for name in sorted(here - said):
        yield f"ARCHITECTURE.md: does not name {name}; one line says what it is"
    for name in sorted(said - here):
        yield f"ARCHITECTURE.md: names {name}, which does not exist"


def forbidden_names(root: Path, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        patterns = {"an address": REQUIREMENTS} if name.startswith("requirements/") else FORBIDDEN
        if name.startswith(UNREAD):
            continue
        try:
            text = (root / name).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            for what, pattern in patterns.items():
                if found := pattern.search(line):
                    yield f"{name}:{number}: {what}: {found[0].strip()}"


if __name__ == "__main__":
    sys.exit(main())
