"""What is fuzzed: functions of bytes that must not raise, and the inputs to begin with.

Beside exceptions they look for forgeries: a vector's verifier that takes another body than the vector's.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from pydantic import ValidationError

from kafka_webhook_bridge.body import NOT_JSON, parse_json
from kafka_webhook_bridge.cli.cases import judge_line
from kafka_webhook_bridge.event import Request
from kafka_webhook_bridge.sources.catalog import PACKAGED, Catalog, read_file
from kafka_webhook_bridge.sources.decode import compile_decode
from kafka_webhook_bridge.sources.handshake import compile_handshakes
from kafka_webhook_bridge.sources.keys import parse_template
from kafka_webhook_bridge.sources.verify import CODES, OfflineKeys, Verifier, parse_verify
from kafka_webhook_bridge.sources.verify import compile as compile_verifier
from kafka_webhook_bridge.sources.verify.case import CaseError
from kafka_webhook_bridge.sources.verify.request import Signed
from kafka_webhook_bridge.sources.verify.saved import parse_saved
from kafka_webhook_bridge.sources.verify.template import parse_signed
from kafka_webhook_bridge.sources.verify.verdict import Refused

NOW = 1_760_000_000
VECTORS = Path(__file__).parents[1] / "data/providers/vectors.json"
CATALOG = Catalog()
SECRETS = ("s3cret", "7365637265743a73", "key:c2VjcmV0", "public|private")
PARAMS = dict.fromkeys(
    ("issuer", "audience", "email", "jwks_url", "app_key", "verify_token", "endpoint"), "https://example.com/"
) | {"topic_arn": "arn:aws:sns:us-east-1:123456789012:topic"}
# Their senders sign what a form means and not how it is written, or less than the body.
SIGNS_MEANING = frozenset(
    {
        "twilio", "mandrill", "gitea-form", "travis-ci", "plivo-v3", "braintree", "dropbox-sign", "shipmondo",
        "exact-online",
    }
)  # fmt: skip


class Forged(Exception):
    """A request passed that no sender signed."""


class Target(NamedTuple):
    """`run` must not raise on any input; `seeds` gives inputs to begin with; `bytes_max` bounds what is made of them.

    Up to 32 KiB are parsed on the loop (rules.md 28), so these are judged by time, too.
    """

    run: Callable[[bytes], None]
    seeds: Callable[[], Iterator[bytes]]
    bytes_max: int = 32768


@cache
def valid() -> list[dict[str, Any]]:
    """The vectors that must pass."""
    return [vector for vector in json.loads(VECTORS.read_text("utf-8"))["vectors"] if vector["expected"]]


@cache
def verifier(index: int) -> Verifier:
    """The verifier of one of them, compiled once."""
    vector = valid()[index]
    params = dict(vector.get("params", {}))
    ebay = params.pop("keys", None)
    keys = OfflineKeys(vector.get("jwks", {}).get("keys"), vector.get("certs"), ebay)
    url = urlsplit(vector["url"])
    return compile_verifier(
        CATALOG.load(vector["profile"]),
        vector["secrets"],
        params=params,
        public_url=f"{url.scheme}://{url.netloc}",
        keys=keys,
    )


def body_of(vector: dict[str, Any]) -> bytes:
    return base64.b64decode(vector["body_base64"]) if "body_base64" in vector else vector["body"].encode()


# ---- a request → a verifier ------------------------------------------------------------------------------------------


def request_seeds() -> Iterator[bytes]:
    """The number of a vector in two bytes, and its request as people save it."""
    for index, vector in enumerate(valid()):
        url = urlsplit(vector["url"])
        target = (url.path or "/") + (f"?{url.query}" if "?" in vector["url"] else "")
        head = "".join(f"{name}: {value}\r\n" for name, value in vector["headers"].items())
        text = f"{vector['method']} {target} HTTP/1.1\r\n{head}\r\n".encode()
        yield index.to_bytes(2, "big") + text + body_of(vector)


def request(data: bytes) -> None:
    """A saved request to the verifier that its first two bytes name."""
    index = int.from_bytes(data[:2], "big") % len(valid())
    try:
        sent = parse_saved(data[2:])
    except CaseError:
        return
    vector, judge = valid()[index], verifier(index)
    verdict = judge(sent, parse_json(sent.body) if judge.needs_json else NOT_JSON, vector["now"])
    assert verdict.code in CODES
    if verdict.ok and judge.covers_body and vector["profile"] not in SIGNS_MEANING and sent.body != body_of(vector):
        raise Forged(vector["id"])


# ---- a line of kwb verify --jsonl ------------------------------------------------------------------------------------


def line_seeds() -> Iterator[bytes]:
    for vector in valid():
        yield json.dumps(vector).encode()


def line(data: bytes) -> None:
    answer = judge_line(data, CATALOG, lambda: NOW)
    assert answer["code"] in CODES
    assert answer["verified"] is (answer["code"] == "ok")


# ---- a catalog's file, and rows of it --------------------------------------------------------------------------------


def catalog_seeds() -> Iterator[bytes]:
    for path in sorted(PACKAGED.glob("*.toml")):
        yield path.read_bytes()


PROBE = Request(
    b"POST",
    b"/in",
    b"a=b&token=x",
    [(b"X-Signature", b"t=1760000000,v1=00"), (b"Authorization", b"Bearer a.b.c"), (b"Content-Type", b"text/json")],
    b'{"a":{"b":"x"},"value":[{"clientState":"x"}]}',
    "127.0.0.1",
)


def catalog(data: bytes) -> None:
    """A file of somebody's own; what is right in it verifies, decodes and greets without raising."""
    _, profiles = read_file("own.toml", data.decode("utf-8", "replace"), packaged=False)
    for profile in profiles.values():
        for secret in SECRETS:
            with suppress(ValueError):
                judge = compile_verifier(
                    profile, [secret], params=PARAMS, public_url="https://a.example", keys=OfflineKeys([])
                )
                _probe(judge)
                for shake in compile_handshakes(profile.handshakes, params=PARAMS, secrets=[secret]):
                    if shake.matches(PROBE, parse_json(PROBE.body)):
                        shake.answer(PROBE, parse_json(PROBE.body), b"https://a.example/in")
                break


