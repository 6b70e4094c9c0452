"""What breaks, and how it is healed: functions of a world, put into the table of scenarios.py.

A function that takes arguments gives back the function of the world. Whatever it breaks it marks with `world.fault`.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import confluent_kafka.admin

from bridge import Client, request
from faults.disk import Disk
from faults.ground import Ground
from faults.machine import Clock, Memory, open_files_limited
from faults.proxy import Proxy
from faults.world import World, until
from kafka_webhook_bridge.stack.ports import free_ports

ck_admin: Any = confluent_kafka.admin

Fault = Callable[[World], None]
Around = Callable[[World], contextlib.AbstractContextManager[None]]


def nothing(world: World) -> None:
    with world.fault("nothing"):
        world.last(4)


# ── Kafka and PostgreSQL ──────────────────────────────────────────────────────────────────────────────────────────


def kafka_killed(away_s: float) -> Fault:
    """SIGKILL at a random moment, again and again."""

    def fault(world: World) -> None:
        for _ in range(world.times):
            world.moment()
            with world.fault("Kafka killed"):
                world.ground.kafka.kill()
                world.last(away_s)
                world.ground.kafka.start()
            world.until_healthy()

    return fault


def kafka_stopped(seconds: float) -> Fault:
    def fault(world: World) -> None:
        for _ in range(world.times):
            world.moment()
            with world.fault("Kafka stands still"), world.ground.kafka_stopped():
                world.last(seconds)
            world.until_healthy()

    return fault


def postgres_killed(away_s: float) -> Fault:
    def fault(world: World) -> None:
        for _ in range(world.times):
            world.moment()
            with world.fault("PostgreSQL killed"):
                world.ground.kill_postgres()
                world.last(away_s)
                world.ground.postgres.start()
            world.until_healthy()

    return fault


def postgres_stopped(seconds: float) -> Fault:
    def fault(world: World) -> None:
        world.moment()
        with world.fault("PostgreSQL stands still"), world.ground.postgres_stopped():
            world.last(seconds)

    return fault


def postgres_read_only(seconds: float) -> Fault:
    """As after a failover to the wrong side: sessions live on, writes are refused."""

    def fault(world: World) -> None:
        name = world.database.rpartition("/")[2]
        mine = "SET default_transaction_read_only = off"
        with world.fault("PostgreSQL reads only"):
            world.administer(f"ALTER DATABASE {name} SET default_transaction_read_only = on", world.END_SESSIONS)
            try:
                world.last(seconds)
            finally:
                world.administer(mine, f"ALTER DATABASE {name} RESET default_transaction_read_only", world.END_SESSIONS)

    return fault


def both_away(seconds: float, *, postgres: str = "killed") -> Fault:
    """No durable place: 503 with Retry-After, ready 503, live 200; and back without a restart."""

    def fault(world: World) -> None:
        world.moment()
        with world.fault("Kafka and PostgreSQL away"), contextlib.ExitStack() as healing:
            healing.callback(world.ground.kafka.start)
            world.ground.kafka.kill()
            if postgres == "killed":
                healing.callback(world.ground.postgres.start)
                world.ground.kill_postgres()
            else:
                healing.enter_context(world.ground.postgres_stopped())
            world.last(seconds)
            look_at_refusal(world)

    return fault


def look_at_refusal(world: World) -> None:
    """What a sender and a load balancer are told meanwhile."""
    answer = world.bridge.ask(request("/noise", b"x", login=""))
    if answer.status != 503 or "retry-after" not in answer.headers:
        world.problems.append(f"a request is answered {answer.status}, {answer.headers}")
    for path, wanted in (("live", 200), ("ready", 503)):
        found = world.bridge.ask(request(f"/health/{path}", method="GET", login=""))
        if found.status != wanted:
            world.problems.append(f"/health/{path} is {found.status}: {found.body.decode()}")
    if not world.problems:
        world.notes.append("asked meanwhile: 503 with Retry-After, live 200, ready 503")


# ── the network ───────────────────────────────────────────────────────────────────────────────────────────────────


def wire(label: str, seconds: float, store: str = "kafka", **link: Any) -> Fault:
    """The proxy's link to a store is like this for a while; `down` and `cut` are words of their own."""

    def fault(world: World) -> None:
        proxy = world.ground.to_kafka if store == "kafka" else world.ground.to_postgres
        with world.fault(label):
            if link.get("down"):
                proxy.down()
            elif "cut" in link:
                proxy.cut(*link["cut"])
            else:
                proxy.shape(**link)
            world.last(seconds)
            proxy.clear()
            proxy.up()

    return fault


