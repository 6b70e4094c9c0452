"""The network: a VPC of our own in a stack of its own, or somebody's VPC, named by its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import botocore.exceptions

from deployment.account import Account
from deployment.changes import Plan, apply
from deployment.errors import Refused
from deployment.output import Output
from deployment.parameters import check_values, from_environment
from deployment.stacks import Stack
from deployment.templates import Bucket, load

PARTS = ("VpcId", "VpcCidr", "PublicSubnetIds", "PrivateSubnetIds")
# What bridge.yaml is told of a network of our own; NatGateways stands in the rules of both.
TOLD = (*PARTS, "NatGateways")


def given(wanted: Mapping[str, str]) -> bool:
    """Whether the environment names an existing VPC. Raises Refused when it names a part of one."""
    named = [name for name in PARTS if wanted.get(name)]
    if named and len(named) < len(PARTS):
        missing = ", ".join(name for name in PARTS if name not in named)
        raise Refused(f"An existing VPC needs {missing}, too.", f"All of {', '.join(PARTS)}, or none of them.")
    return bool(named)


def check(account: Account, out: Output, stage: str, environ: Mapping[str, str]) -> None:
    """Raises Refused for values that vpc.yaml would not take, before anything is made."""
    template, stack = load("vpc"), Stack(account, f"{stage}-webhooks-vpc", out)
    deployed = stack.parameters() if stack.exists() else None
    check_values(template, deployed, {**from_environment(template, environ), "Environment": stage})


def ensure(
    account: Account, out: Output, stage: str, bucket: Bucket, environ: Mapping[str, str], *,
    dry_run: bool = False, allow_replace: frozenset[str] = frozenset(),
) -> dict[str, str] | None:  # fmt: skip
    """Make or update `<stage>-webhooks-vpc`; what bridge.yaml is told of it. None in a dry run of one to be made."""
    template = load("vpc")
    stack = Stack(account, f"{stage}-webhooks-vpc", out)
    wanted = {**from_environment(template, environ), "Environment": stage}
    plan = Plan(template, wanted, bucket.upload(template), allow_replace)
    apply(stack, plan, dry_run=dry_run)
    return {name: value for name, value in stack.outputs().items() if name in TOLD} if stack.exists() else None


def check_existing(account: Account, wanted: Mapping[str, str]) -> None:
    """Raises Refused unless addresses and subnets are the VPC's, and the subnets lie in two zones, the same ones."""
    client = account.client("ec2")
    vpc = wanted["VpcId"]
    try:
        (found,) = client.describe_vpcs(VpcIds=[vpc])["Vpcs"]
    except botocore.exceptions.ClientError as error:
        raise Refused(f"VpcId: {error.response['Error']['Message']}") from None
    ranges = {found["CidrBlock"], *(row["CidrBlock"] for row in found.get("CidrBlockAssociationSet", []))}
    if wanted["VpcCidr"] not in ranges:
        raise Refused(f"VpcCidr: {vpc} has {', '.join(sorted(ranges))}, not {wanted['VpcCidr']}.")
    zones = {part: _zones(client, part, wanted[part], vpc) for part in ("PublicSubnetIds", "PrivateSubnetIds")}
    for part, several in zones.items():
        if len(set(several)) < 2:
            raise Refused(
                f"{part}: all in {', '.join(sorted(set(several)))}.", "Load balancers and the database need two zones."
            )
    public, private = zones["PublicSubnetIds"], zones["PrivateSubnetIds"]
    if len(set(public)) < len(public):
        raise Refused(
            f"PublicSubnetIds: in {', '.join(public)}, in this order.", "A load balancer takes one subnet of each zone."
        )
    if private[0] == private[1]:
        raise Refused(
            f"PrivateSubnetIds: the first two are both in {private[0]}.",
            "The file system has its doors in the first two, one in each zone: put one of another zone second.",
        )
    if lost := set(private) - set(public):
        raise Refused(
            f"PrivateSubnetIds: {', '.join(sorted(lost))} has no public subnet.",
            "A load balancer reaches tasks in its own zones alone.",
        )


def _zones(client: Any, part: str, text: str, vpc: str) -> list[str]:
    """Zone of each subnet, in the order of the text. Raises Refused for those that are not there, or elsewhere."""
    ids = [word.strip() for word in text.split(",") if word.strip()]
    try:
        rows = {row["SubnetId"]: row for row in client.describe_subnets(SubnetIds=ids)["Subnets"]}
    except botocore.exceptions.ClientError as error:
        raise Refused(f"{part}: {error.response['Error']['Message']}") from None
    if strangers := [name for name in ids if name not in rows or rows[name]["VpcId"] != vpc]:
        raise Refused(f"{part}: {', '.join(strangers)} is not in {vpc}.")
    return [str(rows[name]["AvailabilityZone"]) for name in ids]
