"""Senders that deliver again, and a bridge whose sources know it in every way there is (rules.md 12 to 14)."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import confluent_kafka as ck
from outbox_world import DEADLINE_S, bridging

from bridge import WAIT_S, Answer, Message, Serve, eventually, request
from databases import rows
from kafka_webhook_bridge.kafka.admin import Admin
from kafka_webhook_bridge.kafka.config import client_config
from kafka_webhook_bridge.stack import Stack

CLAIM_WAIT_S = 10  # long enough for a busy machine; the tests move the clock


def config(topic: str) -> str:
    """Sources that suppress by their ack mode, and others."""
    suppress = f'auth: none, topic: {topic}, delivery_id: "{{header:X-Id}}", dedupe: suppress'
    return f"""\
sources:
  any: {{{suppress}}}
  kafka: {{{suppress}, ack: kafka}}
  store: {{{suppress}, ack: store}}
  both: {{{suppress}, ack: both}}
  marks: {{auth: none, topic: {topic}, delivery_id: "{{header:X-Id}}"}}
  others: {{auth: none, topic: {topic}, delivery_id: "{{header:X-Id}}"}}
  inside: {{auth: none, topic: {topic}, delivery_id: "{{json:id}}"}}
  whole: {{auth: none, topic: {topic}, dedupe: body}}
  plain: {{auth: none, topic: {topic}, ack: kafka}}
"""


@contextlib.contextmanager
def bridge_for(
    stack: Stack, folder: Path, topic: str, database: str, *, role: str = "ingest", **environ: str
) -> Iterator[Serve]:
    """A bridge with these sources, which has its topic and its tables."""
    patient = {"KWB_DELIVER_CLAIM_WAIT_MS": str(CLAIM_WAIT_S * 1000), "KWB_ARCHIVE_DEDUPE_WINDOW_DAYS": "1"}
    words = {**patient, **environ}
    with bridging(stack, folder, database, config(topic), ready_for="/plain", role=role, **words) as server:
        yield server


def key_of(source: str, delivery_id: bytes) -> str:
    """The dedupe key of rules.md 13, made anew."""
    name = source.encode()
    framed = len(name).to_bytes(4, "big") + name + len(delivery_id).to_bytes(4, "big") + delivery_id
    return sha256(framed).hexdigest()


def records(stack: Stack, topic: str, value: bytes) -> list[Message]:
    """Of everything that is in the topic now, the records with this value."""
    ends = Admin(stack.kafka.settings).offsets([topic])[topic]
    consumer = ck.Consumer(client_config(stack.kafka.settings, **{"group.id": "unused"}))
    found, left = [], sum(end - start for start, end in ends.values())
    try:
        consumer.assign([ck.TopicPartition(topic, partition, start) for partition, (start, _) in ends.items()])
        deadline = time.monotonic() + WAIT_S
        while left > 0:
            assert time.monotonic() < deadline, f"{left} records do not come"
            for message in consumer.consume(100, 0.2):
                assert message.error() is None
                left -= message.offset() < ends[message.partition()][1]  # what came later is passed
                if message.value() == value:
                    found.append(Message(message.key(), value, message.headers() or [], message.partition()))
    finally:
        consumer.close()
    return found


def ids_in(stack: Stack, topic: str, value: bytes) -> list[str]:
    """Event ids of the records with this value."""
    return [dict(message.headers)["ce_id"].decode() for message in records(stack, topic, value)]


def delivery(source: str, delivery_id: str, body: bytes) -> bytes:
    return request(f"/{source}", body, *([f"X-Id: {delivery_id}"] if delivery_id else []))


def deliver(server: Serve, source: str, delivery_id: str, body: bytes = b"{}") -> Answer:
    return server.ask(delivery(source, delivery_id, body))


def delivered(server: Serve, source: str, delivery_id: str, body: bytes = b"{}") -> dict[str, Any]:
    """The receipt, as soon as there is one: a sender that is refused tries again."""
    answer = eventually(
        lambda: (found := deliver(server, source, delivery_id, body)).status == 200 and found, "delivered"
    )
    assert answer.headers["kwb-event-id"] == answer.json["event_id"]
    return answer.json


def in_flight(server: Serve, requests: int) -> None:
    """Wait until so many requests wait for their answer."""
    eventually(lambda: server.total("kwb_in_flight_requests") == requests, f"{requests} in flight")


def refused_while_pending(server: Serve, source: str, delivery_id: str, body: bytes) -> Answer:
    """The answer to a delivery that waits for another until its own deadline."""
    in_flight(server, 0)
    with server.open() as client:
        client.send(delivery(source, delivery_id, body))
        in_flight(server, 1)
        server.forward(DEADLINE_S)
        return client.answer()


def claimed(database: str, source: str, delivery_id: str) -> tuple[str, str | None] | None:
    """Event id of a delivery, and where it is stored (None: pending)."""
    key = bytes.fromhex(key_of(source, delivery_id.encode()))
    found = rows(database, "SELECT event_id::text, stored FROM deliveries WHERE dedupe_key = $1", key)
    return (found[0][0], found[0][1]) if found else None


def set_lease(database: str, source: str, delivery_id: str, hours: int) -> None:
    """As if the lease of a pending delivery were far from its end, or (0) had passed."""
    key = bytes.fromhex(key_of(source, delivery_id.encode()))
    until = "UPDATE deliveries SET lease_until = now() + make_interval(hours => $2) WHERE dedupe_key = $1"
    rows(database, until + " AND stored IS NULL", key, hours)
