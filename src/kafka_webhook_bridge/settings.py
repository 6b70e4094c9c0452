"""Every setting, one row each, and the only reader of the environment and of secret files.

A row's environment name is `KWB_<ROOM>_<NAME>` unless the row gives another (the ancestor's names are kept).
Sizes may be written `64MiB`; a secret may be written `file:/path`. docs/reference/settings.md is made from this module.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from pydantic import SecretStr

from kafka_webhook_bridge.errors import ConfigError, Problem
from kafka_webhook_bridge.texts import (
    check_postgres_url,
    check_secret_key,
    is_unicode,
    number_parser,
    parse_boolean,
    parse_servers,
    parse_size,
    parse_variables,
)

MADE = "made"  # in the place of a file that is then not needed


def setting(
    default: Any,
    sentence: str,
    *,
    env: str | None = None,
    low: int | None = None,
    high: int | None = None,
    check: Callable[[str], object] | None = None,
) -> Any:
    """A row of the table: default, the sentence for the docs, an inherited environment name, inclusive bounds.

    `check` raises ValueError with a sentence for a text that cannot be right.
    """
    facts = {"sentence": sentence, "env": env, "low": low, "high": high, "check": check}
    return field(default=default, metadata=facts)


@dataclass(frozen=True, slots=True)
class BridgeSettings:
    """What the bridge is and who may send to it."""

    config: str = setting("", "Path of bridge.yaml, or the YAML itself. Empty: the open rule alone.", env="KWB_CONFIG")
    secrets: SecretStr | None = setting(
        None, "JSON object of texts: where `${NAME}` of bridge.yaml is looked for before the environment.",
        env="KWB_SECRETS_JSON", check=parse_variables,
    )  # fmt: skip
    username: str = setting("", "User name of the bridge's Basic credentials.", env="WEBHOOK_USERNAME")
    password: SecretStr | None = setting(
        None, "Password of the bridge's Basic credentials; there is no default.", env="WEBHOOK_PASSWORD"
    )
    environment: str = setting("dev", "Name of the stage, shown in logs and health.", env="ENVIRONMENT")
    domain_name: str = setting("", "Domain of this installation, for links and snippets.", env="DOMAIN_NAME")
    open_rule: bool | None = setting(
        None,
        "Accept any source name with the Basic credentials. Unset: where there is no file and the broker is its own.",
    )
    own_broker: bool = setting(False, "Kafka serves this bridge alone, as the one of `make up` does.")
    topic_prefix: str = setting("", "Put before the topic names that the open rule makes.")
    topics_max: int = setting(100, "Topics that the open rule may make.", low=0, high=10_000)


@dataclass(frozen=True, slots=True)
class IngestSettings:
    """The port that webhooks come in by. Limits are per bridge and divided by its workers."""

    host: str = setting("127.0.0.1", "Address to listen on.")
    port: int = setting(8080, "Port to listen on; 0 takes a free one.", low=0, high=65535)
    workers: int = setting(1, "Processes that answer webhooks.", low=1, high=256)
    share_port: bool = setting(False, "Allow a second bridge on the same port (rolling restarts on one host).")
    tls_cert: str = setting(
        "", "PEM certificate chain, to serve HTTPS directly; read again when it changes. `made`: a key made at start, "
        "for a load balancer that checks none."
    )  # fmt: skip
    tls_key: str = setting("", "PEM private key of the certificate.")
    trusted_proxies: tuple[str, ...] = setting((), "CIDRs whose X-Forwarded-* headers are believed, comma separated.")
    header_timeout_ms: int = setting(10_000, "Absolute time for a request's headers.", low=1)
    body_timeout_ms: int = setting(15_000, "Absolute time for a request's body.", low=1)
    keep_alive_ms: int = setting(75_000, "How long an idle connection is kept.", low=1)
    url_bytes_max: int = setting(8192, "Longest request target.", low=1)
    header_lines_max: int = setting(100, "Most header lines, trailers included.", low=1)
    header_bytes_max: int = setting(32_768, "Most bytes of headers, trailers included.", low=1)
    body_bytes_max: int = setting(1024**2, "Largest body where a source sets no limit.", low=0, high=10 * 1024**2)
    in_flight_bytes_max: int = setting(64 * 1024**2, "Most bytes of request bodies held at once.", low=1)
    connections_max: int = setting(10_000, "Most open connections.", low=1)
    pipelined_max: int = setting(8, "Requests read ahead on one connection.", low=1)
    drain_grace_ms: int = setting(3_000, "After SIGTERM: go on accepting and answering for so long.", low=0)
    drain_timeout_ms: int = setting(20_000, "After SIGTERM: the longest until the process ends.", low=1)
    durability_check_ms: int = setting(
        30_000, "How often the settings of Kafka and PostgreSQL are read that tell what a 2xx is worth.", low=100
    )
    failed_logins_max: int = setting(20, "Failed logins per address and minute before 429.", low=1)

    @property
    def url(self) -> str:
        """Where this machine reaches the port, without a slash at its end."""
        host = "127.0.0.1" if self.host in {"", "0.0.0.0", "::"} else self.host  # noqa: S104 - it listens everywhere
        host = f"[{host}]" if ":" in host else host
        return f"{'https' if self.tls_cert else 'http'}://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class DeliverSettings:
    """How long an event may take to become durable."""

    kafka_wait_ms: int = setting(700, "From the last byte of a request to the outbox, when Kafka is late.", low=1)
    outbox_wait_ms: int = setting(
        800, "Longest statement of the outbox; then its connection is cut and its rows are unknown.", low=1
    )
    claim_wait_ms: int = setting(
        300, "With `dedupe: suppress`: longest wait for PostgreSQL to tell of duplicates; then they are marked.", low=1
    )
    deadline_ms: int = setting(1_900, "From the last byte of a request to the refusal 503.", low=1)
    breaker_failures: int = setting(3, "So many records in a row that fail or are late open a breaker.", low=1)
    breaker_probe_ms: int = setting(500, "While a breaker is open, one record tries Kafka so often.", low=1)
    breaker_closes_after: int = setting(3, "So many acknowledgements in a row close a breaker.", low=1)
    outbox_rows_max: int = setting(2_000_000, "Rows of the outbox beyond which it takes no more.", low=1)
    outbox_bytes_max: int = setting(
        4 * 1024**3, "Bytes of records in the outbox beyond which it takes no more.", low=1024
    )
    outbox_queue_records_max: int = setting(20_000, "Records that may wait in one process for the outbox.", low=1)
    outbox_queue_bytes_max: int = setting(64 * 1024**2, "Bytes that may wait in one process for the outbox.", low=1024)
    outbox_batch_records_max: int = setting(500, "Most records in one statement of the outbox.", low=1)
    outbox_batch_bytes_max: int = setting(8 * 1024**2, "Most bytes in one statement of the outbox.", low=1024)


@dataclass(frozen=True, slots=True)
class KafkaSettings:
    """The cluster. `external` clients read through `external_port`."""

    bootstrap_servers: str = setting("", "host:port list of the cluster.", env="KAFKA_BOOTSTRAP_SERVERS")
    username: str = setting("", "SASL user of the bridge.", env="KAFKA_USERNAME")
    password: SecretStr | None = setting(None, "SASL password of the bridge.", env="KAFKA_PASSWORD")
    external_port: int = setting(29095, "TLS port for outside consumers.", env="KAFKA_EXTERNAL_PORT", low=1, high=65535)
    external_servers: str = setting(
        "", "host:port list for outside consumers. Empty: kafka.<DOMAIN_NAME>:<KAFKA_EXTERNAL_PORT>."
    )
    external_ca: str = setting("", "PEM file of the authorities that outside consumers trust. Empty: their system's.")
    external_protocol: Literal["SASL_SSL", "SASL_PLAINTEXT"] = setting("SASL_SSL", "As outside consumers connect.")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] | None = setting(
        None, "Unset: SASL_PLAINTEXT to loopback with a user name, SASL_SSL elsewhere, PLAINTEXT without one."
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "AWS_MSK_IAM"] = setting(
        "PLAIN", "SASL mechanism. AWS_MSK_IAM: the role of this process, by the extra `aws`, without user and password."
    )
    aws_region: str = setting(
        "", "Region of AWS: of Secrets Manager, and of an Amazon MSK whose names do not tell.", env="AWS_REGION"
    )
    ssl_ca: str = setting("", "PEM file of the authorities that signed the brokers, or the PEM. Empty: the system's.")
    ssl_cert: str = setting("", "PEM file of the bridge's own certificate chain for SSL, or the PEM.")
    ssl_key: SecretStr | None = setting(None, "PEM file of its private key, unencrypted, or the PEM.")
    delivery_timeout_ms: int = setting(5_000, "librdkafka's delivery.timeout.ms; longer than every wait.", low=100)
    linger_fast_ms: float = setting(0.0, "linger.ms of the fast lane.", low=0)
    linger_bulk_ms: float = setting(2.0, "linger.ms of the bulk lane; 10 to 20 where brokers are far.", low=0)
    fast_lane_requests_max: int = setting(4, "Up to so many outstanding records go by the fast lane.", low=0)
    queue_records_max: int = setting(50_000, "Records each lane may hold.", low=1)
    queue_bytes_max: int = setting(64 * 1024**2, "Bytes each lane may hold.", low=1024)
    stuck_after_ms: int = setting(5_000, "No report for so long, broker alive: the lane is rebuilt.", low=100)
    topic_partitions: int = setting(6, "Partitions of topics that the bridge makes.", low=1, high=1000)
    topic_replication_max: int = setting(3, "Replicas of topics that the bridge makes, if there are brokers.", low=1)
    topic_retention_days: int = setting(7, "Retention of topics that the bridge makes.", low=1)


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """PostgreSQL."""

    url: SecretStr | None = setting(
        None, "postgresql:// URL of the archive.", env="DATABASE_URL", check=check_postgres_url
    )
    password: SecretStr | None = setting(
        None, "Password where DATABASE_URL has none; not percent-encoded.", env="DATABASE_PASSWORD"
    )
    connections_max: int = setting(4, "Connections of one process.", low=1, high=100)
    connect_timeout_ms: int = setting(5_000, "Longest wait for a new connection.", low=1)
    statement_timeout_ms: int = setting(2_000, "Longest search.", low=1)
    secret_key: SecretStr | None = setting(
        None, "At least 32 random characters, the same for every process and for years: secrets that come by a hand-"
        "shake are encrypted with it, and credentials of refused requests hashed. Without it neither is kept.",
        check=check_secret_key,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class RejectionsSettings:
    """Requests that did not prove their sender, kept in PostgreSQL. Rates are per bridge and divided by its workers."""

    rows_max: int = setting(10_000, "Requests kept of one source; the oldest go first. 0 keeps none.", low=0)
    bytes_max: int = setting(64 * 1024**2, "Bytes of them.", low=1024)
    retention_days: int = setting(7, "How long they are kept; not longer than events.", low=1)
    rows_per_second_max: int = setting(100, "Most requests of one source kept in a second.", low=1)
    bytes_per_second_max: int = setting(1024**2, "Bytes of them.", low=1024)
    queue_rows_max: int = setting(1_000, "Requests that may wait in one process for PostgreSQL.", low=1)
    queue_bytes_max: int = setting(16 * 1024**2, "Bytes of them.", low=1024)


@dataclass(frozen=True, slots=True)
class ArchiveSettings:
    """Kafka → PostgreSQL."""

    batch_records_max: int = setting(2_000, "Most records in one transaction.", low=1)
    batch_bytes_max: int = setting(16 * 1024**2, "Most bytes in one transaction.", low=1024)
    batch_wait_ms: int = setting(100, "How long a batch waits for more records.", low=1)
    retention_days: int = setting(90, "How long events are kept; not shorter than the topics.", low=1)
    partition_days: int = setting(1, "Days in one partition of the table.", low=1)
    partitions_ahead_days: int = setting(7, "Partitions made in advance.", low=1)
    topic_check_ms: int = setting(10_000, "How often topic ids are compared.", low=100)
    reconcile_events_max: int = setting(
        5_000, "Events compared with Kafka every ten seconds; beyond that in samples. 0 turns it off.", low=0
    )
    write_timeout_ms: int = setting(30_000, "Longest transaction; a longer one is undone and tried again.", low=100)
    dedupe_window_days: int = setting(
        7, "An event is marked as a duplicate of one with the same delivery id in the days before; 0 marks none.", low=0
    )


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """Outbox → Kafka, when it is back."""

    batch_records_max: int = setting(1_000, "Most rows claimed at once; two batches are under way.", low=1)
    batch_bytes_max: int = setting(8 * 1024**2, "Bytes after which a batch takes no more rows.", low=1)
    poll_ms: int = setting(200, "How often an empty outbox is looked at.", low=1)
    back_off_max_ms: int = setting(30_000, "Longest wait of a row between two attempts.", low=1)
    topic_check_ms: int = setting(5_000, "How often topics that block their events are looked at again.", low=100)
    statement_timeout_ms: int = setting(10_000, "Longest statement; a longer one is undone and tried again.", low=100)
    strict_delivery_timeout_ms: int = setting(
        300_000, "As KWB_KAFKA_DELIVERY_TIMEOUT_MS, for sources with ordering: strict.", low=1_000
    )


@dataclass(frozen=True, slots=True)
class ManagementSettings:
    """The port for metrics, health, and later the console. Never exposed to senders."""

    host: str = setting("127.0.0.1", "Address to listen on.")
    port: int = setting(8081, "Port to listen on; 0 takes a free one.", low=0, high=65535)


@dataclass(frozen=True, slots=True)
class ConsoleSettings:
    """Who may see events in the role console. Neither has a default."""

    username: str = setting("", "Login of the console; required for the role console.", env="CONSOLE_USERNAME")
    password: SecretStr | None = setting(None, "Its password.", env="CONSOLE_PASSWORD")


@dataclass(frozen=True, slots=True)
class UsersSettings:
    """`kwb users`, outside consumers."""

    secret_prefix: str = setting(
        "", "New passwords go to secrets of AWS Secrets Manager whose names begin so, and are shown nowhere."
    )


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = setting("info", "Least level that is written.")
    format: Literal["auto", "json", "console"] = setting("auto", "auto: console on a terminal, else JSON.")
    accepted_every: int = setting(0, "Log every Nth accepted request; 0 logs none.", low=0)


@dataclass(frozen=True, slots=True)
class StackSettings:
    """The embedded servers of `kwb up`, all on 127.0.0.1. A port 0 takes a free one."""

    folder: str = setting(".kwb", "Folder of the servers' data, logs and credentials.")
    cache_folder: str = setting("", "Folder that keeps Kafka's jars. Empty: ~/.cache/kafka-webhook-bridge.")
    kafka_controller_port: int = setting(9093, "Kafka's CONTROLLER listener, its own.", low=0, high=65535)
    kafka_internal_port: int = setting(9094, "Kafka's INTERNAL listener, for the bridge.", low=0, high=65535)
    kafka_broker_port: int = setting(9095, "Kafka's BROKER listener, between brokers.", low=0, high=65535)
    kafka_proxy_port: int = setting(9096, "Kafka's PROXY listener, for outside consumers.", low=0, high=65535)
    kafka_heap_bytes_max: int = setting(512 * 1024**2, "Heap of Kafka's process.", low=128 * 1024**2)
    postgres_port: int = setting(15432, "PostgreSQL, beside one that may run already.", low=0, high=65535)


@dataclass(frozen=True, slots=True)
class Settings:
    """All rooms. Build it with `load_settings`."""

    bridge: BridgeSettings
    ingest: IngestSettings
    deliver: DeliverSettings
    kafka: KafkaSettings
    store: StoreSettings
    rejections: RejectionsSettings
    archive: ArchiveSettings
    relay: RelaySettings
    management: ManagementSettings
    log: LogSettings
    stack: StackSettings = StackSettings()
    console: ConsoleSettings = ConsoleSettings()
    users: UsersSettings = UsersSettings()

    @property
    def external_servers(self) -> str:
        """Where outside consumers connect: as set, else by the name of the domain; empty when neither is known."""
        if self.kafka.external_servers or not self.bridge.domain_name:
            return self.kafka.external_servers
        return f"kafka.{self.bridge.domain_name}:{self.kafka.external_port}"


ROOMS: dict[str, type] = {
    "bridge": BridgeSettings,
    "ingest": IngestSettings,
    "deliver": DeliverSettings,
    "kafka": KafkaSettings,
    "store": StoreSettings,
    "rejections": RejectionsSettings,
    "archive": ArchiveSettings,
    "relay": RelaySettings,
    "management": ManagementSettings,
    "console": ConsoleSettings,
    "users": UsersSettings,
    "log": LogSettings,
    "stack": StackSettings,
}

# Read by the test harness alone, so unknown to the docs (rules.md 33).
HARNESS_NAMES = frozenset({"KWB_HARNESS_FD", "KWB_HARNESS_FETCH", "KWB_FAIL"})


@dataclass(frozen=True, slots=True)
class Row:
    """One setting as the docs, `kwb config show` and the loader see it."""

    room: str
    name: str
    env: str
    type: Any
    default: Any
    sentence: str
    low: int | None
    high: int | None
    check: Callable[[str], object] | None = None

    @property
    def secret(self) -> bool:
        return SecretStr in (self.type, *get_args(self.type))


def rows() -> list[Row]:
    """The whole table, in the order of the rooms."""
    found = []
    for room, cls in ROOMS.items():
        hints = get_type_hints(cls)
        for f in fields(cls):
            meta = f.metadata
            assert f.default is not MISSING
            env = meta["env"] or f"KWB_{room}_{f.name}".upper()
            found.append(
                Row(
                    room, f.name, env, hints[f.name], f.default, meta["sentence"],
                    meta["low"], meta["high"], meta["check"],
                )
            )  # fmt: skip
    return found


def load_settings(environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Typed settings of all rooms from the environment.

    `overrides` are values that beat the environment, named `<room>_<name>` (`ingest_port=0`).
    Raises ConfigError with every problem at once: bad values, bounds, unknown KWB_ names with the near match.
    """
    settings, _ = load_settings_with_origin(environ, **overrides)
    return settings


