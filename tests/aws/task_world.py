"""The tasks of bridge.yaml without AWS: their environment and command, with this machine's addresses and nothing else.

Each replacement is named, so whatever the template says beyond that is what runs.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from world import Scene, World, environment, world
from world import secrets as named_secrets

from bridge import PASSWORD, USER, Serve, eventually
from kafka_webhook_bridge.kafka.probe import await_broker
from kafka_webhook_bridge.settings import KafkaSettings
from kafka_webhook_bridge.stack.jars import jars
from kafka_webhook_bridge.stack.kafka import java
from kafka_webhook_bridge.stack.ports import free_ports

ROOT = Path(__file__).parents[2]
ENTRYPOINT = ROOT / "aws/kafka/entrypoint"
USERNAME = "carrier"  # not the default, so that no name is a fixed one
SCENE = Scene(
    "dev", "single", console=False,
    more=(("KafkaUsername", USERNAME), ("WebhookUsername", USER), ("KafkaExternalPort", "9443")),
)  # fmt: skip
# The image's own start script, at other paths: set up from the environment, then Kafka in this process's place.
RUN = """\
#!/usr/bin/env bash
set -e
result=$({java} kafka.docker.KafkaDockerWrapper setup --default-configs-dir {default} \\
  --mounted-configs-dir {mounted} --final-configs-dir {final} 2>&1) ||
  echo "$result" | grep -i "already formatted" || {{ echo "$result"; exit 1; }}
exec {java} kafka.Kafka {final}/server.properties
"""
LOG4J = """\
Configuration:
  Appenders: { Console: { name: OUT, PatternLayout: { pattern: "%p %m (%c)%n" } } }
  Loggers: { Root: { level: INFO, AppenderRef: [ { ref: OUT } ] } }
