"""What sources do with events besides storing them: leave them out, choose their topic, take secrets out of them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import confluent_kafka.admin
import pytest
from outbox_world import bridging

from bridge import WAIT_S, Answer, Message, Serve, consume, eventually, request
from databases import empty_database, rows
from kafka_webhook_bridge import formats
from kafka_webhook_bridge.kafka.admin import Admin
from kafka_webhook_bridge.kafka.config import client_config
from kafka_webhook_bridge.stack import Stack

pytestmark = pytest.mark.integration

RUN = secrets.token_hex(4)
CANARY = "canary-4111"
TOPICS = [f"shop-{RUN}.{name}" for name in ("orders_create", "orders_paid", "other")]
REDACT = {"json": ["card.number", "items.*.email"], "headers": ["X-Customer"], "query": ["email"]}
FILTER = [
    {"drop": "pings", "when": {"header:X-Event": "ping"}},
    {"keep": "paid", "when": {"json:status": ["paid", "refunded"]}},
    {"drop": "rest"},
]


def topic_of(source: str) -> str:
    return f"{source}-{RUN}"


def _source(name: str, **words: Any) -> dict[str, Any]:
    return {"auth": "none", "topic": topic_of(name), **words}


SHOP = {"auth": "none", "topic": f"shop-{RUN}.{{header:X-Topic}}", "topics": TOPICS[:2], "topic_otherwise": TOPICS[2]}
SOURCES = {
    "plain": _source("plain"),
    "filtered": _source("filtered", filter=FILTER),
    "answered": _source("answered", filter=[{"drop": "all"}], answer={"status": 202, "body": "fine"}),
    "once": _source("once", filter=FILTER[:1], delivery_id="{header:X-Id}", dedupe="suppress"),
    "shop": SHOP,
    "shop-stored": {**SHOP, "ack": "store"},
    **{
        f"red-{form}": _source(f"red-{form}", format=form, redact=REDACT) for form in ("raw", "cloudevents", "envelope")
    },
    "red-stored": _source("red-stored", redact=REDACT, ack="store"),
}


@pytest.fixture(scope="module")
def database(stack: Stack) -> Iterator[str]:
    with empty_database(stack.postgres) as url:
        yield url


@pytest.fixture(scope="module")
def server(stack: Stack, database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """A bridge with its archive."""
    folder = tmp_path_factory.mktemp("rules")
    config = json.dumps({"sources": SOURCES})
    with bridging(stack, folder, database, config, ready_for="/plain", role="all") as server:
        yield server


def send(server: Serve, source: str, body: bytes, *lines: str, query: str = "") -> Answer:
    return server.ask(request(f"/{source}{query}", body, *lines, login=""))


def by_body(stack: Stack, topic: str) -> list[bytes]:
    """Bodies of all records of a topic, of which there are some."""
    return [message.value for message in consume(stack.kafka, topic, _count(stack, topic))]


def _count(stack: Stack, topic: str) -> int:
    return sum(end - start for start, end in Admin(stack.kafka.settings).offsets([topic])[topic].values())


def row(database: str, event_id: str) -> Any:
    """The event's row, once it has its place in Kafka."""
    sql = 'SELECT * FROM events WHERE event_id = $1::text::uuid AND "offset" IS NOT NULL'
    return eventually(lambda: rows(database, sql, event_id), "archived")[0]


# ---- filter ----------------------------------------------------------------------------------------------------------


def test_rule_17_what_is_filtered_is_answered_counted_and_nowhere_else(
    server: Serve, stack: Stack, database: str
) -> None:
    before = server.balance()
    kept = [send(server, "filtered", b'{"status":"%b"}' % status).json for status in (b"paid", b"refunded")]
    for body, *lines in ((b'{"status":"open"}',), (b"not JSON",), (b'{"status":"paid"}', "X-Event: ping")):
        answer = send(server, "filtered", body, *lines)
        assert (answer.status, answer.json) == (200, {"dropped": True, "source": "filtered"})
        assert "kwb-event-id" not in answer.headers
    last = send(server, "filtered", b'{"status":"paid","last":1}').json  # whatever came before it has come by now
    ids = {receipt["event_id"] for receipt in (*kept, last)}
    found = consume(stack.kafka, topic_of("filtered"), 3)
    assert _count(stack, topic_of("filtered")) == 3
    assert {dict(message.headers)["ce_id"].decode() for message in found} == ids
    assert row(database, last["event_id"])["source"] == "filtered"
    assert {str(r[0]) for r in rows(database, "SELECT event_id FROM events WHERE source = 'filtered'")} == ids
    after = server.balance()
    grown = {name: after[name] - before[name] for name in after if after[name] != before[name]}
    assert grown == {"received": 6, "acked": 3, "filtered": 3}
    counted = {
        rule: server.total("kwb_requests_filtered_total", source="filtered", rule=rule) for rule in ("pings", "rest")
    }
    assert counted == {"pings": 1, "rest": 2}


def test_what_is_filtered_is_answered_as_the_source_answers(server: Serve) -> None:
    answer = send(server, "answered", b"x")
    assert (answer.status, answer.body) == (202, b"fine")
    assert "kwb-event-id" not in answer.headers


