"""`make env`, `env-rotate`, `compose-up`, `down` and `clean` as a user runs them in a fresh clone."""

from __future__ import annotations

import asyncio
import base64
import fcntl
import json
import os
import random
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest

import compose_env
from compose import plugin
from compose_env import PASSWORDS, parse, scram_verifier
from kafka_webhook_bridge.stack import Stack

ROOT = Path(__file__).parents[2]
EVERYTHING = ["console", "ingest", "kafka", "nginx", "postgres", "worker"]
EVERY_STEP = ["ps", "exec", "kill", "restart", "up"]
SECRETS = {
    "console_password", "database_password", "database_url", "kafka_password", "postgres_password", "webhook_password",
}  # fmt: skip


class Clone:
    """A fresh clone, and a stand-in for Docker on PATH; without one when `docker` is taken away."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "clone"
        self.bin = folder / "bin"
        self.address = f"127.{random.randint(2, 250)}.{random.randint(2, 250)}.1"  # its ports are nobody else's
        self._state = folder / "docker.json"
        for name in ("tools/local_stack.py", "tools/compose_env.py", "compose.yaml", "Makefile", "pyproject.toml",
                     "src/kafka_webhook_bridge/__init__.py"):  # fmt: skip
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.root / name)
        shutil.copytree(ROOT / "deploy", self.root / "deploy")
        subprocess.run(["chmod", "-R", "a+rX", str(self.root / "deploy")], check=True)
        self.bin.mkdir()
        for tool in ("make", "sh", "rm", "git", "awk"):
            if found := shutil.which(tool):
                (self.bin / tool).symlink_to(found)
        self.docker = self.bin / "docker"
        stand_in = Path(__file__).with_name("docker_stand_in.py")
        self.docker.write_text(f'#!/bin/sh\nexec {sys.executable} -IS {stand_in} "$@"\n')
        self.docker.chmod(0o755)
        self.state(volumes=[], running=[], calls=[], roles={}, held={}, images=["kafka-webhook-bridge:local"])

    def state(self, **changed: Any) -> dict[str, Any]:
        """What the stand-in knows; with arguments, changed."""
        known: dict[str, Any] = json.loads(self._state.read_text()) if self._state.exists() else {}
        if changed:
            known.update(changed)
            self._state.write_text(json.dumps(known))
        return known

    def make(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run(["make", *arguments, f"PYTHON={sys.executable}"], **environment)

    def rotate(self, python: str = sys.executable) -> subprocess.CompletedProcess[str]:
        """Without make between, so that the stand-in can end it."""
        return self.run([python, "tools/compose_env.py", "rotate"])

    def run(self, command: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.root, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60,
            env={"PATH": str(self.bin), "STAND_IN": str(self._state), "KWB_BIND": self.address, **environment},
        )  # fmt: skip

    def env(self, name: str = ".env") -> dict[str, str]:
        return parse((self.root / name).read_text())

    def edit(self, **values: str) -> None:
        path = self.root / ".env"
        path.write_text(compose_env.with_values(path.read_text(), values))

    def secret(self, name: str) -> Path:
        return self.root / ".kwb/compose/secrets" / name

    def agree(self) -> dict[str, str]:
        """The values of .env, once files, PostgreSQL, bridge and Kafka are found to hold the same."""
        values, state = self.env(), self.state()
        files = compose_env.secret_files(values)
        assert {name: self.secret(name).read_text() for name in SECRETS} == files
        assert matches(state["roles"]["postgres"], values["POSTGRES_PASSWORD"])
        assert matches(state["roles"]["kwb"], values["DATABASE_PASSWORD"])
        for service in {"ingest", "worker", "console", "kafka"} & set(state["running"]):
            held = state["held"][service]
            assert held == {name: files[name] for name in held}, f"{service} goes on with another"
        assert not (self.root / ".env.new").exists()
        return values


def matches(verifier: str, password: str) -> bool:
    if not verifier.startswith("SCRAM-"):
        return verifier == password  # as the entry point of the image gave it
    salt = re.fullmatch(r"SCRAM-SHA-256\$4096:([^$]+)\$.+", verifier)
    assert salt, verifier
    return scram_verifier(password, base64.b64decode(salt[1])) == verifier


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


@pytest.fixture
def running(clone: Clone) -> Clone:
    """A stack that was brought up, with all its data."""
    assert clone.make("env").returncode == 0
    assert clone.run([str(clone.docker), "compose", "up"]).returncode == 0
    assert clone.state()["running"] == EVERYTHING
    clone.state(volumes=["kwb_authority", "kwb_kafka", "kwb_postgres"], calls=[])
    return clone


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


# --- make env ---------------------------------------------------------------------------------------------------------


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


# --- make env-rotate --------------------------------------------------------------------------------------------------


def test_a_running_stack_gets_new_passwords_everywhere(running: Clone) -> None:
    before = running.env()
    inodes = {name: running.secret(name).stat().st_ino for name in SECRETS}
    done = running.make("env-rotate")
    assert done.returncode == 0, done.stderr
    after = running.agree()
    assert all(after[name] != before[name] for name in PASSWORDS)
    assert {name: after[name] for name in after.keys() - set(PASSWORDS)} == {
        name: before[name] for name in before.keys() - set(PASSWORDS)
    }
    assert {name: running.secret(name).stat().st_ino for name in SECRETS} == inodes
    assert mode(running.root / ".env") == 0o600
    assert "Tell your senders" in done.stdout
    calls = [call[3:] for call in running.state()["calls"] if "--env-file" in call]
    verbs = [next(word for word in call if not word.startswith("-")) for call in calls]
    assert verbs == EVERY_STEP, "Kafka comes last"
    said = done.stdout + done.stderr + json.dumps(running.state()["calls"])
    assert [name for name in PASSWORDS if after[name] in said or before[name] in said] == []


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("CONSOLE_PASSWORD", [["ps"], ["kill", "console"]]),
        ("WEBHOOK_PASSWORD", [["ps"], ["kill", "ingest", "worker", "console"]]),
        ("POSTGRES_PASSWORD", [["ps"], ["exec", "postgres"]]),
        ("DATABASE_PASSWORD", [["ps"], ["exec", "postgres"], ["kill", "ingest", "worker", "console"]]),
        ("KAFKA_PASSWORD", [["ps"], ["kill", "ingest", "worker", "console"], ["restart", "kafka"], ["up", "kafka"]]),
    ],
)
def test_nothing_else_is_disturbed(running: Clone, name: str, wanted: list[list[str]]) -> None:
    before, roles = running.env(), running.state()["roles"]
    assert running.make("env-rotate", f"ONLY={name}").returncode == 0
    after = running.agree()
    assert {other for other in after if after[other] != before[other]} == {name}
    calls = [call[3:] for call in running.state()["calls"] if "--env-file" in call]
    services = {"ps", "kill", "exec", "restart", "up", *EVERYTHING}
    assert [[word for word in call[: call.index("psql") if "psql" in call else None] if word in services]
            for call in calls] == wanted  # fmt: skip
    changed = {role for role, held in running.state()["roles"].items() if held != roles[role]}
    assert changed == {compose_env.ROLES[name]} & roles.keys() if name in compose_env.ROLES else changed == set()


def test_only_some_are_changed(running: Clone) -> None:
    before = running.env()
    assert running.make("env-rotate", "ONLY=KAFKA_PASSWORD DATABASE_PASSWORD").returncode == 0
    after = running.agree()
    assert {name for name in PASSWORDS if after[name] != before[name]} == {"KAFKA_PASSWORD", "DATABASE_PASSWORD"}
    refused(running.make("env-rotate", "ONLY=KAFKA"), "KAFKA is no password")
    assert running.env() == after


def test_passwords_written_by_hand_come_into_force(running: Clone) -> None:
    before = running.env()
    running.edit(DATABASE_PASSWORD="chosen-by-me", KAFKA_PASSWORD="and-this-too")
    assert running.make("env-rotate").returncode == 0
    assert running.agree() == {**before, "DATABASE_PASSWORD": "chosen-by-me", "KAFKA_PASSWORD": "and-this-too"}


def test_one_that_is_asked_for_by_name_is_as_env_has_it(running: Clone) -> None:
    before = running.env()
    running.edit(KAFKA_PASSWORD="chosen-by-me", CONSOLE_PASSWORD="and-this-too")
    done = running.make("env-rotate", "ONLY=KAFKA_PASSWORD DATABASE_PASSWORD")
    assert done.returncode == 0, done.stderr
    after = running.agree()
    assert (after["KAFKA_PASSWORD"], after["CONSOLE_PASSWORD"]) == ("chosen-by-me", "and-this-too")
    assert {name for name in PASSWORDS if after[name] != before[name]} == {
        "KAFKA_PASSWORD", "CONSOLE_PASSWORD", "DATABASE_PASSWORD",
    }  # fmt: skip
    assert "As .env has them: KAFKA_PASSWORD, CONSOLE_PASSWORD" in done.stdout


def test_a_stack_at_rest_has_only_postgresql_started_for_it(running: Clone) -> None:
    running.state(running=[])
    assert running.make("env-rotate").returncode == 0
    running.agree()
    assert running.state()["running"] == []
    assert [call for call in running.state()["calls"] if "restart" in call or "kill" in call] == []


def test_without_data_the_files_are_enough(clone: Clone) -> None:
    clone.make("env")
    before = clone.env()
    assert clone.make("env-rotate").returncode == 0
    assert clone.env()["DATABASE_PASSWORD"] != before["DATABASE_PASSWORD"]
    assert clone.secret("database_password").read_text() == clone.env()["DATABASE_PASSWORD"]
    assert clone.state()["roles"] == {}


def test_data_whose_env_is_lost_get_new_passwords(running: Clone) -> None:
    (running.root / ".env").unlink()
    shutil.rmtree(running.root / ".kwb")
    running.state(running=[])
    done = running.make("env-rotate", "ONLY=CONSOLE_PASSWORD")
    assert done.returncode == 0
    running.agree()
    for words in ("defaults again", "DOMAIN_NAME=localtest.me", "KWB_BIND=127.0.0.1", "BRIDGE_OPEN_RULE=true"):
        assert words in done.stdout
    assert running.make("env").returncode == 0
    assert (running.root / ".env").read_text().startswith("# Made by `make env`")


CALLS = 6  # of a rotation of a running stack


def test_a_rotation_asks_docker_six_times(running: Clone) -> None:
    assert running.rotate().returncode == 0
    assert len(running.state()["calls"]) == CALLS


@pytest.mark.parametrize("how", ["fail", "kill", "kill after"])
@pytest.mark.parametrize("number", range(1, CALLS + 1))
def test_a_rotation_that_ends_anywhere_loses_no_password(running: Clone, number: int, how: str) -> None:
    before = running.env()
    running.state(**{how.partition(" ")[0]: number, "after": "after" in how})
    done = running.rotate()
    new = running.root / ".env.new"
    if how == "fail":
        assert done.returncode == (2 if number == 1 else 1)
        assert "Error response from daemon" in done.stderr
        assert ("Nothing is lost" in done.stderr) == (number > 1)
    else:
        assert done.returncode == -signal.SIGKILL
    assert running.env() == before, ".env changes last"
    assert new.exists() == (number > 1)
    for role, name in (("postgres", "POSTGRES_PASSWORD"), ("kwb", "DATABASE_PASSWORD")):
        held = running.state()["roles"].get(role)
        written = [before[name], *([running.env(".env.new")[name]] if new.exists() else [])]
        assert held is None or any(matches(held, password) for password in written)
    chosen = running.env(".env.new") if new.exists() else None
    if chosen:
        assert mode(new) == 0o600
        refused(running.make("env"), "interrupted", "make env-rotate")
    running.state(fail=None, kill=None)
    assert running.rotate().returncode == 0
    after = running.agree()
    assert all(after[name] != before[name] for name in PASSWORDS)
    assert chosen is None or after == chosen, "no third password"
    assert [path.name for path in running.root.glob(".env*")] == [".env"]


def test_the_new_passwords_stay_until_env_has_them(running: Clone, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full at the very end."""
    monkeypatch.setenv("PATH", str(running.bin))
    monkeypatch.setenv("STAND_IN", str(running.root.parent / "docker.json"))
    write = compose_env.write_private

    def full(path: Path, text: str) -> None:
        if path.name == ".env":
            raise OSError(28, "No space left on device")
        write(path, text)

    monkeypatch.setattr(compose_env, "write_private", full)
    with pytest.raises(compose_env.Interrupted, match="No space"):
        compose_env.rotate(running.root)
    chosen = running.env(".env.new")
    monkeypatch.setattr(compose_env, "write_private", write)
    compose_env.rotate(running.root)
    assert running.agree() == chosen


