"""The bridge's own processes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from faults.injectors import Fault
from faults.world import World, until


def child_killed(role: str, sign: signal.Signals = signal.SIGKILL) -> Fault:
    """A process of the bridge, at a random moment, again and again; its supervisor starts another."""

    def fault(world: World) -> None:
        for _ in range(world.times):
            world.moment()
            before = world.bridge.children(role)
            with world.fault(f"{role} killed"):
                for pid in before:
                    os.kill(pid, sign)
                until(
                    lambda before=before: (now := world.bridge.children(role)) and not set(now) & set(before),  # type: ignore[misc]
                    "another process",
                )
                world.until_healthy()
                world.acks(world.options.rate * 0.2)

    return fault


def supervisor_killed(world: World) -> None:
    """Its children end with it; somebody starts the bridge again."""
    for _ in range(world.times):
        world.moment()
        with world.fault("supervisor killed"):
            old = world.bridges.pop()
            pids = [*old.children("ingest"), *old.children("worker")]
            world.replaced = True
            old.process.kill()
            old.process.wait()
            until(
                lambda pids=pids: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in pids), "the children ended"
            )  # type: ignore[misc]
            world.bridges.append(world.start_bridge(KWB_INGEST_PORT=str(old.port)))
            world.until_healthy()
            world.acks(world.options.rate * 0.2)


def drained(world: World) -> None:
    """SIGTERM; then a new one on the same port."""
    world.moment()
    with world.fault("SIGTERM"):
        old = world.bridges.pop()
        world.replaced = True
        old.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        status = old.process.wait(120)
        world.notes.append(f"the bridge ended with status {status} after {time.monotonic() - began:.1f} s")
        world.bridges.append(world.start_bridge(KWB_INGEST_PORT=str(old.port)))
        world.until_healthy()


def rolled(world: World) -> None:
    """Two bridges on one port, replaced one after the other."""
    world.bridges.append(world.start_bridge())
    world.until_healthy()
    with world.fault("rolling restart"):
        for _ in range(2):
            world.moment()
            old = world.bridges.pop(0)
            world.replaced = True
            old.process.send_signal(signal.SIGTERM)
            status = old.process.wait(120)
            world.notes.append(f"a bridge ended with status {status}")
            world.bridges.append(world.start_bridge(KWB_INGEST_PORT=str(old.port)))
            world.until_healthy()


def relay_killed(world: World) -> None:
    """The worker dies at its failpoint (set in its environment) while the outbox of an outage is sent."""
    with world.fault("Kafka killed"):
        world.ground.kafka.kill()
        world.last(2)
        world.ground.kafka.start()
    back = time.time()
    with world.fault("the relay dies after each acknowledgement"):
        until(lambda: world.totals().get("kwb_worker_restarts_total", 0) >= 1, "the worker died")
        until(lambda: world.query("SELECT count(*) FROM outbox WHERE created_at < to_timestamp($1)", back) == 0, "sent")
    world.notes.append(f"the worker died {world.totals()['kwb_worker_restarts_total']:.0f} times")


def long_transaction(world: World) -> None:
    """A snapshot is held while two bridges share the outbox."""
    world.bridges.append(world.start_bridge())
    world.until_healthy()
    with world.fault("a long transaction, two relays"), world.snapshot_held():
        world.last(10)
