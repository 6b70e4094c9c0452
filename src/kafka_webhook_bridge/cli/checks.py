"""The checks of `kwb doctor`: each looks at one thing and says what to do about it. Nothing is changed, except that
the trial of `--write` makes a topic of its own and deletes it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import http.client
import json
import resource
import secrets
import shutil
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kafka_webhook_bridge.cli.resending import events
from kafka_webhook_bridge.errors import ConfigError, KafkaError, KwbError, StoreError
from kafka_webhook_bridge.kafka import door
from kafka_webhook_bridge.kafka.admin import Admin, Cluster, TopicInfo
from kafka_webhook_bridge.kafka.config import (
    body_bytes_limit,
    limit_trouble,
    record_bytes_limit,
    record_bytes_needed,
    security_protocol,
)
from kafka_webhook_bridge.kafka.trial import try_write
from kafka_webhook_bridge.observability.certificate import NEAR_DAYS
from kafka_webhook_bridge.observability.durability import CLOCK_WARN_MS, clock_words, weakest
from kafka_webhook_bridge.settings import Settings
from kafka_webhook_bridge.sources.table import SourceTable
from kafka_webhook_bridge.store import Store
from kafka_webhook_bridge.store.facts import NEWEST_MAJOR, Facts, read_facts
from kafka_webhook_bridge.store.relay import HALTS, Outbox, Size
from kafka_webhook_bridge.texts import parse_servers

Status = Literal["ok", "warn", "fail", "skip"]

KAFKA_TIMEOUT_S = 5.0
HTTP_TIMEOUT_S = 2.0
CLOCK_FAIL_MS = 60_000
LAG_WARN_EVENTS = 10_000
OUTBOX_WARN_S = 60.0
FREE_WARN_BYTES, FREE_FAIL_BYTES = 2 * 1024**3, 512 * 1024**2
_SPARE_FILES = 100  # descriptors of a worker besides its connections
_MIB = 1024**2
_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, what was found, and what to do (empty when nothing is)."""

    name: str
    status: Status
    found: str
    todo: str = ""