def test_the_tools_run_on_any_python_from_3_9(running: Clone) -> None:
    found = [Path(where) for where in (shutil.which(f"python3.{minor}") for minor in (9, 10)) if where]
    found += sorted(Path.home().glob(".pyenv/versions/3.9.*/bin/python3.9"))
    pythons = [p for p in found if subprocess.run([p, "-c", ""], capture_output=True).returncode == 0]
    if not pythons:
        pytest.skip("NOT RUN: neither Python 3.9 nor 3.10 is here")
    assert running.rotate(str(pythons[-1])).returncode == 0
    running.agree()
    done = running.run([str(pythons[-1]), "tools/local_stack.py", "up"])
    assert done.returncode == 0, done.stderr


def test_postgresql_takes_the_verifier_for_the_password(stack: Stack) -> None:
    password, role = "a'b\"c$d/e", "rotated"
    url = stack.postgres.admin_url

    async def log_in(word: str) -> str:
        connection = await asyncpg.connect(url, user=role, password=word, database="postgres")
        try:
            return str(await connection.fetchval("SELECT current_user"))
        finally:
            await connection.close()

    async def run() -> None:
        admin = await asyncpg.connect(url)
        try:
            await admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'before'")
            sql = f"ALTER ROLE {role} PASSWORD '{scram_verifier(password)}'"
            await admin.execute(sql)
            assert await log_in(password) == role
            with pytest.raises(asyncpg.InvalidPasswordError):
                await log_in("before")
        finally:
            await admin.execute(f"DROP ROLE IF EXISTS {role}")
            await admin.close()

    asyncio.run(run())