def load_settings_with_origin(
    environ: Mapping[str, str] | None = None, **overrides: Any
) -> tuple[Settings, dict[str, str]]:
    """As `load_settings`; also where each value came from: `room.name` → `default`, `command line` or a variable."""
    settings, origin, problems = check_settings(environ, **overrides)
    if problems:
        raise ConfigError(problems)
    return settings, origin


def check_settings(
    environ: Mapping[str, str] | None = None, **overrides: Any
) -> tuple[Settings, dict[str, str], list[Problem]]:
    """Settings, origins and problems; a faulty value is left at its default, so that more can be checked."""
    environ = os.environ if environ is None else environ
    problems: list[Problem] = []
    values: dict[str, dict[str, Any]] = {room: {} for room in ROOMS}
    origin: dict[str, str] = {}
    table = rows()
    known = {row.env for row in table}
    for row in table:
        where = f"{row.room}.{row.name}"
        override = overrides.pop(f"{row.room}_{row.name}", None)
        if override is not None:
            values[row.room][row.name], origin[where] = override, "command line"
        elif environ.get(row.env, "") != "":
            try:
                values[row.room][row.name] = _convert(row, environ[row.env])
            except ValueError as error:
                problems.append(Problem(row.env, str(error)))
            origin[where] = row.env
        else:
            origin[where] = "default"
    assert not overrides, f"no such setting: {overrides}"
    for name in sorted(environ):
        if name.startswith("KWB_") and name not in known and name not in HARNESS_NAMES:
            near = difflib.get_close_matches(name, known, 1)
            problems.append(Problem(name, "no such setting" + (f"; did you mean {near[0]}?" if near else "")))
    settings = Settings(**{room: cls(**values[room]) for room, cls in ROOMS.items()})
    faulty = {problem.where for problem in problems}
    problems += [problem for problem in _contradictions(settings) if problem.where not in faulty]
    return settings, origin, problems


