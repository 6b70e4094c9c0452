"""`kwb users` without servers: what is refused before anything is asked, and the snippets' forms."""

from __future__ import annotations

import contextlib
import io
import os
import re
from pathlib import Path
from unittest import mock

import pytest

from kafka_webhook_bridge.cli import main
from kafka_webhook_bridge.cli.output import Output
from kafka_webhook_bridge.cli.snippets import Access, snippets
from kafka_webhook_bridge.cli.turns import alone
from kafka_webhook_bridge.errors import KwbError, UsageError
from kafka_webhook_bridge.kafka.users import check_name, check_topic, matches
from kafka_webhook_bridge.settings import load_settings


def create(*arguments: str, **environ: str) -> tuple[int, str]:
    """Against a cluster that is not there, so whatever is asked of it fails with another exit code."""
    out, err = io.StringIO(), io.StringIO()
    known = {"COLUMNS": "250", "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", **environ}
    with (
        mock.patch.dict(os.environ, known, clear=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = main(["users", "create", *arguments])
    assert out.getvalue() == ""
    return code, err.getvalue()


@pytest.mark.parametrize("name", ["bridge", "anonymous", "Partner", "1partner", "p" * 64, "a b", "a\n", "\xfc", ""])
def test_names_that_no_outside_user_may_have(name: str) -> None:
    code, said = create(name, "--topics", "x", "--group-prefix", "x")
    assert code == 2
    assert said.startswith("error: ")


def test_super_users_are_refused_whatever_their_letters() -> None:
    check_name("partner", {"Root"})
    with pytest.raises(UsageError, match="may do everything"):
        check_name("root", {"Root"})


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--topics", "__consumer_offsets", "--group-prefix", "x"), "Kafka's own"),
        (("--topics", "__*", "--group-prefix", "x"), "Kafka's own"),
        (("--topics", "_*", "--group-prefix", "x"), "Kafka's own"),
        (("--topics", "sh*p", "--group-prefix", "x"), "not a topic"),
        (("--topics", "shop.**", "--group-prefix", "x"), "not a topic"),
        (("--topics", "", "--group-prefix", "x"), "not a topic"),
        (("--topics", "x", "--group-prefix", ""), "--group-prefix"),
        (("--topics", "x", "--group-prefix", "*"), "--group-prefix"),
        (("--topics", "x", "--group-prefix", "x", "--bytes-per-second", "0"), "read nothing"),
        (("--topics", "x", "--group-prefix", "x", "--bytes-per-second", "fast"), "not a size"),
        (("--topics", "x", "--group-prefix", "x", "--bytes-per-second", "5XB"), "a number with KB, MB, GB"),
        (("--topics", "x", "--group-prefix", "x", "--expires", "soon"), "--expires"),
        (("--topics", "x", "--group-prefix", "x", "--expires", "0d"), "--expires"),
        (("--topics", "x", "--group-prefix", "x", "--expires", "99999999999d"), "--expires"),
        (("--topics", "x", "--group-prefix", "x", "--expires", "90d"), "DATABASE_URL"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_asked(options: tuple[str, ...], word: str) -> None:
    code, said = create("partner", *options)
    assert code == 2
    assert word in said


def test_one_change_of_a_user_at_a_time_on_a_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    settings, out = load_settings({}), Output(json=False)
    refused = pytest.raises(KwbError, match="Another command is making, changing or deleting the user partner")
    with alone(settings, out, "partner"), alone(settings, out, "other"), refused, alone(settings, out, "partner"):
        pass
    with alone(settings, out, "partner"):
        pass


def test_a_machine_that_may_write_nowhere_changes_users_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", mock.Mock(side_effect=FileNotFoundError))
    with alone(load_settings({}), Output(json=False), "partner"):
        pass


@pytest.mark.parametrize("pattern", ["*", "shop.*", "s*", "shop.orders", "_x", "Shop-1"])
def test_topics_that_may_be_given(pattern: str) -> None:
    check_topic(pattern)


def test_patterns_mean_whole_names_or_their_beginning() -> None:
    assert matches(["shop.*"], "shop.orders")
    assert not matches(["shop.*"], "shopping")
    assert matches(["*"], "anything")
    assert not matches(["shop"], "shop.orders")


def _snippets(**changes: object) -> dict[str, str]:
    facts = {
        "name": "partner", "password": "secret", "topics": ("shop.*", "erp"), "group_prefix": "partner",
        "servers": "kafka.example.com:29095", "protocol": "SASL_SSL", "ca": "ca.pem",
    }  # fmt: skip
    return {s.kind: s.text + s.use for s in snippets(Access(**{**facts, **changes}))}  # type: ignore[arg-type]


def test_snippets_name_the_authority_and_check_the_host() -> None:
    made = _snippets()
    assert "ssl.truststore.type=PEM\nssl.truststore.location=ca.pem\n" in made["java"]
    assert "ssl.ca.location=ca.pem\n" in made["kcat"]
    assert '"ssl.ca.location": "ca.pem"' in made["python"]
    assert 'ca: [readFileSync("ca.pem")]' in made["node"]
    for text in made.values():
        assert "secret" in text.partition("pip install")[0]
        assert not re.search(r"identification|rejectUnauthorized|verify", text)


def test_without_an_authority_of_its_own_the_systems_is_used() -> None:
    made = _snippets(ca="")
    assert all("ca.pem" not in text for text in made.values())
    assert "ssl: true" in made["node"]
    assert "ssl: false" in _snippets(protocol="SASL_PLAINTEXT")["node"]


def test_the_topics_of_a_snippet_are_those_of_the_rights() -> None:
    made = _snippets()
    (include,) = re.findall(r"--include '([^']+)'", made["java"])
    assert [bool(re.fullmatch(include, t)) for t in ("shop.orders", "erp", "shopping", "erp2")] == [1, 1, 0, 0]
    assert r"""subscribe(["^shop\\.", "erp"])""" in made["python"]
    assert r"""topics: [/^shop\./, "erp"]""" in made["node"]


def test_no_password_stands_in_a_command_line() -> None:
    facts = Access("partner", "secret", ("*",), "partner.", "k:1", "SASL_SSL", "")
    assert all("secret" not in snippet.use for snippet in snippets(facts))
    assert facts.group("java") == "partner.java"
