"""The servers that are broken: a Kafka and a PostgreSQL of the suite's own, each behind a proxy.

The broker's INTERNAL listener advertises its proxy, so the bridge never gets past it. The suite itself speaks to the
listener BROKER and to PostgreSQL's own port, which no proxy disturbs. PROXY, for outside consumers, advertises the port
that nginx takes where a scenario starts it (injectors/edges.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import confluent_kafka as ck
import confluent_kafka.admin

from faults.disk import Disk
from faults.proxy import Proxy
from kafka_webhook_bridge.kafka.config import client_config
from kafka_webhook_bridge.settings import KafkaSettings
from kafka_webhook_bridge.stack import Kafka, KafkaPorts, Postgres
from kafka_webhook_bridge.stack.files import make_folder
from kafka_webhook_bridge.stack.keeper import together
from kafka_webhook_bridge.stack.ports import LOOPBACK, free_ports

_ADMIN_S = 30.0


class Ground:
    """One broker and one database with their proxies. `properties` and `options` are the servers' own settings."""

    def __init__(
        self,
        folder: Path,
        *,
        seed: int = 0,
        properties: Mapping[str, str] | None = None,
        options: Mapping[str, str] | None = None,
    ) -> None:
        ports = KafkaPorts(*free_ports(4))
        kafka_port, postgres_port, self.outside_port = free_ports(3)
        self.folder = folder
        self._properties = {"file.delete.delay.ms": "1000", "log.initial.task.delay.ms": "1000", **(properties or {})}
        self.kafka = self._broker(ports, kafka_port)
        self.kafka_disk: Disk | None = None  # of a ground that has them (injectors/disks.py)
        self.postgres_disk: Disk | None = None
        self._admin: ck.admin.AdminClient | None = None
        self.postgres = Postgres(folder / "postgres", options=options)
        self.to_kafka = Proxy(kafka_port, ports.internal, seed)
        self.to_postgres = Proxy(postgres_port, self.postgres.port, seed + 1)

    def _broker(self, ports: KafkaPorts, advertised_port: int) -> Kafka:
        host = LOOPBACK
        others = f"BROKER://{host}:{ports.broker},PROXY://localhost:{self.outside_port}"
        return Kafka(
            self.folder / "kafka",
            ports=ports,
            properties={"advertised.listeners": f"INTERNAL://{host}:{advertised_port},{others}", **self._properties},
        )

    def advertise(self, port: int) -> None:
        """INTERNAL's address for clients is another from the next start on. Kafka must not run."""
        self.kafka = self._broker(self.kafka.ports, port)

    def start(self) -> Ground:
        make_folder(self.folder, to_pass=True)
        # First, because whoever asks the broker whether it is ready is sent to its advertised address.
        self.to_kafka.start()
        self.to_postgres.start()
        together([self.kafka.start, self.postgres.start])
        return self

    def destroy(self) -> None:
        """End everything, whatever state a scenario has left it in."""
        for pid in (*self.postgres_pids(), *([self.kafka.pid] if self.kafka.alive else [])):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid or 0, signal.SIGCONT)
        self.kafka.destroy()
        self.postgres.destroy()
        self.to_kafka.stop()
        self.to_postgres.stop()

    def heal(self) -> None:
        """Everything runs and every wire carries."""
        self.to_kafka.clear()
        self.to_kafka.up()
        self.to_postgres.clear()
        self.to_postgres.up()
        for pid in (*self.postgres_pids(), *([self.kafka.pid] if self.kafka.alive else [])):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid or 0, signal.SIGCONT)
        missing = [server.start for server in (self.kafka, self.postgres) if not server.alive]
        if missing:
            together(missing)

    # ── how to reach them ─────────────────────────────────────────────────────────────────────────────────────────

    def environ(self) -> dict[str, str]:
        """For a bridge: both by their proxies."""
        return {
            "KAFKA_BOOTSTRAP_SERVERS": f"{LOOPBACK}:{self.to_kafka.port}",
            "KAFKA_USERNAME": self.kafka.username,
            "KAFKA_PASSWORD": self.kafka.password,
            "KWB_KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
            "KWB_KAFKA_SASL_MECHANISM": "PLAIN",
        }

    def bridge_url(self, database: str) -> str:
        """A database by the proxy."""
        return database.replace(f":{self.postgres.port}/", f":{self.to_postgres.port}/")

    @property
    def settings(self) -> KafkaSettings:
        """Of the suite's own Kafka clients."""
        return dataclasses.replace(self.kafka.settings, bootstrap_servers=f"{LOOPBACK}:{self.kafka.ports.broker}")

    @property
    def client(self) -> dict[str, Any]:
        """The same as librdkafka's configuration."""
        return client_config(self.settings)

    def admin(self) -> ck.admin.AdminClient:
        """One for the life of the ground: what it is asked ends with it."""
        if self._admin is None:
            self._admin = ck.admin.AdminClient(self.client)
        return self._admin

    def make_topics(self, names: Iterable[str], **config: str) -> None:
        for future in self.admin().create_topics([ck.admin.NewTopic(n, 6, 1, config=config) for n in names]).values():
            future.result(_ADMIN_S)

    def delete_topics(self, names: Iterable[str]) -> None:
        for future in self.admin().delete_topics(list(names)).values():
            future.result(_ADMIN_S)

    def set_topic(self, name: str, **config: str) -> None:
        """Topic settings, with underscores for dots."""
        entries = [
            ck.admin.ConfigEntry(key.replace("_", "."), value, incremental_operation=ck.admin.AlterConfigOpType.SET)
            for key, value in config.items()
        ]
        resource = ck.admin.ConfigResource(ck.admin.ResourceType.TOPIC, name, incremental_configs=entries)
        for future in self.admin().incremental_alter_configs([resource]).values():
            future.result(_ADMIN_S)

    def postgres_pids(self) -> list[int]:
        """The server and its backends."""
        pid = self.postgres.pid
        return [pid, *children(pid)] if pid is not None and self.postgres.alive else []

    # ── signals ───────────────────────────────────────────────────────────────────────────────────────────────────

    @contextlib.contextmanager
    def kafka_stopped(self) -> Iterator[None]:
        """It keeps its connections and says nothing."""
        assert self.kafka.pid
        os.kill(self.kafka.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.kafka.pid, signal.SIGCONT)

    @contextlib.contextmanager
    def postgres_stopped(self) -> Iterator[None]:
        """Every process of it, the server first, so that no backend starts unseen."""
        pids = self.postgres_pids()
        os.kill(pids[0], signal.SIGSTOP)
        pids = self.postgres_pids()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in reversed(pids):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def kill_postgres(self) -> None:
        """SIGKILL to the server and to every backend, as the end of its machine."""
        pids = self.postgres_pids()
        os.kill(pids[0], signal.SIGSTOP)
        for pid in (*self.postgres_pids()[1:], pids[0]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.postgres.kill()


def children(pid: int) -> list[int]:
    """Pids of the processes that `pid` started."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            found += map(int, (task / "children").read_text().split())
    return found
