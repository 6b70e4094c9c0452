"""The checks of tools/check_house.py find what they are for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import check_house

ROOT = Path(__file__).parents[2]


def test_the_house_is_in_order() -> None:
    done = subprocess.run([sys.executable, "tools/check_house.py"], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == ""
    assert done.returncode == 0, done.stderr


def test_a_file_of_601_lines_is_found(folder: Path) -> None:
    (folder / "src").mkdir()
    (folder / "src/long.py").write_text("x = 1\n" * 601)
    (folder / "src/short.py").write_text("x = 1\n" * 600)
    assert [p.partition(":")[0] for p in check_house.long_files(folder, ["src/long.py", "src/short.py"])] == [
        "src/long.py"
    ]


def test_a_module_without_its_line_and_a_line_without_its_module_are_found() -> None:
    names = ["src/kafka_webhook_bridge/event.py", "src/kafka_webhook_bridge/body.py"]
    problems = list(check_house.unnamed_modules(names, "| `event.py` | said |\n| `gone.py` | said |\n"))
    assert len(problems) == 2
    assert "body.py" in problems[0]
    assert "gone.py" in problems[1]


# In pieces, so that this file is not itself a finding.
@pytest.mark.parametrize(
    "line",
    [
        "see https://py" + "pi.org/simple",
        "pip install --extra-index" + "-url https://example.com",
        "cd /ho" + "me/ada/bridge",
        "open('/ro" + "ot/bridge')",
    ],
)
def test_a_forbidden_name_is_found(line: str, folder: Path) -> None:
    (folder / "page.md").write_text(f"fine\n{line}\n")
    (problem,) = check_house.forbidden_names(folder, ["page.md"])
    assert problem.startswith("page.md:2: ")


@pytest.mark.parametrize("line", ["curl http://127.0.0.1:8080/home/x", "docs/work/notes.md", "a clone in /root,"])
def test_an_innocent_path_is_passed(line: str, folder: Path) -> None:
    (folder / "page.md").write_text(line)
    assert list(check_house.forbidden_names(folder, ["page.md"])) == []


def test_a_lock_has_no_address(folder: Path) -> None:
    (folder / "requirements").mkdir()
    (folder / "requirements/dev.txt").write_text("a==1 --hash=sha256:0\nb @ https://example.com/b.whl\n")
    (problem,) = check_house.forbidden_names(folder, ["requirements/dev.txt"])
    assert problem.startswith("requirements/dev.txt:2: ")
