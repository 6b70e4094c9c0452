"""The schemes that are data: hmac, digest, public keys, tokens, basic, any, all.

Every secret is tried with every signature and the answers are put together without an early exit, so the time tells
nothing of which was close. Digests and tokens are compared by hmac.compare_digest.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest
from typing import TypeVar

from kafka_webhook_bridge.sources.basic import Credential, matches, parse_basic
from kafka_webhook_bridge.sources.verify import model
from kafka_webhook_bridge.sources.verify.keys import (
    SECRETS_MAX,
    PublicKey,
    check_secrets,
    fits,
    jwk_key,
    jwks_address,
    public_key,
    shared_key,
    signature_right,
)
from kafka_webhook_bridge.sources.verify.request import Signed, step_into, text_of
from kafka_webhook_bridge.sources.verify.signatures import (
    DECODERS,
    compile_place,
    compile_signatures,
    compile_timestamp,
    decoded,
)
from kafka_webhook_bridge.sources.verify.template import Item, Piece, parse_signed
from kafka_webhook_bridge.sources.verify.verdict import CompileError, KeyNeeded, KeyStore, Refused

Run = Callable[[Signed, float], None]
K = TypeVar("K")
Mac = Callable[[bytes], bytes]
TextRow = model.Hmac | model.Digest | model.Asymmetric


@dataclass(frozen=True, slots=True)
class Context:
    """What a scheme is compiled with: the operator's side of a source."""

    secrets: Sequence[str]
    params: Mapping[str, str]
    keys: KeyStore


def _texts(row: TextRow, context: Context) -> tuple[Callable[[Signed], Sequence[bytes]], bool]:
    """The function that makes the signed texts, and whether a time in them must tell where it ends."""
    templates = [parse_signed(text) for text in row.signed]
    for item in (item for template in templates for item in template.walk()):
        if isinstance(item, Item) and item.kind == "param":
            need_param(context, item.name)
    touches = any(template.touches_time for template in templates)
    pieces = [template.compile() for template in templates]
    if len(pieces) == 1:
        only = pieces[0]
        return lambda signed: (only(signed),), touches
    return lambda signed: _made(pieces, signed), touches


def _made(pieces: Sequence[Piece], signed: Signed) -> Sequence[bytes]:
    """The texts that can be made of this request: a body that is no UTF-8 has no escapes, but it has bytes."""
    found, refusals = [], []
    for piece in pieces:
        try:
            found.append(piece(signed))
        except Refused as refused:
            refusals.append(refused)
    if not found:
        raise refusals[0]
    return found


def need_param(context: Context, name: str) -> str:
    """The operator's parameter. Raises CompileError without it."""
    value = context.params.get(name)
    if not value:
        raise CompileError("params.missing", f"the profile needs the parameter `{name}`")
    return value


def _wanted(row: TextRow) -> frozenset[str]:
    """Items of the signature header that are read beside the signatures."""
    items = (item for text in row.signed for item in parse_signed(text).walk())
    names = {item.name for item in items if isinstance(item, Item) and item.kind == "sigfield"}
    if row.timestamp is not None and row.timestamp.field is not None:
        names.add(row.timestamp.field)
    return frozenset(names)


def _chosen(row: TextRow, context: Context, make: Callable[[str, int], K]) -> Callable[[Signed], Sequence[K]]:
    """The function that gives the keys to try: all, or with `key_select` those of the key id that the request names."""
    check_secrets(context.secrets)
    if row.key_select is None:
        keys = tuple(make(secret, index) for index, secret in enumerate(context.secrets, 1))
        return lambda signed: keys
    header = row.key_select.header.lower().encode()
    free: list[K] = []
    bound: dict[bytes, list[K]] = {}
    for index, secret in enumerate(context.secrets, 1):
        key_id, colon, text = secret.partition(":")
        if not colon:
            free.append(make(secret, index))
        elif not key_id or not text:
            raise CompileError("key.malformed", f"secret {index} lacks its key id or its text")
        else:
            bound.setdefault(key_id.encode(), []).append(make(text, index))

    def choose(signed: Signed) -> Sequence[K]:
        key_id = signed.header(header) if free else signed.need_header(header)
        keys = free + bound.get(key_id or b"", [])
        if not keys:
            raise Refused("key.unknown", "no secret has that key id")
        return keys

    return choose


