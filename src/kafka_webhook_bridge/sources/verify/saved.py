"""A request as people save it: the raw text of HTTP/1.1, request line, headers, a blank line, and the body as bytes.

Lenient where a copy is never exact: line ends may be LF, the request line may lack its version, the marks `> ` of
`curl -v` are taken away. The body is everything behind the blank line, to the byte.
"""

from __future__ import annotations

import re
from typing import Final

from kafka_webhook_bridge.event import Request
from kafka_webhook_bridge.sources.verify.case import CaseError

SAVED_BYTES_MAX: Final = 12 * 1024**2
HEADER_BYTES_MAX: Final = 64 * 1024

_BLANK = re.compile(rb"\r?\n[ \t]*\r?\n")
_MARKED = re.compile(rb"\r?\n>[ \t]*\r?\n")
_START = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,50}) (\S+)(?: HTTP/[0-9.]+)?[ \t]*")
_NAME = re.compile(rb":?[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def parse_saved(data: bytes) -> Request:
    """The request of a saved text. Raises CaseError with a sentence that says which line is wrong."""
    head, body = _parts(data)
    lines = [line.removesuffix(b"\r") for line in head.split(b"\n")]
    if lines[0].startswith(b"> "):
        lines = [line.removeprefix(b"> ") for line in lines]
    start = _START.fullmatch(lines[0])
    if start is None:
        raise CaseError("line 1 is no request line, such as `POST /shopify HTTP/1.1`")
    method, target = start.groups()
    headers = []
    for number, line in enumerate(lines[1:], 2):
        name, colon, value = line[1:].partition(b":")  # HTTP/2's names begin with one
        name = (line[:1] + name).rstrip(b" \t")
        if not colon or not _NAME.fullmatch(name):
            raise CaseError(
                f"line {number} is no header, such as `X-Signature: 0a1b`, and no blank line came before it"
            )
        headers.append((name, value.strip(b" \t")))
    if b"://" in target[:10]:
        target = b"/" + target.split(b"/", 3)[3] if target.count(b"/") > 2 else b"/"
    path, mark, query = target.partition(b"?")
    return Request(method, path, query if mark else None, headers, _unchunked(headers, body), "")


def host_of(request: Request) -> str | None:
    """`scheme://host` as the request itself tells it; https unless a proxy's header says otherwise."""
    found = {name.lower(): value.decode("latin-1").split(",")[0].strip() for name, value in request.headers}
    host = found.get(b"x-forwarded-host") or found.get(b"host") or found.get(b":authority") or ""
    scheme = found.get(b"x-forwarded-proto", "https").lower()
    if not re.fullmatch(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?", host):
        return None
    return f"{scheme if scheme in ('http', 'https') else 'https'}://{host}"


def _parts(data: bytes) -> tuple[bytes, bytes]:
    data = data.lstrip(b"\r\n")
    blank = (_MARKED if data.startswith(b"> ") else _BLANK).search(data[: HEADER_BYTES_MAX + 4])
    if blank is not None:
        return data[: blank.start()], data[blank.end() :]
    head = data.rstrip(b"\r\n")
    if len(head) > HEADER_BYTES_MAX:
        raise CaseError("there is no blank line between headers and body")
    return head, b""


def _unchunked(headers: list[tuple[bytes, bytes]], body: bytes) -> bytes:
    """The body without the chunks' sizes, where the copy was taken from the wire; else as it is."""
    if not any(name.lower() == b"transfer-encoding" and b"chunked" in value.lower() for name, value in headers):
        return body
    joined: list[bytes] = []
    at = 0
    while match := re.compile(rb"([0-9A-Fa-f]{1,8})[^\r\n]*\r\n").match(body, at):
        size, at = int(match[1], 16), match.end()
        if size == 0:
            return b"".join(joined)
        if body[at + size : at + size + 2] != b"\r\n":
            return body
        joined.append(body[at : at + size])
        at += size + 2
    return body
