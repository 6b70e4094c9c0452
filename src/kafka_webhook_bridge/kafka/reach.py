"""Whether the cluster can be reached, and why not: what librdkafka reports, judged by asking.

A report alone says too little. "All brokers are down" also comes when a broker closes an idle connection, which is
there again some milliseconds later; a broker that was stopped is not reported at all for seconds. So every report of
trouble makes the owner ask at once, and the answer decides:

    an answer                          connected and available
    no usable connection               lost: whoever waits may turn elsewhere at once
    a connection without an answer     not available, and not lost: its time-outs tell whoever waits
"""

from __future__ import annotations

import time
from collections.abc import Callable

import confluent_kafka as ck

from kafka_webhook_bridge.kafka.errors import HINTS
from kafka_webhook_bridge.observability import logs, metrics

K = ck.KafkaError

# A broker that was killed refuses the next connection at once; one that closed an idle connection takes the next one in
# milliseconds. So once trouble was reported, an answer that needs longer than the first of these is not waited for.
_ANSWER_S = (0.25, 1.75)
_REFUSED_SHOWN_S = 10.0
_LOGIN = frozenset({K._AUTHENTICATION, K.SASL_AUTHENTICATION_FAILED})
_RIGHTS = frozenset({K.TOPIC_AUTHORIZATION_FAILED, K.CLUSTER_AUTHORIZATION_FAILED, K.GROUP_AUTHORIZATION_FAILED})
REFUSALS = _LOGIN | _RIGHTS


class Reach:
    """What is known of the way to the cluster. `report` may be called from any thread, `ask` from one.

    `connected` is true until there is no usable connection; `available` tells whether the cluster answered when it was
    asked last, `reason` why not. `trouble` is called from the reporting thread: it is time to ask.
    """

    def __init__(self, trouble: Callable[[], None]) -> None:
        self.connected = True
        self.available = False
        self.reason = "not connected yet"
        self._trouble = trouble
        self._reported = False
        self._cause = ""
        self._refused: tuple[float, ck.KafkaError] | None = None
        self._told = ""
        self._log = logs.get_logger("kafka")
        registry = metrics.registry()
        self._auth_failed = registry.gauge("kwb_kafka_auth_failed")
        self._connected = registry.gauge("kwb_kafka_connected")
        self._connected.set(True)

    def report(self, error: ck.KafkaError) -> None:
        """An error of a connection, of a record where it is a refusal, or of a producer that is dead."""
        code = error.code()
        if code in REFUSALS:
            self._refused = (time.monotonic(), error)
            if code in _RIGHTS:
                return
        if code != K._ALL_BROKERS_DOWN:  # which tells no cause
            self._cause = error.str()
        self._reported = True
        if self.connected or error.fatal():
            self._trouble()

    def forget(self) -> None:
        """The bridge logs in anew: what was refused before tells nothing."""
        self._refused = None

    @property
    def refused(self) -> str:
        """What the cluster refused lately, the login or a right; empty when nothing."""
        if self._refused is None or time.monotonic() - self._refused[0] > _REFUSED_SHOWN_S:
            return ""
        error = self._refused[1]
        what = "refuses the login" if error.code() in _LOGIN else f"denies a right ({error.name()})"
        return f"Kafka {what}: {error.str()} {HINTS.get(error.code(), '')}".rstrip()

    def ask(self, metadata: Callable[[float], object], heard: Callable[[], float]) -> bool:
        """Whether the cluster answers. `metadata(timeout_s)` raises KafkaException; `heard()` is the monotonic time of
        the last word from a broker: a connection that brings some is not lost."""
        began = time.monotonic()
        failure = K(K._TIMED_OUT)
        self._reported = False
        for timeout_s in _ANSWER_S:
            try:
                metadata(timeout_s)
            except ck.KafkaException as error:
                failure = error.args[0]
                if self._reported and failure.code() != K._TIMED_OUT:
                    break
            else:
                if not self.connected and self._refused is not None and self._refused[1].code() in _LOGIN:
                    self._refused = None
                self.connected, self.available, self.reason, self._cause = True, True, "", ""
                self._tell()
                return True
        lost = failure.code() != K._TIMED_OUT and heard() < began
        self.connected, self.available = not lost, False
        self.reason = self.refused or (
            self._cause or "no broker answers" if lost else "connected, but no broker answers"
        )
        self._tell()
        return False

    def _tell(self) -> None:
        """Log what changed, once."""
        refused = self.refused
        self._auth_failed.set(bool(refused))
        self._connected.set(self.connected)
        told = "refused" if refused else "" if self.connected else "lost"
        if told == self._told:
            return
        self._told = told
        if refused:
            self._log.error("Kafka refuses the bridge", reason=refused)
        elif told:
            self._log.warning("the connection to Kafka is lost", reason=self.reason)
        else:
            self._log.info("Kafka is reached again")
