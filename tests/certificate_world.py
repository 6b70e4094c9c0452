"""A folder with certificates, a handshake with them, and an authority that is not ours."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from authority import DAY, Authority
from kafka_webhook_bridge.stack.certificates import Held, Made, look, make

DOMAIN = "hooks.example"
OWN_NAMES = (f"webhooks.{DOMAIN}", f"kafka.{DOMAIN}", f"console.{DOMAIN}")
NAMES = {*OWN_NAMES, "localhost", "127.0.0.1"}
NOW = datetime.now(UTC).replace(microsecond=0)


class Place:
    """A folder and an authority."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder, self.authority = root / "compose", root / "authority"
        self.tls = self.folder / "tls"
        self.pem, self.key, self.ca = self.tls / "server.pem", self.tls / "server.key", self.folder / "ca.pem"

    def make(self, domain: str = DOMAIN, **more: Any) -> Made:
        return make(domain, self.folder, self.authority, **more)

    def look(self, **more: Any) -> Held:
        return look(self.folder, **more)

    def contents(self) -> dict[str, bytes]:
        files = (path for path in self.root.rglob("*") if path.is_file())
        return {str(path.relative_to(self.root)): path.read_bytes() for path in files}


def shake(place: Place, name: str, ca: Path | None = None) -> str:
    """A handshake in memory with hostname checks, as a client that asks for `name`: the refusal, or the protocol."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(place.pem, place.key)
    client = ssl.create_default_context(cafile=ca or place.ca)
    a, b = ssl.MemoryBIO(), ssl.MemoryBIO()
    inside, outside = server.wrap_bio(a, b, server_side=True), client.wrap_bio(b, a, server_hostname=name)
    for _ in range(4):
        for end in (outside, inside):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLCertVerificationError as error:
                return error.verify_message
    return outside.version() or "nothing"


class Other:
    """An authority that is not ours, and what it signed for a server."""

    def __init__(
        self, names: Sequence[str], *, start: datetime = NOW - DAY, days: int = 90, identifiers: bool = True
    ) -> None:
        self.authority = Authority.named("elsewhere", identifiers=identifiers)
        self.server = self.authority.sign(names, start=start, end=start + days * DAY)

    def put(self, place: Place, *, ca: bool = True, key: Any = None) -> None:
        self.server.put(place.tls, key=key)
        if ca:
            self.authority.save(place.ca)
