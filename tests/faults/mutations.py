"""Proof that the checker sees: bridges and brokers that are wrong on purpose, each of which must turn it red.

The wrong is put into the bridge's processes from outside, by Python's own sitecustomize; the product has no switch for
it. A mutation that the checker does not see fails the suite.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from faults.checker import Expect
from faults.injectors import disks, stores
from faults.runner import EVENTS, Result, Scenario
from faults.scenarios import BY_NAME
from faults.world import World


@dataclass(frozen=True, slots=True)
class Mutation:
    """`code` runs at the start of the bridge's child of this `role`; at least one verdict of `red` must be red."""

    name: str
    title: str
    red: frozenset[int]
    scenario: Scenario
    role: str = ""
    code: str = ""

    def armed(self) -> Scenario:
        """The scenario with the wrong in it."""
        if not self.code:
            return dataclasses.replace(self.scenario, name=self.name)
        return dataclasses.replace(self.scenario, name=self.name, setup=self._around(self.scenario.setup))

    def _around(self, inner: Callable[[World], contextlib.AbstractContextManager[None]] | None):  # type: ignore[no-untyped-def]
        @contextlib.contextmanager
        def around(world: World) -> Iterator[None]:
            folder = world.folder / "mutation"
            folder.mkdir()
            indented = "\n".join(f"    {line}" for line in self.code.strip().splitlines())
            (folder / "sitecustomize.py").write_text(
                "import sys\n"
                f'if {{"kafka_webhook_bridge.app.child", {self.role!r}}} <= set(sys.orig_argv):\n{indented}\n'
            )
            world.options.environ["PYTHONPATH"] = str(folder)
            with inner(world) if inner else contextlib.nullcontext():
                yield

        return around

    def seen(self, result: Result) -> bool:
        """Whether the checker saw it for the right reason. A run that broke down proves nothing."""
        return not result.broke and bool(self.red & {verdict.number for verdict in result.red})


_ACK_BEFORE_FLUSH = """
from kafka_webhook_bridge.kafka.producer import Outcome, Producer
class Nobody(Outcome):
    __slots__ = ()
    def reported(self, error, message):
        pass
real = Producer.send
def send(self, record, outcome):
    real(self, record, nobody := Nobody())
    outcome.error, outcome.lane = None, nobody.lane
    self._hand_over.put([outcome])
Producer.send = send
"""

_DROP_ONE = """
from kafka_webhook_bridge.kafka.producer import Producer
real, count = Producer.send, 0
def send(self, record, outcome):
    global count
    count += 1
    if count != 150:
        return real(self, record, outcome)
    outcome.error, outcome.lane = None, self._fast
    self._outstanding += 1
    self._hand_over.put([outcome])
Producer.send = send
"""

_CHANGE_A_BYTE = """
from kafka_webhook_bridge.kafka.producer import Producer
real, count = Producer.send, 0
def send(self, record, outcome):
    global count
    count += 1
    if count == 150:
        record = record._replace(value=record.value[:-1] + bytes([record.value[-1] ^ 1]))
    return real(self, record, outcome)
Producer.send = send
"""

_RELAY_OFF = """
from kafka_webhook_bridge.archive.relay import Relay
async def run(self, stop):
    await stop.wait()
Relay.run = run
"""

_DEDUPE_OFF = """
from kafka_webhook_bridge.ingest.suppress import Claim, Suppress
def claim(self, event, deadline, answer):
    answer(Claim(self, event, deadline, answer))
Suppress.claim = claim
"""


def _power_cut_without_fsync(world: World) -> None:
    for topic in world.topics():
        with contextlib.suppress(Exception):  # a topic that no event came to yet
            world.ground.set_topic(topic, flush_messages=str(2**63 - 1))
    world.acks(world.options.rate)
    disks.kafka_power_cut(world)


MUTATIONS = (
    Mutation(
        "ack-before-flush",
        "2xx as soon as the record is handed to the producer",
        frozenset({1}),
        dataclasses.replace(BY_NAME["kafka-away"], fault=stores.kafka_killed(7)),
        "ingest",
        _ACK_BEFORE_FLUSH,
    ),
    Mutation(
        "relay-off",
        "nobody sends what is in the outbox",
        frozenset({10}),
        # Without sources that need the relay: the load must come to run first.
        dataclasses.replace(
            BY_NAME["kafka-killed"], times=1, sources=EVENTS, expect=Expect(copies_max=3, recovery_s_max=5.0)
        ),
        "worker",
        _RELAY_OFF,
    ),
    Mutation(
        "dedupe-off",
        "each delivery is the first one",
        frozenset({7}),
        BY_NAME["duplicates"],
        "ingest",
        _DEDUPE_OFF,
    ),
    Mutation("drop-one", "one record is never sent", frozenset({1}), BY_NAME["healthy"], "ingest", _DROP_ONE),
    Mutation("change-a-byte", "one bit of one body", frozenset({4}), BY_NAME["healthy"], "ingest", _CHANGE_A_BYTE),
    Mutation(
        "broker-without-fsync",
        "the topics without flush.messages=1, and a power cut",
        frozenset({1}),
        dataclasses.replace(BY_NAME["kafka-power-cut"], fault=_power_cut_without_fsync, expect=Expect(copies_max=3)),
    ),
)
