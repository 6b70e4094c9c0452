"""Finding the signatures and the signed time of a request.

`signature` and `timestamp` of a row become functions when it loads. A signature counts only if it is written exactly as
the row says: hex of either case, base64 in its one canonical spelling. Items that are of another form are left out, as
senders add schemes; if none is left the request is refused, and so it is with more than are tried.
"""

from __future__ import annotations

import re
from binascii import Error as BinasciiError
from binascii import a2b_base64, b2a_base64, unhexlify
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

from kafka_webhook_bridge.sources.verify.model import Place, Signature, Timestamp
from kafka_webhook_bridge.sources.verify.request import Signed
from kafka_webhook_bridge.sources.verify.verdict import Absent, Refused

SIGNATURES_MAX: Final = 20
NUMBERED_MAX: Final = 100  # DocuSign: one header for each key of an account

Decode = Callable[[bytes], bytes]
Find = Callable[[Signed], list[bytes]]
Read = Callable[[Signed], bytes]
Check = Callable[[Signed, float], None]


def decode_base64(text: bytes) -> bytes:
    """The bytes of canonical, padded base64. Raises ValueError."""
    raw = a2b_base64(text, strict_mode=True)
    if b2a_base64(raw, newline=False) != text:
        raise ValueError("not canonical")
    return raw


_NOT_URL = re.compile(rb"[+/=]")
_TO_STANDARD = bytes.maketrans(b"-_", b"+/")


def decode_base64url(text: bytes) -> bytes:
    """The bytes of canonical base64url without padding. Raises ValueError."""
    if _NOT_URL.search(text):
        raise ValueError("not base64url")
    return decode_base64(text.translate(_TO_STANDARD) + b"=" * (-len(text) % 4))


def _decode_base64_of_hex(text: bytes) -> bytes:
    return unhexlify(decode_base64(text))


DECODERS: Final[dict[str, Decode]] = {
    "hex": unhexlify,
    "base64": decode_base64,
    "base64url": decode_base64url,
    "base64-of-hex": _decode_base64_of_hex,
}


def compile_place(place: Place) -> Read:
    """The function that reads one value, without its `strip_prefix`. It raises Refused."""
    read = _reader(place)
    if place.strip_prefix is None:
        return read
    prefix = place.strip_prefix.lower().encode()
    size = len(prefix)

    def stripped(signed: Signed) -> bytes:
        value = read(signed)
        if value[:size].lower() != prefix or len(value) == size:
            raise Refused("signature.malformed", "not with the prefix that the profile names")
        return value[size:]

    return stripped


def _reader(place: Place) -> Read:
    if place.from_ == "header":
        name = (place.name or "").lower().encode()
        return lambda signed: signed.need_header(name)
    if place.from_ == "json":
        path = tuple((place.path or "").split("."))
        return lambda signed: _there(signed.member(path), "signature.malformed", place.path)
    if place.from_ == "query":
        wanted = (place.name or "").encode()
        return lambda signed: _there(signed.query(wanted), "signature.malformed", place.name)
    if place.from_ == "form":
        field = (place.name or "").encode()
        return lambda signed: _there(signed.form(field), "signature.malformed", place.name)
    return lambda signed: _there(signed.body or None, "signature.malformed", "the body")


def _there(value: bytes | None, code: str, name: str | None) -> bytes:
    if value is None:
        raise Absent(code, f"{name} is absent")
    return value


def compile_signatures(signature: Signature, wanted: frozenset[str] = frozenset()) -> Find:
    """The function that finds the signatures, still encoded but without names and prefixes.

    With `field = "*"` an item keeps its name. Items called as in `wanted` go to `signed.fields`. It raises Refused.
    """
    read = compile_place(signature)
    values = _values(signature, read)
    limit = NUMBERED_MAX if signature.also_pattern else SIGNATURES_MAX
    if signature.separator is None and signature.separator_pattern is None and signature.pair is None:
        bare = _prefixed(signature)
        if values is None and bare is None:
            return lambda signed: [read(signed)]
    split = _splitter(signature)
    take = _taker(signature, frozenset(name.encode() for name in wanted))

    def find(signed: Signed) -> list[bytes]:
        lines = values(signed) if values is not None else [read(signed)]
        items = [item.strip(b" \t") for line in lines for item in split(line)]
        found = take(signed, items)
        if not found:
            raise Refused("signature.malformed", "no signature of the expected scheme")
        if len(found) > limit:
            raise Refused("signature.too_many", f"more than {limit}")
        return found

    return find


