"""Certificates for the door of the local stack: made by an authority of its own, or the user's, which are only checked.

    authority/   ca.key ca.pem            stays with whoever signs; nothing else ever reads the key
    folder/      ca.pem                   what clients trust
                 tls/server.pem .key      what nginx serves

The authority may sign for its domain and this machine's own names alone (name constraints), so that a stolen key
opens nothing else. Files are renamed into place, certificate first and key second: a run that was cut between the two
leaves a pair of ours that does not match, and the next run makes both anew. A key without a certificate was never ours.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import secrets
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kafka_webhook_bridge.errors import StackError, UsageError
from kafka_webhook_bridge.kafka.trust import trusting
from kafka_webhook_bridge.observability.certificate import NEAR_DAYS, Certificate, describe
from kafka_webhook_bridge.stack.files import lock, write_private

AUTHORITY_DAYS = 3_652
SERVER_DAYS = 396  # with the hour below still under the 397 days that browsers allow
RENEW_DAYS = NEAR_DAYS[0]
HOSTS = ("webhooks", "kafka", "console")
_BACKDATED = timedelta(hours=1)  # for clients whose clock is a little behind
_OURS = "Kafka Webhook Bridge"
_MARK = "# Made by `kwb tls make`, which renews it. Put your own in its place, without this line.\n"
_DOMAIN = re.compile(r"(?=.{1,240}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is wrong with the files of a folder. `fatal`: a server that is given them does not start."""

    what: str
    todo: str
    fatal: bool = False


@dataclass(frozen=True, slots=True)
class Held:
    """What a folder holds. `own`: the user's files, not made here. `verified`: a client that trusts `ca.pem` of the
    folder, or the system's authorities where there is none, is content with the certificate."""

    certificate: Certificate
    own: bool
    authority: Certificate | None
    verified: bool
    troubles: tuple[Trouble, ...]


@dataclass(frozen=True, slots=True)
class Made:
    """What `make` did, one sentence each (none when all was well before), and what the folder holds now."""

    done: tuple[str, ...]
    held: Held


def host_names(domain: str) -> tuple[str, ...]:
    """The names under which the outside knows the stack."""
    return tuple(f"{host}.{domain}" for host in HOSTS)


def server_names(domain: str) -> tuple[str, ...]:
    """Every name in a certificate made here."""
    return (*host_names(domain), "localhost", "127.0.0.1")


def check_domain(domain: str) -> str:
    """The domain as certificates spell it. Raises UsageError."""
    spelled = domain.strip().rstrip(".").lower()
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(spelled)
        spelled = ""
    if not _DOMAIN.fullmatch(spelled):
        raise UsageError(
            f"{domain!r} is not a domain.", hint="Write it as in example.com; other letters as xn--… (Punycode)."
        )
    return spelled


def make(domain: str, folder: Path, authority: Path, *, renew: bool = False, now: datetime | None = None) -> Made:
    """Make what is missing in `folder`, renew what is nearly over, damaged or for other names; `renew`: at once.

    A certificate that was not made here is left alone and checked. Runs side by side wait for one another.
    Raises UsageError for a domain that is none; StackError where a folder cannot be used, the clock is wrong, or
    the user's files cannot be served.
    """
    domain = check_domain(domain)
    now = now or datetime.now(UTC)
    tls = folder / "tls"
    for place in (folder, tls, authority):
        _make_folder(place)
    with _lock(authority), _lock(folder):
        try:
            held = _own(folder, domain, now)
            if held is not None:
                if renew:
                    raise StackError(
                        f"{tls / 'server.pem'} is your own certificate; it is not renewed here.",
                        hint="Put a newer one in its place, with its key, and reload nginx.",
                    )
                return Made((), held)
            return _made(domain, folder, authority, renew, now)
        except OSError as error:
            raise _unusable(Path(str(error.filename or folder)), error) from error


