"""`kwb users` where its output is a log: new passwords go to Secrets Manager as they come into force, nowhere else."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from typing import Any

import confluent_kafka as ck
import confluent_kafka.admin
import pytest
from users_world import kwb

from kafka_webhook_bridge.stack import Stack
from secrets_manager import SecretsManager

PREFIX = "dev-webhooks/users/"


@pytest.fixture
def manager() -> Iterator[SecretsManager]:
    found = SecretsManager()
    yield found
    found.close()


@pytest.fixture
def name() -> str:
    return f"p{secrets.token_hex(4)}"


def run(stack: Stack, manager: SecretsManager, *arguments: str, code: int = 0, **environ: str) -> Any:
    return kwb(
        stack, *arguments, code=code, **{"KWB_USERS_SECRET_PREFIX": PREFIX, **manager.environ(), **environ}
    )  # fmt: skip


def create(stack: Stack, manager: SecretsManager, name: str, *arguments: str, code: int = 0) -> Any:
    return run(stack, manager, "create", name, "--topics", f"{name}.*", "--group-prefix", name, *arguments, code=code)


def logs_in(secret: dict[str, Any]) -> bool:
    """A stock client with what the secret holds and nothing else."""
    admin: Any = confluent_kafka.admin
    errors: list[ck.KafkaError] = []
    client = admin.AdminClient(
        {
            "bootstrap.servers": secret["bootstrap_servers"], "security.protocol": secret["security_protocol"],
            "sasl.mechanism": secret["sasl_mechanism"], "sasl.username": secret["username"],
            "sasl.password": secret["password"], "error_cb": errors.append, "log_level": 0,
        }
    )  # fmt: skip
    try:
        client.list_topics(timeout=20)
    except ck.KafkaException:
        client.poll(0)
        assert [error.code() for error in errors if error.code() == ck.KafkaError._AUTHENTICATION]
        return False
    return True


def exists(stack: Stack, name: str) -> bool:
    rows = json.loads(kwb(stack, "list", "--window", "0", "--json").stdout)
    return any(row["name"] == name for row in rows)


def test_rule_3_a_new_password_goes_to_its_secret_and_never_to_a_log(
    stack: Stack, manager: SecretsManager, name: str
) -> None:
    done = create(stack, manager, name)
    secret = manager.current(PREFIX + name)
    assert secret["username"] == name
    assert logs_in(secret)
    assert f"as {PREFIX}{name}" in done.stdout
    assert f"--secret-id {PREFIX}{name} " in done.stdout
    assert secret["password"] not in done.stdout + done.stderr

    again = run(stack, manager, "rotate", name, "--json")
    told = json.loads(again.stdout)
    assert told["secret"] == PREFIX + name
    assert not {"password", "snippets"} & set(told)
    rotated = manager.current(PREFIX + name)
    assert rotated["password"] != secret["password"]
    assert rotated["password"] not in again.stdout + again.stderr
    assert logs_in(rotated)
    assert not logs_in(secret)

    run(stack, manager, "delete", name)
    assert manager.secrets == {}
    assert not exists(stack, name)


@pytest.mark.parametrize("deleted", [False, True])
def test_a_secret_that_was_left_behind_is_used_again(
    stack: Stack, manager: SecretsManager, name: str, deleted: bool
) -> None:
    manager.secrets[PREFIX + name] = {"AWSCURRENT": "of somebody before"}
    manager.deleted = {PREFIX + name} if deleted else set()
    create(stack, manager, name)
    assert logs_in(manager.current(PREFIX + name))
    run(stack, manager, "delete", name)


def test_without_a_place_for_its_password_no_user_is_made(stack: Stack, manager: SecretsManager, name: str) -> None:
    manager.fail["CreateSecret"] = "AccessDeniedException"
    done = create(stack, manager, name, code=1)
    assert "secretsmanager:CreateSecret" in done.stderr
    assert PREFIX + name in done.stderr
    assert not exists(stack, name)


def test_a_user_that_is_not_made_leaves_no_secret(stack: Stack, manager: SecretsManager, name: str) -> None:
    """Its end cannot be recorded, which comes after the secret and before the user."""
    done = run(
        stack, manager, "create", name, "--topics", "x", "--group-prefix", name, "--expires", "1h", code=1,
        DATABASE_URL="postgresql://kwb:x@127.0.0.1:1/kwb",
    )  # fmt: skip
    assert "PostgreSQL" in done.stderr
    assert manager.calls == ["CreateSecret", "DeleteSecret"]
    assert manager.secrets == {}
    assert not exists(stack, name)


def test_a_rotation_that_kafka_does_not_take_leaves_the_current_password(
    stack: Stack, manager: SecretsManager, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(stack, manager, name)
    before = manager.current(PREFIX + name)

    def refuse(*_: object) -> None:
        raise RuntimeError("Kafka is away")

    monkeypatch.setattr("kafka_webhook_bridge.kafka.users.Users.put", refuse)
    with pytest.raises(RuntimeError):
        run(stack, manager, "rotate", name)
    assert manager.current(PREFIX + name) == before
    assert logs_in(before)
    monkeypatch.undo()
    run(stack, manager, "delete", name)


def test_a_password_in_force_is_never_lost(stack: Stack, manager: SecretsManager, name: str) -> None:
    """Secrets Manager goes away between the two steps: the password is there, and the error says where."""
    create(stack, manager, name)
    answer, puts = manager._answer, []

    def second_fails(action: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if action == "PutSecretValue":
            puts.append(body["VersionStages"])
            if len(puts) > 1:
                return 400, {"__type": "LimitExceededException", "message": "no"}
        return answer(action, body)

    manager._answer = second_fails  # type: ignore[method-assign]
    done = run(stack, manager, "rotate", name, code=1)
    assert "AWSPENDING" in done.stderr
    assert puts[0] == ["AWSPENDING"]
    pending = json.loads(manager.secrets[PREFIX + name]["AWSPENDING"])
    assert logs_in(pending)
    assert pending["password"] not in done.stdout + done.stderr
    manager._answer = answer  # type: ignore[method-assign]
    run(stack, manager, "delete", name)


def test_a_secret_that_cannot_be_removed_is_told_and_the_user_is_gone(
    stack: Stack, manager: SecretsManager, name: str
) -> None:
    create(stack, manager, name)
    manager.fail["DeleteSecret"] = "AccessDeniedException"
    done = run(stack, manager, "delete", name)
    assert "is still there, perhaps" in done.stderr
    assert not exists(stack, name)


def test_what_is_missing_for_it_is_told(
    stack: Stack, manager: SecretsManager, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(variable, raising=False)
    done = run(
        stack, manager, "create", name, "--topics", "x", "--group-prefix", "x", code=2, AWS_REGION="",
        AWS_CONFIG_FILE="/dev/null",
    )  # fmt: skip
    assert "AWS_REGION" in done.stderr
    real = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == "boto3" else real(name, *rest))
    done = run(stack, manager, "create", name, "--topics", "x", "--group-prefix", "x", code=2)
    assert "kafka-webhook-bridge[aws]" in done.stderr
