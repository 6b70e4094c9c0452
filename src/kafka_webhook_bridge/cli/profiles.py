"""`kwb sources profiles` and `kwb sources profile`: what the catalog knows, without a source or a setting."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from kafka_webhook_bridge.cli.output import FOUND_PROBLEM, Output
from kafka_webhook_bridge.errors import ConfigError

if TYPE_CHECKING:
    from kafka_webhook_bridge.sources.catalog import Catalog
    from kafka_webhook_bridge.sources.profile import Profile


def list_profiles(words: Sequence[str], paths: Sequence[Path], out: Output) -> None:
    """All profiles whose name or provider holds each of the words."""
    from kafka_webhook_bridge.sources.profile import EVIDENCE

    wanted = [word.lower() for word in words]
    profiles = _catalog(paths).load_all()
    found = [one for one in profiles if all(word in f"{one.name} {one.provider}".lower() for word in wanted)]
    rows = [_row(one) for one in found]
    out.data({"profiles": rows})
    if not rows:
        out.say(f"None of {len(profiles)} profiles is called so.")
        raise typer.Exit(FOUND_PROBLEM)
    out.table(
        ("profile", "provider", "scheme", "body", "evidence"),
        [(r["name"], r["provider"], r["scheme"], "yes" if r["covers_body"] else "no", r["evidence"]) for r in rows],
        whole=("profile", "evidence"),
    )
    for grade, sentence in EVIDENCE.items():
        if any(row["evidence"] == grade for row in rows):
            out.say(f"{grade}: {sentence}")
    out.say("body: whether all of it is signed; `kwb sources profile NAME` shows the rest")


def show_profile(name: str, paths: Sequence[Path], out: Output) -> None:
    """One profile, with a source to copy."""
    from kafka_webhook_bridge.sources.catalog import UnknownProfile
    from kafka_webhook_bridge.sources.profile import EVIDENCE
    from kafka_webhook_bridge.sources.prose import facts, snippet
    from kafka_webhook_bridge.sources.samples import has_samples, samples_of

    try:
        profile = _catalog(paths).load(name)
    except UnknownProfile as error:
        out.data(None)
        out.say(f"{str(error)[:1].upper()}{str(error)[1:]}.".replace("?.", "?"))
        raise typer.Exit(FOUND_PROBLEM) from None
    checked, source = [(what, _plain(words)) for what, words in facts(profile)], list(snippet(profile))
    events = [sample.type for sample in samples_of(profile)] if has_samples(profile) else []
    out.data(
        {
            **_row(profile),
            "events": events,
            "note": profile.note,
            "docs": profile.docs,
            "sources": profile.sources,
            "unverified": profile.unverified,
            "secret": profile.setup.secret,
            "params": profile.setup.params,
            "steps": profile.setup.steps,
            "pitfalls": profile.setup.pitfalls,
            "facts": [{"what": what, "words": words} for what, words in checked],
            "bridge_yaml": "\n".join(source) + "\n",
        }
    )
    out.say(f"{profile.name}  {profile.provider}", "bold")
    if profile.note:
        out.say(_plain(profile.note))
    out.say(f"Evidence: {profile.evidence}, {EVIDENCE[profile.evidence]}.")
    out.table(("what", "in words"), [*checked, ("secret", _plain(profile.setup.secret))])
    for pitfall in profile.setup.pitfalls:
        out.say(f"- {_plain(pitfall)}")
    out.say("In bridge.yaml:")
    for line in source:
        out.say(f"  {line}")
    out.say("Try it, or any other receiver of such webhooks:")
    out.say("  kwb send SOURCE")
    out.say(f"  kwb send ADDRESS --profile {name}")
    if events:
        out.say(f"Events that can be sent: {', '.join(events)}")


def _catalog(paths: Sequence[Path]) -> Catalog:
    from kafka_webhook_bridge.sources.catalog import Catalog

    catalog = Catalog(paths)
    if catalog.problems:
        raise ConfigError(catalog.problems, hint="Mend them and try again.")
    return catalog


def _row(profile: Profile) -> dict[str, Any]:
    from kafka_webhook_bridge.sources.prose import covers_body, traits

    return {
        "name": profile.name,
        "provider": profile.provider,
        "scheme": traits(profile).scheme,
        "covers_body": covers_body(profile),
        "evidence": profile.evidence,
        "packaged": profile.packaged,
    }


def _plain(words: str) -> str:
    return words.replace("`", "")
