"""docs/howto/aws-restore.md, typed as it stands, as far as an emulator goes: its database holds nothing."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from scene import SOURCE_SECRET, Scene, scene

PAGE = Path(__file__).parents[2] / "docs/howto/aws-restore.md"
PROD, DRILL = "prod.example.com", "drill.example.com"


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with scene(tmp_path_factory.mktemp("restore")) as found:
        yield found


def typed(script: str) -> tuple[dict[str, str], list[str]]:
    """Variables and arguments of the one line of the page's blocks that calls this script for the drill."""
    blocks = "".join(re.findall(r"^```\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))
    (line,) = [one for one in blocks.splitlines() if f"./aws/{script}.sh {DRILL}" in one]
    words = shlex.split(line)
    at = words.index(f"./aws/{script}.sh")
    return dict(word.split("=", 1) for word in words[:at]), words[at + 1 :]


def test_rule_10_the_drill_makes_a_stage_out_of_a_snapshot_and_takes_it_away_again(
    account: Scene, tmp_path: Path
) -> None:
    for name in (PROD, DRILL):
        account.zone(name)
    for stage in ("prod", "staging"):
        (account.checkout.root / f"aws/config/{stage}.yaml").write_text(
            "sources:\n  kwb-smoke: {topic: kwb.smoke}\n  shop: {username: shop, password: '${SHOP_SECRET}'}\n"
        )
    tag = account.checkout.commit("a source")
    account.type("deploy", PROD, ENVIRONMENT="prod", SKIP_SMOKE="1", SHOP_SECRET=SOURCE_SECRET)

    secrets = account.emulator.client("secretsmanager")
    there = account.outputs("prod-webhooks")["SourcesSecretArn"]
    sources = tmp_path / "sources.json"
    sources.write_text(secrets.get_secret_value(SecretId=there)["SecretString"])
    account.emulator.client("rds").create_db_snapshot(
        DBInstanceIdentifier="prod-webhooks-db", DBSnapshotIdentifier="prod-webhooks-drill-1"
    )
    variables, words = typed("deploy")
    assert variables["SKIP_SMOKE"] == "1"
    variables["SOURCES_FILE"] = str(sources)
    account.type("deploy", *(tag if word == "TAG" else word for word in words), ENVIRONMENT="staging", **variables)

    assert (
        account.parameters("staging-webhooks")["DatabaseSnapshotId"]
        == variables["DATABASE_SNAPSHOT_ID"]
        == "prod-webhooks-drill-1"
    )
    copied = secrets.get_secret_value(SecretId=account.outputs("staging-webhooks")["SourcesSecretArn"])["SecretString"]
    assert json.loads(copied) == {"SHOP_SECRET": SOURCE_SECRET}

    # What the page verifies with changes nothing; the snapshot stays what it was.
    variables, words = typed("update")
    said = account.type("update", *(tag if word == "TAG" else word for word in words), SKIP_SMOKE="1", **variables)
    assert "staging-webhooks: nothing to change" in said
    assert account.parameters("staging-webhooks")["DatabaseSnapshotId"] == "prod-webhooks-drill-1"

    variables, words = typed("destroy")
    account.type("destroy", *words, "--yes", **variables)
    assert account.emulator.stack("staging-webhooks") is None
    assert account.parameters("prod-webhooks")["DomainName"] == PROD
    assert secrets.get_secret_value(SecretId=there)["SecretString"] == sources.read_text()
