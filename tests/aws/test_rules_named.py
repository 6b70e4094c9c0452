"""Each rule of the deployment, 1 to 21, has tests that carry its number, so that none is kept by good will alone."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NAMED = re.compile(r"test_rules?_(\d+)(?:_and_(\d+))?_")
READ = {"test_templates.py", "test_lint.py"}
# What a template cannot say of these is done by scripts and containers, and tested by running them.
RUN = {2, 3, 4, 5, 7, 9, 12, 13, 14, 15, 16, 17, 18, 19, 20}


def named(folder: Path) -> dict[int, set[str]]:
    """Rule → the files with a test named after it."""
    found: dict[int, set[str]] = {}
    for path in sorted(folder.glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and (match := NAMED.match(node.name)):
                for number in filter(None, match.groups()):
                    found.setdefault(int(number), set()).add(path.name)
    return found


@pytest.mark.parametrize("number", range(1, 22))
def test_a_rule_has_tests_of_its_name(number: int) -> None:
    files = named(HERE).get(number, set())
    assert files, f"no test_rule_{number}_… in tests/aws"
    assert files - READ or number not in RUN, f"rule {number} is read off the templates alone: {sorted(files)}"


def test_no_test_is_named_after_a_rule_that_does_not_exist() -> None:
    assert set(named(HERE)) <= set(range(1, 32))


def test_names_are_found_where_they_are(folder: Path) -> None:
    names = ("def test_rule_3_x", "async def test_rules_6_and_17_y", "def rule_4_z", "def test_rule_x")
    (folder / "test_a.py").write_text("\n".join(f"{name}(): ..." for name in names))
    assert named(folder) == {3: {"test_a.py"}, 6: {"test_a.py"}, 17: {"test_a.py"}}
