"""`kwb send`: test webhooks at a rate, with a latency table, counts and receipts."""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kafka_webhook_bridge.cli.output import FOUND_PROBLEM, Json, Output
from kafka_webhook_bridge.errors import UsageError

if TYPE_CHECKING:
    from kafka_webhook_bridge.cli.openloop import Answer, Load, Message, Plan, Target
    from kafka_webhook_bridge.receipts import ReceiptsFile
    from kafka_webhook_bridge.settings import Settings

DURATION_S = 10.0  # of a rate without --duration or --count
CONNECTIONS = 64  # for a rate
CONNECTIONS_MAX = 10_000
SIZE_BYTES_MIN = 128
SIZE_BYTES_MAX = 64 * 1024**2
_REFRESH_S = 0.1
_ID_BYTES = 19
_BODILESS = frozenset({"GET", "HEAD", "OPTIONS"})
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)?")
_SECONDS = {"ms": 0.001, None: 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_CONTENT_TYPES = {
    ".json": "application/json",
    ".xml": "application/xml",
    ".form": "application/x-www-form-urlencoded",
    ".txt": "text/plain; charset=utf-8",
}


def register(app: typer.Typer) -> None:
    @app.command()
    def send(
        source: Annotated[str, typer.Argument(help="Name of the source, the first part of the path.")],
        url: Annotated[str, typer.Option(help="The bridge. Default: where the settings say that it listens.")] = "",
        rate: Annotated[str, typer.Option(help="Requests per second, whatever the answers (500 or 500/s).")] = "",
        duration: Annotated[str, typer.Option(help="How long to send: 30s, 2m. With --rate the default is 10s.")] = "",
        count: Annotated[int | None, typer.Option(min=1, help="How many to send. Default without a rate: 1.")] = None,
        arrivals: Annotated[str, typer.Option(help="With --rate: poisson or fixed.")] = "poisson",
        body: Annotated[str, typer.Option(help="File with the body, or - for standard input; sent as it is.")] = "",
        size: Annotated[str, typer.Option(help="Bytes of made bodies, each with an id of its own (1KiB).")] = "",
        content_type: Annotated[str, typer.Option(help="Default: by the file's ending.")] = "",
        header: Annotated[list[str] | None, typer.Option("--header", "-H", help="'Name: value', repeatable.")] = None,
        path: Annotated[str, typer.Option(help="What follows the source: /orders?x=1.")] = "",
        method: Annotated[str, typer.Option(help="The method.")] = "POST",
        connections: Annotated[
            int | None,
            typer.Option(min=1, max=CONNECTIONS_MAX, help="Most at once (64 with --rate, else 1)."),
        ] = None,
        timeout: Annotated[str, typer.Option(help="How long to wait for an answer.")] = "10s",
        receipts: Annotated[
            Path | None, typer.Option(help="Journal every request and outcome in this new file (JSON lines).")
        ] = None,
        ca: Annotated[str, typer.Option(help="PEM file of authorities to trust for https.")] = "",
        json: Json = False,
    ) -> None:
        """Send test webhooks and report latency and receipts.

        Basic credentials come from WEBHOOK_USERNAME and WEBHOOK_PASSWORD (`. .kwb/env` after `kwb up`).
        With --rate the load is open: a request counts from the moment it was due. Without, each next one is due when a
        connection is free. Ctrl-C ends early and still reports. Exit code 1 when anything was not answered 2xx.
        """
        from kafka_webhook_bridge.cli.openloop import Plan, parse_url
        from kafka_webhook_bridge.settings import load_settings

        if arrivals not in {"poisson", "fixed"}:
            raise UsageError(f"--arrivals {arrivals} is neither poisson nor fixed")
        if not _TOKEN.fullmatch(method):
            raise UsageError(f"--method {method!r} is not a method")
        if body and size:
            raise UsageError("--body and --size exclude each other")
        settings = load_settings()
        per_second = _rate(rate) if rate else None
        duration_s = _duration("--duration", duration) if duration else None
        if duration_s is None and count is None:
            duration_s, count = (DURATION_S, None) if per_second else (None, 1)
        plan = Plan(
            rate=per_second,
            duration_s=duration_s,
            count=count,
            arrivals="fixed" if arrivals == "fixed" else "poisson",
            connections=connections or (CONNECTIONS if per_second else 1),
            timeout_s=_duration("--timeout", timeout),
        )
        target = parse_url(url or settings.ingest.url, ca)
        messages = Messages(
            target, source, settings, method=method.upper(), path=path, headers=header or [],
            content_type=content_type, body=body, size=size,
        )  # fmt: skip
        out = Output(json)
        report = Report(source, target.url + messages.path, single=count == 1, journal=None)
        with contextlib.ExitStack() as stack:
            if receipts is not None:
                from kafka_webhook_bridge.receipts import ReceiptsFile

                report.journal = stack.enter_context(
                    ReceiptsFile(receipts, run=messages.run, source=source, url=report.url)
                )
            load = _run(target, plan, messages, report, progress=not json and count != 1 and sys.stderr.isatty())
        report.show(out, load)
        if not report.all_accepted(load):
            raise typer.Exit(FOUND_PROBLEM)


def _run(target: Target, plan: Plan, messages: Messages, report: Report, *, progress: bool) -> Load:
    import asyncio
    import signal

    import uvloop

    from kafka_webhook_bridge.cli.openloop import Load

    async def run() -> Load:
        load = Load(target, plan, messages.make, report, head=messages.method == "HEAD")
        loop = asyncio.get_running_loop()
        with contextlib.suppress(RuntimeError, ValueError):  # not in the main thread: then nobody presses Ctrl-C
            loop.add_signal_handler(signal.SIGINT, load.stop)
        shown = loop.create_task(_progress(load, plan, report)) if progress else None
        try:
            await load.run()
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            if shown:
                shown.cancel()
                await asyncio.gather(shown, return_exceptions=True)
        return load

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


async def _progress(load: Load, plan: Plan, report: Report) -> None:
    import asyncio
    import math

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    expected = min(plan.count or math.inf, (plan.rate or math.inf) * (plan.duration_s or math.inf))
    with Progress(
        TextColumn("{task.completed:,.0f} sent"),
        BarColumn(),
        TextColumn("{task.fields[facts]}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task("", total=None if math.isinf(expected) else expected, facts="")
        while True:
            p99_ms = load.latencies.percentile_s(0.99) * 1e3
            others = load.ended_requests - report.accepted
            facts = f"{report.accepted:,} accepted, {others:,} not, p99 {p99_ms:.1f} ms"
            bar.update(task, completed=load.sent, facts=facts)
            await asyncio.sleep(_REFRESH_S)


# ---- what is sent ----------------------------------------------------------------------------------------------------


class Messages:
    """Makes the requests: all alike but for the id in bodies that are made here."""

    def __init__(
        self,
        target: Target,
        source: str,
        settings: Settings,
        *,
        method: str,
        path: str,
        headers: list[str],
        content_type: str,
        body: str,
        size: str,
    ) -> None:
        import secrets

        from kafka_webhook_bridge.cli.openloop import Message

        self._message = Message
        self.run = secrets.token_hex(4)
        self.method = method
        self.path = _path(source, path)
        self._fixed: tuple[bytes, str] | None = None
        self._before, self._after = b"", b""
        if body or method in _BODILESS:
            data = _read(body) if body else b""
            length, guess = len(data), _content_type(body, data) if body else ""
        else:
            self._before, self._after = _template(_size(size))
            length, guess, data = len(self._before) + _ID_BYTES + len(self._after), "application/json", None
        head = self._head(target, settings, headers, content_type or guess, length)
        if data is not None:
            self._fixed = head + data, _sha256(data)
        self._start = head

    def make(self, seq: int) -> Message:
        """Request number `seq`."""
        request_id = f"{self.run}-{seq:010d}"
        if self._fixed:
            return self._message(request_id, *self._fixed)
        body = self._before + request_id.encode() + self._after
        return self._message(request_id, self._start + body, _sha256(body))

    def _head(self, target: Target, settings: Settings, headers: list[str], content_type: str, length: int) -> bytes:
        from base64 import b64encode

        from kafka_webhook_bridge import __version__

        lines = {"host": ("Host", target.authority), "user-agent": ("User-Agent", f"kwb-send/{__version__}")}
        lines["accept"] = ("Accept", "*/*")
        if content_type:
            lines["content-type"] = ("Content-Type", _value("--content-type", content_type))
        if settings.bridge.username or settings.bridge.password:
            password = settings.bridge.password.get_secret_value() if settings.bridge.password else ""
            login = b64encode(f"{settings.bridge.username}:{password}".encode()).decode()
            lines["authorization"] = ("Authorization", f"Basic {login}")
        own = [_header(header) for header in headers]
        for name, _ in own:
            lines.pop(name.lower(), None)
        text = "".join(f"{name}: {value}\r\n" for name, value in [*lines.values(), *own])
        if length or self.method not in _BODILESS:
            text += f"Content-Length: {length}\r\n"
        return f"{self.method} {target.prefix}{self.path} HTTP/1.1\r\n{text}\r\n".encode()


def _template(size: int) -> tuple[bytes, bytes]:
    """What stands before and after the id in a made body of `size` bytes."""
    before = b'{"id":"'
    after = b'","type":"kwb.test","order":{"number":"A-10042","currency":"EUR","total":"129.90"},"padding":"'
    end = b'"}'
    return before, after + b"." * (size - len(before) - _ID_BYTES - len(after) - len(end)) + end


def _read(body: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if body == "-" else Path(body).read_bytes()
    except OSError as error:
        raise UsageError(f"--body {body}: {error.strerror}") from None


def _sha256(body: bytes) -> str:
    import hashlib

    return hashlib.sha256(body).hexdigest()


def _content_type(name: str, body: bytes) -> str:
    known = _CONTENT_TYPES.get(Path(name).suffix.lower())
    return known or ("application/json" if body.lstrip()[:1] in {b"{", b"["} else "application/octet-stream")


def _path(source: str, rest: str) -> str:
    from urllib.parse import quote

    if rest and rest[0] not in "/?":
        rest = "/" + rest
    if not rest.isascii() or not rest.isprintable() or " " in rest or "#" in rest:
        raise UsageError(f"--path {rest!r} has bytes that a request target cannot have", hint="Percent-encode them.")
    return "/" + quote(source, safe="") + rest


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    name = name.strip()
    if not colon or not _TOKEN.fullmatch(name):
        raise UsageError("--header takes 'Name: value'")
    if name.lower() == "authorization":
        raise UsageError(
            "credentials are not taken from the command line",
            hint="Set WEBHOOK_USERNAME and WEBHOOK_PASSWORD in the environment.",
        )
    if name.lower() in {"content-length", "transfer-encoding", "connection"}:
        raise UsageError(f"{name} is this command's own")
    return name, _value(f"--header {name}", value.strip())


def _value(option: str, text: str) -> str:
    if any(c in text for c in "\r\n\0"):
        raise UsageError(f"{option}: a value cannot have line ends")
    return text


def _size(text: str) -> int:
    from kafka_webhook_bridge.texts import parse_size

    try:
        size = parse_size(text or "1KiB")
    except ValueError as error:
        raise UsageError(f"--size: {error}") from None
    if not SIZE_BYTES_MIN <= size <= SIZE_BYTES_MAX:
        raise UsageError(
            f"--size {text}: between {SIZE_BYTES_MIN} bytes and {SIZE_BYTES_MAX >> 20} MiB",
            hint="A made body has an id in it; --body sends any bytes.",
        )
    return size


def _rate(text: str) -> float:
    try:
        rate = float(text.removesuffix("/s").replace("_", ""))
    except ValueError:
        rate = 0.0
    if not 0 < rate <= 1_000_000:
        raise UsageError(f"--rate {text}: requests per second, for example 500 or 500/s")
    return rate


def _duration(option: str, text: str) -> float:
    match = _DURATION.fullmatch(text.strip())
    seconds = float(match[1]) * _SECONDS[match[2]] if match else 0.0
    if seconds <= 0:
        raise UsageError(f"{option} {text}: a time, for example 500ms, 30s or 2m")
    return seconds


# ---- what came of it -------------------------------------------------------------------------------------------------


class Report:
    """Hears of every request; counts, journals, and tells at the end."""

    def __init__(self, source: str, url: str, *, single: bool, journal: ReceiptsFile | None) -> None:
        self.source, self.url, self.journal = source, url, journal
        self.accepted = 0
        self._single = single
        self._answer: dict[str, Any] | None = None
        self._status: dict[str, int] = {}
        self._codes: dict[str, int] = {}
        self._stored: dict[str, int] = {}
        self._unknown: dict[str, int] = {}
        self._duplicates = 0

    def invoked(self, seq: int, message: Message) -> None:
        if self.journal:
            self.journal.invoke(seq, message.id, message.body_sha256)

    def sending(self) -> None:
        if self.journal:
            self.journal.flush()

    def answered(self, answer: Answer) -> None:
        found = _object(answer.body)
        if answer.status:
            _count(self._status, str(answer.status))
        else:
            _count(self._unknown, answer.reason)
        if 200 <= answer.status < 300:
            self.accepted += 1
            if isinstance(found.get("stored"), str):
                _count(self._stored, found["stored"])
            self._duplicates += found.get("duplicate") is True
        elif isinstance(found.get("code"), str):
            _count(self._codes, found["code"])
        if self._single:
            self._answer = found
        if self.journal:
            self.journal.ended(answer.seq, answer.status, found, answer.reason)

    def all_accepted(self, load: Load) -> bool:
        return self.accepted == load.sent and not load.unsent and load.sent > 0

    def facts(self, load: Load) -> dict[str, Any]:
        """The whole result, as `--json` shows it."""
        seconds = max(load.ended_at - load.started, 1e-9)
        facts: dict[str, Any] = {
            "source": self.source,
            "url": self.url,
            "seconds": round(seconds, 3),
            "sent": load.sent,
            "accepted": self.accepted,
            "unknown": sum(self._unknown.values()),
            "unsent": load.unsent,
            "interrupted": load.interrupted,
            "accepted_per_second": round(self.accepted / seconds, 1),
            "status": dict(sorted(self._status.items())),
            "codes": self._codes,
            "no_answer": self._unknown,
            "stored": self._stored,
            "duplicates": self._duplicates,
            "latency_ms": load.latencies.milliseconds(),
            "lateness_ms": load.lateness.milliseconds(),
        }
        if self.journal:
            facts["receipts"] = self.journal.counts
        if self._single:
            facts["answer"] = self._answer
        return facts

    def show(self, out: Output, load: Load) -> None:
        facts = self.facts(load)
        out.data(facts)
        if self._single:
            self._show_one(out, facts)
        else:
            self._show_many(out, facts)
        if self.journal:
            counts = self.journal.counts
            out.note(f"receipts: {counts['ok']:,} ok, {counts['fail']:,} refused, {counts['info']:,} unknown")
        if "401" in self._status:
            out.note("Credentials come from WEBHOOK_USERNAME and WEBHOOK_PASSWORD; `kwb up` wrote them: . .kwb/env")

    def _show_one(self, out: Output, facts: dict[str, Any]) -> None:
        for status in self._status:
            good = status.startswith("2")
            out.say(f"{status} in {facts['latency_ms']['max']:.1f} ms" if good else status, "green" if good else "red")
        for reason in self._unknown:
            out.say(f"no answer: {reason}; the event may have been accepted", "red")
        if self._answer:
            out.table(("receipt" if self.accepted else "problem", ""), list(self._answer.items()))

    def _show_many(self, out: Output, facts: dict[str, Any]) -> None:
        rows = [(f"answered {status}", f"{number:,}") for status, number in facts["status"].items()]
        rows += [(f"  {code}", f"{number:,}") for code, number in self._codes.items()]
        rows += [(f"stored in {place}", f"{number:,}") for place, number in self._stored.items()]
        rows += [("duplicates", f"{self._duplicates:,}")] if self._duplicates else []
        rows += [(f"unknown: {reason}", f"{number:,}") for reason, number in self._unknown.items()]
        rows += [("never sent: no connection was free", f"{facts['unsent']:,}")] if facts["unsent"] else []
        rate = f"{facts['accepted_per_second']:,.0f}/s"
        end = ", interrupted" if facts["interrupted"] else ""
        out.say(f"{facts['sent']:,} sent to {self.url} in {facts['seconds']:.1f} s, {rate} accepted{end}")
        out.table(("requests", "number"), rows)
        marks = {"p50": "p50", "p90": "p90", "p99": "p99", "p999": "p99.9", "max": "max"}
        out.table(
            ("ms", *marks.values()),
            [
                ("latency of accepted", *(f"{facts['latency_ms'][mark]:.2f}" for mark in marks)),
                ("  of it before sending", *(f"{facts['lateness_ms'][mark]:.2f}" for mark in marks)),
            ],
        )


def _count(counts: dict[str, int], name: str) -> None:
    counts[name] = counts.get(name, 0) + 1


def _object(body: bytes) -> dict[str, Any]:
    import orjson

    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}
