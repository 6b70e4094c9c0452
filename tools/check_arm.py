"""`make check-arm`: every wheel of requirements/aws.txt can be had for the image's Python on aarch64, with its hash.

Nothing is run or built for that platform: pip downloads what the image's build would install there.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Debian 12, the oldest base that the image is built on, has glibc 2.36.
GLIBC_MINORS = range(17, 37)


def main() -> int:
    """pip's exit status."""
    version = re.search(r"^ARG PYTHON_IMAGE=python:(\d+\.\d+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert version, "Dockerfile names its Python"
    platforms = ["manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in GLIBC_MINORS)]
    short = f"cp{version[1].replace('.', '')}"
    with tempfile.TemporaryDirectory(prefix="kwb-arm64-") as folder:
        done = subprocess.run(
            [
                sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--dest", folder,
                "--no-deps", "--require-hashes", "--only-binary", ":all:", "-r", str(ROOT / "requirements/aws.txt"),
                "--python-version", version[1], "--implementation", "cp", "--abi", short, "--abi", "abi3",
                "--abi", "none", *(word for name in platforms for word in ("--platform", name)),
            ],
            check=False,
        )  # fmt: skip
        wheels = sorted(path.name for path in Path(folder).glob("*.whl"))
    if done.returncode == 0:
        native = sum("aarch64" in name for name in wheels)
        print(f"Python {version[1]} on aarch64: {len(wheels)} wheels, {native} of them native")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
