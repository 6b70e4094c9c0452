"""What a consumer gets: the bytes, the key, the partition and the headers (product.md 2; rules.md 8, 25 to 28)."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import uuid
from pathlib import Path

import confluent_kafka as ck
import confluent_kafka.admin
import pytest

from bridge import LOGIN, PASSWORD, Serve, consume, eventually, request, serving
from kafka_webhook_bridge import formats
from kafka_webhook_bridge.kafka.admin import Admin
from kafka_webhook_bridge.kafka.config import client_config
from kafka_webhook_bridge.stack import Stack

BODIES = {
    "every byte": bytes(range(256)) * 3,
    "nothing": b"",
    "10 MiB": os.urandom(64) * (10 * 1024**2 // 64),
    "JSON": b' {"a": [1, 2.50, "\\u00e9"]}\n',
    "text": "grüße & <xml/>\r\n".encode(),
    "NUL": b"a\0b",
}


@pytest.mark.parametrize("source", ["big", "events", "wrapped"])
def test_rule_26_the_body_comes_back_to_the_byte(bridge: Serve, stack: Stack, source: str) -> None:
    by_id = {}
    with bridge.open() as client:
        for body in BODIES.values():
            answer = client.send(request(f"/{source}/a?b=c", body, "Content-Type: text/x")).answer()
            assert answer.status == 200, answer
            receipt = answer.json
            assert receipt["body_sha256"] == hashlib.sha256(body).hexdigest()
            assert answer.headers["kwb-event-id"] == receipt["event_id"]
            by_id[receipt["event_id"]] = body
    found = {}
    for message in consume(stack.kafka, source, records_of(stack, source)):
        headers = dict(message.headers)
        found[headers["ce_id"].decode()] = formats.decode(formats.format_of(message.headers), message.value)
    assert {event_id: found[event_id] for event_id in by_id} == by_id


def records_of(stack: Stack, topic: str) -> int:
    """All of the topic, those of other tests too."""
    return sum(end - start for start, end in Admin(stack.kafka.settings).offsets([topic])[topic].values())


def test_rule_25_the_headers_are_spelled_and_ordered(bridge: Serve, stack: Stack) -> None:
    event_id = None
    with bridge.open() as client:
        client.send(
            b"PUT /keyed/a%2Fb/%00?x=%20&y HTTP/1.1\r\nHost: h.example\r\nX-B: 1\r\nContent-Type: application/json\r\n"
            b"x-b:  two \r\nX-Hub-Signature-256: sha256=\xff\xfe\r\nce_id: mine\r\nKwb_Source: other\r\n"
            b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\nkwb_replay_id: 1\r\n"
            b"Cookie: canary=1\r\nProxy-Authorization: canary\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\nTE: a\r\n"
            b"Empty:\r\nContent-Length: 24\r\n" + LOGIN.encode() + b'\r\n\r\n{"order":{"id":"abc-1"}}'
        )
        answer = client.answer()
        assert answer.status == 200, answer
        event_id = answer.json["event_id"]
    messages = consume(stack.kafka, "keyed", int(bridge.total("kwb_events_total", source="keyed")))
    (message,) = [m for m in messages if dict(m.headers)["ce_id"].decode() == event_id]
    assert message.key == b"abc-1"
    assert message.value == b'{"order":{"id":"abc-1"}}'
    assert uuid.UUID(event_id).version == 7
    (time,) = [value for name, value in message.headers if name == "ce_time"]
    assert re.fullmatch(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", time)
    assert message.headers == [
        ("ce_specversion", b"1.0"),
        ("ce_id", event_id.encode()),
        ("ce_source", b"/sources/keyed"),
        ("ce_type", b"webhook.keyed"),
        ("ce_time", time),
        ("content-type", b"application/json"),
        ("kwb_source", b"keyed"),
        ("kwb_method", b"PUT"),
        ("kwb_path", b"/keyed/a%2Fb/%00"),
        ("kwb_verified", b"basic"),
        ("kwb_covers_body", b"false"),
        ("kwb_query", b"x=%20&y"),
        ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("http_host", b"h.example"),
        ("http_x-b", b"1"),
        ("http_content-type", b"application/json"),
        ("http_x-b", b"two "),
        ("http_x-hub-signature-256", b"sha256=\xff\xfe"),
        ("http_ce_id", b"mine"),
        ("http_kwb_source", b"other"),
        ("http_traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("http_kwb_replay_id", b"1"),
        ("http_empty", b""),
        ("http_content-length", b"24"),
    ]


def test_rule_27_credentials_stay_here(bridge: Serve, stack: Stack) -> None:
    """The password, plain or encoded, is neither in Kafka nor in the metrics nor in the log (`Serve.stop`)."""
    wrong = "Authorization: Basic " + base64.b64encode(b"hooks:canary-wrong").decode()
    assert bridge.ask(request("/closed/login", b"x")).status == 200
    assert bridge.ask(request("/closed?t=canary-query", b"x", login=wrong)).status in (401, 429)
    everything = repr(consume(stack.kafka, "closed", int(bridge.total("kwb_events_total", source="closed"))))
    for text in (everything, bridge.scrape(), bridge.log.read_text()):
        for secret in (PASSWORD, LOGIN.rpartition(" ")[2], "canary-wrong", wrong.rpartition(" ")[2], "canary-query"):
            assert secret not in text


def test_rule_8_a_key_goes_where_a_java_client_would_put_it(bridge: Serve, stack: Stack) -> None:
    keys = [f"order-{n}" for n in range(40)]
    with bridge.open() as client:
        for key in keys:
            body = f'{{"order": {{"id": "{key}"}}}}'.encode()
            assert client.send(request("/keyed", body)).answer().status == 200
        # without the member, or without JSON, there is no key, and that is no refusal
        assert client.send(request("/keyed", b'{"order": 1}')).answer().status == 200
        assert client.send(request("/keyed", b"\xff{")).answer().status == 200
    messages = consume(stack.kafka, "keyed", int(bridge.total("kwb_events_total", source="keyed")))
    placed = {m.key.decode(): m.partition for m in messages if m.key is not None}
    assert {key: placed[key] for key in keys} == {key: murmur2(key.encode()) % 6 for key in keys}
    assert sum(m.key is None for m in messages) >= 2


def murmur2(data: bytes) -> int:
    """The hash of Kafka's Java client (org.apache.kafka.common.utils.Utils.murmur2), sign bit cleared."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = 0x9747B28C ^ len(data)
    whole = len(data) // 4 * 4
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & mask
        h = (h * m & mask) ^ ((k ^ k >> 24) * m & mask)
    if rest := data[whole:]:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return (h ^ h >> 15) & 0x7FFFFFFF


