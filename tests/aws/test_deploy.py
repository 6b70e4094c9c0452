"""`./aws/deploy.sh` as somebody types it, against the emulator: every status it may find, and every way it says no."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from scene import DOMAIN, KAFKA_PASSWORD, SOURCE_SECRET, WEBHOOK_PASSWORD, Scene, scene

from bridge import eventually

REGISTRY = "kafka-webhook-bridge-registry"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with scene(tmp_path_factory.mktemp("deploy")) as found:
        yield found


@pytest.fixture
def account(shared: Scene) -> Scene:
    """An account in which nothing is, and the checkout as it was."""
    shared.emulator.reset()
    shared.checkout.restore()
    shared.said = ""
    return shared


@pytest.fixture
def deployed(shared: Scene) -> Scene:
    """The stage dev, deployed; what a test before has left is taken as it is, but for its checkout."""
    shared.checkout.restore()
    if shared.emulator.status("dev-webhooks") != "UPDATE_COMPLETE":
        shared.emulator.reset()
        shared.zone()
        shared.deploy()
    return shared


# ── what is wrong before AWS is asked ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "environ", "said"),
    [
        (["dev.example.test"], {}, "ENVIRONMENT is not set"),
        (["dev.example.test"], {"ENVIRONMENT": "qa"}, "ENVIRONMENT=qa is no stage"),
        (["hooks"], {"ENVIRONMENT": "dev"}, "BASE_DOMAIN is not set"),
        (["-x.example.test"], {"ENVIRONMENT": "dev"}, "error:"),
        (["ex_ample.test"], {"ENVIRONMENT": "dev"}, "is no domain"),
        (["dev.example.test", "no/tag"], {"ENVIRONMENT": "dev"}, "cannot be an image's tag"),
        ([], {"ENVIRONMENT": "dev"}, "subdomain"),
        (["a.test", "tag", "more"], {"ENVIRONMENT": "dev"}, "unrecognized arguments: more"),
        (["dev.example.test"], {"ENVIRONMENT": "dev", "VERIFY_MINUTES": "15m"}, "VERIFY_MINUTES=15m is no number"),
        (
            ["dev.example.test"],
            {"ENVIRONMENT": "dev", "CERTIFICATE_WAIT_MINUTES": "0"},
            "CERTIFICATE_WAIT_MINUTES=0 is",
        ),
        (["dev.example.test"], {"ENVIRONMENT": "dev", "VERIFY_CONNECT_TO": "a:b=c"}, "VERIFY_CONNECT_TO has a:b=c"),
        (["dev.example.test"], {"ENVIRONMENT": "dev", "VERIFY_CA": "/none.pem"}, "VERIFY_CA=/none.pem is no file"),
        (["dev.example.test"], {"ENVIRONMENT": "dev", "AWS_DEFAULT_REGION": ""}, "No region is chosen"),
        (["dev.example.test"], {"ENVIRONMENT": "dev", "AWS_ACCESS_KEY_ID": ""}, "AWS does not know who asks"),
    ],
)
def test_rule_14_wrong_use_ends_with_2_and_a_hint(
    shared: Scene, words: list[str], environ: dict[str, str], said: str
) -> None:
    told = shared.type("deploy", *words, expect=2, **environ)
    assert said in told, told
    assert "Traceback" not in told


def test_help_explains_the_environment(shared: Scene) -> None:
    told = shared.type("deploy", "--help")
    assert "--dry-run" in told
    assert "ALLOW_REPLACE" in told


# ── the first time ────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_first_deployment_makes_everything_and_the_next_changes_nothing(account: Scene) -> None:
    account.private_zone(DOMAIN)
    account.zone("test")
    nearest = account.zone()  # rule 19: the nearest public zone above the domain
    account.config(erp={"username": "erp", "password": "${ERP_PASSWORD}"})
    tag = account.checkout.commit("with a source")
    said = account.deploy(
        KAFKA_PASSWORD=KAFKA_PASSWORD, WEBHOOK_PASSWORD=WEBHOOK_PASSWORD, ERP_PASSWORD=SOURCE_SECRET,
        INGEST_MAX_TASKS="4",
    )  # fmt: skip
    emulator = account.emulator
    assert {emulator.status(name) for name in (REGISTRY, "dev-webhooks-vpc")} == {"CREATE_COMPLETE"}
    assert emulator.status("dev-webhooks") == "UPDATE_COMPLETE"  # the configuration is its second step
    assert f"region eu-central-1  stage dev  domain {DOMAIN}" in said
    assert "KafkaPassword=(given)" in said
    assert "KAFKA_PASSWORD, WEBHOOK_PASSWORD of the environment will be the stage's" in said
    assert "about $" in said
    assert "DNS pending" in said

    # Images of this commit, and what the stack was told.
    parameters = account.parameters()
    assert parameters["BridgeImage"].endswith(f"/kafka-webhook-bridge:{tag}")
    assert sorted(account.checkout.builds()) == sorted({parameters["BridgeImage"], parameters["KafkaImage"]})
    assert parameters["IngestMaxTasks"] == "4"
    assert parameters["HostedZoneId"] == nearest
    assert parameters["NatGateways"] == "single"

    # Rule 2: the configuration is in its secrets, and the stack names their versions.
    assert "kwb-smoke" in account.secret("ConfigSecretArn", parameters["ConfigVersion"])
    assert json.loads(account.secret("SourcesSecretArn", parameters["SourcesVersion"])) == {
        "ERP_PASSWORD": SOURCE_SECRET
    }
    assert json.loads(account.secret("WebhookSecretArn"))["password"] == WEBHOOK_PASSWORD

    # Rule 15: templates by address, but for the registry's, which makes the bucket. Rule 18: nothing is a trigger yet.
    made = emulator.requests()
    assert [row["StackName"] for row in made] == [REGISTRY, "dev-webhooks-vpc", "dev-webhooks", "dev-webhooks"]
    assert ["TemplateURL" in row for row in made] == [False, True, True, True]
    assert not any("RollbackTriggers.member" in name for row in made for name in row)
    assert not any("UsePreviousValue" in name for row in made[:3] for name in row)
    roles = emulator.client("iam").list_roles(PathPrefix="/aws-service-role/")["Roles"]
    assert {role["Path"].split("/")[2] for role in roles} >= {"ecs.amazonaws.com", "rds.amazonaws.com"}

    # Rule 16, and no secret in it.
    (release,) = account.releases()
    assert release["parameters"]["ConfigVersion"] == parameters["ConfigVersion"]
    assert "KafkaPassword" not in release["parameters"]
    _no_secret_anywhere(account)

    builds, requests = len(account.checkout.builds()), len(emulator.requests())
    said = account.deploy()
    assert said.count("nothing to change") == 3
    assert len(emulator.requests()) == requests + 3
    assert len(account.checkout.builds()) == builds
    assert len(account.releases()) == 1
    assert json.loads(account.secret("WebhookSecretArn"))["password"] == WEBHOOK_PASSWORD


def _no_secret_anywhere(account: Scene) -> None:
    """Neither in arguments of any program, nor in what AWS keeps and shows."""
    s3 = account.emulator.client("s3")
    bucket = account.outputs(REGISTRY)["ArtifactsBucket"]
    shown = [account.checkout.docker_log.read_text(), account.checkout.argv_log.read_text(), account.said]
    shown += [
        s3.get_object(Bucket=bucket, Key=row["Key"])["Body"].read().decode()
        for row in s3.list_objects_v2(Bucket=bucket)["Contents"]
    ]
    shown.append(json.dumps(account.emulator.stack("dev-webhooks"), default=str))
    client = account.emulator.client("cloudformation")
    for row in client.list_change_sets(StackName="dev-webhooks")["Summaries"]:
        found = client.describe_change_set(ChangeSetName=row["ChangeSetId"])
        found.pop("Parameters", None)  # AWS hides those with NoEcho there; the emulator does not
        shown.append(json.dumps(found, default=str))
    for text in shown:
        assert text
        for secret in (KAFKA_PASSWORD, WEBHOOK_PASSWORD, SOURCE_SECRET):
            assert secret not in text


def test_a_dry_run_changes_nothing(deployed: Scene) -> None:
    builds, before = deployed.checkout.builds(), deployed.parameters()
    deployed.checkout.commit("another")
    said = deployed.deploy("--dry-run", INGEST_MAX_TASKS="5")
    assert "would be built" in said
    assert {"IngestTask", "IngestScaling"} <= deployed.changed(said)
    assert deployed.parameters() == before
    assert deployed.checkout.builds() == builds
    # The configuration is judged and compared, too.
    config = deployed.secret("ConfigSecretArn")
    deployed.config(erp={"username": "erp", "password": "${TRIED_PASSWORD}"})
    assert "refers to TRIED_PASSWORD" in deployed.deploy("--dry-run", expect=2)
    tag = before["BridgeImage"].rpartition(":")[2]
    said = deployed.deploy("--dry-run", tag, TRIED_PASSWORD="only-tried")
    assert {"IngestTask", "WorkerTask"} <= deployed.changed(said)
    assert deployed.secret("ConfigSecretArn") == config
    assert "only-tried" not in deployed.secret("SourcesSecretArn") + said
    assert deployed.parameters() == before
    client = deployed.emulator.client("cloudformation")
    left = [row["ExecutionStatus"] for row in client.list_change_sets(StackName="dev-webhooks")["Summaries"]]
    assert "AVAILABLE" not in left


def test_one_stage_is_one_domain(deployed: Scene) -> None:
    said = deployed.type("deploy", "other.test", expect=2, ENVIRONMENT="dev")
    assert f"dev-webhooks in eu-central-1 is {DOMAIN}, not other.test" in said


def test_rule_4_nothing_is_built_under_the_name_of_something_else(deployed: Scene) -> None:
    said = deployed.deploy("v1.2.3", expect=2)
    assert "There is no image kafka-webhook-bridge:v1.2.3" in said
    there, own = deployed.parameters()["BridgeImage"].rpartition(":")[2], deployed.checkout.first
    (deployed.checkout.root / "new-file").write_text("x")
    deployed.deploy()
    first = deployed.parameters()["BridgeImage"].rpartition(":")[2]
    assert first.startswith(f"{own}-dirty-")
    (deployed.checkout.root / "new-file").write_text("y")
    said = deployed.deploy("--dry-run")
    assert f"{own}-dirty-" in said
    assert first not in said
    deployed.deploy(there)  # it is in the repository, whatever the checkout is by now
    assert deployed.parameters()["BridgeImage"].endswith(f":{there}")


def test_rule_4_an_image_for_other_processors_is_refused(deployed: Scene) -> None:
    said = deployed.deploy(deployed.parameters()["BridgeImage"].rpartition(":")[2], expect=2, CPU_ARCHITECTURE="ARM64")
    assert "is for amd64, and CpuArchitecture is ARM64" in said
    assert deployed.parameters()["CpuArchitecture"] == "X86_64"


def test_a_deletion_that_failed_is_left_to_a_person(deployed: Scene) -> None:
    deployed.emulator.faults(Alb__delete="deletion protection is on")
    deployed.emulator.client("cloudformation").delete_stack(StackName="dev-webhooks")
    eventually(lambda: deployed.emulator.status("dev-webhooks") == "DELETE_FAILED", "it cannot be removed")
    said = deployed.deploy(expect=2)
    assert "dev-webhooks is DELETE_FAILED; a person has to look at it" in said
    assert "Alb (AWS::ElasticLoadBalancingV2::LoadBalancer): DELETE_FAILED  deletion protection is on" in said


def test_a_dry_run_of_an_empty_account_leaves_it_empty(account: Scene) -> None:
    account.zone()
    said = account.deploy("--dry-run")
    assert "dry run: the registry's stack comes first" in said
    assert account.emulator.client("cloudformation").describe_stacks()["Stacks"] == []
    assert account.emulator.client("iam").list_roles(PathPrefix="/aws-service-role/")["Roles"] == []


# ── what it may find ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_creation_that_failed_is_removed_and_made_anew(account: Scene) -> None:
    account.zone()
    account.emulator.faults(Database__create="The database has no room")
    said = account.deploy(expect=1)
    assert "Database (AWS::RDS::DBInstance): CREATE_FAILED  The database has no room" in said
    assert account.emulator.status("dev-webhooks") == "ROLLBACK_COMPLETE"
    assert account.releases() == []
    assert "would be removed and made anew" in account.deploy("--dry-run")
    assert account.emulator.status("dev-webhooks") == "ROLLBACK_COMPLETE"
    said = account.update(expect=2, ENVIRONMENT="dev")
    assert "it was never complete" in said
    account.emulator.faults()
    said = account.deploy()
    assert "dev-webhooks is ROLLBACK_COMPLETE. What went wrong when it was made:" in said
    assert "The database has no room" in said
    assert account.emulator.status("dev-webhooks") == "UPDATE_COMPLETE"


def test_a_creation_whose_rollback_failed_is_removed_too(account: Scene) -> None:
    account.zone()
    account.emulator.faults(Database__create="no room", DatabaseSubnets__delete="in use")
    account.deploy(expect=1)
    assert account.emulator.status("dev-webhooks") == "ROLLBACK_FAILED"
    account.emulator.faults()
    account.deploy()
    assert account.emulator.status("dev-webhooks") == "UPDATE_COMPLETE"


def test_a_creation_of_prod_that_failed_is_removed_although_it_was_protected(account: Scene) -> None:
    account.zone()
    account.emulator.faults(IngestService__create="the tasks do not stay up")
    account.deploy(expect=1, ENVIRONMENT="prod")
    assert account.emulator.status("prod-webhooks") == "ROLLBACK_FAILED"
    account.emulator.faults()
    said = account.deploy(ENVIRONMENT="prod")
    assert "left: Database prod-webhooks-db" in said
    assert account.emulator.status("prod-webhooks") == "UPDATE_COMPLETE"


def test_what_a_change_set_left_for_review_is_made(account: Scene) -> None:
    account.zone()
    account.emulator.client("cloudformation").create_change_set(
        StackName="dev-webhooks-vpc", ChangeSetName="left", ChangeSetType="CREATE", Capabilities=["CAPABILITY_IAM"],
        TemplateBody="Resources:\n  Logs: {Type: 'AWS::Logs::LogGroup'}",
    )  # fmt: skip
    assert account.emulator.status("dev-webhooks-vpc") == "REVIEW_IN_PROGRESS"
    said = account.deploy()
    assert "dev-webhooks-vpc is left over from a change set" in said
    assert account.emulator.status("dev-webhooks") == "UPDATE_COMPLETE"


def test_an_operation_under_way_is_waited_for(account: Scene) -> None:
    account.zone()
    account.emulator.faults(Vpc__create={"hold": True})
    first = account.start("deploy", DOMAIN, ENVIRONMENT="dev", SKIP_SMOKE="1")
    eventually(lambda: account.emulator.status("dev-webhooks-vpc") == "CREATE_IN_PROGRESS", "the VPC is being made")
    first.kill()  # the terminal is closed; AWS goes on
    first.communicate()
    assert "is CREATE_IN_PROGRESS" in account.deploy("--dry-run", expect=2)
    second = account.start("deploy", DOMAIN, ENVIRONMENT="dev", SKIP_SMOKE="1")
    assert second.stdout is not None
    said = ""
    while "waits until that is over" not in said:
        line = second.stdout.readline()
        assert line, said
        said += line
    account.emulator.faults()
    said += second.communicate(timeout=240)[0]
    assert second.returncode == 0, said
    assert account.emulator.status("dev-webhooks") == "UPDATE_COMPLETE"


# ── names ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_rule_19_without_a_zone_the_certificate_is_asked_for_waited_for_and_found_again(account: Scene) -> None:
    account.emulator.faults(certificates="PENDING_VALIDATION")
    acm = account.emulator.client("acm")
    said = account.deploy(expect=2, CERTIFICATE_WAIT_MINUTES="0.01")
    assert "Put these into the domain's DNS" in said
    assert f"_acme-challenge.webhooks.{DOMAIN}." in said
    assert "run this command again" in said
    (arn,) = [row["CertificateArn"] for row in acm.list_certificates()["CertificateSummaryList"]]
    assert account.emulator.status("dev-webhooks") == "none"
    # The same request again, and this time somebody puts the records into DNS while it waits.
    second = account.start("deploy", DOMAIN, ENVIRONMENT="dev", SKIP_SMOKE="1")
    assert second.stdout is not None
    said = ""
    while "PENDING_VALIDATION" not in said:
        line = second.stdout.readline()
        assert line, said
        said += line
    account.emulator.faults(certificates="ISSUED")
    said += second.communicate(timeout=240)[0]
    assert second.returncode == 0, said
    assert account.parameters()["CertificateArn"] == arn
    assert account.parameters()["HostedZoneId"] == ""
    outputs = account.outputs()
    assert [line.split() for line in said.splitlines() if "CNAME" in line and "elb" in line] == [
        [f"webhooks.{DOMAIN}", "CNAME", outputs["AlbDnsName"]], [f"kafka.{DOMAIN}", "CNAME", outputs["NlbDnsName"]],
    ]  # fmt: skip
    assert "DNS pending" in said
    account.deploy()
    assert len(acm.list_certificates()["CertificateSummaryList"]) == 1


def test_of_several_zones_one_is_named_and_it_holds_the_domain(account: Scene) -> None:
    account.private_zone(DOMAIN)
    private = account.emulator.client("route53").list_hosted_zones()["HostedZones"][0]["Id"].rpartition("/")[2]
    first, second, other = account.zone(), account.zone(), account.zone("elsewhere.test")
    said = account.deploy("--dry-run", HOSTED_ZONE_ID=private, expect=2)
    assert "is private, and nobody outside would find the names" in said
    assert f"which does not hold {DOMAIN}" in account.deploy(HOSTED_ZONE_ID=other, expect=2)
    assert "HOSTED_ZONE_ID=Z0: " in account.deploy(HOSTED_ZONE_ID="Z0", expect=2)
    said = account.deploy(expect=2)
    assert f"There are 2 public zones {DOMAIN}: " in said
    assert first in said
    assert "HOSTED_ZONE_ID=… names the one" in said
    assert account.emulator.client("cloudformation").describe_stacks()["Stacks"] == []
    account.deploy(HOSTED_ZONE_ID=second)
    assert account.parameters()["HostedZoneId"] == second


def test_a_certificate_that_cannot_serve_is_refused(account: Scene) -> None:
    acm = account.emulator.client("acm")
    account.emulator.faults(certificates="PENDING_VALIDATION")
    waits = acm.request_certificate(DomainName=f"*.{DOMAIN}")["CertificateArn"]
    assert "The certificate is PENDING_VALIDATION" in account.deploy(expect=2, CERTIFICATE_ARN=waits)
    account.emulator.faults()
    few = acm.request_certificate(DomainName=f"webhooks.{DOMAIN}")["CertificateArn"]
    star = acm.request_certificate(DomainName=f"*.{DOMAIN}")["CertificateArn"]
    said = account.deploy(expect=2, CERTIFICATE_ARN=few)
    assert f"is not for kafka.{DOMAIN}, console.{DOMAIN}" in said
    assert "this is eu-central-1" in account.deploy(expect=2, CERTIFICATE_ARN=few.replace("eu-central", "us-east"))
    assert "There is no certificate" in account.deploy(expect=2, CERTIFICATE_ARN=few[:-4] + "0000")
    account.deploy(BASE_DOMAIN="test", CERTIFICATE_ARN=star)
    assert account.parameters()["CertificateArn"] == star


# ── images ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_build_that_fails_and_a_docker_that_is_missing(account: Scene, tmp_path: Path) -> None:
    account.zone()
    assert "could not build and push" in account.deploy(expect=1, STAND_IN_FAILS="1")
    for name in ("git", "bash", "dirname", "cksum", "cat", "sh"):
        (tmp_path / name).symlink_to(subprocess.check_output(["which", name], text=True).strip())
    said = account.deploy(expect=2, PATH=str(tmp_path))
    assert "docker, which makes it, is not here" in said
    assert account.emulator.status("dev-webhooks-vpc") == "none"


# ── network and configuration ─────────────────────────────────────────────────────────────────────────────────────


def test_somebodys_own_network_is_used_and_checked(account: Scene) -> None:
    account.zone()
    ec2 = account.emulator.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnets = [
        ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.9.{number}.0/24", AvailabilityZone=f"eu-central-1{zone}")
        for number, zone in enumerate("abab")
    ]
    ids = [row["Subnet"]["SubnetId"] for row in subnets]
    given = {"VPC_ID": vpc, "VPC_CIDR": "10.9.0.0/16", "PUBLIC_SUBNET_IDS": ",".join(ids[:2])}
    assert "An existing VPC needs PrivateSubnetIds, too" in account.deploy(expect=2, **given)
    one_zone = {**given, "PRIVATE_SUBNET_IDS": f"{ids[0]},{ids[2]}"}
    assert "need two zones" in account.deploy(expect=2, **one_zone)
    third = ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.9.0/24", AvailabilityZone="eu-central-1a")["Subnet"][
        "SubnetId"
    ]
    doors = {**given, "PRIVATE_SUBNET_IDS": f"{ids[2]},{third},{ids[3]}"}
    assert "the first two are both in eu-central-1a" in account.deploy(expect=2, **doors)
    balancer = {**given, "PUBLIC_SUBNET_IDS": f"{ids[0]},{third},{ids[1]}", "PRIVATE_SUBNET_IDS": ",".join(ids[2:])}
    assert "A load balancer takes one subnet of each zone" in account.deploy(expect=2, **balancer)
    elsewhere = ec2.create_vpc(CidrBlock="10.8.0.0/16")["Vpc"]["VpcId"]
    stranger = ec2.create_subnet(VpcId=elsewhere, CidrBlock="10.8.1.0/24", AvailabilityZone="eu-central-1b")
    strange = stranger["Subnet"]["SubnetId"]
    foreign = {**given, "PRIVATE_SUBNET_IDS": f"{ids[2]},{strange}"}
    assert f"PrivateSubnetIds: {strange} is not in {vpc}" in account.deploy(expect=2, **foreign)
    given["PRIVATE_SUBNET_IDS"] = ",".join(ids[2:])
    said = account.deploy(expect=2, **{**given, "VPC_CIDR": "10.0.0.0/8"})
    assert f"VpcCidr: {vpc} has 10.9.0.0/16, not 10.0.0.0/8" in said
    account.deploy(**given)
    assert account.emulator.status("dev-webhooks-vpc") == "none"
    assert account.parameters()["VpcId"] == vpc
    account.deploy()  # it stays given
    assert account.emulator.status("dev-webhooks-vpc") == "none"


def test_a_configuration_that_could_not_serve_is_refused_before_anything_is_made(account: Scene) -> None:
    account.config(erp={"username": "erp", "password": "${ERP_PASSWORD}"})
    assert "refers to ERP_PASSWORD, which no secret of the stage has" in account.deploy(expect=2)
    account.config(erp={"fromat": "raw"})
    assert "fromat" in account.deploy(expect=2)
    (account.checkout.root / "aws/config/dev.yaml").write_text("sources:\n  only: {}\n")
    said = account.deploy(expect=2, SKIP_SMOKE="")
    assert "has no source with the topic kwb.smoke" in said
    (account.checkout.root / "secrets.json").write_text("not json")
    assert "SOURCES_FILE=secrets.json cannot be read" in account.deploy(expect=2, SOURCES_FILE="secrets.json")
    (account.checkout.root / "aws/config/dev.yaml").unlink()
    assert "aws/config/dev.yaml" in account.deploy(expect=2)
    assert account.emulator.client("cloudformation").describe_stacks()["Stacks"] == []


def test_values_that_the_templates_would_not_take_are_refused_before_anything_is_made(account: Scene) -> None:
    account.zone()
    said = account.deploy(
        KAFKA_EXTERNAL_PORT="80", INGEST_MIN_TASKS="many", CPU_ARCHITECTURE="riscv", ALARM_EMAIL="nobody",
        KAFKA_PASSWORD="short", expect=2,
    )  # fmt: skip
    for part in (
        "KAFKA_EXTERNAL_PORT=80 cannot be: a number from 1024 to 65535.", "INGEST_MIN_TASKS=many cannot be: a number",
        "CPU_ARCHITECTURE=riscv cannot be: one of X86_64, ARM64.", "ALARM_EMAIL=nobody cannot be: An address, or",
        "KAFKA_PASSWORD cannot be: 12 to 128",
    ):  # fmt: skip
        assert part in said
    assert "KafkaMode external needs KafkaBootstrapServers" in account.deploy(expect=2, KAFKA_MODE="external")
    outside = {"KAFKA_MODE": "external", "KAFKA_BOOTSTRAP_SERVERS": "b:9096"}
    said = account.deploy(expect=2, **outside)
    assert "PLAIN and SCRAM need KafkaClientSecretArn" in said
    assert "Without a NAT gateway tasks reach ECR" in account.deploy("--dry-run", expect=2, NAT_GATEWAYS="none")
    said = account.deploy(
        expect=2, NAT_GATEWAYS="none", INTERFACE_ENDPOINTS="true", KAFKA_PASSWORD=KAFKA_PASSWORD, **outside
    )
    assert "Without a NAT gateway only a private cluster is reached" in said
    said = account.deploy(expect=2, INGEST_MIN_TASKS="4", INGEST_MAX_TASKS="3")
    assert "INGEST_MIN_TASKS=4 is more than INGEST_MAX_TASKS=3" in said
    assert "CLASS_B=300 cannot be: a number from 0 to 255" in account.deploy(expect=2, CLASS_B="300")
    assert account.emulator.client("cloudformation").describe_stacks()["Stacks"] == []


def test_external_mode_has_no_broker_image(account: Scene) -> None:
    account.zone()
    account.deploy(
        KAFKA_MODE="external", KAFKA_BOOTSTRAP_SERVERS="b-1.example.test:9096", KAFKA_PASSWORD=KAFKA_PASSWORD,
        KAFKA_USERNAME="bridge",
    )  # fmt: skip
    assert account.parameters()["KafkaImage"] == account.parameters()["GuardImage"] == ""
    assert not any("bridge-kafka" in name for name in account.checkout.builds()[-1:])
    assert "NlbDnsName" not in account.outputs()
