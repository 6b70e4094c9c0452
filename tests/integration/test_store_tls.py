"""PostgreSQL behind TLS: the server is known by its certificate or not used, and a password need not be in the URL."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from events_data import store_settings
from pydantic import SecretStr

from bridge import Serve, eventually
from kafka_webhook_bridge.app.preflight import load
from kafka_webhook_bridge.errors import ConfigError, KwbError, StoreError
from kafka_webhook_bridge.store import Store
from kafka_webhook_bridge.store.errors import may_pass
from tls_postgres import TlsPostgres, tls_postgres

ENVIRON = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "KWB_CONFIG": "sources: {a: {auth: none}}"}
PUNCTUATED = "a/b:c@d?e#f%41&g"


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsPostgres]:
    folder = tmp_path_factory.mktemp("tls")
    folder.chmod(0o711)
    with tls_postgres(folder) as server:
        yield server


def outcome(url: str, password: str | None = None) -> KwbError | None:
    """Why PostgreSQL cannot be used so; None when it answers."""

    async def run() -> None:
        secret = None if password is None else SecretStr(password)
        async with Store(store_settings(url, password=secret)) as store:
            await store.ping()

    try:
        asyncio.run(run())
    except KwbError as error:
        return error
    return None


def test_rule_12_a_server_with_the_right_certificate_answers(postgres: TlsPostgres) -> None:
    assert outcome(postgres.url(), postgres.password) is None


def test_the_password_of_the_url_is_worth_more_than_the_other(postgres: TlsPostgres) -> None:
    assert outcome(postgres.url(password=postgres.password), "wrong") is None
    for url, password in ((postgres.url(password="wrong"), postgres.password), (postgres.url(), "wrong")):
        refused = outcome(url, password)
        assert refused is not None
        assert "28P01" in refused.message
        assert "DATABASE_PASSWORD" in refused.hint


def test_a_password_of_its_own_needs_no_encoding(postgres: TlsPostgres) -> None:
    async def change(password: str) -> None:
        async with Store(store_settings(postgres.url(), password=SecretStr(postgres.password))) as store:
            async with store.connection("changing", timeout_ms=60_000) as connection:
                await connection.execute(f"ALTER ROLE kwb PASSWORD '{password}'")
                before = store.settings
                store.log_in(store_settings(postgres.url(), password=SecretStr(PUNCTUATED)))
                assert store.settings is before
            for _ in range(2):  # the second is a new connection
                async with store.connection("looking", timeout_ms=60_000) as connection:
                    await connection.execute("SELECT 1")
                    await connection.close()
            async with store.connection("changing", timeout_ms=60_000) as connection:
                await connection.execute(f"ALTER ROLE kwb PASSWORD '{postgres.password}'")

    asyncio.run(change(PUNCTUATED))
    assert outcome(postgres.url(), postgres.password) is None


def test_rule_12_a_stranger_and_another_name_are_refused(postgres: TlsPostgres) -> None:
    """As what it is, so that a bridge that runs goes on and tells it."""
    strangers = [
        outcome(postgres.url(postgres.other_ca), postgres.password),
        outcome(postgres.url(host="127.0.0.1"), postgres.password),
    ]
    for error in strangers:
        assert isinstance(error, StoreError)
        assert "the server's certificate is refused" in error.message
        assert not may_pass(error), "`kwb migrate` need not wait for another"
        assert "sslrootcert" in error.hint


def test_rule_12_without_tls_nobody_comes_in(postgres: TlsPostgres) -> None:
    error = outcome(postgres.url(sslmode="disable"), postgres.password)
    assert isinstance(error, StoreError)
    assert "no encryption" in error.message


def test_authorities_that_are_none_are_told_before_anything_starts(postgres: TlsPostgres, folder: Path) -> None:
    (folder / "empty.pem").write_text("nothing")
    for name, words in (("empty.pem", "no PEM certificate is in there"), ("no.pem", "No such file or directory")):
        url = postgres.url(folder / name)
        problem = f"DATABASE_URL: sslrootcert={folder / name}: {words}"
        assert str(outcome(url)) == problem
        with pytest.raises(ConfigError) as caught:
            load("worker", {**ENVIRON, "DATABASE_URL": url})
        assert caught.value.message == problem


def test_a_bridge_that_meets_a_stranger_lives_and_says_so(postgres: TlsPostgres, folder: Path) -> None:
    database = {"DATABASE_URL": postgres.url(postgres.other_ca), "DATABASE_PASSWORD": postgres.password}
    server = Serve({**ENVIRON, **database}, folder, "--role", "worker")
    try:
        eventually(lambda: server.said("PostgreSQL cannot be used"), "it is told")
        assert "certificate is refused" in server.said("PostgreSQL cannot be used")[0]["error"]

        def tells() -> bool:
            parts = server.health(server.management_port)[1]["parts"]
            return "certificate is refused" in parts.get("postgres", {"reason": ""})["reason"]

        eventually(tells, "health tells it")
    finally:
        assert server.stop() == 0
