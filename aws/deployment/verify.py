"""Whether what was deployed is what runs, and works from outside.

A deployment that AWS calls complete may run the old image (a circuit breaker took it back), answer nobody (a security
group), or send Kafka's clients elsewhere (an advertised name). So after each one: services settled, their tasks run the
image that was asked for, every target is healthy; then over the public names, with every check on: HTTPS, 401 without
credentials, an event accepted with them, and read from Kafka's TLS port by a user made for it, whose wrong password is
refused. Where DNS does not lead to the load balancers yet, the same is done by their addresses, under the right names.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import logging
import secrets
import socket
import ssl
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from deployment.account import Account
from deployment.arguments import VERIFY_MINUTES, Address, connect_to
from deployment.contents import SMOKE_TOPIC
from deployment.errors import Stop, Unverified
from deployment.output import Output
from deployment.stacks import pauses
from deployment.tasks import Admin

SMOKE_USER = "kwb-smoke"
OUTSIDE_MINUTES = 3.0
_KAFKA_S, _CONNECT_S, _REFUSED_S = 60.0, 15.0, 3.0


# ── where things are ──────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Reach:
    """How the public names are reached: `instead` leads from what is asked for to where it is, as curl's --connect-to.

    `ca` is a file of authorities beside the system's. On AWS it is empty: the certificate is ACM's.
    """

    instead: Mapping[Address, Address] = field(default_factory=dict)
    ca: str = ""

    @property
    def names(self) -> frozenset[str]:
        """Those that need not be in DNS."""
        return frozenset(host for host, _ in self.instead)

    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if self.ca:
            context.load_verify_locations(self.ca)
        return context

    @contextlib.contextmanager
    def resolving(self) -> Iterator[None]:
        """Names lead there for everything in this process; certificates are still judged by the names."""
        real = socket.getaddrinfo

        def instead(host: Any, port: Any, *arguments: Any, **named: Any) -> Any:
            place = self.instead.get((host, int(port))) if isinstance(port, int | str) and str(port).isdigit() else None
            return real(*(place or (host, port)), *arguments, **named)

        socket.getaddrinfo = instead
        try:
            yield
        finally:
            socket.getaddrinfo = real


def reach(environ: Mapping[str, str], pending: Mapping[str, str], ports: Mapping[str, int]) -> Reach:
    """`pending`: names that DNS does not know yet, with their load balancers. `ports`: each name's port.

    VERIFY_CONNECT_TO and VERIFY_CA are for networks in which the public names lead elsewhere, and for the tests, where
    no load balancer is.
    """
    instead: dict[Address, Address] = {(name, ports[name]): (target, ports[name]) for name, target in pending.items()}
    return Reach(instead | connect_to(environ), environ.get("VERIFY_CA", ""))


# ── what runs ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Running:
    """The services of a cluster, and the images that they should run: `{"dev-webhooks-ingest": "…:tag"}`."""

    account: Account
    out: Output
    cluster: str
    images: Mapping[str, str]
    target_groups: tuple[str, ...]
    limit_s: float = VERIFY_MINUTES * 60

    def check(self) -> None:
        """Raises Unverified."""
        with self.out.progress("Waiting for the services") as steps:
            _until(self._settled, steps.now, self.limit_s)
        with self.out.progress("Looking at what runs") as steps:
            _until(self._right_images, steps.now, self.limit_s)
        with self.out.progress("Waiting for healthy targets") as steps:
            _until(self._healthy, steps.now, self.limit_s)

    def _settled(self) -> str:
        rows = self.account.client("ecs").describe_services(cluster=self.cluster, services=list(self.images))[
            "services"
        ]
        missing = set(self.images) - {row["serviceName"] for row in rows if row["status"] == "ACTIVE"}
        if missing:
            raise Unverified(f"There is no service {', '.join(sorted(missing))}.")
        waits = []
        for row in rows:
            primary = next(each for each in row["deployments"] if each["status"] == "PRIMARY")
            if primary.get("rolloutState") == "FAILED":
                raise Unverified(
                    f"{row['serviceName']}: the deployment failed: {primary.get('rolloutStateReason', '')}",
                    "Its tasks do not stay up: look at its log group.",
                )
            if primary.get("rolloutState", "COMPLETED") != "COMPLETED" or len(row["deployments"]) > 1:
                waits.append(f"{row['serviceName']} is being deployed")
            elif row["runningCount"] != row["desiredCount"]:
                waits.append(f"{row['serviceName']}: {row['runningCount']} of {row['desiredCount']} tasks run")
        return "; ".join(waits)

    def _right_images(self) -> str:
        ecs = self.account.client("ecs")
        for service, image in self.images.items():
            arns = ecs.list_tasks(cluster=self.cluster, serviceName=service)["taskArns"]
            if not arns:
                return f"{service} has no task"
            container = service.rpartition("-")[2]
            for task in ecs.describe_tasks(cluster=self.cluster, tasks=arns[:100])["tasks"]:
                found = [row.get("image", "") for row in task["containers"] if row["name"] == container]
                if found != [image]:
                    raise Unverified(
                        f"{service} runs {', '.join(found) or 'nothing'}, and {image} was asked for.",
                        "ECS took the deployment back: its tasks did not stay up. Look at its log group.",
                    )
        return ""

    def _healthy(self) -> str:
        client = self.account.client("elbv2")
        waits = []
        for arn in self.target_groups:
            rows = client.describe_target_health(TargetGroupArn=arn)["TargetHealthDescriptions"]
            states = [row["TargetHealth"]["State"] for row in rows if row["TargetHealth"]["State"] != "draining"]
            if not states or set(states) != {"healthy"}:
                waits.append(f"{arn.split('/')[1]}: {', '.join(states) or 'no target'}")
        return "; ".join(waits)


def _until(look: Callable[[], str], now: Callable[[str], None], limit_s: float) -> None:
    """Look until there is nothing more to wait for. Raises Unverified with what there was at last."""
    waits = ""
    for _ in pauses(limit_s):
        waits = look()
        if not waits:
            return
        now(waits)
    raise Unverified(f"After {limit_s:.0f} s still: {waits}.", "docs/howto/aws-troubleshooting.md")


# ── from outside ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Outside:
    """A sender and a reader somewhere on the internet. `kafka` is None where the broker is not ours."""

    domain: str
    source: str
    login: tuple[str, str]
    reach: Reach
    kafka: Address | None = None
    https_port: int = 443
    limit_s: float = OUTSIDE_MINUTES * 60

    def check(self, admin: Admin, users_prefix: str, out: Output) -> None:
        """Raises Unverified."""
        with self.reach.resolving():
            with out.progress("HTTPS") as steps:
                _until(self._health, steps.now, self.limit_s)
            with out.progress("Without credentials") as steps:
                _until(self._refused, steps.now, self.limit_s)
            with out.progress("Sending an event") as steps:
                receipt = self._send(steps.now)
            out.note(f"  event {receipt['event_id']} accepted: {receipt['stored']}")
        if self.kafka is None:
            if receipt["stored"] not in ("kafka", "both"):
                raise Unverified(
                    f"Kafka did not take the event in time: it is in the {receipt['stored']}.", "`kwb doctor` says why."
                )
            return
        password = smoke_password(admin, users_prefix)
        with self.reach.resolving(), out.progress("Reading it from Kafka's TLS port"):
            self._read(str(receipt["event_id"]), password)
            self._wrong_password()

    def _ask(self, method: str, path: str, body: bytes = b"", *, login: bool = False) -> tuple[int, bytes]:
        connection = http.client.HTTPSConnection(
            f"webhooks.{self.domain}", self.https_port, timeout=15, context=self.reach.context()
        )
        with contextlib.closing(connection):
            headers = {"Content-Type": "application/json"}
            if login:
                headers["Authorization"] = "Basic " + base64.b64encode(":".join(self.login).encode()).decode()
            connection.request(method, path, body or None, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def _answer(self, method: str, path: str, body: bytes = b"", *, login: bool = False) -> tuple[int, bytes] | str:
        """Status and body, or why there is none. Raises Unverified for a certificate that nobody should believe."""
        try:
            return self._ask(method, path, body, login=login)
        except ssl.SSLCertVerificationError as error:
            raise Unverified(f"webhooks.{self.domain}: {error.verify_message}.") from None
        except (OSError, http.client.HTTPException) as error:
            return f"webhooks.{self.domain}: {str(error) or type(error).__name__}"

    def _health(self) -> str:
        found = self._answer("GET", "/health")
        if isinstance(found, str):
            return found
        return "" if found[0] == 200 else f"webhooks.{self.domain}/health answers {found[0]}"

    def _refused(self) -> str:
        found = self._answer("POST", f"/{self.source}", b"{}")
        if isinstance(found, str):
            return found
        if found[0] != 401:
            raise Unverified(f"A webhook without credentials was answered {found[0]}, and should be 401.")
        return ""

    def _send(self, now: Callable[[str], None]) -> dict[str, Any]:
        """What the bridge says of an event that it took: `event_id`, `stored`."""
        body = json.dumps({"smoke": secrets.token_hex(8), "sent_at": int(time.time())}).encode()
        taken: tuple[int, bytes] = 0, b""

        def send() -> str:
            nonlocal taken
            found = self._answer("POST", f"/{self.source}", body, login=True)
            if isinstance(found, str):
                return found
            taken = found
            return "503: no durable place yet" if found[0] == 503 else ""

        _until(send, now, self.limit_s)
        status, said = taken
        shown = said[:300].decode("utf-8", "replace")
        if not 200 <= status < 300:
            raise Unverified(f"A webhook with credentials was answered {status}: {shown}")
        with contextlib.suppress(ValueError):
            found = json.loads(said)
            if isinstance(found, dict) and isinstance(found.get("event_id"), str) and "stored" in found:
                return found
        raise Unverified(
            f"A webhook with credentials was answered {status}, and not by the bridge: {shown}",
            "Where webhooks.<domain> leads: docs/howto/aws-deploy.md#dns-and-certificate.",
        )

    def _consumer(self, password: str, patience_s: float) -> Any:
        from kafka import KafkaConsumer  # type: ignore[attr-defined]  # mypy takes the folder aws/kafka for it

        assert self.kafka is not None
        host, port = self.kafka
        return KafkaConsumer(
            bootstrap_servers=[f"{host}:{port}"], security_protocol="SASL_SSL", ssl_context=self.reach.context(),
            sasl_mechanism="SCRAM-SHA-512", sasl_plain_username=SMOKE_USER, sasl_plain_password=password,
            consumer_timeout_ms=1000, bootstrap_timeout_ms=int(patience_s * 1000), metrics_enabled=False,
        )  # fmt: skip

    def _read(self, event_id: str, password: str) -> None:
        """The event itself, from the broker that the first one named: its advertised name is tested so, too."""
        error: Exception | None = None
        limit_s = min(_KAFKA_S, self.limit_s)
        end = time.monotonic() + limit_s
        with _listening() as heard:
            for _ in pauses(limit_s):
                heard.clear()
                try:
                    with contextlib.closing(self._consumer(password, min(_CONNECT_S, limit_s))) as consumer:
                        if _has(consumer, event_id, end):
                            return
                    error = None
                except Exception as failed:  # of many kinds; a new user takes a moment to be known
                    error = heard[-1] if heard else failed
        said = f": {type(error).__name__}: {error}" if error else " in time"
        raise Unverified(
            f"The event did not come back from kafka.{self.domain}:{self.kafka[1] if self.kafka else ''}{said}",
            "Who may reach it: KafkaClientCidr. What clients are told: the broker's advertised.listeners.",
        )

    def _wrong_password(self) -> None:
        """The broker itself says no: that nobody answers, or another failure, is no refusal. Raises Unverified."""
        from kafka.errors import SaslAuthenticationFailedError

        error: Exception | None = None
        with _listening() as heard:
            for _ in pauses(min(_KAFKA_S, self.limit_s)):
                try:
                    consumer = self._consumer(f"wrong-{secrets.token_hex(8)}", _REFUSED_S)
                except Exception as failed:  # of many kinds
                    if any(isinstance(one, SaslAuthenticationFailedError) for one in (failed, *heard)):
                        return
                    error = heard[-1] if heard else failed
                    continue
                consumer.close()
                raise Unverified("Kafka's TLS port let a wrong password in.")
        raise Unverified(
            f"Whether Kafka's TLS port refuses a wrong password could not be seen: {type(error).__name__}: {error}"
        )


def _has(consumer: Any, event_id: str, end: float) -> bool:
    """Whether the event is in the smoke test's topic, or comes into it until then."""
    from kafka import TopicPartition  # type: ignore[attr-defined]

    parts = [TopicPartition(SMOKE_TOPIC, part) for part in consumer.partitions_for_topic(SMOKE_TOPIC) or ()]
    if parts:
        consumer.assign(parts)
        consumer.seek_to_beginning(*parts)
        while time.monotonic() < end:
            if any(("ce_id", event_id.encode()) in record.headers for record in consumer):
                return True
    return False


