"""What to do about each verdict, in words, and hints where nothing could be proved."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from kafka_webhook_bridge.body import parse_json
from kafka_webhook_bridge.event import Request
from kafka_webhook_bridge.sources.verify import Verdict, changes, model
from kafka_webhook_bridge.sources.verify.identity import leaves

if TYPE_CHECKING:
    from kafka_webhook_bridge.sources.verify.doctor import Examined

_COPY = "Copy the secret of this very endpoint from the sender's settings once more, then compare the time it was made."

# Code of a verdict → what is so, what to do.
ADVICE: Final[dict[str, tuple[str, str]]] = {
    "header.missing": (
        "a header that the signature needs is not there",
        "Look whether the sender signs at all (a secret must be set there), and whether a proxy takes the header away.",
    ),
    "header.duplicate": (
        "a header that the signature needs stands twice, and nobody can tell which one counts",
        "A proxy adds it, or two senders share the address; let one header through.",
    ),
    "header.malformed": ("a signed header holds characters that no such sender writes", "Look what writes it."),
    "signature.malformed": (
        "there is no signature in the form that the profile names",
        "Compare the header with the profile (`kwb sources profile NAME`); another profile may be the right one.",
    ),
    "signature.mismatch": ("the signature is of another secret, body or address", _COPY),
    "signature.too_many": ("there are more signatures than are tried", "Remove old keys at the sender."),
    "timestamp.missing": (
        "the time that is signed is not there",
        "Look whether a proxy takes its header away, or the body was changed.",
    ),
    "timestamp.malformed": (
        "the time is not written as this sender writes it",
        "Another profile may be the right one: units and spelling differ.",
    ),
    "timestamp.old": (
        "the signature is older than the sender's window",
        "If this is a saved request, say when it was received (--at). Else set the clock of this machine (NTP); if "
        "that is right, the request waited on its way, or somebody sends an old one again.",
    ),
    "timestamp.future": (
        "the signature is from the future",
        "The clock of this machine is slow: set it (NTP). For a saved request, say when it was received (--at).",
    ),
    "body.malformed": (
        "the body has not the form that the signature is read from",
        "Look at the body: it must be what the sender sent, to the byte.",
    ),
    "body.mismatch": (
        "the token or address was made for another body",
        "Keep the raw bytes: something on the way parses the body and writes it anew.",
    ),
    "url.mismatch": (
        "the signature covers another address, or the address is not known",
        "Set `public_url` (here --url) to the address exactly as it stands at the sender.",
    ),
    "token.malformed": (
        "there is no token in the form that the profile names",
        "Another profile may be the right one.",
    ),
    "token.algorithm": (
        "the token names an algorithm that the profile does not list",
        "Choose one that the profile lists at the sender; the request may not choose.",
    ),
    "token.expired": (
        "the token is no longer valid",
        "For a saved request, say when it was received (--at). Else set the clock of this machine (NTP).",
    ),
    "token.not_yet": ("the token is not valid yet", "The clock of this machine is slow: set it (NTP)."),
    "token.issuer": ("the token is by another issuer", "Set the parameter `issuer` to what the token says."),
    "token.audience": (
        "the token is for somebody else",
        "Set the parameter `audience`, or the address at the sender, to what the token says.",
    ),
    "token.subject": ("the token is of another account", "Set the parameter `email` to the account that sends."),
    "key.unknown": (
        "the key that the request names is not known",
        "Give the sender's public keys (--jwks, --cert), or the secret of that key id.",
    ),
    "key.host": (
        "the certificate is offered from a host that is not the sender's",
        "Whoever sent this is not that sender, unless a proxy rewrites addresses in bodies.",
    ),
    "key.malformed": ("a secret is not written as the profile says", "See `kwb sources profile NAME` for how it is."),
    "params.missing": ("a parameter of the profile is not set", "Give it with --param NAME=VALUE."),
    "topic.refused": ("the topic is not one of those allowed", "Add its ARN to the parameter `topic_arn`."),
    "credentials.missing": (
        "there are no credentials",
        "Set the token, or user name and password, at the sender; look whether a proxy takes the header away.",
    ),
    "credentials.wrong": ("the credentials are others", "Copy them once more from the sender's settings."),
    "input.invalid": ("the case itself cannot be read", "See `kwb verify --help`."),
}

_LIKELY = re.compile(r"sig|hmac|hash|token|auth|secret|webhook-(id|timestamp)", re.IGNORECASE)
_API_KEYS: Final = {
    "sk_live_": "an API key of Stripe", "sk_test_": "an API key of Stripe", "rk_live_": "an API key of Stripe",
    "pk_live_": "a publishable key of Stripe", "pk_test_": "a publishable key of Stripe",
    "shpat_": "an access token of Shopify", "xoxb-": "a bot token of Slack", "xoxp-": "a user token of Slack",
    "ghp_": "an access token of GitHub", "glpat-": "an access token of GitLab", "SG.": "an API key of SendGrid",
    "EAA": "an access token of Meta",
}  # fmt: skip
_DIGEST_BYTES: Final = {16: "MD5", 20: "SHA-1", 32: "SHA-256", 48: "SHA-384", 64: "SHA-512"}
_HASH_WORDS: Final = {"md5": "MD5", "sha1": "SHA-1", "sha256": "SHA-256", "sha384": "SHA-384", "sha512": "SHA-512"}


def hints(case: Examined, row: model.Verify, verdict: Verdict) -> Iterator[tuple[str, str, str]]:
    """Code, what, do: the verdict's own advice, then what looks odd."""
    what, do = ADVICE[verdict.code]
    yield verdict.code, what + (f" ({verdict.detail})" if verdict.detail else ""), do
    if verdict.code in ("header.missing", "credentials.missing", "signature.malformed"):
        yield from _headers_there(case.request)
    for label, secret in zip(case.labels, case.secrets, strict=True):
        for prefix, kind in _API_KEYS.items():
            if secret.startswith(prefix):
                yield (
                    "secret.api_key", f"{label} looks like {kind}",
                    "Webhooks are signed with a secret of their own: copy that one.",
                )  # fmt: skip
    if verdict.code in ("signature.mismatch", "signature.malformed"):
        yield from _lengths(case.request, row)
    yield from _modes(case.request)
    yield from _body(case.request)


