"""`make sbom`: dist/sbom.cdx.json, the parts of the bridge with versions, licences and who needs whom (CycloneDX).

Made as the image makes its /app/sbom.cdx.json: from an environment with requirements/aws.txt and the bridge alone,
looked at by cyclonedx-py, whose own lock is requirements/build.txt. Reading the environment finds the licences and what
is really installed; a lock has neither. What wheels contain of C libraries is not listed.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "dist/sbom.cdx.json"


def main() -> int:
    """0; what pip or cyclonedx-py say on failure is theirs."""
    OUTPUT.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="kwb-sbom-") as name:
        folder = Path(name)
        app, build = folder / "app", folder / "build"
        for environment, lock in ((app, "aws.txt"), (build, "build.txt")):
            venv.create(environment)
            wanted = ["--require-hashes", "--only-binary", ":all:", "-r", f"requirements/{lock}"]
            install(environment, *wanted)
        run(str(build / "bin/hatchling"), "build", "-t", "wheel", "-d", str(folder / "dist"))
        install(app, "--no-deps", "--no-index", *map(str, (folder / "dist").glob("*.whl")))
        run(
            str(build / "bin/cyclonedx-py"), "environment", "--pyproject", str(named(folder, build)),
            "--mc-type", "application", "--output-reproducible", "--output-format", "JSON",
            "--output-file", str(OUTPUT), str(app / "bin/python"),
        )  # fmt: skip
    print(OUTPUT.relative_to(ROOT))
    return 0


def named(folder: Path, build: Path) -> Path:
    """pyproject.toml with the version in it, which cyclonedx-py cannot find out itself."""
    asked = subprocess.run([build / "bin/hatchling", "version"], cwd=ROOT, capture_output=True, text=True, check=True)
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    path = folder / "pyproject.toml"
    path.write_text(re.sub(r"(?m)^dynamic = .*$", f'version = "{asked.stdout.strip()}"', text), encoding="utf-8")
    return path


def install(environment: Path, *arguments: str) -> None:
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin/python"), "install", "--quiet"]
    run(*pip, "--disable-pip-version-check", *arguments)


def run(*command: str) -> None:
    subprocess.run(command, cwd=ROOT, check=True)


if __name__ == "__main__":
    sys.exit(main())
