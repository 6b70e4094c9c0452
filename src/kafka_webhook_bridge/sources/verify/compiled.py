"""From a row to its verifier: which function runs, and what the edge must know of it before a request comes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kafka_webhook_bridge.event import Request
from kafka_webhook_bridge.sources.verify import model
from kafka_webhook_bridge.sources.verify.jwt import jws_detached_scheme, jwt_scheme
from kafka_webhook_bridge.sources.verify.named import NAMED, NEEDS_JSON, NEEDS_URL, OPEN_BODY, SLOW
from kafka_webhook_bridge.sources.verify.request import Signed
from kafka_webhook_bridge.sources.verify.schemes import (
    Context,
    Run,
    all_scheme,
    any_scheme,
    asymmetric_scheme,
    basic_scheme,
    digest_scheme,
    hmac_scheme,
    open_scheme,
    token_each_scheme,
    token_scheme,
)
from kafka_webhook_bridge.sources.verify.template import parse_signed
from kafka_webhook_bridge.sources.verify.verdict import OK, CompileError, Refused, Verdict

_JSON_OPENS = re.compile(rb"[ \t\r\n]*[{\[]")


class Traits(NamedTuple):
    """What is known of a row's verifier; the words are those of verdict.Verifier."""

    scheme: str
    covers_body: bool
    slow: bool = False
    needs_json: bool = False
    needs_url: bool = False


class Compiled:
    """A Verifier around the function of a row."""

    __slots__ = ("_base", "_params", "_run", "covers_body", "needs_json", "needs_url", "scheme", "slow")

    def __init__(self, run: Run, traits: Traits, base: bytes | None, params: Mapping[str, str]) -> None:
        self._run = run
        self._base = base
        self._params = params
        self.scheme, self.covers_body, self.slow, self.needs_json, self.needs_url = traits

    def __call__(self, request: Request, document: Any, now: float, base: bytes | None = None) -> Verdict:
        """The verdict at the time `now` (Unix, s). Never raises."""
        try:
            self._run(Signed(request, document, self._base or base, self._params), now)
        except Refused as refused:
            return refused.verdict
        return OK


def run_of(row: model.Verify, context: Context) -> Run:
    """The function that verifies as a row says. Raises CompileError."""
    match row:
        case model.Hmac():
            run = hmac_scheme(row, context)
        case model.Digest():
            run = digest_scheme(row, context)
        case model.Asymmetric():
            run = asymmetric_scheme(row, context)
        case model.Token():
            run = token_scheme(row, context)
        case model.TokenEach():
            run = token_each_scheme(row, context)
        case model.Basic():
            run = basic_scheme(row, context)
        case model.Open():
            run = open_scheme(row, context)
        case model.Jwt():
            run = jwt_scheme(row, context)
        case model.JwsDetached():
            run = jws_detached_scheme(row, context)
        case model.Named():
            run = NAMED[row.code](row, context)
        case model.AnyOf():
            run = any_scheme(_possible(row.of, context))
        case model.AllOf():
            run = all_scheme([run_of(way, context) for way in row.of])
    if isinstance(row, model.Hmac) and row.body is not None:
        run = _with_json(run)
    field = getattr(row, "json_field", None)
    return run if field is None else _with_field(run, field.encode())


def _possible(ways: Sequence[model.Verify], context: Context) -> list[Run]:
    """The ways that these secrets can go: with `any`, a secret need be a key for one reading alone."""
    runs, errors = [], []
    for way in ways:
        try:
            runs.append(run_of(way, context))
        except CompileError as error:
            if error.code != "key.malformed":
                raise
            errors.append(error)
    if not runs:
        raise errors[0]
    return runs


def _with_json(run: Run) -> Run:
    def look_first(signed: Signed, now: float) -> None:
        if _JSON_OPENS.match(signed.body) is None:
            raise Refused("body.malformed", "neither a JSON object nor an array")
        run(signed, now)

    return look_first


def _with_field(run: Run, field: bytes) -> Run:
    def read_field(signed: Signed, now: float) -> None:
        signed.json_field = field
        run(signed, now)

    return read_field


def traits_of(row: model.Verify) -> Traits:
    """What a row says about its verifier before a request comes."""
    match row:
        case model.Hmac() | model.Digest() | model.Asymmetric():
            return _text_traits(row)
        case model.Token():
            return Traits("token", False, needs_json=row.signature.from_ == "json" and row.json_field is None)
        case model.TokenEach():
            return Traits("token", False, needs_json=True)
        case model.Basic():
            return Traits("basic", False)
        case model.Open():
            return Traits("none", False)
        case model.Jwt():
            return _jwt_traits(row)
        case model.JwsDetached():
            return Traits("jws", True, slow=not row.algorithms[0].startswith("HS"))
        case model.Named():
            code = row.code
            return Traits(code, code not in OPEN_BODY, code in SLOW, code in NEEDS_JSON, code in NEEDS_URL)
        case _:
            return _many_traits(row.scheme, [traits_of(way) for way in row.of])


def _text_traits(row: model.Hmac | model.Digest | model.Asymmetric) -> Traits:
    templates = [parse_signed(text) for text in row.signed]
    places = [row.signature.from_, row.timestamp.from_ if row.timestamp is not None else None]
    reads_json = "json" in places or any(template.needs_json for template in templates)
    return Traits(
        row.scheme if isinstance(row, model.Asymmetric) else f"{row.scheme}-{row.hash}".removesuffix("-by_field"),
        all(template.covers_body for template in templates),
        slow=isinstance(row, model.Asymmetric),
        needs_json=reads_json and row.json_field is None,
        needs_url=any(template.uses("url") or template.uses("url_noquery") for template in templates),
    )


def _jwt_traits(row: model.Jwt) -> Traits:
    claimed = row.body_claim is not None and not row.body_claim.only_if_claim
    return Traits(
        "jwt",
        claimed or row.signature.from_ == "body",
        slow=not row.algorithms[0].startswith("HS"),
        needs_json=row.signature.from_ == "json" and row.json_field is None,
        needs_url=row.url_claim is not None or "{url}" in (row.audience or []) or "{url}" in (row.issuer or []),
    )


def _many_traits(scheme: str, ways: list[Traits]) -> Traits:
    """`any` covers the body if each way does, `all` if one does."""
    names = list(dict.fromkeys(way.scheme for way in ways))
    return Traits(
        ("+" if scheme == "all" else "|").join(names),
        (any if scheme == "all" else all)(way.covers_body for way in ways),
        any(way.slow for way in ways),
        any(way.needs_json for way in ways),
        any(way.needs_url for way in ways),
    )
