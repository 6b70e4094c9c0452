"""The authorities of Amazon RDS that the image trusts: `python authorities.py BUNDLE > rds.pem`, in the image's build.

What the bundle holds beside valid authorities is left out. Ends with 1, and the build with it, when none is left: an
image without them could reach no database. Needs the standard library alone.
"""

from __future__ import annotations

import re
import ssl
import sys
import time
from pathlib import Path

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")
_OWNER = "Amazon RDS"  # organizational unit of each of them


def main(path: str) -> int:
    """PEM on standard output, one line about it on standard error."""
    bundle = _PEM.findall(Path(path).read_text(encoding="utf-8"))
    now = time.time()
    good = list(dict.fromkeys(one.strip() for one in bundle if is_authority(one, now)))
    if not good:
        print(f"error: none of the {len(bundle)} certificates in {path} is a valid authority of RDS.", file=sys.stderr)
        print(
            "hint: give another bundle by --build-arg RDS_CA_URL=…, AWS's own page names its address.", file=sys.stderr
        )
        return 1
    print(f"{len(good)} authorities of RDS, of {len(bundle)} certificates", file=sys.stderr)
    print("\n".join(good))
    return 0


def is_authority(pem: str, now: float) -> bool:
    """Whether it may sign servers' certificates at this time, in seconds since 1970, and is of RDS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=pem)
        found = context.get_ca_certs()  # authorities alone
    except (ssl.SSLError, ValueError):
        return False
    return any(
        ssl.cert_time_to_seconds(str(one["notBefore"])) <= now < ssl.cert_time_to_seconds(str(one["notAfter"]))
        and ("organizationalUnitName", _OWNER) in [pair for part in one["subject"] for pair in part]
        for one in found
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
