"""What a source does with an event besides storing it: leave it out, choose its topic, take secrets out of it.

    proven request ──filter──▶ dropped, answered and counted
                        └──▶ topic ──▶ event ──redact──▶ event, marked as altered ──split──▶ several

Rules read places as templates do (keys.py), in the request as it came; what is stored of it afterwards may be less.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from kafka_webhook_bridge.event import Request
from kafka_webhook_bridge.sources.keys import KeyTemplate, Part, parse_part
from kafka_webhook_bridge.sources.redact import Redaction
from kafka_webhook_bridge.sources.split import Splitter

RULES_MAX: Final = 50
TOPICS_MAX: Final = 100  # that one source may choose from

_OUTSIDE = re.compile(rb"[^A-Za-z0-9._-]")


class Dropped(NamedTuple):
    """A request that its source's filter leaves out, by the rule of that name."""

    rule: str


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a filter. A condition holds when the value there is one of these, or is there at all or not."""

    name: str
    drops: bool
    conditions: tuple[tuple[Part, frozenset[bytes] | bool], ...]

    def matches(self, request: Request, document: Any) -> bool:
        """Whether all conditions hold. Never raises."""
        for part, wanted in self.conditions:
            found = part.read(request, document)
            if not (bool(found) is wanted if isinstance(wanted, bool) else found in wanted):
                return False
        return True


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of one source; `text` is what people may read of them, in JSON's values."""

    filter: tuple[Rule, ...] = ()
    topic: KeyTemplate | None = None
    redaction: Redaction | None = None
    split: Splitter | None = None
    text: Any = None

    @property
    def needs_json(self) -> bool:
        """Whether the body must be parsed for them."""
        return (
            any(part.kind == "json" for rule in self.filter for part, _ in rule.conditions)
            or (self.topic is not None and self.topic.needs_json)
            or (self.redaction is not None and self.redaction.needs_json)
            or self.split is not None
        )

    def dropped(self, request: Request, document: Any) -> Dropped | None:
        """The first rule that matches decides; where none does, the event is kept. Never raises."""
        for rule in self.filter:
            if rule.matches(request, document):
                return Dropped(rule.name) if rule.drops else None
        return None

    def topic_of(self, request: Request, document: Any) -> str:
        """What the topic's template gives, in Kafka's alphabet; empty where it gives nothing. Never raises."""
        found = None if self.topic is None else self.topic.render(request, document)
        return "" if found is None else _OUTSIDE.sub(b"_", found).decode()


def parse_place(text: str) -> Part:
    """The place that a condition reads, such as `header:X-Event`. Raises ValueError with a sentence for people."""
    part = parse_part(text)
    if "*" in part.path:
        raise ValueError(f"{text}: a condition reads one value, so there is no `*` in it")
    return part


def compile_rule(name: str, *, drops: bool, when: dict[str, frozenset[str] | bool]) -> Rule:
    """One rule of the words of bridge.yaml."""
    conditions = [
        (parse_place(place), wanted if isinstance(wanted, bool) else frozenset(one.encode() for one in wanted))
        for place, wanted in when.items()
    ]
    return Rule(name, drops, tuple(conditions))


def unlisted(literals: Sequence[str], template: KeyTemplate) -> list[str]:
    """Those of these topics that the template can never give."""
    pattern = b"".join(
        re.escape(_OUTSIDE.sub(b"_", part)) if isinstance(part, bytes) else b".+" for part in template.parts
    )
    return [topic for topic in literals if not re.fullmatch(pattern, topic.encode())]
