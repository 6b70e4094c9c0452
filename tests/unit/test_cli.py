"""The command without servers: its face, its errors, `kwb config` and `kwb sources`, as a stranger meets them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from json_schema import accepts

from kafka_webhook_bridge.archive.resend import Progress
from kafka_webhook_bridge.archive.verdicts import FATES, Verdicts
from kafka_webhook_bridge.cli import GROUPS, fates, load, main
from kafka_webhook_bridge.cli.checks import Check, Doctor
from kafka_webhook_bridge.cli.output import Output
from kafka_webhook_bridge.cli.resending import Shown
from kafka_webhook_bridge.cli.sources import example
from kafka_webhook_bridge.settings import rows
from kafka_webhook_bridge.sources.config import load_configuration
from kafka_webhook_bridge.store.relay import STATES

CANARY = "canary-e06b"
SERVERS = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "DATABASE_URL": f"postgresql://kwb:{CANARY}@127.0.0.1:1/kwb"}
LOGIN = {"WEBHOOK_USERNAME": "hooks", "WEBHOOK_PASSWORD": CANARY}
ENVIRON = {"COLUMNS": "250", "SHOP_PASSWORD": CANARY}
YAML = """\
sources:
  shop-de:
    topic: shop.orders
    username: shop
    password: ${SHOP_PASSWORD}
    key: "{json:order.id}"
    rate_limit_per_second: 50.0
  erp: {body_bytes_max: 5MiB, methods: [PUT, GET], format: envelope}
  9to5: {username: u, password: p, content_encoding: opaque}
  open-one: {auth: none, methods: [GET], body_bytes_max: 1000}
"""


def kwb(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a process, with nothing in its environment but what is given."""
    return _checked(
        subprocess.run(
            [sys.executable, "-m", "kafka_webhook_bridge.cli", *arguments],
            env={**ENVIRON, **environ}, capture_output=True, text=True, timeout=60, check=False,
        )
    )  # fmt: skip


