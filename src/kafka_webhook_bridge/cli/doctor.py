"""`kwb doctor`: every dependency, permission, limit and clock, and what to do about each that is not well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from kafka_webhook_bridge.cli.output import FOUND_PROBLEM, Json, Output

if TYPE_CHECKING:
    from kafka_webhook_bridge.cli.checks import Check

_MARKS = {"ok": "ok", "warn": "warning", "fail": "FAILED", "skip": "skipped"}
_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red", "skip": "dim"}


def register(app: typer.Typer) -> None:
    """`kwb doctor`."""

    @app.command()
    def doctor(
        write: Annotated[
            bool, typer.Option("--write", help="Make a topic, write to it, delete it: proves the right to produce.")
        ] = False,
        json: Json = False,
    ) -> None:
        """Check every dependency, permission, limit and clock. Ends with 1 when something fails."""
        run(Output(json=json), write=write)


def run(out: Output, *, write: bool) -> None:
    from kafka_webhook_bridge.app.preflight import load
    from kafka_webhook_bridge.cli.checks import Check, Doctor
    from kafka_webhook_bridge.errors import ConfigError

    checks: list[Check] = []
    durability: dict[str, str] = {}
    try:
        found = load()
    except ConfigError as error:
        checks = [Check("settings", "fail", str(problem), error.hint) for problem in error.problems]
        checks.append(Check("servers", "skip", "they are looked at when the settings are right"))
        for check in checks:
            _show(out, check)
    else:
        examination = Doctor(found.settings, found.sources, write)
        for check in examination.examine():
            checks.append(check)
            _show(out, check)
        durability = examination.durability()
    failed = sum(check.status == "fail" for check in checks)
    out.data({"ok": not failed, "durability": durability, "checks": checks})
    out.say()
    if durability:
        out.say("A webhook answered 2xx is", "bold")
        for place, words in durability.items():
            out.say(f"  {place:<11} {words}")
    warned = sum(check.status == "warn" for check in checks)
    warnings = f"{warned} warning{'s'[: warned != 1]}"
    if failed:
        out.say(f"{failed} failed, {warnings}", "bold red")
        raise typer.Exit(FOUND_PROBLEM)
    out.say(f"Nothing failed, {warnings}" if warned else "All is well", "bold green")


def _show(out: Output, check: Check) -> None:
    """One line at a time, because a dependency that is down takes seconds."""
    out.say(f"{_MARKS[check.status]:>7}  {check.name:<24} {check.found}", _STYLES[check.status])
    if check.todo:
        out.say(f"{'':>7}  {'':<24} → {check.todo}", "cyan")
