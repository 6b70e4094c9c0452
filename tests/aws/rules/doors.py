"""The load balancers: what they answer, to whom they forward, how they are called."""

from __future__ import annotations

import json
from collections.abc import Iterator
from fnmatch import fnmatchcase
from ipaddress import ip_address, ip_network
from typing import Any

from resolver import Resource, strings, text
from world import CERTIFICATE, CONSOLE, DOMAIN, World, balancer, only, pairs

from rules.settings import checked, variables

POLICY = "ELBSecurityPolicy-TLS13-1-2-Res-2021-06"
ABLE = {"application": {"HTTP", "HTTPS"}, "network": {"TCP", "TLS", "UDP", "TCP_UDP"}}
# Attributes that other rules look at.
JUDGED = {
    "access_logs.s3.bucket", "access_logs.s3.enabled", "access_logs.s3.prefix", "deletion_protection.enabled",
    "idle_timeout.timeout_seconds", "load_balancing.cross_zone.enabled", "preserve_client_ip.enabled",
    "proxy_protocol_v2.enabled", "routing.http.drop_invalid_header_fields.enabled",
}  # fmt: skip
ATTRIBUTES = {
    "application": {
        "routing.http.desync_mitigation_mode": "defensive",  # what two servers would read in two ways ends here
        "routing.http.preserve_host_header.enabled": "true",
        "routing.http.xff_header_processing.mode": "append",  # the last address is the one that the balancer saw
    },
    "network": {},
}
LETS_GO = {"deregistration_delay.timeout_seconds": "30"}  # while a task drains for 40 s
OF_TARGETS = {
    "ingest": LETS_GO,
    "console": LETS_GO,
    "kafka": {**LETS_GO, "deregistration_delay.connection_termination.enabled": "true"},
}
# Seconds between two questions and for an answer; how many of them make a target healthy, and not.
# Until a task must be healthy. ECS refuses a grace where no load balancer judges.
GRACE_S = {"ingest": 120, "console": 120, "kafka": 300, "worker": None}
HEALTH = {"ingest": (10, 5, 2, 3), "console": (10, 5, 2, 3), "kafka": (10, None, 2, 2)}
FORWARDS = {"HTTP": {"HTTP", "HTTPS"}, "HTTPS": {"HTTP", "HTTPS"}, "TCP": {"TCP"}, "TLS": {"TCP", "TLS"}}


def matches(condition: dict[str, Any], host: str, path: str, source: str) -> bool:
    what = condition["Field"]
    config = {"host-header": "HostHeaderConfig", "path-pattern": "PathPatternConfig", "source-ip": "SourceIpConfig"}[
        what
    ]
    values = condition.get("Values") or condition[config]["Values"]
    if what == "source-ip":
        return any(ip_address(source) in ip_network(one) for one in values)
    if what == "host-header":
        return any(fnmatchcase(host.lower(), one.lower()) for one in values)
    return any(fnmatchcase(path, one) for one in values)


def answer(world: World, host: str, path: str, source: str) -> str:
    """What the load balancer does with a request: a fixed status, or who gets it."""
    listener = world.listener(443)
    rules = [
        one
        for one in world.bridge.of("ElasticLoadBalancingV2::ListenerRule")
        if one.get("ListenerArn") == f"<{listener.id}>"
    ]
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
                return f"{role}:{world.target(role).get('Port')}"
    return f"{action['Type']} to nobody"