def _contradictions(settings: Settings) -> list[Problem]:
    """Values that are right each for itself and wrong together."""
    ingest, kafka, archive, deliver = settings.ingest, settings.kafka, settings.archive, settings.deliver
    found = []
    if settings.store.url is not None and archive.retention_days < kafka.topic_retention_days:  # rules.md 7
        what = f"{archive.retention_days} days, but the topics keep {kafka.topic_retention_days}"
        found.append(Problem("KWB_ARCHIVE_RETENTION_DAYS", f"{what}: the archive may not forget before Kafka does"))
    kept_days = settings.rejections.retention_days
    if settings.store.url is not None and kept_days > archive.retention_days:
        what = f"{kept_days} days, but events are kept {archive.retention_days}: what is released must find its place"
        found.append(Problem("KWB_REJECTIONS_RETENTION_DAYS", what))
    if kafka.delivery_timeout_ms <= deliver.deadline_ms:  # rules.md 2
        what = f"{kafka.delivery_timeout_ms} is not longer than KWB_DELIVER_DEADLINE_MS"
        found.append(Problem("KWB_KAFKA_DELIVERY_TIMEOUT_MS", f"{what}, so late acknowledgements would not be seen"))
    if deliver.deadline_ms <= deliver.kafka_wait_ms:
        what = f"{deliver.deadline_ms} is not longer than KWB_DELIVER_KAFKA_WAIT_MS, so the outbox would have no time"
        found.append(Problem("KWB_DELIVER_DEADLINE_MS", what))
    if deliver.claim_wait_ms >= deliver.kafka_wait_ms:
        what = f"{deliver.claim_wait_ms} is not shorter than KWB_DELIVER_KAFKA_WAIT_MS"
        found.append(Problem("KWB_DELIVER_CLAIM_WAIT_MS", f"{what}, so no time would be left to store the event"))
    if ingest.drain_timeout_ms <= ingest.drain_grace_ms:
        what = f"{ingest.drain_timeout_ms} is not longer than KWB_INGEST_DRAIN_GRACE_MS"
        found.append(Problem("KWB_INGEST_DRAIN_TIMEOUT_MS", what))
    if settings.management.port == ingest.port != 0 and settings.management.host == ingest.host:
        what = f"{ingest.port} is the port of webhooks too; management has one of its own"
        found.append(Problem("KWB_MANAGEMENT_PORT", what))
    try:
        parse_servers(settings.external_servers)
    except ValueError as error:
        found.append(Problem("KWB_KAFKA_EXTERNAL_SERVERS" if kafka.external_servers else "DOMAIN_NAME", str(error)))
    if ingest.tls_key and ingest.tls_cert == MADE:
        found.append(Problem("KWB_INGEST_TLS_KEY", f"is set, but KWB_INGEST_TLS_CERT={MADE} makes its own"))
    if ingest.tls_key and not ingest.tls_cert:
        found.append(Problem("KWB_INGEST_TLS_CERT", "is not set, but KWB_INGEST_TLS_KEY is"))
    return found


