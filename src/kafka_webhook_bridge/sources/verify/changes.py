"""What people and proxies do to webhooks and secrets, so that the doctor can undo it and see whether that was it.

Each change has a `code` that is stable, what it says of the request (`what`) and what to do about it (`do`). All lists
are bounded, and their order is that of likelihood.
"""

from __future__ import annotations

import gzip
import html
import itertools
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import quote, unquote, unquote_to_bytes, urlsplit

from kafka_webhook_bridge.event import Request

UNPACKED_BYTES_MAX: Final = 10 * 1024**2
REWRITTEN_BYTES_MAX: Final = 1024**2  # larger ones are only cut
_QUERIES_MAX: Final = 24
_HOST_HEADERS: Final = (b"x-forwarded-host", b"host", b"x-original-host")
_HASHES: Final = ("sha256", "sha1", "sha512", "sha384", "md5")


class Change(NamedTuple):
    """One thing that may be wrong. `code` is stable; no sentence shows a secret."""

    code: str
    what: str
    do: str


# ---- bodies ----------------------------------------------------------------------------------------------------------

_RAW = (
    "Keep the raw bytes: whatever stands between sender and bridge (a proxy, a function, a logger) must not parse the "
    "body and write it anew."
)
_SAVED = (
    "If only the saved copy has it, save the request again without an editor; else find what changes it on the way."
)


def bodies(request: Request) -> Iterator[tuple[Change, bytes]]:
    """Bodies that may have been signed instead of the one that came."""
    body = request.body
    seen = {body}
    for change, other in _bodies(request):
        if other not in seen:
            seen.add(other)
            yield change, other


def _bodies(request: Request) -> Iterator[tuple[Change, bytes]]:
    body = request.body
    length = _value(request, b"content-length")
    if length.isdigit() and int(length) < len(body):
        more = len(body) - int(length)
        what = f"the body is {more} byte{'s'[: more > 1]} longer than its Content-Length; without them it is right"
        yield Change("body.longer", what, _SAVED), body[: int(length)]
    yield from _ends(body)
    yield from _unpacked(body)
    if len(body) <= REWRITTEN_BYTES_MAX:
        if body.lstrip()[:1] in (b"{", b"["):
            yield from _rewritten(body)
        if b"=" in body or b"%" in body:
            yield from _forms(body)
        yield from _charsets(body)
    yield Change("body.empty", "it was signed with an empty body", _RAW), b""


def _ends(body: bytes) -> Iterator[tuple[Change, bytes]]:
    cut, added = "body.newline_lost", "body.newline_added"
    yield Change(added, "a line feed was added at the end of the body", _SAVED), body.removesuffix(b"\n")
    yield Change(added, "a line end (CR LF) was added at the end of the body", _SAVED), body.removesuffix(b"\r\n")
    yield Change(added, "blanks or line ends were added around the body", _SAVED), body.strip()
    yield Change(cut, "the line feed at the end of the body was lost", _RAW), body + b"\n"
    yield Change(cut, "the line end (CR LF) at the end of the body was lost", _RAW), body + b"\r\n"
    plain = body.replace(b"\r\n", b"\n")
    yield Change("body.crlf", "line feeds of the body became CR LF", _RAW), plain
    yield Change("body.lf", "CR LF in the body became line feeds", _RAW), plain.replace(b"\n", b"\r\n")
    yield (
        Change("body.lf", "CR LF in the body became line feeds", _RAW),
        plain.replace(b"\n", b"\r\n").removesuffix(b"\r\n"),
    )
    bom = b"\xef\xbb\xbf"
    yield Change("body.bom_added", "a byte order mark was put before the body", _RAW), body.removeprefix(bom)
    yield Change("body.bom_lost", "the byte order mark before the body was lost", _RAW), bom + body


