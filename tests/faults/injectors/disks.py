"""Full disks and lost power, on file systems of the suite's own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from faults.disk import Disk
from faults.ground import Ground
from faults.injectors import Fault
from faults.world import World


@contextlib.contextmanager
def ground_on_disks(path: Path) -> Iterator[Ground]:
    """Both servers on file systems that can be filled and lose their power."""
    servers = path / "servers"
    servers.mkdir()
    servers.chmod(0o711)
    ground = Ground(servers)
    with contextlib.ExitStack() as closing:
        ground.kafka_disk = Disk(path / "kafka.img", ground.kafka.folder)
        closing.callback(ground.kafka_disk.close)
        ground.postgres_disk = Disk(path / "postgres.img", ground.postgres.folder)
        closing.callback(ground.postgres_disk.close)
        closing.callback(ground.destroy)
        ground.start()
        ground.kafka_disk.sync()
        ground.postgres_disk.sync()
        yield ground


@contextlib.contextmanager
def ground_alone(path: Path) -> Iterator[Ground]:
    """Servers that nobody uses afterwards."""
    ground = Ground(path / "servers")
    try:
        yield ground.start()
    finally:
        ground.destroy()


def kafka_power_cut(world: World) -> None:
    world.moment()
    with world.fault("the broker loses its power"):
        assert world.ground.kafka.pid
        assert world.ground.kafka_disk
        world.ground.kafka_disk.cut([world.ground.kafka.pid])
        world.ground.kafka.kill()
        world.ground.kafka.start()


def postgres_power_cut(world: World) -> None:
    """While Kafka is away, so that PostgreSQL alone holds what is acknowledged."""
    with world.fault("Kafka killed, PostgreSQL loses its power"):
        world.ground.kafka.kill()
        world.last(4)
        world.moment()
        assert world.ground.postgres_disk
        world.ground.postgres_disk.cut(world.ground.postgres_pids())
        world.ground.postgres.kill()
        world.ground.postgres.start()
        world.last(2)
        world.ground.kafka.start()


_NO_SPACE = "No space left on device"


def disk_full(store: str) -> Fault:
    """The server ends or refuses to write; then somebody makes room and starts it again."""

    def fault(world: World) -> None:
        ground = world.ground
        filled, server = (
            (ground.kafka_disk, ground.kafka) if store == "kafka" else (ground.postgres_disk, ground.postgres)
        )
        assert filled is not None
        with world.fault(f"the disk of {store} is full"):
            filled.fill()
            world.last(8)
            world.notes.append(f"{server.name} {'goes on' if server.alive else 'ended'}")
            if _NO_SPACE not in server.log.read_text(errors="replace"):
                world.problems.append(f"{server.name} did not notice")
            filled.free()
            if not server.alive:
                server.start()

    return fault