@dataclass
class Doctor:
    """Looks at one thing after the other; a later check uses what an earlier one found."""

    settings: Settings
    sources: SourceTable
    write: bool = False
    cluster: Cluster | None = None
    topics: dict[str, TopicInfo] = field(default_factory=dict)
    facts: Facts | None = None

    def examine(self) -> Iterator[Check]:
        """Every check, in order. A check that breaks is itself a failed check."""
        for look in (
            self._sources, self._store, self._kafka, self._creation, self._topic_checks, self._trial, self._outside,
            self._outbox, self._archive, self._files, self._disk, self._ports,
        ):  # fmt: skip
            name = look.__name__.strip("_")
            try:
                yield from look()
            except KwbError as error:
                yield Check(name, "fail", error.message, error.hint)
            except Exception as error:  # a fault of a check must not hide the others' findings
                yield Check(name, "fail", f"the check itself failed: {type(error).__name__}: {error}", "Report it.")

    def durability(self) -> dict[str, str]:
        """What an acknowledgement means in force now, by place."""
        kafka = "unknown: Kafka was not reached"
        if (weak := weakest((name, info.verdict) for name, info in self.topics.items())) is not None:
            kafka = weak[1].words
        elif self.cluster is not None:
            made = Admin(self.settings.kafka).planned(len(self.cluster.brokers))
            kafka = f"{made.durability} (of topics to be made)"
        if self.settings.store.url is None:
            archive = "no archive: DATABASE_URL is not set"
        elif self.facts is None:
            archive = "unknown: PostgreSQL was not reached"
        else:
            archive = self.facts.verdict.words
        return {"kafka": kafka, "postgresql": archive}

    # ── configuration ─────────────────────────────────────────────────────────────────────────────────────────────

    def _sources(self) -> Iterator[Check]:
        count = len(self.sources.all())
        rule = ", and the open rule takes any name" if self.sources.open_rule else ""
        yield Check("sources", "ok", f"{count} configured{rule}")

    # ── PostgreSQL ────────────────────────────────────────────────────────────────────────────────────────────────

    def _store(self) -> Iterator[Check]:
        if self.settings.store.url is None:
            yield Check(
                "postgresql", "warn", "DATABASE_URL is not set: no archive, no search",
                "Set it; events then survive the loss of their topic.",
            )  # fmt: skip
            return
        try:
            facts = self.facts = asyncio.run(read_facts(self.settings.store))
        except (StoreError, ConfigError) as error:
            yield Check("postgresql", "fail", error.message, error.hint)
            return
        yield Check("postgresql", "ok", f"PostgreSQL {facts.version} answers in {facts.answer_ms:.1f} ms")
        if facts.major > NEWEST_MAJOR:
            yield Check("postgresql.version", "warn", f"{facts.major} is newer than what was tried", "Use 15 to 18.")
        commit = facts.verdict
        yield _judge("postgresql.durability", commit.durable is True, commit.words, commit.todo)
        if facts.encoding != "UTF8":
            yield Check("postgresql.encoding", "fail", f"the database is {facts.encoding}", "Make one with UTF8.")
        ready = 0 < facts.schema_version <= facts.schema_known
        yield _judge(
            "postgresql.permissions", facts.may_create or facts.schema_version == facts.schema_known,
            f"may {'' if facts.may_create else 'not '}make tables in schema {facts.schema}",
            "GRANT CREATE, USAGE ON SCHEMA … TO the bridge's role.",
        )  # fmt: skip
        if facts.schema_version > facts.schema_known:
            todo = "Use the newer bridge that migrated it."
            yield Check("postgresql.schema", "fail", f"version {facts.schema_version}, this is older", todo)
        else:
            found = f"version {facts.schema_version} of {facts.schema_known}"
            todo = "" if ready else "`kwb migrate` makes the tables; so does a worker at its start."
            yield Check("postgresql.schema", "ok", found, todo)
        wanted = self.settings.store.connections_max * 2
        left = facts.connections_max - facts.connections
        yield _judge(
            "postgresql.connections", left >= wanted, f"{facts.connections} of {facts.connections_max} in use",
            f"Raise max_connections: the bridge takes up to {wanted}.", otherwise="warn",
        )  # fmt: skip
        yield _clock("postgresql.clock", facts.clock_ahead_ms)

    # ── Kafka ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def _kafka(self) -> Iterator[Check]:
        try:
            cluster = Admin(self.settings.kafka, timeout_s=KAFKA_TIMEOUT_S).cluster()
        except (KafkaError, ConfigError) as error:
            yield Check("kafka", "fail", error.message, error.hint)
            return
        self.cluster = cluster
        protocol = security_protocol(self.settings.kafka)
        count = len(cluster.brokers)
        yield Check("kafka", "ok", f"cluster {cluster.cluster_id} with {count} broker{'s'[: count > 1]} ({protocol})")
        if count == 2:
            yield Check("kafka.brokers", "warn", "two brokers: one may hold the only copy", "Three make it safe.")
        need = record_bytes_limit(self.sources.body_bytes_max)
        for broker in cluster.brokers:
            limit = int((broker.settings or {}).get("socket.request.max.bytes", 0))
            if broker.settings is None:
                yield Check("kafka.limits", "warn", f"{broker.address} does not show its settings", "Grant Describe.")
            elif limit < need:
                yield Check(
                    "kafka.limits", "fail", f"{broker.address} takes requests of {limit} bytes, records need {need}",
                    f"Raise socket.request.max.bytes; until then bodies over {body_bytes_limit(limit)} bytes fail.",
                )  # fmt: skip
            else:
                yield Check("kafka.limits", "ok", f"{broker.address} takes requests of {limit // _MIB} MiB")

    def _creation(self) -> Iterator[Check]:
        if self.cluster is None:
            yield Check("kafka.creation", "skip", "Kafka was not reached")
            return
        admin = Admin(self.settings.kafka, timeout_s=KAFKA_TIMEOUT_S)
        try:
            refused = admin.check_create(_trial_name(), record_bytes_limit(self.sources.body_bytes_max))
        except KafkaError as error:
            needed = self.sources.open_rule or any(name not in self.topics for name in self._wanted_topics())
            yield Check("kafka.creation", "fail" if needed else "warn", error.message, error.hint)
            return
        yield Check("kafka.creation", "ok", "the bridge may make topics")
        for setting in refused:
            yield Check("kafka.creation", "warn", f"refused: {setting}", "The provider's own value stays in force.")

    def _wanted_topics(self) -> dict[str, int]:
        """Topics that sources or the archive use, and the largest body each must take."""
        wanted = {
            name: 0 if made_by == "outside" else self.settings.ingest.body_bytes_max
            for name, made_by in (self.facts.made_by if self.facts else {}).items()
        }
        for source in self.sources.all():
            for topic in source.topics:
                wanted[topic] = max(wanted.get(topic, 0), source.body_bytes_max)
        return wanted

    def _topic_checks(self) -> Iterator[Check]:
        if self.cluster is None:
            yield Check("topics", "skip", "Kafka was not reached")
            return
        admin = Admin(self.settings.kafka, timeout_s=KAFKA_TIMEOUT_S)
        wanted = self._wanted_topics()
        self.topics = admin.describe(wanted)
        for name, body_bytes_max in sorted(wanted.items()):
            yield from self._topic(admin, name, body_bytes_max)

    def _topic(self, admin: Admin, name: str, body_bytes_max: int) -> Iterator[Check]:
        label = f"topic {name}"
        info = self.topics.get(name)
        if info is None:
            if self.facts is not None and name in self.facts.made_by:
                yield Check(
                    label,
                    "fail",
                    "it existed and is gone",
                    f"Its events are in PostgreSQL: `kwb rebuild {name}` makes it anew with them.",
                )
            else:
                yield Check(label, "ok", "will be made at the start of the bridge")
            return
        missing = sorted({"read", "write", "describe"} - info.operations)
        if info.operations and missing:
            yield Check(label, "fail", f"the bridge may not {', '.join(missing)}", "Grant it to the bridge's user.")
        if not info.verdict.durable:
            yield Check(label, "warn", info.durability, info.verdict.todo)
        if info.under_replicated:
            yield Check(label, "warn", f"{info.under_replicated} partitions miss a replica", "Is a broker down?")
        limit, need = info.record_bytes_max, record_bytes_needed(body_bytes_max)
        if trouble := limit_trouble(limit, body_bytes_max):
            yield Check(label, "fail", *trouble)
        kept_ms, archived_ms = int(info.settings.get("retention.ms", 0)), self.settings.archive.retention_days * _DAY_MS
        if self.settings.store.url is not None and not 0 <= kept_ms <= archived_ms:  # -1: for ever
            todo = "Raise KWB_ARCHIVE_RETENTION_DAYS, or lower the topic's retention.ms."
            yield Check(label, "warn", f"retention.ms={kept_ms} is longer than the archive keeps events", todo)
        if info.settings.get("cleanup.policy", "delete") != "delete":
            policy = info.settings["cleanup.policy"]
            yield Check(label, "warn", f"cleanup.policy={policy} drops records by key", "Set it to delete.")
        wanted = admin.wanted_settings(info.replicas, limit or need)
        different = [f"{s}={v} (bridge: {w})" for s, v, w in info.differences(wanted) if s in _TOLD]
        note = f"; {', '.join(different)}" if different else ""
        yield Check(label, "ok", f"{info.partitions} partitions, {info.durability}{note}")

    def _trial(self) -> Iterator[Check]:
        if not self.write:
            return
        if self.cluster is None:
            yield Check("kafka.write", "skip", "Kafka was not reached")
            return
        admin, name = Admin(self.settings.kafka, timeout_s=KAFKA_TIMEOUT_S), _trial_name()
        admin.ensure_topic(name, 1_000_000)
        try:
            trial = try_write(self.settings.kafka, name)
        finally:
            with contextlib.suppress(KafkaError):
                admin.delete_topic(name)
        yield Check("kafka.write", "ok", f"acknowledged in {trial.ack_ms:.1f} ms")
        if trial.clock_ahead_ms is not None:
            yield _clock("kafka.clock", trial.clock_ahead_ms)

    def _outside(self) -> Iterator[Check]:
        """The door for consumers elsewhere. From inside a network of containers it may not be reachable."""
        kafka = self.settings.kafka
        for host, port in parse_servers(self.settings.external_servers):
            tls = kafka.external_protocol == "SASL_SSL"
            found = door.look(host, port, tls=tls, ca=kafka.external_ca, timeout_s=KAFKA_TIMEOUT_S)
            yield _door(found, host, kafka.external_ca)
            if found.certificate is not None:
                yield from _door_certificate(found, host, kafka.external_ca)

    # ── between the two ───────────────────────────────────────────────────────────────────────────────────────────

    def _outbox(self) -> Iterator[Check]:
        """Events that PostgreSQL vouches for, and that Kafka does not have yet."""
        if self.facts is None or not self.facts.has_outbox:
            yield Check("outbox", "skip", "PostgreSQL was not reached, or has no tables yet")
            return
        sizes = asyncio.run(read_sizes(self.settings))
        waiting = sizes.get("waiting", Size(0, 0, 0.0))
        found = f"{events(waiting.rows)} ({waiting.bytes // _MIB} MiB) to be sent to Kafka"
        if waiting.rows:
            found += f", the oldest for {waiting.oldest_seconds:.0f} s"
        todo = "Is Kafka up, and `kwb serve` running? It relays them by itself."
        yield _judge("outbox", waiting.oldest_seconds <= OUTBOX_WARN_S, found, todo, otherwise="warn")
        for state in HALTS:
            if state in sizes:
                todo = "`kwb outbox list` tells why; docs/howto/outbox.md what to do."
                yield Check(f"outbox.{state}", "warn", f"{events(sizes[state].rows)} {state}", todo)

    def _archive(self) -> Iterator[Check]:
        """Events that are in Kafka alone die with their topic (rules.md 7)."""
        if self.facts is None or self.cluster is None:
            yield Check("archive", "skip", "Kafka or PostgreSQL was not reached")
            return
        ends = Admin(self.settings.kafka, timeout_s=KAFKA_TIMEOUT_S).offsets(self.topics)
        lag = 0
        for name, partitions in ends.items():
            topic_id = self.topics[name].topic_id
            for partition, (start, end) in partitions.items():
                lag += end - max(start, self.facts.next_offsets.get((topic_id, partition), start))
        found = f"{lag} records of {len(ends)} topics are in Kafka alone"
        todo = "Is `kwb serve` running? The archive follows within a second when it is healthy."
        yield _judge("archive", lag <= LAG_WARN_EVENTS, found, todo, otherwise="warn")

    # ── this machine ──────────────────────────────────────────────────────────────────────────────────────────────

    def _files(self) -> Iterator[Check]:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        ingest = self.settings.ingest
        need = ingest.connections_max // ingest.workers + _SPARE_FILES
        yield _judge(
            "files", limit == resource.RLIM_INFINITY or limit >= need, f"{limit} open files allowed, {need} wanted",
            f"ulimit -n {need}, or lower KWB_INGEST_CONNECTIONS_MAX.", otherwise="warn",
        )  # fmt: skip

    def _disk(self) -> Iterator[Check]:
        folder = Path(".kwb")
        if not (folder / "kafka").is_dir():  # the folder alone is Compose's, whose data are elsewhere
            return
        free = shutil.disk_usage(folder).free
        status: Status = "fail" if free < FREE_FAIL_BYTES else "warn" if free < FREE_WARN_BYTES else "ok"
        todo = "" if status == "ok" else "Free some space: the embedded Kafka and PostgreSQL stop when it is full."
        yield Check("disk", status, f"{free // _MIB} MiB free for .kwb", todo)

    def _ports(self) -> Iterator[Check]:
        ingest, management = self.settings.ingest, self.settings.management
        tls = _tls_without_checks() if ingest.tls_cert else None
        port = _port("port.ingest", ingest.host, ingest.port, "KWB_INGEST_PORT", tls)
        own = _port("port.management", management.host, management.port, "KWB_MANAGEMENT_PORT", None)
        if own.found.startswith(_ANSWERS) and port.found.endswith(_FREE):  # the worker or the console alone
            found = f"nothing listens on {ingest.host}:{ingest.port}: the bridge that runs here takes no webhooks"
            port = Check(port.name, "ok", found)
        yield port
        yield own
        if own.found.startswith(_ANSWERS):
            yield _ready(management.host, management.port)


