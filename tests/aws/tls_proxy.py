"""What a network load balancer does on a TLS listener: it ends TLS with its certificate and passes bytes on.

Before them it says for whom, in version 2 of the PROXY protocol, as one with `proxy_protocol_v2.enabled`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from pathlib import Path

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
# What AWS adds for somebody who comes through a VPC endpoint. Whoever does not know its type skips it.
_ENDPOINT = b"\xea" + (23).to_bytes(2) + b"\1vpce-0123456789abcdef0"
HEALTH_CHECK = _SIGNATURE + b"\x20\0\0\0"  # of a connection that is nobody's but its own


def header(source: tuple[str, int], door: tuple[str, int]) -> bytes:
    """That somebody came by TCP over IPv4 from an address and port to another."""
    ports = source[1].to_bytes(2) + door[1].to_bytes(2)
    block = socket.inet_aton(source[0]) + socket.inet_aton(door[0]) + ports + _ENDPOINT
    return _SIGNATURE + b"\x21\x11" + len(block).to_bytes(2) + block


class TlsProxy:
    """From `port` on 127.0.0.1, with `server.pem` and `server.key` of a folder, to a plain port there."""

    def __init__(self, folder: Path, target: int) -> None:
        self.port = 0
        self._target = target
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(folder / "server.pem", folder / "server.key")
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(60)

    def _run(self) -> None:
        async def serve() -> None:
            self._server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0, ssl=self._context)
            self.port = self._server.sockets[0].getsockname()[1]
            self._ready.set()

        self._loop.set_exception_handler(lambda *_: None)  # hand-shakes that a test lets fail
        self._loop.run_until_complete(serve())
        self._loop.run_forever()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        inner_writer.write(header(writer.get_extra_info("peername"), writer.get_extra_info("sockname")))
        await asyncio.gather(_pump(reader, inner_writer), _pump(inner_reader, writer))

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, ssl.SSLError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.close()
