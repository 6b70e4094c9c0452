"""What all stages of an account and region share: two repositories of images, and the bucket of artifacts."""

from __future__ import annotations

from deployment.account import Account
from deployment.changes import Plan, apply
from deployment.errors import Refused
from deployment.output import Output
from deployment.stacks import Stack
from deployment.templates import Bucket, load

NAME = "kafka-webhook-bridge-registry"


def ensure(account: Account, out: Output, *, dry_run: bool = False) -> Bucket | None:
    """Make or update it; its bucket. None in a dry run of an account that has none yet."""
    stack = Stack(account, NAME, out)
    apply(stack, Plan(load("registry"), {}), dry_run=dry_run)
    return _bucket(stack) if stack.exists() else None


def existing(account: Account, out: Output) -> Bucket:
    """Raises Refused when the account has none."""
    stack = Stack(account, NAME, out)
    if not stack.exists():
        raise Refused(f"There is no stack {NAME} in {account.region}.", "./aws/deploy.sh makes it.")
    return _bucket(stack)


def _bucket(stack: Stack) -> Bucket:
    found = stack.outputs().get("ArtifactsBucket")
    if not found:
        raise Refused(f"{NAME} has no output ArtifactsBucket.", "It is older than these scripts: ./aws/deploy.sh.")
    return Bucket(stack.account, found)