async def read_sizes(settings: Settings) -> Mapping[str, Size]:
    """What the outbox holds, by state."""
    async with Store(settings.store) as store:
        return await Outbox(store, settings.relay.statement_timeout_ms).sizes()


def _door(found: door.Look, host: str, ca: str) -> Check:
    """The first step that fails, and what to do about that one."""
    name, reached = "outside", f"{found.address} is reached"
    if found.step == "resolve":
        todo = "Make the DNS record, or a line in /etc/hosts; inside a container the outside's names may not be known."
        return Check(name, "warn", f"{host} does not resolve from here: {found.reason}", todo)
    if found.step == "connect":
        todo = "Is nginx or the load balancer up, and the port open? From inside a container it may not be reachable."
        return Check(name, "warn", f"{found.address} takes no connection from here: {found.reason}", todo)
    if found.step == "tls":
        todo = f"Is {ca or 'the system’s list'} what signed it (KWB_KAFKA_EXTERNAL_CA)? `kwb tls show` compares."
        if found.certificate is None:
            todo = "Look at the log of what listens there. Without TLS: KWB_KAFKA_EXTERNAL_PROTOCOL=SASL_PLAINTEXT."
        return Check(name, "fail", f"{reached}, but consumers refuse it: {found.reason}", todo)
    if found.step == "kafka":
        todo = "Is Kafka up, and does nginx or the load balancer pass on to its PROXY listener?"
        return Check(name, "fail", f"{reached}, but no broker answers behind it: {found.reason}", todo)
    if found.step == "mechanism":
        todo = "Pass on to the PROXY listener, and enable SCRAM-SHA-512 there: users of `kwb users` log in by it."
        return Check(name, "fail", f"{reached}, but {found.reason}", todo)
    return Check(name, "ok", f"{reached}, and a broker behind it takes {', '.join(found.mechanisms)}")