def environment() -> dict[str, str]:
    """A copy of the environment, to be changed for a child process."""
    return dict(os.environ)


def harness_fd() -> int | None:
    """Descriptor of the page by which a test harness moves the clock; None outside tests (rules.md 33)."""
    text = os.environ.get("KWB_HARNESS_FD")
    return int(text) if text else None


def harness_failpoints() -> str:
    """What a test harness wants to fail (observability/failpoints.py); empty outside tests (rules.md 33)."""
    return os.environ.get("KWB_FAIL", "") if harness_fd() is not None else ""


class HarnessFetch(NamedTuple):
    """Where every fetch of the bridge ends in a test, and the certificate authority that is believed there."""

    host: str
    port: int
    authority: str


def harness_fetch() -> HarnessFetch | None:
    """KWB_HARNESS_FETCH=host:port:path.pem of a test harness; None outside tests (rules.md 33)."""
    text = os.environ.get("KWB_HARNESS_FETCH", "") if harness_fd() is not None else ""
    if not text:
        return None
    host, port, authority = text.split(":", 2)
    return HarnessFetch(host, int(port), authority)


def child_environment(settings: Settings) -> dict[str, str]:
    """This environment for a child process, with the plain values of `settings`: the command line may differ."""
    plain = {
        row.env: str(getattr(getattr(settings, row.room), row.name))
        for row in rows()
        if row.type in (int, float, str, bool)
    }
    return {**os.environ, **plain}


