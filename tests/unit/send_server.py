"""A small HTTP server for the tests of `kwb send`: in a thread, on a free port, every answer written by the test."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

RECEIPT = b'{"event_id":"0196e0a2-0000-7000-8000-000000000001","source":"github","duplicate":false,"stored":"kafka"}'


@dataclass
class Seen:
    """A request as its bytes came."""

    head: bytes
    body: bytes

    def header(self, name: str) -> list[str]:
        lines = [line.partition(b":") for line in self.head.split(b"\r\n")[1:]]
        return [value.strip().decode() for key, _, value in lines if key.decode().lower() == name.lower()]

    @property
    def line(self) -> str:
        return self.head.split(b"\r\n")[0].decode()


def answer(status: int = 200, body: bytes = RECEIPT, *headers: str) -> bytes:
    lines = "".join(f"{header}\r\n" for header in headers)
    return f"HTTP/1.1 {status} Whatever\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode() + body


Reply = Callable[[Seen, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Server:
    """`reply` writes the answer; the connection stays open unless it closes the writer."""

    reply: Reply
    tls: ssl.SSLContext | None = None
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    arrived: threading.Condition = field(default_factory=threading.Condition)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    _tasks: list[asyncio.Task[None] | None] = field(default_factory=list)  # a loop does not keep them alive

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def wait_for(self, requests: int, timeout_s: float = 30) -> None:
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.seen) >= requests, timeout_s)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        self._tasks.append(asyncio.current_task())
        try:
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n"))[:-4]
                request = Seen(head, b"")
                request.body = await reader.readexactly(int((request.header("content-length") or ["0"])[0]))
                with self.arrived:
                    self.seen.append(request)
                    self.arrived.notify_all()
                await self.reply(request, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except asyncio.CancelledError:  # the loop ends: what is not closed by then never is
            writer.transport.abort()
            raise
        finally:
            writer.close()


def always(data: bytes) -> Reply:
    async def reply(_: Seen, writer: asyncio.StreamWriter) -> None:
        writer.write(data)

    return reply


async def never(_: Seen, __: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


@contextlib.contextmanager
def serving(reply: Reply, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    server, ready, loop = Server(reply, tls), threading.Event(), asyncio.new_event_loop()

    async def run() -> None:
        listener = await asyncio.start_server(server._serve, "127.0.0.1", 0, ssl=tls)
        server.port = listener.sockets[0].getsockname()[1]
        ready.set()
        try:
            await asyncio.Event().wait()
        finally:
            listener.close()

    task = loop.create_task(run())

    async def turns() -> None:
        """Let the loop do what it has begun: connections that were just accepted, or just closed."""
        for _ in range(10):
            await asyncio.sleep(0)

    async def end() -> None:
        await turns()  # a connection whose task has not begun would be closed by nobody
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for one in others:
            one.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for writer in server.writers:  # one that waits for its reader would not be closed before the loop is
            writer.transport.abort()
        await turns()

    def thread() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.run_until_complete(end())
        loop.close()

    worker = threading.Thread(target=thread)
    worker.start()
    assert ready.wait(10)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(task.cancel)
        worker.join(10)
        assert not worker.is_alive()
