"""The containers' truth: what the task definitions say starts a real Kafka and the bridge, and it does what is said.

Behind a proxy that ends TLS where AWS has a network load balancer, with PostgreSQL that demands TLS as RDS does.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import itertools
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import confluent_kafka as ck
import confluent_kafka.admin
import pytest
import yaml
from task_world import ENTRYPOINT, ROOT, SCENE, USERNAME, Bridge, KafkaTask, definition, filters, matches, value_of
from tls_proxy import HEALTH_CHECK, TlsProxy
from world import KAFKAS, STAGES, Scene, environment, secrets, world

from authority import Authority
from bridge import LOGIN, WAIT_S, Serve, eventually
from kafka_webhook_bridge.app.preflight import Role, load
from kafka_webhook_bridge.kafka.config import client_config
from kafka_webhook_bridge.kafka.users import Users
from raw_kafka import API_VERSIONS, Raw, request
from secrets_manager import SecretsManager
from tls_postgres import TlsPostgres, tls_postgres

SOURCE = TOPIC = "kwb-smoke"
PARTNER = "partner"


# ── the tasks ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("tasks")
    found.chmod(0o711)
    return found


@pytest.fixture(scope="module")
def authority(folder: Path) -> Authority:
    """Of the certificate that the load balancer has; its `stranger` is not the one for this name."""
    found = Authority.named(folder=folder)
    found.issue(folder / "door", ("localhost",))
    found.issue(folder / "stranger", ("kafka.example.org",))
    return found


@pytest.fixture(scope="module")
def kafka(folder: Path, authority: Authority) -> Iterator[KafkaTask]:
    (folder / "kafka").mkdir()
    task = KafkaTask(folder / "kafka")
    door = TlsProxy(folder / "door", task.door)
    task.outside = door.port
    try:
        task.start()
        yield task
        assert "traceback" not in task.guard_log.read_text()
    finally:
        task.kill()
        door.close()


@pytest.fixture(scope="module")
def postgres(folder: Path) -> Iterator[TlsPostgres]:
    with tls_postgres(folder) as server:
        yield server


@pytest.fixture(scope="module")
def manager() -> Iterator[SecretsManager]:
    found = SecretsManager()
    yield found
    found.close()


@pytest.fixture(scope="module")
def bridge(folder: Path, kafka: KafkaTask, postgres: TlsPostgres, manager: SecretsManager) -> Bridge:
    """Migrated by its own container."""
    database = {"password": postgres.make("bridge"), "url": postgres.url(user="bridge")}
    found = Bridge(folder, kafka, database, manager.environ())
    done = found.run("worker", name="migrate")
    assert done.returncode == 0, done.stdout + done.stderr
    return found


def ask(server: Serve, method: str, path: str, body: bytes = b"", *, login: bool = True) -> tuple[int, dict[str, Any]]:
    """A request as the load balancer passes it on: by HTTPS, without a look at the certificate."""
    context = ssl._create_unverified_context()
    connection = http.client.HTTPSConnection("127.0.0.1", server.port, timeout=WAIT_S, context=context)
    try:
        headers = {"Authorization": LOGIN.partition(": ")[2]} if login else {}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"{}")
    finally:
        connection.close()


def sent(server: Serve) -> tuple[str, bytes]:
    """An event that was acknowledged: where it is stored, and its body."""
    body = uuid.uuid4().hex.encode()
    status, receipt = ask(server, "POST", f"/{SOURCE}", body)
    assert status == 200, receipt
    return receipt["stored"], body


def outside(kafka: KafkaTask, **changes: Any) -> dict[str, Any]:
    """A stock client's settings through the load balancer, every check on."""
    return {
        "bootstrap.servers": f"localhost:{kafka.outside}", "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512", "sasl.username": PARTNER, "log_level": 0, **changes,
    }  # fmt: skip


def refusal(config: dict[str, Any]) -> ck.KafkaError | None:
    """Why a client gets nowhere with these settings; None when it is answered."""
    errors: list[ck.KafkaError] = []
    admin: Any = confluent_kafka.admin
    client = admin.AdminClient({**config, "error_cb": errors.append})
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        try:
            client.list_topics(timeout=2)
            return None
        except ck.KafkaException:
            client.poll(0)
            told = [one for one in errors if one.code() != ck.KafkaError._ALL_BROKERS_DOWN]
            if told:
                return told[0]
    raise AssertionError(f"neither an answer nor a reason: {errors}")


