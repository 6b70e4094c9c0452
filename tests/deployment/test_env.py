"""`make env`, `env-rotate`, `compose-up`, `down` and `clean` as a user runs them in a fresh clone."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import signal
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
SECRETS = {
    "console_password", "database_password", "database_url", "kafka_password", "postgres_password", "webhook_password",
}  # fmt: skip


class Clone:
    """A fresh clone, and a stand-in for Docker on PATH; without one when `docker` is taken away."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "clone"
        self.bin = folder / "bin"
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
        self.state(volumes=[], running=[], calls=[], roles={})

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
            env={"PATH": str(self.bin), "STAND_IN": str(self._state), **environment},
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
        if "kafka" in state["running"]:
            assert state["kafka"] == values["KAFKA_PASSWORD"]
            assert state["bridge"] == {name: files[name] for name in state["bridge"]}
        assert not (self.root / ".env.new").exists()
        return values


def matches(verifier: str, password: str) -> bool:
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
    clone.state(volumes=["kwb_authority", "kwb_kafka", "kwb_postgres"], running=EVERYTHING, calls=[])
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
    assert [mode(folder), mode(folder / "tls"), mode(folder / "secrets")] == [0o700, 0o700, 0o700]
    assert {path.name for path in (folder / "secrets").iterdir()} == SECRETS
    assert {mode(path) for path in (folder / "secrets").iterdir()} == {0o644}
    values = clone.env()
    assert clone.secret("database_url").read_text() == (
        f"postgresql://kwb:{values['DATABASE_PASSWORD']}@postgres:5432/kwb"
    )
    owner = (10001, 10001) if os.geteuid() == 0 else (os.getuid(), os.getgid())
    assert (int(values["HOST_UID"]), int(values["HOST_GID"])) == owner
    for path in (folder, folder / "tls"):
        assert (path.stat().st_uid, path.stat().st_gid) == owner


def test_rule_23_make_env_never_overwrites(running: Clone) -> None:
    before = (running.root / ".env").read_bytes()
    assert running.make("env").returncode == 0
    assert (running.root / ".env").read_bytes() == before


def test_own_values_are_taken_over_in_place(running: Clone) -> None:
    inode = running.secret("webhook_password").stat().st_ino
    running.edit(WEBHOOK_PASSWORD="s#&=%?@:/longer-than-before-by-far-and-then-some")
    assert running.make("env").returncode == 0
    assert running.secret("webhook_password").read_text() == running.env()["WEBHOOK_PASSWORD"]
    running.edit(WEBHOOK_PASSWORD="eight-by")
    assert running.make("env").returncode == 0
    assert running.secret("webhook_password").read_text() == "eight-by"
    assert running.secret("webhook_password").stat().st_ino == inode, "a container would go on with the old file"


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
        ("DOMAIN_NAME=Example.org", "lower-case"),
        ("HOST_UID=root", "must be a number"),
        ("nonsense", "line 2"),
    ],
)
def test_what_containers_would_read_otherwise_is_refused(clone: Clone, line: str, words: str) -> None:
    (clone.root / ".env").write_text(f"# mine\n{line}\n")
    refused(clone.make("env"), words)
    assert (clone.root / ".env").read_text() == f"# mine\n{line}\n"
    assert not (clone.root / ".kwb").exists()


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
    assert compose_env.with_values("# kept\nA=old\n", {"A": r"\1"}).startswith("# kept\n")


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
    assert verbs == ["ps", "exec", "kill", "restart", "up"], "Kafka comes last"
    said = done.stdout + done.stderr + json.dumps(running.state()["calls"])
    assert [name for name in PASSWORDS if after[name] in said or before[name] in said] == []


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
    assert running.make("env-rotate").returncode == 0
    running.agree()
    assert running.make("env").returncode == 0


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
        assert ("nothing is lost" in done.stderr) == (number > 1)
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
    with pytest.raises(OSError, match="No space"):
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
    assert "127.0.0.1 webhooks.nowhere.invalid console.nowhere.invalid kafka.nowhere.invalid" in done.stdout
    assert "https://webhooks.nowhere.invalid:8443/demo" in done.stdout


def test_names_that_lead_here_need_no_hosts_line() -> None:
    import local_stack

    assert local_stack.reaches_this_machine("localhost")
    assert not local_stack.reaches_this_machine("nowhere.invalid")
    assert not local_stack.reaches_this_machine("192.0.2.1"), "of a documentation network, so nobody's"


def test_compose_up_says_what_is_missing(clone: Clone) -> None:
    clone.state(version="2.17.0")
    refused(clone.make("compose-up"), "2.17.0", "2.20 or newer")
    clone.state(version="2.40.3", up=1)
    refused(clone.make("compose-up"), "not healthy", "docker compose logs")
    clone.docker.unlink()
    refused(clone.make("compose-up"), "docker is not here", "Install Docker Engine")


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
