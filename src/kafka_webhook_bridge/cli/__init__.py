"""The command `kwb`: one file per group, loaded when it is called.

Exit codes: 0 ok, 1 found a problem, 2 wrong use; 130 and 141 after Ctrl-C and a closed pipe.
A group's file has `register(app)`, imports only typer and `cli.output` at its top, and the rest inside its commands.
"""

from __future__ import annotations

import functools
import importlib
import os
import select
import sys
from collections.abc import Sequence
from typing import Any

import typer
import typer.core

from kafka_webhook_bridge import __version__
from kafka_webhook_bridge.errors import KwbError

# Name → file and sentence. The sentences stand here so that `kwb --help` imports none of the files.
GROUPS: dict[str, tuple[str, str]] = {
    "up": ("up", "Start Kafka, PostgreSQL and the bridge on this machine."),
    "serve": ("serve", "Run the bridge against servers that exist."),
    "migrate": ("migrate", "Bring PostgreSQL's tables up to date."),
    "config": ("config", "Check and show the configuration."),
    "sources": ("sources", "List and show the configured senders."),
    "send": ("send", "Send test webhooks and report latency and receipts."),
    "verify": ("verify", "Say why a signature fails."),
    "tail": ("tail", "Follow a topic."),
    "events": ("events", "Search and show archived events."),
    "outbox": ("outbox", "What waits for Kafka, and letting go what is held."),
    "replay": ("replay", "Send archived events to Kafka once more."),
    "rebuild": ("rebuild", "Make a lost topic anew out of the archive."),
    "audit": ("audit", "Reconcile receipts, Kafka and PostgreSQL."),
    "topics": ("topics", "List and describe topics."),
    "tls": ("tls", "Make and show the certificates of the local stack."),
    "users": ("users", "Users for outside consumers: make, list, rotate, delete."),
    "guard": ("guard", "Stand between a TLS proxy and Kafka for outside consumers."),
    "doctor": ("doctor", "Check every dependency, permission and limit."),
}

_SIGINT, _SIGPIPE = 130, 141


class Groups(typer.core.TyperGroup):
    """Shows stubs made from GROUPS, and imports a group's file when it is called or completed."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, (_, sentence) in GROUPS.items():
            self.add_command(typer.core.TyperCommand(name, help=sentence))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, load(name) if name and command else command, rest

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            if not _reader_gone():
                raise
            raise typer.Exit(_SIGPIPE) from None


def load(name: str) -> Any:
    """The real command or group of that name, with its file imported."""
    file, sentence = GROUPS[name]
    app = typer.Typer(callback=lambda: None)
    module = f"{__name__}.{file}"
    try:
        group_file = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise KwbError(f"`kwb {name}` is not in this version.") from None
    group_file.register(app)
    command = typer.main.get_group(app).commands[name]
    command.help = command.help or sentence
    _in_words(command)
    return command


def _in_words(command: Any) -> None:
    """Show what parameters take in words: `list of text` where Typer shows Python's types, nothing for a flag."""
    for parameter in command.params:
        parameter.display_type_rich = functools.partial(_type_in_words, parameter)
    own_help = command.get_help_option

    def help_option(ctx: Any) -> Any:
        option = own_help(ctx)
        if option is not None:
            option.display_type_rich = functools.partial(_type_in_words, option)
        return option

    command.get_help_option = help_option
    for inner in getattr(command, "commands", {}).values():
        _in_words(inner)


def _type_in_words(parameter: Any, ctx: Any) -> str | None:
    if parameter.type_descriptor.annotation is bool:
        return None
    text: str = parameter.display_type(ctx)
    kind = text.removeprefix("<").removesuffix(">")
    is_list = kind.startswith("list[")
    kind = kind.removeprefix("list[").removesuffix("]") if is_list else kind
    kind = {"str": "text", "int": "number", "float": "number", "Path": "path"}.get(kind.removesuffix(" range"), kind)
    return f"<{'list of ' if is_list else ''}{kind}>"


def root() -> typer.core.TyperGroup:
    """The whole command, for `main` and for the generator of docs/reference/commands.md."""
    app = typer.Typer(
        name="kwb",
        cls=Groups,
        no_args_is_help=True,
        pretty_exceptions_enable=False,  # its frames would print local variables, secrets among them
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Kafka Webhook Bridge: 2xx means durable.",
    )

    @app.callback()
    def options(
        version: bool = typer.Option(False, "--version", is_eager=True, callback=_version, help="Print the version."),
    ) -> None:
        pass

    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    _in_words(group)
    return group


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `kwb` with these arguments (default: of the process); its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        code = _SIGPIPE
    except KeyboardInterrupt:
        code = _SIGINT
    if _reader_gone():  # else the interpreter complains when it flushes at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _run(arguments: list[str]) -> int:
    from kafka_webhook_bridge.cli.output import Output

    out = Output(json="--json" in arguments)
    try:
        result = root().main(arguments, prog_name="kwb", standalone_mode=False)
    except KwbError as error:
        out.failure(error)
        return error.exit_code
    except typer.TyperException as error:  # wrong use, told by the parser
        out.usage(error)
        return 2
    except typer.Abort:
        return _SIGINT
    return result if isinstance(result, int) else 0


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kwb {__version__}")
        raise typer.Exit


def _reader_gone() -> bool:
    """Whether standard output is a pipe that nobody reads any more."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):
        return False
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))
