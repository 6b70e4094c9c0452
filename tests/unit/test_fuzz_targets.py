"""The targets of `make fuzz` with the inputs that they begin with, and some that Hypothesis makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz import __main__ as search
from fuzz import child, targets
from fuzz.targets import TARGETS
from kafka_webhook_bridge.sources.verify import OK

SEEDS = {name: list(target.seeds()) for name, target in TARGETS.items()}


@pytest.mark.parametrize("name", TARGETS)
def test_every_seed_runs(name: str) -> None:
    assert len(SEEDS[name]) > 200
    for seed in SEEDS[name]:
        TARGETS[name].run(seed)


def test_seeds_of_requests_are_those_that_pass() -> None:
    for number, seed in enumerate(SEEDS["request"]):
        vector, sent = targets.valid()[number], targets.parse_saved(seed[2:])
        document = targets.parse_json(sent.body)
        verdict = targets.verifier(number)(sent, document, vector["now"])
        # A saved request has a path, and some vectors sign an address without one.
        assert verdict.ok or vector["url"].partition("?")[0].count("/") == 2, vector["id"]


@given(st.sampled_from(sorted(TARGETS)), st.data())
def test_seeds_that_are_cut_and_joined_do_no_harm(name: str, data: st.DataObject) -> None:
    one, two = data.draw(st.sampled_from(SEEDS[name])), data.draw(st.sampled_from(SEEDS[name]))
    at, until = data.draw(st.integers(0, len(one))), data.draw(st.integers(0, len(two)))
    TARGETS[name].run(one[:at] + data.draw(st.binary(max_size=8)) + two[until:])


@dataclass
class Credulous:
    """A verifier that believes everything."""

    covers_body: bool = True
    needs_json: bool = False

    def __call__(self, *_: Any) -> Any:
        return OK


def test_a_forgery_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "verifier", lambda _: Credulous())
    seed = next(seed for seed in SEEDS["request"] if seed.endswith(b"}"))
    targets.request(seed)
    with pytest.raises(targets.Forged):
        targets.request(seed + b" ")


@pytest.mark.parametrize(("took_s", "found"), [([0.06, 0.06, 0.06], True), ([0.06, 0.06, 0.04], False)])
def test_what_takes_long_three_times_is_found(
    took_s: list[float], found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([time for took in took_s for time in (10.0, 10.0 + took)])
    monkeypatch.setattr(child.time, "process_time", lambda: next(clock))
    assert child.slow(lambda _: None, b"") is found


def test_where_there_is_no_fuzzer_the_reason_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(search.sys, "platform", "darwin")
    assert search.main([]) == 0
    assert capsys.readouterr().out.startswith("SKIPPED: atheris has wheels for Linux on x86_64, this is darwin")
