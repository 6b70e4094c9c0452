"""How `kwb up` ends: asked, killed, interrupted while it starts, left by its terminal. Nothing stays behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_up import CLEAN, KWB, RunningUp, eventually, gone, tree, up


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A folder that several starts follow each other in."""
    with tempfile.TemporaryDirectory(prefix="kwb-stops-") as name:
        Path(name).chmod(0o711)
        yield Path(name) / "kwb"


def topics(running: RunningUp) -> dict[str, int]:
    """Records by topic, as `kwb topics` counts them from another terminal."""
    done = subprocess.run([*KWB, "topics", "--json"], env={**CLEAN, **running.env()}, capture_output=True, check=True)
    return {row["topic"]: row["records"] for row in json.loads(done.stdout)}


def test_a_first_start_that_is_interrupted_leaves_nothing_half_made(home: Path) -> None:
    def interrupt_at(made: Path) -> None:
        running = RunningUp(home)
        eventually(lambda: made.exists() or running.process.poll() is not None, made.name)
        pids = running.tree()
        assert running.end() == 130
        eventually(lambda: gone(pids), "everything to end")
        assert "Traceback" not in running.said

    for made in ("kafka/data.new", "kafka/kafka.pid", "serve.pid"):
        interrupt_at(home / made)
    with up(home) as running:
        running.accepted("/kept")
        assert not list(home.rglob("initdb-*"))
        assert not list(home.rglob("*.new"))


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_stops_cleanly_and_keeps_the_data(home: Path, sign: signal.Signals) -> None:
    with up(home) as running:
        before = topics(running).get("kept", 0)
        running.accepted("/kept")
        assert topics(running).get("kept", 0) == before + 1
        pids = running.tree()
        assert len(pids) > 8  # kwb up, three servers and their guards, two processes of the bridge, PostgreSQL's
        assert running.end(sign) == 0
        assert gone(pids)
    assert not list(home.rglob("*.pid"))
    assert (home / "kafka" / "data" / ".kafka_cleanshutdown").exists()
    assert "database system is shut down" in (home / "postgres" / "postgres.log").read_text().splitlines()[-1]


def test_a_second_ctrl_c_ends_everything_at_once(home: Path) -> None:
    with up(home, KWB_INGEST_DRAIN_GRACE_MS="3000") as running:
        pids = running.tree()
        running.process.send_signal(signal.SIGINT)
        eventually(lambda: "draining" in (home / "serve.log").read_text().splitlines()[-1], "the drain")
        assert running.end(signal.SIGINT) == 0
        # The workers of a killed supervisor drain by themselves; everything else is gone with it.
        eventually(lambda: gone(pids), "everything to end")


def test_killed_its_servers_end_by_themselves_and_the_next_start_has_the_data(home: Path) -> None:
    with up(home) as running:
        receipts = [running.accepted("/kept") for _ in range(3)]
        count = topics(running).get("kept", 0)
        pids = running.tree()
        assert running.end(signal.SIGKILL) == -signal.SIGKILL
        logins = running.ready["webhook"]
    with up(home) as running:  # at once: what is left ends first
        assert gone(pids)
        assert running.ready["webhook"] == logins
        assert topics(running).get("kept", 0) == count
        assert receipts
        running.accepted("/kept")
        pids = running.tree()
        running.end(signal.SIGKILL)
    eventually(lambda: gone(pids), "the servers to end by themselves")


def test_it_stops_also_when_its_terminal_is_gone(home: Path) -> None:
    read, write = os.pipe()
    process = subprocess.Popen(
        [*KWB, "up", "--free-ports", "--dir", str(home)], stdout=write, stderr=write, env=CLEAN, start_new_session=True
    )
    os.close(write)
    with os.fdopen(read, "rb", buffering=0) as terminal:
        said = b""
        while b"is ready" not in said:
            more = terminal.read(65536)
            assert more, said
            said += more
    pids = tree(process.pid)
    process.send_signal(signal.SIGHUP)
    process.wait(60)
    assert gone(pids)
    assert (home / "kafka" / "data" / ".kafka_cleanshutdown").exists()


def test_ctrl_c_does_not_wait_for_a_download_that_hangs(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as proxy, tempfile.TemporaryDirectory() as cache:
        url = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        running = RunningUp(home, HTTPS_PROXY=url, https_proxy=url, no_proxy="", KWB_STACK_CACHE_FOLDER=cache)
        proxy.settimeout(60)
        connection, _ = proxy.accept()  # and never answers
        with connection:
            assert running.end() == 130
