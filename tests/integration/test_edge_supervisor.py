"""Processes that die, are told to end, or take a new configuration: no request is left without an answer."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from bridge import WAIT_S, Client, Serve, answers, consume, eventually, request, serving
from kafka_webhook_bridge.stack import Stack

CONFIG = "sources: {s: {auth: none}}"


class Load:
    """Senders with connections of their own until `stop`: each request is sent whole and its answer read."""

    def __init__(self, port: int, *, alive: int = 4, fresh: int = 2, path: str = "/s") -> None:
        self.sent = self.answered = 0
        self.unanswered: list[str] = []
        self.statuses: set[int] = set()
        self._port, self._path = port, path
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(n < alive,)) for n in range(alive + fresh)]
        for thread in self._threads:
            thread.start()

    def _send(self, alive: bool) -> None:
        client: Client | None = None
        while not self._stop.is_set():
            if client is None:
                try:
                    client = Client(self._port)
                except OSError:  # closed for good: nothing was sent
                    return
            with self._lock:
                self.sent += 1
            try:
                answer = client.send(request(self._path, os.urandom(20))).answer()
            except (OSError, AssertionError) as error:
                with self._lock:
                    self.unanswered.append(repr(error))
                client.socket.close()
                client = None
                continue
            with self._lock:
                self.answered += 1
                self.statuses.add(answer.status)
            if answer.closes or not alive:
                client.socket.close()
                client = None
        if client is not None:
            client.socket.close()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(WAIT_S)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_rule_23_a_drain_answers_every_request(stack: Stack, folder: Path, topic: str, workers: str) -> None:
    config = f"sources: {{s: {{auth: none, topic: {topic}}}}}"
    with serving(stack, folder, "--workers", workers, config=config, KWB_INGEST_DRAIN_GRACE_MS="500") as server:
        assert len(server.children()) == int(workers)
        load = Load(server.port)
        eventually(lambda: load.answered > 300, "load")
        keep = server.open()
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: server.health(server.management_port)[1]["status"] == "draining", "draining")
        answer = keep.send(request("/s", b"last")).answer()
        assert (answer.status, answer.closes) == (200, True)
        assert server.process.wait(WAIT_S) == 0
        load.stop()
        keep.socket.close()
    assert (load.unanswered, load.sent) == ([], load.answered)
    assert load.statuses == {200}
    consume(stack.kafka, topic, load.answered + 1)


def test_rule_31_a_killed_worker_comes_back_with_its_socket_and_its_totals(stack: Stack, folder: Path) -> None:
    with serving(stack, folder, config=CONFIG) as server:
        server.expect_faults = True
        eventually(lambda: server.ask(request("/s", b"x")).status == 200, "served")
        before = server.total("kwb_requests_acked_total")
        (first,) = server.children()
        os.kill(first, signal.SIGSTOP)
        with server.open() as client:  # stands in the backlog while nobody serves it
            client.send(request("/s", b"waiting"))
            os.kill(first, signal.SIGKILL)
            assert client.answer().status == 200
        assert server.children() != [first]
        assert server.total("kwb_requests_acked_total") == before + 1
        assert server.total("kwb_worker_restarts_total", role="ingest") == 1


def test_a_worker_that_is_killed_again_and_again_comes_back_as_soon_each_time(stack: Stack, folder: Path) -> None:
    with serving(stack, folder, config=CONFIG) as server:
        server.expect_faults = True
        for _ in range(4):
            eventually(lambda: server.ask(request("/s", b"x")).status == 200, "served")
            eventually(lambda: server.health(server.management_port)[0] == 200, "the supervisor has heard of it")
            (pid,) = server.children()
            os.kill(pid, signal.SIGKILL)
            eventually(lambda pid=pid: server.children() not in ([pid], []), "another one")  # type: ignore[misc]
        assert [line["restart_in_ms"] for line in server.said("child died")] == [100] * 4


def test_a_worker_that_hangs_is_replaced_and_what_waits_for_it_is_answered(stack: Stack, folder: Path) -> None:
    with serving(stack, folder, config=CONFIG) as server:
        server.expect_faults = True
        eventually(lambda: server.ask(request("/s", b"x")).status == 200, "served")
        (first,) = server.children()
        os.kill(first, signal.SIGSTOP)
        with server.open() as client:
            client.send(request("/s", b"waiting"))
            eventually(lambda: server.health(server.management_port)[0] == 503, "told by health")
            assert client.answer().status == 200
        assert server.children() != [first]
        assert server.said("child hangs")


def test_rule_23_a_worker_that_alone_is_told_to_end_is_replaced_on_the_same_port(stack: Stack, folder: Path) -> None:
    with serving(stack, folder, config=CONFIG) as server:
        server.expect_faults = True
        (first,) = server.children()
        os.kill(first, signal.SIGTERM)
        eventually(lambda: server.children() not in ([first], []), "another one")
        assert server.ask(request("/s", b"x")).status in (200, 503)
        eventually(lambda: server.ask(request("/s", b"x")).status == 200, "served")


def test_children_end_with_a_killed_supervisor(stack: Stack, folder: Path) -> None:
    with serving(stack, folder, "--workers", "2", config=CONFIG) as server:
        children = server.children()
        assert len(children) == 2
        server.process.kill()
        server.process.wait()
        eventually(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in children), "all gone")
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", server.port), 1)


def test_rule_23_a_busy_port_is_found_and_may_be_shared(stack: Stack, folder: Path) -> None:
    with serving(stack, folder, config=CONFIG) as server:
        environ = {**server.environ, "KWB_MANAGEMENT_PORT": "0"}
        environ.pop("KWB_HARNESS_FD")
        command = [sys.executable, "-m", "kafka_webhook_bridge.cli", "serve", "--role", "ingest"]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=WAIT_S, check=False)
        assert done.returncode == 2
        assert str(server.port) in done.stderr
        assert "KWB_INGEST_PORT" in done.stderr
        with serving(stack, folder, "--share-port", config=CONFIG, KWB_INGEST_PORT=str(server.port)) as second:
            assert second.port == server.port
            assert second.management_port != server.management_port
        assert server.ask(request("/s", b"x")).status == 200


def test_a_reload_under_traffic(stack: Stack, folder: Path) -> None:
    file = folder / "bridge.yaml"
    file.write_text("sources: {s: {auth: none}}\n")
    with serving(stack, folder, KWB_CONFIG=str(file)) as server:
        load = Load(server.port, alive=2, fresh=1)
        eventually(lambda: load.answered > 50, "load")
        file.write_text("sources: {s: {auth: none}, more: {auth: none}}\n")
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: server.ask(request("/more", b"x")).status == 200, "the new source")
        file.write_text("sources: {s: {auth: nome}}\n")
        server.process.send_signal(signal.SIGHUP)
        (line,) = eventually(lambda: server.said("configuration not reloaded; the old one stays"), "refused")
        assert "did you mean none" in str(line["problems"])
        assert server.ask(request("/more", b"x")).status == 200
        file.write_text("sources: {s: {auth: none}}\n")
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: server.ask(request("/more", b"x")).status == 404, "the source is gone")
        load.stop()
        assert (load.unanswered, load.statuses) == ([], {200})


# ── background work that dies ─────────────────────────────────────────────────────────────────────────────────────

# Put into the child's process by Python itself: the fault comes from outside, the product has no switch for it.
SABOTAGE = {
    "topics": "from kafka_webhook_bridge.ingest.topics import Topics as T; name = '_look_again'",
    "database": "from kafka_webhook_bridge.app.child import Store as T; name = 'ping'",
    "report": "from kafka_webhook_bridge.app.control import Channel as T; name = 'tell_parts'",
    "producer-watch": "from kafka_webhook_bridge.kafka.producer import Producer as T; name = '_metadata'",
    "lane-": "from kafka_webhook_bridge.kafka.producer import Lane as T; name = '_pass_on'",
}


@pytest.mark.parametrize("task", SABOTAGE)
def test_a_background_task_that_dies_ends_its_process_visibly(
    stack: Stack, folder: Path, database: str, task: str
) -> None:
    trigger = folder / "now"
    (folder / "sitecustomize.py").write_text(f"""\