def look(folder: Path, domain: str | None = None, *, now: datetime | None = None) -> Held:
    """What the folder holds. Without `domain` it is taken from the certificate's name `webhooks.…`.

    Raises StackError when there is no certificate, or none that can be read.
    """
    path = folder / "tls" / "server.pem"
    try:
        text = path.read_bytes()
    except OSError as error:
        hint = "`kwb tls make` makes it." if isinstance(error, FileNotFoundError) else "Run it as its owner."
        raise StackError(f"{path} cannot be read: {error.strerror}.", hint=hint) from error
    try:
        certificate = x509.load_pem_x509_certificate(text)
        found = describe(certificate)
    except ValueError as error:
        raise StackError(
            f"{path} is not a PEM certificate.", hint="Remove it, and `kwb tls make` makes another."
        ) from error
    if domain is None:
        prefix = f"{HOSTS[0]}."
        domain = next((n.removeprefix(prefix) for n in found.names if n.startswith(prefix)), None)
    return _checked(folder, certificate, domain and check_domain(domain), now or datetime.now(UTC))


# ── the user's own files ──────────────────────────────────────────────────────────────────────────────────────────────


def _own(folder: Path, domain: str, now: datetime) -> Held | None:
    """The user's certificate, checked; None where there is none and one may be made."""
    path, key, ca = folder / "tls" / "server.pem", folder / "tls" / "server.key", folder / "ca.pem"
    for link in (path, key, ca):
        if link.is_symlink() and not link.exists():
            raise StackError(
                f"{link} is a link to nothing that can be seen from here.",
                hint="In a container only what is in the folder can be seen: copy the file.",
            )
    text = path.read_bytes() if path.exists() else None
    if text is None:
        if key.exists():
            raise StackError(f"{key} has no certificate beside it.", hint="Put server.pem there, or remove the key.")
    elif not text.strip() or text.startswith(_MARK.encode()):
        text = None  # ours, or what a full disk left
    if text is not None:
        try:
            certificate = x509.load_pem_x509_certificate(text)
            describe(certificate)
        except ValueError as error:
            raise StackError(
                f"{path} is not a PEM certificate.",
                hint="Put one there, the server's first and the intermediate ones after it, or remove it.",
            ) from error
        if not _is_ours(certificate.issuer):
            held = _checked(folder, certificate, domain, now)
            for trouble in held.troubles:
                if trouble.fatal:
                    raise StackError(trouble.what, hint=trouble.todo)
            return held
    with contextlib.suppress(FileNotFoundError, ValueError):  # a damaged one is made anew
        own = x509.load_pem_x509_certificates(ca.read_bytes())
        if not any(_is_ours(one.subject) for one in own):
            raise StackError(
                f"{ca} is not of the authority here, and {path} is not yours.",
                hint="Put server.pem and server.key of that authority beside it, or remove ca.pem.",
            )
    return None


def _checked(folder: Path, certificate: x509.Certificate, domain: str | None, now: datetime) -> Held:
    found = describe(certificate)
    ca = folder / "ca.pem"
    authority = None
    troubles = []
    path, key = folder / "tls" / "server.pem", folder / "tls" / "server.key"
    own = not _is_ours(certificate.issuer)
    remake = "Put a newer one in its place." if own else "Run `kwb tls make`, then reload nginx."
    pair = _pair_trouble(path, key)
    if pair:
        todo = "Put the key that belongs to it there, without a passphrase." if own else remake
        troubles.append(Trouble(f"{key} {pair}.", todo, fatal=True))
    if when := found.time_trouble(now):
        troubles.append(Trouble(f"{path}: {when}.", remake))
    missing = [name for name in host_names(domain) if not found.covers(name)] if domain else []
    if missing or not found.names:
        names = ", ".join(missing) or "any name"
        todo = f"Clients of these refuse it: get one for them, or for *.{domain}." if own else remake
        troubles.append(Trouble(f"{path} is not for {names}.", todo))
    if ca.exists():
        try:
            authority = describe(x509.load_pem_x509_certificate(ca.read_bytes()))
        except ValueError:
            troubles.append(Trouble(f"{ca} is not a PEM certificate.", "Mend or remove it." if own else remake))
    refused = "" if pair else _refusal(path, key, ca if authority else None, found)
    if refused and not found.time_trouble(now):  # told already
        if authority is None:
            what = f"{path}: the authorities of this system do not vouch for it ({refused})."
            todo = "Put its intermediate certificates after it, or the private authority's certificate in ca.pem."
        else:
            what = f"{path}: {ca} does not vouch for it ({refused})."
            todo = "Put its authority's certificate in ca.pem; remove ca.pem for a public one." if own else remake
        troubles.append(Trouble(what, todo))
    return Held(found, own, authority, not pair and not refused, tuple(troubles))


