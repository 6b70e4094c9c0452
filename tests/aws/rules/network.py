"""Who may reach whom: security groups, load balancers, the VPC. Each rule yields a sentence for what is not so."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from ipaddress import ip_address, ip_network
from typing import Any

from resolver import Resource, Stack, strings, text
from world import BRIDGES, CERTIFICATE, CLIENTS, CONSOLE, DOMAIN, World, balancer, only, pairs

Flow = tuple[str, str, str]
LOOPBACK = "127.0.0.1/32"  # what a group names that may go nowhere: an empty list would mean everywhere
POLICY = "ELBSecurityPolicy-TLS13-1-2-Res-2021-06"
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
    roles = [role for role, several in world.groups.items() if value in several or value in one_more(several)]
    return roles or [known.get(value, value)]


def one_more(several: list[str]) -> list[str]:
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
        rules += [(one.properties["GroupId"].replace(".GroupId>", ">"), one.properties) for one in stack.of(f"EC2::SecurityGroup{way}")]
        for group_id, rule in rules:
            others = [rule[key] for key in ("CidrIp", "CidrIpv6", f"{peer}SecurityGroupId", f"{peer}PrefixListId") if key in rule]
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


def rule_01_groups_let_in_what_the_table_says(world: World) -> Iterator[str]:
    found, wanted = flows(world, "Ingress"), expected(world)
    # The worker's group is the admin task's too, so nobody can tell the two apart.
    if found - wanted:
        yield f"let in besides: {in_plain_words(found - wanted)}"
    if wanted - found:
        yield f"not let in: {in_plain_words(wanted - found)}"
    if through := sorted(port for _, _, port in found if "-" in port or port == "all"):
        yield f"more than one port: {through}"


def rule_01_groups_let_out_what_the_table_says(world: World) -> Iterator[str]:
    """Load balancers to their targets, data and endpoints nowhere, the others at least to what they need."""
    found = flows(world, "Egress")
    wanted = expected(world)
    for role in world.groups:
        out = {flow for flow in found if flow[0] == role and flow[1] != "nobody"}
        needed = {flow for flow in wanted if flow[0] == role}
        if role in {"alb", "nlb", "db", "efs", "endpoints"}:
            if out != needed:
                yield f"{role} is let out to {in_plain_words(out) or 'nothing'}, not {in_plain_words(needed) or 'nothing'}"
        elif (role, "world", "all") not in out and (lost := needed - out):
            yield f"not let out: {in_plain_words(lost)}"


def rule_01_everything_runs_on_fargate(world: World) -> Iterator[str]:
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


def rule_01_external_mode_has_no_broker_parts(world: World) -> Iterator[str]:
    kinds = ("EFS::FileSystem", "EFS::MountTarget", "EFS::AccessPoint", "ServiceDiscovery::Service")
    found = [one.id for kind in kinds for one in world.bridge.of(kind)]
    found += [one.id for one in world.bridge.of("ElasticLoadBalancingV2::LoadBalancer") if balancer(one) == "network"]
    found += [one.id for one in world.bridge.of("Route53::RecordSet") if str(one.get("Name")).startswith("kafka.")]
    found += [one.id for one in world.bridge.of("ElasticLoadBalancingV2::TargetGroup") if one.get("Protocol") == "TCP"]
    if not world.single and found:
        yield f"the cluster is somebody else's, and there is {', '.join(found)}"
    if world.single and len(found) < 6:
        yield f"of the broker's parts there is only {', '.join(found)}"
    given = set(text(world.bridge.outputs.get("BridgeSecurityGroupIds", "")).replace(".GroupId", "").split(","))
    needed = {group for role in BRIDGES for group in world.groups.get(role, [])}
    if not world.single and given != needed:
        yield f"BridgeSecurityGroupIds are {sorted(given)}, the tasks are in {sorted(needed)}"


def rule_01_without_nat_the_endpoints_lead_out(world: World) -> Iterator[str]:
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
    tables = {one.get("RouteTableId") for one in world.vpc.of("EC2::SubnetRouteTableAssociation") if one.get("SubnetId") in private(world.vpc)}
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


def rule_01_private_subnets_leave_through_nat_alone(world: World) -> Iterator[str]:
    """Two zones, each with a public and a private subnet; NAT none, one, or one a zone."""
    vpc = world.vpc
    if vpc is None:
        return
    zone = {f"<{one.id}>": one.get("AvailabilityZone") for one in vpc.of("EC2::Subnet")}
    block = ip_network(text(world.bridge.parameters["VpcCidr"]))
    blocks = [ip_network(one.get("CidrBlock")) for one in vpc.of("EC2::Subnet")]
    if any(not one.subnet_of(block) for one in blocks) or any(a.overlaps(b) for a in blocks for b in blocks if a is not b):
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
    if len(used) != {"none": 0, "single": 1, "per-az": 2}[world.scene.nat] or len(vpc.of("EC2::NatGateway")) != len(used):
        yield f"NAT {world.scene.nat}: {sorted(one.id for one in vpc.of('EC2::NatGateway'))}"
    if any(text(one.get("MapPublicIpOnLaunch", False)) == "true" for one in vpc.of("EC2::Subnet")):
        yield "a subnet gives public addresses to what starts in it"
    for one in vpc.of("EC2::VPC"):
        if {text(one.get("EnableDnsSupport")), text(one.get("EnableDnsHostnames"))} != {"true"}:
            yield "names of endpoints, EFS and Kafka do not resolve in the VPC"
    if not [one for one in vpc.of("EC2::FlowLog") if one.get("ResourceType") == "VPC"]:
        yield "no flow log"


def network_interfaces_are_private_but_the_balancers(world: World) -> Iterator[str]:
    parameters = world.bridge.parameters
    for one in world.bridge.of("ElasticLoadBalancingV2::LoadBalancer"):
        if one.get("Scheme") != "internet-facing" or one.get("Subnets") != parameters["PublicSubnetIds"]:
            yield f"{one.id} is not in the public subnets"
    for role, service in world.services.items():
        at = service.get("NetworkConfiguration.AwsvpcConfiguration", {})
        if at.get("AssignPublicIp", "DISABLED") != "DISABLED" or not set(at["Subnets"]) <= set(parameters["PrivateSubnetIds"]):
            yield f"{role} is not in the private subnets"
    if not set(text(world.bridge.outputs["AdminSubnets"]).split(",")) <= set(parameters["PrivateSubnetIds"]):
        yield "the admin task is not in the private subnets"
    if text(world.database.get("PubliclyAccessible")) != "false":
        yield "the database has a public address"
    for group in world.bridge.of("RDS::DBSubnetGroup"):
        if group.get("SubnetIds") != parameters["PrivateSubnetIds"]:
            yield "the database is not in the private subnets"


def matches(condition: dict[str, Any], host: str, path: str, source: str) -> bool:
    what = condition["Field"]
    config = {"host-header": "HostHeaderConfig", "path-pattern": "PathPatternConfig", "source-ip": "SourceIpConfig"}[what]
    values = condition.get("Values") or condition[config]["Values"]
    if what == "source-ip":
        return any(ip_address(source) in ip_network(one) for one in values)
    if what == "host-header":
        return any(fnmatchcase(host.lower(), one.lower()) for one in values)
    return any(fnmatchcase(path, one) for one in values)


def answer(world: World, host: str, path: str, source: str) -> str:
    """What the load balancer does with a request: a fixed status, or who gets it."""
    listener = world.listener(443)
    rules = [one for one in world.bridge.of("ElasticLoadBalancingV2::ListenerRule") if one.get("ListenerArn") == f"<{listener.id}>"]
    for rule in sorted(rules, key=lambda one: int(one.get("Priority"))):
        if all(matches(one, host, path, source) for one in rule.get("Conditions")):
            return outcome(world, rule.get("Actions"))
    return outcome(world, listener.get("DefaultActions"))


def outcome(world: World, actions: list[dict[str, Any]]) -> str:
    (action,) = actions
    if action["Type"] == "fixed-response":
        return str(action["FixedResponseConfig"]["StatusCode"])
    for role, service in world.services.items():
        for one in service.get("LoadBalancers", []):
            if one["TargetGroupArn"] == action.get("TargetGroupArn"):
                return f"{role}:{one['ContainerPort']}"
    return f"{action['Type']} to nobody"


def rule_08_each_request_gets_its_answer(world: World) -> Iterator[str]:
    hooks, console, inside, outside = f"webhooks.{DOMAIN}", f"console.{DOMAIN}", CONSOLE[0].split("/")[0], "192.0.2.9"
    on = world.scene.console
    wanted: list[tuple[str, str, str, set[str]]] = [
        *((hooks, path, outside, {"ingest:8080"}) for path in ("/", "/shopify-de", "/erp/a/health/live", "/health", "/healthy")),
        *((hooks, path, outside, {"404"}) for path in ("/health/live", "/health/ready", "/health/")),
        (hooks.upper(), "/shopify-de", outside, {"ingest:8080"}),
        *((console, path, inside, {"console:8081"} if on else {"404"}) for path in ("/", "/events", "/api/v1/events")),
        (console, "/", CONSOLE[1].replace("64/26", "70"), {"console:8081"} if on else {"404"}),
        *((console, path, outside, {"403"} if on else {"404"}) for path in ("/", "/api/v1/events", "/metrics")),
        (console, "/health/live", inside, {"404"}),
        (console, "/health/live", outside, {"403", "404"}),
        *((host, "/", one, {"404"}) for host in (f"kafka.{DOMAIN}", DOMAIN, "192.0.2.1", f"a.{hooks}") for one in (inside, outside)),
    ]  # fmt: skip
    for host, path, source, answers in wanted:
        if (found := answer(world, host, path, source)) not in answers:
            yield f"{host}{path} from {source}: {found}, not {' or '.join(sorted(answers))}"
    for rule in world.bridge.of("ElasticLoadBalancingV2::ListenerRule"):
        values = sum(len(one.get("Values") or next(one[key]["Values"] for key in one if key.endswith("Config"))) for one in rule.get("Conditions"))
        if on and values + 4 - len(CONSOLE) > 5 and "source-ip" in strings(rule.properties):
            yield f"{rule.id}: with four ranges of addresses it has more than the five values that AWS allows"
    priorities = [one.get("Priority") for one in world.bridge.of("ElasticLoadBalancingV2::ListenerRule")]
    if len(set(priorities)) != len(priorities):
        yield f"priorities: {priorities}"


def rule_08_the_certificate_holds_every_name(world: World) -> Iterator[str]:
    wanted = {f"{name}.{DOMAIN}" for name in ("webhooks", "kafka", "console")}
    for one in world.bridge.of("CertificateManager::Certificate"):
        if {one.get("DomainName"), *one.get("SubjectAlternativeNames", [])} != wanted:
            yield f"{one.id} is for {one.get('DomainName')}, {one.get('SubjectAlternativeNames')}"


def rule_09_both_doors_speak_modern_tls(world: World) -> Iterator[str]:
    for one in world.bridge.of("ElasticLoadBalancingV2::Listener"):
        if one.get("Protocol") in {"HTTPS", "TLS"} and one.get("SslPolicy") != POLICY:
            yield f"{one.id}: {one.get('SslPolicy', 'the default policy of AWS, which knows TLS 1.0')}"


def rule_09_the_balancer_speaks_https_to_ingest(world: World) -> Iterator[str]:
    if world.target("ingest").get("Protocol") != "HTTPS":
        yield f"ingest gets {world.target('ingest').get('Protocol')}"
    if world.target("ingest").get("HealthCheckProtocol", "HTTPS") != "HTTPS":
        yield "the health of ingest is asked for without TLS"


def rule_09_headers_reach_ingest_as_they_came(world: World) -> Iterator[str]:
    """A name that the balancer dislikes may be in a signature."""
    attributes = pairs(world.alb.get("LoadBalancerAttributes"), "Key")
    if text(attributes.get("routing.http.drop_invalid_header_fields.enabled")) != "false":
        yield "the load balancer drops headers, or leaves that to AWS's default"


def balancers_have_the_listeners_that_they_can_have(world: World) -> Iterator[str]:
    """AWS refuses a TCP listener on an application load balancer, and HTTP on the other."""
    able = {"application": {"HTTP", "HTTPS"}, "network": {"TCP", "TLS", "UDP", "TCP_UDP"}}
    doors = {("application", "443", "HTTPS"), ("application", "80", "HTTP")}
    if world.single:
        doors.add(("network", text(world.bridge.parameters["KafkaExternalPort"]), "TLS"))
    found = set()
    for one in world.bridge.of("ElasticLoadBalancingV2::Listener"):
        at = world.bridge.at(one.get("LoadBalancerArn"))
        kind = balancer(at) if at else "nobody"
        if one.get("Protocol") not in able.get(kind, set()):
            yield f"{one.id}: {one.get('Protocol')} on an {kind} load balancer"
            continue
        found.add((kind, text(one.get("Port")), one.get("Protocol")))
        if one.get("Protocol") in {"HTTPS", "TLS"} and len(one.get("Certificates", [])) != 1:
            yield f"{one.id} has no certificate"
        if one.get("Protocol") == "HTTP":
            (action,) = one.get("DefaultActions")
            if action["Type"] != "redirect" or action["RedirectConfig"].get("Protocol") != "HTTPS" or text(action["RedirectConfig"].get("Port")) != "443":
                yield f"{one.id} does not redirect to HTTPS"
    if len(found) == len(world.bridge.of("ElasticLoadBalancingV2::Listener")) and found != doors:
        yield f"doors: {sorted(found)}, not {sorted(doors)}"


def listeners_forward_to_what_understands_them(world: World) -> Iterator[str]:
    """HTTPS to HTTP groups, TLS to TCP groups; and a group's members are addresses, since tasks have their own."""
    able = {"HTTP": {"HTTP", "HTTPS"}, "HTTPS": {"HTTP", "HTTPS"}, "TCP": {"TCP"}, "TLS": {"TCP", "TLS"}}
    listeners = {f"<{one.id}>": one for one in world.bridge.of("ElasticLoadBalancingV2::Listener")}
    used = set()
    actions = [(one, one.get("DefaultActions")) for one in listeners.values()]
    for rule in world.bridge.of("ElasticLoadBalancingV2::ListenerRule"):
        actions.append((listeners[rule.get("ListenerArn")], rule.get("Actions")))
    for listener, several in actions:
        for group in (world.bridge.at(one["TargetGroupArn"]) for one in several if one["Type"] == "forward"):
            if group is None:
                yield f"{listener.id} forwards to nothing"
                continue
            used.add(group.id)
            if group.get("Protocol") not in able.get(listener.get("Protocol"), able["HTTPS"]):
                yield f"{listener.id}: {listener.get('Protocol')} forwarded to a {group.get('Protocol')} group"
    for group in world.bridge.of("ElasticLoadBalancingV2::TargetGroup"):
        if group.get("TargetType") != "ip":
            yield f"{group.id} has targets of type {group.get('TargetType', 'instance')}"
        if group.id not in used:
            yield f"{group.id} is no listener's"