@contextlib.contextmanager
def _listening() -> Iterator[list[Exception]]:
    """Why the Kafka client failed: it tells its log of each attempt, and at last of a timeout alone."""
    heard: list[Exception] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.extend(one for one in record.args or () if isinstance(one, Exception))

    logger, ear = logging.getLogger("kafka"), Ear()
    before = logger.level, logger.propagate
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    logger.addHandler(ear)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield heard
    finally:
        logger.removeHandler(ear)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def smoke_password(admin: Admin, users_prefix: str) -> str:
    """Of a user that may read the smoke topic for an hour, made in a one-off task; its password is in Secrets Manager.

    One that is left from an hour ago is removed first. Raises Unverified when the task fails.
    """
    said: list[str] = []
    create = ["users", "create", SMOKE_USER, "--topics", SMOKE_TOPIC, "--group-prefix", SMOKE_USER, "--expires", "1h"]
    try:
        if admin.run(create, said.append):
            admin.run(["users", "delete", SMOKE_USER], said.append)
            if status := admin.run(create, said.append):
                raise Unverified(f"kwb users create ended with {status}:\n" + "\n".join(said[-10:]))
    except Stop as error:
        raise Unverified(error.message, error.hint) from None
    client = admin.account.client("secretsmanager")
    text: str = client.get_secret_value(SecretId=f"{users_prefix}{SMOKE_USER}")["SecretString"]
    with contextlib.suppress(ValueError):
        found = json.loads(text)
        if isinstance(found, dict) and "password" in found:
            return str(found["password"])
    return text
