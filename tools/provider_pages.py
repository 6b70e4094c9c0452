"""Writes docs/providers: one page per provider and a table of them all, out of the rows of the catalog.

tools/reference.py writes and checks them with its own pages. Nothing here states a fact of its own but how the words of
a row read as sentences.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from kafka_webhook_bridge.sources.catalog import Catalog
from kafka_webhook_bridge.sources.profile import EVIDENCE, HASH, CatalogFile, Condition, Handshake, Profile
from kafka_webhook_bridge.sources.verify import model, template
from kafka_webhook_bridge.sources.verify.compiled import traits_of
from tables import table

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs/providers"
MADE_BY = "<!-- Made by tools/provider_pages.py (`make docs`); changes here are lost. -->"
_ADDRESS = "https://hooks.example.com"

PROFILES = Catalog().load_all()


def pages() -> dict[Path, str]:
    """Path → text of every generated page."""
    by_file = {file: list(rows) for file, rows in groupby(sorted(PROFILES, key=_place), key=lambda row: row.file)}
    made = {FOLDER / f"{file}.md": provider_page(rows) for file, rows in by_file.items()}
    return {FOLDER / "README.md": index_page(by_file), **made}


def stale() -> list[str]:
    """One line per page that is missing, differs from the catalog, or is no provider's any more."""
    made = pages()
    found = [path for path, text in made.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    found += [path for path in FOLDER.glob("*.md") if path not in made]
    return [f"{path.relative_to(ROOT)}: not what the catalog says; run `make docs`" for path in sorted(found)]


def write() -> None:
    """Write the pages, and take away those of providers that are gone."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    made = pages()
    for path in FOLDER.glob("*.md"):
        if path not in made:
            path.unlink()
    for path, text in made.items():
        path.write_text(text, encoding="utf-8")


def _place(profile: Profile) -> tuple[str, str]:
    return profile.file, profile.name


# ── the table of all ──────────────────────────────────────────────────────────────────────────────────────────────────


def index_page(by_file: dict[str, list[Profile]]) -> str:
    lines = [
        MADE_BY, "", "# Providers", "",
        f"{len(PROFILES)} profiles in {len(by_file)} files. A source names one (`profile: github`), and with it comes "
        "how the sender signs, its hand-shakes, its delivery id, event type, partition key and the answer that it "
        "wants. Another sender is one more file: [how to add a provider](../howto/add-a-provider.md).",
        "",
    ]  # fmt: skip
    count = {grade: sum(row.evidence == grade for row in PROFILES) for grade in EVIDENCE}
    lines += table(
        ("evidence", "profiles", "what it means"),
        ((f"**{grade}**", str(count[grade]), sentence) for grade, sentence in EVIDENCE.items()),
    )
    lines += ["*body*: whether all of the body is signed.", ""]
    rows = sorted(by_file.values(), key=lambda rows: (rows[0].file == "generic", rows[0].provider.lower()))
    lines += table(
        ("provider", "profile", "scheme", "body", "evidence"),
        (
            (f"[{row.provider}]({row.file}.md)", f"`{row.name}`", f"`{_traits(row).scheme}`", _yes(_covers(row)),
             row.evidence)
            for rows in rows for row in rows
        ),
    )  # fmt: skip
    return _text(lines)


def _traits(profile: Profile) -> Any:
    return traits_of(profile.verify)


def _covers(profile: Profile) -> bool:
    return bool(_traits(profile).covers_body if profile.covers_body is None else profile.covers_body)


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"


# ── one provider ──────────────────────────────────────────────────────────────────────────────────────────────────────


def provider_page(rows: Sequence[Profile]) -> str:
    first = rows[0]
    lines = [MADE_BY, "", f"# {first.provider}", ""]
    if first.docs:
        lines += [f"The provider's own page: {first.docs}.", ""]
    if len(rows) > 1:
        lines += ["Profiles: " + ", ".join(f"[`{row.name}`](#{row.name})" for row in rows) + ".", ""]
    for row in rows:
        lines += _profile(row)
    lines += ["[All providers](README.md) · [The words of a row](../reference/catalog.md)"]
    return _text(lines)


def _profile(row: Profile) -> list[str]:
    lines = [f"## {row.name}", ""]
    if row.note:
        lines += [row.note, ""]
    if row.evidence == "third-party":
        lines += [f"**Evidence: third-party.** {EVIDENCE[row.evidence].capitalize()}.", ""]
    lines += _setup(row)
    lines += ["### How it is checked", ""]
    lines += table(("", ""), _facts(row))
    if row.setup.pitfalls:
        lines += ["### Pitfalls", "", *(f"- {pitfall}" for pitfall in row.setup.pitfalls), ""]
    if row.handshakes:
        lines += ["### Hand-shakes", "", "Answered by the bridge; nothing is written to Kafka.", ""]
        lines += table(
            ("name", "request", "answer"),
            ((one.name, "; ".join(_match(one)), _handshake_answer(one)) for one in row.handshakes),
        )
    lines += ["### Evidence", "", f"**{row.evidence}**: {EVIDENCE[row.evidence]}.", ""]
    if row.unverified:
        words = {
            "event": "delivery id, event type and partition key",
            "sender": "the sender's deadline and retries",
            "answer": "the answer",
            "handshakes": "the hand-shakes",
        }
        lines += [f"Not seen on a live delivery: {'; '.join(words[name] for name in row.unverified)}.", ""]
    if row.sources:
        lines += [*(f"- {source}" for source in row.sources), ""]
    return lines


def _setup(row: Profile) -> list[str]:
    name = row.name
    lines = ["### Set it up", ""]
    address = f"`{_ADDRESS}/{name}`"
    first = f"The address of the source is {address}." if row.setup.steps else f"Give the sender the address {address}."
    lines += [f"1. {step}" for step in [first, *row.setup.steps]]
    lines += [f"1. `secrets`: {row.setup.secret[:1].lower()}{row.setup.secret[1:]}"] if _takes(row) else []
    lines += ["", "```yaml", *_snippet(row), "```", "", "Without the provider, a rightly signed request:", "",
              "```", f"kwb send {name} --profile {name}", "```", ""]  # fmt: skip
    return lines


def _takes(row: Profile) -> bool:
    """Whether a source with the profile has secrets of its own."""
    return bool(row.setup.secret) and not row.setup.secret.startswith("None")


def _snippet(row: Profile) -> Iterator[str]:
    """A source of bridge.yaml."""
    if _traits(row).needs_url:
        yield f"public_url: {_ADDRESS}"
    yield "sources:"
    yield f"  {row.name}:"
    yield f"    profile: {row.name}"
    if _takes(row):
        yield f'    secrets: ["${{{re.sub("[^A-Z0-9]", "_", row.name.upper())}_SECRET}}"]'
    if row.setup.params:
        yield "    params:"
        for param, sentence in row.setup.params.items():
            yield f'      {param}: "…"  # {sentence[:1].lower()}{sentence[1:]}'
    if row.event.delivery_id == [HASH]:
        yield "    dedupe: body  # the sender gives no delivery id"
    if row.unsafe:
        yield f"    i_know: true  # {row.unsafe}"


def _facts(row: Profile) -> Iterator[tuple[str, str]]:
    yield from _scheme(row.verify)
    yield "whole body signed", _yes(_covers(row))
    for what, place in row.headers.items():
        yield f"header {what}", "kept, as proof" if place == "proof" else "redacted, as a credential"
    event = row.event
    if event.decode:
        yield "read inside", " → ".join(f"`{step}`" for step in event.decode)
    if event.delivery_id == [HASH]:
        yield "delivery id", "none; `dedupe: body` finds repeats by the body"
    else:
        yield "delivery id", _or(event.delivery_id)
    yield "event type", _or(event.type, "`webhook.<source>`")
    yield "partition key", _or(event.key)
    if row.answer is None:
        yield "answer", "the receipt, 200"
    elif not row.answer.body:
        yield "answer", f"{row.answer.status}, empty"
    else:
        yield "answer", f"{row.answer.status}, {row.answer.content_type}: `{row.answer.body}`"
    if row.refused_status != 401:
        yield "answer to a wrong signature", str(row.refused_status)
    if row.sender.deadline_s is not None:
        yield "the sender gives up", f"after {row.sender.deadline_s:g} s"
    if row.sender.retries:
        yield "the sender tries again", row.sender.retries


def _scheme(verify: model.Verify) -> Iterator[tuple[str, str]]:
    match verify:
        case model.Hmac():
            name = "the hash that the header names" if verify.hash == "by_field" else _hash(verify.hash)
            yield "scheme", f"HMAC, {name}"
            if verify.hashes:
                yield "hashes", ", ".join(map(_hash, verify.hashes))
            yield from _signed(verify)
        case model.Digest():
            yield "scheme", f"plain hash, {_hash(verify.hash)}"
            yield from _signed(verify)
        case model.Asymmetric():
            yield "scheme", verify.scheme
            yield from _signed(verify)
        case model.Token():
            yield "scheme", "the secret itself"
            yield "where", _where(verify.signature)
        case model.TokenEach():
            yield "scheme", f"the secret itself, as `{verify.field}` of each element of `{verify.array}`"
        case model.Basic():
            yield "scheme", "Basic authentication"
        case model.Open():
            yield "scheme", "none"
        case model.Jwt():
            yield "scheme", f"JSON Web Token, {_and(verify.algorithms)}"
            yield from _token(verify)
        case model.JwsDetached():
            yield "scheme", f"detached JWS of the body, {_and(verify.algorithms)}"
            yield "where", _where(verify.signature)
        case model.Named():
            yield "scheme", f"its own, `{verify.code}`"
            yield "replay window", _window(verify.past_s, verify.future_s)
        case model.AnyOf() | model.AllOf():
            yield "scheme", f"{'one' if verify.scheme == 'any' else 'all'} of {len(verify.of)} ways:"
            for way in verify.of:
                yield from _scheme(way)


def _signed(verify: model.Hmac | model.Digest | model.Asymmetric) -> Iterator[tuple[str, str]]:
    yield "signed", _or(verify.signed)
    signature = verify.signature
    where = _where(signature)
    if signature.also:
        where += ", " + ", ".join(f"`{name}`" for name in signature.also)
    if signature.also_pattern:
        where += f", `{signature.also_pattern}`"
    if signature.pair and signature.field != "*":
        where += f", items `{signature.field}{signature.pair}…`"
    if signature.prefix:
        where += f", after `{signature.prefix}`"
    if signature.prefix_pattern:
        where += f", after `{signature.prefix_pattern}`"
    yield "signature", f"{where}, in {signature.encoding}"
    yield from _key(verify)
    time = verify.timestamp
    if time is None:
        yield "replay window", "none: no time is signed"
        return
    place = f"item `{time.field}` of the signature" if time.from_ == "sigfield" else _where(time)
    kinds = {"unix": "s", "unix_ms": "ms", "unix_auto": "s or ms", "iso8601": "ISO 8601", "http-date": "HTTP date"}
    yield "time", f"{place} ({kinds[time.format]})"
    yield "replay window", _window(time.past_s, time.future_s)


def _key(verify: model.Hmac | model.Digest | model.Asymmetric | model.Jwt) -> Iterator[tuple[str, str]]:
    if isinstance(verify, model.Digest):
        return
    key = verify.key
    if key.from_ == "jwks":
        yield "keys", f"`{key.url}`" if key.url else f"at the address of the parameter `{key.param}`"
    elif key.encoding not in (None, "utf8") or key.strip_prefix:
        before = f", after `{key.strip_prefix}`" if key.strip_prefix else ""
        yield "secret is written in", f"{key.encoding or 'text'}{before}"
    if not isinstance(verify, model.Jwt) and verify.key_select is not None:
        yield "secret is chosen by", f"header `{verify.key_select.header}`, where secrets are written `id:secret`"


def _token(verify: model.Jwt) -> Iterator[tuple[str, str]]:
    yield "where", _where(verify.signature)
    yield from _key(verify)
    for name, values in (("issuer", verify.issuer), ("audience", verify.audience)):
        if values:
            yield name, _or(values)
    if verify.body_claim is not None:
        yield "body's hash", f"claim `{verify.body_claim.claim}`"
    if verify.url_claim is not None:
        yield "address", f"claim `{verify.url_claim.claim}`"
    if verify.age_max_s is not None:
        yield "replay window", f"{verify.age_max_s:g} s from `iat`"
    else:
        yield "replay window", "until `exp`" if verify.require_expiry else "until `exp`, if the token has one"


def _where(place: model.Place | model.Timestamp) -> str:
    if place.from_ == "body":
        return "the body"
    name = f"`{place.path}` of the JSON body" if place.from_ == "json" else f"`{place.name}`"
    words = {"header": f"header {name}", "query": f"query {name}", "form": f"form field {name}", "json": name}
    return words[place.from_]


def _window(past_s: float | None, future_s: float | str | None) -> str:
    if past_s is None:
        return "none"
    ahead = past_s if future_s is None else future_s
    if ahead == "any":
        return f"{past_s:g} s back; a time ahead is taken"
    return f"{past_s:g} s both ways" if ahead == past_s else f"{past_s:g} s back, {ahead:g} s ahead"


def _match(handshake: Handshake) -> Iterator[str]:
    match = handshake.match
    yield "/".join(match.method)
    for kind, conditions in (
        ("query", match.query), ("header", match.header), ("body", match.json_), ("form", match.form),
    ):  # fmt: skip
        for name, value in conditions.items():
            yield f"{kind} `{name}`{_condition(value)}"
    if handshake.verify_first:
        yield "rightly signed"


def _condition(value: Any) -> str:
    if value is True:
        return ""
    if value is False:
        return " absent"
    return f" ~ `{value.pattern}`" if isinstance(value, Condition) else f" = `{value}`"


def _handshake_answer(handshake: Handshake) -> str:
    answer = handshake.answer
    words = [str(answer.status)]
    words += [f"`{name}: {text}`" for name, text in answer.headers.items()]
    words += [f"`{answer.body}`"] if answer.body else []
    if handshake.effect == "store_secret":
        words.append(f"`{handshake.secret}` is the secret from now on, while a registration is pending")
    if handshake.effect == "fetch_url":
        words.append(f"then GET `{handshake.url}` at {', '.join(f'`{host}`' for host in handshake.hosts)}")
    return ", ".join(words)


def _or(texts: Sequence[str] | None, otherwise: str = "none") -> str:
    return ", else ".join(f"`{_inline(text)}`" for text in texts) if texts else otherwise


def _inline(text: str) -> str:
    return text.replace("\n", "\\n")


def _and(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else words[0]


def _hash(name: str) -> str:
    return re.sub(r"^(SHA)(\d+)$", r"\1-\2", name.upper())


# ── the words of a file ───────────────────────────────────────────────────────────────────────────────────────────────


def catalog_page() -> str:
    """docs/reference/catalog.md."""
    lines = [
        MADE_BY, "", "# Files of the catalog", "",
        "A TOML file has the profiles of one provider. [catalog.schema.json](catalog.schema.json) is its JSON Schema, "
        "for editors; [how to add a provider](../howto/add-a-provider.md) shows one.",
        "",
    ]  # fmt: skip
    seen: set[type] = set()
    queue: list[tuple[str, type[Any]]] = [("", CatalogFile)]
    while queue:
        path, cls = queue.pop(0)
        if cls in seen:
            continue
        seen.add(cls)
        lines += [f"## {path or 'The file'}", "", " ".join((cls.__doc__ or "").split()), ""]
        words = list(_words(cls))
        lines += table(("word", "", "value", "what it is"), words) if words else []
        around = "verify" if path.startswith("verify") else "" if path == "profiles" else path
        for name, field in cls.model_fields.items():
            inner = [one for one in _models(field.annotation) if one is not cls]
            place = ".".join(filter(None, [around, field.alias or name]))
            queue += [(_heading(place, one, len(inner)), one) for one in inner]
    lines += ["## Templates", "", "Of `event`: as [partition keys](bridge-yaml.md#partition-keys). Of `signed`:", "",
              "```", *signed_templates(), "```"]  # fmt: skip
    return _text(lines)


def signed_templates() -> list[str]:
    """The list of items at the head of template.py."""
    return [line[4:] for line in (template.__doc__ or "").splitlines() if line.startswith("    ")]


def _heading(path: str, cls: type[Any], several: int) -> str:
    if several == 1 or "scheme" not in cls.model_fields:
        return path
    return f"{path}, scheme = {', '.join(get_args(cls.model_fields['scheme'].annotation))}"


def _words(cls: type[Any]) -> Iterator[tuple[str, str, str, str]]:
    for name, field in cls.model_fields.items():
        if name != "scheme":
            choices = ", ".join(f"`{choice}`" for choice in _choices(field.annotation))
            yield f"`{field.alias or name}`", "needed" if field.is_required() else "", choices, field.description or ""


def _choices(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return [choice for choice in get_args(annotation) if choice]
    return [choice for inner in get_args(annotation) for choice in _choices(inner)]


def _models(annotation: Any) -> list[type[Any]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for inner in get_args(annotation) for found in _models(inner)]


def _text(lines: Sequence[str]) -> str:
    return "\n".join(line.rstrip() for line in lines).rstrip() + "\n"
