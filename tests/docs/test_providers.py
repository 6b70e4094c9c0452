"""docs/providers is what the catalog says, and what its pages show can be used as it stands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import provider_pages
from kafka_webhook_bridge.settings import load_settings
from kafka_webhook_bridge.sources.catalog import Catalog
from kafka_webhook_bridge.sources.config import load_sources
from kafka_webhook_bridge.sources.profile import Profile

ROOT = Path(__file__).parents[2]
PAGES = provider_pages.pages()
HOWTO = ROOT / "docs/howto/add-a-provider.md"
VECTORS = json.loads((ROOT / "tests/data/providers/vectors.json").read_text(encoding="utf-8"))["vectors"]
SECRETS = {vector["profile"]: vector["secrets"][0] for vector in VECTORS if vector["expected"] and vector["secrets"]}


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return [part.partition("```")[0] for part in page.split(f"```{language}\n")[1:]]


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
    for profile in provider_pages.PROFILES:
        page = PAGES[provider_pages.FOLDER / f"{profile.file}.md"]
        assert f"    profile: {profile.name}\n" in page
        assert f"kwb send {profile.name} --profile {profile.name}" in page
        assert all(pitfall in page for pitfall in profile.setup.pitfalls)
        assert all(f"      {param}: " in page for param in profile.setup.params)
        assert profile.evidence != "third-party" or "onfirm on a first real delivery" in page
        assert (
            f"[{profile.provider}]({profile.file}.md) | `{profile.name}`" in PAGES[provider_pages.FOLDER / "README.md"]
        )


def test_the_provider_of_the_howto_loads_and_its_mistake_is_told_so(tmp_path: Path) -> None:
    page = HOWTO.read_text(encoding="utf-8")
    (row,) = blocks(page, "toml")
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


@pytest.mark.parametrize("profile", provider_pages.PROFILES, ids=lambda profile: profile.name)
def test_the_source_on_a_page_can_be_used_as_it_stands(profile: Profile) -> None:
    page = PAGES[provider_pages.FOLDER / f"{profile.file}.md"]
    (snippet,) = (block for block in blocks(page, "yaml") if f"    profile: {profile.name}\n" in block)
    for param in profile.setup.params:
        value = "arn:aws:sns:eu-west-1:123456789012:orders" if param == "topic_arn" else "https://example.com/keys"
        snippet = snippet.replace(f'{param}: "…"', f'{param}: "{value}"')
    variable = f"{profile.name.upper().replace('-', '_')}_SECRET"
    environ: dict[str, Any] = {"KWB_CONFIG": snippet, "DATABASE_URL": "postgresql://nobody@127.0.0.1:9/none"}
    environ[variable] = SECRETS.get(profile.name, "user:a-secret-of-32-characters-at-least")
    source = load_sources(load_settings(environ), environ).get(profile.name)
    assert source is not None
    assert source.proof is not None
    assert source.proof.profile == profile.name
