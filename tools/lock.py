"""Writes requirements/*.txt: exact versions with hashes, one file for Python 3.11 to 3.13, without any index address.

    base.txt     what the bridge needs
    dev.txt      that, the embedded servers, the clients of AWS and the tools of this repository; `make dev` installs it
    aws.txt      what the image and aws/*.sh need: that, and the clients of AWS
    checkov.txt  the second linter of aws/templates, in an environment of its own
    fuzz.txt     the fuzzer of `make fuzz`, in an environment of its own
    build.txt    what makes the container image and its SBOM, beside the bridge itself
    lock.txt     what makes these files (uv), so that they are made the same way everywhere

uv is installed from lock.txt into an environment that is thrown away. `--upgrade` looks for newer versions; without it
only what pyproject.toml asks for anew is resolved. `--check` writes nothing and ends with 1 when a lock is not what
pyproject.toml asks for.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCKS: dict[str, tuple[str, ...]] = {
    "base.txt": ("pyproject.toml",),
    "dev.txt": ("pyproject.toml", "--extra", "embedded", "--extra", "aws", "--group", "dev"),
    # The versions that the tests have.
    "aws.txt": ("pyproject.toml", "--extra", "aws", "--constraint", "requirements/dev.txt"),
    "checkov.txt": ("--group", "checkov"),
    "fuzz.txt": ("--group", "fuzz"),
    "build.txt": ("--group", "build"),
    "lock.txt": ("--group", "lock"),
}
OLDEST_PYTHON = "3.11"


def main() -> int:
    """Exit status: 0, or 1 when `--check` found a difference."""
    parser = argparse.ArgumentParser(description="Resolve the dependencies, with hashes.")
    parser.add_argument("--upgrade", action="store_true", help="look for newer versions of everything")
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 when a lock is stale")
    given = parser.parse_args()
    requirements = ROOT / "requirements"
    with tempfile.TemporaryDirectory(prefix="kwb-lock-") as folder:
        uv = install_uv(Path(folder) / "venv", requirements / "lock.txt")
        changed = []
        for name, what in LOCKS.items():
            made = Path(folder) / name
            before = (requirements / name).read_text() if (requirements / name).exists() else ""
            made.write_text(before)  # uv keeps the versions of an output that exists
            resolve(uv, what, made, upgrade=given.upgrade)
            if made.read_text() != before:
                changed.append(name)
                if not given.check:
                    (requirements / name).write_text(made.read_text())
            print(f"requirements/{name}: {'changed' if name in changed else 'as it was'}")
    return 1 if given.check and changed else 0


def install_uv(folder: Path, lock: Path) -> Path:
    """uv in an environment of its own; the path of its command."""
    venv.create(folder, with_pip=True)
    wanted = ["--require-hashes", "-r", str(lock)] if lock.exists() else ["uv"]
    python = str(folder / "bin/python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted], check=True)
    return folder / "bin/uv"


def resolve(uv: Path, what: tuple[str, ...], made: Path, *, upgrade: bool) -> None:
    """Write one lock for every Python that is supported and every platform."""
    subprocess.run(
        [
            str(uv), "pip", "compile", "--quiet", "--universal", "--python-version", OLDEST_PYTHON,
            "--generate-hashes", "--no-header", "--no-emit-index-url", "--no-emit-find-links",
            *(["--upgrade"] if upgrade else []), *what, "--output-file", str(made),
        ],
        cwd=ROOT, check=True,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
