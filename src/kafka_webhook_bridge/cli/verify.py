"""`kwb verify`: why does this signature fail? And, with --jsonl, verdicts on many cases for machines."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, NamedTuple

import typer

from kafka_webhook_bridge.cli.output import FOUND_PROBLEM, Json, Output
from kafka_webhook_bridge.errors import UsageError

if TYPE_CHECKING:
    from kafka_webhook_bridge.event import Request
    from kafka_webhook_bridge.sources.catalog import Catalog
    from kafka_webhook_bridge.sources.profile import Profile
    from kafka_webhook_bridge.sources.verify import Verify
    from kafka_webhook_bridge.sources.verify.case import Case
    from kafka_webhook_bridge.sources.verify.doctor import Diagnosis, Examined
    from kafka_webhook_bridge.sources.verify.verdict import OfflineKeys

SecretEnv = Annotated[
    list[str] | None, typer.Option("--secret-env", help="Variable that holds a secret; repeatable.", metavar="NAME")
]
SecretFile = Annotated[
    list[str] | None, typer.Option("--secret-file", help="File that holds a secret or public key; repeatable.")
]
Param = Annotated[list[str] | None, typer.Option("--param", help="Parameter of the profile, NAME=VALUE; repeatable.")]
OwnCatalog = Annotated[
    list[Path] | None, typer.Option("--catalog", help="File or folder of profiles of your own; repeatable.")
]


def register(app: typer.Typer) -> None:
    @app.command()
    def verify(
        request: Annotated[
            str,
            typer.Argument(
                help="Saved request or JSON of one case; with --jsonl cases. Default: standard input.",
                show_default=False,
            ),
        ] = "-",
        profile: Annotated[str, typer.Option("--profile", "-p", help="The sender's profile.")] = "",
        source: Annotated[str, typer.Option(help="Profile, secrets and address of a source of bridge.yaml.")] = "",
        secret_env: SecretEnv = None,
        secret_file: SecretFile = None,
        param: Param = None,
        url: Annotated[str, typer.Option(help="Address as it stands at the sender. Default: by Host.")] = "",
        jwks: Annotated[str, typer.Option(help="File with the sender's public keys (JWKS).")] = "",
        cert: Annotated[
            list[str] | None, typer.Option(help="Certificate that the request names, ADDRESS=FILE; repeatable.")
        ] = None,
        at: Annotated[str, typer.Option(help="When it was received: Unix seconds or ISO 8601. Default: now.")] = "",
        catalog: OwnCatalog = None,
        jsonl: Annotated[bool, typer.Option("--jsonl", help="One case a line in, one verdict a line out.")] = False,
        json: Json = False,
    ) -> None:
        """Say why a signature fails, and what to do. Ends with 0 when the request is right, with 1 when it is not.

        A saved request is the text of HTTP: request line, headers, a blank line, and the body to the byte. Secrets are
        never taken from the command line. With --jsonl each line is a case,
        {"id", "profile", "method", "url", "headers", "body" or "body_base64", "secrets", "now", "params", "jwks",
        "certs"}, and each answer {"id", "verified", "code"}; that needs no settings.
        """
        if jsonl:
            _judge_lines(request, catalog_of(catalog))
            return
        if profile and source:
            raise UsageError("--profile and --source exclude each other: a source has its profile")
        out, known, case = Output(json=json), catalog_of(catalog), _case(_read(request))
        asked = _of_source(source, case) if source else _of_profile(profile or case.profile, case, known)
        asked = asked.with_options(_secrets(secret_env, secret_file), params_of(param), url)
        now = _time(at) if at else time.time() if case.now is None else case.now
        examined = asked.examined(_keys(case, jwks, cert or []), now)
        diagnosis = examine_among(examined, known)
        show(out, examined, diagnosis)
        if not diagnosis.verdict.ok:
            raise typer.Exit(FOUND_PROBLEM)


# ---- many cases ------------------------------------------------------------------------------------------------------


def _judge_lines(name: str, catalog: Catalog) -> None:
    from kafka_webhook_bridge.cli.cases import judge_lines

    out = Output()
    with contextlib.nullcontext(sys.stdin.buffer) if name == "-" else _opened(name) as stream:
        if judge_lines(stream, catalog, time.time, out.write, out.note):
            raise typer.Exit(FOUND_PROBLEM)


def _opened(name: str) -> BinaryIO:
    try:
        return Path(name).open("rb")
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}") from None


# ---- one request -----------------------------------------------------------------------------------------------------


class _Asked(NamedTuple):
    """One request and whose it is said to be. Secrets go by what people call them; `others` are of other sources."""

    profile: str
    row: Verify
    request: Request
    base: str | None
    secrets: Mapping[str, str]
    params: Mapping[str, str]
    others: Mapping[str, str]

    def with_options(self, secrets: Mapping[str, str], params: Mapping[str, str], url: str) -> _Asked:
        """The same with what the command line adds."""
        request, base = _addressed(self.request, url) if url else (self.request, self.base)
        return self._replace(
            request=request, base=base, secrets={**self.secrets, **secrets}, params={**self.params, **params}
        )

    def examined(self, keys: OfflineKeys, now: float) -> Examined:
        """For the doctor."""
        from kafka_webhook_bridge.sources.verify.doctor import Examined

        others = {label: text for label, text in self.others.items() if text not in self.secrets.values()}
        return Examined(
            self.profile, _table(self.row), self.request, list(self.secrets.values()), list(self.secrets), self.base,
            self.params, keys, now, others,
        )  # fmt: skip


def _of_profile(name: str, case: Case, catalog: Catalog) -> _Asked:
    from kafka_webhook_bridge.sources.verify.saved import host_of

    profile = profile_of(name, catalog)
    base = case.base or host_of(case.request)
    return _Asked(profile.name, profile.verify, case.request, base, _numbered(case.secrets), case.params, {})


def _of_source(name: str, case: Case) -> _Asked:
    """With profile, secrets and address of a source of bridge.yaml."""
    from kafka_webhook_bridge.sources.sender import load_senders
    from kafka_webhook_bridge.sources.verify.saved import host_of

    _, senders = load_senders()
    sender = senders.get(name)
    if sender is None:
        raise UsageError(f"there is no source {name} with a profile; there are: {', '.join(senders) or 'none'}")
    request, base = case.request, case.base or host_of(case.request)
    if sender.public is not None:
        base = sender.public.base.decode()
        if request.path.split(b"/")[1:2] == [name.encode()]:
            request = request._replace(path=sender.public.path + request.path[len(name) + 1 :])
    secrets = {**_numbered(sender.secrets, name), **_numbered(case.secrets)}
    others: dict[str, str] = {}
    for other in senders.values():
        others |= _numbered(other.secrets, other.name) if other is not sender else {}
    return _Asked(sender.profile.name, sender.row, request, base, secrets, {**case.params, **sender.params}, others)


def examine_among(examined: Examined, catalog: Catalog) -> Diagnosis:
    """The diagnosis; the request may be of any profile of the catalog."""
    from kafka_webhook_bridge.sources.verify.doctor import Row, examine

    return examine(examined, (Row(profile.name, _table(profile.verify)) for profile in catalog.load_all()))


def _table(row: Verify) -> dict[str, Any]:
    return row.model_dump(by_alias=True, exclude_unset=True)


def _case(data: bytes) -> Case:
    """A saved request, or the JSON of one case."""
    from kafka_webhook_bridge.sources.verify.case import Case, CaseError, parse_case
    from kafka_webhook_bridge.sources.verify.saved import parse_saved
    from kafka_webhook_bridge.sources.verify.verdict import OfflineKeys

    try:
        if data.lstrip()[:1] == b"{":
            return parse_case(_json("the case", data))
        if not data.strip():
            raise CaseError("there is nothing to read")
        return Case("", parse_saved(data), None, [], {}, OfflineKeys(), None)
    except CaseError as error:
        raise UsageError(f"this is no saved request: {error}") from None


def _json(what: str, data: bytes) -> Any:
    import orjson

    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise UsageError(f"{what} is not JSON: {error.msg} in line {error.lineno}") from None


def _read(name: str) -> bytes:
    from kafka_webhook_bridge.sources.verify.saved import SAVED_BYTES_MAX

    if name == "-":
        data = sys.stdin.buffer.read(SAVED_BYTES_MAX + 1)
    else:
        with _opened(name) as stream:
            data = stream.read(SAVED_BYTES_MAX + 1)
    if len(data) > SAVED_BYTES_MAX:
        raise UsageError(f"{name}: larger than {SAVED_BYTES_MAX >> 20} MiB")
    return data


def profile_of(name: str, catalog: Catalog) -> Profile:
    """The profile of --profile. Raises UsageError."""
    from kafka_webhook_bridge.sources.catalog import UnknownProfile

    if not name:
        raise UsageError(
            "which sender is it?",
            hint="--profile NAME (`kwb sources profiles` lists them), or --source of bridge.yaml.",
        )
    try:
        return catalog.load(name)
    except UnknownProfile as error:
        raise UsageError(str(error)) from None


def catalog_of(paths: list[Path] | None) -> Catalog:
    """The packaged profiles and those of --catalog. Raises ConfigError."""
    from kafka_webhook_bridge.errors import ConfigError
    from kafka_webhook_bridge.sources.catalog import Catalog

    catalog = Catalog(paths or [])
    if catalog.problems:
        raise ConfigError(catalog.problems)
    return catalog


def _secrets(names: list[str] | None, files: list[str] | None) -> dict[str, str]:
    """Secrets by what people call them: the variable or the file."""
    from kafka_webhook_bridge.settings import environment

    found = {}
    environ = environment()
    for name in names or []:
        text = environ.get(name, "")
        if not text:
            raise UsageError(f"the variable {name} is not set, or empty")
        found[name] = text
    for path in files or []:
        try:
            found[path] = Path(path).read_text(encoding="utf-8").removesuffix("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: {getattr(error, 'strerror', None) or 'is not UTF-8 text'}") from None
    return found


def _numbered(secrets: Sequence[str], source: str = "") -> dict[str, str]:
    of = f" of {source}" if source else ""
    return {f"secret {number}{of}": secret for number, secret in enumerate(secrets, 1)}


def params_of(pairs: list[str] | None) -> dict[str, str]:
    """What --param gives. Raises UsageError."""
    found = {}
    for pair in pairs or []:
        name, mark, value = pair.partition("=")
        if not mark or not name:
            raise UsageError(f"--param {pair}: NAME=VALUE")
        found[name] = value
    return found


def _addressed(request: Request, url: str) -> tuple[Request, str | None]:
    """The request at another address: its scheme, host and path, and its query where it has one."""
    from kafka_webhook_bridge.sources.verify.case import CaseError, split_url

    try:
        base, path, query = split_url(url)
    except CaseError:
        raise UsageError(f"--url {url} is no http or https address") from None
    request = request._replace(path=path or b"/")
    return (request if query is None else request._replace(query=query)), base


def _keys(case: Case, jwks: str, certificates: list[str]) -> OfflineKeys:
    from kafka_webhook_bridge.sources.verify.verdict import OfflineKeys

    if not jwks and not certificates:
        return case.keys
    keys = None
    if jwks:
        document = _json(f"--jwks {jwks}", _read(jwks))
        keys = document.get("keys") if isinstance(document, dict) else None
        if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
            raise UsageError(f"--jwks {jwks} has no array `keys` of objects")
    found = {}
    for pair in certificates:
        address, mark, name = pair.rpartition("=")
        if not mark or not address:
            raise UsageError(f"--cert {pair}: ADDRESS=FILE")
        found[address] = _read(name).decode("latin-1")
    return OfflineKeys(keys, found)


def _time(text: str) -> float:
    from datetime import UTC, datetime

    try:
        return float(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--at {text} is neither Unix seconds nor ISO 8601") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


# ---- what came of it -------------------------------------------------------------------------------------------------


def show(out: Output, case: Examined, diagnosis: Diagnosis) -> None:
    """The diagnosis for people and for machines."""
    verdict = diagnosis.verdict
    out.data(
        {
            "verified": verdict.ok,
            "code": verdict.code,
            "detail": verdict.detail,
            "profile": case.profile,
            "secret": diagnosis.secret,
            "findings": [finding._asdict() for finding in diagnosis.findings],
            "tries": diagnosis.tries,
            "body_bytes": len(case.request.body),
        }
    )
    if verdict.ok:
        by = f", by {diagnosis.secret}" if diagnosis.secret else ""
        out.say(f"right: this is a request of {case.profile}{by}", "green")
        return
    out.say(f"wrong: {verdict.code}", "red")
    proved = [finding for finding in diagnosis.findings if finding.proved]
    if proved:
        out.say("This is why; with it undone the signature is right:" if len(proved) == 1 else "These are why:")
    else:
        body = len(case.request.body)
        tried = f"{diagnosis.tries:,} changes of secret, body and address tried"
        out.say(f"Nothing proves why ({tried}; the body has {body:,} bytes).")
    for finding in diagnosis.findings:
        out.say(f"  {finding.what}  [{finding.code}]", "bold" if finding.proved else "")
        out.say(f"    → {finding.do}", "cyan")
