"""What operators write, taken apart: sizes, servers, URLs, secrets. Every error is a sentence that shows no secret."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Callable, Iterator
from urllib.parse import parse_qs, urlsplit

_UNITS = {"": 1, "B": 1, "KIB": 1024, "MIB": 1024**2, "GIB": 1024**3, "KB": 1000, "MB": 1000**2, "GB": 1000**3}
_SIZE = re.compile(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([KMG]i?B|B)?\s*", re.IGNORECASE | re.ASCII)


def parse_size(text: str) -> int:
    """Bytes of `5MiB`, `512 KB` or `1024`. Raises ValueError with a sentence for people."""
    match = _SIZE.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is not a size: write bytes, or a number with KB, MB, GB (KiB, MiB, GiB)")
    return int(float(match[1]) * _UNITS[(match[2] or "").upper()])


def is_unicode(text: str) -> bool:
    """False where there are lone surrogates: so Python shows bytes of the environment that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def parse_boolean(text: str) -> bool:
    """The truth that `text` means. Raises ValueError with a sentence for people."""
    lower = text.strip().lower()
    if lower in {"1", "true", "yes", "on"}:
        return True
    if lower in {"0", "false", "no", "off"}:
        return False
    raise ValueError(f"{text!r} is neither true nor false")


def number_parser(kind: Callable[[str], int | float], words: str) -> Callable[[str], int | float]:
    """A parser of finite numbers; its ValueError says that the text is not what `words` say."""

    def parse(text: str) -> int | float:
        try:
            value = kind(text.strip().replace("_", ""))
        except ValueError:
            raise ValueError(f"{text!r} is not {words}") from None
        if not math.isfinite(value):
            raise ValueError(f"{text!r} is not {words}")
        return value

    return parse


SECRET_KEY_CHARACTERS_MIN = 32

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:]*)(:(\d{1,5}))?")


def check_postgres_url(url: str) -> None:
    """Raises ValueError with a sentence that shows nothing of the URL: a password may stand anywhere in a wrong one."""
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    hosts = [_HOST.fullmatch(host) for host in parts.netloc.rpartition("@")[2].split(",")]
    if (
        parts.scheme not in {"postgresql", "postgres"}
        or parts.fragment
        or not (parts.netloc or "host=" in parts.query)  # a socket's folder
        or not all(host and int(host[3] or 0) <= 65535 for host in hosts)
    ):
        example = "postgresql://user:password@host:5432/database"
        raise ValueError(f"is not of the form {example}; special characters of a password are percent-encoded")


def check_secret_key(key: str) -> None:
    """Raises ValueError for a key that could be guessed."""
    if len(key) < SECRET_KEY_CHARACTERS_MIN:
        raise ValueError(
            f"is shorter than {SECRET_KEY_CHARACTERS_MIN} characters; `openssl rand -base64 32` makes a right one"
        )


def parse_servers(text: str) -> list[tuple[str, int]]:
    """Host and port of each of `host:port, [::1]:port, …`. Raises ValueError with a sentence for people."""
    found = []
    for server in filter(None, map(str.strip, text.split(","))):
        host = _HOST.fullmatch(server)
        if host is None or not host[1] or not 0 < int(host[3] or 0) < 65536:
            raise ValueError(f"{server!r} is not host:port")
        found.append((host[1].strip("[]"), int(host[3])))
    return found


def has_password(url: str) -> bool:
    """Whether a URL of PostgreSQL brings its own password."""
    return urlsplit(url).password is not None or bool(url_option(url, "password"))


def url_option(url: str, name: str) -> str:
    """The last value of `name` in a URL's query; empty where there is none."""
    return parse_qs(urlsplit(url).query).get(name, [""])[-1]


def is_pem(text: str) -> bool:
    """Whether it is PEM itself, not the path of a file."""
    return text.lstrip().startswith("-----BEGIN ")


@contextlib.contextmanager
def pem_file(text: str) -> Iterator[str]:
    """The path that `text` is, or one of a file in memory that holds the PEM: libraries take nothing else."""
    if not is_pem(text):
        yield text
        return
    fd = os.memfd_create("pem")
    try:
        with os.fdopen(os.dup(fd), "w") as file:
            file.write(text)
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def parse_variables(text: str) -> dict[str, str]:
    """Names and texts of a JSON object. Raises ValueError with a sentence that shows no value."""
    try:
        found = json.loads(text)
    except ValueError as error:
        why = f"{error.msg} in line {error.lineno}" if isinstance(error, json.JSONDecodeError) else "nested too deep"
        raise ValueError(f"is not JSON: {why}") from None
    except RecursionError:
        raise ValueError("is not JSON: nested too deep") from None
    if not isinstance(found, dict):
        raise ValueError('is not a JSON object, such as {"SHOP_SECRET": "…"}')
    for name, value in found.items():
        if not isinstance(value, str):
            raise ValueError(f"{name}: is not text; write it in quotes")
    return found
