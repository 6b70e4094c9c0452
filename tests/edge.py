"""Debian's nginx with the real configuration, on free ports, and a resolver whose answers a test can change."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from authority import DOMAIN, Authority
from bridge import WAIT_S, Client, eventually
from kafka_webhook_bridge.stack.ports import free_ports

TEMPLATE = Path(__file__).parents[1] / "deploy/nginx/nginx.conf.template"
STREAM = Path("/usr/lib/nginx/modules/ngx_stream_module.so")  # built in where the image is the official one
WEBHOOKS, KAFKA, CONSOLE = (f"{name}.{DOMAIN}" for name in ("webhooks", "kafka", "console"))


def _binary() -> str | None:
    return shutil.which("nginx", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin")


def why_not() -> str:
    """What this machine lacks for it; empty when nothing."""
    if (found := _binary()) is None:
        return "nginx is not installed (tools/ci_packages.sh)"
    built = subprocess.run([found, "-V"], capture_output=True, text=True, check=True).stderr
    if not STREAM.exists() and "--with-stream " not in built + " ":
        return "nginx has no stream module (libnginx-mod-stream, tools/ci_packages.sh)"
    return ""


def nginx() -> str:
    """Path of nginx. Skips the test where nginx or its stream module is missing."""
    if why := why_not():
        pytest.skip(f"NOT RUN: {why}")
    return _binary() or ""


class Resolver:
    """A DNS server on loopback. `names` maps names to IPv4 addresses; any other name does not exist."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = dict(names)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            query, client = self._socket.recvfrom(4096)
            if not query:
                return
            self._socket.sendto(self._answer(query), client)

    def _answer(self, query: bytes) -> bytes:
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += 1 + query[at]
        question = query[12 : at + 5]
        address = self.names.get(".".join(labels).lower())
        found = address is not None and question[-4:-2] == b"\0\1"
        # Answer, recursion desired and available; 3: no such name.
        head = query[:2] + struct.pack(">HHHHH", 0x8180 | (0 if address else 3), 1, int(found), 0, 0)
        record = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 600, 4) + socket.inet_aton(address) if found else b""
        return head + question + record

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join(WAIT_S)
        self._socket.close()


