"""One child process: `python -m kafka_webhook_bridge.app.child ingest|worker`, started by the supervisor.

Descriptors come by number (`--metrics-fd`, `--control-fd`, `--listen-fd`), secrets by the environment.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import os
import signal
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

from kafka_webhook_bridge.app.clock import make_clock, make_wall_clock
from kafka_webhook_bridge.app.control import Channel
from kafka_webhook_bridge.archive.archiver import Archiver
from kafka_webhook_bridge.archive.expiry import Expiry
from kafka_webhook_bridge.archive.reconcile import Reconciler
from kafka_webhook_bridge.archive.relay import Relay
from kafka_webhook_bridge.archive.retention import Retention
from kafka_webhook_bridge.errors import ConfigError, KwbError, StoreError
from kafka_webhook_bridge.ingest.keys import Keys
from kafka_webhook_bridge.ingest.learned import LearnedSecrets
from kafka_webhook_bridge.ingest.server import IngestServer
from kafka_webhook_bridge.kafka import login
from kafka_webhook_bridge.kafka.certificate import CertificateWatch
from kafka_webhook_bridge.observability import health, logs, metrics
from kafka_webhook_bridge.observability.background import Background
from kafka_webhook_bridge.settings import Settings, load_settings
from kafka_webhook_bridge.sources.config import load_sources
from kafka_webhook_bridge.sources.table import SourceTable
from kafka_webhook_bridge.store import Store, migrate
from kafka_webhook_bridge.store.migrate import SchemaOld, check, migrations

_STATUS_S = 0.5
_PING_S = 1.0
_TABLES_PAUSE_S = 0.1  # the worker makes them this moment, as a rule
_FIRST_WORD_S = 1.0
_PR_SET_PDEATHSIG = 1  # prctl(2)


def die_with_parent() -> None:
    """A supervisor that was killed takes its children along; they drain first."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Database:
    """Waits for the database and its tables, watches it, and says why it cannot be used.

    A worker `migrates`. An ingest process never does, so that many of them, and those of the release before, start and
    serve while one process changes the tables (deploy-rules.md 27).
    """

    def __init__(self, settings: Settings, *, migrates: bool) -> None:
        self._migrates = migrates
        self.store = Store(settings.store) if settings.store.url is not None else None
        self.migrated = asyncio.Event()
        self._asked = asyncio.Event()  # once, with whatever result
        self._reason: str | None = "DATABASE_URL is not set" if self.store is None else "not connected yet"
        self._told = ""
        self._log = logs.get_logger("store")

    def reason(self) -> str | None:
        return self._reason

    async def open(self) -> None:
        """Raises ConfigError for a URL that cannot be used."""
        if self.store is not None:
            await self.store.open()

    async def watch(self) -> None:
        """Ask once a second; the reason is what health tells."""
        while self.store is not None:
            pause_s = _PING_S
            try:
                if self.migrated.is_set():
                    await self.store.ping()
                else:
                    await self._get_tables(self.store)
                    self.migrated.set()
                if self._told:
                    self._log.info("PostgreSQL is there again")
                self._reason, self._told = None, ""
            except SchemaOld as error:
                self._reason, pause_s = error.message, _TABLES_PAUSE_S
                if error.message != self._told:
                    self._told = error.message
                    self._log.warning("waiting for the tables", reason=error.message)
            except StoreError as error:
                self._reason = error.message
                if error.message != self._told:  # once a second it would tell nothing new
                    self._told = error.message
                    self._log.error("PostgreSQL cannot be used", error=error.message, hint=error.hint)
            self._asked.set()
            await asyncio.sleep(pause_s)

    async def _get_tables(self, store: Store) -> None:
        if self._migrates:
            await migrate(store)
        if (version := await check(store)) > (known := migrations()[-1].version):
            self._log.info("the database is of a later version", version=version, known=known)

    async def first_word(self) -> None:
        """Wait until there is a connection or a reason why not, but not long.

        Whoever accepts requests before has no connection for their first claims, and takes duplicates for events.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_WORD_S):
                await self._asked.wait()

    async def close(self) -> None:
        if self.store is not None:
            await self.store.close()


async def _serve_until_told(
    channel: Channel, parts: Callable[[], list[health.Part]], reload: Callable[[], None], background: Background
) -> bool:
    """Report health until SIGTERM, `drain`, or the end of the supervisor; false when a background task ended first."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, told.set)
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # Ctrl-C is the supervisor's business
    loop.add_signal_handler(signal.SIGHUP, reload)

    async def listen() -> None:
        while not told.is_set():
            message = await channel.hear()
            if message is None or message.get("do") == "drain":
                told.set()

    async def report() -> None:
        while True:
            channel.tell_parts(parts())
            await asyncio.sleep(_STATUS_S)

    listening = asyncio.create_task(listen(), name="control")
    listening.add_done_callback(lambda _: told.set())  # a supervisor that cannot be understood is as good as gone
    background.start(report(), "report")
    ends = [asyncio.create_task(told.wait()), asyncio.create_task(background.died.wait())]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    for task in (listening, *ends):
        task.cancel()
    return not background.died.is_set()


