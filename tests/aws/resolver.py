"""What CloudFormation would make of a template: parameters put in, conditions decided, functions called.

What exists only after creation stays a token: `<Cluster>` is what Ref gives, `<ALB.DNSName>` what GetAtt gives. Two
resources that name the same thing therefore name equal strings. The template is read as CloudFormation reads it, so a
key that is given twice is an error, and so is a reference to something that the conditions leave out.
"""

from __future__ import annotations

import ipaddress
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

Template = dict[str, Any]
Parameters = Mapping[str, str]
Facts = Mapping[tuple[str, str], list[str]]
"""What AWS knows of a parameter's value, for Fn::ValueOf: `("PrivateSubnetIds", "VpcId")` → one value a member."""

REGION = "ap-southeast-1"  # as long as any name of a region that is open to all
PSEUDO = {
    "AWS::AccountId": "123456789012",
    "AWS::Partition": "aws",
    "AWS::Region": REGION,
    "AWS::StackId": f"arn:aws:cloudformation:{REGION}:123456789012:stack/staging-webhooks/5d0c",
    "AWS::StackName": "staging-webhooks",
    "AWS::URLSuffix": "amazonaws.com",
}
NOTHING = object()  # AWS::NoValue
LISTS = re.compile(r"CommaDelimitedList|List<.*>|AWS::SSM::Parameter::Value<(List<.*>|CommaDelimitedList)>")
VARIABLE = re.compile(r"\$\{(!?)([^}]+)\}")


class Unresolvable(Exception):
    """CloudFormation would refuse the template, or this resolver does not know a function of it."""


class _Loader(yaml.CSafeLoader):
    """YAML as CloudFormation reads it: its short tags, dates as text, no key twice."""


def _tagged(loader: _Loader, suffix: str, node: yaml.Node) -> Any:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = _mapping(loader, node)
    if suffix in {"Ref", "Condition"}:
        return {suffix: value}
    if suffix == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {f"Fn::{suffix}": value}


def _mapping(loader: _Loader, node: yaml.Node) -> dict[str, Any]:
    pairs = loader.construct_pairs(node, deep=True)
    seen = dict(pairs)
    if len(seen) != len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise Unresolvable(f"line {node.start_mark.line + 1}: given twice: {', '.join(map(str, twice))}")
    return seen


_Loader.add_multi_constructor("!", _tagged)
_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", lambda loader, node: loader.construct_scalar(node))


def read(text: str) -> Template:
    """A template, short tags written as `Fn::…`. Raises Unresolvable for what CloudFormation's YAML does not have."""
    if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.CSafeLoader)):
        raise Unresolvable("YAML aliases, which CloudFormation does not read")
    found: Template = yaml.load(text, _Loader)
    return found


def load(path: Path) -> Template:
    return read(path.read_text(encoding="utf-8"))


def copy(template: Template) -> Template:
    """Nothing in the copy is shared."""
    found: Template = json.loads(json.dumps(template))
    return found


@dataclass(frozen=True)
class Resource:
    """One resource that exists. `uses` are the logical ids that its properties name, `reads` the parameters that decide
    them, by conditions too, and `after` the logical ids of DependsOn."""

    id: str
    type: str
    properties: dict[str, Any]
    deletion: str
    replaced: str
    after: frozenset[str] = frozenset()
    uses: frozenset[str] = frozenset()
    reads: frozenset[str] = frozenset()
    metadata: dict[str, Any] = field(default_factory=dict)

    def get(self, path: str, default: Any = None) -> Any:
        """The property at `a.b.c`, or the default."""
        value: Any = self.properties
        for part in path.split("."):
            if not isinstance(value, dict) or part not in value:
                return default
            value = value[part]
        return value


@dataclass(frozen=True, eq=False)
class Stack:
    """A template with its parameters: what would exist, and the sentences with which its Rules refuse them."""

    parameters: dict[str, str | list[str]]
    conditions: dict[str, bool]
    resources: dict[str, Resource]
    outputs: dict[str, Any]
    refused: list[str]

    @cached_property
    def by_type(self) -> dict[str, list[Resource]]:
        found: dict[str, list[Resource]] = {}
        for one in self.resources.values():
            found.setdefault(one.type, []).append(one)
        return found

    def of(self, kind: str, **properties: Any) -> list[Resource]:
        """The resources of a type (`ECS::Service`), in the template's order, whose properties have these values."""
        return [
            one
            for one in self.by_type.get(f"AWS::{kind}", [])
            if all(one.properties.get(name) == value for name, value in properties.items())
        ]

    def at(self, value: Any) -> Resource | None:
        """The resource that a token names, by Ref or by GetAtt."""
        found = re.fullmatch(r"<([A-Za-z0-9]+)(\.[\w.]+)?>", value) if isinstance(value, str) else None
        return self.resources.get(found[1]) if found else None


