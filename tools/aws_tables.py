"""The tables in the pages about AWS: parameters, outputs, stages and alarms out of the templates, costs out of the code
that estimates them for deploy.sh. tools/reference.py writes and checks them with its own pages.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "aws"))

from deployment.parameters import OWN  # noqa: E402
from deployment.templates import load  # noqa: E402

from deployment import arguments, costs  # noqa: E402
from tables import fill, places, table  # noqa: E402

STAGES = arguments.STAGES
TEMPLATES = {name: load(name) for name in ("vpc", "bridge")}


def pages() -> dict[Path, str]:
    """Every page with a place for one of these tables → its text with them."""
    made = {
        "parameters": [*_parameters("bridge", "####")],
        "network-parameters": [*_parameters("vpc", "####")],
        "variables": [*_variables()],
        "outputs": [*_outputs()],
        "stages": [*_stages()],
        "alarms": [*_alarms()],
        "costs": [*_costs()],
        "other-costs": [*_other_costs()],
        "prices": [*_prices()],
    }
    texts = {path: path.read_text(encoding="utf-8") for path in [ROOT / "aws/README.md", *_howtos()]}
    missing = made.keys() - {name for text in texts.values() for name in places(text)}
    assert not missing, f"no page has a place for {', '.join(sorted(missing))}"
    return {path: fill(text, made) for path, text in texts.items()}


def stale() -> list[str]:
    """One line per page whose tables are not what templates and code say."""
    return [
        f"{path.relative_to(ROOT)}: not what the templates say; run `make docs`"
        for path, text in pages().items()
        if path.read_text(encoding="utf-8") != text
    ]


def _howtos() -> list[Path]:
    return sorted((ROOT / "docs/howto").glob("aws-*.md"))


# ── parameters and outputs ────────────────────────────────────────────────────────────────────────────────────────────


def _parameters(name: str, level: str) -> Iterator[str]:
    document = TEMPLATES[name].document
    for group in document["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]:
        yield from (f"{level} {group['Label']['default']}", "")
        rows = ((one, document["Parameters"][one]) for one in group["Parameters"])
        yield from table(
            ("parameter", "variable", "default", "values", "what it is"),
            (
                (f"`{one}`", _variable(one), _default(row), _shown(_values(row)), _shown(row["Description"]))
                for one, row in rows
            ),
        )


def _variable(parameter: str) -> str:
    return "set by the scripts" if parameter in OWN else f"`{arguments.variable(parameter)}`"


def _default(row: Mapping[str, Any]) -> str:
    if "Default" not in row:
        return "none"
    return "empty" if row["Default"] == "" else f"`{row['Default']}`"


def _values(row: Mapping[str, Any]) -> str:
    if "AllowedValues" in row:
        return ", ".join(f"`{value}`" for value in row["AllowedValues"])
    if "MinValue" in row:
        return f"{row['MinValue']} to {row['MaxValue']}"
    if "ConstraintDescription" in row:
        return str(row["ConstraintDescription"]).rstrip(".")
    return {"AWS::EC2::VPC::Id": "a VPC", "List<AWS::EC2::Subnet::Id>": "subnets, with commas"}[row["Type"]]


def _variables() -> Iterator[str]:
    """The docstring of `deployment.arguments`, which is also what --help shows."""
    lines = re.findall(r"^([A-Z_]+)(, …)? {2,}(.+)$", inspect.getdoc(arguments) or "", re.MULTILINE)
    yield from table(("variable", "what it is"), ((f"`{name}`{more}", _shown(said)) for name, more, said in lines))


def _outputs() -> Iterator[str]:
    when = {
        "HasConsole": "with a console", "SingleKafka": "`KafkaMode` single",
        "PasswordOfTheStack": "the bridge logs in by a password of the stack",
    }  # fmt: skip
    rows = TEMPLATES["bridge"].document["Outputs"].items()
    yield from table(
        ("output", "what it is", "when"),
        ((f"`{name}`", _shown(row["Description"]), when.get(row.get("Condition"), "")) for name, row in rows),
    )


def _shown(text: str) -> str:
    """A sentence with <domain> in it: Markdown would take that for HTML."""
    return text.replace("<", "&lt;")


# ── what differs between stages ───────────────────────────────────────────────────────────────────────────────────────

_ROWS = {
    "DatabaseClass": "database",
    "MultiAz": "database in two zones",
    "DatabaseBackupDays": "days of backups of the database",
    "DatabaseConnections": "connections of the database",
    "DatabaseConnectionsAlarm": "connections that set the alarm off",
    "LogDays": "days that logs are kept",
    "Protect": "database and load balancers are protected from deletion",
}
_WORDS = {"true": "yes", "false": "no"}
_FATES = {"RetainExceptOnCreate": "stay", "Delete": "go"}


def _stages() -> Iterator[str]:
    rows, document = TEMPLATES["bridge"].mapping("Stage"), TEMPLATES["bridge"].document
    condition, kept, gone = document["Resources"]["FileSystem"]["DeletionPolicy"]  # !If
    _, keeping = document["Conditions"][condition]  # !Equals [!Ref Environment, …]
    fates = [_FATES[kept if stage == keeping else gone] for stage in STAGES]
    assert all(set(row) == set(_ROWS) for row in rows.values()), "a row of the mapping Stage has no words here"

    def cell(stage: str, key: str) -> str:
        value = str(rows[stage][key])
        return _WORDS.get(value, value)

    yield from table(
        ("", *STAGES),
        [
            *((words, *(cell(stage, key) for stage in STAGES)) for key, words in _ROWS.items()),
            ("file system, configuration and sources when the stack is deleted", *fates),
        ],
    )


# ── alarms ────────────────────────────────────────────────────────────────────────────────────────────────────────────

_SIGNS = {"GreaterThanThreshold": ">", "LessThanThreshold": "<"}
_MISSING = {"breaching": "yes", "notBreaching": "no", "ignore": "stays as it was"}
_STAGE = "${Environment}-webhooks-"


def alarms() -> dict[str, dict[str, Any]]:
    """Name without the stage → properties, in the order of the template."""
    resources = TEMPLATES["bridge"].document["Resources"].values()
    found = [row["Properties"] for row in resources if row["Type"] == "AWS::CloudWatch::Alarm"]
    return {row["AlarmName"].removeprefix(_STAGE): row for row in found}


def _alarms() -> Iterator[str]:
    yield from table(
        ("alarm", "what it says", "red when", "without data red"),
        (
            (f"[{name}](#{name})", row["AlarmDescription"], _condition(row), _MISSING[row["TreatMissingData"]])
            for name, row in alarms().items()
        ),
    )


def _condition(row: Mapping[str, Any]) -> str:
    times = int(row["EvaluationPeriods"])
    period = {60: "a minute", 300: "5 minutes", 86400: "a day"}[int(row["Period"])]
    running = f", {times} times running" if times > 1 else ""
    limit = f"{_SIGNS[row['ComparisonOperator']]} {_threshold(row)}"
    return f"{row['Statistic'].lower()} of `{row['MetricName']}` in {period} {limit}{running}"


def _threshold(row: Mapping[str, Any]) -> str:
    value = row["Threshold"]
    if isinstance(value, list):  # !FindInMap [Stage, !Ref Environment, …]
        stages = TEMPLATES["bridge"].mapping("Stage")
        return " / ".join(str(stages[stage][value[2]]) for stage in STAGES)
    number = int(value)
    return f"{number / 2**30:g} GiB" if number >= 1 << 30 else str(number)


# ── costs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _estimates(*more: str) -> dict[str, list[costs.Line]]:
    """Stage → lines of a month with the templates' defaults; `more` are parameters that differ, as Name=value."""
    defaults = {
        name: str(row.get("Default", ""))
        for which in ("vpc", "bridge")
        for name, row in TEMPLATES[which].parameters.items()
    }
    given = {**defaults, **dict(one.split("=", 1) for one in more)}
    stages = TEMPLATES["bridge"].mapping("Stage")
    return {stage: costs.estimate(given, stages[stage], given) for stage in STAGES}