# --- compose-up, down, clean ------------------------------------------------------------------------------------------


def test_compose_up_makes_what_is_missing_and_says_where_it_is(clone: Clone) -> None:
    done = clone.make("compose-up")
    assert done.returncode == 0, done.stderr
    assert clone.state()["running"] == EVERYTHING
    values = clone.env()
    for words in ("https://webhooks.localtest.me/demo", "https://console.localtest.me/", "kafka.localtest.me:29095",
                  "--cacert .kwb/compose/ca.pem", "kwb users create partner", "kwb tail demo"):  # fmt: skip
        assert words in done.stdout
    assert [name for name in PASSWORDS if values[name] in done.stdout] == []


def test_compose_up_prints_the_hosts_line_for_a_name_that_leads_elsewhere(clone: Clone) -> None:
    clone.make("env")
    clone.edit(DOMAIN_NAME="nowhere.invalid", HTTPS_PORT="8443")
    done = clone.make("compose-up")
    assert done.returncode == 0, done.stderr
    assert f"{clone.address} webhooks.nowhere.invalid console.nowhere.invalid kafka.nowhere.invalid" in done.stdout
    assert "https://webhooks.nowhere.invalid:8443/demo" in done.stdout


def test_names_that_lead_here_need_no_hosts_line() -> None:
    import local_stack

    assert local_stack.reaches_this_machine("localhost")
    assert not local_stack.reaches_this_machine("nowhere.invalid")
    assert not local_stack.reaches_this_machine("192.0.2.1"), "of a documentation network, so nobody's"