class Edge:
    """One nginx. Upstreams are given as `name:port`, their addresses by `resolver.names`."""

    def __init__(self, folder: Path, *, ingest: int = 1, console: int = 1, kafka: int = 1, port: int = 0) -> None:
        self._nginx = nginx()
        self.folder = folder / "nginx"
        self.folder.mkdir()
        # Of a short name, for a socket is in it; as root, nginx's workers are nobody, who must reach it.
        self.work = Path(tempfile.mkdtemp(prefix="kwb-edge-"))
        self.work.chmod(0o755)
        self.tls = self.folder / "tls"
        self.authority = Authority.named("edge")
        self.ca = self.authority.save(folder / "ca.pem")
        self.serial = self.authority.issue(self.tls)
        self.resolver = Resolver(dict.fromkeys(("ingest.test", "console.test", "kafka.test"), "127.0.0.1"))
        self.https_port, self.kafka_port, self.health_port = free_ports(3)
        self.kafka_port = port or self.kafka_port
        self.log = self.folder / "nginx.log"
        self.config = self.folder / "nginx.conf"
        self.config.write_text(
            render(
                EDGE_DOMAIN=DOMAIN, EDGE_RESOLVER=f"127.0.0.1:{self.resolver.port}",
                EDGE_INGEST=f"ingest.test:{ingest}", EDGE_CONSOLE=f"console.test:{console}",
                EDGE_KAFKA=f"kafka.test:{kafka}", EDGE_TLS=str(self.tls), EDGE_WORK=str(self.work),
                EDGE_HTTPS_PORT=str(self.https_port), EDGE_KAFKA_PORT=str(self.kafka_port),
                EDGE_HEALTH_PORT=str(self.health_port),
            )
        )  # fmt: skip
        self._globals = "daemon off;" + (f" load_module {STREAM};" if STREAM.exists() else "")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Edge:
        (self.work / "https.sock").unlink(missing_ok=True)  # in the container it is on a tmpfs, which ends with nginx
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [self._nginx, "-e", "stderr", "-p", str(self.folder), "-c", str(self.config), "-g", self._globals],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        process = self.process

        def listening() -> bool:
            assert process.poll() is None, self.log.read_text()
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.health_port), 1).close()
                return len(self.workers()) == 2  # the master listens before it has any
            return False

        eventually(listening, "nginx listens and works")
        return self

    def read_back(self) -> str:
        """The configuration as nginx itself reads it."""
        done = subprocess.run(
            [self._nginx, "-e", "stderr", "-p", str(self.folder), "-c", str(self.config), "-g", self._globals, "-T"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout

    def workers(self) -> list[int]:
        """Pids of the workers, those of before a reload too."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return sorted(map(int, children.read_text().split())) if children.exists() else []

    def reload(self) -> None:
        """As `nginx -s reload`; returns when new workers serve and the old ones take no more connections."""
        assert self.process is not None
        before = set(self.workers())
        self.process.send_signal(signal.SIGHUP)
        eventually(lambda: len(set(self.workers()) - before) >= 2, "new workers")
        eventually(lambda: all(_shuts_down(pid) for pid in before), "old workers take no more connections")

    def stop(self) -> None:
        """End at once, workers too, as `docker kill` does."""
        if self.process is not None:
            workers = self.workers()
            for pid in (self.process.pid, *workers):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait()
            eventually(lambda: not any(_runs(pid) for pid in workers), "workers are gone")
            self.process = None

    def close(self) -> None:
        self.stop()
        self.resolver.close()
        shutil.rmtree(self.work)

    def trust(self) -> ssl.SSLContext:
        """As a client that knows the authority, with every check on."""
        return ssl.create_default_context(cafile=str(self.ca))

    def open(self, name: str | None = WEBHOOKS, *, port: int = 0, context: ssl.SSLContext | None = None,
             source: str = "127.0.0.1") -> Tls:  # fmt: skip
        return Tls(port or self.https_port, context or self.trust(), name, source)

    def ask(self, data: bytes, name: str = WEBHOOKS) -> Any:
        """One request on a connection of its own."""
        with self.open(name) as client:
            return client.send(data).answer()

    def memory_bytes(self) -> int:
        """What all its processes hold for themselves alone and together."""
        assert self.process is not None
        total = 0
        for pid in (self.process.pid, *self.workers()):
            with contextlib.suppress(OSError):
                total += int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) * 1024
        return total


class Tls(Client):
    """A connection through nginx. `close` without the peer's goodbye is the end of it, as for a plain one."""

    def __init__(self, port: int, context: ssl.SSLContext, name: str | None, source: str = "127.0.0.1") -> None:
        raw = socket.create_connection(("127.0.0.1", port), WAIT_S, (source, 0))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self.socket: ssl.SSLSocket = context.wrap_socket(raw, server_hostname=name, suppress_ragged_eofs=True)  # type: ignore[assignment]
        except BaseException:
            raw.close()
            raise
        self.kept = b""


class Guard:
    """One `kwb guard` before Kafka's PROXY on port `broker`, both on the address `host`."""

    def __init__(self, folder: Path, broker: int, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.log = folder / f"guard-{host}.log"
        self.port = port or free_ports(1)[0]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "kafka_webhook_bridge.cli", "guard",
                    "--listen", f"{host}:{self.port}", "--to", f"{host}:{broker}",
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        eventually(lambda: "the guard listens" in self.log.read_text(), "the guard listens")


@contextlib.contextmanager
def guarding(folder: Path, broker: int, **where: Any) -> Iterator[Guard]:
    """Started; at the end it leaves with 0 when it is told to."""
    found = Guard(folder, broker, **where)
    try:
        yield found
        found.process.terminate()
        assert found.process.wait(WAIT_S) == 0
    except BaseException:
        print(found.log.read_text()[-4000:])
        raise
    finally:
        found.process.kill()
        found.process.wait()


def render(**values: str) -> str:
    """The template with exactly these variables, as envsubst of the image: `${NAME}` alone."""
    text = TEMPLATE.read_text()
    wanted = set(re.findall(r"\$\{(EDGE_[A-Z_]+)\}", text))
    assert wanted == set(values), wanted ^ set(values)
    for name, value in values.items():
        text = text.replace("${" + name + "}", value)
    return text


@contextlib.contextmanager
def edge(folder: Path, **upstreams: int) -> Iterator[Edge]:
    """Started; at the end its log may show no fault of the configuration."""
    found = Edge(folder, **upstreams)
    try:
        yield found.start()
        faults = [line for line in found.log.read_text().splitlines() if "[emerg]" in line or "[alert]" in line]
        assert [line for line in faults if "exited on signal 9" not in line] == []
    except BaseException:
        print(found.log.read_text()[-4000:])
        raise
    finally:
        found.close()


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _shuts_down(pid: int) -> bool:
    """Whether an old worker has gone or says in its title that it is leaving."""
    try:
        return b"shutting down" in Path(f"/proc/{pid}/cmdline").read_bytes() or not _runs(pid)
    except OSError:
        return True