def balancers_send_to_a_port_that_listens(world: World) -> Iterator[str]:
    """A service's load balancer names a container of its task and a port of it, which is the group's."""
    wanted = {"ingest": 1, "worker": 0, "console": 1, "kafka": 1}
    for role, service in world.services.items():
        several = service.get("LoadBalancers", [])
        if len(several) != wanted.get(role):
            yield f"{role} is behind {len(several)} load balancers"
        for one in several:
            found = dict(world.containers(role)).get(f"{role}/{one['ContainerName']}")
            if found is None:
                yield f"{role}: there is no container {one['ContainerName']}"
                continue
            listening = {text(port["ContainerPort"]) for port in found.get("PortMappings", [])}
            if text(one["ContainerPort"]) not in listening:
                yield f"{role}: {one['ContainerName']} does not listen on {one['ContainerPort']}"
            group = world.bridge.at(one["TargetGroupArn"])
            if group is None or text(group.get("Port")) != text(one["ContainerPort"]):
                yield f"{role}: its target group is for another port"
            elif text(group.get("HealthCheckPort", "traffic-port")) not in {"traffic-port", text(one["ContainerPort"])}:
                if text(group.get("HealthCheckPort")) not in listening:
                    yield f"{role}: nobody listens where its health is asked for"
        if several and not 30 <= int(service.get("HealthCheckGracePeriodSeconds", 0)):
            yield f"{role} is judged before it can have started"