def test_compose_up_says_what_is_missing(clone: Clone) -> None:
    clone.state(version="2.17.0")
    refused(clone.make("compose-up"), "2.17.0", "2.20 or newer")
    clone.state(version="2.40.3", up=1, ps="[]")
    refused(clone.make("compose-up"), "not started", "What Docker says stands above")
    clone.docker.unlink()
    refused(clone.make("compose-up"), "docker is not here", "Install Docker Engine")


def test_an_image_that_was_not_built_is_said(clone: Clone) -> None:
    clone.state(images=[], build=1)
    refused(clone.make("compose-up"), "kafka-webhook-bridge:local was not built", "docs/howto/compose.md")
    assert clone.state()["running"] == []
    clone.state(build=0)
    assert clone.make("compose-up").returncode == 0
    assert [call[-1] for call in clone.state()["calls"] if "build" in call] == ["ingest", "ingest"], "and not again"


@pytest.mark.parametrize("port", [443, 8443, 29095])
def test_a_port_that_is_taken_is_said(clone: Clone, port: int) -> None:
    clone.make("env")
    if port != 29095:
        clone.edit(HTTPS_PORT=str(port))
    with socket.socket() as other:
        other.bind((clone.address, port))
        other.listen()
        refused(clone.make("compose-up"), f"port {port} of {clone.address} is taken", "ss -ltnp")
        assert clone.state()["running"] == []
        clone.state(running=["nginx"])
        assert clone.make("compose-up").returncode == 0, "it is the stack's own"


