"""Who may reach whom: security groups and the VPC. Each rule yields a sentence for what is not so."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any

from resolver import Resource, Stack, text
from world import BRIDGES, CLIENTS, World, balancer

from rules.access import grants_of, may

Flow = tuple[str, str, str]
LOOPBACK = "127.0.0.1/32"  # what a group names that may go nowhere: an empty list would mean everywhere
GONE = re.compile(
    r"AWS::(EC2::(Instance|Volume|LaunchTemplate)|AutoScaling::.*|ECS::(CapacityProvider|ClusterCapacityProv.*)|MSK::.*|"
    r"IAM::InstanceProfile)"
)
ENDPOINTS = {"ecr.api", "ecr.dkr", "logs", "secretsmanager"}


def ours(world: World) -> list[Stack]:
    return [stack for stack in (world.vpc, world.bridge) if stack is not None]


def ports(rule: dict[str, Any]) -> str:
    if text(rule.get("IpProtocol")) == "-1":
        return "all"
    low, high = text(rule.get("FromPort")), text(rule.get("ToPort"))
    return f"{rule['IpProtocol']} {low}" if low == high else f"{rule['IpProtocol']} {low}-{high}"


def names(world: World, value: str) -> list[str]:
    """What a group or a range of addresses is: the roles in it, `world`, `clients`, `vpc`, `nobody`, or itself."""
    known = {"0.0.0.0/0": "world", "::/0": "world", CLIENTS: "clients", LOOPBACK: "nobody"}
    known[text(world.bridge.parameters["VpcCidr"])] = "vpc"
    roles = [role for role, several in world.groups.items() if value in several or value in by_attribute(several)]
    return roles or [known.get(value, value)]


def by_attribute(several: list[str]) -> list[str]:
    """A group's token by Ref is also named by GetAtt."""
    return [one.removesuffix(">") + ".GroupId>" for one in several]


def flows(world: World, way: str) -> set[Flow]:
    """(who, whom, port) of everything that groups let in (`Ingress`) or out (`Egress`)."""
    peer = "Source" if way == "Ingress" else "Destination"
    found: set[Flow] = set()
    for stack in ours(world):
        rules: list[tuple[str, dict[str, Any]]] = []
        for group in stack.of("EC2::SecurityGroup"):
            inline = group.get(f"SecurityGroup{way}")
            if way == "Egress" and not inline:  # AWS's own rule stays, whatever other resources add
                inline = [{"IpProtocol": "-1", "CidrIp": "0.0.0.0/0"}]
            rules += [(f"<{group.id}>", one) for one in inline or []]
        rules += [
            (one.properties["GroupId"].replace(".GroupId>", ">"), one.properties)
            for one in stack.of(f"EC2::SecurityGroup{way}")
        ]
        for group_id, rule in rules:
            others = [
                rule[key]
                for key in ("CidrIp", "CidrIpv6", f"{peer}SecurityGroupId", f"{peer}PrefixListId")
                if key in rule
            ]
            for here in names(world, group_id):
                for there in (name for other in others for name in names(world, other)):
                    found.add((there, here, ports(rule)) if way == "Ingress" else (here, there, ports(rule)))
    return found


def expected(world: World) -> set[Flow]:
    """The flow table."""
    bridges = [role for role in BRIDGES if role in world.roles or role == "admin"]
    found = {("world", "alb", "tcp 443"), ("world", "alb", "tcp 80"), ("alb", "ingest", "tcp 8080")}
    found |= {(role, "db", "tcp 5432") for role in bridges}
    if world.scene.console:
        found.add(("alb", "console", "tcp 8081"))
    if world.single:
        found.add(("clients", "nlb", f"tcp {world.bridge.parameters['KafkaExternalPort']}"))
        found |= {("nlb", "kafka", "tcp 9096"), ("kafka", "kafka", "tcp 9095"), ("kafka", "efs", "tcp 2049")}
        found |= {(role, "kafka", "tcp 9094") for role in bridges}
    if world.vpc is not None and world.scene.nat == "none":
        found.add(("vpc", "endpoints", "tcp 443"))
    return found


