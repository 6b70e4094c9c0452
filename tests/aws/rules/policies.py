"""Policies of things: who may use a bucket, a key, a topic, a file system, whatever his own rights are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from resolver import Resource, strings, text
from world import World, only, pairs

from rules.access import grants, listed

ACCOUNT = "123456789012"
ROOT = f"arn:aws:iam::{ACCOUNT}:root"
# Whom a policy of such a thing may let do what. There is no row for anybody else, so nobody else is let in.
LET_IN = {
    ("AWS::KMS::Key", ROOT): {"kms:*"},  # or nobody could ever change it
    ("AWS::KMS::Key", "cloudwatch.amazonaws.com"): {"kms:Decrypt", "kms:GenerateDataKey*"},
    ("AWS::SNS::TopicPolicy", "cloudwatch.amazonaws.com"): {"sns:Publish"},
    ("AWS::S3::BucketPolicy", "logdelivery.elasticloadbalancing.amazonaws.com"): {"s3:PutObject"},
    ("AWS::S3::BucketPolicy", "delivery.logs.amazonaws.com"): {"s3:GetBucketAcl", "s3:PutObject"},
}
LAYERS = "arn:aws:s3:::prod-ap-southeast-1-starport-layer-bucket/*"  # where ECR keeps images
FILES = {"elasticfilesystem:ClientMount", "elasticfilesystem:ClientWrite"}


def statements(node: Any) -> Iterator[dict[str, Any]]:
    """Each statement of each policy inside, as a document or as the text of one."""
    if isinstance(node, dict):
        several = node.get("Statement")
        yield from several if isinstance(several, list) else [several] if isinstance(several, dict) else []
        for one in node.values():
            yield from statements(one)
    elif isinstance(node, list):
        for one in node:
            yield from statements(one)
    elif isinstance(node, str) and node.lstrip().startswith("{") and '"Statement"' in node:
        yield from statements(json.loads(node))


def principals(statement: dict[str, Any]) -> Iterator[str]:
    """`*`, ARNs, names of services."""
    given = statement.get("Principal", statement.get("NotPrincipal"))
    for one in given.values() if isinstance(given, dict) else [given]:
        yield from listed(one)


def of_this_account(statement: dict[str, Any]) -> bool:
    """Whether a service may come for this account alone."""
    condition = statement.get("Condition", {})
    if listed(condition.get("StringEquals", {}).get("aws:SourceAccount", [])) == (ACCOUNT,):
        return True
    arns = listed(condition.get("ArnLike", {}).get("aws:SourceArn", []))
    return bool(arns) and all(one.split(":")[4] == ACCOUNT for one in arns)


def nobody_else_is_let_in(world: World) -> Iterator[str]:
    """By any policy of any resource. Roles and endpoints have policies of another kind, and rules of their own."""
    for stack in filter(None, (world.registry, world.vpc, world.bridge)):
        for one in stack.resources.values():
            if one.type in {"AWS::IAM::Role", "AWS::EC2::VPCEndpoint"}:
                continue
            for statement in statements(one.properties):
                if statement["Effect"] == "Allow" and {"Principal", "NotPrincipal"} & statement.keys():
                    yield from strangers(one, statement)


def strangers(one: Resource, statement: dict[str, Any]) -> Iterator[str]:
    if {"NotPrincipal", "NotAction", "NotResource"} & statement.keys():
        yield f"{one.id} lets in all but some: {statement}"
        return
    for who in principals(statement):
        if more := set(listed(statement["Action"])) - LET_IN.get((one.type, who), set()):
            yield f"{one.id} lets {who} {', '.join(sorted(more))}"
        elif who != ROOT and not of_this_account(statement):
            yield f"{one.id} lets {who} in for any account"


def the_way_to_s3_leads_to_images_alone(world: World) -> Iterator[str]:
    """Or whoever gets into a task could carry data into a bucket of his."""
    for one in world.vpc.of("EC2::VPCEndpoint", VpcEndpointType="Gateway") if world.vpc else []:
        found = {
            (statement["Effect"], action, resource)
            for statement in statements(one.properties)
            for action in listed(statement["Action"])
            for resource in listed(statement["Resource"])
        }
        if found != {("Allow", "s3:GetObject", LAYERS)}:
            yield f"{one.id} leads to {sorted(found) or 'everything'}"


def the_file_system_is_for_the_broker_alone(world: World) -> Iterator[str]:
    """Its policy lets nobody in, so that a role must; the broker's does, through its access point and not as root."""
    if not world.single:
        return
    system, point = only(iter(world.bridge.of("EFS::FileSystem"))), only(iter(world.bridge.of("EFS::AccessPoint")))
    effects = {one["Effect"] for one in statements(system.get("FileSystemPolicy", {}))}
    if effects != {"Deny"}:
        yield f"{system.id}: its policy has {sorted(effects) or 'nothing'}, and whoever reaches it mounts it"
    wanted = {"StringEquals": {"elasticfilesystem:AccessPointArn": f"<{point.id}.Arn>"}}
    for grant in grants(world.bridge):
        if not any(action.startswith("elasticfilesystem:") for action in grant.actions):
            continue
        if grant.conditions != wanted or not set(grant.actions) <= FILES:
            yield f"{grant.role} may {', '.join(grant.actions)} where {grant.conditions}"


def keys_and_files_can_be_kept_in_order(world: World) -> Iterator[str]:
    """A key by the account, or nobody ever changes it; files by the tag that the deployer's rights go by."""
    for one in world.bridge.of("KMS::Key"):
        owners = [at for at in statements(one.properties) if at["Effect"] == "Allow" and ROOT in principals(at)]
        if [(at["Action"], at.get("Resource")) for at in owners] != [("kms:*", "*")]:
            yield f"{one.id} is nobody's"
    for kind, name in (("EFS::FileSystem", "FileSystemTags"), ("EFS::AccessPoint", "AccessPointTags")):
        for one in world.bridge.of(kind):
            if pairs(one.get(name), "Key").get("kafka-webhook-bridge") != world.scene.stage:
                yield f"{one.id} has the tags {one.get(name)}"


def what_stays_can_be_read(world: World) -> Iterator[str]:
    """Nothing that outlives the stack is encrypted with a key that goes with it."""
    for one in world.bridge.resources.values():
        if {one.deletion, one.replaced} <= {"Delete"}:
            continue
        for name in strings([value for key, value in one.properties.items() if "Kms" in key]):
            key = world.bridge.at(name)
            if key is not None and key.deletion == "Delete":
                yield f"{one.id} stays, and its key {key.id} goes: {text(name)}"


RULES = (
    keys_and_files_can_be_kept_in_order,
    nobody_else_is_let_in,
    the_file_system_is_for_the_broker_alone,
    the_way_to_s3_leads_to_images_alone,
    what_stays_can_be_read,
)
