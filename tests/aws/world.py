"""The templates under chosen parameters, as one world: who is who in it, whatever the templates call it."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from resolver import Facts, Resource, Stack, Template, load, resolve

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "aws/templates"
NAMES = ("registry", "vpc", "bridge")
Templates = Mapping[str, Template]

STAGES = ("dev", "staging", "prod")
KAFKAS = ("single", "plain", "scram", "mtls", "iam")
NATS = ("none", "single", "per-az")
BRIDGES = ("ingest", "worker", "console", "admin")

DOMAIN = "hooks.example.com"
CLIENTS = "198.51.100.0/24"
CONSOLE = ("203.0.113.7/32", "203.0.113.64/26")
REGISTRY = "123456789012.dkr.ecr.ap-southeast-1.amazonaws.com"
BRIDGE_IMAGE = f"{REGISTRY}/kafka-webhook-bridge:0.6.0"
GUARD_IMAGE = f"{REGISTRY}/kafka-webhook-bridge:0.5.0"  # of the bridge, and older than it
KAFKA_IMAGE = f"{REGISTRY}/kafka-webhook-bridge-kafka:4.4.0-0a1b2c3d4e5f"
SECRET = "arn:aws:secretsmanager:ap-southeast-1:123456789012:secret:"
CLIENT_SECRET = f"{SECRET}cluster-of-ours-AbCdEf"
MSK = "arn:aws:kafka:ap-southeast-1:123456789012:cluster/ours/0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0-7"
CERTIFICATE = "arn:aws:acm:ap-southeast-1:123456789012:certificate/0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
VERSIONS = {
    "ConfigVersion": "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0",
    "SourcesVersion": "1f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0",
}
# In the templates these may be in a secret's text, and nowhere else.
CANARIES = {"KafkaPassword": "canary-of-kafka-0a1b2c3d", "WebhookPassword": "canary-of-webhook-0a1b2c3d"}

EXISTING: dict[str, str] = {
    "VpcId": "vpc-0a1b2c3d4e5f60718",
    "VpcCidr": "10.9.0.0/16",
    "PublicSubnetIds": "subnet-0000000000000000a,subnet-0000000000000000b",
    "PrivateSubnetIds": "subnet-0000000000000001a,subnet-0000000000000001b,subnet-0000000000000001c",
}
EXTERNAL: dict[str, dict[str, str]] = {
    kafka: {"KafkaSecurityProtocol": protocol, "KafkaSaslMechanism": mechanism, name: arn}
    for kafka, protocol, mechanism, name, arn in (
        ("plain", "SASL_SSL", "PLAIN", "KafkaClientSecretArn", CLIENT_SECRET),
        ("scram", "SASL_SSL", "SCRAM-SHA-512", "KafkaClientSecretArn", CLIENT_SECRET),
        ("mtls", "SSL", "NONE", "KafkaClientSecretArn", CLIENT_SECRET),
        ("iam", "SASL_SSL", "AWS_MSK_IAM", "MskClusterArn", MSK),
    )
}


@dataclass(frozen=True)
class Scene:
    """One choice of everything that shapes the stacks. `more` are further parameters of bridge.yaml."""

    stage: str = "dev"
    kafka: str = "single"
    nat: str = "single"
    own_vpc: bool = True
    console: bool = True
    more: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        shape = ("own" if self.own_vpc else "existing") + " VPC" + ("" if self.console else ", no console")
        return ", ".join(
            [self.stage, self.kafka, f"NAT {self.nat}", shape, *(f"{name}={one}" for name, one in self.more)]
        )

    def vpc(self) -> dict[str, str]:
        """Parameters of vpc.yaml: endpoints where nothing else leads out."""
        endpoints = "true" if self.nat == "none" else "false"
        return {"Environment": self.stage, "NatGateways": self.nat, "InterfaceEndpoints": endpoints}

    def bridge(self, network: Mapping[str, str]) -> dict[str, str]:
        """Parameters of bridge.yaml in a network."""
        found = {
            "Environment": self.stage, "DomainName": DOMAIN, "HostedZoneId": "Z0123456789ABCDEFGHIJ", **network,
            "NatGateways": self.nat, "BridgeImage": BRIDGE_IMAGE, "KafkaClientCidr": CLIENTS,
            "ConsoleCidr": ",".join(CONSOLE) if self.console else "", **CANARIES,
        }  # fmt: skip
        if self.kafka == "single":
            found |= {"KafkaMode": "single", "KafkaImage": KAFKA_IMAGE, "GuardImage": GUARD_IMAGE}
        else:
            found |= {"KafkaMode": "external", "KafkaBootstrapServers": "b-1.ours.example:9094,b-2.ours.example:9094"}
            found |= {"KafkaIsPrivate": "true", **EXTERNAL[self.kafka]}
        return found | dict(self.more)


def scenes() -> Iterator[Scene]:
    """Every stage × Kafka × NAT × VPC, and beside them each other choice, with both ways of Kafka."""
    for stage, kafka, nat, own in itertools.product(STAGES, KAFKAS, NATS, (True, False)):
        yield Scene(
            stage, kafka, nat, own, console=(STAGES.index(stage) + KAFKAS.index(kafka) + NATS.index(nat)) % 2 == 0
        )
    for kafka, more in itertools.product(("single", "scram"), CHOICES):
        yield Scene("staging", kafka, more=tuple(more.items()))
        yield Scene("prod", kafka, own_vpc=False, console=False, more=tuple(more.items()))


CHOICES: tuple[dict[str, str], ...] = (
    {"HostedZoneId": "", "CertificateArn": CERTIFICATE},
    {"CertificateArn": CERTIFICATE},
    dict.fromkeys(CANARIES, ""),
    VERSIONS,
    {"DatabaseSnapshotId": "rds:before"},
    {"AlarmEmail": "someone@example.com"},
    {"KafkaClientSecretArn": ""},  # outside, the password is then the stack's own
    {"CpuArchitecture": "ARM64", "KafkaExternalPort": "9443", "KafkaDataPath": "/kafka/2", "KafkaUsername": "carrier"},
)


@cache
def templates() -> Templates:
    """The templates as they stand. Nobody changes them: a mutant is made of a copy."""
    return {name: load(FOLDER / f"{name}.yaml") for name in NAMES}


@cache
def world(scene: Scene) -> World:
    """The templates as they stand, under this choice."""
    return build(templates(), scene)


@dataclass(frozen=True)
class World:
    scene: Scene
    given: Mapping[str, str]  # the parameters of bridge.yaml
    registry: Stack
    vpc: Stack | None
    bridge: Stack
    templates: Templates = field(repr=False)

    @cached_property
    def prefix(self) -> str:
        return f"{self.scene.stage}-webhooks"

    @cached_property
    def single(self) -> bool:
        return self.scene.kafka == "single"

    @cached_property
    def roles(self) -> tuple[str, ...]:
        """What runs as a service here."""
        return ("ingest", "worker", *(["console"] if self.scene.console else []), *(["kafka"] if self.single else []))

    @cached_property
    def services(self) -> dict[str, Resource]:
        """Role → service, by the services' names."""
        found = self.bridge.of("ECS::Service")
        return {one.get("ServiceName", one.id).removeprefix(f"{self.prefix}-"): one for one in found}

    @cached_property
    def tasks(self) -> dict[str, Resource]:
        """Role → task definition: the services', and the ones that no service runs by their family's name."""
        used = {role: self.bridge.at(one.get("TaskDefinition")) for role, one in self.services.items()}
        found = {role: one for role, one in used.items() if one is not None}
        ids = {one.id for one in found.values()}
        for one in self.bridge.of("ECS::TaskDefinition"):
            if one.id not in ids:
                found[one.get("Family", one.id).removeprefix(f"{self.prefix}-")] = one
        return found

    def containers(self, *roles: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """`role/name` and definition of each container, of all tasks or of these."""
        for role, task in self.tasks.items():
            if not roles or role in roles:
                for one in task.get("ContainerDefinitions", []):
                    yield f"{role}/{one['Name']}", one

    def container(self, role: str, name: str = "") -> dict[str, Any]:
        """The container of a task that is called as its role, or by this name. Raises KeyError."""
        return dict(self.containers(role))[f"{role}/{name or role}"]

    @cached_property
    def alb(self) -> Resource:
        return only(
            one for one in self.bridge.of("ElasticLoadBalancingV2::LoadBalancer") if balancer(one) == "application"
        )

    @cached_property
    def nlb(self) -> Resource:
        return only(one for one in self.bridge.of("ElasticLoadBalancingV2::LoadBalancer") if balancer(one) == "network")

    def listener(self, port: int | str) -> Resource:
        found = self.bridge.of("ElasticLoadBalancingV2::Listener")
        return only(one for one in found if str(one.get("Port")) == str(port))

    def target(self, role: str) -> Resource:
        """The target group that a service registers with. Raises KeyError, ValueError."""
        (group,) = [one["TargetGroupArn"] for one in self.services[role].get("LoadBalancers", [])]
        found = self.bridge.at(group)
        if found is None:
            raise KeyError(f"{role}: no target group {group}")
        return found

    @cached_property
    def database(self) -> Resource:
        return only(iter(self.bridge.of("RDS::DBInstance")))

    def secret(self, name: str) -> Resource:
        """A secret by its fixed name. Raises KeyError."""
        return only(iter(self.bridge.of("SecretsManager::Secret", Name=f"{self.prefix}/{name}")))

    @cached_property
    def groups(self) -> dict[str, list[str]]:
        """Role → the security groups that it is in, as tokens."""
        found: dict[str, list[str]] = {}

        def add(role: str, several: Any) -> None:
            found.setdefault(role, []).extend(several or [])

        for one in self.bridge.of("ElasticLoadBalancingV2::LoadBalancer"):
            add("alb" if balancer(one) == "application" else "nlb", one.get("SecurityGroups"))
        for role, one in self.services.items():
            add(role, one.get("NetworkConfiguration.AwsvpcConfiguration.SecurityGroups"))
        add("admin", str(self.bridge.outputs.get("AdminSecurityGroup", "")).split(","))
        for one in self.bridge.of("RDS::DBInstance"):
            add("db", one.get("VPCSecurityGroups"))
        for one in self.bridge.of("EFS::MountTarget"):
            add("efs", one.get("SecurityGroups"))
        for stack in filter(None, (self.vpc, self.bridge)):
            for one in stack.of("EC2::VPCEndpoint"):
                add("endpoints", one.get("SecurityGroupIds"))
        return {role: sorted(set(several)) for role, several in found.items()}


def build(found: Templates, scene: Scene) -> World:
    """Templates under a choice. Raises Unresolvable."""
    registry = _stack(found, "registry", {})
    vpc, network = None, dict(EXISTING)
    if scene.own_vpc:
        vpc = _stack(found, "vpc", scene.vpc())
        network = {name: _made(vpc, vpc.outputs[name]) for name in EXISTING}
    given = scene.bridge(network)
    return World(scene, given, registry, vpc, resolve(found["bridge"], given, facts(given)), found)


def _stack(found: Templates, name: str, given: dict[str, str]) -> Stack:
    """A template that nobody changed is resolved once for all mutants of the others."""
    if found[name] is templates()[name]:
        return _unchanged(name, tuple(given.items()))
    return resolve(found[name], given)


@cache
def _unchanged(name: str, given: tuple[tuple[str, str], ...]) -> Stack:
    return resolve(templates()[name], dict(given))


def facts(parameters: Mapping[str, str]) -> Facts:
    """What AWS knows of the subnets: in that VPC, the first zones in turn."""
    known = {}
    for name in ("PublicSubnetIds", "PrivateSubnetIds"):
        several = parameters[name].split(",")
        known[(name, "VpcId")] = [parameters["VpcId"]] * len(several)
        known[(name, "AvailabilityZone")] = [f"ap-southeast-1{'abc'[number % 3]}" for number in range(len(several))]
    return known


def _made(stack: Stack, text: str) -> str:
    """An output as it is once the stack exists: its tokens are identifiers, and a VPC knows its addresses."""

    def one(found: re.Match[str]) -> str:
        resource = stack.resources[found[1]]
        if found[2]:
            return str(resource.properties[found[2]])
        kind = {"AWS::EC2::VPC": "vpc", "AWS::EC2::Subnet": "subnet"}[resource.type]
        return f"{kind}-{hashlib.sha256(found[1].encode()).hexdigest()[:17]}"

    return re.sub(r"<(\w+)(?:\.(\w+))?>", one, text)


def balancer(one: Resource) -> str:
    return str(one.get("Type", "application"))


def only(several: Iterator[Resource]) -> Resource:
    """The one of them. Raises KeyError when there are more or none."""
    found = list(several)
    if len(found) != 1:
        raise KeyError(f"one is wanted, found {[one.id for one in found]}")
    return found[0]


def pairs(several: list[dict[str, Any]] | None, name: str = "Name", value: str = "Value") -> dict[str, Any]:
    """`[{Name, Value}]` as a mapping."""
    return {one[name]: one[value] for one in several or []}


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in pairs(container.get("Environment")).items()}


def secrets(container: dict[str, Any]) -> dict[str, str]:
    return pairs(container.get("Secrets"), value="ValueFrom")