def _unpacked(body: bytes) -> Iterator[tuple[Change, bytes]]:
    what = "the sender signs the body before it compresses it"
    do = "Let the sender send uncompressed bodies, or ask it which bytes it signs."
    if body[:2] == b"\x1f\x8b":
        unpack = zlib.decompressobj(wbits=31)
        try:
            plain = unpack.decompress(body, UNPACKED_BYTES_MAX)
        except zlib.error:
            return
        yield Change("body.compressed", what, do), plain
    elif 0 < len(body) <= 64 * 1024:
        packed = gzip.compress(body, mtime=0)
        yield (
            Change("body.uncompressed", "the body was compressed when it was signed, and unpacked on the way", _RAW),
            packed,
        )


def _rewritten(body: bytes) -> Iterator[tuple[Change, bytes]]:
    """JSON that was parsed and written anew: blanks, escapes, order. Where only blanks change, numbers stay."""
    try:
        text = body.decode("utf-8-sig")
        document = json.loads(text)
    except (ValueError, RecursionError):
        return
    blanks = "the JSON was written anew with other blanks; the sender's has "
    for words, comma, colon, indent in (
        ("none", ",", ":", ""),
        ("one after commas and colons", ", ", ": ", ""),
        ("lines indented by 2", ",", ": ", "  "),
        ("lines indented by 4", ",", ": ", "    "),
        ("lines indented by tabs", ",", ": ", "\t"),
    ):
        other = respaced(text, comma, colon, indent)
        yield Change("body.json_blanks", blanks + words, _RAW), other.encode()
        if indent:
            yield (
                Change("body.json_blanks", blanks + words + " and a line feed at its end", _RAW),
                other.encode() + b"\n",
            )
    for ascii_only, order, (comma, colon) in itertools.product(
        (True, False), (False, True), ((",", ":"), (", ", ": "))
    ):
        try:
            other = json.dumps(document, ensure_ascii=ascii_only, sort_keys=order, separators=(comma, colon))
            data = other.encode()
        except (ValueError, RecursionError):
            continue
        escapes = "with" if ascii_only else "without"
        kind = f"{'sorted, ' if order else ''}{escapes} \\u escapes, {'no ' if comma == ',' else ''}blanks"
        what = f"the JSON was written anew; the sender's is {kind}"
        yield Change("body.json_order" if order else "body.json_escapes", what, _RAW), data
        slashes = f"the JSON was written anew; the sender's is {kind}, and has \\/ for slashes"
        yield Change("body.json_escapes", slashes, _RAW), other.replace("/", "\\/").encode()
        angles = f"the JSON was written anew; the sender's is {kind}, and has \\u003c for <, \\u0026 for &"
        escaped = other.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
        yield Change("body.json_escapes", angles, _RAW), escaped.encode()


_PART = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+')


def respaced(text: str, comma: str, colon: str, indent: str) -> str:
    """JSON with other blanks and nothing else changed."""
    pieces: list[str] = []
    depth = 0
    parts = _PART.findall(text)
    for part, following in zip(parts, [*parts[1:], ""], strict=True):
        if part in "{[" and following not in ("}", "]"):
            depth += 1
            pieces.append(part + ("\n" + indent * depth if indent else ""))
        elif part in "}]" and pieces and not pieces[-1].endswith(("{", "[")):
            depth -= 1
            pieces.append(("\n" + indent * depth if indent else "") + part)
        elif part == ",":
            pieces.append("," + "\n" + indent * depth if indent else comma)
        else:
            pieces.append(colon if part == ":" else part)
    return "".join(pieces)


