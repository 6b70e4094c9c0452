"""What the tests of outside users share: the command, a cluster's settings, and a client that logs in as a user."""

from __future__ import annotations

import contextlib
import io
import json
import os
import secrets
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import confluent_kafka as ck

from kafka_webhook_bridge.cli import main
from kafka_webhook_bridge.kafka.admin import Admin
from kafka_webhook_bridge.kafka.config import client_config
from kafka_webhook_bridge.stack import Stack

WAIT_S = 60.0


def kwb(stack: Stack, *arguments: str, code: int | None = 0, **environ: str) -> subprocess.CompletedProcess[str]:
    """`kwb users …`, in this process, which is quicker. `code=None`: whatever it ends with."""
    own = {
        "COLUMNS": "250",
        **stack.environ(),
        "KWB_KAFKA_EXTERNAL_SERVERS": stack.kafka.proxy_bootstrap,
        "KWB_KAFKA_EXTERNAL_PROTOCOL": "SASL_PLAINTEXT",
        **environ,
    }
    out, err = io.StringIO(), io.StringIO()
    with mock.patch.dict(os.environ, own), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(["users", *arguments])
    done = subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())
    if code is not None:
        assert done.returncode == code, done.stdout + done.stderr
    return done


def until(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of `condition`."""
    deadline = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {WAIT_S:.0f} s: {what}"
        time.sleep(0.1)
    return found


@dataclass
class Partner:
    """An outside user, made with the command, and topics of its own and of others."""

    stack: Stack
    name: str
    password: str
    made: dict[str, Any]
    own: str
    foreign: str
    clients: list[Any] = field(default_factory=list)

    @property
    def group(self) -> str:
        return f"{self.name}-tests"

    def config(self, **extra: Any) -> dict[str, Any]:
        """librdkafka's, on PROXY."""
        return {
            "bootstrap.servers": self.stack.kafka.proxy_bootstrap,
            "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": self.name,
            "sasl.password": self.password,
            "log_level": 0,
            **extra,
        }


def make_partner(stack: Stack, *options: str, **environ: str) -> Partner:
    name = f"p{secrets.token_hex(4)}"
    own, foreign = f"{name}.orders", f"foreign-{name}"
    admin = Admin(stack.kafka.settings)
    for topic in (own, foreign):
        admin.ensure_topic(topic, 1_000_000)
        write(stack, topic, [b"first", b"second", b"third"])
    done = kwb(
        stack, "create", name, "--topics", f"{name}.*", "--group-prefix", name, *options, "--json", **environ
    )  # fmt: skip
    made = json.loads(done.stdout)
    return Partner(stack, name, made["password"], made, own, foreign)


def write(stack: Stack, topic: str, values: Iterable[bytes]) -> None:
    producer = ck.Producer(client_config(stack.kafka.settings))
    for value in values:
        producer.produce(topic, value)
    assert producer.flush(WAIT_S) == 0


def read(config: dict[str, Any], topics: list[str], count: int) -> list[ck.Message]:
    """`count` records of these topics, committed."""
    consumer = ck.Consumer({"auto.offset.reset": "earliest", "enable.auto.commit": False, **config})
    try:
        consumer.subscribe(topics)
        found: list[ck.Message] = []

        def poll() -> bool:
            message = consumer.poll(0.5)
            if message is not None:
                assert message.error() is None, message.error()
                found.append(message)
            return len(found) >= count

        until(poll, f"{count} records of {topics}")
        consumer.commit(asynchronous=False)
        return found
    finally:
        consumer.close()