def text(value: Any) -> str:
    """A scalar as CloudFormation passes it on: `true`, not `True`."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def strings(value: Any) -> Iterator[str]:
    """Every scalar inside, keys too."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield text(name)
            yield from strings(one)
    elif isinstance(value, list):
        for one in value:
            yield from strings(one)
    elif value is not None:
        yield text(value)


def unfit(template: Template, given: Parameters) -> list[str]:
    """The parameters' values that CloudFormation would refuse before it starts, by name."""
    declared = template.get("Parameters", {})
    problems = [f"{name}: there is no such parameter" for name in given if name not in declared]
    for name, facts in declared.items():
        if name not in given and "Default" not in facts:
            problems.append(f"{name}: not given")
            continue
        value = text(given.get(name, facts.get("Default")))
        for part in value.split(",") if LISTS.fullmatch(facts["Type"]) else [value]:
            if "AllowedValues" in facts and part not in map(text, facts["AllowedValues"]):
                problems.append(f"{name}: {part!r} is not one of its values")
            if "AllowedPattern" in facts and not re.fullmatch(facts["AllowedPattern"], part):
                problems.append(f"{name}: {part!r} does not match its pattern")
            if not int(facts.get("MinLength", 0)) <= len(part) <= int(facts.get("MaxLength", 4096)):
                problems.append(f"{name}: {part!r} is too short or too long")
            if facts["Type"] == "Number":
                low, high = (
                    float(facts.get(key, default)) for key, default in (("MinValue", "-inf"), ("MaxValue", "inf"))
                )
                if not re.fullmatch(r"-?\d+(\.\d+)?", part) or not low <= float(part) <= high:
                    problems.append(f"{name}: {part!r} is no number from {low:g} to {high:g}")
    return problems


