"""A source: one configured sender, with everything about it resolved when the configuration loads."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypedDict

if TYPE_CHECKING:
    from kafka_webhook_bridge.sources.basic import Credential
    from kafka_webhook_bridge.sources.keys import BodyHash, KeyTemplate

Format = Literal["raw", "cloudevents", "envelope"]
Auth = Literal["basic", "none"]
Ack = Literal["any", "kafka", "store", "both"]
Ordering = Literal["none", "strict"]
Dedupe = Literal["mark", "suppress", "body"]
Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,99}")  # use fullmatch
RESERVED_NAMES = frozenset({"health"})
DEFAULT_METHODS: tuple[Method, ...] = ("POST", "PUT", "PATCH", "DELETE")


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """What the hot path needs of a sender. Compared by identity: a reload makes new ones.

    `allow` is the value of the header Allow; `credentials` are digests, empty with `auth` none; `needs_json` tells that
    the key, the delivery id or the format wants the body parsed; `rate_limit_per_second` is of the whole bridge (None:
    no limit); `ce_source` is `/sources/<name>`; `default_type` is `webhook.<name>`, also as bytes for the record's
    header; `ack` says which durable place answers (rules.md 5); `strict` tells that order is kept (rules.md 6), and
    then `ack` is `store`; `delivery_id` finds the id by which the sender knows a delivery (None: it has none, and
    nothing is a duplicate); `dedupe` says what becomes of a duplicate (rules.md 12 to 14); `open` tells that the open
    rule made it.
    """

    name: str
    topic: str
    methods: frozenset[bytes]
    allow: bytes
    body_bytes_max: int
    auth: Auth
    credentials: tuple[Credential, ...] = field(repr=False)
    format: Format
    key: KeyTemplate | None
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
    delivery_id: KeyTemplate | BodyHash | None = None
    dedupe: Dedupe = "mark"
    open: bool = False


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
