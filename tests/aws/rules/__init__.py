"""What the templates must be. Each rule yields a sentence for each thing that is not so.

A rule of deploy-rules carries its number in its name. Rules look at a template resolved under one choice of parameters
(`World`); those of OF_TEMPLATES look at the templates themselves. They find things by what they are, never by the names
that the templates give them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from resolver import Unresolvable
from world import Scene, Templates, World, build

from rules import access, data, doors, kafka, network, policies, settings, shape, tasks, watch

Rule = Callable[[World], Iterator[str]]
RuleOfTemplates = Callable[[Templates], Iterator[str]]

_ROOMS = (shape, network, doors, tasks, settings, kafka, data, access, policies, watch)
RULES: tuple[Rule, ...] = tuple(rule for room in _ROOMS for rule in room.RULES)
OF_TEMPLATES: tuple[RuleOfTemplates, ...] = shape.OF_TEMPLATES


def judged(rule: Callable[..., Iterator[str]], subject: World | Templates) -> list[str]:
    """What a rule finds. What it cannot find its way in is not so, either."""
    try:
        return list(rule(subject))
    except (LookupError, TypeError, ValueError, AttributeError, Unresolvable) as problem:
        return [f"cannot be judged: {type(problem).__name__}: {problem}"]


def broken(found: Templates, scenes: Iterable[Scene]) -> dict[str, list[str]]:
    """Name of each rule that templates break → its sentences."""
    sentences: dict[str, list[str]] = {}
    for rule in OF_TEMPLATES:
        if said := judged(rule, found):
            sentences[rule.__name__] = said
    for scene in scenes:
        try:
            world = build(found, scene)
        except (Unresolvable, LookupError) as problem:
            sentences.setdefault("resolve", []).append(f"{scene}: {problem}")
            continue
        for rule_ in RULES:
            if said := judged(rule_, world):
                sentences.setdefault(rule_.__name__, []).extend(f"{scene}: {one}" for one in said)
    return sentences
