"""The journal of a run: JSON lines as `kwb send --receipts` writes them, with what the checker needs besides.

    {"op":"invoke","seq":7,"id":"r1-000005","source":"plain","body_sha256":…,"t":…}   before the request's first byte
    {"op":"ok"|"fail"|"info","seq":7,"status":…,"t":…,"late_ms":…,…}                 latency from the moment it was due

`t` is the clock of the load's process, monotonic seconds; `start` gives the Unix time of its zero. Written by the
load's process, which no fault touches.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

Outcome = Literal["ok", "fail", "info"]


@dataclass(slots=True)
class Op:
    """One request. `outcome` is None where the journal ends before it; then nothing is known, as for `info`."""

    seq: int
    id: str
    source: str
    key: str
    body_sha256: str
    sent: float  # Unix time of the first byte
    outcome: Outcome | None = None
    status: int = 0
    reason: str = ""  # why there is no status
    code: str = ""  # of a refusal
    event_id: str = ""
    stored: str = ""
    duplicate: bool = False
    receipt_sha256: str = ""
    done: float = 0.0  # Unix time of the answer
    due_s: float = 0.0  # from the moment it was due to the answer: what a sender sees
    sent_s: float = 0.0  # from its first byte to the answer: what the bridge is to be judged by


def outcome(status: int) -> Outcome:
    """2xx is a promise, 4xx a refusal for good; everything else is unknown."""
    if 200 <= status < 300:
        return "ok"
    return "fail" if 400 <= status < 500 else "info"


class Writer:
    """Appends lines; `flush` hands them to the operating system before the requests are sent."""

    def __init__(self, path: Path, **facts: Any) -> None:
        self._file = path.open("xb", buffering=0)
        self._lines: list[bytes] = []
        self.counts = {"invoke": 0, "ok": 0, "fail": 0, "info": 0}
        self._zero = time.time() - time.perf_counter()
        self.line("start", version=1, **facts)
        self.flush()

    def line(self, op: str, **facts: Any) -> None:
        if op in self.counts:
            self.counts[op] += 1
        now = self._zero + time.perf_counter()  # Unix time that no step of the clock moves
        self._lines.append(orjson.dumps({"op": op, **facts, "t": now}, option=orjson.OPT_APPEND_NEWLINE))

    def flush(self) -> None:
        data, self._lines = b"".join(self._lines), []
        while data:
            data = data[self._file.write(data) :]

    def close(self) -> None:
        ended = sum(self.counts[op] for op in ("ok", "fail", "info"))
        self.line("end", complete=ended == self.counts["invoke"], invoked=self.counts["invoke"])
        self.flush()
        self._file.close()


def read(path: Path) -> list[Op]:
    """Every request of a journal, in the order of sending."""
    with path.open("rb") as lines:
        return list(parse(lines))


def parse(lines: Iterable[bytes]) -> Iterator[Op]:
    """Requests from lines. A last line that is cut off is passed over."""
    ops: dict[int, Op] = {}
    for line in lines:
        if not line.endswith(b"\n"):
            break
        fact = orjson.loads(line)
        match fact["op"]:
            case "invoke":
                ops[fact["seq"]] = Op(
                    fact["seq"], fact["id"], fact["source"], fact.get("key", ""), fact["body_sha256"], fact["t"]
                )
            case "ok" | "fail" | "info":
                op = ops[fact["seq"]]
                op.outcome = fact["op"]
                op.status = fact.get("status", 0)
                op.reason = fact.get("reason", "")
                op.code = fact.get("code", "")
                op.event_id = fact.get("event_id", "")
                op.stored = fact.get("stored", "")
                op.duplicate = fact.get("duplicate", False)
                op.receipt_sha256 = fact.get("receipt_sha256", "")
                op.done = fact["t"]
                op.due_s = fact["due_s"]
                op.sent_s = fact["t"] - op.sent
    yield from ops.values()
