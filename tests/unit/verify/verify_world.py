"""What the tests of the engine share: the vectors, verifiers by a profile's name, requests with little to type."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

from kafka_webhook_bridge.body import parse_json
from kafka_webhook_bridge.event import Request
from kafka_webhook_bridge.sources import verify as engine
from kafka_webhook_bridge.sources.catalog import Catalog
from kafka_webhook_bridge.sources.verify import CompileError, KeyStore, OfflineKeys, Verdict, Verifier

NOW = 1_760_000_000
VECTORS = json.loads((Path(__file__).parents[2] / "data" / "providers" / "vectors.json").read_text("utf-8"))["vectors"]
VALID = [vector for vector in VECTORS if vector["expected"]]
CATALOG = Catalog()
# Their senders sign less than the body, or what a form means and not how it is written.
SIGNS_MEANING = {
    "twilio",
    "mandrill",
    "gitea-form",
    "travis-ci",
    "plivo-v3",
    "braintree",
    "dropbox-sign",
    "shipmondo",
    "exact-online",
}


@cache
def by_id() -> dict[str, dict[str, Any]]:
    return {vector["id"]: vector for vector in VECTORS}


def request_of(vector: Mapping[str, Any]) -> Request:
    """The request of a vector; an address without a path has none."""
    url = urlsplit(vector["url"])
    body = base64.b64decode(vector["body_base64"]) if "body_base64" in vector else vector["body"].encode()
    return Request(
        vector["method"].encode(),
        url.path.encode(),
        url.query.encode() if "?" in vector["url"] else None,
        [(name.encode(), value.encode()) for name, value in vector["headers"].items()],
        body,
        "127.0.0.1",
    )


def verifier_of(vector: Mapping[str, Any]) -> Verifier:
    """The verifier of a vector's profile, secrets, keys and parameters."""
    url = urlsplit(vector["url"])
    params = dict(vector.get("params", {}))
    ebay = params.pop("keys", None)
    return engine.compile(
        CATALOG.load(vector["profile"]),
        vector["secrets"],
        params=params,
        public_url=f"{url.scheme}://{url.netloc}",
        keys=OfflineKeys(vector.get("jwks", {}).get("keys"), vector.get("certs"), ebay),
    )


def judge(verifier: Verifier, request: Request, now: float = NOW) -> Verdict:
    return verifier(request, parse_json(request.body), now)


def verdict_of(vector: Mapping[str, Any]) -> Verdict:
    """The verdict of a vector; what cannot be compiled is refused, with the code of the error."""
    try:
        verifier = verifier_of(vector)
    except CompileError as error:
        return Verdict(False, error.code, str(error))
    return judge(verifier, request_of(vector), vector["now"])


def signs_the_whole_body(vector: dict[str, Any]) -> bool:
    """Whether no other body than the vector's may pass."""
    return verifier_of(vector).covers_body and vector["profile"] not in SIGNS_MEANING


BODIES = [vector for vector in VALID if vector["body"] and signs_the_whole_body(vector)]


def verifier(
    verify: str | Mapping[str, Any],
    *secrets: str,
    params: Mapping[str, str] | None = None,
    public_url: str | None = "https://hooks.example.com",
    keys: KeyStore | None = None,
) -> Verifier:
    """The verifier of a profile by name, or of a `verify` table."""
    row = CATALOG.load(verify) if isinstance(verify, str) else SimpleNamespace(verify=verify, covers_body=None)
    return engine.compile(row, secrets, params=params or {}, public_url=public_url, keys=keys or OfflineKeys())


def request(
    body: bytes | str = b"",
    headers: Mapping[str, str | bytes] | Sequence[tuple[str, str | bytes]] = (),
    *,
    method: str = "POST",
    path: str = "/in",
    query: str | None = None,
) -> Request:
    """A request; header values and bodies as text are UTF-8."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    return Request(
        method.encode(),
        path.encode(),
        None if query is None else query.encode(),
        [(name.encode(), value if isinstance(value, bytes) else value.encode()) for name, value in pairs],
        body if isinstance(body, bytes) else body.encode(),
        "127.0.0.1",
    )


def mac(secret: str | bytes, message: bytes | str, name: str = "sha256") -> bytes:
    key = secret if isinstance(secret, bytes) else secret.encode()
    return hmac.digest(key, message if isinstance(message, bytes) else message.encode(), name)


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def b64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
