"""Why does this signature fail? Tries what usually goes wrong, one change at a time, then two, until one is right.

A signature that is right after a change proves that change: nobody meets a digest by chance. What cannot be proved is
told as a hint. Pure, and bounded in tries and in bytes.

    as it is ──wrong──▶ at the time it was signed ──wrong──▶ one change ──▶ other profiles ──▶ two changes ──▶ hints
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

from kafka_webhook_bridge.body import NOT_JSON, parse_json
from kafka_webhook_bridge.event import Request
from kafka_webhook_bridge.sources.verify import KeyStore, Verdict, Verifier, changes, model, parse_verify
from kafka_webhook_bridge.sources.verify import compile as compile_verifier
from kafka_webhook_bridge.sources.verify.advice import ADVICE, hints
from kafka_webhook_bridge.sources.verify.changes import Change
from kafka_webhook_bridge.sources.verify.identity import leaves
from kafka_webhook_bridge.sources.verify.request import Signed
from kafka_webhook_bridge.sources.verify.signatures import compile_signatures, parse_time
from kafka_webhook_bridge.sources.verify.verdict import CompileError, Refused

TRIES_MAX: Final = 20_000
BYTES_MAX: Final = 256 * 1024**2
VERIFIERS_MAX: Final = 400
_FINDINGS_MAX: Final = 3
_ALIKE_MAX: Final = 8
_SKEW_WORDS: Final = ((86400, "days"), (3600, "hours"), (60, "minutes"))
_NAMED_TIMES: Final = {"contentful": (b"x-contentful-timestamp", "unix_ms"), "sinch": (b"x-timestamp", "iso8601")}


class Finding(NamedTuple):
    """One reason. `proved`: with it undone the signature is right; else it is a hint."""

    code: str
    what: str
    do: str
    proved: bool


@dataclass(frozen=True, slots=True)
class Examined:
    """What the doctor looks at. `table` is the profile's `verify`; `base` is `scheme://host[:port][/prefix]` or None.

    `labels` name the secrets for people, one each; `others` are secrets that the source does not have, by their label.
    """

    profile: str
    table: Mapping[str, Any]
    request: Request
    secrets: Sequence[str]
    labels: Sequence[str]
    base: str | None
    params: Mapping[str, str]
    keys: KeyStore
    now: float
    others: Mapping[str, str]


class Diagnosis(NamedTuple):
    """The verdict on the request as it is, the reasons, which secret was right (None: none), and how many tries."""

    verdict: Verdict
    findings: list[Finding]
    secret: str | None
    tries: int


class Row(NamedTuple):
    """Another profile to try."""

    name: str
    verify: Mapping[str, Any]


def examine(case: Examined, profiles: Iterable[Row] = ()) -> Diagnosis:
    """The diagnosis of one request. `profiles` are those that it may be of instead."""
    return _Doctor(case).run(profiles)


class _Doctor:
    def __init__(self, case: Examined) -> None:
        self._case = case
        self._tries = 0
        self._bytes = 0
        self._verifiers = 0
        self._now = case.now
        self._bodies: list[tuple[Change, bytes]] | None = None

    def run(self, profiles: Iterable[Row]) -> Diagnosis:
        case = self._case
        verdict = self._judge(self._compiled(case.table, case.secrets), case.request)
        if verdict.ok:
            return Diagnosis(verdict, [], self._which(case.table, case.request), self._tries)
        row = parse_verify(case.table)
        signed_at = signing_time(row, case.request)
        self._now = case.now if signed_at is None else signed_at
        timeless = without_window(case.table)
        if self._judge(self._compiled(timeless, case.secrets), case.request).ok:
            findings = [_skew(verdict, case.now, signed_at)]
            return Diagnosis(verdict, findings, self._which(timeless, case.request), self._tries)
        findings = self._one_change(timeless) or self._other_profiles(profiles) or self._two_changes(timeless)
        if findings and verdict.code in ("timestamp.old", "timestamp.future", "token.expired", "token.not_yet"):
            findings.append(_skew(verdict, case.now, signed_at))
        if not findings:
            findings = [Finding(code, what, do, False) for code, what, do in hints(case, row, verdict)]
        return Diagnosis(verdict, findings, None, self._tries)

    # tries

    def _compiled(self, table: Mapping[str, Any], secrets: Sequence[str]) -> Verifier | Verdict:
        """A verifier that takes its address with each request, or why there is none."""
        self._verifiers += 1
        row = SimpleNamespace(verify=table, covers_body=None)
        try:
            return compile_verifier(row, secrets, params=self._case.params, public_url=None, keys=self._case.keys)
        except CompileError as error:
            return Verdict(False, error.code, str(error))
        except ValueError as error:  # a table that a change has spoilt
            return Verdict(False, "input.invalid", str(error))

    def _judge(self, verifier: Verifier | Verdict, request: Request, base: str | None = None) -> Verdict:
        if isinstance(verifier, Verdict):
            return verifier
        self._tries += 1
        self._bytes += len(request.body)
        document = parse_json(request.body) if verifier.needs_json else NOT_JSON
        address = base or self._case.base
        return verifier(request, document, self._now, address.rstrip("/").encode() if address else None)

    @property
    def _spent(self) -> bool:
        return self._tries >= TRIES_MAX or self._bytes >= BYTES_MAX

    def _which(self, table: Mapping[str, Any], request: Request) -> str | None:
        """The label of the secret that is right."""
        if len(self._case.secrets) == 1:
            return self._case.labels[0]
        for label, secret in zip(self._case.labels, self._case.secrets, strict=True):
            if self._judge(self._compiled(table, [secret]), request).ok:
                return label
        return None

    # one change, two changes

    def _one_change(self, table: Mapping[str, Any]) -> list[Finding]:
        case = self._case
        as_is = self._compiled(table, case.secrets)
        found = self._requests(as_is)
        for change, verifier in self._verifiers_of(table):
            if len(found) >= _FINDINGS_MAX or self._spent:
                break
            if self._judge(verifier, case.request).ok:
                found.append(_proved(change))
        return _distinct(found)

    def _two_changes(self, table: Mapping[str, Any]) -> list[Finding]:
        case = self._case
        as_is = self._compiled(table, case.secrets)
        for change, body in self._other_bodies() if self._reads_address(as_is) else []:
            for second, request, base in changes.addresses(case.request._replace(body=body), case.base):
                if self._spent:
                    return []
                if self._judge(as_is, request, base).ok:
                    return [_proved(change), _proved(second)]
        for change, verifier in self._verifiers_of(table):
            if self._spent:
                return []
            found = self._requests(verifier, 1)
            if found:
                return [_proved(change), *found]
        return []

    def _requests(self, verifier: Verifier | Verdict, most: int = _FINDINGS_MAX) -> list[Finding]:
        """Changes of the request after which it is right."""
        found: list[Finding] = []
        for change, request, base in self._changed_requests(verifier):
            if len(found) >= most or self._spent:
                break
            if self._judge(verifier, request, base).ok:
                found.append(_proved(change))
                if change.code.startswith("url."):
                    break  # others that differ in nothing that is signed
        return found

    def _changed_requests(self, verifier: Verifier | Verdict) -> Iterator[tuple[Change, Request, str | None]]:
        request, base = self._case.request, self._case.base
        for change, other in changes.headers(request):
            yield change, other, base
        if not isinstance(verifier, Verdict) and verifier.covers_body:
            for change, body in self._other_bodies():
                yield change, request._replace(body=body), base
        if self._reads_address(verifier):
            yield from changes.addresses(request, base)

    def _other_bodies(self) -> list[tuple[Change, bytes]]:
        """Made once: they are tried with many secrets and rows."""
        if self._bodies is None:
            self._bodies = list(changes.bodies(self._case.request))
        return self._bodies

    @staticmethod
    def _reads_address(verifier: Verifier | Verdict) -> bool:
        return not isinstance(verifier, Verdict) and verifier.needs_url

    def _verifiers_of(self, table: Mapping[str, Any]) -> Iterator[tuple[Change, Verifier | Verdict]]:
        """Verifiers with one change: other secrets, other spellings of them, other words of the row."""
        case = self._case
        self._verifiers = 0
        for label, secret in case.others.items():
            change = Change(
                "secret.other", f"it is signed with another secret: {label}",
                "Give this source that secret, or point the sender to the other source.",
            )  # fmt: skip
            yield change, self._compiled(table, [secret])
        for secret in case.secrets:
            for change, text in changes.secret_texts(secret):
                yield change, self._compiled(table, [text])
        for change, other in changes.tables(table):
            if self._verifiers >= VERIFIERS_MAX:
                return
            yield change, self._compiled(without_window(other), case.secrets)

    def _other_profiles(self, profiles: Iterable[Row]) -> list[Finding]:
        """Other profiles for which the request is right; those that sign alike are told together."""
        case = self._case
        right: dict[str, list[str]] = {}
        for profile in profiles:
            if self._spent:
                break
            if profile.name == case.profile or profile.verify == case.table or profile.verify["scheme"] == "none":
                continue
            signed_at = signing_time(parse_verify(profile.verify), case.request)
            self._now = case.now if signed_at is None else signed_at
            table = without_window(profile.verify)
            if self._judge(self._compiled(table, case.secrets), case.request).ok:
                right.setdefault(json.dumps(table, sort_keys=True, default=str), []).append(profile.name)
        return [self._other(names) for names in list(right.values())[:_FINDINGS_MAX]]

    def _other(self, names: list[str]) -> Finding:
        start = self._case.profile.partition("-")[0]
        first, *more = sorted(names, key=lambda name: (not name.startswith(start), name))
        shown = ", ".join(more[:_ALIKE_MAX]) + (", …" if len(more) > _ALIKE_MAX else "")
        alike = f"; so do {shown} sign" if more else ""
        what = f"the request is right for the profile {first}, with the secret given{alike}"
        return Finding("profile.other", what, f"Use `profile: {first}`, or that of the real sender.", True)


def _proved(change: Change) -> Finding:
    return Finding(*change, True)


def _distinct(findings: Sequence[Finding]) -> list[Finding]:
    return list({finding.code: finding for finding in reversed(findings)}.values())[::-1]


# ---- time ------------------------------------------------------------------------------------------------------------


def _skew(verdict: Verdict, now: float, signed_at: float | None) -> Finding:
    """What is wrong with the time, where nothing else is."""
    what, do = ADVICE[verdict.code]
    if signed_at is None:
        return Finding(verdict.code, f"{what} ({verdict.detail})", do, True)
    seconds = now - signed_at
    direction = "before" if seconds >= 0 else "after"
    what = f"the signature is right, but it was made {duration(abs(seconds))} {direction} the time of judgement"
    return Finding(verdict.code, what, do, True)


def duration(seconds: float) -> str:
    """`95 s`, `2.5 hours (9000 s)`."""
    for size, word in _SKEW_WORDS:
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {word} ({seconds:.0f} s)"
    return f"{seconds:.0f} s"


def without_window(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row for which the age of a signature does not count; tokens keep their expiry."""
    if "of" in table:
        return {**table, "of": [without_window(way) for way in table["of"]]}
    time = table.get("timestamp")
    if not time:
        return {name: value for name, value in table.items() if name != "age_max_s"}
    return {**table, "timestamp": {name: time[name] for name in time if name not in ("past_s", "future_s")}}


