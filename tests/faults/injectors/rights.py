"""What the bridge may do, and its password."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

import confluent_kafka.admin

from faults.ground import Ground
from faults.injectors import Fault
from faults.world import World

ck_admin: Any = confluent_kafka.admin


LIMITED = "limited"


@contextlib.contextmanager
def as_limited_user(world: World) -> Iterator[None]:
    """The bridge logs in by SCRAM as a user whose rights are what the documentation asks for."""
    ground = world.ground
    password = world.folder / "kafka-password"
    password.write_text("first")
    password.chmod(0o600)
    set_scram(ground, LIMITED, "first")
    for kind, name, operations in (
        ("TOPIC", world.run, ("CREATE", "DESCRIBE", "DESCRIBE_CONFIGS", "READ", "WRITE")),
        ("BROKER", "kafka-cluster", ("DESCRIBE", "DESCRIBE_CONFIGS", "IDEMPOTENT_WRITE")),
        ("GROUP", "*", ("READ",)),
    ):
        for operation in operations:
            grant(ground, kind, name, operation)
    world.options.environ |= {
        "KAFKA_USERNAME": LIMITED, "KAFKA_PASSWORD": f"file:{password}", "KWB_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
    }  # fmt: skip
    yield
    with contextlib.suppress(Exception):
        for future in ground.admin().delete_acls([acl_filter()]).values():
            future.result(30)


def acl_filter() -> Any:
    return ck_admin.AclBindingFilter(
        ck_admin.ResourceType.ANY, None, ck_admin.ResourcePatternType.ANY, f"User:{LIMITED}", None,
        ck_admin.AclOperation.ANY, ck_admin.AclPermissionType.ANY,
    )  # fmt: skip


def grant(ground: Ground, kind: str, name: str, operation: str, permission: str = "ALLOW") -> None:
    pattern = "LITERAL" if kind == "BROKER" or name == "*" else "PREFIXED"
    rule = ck_admin.AclBinding(
        ck_admin.ResourceType[kind], name, ck_admin.ResourcePatternType[pattern], f"User:{LIMITED}", "*",
        ck_admin.AclOperation[operation], ck_admin.AclPermissionType[permission],
    )  # fmt: skip
    for future in ground.admin().create_acls([rule]).values():
        future.result(30)


def set_scram(ground: Ground, user: str, password: str) -> None:
    credential = ck_admin.UserScramCredentialUpsertion(
        user, ck_admin.ScramCredentialInfo(ck_admin.ScramMechanism.SCRAM_SHA_512, 4096), password.encode()
    )
    for future in ground.admin().alter_user_scram_credentials([credential]).values():
        future.result(30)


def right_revoked(source: str, seconds: float) -> Fault:
    """The right to write to one topic is denied, then given back."""

    def fault(world: World) -> None:
        name = world.facts()[source].topic
        with world.fault(f"no right to write to the topic of {source}"):
            grant(world.ground, "TOPIC", name, "WRITE", "DENY")
            world.last(seconds)
            denied = ck_admin.AclBindingFilter(
                ck_admin.ResourceType.TOPIC, name, ck_admin.ResourcePatternType.PREFIXED, f"User:{LIMITED}", None,
                ck_admin.AclOperation.WRITE, ck_admin.AclPermissionType.DENY,
            )  # fmt: skip
            for future in world.ground.admin().delete_acls([denied]).values():
                future.result(30)

    return fault


def password_rotated(seconds: float) -> Fault:
    """The broker has another password, every connection is cut, and the bridge learns the new one by SIGHUP."""

    def fault(world: World) -> None:
        with world.fault("the password is another"):
            set_scram(world.ground, LIMITED, "second")
            world.ground.to_kafka.reset()
            world.last(seconds)
            (world.folder / "kafka-password").write_text("second")
            world.bridge.process.send_signal(signal.SIGHUP)

    return fault
