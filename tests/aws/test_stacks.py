"""What stacks and change sets do in the moments that an emulator is too quick for. CloudFormation is played here."""

# ruff: noqa: N803  # arguments are called as AWS calls them

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError
from deployment.account import Account
from deployment.errors import Failed, Refused
from deployment.names import zone_of
from deployment.output import Output
from deployment.stacks import Stack
from deployment.templates import Template

from deployment import changes

OWN = "AWS::CloudFormation::Stack"


class CloudFormation:
    """`statuses`: id and status at each look by name, the last one for ever. What is asked for is in `log`."""

    def __init__(self, *statuses: tuple[str, str], pages: list[dict[str, Any]] | None = None) -> None:
        self.statuses, self.log = list(statuses), list[tuple[str, str]]()
        self.pages = pages or [{"Status": "CREATE_COMPLETE", "Changes": []}]
        self.others: list[str] = []
        self.late = 0  # looks at events before the first one is there

    def describe_stacks(self, StackName: str) -> dict[str, Any]:
        if StackName.startswith("id-"):
            return {"Stacks": [{"StackId": StackName, "StackStatus": self.of(StackName)}]}
        stack_id, status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        if status == "none":
            raise ClientError({"Error": {"Code": "ValidationError", "Message": "does not exist"}}, "DescribeStacks")
        return {"Stacks": [{"StackId": stack_id, "StackStatus": status, "Parameters": [], "Outputs": []}]}

    def of(self, stack_id: str) -> str:
        return "DELETE_COMPLETE" if ("delete_stack", stack_id) in self.log else self.statuses[0][1]

    def create_change_set(self, **_: Any) -> dict[str, str]:
        return {"Id": "change-set", "StackId": "id-1"}

    def describe_change_set(self, ChangeSetName: str, NextToken: str = "0") -> dict[str, Any]:
        return self.pages[int(NextToken)]

    def list_change_sets(self, StackName: str) -> dict[str, Any]:
        return {"Summaries": [{"ChangeSetId": name} for name in self.others]}

    def execute_change_set(self, **asked: str) -> None:
        self.log.append(("execute", asked["ChangeSetName"]))
        self.token = asked["ClientRequestToken"]

    def delete_change_set(self, ChangeSetName: str) -> None:
        self.log.append(("delete_change_set", ChangeSetName))

    def delete_stack(self, StackName: str, **asked: str) -> None:
        self.log.append(("delete_stack", StackName))
        self.token = asked.get("ClientRequestToken", "")

    def update_termination_protection(self, StackName: str, **_: Any) -> None:
        self.log.append(("unprotect", StackName))

    def get_paginator(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(paginate=lambda **_: getattr(self, name)())

    def list_stack_resources(self) -> list[dict[str, Any]]:
        return [{"StackResourceSummaries": []}]

    def describe_stack_events(self) -> Iterator[dict[str, Any]]:
        self.late -= 1
        token = getattr(self, "token", "")
        if token and self.late < 0:
            row = {"LogicalResourceId": "s", "ResourceType": OWN, "ResourceStatus": "UPDATE_COMPLETE", "EventId": "1"}
            yield {"StackEvents": [{**row, "ClientRequestToken": token, "Timestamp": NOW}]}


NOW = datetime(2026, 1, 31, 12)


def played(found: CloudFormation) -> Stack:
    return Stack(Account("1", "eu-central-1", "who", None, {"cloudformation": found}), "dev-webhooks", Output())


@pytest.fixture
def plan() -> changes.Plan:
    return changes.Plan(Template("bridge", "Parameters: {}\n"), {})


def change(logical: str, kind: str, replacement: str = "False") -> dict[str, Any]:
    row = {"Action": "Modify", "LogicalResourceId": logical, "ResourceType": kind, "Replacement": replacement}
    return {"Type": "Resource", "ResourceChange": row}


def test_a_change_set_that_is_not_ready_in_time_is_not_carried_out(
    plan: changes.Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "TIMEOUT_S", 0.01)
    found = CloudFormation(("id-1", "UPDATE_COMPLETE"), pages=[{"Status": "CREATE_IN_PROGRESS", "Changes": []}])
    with pytest.raises(Failed, match="has not compared dev-webhooks yet: nothing was changed"):
        changes.apply(played(found), plan)
    assert found.log == [("delete_change_set", "change-set")]


def test_rule_17_what_stands_on_the_second_page_is_judged_too(plan: changes.Plan) -> None:
    pages = [
        {"Status": "CREATE_COMPLETE", "Changes": [change("Worker", "AWS::ECS::Service")], "NextToken": "1"},
        {"Status": "CREATE_COMPLETE", "Changes": [change("Files", "AWS::EFS::FileSystem", "True")]},
    ]
    found = CloudFormation(("id-1", "UPDATE_COMPLETE"), pages=pages)
    with pytest.raises(Refused, match="Files"):
        changes.apply(played(found), plan)
    assert ("execute", "change-set") not in found.log


def test_a_stack_that_somebody_made_anew_meanwhile_is_not_removed() -> None:
    """Seen as ROLLBACK_COMPLETE under one id, and there under another a moment later."""
    found = CloudFormation(("id-1", "ROLLBACK_COMPLETE"), ("id-2", "CREATE_COMPLETE"))
    assert played(found).settle(may_make=True) is False
    assert {name for what, name in found.log if what != "execute"} == {"id-1"}


@pytest.mark.parametrize("others", [[], ["somebody-elses"]])
def test_an_empty_stack_goes_with_its_last_change_set_alone(plan: changes.Plan, others: list[str]) -> None:
    found = CloudFormation(("", "none"), ("", "none"), ("id-1", "REVIEW_IN_PROGRESS"))
    found.others = ["change-set", *others]  # AWS forgets one a moment later
    assert changes.apply(played(found), plan, dry_run=True)
    assert (("delete_stack", "id-1") in found.log) is (not others)
    assert ("delete_change_set", "change-set") in found.log


def test_a_status_from_before_the_operation_is_not_its_end(plan: changes.Plan) -> None:
    found = CloudFormation(("id-1", "UPDATE_COMPLETE"))
    found.late = 3
    assert changes.apply(played(found), plan)
    assert found.late < 0  # it has looked on until there was an event
    assert ("execute", "change-set") in found.log


def test_rule_19_public_zones_are_found_behind_any_number_of_private_ones() -> None:
    def zone(name: str, number: int, *, private: bool) -> dict[str, Any]:
        return {"Name": name, "Id": f"/hostedzone/Z{number}", "Config": {"PrivateZone": private}}

    rows = [zone("example.test.", number, private=True) for number in range(4)]
    rows += [zone("example.test.", 7, private=False), zone("other.test.", 8, private=False)]

    def page(DNSName: str, HostedZoneId: str = "Z0") -> dict[str, Any]:
        here = [row for row in rows if row["Name"] >= DNSName and row["Id"] >= f"/hostedzone/{HostedZoneId}"]
        more = {"NextDNSName": here[2]["Name"], "NextHostedZoneId": here[2]["Id"][12:]} if len(here) > 2 else {}
        return {"HostedZones": here[:2], "IsTruncated": len(here) > 2, **more}

    client = SimpleNamespace(list_hosted_zones_by_name=page)
    account = Account("1", "eu-central-1", "who", None, {"route53": client})
    assert zone_of(account, "dev.example.test") == "Z7"
