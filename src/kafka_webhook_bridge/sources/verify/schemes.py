"""The schemes that are data: hmac, digest, public keys, tokens, basic, any, all.

Every secret is tried with every signature and the answers are put together without an early exit, so the time tells
nothing of which was close. Digests and tokens are compared by hmac.compare_digest.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from hmac import compare_digest
from typing import Any

from kafka_webhook_bridge.event import Request
from kafka_webhook_bridge.sources.verify import model
from kafka_webhook_bridge.sources.verify.keys import check_secrets, shared_key
from kafka_webhook_bridge.sources.verify.request import Signed
from kafka_webhook_bridge.sources.verify.signatures import (
    DECODERS,
    compile_signatures,
    compile_timestamp,
    decoded,
)
from kafka_webhook_bridge.sources.verify.template import Piece, parse_signed
from kafka_webhook_bridge.sources.verify.verdict import OK, KeyStore, Refused, Verdict

Run = Callable[[Signed, float], None]


class Context:
    """What a scheme is compiled with: the operator's side of a source."""

    __slots__ = ("base", "keys", "params", "secrets")

    def __init__(self, secrets: Sequence[str], params: Mapping[str, str], base: bytes | None, keys: KeyStore) -> None:
        self.secrets = secrets
        self.params = params
        self.base = base
        self.keys = keys


class Compiled:
    """A Verifier around the function of a scheme."""

    __slots__ = ("_base", "_params", "_run", "covers_body", "needs_json", "scheme", "slow")

    def __init__(
        self, run: Run, context: Context, *, scheme: str, covers_body: bool, slow: bool, needs_json: bool
    ) -> None:
        self._run = run
        self._base = context.base
        self._params = context.params
        self.scheme = scheme
        self.covers_body = covers_body
        self.slow = slow
        self.needs_json = needs_json

    def __call__(self, request: Request, document: Any, now: float) -> Verdict:
        """The verdict at the time `now` (Unix, s). Never raises."""
        try:
            self._run(Signed(request, document, self._base, self._params), now)
        except Refused as refused:
            return refused.verdict
        return OK


def _texts(row: model.Hmac | model.Digest | model.Asymmetric) -> tuple[list[Piece], bool]:
    """The functions of the signed texts, and whether a time in them must tell where it ends."""
    templates = [parse_signed(text) for text in row.signed]
    return [template.compile() for template in templates], any(template.touches_time for template in templates)


def _wanted(row: model.Hmac | model.Digest | model.Asymmetric) -> frozenset[str]:
    """Items of the signature header that are read beside the signatures."""
    names = {item.name for text in row.signed for item in parse_signed(text).walk() if not isinstance(item, bytes)
             if item.kind == "sigfield"}  # fmt: skip
    if row.timestamp is not None and row.timestamp.field is not None:
        names.add(row.timestamp.field)
    return frozenset(names)


def hmac_scheme(row: model.Hmac, context: Context) -> Run:
    """HMAC over a signed text."""
    check_secrets(context.secrets)
    keys = [shared_key(secret, row.key, index) for index, secret in enumerate(context.secrets, 1)]
    find = compile_signatures(row.signature, _wanted(row))
    decode = DECODERS[row.signature.encoding]
    texts, touches = _texts(row)
    check = compile_timestamp(row.timestamp, touches) if row.timestamp is not None else None
    digest, name = hmac.digest, row.hash

    def run(signed: Signed, now: float) -> None:
        found = decoded(find(signed), decode)
        if check is not None:
            check(signed, now)
        right = False
        for text in texts:
            message = text(signed)
            for key in keys:
                expected = digest(key, message, name)
                for signature in found:
                    right |= compare_digest(expected, signature)
        if not right:
            raise Refused("signature.mismatch")

    return run
