"""What sources do with events besides storing them: leave them out, choose their topic, take secrets out of them."""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import confluent_kafka.admin
import pytest
from outbox_world import KAFKA_WAIT_S, Grown, balanced, bridging, frozen, outbox

from bridge import WAIT_S, Answer, Message, Serve, consume, eventually, request
from databases import empty_database, rows
from kafka_webhook_bridge import formats, ids
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
BROKEN = {
    "auth": "none", "split": "json", "topic": f"broken-{RUN}.{{json:0.k}}",
    "topics": [f"broken-{RUN}.{name}" for name in ("there", "gone")], "topic_otherwise": f"broken-{RUN}.other",
}  # fmt: skip
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
    **{
        f"batch-{ack}": _source(f"batch-{ack}", split="json:items", ack=ack)
        for ack in ("any", "kafka", "store", "both")
    },
    "ordered": _source("ordered", split="json", ordering="strict", key="{header:X-Key}"),
    "again": _source("again", split="json:items", delivery_id="{header:X-Id}", redact={"json": ["items.*.secret"]}),
    "broken": {**BROKEN, "ack": "kafka"},
    "broken-any": BROKEN,
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
    alone = {topic_of(name) for name in SOURCES if not name.startswith(("shop", "broken"))}
    assert made - {topic for topic in made if topic.startswith("broken")} == {*TOPICS, *alone}


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


# ---- split -----------------------------------------------------------------------------------------------------------

PARTS = (b'{"id": 1.50}', b'"two"', b"[3]")
BATCH = b'{"shop":"de","items":[ %b ,%b, %b]}' % PARTS


@pytest.mark.parametrize(
    ("source", "stored"),
    [("batch-any", "kafka"), ("batch-kafka", "kafka"), ("batch-store", "outbox"), ("batch-both", "both")],
)
def test_rule_29_a_batch_is_answered_once_all_its_parts_are_durable(
    server: Serve, stack: Stack, database: str, source: str, stored: str
) -> None:
    grown = Grown(server)
    answer = send(server, source, BATCH, "X-Other: kept", query="?a=1")
    digest = sha256(BATCH).hexdigest()
    receipt = answer.json
    parent = receipt.pop("event_id")
    assert answer.headers["kwb-event-id"] == parent
    assert receipt == {
        "source": source, "duplicate": False, "stored": stored, "topic": topic_of(source), "body_sha256": digest,
        "parts": 3,
    }  # fmt: skip
    expected = [str(ids.part(uuid.UUID(parent), number)) for number in (1, 2, 3)]
    found = {dict(m.headers)["ce_id"].decode(): m for m in consume(stack.kafka, topic_of(source), 3)}
    assert [found[event_id].value for event_id in expected] == list(PARTS)
    for number, event_id in enumerate(expected, 1):
        headers = dict(found[event_id].headers)
        assert headers["kwb_altered"] == b"split"
        assert headers["kwb_parent_id"] == parent.encode()
        assert headers["kwb_part"] == b"%d/3" % number
        assert headers["kwb_body_sha256"] == digest.encode()
        assert (headers["kwb_query"], headers["http_x-other"]) == (b"a=1", b"kept")
        assert bytes(row(database, event_id)["body"]) == PARTS[number - 1]
    assert grown("kwb_requests_acked_total", source=source, stored=stored) == 1
    assert grown("kwb_requests_acked_total", source=source) == 1
    assert grown("kwb_events_total", source=source) == 3
    assert balanced(server)


def test_rule_28_a_request_without_the_array_is_one_event(server: Serve, stack: Stack) -> None:
    before = _count(stack, topic_of("batch-any"))
    receipt = send(server, "batch-any", b'{"items":{}}').json
    assert "parts" not in receipt
    found = consume(stack.kafka, topic_of("batch-any"), before + 1)
    assert not {"kwb_altered", "kwb_part"} & dict(_with(found, b'{"items":{}}').headers).keys()
    assert server.total("kwb_events_unsplit_total", source="batch-any") == 1


def test_rule_6_parts_keep_their_order_where_order_is_kept(server: Serve, stack: Stack) -> None:
    expected = []
    with server.open() as client:
        for batch in range(5):
            values = [b"%d" % (1000 * batch + number) for number in range(300)]
            body = b"[" + b", ".join(values) + b"]"
            answer = client.send(request("/ordered", body, "X-Key: k", login="")).answer()
            assert (answer.status, answer.json["parts"], answer.json["stored"]) == (200, 300, "outbox")
            expected += values
    found = consume(stack.kafka, topic_of("ordered"), len(expected))
    assert [message.value for message in found] == expected


