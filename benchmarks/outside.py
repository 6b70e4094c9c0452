"""outside: a partner's quota, and what clients that lie cost Kafka and those who read. See README.md.

    python benchmarks/outside.py [--quick] [--parts quota,attack,attack-broker]

The quota and `attack-broker` go straight to PROXY, the broker's listener for outside consumers, with SCRAM-SHA-512.
`attack` goes the way that outsiders have: through nginx's TLS and the guard.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import secrets
import selectors
import socket
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from itertools import count
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any, cast

import confluent_kafka as ck
from rich.console import Console
from rich.table import Table

import results
from kafka_webhook_bridge.kafka.quotas import BYTE_RATE, Quotas
from kafka_webhook_bridge.kafka.users import Users
from kafka_webhook_bridge.stack import Kafka
from kafka_webhook_bridge.stack.ports import free_ports
from processes import resident
from servers import embedded_stack
from topics import Cluster, Topics

sys.path.insert(0, str(results.ROOT / "tests"))
import raw_kafka
from edge import edge, guarding

BODY_BYTES = 1024
QUOTA_BYTES_PER_SECOND = 5_000_000
QUOTA_TOLERANCE_PERCENT = 10
RECORDS_PER_SECOND = 200  # that the control consumer waits for
RSS_MORE_MIB_MAX = 50
P99_TIMES_MAX = 2
STALL_S = 60
TRIES_PER_SECOND = 100  # twice what the broker takes on PROXY
ATTACKERS = 200  # threads: a try may wait for its end
ADDRESSES = 32  # from which they come
HALF_OPEN = 1000
FIRST_S = 5
PARTS = ("quota", "attack", "attack-broker")
# A heap of one size: its growth from half to whole, once, would be taken for memory that the attack has cost.
JVM = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true",
       "-XX:ReservedCodeCacheSize=240m", "-Xms512m", "-Xmx512m", "-Xmn64m")  # fmt: skip
console = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class Profile:
    """How long is measured."""

    name: str
    warm_up_s: int
    quota_s: int
    phase_s: int


FULL = Profile("outside", 20, 60, 20)
QUICK = Profile("outside-quick", 20, 20, 8)


@cache
def trusting(ca: str) -> ssl.SSLContext:
    """One for all connections: it takes milliseconds to make."""
    return ssl.create_default_context(cafile=ca)


@dataclass(frozen=True, slots=True)
class Door:
    """Where outsiders knock. `ca` is the file of the authority that signed its certificate; empty: no TLS."""

    port: int
    ca: str = ""

    def knock(self, source: int, *, tls: bool = True) -> raw_kafka.Raw:
        """A connection of the attacker number `source`; they share ADDRESSES."""
        context = trusting(self.ca) if self.ca and tls else None
        return raw_kafka.Raw(self.port, tls=context, source=f"127.0.1.{1 + source % ADDRESSES}")

    def consumer_config(self) -> dict[str, Any]:
        found: dict[str, Any] = {"bootstrap.servers": f"localhost:{self.port}"}
        if self.ca:
            return found | {"security.protocol": "SASL_SSL", "ssl.ca.location": self.ca}
        return found | {"security.protocol": "SASL_PLAINTEXT"}


class Partner:
    """An outside user: it may read every topic."""

    def __init__(self, kafka: Kafka, name: str, quota_bytes_per_second: float | None = None) -> None:
        self.name, self.password = name, secrets.token_hex(12)
        self.proxy = Door(kafka.ports.proxy)
        users = Users(kafka.settings)
        users.put(name, self.password)
        users.allow_reading(name)
        if quota_bytes_per_second is not None:
            Quotas(kafka.settings).put(name, {BYTE_RATE: quota_bytes_per_second})

    def consumer(self, topic: str, door: Door | None = None, **more: Any) -> ck.Consumer:
        found = ck.Consumer(
            {
                **(door or self.proxy).consumer_config(),
                "sasl.mechanism": "SCRAM-SHA-512", "sasl.username": self.name, "sasl.password": self.password,
                "group.id": self.name, "enable.auto.commit": False, "auto.offset.reset": "earliest", "log_level": 0,
                **more,
            }
        )  # fmt: skip
        found.subscribe([topic])
        return found


# The quota


def fill(cluster: Cluster, topic: str, records: int) -> None:
    """Bodies that do not compress, so that bytes read are bytes sent."""
    producer = ck.Producer({**cluster.client_config(), "linger.ms": 50})
    bodies = [random.Random(number).randbytes(BODY_BYTES) for number in range(100)]
    for number in range(records):
        while True:
            try:
                producer.produce(topic, bodies[number % 100], partition=-1)
                break
            except BufferError:
                producer.poll(0.1)
    if producer.flush(STALL_S):
        raise SystemExit("the topic could not be filled")


def read(partner: Partner, topic: str, warm_up_s: float, measured_s: float) -> dict[str, float]:
    """The mean rate after the warm-up, which begins with the first record: of bodies, and of all bytes that came from
    the broker by librdkafka's statistics."""
    wire: list[tuple[float, int]] = []

    def statistics(text: str) -> None:
        brokers = json.loads(text)["brokers"].values()
        wire.append((time.monotonic(), sum(broker["rxbytes"] for broker in brokers)))

    consumer = partner.consumer(topic, **{"statistics.interval.ms": 500, "stats_cb": statistics})
    seen, first, moved = 0, 0.0, time.monotonic()
    marks: list[tuple[float, int]] = []
    try:
        while True:
            messages = consumer.consume(1000, 0.05)
            now = time.monotonic()
            if got := sum(len(message.value()) for message in messages if not message.error()):
                seen, moved, first = seen + got, now, first or now
                marks.append((now, seen))
            if now - moved > STALL_S:
                raise SystemExit(f"{partner.name} reads nothing for {STALL_S} s")
            if first and now - first >= warm_up_s + measured_s + 1:  # statistics come twice a second
                break
    finally:
        consumer.close()
    return {
        "bodies_bytes_per_second": mean(marks, first + warm_up_s, measured_s),
        "wire_bytes_per_second": mean(wire, first + warm_up_s, measured_s),
    }


