"""The resolver does what CloudFormation does, and refuses what CloudFormation refuses."""

from __future__ import annotations

from typing import Any

import pytest
from resolver import Unresolvable, dangling, read, refusals, resolve, unfit

HEAD = """
Parameters:
  Name: {Type: String, Default: ''}
  Ports: {Type: CommaDelimitedList, Default: '1,2'}
  Count: {Type: Number, Default: 3, MinValue: 1, MaxValue: 5}
Conditions:
  Named: !Not [!Equals [!Ref Name, '']]
  Known: !And [!Condition Named, !Equals [!Ref Count, 3]]
Mappings:
  Sizes: {small: {Cpu: 1}}
Resources:
  Always: {Type: 'AWS::S3::Bucket'}
  Sometimes: {Type: 'AWS::S3::Bucket', Condition: Named}
"""


def value(text: str, **parameters: str) -> Any:
    """What a property becomes."""
    template = read(f"{HEAD}  Probe: {{Type: 'AWS::X::Y', Properties: {{P: {text}}}}}\n")
    return resolve(template, parameters).resources["Probe"].properties.get("P")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("!Ref Name", "a"),
        ("!Ref Ports", ["1", "2"]),
        ("!Ref Always", "<Always>"),
        ("!GetAtt Always.Arn", "<Always.Arn>"),
        ("{'Fn::GetAtt': Always.Arn}", "<Always.Arn>"),
        ("{'Fn::GetAtt': [Always, Endpoint.Address]}", "<Always.Endpoint.Address>"),
        ("!Sub '${Name}-${Always}-${Always.Arn}-${!kept}'", "a-<Always>-<Always.Arn>-${kept}"),
        ("!Sub ['${x}${Name}', {x: !Ref Count}]", "3a"),
        ("!If [Named, 1, 2]", 1),
        ("!If [Named, !Ref AWS::NoValue, 2]", None),
        ("[!If [Named, !Ref AWS::NoValue, 2], 3]", [3]),
        ("!FindInMap [Sizes, small, Cpu]", 1),
        ("!FindInMap [Sizes, large, Cpu, {DefaultValue: 9}]", 9),
        ("!Select [1, !Ref Ports]", "2"),
        ("!Join ['-', [!Ref Count, b]]", "3-b"),
        ("!Split [':', 'a:b']", ["a", "b"]),
        ("!Select [0, !Cidr [10.0.0.0/16, 2, 8]]", "10.0.0.0/24"),
        ("!Select [1, !GetAZs '']", "ap-southeast-1b"),
        ("2012-10-17", "2012-10-17"),
        ("!If [Known, yes-both, no]", "yes-both"),
    ],
)
def test_functions(text: str, wanted: Any) -> None:
    assert value(text, Name="a") == wanted


@pytest.mark.parametrize(
    "text",
    [
        "!Ref Nobody",
        "!GetAtt Sometimes.Arn",
        "!Sub '${Sometimes}'",
        "!FindInMap [Sizes, large, Cpu]",
        "!Select [2, !Ref Ports]",
        "!Sub '${Ports}'",
        "{'Fn::ForEach': [a]}",
        "!If [Nobody, 1, 2]",
    ],
)
def test_what_cloudformation_refuses(text: str) -> None:
    with pytest.raises(Unresolvable):
        value(text)


def test_a_key_given_twice_and_an_alias_are_refused() -> None:
    with pytest.raises(Unresolvable, match="twice: P"):
        read("Resources: {A: {Type: T, Properties: {P: 1, P: 2}}}")
    with pytest.raises(Unresolvable, match="aliases"):
        read("Resources: {A: &a {Type: T}, B: *a}")


def test_a_resource_knows_what_it_uses_and_what_decides_it() -> None:
    properties = "{P: !If [Known, !Ref Sometimes, !Ref Always]}"
    template = read(f"{HEAD}  Probe: {{Type: T, DependsOn: Sometimes, Properties: {properties}}}\n")
    plain, named = (resolve(template, {"Name": name}).resources["Probe"] for name in ("", "a"))
    assert (plain.uses, named.uses) == ({"Always"}, {"Sometimes"})
    assert plain.reads == named.reads == {"Name", "Count"}
    assert (plain.after, named.after) == (frozenset(), {"Sometimes"})


def test_parameters_that_do_not_fit() -> None:
    template = read(HEAD + "\n")
    assert unfit(template, {}) == []
    assert unfit(template, {"Count": "6"}) == ["Count: '6' is no number from 1 to 5"]
    assert unfit(template, {"Cuont": "1"}) == ["Cuont: there is no such parameter"]


def test_rules_refuse_before_anything_is_resolved() -> None:
    rule = "{Assertions: [{Assert: {'Fn::Contains': [[a, b], !Ref Name]}, AssertDescription: a or b}]}"
    template = read(f"{HEAD}\nRules:\n  Known: {rule}\n")
    assert refusals(template, {"Name": "b"}) == []
    assert refusals(template, {"Name": "c"}) == ["a or b"]
    both = read(f"{HEAD}\nRules:\n  Known: {{RuleCondition: !Equals [!Ref Count, 3], {rule[1:]}\n")
    assert refusals(both, {"Name": "c", "Count": "4"}) == []
    assert refusals(both, {"Name": "c"}) == ["a or b"]


@pytest.mark.parametrize(
    ("resource", "found"),
    [
        ("{Type: T, Condition: Named, Properties: {P: !Ref Sometimes}}", False),
        ("{Type: T, Condition: Known, Properties: {P: !Ref Sometimes}}", False),
        ("{Type: T, Properties: {P: !If [Named, !Ref Sometimes, '']}}", False),
        ("{Type: T, Properties: {P: !If [Known, !GetAtt Sometimes.Arn, '']}}", False),
        ("{Type: T, Properties: {P: !If [Named, '', !Ref Sometimes]}}", True),
        ("{Type: T, Properties: {P: !If [Known, '', !Sub '${Sometimes}']}}", True),
        ("{Type: T, Properties: {P: !Ref Sometimes}}", True),
        ("{Type: T, Properties: {P: !Sub 'x-${Nobody.Arn}'}}", True),
    ],
)
def test_references_to_nothing_are_found_under_any_choice(resource: str, found: bool) -> None:
    said = list(dangling(read(f"{HEAD}  Probe: {resource}\n")))
    assert [one.split()[0] for one in said] == (["Probe"] if found else [])
