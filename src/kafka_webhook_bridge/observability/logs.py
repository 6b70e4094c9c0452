"""Canonical log lines: one per refused or failed request, JSON unless a terminal reads them.

    any thread ──▶ throttle ──▶ escape ──▶ render ──▶ bounded queue ──▶ one writer thread ──▶ standard error

Logging never waits for whoever reads standard error: a full queue drops the line and counts it. Warnings and errors
that repeat are bounded, so a flood of refused requests fills no disk. What a sender controls is escaped: one event, one
line.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import select
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, MutableMapping
from typing import Any, NamedTuple, cast

import orjson
import structlog
from pydantic import SecretStr
from structlog.typing import FilteringBoundLogger

from kafka_webhook_bridge.errors import KwbError, Refusal
from kafka_webhook_bridge.observability import metrics
from kafka_webhook_bridge.settings import LogSettings

QUEUE_BYTES_MAX = 4 * 1024**2  # rendered lines that wait for the writer
CLOSE_WAIT_S = 1.0  # how long the end of the process waits for the last lines
VALUE_CHARACTERS_MAX = 1_000
TRACEBACK_CHARACTERS_MAX = 16_000
PATH_BYTES_MAX = 256
REPEATS_BURST = 20  # lines alike at once
REPEATS_PER_S = 2.0  # and then so many a second
REPEATS_KINDS_MAX = 200  # different lines that are told apart; the others share one allowance

EventDict = MutableMapping[str, Any]

# C0, DEL, C1, line separators, bidirectional and zero-width marks, lone surrogates.
_HOSTILE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)
_SECRET_NAMES = re.compile(r"passw|secret|token|authorization|cookie|credential|api_?key", re.IGNORECASE)


def escape(text: str, characters_max: int = VALUE_CHARACTERS_MAX) -> str:
    """The text on one line and harmless to terminals: `\\x1b`, `\\u202e`; cut with an ellipsis."""
    if len(text) > characters_max:
        text = text[:characters_max] + "…"
    return _HOSTILE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code in (9, 10, 13):
        return {9: "\\t", 10: "\\n", 13: "\\r"}[code]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def path_text(path: bytes) -> str:
    """A request path for a log line: bounded, bytes outside ASCII as `\\xNN`."""
    text = path[:PATH_BYTES_MAX].decode("ascii", "backslashreplace")
    return text + "…" if len(path) > PATH_BYTES_MAX else text


class Kind(NamedTuple):
    """What makes two lines alike."""

    level: str
    room: str
    event: str
    code: str = ""
    source: str = ""


_OTHER = Kind("warning", "logs", "other lines")


class Throttle:
    """An allowance for each kind of line. `clock` gives seconds and may be a test's."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._kinds: dict[Kind, list[float]] = {}  # kind → allowance, time of it, lines left out

    def allow(self, kind: Kind) -> bool:
        """Whether one more line of this kind may be written now."""
        now = self._clock()
        with self._lock:
            state = self._kinds.get(kind)
            if state is None:
                if len(self._kinds) >= REPEATS_KINDS_MAX:
                    self._forget_rested(now)
                if len(self._kinds) >= REPEATS_KINDS_MAX:
                    kind = _OTHER
                state = self._kinds.setdefault(kind, [REPEATS_BURST, now, 0])
            state[0] = min(REPEATS_BURST, state[0] + (now - state[1]) * REPEATS_PER_S)
            state[1] = now
            if state[0] >= 1:
                state[0] -= 1
                return True
            state[2] += 1
            return False

    def summaries(self) -> list[tuple[Kind, int]]:
        """Kinds with lines left out since the last call, and how many."""
        with self._lock:
            found = [(kind, int(state[2])) for kind, state in self._kinds.items() if state[2]]
            for kind, _ in found:
                self._kinds[kind][2] = 0
            return found

    def _forget_rested(self, now: float) -> None:
        rested = REPEATS_BURST / REPEATS_PER_S
        self._kinds = {kind: s for kind, s in self._kinds.items() if s[2] or now - s[1] < rested}