def cut_in_the_middle(times: int) -> Fault:
    """Connections to the broker end after a few kilobytes, again and again."""

    def fault(world: World) -> None:
        with world.fault("connections end in the middle"):
            world.ground.to_kafka.shape(limit_bytes=20_000, slice_bytes=1000)
            for _ in range(times):
                world.moment(0.3, 0.7)
                world.ground.to_kafka.reset()
            world.ground.to_kafka.clear()

    return fault


def new_address(world: World) -> None:
    """The broker comes back under another address; the one for the start of a connection stays."""
    ground = world.ground
    second = Proxy(free_ports(1)[0], ground.kafka.ports.internal).start()
    world.closing.callback(second.stop)
    with world.fault("another address"):
        ground.kafka.stop()
        ground.advertise(second.port)
        ground.kafka.start()
    until(lambda: second.connections > 0, "the bridge uses the new address")


# ── the bridge's own processes ────────────────────────────────────────────────────────────────────────────────────


def child_killed(role: str, sign: signal.Signals = signal.SIGKILL) -> Fault:
    """A process of the bridge, at a random moment, again and again; its supervisor starts another."""

    def fault(world: World) -> None:
        for _ in range(world.times):
            world.moment()
            before = world.bridge.children(role)
            with world.fault(f"{role} killed"):
                for pid in before:
                    os.kill(pid, sign)
                until(
                    lambda before=before: (now := world.bridge.children(role)) and not set(now) & set(before),  # type: ignore[misc]
                    "another process",
                )
                world.until_healthy()
                world.acks(world.options.rate * 0.2)

    return fault


def supervisor_killed(world: World) -> None:
    """Its children end with it; somebody starts the bridge again."""
    for _ in range(world.times):
        world.moment()
        with world.fault("supervisor killed"):
            old = world.bridges.pop()
            pids = [*old.children("ingest"), *old.children("worker")]
            world.replaced = True
            old.process.kill()
            old.process.wait()
            until(
                lambda pids=pids: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in pids), "the children ended"
            )  # type: ignore[misc]
            world.bridges.append(world.start_bridge(KWB_INGEST_PORT=str(old.port)))
            world.until_healthy()
            world.acks(world.options.rate * 0.2)


def drained(world: World) -> None:
    """SIGTERM; then a new one on the same port."""
    world.moment()
    with world.fault("SIGTERM"):
        old = world.bridges.pop()
        world.replaced = True
        old.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        status = old.process.wait(120)
        world.notes.append(f"the bridge ended with status {status} after {time.monotonic() - began:.1f} s")
        world.bridges.append(world.start_bridge(KWB_INGEST_PORT=str(old.port)))
        world.until_healthy()


def rolled(world: World) -> None:
    """Two bridges on one port, replaced one after the other."""
    world.bridges.append(world.start_bridge())
    world.until_healthy()
    with world.fault("rolling restart"):
        for _ in range(2):
            world.moment()
            old = world.bridges.pop(0)
            world.replaced = True
            old.process.send_signal(signal.SIGTERM)
            status = old.process.wait(120)
            world.notes.append(f"a bridge ended with status {status}")
            world.bridges.append(world.start_bridge(KWB_INGEST_PORT=str(old.port)))
            world.until_healthy()


