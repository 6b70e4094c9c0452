"""Health as product.md section 1 defines it: ready, degraded (one durable place left), unavailable or draining."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["ready", "degraded", "unavailable"]
_WORSE: tuple[Status, ...] = ("ready", "degraded", "unavailable")


@dataclass(frozen=True, slots=True)
class Part:
    """One thing the bridge stands on. `reason` is a sentence, empty while ready.

    `durable` marks a place where an event can become durable before its answer; without one the
    bridge can accept nothing.
    """

    name: str
    status: Status
    reason: str = ""
    durable: bool = False


def merge(parts: Iterable[Part]) -> list[Part]:
    """One part per name: the worst that any process reports."""
    worst: dict[str, Part] = {}
    for part in parts:
        known = worst.get(part.name)
        if known is None or _WORSE.index(part.status) > _WORSE.index(known.status):
            worst[part.name] = part
    return list(worst.values())


def summarise(parts: Iterable[Part], draining: bool) -> tuple[int, dict[str, Any]]:
    """HTTP status and JSON body of /health/ready. Parts of the same name are merged."""
    merged = merge(parts)
    status: str
    if draining:
        status = "draining"
    elif all(part.status == "unavailable" for part in merged if part.durable):
        status = "unavailable"  # also when no part is a durable place
    elif any(part.status != "ready" for part in merged):
        status = "degraded"
    else:
        status = "ready"
    body = {
        "status": status,
        "parts": {part.name: {"status": part.status, "reason": part.reason} for part in merged},
    }
    return (200 if status in {"ready", "degraded"} else 503), body