def health_is_whether_a_process_answers(world: World) -> Iterator[str]:
    """Tasks that the balancer finds unhealthy are restarted: a broker that is away must not restart ingest."""
    for role in {"ingest", "console"} & set(world.services):
        group = world.target(role)
        if group.get("HealthCheckPath") not in {"/health", "/health/live"}:
            yield f"{role}: {group.get('HealthCheckPath', '/')}"
        if text(group.get("Matcher.HttpCode", "200")) != "200":
            yield f"{role}: healthy with {group.get('Matcher.HttpCode')}"


def rule_09_kafka_gets_its_bytes_and_no_header(world: World) -> Iterator[str]:
    """The broker cannot read a PROXY header, clients inside the VPC come back through the NLB, and it is in one zone."""
    if not world.single:
        return
    attributes = {name: text(one) for name, one in pairs(world.target("kafka").get("TargetGroupAttributes"), "Key").items()}
    if attributes.get("preserve_client_ip.enabled") != "false":
        yield "clients' addresses are kept, which breaks those inside the VPC and the security groups"
    if attributes.get("proxy_protocol_v2.enabled", "false") != "false":
        yield "a PROXY header before Kafka's bytes"
    if text(pairs(world.nlb.get("LoadBalancerAttributes"), "Key").get("load_balancing.cross_zone.enabled")) != "true":
        yield "half of the clients find no broker in their zone"
    if world.target("kafka").get("HealthCheckProtocol", "TCP") != "TCP":
        yield "Kafka answers no HTTP"


