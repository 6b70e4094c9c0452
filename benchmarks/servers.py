"""Fresh servers for one benchmark, on free ports and on a disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from kafka_webhook_bridge.stack import Kafka, Postgres, Stack
from topics import Cluster

# As a server that holds an archive is run. With its own defaults (1 GB, 128 MB) PostgreSQL makes a checkpoint every few
# seconds under this load, and writes every page of the JSON index in full after each.
POSTGRES_OPTIONS = {"max_wal_size": "8GB", "shared_buffers": "1GB"}


@contextmanager
def embedded_stack(
    postgres_options: Mapping[str, str] | None = None, *, jvm: Sequence[str] = (), proxy_advertised: str = ""
) -> Iterator[tuple[Stack, Cluster]]:
    """Kafka and PostgreSQL, and the cluster as clients see it. `jvm` are options of a broker with 1 GiB of heap, whose
    PROXY sends its clients to `proxy_advertised`."""
    with tempfile.TemporaryDirectory(prefix="kwb-bench-", dir="/var/tmp") as name:  # /tmp may be memory
        Path(name).chmod(0o711)
        stack = Stack(Path(name) / "stack")
        if jvm:
            stack.kafka = Kafka(
                stack.kafka.folder, jvm=jvm, heap_bytes=1024 * 1024**2, proxy_advertised=proxy_advertised
            )
        if postgres_options:
            stack.postgres = Postgres(stack.postgres.folder, options=postgres_options)
        Console(stderr=True).print("starting Kafka and PostgreSQL")
        stack.start()
        try:
            yield stack, Cluster(stack.kafka.bootstrap, stack.kafka.username, stack.kafka.password)
        finally:
            stack.destroy()
