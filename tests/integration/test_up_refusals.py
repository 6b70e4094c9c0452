"""What `kwb up` says when it cannot start: a sentence, a way out, exit code 1, never a traceback."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_up import RunningUp, refused, up

from kafka_webhook_bridge.stack.jars import default_cache
from kafka_webhook_bridge.stack.ports import free_ports

PORTS = {
    "port": "webhooks",
    "management-port": "management",
    "kafka-controller-port": "CONTROLLER",
    "kafka-internal-port": "INTERNAL",
    "kafka-broker-port": "BROKER",
    "kafka-proxy-port": "PROXY",
    "postgres-port": "PostgreSQL",
}


@pytest.fixture(scope="module")
def used() -> Iterator[Path]:
    """A folder that has been started once."""
    with tempfile.TemporaryDirectory(prefix="kwb-used-") as name:
        Path(name).chmod(0o711)
        with up(Path(name) / "kwb") as running:
            running.accepted("/one")
        yield Path(name) / "kwb"


@pytest.mark.parametrize("option", PORTS)
def test_a_port_that_is_taken(used: Path, option: str) -> None:
    with socket.create_server(("127.0.0.1", free_ports(1)[0])) as other:
        port = other.getsockname()[1]
        said = refused(used, f"--{option}", str(port))
    assert f"Port {port} for " in said
    assert PORTS[option] in said
    assert f"--{option} N" in said


def test_all_ports_of_a_server_are_told_at_once(used: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        ports = [s.getsockname()[1] for s in (one, two)]
        said = refused(used, "--port", str(ports[0]), "--management-port", str(ports[1]))
    for port in ports:
        assert f"Port {port} for " in said


@pytest.mark.parametrize(
    ("file", "content", "sentence"),
    [
        ("kafka/data/kafka.version", "5.1.0", "was made by Kafka 5.1.0; this is Kafka 4."),
        ("kafka/data/kafka.version", "3.9.0", "was made by Kafka 3.9.0; this is Kafka 4."),
        ("kafka/data/kafka.version", None, "is not a data folder of the embedded Kafka"),
        ("postgres/data/PG_VERSION", "17", "was made by PostgreSQL 17; this is PostgreSQL 18."),
        ("postgres/data/PG_VERSION", None, "is not a PostgreSQL data folder"),
        ("secrets.json", "{", "secrets.json is damaged"),
        ("secrets.json", "[]", "secrets.json is damaged"),
        ("kafka/secrets.json", '{"bridge": 1}', "secrets.json is damaged"),
        ("postgres/secrets.json", "", "secrets.json is damaged"),
        ("postgres/secrets.json", None, "secrets.json is gone"),
    ],
)
def test_a_folder_that_cannot_be_used(used: Path, file: str, content: str | None, sentence: str) -> None:
    path = used / file
    kept = path.rename(path.with_name("kept"))
    try:
        if content is not None:
            path.write_text(content)
        assert sentence in refused(used)
    finally:
        kept.replace(path)


def test_a_folder_with_a_comma(used: Path) -> None:
    assert "a comma in its name" in refused(used.parent / "a,b")


def test_a_folder_that_cannot_be_made(used: Path) -> None:
    running = RunningUp(used.parent / "elsewhere", "--dir", "/proc/nowhere/kwb")
    assert running.process.wait(60) == 1
    assert "The folder /proc/nowhere/kwb cannot be made" in running.said


def test_no_network_on_the_first_start(used: Path) -> None:
    with tempfile.TemporaryDirectory() as home:
        closed = f"http://127.0.0.1:{free_ports(1)[0]}"
        said = refused(
            used, HOME=home, HTTPS_PROXY=closed, https_proxy=closed, HTTP_PROXY=closed, http_proxy=closed,
            NO_PROXY="", no_proxy="",
        )  # fmt: skip
    assert "could not be fetched" in said
    assert "The first start needs a network" in said


def test_a_cache_that_cannot_be_made(used: Path) -> None:
    assert "for Kafka's jars cannot be made" in refused(used, KWB_STACK_CACHE_FOLDER="/proc/nowhere")


def test_a_jar_that_was_altered(used: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        cache = Path(name) / "cache"
        shutil.copytree(default_cache(), cache)
        (jar,) = cache.glob("kafka-*-broker-*/kafka-clients-*.jar")
        with jar.open("r+b") as file:  # as long as before
            file.seek(1000)
            byte = file.read(1)
            file.seek(1000)
            file.write(bytes([byte[0] ^ 1]))
        said = refused(used, KWB_STACK_CACHE_FOLDER=str(cache))
    assert f"{jar} is not the file that was released: its SHA-256 is not the committed one." in said


def fill(disk: Path) -> None:
    with (disk / "fill").open("wb", buffering=0) as file:
        for size in (1024**2, 4096):
            with contextlib.suppress(OSError) if size > 4096 else contextlib.nullcontext():
                while True:
                    file.write(bytes(size))


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: mounting a small disk needs root")
def test_a_disk_without_room(used: Path) -> None:
    disk = used.parent / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m,mode=711", "kwb-test", str(disk)], check=False
    ).returncode:
        pytest.skip("NOT RUN: this machine does not let us mount a tmpfs")
    try:
        said = refused(disk / "kwb")
        assert "MiB are free on the disk of" in said
        with pytest.raises(OSError, match="No space"):
            fill(disk)
        said = refused(disk / "kwb", WEBHOOK_PASSWORD="another, so that it has to be written" * 400)
        assert "is full" in said
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: everything runs as somebody else than root already")
def test_as_somebody_else_than_root(used: Path) -> None:
    """nobody, with the right to read that the interpreter's place may ask for; not root is what counts."""
    setpriv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    may_read = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    if subprocess.run([*setpriv, *may_read, "true"], check=False).returncode:
        pytest.skip("NOT RUN: setpriv cannot give the right to read")
    home = used.parent / "home of nobody"
    shutil.copytree(default_cache(), home / "cache")
    for path in (home, *home.rglob("*")):
        os.chown(path, 65534, 65534)
    with up(home / "kwb", argv=(*setpriv, *may_read), HOME=str(home), KWB_STACK_CACHE_FOLDER=str(home / "cache")) as it:
        it.accepted("/one")
        assert {path.stat().st_uid for path in (home / "kwb").rglob("*")} == {65534}
        assert (home / "kwb").stat().st_mode & 0o777 == 0o700


def test_the_folder_still_starts_after_all_that(used: Path) -> None:
    with up(used) as running:
        running.accepted("/one")