def _pair_trouble(path: Path, key: Path) -> str:
    """Why a server cannot serve this pair, in words that follow the key's name; empty when it can."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path, key, password="")
    except FileNotFoundError:
        return "is missing"
    except PermissionError as error:
        return f"cannot be read: {error.strerror}"
    except ssl.SSLError as error:
        return (
            "is another certificate's key" if error.reason == "KEY_VALUES_MISMATCH" else "is not a private key in PEM"
        )
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    return ""


def _refusal(path: Path, key: Path, ca: Path | None, found: Certificate) -> str:
    """Why a client refuses the chain, by a handshake in memory with what it trusts; empty when it does not."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path, key)
    client = trusting(ca)
    name = next((n.replace("*", "any") for n in found.names), "localhost")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(3):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return error.verify_message
            except ssl.SSLError as error:
                return str(error.reason or error)
    return ""


# ── ours ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _made(domain: str, folder: Path, authority: Path, renew: bool, now: datetime) -> Made:
    done = []
    for leftover in (*(folder / "tls").glob(".server.*.*"), *folder.glob(".ca.pem.*"), *authority.glob(".ca.*.*")):
        leftover.unlink(missing_ok=True)  # of a run that was cut: it holds the lock no more
    signer, why = _load_authority(domain, authority, now)
    if signer is None:
        signer = _make_authority(domain, authority, now)
        done.append(f"Made an authority for {domain} ({why}). Give its ca.pem to every client.")
    ca, text = folder / "ca.pem", _pem(signer.certificate)
    if not ca.exists() or text not in ca.read_bytes().decode("ascii", "replace"):
        write_private(ca, text, mode=0o644)
        done.append(f"Wrote {ca}.")
    why = "asked for" if renew else _reason(domain, folder, signer, now)
    if why:
        _make_server(domain, folder / "tls", signer, now)
        done.append(f"Made {folder / 'tls' / 'server.pem'} ({why}). Reload nginx if it runs.")
    path = folder / "tls" / "server.pem"
    return Made(tuple(done), _checked(folder, x509.load_pem_x509_certificate(path.read_bytes()), domain, now))


@dataclass(frozen=True, slots=True)
class _Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def _load_authority(domain: str, folder: Path, now: datetime) -> tuple[_Authority | None, str]:
    """The authority, or why a new one is needed."""
    try:
        certificate = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
        key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
        constraints = certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    except FileNotFoundError:
        return None, "there was none here"
    except (ValueError, TypeError, x509.ExtensionNotFound):
        return None, "the one here was damaged"
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        return None, "key and certificate of the one here did not match"
    if now < certificate.not_valid_before_utc:
        raise StackError(
            f"This clock says {now:%Y-%m-%d %H:%M} UTC, before the authority of "
            f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC in {folder} was made.",
            hint="Set the clock. If it is right now and was wrong then, empty that folder and run this again.",
        )
    if certificate.not_valid_after_utc - now < timedelta(days=RENEW_DAYS):
        return None, "the one here is nearly over"
    if x509.DNSName(domain) not in (constraints.permitted_subtrees or ()):
        return None, "the one here may not sign for that domain"
    return _Authority(certificate, key), ""


