"""The real servers without Docker: Apache Kafka and PostgreSQL for `kwb up`, for tests and for benchmarks.

Several stacks stand side by side when each has its own folder and free ports.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from kafka_webhook_bridge.stack.files import make_folder
from kafka_webhook_bridge.stack.kafka import Kafka, KafkaPorts
from kafka_webhook_bridge.stack.postgres import Postgres

__all__ = ["Kafka", "KafkaPorts", "Postgres", "Stack"]


class Stack:
    """A broker and a database in `folder`, on free ports unless they are given."""

    def __init__(
        self,
        folder: Path,
        *,
        kafka_ports: KafkaPorts | None = None,
        postgres_port: int = 0,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.folder = folder
        self.kafka = Kafka(folder / "kafka", ports=kafka_ports, progress=progress)
        self.postgres = Postgres(folder / "postgres", port=postgres_port, progress=progress)

    def start(self) -> None:
        """Both at once. When one fails, the other is stopped and the error raised."""
        # As root PostgreSQL runs as another user, who has to pass through here to its own folder.
        make_folder(self.folder, 0o711 if os.geteuid() == 0 else 0o700)
        with ThreadPoolExecutor(2) as pool:
            starts = [pool.submit(server.start) for server in (self.kafka, self.postgres)]
        for start in starts:
            if start.exception():
                self.stop()
            start.result()

    def stop(self) -> None:
        """Both at once, cleanly."""
        with ThreadPoolExecutor(2) as pool:
            for stop in [pool.submit(server.stop) for server in (self.kafka, self.postgres)]:
                stop.result()

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
            "DATABASE_URL": self.postgres.url,
        }