def relay_killed(world: World) -> None:
    """The worker dies at its failpoint (set in its environment) while the outbox of an outage is sent."""
    with world.fault("Kafka killed"):
        world.ground.kafka.kill()
        world.last(2)
        world.ground.kafka.start()
    back = time.time()
    with world.fault("the relay dies after each acknowledgement"):
        until(lambda: world.totals().get("kwb_worker_restarts_total", 0) >= 1, "the worker died")
        until(lambda: world.query("SELECT count(*) FROM outbox WHERE created_at < to_timestamp($1)", back) == 0, "sent")
    world.notes.append(f"the worker died {world.totals()['kwb_worker_restarts_total']:.0f} times")


def long_transaction(world: World) -> None:
    """A snapshot is held while two bridges share the outbox."""
    world.bridges.append(world.start_bridge())
    world.until_healthy()
    with world.fault("a long transaction, two relays"), world.snapshot_held():
        world.last(10)


# ── disks ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def ground_on_disks(path: Path) -> Iterator[Ground]:
    """Both servers on file systems that can be filled and lose their power."""
    servers = path / "servers"
    servers.mkdir()
    servers.chmod(0o711)
    ground = Ground(servers)
    with contextlib.ExitStack() as closing:
        ground.kafka_disk = Disk(path / "kafka.img", ground.kafka.folder)
        closing.callback(ground.kafka_disk.close)
        ground.postgres_disk = Disk(path / "postgres.img", ground.postgres.folder)
        closing.callback(ground.postgres_disk.close)
        closing.callback(ground.destroy)
        ground.start()
        ground.kafka_disk.sync()
        ground.postgres_disk.sync()
        yield ground


@contextlib.contextmanager
def ground_alone(path: Path) -> Iterator[Ground]:
    """Servers that nobody uses afterwards."""
    ground = Ground(path / "servers")
    try:
        yield ground.start()
    finally:
        ground.destroy()


def kafka_power_cut(world: World) -> None:
    world.moment()
    with world.fault("the broker loses its power"):
        assert world.ground.kafka.pid
        assert world.ground.kafka_disk
        world.ground.kafka_disk.cut([world.ground.kafka.pid])
        world.ground.kafka.kill()
        world.ground.kafka.start()


def postgres_power_cut(world: World) -> None:
    """While Kafka is away, so that PostgreSQL alone holds what is acknowledged."""
    with world.fault("Kafka killed, PostgreSQL loses its power"):
        world.ground.kafka.kill()
        world.last(4)
        world.moment()
        assert world.ground.postgres_disk
        world.ground.postgres_disk.cut(world.ground.postgres_pids())
        world.ground.postgres.kill()
        world.ground.postgres.start()
        world.last(2)
        world.ground.kafka.start()


_NO_SPACE = "No space left on device"


def disk_full(store: str) -> Fault:
    """The server ends or refuses to write; then somebody makes room and starts it again."""

    def fault(world: World) -> None:
        ground = world.ground
        filled, server = (
            (ground.kafka_disk, ground.kafka) if store == "kafka" else (ground.postgres_disk, ground.postgres)
        )
        assert filled is not None
        with world.fault(f"the disk of {store} is full"):
            filled.fill()
            world.last(8)
            world.notes.append(f"{server.name} {'goes on' if server.alive else 'ended'}")
            if _NO_SPACE not in server.log.read_text(errors="replace"):
                world.problems.append(f"{server.name} did not notice")
            filled.free()
            if not server.alive:
                server.start()

    return fault


# ── topics, rights, sizes, queues ─────────────────────────────────────────────────────────────────────────────────


def topic_deleted(source: str, seconds: float) -> Fault:
    """An operator deletes a topic and makes it anew later; the others go on."""

    def fault(world: World) -> None:
        name = world.facts()[source].topic
        with world.fault(f"the topic of {source} is deleted"):
            world.ground.delete_topics([name])
            world.last(seconds)
            world.ground.make_topics([name])

    return fault


def topic_recreated(source: str) -> Fault:
    """Deleted and made anew at once, several times: sequences and offsets start again behind the producers' back."""

    def fault(world: World) -> None:
        name = world.facts()[source].topic
        with world.fault(f"the topic of {source} is made anew"):
            for _ in range(3):
                world.ground.delete_topics([name])
                until(lambda: name not in world.ground.admin().list_topics(timeout=10).topics, "deleted")
                world.ground.make_topics([name])
                world.moment(1, 2)

    return fault


