"""The `kafka` service of compose.yaml without a container: its environment, read as Compose reads it, and a broker made
from it by the official image's own set-up program."""

from __future__ import annotations

import re
import secrets
import shlex
import signal
import subprocess
from pathlib import Path
from typing import Any

import yaml
from pydantic import SecretStr

from kafka_webhook_bridge.kafka.probe import await_broker
from kafka_webhook_bridge.settings import KafkaSettings
from kafka_webhook_bridge.stack.jars import jars
from kafka_webhook_bridge.stack.kafka import java
from kafka_webhook_bridge.stack.ports import free_ports
from kafka_webhook_bridge.stack.process import Process

COMPOSE = Path(__file__).parents[2] / "compose.yaml"
LOG4J = """\
Configuration:
  Appenders: { Console: { name: OUT, PatternLayout: { pattern: "%p %m (%c)%n" } } }
  Loggers: { Root: { level: INFO, AppenderRef: [ { ref: OUT } ] } }
"""


class _Loader(yaml.SafeLoader):
    """YAML with Compose's own tags, such as `!reset`."""


_Loader.add_multi_constructor("!", lambda loader, suffix, node: None)


def compose() -> dict[str, Any]:
    """The file, not interpolated."""
    found: dict[str, Any] = yaml.load(COMPOSE.read_text(), _Loader)  # a SafeLoader
    return found


def service(name: str) -> dict[str, Any]:
    """One service of it."""
    found: dict[str, Any] = compose()["services"][name]
    return found


def interpolate(text: str) -> str:
    """As Compose does it where no variable is set: `${NAME:-default}` and `$$`."""
    return re.sub(r"\$\$|\$\{\w+:-([^}]*)\}", lambda found: found[1] if found[0] != "$$" else "$", text)


def environment() -> dict[str, str]:
    """What the container of `kafka` has in its environment."""
    return {name: interpolate(value) for name, value in service("kafka")["environment"].items()}


def properties(path: Path) -> dict[str, str]:
    """A server.properties as Kafka reads it, but for escapes."""
    lines = [line.strip() for line in path.read_text().splitlines()]
    pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
    assert len({name for name, _, _ in pairs}) == len(pairs), "a setting is there twice"
    return {name: value for name, _, value in pairs}


class ComposeKafka:
    """Kafka from the environment of compose.yaml in `folder`. The secret's file is `self.secret`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.controller, self.internal, self.broker, self.proxy = free_ports(4)
        self.final = folder / "config"
        self.output = folder / "kafka.out"
        self.secret = folder / "secrets" / "kafka_password"
        for path in (self.final, folder / "default", folder / "mounted", self.secret.parent):
            path.mkdir(parents=True)
        for name in ("log4j2.yaml", "tools-log4j2.yaml"):
            (folder / "default" / name).write_text(LOG4J)
        (folder / "default" / "server.properties").write_text("")
        self.write_password(secrets.token_hex(16))
        self._process = Process(
            "Kafka", pid_file=folder / "pid", log=self.output, stop_signal=signal.SIGTERM, stop_timeout_s=30
        )

    def write_password(self, password: str) -> None:
        self.password = password
        self.secret.write_text(password)

    def settings(self) -> KafkaSettings:
        """The bridge on INTERNAL."""
        return KafkaSettings(
            bootstrap_servers=f"127.0.0.1:{self.internal}", username="bridge", password=SecretStr(self.password)
        )

    def environ(self) -> dict[str, str]:
        """The container's environment; here, and only here, addresses and paths become this machine's."""
        changed = {
            "0.0.0.0:9094": f"127.0.0.1:{self.internal}",
            "0.0.0.0:9095": f"127.0.0.1:{self.broker}",
            "0.0.0.0:9096": f"127.0.0.1:{self.proxy}",
            "127.0.0.1:9093": f"127.0.0.1:{self.controller}",
            "kafka:9094": f"127.0.0.1:{self.internal}",
            "kafka:9095": f"127.0.0.1:{self.broker}",
            "kafka.localtest.me:29095": f"127.0.0.1:{self.proxy}",
            "/run/secrets": str(self.secret.parent),
            "/var/lib/kafka/data": str(self.folder / "data"),
        }
        found = environment()
        for name, value in found.items():
            for old, new in changed.items():
                value = value.replace(old, new)
            found[name] = value
        return found

    def start(self) -> None:
        """As the image's entry point: set up, then serve; again and again on the same data."""
        environ = self.environ()
        options = [*shlex.split(environ["KAFKA_HEAP_OPTS"]), *shlex.split(environ["KAFKA_OPTS"]), "-XX:+UseSerialGC",
                   "-XX:TieredStopAtLevel=1"]  # fmt: skip
        classpath = jars("broker")
        done = subprocess.run(
            java(
                classpath, *options, "kafka.docker.KafkaDockerWrapper", "setup",
                "--default-configs-dir", str(self.folder / "default"),
                "--mounted-configs-dir", str(self.folder / "mounted"), "--final-configs-dir", str(self.final),
            ),
            env=environ, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        # The image goes on when the volume was formatted by an earlier start.
        assert done.returncode == 0 or "already formatted" in done.stdout + done.stderr, done.stdout + done.stderr
        # The real entry point runs both programs in the container's environment.
        self._process.start(
            java(
                classpath, *options, f"-Dlog4j2.configurationFile={self.folder / 'default' / 'log4j2.yaml'}",
                "kafka.Kafka", str(self.final / "server.properties"),
            )
        )  # fmt: skip
        assert await_broker(self.settings(), 60, go_on=lambda: self._process.alive), self.output.read_text()[-3000:]

    def stop(self) -> None:
        self._process.stop(30)

    def kill(self) -> None:
        self._process.kill()

    def log(self) -> str:
        return self.output.read_text(errors="replace")