class _Resolver:
    def __init__(self, template: Template, given: Parameters, facts: Facts) -> None:
        self.template, self.facts = template, facts
        self.parameters: dict[str, str | list[str]] = {}
        for name, declared in template.get("Parameters", {}).items():
            if name not in given and "Default" not in declared:
                raise Unresolvable(f"parameter {name} is not given")
            value = text(given.get(name, declared.get("Default")))
            self.parameters[name] = value.split(",") if LISTS.fullmatch(declared["Type"]) else value
        self.conditions: dict[str, bool] = {}
        self.decided: dict[str, frozenset[str]] = {}  # condition → the parameters that it reads
        self.seen: set[str] = set()
        self.functions: dict[str, Callable[[Any], Any]] = {
            "Ref": self.ref,
            "Condition": self.condition,
            "Fn::GetAtt": self.getatt,
            "Fn::Sub": self.sub,
            "Fn::If": self.choose,
            "Fn::Equals": lambda v: text(self.value(v[0])) == text(self.value(v[1])),
            "Fn::Not": lambda v: not self.value(v[0]),
            "Fn::And": lambda v: all(list(map(self.value, v))),
            "Fn::Or": lambda v: any(list(map(self.value, v))),
            "Fn::FindInMap": self.find,
            "Fn::Join": lambda v: text(v[0]).join(text(one) for one in self.value(v[1])),
            "Fn::Split": lambda v: text(self.value(v[1])).split(text(v[0])),
            "Fn::Select": self.select,
            "Fn::GetAZs": lambda _: [f"{REGION}{zone}" for zone in "abc"],
            "Fn::Cidr": self.cidr,
            "Fn::Base64": lambda v: self.value(v),
            "Fn::Length": lambda v: len(self.value(v)),
            "Fn::ToJsonString": lambda v: json.dumps(self.value(v), separators=(",", ":")),
            # Of Rules alone:
            "Fn::Contains": lambda v: self.value(v[1]) in self.value(v[0]),
            "Fn::EachMemberIn": lambda v: set(self.value(v[0])) <= set(self.value(v[1])),
            "Fn::EachMemberEquals": lambda v: all(one == self.value(v[1]) for one in self.value(v[0])),
            "Fn::ValueOf": lambda v: self.facts[(v[0], v[1])],
            "Fn::ValueOfAll": lambda v: [
                one for (name, what), all_ in self.facts.items() for one in all_ if what == v[1]
            ],
        }

    def value(self, node: Any) -> Any:
        if isinstance(node, dict):
            if len(node) == 1 and ((name := next(iter(node))).startswith("Fn::") or name in {"Ref", "Condition"}):
                if name not in self.functions:
                    raise Unresolvable(f"{name} is not known here")
                if name != "Condition" or isinstance(node[name], str):
                    return self.functions[name](node[name])
            kept = ((name, self.value(one)) for name, one in node.items())
            return {name: one for name, one in kept if one is not NOTHING}
        if isinstance(node, list):
            return [found for one in node if (found := self.value(one)) is not NOTHING]
        return node

    def exists(self, name: str) -> None:
        resource = self.template["Resources"].get(name)
        if resource is None:
            raise Unresolvable(f"there is no {name}")
        if "Condition" in resource and not self.condition(resource["Condition"]):
            raise Unresolvable(f"{name} does not exist here ({resource['Condition']})")
        self.seen.add(name)

    def ref(self, name: str) -> Any:
        if name == "AWS::NoValue":
            return NOTHING
        if name in self.parameters:
            self.seen.add(name)
            return self.parameters[name]
        if name in PSEUDO:
            return PSEUDO[name]
        self.exists(name)
        return f"<{name}>"

    def getatt(self, way: list[Any] | str) -> str:
        way = way.split(".", 1) if isinstance(way, str) else way
        self.exists(way[0])
        return f"<{way[0]}.{text(self.value(way[1]))}>"

    def sub(self, argument: Any) -> str:
        pattern, own = (argument, {}) if isinstance(argument, str) else argument

        def one(found: re.Match[str]) -> str:
            literal, name = found[1], found[2].strip()
            if literal:
                return f"${{{name}}}"
            if name in own:
                return text(self.value(own[name]))
            value = self.getatt(name.split(".", 1)) if "." in name else self.ref(name)
            if not isinstance(value, str):
                raise Unresolvable(f"${{{name}}} is no text")
            return value

        return VARIABLE.sub(one, pattern)

    def condition(self, name: str) -> bool:
        if name not in self.conditions:
            if name not in self.template.get("Conditions", {}):
                raise Unresolvable(f"there is no condition {name}")
            outside, self.seen = self.seen, set()
            self.conditions[name] = bool(self.value(self.template["Conditions"][name]))
            self.decided[name], self.seen = frozenset(self.seen), outside
        self.seen |= self.decided[name]
        return self.conditions[name]

    def choose(self, argument: list[Any]) -> Any:
        name, then, otherwise = argument
        return self.value(then if self.condition(name) else otherwise)

    def find(self, argument: list[Any]) -> Any:
        table, first, second = (text(self.value(one)) for one in argument[:3])
        try:
            return self.template["Mappings"][table][first][second]
        except KeyError:
            if len(argument) == 4:
                return self.value(argument[3]["DefaultValue"])
            raise Unresolvable(f"the mapping {table} has no {first}.{second}") from None

    def select(self, argument: list[Any]) -> Any:
        index, several = int(self.value(argument[0])), self.value(argument[1])
        if not index < len(several):
            raise Unresolvable(f"no member {index} of {several}")
        return several[index]

    def cidr(self, argument: list[Any]) -> list[str]:
        block, count, bits = (text(self.value(one)) for one in argument)
        subnets = ipaddress.ip_network(block).subnets(new_prefix=32 - int(bits))
        return [str(one) for one in itertools.islice(subnets, int(count))]

    def resource(self, name: str, found: dict[str, Any]) -> Resource:
        self.seen = set()
        properties = self.value(found.get("Properties", {}))
        seen = frozenset(self.seen)
        after = found.get("DependsOn", [])
        after = {after} if isinstance(after, str) else set(after)
        if unknown := sorted(after - self.template["Resources"].keys()):
            raise Unresolvable(f"{name} depends on {', '.join(unknown)}")
        return Resource(
            name, found["Type"], properties,
            deletion=self.value(found.get("DeletionPolicy", "Delete")),
            replaced=self.value(found.get("UpdateReplacePolicy", "Delete")),
            after=frozenset(one for one in after if self.there(self.template["Resources"][one])),
            uses=seen - self.parameters.keys(),
            reads=seen & self.parameters.keys(),
            metadata=self.value(found.get("Metadata", {})),
        )  # fmt: skip

    def there(self, part: dict[str, Any]) -> bool:
        return "Condition" not in part or self.condition(part["Condition"])

    def refusals(self) -> list[str]:
        found = []
        for rule in self.template.get("Rules", {}).values():
            if "RuleCondition" in rule and not self.value(rule["RuleCondition"]):
                continue
            found += [one["AssertDescription"] for one in rule["Assertions"] if not self.value(one["Assert"])]
        return found


def resolve(template: Template, given: Parameters, facts: Facts | None = None) -> Stack:
    """The stack that CloudFormation would make. Raises Unresolvable, with the place, where it would refuse to."""
    at = _Resolver(template, given, facts or {})
    resources, outputs = {}, {}
    for name, found in template["Resources"].items():
        try:
            if at.there(found):
                resources[name] = at.resource(name, found)
        except Unresolvable as problem:
            raise Unresolvable(f"{name}: {problem}") from None
    for name, found in template.get("Outputs", {}).items():
        try:
            if at.there(found):
                outputs[name] = at.value(found["Value"])
        except Unresolvable as problem:
            raise Unresolvable(f"output {name}: {problem}") from None
    for name in template.get("Conditions", {}):
        at.condition(name)
    return Stack(at.parameters, at.conditions, resources, outputs, at.refusals())


