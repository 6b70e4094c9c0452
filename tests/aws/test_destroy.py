"""`./aws/destroy.sh` as somebody types it: what goes, what stays, and what it says about that."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Iterator

import pytest
from scene import DOMAIN, Scene, scene

from bridge import eventually

REGISTRY = "kafka-webhook-bridge-registry"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with scene(tmp_path_factory.mktemp("destroy")) as found:
        yield found


@pytest.fixture
def account(shared: Scene) -> Scene:
    shared.emulator.reset()
    shared.checkout.restore()
    shared.zone()
    return shared


def typed(account: Scene, answer: str) -> tuple[int, str]:
    """destroy.sh on a terminal, and what somebody types there."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["./aws/destroy.sh", DOMAIN], cwd=account.checkout.root, env={**account.environ, "TERM": "dumb"},
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    said, answered = b"", False
    while True:
        try:
            more = os.read(ours, 4096)
        except OSError:  # the terminal's other end is closed
            break
        said += more
        if b"to go on:" in said and not answered:
            os.write(ours, f"{answer}\n".encode())
            answered = True
    os.close(ours)
    return process.wait(120), said.decode()


def test_rule_20_it_asks_on_a_terminal_and_nowhere_else(account: Scene) -> None:
    account.deploy()
    said = account.type("destroy", DOMAIN, expect=2)
    assert "Nobody is here to be asked" in said
    assert account.emulator.status("dev-webhooks") == "UPDATE_COMPLETE"
    status, said = typed(account, "prod")
    assert status == 2, said
    assert "Nothing was removed" in said
    assert account.emulator.status("dev-webhooks") == "UPDATE_COMPLETE"
    status, said = typed(account, "dev")
    assert status == 0, said
    assert account.emulator.status("dev-webhooks") == "none"
    assert account.emulator.status("dev-webhooks-vpc") == "none"


def test_rule_20_data_stay_with_their_cost_unless_they_shall_go(account: Scene) -> None:
    environ = {"ENVIRONMENT": "prod"}
    account.deploy(**environ)
    outputs = account.outputs("prod-webhooks")
    cloudformation = account.emulator.client("cloudformation")
    found = cloudformation.describe_stacks(StackName="prod-webhooks")["Stacks"][0]
    assert found["EnableTerminationProtection"] is True
    logs = account.emulator.client("logs")
    by_aws = "/aws/ecs/containerinsights/prod-webhooks/application"
    logs.create_log_group(logGroupName=by_aws)
    secrets = account.emulator.client("secretsmanager")
    secrets.create_secret(Name="prod-webhooks/users/partner", SecretString="x")

    said = account.type("destroy", DOMAIN, "--yes")
    assert account.emulator.status("prod-webhooks") == "none"
    assert account.emulator.status("prod-webhooks-vpc") == "none"
    assert account.emulator.status(REGISTRY) == "CREATE_COMPLETE"
    # The database as a snapshot, the rest as it is (rule 10).
    rds = account.emulator.client("rds")
    snapshots = rds.describe_db_snapshots(SnapshotType="manual")["DBSnapshots"]
    assert [row["DBInstanceIdentifier"] for row in snapshots] == ["prod-webhooks-db"]
    assert f"snapshot {snapshots[0]['DBSnapshotIdentifier']}" in said
    for output in ("FileSystemId", "ConfigSecretArn", "SourcesSecretArn", "AccessLogsBucket"):
        assert outputs[output] in said, output
    assert account.emulator.client("efs").describe_file_systems(FileSystemId=outputs["FileSystemId"])["FileSystems"]
    assert secrets.get_secret_value(SecretId=outputs["ConfigSecretArn"])["SecretString"]
    assert "$   1.90" in said  # 20 GB of snapshot
    # Names that a next deployment needs are free, at once.
    left = [row["Name"] for row in secrets.list_secrets(IncludePlannedDeletion=True)["SecretList"]]
    assert sorted(left) == sorted([outputs["ConfigSecretArn"], outputs["SourcesSecretArn"]])
    # What AWS made by itself does not stay for ever.
    (group,) = logs.describe_log_groups(logGroupNamePrefix=by_aws)["logGroups"]
    assert group["retentionInDays"] == 90
    assert f"log group {by_aws}" in said

    # And again from nothing; this time the data go, too.
    account.deploy(**environ)
    outputs = account.outputs("prod-webhooks")
    s3 = account.emulator.client("s3")
    s3.put_object(Bucket=outputs["AccessLogsBucket"], Key="AWSLogs/x", Body=b"x")
    rds.delete_db_snapshot(DBSnapshotIdentifier=snapshots[0]["DBSnapshotIdentifier"])
    rds.create_db_snapshot(DBSnapshotIdentifier="by-hand", DBInstanceIdentifier="prod-webhooks-db")
    said = account.type("destroy", DOMAIN, "--yes", "--delete-data")
    # What this deletion left is gone; what somebody made, or kept the first time, is not ours to remove.
    assert [row["DBSnapshotIdentifier"] for row in rds.describe_db_snapshots()["DBSnapshots"]] == ["by-hand"]
    assert "snapshot by-hand" in said
    left = [row["FileSystemId"] for row in account.emulator.client("efs").describe_file_systems()["FileSystems"]]
    assert outputs["FileSystemId"] not in left
    left = [row["Name"] for row in secrets.list_secrets(IncludePlannedDeletion=True)["SecretList"]]
    assert not {outputs["ConfigSecretArn"], outputs["SourcesSecretArn"]} & set(left)
    buckets = [row["Name"] for row in s3.list_buckets()["Buckets"]]
    assert outputs["AccessLogsBucket"] not in buckets
    registry = account.outputs(REGISTRY)["ArtifactsBucket"]
    assert "releases/prod-webhooks/" in s3.list_objects_v2(Bucket=registry, Prefix="releases/")["Contents"][0]["Key"]
    assert len(account.emulator.client("ecr").describe_repositories()["repositories"]) == 2


