"""Logs, metrics, alarms, and what may roll a deployment back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from resolver import Resource, strings, text
from world import World, only

from kafka_webhook_bridge.app.status import SINCE

DAYS = {"dev": 14, "staging": 30, "prod": 90}
FROM_LINES = ("outbox", "lag", "refused", "risk")

# What an alarm says besides, which other rules look at.
BESIDE = {
    "AlarmName", "AlarmDescription", "Namespace", "MetricName", "Dimensions", "AlarmActions", "OKActions",
    "ActionsEnabled",
}  # fmt: skip


def red(statistic: str, period_s: int, times: int, limit: str, missing: str) -> dict[str, str]:
    sign, _, threshold = limit.partition(" ")
    return {
        "Statistic": statistic, "Period": str(period_s), "EvaluationPeriods": str(times), "TreatMissingData": missing,
        "ComparisonOperator": {">": "GreaterThanThreshold", "<": "LessThanThreshold"}[sign], "Threshold": threshold,
    }  # fmt: skip


RED = {
    "ingest-5xx": red("Sum", 60, 3, "> 10", "notBreaching"),
    "edge-5xx": red("Sum", 60, 3, "> 10", "notBreaching"),
    "unhealthy-targets": red("Maximum", 60, 5, "> 0", "breaching"),
    "no-broker": red("Maximum", 60, 5, "< 1", "breaching"),
    "outbox": red("Maximum", 60, 10, "> 1000", "breaching"),
    "archive-lag": red("Maximum", 60, 10, "> 10000", "breaching"),
    "refused": red("Sum", 300, 1, "> 0", "breaching"),
    # RDS makes a new database's 20 GiB larger when less than a tenth is free; this is when it did not.
    "disk": red("Minimum", 300, 2, f"< {3 * 2**29}", "breaching"),
    "connections": red("Maximum", 60, 5, "> of the stage", "breaching"),
    "certificate": red("Minimum", 86400, 1, "< 30", "ignore"),
}
CONNECTIONS = {"dev": "80", "staging": "160", "prod": "400"}


def logs(world: World) -> Iterator[tuple[str, dict[str, str]]]:
    for name, container in world.containers():
        at = container.get("LogConfiguration", {})
        yield (
            name,
            {"driver": text(at.get("LogDriver")), **{key: text(one) for key, one in at.get("Options", {}).items()}},
        )


def dimensions(one: dict[str, Any]) -> dict[str, str]:
    return {at["Name"]: at["Value"] for at in one.get("Dimensions", [])}


def metrics(alarm: Resource) -> list[tuple[str, str, dict[str, str]]]:
    """Namespace, name and dimensions of each metric of an alarm, by itself or in an expression."""
    several = [one["MetricStat"]["Metric"] for one in alarm.get("Metrics", []) if "MetricStat" in one]
    if alarm.get("MetricName"):
        several.append(alarm.properties)
    return [(one["Namespace"], one["MetricName"], dimensions(one)) for one in several]


def filtered(world: World) -> dict[str, Resource]:
    """Metric → the filter that makes it of lines."""
    return {one.get("MetricTransformations")[0]["MetricName"]: one for one in world.bridge.of("Logs::MetricFilter")}


def made_by(world: World, name: str) -> Resource | None:
    """What makes a log group of this name by itself, if it comes first."""
    for cluster in world.bridge.of("ECS::Cluster"):
        if name.startswith(f"/aws/ecs/containerinsights/{cluster.get('ClusterName')}/"):
            return cluster
    return world.database if name.startswith("/aws/rds/") else None


def logs_are_kept_for_a_while(world: World) -> Iterator[str]:
    """Each container writes to a group of this stack; no group is without an end."""
    for name, at in logs(world):
        group = world.bridge.at(at.get("awslogs-group"))
        if at["driver"] != "awslogs" or group is None or group.type != "AWS::Logs::LogGroup":
            yield f"{name} writes its log to {at}"
        elif "awslogs-stream-prefix" not in at or at.get("awslogs-region") != "ap-southeast-1":
            yield f"{name}: {at}"
        elif (at.get("mode"), at.get("max-buffer-size")) != ("non-blocking", "25m"):
            yield f"{name} waits for CloudWatch with every line, or keeps few: {at}"
    for stack in filter(None, (world.vpc, world.bridge)):
        for group in stack.of("Logs::LogGroup"):
            maker = made_by(world, text(group.get("LogGroupName")))
            if maker is not None and group.id not in maker.after:
                yield f"{maker.id} may make {group.id} first, and for ever"
            if text(group.get("RetentionInDays", 0)) != str(DAYS[world.scene.stage]):
                yield f"{group.id} is kept for {group.get('RetentionInDays', 'ever')} days"


def rule_13_status_lines_become_metrics(world: World) -> Iterator[str]:
    """Of the lines that ingest and worker write every minute, into the stage's own namespace."""
    groups = {name.split("/")[0]: at.get("awslogs-group") for name, at in logs(world)}
    for one in world.bridge.of("Logs::MetricFilter"):
        if one.get("LogGroupName") not in {groups.get("ingest"), groups.get("worker")}:
            yield f"{one.id} reads {one.get('LogGroupName')}"
        if not re.fullmatch(r'\{ \$\.event = "status" && \$\.[a-z_]+ = \* \}', one.get("FilterPattern")):
            yield f"{one.id} reads other lines: {one.get('FilterPattern')}"
        for at in one.get("MetricTransformations"):
            if at["MetricNamespace"] != world.prefix or not re.fullmatch(r"\$\.[a-z_.]+", text(at["MetricValue"])):
                yield f"{one.id} makes {at}"
            if "DefaultValue" in at:
                yield f"{one.id}: any other line would say that all is well, {at['DefaultValue']}"
    for word in FROM_LINES:
        if not any(word in name.lower() for name in filtered(world)):
            yield f"no metric of {word}"


