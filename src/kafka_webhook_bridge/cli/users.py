"""`kwb users`: outside consumers of the cluster. Who they are, what they may read, how far they are.

A password is shown once, or written to files that the owner alone can read, or goes to AWS Secrets Manager; it is kept
nowhere else.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from kafka_webhook_bridge.cli.output import Json, Output
from kafka_webhook_bridge.cli.turns import alone, unbroken
from kafka_webhook_bridge.errors import ConfigError, KafkaError, KwbError, Problem, StoreError, UsageError
from kafka_webhook_bridge.times import later, short

if TYPE_CHECKING:
    from kafka_webhook_bridge.cli.snippets import Access, Snippet
    from kafka_webhook_bridge.cli.vault import Vault
    from kafka_webhook_bridge.kafka.groups import Progress
    from kafka_webhook_bridge.kafka.users import User
    from kafka_webhook_bridge.settings import Settings
    from kafka_webhook_bridge.store import Store

T = TypeVar("T")
# Of one broker's threads, of which Kafka starts 11 unless told otherwise: a user takes a quarter of one at most.
# Who reads 140 MB/s, in records of 1 kB and without TLS, is not delayed at 10 yet.
REQUEST_PERCENTAGE = 25.0
_PASSWORD_BYTES = 32
_WINDOW_S_MAX = 600.0
_REST = "making or deleting it was cut short, or it logs in by other means."

Name = Annotated[str, typer.Argument(help="The user.")]
Folder = Annotated[
    Path | None,
    typer.Option("--output", help="Write the snippets to this folder, readable by you alone, and show no password."),
]


def register(app: typer.Typer) -> None:
    """`kwb users create NAME`, `kwb users [list]`, `kwb users rotate NAME`, `kwb users delete NAME`."""
    users = typer.Typer(invoke_without_command=True)
    app.add_typer(users, name="users")

    @users.callback()
    def default(context: typer.Context, json: Json = False) -> None:
        """Users for outside consumers: make, list, rotate, delete."""
        if context.invoked_subcommand is None:
            list_users(Output(json=json), 0)

    @users.command()
    def create(
        name: Name,
        topics: Annotated[
            list[str], typer.Option(help="What it may read: 'shop.*', a whole name, or '*'. May be given again.")
        ],
        group_prefix: Annotated[str, typer.Option(help="How its consumer groups begin, most often its name.")],
        bytes_per_second: Annotated[
            str, typer.Option(help="What each broker sends it at most: 5MB. Unset: no such limit.", metavar="SIZE")
        ] = "",
        expires: Annotated[str, typer.Option(help="The worker removes it after 12h, 90d, 4w.", metavar="TIME")] = "",
        output: Folder = None,
        json: Json = False,
    ) -> None:
        """Make a user that may read these topics and nothing else, and show how it does.

        It logs in with SCRAM-SHA-512 and a password that is made now and shown once.
        """
        create_user(Output(json=json), name, topics, group_prefix, bytes_per_second, expires, output)

    @users.command("list")
    def list_(
        window: Annotated[
            str, typer.Option(help="Measure records/s for so long; 0 leaves that out.", metavar="TIME")
        ] = "6s",
        json: Json = False,
    ) -> None:
        """All outside users as Kafka has them, with their consumer groups' lag and speed."""
        list_users(Output(json=json), _window_s(window))

    @users.command()
    def rotate(name: Name, output: Folder = None, json: Json = False) -> None:
        """Give a user a new password. Rights, quota and end stay; connections that are open go on."""
        rotate_user(Output(json=json), name, output)

    @users.command()
    def delete(name: Name, json: Json = False) -> None:
        """Remove a user: first its rights, so that it reads nothing more, then quota and credential."""
        delete_user(Output(json=json), name)


# ── create, rotate, delete ────────────────────────────────────────────────────────────────────────────────────────────


