"""outside: a partner's quota, and what clients that lie cost Kafka and those who read. See README.md.

    python benchmarks/outside.py [--quick] [--parts quota,attack]

Everything goes through PROXY, the listener of outside consumers, with SCRAM-SHA-512, without a TLS proxy before it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from multiprocessing.sharedctypes import Synchronized
from typing import Any

import confluent_kafka as ck
from rich.console import Console
from rich.table import Table

import results
from kafka_webhook_bridge.kafka.quotas import BYTE_RATE, Quotas
from kafka_webhook_bridge.kafka.users import Users
from kafka_webhook_bridge.stack import Kafka
from processes import resident
from servers import embedded_stack
from topics import Cluster, Topics

sys.path.insert(0, str(results.ROOT / "tests" / "deployment"))
import raw_kafka

BODY_BYTES = 1024
QUOTA_BYTES_PER_SECOND = 5_000_000
QUOTA_TOLERANCE_PERCENT = 10
RECORDS_PER_SECOND = 200  # that the control consumer waits for
RSS_MORE_MIB_MAX = 50
P99_TIMES_MAX = 2
STALL_S = 60
ATTACKERS = 32
HALF_OPEN = 1000
FIRST_S = 5
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


class Partner:
    """An outside user: it may read every topic."""

    def __init__(self, kafka: Kafka, name: str, quota_bytes_per_second: float | None = None) -> None:
        self.kafka, self.name, self.password = kafka, name, secrets.token_hex(12)
        users = Users(kafka.settings)
        users.put(name, self.password)
        users.allow_reading(name)
        if quota_bytes_per_second is not None:
            Quotas(kafka.settings).put(name, {BYTE_RATE: quota_bytes_per_second})

    def consumer(self, topic: str, **more: Any) -> ck.Consumer:
        found = ck.Consumer(
            {
                "bootstrap.servers": self.kafka.proxy_bootstrap, "security.protocol": "SASL_PLAINTEXT",
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

    def __init__(self, kafka: Kafka, cluster: Cluster, topic: str) -> None:
        self._producer = ck.Producer({**cluster.client_config(), "linger.ms": 0})
        self._consumer = Partner(kafka, "control").consumer(topic)
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


def lies(port: int, tries: Synchronized[int]) -> None:
    """Frames that are no requests, until this process is ended."""
    frames = list(raw_kafka.FRAMES.values())
    for number in count(random.randrange(len(frames))):
        with suppress(OSError), raw_kafka.Raw(port) as raw:
            raw.send(frames[number % len(frames)])
            raw.cut()
            counted(tries)


def guesses(port: int, tries: Synchronized[int]) -> None:
    """Logins of a known user with wrong passwords: proofs at random, which cost the guesser nothing to make and the
    broker as much as any other."""
    while True:
        with suppress(OSError), raw_kafka.Raw(port) as raw:
            if raw.handshake() == 0 and raw.scram(b"control", b"", proof=secrets.token_bytes(64)).code:
                counted(tries)


def half_open(port: int, tries: Synchronized[int]) -> None:
    """Connections that begin a login and stop; one that is cut is opened again."""
    opened: dict[int, socket.socket] = {}
    for number in count():
        place = number % HALF_OPEN
        if (old := opened.get(place)) is not None:
            try:
                if old.recv(1):
                    continue
            except BlockingIOError:
                if place == 0:
                    time.sleep(0.5)
                with suppress(OSError):
                    old.send(b"\0")
                continue
            except OSError:
                pass
            old.close()
        opened[place] = socket.socket()
        opened[place].setblocking(False)
        opened[place].connect_ex(("127.0.0.1", port))
        with suppress(OSError):
            opened[place].send(raw_kafka.request(raw_kafka.SASL_HANDSHAKE, 1, b"\0")[:9])
        counted(tries)


def counted(tries: Synchronized[int]) -> None:
    with tries.get_lock():
        tries.value += 1


ATTACKS = {
    "lies": (lies, ATTACKERS, "frames that are no requests, oversized lengths, HTTP, TLS"),
    "guesses": (guesses, ATTACKERS, "logins with wrong passwords"),
    "half_open": (half_open, 1, f"{HALF_OPEN} connections that stop in the middle"),
}


def attacker(name: str, port: int, tries: Synchronized[int]) -> None:
    """The body of the attacking process: threads until it is killed."""
    # An attacker's CPU is not the broker's: on a shared machine it gets what nobody else wants.
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    act, threads, _ = ATTACKS[name]
    for _ in range(threads):
        threading.Thread(target=act, args=(port, tries)).start()


@contextmanager
def under(name: str, port: int) -> Iterator[Synchronized[int]]:
    """The attack, as long as the block lasts. Yields how often it has been tried."""
    context = multiprocessing.get_context("spawn")
    tries = context.Value("q", 0)
    process = context.Process(target=attacker, args=(name, port, tries), daemon=True)
    process.start()
    try:
        yield tries
    finally:
        process.kill()
        process.join()


def attack(kafka: Kafka, cluster: Cluster, profile: Profile) -> dict[str, Any]:
    """Part two."""
    pid, port = kafka.pid, kafka.ports.proxy
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
        with topics.topic("bench-attack", flush=False) as topic, Control(kafka, cluster, topic) as control:
            # A broker that has just started compiles what refuses when it first refuses: told apart from the phases.
            for name in ATTACKS:
                console.print(f"attack: {name}, met for the first time")
                with under(name, port):
                    first[name] = control.measure(FIRST_S)
                served(port)
            console.print("attack: the baseline")
            control.measure(5)
            start = memory()
            baseline = control.measure(profile.phase_s)
            before = memory()
            for name in ATTACKS:
                console.print(f"attack: {name}")
                with under(name, port) as tries:
                    found = control.measure(profile.phase_s, lambda: void(memory()))
                    phases[name] = {"tries": tries.value, **found}
                phases[name] |= {"newcomer_waits_s": served(port), "rss_mib": memory()}
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


def served(port: int) -> float:
    """Seconds until a newcomer is answered: what the attack left in the queue is gone then."""
    start = time.monotonic()
    with raw_kafka.Raw(port) as raw:
        if raw.handshake():
            raise SystemExit("a newcomer is refused after the attack")
    return round(time.monotonic() - start, 2)


def show(found: dict[str, dict[str, Any]]) -> None:
    """The tables for people, on standard output."""
    out = Console(width=max(110, console.width))
    if part := found.get("quota"):
        table = Table("quota", "without it", "wire", "bodies", "off", "within 10 %")
        rates = [part[f"{name}_bytes_per_second"] for name in ("quota", "without_quota", "wire", "bodies")]
        table.add_row(*(f"{rate / 1e6:.2f} MB/s" for rate in rates), f"{part['off_percent']} %", str(part["holds"]))
        out.print(table)
    if part := found.get("attack"):
        table = Table("control consumer", "tries", "p50", "p99", "max", "newcomer waits", "broker's RSS")
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
    parser.add_argument("--parts", default="quota,attack", help="comma separated: quota, attack")
    args = parser.parse_args()
    profile = QUICK if args.quick else FULL
    machine = results.machine()
    found = {}
    with embedded_stack(jvm=JVM) as (stack, cluster):
        for part in args.parts.split(","):
            found[part] = {"quota": quota, "attack": attack}[part](stack.kafka, cluster, profile)
    load = {
        "body_bytes": BODY_BYTES, "warm_up_s": profile.warm_up_s, "quota_s": profile.quota_s,
        "phase_s": profile.phase_s, "records_per_second": RECORDS_PER_SECOND, "half_open": HALF_OPEN,
        "attackers": ATTACKERS,
    }  # fmt: skip
    for part, facts in found.items():
        whole = {**results.commit(), "machine": machine, "load": load, part: facts}
        path = results.write(f"{profile.name}-{part}", whole)
        console.print(f"written: {path.relative_to(results.ROOT)}")
    show(found)
    if not all(held for part in found.values() for name, held in part.items() if name.endswith("holds")):
        raise SystemExit("a limit does not hold")


if __name__ == "__main__":
    main()
