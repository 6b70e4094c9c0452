"""Filter, topic and redaction without a bridge: what each decides, to the byte, for any request (rules.md 13, 29)."""

from __future__ import annotations

import json
import uuid
from hashlib import sha256
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kafka_webhook_bridge import errors, ids
from kafka_webhook_bridge.body import NOT_JSON, parse_json
from kafka_webhook_bridge.event import Altered, Event, Record, Request
from kafka_webhook_bridge.ingest.accept import make_record
from kafka_webhook_bridge.ingest.auth import No, verify
from kafka_webhook_bridge.sources.config import check_configuration, load_configuration
from kafka_webhook_bridge.sources.keys import dedupe_key
from kafka_webhook_bridge.sources.redact import overlap, parse_path, redact_json, tree_of
from kafka_webhook_bridge.sources.rules import Dropped
from kafka_webhook_bridge.sources.source import Source
from kafka_webhook_bridge.sources.split import Split, parse_split
from kafka_webhook_bridge.sources.table import SourceTable

LOGIN = {"WEBHOOK_USERNAME": "hooks", "WEBHOOK_PASSWORD": "canary-91c2"}
RED = "[redacted]"


def table(source: dict[str, Any]) -> SourceTable:
    return load_configuration({**LOGIN, "KWB_CONFIG": json.dumps({"sources": {"a": source}})})[1]


def source(**words: Any) -> Source:
    found = table(words).get("a")
    assert found is not None
    return found


def problems(**words: Any) -> list[str]:
    """What is wrong with a source, without its place."""
    _, _, _, found = check_configuration({**LOGIN, "KWB_CONFIG": json.dumps({"sources": {"a": words}})})
    return [problem.what for problem in found]


def request(body: bytes = b"{}", query: bytes | None = None, **headers: str) -> Request:
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request(b"POST", b"/a", query, pairs, body, "127.0.0.1")


def made(of: Source, body: bytes = b"{}", query: bytes | None = None, **headers: str) -> Event | Split | No:
    document = parse_json(body) if of.needs_json else NOT_JSON
    return verify(request(body, query, **headers), of, document)


def event(of: Source, body: bytes = b"{}", query: bytes | None = None, **headers: str) -> Event:
    found = made(of, body, query, **headers)
    assert isinstance(found, Event), found
    return found


# ---- filter ----------------------------------------------------------------------------------------------------------

FILTER = [
    {"drop": "pings", "when": {"header:X-Event": ["ping", "test"]}},
    {"keep": "paid", "when": {"json:order.status": "paid", "query:shop": True}},
    {"drop": "numbered", "when": {"json:order.number": 7}},
    {"drop": "unnamed", "when": {"json:order.id": False}},
    {"drop": "urgent", "when": {"json:urgent": "true", "form:x": False}},
]


@pytest.mark.parametrize(
    ("body", "query", "header", "rule"),
    [
        (b'{"order":{"id":"1"}}', None, "ping", "pings"),
        (b'{"order":{"id":"1"}}', None, "test", "pings"),
        (b'{"order":{"id":"1"}}', None, "pinging", None),
        (b'{"order":{"id":"1"}}', None, "Ping", None),
        (b'{"order":{"status":"paid","number":7}}', b"shop=de", "", None),  # the first that matches decides
        (b'{"order":{"status":"paid","number":7}}', b"shop=", "", "numbered"),
        (b'{"order":{"status":"open","number":7}}', b"shop=de", "", "numbered"),
        (b'{"order":{"number":"7"}}', None, "", "numbered"),
        (b'{"order":{"number":7.0}}', None, "", "unnamed"),
        (b'{"order":{"id":""}}', None, "", "unnamed"),
        (b'{"order":{"id":{"a":1}}}', None, "", "unnamed"),
        (b"not JSON", None, "", "unnamed"),
        (b'{"order":{"id":"1"},"urgent":true}', None, "", "urgent"),
        (b'{"order":{"id":"1"},"urgent":false}', None, "", None),
    ],
)
def test_the_first_rule_that_matches_decides(body: bytes, query: bytes | None, header: str, rule: str | None) -> None:
    headers = {"x_event": header} if header else {}
    found = made(source(filter=FILTER), body, query, **headers)
    if rule is None:
        assert isinstance(found, Event)
        assert found.altered is None
    else:
        assert found == Dropped(rule)


