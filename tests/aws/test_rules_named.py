"""Each rule of the deployment, 1 to 21, has tests that carry its number, so that none is kept by good will alone."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NAMED = re.compile(r"test_rule_(\d\d?)_")


def named(folder: Path) -> dict[int, set[str]]:
    """Rule → the files with a test named after it."""
    found: dict[int, set[str]] = {}
    for path in sorted(folder.glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and (match := NAMED.match(node.name)):
                found.setdefault(int(match[1]), set()).add(path.name)
    return found


@pytest.mark.parametrize("number", range(1, 22))
def test_a_rule_has_a_test_of_its_name(number: int) -> None:
    assert named(HERE).get(number), f"no test_rule_{number}_… in tests/aws"


def test_no_test_is_named_after_a_rule_that_does_not_exist() -> None:
    assert set(named(HERE)) <= set(range(1, 32))


def test_names_are_found_where_they_are(folder: Path) -> None:
    (folder / "test_a.py").write_text(
        "def test_rule_3_x(): ...\n\nasync def test_rule_17_y(): ...\n\ndef rule_04(): ...\n"
    )
    assert named(folder) == {3: {"test_a.py"}, 17: {"test_a.py"}}
