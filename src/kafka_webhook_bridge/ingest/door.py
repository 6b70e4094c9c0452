"""Accepts connections as long as there are file descriptors for them, and some to spare.

With none left, libuv accepts a connection with a descriptor that it keeps for this, and closes it: the sender meets an
end without an answer. So accepting stops earlier; who comes then waits in the kernel's queue, as on a busy day, and
what the bridge itself has to open (connections to Kafka and PostgreSQL) still can be.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import Callable
from typing import Any

from kafka_webhook_bridge.ingest.protocol import Connection
from kafka_webhook_bridge.observability import health, logs, metrics

BACKLOG = 2048  # connections that the kernel keeps until they are accepted
SPARE_FILES = 64  # connections of librdkafka and of the pool come and go
_AGAIN_S = 0.1  # how often a closed door looks whether there is room


class Door:
    """The accepting side of one listening socket, which outlives it. `options` are those of `loop.create_server`."""

    def __init__(
        self, listener: socket.socket, make: Callable[[], Connection], connections: Callable[[], int], **options: Any
    ) -> None:
        self._listener = listener
        self._make = make
        self._connections = connections
        self._options = options
        self._own_files = 0
        self._server: asyncio.Server | None = None
        self._full = asyncio.Event()
        self._log = logs.get_logger("ingest")

    async def open(self) -> None:
        """Begin to accept."""
        process = metrics.read_process(os.getpid())
        self._own_files = 0 if process is None else process.open_files
        await self._open()

    async def run(self) -> None:
        """Open again whenever there is room, until cancelled."""
        while True:
            await self._full.wait()
            await asyncio.sleep(_AGAIN_S)
            if self._server is not None or not self._has_room():
                continue
            try:
                await self._open()
            except OSError:  # something else took what there was
                continue
            self._full.clear()
            self._log.info("connections are accepted again", connections=self._connections())

    def parts(self) -> list[health.Part]:
        """What health tells of it."""
        if not self._full.is_set():
            return []
        return [health.Part("files", "degraded", f"new connections wait: {_limit()} open files allowed")]

    def close(self) -> None:
        """Accept no more, for good. What waits in the kernel's queue stays there."""
        self._full.clear()
        if self._server is not None:
            self._server.close()

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            self._accepted, sock=self._listener.dup(), backlog=BACKLOG, **self._options
        )

    def _accepted(self) -> Connection:
        if not self._has_room():
            # Not at once: the loop has yet to give the connection to its transport.
            asyncio.get_running_loop().call_soon(self._shut)
        return self._make()

    def _has_room(self) -> bool:
        limit = _limit()
        return limit == resource.RLIM_INFINITY or self._own_files + self._connections() + SPARE_FILES < limit

    def _shut(self) -> None:
        if self._server is None:
            return
        self._server.close()
        self._server = None
        self._full.set()
        self._log.warning(
            "new connections wait: no file descriptors left", connections=self._connections(), files_max=_limit()
        )


def _limit() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
