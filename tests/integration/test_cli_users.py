"""`kwb users` against the real servers: what it makes, shows, changes, undoes and ends."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import secrets
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import confluent_kafka as ck
import confluent_kafka.admin
import pytest
from users_world import WAIT_S, Partner, kwb, make_partner, read, until, write

from bridge import serving
from kafka_webhook_bridge.archive.expiry import Expiry
from kafka_webhook_bridge.errors import KafkaError
from kafka_webhook_bridge.kafka.config import client_config
from kafka_webhook_bridge.kafka.groups import Groups
from kafka_webhook_bridge.kafka.users import Users
from kafka_webhook_bridge.observability import metrics
from kafka_webhook_bridge.settings import load_settings
from kafka_webhook_bridge.stack import Stack
from kafka_webhook_bridge.store import Store, migrate
from kafka_webhook_bridge.store import users as store_users

a: Any = confluent_kafka.admin


@pytest.fixture(scope="module")
def partner(stack: Stack) -> Partner:
    return make_partner(stack, "--bytes-per-second", "5MB")


# ── the command ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _shown(stack: Stack, name: str, **environ: str) -> dict[str, Any] | None:
    rows = json.loads(kwb(stack, "list", "--window", "0", "--json", **environ).stdout)
    return next((row for row in rows if row["name"] == name), None)


def test_create_gives_exactly_these_rights_and_this_quota(partner: Partner, stack: Stack) -> None:
    every = a.AclBindingFilter(
        a.ResourceType.ANY, None, a.ResourcePatternType.ANY, f"User:{partner.name}", None, a.AclOperation.ANY,
        a.AclPermissionType.ANY,
    )  # fmt: skip
    admin = a.AdminClient(client_config(stack.kafka.settings))
    rules = admin.describe_acls(every).result(WAIT_S)
    found = {(r.restype.name, r.resource_pattern_type.name, r.name, r.operation.name, r.permission_type.name, r.host)
             for r in rules}  # fmt: skip
    assert found == {
        ("TOPIC", "PREFIXED", f"{partner.name}.", "READ", "ALLOW", "*"),
        ("TOPIC", "PREFIXED", f"{partner.name}.", "DESCRIBE", "ALLOW", "*"),
        ("GROUP", "PREFIXED", partner.name, "READ", "ALLOW", "*"),
    }
    row = _shown(stack, partner.name)
    assert row is not None
    assert row["limits"] == {"consumer_byte_rate": 5e6, "request_percentage": 25}
    assert (row["topics"], row["groups"], row["other_rights"]) == ([f"{partner.name}.*"], [f"{partner.name}*"], [])
    assert len(partner.password) >= 192 / 6


def test_an_existing_user_is_left_as_it_is(partner: Partner, stack: Stack) -> None:
    done = kwb(stack, "create", partner.name, "--topics", "*", "--group-prefix", "x", code=1)
    assert f"kwb users rotate {partner.name}" in done.stderr
    row = _shown(stack, partner.name)
    assert row is not None
    assert row["topics"] == [f"{partner.name}.*"]
    read(partner.config(**{"group.id": f"{partner.name}-still"}), [partner.own], 3)


def test_files_hold_the_password_and_the_terminal_does_not(stack: Stack, folder: Path) -> None:
    where = folder / "made" / "here"
    done = kwb(stack, "create", "filed", "--topics", "filed.*", "--group-prefix", "filed", "--output", str(where))
    files = sorted(path.name for path in where.iterdir())
    assert files == ["filed.cjs", "filed.kcat.conf", "filed.properties", "filed.py"]
    found = re.search(r'password="([^"]+)"', (where / "filed.properties").read_text())
    assert found
    assert stat.S_IMODE(where.stat().st_mode) == 0o700
    for path in where.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert found[1] in path.read_text()
    assert found[1] not in done.stdout + done.stderr
    again = kwb(stack, "rotate", "filed", "--output", str(where), "--json")
    assert found[1] not in (where / "filed.py").read_text()
    assert "password" not in json.loads(again.stdout)
    kwb(stack, "delete", "filed")


def test_a_folder_that_cannot_be_written_makes_no_user(stack: Stack, folder: Path) -> None:
    (folder / "file").write_text("")
    done = kwb(
        stack, "create", "unfiled", "--topics", "x", "--group-prefix", "unfiled", "--output", str(folder / "file"),
        code=1,
    )  # fmt: skip
    assert "cannot be written" in done.stderr
    assert _shown(stack, "unfiled") is None


def test_list_shows_lag_and_speed_and_no_password(stack: Stack) -> None:
    partner = make_partner(stack)
    read(partner.config(**{"group.id": partner.group}), [partner.own], 3)
    write(stack, partner.own, [b"later"] * 7)
    done = kwb(stack, "list", "--window", "1s", "--json")
    assert partner.password not in done.stdout + done.stderr
    (row,) = [row for row in json.loads(done.stdout) if row["name"] == partner.name]
    assert row["consumer_groups"] == [{"group": partner.group, "state": "empty", "lag": 7, "records_per_second": 0.0}]
    for width in ("80", "250"):
        people = kwb(stack, "list", "--window", "0", COLUMNS=width).stdout
        # Others may read in every group, and then show this one, too.
        user, group = [line for line in people.splitlines() if line.split()[:1] == [partner.name]]
        assert user.split()[:3] == [partner.name, f"{partner.name}.*", f"{partner.name}*"]
        assert group.split() == [partner.name, partner.group, "7", "–"]


def test_list_shows_how_fast_a_group_reads(stack: Stack) -> None:
    partner = make_partner(stack)
    producer = ck.Producer(client_config(stack.kafka.settings))
    config = partner.config(**{"group.id": partner.group, "auto.offset.reset": "earliest", "enable.auto.commit": False})
    consumer = ck.Consumer(config)
    try:
        consumer.subscribe([partner.own])
        until(lambda: consumer.poll(0.5), "a record")
        consumer.commit(asynchronous=False)
        listing = subprocess.Popen(
            [sys.executable, "-m", "kafka_webhook_bridge.cli", "users", "list", "--window", "4s", "--json"],
            env=stack.environ(), stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        with listing:
            while listing.poll() is None:  # there is always more to read, until the command has ended
                producer.produce(partner.own, b"x")
                message = consumer.poll(0.02)
                if message is not None and message.error() is None:
                    consumer.commit(asynchronous=False)
            assert listing.stdout is not None
            rows = json.loads(listing.stdout.read())
    finally:
        consumer.close()
        assert producer.flush(WAIT_S) == 0
    (row,) = [row for row in rows if row["name"] == partner.name]
    (group,) = row["consumer_groups"]
    assert group["state"] == "stable"
    assert group["records_per_second"] > 0


def _logs_in(partner: Partner, password: str) -> bool:
    errors: list[ck.KafkaError] = []
    client = a.AdminClient(partner.config(**{"sasl.password": password, "error_cb": errors.append}))

    def told() -> str:
        client.poll(0.1)
        if any(error.code() == ck.KafkaError._AUTHENTICATION for error in errors):
            return "refused"
        try:
            client.list_topics(timeout=2)
        except ck.KafkaException:
            return ""
        return "logged in"

    return until(told, "a word on the login") == "logged in"


def test_rotate_changes_the_password_alone(stack: Stack) -> None:
    partner = make_partner(stack, "--bytes-per-second", "1MB")
    before = _shown(stack, partner.name)
    new = json.loads(kwb(stack, "rotate", partner.name, "--json").stdout)
    assert new["password"] != partner.password
    assert (new["topics"], new["group_prefix"]) == ([f"{partner.name}.*"], partner.name)
    assert new["password"] in new["snippets"]["java"]
    until(lambda: _logs_in(partner, new["password"]), "the new password")
    assert not _logs_in(partner, partner.password)
    assert _shown(stack, partner.name) == before


def test_a_deleted_user_leaves_nothing(stack: Stack) -> None:
    partner = make_partner(stack, "--bytes-per-second", "1MB")
    consumer = ck.Consumer(partner.config(**{"group.id": partner.group, "auto.offset.reset": "earliest"}))
    try:  # who is connected reads nothing more
        consumer.subscribe([partner.own])
        until(lambda: consumer.poll(0.5), "a record")
        kwb(stack, "delete", partner.name)

        def refused() -> bool:
            message = consumer.poll(0.5)
            error = message.error() if message is not None else None
            assert error is None or error.code() == ck.KafkaError.TOPIC_AUTHORIZATION_FAILED
            return error is not None

        until(refused, "a refusal")
    finally:
        consumer.close()
    assert not _logs_in(partner, partner.password)
    assert _shown(stack, partner.name) is None
    gone = kwb(stack, "delete", partner.name, code=1)
    assert "There is no user" in gone.stderr
    again = kwb(stack, "create", partner.name, "--topics", "x", "--group-prefix", partner.name, "--json")
    assert json.loads(again.stdout)["limits"] == {"request_percentage": 25}
    assert _shown(stack, partner.name) is not None


def _groups(stack: Stack) -> set[str]:
    return set(Groups(stack.kafka.settings).states())


def test_the_groups_of_a_deleted_user_go_with_it(stack: Stack) -> None:
    partner, other = make_partner(stack), make_partner(stack)
    for user in (partner, other):
        read(user.config(**{"group.id": user.group}), [user.own], 1)
    busy = f"{partner.name}-busy"
    member = ck.Consumer(partner.config(**{"group.id": busy, "auto.offset.reset": "earliest"}))
    try:
        member.subscribe([partner.own])
        until(lambda: member.poll(0.5), "a record")
        assert {partner.group, other.group, busy} <= _groups(stack)
        done = kwb(stack, "delete", partner.name, "--json")
        (warning,) = json.loads(done.stdout)["warnings"]
        assert f"{busy} stays, with its positions: it has members" in warning
        assert {partner.group, other.group, busy} & _groups(stack) == {other.group, busy}
    finally:
        member.close()


def test_what_is_left_of_a_user_is_shown_with_what_to_do(stack: Stack) -> None:
    users, name = Users(stack.kafka.settings), f"cut{secrets.token_hex(4)}"
    users.allow_reading(name, ["shop.*"], [f"{name}*"])  # as after a kill -9 in the middle of `create`
    until(lambda: users.find(name), "its rights")
    row = _shown(stack, name)
    assert row is not None
    assert (row["credential"], row["topics"]) == (False, ["shop.*"])
    said = kwb(stack, "list", "--window", "0").stderr
    assert f"{name} has no password" in said
    assert f"`kwb users delete {name}`" in said
    assert f"`kwb users delete {name}`" in kwb(stack, "rotate", name, code=1).stderr
    kwb(stack, "delete", name)
    users.put(name, "secret")  # as in the middle of `delete`
    until(lambda: users.find(name), "its credential")
    assert f"{name} may read nothing" in kwb(stack, "list", "--window", "0").stderr
    kwb(stack, "delete", name)
    assert _shown(stack, name) is None


@pytest.mark.parametrize(
    "arguments",
    [("create", "x", "--topics", "x", "--group-prefix", "x"), ("list",), ("rotate", "x"), ("delete", "x")],
    ids=lambda arguments: arguments[0],
)
def test_a_wrong_password_of_the_bridge_is_named(stack: Stack, arguments: tuple[str, ...]) -> None:
    said = kwb(stack, *arguments, code=1, KAFKA_PASSWORD="wrong").stderr
    assert "Invalid username or password" in said
    assert "KAFKA_PASSWORD" in said
    assert "Is the cluster up" not in said


def test_rotating_nobody_is_a_found_problem(stack: Stack) -> None:
    assert "There is no user nobody-here" in kwb(stack, "rotate", "nobody-here", code=1).stderr


def test_the_second_client_logs_no_password(stack: Stack) -> None:
    """kafka-python writes its whole configuration at level debug."""
    seen = io.StringIO()
    handler, root, theirs = logging.StreamHandler(seen), logging.getLogger(), logging.getLogger("kafka")
    levels = root.level, theirs.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    theirs.setLevel(logging.DEBUG)
    try:
        Users(stack.kafka.settings).names()
        logging.getLogger("other").debug("heard")
    finally:
        root.removeHandler(handler)
        root.setLevel(levels[0])
        theirs.setLevel(levels[1])
    assert "heard" in seen.getvalue()
    assert stack.kafka.password not in seen.getvalue()


# ── a bridge whose own user may not do everything ─────────────────────────────────────────────────────────────────────


@pytest.fixture
def limited(stack: Stack) -> Iterator[Callable[..., dict[str, str]]]:
    """`limited("ALTER", …)` → the environment of a bridge whose user has these rights on the cluster alone."""
    users, made = Users(stack.kafka.settings), []

    def make(*operations: str) -> dict[str, str]:
        name = f"admin-{secrets.token_hex(4)}"
        made.append(name)
        rules = [
            a.AclBinding(
                a.ResourceType.BROKER, "kafka-cluster", a.ResourcePatternType.LITERAL, f"User:{name}", "*",
                a.AclOperation[operation], a.AclPermissionType.ALLOW,
            )
            for operation in operations
        ]  # fmt: skip
        admin = a.AdminClient(client_config(stack.kafka.settings))
        for future in admin.create_acls(rules).values() if rules else ():
            future.result(WAIT_S)
        users.put(name, "a-password")
        until(lambda: name in users.names(), "the user of the bridge")
        return {
            "KAFKA_BOOTSTRAP_SERVERS": stack.kafka.proxy_bootstrap, "KAFKA_USERNAME": name,
            "KAFKA_PASSWORD": "a-password", "KWB_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
        }  # fmt: skip

    yield make
    for name in made:
        users.delete(name)


@pytest.mark.parametrize(
    "arguments",
    [("create", "x", "--topics", "x", "--group-prefix", "x"), ("list",), ("rotate", "x"), ("delete", "x")],
    ids=lambda arguments: arguments[0],
)
def test_a_bridge_without_rights_is_told_which_it_needs(
    stack: Stack, limited: Callable[..., dict[str, str]], arguments: tuple[str, ...]
) -> None:
    done = kwb(stack, *arguments, code=1, **limited())
    assert "CLUSTER_AUTHORIZATION_FAILED" in done.stderr
    assert "Alter and Describe on the cluster" in done.stderr


def test_where_quotas_are_refused_a_user_is_made_without_one(
    stack: Stack, limited: Callable[..., dict[str, str]]
) -> None:
    bridge = limited("ALTER", "DESCRIBE")
    name = f"q{secrets.token_hex(4)}"
    options = ("--topics", f"{name}.*", "--group-prefix", name)
    refused = kwb(stack, "create", name, *options, "--bytes-per-second", "1MB", code=1, **bridge)
    assert "AlterConfigs and DescribeConfigs on the cluster" in refused.stderr
    assert Users(stack.kafka.settings).find(name) is None
    made = json.loads(kwb(stack, "create", name, *options, "--json", **bridge).stdout)
    assert made["limits"] == {}
    assert f"{name} has no quota" in made["warnings"][0]
    row = _shown(stack, name)
    assert row is not None
    assert (row["topics"], row["limits"]) == ([f"{name}.*"], {})


def test_what_was_made_is_undone_when_a_later_step_fails(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    users, name = Users(stack.kafka.settings), f"u{secrets.token_hex(4)}"

    def fail(name: str, password: str) -> None:
        there = users.find(name)
        assert there is not None
        assert there.rights.topics == ("x",)
        assert there.limits == {"consumer_byte_rate": 1000.0}
        raise KafkaError("on purpose")

    monkeypatch.setattr(users, "put", fail)
    with pytest.raises(KafkaError, match="on purpose"):
        users.create(name, "secret", ["x"], name, {"consumer_byte_rate": 1000.0}, limits_needed=True)
    until(lambda: users.find(name) is None, "nothing is left")


# ── users that end ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_user_ends_in_its_time_also_when_kafka_was_away(stack: Stack, database: str) -> None:
    settings = replace(
        load_settings({**stack.environ(), "DATABASE_URL": database}), kafka=stack.kafka.settings,
    )  # fmt: skip
    away = replace(settings, kafka=replace(stack.kafka.settings, bootstrap_servers="127.0.0.1:1"))
    counter = metrics.registry().counter
    removed, failed = counter("kwb_users_expired_total"), counter("kwb_users_expiry_failures_total")
    before = removed.value, failed.value

    async def prepare() -> None:
        async with Store(settings.store) as store:
            await migrate(store)
            await store_users.put_end(store, "never-made", datetime.now(UTC))
            await store_users.put_end(store, "bridge", datetime.now(UTC))

    asyncio.run(prepare())
    partner = make_partner(stack, "--expires", "1s", DATABASE_URL=database)
    stays = make_partner(stack, "--expires", "90d", DATABASE_URL=database)
    assert partner.made["expires_at"]
    until(lambda: (_shown(stack, partner.name, DATABASE_URL=database) or {})["expired"], "its time is over")

    async def turns() -> None:
        async with Store(settings.store) as store:
            short = Expiry(away, store)
            short._users = Users(away.kafka, timeout_s=1)
            await short.turn()
            assert partner.name in await store_users.ended(store)
            assert failed.value > before[1]
            stop = asyncio.Event()
            running = asyncio.create_task(Expiry(settings, store, every_s=0.2).run(stop))
            async with asyncio.timeout(WAIT_S):
                while set(await store_users.ended(store)) != {"bridge"}:  # which no row may end
                    await asyncio.sleep(0.1)
            stop.set()
            await running
            assert set(await store_users.ends(store)) == {"bridge", stays.name}

    asyncio.run(turns())
    assert removed.value == before[0] + 1
    assert _shown(stack, partner.name) is None
    row = _shown(stack, stays.name, DATABASE_URL=database)
    assert row is not None
    assert not row["expired"]
    kwb(stack, "delete", stays.name, DATABASE_URL=database)
    assert not _logs_in(partner, partner.password)
    assert Users(stack.kafka.settings).find("bridge") is None


def test_the_worker_ends_users(stack: Stack, database: str, folder: Path) -> None:
    async def prepare() -> None:
        async with Store(load_settings({"DATABASE_URL": database}).store) as store:
            await migrate(store)

    asyncio.run(prepare())
    partner = make_partner(stack, "--expires", "1s", DATABASE_URL=database)
    until(lambda: (_shown(stack, partner.name, DATABASE_URL=database) or {})["expired"], "its time is over")
    with serving(stack, folder, role="all", DATABASE_URL=database, KWB_BRIDGE_OPEN_RULE="true"):
        until(lambda: _shown(stack, partner.name) is None, "the worker removed it")