"""


def definition(role: str, name: str = "") -> dict[str, Any]:
    return world(SCENE).container(role, name)


class KafkaTask:
    """The broker, started by the image's entry point, and its guard. Its data survive `end` and `start`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.password = secrets.token_hex(20)
        self.controller, self.internal, self.broker, self.proxy, self.door = free_ports(5)
        self.outside = 0  # the port of whoever ends TLS in front of PROXY
        self.final, self.output, self.guard_log = folder / "config", folder / "kafka.out", folder / "guard.out"
        for path in (self.final, folder / "default", folder / "mounted"):
            path.mkdir()
        for name in ("log4j2.yaml", "tools-log4j2.yaml"):
            (folder / "default" / name).write_text(LOG4J)
        (folder / "default" / "server.properties").write_text("")
        self.process: subprocess.Popen[bytes] | None = None
        self.guard: subprocess.Popen[bytes] | None = None

    def environ(self) -> dict[str, str]:
        """The broker's container's. Addresses, ports and the data folder become this machine's."""
        container = definition("kafka")
        assert set(named_secrets(container)) == {"BROKER_PASSWORD"}
        changed = {
            "0.0.0.0:9094": f"127.0.0.1:{self.internal}", "0.0.0.0:9095": f"127.0.0.1:{self.broker}",
            "127.0.0.1:9097": f"127.0.0.1:{self.proxy}", "127.0.0.1:9093": f"127.0.0.1:{self.controller}",
            "kafka.dev-webhooks.internal:9094": f"127.0.0.1:{self.internal}",
            "kafka.dev-webhooks.internal:9095": f"127.0.0.1:{self.broker}",
            "kafka.hooks.example.com:9443": f"localhost:{self.outside}",
            "/var/lib/kafka/data": str(self.folder / "data"),
        }  # fmt: skip
        found = {name: replaced(value, changed) for name, value in environment(container).items()}
        return {"PATH": os.environ["PATH"], **found, "BROKER_PASSWORD": self.password}

    def start(self) -> None:
        environ = self.environ()
        options = [word for name in ("KAFKA_HEAP_OPTS", "KAFKA_OPTS") for word in shlex.split(environ[name])]
        options += ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        options.append(f"-Dlog4j2.configurationFile={self.folder}/default/log4j2.yaml")
        run = self.folder / "run"
        paths = {name: shlex.quote(str(self.folder / name)) for name in ("default", "mounted")}
        run.write_text(RUN.format(java=shlex.join(java(jars("broker"), *options)), final=self.final, **paths))
        run.chmod(0o755)
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [str(ENTRYPOINT), str(run)], env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        process = self.process
        assert await_broker(self.settings(), 120, go_on=lambda: process.poll() is None), self.log()[-4000:]
        self._start_guard()  # the broker is healthy

    def _start_guard(self) -> None:
        container = definition("kafka", "guard")
        assert not environment(container) | named_secrets(container)
        changed = {"0.0.0.0:9096": f"127.0.0.1:{self.door}", "127.0.0.1:9097": f"127.0.0.1:{self.proxy}"}
        command = [replaced(word, changed) for word in container["Command"]]
        with self.guard_log.open("ab") as output:
            self.guard = subprocess.Popen(
                [sys.executable, "-m", "kafka_webhook_bridge.cli", *command], env={"PATH": os.defpath},
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
        eventually(self.guarded, "the guard's health check of the template is well")

    def guarded(self) -> bool:
        """What the health check of the guard's container says."""
        first, *words = definition("kafka", "guard")["HealthCheck"]["Command"]
        assert first == "CMD"
        command = [sys.executable, *(word.replace("9096", str(self.door)) for word in words[1:])]
        return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 0

    def end(self) -> int:
        """As ECS stops a task: what depends on another first, SIGTERM, and SIGKILL after its stop time. The exit status
        of the broker."""
        assert self.process is not None
        assert self.guard is not None
        self.guard.send_signal(signal.SIGTERM)
        assert self.guard.wait(definition("kafka", "guard")["StopTimeout"]) == 0
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(definition("kafka")["StopTimeout"])

    def kill(self) -> None:
        for process in (self.guard, self.process):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()

    def settings(self) -> KafkaSettings:
        """The bridge on INTERNAL."""
        return KafkaSettings(
            bootstrap_servers=f"127.0.0.1:{self.internal}", username=USERNAME, password=SecretStr(self.password),
            security_protocol="SASL_PLAINTEXT",
        )  # fmt: skip

    def log(self) -> str:
        return self.output.read_text(errors="replace")

    @cached_property
    def properties(self) -> dict[str, str]:
        """server.properties, as the image's set-up made it."""
        lines = (self.final / "server.properties").read_text().splitlines()
        return {name: value for name, _, value in (line.partition("=") for line in lines) if value}


class Bridge:
    """The bridge's containers against a broker and a PostgreSQL of this machine."""

    def __init__(self, folder: Path, kafka: KafkaTask, database: Mapping[str, str], aws: Mapping[str, str]) -> None:
        """`database` has `url` and `password`; `aws` is the environment that ECS adds."""
        self.folder, self._kafka, self._database, self._aws = folder, kafka, database, aws

    def environ(self, role: str, name: str = "", **changes: str) -> dict[str, str]:
        """The container's, with the texts of its secrets in their place. `changes` beat everything."""
        container = definition(role, name)
        changed = {
            "kafka.dev-webhooks.internal:9094": f"127.0.0.1:{self._kafka.internal}",
            "postgresql://bridge@<Database.Endpoint.Address>:5432/bridge?sslmode=verify-full&sslrootcert=/app/rds.pem":
                self._database["url"],
        }  # fmt: skip
        found = {name: replaced(value, changed) for name, value in environment(container).items()}
        if "KWB_INGEST_HOST" in found:
            found["KWB_INGEST_HOST"] = "127.0.0.1"
        assert not [value for value in found.values() if "<" in value], "a token is left"
        texts = {name: self._text(value) for name, value in named_secrets(container).items()}
        return {**found, **texts, **self._aws, **changes}

    def _text(self, place: str) -> str:
        """What ECS puts in the place of a secret: its text, or one key of it."""
        secret, _, rest = place.partition(">")
        held = {
            "<ConfigSecret": (ROOT / "aws/config/dev.yaml").read_text(), "<SourcesSecret": "{}",
            "<KafkaSecret": {"password": self._kafka.password}, "<WebhookSecret": {"password": PASSWORD},
            "<DatabaseSecret": {"password": self._database["password"]},
        }[secret]  # fmt: skip
        key = rest.strip(":")
        return str(held[key]) if isinstance(held, dict) else held

    def serve(self, role: str, **changes: str) -> Serve:
        """A service's task, not waited for."""
        command = definition(role)["Command"]
        assert command[0] == "serve"
        # The harness's own choices become the template's, that is the defaults.
        faithful = {"KWB_INGEST_DRAIN_GRACE_MS": "3000", "KWB_LOG_FORMAT": "auto"}
        return Serve({**faithful, **self.environ(role, **changes)}, self.folder, *command[1:])

    def run(self, role: str, *command: str, name: str = "", **changes: str) -> subprocess.CompletedProcess[str]:
        """A task that ends by itself. Without a command, the container's own."""
        return subprocess.run(
            [sys.executable, "-m", "kafka_webhook_bridge.cli", *(command or definition(role, name)["Command"])],
            env={"PATH": os.defpath, **self.environ(role, name, **changes)}, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip


def replaced(text: str, changed: Mapping[str, str]) -> str:
    """Every key replaced, in one pass."""
    return re.sub("|".join(map(re.escape, changed)), lambda found: changed[found[0]], text)


# ── CloudWatch Logs ───────────────────────────────────────────────────────────────────────────────────────────────────

_TERM = re.compile(r'\$\.([A-Za-z_][\w.]*)\s*(=|!=|>=|<=|>|<)\s*("[^"]*"|\*|-?\d+(?:\.\d+)?)')


def value_of(line: Mapping[str, Any], selector: str) -> Any:
    """What `$.a.b` is in a JSON line; KeyError where it is not there."""
    found: Any = line
    for part in selector.removeprefix("$.").split("."):
        found = found[part]
    return found


def matches(pattern: str, line: str) -> bool:
    """Whether a metric filter with this JSON pattern takes the line: `{ $.a = "x" && $.b >= 1 }`.

    As CloudWatch documents it; terms joined by `&&` are known here and nothing else. Raises ValueError otherwise.
    """
    inside = re.fullmatch(r"\{(.*)\}", pattern.strip())
    terms = [_TERM.fullmatch(part.strip().strip("()").strip()) for part in inside[1].split("&&")] if inside else [None]
    if not all(terms):
        raise ValueError(f"not understood: {pattern}")
    try:
        found = json.loads(line)
    except ValueError:
        return False
    return isinstance(found, dict) and all(term is not None and _holds(found, *term.groups()) for term in terms)


def _holds(line: Mapping[str, Any], selector: str, operator: str, wanted: str) -> bool:
    try:
        value = value_of(line, selector)
    except (KeyError, TypeError):
        return False
    if value is None or isinstance(value, (dict, list)):
        return False
    if wanted == "*":
        return operator == "="
    if wanted.startswith('"'):
        return isinstance(value, str) and (value == wanted[1:-1]) == (operator == "=")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    number = float(wanted)
    compared = {"=": value == number, "!=": value != number, ">": value > number, "<": value < number}
    return compared[operator] if operator in compared else value == number or compared[operator[0]]


def filters(found: World) -> list[dict[str, Any]]:
    """Each metric filter's role, pattern and value, whoever writes into its log group."""
    writers = {
        container["LogConfiguration"]["Options"]["awslogs-group"]: place.partition("/")[0]
        for place, container in found.containers()
    }
    return [
        {"role": writers[one.get("LogGroupName")], "pattern": one.get("FilterPattern"),
         "value": transformation["MetricValue"], "metric": transformation["MetricName"]}
        for one in found.bridge.of("Logs::MetricFilter") for transformation in one.get("MetricTransformations")
    ]  # fmt: skip