def mac_of(key: bytes, name: str) -> Mac:
    """The HMAC with a key as a function. The key is hashed once, here: that is a third of the time of a small body."""
    keyed = hmac.new(key, None, name)

    def mac(message: bytes) -> bytes:
        copy = keyed.copy()
        copy.update(message)
        return copy.digest()

    return mac


def hmac_scheme(row: model.Hmac, context: Context) -> Run:
    """HMAC over a signed text."""
    names = tuple(row.hashes) if row.hash == "by_field" else (row.hash,)

    def make(secret: str, index: int) -> dict[str, Mac]:
        key = shared_key(secret, row.key, index)
        return {name: mac_of(key, name) for name in names}

    choose = _chosen(row, context, make)
    find = compile_signatures(row.signature, _wanted(row))
    messages, touches = _texts(row, context)
    check = compile_timestamp(row.timestamp, touches) if row.timestamp is not None else None
    decode = DECODERS[row.signature.encoding]
    name = row.hash
    named = {hash_name.encode(): hash_name for hash_name in row.hashes}
    pair = (row.signature.pair or "").encode()

    def run(signed: Signed, now: float) -> None:
        found = decoded(find(signed), decode)
        if check is not None:
            check(signed, now)
        right = False
        for message in messages(signed):
            for macs in choose(signed):
                expected = macs[name](message)
                for signature in found:
                    right |= compare_digest(expected, signature)
        mismatch_unless(right)

    def run_by_field(signed: Signed, now: float) -> None:
        items = [item.partition(pair) for item in find(signed)]
        found = [(named[hash_name], value) for hash_name, _, value in items if hash_name in named]
        if not found:
            raise Refused("signature.malformed", "no signature with a hash that the profile lists")
        if check is not None:
            check(signed, now)
        right = False
        for message in messages(signed):
            for macs in choose(signed):
                for hash_name, value in found:
                    for signature in decoded([value], decode):
                        right |= compare_digest(macs[hash_name](message), signature)
        mismatch_unless(right)

    return run_by_field if named else run


def digest_scheme(row: model.Digest, context: Context) -> Run:
    """Plain hash of a text that holds the secret.

    Where the secret is not the end of the text, whoever saw one signed request can append to it (length extension).
    What is appended begins with the hash's padding, 0x80, which no UTF-8 text has behind a whole character: so the body
    must be UTF-8.
    """
    choose = _chosen(row, context, lambda secret, index: secret.encode())
    find = compile_signatures(row.signature, _wanted(row))
    messages, touches = _texts(row, context)
    check = compile_timestamp(row.timestamp, touches) if row.timestamp is not None else None
    decode = DECODERS[row.signature.encoding]
    can_grow = any(parse_signed(text).items[-1] != Item("secret") for text in row.signed)
    name = row.hash

    def run(signed: Signed, now: float) -> None:
        found = decoded(find(signed), decode)
        if check is not None:
            check(signed, now)
        if can_grow and not is_utf8(signed.body):
            raise Refused("body.malformed", "not UTF-8")
        right = False
        for secret in choose(signed):
            signed.secret = secret
            for message in messages(signed):
                expected = hashlib.new(name, message, usedforsecurity=False).digest()
                for signature in found:
                    right |= compare_digest(expected, signature)
        mismatch_unless(right)

    return run


def one_of(values: Iterable[bytes], wanted: bytes) -> bool:
    """Whether `wanted` is among the values. Every one is compared in full, so the time tells nothing."""
    right = False
    for value in values:
        right |= compare_digest(value, wanted)
    return right


def mismatch_unless(right: bool) -> None:
    """Raises Refused where no signature was right."""
    if not right:
        raise Refused("signature.mismatch")


