"""What senders send: bodies for the profiles that most people use, and a small one for every other.

Packaged TOML, one file a provider, made up and stable but for what differs from delivery to delivery:

    $uuid   a UUID                     $time     now, Unix seconds
    $id     sixteen hex digits         $time_ms  now, Unix milliseconds
    $number a number of fifteen digits $iso      now, RFC 3339 in UTC

`${id}` where letters follow. Each has one value in one request. Bodies keep the blanks and escapes of their senders.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise
from pathlib import Path
from string import Template
from typing import Any, Final, NamedTuple

from kafka_webhook_bridge.sources.keys import Part, parse_template
from kafka_webhook_bridge.sources.profile import HASH, Profile

FOLDER: Final = Path(__file__).parent / "samples"
_JSON: Final = "application/json"


class Sample(NamedTuple):
    """One event as text with marks. `handshake`: it is answered and no event, so it is sent only by name."""

    type: str
    content_type: str
    headers: Mapping[str, str]
    body: str
    handshake: bool = False


class Rendered(NamedTuple):
    """One event as bytes; headers without Content-Type."""

    content_type: str
    headers: list[tuple[bytes, bytes]]
    body: bytes


def samples_of(profile: Profile) -> list[Sample]:
    """The samples of a profile; one made from what its row reads where there are none."""
    file = _index().get(profile.name)
    return list(_file(file)) if file is not None else [plain_sample(profile)]


def has_samples(profile: Profile) -> bool:
    """Whether there are bodies as its sender writes them."""
    return profile.name in _index()


def marks(unique: str, now: float) -> dict[str, str]:
    """The values of one request. `unique` are 32 hex digits that no other has, `now` is Unix time (s)."""
    return {
        "uuid": f"{unique[:8]}-{unique[8:12]}-4{unique[13:16]}-8{unique[17:20]}-{unique[20:]}",
        "id": unique[-16:],
        "number": str(10**14 + int(unique, 16) % (9 * 10**14)),
        "time": str(int(now)),
        "time_ms": str(int(now * 1000)),
        "iso": datetime.fromtimestamp(int(now), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def render(sample: Sample, values: Mapping[str, str]) -> Rendered:
    """The sample with the values of `marks`."""
    headers = [
        (name.encode(), Template(text).safe_substitute(values).encode()) for name, text in sample.headers.items()
    ]
    return Rendered(sample.content_type, headers, Template(sample.body).safe_substitute(values).encode())


def plain_sample(profile: Profile, event: str = "kwb.test") -> Sample:
    """A small JSON event in which stands whatever the profile's templates read."""
    body: dict[str, Any] = {"id": "$uuid", "type": event, "created_at": "$iso", "data": {"order": "A-10042"}}
    headers: dict[str, str] = {}
    facts = profile.event
    for templates, value in ((facts.key, "A-10042"), (facts.delivery_id, "$uuid"), (facts.type, event)):
        for part in _parts(templates):
            name = part.name.decode()
            if part.kind == "header":
                headers[name] = value
            elif part.kind == "json" and "*" not in part.path and not part.path[0].isdigit():
                _put(body, part.path, value)
    return Sample(event, _JSON, headers, json.dumps(body, separators=(",", ":")))


def _parts(templates: Sequence[str] | None) -> list[Part]:
    """What the first of several templates reads."""
    if not templates or templates[0] == HASH:
        return []
    return [part for part in parse_template(templates[0]).parts if isinstance(part, Part)]


def _put(document: dict[str, Any], path: tuple[str, ...], value: str) -> None:
    inside: Any = document
    for step, following in pairwise(path):
        empty: Any = [] if following.isdigit() else {}
        if isinstance(inside, list):
            inside.extend([{}] * (int(step) + 1 - len(inside)))
            inside[int(step)] = inside[int(step)] or empty
            inside = inside[int(step)]
            continue
        if not isinstance(inside.get(step), type(empty)):
            inside[step] = empty
        inside = inside[step]
    if isinstance(inside, list):
        inside.append(value)
    else:
        inside[path[-1]] = value


@cache
def _index() -> Mapping[str, str]:
    """Name of a profile → its file's stem."""
    found: dict[str, str] = {}
    for path in sorted(FOLDER.glob("*.toml")):
        names = re.search(r"^profiles = (\[[^\]]*\])", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert names is not None, path
        found |= dict.fromkeys(json.loads(names[1]), path.stem)
    return found


@cache
def _file(stem: str) -> tuple[Sample, ...]:
    data = tomllib.loads((FOLDER / f"{stem}.toml").read_text(encoding="utf-8"))
    return tuple(
        Sample(
            event["type"],
            data.get("content_type", _JSON),
            {**data.get("headers", {}), **event.get("headers", {})},
            event["body"],
            event.get("handshake", False),
        )
        for event in data["events"]
    )