class Sink:
    """Lines on their way to a file descriptor. `put` never blocks; one daemon thread writes."""

    def __init__(self, fd: int, idle: Callable[[], None] = lambda: None) -> None:
        self._fd = fd
        self._idle = idle
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False

    def put(self, line: bytes) -> bool:
        """False when the queue is full and the line is lost."""
        with self._wake:
            if self._bytes + len(line) > QUEUE_BYTES_MAX:
                return False
            self._lines.append(line)
            self._bytes += len(line)
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(target=self._write, name="log-writer", daemon=True)
                self._thread.start()
            self._wake.notify()
        return True

    def close(self, timeout_s: float = CLOSE_WAIT_S) -> None:
        """Write what waits, for at most so long."""
        self._idle()
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _write(self) -> None:
        while True:
            with self._wake:
                if not self._lines and not self._closing:
                    self._wake.wait(1.0)
                batch = list(self._lines)
                self._lines.clear()
                closing = self._closing
            if batch:
                text = b"".join(batch)
                _write_all(self._fd, text)
                with self._wake:  # the bytes count until they are gone: a stalled reader fills the bound
                    self._bytes -= len(text)
            elif closing:
                return
            else:
                self._idle()


def _write_all(fd: int, text: bytes) -> None:
    view = memoryview(text)
    while view:
        try:
            view = view[os.write(fd, view[:65_536]) :]
        except BlockingIOError:  # another owner of the terminal made it non-blocking
            select.select([], [fd], [], 1.0)
        except OSError:  # nobody reads any more, and there is no second place to say so
            return


class _Output:
    """The end of structlog's chain, and of the standard library's logging."""

    def __init__(self, settings: LogSettings, role: str, fd: int) -> None:
        self.role = role
        self.json = settings.format == "json" or (settings.format == "auto" and not os.isatty(fd))
        self.throttle = Throttle()
        self.sink = Sink(fd, self._summarise)
        self._dropped = {
            reason: metrics.registry().counter("kwb_log_lines_dropped_total", reason=cast(Any, reason))
            for reason in ("rate", "stalled")
        }

    def bound(self, _logger: object, level: str, event: EventDict) -> EventDict:
        """Processor: leaves out a warning or error of which there were many just now."""
        if level not in ("debug", "info"):
            room, text, code, source = (str(event.get(key, ""))[:100] for key in ("room", "event", "code", "source"))
            kind = Kind(level, room, text, code, source)
            if not self.throttle.allow(kind):
                self._dropped["rate"].add()
                raise structlog.DropEvent
        return event

    def write(self, level: str, event: EventDict) -> None:
        """Render and queue one line."""
        line = self._render_json(level, event) if self.json else self._render_console(level, event)
        if not self.sink.put(line):
            self._dropped["stalled"].add()

    def _summarise(self) -> None:
        for kind, count in self.throttle.summaries():
            fields: EventDict = {"room": kind.room, "event": "lines left out", "like": kind.event, "count": count}
            fields.update((key, value) for key, value in (("code", kind.code), ("source", kind.source)) if value)
            self.write(kind.level, fields)

    def _render_json(self, level: str, event: EventDict) -> bytes:
        failure = _traceback(event)
        line: dict[str, Any] = {"time": _now(), "level": level, "process": self.role}
        line["event"] = escape(str(event.pop("event", "")))
        line.update((key, _safe(key, value)) for key, value in event.items())
        if failure:
            line["traceback"] = failure
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE)

    def _render_console(self, level: str, event: EventDict) -> bytes:
        failure = _traceback(event)
        head = f"{_now()[11:23]} {level:<7} {escape(str(event.pop('event', '')))}"
        rest = " ".join(f"{key}={_plain(_safe(key, value))}" for key, value in event.items())
        text = f"{head}  {rest}\n" if rest else f"{head}\n"
        text += "".join(f"    | {line}\n" for line in failure)
        return text.encode("utf-8", "backslashreplace")


def _now() -> str:
    now = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"


def _safe(key: str, value: Any, depth: int = 3) -> Any:
    if isinstance(value, SecretStr) or (_SECRET_NAMES.search(key) and not isinstance(value, bool | int | float)):
        return "[redacted]"
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**63 else str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return escape(bytes(value[:VALUE_CHARACTERS_MAX]).decode("utf-8", "backslashreplace"))
    if isinstance(value, KwbError):
        return escape(value.message)
    if depth and isinstance(value, dict):
        return {escape(str(k), 100): _safe(str(k), v, depth - 1) for k, v in list(value.items())[:50]}
    if depth and isinstance(value, list | tuple | set | frozenset):
        return [_safe(key, item, depth - 1) for item in list(value)[:50]]
    return escape(str(value))