def create_user(
    out: Output, name: str, topics: list[str], group_prefix: str, rate: str, expires: str, folder: Path | None
) -> None:
    from kafka_webhook_bridge.kafka import quotas
    from kafka_webhook_bridge.kafka.users import Users, check_group_prefix, check_name, check_topic
    from kafka_webhook_bridge.settings import load_settings

    check_name(name)
    for topic in topics:
        check_topic(topic)
    check_group_prefix(group_prefix)
    limits = {quotas.REQUEST_PERCENTAGE: REQUEST_PERCENTAGE}
    if rate:
        limits[quotas.BYTE_RATE] = float(_bytes_per_second(rate))
    end = later("--expires", expires, datetime.now(UTC)) if expires else None
    settings = load_settings()
    if end is not None and settings.store.url is None:
        raise ConfigError(
            [Problem("DATABASE_URL", "is not set: --expires is kept in PostgreSQL, and the worker acts on it")],
            hint="Set it, or leave --expires out and remove the user with `kwb users delete`.",
        )
    users = Users(settings.kafka)
    users.check_login()
    check_name(name, users.super_users())
    patterns = tuple(dict.fromkeys(topics))
    access = _access(settings, out, name, secrets.token_urlsafe(_PASSWORD_BYTES), patterns, group_prefix)
    with alone(settings, out, name):
        _refuse_existing(users.find(name), name)
        with (
            _told_when_undone(out, name),
            unbroken() as go_on,
            _written(access, settings, folder) as files,
            _kept(access, settings) as secret,
            _end_recorded(settings, name, end),
        ):
            warnings = users.create(
                name, access.password, patterns, group_prefix, limits, limits_needed=bool(rate), go_on=go_on
            )
    _tell_access(out, access, files, secret, limits={} if warnings else limits, end=end, warnings=warnings)


def rotate_user(out: Output, name: str, folder: Path | None) -> None:
    from kafka_webhook_bridge.kafka.users import Users, check_name
    from kafka_webhook_bridge.observability.failpoints import failpoint
    from kafka_webhook_bridge.settings import load_settings

    check_name(name)
    settings = load_settings()
    users = Users(settings.kafka)
    users.check_login()
    check_name(name, users.super_users())
    with alone(settings, out, name):
        user = users.find(name)
        if user is None:
            raise _unknown(name)
        if not user.credential:
            raise KafkaError(f"{name} has no password that could be changed: {_REST}", hint=_end_rest(name))
        failpoint("users.found")
        prefix = next(iter(user.rights.groups), name).removesuffix("*") or name
        access = _access(settings, out, name, secrets.token_urlsafe(_PASSWORD_BYTES), user.rights.topics, prefix)
        with (
            unbroken(),
            _written(access, settings, folder, replace=True) as files,
            _kept(access, settings) as secret,
        ):
            users.put(name, access.password)
    _tell_access(out, access, files, secret, limits=user.limits, end=_ends(settings, out).get(name), warnings=[])


def delete_user(out: Output, name: str) -> None:
    from kafka_webhook_bridge.kafka.users import Users, check_name
    from kafka_webhook_bridge.settings import load_settings
    from kafka_webhook_bridge.store.users import forget_end

    check_name(name)
    settings = load_settings()
    users = Users(settings.kafka)
    users.check_login()
    check_name(name, users.super_users())
    with alone(settings, out, name), unbroken():
        warnings = users.delete(name)
        if settings.store.url is not None:
            try:
                _in_store(settings, lambda store: forget_end(store, name))
            except StoreError as error:
                # A user that is made under this name later would end at that time.
                out.note(f"Whether {name} was to end is still on record, perhaps: {error.message}", "yellow")
        if settings.users.secret_prefix:
            try:
                _vault(settings).forget(name)
            except KwbError as error:
                out.note(f"The secret with the password of {name} is still there, perhaps: {error.message}", "yellow")
    if warnings is None:
        raise _unknown(name)
    for warning in warnings:
        out.note(warning, "yellow")
    out.data({"deleted": name, "warnings": warnings})
    out.say(f"{name} is deleted.")