_INLINE = re.compile(r"\s*(\{|[A-Za-z_]+:(\s|$))")


def is_inline(config: str) -> bool:
    """Whether KWB_CONFIG holds the YAML itself, not a path."""
    return "\n" in config or _INLINE.match(config) is not None


def read_configuration(config: str) -> tuple[str, str]:
    """Name and text of what KWB_CONFIG gives: a path, or the YAML itself. Raises OSError, UnicodeDecodeError."""
    if not config.strip() or is_inline(config):
        return "KWB_CONFIG", config
    return config, Path(config).read_text(encoding="utf-8")


def read_secret(text: str) -> str:
    """The secret itself, or the text of the file that `file:/path` names, without its last line end.

    Raises ValueError with a sentence for people, which never shows what the file holds.
    """
    if not text.startswith("file:"):
        return text
    path = text.removeprefix("file:")
    try:
        secret = Path(path).read_text(encoding="utf-8").removesuffix("\n")
    except UnicodeDecodeError:
        raise ValueError(f"the secret's file {path} is not UTF-8") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ValueError(f"the secret's file {path}: {getattr(error, 'strerror', None) or error}") from None
    if not secret:
        raise ValueError(f"the secret's file {path} is empty")
    return secret


def variables(settings: BridgeSettings, environ: Mapping[str, str] | None = None) -> Mapping[str, str]:
    """What `${NAME}` of bridge.yaml stands for: KWB_SECRETS_JSON first, then the environment."""
    environ = os.environ if environ is None else environ
    if settings.secrets is None:
        return environ
    return {**environ, **parse_variables(settings.secrets.get_secret_value())}


