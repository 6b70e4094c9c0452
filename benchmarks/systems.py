"""The systems that are compared: each answers webhooks after Kafka's acknowledgement, each runs on one core."""

from __future__ import annotations

import http.client
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from processes import Resident, resident
from results import HERE, WORK, NotRunError
from topics import Cluster

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 20.0


class System(Protocol):
    """One contestant."""

    name: str

    def build(self) -> None:
        """Raises NotRunError."""

    def command(self, port: int) -> list[str]: ...

    def environ(self, cluster: Cluster, topic: str, port: int, login: Login) -> dict[str, str]: ...

    def worker(self, command: str) -> bool:
        """Whether the process with this command line answers webhooks."""
        ...


@dataclass(frozen=True, slots=True)
class Login:
    """Basic credentials of one run."""

    username: str = "benchmark"
    password: str = field(default_factory=lambda: secrets.token_urlsafe(16), repr=False)

    @property
    def header(self) -> str:
        return "Basic " + b64encode(f"{self.username}:{self.password}".encode()).decode()


@dataclass(frozen=True, slots=True)
class Bridge:
    """`kwb serve` with one worker and nothing switched off."""

    stack_environ: dict[str, str]
    name: str = "bridge"
    role: str = "ingest"

    def build(self) -> None:
        if not (Path(sys.executable).parent / "kwb").exists():
            raise NotRunError("`kwb` is not installed beside this Python")

    def command(self, port: int) -> list[str]:
        return [str(Path(sys.executable).parent / "kwb"), "serve", "--role", self.role, "--workers", "1"]

    def environ(self, cluster: Cluster, topic: str, port: int, login: Login) -> dict[str, str]:
        return {
            **self.stack_environ,
            "WEBHOOK_USERNAME": login.username,
            "WEBHOOK_PASSWORD": login.password,
            "KWB_CONFIG": f"sources:\n  {topic}:\n    auth: basic\n",
            "KWB_INGEST_PORT": str(port),
            "KWB_MANAGEMENT_PORT": "0",
        }

    def worker(self, command: str) -> bool:
        return "app.child ingest" in command


@dataclass(frozen=True, slots=True)
class GoFranz:
    """rivals/gofranz. One linger suits one end only, so it may enter twice."""

    linger: str

    @property
    def name(self) -> str:
        return f"go-{self.linger}"

    def build(self) -> None:
        if shutil.which("go") is None:
            raise NotRunError("no Go tool chain here (https://go.dev/dl/)")
        folder = HERE / "rivals" / "gofranz"
        done = subprocess.run(
            ["go", "build", "-o", str(WORK / "gofranz"), "."], cwd=folder, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise NotRunError(f"`go build` failed: {(done.stderr.strip() or 'no reason given').splitlines()[-1]}")

    def command(self, port: int) -> list[str]:
        return [str(WORK / "gofranz"), f"127.0.0.1:{port}"]

    def environ(self, cluster: Cluster, topic: str, port: int, login: Login) -> dict[str, str]:
        return {
            "RIVAL_BOOTSTRAP": cluster.bootstrap,
            "RIVAL_KAFKA_USERNAME": cluster.username,
            "RIVAL_KAFKA_PASSWORD": cluster.password,
            "RIVAL_USERNAME": login.username,
            "RIVAL_PASSWORD": login.password,
            "RIVAL_LINGER": self.linger,
        }

    def worker(self, command: str) -> bool:
        return "gofranz" in command


@dataclass(frozen=True, slots=True)
class Running:
    """A started system."""

    system: System
    pid: int
    port: int
    login: Login

    def worker_mib(self) -> float:
        """Resident memory of the process that answers."""
        return self.worker().mib

    def worker(self) -> Resident:
        """The process that answers."""
        return next(process for process in resident(self.pid) if self.system.worker(process.command))


@contextmanager
def running(system: System, cluster: Cluster, topic: str, cpu: int | None) -> Iterator[Running]:
    """The system, answering webhooks for `topic`, on core `cpu`. It is drained and stopped at the end."""
    port, login, log = _free_port(), Login(), WORK / "logs" / f"{system.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    pin = [] if cpu is None or shutil.which("taskset") is None else ["taskset", "-c", str(cpu)]
    environ = {**os.environ, **system.environ(cluster, topic, port, login)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*pin, *system.command(port)], env=environ, stdout=output, stderr=output, start_new_session=True
        )
    try:
        _await_accepted(process, port, topic, login, log)
        yield Running(system, process.pid, port, login)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _await_accepted(process: subprocess.Popen[bytes], port: int, topic: str, login: Login, log: Path) -> None:
    deadline, last = time.monotonic() + _START_TIMEOUT_S, "no answer"
    while time.monotonic() < deadline and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("POST", f"/{topic}", b"{}", {"Authorization": login.header})
            answer = connection.getresponse()
            if answer.status == 200:
                return
            last = f"{answer.status} {answer.read(200)!r}"
        except OSError as error:
            last = str(error)
        finally:
            connection.close()
        time.sleep(0.05)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
    raise SystemExit(f"{log.stem} does not accept webhooks (last: {last}); the end of its log:\n{tail}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
