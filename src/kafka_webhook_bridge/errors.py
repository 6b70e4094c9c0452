"""Every way the bridge says no.

Two kinds, one table each:

    Refusal            an answer to a sender, never raised: the hot path passes it by reference
        HTTP             malformed or oversized requests            400 408 413 414 415 417 431
        AUTH             credentials or proof missing, wrong, or tried too often    401 403 429 503
        SOURCES          no such source, method or room for a topic  404 405 429
        RECORD           Kafka could not take the encoded event      413
        DELIVER          no durable place answered in time           503
        INTERNAL         a fault of the bridge itself                500

    KwbError           a failure told to an operator, raised: message, and what to do about it
        ConfigError      settings or bridge.yaml are wrong           exit 2
        UsageError       the command was used wrongly                exit 2
        StackError       an embedded server cannot start or stay up  exit 1
        KafkaError       the cluster refused or did not answer       exit 1
        StoreError       PostgreSQL refused or did not answer        exit 1
            Fenced         another archiver moved the positions
        ReplayError      a replay or rebuild cannot begin or go on   exit 1
        UnreachableError `kwb send`: nobody answers at the address   exit 1
        ReceiptsError    `kwb send`: the journal cannot be written   exit 1
        NotFoundError    the console has nothing by that name        (404)

`code` is `room.what_happened` and stable for ever. docs/reference/errors.md is made from this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Refusal:
    """One way to answer a sender without accepting the request (RFC 9457 problem details).

    `detail` is a whole sentence for the sender, `hint` tells the operator of the bridge what to do.
    `close` ends the connection after the answer; `retry` adds Retry-After with jitter.
    """

    code: str
    status: int
    title: str
    detail: str
    hint: str
    close: bool = False
    retry: bool = False


def _table(*rows: Refusal) -> dict[str, Refusal]:
    table = {row.code: row for row in rows}
    assert len(table) == len(rows), "a code stands twice"
    return table


MALFORMED = Refusal(
    "http.malformed", 400, "Bad Request", "The request is not valid HTTP/1.1.",
    "Look at the sender or at the proxy in front; the log line names the parser's reason.", close=True,
)  # fmt: skip
FRAMING = Refusal(
    "http.framing", 400, "Bad Request", "The end of the request body is ambiguous.",
    "Send either one Content-Length of digits, or Transfer-Encoding: chunked on HTTP/1.1, never both.", close=True,
)  # fmt: skip
HOST = Refusal(
    "http.host", 400, "Bad Request", "Exactly one Host header is required.",
    "HTTP/1.1 clients send one Host header; a proxy must not add a second one.", close=True,
)  # fmt: skip
TARGET = Refusal(
    "http.target", 400, "Bad Request", "The request target must be a path of ASCII characters.",
    "Percent-encode other bytes; absolute URIs are for forward proxies.", close=True,
)  # fmt: skip
HEADER_TIMEOUT = Refusal(
    "http.header_timeout", 408, "Request Timeout", "The request headers were not complete in time.",
    "KWB_INGEST_HEADER_TIMEOUT_MS is absolute, however slowly bytes arrive.", close=True,
)  # fmt: skip
BODY_TIMEOUT = Refusal(
    "http.body_timeout", 408, "Request Timeout", "The request body was not complete in time.",
    "KWB_INGEST_BODY_TIMEOUT_MS is absolute, however slowly bytes arrive.", close=True,
)  # fmt: skip
BODY_TOO_LARGE = Refusal(
    "http.body_too_large", 413, "Content Too Large", "The body is larger than this source accepts.",
    "Raise the source's body_bytes_max (10 MiB at most) if such events are legitimate.", close=True,
)  # fmt: skip
URL_TOO_LONG = Refusal(
    "http.url_too_long", 414, "URI Too Long", "The request target is too long.",
    "KWB_INGEST_URL_BYTES_MAX is the limit.", close=True,
)  # fmt: skip
CONTENT_ENCODING = Refusal(
    "http.content_encoding", 415, "Unsupported Media Type", "Only Content-Encoding: identity is accepted here.",
    "Set content_encoding: opaque on the source to keep compressed bodies as they are.", close=True,
)  # fmt: skip
EXPECTATION = Refusal(
    "http.expectation", 417, "Expectation Failed", "Only Expect: 100-continue is understood.",
    "The sender asks for something that HTTP/1.1 does not define.", close=True,
)  # fmt: skip
HEADERS_TOO_LARGE = Refusal(
    "http.headers_too_large", 431, "Request Header Fields Too Large", "The headers are too many or too large.",
    "KWB_INGEST_HEADER_LINES_MAX and KWB_INGEST_HEADER_BYTES_MAX are the limits; trailers count.", close=True,
)  # fmt: skip

UNAUTHORIZED = Refusal(
    "auth.wrong", 401, "Unauthorized", "Credentials are missing or wrong.",
    "Check the username and password configured at the sender against this source's credentials.",
)  # fmt: skip
SIGNATURE = Refusal(
    "auth.signature", 401, "Unauthorized", "The request does not prove its sender.",
    "The log line's reason says what is wrong; `kwb verify` explains it. No answer says how close a signature was.",
)  # fmt: skip
KEY_PENDING = Refusal(
    "auth.key_pending", 503, "Service Unavailable", "The key of the signature is being fetched.",
    "A key that is not known is fetched once a minute for each host at most; the sender comes again.", retry=True,
)  # fmt: skip
HANDSHAKE = Refusal(
    "auth.handshake", 403, "Forbidden", "This hand-shake is not answered.",
    "A value that the answer needs is missing, or the secret that it brings is not one of the source's `secrets`.",
)  # fmt: skip
NOT_LEARNED = Refusal(
    "auth.not_learned", 503, "Service Unavailable", "The secrets of this sender are not at hand.",
    "PostgreSQL keeps secrets that come by a hand-shake; it did not answer. The sender comes again.", retry=True,
)  # fmt: skip
BACK_OFF = Refusal(
    "auth.back_off", 429, "Too Many Requests", "Too many failed logins from this address.",
    "Requests with right credentials are never delayed; the others may try again after Retry-After.", retry=True,
)  # fmt: skip

UNKNOWN_SOURCE = Refusal(
    "sources.unknown", 404, "Not Found", "No such source.",
    "Add the source to bridge.yaml, or see `kwb sources list` for the names there are.",
)  # fmt: skip
TOPICS_MAX = Refusal(
    "sources.topics_max", 404, "Not Found", "No such source, and no room for a new one.",
    "The open rule made topics_max topics already; raise it or name the source in bridge.yaml.",
)  # fmt: skip
METHOD = Refusal(
    "sources.method", 405, "Method Not Allowed", "This source does not take that method.",
    "Add the method to the source's `methods` if the sender really uses it.",
)  # fmt: skip
RATE_LIMIT = Refusal(
    "sources.rate_limit", 429, "Too Many Requests", "This source sends faster than its limit.",
    "Raise the source's rate_limit_per_second.", retry=True,
)  # fmt: skip

NOT_REDACTABLE = Refusal(
    "rules.redact", 422, "Unprocessable Content", "The body is not JSON, so nothing can be taken out of it.",
    "The source's `redact` names members of JSON; a body that hides them must not be stored as it is.",
)  # fmt: skip

RECORD_TOO_LARGE = Refusal(
    "record.too_large", 413, "Content Too Large", "The event with its headers is larger than Kafka accepts.",
    "Lower body_bytes_max, or raise the topic's max.message.bytes (`kwb doctor` compares them).",
)  # fmt: skip

NOT_DURABLE = Refusal(
    "deliver.timeout", 503, "Service Unavailable", "No durable place confirmed the event in time.",
    "Neither Kafka nor PostgreSQL answered in KWB_DELIVER_DEADLINE_MS; see /health/ready and `kwb doctor`.", retry=True,
)  # fmt: skip
KAFKA_REFUSED = Refusal(
    "deliver.refused", 503, "Service Unavailable", "Kafka refused the event.",
    "The log line names Kafka's error; `kwb doctor` checks permissions, topics and limits.", retry=True,
)  # fmt: skip
QUEUE_FULL = Refusal(
    "deliver.queue_full", 503, "Service Unavailable", "Too many events wait for Kafka.",
    "KWB_KAFKA_QUEUE_RECORDS_MAX and KWB_KAFKA_QUEUE_BYTES_MAX bound the queue of each lane.", retry=True,
)  # fmt: skip
OUTBOX_FULL = Refusal(
    "deliver.outbox_full", 503, "Service Unavailable", "Too many events wait for Kafka in the outbox.",
    "KWB_DELIVER_OUTBOX_ROWS_MAX, _BYTES_MAX, _QUEUE_RECORDS_MAX and _QUEUE_BYTES_MAX are its limits.", retry=True,
)  # fmt: skip
OUTBOX_REFUSED = Refusal(
    "deliver.outbox_refused", 503, "Service Unavailable", "The outbox did not take the event.",
    "The log line names PostgreSQL's error; `kwb doctor` checks the database.", retry=True,
)  # fmt: skip
UNDER_WAY = Refusal(
    "deliver.under_way", 503, "Service Unavailable", "An earlier delivery of this event is still under way.",
    "With `dedupe: suppress` one request at a time stores an event; the sender finds out by its next try.", retry=True,
)  # fmt: skip
IN_FLIGHT = Refusal(
    "deliver.in_flight", 503, "Service Unavailable", "Too many bytes are being received at once.",
    "KWB_INGEST_IN_FLIGHT_BYTES_MAX bounds the memory of request bodies in one bridge.", close=True, retry=True,
)  # fmt: skip
TOPIC_BLOCKED = Refusal(
    "deliver.blocked", 503, "Service Unavailable", "The Kafka topic of this source is missing.",
    "A topic that vanished is never made anew by the bridge: create it, or choose another topic.", retry=True,
)  # fmt: skip

INTERNAL = Refusal(
    "bridge.fault", 500, "Internal Server Error", "The bridge has a fault and did not accept the event.",
    "The log holds the traceback; please report it.", close=True,
)  # fmt: skip

REFUSALS: dict[str, Refusal] = _table(
    MALFORMED, FRAMING, HOST, TARGET, HEADER_TIMEOUT, BODY_TIMEOUT, BODY_TOO_LARGE, URL_TOO_LONG,
    CONTENT_ENCODING, EXPECTATION, HEADERS_TOO_LARGE, UNAUTHORIZED, SIGNATURE, KEY_PENDING, HANDSHAKE, NOT_LEARNED,
    BACK_OFF,
    UNKNOWN_SOURCE, TOPICS_MAX, METHOD, RATE_LIMIT, NOT_REDACTABLE, RECORD_TOO_LARGE, NOT_DURABLE, KAFKA_REFUSED,
    QUEUE_FULL, OUTBOX_FULL, OUTBOX_REFUSED, UNDER_WAY, IN_FLIGHT, TOPIC_BLOCKED, INTERNAL,
)  # fmt: skip


class KwbError(Exception):
    """A failure for an operator: `message` says what happened, `hint` what to do.

    Every subclass has a `code` and the exit status that `kwb` ends with.
    """

    code: ClassVar[str] = "kwb.failed"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in the configuration: `where` is `file:line` or the name of an environment variable."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class ConfigError(KwbError):
    """Settings or bridge.yaml are wrong; `problems` holds all of them at once."""

    code = "config.invalid"
    exit_code = 2

    def __init__(self, problems: Sequence[Problem], *, hint: str = "Mend them and run `kwb config check`.") -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)), hint=hint)


class UsageError(KwbError):
    """The command was used wrongly."""

    code = "usage.wrong"
    exit_code = 2


class StackError(KwbError):
    """An embedded server cannot start or does not stay up."""

    code = "stack.failed"


class KafkaError(KwbError):
    """The Kafka cluster refused, or did not answer in time."""

    code = "kafka.failed"


class StoreError(KwbError):
    """PostgreSQL refused, or did not answer in time."""

    code = "store.failed"


class Fenced(StoreError):
    """Somebody else moved the archive's positions: the batch was not written."""

    code = "store.fenced"


class ReplayError(KwbError):
    """A replay or a rebuild cannot begin, or cannot go on until something is changed."""

    code = "replay.refused"


class UnreachableError(KwbError):
    """`kwb send`: nobody answers at the address."""

    code = "send.unreachable"


class ReceiptsError(KwbError):
    """`kwb send`: the journal cannot be written, so nothing more may be sent."""

    code = "send.receipts"


class NotFoundError(KwbError):
    """The console has no event of that id; answered 404."""

    code = "console.not_found"
