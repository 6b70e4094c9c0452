"""bridge.yaml as people write it: every mistake with its line, nothing guessed, no secret shown."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from json_schema import accepts

from kafka_webhook_bridge.errors import ConfigError
from kafka_webhook_bridge.sources.config import check_configuration, load_configuration, load_sources
from kafka_webhook_bridge.sources.model import BODY_BYTES_MAX, check_topic, json_schema
from kafka_webhook_bridge.sources.table import SourceTable, describe

CANARY = "canary-91c2"
LOGIN = {"WEBHOOK_USERNAME": "hooks", "WEBHOOK_PASSWORD": CANARY}
DATABASE = {"DATABASE_URL": "postgresql://h/d"}


def problems(text: str, **environ: str) -> list[str]:
    """All problems as people see them, the file called KWB_CONFIG because the YAML is inline."""
    _, _, table, found = check_configuration({**LOGIN, **environ, "KWB_CONFIG": text})
    assert (table is None) == bool(found)
    assert CANARY not in repr(found)
    return [str(problem) for problem in found]


def table(text: str, **environ: str) -> SourceTable:
    return load_configuration({**LOGIN, **environ, "KWB_CONFIG": text})[1]


EXAMPLE = """\
sources:
  shopify-de:
    topic: shop.orders
  github:
    username: gh
    password: ${GITHUB_PASSWORD}
    format: cloudevents
  erp:
    auth: basic
    body_bytes_max: 5MiB
    key: "{json:order.id}"
    methods: [POST, GET]
    rate_limit_per_second: 12.5
    content_encoding: opaque
    index_json: false
  printer:
