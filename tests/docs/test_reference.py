"""docs/reference is what the code says, so a change without its page turns this red."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

import aws_tables
import provider_pages
import reference
import tables
from kafka_webhook_bridge import cli, errors, settings
from kafka_webhook_bridge.formats import headers
from kafka_webhook_bridge.observability import metrics
from kafka_webhook_bridge.settings import load_settings
from kafka_webhook_bridge.sources.catalog import Catalog
from kafka_webhook_bridge.sources.config import load_sources
from kafka_webhook_bridge.sources.source import Format


@pytest.mark.parametrize("name", sorted(reference.pages()))
def test_page_is_what_the_code_says(name: str) -> None:
    path = reference.FOLDER / name
    assert path.exists(), "run `make docs`"
    assert path.read_text(encoding="utf-8") == reference.pages()[name], "run `make docs`"


def test_the_tables_of_the_pages_about_aws_are_what_the_templates_say() -> None:
    assert aws_tables.stale() == [], "run `make docs`"


def test_the_pages_of_the_providers_are_what_the_catalog_says() -> None:
    assert provider_pages.stale() == [], "run `make docs`"


def test_a_page_of_a_provider_that_is_gone_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(provider_pages, "FOLDER", tmp_path / "docs/providers")
    monkeypatch.setattr(provider_pages, "ROOT", tmp_path)
    provider_pages.write()
    assert provider_pages.stale() == []
    (tmp_path / "docs/providers/nobody.md").write_text("")
    (tmp_path / "docs/providers/github.md").unlink()
    assert provider_pages.stale() == [
        f"docs/providers/{name}.md: not what the catalog says; run `make docs`" for name in ("github", "nobody")
    ]
    provider_pages.write()
    assert provider_pages.stale() == []


def test_every_profile_has_a_page_with_all_that_its_setup_needs() -> None:
    made = provider_pages.pages()
    for profile in provider_pages.PROFILES:
        page = made[provider_pages.FOLDER / f"{profile.file}.md"]
        assert f"    profile: {profile.name}\n" in page
        assert f"kwb send {profile.name} --profile {profile.name}" in page
        assert all(pitfall in page for pitfall in profile.setup.pitfalls)
        assert all(f"      {param}: " in page for param in profile.setup.params)
        assert profile.evidence != "third-party" or "onfirm on a first real delivery" in page
        assert (
            f"[{profile.provider}]({profile.file}.md) | `{profile.name}`" in made[provider_pages.FOLDER / "README.md"]
        )


def test_the_provider_of_the_howto_loads_and_its_mistake_is_told_so(tmp_path: Path) -> None:
    page = (reference.FOLDER.parent / "howto/add-a-provider.md").read_text(encoding="utf-8")
    row = page.partition("```toml\n")[2].partition("```")[0]
    path = tmp_path / "acme.toml"
    path.write_text(row, encoding="utf-8")
    mine = Catalog([path])
    assert mine.problems == []
    assert mine.load("acme").event.delivery_id == ["{header:Acme-Delivery}"]
    told = next(line for line in page.splitlines() if line.startswith("catalog/acme.toml:"))
    path.write_text(row.replace('"hmac"', '"hmca"'), encoding="utf-8")
    (problem,) = Catalog([path]).problems
    said, _, hint = str(problem).replace(str(path), "catalog/acme.toml").partition("hmac, digest, ")
    assert told == f"{said}hmac, digest, …{hint[hint.index('; did') :]}"


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
