"""Settings as an operator gives them: every row, and every way to get one wrong."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import SecretStr

from kafka_webhook_bridge.errors import ConfigError
from kafka_webhook_bridge.settings import (
    ROOMS,
    Row,
    Settings,
    check_settings,
    child_environment,
    expand_variables,
    load_settings,
    load_settings_with_origin,
    read_configuration,
    rows,
    variables,
)
from kafka_webhook_bridge.texts import check_postgres_url, has_password, parse_size, parse_variables

CANARY = "canary-7f3a"
TEXTS = {  # of rows that take no other
    "DATABASE_URL": f"postgresql://u:{CANARY}@db:5432/kwb",
    "KWB_STORE_SECRET_KEY": f"{CANARY}-of-thirty-two-characters-or-more",
    "KWB_SECRETS_JSON": f'{{"SHOP": "{CANARY}"}}',
}
NUMBERS = [row for row in rows() if row.type in (int, float)]


def problems(**environ: str) -> dict[str, str]:
    _, _, found = check_settings(environ)
    assert len({problem.where for problem in found}) == len(found)
    return {problem.where: problem.what for problem in found}


def value(settings: Settings, row: Row) -> Any:
    return getattr(getattr(settings, row.room), row.name)


def kind(row: Row) -> Any:
    """The type without its None."""
    if get_origin(row.type) in (Literal, tuple) or not get_args(row.type):
        return row.type
    return next(choice for choice in get_args(row.type) if choice is not type(None))


def sample(row: Row) -> tuple[str, Any]:
    """A text that is right for the row, and what it means."""
    if row.env in TEXTS:
        return TEXTS[row.env], TEXTS[row.env]
    if get_origin(kind(row)) is Literal:
        return get_args(kind(row))[-1], get_args(kind(row))[-1]
    if get_origin(kind(row)) is tuple:
        return "10.0.0.0/8, ::1/128,", ("10.0.0.0/8", "::1/128")
    if kind(row) is bool:
        return "yes", True
    if kind(row) is float:
        return "2.5", 2.5
    if kind(row) is int:
        number = row.default + 1 if row.high is None or row.default < row.high else row.default - 1
        return f" {number} ", number
    return "some text", "some text"


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.env)
def test_every_row_is_read_from_its_variable(row: Row) -> None:
    text, meant = sample(row)
    settings, origin, _ = check_settings({row.env: text})
    found = value(settings, row)
    assert (found.get_secret_value() if isinstance(found, SecretStr) else found) == meant
    assert origin[f"{row.room}.{row.name}"] == row.env
    assert {where for where, what in origin.items() if what != "default"} == {f"{row.room}.{row.name}"}
    assert row.sentence.endswith((".", "none."))


def test_every_room_and_name_is_said_once() -> None:
    assert len({row.env for row in rows()}) == len(rows())
    assert {row.room for row in rows()} == set(ROOMS) == set(Settings.__dataclass_fields__)
    inherited = {row.env for row in rows() if row.env != f"KWB_{row.room}_{row.name}".upper()}
    assert inherited == {
        "KWB_CONFIG", "WEBHOOK_USERNAME", "WEBHOOK_PASSWORD", "ENVIRONMENT", "DOMAIN_NAME", "DATABASE_URL",
        "DATABASE_PASSWORD", "KWB_SECRETS_JSON", "KAFKA_BOOTSTRAP_SERVERS", "KAFKA_USERNAME", "KAFKA_PASSWORD",
        "KAFKA_EXTERNAL_PORT", "AWS_REGION", "CONSOLE_USERNAME", "CONSOLE_PASSWORD",
    }  # fmt: skip


def test_the_defaults_have_no_password_and_no_problem() -> None:
    settings, origin = load_settings_with_origin({})
    assert set(origin.values()) == {"default"}
    assert [row.env for row in rows() if row.secret and value(settings, row) is not None] == []
    secret = {row.env for row in rows() if row.secret}
    assert secret == {
        "WEBHOOK_PASSWORD", "KAFKA_PASSWORD", "CONSOLE_PASSWORD", "DATABASE_URL", "DATABASE_PASSWORD",
        "KWB_SECRETS_JSON", "KWB_KAFKA_SSL_KEY", "KWB_STORE_SECRET_KEY",
    }  # fmt: skip


@pytest.mark.parametrize("row", NUMBERS, ids=lambda row: row.env)
def test_bounds_are_inclusive(row: Row) -> None:
    for bound, beyond, words in ((row.low, -1, ("is below", "is not a size")), (row.high, 1, ("is above",))):
        if bound is not None:
            assert not any(word in problems(**{row.env: str(bound)}).get(row.env, "") for word in words)
            assert any(word in problems(**{row.env: str(bound + beyond)})[row.env] for word in words)
    assert row.low is not None, "a number without a lower bound"


@pytest.mark.parametrize("row", NUMBERS, ids=lambda row: row.env)
@pytest.mark.parametrize("text", ["x", "1.2.3", "nan", "inf", "-inf", "1e999", "9" * 5000, "--1"])
def test_what_is_no_number_is_refused_with_a_sentence(row: Row, text: str) -> None:
    what = problems(**{row.env: text})[row.env]
    assert "number" in what or "size" in what or "above" in what
    assert "Traceback" not in what


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0), ("1024", 1024), (" 5MiB ", 5 * 1024**2), ("5 mib", 5 * 1024**2), ("512KB", 512_000),
        ("1GiB", 1024**3),
        ("1.5KiB", 1536), ("3B", 3), ("2mb", 2_000_000),
    ],
)  # fmt: skip
def test_sizes(text: str, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize(
    "text", ["", "5 TiB", "MiB", "-1", "1,5KiB", "5Mi", "1_000", "٣", "9" * 400, "0x10", "1 KiB 2"]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


def test_booleans() -> None:
    for words, expected in ((("1", "true", "YES", " on "), True), (("0", "False", "no", "OFF"), False)):
        for word in words:
            assert load_settings({"KWB_INGEST_SHARE_PORT": word}).ingest.share_port is expected
    assert load_settings({}).bridge.open_rule is None
    assert load_settings({"KWB_BRIDGE_OPEN_RULE": "false"}).bridge.open_rule is False
    assert problems(KWB_INGEST_SHARE_PORT="yep") == {"KWB_INGEST_SHARE_PORT": "'yep' is neither true nor false"}


def test_an_empty_variable_is_the_default() -> None:
    settings, origin = load_settings_with_origin({"KWB_INGEST_PORT": "", "WEBHOOK_PASSWORD": ""})
    assert (settings.ingest.port, settings.bridge.password) == (8080, None)
    assert origin["ingest.port"] == "default"


def test_choices_name_the_near_match() -> None:
    found = problems(KWB_KAFKA_SASL_MECHANISM="SCRAM-SHA512", KWB_LOG_LEVEL="loud")
    assert found["KWB_KAFKA_SASL_MECHANISM"].endswith("did you mean SCRAM-SHA-512?")
    assert found["KWB_LOG_LEVEL"] == "'loud' is not one of debug, info, warning, error"


def test_unknown_names_are_problems_with_the_near_match() -> None:
    found = problems(KWB_INGEST_PROT="1", KWB_ZZZZZZZZ="1", OTHER="1", KWBX="1", KWB_HARNESS_FD="3")
    assert found == {
        "KWB_INGEST_PROT": "no such setting; did you mean KWB_INGEST_PORT?",
        "KWB_ZZZZZZZZ": "no such setting",
    }


def test_every_problem_at_once() -> None:
    environ = {
        "KWB_INGEST_PORT": "70000", "KWB_INGEST_WORKERS": "0", "KWB_LOG_FORMAT": "xml", "KWB_NOPE": "1",
        "WEBHOOK_PASSWORD": "file:/no/such/file", "KAFKA_EXTERNAL_PORT": "x",
    }  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        load_settings(environ)
    assert {problem.where for problem in caught.value.problems} == set(environ)
    assert caught.value.exit_code == 2
    assert "kwb config check" in caught.value.hint
    assert caught.value.message.count("\n") == len(environ) - 1


def test_a_faulty_value_is_left_at_its_default() -> None:
    settings, origin, found = check_settings({"KWB_INGEST_PORT": "x", "KWB_INGEST_WORKERS": "4"})
    assert (settings.ingest.port, settings.ingest.workers) == (8080, 4)
    assert origin["ingest.port"] == "KWB_INGEST_PORT"
    assert len(found) == 1


def test_overrides_beat_the_environment() -> None:
    settings, origin = load_settings_with_origin({"KWB_INGEST_PORT": "1"}, ingest_port=0, ingest_workers=None)
    assert (settings.ingest.port, origin["ingest.port"]) == (0, "command line")
    assert origin["ingest.workers"] == "default"
    with pytest.raises(AssertionError, match="no such setting"):
        load_settings({}, ingest_prot=1)


# ---- secrets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"s3cret\n", "s3cret"), (b"s3cret", "s3cret"), (b" s \n\n", " s \n"), ("ü€".encode(), "ü€")],
)
def test_a_secret_from_a_file_loses_its_last_line_end_only(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "secret").write_bytes(content)
    found = load_settings({"WEBHOOK_PASSWORD": f"file:{tmp_path / 'secret'}"}).bridge.password
    assert found is not None
    assert found.get_secret_value() == expected


def test_a_file_of_a_secret_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"\n")
    (tmp_path / "latin").write_bytes(CANARY.encode() + b"\xff")
    for name, words in (
        ("missing", "No such file"),
        ("empty", "is empty"),
        ("latin", "is not UTF-8"),
        ("", "directory"),
    ):
        what = problems(KAFKA_PASSWORD=f"file:{tmp_path / name}")["KAFKA_PASSWORD"]
        assert words in what
        assert str(tmp_path / name) in what
        assert CANARY not in what
    assert "the secret's file" in problems(KAFKA_PASSWORD="file:/a\0b")["KAFKA_PASSWORD"]


def test_no_secret_in_any_text_of_the_settings() -> None:
    environ = {row.env: TEXTS.get(row.env, CANARY) for row in rows() if row.secret}
    settings = load_settings(environ)
    for text in (repr(settings), str(settings), repr(check_settings(environ)), repr(rows())):
        assert CANARY not in text


def test_no_secret_in_a_problem() -> None:
    bad = "\udcff" + CANARY
    secret = {row.env: bad for row in rows() if row.secret}
    _, _, found = check_settings(secret)
    assert len(found) == len(secret)
    assert CANARY not in repr(found)


def test_bytes_that_are_no_utf8_are_refused_everywhere() -> None:
    for row in rows():
        assert "UTF-8" in problems(**{row.env: "a\udcff"})[row.env]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://h/d", "postgres://u:p@h:5432/d", "postgresql://u:p@a:1,b:2/d", "postgresql://u@[::1]:5432/d",
        "postgresql:///d?host=/run/postgresql", "postgresql://u:p%2Fw@h", "postgresql://u:a:b@h/d?sslmode=require",
    ],
)  # fmt: skip
def test_urls_of_postgresql(url: str) -> None:
    check_postgres_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "garbage", "mysql://u:p@h/d", f"postgresql://u:{CANARY}/x@h/d", f"postgresql://u:{CANARY}#x@h/d",
        f"postgresql://u:{CANARY}[x@h/d", "postgresql://u:p@h:99999/d", "postgresql://u:p@h:x/d", "postgresql:///d",
        f"postgresql:u:{CANARY}@h/d", f"postgresql://u:{CANARY}?x@h/d",
    ],
)  # fmt: skip
def test_a_wrong_url_is_told_without_showing_it(url: str) -> None:
    what = problems(DATABASE_URL=url)["DATABASE_URL"]
    assert what.startswith("is not of the form postgresql://")
    assert "percent-encoded" in what
    assert CANARY not in what


@pytest.mark.parametrize(
    ("url", "has"),
    [
        ("postgresql://u:p@h/d", True), ("postgresql://u:@h/d", True), ("postgresql://h/d?password=p", True),
        ("postgresql://u@h/d?sslmode=verify-full", False), ("postgresql:///d?host=/run/postgresql", False),
    ],
)  # fmt: skip
def test_whether_a_url_brings_its_password(url: str, has: bool) -> None:
    assert has_password(url) is has


def test_rule_2_secrets_json_stands_before_the_environment() -> None:
    environ = {"SHOP": "environment", "OTHER": "stays", "KWB_SECRETS_JSON": '{"SHOP": "json", "ERP": "é\\n"}'}
    found = variables(load_settings(environ).bridge, environ)
    assert (found["SHOP"], found["OTHER"], found["ERP"]) == ("json", "stays", "é\n")
    assert variables(load_settings({}).bridge, environ) is environ
    assert parse_variables("{}") == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{CANARY}", "is not JSON: "), (f'{{"A": "{CANARY}"', "is not JSON: "), (f'["{CANARY}"]', "not a JSON object"),
        (f'"{CANARY}"', "not a JSON object"), (f'{{"A": {{"B": "{CANARY}"}}}}', "A: is not text"),
        ('{"A": "x", "PORT": 1}', "PORT: is not text"), ("[" * 100_000, "is not JSON: nested too deep"),
    ],
)  # fmt: skip
def test_secrets_json_that_is_none_is_told_without_showing_it(text: str, words: str) -> None:
    what = problems(KWB_SECRETS_JSON=text)["KWB_SECRETS_JSON"]
    assert words in what
    assert CANARY not in what


# ---- values that contradict each other -------------------------------------------------------------------------------


def test_rule_7_the_archive_may_not_forget_before_kafka() -> None:
    days = {"KWB_ARCHIVE_RETENTION_DAYS": "6"}
    database = {"DATABASE_URL": "postgresql://h/d"}
    assert "topics keep 7" in problems(**days, **database)["KWB_ARCHIVE_RETENTION_DAYS"]
    assert problems(**days) == {}  # nothing is archived
    assert problems(**database, KWB_ARCHIVE_RETENTION_DAYS="7") == {}
    assert problems(**database, KWB_KAFKA_TOPIC_RETENTION_DAYS="91") != {}


def test_rule_2_late_acknowledgements_are_seen() -> None:
    what = problems(KWB_DELIVER_DEADLINE_MS="5000")["KWB_KAFKA_DELIVERY_TIMEOUT_MS"]
    assert "KWB_DELIVER_DEADLINE_MS" in what
    assert problems(KWB_DELIVER_DEADLINE_MS="4999") == {}


def test_the_outbox_has_time_before_the_deadline() -> None:
    what = problems(KWB_DELIVER_KAFKA_WAIT_MS="1900")["KWB_DELIVER_DEADLINE_MS"]
    assert "KWB_DELIVER_KAFKA_WAIT_MS" in what
    assert problems(KWB_DELIVER_KAFKA_WAIT_MS="1899") == {}


def test_other_contradictions() -> None:
    assert "no time would be left" in problems(KWB_DELIVER_CLAIM_WAIT_MS="700")["KWB_DELIVER_CLAIM_WAIT_MS"]
    assert problems(KWB_DELIVER_CLAIM_WAIT_MS="699") == {}
    assert "KWB_INGEST_DRAIN_TIMEOUT_MS" in problems(KWB_INGEST_DRAIN_GRACE_MS="20000")
    assert "KWB_MANAGEMENT_PORT" in problems(KWB_MANAGEMENT_PORT="8080")
    assert problems(KWB_MANAGEMENT_PORT="8080", KWB_MANAGEMENT_HOST="127.0.0.2") == {}
    assert problems(KWB_MANAGEMENT_PORT="0", KWB_INGEST_PORT="0") == {}
    assert "KWB_INGEST_TLS_KEY" in problems(KWB_INGEST_TLS_KEY="/key.pem")["KWB_INGEST_TLS_CERT"]
    assert "makes its own" in problems(KWB_INGEST_TLS_KEY="/key.pem", KWB_INGEST_TLS_CERT="made")["KWB_INGEST_TLS_KEY"]
    assert problems(KWB_INGEST_TLS_CERT="made") == {}


def test_a_faulty_value_does_not_contradict_as_well() -> None:
    found = problems(KWB_KAFKA_DELIVERY_TIMEOUT_MS="x", KWB_DELIVER_DEADLINE_MS="9000")
    assert found == {"KWB_KAFKA_DELIVERY_TIMEOUT_MS": "'x' is not a whole number"}


# ---- what a child and bridge.yaml take of it -------------------------------------------------------------------------


def test_a_child_gets_what_the_command_line_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    for row in rows():
        monkeypatch.delenv(row.env, raising=False)
    settings = load_settings({}, ingest_port=0, ingest_share_port=True, ingest_tls_cert="/c", kafka_linger_bulk_ms=4.5)
    again = load_settings(child_environment(settings))
    assert again == settings


def test_a_child_gets_a_default_that_the_command_line_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KWB_INGEST_WORKERS", "4")
    assert load_settings(child_environment(load_settings(ingest_workers=1))).ingest.workers == 1


def test_the_configuration_is_a_path_or_yaml(tmp_path: Path) -> None:
    (tmp_path / "bridge.yaml").write_text("sources: {}\n")
    assert read_configuration(str(tmp_path / "bridge.yaml")) == (str(tmp_path / "bridge.yaml"), "sources: {}\n")
    for text in ("", "  ", "{sources: {}}", "sources:\n  a:\n", "open_rule: true", "sources:"):
        assert read_configuration(text) == ("KWB_CONFIG", text)
    with pytest.raises(FileNotFoundError):
        read_configuration("C:/no/such")


def test_variables_in_text() -> None:
    environ = {"A": "1", "B_2": "${A}"}
    assert expand_variables("x${A}y${B_2}$A${}$${A}", environ) == "x1y${A}$A${}$1"
    with pytest.raises(KeyError, match="NOPE"):
        expand_variables("${A}${NOPE}", environ)


@pytest.mark.parametrize(
    ("host", "url"), [("0.0.0.0", "127.0.0.1"), ("::", "127.0.0.1"), ("::1", "[::1]"), ("a.b", "a.b")]
)
def test_the_address_from_here(host: str, url: str) -> None:
    assert load_settings({"KWB_INGEST_HOST": host}).ingest.url == f"http://{url}:8080"


def test_numbers_are_finite_by_default() -> None:
    assert all(math.isfinite(row.default) for row in NUMBERS)
