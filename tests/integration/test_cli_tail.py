"""`kwb tail` against the real broker, through the command."""

from __future__ import annotations

import base64
import io
import json
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import confluent_kafka as ck
import confluent_kafka.admin
import pytest

from kafka_webhook_bridge.cli.output import Output
from kafka_webhook_bridge.cli.tail import Tail, starting_positions
from kafka_webhook_bridge.kafka.admin import Admin
from kafka_webhook_bridge.kafka.config import client_config, record_bytes_limit
from kafka_webhook_bridge.kafka.consumer import Place, RecordReader
from kafka_webhook_bridge.stack import Stack

WAIT_S = 90


class Running:
    """A `kwb tail` whose lines are read as they come."""

    def __init__(self, stack: Stack, *arguments: str, **environ: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kafka_webhook_bridge.cli", "tail", *arguments],
            env={"COLUMNS": "200", **stack.environ(), **environ},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._lines: queue.Queue[str] = queue.Queue()
        self.errors: queue.Queue[str] = queue.Queue()
        self._threads = [
            threading.Thread(target=self._pump, args=pair)
            for pair in ((self.process.stdout, self._lines), (self.process.stderr, self.errors))
        ]
        for thread in self._threads:
            thread.start()

    @staticmethod
    def _pump(stream: Any, lines: queue.Queue[str]) -> None:
        for line in stream:
            lines.put(line)

    def line(self) -> str:
        return self._lines.get(timeout=WAIT_S)

    def record(self) -> dict[str, Any]:
        return json.loads(self.line())

    def rest(self) -> list[str]:
        """Wait for its end; the lines that were not read yet."""
        self.process.wait(WAIT_S)
        for thread in self._threads:
            thread.join()
        return list(self._lines.queue)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.rest()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()


@pytest.fixture
def tail(stack: Stack) -> Iterator[Callable[..., Running]]:
    running: list[Running] = []

    def start(*arguments: str, **environ: str) -> Running:
        running.append(Running(stack, *arguments, **environ))
        return running[-1]

    yield start
    for one in running:
        one.close()


class Producer:
    """Writes records to one partition and waits until they are there."""

    def __init__(self, stack: Stack) -> None:
        self._producer = ck.Producer(client_config(stack.kafka.settings, **{"enable.idempotence": True}))

    def __call__(self, topic: str, *values: bytes, partition: int = 0, **arguments: Any) -> None:
        failures = []
        for value in values:
            self._producer.produce(
                topic, value, partition=partition, on_delivery=lambda error, _: failures.append(error), **arguments
            )
        assert self._producer.flush(WAIT_S) == 0
        assert failures == [None] * len(values)


@pytest.fixture
def produce(stack: Stack, topic: str) -> Callable[..., None]:
    """Makes the topic; `produce(*values, …)` writes to it."""
    Admin(stack.kafka.settings).ensure_topic(topic, record_bytes_limit(0))
    return partial(Producer(stack), topic)


HEADERS: list[tuple[str, bytes | None]] = [
    ("ce_id", b"019a2f4e-5b6c-7d8e-9f01-23456789abcd"),
    ("ce_type", b"orders/create"),
    ("kwb_source", b"shop"),
    ("http_x-odd", b"caf\xe9"),
    ("http_x-odd", b"again"),
    ("gone", None),
]


def test_a_line_of_json_has_everything(topic: str, produce, tail) -> None:
    produce(b'{"a":1}', key=b"1234", headers=HEADERS)
    produce(bytes(range(256)), b"", key=b"\xff")
    running = tail(topic, "--from", "beginning", "--count", "3", "--json")
    first, second, third = (json.loads(line) for line in running.rest())
    assert running.process.returncode == 0
    assert (first["topic"], first["partition"], first["offset"]) == (topic, 0, 0)
    assert (first["event_id"], first["source"], first["type"]) == (HEADERS[0][1].decode(), "shop", "orders/create")
    assert (first["key"], first["body"]) == ("1234", '{"a":1}')
    assert first["timestamp"].endswith("Z")
    assert first["headers"] == [
        ["ce_id", "019a2f4e-5b6c-7d8e-9f01-23456789abcd"],
        ["ce_type", "orders/create"],
        ["kwb_source", "shop"],
        ["http_x-odd", "caf\ufffd", base64.b64encode(b"caf\xe9").decode()],
        ["http_x-odd", "again"],
        ["gone", None],
    ]
    assert base64.b64decode(second["body_base64"]) == bytes(range(256))
    assert (second["source"], second["type"], second["event_id"]) == (None, None, None)
    assert (third["body"], third["key_base64"]) == ("", base64.b64encode(b"\xff").decode())


def test_a_line_for_people_cannot_move_their_cursor(topic: str, produce, tail) -> None:
    produce(b"\x1b[2J\n\xff" + b"x" * 200, key=b"\x1b]0;k", headers=[("kwb_source", b"\x9b1m"), ("ce_type", b"a\nb")])
    produce(b"plain")
    running = tail(topic, "--from", "beginning", "--count", "2")
    hostile, plain = running.rest()
    assert hostile[:-1].isprintable()
    assert "\\x1b[2J\\n\ufffdxxx" in hostile
    assert "206 B" in hostile
    assert hostile.endswith("…\n")
    assert f"{topic}[0]" in plain
    assert plain.split()[-3:] == ["5", "B", "plain"]


def test_from(stack: Stack, topic: str, produce, tail) -> None:
    for value in (b"0", b"1", b"2", b"3"):
        produce(value)
    running = tail(topic, "--from", "-99", "--count", "4", "--json")
    records = [json.loads(line) for line in running.rest()]
    assert [record["body"] for record in records] == ["0", "1", "2", "3"]
    times = [record["timestamp"] for record in records]
    expected = {
        "beginning": 0, "end": 4, "0": 0, "2": 2, "99": 4, "-1": 3, "-99": 0, "1h": 0, "2999-01-01": 4,
        times[2]: times.index(times[2]),
    }  # fmt: skip
    admin = Admin(stack.kafka.settings)
    for start, offset in expected.items():
        positions = starting_positions(admin, [topic], start)
        assert positions[Place(topic, 0)] == offset, start
        assert [positions[Place(topic, partition)] for partition in range(1, 6)] == [0] * 5


def ready(running: Running, topic: str, produce) -> None:
    """Write until it is seen: from then on `running` follows."""
    for _ in range(WAIT_S * 5):
        produce(b"sentinel")
        try:
            line = running._lines.get(timeout=0.2)
        except queue.Empty:
            assert running.process.poll() is None, list(running.errors.queue)
            continue
        assert json.loads(line)["body"] == "sentinel"
        return
    raise AssertionError("nothing was seen")


def test_it_follows_live_and_ctrl_c_ends_it(topic: str, produce, tail) -> None:
    produce(b"before")
    running = tail(topic, "--json")
    ready(running, topic, produce)
    produce(b"now", partition=3)
    while (record := running.record())["body"] == "sentinel":
        pass
    assert (record["body"], record["partition"]) == ("now", 3)
    running.process.send_signal(signal.SIGINT)
    assert running.rest() == []
    assert running.process.returncode == 130
    assert list(running.errors.queue) == []


def test_it_goes_on_after_a_restart_of_the_broker(stack: Stack, topic: str, produce, tail) -> None:
    """Killed and started again: every record comes once and in order."""
    produce(*(b"%d" % n for n in range(50)))
    running = tail(topic, "--from", "beginning", "--json", "--count", "100")
    seen = [running.record()["body"] for _ in range(50)]
    stack.kafka.kill()
    stack.kafka.start()
    produce(*(b"%d" % n for n in range(50, 100)))
    seen += [json.loads(line)["body"] for line in running.rest()]
    assert running.process.returncode == 0
    assert seen == [str(n) for n in range(100)]


def test_people_are_told_when_kafka_goes_and_comes(stack: Stack, topic: str, produce, tail) -> None:
    produce(b"one")
    running = tail(topic, "--from", "beginning", "--count", "2")
    assert running.line().endswith("one\n")
    stack.kafka.stop()
    try:
        assert running.errors.get(timeout=WAIT_S).startswith("Kafka does not answer (")
    finally:
        stack.kafka.start()
    while running.errors.get(timeout=WAIT_S) != "Kafka is back.\n":  # also where nothing comes
        pass
    produce(b"two")
    (line,) = running.rest()
    assert line.endswith("two\n")


def test_a_topic_that_is_made_anew_is_read_from_its_beginning(stack: Stack, topic: str, produce, tail) -> None:
    produce(b"one", b"two")
    running = tail(topic, "--from", "beginning")
    assert [running.line().split()[-1] for _ in range(2)] == ["one", "two"]
    admin = Admin(stack.kafka.settings)
    admin.delete_topic(topic)
    admin.ensure_topic(topic, record_bytes_limit(0))
    produce(b"a")
    assert running.errors.get(timeout=WAIT_S) == f"The topic {topic} was made anew; reading it from its beginning.\n"
    produce(b"b", b"c")
    assert [running.line().split()[-1] for _ in range(3)] == ["a", "b", "c"]


def test_a_topic_that_is_deleted_ends_it(stack: Stack, topic: str, produce, tail) -> None:
    produce(b"one")
    running = tail(topic, "--from", "beginning")
    running.line()
    Admin(stack.kafka.settings).delete_topic(topic)
    assert running.rest() == []
    assert running.process.returncode == 1
    assert f"The topic {topic} is gone." in "".join(running.errors.queue)


def test_a_source_leads_to_its_topic(topic: str, produce, tail) -> None:
    """Also to the body inside a structured format, and several names at once."""
    produce(b'{"specversion":"1.0","data":{"n": 1}}', headers=[("kwb_format", b"cloudevents")])
    config = f"sources:\n  shop:\n    topic: {topic}\n    auth: none\n"
    running = tail("shop", topic, "--from", "beginning", "--count", "1", "--json", KWB_CONFIG=config)
    (line,) = running.rest()
    assert json.loads(line)["body"] == '{"n": 1}'
    people = tail("shop", "--from", "beginning", "--count", "1", KWB_CONFIG=config)
    (line,) = people.rest()
    assert line.endswith('{"n": 1}\n')
    assert list(people.errors.queue) == [f"The topic of the source shop is {topic}.\n"]


@pytest.mark.parametrize(
    ("arguments", "environ", "code", "told"),
    [
        (["{topic}-none"], {}, 1, "There is no topic {topic}-none"),
        (
            ["none"],
            {"KWB_CONFIG": "sources:\n  none:\n    topic: {topic}-none\n    auth: none\n"},
            1,
            "of the source none",
        ),
        (["{topic}", "--from", "yesterday"], {}, 2, "--from yesterday"),
        (
            ["{topic}"],
            {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "KAFKA_PASSWORD": "canary"},
            1,
            "KAFKA_BOOTSTRAP_SERVERS",
        ),
    ],
    ids=["no topic", "no topic of a source", "no time", "no broker"],
)
def test_what_cannot_be_followed_is_told(
    topic: str, produce, tail, arguments: list[str], environ: dict[str, str], code: int, told: str
) -> None:
    given = {name: value.replace("{topic}", topic) for name, value in environ.items()}
    running = tail(*(argument.replace("{topic}", topic) for argument in arguments), **given)
    assert running.rest() == []
    assert running.process.returncode == code
    errors = "".join(running.errors.queue)
    assert told.replace("{topic}", topic) in errors
    assert "canary" not in errors


def test_a_reader_that_left_ends_it(topic: str, produce, stack: Stack) -> None:
    """`kwb tail … | head -1`."""
    produce(*(b"x" * 1000,) * 500)
    process = subprocess.Popen(
        [sys.executable, "-m", "kafka_webhook_bridge.cli", "tail", topic, "--from", "beginning", "--json"],
        env=stack.environ(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(WAIT_S) == 141


def test_partitions_that_are_added_are_followed(stack: Stack, topic: str, produce, tail) -> None:
    produce(b"one")
    running = tail(topic, "--from", "beginning")
    assert running.line().endswith("one\n")
    client = ck.admin.AdminClient(client_config(stack.kafka.settings))
    client.create_partitions([ck.admin.NewPartitions(topic, 7)])[topic].result(WAIT_S)
    Producer(stack)(topic, b"new", partition=6)
    assert running.line().endswith("new\n")


def test_records_that_retention_removed_first_are_told(stack: Stack, topic: str, produce) -> None:
    produce(*(b"lost",) * 4, b"after")
    client, place = ck.admin.AdminClient(client_config(stack.kafka.settings)), ck.TopicPartition(topic, 0, 4)
    client.delete_records([place])[place].result(WAIT_S)
    stdout, stderr = io.StringIO(), io.StringIO()
    reader = RecordReader(stack.kafka.settings)
    try:
        out = Output(stdout=stdout, stderr=stderr)
        Tail(Admin(stack.kafka.settings), reader, {Place(topic, 0): 1}, out, 1).run()
    finally:
        reader.close()
    assert stdout.getvalue().endswith("after\n")
    assert f"{topic}, partition 0: offset 1 is no longer there; going on from 4." in stderr.getvalue()
