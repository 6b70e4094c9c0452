"""The container's probe, as an engine runs it: a process with an exit status and one line."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

READY = b'{"status":"ready","parts":{"kafka":{"status":"ready","reason":""}}}'
DOWN = b'{"status":"unavailable","parts":{"kafka":{"status":"unavailable","reason":"no broker\\n answers"}}}'


def probe(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "kafka_webhook_bridge.health", *arguments],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stderr == "" or done.returncode == 2, done.stderr
    return done.returncode, done.stdout


@contextmanager
def answering(answer: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """A port that takes one connection, reads what is asked, and writes this."""
    asked: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                asked.append(connection.recv(65_536))
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield str(listener.getsockname()[1]), asked
        thread.join(60)


def http(status: str, body: bytes) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def test_well() -> None:
    with answering(http("200 OK", READY)) as (port, asked):
        assert probe("--port", port) == (0, "200 ready\n")
    assert asked[0].startswith(b"GET /health/live HTTP/1.1\r\n")


def test_unwell_says_why_on_one_line() -> None:
    with answering(http("503 Service Unavailable", DOWN)) as (port, asked):
        assert probe("--port", port, "--path", "/health/ready") == (1, "503 unavailable; kafka: no broker  answers\n")
    assert asked[0].startswith(b"GET /health/ready HTTP/1.1\r\n")


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-x\r\n", http("302 Found", b"")])
def test_what_is_no_answer_is_unwell(answer: bytes) -> None:
    with answering(answer) as (port, _):
        status, line = probe("--port", port)
    assert status == 1
    assert line.count("\n") == 1


@pytest.mark.parametrize("body", [b"[]", b"null", b'{"parts": {"a": 1}}', b"<html>", b"\xff", b'{"parts": []}'])
def test_the_status_counts_whatever_the_body(body: bytes) -> None:
    with answering(http("200 OK", body)) as (port, _):
        assert probe("--port", port)[0] == 0


def test_nobody_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = str(taken.getsockname()[1])
        status, line = probe("--port", port)
    assert status == 1
    assert f"127.0.0.1:{port}/health/live does not answer: " in line


def test_it_imports_nothing_heavy() -> None:
    """An engine starts it every few seconds in a container with little memory."""
    code = (
        "import sys, kafka_webhook_bridge.health; "
        "print(*sorted(m for m in sys.modules if m.partition('.')[0] not in sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:  # an editable installation needs site
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    heavy = ("kafka_webhook", "pydantic", "confluent", "typer")
    ours = [name for name in done.stdout.split() if name.startswith(heavy)]
    assert ours == ["kafka_webhook_bridge", "kafka_webhook_bridge.health"]
