"""The pages about AWS say what is so: who connects to whom, commands, messages, alarms, costs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore import xform_name
from botocore.session import Session
from deployment.arguments import parse, variable
from deployment.templates import load
from rules.network import Flow, flows
from world import Scene, templates, world

from deployment import arguments, costs

ROOT = Path(__file__).parents[2]
README = ROOT / "aws/README.md"
PAGES = [README, *sorted((ROOT / "docs/howto").glob("aws-*.md"))]
FENCED = re.compile(r"^ *```\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
ASSIGNED = re.compile(r"[A-Z][A-Z0-9_]+=")


def commands(page: Path) -> Iterator[str]:
    """What a reader may copy: lines of fenced blocks, those that go on joined, and what stands between backquotes."""
    text = page.read_text(encoding="utf-8")
    for block in FENCED.findall(text):
        yield from re.sub(r"\\\n\s*", " ", block).splitlines()
    yield from INLINE.findall(FENCED.sub("", text))


def of_aws(line: str) -> list[str]:
    """The commands of AWS's CLI in a line: those inside $(…), then what is piped."""
    inner = re.findall(r"\$\((aws [^)]*)\)", line)
    parts = re.sub(r"\$\([^)]*\)", "x", line).split(" |")
    return [*inner, *(part.strip() for part in parts if re.match(r"\s*aws [a-z0-9-]+ [a-z0-9-]+", part))]


# ── who may connect to whom ───────────────────────────────────────────────────────────────────────────────────────────


def told(page: str) -> set[Flow]:
    """The rows of the README's table, in the words of the rules."""
    part = page.partition("### Who may connect to whom\n")[2].partition("\n### ")[0]
    words = {"anywhere": "world", "`KafkaClientCidr`": "clients", "the VPC": "vpc"}
    found = set()
    for row in re.findall(r"^\| (.+?) \| (\w+) \| (\S+) \|", part, re.MULTILINE)[1:]:
        port = str(load("bridge").parameters[row[2].strip("`")]["Default"]) if row[2].startswith("`") else row[2]
        found |= {(words.get(who, who), row[1], f"tcp {port}") for who in row[0].split(", ")}
    return found


def test_rule_01_the_table_of_connections_is_what_the_groups_let_in() -> None:
    scene = Scene("dev", "single", "none", own_vpc=True, console=True)
    page = README.read_text(encoding="utf-8")
    assert told(page) == flows(world(scene), "Ingress")
    assert told(page.replace("| nlb | kafka | 9096 |", "| nlb | kafka | 9094 |")) != flows(world(scene), "Ingress")


# ── commands ──────────────────────────────────────────────────────────────────────────────────────────────────────────

OURS = [(page, line) for page in PAGES for line in commands(page) if re.search(r"\./aws/\w+\.sh ", line)]
THEIRS = [(page, one) for page in PAGES for line in commands(page) for one in of_aws(line)]
ENVIRONMENT = {"BASE_DOMAIN": "example.com", "ENVIRONMENT": "dev", "DOCS": "1"}
PARAMETERS = {variable(name) for which in ("bridge", "vpc") for name in load(which).parameters}
SECRETS = {"SHOPIFY_SECRET"}  # of sources; any name will do
SCRIPTS = {"SKIP_SMOKE", "UPDATE_GUARD", "SOURCES_FILE", "ALLOW_REPLACE", "BASE_DOMAIN", "ENVIRONMENT"}


def unknown(line: str) -> list[str]:
    """What our scripts would not take. Raises Refused for arguments that cannot be."""
    words = shlex.split(line.replace("…", "x"), comments=True)
    at = next(place for place, word in enumerate(words) if word.startswith("./aws/"))
    assert (ROOT / words[at]).exists(), words[at]
    if words[at + 1 : at + 2] != ["--help"]:
        parse([words[at].removeprefix("./aws/").removesuffix(".sh"), *words[at + 1 :]], ENVIRONMENT)
    names = [word.partition("=")[0] for word in words[:at] if ASSIGNED.match(word)]
    return [name for name in names if name not in PARAMETERS | SECRETS | SCRIPTS]


@pytest.mark.parametrize(("page", "line"), OURS, ids=[f"{page.stem}-{n}" for n, (page, _) in enumerate(OURS)])
def test_our_scripts_take_what_the_pages_give_them(page: Path, line: str) -> None:
    assert unknown(line) == [], f"{page.name}: {line}"


def test_a_variable_that_no_script_reads_is_found() -> None:
    assert unknown("KAFKA_MODES=external ./aws/deploy.sh bridge.example.com") == ["KAFKA_MODES"]


# Commands of AWS's CLI that are no call of an API.
CUSTOM = {"logs tail", "s3 ls", "s3 rb"}
SESSION = Session()
GLOBAL = {"query", "output", "region", "source-region", "cli-input-json"}


