"""Changes of the templates, each one that a rule is there for: a slip that AWS, or nobody, would notice.

A path names a place: `bridge/Resources/Alb/Properties/Name`, and a member of a list by its number or by one of its own
values, `Environment/Name=KAFKA_HEAP_OPTS/Value`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from resolver import copy
from world import Templates

Change = Callable[[dict[str, Any]], None]
Rule = Callable[..., Iterator[str]]
Mutant = tuple[str, Rule | tuple[Rule, ...], Change]  # its name, the rule that it breaks (seldom two), how


def member(node: Any, part: str) -> Any:
    """Key or index of a part of a path. Raises LookupError."""
    if not isinstance(node, list):
        if part not in node:
            raise KeyError(part)
        return part
    if part.isdigit():
        return int(part)
    name, _, value = part.partition("=")
    (found,) = [place for place, one in enumerate(node) if isinstance(one, dict) and one.get(name) == value]
    return found


def place(found: Any, path: str) -> tuple[Any, str]:
    *way, last = path.replace("//", "\0").split("/")
    for part in way:
        found = found[member(found, part.replace("\0", "/"))]
    return found, last.replace("\0", "/")


def put(path: str, value: Any) -> Change:
    """The place gets another value."""

    def change(found: dict[str, Any]) -> None:
        node, last = place(found, path)
        assert node[member(node, last)] != value, "it is that already"
        node[member(node, last)] = value

    return change


def new(path: str, value: Any) -> Change:
    """A place that did not exist."""

    def change(found: dict[str, Any]) -> None:
        node, last = place(found, path)
        assert last not in node, "it exists"
        node[last] = value

    return change


def drop(path: str) -> Change:
    def change(found: dict[str, Any]) -> None:
        node, last = place(found, path)
        del node[member(node, last)]

    return change


def add(path: str, value: Any) -> Change:
    """One more member of a list."""

    def change(found: dict[str, Any]) -> None:
        node, last = place(found, path)
        node[member(node, last)].append(value)

    return change


def both(*several: Change) -> Change:
    def change(found: dict[str, Any]) -> None:
        for one in several:
            one(found)

    return change


def mutant(found: Templates, change: Change) -> Templates:
    """Templates with a change; those without are the very same, and the changed ones share nothing."""
    copies = {name: copy(one) for name, one in found.items()}
    change(copies)
    return {name: found[name] if one == found[name] else one for name, one in copies.items()}


def of(resource: str, rest: str = "", template: str = "bridge") -> str:
    """Path of a property of a resource."""
    return f"{template}/Resources/{resource}/Properties" + (f"/{rest}" if rest else "")


def container(task: str, rest: str, number: int = 0) -> str:
    return of(task, f"ContainerDefinitions/{number}/{rest}")


def ref(name: str) -> dict[str, str]:
    return {"Ref": name}


def sub(text: str) -> dict[str, str]:
    return {"Fn::Sub": text}


def variable(name: str, value: Any) -> dict[str, Any]:
    return {"Name": name, "Value": value}


def ingress(group: str, source: Any, port: int, **more: Any) -> dict[str, Any]:
    """A resource that opens a group: from another, or from addresses."""
    peer = {"CidrIp": source} if isinstance(source, str) else {"SourceSecurityGroupId": source}
    properties = {"GroupId": ref(group), "IpProtocol": "tcp", "FromPort": port, "ToPort": port, **peer}
    return {
        "Type": "AWS::EC2::SecurityGroupIngress", **more, "Properties": {"Description": "slip", **properties},
    }  # fmt: skip
