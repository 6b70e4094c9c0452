"""Senders that behave badly, and crowds of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from bridge import Client
from faults.injectors import Fault
from faults.world import World


@contextlib.contextmanager
def crowd(world: World, count: int) -> Iterator[list[Client]]:
    """Connections of other senders. They are in no journal, so the counters do not tell of the load alone."""
    world.replaced = True
    with contextlib.ExitStack() as closing:
        clients = []
        for _ in range(count):
            with contextlib.suppress(OSError):
                clients.append(closing.enter_context(Client(world.bridge.port)))
        yield clients


def slow_senders(count: int) -> Fault:
    """Headers and bodies that never end, a byte at a time."""

    def fault(world: World) -> None:
        with world.fault("slow senders"), crowd(world, count) as clients:
            for n, client in enumerate(clients):
                client.send(
                    b"POST /noise HTTP/1.1\r\nHost: x\r\n" + (b"Content-Length: 1000\r\n\r\n" if n % 2 else b"")
                )
            for _ in range(40):
                world.last(0.2)
                for client in clients:
                    client.send(b"x")

    return fault


_LIES = (
    b"POST /noise HTTP/1.1\r\nHost: x\r\nContent-Length: 1048577\r\n\r\n",
    b"POST /noise HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551616\r\n\r\n",
    b"POST /noise HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\n\x1f\x8b\x08\0\0",
    b"POST /noise HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"10000\r\n" + b"x" * 65536 + b"\r\n",
)


def lying_senders(world: World) -> None:
    """Bodies over the limit, lengths that are none, bombs, chunks without end."""
    statuses: dict[int, int] = {}
    with world.fault("lying senders"):
        for n in range(80):
            with crowd(world, 1) as clients:
                for client in clients:
                    lie = _LIES[n % len(_LIES)]
                    client.send(lie)
                    if b"chunked" in lie:
                        for _ in range(16):
                            client.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                    status = client.answer().status
                    statuses[status] = statuses.get(status, 0) + 1
            world.last(0.05)
    world.notes.append(f"answers to lies: {dict(sorted(statuses.items()))}")
    if statuses.keys() - {400, 413, 415}:
        world.problems.append("a lie was believed")
