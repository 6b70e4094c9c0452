"""A producer's way to the cluster: lost when the broker is killed, not when it closes a connection or stands still."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bridge import WAIT_S
from kafka_webhook_bridge.event import Record
from kafka_webhook_bridge.kafka.admin import Admin
from kafka_webhook_bridge.kafka.producer import Outcome, Producer
from kafka_webhook_bridge.stack import Stack


async def until(condition: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, f"never: {what}"
        await asyncio.sleep(0.02)


class Watched:
    """A producer, and what it said of its connection."""

    def __init__(self, stack: Stack) -> None:
        self.changes: list[tuple[str, bool]] = []
        self.finished: list[Outcome] = []
        self.faults: list[Any] = []
        self.producer = Producer(
            stack.kafka.settings,
            self.finished.extend,
            body_bytes_max=1000,
            died=lambda *fault: self.faults.append(fault),
            on_lost=lambda: self._changed("lost"),
            on_found=lambda: self._changed("found"),
        )

    def _changed(self, word: str) -> None:
        asyncio.get_running_loop()  # raises in another thread
        self.changes.append((word, self.producer.connected))

    async def __aenter__(self) -> Watched:
        await until(lambda: self.producer.available, "available")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.producer.close()
        assert not self.faults

    async def send(self, topic: str) -> Outcome:
        outcome = Outcome()
        self.producer.send(Record("id", topic, None, b"x", [], ""), outcome)
        await until(lambda: outcome in self.finished, "a report")
        return outcome


def test_a_killed_broker_is_lost_and_found_again(stack: Stack, topic: str) -> None:
    async def run() -> None:
        async with Watched(stack) as watched:
            Admin(stack.kafka.settings).ensure_topic(topic, 1_000_000)
            assert (await watched.send(topic)).error is None
            assert watched.changes == []
            await asyncio.to_thread(stack.kafka.kill)
            try:
                await until(lambda: watched.changes, "lost")
                assert watched.changes == [("lost", False)]
                await until(lambda: "refused" in watched.producer.reason, "the cause")
                assert not watched.producer.available
            finally:
                await asyncio.to_thread(stack.kafka.start)
            await until(lambda: len(watched.changes) == 2, "found")
            assert watched.changes == [("lost", False), ("found", True)]
            assert (await watched.send(topic)).error is None

    asyncio.run(run())


def test_a_connection_that_the_broker_closed_is_not_lost(stack: Stack, topic: str) -> None:
    """As after connections.max.idle.ms: librdkafka tells that all brokers are down, and connects again when asked."""

    async def run() -> None:
        async with Watched(stack) as watched:
            Admin(stack.kafka.settings).ensure_topic(topic, 1_000_000)
            for _ in range(3):
                assert cut_connections(stack.kafka.ports.internal) >= 1
                assert (await watched.send(topic)).error is None
            await until(lambda: watched.producer.available, "available")
            assert watched.changes == []

    asyncio.run(run())


def test_a_broker_that_stands_still_is_not_lost_while_it_is_connected(stack: Stack) -> None:
    async def run() -> None:
        async with Watched(stack) as watched:
            os.kill(stack.kafka.pid or 0, signal.SIGSTOP)
            try:
                await until(lambda: not watched.producer.available, "not available")
                assert watched.producer.connected
                assert watched.changes == []
                assert "connected" in watched.producer.reason
            finally:
                os.kill(stack.kafka.pid or 0, signal.SIGCONT)
            await until(lambda: watched.producer.available, "available")

    asyncio.run(run())


def cut_connections(port: int) -> int:
    """End this process's connections to a port, as the other side would; how many there were."""
    count = 0
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(link.name))) as connection:
            if connection.family == socket.AF_INET and connection.getpeername()[1] == port:
                connection.shutdown(socket.SHUT_RDWR)
                count += 1
    return count
