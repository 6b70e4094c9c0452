"""The words of bridge.yaml: types, bounds and sentences. The JSON Schema and the docs are made from this module."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    WithJsonSchema,
    model_validator,
)

from kafka_webhook_bridge.settings import read_secret
from kafka_webhook_bridge.sources.keys import HEADER_NAME, parse_template
from kafka_webhook_bridge.sources.profile import Answer
from kafka_webhook_bridge.sources.redact import parse_path
from kafka_webhook_bridge.sources.rules import RULES_MAX, TOPICS_MAX, parse_place
from kafka_webhook_bridge.sources.source import (
    DEFAULT_METHODS,
    NAME,
    RESERVED_NAMES,
    Ack,
    Auth,
    Dedupe,
    Format,
    Method,
    Ordering,
)
from kafka_webhook_bridge.sources.split import parse_split
from kafka_webhook_bridge.sources.verify.model import WINDOW_S_MAX
from kafka_webhook_bridge.texts import parse_size

BODY_BYTES_MAX = 10 * 1024**2

_TOPIC = re.compile(r"[A-Za-z0-9._-]+")
TOPIC_CHARACTERS_MAX = 249


def check_topic(name: str) -> str:
    """`name` if Kafka takes it for a topic (org.apache.kafka.common.internals.Topic), else ValueError."""
    if not _TOPIC.fullmatch(name):
        raise ValueError(f"{name!r} is no topic name: letters, digits, dot, underscore and hyphen only")
    if len(name) > TOPIC_CHARACTERS_MAX:
        raise ValueError(f"a topic name has at most {TOPIC_CHARACTERS_MAX} characters, this has {len(name)}")
    if name in (".", ".."):
        raise ValueError(f"{name!r} is no topic name")
    if name.startswith("__"):
        raise ValueError(f"{name!r}: topics that begin with two underscores are Kafka's own")
    return name


def check_prefix(text: str) -> str:
    """`text` if every source name can follow it in a topic name, else ValueError. It may be empty."""
    if text:
        check_topic(text)
    if len(text) > TOPIC_CHARACTERS_MAX - 100:
        raise ValueError(f"at most {TOPIC_CHARACTERS_MAX - 100} characters, so that every source name fits behind it")
    return text


def _size(value: object) -> object:
    return parse_size(value) if isinstance(value, str) else value


def _secret(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = read_secret(value)
    if not text:
        raise ValueError("the secret is empty")
    return text


def _user(text: str) -> str:
    if ":" in text:
        raise ValueError("a Basic user name cannot contain a colon")
    return text


def _template(text: str) -> str:
    parse_template(text)
    return text


def _network(text: str) -> str:
    ipaddress.ip_network(text)
    return text


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("not an address such as https://hooks.example.com")
    if parts.query or parts.fragment or parts.username:
        raise ValueError("only scheme, host, port and a path prefix; no query, fragment or user")
    _ = parts.port  # raises ValueError
    return text.rstrip("/")


def _whole_url(text: str) -> str:
    """As `_url`, but kept as it is: a slash at its end is signed, too."""
    _url(text)
    return text


_WITH_VARIABLE = r".*\$\{[A-Za-z_][A-Za-z0-9_]*\}.*"  # what it will be, the schema cannot know

Size = Annotated[
    int,
    BeforeValidator(_size),
    Field(ge=0, le=BODY_BYTES_MAX),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": BODY_BYTES_MAX},
                {"type": "string", "pattern": r"^\s*\d{1,18}(\.\d{1,18})?\s*([KMGkmg][Ii]?[Bb]|[Bb])?\s*$"},
                {"type": "string", "pattern": f"^{_WITH_VARIABLE}$"},
            ]
        }
    ),
]
Topic = Annotated[
    str,
    AfterValidator(check_topic),
    Field(json_schema_extra={"pattern": rf"^([A-Za-z0-9._-]{{1,249}}|{_WITH_VARIABLE})$"}),
]


def _topic_or_template(text: str) -> str:
    return _template(text) if "{" in text else check_topic(text)


def _place(text: str) -> str:
    parse_place(text)
    return text


def _path(text: str) -> str:
    parse_path(text)
    return text


def _split(text: str) -> str:
    parse_split(text)
    return text


def _header(name: str) -> str:
    if not HEADER_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a header")
    return name


def _wanted(value: object) -> object:
    """The values that fulfil a condition, or whether there is to be one."""
    if isinstance(value, bool):
        return value
    found = value if isinstance(value, list) else [value]
    if not found or not all(isinstance(one, str | int) and not isinstance(one, bool) and one != "" for one in found):
        raise ValueError("must be text, a list of texts, true (something is there) or false (nothing is)")
    return frozenset(str(one) for one in found)


RuleName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")]
Wanted = Annotated[
    Any,
    BeforeValidator(_wanted),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": ["string", "integer", "boolean"]},
                {"type": "array", "items": {"type": ["string", "integer"]}, "minItems": 1},
            ]
        }
    ),
]


class FilterRule(BaseModel):
    """One rule of a source's filter. The first that matches decides, and what none matches is kept."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    drop: RuleName | None = Field(
        default=None, description="Leave out what matches: it is answered 200, and counted under this name."
    )
    keep: RuleName | None = Field(default=None, description="Keep what matches, whatever the next rules say.")
    when: dict[Annotated[str, AfterValidator(_place)], Wanted] = Field(
        default_factory=dict,
        description="Conditions, which must all hold: `json:a.b`, `header:Name`, `query:name` or `form:name`, and its "
        "value, a list of values, `true` (something is there) or `false`. Default: everything matches.",
    )

    @model_validator(mode="after")
    def _one_name(self) -> FilterRule:
        if (self.drop is None) == (self.keep is None):
            raise ValueError("a rule has either `drop` or `keep`, with a name for it")
        return self


