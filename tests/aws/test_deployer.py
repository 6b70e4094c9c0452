"""Policies for whoever deploys: enough for stacks, scripts and pages, and nothing that makes more of them.

aws/deployer-policy.json is what scripts and people ask AWS for themselves, aws/deployer-stacks-policy.json what
CloudFormation asks for in their name. What that is stands in the schema of each type, which AWS publishes and cfn-lint
carries; what scripts ask for is read out of them. The policies are weighed here as IAM weighs them, as far as they go.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from botocore import xform_name
from botocore.session import Session
from cfnlint.schema.manager import ProviderSchemaManager
from test_aws_pages import THEIRS

ROOT = Path(__file__).parents[2]
FILES = tuple(ROOT / f"aws/{name}.json" for name in ("deployer-policy", "deployer-stacks-policy"))
POLICIES = {path.stem: json.loads(path.read_text()) for path in FILES}
STATEMENTS = [statement for policy in POLICIES.values() for statement in policy["Statement"]]
CHARACTERS_MAX = 6144  # of a managed policy, white space left out
HERE = "eu-central-1:123456789012"
SESSION = Session()

Context = Mapping[str, str | list[str]]
DIRECT: Context = {}
STACK: Context = {"aws:CalledViaFirst": "cloudformation.amazonaws.com", "aws:ViaAWSService": "true"}
OURS: Context = {"aws:ResourceTag/kafka-webhook-bridge": "dev"}
IAM = "arn:aws:iam::123456789012"
BOUNDARY = f"{IAM}:policy/kafka-webhook-bridge-boundary-eu-central-1"
BOUNDED: Context = {**STACK, "iam:PermissionsBoundary": BOUNDARY}
ROLE = f"{IAM}:role/kafka-webhook-bridge/dev-webhooks-task-eu-central-1"
REGISTRY_BUCKET = "arn:aws:s3:::kafka-webhook-bridge-registry-artifacts-1a2b3c"
LOGS_BUCKET = "arn:aws:s3:::dev-webhooks-accesslogs-1a2b3c"


def names(*several: str) -> Context:
    """A change of records of these names, by a stack."""
    return {**STACK, "route53:ChangeResourceRecordSetsNormalizedRecordNames": list(several)}


# Whatever a condition of ours asks for, so that no more than the action is judged.
ANY: Context = {
    **BOUNDED, **OURS, **names("webhooks.example.com"), "iam:PassedToService": "ecs-tasks.amazonaws.com",
    "iam:AWSServiceName": "ecs.amazonaws.com",
}  # fmt: skip

# Permissions in the schemas for properties that the templates do not use: pattern → why.
UNUSED = {
    "acm-pca:*": "private authorities",
    "application-autoscaling:*ScheduledAction": "scaling by the clock",
    "autoscaling:*": "flow logs of instances",
    "cognito-idp:*": "logins at the load balancer",
    "docdb-elastic:*": "secrets of other databases",
    "ec2:AcceptAddressTransfer": "addresses of other accounts",
    "ec2:AssociateAddress": "addresses of instances",
    "ec2:*NatGatewayAddress": "further addresses of a NAT gateway",
    "ec2:*SubnetCidrBlock": "IPv6",
    "ec2:*VpnGateway": "VPN",
    "ec2:CreateVpcEncryptionControl": "encryption between instances",
    "ec2:ModifyVpcTenancy": "hardware of one's own",
    "firehose:*": "logs on their way elsewhere",
    "iam:*GroupPolicy": "policies of groups",
    "iam:*RolePermissionsBoundary": "another boundary than the one that a role is made with",
    "iam:*tachRolePolicy": "policies of others",
    "iam:*UserPolicy": "policies of users",
    "kms:*Grant": "keys of one's own for data: they are encrypted with AWS's",
    "kms:GenerateDataKeyWithoutPlaintext": "the same",
    "lambda:*": "scaling of functions",
    "redshift*": "secrets of other databases",
    "s3tables:*": "tables in buckets",
    "vpc-lattice:*": "service networks",
    "vpce:*": "endpoints in other regions",
}
# What an administrator brings up, once: with a right to it, whoever deploys would have every right.
ADMINISTRATORS = {"AWS::IAM::ManagedPolicy"}
# Commands of the pages that are an administrator's, too: command → what it is for.
ADMINISTRATORS_COMMANDS = {
    "acm delete-certificate": "a certificate that deploy.sh asked for",
    "cloudformation create-stack": "the registry, with the boundary in it",
    "ecr delete-repository": "the registry's images",
    "iam create-policy": "these very policies",
}


@cache
def types() -> tuple[str, ...]:
    found: set[str] = set()
    for path in (ROOT / "aws/templates").glob("*.yaml"):
        found.update(re.findall(r"^    Type: (AWS::\w+::\w+)$", path.read_text(), re.MULTILINE))
    return tuple(sorted(found))


def wanted(kind: str) -> Iterator[str]:
    """What the schema of a type says that its life needs."""
    schema = ProviderSchemaManager().get_resource_schema("us-east-1", kind).schema
    for verb in ("create", "read", "update", "delete"):
        for action in schema.get("handlers", {}).get(verb, {}).get("permissions", ()):
            if not any(fnmatchcase(action, pattern) for pattern in UNUSED):
                yield action


# ── as IAM weighs them ────────────────────────────────────────────────────────────────────────────────────────────────


def as_list(given: str | list[str]) -> list[str]:
    return [given] if isinstance(given, str) else given


def matches(given: str | list[str], value: str) -> bool:
    return any(fnmatchcase(value, pattern) for pattern in as_list(given))


def holds(operator: str, wanted: str | list[str], found: str | list[str] | None) -> bool:
    """One key of a condition. `found` is None where a request does not carry it. Raises KeyError."""
    if operator.startswith("ForA"):
        every = {"ForAllValues:StringLike": all, "ForAnyValue:StringLike": any}[operator]
        return every(matches(wanted, value) for value in as_list(found or []))
    same = {"Bool": str.__eq__, "StringEquals": str.__eq__, "StringLike": lambda a, b: fnmatchcase(b, a)}[operator]
    return isinstance(found, str) and any(same(one, found) for one in as_list(wanted))


def fits(statement: dict[str, Any], action: str, resource: str | None, context: Context) -> bool:
    if not matches([one.lower() for one in as_list(statement["Action"])], action.lower()):
        return False
    if resource is not None and not matches(statement["Resource"], resource):
        return False
    return all(
        holds(operator, values, context.get(key))
        for operator, keys in statement.get("Condition", {}).items()
        for key, values in keys.items()
    )


def allows(action: str, resource: str | None, context: Context = DIRECT) -> bool:
    """On a resource; on whatever there may be when none is given."""
    found = {one["Effect"] for one in STATEMENTS if fits(one, action, resource, context)}
    return found == {"Allow"}


def arn(action: str, resource: str) -> str:
    """Whole, where only its end is given."""
    whole = resource == "*" or resource.startswith("arn:")
    return resource if whole else f"arn:aws:{action.partition(':')[0]}:{HERE}:{resource}"


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_each_fits_into_a_managed_policy(policy: dict[str, Any]) -> None:
    assert len(json.dumps(policy, separators=(",", ":"))) <= CHARACTERS_MAX


def test_what_stacks_may_do_nobody_may_do_beside_them() -> None:
    for statement in POLICIES["deployer-stacks-policy"]["Statement"]:
        condition = statement["Condition"]
        via = condition.get("StringEquals", {}).get("aws:CalledViaFirst"), condition.get("Bool")
        assert via in (("cloudformation.amazonaws.com", None), (None, {"aws:ViaAWSService": "true"})), statement["Sid"]


# ── enough ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_templates_types_are_found() -> None:
    assert len(types()) > 30
    assert "rds:CreateDBInstance" in set(wanted("AWS::RDS::DBInstance"))
    assert set(types()) >= ADMINISTRATORS


@pytest.mark.parametrize("kind", [one for one in types() if one not in ADMINISTRATORS])
def test_rule_14_every_type_can_be_made_changed_and_removed(kind: str) -> None:
    assert {action for action in wanted(kind) if not allows(action, None, ANY)} == set()


def test_what_is_left_out_is_in_the_schemas() -> None:
    schemas = [ProviderSchemaManager().get_resource_schema("us-east-1", kind).schema for kind in types()]
    every = {
        action
        for schema in schemas
        for handler in schema.get("handlers", {}).values()
        for action in handler.get("permissions", ())
    }
    assert [pattern for pattern in UNUSED if not any(fnmatchcase(action, pattern) for action in every)] == []


PREFIXES = {"elbv2": "elasticloadbalancing", "efs": "elasticfilesystem"}
ACTIONS = {  # operation → what IAM calls it, where that is something else
    "s3:HeadBucket": ["s3:ListBucket"],
    "s3:ListObjectsV2": ["s3:ListBucket"],
    "s3:ListObjectVersions": ["s3:ListBucketVersions"],
    "s3:DeleteObjects": ["s3:DeleteObject", "s3:DeleteObjectVersion"],
}
# What scripts and people touch, by service; `*` where AWS knows no resource of the action.
TOUCHED = {
    "cloudformation": ["stack/dev-webhooks/0f1e", "stack/kafka-webhook-bridge-registry/0f1e"],
    "ecr": ["repository/kafka-webhook-bridge"],
    "ecs": [
        "service/dev-webhooks/dev-webhooks-ingest", "task/dev-webhooks/0f1e", "task-definition/dev-webhooks-admin:3",
    ],
    "elasticfilesystem": ["file-system/fs-0f1e"],
    "elasticloadbalancing": ["loadbalancer/app/dev-webhooks-alb/0f1e"],
    "iam": [f"{IAM}:role/aws-service-role/ecs.amazonaws.com/AWSServiceRoleForECS"],
    "logs": ["log-group:/dev-webhooks/admin:log-stream:admin/admin/0f1e", "log-group:/dev-webhooks/ingest"],
    "rds": ["db:dev-webhooks-db", "snapshot:dev-webhooks-snapshot-database-1a2b3c"],
    "s3": [f"{REGISTRY_BUCKET}/releases/dev-webhooks/x", REGISTRY_BUCKET, LOGS_BUCKET, f"{LOGS_BUCKET}/alb/x"],
    "secretsmanager": ["secret:dev-webhooks/kafka-1a2b3c", "secret:dev-webhooks/config-0f1e-1a2b3c"],
}  # fmt: skip


def within_reach(action: str) -> bool:
    """Directly, on one of the things that are touched."""
    context = {**OURS, "iam:AWSServiceName": "ecs.amazonaws.com"}
    return any(allows(action, arn(action, one), context) for one in [*TOUCHED.get(action.partition(":")[0], ()), "*"])


def actions_of(service: str, operation: str) -> list[str]:
    name = f"{PREFIXES.get(service, service)}:{operation}"
    return ACTIONS.get(name, [name])


@cache
def operations(service: str) -> dict[str, str]:
    """Method of boto3 → operation."""
    return {xform_name(name): name for name in SESSION.get_service_model(service).operation_names}


def called() -> set[str]:
    """What the scripts ask for: each method of a client whose service the same file names."""
    found: set[str] = set()
    for path in sorted((ROOT / "aws/deployment").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        methods = {*re.findall(r"\.(\w+)\(", text), *re.findall(r"get_paginator\(\"(\w+)\"\)", text)}
        for service in set(re.findall(r"\bclient\(\"([\w-]+)\"\)", text)):
            for method in methods & operations(service).keys():
                found.update(actions_of(service, operations(service)[method]))
    return found


def test_the_scripts_calls_are_found() -> None:
    assert called() >= {
        "cloudformation:ExecuteChangeSet", "ecr:BatchGetImage", "ecs:RunTask", "logs:GetLogEvents",
        "elasticloadbalancing:DescribeTargetHealth", "s3:DeleteObjectVersion", "secretsmanager:PutSecretValue",
    }  # fmt: skip


@pytest.mark.parametrize("action", sorted(called()))
def test_rule_14_the_scripts_may_do_what_they_do(action: str) -> None:
    assert within_reach(action)


@pytest.mark.parametrize(
    "action",
    [
        "ecr:BatchCheckLayerAvailability", "ecr:CompleteLayerUpload", "ecr:InitiateLayerUpload", "ecr:PutImage",
        "ecr:UploadLayerPart", "acm:AddTagsToCertificate",
    ],
)  # fmt: skip
def test_rule_14_docker_may_push_and_a_certificate_be_asked_for(action: str) -> None:
    assert within_reach(action)


CUSTOM = {"logs tail": ["logs:FilterLogEvents"], "s3 ls": ["s3:ListBucket"], "s3 rb": ["s3:DeleteBucket"]}


def commanded() -> dict[str, list[str]]:
    """Command of the pages → what it asks for."""
    found = {}
    for _, line in THEIRS:
        service, action, *rest = shlex.split(line)[1:]
        if action == "wait":
            waiters = SESSION.get_waiter_model(service)
            known = {xform_name(name, "-"): waiters.get_waiter(name).operation for name in waiters.waiter_names}
            found[f"{service} wait {rest[0]}"] = actions_of(service, known[rest[0]])
        elif f"{service} {action}" in CUSTOM:
            found[f"{service} {action}"] = CUSTOM[f"{service} {action}"]
        else:
            found[f"{service} {action}"] = actions_of(service, operations(service)[action.replace("-", "_")])
    return found


def test_commands_of_the_pages_are_within_reach_but_an_administrators() -> None:
    denied = {name for name, actions in commanded().items() if not all(map(within_reach, actions))}
    beyond = {"cloudformation create-stack"}  # the command itself is within reach, the boundary in it is not
    assert denied | beyond == ADMINISTRATORS_COMMANDS.keys()
    assert beyond <= commanded().keys()


REACHED: list[tuple[str, str, Context]] = [
    ("cloudformation:CreateChangeSet", "stack/dev-webhooks/0f1e", DIRECT),
    ("cloudformation:ExecuteChangeSet", "stack/prod-webhooks-vpc/0f1e", DIRECT),
    ("ecs:CreateCluster", "cluster/dev-webhooks", STACK),
    ("ecs:UpdateService", "service/dev-webhooks/dev-webhooks-ingest", STACK),
    ("ecs:TagResource", "task-definition/dev-webhooks-ingest:1", STACK),
    ("elasticloadbalancing:CreateLoadBalancer", "loadbalancer/app/dev-webhooks-alb/*", STACK),
    ("elasticloadbalancing:CreateRule", "listener/app/dev-webhooks-alb/0f/1e", STACK),
    ("elasticloadbalancing:DeleteTargetGroup", "targetgroup/dev-webhooks-kafka-9096/0f", STACK),
    ("rds:CreateDBInstance", "db:dev-webhooks-db", STACK),
    ("rds:CreateDBInstance", "subgrp:dev-webhooks-db", STACK),
    ("rds:CreateDBInstance", "pg:dev-webhooks-databaseparameters-1a2b3c", STACK),
    ("rds:CreateDBInstance", "og:default:postgres-18", STACK),
    ("rds:CreateDBSnapshot", "snapshot:dev-webhooks-snapshot-database-1a2b3c", STACK),
    ("elasticfilesystem:CreateFileSystem", "*", STACK),
    ("elasticfilesystem:TagResource", "file-system/fs-0f1e", STACK),
    ("elasticfilesystem:CreateAccessPoint", "file-system/fs-0f1e", {**STACK, **OURS}),
    ("elasticfilesystem:CreateMountTarget", "file-system/fs-0f1e", {**STACK, **OURS}),
    ("elasticfilesystem:DeleteAccessPoint", "access-point/fsap-0f1e", {**STACK, **OURS}),
    ("iam:CreateRole", ROLE, BOUNDED),
    ("iam:PutRolePolicy", ROLE, BOUNDED),
    ("iam:DeleteRole", ROLE, STACK),
    ("iam:PassRole", ROLE, {**STACK, "iam:PassedToService": "ecs-tasks.amazonaws.com"}),
    ("iam:PassRole", ROLE, {"iam:PassedToService": "ecs-tasks.amazonaws.com"}),
    ("iam:GetPolicy", BOUNDARY, STACK),
    ("iam:CreateServiceLinkedRole", f"{IAM}:role/aws-service-role/ecs.amazonaws.com/x",
     {"iam:AWSServiceName": "ecs.amazonaws.com"}),
    ("kms:CreateKey", "*", STACK),
    ("kms:EnableKeyRotation", "key/0f1e", STACK),
    ("kms:ScheduleKeyDeletion", "key/0f1e", STACK),
    ("route53:ChangeResourceRecordSets", "arn:aws:route53:::hostedzone/Z1", names("webhooks.example.com")),
    ("route53:ChangeResourceRecordSets", "arn:aws:route53:::hostedzone/Z1", names("_0f1e.kafka.example.com")),
    ("secretsmanager:CreateSecret", "secret:dev-webhooks/kafka", STACK),
    ("secretsmanager:GetSecretValue", "secret:dev-webhooks/users/kwb-smoke-1a2b3c", DIRECT),
    ("logs:CreateLogGroup", "log-group:/dev-webhooks/ingest", STACK),
    ("logs:DeleteLogGroup", "log-group:/aws/rds/instance/dev-webhooks-db/postgresql", DIRECT),
    ("logs:PutRetentionPolicy", "log-group:/aws/ecs/containerinsights/dev-webhooks/performance", DIRECT),
    ("cloudwatch:PutMetricAlarm", "alarm:dev-webhooks-ingest-5xx", STACK),
    ("cloudwatch:PutDashboard", "arn:aws:cloudwatch::123456789012:dashboard/dev-webhooks-eu-central-1", STACK),
    ("sns:CreateTopic", "dev-webhooks-alarms", STACK),
    ("sns:Subscribe", "dev-webhooks-alarms", STACK),
    ("s3:CreateBucket", LOGS_BUCKET, STACK),
    ("ecr:CreateRepository", "repository/kafka-webhook-bridge-kafka", STACK),
    # EFS makes the interfaces of its mount targets in the name of whoever asks for them, Cloud Map its zone.
    ("ec2:CreateNetworkInterface", "*", {"aws:ViaAWSService": "true"}),
    ("route53:CreateHostedZone", "*", {"aws:ViaAWSService": "true"}),
]  # fmt: skip


def named(value: object) -> str:
    return value if isinstance(value, str) and not value.startswith("arn") else ""


@pytest.mark.parametrize(("action", "resource", "context"), REACHED, ids=named)
def test_what_templates_and_pages_name_is_within_reach(action: str, resource: str, context: Context) -> None:
    assert allows(action, arn(action, resource), context)


def test_rights_for_one_stage_are_made_as_the_page_says(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs/howto/aws-deploy.md").read_text()
    (new, old) = re.findall(r"For one stage alone, write `(\S+)` for each `(\S+)` in a copy of both", text)[0]
    found = [json.loads(json.dumps(one).replace(old, new)) for one in STATEMENTS]
    monkeypatch.setattr(f"{__name__}.STATEMENTS", found)
    for action, resource, context in REACHED:
        if "dev-webhooks" in f"{resource}{context}":
            assert allows(action, arn(action, resource), context), resource
            other = resource.replace("dev-webhooks", "prod-webhooks")
            assert (
                other == resource
                or action.startswith("cloudformation:")
                or not allows(action, arn(action, other), context)
            )


def test_snapshots_that_the_pages_have_made_are_within_reach() -> None:
    text = (ROOT / "docs/howto/aws-restore.md").read_text()
    found = set(re.findall(r"(?:--(?:target-)?db-snapshot-identifier |DATABASE_SNAPSHOT_ID=)(\S+)", text))
    assert found
    for name in found:
        for action in ("rds:CreateDBSnapshot", "rds:CopyDBSnapshot", "rds:DeleteDBSnapshot"):
            assert allows(action, arn(action, f"snapshot:{name}")), name
        assert allows("rds:RestoreDBInstanceFromDBSnapshot", arn("rds:", f"snapshot:{name}"), STACK), name


# ── no more ───────────────────────────────────────────────────────────────────────────────────────────────────────────

TO_TASKS: Context = {"iam:PassedToService": "ecs-tasks.amazonaws.com"}


@pytest.mark.parametrize(
    ("action", "resource", "context"),
    [
        # An administrator by a role of one's own making
        ("iam:CreateRole", ROLE, STACK),
        ("iam:CreateRole", ROLE, {**STACK, "iam:PermissionsBoundary": "arn:aws:iam::aws:policy/AdministratorAccess"}),
        ("iam:CreateRole", ROLE, {"iam:PermissionsBoundary": BOUNDARY}),
        ("iam:CreateRole", f"{IAM}:role/dev-webhooks-task-eu-central-1", BOUNDED),
        ("iam:PutRolePolicy", ROLE, STACK),
        ("iam:PutRolePolicy", f"{IAM}:role/admin", BOUNDED),
        ("iam:AttachRolePolicy", ROLE, BOUNDED),
        ("iam:PutRolePermissionsBoundary", ROLE, BOUNDED),
        ("iam:DeleteRolePermissionsBoundary", ROLE, BOUNDED),
        ("iam:UpdateAssumeRolePolicy", f"{IAM}:role/admin", STACK),
        ("iam:UpdateAssumeRolePolicy", ROLE, DIRECT),
        ("iam:CreatePolicy", BOUNDARY, STACK),
        ("iam:CreatePolicyVersion", BOUNDARY, STACK),
        ("iam:SetDefaultPolicyVersion", BOUNDARY, STACK),
        ("iam:DeletePolicy", BOUNDARY, STACK),
        ("iam:CreatePolicyVersion", f"{IAM}:policy/kafka-webhook-bridge-deployer", STACK),
        # by one that is there
        ("iam:PassRole", f"{IAM}:role/admin", TO_TASKS),
        ("iam:PassRole", f"{IAM}:role/payments-webhooks-admin", TO_TASKS),
        ("iam:PassRole", ROLE, {"iam:PassedToService": "lambda.amazonaws.com"}),
        ("iam:PassRole", ROLE, {"iam:PassedToService": "cloudformation.amazonaws.com"}),
        ("sts:AssumeRole", f"{IAM}:role/admin", DIRECT),
        # or by a user
        ("iam:CreateUser", f"{IAM}:user/dev-webhooks-x", STACK),
        ("iam:CreateAccessKey", f"{IAM}:user/root", STACK),
        ("iam:PutUserPolicy", f"{IAM}:user/me", STACK),
        ("iam:AttachUserPolicy", f"{IAM}:user/me", STACK),
        # Stacks of others, and what others have made in stacks of ours
        ("cloudformation:DeleteStack", "stack/payroll/0f1e", DIRECT),
        ("cloudformation:CreateStack", "stack/orders-webhooks/0f1e", DIRECT),
        ("cloudformation:CreateChangeSet", "stack/dev-webhooks/0f1e",
         {"cloudformation:ImportResourceTypes": ["AWS::KMS::Key"]}),
        # The tag that makes a thing ours
        ("kms:TagResource", "key/0f1e", DIRECT),
        ("elasticfilesystem:TagResource", "file-system/fs-0f1e", DIRECT),
        ("ec2:CreateTags", "vpc/vpc-0f1e", DIRECT),
        # Keys and files
        ("kms:ScheduleKeyDeletion", "key/0f1e", DIRECT),
        ("kms:ScheduleKeyDeletion", "key/0f1e", OURS),
        ("kms:PutKeyPolicy", "key/0f1e", DIRECT),
        ("kms:Decrypt", "key/0f1e", STACK),
        ("kms:CreateGrant", "key/0f1e", STACK),
        ("elasticfilesystem:DeleteFileSystem", "file-system/fs-0f1e", STACK),
        ("elasticfilesystem:PutFileSystemPolicy", "file-system/fs-0f1e", STACK),
        ("elasticfilesystem:CreateAccessPoint", "file-system/fs-0f1e", STACK),
        ("elasticfilesystem:CreateMountTarget", "file-system/fs-0f1e", STACK),
        ("elasticfilesystem:ClientRootAccess", "file-system/fs-0f1e", OURS),
        # Networks
        ("ec2:AuthorizeSecurityGroupIngress", "security-group/sg-0f1e", DIRECT),
        ("ec2:CreateRoute", "route-table/rtb-0f1e", DIRECT),
        ("ec2:DeleteVpc", "vpc/vpc-0f1e", DIRECT),
        ("ec2:RunInstances", "instance/*", STACK),
        ("ec2:CreateNetworkInterface", "network-interface/*", DIRECT),
        # Names
        ("route53:ChangeResourceRecordSets", "arn:aws:route53:::hostedzone/Z1", names("example.com")),
        ("route53:ChangeResourceRecordSets", "arn:aws:route53:::hostedzone/Z1",
         names("webhooks.example.com", "mail.example.com")),
        ("route53:ChangeResourceRecordSets", "arn:aws:route53:::hostedzone/Z1", names("_acme-challenge.example.com")),
        ("route53:ChangeResourceRecordSets", "arn:aws:route53:::hostedzone/Z1",
         {"route53:ChangeResourceRecordSetsNormalizedRecordNames": ["webhooks.example.com"]}),
        ("route53:DeleteHostedZone", "arn:aws:route53:::hostedzone/Z1", DIRECT),
        ("acm:DeleteCertificate", "certificate/0f1e", DIRECT),
        ("acm:ExportCertificate", "certificate/0f1e", STACK),
        # Data of others
        ("s3:GetObject", "arn:aws:s3:::payroll/2026.csv", STACK),
        ("secretsmanager:GetSecretValue", "secret:payroll-1a2b3c", STACK),
        ("secretsmanager:GetSecretValue", "secret:ConfigSecret-1a2b3c-4d5e6f", DIRECT),
        ("rds:DeleteDBInstance", "db:payroll", STACK),
        ("logs:DeleteLogGroup", "log-group:/payroll", STACK),
        ("cloudwatch:DeleteAlarms", "alarm:payroll", STACK),
        ("sns:DeleteTopic", "payroll", STACK),
        ("sns:Subscribe", "payroll", STACK),
        ("ecr:DeleteRepository", "repository/payroll", STACK),
        ("ecs:UpdateService", "service/shop/payroll", STACK),
        ("ecs:RunTask", "task-definition/payroll:3", DIRECT),
        ("elasticloadbalancing:DeleteLoadBalancer", "loadbalancer/app/shop/0f", STACK),
        # Our own, to somebody else's hands or out of the world, with a word
        ("rds:ModifyDBSnapshotAttribute", "snapshot:prod-webhooks-drill-1", DIRECT),
        ("rds:DeleteDBInstance", "db:prod-webhooks-db", DIRECT),
        ("secretsmanager:PutResourcePolicy", "secret:dev-webhooks/kafka-1a2b3c", DIRECT),
        ("ecr:SetRepositoryPolicy", "repository/kafka-webhook-bridge", DIRECT),
        ("ecr:BatchDeleteImage", "repository/kafka-webhook-bridge", DIRECT),
        ("s3:PutBucketPolicy", REGISTRY_BUCKET, DIRECT),
        ("s3:DeleteObject", f"{REGISTRY_BUCKET}/releases/dev-webhooks/x", DIRECT),
        ("logs:PutSubscriptionFilter", "log-group:/dev-webhooks/ingest", DIRECT),
        ("ecs:ExecuteCommand", "task/dev-webhooks/0f1e", DIRECT),
        ("ecs:RegisterTaskDefinition", "*", DIRECT),
        # And the rest of the account
        ("lambda:CreateFunction", "function:dev-webhooks-x", STACK),
        ("cloudtrail:StopLogging", "trail/all", STACK),
        ("organizations:LeaveOrganization", "*", STACK),
    ],
    ids=named,
)  # fmt: skip
def test_what_makes_more_of_it_is_out_of_reach(action: str, resource: str, context: Context) -> None:
    assert not allows(action, arn(action, resource), context)
