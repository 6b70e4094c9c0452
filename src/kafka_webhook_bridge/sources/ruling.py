"""A source's rules out of bridge.yaml, and every mistake in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from kafka_webhook_bridge.sources.keys import FirstOf, KeyTemplate, Part, parse_template
from kafka_webhook_bridge.sources.model import SourceModel, check_topic
from kafka_webhook_bridge.sources.redact import Redaction, overlap, parse_path, redaction_of
from kafka_webhook_bridge.sources.rules import Rules, compile_rule, unlisted
from kafka_webhook_bridge.sources.source import Source
from kafka_webhook_bridge.sources.split import Splitter, parse_split

Say = Callable[[str, str], None]
"""Records a problem: the key of the source that it is about, and a sentence."""


def is_template(text: str | None) -> bool:
    """Whether a `topic` of bridge.yaml leads to several."""
    return text is not None and "{" in text


def rules_of(model: SourceModel, say: Say, *, read: Mapping[str, Any], decodes: bool) -> Rules | None:
    """The rules of a source, None if it has none. `read` are its templates by key, which read the request as it came;
    `decodes` tells that its profile looks for the event inside the body."""
    template = _template(model, say)
    redaction = _redaction(model, say, {**read, "topic": template}, decodes=decodes)
    filters = tuple(
        compile_rule(rule.drop or rule.keep or "", drops=rule.drop is not None, when=rule.when) for rule in model.filter
    )
    split = _split(model, say, decodes=decodes)
    names = [rule.name for rule in filters]
    for name in sorted({name for name in names if names.count(name) > 1}):
        say("filter", f"two rules are called {name}")
    if not filters and template is None and redaction is None and split is None:
        return None
    text = {
        "topic": template and template.text,
        "filter": [_text_of(rule.model_dump()) for rule in model.filter],
        "redact": model.redact and model.redact.model_dump(by_alias=True),
        "split": model.split,
    }
    return Rules(filters, template, redaction, split, text)


def with_branches(source: Source, model: SourceModel) -> Source:
    """The source with one more of itself for each other topic that its template may give."""
    if source.rules is None or source.rules.topic is None:
        return source
    return replace(source, branches={topic: replace(source, topic=topic) for topic in model.topics})


def _text_of(rule: Mapping[str, Any]) -> dict[str, Any]:
    when = {place: wanted if isinstance(wanted, bool) else sorted(wanted) for place, wanted in rule["when"].items()}
    return {key: when if key == "when" else value for key, value in rule.items() if value is not None}


def _template(model: SourceModel, say: Say) -> KeyTemplate | None:
    if model.topic is None or not is_template(model.topic):
        for key in ("topics", "topic_otherwise"):
            if key in model.model_fields_set:
                say(key, "`topic` has no {…}, so it is the only one")
        return None
    template = parse_template(model.topic)
    try:
        check_topic("".join(part.decode() for part in template.parts if isinstance(part, bytes)) or "x")
    except ValueError as error:
        say("topic", str(error))
        return None
    if not model.topics:
        say("topic", "a template leads nowhere without `topics`: no sender may choose a topic that is not listed there")
    for topic in unlisted(model.topics, template):
        say("topics", f"{topic} is nothing that {model.topic} can give")
    if model.topic_otherwise in model.topics:
        say("topic_otherwise", f"{model.topic_otherwise} is one of `topics`; events of no topic need one of their own")
    return template


def _redaction(model: SourceModel, say: Say, read: Mapping[str, Any], *, decodes: bool) -> Redaction | None:
    row = model.redact
    if row is None:
        return None
    if not (row.json_ or row.headers or row.query):
        say("redact", "names nothing")
    if row.json_ and decodes:
        say("redact", "the profile's events are wrapped in their bodies, where no member of JSON can be taken out")
    for key, template in read.items():
        for part in _parts(template):
            if (found := _hidden(part, row.json_, row.headers, row.query)) is not None:
                what = f"{found} is what `{key}` shows in every record; take it out there, too"
                say("redact", what)
    return redaction_of(row.json_, row.headers, row.query)


def _split(model: SourceModel, say: Say, *, decodes: bool) -> Splitter | None:
    if model.split is None:
        return None
    found = parse_split(model.split)
    if decodes:
        say("split", "the profile's events are wrapped in their bodies, where there is no array to split")
    if model.dedupe == "suppress":
        say("split", "`dedupe: suppress` answers for one event; parts can be marked as duplicates, by `mark` or `body`")
    for path in map(parse_path, model.redact.json_ if model.redact is not None else ()):
        if len(path) <= len(found.path) and overlap(path, found.path):
            say("split", f"{'.'.join(path)} is taken out by `redact`, and {model.split} with it")
    return found


def _parts(template: Any) -> list[Part]:
    """What a template reads. A digest of the whole body shows nothing of it."""
    if isinstance(template, FirstOf):
        return [part for one in template.templates for part in _parts(one)]
    return [part for part in template.parts if isinstance(part, Part)] if isinstance(template, KeyTemplate) else []


def _hidden(part: Part, paths: list[str], headers: list[str], query: list[str]) -> str | None:
    """The word of `redact` that takes out what a template reads."""
    if part.kind == "json":
        return next((path for path in paths if overlap(parse_path(path), part.path)), None)
    if part.kind == "header":
        return next((name for name in headers if name.lower().encode() == part.name), None)
    return next((name for name in query if part.kind == "query" and name.encode() == part.name), None)