def test_murmur2_is_the_java_clients() -> None:
    """Vectors of Kafka's own UtilsTest."""
    assert murmur2(b"21") == -973932308 & 0x7FFFFFFF
    assert murmur2(b"foobar") == -790332482 & 0x7FFFFFFF
    assert murmur2(b"a-little-bit-long-string") == -985981536 & 0x7FFFFFFF


def test_rule_9_an_oversized_record_is_413_and_small_ones_beside_it_live(
    stack: Stack, folder: Path, topic: str
) -> None:
    admin = ck.admin.AdminClient(client_config(stack.kafka.settings))
    new = ck.admin.NewTopic(topic, 1, 1, config={"max.message.bytes": "100000"})
    admin.create_topics([new])[topic].result(30)
    with serving(stack, folder, config=f"sources: {{s: {{auth: none, topic: {topic}}}}}") as server:
        with server.open() as large, server.open() as small:
            for _ in range(20):
                large.send(request("/s", b"x" * 100_001))
                small.send(request("/s", b"x" * 1000))
                answer = large.answer()
                assert (answer.status, answer.code) == (413, "record.too_large")
                assert "kwb-event-id" in answer.headers
                assert small.answer().status == 200
        assert server.total("kwb_kafka_delivery_errors_total") == 0


# ── the open rule ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_rule_11_the_open_rule(stack: Stack, folder: Path, database: str, topic: str) -> None:
    admin = ck.admin.AdminClient(client_config(stack.kafka.settings))
    prefix = f"{topic}."
    admin.create_topics([ck.admin.NewTopic(f"{prefix}theirs", 1, 1)])[f"{prefix}theirs"].result(30)
    config = f"sources: {{mine: {{topic: {prefix}taken}}}}\nopen_rule: true\ntopic_prefix: {prefix}\ntopics_max: 2\n"
    with serving(stack, folder, config=config, DATABASE_URL=database) as server:
        eventually(lambda: server.health()[1]["parts"]["postgres"]["status"] == "ready", "migrated")

        def code(name: str, login: str = LOGIN) -> str:
            answer = server.ask(request(f"/{name}", b"x", login=login))
            return "" if answer.status == 200 else answer.code

        assert code("theirs") == "sources.unknown"  # somebody else's topic
        assert code("taken") == "sources.unknown"  # it would evade the credentials of `mine`
        assert code("stranger", login="") == "auth.wrong"
        eventually(lambda: code("one") == "", "the first")
        eventually(lambda: code("two") == "", "the second")
        assert code("three") == "sources.topics_max"
        assert code("one") == code("mine") == ""
        text = server.scrape()
        assert "stranger" not in text
        assert f"{prefix}three" not in admin.list_topics(timeout=10).topics
    with serving(stack, folder, config=config, DATABASE_URL="postgresql://kwb:x@127.0.0.1:1/x") as server:
        assert server.health()[1]["status"] == "degraded"
        answer = server.ask(request("/new", b"x"))  # what cannot be put on record is not made
        assert (answer.status, answer.code) == (503, "deliver.timeout")
        assert server.ask(request("/mine", b"x")).status == 200  # a configured one that exists needs no PostgreSQL
        assert f"{prefix}new" not in admin.list_topics(timeout=10).topics