def in_plain_words(several: set[Flow]) -> str:
    return ", ".join(f"{who} → {whom} {port}" for who, whom, port in sorted(several))


def rule_1_groups_let_in_what_the_table_says(world: World) -> Iterator[str]:
    """And nothing else: 9093 is in no row."""
    found, wanted = flows(world, "Ingress"), expected(world)
    if found - wanted:
        yield f"let in besides: {in_plain_words(found - wanted)}"
    if wanted - found:
        yield f"not let in: {in_plain_words(wanted - found)}"
    if through := sorted(port for _, _, port in found if "-" in port or port == "all"):
        yield f"more than one port: {through}"


def rule_1_groups_let_out_what_the_table_says(world: World) -> Iterator[str]:
    """Besides, tasks to AWS and to brokers of others, and the worker to the certificate that it watches."""
    found = flows(world, "Egress")
    for role in world.groups:
        out = {flow for flow in found if flow[0] == role and flow[1] != "nobody"}
        wanted = {flow for flow in expected(world) if flow[0] == role} | outside(world, role)
        if out != wanted:
            yield f"let out: {in_plain_words(out) or 'nothing'}, not {in_plain_words(wanted) or f'{role} nowhere'}"


def outside(world: World, role: str) -> set[Flow]:
    """What is beyond the VPC."""
    if role in {"alb", "nlb", "db", "efs", "endpoints"}:
        return set()
    found = {(role, "world", "tcp 443")}
    if role in {"worker", "admin"} and world.single:  # they share a group
        found.add((role, "world", f"tcp {world.bridge.parameters['KafkaExternalPort']}"))
    if role in BRIDGES and not world.single:
        found.add((role, "world", "tcp 1024-65535"))  # brokers listen where they like
    return found


def rule_1_everything_with_an_address_has_a_group(world: World) -> Iterator[str]:
    """Else AWS takes the VPC's default group, which lets nobody else in."""
    ways = {
        "ElasticLoadBalancingV2::LoadBalancer": "SecurityGroups",
        "ECS::Service": "NetworkConfiguration.AwsvpcConfiguration.SecurityGroups",
        "RDS::DBInstance": "VPCSecurityGroups",
        "EFS::MountTarget": "SecurityGroups",
    }
    for stack in ours(world):
        found = [(one, path) for kind, path in ways.items() for one in stack.of(kind)]
        found += [(one, "SecurityGroupIds") for one in stack.of("EC2::VPCEndpoint", VpcEndpointType="Interface")]
        for one, path in found:
            if not one.get(path):
                yield f"{one.id} is in no group"


def rule_1_everything_runs_on_fargate(world: World) -> Iterator[str]:
    for stack in ours(world):
        for one in stack.resources.values():
            if GONE.fullmatch(one.type):
                yield f"{one.id} is a {one.type}"
    if set(world.services) != set(world.roles):
        yield f"services: {sorted(world.services)}, not {sorted(world.roles)}"
    if set(world.tasks) != {*world.roles, "admin"}:
        yield f"task definitions: {sorted(world.tasks)}"
    for role, service in world.services.items():
        if service.get("LaunchType") != "FARGATE":
            yield f"{role}: launch type {service.get('LaunchType')}"
    for role, task in world.tasks.items():
        if task.get("RequiresCompatibilities") != ["FARGATE"] or task.get("NetworkMode") != "awsvpc":
            yield f"the task of {role} is not for Fargate"


def rule_1_external_mode_has_no_broker_parts(world: World) -> Iterator[str]:
    kinds = ("EFS::FileSystem", "EFS::MountTarget", "EFS::AccessPoint", "ServiceDiscovery::Service")
    parts = {kind: world.bridge.of(kind) for kind in kinds}
    balancers, groups = (
        world.bridge.of("ElasticLoadBalancingV2::LoadBalancer"),
        world.bridge.of("ElasticLoadBalancingV2::TargetGroup"),
    )
    parts["network load balancer"] = [one for one in balancers if balancer(one) == "network"]
    parts["target group"] = [one for one in groups if text(one.get("Port")) == "9096"]
    for kind, several in parts.items():
        if bool(several) != world.single:
            yield f"{kind}: {[one.id for one in several]}" if several else f"no {kind}"
    given = set(text(world.bridge.outputs.get("BridgeSecurityGroupIds", "")).replace(".GroupId", "").split(","))
    needed = {group for role in BRIDGES for group in world.groups.get(role, [])}
    if not world.single and given != needed:
        yield f"BridgeSecurityGroupIds are {sorted(given)}, the tasks are in {sorted(needed)}"


