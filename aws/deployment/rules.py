"""What CloudFormation would refuse of parameters, told before anything is made: their constraints, and the Rules.

CloudFormation looks at them when a change set is made, and that of the bridge comes after images and network, which
take minutes and cost money. What is not known before those (their names, what is generated) is left to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from deployment.arguments import variable
from deployment.templates import Template

_UNKNOWN = object()


class _Loader(yaml.SafeLoader):
    """YAML whose tags are kept, in their long form."""


def _tagged(loader: _Loader, suffix: str, node: yaml.Node) -> Any:
    name = suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}"
    if isinstance(node, yaml.ScalarNode):
        return {name: loader.construct_scalar(node)}
    if isinstance(node, yaml.SequenceNode):
        return {name: loader.construct_sequence(node, deep=True)}
    assert isinstance(node, yaml.MappingNode)
    return {name: loader.construct_mapping(node, deep=True)}


_Loader.add_multi_constructor("!", _tagged)


def unfit(template: Template, given: Mapping[str, str], own: frozenset[str] = frozenset()) -> Iterator[str]:
    """What is wrong with each value by itself. Secret values are not shown; `own` are no variables of anybody's."""
    for name, value in given.items():
        row = template.parameters.get(name, {})
        if row and not _fits(row, value):
            shown = name if name in own else variable(name)
            shown += "" if name in template.secret_parameters else f"={value}"
            yield f"{shown} cannot be: {_wanted(row)}"


def _fits(row: Mapping[str, Any], value: str) -> bool:
    allowed = [str(one) for one in row.get("AllowedValues", ())]
    if allowed and value not in allowed:
        return False
    if (pattern := row.get("AllowedPattern")) and not re.fullmatch(pattern, value):
        return False
    if row.get("Type") == "Number":
        try:
            number = float(value)
        except ValueError:
            return False
        return float(row.get("MinValue", number)) <= number <= float(row.get("MaxValue", number))
    return int(row.get("MinLength", 0)) <= len(value) <= int(row.get("MaxLength", len(value)))


def _wanted(row: Mapping[str, Any]) -> str:
    if "AllowedValues" in row:
        return f"one of {', '.join(map(str, row['AllowedValues']))}."
    if row.get("Type") == "Number":
        return f"a number from {row.get('MinValue', 'any')} to {row.get('MaxValue', 'any')}."
    said = str(row.get("ConstraintDescription", "")) or "another value is wanted."
    return f"{said} At most {row['MaxLength']} characters." if "MaxLength" in row else said


def broken(template: Template, known: Mapping[str, str]) -> Iterator[str]:
    """The sentences of the template's Rules that what is known breaks already."""
    # Without the parts that have no say in it: they are long.
    text = re.split(r"^(?=[A-Za-z])", template.text, flags=re.MULTILINE)
    rules = yaml.load("".join(part for part in text if part.startswith("Rules:")), _Loader)  # noqa: S506  # a SafeLoader
    for rule in ((rules or {}).get("Rules") or {}).values():
        if _value(rule.get("RuleCondition", True), known) is True:
            for row in rule["Assertions"]:
                if _value(row["Assert"], known) is False:
                    yield row["AssertDescription"]


def _value(node: Any, known: Mapping[str, str]) -> Any:
    """Of a node of a rule: True, False, a text or list, or _UNKNOWN."""
    if isinstance(node, list):
        return [_value(one, known) for one in node]
    if not isinstance(node, dict):
        return node
    ((name, argument),) = node.items()
    if name == "Ref":
        return known.get(argument, _UNKNOWN)
    values = _value(argument, known)
    if name == "Fn::Not":
        return values[0] if values[0] is _UNKNOWN else not values[0]
    if name in ("Fn::And", "Fn::Or"):
        decides = name == "Fn::Or"
        return decides if decides in values else _UNKNOWN if _UNKNOWN in values else not decides
    if name == "Fn::Equals" and _UNKNOWN not in values:
        return str(values[0]) == str(values[1])
    if name == "Fn::Contains" and values[1] is not _UNKNOWN:
        return values[1] in values[0]
    return _UNKNOWN
