"""The single broker: as in compose.yaml, but for what EFS and a load balancer ask of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import yaml
from resolver import text
from world import BRIDGES, DOMAIN, ROOT, World, environment, secrets

# What differs from compose.yaml, each judged below.
OWN = {
    "CLUSTER_ID", "KAFKA_HEAP_OPTS", "KAFKA_LISTENERS", "KAFKA_ADVERTISED_LISTENERS", "KAFKA_SUPER_USERS", "KAFKA_OPTS",
    "KAFKA_CONFIG_PROVIDERS", "KAFKA_CONFIG_PROVIDERS_SECRETS_CLASS",
    "KAFKA_CONFIG_PROVIDERS_SECRETS_PARAM_ALLOWED_PATHS", "KAFKA_CONFIG_PROVIDERS_SECRETS_PARAM_ALLOWLIST_PATTERN",
    "KAFKA_LISTENER_NAME_INTERNAL_PLAIN_SASL_JAAS_CONFIG", "KAFKA_LISTENER_NAME_BROKER_PLAIN_SASL_JAAS_CONFIG",
    "KAFKA_BROKER_SESSION_TIMEOUT_MS", "KAFKA_BROKER_HEARTBEAT_INTERVAL_MS",
    "KAFKA_LOG_RETENTION_HOURS", "KAFKA_DELETE_TOPIC_ENABLE",
}  # fmt: skip
KNOWN = json.dumps(
    [{"RoutingPolicy": "MULTIVALUE", "DnsRecords": [{"Type": "A", "TTL": 10}]}, {"FailureThreshold": 1}], sort_keys=True
)
PROVIDER = "org.apache.kafka.common.config.provider.EnvVarConfigProvider"
OPTS = f"-XX:+ExitOnOutOfMemoryError -Dorg.apache.kafka.automatic.config.providers={PROVIDER}"
PLAIN = (
    "org.apache.kafka.common.security.plain.PlainLoginModule required "
    'username="{user}" password="{password}" user_{user}="{password}";'
)


@cache
def composed() -> dict[str, str]:
    """The broker's variables in compose.yaml."""
    found = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]["kafka"]["environment"]
    return {name: str(value) for name, value in found.items()}


@cache
def asked() -> list[str]:
    """How compose.yaml asks the broker whether it answers."""
    found = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]["kafka"]["healthcheck"]
    return [one.replace("$$", "$") for one in found["test"]]


def given(world: World) -> dict[str, str]:
    return environment(world.container("kafka"))


def rule_5_the_broker_suits_its_file_system(world: World) -> Iterator[str]:
    """NFS gives a killed task's lock back late, and keeps files that are deleted while they are open."""
    if not world.single:
        return
    found, check = given(world), world.container("kafka").get("HealthCheck", {})
    if not re.fullmatch(r"[A-Za-z0-9_-]{22}", found.get("CLUSTER_ID", "")):
        yield f"CLUSTER_ID is {found.get('CLUSTER_ID')}: a new one each time does not fit the files of the last"
    if not re.search(r"(?<!\S)-Xmx1g(?!\S)", found.get("KAFKA_HEAP_OPTS", "")):
        yield f"heap: {found.get('KAFKA_HEAP_OPTS')}"
    if found.get("KAFKA_LOG_RETENTION_HOURS") != "72":
        yield f"records are kept for {found.get('KAFKA_LOG_RETENTION_HOURS', '168')} hours"
    if found.get("KAFKA_DELETE_TOPIC_ENABLE") != "false":
        yield "a topic may be deleted, which takes the log directory offline"
    for name in ("KAFKA_BROKER_SESSION_TIMEOUT_MS", "KAFKA_BROKER_HEARTBEAT_INTERVAL_MS"):
        if name in found:
            yield f"{name} is {found[name]}, too short for NFS"
    if int(check.get("StartPeriod", 0)) != 300:
        yield f"the broker may start for {check.get('StartPeriod', 0)} s"
    if check.get("Command") != asked():
        yield f"its health is {check.get('Command')}, in compose.yaml {asked()}"
    mounts = {one["ContainerPath"] for one in world.container("kafka").get("MountPoints", [])}
    if not any(f"{found.get('KAFKA_LOG_DIRS', '/tmp')}/".startswith(f"{path}/") for path in mounts):
        yield f"its data are in {found.get('KAFKA_LOG_DIRS')}, which ends with the task"


