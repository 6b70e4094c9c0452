"""What was typed, and what the environment says. Passwords come from the environment and are never arguments.

ENVIRONMENT               dev, staging or prod; `deploy` has no default, the others find the stage by its domain
BASE_DOMAIN               for a <subdomain> without a dot: <subdomain>.$BASE_DOMAIN
KAFKA_MODE, …             every parameter of the templates by its name in capitals (KafkaMode, NatGateways, AlarmEmail)
ALLOW_REPLACE             logical ids, with commas, of databases, file systems and load balancers that may be replaced
SOURCES_FILE              JSON object of the sources' secrets; a name of bridge.yaml in the environment goes before it
UPDATE_GUARD              1: the broker's guard is updated, too, which restarts the broker
SKIP_SMOKE                1: no verification from outside at the end
VERIFY_MINUTES            how long services, targets and names may take to be right; default: 15
VERIFY_CONNECT_TO         name:port=host:port, with commas: the verification goes there, where names lead elsewhere
VERIFY_CA                 file of authorities that the verification believes, beside the system's
CERTIFICATE_WAIT_MINUTES  how long the records that prove the domain are waited for; default: 30
RDS_CA_URL                where the build of the image gets the authorities of RDS from; default: npm's registry
PYTHON                    which Python makes the scripts' environment; default: the newest that is here and tested
VENV_AWS                  where that environment is; default: .venv-aws of the checkout
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from deployment.errors import Refused

STAGES = ("dev", "staging", "prod")
Address = tuple[str, int]
ADDRESS = re.compile(r"[^\s,=]+:[0-9]{1,5}")
DOMAIN = re.compile(r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}")
VERIFY_MINUTES, CERTIFICATE_MINUTES = 15.0, 30.0
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
RELEASE = re.compile(r"\d{8}T\d{6}Z")
NEWEST = ""  # --rollback without a name
_ENVIRONMENT = "environment:\n" + (__doc__ or "").partition("\n")[2]


@dataclass(frozen=True, slots=True)
class Options:
    """One command. `environment` is empty when the stage is to be found by `domain`; `rollback` None: no rollback."""

    command: str
    domain: str
    environment: str = ""
    tag: str = ""
    dry_run: bool = False
    rollback: str | None = None
    alarm_rollback: bool = True
    yes: bool = False
    delete_data: bool = False
    words: tuple[str, ...] = ()
    allow_replace: frozenset[str] = frozenset()
    update_guard: bool = False
    skip_smoke: bool = False
    verify_minutes: float = VERIFY_MINUTES
    certificate_minutes: float = CERTIFICATE_MINUTES
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Refused(message, f"./aws/{self.prog} --help")


def parse(arguments: Sequence[str], environ: Mapping[str, str]) -> Options:
    """Raises Refused."""
    command, *rest = arguments or ("",)
    words: tuple[str, ...] = ()
    if command == "run" and "--" in rest:
        at = rest.index("--")
        rest, words = rest[:at], tuple(rest[at + 1 :])
    given = _parser(command).parse_intermixed_args(rest)
    if command == "run" and not words:
        raise Refused("No command is given.", "./aws/run.sh <subdomain> -- kwb doctor")
    tag = getattr(given, "image_tag", "") or ""
    if tag and not TAG.fullmatch(tag):
        raise Refused(f"{tag!r} cannot be an image's tag.")
    connect_to(environ)
    if (ca := environ.get("VERIFY_CA", "")) and not Path(ca).is_file():
        raise Refused(f"VERIFY_CA={ca} is no file.")
    rollback = getattr(given, "rollback", None)
    if rollback is not None and tag:
        raise Refused("--rollback takes its images from the release: leave the image's tag out.")
    if rollback and not RELEASE.fullmatch(rollback):
        raise Refused(f"{rollback!r} is no release; they look like 20260131T120000Z.")
    return Options(
        command=command, domain=_domain(given.subdomain, environ), environment=_environment(command, environ), tag=tag,
        dry_run=getattr(given, "dry_run", False), rollback=rollback,
        alarm_rollback=not getattr(given, "no_alarm_rollback", False), yes=getattr(given, "yes", False),
        delete_data=getattr(given, "delete_data", False), words=words[1:] if words[:1] == ("kwb",) else words,
        allow_replace=frozenset(filter(None, re.split(r"[,\s]+", environ.get("ALLOW_REPLACE", "")))),
        update_guard=environ.get("UPDATE_GUARD", "") not in ("", "0"),
        skip_smoke=environ.get("SKIP_SMOKE", "") not in ("", "0"),
        verify_minutes=_minutes("VERIFY_MINUTES", VERIFY_MINUTES, environ),
        certificate_minutes=_minutes("CERTIFICATE_WAIT_MINUTES", CERTIFICATE_MINUTES, environ), environ=environ,
    )  # fmt: skip


def _parser(command: str) -> _Parser:
    about = {
        "deploy": "Bring a stage up, or up to date: registry, network, images, stack, names, then verify it.",
        "update": "Change a stage that runs, or take it back to an earlier release, then verify it.",
        "run": "Run kwb in a one-off task beside the bridge; its log is shown, its exit status is this command's.",
        "destroy": "Remove a stage. Data stay unless --delete-data is given.",
    }
    if command not in about:
        raise Refused(f"unknown command {command!r}", f"One of {', '.join(about)}.")
    parser = _Parser(
        prog=f"{command}.sh", description=about[command], epilog=_ENVIRONMENT, allow_abbrev=False,
        usage="run.sh [-h] subdomain -- kwb command …" if command == "run" else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("subdomain", help="the stage's domain, or what stands before $BASE_DOMAIN")
    if command in ("deploy", "update"):
        parser.add_argument("image_tag", nargs="?", help="default: this checkout's commit")
        parser.add_argument("--dry-run", action="store_true", help="show what would change, and change nothing")
    if command == "update":
        parser.add_argument(
            "--rollback", nargs="?", const=NEWEST, metavar="RELEASE", help="back to a release; default: the one before"
        )
        parser.add_argument("--no-alarm-rollback", action="store_true", help="the 5xx alarm does not roll this back")
    if command == "destroy":
        parser.add_argument("--yes", action="store_true", help="do not ask")
        parser.add_argument(
            "--delete-data", action="store_true", help="snapshots, file system, secrets and logs go, too"
        )
    return parser


def _domain(subdomain: str, environ: Mapping[str, str]) -> str:
    domain = subdomain.lower().rstrip(".")
    if "." not in domain:
        base = environ.get("BASE_DOMAIN", "").lower().strip(".")
        if not base:
            raise Refused(
                f"{subdomain} is no domain, and BASE_DOMAIN is not set.",
                f"Give the whole domain, or BASE_DOMAIN=example.com for {subdomain}.example.com.",
            )
        domain = f"{domain}.{base}"
    if not DOMAIN.fullmatch(domain):
        raise Refused(f"{shlex.quote(domain)} is no domain.")
    return domain


def _environment(command: str, environ: Mapping[str, str]) -> str:
    found = environ.get("ENVIRONMENT", "")
    if not found and command == "deploy":
        raise Refused("ENVIRONMENT is not set.", "ENVIRONMENT=dev, staging or prod; there is no default on purpose.")
    if found and found not in STAGES:
        raise Refused(f"ENVIRONMENT={found} is no stage.", f"One of {', '.join(STAGES)}.")
    return found


def _minutes(name: str, default: float, environ: Mapping[str, str]) -> float:
    text = environ.get(name, "")
    try:
        found = float(text or default)
    except ValueError:
        found = -1.0
    if not 0 < found < 24 * 60:
        raise Refused(f"{name}={text} is no number of minutes, as {default:g} is.")
    return found


def connect_to(environ: Mapping[str, str]) -> dict[Address, Address]:
    """VERIFY_CONNECT_TO: what is asked for, and where that is. Raises Refused."""
    found = {}
    for pair in filter(None, environ.get("VERIFY_CONNECT_TO", "").split(",")):
        asked, _, place = pair.partition("=")
        if not (ADDRESS.fullmatch(asked.strip()) and ADDRESS.fullmatch(place.strip())):
            raise Refused(f"VERIFY_CONNECT_TO has {shlex.quote(pair)}.", "name:port=host:port, with commas.")
        found[_address(asked)] = _address(place)
    return found


def _address(text: str) -> Address:
    host, _, port = text.strip().rpartition(":")
    return host, int(port)


def variable(parameter: str) -> str:
    """`KafkaMode` → `KAFKA_MODE`, `DatabaseSnapshotId` → `DATABASE_SNAPSHOT_ID`, `ClassB` → `CLASS_B`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", parameter).upper()
