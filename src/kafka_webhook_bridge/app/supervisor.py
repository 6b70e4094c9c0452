"""The supervisor of one `kwb serve`: ports, children, metrics, health, reload and drain (rules.md 23, 31)."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from kafka_webhook_bridge.app.clock import make_clock
from kafka_webhook_bridge.app.control import Channel
from kafka_webhook_bridge.app.preflight import Role, load
from kafka_webhook_bridge.app.status import StatusLine
from kafka_webhook_bridge.console.management import Management
from kafka_webhook_bridge.errors import ConfigError, UsageError
from kafka_webhook_bridge.ingest.door import BACKLOG
from kafka_webhook_bridge.ingest.limits import TrustedProxies
from kafka_webhook_bridge.kafka import login
from kafka_webhook_bridge.observability import health, logs, metrics
from kafka_webhook_bridge.observability.background import pause
from kafka_webhook_bridge.settings import IngestSettings, Settings, child_environment, load_settings
from kafka_webhook_bridge.sources.config import load_sources
from kafka_webhook_bridge.store import Store

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from kafka_webhook_bridge.console.login import Door
    from kafka_webhook_bridge.console.site import Site

ChildRole = Literal["ingest", "worker"]

_BACK_OFF_S = (0.1, 5.0)
_TURN_S = 1.0  # children report twice as often
_SILENT_TURNS, _HUNG_TURNS, _FIRST_WORD_TURNS = 2, 5, 60
_STEADY_S = 10.0  # a child that ended itself after so long starts anew without delay
_STOP_MARGIN_S = 12.0  # beyond the drain: the producers' last reports


def listen(settings: IngestSettings) -> list[socket.socket]:
    """One listening socket per worker slot, all on one port. Raises UsageError when the port is taken.

    The port is first bound alone: with SO_REUSEPORT the kernel would let a second bridge share it unnoticed. A socket
    that shares its port listens only once its child is up: until then the other bridge shall get every connection.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    port = settings.port
    try:
        if not settings.share_port:
            with socket.socket(family, socket.SOCK_STREAM) as alone:
                alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                alone.bind((settings.host, port))
                alone.listen()
                port = alone.getsockname()[1]
        sockets = []
        for _ in range(settings.workers):
            slot = socket.socket(family, socket.SOCK_STREAM)
            slot.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            slot.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            slot.bind((settings.host, port))
            if not settings.share_port:
                slot.listen(BACKLOG)
            port = slot.getsockname()[1]
            sockets.append(slot)
    except OSError as error:
        raise UsageError(
            f"Cannot listen on {settings.host}:{port}: {error.strerror}.",
            hint="Stop what uses the port, or choose another by KWB_INGEST_PORT or --port.",
        ) from error
    return sockets


@dataclass(slots=True)
class Child:
    """One process and what outlives it: its slot, its metrics and its socket."""

    role: ChildRole
    slot: int
    segment: metrics.Segment
    listener: socket.socket | None = None
    process: subprocess.Popen[bytes] | None = None
    channel: Channel | None = None
    parts: list[health.Part] = field(default_factory=list)
    heard: bool = False  # it is at work: it told its health

    @property
    def name(self) -> str:
        return f"{self.role}-{self.slot}" if self.role == "ingest" else self.role


