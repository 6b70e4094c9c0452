"""`make env` as a user runs it in a fresh clone."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from clone import SECRETS, Clone, mode, refused

import compose_env
from compose import plugin
from compose_env import PASSWORDS, parse


def test_rule_23_make_env_writes_random_passwords_that_only_the_owner_reads(clone: Clone, tmp_path: Path) -> None:
    done = clone.make("env")
    assert done.returncode == 0, done.stderr
    values = clone.env()
    assert mode(clone.root / ".env") == 0o600
    assert len({values[name] for name in PASSWORDS}) == len(PASSWORDS)
    assert all(len(values[name]) >= 32 for name in PASSWORDS)
    (tmp_path / "other").mkdir()
    other = Clone(tmp_path / "other")
    assert other.make("env").returncode == 0
    assert {values[name] for name in PASSWORDS} & {other.env()[name] for name in PASSWORDS} == set()
    for name in PASSWORDS:
        assert values[name] not in done.stdout + done.stderr


def test_the_secret_files_are_open_in_a_closed_folder(clone: Clone) -> None:
    clone.make("env")
    folder = clone.root / ".kwb/compose"
    assert {name: mode(folder / name) for name in (".", "ca", "tls", "secrets")} == {
        ".": 0o755, "ca": 0o755, "tls": 0o700, "secrets": 0o700,
    }  # fmt: skip
    assert {path.name for path in (folder / "secrets").iterdir()} == SECRETS
    assert {mode(path) for path in (folder / "secrets").iterdir()} == {0o644}
    values = clone.env()
    assert clone.secret("database_url").read_text() == (
        f"postgresql://kwb:{values['DATABASE_PASSWORD']}@postgres:5432/kwb"
    )
    owner = (10001, 10001) if os.geteuid() == 0 else (os.getuid(), os.getgid())
    assert (int(values["HOST_UID"]), int(values["HOST_GID"])) == owner
    for name in ("ca", "tls"):
        assert ((folder / name).stat().st_uid, (folder / name).stat().st_gid) == owner
    for path in (folder.parent, folder, folder / "secrets"):
        assert path.stat().st_uid == os.geteuid(), "the containers' user could put a link in the way"


@pytest.mark.parametrize("name", ["secrets", "tls", "ca", "."])
def test_a_folder_that_is_a_link_is_not_followed(clone: Clone, tmp_path: Path, name: str) -> None:
    victim, folder = tmp_path / "victim", clone.root / ".kwb/compose" / name
    victim.mkdir(mode=0o755)
    (victim / "kafka_password").write_text("the victim's own")
    folder.parent.mkdir(parents=True)
    folder.symlink_to(victim)
    refused(clone.make("env"), str(folder.relative_to(clone.root)), "is a link")
    assert (mode(victim), victim.stat().st_uid) == (0o755, os.getuid())
    assert [(path.name, path.read_text()) for path in victim.iterdir()] == [("kafka_password", "the victim's own")]


@pytest.mark.parametrize("how", [Path.symlink_to, Path.hardlink_to])
def test_a_file_that_is_a_link_is_not_written_through(clone: Clone, tmp_path: Path, how: Any) -> None:
    victim = tmp_path / "victim"
    victim.write_text("the victim's own")
    victim.chmod(0o600)
    clone.secret("").mkdir(parents=True)
    how(clone.secret("kafka_password"), victim)
    refused(clone.make("env"), "secrets/kafka_password", "is a link")
    assert (victim.read_text(), mode(victim)) == ("the victim's own", 0o600)


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: only root can give a folder away")
def test_folders_of_the_containers_user_hold_nothing_that_root_writes(clone: Clone) -> None:
    assert clone.make("env").returncode == 0
    owned = {path.name for path in (clone.root / ".kwb").rglob("*") if path.lstat().st_uid == 10001}
    assert owned == {"ca", "tls"}
    os.chown(clone.secret(""), 10001, 10001)
    refused(clone.make("env"), "belongs to user id 10001", "chown 0")


def test_ca_pem_is_where_the_snippets_say_and_everybody_may_read_it(clone: Clone) -> None:
    clone.make("env")
    folder = clone.root / ".kwb/compose"
    (folder / "ca/ca.pem").write_text("as the service tls writes it")
    assert (folder / "ca.pem").read_text() == "as the service tls writes it"
    if os.geteuid() == 0:  # a user's own clone is for that user
        assert all(mode(path) & 0o001 for path in (folder.parent, folder, folder / "ca"))
    (folder / "ca.pem").unlink()
    (folder / "ca.pem").write_text("one of the user's own, beside")
    assert clone.make("env").returncode == 0
    assert (folder / "ca/ca.pem").read_text() == "one of the user's own, beside"
    assert (folder / "ca.pem").read_text() == "one of the user's own, beside"


def test_rule_23_make_env_never_overwrites(running: Clone) -> None:
    before = (running.root / ".env").read_bytes()
    done = running.make("env")
    assert (done.returncode, done.stdout) == (0, ".env: nothing to do\n")
    assert (running.root / ".env").read_bytes() == before


@pytest.mark.parametrize("command", ["env", "compose-up", "env-rotate"])
def test_a_password_of_the_bridge_written_by_hand_comes_into_force(running: Clone, command: str) -> None:
    inode = running.secret("webhook_password").stat().st_ino
    for password in ("s#&=%?@:/longer-than-before-by-far-and-then-some", "eight-by"):
        before = running.env()
        running.edit(WEBHOOK_PASSWORD=password)
        assert running.make(command).returncode == 0
        assert running.agree() == {**before, "WEBHOOK_PASSWORD": password}
        assert running.secret("webhook_password").stat().st_ino == inode, "a container would go on with the old file"
    assert [call for call in running.state()["calls"] if "restart" in call] == []
    assert running.make("env-rotate", "ONLY=KAFKA_PASSWORD").returncode == 0
    assert running.agree()["WEBHOOK_PASSWORD"] == "eight-by"


@pytest.mark.parametrize("number", [1, 2, 3])
def test_one_written_by_hand_comes_into_force_wherever_make_env_ended(running: Clone, number: int) -> None:
    running.edit(CONSOLE_PASSWORD="chosen-by-me")
    running.state(kill=number)
    done = running.run([sys.executable, "tools/compose_env.py", "make"])
    assert done.returncode == -signal.SIGKILL
    running.state(kill=None)
    if number > 1:
        refused(running.make("env"), "interrupted", "make env-rotate")
        assert running.rotate().returncode == 0
    else:
        assert running.make("env").returncode == 0
    assert running.agree()["CONSOLE_PASSWORD"] == "chosen-by-me"
    assert [call for call in running.state()["calls"] if "restart" in call] == [], "it remembers what it was about"


@pytest.mark.parametrize("command", ["env", "env-rotate", "clean"])
def test_one_change_of_a_folder_at_a_time(running: Clone, command: str) -> None:
    before = (running.root / ".env").read_bytes()
    with compose_env.alone(running.root):
        refused(running.make(command, "YES=1"), "at work", "Wait for its end")
    assert (running.root / ".env").read_bytes() == before
    assert running.make(command, "YES=1").returncode == 0


def test_special_characters_of_a_password_are_encoded_in_the_url(clone: Clone) -> None:
    clone.make("env")
    clone.edit(DATABASE_PASSWORD="a/b@c:d%e?f#g&h")
    assert clone.make("env").returncode == 0
    assert "kwb:a%2Fb%40c%3Ad%25e%3Ff%23g%26h@postgres" in clone.secret("database_url").read_text()
    assert clone.secret("database_password").read_text() == "a/b@c:d%e?f#g&h"


def test_names_of_a_later_version_are_added(running: Clone) -> None:
    path = running.root / ".env"
    path.write_text(re.sub(r"(?m)^CONSOLE_\w+=.*\n", "", path.read_text()))
    before = running.env()
    assert running.make("env").returncode == 0
    assert running.env().items() > before.items()
    assert running.env()["CONSOLE_USERNAME"] == "console"
    assert len(running.env()["CONSOLE_PASSWORD"]) >= 32


def test_rule_23_volumes_without_env_are_refused(running: Clone) -> None:
    (running.root / ".env").unlink()
    refused(running.make("env"), "data of an earlier stack", "make env-rotate", "make clean")
    assert not (running.root / ".env").exists()


def test_volumes_of_another_project_do_not_matter(clone: Clone) -> None:
    clone.state(volumes=["other_postgres", "kwb2_postgres"])
    assert clone.make("env").returncode == 0


def test_the_project_name_is_honoured(clone: Clone) -> None:
    clone.state(volumes=["mine_postgres"])
    refused(clone.make("env", COMPOSE_PROJECT_NAME="mine"), "data of an earlier stack")


@pytest.mark.parametrize("name", ["KAFKA_PASSWORD", "POSTGRES_PASSWORD", "DATABASE_PASSWORD"])
def test_a_password_that_a_server_holds_is_not_changed_behind_its_back(running: Clone, name: str) -> None:
    before = running.secret(name.lower()).read_text()
    running.edit(**{name: "another-password"})
    refused(running.make("env"), name, "make env-rotate")
    assert running.secret(name.lower()).read_text() == before


def test_a_docker_that_does_not_answer_is_no_docker_without_volumes(clone: Clone) -> None:
    clone.state(fail=1)
    refused(clone.make("env"), "docker volume", "Error response from daemon")
    assert not (clone.root / ".env").exists()


def test_without_docker_there_are_no_volumes(clone: Clone) -> None:
    clone.docker.unlink()
    assert clone.make("env").returncode == 0
    assert len(clone.env()["KAFKA_PASSWORD"]) >= 32


def test_a_closed_folder_of_the_clone_is_said(clone: Clone) -> None:
    (clone.root / "deploy/nginx/nginx.conf.template").chmod(0o600)
    refused(clone.make("env"), "nginx.conf.template", "chmod -R a+rX deploy/nginx")
    (clone.root / "deploy/nginx/nginx.conf.template").chmod(0o644)
    (clone.root / "deploy/compose/bridge/secrets").mkdir(mode=0o700)
    assert clone.make("env").returncode == 0, "secrets of the user's own are for the bridge alone"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("KAFKA_PASSWORD=pass word", "between single quotes"),
        ("KAFKA_PASSWORD=pa$$word", "between single quotes"),
        ('KAFKA_PASSWORD="password"', "between single quotes"),
        ("KAFKA_PASSWORD='it''s'", "neither"),
        ("KAFKA_PASSWORD=short", "8 to 256"),
        ("KAFKA_PASSWORD='pass\"word'", "may not contain"),
        ("KAFKA_PASSWORD=pässword", "ASCII"),
        ("WEBHOOK_PASSWORD=#password", "remark"),
        ("WEBHOOK_PASSWORD= #password", "remark"),
        ("WEBHOOK_PASSWORD=password\t#remark", "tab"),
        ("WEBHOOK_PASSWORD=password\u2028", "line separator"),
        ("WEBHOOK_PASSWORD=pass\u2028word-of-mine", "line separator"),
        ("WEBHOOK_PASSWORD=pass\x85word-of-mine", "next line"),
        ("WEBHOOK_PASSWORD=pass\fword-of-mine", "form feed"),
        ("WEBHOOK_PASSWORD=pass\rword-of-mine", "carriage return"),
        ("WEBHOOK_PASSWORD=password\r", "Unix line ends"),
        ("WEBHOOK_PASSWORD='pass\0word'", "null"),
        ("WEBHOOK_PASSWORD=pass\u200bword", "zero width space"),
        ("WEBHOOK_USERNAME=web:hook", "WEBHOOK_USERNAME"),
        ("WEBHOOK_USERNAME='$(id)'", "WEBHOOK_USERNAME"),
        ("CONSOLE_USERNAME='`id`'", "CONSOLE_USERNAME"),
        ("HTTPS_PORT=99999", "65535"),
        ("HTTPS_PORT=0", "may not be 0"),
        ("HTTPS_PORT=29095", "Kafka's"),
        ("HTTPS_PORT=²", "must be a number"),
        ("BRIDGE_OPEN_RULE=maybe", "true or false"),
        ("KWB_BIND=localhost", "KWB_BIND"),
        ("KWB_BIND=::1", "KWB_BIND"),
        ("KWB_BIND=10.0.0.1:443", "KWB_BIND"),
        ("DOMAIN_NAME=Example.org", "lower-case"),
        ("DOMAIN_NAME=-a-", "must be a domain"),
        ("DOMAIN_NAME=-a-.example.org", "must be a domain"),
        ("DOMAIN_NAME=com", "must be a domain"),
        ("DOMAIN_NAME=example.org.", "must be a domain"),
        ("DOMAIN_NAME=10.0.0.1", "must be a domain"),
        (f"DOMAIN_NAME={'a' * 64}.org", "must be a domain"),
        ("HOST_UID=root", "must be a number"),
        ("HOST_GID=4294967296", "must be a number"),
        ("nonsense", "line 2"),
    ],
)
def test_what_containers_would_read_otherwise_is_refused(clone: Clone, line: str, words: str) -> None:
    written = f"# mine\n{line}\n".encode()
    (clone.root / ".env").write_bytes(written)
    clone.docker.unlink()
    for command in ("make", "rotate"):
        refused(clone.run([sys.executable, "-IS", "tools/compose_env.py", command]), words)
    assert (clone.root / ".env").read_bytes() == written
    assert not (clone.root / ".kwb").exists()


def test_an_env_of_another_encoding_is_refused(clone: Clone) -> None:
    (clone.root / ".env").write_bytes("# für mich\n".encode("latin-1"))
    refused(clone.make("env"), "not UTF-8")


@pytest.mark.parametrize(
    "line",
    ["BRIDGE_OPEN_RULE=False", "KWB_BIND=[::1]", "HTTPS_PORT=8443", "DOMAIN_NAME=a.b-c.example", "# a\tremark\u2028",
     "WEBHOOK_USERNAME=a@b.c", "\t", "WEBHOOK_PASSWORD='#password#\"$`'  # a remark"],
)  # fmt: skip
def test_what_can_be_used_is_taken(clone: Clone, line: str) -> None:
    (clone.root / ".env").write_text(f"{line}\n")
    assert clone.make("env").returncode == 0
    assert (clone.root / ".env").read_text().startswith(f"{line}\n")


def test_env_is_read_as_docker_compose_reads_it(tmp_path: Path) -> None:
    text = "export A = one # said\nB='two # $three'\n  C=four#five\nD=\n#E=six\n"
    ours = parse(text)
    assert ours == {"A": "one", "B": "two # $three", "C": "four#five", "D": ""}
    (tmp_path / "env").write_text(text)
    variables = "".join(f"      {name}: '${{{name}}}'\n" for name in ours)
    (tmp_path / "compose.yaml").write_text(f"services:\n  one:\n    image: x\n    environment:\n{variables}")
    try:
        done = plugin.config(tmp_path, tmp_path / "env")
    except RuntimeError as error:
        pytest.skip(f"NOT RUN: {error}")
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout)["services"]["one"]["environment"]
    assert {name: value.replace("$$", "$") for name, value in theirs.items()} == ours


def test_with_values_and_parse_are_inverse() -> None:
    values = {"A": "plain", "B": "with space", "C": "do$lar#", "D": 'quo"te', "E": "a`b", "F": ""}
    assert parse(compose_env.with_values("# kept\nA=old\nexport B=old\n", values)) == values
    assert compose_env.with_values("# kept\n\nA=old\n", {"A": r"\1"}).startswith("# kept\n\nA=")