def balancers_write_their_logs(world: World) -> Iterator[str]:
    """To a bucket whose policy lets them, which exists before they do."""
    for one in world.bridge.of("ElasticLoadBalancingV2::LoadBalancer"):
        attributes = pairs(one.get("LoadBalancerAttributes"), "Key")
        bucket = world.bridge.at(attributes.get("access_logs.s3.bucket"))
        if text(attributes.get("access_logs.s3.enabled")) != "true" or bucket is None:
            yield f"{one.id} writes no access log"
            continue
        policies = world.bridge.of("S3::BucketPolicy", Bucket=f"<{bucket.id}>")
        if not policies or policies[0].id not in one.after:
            yield f"{one.id} may come before the policy of its bucket"
            continue
        service = {"application": "logdelivery.elasticloadbalancing.amazonaws.com", "network": "delivery.logs.amazonaws.com"}[balancer(one)]
        where = f"<{bucket.id}.Arn>/{attributes['access_logs.s3.prefix']}/AWSLogs/123456789012/*"
        let = [
            statement for statement in policies[0].get("PolicyDocument.Statement")
            if statement["Effect"] == "Allow" and statement["Principal"] == {"Service": service}
        ]  # fmt: skip
        if not any("s3:PutObject" in strings(one["Action"]) and where in strings(one["Resource"]) for one in let):
            yield f"{one.id} may not write {where}"
        if balancer(one) == "network" and not any("s3:GetBucketAcl" in strings(one["Action"]) for one in let):
            yield f"{one.id} may not look at its bucket"


