"""One stack of CloudFormation: what its status asks for, and its events while it changes.

Every status that AWS knows leads to one of a few ways; `Stack.settle` takes them until the stack can be changed:

    none                                              it is made
    REVIEW_IN_PROGRESS                                a change set was never carried out: it is made all the same
    ROLLBACK_COMPLETE, ROLLBACK_FAILED, CREATE_FAILED its creation failed, nothing can be updated: removed, made anew
    …_IN_PROGRESS                                     somebody is at it (we, perhaps, before Ctrl-C): waited for
    UPDATE_ROLLBACK_FAILED                            the rollback is continued, nothing skipped; then a person looks
    DELETE_FAILED, UPDATE_FAILED, IMPORT_…_FAILED     a person looks
    …_COMPLETE                                        it is updated

What is removed is named by its id: somebody else may have made the stack anew meanwhile, under the same name.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import botocore.exceptions

from deployment.account import Account, code
from deployment.errors import Failed, Refused
from deployment.output import Output, Steps

NEVER_COMPLETE = ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED")
OWN_TYPE = "AWS::CloudFormation::Stack"  # of events of a stack itself
BEGIN_S = 60.0  # until an operation has its first event
REMOVED_MAX = 5  # of stacks with one name that are looked at: some were removed before they had a parameter
_PAUSE_S_MIN, _PAUSE_S_MAX = 0.2, 5.0
# The event that CloudFormation gives every resource whose update another one's failure has stopped.
_CANCELLED = "cancelled"


@dataclass(slots=True)
class Stack:
    """A name in an account; whether there is such a stack is looked up each time."""

    account: Account
    name: str
    out: Output

    @property
    def _client(self) -> Any:
        return self.account.client("cloudformation")

    # ── looking ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def describe(self, stack_id: str = "") -> dict[str, Any] | None:
        """As DescribeStacks; None when there is none of that name. By its id a deleted one is found, too."""
        try:
            found: dict[str, Any] = self._client.describe_stacks(StackName=stack_id or self.name)["Stacks"][0]
        except botocore.exceptions.ClientError as error:
            if "does not exist" in error.response["Error"]["Message"]:
                return None
            raise
        return found

    def status(self) -> str:
        """`none` when there is no such stack."""
        found = self.describe()
        return str(found["StackStatus"]) if found else "none"

    def exists(self) -> bool:
        """Whether it was ever complete, and is not being removed."""
        status = self.status()
        return status not in ("none", "REVIEW_IN_PROGRESS", "DELETE_IN_PROGRESS", *NEVER_COMPLETE)

    def outputs(self) -> dict[str, str]:
        found = self.describe() or {}
        return {row["OutputKey"]: row["OutputValue"] for row in found.get("Outputs", [])}

    def parameters(self, stack_id: str = "") -> dict[str, str]:
        """As deployed; secret ones are `****`."""
        found = self.describe(stack_id) or {}
        return {row["ParameterKey"]: row.get("ParameterValue", "") for row in found.get("Parameters", [])}

    def resources(self, stack_id: str = "") -> list[dict[str, Any]]:
        """As ListStackResources: LogicalResourceId, PhysicalResourceId, ResourceType, ResourceStatus."""
        pages = self._client.get_paginator("list_stack_resources").paginate(StackName=stack_id or self.name)
        return [row for page in pages for row in page["StackResourceSummaries"]]

    def events(self, stack_id: str = "", token: str = "", seen: Collection[str] = ()) -> list[dict[str, Any]]:
        """Oldest first; those of one operation alone when its token is given, and those after the ids `seen`.

        AWS gives the newest first, and a stack of some age has thousands: no more is asked for than is wanted.
        """
        found: list[dict[str, Any]] = []
        pages = self._client.get_paginator("describe_stack_events").paginate(StackName=stack_id or self.name)
        for row in (row for page in pages for row in page["StackEvents"]):
            if row["EventId"] in seen or (token and found and row.get("ClientRequestToken") != token):
                break
            if not token or row.get("ClientRequestToken") == token:
                found.append(row)
        found.reverse()
        return found

    def outcome(self, token: str) -> str:
        """The stack's status at the end of the operation with this token; empty when there was none."""
        rows = self.events(token=token)
        own = [row["ResourceStatus"] for row in rows if row["ResourceType"] == OWN_TYPE]
        if not rows or (own and not own[-1].endswith("_IN_PROGRESS")):
            return str(own[-1]) if own else ""
        return self.status()  # the last event comes a moment later

    def removed(self) -> str:
        """Id of the stack of this name that was removed last, if it was a stage; AWS remembers it for 90 days."""
        pages = self._client.get_paginator("list_stacks").paginate(StackStatusFilter=["DELETE_COMPLETE"])
        try:
            rows = [row for page in pages for row in page["StackSummaries"] if row["StackName"] == self.name]
        except botocore.exceptions.ClientError as error:
            if "Denied" not in code(error):
                raise
            self.out.warn(f"Whether there was a {self.name} is not known: cloudformation:ListStacks is denied.")
            return ""
        rows.sort(key=lambda row: row.get("DeletionTime", row["CreationTime"]), reverse=True)
        for row in rows[:REMOVED_MAX]:
            if "DomainName" in self.parameters(row["StackId"]):
                return str(row["StackId"])
        return ""

    def failures(self, stack_id: str = "", token: str = "") -> list[str]:
        """What went wrong, in the order in which it did; resources that were only stopped by it are left out."""
        said = []
        for row in self.events(stack_id, token):
            reason = row.get("ResourceStatusReason", "")
            own = row["LogicalResourceId"] == self.name
            if row["ResourceStatus"].endswith("FAILED") and not own and _CANCELLED not in reason.lower():
                said.append(f"{row['LogicalResourceId']} ({row['ResourceType']}): {row['ResourceStatus']}  {reason}")
        return said

    # ── until it can be changed ───────────────────────────────────────────────────────────────────────────────────────

    def settle(self, *, may_make: bool, dry_run: bool = False) -> bool:
        """Whether the stack is to be made (True) or updated (False). Raises Refused or Failed when it is neither.

        `may_make` False: only a stack that was complete once will do. A dry run removes and waits for nothing.
        """
        while True:
            found = self.describe()
            status = found["StackStatus"] if found else "none"
            if found and status in NEVER_COMPLETE:
                self._never_complete(found, may_make=may_make, dry_run=dry_run)
                if dry_run:
                    return True
            elif status == "REVIEW_IN_PROGRESS" and may_make:
                self.out.note(f"{self.name} is left over from a change set that was never carried out: it is made.")
                return True
            elif status == "REVIEW_IN_PROGRESS":
                raise Refused(f"{self.name} is {status}: it was never complete.", "./aws/deploy.sh makes it.")
            elif status.endswith("_IN_PROGRESS"):
                if dry_run:
                    raise Refused(f"{self.name} is {status}.", "Ask again when that is over.")
                self.out.warn(f"{self.name} is {status}: somebody is at it. This waits until that is over.")
                self.wait(f"{self.name} is {status}", str(found["StackId"]) if found else "")
            elif status == "none":
                if not may_make:
                    raise Refused(
                        f"There is no stack {self.name} in {self.account.region}.", "./aws/deploy.sh makes one."
                    )
                return True
            elif status == "UPDATE_ROLLBACK_FAILED":
                self._continue(dry_run)
            elif status.endswith("_FAILED"):
                self._say_failures()
                raise Refused(f"{self.name} is {status}; a person has to look at it.", _hint(status, self.name))
            else:
                return False

    def at_rest(self) -> dict[str, Any] | None:
        """As DescribeStacks, when nothing is under way any more; None when there is no such stack."""
        while (found := self.describe()) and found["StackStatus"].endswith("_IN_PROGRESS"):
            if found["StackStatus"] == "REVIEW_IN_PROGRESS":
                break
            self.out.warn(f"{self.name} is {found['StackStatus']}: this waits until that is over.")
            self.wait(f"{self.name} is {found['StackStatus']}", str(found["StackId"]))
        return found

    def _never_complete(self, found: Mapping[str, Any], *, may_make: bool, dry_run: bool) -> None:
        status, stack_id = found["StackStatus"], str(found["StackId"])
        if not may_make:
            raise Refused(f"{self.name} is {status}: it was never complete.", "./aws/deploy.sh makes it anew.")
        if dry_run:
            self.out.note(f"{self.name} is {status}: it would be removed and made anew.")
            return
        self.out.warn(f"{self.name} is {status}. What went wrong when it was made:")
        self._say_failures()
        for row in self.resources(stack_id):
            if not row["ResourceStatus"].startswith("DELETE_COMPLETE"):
                self.out.note(f"  left: {row['LogicalResourceId']} {row.get('PhysicalResourceId', '')}")
        self.unprotect(stack_id)
        self.delete(stack_id)

    def _continue(self, dry_run: bool) -> None:
        """Nothing is skipped: a skipped resource is one whose state nobody knows."""
        self.out.warn(f"{self.name} is UPDATE_ROLLBACK_FAILED. What could not be taken back:")
        self._say_failures()
        if dry_run:
            raise Refused(f"{self.name} is UPDATE_ROLLBACK_FAILED.", "Without --dry-run its rollback is continued.")
        token = new_token()
        self._client.continue_update_rollback(StackName=self.name, ClientRequestToken=token)
        status = self.follow(f"Continuing the rollback of {self.name}", token)
        if status != "UPDATE_ROLLBACK_COMPLETE":
            self._say_failures(token)
            raise Failed(f"The rollback of {self.name} failed again: {status}.", _hint(status, self.name))
        raise Failed(
            f"{self.name} is rolled back to what ran before. Nothing else was changed.",
            "Look at why the update failed, then run this command again.",
        )

    def _say_failures(self, token: str = "") -> None:
        for line in self.failures(token=token):
            self.out.note(f"  {line}", "red")

    # ── changing ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def execute(self, change_set: str, what: str, total: int, token: str) -> str:
        """Carry a change set out and follow it; the status at the end. Failures have been told.

        `token` is what the operation's events are marked with.
        """
        self._client.execute_change_set(ChangeSetName=change_set, ClientRequestToken=token)
        status = self.follow(what, token, total=total)
        if not status.endswith("_COMPLETE") or "ROLLBACK" in status:
            self.out.note(f"{self.name} is {status}. What went wrong:")
            self._say_failures(token)
        return status

    def follow(self, what: str, token: str, *, total: int | None = None, stack_id: str = "") -> str:
        """Show the operation's events until it is over; the status then."""
        seen: set[str] = set()
        done: set[str] = set()

        def show(steps: Steps) -> None:
            for row in self.events(stack_id, token, seen):
                seen.add(row["EventId"])
                if row["ResourceStatus"].endswith("_COMPLETE"):
                    done.add(row["LogicalResourceId"])
                resource = f"{row['LogicalResourceId']} ({row['ResourceType']})"
                reason = row.get("ResourceStatusReason", "")
                steps.event(row["Timestamp"], row["ResourceStatus"], resource, reason, done=len(done))

        # Before the first event a status may still be the one from before the operation.
        return self.wait(what, stack_id, show=show, total=total, begun=lambda: bool(seen))

    def wait(
        self, what: str, stack_id: str = "", *, show: Callable[[Steps], None] | None = None, total: int | None = None,
        begun: Callable[[], bool] = lambda: True,
    ) -> str:  # fmt: skip
        """Until no operation is under way; the status then, `none` when the stack has gone."""
        with self.out.progress(what, total) as steps:
            for elapsed_s in pauses():
                found = self.describe(stack_id)
                status = found["StackStatus"] if found else "none"
                if show:
                    show(steps)
                else:
                    steps.now(status)
                over = not status.endswith("_IN_PROGRESS") or status == "REVIEW_IN_PROGRESS"
                if over and (begun() or elapsed_s > BEGIN_S):
                    return status
        raise AssertionError("pauses end by themselves")

    def unprotect(self, stack_id: str = "") -> None:
        """What keeps it and its database and load balancers from going by accident: this is none.

        They are protected as soon as they are made, so that a creation that fails cannot even be rolled back before.
        """
        self._client.update_termination_protection(StackName=stack_id or self.name, EnableTerminationProtection=False)
        for row in self.resources(stack_id):
            kind, physical = row["ResourceType"], row.get("PhysicalResourceId")
            if not physical or row["ResourceStatus"] == "DELETE_COMPLETE":
                continue
            if kind == "AWS::RDS::DBInstance":
                self._unprotect_database(physical)
            elif kind == "AWS::ElasticLoadBalancingV2::LoadBalancer":
                client = self.account.client("elbv2")
                with contextlib.suppress(client.exceptions.LoadBalancerNotFoundException):
                    client.modify_load_balancer_attributes(
                        LoadBalancerArn=physical, Attributes=[{"Key": "deletion_protection.enabled", "Value": "false"}]
                    )

    def _unprotect_database(self, name: str) -> None:
        client = self.account.client("rds")
        try:
            if client.describe_db_instances(DBInstanceIdentifier=name)["DBInstances"][0].get("DeletionProtection"):
                client.modify_db_instance(DBInstanceIdentifier=name, DeletionProtection=False, ApplyImmediately=True)
        except client.exceptions.DBInstanceNotFoundFault:
            return
        except client.exceptions.InvalidDBInstanceStateFault as error:
            raise Refused(error.response["Error"]["Message"], f"When {name} is available, run this again.") from None

    def delete(self, stack_id: str) -> None:
        """Remove the stack of that id and wait. Raises Failed when something could not be removed."""
        token = new_token()
        self._client.delete_stack(StackName=stack_id, ClientRequestToken=token)
        status = self.follow(f"Removing {self.name}", token, stack_id=stack_id)
        if status not in ("none", "DELETE_COMPLETE"):
            for line in self.failures(stack_id, token):
                self.out.note(f"  {line}", "red")
            raise Failed(f"{self.name} could not be removed: {status}.", _hint(status, self.name))


def pauses(limit_s: float | None = None) -> Iterator[float]:
    """Time to look again, sooner at first: for `for _ in pauses():`. Seconds since the start; ends after `limit_s`."""
    start, pause_s = time.monotonic(), _PAUSE_S_MIN
    while True:
        elapsed_s = time.monotonic() - start
        yield elapsed_s
        if limit_s is not None and elapsed_s >= limit_s:
            return
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.3, _PAUSE_S_MAX)


def new_token() -> str:
    """What the events of one operation are marked with."""
    return f"kwb-{secrets.token_hex(8)}"


def _hint(status: str, name: str) -> str:
    look = f"aws cloudformation describe-stack-events --stack-name {name}"
    if status == "DELETE_FAILED":
        return f"Remove what is named above or its protection, then `./aws/destroy.sh` again. {look}"
    return f"docs/howto/aws-troubleshooting.md. {look}"
