"""docs/reference is what the code says, so a change without its page turns this red."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import get_args

import pytest

import aws_tables
import reference
import tables
from kafka_webhook_bridge import cli, errors, settings
from kafka_webhook_bridge.formats import headers
from kafka_webhook_bridge.observability import metrics
from kafka_webhook_bridge.settings import load_settings
from kafka_webhook_bridge.sources.config import load_sources
from kafka_webhook_bridge.sources.source import Format


@pytest.mark.parametrize("name", sorted(reference.pages()))
def test_page_is_what_the_code_says(name: str) -> None:
    path = reference.FOLDER / name
    assert path.exists(), "run `make docs`"
    assert path.read_text(encoding="utf-8") == reference.pages()[name], "run `make docs`"


def test_the_tables_of_the_pages_about_aws_are_what_the_templates_say() -> None:
    assert aws_tables.stale() == [], "run `make docs`"


def test_a_place_that_nobody_fills_is_an_error() -> None:
    page = "a\n<!-- made by `make docs`: costs -->\nold\n<!-- end -->\nb\n"
    assert tables.fill(page, {"costs": ["| new |", ""]}) == page.replace("old\n", "\n| new |\n\n")
    with pytest.raises(KeyError):
        tables.fill(page, {})


def test_every_setting_has_a_row() -> None:
    page = reference.settings_page()
    assert [row.env for row in settings.rows() if f"| `{row.env}` |" not in page] == []


def test_every_code_has_a_row() -> None:
    page = reference.errors_page()
    codes = [*errors.REFUSALS, *(cls.code for cls in errors.KwbError.__subclasses__() if "code" in vars(cls))]
    assert [code for code in codes if f"| `{code}` |" not in page] == []


def test_every_metric_has_a_row() -> None:
    page = reference.metrics_page()
    assert [name for name in (*metrics.TABLE, *metrics.PROCESS_TABLE) if f"| `{name}` |" not in page] == []


def test_every_header_of_a_real_record_has_a_sentence_and_no_other() -> None:
    seen = set()
    for fmt in get_args(Format):
        _, pairs = reference.example_record(fmt, everything=True)
        seen |= {name for name, _ in pairs if not name.startswith("http_")}
    assert seen == set(reference.HEADERS)
    assert all(name.startswith(headers.RESERVED) for name in seen)


def test_the_example_of_bridge_yaml_loads() -> None:
    environ = {
        "WEBHOOK_USERNAME": "u",
        "WEBHOOK_PASSWORD": "p",
        "SHOP_PASSWORD": "s",
        "GITHUB_SECRET": "g",
        "KWB_CONFIG": reference.example(),
    }
    names = [source.name for source in load_sources(load_settings(environ), environ).all()]
    assert names == ["github", "shop", "erp"]


def test_the_schema_is_valid_json_with_closed_objects() -> None:
    schema = json.loads(reference.pages()["bridge.schema.json"])
    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) >= {"sources", "open_rule"}


def _a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    first, *others = settings.rows()
    monkeypatch.setattr(settings, "rows", lambda: [dataclasses.replace(first, sentence="Changed."), *others])


def _a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = dataclasses.replace(errors.UNKNOWN_SOURCE, status=410)
    monkeypatch.setattr(errors, "REFUSALS", {**errors.REFUSALS, changed.code: changed})


def _a_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    row = dataclasses.replace(metrics.TABLE["kwb_connections"], sentence="Changed.")
    monkeypatch.setattr(metrics, "TABLE", {**metrics.TABLE, "kwb_connections": row})


def _a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    real = cli.load

    def load(name: str) -> object:
        command = real(name)
        command.help = "Changed."
        return command

    monkeypatch.setattr(cli, "load", load)


def _a_template(monkeypatch: pytest.MonkeyPatch) -> None:
    real = aws_tables.TEMPLATES["bridge"]
    changed = real.text.replace("Default: 29095", "Default: 29096")
    monkeypatch.setitem(aws_tables.TEMPLATES, "bridge", dataclasses.replace(real, text=changed))


def _a_price(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws_tables.costs, "NAT", 0.5)


@pytest.mark.parametrize(
    ("change", "page"),
    [
        (_a_template, "aws/README.md"),
        (_a_price, "aws-costs.md"),
        (_a_setting, "settings.md"),
        (_a_refusal, "errors.md"),
        (_a_metric, "metrics.md"),
        (_a_command, "commands.md"),
    ],
)
def test_a_change_without_its_page_is_found(
    change: Callable[[pytest.MonkeyPatch], None], page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch)
    assert [problem for problem in reference.stale() if page in problem]
