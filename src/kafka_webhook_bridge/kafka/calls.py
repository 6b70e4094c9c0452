"""What administers the cluster has in common: a client, a time limit, the login in force, errors in words.

Calls ──▶ Admin    topics and the cluster
      ──▶ Groups   consumer groups
      ──▶ Users    outside users; beside it stands Second, for what this client cannot
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

import confluent_kafka as ck
import confluent_kafka.admin

from kafka_webhook_bridge.errors import KafkaError
from kafka_webhook_bridge.kafka import login
from kafka_webhook_bridge.kafka.config import client_config
from kafka_webhook_bridge.kafka.errors import code_of, translate
from kafka_webhook_bridge.settings import KafkaSettings

T = TypeVar("T")
ck_admin: Any = confluent_kafka.admin  # it does not export its names to type checkers

CALL_TIMEOUT_S = 10.0


class Calls:
    """Blocking calls with a time limit, safe in any thread. Raises KafkaError, and ConfigError at once."""

    def __init__(
        self, settings: KafkaSettings, client_id: str, *, timeout_s: float, hints: Mapping[int, str] | None = None
    ) -> None:
        """`hints` by Kafka's code of an error, where these calls have a better one than `kafka/errors.py`."""
        self._settings = settings
        self._timeout_s = timeout_s
        self._hints = hints or {}
        self._last_error: ck.KafkaError | None = None
        self._client = ck_admin.AdminClient(
            client_config(settings, **{"client.id": client_id, "error_cb": self._errored})
        )
        login.follow(self, settings)

    def log_in(self, username: str, password: str) -> None:
        """Use another password from the next connection on."""
        self._last_error = None
        self._client.set_sasl_credentials(username, password)

    def check_login(self) -> None:
        """Raises KafkaError as soon as the cluster refuses the login, which any other call waits out."""
        doing = "logging in"
        answer = self._client.describe_cluster(request_timeout=self._timeout_s)
        deadline = time.monotonic() + self._timeout_s
        while not answer.done() and time.monotonic() < deadline:
            self._client.poll(0.05)
            if self._last_error is not None and self._last_error.code() == ck.KafkaError._AUTHENTICATION:
                raise self._failed(doing, ck.KafkaException(self._last_error))
        self._wait(doing, [answer])

    def _errored(self, error: ck.KafkaError) -> None:
        if self._last_error is None or error.code() != ck.KafkaError._ALL_BROKERS_DOWN:  # its cause says more
            self._last_error = error

    def _wait(self, doing: str, futures: Iterable[Future[T]]) -> list[T]:
        """All results in order, by one deadline. A single failure fails the call."""
        deadline = time.monotonic() + self._timeout_s + 1  # librdkafka's own end is the better answer
        try:
            return [future.result(max(0.05, deadline - time.monotonic())) for future in futures]
        except (ck.KafkaException, TimeoutError) as failure:
            raise self._failed(doing, failure) from failure

    def _failed(self, doing: str, failure: BaseException) -> KafkaError:
        self._client.poll(0)  # lets `error_cb` report why the brokers are not reached
        error = translate(doing, failure, self._last_error)
        error.hint = self._hints.get(code_of(failure) or 0, error.hint)
        return error
