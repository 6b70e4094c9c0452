"""The door of the console: one login for everything but what probes ask, slowed per address.

nginx forwards a whole host name to this port, without /health/ and what is below it; /metrics is behind the login.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kafka_webhook_bridge.ingest.limits import FailedLogins, TrustedProxies
from kafka_webhook_bridge.observability import logs
from kafka_webhook_bridge.settings import ConsoleSettings
from kafka_webhook_bridge.sources.basic import Credential, matches, parse_basic

FAILED_LOGINS_MAX = 10  # per address and minute; then wrong ones get 429, and a right one is still let in
TARGET_BYTES_MAX = 4096
OPEN_PATHS = frozenset({"/health/live", "/health/ready"})
SAFE_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'; "
        "require-trusted-types-for 'script'"
    ),
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Door:
    """Lets requests through to `app` whose Basic login is right. `clock` gives monotonic seconds."""

    def __init__(
        self, app: ASGIApp, settings: ConsoleSettings, proxies: TrustedProxies,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._app = app
        self._clock = clock
        self._failed = FailedLogins(FAILED_LOGINS_MAX)
        self._log = logs.get_logger("console")
        self.use(settings, proxies)

    def use(self, settings: ConsoleSettings, proxies: TrustedProxies) -> None:
        """Ask for this login from now on, and believe these proxies about addresses."""
        assert settings.password is not None
        self._proxies = proxies
        self._credentials = [Credential.of(settings.username, settings.password.get_secret_value())]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SAFE_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        app = self._app
        if len(scope["raw_path"]) + len(scope["query_string"]) > TARGET_BYTES_MAX:
            app = PlainTextResponse("The address is too long.\n", 414)
        elif scope["path"] not in OPEN_PATHS:
            app = self._refusal(scope) or app
        await app(scope, receive, safely)

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        """None for the right login, however many wrong ones came from its address: it may be shared (rules.md 24)."""
        given = Headers(scope=scope).get("authorization")
        if given is None:  # a browser asks without one first
            return _unauthorized()
        login = parse_basic(given.encode("latin-1"))
        if login is not None and matches(self._credentials, *login):
            return None
        forwarded = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
        address = self._proxies.sender((scope["client"] or ("",))[0], forwarded)
        if (wait_s := self._failed.failed(address, self._clock())) is not None:
            return PlainTextResponse("Too many failed logins.\n", 429, {"retry-after": str(wait_s)})
        self._log.warning("login to the console refused", address=address)
        return _unauthorized()


def _unauthorized() -> ASGIApp:
    challenge = 'Basic realm="Kafka Webhook Bridge console", charset="UTF-8"'
    return PlainTextResponse("Log in first.\n", 401, {"www-authenticate": challenge})