def expand_variables(text: str, environ: Mapping[str, str]) -> str:
    """`${NAME}` replaced by the variable. Raises KeyError with the missing name."""
    return re.sub(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", lambda m: environ[m[1]], text)


def _convert(row: Row, text: str) -> Any:
    kinds = [
        k for k in (get_args(row.type) if get_origin(row.type) not in (Literal, tuple) else ()) if k is not type(None)
    ]
    kind = kinds[0] if kinds else row.type
    if not is_unicode(text):
        raise ValueError("is not UTF-8 text")
    if kind is SecretStr:
        text = read_secret(text)
    if row.check is not None:
        row.check(text)
    if kind is SecretStr:
        return SecretStr(text)
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        if text not in choices:
            near = difflib.get_close_matches(text, choices, 1)
            raise ValueError(
                f"{text!r} is not one of {', '.join(choices)}" + (f"; did you mean {near[0]}?" if near else "")
            )
        return text
    if get_origin(kind) is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if kind is bool:
        return parse_boolean(text)
    if kind is int:
        value = parse_size(text) if row.name.endswith("bytes_max") else number_parser(int, "a whole number")(text)
    elif kind is float:
        value = number_parser(float, "a number")(text)
    else:
        return text
    if row.low is not None and value < row.low:
        raise ValueError(f"{text} is below the least value {row.low}")
    if row.high is not None and value > row.high:
        raise ValueError(f"{text} is above the greatest value {row.high}")
    return value