def read(config: dict[str, Any], wanted: set[bytes]) -> None:
    """Until a partner has read these bodies."""
    consumer = ck.Consumer({**config, "group.id": f"{PARTNER}-{uuid.uuid4().hex}", "auto.offset.reset": "earliest"})
    try:
        consumer.subscribe([TOPIC_NAME])
        found: set[bytes] = set()
        end = time.monotonic() + 2 * WAIT_S
        while not wanted <= found:
            assert time.monotonic() < end, f"{len(wanted - found)} of {len(wanted)} never came"
            message = consumer.poll(1)
            if message is not None and not message.error():
                found.add(message.value())
    finally:
        consumer.close()


TOPIC_NAME = yaml.safe_load((ROOT / "aws/config/dev.yaml").read_text())["sources"][SOURCE]["topic"]


# ── Kafka ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

# What is another than in compose.yaml, and why.
DIFFERENT = {
    "CLUSTER_ID": "another cluster",
    "KAFKA_HEAP_OPTS": "4 GB",
    "KAFKA_LISTENERS": "the guard is in the same task, and listens where PROXY does elsewhere",
    "KAFKA_ADVERTISED_LISTENERS": "names of the VPC, and of the load balancer",
    "KAFKA_SUPER_USERS": "KafkaUsername",
    "KAFKA_CONFIG_PROVIDERS_SECRETS_CLASS": "ECS hands secrets out by the environment",
    "KAFKA_CONFIG_PROVIDERS_SECRETS_PARAM_ALLOWED_PATHS": "ECS hands secrets out by the environment",
    "KAFKA_CONFIG_PROVIDERS_SECRETS_PARAM_ALLOWLIST_PATTERN": "ECS hands secrets out by the environment",
    "KAFKA_OPTS": "ECS hands secrets out by the environment",
    "KAFKA_LISTENER_NAME_INTERNAL_PLAIN_SASL_JAAS_CONFIG": "ECS hands secrets out by the environment",
    "KAFKA_LISTENER_NAME_BROKER_PLAIN_SASL_JAAS_CONFIG": "ECS hands secrets out by the environment",
    "KAFKA_BROKER_SESSION_TIMEOUT_MS": "rule 5: the default on EFS",
    "KAFKA_BROKER_HEARTBEAT_INTERVAL_MS": "rule 5: the default on EFS",
    "KAFKA_LOG_RETENTION_HOURS": "rule 5",
    "KAFKA_DELETE_TOPIC_ENABLE": "a topic's files may be open when it is deleted, which NFS does not bear",
}


def test_rule_5_kafka_is_that_of_compose_but_for_what_aws_asks() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    local = {name: str(value).replace("$$", "$") for name, value in services["kafka"]["environment"].items()}
    ours = environment(definition("kafka"))
    assert {name for name in local | ours if local.get(name) != ours.get(name)} == set(DIFFERENT)


def test_the_bridge_works_on_internal_and_the_password_is_nowhere(kafka: KafkaTask) -> None:
    config = {
        "bootstrap.servers": f"127.0.0.1:{kafka.internal}", "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN", "sasl.username": USERNAME, "log_level": 0,
    }  # fmt: skip
    assert refusal({**config, "sasl.password": kafka.password}) is None
    wrong = refusal({**config, "sasl.password": "wrong"})
    assert wrong is not None
    assert wrong.code() == ck.KafkaError._AUTHENTICATION
    assert kafka.properties["super.users"] == f"User:{USERNAME};User:ANONYMOUS"
    held = [path for path in kafka.folder.rglob("*") if path.is_file() and kafka.password.encode() in path.read_bytes()]
    assert held == []
    assert kafka.password not in json.dumps(definition("kafka"))


def test_rule_7_the_bridges_user_never_gets_in_from_outside(kafka: KafkaTask, authority: Authority) -> None:
    """Its password is right: PROXY knows no PLAIN, and no SCRAM of it."""
    base = outside(kafka, **{"ssl.ca.location": str(authority.ca), "sasl.username": USERNAME})
    for mechanism in ("PLAIN", "SCRAM-SHA-512"):
        error = refusal({**base, "sasl.mechanism": mechanism, "sasl.password": kafka.password})
        assert error is not None, mechanism
        assert error.code() == ck.KafkaError._AUTHENTICATION


def test_rule_7_no_outside_user_may_have_a_super_users_name(bridge: Bridge) -> None:
    for name in (USERNAME, "anonymous", "ANONYMOUS", "Partner"):
        done = bridge.run("admin", "users", "create", name, "--topics", "x", "--group-prefix", "x")
        assert done.returncode == 2, done.stdout + done.stderr


