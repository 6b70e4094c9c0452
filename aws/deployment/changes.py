"""A change set: what it would do, whether that may be done, and doing it.

Nothing is ever changed on AWS but through one of these, so that it can be shown beforehand. A change that would make a
new database, file system or load balancer in the place of the old one is refused unless ALLOW_REPLACE names it; one
that only may do so is a warning.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import botocore.exceptions

from deployment.errors import Failed, Refused
from deployment.output import Output
from deployment.parameters import compose
from deployment.stacks import NEVER_COMPLETE, Stack, new_token, pauses
from deployment.templates import Template

GUARDED = frozenset(
    {"AWS::RDS::DBInstance", "AWS::EFS::FileSystem", "AWS::ElasticLoadBalancingV2::LoadBalancer"}
)  # fmt: skip
CAPABILITIES = ["CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"]
LOSSES = {"Remove": "would be removed", "Dynamic": "may be replaced or removed, AWS cannot say yet"}
_EMPTY = ("didn't contain changes", "No updates are to be performed")
TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Change:
    """One resource. `replacement`: True, False, or None for "may be"."""

    action: str
    logical: str
    kind: str
    replacement: bool | None
    causes: tuple[str, ...]

    @property
    def loses(self) -> bool:
        """Whether what is guarded goes. `Dynamic` is an action that AWS itself does not know yet: it may be any."""
        return self.kind in GUARDED and (self.action in ("Remove", "Dynamic") or self.replacement is True)


def read(resource: dict[str, Any]) -> Change:
    """One ResourceChange of DescribeChangeSet.

    "Conditional" counts as True when a target whose value is known already (Evaluation Static) needs it always. What is
    changed without a word about replacement may be replaced.
    """
    details = resource.get("Details", [])
    unsaid = "Conditional" if resource["Action"] in ("Modify", "Dynamic") else "False"
    replacement: bool | None = {"True": True, "False": False}.get(resource.get("Replacement") or unsaid)
    if replacement is None:
        certain = any(
            detail.get("Evaluation") == "Static" and detail.get("Target", {}).get("RequiresRecreation") == "Always"
            for detail in details
        )
        replacement = True if certain else None
    causes = []
    for detail in details:
        target = detail.get("Target", {})
        causes.append(target.get("Name") or target.get("Attribute", ""))
    return Change(
        resource["Action"], resource["LogicalResourceId"], resource["ResourceType"], replacement,
        tuple(dict.fromkeys(filter(None, causes))),
    )  # fmt: skip


def guard(changes: Sequence[Change], allowed: Collection[str], out: Output) -> None:
    """Raises Refused for a replacement or removal that is not allowed; warns of those that may come."""
    lost = [change for change in changes if change.loses and change.logical not in allowed]
    if lost:
        names = ",".join(change.logical for change in lost)
        what = "; ".join(
            f"{change.logical} ({change.kind}) {LOSSES.get(change.action, 'would be replaced')}"
            + (f" because of {', '.join(change.causes)}" if change.causes else "")
            for change in lost
        )
        raise Refused(f"{what}.", f"If that is meant: ALLOW_REPLACE={names}. Its data are not carried over.")
    for change in changes:
        if change.kind in GUARDED and change.replacement is None and change.action == "Modify":
            out.warn(f"{change.logical} may be replaced, because of {', '.join(change.causes) or 'its template'}.")


@dataclass(frozen=True, slots=True)
class Plan:
    """What to make of a stack. `url` is empty where the template goes with the request."""

    template: Template
    wanted: dict[str, str]
    url: str = ""
    allow_replace: frozenset[str] = frozenset()
    alarms: tuple[str, ...] = ()
    """ARNs of alarms that take an update back; never of a creation."""


ALARM_MINUTES = 5


def apply(
    stack: Stack, plan: Plan, *, may_make: bool = True, dry_run: bool = False, begin: Callable[[], str] = new_token
) -> bool:
    """Bring the stack to the plan; whether anything changed (would change, in a dry run).

    `begin` is called when everything is ready to be carried out, and names the operation. Raises Refused by the guard
    or by the stack's status, Failed when AWS did not get there.
    """
    new = stack.settle(may_make=may_make, dry_run=dry_run)
    if dry_run and new and stack.status() in NEVER_COMPLETE:
        return True  # what is there would be removed first; the name is taken until then
    name = f"kwb-{secrets.token_hex(6)}"
    client = stack.account.client("cloudformation")
    request: dict[str, Any] = {
        "StackName": stack.name, "ChangeSetName": name, "ChangeSetType": "CREATE" if new else "UPDATE",
        "Parameters": compose(plan.template, None if new else stack.parameters(), plan.wanted),
        "Capabilities": CAPABILITIES,
        **({"TemplateURL": plan.url} if plan.url else {"TemplateBody": plan.template.text}),
    }  # fmt: skip
    if plan.alarms:
        request["RollbackConfiguration"] = {
            "RollbackTriggers": [{"Arn": arn, "Type": "AWS::CloudWatch::Alarm"} for arn in plan.alarms],
            "MonitoringTimeInMinutes": ALARM_MINUTES,
        }
    elif not new:
        request["RollbackConfiguration"] = {"RollbackTriggers": []}  # those of the update before, else
    answer = client.create_change_set(**request)
    made, empty = answer["Id"], answer["StackId"] if new else ""
    try:
        found = _described(client, made, stack)
        if found is None:
            stack.out.note(f"{stack.name}: nothing to change.")
            _forget(stack, made, empty)
            return False
        show(stack, found, new=new)
        if not new:
            guard(found, plan.allow_replace, stack.out)
        token = "" if dry_run else begin()
    except BaseException:
        with contextlib.suppress(botocore.exceptions.ClientError):  # AWS keeps one that it still works at
            _forget(stack, made, empty)
        raise
    if dry_run:
        _forget(stack, made, empty)
        return True
    what = f"{'Making' if new else 'Updating'} {stack.name}"
    status = stack.execute(made, what, len(found) + 1, token)
    if status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
        if status == "UPDATE_ROLLBACK_COMPLETE":
            raise Failed(f"{stack.name} was not updated: AWS took it back, and what ran before runs on.")
        again = "Run this command again: it continues the rollback." if status == "UPDATE_ROLLBACK_FAILED" else (
            "Run this command again when the cause is gone: the rest is removed first."
        )  # fmt: skip
        raise Failed(f"{stack.name} is {status}.", again)
    return True


def _described(client: Any, made: str, stack: Stack) -> list[Change] | None:
    """What it would do; None when nothing. Raises Failed when AWS does not say, in time or at all."""
    with stack.out.progress(f"Comparing {stack.name}"):
        for _ in pauses(TIMEOUT_S):
            found = client.describe_change_set(ChangeSetName=made)
            if found["Status"] not in ("CREATE_PENDING", "CREATE_IN_PROGRESS"):
                break
        else:
            raise Failed(
                f"After {TIMEOUT_S:g} s AWS has not compared {stack.name} yet: nothing was changed.",
                "Run this command again.",
            )
    if found["Status"] != "CREATE_COMPLETE":
        reason = found.get("StatusReason", "")
        if found["Status"] == "FAILED" and any(text in reason for text in _EMPTY):
            return None
        raise Failed(f"{stack.name}: {reason or 'the change set is ' + found['Status']}")
    rows = list(found["Changes"])
    while token := found.get("NextToken"):
        found = client.describe_change_set(ChangeSetName=made, NextToken=token)
        rows += found["Changes"]
    return [read(row["ResourceChange"]) for row in rows if row.get("Type", "Resource") == "Resource"]


def show(stack: Stack, changes: Sequence[Change], *, new: bool) -> None:
    """The change set for people."""
    stack.out.heading(f"{stack.name}: {'is made' if new else 'changes'}")
    if new:
        kinds: dict[str, int] = {}
        for change in changes:
            kinds[change.kind] = kinds.get(change.kind, 0) + 1
        stack.out.table(("resources", "type"), [(str(count), kind) for kind, count in sorted(kinds.items())])
        return
    words = {True: "replaced", None: "may be replaced", False: ""}
    stack.out.table(
        ("change", "type", "replaced", "because of"),
        [
            (f"{change.action} {change.logical}", change.kind, words[change.replacement], ", ".join(change.causes))
            for change in changes
        ],
    )


def _forget(stack: Stack, made: str, empty: str) -> None:
    """A change set that is not carried out; `empty` is the id of the stack that it was to make, which goes with it.

    Not when somebody else has a change set there, or has begun to make it.
    """
    client = stack.account.client("cloudformation")
    client.delete_change_set(ChangeSetName=made)
    if not empty:
        return
    others = [row for row in client.list_change_sets(StackName=empty)["Summaries"] if row["ChangeSetId"] != made]
    if not others and (stack.describe(empty) or {}).get("StackStatus") == "REVIEW_IN_PROGRESS":
        client.delete_stack(StackName=empty)
