"""`./aws/update.sh` as somebody types it: changes, refusals, what AWS takes back and what a person does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from deployment.account import Account
from deployment.changes import Change, guard, read
from deployment.contents import VERSIONS_KEPT, Secret
from deployment.errors import Refused
from deployment.output import Output
from scene import DOMAIN, KAFKA_PASSWORD, SOURCE_SECRET, WEBHOOK_PASSWORD, Scene, scene

from bridge import eventually

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


def test_what_the_commands_decide_is_not_taken_from_the_shell(dev: Scene) -> None:
    dev.update()
    before = dev.parameters()
    own = {"DOMAIN_NAME": "evil.test", "BRIDGE_IMAGE": "evil:1", "KAFKA_IMAGE": "evil:2", "CONFIG_VERSION": "0" * 32}
    assert "from the environment" not in dev.update(**own)
    assert dev.parameters() == before


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


def test_rule_2_what_was_checked_is_what_is_deployed(dev: Scene) -> None:
    def sources() -> dict[str, str]:
        return json.loads(dev.secret("SourcesSecretArn", dev.parameters()["SourcesVersion"]))

    # An attempt that fails has put a secret there: the next one has it, too.
    dev.config(erp={"username": "erp", "password": "${ERP_PASSWORD}"})
    tag = dev.parameters()["BridgeImage"].rpartition(":")[2]
    dev.emulator.faults(IngestService__update="no capacity")
    dev.update(tag, expect=1, ERP_PASSWORD=SOURCE_SECRET)
    assert "ERP_PASSWORD" not in sources()
    dev.emulator.faults()
    dev.update(tag)
    assert sources()["ERP_PASSWORD"] == SOURCE_SECRET
    # A way back leaves the newer secret behind. What runs is what the next one goes on with, and lacks nothing.
    erp = {"username": "erp", "password": "${ERP_PASSWORD}"}
    dev.config(erp=erp, pay={"username": "pay", "password": "${PAY_PASSWORD}"})
    dev.update(tag, PAY_PASSWORD="pay-first-password", ERP_PASSWORD="erp-second-password")
    dev.update("--rollback")
    assert sources() == {"ERP_PASSWORD": SOURCE_SECRET}
    dev.update(tag)
    assert sources() == {"ERP_PASSWORD": SOURCE_SECRET, "PAY_PASSWORD": "pay-first-password"}
    dev.checkout.restore()


def test_a_release_whose_image_or_configuration_was_removed_is_refused(dev: Scene) -> None:
    dev.checkout.commit("to be removed")
    dev.update()
    gone = dev.parameters()
    dev.config(erp={"topic": "erp.after"})
    dev.checkout.commit("after that")
    dev.update()
    after = dev.parameters()
    ecr, repository = dev.emulator.client("ecr"), "kafka-webhook-bridge"
    tag = gone["BridgeImage"].rpartition(":")[2]
    (image,) = ecr.batch_get_image(repositoryName=repository, imageIds=[{"imageTag": tag}])["images"]
    ecr.batch_delete_image(repositoryName=repository, imageIds=[{"imageTag": tag}])
    assert f"needs {repository}:{tag}, which is not there any more" in dev.update("--rollback", expect=2)
    ecr.put_image(repositoryName=repository, imageTag=tag, imageManifest=image["imageManifest"])
    # The emulator forgets no version, so the release names another one.
    s3, bucket = dev.emulator.client("s3"), dev.outputs("kafka-webhook-bridge-registry")["ArtifactsBucket"]
    release, version = dev.releases()[-2], "0" * 32
    text = json.dumps({**release, "parameters": {**gone, "ConfigVersion": version}})
    s3.put_object(Bucket=bucket, Key=f"releases/{STACK}/{release['name']}/release.json", Body=text)
    said = dev.update("--rollback", expect=2)
    assert f"needs ConfigVersion {version}, which Secrets Manager has removed" in said
    assert dev.parameters() == after
    dev.checkout.restore()


def test_labels_of_old_versions_make_room(dev: Scene) -> None:
    """A secret has at most twenty labels: AWS refuses the next one."""
    client = dev.emulator.client("secretsmanager")
    name = client.create_secret(Name="labels", SecretString="0")["Name"]
    secret = Secret(Account("0", "eu-central-1", "", None, {"secretsmanager": client}), name)
    versions = [secret.put(str(number), "") for number in range(1, 25)]
    labels = [
        (label, row["VersionId"]) for row in client.list_secret_version_ids(SecretId=name)["Versions"]
        for label in row["VersionStages"] if label.startswith("kwb-")
    ]  # fmt: skip
    assert len(labels) == VERSIONS_KEPT - 1
    assert [version for _, version in sorted(labels)] == versions[-len(labels) :]
    assert secret.put("24", versions[-1]) == secret.put("24", "") == versions[-1]


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
    unknown = {"Action": "Dynamic", "LogicalResourceId": "X", "ResourceType": kind}
    with pytest.raises(Refused, match=r"X .* may be replaced or removed, AWS cannot say yet"):
        guard([read(unknown)], (), Output())
    guard([read(unknown)], ("X",), Output())
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
    assert requests_of(dev)["RollbackConfiguration.RollbackTriggers"] == ""  # none, in the place of those before
    assert f"warning: {ALARM} is red" in said
    cloudwatch.set_alarm_state(AlarmName=ALARM, StateValue="OK", StateReason="cured")
    dev.checkout.restore()


def test_rule_16_an_interrupted_update_is_a_release_all_the_same(dev: Scene) -> None:
    dev.checkout.commit("before")
    dev.update()
    before = dev.parameters()
    tag = dev.checkout.commit("interrupted")
    dev.emulator.faults(IngestService__update={"hold": True})
    process = dev.start("update", DOMAIN, SKIP_SMOKE="1")
    said = dev.interrupt(process, lambda: dev.emulator.status(STACK) == "UPDATE_IN_PROGRESS")
    assert "it follows what is under way" in said
    assert [row["parameters"]["BridgeImage"].rpartition(":")[2] for row in dev.releases(state="started")] == [tag]
    dev.emulator.faults()
    dev.update("--rollback")  # waits, and knows what it goes back from
    assert dev.parameters()["BridgeImage"] == before["BridgeImage"]
    assert dev.releases(state="started") == []
    assert tag in dev.releases()[-2]["parameters"]["BridgeImage"]

    # The way back is interrupted: the same command again finishes it, and does not go further back.
    dev.checkout.commit("once more")
    dev.update()
    dev.emulator.faults(IngestService__update={"hold": True})
    process = dev.start("update", DOMAIN, "--rollback", SKIP_SMOKE="1")
    dev.interrupt(process, lambda: dev.emulator.status(STACK) == "UPDATE_IN_PROGRESS")
    dev.emulator.faults()
    said = dev.update("--rollback")
    assert "was interrupted: it is finished" in said
    assert tag in dev.parameters()["BridgeImage"]
    assert dev.releases()[-1]["of"] == dev.releases()[-4]["name"]

    # Taken back by AWS while nobody looked, and never carried out at all: neither is a release.
    dev.checkout.commit("fails while nobody looks")
    count = len(dev.releases())
    dev.emulator.faults(IngestService__update={"hold": True})
    process = dev.start("update", DOMAIN, SKIP_SMOKE="1")
    dev.interrupt(process, lambda: dev.emulator.status(STACK) == "UPDATE_IN_PROGRESS")
    dev.emulator.client("cloudformation").cancel_update_stack(StackName=STACK)
    dev.emulator.faults()
    eventually(lambda: dev.emulator.status(STACK) == "UPDATE_ROLLBACK_COMPLETE", "it is taken back")
    dev.update("--dry-run")
    assert len(dev.releases()) == count
    assert dev.releases(state="started") == []
    dev.checkout.restore()


def test_rule_16_clocks_that_differ_change_no_order_and_what_runs_is_no_way_back(dev: Scene) -> None:
    dev.checkout.commit("by a colleague")
    dev.update()
    # Whose clock is a day ahead.
    s3, bucket = dev.emulator.client("s3"), dev.outputs("kafka-webhook-bridge-registry")["ArtifactsBucket"]
    good = dev.releases()[-1]
    ahead = f"{datetime.now(UTC) + timedelta(days=1):%Y%m%dT%H%M%SZ}"
    for file in ("template.yaml", "release.json"):
        place = f"releases/{STACK}/{good['name']}/{file}"
        text = s3.get_object(Bucket=bucket, Key=place)["Body"].read().decode()
        s3.put_object(Bucket=bucket, Key=place.replace(good["name"], ahead), Body=text.replace(good["name"], ahead))
        s3.delete_object(Bucket=bucket, Key=place)
    dev.checkout.commit("bad")
    dev.update()
    bad = dev.releases()[-1]
    assert bad["name"] > ahead
    dev.update("--rollback")
    assert dev.parameters()["BridgeImage"] == good["parameters"]["BridgeImage"]
    for words in (["--rollback", ahead], ["--rollback", ahead, "--dry-run"]):
        said = dev.update(*words, expect=2)
        assert f"The release {ahead} is what runs: nothing was changed" in said
        assert bad["name"] in said
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
