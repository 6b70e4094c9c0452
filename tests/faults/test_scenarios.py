"""A few scenarios of the suite on every run: what is lost, whose id it has, which bytes. Never how long it took
(rules.md 34). `make faults` runs all of them and judges time as well."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from faults import machine
from faults.ground import Ground
from faults.mutations import MUTATIONS
from faults.runner import Result, run, shared_ground
from faults.scenarios import BY_NAME, MATRIX, SCENARIOS

RATE = 50.0
MUTATION = {mutation.name: mutation for mutation in MUTATIONS}


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    with shared_ground() as servers:
        yield servers


def said(result: Result) -> str:
    return "\n".join([result.broke, *(f"{v.number} {v.name}: {v.found} {v.examples}" for v in result.red)])


@pytest.mark.integration
@pytest.mark.parametrize("name", ["kafka-killed", "ingest-killed"])
def test_rule_34_nothing_acknowledged_is_lost(ground: Ground, name: str) -> None:
    few = dataclasses.replace(BY_NAME[name].expect, acked_during_min=1)
    result = run(
        dataclasses.replace(BY_NAME[name], expect=few), ground, "test", times=1, rate=RATE, time_counts=False
    )  # fmt: skip
    assert result.good, said(result)


@pytest.mark.integration
def test_the_checker_sees_one_record_that_is_missing(ground: Ground) -> None:
    mutation = MUTATION["drop-one"]
    result = run(mutation.armed(), ground, "test", rate=RATE, time_counts=False)
    assert mutation.seen(result), said(result)


def test_every_row_of_the_matrix_has_a_scenario() -> None:
    assert {row for scenario in SCENARIOS for row in scenario.rows} == MATRIX.keys()


def test_a_scenario_says_what_the_machine_lacks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge._binary", lambda: None)
    without = [scenario.name for scenario in SCENARIOS if "nginx is not installed" in machine.lacks(scenario.needs)]
    assert without == ["nginx-killed", "certificates"]
