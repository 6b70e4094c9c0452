"""A profile: one row of the catalog, which says how the senders of one kind speak. As data, without a line of code.

Everything of a row but its `verify` table, which sources/verify/model.py reads. A file of the catalog has the profiles
of one provider; its JSON Schema is published (docs/reference/catalog.schema.json) and its words are this module's.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from kafka_webhook_bridge.sources.keys import parse_template
from kafka_webhook_bridge.sources.verify.model import TEXT_OR_LIST, Verify

Evidence = Literal["vector", "sdk", "docs", "third-party", "generic"]
Place = Literal["proof", "credential"]
Effect = Literal["none", "store_secret", "fetch_url"]

PROFILE_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")  # use fullmatch
HASH = "hash"

# What each grade rests on, for people; from the strongest to the weakest, then the rows that are no provider's.
EVIDENCE: dict[Evidence, str] = {
    "vector": "a test vector that the provider published is reproduced",
    "sdk": "the provider's own source was read or run",
    "docs": "the provider's documentation was read",
    "third-party": "others say so; confirm on a first real delivery",
    "generic": "a scheme by itself, no provider's",
}

# Steps that lead from the body to the document that type and key are read of.
_DECODE = re.compile(r"json|jwt|aes-256-cbc|(json|form|expand):[^:]+")


def _template(text: str) -> str:
    parse_template(text)
    return text


def _delivery_id(texts: list[str]) -> list[str]:
    if texts != [HASH]:
        for text in texts:
            if text == HASH:
                raise ValueError(f"`{HASH}` stands alone: a sender has ids of its own, or it has none")
            parse_template(text)
    return texts


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"no regular expression: {error}") from None
    return text


def _decode(steps: list[str]) -> list[str]:
    for step in steps:
        if not _DECODE.fullmatch(step):
            raise ValueError(f"{step!r} is none of json, jwt, aes-256-cbc, json:path, form:name, expand:path")
    return steps


Texts = Annotated[list[str], Field(min_length=1), BeforeValidator(_as_list), TEXT_OR_LIST]
Templates = Annotated[list[Annotated[str, AfterValidator(_template)]], Field(min_length=1), BeforeValidator(_as_list)]


class Model(BaseModel):
    """What all tables of a row share: no unknown words, no other types than those written, nothing changes later."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


class Event(Model):
    """What is known of an event beside its body: templates as for `key` in bridge.yaml, of a list the first that gives
    something."""

    delivery_id: Annotated[Texts, AfterValidator(_delivery_id)] | None = Field(
        default=None,
        description="The sender's id of a delivery, the same when it is sent again. `hash`: it gives none, and "
        "`dedupe: body` is what finds repeats.",
    )
    type: Annotated[Templates, TEXT_OR_LIST] | None = Field(
        default=None, description="Event type, such as `orders/create`. Default: `webhook.<source>`."
    )
    key: Annotated[Templates, TEXT_OR_LIST] | None = Field(
        default=None, description="Partition key: the smallest thing whose order matters. Default: none."
    )
    decode: Annotated[Texts, AfterValidator(_decode)] | None = Field(
        default=None,
        description="Steps from the body to what type and key are read of, in order: `jwt` (the claims of a token), "
        "`json` (text that is JSON), `json:path`, `expand:path` (the text there becomes the JSON that it is), "
        "`form:name` (a field of a urlencoded or multipart body), `aes-256-cbc` (base64 of IV and text; the key is "
        "the secret's SHA-256). Default: the body is JSON.",
    )


class Sender(Model):
    """What the sender does with an answer, for people who choose deadlines."""

    deadline_s: float | None = Field(default=None, gt=0, description="Seconds after which it gives up.")
    retries: str = Field(default="", description="When it tries again, in words.")


class Answer(Model):
    """What is answered once an event is durable, where the receipt would not do."""

    status: int = Field(default=200, ge=200, le=299, description="Status of the answer.")
    content_type: str = Field(default="", description="Content-Type of the answer. Default: none with an empty body.")
    body: str = Field(default="", description="Body of the answer.")


class Condition(NamedTuple):
    """A value that must match a whole regular expression."""

    pattern: str


def _value(value: object) -> object:
    if isinstance(value, dict):
        if set(value) != {"pattern"} or not isinstance(value["pattern"], str):
            raise ValueError('a table here is { pattern = "…" }')
        return Condition(pattern=_pattern(value["pattern"]))
    if not isinstance(value, bool | int | str):
        raise ValueError("must be true (it is there), false (it is not), text, a whole number or { pattern = … }")
    return value


# Empty counts as absent.
Value = Annotated[
    Any,
    BeforeValidator(_value),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": ["boolean", "integer", "string"]},
                {
                    "type": "object",
                    "properties": {"pattern": {"type": "string"}},
                    "required": ["pattern"],
                    "additionalProperties": False,
                },
            ]
        }
    ),
]


class Match(Model):
    """Which requests are the hand-shake: those for which all of it holds. Of what is named, `true` says that it is
    there, `false` that it is not, text and numbers what it equals (text may be one `{param:name}`), and
    `{ pattern = "…" }` what all of it looks like."""

    method: Texts = Field(description="Methods.")
    query: dict[str, Value] = Field(default_factory=dict, description="Query parameters, decoded.")
    header: dict[str, Value] = Field(default_factory=dict, description="Headers.")
    json_: dict[str, Value] = Field(default_factory=dict, alias="json", description="Members of a JSON body by path.")
    form: dict[str, Value] = Field(default_factory=dict, description="Fields of a urlencoded body.")
    body_empty: bool | None = Field(default=None, description="Whether the body is empty.")