def rule_8_each_request_gets_its_answer(world: World) -> Iterator[str]:
    hooks, console, inside, outside = f"webhooks.{DOMAIN}", f"console.{DOMAIN}", CONSOLE[0].split("/")[0], "192.0.2.9"
    on = world.scene.console
    wanted: list[tuple[str, str, str, set[str]]] = [
        *((hooks, path, outside, {"ingest:8080"}) for path in ("/shopify-de", "/a/health/live", "/health", "/healthy")),
        *((hooks, path, outside, {"404"}) for path in ("/health/live", "/health/ready", "/health/")),
        (hooks.upper(), "/shopify-de", outside, {"ingest:8080"}),
        *((console, path, inside, {"console:8081"} if on else {"404"}) for path in ("/", "/events", "/api/v1/events")),
        (console, "/", CONSOLE[1].replace("64/26", "70"), {"console:8081"} if on else {"404"}),
        *((console, path, outside, {"403"} if on else {"404"}) for path in ("/", "/api/v1/events", "/metrics")),
        (console, "/health/live", inside, {"404"}),
        (console, "/health/live", outside, {"403", "404"}),
        *((host, "/", inside, {"404"}) for host in (f"kafka.{DOMAIN}", DOMAIN, "192.0.2.1", f"a.{hooks}")),
    ]  # fmt: skip
    for host, path, source, answers in wanted:
        if (found := answer(world, host, path, source)) not in answers:
            yield f"{host}{path} from {source}: {found}, not {' or '.join(sorted(answers))}"
    for rule in world.bridge.of("ElasticLoadBalancingV2::ListenerRule"):
        values = sum(
            len(one.get("Values") or next(one[key]["Values"] for key in one if key.endswith("Config")))
            for one in rule.get("Conditions")
        )
        if on and values + 4 - len(CONSOLE) > 5 and "source-ip" in strings(rule.properties):
            yield f"{rule.id}: with four ranges of addresses it has more than the five values that AWS allows"
    for rule in [world.listener(443), *world.bridge.of("ElasticLoadBalancingV2::ListenerRule")]:
        for action in rule.get("Actions", rule.get("DefaultActions")):
            if said := action.get("FixedResponseConfig"):
                problem = json.loads(said.get("MessageBody", "{}"))
                status = problem.get("status"), said.get("ContentType"), "edge." in problem.get("code", "")
                if status != (int(said["StatusCode"]), "application/json", True):
                    yield f"{rule.id} says {said}"
    priorities = [one.get("Priority") for one in world.bridge.of("ElasticLoadBalancingV2::ListenerRule")]
    if len(set(priorities)) != len(priorities):
        yield f"priorities: {priorities}"


def rule_8_the_certificate_holds_every_name(world: World) -> Iterator[str]:
    wanted = {f"{name}.{DOMAIN}" for name in ("webhooks", "kafka", "console")}
    for one in world.bridge.of("CertificateManager::Certificate"):
        if {one.get("DomainName"), *one.get("SubjectAlternativeNames", [])} != wanted:
            yield f"{one.id} is for {one.get('DomainName')}, {one.get('SubjectAlternativeNames')}"


def rule_9_both_doors_speak_modern_tls(world: World) -> Iterator[str]:
    for one in world.bridge.of("ElasticLoadBalancingV2::Listener"):
        if one.get("Protocol") in {"HTTPS", "TLS"} and one.get("SslPolicy") != POLICY:
            yield f"{one.id}: {one.get('SslPolicy', 'the default policy of AWS, which knows TLS 1.0')}"


def rule_9_the_balancer_speaks_https_to_ingest(world: World) -> Iterator[str]:
    if world.target("ingest").get("Protocol") != "HTTPS":
        yield f"ingest gets {world.target('ingest').get('Protocol')}"
    if world.target("ingest").get("HealthCheckProtocol", "HTTP") != "HTTPS":
        yield "the health of ingest is asked for without TLS, as AWS does by default"


def rule_9_headers_reach_ingest_as_they_came(world: World) -> Iterator[str]:
    """A name that the balancer dislikes may be in a signature."""
    attributes = pairs(world.alb.get("LoadBalancerAttributes"), "Key")
    if text(attributes.get("routing.http.drop_invalid_header_fields.enabled")) != "false":
        yield "the load balancer drops headers, or leaves that to AWS's default"


