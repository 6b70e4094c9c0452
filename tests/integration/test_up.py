"""`kwb up` while it runs: what it writes, who can reach it, who can log in, and what it does when a server dies."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import confluent_kafka as ck
import confluent_kafka.admin
import pytest
from running_up import KWB, RunningUp, eventually, gone, refused, up


@pytest.fixture(scope="module")
def running() -> Iterator[RunningUp]:
    with tempfile.TemporaryDirectory(prefix="kwb up ü ") as name:  # a path with spaces and more
        Path(name).chmod(0o711)
        with up(Path(name) / "the stack", WEBHOOK_USERNAME="o'neil", WEBHOOK_PASSWORD="it's $HOME") as it:
            yield it


def client(running: RunningUp, **extra: object) -> dict[str, object]:
    """librdkafka's configuration, read from the file that is written for it."""
    lines = (running.folder / "kcat.conf").read_text().splitlines()
    config: dict[str, object] = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    return config | {"log_level": 0, "socket.timeout.ms": 10_000, "error_cb": lambda _: None} | extra


def bridge(running: RunningUp, **extra: object) -> dict[str, object]:
    env = running.env()
    return {
        "bootstrap.servers": env["KAFKA_BOOTSTRAP_SERVERS"], "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN", "sasl.username": env["KAFKA_USERNAME"], "sasl.password": env["KAFKA_PASSWORD"],
        "log_level": 0, "error_cb": lambda _: None, **extra,
    }  # fmt: skip


def secrets_in(running: RunningUp) -> list[str]:
    env = running.env()
    login = re.fullmatch(r"postgresql://kwb:(.+)@127\.0\.0\.1:\d+/kwb", env["DATABASE_URL"])
    assert login
    superuser = re.findall(r'"postgres": "(.+)"', (running.folder / "postgres" / "secrets.json").read_text())
    passwords = [env[name] for name in ("WEBHOOK_PASSWORD", "KAFKA_PASSWORD", "CONSUMER_PASSWORD")]
    return [*passwords, env["KWB_STORE_SECRET_KEY"], login[1], *superuser]


def authentication_error(config: dict[str, object]) -> bool:
    """Whether a login with this configuration is refused as such."""
    errors: list[ck.KafkaError] = []
    admin = ck.admin.AdminClient({**config, "error_cb": errors.append})

    def asked() -> bool:
        admin.poll(0.1)
        return any(e.code() == ck.KafkaError._AUTHENTICATION for e in errors)

    return eventually(asked, "an authentication error")


def produce_error(config: dict[str, object], topic: str) -> str:
    reports: list[ck.KafkaError | None] = []
    producer = ck.Producer({**config, "delivery.timeout.ms": 20_000})
    producer.produce(topic, b"x", on_delivery=lambda error, _: reports.append(error))
    producer.flush(30)
    assert len(reports) == 1
    return reports[0].name() if reports[0] else "written"


def test_credentials_come_from_the_environment_and_the_wrong_ones_are_refused(running: RunningUp) -> None:
    assert running.ready["webhook"] == {"username": "o'neil", "password": "it's $HOME"}
    assert running.post("/one")[0] == 200
    assert running.post("/one", password="it's")[0] == 401


def test_the_files_are_private(running: RunningUp) -> None:
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in running.folder.iterdir() if p.is_file()}
    for name in ("env", "consumer.properties", "kcat.conf", "secrets.json", "serve.log"):
        assert modes[name] == 0o600, name
    passing = 0o711 if os.geteuid() == 0 else 0o700
    assert stat.S_IMODE(running.folder.stat().st_mode) == passing
    assert stat.S_IMODE((running.folder / "kafka").stat().st_mode) == 0o700
    assert stat.S_IMODE((running.folder / "postgres").stat().st_mode) == passing
    assert stat.S_IMODE((running.folder / "postgres" / "data").stat().st_mode) == 0o700


def test_env_makes_another_terminal_ready(running: RunningUp) -> None:
    env = running.env()
    assert (env["WEBHOOK_USERNAME"], env["WEBHOOK_PASSWORD"]) == ("o'neil", "it's $HOME")
    assert env["CONSUMER_BOOTSTRAP_SERVERS"] == running.ready["consumer"]["bootstrap_servers"]
    assert env["CONSUMER_PASSWORD"] == running.ready["consumer"]["password"]

    async def user() -> str:
        connection = await asyncpg.connect(env["DATABASE_URL"])
        try:
            return await connection.fetchval("SELECT current_user || ' ' || current_setting('fsync')")
        finally:
            await connection.close()

    assert asyncio.run(user()) == "kwb on"


