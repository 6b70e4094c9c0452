"""`kwb serve` as a child: the third server of `kwb up`, and what tests and benchmarks send webhooks to."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import ssl
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from kafka_webhook_bridge.errors import StackError
from kafka_webhook_bridge.settings import load_settings
from kafka_webhook_bridge.stack.files import make_folder
from kafka_webhook_bridge.stack.ports import check_free, free_ports
from kafka_webhook_bridge.stack.process import Process, end_leftover
from kafka_webhook_bridge.stack.server import Server

START_TIMEOUT_S = 30.0
_STOP_MARGIN_S = 5.0
_DEGRADED_WAIT_S = 3.0
_ANYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - the address to dial, not to bind


class Bridge(Server):
    """One supervisor with its workers. The environment that it runs in is its whole configuration."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        """`environ` as for `kwb serve`. Ports that are 0 there become free ones here, so that they are known."""
        settings = load_settings(environ)
        self.folder = folder
        self.port = settings.ingest.port or free_ports(1)[0]
        self.management_port = settings.management.port or free_ports(1)[0]
        self.host = _ANYWHERE.get(settings.ingest.host, settings.ingest.host)
        self.management_host = _ANYWHERE.get(settings.management.host, settings.management.host)
        self.log = folder / "serve.log"
        self.environ = {
            **environ,
            "KWB_INGEST_PORT": str(self.port),
            "KWB_MANAGEMENT_PORT": str(self.management_port),
        }
        self._share_port = settings.ingest.share_port
        self._drain_s = settings.ingest.drain_timeout_ms / 1000
        self._tls = bool(settings.ingest.tls_cert)
        self._pid_file = folder / "serve.pid"
        self._process = Process(
            "The bridge",
            pid_file=self._pid_file,
            log=self.log,
            stop_signal=signal.SIGTERM,
            stop_timeout_s=self._drain_s + _STOP_MARGIN_S,
        )

    @property
    def url(self) -> str:
        """Where webhooks go, without a slash at its end."""
        return f"{'https' if self._tls else 'http'}://{_bracketed(self.host)}:{self.port}"

    @property
    def management_url(self) -> str:
        return f"http://{_bracketed(self.management_host)}:{self.management_port}"

    def launch(self) -> None:
        """As `start`, without the wait."""
        self.clear_the_way()
        # The working folder stays: paths of the configuration are relative to it.
        self._process.start(
            [sys.executable, "-m", "kafka_webhook_bridge.cli", "serve"], env=self.environ, cwd=Path.cwd()
        )

    def clear_the_way(self) -> None:
        """End what an earlier, killed run left behind. Raises StackError when a port is taken by another program."""
        make_folder(self.folder, to_pass=True)
        end_leftover(self._pid_file, signal.SIGTERM)
        ports = [(self.management_port, "management", "management-port")]
        if not self._share_port:
            ports.insert(0, (self.port, "webhooks", "port"))
        # The workers of a supervisor that was killed drain before they leave the port.
        deadline = time.monotonic() + (0 if self.pid is None else self._drain_s)
        while True:
            try:
                check_free(*ports)
            except StackError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Until /health/ready says `ready`, or goes on saying `degraded`: PostgreSQL is away, or not asked yet.

        Raises StackError with the bridge's own words when it ends.
        """
        deadline = time.monotonic() + timeout_s
        degraded_at: float | None = None
        while True:
            status = self._status()
            if status == "ready":
                return
            if status == "degraded":
                degraded_at = degraded_at or time.monotonic()
                if not self.environ.get("DATABASE_URL") or time.monotonic() > degraded_at + _DEGRADED_WAIT_S:
                    return
            if not self.alive:
                raise self.failure()
            if time.monotonic() > deadline:
                raise StackError(f"The bridge was not ready after {timeout_s:.0f} s.", hint=f"Its log: {self.log}")
            time.sleep(0.02)

    def _status(self) -> str:
        """The word of /health/ready, empty where nobody answers."""
        unverified = ssl._create_unverified_context() if self._tls else None  # noqa: S323 - ourselves, on loopback
        connection: http.client.HTTPConnection = (
            http.client.HTTPSConnection(self.host, self.port, timeout=1, context=unverified)
            if self._tls
            else http.client.HTTPConnection(self.host, self.port, timeout=1)
        )
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            connection.request("GET", "/health/ready")
            return str(json.loads(connection.getresponse().read()).get("status"))
        return ""

    def failure(self) -> StackError:
        """Why it is not running: what it said last, or how it ended."""
        lines = self._process.log_since_start().splitlines()
        said = [line.removeprefix("error: ") for line in lines if line.startswith(("error: ", "       "))]
        hints = [line.removeprefix("hint: ") for line in lines if line.startswith("hint: ")]
        reason = ": " + "\n".join(line.strip() for line in said) if said else "."
        return StackError(
            f"The bridge {self._process.why_it_ended()}{reason}", hint=hints[-1] if hints else f"Its log: {self.log}"
        )


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