def balancers_have_the_listeners_that_they_can_have(world: World) -> Iterator[str]:
    """AWS refuses a TCP listener on an application load balancer, and HTTP on the other."""
    doors = {("application", "443", "HTTPS"), ("application", "80", "HTTP")}
    if world.single:
        doors.add(("network", text(world.bridge.parameters["KafkaExternalPort"]), "TLS"))
    found = set()
    for one in world.bridge.of("ElasticLoadBalancingV2::Listener"):
        at = world.bridge.at(one.get("LoadBalancerArn"))
        kind = balancer(at) if at else "nobody"
        if one.get("Protocol") not in ABLE.get(kind, set()):
            yield f"{one.id}: {one.get('Protocol')} on an {kind} load balancer"
            continue
        found.add((kind, text(one.get("Port")), one.get("Protocol")))
        if one.get("Protocol") in {"HTTPS", "TLS"} and len(one.get("Certificates", [])) != 1:
            yield f"{one.id} has no certificate"
        if one.get("Protocol") == "HTTP":
            (action,) = one.get("DefaultActions")
            if (
                action["Type"] != "redirect"
                or action["RedirectConfig"].get("Protocol") != "HTTPS"
                or text(action["RedirectConfig"].get("Port")) != "443"
            ):
                yield f"{one.id} does not redirect to HTTPS"
    if len(found) == len(world.bridge.of("ElasticLoadBalancingV2::Listener")) and found != doors:
        yield f"doors: {sorted(found)}, not {sorted(doors)}"


def listeners_forward_to_what_understands_them(world: World) -> Iterator[str]:
    """HTTPS to HTTP groups, TLS to TCP groups; and a group's members are addresses, since tasks have their own."""
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
            at = world.bridge.at(listener.get("LoadBalancerArn"))
            able = at is not None and listener.get("Protocol") in ABLE[balancer(at)]
            if able and group.get("Protocol") not in FORWARDS[listener.get("Protocol")]:
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
            elif text(group.get("HealthCheckPort", "traffic-port")) not in {"traffic-port", *listening}:
                yield f"{role}: nobody listens where its health is asked for"
        grace_s = service.get("HealthCheckGracePeriodSeconds")
        if grace_s != GRACE_S[role]:
            yield f"{role} is judged after {grace_s} s, and not {GRACE_S[role]}"


def attributes_of(one: Resource, name: str) -> dict[str, str]:
    return {key: text(value) for key, value in pairs(one.get(name), "Key").items() if key not in JUDGED}


def balancers_are_set_as_the_tables_say(world: World) -> Iterator[str]:
    """Each attribute that no other rule asks for, and when a target counts as healthy: these and no others."""
    for one in world.bridge.of("ElasticLoadBalancingV2::LoadBalancer"):
        found = attributes_of(one, "LoadBalancerAttributes")
        if found != ATTRIBUTES[balancer(one)]:
            yield f"{one.id}: {found}, not {ATTRIBUTES[balancer(one)]}"
    for role in set(world.services) - {"worker"}:
        group = world.target(role)
        if (found := attributes_of(group, "TargetGroupAttributes")) != OF_TARGETS[role]:
            yield f"{group.id}: {found}, not {OF_TARGETS[role]}"
        names = ("IntervalSeconds", "TimeoutSeconds", "HealthyThresholdCount", "UnhealthyThresholdCount")
        health = tuple(group.get(f"HealthCheck{name}", group.get(name)) for name in names)
        if health != HEALTH[role]:
            yield f"{group.id} is asked {health}, not {HEALTH[role]}"


def health_is_whether_a_process_answers(world: World) -> Iterator[str]:
    """Tasks that the balancer finds unhealthy are restarted: a broker that is away must not restart ingest."""
    for role in {"ingest", "console"} & set(world.services):
        group = world.target(role)
        if group.get("HealthCheckPath") not in {"/health", "/health/live"}:
            yield f"{role}: {group.get('HealthCheckPath', '/')}"
        if text(group.get("Matcher.HttpCode", "200")) != "200":
            yield f"{role}: healthy with {group.get('Matcher.HttpCode')}"


