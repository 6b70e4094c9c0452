"""What the engine says of a request, and how its inside says no.

The codes are stable: `kwb verify` prints them, rejections keep them. No detail names a secret or tells how close a
signature was; the sender of a request sees neither code nor detail.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, Protocol

from kafka_webhook_bridge.event import Request

# Every code and what it means; docs are made from this table.
CODES: Final[dict[str, str]] = {
    "ok": "the request proves its sender",
    "header.missing": "a header that the signature needs is not there, or is empty",
    "header.duplicate": "a header that the signature needs stands twice",
    "header.malformed": "a signed header holds characters that could stand for another signed text",
    "signature.malformed": "no signature of the expected form",
    "signature.mismatch": "the signature is not that of this request with these secrets",
    "signature.too_many": "more signatures than are tried",
    "timestamp.missing": "the time that the signature covers is not there",
    "timestamp.malformed": "the time is not written as this sender writes it",
    "timestamp.old": "signed longer ago than the sender's window",
    "timestamp.future": "signed later than the clock allows",
    "body.malformed": "the body is not of the form that the signature is read from",
    "body.mismatch": "the token was made for another body",
    "url.mismatch": "the token was made for another address, or the address is not known",
    "token.malformed": "no token of the expected form",
    "token.algorithm": "the token names an algorithm that the profile does not list",
    "token.expired": "the token is no longer valid",
    "token.not_yet": "the token is not valid yet",
    "token.issuer": "the token is by another issuer",
    "token.audience": "the token is for somebody else",
    "token.subject": "the token is of another account",
    "key.unknown": "the key that the request names is not known",
    "key.host": "the certificate is offered from a host that is not the sender's",
    "key.malformed": "a key or secret is not written as the profile says",
    "params.missing": "a parameter of the profile is not set",
    "topic.refused": "the topic is not one of those allowed",
    "credentials.missing": "no credentials, or no secret to compare with",
    "credentials.wrong": "the credentials are others",
    "input.invalid": "the case itself cannot be read",
}


class KeyNeeded(NamedTuple):
    """A public key that has to be fetched: `kind` is `jwks`, `certificate` or `ebay`.

    `address` is what to fetch (empty for `ebay`, which asks an API for the key id); `key_id` is empty for certificates.
    """

    kind: Literal["jwks", "certificate", "ebay"]
    address: str
    key_id: str


class Verdict(NamedTuple):
    """Whether a request proves its sender.

    `code` is one of CODES; `detail` is for operators alone. `key_needed` tells that a fetched key might change the
    verdict: answer 503 while it is fetched (rules.md 30).
    """

    ok: bool
    code: str
    detail: str = ""
    key_needed: KeyNeeded | None = None


OK: Final = Verdict(True, "ok")


class Refused(Exception):
    """The inside's way to end a verification; never leaves the engine."""

    def __init__(self, code: str, detail: str = "", key_needed: KeyNeeded | None = None) -> None:
        self.verdict = Verdict(False, code, detail, key_needed)
        super().__init__(code)


class Absent(Refused):
    """Refused because a value is not there: an optional group of a template leaves it out."""


class CompileError(ValueError):
    """A source cannot be verified as it is configured. `code` is one of CODES, the message a sentence for people."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


class KeyStore(Protocol):
    """Public keys that are not in the configuration. Reads memory alone: whoever fetches does it elsewhere.

    `offline` tells that the store needs no addresses (test vectors, `kwb verify`).
    """

    @property
    def offline(self) -> bool: ...

    def jwks(self, address: str) -> Sequence[Mapping[str, Any]] | None:
        """The JWKs of an address, or None if they are not in memory."""

    def certificate(self, address: str) -> str | None:
        """The PEM certificate of an address, or None if it is not in memory."""

    def ebay(self, key_id: str) -> Mapping[str, Any] | None:
        """eBay's answer about a key, `{"key", "algorithm", "digest"}`, or None if it is not in memory."""


class OfflineKeys:
    """A KeyStore of given keys: one JWKS whatever its address, certificates by address, eBay's keys by id.

    What is of another type than it should be, as in a case that somebody wrote by hand, is left out.
    """

    offline = True

    def __init__(
        self,
        jwks: Sequence[Any] | None = None,
        certificates: Mapping[str, Any] | None = None,
        ebay: Mapping[str, Any] | None = None,
    ) -> None:
        self._jwks = None if jwks is None else tuple(jwk for jwk in jwks if isinstance(jwk, Mapping))
        self._certificates = {url: pem for url, pem in (certificates or {}).items() if isinstance(pem, str)}
        self._ebay = {key_id: key for key_id, key in (ebay or {}).items() if isinstance(key, Mapping)}

    def jwks(self, address: str) -> Sequence[Mapping[str, Any]] | None:
        return self._jwks

    def certificate(self, address: str) -> str | None:
        return self._certificates.get(address)

    def ebay(self, key_id: str) -> Mapping[str, Any] | None:
        return self._ebay.get(key_id)


class Verifier(Protocol):
    """Verifies the requests of one source; made when the configuration loads, used for every request.

    `scheme` is for the record (`hmac-sha256`, `jwt`, `token`, `basic`, `none`, `twilio`); `covers_body` tells whether
    the whole body is signed; `slow` that it may take longer than 0.2 ms (public keys): call it in a thread;
    `needs_json` that it reads the parsed body, `needs_url` that it reads the public address.
    """

    @property
    def scheme(self) -> str: ...
    @property
    def covers_body(self) -> bool: ...
    @property
    def slow(self) -> bool: ...
    @property
    def needs_json(self) -> bool: ...
    @property
    def needs_url(self) -> bool: ...

    def __call__(self, request: Request, document: Any, now: float, base: bytes | None = None) -> Verdict:
        """The verdict at the time `now` (Unix, s). `document` is what `body.parse_json` gave, or NOT_JSON.

        `base` is `scheme://host[:port]` as the request came, for a source without public_url. Never raises.
        """