def _reason(domain: str, folder: Path, signer: _Authority, now: datetime) -> str:
    """Why the server's certificate has to be made anew; empty when it has not."""
    path, key = folder / "tls" / "server.pem", folder / "tls" / "server.key"
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        found = describe(certificate)
    except FileNotFoundError:
        return "there was none"
    except ValueError:
        return "it was damaged"
    try:
        certificate.verify_directly_issued_by(signer.certificate)
    except (ValueError, TypeError, InvalidSignature):
        return "another authority had signed it"
    if now < found.not_before:
        raise StackError(
            f"This clock says {now:%Y-%m-%d %H:%M} UTC, and {path} is of {found.not_before:%Y-%m-%d %H:%M} UTC.",
            hint="Set the clock. If it is right now and was wrong then, run this with --renew.",
        )
    if found.seconds_left(now) < RENEW_DAYS * 86_400:
        return f"{max(found.days_left(now), 0)} days were left"
    if set(found.names) != set(server_names(domain)):
        return "the names differ"
    if trouble := _pair_trouble(path, key):
        return f"its key {trouble}"
    return ""


def _make_authority(domain: str, folder: Path, now: datetime) -> _Authority:
    _check_clock(now)
    key = ec.generate_private_key(ec.SECP256R1())
    # A name of its own each time: clients that hold two of one name may ask the wrong one.
    name = _name(f"Local authority {secrets.token_hex(4)} for {domain}"[:64])
    permitted = [
        x509.DNSName(domain),
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_network("127.0.0.1/32")),
        x509.IPAddress(ipaddress.ip_network("::1/128")),
    ]
    certificate = (
        _builder(name, name, key, now, timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(certificates=True), critical=True)
        .add_extension(x509.NameConstraints(permitted, None), critical=True)
        .sign(key, hashes.SHA256())
    )
    write_private(folder / "ca.pem", _pem(certificate), mode=0o644)
    write_private(folder / "ca.key", _key_pem(key))
    return _Authority(certificate, key)


def _make_server(domain: str, folder: Path, signer: _Authority, now: datetime) -> None:
    _check_clock(now)
    key = ec.generate_private_key(ec.SECP256R1())
    left = signer.certificate.not_valid_after_utc - now
    *names, address = server_names(domain)
    alternatives = [*map(x509.DNSName, names), x509.IPAddress(ipaddress.ip_address(address))]
    authority_id = signer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    certificate = (
        _builder(_name("Local stack"), signer.certificate.subject, key, now, min(left, timedelta(days=SERVER_DAYS)))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(authority_id), critical=False)
        .sign(signer.key, hashes.SHA256())
    )
    write_private(folder / "server.pem", _MARK + _pem(certificate), mode=0o644)
    write_private(folder / "server.key", _key_pem(key))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, lasts: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + lasts)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificates, key_cert_sign=certificates, crl_sign=certificates,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _name(common: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, _OURS), x509.NameAttribute(NameOID.COMMON_NAME, common)]
    )


def _is_ours(name: x509.Name) -> bool:
    return any(attribute.value == _OURS for attribute in name.get_attributes_for_oid(NameOID.ORGANIZATION_NAME))


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _check_clock(now: datetime) -> None:
    if now.year < 2025:  # this code is not older
        raise StackError(f"This clock says {now:%Y-%m-%d}.", hint="Set it: clients would refuse the certificate.")


# ── folders ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _make_folder(folder: Path) -> None:
    """Made closed to others where it is missing; one that is there keeps its owner and mode, and must be writable."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(folder, error) from error
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise _unusable(folder, PermissionError(13, "Permission denied"))


def _unusable(path: Path, error: OSError) -> StackError:
    return StackError(
        f"{path} cannot be used by user id {os.geteuid()}: {error.strerror}.",
        hint="Give that user the folder, or run this as its owner (with Docker Compose: HOST_UID, HOST_GID in .env).",
    )


def _lock(folder: Path) -> contextlib.AbstractContextManager[None]:
    return lock(folder / ".lock", "", "", wait=True)