class HandshakeKey(Model):
    """The key of `{hmac:…}` in an answer, where it is not the secret as it stands."""

    after: str = Field(default="", description="What follows this text in the secret; `{secret_public}` is before it.")
    hash: Literal["", "sha1", "sha256"] = Field(default="", description="Hash of that.")


class HandshakeAnswer(Model):
    """Templates may hold `{query:x}` `{header:x}` `{json:a.b}` `{form:x}` `{param:x}` `{url}` `{secret_public}`,
    `{hmac:HASH:ENCODING:…}` and `{HASH:ENCODING:…}` around others. In a JSON answer each value is escaped as inside a
    JSON string."""

    status: int = Field(default=200, ge=200, le=499, description="Status of the answer.")
    content_type: str = Field(default="", description="Content-Type of the answer.")
    headers: dict[str, str] = Field(default_factory=dict, description="More headers, as templates.")
    body: str = Field(default="", description="Body, as a template.")


class Handshake(Model):
    """A request that is no event: it is answered, and nothing is written to Kafka. The first that matches counts."""

    name: str = Field(min_length=1, description="Its name in logs.")
    match: Match = Field(description="Which requests it is.")
    verify_first: bool = Field(default=False, description="Answer only if the signature is right, else 401.")
    answer: HandshakeAnswer = Field(default_factory=HandshakeAnswer, description="The answer. Default: 200, empty.")
    key: HandshakeKey | None = Field(default=None, description="The key of `{hmac:…}`. Default: the secret as text.")
    effect: Effect = Field(
        default="none",
        description="`store_secret`: `secret` is the sender's secret from now on, while a registration is pending; "
        "`fetch_url`: GET `url`, if its host is one of `hosts`.",
    )
    secret: str = Field(default="", description="Template of the secret to store.")
    url: str = Field(default="", description="Template of the address to fetch.")
    hosts: list[str] = Field(default_factory=list, description="Hosts that may be fetched; `*` is one label.")
    notice: str = Field(default="", description="What the operator is told.")


class Setup(Model):
    """What to type where, for the provider's page."""

    secret: str = Field(default="", description="What the secret is and where the provider shows it or takes it.")
    params: dict[str, str] = Field(default_factory=dict, description="Parameters that the source needs, by name.")
    steps: list[str] = Field(default_factory=list, description="What to do in the provider's settings page.")
    pitfalls: list[str] = Field(default_factory=list, description="What goes wrong, one sentence each.")


class Row(Model):
    """One profile, as a file of the catalog has it."""

    evidence: Evidence = Field(description="What the row rests on, the strongest of its sources.")
    sources: list[str] = Field(default_factory=list, description="Where the facts come from.")
    note: str = Field(default="", description="One or two sentences for people; says what is unverified.")
    unverified: list[Literal["event", "sender", "answer", "handshakes"]] = Field(
        default_factory=list, description="Tables whose facts nobody has seen on a live delivery."
    )
    covers_body: bool | None = Field(
        default=None, description="Whether the whole body is signed. Default: what the scheme says."
    )
    headers: dict[str, Place] = Field(
        default_factory=dict,
        description="Headers that are kept as `proof` or redacted as `credential`, where the default is wrong: what a "
        "row reads is proof, except with token and basic, and Authorization, Cookie, Proxy-Authorization are "
        "credentials.",
    )
    verify: Verify = Field(description="How a request proves its sender.")
    event: Event = Field(default_factory=Event, description="Ids, type and key.")
    sender: Sender = Field(default_factory=Sender, description="The sender's habits.")
    answer: Answer | None = Field(default=None, description="The answer to an event. Default: the receipt.")
    refused_status: int = Field(
        default=401,
        ge=400,
        le=499,
        description="Status of the answer to a request that proves nothing, where the sender wants another than 401; "
        "nothing is stored all the same.",
    )
    handshakes: list[Handshake] = Field(default_factory=list, description="Requests that are no events.")
    from_proxy: bool = Field(
        default=False,
        description="A proxy in front writes what proves the sender: it is believed of `trusted_proxies` alone.",
    )
    setup: Setup = Field(default_factory=Setup, description="For the provider's page.")
    replaces: bool = Field(default=False, description="This row takes the place of the packaged one of that name.")


class CatalogFile(Model):
    """The profiles of one provider, a file of Kafka Webhook Bridge's catalog."""

    provider: str = Field(min_length=1, description="The provider's name as people write it.")
    docs: str = Field(default="", description="The provider's page about its webhooks.")
    profiles: dict[Annotated[str, Field(pattern=f"^{PROFILE_NAME.pattern}$")], Row] = Field(
        min_length=1, description="Profiles by name.", json_schema_extra={"additionalProperties": False}
    )


class Profile(Row):
    """A row that knows its place: `name`, the `provider`'s name and page (`docs`), `file` (its stem: `github`)."""

    name: str
    provider: str
    docs: str
    file: str
    packaged: bool

    @property
    def unsafe(self) -> str:
        """Why a source with this profile must say `i_know: true`, in words; empty when it need not."""
        return "anybody may send" if self.verify.scheme == "none" else ""


def json_schema() -> dict[str, Any]:
    """The published JSON Schema of a file of the catalog (draft 2020-12)."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **CatalogFile.model_json_schema()}
