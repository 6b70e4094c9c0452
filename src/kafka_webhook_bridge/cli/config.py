"""`kwb config`: what is wrong with the configuration, what is in force and where it came from, and its schema."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from kafka_webhook_bridge.cli.output import Json, Output

if TYPE_CHECKING:
    from kafka_webhook_bridge.settings import Row

REDACTED = "[redacted]"


def register(app: typer.Typer) -> None:
    """`kwb config check [FILE]`, `kwb config show`, `kwb config schema`."""
    config = typer.Typer(no_args_is_help=True)
    app.add_typer(config, name="config", help="Check and show the configuration.")

    @config.command()
    def check(
        file: Annotated[
            str | None, typer.Argument(help="A bridge.yaml. Default: what KWB_CONFIG names.", show_default=False)
        ] = None,
        json: Json = False,
    ) -> None:
        """Everything that `kwb serve` would refuse, at once. Connects to nothing. Ends with 2 when something is wrong.

        Settings come from the environment; `kwb doctor` looks at the servers, too.
        """
        check_all(file, Output(json=json))

    @config.command()
    def show(json: Json = False) -> None:
        """Every setting, its value and where it came from. Secrets are not shown."""
        show_settings(Output(json=json))

    @config.command()
    def schema(json: Json = False) -> None:
        """The JSON Schema of bridge.yaml, for editors and CI."""
        show_schema(Output(json=True))


def check_all(file: str | None, out: Output) -> None:
    from kafka_webhook_bridge.app.preflight import load
    from kafka_webhook_bridge.settings import rows

    found = load(bridge_config=file)
    sources = found.sources
    changed = [row.env for row in rows() if found.origin[f"{row.room}.{row.name}"] != "default"]
    out.data(
        {
            "ok": True,
            "sources": [source.name for source in sources.all()],
            "open_rule": sources.open_rule,
            "hash": sources.hash,
            "changed": changed,
        }
    )
    count = len(sources.all())
    rule = ", and the open rule takes any other name" if sources.open_rule else ""
    out.say("The configuration is right", "bold green")
    out.say(f"  bridge.yaml  {count} source{'s'[: count != 1]}{rule} (hash {sources.hash})")
    out.say(f"  settings     {len(found.origin)}, of which {len(changed)} are not at their defaults")


def show_settings(out: Output) -> None:
    from kafka_webhook_bridge.settings import ROOMS, load_settings_with_origin, rows

    settings, origin = load_settings_with_origin()
    found = [
        {
            "room": row.room,
            "name": row.name,
            "variable": row.env,
            "value": _shown(row, getattr(getattr(settings, row.room), row.name)),
            "origin": origin[f"{row.room}.{row.name}"],
            "secret": row.secret,
        }
        for row in rows()
    ]
    out.data(found)
    for room, cls in ROOMS.items():
        out.say(f"{room}: {' '.join((cls.__doc__ or '').split())}", "bold")
        out.table(
            ("variable", "value", "from"),
            [(row["variable"], _words(row["value"]), _origin(row)) for row in found if row["room"] == room],
        )


def show_schema(out: Output) -> None:
    from kafka_webhook_bridge.sources.model import json_schema

    out.data(json_schema())


def _shown(row: Row, value: Any) -> Any:
    """The value as JSON knows it. bridge.yaml inside of KWB_CONFIG may hold passwords, so it is not shown either."""
    from kafka_webhook_bridge.settings import is_inline

    if row.secret:
        return None if value is None else REDACTED
    if row.env == "KWB_CONFIG" and is_inline(value):
        return f"[YAML, {len(value.splitlines())} lines]"
    return list(value) if isinstance(value, tuple) else value


def _words(value: Any) -> str | None:
    if value is None or value in ("", []):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    return ", ".join(value) if isinstance(value, list) else str(value)


def _origin(row: dict[str, Any]) -> str:
    return "environment" if row["origin"] == row["variable"] else str(row["origin"])