def rule_1_without_nat_the_endpoints_lead_out(world: World) -> Iterator[str]:
    if world.vpc is None:
        return
    found: dict[str, list[Resource]] = {"Gateway": [], "Interface": []}
    for one in world.vpc.of("EC2::VPCEndpoint"):
        found[one.get("VpcEndpointType", "Gateway")].append(one)
    services = {kind: {one.get("ServiceName").split(".", 3)[3] for one in several} for kind, several in found.items()}
    if services["Gateway"] != {"s3"}:
        yield f"gateway endpoints: {sorted(services['Gateway'])}"
    if services["Interface"] != (ENDPOINTS if world.scene.nat == "none" else set()):
        yield f"interface endpoints with NAT {world.scene.nat}: {sorted(services['Interface'])}"
    for one in found["Interface"]:
        if text(one.get("PrivateDnsEnabled")) != "true" or set(one.get("SubnetIds")) != set(private(world.vpc)):
            yield f"{one.id} is not what its service's name leads to, from each private subnet"
    tables = {
        one.get("RouteTableId")
        for one in world.vpc.of("EC2::SubnetRouteTableAssociation")
        if one.get("SubnetId") in private(world.vpc)
    }
    for one in found["Gateway"]:
        if not tables <= set(one.get("RouteTableIds", [])):
            yield f"{one.id} is not in the route tables of the private subnets"


def private(vpc: Stack) -> list[str]:
    return text(vpc.outputs["PrivateSubnetIds"]).split(",")


def public(vpc: Stack) -> list[str]:
    return text(vpc.outputs["PublicSubnetIds"]).split(",")


def ways_out(vpc: Stack, subnet: str) -> list[Resource]:
    """The default routes of a subnet."""
    associations = vpc.of("EC2::SubnetRouteTableAssociation", SubnetId=subnet)
    tables = {one.get("RouteTableId") for one in associations}
    return [one for one in vpc.of("EC2::Route", DestinationCidrBlock="0.0.0.0/0") if one.get("RouteTableId") in tables]


