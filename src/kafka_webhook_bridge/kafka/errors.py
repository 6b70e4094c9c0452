"""Kafka's errors in words for an operator: what was being done, what Kafka said, what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import confluent_kafka as ck

from kafka_webhook_bridge.errors import KafkaError

K = ck.KafkaError

_REACH = "Is the cluster up, and is KAFKA_BOOTSTRAP_SERVERS right from this machine?"
_LISTENER = f"{_REACH} Is KWB_KAFKA_SECURITY_PROTOCOL that of the listener on this port?"
_TLS = "Check KWB_KAFKA_SECURITY_PROTOCOL and KWB_KAFKA_SSL_CA: the listener and the client must both use TLS or not."
_LOGIN = "Check KAFKA_USERNAME, KAFKA_PASSWORD, KWB_KAFKA_SASL_MECHANISM and KWB_KAFKA_SECURITY_PROTOCOL."
_RIGHTS = "Grant the bridge's user Describe, DescribeConfigs, Create, Read and Write on its topics."
_CLUSTER_RIGHTS = "Grant the bridge's user Create and Describe on the cluster, or make the topics for it."

HINTS: dict[int, str] = {
    K._TRANSPORT: _LISTENER,
    K._ALL_BROKERS_DOWN: _LISTENER,
    K._BAD_MSG: "No Kafka listener answers on that port, or KWB_KAFKA_SECURITY_PROTOCOL is not that of the listener.",
    K._TIMED_OUT: _REACH,
    K.REQUEST_TIMED_OUT: "The cluster is slow or has no controller; look at its logs.",
    K._RESOLVE: "The host name in KAFKA_BOOTSTRAP_SERVERS, or one that the brokers advertise, does not resolve here.",
    K._SSL: _TLS,
    K._AUTHENTICATION: _LOGIN,
    K.SASL_AUTHENTICATION_FAILED: _LOGIN,
    K.UNSUPPORTED_SASL_MECHANISM: _LOGIN,
    K.ILLEGAL_SASL_STATE: _LOGIN,
    K.TOPIC_AUTHORIZATION_FAILED: _RIGHTS,
    K.CLUSTER_AUTHORIZATION_FAILED: _CLUSTER_RIGHTS,
    K.UNKNOWN_TOPIC_OR_PART: "Make the topic, or correct its name; `kwb topics` lists what there is.",
    K._UNKNOWN_TOPIC: "Make the topic, or correct its name; `kwb topics` lists what there is.",
    K.INVALID_REPLICATION_FACTOR: "Lower KWB_KAFKA_TOPIC_REPLICATION_MAX to the number of brokers that are up.",
    K.POLICY_VIOLATION: "The provider's policy forbids it; make the topic with the provider's own tools.",
    K.MSG_SIZE_TOO_LARGE: "Raise the topic's max.message.bytes; `kwb doctor` compares the limits.",
    K.NOT_ENOUGH_REPLICAS: "Fewer replicas are in sync than min.insync.replicas asks for: a broker is down.",
    K.NOT_ENOUGH_REPLICAS_AFTER_APPEND: "A broker went down while the record was written.",
    K.NOT_CONTROLLER: "The cluster elects a controller; try again in a few seconds.",
    K.TOPIC_EXCEPTION: "The name is not one that Kafka accepts: letters, digits, `.`, `_`, `-`, at most 249.",
}
_UNREACHED = frozenset({K._TRANSPORT, K._ALL_BROKERS_DOWN, K._TIMED_OUT, K._RESOLVE})


# By Kafka's names, which both produce() and the reports tell.
_OF_A_TOPIC: Mapping[str, str] = {
    "UNKNOWN_TOPIC_OR_PART": "UNKNOWN_TOPIC",
    "_UNKNOWN_TOPIC": "UNKNOWN_TOPIC",
    "UNKNOWN_TOPIC": "UNKNOWN_TOPIC",  # as the bridge says it
    "TOPIC_AUTHORIZATION_FAILED": "TOPIC_AUTHORIZATION_FAILED",
    "TOPIC_EXCEPTION": "TOPIC_EXCEPTION",
}
_OF_A_RECORD = frozenset(
    {"MSG_SIZE_TOO_LARGE", "INVALID_MSG_SIZE", "RECORD_LIST_TOO_LARGE", "INVALID_RECORD", "INVALID_TIMESTAMP"}
)


def blame(name: str) -> Literal["topic", "record", "cluster"]:
    """Whose fault an error with Kafka's name is: everything else than topic and record passes by itself."""
    if name in _OF_A_TOPIC:
        return "topic"
    return "record" if name in _OF_A_RECORD else "cluster"


def reason_of(name: str) -> str:
    """The reason that is kept with an event: one word for what Kafka has two names for."""
    return _OF_A_TOPIC.get(name, name)


def code_of(failure: BaseException) -> int | None:
    """Kafka's error code inside an exception of confluent_kafka."""
    inner = failure.args[0] if failure.args else None
    return int(inner.code()) if isinstance(inner, ck.KafkaError) else None


def translate(doing: str, failure: BaseException, last_error: ck.KafkaError | None = None) -> KafkaError:
    """A KafkaError for an operator. `doing` completes "Kafka failed while …".

    `last_error` is what the connection reported lately: it names the cause that a bare time-out hides.
    """
    inner = failure.args[0] if failure.args else None
    code = code_of(failure)
    if last_error is not None and (code is None or code in _UNREACHED):
        inner, code = last_error, last_error.code()
    said = f"{inner.name()}: {inner.str()}" if isinstance(inner, ck.KafkaError) else str(failure) or "no answer in time"
    return KafkaError(f"Kafka failed while {doing}: {said}", hint=HINTS.get(code or 0, _REACH if code is None else ""))