def _plain(value: Any) -> str:
    text = value if isinstance(value, str) else orjson.dumps(value, default=str).decode()
    return text if text and " " not in text and '"' not in text else orjson.dumps(text).decode()


def _traceback(event: EventDict) -> list[str]:
    """The lines of the exception that the call gave by `exc_info`, escaped; values of variables are never shown."""
    failure = event.pop("exc_info", None)
    if failure is True:
        failure = sys.exc_info()[1]
    elif isinstance(failure, tuple):
        failure = failure[1]
    if not isinstance(failure, BaseException):
        return []
    text = "".join(traceback.format_exception(failure))[-TRACEBACK_CHARACTERS_MAX:]
    return [escape(line) for line in text.split("\n") if line.strip()]


class _Logger:
    """structlog's wrapped logger: one method per level, called with the finished event."""

    def __init__(self, output: _Output) -> None:
        self._output = output

    def _at(self, level: str) -> Callable[..., None]:
        return lambda **event: self._output.write(level, event)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return self._at({"warn": "warning", "exception": "error", "fatal": "critical"}.get(name, name))


class _StandardLogging(logging.Handler):
    """What libraries log (asyncio's unhandled exceptions, uvicorn) goes the same way."""

    def __init__(self, output: _Output) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        try:
            event: EventDict = {"event": record.getMessage(), "room": record.name}
            if record.exc_info:
                event["exc_info"] = record.exc_info
            level = record.levelname.lower()
            self._output.write(level, self._output.bound(None, level, event))
        except structlog.DropEvent:
            pass
        except Exception:  # as the standard library's handlers do: a broken message must not break its sender
            self.handleError(record)


_output: _Output | None = None


def configure(settings: LogSettings, role: str, *, fd: int = 2) -> None:
    """Send every line of this process, its libraries' too, to `fd`, marked with `role` (`ingest-0`, `worker`)."""
    output = _use(settings, role, fd)
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, _StandardLogging)]:
        root.removeHandler(handler)
    root.addHandler(_StandardLogging(output))
    root.setLevel(max(getattr(logging, settings.level.upper()), logging.INFO))


def _use(settings: LogSettings, role: str, fd: int) -> _Output:
    global _output
    if _output is not None:
        _output.sink.close()
    output = _output = _Output(settings, role, fd)
    structlog.configure(
        processors=[output.bound],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, settings.level.upper())),
        logger_factory=lambda *_: _Logger(output),
        cache_logger_on_first_use=False,  # handles made before `configure` follow it
    )
    return output


def close() -> None:
    """Write what waits, for at most CLOSE_WAIT_S. Runs by itself at the end of the process."""
    if _output is not None:
        _output.sink.close()


def get_logger(room: str) -> FilteringBoundLogger:
    """The logger of a room. Give values as keywords: `log.warning("producer rebuilt", lane="fast")`."""
    return cast(FilteringBoundLogger, structlog.get_logger(room=room))


def request_refused(
    log: FilteringBoundLogger,
    refusal: Refusal,
    *,
    source: str,
    method: bytes,
    path: bytes,
    peer: str,
    event_id: str | None = None,
    ms: float,
    reason: str = "",
) -> None:
    """The one line of a request that was not accepted. The query is left out: it may hold credentials.

    `ms` counts from the last byte received; `reason` is the parser's or Kafka's own word.
    """
    fields: dict[str, Any] = {
        "code": refusal.code,
        "status": refusal.status,
        "source": source,
        "method": method[:32],
        "path": path_text(path),
        "peer": peer,
        "ms": round(ms, 2),
    }
    if event_id:
        fields["event_id"] = event_id
    if reason:
        fields["reason"] = reason
    log.warning("request refused" if refusal.status >= 500 else "request rejected", **fields)


_use(LogSettings(level="warning"), "kwb", 2)  # until `configure`: quiet, and no thread before the first line
atexit.register(close)
