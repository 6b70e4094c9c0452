"""The receipts file: what was sent and what was answered, written by `kwb send`, read by `kwb audit` (rules.md 16).

JSON lines, in the order in which things happened:

    {"op":"start","version":1,"run":…,"source":…,"url":…,"t":…}
    {"op":"invoke","seq":0,"id":…,"source":…,"body_sha256":…,"t":…}     before the first byte of the request is sent
    {"op":"ok","seq":0,"status":200,"event_id":…,"stored":…,"duplicate":…,"t":…}
    {"op":"ok","seq":0,"status":200,"event_id":…,"parts":3,"t":…}        split: the id is the first part's
    {"op":"ok","seq":0,"status":200,"dropped":true,"t":…}                left out by a filter: must not be there
    {"op":"fail","seq":1,"status":401,"code":…,"t":…}                    refused: must not be there
    {"op":"info","seq":2,"status":503,"code":…,"t":…}                    unknown: may be there or not
    {"op":"info","seq":3,"reason":"timeout","t":…}
    {"op":"end","complete":true,"invoked":4,"ok":1,"fail":1,"info":2,"t":…}

`t` is Unix time in seconds. Guaranteed: the operating system has the `invoke` line before it gets the request's bytes,
so the file knows of every request even if this process is killed; it is not synced to the disk line by line, so a power
cut may take the last lines. Outcomes follow with the next invoke line, at the latest at the end: after a kill, an
invoke line without an outcome is unknown. A file without its `end` line does not claim to be complete. A reader passes
over members that it does not know, and over a last line that a kill has cut.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

import orjson

from kafka_webhook_bridge import ids
from kafka_webhook_bridge.errors import ReceiptsError, UsageError

VERSION = 1
PARTS_MAX = 1000  # of one request
LINE_BYTES_MAX = 64 * 1024
_BUFFER_LINES_MAX = 1000  # outcomes that wait for the next write

Outcome = Literal["ok", "fail", "info"]
_OUTCOMES: dict[str, Outcome] = {"ok": "ok", "fail": "fail", "info": "info"}


def outcome(status: int) -> Outcome:
    """A 5xx is unknown: the event may reach Kafka after the refusal."""
    if 200 <= status < 300:
        return "ok"
    return "fail" if 300 <= status < 500 else "info"


class ReceiptsFile:
    """Appends in order; `flush` hands all lines so far to the operating system in one write."""

    def __init__(self, path: Path, *, run: str, source: str, url: str) -> None:
        """Raises UsageError when the file exists already or cannot be made."""
        try:
            self._file = path.open("xb", buffering=0)
        except FileExistsError:
            raise UsageError(f"{path} exists", hint="Receipts are never overwritten: name another file.") from None
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}") from None
        self._path = path
        self._lines: list[bytes] = []
        self._source = source
        self.counts: dict[str, int] = {"invoke": 0, "ok": 0, "fail": 0, "info": 0}
        self._write("start", version=VERSION, run=run, source=source, url=url)
        self.flush()

    def invoke(self, seq: int, request_id: str, body_sha256: str) -> None:
        self._write("invoke", seq=seq, id=request_id, source=self._source, body_sha256=body_sha256)

    def ended(self, seq: int, status: int, answer: dict[str, Any], reason: str) -> None:
        """`answer` is the receipt or the problem details, {} when there is none."""
        op = outcome(status)
        names = ("event_id", "stored", "duplicate", "dropped", "parts") if op == "ok" else ("code", "event_id")
        facts = {name: answer[name] for name in names if name in answer}
        self._write(op, seq=seq, **({"status": status} if status else {"reason": reason}), **facts)
        if len(self._lines) >= _BUFFER_LINES_MAX:
            self.flush()

    def flush(self) -> None:
        """Raises ReceiptsError (a full disk): then nothing more may be sent."""
        data, self._lines = b"".join(self._lines), []
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            raise ReceiptsError(f"{self._path}: {error.strerror}", hint="What was sent so far is on file.") from None

    def _write(self, op: str, **facts: Any) -> None:
        if op in self.counts:
            self.counts[op] += 1
        self._lines.append(orjson.dumps({"op": op, **facts, "t": time.time()}, option=orjson.OPT_APPEND_NEWLINE))

    def __enter__(self) -> ReceiptsFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Writes the `end` line only when every request came to an end."""
        counts = {"invoked": self.counts["invoke"], **{op: self.counts[op] for op in ("ok", "fail", "info")}}
        if kind is None and counts["invoked"] == counts["ok"] + counts["fail"] + counts["info"]:
            self._write("end", complete=True, **counts)
        try:
            if not isinstance(error, ReceiptsError):
                self.flush()
        finally:
            self._file.close()


class Sent(NamedTuple):
    """One request of a receipts file and what became of it.

    `event_id` is the 16 bytes of the id that the answer named, None where it named none; `duplicate` tells that the
    answer named an earlier delivery's event, `dropped` that a filter left the request out; `at_s` is the Unix time of
    the `invoke` line. `parts` is how many events the request became; their ids follow from `event_id` (ids.part).
    """

    source: str
    body_sha256: bytes
    outcome: Outcome
    event_id: bytes | None
    duplicate: bool
    dropped: bool
    at_s: float
    parts: int = 1


