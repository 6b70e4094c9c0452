"""`kwb guard`: between a TLS proxy and Kafka's listener for outside consumers. Needs no settings and no password."""

from __future__ import annotations

from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command()(guard)


def guard(
    listen: Annotated[str, typer.Option("--listen", help="host:port for the TLS proxy, which says for whom it comes.")],
    to: Annotated[str, typer.Option("--to", help="host:port of Kafka's listener for outside consumers.")],
) -> None:
    """Pass whole Kafka frames of at most 128 KiB on, until SIGTERM. The proxy must send the PROXY header, 1 or 2."""
    import uvloop

    from kafka_webhook_bridge.kafka.guard import run
    from kafka_webhook_bridge.observability import logs
    from kafka_webhook_bridge.settings import LogSettings

    here, there = _address(listen, "--listen"), _address(to, "--to")
    logs.configure(LogSettings(), "guard")
    try:
        uvloop.run(run(here, there))
    except OSError as error:
        from kafka_webhook_bridge.errors import KwbError

        raise KwbError(f"{listen} cannot be listened on: {error.strerror or error}.") from None


def _address(text: str, option: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isdecimal() and int(port) <= 65535):
        raise typer.BadParameter(f"{text} is not host:port.", param_hint=option)
    return host.strip("[]"), int(port)