def _costs() -> Iterator[str]:
    found = _estimates()
    kinds = list(dict.fromkeys(line.what.partition(":")[0] for lines in found.values() for line in lines))

    def cell(stage: str, kind: str) -> str:
        return " ".join(f"{line.month:.0f}" for line in found[stage] if line.what.partition(":")[0] == kind)

    words = {"secrets": "secrets, alarms, a key"}
    rows = [(words.get(kind, kind), *(cell(stage, kind) for stage in STAGES)) for kind in kinds]
    total = ("**together**", *(f"**{costs.total(found[stage]):.0f}**" for stage in STAGES))
    yield from table(("US dollars a month", *STAGES), [*rows, total])


_OTHERS = {
    "`KAFKA_MODE=external`: no broker, file system and second load balancer": ("KafkaMode=external",),
    "`NAT_GATEWAYS=per-az`: the way out outlives a zone": ("NatGateways=per-az",),
    "`NAT_GATEWAYS=none INTERFACE_ENDPOINTS=true`": ("NatGateways=none", "InterfaceEndpoints=true"),
    "`CPU_ARCHITECTURE=ARM64`": ("CpuArchitecture=ARM64",),
    "`INGEST_MIN_TASKS=1`: one zone answers senders": ("IngestMinTasks=1",),
    "`CONSOLE_CIDR=…`: the console": ("ConsoleCidr=203.0.113.0/24",),
}


