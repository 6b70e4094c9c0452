"""What the bridge's tasks read from Secrets Manager: bridge.yaml, and the secrets of its sources.

The stack makes both secrets; what is in them is put there by deploy and update, and the stack is then told the version
of each, so that a change of the configuration is a rolling deployment and goes back with it. A version is only made
when the content is neither what is deployed nor what an attempt before has put there. Secrets Manager forgets versions
that have no label, so each of ours has one, and the newest VERSIONS_KEPT can be gone back to.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import botocore.exceptions
import yaml

from deployment.account import Account, code
from deployment.errors import Refused
from deployment.templates import AWS, ROOT

BYTES_MAX = 65_536  # of one secret
SMOKE_TOPIC = "kwb.smoke"
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_CURRENT = "AWSCURRENT"
# A secret has at most twenty labels, and AWS uses three.
VERSIONS_KEPT = 15
_LABEL = "kwb-"


@dataclass(frozen=True, slots=True)
class Configuration:
    """`text` of aws/config/<stage>.yaml; `names` of the secrets that it refers to."""

    path: Path
    text: str
    names: frozenset[str]

    @property
    def smoke_source(self) -> str:
        """The source whose topic the verification reads; empty when there is none."""
        sources = (yaml.safe_load(self.text) or {}).get("sources") or {}
        for name, row in sources.items():
            if isinstance(row, dict) and row.get("topic") == SMOKE_TOPIC:
                return str(name)
        return ""


@dataclass(frozen=True, slots=True)
class Contents:
    """The texts of both secrets, as they were checked together."""

    configuration: str
    sources: str


def load(stage: str) -> Configuration:
    """Raises Refused when there is none or it is too large."""
    path = AWS / "config" / f"{stage}.yaml"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise Refused(f"{path.relative_to(ROOT)}: {error.strerror}.", "It is the bridge.yaml of that stage.") from None
    if len(text.encode()) > BYTES_MAX:
        raise Refused(f"{path.relative_to(ROOT)} is larger than a secret may be ({BYTES_MAX} bytes).")
    return Configuration(path, text, frozenset(_VARIABLE.findall(_without_comments(text))))


def _without_comments(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))


def given(configuration: Configuration, environ: Mapping[str, str]) -> dict[str, str]:
    """Secrets of sources that this command was given: from SOURCES_FILE, and by name from the environment."""
    found: dict[str, str] = {}
    if name := environ.get("SOURCES_FILE", ""):
        try:
            read = json.loads(Path(name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise Refused(f"SOURCES_FILE={name} cannot be read: {type(error).__name__}.", "A JSON object.") from None
        if not isinstance(read, dict) or not all(isinstance(value, str) for value in read.values()):
            raise Refused(f"SOURCES_FILE={name} is no JSON object of names and texts.")
        found.update(read)
    found.update({name: environ[name] for name in configuration.names if environ.get(name)})
    return found


def check(configuration: Configuration, secrets: Mapping[str, str]) -> None:
    """As `kwb config check` sees it, with the secrets that it will have. Raises Refused with all that is wrong."""
    missing = sorted(configuration.names - set(secrets))
    shown = configuration.path.relative_to(ROOT)
    if missing:
        raise Refused(
            f"{shown} refers to {', '.join(missing)}, which no secret of the stage has.",
            f"{missing[0]}=… in the environment of this command, or in SOURCES_FILE; it is kept for the next ones.",
        )
    from kafka_webhook_bridge.sources.config import check_configuration

    # Which broker and database there will be is the template's affair: these only let the file be judged.
    environ = {
        "KAFKA_BOOTSTRAP_SERVERS": "kafka.invalid:9094", "KAFKA_USERNAME": "bridge", "KAFKA_PASSWORD": "unknown-here",
        "KWB_KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT", "KWB_KAFKA_SASL_MECHANISM": "PLAIN",
        "WEBHOOK_USERNAME": "webhook", "WEBHOOK_PASSWORD": "unknown-here",
        "DATABASE_URL": "postgresql://bridge:unknown-here@database.invalid/bridge", **secrets,
    }  # fmt: skip
    # The text, as tasks get it, and not the file, which somebody may be writing to.
    *_, problems = check_configuration(environ, bridge_config=configuration.text)
    if problems:
        said = "\n".join(map(str, problems)).replace("KWB_CONFIG", str(shown))
        raise Refused(f"{shown} is wrong:\n{said}", "See `kwb config check`.")


@dataclass(frozen=True, slots=True)
class Secret:
    """One of Secrets Manager, by ARN."""

    account: Account
    arn: str

    @property
    def _client(self) -> Any:
        return self.account.client("secretsmanager")

    def value(self, version: str = "") -> str | None:
        """Of a version, or of the current one; None when there is no such version."""
        which = {"VersionId": version} if version else {"VersionStage": _CURRENT}
        try:
            found: str = self._client.get_secret_value(SecretId=self.arn, **which)["SecretString"]
        except botocore.exceptions.ClientError as error:
            if code(error) == "ResourceNotFoundException":
                return None
            raise
        return found

    def version_of(self, text: str, deployed: str) -> str:
        """The version that has this content, the deployed or the current one; empty when neither has.

        `deployed` is empty until the stack was told a version: what its tasks read then is not known, so one is named.
        """
        if deployed and self.value(deployed) == text:
            return deployed
        found = self._client.get_secret_value(SecretId=self.arn, VersionStage=_CURRENT)
        return str(found["VersionId"]) if found["SecretString"] == text else ""

    def put(self, text: str, deployed: str) -> str:
        """The version that has this content: one that is there, or a new one."""
        if found := self.version_of(text, deployed):
            if found != deployed and not any(label.startswith(_LABEL) for label in self._labels(found)):
                self._keep(found)
            return found
        self._forget_oldest(deployed)
        made: str = self._client.put_secret_value(SecretId=self.arn, SecretString=text)["VersionId"]
        self._keep(made)
        return made

    def _keep(self, version: str) -> None:
        label = f"{_LABEL}{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
        self._client.update_secret_version_stage(SecretId=self.arn, VersionStage=label, MoveToVersionId=version)

    def _versions(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._client.list_secret_version_ids(SecretId=self.arn, MaxResults=100)[
            "Versions"
        ]
        return found

    def _labels(self, version: str) -> list[str]:
        return [label for row in self._versions() if row["VersionId"] == version for label in row["VersionStages"]]

    def _forget_oldest(self, deployed: str) -> None:
        """Make room for a label; the deployed version keeps its own."""
        rows = [row for row in self._versions() if row["VersionId"] != deployed]
        labels = sorted((label, row["VersionId"]) for row in rows for label in row["VersionStages"])
        ours = [(label, version) for label, version in labels if label.startswith(_LABEL)]
        for label, version in ours[: max(0, len(ours) - VERSIONS_KEPT + 2)]:
            self._client.update_secret_version_stage(SecretId=self.arn, VersionStage=label, RemoveFromVersionId=version)


def sources_text(sources: Mapping[str, str]) -> str:
    """The sources' secret. Names stay in it for ever: an older release may ask for them."""
    return json.dumps(sources, sort_keys=True)


def known_sources(known: str | None) -> dict[str, str]:
    found: dict[str, str] = json.loads(known or "{}")
    return found
