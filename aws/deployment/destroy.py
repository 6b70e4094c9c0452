"""`./aws/destroy.sh <subdomain> [--yes] [--delete-data]`: remove a stage.

Data stay unless told otherwise: the database as a snapshot, and what the template retains. What stays is listed with
about what it costs. The registry is every stage's and stays in any case, as does a certificate that the stack did not
make.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import botocore.exceptions

from deployment import costs, names
from deployment.account import Account, code
from deployment.arguments import Options
from deployment.errors import Refused
from deployment.output import Output
from deployment.rollout import LOG_DAYS, limit_logs
from deployment.stage import Stage, find

FIXED_SECRETS = ("kafka", "webhook", "database", "console")
_GB = 1e9


@dataclass(frozen=True, slots=True)
class Left:
    """Something that stays: `month` in dollars, or None where nobody knows."""

    what: str
    month: float | None


def destroy(options: Options, account: Account, out: Output) -> None:
    """Raises Stop with its exit status."""
    stage = find(options, account, out)
    if stage.stack.status() == "none" and stage.network.status() == "none":
        raise Refused(f"There is no stack {stage.stack.name} in {account.region}.")
    _agree(stage, options)
    kept: list[dict[str, Any]] = []
    outputs = stage.stack.outputs()
    parameters = stage.stack.parameters()
    databases: list[str] = []
    groups: list[str] = []
    earlier: set[str] = set()
    if stage.stack.status() != "none":
        groups = limit_logs(stage, outputs)
        databases = list(_databases(stage))
        earlier = {row["DBSnapshotIdentifier"] for row in _snapshots(account, databases)}
        stage.stack.unprotect()
        stack_id = stage.stack.delete()
        kept = stage.stack.kept(stack_id)
    _remove_fixed_secrets(stage)
    if options.delete_data:
        _delete_data(stage, kept, databases, groups, earlier)
        kept, groups = [], []
    if stage.network.status() != "none":
        stage.network.delete()
    _tell(stage, list(_left(stage, kept, databases, groups, parameters)))


def _agree(stage: Stage, options: Options) -> None:
    what = f"{stage.stack.name} and {stage.network.name}" + (" WITH ALL DATA" if options.delete_data else "")
    if options.yes:
        return
    if not stage.out.interactive:
        raise Refused("Nobody is here to be asked.", f"--yes, if {what} shall go.")
    stage.out.note(f"This removes {what}.", "bold red")
    if stage.out.ask(f"Type {stage.name} to go on:") != stage.name:
        raise Refused("Nothing was removed.")


# ── before ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _databases(stage: Stage) -> Iterator[str]:
    """Of a stack that was never complete, too: its rollback may have left one, or a snapshot."""
    for row in stage.stack.resources():
        if row["ResourceType"] == "AWS::RDS::DBInstance" and row.get("PhysicalResourceId"):
            yield row["PhysicalResourceId"]


# ── after ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _remove_fixed_secrets(stage: Stage) -> None:
    """Their names would stay taken for weeks, and the next deployment fail."""
    client = stage.account.client("secretsmanager")
    prefix = f"{stage.name}-webhooks/"
    wanted = [f"{prefix}{name}" for name in FIXED_SECRETS]
    pages = client.get_paginator("list_secrets").paginate(
        IncludePlannedDeletion=True, Filters=[{"Key": "name", "Values": [stage.users_prefix]}]
    )
    wanted += [
        row["Name"] for page in pages for row in page["SecretList"] if row["Name"].startswith(stage.users_prefix)
    ]
    for name in wanted:
        _forget_secret(client, name)


def _forget_secret(client: Any, name: str) -> None:
    try:
        client.delete_secret(SecretId=name, ForceDeleteWithoutRecovery=True)
    except botocore.exceptions.ClientError as error:
        if code(error) != "ResourceNotFoundException":
            raise


def _delete_data(
    stage: Stage, kept: list[dict[str, Any]], databases: list[str], groups: list[str], earlier: set[str]
) -> None:
    """What this deletion has left; snapshots that were there before it are somebody's own."""
    account = stage.account
    for row in kept:
        kind, physical = row["ResourceType"], row["PhysicalResourceId"]
        stage.out.note(f"  removing {row['LogicalResourceId']} ({kind}) {physical}")
        if kind == "AWS::EFS::FileSystem":
            account.client("efs").delete_file_system(FileSystemId=physical)
        elif kind == "AWS::SecretsManager::Secret":
            _forget_secret(account.client("secretsmanager"), physical)
        elif kind == "AWS::S3::Bucket":
            _empty(account, physical)
            account.client("s3").delete_bucket(Bucket=physical)
        elif kind == "AWS::Logs::LogGroup":
            account.client("logs").delete_log_group(logGroupName=physical)
        else:
            stage.out.warn(f"{row['LogicalResourceId']} ({kind}) {physical} stays: remove it by hand.")
    for name in sorted({row["DBSnapshotIdentifier"] for row in _snapshots(account, databases)} - earlier):
        stage.out.note(f"  removing the snapshot {name}")
        account.client("rds").delete_db_snapshot(DBSnapshotIdentifier=name)
    for name in groups:
        with contextlib.suppress(botocore.exceptions.ClientError):
            account.client("logs").delete_log_group(logGroupName=name)


