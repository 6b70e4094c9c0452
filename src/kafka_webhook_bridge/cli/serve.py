"""`kwb serve`: the bridge itself, against a Kafka and a PostgreSQL that are there already."""

from __future__ import annotations

from typing import Annotated, Literal

import typer


def register(app: typer.Typer) -> None:
    app.command()(serve)


def serve(
    role: Annotated[
        Literal["all", "ingest", "worker", "console"], typer.Option(help="What runs in this bridge.")
    ] = "all",
    workers: Annotated[int | None, typer.Option(min=1, max=256, help="Processes that answer webhooks.")] = None,
    host: Annotated[str | None, typer.Option(help="Address of the ingest port.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Ingest port; 0 takes a free one.")] = None,
    management_port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port for metrics and health.")] = None,
    tls_cert: Annotated[str | None, typer.Option(help="PEM certificate chain, to serve HTTPS directly.")] = None,
    tls_key: Annotated[str | None, typer.Option(help="PEM private key.")] = None,
    share_port: Annotated[
        bool | None, typer.Option("--share-port", help="Allow a second bridge on the same port.")
    ] = None,
) -> None:
    """Run the bridge until SIGTERM or Ctrl-C. SIGHUP reads bridge.yaml again. Settings come from the environment."""
    from kafka_webhook_bridge.app.preflight import load
    from kafka_webhook_bridge.app.supervisor import serve as run

    found = load(
        role,
        ingest_workers=workers,
        ingest_host=host,
        ingest_port=port,
        management_port=management_port,
        ingest_tls_cert=tls_cert,
        ingest_tls_key=tls_key,
        ingest_share_port=share_port,
    )
    raise typer.Exit(run(found.settings, role))
