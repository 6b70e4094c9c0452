"""Every sender of the catalog over HTTP: who proves itself is stored to the byte, whoever does not leaves nothing."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from senders_world import CATALOG, VECTORS, publishing, settled, source_of, wire, write_config

from bridge import Answer, Message, consume, eventually, request, serving
from databases import rows
from kafka_webhook_bridge.kafka.admin import Admin
from kafka_webhook_bridge.sources.config import check_configuration
from kafka_webhook_bridge.stack import Stack

# Other secrets than the right ones, which are no keys at all: such a bridge.yaml is refused.
NO_KEYS = {"airtable/valid~wrong-secret", "supabase-auth/valid~wrong-secret"}
# Vectors whose request is a hand-shake: proven, answered, and no event.
GREETINGS = {"discord/valid", "xero/intent-to-receive"}
REMOTE = [i for i, vector in enumerate(VECTORS) if {"jwks", "certs"} & set(vector) or vector["profile"] == "ebay"]
USABLE = [i for i, vector in enumerate(VECTORS) if vector["id"] not in NO_KEYS]


def test_rules_27_and_33_all_vectors_over_http(stack: Stack, folder: Path, topic: str, database: str) -> None:
    sources = {f"v{index}": source_of(VECTORS[index], topic) for index in USABLE}
    sources["last"] = {"auth": "none", "topic": topic}
    config = write_config(folder, sources)
    expected: dict[str, int] = {}
    wrong = []
    with publishing(folder) as publisher:
        environ = {**publisher.environ, "DATABASE_URL": database}
        with serving(stack, folder, role="all", config=config, **environ) as server:
            with server.open() as client:
                for index in sorted(set(USABLE) - set(REMOTE), key=lambda index: VECTORS[index]["now"]):
                    server.set_time(VECTORS[index]["now"])
                    answer = client.send(wire(VECTORS[index], f"v{index}")).answer()
                    wrong += judge(index, answer, expected)
            for index in REMOTE:
                vector = VECTORS[index]
                server.set_time(vector["now"])
                server.forward(48 * 3600)  # what was fetched for the vector before is too old
                publisher.publish(vector)
                wrong += judge(index, settled(server, wire(vector, f"v{index}")), expected)
            assert wrong == []
            server.set_time(0)
            assert server.ask(request("/last", b"sentinel", login="")).status == 200
            balance = server.balance()
            assert balance["handshakes"] == len(GREETINGS)
            assert balance.pop("received") == sum(balance.values())
            count = len(expected) + 1
            eventually(lambda: rows(database, "SELECT count(*) FROM events")[0][0] == count, "all are archived")
            log = server.log.read_text()
    archived = {row["source"]: dict(row) for row in rows(database, "SELECT * FROM events")}
    landed = by_source(stack, topic, count)
    assert set(landed) == set(archived) == {f"v{index}" for index in expected.values()} | {"last"}
    for index in expected.values():
        vector, message, row = VECTORS[index], landed[f"v{index}"], archived[f"v{index}"]
        headers = dict(message.headers)
        assert message.value == row["body"] == vector["body"].encode(), vector["id"]
        assert headers["kwb_method"] == vector["method"].encode()
        assert headers["kwb_path"] == f"/v{index}".encode()
        profile = CATALOG.load(vector["profile"])
        assert headers["kwb_verified"] == row["verified"].encode()
        if profile.verify.scheme in ("hmac", "digest"):
            assert row["verified"].startswith(profile.verify.scheme), vector["id"]
        if "body-not-covered" in vector["id"]:
            assert headers["kwb_covers_body"] == b"false", vector["id"]
        kept = str([pair for pair in message.headers if pair[0] != "kwb_dedupe_key"])
        del row["body"], row["body_json"]
        for canary in credentials_of(vector):
            assert canary not in kept, (vector["id"], canary)
            assert canary not in json.dumps(row, default=str), (vector["id"], canary)
            assert canary not in log, (vector["id"], canary)


def by_source(stack: Stack, topic: str, count: int) -> dict[str, Message]:
    """The records of a topic, of which there are so many and one for each source."""
    messages = consume(stack.kafka, topic, count)
    ends = Admin(stack.kafka.settings).offsets([topic])[topic].values()
    assert sum(end - start for start, end in ends) == count
    found = {dict(message.headers)["kwb_source"].decode(): message for message in messages}
    assert len(found) == count
    return found


def judge(index: int, answer: Answer, expected: dict[str, int]) -> list[tuple[str, int, bytes]]:
    """What is wrong with the answer to a vector; the event of a right one is noted in `expected`."""
    vector = VECTORS[index]
    profile = CATALOG.load(vector["profile"])
    if not vector["expected"]:
        right = answer.status == profile.refused_status and answer.code == "auth.signature"
    elif vector["id"] in GREETINGS:
        right = answer.status == 200 and "kwb-event-id" not in answer.headers
    else:
        right = answer.status == (200 if profile.answer is None else profile.answer.status)
        expected |= {answer.headers["kwb-event-id"]: index} if right else {}
    return [] if right else [(vector["id"], answer.status, answer.body)]


def credentials_of(vector: dict[str, Any]) -> set[str]:
    """What of a vector's request nobody may read afterwards: secrets that it sends, and bearer tokens."""
    profile = CATALOG.load(vector["profile"])
    if "proof" in profile.headers.values() and profile.verify.scheme == "token":
        return set()  # the subject of a certificate
    found = {text for text in vector["secrets"] if "\n" not in text and len(text) >= 8}
    found |= {base64.b64encode(text.encode()).decode() for text in found}
    said = {name.lower(): place for name, place in profile.headers.items()}
    for name, value in vector["headers"].items():
        place = said.get(name.lower(), "credential" if name.lower() == "authorization" else "proof")
        found |= {value} if place == "credential" else set()
    return found


def test_secrets_that_are_no_keys_are_refused_at_load() -> None:
    for vector in VECTORS:
        if vector["id"] in NO_KEYS:
            text = json.dumps({"sources": {"s": source_of(vector, "t")}})
            _, _, table, (problem,) = check_configuration({"KWB_CONFIG": text})
            assert table is None
            assert not vector["expected"]
            assert str(problem) == "KWB_CONFIG:1: sources.s.secrets: secret 1 is not base64"