def _forms(body: bytes) -> Iterator[tuple[Change, bytes]]:
    decoded = "the form was decoded on the way"
    yield Change("body.form_blanks", "the form has + where the sender wrote %20", _RAW), body.replace(b"+", b"%20")
    yield Change("body.form_blanks", "the form has %20 where the sender wrote +", _RAW), body.replace(b"%20", b"+")
    lower = re.sub(rb"%[0-9A-F]{2}", lambda match: match[0].lower(), body)
    yield Change("body.form_case", "the form has capitals in %2F where the sender wrote %2f", _RAW), lower
    upper = re.sub(rb"%[0-9a-fA-F]{2}", lambda match: match[0].upper(), body)
    yield Change("body.form_case", "the form has %2f where the sender wrote %2F", _RAW), upper
    yield (
        Change("body.form_decoded", "the sender signs the decoded form", _RAW),
        unquote_to_bytes(body.replace(b"+", b" ")),
    )
    name, mark, value = body.partition(b"=")
    if mark and len(value) < 1024**2:
        again = name + b"=" + quote(unquote_to_bytes(value), safe="").encode()
        yield Change("body.form_decoded", decoded, _RAW), again
        yield Change("body.form_decoded", decoded, _RAW), again.replace(b"%20", b"+")
        what = f"the sender signs the value of the field {name[:30].decode(errors='replace')}, not the form"
        yield (
            Change("body.form_field", what, "Choose the profile for forms, if the sender has one."),
            unquote_to_bytes(value.replace(b"+", b" ")),
        )


def _charsets(body: bytes) -> Iterator[tuple[Change, bytes]]:
    what = "the body went through another character set on the way"
    for source, target in (("utf-8", "latin-1"), ("latin-1", "utf-8"), ("utf-8", "utf-16")):
        try:
            yield Change("body.charset", f"{what} ({source} was {target})", _RAW), body.decode(source).encode(target)
        except (UnicodeDecodeError, UnicodeEncodeError):
            continue


def _value(request: Request, name: bytes) -> str:
    return next((value.decode("latin-1") for line, value in request.headers if line.lower() == name), "")


# ---- addresses -------------------------------------------------------------------------------------------------------

_URL = "Set `public_url` to the address exactly as it stands at the sender."


def addresses(request: Request, base: str | None) -> Iterator[tuple[Change, Request, str]]:
    """Addresses that may have been signed: the request with another path and query, and another base."""
    here = ((base or "") + request.path.decode("latin-1"), request.query)
    seen = {here}
    parts = urlsplit(base or "https://localhost")
    targets = list(_targets(request, parts.path))
    for (scheme, host), (path, query) in itertools.product(_hosts(request, base), targets):
        found = (f"{scheme}://{host}{path.decode('latin-1')}", query)
        if found not in seen:
            seen.add(found)
            url = found[0] + ("" if query is None else "?" + query.decode("latin-1"))
            what = f"the sender signed the address {url}"
            yield Change("url.other", what, _URL), request._replace(path=path, query=query), f"{scheme}://{host}"


def _hosts(request: Request, base: str | None) -> list[tuple[str, str]]:
    named = [urlsplit(base).netloc] if base else []
    named += [
        _value(request, name).split(",")[0].strip() for name in (b"x-forwarded-host", b"host", b"x-original-host")
    ]
    hosts: list[str] = []
    for host in filter(None, named):
        bare = re.sub(r":\d+$", "", host)
        hosts += [
            host,
            host.lower(),
            bare,
            f"{bare}:443",
            f"{bare}:8080",
            f"{bare}:80",
            bare.removeprefix("www."),
            f"www.{bare}",
        ]
    schemes = ["https", "http"]
    if base and urlsplit(base).scheme == "http":
        schemes.reverse()
    return [(scheme, host) for scheme in schemes for host in dict.fromkeys(hosts)]


def _targets(request: Request, prefix: str) -> Iterator[tuple[bytes, bytes | None]]:
    path, query = prefix.encode() + request.path, request.query
    paths = [path, path.rstrip(b"/") if path.endswith(b"/") else path + b"/", request.path, unquote_to_bytes(path)]
    shorter = request.path
    for _ in range(2):
        shorter = b"/" + shorter.partition(b"/")[2].partition(b"/")[2] if shorter.count(b"/") > 1 else b""
        if shorter:
            paths.append(shorter)
    queries: list[bytes | None] = [query, None]
    if query:
        pairs = query.split(b"&")
        orders = [pairs[::-1], sorted(pairs), *itertools.islice(itertools.permutations(pairs), _QUERIES_MAX)]
        queries += [b"&".join(order) for order in (orders if len(pairs) > 1 else [])]
        queries += [unquote_to_bytes(query), query.replace(b"+", b"%20"), query.replace(b"%20", b"+")]
    for other in dict.fromkeys(paths):
        for one in dict.fromkeys(queries):
            yield other, one


