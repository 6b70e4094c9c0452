"""The verification at the end of deploy.sh and update.sh, against what is really there.

That is a bridge, Kafka, PostgreSQL, and nginx with TLS where the load balancers would be. The stack is the emulator's;
`kwb users create` is the real command, started as the task that ECS would start, and puts the password into the
emulator's Secrets Manager. What stands in: names lead to nginx by VERIFY_CONNECT_TO, as curl's --connect-to does, and
its authority is VERIFY_CA.
"""

from __future__ import annotations

import contextlib
import errno
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from scene import Scene, scene

from authority import DOMAIN, Authority
from bridge import Serve
from databases import migrate_database
from edge import Edge, edge, guarding
from kafka_webhook_bridge.stack import Kafka, Postgres
from kafka_webhook_bridge.stack.ports import free_ports

TASK = f"""\
#!{sys.executable}
import json, os, sys
bridge = json.load(open(os.environ["EMULATOR_BRIDGE"]))
given = {{**os.environ, **bridge["environ"]}}
with open(bridge["log"], "a") as log:
    log.write(" ".join(sys.argv[1:]) + "\\n")
if bridge.get("fails"):
    print("Kafka does not answer")
    sys.exit(4)
os.execve({sys.executable!r}, [{sys.executable!r}, "-m", "kafka_webhook_bridge.cli", *sys.argv[1:]], given)
"""


# A door that nobody meant to leave open, beside the stage's own configuration.
OPEN = "\n  anybody: {topic: kwb.smoke, auth: none}\n"


class World:
    """The stage `dev` of edge.test, deployed, and what its load balancers lead to."""

    def __init__(self, found: Scene, front: Edge, bridge: Path) -> None:
        self.scene, self.front, self._bridge = found, front, bridge
        self.https = f"webhooks.{DOMAIN}:443=127.0.0.1:{front.https_port}"
        self.kafka = f"kafka.{DOMAIN}:{front.kafka_port}=127.0.0.1:{front.kafka_port}"

    def update(self, expect: int = 0, **environ: str) -> str:
        """No change; the verification alone."""
        given = {
            "VERIFY_CONNECT_TO": f"{self.https},{self.kafka}", "VERIFY_CA": str(self.front.ca),
            "VERIFY_MINUTES": "1", **environ,
        }  # fmt: skip
        return self.scene.type("update", DOMAIN, self.tag, expect=expect, **given)

    def tasks(self, **more: object) -> list[str]:
        """What `kwb` was asked to do in one-off tasks; `fails` makes the next ones fail."""
        found = json.loads(self._bridge.read_text())
        self._bridge.write_text(json.dumps({**{k: v for k, v in found.items() if k != "fails"}, **more}))
        log = Path(found["log"])
        return log.read_text().splitlines() if log.exists() else []

    @property
    def tag(self) -> str:
        return self.scene.parameters()["BridgeImage"].rpartition(":")[2]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("verify")
    for path in (folder, *folder.parents[:2]):
        path.chmod(0o711)  # PostgreSQL runs as somebody else when the tests are root
    task = folder / "task"
    task.write_text(TASK)
    task.chmod(0o755)
    (ingest_port,) = free_ports(1)
    postgres, kafka = Postgres(folder / "postgres"), None
    with scene(folder, task) as found:
        try:
            with _front(folder, ingest_port) as (front, kafka):
                kafka.start()
                postgres.start()
                migrate_database(postgres.url)
                found.zone(DOMAIN)
                found.type(
                    "deploy", DOMAIN, ENVIRONMENT="dev", SKIP_SMOKE="1", KAFKA_EXTERNAL_PORT=str(front.kafka_port)
                )
                environ = _environ(kafka, postgres)
                (folder / "bridge.json").write_text(json.dumps({"environ": environ, "log": str(folder / "tasks.log")}))
                login = json.loads(found.secret("WebhookSecretArn"))
                server = Serve(
                    {
                        **environ, "KWB_CONFIG": found.secret("ConfigSecretArn") + OPEN,
                        "KWB_INGEST_PORT": str(ingest_port),
                        "WEBHOOK_USERNAME": login["username"], "WEBHOOK_PASSWORD": login["password"],
                    },
                    folder, "--role", "ingest",
                )  # fmt: skip
                server.wait_ready()
                yield World(found, front, folder / "bridge.json")
                assert login["password"] not in found.said + found.checkout.argv_log.read_text()
                server.stop()
        finally:
            if kafka is not None:
                kafka.destroy()
            postgres.destroy()


@contextlib.contextmanager
def _front(folder: Path, ingest_port: int) -> Iterator[tuple[Edge, Kafka]]:
    """nginx and the guard in front of a broker whose advertised name is nginx's: each knows the other's port."""
    (port,) = free_ports(1)
    kafka = Kafka(folder / "kafka", proxy_advertised=f"kafka.{DOMAIN}:{port}")
    with (
        guarding(folder, kafka.ports.proxy) as guard,
        edge(folder, ingest=ingest_port, kafka=guard.port, port=port) as front,
    ):
        yield front, kafka