def too_large(source: str, bytes_max: int, seconds: float) -> Fault:
    """The topic's limit falls under what the bridge promised to its senders."""

    def fault(world: World) -> None:
        name = world.facts()[source].topic
        with world.fault(f"max.message.bytes of {source} is {bytes_max}"):
            world.ground.set_topic(name, max_message_bytes=str(bytes_max))
            world.last(seconds)
            world.ground.set_topic(name, max_message_bytes=str(16 * 1024**2))

    return fault


LIMITED = "limited"


@contextlib.contextmanager
def as_limited_user(world: World) -> Iterator[None]:
    """The bridge logs in by SCRAM as a user whose rights are what the documentation asks for."""
    ground = world.ground
    password = world.folder / "kafka-password"
    password.write_text("first")
    password.chmod(0o600)
    set_scram(ground, LIMITED, "first")
    for kind, name, operations in (
        ("TOPIC", world.run, ("CREATE", "DESCRIBE", "DESCRIBE_CONFIGS", "READ", "WRITE")),
        ("BROKER", "kafka-cluster", ("DESCRIBE", "DESCRIBE_CONFIGS", "IDEMPOTENT_WRITE")),
        ("GROUP", "*", ("READ",)),
    ):
        for operation in operations:
            grant(ground, kind, name, operation)
    world.options.environ |= {
        "KAFKA_USERNAME": LIMITED, "KAFKA_PASSWORD": f"file:{password}", "KWB_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
    }  # fmt: skip
    yield
    with contextlib.suppress(Exception):
        for future in ground.admin().delete_acls([acl_filter()]).values():
            future.result(30)


def acl_filter() -> Any:
    return ck_admin.AclBindingFilter(
        ck_admin.ResourceType.ANY, None, ck_admin.ResourcePatternType.ANY, f"User:{LIMITED}", None,
        ck_admin.AclOperation.ANY, ck_admin.AclPermissionType.ANY,
    )  # fmt: skip


def grant(ground: Ground, kind: str, name: str, operation: str, permission: str = "ALLOW") -> None:
    pattern = "LITERAL" if kind == "BROKER" or name == "*" else "PREFIXED"
    rule = ck_admin.AclBinding(
        ck_admin.ResourceType[kind], name, ck_admin.ResourcePatternType[pattern], f"User:{LIMITED}", "*",
        ck_admin.AclOperation[operation], ck_admin.AclPermissionType[permission],
    )  # fmt: skip
    for future in ground.admin().create_acls([rule]).values():
        future.result(30)


def set_scram(ground: Ground, user: str, password: str) -> None:
    credential = ck_admin.UserScramCredentialUpsertion(
        user, ck_admin.ScramCredentialInfo(ck_admin.ScramMechanism.SCRAM_SHA_512, 4096), password.encode()
    )
    for future in ground.admin().alter_user_scram_credentials([credential]).values():
        future.result(30)


def right_revoked(source: str, seconds: float) -> Fault:
    """The right to write to one topic is denied, then given back."""

    def fault(world: World) -> None:
        name = world.facts()[source].topic
        with world.fault(f"no right to write to the topic of {source}"):
            grant(world.ground, "TOPIC", name, "WRITE", "DENY")
            world.last(seconds)
            denied = ck_admin.AclBindingFilter(
                ck_admin.ResourceType.TOPIC, name, ck_admin.ResourcePatternType.PREFIXED, f"User:{LIMITED}", None,
                ck_admin.AclOperation.WRITE, ck_admin.AclPermissionType.DENY,
            )  # fmt: skip
            for future in world.ground.admin().delete_acls([denied]).values():
                future.result(30)

    return fault