def rule_19_certificate_and_names_where_there_is_a_zone(world: World) -> Iterator[str]:
    """Given or made, with the records that validate it; names lead to the load balancers where a zone is known."""
    zone, given = world.bridge.parameters["HostedZoneId"], world.bridge.parameters["CertificateArn"]
    made = world.bridge.of("CertificateManager::Certificate")
    if len(made) != (not given):
        yield f"CertificateArn {given!r}, and certificates made: {len(made)}"
    for one in made:
        records = {option["DomainName"]: option.get("HostedZoneId") for option in one.get("DomainValidationOptions", [])}
        subjects = {one.get("DomainName"), *one.get("SubjectAlternativeNames", [])}
        if one.get("ValidationMethod") != "DNS" or records != dict.fromkeys(subjects, zone):
            yield f"{one.id} waits for records that nobody makes: {records}"
    wanted = CERTIFICATE if given else f"<{only(iter(made)).id}>"
    for listener in world.bridge.of("ElasticLoadBalancingV2::Listener"):
        if any(one["CertificateArn"] != wanted for one in listener.get("Certificates", [])):
            yield f"{listener.id} shows another certificate"
    to = {f"webhooks.{DOMAIN}": "alb"}
    to |= {f"kafka.{DOMAIN}": "nlb"} if world.single else {}
    to |= {f"console.{DOMAIN}": "alb"} if world.scene.console else {}
    found = {}
    for record in world.bridge.of("Route53::RecordSet"):
        alias = record.get("AliasTarget", {})
        at = world.bridge.at(alias.get("DNSName"))
        found[record.get("Name").removesuffix(".")] = {"application": "alb", "network": "nlb"}[balancer(at)] if at else "nothing"
        if at is None or alias.get("HostedZoneId") != f"<{at.id}.CanonicalHostedZoneID>" or record.get("HostedZoneId") != zone:
            yield f"{record.id}: {alias}"
    if found != (to if zone else {}):
        yield f"names lead to {found}"


RULES = (
    rule_01_groups_let_in_what_the_table_says,
    rule_01_groups_let_out_what_the_table_says,
    rule_01_everything_runs_on_fargate,
    rule_01_external_mode_has_no_broker_parts,
    rule_01_without_nat_the_endpoints_lead_out,
    rule_01_private_subnets_leave_through_nat_alone,
    rule_08_each_request_gets_its_answer,
    rule_08_the_certificate_holds_every_name,
    rule_09_both_doors_speak_modern_tls,
    rule_09_the_balancer_speaks_https_to_ingest,
    rule_09_headers_reach_ingest_as_they_came,
    rule_09_kafka_gets_its_bytes_and_no_header,
    rule_19_certificate_and_names_where_there_is_a_zone,
    balancers_have_the_listeners_that_they_can_have,
    listeners_forward_to_what_understands_them,
    balancers_send_to_a_port_that_listens,
    balancers_write_their_logs,
    health_is_whether_a_process_answers,
    network_interfaces_are_private_but_the_balancers,
)
