"""`kwb up`: Kafka, PostgreSQL and the bridge on this machine, until Ctrl-C."""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kafka_webhook_bridge.cli.output import OK, Json, Output
from kafka_webhook_bridge.settings import environment, is_inline, rows

if TYPE_CHECKING:
    from kafka_webhook_bridge.settings import Settings
    from kafka_webhook_bridge.stack import Bridge, Stack
    from kafka_webhook_bridge.stack.server import Server

CONSUMER = "consumer"
_LOOK_EVERY_S = 0.1
_START_LOOK_EVERY_S = 0.02
_INTERRUPTED = 130
_PORT: dict[str, Any] = {"min": 0, "max": 65535, "show_default": False}
_ENV_HEAD = "# Written by `kwb up` at every start, for `. env` in another terminal.\n"
# Of another cluster or database, so not for the bridge that runs here.
_REPLACED = ("KAFKA_BOOTSTRAP_SERVERS", "KAFKA_USERNAME", "KAFKA_PASSWORD", "DATABASE_URL")
# No balancer has to notice the end, so webhooks are turned away at once.
_BRIDGE = {"KWB_INGEST_DRAIN_GRACE_MS": "0"}
# Any source name may make its topic on a broker that is ours alone (rules.md 11); a file says who sends.
_OWN = {"KWB_BRIDGE_OWN_BROKER": "true"}
# What is known only when the servers run, for a look at everything else before that.
_CREDENTIALS_TO_BE = {
    "WEBHOOK_USERNAME": "webhook",
    "WEBHOOK_PASSWORD": "to be generated",
    "KWB_STORE_SECRET_KEY": "to be generated: 32 characters at random",
}
_SERVERS_TO_BE = {
    "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9094",
    "KAFKA_USERNAME": "bridge",
    "KAFKA_PASSWORD": "to be generated",
    "KWB_KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
    "KWB_KAFKA_SASL_MECHANISM": "PLAIN",
    "DATABASE_URL": "postgresql://127.0.0.1:15432/kwb",
}

Port = Annotated[int | None, typer.Option(help="Port for webhooks [8080].", **_PORT)]
ManagementPort = Annotated[int | None, typer.Option(help="Port for metrics and health [8081].", **_PORT)]
ControllerPort = Annotated[int | None, typer.Option(help="Kafka's own port [9093].", **_PORT)]
InternalPort = Annotated[int | None, typer.Option(help="Kafka's port for the bridge [9094].", **_PORT)]
BrokerPort = Annotated[int | None, typer.Option(help="Kafka's port between brokers [9095].", **_PORT)]
ProxyPort = Annotated[int | None, typer.Option(help="Kafka's port for consumers [9096].", **_PORT)]
PostgresPort = Annotated[int | None, typer.Option(help="PostgreSQL's port [15432].", **_PORT)]


def register(app: typer.Typer) -> None:
    @app.command()
    def up(
        folder: Annotated[
            Path | None, typer.Option("--dir", help="Data, logs and credentials [.kwb].", show_default=False)
        ] = None,
        workers: Annotated[int | None, typer.Option(min=1, help="Processes for webhooks [1].")] = None,
        port: Port = None,
        management_port: ManagementPort = None,
        kafka_controller_port: ControllerPort = None,
        kafka_internal_port: InternalPort = None,
        kafka_broker_port: BrokerPort = None,
        kafka_proxy_port: ProxyPort = None,
        postgres_port: PostgresPort = None,
        free_ports: Annotated[bool, typer.Option("--free-ports", help="Free ports for everything.")] = False,
        json: Json = False,
    ) -> None:
        """Start Kafka, PostgreSQL and the bridge on this machine, and keep them running until Ctrl-C.

        Everything listens on 127.0.0.1 and is kept in one folder: the next start has the same data and credentials.
        A port 0 takes a free one. Sizes and the rest are settings (`kwb config show`, room stack).
        """
        from kafka_webhook_bridge.settings import load_settings

        ports: dict[str, Any] = {
            "ingest_port": port,
            "management_port": management_port,
            "stack_kafka_controller_port": kafka_controller_port,
            "stack_kafka_internal_port": kafka_internal_port,
            "stack_kafka_broker_port": kafka_broker_port,
            "stack_kafka_proxy_port": kafka_proxy_port,
            "stack_postgres_port": postgres_port,
        }
        if free_ports:
            ports = {name: given or 0 for name, given in ports.items()}
        overrides = {**ports, "stack_folder": None if folder is None else str(folder), "ingest_workers": workers}
        check(**overrides)
        raise typer.Exit(Up(load_settings(**overrides), Output(json)).run())


