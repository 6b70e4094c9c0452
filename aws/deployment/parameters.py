"""Which value each parameter of a template gets: from this command, from the deployed stack, else its default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deployment import rules
from deployment.arguments import variable
from deployment.errors import Refused
from deployment.output import Output
from deployment.templates import Template

# Decided by the commands themselves, so never taken from the environment by accident.
OWN = frozenset(
    {"Environment", "DomainName", "BridgeImage", "KafkaImage", "GuardImage", "ConfigVersion", "SourcesVersion"}
)
# Decided on the way, where nobody gives them.
LATER = OWN | {"HostedZoneId", "CertificateArn", "VpcId", "VpcCidr", "PublicSubnetIds", "PrivateSubnetIds"}
ONLY_AT_CREATION = "DatabaseSnapshotId"
# The shells of people who also work with Kafka have some of these; in a stack that is there they would rewrite secrets
# that running tasks have read, and another user name would make another password.
CREDENTIALS = ("KafkaUsername", "KafkaPassword", "WebhookUsername", "WebhookPassword", "ConsoleUsername")


def from_environment(template: Template, environ: Mapping[str, str]) -> dict[str, str]:
    """Values of parameters that the environment gives. An empty password means a made one: it counts as not given."""
    found = {}
    for name in template.parameters:
        value = environ.get(variable(name))
        if name not in OWN and value is not None and (value or name not in template.secret_parameters):
            found[name] = value
    return found


def shown(template: Template, values: Mapping[str, str]) -> str:
    """For people, without secrets."""
    secret = template.secret_parameters
    return ", ".join(f"{name}={'(given)' if name in secret else value}" for name, value in sorted(values.items()))


def check_credentials(wanted: Mapping[str, str], deployed: Mapping[str, str] | None, out: Output) -> None:
    """`deployed` is None when the stack is made: then what the environment gives is told, else refused.

    A user name that is the deployed one changes nothing and may stand there.
    """
    given = [name for name in CREDENTIALS if name in wanted and (deployed or {}).get(name) != wanted[name]]
    if not given:
        return
    shown = ", ".join(map(variable, given))
    if deployed is not None:
        raise Refused(
            f"The environment has {shown}: these are for the first deployment; tasks that run would keep the old ones.",
            f"unset {' '.join(map(variable, given))}; for new ones: docs/howto/aws-maintain.md#new-passwords.",
        )
    out.warn(f"{shown} of the environment will be the stage's.")


def check_single(wanted: Mapping[str, str], kafka_mode: str) -> None:
    """Raises Refused for servers of a cluster that would not be used."""
    if kafka_mode == "single" and wanted.get("KafkaBootstrapServers"):
        raise Refused(
            "The environment has KAFKA_BOOTSTRAP_SERVERS, and KafkaMode single runs a broker of its own.",
            "unset KAFKA_BOOTSTRAP_SERVERS, or KAFKA_MODE=external for that cluster.",
        )


def check_values(template: Template, deployed: Mapping[str, str] | None, wanted: Mapping[str, str]) -> None:
    """Raises Refused with everything that CloudFormation would not take of what is known by now."""
    there = deployed or {}
    unknown = {name for name in template.secret_parameters if name in there} | (LATER - set(there)) | OWN
    known = {
        name: value for name, value in expected(template, deployed, wanted).items()
        if name in wanted or name not in unknown
    }  # fmt: skip
    problems = [*rules.unfit(template, wanted, OWN), *rules.broken(template, known)]
    least, most = (int(known.get(name, "0")) if not problems else 0 for name in ("IngestMinTasks", "IngestMaxTasks"))
    if least > most:  # no Rule of a template compares numbers
        problems = [f"INGEST_MIN_TASKS={least} is more than INGEST_MAX_TASKS={most}"]
    if problems:
        raise Refused("\n".join(problems), "aws/README.md#parameters")


def expected(template: Template, deployed: Mapping[str, str] | None, wanted: Mapping[str, str]) -> dict[str, str]:
    """What every parameter will be, by `compose`; those without any value are left out."""
    found = {}
    for name, row in template.parameters.items():
        if name in wanted:
            found[name] = wanted[name]
        elif deployed is not None and name in deployed:
            found[name] = deployed[name]
        elif "Default" in row:
            found[name] = str(row["Default"])
    return found


def compose(template: Template, deployed: Mapping[str, str] | None, wanted: Mapping[str, str]) -> list[dict[str, Any]]:
    """For a change set. `deployed` is None when the stack is made; then nothing can have a previous value.

    A value that the template has no parameter for is left out: the template of an older release may have fewer. Raises
    Refused for a change of what only a creation may set.
    """
    chosen: list[dict[str, Any]] = []
    for name in template.parameters:
        previous = deployed is not None and name in deployed
        if previous and name == ONLY_AT_CREATION:
            assert deployed is not None
            if wanted.get(name, deployed[name]) != deployed[name]:
                raise Refused(
                    f"{name} was {deployed[name] or 'empty'} when the database was made, and stays that.",
                    "A database from a snapshot is a new stack: docs/howto/aws-restore.md.",
                )
            chosen.append({"ParameterKey": name, "UsePreviousValue": True})
        elif name in wanted:
            chosen.append({"ParameterKey": name, "ParameterValue": wanted[name]})
        elif previous:
            chosen.append({"ParameterKey": name, "UsePreviousValue": True})
    return chosen
