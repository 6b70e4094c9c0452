"""Kafka and PostgreSQL killed, stopped, wiped."""

from __future__ import annotations

import contextlib
import shutil

from bridge import request
from faults.injectors import Fault
from faults.world import World


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
