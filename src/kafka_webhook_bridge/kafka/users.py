"""Users for outside consumers: SCRAM-SHA-512 credentials and what they may read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import confluent_kafka as ck
import confluent_kafka.admin

from kafka_webhook_bridge.kafka.config import client_config
from kafka_webhook_bridge.kafka.errors import translate
from kafka_webhook_bridge.settings import KafkaSettings

ck_admin: Any = confluent_kafka.admin  # it does not export its names to type checkers

ALL = "*"
_CALL_TIMEOUT_S = 10.0
_ITERATIONS = 8192


class Users:
    """Blocking calls with a time limit, safe in any thread. Raises KafkaError."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._client = ck_admin.AdminClient(client_config(settings, **{"client.id": "kwb-users"}))

    def put(self, name: str, password: str) -> None:
        """Make the user, or give it this password."""
        credential = ck_admin.UserScramCredentialUpsertion(
            name,
            ck_admin.ScramCredentialInfo(ck_admin.ScramMechanism.SCRAM_SHA_512, _ITERATIONS),
            password.encode(),
        )
        self._wait(f"making the user {name}", self._client.alter_user_scram_credentials([credential]))

    def allow_reading(self, name: str, topics: Iterable[str] = (ALL,), groups: Iterable[str] = (ALL,)) -> None:
        """Let the user read `topics` in the consumer `groups`. Reading implies describing; nothing else is allowed."""
        wanted = [(ck_admin.ResourceType.TOPIC, topic) for topic in topics]
        wanted += [(ck_admin.ResourceType.GROUP, group) for group in groups]
        rules = [
            ck_admin.AclBinding(
                kind, resource, ck_admin.ResourcePatternType.LITERAL, f"User:{name}", "*",
                ck_admin.AclOperation.READ, ck_admin.AclPermissionType.ALLOW,
            )
            for kind, resource in wanted
        ]  # fmt: skip
        self._wait(f"granting rights to the user {name}", self._client.create_acls(rules))

    def _wait(self, doing: str, futures: dict[Any, Any]) -> None:
        try:
            for future in futures.values():
                future.result(_CALL_TIMEOUT_S)
        except (ck.KafkaException, TimeoutError) as failure:
            raise translate(doing, failure) from failure
