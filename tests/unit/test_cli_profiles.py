"""`kwb sources profiles` and `kwb sources profile`, without a setting or a server."""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from kafka_webhook_bridge.cli import main
from kafka_webhook_bridge.sources.catalog import Catalog

ACME = """\
provider = "Acme"

[profiles.acme]
evidence = "docs"
verify = { scheme = "token", signature = { from = "header", name = "X-Acme-Token" } }
"""


def kwb(*arguments: str) -> tuple[int, str, str]:
    """Status, output and errors of the command, with nothing in its environment."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, {"COLUMNS": "200"}, clear=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = main(["sources", *arguments])
    assert "Traceback" not in err.getvalue()
    return code, out.getvalue(), err.getvalue()


def found(*arguments: str) -> Any:
    code, out, err = kwb(*arguments, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def test_all_profiles_with_what_they_rest_on() -> None:
    rows = found("profiles")["profiles"]
    assert [row["name"] for row in rows] == Catalog().names()
    github = next(row for row in rows if row["name"] == "github")
    assert github == {
        "name": "github", "provider": "GitHub", "scheme": "hmac-sha256", "covers_body": True, "evidence": "vector",
        "packaged": True,
    }  # fmt: skip


def test_some_by_parts_of_their_names() -> None:
    assert [row["name"] for row in found("profiles", "SHOPIFY", "events")["profiles"]] == ["shopify-events"]
    code, out, _ = kwb("profiles", "tiendanube")
    assert code == 0
    assert "nuvemshop" in out
    assert "third-party: others say so; confirm on a first real delivery" in out
    assert "vector:" not in out
    code, out, _ = kwb("profiles", "nobody-at-all")
    assert (code, out) == (1, f"None of {len(Catalog().names())} profiles is called so.\n")


def test_one_profile_with_a_source_to_copy() -> None:
    code, out, _ = kwb("profile", "meta")
    assert code == 0
    for words in ("Evidence: sdk", "X-Hub-Signature-256", "whole body signed", "      verify_token: "):
        assert words in out
    shown = found("profile", "meta")
    assert shown["params"] == Catalog().load("meta").setup.params
    assert {"what": "scheme", "words": "HMAC, SHA-256"} in shown["facts"]
    assert "    profile: meta\n" in shown["bridge_yaml"]


@pytest.mark.parametrize(
    "name",
    [
        "websub",
        "hubspot-v1",
        "discord",
        "figma",
        "ms-graph",
        "postmark",
        "none",
        "gong",
        "saleor",
        "sinch-voice",
        "polar",
    ],
)
def test_a_profile_of_each_scheme_can_be_shown(name: str) -> None:
    code, out, _ = kwb("profile", name)
    assert code == 0
    assert f"profile: {name}\n" in out
    assert "`" not in out


def test_an_unknown_profile_is_told_with_a_near_one() -> None:
    assert kwb("profile", "shopfy") == (1, "There is no profile 'shopfy'; did you mean shopify?\n", "")
    code, out, _ = kwb("profile", "shopfy", "--json")
    assert (code, out) == (1, "null\n")


def test_profiles_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "acme.toml"
    path.write_text(ACME, encoding="utf-8")
    assert found("profile", "acme", "--catalog", str(path))["provider"] == "Acme"
    (row,) = found("profiles", "acme", "--catalog", str(tmp_path))["profiles"]
    assert (row["scheme"], row["packaged"]) == ("token", False)
    path.write_text(ACME.replace("evidence", "evidense"), encoding="utf-8")
    code, out, err = kwb("profiles", "--catalog", str(path))
    assert (code, out) == (2, "")
    assert f"{path}:4: profiles.acme.evidense: unknown key; did you mean `evidence`?" in err