def rule_1_private_subnets_leave_through_nat_alone(world: World) -> Iterator[str]:
    """Two zones, each with a public and a private subnet; NAT none, one, or one a zone."""
    vpc = world.vpc
    if vpc is None:
        return
    zone = {f"<{one.id}>": one.get("AvailabilityZone") for one in vpc.of("EC2::Subnet")}
    block = ip_network(text(world.bridge.parameters["VpcCidr"]))
    blocks = [ip_network(one.get("CidrBlock")) for one in vpc.of("EC2::Subnet")]
    if any(not one.subnet_of(block) for one in blocks) or any(
        a.overlaps(b) for a in blocks for b in blocks if a is not b
    ):
        yield "subnets overlap, or are not in the VPC"
    gateways = {}
    for kind, several in (("public", public(vpc)), ("private", private(vpc))):
        if len(several) != 2 or len({zone.get(one) for one in several}) != 2:
            yield f"{kind} subnets: {[(one, zone.get(one)) for one in several]}"
        for one in several:
            routes = ways_out(vpc, one)
            if kind == "public":
                target = vpc.at(routes[0].get("GatewayId")) if len(routes) == 1 else None
                if target is None or target.type != "AWS::EC2::InternetGateway":
                    yield f"{one} has no way to the internet"
                continue
            if len(routes) != (world.scene.nat != "none"):
                yield f"{one} with NAT {world.scene.nat}: {len(routes)} ways out"
            for route in routes:
                target = vpc.at(route.get("NatGatewayId"))
                if target is None or target.type != "AWS::EC2::NatGateway" or target.get("SubnetId") not in public(vpc):
                    yield f"{one} does not leave through a NAT gateway in a public subnet"
                else:
                    gateways[one] = target
    used = {one.id for one in gateways.values()}
    if world.scene.nat == "per-az" and any(zone[one] != zone[via.get("SubnetId")] for one, via in gateways.items()):
        yield "a NAT gateway for each zone, and a subnet uses another's"
    if len(used) != {"none": 0, "single": 1, "per-az": 2}[world.scene.nat] or len(vpc.of("EC2::NatGateway")) != len(
        used
    ):
        yield f"NAT {world.scene.nat}: {sorted(one.id for one in vpc.of('EC2::NatGateway'))}"
    if any(text(one.get("MapPublicIpOnLaunch", False)) == "true" for one in vpc.of("EC2::Subnet")):
        yield "a subnet gives public addresses to what starts in it"
    for one in vpc.of("EC2::VPC"):
        if {text(one.get("EnableDnsSupport")), text(one.get("EnableDnsHostnames"))} != {"true"}:
            yield "names of endpoints, EFS and Kafka do not resolve in the VPC"
    attachments = {one.id for one in vpc.of("EC2::VPCGatewayAttachment")}
    for one in vpc.of("EC2::Route") + vpc.of("EC2::EIP"):
        if (one.type == "AWS::EC2::EIP" or one.get("GatewayId")) and not attachments & one.after:
            yield f"{one.id} may come before there is an internet"


def refused_connections_are_logged(world: World) -> Iterator[str]:
    """By a role that may write there."""
    if world.vpc is None:
        return
    found = world.vpc.of("EC2::FlowLog", ResourceType="VPC")
    if not found:
        yield "no flow log"
    for one in found:
        group, role = world.vpc.at(one.get("LogGroupName")), world.vpc.at(one.get("DeliverLogsPermissionArn"))
        if one.get("TrafficType") not in {"REJECT", "ALL"} or group is None or role is None:
            yield f"{one.id} logs {one.get('TrafficType')} to {group and group.id} as {role and role.id}"
        elif not all(
            may(grants_of(world.vpc, role), f"logs:{action}", f"<{group.id}.Arn>")
            for action in ("CreateLogStream", "PutLogEvents")
        ):
            yield f"{role.id} may not write to {group.id}"


def network_interfaces_are_private_but_the_balancers(world: World) -> Iterator[str]:
    parameters = world.bridge.parameters
    for one in world.bridge.of("ElasticLoadBalancingV2::LoadBalancer"):
        if one.get("Scheme") != "internet-facing" or one.get("Subnets") != parameters["PublicSubnetIds"]:
            yield f"{one.id} is not in the public subnets"
    for role, service in world.services.items():
        at = service.get("NetworkConfiguration.AwsvpcConfiguration", {})
        if at.get("AssignPublicIp", "DISABLED") != "DISABLED" or not set(at["Subnets"]) <= set(
            parameters["PrivateSubnetIds"]
        ):
            yield f"{role} is not in the private subnets"
    if not set(text(world.bridge.outputs["AdminSubnets"]).split(",")) <= set(parameters["PrivateSubnetIds"]):
        yield "the admin task is not in the private subnets"
    if text(world.database.get("PubliclyAccessible")) != "false":
        yield "the database has a public address"
    group = world.bridge.at(world.database.get("DBSubnetGroupName"))
    if group is None or group.get("SubnetIds") != parameters["PrivateSubnetIds"]:
        yield "the database is not in the private subnets"


RULES = (
    rule_1_everything_runs_on_fargate,
    rule_1_everything_with_an_address_has_a_group,
    rule_1_external_mode_has_no_broker_parts,
    rule_1_groups_let_in_what_the_table_says,
    rule_1_groups_let_out_what_the_table_says,
    rule_1_private_subnets_leave_through_nat_alone,
    rule_1_without_nat_the_endpoints_lead_out,
    network_interfaces_are_private_but_the_balancers,
    refused_connections_are_logged,
)
