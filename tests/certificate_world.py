"""A folder with certificates, a handshake with them, and an authority that is not ours."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kafka_webhook_bridge.stack.certificates import Held, Made, look, make

DOMAIN = "hooks.example"
OWN_NAMES = (f"webhooks.{DOMAIN}", f"kafka.{DOMAIN}", f"console.{DOMAIN}")
NAMES = {*OWN_NAMES, "localhost", "127.0.0.1"}
NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)


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
    client.verify_flags &= ~ssl.VERIFY_X509_STRICT  # which Python 3.13 asks for, and no Kafka client
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
    """A private authority that is not ours, and what it signs."""

    def __init__(self, names: Sequence[str], *, key: Any = None, start: datetime = NOW - DAY, days: int = 90) -> None:
        self.ca_key = ec.generate_private_key(ec.SECP256R1())
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Somebody else")])
        self.ca = (
            builder(issuer, issuer, self.ca_key, NOW - 400 * DAY, 4_000)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self.ca_key, hashes.SHA256())
        )
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a server")])
        alternatives = x509.SubjectAlternativeName(list(map(x509.DNSName, names)))
        self.server = (
            builder(subject, issuer, self.key, start, days)
            .add_extension(alternatives, critical=False)
            .sign(self.ca_key, hashes.SHA256())
        )

    def put(self, place: Place, *, ca: bool = True, key: Any = None) -> None:
        place.tls.mkdir(parents=True, exist_ok=True)
        place.pem.write_bytes(self.server.public_bytes(serialization.Encoding.PEM))
        place.key.write_bytes(key_pem(key or self.key))
        if ca:
            place.ca.write_bytes(self.ca.public_bytes(serialization.Encoding.PEM))


def key_pem(key: Any, password: bytes | None = None) -> bytes:
    hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    pem: bytes = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)
    return pem


def builder(subject: Any, issuer: Any, key: Any, start: datetime, days: int) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + days * DAY)
    )