def wrong(line: str) -> list[str]:
    """What AWS's CLI would not take: it makes commands and options of the API's names, as botocore knows them."""
    service, action, *rest = shlex.split(line)[1:]
    if f"{service} {action}" in CUSTOM:
        return []
    found = SESSION.get_service_model(service)
    if action == "wait":
        action, *rest = rest
        waiters = SESSION.get_waiter_model(service)
        names = {xform_name(name, "-"): waiters.get_waiter(name).operation for name in waiters.waiter_names}
    else:
        names = {xform_name(name, "-"): name for name in found.operation_names}
    if action not in names:
        return [action]
    members = found.operation_model(names[action]).input_shape.members
    options = {xform_name(name, "-") for name in members}
    options |= {f"no-{xform_name(name, '-')}" for name, shape in members.items() if shape.type_name == "boolean"}
    return [word for word in rest if word.startswith("--") and word[2:] not in options | GLOBAL]


@pytest.mark.parametrize(("page", "line"), THEIRS, ids=[f"{page.stem}-{n}" for n, (page, _) in enumerate(THEIRS)])
def test_awss_cli_takes_what_the_pages_give_it(page: Path, line: str) -> None:
    assert wrong(line) == [], f"{page.name}: {line}"


def test_an_option_that_aws_does_not_have_is_found() -> None:
    assert wrong("aws ecs update-service --cluster c --services s --force-new-deployment") == ["--services"]
    assert wrong("aws rds delete-database --region x") == ["delete-database"]


def test_every_variable_that_the_scripts_read_is_explained() -> None:
    """In the help of each, which is also the table in the README."""
    python = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "aws/deployment").glob("*.py"))
    read = set(re.findall(r'environ(?:\.get\(|\[)"([A-Z_]+)"', python))
    for path in (ROOT / "aws").glob("*.sh"):
        read |= set(re.findall(r"\$\{([A-Z_]+)\b", path.read_text(encoding="utf-8"))) - {"BASH_SOURCE"}
    assert {"SKIP_SMOKE", "VENV_AWS"} <= read
    explained = set(re.findall(r"^([A-Z_]+)(?:, …)?  ", arguments.__doc__ or "", re.MULTILINE))
    assert read <= explained


def test_there_are_commands_of_both_kinds() -> None:
    assert len(OURS) > 20
    assert len(THEIRS) > 20


def test_whoever_deploys_first_sees_three_commands() -> None:
    first = next(iter(FENCED.findall(README.read_text(encoding="utf-8"))))
    assert len(first.splitlines()) == 3
    assert "./aws/deploy.sh" in first


# ── messages ──────────────────────────────────────────────────────────────────────────────────────────────────────────

SAID = "\n".join(
    path.read_text(encoding="utf-8")
    for folder in ("aws/deployment", "aws/kafka", "src/kafka_webhook_bridge")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".sh", "") and path.is_file() and "__pycache__" not in path.parts
) + (ROOT / "aws/lib.sh").read_text(encoding="utf-8")


def messages(page: Path, heading: str) -> list[str]:
    part = page.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [one for row in re.findall(r"^\| (`.+?) \| ", part, re.MULTILINE) for one in INLINE.findall(row)]


OUR_MESSAGES = [
    *messages(ROOT / "docs/howto/aws-troubleshooting.md", "What the scripts say"),
    *messages(ROOT / "docs/howto/aws-remove.md", "When it does not go"),
    "waiting for the broker before",
    "DNS pending",
]


@pytest.mark.parametrize("message", OUR_MESSAGES)
def test_a_message_of_the_pages_is_one_that_somebody_says(message: str) -> None:
    literal = message.replace("DELETE_FAILED", "").replace("AccessDenied", "Denied").strip()
    assert literal in SAID


def test_messages_are_found_at_all() -> None:
    assert len(OUR_MESSAGES) > 35


# ── alarms, costs ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_rule_13_each_alarm_has_its_section() -> None:
    page = (ROOT / "docs/howto/aws-alarms.md").read_text(encoding="utf-8")
    alarms = [
        one["Properties"]["AlarmName"]
        for one in load("bridge").document["Resources"].values()
        if one["Type"] == "AWS::CloudWatch::Alarm"
    ]
    assert [f"${{Environment}}-webhooks-{name}" for name in re.findall(r"^## (.+)$", page, re.MULTILINE)] == alarms
    for section in page.split("\n## ")[1:]:
        assert "\n- Look at: " in section, section[:20]
        assert "\n- Do: " in section, section[:20]


def test_rule_11_the_estimate_counts_what_the_template_has() -> None:
    resources = [one["Type"] for one in templates()["bridge"]["Resources"].values()]
    document = load("bridge").document
    broker = document["Resources"]["KafkaTask"]["Properties"]["ContainerDefinitions"][0]["Environment"]
    (hours,) = [one["Value"] for one in broker if one.get("Name") == "KAFKA_LOG_RETENTION_HOURS"]
    assert float(hours) == costs.RETENTION_HOURS
    assert resources.count("AWS::CloudWatch::Alarm") == costs.ALARMS
    assert resources.count("AWS::SecretsManager::Secret") == costs.SECRETS
    storage = document["Resources"]["Database"]["Properties"]["AllocatedStorage"]
    assert storage[-1] == f"{costs.DATABASE_GB:g}"  # a snapshot brings its own
    tasks = {name: document["Resources"][f"{name.capitalize()}Task"]["Properties"] for name in costs.TASKS}
    for name, (vcpu, gib) in costs.TASKS.items():
        assert (tasks[name]["Cpu"], tasks[name]["Memory"]) == (f"{vcpu * 1024:g}", f"{gib * 1024:g}"), name
