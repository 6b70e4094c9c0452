"""Node's packages for the tests, as tests/npm/package-lock.json has them with their hashes, installed once in a cache.

After a change of package.json: `npm install --package-lock-only --omit-lockfile-registry-resolved=true` there.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

LOCK = Path(__file__).parent / "npm/package-lock.json"
CACHE = Path.home() / ".cache/kafka-webhook-bridge"
INSTALL_S_MAX = 240
_UNREACHED = {"ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ENETUNREACH", "ETIMEDOUT", "EHOSTUNREACH"}


def node_path() -> str:
    """NODE_PATH with the packages. Skips the test where Node, npm or the registry is missing."""
    if missing := [name for name in ("node", "npm") if shutil.which(name) is None]:
        pytest.skip(f"NOT RUN: {' and '.join(missing)} not installed (Debian and Ubuntu: apt-get install nodejs npm)")
    done = CACHE / f"npm-{hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]}"
    if not done.exists():
        _install(done)
    return str(done / "node_modules")


def _install(done: Path) -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="npm-", dir=CACHE) as name:
        folder = Path(name) / "packages"
        shutil.copytree(LOCK.parent, folder)
        told = subprocess.run(
            ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=INSTALL_S_MAX, check=False,
        )  # fmt: skip
        code = re.search(r"npm (?:error|ERR!) code (\w+)", told.stderr)
        if told.returncode and code and code[1] in _UNREACHED:
            pytest.skip(f"NOT RUN: npm does not reach its registry ({code[1]})")
        assert told.returncode == 0, told.stderr
        with contextlib.suppress(OSError):  # another run was quicker
            folder.rename(done)
    assert (done / "node_modules").is_dir()