def here(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """The same in this process, which is quicker."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, {**ENVIRON, **environ}, clear=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = main(arguments)
    return _checked(subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue()))


def _checked(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert "Traceback" not in done.stderr
    assert CANARY not in done.stdout + done.stderr
    return done


# ---- the face of the command -----------------------------------------------------------------------------------------


def test_help_lists_every_command_and_loads_none_of_them() -> None:
    code = (
        "import sys; from kafka_webhook_bridge.cli import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    for name, (_, sentence) in GROUPS.items():
        assert f"{name} " in done.stdout
        assert sentence in " ".join(done.stdout.split())
    heavy = {"pydantic", "confluent_kafka", "asyncpg", "starlette", "yaml", "uvloop", "asyncio", "structlog"}
    assert heavy & set(done.stderr.split()) == set()


@pytest.mark.parametrize("name", GROUPS)
def test_every_command_has_a_file_and_help(name: str) -> None:
    file, sentence = GROUPS[name]
    assert sentence.endswith(".")
    assert find_spec(f"kafka_webhook_bridge.cli.{file}") is not None
    done = kwb(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"kwb {name}" in done.stdout


def test_version_and_no_arguments() -> None:
    assert kwb("--version").stdout.startswith("kwb 0.")
    done = kwb()
    assert done.returncode == 2
    assert "doctor" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "words", "hint"),
    [
        (["sevre"], "Did you mean 'serve'", "See `kwb --help`."),
        (["config", "chek"], "check", "See `kwb config --help`."),
        (["topics", "--jsn"], "--json", "See `kwb topics --help`."),
        (["send"], "SOURCE", "See `kwb send --help`."),
        (["serve", "--port", "x"], "Invalid value for '--port'", "See `kwb serve --help`."),
        (["serve", "--workers", "0"], "Invalid value for '--workers'", "See `kwb serve --help`."),
    ],
)
def test_wrong_use_is_exit_2_with_a_way_on(arguments: list[str], words: str, hint: str) -> None:
    done = kwb(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert words.lower() in done.stderr.lower()
    assert done.stderr.endswith(f"hint: {hint}\n")


def test_errors_are_json_on_standard_error_with_json() -> None:
    for arguments, code in ((["topics", "--json", "--nope"], "usage.wrong"), (["sources", "--json"], "config.invalid")):
        done = kwb(*arguments)
        assert (done.returncode, done.stdout) == (2, "")
        error = json.loads(done.stderr)["error"]
        assert error["code"] == code
        assert error["message"]
        assert error["hint"]


def test_a_terminal_is_not_moved_by_what_is_given() -> None:
    done = here("sources", "show", "\x1b[2Jx", KWB_CONFIG="sources: {a: {auth: none}}")
    assert done.stdout == "There is no source \\x1b[2Jx.\n"


@pytest.mark.skipif(shutil.which("bash") is None, reason="NOT RUN: there is no bash")
def test_completion_in_bash(tmp_path: Path) -> None:
    script = """
        kwb --install-completion >/dev/null || exit 1
        source ~/.bashrc
        try() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _kwb_completion kwb; echo "${COMPREPLY[*]}"; }
        try kwb do
        try kwb config ""
        try kwb sources s
        try kwb doctor --w
    """
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "--norc", "-c", script], env={"HOME": str(tmp_path), "PATH": path, "SHELL": "bash"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["doctor", "check", "show", "schema", "show", "secrets", "--write"]


# ---- kwb config ------------------------------------------------------------------------------------------------------


def test_config_check_is_right() -> None:
    done = kwb("config", "check", KWB_CONFIG=YAML, **SERVERS, **LOGIN)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("The configuration is right\n")
    assert "4 sources (hash " in done.stdout
    found = json.loads(here("config", "check", "--json", KWB_CONFIG=YAML, **SERVERS, **LOGIN).stdout)
    assert found["sources"] == ["shop-de", "erp", "9to5", "open-one"]
    assert (found["ok"], found["open_rule"]) == (True, False)
    assert set(found["changed"]) == {"KWB_CONFIG", *SERVERS, *LOGIN}


def test_config_check_tells_everything_that_serve_would_refuse_at_once(tmp_path: Path) -> None:
    file = tmp_path / "bridge.yaml"
    file.write_text("sources:\n  a:\n    topc: x\nopen_rule: true\ntopic_prefix: o.\n")
    (tmp_path / "cert.pem").write_text("nothing")
    environ = {
        "KWB_IGNEST_PORT": "1", "KWB_INGEST_WORKERS": "x", "KAFKA_BOOTSTRAP_SERVERS": "kafka:9092",
        "KAFKA_USERNAME": "u", "KWB_INGEST_TLS_CERT": str(tmp_path / "cert.pem"), "WEBHOOK_USERNAME": "u",
    }  # fmt: skip
    expected = {
        "KWB_IGNEST_PORT": "did you mean KWB_INGEST_PORT?",
        "KWB_INGEST_WORKERS": "is not a whole number",
        f"{file}:3": "did you mean `topic`?",
        "DATABASE_URL": "is not set, but the open rule",
        "WEBHOOK_PASSWORD": "needed for Basic authentication by the open rule",
        "KAFKA_PASSWORD": "is not set, but SASL_SSL needs one",
        "KWB_INGEST_TLS_CERT": "no PEM certificate with its private key",
    }
    for done in (
        here("config", "check", str(file), "--json", **environ),
        here("config", "check", "--json", **environ, KWB_CONFIG=str(file)),
    ):
        assert (done.returncode, done.stdout) == (2, "")
        found = {problem["where"]: problem["what"] for problem in json.loads(done.stderr)["error"]["problems"]}
        assert found.keys() == expected.keys()
        for where, words in expected.items():
            assert words in found[where]
    serve = kwb("serve", **environ, KWB_CONFIG=str(file))
    assert serve.returncode == 2
    lines = serve.stderr.splitlines()
    assert [line.removeprefix("error: ").strip().split(": ")[0] for line in lines[:-1]] == list(found)
    assert lines[-1] == "hint: Mend them and run `kwb config check`."


def test_config_show() -> None:
    environ = {**SERVERS, **LOGIN, "KWB_CONFIG": f"sources:\n  a: {{username: u, password: {CANARY}}}\n"}
    environ |= {"KWB_INGEST_TRUSTED_PROXIES": "10.0.0.0/8,::1", "KAFKA_PASSWORD": CANARY}
    found = {row["variable"]: row for row in json.loads(here("config", "show", "--json", **environ).stdout)}
    assert list(found) == [row.env for row in rows()]
    assert {name for name, row in found.items() if row["origin"] != "default"} == set(environ)
    assert {name for name, row in found.items() if row["value"] == "[redacted]"} == {
        "WEBHOOK_PASSWORD", "KAFKA_PASSWORD", "DATABASE_URL",
    }  # fmt: skip
    assert found["KWB_CONFIG"]["value"] == "[YAML, 2 lines]"
    assert found["KWB_INGEST_PORT"]["value"] == 8080
    assert found["KWB_INGEST_TRUSTED_PROXIES"]["value"] == ["10.0.0.0/8", "::1"]
    people = here("config", "show", **environ).stdout
    assert "ingest: The port that webhooks come in by." in people
    for row in rows():
        (line,) = [line.split() for line in people.splitlines() if line.split()[:1] == [row.env]]
        assert line[-1] == ("environment" if row.env in environ else "default")


def test_config_show_of_wrong_settings() -> None:
    done = here("config", "show", KWB_INGEST_PORT="x")
    assert (done.returncode, done.stdout) == (2, "")
    assert "KWB_INGEST_PORT: 'x' is not a whole number" in done.stderr


def test_config_schema_is_json_with_and_without_the_option() -> None:
    found = [json.loads(here("config", "schema", *option).stdout) for option in ([], ["--json"])]
    assert found[0] == found[1]
    assert accepts(found[0], {"sources": {"a": {"topic": "t"}}})
    assert not accepts(found[0], {"sources": {"a": {"topc": "t"}}})


# ---- kwb serve refuses -----------------------------------------------------------------------------------------------


def test_serve_with_nothing_set_says_what_it_needs() -> None:
    done = kwb("serve")
    assert done.returncode == 2
    assert "KAFKA_BOOTSTRAP_SERVERS: is not set: the bridge needs a Kafka cluster" in done.stderr
    assert "KWB_BRIDGE_OPEN_RULE=true" in done.stderr


def test_serve_of_a_worker_needs_postgresql() -> None:
    right = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "KWB_CONFIG": "sources: {a: {auth: none}}"}
    done = kwb("serve", "--role", "worker", **right)
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        2, "error: DATABASE_URL: is not set, and a worker has nothing to do without PostgreSQL",
    )  # fmt: skip


@pytest.mark.skipif(shutil.which("openssl") is None, reason="NOT RUN: there is no openssl")
def test_certificates_that_cannot_be_served(tmp_path: Path) -> None:
    def make(name: str, *options: str) -> None:
        kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-subj", "/CN=localhost", "-days", "1"]
        files = ["-keyout", str(tmp_path / f"{name}.key"), "-out", str(tmp_path / f"{name}.pem")]
        subprocess.run(["openssl", "req", *kind, *files, *options], capture_output=True, timeout=60, check=True)

    make("plain", "-nodes")
    make("other", "-nodes")
    make("secret", "-passout", "pass:abcdef")
    environ = {**SERVERS, "KWB_CONFIG": "sources: {a: {auth: none}}"}
    for cert, key, words in (
        ("plain", "plain", "The configuration is right"),
        ("plain", "other", "the private key is of another certificate"),
        ("secret", "secret", "no PEM certificate with its private key, unencrypted, is in there"),
        ("plain", "none", "No such file or directory"),
    ):
        files = {
            "KWB_INGEST_TLS_CERT": str(tmp_path / f"{cert}.pem"), "KWB_INGEST_TLS_KEY": str(tmp_path / f"{key}.key"),
        }  # fmt: skip
        done = here("config", "check", **environ, **files)
        assert words in done.stdout + done.stderr
        assert done.returncode == (0 if words.startswith("The") else 2)


def test_serve_names_options_like_settings() -> None:
    done = kwb("serve", "--tls-cert", "/no/such.pem", "--port", "7001", "--management-port", "7001", **SERVERS)
    assert "KWB_INGEST_TLS_CERT: /no/such.pem: No such file or directory" in done.stderr
    assert "KWB_MANAGEMENT_PORT: 7001 is the port of webhooks too" in done.stderr


# ---- kwb sources -----------------------------------------------------------------------------------------------------


def test_sources_list() -> None:
    environ = {**LOGIN, "KWB_CONFIG": YAML}
    for arguments in (["sources", "--json"], ["sources", "list", "--json"]):
        found = json.loads(here(*arguments, **environ).stdout)
        assert found["open_rule"] is None
        assert [source["name"] for source in found["sources"]] == ["shop-de", "erp", "9to5", "open-one"]
        assert [source["own_credentials"] for source in found["sources"]] == [True, False, True, False]
    people = here("sources", **environ).stdout
    (line,) = [line for line in people.splitlines() if "shop-de" in line]
    for words in ("shop.orders", "Basic, its own", "raw", "{json:order.id}", "1 MiB"):
        assert words in line
    assert "They send to http://127.0.0.1:8080/SOURCE" in people
    assert "none: anybody may send" in people
    assert "The open rule is off: any other name is answered 404." in people


def test_sources_show_says_what_rules_do() -> None:
    shop = """{topic: "shop.{header:X-T}", topics: [shop.a, shop.b], filter: [{drop: pings, when: {"json:a": b}},
        {keep: rest}], redact: {json: [a.b], query: [t]}, split: json:items, auth: none}"""
    people = here("sources", "show", "shop", KWB_CONFIG=f"sources: {{shop: {shop}}}", COLUMNS="200").stdout
    for row in (
        "chosen by shop.{header:X-T}, of shop.a, shop.b; shop is for others",
        "filter drop pings, keep rest", "taken out json a.b, query t", "split json:items",
    ):  # fmt: skip
        assert row in " ".join(people.split())


def test_sources_show() -> None:
    environ = {**LOGIN, "KWB_CONFIG": YAML + "public_url: https://hooks.example.com/in\n"}
    people = here("sources", "show", "shop-de", **environ).stdout
    for words in ("shop-de  https://hooks.example.com/in/shop-de", "DELETE, PATCH, POST, PUT", "50 per second", "415"):
        assert words in people
    assert people.endswith(
        "Set SHOP_DE_USERNAME and SHOP_DE_PASSWORD to the source's own credentials, then try it with\n"
        "  curl -i -u \"$SHOP_DE_USERNAME:$SHOP_DE_PASSWORD\" -H 'Content-Type: application/json' "
        '-d \'{"hello":"kafka"}\' https://hooks.example.com/in/shop-de\n'
    )
    erp = json.loads(here("sources", "show", "erp", "--json", **environ).stdout)
    assert (erp["body_bytes_max"], erp["format"], erp["variables"]) == (
        5 * 1024**2, "envelope", ["WEBHOOK_USERNAME", "WEBHOOK_PASSWORD"],
    )  # fmt: skip
    assert "-X PUT" in erp["try"]
    assert json.loads(here("sources", "show", "open-one", "--json", **environ).stdout)["try"] == (
        "curl -i https://hooks.example.com/in/open-one"
    )
    assert (erp["delivery_id"], erp["dedupe"]) == (None, "mark")
    assert "not looked for: there is no delivery_id" in people
    duplicates = {
        'delivery_id: "{header:X-Id}"': "stored, and marked in the archive",
        "dedupe: body": "stored, and marked in the archive",
        'delivery_id: "{header:X-Id}", dedupe: suppress': "suppressed: answered with the first one's receipt",
    }
    for keys, words in duplicates.items():
        config = {"KWB_CONFIG": f"sources: {{a: {{auth: none, {keys}}}}}", "DATABASE_URL": "postgresql://h/d"}
        assert words in here("sources", "show", "a", **config).stdout
    digits = json.loads(here("sources", "show", "9to5", "--json", **environ).stdout)
    assert digits["variables"] == ["SOURCE_9TO5_USERNAME", "SOURCE_9TO5_PASSWORD"]


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({"DOMAIN_NAME": "hooks.example.com"}, "https://webhooks.hooks.example.com/erp"),
        ({"KWB_INGEST_HOST": "0.0.0.0", "KWB_INGEST_PORT": "9000"}, "http://127.0.0.1:9000/erp"),
        ({"KWB_INGEST_HOST": "::1", "KWB_INGEST_TLS_CERT": "/c.pem"}, "https://[::1]:8080/erp"),
    ],
)
def test_the_address_of_a_source(environ: dict[str, str], url: str) -> None:
    found = json.loads(here("sources", "show", "erp", "--json", KWB_CONFIG=YAML, **LOGIN, **environ).stdout)
    assert found["url"] == url


@pytest.mark.parametrize(
    ("config", "topic", "line"),
    [
        ("open_rule: true\ntopic_prefix: open.\n", "open.demo", "-u 'me:it'\"'\"'s' -H JSON -d BODY URL/demo"),
        ("sources: {shop: {topic: shop.orders}}", "shop.orders", "-u 'me:it'\"'\"'s' -H JSON -d BODY URL/shop"),
        ("sources: {a: {auth: none, methods: [GET]}, b: {}}", "a", "URL/a"),
        ("sources: {b: {}, demo: {auth: none}}", "demo", "-H JSON -d BODY URL/demo"),
        ("sources: {b: {username: u, password: p}}", "b", '-u "$B_USERNAME:$B_PASSWORD" -H JSON -d BODY URL/b'),
    ],
)
def test_the_webhook_to_try_is_one_that_is_taken(config: str, topic: str, line: str) -> None:
    settings, table = load_configuration({**LOGIN, **SERVERS, "KWB_CONFIG": config})
    found, where = example(table, settings, "URL", "me:it's")
    words = {"'Content-Type: application/json'": "JSON", '\'{"hello":"kafka"}\'': "BODY"}
    for text, word in words.items():
        found = found.replace(text, word)
    assert (found, where) == (f"curl -i {line}", topic)


def test_sources_show_of_an_unknown_name() -> None:
    done = kwb("sources", "show", "shop-du", KWB_CONFIG=YAML, **LOGIN)
    assert (done.returncode, done.stdout) == (1, "There is no source shop-du; did you mean shop-de?\n")
    assert here("sources", "show", "shop-du", "--json", KWB_CONFIG=YAML, **LOGIN).stdout == "null\n"


def test_sources_with_the_open_rule() -> None:
    environ = {**LOGIN, **SERVERS, "KWB_CONFIG": "open_rule: true\ntopic_prefix: open.\ntopics_max: 7\n"}
    people = here("sources", **environ).stdout
    assert "goes to the topic open.<name>, made at first use, up to 7 topics" in people
    found = json.loads(here("sources", "--json", **environ).stdout)
    assert found == {"sources": [], "open_rule": {"topic_prefix": "open.", "topics_max": 7}}
    shown = here("sources", "show", "anything", **environ)
    assert shown.returncode == 0
    assert "by the open rule" in shown.stdout
    assert "open.anything" in shown.stdout
    assert here("sources", "show", "Not-a-name", **environ).returncode == 1


def test_the_line_to_try_is_what_a_shell_understands() -> None:
    found = json.loads(here("sources", "show", "shop-de", "--json", KWB_CONFIG=YAML, **LOGIN).stdout)
    script = f"curl() {{ printf '%s\\n' \"$@\"; }}; {found['try']}"
    done = subprocess.run(
        ["sh", "-c", script], env={"SHOP_DE_USERNAME": "a b", "SHOP_DE_PASSWORD": "c$d"},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "-i", "-u", "a b:c$d", "-H", "Content-Type: application/json", "-d", '{"hello":"kafka"}',
        "http://127.0.0.1:8080/shop-de",
    ]  # fmt: skip


# ---- before anything is started --------------------------------------------------------------------------------------


def test_up_tells_every_mistake_before_it_starts_a_server(tmp_path: Path) -> None:
    file = tmp_path / "bridge.yaml"
    file.write_text("sources:\n  a: {key: nothing}\n  b: {delivery_id: '{header:X Id}'}\n")
    done = here("up", "--dir", str(tmp_path / "kwb"), KWB_CONFIG=str(file), KWB_INGEST_PORT="x", KWB_STORE_NONSENSE="1")
    assert done.returncode == 2
    for where in (f"{file}:2: sources.a.key", f"{file}:3: sources.b.delivery_id", "KWB_INGEST_PORT", "KWB_STORE_NON"):
        assert where in done.stderr
    assert "Nothing was started" in done.stderr
    assert "KAFKA_BOOTSTRAP_SERVERS" not in done.stderr  # which it brings itself
    assert not (tmp_path / "kwb").exists()


@pytest.mark.parametrize("name", ["X Id", "X-Id:", "X,Id", "Ümlaut", "X-Id "])
@pytest.mark.parametrize("key", ["key", "delivery_id"])
def test_a_name_that_no_header_can_have(key: str, name: str) -> None:
    yaml = f"sources:\n  a:\n    {key}: '{{header:{name}}}'\n"
    done = here("config", "check", KWB_CONFIG=yaml, **SERVERS, **LOGIN)
    assert done.returncode == 2
    bad = next(c for c in name if c in " :,Ü")
    assert f"KWB_CONFIG:3: sources.a.{key}: {{header:{name}}} can match nothing" in done.stderr
    assert f"has no {bad!r}" in done.stderr


def test_values_are_told_as_yaml_has_them() -> None:
    yaml = "sources:\n  a: {ack: null, auth: true, dedupe: 5, format: [raw], ordering: 'true', methods: [POST, null]}\n"
    said = here("config", "check", KWB_CONFIG=yaml, **SERVERS, **LOGIN).stderr
    for words in ("ack: null is none", "auth: true is none", "dedupe: 5 is none", "format: a list is none",
                  "ordering: 'true' is none", "methods.1: null is none"):  # fmt: skip
        assert words in said
    assert "None" not in said
    assert "True" not in said
    shown = here("config", "show", **SERVERS, **LOGIN, KWB_INGEST_SHARE_PORT="yes").stdout
    assert ("None" in shown, "True" in shown) == (False, False)
    assert re.search(r"KWB_INGEST_SHARE_PORT +true ", shown)


@pytest.mark.parametrize("name", sorted(GROUPS))
def test_help_names_no_types_of_python(name: str) -> None:
    def asked(command: Any, path: list[str]) -> None:
        text = here(*path, "--help", COLUMNS="200").stdout
        assert "--help" in text
        for word in ("list[", "<str>", "<bool>", "<int", "<float", "None"):
            assert word not in text, (path, word)
        for inner, one in getattr(command, "commands", {}).items():
            asked(one, [*path, inner])

    asked(load(name), [name])


@pytest.mark.parametrize(
    "filters", [["--source", "a"], ["--type", "a"], ["--key", "a"], ["--since", "1h"], ["--until", "1h"],
                ["--json-contains", "{}"], ["--id", "019a2f4e-5b6c-7d8e-9f01-23456789abcd"]],
)  # fmt: skip
def test_all_and_a_filter_exclude_each_other(filters: list[str]) -> None:
    done = here("replay", "--all", *filters, "--run", **SERVERS)
    assert (done.returncode, "no filter goes with it" in done.stderr) == (2, True)


@pytest.mark.parametrize(("warnings", "words"), [(1, "Nothing failed, 1 warning"), (2, "Nothing failed, 2 warnings")])
def test_doctor_counts_its_warnings(warnings: int, words: str) -> None:
    found = [Check("disk", "warn", "it is nearly full")] * warnings
    with mock.patch.object(Doctor, "examine", return_value=iter(found)):
        assert words in here("doctor", **SERVERS, **LOGIN, KWB_CONFIG=YAML).stdout.splitlines()


# ---- names and progress ----------------------------------------------------------------------------------------------


def test_one_name_for_every_fate() -> None:
    assert tuple(fates.FATES) == FATES
    assert set(STATES) < set(fates.STATES)
    page = (Path(__file__).parents[2] / "docs/howto/prove-nothing-lost.md").read_text()
    named = re.findall(r"^\| (`[^|]+`) \|", page, re.MULTILINE)
    assert [name.strip("`") for name in named[: len(FATES)]] == [*FATES]
    verdicts = {name.strip("`") for cell in named[len(FATES) :] for name in cell.split(", ")}
    assert verdicts == {*fates.VERDICTS, "unknown_present", "unknown_absent"} - {"lost"}
    for name in (*fates.VERDICTS, *fates.ANSWERS):
        assert hasattr(Verdicts(receipts=True), name)
    outbox = (Path(__file__).parents[2] / "docs/howto/outbox.md").read_text()
    assert re.findall(r"^\| `([a-z]+)` \|", outbox, re.MULTILINE) == [*STATES]


def test_where_nobody_watches_a_replay_tells_how_far_it_is_every_ten_seconds() -> None:
    def said(json: bool) -> list[str]:
        err, now = io.StringIO(), [0.0]
        shown = Shown(Output(json, stdout=io.StringIO(), stderr=err), "kwb replay resume ID", lambda: now[0])
        for second in range(25):
            now[0] = float(second)
            shown.tell(Progress(uuid.UUID(int=0), "running", 1_000_000, 40_000 * second, 0, 0))
        shown.tell(Progress(uuid.UUID(int=0), "done", 1_000_000, 1_000_000, 0, 0))
        return err.getvalue().splitlines()

    assert said(json=False) == [
        "running: 400,000 of 1,000,000 events passed",
        "running: 800,000 of 1,000,000 events passed",
    ]
    assert said(json=True) == []


class Terminal(io.StringIO):
    """A stream that somebody watches."""

    def isatty(self) -> bool:
        return True


def test_what_takes_long_is_told_where_somebody_watches_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    watched = Terminal()
    with Output(stderr=watched).working("Reading") as tell:
        assert tell is not None
        tell("Counting [1]")
    assert "Counting [1]" in watched.getvalue()
    machine, file = Terminal(), io.StringIO()
    for out in (Output(json=True, stderr=machine), Output(stderr=file)):
        with out.working("Reading") as tell:
            assert tell is None
    assert machine.getvalue() + file.getvalue() == ""
