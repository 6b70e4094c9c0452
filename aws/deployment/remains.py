"""What a stage leaves when its stack is removed, as the stack's own events tell: they are there for 90 days, by its id.

So it does not matter whether the command that removed the stack has seen it: a later one finds the same, looks what of
it is still there, and removes that where it is asked to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import botocore.exceptions

from deployment import costs, names
from deployment.account import Account, code
from deployment.output import Output
from deployment.stacks import OWN_TYPE, Stack

DATABASE, CLUSTER = "AWS::RDS::DBInstance", "AWS::ECS::Cluster"
FILES, SECRET, BUCKET, LOGS = (
    "AWS::EFS::FileSystem", "AWS::SecretsManager::Secret", "AWS::S3::Bucket", "AWS::Logs::LogGroup",
)  # fmt: skip
SNAPSHOT, CERTIFICATE = "AWS::RDS::DBSnapshot", "AWS::CertificateManager::Certificate"
REMOVABLE = frozenset({FILES, SECRET, BUCKET, LOGS, SNAPSHOT})
_GONE = frozenset(
    {"FileSystemNotFound", "ResourceNotFoundException", "NoSuchBucket", "404", "DBSnapshotNotFound",
     "DBSnapshotNotFoundFault"}
)  # fmt: skip
_GB = 1e9


@dataclass(frozen=True, slots=True)
class Left:
    """Something that is still there. `month` in dollars, or None where nobody knows; `ours`: the stage's alone."""

    kind: str
    name: str
    what: str
    month: float | None
    ours: bool = True


def find(stack: Stack, stack_id: str) -> list[Left]:
    """Of the stack that had this id; nothing when it is empty."""
    if not stack_id:
        return []
    account, events = stack.account, stack.events(stack_id)
    kept = {
        row["PhysicalResourceId"]: row for row in events
        if row["ResourceStatus"] == "DELETE_SKIPPED" and row.get("PhysicalResourceId")
    }  # fmt: skip
    found = [*_snapshots(account, events)]
    for physical, row in kept.items():
        if left := _look(account, row["ResourceType"], physical, row["LogicalResourceId"]):
            found.append(left)
    told = {left.name for left in found}
    for group in groups_of_aws(account, events):
        if group["logGroupName"] not in told:
            days = group.get("retentionInDays")
            until = f", until its lines are {days} days old" if days else ""
            found.append(Left(LOGS, group["logGroupName"], f"log group {group['logGroupName']}{until}", None))
    return [*found, *_certificate(account, stack.parameters(stack_id))]


def _is_deletion(row: Mapping[str, Any]) -> bool:
    return bool(row["ResourceType"] == OWN_TYPE and row["ResourceStatus"] == "DELETE_IN_PROGRESS")


