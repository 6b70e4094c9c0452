"""The table at the end of aws/README.md: every line of the original strategy is in it, and what rows name is there."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from world import templates

ROOT = Path(__file__).parents[2]
README = ROOT / "aws/README.md"
# The sections of the original, and how many things each of them says: its bullets and steps, and in those that have
# templates or properties instead, what these set.
SECTIONS = {
    "Overview": 1,
    "AWS Resource Naming Limits": 4,
    "Key Differences from Local Setup": 3,
    "Domain Structure": 3,
    "Network Configuration": 9,
    "Load Balancer Configuration": 3,
    "Kafka Configuration": 9,
    "ECS Service Configuration": 12,
    "Security Configuration": 10,
    "Monitoring and Logging": 4,
    "Deployment Process": 4,
    "Deployment Scripts": 6,
    "Rollback Strategy": 4,
    "Maintenance Procedures": 4,
    "Cost Considerations": 4,
    "Limitations and Constraints": 4,
    "Next Steps": 4,
    "Local Development Setup": 6,
    "CloudFormation Deployment": 1,
    "Parameters": 7,
    "Resources Created": 17,
    "Deployment Steps": 6,
    "Monitoring and Maintenance": 4,
    "Security Considerations": 4,
    "Troubleshooting": 5,
    "Cleanup": 2,
}
LINK = re.compile(r"\[[^\]]*\]\(([^)]+)\)")
LOGICAL = re.compile(r"`([A-Z][a-z0-9]+(?:[A-Z0-9][A-Za-z0-9]*)?)`")


def rows(page: str) -> list[tuple[str, str, str]]:
    """Section, what it asks for, where it is."""
    part = page.partition("\n## The original strategy, line by line\n")[2]
    found = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("| ")]
    return [(section, asked, where) for section, asked, where in found[1:]]


ROWS = rows(README.read_text(encoding="utf-8"))


def test_every_section_of_the_original_has_its_rows_in_its_order() -> None:
    assert Counter(section for section, _, _ in ROWS) == SECTIONS
    assert list(dict.fromkeys(section for section, _, _ in ROWS)) == list(SECTIONS)


def test_no_row_stands_twice_and_each_says_where() -> None:
    assert [row for row, count in Counter((section, asked) for section, asked, _ in ROWS).items() if count > 1] == []
    for section, asked, where in ROWS:
        assert LINK.search(where) or LOGICAL.search(where) or "**differs**: " in where, f"{section}: {asked}"


def lost(where: str) -> list[str]:
    """What a row names and nobody has: files, and parts of the templates. Sections are the links' tests' affair."""
    known = {
        name
        for template in templates().values()
        for part in ("Parameters", "Mappings", "Resources", "Outputs")
        for name in template.get(part) or {}
    }
    links = [link.partition("#")[0] for link in LINK.findall(where)]
    return [
        *(name for name in LOGICAL.findall(where) if name not in known),
        *(link for link in links if link and not (README.parent / link).exists()),
    ]


@pytest.mark.parametrize(
    ("section", "asked", "where"), ROWS, ids=[f"{row[0]}-{number}" for number, row in enumerate(ROWS)]
)
def test_what_a_row_names_is_there(section: str, asked: str, where: str) -> None:
    assert lost(where) == [], f"{section}: {asked}"


def test_what_is_not_there_is_found() -> None:
    assert lost("[a](templates/gone.yaml) `AlbOfNobody`, [b](deploy.sh) `Alb`") == [
        "AlbOfNobody",
        "templates/gone.yaml",
    ]


def test_every_parameter_of_the_original_is_one_of_ours() -> None:
    named = [LOGICAL.findall(asked)[0] for section, asked, _ in ROWS if section == "Parameters"]
    assert set(named) <= set(templates()["bridge"]["Parameters"])