def the_balancer_hangs_up_first(world: World) -> Iterator[str]:
    """It may send a request on an idle connection at the moment in which ingest closes it, and answers 502 then."""
    idle_s = int(text(pairs(world.alb.get("LoadBalancerAttributes"), "Key").get("idle_timeout.timeout_seconds", 60)))
    kept_s = checked(tuple(variables(world.container("ingest")).items()))[0].ingest.keep_alive_ms / 1000
    if not idle_s < kept_s:
        yield f"it keeps an idle connection for {idle_s} s, ingest for {kept_s:g}"


def the_guard_is_told_for_whom(world: World) -> Iterator[str]:
    """By the PROXY header; clients inside the VPC come back through the NLB, and the broker is in one zone."""
    if not world.single:
        return
    attributes = {
        name: text(one) for name, one in pairs(world.target("kafka").get("TargetGroupAttributes"), "Key").items()
    }
    if attributes.get("preserve_client_ip.enabled") != "false":
        yield "clients' addresses are kept, which breaks those inside the VPC and the security groups"
    if attributes.get("proxy_protocol_v2.enabled", "false") != "true":
        yield "no PROXY header, and the guard cuts who comes without one"
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
        service = {
            "application": "logdelivery.elasticloadbalancing.amazonaws.com",
            "network": "delivery.logs.amazonaws.com",
        }[balancer(one)]
        where = f"<{bucket.id}.Arn>/{attributes['access_logs.s3.prefix']}/AWSLogs/123456789012/*"
        let = [
            statement for statement in policies[0].get("PolicyDocument.Statement")
            if statement["Effect"] == "Allow" and statement["Principal"] == {"Service": service}
        ]  # fmt: skip
        if not any("s3:PutObject" in strings(one["Action"]) and where in strings(one["Resource"]) for one in let):
            yield f"{one.id} may not write {where}"
        looks = [(one["Action"], one.get("Resource")) for one in let]
        if balancer(one) == "network" and ("s3:GetBucketAcl", f"<{bucket.id}.Arn>") not in looks:
            yield f"{one.id} may not look at its bucket"


def rule_19_certificate_and_names_where_there_is_a_zone(world: World) -> Iterator[str]:
    """Given or made, with the records that validate it; names lead to the load balancers where a zone is known."""
    zone, given = world.bridge.parameters["HostedZoneId"], world.bridge.parameters["CertificateArn"]
    made = world.bridge.of("CertificateManager::Certificate")
    if len(made) != (not given):
        yield f"CertificateArn {given!r}, and certificates made: {len(made)}"
    for one in made:
        records = {
            option["DomainName"]: option.get("HostedZoneId") for option in one.get("DomainValidationOptions", [])
        }
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
        found[record.get("Name").removesuffix(".")] = (
            {"application": "alb", "network": "nlb"}[balancer(at)] if at else "nothing"
        )
        if (
            at is None
            or alias.get("HostedZoneId") != f"<{at.id}.CanonicalHostedZoneID>"
            or record.get("HostedZoneId") != zone
            or text(alias.get("EvaluateTargetHealth")) != "false"  # a name without an answer is no better
        ):
            yield f"{record.id}: {alias}"
    if found != (to if zone else {}):
        yield f"names lead to {found}"


RULES = (
    rule_8_each_request_gets_its_answer,
    rule_8_the_certificate_holds_every_name,
    rule_9_both_doors_speak_modern_tls,
    rule_9_headers_reach_ingest_as_they_came,
    rule_9_the_balancer_speaks_https_to_ingest,
    rule_19_certificate_and_names_where_there_is_a_zone,
    balancers_are_set_as_the_tables_say,
    balancers_have_the_listeners_that_they_can_have,
    balancers_send_to_a_port_that_listens,
    balancers_write_their_logs,
    the_balancer_hangs_up_first,
    the_guard_is_told_for_whom,
    health_is_whether_a_process_answers,
    listeners_forward_to_what_understands_them,
)