trusted_proxies: [10.0.0.0/8, "::1/128"]
public_url: https://hooks.example.com/in/
"""


def test_the_example_means_what_it_says() -> None:
    found = table(EXAMPLE, GITHUB_PASSWORD="x")
    assert [source.name for source in found.all()] == ["shopify-de", "github", "erp", "printer"]
    erp, printer = found.get("erp"), found.get("printer")
    assert erp is not None
    assert printer is not None
    assert describe(erp) == {
        "name": "erp", "topic": "erp", "methods": ["GET", "POST"], "body_bytes_max": 5 * 1024**2, "auth": "basic",
        "profile": None, "verified": "basic", "covers_body": False, "secrets": 0, "params": [], "credentials": 1,
        "format": "raw", "type": None, "key": "{json:order.id}", "content_encoding": "opaque",
        "rate_limit_per_second": 12.5, "index_json": False, "ack": "any", "ordering": "none",
        "delivery_id": None, "dedupe": "mark", "topics": [], "rules": None, "public_url": "https://hooks.example.com/in/erp",
    }  # fmt: skip
    assert erp.allow == b"POST, GET"
    assert erp.needs_json
    assert (printer.topic, printer.body_bytes_max, printer.needs_json) == ("printer", 1024**2, False)
    assert printer.methods == {b"POST", b"PUT", b"PATCH", b"DELETE"}
    assert found.body_bytes_max == 5 * 1024**2
    assert found.public_url == "https://hooks.example.com/in"
    assert [str(network) for network in found.trusted_proxies] == ["10.0.0.0/8", "::1/128"]
    assert not found.open_rule
    assert found.get("nobody") is None
    assert found.open_source("nobody") is None
    assert CANARY not in repr(found.all())
    assert (
        found.hash
        == table(EXAMPLE, GITHUB_PASSWORD="y").hash
        != table(EXAMPLE + "topics_max: 1", GITHUB_PASSWORD="x").hash
    )


def test_rule_2_a_secret_is_looked_for_in_the_json_before_the_environment() -> None:
    secrets = f'{{"GITHUB_PASSWORD": "{CANARY}"}}'
    in_json = table(EXAMPLE, KWB_SECRETS_JSON=secrets, GITHUB_PASSWORD="environment").get("github")
    plain, other = (table(EXAMPLE, GITHUB_PASSWORD=password).get("github") for password in (CANARY, "environment"))
    assert in_json is not None
    assert plain is not None
    assert other is not None
    assert in_json.credentials == plain.credentials != other.credentials
    missing = problems(EXAMPLE, KWB_SECRETS_JSON="{}")
    assert missing == ["KWB_CONFIG:6: sources.github.password: the variable GITHUB_PASSWORD is not set"]


def test_a_file_is_named_with_the_line(tmp_path: Path) -> None:
    file = tmp_path / "bridge.yaml"
    file.write_text("sources:\n  a:\n    topc: x\n  b:\n    frmat: raw\nopen_rul: true\n")
    assert problems(str(file)) == [
        f"{file}:3: sources.a.topc: unknown key; did you mean `topic`?",
        f"{file}:5: sources.b.frmat: unknown key; did you mean `format`?",
        f"{file}:6: open_rul: unknown key; did you mean `open_rule`?",
    ]


# Text, and for each problem the line (0: a variable, named) and words of it.
WRONG: dict[str, tuple[str, list[tuple[int | str, str]]]] = {
    "an unknown key without a near match": ("sources: {a: {zzzzzz: 1}}", [(1, "unknown key; there are topic, ")]),
    "not YAML": ("sources:\n  a: [1\n  b: 2\n", [(3, "not YAML")]),
    "a tab": ("sources:\n\ta: {}\n", [(2, "a tab cannot indent YAML")]),
    "a control character": ("sources:\n  a\x07: {}\n", [(2, "the character U+0007 is not allowed")]),
    "two documents": ("sources: {a: }\n---\nsources: {b: }\n", [(2, "not YAML")]),
    "a name that stands twice": (
        "sources:\n  a:\n  b:\n  a:\n", [(4, "`a` stands twice; the first is in line 2")]
    ),
    "a key that stands twice": ("sources:\n  a:\n    topic: x\n    topic: y\n", [(4, "the first is in line 3")]),
    "a list": ("- sources\n- a\n", [(1, "must be a mapping that begins with `sources:`")]),
    "sources as a list": ("sources:\n  - a\n", [(1, "must be a mapping of names to sources")]),
    "a source as text": ("sources:\n  a: text\n", [(2, "sources.a: must be a mapping")]),
    "a source as a list": ("sources:\n  a: [topic]\n", [(2, "sources.a: must be a mapping")]),
    "a reserved name": ("sources:\n  health:\n", [(2, "reserved for /health")]),
    "upper case in a name": ("sources:\n  Shop:\n", [(2, "lower-case letters")]),
    "a hyphen first": ("sources:\n  -a:\n  b:\n", [(2, "not a hyphen first")]),
    "a name of 101": (f"sources:\n  {'a' * 101}:\n", [(2, "at most 100")]),
    "an empty name": ('sources:\n  "":\n', [(2, "lower-case letters")]),
    "a name with a line end": ('sources:\n  "a\\n":\n', [(2, "lower-case letters")]),
    "a mapping as a name": ("sources:\n  ? {a: 1}\n  : {}\n  b:\n", [(2, "a key must be plain text")]),
    "a merge key": ("sources:\n  a: &a {topic: x}\n  b:\n    <<: *a\n", [(4, "a key must be plain text")]),
    "topics that collide": (
        "sources:\n  a:\n    topic: a.b\n  b:\n    topic: a_b\n",
        [(5, "'a_b' collides with 'a.b' of a: Kafka treats dot and underscore alike")],
    ),
    "a topic's characters": ("sources:\n  a:\n    topic: a b\n", [(3, "is no topic name")]),
    "a topic's length": (f"sources:\n  a:\n    topic: {'t' * 250}\n", [(3, "at most 249 characters, this has 250")]),
    "Kafka's own topic": ("sources:\n  a:\n    topic: __consumer_offsets\n", [(3, "Kafka's own")]),
    "a dot as topic": ("sources:\n  a:\n    topic: ..\n", [(3, "is no topic name")]),
    "a number as topic": ("sources:\n  a:\n    topic: 1\n", [(3, "must be text; write it in quotes")]),
    "a date as topic": ("sources:\n  a:\n    topic: 2026-01-01\n", [(3, "must be text; write it in quotes")]),
    "an unknown format": ("sources:\n  a:\n    format: RAW\n", [(3, "did you mean raw?")]),
    "an unknown method": ("sources:\n  a:\n    methods: [POST, FETCH]\n", [(3, "'FETCH' is none of")]),
    "no methods": ("sources:\n  a:\n    methods: []\n", [(3, "must not be empty")]),
    "methods as text": ("sources:\n  a:\n    methods: POST\n", [(3, "must be a list")]),
    "text for a boolean": ('sources:\n  a:\n    index_json: "yes"\n', [(3, "must be true or false")]),
    "a body over 10 MiB": ("sources:\n  a:\n    body_bytes_max: 11MiB\n", [(3, "at most 10 MiB")]),
    "no size": ("sources:\n  a:\n    body_bytes_max: 5 apples\n", [(3, "is not a size")]),
    "a size beyond numbers": (f"sources:\n  a:\n    body_bytes_max: '{'9' * 400}'\n", [(3, "is not a size")]),
    "a negative size": ("sources:\n  a:\n    body_bytes_max: -1\n", [(3, "greater than or equal to 0")]),
    "no rate": ("sources:\n  a:\n    rate_limit_per_second: 0\n", [(3, "greater than 0")]),
    "an infinite rate": ("sources:\n  a:\n    rate_limit_per_second: .inf\n", [(3, "must be a finite number")]),
    "a key without parts": ("sources:\n  a:\n    key: constant\n", [(3, "would be the same for every event")]),
    "a key of an unknown kind": ("sources:\n  a:\n    key: '{jsn:id}'\n", [(3, "did you mean json?")]),
    "a brace alone": ("sources:\n  a:\n    key: '{json:id}}'\n", [(3, "a brace without its partner at column 10")]),
    "a number too large for Python": (f"sources:\n  a:\n    topic: {'9' * 5000}\n", [(3, "is not understood here")]),
    "a strange tag": ("sources:\n  a:\n    topic: !!python/object:os.system x\n", [(3, "the tag")]),
    "a password alone": ("sources:\n  a:\n    password: x\n", [(2, "username and password only come together")]),
    "an empty password": ("sources:\n  a: {username: u, password: ''}\n", [(2, "the secret is empty")]),
    "a colon in a user name": ("sources:\n  a: {username: 'a:b', password: x}\n", [(2, "cannot contain a colon")]),
    "a login that nobody checks": (
        "sources:\n  a: {auth: none, username: u, password: x}\n", [(2, "`auth: none` takes no username and password")]
    ),
    "a missing variable": (
        "sources:\n  a:\n    topic: ${NOPE}\n    key: '{json:${NOPE2}}'\n",
        [(3, "the variable NOPE is not set"), (4, "the variable NOPE2 is not set")],
    ),
    "a missing file": (
        "sources:\n  a:\n    username: u\n    password: file:/no/such\n",
        [(4, "the secret's file /no/such: No such file or directory")],
    ),
    "a proxy that is no network": ("sources: {a: }\ntrusted_proxies:\n  - 10.0.0.1/8\n", [(3, "host bits set")]),
    "an address without a scheme": ("sources: {a: }\npublic_url: hooks.example.com\n", [(2, "not an address")]),
    "an address with a user": ("sources: {a: }\npublic_url: https://u:p@h\n", [(2, "no query, fragment or user")]),
    "an address with a wrong port": ("sources: {a: }\npublic_url: https://a:99999\n", [(2, "ort")]),
    "too many topics": ("sources: {a: }\ntopics_max: 10001\n", [(2, "less than or equal to 10000")]),
    "nothing at all": ("sources: {}", [("KWB_CONFIG", "no source and the open rule is off")]),
    "an empty file": ("\n", [("KWB_CONFIG", "no source and the open rule is off")]),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong(case: str) -> None:
    text, expected = WRONG[case]
    found = problems(text)
    assert len(found) == len(expected), found
    for problem, (line, words) in zip(found, expected, strict=True):
        assert problem.startswith(f"KWB_CONFIG:{line}: " if isinstance(line, int) else f"{line}: "), problem
        assert words in problem


def test_every_problem_at_once_in_the_order_of_the_lines() -> None:
    text = (
        "sources:\n  a:\n    topc: x\n  health:\n  b:\n    format: rwa\n    body_bytes_max: 20MiB\n"
        "  c: {topic: 'x y'}\ntopics_max: -1\n"
    )
    found = problems(text, KWB_INGEST_PORT="x", KWB_NOPE="1", KWB_INGEST_TRUSTED_PROXIES="10.0.0.0/8, nonsense")
    assert [problem.split(": ")[0] for problem in found] == [
        "KWB_INGEST_PORT", "KWB_NOPE", "KWB_CONFIG:3", "KWB_CONFIG:4", "KWB_CONFIG:6", "KWB_CONFIG:7", "KWB_CONFIG:8",
        "KWB_CONFIG:9", "KWB_INGEST_TRUSTED_PROXIES",
    ]  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        load_configuration({**LOGIN, "KWB_CONFIG": text})
    assert len(caught.value.problems) == 6


def test_right_sources_do_not_excuse_wrong_settings() -> None:
    with pytest.raises(ConfigError, match="KWB_NOPE: no such setting"):
        load_configuration({**LOGIN, "KWB_CONFIG": "sources: {a: }", "KWB_NOPE": "1"})


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"sources: {a: {topic: \xff}}")
    assert problems(str(tmp_path / "no.yaml")) == [f"{tmp_path / 'no.yaml'}: cannot be read: No such file or directory"]
    assert "Is a directory" in problems(str(tmp_path))[0]
    assert "latin.yaml: is not UTF-8 text" in problems(str(tmp_path / "latin.yaml"))[0]


def test_text_with_a_byte_order_mark_and_windows_lines(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_bytes("\ufeffsources:\r\n  a:\r\n    topic: ü\r\n".encode())
    (problem,) = problems(str(tmp_path / "w.yaml"))
    assert ":3: sources.a.topic: 'ü' is no topic name" in problem


def test_aliases_are_plain_repetition() -> None:
    found = table("sources:\n  a: &common {format: envelope}\n  b: *common\n")
    assert [source.format for source in found.all()] == ["envelope", "envelope"]


def test_an_alias_bomb_is_one_problem() -> None:
    lines = ["sources:", "  a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"  a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    found = problems("\n".join(lines))
    assert sum("larger than 200000 values" in problem for problem in found) == 1


@pytest.mark.parametrize(
    "text", ["sources: {a: " + "[" * 30 + "]" * 30 + "}", "sources: &a {b: *a}", "a: " + "[" * 20_000]
)
def test_depth_is_bounded(text: str) -> None:
    assert any("nested deeper than 20 levels" in problem for problem in problems(text))


def test_names_are_read_as_written() -> None:
    found = table("sources:\n  123:\n  no:\n  0x10:\n  1e3:\n")
    assert [source.name for source in found.all()] == ["123", "no", "0x10", "1e3"]


def test_names_and_topics_at_their_limits() -> None:
    name, topic = "a" * 100, "t" * 249
    found = table(f"sources:\n  {name}:\n    topic: {topic}\n  9:\n    body_bytes_max: {BODY_BYTES_MAX}\n")
    assert [source.topic for source in found.all()] == [topic, "9"]
    assert check_topic("A.b_c-9") == "A.b_c-9"


def test_two_sources_may_share_a_topic() -> None:
    found = table("sources:\n  a: {topic: shared}\n  b: {topic: shared}\n")
    assert {source.topic for source in found.all()} == {"shared"}


def test_text_that_is_no_unicode_is_a_problem_and_no_fault() -> None:
    text = "sources:\n  a: {username: u, password: '${BAD}'}\n  b: {username: u, password: \"\\ud800\"}\n"
    bad = "there is something in it that is not UTF-8 text"
    assert problems(text, BAD=f"{CANARY}\udcff") == [
        f"KWB_CONFIG:2: sources.a.password: {bad}",
        f"KWB_CONFIG:3: sources.b.password: {bad}",
    ]


def test_a_wrong_word_does_not_hide_the_others() -> None:
    found = problems("opn_rule: true\ntopics_max: x\nopen_rule: true\ntopic_prefix: '${P}'\n", P="a b", **DATABASE)
    assert [problem.split(": ")[1] for problem in found] == ["opn_rule", "topics_max", "topic_prefix"]


# ---- credentials -----------------------------------------------------------------------------------------------------


def test_missing_credentials_are_told_once_with_those_who_need_them() -> None:
    names = [f"s{n}" for n in range(7)]
    text = (
        "sources:\n"
        + "".join(f"  {name}:\n" for name in names)
        + "  own: {username: u, password: p}\n  n: {auth: none}\n"
    )
    assert problems(text, WEBHOOK_USERNAME="", WEBHOOK_PASSWORD="") == [
        "WEBHOOK_USERNAME: is not set, but needed for Basic authentication by s0, s1, s2, s3, s4, …",
        "WEBHOOK_PASSWORD: is not set, but needed for Basic authentication by s0, s1, s2, s3, s4, …",
    ]
    assert problems("sources: {a: }", WEBHOOK_PASSWORD="") == [
        "WEBHOOK_PASSWORD: is not set, but needed for Basic authentication by a"
    ]
    assert problems("sources: {a: {auth: none}}", WEBHOOK_USERNAME="", WEBHOOK_PASSWORD="") == []
    assert problems("sources: {a: {username: u, password: p}}", WEBHOOK_USERNAME="", WEBHOOK_PASSWORD="") == []


def test_a_wrong_variable_is_not_said_to_be_missing_as_well() -> None:
    assert problems("sources: {a: }", WEBHOOK_PASSWORD="file:/no/such") == [
        "WEBHOOK_PASSWORD: the secret's file /no/such: No such file or directory"
    ]


def test_a_colon_in_the_bridges_user_name() -> None:
    assert problems("sources: {a: }", WEBHOOK_USERNAME="a:b") == [
        "WEBHOOK_USERNAME: a Basic user name cannot contain a colon"
    ]


def test_own_credentials_from_variables_and_files(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("s3cret\n")
    text = f"sources:\n  a: {{username: '${{U}}', password: 'file:{tmp_path}/p'}}\n"
    text += "  b: {username: me, password: s3cret}\n"
    a, b = table(text, U="me").all()
    assert a.credentials == b.credentials
    assert table("sources: {a: }").all()[0].credentials != a.credentials


def test_no_secret_in_a_problem_whatever_is_wrong() -> None:
    text = f"sources:\n  a:\n    username: {CANARY}:x\n    password: [{CANARY}]\n    topc: 1\n    key: 1\n"
    assert len(problems(text)) == 4
    assert problems(f"sources: {{a: {{username: u, password: {{x: {CANARY}}}}}}}") != []
    assert problems(f"sources: {{a: }}\npublic_url: 'ftp://u:{CANARY}@h'\n") != []


# ---- the open rule ---------------------------------------------------------------------------------------------------


def test_rule_11_the_open_rule_is_off_unless_asked_for() -> None:
    assert not table("sources: {a: }").open_rule
    assert not table("sources: {a: }\nopen_rule: false", KWB_BRIDGE_OPEN_RULE="true").open_rule
    assert table("sources: {a: }", KWB_BRIDGE_OPEN_RULE="true", **DATABASE).open_rule


def test_rule_11_on_a_broker_of_its_own_it_is_on_where_no_file_says_who_sends() -> None:
    own = {"KWB_BRIDGE_OWN_BROKER": "true", **DATABASE}
    assert table("", **own).open_rule
    assert not table("sources: {a: }", **own).open_rule
    assert table("sources: {a: }", KWB_BRIDGE_OPEN_RULE="true", **own).open_rule
    assert problems("", KWB_BRIDGE_OPEN_RULE="false", **own)


def test_rule_11_a_file_that_turns_it_on_needs_a_prefix() -> None:
    assert problems("open_rule: true", **DATABASE) == [
        "KWB_CONFIG:1: open_rule: needs a topic_prefix, so that no sender can choose a topic that serves something else"
    ]
    assert problems("open_rule: true\ntopic_prefix: open.", **DATABASE) == []
    assert problems("open_rule: true", KWB_BRIDGE_TOPIC_PREFIX="open.", **DATABASE) == []


def test_rule_11_it_needs_the_record_of_topics_in_postgresql() -> None:
    for text, environ in (("open_rule: true\ntopic_prefix: open.", {}), ("", {"KWB_BRIDGE_OPEN_RULE": "true"})):
        (problem,) = problems(text, **environ)
        assert problem.startswith(
            "DATABASE_URL: is not set, but the open rule uses only topics that PostgreSQL records"
        )
        assert "name each source in bridge.yaml" in problem
    assert problems("sources: {a: }") == []


def test_the_open_rule_needs_the_bridges_credentials() -> None:
    found = problems("", KWB_BRIDGE_OPEN_RULE="1", WEBHOOK_PASSWORD="", **DATABASE)
    assert found == ["WEBHOOK_PASSWORD: is not set, but needed for Basic authentication by the open rule"]


@pytest.mark.parametrize("prefix", ["a b", "__x", "p" * 150])
def test_a_prefix_that_makes_no_topic(prefix: str) -> None:
    (problem,) = problems(f"open_rule: true\ntopic_prefix: '{prefix}'\n", **DATABASE)
    assert problem.startswith("KWB_CONFIG:2: topic_prefix: ")
    (problem,) = problems("open_rule: true", KWB_BRIDGE_TOPIC_PREFIX=prefix, **DATABASE)
    assert problem.startswith("KWB_BRIDGE_TOPIC_PREFIX: ")


def test_rule_11_what_the_open_rule_makes() -> None:
    found = table(
        "sources:\n  shop: {topic: open.taken_x, password: p, username: u}\nopen_rule: true\ntopic_prefix: open.\n",
        **DATABASE,
    )
    made = found.open_source("new")
    assert made is not None
    assert (made.name, made.topic, made.open, made.default_type) == ("new", "open.new", True, "webhook.new")
    assert made.ce_source == b"/sources/new"
    assert found.open_source("new") is made
    for name in ("health", "New", "", "-a", "a" * 101, "a/b", "a\n"):
        assert found.open_source(name) is None
    # Names cannot hold dot or underscore; the topic of a configured source is closed to it all the same.
    closed = table(
        "sources:\n  shop: {topic: open.taken, password: p, username: u}\nopen_rule: true\ntopic_prefix: open_\n",
        **DATABASE,
    )
    assert closed.open_source("taken") is None
    assert closed.open_source("other") is not None


def test_open_sources_are_bounded_in_memory() -> None:
    found = table("open_rule: true\ntopic_prefix: o.\ntopics_max: 2\n", **DATABASE)
    kept = [found.open_source(name) for name in ("a", "b", "c")]
    assert [found.open_source(name) is source for name, source in zip("abc", kept, strict=True)] == [True, True, False]


# ---- the schema ------------------------------------------------------------------------------------------------------

RIGHT = [
    EXAMPLE,
    "sources: {a: {topic: '${TOPIC}', body_bytes_max: 1024}}",
    "sources: {a: {body_bytes_max: '${SIZE}'}}\nopen_rule: false\ntopics_max: 0\n",
    "sources: {a: {auth: none}}\ntrusted_proxies: []\n",
]
# What only the loader can know: what stands twice or collides, what a variable or a file holds, how a text is built.
BEYOND_A_SCHEMA = {
    "not YAML", "a tab", "a control character", "two documents", "a name that stands twice",
    "a key that stands twice", "a mapping as a name", "a merge key", "topics that collide", "a dot as topic",
    "Kafka's own topic", "a date as topic", "a key without parts", "a key of an unknown kind", "a brace alone",
    "a number too large for Python", "a strange tag", "a password alone", "an empty password",
    "a colon in a user name", "a login that nobody checks", "a missing variable", "a missing file",
    "a proxy that is no network", "an address without a scheme", "an address with a user",
    "an address with a wrong port", "a body over 10 MiB", "an infinite rate", "nothing at all", "an empty file",
    "a name with a line end", "a hyphen first",
}  # fmt: skip


@pytest.mark.parametrize("text", RIGHT)
def test_the_schema_takes_what_the_loader_takes(text: str) -> None:
    assert problems(text, GITHUB_PASSWORD="x", TOPIC="t", SIZE="1KiB") == []
    assert accepts(json_schema(), yaml.safe_load(text))


@pytest.mark.parametrize("case", sorted(set(WRONG) - BEYOND_A_SCHEMA))
def test_the_schema_refuses_what_the_loader_refuses(case: str) -> None:
    assert not accepts(json_schema(), yaml.safe_load(WRONG[case][0]))


def test_every_word_of_the_schema_is_explained() -> None:
    schema = json_schema()
    words = {**schema["properties"], **schema["$defs"]["SourceModel"]["properties"]}
    assert [name for name, word in words.items() if not word.get("description", "").endswith(".")] == []


def test_settings_without_a_file_are_enough() -> None:
    settings, found = load_configuration({**LOGIN, **DATABASE, "KWB_BRIDGE_OPEN_RULE": "true"})
    assert load_sources(settings).hash == found.hash


def test_rule_6_strict_order_goes_by_way_of_postgresql() -> None:
    url = {"DATABASE_URL": "postgresql://u:p@127.0.0.1/d"}
    found = table("sources: {a: {auth: none, ordering: strict}, b: {auth: none}}", **url)
    assert [(s.ack, s.strict) for s in found.all()] == [("store", True), ("any", False)]
    (problem,) = problems("sources:\n  a: {auth: none, ordering: strict, ack: kafka}", **url)
    assert "`ack` can only be `store`" in problem


@pytest.mark.parametrize("word", ["ack: store", "ack: both", "ordering: strict"])
def test_rule_5_what_only_postgresql_can_vouch_for_needs_it(word: str) -> None:
    (problem,) = problems(f"sources:\n  a: {{auth: none, {word}}}")
    assert "DATABASE_URL is not set" in problem
    assert table(f"sources: {{a: {{auth: none, {word}}}}}", DATABASE_URL="postgresql://u:p@127.0.0.1/d")


def test_rule_13_where_the_delivery_id_stands() -> None:
    found = table(
        """\