def _values(signature: Signature, read: Read) -> Callable[[Signed], list[bytes]] | None:
    """All header lines that may hold signatures, or None where there is but one."""
    if not signature.also and signature.also_pattern is None:
        return None
    names = [(signature.name or "").lower().encode(), *(name.lower().encode() for name in signature.also)]
    pattern = None
    if signature.also_pattern is not None:
        start = signature.also_pattern.lower().removesuffix("{n}")
        pattern = re.compile(re.escape(start.encode()) + rb"(?:[1-9][0-9]?|100)")

    def values(signed: Signed) -> list[bytes]:
        wanted = list(names)
        if pattern is not None:
            wanted += {lower for line, _ in signed.headers if pattern.fullmatch(lower := line.lower())} - set(names)
        found = [value for name in wanted if (value := signed.header(name)) is not None]
        if not found:
            raise Absent("header.missing", names[0].decode())
        return found

    return values


def _splitter(signature: Signature) -> Callable[[bytes], list[bytes]]:
    if signature.separator_pattern is not None:
        pattern = re.compile(signature.separator_pattern.encode())
        return pattern.split
    if signature.separator is not None:
        separator = signature.separator.encode()
        return lambda line: line.split(separator)
    return lambda line: [line]


def _prefixed(signature: Signature) -> Callable[[bytes], bytes | None] | None:
    """The function that takes an item's prefix away, None for an item without it; None where there is none."""
    if signature.prefix is not None:
        prefix = signature.prefix.encode()
        return lambda item: item[len(prefix) :] if item.startswith(prefix) else None
    if signature.prefix_pattern is not None:
        pattern = re.compile(rb"(?:" + signature.prefix_pattern.encode() + rb")")

        def cut(item: bytes) -> bytes | None:
            match = pattern.match(item)
            return item[match.end() :] if match else None

        return cut
    return None


def _taker(signature: Signature, wanted: frozenset[bytes]) -> Callable[[Signed, list[bytes]], list[bytes]]:
    if signature.pair is not None:
        pair, field = signature.pair.encode(), (signature.field or "").encode()
        if field == b"*":
            return lambda signed, items: [item for item in items if pair in item]

        def take_pairs(signed: Signed, items: list[bytes]) -> list[bytes]:
            found = []
            fields: dict[bytes, bytes] = {}
            for item in items:
                name, _, value = item.partition(pair)
                if name == field:
                    if value:
                        found.append(value)
                elif name in wanted:
                    # Persona writes the time before each signature.
                    if fields.get(name, value) != value:
                        raise Refused("signature.malformed", f"{name.decode()} stands twice")
                    fields[name] = value
            signed.fields = fields
            return found

        return take_pairs
    bare = _prefixed(signature)
    if signature.first_is_timestamp:
        name = next(iter(wanted), b"")

        def take_after_time(signed: Signed, items: list[bytes]) -> list[bytes]:
            signed.fields = {name: items[0]}
            return [item for item in items[1:] if item]

        return take_after_time
    if bare is not None:
        return lambda signed, items: [found for item in items if (found := bare(item))]
    return lambda signed, items: [item for item in items if item]


def decoded(texts: list[bytes], decode: Decode) -> list[bytes]:
    """The signatures of these texts; those that are not written as they should be are left out. Raises Refused."""
    found = []
    for text in texts:
        try:
            signature = decode(text)
        except (ValueError, BinasciiError):
            continue
        if signature:
            found.append(signature)
    if not found:
        raise Refused("signature.malformed", "no signature is written as the profile says")
    return found


