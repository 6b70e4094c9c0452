"""Writes docs/reference: what the code itself knows about its settings, errors, metrics, commands and formats.

The tables in the pages about AWS, which aws_tables.py makes of the templates, and docs/providers, which
provider_pages.py makes of the catalog, are written with them.

    python tools/reference.py           write the pages            (make docs)
    python tools/reference.py --check   name those that are stale   exit 1 (make lint, tests/docs)

Nothing here states a fact of its own: a page is a table of the code, drawn. The two exceptions are the sentences about
record headers, and they are checked against the headers of a real record.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import BaseModel, SecretStr

import aws_tables
import provider_pages
from kafka_webhook_bridge import cli, errors, settings
from kafka_webhook_bridge.errors import KwbError, Refusal
from kafka_webhook_bridge.event import Altered, Event, Request
from kafka_webhook_bridge.formats import cloudevents, encode, envelope, headers
from kafka_webhook_bridge.observability import metrics
from kafka_webhook_bridge.sources import keys, model, profile
from kafka_webhook_bridge.sources.config import load_sources
from kafka_webhook_bridge.sources.source import NAME, Format
from tables import table

FOLDER = Path(__file__).parents[1] / "docs/reference"
_MADE_BY = "<!-- Made by tools/reference.py (`make docs`); changes here are lost. -->"
_UNITS = ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB"))


def main(arguments: Sequence[str]) -> int:
    """Exit status: 1 when `--check` finds a page that is not what the code says."""
    if "--check" in arguments:
        for problem in stale():
            print(problem)
        return 1 if stale() else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    for path, text in aws_tables.pages().items():
        path.write_text(text, encoding="utf-8")
    provider_pages.write()
    return 0


def pages() -> dict[str, str]:
    """File name → text of every generated page."""
    return {
        "settings.md": settings_page(),
        "errors.md": errors_page(),
        "metrics.md": metrics_page(),
        "commands.md": commands_page(),
        "bridge-yaml.md": bridge_yaml_page(),
        "bridge.schema.json": json.dumps(model.json_schema(), indent=2, ensure_ascii=False) + "\n",
        "headers.md": headers_page(),
        "catalog.md": provider_pages.catalog_page(),
        "catalog.schema.json": json.dumps(profile.json_schema(), indent=2, ensure_ascii=False) + "\n",
    }


def stale() -> list[str]:
    """One line per page that is missing or differs from the code."""
    found = []
    for name, text in pages().items():
        path = FOLDER / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            found.append(f"docs/reference/{name}: not what the code says; run `make docs`")
    return found + aws_tables.stale() + provider_pages.stale()


# ── settings ──────────────────────────────────────────────────────────────────────────────────────────────────────


def settings_page() -> str:
    lines = _head(
        "Settings",
        "Every setting is an environment variable. `kwb config show` prints their values and where each came from.",
        "Sizes (`…_BYTES_MAX`) may be written `64MiB`, numbers with underscores, truth as `true` or `false`. A secret "
        "may be written `file:/path`: its file's content without the newline at the end. An unknown `KWB_` name is an "
        "error that names the nearest one. An empty variable counts as not set.",
    )
    rows = settings.rows()
    for room, cls in settings.ROOMS.items():
        lines += [f"## {room}", "", inspect.getdoc(cls) or "", ""]
        lines += table(
            ("variable", "default", "value", "what it is"),
            ((f"`{r.env}`", _default(r), _value(r), r.sentence) for r in rows if r.room == room),
        )
    return _text(lines)


def _default(row: settings.Row) -> str:
    if row.default is None or row.default in ("", ()):
        return "–"
    if isinstance(row.default, bool):
        return f"`{str(row.default).lower()}`"
    return f"`{_amount(row.name, row.default)}`"


def _amount(name: str, value: object) -> str:
    """`1MiB` for sizes that are one, digits for the rest."""
    if name.endswith("bytes_max") and isinstance(value, int):
        for size, unit in _UNITS:
            if value and value % size == 0:
                return f"{value // size}{unit}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _value(row: settings.Row) -> str:
    kinds = [kind for kind in _alternatives(row.type) if kind is not type(None)]
    kind = kinds[0]
    if kind is SecretStr:
        return "secret"
    if get_origin(kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(kind))
    if get_origin(kind) is tuple:
        return "list"
    if kind in (int, float):
        name = "size" if row.name.endswith("bytes_max") else "number"
        low = None if row.low is None else f"≥ {_amount(row.name, row.low)}"
        high = None if row.high is None else f"≤ {_amount(row.name, row.high)}"
        return ", ".join(part for part in (name, low, high) if part)
    return {str: "text", bool: "true or false"}[kind]


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return (kind,) if get_origin(kind) in (Literal, tuple) or not get_args(kind) else get_args(kind)


# ── errors ────────────────────────────────────────────────────────────────────────────────────────────────────────


def errors_page() -> str:
    lines = _head(
        "Errors",
        "A code is `room.what_happened` and stays as it is for ever; the words around it may change.",
    )
    lines += [
        "## Answers to senders",
        "",
        "`application/problem+json` (RFC 9457) with `type` (`urn:kwb:error:<code>`), `title`, `status`, `code`, "
        "`detail` and, where one exists, `event_id`.",
        "",
        "*closes*: the connection ends after the answer. *retry*: the answer has `Retry-After`, with jitter.",
        "",
    ]
    lines += table(
        ("code", "status", "what the sender reads", "what the operator does", ""),
        (
            (f"`{r.code}`", f"{r.status} {r.title}", r.detail, r.hint, _manner(r))
            for r in sorted(errors.REFUSALS.values(), key=lambda r: r.status)
        ),
    )
    lines += [
        "## Failures told to an operator",
        "",
        "`kwb` prints a message and a hint on standard error, with `--json` an object with `code`, `message` and "
        "`hint`. It ends with 0 when all is well, 1 when it found a problem, 2 after wrong use or configuration, 130 "
        "after Ctrl-C, 141 when nobody reads its output any more.",
        "",
    ]
    lines += table(
        ("code", "exit", "when"),
        ((f"`{cls.code}`", str(cls.exit_code), _first_line(cls)) for cls in _tree(KwbError)),
    )
    return _text(lines)


def _manner(refusal: Refusal) -> str:
    return ", ".join(word for word, is_so in (("closes", refusal.close), ("retry", refusal.retry)) if is_so)


def _tree(cls: type[KwbError]) -> list[type[KwbError]]:
    own = [one for one in cls.__subclasses__() if "code" in vars(one) and one.__module__ == errors.__name__]
    return [cls, *(deeper for one in own for deeper in _tree(one))]


# ── metrics ───────────────────────────────────────────────────────────────────────────────────────────────────────


def metrics_page() -> str:
    lines = _head(
        "Metrics",
        "`GET /metrics` on the management port gives all processes of one bridge as one sum; totals survive the death "
        "of a worker. A series with labels appears when it is first counted.",
        "Accounting: `received` = `acked` + `suppressed` + `filtered` + `handshakes` + `rejected` + `refused` + "
        "`aborted`, as soon as nothing is in flight. Events are counted apart, by `kwb_events_total`.",
    )
    for heading, names in (
        ("Counters", get_args(metrics.CounterName)),
        ("Gauges", get_args(metrics.GaugeName)),
        ("Histograms", get_args(metrics.HistogramName)),
    ):
        lines += [f"## {heading}", ""]
        rows = ((name, metrics.TABLE[name]) for name in names)
        lines += table(
            ("name", "labels", "what it counts"),
            ((f"`{name}`", ", ".join(f"`{label}`" for label in row.labels), row.sentence) for name, row in rows),
        )
        if heading == "Histograms":
            bounds = sorted({bucket for row in metrics.TABLE.values() for bucket in row.buckets_seconds})
            lines += [f"Buckets in seconds: {', '.join(f'{bound:g}' for bound in bounds)}.", ""]
    lines += ["## Processes", "", "One series per process, label `process`.", ""]
    lines += table(
        ("name", "what it is"), ((f"`{name}`", sentence) for name, sentence in metrics.PROCESS_TABLE.items())
    )
    lines += ["## Labels", ""]
    lines += table(("label", "values"), ((f"`{label}`", _label(label, kind)) for label, kind in _hints(metrics.Labels)))
    lines += [
        f"Requests without a known source count as `{metrics.UNKNOWN_SOURCE}`; values beyond a bound as "
        f"`{metrics.OTHER}`.",
    ]
    return _text(lines)


def _hints(cls: type) -> Iterable[tuple[str, Any]]:
    return get_type_hints(cls).items()


def _label(label: str, kind: Any) -> str:
    if get_origin(kind) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(kind))
    meaning = {
        "source": "the source's name",
        "topic": "the topic's name",
        "code": "a code of [errors](errors.md)",
        "error": "the name that Kafka or PostgreSQL gives",
        "rule": "the name of a rule of a `filter`",
    }[label]
    return f"{meaning}, at most {metrics.OPEN_LABELS_MAX[label]} of them"


# ── commands ──────────────────────────────────────────────────────────────────────────────────────────────────────


def commands_page() -> str:
    lines = _head(
        "Commands",
        "Tables and colour on a terminal, JSON with `--json`. Results go to standard output, everything else to "
        "standard error. `kwb --install-completion` sets up completion for the shell.",
    )
    for name in cli.GROUPS:
        try:
            command = cli.load(name)
        except KwbError:
            continue  # announced, not in this version
        lines += _command(command, ["kwb", name])
    return _text(lines)


def _command(command: Any, path: list[str]) -> list[str]:
    is_group = hasattr(command, "commands")
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden and "--help" not in p.opts]
    needs = " ".join(_argument(p) for p in arguments)
    words = [*path, "[OPTIONS]" if options else "", needs, "COMMAND" if is_group else ""]
    lines = [f"{'#' * min(len(path), 4)} {' '.join(path)}", ""]
    lines += [inspect.cleandoc(command.help or "").replace("\f", ""), ""]
    lines += ["```", " ".join(word for word in words if word), "```", ""]
    if arguments or options:
        lines += table(
            ("", "default", "what it is"),
            [(f"`{_argument(p)}`", "", p.help or "") for p in arguments]
            + [(_option(p), _option_default(p), p.help or "") for p in options],
        )
    for name, inner in getattr(command, "commands", {}).items():
        lines += _command(inner, [*path, name])
    return lines


def _argument(parameter: Any) -> str:
    name = parameter.name.upper() + ("…" if parameter.nargs == -1 else "")
    return name if parameter.required else f"[{name}]"


def _option(parameter: Any) -> str:
    names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
    annotation = parameter.type_descriptor.annotation
    choices = [str(one) for kind in _alternatives(annotation) if get_origin(kind) is Literal for one in get_args(kind)]
    if choices:
        return f"{names} {', '.join(choices)}"
    return names if annotation is bool or bool in get_args(annotation) else f"{names} {parameter.name.upper()}"


def _option_default(parameter: Any) -> str:
    value = parameter.default
    if value is None or isinstance(value, (bool, list, tuple)) or value == "" or callable(value):
        return ""
    return f"`{value}`"


# ── bridge.yaml ───────────────────────────────────────────────────────────────────────────────────────────────────


def bridge_yaml_page() -> str:
    lines = _head(
        "bridge.yaml",
        "`KWB_CONFIG` holds the path of this file, or the YAML itself. Every problem is reported at once, with file, "
        "line and the nearest right word: `kwb config check`.",
        "`${NAME}` is replaced by an environment variable. `username`, `password`, `secrets` and `params` may be "
        "`file:/path`. "
        "[bridge.schema.json](bridge.schema.json) is the JSON Schema, for editors.",
    )
    lines += ["```yaml", *inspect.cleandoc(_EXAMPLE).splitlines(), "```", ""]
    lines += ["## The file", ""]
    lines += _fields(model.BridgeModel)
    lines += ["## A source", "", f"{_first_line(model.SourceModel)} The name is `{NAME.pattern}`.", ""]
    lines += _fields(model.SourceModel)
    lines += ["`answer`, `verify`: the words of [files of the catalog](catalog.md).", ""]
    for name, inner in (("filter", model.FilterRule), ("redact", model.RedactModel)):
        lines += [f"### {name}", "", _first_line(inner), ""]
        lines += _fields(inner)
    lines += ["[What they do](../howto/rules.md).", ""]
    lines += ["## Partition keys", "", inspect.cleandoc(keys.__doc__ or ""), ""]
    lines += [f"`KEY_BYTES_MAX` is {keys.KEY_BYTES_MAX}.", ""]
    return _text(lines)


_EXAMPLE = """
    # yaml-language-server: $schema=bridge.schema.json
    sources:
      github:                             # /github, topic github
        profile: github                   # how GitHub signs, greets and names its events
        secrets: ["${GITHUB_SECRET}"]     # several while they are rotated
      shop:                               # with a user name and password of its own
        topic: shop.orders
        username: shop
        password: ${SHOP_PASSWORD}
        key: "{json:order.id}"
      erp:
        format: cloudevents
        body_bytes_max: 5MiB
        methods: [POST]
        rate_limit_per_second: 200