def mean(marks: list[tuple[float, int]], start: float, seconds: float) -> int:
    """Bytes per second of the marks (moment, sum) from `start` on: a quota is granted in bursts, so the ends count."""

    def at(moment: float) -> int:
        return max((total for when, total in marks if when <= moment), default=0)

    return round((at(start + seconds) - at(start)) / seconds)


def without_quota(partner: Partner, topic: str, records: int) -> float:
    """Body bytes per second from the first record to the last: what the quota takes away."""
    consumer = partner.consumer(topic)
    seen, first = 0, 0.0
    try:
        while seen < records:
            got = len(consumer.consume(1000, 1.0))
            first = first or (time.monotonic() if got else 0.0)
            seen += got
        return round(seen * BODY_BYTES / (time.monotonic() - first))
    finally:
        consumer.close()


def quota(kafka: Kafka, cluster: Cluster, profile: Profile) -> dict[str, Any]:
    """Part one."""
    # Before the windows are full, a consumer may have been given eleven seconds of its quota at once.
    seconds = profile.warm_up_s + profile.quota_s + 2 * 11
    records = QUOTA_BYTES_PER_SECOND * seconds // BODY_BYTES
    topics = Topics(cluster)
    try:
        with topics.topic("bench-quota", flush=False) as topic:
            console.print(f"quota: filling a topic with {records:,} records")
            fill(cluster, topic, records)
            free = without_quota(Partner(kafka, "free"), topic, records)
            console.print(f"quota: reading for {profile.warm_up_s} + {profile.quota_s} s")
            limited = Partner(kafka, "limited", QUOTA_BYTES_PER_SECOND)
            found = read(limited, topic, profile.warm_up_s, profile.quota_s)
    finally:
        topics.close()
    off = 100 * (found["wire_bytes_per_second"] / QUOTA_BYTES_PER_SECOND - 1)
    return {
        "quota_bytes_per_second": QUOTA_BYTES_PER_SECOND, "without_quota_bytes_per_second": free, **found,
        "off_percent": round(off, 2), "holds": abs(off) <= QUOTA_TOLERANCE_PERCENT,
    }  # fmt: skip