def table_seeds() -> Iterator[bytes]:
    for profile in CATALOG.load_all():
        yield json.dumps(profile.verify.model_dump(by_alias=True, exclude_unset=True)).encode()


def table(data: bytes) -> None:
    """A `verify` table, as in bridge.yaml, of whatever words."""
    value = parse_json(data)
    try:
        row = parse_verify(None if value is NOT_JSON else value)
    except ValidationError:
        return
    for secret in SECRETS:
        with suppress(ValueError):
            _probe(
                compile_verifier(
                    _Row(row, None), [secret], params=PARAMS, public_url="https://a.example", keys=OfflineKeys([])
                )
            )


class _Row(NamedTuple):
    verify: Any
    covers_body: bool | None


def _probe(judge: Verifier) -> None:
    # A compiler's ValueError is let be, a verifier's is not.
    try:
        assert judge(PROBE, parse_json(PROBE.body), NOW).code in CODES
    except ValueError as error:
        raise AssertionError("a verifier raised") from error


# ---- templates -------------------------------------------------------------------------------------------------------


def template_seeds() -> Iterator[bytes]:
    for profile in CATALOG.load_all():
        for text in getattr(profile.verify, "signed", ()):
            yield text.encode()
    yield b"{header:X-Event}.{json:a.b}/{query:a}-{form:b}"


def template(data: bytes) -> None:
    """The text of a signed text, and of a key."""
    text = data.decode("utf-8", "replace")
    with suppress(ValueError):
        piece = parse_signed(text).compile()
        signed = Signed(PROBE, NOT_JSON, b"https://a.example", {"app_key": "k"})
        signed.timestamp, signed.secret, signed.fields = b"1760000000", b"s3cret", {b"env": b"prod"}
        with suppress(Refused):
            piece(signed)
    with suppress(ValueError):
        parse_template(text).render(PROBE, parse_json(PROBE.body))


# ---- forms, multipart, wrapped bodies --------------------------------------------------------------------------------

_PART = b'--x\r\nContent-Disposition: form-data; name="json"\r\nContent-Type: text/plain\r\n\r\n{"a":1}\r\n--x--\r\n'


def form_seeds() -> Iterator[bytes]:
    """A content type, a query and a body, with line feeds between."""
    yield b"application/x-www-form-urlencoded\na=b%20c&d\njson=%7B%22a%22%3A1%7D&b=+&c="
    yield b"multipart/form-data; boundary=x\n\n" + _PART
    yield b'multipart/form-data; boundary="x"\n\n' + _PART + _PART
    for vector in valid():
        if kind := {name.lower(): value for name, value in vector["headers"].items()}.get("content-type"):
            yield f"{kind}\n{urlsplit(vector['url']).query}\n".encode() + body_of(vector)


_DECODERS = [
    compile_decode(steps, ["s3cret"])
    for steps in (["jwt"], ["json"], ["json:a.b"], ["form:json", "json"], ["json", "expand:a"], ["aes-256-cbc"])
]


def form(data: bytes) -> None:
    kind, _, rest = data.partition(b"\n")
    query, _, body = rest.partition(b"\n")
    sent = Request(b"POST", b"/in", query, [(b"content-type", kind)], body, "")
    for read in (
        lambda signed: signed.field(b"json"),
        lambda signed: signed.form_pairs,
        lambda signed: signed.query(b"a"),
        lambda signed: signed.json,
    ):
        with suppress(Refused):
            read(Signed(sent, NOT_JSON, None, {}))
    for decode in _DECODERS:
        decode(sent)


TARGETS = {
    "request": Target(request, request_seeds),
    "line": Target(line, line_seeds),
    "catalog": Target(catalog, catalog_seeds, 8192),
    "table": Target(table, table_seeds, 8192),
    "template": Target(template, template_seeds, 2048),
    "form": Target(form, form_seeds),
}
