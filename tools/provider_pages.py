"""Writes docs/providers: one page per provider and a table of them all, out of the rows of the catalog.

tools/reference.py writes and checks them with its own pages. Nothing here states a fact of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from kafka_webhook_bridge.sources.catalog import Catalog
from kafka_webhook_bridge.sources.profile import EVIDENCE, CatalogFile, Profile
from kafka_webhook_bridge.sources.prose import (
    ADDRESS,
    answer_words,
    covers_body,
    facts,
    match_words,
    snippet,
    takes_secrets,
    traits,
)
from kafka_webhook_bridge.sources.verify import template
from tables import table

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs/providers"
MADE_BY = "<!-- Made by tools/provider_pages.py (`make docs`); changes here are lost. -->"

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


def _row(row: Profile) -> tuple[str, str, str, str, str]:
    body = "yes" if covers_body(row) else "no"
    return f"[{row.provider}]({row.file}.md)", f"`{row.name}`", f"`{traits(row).scheme}`", body, row.evidence


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
    lines += table(("provider", "profile", "scheme", "body", "evidence"), (_row(row) for some in rows for row in some))
    return _text(lines)


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
    lines += table(("", ""), facts(row))
    if row.setup.pitfalls:
        lines += ["### Pitfalls", "", *(f"- {pitfall}" for pitfall in row.setup.pitfalls), ""]
    if row.handshakes:
        lines += ["### Hand-shakes", "", "Answered by the bridge; nothing is written to Kafka.", ""]
        lines += table(
            ("name", "request", "answer"),
            ((one.name, "; ".join(match_words(one)), answer_words(one)) for one in row.handshakes),
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
    address = f"`{ADDRESS}/{name}`"
    first = f"The address of the source is {address}." if row.setup.steps else f"Give the sender the address {address}."
    lines += [f"1. {step}" for step in [first, *row.setup.steps]]
    lines += [f"1. `secrets`: {row.setup.secret[:1].lower()}{row.setup.secret[1:]}"] if takes_secrets(row) else []
    lines += ["", "```yaml", *snippet(row), "```", "", "Without the provider, a rightly signed request:", "",
              "```", f"kwb send {name} --profile {name}", "```", ""]  # fmt: skip
    return lines


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
