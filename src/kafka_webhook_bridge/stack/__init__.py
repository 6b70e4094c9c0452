"""The real servers without Docker: Apache Kafka and PostgreSQL for `kwb up`, for tests and for benchmarks.

Several stacks stand side by side when each has its own folder and free ports.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from kafka_webhook_bridge.stack.bridge import Bridge
from kafka_webhook_bridge.stack.files import make_folder
from kafka_webhook_bridge.stack.kafka import HEAP_BYTES, Kafka, KafkaPorts
from kafka_webhook_bridge.stack.keeper import together
from kafka_webhook_bridge.stack.postgres import Postgres

__all__ = ["Bridge", "Kafka", "KafkaPorts", "Postgres", "Stack"]


class Stack:
    """A broker and a database in `folder`, on free ports unless they are given."""

    def __init__(
        self,
        folder: Path,
        *,
        kafka_ports: KafkaPorts | None = None,
        postgres_port: int = 0,
        heap_bytes: int = HEAP_BYTES,
        consumers: Mapping[str, str] | None = None,
        jar_cache: Path | None = None,
        postgres_binaries: Path | None = None,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.folder = folder
        self.kafka = Kafka(
            folder / "kafka",
            ports=kafka_ports,
            heap_bytes=heap_bytes,
            consumers=consumers,
            jar_cache=jar_cache,
            progress=progress,
        )
        self.postgres = Postgres(folder / "postgres", port=postgres_port, binaries=postgres_binaries, progress=progress)

    def start(self) -> None:
        """Both at once. When one fails, the other is stopped and the error raised."""
        make_folder(self.folder, to_pass=True)
        try:
            together([self.kafka.start, self.postgres.start])
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Both at once, cleanly."""
        together([self.kafka.stop, self.postgres.stop])

    def destroy(self) -> None:
        """End both at once and remove everything that they wrote."""
        self.kafka.destroy()
        self.postgres.destroy()
        shutil.rmtree(self.folder, ignore_errors=True)

    def environ(self) -> dict[str, str]:
        """Environment names and values that point the bridge at this stack."""
        return {
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka.bootstrap,
            "KAFKA_USERNAME": self.kafka.username,
            "KAFKA_PASSWORD": self.kafka.password,
            "KWB_KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
            "KWB_KAFKA_SASL_MECHANISM": "PLAIN",
            "DATABASE_URL": self.postgres.url,
        }