def _reload(
    before: Settings,
    store: Store | None,
    use: Callable[[SourceTable], None],
    keys: Keys | None = None,
    learned: LearnedSecrets | None = None,
) -> None:
    """SIGHUP: hand over the configuration as it is now, unless it is wrong, and the passwords of `file:` secrets."""
    log = logs.get_logger("config")
    try:
        settings = load_settings()
        use(load_sources(settings, keys=keys, learned=None if learned is None else learned.secrets))
    except ConfigError as error:
        log.error("configuration not reloaded; the old one stays", problems=[str(p) for p in error.problems])
        return
    if login.change(settings.kafka, before.kafka):
        log.info("Kafka's password has changed; clients log in with it from now on")
    if store is not None:
        store.log_in(settings.store)
    log.info("configuration reloaded")


async def _ingest(settings: Settings, control: socket.socket, listener: socket.socket) -> int:
    channel = await Channel.over(control)
    background = Background("ingest")
    database = Database(settings, migrates=False)
    await database.open()
    clock = make_clock()
    keys = Keys(clock)  # they outlive a reload
    server = IngestServer(
        settings, load_sources(settings, keys=keys), listener, database.store, database.reason, database.migrated,
        clock, make_wall_clock(), keys, background,
    )  # fmt: skip
    if database.store is not None:
        background.start(database.watch(), "database")
        await database.first_word()

    def reload() -> None:
        _reload(settings, database.store, server.reload, keys, server.edge.learned)

    if database.store is not None and settings.store.secret_key is not None:
        secret_key = settings.store.secret_key.get_secret_value()
        server.edge.learned = LearnedSecrets(database.store, secret_key, database.migrated, reload)
    await server.start()
    well = await _serve_until_told(channel, server.parts, reload, background)
    await server.drain(None if well else 0)
    await database.close()
    return 0 if well else 1


async def _worker(settings: Settings, control: socket.socket) -> int:
    channel = await Channel.over(control)
    background = Background("worker")
    database = Database(settings, migrates=True)
    await database.open()
    if database.store is not None:
        background.start(database.watch(), "database")
    store = database.store
    stop = asyncio.Event()
    rooms: list[asyncio.Task[None]] = []
    sources = load_sources(settings)
    certificate = CertificateWatch(settings)
    if certificate.addresses:
        rooms.append(background.start(certificate.run(stop), "certificate"))
    if store is not None:
        archiver = Archiver(settings, store, sources, database.migrated)
        retention = Retention(settings, store, database.migrated)
        relay = Relay(settings, store, sources, background.fault_in_thread, database.migrated)
        reconciler = Reconciler(settings, store, database.migrated, body_bytes_max=sources.body_bytes_max)
        expiry = Expiry(settings, store, database.migrated)
        for name, work in (
            ("archiver", archiver.run), ("retention", retention.run), ("relay", relay.run),
            ("reconciler", reconciler.run), ("expiry", expiry.run),
        ):  # fmt: skip
            rooms.append(background.start(work(stop), name))

    def parts() -> list[health.Part]:
        reason = database.reason()
        postgres = health.Part("postgres", "unavailable" if reason else "ready", reason or "", durable=True)
        return [postgres, *(relay.parts() if store is not None else ())]

    use = archiver.use if store is not None else lambda _: None
    well = await _serve_until_told(channel, parts, lambda: _reload(settings, store, use), background)
    background.let_end()
    stop.set()
    await asyncio.gather(*rooms, return_exceptions=True)
    background.cancel()
    await database.close()
    return 0 if well else 1


def main(argv: list[str] | None = None) -> None:
    """Run one child to its end. Exit 0 after a drain, 2 when the configuration is wrong, 1 otherwise.

    The process ends without the interpreter's good-byes: librdkafka's threads, or a call to a cluster that is away,
    may hold them up for long, and nothing is left to be done.
    """
    parser = argparse.ArgumentParser(prog="kwb-child")
    parser.add_argument("role", choices=("ingest", "worker"))
    parser.add_argument("--slot", type=int, default=0)
    parser.add_argument("--metrics-fd", type=int, required=True)
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--listen-fd", type=int)
    args = parser.parse_args(argv)
    die_with_parent()
    try:
        settings = load_settings()
        logs.configure(settings.log, f"{args.role}-{args.slot}" if args.role == "ingest" else args.role)
        metrics.attach(args.metrics_fd)
        control = socket.socket(fileno=args.control_fd)
        run: Coroutine[Any, Any, int]
        if args.role == "ingest":
            run = _ingest(settings, control, socket.socket(fileno=args.listen_fd))
        else:
            run = _worker(settings, control)
        status = uvloop.run(run)
    except KwbError as error:
        logs.get_logger(args.role).error("cannot run", error=error.message, hint=error.hint)
        status = error.exit_code
    except BaseException:
        logs.get_logger(args.role).exception("fault")
        status = 1
    logs.close()
    os._exit(status)


if __name__ == "__main__":
    main()