def check(**overrides: Any) -> None:
    """Everything that the bridge would refuse, before a server is started for it. Raises ConfigError."""
    from kafka_webhook_bridge.app.preflight import load
    from kafka_webhook_bridge.errors import ConfigError

    given = {name: value for name, value in environment().items() if value}
    try:
        load("all", {**_BRIDGE, **_CREDENTIALS_TO_BE, **given, **_OWN, **_SERVERS_TO_BE}, **overrides)
    except ConfigError as error:
        error.hint = "Mend them and start again. Nothing was started."
        raise


class Stopped(Exception):
    """Not an error: Ctrl-C or SIGTERM came while something was starting."""


class Up:
    """One run, from the lock on the folder to the last server stopped."""

    def __init__(self, settings: Settings, out: Output) -> None:
        from kafka_webhook_bridge.stack.keeper import Keeper

        self._settings = settings
        self._out = out
        self._folder = Path(settings.stack.folder).absolute()
        self._stop = threading.Event()
        self._progress: Callable[[str], None] = out.note
        self._keeper = Keeper(self._tell)

    def run(self) -> int:
        """The exit code. Raises StackError, KafkaError, ConfigError."""
        from kafka_webhook_bridge.stack.files import lock, make_folder

        make_folder(self._folder, to_pass=True)
        another = f"Another `kwb up` runs on {self._folder}."
        hint = f"Use that one (`. {_shown(self._folder / 'env')}`), end it, or choose another folder with --dir."
        with self._signals(), lock(self._folder / "lock", another, hint):
            try:
                with self._working("Starting Kafka and PostgreSQL"):
                    self._start()
                while not self._stop.wait(_LOOK_EVERY_S):
                    self._keeper.look()
            except Stopped:
                return _INTERRUPTED
            finally:
                self._end()
        self._out.note(f"Stopped. Data and credentials are kept in {_shown(self._folder)}.")
        self._out.line({"event": "stopped"})
        return OK

    # ── starting ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _start(self) -> None:
        from kafka_webhook_bridge.kafka.users import Users
        from kafka_webhook_bridge.stack import Bridge, KafkaPorts, Stack

        given = self._settings.stack
        credentials = self._credentials()
        stack = Stack(
            self._folder,
            kafka_ports=KafkaPorts(
                given.kafka_controller_port, given.kafka_internal_port, given.kafka_broker_port, given.kafka_proxy_port
            ),
            postgres_port=given.postgres_port,
            heap_bytes=given.kafka_heap_bytes_max,
            jar_cache=Path(given.cache_folder).expanduser() if given.cache_folder else None,
            progress=lambda text: self._progress(text),
            consumers={CONSUMER: credentials[CONSUMER]},
        )
        own = self._environment(credentials)
        bridge = Bridge(self._folder, {**_BRIDGE, **environment(), **own})
        self._wait_for(bridge.clear_the_way)
        self._keeper.keep(stack.kafka)
        self._keeper.keep(stack.postgres)
        self._wait_for(stack.start)
        self._progress("Starting the bridge")
        servers = stack.environ()
        self._warn_of_replaced(servers)
        bridge.environ |= servers
        self._keeper.keep(bridge)

        def make_consumer() -> None:
            users = Users(stack.kafka.settings)
            users.put(CONSUMER, credentials[CONSUMER])
            users.allow_reading(CONSUMER)

        self._wait_for(bridge.start, make_consumer)
        own |= servers | {name: bridge.environ[name] for name in ("KWB_INGEST_PORT", "KWB_MANAGEMENT_PORT")}
        self._write_files(own, stack, credentials)
        self._announce(stack, bridge, credentials)

    def _credentials(self) -> dict[str, str]:
        """Of the webhooks, the consumer and the store: from the environment, else as last time, else new."""
        from kafka_webhook_bridge.stack.files import secrets_of

        given = {}
        if self._settings.bridge.username:
            given["webhook_username"] = self._settings.bridge.username
        if self._settings.bridge.password is not None:
            given["webhook_password"] = self._settings.bridge.password.get_secret_value()
        if self._settings.store.secret_key is not None:
            given["store_secret_key"] = self._settings.store.secret_key.get_secret_value()
        names = ("webhook_password", "store_secret_key", CONSUMER)
        known = secrets_of(self._folder / "secrets.json", *names, given=given)
        return {"webhook_username": "webhook", **known}

    def _environment(self, credentials: dict[str, str]) -> dict[str, str]:
        """What makes this bridge, for `kwb serve` and for `.kwb/env`; its servers come from Stack.environ."""
        ingest, management = self._settings.ingest, self._settings.management
        config, given = self._settings.bridge.config, environment()
        if config.strip() and not is_inline(config):
            config = str(Path(config).absolute())  # the other terminal may be elsewhere
        # What a bridge.yaml means must be the same in the other terminal, too.
        same = [row.env for row in rows() if row.room == "bridge" and not row.secret and given.get(row.env)]
        return {
            **{name: given[name] for name in same},
            "WEBHOOK_USERNAME": credentials["webhook_username"],
            "WEBHOOK_PASSWORD": credentials["webhook_password"],
            "KWB_STORE_SECRET_KEY": credentials["store_secret_key"],
            "KWB_INGEST_HOST": ingest.host,
            "KWB_INGEST_PORT": str(ingest.port),
            "KWB_INGEST_WORKERS": str(ingest.workers),
            "KWB_MANAGEMENT_HOST": management.host,
            "KWB_MANAGEMENT_PORT": str(management.port),
            **_OWN,
            **({"KWB_CONFIG": config} if config else {}),
        }

    def _warn_of_replaced(self, servers: dict[str, str]) -> None:
        given = environment()
        for name in _REPLACED:
            if given.get(name, servers[name]) != servers[name]:
                self._out.note(f"{name} of the environment is not used: `kwb up` brings its own.", "yellow")

    def _write_files(self, own: dict[str, str], stack: Stack, credentials: dict[str, str]) -> None:
        from kafka_webhook_bridge.stack.files import write_private

        own = own | {
            "CONSUMER_BOOTSTRAP_SERVERS": stack.kafka.proxy_bootstrap,
            "CONSUMER_USERNAME": CONSUMER,
            "CONSUMER_PASSWORD": credentials[CONSUMER],
            # For the snippets of `kwb users`; there is no proxy with TLS here.
            "KWB_KAFKA_EXTERNAL_SERVERS": stack.kafka.proxy_bootstrap,
            "KWB_KAFKA_EXTERNAL_PROTOCOL": "SASL_PLAINTEXT",
        }
        lines = [f"export {name}={shlex.quote(value)}\n" for name, value in own.items()]
        lines.append(f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"  # kwb\n')
        write_private(self._folder / "env", _ENV_HEAD + "".join(lines))
        login = "security.protocol=SASL_PLAINTEXT\n"
        write_private(
            self._folder / "consumer.properties",
            f"# Java clients\n{login}sasl.mechanism=SCRAM-SHA-512\n"
            "sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required "
            f'username="{CONSUMER}" password="{credentials[CONSUMER]}";\n',
        )
        write_private(
            self._folder / "kcat.conf",
            "# librdkafka clients; PLAIN, because Kafka 4 refuses the SCRAM of librdkafka before 2.6.1\n"
            f"bootstrap.servers={stack.kafka.proxy_bootstrap}\n{login}"
            f"sasl.mechanisms=PLAIN\nsasl.username={CONSUMER}\nsasl.password={credentials[CONSUMER]}\n",
        )

    def _wait_for(self, *calls: Callable[[], None]) -> None:
        """All of them, side by side. Raises the first error, or Stopped when somebody asks meanwhile."""
        waiting = [self._keeper.begin(call) for call in calls]
        while waiting:
            if self._stop.wait(_START_LOOK_EVERY_S):
                raise Stopped
            for future in [future for future in waiting if future.done()]:
                future.result()
                waiting.remove(future)

    # ── talking ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _announce(self, stack: Stack, bridge: Bridge, credentials: dict[str, str]) -> None:
        from kafka_webhook_bridge.cli.sources import example
        from kafka_webhook_bridge.sources.config import load_configuration

        user, password = credentials["webhook_username"], credentials["webhook_password"]
        settings, table = load_configuration(bridge.environ)
        line, topic = example(table, settings, bridge.url, f"{user}:{password}")
        logs = [bridge.log, stack.kafka.log, stack.postgres.log]
        files = {name: _shown(self._folder / name) for name in ("env", "consumer.properties", "kcat.conf")}
        say = self._out.say
        say()
        say("Kafka Webhook Bridge is ready.", "bold green")
        say()
        say(f"  Webhooks    {bridge.url}/SOURCE   user {user}   password {password}")
        say(f"  Management  {bridge.management_url}   /metrics /health")
        say(f"  Kafka       {stack.kafka.proxy_bootstrap}   SASL_PLAINTEXT SCRAM-SHA-512   "
            f"user {CONSUMER}   password {credentials[CONSUMER]}")  # fmt: skip
        say(f"  PostgreSQL  127.0.0.1:{stack.postgres.port}   $DATABASE_URL in {files['env']}")
        say()
        say("Send a webhook", "bold")
        say(f"  {line}")
        say("Read it from Kafka: kcat, or Kafka's own consumer", "bold")
        say(f"  kcat -F {files['kcat.conf']} -C -t {topic} -o beginning -f '%h\\n%s\\n'")
        say(f"  kafka-console-consumer.sh --bootstrap-server {stack.kafka.proxy_bootstrap} --topic {topic} "
            f"--from-beginning --consumer.config {files['consumer.properties']}")  # fmt: skip
        say("Find it in PostgreSQL", "bold")
        say(f"  . {files['env']} && kwb events search")
        say()
        say("Logs: " + "  ".join(map(_shown, logs)), "dim")
        say("Ctrl-C stops everything; the next start has the same data and credentials.", "dim")
        self._out.line(
            {
                "event": "ready",
                "url": bridge.url,
                "management_url": bridge.management_url,
                "webhook": {"username": user, "password": password},
                "try": line,
                "consumer": {
                    "bootstrap_servers": stack.kafka.proxy_bootstrap,
                    "security_protocol": "SASL_PLAINTEXT",
                    "sasl_mechanism": "SCRAM-SHA-512",
                    "username": CONSUMER,
                    "password": credentials[CONSUMER],
                },
                "files": files,
                "logs": [_shown(log) for log in logs],
                "processes": {"kafka": stack.kafka.pid, "postgres": stack.postgres.pid, "bridge": bridge.pid},
            }
        )

    def _tell(self, server: Server, what: str) -> None:
        self._out.note(what, "yellow")
        self._out.line({"event": "part", "part": server.name, "alive": server.alive, "message": what})

    @contextlib.contextmanager
    def _working(self, what: str) -> Iterator[None]:
        """A spinner with the step that is being done; plain lines where nobody watches."""
        with self._out.working(what) as tell:
            if tell is None:
                self._out.note(what)
            self._progress = tell or self._out.note
            try:
                yield
            finally:
                self._progress = self._out.note

    # ── stopping ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _end(self) -> None:
        """Stop everything, also when nobody can be told: a closed terminal or pipe."""
        from kafka_webhook_bridge.stack.keeper import in_thread

        stopping = in_thread(self._keeper.stop)
        with contextlib.suppress(OSError, SystemExit), self._working("Stopping"):  # Rich exits at a broken pipe
            stopping.exception()
        stopping.result()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C, SIGTERM, a closed terminal: stop cleanly; a second one ends the servers at once."""
        from kafka_webhook_bridge.stack.keeper import in_thread

        def handle(_number: int, _frame: Any) -> None:
            if self._stop.is_set():
                in_thread(self._keeper.kill)
            self._stop.set()

        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = [signal.signal(number, handle) for number in numbers]
        try:
            yield
        finally:
            for number, old in zip(numbers, before, strict=True):
                signal.signal(number, old)


def _shown(path: Path) -> str:
    """The path as one would type it here."""
    with contextlib.suppress(ValueError):
        return shlex.quote(str(path.relative_to(Path.cwd())))
    return shlex.quote(str(path))