def rule_13_alarms_are_on_what_there_is(world: World) -> Iterator[str]:
    own = {
        name
        for namespace, name in ((at[0], at[1]) for one in world.bridge.of("CloudWatch::Alarm") for at in metrics(one))
        if namespace == world.prefix
    }
    if unknown := own - filtered(world).keys():
        yield f"alarms on {sorted(unknown)}, which no filter makes"


def wanted(world: World) -> dict[str, tuple[str, str, dict[str, str]]]:
    """What each alarm of the list is on: the metric, and dimensions that name it."""
    alb = {"LoadBalancer": f"<{world.alb.id}.LoadBalancerFullName>"}
    database = {"DBInstanceIdentifier": f"<{world.database.id}>"}
    certificate = {"CertificateArn": world.listener(443).get("Certificates")[0]["CertificateArn"]}

    def target(role: str) -> dict[str, str]:
        return {"TargetGroup": f"<{world.target(role).id}.TargetGroupFullName>"}

    found = {
        "errors of ingest": ("AWS/ApplicationELB", "HTTPCode_Target_5XX_Count", alb),
        "errors of the load balancer": ("AWS/ApplicationELB", "HTTPCode_ELB_5XX_Count", alb),
        "unhealthy targets": ("AWS/ApplicationELB", "UnHealthyHostCount", target("ingest")),
        "disk": ("AWS/RDS", "FreeStorageSpace", database),
        "connections": ("AWS/RDS", "DatabaseConnections", database),
        "certificate": ("AWS/CertificateManager", "DaysToExpiry", certificate),
    }
    if world.single:
        found["no broker"] = ("AWS/NetworkELB", "HealthyHostCount", target("kafka"))
    return found


