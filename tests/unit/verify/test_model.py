"""Mistakes in a row or a source are found when it loads, with a sentence."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import ValidationError
from verify_world import CATALOG, b64, verifier

from kafka_webhook_bridge.sources.verify import CompileError, OfflineKeys, parse_verify
from kafka_webhook_bridge.sources.verify.model import ADAPTER

HMAC: dict[str, Any] = {
    "scheme": "hmac",
    "hash": "sha256",
    "signature": {"from": "header", "name": "X-Sig", "encoding": "hex"},
    "signed": "{body}",
}
LISTED = {**HMAC["signature"], "separator": ",", "pair": "=", "field": "v1"}
STAMP = {"from": "header", "name": "X-Ts", "format": "unix", "past_s": 300}
PUBLIC = {"scheme": "rsa-sha256", "signature": HMAC["signature"], "signed": "{body}"}
JWT: dict[str, Any] = {
    "scheme": "jwt",
    "signature": {"from": "header", "name": "X-Jwt"},
    "algorithms": ["RS256"],
}


def test_every_row_of_the_catalog_is_right() -> None:
    for profile in CATALOG.load_all():
        parse_verify(profile.verify)


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ({}, "scheme"),
        ({"scheme": "hmca"}, "hmca"),
        ({**HMAC, "sginature": 1}, "sginature"),
        ({**HMAC, "hash": "crc32"}, "sha256"),
        ({**HMAC, "signature": {**HMAC["signature"], "encoding": "base85"}}, "base64"),
        ({**HMAC, "signature": {"from": "header", "encoding": "hex"}}, "`name` belongs"),
        ({**HMAC, "signature": {"from": "header", "name": "a b", "encoding": "hex"}}, "cannot be the name"),
        ({**HMAC, "signature": {"from": "json", "name": "x", "encoding": "hex"}}, "`path` belongs"),
        ({**HMAC, "signature": {"from": "json", "path": "a..b", "encoding": "hex"}}, "empty step"),
        ({**HMAC, "signature": {"from": "body", "encoding": "hex"}}, "signs nothing"),
        ({**HMAC, "signature": {**LISTED, "separator_pattern": ","}}, "either"),
        ({**HMAC, "signature": {**HMAC["signature"], "pair": "="}}, "belong together"),
        ({**HMAC, "signature": {**LISTED, "prefix": "v1="}}, "no prefix"),
        ({**HMAC, "signature": {**HMAC["signature"], "separator_pattern": "("}}, "regular expression"),
        ({**HMAC, "signature": {**HMAC["signature"], "separator_pattern": "(,)"}}, r"\(\?:"),
        ({**HMAC, "signature": {**HMAC["signature"], "also_pattern": "x-{n}-y"}}, "ends in"),
        ({**HMAC, "signature": {**HMAC["signature"], "first_is_timestamp": True}}, "separator"),
        ({**HMAC, "signed": "{bdy}"}, "did you mean body"),
        ({**HMAC, "signed": []}, "at least 1"),
        ({**HMAC, "signed": "{ts}.{body}"}, "no `timestamp`"),
        ({**HMAC, "timestamp": STAMP}, "proves nothing"),
        ({**HMAC, "signed": "{ts}{body}", "timestamp": {**STAMP, "format": "unix_auto"}}, "literal text"),
        ({**HMAC, "signed": "{ts}.{body}", "timestamp": {**STAMP, "past_s": 0}}, "greater than 0"),
        ({**HMAC, "signed": "{ts}.{body}", "timestamp": {**STAMP, "past_s": float("inf")}}, "finite"),
        ({**HMAC, "signed": "{ts}.{body}", "timestamp": {**STAMP, "past_s": "300"}}, "number"),
        ({**HMAC, "signed": "{ts}.{body}", "timestamp": {"from": "sigfield", "field": "t"}}, "without items"),
        ({**HMAC, "signed": "{secret}{body}"}, "scheme = digest"),
        ({**HMAC, "hash": "by_field"}, "belong together"),
        ({**HMAC, "hashes": ["sha1"]}, "belong together"),
        ({**HMAC, "key": {"encoding": "pem"}}, "no public key"),
        ({**HMAC, "key": {"from": "jwks", "url": "https://x"}}, "no public key"),
        ({**HMAC, "scheme": "digest"}, "made by anybody"),
        ({**HMAC, "scheme": "ed25519", "hash": "sha256"}, "hash"),
        ({**PUBLIC, "key": {"encoding": "hex"}}, "ed25519"),
        ({**JWT, "algorithms": []}, "at least 1"),
        ({**JWT, "algorithms": ["none"]}, "HS256"),
        ({**JWT, "algorithms": ["RS256", "HS256"]}, "taken for the other"),
        ({**JWT, "algorithms": ["HS256"], "key": {"from": "jwks", "url": "https://x"}}, "no public key"),
        ({**JWT, "key": {"from": "jwks"}}, "either `url` or `param`"),
        ({**JWT, "key": {"from": "jwks", "url": "http://x"}}, "pattern"),
        ({**JWT, "issuer": []}, "at least 1"),
        ({**JWT, "audience": "{parm}"}, "neither plain text"),
        ({**JWT, "leeway_s": 3600}, "300"),
        ({"scheme": "named", "code": "paypall"}, "paypal"),
        ({"scheme": "named", "code": "twilio", "past_s": 3}, "belongs to contentful"),
        ({"scheme": "named", "code": "contentful"}, "belongs to contentful"),
        ({"scheme": "any", "of": [HMAC]}, "at least 2"),
        ({"scheme": "any", "of": [HMAC, {"scheme": "basik"}]}, "basik"),
    ],
)
def test_mistakes_in_a_row(row: dict[str, Any], word: str) -> None:
    with pytest.raises(ValidationError, match=word):
        parse_verify(row)


def test_the_language_has_a_schema() -> None:
    mapping = ADAPTER.json_schema()["discriminator"]["mapping"]
    assert set(mapping) >= {
        "hmac",
        "digest",
        "jwt",
        "named",
        "any",
        "all",
        "none",
        "rsa-sha1",
    }


@pytest.mark.parametrize(
    ("profile", "secrets", "code"),
    [
        ("github", [], "credentials.missing"),
        ("github", [""], "key.malformed"),
        ("github", ["  \n"], "key.malformed"),
        ("github", ["right", ""], "key.malformed"),
        ("github", ["a\x00b"], "key.malformed"),
        ("github", ["\udcff"], "key.malformed"),
        ("github", [str(index) for index in range(11)], "key.malformed"),
        ("gitlab-token", [], "credentials.missing"),
        ("gitlab-token", [""], "key.malformed"),
        ("ms-graph", [""], "key.malformed"),
        ("postmark", ["no-colon"], "key.malformed"),
        ("postmark", ["user:"], "key.malformed"),
        ("postmark", [":"], "key.malformed"),
        ("clerk-svix", ["whsec_"], "key.malformed"),
        ("clerk-svix", ["whsec_not base64!"], "key.malformed"),
        ("clerk-svix", ["whsec_A"], "key.malformed"),
        ("adyen-payload", ["xyz"], "key.malformed"),
        ("adyen-payload", ["abc"], "key.malformed"),
        ("adyen-standard", ["not hex"], "key.malformed"),
        ("discord", ["00"], "key.malformed"),
        ("discord", ["zz" * 32], "key.malformed"),
        ("sendgrid", ["MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE"], "key.malformed"),
        ("adobe-commerce-webhooks", ["-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----"], "key.malformed"),
        ("netlify", ["-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----"], "key.malformed"),
        ("braintree", ["no-bar"], "key.malformed"),
        ("braintree", ["public|"], "key.malformed"),
        ("braintree", ["|private"], "key.malformed"),
        ("sinch-voice", ["no-colon"], "key.malformed"),
        ("sinch-voice", ["key:%%%"], "key.malformed"),
        ("worldline", [":secret"], "key.malformed"),
        ("worldline", ["id:"], "key.malformed"),
        ("polar", [""], "key.malformed"),
        ("aws-sns", [], "params.missing"),
        ("tiktok-shop", ["s"], "params.missing"),
        ("gcp-pubsub", [], "params.missing"),
        ("livekit", ["s" * 32], "params.missing"),
    ],
)
def test_sources_that_cannot_be_verified(profile: str, secrets: list[str], code: str) -> None:
    with pytest.raises(CompileError) as error:
        verifier(profile, *secrets)
    assert error.value.code == code
    assert not any(secret in str(error.value) for secret in secrets if len(secret) > 8)


def test_secrets_and_parameters_are_text() -> None:
    for secrets, params in (([1], {}), ([None], {}), (["s"], {"app_key": 5})):
        with pytest.raises(CompileError) as error:
            verifier("tiktok-shop", *secrets, params=params)  # type: ignore[arg-type]
        assert error.value.code == "input.invalid"


def test_keys_of_another_type_are_left_out() -> None:
    keys = OfflineKeys(["x", None, {"kty": "RSA"}], {"u": None, "v": "pem"}, {"k": "text"})
    assert keys.jwks("") == ({"kty": "RSA"},)
    assert (keys.certificate("u"), keys.certificate("v"), keys.ebay("k")) == (None, "pem", None)


def pem(key: Any) -> str:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def test_a_public_key_must_be_of_the_schemes_kind() -> None:
    keys = {
        "rsa": rsa.generate_private_key(65537, 2048).public_key(),
        "p256": ec.generate_private_key(ec.SECP256R1()).public_key(),
        "p384": ec.generate_private_key(ec.SECP384R1()).public_key(),
        "k1": ec.generate_private_key(ec.SECP256K1()).public_key(),
        "ed": ed25519.Ed25519PrivateKey.generate().public_key(),
        "dsa": dsa.generate_private_key(1024).public_key(),
    }
    row = {"signature": {"from": "header", "name": "s", "encoding": "base64"}, "signed": "{body}"}
    right = {"rsa-sha256": "rsa", "rsa-pss-sha256": "rsa", "ecdsa-p256-sha256": "p256", "ed25519": "ed"}
    for scheme, kind in right.items():
        for name, key in keys.items():
            if name == kind:
                verifier({**row, "scheme": scheme}, pem(key))
                continue
            with pytest.raises(CompileError):
                verifier({**row, "scheme": scheme}, pem(key))
    with pytest.raises(CompileError):
        verifier(JWT, pem(keys["p256"]))


@pytest.mark.parametrize("url", ["", "hooks.example.com", "ftp://x", "https://x/?q", "https://x/#f", "https://x y"])
def test_a_public_address_is_scheme_host_and_prefix(url: str) -> None:
    with pytest.raises(CompileError):
        verifier("square", "s", public_url=url)


@pytest.mark.parametrize(
    "address", ["", "http://x/jwks", "https://user@x/", "https://x y/", "file:///etc/passwd", "https://"]
)
def test_the_address_of_keys_is_https(address: str) -> None:
    class Online(OfflineKeys):
        offline = False

    with pytest.raises(CompileError) as error:
        verifier("saleor", params={"jwks_url": address}, keys=Online())
    assert error.value.code == "params.missing"
    verifier("saleor", params={"jwks_url": "https://x.saleor.cloud/.well-known/jwks.json"}, keys=Online())


def test_secrets_are_read_as_people_paste_them() -> None:
    for secret in ("whsec_" + b64(bytes(32)), b64(bytes(32)), b64(bytes(32)).rstrip("="), f" {b64(bytes(32))}\n"):
        verifier("clerk-svix", secret)
