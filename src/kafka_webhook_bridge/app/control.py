"""What a supervisor and a child tell each other: one JSON object a line over a socket pair.

child → supervisor   {"parts": [{"name", "status", "reason", "durable"}, …]}    when it serves, then every second
supervisor → child   {"do": "drain"}                                            end of file means the same
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import asdict
from typing import Any

import orjson

from kafka_webhook_bridge.observability.health import Part

LINE_BYTES_MAX = 65_536


class Channel:
    """One end. Lines longer than LINE_BYTES_MAX end the channel."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, sock: socket.socket) -> Channel:
        sock.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=sock, limit=LINE_BYTES_MAX)
        return cls(reader, writer)

    def tell(self, message: dict[str, Any]) -> None:
        """Never waits; the other end reads all the time or is gone."""
        if not self._writer.is_closing():
            self._writer.write(orjson.dumps(message) + b"\n")

    def tell_parts(self, parts: list[Part]) -> None:
        self.tell({"parts": [asdict(part) for part in parts]})

    async def hear(self) -> dict[str, Any] | None:
        """The next message; None when the other end is gone."""
        try:
            line = await self._reader.readuntil(b"\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            return None
        message: dict[str, Any] = orjson.loads(line)
        return message

    def close(self) -> None:
        self._writer.close()
