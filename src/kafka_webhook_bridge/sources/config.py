"""bridge.yaml → SourceTable, or every problem in it at once (`file:line`, and the near match of unknown words)."""

from __future__ import annotations

import ipaddress
import pathlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from kafka_webhook_bridge.errors import ConfigError, Problem
from kafka_webhook_bridge.settings import (
    Settings,
    check_settings,
    expand_variables,
    is_inline,
    read_configuration,
    variables,
)
from kafka_webhook_bridge.sources.basic import Credential
from kafka_webhook_bridge.sources.catalog import Catalog
from kafka_webhook_bridge.sources.document import Document, Path, parse_document
from kafka_webhook_bridge.sources.keys import BodyHash, FirstOf, KeyTemplate, parse_template, parse_templates
from kafka_webhook_bridge.sources.model import BridgeModel, SourceModel, check_prefix
from kafka_webhook_bridge.sources.profile import HASH, Profile
from kafka_webhook_bridge.sources.proof import NoKeys, Resolver, asks_login, public_of
from kafka_webhook_bridge.sources.ruling import is_template, rules_of, with_branches
from kafka_webhook_bridge.sources.source import NAME, RESERVED_NAMES, Ack, Answer, Proof, Source, named
from kafka_webhook_bridge.sources.table import Network, SourceTable, metric_name
from kafka_webhook_bridge.sources.verify import KeyStore
from kafka_webhook_bridge.sources.words import explain

Model = TypeVar("Model", bound=BaseModel)
Value = TypeVar("Value")


def load_configuration(environ: Mapping[str, str] | None = None, **overrides: Any) -> tuple[Settings, SourceTable]:
    """Settings and sources. Raises ConfigError with the problems of both at once."""
    settings, _, table, problems = check_configuration(environ, **overrides)
    if problems or table is None:
        raise ConfigError(problems)
    return settings, table


def check_configuration(
    environ: Mapping[str, str] | None = None, *, receives: bool = True, **overrides: Any
) -> tuple[Settings, dict[str, str], SourceTable | None, list[Problem]]:
    """Settings, where each came from, the sources (None when they are wrong), and the problems of both.

    A process that never `receives`, nor reads what was received, is asked for no source, and gets none.
    """
    settings, origin, problems = check_settings(environ, **overrides)
    table, more = _load(settings, environ, receives, None, None)
    told = {problem.where for problem in problems}  # a variable that is wrong is not said to be missing, too
    return settings, origin, table, problems + [problem for problem in more if problem.where not in told]


def load_sources(
    settings: Settings,
    environ: Mapping[str, str] | None = None,
    *,
    receives: bool = True,
    keys: KeyStore | None = None,
    learned: Mapping[str, Sequence[str]] | None = None,
) -> SourceTable:
    """The sources of bridge.yaml, or the open rule alone. Raises ConfigError with every problem at once.

    `keys` are the public keys that verifiers look for while requests come; without it there are none. `learned` are
    secrets that senders gave by a hand-shake, by the source's name.
    """
    table, problems = _load(settings, environ, receives, keys, learned)
    if table is None:
        raise ConfigError(problems)
    return table


def _load(
    settings: Settings,
    environ: Mapping[str, str] | None,
    receives: bool,
    keys: KeyStore | None,
    learned: Mapping[str, Sequence[str]] | None,
) -> tuple[SourceTable | None, list[Problem]]:
    try:
        name, text = read_configuration(settings.bridge.config)
    except OSError as error:
        return None, [Problem(settings.bridge.config, f"cannot be read: {error.strerror}")]
    except ValueError as error:
        return None, [Problem(settings.bridge.config, f"is not UTF-8 text: {error}")]
    expand = partial(expand_variables, environ=variables(settings.bridge, environ))
    document = parse_document(name, text, expand if receives else partial(_as_far_as_set, expand))
    folder = pathlib.Path() if is_inline(settings.bridge.config) else pathlib.Path(settings.bridge.config).parent
    builder = _Builder(settings, document, receives, keys or NoKeys(), folder, learned or {})
    table = None if document.problems and document.data is None else builder.build()
    document.problems.sort(key=_by_line)
    return (None if document.problems else table), document.problems


def _as_far_as_set(expand: Callable[[str], str], text: str) -> str:
    """The variables of the sources' secrets are not there where nothing is received."""
    try:
        return expand(text)
    except KeyError:
        return text


