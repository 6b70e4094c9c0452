"""The statements of queries/*.sql by name."""

from __future__ import annotations

import re
from importlib.resources import files

from kafka_webhook_bridge.formats.rows import COLUMNS

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


def read(text: str) -> dict[str, str]:
    """Statements by name. Each stands below `-- name: it` and a sentence as comment."""
    parts = _NAME.split(text)
    names, bodies = parts[1::2], parts[2::2]
    assert len(set(names)) == len(names), "a name stands twice"
    return {name: body.strip().removesuffix(";") for name, body in zip(names, bodies, strict=True)}


COLUMN_LIST = ", ".join(f'"{name}"' if name == "offset" else name for name in COLUMNS)
QUERIES = read("\n".join(f.read_text(encoding="utf-8") for f in files(__package__).joinpath("queries").iterdir()))