# ---- header lines ----------------------------------------------------------------------------------------------------


def headers(request: Request) -> Iterator[tuple[Change, Request]]:
    """Requests whose header lines are written as HTTP has them."""
    names = [re.sub(rb"(?i)^http[_-]", b"", name).replace(b"_", b"-") for name, _ in request.headers]
    if any(new != old for new, (old, _) in zip(names, request.headers, strict=True)):
        what = "the header names are those of a record or of CGI (http_x-signature)"
        renamed = [(name, value) for name, (_, value) in zip(names, request.headers, strict=True)]
        yield Change("header.names", what, "Save the request as it came over HTTP."), request._replace(headers=renamed)
    quoted = [(name, value.strip(b"\"'")) for name, value in request.headers]
    if quoted != request.headers:
        what = "header values stand in quotes that are not theirs"
        yield Change("header.quotes", what, "Save the request without them."), request._replace(headers=quoted)


# ---- secrets ---------------------------------------------------------------------------------------------------------


def secret_texts(secret: str) -> Iterator[tuple[Change, str]]:
    """Spellings of a secret, each of which a copy may have lost."""
    seen = {secret}
    for change, text in _secret_texts(secret):
        if text and text not in seen:
            seen.add(text)
            yield change, text


def _secret_texts(secret: str) -> Iterator[tuple[Change, str]]:
    again = "Copy the secret once more, with nothing before and behind it."
    yield Change("secret.blanks", "there are blanks or a line end around the secret", again), secret.strip()
    yield Change("secret.newline", "the sender's secret ends in a line feed, yours does not", again), secret + "\n"
    yield (
        Change("secret.quotes", "the secret stands in quotes that are not its own", again),
        secret.strip().strip("\"'`"),
    )
    what = "line ends of the key are written \\n"
    yield Change("secret.line_ends", what, "Write the key with real line ends."), secret.replace("\\n", "\n")
    yield Change("secret.line_ends", "the key has lost its line ends", "Copy it with them."), _as_pem(secret)
    percent = "the secret is percent-encoded"
    yield Change("secret.percent", percent, "Decode %2B and the like first."), unquote(secret)
    entities = "the secret is written with HTML entities"
    yield Change("secret.entities", entities, "Write & for &amp; and the like."), html.unescape(secret)
    escaped = html.escape(secret, quote=False)
    yield Change("secret.entities", "the sender uses the secret with HTML entities", "Write &amp; for &."), escaped
    for prefix in ("whsec_", "whpk_", "v1,", "Bearer ", "Basic ", "sha256="):
        what = f"the secret must be given without `{prefix.strip()}`"
        yield Change("secret.prefix", what, "Leave it out."), secret.removeprefix(prefix)
    yield Change("secret.prefix", "the secret must be given with `whsec_`", "Put it before."), "whsec_" + secret
    for text in (secret.lower(), secret.upper()):
        yield Change("secret.case", "the secret has other capitals", "Copy it once more."), text


def _as_pem(text: str) -> str:
    match = re.fullmatch(r"\s*-----BEGIN ([A-Z ]+)-----(.*)-----END \1-----\s*", text, re.DOTALL)
    bare = re.sub(r"\s", "", match[2] if match else text)
    kind = match[1] if match else "PUBLIC KEY"
    if not re.fullmatch(r"[A-Za-z0-9+/]{40,}={0,2}", bare):
        return text
    lines = "\n".join(bare[start : start + 64] for start in range(0, len(bare), 64))
    return f"-----BEGIN {kind}-----\n{lines}\n-----END {kind}-----\n"


# ---- rows ------------------------------------------------------------------------------------------------------------

_ROW = "Choose the profile of that sender, or write it under `verify:` of the source."