def refusals(template: Template, given: Parameters, facts: Facts | None = None) -> list[str]:
    """The sentences with which Rules refuse these parameters, before anything is resolved."""
    return _Resolver(template, given, facts or {}).refusals()


def dangling(template: Template) -> Iterator[str]:
    """References that name nothing under some choice of parameters, whatever Rules say of that choice."""
    resources, parameters = template["Resources"], template.get("Parameters", {})
    conditions = template.get("Conditions", {})
    answers: dict[frozenset[str], list[dict[str, bool]]] = {}

    def possible(names: frozenset[str]) -> list[dict[str, bool]]:
        if names not in answers:
            answers[names] = list(_answers(template, names))
        return answers[names]

    def judge(where: str, target: str, guard: tuple[tuple[str, bool], ...]) -> Iterator[str]:
        if target in parameters or target in PSEUDO or target == "AWS::NoValue":
            return
        if target not in resources:
            yield f"{where} names {target}, which is nowhere"
            return
        wanted = resources[target].get("Condition")
        if wanted is None or (wanted, True) in guard:
            return
        for answer in possible(frozenset([wanted, *(name for name, _ in guard)])):
            if not answer[wanted] and all(answer[name] is taken for name, taken in guard):
                here = ", ".join(f"{name} {str(is_).lower()}" for name, is_ in answer.items())
                yield f"{where} names {target}, which does not exist with {here}"
                return

    for kind in ("Resources", "Outputs"):
        for name, part in template.get(kind, {}).items():
            guard = ((part["Condition"], True),) if "Condition" in part else ()
            if "Condition" in part and part["Condition"] not in conditions:
                yield f"{name} has the condition {part['Condition']}, which is nowhere"
                continue
            for target, path in _references({key: one for key, one in part.items() if key != "Condition"}, guard):
                yield from judge(name, target, path)


def _references(node: Any, guard: tuple[tuple[str, bool], ...]) -> Iterator[tuple[str, tuple[tuple[str, bool], ...]]]:
    """Each name that Ref, GetAtt and Sub use, with the conditions on the way to it."""
    if isinstance(node, list):
        for one in node:
            yield from _references(one, guard)
    if not isinstance(node, dict):
        return
    if "Fn::If" in node:
        name, then, otherwise = node["Fn::If"]
        yield from _references(then, (*guard, (name, True)))
        yield from _references(otherwise, (*guard, (name, False)))
    elif "Ref" in node:
        yield node["Ref"], guard
    elif "Fn::GetAtt" in node:
        way = node["Fn::GetAtt"]
        yield way.split(".")[0] if isinstance(way, str) else way[0], guard
    elif "Fn::Sub" in node:
        pattern, own = (node["Fn::Sub"], {}) if isinstance(node["Fn::Sub"], str) else node["Fn::Sub"]
        for literal, name in VARIABLE.findall(pattern):
            if not literal and name not in own:
                yield name.split(".")[0], guard
        yield from _references(own, guard)
    else:
        for one in node.values():
            yield from _references(one, guard)


def _answers(template: Template, names: frozenset[str]) -> Iterator[dict[str, bool]]:
    """Every set of answers that these conditions can give together: each parameter that they read has each of the
    values that they compare it with, and another one where it may have one."""
    conditions, declared = template["Conditions"], template.get("Parameters", {})
    values: dict[str, set[str]] = {}

    def look(node: Any, beside: set[str]) -> None:
        if isinstance(node, list):
            for one in node:
                look(one, beside)
        elif isinstance(node, dict):
            if isinstance(name := node.get("Ref"), str) and name in declared:
                free = "AllowedValues" not in declared[name]
                known = {"another"} if free else set(map(text, declared[name]["AllowedValues"]))
                values.setdefault(name, set()).update(known | (beside if free else set()))
            elif isinstance(name := node.get("Condition"), str):
                look(conditions[name], set())
            elif "Fn::Equals" in node:
                look(node["Fn::Equals"], {text(one) for one in node["Fn::Equals"] if not isinstance(one, (dict, list))})
            else:
                for one in node.values():
                    look(one, beside)

    for name in names:
        look(conditions[name], set())
    bare = {"Parameters": {name: declared[name] for name in values}, "Conditions": conditions, "Resources": {}}
    bare["Mappings"] = template.get("Mappings", {})
    seen = set()
    for choice in itertools.product(*(sorted(values[name]) for name in values)):
        at = _Resolver(bare, dict(zip(values, choice, strict=True)), {})
        answer = {name: at.condition(name) for name in sorted(names)}
        if tuple(answer.items()) not in seen:
            seen.add(tuple(answer.items()))
            yield answer
