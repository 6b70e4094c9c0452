"""The verification engine: a profile's `verify` table and a source's secrets become a function, request to verdict.

Pure: no I/O, no clock, no log. Everything is parsed when the configuration loads, so that a mistake is found there and
a request costs little. Rules that hold for all schemes: the raw bytes are what is signed; the algorithm comes from the
row, never from the request; no comparison ends early; a value that is read stands once; what is not understood is
refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from kafka_webhook_bridge.sources.verify.compiled import Compiled, run_of, traits_of
from kafka_webhook_bridge.sources.verify.model import Verify, parse_verify
from kafka_webhook_bridge.sources.verify.schemes import Context
from kafka_webhook_bridge.sources.verify.verdict import (
    CODES,
    OK,
    CompileError,
    KeyNeeded,
    KeyStore,
    OfflineKeys,
    Verdict,
    Verifier,
)

__all__ = [
    "CODES",
    "OK",
    "CompileError",
    "KeyNeeded",
    "KeyStore",
    "OfflineKeys",
    "Verdict",
    "Verifier",
    "Verify",
    "compile",
    "parse_verify",
]


_PUBLIC_URL = re.compile(r"https?://(?:[A-Za-z0-9._~:!$&'()*+,;=%-]*@)?[A-Za-z0-9._~:\[\]-]+(?:/[!\"$->@-~]*)?")


class HasVerify(Protocol):
    """A profile, as far as it matters here: its `verify` table, and `covers_body` where the row says it."""

    @property
    def verify(self) -> Any: ...
    @property
    def covers_body(self) -> bool | None: ...


def compile(  # noqa: A001 — the design's word, as in re.compile
    profile: HasVerify,
    secrets: Sequence[str],
    *,
    params: Mapping[str, str],
    public_url: str | None,
    keys: KeyStore,
) -> Verifier:
    """The verifier of one source.

    `secrets` are as the provider shows them, any of them counts; `params` are the operator's parameters; `public_url`
    is `scheme://host[:port][/prefix]` as the sender knows it (Twilio's may have `user:password@` before the host).
    Raises ValueError with a sentence for people (CompileError, whose `code` is one of CODES, or pydantic's about the
    table): no secret, a key that does not decode, a parameter that lacks.
    """
    if not all(isinstance(text, str) for text in (*secrets, *params.values())):
        raise CompileError("input.invalid", "secrets and parameters are text")
    row = parse_verify(profile.verify)
    context = Context(secrets, params, keys)
    base = None
    if public_url is not None:
        if not _PUBLIC_URL.fullmatch(public_url):
            raise CompileError("url.mismatch", "public_url is not an address such as https://hooks.example.com")
        base = public_url.rstrip("/").encode()
    traits = traits_of(row)
    if profile.covers_body is not None:
        traits = traits._replace(covers_body=profile.covers_body)
    return Compiled(run_of(row, context), traits, base, params)
