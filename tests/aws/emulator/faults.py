"""Faults on purpose, read from the JSON file $EMULATOR_FAULTS at each step, so that a test changes them while it runs.

    {"Database:update": "No space left"}         it fails; by logical id or by type ("AWS::RDS::DBInstance:update")
    {"VPC:create": {"message": "…", "after": 1}} from the second time on
    {"VPC:create": {"hold": true}}               the operation waits in progress until the fault is gone
    {"certificates": "PENDING_VALIDATION"}       status of certificates that are asked for
    {"targets": "unhealthy"}                     state of every target of a load balancer
    {"image": "…:old"}                           what running tasks of services say that they run
    {"rollout": "FAILED"}                        what services say about their newest deployment
    {"task": "CannotPullContainerError"}         a one-off task does not start

`requests` of a CreateChangeSet are kept in $EMULATOR_REQUESTS, one JSON object a line: ministack forgets some of it.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ministack.core.responses import json_response, now_iso
from ministack.services import acm, alb, cloudformation, ecs, rds
from ministack.services.cloudformation import provisioners, stacks

_seen: Counter[str] = Counter()


def planned() -> dict[str, Any]:
    try:
        return json.loads(Path(os.environ["EMULATOR_FAULTS"]).read_text())
    except (OSError, ValueError):
        return {}


def install() -> None:
    for name in ("_provision_resource", "_update_resource", "_delete_resource"):
        _wrap_step(name)
    ours = stacks._runs_on_worker_thread
    # A step that is held must not hold everything else.
    stacks._runs_on_worker_thread = lambda kind: (
        ours(kind) or any(isinstance(fault, dict) and fault.get("hold") for fault in planned().values())
    )
    _wrap_rollback()
    _wrap_certificates()
    _wrap_targets()
    _wrap_services()
    _keep_requests()


def _wrap_step(name: str) -> None:
    step = getattr(provisioners, name)
    verb = {"_provision_resource": "create", "_update_resource": "update", "_delete_resource": "delete"}[name]

    def run(kind: str, *arguments: Any, **named: Any) -> Any:
        if verb == "update":
            _physical, old, new, _stack, logical, *_ = arguments
            if old == new:
                return step(kind, *arguments, **named)
        elif verb == "create":
            logical = arguments[0]
        else:
            logical = arguments[3] if len(arguments) > 3 else named.get("logical_id")
        for key in (f"{logical}:{verb}", f"{kind}:{verb}"):
            _fail_or_hold(key)
        if verb == "delete":
            _refuse_protected(kind, arguments[0])
        return step(kind, *arguments, **named)

    setattr(provisioners, name, run)
    setattr(stacks, name, run)


def _refuse_protected(kind: str, physical: str) -> None:
    """As AWS does, whoever asks; ministack does it for those alone who ask the service itself."""
    if kind == "AWS::RDS::DBInstance" and (rds._instances.get(physical) or {}).get("DeletionProtection"):
        raise ValueError("Cannot delete protected DB Instance, please disable deletion protection and try again")
    if kind == "AWS::ElasticLoadBalancingV2::LoadBalancer":
        attributes = {row["Key"]: row["Value"] for row in alb._lb_attrs.get(physical, [])}
        if attributes.get("deletion_protection.enabled") == "true":
            raise ValueError(f"Load balancer '{physical}' cannot be deleted because deletion protection is enabled")


def _wrap_rollback() -> None:
    """What the rollback of a creation could not remove is still the stack's; ministack forgets it."""
    roll_back = stacks._roll_back_operation

    async def run(name: str, stack_id: str, stack: dict[str, Any], *arguments: Any, **named: Any) -> None:
        await roll_back(name, stack_id, stack, *arguments, **named)
        if stack["StackStatus"] == "ROLLBACK_FAILED":
            more = {"ResourceStatus": "DELETE_FAILED", "Timestamp": now_iso()}
            left = {logical: {**row, **more} for logical, row in stack["_rollback_failed"].items()}
            stack["_resources"] = left

    stacks._roll_back_operation = run


def _fail_or_hold(key: str) -> None:
    fault = planned().get(key)
    if isinstance(fault, dict) and fault.get("hold"):
        while key in planned():
            time.sleep(0.05)
        return
    if isinstance(fault, dict):
        _seen[key] += 1
        fault = fault["message"] if _seen[key] > fault.get("after", 0) else None
    if fault:
        raise ValueError(fault)


def _wrap_certificates() -> None:
    requested, described = acm._request_certificate, acm._describe_certificate

    def request(data: dict[str, Any]) -> Any:
        answer = requested(data)
        if status := planned().get("certificates"):
            made = json.loads(answer[2])["CertificateArn"]
            acm._certificates[made]["Status"] = status
            acm._certificates[made]["_held"] = True
        return answer

    def describe(data: dict[str, Any]) -> Any:
        found = acm._get_local_certificate(data.get("CertificateArn", ""))
        if found and found.get("_held"):
            found["Status"] = planned().get("certificates", "ISSUED")
        return described(data)

    acm._request_certificate, acm._describe_certificate = request, describe


def _wrap_targets() -> None:
    described = alb._describe_target_health

    def describe(parameters: Any) -> Any:
        status, headers, body = described(parameters)
        if state := planned().get("targets"):
            text = body.decode() if isinstance(body, bytes) else body
            body = text.replace("<State>healthy</State>", f"<State>{state}</State>").encode()
        return status, headers, body

    for table in vars(alb).values():
        if isinstance(table, dict) and table.get("DescribeTargetHealth") is described:
            table["DescribeTargetHealth"] = describe
    alb._describe_target_health = describe


def _wrap_services() -> None:
    tasks, services = ecs._describe_tasks, ecs._describe_services

    def describe_tasks(data: dict[str, Any]) -> Any:
        answer = json.loads(tasks(data)[2])
        if image := planned().get("image"):
            for task in answer["tasks"]:
                for container in task["containers"] if task["group"].startswith("service:") else []:
                    container["image"] = image
        return json_response(answer)

    def describe_services(data: dict[str, Any]) -> Any:
        answer = json.loads(services(data)[2])
        if state := planned().get("rollout"):
            for service in answer["services"]:
                service["deployments"][0]["rolloutState"] = state
                service["deployments"][0]["rolloutStateReason"] = "tasks failed to start"
        return json_response(answer)

    ecs._describe_tasks, ecs._describe_services = describe_tasks, describe_services
    _replace(ecs, tasks, describe_tasks)
    _replace(ecs, services, describe_services)


def _replace(module: Any, old: Callable[..., Any], new: Callable[..., Any]) -> None:
    """In the module's own tables of actions."""
    for table in vars(module).values():
        if isinstance(table, dict):
            for key, value in list(table.items()) if all(isinstance(k, str) for k in table) else []:
                if value is old:
                    table[key] = new


def _keep_requests() -> None:
    from ministack.services.cloudformation import changesets, handlers

    create = changesets._create_change_set

    def kept(parameters: dict[str, Any]) -> Any:
        plain = {name: value[0] if isinstance(value, list) else value for name, value in parameters.items()}
        with Path(os.environ["EMULATOR_REQUESTS"]).open("a") as file:
            file.write(json.dumps(plain) + "\n")
        return create(parameters)

    changesets._create_change_set = kept
    for module in (handlers, cloudformation):
        if getattr(module, "_create_change_set", None) is create:
            module._create_change_set = kept
        _replace(module, create, kept)
