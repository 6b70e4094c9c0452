"""`kwb topics`: the topics of the cluster, what an acknowledgement of each means, and who made it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from kafka_webhook_bridge.cli.output import Json, Output
from kafka_webhook_bridge.errors import KafkaError

if TYPE_CHECKING:
    from kafka_webhook_bridge.settings import Settings

_MADE_BY = {"source": "the bridge", "open_rule": "the bridge (open rule)", "outside": "others"}


def register(app: typer.Typer) -> None:
    """`kwb topics [list]`, `kwb topics show NAME`."""
    topics = typer.Typer(invoke_without_command=True)
    app.add_typer(topics, name="topics")

    @topics.callback()
    def default(context: typer.Context, json: Json = False) -> None:
        """List and describe topics."""
        if context.invoked_subcommand is None:
            list_topics(Output(json=json))

    @topics.command("list")
    def list_(json: Json = False) -> None:
        """All topics, their records and their durability."""
        list_topics(Output(json=json))

    @topics.command()
    def show(
        name: Annotated[str, typer.Argument(help="The topic.")],
        json: Json = False,
    ) -> None:
        """One topic with its partitions, and where its settings differ from those that the bridge gives."""
        show_topic(name, Output(json=json))


def list_topics(out: Output) -> None:
    from kafka_webhook_bridge.kafka.admin import Admin
    from kafka_webhook_bridge.settings import load_settings

    settings = load_settings()
    admin = Admin(settings.kafka, timeout_s=5)
    names = admin.list_topics()
    found, offsets, made_by = admin.describe(names), admin.offsets(names), _made_by(settings, out)
    rows = [
        {
            "topic": name,
            "topic_id": info.topic_id,
            "partitions": info.partitions,
            "replicas": info.replicas,
            "records": sum(end - start for start, end in offsets.get(name, {}).values()),
            "durability": info.durability,
            "survives_power_cut": info.survives_power_cut,
            "made_by": made_by.get(name),
        }
        for name, info in sorted(found.items())
    ]
    out.data(rows)
    if not rows:
        out.note("There are no topics yet; the first webhook of a source makes one.")
        return
    out.table(
        ("topic", "partitions", "replicas", "records", "an acknowledged record is", "made by"),
        [
            (*(row[column] for column in ("topic", "partitions", "replicas", "records", "durability")), _words(row))
            for row in rows
        ],
    )


def show_topic(name: str, out: Output) -> None:
    from kafka_webhook_bridge.kafka.admin import Admin
    from kafka_webhook_bridge.kafka.config import record_bytes_limit
    from kafka_webhook_bridge.settings import load_settings

    settings = load_settings()
    admin = Admin(settings.kafka, timeout_s=5)
    info = admin.describe([name]).get(name)
    if info is None:
        raise KafkaError(
            f"There is no topic {name}.",
            hint="The first webhook of a source makes its topic; `kwb topics` lists what there is.",
        )
    offsets = admin.offsets([name]).get(name, {})
    wanted = admin.wanted_settings(info.replicas, record_bytes_limit(settings.ingest.body_bytes_max))
    differences = info.differences(wanted)
    made_by = _made_by(settings, out).get(name)
    out.data(
        {
            "topic": name,
            "topic_id": info.topic_id,
            "replicas": info.replicas,
            "under_replicated": info.under_replicated,
            "durability": info.durability,
            "survives_power_cut": info.survives_power_cut,
            "made_by": made_by,
            "operations": sorted(info.operations),
            "partitions": {p: {"start": start, "end": end} for p, (start, end) in sorted(offsets.items())},
            "settings": dict(sorted(info.settings.items())),
            "differences": [{"setting": s, "value": value, "bridge": bridge} for s, value, bridge in differences],
        }
    )
    out.say(f"{name}  {info.topic_id}", "bold")
    out.say(f"an acknowledged record is {info.durability}")
    replicas = f"{info.replicas} replica{'s'[: info.replicas > 1]}, {info.under_replicated} partitions not in sync"
    out.say(f"made by {_words({'made_by': made_by})}, {replicas}")
    out.table(("partition", "start", "end", "records"), [(p, s, e, e - s) for p, (s, e) in sorted(offsets.items())])
    if differences:
        out.table(("setting", "here", "as the bridge makes it"), differences)


def _words(row: dict[str, Any]) -> str | None:
    return _MADE_BY.get(row["made_by"], row["made_by"]) if row["made_by"] else None


def _made_by(settings: Settings, out: Output) -> dict[str, str]:
    """Who made which topic, as far as PostgreSQL knows; the list is useful without it, too."""
    import asyncio

    from kafka_webhook_bridge.errors import StoreError
    from kafka_webhook_bridge.store.facts import read_facts

    if settings.store.url is None:
        return {}
    try:
        return dict(asyncio.run(read_facts(settings.store)).made_by)
    except StoreError as error:
        out.note(f"Who made the topics is not known: {error.message}")
        return {}
