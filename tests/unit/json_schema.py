"""As much of JSON Schema (draft 2020-12) as the schemas of the project use. An unknown keyword is an error."""

from __future__ import annotations

import re
from typing import Any

_ABOUT = {"$schema", "$defs", "title", "description", "default", "format", "writeOnly", "discriminator"}
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "boolean": (bool,), "null": (type(None),),
    "integer": (int,), "number": (int, float),
}  # fmt: skip


def accepts(schema: dict[str, Any], value: Any, root: dict[str, Any] | None = None) -> bool:
    root = root or schema
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    for keyword, wanted in schema.items():
        match keyword:
            case "$ref":
                good = accepts(root["$defs"][wanted.removeprefix("#/$defs/")], value, root)
            case "type":
                kinds = [wanted] if isinstance(wanted, str) else wanted
                good = any(
                    isinstance(value, _TYPES[kind]) and (kind == "boolean") == isinstance(value, bool) for kind in kinds
                )
            case "anyOf":
                good = any(accepts(choice, value, root) for choice in wanted)
            case "oneOf":
                good = sum(accepts(choice, value, root) for choice in wanted) == 1
            case "const":
                good = value == wanted
            case "not":
                good = not accepts(wanted, value, root)
            case "enum":
                good = value in wanted
            case "pattern":
                good = not isinstance(value, str) or re.search(wanted, value, re.ASCII) is not None
            case "minimum":
                good = not number or value >= wanted
            case "maximum":
                good = not number or value <= wanted
            case "required":
                good = not isinstance(value, dict) or all(name in value for name in wanted)
            case "minLength":
                good = not isinstance(value, str) or len(value) >= wanted
            case "minProperties":
                good = not isinstance(value, dict) or len(value) >= wanted
            case "exclusiveMinimum":
                good = not number or value > wanted
            case "items":
                good = not isinstance(value, list) or all(accepts(wanted, item, root) for item in value)
            case "minItems":
                good = not isinstance(value, list) or len(value) >= wanted
            case "maxItems":
                good = not isinstance(value, list) or len(value) <= wanted
            case "propertyNames":
                good = not isinstance(value, dict) or all(accepts(wanted, name, root) for name in value)
            case "properties" | "patternProperties" | "additionalProperties":
                good = not isinstance(value, dict) or all(_member(schema, name, value[name], root) for name in value)
            case _:
                assert keyword in _ABOUT, keyword
                good = True
        if not good:
            return False
    return True


def _member(schema: dict[str, Any], name: str, value: Any, root: dict[str, Any]) -> bool:
    known = [schema["properties"][name]] if name in schema.get("properties", {}) else []
    known += [inside for pattern, inside in schema.get("patternProperties", {}).items() if re.search(pattern, name)]
    if not known:
        return schema.get("additionalProperties", True) is not False
    return all(accepts(inside, value, root) for inside in known)
