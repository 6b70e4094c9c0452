"""Bytes that came from outside, shown to people and told to machines. Callers pass what they print through `safe`."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Sequence

from kafka_webhook_bridge.body import NOT_JSON, parse_json
from kafka_webhook_bridge.cli.output import Output, safe

TEXT_BYTES_MAX = 64 * 1024  # shown on a terminal
HEX_BYTES_MAX = 1024
_HEX_WIDTH = 16
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+')


def shown(body: bytes) -> tuple[str, list[str], int]:
    """How people see a body: what it is (`JSON`, `text`, `bytes`), its lines, and how many bytes were left out."""
    text = _as_text(body)
    if text is None:
        return "bytes", list(_hex(body[:HEX_BYTES_MAX])), max(0, len(body) - HEX_BYTES_MAX)
    kind = "text" if parse_json(body) is NOT_JSON else "JSON"
    if kind == "JSON" and len(body) <= TEXT_BYTES_MAX:
        return kind, pretty(text), 0
    part = body[:TEXT_BYTES_MAX].decode(errors="ignore")
    return kind, part.removesuffix("\n").split("\n"), len(body) - len(part.encode())


def say_request(
    out: Output, method: str, target: str, headers: Iterable[Sequence[str]], body: bytes, whole: str
) -> None:
    """A request for people. `headers` are as `events.headers` has them; `whole` is the command that shows all bytes."""
    out.say()
    out.say(safe(f"{method} {target}"), "bold")
    for name, value, *exact in headers:
        out.say(safe(f"{name}: {value}{f'  (not UTF-8; base64 {exact[0]})' if exact else ''}"))
    out.say()
    kind, lines, left_out = shown(body)
    out.say(f"body: {len(body)} bytes{f', {kind}' if body else ''}", "bold")
    for line in lines if body else ():
        out.say(line)
    if left_out:
        out.note(f"{left_out} bytes more; all of them: {whole}")


def preview(body: bytes, bytes_max: int) -> str:
    """The first bytes on one line."""
    text = body[:bytes_max].decode(errors="replace")
    return text + "…" if len(body) > bytes_max else text


def for_json(name: str, value: bytes | None) -> dict[str, str | None]:
    """A member for machines: `name` where the bytes are UTF-8, else `<name>_base64`."""
    if value is None:
        return {name: None}
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(value).decode()}


def pretty(document: str) -> list[str]:
    """A JSON document in indented lines. Every number and string stays as it was written, every member in its place."""
    lines, line, depth = [], "", 0
    parts = _TOKEN.findall(document)
    for part, following in zip(parts, [*parts[1:], ""], strict=True):
        if part in "{[" and following in ("}", "]"):
            line += part
        elif part in "{[":
            lines.append(line + part)
            depth += 1
            line = "  " * depth
        elif part in "}]":
            if not line.endswith(("{", "[")):
                lines.append(line)
                depth -= 1
                line = "  " * depth
            line += part
        elif part == ",":
            lines.append(line + part)
            line = "  " * depth
        else:
            line += ": " if part == ":" else part
    return [*lines, line]


def _as_text(body: bytes) -> str | None:
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    return None if _CONTROLS.search(text) else text


def _hex(body: bytes) -> Iterator[str]:
    for start in range(0, len(body), _HEX_WIDTH):
        row = body[start : start + _HEX_WIDTH]
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        yield f"{start:08x}  {row.hex(' '):<{3 * _HEX_WIDTH}} {text}"
