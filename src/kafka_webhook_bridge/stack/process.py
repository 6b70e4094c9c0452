"""One server process: its log, its pid file, and a guard that ends it when we die without a word.

`kill -9` of the parent would leave servers behind. A death signal (PR_SET_PDEATHSIG) is no answer: it fires when the
*thread* that started the child ends, and changing the user clears it. So each server has a guard, a shell that blocks
on a pipe whose only writer is this process: end of file means that we are gone. Processes are told apart by pid, start
time and boot, because pids are used again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from kafka_webhook_bridge.errors import StackError

LOG_BYTES_MAX = 16 * 1024**2
LEFTOVER_WAIT_S = 15.0
_GUARD_WAIT_TENTHS = 100
_GUARD = f"""
read -r word && exit 0
ours() {{ [ "$(cut -d' ' -f22 "/proc/$1/stat" 2>/dev/null)" = "$2" ]; }}
ours "$1" "$2" || exit 0
kill -s "$3" "$1"
i=0
while ours "$1" "$2" && [ $i -lt {_GUARD_WAIT_TENTHS} ]; do sleep 0.1; i=$((i+1)); done
ours "$1" "$2" && kill -s KILL "$1"
"""

# Servers see nothing of the environment that we were started in: KAFKA_OPTS or PGDATA of another project do no harm.
CLEAN_ENVIRONMENT = {"PATH": os.defpath, "LANG": "C.UTF-8", "TZ": "UTC"}


class Process:
    """A server that can be started again and again. One thread at a time, but `kill` may come at any time."""

    def __init__(self, name: str, *, pid_file: Path, log: Path, stop_signal: signal.Signals, stop_timeout_s: float):
        self.name = name
        self.log = log
        self._pid_file = pid_file
        self._stop_signal = stop_signal
        self._stop_timeout_s = stop_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._ending = threading.Lock()  # `kill` may come while `stop` waits
        self._ended_by_us = False
        self._oom_kills = 0
        self._log_start = 0

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    @property
    def returncode(self) -> int | None:
        """None while it runs; minus the signal's number where a signal ended it."""
        return self._process.poll() if self._process else None

    def start(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] = CLEAN_ENVIRONMENT,
        cwd: Path = Path("/"),
        user: tuple[int, int] | None = None,
    ) -> None:
        """Run `argv` in its own session, output appended to the log. `user` is (uid, gid) to change to."""
        assert not self.alive, f"{self.name} runs already"
        self._forget()
        self.trim_log()
        uid, gid = user or (None, None)
        self._oom_kills = _oom_kills()
        self._ended_by_us = False
        with open_log(self.log) as log:
            self._log_start = log.tell()
            try:
                self._process = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=dict(env), cwd=cwd,
                    start_new_session=True, user=uid, group=gid, extra_groups=[] if user else None,
                )  # fmt: skip
            except OSError as error:
                raise StackError(f"{self.name} cannot be run: {error}.", hint="Install the packages again.") from error
        pid = self._process.pid
        started = start_time(pid)
        self._pid_file.write_text(f"{pid} {started} {_boot_id()}\n")
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "kwb-guard", str(pid), str(started), self._stop_signal.name[3:]],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=CLEAN_ENVIRONMENT,
            cwd="/", start_new_session=True,
        )  # fmt: skip

    def stop(self, timeout_s: float | None = None) -> None:
        """Ask it to end, wait, and end it by force after `timeout_s`. Does nothing when it is not running."""
        if self._process is not None and self.alive:
            self._ended_by_us = True
            self._process.send_signal(self._stop_signal)
            try:
                self._process.wait(self._stop_timeout_s if timeout_s is None else timeout_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._forget()

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self._process is not None and self.alive:
            self._ended_by_us = True
            self._process.kill()
        self._forget()

    def wait(self, timeout_s: float) -> bool:
        """Wait for its own end; false when it still runs after `timeout_s`."""
        if self._process is None:
            return True
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        self._forget()
        return True

    def _forget(self) -> None:
        if self._process is None:
            return
        self._process.wait()
        with self._ending:
            if self._guard is not None:
                with contextlib.suppress(BrokenPipeError):
                    self._guard.communicate(b"done\n")
                self._guard.wait()
                self._guard = None
            self._pid_file.unlink(missing_ok=True)

    def trim_log(self) -> None:
        """Keep the log bounded: above LOG_BYTES_MAX it becomes `<log>.1`. Safe while the server writes (O_APPEND)."""
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES_MAX:
            shutil.copyfile(self.log, self.log.with_name(self.log.name + ".1"))
            os.truncate(self.log, 0)
            self._log_start = 0

    def log_since_start(self, bytes_max: int = 64 * 1024) -> str:
        """The last of what it wrote since its latest start."""
        try:
            with self.log.open("rb") as log:
                end = log.seek(0, os.SEEK_END)
                log.seek(max(self._log_start, end - bytes_max))
                return log.read().decode(errors="replace")
        except OSError:
            return ""

    def why_it_ended(self) -> str:
        """A clause for people, to follow the server's name: `was ended by the kernel …`, `ended with code 1`."""
        code = self.returncode
        if code is None:
            return "has not been started" if self._process is None else "is running"
        if code == -signal.SIGKILL and not self._ended_by_us:
            if _oom_kills() > self._oom_kills:
                return "was killed by the kernel because memory ran out"
            return "was killed (signal 9), by somebody or by a memory limit"
        if code < 0:
            return f"was ended by signal {-code} ({signal.Signals(-code).name})"
        return f"ended with code {code}"


def open_log(path: Path) -> BinaryIO:
    """The log to append to, readable by its owner alone: servers quote statements and addresses."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")


def end_leftover(pid_file: Path, stop_signal: signal.Signals, wait_s: float = LEFTOVER_WAIT_S) -> int | None:
    """End a process that an earlier, killed run left behind; its pid if there was one.

    Only a process whose pid, start time and boot are those of the pid file is touched. Its guard may be ending it too.
    """
    try:
        pid_text, started_text, boot = pid_file.read_text().split()
        pid, started = int(pid_text), int(started_text)
    except (OSError, ValueError):
        return None

    def there() -> bool:
        return start_time(pid) == started and boot == _boot_id()

    if not there():
        pid_file.unlink(missing_ok=True)
        return None
    for sign, patience_s in ((stop_signal, wait_s), (signal.SIGKILL, wait_s)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sign)
        deadline = time.monotonic() + patience_s
        while there() and time.monotonic() < deadline:
            time.sleep(0.05)
    if there():
        raise StackError(f"Process {pid} of an earlier run does not end.", hint=f"End it: kill -9 {pid}")
    pid_file.unlink(missing_ok=True)
    return pid


def start_time(pid: int) -> int | None:
    """Clock ticks from boot to the start of `pid`; None where it is gone or a zombie (proc_pid_stat(5), field 22)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "unknown"


def _oom_kills() -> int:
    """How often this kernel ended a process for want of memory (/proc/vmstat)."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
