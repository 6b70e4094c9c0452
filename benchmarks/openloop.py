"""Drives generator/openloop.c: compiles it once, runs it at a rate, reads what it found."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results import HERE, WORK, NotRunError

SOURCE = HERE / "generator" / "openloop.c"
BINARY = WORK / "openloop"
BODY_BYTES = 1024
P99_MS_MAX = 300.0
_ID_PLACE = "@" * 16


def build() -> None:
    """Compiles the generator when its source is newer than the binary. Raises NotRunError."""
    if BINARY.exists() and BINARY.stat().st_mtime > SOURCE.stat().st_mtime:
        return
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise NotRunError(
            "the load generator needs a C compiler (cc, gcc or clang): install one, for example build-essential"
        )
    WORK.mkdir(exist_ok=True)
    subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-o", str(BINARY), str(SOURCE), "-lm"], check=True)


def shopify_like(path: str, username: str, password: str) -> bytes:
    """The measured request: 1 KiB of JSON with a place for the id, Basic credentials, twelve header lines."""
    line = '{"sku":"SKU-000123","title":"A product title","quantity":2,"price":"19.99","tax":"3.80"}'
    head = f'{{"id":"{_ID_PLACE}","created_at":"2025-01-31T12:00:00Z","currency":"EUR","lines":['
    body = head + ",".join([line] * 10) + "]"
    body = body + " " * (BODY_BYTES - len(body) - 1) + "}"
    assert len(body) == BODY_BYTES
    headers = {
        "Host": "127.0.0.1",
        "User-Agent": "Shopify-Captain-Hook",
        "Content-Length": str(len(body)),
        "Accept": "*/*",
        "Accept-Encoding": "gzip;q=1.0,deflate;q=0.6,identity;q=0.3",
        "Content-Type": "application/json",
        "Authorization": "Basic " + b64encode(f"{username}:{password}".encode()).decode(),
        "X-Shopify-Topic": "orders/updated",
        "X-Shopify-Shop-Domain": "a-shop.example",
        "X-Shopify-Hmac-Sha256": "XWmrwMey6OsLMeiZKwP4FppHH3cmAiiJJAweH5Jo4bM=",
        "X-Shopify-Webhook-Id": "b54557e4-bdd9-4b37-8a5f-bf7d70bcd043",
        "X-Shopify-Triggered-At": "2025-01-31T12:00:00.123456789Z",
    }
    assert len(headers) == 12
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n{body}".encode()


@dataclass(frozen=True, slots=True)
class Load:
    """One run of the generator. Latencies in ms from the moment that a request was due."""

    offered_per_second: int
    facts: dict[str, Any]
    p99_ms_max: float = P99_MS_MAX

    @property
    def acked(self) -> int:
        """Requests answered 2xx, those of the warm-up included."""
        return int(self.facts["acked"])

    @property
    def latency_ms(self) -> dict[str, float]:
        return dict(self.facts["latency_ms"])

    @property
    def errors(self) -> int:
        """Requests that were due and not answered 2xx."""
        return int(self.facts["sent"] - self.facts["acked"] + self.facts["unsent"])

    @property
    def good(self) -> bool:
        return self.acked > 0 and self.errors == 0 and self.latency_ms["p99"] <= self.p99_ms_max


@dataclass(frozen=True, slots=True)
class Generator:
    """Where the load goes, from which core (`cpu` None lets the kernel choose), and what p99 is good."""

    port: int
    request: Path
    cpu: int | None = None
    connections: int = 256
    p99_ms_max: float = P99_MS_MAX

    def _command(self, rate: int, seconds: float, warm_up: float, connections: int | None = None) -> list[str]:
        command = [str(BINARY), "--port", str(self.port), "--request", str(self.request), "--rate", str(rate)]
        command += ["--seconds", str(seconds), "--warm-up", str(warm_up), "--seed", str(int.from_bytes(os.urandom(3)))]
        command += ["--connections", str(connections or self.connections), "--run", os.urandom(2).hex()]
        return command if self.cpu is None else [*command, "--cpu", str(self.cpu)]

    def run(self, rate: int, seconds: float, warm_up: float = 1.0) -> Load:
        """`warm_up` seconds at the same rate come first and are not in the latencies."""
        done = subprocess.run(
            self._command(rate, seconds, warm_up),
            capture_output=True,
            text=True,
            check=True,
            timeout=seconds + warm_up + 60,
        )
        return Load(rate, json.loads(done.stdout), self.p99_ms_max)

    @contextmanager
    def idle_connections(self, connections: int) -> Iterator[Load]:
        """Every connection has carried a request or two and stays open, silent, inside the block."""
        command = [*self._command(connections, 2, 0, connections), "--wait-for-stdin"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            assert process.stdin
            yield Load(connections, json.loads(process.stdout.readline()))
            process.stdin.close()
