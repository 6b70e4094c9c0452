"""The estimate follows the templates: their sizes, their stages, their choices."""

from __future__ import annotations

import pytest
from deployment.templates import load

from deployment import costs

BRIDGE = load("bridge")
STAGES = BRIDGE.mapping("Stage")
NETWORK = {"NatGateways": "single", "InterfaceEndpoints": "false"}


def parameters(**given: str) -> dict[str, str]:
    defaults = {name: str(row["Default"]) for name, row in BRIDGE.parameters.items() if "Default" in row}
    return {**defaults, **given}


def lines(stage: str = "dev", network: dict[str, str] = NETWORK, **given: str) -> dict[str, float]:
    found = costs.estimate(parameters(**given), STAGES[stage], network)
    return {line.what.partition(":")[0]: line.month for line in found}


def total(stage: str = "dev", network: dict[str, str] = NETWORK, **given: str) -> float:
    return sum(lines(stage, network, **given).values())


@pytest.mark.parametrize("stage", ["dev", "staging", "prod"])
def test_rule_11_every_stage_has_a_price_for_its_database(stage: str) -> None:
    assert STAGES[stage]["DatabaseClass"] in costs.DATABASE
    assert "database" in lines(stage)


def test_rule_11_the_sizes_of_tasks_are_the_templates() -> None:
    resources = BRIDGE.document["Resources"]
    for name, (vcpu, gib) in costs.TASKS.items():
        task = resources[f"{name.capitalize()}Task"]["Properties"]
        assert (int(task["Cpu"]) / 1024, int(task["Memory"]) / 1024) == (vcpu, gib), name


def test_rule_11_a_formula_with_the_file_system_and_what_is_written_to_it() -> None:
    found = lines()
    gb_month = costs.EVENTS_PER_SECOND * costs.EVENT_BYTES * 3600 * costs.HOURS / 1e9
    assert found["file system"] == pytest.approx(gb_month * 72 / costs.HOURS * 0.30 + gb_month * (0.06 + 0.03))
    assert found["ingest"] == pytest.approx(2 * (0.5 * 0.04048 + 1 * 0.004445) * 730)
    assert found["load balancers"] == pytest.approx(2 * 0.0225 * 730)


def test_choices_change_it() -> None:
    assert not {"kafka", "file system"} & lines(KafkaMode="external").keys()
    assert lines(KafkaMode="external")["load balancers"] == pytest.approx(lines()["load balancers"] / 2)
    assert "console" in lines(ConsoleCidr="192.0.2.0/24")
    assert total(CpuArchitecture="ARM64") < total()
    assert lines("prod")["database"] > 2 * costs.DATABASE["db.m7g.large"] * costs.HOURS
    per_zone = lines(network={"NatGateways": "per-az", "InterfaceEndpoints": "true"})
    assert per_zone["NAT gateways"] > 1.9 * lines()["NAT gateways"]
    assert "endpoints" in per_zone
    assert not {"NAT gateways", "endpoints"} & lines(network={}).keys()  # somebody else's network


def test_the_template_of_another_time_is_no_reason_to_stop() -> None:
    assert "database" not in {line.what.partition(":")[0] for line in costs.estimate(parameters(), {}, NETWORK)}
