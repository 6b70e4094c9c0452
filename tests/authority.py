"""A certificate authority of the tests: certificates as they should be, and such as nobody should believe."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DOMAIN = "edge.test"
NAMES = (f"webhooks.{DOMAIN}", f"kafka.{DOMAIN}", f"console.{DOMAIN}", "localhost", "127.0.0.1")
DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Signed:
    """A server's certificate and its key."""

    certificate: x509.Certificate
    key: Any

    def put(self, folder: Path, *, key: Any = None, file: str = "server") -> None:
        """Write `server.pem` and `server.key` into `folder`; `key`: another than its own."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{file}.pem").write_bytes(pem(self.certificate))
        (folder / f"{file}.key").write_bytes(key_pem(key or self.key))


@dataclass(frozen=True, slots=True)
class Authority:
    """`Authority.named` makes a new one; with a certificate and a key that were stolen it is that one."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    ca: Path = Path()  # where `named` has written its certificate

    @classmethod
    def named(cls, name: str = "ca", *, folder: Path | None = None, identifiers: bool = True) -> Authority:
        """`folder`: where its certificate is written. Without `identifiers` of keys it and what it signs are as many
        that were made by hand."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject, now = _name(f"Authority {name} of the tests"), datetime.now(UTC)
        certificate = (
            _builder(subject, subject, key, now - 400 * DAY, now + 3_600 * DAY, identifiers)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(sign=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        found = cls(certificate, key, Path() if folder is None else folder / f"{name}.pem")
        return found if folder is None else (found.save(found.ca), found)[1]

    def sign(
        self,
        names: Sequence[str] = NAMES,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        client: bool = False,
    ) -> Signed:
        """Good for 20 days until now and 10 days more, unless told otherwise."""
        key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
        start, end = start or now - 20 * DAY, end or now + 10 * DAY
        purpose = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        found = (extension.value for extension in self.certificate.extensions)
        own = next((value for value in found if isinstance(value, x509.SubjectKeyIdentifier)), None)
        builder = (
            _builder(
                _name(names[0] if client else "a server"), self.certificate.subject, key, start, end, own is not None
            )
            .add_extension(x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(sign=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        )
        if own is not None:
            identifier = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)
            builder = builder.add_extension(identifier, critical=False)
        return Signed(builder.sign(self.key, hashes.SHA256()), key)

    def issue(self, folder: Path, names: Sequence[str] = NAMES, *, days: float = 10, file: str = "server") -> int:
        """`sign` and `put`; negative `days` are over, other `file`s than `server` a client's. Returns the serial."""
        signed = self.sign(names, end=datetime.now(UTC) + days * DAY, client=file != "server")
        signed.put(folder, file=file)
        return signed.certificate.serial_number

    def save(self, path: Path) -> Path:
        """Write its certificate."""
        path.write_bytes(pem(self.certificate))
        return path


def pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key: Any, password: bytes | None = None) -> bytes:
    hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    text: bytes = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden)
    return text


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, start: datetime, end: datetime,
    identifier: bool,
) -> x509.CertificateBuilder:  # fmt: skip
    builder = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(start).not_valid_after(end)
    )  # fmt: skip
    if identifier:
        own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        builder = builder.add_extension(own, critical=False)
    return builder


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign, key_cert_sign=sign, crl_sign=sign, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
