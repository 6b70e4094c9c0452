"""The clock, the memory and the file descriptors of the bridge's machine."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Iterator

from bridge import Client, request
from faults.injectors import Around, Fault
from faults.injectors.senders import crowd
from faults.machine import Clock, Memory, open_files_limited
from faults.world import World, until


@contextlib.contextmanager
def with_clock(world: World) -> Iterator[None]:
    """The bridge's wall clock is the scenario's to move."""
    world.clock = Clock(world.folder / "clock")
    world.options.environ |= world.clock.environ
    yield


def clock_jumps(world: World) -> None:
    assert world.clock is not None
    for name, offset_s in (("+2 h", 7200), ("-2 h", -7200), ("+1 d", 86_400), ("-1 d", -86_400)):
        with world.fault(f"the clock jumps {name}"):
            world.clock.set(offset_s)
            world.last(4)
            world.clock.set(0)
        world.last(1)


def files_exhausted(world: World) -> None:
    """New connections wait in the backlog; those that are open go on; in the end everybody is answered."""
    pids = world.bridge.children("ingest")
    with crowd(world, 0), contextlib.ExitStack() as closing:
        with world.fault("no file descriptors left"), open_files_limited(pids, 8):
            clients = [closing.enter_context(Client(world.bridge.port)) for _ in range(60)]
            for client in clients:
                client.send(request("/health", method="GET", login=""))
            world.last(4)
            answered = len(select.select([client.socket for client in clients], [], [], 0)[0])
        world.notes.append(
            f"{answered} of {len(clients)} new connections were answered meanwhile, all of them afterwards"
        )
        if answered == len(clients):
            world.problems.append("no descriptor was missing")
        if {client.answer().status for client in clients} != {200}:
            world.problems.append("a connection that waited was not answered")


@contextlib.contextmanager
def with_memory(bytes_max: int, world: World) -> Iterator[None]:
    world.memory = Memory(f"kwb-faults-{os.getpid()}", bytes_max)
    yield
    world.memory.close()


def memory_limited(bytes_max: int) -> Around:
    return lambda world: with_memory(bytes_max, world)


def noise_passes(world: World) -> bool:
    world.bridge.ask(request("/noise/x", b"x", login=""))
    return not world.totals().get("kwb_breaker_open", 0)


def memory_pressure(count: int, body_bytes: int) -> Fault:
    """Many large bodies at once, while Kafka stands still and takes none of them off."""

    def fault(world: World) -> None:
        memory = world.memory
        assert memory is not None
        processes = [world.bridge.process.pid, *world.bridge.children("ingest"), *world.bridge.children("worker")]
        memory.add(processes)
        statuses: list[int] = []
        with world.fault("large bodies, little memory"), world.ground.kafka_stopped(), crowd(world, count) as clients:
            body = b"x" * body_bytes
            for client in clients:
                client.socket.settimeout(0.5)
                client.send(request("/noise/x", body))
            for client in clients:
                client.socket.settimeout(30)
                with contextlib.suppress(OSError, AssertionError):
                    statuses.append(client.answer().status)
        until(lambda: noise_passes(world), "its breaker is closed")  # nobody else sends to that topic
        world.notes.append(f"{statuses.count(200)} large bodies taken, {statuses.count(503)} refused with 503")
        if memory.kills or processes[1:2] != world.bridge.children("ingest"):
            world.problems.append(f"the kernel ended {memory.kills} processes, or one ended itself")

    return fault