import sys
if "-m" in sys.orig_argv and "kafka_webhook_bridge.app.child" in sys.orig_argv:
    import pathlib
    {SABOTAGE[task]}
    real = getattr(T, name)
    def broken(*a, **k):
        if pathlib.Path({str(trigger)!r}).exists():
            raise RuntimeError("sabotage")
        return real(*a, **k)
    setattr(T, name, broken)
""")
    with serving(stack, folder, config=CONFIG, DATABASE_URL=database, PYTHONPATH=str(folder)) as server:
        server.expect_faults = True
        eventually(lambda: server.ask(request("/s", b"x")).status == 200, "served")
        eventually(lambda: server.health()[1]["parts"]["postgres"]["status"] == "ready", "migrated")
        (first,) = server.children()
        trigger.touch()
        lines = eventually(lambda: server.said("background task ended"), "said")
        assert any(line["task"].startswith(task) for line in lines)
        assert "sabotage" in str(lines[0]["traceback"])
        (died, *_) = eventually(lambda: server.said("child died"), "the process ended")
        assert died["status"] == 1
        trigger.unlink()
        eventually(lambda: server.children() not in ([first], []), "another one")
        eventually(lambda: server.ask(request("/s", b"x")).status == 200, "served again")


# ── TLS ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def certificate(folder: Path) -> Path:
    return make_certificate(folder / "tls", "one")


def make_certificate(stem: Path, name: str) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("NOT RUN: openssl is not installed (Debian and Ubuntu: apt-get install openssl)")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", f"/CN={name}", "-keyout", f"{stem}.key", "-out", f"{stem}.pem"], check=True, capture_output=True,
    )  # fmt: skip
    return stem


def served_certificate(server: Serve) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), WAIT_S) as plain:
        context = ssl._create_unverified_context()
        with context.wrap_socket(plain) as secure:
            secure.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b" 200 " in secure.recv(65_536)
            return secure.getpeercert(binary_form=True)


def shakes_hands(server: Serve, version: str) -> bool:
    """Whether a client that knows this version alone gets through."""
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", version, "-cipher", "DEFAULT@SECLEVEL=0"],
        input=b"", capture_output=True, timeout=WAIT_S, check=False,
    )  # fmt: skip
    return done.returncode == 0


def test_tls_directly_and_a_new_certificate(stack: Stack, folder: Path, certificate: Path) -> None:
    environ = {"KWB_INGEST_TLS_CERT": f"{certificate}.pem", "KWB_INGEST_TLS_KEY": f"{certificate}.key"}
    server = Serve({**stack.environ(), **environ, "KWB_CONFIG": CONFIG}, folder, "--role", "ingest")
    try:
        eventually(lambda: server.said("serving"), "serving")
        eventually(lambda: server.health(server.management_port)[0] == 200, "ready")
        first = served_certificate(server)
        assert not shakes_hands(server, "-tls1_1")
        assert shakes_hands(server, "-tls1_2")
        with server.open() as client:
            assert answers(client.send(request("/s", b"x")).rest()) == []  # not HTTP in the clear
        Path(f"{certificate}.pem").write_text("broken")
        eventually(lambda: server.said("certificate not reloaded"), "refused")
        assert served_certificate(server) == first
        make_certificate(certificate, "two")
        eventually(lambda: server.said("certificate reloaded"), "reloaded")
        assert served_certificate(server) != first
    finally:
        server.stop()


def test_rule_9_a_key_made_at_start_lives_in_memory_and_ends_with_the_process(stack: Stack, folder: Path) -> None:
    """Two processes, as behind a load balancer that checks no certificate."""
    environ = {**stack.environ(), "KWB_INGEST_TLS_CERT": "made", "KWB_CONFIG": CONFIG, "TMPDIR": str(folder / "tmp")}
    (folder / "tmp").mkdir()
    found = []
    for _ in range(2):
        server = Serve(environ, folder, "--role", "ingest")
        try:
            eventually(lambda s=server: s.said("serving"), "serving")
            eventually(lambda s=server: s.health(s.management_port)[0] == 200, "ready")
            found.append(served_certificate(server))
            with server.open() as client:
                assert answers(client.send(request("/s", b"x")).rest()) == []  # not HTTP in the clear
            (pid,) = server.children()
            assert not [fd for fd in Path(f"/proc/{pid}/fd").iterdir() if "pem" in str(fd.readlink())]
        finally:
            assert server.stop() == 0
    assert found[0] != found[1]
    assert list((folder / "tmp").iterdir()) == []
    assert "certificate not reloaded" not in server.log.read_text()


# ── the status line ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_rule_13_a_worker_that_never_reached_kafka_does_not_claim_that_nothing_is_at_risk(
    folder: Path, database: str
) -> None:
    environ = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "DATABASE_URL": database, "KWB_CONFIG": CONFIG}
    server = Serve(environ, folder, "--role", "worker")
    try:

        def told() -> list[dict[str, Any]]:
            server.forward(61)
            return [line for line in server.said("status") if "outbox_rows" in line]

        line = eventually(told, "a line with what is known")[0]
        assert line["outbox_rows"] == 0
        assert not {"archive_lag_records", "at_risk_events"} & set(line)
        assert server.process.poll() is None
    finally:
        assert server.stop() == 0