def checked(env: dict[str, str], *file: str) -> dict[str, Any]:
    """What `kwb config check` finds in the other terminal."""
    done = subprocess.run([*KWB, "config", "check", *file, "--json"], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_rule_11_config_check_in_another_terminal_finds_what_up_would_do(running: RunningUp, tmp_path: Path) -> None:
    (tmp_path / "bridge.yaml").write_text("sources: {shop: {topic: shop.orders}}\n")
    env = running.env()
    assert running.accepted("/anybody")["topic"] == "anybody"
    assert checked(env)["open_rule"] is True
    assert checked(env, str(tmp_path / "bridge.yaml"))["open_rule"] is False
    with tempfile.TemporaryDirectory(prefix="kwb-up-") as name:
        Path(name).chmod(0o711)
        other = {**env, "KWB_CONFIG": str(tmp_path / "bridge.yaml"), "KWB_BRIDGE_TOPICS_MAX": "7"}
        with up(Path(name) / "stack", **other) as it:  # from a terminal that knows the first one
            assert it.accepted("/shop")["topic"] == "shop.orders"
            assert it.post("/somebody-else")[0] == 404
            assert checked(it.env())["open_rule"] is False
            assert it.env()["KWB_BRIDGE_TOPICS_MAX"] == "7"


def test_no_secret_is_in_a_command_line_or_a_log(running: RunningUp) -> None:
    running.accepted("/one")
    secrets = [secret.encode() for secret in secrets_in(running)]
    lines = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in running.tree()]
    assert sum(b"kafka.Kafka" in line for line in lines) == 1  # or nothing is proved
    assert sum(b"kwb-guard" in line for line in lines) == 3
    logs = [*running.folder.rglob("*.log"), *running.folder.rglob("*.out")]
    assert {log.name for log in logs} >= {"kafka.log", "kafka.out", "postgres.log", "serve.log"}
    for text in (*lines, *(log.read_bytes() for log in logs), running.said.encode()):
        assert not [secret for secret in secrets if secret in text]


def test_rule_32_everything_listens_on_loopback_alone(running: RunningUp) -> None:
    inodes = set()
    for pid in running.tree():
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            link = str(descriptor.readlink()) if descriptor.is_symlink() else ""
            with_socket = re.fullmatch(r"socket:\[(\d+)\]", link)
            if with_socket:
                inodes.add(with_socket[1])
    addresses, ports = set(), set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:  # LISTEN
                address, _, port = fields[1].partition(":")
                addresses.add(address)
                ports.add(int(port, 16))
    # 127.0.0.1, and the same as an IPv6 address; the kernel prints words of the machine's byte order.
    assert addresses <= {"0100007F", "0000000000000000FFFF00000100007F"}
    assert len(ports) == 7  # webhooks, management, four of Kafka, PostgreSQL


def test_rule_32_the_consumer_may_read_and_nothing_else(running: RunningUp) -> None:
    running.accepted("/read-only", b"to be read")
    consumer = ck.Consumer(client(running, **{"group.id": "a-group", "auto.offset.reset": "earliest"}))
    consumer.subscribe(["read-only"])
    message = eventually(lambda: consumer.poll(1.0), "the record")
    consumer.close()
    assert message.value() == b"to be read"
    assert produce_error(client(running), "read-only") == "TOPIC_AUTHORIZATION_FAILED"
    admin = ck.admin.AdminClient(client(running))
    for futures in (
        admin.create_topics([ck.admin.NewTopic("made-by-consumer", 1, 1)]),
        admin.delete_topics(["read-only"]),
        admin.describe_configs([ck.admin.ConfigResource(ck.admin.ResourceType.BROKER, "1")]),
        admin.alter_user_scram_credentials([ck.admin.UserScramCredentialUpsertion(
            "consumer", ck.admin.ScramCredentialInfo(ck.admin.ScramMechanism.SCRAM_SHA_512, 8192), b"mine")]),
    ):  # fmt: skip
        (future,) = futures.values()
        with pytest.raises(ck.KafkaException) as raised:
            future.result(20)
        assert raised.value.args[0].name() in ("TOPIC_AUTHORIZATION_FAILED", "CLUSTER_AUTHORIZATION_FAILED")


