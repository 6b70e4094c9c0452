"""`kwb users` for one name by several processes at the same time: one wins, the others are told, nothing is mixed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from users_world import WAIT_S, read, until, write

from kafka_webhook_bridge.archive.expiry import Expiry
from kafka_webhook_bridge.errors import KafkaError
from kafka_webhook_bridge.kafka.admin import Admin
from kafka_webhook_bridge.kafka.users import Users, _rules
from kafka_webhook_bridge.settings import load_settings
from kafka_webhook_bridge.stack import Stack
from kafka_webhook_bridge.store import Store, migrate
from kafka_webhook_bridge.store import users as store_users

BUSY = "Another command is making, changing or deleting the user"


class Command:
    """`kwb users …` in a process of its own, which stops itself at the failpoint `stop` and goes on with `go_on`."""

    def __init__(self, environ: dict[str, str], *arguments: str, stop: str = "") -> None:
        harness = {"KWB_HARNESS_FD": "0", "KWB_FAIL": f"{stop}:stop"} if stop else {}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kafka_webhook_bridge.cli", "users", *arguments], env={**environ, **harness},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            # Under nohup the tests ignore it, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        )  # fmt: skip

    def stopped(self) -> Command:
        def there() -> bool:
            assert self.process.poll() is None, self.process.communicate()
            return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

        until(there, "the command stops")
        return self

    def go_on(self) -> Command:
        self.process.send_signal(signal.SIGCONT)
        return self

    def end(self) -> tuple[int, str, str]:
        """Exit status, standard output and error."""
        out, err = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, out, err

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


class Commands:
    """Commands that know PostgreSQL or do not, and share a machine's folder for locks or do not."""

    def __init__(self, stack: Stack, folder: Path, database: str) -> None:
        self.stack, self.folder, self.database = stack, folder, database
        self.name = f"p{secrets.token_hex(4)}"
        self._started: list[Command] = []

    def start(self, *arguments: str, machine: str = "a", stop: str = "", with_database: bool = True) -> Command:
        environ = {
            "PATH": os.defpath, "COLUMNS": "250", **self.stack.environ(), "TMPDIR": str(self.folder / machine),
            "KWB_KAFKA_EXTERNAL_SERVERS": self.stack.kafka.proxy_bootstrap,
            "KWB_KAFKA_EXTERNAL_PROTOCOL": "SASL_PLAINTEXT", "DATABASE_URL": self.database,
        }  # fmt: skip
        if not with_database:
            del environ["DATABASE_URL"]
        (self.folder / machine).mkdir(exist_ok=True)
        command = Command(environ, *arguments, stop=stop)
        self._started.append(command)
        return command

    def create(self, which: str, *, machine: str = "a", stop: str = "", with_database: bool = True) -> Command:
        return self.start(
            "create", self.name, "--topics", f"{self.name}.{which}", "--group-prefix", f"{self.name}-{which}",
            "--json", machine=machine, stop=stop, with_database=with_database,
        )  # fmt: skip

    def change(self, what: str, *, machine: str = "a", stop: str = "", with_database: bool = True) -> Command:
        return self.start(what, self.name, "--json", machine=machine, stop=stop, with_database=with_database)

    def topics(self) -> tuple[str, ...] | None:
        """What the user may read; None when nothing of it is there."""
        user = Users(self.stack.kafka.settings).find(self.name)
        return None if user is None else user.rights.topics

    def logs_in(self, shown: str, which: str) -> None:
        """With the password that a command has shown, its snippets' group, and its topic."""
        made, topic = json.loads(shown), f"{self.name}.{which}"
        Admin(self.stack.kafka.settings).ensure_topic(topic, 1_000_000)
        write(self.stack, topic, [b"one"])
        config = {
            "bootstrap.servers": self.stack.kafka.proxy_bootstrap, "security.protocol": "SASL_PLAINTEXT",
            "sasl.mechanism": "SCRAM-SHA-512", "sasl.username": self.name, "sasl.password": made["password"],
            "group.id": made["group_prefix"], "log_level": 0,
        }  # fmt: skip
        read(config, [topic], 1)

    def close(self) -> None:
        for command in self._started:
            with contextlib.suppress(ValueError):  # its output has been read
                command.close()
        Users(self.stack.kafka.settings).delete(self.name)


@pytest.fixture
def commands(stack: Stack, folder: Path, database: str) -> Iterator[Commands]:
    found = Commands(stack, folder, database)
    yield found
    found.close()


def refused(command: Command, word: str = BUSY) -> None:
    status, out, err = command.end()
    assert (status, out) == (1, "")
    assert word in err
    assert "Traceback" not in err