def rule_13_each_alarm_is_there(world: World) -> Iterator[str]:
    found = [at for one in world.bridge.of("CloudWatch::Alarm") for at in metrics(one)]
    for what, (place, metric, value) in wanted(world).items():
        if not any((space, name) == (place, metric) and value.items() <= at.items() for space, name, at in found):
            yield f"no alarm: {what}, {metric}"
    for word in FROM_LINES[:3]:
        if not any(namespace == world.prefix and word in name.lower() for namespace, name, _ in found):
            yield f"no alarm on {word}"
    known = {
        "AWS/ApplicationELB": "LoadBalancer",
        "AWS/NetworkELB": "LoadBalancer",
        "AWS/RDS": "DBInstanceIdentifier",
        "AWS/CertificateManager": "CertificateArn",
    }
    for namespace, name, at in found:
        if namespace in known and known[namespace] not in at:
            yield f"{name}: without {known[namespace]} it is on nothing, {at}"
        if namespace == world.prefix and at:
            yield f"{name}: the filters give no dimensions, {at}"


def alarms_reach_somebody(world: World) -> Iterator[str]:
    topic = only(iter(world.bridge.of("SNS::Topic")))
    if world.bridge.outputs.get("AlarmTopicArn") != f"<{topic.id}>":
        yield f"AlarmTopicArn is {world.bridge.outputs.get('AlarmTopicArn')}"
    for one in world.bridge.of("CloudWatch::Alarm"):
        told = [one.get("AlarmActions"), one.get("OKActions")]
        if told != [[f"<{topic.id}>"]] * 2 or text(one.get("ActionsEnabled", True)) != "true":
            yield f"{one.id} tells {told}"
        if not text(one.get("AlarmDescription", "")):
            yield f"{one.id} does not say what it means"
        if not text(one.get("AlarmName")).startswith(f"{world.prefix}-"):
            yield f"{one.id} is called {one.get('AlarmName')}"
    key = world.bridge.at(topic.get("KmsMasterKeyId"))
    if key is not None and key.type == "AWS::KMS::Alias":
        key = world.bridge.at(key.get("TargetKeyId"))
    if key is not None:
        let = [
            one
            for one in key.get("KeyPolicy.Statement")
            if "cloudwatch.amazonaws.com" in strings(one.get("Principal", {}))
        ]
        actions = {action for one in let for action in strings(one["Action"])}
        if not {"kms:Decrypt", "kms:GenerateDataKey"} <= {action.removesuffix("*") for action in actions}:
            yield f"CloudWatch may not use the topic's key: {sorted(actions)}"
    let_in = [
        one
        for policy in world.bridge.of("SNS::TopicPolicy")
        if policy.get("Topics") == [f"<{topic.id}>"]
        for one in policy.get("PolicyDocument.Statement")
        if (one["Effect"], one["Action"], one.get("Resource")) == ("Allow", "sns:Publish", f"<{topic.id}>")
        and one.get("Principal") == {"Service": "cloudwatch.amazonaws.com"}
    ]
    if not let_in:
        yield "CloudWatch may not tell the topic"
    address = world.bridge.parameters["AlarmEmail"]
    found = [
        (one.get("Protocol"), one.get("Endpoint"))
        for one in world.bridge.of("SNS::Subscription")
        if one.get("TopicArn") == f"<{topic.id}>"
    ]
    found += [(one["Protocol"], one["Endpoint"]) for one in topic.get("Subscription", [])]
    if found != ([("email", address)] if address else []):
        yield f"told: {found}"


def rule_13_alarms_are_red_when_the_table_says(world: World) -> Iterator[str]:
    """Not a number, a minute or a word else. Silence of what ought to speak every minute is red; growth is summed."""
    summed = {
        at["MetricName"]: text(at["MetricValue"]).removeprefix("$.") in SINCE
        for one in world.bridge.of("Logs::MetricFilter")
        for at in one.get("MetricTransformations")
    }
    for one in world.bridge.of("CloudWatch::Alarm"):
        name = text(one.get("AlarmName")).removeprefix(f"{world.prefix}-")
        found = {key: text(value) for key, value in one.properties.items() if key not in BESIDE}
        if name == "connections":
            wanted = {**RED[name], "Threshold": CONNECTIONS[world.scene.stage]}
        else:
            wanted = RED.get(name, {})
        if found != wanted:
            yield f"{one.id}: {found}, not {wanted}"
        if summed.get(text(one.get("MetricName")), found["Statistic"] == "Sum") != (found["Statistic"] == "Sum"):
            yield f"{one.id}: {found['Statistic']} of {one.get('MetricName')}"


