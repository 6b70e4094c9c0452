"""One scenario's world: a ground, an empty database, a bridge or two, a load, and eyes on all of them."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from bridge import Serve, request
from databases import empty_database
from faults import journal, observer
from faults.checker import Copy, Observed, Outside, SourceFacts
from faults.ground import Ground
from faults.load import RESEND_WINDOW, RESENDS, SHUT, LoadPlan
from faults.machine import Clock, Memory
from faults.outside import Reader

DEADLINE_S = 120.0  # for the hopeless case alone
_SAMPLE_S = 0.25
_PLATEAU_S = 2.0  # longer than the archive waits for a batch, or a relay for its next look
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

# Every kind of source, and how a topic of the run is named after it.
SOURCES = {
    "plain": "auth: none",
    "keyed": 'auth: none, key: "{header:X-Key}"',
    "marked": 'auth: none, delivery_id: "{header:X-Delivery-Id}"',
    "once": 'auth: none, delivery_id: "{header:X-Delivery-Id}", dedupe: suppress',
    "store": "auth: none, ack: store",
    "both": "auth: none, ack: both",
    "strict": "auth: none, ordering: strict",
    SHUT: "username: partner, password: right",
}
NOISE = "noise"  # the source of senders that are no part of the load; nobody looks at its topic
_FACTS = {
    "keyed": {"keyed": True},
    "marked": {"delivery_ids": True},
    "once": {"delivery_ids": True, "suppress": True},
    "strict": {"strict": True},
}


def until(condition: Callable[[], Any], what: str, timeout_s: float = DEADLINE_S) -> Any:
    """The first true value of a condition; an AssertionError when there is none in time."""
    end = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.02)
    return value


@dataclass(slots=True)
class Sample:
    """A look at one moment (Unix time). None: nobody was there to be asked."""

    at: float
    outbox: int | None = None
    breakers: float | None = None
    resident_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Window:
    """A fault and how long it lasted, in Unix time."""

    label: str
    start: float
    end: float


@dataclass(slots=True)
class Options:
    """What a scenario wants of its world."""

    sources: dict[str, int]
    rate: float
    connections: int
    environ: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    resends: float = RESENDS
    resend_window: int = RESEND_WINDOW
    role: str = "all"
    duration_s_max: float = 900.0


class World:
    """Made for one scenario and thrown away. The scenario's own code calls its methods in one thread."""

    def __init__(self, ground: Ground, folder: Path, name: str, seed: str, options: Options, times: int = 1) -> None:
        self.ground, self.folder, self.name, self.seed, self.options, self.times = (
            ground, folder, name, seed, options, times,
        )  # fmt: skip
        self.dice = random.Random(f"{seed}/{name}")
        self.run = f"{name}-{os.urandom(2).hex()}"
        self.bridges: list[Serve] = []
        self.windows: list[Window] = []
        self.starts: list[tuple[float, float]] = []  # Unix times: a bridge was started, and answered
        self.samples: list[Sample] = []
        self.notes: list[str] = []  # what a scenario saw besides
        self.problems: list[str] = []  # what it saw that must not be
        self.replaced = False  # a supervisor was, or others sent too: the counters do not tell of the load alone
        self.database = ""
        self.load: subprocess.Popen[str] | None = None
        self.journal = folder / "journal.jsonl"
        self._read_to = 0
        self._acks: list[float] = []
        self.closing = contextlib.ExitStack()  # what a scenario leaves behind, ended before the servers are healed
        self.clock: Clock | None = None
        self.memory: Memory | None = None
        self.outside: Reader | None = None  # reads through nginx all the while, where a scenario has one
        self._sampling = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="sampler", daemon=True)

    # ── its life ──────────────────────────────────────────────────────────────────────────────────────────────────

    def __enter__(self) -> World:
        self.database = self.closing.enter_context(empty_database(self.ground.postgres))
        try:
            self.bridges = [self.start_bridge()]
            self.until_healthy()
            self._sampler.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._sampling.set()
        if self.load is not None and self.load.poll() is None:
            self.load.kill()
            self.load.wait()
        for bridge in self.bridges:
            bridge.process.kill()
            bridge.process.wait()
        if self._sampler.is_alive():
            self._sampler.join()
        self.ground.heal()
        self.closing.close()
        with contextlib.suppress(Exception):
            self.ground.delete_topics([*self.topics(), self.noise])

    def start_bridge(self, **environ: str) -> Serve:
        """Another `kwb serve` of the same configuration; on the first one's port when the scenario shares it."""
        ports = {"KWB_INGEST_PORT": str(self.bridges[0].port)} if self.bridges else {}
        bridge = Serve(
            {
                **self.ground.environ(), "DATABASE_URL": self.ground.bridge_url(self.database),
                "KWB_CONFIG": self.config(), **ports, **self.options.environ, **environ,
            },
            self.folder, "--role", self.options.role, *self.options.arguments,
        )  # fmt: skip
        bridge.expect_faults = True
        began = time.time()
        until(lambda: self._answers(bridge), "a bridge answers")
        if "--share-port" not in self.options.arguments:  # else another one answers meanwhile
            self.starts.append((began, time.time()))
        return bridge.wait_ready()

    @staticmethod
    def _answers(bridge: Serve) -> bool:
        assert bridge.process.poll() is None, bridge.log.read_text()
        with contextlib.suppress(OSError, AssertionError):
            return bridge.ask(request("/health/live", method="GET", login="")).status == 200
        return False

    def config(self) -> str:
        lines = [f"  {name}: {{{SOURCES[name]}, topic: {self.run}-{name}}}" for name in self.options.sources]
        return "\n".join(["sources:", *lines, f"  {NOISE}: {{auth: none, topic: {self.noise}}}", ""])

    def facts(self) -> dict[str, SourceFacts]:
        return {name: SourceFacts(f"{self.run}-{name}", **_FACTS.get(name, {})) for name in self.options.sources}

    def topics(self) -> list[str]:
        return [facts.topic for facts in self.facts().values()]

    @property
    def noise(self) -> str:
        """The topic of those that are no part of the load."""
        return f"{self.run}-{NOISE}"

    # ── the load ──────────────────────────────────────────────────────────────────────────────────────────────────

    def start_load(self) -> None:
        """And wait until it runs: topics are made, acknowledgements come, and nothing waits in the outbox."""
        plan = self.folder / "load.json"
        LoadPlan(
            url=f"http://127.0.0.1:{self.bridges[0].port}", journal=str(self.journal), seed=self.seed, run=self.run,
            rate=self.options.rate, duration_s=self.options.duration_s_max, connections=self.options.connections,
            sources=self.options.sources, resends=self.options.resends, resend_window=self.options.resend_window,
        ).write(plan)  # fmt: skip
        tests = str(Path(__file__).parents[1])
        with (self.folder / "load.log").open("w") as log:
            self.load = subprocess.Popen(
                [sys.executable, "-m", "faults.load", str(plan)], stdout=subprocess.PIPE, stderr=log, text=True,
                env={"PATH": os.defpath, "PYTHONPATH": tests}, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        self.acks(self.options.rate)
        began = time.time()
        until(lambda: self.recovered(began, ()), "the load runs")
        self.acks(self.options.rate)

    def acks(self, count: float) -> None:
        """Wait for so many acknowledgements more."""
        wanted = len(self.acked()) + count
        until(lambda: len(self.acked()) >= wanted, f"{count} acknowledgements more")

    def acked(self) -> list[float]:
        """Unix times of all acknowledgements so far."""
        assert self.load is not None
        assert self.load.poll() is None, (self.folder / "load.log").read_text()
        if self.journal.exists():
            with self.journal.open("rb") as lines:
                lines.seek(self._read_to)
                for line in lines:
                    if not line.endswith(b"\n"):
                        break
                    self._read_to += len(line)
                    if line.startswith(b'{"op":"ok"'):
                        self._acks.append(json.loads(line)["t"])
        return self._acks

    def end_load(self) -> dict[str, Any]:
        """Nothing more is sent; every answer under way is awaited."""
        assert self.load is not None
        self.load.send_signal(signal.SIGTERM)
        said, _ = self.load.communicate(timeout=DEADLINE_S)
        assert self.load.returncode == 0, (self.folder / "load.log").read_text()
        found: dict[str, Any] = json.loads(said)
        return found

    # ── faults ────────────────────────────────────────────────────────────────────────────────────────────────────

    @contextlib.contextmanager
    def fault(self, label: str) -> Iterator[None]:
        """What is broken inside is broken from here to the end."""
        start = time.time()
        try:
            yield
        finally:
            self.windows.append(Window(label, start, time.time()))

    def last(self, seconds: float) -> None:
        """Let a fault last."""
        time.sleep(seconds)

    def moment(self, low_s: float = 0.0, high_s: float = 1.0) -> None:
        """A random one of the seed."""
        time.sleep(self.dice.uniform(low_s, high_s))

    @property
    def bridge(self) -> Serve:
        return self.bridges[0]

    # ── health ────────────────────────────────────────────────────────────────────────────────────────────────────

    def status(self, bridge: Serve) -> str:
        """The word of /health/ready; empty where nobody answers."""
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            return str(bridge.health(bridge.management_port)[1]["status"])
        return ""

    def healthy(self) -> bool:
        return all(self.status(bridge) == "ready" for bridge in self.bridges)

    def until_healthy(self, timeout_s: float = DEADLINE_S) -> None:
        until(self.healthy, "every bridge is ready", timeout_s)

    END_SESSIONS = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_setting('kwb.db') "
        "AND pid <> pg_backend_pid()"
    )

    def administer(self, *statements: str) -> None:
        """As the super user, in the database `postgres`. `kwb.db` is the name of the bridge's database."""

        async def run() -> None:
            connection = await asyncpg.connect(self.ground.postgres.admin_url, timeout=10)
            try:
                await connection.execute(f"SET kwb.db = '{self.database.rpartition('/')[2]}'")
                for statement in statements:
                    await connection.execute(statement)
            finally:
                await connection.close()

        asyncio.run(run())

    @contextlib.contextmanager
    def snapshot_held(self) -> Iterator[None]:
        """A transaction that sees the outbox as it is now, and stays open."""
        loop = asyncio.new_event_loop()
        connection = loop.run_until_complete(asyncpg.connect(self.database, timeout=10))
        loop.run_until_complete(connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ"))
        loop.run_until_complete(connection.fetchval("SELECT count(*) FROM outbox"))
        try:
            yield
        finally:
            loop.run_until_complete(connection.close())
            loop.close()

    def query(self, sql: str, *arguments: Any) -> Any:
        """One value, past the proxy."""
        return self.query_row(sql, *arguments)[0]

    def query_row(self, sql: str, *arguments: Any) -> tuple[Any, ...]:
        async def fetch() -> Any:
            connection = await asyncpg.connect(self.database, timeout=10)
            try:
                return await connection.fetchrow(sql, *arguments)
            finally:
                await connection.close()

        return tuple(asyncio.run(fetch()))

    def totals(self) -> dict[str, float]:
        """The counters of all bridges as one."""
        found: dict[str, float] = {}
        for bridge in self.bridges:
            for name, value in observer.totals(bridge.scrape()).items():
                found[name] = found.get(name, 0.0) + value
        return found

    def recovered(self, healed_at: float, ignore: Sequence[str]) -> bool:
        """Ready, breakers closed, and nothing of the time before in the outbox (but states that may stay)."""
        if not self.healthy() or self.totals().get("kwb_breaker_open", 0) > 0:
            return False
        sql = "SELECT count(*) FROM outbox WHERE created_at < to_timestamp($1) AND state <> ALL($2::text[])"
        return self.query(sql, healed_at, list(ignore)) == 0

    def _sample(self) -> None:
        """The outbox by PostgreSQL's own count, everything else by the bridge's words; what is away is left out."""
        loop = asyncio.new_event_loop()
        connection: asyncpg.Connection | None = None
        while not self._sampling.wait(_SAMPLE_S):
            sample = Sample(time.time())
            try:
                connection = connection or loop.run_until_complete(asyncpg.connect(self.database, timeout=1))
                sample.outbox = loop.run_until_complete(connection.fetchval("SELECT count(*) FROM outbox", timeout=1))
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                if connection is not None:
                    connection.terminate()
                connection = None
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError, IndexError):
                totals = self.totals()
                sample.breakers = totals.get("kwb_breaker_open", 0.0)
                sample.resident_bytes = sum(map(resident_bytes, self.bridge.children("ingest")))
            self.samples.append(sample)
        if connection is not None:
            connection.terminate()
        loop.run_until_complete(asyncio.sleep(0))  # so that transports see their end
        loop.close()

    # ── the end ───────────────────────────────────────────────────────────────────────────────────────────────────

    def observe(self, recovery_s: float | None, *, archive_s: float = DEADLINE_S) -> tuple[list[journal.Op], Observed]:
        """Everything, after the load has ended. Waits until the archive has caught up, or will not."""
        ops = journal.read(self.journal)
        waits = "SELECT count(*) FILTER (WHERE state <> 'stored'), count(*) FROM events"
        before, since = (-1, -1), time.monotonic()

        def settled() -> bool:
            nonlocal before, since
            now = self.query_row(waits)
            if now != before or self.totals().get("kwb_archive_lag_records", 0.0) > 0:
                before, since = now, time.monotonic()
            return time.monotonic() - since > _PLATEAU_S

        with contextlib.suppress(AssertionError):  # the verdicts say what is missing
            until(settled, "the archive has nothing more to do", archive_s)
        rows, outbox = observer.rows(self.database, except_source=NOISE)
        copies = observer.records(self.ground.client, self.topics())
        return ops, Observed(
            copies=copies,
            outside=self._read_outside(copies),
            rows=rows,
            outbox=outbox,
            totals=self.totals(),
            recovery_s=recovery_s,
            counters_whole=not self.replaced,
            windows=[(window.start, window.end) for window in self.windows],
            starts=self.starts,
            deaths=self.totals().get("kwb_worker_restarts_total", 0),
            problems=self.problems,
            resident_bytes=[(sample.at, sample.resident_bytes) for sample in self.samples],
        )

    def _read_outside(self, copies: Sequence[Copy]) -> Outside | None:
        """What the consumer from outside has read, when it has had its time to read everything."""
        reader = self.outside
        if reader is None:
            return None
        ends: dict[tuple[str, int], int] = {}
        for copy in copies:
            place = copy.topic, copy.partition
            ends[place] = max(copy.offset + 1, ends.get(place, 0))
        with contextlib.suppress(AssertionError):  # the verdict says what is missing
            until(lambda: reader.has(ends), "the consumer has read everything")
        found = reader.finish()
        again = len(found.reads) - len({(read.topic, read.partition, read.offset) for read in found.reads})
        self.notes.append(f"the consumer has read {len(found.reads)} records, {again} of them once more")
        return found


def resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0
