"""The load: a process of its own that sends by the clock, whatever becomes of the bridge, and writes the journal.

    python -m faults.load PLAN.json        until its duration is over, or SIGTERM

About a tenth of the deliveries are sent again under their old id, as senders do that saw no answer or think so.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import random
import signal
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import uvloop

from faults.journal import Writer, outcome
from faults.payloads import Delivery
from kafka_webhook_bridge.cli.openloop import Answer, Load, Message, Plan, clock, parse_url

ID_HEADER = "X-Delivery-Id"
KEY_HEADER = "X-Key"
RESENDS = 0.1
RESEND_WINDOW = 2000  # how far back a sender remembers
_TIMEOUT_S = 10.0  # far beyond any answer: a request that gets here hangs
SHUT = "shut"  # the source that gets a wrong password: every request to it must be refused


@dataclass(frozen=True, slots=True)
class LoadPlan:
    """One run. `sources` are weights."""

    url: str
    journal: str
    seed: str
    run: str
    rate: float
    duration_s: float
    connections: int
    sources: dict[str, int] = field(default_factory=dict)
    resends: float = RESENDS
    resend_window: int = RESEND_WINDOW

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)))


class Script:
    """Which delivery is sent as request `seq`. Called for each `seq` once, in order."""

    def __init__(self, plan: LoadPlan) -> None:
        self._plan = plan
        self._dice = random.Random(f"{plan.seed}/{plan.run}")
        self._deliveries = 0

    def __call__(self) -> Delivery:
        number = self._deliveries
        if number and self._dice.random() < self._plan.resends:
            number = self._dice.randrange(max(0, number - self._plan.resend_window), number)
        else:
            self._deliveries += 1
        return Delivery(self._plan.seed, f"{self._plan.run}-{number:06d}", self._plan.sources)


class Sender:
    """Makes the messages and writes what became of them."""

    def __init__(self, plan: LoadPlan) -> None:
        self._script = Script(plan)
        self._host = parse_url(plan.url).authority
        self.journal = Writer(Path(plan.journal), run=plan.run, seed=plan.seed, source="", url=plan.url)
        self._delivery: Delivery | None = None

    def message(self, _seq: int) -> Message:
        self._delivery = d = self._script()
        login = base64.b64encode(b"partner:wrong").decode()
        head = (
            f"POST /{d.source}/hook?id={d.id} HTTP/1.1\r\nHost: {self._host}\r\nContent-Length: {len(d.body)}\r\n"
            f"{ID_HEADER}: {d.id}\r\n{KEY_HEADER}: {d.key}\r\n"
            + (f"Authorization: Basic {login}\r\n" if d.source == SHUT else "")
            + "\r\n"
        )
        return Message(d.id, head.encode() + d.body, d.sha256)

    def invoked(self, seq: int, message: Message) -> None:
        d = self._delivery
        assert d is not None
        self.journal.line("invoke", seq=seq, id=d.id, source=d.source, key=d.key, body_sha256=d.sha256)

    def sending(self) -> None:
        self.journal.flush()

    def answered(self, answer: Answer) -> None:
        facts: dict[str, Any] = {"status": answer.status} if answer.status else {"reason": answer.reason}
        with contextlib.suppress(ValueError):
            receipt = json.loads(answer.body) if answer.body else {}
            names = {"event_id": "event_id", "stored": "stored", "duplicate": "duplicate", "code": "code",
                     "body_sha256": "receipt_sha256"}  # fmt: skip
            facts |= {ours: receipt[name] for name, ours in names.items() if name in receipt}
        self.journal.line(outcome(answer.status), seq=answer.seq, **facts, due_s=answer.latency_s)


async def _run(plan: LoadPlan) -> None:
    sender = Sender(plan)
    load = Load(
        parse_url(plan.url),
        Plan(plan.rate, plan.duration_s, connections=plan.connections, timeout_s=_TIMEOUT_S),
        sender.message,
        sender,
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, load.stop)

    async def flush() -> None:
        while True:
            await asyncio.sleep(0.1)
            sender.journal.flush()

    flushing = asyncio.create_task(flush())
    try:
        await load.run()
    finally:
        flushing.cancel()
        sender.journal.close()
    late = load.lateness.milliseconds()
    print(
        json.dumps({"sent": load.sent, "unsent": load.unsent, "lateness_ms": late, "seconds": clock() - load.started})
    )


if __name__ == "__main__":
    plan = LoadPlan(**json.loads(Path(sys.argv[1]).read_text()))
    random.seed(plan.seed)  # the arrivals
    uvloop.run(_run(plan))
