"""A Docker engine for the tests of compose.yaml: the running one, or one of our own.

Our own has its data, pid file and socket in one temporary folder and is ended by pid; its packet filter rules,
its bridge `docker0` and the forwarding it switched on are taken back. It needs root and `dockerd` (Debian: docker.io).
"""

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_SECONDS_MAX = 60
STOP_SECONDS_MAX = 60
BRIDGE = Path("/sys/class/net/docker0")
FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")


class EngineError(RuntimeError):
    """No engine answers and none could be started."""


def answers(host: str | None = None) -> bool:
    """Whether an engine answers at `host` (a DOCKER_HOST value; None means the client's default)."""
    command = ["docker", *(["--host", host] if host else []), "version"]
    try:
        return subprocess.run(command, capture_output=True, timeout=30).returncode == 0
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False


def without_docker(rules: str, forward: str) -> str:
    """`iptables-save` output less what dockerd added, with the policy of FORWARD that was there before."""
    kept = []
    for line in rules.splitlines():
        if line.startswith(":FORWARD "):
            kept.append(f":FORWARD {forward} [0:0]" if forward else line)
        elif not re.search(r"DOCKER|docker0|br-[0-9a-f]{12}|^-A POSTROUTING -s 172\.", line):
            kept.append(line)
    return "\n".join(kept) + "\n"


def mounts_below(mounts: str, folder: Path) -> list[str]:
    """What is mounted in `folder`, the innermost first; dockerd leaves the namespace of the host's network there."""
    places = [line.split()[1] for line in mounts.splitlines()]
    return sorted((place for place in places if Path(place).is_relative_to(folder)), key=len, reverse=True)


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


@contextmanager
def _network_as_before() -> Iterator[None]:
    policy = _output("iptables", "-S", "FORWARD").split()[2]
    forwarding = FORWARDING.read_text()
    bridge_was_there = BRIDGE.exists()
    try:
        yield
    finally:
        for table in ("filter", "nat"):
            rules = without_docker(_output("iptables-save", "-t", table), policy if table == "filter" else "")
            subprocess.run(["iptables-restore", "-T", table], input=rules, text=True, check=True, timeout=30)
        if not bridge_was_there and BRIDGE.exists():
            _output("ip", "link", "delete", "docker0")
        FORWARDING.write_text(forwarding)


@contextmanager
def engine() -> Iterator[str | None]:
    """Yield the DOCKER_HOST of an engine that answers; None means the client's default."""
    if answers():
        yield None
        return
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        raise EngineError("no Docker engine answers; start one, or run as root with docker.io installed")
    with _network_as_before(), _own_engine() as host:
        yield host


@contextmanager
def _own_engine() -> Iterator[str]:
    folder = Path(tempfile.mkdtemp(prefix="kwb-engine-"))
    host = f"unix://{folder}/docker.sock"
    command = ["dockerd", "--host", host, "--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec"]
    command += ["--pidfile", f"{folder}/docker.pid"]
    log = folder / "dockerd.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + START_SECONDS_MAX
        while not answers(host):
            if process.poll() is not None or time.monotonic() > deadline:
                raise EngineError(f"dockerd did not start:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.2)
        yield host
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for place in mounts_below(Path("/proc/mounts").read_text(), folder):
            subprocess.run(["umount", place], capture_output=True, timeout=30)
        shutil.rmtree(folder)