def test_rule_12_parts_that_come_again_are_duplicates_of_those_before(server: Serve, database: str) -> None:
    body = b'{"items":[{"n":1,"secret":"%b"},{"n":1}]}' % CANARY.encode()
    first, second = (send(server, "again", body, "X-Id: 1").json for _ in range(2))
    assert first["event_id"] != second["event_id"]
    of = [[ids.part(uuid.UUID(one["event_id"]), number) for number in (1, 2)] for one in (first, second)]

    def marked() -> bool:
        found = rows(database, "SELECT event_id, duplicate_of FROM events WHERE source = 'again'")
        return {(str(r[0]), r[1] and str(r[1])) for r in found} == {
            (str(of[0][0]), None), (str(of[0][1]), None),
            (str(of[1][0]), str(of[0][0])), (str(of[1][1]), str(of[0][1])),
        }  # fmt: skip

    eventually(marked, "marked")
    assert rows(database, "SELECT FROM events WHERE strpos(events::text, $1) > 0", CANARY) == []


def test_parts_that_are_too_large_together_are_refused_together(server: Serve, stack: Stack) -> None:
    topic = topic_of("batch-any")
    before = _count(stack, topic)
    body = b'{"items":[' + b",".join([b'"part"'] * 1000) + b"]}"
    answer = send(server, "batch-any", body, "X-Large: " + "x" * 30_000)
    assert (answer.status, answer.code) == (413, "record.too_large")
    assert send(server, "batch-any", body).json["parts"] == 1000
    consume(stack.kafka, topic, before + 1000)
    assert _count(stack, topic) == before + 1000


def test_rule_29_one_part_that_is_not_durable_keeps_the_2xx_back(server: Serve, stack: Stack, database: str) -> None:
    """A topic that is gone: what Kafka alone may confirm is refused, the outbox takes the part elsewhere."""
    there, gone = BROKEN["topics"]
    body = b'[{"k":"there"},{"k":"gone"},{"k":"gone"},{"k":"there"}]'
    assert send(server, "broken", body).json["parts"] == 4
    admin = confluent_kafka.admin.AdminClient(client_config(stack.kafka.settings))
    admin.delete_topics([gone])[gone].result(WAIT_S)

    def refused() -> Answer | None:
        with server.open() as client:  # the requests behind it have their own answers
            answer = client.send(request("/broken", body, login="") + request("/plain", b"next", login="")).answer()
            following = client.answer()
        assert (following.status, following.json["source"]) == (200, "plain")
        assert following.json["body_sha256"] == sha256(b"next").hexdigest()
        return answer if answer.status == 503 and answer.code == "deliver.blocked" else None

    answer = eventually(refused, "the topic is known to be gone")
    parent = uuid.UUID(answer.json["event_id"])

    def first_is_there() -> bool:  # unknown is never 2xx, and a part of it may be there
        found = consume(stack.kafka, there, _count(stack, there))
        return str(parent).encode() in {dict(message.headers)["ce_id"] for message in found}

    eventually(first_is_there, "the first part")
    answer = send(server, "broken-any", body)
    assert (answer.status, answer.json["parts"], answer.json["stored"]) == (200, 4, "outbox")
    second = ids.part(uuid.UUID(answer.json["event_id"]), 2)
    (waits,) = rows(database, "SELECT state FROM outbox WHERE event_id = $1", second)
    assert waits["state"] in ("waiting", "blocked")
    assert row(database, answer.json["event_id"])["topic"] == there
    assert balanced(server)


def test_while_kafka_is_silent_all_parts_wait_in_the_outbox(server: Serve, stack: Stack, database: str) -> None:
    assert stack.kafka.pid is not None
    with frozen(stack.kafka.pid), server.open() as client:
        client.send(request("/batch-any", BATCH, login=""))
        eventually(lambda: server.total("kwb_in_flight_requests") >= 3, "handed to Kafka")
        server.forward(KAFKA_WAIT_S)
        answer = client.answer()
        assert (answer.status, answer.json["stored"], answer.json["parts"]) == (200, "outbox", 3)
        parent = uuid.UUID(answer.json["event_id"])
        assert {str(ids.part(parent, number)) for number in (1, 2, 3)} <= outbox(database).keys()
    for number in (1, 2, 3):
        assert bytes(row(database, str(ids.part(parent, number)))["body"]) == PARTS[number - 1]
