"""`./aws/update.sh` as somebody types it: changes, refusals, what AWS takes back and what a person does."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from deployment.changes import Change, guard, read
from deployment.errors import Refused
from deployment.output import Output
from scene import DOMAIN, KAFKA_PASSWORD, WEBHOOK_PASSWORD, Scene, scene

STACK = "dev-webhooks"
ALARM = "dev-webhooks-ingest-5xx"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with scene(tmp_path_factory.mktemp("update")) as found:
        found.zone()
        found.deploy(KAFKA_PASSWORD=KAFKA_PASSWORD, WEBHOOK_PASSWORD=WEBHOOK_PASSWORD)
        yield found


@pytest.fixture
def dev(shared: Scene) -> Scene:
    """The stage dev, complete; each test leaves it so."""
    shared.emulator.faults()
    assert shared.emulator.status(STACK).endswith("_COMPLETE")
    return shared


def requests_of(dev: Scene) -> dict[str, str]:
    """The newest CreateChangeSet."""
    return dev.emulator.requests()[-1]


def sent(request: dict[str, str]) -> dict[str, str]:
    """Its parameters; `previous` where the deployed value is kept."""
    found = {}
    for name, key in request.items():
        if name.startswith("Parameters.member.") and name.endswith(".ParameterKey"):
            number = name.split(".")[2]
            found[key] = request.get(f"Parameters.member.{number}.ParameterValue", "previous")
    return found


# ── which stage ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_rule_14_the_stage_is_found_by_its_domain_and_another_domain_is_refused(dev: Scene) -> None:
    said = dev.update("--dry-run")
    assert f"account 000000000000  region eu-central-1  stage dev  domain {DOMAIN}" in said
    for command in ("update", "run", "destroy"):
        words = ["--", "kwb", "doctor"] if command == "run" else []
        told = dev.type(command, "other.test", *words, expect=2)
        assert "No stage in account 000000000000, eu-central-1 has the domain other.test" in told
        told = dev.type(command, "other.test", *words, expect=2, ENVIRONMENT="dev")
        assert f"is {DOMAIN}, not other.test" in told
        assert dev.emulator.status(STACK).endswith("_COMPLETE")
    assert "There is no stack staging-webhooks" in dev.update(expect=2, ENVIRONMENT="staging")


# ── changes ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_rule_4_another_bridge_leaves_the_broker_alone(dev: Scene) -> None:
    tag = dev.checkout.commit("another bridge")
    said = dev.update()
    assert dev.parameters()["BridgeImage"].endswith(f":{tag}")
    changed = dev.changed(said)
    assert {"IngestTask", "IngestService", "WorkerTask", "WorkerService", "AdminTask"} <= changed
    assert not changed & {"KafkaTask", "KafkaService", "FileSystem", "Database", "Alb", "Nlb"}
    guard = dev.parameters()["GuardImage"]
    assert guard.rpartition(":")[0] == dev.parameters()["BridgeImage"].rpartition(":")[0]
    assert guard != dev.parameters()["BridgeImage"], "the guard runs in the broker's task, and stays with it"
    dev.checkout.edit("aws/kafka/Dockerfile", "FROM", "# another broker\nFROM")
    said = dev.update()
    assert {"KafkaTask", "KafkaService"} <= dev.changed(said)
    assert dev.parameters()["GuardImage"] == dev.parameters()["BridgeImage"]
    builds = dev.checkout.builds()
    assert builds[-1].startswith(dev.parameters()["KafkaImage"].rpartition(":")[0])
    tag = dev.checkout.commit("a better guard")
    assert not {"KafkaTask"} & dev.changed(dev.update())
    assert {"KafkaTask"} <= dev.changed(dev.update(UPDATE_GUARD="1"))
    assert dev.parameters()["GuardImage"].endswith(f":{tag}")
    dev.checkout.restore()


def test_rules_15_and_16_a_template_with_one_parameter_fewer(dev: Scene) -> None:
    dev.deploy(ALARM_EMAIL="who@example.test")
    assert dev.parameters()["AlarmEmail"] == "who@example.test"
    path = dev.checkout.root / "aws/templates/bridge.yaml"
    text = path.read_text()
    start = text.index("  AlarmEmail:\n")
    end = text.index("\nRules:")
    text = text[:start] + text[end:]
    text = text.replace("IngestMaxTasks, AlarmEmail]", "IngestMaxTasks]")
    text = text.replace("!Ref AlarmEmail", "''")
    path.write_text(text)
    said = dev.update(INGEST_MIN_TASKS="3")
    assert "IngestScaling" in dev.changed(said)
    asked = sent(requests_of(dev))
    assert "AlarmEmail" not in asked
    assert asked["IngestMinTasks"] == "3"
    assert asked["KafkaPassword"] == "previous"
    assert asked["IngestMaxTasks"] == "previous"
    assert json.loads(dev.secret("WebhookSecretArn"))["password"] == WEBHOOK_PASSWORD

    # Rule 16: back to a release whose template has that parameter.
    said = dev.update("--rollback")
    assert dev.parameters()["AlarmEmail"] == "who@example.test"
    assert dev.parameters()["IngestMinTasks"] == "2"
    assert "KafkaPassword" in dev.parameters()
    dev.checkout.restore()


def test_rule_2_a_change_of_the_configuration_is_a_deployment_and_goes_back(dev: Scene) -> None:
    dev.config(erp={"topic": "erp.orders"})
    dev.checkout.commit("a source")
    dev.update()
    first = dev.parameters()
    assert "erp.orders" in dev.secret("ConfigSecretArn", first["ConfigVersion"])
    dev.config(erp={"topic": "erp.invoices"})
    dev.checkout.commit("another topic")
    said = dev.update()
    second = dev.parameters()
    assert second["ConfigVersion"] != first["ConfigVersion"]
    assert second["SourcesVersion"] == first["SourcesVersion"]
    assert "IngestTask" in dev.changed(said)
    dev.config(erp={"topic": "erp.third"})
    dev.checkout.commit("a third topic")
    dev.update()

    releases = dev.releases()
    dev.update("--rollback")
    assert dev.parameters()["ConfigVersion"] == second["ConfigVersion"]
    assert dev.parameters()["BridgeImage"] == second["BridgeImage"]
    # Back again is back further, not forth.
    dev.update("--rollback")
    assert dev.parameters()["ConfigVersion"] == first["ConfigVersion"]
    assert [row["of"] for row in dev.releases()[-2:]] == [releases[-2]["name"], releases[-3]["name"]]
    dev.update("--rollback", releases[-1]["name"])
    assert "erp.third" in dev.secret("ConfigSecretArn", dev.parameters()["ConfigVersion"])
    assert "There is no release 20200101T000000Z" in dev.update("--rollback", "20200101T000000Z", expect=2)
    assert "is no release" in dev.update("--rollback", "yesterday", expect=2)
    assert "leave the image's tag out" in dev.type("update", DOMAIN, "tag", "--rollback", expect=2)
    dev.checkout.restore()


def test_the_brokers_folder_does_not_go_back(dev: Scene) -> None:
    dev.checkout.commit("with its data")
    dev.update(INGEST_MIN_TASKS="2")
    dev.checkout.commit("with an empty broker")
    dev.update(KAFKA_DATA_PATH="/kafka/2", INGEST_MIN_TASKS="3")
    dev.update("--rollback")
    assert dev.parameters()["IngestMinTasks"] == "2"
    assert dev.parameters()["KafkaDataPath"] == "/kafka/2"
    dev.checkout.restore()


def test_an_attempt_that_failed_makes_no_second_version(dev: Scene) -> None:
    dev.update()
    before = dev.parameters()
    dev.config(erp={"topic": "erp.attempt"})
    dev.checkout.commit("an attempt")
    dev.emulator.faults(IngestService__update="no capacity")
    dev.update(expect=1)
    assert dev.parameters()["ConfigVersion"] == before["ConfigVersion"]
    client = dev.emulator.client("secretsmanager")
    arn = dev.outputs()["ConfigSecretArn"]
    versions = len(client.list_secret_version_ids(SecretId=arn, IncludeDeprecated=True)["Versions"])
    dev.emulator.faults()
    dev.update()
    assert "erp.attempt" in dev.secret("ConfigSecretArn", dev.parameters()["ConfigVersion"])
    assert len(client.list_secret_version_ids(SecretId=arn, IncludeDeprecated=True)["Versions"]) == versions
    dev.checkout.restore()


def test_what_only_deploy_may_change_is_refused(dev: Scene) -> None:
    for name, value in (
        ("NAT_GATEWAYS", "per-az"),
        ("CLASS_B", "41"),
        ("INTERFACE_ENDPOINTS", "true"),
        ("VPC_ID", "v"),
    ):
        assert f"{name} is the network's" in dev.update(expect=2, **{name: value})
    said = dev.update(expect=2, DATABASE_SNAPSHOT_ID="rds:of-yesterday")
    assert "DatabaseSnapshotId was empty when the database was made, and stays that" in said


@pytest.mark.parametrize(
    "given",
    [
        {"KAFKA_PASSWORD": KAFKA_PASSWORD, "WEBHOOK_PASSWORD": WEBHOOK_PASSWORD}, {"WEBHOOK_USERNAME": "sender"},
        {"KAFKA_USERNAME": "carrier"}, {"CONSOLE_USERNAME": "boss"},
    ],
    ids=lambda given: "+".join(given),
)  # fmt: skip
def test_names_and_passwords_of_the_shell_do_not_rewrite_those_of_a_stage(dev: Scene, given: dict[str, str]) -> None:
    before, requests = dev.secret("WebhookSecretArn"), len(dev.emulator.requests())
    for said in (dev.update(expect=2, **given), dev.deploy(expect=2, **given)):
        assert f"The environment has {', '.join(given)}: these are for the first deployment" in said
        assert "docs/howto/aws-maintain.md#new-passwords" in said
    assert dev.secret("WebhookSecretArn") == before
    assert len(dev.emulator.requests()) == requests


def test_servers_of_a_cluster_are_refused_where_the_stage_has_its_own_broker(dev: Scene) -> None:
    assert "KafkaMode single runs a broker of its own" in dev.update(
        expect=2, KAFKA_BOOTSTRAP_SERVERS="localhost:9092", WEBHOOK_USERNAME="webhook"
    )


def test_a_certificate_is_looked_at_as_deploy_does_and_on_the_way_back_too(dev: Scene) -> None:
    acm = dev.emulator.client("acm")
    few = acm.request_certificate(DomainName=f"webhooks.{DOMAIN}")["CertificateArn"]
    first, second = (acm.request_certificate(DomainName=f"*.{DOMAIN}")["CertificateArn"] for _ in range(2))
    assert f"is not for kafka.{DOMAIN}, console.{DOMAIN}" in dev.update(expect=2, CERTIFICATE_ARN=few)
    dev.checkout.commit("with a certificate")
    dev.update(CERTIFICATE_ARN=first)
    dev.checkout.commit("with another one")
    dev.update(CERTIFICATE_ARN=second)
    acm.delete_certificate(CertificateArn=first)
    assert f"There is no certificate {first}" in dev.update("--rollback", expect=2)
    assert dev.parameters()["CertificateArn"] == second
    dev.checkout.restore()


# ── what may not be replaced ──────────────────────────────────────────────────────────────────────────────────────


def test_rule_17_a_replacement_is_refused_until_it_is_named(dev: Scene) -> None:
    before = dev.outputs()["FileSystemId"]
    dev.checkout.edit("aws/templates/bridge.yaml", "PerformanceMode: generalPurpose", "PerformanceMode: maxIO")
    said = dev.update(expect=2, ALLOW_REPLACE="Database")
    assert "FileSystem (AWS::EFS::FileSystem) would be replaced because of PerformanceMode" in said
    assert "ALLOW_REPLACE=FileSystem" in said
    assert dev.outputs()["FileSystemId"] == before
    left = dev.emulator.client("cloudformation").list_change_sets(StackName=STACK)["Summaries"]
    assert "AVAILABLE" not in [row["ExecutionStatus"] for row in left]
    dev.update(ALLOW_REPLACE="Database,FileSystem")
    assert dev.outputs()["FileSystemId"] != before
    dev.checkout.restore()
    dev.update(ALLOW_REPLACE="FileSystem")


def resource(kind: str, replacement: str, **detail: object) -> dict[str, object]:
    """A ResourceChange as AWS documents it."""
    target = {
        "Attribute": "Properties",
        "Name": "StorageEncrypted",
        "RequiresRecreation": detail.pop("needs", "Always"),
    }
    return {
        "Action": "Modify", "LogicalResourceId": "X", "ResourceType": kind, "Replacement": replacement,
        "Details": [{"Target": target, "Evaluation": "Static", "ChangeSource": "DirectModification", **detail}],
    }  # fmt: skip


@pytest.mark.parametrize(
    "kind", ["AWS::RDS::DBInstance", "AWS::EFS::FileSystem", "AWS::ElasticLoadBalancingV2::LoadBalancer"]
)
def test_rules_6_and_17_what_counts_as_a_loss(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    for lost in (
        resource(kind, "True"), resource(kind, "Conditional"), {**resource(kind, "True"), "Action": "Remove"},
        {"Action": "Remove", "LogicalResourceId": "X", "ResourceType": kind},
    ):  # fmt: skip
        with pytest.raises(Refused, match="X"):
            guard([read(lost)], (), Output())
        guard([read(lost)], ("X",), Output())
    for kept in (
        resource(kind, "Conditional", Evaluation="Dynamic"), resource(kind, "Conditional", needs="Conditionally")
    ):  # fmt: skip
        capsys.readouterr()
        guard([read(kept)], (), Output())
        assert "X may be replaced, because of StorageEncrypted" in capsys.readouterr().err
    for harmless in (resource(kind, "False", needs="Never"), resource("AWS::ECS::Service", "True")):
        capsys.readouterr()
        guard([read(harmless)], (), Output())
        assert capsys.readouterr().err == ""
    assert read({"Action": "Add", "LogicalResourceId": "X", "ResourceType": kind}) == Change(
        "Add", "X", kind, False, ()
    )


# ── what AWS takes back ───────────────────────────────────────────────────────────────────────────────────────────


def test_an_update_that_fails_is_taken_back_and_what_ran_runs_on(dev: Scene) -> None:
    before, releases = dev.parameters(), len(dev.releases())
    dev.checkout.commit("does not start")
    dev.emulator.faults(WorkerService__update="The tasks do not stay up")
    said = dev.update(expect=1)
    assert "WorkerService (AWS::ECS::Service): UPDATE_FAILED  The tasks do not stay up" in said
    assert "what ran before runs on" in said
    assert dev.emulator.status(STACK) == "UPDATE_ROLLBACK_COMPLETE"
    assert dev.parameters() == before
    assert len(dev.releases()) == releases
    dev.emulator.faults()
    dev.update()  # from UPDATE_ROLLBACK_COMPLETE
    assert dev.emulator.status(STACK) == "UPDATE_COMPLETE"
    dev.checkout.restore()


def test_a_rollback_that_fails_is_continued_by_the_next_run_and_told(dev: Scene) -> None:
    dev.update()
    before = dev.parameters()
    dev.checkout.commit("breaks twice")
    # WorkerService is updated, IngestService then fails, and the way back of WorkerService fails, too.
    dev.emulator.faults(
        IngestService__update="The tasks do not stay up", WorkerService__update={"message": "throttled", "after": 1}
    )
    said = dev.update(expect=1)
    assert dev.emulator.status(STACK) == "UPDATE_ROLLBACK_FAILED", said
    assert "it continues the rollback" in said
    said = dev.update("--dry-run", expect=2)
    assert dev.emulator.status(STACK) == "UPDATE_ROLLBACK_FAILED"
    said = dev.update(expect=1)  # the cause is still there
    assert "failed again: UPDATE_ROLLBACK_FAILED" in said
    assert "throttled" in said
    dev.emulator.faults()
    said = dev.update(expect=1)
    assert "rolled back to what ran before. Nothing else was changed" in said
    assert dev.emulator.status(STACK) == "UPDATE_ROLLBACK_COMPLETE"
    assert dev.parameters() == before
    dev.update()
    assert dev.emulator.status(STACK) == "UPDATE_COMPLETE"
    dev.checkout.restore()


def test_rule_18_the_5xx_alarm_takes_an_update_back_unless_it_is_red_before(dev: Scene) -> None:
    dev.checkout.commit("watched")
    dev.update()
    request = requests_of(dev)
    assert request["RollbackConfiguration.RollbackTriggers.member.1.Arn"].endswith(f":alarm:{ALARM}")
    assert request["RollbackConfiguration.RollbackTriggers.member.1.Type"] == "AWS::CloudWatch::Alarm"
    assert int(request["RollbackConfiguration.MonitoringTimeInMinutes"]) > 0
    assert not any(".member.2." in name for name in request if name.startswith("RollbackConfiguration"))
    cloudwatch = dev.emulator.client("cloudwatch")
    cloudwatch.set_alarm_state(AlarmName=ALARM, StateValue="ALARM", StateReason="senders get 5xx")
    dev.checkout.commit("the cure")
    said = dev.update(expect=2)
    assert f"{ALARM} is red before anything was changed" in said
    assert "--no-alarm-rollback" in said
    said = dev.update("--no-alarm-rollback")
    assert not any("RollbackTriggers" in name for name in requests_of(dev))
    assert f"warning: {ALARM} is red" in said
    cloudwatch.set_alarm_state(AlarmName=ALARM, StateValue="OK", StateReason="cured")
    dev.checkout.restore()


# ── deployed, and not what it should be ───────────────────────────────────────────────────────────────────────────


def test_what_runs_is_compared_with_what_was_asked_for(dev: Scene) -> None:
    dev.checkout.commit("one")
    dev.update()
    good = dev.releases()[-1]["name"]
    dev.checkout.commit("two")
    dev.emulator.faults(image="registry.example/kafka-webhook-bridge:old")
    said = dev.update(expect=3)
    assert "runs registry.example/kafka-webhook-bridge:old, and" in said
    assert dev.releases()[-1]["verified"] is False
    dev.emulator.faults(rollout="FAILED")
    assert "the deployment failed: tasks failed to start" in dev.update(expect=3)
    dev.emulator.faults(targets="unhealthy")
    assert "dev-webhooks-ingest-8080: unhealthy" in dev.update(expect=3, VERIFY_MINUTES="0.01")
    dev.emulator.faults()
    # A release that was found wrong is not gone back to.
    dev.checkout.commit("three")
    dev.update()
    dev.update("--rollback")
    assert dev.releases()[-1]["of"] == good
    dev.checkout.restore()