def _refuse_existing(found: User | None, name: str) -> None:
    if found is None:
        return
    raise KafkaError(
        f"There is a user {name}, or rights or a quota of one.",
        hint=f"`kwb users rotate {name}` gives it a new password; `kwb users delete {name}` removes all of it.",
    )


def _end_rest(name: str) -> str:
    return f"`kwb users delete {name}` removes what there is of it; then make it anew."


@contextlib.contextmanager
def _told_when_undone(out: Output, name: str) -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        with contextlib.suppress(OSError, SystemExit):  # the terminal may be gone; Rich exits at a broken pipe
            out.note(f"Stopped: there is no user {name}, and nothing of it.", "yellow")
        raise


def _unknown(name: str) -> KafkaError:
    return KafkaError(f"There is no user {name}.", hint="`kwb users list` shows those that there are.")


def _bytes_per_second(text: str) -> int:
    from kafka_webhook_bridge.texts import parse_size

    try:
        size = parse_size(text.removesuffix("/s"))
    except ValueError as error:
        raise UsageError(f"--bytes-per-second: {error}") from None
    if size < 1:
        raise UsageError("--bytes-per-second 0: with that it could read nothing.")
    return size


def _access(
    settings: Settings, out: Output, name: str, password: str, topics: tuple[str, ...], group_prefix: str
) -> Access:
    from kafka_webhook_bridge.cli.snippets import Access

    servers = settings.external_servers
    if not servers:
        servers = settings.kafka.bootstrap_servers
        out.note("KWB_KAFKA_EXTERNAL_SERVERS is not set: the snippets show the servers that the bridge uses.", "yellow")
    kafka = settings.kafka
    return Access(name, password, topics, group_prefix, servers, kafka.external_protocol, kafka.external_ca)


@contextlib.contextmanager
def _end_recorded(settings: Settings, name: str, end: datetime | None) -> Iterator[None]:
    """On record before the user is made, so that none outlives its end; not any more when it is not made.

    Without an end, one that a user of this name had before is forgotten.
    """
    from kafka_webhook_bridge.store.users import forget_end, put_end

    if settings.store.url is None:
        yield
        return
    if end is None:
        with contextlib.suppress(StoreError):  # a database that was never migrated has no ends
            _in_store(settings, lambda store: forget_end(store, name))
        yield
        return
    _in_store(settings, lambda store: put_end(store, name, end))
    try:
        yield
    except BaseException:
        with contextlib.suppress(StoreError):
            _in_store(settings, lambda store: forget_end(store, name))
        raise


@contextlib.contextmanager
def _written(access: Access, settings: Settings, folder: Path | None, *, replace: bool = False) -> Iterator[list[str]]:
    """The snippets in `folder`, before the password is in force; gone again when it does not come to that."""
    from kafka_webhook_bridge.cli.snippets import snippets
    from kafka_webhook_bridge.stack.files import write_private

    if folder is None:
        yield []
        return
    paths = {snippet: folder / snippet.file for snippet in snippets(access)}
    if not replace and (there := [path for path in paths.values() if path.exists()]):
        raise UsageError(f"{there[0]} is there already: choose another folder.")
    made: list[Path] = []
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Beside the old ones first: a password that is not in force must not replace one that is.
        for snippet, path in paths.items():
            made.append(path.with_name(f"{path.name}.new"))
            write_private(made[-1], snippet.text)
    except OSError as error:
        _unlink(made)
        raise KwbError(f"The snippets cannot be written to {folder}: {error.strerror}.") from error
    try:
        yield [str(path) for path in paths.values()]
    except BaseException:
        _unlink(made)
        raise
    for path in made:
        path.replace(path.with_suffix(""))
    ca = Path(settings.kafka.external_ca)
    if settings.kafka.external_ca and not ca.is_absolute() and ca.is_file() and not (folder / ca.name).exists():
        shutil.copyfile(ca, folder / ca.name)


