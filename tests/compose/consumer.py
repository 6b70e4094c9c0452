"""A partner that knows nothing of the bridge: reads, or tries what it may not do. A JSON line for everything it sees.

Standard library and confluent-kafka alone, because it runs here and in a container. PARTNER_PASSWORD is its password.
"""

import argparse
import json
import os
import signal
import sys
import time

import confluent_kafka as ck


def say(**facts):  # type: ignore[no-untyped-def]
    print(json.dumps({"at": time.time(), **facts}), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=("read", "produce", "login"))
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--ca", required=True)
    parser.add_argument("--user", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--group", default="")
    parser.add_argument("--protocol", default="SASL_SSL")
    parser.add_argument("--until", default="", help="end when a record has this in its value")
    given = parser.parse_args()
    # Checking the broker's name is what the client does by itself; nothing here switches it off.
    config = {
        "bootstrap.servers": given.bootstrap,
        "security.protocol": given.protocol,
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": given.user,
        "sasl.password": os.environ["PARTNER_PASSWORD"],
        "error_cb": lambda error: say(error=error.name(), text=error.str()),
    }
    if given.protocol == "SASL_SSL":
        config["ssl.ca.location"] = given.ca
    return {"read": read, "produce": produce, "login": login}[given.mode](given, config)


def read(given, config) -> int:  # type: ignore[no-untyped-def]
    """Each record is committed before it is said. SIGTERM ends it."""
    going = [True]
    signal.signal(signal.SIGTERM, lambda *_: going.clear())
    consumer = ck.Consumer(
        {**config, "group.id": given.group, "auto.offset.reset": "earliest", "enable.auto.commit": False}
    )
    consumer.subscribe([given.topic], on_assign=lambda _, partitions: say(assigned=len(partitions)))
    while going:
        message = consumer.poll(0.2)
        if message is None:
            continue
        if message.error():
            say(error=message.error().name(), text=message.error().str())
            continue
        committed = True
        try:
            consumer.commit(message, asynchronous=False)
        except ck.KafkaException as error:  # it is read again after a restart, if at all
            committed = False
            say(uncommitted=error.args[0].name())
        value = message.value().decode()
        say(partition=message.partition(), offset=message.offset(), value=value, committed=committed)
        if given.until and given.until in value:
            break
    consumer.close()
    return 0


def produce(given, config) -> int:  # type: ignore[no-untyped-def]
    """0 when the record was taken."""
    results = []
    producer = ck.Producer({**config, "message.timeout.ms": 20000})
    producer.produce(given.topic, b"forged", on_delivery=lambda error, _: results.append(error))
    producer.flush(30)
    refused = results[0] if results else None
    say(produced=bool(results) and refused is None, refusal=refused.name() if refused else "")
    return 0 if results and refused is None else 1


def login(given, config) -> int:  # type: ignore[no-untyped-def]
    """0 when the cluster answered."""
    client = ck.Consumer({**config, "group.id": "partner.login"})
    try:
        topics = sorted(client.list_topics(timeout=8).topics)
    except ck.KafkaException as error:
        for _ in range(20):  # each serves one error at most
            client.poll(0)
        say(login=False, refusal=error.args[0].name())
        return 1
    say(login=True, topics=topics)
    return 0


if __name__ == "__main__":
    sys.exit(main())