def _other_costs() -> Iterator[str]:
    usual = _estimates()

    def cell(stage: str, more: tuple[str, ...]) -> str:
        return f"{costs.total(_estimates(*more)[stage]) - costs.total(usual[stage]):+.0f}".replace("-", "−")

    yield from table(
        ("US dollars a month more", *STAGES),
        ((what, *(cell(stage, more) for stage in STAGES)) for what, more in _OTHERS.items()),
    )


def _prices() -> Iterator[str]:
    hourly, kept = costs.HOURS, costs.RETENTION_HOURS / costs.HOURS
    per_gb = costs.EFS_GB_WRITTEN + costs.EFS_GB_READ + kept * costs.EFS_GB_MONTH
    traffic = costs.EVENTS_PER_SECOND * costs.EVENT_BYTES * 3600 * hourly / 1e9
    yield from table(
        ("part", "formula, US dollars a month"),
        [
            ("a task", f"{hourly:g} h × (vCPU × {costs.VCPU:g} + GB × {costs.GIB:g}); ARM64 × {costs.ARM_FACTOR:g}"),
            ("a load balancer", f"{hourly:g} h × {costs.LOAD_BALANCER:g}, and its capacity units"),
            ("a public address", f"{hourly:g} h × {costs.PUBLIC_IPV4:g}; {costs.ZONES} of a load balancer, 1 of a NAT"),
            ("a NAT gateway", f"{hourly:g} h × {costs.NAT:g} + GB through it × {costs.NAT_PER_GB:g}"),
            ("interface endpoints", f"{hourly:g} h × {costs.ENDPOINT:g} × {costs.ENDPOINTS} × {costs.ZONES} zones"),
            (
                "the database",
                f"{hourly:g} h × its class ("
                + ", ".join(f"{name.removeprefix('db.')} {price:g}" for name, price in costs.DATABASE.items())
                + f") + GB × {costs.DATABASE_GB_MONTH:g}; in two zones × 2",
            ),
            (
                "the broker's file system",
                f"GB written × {costs.EFS_GB_WRITTEN:g} + GB read × {costs.EFS_GB_READ:g} + GB kept × "
                f"{costs.EFS_GB_MONTH:g}; of {costs.RETENTION_HOURS:g} h of events: {per_gb:.3f} a GB of events",
            ),
            ("logs", f"GB × {costs.LOGS_GB:g}"),
            ("a secret, an alarm, a key", f"{costs.SECRET_MONTH:.2f}, {costs.ALARM_MONTH:.2f}, {costs.KEY_MONTH:.2f}"),
            (
                "GB of events",
                f"events a second × bytes of one × {3600 * hourly / 1e9:.6f}; the tables count "
                f"{costs.EVENTS_PER_SECOND:g} a second of {costs.EVENT_BYTES:g} bytes, {traffic:.1f} GB. A hundred a "
                f"second are {100 * traffic:.0f} GB, and ${100 * traffic * per_gb:.0f} for the file system",
            ),
        ],
    )
