"""nginx, through which outside consumers come, and its certificate. The bridge's senders do not meet it here."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

from edge import Edge, edge
from faults.injectors import Fault
from faults.load import SHUT
from faults.outside import USER, Reader, let_in, refused, serial, verify_code
from faults.world import World, until
from kafka_webhook_bridge.kafka.users import Users

_HOSTNAME_MISMATCH, _EXPIRED = 62, 10  # OpenSSL's X509_V_ERR_…


def nginx_restarted(seconds: float) -> Fault:
    """Reloaded twice, then its workers are killed, then all of it, and it stays away for a while."""

    def fault(world: World) -> None:
        front, reader = _visited(world)
        with world.fault("nginx reloaded"):
            for _ in range(2):
                front.reload()
                _reads_on(world, reader)
        _undisturbed(world, reader, "reload")
        for _ in range(world.times):
            world.moment()
            with world.fault("nginx's workers killed"):
                _cut(reader, lambda: _kill(front.workers()))
                _back(world, reader, "its workers were killed")
            world.moment()
            with world.fault("nginx killed"):
                _cut(reader, front.stop)
                world.last(seconds)
                front.start()
            _back(world, reader, f"{seconds:.0f} s away")

    return fault


def certificate_changed(world: World) -> None:
    """Rotated, then of a wrong name, then expired, then right again; at last the consumer must connect anew."""
    front, reader = _visited(world)
    first = set(front.workers())
    with world.fault("another certificate"):
        new = front.authority.issue(front.tls)
        front.reload()
        if serial(front) != new:
            world.problems.append("a new connection is shown the old certificate")
        _reads_on(world, reader)
    wrong: tuple[tuple[str, int, dict[str, Any]], ...] = (
        ("a certificate of another name", _HOSTNAME_MISMATCH, {"names": ("other.test",)}),
        ("an expired certificate", _EXPIRED, {"days": -1}),
    )
    for label, code, change in wrong:
        with world.fault(label):
            front.authority.issue(front.tls, **change)
            front.reload()
            if (found := verify_code(front)) != code:
                world.problems.append(f"{label}: a client's verdict is {found}, {code} wanted")
            if not refused(front, world.facts()["plain"].topic):
                world.problems.append(f"{label}: a new consumer was let in")
            _reads_on(world, reader)
    _undisturbed(world, reader, "change of the certificate")
    with world.fault("the right certificate, established connections cut"):
        front.authority.issue(front.tls)
        front.reload()
        if not (held := first & set(front.workers())):
            world.problems.append("no worker of the start holds the consumer's connection")
        _cut(reader, lambda: _kill(held))
    _back(world, reader, "its connections were cut")


def _visited(world: World) -> tuple[Edge, Reader]:
    """nginx, and a partner who reads through it and has committed some."""
    ground = world.ground
    users = Users(ground.settings)
    world.closing.callback(users.delete, USER)
    let_in(users, world.run)
    front = world.closing.enter_context(
        edge(world.folder, ingest=world.bridge.port, kafka=ground.kafka.ports.proxy, port=ground.outside_port)
    )
    reader = Reader(front, [facts.topic for name, facts in world.facts().items() if name != SHUT])
    world.closing.callback(reader.close)
    world.outside = reader
    _reads_on(world, reader)
    until(lambda: reader.committed > 0, "the consumer commits")
    return front, reader


def _reads_on(world: World, reader: Reader) -> None:
    """Wait for a record that is younger than now by a second: by then it has asked for several more times."""
    now = time.time()
    try:
        until(lambda: reader.newest > now + 1, "the consumer reads on", 30)
    except AssertionError:
        world.problems.append(f"the consumer does not read on: {reader.errors[-3:]}")


def _back(world: World, reader: Reader, why: str) -> None:
    """Wait for a record that is younger than now."""
    began = time.time()
    until(lambda: reader.newest > began, "the consumer is back")
    reader.back_s.append(time.time() - began)
    world.notes.append(f"{why}: the consumer had a new record after {reader.back_s[-1]:.1f} s")


def _cut(reader: Reader, act: Callable[[], object]) -> None:
    """Do it and wait until the consumer has noticed: a fault that nobody meets is none."""
    before = len(reader.errors)
    act()
    until(lambda: len(reader.errors) > before, "the consumer notices")


def _kill(pids: Any) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def _undisturbed(world: World, reader: Reader, what: str) -> None:
    if reader.errors:
        world.problems.append(f"the consumer noticed a {what}: {reader.errors[:3]}")
