"""A source: one configured sender, with everything about it resolved when the configuration loads."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypedDict

if TYPE_CHECKING:
    from kafka_webhook_bridge.sources.basic import Credential
    from kafka_webhook_bridge.sources.decode import Decode
    from kafka_webhook_bridge.sources.handshake import Handshake
    from kafka_webhook_bridge.sources.keys import BodyHash, FirstOf, KeyTemplate
    from kafka_webhook_bridge.sources.places import Places, Rights
    from kafka_webhook_bridge.sources.rules import Rules
    from kafka_webhook_bridge.sources.verify import Verifier

Format = Literal["raw", "cloudevents", "envelope"]
Auth = Literal["basic", "none"]
Ack = Literal["any", "kafka", "store", "both"]
Ordering = Literal["none", "strict"]
Dedupe = Literal["mark", "suppress", "body"]
Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,99}")  # use fullmatch
RESERVED_NAMES = frozenset({"health"})
DEFAULT_METHODS: tuple[Method, ...] = ("POST", "PUT", "PATCH", "DELETE")


@dataclass(frozen=True, slots=True)
class Public:
    """The address of a source as its sender knows it: `base` is `scheme://host[:port]`, `path` stands for `/<name>`."""

    base: bytes
    path: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What a sender is told once its event is durable, where the receipt would not do."""

    status: int
    content_type: bytes
    body: bytes


@dataclass(frozen=True, slots=True, eq=False)
class Proof:
    """How the requests of a source prove their sender: its profile, resolved.

    `secrets` is how many there are; `params` are the operator's, by name, and `missing` those that are not set;
    `places` hold credentials, `rights` say what they must be; `decode` leads to what type and key are read of (None:
    the body is JSON); `path` stands for `/<name>` where the sender knows another (None: it does not); `greets` are the
    methods of the hand-shakes; `refused_status` answers a wrong proof; `challenge` is the WWW-Authenticate of a 401;
    `learns` tells that secrets may come by a hand-shake; `from_proxy` that only a trusted proxy is believed.
    """

    profile: str
    verifier: Verifier = field(repr=False)
    secrets: int
    params: Mapping[str, str] = field(repr=False)
    missing: tuple[str, ...]
    places: Places
    rights: Rights = field(repr=False)
    decode: Decode | None
    path: bytes | None
    handshakes: tuple[Handshake, ...]
    greets: frozenset[bytes]
    refused_status: int
    challenge: bytes
    learns: bool = False
    from_proxy: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """What the hot path needs of a sender. Compared by identity: a reload makes new ones.

    `allow` is the value of the header Allow; `credentials` are digests, empty with `auth` none; `needs_json` tells that
    the key, the delivery id or the format wants the body parsed; `rate_limit_per_second` is of the whole bridge (None:
    no limit); `ce_source` is `/sources/<name>`; `default_type` is `webhook.<name>`, also as bytes for the record's
    header; `ack` says which durable place answers (rules.md 5); `strict` tells that order is kept (rules.md 6), and
    then `ack` is `store`; `delivery_id` finds the id by which the sender knows a delivery (None: it has none, and
    nothing is a duplicate); `dedupe` says what becomes of a duplicate (rules.md 12 to 14); `open` tells that the open
    rule made it; `verified` and `covers_body` are what the record says of its proof; `type` renders the event's type
    (None: the default one); `answer` stands in place of the receipt; `proof` is the profile (None: there is none, and
    the login alone counts); `public` is the address as senders know it (None: not said); `proof_headers` are named
    like credentials, in lower case, and evidence by the profile: they are kept; `rules` say what else becomes of its
    events (None: nothing); `branches` are the source once more for each other topic that they choose from.
    """

    name: str
    topic: str
    methods: frozenset[bytes]
    allow: bytes
    body_bytes_max: int
    auth: Auth
    credentials: tuple[Credential, ...] = field(repr=False)
    format: Format
    key: KeyTemplate | FirstOf | None
    needs_json: bool
    content_encoding_opaque: bool
    rate_limit_per_second: float | None
    index_json: bool
    ce_source: bytes
    default_type: str
    name_bytes: bytes
    default_type_bytes: bytes
    ack: Ack = "any"
    strict: bool = False
    delivery_id: KeyTemplate | FirstOf | BodyHash | None = None
    dedupe: Dedupe = "mark"
    open: bool = False
    verified: str = ""
    covers_body: bool = False
    type: KeyTemplate | FirstOf | None = None
    answer: Answer | None = None
    proof: Proof | None = field(default=None, repr=False)
    public: Public | None = None
    proof_headers: Container[bytes] = frozenset()
    rules: Rules | None = None
    branches: Mapping[str, Source] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.verified:
            object.__setattr__(self, "verified", self.auth)

    @property
    def topics(self) -> tuple[str, ...]:
        """Every topic that an event of it may go to."""
        return (self.topic, *self.branches)


class Named(TypedDict):
    """What follows from a source's name."""

    name: str
    ce_source: bytes
    default_type: str
    name_bytes: bytes
    default_type_bytes: bytes


def named(name: str) -> Named:
    """The fields of a Source that follow from its name."""
    kind = f"webhook.{name}"
    return {
        "name": name,
        "ce_source": f"/sources/{name}".encode(),
        "default_type": kind,
        "name_bytes": name.encode(),
        "default_type_bytes": kind.encode(),
    }
