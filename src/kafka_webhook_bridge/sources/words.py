"""pydantic's errors as sentences for people: the place in their file, what is wrong, and the nearest right word."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from kafka_webhook_bridge.sources.document import Path

_EXPECTED = {
    "string_type": "must be text; write it in quotes",
    "string_sub_type": "must be text; write it in quotes",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "list_type": "must be a list, such as [POST, PUT]",
    "dict_type": "must be a mapping of keys to values",
    "model_type": "must be a mapping of keys to values",
    "model_attributes_type": "must be a mapping of keys to values",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
    "finite_number": "must be a finite number",
}


def explain(model: type[BaseModel], path: Path, error: Any, whole: str = "bridge.yaml") -> tuple[Path, str]:
    """Place and sentence of one error of `model`, which was read at `path` of the file called `whole`.

    Values are named only where a choice was missed: never secrets.
    """
    inner, around, annotation = _resolve(model, error["loc"])
    inside: Path = (*path, *inner)
    kind, context, last = error["type"], error.get("ctx", {}), inside[-1] if inside else ""
    name = ".".join(map(str, inside)) or whole
    if kind == "extra_forbidden":
        known = _fields(around) if around else []
        near = difflib.get_close_matches(str(last), known, 1)
        what = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(known)}"
        return inside, f"{name}: unknown key; {what}"
    if kind == "literal_error":
        choices = _choices(annotation) or context["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        return inside, f"{name}: {_none_of(error['input'], choices)}"
    if kind == "union_tag_invalid":
        tag = context["discriminator"].strip("'")
        choices = context["expected_tags"].replace("'", "").split(", ")
        return (*inside, tag), f"{name}.{tag}: {_none_of(context['tag'], choices)}"
    if kind == "union_tag_not_found":
        tag = context["discriminator"].strip("'")
        return inside, f"{name}: `{tag}` is missing"
    if kind == "less_than_equal" and str(last).endswith("bytes_max"):
        return inside, f"{name}: at most {context['le'] // 1024**2} MiB"
    if kind == "value_error":
        return inside, f"{name}: {context['error']}"
    if kind == "missing":
        return inside, f"{name} is missing"
    if kind == "string_pattern_mismatch":
        return inside, f"{name}: {as_yaml(error['input'])} does not match {context['pattern']}"
    sentence = _EXPECTED.get(kind) or error["msg"].replace("Input should be", "must be").lower()
    return inside, f"{name}: {sentence}"


def as_yaml(value: Any) -> str:
    """A value as people wrote it: `null`, `true`; text in quotes, because that may be spelled like the others."""
    if isinstance(value, (dict, list)):
        return "a mapping" if isinstance(value, dict) else "a list"
    return repr(value) if isinstance(value, str) else json.dumps(value, default=str)


def _none_of(value: Any, choices: Sequence[str]) -> str:
    given = str(value)
    near = difflib.get_close_matches(given, choices, 1) or [c for c in choices if c.lower() == given.lower()]
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{as_yaml(value)} is none of {', '.join(choices)}{hint}"


def _fields(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _field(model: type[BaseModel], step: str | int) -> FieldInfo | None:
    for name, field in model.model_fields.items():
        if step == (field.alias or name):
            return field
    return None


def _resolve(model: type[BaseModel], loc: Sequence[str | int]) -> tuple[Path, type[BaseModel] | None, Any]:
    """The place that people wrote, without what pydantic adds for unions; the model that it belongs to; its type."""
    path: list[str | int] = []
    annotation: Any = model
    around: type[BaseModel] | None = model
    for step in loc:
        models = _models(annotation)
        if len(models) > 1 and (chosen := [one for one in models if _has_tag(one, step)]):
            annotation = chosen[0]
            continue
        if step == "[key]" or (annotation is not None and not models and not _holds(annotation)):
            continue  # a member of a union of plain values
        path.append(step)
        around = models[0] if models else None
        field = _field(models[0], step) if models else None
        annotation = field.annotation if field else None if models else _inside(annotation)
    return tuple(path), around, annotation


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (list, dict, tuple):
        return []
    return [model for inner in get_args(annotation) for model in _models(inner)]


def _has_tag(model: type[BaseModel], step: str | int) -> bool:
    return any(
        get_origin(field.annotation) is Literal and step in get_args(field.annotation)
        for field in model.model_fields.values()
    )


def _choices(annotation: Any) -> list[str]:
    """Every text that a type allows by name."""
    if get_origin(annotation) is Literal:
        return [choice for choice in get_args(annotation) if isinstance(choice, str)]
    return [choice for inner in get_args(annotation) for choice in _choices(inner)]


def _holds(annotation: Any) -> bool:
    """Whether it is, or may be, a list or a mapping."""
    return get_origin(annotation) in (list, dict, tuple) or any(map(_holds, get_args(annotation)))


def _inside(annotation: Any) -> Any:
    """What a list or a mapping holds."""
    if get_origin(annotation) in (list, dict, tuple):
        return get_args(annotation)[-1]
    return next((_inside(inner) for inner in get_args(annotation) if _holds(inner)), None)
