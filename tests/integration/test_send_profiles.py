"""A running bridge takes what `kwb send` signs for its sources, and refuses what is signed wrongly."""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge import patient_bridge
from databases import empty_database
from kafka_webhook_bridge.cli import main
from kafka_webhook_bridge.sources.catalog import Catalog
from kafka_webhook_bridge.sources.samples import has_samples
from kafka_webhook_bridge.sources.verify.identity import key_kind, make_identity, private_pem
from kafka_webhook_bridge.sources.verify.sign import window_s
from kafka_webhook_bridge.stack import Bridge, Stack

CATALOG = Catalog()
# PayPal's certificate would have to be fetched from PayPal.
NAMES = [name for name in CATALOG.names() if has_samples(CATALOG.load(name)) and name != "paypal"]
MORE = ["mercado-pago", "netlify", "livekit", "contentful", "plivo-v3", "dropbox-sign", "wise", "ms-graph", "figma"]
TOPIC = f"t-{secrets.token_hex(6)}"


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="kwb-test-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def bridge(stack: Stack, folder: Path) -> Iterator[Bridge]:
    """A bridge with one source for each profile; private keys are in the folder, under the profile's name."""
    sources: dict[str, Any] = {}
    for name in [*NAMES, *MORE]:
        identity = make_identity(CATALOG.load(name).verify)
        sources[name] = {
            "profile": name, "secrets": [identity.secret], "params": dict(identity.params), "topic": TOPIC,
        }  # fmt: skip
        if identity.private is not None:
            (folder / name).write_text(private_pem(identity.private))
    (folder / "bridge.yaml").write_text(json.dumps({"public_url": "https://hooks.example.com/x", "sources": sources}))
    config = str(folder / "bridge.yaml")
    with (
        empty_database(stack.postgres) as url,
        patient_bridge(stack, folder, url, KWB_CONFIG=config, KWB_INGEST_FAILED_LOGINS_MAX="100000") as bridge,
    ):
        yield bridge


@pytest.mark.parametrize("name", [*NAMES, *MORE])
def test_a_source_takes_what_its_sender_signs(
    bridge: Bridge, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable, value in bridge.environ.items():
        monkeypatch.setenv(variable, value)
    row = CATALOG.load(name).verify
    arguments = ["send", name, "--url", bridge.url, "--count", "20", "--timeout", "60s", "--bad-signature", "10%"]
    arguments += ["--stale", "10%"] if window_s(row) is not None else []
    arguments += ["--duplicates", "10%", "--json"]
    arguments += ["--secret-file", str(folder / name)] if key_kind(row) else []
    code = main(arguments)
    result = json.loads(capsys.readouterr().out)
    assert code == 0, result
    wrong = result["wrong"]
    refused = wrong["bad_signature"]["refused"] + wrong.get("stale", {"refused": 0})["refused"]
    assert refused == 2 * len([kind for kind in wrong if kind != "duplicate"])
    assert result["accepted"] == 20 - refused
    assert wrong["duplicate"]["accepted"] == 2