def _empty(account: Account, bucket: str) -> None:
    """Every version of every object."""
    client = account.client("s3")
    for page in client.get_paginator("list_object_versions").paginate(Bucket=bucket):
        rows = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
        if rows:
            objects = [{"Key": row["Key"], "VersionId": row["VersionId"]} for row in rows]
            client.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})


def _snapshots(account: Account, databases: list[str]) -> list[dict[str, Any]]:
    client = account.client("rds")
    found: list[dict[str, Any]] = []
    for name in databases:
        pages = client.get_paginator("describe_db_snapshots").paginate(DBInstanceIdentifier=name, SnapshotType="manual")
        found += [row for page in pages for row in page["DBSnapshots"]]
    return found


# ── what stays ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _left(
    stage: Stage, kept: list[dict[str, Any]], databases: list[str], groups: list[str], parameters: Mapping[str, str]
) -> Iterator[Left]:
    account = stage.account
    for snapshot in _snapshots(account, databases):
        size = float(snapshot.get("AllocatedStorage") or 0)
        yield Left(f"snapshot {snapshot['DBSnapshotIdentifier']}: {size:g} GB at most", size * costs.SNAPSHOT_GB_MONTH)
    for row in kept:
        kind, physical = row["ResourceType"], row["PhysicalResourceId"]
        if kind == "AWS::EFS::FileSystem":
            found = account.client("efs").describe_file_systems(FileSystemId=physical)["FileSystems"][0]
            size = float(found["SizeInBytes"]["Value"]) / _GB
            yield Left(f"file system {physical}: {size:.1f} GB", size * costs.EFS_GB_MONTH)
        elif kind == "AWS::SecretsManager::Secret":
            yield Left(f"secret {physical}", costs.SECRET_MONTH)
        else:
            yield Left(f"{row['LogicalResourceId']} ({kind}) {physical}", None)
    for name in groups:
        if account.client("logs").describe_log_groups(logGroupNamePrefix=name)["logGroups"]:
            yield Left(f"log group {name}, until its lines are {LOG_DAYS} days old", None)
    arn = parameters.get("CertificateArn", "")
    if arn:
        whose = "asked for by deploy.sh; it serves the next time" if names.made_by_us(account, arn) else "yours"
        yield Left(f"certificate {arn} ({whose})", 0.0)


def _tell(stage: Stage, left: list[Left]) -> None:
    out = stage.out
    out.say(f"{stage.name} is removed.", "bold green")
    if left:
        out.say("What stays, and about what it costs a month:")
        for row in left:
            out.say(f"  {f'${row.month:7.2f}' if row.month is not None else '     low'}  {row.what}")
    out.say("The registry of images, templates and releases stays: the other stages use it.")