class RedactModel(BaseModel):
    """What is taken out of every request of a source before it is stored."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    json_: list[Annotated[str, AfterValidator(_path)]] = Field(
        default_factory=list,
        alias="json",
        max_length=100,
        description="Paths into the JSON of the body, such as `card.number` or `items.*.email`.",
    )
    headers: list[Annotated[str, AfterValidator(_header)]] = Field(
        default_factory=list, max_length=100, description="Names of headers."
    )
    query: list[Annotated[str, Field(min_length=1)]] = Field(
        default_factory=list, max_length=100, description="Names of parameters of the query."
    )


class SourceModel(BaseModel):
    """One configured sender, received at `/<name>` and below it."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    topic: (
        Annotated[
            str,
            AfterValidator(_topic_or_template),
            Field(json_schema_extra={"pattern": rf"^([A-Za-z0-9._-]{{1,249}}|.*\{{.+\}}.*|{_WITH_VARIABLE})$"}),
        ]
        | None
    ) = Field(
        default=None,
        description="Kafka topic, or text as for `key` that gives one of `topics`. Default: the source's name.",
    )
    topics: list[Topic] = Field(
        default_factory=list,
        max_length=TOPICS_MAX,
        description="The topics that a template in `topic` may give: no sender chooses any other.",
    )
    topic_otherwise: Topic | None = Field(
        default=None, description="Where events go for which the template gives none. Default: the source's name."
    )
    profile: str | None = Field(
        default=None,
        description="The row of the catalog that says how the sender signs, greets and names its events. The keys of "
        "the source override it. Default: none, and `auth` alone counts.",
    )
    secrets: list[Annotated[SecretStr, BeforeValidator(_secret)]] = Field(
        default_factory=list,
        max_length=10,
        description="Secrets of the profile: `${NAME}` or `file:/path`. Any of them counts, so that they can be "
        "rotated.",
    )
    params: dict[str, Annotated[str, BeforeValidator(_secret)]] = Field(
        default_factory=dict,
        description="Parameters of the profile, such as `topic_arn` or `verify_token`. `${NAME}` or `file:/path`.",
    )
    verify: dict[str, Any] = Field(
        default_factory=dict,
        description="What is otherwise than in a generic profile (`hmac`, `token`, `jwt` …), in the catalog's words.",
    )
    replay_window_s: float | None = Field(
        default=None,
        gt=0,
        le=WINDOW_S_MAX,
        allow_inf_nan=False,
        description="Oldest signed time that is accepted, in seconds. Default: the profile's.",
    )
    i_know: bool = Field(default=False, description="Needed by profiles that prove nothing.")
    auth: Auth = Field(
        default="basic",
        description="`basic`: a user name and password; `none`: anybody may send. With a profile, `basic` is asked for "
        "beside it, and only where it is written.",
    )
    username: Annotated[str, BeforeValidator(_secret), AfterValidator(_user)] | None = Field(
        default=None,
        description="The source's own user name. Default: the bridge's credentials. `${NAME}` or `file:/path`.",
    )
    password: Annotated[SecretStr, BeforeValidator(_secret)] | None = Field(
        default=None, description="The source's own password: `${NAME}` or `file:/path`."
    )
    methods: list[Method] = Field(
        default=list(DEFAULT_METHODS), min_length=1, description="HTTP methods that it takes."
    )
    body_bytes_max: Size | None = Field(default=None, description="Largest body, at most 10 MiB. Default: 1 MiB.")
    key: Annotated[str, AfterValidator(_template)] | None = Field(
        default=None,
        description="Partition key: text with `{json:a.b.0}`, `{header:Name}`, `{query:name}` and `{form:name}`. "
        "Default: the profile's, else none.",
    )
    type: Annotated[str, AfterValidator(_template)] | None = Field(
        default=None, description="Event type: text as for `key`. Default: the profile's, else `webhook.<source>`."
    )
    answer: Answer | None = Field(
        default=None, description="What is answered once an event is durable. Default: the profile's, else the receipt."
    )
    public_url: Annotated[str, AfterValidator(_whole_url)] | None = Field(
        default=None,
        description="The source's whole address as it was given to the sender, where signatures cover it. Default: "
        "the bridge's `public_url`, and the source's name.",
    )
    format: Format = Field(
        default="raw", description="What the record's value is: the body, a CloudEvent, or an envelope."
    )
    content_encoding: Literal["identity", "opaque"] = Field(
        default="identity", description="`opaque` keeps compressed bodies as they are; else they are refused."
    )
    rate_limit_per_second: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Most requests per second in this bridge. Default: no limit.",
    )
    ack: Ack = Field(
        default="any",
        description="What answers 2xx: `any` (Kafka, else PostgreSQL), `kafka`, `store` (PostgreSQL; Kafka follows), "
        "`both`.",
    )
    ordering: Ordering = Field(
        default="none",
        description="`strict`: records in the order of receipt, by way of PostgreSQL (implies `ack: store`).",
    )
    delivery_id: Annotated[str, AfterValidator(_template)] | None = Field(
        default=None,
        description="The sender's id of a delivery, the same when it is sent again: text as for `key`. Default: the "
        "profile's, else none.",
    )
    dedupe: Dedupe = Field(
        default="mark",
        description="What becomes of a delivery sent again: `mark` stores and marks it, `suppress` answers with the "
        "first one's receipt; `body` marks equal bodies, for senders without a `delivery_id`.",
    )
    index_json: bool = Field(default=True, description="Index the JSON of the bodies in PostgreSQL for search.")
    filter: list[FilterRule] = Field(
        default_factory=list,
        max_length=RULES_MAX,
        description="Rules that leave events out. They are answered 200 and counted. Default: none.",
    )
    split: Annotated[str, AfterValidator(_split)] | None = Field(
        default=None,
        description="The array whose elements become events of their own: `json:a.b`, or `json` for the whole body. "
        "Default: a request is one event.",
    )
    redact: RedactModel | None = Field(
        default=None, description="What is replaced by `[redacted]` before anything is stored. Default: nothing."
    )