def test_a_rule_without_conditions_matches_everything() -> None:
    only = source(filter=[{"keep": "orders", "when": {"header:X-Event": "order"}}, {"drop": "rest"}])
    assert not only.needs_json
    assert isinstance(made(only, x_event="order"), Event)
    assert made(only, x_event="other") == made(only) == Dropped("rest")


def test_what_proves_nothing_is_refused_before_it_is_filtered() -> None:
    found = source(profile="github", secrets=["s"], filter=[{"drop": "all"}])
    answer = made(found, x_github_event="push")
    assert not isinstance(answer, Dropped)
    assert not isinstance(answer, Event)


# ---- topic -----------------------------------------------------------------------------------------------------------

SHOP = {
    "topic": "shop.{header:X-Shopify-Topic}",
    "topics": ["shop.orders_create", "shop.orders_paid", "shop.x"],
    "topic_otherwise": "shop.other",
}


@pytest.mark.parametrize(
    ("header", "topic"),
    [
        ("orders/create", "shop.orders_create"),
        ("orders_create", "shop.orders_create"),
        ("orders/paid", "shop.orders_paid"),
        ("orders/deleted", "shop.other"),
        ("..", "shop.other"),
        ("é", "shop.other"),
        ("x" * 2000, "shop.other"),
        ("", "shop.other"),
    ],
)
def test_no_sender_chooses_a_topic_that_is_not_listed(header: str, topic: str) -> None:
    found = source(**SHOP)
    record = make_record(request(X_Shopify_Topic=header) if header else request(), found)
    assert isinstance(record, Record)
    assert record.topic == topic
    assert found.topics == ("shop.other", "shop.orders_create", "shop.orders_paid", "shop.x")


@given(st.binary(max_size=40) | st.text("shop.orders_cea/", max_size=20).map(str.encode))
def test_any_value_leads_to_a_listed_topic(value: bytes) -> None:
    of = _SHOP_SOURCE
    found = verify(Request(b"POST", b"/a", None, [(b"x-shopify-topic", value)], b"", ""), of)
    assert isinstance(found, Event)
    assert found.source.topic in of.topics
    assert (found.source.name, found.source.ack) == (of.name, of.ack)


_SHOP_SOURCE = source(**SHOP)


def test_a_source_without_a_topic_otherwise_has_its_own() -> None:
    found = source(topic="a.{json:kind}", topics=["a.b"])
    assert found.needs_json
    assert event(found, b'{"kind":"b"}').source.topic == "a.b"
    assert event(found, b'{"kind":"c"}').source.topic == "a"
    assert sorted(table({"topic": "a.{json:kind}", "topics": ["a.b"]}).by_topic()) == ["a", "a.b"]


