"""Each rule sees what it is there for, and no other rule does: one small change, one name."""

from __future__ import annotations

import pytest
import rules
from mutants import Change, Rule, around, edge, inside, mutant, others
from rules import OF_TEMPLATES, RULES
from world import CANARIES, CHOICES, CLIENT_SECRET, VERSIONS, Scene, templates, world

# Every resource of the templates exists in one of these and, where it may be left out, does not in another.
ELSEWHERE = {**CHOICES[0], "DatabaseSnapshotId": "before", "KafkaClientSecretArn": CLIENT_SECRET}
GENERATED = tuple(dict.fromkeys(CANARIES, "").items())
SCENES = (
    Scene("prod", "single", "none"),
    Scene("staging", "iam", "per-az", console=False, more=tuple(ELSEWHERE.items())),
    Scene("dev", "single", own_vpc=False, more=(("AlarmEmail", "someone@example.com"), *VERSIONS.items(), *GENERATED)),
    Scene("staging", "scram"),
    Scene("dev", "mtls"),
    Scene("dev", "scram", own_vpc=False, more=(("KafkaClientSecretArn", ""),)),
)

MUTANTS = [*edge.MUTANTS, *inside.MUTANTS, *around.MUTANTS, *others.MUTANTS]
# Mistakes that cfn-lint lets pass, each of a kind of its own.
UNSEEN = {
    "tcp-on-alb",
    "tls-on-alb",
    "https-to-tcp",
    "container-of-no-task",
    "port-of-nobody",
    "name-of-33",
    "name-of-33-for-one-stage",
    "targets-are-instances",
    "stop-after-300",
    "no-execution-role",
    "database-without-snapshot",
    "password-echoed",
}


def test_the_templates_keep_every_rule_under_the_choices_of_the_mutants() -> None:
    assert rules.broken(templates(), SCENES) == {}


@pytest.mark.parametrize(("name", "rule", "change"), MUTANTS, ids=[name for name, _, _ in MUTANTS])
def test_a_mutant_breaks_the_rule_that_is_there_for_it_and_no_other(
    name: str, rule: Rule | tuple[Rule, ...], change: Change
) -> None:
    found = mutant(templates(), change)
    assert found != templates(), "this mutant is the template itself"
    broken = rules.broken(found, SCENES)
    assert set(broken) == {one.__name__ for one in (rule if isinstance(rule, tuple) else (rule,))}, broken


def test_every_resource_is_there_and_may_be_left_out() -> None:
    """Or a mutant might be in a part that nobody looks at."""
    for name in ("vpc", "bridge"):
        stacks = [getattr(world(scene), name) for scene in SCENES if getattr(world(scene), name)]
        for resource, found in templates()[name]["Resources"].items():
            there = {resource in stack.resources for stack in stacks}
            assert there == ({True, False} if "Condition" in found else {True}), f"{name}: {resource}"
        for condition in templates()[name]["Conditions"]:
            assert {stack.conditions[condition] for stack in stacks} == {True, False}, f"{name}: {condition}"


def test_what_cfn_lint_does_not_see_is_among_them() -> None:
    names = [name for name, _, _ in MUTANTS]
    assert len(set(names)) == len(names)
    assert set(names) >= UNSEEN


def test_every_rule_has_a_mutant() -> None:
    """That breaks it alone."""
    assert {rule for _, rule, _ in MUTANTS if not isinstance(rule, tuple)} == {*RULES, *OF_TEMPLATES}
