"""`kwb` in a one-off task beside the bridge: the worker's network and rights, its own log, its exit status."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import botocore.exceptions

from deployment.account import Account, code
from deployment.errors import Failed
from deployment.output import Output
from deployment.stacks import pauses

CONTAINER = "admin"
START_S = 600.0
_TAIL_S = 1.5  # the last lines of a log come after its process has ended


@dataclass(frozen=True, slots=True)
class Admin:
    """Runs tasks of the stack whose outputs these are."""

    account: Account
    out: Output
    outputs: Mapping[str, str]

    def run(self, words: Sequence[str], line: Callable[[str], None]) -> int:
        """Run `kwb` with these words; `line` gets each line of its log. Its exit status.

        Raises Failed when the task does not start. Ctrl-C ends the task, too.
        """
        ecs, cluster = self.account.client("ecs"), self.outputs["ClusterName"]
        definition = self.outputs["AdminTaskDefinition"]
        answer = ecs.run_task(
            cluster=cluster, taskDefinition=definition, launchType="FARGATE", count=1, startedBy="aws/run.sh",
            networkConfiguration={
                "awsvpcConfiguration": {
                    "subnets": self.outputs["AdminSubnets"].split(","),
                    "securityGroups": [self.outputs["AdminSecurityGroup"]], "assignPublicIp": "DISABLED",
                }
            },
            overrides={"containerOverrides": [{"name": CONTAINER, "command": list(words)}]},
        )  # fmt: skip
        if not answer["tasks"]:
            raise Failed(f"The task was not started: {answer['failures'][0].get('reason', 'no reason given')}.")
        arn = answer["tasks"][0]["taskArn"]
        try:
            return self._follow(arn, _log_of(ecs, definition, arn), line)
        except KeyboardInterrupt:
            ecs.stop_task(cluster=cluster, task=arn, reason="Ctrl-C at aws/run.sh")
            raise

    def _follow(self, arn: str, log: Log | None, line: Callable[[str], None]) -> int:
        ecs, cluster = self.account.client("ecs"), self.outputs["ClusterName"]

        def look() -> dict[str, Any]:
            """ECS does not know a task at once that it has just started."""
            found: list[dict[str, Any]] = ecs.describe_tasks(cluster=cluster, tasks=[arn])["tasks"]
            return found[0] if found else {"lastStatus": "NOT KNOWN YET"}

        with self.out.progress("Starting a task") as steps:
            for _ in pauses(START_S):
                task = look()
                steps.now(task["lastStatus"])
                if task["lastStatus"] in ("RUNNING", "DEPROVISIONING", "STOPPING", "STOPPED"):
                    break
            else:
                ecs.stop_task(cluster=cluster, task=arn, reason="did not start")
                raise Failed(
                    f"The task did not start in {START_S:.0f} s.", "Is there a way to the images from its subnet?"
                )
        for _ in pauses():
            task = look()
            for text in self._new(log):
                line(text)
            if task["lastStatus"] == "STOPPED":
                break
        for _ in pauses(_TAIL_S):
            for text in self._new(log):
                line(text)
        container = next(row for row in task["containers"] if row["name"] == CONTAINER)
        if container.get("exitCode") is None:
            reason = container.get("reason") or task.get("stoppedReason") or "no reason given"
            raise Failed(f"The task did not run: {reason}", "docs/howto/aws-troubleshooting.md")
        return int(container["exitCode"])

    def _new(self, log: Log | None) -> Iterator[str]:
        if log is not None:
            yield from log.new(self.account.client("logs"))


@dataclass(slots=True)
class Log:
    """One stream of CloudWatch Logs, read on from where the last look ended."""

    group: str
    stream: str
    _token: str = ""

    def new(self, client: Any) -> Iterator[str]:
        """Lines since the last look; none while the stream is not there yet."""
        while True:
            more = {"nextToken": self._token} if self._token else {}
            try:
                found = client.get_log_events(
                    logGroupName=self.group, logStreamName=self.stream, startFromHead=True, **more
                )
            except botocore.exceptions.ClientError as error:
                if code(error) == "ResourceNotFoundException":
                    return
                raise
            for row in found["events"]:
                yield row["message"]
            if not found["events"] or found["nextForwardToken"] == self._token:
                self._token = found["nextForwardToken"]
                return
            self._token = found["nextForwardToken"]


def _log_of(ecs: Any, definition: str, arn: str) -> Log | None:
    found = ecs.describe_task_definition(taskDefinition=definition)["taskDefinition"]
    container = next(row for row in found["containerDefinitions"] if row["name"] == CONTAINER)
    options = container.get("logConfiguration", {}).get("options", {})
    group, prefix = options.get("awslogs-group"), options.get("awslogs-stream-prefix")
    if not group or not prefix:
        return None
    return Log(group, f"{prefix}/{CONTAINER}/{arn.rpartition('/')[2]}")
