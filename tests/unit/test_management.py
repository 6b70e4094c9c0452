"""The management port over its socket."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kafka_webhook_bridge.console.management import Management
from kafka_webhook_bridge.errors import ConfigError
from kafka_webhook_bridge.observability import metrics
from kafka_webhook_bridge.observability.health import Part, summarise
from kafka_webhook_bridge.settings import ManagementSettings

Answer = tuple[int, dict[str, str], bytes]


def ask(port: int, path: str, method: str = "GET") -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def serving(use: Callable[[int], Awaitable[None]], parts: list[Part] | None = None) -> None:
    exporter = metrics.Exporter()

    async def main() -> None:
        management = Management(
            ManagementSettings(port=0),
            lambda: exporter.collect_text([metrics.registry().segment]),
            lambda: summarise(parts if parts is not None else [Part("kafka", "ready", durable=True)], draining=False),
        )
        port = await management.start()
        try:
            await use(port)
        finally:
            await management.stop()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 1).close()

    asyncio.run(main())


def test_metrics_and_health() -> None:
    async def use(port: int) -> None:
        status, headers, body = await asyncio.to_thread(ask, port, "/metrics")
        assert status == 200
        assert headers["content-type"].startswith("text/plain; version=")
        assert b"\nkwb_requests_aborted_total " in body
        assert "server" not in headers
        for path in ("/health", "/health/live"):
            status, headers, body = await asyncio.to_thread(ask, port, path)
            assert (status, json.loads(body)) == (200, {"status": "live"})
        status, _, body = await asyncio.to_thread(ask, port, "/health/ready")
        assert (status, json.loads(body)["status"]) == (200, "ready")

    serving(use)


def test_not_ready_is_503_and_live_all_the_same() -> None:
    async def use(port: int) -> None:
        status, _, body = await asyncio.to_thread(ask, port, "/health/ready")
        found: dict[str, Any] = json.loads(body)
        assert (status, found["status"]) == (503, "unavailable")
        assert found["parts"]["kafka"]["reason"] == "no broker answers"
        assert (await asyncio.to_thread(ask, port, "/health/live"))[0] == 200

    serving(use, [Part("kafka", "unavailable", "no broker answers", durable=True)])


def test_other_paths_and_methods_are_problems() -> None:
    async def use(port: int) -> None:
        for method, path, expected, code in (
            ("GET", "/nothing", 404, "management.unknown_path"),
            ("POST", "/metrics", 405, "management.method"),
        ):
            status, headers, body = await asyncio.to_thread(ask, port, path, method)
            assert (status, headers["content-type"]) == (expected, "application/problem+json")
            problem = json.loads(body)
            assert (problem["status"], problem["code"]) == (expected, code)
            assert {"type", "title", "detail"} <= problem.keys()

    serving(use)


def test_a_taken_port_is_a_clear_error() -> None:
    async def main(port: int) -> None:
        management = Management(ManagementSettings(port=port), lambda: b"", lambda: (200, {}))
        with pytest.raises(ConfigError, match=f"KWB_MANAGEMENT_PORT: cannot listen on 127.0.0.1:{port}"):
            await management.start()
        await management.stop()

    with socket.create_server(("127.0.0.1", 0)) as taken:
        asyncio.run(main(taken.getsockname()[1]))