class BridgeModel(BaseModel):
    """Kafka Webhook Bridge: who may send, and where it goes."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True, title="bridge.yaml")

    sources: dict[Annotated[str, Field(pattern=f"^{NAME.pattern}$")], SourceModel | None] = Field(
        default_factory=dict,
        description="Senders by name.",
        json_schema_extra={
            "additionalProperties": False,
            "propertyNames": {"not": {"enum": [*sorted(RESERVED_NAMES)]}},
        },
    )
    open_rule: bool | None = Field(
        default=None, description="Accept every other source name too, with the bridge's Basic credentials."
    )
    topic_prefix: Annotated[str, AfterValidator(check_prefix)] | None = Field(
        default=None, description="Put before the topic names that the open rule makes."
    )
    topics_max: int | None = Field(default=None, ge=0, le=10_000, description="Topics that the open rule may make.")
    trusted_proxies: list[Annotated[str, AfterValidator(_network)]] | None = Field(
        default=None, description="CIDRs whose X-Forwarded-* headers are believed. Default: none."
    )
    public_url: Annotated[str, AfterValidator(_url)] | None = Field(
        default=None, description="Address that senders use, where a proxy changes it; `/<source>` follows."
    )
    catalog: list[str] = Field(
        default_factory=list, description="Files or folders of profiles of your own, from this file's folder on."
    )


def json_schema() -> dict[str, Any]:
    """The published JSON Schema of bridge.yaml (draft 2020-12)."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **BridgeModel.model_json_schema()}