def groups_of_aws(account: Account, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Log groups that AWS makes by itself for databases and clusters among these resources or events.

    By their whole names: the prefix alone of a name is somebody else's, too.
    """
    folders = {f"/aws/rds/instance/{name}/" for name in _physical(rows, DATABASE)}
    folders |= {f"/aws/ecs/containerinsights/{name.rpartition('/')[2]}/" for name in _physical(rows, CLUSTER)}
    pages = account.client("logs").get_paginator("describe_log_groups")
    return [
        group for folder in sorted(folders) for page in pages.paginate(logGroupNamePrefix=folder)
        for group in page["logGroups"]
    ]  # fmt: skip


def _physical(rows: Sequence[Mapping[str, Any]], kind: str) -> list[str]:
    return sorted({row.get("PhysicalResourceId", "") for row in rows if row["ResourceType"] == kind} - {""})


def _snapshots(account: Account, events: Sequence[Mapping[str, Any]]) -> Iterator[Left]:
    """Of the stack's databases. Ours are those made while the stack's deletion deleted them: nobody else can then."""
    pages = account.client("rds").get_paginator("describe_db_snapshots")
    for database in _physical(events, DATABASE):
        spans = _deletions(events, database)
        for page in pages.paginate(DBInstanceIdentifier=database, SnapshotType="manual"):
            for row in page["DBSnapshots"]:
                name, size = row["DBSnapshotIdentifier"], float(row.get("AllocatedStorage") or 0)
                made = row.get("SnapshotCreateTime")  # none yet while it is being made
                ours = any(made is None or begin <= made <= end for begin, end in spans)
                month = size * costs.SNAPSHOT_GB_MONTH
                yield Left(SNAPSHOT, name, f"snapshot {name}: {size:g} GB at most", month, ours)


def _deletions(events: Sequence[Mapping[str, Any]], physical: str) -> list[tuple[datetime, datetime]]:
    """When a resource was being deleted because its stack was."""
    found, stack_goes, begin = [], False, None
    for row in events:
        stack_goes = stack_goes or _is_deletion(row)
        if row.get("PhysicalResourceId") == physical and stack_goes:
            if row["ResourceStatus"] == "DELETE_IN_PROGRESS":
                begin = begin or row["Timestamp"]
            elif begin:
                found.append((begin, row["Timestamp"]))
                begin = None
    return found


def _look(account: Account, kind: str, physical: str, logical: str) -> Left | None:
    """None when it has gone meanwhile."""
    try:
        if kind == FILES:
            row = account.client("efs").describe_file_systems(FileSystemId=physical)["FileSystems"][0]
            size = float(row["SizeInBytes"]["Value"]) / _GB
            return Left(kind, physical, f"file system {physical}: {size:.1f} GB", size * costs.EFS_GB_MONTH)
        if kind == SECRET:
            if "DeletedDate" in account.client("secretsmanager").describe_secret(SecretId=physical):
                return None
            return Left(kind, physical, f"secret {physical}", costs.SECRET_MONTH)
        if kind == BUCKET:
            account.client("s3").head_bucket(Bucket=physical)
        if kind == LOGS:
            pages = account.client("logs").get_paginator("describe_log_groups").paginate(logGroupNamePrefix=physical)
            if physical not in {row["logGroupName"] for page in pages for row in page["logGroups"]}:
                return None
    except botocore.exceptions.ClientError as error:
        if code(error) in _GONE:
            return None
        raise
    return Left(kind, physical, f"{logical} ({kind}) {physical}", None)


def _certificate(account: Account, parameters: Mapping[str, str]) -> Iterator[Left]:
    if (arn := parameters.get("CertificateArn", "")) and names.is_there(account, arn):
        whose = "asked for by deploy.sh; it serves the next time" if names.made_by_us(account, arn) else "yours"
        yield Left(CERTIFICATE, arn, f"certificate {arn} ({whose})", 0.0, ours=False)


def remove(account: Account, found: Sequence[Left], out: Output) -> list[Left]:
    """What is ours goes; what stays all the same."""
    staying = []
    for left in found:
        if left.ours and left.kind in REMOVABLE:
            out.note(f"  removing {left.what}")
            try:
                _remove(account, left)
            except botocore.exceptions.ClientError as error:
                if code(error) not in _GONE:
                    raise
        else:
            staying.append(left)
            if left.ours:
                out.warn(f"{left.what} stays: remove it by hand.")
    return staying


def _remove(account: Account, left: Left) -> None:
    if left.kind == FILES:
        account.client("efs").delete_file_system(FileSystemId=left.name)
    elif left.kind == SECRET:
        account.client("secretsmanager").delete_secret(SecretId=left.name, ForceDeleteWithoutRecovery=True)
    elif left.kind == BUCKET:
        _empty(account, left.name)
        account.client("s3").delete_bucket(Bucket=left.name)
    elif left.kind == LOGS:
        account.client("logs").delete_log_group(logGroupName=left.name)
    else:
        account.client("rds").delete_db_snapshot(DBSnapshotIdentifier=left.name)


def _empty(account: Account, bucket: str) -> None:
    """Every version of every object."""
    client = account.client("s3")
    for page in client.get_paginator("list_object_versions").paginate(Bucket=bucket):
        rows = [*page.get("Versions", []), *page.get("DeleteMarkers", [])]
        if rows:
            objects = [{"Key": row["Key"], "VersionId": row["VersionId"]} for row in rows]
            client.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