@contextlib.contextmanager
def _kept(access: Access, settings: Settings) -> Iterator[str]:
    """The name of the secret that the password goes to; empty where there is no place for secrets."""
    if not settings.users.secret_prefix:
        yield ""
        return
    with _vault(settings).kept(access) as name:
        yield name


def _vault(settings: Settings) -> Vault:
    from kafka_webhook_bridge.cli.vault import Vault

    return Vault(settings)


def _unlink(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _tell_access(
    out: Output, access: Access, files: list[str], secret: str, *, limits: Any, end: datetime | None,
    warnings: list[str],
) -> None:  # fmt: skip
    from kafka_webhook_bridge.cli.snippets import snippets

    shown = snippets(access)
    kept = bool(files or secret)
    open_words = {} if kept else {"password": access.password, "snippets": {s.kind: s.text for s in shown}}
    out.data(
        {
            "name": access.name,
            "topics": access.topics,
            "group_prefix": access.group_prefix,
            "limits": limits,
            "expires_at": end,
            "bootstrap_servers": access.servers,
            "security_protocol": access.protocol,
            "sasl_mechanism": "SCRAM-SHA-512",
            "ca": access.ca,
            "files": files,
            "secret": secret,
            "use": {s.kind: s.use for s in shown},
            "warnings": warnings,
            **open_words,
        }
    )
    for warning in warnings:
        out.note(warning, "yellow")
    out.say(f"{access.name} may read {', '.join(access.topics) or 'nothing'}", "bold")
    out.say(f"  servers   {access.servers}   {access.protocol} SCRAM-SHA-512")
    out.say(f"  groups    whose names begin with {access.group_prefix}")
    out.say(f"  limits    {_limits(limits) or 'none'}")
    if access.ca:
        out.say(f"  authority {access.ca}   (give it to whoever reads)")
    if end is not None:
        out.say(f"  until     {short(end)} UTC; then the worker removes it")
    if secret:
        out.say(f"  password  in AWS Secrets Manager, as {secret}")
        out.say(f"$ aws secretsmanager get-secret-value --secret-id {secret} --query SecretString --output text", "dim")
    if files:
        out.say(f"  password  in the files below{_of_a_container()}, and nowhere else")
        for path, snippet in zip(files, shown, strict=True):
            out.say(f"{path}", "bold")
            out.say(f"  {snippet.use}")
        return
    if kept:
        return
    out.say(f"  password  {access.password}   (shown this once)")
    for snippet in shown:
        _show(out, snippet)


def _of_a_container() -> str:
    """Files in a container are not where the person is who started the command."""
    inside = any(map(os.path.exists, ("/.dockerenv", "/run/.containerenv")))
    return " of this container (docs/howto/outside-consumers.md says how to get them out)" if inside else ""


def _show(out: Output, snippet: Snippet) -> None:
    out.say()
    out.say(f"{snippet.title}: {snippet.file}", "bold")
    for line in snippet.text.splitlines():
        out.say(line)
    out.say(f"$ {snippet.use}", "dim")


# ── list ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def list_users(out: Output, window_s: float) -> None:
    from kafka_webhook_bridge.kafka.groups import Groups
    from kafka_webhook_bridge.kafka.users import Users, matches
    from kafka_webhook_bridge.settings import load_settings

    settings = load_settings()
    with out.working("Reading the users"):
        cluster, groups = Users(settings.kafka), Groups(settings.kafka)
        cluster.check_login()
        users = cluster.all()
        states = groups.states()
        own = {user.name: sorted(g for g in states if matches(user.rights.groups, g)) for user in users}
        wanted = {group for found in own.values() for group in found}
        before, at = groups.progress(wanted), time.monotonic()
    after, elapsed_s = before, 0.0
    if window_s and wanted:
        with out.working(f"Measuring for {window_s:.0f} s"):
            time.sleep(window_s)
            after = groups.progress(wanted)
            elapsed_s = time.monotonic() - at
    ends, now = _ends(settings, out), datetime.now(UTC)

    def group_row(group: str) -> dict[str, Any]:
        speed = _speed(before[group], after[group], elapsed_s)
        return {"group": group, "state": states[group], "lag": after[group].lag, "records_per_second": speed}

    rows: list[dict[str, Any]] = [
        {
            "name": user.name,
            "credential": user.credential,
            "topics": user.rights.topics,
            "groups": user.rights.groups,
            "other_rights": user.rights.others,
            "limits": dict(user.limits),
            "expires_at": ends.get(user.name),
            "expired": user.name in ends and ends[user.name] <= now,
            "consumer_groups": [group_row(group) for group in own[user.name]],
        }
        for user in users
    ]
    out.data(rows)
    if not rows:
        out.note("There are no outside users; `kwb users create` makes one.")
        return
    out.table(("user", "topics", "groups", "limits", "until (UTC)"), map(_user_line, rows), whole=("user",))
    lines = [line for row in rows for line in _group_lines(row)]
    if lines:
        out.table(("user", "consumer group", "lag", "records/s"), lines, whole=("user", "lag", "records/s"))
    for row in rows:
        name = row["name"]
        if row["other_rights"]:
            out.note(f"{name} has rights that `kwb users` does not give: {', '.join(row['other_rights'])}", "yellow")
        if not row["credential"]:
            out.note(f"{name} has no password: {_REST} {_end_rest(name)}", "yellow")
        elif not row["topics"] and not row["other_rights"]:
            out.note(f"{name} may read nothing: deleting it was cut short? {_end_rest(name)}", "yellow")


def _user_line(row: dict[str, Any]) -> tuple[object, ...]:
    end = row["expires_at"]
    return (
        row["name"], "\n".join(row["topics"]) or None, "\n".join(row["groups"]) or None,
        _limits(row["limits"], "\n") or None, f"{short(end)}{' (over)' if row['expired'] else ''}" if end else None,
    )  # fmt: skip


def _group_lines(row: dict[str, Any]) -> Iterator[tuple[object, ...]]:
    """One for each consumer group; the user's name stands before the first."""
    name = row["name"]
    for group in row["consumer_groups"]:
        lag, speed = group["lag"], group["records_per_second"]
        yield name, group["group"], f"{lag:,}", speed if speed is None else f"{speed:,.1f}"
        name = ""


def _speed(before: Progress, after: Progress, elapsed_s: float) -> float | None:
    return round(max(0, after.passed - before.passed) / elapsed_s, 1) if elapsed_s else None


def _limits(limits: Any, between: str = ", ") -> str:
    from kafka_webhook_bridge.kafka import quotas

    words = []
    for name, value in sorted(limits.items()):
        if name == quotas.BYTE_RATE:
            words.append(f"{value:,.0f} B/s of each broker")
        elif name == quotas.REQUEST_PERCENTAGE:
            words.append(f"{value:g} % of a thread")
        else:
            words.append(f"{name} {value:g}")
    return between.join(words)


def _window_s(text: str) -> float:
    if text.strip() == "0":
        return 0
    now = datetime.now(UTC)
    seconds = (later("--window", text, now) - now).total_seconds()
    if seconds > _WINDOW_S_MAX:
        raise UsageError(f"--window {text}: at most {_WINDOW_S_MAX / 60:.0f} minutes")
    return seconds


def _ends(settings: Settings, out: Output) -> dict[str, datetime]:
    """When users end, as far as PostgreSQL knows; the rest is useful without it, too."""
    from kafka_webhook_bridge.store.users import ends

    if settings.store.url is None:
        return {}
    try:
        return dict(_in_store(settings, ends))
    except StoreError as error:
        out.note(f"When the users end is not known: {error.message}")
        return {}


def _in_store(settings: Settings, work: Callable[[Store], Any]) -> Any:
    import asyncio

    from kafka_webhook_bridge.store import Store

    async def run() -> Any:
        async with Store(settings.store) as store:
            return await work(store)

    return asyncio.run(run())
