"""The templates before the linters, and the configuration of each stage before the bridge itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TEMPLATES = sorted((ROOT / "aws/templates").glob("*.yaml"))
CONFIGURATIONS = sorted((ROOT / "aws/config").glob("*.yaml"))
REGIONS = ("us-east-1", "eu-central-1", "ap-southeast-2")
NOT_RUN = 3  # of tools/check_templates.py
REASON_LETTERS_MIN = 15


def cfn_lint(*files: Path, regions: tuple[str, ...] = REGIONS[:1]) -> subprocess.CompletedProcess[str]:
    """Errors and warnings; I3011 besides, which says that nothing is deleted by a default."""
    checks = ("--include-checks", "I3011", "--regions", *regions)
    command = [sys.executable, "-m", "cfnlint.runner.cli", *checks, "--", *files]
    return subprocess.run(command, capture_output=True, text=True)


def checkov(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "tools/check_templates.py", folder]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == NOT_RUN:
        pytest.skip(f"checkov: {done.stderr.strip().splitlines()[-1]}")
    return done


def mutant(folder: Path, **changes: str) -> Path:
    """A folder with bridge.yaml, changed in one place for each old text."""
    text = (ROOT / "aws/templates/bridge.yaml").read_text()
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (folder / "bridge.yaml").write_text(text)
    return folder / "bridge.yaml"


# ── cfn-lint ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_cfn_lint_finds_nothing() -> None:
    done = cfn_lint(*TEMPLATES, regions=REGIONS)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_rule_10_cfn_lint_sees_a_database_that_would_be_deleted_without_a_word_and_a_wrong_value(
    tmp_path: Path,
) -> None:
    changes = {"    DeletionPolicy: Snapshot\n": "", "ThroughputMode: elastic": "ThroughputMode: plastic"}
    done = cfn_lint(mutant(tmp_path, **changes))
    assert done.returncode != 0
    found = set(re.findall(r"^[EWI]\d+", done.stdout, re.MULTILINE))
    assert found == {"E3030", "I3011", "W3011"}, done.stdout


# ── what CloudFormation refuses and no linter sees ───────────────────────────────────────────────────────────────────


def aliases(text: str) -> list[int]:
    """Lines of YAML's anchors and aliases, with which CloudFormation takes no template."""
    tokens = (yaml.tokens.AnchorToken, yaml.tokens.AliasToken)
    return [token.start_mark.line + 1 for token in yaml.scan(text) if isinstance(token, tokens)]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_no_template_has_aliases(path: Path) -> None:
    assert aliases(path.read_text()) == []
    assert aliases("a: &one {b: 1}\nc: *one\n") == [1, 2]


# ── checkov ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.timeout(900)  # its environment is made at the first time
def test_checkov_finds_nothing() -> None:
    done = checkov(ROOT / "aws/templates")
    counts = re.search(r"Passed checks: (\d+), Failed checks: (\d+)", done.stdout)
    assert counts is not None, done.stdout + done.stderr
    assert int(counts[1]) > 100
    assert (done.returncode, int(counts[2])) == (0, 0), done.stdout


@pytest.mark.timeout(900)
def test_checkov_sees_a_database_that_is_open_to_the_world(tmp_path: Path) -> None:
    mutant(tmp_path, **{"PubliclyAccessible: false": "PubliclyAccessible: true"})
    done = checkov(tmp_path)
    assert done.returncode == 1
    assert "CKV_AWS_17" in done.stdout


# ── reasons ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def ignores() -> Iterator[tuple[str, str]]:
    """(where, reason) of everything that a linter is told to pass over."""
    for path in (*TEMPLATES, ROOT / "aws/checkov.yaml"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            where = f"{path.name}:{number}"
            if re.search(r"ignore_checks|- CKV2?_AWS_", line):
                yield where, line.partition("  # ")[2]
            elif found := re.search(r"\{id: CKV2?_AWS_\d+, comment: '(.*)'\}", line):
                yield where, found[1]
            else:
                assert "CKV" not in line, f"{where}: not in the form that is read here"


def test_every_ignore_has_its_reason() -> None:
    found = list(ignores())
    assert len(found) > 10
    assert [where for where, reason in found if len(reason) < REASON_LETTERS_MIN] == []


# ── configuration ─────────────────────────────────────────────────────────────────────────────────────────────────────


def check(text: str) -> subprocess.CompletedProcess[str]:
    """`kwb config check` with what an ingest task of `KafkaMode=single` is given."""
    given = {
        "KWB_CONFIG": text, "KAFKA_BOOTSTRAP_SERVERS": "kafka.dev-webhooks.internal:9094", "KAFKA_USERNAME": "bridge",
        "KAFKA_PASSWORD": "testing-testing", "WEBHOOK_USERNAME": "webhook", "WEBHOOK_PASSWORD": "testing-testing",
        "DATABASE_URL": "postgresql://bridge@db.internal:5432/bridge", "KWB_BRIDGE_OWN_BROKER": "true",
        "PATH": os.environ["PATH"],
    }  # fmt: skip
    command = [sys.executable, "-m", "kafka_webhook_bridge.cli", "config", "check"]
    return subprocess.run(command, env=given, capture_output=True, text=True)


def test_rule_2_there_is_a_configuration_for_each_stage() -> None:
    assert [path.stem for path in CONFIGURATIONS] == ["dev", "prod", "staging"]


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_rule_2_the_configuration_of_each_stage_is_right(path: Path) -> None:
    done = check(path.read_text())
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_rule_3_each_stage_has_a_source_for_the_first_event(path: Path) -> None:
    assert yaml.safe_load(path.read_text())["sources"]["kwb-smoke"] == {"topic": "kwb.smoke"}


def test_rule_2_the_first_configuration_of_a_new_stack_is_right() -> None:
    """A secret needs a first content, and tasks start with it before deploy has put the stage's own."""
    text = (ROOT / "aws/templates/bridge.yaml").read_text()
    found = re.search(r"\n  ConfigSecret:\n.*?      SecretString: \|\n((?:        [^\n]*\n)+)", text, re.DOTALL)
    assert found is not None
    first = re.sub(r"^        ", "", found[1], flags=re.MULTILINE)
    done = check(first)
    assert done.returncode == 0, done.stderr
    assert check(first.replace("topic", "topics")).returncode == 2
