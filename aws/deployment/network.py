"""The network: a VPC of our own in a stack of its own, or somebody's VPC, named by its parts."""

from __future__ import annotations

from collections.abc import Mapping

import botocore.exceptions

from deployment.account import Account
from deployment.changes import Plan, apply
from deployment.errors import Refused
from deployment.output import Output
from deployment.parameters import from_environment
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
    """Raises Refused unless the subnets are of the VPC and lie in two zones each, the same ones."""
    client = account.client("ec2")
    zones: dict[str, set[str]] = {}
    for part in ("PublicSubnetIds", "PrivateSubnetIds"):
        ids = [word.strip() for word in wanted[part].split(",") if word.strip()]
        try:
            rows = client.describe_subnets(SubnetIds=ids)["Subnets"]
        except botocore.exceptions.ClientError as error:
            raise Refused(f"{part}: {error.response['Error']['Message']}") from None
        strangers = [row["SubnetId"] for row in rows if row["VpcId"] != wanted["VpcId"]]
        if strangers:
            raise Refused(f"{part}: {', '.join(strangers)} is not in {wanted['VpcId']}.")
        zones[part] = {row["AvailabilityZone"] for row in rows}
        if len(zones[part]) < 2:
            raise Refused(
                f"{part}: all in {', '.join(zones[part])}.", "Load balancers and the database need two zones."
            )
    if not zones["PrivateSubnetIds"] <= zones["PublicSubnetIds"]:
        lost = ", ".join(sorted(zones["PrivateSubnetIds"] - zones["PublicSubnetIds"]))
        raise Refused(
            f"PrivateSubnetIds: {lost} has no public subnet.", "A load balancer reaches tasks in its own zones alone."
        )
