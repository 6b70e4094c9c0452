"""Logins of clusters that are not ours: a certificate of the bridge's own, and tokens as Amazon MSK takes them."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from authority import Authority
from bridge import Serve, consume, eventually, request
from databases import migrate_database
from kafka_webhook_bridge.errors import KafkaError
from kafka_webhook_bridge.kafka.admin import Admin
from kafka_webhook_bridge.kafka.users import Users
from kafka_webhook_bridge.settings import KafkaSettings
from kafka_webhook_bridge.stack import Kafka
from kafka_webhook_bridge.stack.ports import free_ports

OAUTH = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required"
# In the place of AWS's library: tokens that Kafka's own validator takes. `made` has a line for each.
SIGNER = """\
import base64, json, os, time
class MSKAuthTokenProvider:
    @staticmethod
    def generate_auth_token(region):
        if os.path.exists({made!r} + "-not"):
            raise RuntimeError("Unable to locate credentials")
        with open({made!r}, "a") as made:
            made.write(region + "\\n")
        now = time.time()
        claims = {{"sub": {user!r}, "iat": now, "exp": now + {life_s}}}
        parts = [json.dumps(part).encode() for part in ({{"alg": "none"}}, claims)]
        parts = [base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts]
        return ".".join([*parts, ""]), int((now + {life_s}) * 1000)
"""


class Cluster:
    """A broker with two more listeners: SSL, where the client's certificate is its name, and OAUTHBEARER."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder)
        self.authority.issue(folder, ("localhost",))
        (folder / "store.pem").write_text((folder / "server.key").read_text() + (folder / "server.pem").read_text())
        for name in ("bridge-client", "stranger"):
            self.authority.issue(folder, (name,), file=name)
        self.ssl, self.oauth = free_ports(2)
        self.kafka = Kafka(folder / "kafka")
        ports, host = self.kafka.ports, self.kafka.host
        listeners = f"INTERNAL://{host}:{ports.internal},BROKER://{host}:{ports.broker},PROXY://{host}:{ports.proxy}"
        listeners += f",TLS://localhost:{self.ssl},OAUTH://{host}:{self.oauth}"
        protocols = "CONTROLLER:PLAINTEXT,INTERNAL:SASL_PLAINTEXT,BROKER:SASL_PLAINTEXT,PROXY:SASL_PLAINTEXT"
        self.kafka._properties = {
            "listeners": f"CONTROLLER://{host}:{ports.controller},{listeners}",
            "advertised.listeners": listeners,
            "listener.security.protocol.map": f"{protocols},TLS:SSL,OAUTH:SASL_PLAINTEXT",
            "super.users": "User:bridge;User:ANONYMOUS;User:CN=bridge-client;User:role",
            "listener.name.tls.ssl.keystore.type": "PEM",
            "listener.name.tls.ssl.keystore.location": str(folder / "store.pem"),
            "listener.name.tls.ssl.truststore.type": "PEM",
            "listener.name.tls.ssl.truststore.location": str(self.authority.ca),
            "listener.name.tls.ssl.client.auth": "required",
            "listener.name.oauth.sasl.enabled.mechanisms": "OAUTHBEARER",
            "listener.name.oauth.oauthbearer.sasl.jaas.config": f'{OAUTH} unsecuredLoginStringClaim_sub="broker";',
        }

    def environ(self, client: str, *, texts: bool) -> dict[str, str]:
        """A bridge that shows a certificate."""
        files = {"CA": self.authority.ca, "CERT": self.folder / f"{client}.pem", "KEY": self.folder / f"{client}.key"}
        values = {name: path.read_text() if texts else str(path) for name, path in files.items()}
        return {
            "KAFKA_BOOTSTRAP_SERVERS": f"localhost:{self.ssl}", "KWB_KAFKA_SECURITY_PROTOCOL": "SSL",
            **{f"KWB_KAFKA_SSL_{name}": value for name, value in values.items()},
        }  # fmt: skip

    def settings(self, client: str) -> KafkaSettings:
        found = self.environ(client, texts=True)
        return KafkaSettings(
            bootstrap_servers=found["KAFKA_BOOTSTRAP_SERVERS"], security_protocol="SSL",
            ssl_ca=found["KWB_KAFKA_SSL_CA"], ssl_cert=found["KWB_KAFKA_SSL_CERT"],
            ssl_key=SecretStr(found["KWB_KAFKA_SSL_KEY"]),
        )  # fmt: skip


def signer_in(folder: Path, user: str, life_s: float) -> Path:
    """A folder for PYTHONPATH; its file `made` has a line for each token."""
    folder.mkdir()
    text = SIGNER.format(made=str(folder / "made"), user=user, life_s=life_s)
    (folder / "aws_msk_iam_sasl_signer.py").write_text(text)
    (folder / "made").touch()
    return folder


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    found = Cluster(tmp_path_factory.mktemp("logins"))
    try:
        found.kafka.start()
        yield found
    finally:
        found.kafka.destroy()


def served(cluster: Cluster, folder: Path, database: str, topic: str, **environ: str) -> None:
    """A webhook reaches Kafka and comes back into the archive, so every client of both roles has logged in."""
    migrate_database(database)
    config = f"sources: {{s: {{auth: none, topic: {topic}, ack: kafka}}}}"
    server = Serve({"DATABASE_URL": database, "KWB_CONFIG": config, **environ}, folder, "--role", "all")
    body = uuid.uuid4().hex.encode()
    try:
        server.wait_ready()
        eventually(lambda: server.ask(request("/s", body)).status == 200, "acknowledged")
        eventually(lambda: server.total("kwb_archive_events_total") >= 1, "archived")
    except BaseException:
        print(server.log.read_text()[-4000:])
        raise
    finally:
        assert server.stop() == 0
    assert body in {message.value for message in consume(cluster.kafka, topic, 1)}
    assert "BEGIN" not in server.log.read_text()