# The attack


class Control:
    """A consumer that is there all the time, and the delay from the producer's call to its hands."""

    def __init__(self, kafka: Kafka, cluster: Cluster, topic: str, door: Door) -> None:
        self._producer = ck.Producer({**cluster.client_config(), "linger.ms": 0})
        self._consumer = Partner(kafka, "control").consumer(topic, door)
        self._topic = topic
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._produce)
        self._lost = 0

    def __enter__(self) -> Control:
        self._thread.start()
        self._wait_for_one()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._consumer.close()

    def _produce(self) -> None:
        start = time.monotonic()
        for number in count():
            if self._stop.wait(max(0.0, start + number / RECORDS_PER_SECOND - time.monotonic())):
                break
            self._producer.produce(self._topic, str(time.monotonic_ns()).encode().ljust(BODY_BYTES))
            self._producer.poll(0)
        self._producer.flush(STALL_S)

    def _wait_for_one(self) -> None:
        deadline = time.monotonic() + STALL_S
        while self._consumer.poll(1) is None:
            if time.monotonic() > deadline:
                raise SystemExit("the control consumer reads nothing")

    def measure(self, seconds: float, each_second: Callable[[], None] = lambda: None) -> dict[str, float]:
        """Delays of the records that are sent and arrive within `seconds`, in ms."""
        delays: list[float] = []
        start_ns = time.monotonic_ns()
        end = time.monotonic() + seconds
        tick = time.monotonic() + 1
        while (now := time.monotonic()) < end:
            message = self._consumer.poll(0.1)
            if message is not None and not message.error() and int(message.value()) >= start_ns:
                delays.append((time.monotonic_ns() - int(message.value())) / 1e6)
            if now >= tick:
                each_second()
                tick = now + 1
        delays.sort()
        if not delays:
            raise SystemExit("the control consumer stood still")
        return {
            "records": len(delays),
            "p50_ms": round(delays[len(delays) // 2], 2),
            "p99_ms": round(delays[int(len(delays) * 0.99)], 2),
            "max_ms": round(delays[-1], 2),
        }


class Pace:
    """Lets its threads go on one after another, so many a second."""

    def __init__(self, per_second: float) -> None:
        self._step_s = 1 / per_second
        self._lock = threading.Lock()
        self._next = time.monotonic()

    def wait(self) -> None:
        with self._lock:
            mine = self._next = max(self._next + self._step_s, time.monotonic())
        time.sleep(max(0.0, mine - time.monotonic()))


def lies(door: Door, me: int, pace: Pace, tries: Synchronized[int]) -> None:
    """Frames that are no requests, until this process is ended."""
    frames = list(raw_kafka.FRAMES.items())
    for number in count(me):
        name, frame = frames[number % len(frames)]
        pace.wait()
        with suppress(OSError), door.knock(me, tls=name not in ("HTTP", "TLS")) as raw:
            counted(tries)
            raw.send(frame)
            raw.cut()


def guesses(door: Door, me: int, pace: Pace, tries: Synchronized[int]) -> None:
    """Logins of a known user with wrong passwords: proofs at random, which cost the guesser nothing to make and the
    broker as much as any other."""
    while True:
        pace.wait()
        with suppress(OSError), door.knock(me) as raw:
            counted(tries)
            if raw.handshake() == 0:
                raw.scram(b"control", b"", proof=secrets.token_bytes(64))


def half_open(door: Door, me: int, pace: Pace, tries: Synchronized[int]) -> None:
    """Connections that begin a login and stop; one that is cut is opened again."""
    opened = selectors.DefaultSelector()
    while True:
        while len(opened.get_map()) < HALF_OPEN // ATTACKERS:
            pace.wait()
            with suppress(OSError):
                raw = door.knock(me)
                counted(tries)
                opened.register(raw.socket, selectors.EVENT_READ)
                raw.send(raw_kafka.request(raw_kafka.SASL_HANDSHAKE, 1, b"\0")[:9])
        for key, _ in opened.select(1):
            opened.unregister(key.fileobj)
            cast(socket.socket, key.fileobj).close()


def counted(tries: Synchronized[int]) -> None:
    with tries.get_lock():
        tries.value += 1


ATTACKS = {"lies": lies, "guesses": guesses, "half_open": half_open}


def attacker(name: str, door: Door, tries: Synchronized[int]) -> None:
    """The body of the attacking process: threads until it is killed."""
    pace = Pace(TRIES_PER_SECOND)
    # An attacker's CPU is not the broker's: on a shared machine it gets what nobody else wants.
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    for me in range(ATTACKERS):
        threading.Thread(target=ATTACKS[name], args=(door, me, pace, tries)).start()


def spin() -> None:
    """The body of a process that takes what nobody else wants."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    while True:
        pass


@contextmanager
def awake() -> Iterator[None]:
    """Keeps every core from sleeping: waking a virtual one takes longer than what is measured, and an attack would
    make the figures better."""
    context = multiprocessing.get_context("spawn")
    spinners = [context.Process(target=spin, daemon=True) for _ in os.sched_getaffinity(0)]
    for spinner in spinners:
        spinner.start()
    try:
        yield
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.join()


@contextmanager
def under(name: str, door: Door) -> Iterator[Synchronized[int]]:
    """The attack, as long as the block lasts. Yields how often it has been tried."""
    context = multiprocessing.get_context("spawn")
    tries = context.Value("q", 0)
    process = context.Process(target=attacker, args=(name, door, tries), daemon=True)
    process.start()
    try:
        yield tries
    finally:
        process.kill()
        process.join()


@contextmanager
def front(kafka: Kafka, port: int) -> Iterator[Door]:
    """nginx and `kwb guard` as the stack has them."""
    with tempfile.TemporaryDirectory(prefix="kwb-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        with guarding(folder, kafka.ports.proxy) as guard, edge(folder, kafka=guard.port, port=port) as nginx:
            yield Door(port, str(nginx.ca))


def attack(kafka: Kafka, cluster: Cluster, profile: Profile, door: Door) -> dict[str, Any]:
    """Part two."""
    pid = kafka.pid
    assert pid is not None
    topics = Topics(cluster)
    highest = 0.0

    def memory() -> float:
        nonlocal highest
        found = resident(pid)[0].mib
        highest = max(highest, found)
        return found

    first: dict[str, dict[str, Any]] = {}
    phases: dict[str, dict[str, Any]] = {}
    try:
        with (
            awake(),
            topics.topic("bench-attack", flush=False) as topic,
            Control(kafka, cluster, topic, door) as control,
        ):
            # A broker that has just started compiles what refuses when it first refuses: told apart from the phases.
            for name in ATTACKS:
                console.print(f"attack: {name}, met for the first time")
                with under(name, door):
                    first[name] = control.measure(FIRST_S)
                served(door)
            console.print("attack: the baseline")
            control.measure(5)
            start = memory()
            baseline = control.measure(profile.phase_s)
            before = memory()
            for name in ATTACKS:
                console.print(f"attack: {name}")
                with under(name, door) as tries:
                    found = control.measure(profile.phase_s, lambda: void(memory()))
                    phases[name] = {"tries": tries.value, **found}
                phases[name] |= {"newcomer_waits_s": served(door), "rss_mib": memory()}
            after = memory()
            calm = control.measure(profile.phase_s)
    finally:
        topics.close()
    if kafka.pid != pid or not kafka.alive:
        raise SystemExit("the broker ended under the attack")
    worst = max(phase["p99_ms"] for phase in phases.values())
    return {
        "first": first, "baseline": baseline, "phases": phases, "afterwards": calm,
        "rss_mib": {"before_the_baseline": start, "before": before, "highest": highest, "after": after},
        "p99_times": round(worst / baseline["p99_ms"], 2), "p99_holds": worst <= P99_TIMES_MAX * baseline["p99_ms"],
        "rss_more_mib": round(after - before, 1), "rss_holds": after <= before + RSS_MORE_MIB_MAX,
    }  # fmt: skip


def void(_: object) -> None:
    """A measurement taken for its side effect."""


def served(door: Door) -> float:
    """Seconds until a newcomer is answered: what the attack left in the queue is gone then."""
    start = time.monotonic()
    while True:
        with suppress(OSError), door.knock(0) as raw:
            if raw.handshake() == 0:
                break
        if time.monotonic() > start + STALL_S:
            raise SystemExit("a newcomer is refused after the attack")
        time.sleep(0.05)
    return round(time.monotonic() - start, 2)


def show(found: dict[str, dict[str, Any]]) -> None:
    """The tables for people, on standard output."""
    out = Console(width=max(110, console.width))
    if part := found.get("quota"):
        table = Table("quota", "without it", "wire", "bodies", "off", "within 10 %")
        rates = [part[f"{name}_bytes_per_second"] for name in ("quota", "without_quota", "wire", "bodies")]
        table.add_row(*(f"{rate / 1e6:.2f} MB/s" for rate in rates), f"{part['off_percent']} %", str(part["holds"]))
        out.print(table)
    for name in ("attack", "attack-broker"):
        if (part := found.get(name)) is None:
            continue
        table = Table(f"{name}: control consumer", "tries", "p50", "p99", "max", "newcomer waits", "broker's RSS")
        rss = part["rss_mib"]
        rows = [(f"{name}, the first time", row) for name, row in part["first"].items()]
        rows += [("baseline", {**part["baseline"], "rss_mib": rss["before"]}), *part["phases"].items()]
        for name, row in [*rows, ("afterwards", part["afterwards"])]:
            memory = f"{row['rss_mib']:.0f} MiB" if "rss_mib" in row else ""
            waits = f"{row['newcomer_waits_s']} s" if "newcomer_waits_s" in row else ""
            delays = (f"{row[key]} ms" for key in ("p50_ms", "p99_ms", "max_ms"))
            table.add_row(name, f"{row['tries']:,}" if "tries" in row else "", *delays, waits, memory)
        out.print(table)
        out.print(f"p99 times {part['p99_times']} (at most {P99_TIMES_MAX}: {part['p99_holds']}); RSS + "
                  f"{part['rss_more_mib']} MiB (at most {RSS_MORE_MIB_MAX}: {part['rss_holds']})")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="shorter, about two minutes")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"comma separated: {', '.join(PARTS)}")
    args = parser.parse_args()
    if unknown := set(args.parts.split(",")) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    profile = QUICK if args.quick else FULL
    machine = results.machine()
    found = {}
    for part in args.parts.split(","):
        (port,) = free_ports(1)
        advertised = f"localhost:{port}" if part == "attack" else ""
        with embedded_stack(jvm=JVM, proxy_advertised=advertised) as (stack, cluster):
            if part == "quota":
                found[part] = quota(stack.kafka, cluster, profile)
            elif part == "attack":
                with front(stack.kafka, port) as door:
                    found[part] = attack(stack.kafka, cluster, profile, door)
            else:
                found[part] = attack(stack.kafka, cluster, profile, Door(stack.kafka.ports.proxy))
    load = {
        "body_bytes": BODY_BYTES, "warm_up_s": profile.warm_up_s, "quota_s": profile.quota_s,
        "phase_s": profile.phase_s, "records_per_second": RECORDS_PER_SECOND, "half_open": HALF_OPEN,
        "tries_per_second": TRIES_PER_SECOND, "addresses": ADDRESSES,
    }  # fmt: skip
    for part, facts in found.items():
        whole = {**results.commit(), "machine": machine, "load": load, part: facts}
        path = results.write(f"{profile.name}-{part}", whole)
        console.print(f"written: {path.relative_to(results.ROOT)}")
    show(found)
    # What the broker alone cannot hold is why the guard is there: told, and judged by the way that outsiders have.
    judged = [part for name, part in found.items() if name != "attack-broker"]
    if not all(held for part in judged for name, held in part.items() if name.endswith("holds")):
        raise SystemExit("a limit does not hold")


if __name__ == "__main__":
    main()