def rule_5_topics_of_the_bridge_go_when_the_brokers_would(world: World) -> Iterator[str]:
    """The bridge gives its topics a retention of their own, which stands over the broker's."""
    hours = int(given(world).get("KAFKA_LOG_RETENTION_HOURS", "168")) if world.single else 0
    for place, one in world.containers(*BRIDGES):
        days = environment(one).get("KWB_KAFKA_TOPIC_RETENTION_DAYS")
        if "KAFKA_BOOTSTRAP_SERVERS" in environment(one) and days != (f"{hours / 24:g}" if hours else None):
            yield f"{place} keeps topics for {days or 'its default of'} days"


def rule_5_the_broker_is_otherwise_that_of_compose(world: World) -> Iterator[str]:
    if not world.single:
        return
    here = {name: value for name, value in given(world).items() if name not in OWN}
    there = {name: value.replace("$$", "$") for name, value in composed().items() if name not in OWN}
    for name in sorted(here.keys() | there.keys()):
        if here.get(name) != there.get(name):
            yield f"{name} is {here.get(name)}, in compose.yaml {there.get(name)}"


def rule_7_one_super_user_and_scram_outside(world: World) -> Iterator[str]:
    """Its password is where ECS put it, and PROXY does not take it."""
    if not world.single:
        return
    found, user = given(world), str(world.bridge.parameters["KafkaUsername"])
    if found.get("KAFKA_SUPER_USERS") != f"User:{user};User:ANONYMOUS":
        yield f"super users: {found.get('KAFKA_SUPER_USERS')}"
    hidden = [name for name, one in secrets(world.container("kafka")).items() if ":password:" in one]
    allowed = found.get("KAFKA_CONFIG_PROVIDERS_SECRETS_PARAM_ALLOWLIST_PATTERN", ".*")
    reads = [found.get(f"KAFKA_{name}") for name in ("CONFIG_PROVIDERS", "CONFIG_PROVIDERS_SECRETS_CLASS", "OPTS")]
    if reads != ["secrets", PROVIDER, OPTS]:
        yield "the broker cannot read its environment"
    if len(hidden) != 1 or not re.fullmatch(allowed, hidden[0]) or re.fullmatch(allowed, "PATH"):
        yield f"its password is in {hidden}, and it may read {allowed}"
        return
    if hidden[0].startswith("KAFKA_"):
        yield f"the image writes {hidden[0]} into a file, as each variable that begins so"
    wanted = PLAIN.format(user=user, password="${secrets:" + hidden[0] + "}")
    for listener in ("INTERNAL", "BROKER"):
        jaas = found.get(f"KAFKA_LISTENER_NAME_{listener}_PLAIN_SASL_JAAS_CONFIG")
        if jaas != wanted:
            yield f"{listener}: {jaas}"
    if loose := [name for name in found if name.startswith("KAFKA_LISTENER_NAME_PROXY_PLAIN")]:
        yield f"outside, passwords of PLAIN: {loose}"


