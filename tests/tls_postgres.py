"""PostgreSQL as RDS gives it: with a certificate, and for nobody without TLS."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, urlsplit

import asyncpg
import pytest

from authority import Authority
from kafka_webhook_bridge.stack import Postgres
from kafka_webhook_bridge.stack.postgres import major_of

HOST = "localhost"  # its certificate has this name and none else
_PLACES = ("/usr/lib/postgresql", "/usr/pgsql-*")  # of Debian's and PostgreSQL's own packages


def binaries() -> Path:
    """Folder of a PostgreSQL that was built with TLS, as the wheel's is not. Skips the test where there is none."""
    found = [path.parent for place in _PLACES for path in Path("/").glob(f"{place[1:]}/**/bin/initdb")]
    if not found:
        pytest.skip("NOT RUN: no PostgreSQL with TLS is installed (tools/ci_packages.sh)")
    return max(found, key=lambda path: int(major_of(path)))


class TlsPostgres:
    """One server. `ca` is the authority to trust, `other_ca` one that signed nothing here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "tls-postgres"
        self.folder.mkdir(mode=0o711)
        authority, other = Authority(self.folder), Authority(self.folder, "other")
        self.ca, self.other_ca = authority.ca, other.ca
        authority.issue(self.folder, (HOST,))
        self._server = Postgres(self.folder / "postgres", binaries=binaries())

    def start(self) -> None:
        """Once without, because the data folder has to be there; then as it is meant."""
        self._server.start()
        self._server.stop()
        data = (self._server.folder / "data").resolve()
        for name in ("server.pem", "server.key"):
            target = data / name
            target.write_bytes((self.folder / name).read_bytes())
            target.chmod(0o600)
            os.chown(target, data.stat().st_uid, data.stat().st_gid)
        hba = data / "pg_hba.conf"
        hba.write_text("hostssl all all 127.0.0.1/32 scram-sha-256\n")
        self._server._options = {"ssl": "on", "ssl_cert_file": "server.pem", "ssl_key_file": "server.key"}
        self._server.start()

    def close(self) -> None:
        self._server.destroy()

    @property
    def password(self) -> str:
        return urlsplit(self._server.url).password or ""

    @property
    def port(self) -> int:
        return self._server.port

    def make(self, name: str) -> str:
        """A role and a database of its own of that name; the role's password."""
        password = secrets.token_hex(20)

        async def run() -> None:
            connection = await asyncpg.connect(self._server.admin_url, ssl="require")
            try:
                await connection.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{password}'")
                await connection.execute(f"CREATE DATABASE {name} OWNER {name}")
            finally:
                await connection.close()

        asyncio.run(run())
        return password

    def url(
        self, ca: Path | None = None, *, user: str = "kwb", password: str = "", host: str = HOST, **query: str
    ) -> str:
        """As the template writes it: the database has the user's name. `password` goes into it percent-encoded."""
        login = f"{user}:{quote(password, safe='')}" if password else user
        asked: Mapping[str, str] = query or {"sslmode": "verify-full", "sslrootcert": str(ca or self.ca)}
        words = "&".join(f"{name}={value}" for name, value in asked.items())
        return f"postgresql://{login}@{host}:{self.port}/{user}?{words}"


@contextlib.contextmanager
def tls_postgres(folder: Path) -> Iterator[TlsPostgres]:
    server = TlsPostgres(folder)
    try:
        server.start()
        yield server
    finally:
        server.close()