_UNIX = re.compile(rb"[1-9][0-9]{0,10}")
_UNIX_MS = re.compile(rb"[1-9][0-9]{0,13}")
_ISO = re.compile(
    rb"([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,9}))?(Z|[+-][0-9]{2}:?[0-9]{2})?"
)
_HTTP_DATE = re.compile(
    rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), [0-9]{2} (?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [1-9][0-9]{3}"
    rb" [0-9]{2}:[0-9]{2}:[0-9]{2} GMT"
)


def parse_time(text: bytes, form: str, touches: bool = False) -> float:
    """The Unix time (s) of a text in a row's `format`. Raises ValueError.

    Where no literal text stands beside it (`touches`), a Unix time has the ten digits of 2001 to 2286, in milliseconds
    thirteen, and an ISO time has a zone: else the first digits of a body could pass for the last of a time. ISO times
    without a zone are UTC; fractions finer than a microsecond are cut. `unix_auto` takes more than eleven digits for
    milliseconds.
    """
    if form == "unix" or (form == "unix_auto" and len(text) <= 11):
        if not _UNIX.fullmatch(text) or (touches and len(text) != 10):
            raise ValueError("no seconds")
        return float(text)
    if form in ("unix_ms", "unix_auto"):
        if not _UNIX_MS.fullmatch(text) or (touches and len(text) != 13):
            raise ValueError("no milliseconds")
        return int(text) / 1000
    if form == "http-date":
        if not _HTTP_DATE.fullmatch(text):
            raise ValueError("no HTTP date")
        return parsedate_to_datetime(text.decode()).timestamp()
    match = _ISO.fullmatch(text)
    if match is None or (touches and match[8] is None):
        raise ValueError("no RFC 3339 time")
    year, month, day, hour, minute, second = (int(match[group]) for group in range(1, 7))
    fraction = int((match[7] or b"0").ljust(6, b"0")[:6])
    moment = datetime(year, month, day, hour, minute, second, fraction, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return (moment - _offset(match[8])).total_seconds()


def _offset(zone: bytes | None) -> timedelta:
    if zone in (None, b"Z"):
        return timedelta()
    hours, minutes = int(zone[1:3]), int(zone[-2:])
    if hours > 23 or minutes > 59:
        raise ValueError("no zone")
    size = timedelta(hours=hours, minutes=minutes)
    return size if zone[:1] == b"+" else -size


def compile_timestamp(time: Timestamp, touches: bool) -> Check:
    """The function that finds, keeps and judges the signed time. It raises Refused.

    `touches` tells that no literal text stands beside the time in the signed text.
    """
    read = _time_reader(time)
    form = time.format
    past_s = time.past_s
    future_s = None if time.future_s == "any" else past_s if time.future_s is None else time.future_s

    def check(signed: Signed, now: float) -> None:
        text = signed.timestamp = read(signed)
        try:
            moment = parse_time(text, form, touches)
        except ValueError:
            raise Refused("timestamp.malformed", f"not as {form}") from None
        check_window(now - moment, past_s, future_s)

    return check


def check_window(age_s: float, past_s: float | None, future_s: float | None) -> None:
    """Raises Refused if a time of this age is outside of the window."""
    if past_s is not None and age_s > past_s:
        raise Refused("timestamp.old", f"{age_s:.0f} s old, at most {past_s:.0f}")
    if future_s is not None and -age_s > future_s:
        raise Refused("timestamp.future", f"{-age_s:.0f} s ahead, at most {future_s:.0f}")


def _time_reader(time: Timestamp) -> Read:
    code = "timestamp.missing"
    if time.from_ == "header":
        name = (time.name or "").lower().encode()
        return lambda signed: signed.header(name) or _there(None, code, time.name)
    if time.from_ == "sigfield":
        field = (time.field or "").encode()
        return lambda signed: _there(signed.fields.get(field) or None, code, time.field)
    if time.from_ == "json":
        path = tuple((time.path or "").split("."))
        return lambda signed: _there(signed.member(path), code, time.path)
    wanted = (time.name or "").encode()
    if time.from_ == "query":
        return lambda signed: _there(signed.query(wanted), code, time.name)
    return lambda signed: _there(signed.form(wanted), code, time.name)
