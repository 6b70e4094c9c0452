"""Everything at once."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

from faults.injectors import Fault
from faults.proxy import Proxy
from faults.world import World


def mixed(seconds: float) -> Fault:
    """One to three faults at a time, for 3 to 8 s, chosen by the seed."""

    def fault(world: World) -> None:
        ground, dice = world.ground, world.dice

        def killed(server: Any) -> Iterator[None]:
            server.kill()
            yield
            server.start()

        def shaped(proxy: Proxy, **link: Any) -> Iterator[None]:
            proxy.shape(**link)
            yield
            proxy.clear()

        def downed(proxy: Proxy) -> Iterator[None]:
            proxy.down()
            yield
            proxy.up()

        def child(role: str) -> Iterator[None]:
            for pid in world.bridge.children(role):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            yield

        def wrap(make: Callable[..., Iterator[None]], *a: Any, **k: Any) -> Callable[[], Any]:
            return lambda: contextlib.contextmanager(make)(*a, **k)

        choices: dict[str, dict[str, Callable[[], Any]]] = {
            "kafka": {
                "Kafka killed": wrap(killed, ground.kafka),
                "Kafka stands still": ground.kafka_stopped,
                "Kafka unreachable": wrap(downed, ground.to_kafka),
                "Kafka's answers lost": wrap(shaped, ground.to_kafka, cut=frozenset({"to_client"})),
                "Kafka far away": wrap(shaped, ground.to_kafka, latency_s=0.4, jitter_s=0.4),
            },
            "postgres": {
                "PostgreSQL killed": wrap(killed, ground.postgres),
                "PostgreSQL stands still": ground.postgres_stopped,
                "PostgreSQL unreachable": wrap(downed, ground.to_postgres),
                "PostgreSQL deaf": wrap(shaped, ground.to_postgres, cut=frozenset({"to_server", "to_client"})),
            },
            "bridge": {"ingest killed": wrap(child, "ingest"), "worker killed": wrap(child, "worker")},
        }
        end = time.monotonic() + seconds * world.times
        while time.monotonic() < end:
            what = [
                dice.choice(sorted(choices[part])) for part in dice.sample(sorted(choices), dice.choice((1, 1, 2, 3)))
            ]
            with world.fault(" + ".join(what)), contextlib.ExitStack() as healing:
                for name in what:
                    healing.enter_context(next(group[name] for group in choices.values() if name in group)())
                world.moment(3, 8)
            world.moment(1, 3)

    return fault