class Supervisor:
    """Runs the children of a role until SIGTERM or SIGINT."""

    def __init__(self, settings: Settings, role: Role) -> None:
        self._settings = settings
        self._log = logs.get_logger("supervisor")
        self._stopping = asyncio.Event()
        self._exporter = metrics.Exporter()
        self._children: list[Child] = []
        if role in ("all", "ingest"):
            for slot, sock in enumerate(listen(settings.ingest)):
                self._children.append(Child("ingest", slot, metrics.Segment.create(), sock))
        if role in ("all", "worker"):
            self._children.append(Child("worker", 0, metrics.Segment.create()))
        self._status = StatusLine(
            [child.segment for child in self._children if child.role == "ingest"],
            [child.segment for child in self._children if child.role == "worker"],
            lambda: [part for child in self._children if child.role == "worker" for part in child.parts],
            make_clock(),
        )
        self._site: Site | None = None
        self._store: Store | None = None
        self._door: Door | None = None
        if role != "console":
            self._management = Management(settings.management, self._metrics, self._health)
            return
        from kafka_webhook_bridge.console.login import Door
        from kafka_webhook_bridge.console.site import Site

        def guard(app: ASGIApp) -> ASGIApp:
            self._door = Door(app, settings.console, proxies)
            return self._door

        self._store = Store(settings.store)
        self._site = Site(settings, self._store)
        proxies = TrustedProxies(load_sources(settings, receives=False).trusted_proxies)
        self._management = Management(settings.management, self._metrics, self._health, self._site.routes(), guard)

    async def run(self) -> int:
        """Exit status: 0 after a drain, 1 when a child did not stop in time or a task of its own ended."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        own: list[asyncio.Task[None]] = []
        if self._site is not None and self._store is not None:
            await self._store.open()
            own.append(asyncio.create_task(self._site.look.run(), name="look"))
        own.append(asyncio.create_task(self._status.run(self._stopping), name="status"))
        port = await self._management.start()
        listeners = [child.listener for child in self._children if child.listener is not None]
        ingest = listeners[0].getsockname()[:2] if listeners else None
        self._log.info(
            "serving",
            ingest=f"{ingest[0]}:{ingest[1]}" if ingest else None,
            management=f"{self._settings.management.host}:{port}",
            children=[child.name for child in self._children],
        )
        keepers = {child.name: asyncio.create_task(self._keep(child), name=child.name) for child in self._children}
        well = await self._until_told([*keepers.values(), *own, self._management.serving])
        self._log.info("draining")
        # First the ingest processes, so that what they accept last is still archived.
        clean = await self._stop([c for c in self._children if c.role == "ingest"], keepers)
        clean &= await self._stop([c for c in self._children if c.role == "worker"], keepers)
        self._status.write()
        await self._management.stop()
        for task in own:
            task.cancel()
        if self._store is not None:
            await self._store.close()
        self._log.info("stopped", clean=clean)
        return 0 if clean and well else 1

    async def _until_told(self, tasks: list[asyncio.Task[None]]) -> bool:
        """False when one of the supervisor's own tasks ended first: without it the bridge is not kept alive."""
        told = asyncio.create_task(self._stopping.wait())
        await asyncio.wait([told, *tasks], return_when=asyncio.FIRST_COMPLETED)
        ended = [task for task in tasks if task.done()] if not self._stopping.is_set() else []
        for task in ended:
            self._log.error("background task ended", task=task.get_name(), exc_info=task.exception())
        self._stopping.set()
        return not ended

    async def _stop(self, children: list[Child], keepers: dict[str, asyncio.Task[None]]) -> bool:
        for child in children:
            # The child's own copy stays open until its accept queue is empty; ours would keep the port alive.
            if child.listener is not None:
                child.listener.close()
            if child.channel is not None:
                child.channel.tell({"do": "drain"})
            elif child.process is not None:
                child.process.terminate()
        limit_s = self._settings.ingest.drain_timeout_ms / 1000 + _STOP_MARGIN_S
        tasks = [keepers[child.name] for child in children]
        if not tasks:
            return True
        _, late = await asyncio.wait(tasks, timeout=limit_s)
        for child in children:
            if child.process is not None and child.process.poll() is None:
                self._log.error("child did not stop in time", child=child.name)
                child.process.kill()
        for task in late:
            task.cancel()
        return not late

    async def _keep(self, child: Child) -> None:
        """Start the child, and again whenever it dies."""
        wait_s = _BACK_OFF_S[0]
        loop = asyncio.get_running_loop()
        restarts = metrics.registry().counter("kwb_worker_restarts_total", role=child.role)
        while True:
            begun = loop.time()
            code = await self._run_once(child)
            child.parts = [health.Part(child.name, "unavailable", "restarting")]
            if self._stopping.is_set():
                return
            restarts.add()
            # One that was at work and was killed is not to blame, and its senders wait.
            blameless = (code < 0 and child.heard) or loop.time() - begun > _STEADY_S
            wait_s = _BACK_OFF_S[0] if blameless else min(wait_s * 2, _BACK_OFF_S[1])
            self._log.error("child died", child=child.name, status=code, restart_in_ms=round(wait_s * 1000))
            await pause(self._stopping, wait_s)
            if self._stopping.is_set():
                return

    async def _run_once(self, child: Child) -> int:
        ours, theirs = socket.socketpair()
        fds = [child.segment.fd, theirs.fileno()]
        arguments = ["--slot", str(child.slot), "--metrics-fd", str(fds[0]), "--control-fd", str(fds[1])]
        if child.listener is not None:
            fds.append(child.listener.fileno())
            arguments += ["--listen-fd", str(fds[2])]
        harness = child_environment(self._settings)
        if "KWB_HARNESS_FD" in harness:
            fds.append(int(harness["KWB_HARNESS_FD"]))
        try:
            child.process = subprocess.Popen(  # noqa: ASYNC220
                [sys.executable, "-m", "kafka_webhook_bridge.app.child", child.role, *arguments],
                env=harness, pass_fds=fds, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except OSError as error:  # no process or memory left for the moment
            self._log.error("child not started", child=child.name, error=str(error))
            ours.close()
            return 1
        finally:
            theirs.close()
        child.heard, child.channel = False, await Channel.over(ours)
        await self._listen_to(child, child.channel)
        code = await asyncio.to_thread(child.process.wait)
        child.channel.close()
        child.channel = None
        return code

    async def _listen_to(self, child: Child, channel: Channel) -> None:
        """Until the child ends. One that is silent for too long answers nobody: it is ended, for another to start.

        Silence is counted in turns, because after a pause of the whole machine one turn is over at once.
        """
        silent = 0
        patience = _FIRST_WORD_TURNS
        while True:
            try:
                async with asyncio.timeout(_TURN_S):
                    message = await channel.hear()
            except TimeoutError:
                silent += 1
                if silent == _SILENT_TURNS and patience == _HUNG_TURNS:
                    child.parts = [health.Part(child.name, "unavailable", "does not answer", durable=True)]
                if silent >= patience and child.process is not None:
                    self._log.error("child hangs", child=child.name, silent_s=silent * _TURN_S)
                    child.process.kill()
                continue
            if message is None:
                return
            silent, patience, child.heard = 0, _HUNG_TURNS, True
            child.parts = [health.Part(**part) for part in message.get("parts", [])]

    def _reload(self) -> None:
        try:
            if self._door is not None:
                self._reload_console(self._door)
                return
            sources = load_sources(load_settings())
        except ConfigError as error:
            self._log.error("configuration not reloaded; the old one stays", problems=[str(p) for p in error.problems])
            return
        for child in self._children:
            if child.process is not None and child.process.poll() is None and child.parts:
                child.process.send_signal(signal.SIGHUP)
        self._log.info("configuration passed on", hash=sources.hash)

    def _reload_console(self, door: Door) -> None:
        """Its own login, whom it believes about addresses, and the passwords at Kafka and PostgreSQL."""
        found = load("console")
        door.use(found.settings.console, TrustedProxies(found.sources.trusted_proxies))
        login.change(found.settings.kafka, self._settings.kafka)
        if self._store is not None:
            self._store.log_in(found.settings.store)
        self._log.info("configuration reloaded")

    def _metrics(self) -> bytes:
        segments = [metrics.registry().segment, *(child.segment for child in self._children)]
        pids = {c.name: c.process.pid for c in self._children if c.process is not None and c.process.poll() is None}
        return self._exporter.collect_text(segments, pids)

    def _health(self) -> tuple[int, dict[str, Any]]:
        parts = [part for child in self._children for part in child.parts]
        if self._site is not None:
            parts = self._site.look.parts
        if not parts:
            parts = [health.Part("bridge", "unavailable", "starting", durable=True)]
        if not any(child.role == "ingest" for child in self._children):
            # A worker accepts nothing, so it needs no durable place to be ready.
            parts = [health.Part(p.name, p.status, p.reason, durable=True) for p in parts]
        return health.summarise(parts, self._stopping.is_set())


def serve(settings: Settings, role: Role) -> int:
    """Run with a configuration that `preflight.load` gave until told to stop; the exit status.

    Raises ConfigError or UsageError before anything was started.
    """
    logs.configure(settings.log, "supervisor")

    async def run() -> int:
        return await Supervisor(settings, role).run()

    try:
        return asyncio.run(run())
    finally:
        logs.close()