# Two machines that share a database, and one machine that has none.
PLACES = pytest.mark.parametrize(("other", "with_database"), [("b", True), ("a", False)], ids=["database", "machine"])


@PLACES
def test_of_four_that_make_one_user_at_once_one_wins(commands: Commands, other: str, with_database: bool) -> None:
    makers = {
        which: commands.create(which, machine=machine, with_database=with_database)
        for which, machine in (("w", "a"), ("x", other), ("y", "a"), ("z", other))
    }
    ended = {which: maker.end() for which, maker in makers.items()}
    (winner,) = [which for which, (status, _, _) in ended.items() if status == 0]
    for which, (status, out, err) in ended.items():
        if which != winner:
            assert (status, out) == (1, "")
            assert BUSY in err or f"There is a user {commands.name}" in err
    assert commands.topics() == (f"{commands.name}.{winner}",)
    commands.logs_in(ended[winner][1], winner)


@PLACES
def test_nothing_is_done_to_a_user_that_is_half_made(commands: Commands, other: str, with_database: bool) -> None:
    maker = commands.create("x", stop="users.allowed", with_database=with_database).stopped()
    assert commands.topics() == (f"{commands.name}.x",)
    for what in ("rotate", "delete"):
        refused(commands.change(what, machine=other, with_database=with_database))
    refused(commands.create("y", machine=other, with_database=with_database))
    status, out, err = maker.go_on().end()
    assert status == 0, err
    assert commands.topics() == (f"{commands.name}.x",)
    commands.logs_in(out, "x")


def test_a_maker_that_was_killed_holds_up_nobody(commands: Commands) -> None:
    commands.create("x", stop="users.allowed").stopped().close()
    refused(commands.create("y", machine="b"), f"kwb users delete {commands.name}")
    assert commands.change("delete", machine="b").end()[0] == 0
    status, out, err = commands.create("y").end()
    assert status == 0, err
    commands.logs_in(out, "y")


def test_of_two_new_passwords_at_once_the_shown_one_is_in_force(commands: Commands) -> None:
    assert commands.create("x").end()[0] == 0
    rotating = commands.change("rotate", stop="users.found").stopped()
    refused(commands.change("rotate", machine="b"))
    refused(commands.change("delete", machine="b"))
    status, out, err = rotating.go_on().end()
    assert status == 0, err
    commands.logs_in(out, "x")


def test_a_user_that_is_being_deleted_stays_deleted(commands: Commands) -> None:
    assert commands.create("x").end()[0] == 0
    deleting = commands.change("delete", stop="users.forbidden").stopped()
    refused(commands.change("rotate", machine="b"))
    refused(commands.create("y", machine="b"))
    assert deleting.go_on().end()[0] == 0
    assert commands.topics() is None


def test_two_names_do_not_wait_for_each_other(commands: Commands) -> None:
    commands.create("x", stop="users.allowed").stopped()
    first, commands.name = commands.name, f"p{secrets.token_hex(4)}"
    assert commands.create("x").end()[0] == 0
    assert commands.change("delete").end()[0] == 0
    commands.name = first


def test_without_postgresql_a_user_can_still_be_deleted(commands: Commands) -> None:
    assert commands.create("x").end()[0] == 0
    commands.database = "postgresql://kwb:word@127.0.0.1:1/kwb"
    status, _, err = commands.start("delete", commands.name).end()
    assert status == 0
    assert f"Whether a command elsewhere changes {commands.name}, too, is not known" in err
    assert commands.topics() is None