# ── the whole way ─────────────────────────────────────────────────────────────────────────────────────────────────────


def partner(bridge: Bridge, manager: SecretsManager) -> dict[str, Any]:
    """A user made by a one-off task; what its secret says."""
    name = environment(definition("admin"))["KWB_USERS_SECRET_PREFIX"] + PARTNER
    if name not in manager.secrets:
        done = bridge.run(
            "admin", "users", "create", PARTNER, "--topics", TOPIC_NAME, "--group-prefix", PARTNER, "--expires", "1h"
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert manager.current(name)["password"] not in done.stdout + done.stderr
    return manager.current(name)


@pytest.fixture(scope="module")
def tasks(bridge: Bridge) -> Iterator[tuple[Serve, Serve]]:
    """Ingest and worker, as the services start them."""
    worker, ingest = bridge.serve("worker"), bridge.serve("ingest")
    try:
        for server in (worker, ingest):
            eventually(lambda s=server: s.said("serving"), "serving")
            eventually(lambda s=server: s.health(s.management_port)[1]["status"] == "ready", server.log.read_text())
        yield ingest, worker
    finally:
        for server in (ingest, worker):
            if server.process.poll() is None:
                server.process.kill()
                server.process.wait()


def test_rule_9_the_load_balancer_speaks_https_to_ingest(tasks: tuple[Serve, Serve]) -> None:
    ingest, _ = tasks
    check = world(SCENE).target("ingest")
    assert check.get("Protocol") == check.get("HealthCheckProtocol", check.get("Protocol")) == "HTTPS"
    assert ask(ingest, "GET", check.get("HealthCheckPath"), login=False)[0] == 200
    assert ask(ingest, "POST", f"/{SOURCE}", b"x", login=False)[0] == 401


def test_rule_3_a_partner_reads_through_the_load_balancer_with_what_its_secret_holds(
    kafka: KafkaTask, bridge: Bridge, manager: SecretsManager, tasks: tuple[Serve, Serve], authority: Authority,
    folder: Path,
) -> None:  # fmt: skip
    secret = partner(bridge, manager)
    assert secret["bootstrap_servers"] == "kafka.hooks.example.com:9443"
    assert (secret["security_protocol"], secret["sasl_mechanism"]) == ("SASL_SSL", "SCRAM-SHA-512")
    stored, body = sent(tasks[0])
    assert stored == "kafka"
    config = outside(kafka, **{"ssl.ca.location": str(authority.ca), "sasl.password": secret["password"]})
    read(config, {body})

    wrong = refusal({**config, "sasl.password": "wrong"})
    assert wrong is not None
    assert wrong.code() == ck.KafkaError._AUTHENTICATION
    stranger = TlsProxy(folder / "stranger", kafka.door)
    try:
        error = refusal({**config, "bootstrap.servers": f"localhost:{stranger.port}"})
    finally:
        stranger.close()
    assert error is not None
    assert "certificate verify failed" in error.str()
    admin: Any = confluent_kafka.admin
    with pytest.raises(ck.KafkaException):
        admin.AdminClient({**config, "security.protocol": "SASL_PLAINTEXT"}).list_topics(timeout=5)
    client = admin.AdminClient(config)
    denied = client.create_topics([admin.NewTopic("of-a-partner", 1, 1)])["of-a-partner"]
    with pytest.raises(ck.KafkaException, match="AUTHORIZATION_FAILED"):
        denied.result(WAIT_S)


def test_what_a_partner_sends_passes_the_guard_or_nobody_is_silenced(
    kafka: KafkaTask, bridge: Bridge, manager: SecretsManager, tasks: tuple[Serve, Serve], authority: Authority
) -> None:
    """Twelve lengths of 20 MiB after a login: seven of them take all that the broker has for requests of anybody."""
    secret = partner(bridge, manager)
    trust = ssl.create_default_context(cafile=str(authority.ca))
    bombs = [Raw(kafka.outside, tls=trust) for _ in range(12)]
    try:
        for one in bombs:
            assert one.handshake() == 0
            assert one.scram(PARTNER.encode(), secret["password"].encode()).code == 0
        for one in bombs:
            one.send((20 * 1024 * 1024).to_bytes(4) + b"\0\1")
        assert sent(tasks[0])[0] == "kafka"
        assert all(one.cut() for one in bombs)
    finally:
        for one in bombs:
            one.socket.close()
    eventually(lambda: kafka.guard_log.read_text().count('"length":20971520') == 12, "each is logged")
    assert '"client":"127.0.0.1"' in kafka.guard_log.read_text(), "by the address that the load balancer tells"


def test_the_load_balancers_health_check_is_nobodys_connection(kafka: KafkaTask) -> None:
    """Its header says so; nothing of it is logged, and it takes no consumer's place."""
    before = kafka.guard_log.read_text()
    for data in (b"", HEALTH_CHECK):
        with Raw(kafka.door) as check:
            check.send(data)
    with Raw(kafka.door) as nobody:  # the sentinel: no client gets in without a header
        nobody.send(request(API_VERSIONS, 0, b""))
        assert nobody.cut()
    eventually(lambda: kafka.guard_log.read_text() != before, "it is logged")
    codes = [json.loads(line).get("code") for line in kafka.guard_log.read_text().removeprefix(before).splitlines()]
    assert codes.count("no PROXY header") == 1
    assert kafka.guarded()


def test_rule_13_every_metric_filter_takes_a_line_that_the_process_wrote(tasks: tuple[Serve, Serve]) -> None:
    servers = dict(zip(("ingest", "worker"), tasks, strict=True))
    found = filters(world(SCENE))
    assert {one["role"] for one in found} == set(servers)
    for server in servers.values():
        before = len(server.said("status"))
        server.forward(61)
        eventually(lambda s=server, n=before: len(s.said("status")) > n, "a line a minute")
    for one in found:
        lines = servers[one["role"]].log.read_text().splitlines()
        taken = [json.loads(line) for line in lines if matches(one["pattern"], line)]
        assert taken, one
        assert {line["event"] for line in taken} == {"status"}
        assert all(isinstance(value_of(line, one["value"]), int) for line in taken)
        others = servers["worker" if one["role"] == "ingest" else "ingest"].log.read_text().splitlines()
        assert not [line for line in others if matches(one["pattern"], line)], "each number has one teller"


def test_rule_5_kafka_ends_when_it_is_told_and_goes_on_with_its_data(
    kafka: KafkaTask, bridge: Bridge, manager: SecretsManager, tasks: tuple[Serve, Serve], authority: Authority
) -> None:
    """What is acknowledged meanwhile waits in the outbox, is counted there, and comes out in the end."""
    ingest, worker = tasks
    secret = partner(bridge, manager)
    before = sent(ingest)
    assert kafka.end() == 128 + signal.SIGTERM
    assert (kafka.folder / "data/.kafka_cleanshutdown").exists(), "it put its folder in order"
    stored, waiting = sent(ingest)
    assert stored == "outbox"

    def told() -> bool:
        worker.forward(61)
        lines = worker.said("status")
        return bool(lines) and lines[-1].get("outbox_rows", 0) >= 1

    eventually(told, "the outbox is in the status line")
    kafka.start()
    eventually(lambda: sent(ingest)[0] == "kafka", "served as before")
    config = outside(kafka, **{"ssl.ca.location": str(authority.ca), "sasl.password": secret["password"]})
    read(config, {before[1], waiting})
    assert PARTNER in Users(kafka.settings()).names()


def test_sigterm_ends_the_tasks_of_the_bridge_within_their_stop_time(tasks: tuple[Serve, Serve]) -> None:
    """After it nothing is refused that was sent before. This is the last test of these tasks."""
    for role, server in zip(("ingest", "worker"), tasks, strict=True):
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(definition(role)["StopTimeout"]) == 0
        assert server.said("stopped", clean=True)
        assert server.stop() == 0, "and its log shows no fault"
        assert '"level":"info"' in server.log.read_text(), "JSON lines, though nobody asked for them"
    assert tasks[0].said("status")[-1]["received_requests"] >= 0


def test_rule_12_the_database_is_known_by_its_certificate_or_not_used(bridge: Bridge, postgres: TlsPostgres) -> None:
    for url, words in (
        (postgres.url(postgres.other_ca, user="bridge"), "certificate is refused"),
        (postgres.url(user="bridge", host="127.0.0.1"), "certificate is refused"),
        (postgres.url(user="bridge", sslmode="disable"), "no encryption"),
        (postgres.url(postgres.folder / "missing.pem", user="bridge"), "No such file"),
    ):
        done = bridge.run("worker", name="migrate", DATABASE_URL=url)
        assert done.returncode != 0
        assert words in done.stderr


# ── what each choice of a cluster means to the bridge ─────────────────────────────────────────────────────────────────

LOGINS: dict[str, dict[str, str]] = {
    "single": {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "PLAIN"},
    "plain": {"security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN"},
    "scram": {"security.protocol": "SASL_SSL", "sasl.mechanism": "SCRAM-SHA-512"},
    "mtls": {"security.protocol": "SSL"},
    "iam": {"security.protocol": "SASL_SSL", "sasl.mechanism": "OAUTHBEARER"},
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kafka_kind", KAFKAS)
def test_rule_6_the_bridge_takes_the_environment_of_every_choice(stage: str, kafka_kind: str, tmp_path: Path) -> None:
    """With authorities in the cluster's secret, and with none: then the system's are trusted."""
    authority = Authority.named(folder=tmp_path)
    authority.issue(tmp_path, ("bridge",), file="client")
    config = (ROOT / f"aws/config/{stage}.yaml").read_text()
    held = {
        "KWB_CONFIG": config,
        "KWB_SECRETS_JSON": json.dumps(dict.fromkeys(re.findall(r"\$\{(\w+)\}", config), "canary")),
        "KAFKA_USERNAME": "of-the-cluster", "KWB_KAFKA_SSL_CERT": (tmp_path / "client.pem").read_text(),
        "KWB_KAFKA_SSL_KEY": (tmp_path / "client.key").read_text(),
    }  # fmt: skip
    found = world(Scene(stage, kafka_kind))
    roles: tuple[Role, ...] = ("ingest", "worker", "console")
    tasks = [*((role, role) for role in roles), ("all", "admin")]
    for (role, name), ca in itertools.product(tasks, (authority.ca.read_text(), "")):
        container = found.container(name)
        environ = {
            **environment(container), "AWS_REGION": "eu-north-1",
            **{key: {**held, "KWB_KAFKA_SSL_CA": ca}.get(key, "canary") for key in secrets(container)},
        }  # fmt: skip
        environ["DATABASE_URL"] = environ["DATABASE_URL"].replace("/app/rds.pem", str(authority.ca))
        settings = load(role, environ).settings  # type: ignore[arg-type]
        login = client_config(settings.kafka)
        assert {key: login.get(key) for key in ("security.protocol", "sasl.mechanism")} == {
            "sasl.mechanism": None, **LOGINS[kafka_kind],
        }  # fmt: skip
        assert ("oauth_cb" in login) == (kafka_kind == "iam")
        assert ("ssl.key.pem" in login) == (kafka_kind == "mtls")
        assert ("ssl.ca.pem" in login) == (bool(ca) and kafka_kind in ("plain", "scram", "mtls"))
        assert settings.store.password is not None
        assert "canary" not in environ["DATABASE_URL"]


# ── the entry point of the Kafka image ────────────────────────────────────────────────────────────────────────────────

LOGIN_OF_KAFKA = {
    "KAFKA_SUPER_USERS": "User:bridge;User:ANONYMOUS", "BROKER_PASSWORD": "canary-1f", "CLUSTER_ID": "x",
    "KAFKA_LOG_DIRS": "/nowhere", "PATH": os.defpath,
}  # fmt: skip


def enter(**environ: str) -> subprocess.CompletedProcess[str]:
    """The entry point, with `echo` in Kafka's place."""
    return subprocess.run(
        [str(ENTRYPOINT), "echo", "started"], env={**LOGIN_OF_KAFKA, **environ}, capture_output=True, text=True,
        timeout=WAIT_S, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "user", ["anonymous", "ANONYMOUS", "Bridge", "1x", "a b", "x;User:y", "", "a" * 64, "u\n", "é"]
)  # fmt: skip
def test_rule_7_kafka_does_not_start_with_a_super_user_that_others_could_be(user: str) -> None:
    done = enter(KAFKA_SUPER_USERS=f"User:{user};User:ANONYMOUS")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")


@pytest.mark.parametrize("user", ["bridge", "a", "a-b_c.9", "a" * 63])
def test_rule_7_it_starts_with_any_other(user: str) -> None:
    assert enter(KAFKA_SUPER_USERS=f"User:{user};User:ANONYMOUS").stdout == "started\n"


@pytest.mark.parametrize("password", ["", 'canary"1f', "canary\\1f", "canary\n1f"])
def test_a_password_that_would_not_be_read_as_it_is(password: str) -> None:
    done = enter(BROKER_PASSWORD=password)
    assert (done.returncode, done.stdout) == (1, "")
    assert "BROKER_PASSWORD" in done.stderr
    assert "canary" not in done.stderr


@pytest.mark.parametrize("name", ["CLUSTER_ID", "KAFKA_LOG_DIRS"])
def test_rule_5_what_is_missing_is_told(name: str) -> None:
    done = enter(**{name: ""})
    assert (done.returncode, done.stdout) == (1, "")
    assert name in done.stderr


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Another broker has the folder."""
    lock = folder / ".lock"
    lock.touch()
    with lock.open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def waiting(folder: Path) -> subprocess.Popen[str]:
    """The entry point, when it has said that it waits."""
    process = subprocess.Popen(
        [str(ENTRYPOINT), "echo", "started"], env={**LOGIN_OF_KAFKA, "KAFKA_LOG_DIRS": str(folder)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    assert "waiting for the broker before" in process.stderr.readline()
    return process


def test_rule_5_kafka_waits_until_the_broker_before_lets_go(tmp_path: Path) -> None:
    with locked(tmp_path):
        process = waiting(tmp_path)
        assert process.poll() is None
    output, _ = process.communicate(timeout=WAIT_S)
    assert (process.returncode, output) == (0, "started\n")


def test_rule_5_kafka_is_not_started_on_a_folder_that_another_has(tmp_path: Path) -> None:
    assert "LOCK_WAIT_S:-150}" in ENTRYPOINT.read_text()
    assert "LOCK_WAIT_S" not in environment(definition("kafka"))
    with locked(tmp_path):
        done = enter(KAFKA_LOG_DIRS=str(tmp_path), LOCK_WAIT_S="1")
    assert (done.returncode, done.stdout) == (1, "")
    assert "Another broker has held" in done.stderr


def test_it_can_be_ended_while_it_waits(tmp_path: Path) -> None:
    with locked(tmp_path):
        process = waiting(tmp_path)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=WAIT_S)
    assert (process.returncode, output) == (143, "")


def test_rule_4_the_image_is_apaches_with_an_entry_point() -> None:
    text = (ENTRYPOINT.parent / "Dockerfile").read_text()
    lines = [line for line in re.sub(r"\\\n\s*", "", text).splitlines() if line and not line.startswith("#")]
    image = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["kafka"]["image"]
    assert lines[0] == f"ARG KAFKA_IMAGE={image}", "the same Kafka as on one machine"
    assert lines[1] == "FROM ${KAFKA_IMAGE}"
    assert [line for line in lines if line.startswith(("USER", "FROM --platform"))] == []
    assert lines[-2:] == ['ENTRYPOINT ["/usr/local/bin/kafka-entrypoint"]', 'CMD ["/etc/kafka/docker/run"]']
    assert not {"Command", "EntryPoint"} & set(definition("kafka")), "the task starts what the image says"
    assert definition("kafka")["User"].partition(":")[0] == "1000", "as the image's own user"
    assert os.access(ENTRYPOINT, os.X_OK)
    assert {path.name for path in ENTRYPOINT.parent.iterdir()} == {"Dockerfile", "entrypoint"}


def test_shellcheck_finds_nothing_in_the_entry_point() -> None:
    shellcheck = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([str(shellcheck), str(ENTRYPOINT)], capture_output=True, text=True, check=False)
    assert done.stdout + done.stderr == ""


# ── the reader of metric filters ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("pattern", "line", "expected"),
    [
        ('{ $.event = "status" && $.n = * }', '{"event": "status", "n": 0}', True),
        ('{ $.event = "status" && $.n = * }', '{"event": "status"}', False),
        ('{ $.event = "status" && $.n = * }', '{"event": "status", "n": null}', False),
        ('{ $.event = "status" && $.n = * }', '{"event": "statuses", "n": 0}', False),
        ('{ ($.event = "status") && ($.n >= 1) }', '{"event": "status", "n": 1}', True),
        ('{ ($.event = "status") && ($.n > 1) }', '{"event": "status", "n": 1}', False),
        ('{ $.n != 1 }', '{"n": 2}', True),
        ('{ $.n = * }', "not JSON", False),
        ('{ $.a.b = 1 }', '{"a": {"b": 1}}', True),
    ],
)  # fmt: skip
def test_how_a_metric_filter_is_read_here(pattern: str, line: str, expected: bool) -> None:
    assert matches(pattern, line) is expected


@pytest.mark.parametrize("pattern", ["status", "{ $.a = 1 || $.b = 2 }", "{ $.a IS TRUE }", "{ }"])
def test_what_is_not_understood_is_not_passed_over(pattern: str) -> None:
    with pytest.raises(ValueError, match="not understood"):
        matches(pattern, "{}")