# ---- redaction -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paths", "before", "after"),
    [
        (["c.n"], b' {"c": {"n" : "4111", "x":1.50}}\n', b' {"c": {"n" : "[redacted]", "x":1.50}}\n'),
        (["card"], b'{"card":{"number":[1,{"a":"}"}]},"b":2}', b'{"card":"[redacted]","b":2}'),
        (["a.*.b"], b'{"a":[{"b":1},{"c":2},{"b":null}]}', b'{"a":[{"b":"[redacted]"},{"c":2},{"b":"[redacted]"}]}'),
        (["a.1"], b'{"a":[1, 2 ,3]}', b'{"a":[1, "[redacted]" ,3]}'),
        (["*"], b'{"a":1,"b":[]}', b'{"a":"[redacted]","b":"[redacted]"}'),
        (["a", "a.b"], b'{"a":{"b":1}}', b'{"a":"[redacted]"}'),
        (["a.b", "a"], b'{"a":{"b":1}}', b'{"a":"[redacted]"}'),
        (
            ["a.b", "*.c"],
            b'{"a":{"b":1,"c":2},"d":{"c":3,"b":4}}',
            b'{"a":{"b":"[redacted]","c":"[redacted]"},"d":{"c":"[redacted]","b":4}}',
        ),
        (["a"], b'{"a":1,"a":2,"\\u0061":3}', b'{"a":"[redacted]","a":"[redacted]","\\u0061":"[redacted]"}'),
        ([RED], b'{"[redacted]":1}', b'{"[redacted]":"[redacted]"}'),
        (["n"], b'{"m":12345678901234567890123,"n":-1.5e3}', b'{"m":12345678901234567890123,"n":"[redacted]"}'),
        (["q"], rb'{"p":"\"q\":\\","q":"\\\"}"}', rb'{"p":"\"q\":\\","q":"[redacted]"}'),
        (["é"], '{"é":"ü"}'.encode(), '{"é":"[redacted]"}'.encode()),
        (["b"], b'{"a":1}', b'{"a":1}'),
        (["a.b"], b'{"a":1}', b'{"a":1}'),
        (["a"], b'"a"', b'"a"'),
        (["a"], b"[]", b"[]"),
        (["0.a"], b'[ {"a":true} ]', b'[ {"a":"[redacted]"} ]'),
    ],
)  # fmt: skip
def test_only_the_values_at_the_paths_are_taken_out(paths: list[str], before: bytes, after: bytes) -> None:
    assert redact_json(before, tree_of([parse_path(path) for path in paths])) == after


_names = st.sampled_from(["a", "b", "", "a.b", '"', "\\", "é", "}"])
_documents = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_names, inner, max_size=4),
    max_leaves=20,
)  # fmt: skip
_paths = st.lists(st.lists(st.sampled_from(["a", "b", "0", "1", "*", "é"]), min_size=1, max_size=4), max_size=4)


def redacted(document: Any, paths: list[list[str]]) -> Any:
    """The same by another way: over values, not text."""
    if [] in paths:
        return RED
    if isinstance(document, dict):
        return {k: redacted(v, [p[1:] for p in paths if p[:1] in ([k], ["*"])]) for k, v in document.items()}
    if isinstance(document, list):
        return [redacted(v, [p[1:] for p in paths if p[:1] in ([str(n)], ["*"])]) for n, v in enumerate(document)]
    return document


