"""How much an outside user may take."""

from __future__ import annotations

from collections.abc import Mapping

from kafka_webhook_bridge.kafka.second import Second
from kafka_webhook_bridge.settings import KafkaSettings

BYTE_RATE = "consumer_byte_rate"  # bytes a second that one broker sends to the user
REQUEST_PERCENTAGE = "request_percentage"  # of one broker's threads: 100 is one of them

# A broker counts bytes over 11 windows of a second, its default; who reads as fast as it may finds one of 12 seconds
# without a grant and gets 11/12 of the number (benchmarks/outside.py). So the broker is told 12/11 of what is meant.
_WINDOWS = 11

_RIGHTS = "Grant the bridge's user AlterConfigs and DescribeConfigs on the cluster, or leave --bytes-per-second out."
_NO_QUOTAS = "This cluster takes no quotas: leave --bytes-per-second out. Some providers have limits of their own."
_HINTS: Mapping[str, str] = {
    "CLUSTER_AUTHORIZATION_FAILED": _RIGHTS,
    "UNSUPPORTED_VERSION": _NO_QUOTAS,
    "POLICY_VIOLATION": _NO_QUOTAS,
    "INVALID_REQUEST": _NO_QUOTAS,
}
_ANY_NAME = 2  # every entity of that type that has a name


class Quotas:
    """Blocking calls with a time limit, safe in any thread. Raises KafkaError, and ConfigError at once."""

    def __init__(self, settings: KafkaSettings, *, timeout_s: float = 10.0) -> None:
        self._client = Second(settings, timeout_s=timeout_s, hints=_HINTS)

    def all(self) -> dict[str, dict[str, float]]:
        """User → name of a limit → its value as it was meant, of users that have any."""
        doing = "reading the quotas"
        answer = self._client.ask(
            doing, lambda m: m.DescribeClientQuotasRequest(components=[("user", _ANY_NAME, None)], strict=True)
        )
        self._client.check(doing, [answer])
        return {
            entry.entity[0].entity_name: {limit.key: _meant(limit.key, limit.value) for limit in entry.values}
            for entry in answer.entries or ()
            if entry.entity[0].entity_name is not None  # the default of all users
        }

    def put(self, name: str, limits: Mapping[str, float]) -> None:
        """Give the user these limits; others that it has stay."""
        self._alter(
            f"giving the user {name} a quota",
            name,
            [(key, _told(key, value), False) for key, value in limits.items()],
        )

    def remove(self, name: str) -> bool:
        """Take every limit away from the user; false when it had none."""
        there = self.all().get(name, {})
        if there:
            self._alter(f"removing the quota of the user {name}", name, [(key, 0.0, True) for key in there])
        return bool(there)

    def _alter(self, doing: str, name: str, changes: list[tuple[str, float, bool]]) -> None:
        entries = [([("user", name)], changes)]
        answer = self._client.ask(doing, lambda m: m.AlterClientQuotasRequest(entries=entries, validate_only=False))
        self._client.check(doing, answer.entries)


def _told(limit: str, value: float) -> float:
    return float(-(-value * (_WINDOWS + 1) // _WINDOWS)) if limit == BYTE_RATE else value  # whole bytes


def _meant(limit: str, value: float) -> float:
    return float(value * _WINDOWS // (_WINDOWS + 1)) if limit == BYTE_RATE else value
