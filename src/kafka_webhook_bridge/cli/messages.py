"""The requests of `kwb send`: their bytes, and what people may say about them."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from kafka_webhook_bridge.errors import UsageError

if TYPE_CHECKING:
    from kafka_webhook_bridge.cli.openloop import Message, Target
    from kafka_webhook_bridge.settings import Settings

SIZE_BYTES_MIN: Final = 128
SIZE_BYTES_MAX: Final = 64 * 1024**2
TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
BODILESS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_ID_BYTES = 19
_CONTENT_TYPES = {
    ".json": "application/json",
    ".xml": "application/xml",
    ".form": "application/x-www-form-urlencoded",
    ".txt": "text/plain; charset=utf-8",
}


class Place(NamedTuple):
    """Where requests go: `path` is the target of the request line behind the prefix of `target`'s URL."""

    target: Target
    path: str

    @property
    def url(self) -> str:
        """The whole address."""
        return self.target.url + self.path


def place_of(source: str, url: str, path: str, ca: str) -> Place:
    """The place of a source behind `url`, or of a whole address that stands instead of the source's name."""
    from urllib.parse import quote

    from kafka_webhook_bridge.cli.openloop import parse_url

    if is_url(source):
        head, slash, rest = source.partition("://")[2].partition("/")
        if path:
            raise UsageError("--path belongs to a source; an address has its own")
        if "?" in head:
            head, _, query = head.partition("?")
            slash, rest = "/?", query
        return Place(parse_url(f"{source.partition('://')[0]}://{head}", ca), _checked(slash + rest or "/", source))
    if path and path[0] not in "/?":
        path = "/" + path
    return Place(parse_url(url, ca), "/" + quote(source, safe="") + _checked(path, "--path " + path))


def is_url(source: str) -> bool:
    """Whether an address stands where a source's name could."""
    return source.startswith(("http://", "https://"))


def _checked(path: str, what: str) -> str:
    if not path.isascii() or not path.isprintable() or " " in path or "#" in path:
        raise UsageError(f"{what!r} has bytes that a request target cannot have", hint="Percent-encode them.")
    return path


class Messages:
    """Makes the requests: all alike but for the id in bodies that are made here. `login` is `user:password`."""

    def __init__(
        self, place: Place, *, login: str, method: str, headers: list[str], content_type: str, body: str, size: str
    ) -> None:
        import secrets

        from kafka_webhook_bridge.cli.openloop import Message

        self._message = Message
        self.run = secrets.token_hex(4)
        self.method = method
        self._fixed: tuple[bytes, str] | None = None
        self._before, self._after = b"", b""
        if body or method in BODILESS:
            data = read_body(body) if body else b""
            length, guess = len(data), guess_type(body, data) if body else ""
        else:
            self._before, self._after = _template(_size(size))
            length, guess, data = len(self._before) + _ID_BYTES + len(self._after), "application/json", None
        own = [own_header(header) for header in headers]
        lines = first_lines(place, login, content_type or guess, own)
        if length or method not in BODILESS:
            lines.append((b"Content-Length", b"%d" % length))
        head = head_of(method, place.target.prefix + place.path, lines)
        if data is not None:
            self._fixed = head + data, sha256_of(data)
        self._start = head

    def make(self, seq: int) -> Message:
        """Request number `seq`."""
        request_id = f"{self.run}-{seq:010d}"
        if self._fixed:
            return self._message(request_id, *self._fixed)
        body = self._before + request_id.encode() + self._after
        return self._message(request_id, self._start + body, sha256_of(body))


def first_lines(place: Place, login: str, content_type: str, own: list[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """The header lines of every request: this command's, then `own`, which take the place of its of the same name."""
    from base64 import b64encode

    from kafka_webhook_bridge import __version__

    lines = {"host": ("Host", place.target.authority), "user-agent": ("User-Agent", f"kwb-send/{__version__}")}
    lines["accept"] = ("Accept", "*/*")
    if content_type:
        lines["content-type"] = ("Content-Type", _value("--content-type", content_type))
    if login:
        lines["authorization"] = ("Authorization", f"Basic {b64encode(login.encode()).decode()}")
    for name, _ in own:
        lines.pop(name.lower(), None)
    return [(name.encode(), value.encode()) for name, value in [*lines.values(), *own]]


def head_of(method: str, path: str, lines: list[tuple[bytes, bytes]]) -> bytes:
    """Request line and headers."""
    head = b"".join(b"%s: %s\r\n" % line for line in lines)
    return f"{method} {path} HTTP/1.1\r\n".encode() + head + b"\r\n"


def login_of(settings: Settings) -> str:
    """The bridge's Basic credentials, `user:password`; empty where there are none."""
    bridge = settings.bridge
    password = bridge.password.get_secret_value() if bridge.password else ""
    return f"{bridge.username}:{password}" if bridge.username or password else ""


def _template(size: int) -> tuple[bytes, bytes]:
    """What stands before and after the id in a made body of `size` bytes."""
    before = b'{"id":"'
    after = b'","type":"kwb.test","order":{"number":"A-10042","currency":"EUR","total":"129.90"},"padding":"'
    end = b'"}'
    return before, after + b"." * (size - len(before) - _ID_BYTES - len(after) - len(end)) + end


def read_body(body: str) -> bytes:
    """The content of --body."""
    try:
        return sys.stdin.buffer.read() if body == "-" else Path(body).read_bytes()
    except OSError as error:
        raise UsageError(f"--body {body}: {error.strerror}") from None


def sha256_of(body: bytes) -> str:
    """The hex digest."""
    import hashlib

    return hashlib.sha256(body).hexdigest()


def guess_type(name: str, body: bytes) -> str:
    """The Content-Type of a file."""
    known = _CONTENT_TYPES.get(Path(name).suffix.lower())
    return known or ("application/json" if body.lstrip()[:1] in {b"{", b"["} else "application/octet-stream")


def own_header(text: str) -> tuple[str, str]:
    """Name and value of --header."""
    name, colon, value = text.partition(":")
    name = name.strip()
    if not colon or not TOKEN.fullmatch(name):
        raise UsageError("--header takes 'Name: value'")
    if name.lower() == "authorization":
        raise UsageError(
            "credentials are not taken from the command line",
            hint="Set WEBHOOK_USERNAME and WEBHOOK_PASSWORD in the environment.",
        )
    if name.lower() in {"content-length", "transfer-encoding", "connection"}:
        raise UsageError(f"{name} is this command's own")
    return name, _value(f"--header {name}", value.strip())


def _value(option: str, text: str) -> str:
    if any(c in text for c in "\r\n\0"):
        raise UsageError(f"{option}: a value cannot have line ends")
    return text


def _size(text: str) -> int:
    from kafka_webhook_bridge.texts import parse_size

    try:
        size = parse_size(text or "1KiB")
    except ValueError as error:
        raise UsageError(f"--size: {error}") from None
    if not SIZE_BYTES_MIN <= size <= SIZE_BYTES_MAX:
        raise UsageError(
            f"--size {text}: between {SIZE_BYTES_MIN} bytes and {SIZE_BYTES_MAX >> 20} MiB",
            hint="A made body has an id in it; --body sends any bytes.",
        )
    return size
