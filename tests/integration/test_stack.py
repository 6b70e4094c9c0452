"""The embedded servers start, stop, die and come back with their data."""

from __future__ import annotations

import asyncio

import asyncpg
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from kafka_webhook_bridge.stack import Stack


def login(kafka, **extra):
    return {
        "bootstrap.servers": kafka.bootstrap, "security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN",
        "sasl.username": kafka.username, "sasl.password": kafka.password, "log_level": 0, **extra,
    }  # fmt: skip


def make_topic(kafka, name):
    admin = AdminClient(login(kafka))
    admin.create_topics([NewTopic(name, 1, 1)])[name].result(30)


def produce(kafka, topic, *values):
    errors = []
    producer = Producer(login(kafka, **{"enable.idempotence": True}))
    for value in values:
        producer.produce(topic, value, headers=[("http_x", b"1")], on_delivery=lambda error, _: errors.append(error))
    producer.flush(30)
    assert errors == [None] * len(values)


async def query(url, sql):
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


def test_a_java_console_consumer_reads_what_was_produced(stack: Stack, topic, java_consumer):
    make_topic(stack.kafka, topic)
    produce(stack.kafka, topic, b"one", "zwei ü".encode())
    assert java_consumer(stack.kafka, topic, 2) == b"http_x:1\tone\nhttp_x:1\tzwei \xc3\xbc\n"


def test_a_test_database_is_empty_and_belongs_to_the_bridge(database):
    assert asyncio.run(query(database, "SELECT current_user")) == "kwb"
    assert asyncio.run(query(database, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")) == 0
    assert asyncio.run(query(database, "SELECT version()")).startswith("PostgreSQL 18.")
