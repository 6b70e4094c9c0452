"""The receipts file of `kwb send`: what was sent and what was answered, for `kwb audit` (rules.md 16).

JSON lines, in the order in which things happened:

    {"op":"start","version":1,"run":…,"source":…,"url":…,"t":…}
    {"op":"invoke","seq":0,"id":…,"source":…,"body_sha256":…,"t":…}     before the first byte of the request is sent
    {"op":"ok","seq":0,"status":200,"event_id":…,"stored":…,"duplicate":…,"t":…}
    {"op":"fail","seq":1,"status":401,"code":…,"t":…}                    refused: must not be there
    {"op":"info","seq":2,"status":503,"code":…,"t":…}                    unknown: may be there or not
    {"op":"info","seq":3,"reason":"timeout","t":…}
    {"op":"end","complete":true,"invoked":4,"ok":1,"fail":1,"info":2,"t":…}

`t` is Unix time in seconds. Guaranteed: the operating system has the `invoke` line before it gets the request's bytes,
so the file knows of every request even if this process is killed; it is not synced to the disk line by line, so a power
cut may take the last lines. Outcomes follow with the next invoke line, at the latest at the end: after a kill, an
invoke line without an outcome is unknown. A file without its `end` line does not claim to be complete.
"""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import orjson

from kafka_webhook_bridge.errors import ReceiptsError, UsageError

VERSION = 1
_BUFFER_LINES_MAX = 1000  # outcomes that wait for the next write

Outcome = Literal["ok", "fail", "info"]


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
        names = ("event_id", "stored", "duplicate") if op == "ok" else ("code", "event_id")
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
