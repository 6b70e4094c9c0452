"""What the pages say can be done: links, make targets, commands and options, rules that comments refer to."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from kafka_webhook_bridge import cli
from kafka_webhook_bridge.errors import KwbError
from kafka_webhook_bridge.observability.metrics import PROCESS_TABLE, TABLE

ROOT = Path(__file__).parents[2]
LISTED = subprocess.run(
    ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
    cwd=ROOT, capture_output=True, text=True, check=True,
).stdout.split("\0")  # fmt: skip
FILES = sorted(ROOT / name for name in LISTED if name and (ROOT / name).is_file())
PAGES = [path for path in FILES if path.suffix == ".md"]
LINK = re.compile(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)")
TARGET = re.compile(r"\bmake ([a-z][a-z-]*)")
RULE = re.compile(r"rules\.md (\d+(?:(?:, | to | and )\d+)*)")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def code(text: str) -> Iterator[str]:
    """Everything between backquotes, and every line of fenced blocks."""
    fenced = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
    for block in fenced.findall(text):
        yield from block.splitlines()[1:-1]
    yield from re.findall(r"`([^`\n]+)`", fenced.sub("", text))


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings get."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    lost = []
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(link)
    assert lost == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_make_target_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {target for text in code(page.read_text(encoding="utf-8")) for target in TARGET.findall(text)}
    assert named - targets == set()


def command(words: list[str]) -> tuple[Any, list[str]] | None:
    """The command that the words call, and what is left of them; None for a group that is not in this version."""
    if words[0].startswith("-"):
        return cli.root(), words
    assert words[0] in cli.GROUPS, f"there is no `kwb {words[0]}`"
    try:
        found: Any = cli.load(words[0])
    except KwbError:
        return None
    rest = words[1:]
    while rest and rest[0] in getattr(found, "commands", {}):
        found, rest = found.commands[rest[0]], rest[1:]
    if hasattr(found, "commands") and rest and re.fullmatch(r"[a-z]+", rest[0]):
        pytest.fail(f"`kwb {' '.join(words)}`: there is no command {rest[0]}")
    return found, rest


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_kwb_command_and_option_exists(page: Path) -> None:
    for text in code(page.read_text(encoding="utf-8")):
        for call in re.findall(r"(?<![\w./=-])kwb ((?:-?-?[a-z][\w-]*)[^|;&#]*)", text):
            words = call.replace("[", "").replace("]", "").split()
            found = command(words)
            if found is None:
                continue
            options = {option for p in found[0].params for option in (*p.opts, *p.secondary_opts)} | {"--help", "-h"}
            used = {word.partition("=")[0] for word in found[1] if re.match(r"--?[a-zA-Z]", word)}
            assert used - options == set(), text


def test_every_alarm_is_of_a_metric_that_exists() -> None:
    rows = re.findall(r"^\| \[.+$", (ROOT / "docs/howto/alarms.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert rows
    for row in rows:
        named = {found.removesuffix("_bucket") for found in re.findall(r"\bkwb_\w+", row)}
        assert named - TABLE.keys() - PROCESS_TABLE.keys() == set(), row
        assert named or "/health/live" in row, row


def test_the_readme_starts_with_the_two_commands_of_the_makefile() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    first = next(block for block in re.findall(r"```\n(.*?)```", readme, re.DOTALL))
    commands = [line.partition("#")[0].strip() for line in first.splitlines() if line.strip()]
    assert commands == ["make up", "make test"]
    assert "2xx means durable" in readme[: readme.index("make up")]


def test_the_changelog_has_an_unreleased_part() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## \[?Unreleased\]?\n\n### Added\n", changelog, re.MULTILINE)


def test_every_rule_that_a_comment_names_stands_in_the_docs() -> None:
    rules = (ROOT / "docs/explanation/rules.md").read_text(encoding="utf-8")
    known = {int(number) for number in re.findall(r"^\*\*(\d+)\.", rules, re.MULTILINE)}
    named: dict[int, str] = {}
    for path in FILES:
        if path.suffix in (".py", ".sql") and name(path).startswith(("src/", "tests/")):
            for text in RULE.findall(path.read_text(encoding="utf-8")):
                for number in map(int, re.findall(r"\d+", text)):
                    named[number] = name(path)
    assert {number: path for number, path in named.items() if number not in known} == {}
