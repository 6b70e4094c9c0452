"""kafka-python beside confluent-kafka, for what that cannot (2.16): this file alone uses it.

    quotas               it has no call for them
    users, listed        librdkafka ends the whole process when the cluster refuses
    rights, listed       it tells that there are none when the cluster refuses

Messages are sent as they are (KIP-546, KIP-554, KIP-290). A connection lives for one of them: they are seldom needed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kafka_webhook_bridge.errors import KafkaError
from kafka_webhook_bridge.kafka.config import client_config, ssl_context
from kafka_webhook_bridge.settings import KafkaSettings

_REACH = "Is the cluster up, and is KAFKA_BOOTSTRAP_SERVERS right from this machine?"

# It logs its whole configuration, the password included, and failures that are raised as well.
_log = logging.getLogger("kafka")
_log.addHandler(logging.NullHandler())
_log.propagate = False


class Second:
    """Blocking calls with a time limit, safe in any thread. Raises KafkaError, and ConfigError at once."""

    def __init__(self, settings: KafkaSettings, *, timeout_s: float, hints: Mapping[str, str]) -> None:
        """`hints` by Kafka's name of an error."""
        client_config(settings)  # says what is wrong with them
        self._settings = settings
        self._timeout_ms = int(timeout_s * 1000)
        self._hints = hints

    def ask(self, doing: str, message: Callable[[Any], Any]) -> Any:
        """The answer to the request that `message` makes of kafka.protocol.admin. Look at its errors with `check`."""
        kafka = _library()
        try:
            with kafka.KafkaAdminClient(**self._config()) as client:
                return client._manager.run(client._manager.send, message(kafka.protocol.admin))
        except (kafka.errors.KafkaError, OSError) as failure:
            raise self._translate(doing, failure) from failure

    def check(self, doing: str, answers: Iterable[Any]) -> None:
        """Raises KafkaError for the first of these parts of an answer that has an error's code."""
        for answer in answers:
            if answer.error_code:
                failure = _library().errors.for_code(answer.error_code)(answer.error_message or "")
                raise self._translate(doing, failure) from failure

    def _translate(self, doing: str, failure: BaseException) -> KafkaError:
        answered = isinstance(failure, _library().errors.BrokerResponseError)
        name = str(getattr(failure, "message", None) or type(failure).__name__)
        said = str(failure.args[0]) if failure.args and failure.args[0] else "" if answered else "no answer in time"
        hint = self._hints.get(name, "" if answered else _REACH)
        return KafkaError(f"Kafka failed while {doing}: {': '.join(filter(None, (name, said)))}", hint=hint)

    def _config(self) -> dict[str, Any]:
        known = client_config(self._settings)
        protocol = known["security.protocol"]
        config: dict[str, Any] = {
            "bootstrap_servers": [server.strip() for server in known["bootstrap.servers"].split(",") if server.strip()],
            "client_id": "kwb-users",
            "security_protocol": protocol,
            "bootstrap_timeout_ms": self._timeout_ms,
            "request_timeout_ms": self._timeout_ms,
        }
        if protocol.startswith("SASL"):
            config |= {"sasl_mechanism": known["sasl.mechanism"], **_login(known)}
        if protocol.endswith("SSL"):
            config["ssl_context"] = ssl_context(self._settings)
        return config


def _login(known: Mapping[str, Any]) -> dict[str, Any]:
    if "oauth_cb" not in known:
        return {"sasl_plain_username": known["sasl.username"], "sasl_plain_password": known["sasl.password"]}
    from kafka.net.sasl.oauth import AbstractTokenProvider

    class Provider(AbstractTokenProvider):  # type: ignore[misc]
        def token(self) -> str:
            return str(known["oauth_cb"]()[0])

    return {"sasl_oauth_token_provider": Provider()}


def _library() -> Any:
    """Imported when it is used: the processes that answer webhooks never need it."""
    import kafka
    import kafka.errors
    import kafka.protocol.admin

    return kafka