def test_an_address_that_this_machine_has_not_is_said(clone: Clone) -> None:
    refused(clone.make("compose-up", KWB_BIND="192.0.2.1"), "192.0.2.1 is no address of this machine", "KWB_BIND")


@pytest.mark.parametrize("one_a_line", [False, True])
@pytest.mark.parametrize(
    ("states", "words"),
    [
        (
            [("postgres", "running", "healthy", 0), ("tls", "exited", "", 2)],
            ["tls ended with 2", "is not a private key"],
        ),
        ([("tls", "exited", "", 0), ("kafka", "running", "unhealthy", 0)], ["kafka is not healthy", "logs kafka"]),
        ([("tls", "exited", "", 0), ("worker", "restarting", "", 1)], ["worker ended with 1", "logs worker"]),
        ([("tls", "exited", "", 0), ("nginx", "created", "", 0)], ["nginx was not started", "If a port is taken"]),
    ],
)
def test_what_did_not_start_is_named_with_its_last_words(
    clone: Clone, states: list[tuple[str, str, str, int]], words: list[str], one_a_line: bool
) -> None:
    names = ("Service", "State", "Health", "ExitCode")
    found = [dict(zip(names, state, strict=True)) for state in states]
    said = "\n".join(map(json.dumps, found)) if one_a_line else json.dumps(found)
    clone.state(up=1, ps=said, logs="server.key is not a private key in PEM.")
    refused(clone.make("compose-up"), *words)


def test_a_certificate_that_clients_refuse_is_no_success(clone: Clone) -> None:
    trouble = {
        "what": "server.pem: it has expired on 2020-01-01.",
        "todo": "Put a newer one in its place.",
        "fatal": False,
    }
    clone.state(certificate=json.dumps({"troubles": [trouble]}))
    done = clone.make("compose-up")
    assert done.returncode != 0
    assert clone.state()["running"] == EVERYTHING
    assert "it has expired on 2020-01-01. Put a newer one" in done.stdout
    assert "curl" not in done.stdout
    asked = next(call for call in clone.state()["calls"] if "run" in call)
    assert asked[asked.index("--domain") + 1] == "localtest.me", "without it a certificate of another name is good"
    clone.state(certificate="no JSON")
    assert clone.make("compose-up").returncode != 0


def test_down_keeps_the_data(running: Clone) -> None:
    before = running.state()["volumes"]
    for gone in (False, True):
        if gone:
            (running.root / ".env").unlink()
        running.state(running=EVERYTHING)
        assert running.make("down").returncode == 0
        assert running.state()["running"] == []
        assert running.state()["volumes"] == before


def test_clean_does_not_remove_data_that_nobody_was_asked_about(running: Clone) -> None:
    (running.root / ".pytest_cache").mkdir()
    before = running.state()["volumes"]
    done = running.make("clean")
    refused(done, "nobody is here to be asked", "YES=1")
    assert "volume kwb_postgres" in done.stdout
    assert running.state()["volumes"] == before
    assert (running.root / ".env").exists()
    assert (running.root / ".pytest_cache").exists()


def test_clean_with_yes_removes_the_stack_and_its_data_alone(running: Clone) -> None:
    running.state(volumes=[*running.state()["volumes"], "other_postgres"])
    (running.root / ".kwb/kafka").mkdir()
    (running.root / ".pytest_cache").mkdir()
    assert running.make("clean", YES="1").returncode == 0
    assert running.state()["volumes"] == ["other_postgres"]
    assert running.state()["running"] == []
    assert not any((running.root / name).exists() for name in (".env", ".kwb/compose", ".pytest_cache"))
    assert (running.root / ".kwb/kafka").exists(), "the data of make up"
    assert running.make("env").returncode == 0


def test_clean_without_a_stack_asks_nothing(clone: Clone) -> None:
    (clone.root / ".pytest_cache").mkdir()
    assert clone.make("clean").returncode == 0
    assert not (clone.root / ".pytest_cache").exists()


def test_clean_leaves_the_environment_of_a_make_up_that_runs(clone: Clone) -> None:
    (clone.root / ".venv").mkdir()
    (clone.root / ".kwb").mkdir()
    with (clone.root / ".kwb/lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused(clone.make("clean", YES="1"), "make up", "Ctrl-C")
        assert (clone.root / ".venv").exists()
    assert clone.make("clean", YES="1").returncode == 0
    assert not (clone.root / ".venv").exists()
