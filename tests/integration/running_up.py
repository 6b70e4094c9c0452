"""`kwb up` as a child process, as a person meets it: started, read, interrupted, killed."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")
WAIT_S = 60.0
KWB = [sys.executable, "-m", "kafka_webhook_bridge.cli"]
# Nothing of the project that these tests are started in.
CLEAN = {
    name: value for name, value in os.environ.items() if not name.startswith(("KWB_", "KAFKA_", "WEBHOOK_", "DATABASE"))
}


def eventually(condition: Callable[[], T], what: str, wait_s: float = WAIT_S) -> T:
    """The first true answer of `condition`."""
    deadline = time.monotonic() + wait_s
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not within {wait_s:.0f} s: {what}"
        time.sleep(0.05)
    return answer


class RunningUp:
    """`kwb up --json` on `folder`. `ready` is its first message, `said` everything on standard error."""

    def __init__(self, folder: Path, *options: str, free_ports: bool = True, argv: tuple[str, ...] = (),
                 **environ: str) -> None:  # fmt: skip
        self.folder = folder
        ports = ["--free-ports"] if free_ports else []
        self._errors = folder.parent / f"{folder.name}.stderr"
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [*argv, *KWB, "up", "--json", "--dir", str(folder), *ports, *options],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, env={**CLEAN, **environ},
                cwd=folder.parent, start_new_session=True,
            )  # fmt: skip
        self._messages: queue.Queue[dict[str, Any]] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.ready: dict[str, Any] = {}

    def _read(self) -> None:
        assert self.process.stdout is not None
        with contextlib.closing(self.process.stdout) as lines:
            for line in lines:
                self._messages.put(json.loads(line))

    @property
    def said(self) -> str:
        return self._errors.read_text()

    def wait_ready(self) -> RunningUp:
        self.ready = self.hear(lambda message: message["event"] == "ready")
        return self

    def hear(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The next message that is `wanted`; others are dropped."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            with contextlib.suppress(queue.Empty):
                message = self._messages.get(timeout=0.1)
                if wanted(message):
                    return message
                continue
            assert self.process.poll() is None, f"kwb up ended with {self.process.returncode}: {self.said}"
        raise AssertionError(f"nothing of the kind was said in time: {self.said}")

    def end(self, sign: signal.Signals = signal.SIGINT) -> int:
        """Its exit code after `sign`."""
        if self.process.poll() is None:
            self.process.send_signal(sign)
        code = self.process.wait(WAIT_S)
        self._reader.join(WAIT_S)
        return code

    def env(self) -> dict[str, str]:
        """What a shell has after `. env`."""
        done = subprocess.run(
            ["/bin/sh", "-c", '. "$1" && env -0', "sh", str(self.folder / "env")],
            env={"PATH": os.defpath}, capture_output=True, check=True, text=True,
        )  # fmt: skip
        return dict(pair.split("=", 1) for pair in done.stdout.split("\0") if pair)

    def post(self, path: str, body: bytes = b"{}", *, password: str | None = None, method: str = "POST",
             headers: Mapping[str, str] | None = None) -> tuple[int, dict[str, Any]]:  # fmt: skip
        """Status and JSON of a webhook with the printed credentials."""
        login = self.ready["webhook"]
        pair = f"{login['username']}:{login['password'] if password is None else password}"
        url = urlsplit(self.ready["url"])
        connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=10)
        with contextlib.closing(connection):
            authorization = {"Authorization": "Basic " + base64.b64encode(pair.encode()).decode()}
            connection.request(method, path, body, authorization | dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def accepted(self, path: str, body: bytes = b"{}") -> dict[str, Any]:
        """The receipt, once one is given: a server may just be coming back."""

        def attempt() -> dict[str, Any] | None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                status, answer = self.post(path, body)
                return answer if status == 200 else None
            return None

        return eventually(attempt, f"{path} accepted")

    def tree(self) -> set[int]:
        """`kwb up` and every process that it has started: servers, their own children, guards."""
        return tree(self.process.pid)


def tree(root: int) -> set[int]:
    """`root` and its descendants."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


@contextlib.contextmanager
def up(folder: Path, *options: str, **extra: Any) -> Iterator[RunningUp]:
    """Started and ready; ended at the end, whatever happens."""
    running = RunningUp(folder, *options, **extra)
    try:
        yield running.wait_ready()
    finally:
        if running.process.poll() is None:
            running.end()


def refused(folder: Path, *options: str, **extra: Any) -> str:
    """What `kwb up` says when it cannot start; it must say it in words and end with 1."""
    running = RunningUp(folder, *options, **extra)
    try:
        code = running.process.wait(WAIT_S)
    finally:
        running.end(signal.SIGKILL)
    assert "Traceback" not in running.said
    assert code == 1, running.said
    error = json.loads(running.said.splitlines()[-1])["error"]
    assert error["code"] == "stack.failed"
    assert error["hint"]
    return f"{error['message']}\n{error['hint']}"


def gone(pids: set[int]) -> bool:
    """Whether none of them runs any more (zombies that nobody has waited for count as gone)."""
    for pid in pids:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX":
                return False
    return True