def password_rotated(seconds: float) -> Fault:
    """The broker has another password, every connection is cut, and the bridge learns the new one by SIGHUP."""

    def fault(world: World) -> None:
        with world.fault("the password is another"):
            set_scram(world.ground, LIMITED, "second")
            world.ground.to_kafka.reset()
            world.last(seconds)
            (world.folder / "kafka-password").write_text("second")
            world.bridge.process.send_signal(signal.SIGHUP)

    return fault


def kafka_wiped(world: World) -> None:
    """The broker loses everything that it ever wrote, topics included; an operator makes them anew."""
    ground = world.ground
    with world.fault("the log is wiped"):
        ground.kafka.kill()
        shutil.rmtree(ground.kafka.folder / "data")
        ground.kafka.start()
        world.last(2)
        ground.make_topics(
            [*world.topics(), world.noise], **{"flush.messages": "1", "message.timestamp.type": "LogAppendTime"}
        )


# ── the machine ───────────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def with_clock(world: World) -> Iterator[None]:
    """The bridge's wall clock is the scenario's to move."""
    world.clock = Clock(world.folder / "clock")
    world.options.environ |= world.clock.environ
    yield


def clock_jumps(world: World) -> None:
    assert world.clock is not None
    for offset in ("+2h", "-2h", "+1d", "-1d"):
        with world.fault(f"the clock jumps {offset}"):
            world.clock.set(offset)
            world.last(4)
            world.clock.set("+0")
        world.last(1)


@contextlib.contextmanager
def crowd(world: World, count: int) -> Iterator[list[Client]]:
    """Connections of other senders. They are in no journal, so the counters do not tell of the load alone."""
    world.replaced = True
    with contextlib.ExitStack() as closing:
        clients = []
        for _ in range(count):
            with contextlib.suppress(OSError):
                clients.append(closing.enter_context(Client(world.bridge.port)))
        yield clients


def files_exhausted(world: World) -> None:
    """New connections wait in the backlog; those that are open go on; in the end everybody is answered."""
    pids = world.bridge.children("ingest")
    with crowd(world, 0), contextlib.ExitStack() as closing:
        with world.fault("no file descriptors left"), open_files_limited(pids, 8):
            clients = [closing.enter_context(Client(world.bridge.port)) for _ in range(60)]
            for client in clients:
                client.send(request("/health", method="GET", login=""))
            world.last(4)
            answered = len(select.select([client.socket for client in clients], [], [], 0)[0])
        world.notes.append(
            f"{answered} of {len(clients)} new connections were answered meanwhile, all of them afterwards"
        )
        if answered == len(clients):
            world.problems.append("no descriptor was missing")
        if {client.answer().status for client in clients} != {200}:
            world.problems.append("a connection that waited was not answered")


@contextlib.contextmanager
def with_memory(bytes_max: int, world: World) -> Iterator[None]:
    world.memory = Memory(f"kwb-faults-{os.getpid()}", bytes_max)
    yield
    world.memory.close()


def memory_limited(bytes_max: int) -> Around:
    return lambda world: with_memory(bytes_max, world)


def memory_pressure(count: int, body_bytes: int) -> Fault:
    """Many large bodies at once, while Kafka stands still and takes none of them off."""

    def fault(world: World) -> None:
        memory = world.memory
        assert memory is not None
        processes = [world.bridge.process.pid, *world.bridge.children("ingest"), *world.bridge.children("worker")]
        memory.add(processes)
        statuses: list[int] = []
        with world.fault("large bodies, little memory"), world.ground.kafka_stopped(), crowd(world, count) as clients:
            body = b"x" * body_bytes
            for client in clients:
                client.socket.settimeout(0.5)
                client.send(request("/noise/x", body))
            for client in clients:
                client.socket.settimeout(30)
                with contextlib.suppress(OSError, AssertionError):
                    statuses.append(client.answer().status)
        world.notes.append(f"{statuses.count(200)} large bodies taken, {statuses.count(503)} refused with 503")
        if memory.kills or processes[1:2] != world.bridge.children("ingest"):
            world.problems.append(f"the kernel ended {memory.kills} processes, or one ended itself")

    return fault


