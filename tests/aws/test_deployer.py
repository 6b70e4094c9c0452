"""aws/deployer-policy.json: enough for whoever deploys, and nothing of other people's.

What CloudFormation asks for in a deployer's name stands in the schema of each type, which AWS publishes and cfn-lint
carries. The policy is read here as IAM reads it, as far as it goes: Allow alone, `*` in actions, resources and
conditions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cfnlint.schema.manager import ProviderSchemaManager

ROOT = Path(__file__).parents[2]
POLICY = json.loads((ROOT / "aws/deployer-policy.json").read_text())
CHARACTERS_MAX = 6144  # of a managed policy, white space left out
HERE = "eu-central-1:123456789012"
OURS = {"aws:ResourceTag/kafka-webhook-bridge": "dev"}
NEW = {"aws:RequestTag/kafka-webhook-bridge": "dev"}

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
    "iam:*RolePermissionsBoundary": "boundaries",
    "iam:*UserPolicy": "policies of users",
    "lambda:*": "scaling of functions",
    "redshift*": "secrets of other databases",
    "s3tables:*": "tables in buckets",
    "vpc-lattice:*": "service networks",
    "vpce:*": "endpoints in other regions",
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


def matches(given: str | list[str], value: str) -> bool:
    return any(fnmatchcase(value, pattern) for pattern in ([given] if isinstance(given, str) else given))


def allows(action: str, resource: str | None = None, context: Mapping[str, str] = {}) -> bool:
    """On a resource; on whatever there may be when none is given."""

    def fits(statement: dict[str, Any]) -> bool:
        if not matches([one.lower() for one in as_list(statement["Action"])], action.lower()):
            return False
        if resource is None:
            return True
        conditions = [item for kind in statement.get("Condition", {}).values() for item in kind.items()]
        return matches(statement["Resource"], resource) and all(
            key in context and matches(values, context[key]) for key, values in conditions
        )

    return any(fits(statement) for statement in POLICY["Statement"])


def arn(action: str, resource: str) -> str:
    """Whole, where only its end is given."""
    whole = resource == "*" or resource.startswith("arn:")
    return resource if whole else f"arn:aws:{action.partition(':')[0]}:{HERE}:{resource}"


def as_list(given: str | list[str]) -> list[str]:
    return [given] if isinstance(given, str) else given


def test_it_fits_into_a_managed_policy() -> None:
    assert len(json.dumps(POLICY, separators=(",", ":"))) <= CHARACTERS_MAX
    assert {statement["Effect"] for statement in POLICY["Statement"]} == {"Allow"}


def test_the_templates_types_are_found() -> None:
    assert len(types()) > 30
    assert "rds:CreateDBInstance" in set(wanted("AWS::RDS::DBInstance"))


@pytest.mark.parametrize("kind", types())
def test_rule_14_every_type_can_be_made_changed_and_removed(kind: str) -> None:
    needed = set(wanted(kind))
    assert {action for action in needed if not allows(action)} == set()


def test_what_is_left_out_is_in_the_schemas() -> None:
    schemas = [ProviderSchemaManager().get_resource_schema("us-east-1", kind).schema for kind in types()]
    every = {
        action
        for schema in schemas
        for handler in schema.get("handlers", {}).values()
        for action in handler.get("permissions", ())
    }
    assert [pattern for pattern in UNUSED if not any(fnmatchcase(action, pattern) for action in every)] == []


@pytest.mark.parametrize(
    ("action", "resource", "context"),
    [
        ("cloudformation:CreateChangeSet", "stack/dev-webhooks/0f1e", {}),
        ("cloudformation:ExecuteChangeSet", "stack/prod-webhooks-vpc/0f1e", {}),
        ("ecr:PutImage", "repository/kafka-webhook-bridge", {}),
        ("ecr:PutImage", "repository/kafka-webhook-bridge-kafka", {}),
        ("s3:PutObject", "arn:aws:s3:::kafka-webhook-bridge-registry-artifacts-1a2b3c/releases/dev-webhooks/x", {}),
        ("s3:DeleteBucket", "arn:aws:s3:::dev-webhooks-accesslogs-1a2b3c", {}),
        ("ecs:CreateCluster", "cluster/dev-webhooks", {}),
        ("ecs:UpdateService", "service/dev-webhooks/dev-webhooks-ingest", {}),
        ("ecs:RunTask", "task-definition/dev-webhooks-admin:3", {}),
        ("ecs:DescribeTasks", "task/dev-webhooks/0f1e", {}),
        ("elasticloadbalancing:CreateLoadBalancer", "loadbalancer/app/dev-webhooks-alb/*", {}),
        ("elasticloadbalancing:CreateRule", "listener/app/dev-webhooks-alb/0f/1e", {}),
        ("elasticloadbalancing:DeleteTargetGroup", "targetgroup/dev-webhooks-kafka-9096/0f", {}),
        ("rds:CreateDBInstance", "db:dev-webhooks-db", {}),
        ("rds:CreateDBInstance", "subgrp:dev-webhooks-db", {}),
        ("rds:CreateDBInstance", "pg:dev-webhooks-databaseparameters-1a2b3c", {}),
        ("rds:CreateDBInstance", "og:default:postgres-18", {}),
        ("rds:CreateDBSnapshot", "snapshot:dev-webhooks-snapshot-database-1a2b3c", {}),
        ("rds:CopyDBSnapshot", "snapshot:prod-webhooks-drill-1", {}),
        ("elasticfilesystem:TagResource", "file-system/*", NEW),
        ("elasticfilesystem:DeleteFileSystem", "file-system/fs-0f1e", OURS),
        ("iam:CreateRole", "arn:aws:iam::123456789012:role/dev-webhooks-execution-eu-central-1", {}),
        ("iam:CreatePolicy", "arn:aws:iam::123456789012:policy/dev-webhooks-MskPolicy-1a2b3c", {}),
        ("iam:PassRole", "arn:aws:iam::123456789012:role/dev-webhooks-task-eu-central-1",
         {"iam:PassedToService": "ecs-tasks.amazonaws.com"}),
        ("iam:CreateServiceLinkedRole", "arn:aws:iam::123456789012:role/aws-service-role/ecs.amazonaws.com/x",
         {"iam:AWSServiceName": "ecs.amazonaws.com"}),
        ("kms:CreateKey", "*", NEW),
        ("kms:ScheduleKeyDeletion", "key/0f1e", OURS),
        ("secretsmanager:CreateSecret", "secret:dev-webhooks/kafka", {}),
        ("secretsmanager:GetSecretValue", "secret:dev-webhooks/users/kwb-smoke-1a2b3c", {}),
        ("secretsmanager:PutSecretValue", "secret:ConfigSecret-1a2b3c-4d5e6f", {}),
        ("logs:CreateLogGroup", "log-group:/dev-webhooks/ingest", {}),
        ("logs:GetLogEvents", "log-group:/dev-webhooks/admin:log-stream:admin/admin/0f1e", {}),
        ("logs:DeleteLogGroup", "log-group:/aws/rds/instance/dev-webhooks-db/postgresql", {}),
        ("logs:PutRetentionPolicy", "log-group:/aws/ecs/containerinsights/dev-webhooks/performance", {}),
        ("cloudwatch:PutMetricAlarm", "alarm:dev-webhooks-ingest-5xx", {}),
        ("cloudwatch:PutDashboard", "arn:aws:cloudwatch::123456789012:dashboard/dev-webhooks-eu-central-1", {}),
        ("sns:CreateTopic", "dev-webhooks-alarms", {}),
    ],
    ids=lambda value: value if isinstance(value, str) and not value.startswith("arn") else "",
)  # fmt: skip
def test_what_templates_and_pages_name_is_within_reach(action: str, resource: str, context: dict[str, str]) -> None:
    assert allows(action, arn(action, resource), context)


def test_snapshots_that_the_pages_have_made_are_within_reach() -> None:
    text = (ROOT / "docs/howto/aws-restore.md").read_text()
    names = set(re.findall(r"(?:--(?:target-)?db-snapshot-identifier |DATABASE_SNAPSHOT_ID=)(\S+)", text))
    assert names
    for name in names:
        for action in (
            "rds:CreateDBSnapshot",
            "rds:CopyDBSnapshot",
            "rds:RestoreDBInstanceFromDBSnapshot",
            "rds:DeleteDBSnapshot",
        ):
            assert allows(action, arn(action, f"snapshot:{name}")), name


@pytest.mark.parametrize(
    "action",
    [
        "acm:RequestCertificate", "application-autoscaling:RegisterScalableTarget", "cloudwatch:DescribeAlarms",
        # EFS makes the interfaces of its mount targets in the name of whoever asks for them.
        "ec2:CreateNetworkInterface", "ec2:DeleteNetworkInterface", "ec2:ModifyNetworkInterfaceAttribute",
        "ec2:CreateVpc", "ecr:GetAuthorizationToken", "ecs:DeregisterTaskDefinition", "ecs:DescribeTaskDefinition",
        "ecs:RegisterTaskDefinition", "elasticfilesystem:CreateFileSystem", "elasticloadbalancing:DescribeTargetHealth",
        "iam:ListRoles", "logs:DescribeLogGroups", "rds:DescribeDBInstances", "route53:ListHostedZonesByName",
        "secretsmanager:GetRandomPassword", "secretsmanager:ListSecrets", "servicediscovery:CreatePrivateDnsNamespace",
        "sns:GetSubscriptionAttributes", "sns:SetSubscriptionAttributes", "sns:Unsubscribe",
    ],
)  # fmt: skip
def test_what_aws_knows_without_a_resource_is_allowed_without_one(action: str) -> None:
    assert allows(action, "*")


@pytest.mark.parametrize(
    ("action", "resource", "context"),
    [
        ("cloudformation:DeleteStack", "stack/payroll/0f1e", {}),
        ("ecr:DeleteRepository", "repository/payroll", {}),
        ("s3:GetObject", "arn:aws:s3:::payroll/2026.csv", {}),
        ("ecs:UpdateService", "service/shop/payroll", {}),
        ("elasticloadbalancing:DeleteLoadBalancer", "loadbalancer/app/shop/0f", {}),
        ("rds:DeleteDBInstance", "db:payroll", {}),
        ("elasticfilesystem:DeleteFileSystem", "file-system/fs-0f1e", {}),
        ("iam:PutRolePolicy", "arn:aws:iam::123456789012:role/admin", {}),
        ("iam:PassRole", "arn:aws:iam::123456789012:role/admin", {"iam:PassedToService": "ecs-tasks.amazonaws.com"}),
        ("iam:PassRole", "arn:aws:iam::123456789012:role/dev-webhooks-task-eu-central-1",
         {"iam:PassedToService": "lambda.amazonaws.com"}),
        ("iam:CreateUser", "arn:aws:iam::123456789012:user/dev-webhooks-x", {}),
        ("iam:CreateAccessKey", "arn:aws:iam::123456789012:user/root", {}),
        ("kms:ScheduleKeyDeletion", "key/0f1e", {}),
        ("kms:Decrypt", "key/0f1e", {}),
        ("secretsmanager:GetSecretValue", "secret:payroll-1a2b3c", {}),
        ("logs:DeleteLogGroup", "log-group:/payroll", {}),
        ("cloudwatch:DeleteAlarms", "alarm:payroll", {}),
        ("sns:DeleteTopic", "payroll", {}),
        ("ec2:RunInstances", "instance/*", {}),
        ("organizations:LeaveOrganization", "*", {}),
    ],
    ids=lambda value: value if isinstance(value, str) and not value.startswith("arn") else "",
)  # fmt: skip
def test_what_is_of_others_is_out_of_reach(action: str, resource: str, context: dict[str, str]) -> None:
    assert not allows(action, arn(action, resource), context)
