"""Everything that can be known to be wrong before anything starts, at once.

Settings and bridge.yaml have their own checks; here stands what only whoever wires the rooms can see: that a role lacks
what it needs, or that a room will not take its settings. `kwb serve` and `kwb config check` both ask here.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kafka_webhook_bridge.errors import ConfigError, Problem
from kafka_webhook_bridge.ingest.server import tls_context
from kafka_webhook_bridge.kafka.config import client_config
from kafka_webhook_bridge.settings import IngestSettings, Settings
from kafka_webhook_bridge.sources.config import check_configuration
from kafka_webhook_bridge.sources.table import SourceTable
from kafka_webhook_bridge.store.pool import url_problems

Role = Literal["all", "ingest", "worker", "console"]


@dataclass(frozen=True, slots=True)
class Configuration:
    """What one bridge would run with. `origin` tells where each `room.name` came from."""

    settings: Settings
    origin: dict[str, str]
    sources: SourceTable


def load(role: Role = "all", environ: Mapping[str, str] | None = None, **overrides: Any) -> Configuration:
    """The configuration of a bridge of that role. Raises ConfigError with every problem at once."""
    settings, origin, sources, problems = check_configuration(environ, receives=role != "console", **overrides)
    told = {problem.where for problem in problems}
    problems += [problem for problem in _needs(settings, role) if problem.where not in told]
    if problems or sources is None:
        raise ConfigError(problems)
    return Configuration(settings, origin, sources)


def _needs(settings: Settings, role: Role) -> list[Problem]:
    found: list[Problem] = []
    try:
        client_config(settings.kafka)
    except ConfigError as error:
        found += error.problems
    found += url_problems(settings.store)
    if role == "worker" and settings.store.url is None:
        found.append(Problem("DATABASE_URL", "is not set, and a worker has nothing to do without PostgreSQL"))
    if role == "console":
        if settings.store.url is None:
            found.append(Problem("DATABASE_URL", "is not set, and a console has nothing to show without PostgreSQL"))
        if not settings.console.username:
            found.append(Problem("CONSOLE_USERNAME", "is not set; the console has no default login"))
        if settings.console.password is None:
            found.append(Problem("CONSOLE_PASSWORD", "is not set; the console has no default login"))
    return found + _tls_problems(settings.ingest)


def _tls_problems(settings: IngestSettings) -> list[Problem]:
    try:
        tls_context(settings)
    except ssl.SSLError as error:
        why = {"KEY_VALUES_MISMATCH": "the private key is of another certificate"}.get(error.reason)
        why = why or "no PEM certificate with its private key, unencrypted, is in there"
    except OSError as error:
        why = error.strerror or str(error)
    else:
        return []
    files = f"{settings.tls_cert} and {settings.tls_key}" if settings.tls_key else settings.tls_cert
    return [Problem("KWB_INGEST_TLS_CERT", f"{files}: {why}")]