def _door_certificate(found: door.Look, host: str, ca: str) -> Iterator[Check]:
    certificate = found.certificate
    assert certificate is not None
    name, days = "outside.certificate", certificate.days_left()
    renew = "Renew it: docs/howto/certificates.md."
    if not certificate.covers(host):
        names = ", ".join(certificate.names) or "no name"
        yield Check(name, "fail", f"it is for {names}, not for {host}", renew)
    trouble = certificate.time_trouble()
    if trouble or days < NEAR_DAYS[0]:
        refused = certificate.seconds_left() <= 0 or "before" in trouble
        left = f"; {days} days left" if days >= 0 else ""
        yield Check(name, "fail" if refused else "warn", f"{trouble or 'it is to be renewed'}{left}", renew)
    else:
        yield Check(name, "ok", f"{days} days left, by {certificate.issuer}")
    if found.step != "tls" and not found.trusted:
        todo = "Run `kwb doctor` where consumers run, or where that file is."
        yield Check(name, "warn", f"not checked against its authority: {ca} is not here", todo)


_TOLD = {"message.timestamp.type", "retention.ms", "min.insync.replicas"}
_ANSWERS = "a bridge answers"
_FREE = "is free; no bridge runs there"


def _judge(name: str, good: bool, found: str, todo: str, *, otherwise: Status = "fail") -> Check:
    return Check(name, "ok", found) if good else Check(name, otherwise, found, todo)


