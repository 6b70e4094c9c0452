"""Whatever is sent to whatever profile: an event, or a reason why not, and never an exception."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kafka_webhook_bridge.errors import Refusal
from kafka_webhook_bridge.event import Record, Request
from kafka_webhook_bridge.ingest.accept import make_record
from kafka_webhook_bridge.ingest.auth import Moment
from kafka_webhook_bridge.sources.catalog import Catalog
from kafka_webhook_bridge.sources.config import load_configuration
from kafka_webhook_bridge.sources.handshake import Greeting
from kafka_webhook_bridge.sources.source import Source
from kafka_webhook_bridge.sources.verify import Verdict

VECTORS = json.loads((Path(__file__).parents[1] / "data/providers/vectors.json").read_text("utf-8"))["vectors"]
VALID = {vector["profile"]: vector for vector in VECTORS if vector["expected"]}
PROFILES = sorted(VALID)


@cache
def sources() -> dict[str, Source]:
    """One source for each profile that a vector proves, with its secrets."""
    table = {}
    for name, vector in VALID.items():
        params = {key: value for key, value in vector.get("params", {}).items() if isinstance(value, str)}
        known = Catalog().load(name).setup.params
        params = {**dict.fromkeys(known, "x"), "jwks_url": "https://keys.test/", **params}
        table[name] = {
            "profile": name, "secrets": vector["secrets"], "i_know": True, "public_url": "https://h.test/in",
            "params": {key: value for key, value in params.items() if key in known},
        }  # fmt: skip
    found = load_configuration({"KWB_CONFIG": json.dumps({"sources": table})})[1]
    return {source.name: source for source in found.all()}


NAMES = sorted({name for vector in VALID.values() for name in vector["headers"]} | {"Content-Type", "Cookie"})
VALUES = sorted({value for vector in VALID.values() for value in vector["headers"].values()})
JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
BODIES = (
    st.binary(max_size=60)
    | JSON.map(json.dumps).map(str.encode)
    | st.sampled_from([vector["body"].encode() for vector in VALID.values()])
    | st.dictionaries(st.sampled_from(["payload", "data", "signature", "challenge", "bt_payload"]), st.text(max_size=9))
    .map(lambda pairs: "&".join(f"{name}={value}" for name, value in pairs.items()).encode("utf-8", "replace"))
)  # fmt: skip


@given(
    name=st.sampled_from(PROFILES),
    own=st.booleans(),
    method=st.sampled_from([b"POST", b"GET", b"HEAD", b"OPTIONS", b"PUT"]),
    query=st.none()
    | st.binary(max_size=30)
    | st.sampled_from([b"hub.challenge=1", b"challenge=%ff", b"token=&token="]),
    lines=st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES) | st.text(max_size=12)), max_size=4),
    body=BODIES,
    now=st.sampled_from([0.0, 1.76e9, 4e9]),
)
@example("stripe", True, b"POST", None, [], b"", float("inf"))
def test_no_request_raises(
    name: str, own: bool, method: bytes, query: bytes | None, lines: list[tuple[str, str]], body: bytes, now: float
) -> None:  # fmt: skip
    headers = [(key.encode(), value.encode("utf-8", "replace")) for key, value in lines]
    if own:  # near the right ones
        headers += [(key.encode(), value.encode()) for key, value in VALID[name]["headers"].items()]
    made = make_record(
        Request(method, f"/{name}/x".encode(), query, headers, body, ""), sources()[name], Moment(now, None)
    )
    assert isinstance(made, Record | Greeting | Verdict | Refusal)
    if isinstance(made, Verdict):
        assert not made.ok


@pytest.mark.parametrize("name", PROFILES)
def test_nobody_gets_in_with_nothing(name: str) -> None:
    """Neither without the headers that a sender has, nor with empty ones."""
    for body in (b"", b"{}", b"[]", b"null", b'{"value":[]}', b"a=b", b"\xff"):
        for headers in ([], [(key.encode(), b"") for key in VALID[name]["headers"]]):
            request = Request(b"POST", f"/{name}".encode(), None, headers, body, "")
            assert not isinstance(make_record(request, sources()[name], Moment(1.76e9, None)), Record)