@pytest.mark.parametrize("texts", [False, True], ids=["files", "texts"])
def test_rule_6_the_bridge_shows_its_certificate(
    cluster: Cluster, folder: Path, database: str, topic: str, texts: bool
) -> None:
    served(cluster, folder, database, topic, **cluster.environ("bridge-client", texts=texts))


def test_the_second_client_shows_it_too(cluster: Cluster) -> None:
    users = Users(cluster.settings("bridge-client"))
    users.put("of-a-certificate", "canary-password")
    assert "of-a-certificate" in users.names()


def test_a_certificate_without_rights_is_somebody_else(cluster: Cluster, topic: str) -> None:
    with pytest.raises(KafkaError, match="authorization failed"):
        Admin(cluster.settings("stranger")).ensure_topic(topic, 1024)


def test_without_a_certificate_nobody_comes_in(cluster: Cluster) -> None:
    settings = KafkaSettings(
        bootstrap_servers=f"localhost:{cluster.ssl}", security_protocol="SSL", ssl_ca=str(cluster.authority.ca)
    )
    with pytest.raises(KafkaError):
        Admin(settings, timeout_s=5).list_topics()


def iam(cluster: Cluster, signer: Path) -> dict[str, str]:
    return {
        "KAFKA_BOOTSTRAP_SERVERS": cluster.kafka.bootstrap.rpartition(":")[0] + f":{cluster.oauth}",
        "KWB_KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT", "KWB_KAFKA_SASL_MECHANISM": "AWS_MSK_IAM",
        "AWS_REGION": "eu-north-1", "PYTHONPATH": str(signer),
    }  # fmt: skip


def test_rule_6_the_bridge_logs_in_by_tokens_and_fetches_new_ones(
    cluster: Cluster, folder: Path, database: str, topic: str
) -> None:
    signer = signer_in(folder / "signer", "role", 10)
    served(cluster, folder, database, topic, **iam(cluster, signer))
    made = (signer / "made").read_text().split()
    assert made
    assert set(made) == {"eu-north-1"}


def test_without_credentials_the_reason_is_told_and_asked_for_again(
    cluster: Cluster, folder: Path, database: str, topic: str
) -> None:
    """Nothing ends for it, and with the role comes the login, without a restart."""
    signer = signer_in(folder / "signer", "role", 10)
    (signer / "sitecustomize.py").write_text("import kafka_webhook_bridge.kafka.tokens as t\nt.AGAIN_S = 2.0\n")
    (signer / "made-not").touch()
    migrate_database(database)
    config = f"sources: {{s: {{auth: none, topic: {topic}, ack: kafka}}}}"
    environ = {"DATABASE_URL": database, "KWB_CONFIG": config, **iam(cluster, signer)}
    server = Serve(environ, folder, "--role", "ingest")
    try:
        eventually(lambda: server.said("no token for Kafka"), "told")
        assert "Unable to locate credentials" in server.said("no token for Kafka")[0]["error"]
        (signer / "made-not").unlink()
        eventually(lambda: server.ask(request("/s", b"x")).status == 200, "served")
    except BaseException:
        print(server.log.read_text()[-4000:])
        raise
    finally:
        assert server.stop() == 0


DROPPED = """\
import gc, sys, time
from kafka_webhook_bridge.kafka.admin import Admin
from kafka_webhook_bridge.settings import KafkaSettings
import aws_msk_iam_sasl_signer as signer
sign = signer.MSKAuthTokenProvider.generate_auth_token
made = []
def collecting(region):
    gc.collect()
    made.append(region)
    return sign(region)
signer.MSKAuthTokenProvider.generate_auth_token = staticmethod(collecting)
gc.disable()
settings = KafkaSettings(bootstrap_servers="127.0.0.1:1", security_protocol="SASL_PLAINTEXT",
                         sasl_mechanism="AWS_MSK_IAM", aws_region="eu-north-1")
admins = [Admin(settings) for _ in range(5)]
kept = admins.pop()
admins.clear()
enough = len(made) + 2
while len(made) < enough:
    time.sleep(0.05)
"""


def test_a_client_that_was_dropped_does_not_end_the_process_from_its_own_thread(cluster: Cluster, folder: Path) -> None:
    """Garbage is collected where it happens, so in the thread that fetches tokens as well."""
    signer = signer_in(folder / "signer", "role", 2)
    done = subprocess.run(
        [sys.executable, "-c", DROPPED], env={"PYTHONPATH": str(signer)}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_token_is_fetched_again_before_it_is_over(
    cluster: Cluster, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signer = signer_in(folder / "signer", "role", 5)
    monkeypatch.syspath_prepend(str(signer))
    monkeypatch.delitem(sys.modules, "aws_msk_iam_sasl_signer", raising=False)
    environ = iam(cluster, signer)
    settings = KafkaSettings(
        bootstrap_servers=environ["KAFKA_BOOTSTRAP_SERVERS"], security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="AWS_MSK_IAM", aws_region="eu-north-1",
    )  # fmt: skip
    admin = Admin(settings)
    admin.list_topics()
    eventually(lambda: (signer / "made").read_text().count("\n") >= 3, "two more tokens, though nobody asks the client")
    admin.list_topics()
    users = Users(settings)  # which asks by the second client
    users.put("of-a-token", "canary-password")
    assert "of-a-token" in users.names()
    monkeypatch.delitem(sys.modules, "aws_msk_iam_sasl_signer", raising=False)