def test_rule_14_what_is_filtered_claims_no_delivery_id(server: Serve, stack: Stack) -> None:
    assert send(server, "once", b"a", "X-Id: 1", "X-Event: ping").json["dropped"] is True
    first = send(server, "once", b"a", "X-Id: 1").json
    assert first["duplicate"] is False
    again = send(server, "once", b"a", "X-Id: 1").json
    assert (again["duplicate"], again["event_id"]) == (True, first["event_id"])
    assert send(server, "once", b"a", "X-Id: 1", "X-Event: ping").json == {"dropped": True, "source": "once"}
    assert by_body(stack, topic_of("once")) == [b"a"]


# ---- topic -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["shop", "shop-stored"])
def test_events_go_to_the_topic_of_their_kind_and_to_no_other(
    server: Serve, stack: Stack, database: str, source: str
) -> None:
    names = {"orders/create": TOPICS[0], "orders_paid": TOPICS[1], "customers": TOPICS[2], f"../{RUN}": TOPICS[2]}
    unlisted = server.total("kwb_events_unlisted_total", source=source)
    sent = {}
    for kind, topic in names.items():
        receipt = send(server, source, kind.encode(), f"X-Topic: {kind}").json
        assert receipt["topic"] == topic
        assert receipt["stored"] == ("outbox" if source == "shop-stored" else "kafka")
        sent[receipt["event_id"]] = topic
    assert server.total("kwb_events_unlisted_total", source=source) - unlisted == 2
    for event_id, topic in sent.items():
        assert row(database, event_id)["topic"] == topic
    for topic in TOPICS:
        there = {dict(m.headers)["ce_id"].decode() for m in consume(stack.kafka, topic, _count(stack, topic))}
        assert {event_id for event_id in sent if event_id in there} == {e for e, t in sent.items() if t == topic}


def test_rule_10_every_topic_is_made_when_the_configuration_loads_and_no_other(server: Serve, stack: Stack) -> None:
    send(server, "shop", b"x", f"X-Topic: strange-{RUN}")
    listed = confluent_kafka.admin.AdminClient(client_config(stack.kafka.settings)).list_topics(timeout=WAIT_S)
    made = {name for name in listed.topics if RUN in name}
    assert made == {*TOPICS, *(topic_of(name) for name in SOURCES if not name.startswith("shop"))}


# ---- redaction -------------------------------------------------------------------------------------------------------

BODY = b'{"id": 1.50, "card": {"number": "%b"}, "items": [{"email": "%b"}, {"n": 2}]}' % ((CANARY.encode(),) * 2)
REDACTED = BODY.replace(CANARY.encode(), b"[redacted]")


@pytest.mark.parametrize("source", ["red-raw", "red-cloudevents", "red-envelope", "red-stored"])
def test_rule_29_what_is_taken_out_is_stored_nowhere(server: Serve, stack: Stack, database: str, source: str) -> None:
    answer = send(
        server, source, BODY, f"X-Customer: {CANARY}", "X-Other: kept", "Content-Type: application/json",
        query=f"?a=1&email={CANARY}",
    )  # fmt: skip
    digest = sha256(BODY).hexdigest()
    assert answer.json["body_sha256"] == digest  # of what the sender sent
    (message,) = consume(stack.kafka, topic_of(source), 1)
    assert formats.decode(formats.format_of(message.headers), message.value) == REDACTED
    headers = dict(message.headers)
    assert headers["kwb_altered"] == b"redact"
    assert headers["kwb_body_sha256"] == digest.encode()
    assert headers["kwb_query"] == b"a=1&email=[redacted]"
    assert headers["http_x-customer"] == b"[redacted]"
    assert headers["http_x-other"] == b"kept"
    assert CANARY not in repr(message)
    found = row(database, answer.json["event_id"])
    assert bytes(found["body"]) == REDACTED
    assert CANARY not in repr(dict(found))
    assert json.loads(found["marks"]) == [["kwb_altered", "redact"], ["kwb_body_sha256", digest]]
    assert rows(database, "SELECT FROM outbox WHERE strpos(outbox::text, $1) > 0", CANARY) == []
    assert CANARY not in server.log.read_text()


def test_a_body_that_cannot_be_looked_into_is_refused_and_stored_nowhere(server: Serve, stack: Stack) -> None:
    topic = topic_of("red-raw")
    before = _count(stack, topic)
    answer = send(server, "red-raw", f"number={CANARY}".encode())
    assert (answer.status, answer.code) == (422, "rules.redact")
    assert send(server, "red-raw", b'{"last":1}').status == 200
    found = consume(stack.kafka, topic, before + 1)
    assert _count(stack, topic) == before + 1
    assert "kwb_altered" not in dict(_with(found, b'{"last":1}').headers)
    assert server.total("kwb_requests_rejected_total", source="red-raw", code="rules.redact") == 1


def _with(found: list[Message], value: bytes) -> Message:
    (message,) = [message for message in found if message.value == value]
    return message
