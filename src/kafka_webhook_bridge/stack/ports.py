"""TCP ports of the embedded servers, all on loopback."""

from __future__ import annotations

import contextlib
import random
import socket
from pathlib import Path

from kafka_webhook_bridge.errors import StackError

LOOPBACK = "127.0.0.1"
_LOWEST = 12_000
_given: set[int] = set()  # by this process: whoever asked may not listen yet
_share = slice(None)  # of the ports, for this process


def keep_to_share(index: int, shares: int) -> None:
    """Take ports of one share alone: processes that start servers side by side must not think of the same port."""
    global _share
    _share = slice(index, None, shares)


def free_ports(count: int) -> list[int]:
    """`count` ports that nobody listens on, never the same one twice.

    Taken below the range of outgoing connections: a client that keeps dialling a dead server on a port of that range
    can be given the same port as its own and connect to itself, and then the server cannot come back.
    """
    found: list[int] = []
    candidates = [port for port in random.sample(range(_LOWEST, _outgoing_low())[_share], 2_000) if port not in _given]
    for port in candidates:
        if len(found) == count:
            _given.update(found)
            return found
        if _is_free(port):
            found.append(port)
    raise StackError("There are no free ports on 127.0.0.1.", hint="End programs that listen on many ports.")


def check_free(*wanted: tuple[int, str, str]) -> None:
    """`wanted` are port, what it is for, and the option of `kwb up` that changes it. Raises StackError that names each
    port that is taken."""
    if taken := [one for one in wanted if not _is_free(one[0])]:
        filters = " or ".join(f"sport = :{port}" for port, _, _ in taken)
        options = " ".join(f"--{option} N" for _, _, option in taken)
        raise StackError(
            "\n".join(f"Port {port} for {what} is taken by another program." for port, what, _ in taken),
            hint=f"End that program (`ss -ltnp '{filters}'` shows it), or choose others: {options}, or --free-ports.",
        )


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As Java and PostgreSQL do: connections of the previous run that still linger are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def _outgoing_low() -> int:
    with contextlib.suppress(OSError, ValueError):
        low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
        if low > _LOWEST + 2_000:
            return low
    return 32_768
