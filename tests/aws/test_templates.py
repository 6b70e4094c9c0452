"""The templates keep their rules under every stage × Kafka × NAT × VPC, and every other choice that they offer.

A test that carries a number is of that rule of the deployment: `rules` says what each of them finds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rules import OF_TEMPLATES, RULES, access, judged
from world import CHOICES, KAFKAS, NATS, STAGES, Scene, scenes, templates, world

SCENES = tuple(scenes())
Rule = Callable[[Any], Iterator[str]]


def of(number: int) -> list[Any]:
    """The rules of a number, and of none for 0."""
    several = [one for one in (*OF_TEMPLATES, *RULES) if numbered(one) == number]
    return [pytest.param(one, id=one.__name__.removeprefix(f"rule_{number}_")) for one in several]


def numbered(rule: Rule) -> int:
    return int(rule.__name__.split("_")[1]) if rule.__name__.startswith("rule_") else 0


def holds(rule: Rule) -> None:
    if rule in OF_TEMPLATES:
        assert judged(rule, templates()) == []
    else:
        assert {str(one): said for one in SCENES if (said := judged(rule, world(one)))} == {}


def test_every_choice_is_among_the_scenes() -> None:
    shapes = {(one.stage, one.kafka, one.nat, one.own_vpc) for one in SCENES}
    assert len(shapes) == len(STAGES) * len(KAFKAS) * len(NATS) * 2
    assert {(one.stage, one.console) for one in SCENES} >= {
        (stage, console) for stage in STAGES for console in (True, False)
    }
    assert {one.more for one in SCENES} >= {tuple(one.items()) for one in CHOICES}


def test_every_condition_of_a_template_holds_in_one_scene_and_not_in_another() -> None:
    """So that no part of a template is beside the scenes."""
    for name in ("vpc", "bridge"):
        stacks = [getattr(world(one), name) for one in SCENES if getattr(world(one), name)]
        for condition in templates()[name]["Conditions"]:
            assert {one.conditions[condition] for one in stacks} == {True, False}, f"{name}: {condition}"


@pytest.mark.parametrize("rule", of(1))
def test_rule_1_services_network_and_who_may_reach_whom(rule: Rule) -> None:
    holds(rule)


@pytest.mark.parametrize("rule", of(2))
def test_rule_2_configuration_reaches_the_tasks(rule: Rule) -> None:
    holds(rule)


@pytest.mark.parametrize("rule", of(3))
def test_rule_3_the_one_off_task(rule: Rule) -> None:
    holds(rule)


@pytest.mark.parametrize("rule", of(4))
def test_rule_4_images(rule: Rule) -> None:
    holds(rule)


@pytest.mark.parametrize("rule", of(5))
def test_rule_5_the_single_broker_on_efs(rule: Rule) -> None:
    holds(rule)


@pytest.mark.parametrize("rule", of(6))
def test_rule_6_a_cluster_of_somebody_else(rule: Rule) -> None:
    holds(rule)


@pytest.mark.parametrize("rule", of(7))
def test_rule_7_super_users(rule: Rule) -> None:
    holds(rule)


@pytest.mark.parametrize("rule", of(8))
def test_rule_8_the_console_behind_the_load_balancer(rule: Rule) -> None:
    holds(rule)


@pytest.mark.parametrize("rule", of(9))
def test_rule_9_encryption(rule: Rule) -> None:
    holds(rule)


@pytest.mark.parametrize("rule", of(10))
def test_rule_10_data_when_a_stack_is_deleted(rule: Rule) -> None:
    holds(rule)


@pytest.mark.parametrize("rule", of(11))
def test_rule_11_sizes_and_scaling(rule: Rule) -> None:
    holds(rule)


@pytest.mark.parametrize("rule", of(12))
def test_rule_12_trust_in_the_database(rule: Rule) -> None:
    holds(rule)


@pytest.mark.parametrize("rule", of(13))
def test_rule_13_alarms(rule: Rule) -> None:
    holds(rule)


@pytest.mark.parametrize("rule", of(14))
def test_rule_14_one_stack_per_stage_account_and_region(rule: Rule) -> None:
    holds(rule)


@pytest.mark.parametrize("rule", of(15))
def test_rule_15_a_bucket_for_templates(rule: Rule) -> None:
    holds(rule)


@pytest.mark.parametrize("rule", of(16))
def test_rule_16_a_place_for_releases(rule: Rule) -> None:
    holds(rule)


@pytest.mark.parametrize("rule", of(17))
def test_rule_17_behind_the_replacement_guard(rule: Rule) -> None:
    holds(rule)


@pytest.mark.parametrize("rule", of(18))
def test_rule_18_what_may_roll_back(rule: Rule) -> None:
    holds(rule)


@pytest.mark.parametrize("rule", of(19))
def test_rule_19_certificate_and_dns(rule: Rule) -> None:
    holds(rule)


@pytest.mark.parametrize("rule", of(20))
def test_rule_20_what_stays(rule: Rule) -> None:
    holds(rule)


@pytest.mark.parametrize("rule", of(21))
def test_rule_21_what_no_emulator_proves(rule: Rule) -> None:
    holds(rule)


@pytest.mark.parametrize("action", sorted(access.WIDE))
def test_rule_21_every_reason_for_a_wide_right_is_needed(action: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(access.WIDE, action)
    assert any(judged(access.rule_21_wide_rights_have_reasons, world(one)) for one in SCENES)


@pytest.mark.parametrize("rule", of(0))
def test_what_every_template_keeps(rule: Rule) -> None:
    holds(rule)


def test_rules_are_told_apart_by_name() -> None:
    """A name given twice would hide a rule from the mutants."""
    names = [one.__name__ for one in (*OF_TEMPLATES, *RULES)]
    assert len(set(names)) == len(names)
    assert {numbered(one) for one in (*OF_TEMPLATES, *RULES)} == set(range(22))


def test_a_rule_that_loses_its_way_says_so() -> None:
    def lost(_: object) -> Iterator[str]:
        yield str({}["nothing"])

    assert judged(lost, world(Scene())) == ["cannot be judged: KeyError: 'nothing'"]