def rule_5_names_lead_to_the_listeners(world: World) -> Iterator[str]:
    """Inside by Cloud Map, outside by the name of the certificate; CONTROLLER is nobody's but the node's own."""
    if not world.single:
        return
    inside, port = f"kafka.{world.prefix}.internal", world.bridge.parameters["KafkaExternalPort"]
    advertised = {f"INTERNAL://{inside}:9094", f"BROKER://{inside}:9095", f"PROXY://kafka.{DOMAIN}:{port}"}
    if set(given(world).get("KAFKA_ADVERTISED_LISTENERS", "").split(",")) != advertised:
        yield f"advertised: {given(world).get('KAFKA_ADVERTISED_LISTENERS')}"
    (registry,) = [world.bridge.at(one["RegistryArn"]) for one in world.services["kafka"].get("ServiceRegistries", [])]
    namespace = world.bridge.at(registry.get("NamespaceId")) if registry else None
    if registry is None or namespace is None or f"{registry.get('Name')}.{namespace.get('Name')}" != inside:
        yield f"{inside} leads nowhere"
    elif namespace.get("Vpc") != world.bridge.parameters["VpcId"]:
        yield f"{inside} is not known in the VPC"
    elif json.dumps([registry.get("DnsConfig"), registry.get("HealthCheckCustomConfig")], sort_keys=True) != KNOWN:
        # Another address is known at once: a client asks again after ten seconds, and gets nobody who is gone.
        yield f"{inside} is {registry.get('DnsConfig')}, {registry.get('HealthCheckCustomConfig')}"
    listening = {"INTERNAL://0.0.0.0:9094", "BROKER://0.0.0.0:9095", "PROXY://127.0.0.1:9097"}
    if set(given(world).get("KAFKA_LISTENERS", "").split(",")) != {"CONTROLLER://127.0.0.1:9093", *listening}:
        yield f"the broker listens on {given(world).get('KAFKA_LISTENERS')}"
    for name, wanted in (("kafka", {9094, 9095}), ("guard", {9096})):
        if (found := {int(one["ContainerPort"]) for one in container(world, name).get("PortMappings", [])}) != wanted:
            yield f"{name} has the ports {sorted(found)}"


def container(world: World, name: str) -> dict[str, Any]:
    return world.container("kafka", name)


def outsiders_reach_the_broker_through_its_guard_alone(world: World) -> Iterator[str]:
    """In the broker's task, which is the one that the load balancer finds; it takes little of it, and no secret."""
    if not world.single:
        return
    guard, broker, task = container(world, "guard"), container(world, "kafka"), world.tasks["kafka"]
    if guard.get("Command") != ["guard", "--listen", "0.0.0.0:9096", "--to", "127.0.0.1:9097"]:
        yield f"the guard runs {guard.get('Command')}"
    if (behind := [one["ContainerName"] for one in world.services["kafka"].get("LoadBalancers", [])]) != ["guard"]:
        yield f"behind the load balancer: {behind}"
    if guard.get("DependsOn") != [{"ContainerName": "kafka", "Condition": "HEALTHY"}]:
        yield f"the load balancer finds it healthy while there is no broker: {guard.get('DependsOn')}"
    restart = guard.get("RestartPolicy", {})
    if text(restart.get("Enabled")) != "true" or not 60 <= int(restart.get("RestartAttemptPeriod", 300)) <= 1800:
        yield f"when it ends, so does the broker: {restart}"
    if "9096" not in " ".join(guard.get("HealthCheck", {}).get("Command", [])):
        yield f"its health is {guard.get('HealthCheck')}"
    shares = {name: int(container(world, name).get("Cpu", 0)) for name in ("guard", "kafka")}
    if not 64 <= shares["guard"] <= shares["kafka"] // 4 or sum(shares.values()) >= int(task.get("Cpu")):
        yield f"shares of the processor: {shares} of {task.get('Cpu')}"
    # 333 MiB were measured; the broker has 1 GiB of heap, about half of that beside it, and its files' pages.
    if not 400 <= int(guard.get("Memory", 0)) <= 1024 or broker.get("Memory"):
        yield f"memory of the guard {guard.get('Memory')}, of the broker {broker.get('Memory')} MiB"
    if environment(guard) or secrets(guard):
        yield f"the guard needs none of {sorted(environment(guard) | secrets(guard))}"


RULES = (
    outsiders_reach_the_broker_through_its_guard_alone,
    rule_5_names_lead_to_the_listeners,
    rule_5_the_broker_is_otherwise_that_of_compose,
    rule_5_the_broker_suits_its_file_system,
    rule_5_topics_of_the_bridge_go_when_the_brokers_would,
    rule_7_one_super_user_and_scram_outside,
)