def test_rule_20_an_interrupted_removal_knows_what_it_has_left(account: Scene) -> None:
    environ = {"ENVIRONMENT": "prod"}
    account.deploy(**environ)
    outputs = account.outputs("prod-webhooks")
    account.emulator.faults(Vpc__delete={"hold": True})
    process = account.start("destroy", DOMAIN, "--yes", **environ)
    eventually(lambda: account.emulator.status("prod-webhooks-vpc") == "DELETE_IN_PROGRESS", "the network goes")
    process.kill()
    process.communicate()
    account.emulator.faults()
    # Rule 14, with the stack gone, too.
    said = account.type("destroy", "other.test", "--yes", "--delete-data", expect=2, **environ)
    assert f"prod-webhooks in eu-central-1 is {DOMAIN}, not other.test" in said
    said = account.type("destroy", DOMAIN, "--yes")  # found by its domain
    assert account.emulator.status("prod-webhooks-vpc") == "none"
    for output in ("FileSystemId", "ConfigSecretArn", "SourcesSecretArn", "AccessLogsBucket"):
        assert outputs[output] in said, output
    assert "snapshot prod-webhooks-db" in said
    said = account.type("destroy", DOMAIN, "--yes", "--delete-data", **environ)
    assert f"removing file system {outputs['FileSystemId']}" in said
    assert account.emulator.client("efs").describe_file_systems()["FileSystems"] == []
    assert account.emulator.client("secretsmanager").list_secrets(IncludePlannedDeletion=True)["SecretList"] == []
    assert account.emulator.client("rds").describe_db_snapshots(SnapshotType="manual")["DBSnapshots"] == []
    assert "There is no stack prod-webhooks" in account.type("destroy", DOMAIN, "--yes", expect=2, **environ)


def test_log_groups_of_others_are_left_alone(account: Scene) -> None:
    account.deploy()
    logs = account.emulator.client("logs")
    ours, other = (f"/aws/rds/instance/dev-webhooks-{name}/upgrade" for name in ("db", "db-reports"))
    for name in (ours, other):
        logs.create_log_group(logGroupName=name)

    def groups() -> dict[str, int | None]:
        found = logs.describe_log_groups(logGroupNamePrefix="/aws/rds/")["logGroups"]
        return {row["logGroupName"]: row.get("retentionInDays") for row in found if "upgrade" in row["logGroupName"]}

    account.update()
    assert groups() == {ours: 90, other: None}
    said = account.type("destroy", DOMAIN, "--yes", "--delete-data")
    assert other not in said
    assert groups() == {other: None}


