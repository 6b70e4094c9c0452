"""`kwb sources`: who may send, where it goes, and a line to try it with."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kafka_webhook_bridge.cli.output import FOUND_PROBLEM, Json, Output
from kafka_webhook_bridge.cli.profiles import list_profiles, show_profile
from kafka_webhook_bridge.cli.secrets import list_secrets, register_source

if TYPE_CHECKING:
    from kafka_webhook_bridge.settings import Settings
    from kafka_webhook_bridge.sources.source import Source
    from kafka_webhook_bridge.sources.table import SourceTable

OwnCatalog = Annotated[
    list[Path] | None, typer.Option("--catalog", help="File or folder of profiles of your own; repeatable.")
]
_METHODS = ("POST", "PUT", "PATCH", "DELETE", "GET", "OPTIONS", "HEAD")  # which one the line to try takes
_BODILESS = {"GET", "HEAD", "OPTIONS"}
_TRIAL_BODY = '{"hello":"kafka"}'

_ACKS = {
    "any": "when Kafka or PostgreSQL has it",
    "kafka": "when Kafka has it",
    "store": "when PostgreSQL has it",
    "both": "when Kafka and PostgreSQL have it",
}


def register(app: typer.Typer) -> None:
    """`kwb sources [list]`, `kwb sources show NAME`, `kwb sources profiles [WORD]`, `kwb sources profile NAME`,
    `kwb sources register NAME`, `kwb sources secrets NAME`."""
    sources = typer.Typer(invoke_without_command=True)
    app.add_typer(sources, name="sources")

    @sources.callback()
    def default(context: typer.Context, json: Json = False) -> None:
        """List and show the configured senders."""
        if context.invoked_subcommand is None:
            list_sources(Output(json=json))

    @sources.command("list")
    def list_(json: Json = False) -> None:
        """All sources of bridge.yaml, and the open rule."""
        list_sources(Output(json=json))

    @sources.command()
    def show(
        name: Annotated[str, typer.Argument(help="The source.")],
        json: Json = False,
    ) -> None:
        """What a source takes, where it goes, the address to give to the sender, and a line to try it with."""
        show_source(name, Output(json=json))

    @sources.command()
    def profiles(
        words: Annotated[list[str] | None, typer.Argument(help="Parts of a name.", metavar="WORD")] = None,
        catalog: OwnCatalog = None,
        json: Json = False,
    ) -> None:
        """Whom the catalog knows, how they sign, and what that rests on."""
        list_profiles(words or [], catalog or [], Output(json=json))

    @sources.command()
    def profile(
        name: Annotated[str, typer.Argument(help="The profile.")], catalog: OwnCatalog = None, json: Json = False
    ) -> None:
        """How requests of a profile are checked, what it needs, and a source of bridge.yaml with it."""
        show_profile(name, catalog or [], Output(json=json))

    @sources.command("register")
    def register_(
        name: Annotated[str, typer.Argument(help="The source.")],
        minutes: Annotated[int, typer.Option(help="For so long.", min=1, max=1440)] = 15,
        json: Json = False,
    ) -> None:
        """Let the next hand-shake of a sender bring its secret, as those of Asana and Notion do; one, and no more."""
        register_source(name, minutes, Output(json=json))

    @sources.command()
    def secrets(
        name: Annotated[str, typer.Argument(help="The source.")],
        show: Annotated[bool, typer.Option("--show", help="Show them, for the sender's settings page.")] = False,
        forget: Annotated[str, typer.Option(help="Forget the one of this id.", metavar="ID")] = "",
        json: Json = False,
    ) -> None:
        """Secrets that came by a hand-shake: when, and whether they can be read."""
        list_secrets(name, Output(json=json), show=show, forget=forget)


def list_sources(out: Output) -> None:
    from kafka_webhook_bridge.sources.config import load_configuration

    settings, table = load_configuration()
    found = [_facts(source, settings, table) for source in table.all()]
    rule = _rule(table)
    out.data({"sources": found, "open_rule": rule})
    if found:
        out.table(
            ("source", "topic", "login", "format", "key", "body max"),
            [(f["name"], f["topic"], _login(f), f["format"], f["key"], _size(f["body_bytes_max"])) for f in found],
            whole=("source", "format", "body max"),
        )
        out.say(f"They send to {table.public_url or _address(settings)}/SOURCE; see `kwb sources show SOURCE`.")
    out.say(_rule_words(rule))


def show_source(name: str, out: Output) -> None:
    import difflib

    from kafka_webhook_bridge.sources.config import load_configuration

    settings, table = load_configuration()
    source = table.get(name) or table.open_source(name)
    if source is None:
        near = difflib.get_close_matches(name, [source.name for source in table.all()], 1)
        out.data(None)
        out.say(f"There is no source {name}" + (f"; did you mean {near[0]}?" if near else "."))
        raise typer.Exit(FOUND_PROBLEM)
    facts = _facts(source, settings, table)
    out.data(facts)
    out.say(f"{name}  {facts['url']}", "bold")
    if source.open:
        out.say("by the open rule; its topic is made at the first webhook, if it is not there")
    limit = facts["rate_limit_per_second"]
    compressed = "kept as they are" if facts["content_encoding"] == "opaque" else "refused with 415"
    out.table(
        ("what", "this source"),
        [
            ("topic", facts["topic"]),
            *_rule_rows(facts),
            ("authentication", _login(facts)),
            ("proof", _proof(facts)),
            ("methods", ", ".join(facts["methods"])),
            ("largest body", _size(facts["body_bytes_max"])),
            ("format", facts["format"]),
            ("event type", facts["type"]),
            ("partition key", facts["key"]),
            ("answers 2xx", _ACKS[facts["ack"]]),
            ("order", "kept" if facts["ordering"] == "strict" else "not kept"),
            ("delivery id", facts["delivery_id"]),
            ("duplicates", _duplicates(facts)),
            ("compressed bodies", compressed),
            ("rate limit", None if limit is None else f"{limit:g} per second"),
            ("JSON index", "yes" if facts["index_json"] else "no"),
        ],
    )
    if facts["variables"] and facts["own_credentials"]:
        out.say(f"Set {' and '.join(facts['variables'])} to the source's own credentials, then try it with")
    else:
        out.say("Try it with")
    out.say(f"  {facts['try']}")


def _rule_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """What a source does with events besides storing them; nothing where it does nothing."""
    rules = facts["rules"]
    if rules is None:
        return []
    rows = []
    if rules["topic"]:
        rows.append(("chosen by", f"{rules['topic']}, of {', '.join(facts['topics'])}; {facts['topic']} is for others"))
    if rules["filter"]:
        rows.append(("filter", ", ".join(f"{w} {rule[w]}" for rule in rules["filter"] for w in rule if w != "when")))
    if rules["redact"]:
        rows.append(("taken out", ", ".join(f"{k} {name}" for k, names in rules["redact"].items() for name in names)))
    if rules["split"]:
        rows.append(("split", rules["split"]))
    return rows


def _facts(source: Source, settings: Settings, table: SourceTable) -> dict[str, Any]:
    """What people may know of a source: no secret, only the names of variables for them."""
    from kafka_webhook_bridge.sources.basic import Credential
    from kafka_webhook_bridge.sources.table import describe

    bridge = settings.bridge
    password = bridge.password.get_secret_value() if bridge.password else ""
    own = source.auth == "basic" and source.credentials != (Credential.of(bridge.username, password),)
    prefix = source.name.upper().replace("-", "_") if own else "WEBHOOK"
    if prefix[0].isdigit():  # no variable begins with one
        prefix = f"SOURCE_{prefix}"
    variables = [f"{prefix}_USERNAME", f"{prefix}_PASSWORD"] if source.auth == "basic" else []
    here = f"{table.public_url or _address(settings)}/{source.name}"
    url = (source.public.base + source.public.path).decode() if source.public else here
    facts = describe(source)
    del facts["credentials"]
    return {
        **facts,
        "own_credentials": own,
        "open": source.open,
        "url": url,
        "variables": variables,
        "try": f"kwb send {source.name}" if source.proof else _curl(url, facts["methods"], _login_word(variables)),
    }


def example(table: SourceTable, settings: Settings, url: str, login: str) -> tuple[str, str]:
    """A webhook to try at `url`, as a line for a shell, and its topic: to `demo`, where that name is taken.

    `login` are the bridge's own credentials, as curl takes them.
    """
    plain = next((source for source in table.all() if source.proof is None), None)
    source = table.get("demo") or table.open_source("demo") or plain or table.all()[0]
    if source.proof is not None:
        return f"kwb send {source.name}", source.topic
    facts = _facts(source, settings, table)
    word = _login_word(facts["variables"]) if facts["own_credentials"] or not facts["variables"] else shlex.quote(login)
    return _curl(f"{url}/{source.name}", facts["methods"], word), source.topic


def _login_word(variables: list[str]) -> str:
    return '"${}:${}"'.format(*variables) if variables else ""


def _curl(url: str, methods: list[str], login: str) -> str:
    """A line for a shell; `login` is quoted already, and empty for none."""
    method = next(method for method in _METHODS if method in methods)
    words = ["curl", "-i"]
    if login:
        words += ["-u", login]
    if method == "HEAD":
        words += ["-I"]
    elif method not in {"GET", "POST"}:
        words += ["-X", method]
    if method not in _BODILESS:
        words += ["-H", "'Content-Type: application/json'", "-d", f"'{_TRIAL_BODY}'"]
    return " ".join([*words, shlex.quote(url)])


def _address(settings: Settings) -> str:
    """Where senders reach the bridge, as far as the settings tell: in its domain, else at its own port."""
    if settings.bridge.domain_name:
        return f"https://webhooks.{settings.bridge.domain_name}"
    return settings.ingest.url


def _rule(table: SourceTable) -> dict[str, Any] | None:
    if not table.open_rule:
        return None
    return {"topic_prefix": table.topic_prefix, "topics_max": table.topics_max}


def _rule_words(rule: dict[str, Any] | None) -> str:
    if rule is None:
        return "The open rule is off: any other name is answered 404."
    return (
        f"The open rule is on: any other name, with the bridge's credentials, goes to the topic "
        f"{rule['topic_prefix']}<name>, made at first use, up to {rule['topics_max']} topics."
    )


def _login(facts: dict[str, Any]) -> str:
    basic = "Basic, its own" if facts["own_credentials"] else "Basic, the bridge's"
    if facts["profile"] is not None:
        return f"{facts['profile']}" + ("" if facts["auth"] == "none" else f", and {basic}")
    return "none: anybody may send" if facts["auth"] == "none" else basic


def _proof(facts: dict[str, Any]) -> str | None:
    if facts["profile"] is None:
        return None
    covers = "the body is signed" if facts["covers_body"] else "the body is not signed"
    secrets = f"; {facts['secrets']} secrets count" if facts["secrets"] > 1 else ""
    return f"{facts['verified']}: {covers}{secrets}"


def _duplicates(facts: dict[str, Any]) -> str:
    if facts["delivery_id"] is None:
        return "not looked for: there is no delivery_id"
    if facts["dedupe"] == "suppress":
        return "suppressed: answered with the first one's receipt"
    return "stored, and marked in the archive"


def _size(number: int) -> str:
    for unit, name in ((1024**2, "MiB"), (1024, "KiB")):
        if number and number % unit == 0:
            return f"{number // unit} {name}"
    return f"{number} bytes"