def _clock(name: str, ahead_ms: float) -> Check:
    off = abs(ahead_ms)
    found = clock_words(ahead_ms)
    status: Status = "fail" if off > CLOCK_FAIL_MS else "warn" if off > CLOCK_WARN_MS else "ok"
    return Check(name, status, found, "" if status == "ok" else "Let NTP set both clocks: event ids hold the time.")


def _trial_name() -> str:
    return f"kwb-doctor-{secrets.token_hex(6)}"


def _tls_without_checks() -> ssl.SSLContext:
    """Only to see who answers; nothing is sent that is secret."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _port(name: str, host: str, port: int, setting: str, tls: ssl.SSLContext | None) -> Check:
    if port == 0:
        return Check(name, "ok", "a free one will be taken")
    reach = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    try:
        socket.create_connection((reach, port), HTTP_TIMEOUT_S).close()
    except ConnectionRefusedError:
        return _bindable(name, host, port, setting)
    except OSError as error:
        return Check(name, "warn", f"{host}:{port} cannot be reached: {error}", f"Look at {setting} and its host.")
    with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
        status, body = _get(reach, port, "/health/live", tls)
        if status == 200 and "status" in json.loads(body):
            return Check(name, "ok", f"{_ANSWERS} on {host}:{port}")
    return Check(name, "fail", f"another program has {host}:{port}", f"End it, or set {setting} to another port.")


def _bindable(name: str, host: str, port: int, setting: str) -> Check:
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        reason = {errno.EACCES: "needs more rights", errno.EADDRNOTAVAIL: "is no address of this machine"}
        found = f"{host}:{port} {reason.get(error.errno or 0, str(error))}"
        return Check(name, "fail", found, f"Set {setting} or its host.")
    return Check(name, "ok", f"{host}:{port} {_FREE}")


def _ready(host: str, port: int) -> Check:
    status, body = _get(host, port, "/health/ready", None)
    found = json.loads(body)
    reasons = [f"{name}: {part['reason']}" for name, part in found.get("parts", {}).items() if part["reason"]]
    words = "; ".join([found["status"], *reasons])
    if status != 200:
        return Check("bridge", "fail", words, "Webhooks are refused until a durable place is back.")
    return Check("bridge", "ok" if found["status"] == "ready" else "warn", words)


def _get(host: str, port: int, path: str, tls: ssl.SSLContext | None) -> tuple[int, bytes]:
    make: Callable[[], http.client.HTTPConnection] = (
        (lambda: http.client.HTTPSConnection(host, port, timeout=HTTP_TIMEOUT_S, context=tls))
        if tls
        else (lambda: http.client.HTTPConnection(host, port, timeout=HTTP_TIMEOUT_S))
    )
    connection = make()
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read(65_536)
    finally:
        connection.close()