def rule_18_only_errors_of_ingest_roll_back(world: World) -> Iterator[str]:
    """A broker or a database in trouble must not keep a repair from being deployed."""
    for role, service in world.services.items():
        at = service.get("DeploymentConfiguration.Alarms", {})
        names = at.get("AlarmNames", [])
        if role != "ingest":
            if names:
                yield f"{role} goes back because of {names}"
            continue
        alarms = [world.bridge.at(one) for one in names]
        if len(alarms) != 1 or alarms[0] is None or {text(at.get(key)) for key in ("Enable", "Rollback")} != {"true"}:
            yield f"ingest goes back because of {at}"
            continue
        if world.bridge.outputs.get("Ingest5xxAlarmArn") != f"<{alarms[0].id}.Arn>":
            yield f"update.sh takes {world.bridge.outputs.get('Ingest5xxAlarmArn')}"
        target = f"<{world.target('ingest').id}.TargetGroupFullName>"
        for _, name, dimension in metrics(alarms[0]):
            if name != "HTTPCode_Target_5XX_Count" or dimension.get("TargetGroup") != target:
                yield f"ingest goes back because of {name} {dimension}"
    if "RollbackConfiguration" in world.templates["bridge"]:
        yield "triggers in the template"


def unfolded(rows: list[list[Any]]) -> Iterator[list[str]]:
    """Rows of a widget without the short forms: `.` is what stands above, `...` all of it but the last."""
    above: list[str] = []
    for row in rows:
        words = [one for one in row if isinstance(one, str)]
        if "..." in words:
            own = words[words.index("...") + 1 :]
            words = above[: len(above) - len(own)] + own
        above = [above[place] if one == "." else one for place, one in enumerate(words)]
        yield above


def the_dashboard_shows_what_there_is(world: World) -> Iterator[str]:
    """It is JSON, and each metric of this stage is one that a filter makes."""
    board = only(iter(world.bridge.of("CloudWatch::Dashboard")))
    try:
        widgets = json.loads(board.get("DashboardBody"))["widgets"]
    except ValueError as problem:
        yield f"{board.id} is no JSON: {problem}"
        return
    shown = [one for widget in widgets for one in unfolded(widget["properties"].get("metrics", []))]
    own = {one[1] for one in shown if one[0] == world.prefix}
    if own != set(filtered(world)):
        yield f"shown {sorted(own)}, made {sorted(filtered(world))}"
    for widget in widgets:
        if widget["type"] == "metric" and widget["properties"].get("region") != "ap-southeast-1":
            yield f"{widget['properties'].get('title')}: no region"
    namespaces = {one[0] for one in shown}
    if lost := {"AWS/ApplicationELB", "AWS/ECS", "AWS/RDS", "AWS/CertificateManager"} - namespaces:
        yield f"nothing of {sorted(lost)}"


def the_cluster_is_observed(world: World) -> Iterator[str]:
    for one in world.bridge.of("ECS::Cluster"):
        found = {at["Name"]: at["Value"] for at in one.get("ClusterSettings", [])}
        if found.get("containerInsights") not in {"enabled", "enhanced"}:
            yield f"{one.id} has no Container Insights"
        if lost := [role for role, service in world.services.items() if service.get("Cluster") != f"<{one.id}>"]:
            yield f"{', '.join(lost)}: in the account's default cluster"
        if one.get("ClusterName") != world.prefix:
            yield f"the cluster is called {one.get('ClusterName')}"


RULES = (
    rule_13_status_lines_become_metrics,
    rule_13_alarms_are_on_what_there_is,
    rule_13_alarms_are_red_when_the_table_says,
    rule_13_each_alarm_is_there,
    rule_18_only_errors_of_ingest_roll_back,
    alarms_reach_somebody,
    logs_are_kept_for_a_while,
    the_cluster_is_observed,
    the_dashboard_shows_what_there_is,
)
