"""A profile in words: how it is checked, what it needs, a source of bridge.yaml with it. For pages, commands, forms.

Names and values stand between backquotes, as in Markdown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from kafka_webhook_bridge.sources.profile import HASH, Condition, Handshake, Profile
from kafka_webhook_bridge.sources.verify import model
from kafka_webhook_bridge.sources.verify.compiled import Traits, traits_of

ADDRESS: Final = "https://hooks.example.com"
_REFUSED: Final = 401


def traits(profile: Profile) -> Traits:
    """What is known of its verifier before there is a source."""
    return traits_of(profile.verify)


def covers_body(profile: Profile) -> bool:
    """Whether all of the body is signed."""
    return bool(traits(profile).covers_body if profile.covers_body is None else profile.covers_body)


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"


def takes_secrets(row: Profile) -> bool:
    """Whether a source with the profile has secrets of its own."""
    return bool(row.setup.secret) and not row.setup.secret.startswith("None")


def snippet(row: Profile) -> Iterator[str]:
    """A source of bridge.yaml."""
    if traits(row).needs_url:
        yield f"public_url: {ADDRESS}"
    if row.from_proxy:
        yield "trusted_proxies: [10.0.0.0/24]  # of the proxy that asks for the certificate"
    yield "sources:"
    yield f"  {row.name}:"
    yield f"    profile: {row.name}"
    if takes_secrets(row):
        yield f'    secrets: ["${{{re.sub("[^A-Z0-9]", "_", row.name.upper())}_SECRET}}"]'
    if row.setup.params:
        yield "    params:"
        for param, sentence in row.setup.params.items():
            yield f'      {param}: "…"  # {sentence[:1].lower()}{sentence[1:]}'
    if row.event.delivery_id == [HASH]:
        yield "    dedupe: body  # the sender gives no delivery id"
    if row.unsafe:
        yield f"    i_know: true  # {row.unsafe}"


def facts(row: Profile) -> Iterator[tuple[str, str]]:
    """How a request is checked, and what is known of its event and sender: what, and in words."""
    yield from _scheme(row.verify)
    yield "whole body signed", _yes(covers_body(row))
    for what, place in row.headers.items():
        yield f"header {what}", "kept, as proof" if place == "proof" else "redacted, as a credential"
    event = row.event
    if event.decode:
        yield "read inside", " → ".join(f"`{step}`" for step in event.decode)
    if event.delivery_id == [HASH]:
        yield "delivery id", "none; `dedupe: body` finds repeats by the body"
    else:
        yield "delivery id", _or(event.delivery_id)
    yield "event type", _or(event.type, "`webhook.<source>`")
    yield "partition key", _or(event.key)
    if row.answer is None:
        yield "answer", "the receipt, 200"
    elif not row.answer.body:
        yield "answer", f"{row.answer.status}, empty"
    else:
        yield "answer", f"{row.answer.status}, {row.answer.content_type}: `{row.answer.body}`"
    if row.refused_status != _REFUSED:
        yield "answer to a wrong signature", str(row.refused_status)
    if row.sender.deadline_s is not None:
        yield "the sender gives up", f"after {row.sender.deadline_s:g} s"
    if row.sender.retries:
        yield "the sender tries again", row.sender.retries


def _scheme(verify: model.Verify) -> Iterator[tuple[str, str]]:
    match verify:
        case model.Hmac():
            name = "the hash that the header names" if verify.hash == "by_field" else _hash(verify.hash)
            yield "scheme", f"HMAC, {name}"
            if verify.hashes:
                yield "hashes", ", ".join(map(_hash, verify.hashes))
            yield from _signed(verify)
        case model.Digest():
            yield "scheme", f"plain hash, {_hash(verify.hash)}"
            yield from _signed(verify)
        case model.Asymmetric():
            yield "scheme", verify.scheme
            yield from _signed(verify)
        case model.Token():
            yield "scheme", "the secret itself"
            yield "where", _where(verify.signature)
        case model.TokenEach():
            yield "scheme", f"the secret itself, as `{verify.field}` of each element of `{verify.array}`"
        case model.Basic():
            yield "scheme", "Basic authentication"
        case model.Open():
            yield "scheme", "none"
        case model.Jwt():
            yield "scheme", f"JSON Web Token, {_and(verify.algorithms)}"
            yield from _token(verify)
        case model.JwsDetached():
            yield "scheme", f"detached JWS of the body, {_and(verify.algorithms)}"
            yield "where", _where(verify.signature)
        case model.Named():
            yield "scheme", f"its own, `{verify.code}`"
            yield "replay window", _window(verify.past_s, verify.future_s)
        case model.AnyOf() | model.AllOf():
            yield "scheme", f"{'one' if verify.scheme == 'any' else 'all'} of {len(verify.of)} ways:"
            for way in verify.of:
                yield from _scheme(way)


def _signed(verify: model.Hmac | model.Digest | model.Asymmetric) -> Iterator[tuple[str, str]]:
    yield "signed", _or(verify.signed)
    signature = verify.signature
    where = _where(signature)
    if signature.also:
        where += ", " + ", ".join(f"`{name}`" for name in signature.also)
    if signature.also_pattern:
        where += f", `{signature.also_pattern}`"
    if signature.pair and signature.field != "*":
        where += f", items `{signature.field}{signature.pair}…`"
    if signature.prefix:
        where += f", after `{signature.prefix}`"
    if signature.prefix_pattern:
        where += f", after `{signature.prefix_pattern}`"
    yield "signature", f"{where}, in {signature.encoding}"
    yield from _key(verify)
    time = verify.timestamp
    if time is None:
        yield "replay window", "none: no time is signed"
        return
    place = f"item `{time.field}` of the signature" if time.from_ == "sigfield" else _where(time)
    kinds = {"unix": "s", "unix_ms": "ms", "unix_auto": "s or ms", "iso8601": "ISO 8601", "http-date": "HTTP date"}
    yield "time", f"{place} ({kinds[time.format]})"
    yield "replay window", _window(time.past_s, time.future_s)


def _key(verify: model.Hmac | model.Digest | model.Asymmetric | model.Jwt) -> Iterator[tuple[str, str]]:
    if isinstance(verify, model.Digest):
        return
    key = verify.key
    if key.from_ == "jwks":
        yield "keys", f"`{key.url}`" if key.url else f"at the address of the parameter `{key.param}`"
    elif key.encoding not in (None, "utf8") or key.strip_prefix:
        before = f", after `{key.strip_prefix}`" if key.strip_prefix else ""
        yield "secret is written in", f"{key.encoding or 'text'}{before}"
    if not isinstance(verify, model.Jwt) and verify.key_select is not None:
        yield "secret is chosen by", f"header `{verify.key_select.header}`, where secrets are written `id:secret`"


def _token(verify: model.Jwt) -> Iterator[tuple[str, str]]:
    yield "where", _where(verify.signature)
    yield from _key(verify)
    for name, values in (("issuer", verify.issuer), ("audience", verify.audience)):
        if values:
            yield name, _or(values)
    if verify.body_claim is not None:
        yield "body's hash", f"claim `{verify.body_claim.claim}`"
    if verify.url_claim is not None:
        yield "address", f"claim `{verify.url_claim.claim}`"
    if verify.age_max_s is not None:
        yield "replay window", f"{verify.age_max_s:g} s from `iat`"
    else:
        yield "replay window", "until `exp`" if verify.require_expiry else "until `exp`, if the token has one"


def _where(place: model.Place | model.Timestamp) -> str:
    if place.from_ == "body":
        return "the body"
    name = f"`{place.path}` of the JSON body" if place.from_ == "json" else f"`{place.name}`"
    words = {"header": f"header {name}", "query": f"query {name}", "form": f"form field {name}", "json": name}
    return words[place.from_]


def _window(past_s: float | None, future_s: float | str | None) -> str:
    if past_s is None:
        return "none"
    ahead = past_s if future_s is None else future_s
    if ahead == "any":
        return f"{past_s:g} s back; a time ahead is taken"
    return f"{past_s:g} s both ways" if ahead == past_s else f"{past_s:g} s back, {ahead:g} s ahead"


def match_words(handshake: Handshake) -> Iterator[str]:
    """Which requests are the hand-shake."""
    match = handshake.match
    yield "/".join(match.method)
    for kind, conditions in (
        ("query", match.query), ("header", match.header), ("body", match.json_), ("form", match.form),
    ):  # fmt: skip
        for name, value in conditions.items():
            yield f"{kind} `{name}`{_condition(value)}"
    if handshake.verify_first:
        yield "rightly signed"


def _condition(value: Any) -> str:
    if value is True:
        return ""
    if value is False:
        return " absent"
    return f" ~ `{value.pattern}`" if isinstance(value, Condition) else f" = `{value}`"


def answer_words(handshake: Handshake) -> str:
    """What they are answered."""
    answer = handshake.answer
    words = [str(answer.status)]
    words += [f"`{name}: {text}`" for name, text in answer.headers.items()]
    words += [f"`{answer.body}`"] if answer.body else []
    if handshake.effect == "store_secret":
        words.append(f"`{handshake.secret}` is the secret from now on, while a registration is pending")
    if handshake.effect == "fetch_url":
        words.append(f"then GET `{handshake.url}` at {', '.join(f'`{host}`' for host in handshake.hosts)}")
    return ", ".join(words)


def _or(texts: Sequence[str] | None, otherwise: str = "none") -> str:
    return ", else ".join(f"`{_inline(text)}`" for text in texts) if texts else otherwise


def _inline(text: str) -> str:
    return text.replace("\n", "\\n")


def _and(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else words[0]


def _hash(name: str) -> str:
    return re.sub(r"^(SHA)(\d+)$", r"\1-\2", name.upper())
