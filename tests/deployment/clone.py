"""A fresh clone of the repository for the tests of tools/, with a stand-in for Docker."""

from __future__ import annotations

import base64
import json
import random
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import compose_env
from compose_env import parse, scram_verifier

ROOT = Path(__file__).parents[2]
EVERYTHING = ["console", "ingest", "kafka", "nginx", "postgres", "worker"]
SECRETS = {
    "console_password", "database_password", "database_url", "kafka_password", "postgres_password", "webhook_password",
}  # fmt: skip


class Clone:
    """A fresh clone, and a stand-in for Docker on PATH; without one when `docker` is taken away."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "clone"
        self.bin = folder / "bin"
        self.address = f"127.{random.randint(2, 250)}.{random.randint(2, 250)}.1"  # its ports are nobody else's
        self._state = folder / "docker.json"
        for name in ("tools/local_stack.py", "tools/compose_env.py", "compose.yaml", "Makefile", "pyproject.toml",
                     "src/kafka_webhook_bridge/__init__.py"):  # fmt: skip
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.root / name)
        shutil.copytree(ROOT / "deploy", self.root / "deploy")
        subprocess.run(["chmod", "-R", "a+rX", str(self.root / "deploy")], check=True)
        self.bin.mkdir()
        for tool in ("make", "sh", "rm", "git", "awk"):
            if found := shutil.which(tool):
                (self.bin / tool).symlink_to(found)
        self.docker = self.bin / "docker"
        stand_in = Path(__file__).with_name("docker_stand_in.py")
        self.docker.write_text(f'#!/bin/sh\nexec {sys.executable} -IS {stand_in} "$@"\n')
        self.docker.chmod(0o755)
        self.state(volumes=[], running=[], calls=[], roles={}, held={}, images=["kafka-webhook-bridge:local"])

    def state(self, **changed: Any) -> dict[str, Any]:
        """What the stand-in knows; with arguments, changed."""
        known: dict[str, Any] = json.loads(self._state.read_text()) if self._state.exists() else {}
        if changed:
            known.update(changed)
            self._state.write_text(json.dumps(known))
        return known

    def bring_up(self) -> None:
        """With all data that a stack has."""
        assert self.make("env").returncode == 0
        assert self.run([str(self.docker), "compose", "up"]).returncode == 0
        assert self.state()["running"] == EVERYTHING
        self.state(volumes=["kwb_authority", "kwb_kafka", "kwb_postgres"], calls=[])

    def make(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run(["make", *arguments, f"PYTHON={sys.executable}"], **environment)

    def rotate(self, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
        """Without make between, so that the stand-in can end it."""
        return self.run([python, "tools/compose_env.py", "rotate"])

    def run(self, command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.root, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60,
            env={"PATH": str(self.bin), "STAND_IN": str(self._state), "KWB_BIND": self.address, **environment},
        )  # fmt: skip

    def env(self, name: str = ".env") -> dict[str, str]:
        return parse((self.root / name).read_text())

    def edit(self, **values: str) -> None:
        path = self.root / ".env"
        path.write_text(compose_env.with_values(path.read_text(), values))

    def secret(self, name: str) -> Path:
        return self.root / ".kwb/compose/secrets" / name

    def agree(self) -> dict[str, str]:
        """The values of .env, once files, PostgreSQL, bridge and Kafka are found to hold the same."""
        values, state = self.env(), self.state()
        files = compose_env.secret_files(values)
        assert {name: self.secret(name).read_text() for name in SECRETS} == files
        assert matches(state["roles"]["postgres"], values["POSTGRES_PASSWORD"])
        assert matches(state["roles"]["kwb"], values["DATABASE_PASSWORD"])
        for service in {"ingest", "worker", "console", "kafka"} & set(state["running"]):
            held = state["held"][service]
            assert held == {name: files[name] for name in held}, f"{service} goes on with another"
        assert not (self.root / ".env.new").exists()
        return values


def matches(verifier: str, password: str) -> bool:
    if not verifier.startswith("SCRAM-"):
        return verifier == password  # as the entry point of the image gave it
    salt = re.fullmatch(r"SCRAM-SHA-256\$4096:([^$]+)\$.+", verifier)
    assert salt, verifier
    return scram_verifier(password, base64.b64decode(salt[1])) == verifier


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
