"""`kwb send`: test webhooks at a rate, signed as a sender signs them, with a latency table, counts and receipts."""

from __future__ import annotations

import contextlib
import re
import sys
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kafka_webhook_bridge.cli.messages import TOKEN
from kafka_webhook_bridge.cli.output import FOUND_PROBLEM, Json, Output
from kafka_webhook_bridge.errors import UsageError

if TYPE_CHECKING:
    from kafka_webhook_bridge.cli.messages import Messages, Place
    from kafka_webhook_bridge.cli.openloop import Answer, Load, Message, Plan, Target
    from kafka_webhook_bridge.cli.simulator import Faults, Outcomes, SignedMessages, Signing
    from kafka_webhook_bridge.receipts import ReceiptsFile
    from kafka_webhook_bridge.settings import Settings

DURATION_S = 10.0  # of a rate without --duration or --count
CONNECTIONS = 64  # for a rate
CONNECTIONS_MAX = 10_000
_REFRESH_S = 0.1
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)?")
_SECONDS = {"ms": 0.001, None: 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*(%)?")


def register(app: typer.Typer) -> None:
    @app.command()
    def send(
        source: Annotated[str, typer.Argument(help="Name of the source, or a whole address.")],
        url: Annotated[str, typer.Option(help="The bridge. Default: where the settings say that it listens.")] = "",
        profile: Annotated[
            str, typer.Option("--profile", "-p", help="Sign as this profile's sender. Default: by bridge.yaml.")
        ] = "",
        event: Annotated[
            list[str] | None, typer.Option(help="Event type; repeatable. Default: all there are bodies of, in turn.")
        ] = None,
        secret_env: Annotated[str, typer.Option(help="Variable that holds the secret.", metavar="NAME")] = "",
        secret_file: Annotated[
            str, typer.Option(help="File with the secret or private key; made if it is not there.")
        ] = "",
        param: Annotated[
            list[str] | None, typer.Option(help="Parameter of the profile, NAME=VALUE; repeatable.")
        ] = None,
        public_url: Annotated[
            str, typer.Option(help="Address that signatures cover. Default: by bridge.yaml, else where it is sent.")
        ] = "",
        bad_signature: Annotated[str, typer.Option(help="Share signed with another key, such as 1%.")] = "",
        stale: Annotated[str, typer.Option(help="Share signed before the profile's window.")] = "",
        duplicates: Annotated[str, typer.Option(help="Share that repeats the request before.")] = "",
        catalog: Annotated[
            list[Path] | None, typer.Option(help="File or folder of profiles of your own; repeatable.")
        ] = None,
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

        A source of bridge.yaml that has a profile is sent what its sender would send, signed with its secret; with
        --profile any address is. Without a secret one is made for the run, and shown; --secret-file keeps it.
        Basic credentials come from WEBHOOK_USERNAME and WEBHOOK_PASSWORD (`. .kwb/env` after `kwb up`), and go to
        sources without a profile alone.
        With --rate the load is open: a request counts from the moment it was due. Without, each next one is due when a
        connection is free. Ctrl-C ends early and still reports. Exit code 1 when anything was not answered as it should
        be: 2xx, but 4xx where the signature is wrong.
        """
        from kafka_webhook_bridge.cli.messages import Messages, is_url, login_of, place_of
        from kafka_webhook_bridge.cli.openloop import Plan
        from kafka_webhook_bridge.settings import load_settings

        if arrivals not in {"poisson", "fixed"}:
            raise UsageError(f"--arrivals {arrivals} is neither poisson nor fixed")
        if not TOKEN.fullmatch(method):
            raise UsageError(f"--method {method!r} is not a method")
        if body and size:
            raise UsageError("--body and --size exclude each other")
        if is_url(source) and url:
            raise UsageError("--url names the bridge of a source; an address stands for itself")
        settings, out = load_settings(), Output(json)
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
        place = place_of(source, url or settings.ingest.url, path, ca)
        faults = _faults(bad_signature, stale, duplicates)
        signing, login = _signing(
            source, place, settings, profile, secret_env, secret_file, param, public_url, catalog or []
        )
        shared: dict[str, Any] = {"method": method.upper(), "headers": header or [], "content_type": content_type}
        messages: Messages | SignedMessages
        outcomes = None
        if signing is None:
            _refuse_without_profile(
                {"--event": event, "--secret-env": secret_env, "--secret-file": secret_file, "--param": param,
                 "--public-url": public_url, "--bad-signature": bad_signature, "--stale": stale,
                 "--duplicates": duplicates},
            )  # fmt: skip
            messages = Messages(
                place, login="" if is_url(source) else login_of(settings), body=body, size=size, **shared
            )
        else:
            from kafka_webhook_bridge.cli.simulator import Outcomes, SignedMessages

            if size:
                raise UsageError("--size is for bodies without a profile", hint="--body sends any body, signed.")
            if signing.made and secret_file:
                _show_made(out, signing, secret_file)
                return
            messages = SignedMessages(place, signing, faults, login=login, body=body, events=event or [], **shared)
            outcomes = Outcomes(messages.kinds)
            if signing.made:
                _tell_made(out, signing)
        report = Report(source, place.url, single=count == 1, journal=None, signing=signing, outcomes=outcomes)
        with contextlib.ExitStack() as stack:
            if receipts is not None:
                from kafka_webhook_bridge.receipts import ReceiptsFile

                report.journal = stack.enter_context(
                    ReceiptsFile(receipts, run=messages.run, source=source, url=report.url)
                )
            load = _run(place.target, plan, messages, report, progress=not json and count != 1 and sys.stderr.isatty())
        report.show(out, load)
        if not report.all_as_expected(load):
            raise typer.Exit(FOUND_PROBLEM)


def _signing(
    source: str,
    place: Place,
    settings: Settings,
    profile: str,
    secret_env: str,
    secret_file: str,
    param: list[str] | None,
    public_url: str,
    catalogs: list[Path],
) -> tuple[Signing | None, str]:
    """Who signs, and the Basic credentials beside it; None where nobody does."""
    from kafka_webhook_bridge.cli.messages import is_url, login_of
    from kafka_webhook_bridge.cli.simulator import Signing, of_source, own_key, signed_address
    from kafka_webhook_bridge.cli.verify import catalog_of, params_of, profile_of

    params = params_of(param)
    base, path = signed_address(public_url, place)
    if profile:
        row = profile_of(profile, catalog_of(catalogs))
        identity, made = own_key(row.verify, secret_env, secret_file, params)
        return Signing(row, row.verify, identity, base, path, made), ""
    if is_url(source) or not settings.bridge.config.strip():
        return None, ""
    from kafka_webhook_bridge.sources.sender import has_profile, load_senders

    if not has_profile(settings, source):
        return None, ""
    _, senders = load_senders()
    sender = senders[source]._replace(params={**senders[source].params, **params})
    if sender.public is not None and not public_url:
        rest = place.path.partition("?")[0].removeprefix(f"/{source}")
        base, path = sender.public.base.decode(), sender.public.path.decode() + rest
    identity, made = of_source(sender, secret_file, secret_env)
    login = login_of(settings) if sender.login else ""
    return Signing(sender.profile, sender.row, identity, base, path, made), login


def _faults(bad_signature: str, stale: str, duplicates: str) -> Faults:
    from kafka_webhook_bridge.cli.simulator import Faults

    shares = [
        _share(option, text) if text else Fraction()
        for option, text in (("--bad-signature", bad_signature), ("--stale", stale), ("--duplicates", duplicates))
    ]
    if sum(shares) > 1:
        raise UsageError("--bad-signature, --stale and --duplicates are more than all requests together")
    return Faults(*shares)


def _refuse_without_profile(options: dict[str, Any]) -> None:
    given = [name for name, value in options.items() if value]
    if given:
        raise UsageError(
            f"{', '.join(given)}: only a profile signs",
            hint="--profile NAME (`kwb sources profiles` lists them), or `profile:` of the source in bridge.yaml.",
        )


def _show_made(out: Output, signing: Signing, file: str) -> None:
    from kafka_webhook_bridge.cli.simulator import to_configure

    facts = to_configure(signing)
    out.data({"made": file, "configure": facts})
    out.say(f"{file} is new, and nothing was sent yet. Give the receiver this, then send again:", "bold")
    _say_configure(out.say, facts)


def _tell_made(out: Output, signing: Signing) -> None:
    from kafka_webhook_bridge.cli.simulator import to_configure

    out.note("The key is made for this run alone (--secret-file keeps one); the receiver has to know:")
    _say_configure(out.note, to_configure(signing))


def _say_configure(say: Any, facts: dict[str, Any]) -> None:
    import json

    for name, value in facts.items():
        text = value if isinstance(value, str) else json.dumps(value, indent=2)
        say(f"  {name}: {text}" if "\n" not in text else f"  {name}:\n{text}")


def _run(target: Target, plan: Plan, messages: Messages | SignedMessages, report: Report, *, progress: bool) -> Load:
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


def _share(option: str, text: str) -> Fraction:
    match = _SHARE.fullmatch(text.strip())
    share = Fraction(match[1]) / (100 if match[2] else 1) if match else Fraction(-1)
    if not 0 <= share <= 1:
        raise UsageError(f"{option} {text}: a share of all requests, for example 1% or 0.01")
    return share


# ---- what came of it -------------------------------------------------------------------------------------------------


class Report:
    """Hears of every request; counts, journals, and tells at the end."""

    def __init__(
        self,
        source: str,
        url: str,
        *,
        single: bool,
        journal: ReceiptsFile | None,
        signing: Signing | None = None,
        outcomes: Outcomes | None = None,
    ) -> None:
        self.source, self.url, self.journal = source, url, journal
        self._signing, self._outcomes = signing, outcomes
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
        if self._outcomes:
            self._outcomes.answered(answer.seq, answer.status)
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

    def all_as_expected(self, load: Load) -> bool:
        """Whether every request was accepted, but for the wrong ones, which were refused."""
        expected = self.accepted
        if self._outcomes:
            expected += self._outcomes.refused_rightly - self._outcomes.accepted_wrongly
        return expected == load.sent and not load.unsent and load.sent > 0

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
        if self._signing and self._outcomes:
            from kafka_webhook_bridge.cli.simulator import to_configure

            facts["profile"] = self._signing.profile.name
            facts["wrong"] = self._outcomes.counts
            if self._signing.made:
                facts["configure"] = to_configure(self._signing)
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
        if self._outcomes:
            self._show_outcomes(out, self._outcomes)
        elif "401" in self._status:
            out.note("Credentials come from WEBHOOK_USERNAME and WEBHOOK_PASSWORD; `kwb up` wrote them: . .kwb/env")

    def _show_outcomes(self, out: Output, outcomes: Outcomes) -> None:
        rows = [
            (kind.replace("_", " "), *(f"{counts[fate]:,}" for fate in ("sent", "accepted", "refused", "other")))
            for kind, counts in outcomes.counts.items()
        ]
        if rows:
            out.table(("of these", "sent", "accepted", "refused", "other"), rows)
        if outcomes.accepted_wrongly:
            out.say(f"{outcomes.accepted_wrongly:,} with a wrong signature were accepted", "red")
        elif "401" in self._status and not outcomes.refused_rightly:
            out.note("The receiver has another secret, or another profile: `kwb verify` says why.")

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
