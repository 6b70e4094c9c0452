"""Login at Amazon MSK by AWS IAM: signed tokens that live for some minutes, made by AWS's own library.

    client of librdkafka ──▶ oauth_cb ──▶ the signer ──▶ credentials of the task, the machine or the environment

librdkafka asks again before a token is over. The library comes with the extra `aws` and is used in this file alone.
"""

from __future__ import annotations

import importlib.util
import re
import time

from kafka_webhook_bridge.errors import Problem
from kafka_webhook_bridge.observability import logs
from kafka_webhook_bridge.settings import KafkaSettings

MECHANISM = "AWS_MSK_IAM"
AGAIN_S = 30.0  # without credentials, librdkafka asks a little earlier
_LIBRARY = "aws_msk_iam_sasl_signer"
# b-1.orders.x1y2z3.c4.kafka.eu-central-1.amazonaws.com:9098, boot-….c1.kafka-serverless.eu-central-1.amazonaws.com
_HOST = re.compile(r"\.kafka(?:-serverless)?\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?(?::|$)")


def region(settings: KafkaSettings) -> str:
    """Where the cluster is: as its names say, else AWS_REGION; empty when neither does."""
    for server in settings.bootstrap_servers.split(","):
        if found := _HOST.search(server.strip()):
            return found[1]
    return settings.aws_region


def problems(settings: KafkaSettings) -> list[Problem]:
    """What is missing for such a login."""
    found = []
    if importlib.util.find_spec(_LIBRARY) is None:
        what = f"{MECHANISM} needs the extra `aws`: pip install 'kafka-webhook-bridge[aws]'"
        found.append(Problem("KWB_KAFKA_SASL_MECHANISM", what))
    if not region(settings):
        found.append(Problem("AWS_REGION", f"is not set, and no name of the servers tells the region for {MECHANISM}"))
    if settings.username or settings.password is not None:
        name = "KAFKA_USERNAME" if settings.username else "KAFKA_PASSWORD"
        found.append(Problem(name, f"is set, but {MECHANISM} logs in as the role that this process has"))
    return found


class Tokens:
    """Called by librdkafka whenever it wants a token, in a thread of its own."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._region = region(settings)
        self._last = "none"
        self._log = logs.get_logger("kafka")

    def __call__(self, _: str = "") -> tuple[str, float]:
        """A token and when it is over, in seconds since 1970.

        Without credentials it is the one before, for a moment: the cluster says what it thinks of that, and librdkafka
        asks again. An exception would keep a client from being made, and come out of a consumer's poll as a fault.
        """
        from aws_msk_iam_sasl_signer import MSKAuthTokenProvider

        try:
            self._last, expires_ms = MSKAuthTokenProvider.generate_auth_token(self._region)
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            self._log.warning("no token for Kafka", error=why, hint="Has this process a role or credentials of AWS?")
            return self._last, time.time() + AGAIN_S
        return self._last, expires_ms / 1000