def tables(table: Mapping[str, Any]) -> Iterator[tuple[Change, Mapping[str, Any]]]:
    """The row with one word changed, as a source that is configured wrongly has it."""
    scheme = table.get("scheme")
    if scheme in ("any", "all"):
        for index, way in enumerate(table["of"]):
            for change, other in tables(way):
                yield change, {**table, "of": [*table["of"][:index], other, *table["of"][index + 1 :]]}
        return
    if scheme in ("hmac", "jwt"):
        yield from _keys(table)
    if scheme in ("hmac", "digest"):
        yield from _digests(table)
    if scheme == "hmac":
        yield from _signed(table)
    if table.get("timestamp"):
        for form in ("unix_auto", "unix", "unix_ms", "iso8601", "http-date"):
            if form != table["timestamp"].get("format", "unix"):
                what = f"the time is written as {form}, not as {table['timestamp'].get('format', 'unix')}"
                yield (
                    Change("timestamp.format", what, _ROW),
                    {**table, "timestamp": {**table["timestamp"], "format": form}},
                )
    if scheme in ("token", "jwt") and table["signature"].get("from") == "header":
        place = {name: value for name, value in table["signature"].items() if name != "strip_prefix"}
        yield (
            Change("token.prefix", "the token stands there without a word before it", _ROW),
            {**table, "signature": place},
        )
        place = {**place, "strip_prefix": "Bearer "}
        yield Change("token.prefix", "there is `Bearer` before the token", _ROW), {**table, "signature": place}


def _keys(table: Mapping[str, Any]) -> Iterator[tuple[Change, Mapping[str, Any]]]:
    key = table.get("key") or {}
    if key.get("from", "secret") != "secret":
        return
    words = {"utf8": "is used as text", "base64": "is base64 of the key", "hex": "is hex of the key"}
    for encoding, word in words.items():
        for prefix in dict.fromkeys((key.get("strip_prefix"), None, "whsec_")):
            other = {"encoding": encoding, **({"strip_prefix": prefix} if prefix else {})}
            what = f"the secret {word}" + (f", without `{prefix}`" if prefix else "")
            do = f"The profile reads it otherwise. {_ROW}"
            yield Change("secret.encoding", what, do), {**table, "key": other}


def _digests(table: Mapping[str, Any]) -> Iterator[tuple[Change, Mapping[str, Any]]]:
    if table["hash"] == "by_field":
        return
    place = table["signature"]
    bare = {word: value for word, value in place.items() if word not in ("prefix", "prefix_pattern")}
    for name, encoding in itertools.product(_HASHES, ("hex", "base64", "base64url")):
        places = [place] if "pair" in place else [place, bare, {**bare, "prefix": f"{name}="}]
        for words in places:
            prefix = f" after `{words['prefix']}`" if words.get("prefix") else ""
            what = f"the signature is {name.upper().replace('SHA', 'SHA-')} in {encoding}{prefix}"
            other = {**table, "hash": name, "signature": {**words, "encoding": encoding}}
            yield Change("signature.form", what, _ROW), other


def _signed(table: Mapping[str, Any]) -> Iterator[tuple[Change, Mapping[str, Any]]]:
    texts = ["{body}", "{url}{body}", "{body}{url}", "{method}{url}{body}", "{url}"]
    if table.get("timestamp"):
        texts += [
            "{ts}.{body}",
            "{ts}{body}",
            "{ts}:{body}",
            "v0:{ts}:{body}",
            "{body}{ts}",
            "{body}.{ts}",
            "{url}{body}{ts}",
        ]
    now = table["signed"] if isinstance(table["signed"], list) else [table["signed"]]
    for text in texts:
        if text not in now:
            yield (
                Change("signature.text", f"the sender signs {text}, the profile says {now[0]}", _ROW),
                {**table, "signed": text},
            )


def undecoded(texts: Sequence[bytes]) -> list[int]:
    """Lengths in bytes of signatures, as hex or base64 tell them; for a hint about the hash."""
    found = []
    for text in texts:
        if re.fullmatch(rb"(?:[0-9A-Fa-f]{2})+", text):
            found.append(len(text) // 2)
        elif re.fullmatch(rb"[A-Za-z0-9+/_-]+={0,2}", text):
            found.append(len(text.rstrip(b"=")) * 3 // 4)
    return found