def _environ(kafka: Kafka, postgres: Postgres) -> dict[str, str]:
    return {
        "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap, "KAFKA_USERNAME": kafka.username, "KAFKA_PASSWORD": kafka.password,
        "KWB_KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT", "KWB_KAFKA_SASL_MECHANISM": "PLAIN",
        "DATABASE_URL": postgres.url,
    }  # fmt: skip


def test_rule_3_an_event_goes_in_by_https_and_comes_out_of_kafkas_tls_port(world: World) -> None:
    said = world.update()
    assert "services run what was asked for, and every target is healthy" in said
    assert "accepted: " in said
    assert "webhooks are taken and refused as they should be, and Kafka is read from outside" in said
    assert said.splitlines()[-1] == "done"
    assert "DNS pending" not in said  # names that are led elsewhere are not looked up
    assert world.scene.releases()[-1]["verified"] is True  # of the deployment, which was not looked at before
    first, *_ = world.tasks()
    assert first == "users create kwb-smoke --topics kwb.smoke --group-prefix kwb-smoke --expires 1h"
    # The next time the user is there, and is made anew.
    before = len(world.tasks())
    world.update()
    assert [line.split()[1] for line in world.tasks()[before:]] == ["create", "delete", "create"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nobody", "certificate verify failed"),
        ("another name", "Hostname mismatch"),
    ],
)
def test_a_certificate_that_nobody_should_believe(world: World, folder: Path, name: str, said: str) -> None:
    if name == "nobody":
        told = world.update(expect=3, VERIFY_CA=str(Authority.named("stranger", folder=folder).ca))
    else:
        world.front.authority.issue(world.front.tls, (f"other.{DOMAIN}",))
        world.front.reload()
        try:
            told = world.update(expect=3)
        finally:
            world.front.authority.issue(world.front.tls)
            world.front.reload()
    assert f"error: webhooks.{DOMAIN}" in told
    assert said.lower() in told.lower() or "self-signed" in told or "unable to get local issuer" in told


def test_credentials_that_the_bridge_does_not_know(world: World) -> None:
    client = world.scene.emulator.client("secretsmanager")
    arn = world.scene.outputs()["WebhookSecretArn"]
    right = client.get_secret_value(SecretId=arn)["SecretString"]
    try:
        client.put_secret_value(SecretId=arn, SecretString='{"username": "webhook", "password": "not-the-bridges"}')
        assert "A webhook with credentials was answered 401" in world.update(expect=3)
        assert world.scene.releases()[-1]["verified"] is False
        world.update(SKIP_SMOKE="1")
        assert world.scene.releases()[-1]["verified"] is False  # nobody looked
    finally:
        client.put_secret_value(SecretId=arn, SecretString=right)
    world.update()
    assert world.scene.releases()[-1]["verified"] is True


def test_what_could_not_be_seen_is_no_verdict(world: World) -> None:
    client = world.scene.emulator.client("secretsmanager")
    arn = world.scene.outputs()["WebhookSecretArn"]
    right, before = client.get_secret_value(SecretId=arn)["SecretString"], world.scene.releases()[-1]["verified"]
    client.delete_secret(SecretId=arn, ForceDeleteWithoutRecovery=True)
    try:
        assert "whether it works could not be seen" in world.update(expect=3)
        assert world.scene.releases()[-1]["verified"] is before
    finally:
        client.create_secret(Name=arn, SecretString=right)


def test_a_door_that_is_open_to_everybody(world: World) -> None:
    path = world.scene.checkout.root / "aws/config/dev.yaml"
    path.write_text(f"sources:{OPEN}")
    try:
        assert "A webhook without credentials was answered 200, and should be 401" in world.update(expect=3)
    finally:
        world.scene.checkout.restore()
        world.update(SKIP_SMOKE="1")


def test_a_kafka_that_cannot_be_read_from_outside(world: World) -> None:
    (closed,) = free_ports(1)
    away = f"kafka.{DOMAIN}:{world.front.kafka_port}=127.0.0.1:{closed}"
    told = world.update(expect=3, VERIFY_CONNECT_TO=f"{world.https},{away}", VERIFY_MINUTES="0.05")
    assert f"The event did not come back from kafka.{DOMAIN}:{world.front.kafka_port}" in told
    assert "KafkaClientCidr" in told


def test_a_user_that_cannot_be_made(world: World) -> None:
    world.tasks(fails=True)
    told = world.update(expect=3)
    assert "kwb users create ended with 4" in told
    assert "Kafka does not answer" in told
    world.tasks()


def test_a_port_that_nobody_answers_is_waited_for_and_told(world: World) -> None:
    (closed,) = free_ports(1)
    told = world.update(
        expect=3, VERIFY_CONNECT_TO=f"webhooks.{DOMAIN}:443=127.0.0.1:{closed},{world.kafka}", VERIFY_MINUTES="0.02"
    )
    assert f"webhooks.{DOMAIN}: [Errno {errno.ECONNREFUSED}]" in told