def slow_senders(count: int) -> Fault:
    """Headers and bodies that never end, a byte at a time."""

    def fault(world: World) -> None:
        with world.fault("slow senders"), crowd(world, count) as clients:
            for n, client in enumerate(clients):
                client.send(
                    b"POST /noise HTTP/1.1\r\nHost: x\r\n" + (b"Content-Length: 1000\r\n\r\n" if n % 2 else b"")
                )
            for _ in range(40):
                world.last(0.2)
                for client in clients:
                    client.send(b"x")

    return fault


_LIES = (
    b"POST /noise HTTP/1.1\r\nHost: x\r\nContent-Length: 1048577\r\n\r\n",
    b"POST /noise HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551616\r\n\r\n",
    b"POST /noise HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\n\x1f\x8b\x08\0\0",
    b"POST /noise HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"10000\r\n" + b"x" * 65536 + b"\r\n",
)


def lying_senders(world: World) -> None:
    """Bodies over the limit, lengths that are none, bombs, chunks without end."""
    statuses: dict[int, int] = {}
    with world.fault("lying senders"):
        for n in range(80):
            with crowd(world, 1) as clients:
                for client in clients:
                    lie = _LIES[n % len(_LIES)]
                    client.send(lie)
                    if b"chunked" in lie:
                        for _ in range(16):
                            client.send(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                    status = client.answer().status
                    statuses[status] = statuses.get(status, 0) + 1
            world.last(0.05)
    world.notes.append(f"answers to lies: {dict(sorted(statuses.items()))}")
    if statuses.keys() - {400, 413, 415}:
        world.problems.append("a lie was believed")


# ── everything at once ────────────────────────────────────────────────────────────────────────────────────────────


def mixed(seconds: float) -> Fault:
    """One to three faults at a time, for 3 to 8 s, chosen by the seed."""

    def fault(world: World) -> None:
        ground, dice = world.ground, world.dice

        def killed(server: Any) -> Iterator[None]:
            server.kill()
            yield
            server.start()

        def shaped(proxy: Proxy, **link: Any) -> Iterator[None]:
            proxy.shape(**link)
            yield
            proxy.clear()

        def downed(proxy: Proxy) -> Iterator[None]:
            proxy.down()
            yield
            proxy.up()

        def child(role: str) -> Iterator[None]:
            for pid in world.bridge.children(role):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            yield

        def wrap(make: Callable[..., Iterator[None]], *a: Any, **k: Any) -> Callable[[], Any]:
            return lambda: contextlib.contextmanager(make)(*a, **k)

        choices: dict[str, dict[str, Callable[[], Any]]] = {
            "kafka": {
                "Kafka killed": wrap(killed, ground.kafka),
                "Kafka stands still": ground.kafka_stopped,
                "Kafka unreachable": wrap(downed, ground.to_kafka),
                "Kafka's answers lost": wrap(shaped, ground.to_kafka, cut=frozenset({"to_client"})),
                "Kafka far away": wrap(shaped, ground.to_kafka, latency_s=0.4, jitter_s=0.4),
            },
            "postgres": {
                "PostgreSQL killed": wrap(killed, ground.postgres),
                "PostgreSQL stands still": ground.postgres_stopped,
                "PostgreSQL unreachable": wrap(downed, ground.to_postgres),
                "PostgreSQL deaf": wrap(shaped, ground.to_postgres, cut=frozenset({"to_server", "to_client"})),
            },
            "bridge": {"ingest killed": wrap(child, "ingest"), "worker killed": wrap(child, "worker")},
        }
        end = time.monotonic() + seconds * world.times
        while time.monotonic() < end:
            what = [
                dice.choice(sorted(choices[part])) for part in dice.sample(sorted(choices), dice.choice((1, 1, 2, 3)))
            ]
            with world.fault(" + ".join(what)), contextlib.ExitStack() as healing:
                for name in what:
                    healing.enter_context(next(group[name] for group in choices.values() if name in group)())
                world.moment(3, 8)
            world.moment(1, 3)

    return fault
