"""Certificates judged as Kafka's clients judge them, wherever this code speaks TLS to a broker or a door itself."""

from __future__ import annotations

import ssl
from pathlib import Path


def trusting(ca: Path | str | None) -> ssl.SSLContext:
    """For a client that trusts the authorities in the PEM file `ca`, or the system's, and checks the name.

    Raises OSError for a file that cannot be read, its kind ssl.SSLError for one without a certificate.
    """
    context = ssl.create_default_context(cafile=ca or None)
    # Python asks for it since 3.13: it refuses chains without key identifiers. librdkafka and Java take them.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context
