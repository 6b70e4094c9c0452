"""Passwords that change while the bridge runs: told apart from an outage, and taken without a restart."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import asyncpg
import confluent_kafka.admin
import pytest

from bridge import Serve, eventually, request, serving
from databases import empty_database
from kafka_webhook_bridge.kafka.config import client_config
from kafka_webhook_bridge.kafka.users import Users
from kafka_webhook_bridge.stack import Stack


@pytest.fixture
def secret(folder: Path) -> Path:
    return folder / "password"


def archived(database: str) -> set[bytes]:
    """The bodies in PostgreSQL."""

    async def run() -> set[bytes]:
        connection = await asyncpg.connect(database)
        try:
            return {row["body"] for row in await connection.fetch("SELECT body FROM events")}
        finally:
            await connection.close()

    return asyncio.run(run())


def children(server: Serve) -> list[int]:
    return server.children("ingest") + server.children("worker")


def test_a_changed_password_of_kafka_is_no_outage_and_needs_no_restart(
    stack: Stack, folder: Path, secret: Path, database: str, topic: str
) -> None:
    """Ingest, worker, admins: all log in with the new one after SIGHUP."""
    users = Users(stack.kafka.settings)
    users.put(stack.kafka.username, "first-canary")
    secret.write_text("first-canary\n")
    environ = {
        "KAFKA_PASSWORD": f"file:{secret}", "KWB_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512", "DATABASE_URL": database,
        "KWB_ARCHIVE_TOPIC_CHECK_MS": "500",
    }  # fmt: skip
    with serving(
        stack, folder, role="all", config=f"sources: {{s: {{auth: none, topic: {topic}}}}}", **environ
    ) as server:
        eventually(lambda: server.ask(request("/s", b"first")).status == 200, "served")
        eventually(lambda: archived(database) == {b"first"}, "archived")
        before = children(server)
        users.put(stack.kafka.username, "second-canary")
        stack.kafka.kill()  # connections that are open are never asked again
        stack.kafka.start()

        def refused() -> bool:
            kafka = server.health()[1]["parts"]["kafka"]
            return "refuses the login" in kafka["reason"] and kafka["status"] == "unavailable"

        eventually(refused, "the reason is the login")
        eventually(lambda: server.total("kwb_kafka_auth_failed") == 1, "the metric says so")
        eventually(lambda: server.said("Kafka refuses the bridge"), "told in the log")
        answer = server.ask(request("/s", b"second"))
        assert answer.status in {200, 503}  # never the sender's fault
        assert len(server.said("Kafka refuses the bridge", process="ingest-0")) == 1

        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: server.said("configuration reloaded"), "reloaded, with the old password still")
        assert not server.said("Kafka's password has changed; clients log in with it from now on")
        secret.write_text("second-canary\n")
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: server.ask(request("/s", b"third")).status == 200, "served again")
        eventually(lambda: server.total("kwb_kafka_auth_failed") == 0, "nothing is refused any more")
        eventually(lambda: {b"first", b"third"} <= archived(database), "archived again")
        assert children(server) == before  # no process was started anew
        assert server.stop() == 0
        assert "canary" not in server.log.read_text()


def test_a_right_that_was_taken_away_is_no_outage(stack: Stack, folder: Path, topic: str) -> None:
    admin: Any = confluent_kafka.admin
    client = admin.AdminClient(client_config(stack.kafka.settings))
    user = f"user-{topic}"

    def rights(*names: str) -> list[Any]:
        return [
            admin.AclBinding(
                admin.ResourceType.TOPIC, topic, admin.ResourcePatternType.LITERAL, f"User:{user}", "*",
                admin.AclOperation[name], admin.AclPermissionType.ALLOW,
            )
            for name in names
        ]  # fmt: skip

    Users(stack.kafka.settings).put(user, "user-canary")
    for future in client.create_acls(rights("CREATE", "DESCRIBE", "DESCRIBE_CONFIGS", "WRITE")).values():
        future.result(30)
    environ = {
        "KAFKA_USERNAME": user, "KAFKA_PASSWORD": "user-canary", "KWB_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512"
    }  # fmt: skip
    with serving(stack, folder, config=f"sources: {{s: {{auth: none, topic: {topic}}}}}", **environ) as server:
        eventually(lambda: server.ask(request("/s", b"x")).status == 200, "served")
        write = admin.AclBindingFilter(
            admin.ResourceType.TOPIC, topic, admin.ResourcePatternType.LITERAL, f"User:{user}", "*",
            admin.AclOperation.WRITE, admin.AclPermissionType.ALLOW,
        )  # fmt: skip
        for future in client.delete_acls([write]).values():
            future.result(30)

        def denied() -> bool:
            assert server.ask(request("/s", b"x")).status in {200, 503}  # never the sender's fault
            kafka = server.health()[1]["parts"]["kafka"]
            return kafka["status"] == "degraded" and "TOPIC_AUTHORIZATION_FAILED" in kafka["reason"]

        eventually(denied, "the reason is the right")
        assert "Grant" in server.health()[1]["parts"]["kafka"]["reason"]
        eventually(lambda: server.total("kwb_kafka_auth_failed") == 1, "the metric says so")
        assert server.total("kwb_kafka_connected") == 1  # no outage
        for future in client.create_acls(rights("WRITE")).values():
            future.result(30)
        eventually(lambda: server.ask(request("/s", b"x")).status == 200, "served again")
        eventually(lambda: server.health()[1]["parts"]["kafka"]["status"] == "ready", "and well")


def test_a_changed_password_of_postgresql_needs_no_restart(
    stack: Stack, folder: Path, secret: Path, topic: str
) -> None:
    async def as_admin(sql: str) -> None:
        connection = await asyncpg.connect(stack.postgres.admin_url)
        try:
            await connection.execute(sql)
        finally:
            await connection.close()

    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'other'"
    with empty_database(stack.postgres) as url:
        name = url.rpartition("/")[2]
        asyncio.run(as_admin("CREATE ROLE other LOGIN PASSWORD 'first-canary'"))
        asyncio.run(as_admin(f"ALTER DATABASE {name} OWNER TO other"))
        try:
            address = f"@127.0.0.1:{stack.postgres.port}/{name}"
            secret.write_text(f"postgresql://other:first-canary{address}")
            config = f"sources: {{s: {{auth: none, topic: {topic}}}}}"
            with serving(stack, folder, role="all", config=config, DATABASE_URL=f"file:{secret}") as server:
                eventually(lambda: server.health()[1]["parts"]["postgres"]["status"] == "ready", "ready")
                before = children(server)
                asyncio.run(as_admin("ALTER ROLE other PASSWORD 'second-canary'"))
                asyncio.run(as_admin(cut))
                eventually(lambda: server.health()[1]["parts"]["postgres"]["status"] == "unavailable", "refused")
                assert "password" in server.health()[1]["parts"]["postgres"]["reason"]
                secret.write_text(f"postgresql://other:second-canary{address}")
                server.process.send_signal(signal.SIGHUP)
                eventually(lambda: server.health()[1]["parts"]["postgres"]["status"] == "ready", "ready again")
                assert children(server) == before
                assert server.stop() == 0
                assert "canary" not in server.log.read_text()
        finally:
            asyncio.run(as_admin(f"ALTER DATABASE {name} OWNER TO kwb"))
            asyncio.run(as_admin("REASSIGN OWNED BY other TO kwb"))
    asyncio.run(as_admin("DROP ROLE other"))
