"""One X.509 certificate in words: for whom it is, who signed it, how long it is good for.

One place reads for all who tell it: `kwb tls`, `kwb doctor`, the metric and its log lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509

NEAR_DAYS = (30, 7, 1)  # so many days before the end it is told, each time more urgently
URGENT_DAYS = NEAR_DAYS[1]
DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says of itself. `names` are DNS names and addresses, in its own order; times are UTC."""

    names: tuple[str, ...]
    subject: str
    issuer: str
    not_before: datetime
    not_after: datetime

    def seconds_left(self, now: datetime | None = None) -> float:
        """Until it ends; below 0 when it has ended."""
        return (self.not_after - (now or datetime.now(UTC))).total_seconds()

    def days_left(self, now: datetime | None = None) -> int:
        """Whole days until it ends, rounded down; below 0 when it has ended."""
        return int(self.seconds_left(now) // DAY_S)

    def covers(self, name: str) -> bool:
        """Whether a client that asks for `name` is content: itself, or a `*.` in place of its first label."""
        _, _, parent = name.partition(".")
        return any(own.lower() in {name.lower(), f"*.{parent}".lower()} for own in self.names)

    def time_trouble(self, now: datetime | None = None) -> str:
        """What is wrong with its time, empty when nothing is: not yet good, ended, or near its end."""
        now = now or datetime.now(UTC)
        if now < self.not_before:
            return f"it is not good before {self.not_before:%Y-%m-%d %H:%M} UTC"
        if now >= self.not_after:
            return f"it has expired on {self.not_after:%Y-%m-%d %H:%M} UTC"
        if self.seconds_left(now) < URGENT_DAYS * DAY_S:
            return f"it expires on {self.not_after:%Y-%m-%d %H:%M} UTC"
        return ""


def read_pem(text: bytes) -> Certificate:
    """The first certificate of a PEM text, as a file holds it. Raises ValueError when there is none."""
    return describe(x509.load_pem_x509_certificate(text))


def read_der(data: bytes) -> Certificate:
    """A certificate in DER, as a handshake brings it. Raises ValueError when it is none."""
    return describe(x509.load_der_x509_certificate(data))


def describe(certificate: x509.Certificate) -> Certificate:
    """The words for a certificate. Raises ValueError when its extensions cannot be read."""
    try:
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names: tuple[str, ...] = ()  # today's clients do not look at the common name
    else:
        names = (
            *alternatives.get_values_for_type(x509.DNSName),
            *map(str, alternatives.get_values_for_type(x509.IPAddress)),
        )
    return Certificate(
        names,
        certificate.subject.rfc4514_string(),
        certificate.issuer.rfc4514_string(),
        certificate.not_valid_before_utc,
        certificate.not_valid_after_utc,
    )