class _Invoked(NamedTuple):
    source: str
    body_sha256: bytes
    at_s: float


class ReceiptsReader:
    """Reads one receipts file from its beginning, in the memory of the requests that have no outcome yet.

    After the iteration `complete` tells whether the file claims to hold every request, and `ended_s` the time of its
    last line. Raises UsageError for a file that is none, or that was altered.
    """

    def __init__(self, path: Path, progress: Callable[[int], None] = lambda _: None) -> None:
        """Reads the first line. `progress` is told the bytes read so far, now and then."""
        self._path = path
        self._progress = progress
        self._number = 0
        try:
            with path.open("rb") as file:
                start = self._line(file.readline(LINE_BYTES_MAX)) or {}
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}") from None
        try:
            started_s = self._time(start)
        except ValueError:
            started_s = 0.0
        if start.get("op") != "start" or not started_s:
            raise self._wrong("is not a receipts file: it does not begin with a start line")
        if start.get("version") != VERSION:
            raise self._wrong(f"is of version {start.get('version')}; this bridge reads version {VERSION}")
        self.started_s = self.ended_s = started_s
        self.complete = False
        self.cut = False  # its last line is not whole
        self._waiting: dict[int, _Invoked] = {}
        self._counts = {"invoked": 0, "ok": 0, "fail": 0, "info": 0}

    def __iter__(self) -> Iterator[Sent]:
        """Every request once, in the order of the outcomes; those without one come last, as unknown."""
        with self._path.open("rb") as file:
            file.readline(LINE_BYTES_MAX)
            while data := file.readline(LINE_BYTES_MAX):
                line = self._line(data)
                if line is None:
                    if file.read(1):
                        raise self._wrong("is not JSON")
                    self.cut = True
                    break
                if self.complete:
                    raise self._wrong("stands behind the end")
                sent = self._take(line)
                if sent is not None:
                    yield sent
                if self._number % _BUFFER_LINES_MAX == 0:
                    self._progress(file.tell())
            self._progress(file.tell())
        for invoked in self._waiting.values():
            yield Sent(invoked.source, invoked.body_sha256, "info", None, False, False, invoked.at_s)
        self._waiting.clear()

    def _line(self, data: bytes) -> dict[str, Any] | None:
        """The object of a line, None for one that is not whole JSON."""
        self._number += 1
        try:
            found = orjson.loads(data) if data.endswith(b"\n") else None
        except orjson.JSONDecodeError:
            return None
        return found if isinstance(found, dict) else None

    def _take(self, line: dict[str, Any]) -> Sent | None:
        op = line.get("op")
        try:
            self.ended_s = max(self.ended_s, self._time(line))
            if op == "invoke":
                seq, source, digest = line["seq"], line["source"], bytes.fromhex(line["body_sha256"])
                if seq in self._waiting or len(digest) != 32 or not isinstance(source, str):
                    raise ValueError
                self._waiting[seq] = _Invoked(source, digest, self._time(line))
                self._counts["invoked"] += 1
                return None
            if op == "end":
                self._end(line)
                return None
            outcome = _OUTCOMES[op]  # type: ignore[index]
            invoked = self._waiting.pop(line["seq"])
            self._counts[outcome] += 1
            text = line.get("event_id")
            found = ids.parse(text) if text is not None else None
            return Sent(
                invoked.source, invoked.body_sha256, outcome, None if found is None else found.bytes,
                line.get("duplicate") is True, line.get("dropped") is True, invoked.at_s,
                self._parts(line),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError):
            raise self._wrong(f"is no {op} line that fits the lines before") from None

    def _end(self, line: dict[str, Any]) -> None:
        found = {name: line.get(name) for name in self._counts}
        if found != self._counts:
            said = ", ".join(f"{count} {name}" for name, count in self._counts.items())
            raise self._wrong(f"does not count what the file holds ({said}); the file was altered")
        self.complete = line.get("complete") is True and not self._waiting

    @staticmethod
    def _parts(line: dict[str, Any]) -> int:
        """Raises ValueError for what is no number of parts."""
        parts = line.get("parts", 1)
        if type(parts) is not int or not 1 <= parts <= PARTS_MAX:
            raise ValueError
        return parts

    @staticmethod
    def _time(line: dict[str, Any]) -> float:
        """Raises ValueError for what is no time before the year 10000."""
        at = line.get("t", 0)
        if isinstance(at, bool) or not isinstance(at, (int, float)) or not 0 <= at <= ids.TIME_MS_MAX / 1000:
            raise ValueError
        return float(at)

    def _wrong(self, what: str) -> UsageError:
        where = f"{self._path}: line {self._number} " if self._number > 1 else f"{self._path} "
        return UsageError(where + what, hint="Receipts files are written by `kwb send --receipts`.")