def test_a_removal_under_way_is_waited_for_and_one_that_failed_goes_on_without_what_has_gone(account: Scene) -> None:
    environ = {"ENVIRONMENT": "prod"}
    account.deploy(**environ)
    account.emulator.faults(Cluster__delete={"hold": True}, Alb__delete="a listener is in use")
    first = account.start("destroy", DOMAIN, "--yes", **environ)
    account.interrupt(first, lambda: account.emulator.status("prod-webhooks") == "DELETE_IN_PROGRESS")
    second = account.start("destroy", DOMAIN, "--yes", **environ)
    assert second.stdout is not None
    said = ""
    while "this waits until that is over" not in said:
        line = second.stdout.readline()
        assert line, said
        said += line
    # While it waits, somebody removes the load balancer by hand.
    balancers = account.emulator.client("elbv2")
    arn = balancers.describe_load_balancers(Names=["prod-webhooks-alb"])["LoadBalancers"][0]["LoadBalancerArn"]
    balancers.delete_load_balancer(LoadBalancerArn=arn)
    account.emulator.faults(Alb__delete="a listener is in use")
    said += second.communicate(timeout=240)[0]
    assert second.returncode == 1, said
    assert account.emulator.status("prod-webhooks") == "DELETE_FAILED"
    account.emulator.faults()
    said = account.type("destroy", DOMAIN, "--yes", **environ)
    assert account.emulator.status("prod-webhooks") == "none"
    assert account.emulator.status("prod-webhooks-vpc") == "none"


def test_a_network_that_never_had_its_stage_is_removed_and_that_is_said(account: Scene) -> None:
    account.emulator.faults(Vpc__create={"hold": True})
    process = account.start("deploy", DOMAIN, ENVIRONMENT="dev", SKIP_SMOKE="1")
    account.interrupt(process, lambda: account.emulator.status("dev-webhooks-vpc") == "CREATE_IN_PROGRESS")
    account.emulator.faults()
    assert "No stage in account" in account.type("destroy", DOMAIN, "--yes", expect=2)
    said = account.type("destroy", DOMAIN, "--yes", ENVIRONMENT="dev")
    assert "Which domain dev-webhooks-vpc is for is not known: it never had a dev-webhooks" in said
    assert account.emulator.status("dev-webhooks-vpc") == "none"


def test_what_cannot_be_removed_is_named_and_the_next_run_goes_on(account: Scene) -> None:
    given = account.emulator.client("acm").request_certificate(DomainName=f"*.{DOMAIN}")["CertificateArn"]
    account.deploy(CERTIFICATE_ARN=given)
    account.emulator.faults(Alb__delete="a listener is in use")
    said = account.type("destroy", DOMAIN, "--yes", expect=1)
    assert "Alb (AWS::ElasticLoadBalancingV2::LoadBalancer): DELETE_FAILED  a listener is in use" in said
    assert "dev-webhooks could not be removed: DELETE_FAILED" in said
    account.emulator.faults()
    said = account.type("destroy", DOMAIN, "--yes")
    assert f"certificate {given} (yours)" in said
    assert account.emulator.client("acm").describe_certificate(CertificateArn=given)
    assert account.emulator.status("dev-webhooks") == "none"
    assert "No stage in account" in account.type("destroy", "other.test", "--yes", expect=2)
    assert "There is no stack staging-webhooks" in account.type(
        "destroy", DOMAIN, "--yes", expect=2, ENVIRONMENT="staging"
    )


def test_a_creation_of_prod_that_failed_goes_with_its_database_and_says_what_stays(account: Scene) -> None:
    account.emulator.faults(IngestService__create="the tasks do not stay up")
    account.deploy(expect=1, ENVIRONMENT="prod")
    assert account.emulator.status("prod-webhooks") == "ROLLBACK_FAILED"
    account.emulator.faults()
    rds = account.emulator.client("rds")
    assert [row["DBInstanceIdentifier"] for row in rds.describe_db_instances()["DBInstances"]] == ["prod-webhooks-db"]
    said = account.type("destroy", DOMAIN, "--yes", ENVIRONMENT="prod")
    assert account.emulator.status("prod-webhooks") == "none"
    assert rds.describe_db_instances()["DBInstances"] == []
    for row in rds.describe_db_snapshots(SnapshotType="manual")["DBSnapshots"]:
        assert f"snapshot {row['DBSnapshotIdentifier']}" in said
    assert account.emulator.client("elbv2").describe_load_balancers()["LoadBalancers"] == []
