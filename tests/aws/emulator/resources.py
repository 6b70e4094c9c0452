"""Resource types that ministack lacks. Each keeps nothing but an id, and answers what templates ask of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from ministack.core.responses import get_account_id, get_region, new_uuid
from ministack.services import ec2
from ministack.services.cloudformation import changesets, engine, handlers, provisioners

Attributes = Callable[[str, dict[str, Any]], dict[str, Any]]


def install() -> None:
    _parse_each_template_once()
    table = provisioners._RESOURCE_HANDLERS
    for name, handler in HANDLERS.items():
        table.setdefault(name, handler)
    for name, attributes in MORE_ATTRIBUTES.items():
        _answer_more(table[name], attributes)
    listener = table["AWS::ElasticLoadBalancingV2::Listener"]
    listener.setdefault("update", lambda physical, old, new, stack, logical=None: (physical, {"ListenerArn": physical}))


def _parse_each_template_once() -> None:
    """ministack reads a template several times a change set, and a second long each time."""
    parse, known = engine._parse_template, dict[str, dict[str, Any]]()

    def once(text: str) -> dict[str, Any]:
        if text not in known:
            known[text] = parse(text)
        return copy.deepcopy(known[text])

    for module in (engine, changesets, handlers):
        module._parse_template = once


def _answer_more(handler: dict[str, Any], more: Attributes) -> None:
    """`Fn::GetAtt` of attributes that ministack's own type does not know."""
    for verb in ("create", "update"):
        if verb in handler:
            handler[verb] = _with_more(handler[verb], verb, more)


def _with_more(step: Any, verb: str, more: Attributes) -> Any:
    def run(*arguments: Any) -> tuple[str, dict[str, Any]]:
        physical, attributes = step(*arguments)
        properties = arguments[1] if verb == "create" else arguments[2]
        return physical, {**more(physical, properties), **(attributes or {})}

    return run


def recorded(prefix: str, attributes: Attributes = lambda physical, properties: {}) -> dict[str, Any]:
    def create(logical: str, properties: dict[str, Any], stack: str) -> tuple[str, dict[str, Any]]:
        physical = f"{prefix}-{new_uuid().replace('-', '')[:17]}"
        return physical, attributes(physical, properties)

    return _handler(create, attributes)


def arn(service: str, kind: str, name: str = "") -> dict[str, Any]:
    """A type whose Ref is an ARN."""

    def create(logical: str, properties: dict[str, Any], stack: str) -> tuple[str, dict[str, Any]]:
        own = properties.get(name) or f"{stack}-{logical}"
        physical = f"arn:aws:{service}:{get_region()}:{get_account_id()}:{kind}/{own}/{new_uuid()[:8]}"
        return physical, {"Arn": physical}

    return _handler(create, lambda physical, properties: {"Arn": physical})


def _handler(create: Any, attributes: Attributes) -> dict[str, Any]:
    return {
        "create": create,
        "update": lambda physical, old, new, stack, logical=None: (physical, attributes(physical, new)),
        "delete": lambda physical, properties: None,
        "snapshot": lambda physical, properties: None,
    }


def _rule_of_group(direction: str) -> dict[str, Any]:
    """A rule in a resource of its own changes the group that it names."""
    side = "IpPermissions" if direction == "ingress" else "IpPermissionsEgress"

    def create(logical: str, properties: dict[str, Any], stack: str) -> tuple[str, dict[str, Any]]:
        group = ec2._security_groups.get(properties["GroupId"])
        if group is None:
            raise ValueError(f"The security group '{properties['GroupId']}' does not exist")
        group[side].extend(provisioners._ec2_sg_permissions([properties]))
        return f"sgr-{new_uuid().replace('-', '')[:17]}", {}

    def delete(physical: str, properties: dict[str, Any]) -> None:
        group = ec2._security_groups.get(properties.get("GroupId"))
        for permission in provisioners._ec2_sg_permissions([properties]) if group else []:
            if permission in group[side]:
                group[side].remove(permission)

    return {"create": create, "delete": delete}


HANDLERS: dict[str, dict[str, Any]] = {
    "AWS::EC2::EIP": recorded(
        "eipalloc", lambda physical, properties: {"AllocationId": physical, "PublicIp": "203.0.113.10"}
    ),
    "AWS::EC2::NatGateway": recorded("nat", lambda physical, properties: {"NatGatewayId": physical}),
    "AWS::EC2::FlowLog": recorded("fl", lambda physical, properties: {"Id": physical}),
    "AWS::EC2::SecurityGroupIngress": _rule_of_group("ingress"),
    "AWS::EC2::SecurityGroupEgress": _rule_of_group("egress"),
    "AWS::ApplicationAutoScaling::ScalableTarget": recorded("target"),
    "AWS::ApplicationAutoScaling::ScalingPolicy": arn("autoscaling", "scalingPolicy", "PolicyName"),
    "AWS::CloudWatch::CompositeAlarm": arn("cloudwatch", "alarm", "AlarmName"),
    "AWS::ECS::ClusterCapacityProviderAssociations": recorded("associations"),
    "AWS::Backup::BackupSelection": recorded("selection"),
}

MORE_ATTRIBUTES: dict[str, Attributes] = {
    "AWS::EC2::VPC": lambda physical, properties: {"CidrBlock": properties["CidrBlock"]},
}