def signing_time(row: model.Verify, request: Request) -> float | None:
    """When a request says that it was signed (Unix, s); None where it does not, or not in the row's words."""
    for way in leaves(row):
        try:
            moment = _signing_time(way, request)
        except (Refused, LookupError, ValueError, TypeError, OverflowError, AttributeError):
            continue
        if moment is not None:
            return moment
    return None


def _signing_time(row: model.Verify, request: Request) -> float | None:
    signed = Signed(request, NOT_JSON, None, {})
    match row:
        case model.Hmac() | model.Digest() | model.Asymmetric() if row.timestamp is not None:
            time = row.timestamp
            signed.json_field = row.json_field.encode() if row.json_field is not None else None
            return parse_time(_time_text(row, time, signed), time.format)
        case model.Named() if row.code in _NAMED_TIMES:
            name, form = _NAMED_TIMES[row.code]
            return parse_time(signed.need_header(name), form)
        case model.Jwt() if row.signature.from_ == "header":
            text = signed.need_header((row.signature.name or "").lower().encode())
            part = text.rpartition(b" ")[2].split(b".")[1]
            claims = json.loads(urlsafe_b64decode(part + b"=" * (-len(part) % 4)))
            issued, expires = claims.get("iat"), claims.get("exp")
            return float(issued) if issued is not None else float(expires) - 1
    return None


def _time_text(row: model.Hmac | model.Digest | model.Asymmetric, time: model.Timestamp, signed: Signed) -> bytes:
    match time.from_:
        case "sigfield":
            compile_signatures(row.signature, frozenset([time.field or ""]))(signed)
            return signed.fields[(time.field or "").encode()]
        case "header":
            return signed.need_header((time.name or "").lower().encode())
        case "json":
            return signed.member(tuple((time.path or "").split("."))) or b""
        case "query":
            return signed.query((time.name or "").encode()) or b""
        case "form":
            return signed.form((time.name or "").encode()) or b""