def is_utf8(body: bytes) -> bool:
    """Whether the bytes are UTF-8 text."""
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def asymmetric_scheme(row: model.Asymmetric, context: Context) -> Run:
    """A signature checked with public keys, configured or fetched."""
    scheme = row.scheme
    if row.key.from_ == "jwks":
        choose = _fetched(row, context)
    else:
        choose = _chosen(row, context, lambda secret, index: public_key(secret, row.key, scheme, index))
    find = compile_signatures(row.signature, _wanted(row))
    messages, touches = _texts(row, context)
    check = compile_timestamp(row.timestamp, touches) if row.timestamp is not None else None
    decode = DECODERS[row.signature.encoding]

    def run(signed: Signed, now: float) -> None:
        found = decoded(find(signed), decode)
        if check is not None:
            check(signed, now)
        signed_texts = messages(signed)
        right = False
        for key in choose(signed):
            for message in signed_texts:
                for signature in found:
                    right |= signature_right(key, scheme, signature, message)
        mismatch_unless(right)

    return run


def _fetched(row: model.Asymmetric, context: Context) -> Callable[[Signed], Sequence[PublicKey]]:
    """All keys of a JWKS that the scheme can use; such senders name none."""
    address = jwks_address(row.key, context.params, context.keys)
    keys, scheme = context.keys, row.scheme

    def choose(signed: Signed) -> Sequence[PublicKey]:
        found = keys.jwks(address)
        if found is None:
            raise Refused("key.unknown", "the keys are not there yet", KeyNeeded("jwks", address, ""))
        usable = [key for jwk in found if (key := jwk_key(jwk)) is not None and fits(key, scheme)]
        return usable[:SECRETS_MAX]

    return choose


def token_scheme(row: model.Token, context: Context) -> Run:
    """A fixed text, compared by digest."""
    check_secrets(context.secrets)
    digests = [sha256(secret.encode()).digest() for secret in context.secrets]
    read = compile_place(row.signature)
    missing = row.signature.from_ != "header"

    def run(signed: Signed, now: float) -> None:
        try:
            digest = sha256(read(signed)).digest()
        except Refused as refused:
            if missing and refused.verdict.code == "signature.malformed":
                raise Refused("credentials.missing", refused.verdict.detail) from None
            raise
        if not one_of(digests, digest):
            raise Refused("credentials.wrong")

    return run


def token_each_scheme(row: model.TokenEach, context: Context) -> Run:
    """A fixed text in every element of an array; an empty array proves nothing."""
    check_secrets(context.secrets)
    digests = [sha256(secret.encode()).digest() for secret in context.secrets]
    path = tuple(row.array.split("."))
    field = row.field

    def run(signed: Signed, now: float) -> None:
        elements = step_into(signed.json, path)
        if type(elements) is not list or not elements:
            raise Refused("body.malformed", f"no elements in {row.array}")
        right = True
        for element in elements:
            token = text_of(element.get(field), field) if type(element) is dict else None
            if token is None:
                raise Refused("credentials.missing", f"an element without {field}")
            right &= one_of(digests, sha256(token).digest())
        if not right:
            raise Refused("credentials.wrong")

    return run


def basic_scheme(row: model.Basic, context: Context) -> Run:
    """Basic authentication; a secret is `user:password`, and neither half of it may be all there is of it."""
    check_secrets(context.secrets)
    credentials = []
    for index, secret in enumerate(context.secrets, 1):
        user, colon, password = secret.partition(":")
        if not colon or not password:
            raise CompileError("key.malformed", f"secret {index} is not of the form user:password")
        credentials.append(Credential.of(user, password))

    def run(signed: Signed, now: float) -> None:
        value = signed.header(b"authorization")
        if value is None:
            raise Refused("credentials.missing", "no Authorization header")
        login = parse_basic(value)
        if login is None or b64encode(b":".join(login)) != value.rpartition(b" ")[2]:
            raise Refused("credentials.wrong", "not of scheme Basic, or malformed")
        if not matches(credentials, *login):
            raise Refused("credentials.wrong")

    return run


def open_scheme(row: model.Open, context: Context) -> Run:
    """Anybody may send."""
    return lambda signed, now: None


def any_scheme(runs: Sequence[Run]) -> Run:
    """One of several ways is enough; all are tried. The refusal told is the first."""

    def run(signed: Signed, now: float) -> None:
        refusals = []
        for way in runs:
            try:
                way(signed, now)
            except Refused as refused:
                refusals.append(refused)
        if len(refusals) == len(runs):
            raise refusals[0]

    return run


def all_scheme(runs: Sequence[Run]) -> Run:
    """All of several ways are needed."""

    def run(signed: Signed, now: float) -> None:
        for way in runs:
            way(signed, now)

    return run
