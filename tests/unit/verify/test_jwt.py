"""Tokens: what a right one is, and everything that is near one."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from token_world import detached, jwk, part, pem, private, signature, token
from verify_world import NOW, b64, b64url, judge, request, verifier

from kafka_webhook_bridge.sources.verify import KeyNeeded, OfflineKeys, Verdict

SECRET = "a-secret-of-more-than-32-characters"
BODY = b'{"a":1}'
ADDRESS = "https://keys.example.com/jwks"


def row(*algorithms: str, **more: Any) -> dict[str, Any]:
    place = {"from": "header", "name": "X-Jwt"}
    return {"scheme": "jwt", "signature": place, "algorithms": [*algorithms], **more}


def fetched(*algorithms: str, **more: Any) -> dict[str, Any]:
    return row(*algorithms, key={"from": "jwks", "url": ADDRESS}, **more)


HS = row("HS256")


def of(table: Mapping[str, Any], text: str, *secrets: str, now: float = NOW, keys: Any = None, **more: Any) -> Verdict:
    sender = verifier(table, *secrets, params=more.pop("params", None), keys=OfflineKeys(keys) if keys else None)
    return judge(sender, request(BODY, {"X-Jwt": text}, **more), now)


@pytest.mark.parametrize(
    "algorithm",
    [
        "HS256",
        "HS384",
        "HS512",
        "RS256",
        "RS384",
        "RS512",
        "PS256",
        "PS384",
        "PS512",
        "ES256",
        "ES384",
        "ES512",
        "EdDSA",
    ],
)
def test_every_algorithm(algorithm: str) -> None:
    kind = "RSA" if algorithm[:2] in ("RS", "PS") else algorithm
    shared = algorithm.startswith("HS")
    key, other = (SECRET, "x" * 40) if shared else (private(kind), private(kind, 1))
    secret = SECRET if shared else pem(kind)
    assert of(row(algorithm), token(algorithm, key, {"a": 1}), secret).ok
    assert of(row(algorithm), token(algorithm, other, {"a": 1}), secret).code == "signature.mismatch"
    if not shared:
        keys = [jwk(kind, 1, kid="old"), jwk(kind, kid="k1", alg=algorithm, use="sig")]
        assert of(fetched(algorithm), token(algorithm, key, {}, {"kid": "k1"}), keys=keys).ok
        assert of(fetched(algorithm), token(algorithm, key, {}, {"kid": "old"}), keys=keys).code == "signature.mismatch"
    good = token(algorithm, key, {"a": 1})
    head, claims, proof = good.split(".")
    for wrong in (
        f"{head}.{part({'a': 2})}.{proof}", f"{head}.{claims}.{proof[:-4]}", f"{head}.{claims}.", f"{head}.{claims}",
        f"{head}..{proof}", f".{claims}.{proof}", good + "=", good + ".", good + "." + proof, good + "A",
        f"{head}.{claims}.{proof[:-1]}{'A' if proof[-1] != 'A' else 'Q'}", head, "", "..", f"{head}=.{claims}.{proof}",
    ):  # fmt: skip
        assert not of(row(algorithm), wrong, secret).ok, wrong


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", "", "HS384", "RS256", "hs256", "HS256 ", "HS2561"])
def test_the_algorithm_is_the_rows(name: str) -> None:
    text = f"{part({'alg': name, 'typ': 'JWT'})}.{part({})}"
    for proof in ("", b64url(signature("HS256", SECRET, text.encode())), "AA"):
        verdict = of(HS, f"{text}.{proof}", SECRET)
        assert verdict.code in ("token.algorithm", "token.malformed")
        assert not verdict.ok


@pytest.mark.parametrize("name", [None, 1, True, ["HS256"], {"HS256": 1}])
def test_an_algorithm_that_is_no_text(name: Any) -> None:
    assert of(HS, token("HS256", SECRET, {}, {"alg": name}), SECRET).code == "token.algorithm"


def test_a_public_key_is_never_a_shared_secret() -> None:
    """The old confusion: HS256 with the PEM of the public key, which everybody has."""
    for kind, algorithm in (("RSA", "RS256"), ("ES256", "ES256")):
        forged = token("HS256", pem(kind), {}, {"kid": "k1"})
        assert of(row(algorithm), forged, pem(kind)).code == "token.algorithm"
        assert of(fetched(algorithm), forged, keys=[jwk(kind, kid="k1")]).code == "token.algorithm"
        as_listed = forged.replace(forged.split(".")[0], part({"alg": algorithm, "typ": "JWT", "kid": "k1"}))
        assert of(row(algorithm), as_listed, pem(kind)).code == "signature.mismatch"


def test_keys_of_another_kind_under_the_right_id_are_not_used() -> None:
    good = token("RS256", private("RSA"), {}, {"kid": "k1"})
    for wrong in (
        {"kty": "oct", "k": b64url(SECRET.encode()), "kid": "k1"},
        jwk("ES256", kid="k1"),
        jwk("EdDSA", kid="k1"),
        jwk("RSA", kid="k1", use="enc"),
        jwk("RSA", kid="k1", alg="PS256"),
        jwk("RSA", kid="k1", alg="RS512"),
        jwk("RSA", kid="k1", key_ops=["sign"]),
        jwk("RSA", kid="k1", key_ops="verify"),
        {**jwk("RSA", kid="k1"), "n": 5},
        {**jwk("RSA", kid="k1"), "n": "AQAB"},
        {**jwk("RSA", kid="k1"), "e": "AQ"},
        {**jwk("RSA", kid="k1"), "e": ""},
        {**jwk("RSA", kid="k1"), "kty": "rsa"},
        {"kid": "k1"},
    ):
        assert of(fetched("RS256"), good, keys=[wrong]).code == "signature.mismatch", wrong
    assert of(fetched("RS256"), good, keys=[jwk("ES256", kid="k1"), jwk("RSA", kid="k1")]).ok
    hs = token("HS256", SECRET, {}, {"kid": "k1"})
    oct_key = {"kty": "oct", "k": b64url(SECRET.encode()), "kid": "k1"}
    assert of(fetched("RS256", "ES256"), hs, keys=[oct_key]).code == "token.algorithm"


def test_a_point_that_is_on_no_curve_is_no_key() -> None:
    good = token("ES256", private("ES256"), {}, {"kid": "k1"})
    right = jwk("ES256", kid="k1")
    for wrong in (
        {**right, "y": right["x"]},
        {**right, "crv": "P-384"},
        {**right, "x": ""},
        {**right, "crv": "P-256K"},
    ):
        assert of(fetched("ES256"), good, keys=[wrong]).code == "signature.mismatch"


def test_an_elliptic_signature_has_its_two_numbers_and_no_more() -> None:
    head, claims, proof = token("ES256", private("ES256"), {}).split(".")
    zero = b64url(bytes(64))
    for wrong in (
        zero,
        b64url(bytes(63)),
        b64url(b"\x00" * 32 + b"\x01" * 32),
        b64url(b"\xff" * 64),
        proof + "AAAA",
        "",
    ):
        assert not of(row("ES256"), f"{head}.{claims}.{wrong}", pem("ES256")).ok
    raw = base64.urlsafe_b64decode(proof + "==")
    padded = b64url(raw[:32] + b"\x00" + raw[32:])  # the same two numbers
    assert of(row("ES256"), f"{head}.{claims}.{padded}", pem("ES256")).code == "signature.mismatch"


@pytest.mark.parametrize("key_id", ["k2", "K1", "", " k1", "k1 ", None, 1, ["k1"], {"k1": 1}, True, "k" * 201])
def test_a_key_is_chosen_by_its_exact_id(key_id: Any) -> None:
    header = {} if key_id is None else {"kid": key_id}
    verdict = of(fetched("RS256"), token("RS256", private("RSA"), {}, header), keys=[jwk("RSA", kid="k1")])
    assert verdict.code == "key.unknown"
    usable = isinstance(key_id, str) and 0 < len(key_id) <= 200
    assert verdict.key_needed == (KeyNeeded("jwks", ADDRESS, key_id) if usable else None)


def test_a_token_without_key_id_is_by_a_key_without_one() -> None:
    bare, named = token("RS256", private("RSA"), {}), token("RS256", private("RSA"), {}, {"kid": "k1"})
    assert of(fetched("RS256"), bare, keys=[jwk("RSA")]).ok
    assert of(fetched("RS256"), bare, keys=[jwk("RSA", kid="k1")]) == Verdict(
        False, "key.unknown", "the token names no key"
    )
    assert of(fetched("RS256"), named, keys=[jwk("RSA")]).code == "key.unknown"
    assert of(fetched("RS256"), token("RS256", private("RSA", 1), {}), keys=[jwk("RSA")]).code == "signature.mismatch"
    for wrong in ("", 1, ["k1"], "k" * 201):
        forged = token("RS256", private("RSA"), {}, {"kid": wrong})
        assert of(fetched("RS256"), forged, keys=[{**jwk("RSA"), "kid": wrong}, jwk("RSA")]).code == "key.unknown"


def test_keys_that_are_not_there_are_asked_for() -> None:
    verdict = of(fetched("RS256"), token("RS256", private("RSA"), {}, {"kid": "k1"}))
    assert verdict == Verdict(False, "key.unknown", verdict.detail, KeyNeeded("jwks", ADDRESS, "k1"))


def test_keys_inside_a_token_are_never_looked_at() -> None:
    attacker = private("RSA", 1)
    for more in ({"jwk": jwk("RSA", 1)}, {"jku": "https://evil.example/jwks"}, {"x5u": "https://evil.example/c.pem"}):
        forged = token("RS256", attacker, {}, {"kid": "k1", **more})
        assert of(fetched("RS256"), forged, keys=[jwk("RSA", kid="k1")]).code == "signature.mismatch"
        assert of(row("RS256"), forged, pem("RSA")).code == "signature.mismatch"


@pytest.mark.parametrize(
    "header",
    [
        {"crit": ["exp"], "exp": 1},
        {"crit": []},
        {"crit": ["b64"], "b64": False},
        {"crit": ["b64"], "b64": True},
        {"crit": None},
        {"cty": "JWT"},
        {"typ": "JWE"},
        {"typ": "at+jwt"},
        {"typ": 1},
        {"typ": None},
        {"enc": "A128GCM"},
        {"zip": "DEF"},
    ],
)
def test_headers_that_are_not_understood(header: dict[str, Any]) -> None:
    assert of(HS, token("HS256", SECRET, {}, header), SECRET).code == "token.malformed"


@pytest.mark.parametrize("kind", ["JWT", "jwt", "application/jwt", "JOSE"])
def test_types_that_say_nothing_else(kind: str) -> None:
    assert of(HS, token("HS256", SECRET, {}, {"typ": kind}), SECRET).ok
    without = json.dumps({"alg": "HS256"})
    assert of(HS, token("HS256", SECRET, {}, without), SECRET).ok


@pytest.mark.parametrize(
    "header",
    [
        '{"alg":"none","alg":"HS256"}',
        '{"alg":"HS256","alg":"none"}',
        '{"alg":"HS256","x":{"a":1,"a":2}}',
        '["HS256"]',
        '"HS256"',
        "null",
        "{}",
        "",
        '{"alg":"HS256"',
        '{"alg":"HS256"} ',
        '\ufeff{"alg":"HS256"}',
        "{'alg':'HS256'}",
        '{"alg":"HS256","x":NaN}',
        "[" * 5000,
    ],
)
def test_a_header_that_is_no_plain_object(header: str) -> None:
    expected = "ok" if header.endswith(" ") else None  # blanks around JSON are JSON
    code = of(HS, token("HS256", SECRET, {}, header), SECRET).code
    assert code == expected or (expected is None and code in ("token.malformed", "token.algorithm"))


@pytest.mark.parametrize(
    "claims",
    [
        "[]",
        "null",
        "1",
        '"x"',
        "",
        "{",
        '{"exp":1,"exp":9999999999}',
        '{"a":{"b":1,"b":1}}',
        b"\xff\xfe",
        '{"iat":1e999}',
        '{"a":' + "9" * 400 + "}",
        '{"a":"\\ud800"}',
        "[" * 3000 + "]" * 3000,
        '{"a":Infinity}',
    ],
)
def test_claims_that_are_no_plain_object(claims: str | bytes) -> None:
    assert of(HS, token("HS256", SECRET, claims), SECRET).code == "token.malformed"


TIMED = row("HS256", require_expiry=True)


def times(table: Mapping[str, Any], claims: Mapping[str, Any] | str, now: float = NOW) -> str:
    return of(table, token("HS256", SECRET, claims), SECRET, now=now).code


def test_expiry_and_start() -> None:
    assert times(TIMED, {"exp": NOW + 1}) == "ok"
    assert times(TIMED, {"exp": NOW + 0.5}) == "ok"
    assert times(TIMED, {"exp": NOW}) == "token.expired"  # RFC 7519: "on or after"
    assert times(TIMED, {"exp": NOW - 1}) == "token.expired"
    assert times(TIMED, {"exp": -NOW}) == "token.expired"
    assert times(TIMED, {"exp": 0}) == "token.expired"
    assert times(TIMED, {}) == "token.malformed"
    assert times(HS, {}) == "ok"
    assert times(HS, {"exp": NOW - 1}) == "token.expired"
    assert times(HS, {"nbf": NOW}) == "ok"
    assert times(HS, {"nbf": NOW + 1}) == "token.not_yet"
    leeway = row("HS256", leeway_s=60)
    assert times(leeway, {"exp": NOW - 59}) == "ok"
    assert times(leeway, {"exp": NOW - 60}) == "token.expired"
    assert times(leeway, {"nbf": NOW + 60}) == "ok"
    assert times(leeway, {"nbf": NOW + 61}) == "token.not_yet"


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("value", [str(NOW + 60), "x", None, True, False, [NOW + 60], {"a": 1}, ""])
def test_times_are_numbers(name: str, value: Any) -> None:
    assert times(row("HS256", age_max_s=300), {"iat": NOW, name: value}) == "token.malformed"


def test_when_it_was_issued_means_nothing_without_an_age() -> None:
    assert times(HS, {"iat": "2025-10-09T08:53:20Z"}) == "ok"


def test_claims_may_hold_numbers_of_any_length() -> None:
    assert times(HS, '{"data":{"id":18446744073709551615,"n":-' + "9" * 30 + "}}") == "ok"


@pytest.mark.parametrize("text", ['{"exp":1e400}', '{"exp":' + "9" * 30 + "}", '{"exp":-1e400}', '{"exp":NaN}'])
def test_times_are_bounded(text: str) -> None:
    assert times(HS, text) == "token.malformed"


def test_age() -> None:
    aged = row("HS256", age_max_s=300)
    assert times(aged, {"iat": NOW}) == "ok"
    assert times(aged, {"iat": NOW - 300}) == "ok"
    assert times(aged, {"iat": NOW - 301}) == "token.expired"
    assert times(aged, {"iat": NOW + 60}) == "ok"
    assert times(aged, {"iat": NOW + 61}) == "token.not_yet"
    assert times(aged, {"iat": NOW + 10**9}) == "token.not_yet"
    assert times(aged, {"exp": NOW + 60}) == "token.malformed"


def test_issuer_and_audience() -> None:
    named = row("HS256", issuer=["a", "{param}"], audience="{param:audience}")
    params = {"issuer": "me", "audience": "https://x"}

    def ask(**claims: Any) -> str:
        return of(named, token("HS256", SECRET, claims), SECRET, params=params).code

    assert ask(iss="a", aud="https://x") == "ok"
    assert ask(iss="me", aud=["b", "https://x"]) == "ok"
    for issuer in ("A", "", "a ", None, ["a"], {"a": 1}, 1, True):
        assert ask(iss=issuer, aud="https://x") == "token.issuer"
    assert ask(aud="https://x") == "token.issuer"
    for audience in (
        "https://x/",
        "HTTPS://x",
        "",
        None,
        [],
        ["https://x/"],
        [["https://x"]],
        ["https://x", 1],
        {"https://x": 1},
        True,
        1,
    ):
        assert ask(iss="a", aud=audience) == "token.audience", audience
    assert ask(iss="a") == "token.audience"


def test_an_audience_that_is_the_address() -> None:
    table = row("HS256", audience="{url}")
    claims = {"aud": "https://hooks.example.com/in/x?a=1"}
    assert of(table, token("HS256", SECRET, claims), SECRET, path="/in/x", query="a=1").ok
    for path, query in (
        ("/in/x", None),
        ("/in/x/", "a=1"),
        ("/in/X", "a=1"),
        ("/in/%78", "a=1"),
        ("/in/x", "a=1&"),
        ("/in/x", ""),
    ):
        assert of(table, token("HS256", SECRET, claims), SECRET, path=path, query=query).code == "token.audience"


def test_an_account() -> None:
    table = row("HS256", email_param=True)
    params = {"email": "me@p.iam.gserviceaccount.com"}

    def ask(**claims: Any) -> str:
        return of(table, token("HS256", SECRET, claims), SECRET, params=params).code

    assert ask(email=params["email"], email_verified=True) == "ok"
    for claims in (
        {"email": params["email"]},
        {"email": params["email"], "email_verified": "true"},
        {"email": params["email"], "email_verified": 1},
        {"email": "you@x", "email_verified": True},
        {"email_verified": True},
        {"email": [params["email"]], "email_verified": True},
    ):
        assert ask(**claims) == "token.subject"


def test_a_body_hash() -> None:
    digest = hashlib.sha256(BODY)

    def ask(claims: Mapping[str, Any], body: bytes = BODY, **claim: Any) -> str:
        table = row("HS256", body_claim={"claim": "h", **claim})
        text = {"X-Jwt": token("HS256", SECRET, claims)}
        return judge(verifier(table, SECRET), request(body, text)).code

    assert ask({"h": digest.hexdigest()}) == "ok"
    assert ask({"h": b64(digest.digest())}, encoding="base64") == "ok"
    assert ask({"h": b64url(digest.digest())}, encoding="base64url") == "ok"
    empty = hashlib.sha256(b"").hexdigest()
    for claims in (
        {"h": digest.hexdigest()[:-2]},
        {"h": b64(digest.digest())},
        {"h": ""},
        {"h": None},
        {"h": [digest.hexdigest()]},
        {"h": 1},
        {"h": empty},
        {},
    ):
        assert ask(claims) == "body.mismatch", claims
    assert ask({"h": digest.hexdigest()}, b"") == "body.mismatch"
    assert ask({}, only_if_claim=True) == "ok"
    assert ask({"h": empty}, only_if_claim=True) == "body.mismatch"
    assert ask({"h": None}, only_if_claim=True) == "body.mismatch"
    assert ask({}, b"", optional_if_empty=True) == "ok"
    assert ask({}, optional_if_empty=True) == "body.mismatch"
    assert ask({"h": digest.hexdigest()}, b"", optional_if_empty=True) == "body.mismatch"


def test_an_address_claim() -> None:
    url = "https://hooks.example.com/in?b=1&a=2"
    table = row("HS256", url_claim={"claim": "u"})
    plain = row("HS256", url_claim={"claim": "u", "hash": "none"})
    good = {"u": hashlib.sha256(url.encode()).hexdigest()}
    assert of(table, token("HS256", SECRET, good), SECRET, query="b=1&a=2").ok
    assert of(plain, token("HS256", SECRET, {"u": url}), SECRET, query="b=1&a=2").ok
    for query in ("a=2&b=1", None, "b=1&a=2#", "b=1&a=%32"):
        assert of(table, token("HS256", SECRET, good), SECRET, query=query).code == "url.mismatch"
        assert of(plain, token("HS256", SECRET, {"u": url}), SECRET, query=query).code == "url.mismatch"
    for value in (None, 1, [url], ""):
        assert of(plain, token("HS256", SECRET, {"u": value}), SECRET, query="b=1&a=2").code == "url.mismatch"


def test_several_secrets() -> None:
    for right in ("first-secret", "second-secret"):
        assert of(HS, token("HS256", right, {}), "first-secret", "second-secret").ok
    assert not of(HS, token("HS256", "third-secret", {}), "first-secret", "second-secret").ok


def test_a_token_as_the_body() -> None:
    sender = verifier("kinde", keys=OfflineKeys([jwk("RSA", kid="k1")]))
    good = token("RS256", private("RSA"), {"type": "user.created"}, {"kid": "k1"})
    assert judge(sender, request(good)).ok
    for body in ("", good + "\n", " " + good, json.dumps(good), f"{good},{good}", f"Bearer {good}", "x" * 2_000_000):
        assert not judge(sender, request(body)).ok


def test_a_users_token_by_the_same_keys_is_no_event() -> None:
    sender = verifier("kinde", keys=OfflineKeys([jwk("RSA", kid="k1")]))
    for claims in ({"sub": "kp_1", "aud": [], "scp": ["openid"]}, {"type": None}):
        body = token("RS256", private("RSA"), {**claims, "exp": NOW + 60}, {"kid": "k1"})
        assert judge(sender, request(body)).code == "token.malformed"


def test_bearer_is_a_word_of_its_own() -> None:
    sender = verifier("vonage", SECRET)
    good = token("HS256", SECRET, {"iat": NOW, "payload_hash": hashlib.sha256(BODY).hexdigest()})
    for value in (f"Bearer {good}", f"bearer {good}", f"BEARER {good}"):
        assert judge(sender, request(BODY, {"Authorization": value})).ok
    for value in (good, f"Bearer{good}", f"Basic {good}", f"Bearer  {good}", f"Bearer {good} x", "Bearer", "Bearer "):
        assert not judge(sender, request(BODY, {"Authorization": value})).ok, value


DETACHED = {
    "scheme": "jws_detached",
    "signature": {"from": "header", "name": "X-Jws"},
    "algorithms": ["RS256"],
    "key": {"from": "jwks", "url": ADDRESS},
}
PLAIN = {"kid": "k1", "b64": False, "crit": ["b64"]}


def loose(text: str, body: bytes = BODY, keys: Any = None) -> str:
    sender = verifier(DETACHED, keys=OfflineKeys(keys or [jwk("RSA", kid="k1")]))
    return judge(sender, request(body, {"X-Jws": text})).code


def test_a_detached_signature() -> None:
    key = private("RSA")
    for header in ({"kid": "k1"}, PLAIN, {"kid": "k1", "b64": True, "crit": ["b64"]}):
        good = detached("RS256", key, BODY, header)
        assert loose(good) == "ok"
        assert loose(good, BODY + b" ") == "signature.mismatch"
        assert loose(good, b"") == "signature.mismatch"
        assert loose(good, keys=[jwk("RSA", 1, kid="k1")]) == "signature.mismatch"
        head, _, proof = good.split(".")
        for wrong in (
            f"{head}.{b64url(BODY)}.{proof}",
            f"{head}.{proof}",
            f"{head}...{proof}",
            f"{head}..",
            f"..{proof}",
            f"{head}..{proof}=",
        ):
            assert loose(wrong) not in ("ok",), wrong
    assert loose(detached("RS256", private("RSA", 1), BODY, PLAIN)) == "signature.mismatch"
    assert loose(detached("RS256", key, BODY, {**PLAIN, "kid": "k2"})) == "key.unknown"
    assert loose(detached("RS256", key, BODY, {"b64": False, "crit": ["b64"]})) == "key.unknown"
    assert loose(detached("RS512", key, BODY, PLAIN)) == "token.algorithm"
    forged = detached("HS256", pem("RSA"), BODY, PLAIN)
    assert loose(forged) == "token.algorithm"


@pytest.mark.parametrize(
    "header",
    [
        {"b64": False},
        {"b64": True},
        {"crit": ["b64"]},
        {"crit": ["b64", "exp"], "b64": False},
        {"crit": [], "b64": False},
        {"crit": "b64", "b64": False},
        {"crit": ["b64", "b64"], "b64": False},
        {"crit": ["b64"], "b64": 0},
        {"crit": ["b64"], "b64": "false"},
        {"crit": ["exp"]},
    ],
)
def test_how_a_detached_payload_is_signed_must_be_critical(header: dict[str, Any]) -> None:
    assert loose(detached("RS256", private("RSA"), BODY, {"kid": "k1", **header})) == "token.malformed"


def test_a_body_cannot_pass_for_its_own_encoding() -> None:
    """With b64 false `eyJhIjoxfQ` has the signed text of the encoded `{"a":1}`; the header tells them apart."""
    good = detached("RS256", private("RSA"), BODY, {"kid": "k1"})
    assert loose(good, b64url(BODY).encode()) == "signature.mismatch"


@given(st.text(max_size=60), st.booleans())
def test_no_text_is_a_token(text: str, dotted: bool) -> None:
    value = f"{part({'alg': 'HS256'})}.{text}.{text}" if dotted else text
    assert not of(HS, value, SECRET).ok
    assert loose(value) != "ok"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from(["exp", "nbf", "iat", "iss", "aud", "email", "email_verified", "h", "u"]),
)
def test_no_signed_claim_makes_it_fail(value: Any, name: str) -> None:
    table = row(
        "HS256",
        issuer="i",
        audience="{url}",
        email_param=True,
        body_claim={"claim": "h"},
        url_claim={"claim": "u"},
        age_max_s=300,
    )
    assert not of(table, token("HS256", SECRET, {name: value}), SECRET, params={"email": "e"}).ok
