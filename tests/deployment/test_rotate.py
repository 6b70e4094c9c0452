"""`make env-rotate`: new passwords in the stack that runs, whatever comes in between."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
from pathlib import Path

import asyncpg
import pytest
from clone import EVERYTHING, SECRETS, Clone, matches, mode, refused

import compose_env
from compose_env import PASSWORDS, scram_verifier
from kafka_webhook_bridge.stack import Stack

EVERY_STEP = ["ps", "exec", "kill", "restart", "up"]


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