sources:
  a: {auth: none, delivery_id: "{json:id}"}
  b: {auth: none, delivery_id: "{header:X-Id}", dedupe: suppress}
  c: {auth: none, dedupe: body}
  d: {auth: none}
""",
        **DATABASE,
    )
    facts = [(f["delivery_id"], f["dedupe"], s.needs_json) for s in found.all() for f in [describe(s)]]
    assert facts == [
        ("{json:id}", "mark", True),
        ("{header:X-Id}", "suppress", False),
        ("SHA-256 of the body", "body", False),
        (None, "mark", False),
    ]


@pytest.mark.parametrize(("words", "environ", "line", "what"), [
    ("dedupe: suppress", DATABASE, 2, "sources.a: `dedupe: suppress` needs a `delivery_id`"),
    ('dedupe: suppress\n    delivery_id: "{header:X}"', {}, 3, "but DATABASE_URL is not set"),
    ('dedupe: suppress\n    delivery_id: "{header:X}"', {**DATABASE, "KWB_ARCHIVE_DEDUPE_WINDOW_DAYS": "0"}, 3,
     "needs a window, but KWB_ARCHIVE_DEDUPE_WINDOW_DAYS is 0"),
    ('dedupe: body\n    delivery_id: "{header:X}"', {}, 4, "takes the body for the delivery id"),
    ("delivery_id: constant", {}, 3, "it would be the same for every event"),
    ("dedupe: supress", {}, 3, "did you mean suppress?"),
])  # fmt: skip
def test_rule_13_what_cannot_tell_duplicates_is_a_problem(
    words: str, environ: dict[str, str], line: int, what: str
) -> None:
    (problem,) = problems(f"sources:\n  a:\n    {words}\n", **environ)
    assert problem.startswith(f"KWB_CONFIG:{line}: ")
    assert what in problem
