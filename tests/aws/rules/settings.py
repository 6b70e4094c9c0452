"""What the bridge's containers are given, as the bridge itself reads it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from world import BRIDGES, World, environment, secrets

from kafka_webhook_bridge.app.status import NOW, SINCE
from kafka_webhook_bridge.errors import Problem
from kafka_webhook_bridge.settings import Settings, check_settings, rows

# What ECS would put in; any other secret is a word.
FILLED = {"KWB_CONFIG": "sources: {}", "KWB_SECRETS_JSON": "{}", "KWB_KAFKA_SSL_CA": ""}
KNOWN = {row.env for row in rows()}
TOKEN = re.compile(r"<[\w.]+>")


def variables(container: dict[str, Any]) -> dict[str, str]:
    """As the process finds them."""
    given = {name: TOKEN.sub("made.example", value) for name, value in environment(container).items()}
    return {**given, **{name: FILLED.get(name, "word") for name in secrets(container)}}


@cache
def checked(given: tuple[tuple[str, str], ...]) -> tuple[Settings, list[Problem]]:
    """What the bridge makes of an environment; most are alike."""
    settings, _, problems = check_settings(dict(given))
    return settings, problems


def every_variable_is_a_setting_that_fits(world: World) -> Iterator[str]:
    for name, container in world.containers(*BRIDGES):
        given = variables(container)
        if strange := sorted(given.keys() - KNOWN):
            yield f"{name}: {', '.join(strange)} are no settings"
        settings, problems = checked(tuple(given.items()))
        yield from (f"{name}: {problem.where} {problem.what}" for problem in problems)
        role = name.split("/")[1]
        # The load balancer comes from another address; where nobody comes, nobody listens.
        doors = {"console": settings.management.host, "ingest": settings.ingest.host}
        if {one for one, host in doors.items() if host == "0.0.0.0"} != ({role} & doors.keys()):
            yield f"{name} listens to others on {doors}"
        if role != "migrate" and settings.bridge.own_broker != world.single:
            yield f"{name}: own_broker is {settings.bridge.own_broker}"


def rule_13_filters_read_what_each_role_writes(world: World) -> Iterator[str]:
    writes = {"ingest": SINCE, "worker": NOW}
    groups = {world.container(role)["LogConfiguration"]["Options"]["awslogs-group"]: role for role in writes}
    for one in world.bridge.of("Logs::MetricFilter"):
        role = groups.get(one.get("LogGroupName"), "")
        for at in one.get("MetricTransformations"):
            field = str(at["MetricValue"]).removeprefix("$.")
            if role and field not in writes[role]:
                yield f"{one.id}: {role} writes no {field}"
            if f"$.{field} = *" not in one.get("FilterPattern"):
                yield f"{one.id}: lines without {field} fail it, {one.get('FilterPattern')}"


def believed_proxies_are_the_balancers(world: World) -> Iterator[str]:
    """Who says that a request comes from elsewhere is believed from inside the VPC, where nobody else may knock."""
    for name, container in world.containers(*BRIDGES):
        wanted = world.bridge.parameters["VpcCidr"] if name.split("/")[1] in {"ingest", "console"} else None
        if environment(container).get("KWB_INGEST_TRUSTED_PROXIES") != wanted:
            yield f"{name} believes {environment(container).get('KWB_INGEST_TRUSTED_PROXIES', 'nobody')}"


RULES = (
    believed_proxies_are_the_balancers,
    every_variable_is_a_setting_that_fits,
    rule_13_filters_read_what_each_role_writes,
)