def _headers_there(request: Request) -> Iterator[tuple[str, str, str]]:
    names = [name.decode("latin-1") for name, _ in request.headers]
    likely = [name for name in names if _LIKELY.search(name)]
    there = ", ".join(likely[:8]) if likely else "none that looks like a signature"
    yield (
        "header.others", f"headers that are there: {there}",
        "`kwb sources profiles` names the header of each profile; without any, the sender does not sign.",
    )  # fmt: skip


def _lengths(request: Request, row: model.Verify) -> Iterator[tuple[str, str, str]]:
    for way in leaves(row):
        if not isinstance(way, (model.Hmac, model.Digest)) or way.signature.from_ != "header":
            continue
        name = (way.signature.name or "").lower().encode()
        values = [value for line, value in request.headers if line.lower() == name]
        texts = [text for value in values for text in re.split(rb"[,; ]+", value)]
        bare = [re.split(rb"[=,]", text, maxsplit=1)[-1] if b"=" in text.rstrip(b"=") else text for text in texts]
        sizes = {size for size in changes.undecoded(bare) if size in _DIGEST_BYTES}
        wanted = _HASH_WORDS.get(way.hash, "")
        if sizes and wanted and wanted not in {_DIGEST_BYTES[size] for size in sizes}:
            size = min(sizes)
            yield (
                "signature.length", f"the signature has {size} bytes, as {_DIGEST_BYTES[size]} makes them; the "
                f"profile expects {wanted}",
                "Another profile is the right one, or the sender is set to another hash.",
            )  # fmt: skip


def _modes(request: Request) -> Iterator[tuple[str, str, str]]:
    """Test and live endpoints have secrets of their own."""
    document = parse_json(request.body)
    mode: Any = None
    if isinstance(document, dict):
        for name in ("livemode", "live", "is_test", "test", "sandbox", "test_mode"):
            if name in document:
                mode = f"{name}: {str(document[name]).lower()}"
                break
    if mode is not None:
        yield (
            "secret.mode", f"the event says `{mode}`",
            "Test and live mode have endpoints and secrets of their own: take the one of that mode.",
        )  # fmt: skip


def _body(request: Request) -> Iterator[tuple[str, str, str]]:
    if "\ufffd".encode() in request.body:
        yield (
            "body.lossy", "the body holds replacement characters (U+FFFD): bytes were lost before it was saved",
            "Take the body as bytes, not as text.",
        )  # fmt: skip
    elif request.body.endswith(b"...") or request.body.endswith("…".encode()):
        yield "body.cut", "the body looks cut off", "Save the whole body."
