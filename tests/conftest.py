"""What every test may ask for: real servers, started once for the session on free ports in a folder of their own."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from bridge import Serve, serving
from databases import empty_database
from kafka_webhook_bridge.stack import Kafka, Stack
from kafka_webhook_bridge.stack.files import write_private
from kafka_webhook_bridge.stack.kafka import tool
from kafka_webhook_bridge.stack.ports import keep_to_share

# A shell that starts pytest in the background lets it ignore Ctrl-C, and children inherit that; tests press Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# How long examples take to make says more of the machine's other work than of the tests.
settings.register_profile("project", suppress_health_check=[HealthCheck.too_slow], deadline=None)
settings.load_profile("project")


if (runner := os.environ.get("PYTEST_XDIST_WORKER", "")).startswith("gw"):
    keep_to_share(int(runner[2:]), int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--postgres", type=Path, help="folder with another PostgreSQL's initdb and postgres")


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder that PostgreSQL can reach even when the tests run as root (pytest's tmp_path is closed)."""
    with tempfile.TemporaryDirectory(prefix="kwb-test-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """One Kafka and one PostgreSQL. A test that stops a server starts it again."""
    with tempfile.TemporaryDirectory(prefix="kwb-stack-") as name:
        Path(name).chmod(0o711)
        servers = Stack(Path(name) / "stack", postgres_binaries=request.config.getoption("--postgres"))
        servers.start()
        try:
            yield servers
        finally:
            servers.destroy()


@pytest.fixture
def database(stack: Stack) -> Iterator[str]:
    """URL of an empty database that belongs to the bridge's role; gone after the test."""
    with empty_database(stack.postgres) as url:
        yield url


@pytest.fixture
def topic() -> str:
    """A topic name of its own."""
    return f"t-{secrets.token_hex(6)}"


@pytest.fixture
def java_consumer(folder: Path) -> Callable[..., bytes]:
    """Kafka's own console consumer: what a stranger's Java client reads.

    `java_consumer(kafka, topic, count)` → its output: `header:value,…<TAB>value<LF>` a record, from the earliest on.
    Reads INTERNAL as the bridge, or with `user` and `password` PROXY with SCRAM. Raises on anything but success.
    """

    def run(kafka: Kafka, topic: str, count: int, *, user: str = "", password: str = "", timeout_s: int = 60) -> bytes:
        module, mechanism = ("scram.Scram", "SCRAM-SHA-512") if user else ("plain.Plain", "PLAIN")
        login = f'username="{user or kafka.username}" password="{password or kafka.password}"'
        config = folder / "consumer.properties"
        write_private(
            config,
            f"security.protocol=SASL_PLAINTEXT\nsasl.mechanism={mechanism}\n"
            f"sasl.jaas.config=org.apache.kafka.common.security.{module}LoginModule required {login};\n",
        )
        done = subprocess.run(
            tool(
                "org.apache.kafka.tools.consumer.ConsoleConsumer",
                "--bootstrap-server", kafka.proxy_bootstrap if user else kafka.bootstrap,
                "--topic", topic, "--from-beginning", "--max-messages", str(count),
                "--timeout-ms", str(timeout_s * 1000), "--command-config", str(config),
                "--formatter-property", "print.headers=true",
            ),
            capture_output=True, timeout=timeout_s + 30, check=True,
        )  # fmt: skip
        return done.stdout

    return run


CONFIG = """\
sources:
  open: {auth: none, methods: [GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS]}
  closed: {}
  own: {username: partner, password: partner-canary}
  small: {body_bytes_max: 1000}
  big: {body_bytes_max: 10MiB}
  zip: {content_encoding: opaque}
  slowly: {rate_limit_per_second: 2}
  events: {format: cloudevents, body_bytes_max: 10MiB}
  wrapped: {format: envelope, body_bytes_max: 10MiB}
  keyed: {key: "{json:order.id}"}
trusted_proxies: [127.0.0.2/32]
"""


@pytest.fixture(scope="session")
def shared_bridge(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """One bridge for the tests that change nothing about it but its clock; its log may not show a fault."""
    with serving(stack, tmp_path_factory.mktemp("bridge"), config=CONFIG) as server:
        yield server
        assert server.stop() == 0


@pytest.fixture
def bridge(shared_bridge: Serve) -> Serve:
    """The shared bridge, more than a minute later: no failed login of another test counts any more."""
    shared_bridge.forward(61)
    return shared_bridge
