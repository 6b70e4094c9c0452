"""One stack of CloudFormation: what its status asks for, and its events while it changes.

Every status that AWS knows leads to one of a few ways; `Stack.settle` takes them until the stack can be changed:

    none                                              it is made
    REVIEW_IN_PROGRESS                                left over from a change set that was never carried out: removed
    ROLLBACK_COMPLETE, ROLLBACK_FAILED, CREATE_FAILED its creation failed, nothing can be updated: removed, made anew
    …_IN_PROGRESS                                     somebody is at it (we, perhaps, before Ctrl-C): waited for
    UPDATE_ROLLBACK_FAILED                            the rollback is continued, nothing skipped; then a person looks
    DELETE_FAILED, UPDATE_FAILED, IMPORT_…_FAILED     a person looks
    …_COMPLETE                                        it is updated
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import botocore.exceptions

from deployment.account import Account
from deployment.errors import Failed, Refused
from deployment.output import Output, Steps

NEVER_COMPLETE = ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED")
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

    def parameters(self) -> dict[str, str]:
        """As deployed; secret ones are `****`."""
        found = self.describe() or {}
        return {row["ParameterKey"]: row.get("ParameterValue", "") for row in found.get("Parameters", [])}

    def resources(self) -> list[dict[str, Any]]:
        """As ListStackResources: LogicalResourceId, PhysicalResourceId, ResourceType, ResourceStatus."""
        pages = self._client.get_paginator("list_stack_resources").paginate(StackName=self.name)
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
            if status == "REVIEW_IN_PROGRESS" or status in NEVER_COMPLETE:
                self._never_complete(status, may_make=may_make, dry_run=dry_run)
                if dry_run:
                    return True
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

    def _never_complete(self, status: str, *, may_make: bool, dry_run: bool) -> None:
        if not may_make:
            raise Refused(f"{self.name} is {status}: it was never complete.", "./aws/deploy.sh makes it anew.")
        if dry_run:
            self.out.note(f"{self.name} is {status}: it would be removed and made anew.")
            return
        if status == "REVIEW_IN_PROGRESS":
            self.out.note(f"{self.name} is left over from a change set that was never carried out: it is removed.")
        else:
            self.out.warn(f"{self.name} is {status}. What went wrong when it was made:")
            self._say_failures()
            for row in self.resources():
                if not row["ResourceStatus"].startswith("DELETE_COMPLETE"):
                    self.out.note(f"  left: {row['LogicalResourceId']} {row.get('PhysicalResourceId', '')}")
            self.unprotect()
        self.delete()

    def _continue(self, dry_run: bool) -> None:
        """Nothing is skipped: a skipped resource is one whose state nobody knows."""
        self.out.warn(f"{self.name} is UPDATE_ROLLBACK_FAILED. What could not be taken back:")
        self._say_failures()
        if dry_run:
            raise Refused(f"{self.name} is UPDATE_ROLLBACK_FAILED.", "Without --dry-run its rollback is continued.")
        token = _token()
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

    def execute(self, change_set: str, what: str, total: int) -> str:
        """Carry a change set out and follow it; the status at the end. Failures have been told."""
        token = _token()
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

        return self.wait(what, stack_id, show=show, total=total)

    def wait(
        self, what: str, stack_id: str = "", *, show: Callable[[Steps], None] | None = None, total: int | None = None
    ) -> str:
        """Until no operation is under way; the status then, `none` when the stack has gone."""
        with self.out.progress(what, total) as steps:
            for _ in pauses():
                found = self.describe(stack_id)
                status = found["StackStatus"] if found else "none"
                if show:
                    show(steps)
                else:
                    steps.now(status)
                if not status.endswith("_IN_PROGRESS") or status == "REVIEW_IN_PROGRESS":
                    return status
        raise AssertionError("pauses end by themselves")

    def unprotect(self) -> None:
        """What keeps it and its database and load balancers from going by accident: this is none.

        They are protected as soon as they are made, so that a creation that fails cannot even be rolled back before.
        """
        self._client.update_termination_protection(StackName=self.name, EnableTerminationProtection=False)
        for row in self.resources():
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

    def delete(self) -> str:
        """Remove it and wait; its id. Raises Failed when something could not be removed."""
        found = self.describe()
        if found is None:
            return ""
        stack_id, token = str(found["StackId"]), _token()
        self._client.delete_stack(StackName=stack_id, ClientRequestToken=token)
        status = self.follow(f"Removing {self.name}", token, stack_id=stack_id)
        if status not in ("none", "DELETE_COMPLETE"):
            for line in self.failures(stack_id, token):
                self.out.note(f"  {line}", "red")
            raise Failed(f"{self.name} could not be removed: {status}.", _hint(status, self.name))
        return stack_id

    def kept(self, stack_id: str) -> list[dict[str, Any]]:
        """What a deletion left in place on purpose: events with LogicalResourceId, PhysicalResourceId, ResourceType."""
        return [row for row in self.events(stack_id) if row["ResourceStatus"] == "DELETE_SKIPPED"]


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


def _token() -> str:
    return f"kwb-{secrets.token_hex(8)}"


def _hint(status: str, name: str) -> str:
    look = f"aws cloudformation describe-stack-events --stack-name {name}"
    if status == "DELETE_FAILED":
        return f"Remove what is named above or its protection, then `./aws/destroy.sh` again. {look}"
    return f"docs/howto/aws-troubleshooting.md. {look}"