"""


def example() -> str:
    """The example of the page, for the test that loads it."""
    return inspect.cleandoc(_EXAMPLE)


def _fields(cls: type[BaseModel]) -> list[str]:
    schema = cls.model_json_schema()
    return table(
        ("key", "default", "value", "what it is"),
        (
            (f"`{name}`", _field_default(row.get("default")), _field_value(row), row.get("description", ""))
            for name, row in schema["properties"].items()
        ),
    )


def _field_default(value: object) -> str:
    if value is None or value == {}:
        return "–"
    if isinstance(value, list):
        return f"`[{', '.join(value)}]`"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _field_value(row: dict[str, Any]) -> str:
    """What a key takes, in words, from its JSON Schema."""
    kinds = [kind for kind in row.get("anyOf", [row]) if kind.get("type") != "null"]
    if len(kinds) > 1 or "anyOf" in kinds[0]:
        return "size"  # bytes as a number, or text with a unit
    kind = kinds[0]
    if "enum" in kind:
        return ", ".join(f"`{choice}`" for choice in kind["enum"])
    if kind.get("type") == "array":
        return f"list of {_field_value(kind['items'])}"
    if kind.get("format") == "password":
        return "secret"
    if "$ref" in kind:
        return "mapping"
    if kind["type"] == "object":
        holds = kind.get("additionalProperties")
        return "name → source" if holds is False else "name → text" if isinstance(holds, dict) else "mapping"
    return {"boolean": "true or false", "string": "text"}.get(kind["type"], "number")


# ── record headers ────────────────────────────────────────────────────────────────────────────────────────────────

# Every fixed header, and when it is there.
HEADERS: dict[str, str] = {
    "ce_specversion": "always `1.0`",
    "ce_id": "the event id, a UUIDv7; its first 48 bits are the time of receipt in milliseconds",
    "ce_source": "`/sources/<source>`",
    "ce_type": "the event's type by the source or its profile (`orders/create`), else `webhook.<source>`",
    "ce_time": "the time inside the event id (RFC 3339, UTC, milliseconds)",
    "content-type": "of the value: the request's own with `raw` (absent where the sender gave none)",
    "kwb_source": "name of the source",
    "kwb_method": "the request's method",
    "kwb_path": "the path as bytes of the request line, undecoded",
    "kwb_query": "what follows `?`, undecoded; absent without a `?`",
    "kwb_verified": "what proved the sender: `hmac-sha256`, `jwt`, `token`, `basic`, `basic+hmac-sha256` …, or `none`",
    "kwb_covers_body": "`true` where that scheme signs the whole body, so a consumer can check it again; else `false`",
    "kwb_dedupe_key": "digest of source and the sender's own delivery id; absent where none is known",
    "traceparent": "copy of the request's (W3C Trace Context); absent where the sender gave none",
    "kwb_format": "`cloudevents` or `envelope`; absent with `raw`",
    "kwb_altered": "what [rules](../howto/rules.md) did to it: `redact`, `split` or `redact,split`; else absent",
    "kwb_body_sha256": "with `kwb_altered`: the SHA-256, in hex, of the body as it came",
    "kwb_parent_id": "of a part of a request that was split: the event id of its first part, which is in the receipt",
    "kwb_part": "the number of the part, from 1, and how many there are: `1/3`",
}


def headers_page() -> str:
    lines = _head(
        "The Kafka record",
        "Key: what the source's `key` template gives, else null. Value: by the source's `format`. Headers: below, then "
        "those of the request.",
    )
    lines += ["## Value", ""]
    lines += table(
        ("format", "value", "content-type"),
        (
            ("`raw` (default)", "the body, byte for byte; CloudEvents 1.0 binary mode in the headers", "the request's"),
            ("`cloudevents`", "CloudEvents 1.0 structured JSON", f"`{cloudevents.CONTENT_TYPE.decode()}`"),
            ("`envelope`", "the whole request as one JSON object", f"`{envelope.CONTENT_TYPE.decode()}`"),
        ),
    )
    lines += [
        "In the structured formats the body stands last: JSON as it came, other UTF-8 as a JSON string, the rest in "
        "base64. Either gives the exact bytes back ([why and how](../explanation/bytes.md)).",
        "",
        "## Headers that the bridge sets",
        "",
    ]
    lines += table(("header", "value"), ((f"`{name}`", sentence) for name, sentence in HEADERS.items()))
    lines += [
        "A sender cannot set any of these: names that begin with "
        + ", ".join(f"`{name}`" for name in headers.RESERVED)
        + " are the bridge's, and a request's own headers only ever become `http_…`.",
        "",
        "## Headers of the request",
        "",
        "One record header `http_<name>` per field line, in order: the name in lower case with its hyphens, the value "
        "as the bytes that came. Signature headers stay, they are the evidence; a token that a profile reads from a "
        "header or the query is `[redacted]`. Left out:",
        "",
        f"- credentials: {_names(headers.CREDENTIALS)}; one that a profile calls proof is kept",
        f"- what belongs to the connection: {_names(headers.HOP_BY_HOP)}, `proxy-…`, and what `connection` names",
        "",
        "## An example",
        "",
        '`POST /shop/orders?test=1` with `Content-Type: application/json` and the body `{"id":1}`:',
        "",
    ]
    for fmt in get_args(Format):
        value, pairs = example_record(fmt)
        lines += [f"`{fmt}`", "", "```"]
        lines += [f"{name}: {data.decode()}" for name, data in pairs]
        lines += ["", value.decode(), "```", ""]
    return _text(lines)


def _names(names: Iterable[bytes]) -> str:
    return ", ".join(f"`{name.decode()}`" for name in sorted(names))


def example_record(fmt: str, *, everything: bool = False) -> tuple[bytes, list[tuple[str, bytes]]]:
    """Value and headers of the example in that format; `everything`: with each header that can be there."""
    given = settings.load_settings(
        {"WEBHOOK_USERNAME": "u", "WEBHOOK_PASSWORD": "p", "KWB_CONFIG": f"sources: {{shop: {{format: {fmt}}}}}"}
    )
    source = load_sources(given, {}).get("shop")
    assert source is not None
    sent = [(b"Host", b"hooks.example.com"), (b"Content-Type", b"application/json")]
    if everything:
        sent.append((b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"))
    request = Request(b"POST", b"/shop/orders", b"test=1", sent, b'{"id":1}', "127.0.0.1")
    event = Event(
        "01938e9c-2a00-7000-8000-000000000000",
        0x01938E9C2A00,
        source,
        request,
        source.default_type,
        None,
        "basic",
        False,
        "0" * 64 if everything else None,
        Altered("split", "0" * 64, "01938e9c-2a00-7000-8000-000000000000", 1, 3) if everything else None,
    )
    record = encode(event)
    return record.value, record.headers


# ── Markdown ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _head(title: str, *paragraphs: str) -> list[str]:
    return [_MADE_BY, "", f"# {title}", "", *(line for text in paragraphs for line in (text, ""))]


def _first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def _text(lines: Iterable[str]) -> str:
    return "\n".join(line.rstrip() for line in lines).rstrip() + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