class _Builder:
    """One pass over one document; every step records its problems and goes on."""

    def __init__(
        self,
        settings: Settings,
        document: Document,
        receives: bool,
        keys: KeyStore,
        folder: pathlib.Path,
        learned: Mapping[str, Sequence[str]],
    ) -> None:
        self._settings = settings
        self._document = document
        self._receives = receives
        self._keys = keys
        self._folder = folder
        self._learned = learned
        self._bridge_credentials = self._read_bridge_credentials()
        self._without_credentials: list[str] = []
        self._faulty_words: set[str] = set()

    def build(self) -> SourceTable | None:
        data = {} if self._document.data is None else self._document.data
        if not isinstance(data, dict):
            self._document.problem((), "bridge.yaml must be a mapping that begins with `sources:`")
            return None
        models = self._source_models(data.get("sources")) if self._receives else {}
        bridge = self._bridge_model({**data, "sources": {}})
        proxies = self._trusted_proxies(bridge)
        self._public_url = bridge.public_url
        store = self._settings.store
        self._resolver = Resolver(
            self._document,
            self._catalog(bridge) if self._receives else Catalog(),
            self._keys,
            forwarded=bool(proxies),
            learned=self._learned,
            keeps_learned=store.url is not None and store.secret_key is not None,
        )
        sources = {name: self._source(name, model) for name, model in models.items()}
        self._check_topics(sources)
        open_pattern = self._open_pattern(bridge) if self._receives else None
        self._check_credentials()
        empty = not data.get("sources") and open_pattern is None and "open_rule" not in self._faulty_words
        if empty and self._receives:
            what = "there is no source and the open rule is off, so nothing could be received: "
            self._problem("KWB_CONFIG", what + "name a bridge.yaml with sources, or set KWB_BRIDGE_OPEN_RULE=true")
        return SourceTable(
            sources,
            open_pattern=open_pattern,
            topic_prefix=_either(bridge.topic_prefix, self._settings.bridge.topic_prefix),
            topics_max=_either(bridge.topics_max, self._settings.bridge.topics_max),
            trusted_proxies=proxies,
            public_url=bridge.public_url,
        )

    def _bridge_model(self, data: dict[str, Any]) -> BridgeModel:
        """The words beside `sources`; faulty ones are left out, so that the others can be checked."""
        bridge = self._validate(BridgeModel, data, ())
        if bridge is None:
            self._faulty_words = {str(path[0]) for path in self._document.faulty if path and path[0] != "sources"}
            bridge = BridgeModel.model_validate({k: v for k, v in data.items() if k not in self._faulty_words})
        return bridge

    def _source_models(self, data: Any) -> dict[str, SourceModel]:
        if not isinstance(data, dict | None):
            self._document.problem(("sources",), "sources: must be a mapping of names to sources")
            return {}
        models = {}
        for name, keys in (data or {}).items():
            path: Path = ("sources", name)
            if name in RESERVED_NAMES:
                self._document.problem(path, f"sources.{name}: the name is reserved for /{name}")
            elif not NAME.fullmatch(name):
                what = "names are lower-case letters, digits and hyphens, at most 100, not a hyphen first"
                self._document.problem(path, f"sources.{name}: {what}")
            model = self._validate(SourceModel, {} if keys is None else keys, path)
            if model is not None:
                models[name] = model
        return models

    def _validate(self, model: type[Model], data: Any, path: Path) -> Model | None:
        try:
            return model.model_validate(data)
        except ValidationError as invalid:
            for error in invalid.errors(include_url=False):
                self._document.problem(*explain(model, path, error))
            return None

    def _catalog(self, bridge: BridgeModel) -> Catalog:
        """The packaged profiles and the user's own."""
        catalog = Catalog(self._folder / path for path in bridge.catalog)
        self._document.problems += catalog.problems
        return catalog

    def _source(self, name: str, model: SourceModel) -> Source:
        profile = self._resolver.profile(name, model)
        public = public_of(name, model.public_url, self._public_url)
        proof = None if profile is None else self._resolver.proof(name, model, profile, public)
        key = _templates(model.key, None if profile is None else profile.event.key)
        kind = _templates(model.type, None if profile is None else profile.event.type)
        delivery_id = self._delivery_id(name, model, profile)
        login = asks_login(model) if model.profile is not None else model.auth == "basic"
        rules = rules_of(
            model,
            lambda key, what: self._document.problem(("sources", name, key), f"sources.{name}.{key}: {what}"),
            read={"key": key, "type": kind, "delivery_id": delivery_id},
            decodes=proof is not None and proof.decode is not None,
        )
        source = Source(
            **named(name),
            topic=(model.topic_otherwise if is_template(model.topic) else model.topic) or name,
            methods=frozenset(method.encode() for method in model.methods),
            allow=", ".join(dict.fromkeys(model.methods)).encode(),
            body_bytes_max=_either(model.body_bytes_max, self._settings.ingest.body_bytes_max),
            auth="basic" if login else "none",
            credentials=self._credentials(name, model, login),
            format=model.format,
            key=key,
            needs_json=model.format != "raw"
            or any(template is not None and template.needs_json for template in (key, kind, delivery_id))
            or (proof is not None and _parses(proof))
            or (rules is not None and rules.needs_json),
            content_encoding_opaque=model.content_encoding == "opaque",
            rate_limit_per_second=model.rate_limit_per_second,
            index_json=model.index_json,
            ack=self._ack(name, model),
            strict=model.ordering == "strict",
            delivery_id=delivery_id,
            dedupe=model.dedupe,
            verified=_verified(login, proof),
            covers_body=proof is not None and proof.verifier.covers_body,
            type=kind,
            answer=_answer(model, profile),
            proof=proof,
            public=public,
            proof_headers=frozenset() if proof is None else proof.places.kept,
            rules=rules,
        )
        return with_branches(source, model)

    def _ack(self, name: str, model: SourceModel) -> Ack:
        """The durable place that answers (rules.md 5, 6)."""
        path: Path = ("sources", name)
        strict = model.ordering == "strict"
        if strict and "ack" in model.model_fields_set and model.ack != "store":
            what = "`ordering: strict` sends every event by way of PostgreSQL, so `ack` can only be `store`"
            self._document.problem(path, f"sources.{name}: {what}")
        ack: Ack = "store" if strict else model.ack
        if ack in ("store", "both") and self._settings.store.url is None:
            why = "`ordering: strict`" if strict else f"`ack: {ack}`"
            self._document.problem(path, f"sources.{name}: {why} needs PostgreSQL, but DATABASE_URL is not set")
        return ack

    def _delivery_id(
        self, name: str, model: SourceModel, profile: Profile | None
    ) -> KeyTemplate | FirstOf | BodyHash | None:
        """Where the sender's delivery id stands (rules.md 13, 14)."""
        path: Path = ("sources", name)
        where = f"sources.{name}"
        if model.dedupe == "body":
            if model.delivery_id is not None:
                what = "`dedupe: body` takes the body for the delivery id, so there can be no other"
                self._document.problem((*path, "delivery_id"), f"{where}.delivery_id: {what}")
            return BodyHash()
        of_profile = None if profile is None else profile.event.delivery_id
        if of_profile == [HASH]:
            of_profile = None
        if model.dedupe == "suppress":
            if model.delivery_id is None and of_profile is None:
                what = '`dedupe: suppress` needs a `delivery_id`, such as "{header:X-Delivery-Id}"'
                self._document.problem(path, f"{where}: {what}")
            if self._settings.store.url is None:
                what = "`suppress` remembers deliveries in PostgreSQL, but DATABASE_URL is not set"
                self._document.problem((*path, "dedupe"), f"{where}.dedupe: {what}")
            elif self._settings.archive.dedupe_window_days == 0:
                what = "`suppress` needs a window, but KWB_ARCHIVE_DEDUPE_WINDOW_DAYS is 0"
                self._document.problem((*path, "dedupe"), f"{where}.dedupe: {what}")
        return _templates(model.delivery_id, of_profile)

    def _credentials(self, name: str, model: SourceModel, login: bool) -> tuple[Credential, ...]:
        path: Path = ("sources", name)
        if not login and model.profile is not None:
            if model.password is not None:
                self._document.problem(path, f"sources.{name}: username and password only come together")
            return ()
        if model.auth == "none":
            if model.username is not None or model.password is not None:
                self._document.problem(path, f"sources.{name}: `auth: none` takes no username and password")
            return ()
        if model.username is not None and model.password is not None:
            return (Credential.of(model.username, model.password.get_secret_value()),)
        if model.username is not None or model.password is not None:
            self._document.problem(path, f"sources.{name}: username and password only come together")
        elif not self._bridge_credentials:
            self._without_credentials.append(name)
        return self._bridge_credentials

    def _read_bridge_credentials(self) -> tuple[Credential, ...]:
        bridge = self._settings.bridge
        if ":" in bridge.username:
            self._problem("WEBHOOK_USERNAME", "a Basic user name cannot contain a colon")
        if not bridge.username or bridge.password is None or not bridge.password.get_secret_value():
            return ()
        return (Credential.of(bridge.username, bridge.password.get_secret_value()),)

    def _check_credentials(self) -> None:
        """A missing user name or password of the bridge is told once, with those who need it."""
        if not self._without_credentials:
            return
        names = ", ".join(self._without_credentials[:5]) + (", …" if len(self._without_credentials) > 5 else "")
        bridge = self._settings.bridge
        for variable, value in (("WEBHOOK_USERNAME", bridge.username), ("WEBHOOK_PASSWORD", bridge.password)):
            if not value or (not isinstance(value, str) and not value.get_secret_value()):
                self._problem(variable, f"is not set, but needed for Basic authentication by {names}")

    def _open_pattern(self, bridge: BridgeModel) -> Source | None:
        """The source that all open ones are made of, or None if the open rule is off (rules.md 11)."""
        settings = self._settings.bridge
        given = settings.open_rule
        if given is None and settings.own_broker and not settings.config.strip():
            given = True
        if not (given if bridge.open_rule is None else bridge.open_rule):
            return None
        prefix = _either(bridge.topic_prefix, settings.topic_prefix)
        if not prefix and "topic_prefix" not in self._faulty_words and given is not True:
            what = "open_rule: needs a topic_prefix, so that no sender can choose a topic that serves something else"
            self._document.problem(("open_rule",), what)
        if prefix == settings.topic_prefix:
            try:
                check_prefix(settings.topic_prefix)
            except ValueError as error:
                self._problem("KWB_BRIDGE_TOPIC_PREFIX", str(error))
        if self._settings.store.url is None:
            what = "is not set, but the open rule uses only topics that PostgreSQL records as the bridge's own: "
            self._problem("DATABASE_URL", what + "set it, or name each source in bridge.yaml")
        pattern = self._source("open-rule", SourceModel())
        if self._without_credentials and self._without_credentials[-1] == "open-rule":
            self._without_credentials[-1] = "the open rule"
        return pattern

    def _check_topics(self, sources: Mapping[str, Source]) -> None:
        """Kafka refuses a topic whose metric name another has: `a.b` and `a_b`."""
        seen: dict[str, Source] = {}
        for name, source in sources.items():
            for branch in (source, *source.branches.values()):
                other = seen.setdefault(metric_name(branch.topic), branch)
                if other.topic != branch.topic:
                    key = "topics" if branch.topic in source.branches else "topic"
                    what = f"{branch.topic!r} collides with {other.topic!r} of {other.name}: "
                    what += "Kafka treats dot and underscore alike in metrics"
                    self._document.problem(("sources", name, key), f"sources.{name}.{key}: {what}")

    def _trusted_proxies(self, bridge: BridgeModel) -> tuple[Network, ...]:
        if bridge.trusted_proxies is not None:
            return tuple(map(ipaddress.ip_network, bridge.trusted_proxies))
        networks = []
        for text in self._settings.ingest.trusted_proxies:
            try:
                networks.append(ipaddress.ip_network(text))
            except ValueError as error:
                self._problem("KWB_INGEST_TRUSTED_PROXIES", str(error))
        return tuple(networks)

    def _problem(self, variable: str, what: str) -> None:
        self._document.problems.append(Problem(variable, what))


def _templates(own: str | None, of_profile: list[str] | None) -> KeyTemplate | FirstOf | None:
    """What the source says, else its profile."""
    if own:
        return parse_template(own)
    return parse_templates(of_profile) if of_profile else None


def _parses(proof: Proof) -> bool:
    """Whether a profile wants the body parsed before anything of the event is read."""
    return proof.verifier.needs_json or any(shake.needs_json for shake in proof.handshakes)


def _verified(login: bool, proof: Proof | None) -> str:
    """What the record says of who sent it."""
    if proof is None:
        return "basic" if login else "none"
    return f"basic+{proof.verifier.scheme}" if login else proof.verifier.scheme


def _answer(model: SourceModel, profile: Profile | None) -> Answer | None:
    row = model.answer or (profile and profile.answer)
    return Answer(row.status, row.content_type.encode(), row.body.encode()) if row else None


def _either(value: Value | None, otherwise: Value) -> Value:
    return otherwise if value is None else value


def _by_line(problem: Problem) -> tuple[bool, int]:
    """Problems of the file by line, then those of the environment."""
    line = problem.where.rpartition(":")[2]
    return (False, int(line)) if line.isdigit() else (True, 0)
