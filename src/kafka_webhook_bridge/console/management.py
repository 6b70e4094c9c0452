"""The management port: /metrics and /health of all processes of this bridge, served by their supervisor (rules.md 31).

It lives in the supervisor's loop and answers while every worker is dead. Senders never reach it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from kafka_webhook_bridge.errors import ConfigError, Problem
from kafka_webhook_bridge.observability.metrics import CONTENT_TYPE
from kafka_webhook_bridge.settings import ManagementSettings

STOP_TIMEOUT_S = 2  # for requests under way
_CONNECTIONS_MAX = 100
_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


class Management:
    """Serves `collect()` (Prometheus text) and `health()` (HTTP status and JSON of /health/ready).

    Both are called on the loop and must be quick. `routes` are served beside them, `guard` stands before all.
    """

    def __init__(
        self,
        settings: ManagementSettings,
        collect: Callable[[], bytes],
        health: Callable[[], tuple[int, dict[str, Any]]],
        routes: Sequence[BaseRoute] = (),
        guard: Callable[[ASGIApp], ASGIApp] = lambda app: app,
    ) -> None:
        self._settings = settings
        self._collect = collect
        self._health = health
        self._task: asyncio.Task[None] | None = None
        app = Starlette(
            routes=[
                Route("/metrics", self._metrics),
                Route("/health", self._live),
                Route("/health/live", self._live),
                Route("/health/ready", self._ready),
                *routes,
            ],
            exception_handlers={HTTPException: _problem},
        )
        self._server = _Server(
            uvicorn.Config(
                guard(app),
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # whose word about addresses is believed is for `guard` to say
                limit_concurrency=_CONNECTIONS_MAX,
                timeout_graceful_shutdown=STOP_TIMEOUT_S,
            )
        )

    async def start(self) -> int:
        """The port it listens on. Raises ConfigError when that is taken."""
        host, port = self._settings.host, self._settings.port
        try:
            listener = socket.create_server(
                (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=128
            )
        except OSError as error:
            problem = Problem("KWB_MANAGEMENT_PORT", f"cannot listen on {host}:{port}: {error.strerror}")
            raise ConfigError([problem], hint="Choose another port; 0 takes a free one.") from error
        self._task = asyncio.create_task(self._server.serve([listener]), name="management")
        while not self._server.started:
            if self._task.done():
                self._task.result()
                raise RuntimeError("the management port ended at once")
            await asyncio.sleep(0.005)
        return int(listener.getsockname()[1])

    @property
    def serving(self) -> asyncio.Task[None]:
        """The task that answers; it ends by itself only through a fault."""
        assert self._task is not None
        return self._task

    async def stop(self) -> None:
        """Answer what is under way, then close."""
        if self._task is None:
            return
        self._server.should_exit = True
        done, _ = await asyncio.wait({self._task}, timeout=STOP_TIMEOUT_S + 1)
        if not done:
            self._server.force_exit = True
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=1)

    async def _metrics(self, _request: Request) -> Response:
        return Response(self._collect(), headers={**_HEADERS, "content-type": CONTENT_TYPE})

    async def _live(self, _request: Request) -> Response:
        return JSONResponse({"status": "live"}, headers=_HEADERS)

    async def _ready(self, _request: Request) -> Response:
        status, body = self._health()
        return JSONResponse(body, status, headers=_HEADERS)


class _Server(uvicorn.Server):
    """uvicorn without its hold on signals: they belong to the supervisor."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _problem(_request: Request, failure: Exception) -> Response:
    """RFC 9457, as on the ingest port."""
    assert isinstance(failure, HTTPException)
    code = {404: "management.unknown_path", 405: "management.method"}.get(failure.status_code, "management.failed")
    body = {
        "type": "about:blank",
        "title": failure.detail,
        "status": failure.status_code,
        "code": code,
        "detail": "Here are /metrics, /health, /health/live and /health/ready.",
    }
    headers = {**_HEADERS, **(failure.headers or {}), "content-type": "application/problem+json"}
    return JSONResponse(body, failure.status_code, headers=headers)
