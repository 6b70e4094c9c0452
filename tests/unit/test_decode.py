"""Bodies that wrap their event: what type and key are read of."""

from __future__ import annotations

import base64
import json
from hashlib import sha256
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7
from hypothesis import given
from hypothesis import strategies as st

from kafka_webhook_bridge.body import NOT_JSON
from kafka_webhook_bridge.event import Request
from kafka_webhook_bridge.sources.catalog import Catalog
from kafka_webhook_bridge.sources.decode import compile_decode

EVENT = {"type": "order.paid", "id": 7}


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def token(claims: Any) -> str:
    return ".".join((part({"alg": "RS256"}), part(claims), "c2ln"))


def sealed(text: bytes, secret: str = "key") -> str:
    iv = bytes(range(16))
    padder = PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES256(sha256(secret.encode()).digest()), modes.CBC(iv)).encryptor()
    return base64.b64encode(iv + encryptor.update(padder.update(text) + padder.finalize())).decode()


def decode(steps: list[str], body: str | bytes, content_type: str = "", secrets: tuple[str, ...] = ("key",)) -> Any:
    headers = [(b"Content-Type", content_type.encode())] if content_type else []
    raw = body.encode() if isinstance(body, str) else body
    return compile_decode(steps, secrets)(Request(b"POST", b"/s", None, headers, raw, ""))


def test_each_step() -> None:
    assert decode(["jwt"], token(EVENT)) == EVENT
    assert decode(["json:data", "jwt"], json.dumps({"data": token(EVENT)})) == EVENT
    inner = token({"data": json.dumps({"in": '{"a":1}', "b": 2})})
    assert decode(["jwt", "json:data", "json", "expand:in"], inner) == {"in": {"a": 1}, "b": 2}
    assert decode(["form:payload", "json"], "a=b&payload=%7B%22type%22%3A1%7D") == {"type": 1}
    multipart = '--x\r\nContent-Disposition: form-data; name="json"\r\n\r\n{"type":2}\r\n--x--\r\n'
    assert decode(["form:json", "json"], multipart, "multipart/form-data; boundary=x") == {"type": 2}
    assert decode(["json:encrypt", "aes-256-cbc", "json"], json.dumps({"encrypt": sealed(b'{"a":1}')})) == {"a": 1}
    assert decode(["json:a.0.b"], '{"a":[{"b":{"c":1}}]}') == {"c": 1}


def test_any_of_several_secrets_opens_what_is_sealed() -> None:
    body = json.dumps({"encrypt": sealed(b'{"a":1}', "new")})
    assert decode(["json:encrypt", "aes-256-cbc", "json"], body, secrets=("old", "new")) == {"a": 1}
    assert decode(["json:encrypt", "aes-256-cbc", "json"], body, secrets=("old", "older")) is NOT_JSON


@pytest.mark.parametrize(
    ("steps", "body"),
    [
        (["jwt"], "a.b"), (["jwt"], "a.!!.c"), (["jwt"], b"\xff.\xff.\xff"), (["jwt"], token(EVENT) + "." + "x"),
        (["json:data", "jwt"], "{}"), (["json:data", "jwt"], '{"data": 1}'), (["json:data", "jwt"], "no"),
        (["json:data", "json"], '{"data": "no"}'), (["expand:a"], '{"a": "no"}'), (["expand:a"], "[]"),
        (["form:payload", "json"], "payload=x&payload=y"), (["form:payload", "json"], ""),
        (["json:e", "aes-256-cbc", "json"], '{"e": "AAAA"}'), (["json:e", "aes-256-cbc", "json"], '{"e": "é"}'),
        (["json:e", "aes-256-cbc"], json.dumps({"e": base64.b64encode(bytes(48)).decode()})),
        (["json"], "{" * 200), (["json"], "[" + "1," * 600_000 + "1]"),
    ],
)  # fmt: skip
def test_rule_28_what_cannot_be_read_so_is_no_document(steps: list[str], body: str | bytes) -> None:
    assert decode(steps, body) is NOT_JSON


@given(st.binary(max_size=300), st.sampled_from([p for p in Catalog().load_all() if p.event.decode]))
def test_no_body_makes_it_raise(body: bytes, profile: Any) -> None:
    decode(profile.event.decode, body)
    decode(profile.event.decode, json.dumps({"data": body.decode("latin-1"), "encrypt": body.hex()}))