def test_two_machines_without_a_database_leave_no_mixed_rights(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one gives its rights between the steps of this one; nobody takes turns."""
    users, name = Users(commands.stack.kafka.settings), commands.name
    allow = users._allow

    def both(name: str, rules: list[object]) -> None:
        allow(name, rules)
        allow(name, _rules(name, ["other"], ["other*"]))

    monkeypatch.setattr(users, "_allow", both)
    monkeypatch.setattr("kafka_webhook_bridge.kafka.users._VISIBLE_TIMEOUT_S", 1.0)
    with pytest.raises(KafkaError, match="as it was made"):
        users.create(name, "secret", [f"{name}.x"], name, {}, limits_needed=False)
    until(lambda: users.find(name) is None, "nothing is left")


def test_the_worker_ends_nobody_who_is_being_made_anew(commands: Commands) -> None:
    settings = load_settings({**commands.stack.environ(), "DATABASE_URL": commands.database})
    name = commands.name

    async def run() -> None:
        async with Store(settings.store) as store:
            await migrate(store)
            await store_users.put_end(store, name, datetime.now(UTC) - timedelta(days=1))
            maker = commands.create("x", machine="b", stop="users.allowed").stopped()
            await store_users.put_end(store, name, datetime.now(UTC) - timedelta(days=1))  # making it forgot that
            await Expiry(settings, store).turn()
            assert commands.topics() == (f"{name}.x",)
            maker.go_on()
            assert (await asyncio.to_thread(maker.end))[0] == 0
            await Expiry(settings, store).turn()
            assert commands.topics() is None

    asyncio.run(run())


# ── told to end in the middle ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_maker_that_is_told_to_end_undoes_what_it_made(commands: Commands, number: int, status: int) -> None:
    name, where = commands.name, commands.folder / "made"

    async def ends() -> set[str]:
        async with Store(load_settings({"DATABASE_URL": commands.database}).store) as store:
            await migrate(store)
            return set(await store_users.ends(store))

    asyncio.run(ends())
    maker = commands.start(
        "create", name, "--topics", "x", "--group-prefix", name, "--expires", "1d", "--output", str(where),
        stop="users.allowed",
    ).stopped()  # fmt: skip
    assert len(list(where.iterdir())) == 4
    assert asyncio.run(ends()) == {name}
    maker.process.send_signal(number)
    ended, out, err = maker.go_on().end()
    assert (ended, out) == (status, "")
    assert f"there is no user {name}" in err
    assert "Traceback" not in err
    assert list(where.iterdir()) == []
    assert asyncio.run(ends()) == set()
    until(lambda: Users(commands.stack.kafka.settings).find(name) is None, "nothing is left")


def test_who_deletes_and_is_told_to_end_deletes_all_of_it(commands: Commands) -> None:
    assert commands.create("x").end()[0] == 0
    deleting = commands.change("delete", stop="users.forbidden").stopped()
    deleting.process.terminate()
    status, _, err = deleting.go_on().end()
    assert status == 0, err
    assert Users(commands.stack.kafka.settings).find(commands.name) is None


# ── what two users share ──────────────────────────────────────────────────────────────────────────────────────────────


def test_no_user_can_move_the_positions_of_another(commands: Commands) -> None:
    assert commands.create("x").end()[0] == 0  # in groups that begin with NAME-x
    users, other = Users(commands.stack.kafka.settings), f"{commands.name}o"
    users.allow_reading(other, ["y"], ["literal-" + commands.name])
    try:
        until(lambda: users.find(other), "the other one's right")
        for prefix in (f"{commands.name}-x", f"{commands.name}-x2", commands.name, "literal-" + commands.name[:4]):
            done = commands.start("create", "second", "--topics", "x", "--group-prefix", prefix)
            refused(done, f"--group-prefix {prefix}: ")
        assert users.find("second") is None
        beside = commands.start("create", "second", "--topics", "x", "--group-prefix", f"literal-{commands.name}-2")
        assert beside.end()[0] == 0
    finally:
        users.delete("second")
        users.delete(other)


def test_of_two_made_at_once_with_the_same_groups_none_is_left(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    users, name = Users(commands.stack.kafka.settings), commands.name
    allow = users._allow

    def both(name: str, rules: list[object]) -> None:
        allow(f"{name}2", _rules(f"{name}2", ["other"], [f"{name}2*"]))
        allow(name, rules)

    monkeypatch.setattr(users, "_allow", both)
    try:
        with pytest.raises(KafkaError, match=f"{name}2 reads in the groups {name}2"):
            users.create(name, "secret", [f"{name}.x"], name, {}, limits_needed=False)
        until(lambda: users.find(name) is None, "nothing is left")
    finally:
        users.delete(f"{name}2")


def test_the_worker_ends_nobody_whose_end_was_moved_after_it_looked(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load_settings({**commands.stack.environ(), "DATABASE_URL": commands.database})
    name, changing = commands.name, store_users.changing
    assert commands.create("x").end()[0] == 0

    async def run() -> None:
        async with Store(settings.store) as store:
            await migrate(store)
            await store_users.put_end(store, name, datetime.now(UTC) - timedelta(days=1))

            def renewed_before(store: Store, name: str) -> contextlib.AbstractAsyncContextManager[bool]:
                renewed = commands.start("delete", name).end(), commands.start(
                    "create", name, "--topics", f"{name}.y", "--group-prefix", name, "--expires", "90d"
                ).end()  # fmt: skip
                assert [status for status, _, _ in renewed] == [0, 0], renewed
                return changing(store, name)

            monkeypatch.setattr(store_users, "changing", renewed_before)
            await Expiry(settings, store).turn()
            monkeypatch.setattr(store_users, "changing", changing)
            assert commands.topics() == (f"{name}.y",)
            assert set(await store_users.ends(store)) == {name}

    asyncio.run(run())