def test_rule_32_proxy_lets_in_the_consumer_alone_and_no_wrong_password(running: RunningUp) -> None:
    env = running.env()
    assert authentication_error(client(running, **{"sasl.password": "wrong"}))
    assert authentication_error(client(running, **{"sasl.username": "nobody-of-this-name"}))
    super_user = {"sasl.username": env["KAFKA_USERNAME"], "sasl.password": env["KAFKA_PASSWORD"]}
    for mechanism in ("PLAIN", "SCRAM-SHA-512"):
        assert ck.admin.AdminClient(client(running, **{"sasl.mechanisms": mechanism})).list_topics(timeout=20).brokers
        assert authentication_error(client(running, **super_user, **{"sasl.mechanisms": mechanism}))
    assert authentication_error(bridge(running, **{"sasl.password": "wrong"}))
    names = ck.admin.AdminClient(bridge(running)).list_topics(timeout=20)
    assert names.brokers


def test_no_topic_is_made_by_producing_to_it(running: RunningUp) -> None:
    config = bridge(running, **{"topic.metadata.propagation.max.ms": 500})
    assert produce_error(config, "never-asked-for") in ("UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC")
    assert "never-asked-for" not in ck.admin.AdminClient(bridge(running)).list_topics(timeout=20).topics


def test_a_second_one_on_the_same_folder_is_told_of_the_first(running: RunningUp) -> None:
    said = refused(running.folder)
    assert "Another `kwb up` runs on" in said
    assert running.post("/one")[0] == 200


@pytest.mark.parametrize("part", ["postgres", "kafka", "bridge"])
def test_a_server_that_is_killed_is_told_and_comes_back(running: RunningUp, part: str) -> None:
    before = running.accepted("/kept", b"before")
    name = {"postgres": "PostgreSQL", "kafka": "Kafka", "bridge": "The bridge"}[part]
    pid_file = {"postgres": "postgres/postgres.pid", "kafka": "kafka/kafka.pid", "bridge": "serve.pid"}[part]
    pid = int((running.folder / pid_file).read_text().split()[0])
    assert pid in running.tree()
    os.kill(pid, signal.SIGKILL)
    died = running.hear(lambda message: message["event"] == "part")
    assert (died["part"], died["alive"]) == (name, False)
    assert "was killed (signal 9)" in died["message"]
    back = running.hear(lambda message: message["event"] == "part")
    assert (back["part"], back["alive"], back["message"]) == (name, True, f"{name} is up again")
    assert gone({pid})
    after = running.accepted("/kept", b"after")
    assert after["event_id"] > before["event_id"]
    consumer = ck.Consumer(client(running, **{"group.id": part, "auto.offset.reset": "earliest"}))
    consumer.subscribe(["kept"])
    seen = set()

    def both() -> bool:
        message = consumer.poll(1.0)
        if message is not None and message.error() is None:
            seen.add(dict(message.headers())["ce_id"].decode())
        return {before["event_id"], after["event_id"]} <= seen

    eventually(both, "both records")
    consumer.close()


def test_rule_11_a_file_says_who_sends_and_the_other_terminal_knows_it(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="kwb-up-") as name:
        Path(name).chmod(0o711)
        (tmp_path / "bridge.yaml").write_text("sources: {shop: {topic: shop.orders}}\n")
        with up(Path(name) / "stack", KWB_CONFIG=str(tmp_path / "bridge.yaml")) as it:
            assert it.accepted("/shop")["topic"] == "shop.orders"
            assert it.post("/somebody-else")[0] == 404
            done = subprocess.run(["sh", "-c", it.ready["try"]], capture_output=True, text=True, check=True)
            assert done.stdout.startswith("HTTP/1.1 200 "), done.stdout
            assert '"topic":"shop.orders"' in done.stdout
            env = it.env()
            assert env["KWB_CONFIG"] == str(tmp_path / "bridge.yaml")
            assert shutil.which("kwb", path=env["PATH"])
