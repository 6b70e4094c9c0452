"""How much an outside user may take. confluent-kafka knows no quotas, so this file alone uses kafka-python.

Its admin client has the messages (KIP-546) but no call for them, so they are sent as they are. A connection lives for
one call: quotas change seldom.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterable, Mapping
from typing import Any

import kafka
import kafka.errors
import kafka.protocol.admin

from kafka_webhook_bridge.errors import KafkaError
from kafka_webhook_bridge.kafka.config import client_config
from kafka_webhook_bridge.settings import KafkaSettings

BYTE_RATE = "consumer_byte_rate"  # bytes a second that one broker sends to the user
REQUEST_PERCENTAGE = "request_percentage"  # of one broker's threads: 100 is one of them

_RIGHTS = "Grant the bridge's user AlterConfigs and DescribeConfigs on the cluster, or leave --bytes-per-second out."
_NO_QUOTAS = "Leave --bytes-per-second out; some providers have limits of their own instead."
_REACH = "Is the cluster up, and is KAFKA_BOOTSTRAP_SERVERS right from this machine?"
_ANY_NAME = 2  # DescribeClientQuotas: every entity of that type that has a name

# It logs its whole configuration, the password included, and failures that are raised as well.
_log = logging.getLogger("kafka")
_log.addHandler(logging.NullHandler())
_log.propagate = False


class Quotas:
    """Blocking calls with a time limit, safe in any thread. Raises KafkaError, and ConfigError at once."""

    def __init__(self, settings: KafkaSettings, *, timeout_s: float = 10.0) -> None:
        client_config(settings)  # says what is wrong with them
        self._settings = settings
        self._timeout_ms = int(timeout_s * 1000)

    def all(self) -> dict[str, dict[str, float]]:
        """User → name of a limit → its value, of users that have any."""
        request = kafka.protocol.admin.DescribeClientQuotasRequest(components=[("user", _ANY_NAME, None)], strict=True)
        answer = self._send("reading the quotas", request)
        _check("reading the quotas", [answer])
        return {
            entry.entity[0].entity_name: {value.key: value.value for value in entry.values}
            for entry in answer.entries or ()
            if entry.entity[0].entity_name is not None  # the default of all users
        }

    def put(self, name: str, limits: Mapping[str, float]) -> None:
        """Give the user these limits; others that it has stay."""
        self._alter(f"giving the user {name} a quota", name, [(key, value, False) for key, value in limits.items()])

    def remove(self, name: str) -> bool:
        """Take every limit away from the user; false when it had none."""
        there = self.all().get(name, {})
        if there:
            self._alter(f"removing the quota of the user {name}", name, [(key, 0.0, True) for key in there])
        return bool(there)

    def _alter(self, doing: str, name: str, changes: list[tuple[str, float, bool]]) -> None:
        request = kafka.protocol.admin.AlterClientQuotasRequest(
            entries=[([("user", name)], changes)], validate_only=False
        )
        _check(doing, self._send(doing, request).entries)

    def _send(self, doing: str, request: Any) -> Any:
        try:
            with kafka.KafkaAdminClient(**self._config()) as client:
                manager = client._manager

                async def send() -> Any:
                    return await manager.send(request)

                return manager.run(send)
        except (kafka.errors.KafkaError, OSError) as failure:
            raise _translate(doing, failure) from failure

    def _config(self) -> dict[str, Any]:
        known = client_config(self._settings)
        protocol = known["security.protocol"]
        config: dict[str, Any] = {
            "bootstrap_servers": [server.strip() for server in known["bootstrap.servers"].split(",") if server.strip()],
            "client_id": "kwb-quotas",
            "security_protocol": protocol,
            "bootstrap_timeout_ms": self._timeout_ms,
            "request_timeout_ms": self._timeout_ms,
        }
        if protocol.startswith("SASL"):
            config |= {
                "sasl_mechanism": known["sasl.mechanism"],
                "sasl_plain_username": known["sasl.username"],
                "sasl_plain_password": known["sasl.password"],
            }
        if protocol.endswith("SSL"):
            config["ssl_context"] = ssl.create_default_context(cafile=self._settings.ssl_ca or None)
        return config


def _check(doing: str, answers: Iterable[Any]) -> None:
    for answer in answers:
        if answer.error_code:
            failure = kafka.errors.for_code(answer.error_code)(answer.error_message or "")
            raise _translate(doing, failure) from failure


def _translate(doing: str, failure: BaseException) -> KafkaError:
    name = getattr(failure, "message", None) or type(failure).__name__
    if isinstance(failure, kafka.errors.ClusterAuthorizationFailedError):
        return KafkaError(f"Kafka failed while {doing}: {name}", hint=_RIGHTS)
    if isinstance(failure, kafka.errors.UnsupportedVersionError):
        return KafkaError(f"This cluster takes no quotas (while {doing}: {name}).", hint=_NO_QUOTAS)
    said = str(failure.args[0]) if failure.args and failure.args[0] else "no answer in time"
    hint = _NO_QUOTAS if isinstance(failure, kafka.errors.BrokerResponseError) else _REACH
    return KafkaError(f"Kafka failed while {doing}: {name}: {said}", hint=hint)
