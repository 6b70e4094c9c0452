"""Every sender of the catalog over HTTP: who proves itself is stored to the byte, whoever does not leaves nothing."""

from __future__ import annotations

from pathlib import Path

from senders_world import CATALOG, VECTORS, publishing, settled, source_of, wire, write_config

from bridge import Answer, consume, request, serving
from kafka_webhook_bridge.kafka.admin import Admin
from kafka_webhook_bridge.stack import Stack

# Other secrets than the right ones, which are no keys at all: such a bridge.yaml is refused.
NO_KEYS = {"airtable/valid~wrong-secret", "supabase-auth/valid~wrong-secret"}
# Vectors whose request is a hand-shake: proven, answered, and no event.
GREETINGS = {"discord/valid", "xero/intent-to-receive"}
REMOTE = [i for i, vector in enumerate(VECTORS) if {"jwks", "certs"} & set(vector) or vector["profile"] == "ebay"]


def test_rule_33_all_vectors_over_http(stack: Stack, folder: Path, topic: str) -> None:
    usable = [index for index, vector in enumerate(VECTORS) if vector["id"] not in NO_KEYS]
    sources = {f"v{index}": source_of(VECTORS[index], topic) for index in usable}
    sources["last"] = {"auth": "none", "topic": topic}
    expected: dict[str, int] = {}
    wrong = []
    with publishing(folder) as publisher:
        config = write_config(folder, sources)
        with serving(stack, folder, config=config, **publisher.environ, KWB_LOG_LEVEL="error") as server:
            with server.open() as client:
                order = sorted(set(usable) - set(REMOTE), key=lambda index: VECTORS[index]["now"])
                for index in order:
                    vector = VECTORS[index]
                    server.set_time(vector["now"])
                    answer = client.send(wire(vector, f"v{index}")).answer()
                    wrong += _judge(index, answer, expected)
            for index in REMOTE:
                vector = VECTORS[index]
                server.set_time(vector["now"])
                server.forward(48 * 3600)  # what was fetched for the vector before is too old
                publisher.publish(vector)
                wrong += _judge(index, settled(server, wire(vector, f"v{index}")), expected)
            assert wrong == []
            server.set_time(0)
            assert server.ask(request("/last", b"sentinel", login="")).status == 200
            balance = server.balance()
            assert balance.pop("received") == sum(balance.values())
            assert balance["handshakes"] == len(GREETINGS)
    messages = consume(stack.kafka, topic, len(expected) + 1)
    ends = Admin(stack.kafka.settings).offsets([topic])[topic].values()
    assert sum(end - start for start, end in ends) == len(expected) + 1
    seen = {}
    for message in messages:
        headers = dict(message.headers)
        name = headers["kwb_source"].decode()
        assert name not in seen
        seen[name] = message, headers
    assert set(seen) == {f"v{index}" for index in expected.values()} | {"last"}
    for index in expected.values():
        vector = VECTORS[index]
        message, headers = seen[f"v{index}"]
        assert message.value == vector["body"].encode(), vector["id"]
        assert headers["kwb_method"] == vector["method"].encode()
        assert headers["kwb_path"] == f"/v{index}".encode()
        profile = CATALOG.load(vector["profile"])
        if profile.verify.scheme in ("hmac", "digest"):
            assert headers["kwb_verified"].startswith(profile.verify.scheme.encode()), vector["id"]
        if "body-not-covered" in vector["id"]:
            assert headers["kwb_covers_body"] == b"false", vector["id"]


def _judge(index: int, answer: Answer, expected: dict[str, int]) -> list[tuple[str, int, bytes]]:
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
