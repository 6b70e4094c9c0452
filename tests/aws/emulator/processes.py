"""Tasks of ECS without containers: services say that their tasks run, one-off tasks are processes of this machine.

$EMULATOR_TASK is a program that gets the container's command as its arguments and the container's environment, secrets
included, with the emulator's own PATH. What it writes goes to the container's log group line by line, its exit status
is the container's. Tasks of services are recorded and get addresses, so that load balancers have targets.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from typing import Any

from ministack.core.responses import get_account_id, get_region, request_scope
from ministack.services import ecs, secretsmanager

from emulator.faults import _replace, planned

_running: dict[str, subprocess.Popen[str]] = {}


def install() -> None:
    ecs._get_docker = lambda: None
    ecs._task_ip = _address
    run, stop = ecs._run_task, ecs._stop_task

    def run_task(data: dict[str, Any]) -> Any:
        answer = run(data)
        if data.get("group", "").startswith("service:") or not os.environ.get("EMULATOR_TASK"):
            return answer
        for shown in json.loads(answer[2]).get("tasks", []):
            task = ecs._tasks[shown["taskArn"]]
            scope = (get_account_id(), get_region())
            threading.Thread(target=_work, args=(scope, task, data), daemon=True).start()
        return answer

    def stop_task(data: dict[str, Any]) -> Any:
        if process := _running.get(data.get("task", "")):
            process.terminate()
        return stop(data)

    ecs._run_task, ecs._stop_task = run_task, stop_task
    _replace(ecs, run, run_task)
    _replace(ecs, stop, stop_task)


def _address(task: dict[str, Any]) -> str:
    """One of the private network, the same for a task at each look."""
    number = sum(task["taskArn"].encode())
    return f"10.40.2.{number % 250 + 1}"


def _secret(place: str) -> str:
    """`secret:key:stage:version`; ministack's Ref of a secret is its name, so there is no ARN to take apart."""
    name, key, _stage, version = (place + ":::").split(":")[:4]
    asked = {"SecretId": name, **({"VersionId": version} if version else {})}
    status, _, body = secretsmanager._get_secret_value(asked)
    assert status == 200, body
    text = json.loads(body)["SecretString"]
    return json.loads(text)[key] if key else text


def _rows(container: dict[str, Any], what: str) -> list[dict[str, str]]:
    """Of a container; CloudFormation leaves some names of the API in its own spelling."""
    rows = container.get(what) or container.get(what.capitalize()) or []
    return [{key[0].lower() + key[1:]: value for key, value in row.items()} for row in rows]


def _work(scope: tuple[str, str], task: dict[str, Any], data: dict[str, Any]) -> None:
    arn = task["taskArn"]
    with request_scope(*scope):
        try:
            if reason := planned().get("task"):
                raise RuntimeError(reason)
            status = _run(arn, data)
        except Exception as error:
            ecs._mark_task_stopped(arn, task, str(error), "TaskFailedToStart")
            raise
        ecs._mark_task_stopped(
            arn, task, "Essential container in task exited", "EssentialContainerExited", status
        )  # fmt: skip


def _run(arn: str, data: dict[str, Any]) -> int:
    """The process of a task, until it ends; its exit status."""
    definition = ecs._task_defs[ecs._resolve_td_key(data["taskDefinition"])]
    (container, *_) = definition["containerDefinitions"]
    environ = {row["name"]: row["value"] for row in _rows(container, "environment")}
    environ |= {row["name"]: _secret(row["valueFrom"]) for row in _rows(container, "secrets")}
    (override, *_) = data.get("overrides", {}).get("containerOverrides") or [{}]
    command = override.get("command") or container.get("command", [])
    log = ecs._awslogs_config(container, arn.rpartition("/")[2], "none")
    kept = ("PATH", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "EMULATOR_BRIDGE")
    own = {name: os.environ[name] for name in kept if name in os.environ}
    process = subprocess.Popen(
        [os.environ["EMULATOR_TASK"], *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
        env={**environ, **own, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{os.environ['GATEWAY_PORT']}"},
    )  # fmt: skip
    _running[arn] = process
    assert process.stdout is not None
    writes = bool(log) and ecs._ensure_awslogs_stream(log)
    for line in process.stdout:
        if writes:
            ecs._emit_awslogs_event(log, line.rstrip("\n"))
    return process.wait()
