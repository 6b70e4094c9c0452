"""Stopping without leaving a request unanswered (rules.md 23).

1. For a grace period everything goes on, every answer says `Connection: close`, and /health/ready says `draining`.
2. New connections are turned away before they exist: a filter on the listening socket drops SYN packets, so a
   client's kernel tries again and then meets a closed port. Closing at once would reset connections that already
   carry a request in the accept queue.
3. The accept queue is emptied, the socket closed, idle connections half-closed, the rest answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import socket
import struct

from kafka_webhook_bridge.ingest.accept import Edge
from kafka_webhook_bridge.ingest.door import Door
from kafka_webhook_bridge.observability import logs

_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27  # asm-generic/socket.h
_HANDSHAKES_S = 0.3  # for connections whose SYN was answered before the filter
_POLL_S = 0.02

# Classic BPF over the TCP header (linux/filter.h): drop what has SYN without ACK, pass everything else.
_DROP_SYN = (
    (0x30, 0, 0, 13),  # A = byte 13: the flags
    (0x54, 0, 0, 0x12),  # A &= SYN | ACK
    (0x15, 0, 1, 0x02),  # SYN alone?
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFFFFFF),  # pass
)


def turn_away(listener: socket.socket) -> bool:
    """Drop connection attempts to a listening socket from now on. False where the kernel offers no such filter."""
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _DROP_SYN))
    option = struct.pack("HL", len(_DROP_SYN), ctypes.addressof(program))
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, option)
    except OSError:
        return False
    return True


def take_in(listener: socket.socket) -> None:
    """Undo `turn_away`: the socket outlives a process that was told to drain while its supervisor goes on."""
    with contextlib.suppress(OSError):  # there was no filter
        listener.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)


async def drain(edge: Edge, door: Door, listener: socket.socket, grace_ms: int, timeout_ms: int) -> None:
    """Both phases; returns when every connection is closed or the time is up."""
    log = logs.get_logger("ingest")
    edge.draining = True
    end = asyncio.get_running_loop().time() + timeout_ms / 1000
    await asyncio.sleep(grace_ms / 1000)
    if turn_away(listener):
        await asyncio.sleep(_HANDSHAKES_S)
    door.close()
    listener.close()
    edge.finish()
    while edge.connections and asyncio.get_running_loop().time() < end:
        await asyncio.sleep(_POLL_S)
        edge.finish()
    log.info("drained", connections_left=edge.connections, waiting=len(edge.deliver))