@given(_documents, _paths, st.sampled_from([None, 2]), st.booleans())
def test_redaction_is_right_for_any_document(
    document: Any, paths: list[list[str]], indent: int | None, ascii_only: bool
) -> None:
    body = json.dumps(document, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    if parse_json(body) is NOT_JSON:
        return
    found = redact_json(body, tree_of([tuple(path) for path in paths]))
    assert orjson.loads(found) == redacted(orjson.loads(body), paths)


def test_a_redacted_event_says_so_and_keeps_the_digest_of_what_came() -> None:
    found = source(
        redact={"json": ["card.number"], "headers": ["x-customer"], "query": ["email"]}, key="{json:card.brand}"
    )
    body = b'{"card":{"number":"4111","brand":"v"}}'
    one = event(found, body, b"a=1&email=x%40y&email", x_customer="canary", x_other="kept")
    assert one.altered == Altered("redact", sha256(body).hexdigest())
    assert one.request.body == b'{"card":{"number":"[redacted]","brand":"v"}}'
    assert one.request.query == b"a=1&email=[redacted]&email"
    assert one.request.headers == [(b"x-customer", b"[redacted]"), (b"x-other", b"kept")]
    assert one.key == b"v"
    record = make_record(request(body), found)
    assert isinstance(record, Record)
    assert record.body_sha256 == sha256(body).hexdigest()
    assert record.headers[-2:] == [("kwb_altered", b"redact"), ("kwb_body_sha256", sha256(body).hexdigest().encode())]
    # Nothing to take out: nothing is altered.
    plain = event(found, b'{"card":{"brand":"v"}}', b"a=1")
    assert (plain.altered, plain.request.body) == (None, b'{"card":{"brand":"v"}}')


def test_a_body_that_hides_what_must_be_taken_out_is_refused() -> None:
    found = source(redact={"json": ["card"]})
    for body in (
        b"card=4111",
        b'{"card":1',
        b"\xff",
        b" " * 2 + b'{"card":"' + b"x" * 1024**2 + b'"}',
        b"[" * 200 + b"]" * 200,
    ):
        assert made(found, body) is errors.NOT_REDACTABLE
    assert event(found, b"").altered is None  # there is nothing in it
    # Without paths into JSON the body may be anything.
    assert event(source(redact={"query": ["x"]}), b"card=4111").altered is None


def test_a_signature_is_said_to_cover_the_body_only_where_the_body_is_what_came() -> None:
    words = {"profile": "github", "secrets": ["s"], "redact": {"json": ["secret"], "headers": ["X-Else"]}}
    found = source(**words)
    assert found.covers_body
    import hmac

    def signed(body: bytes, **headers: str) -> Event:
        digest = hmac.digest(b"s", body, "sha256").hex()
        return event(found, body, x_hub_signature_256=f"sha256={digest}", x_github_event="push", **headers)

    assert signed(b'{"a":1}').covers_body
    assert not signed(b'{"secret":1}').covers_body
    assert signed(b'{"a":1}', x_else="canary").covers_body


# ---- split -----------------------------------------------------------------------------------------------------------


def split(of: Source, body: bytes, query: bytes | None = None, **headers: str) -> list[Event]:
    found = made(of, body, query, **headers)
    assert isinstance(found, Split), found
    return found.events


BATCH = b'{"shop": "de", "items": [ {"id": 1.50, "k":"a"} , {"id":2,"k":"b"},3 ]}'


def test_rule_29_each_element_is_an_event_of_its_own_bytes() -> None:
    of = source(split="json:items", key="{json:shop}-{json:items.*.k}", type="{json:items.0.k}")
    parts = split(of, BATCH, b"a=1", x_other="kept")
    assert [part.request.body for part in parts] == [b'{"id": 1.50, "k":"a"}', b'{"id":2,"k":"b"}', b"3"]
    assert [part.key for part in parts] == [b"de-a", b"de-b", None]
    assert [part.type for part in parts] == ["a", "b", "webhook.a"]
    first = parts[0].event_id
    assert [part.altered for part in parts] == [
        Altered("split", sha256(BATCH).hexdigest(), first, number, 3) for number in (1, 2, 3)
    ]
    assert [part.event_id for part in parts] == [str(ids.part(uuid.UUID(first), number)) for number in (1, 2, 3)]
    assert {part.received_ms for part in parts} == {ids.time_ms(uuid.UUID(first))}
    assert {(part.request.query, *part.request.headers) for part in parts} == {(b"a=1", (b"x-other", b"kept"))}
    assert not any(part.covers_body for part in parts)
    records = make_record(request(BATCH), of)
    assert isinstance(records, list)
    assert dict(records[1].headers)["kwb_part"] == b"2/3"
    assert records[1].body_sha256 == sha256(BATCH).hexdigest()


@pytest.mark.parametrize(
    "body",
    [
        b"", b"not JSON", b"{}", b'{"items":[]}', b'{"items":{"a":1}}', b'{"items":null}', b"[1]",
        b'{"items":[1],"items":[2]}', b'{"items":[' + b"1," * 1000 + b"1]}",
    ],
)  # fmt: skip
def test_rule_28_what_cannot_be_split_is_stored_whole(body: bytes) -> None:
    whole = event(source(split="json:items"), body)
    assert (whole.request.body, whole.altered) == (body, None)


@given(st.lists(_documents, min_size=1, max_size=8), st.sampled_from([(), ("a",), ("a", "0", "b")]), st.booleans())
def test_parts_are_the_elements_whatever_they_are(elements: list[Any], path: tuple[str, ...], indented: bool) -> None:
    document: Any = elements
    for step in reversed(path):
        document = [document] if step == "0" else {"z": elements, step: document, "y": [document]}
    body = json.dumps(document, indent=2 if indented else None).encode()
    if parse_json(body) is NOT_JSON:
        return
    splitter = parse_split("json" + ":" * bool(path) + ".".join(path))
    pieces = splitter.pieces(body, parse_json(body))
    assert pieces is not None
    assert [orjson.loads(piece) for piece in pieces] == splitter.elements(orjson.loads(body)) == orjson.loads(
        orjson.dumps(elements)
    )  # fmt: skip
    assert all(piece in body for piece in pieces)


@given(st.integers(0, 2**48 - 1), st.integers(0, 2**74 - 1))
def test_ids_of_parts_are_ids_of_the_same_moment(at_ms: int, noise: int) -> None:
    low, high = noise & 2**62 - 1, noise >> 62
    parent = uuid.UUID(int=at_ms << 80 | 7 << 76 | high << 64 | 2 << 62 | low)
    found = [ids.part(parent, number) for number in range(1, 20)]
    assert found[0] == parent
    assert len(set(found)) == len(found)
    for one in found:
        assert ids.time_ms(one) == at_ms
        assert (one.version, one.variant) == (7, uuid.RFC_4122)


def test_rule_13_parts_of_one_delivery_are_no_duplicates_of_each_other() -> None:
    def keys(**words: Any) -> list[str | None]:
        return [part.dedupe_key for part in split(source(split="json:items", **words), BATCH[:-5] + b"]}", x_id="7")]

    for words in ({"delivery_id": "{header:X-Id}"}, {"delivery_id": "{json:shop}"}, {"dedupe": "body"}):
        assert len(set(keys(**words))) == 2
        assert keys(**words) == keys(**words)  # when it comes again
    # Ids of the elements tell them apart, in whatever batch they come.
    assert keys(delivery_id="{json:items.*.k}") == [dedupe_key(b"a", b"a"), dedupe_key(b"a", b"b")]


def test_a_batch_is_redacted_and_sorted_part_by_part() -> None:
    of = source(
        split="json:items", redact={"json": ["items.*.secret"]}, topic="t.{json:items.0.k}", topics=["t.a", "t.b"]
    )
    body = b'{"items":[{"k":"a","secret":1},{"k":"b"},{"k":"c"}]}'
    parts = split(of, body)
    assert [part.request.body for part in parts] == [b'{"k":"a","secret":"[redacted]"}', b'{"k":"b"}', b'{"k":"c"}']
    assert [part.source.topic for part in parts] == ["t.a", "t.b", "a"]
    assert {part.altered and part.altered.how for part in parts} == {"redact,split"}
    assert {part.altered and part.altered.body_sha256 for part in parts} == {sha256(body).hexdigest()}


# ---- bridge.yaml -----------------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "both names": ({"filter": [{"drop": "a", "keep": "b"}]}, "sources.a.filter.0: a rule has either"),
    "no name": ({"filter": [{"when": {"json:a": "b"}}]}, "sources.a.filter.0: a rule has either"),
    "a name twice": ({"filter": [{"drop": "a", "when": {"json:b": "c"}}, {"keep": "a"}]}, "two rules are called a"),
    "a bad name": ({"filter": [{"drop": "A b"}]}, "does not match"),
    "a bad place": ({"filter": [{"drop": "a", "when": {"jsn:b": "c"}}]}, "did you mean json?"),
    "a star": ({"filter": [{"drop": "a", "when": {"json:b.*": "c"}}]}, "no `*`"),
    "an empty value": ({"filter": [{"drop": "a", "when": {"json:b": ""}}]}, "must be text, a list"),
    "an empty list": ({"filter": [{"drop": "a", "when": {"json:b": []}}]}, "must be text, a list"),
    "a float": ({"filter": [{"drop": "a", "when": {"json:b": 1.5}}]}, "must be text, a list"),
    "an unknown word": ({"filter": [{"drop": "a", "whn": {}}]}, "did you mean `when`?"),
    "no topics": ({"topic": "a.{json:b}"}, "leads nowhere without `topics`"),
    "topics of no template": ({"topic": "a", "topics": ["b"]}, "it is the only one"),
    "otherwise of no template": ({"topic_otherwise": "b"}, "it is the only one"),
    "a topic that cannot be": ({"topic": "a.{json:b}", "topics": ["a.x", "b.x"]}, "b.x is nothing that"),
    "a literal that no topic has": ({"topic": "a/{json:b}", "topics": ["a_x"]}, "is no topic name"),
    "an open brace": ({"topic": "a.{json:b", "topics": ["a.x"]}, "a brace without its partner"),
    "otherwise is listed": (
        {"topic": "a.{json:b}", "topics": ["a.x"], "topic_otherwise": "a.x"}, "is one of `topics`",
    ),
    "colliding topics": ({"topic": "a{json:b}", "topics": ["a.x", "a_x"]}, "collides with 'a.x'"),
    "nothing to take out": ({"redact": {}}, "names nothing"),
    "an empty step": ({"redact": {"json": ["a..b"]}}, "has an empty step"),
    "a bad header": ({"redact": {"headers": ["a b"]}}, "is no name of a header"),
    "the key shows it": ({"redact": {"json": ["a"]}, "key": "{json:a.b}"}, "`key` shows in every record"),
    "the type shows it": ({"redact": {"json": ["a.*.c"]}, "type": "{json:a.b}"}, "`type` shows in every record"),
    "the id shows it": ({"redact": {"headers": ["X-A"]}, "delivery_id": "{header:x-a}"}, "`delivery_id` shows"),
    "the topic shows it": (
        {"redact": {"query": ["q"]}, "topic": "a.{query:q}", "topics": ["a.x"]}, "`topic` shows in every record",
    ),
    "no kind": ({"split": "items"}, "neither `json:` and a path"),
    "no path": ({"split": "json:"}, "neither `json:` and a path"),
    "a star in split": ({"split": "json:a.*"}, "no `*` in its path"),
    "an array that is taken out": ({"split": "json:a.b", "redact": {"json": ["a"]}}, "and json:a.b with it"),
    "a wrapped event": (
        {"redact": {"json": ["a"]}, "profile": "kinde", "params": {"jwks_url": "https://a.test/k"}}, "wrapped",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_rules_are_told(case: str) -> None:
    words, sentence = WRONG[case]
    found = problems(**words)
    assert len(found) == 1, found
    assert sentence in found[0]


def test_a_source_that_suppresses_splits_nothing() -> None:
    words = {"split": "json", "dedupe": "suppress", "delivery_id": "{header:X-Id}"}
    environ = {**LOGIN, "DATABASE_URL": "postgresql://h/d", "KWB_CONFIG": json.dumps({"sources": {"a": words}})}
    (problem,) = check_configuration(environ)[3]
    assert "`dedupe: suppress` answers for one event" in problem.what


def test_overlapping_paths() -> None:
    assert overlap(("a",), ("a", "b"))
    assert overlap(("a", "*", "c"), ("a", "b"))
    assert not overlap(("a", "b"), ("a", "c"))


def test_what_people_may_read_of_the_rules_tells_configurations_apart() -> None:
    hashes = {
        table(words).hash
        for words in (
            {}, {"filter": [{"drop": "a"}]}, {"filter": [{"keep": "a"}]},
            {"filter": [{"drop": "a", "when": {"json:b": "c"}}]},
            {"split": "json"}, {"split": "json:a"},
            {"redact": {"json": ["a"]}}, {"redact": {"json": ["b"]}}, {"topic": "a.{json:b}", "topics": ["a.x"]},
            {"topic": "a.{json:b}", "topics": ["a.x", "a.y"]},
        )
    }  # fmt: skip
    assert len(hashes) == 10
