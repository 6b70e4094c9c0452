"""Parameters, names, references, outputs: what a template says about itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from resolver import Template, dangling, refusals, strings, text, unfit
from world import CERTIFICATE, CLIENT_SECRET, EXISTING, MSK, Scene, Templates, World, facts

# Type → property with a name, its longest length, what it may be made of.
NAMES: dict[str, tuple[str, int, str]] = {
    "AWS::ElasticLoadBalancingV2::LoadBalancer": ("Name", 32, r"(?!internal-)[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"),
    "AWS::ElasticLoadBalancingV2::TargetGroup": ("Name", 32, r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"),
    "AWS::IAM::Role": ("RoleName", 64, r"[\w+=,.@-]+"),
    "AWS::IAM::ManagedPolicy": ("ManagedPolicyName", 128, r"[\w+=,.@-]+"),
    "AWS::RDS::DBInstance": ("DBInstanceIdentifier", 63, r"[a-z](?:-?[a-z0-9])*"),
    "AWS::RDS::DBSubnetGroup": ("DBSubnetGroupName", 255, r"[a-z0-9._ -]+"),
    "AWS::EC2::SecurityGroup": ("GroupName", 255, r"(?!sg-)[A-Za-z0-9 ._:/()#,@\[\]+=&;{}!$*-]+"),
    "AWS::ECS::Cluster": ("ClusterName", 255, r"[\w-]+"),
    "AWS::ECS::Service": ("ServiceName", 255, r"[\w-]+"),
    "AWS::ECS::TaskDefinition": ("Family", 255, r"[\w-]+"),
    "AWS::Logs::LogGroup": ("LogGroupName", 512, r"[\w./#-]+"),
    "AWS::SNS::Topic": ("TopicName", 256, r"[\w-]+"),
    "AWS::CloudWatch::Alarm": ("AlarmName", 255, r"[\x20-\x7e]+"),
    "AWS::CloudWatch::Dashboard": ("DashboardName", 255, r"[\w-]+"),
    "AWS::SecretsManager::Secret": ("Name", 512, r"[\w/+=.@-]+"),
    "AWS::ApplicationAutoScaling::ScalingPolicy": ("PolicyName", 256, r"[\x20-\x7e]+"),
    "AWS::ServiceDiscovery::PrivateDnsNamespace": ("Name", 253, r"(?:[a-z0-9-]{1,63}\.)+[a-z]+"),
    "AWS::S3::Bucket": ("BucketName", 63, r"[a-z0-9][a-z0-9.-]+[a-z0-9]"),
    "AWS::KMS::Alias": ("AliasName", 256, r"alias/(?!aws/)[\w/-]+"),
}  # fmt: skip
# AWS names these by their stack and logical id; a name of a bucket's is the whole world's.
UNNAMED = {"AWS::S3::Bucket"}
# One account holds one of these for all its regions.
GLOBAL = {"AWS::CloudWatch::Dashboard", "AWS::IAM::Role", "AWS::IAM::ManagedPolicy", "AWS::S3::Bucket"}
# What the words of a security group may be made of; an apostrophe fails the deployment.
WORDS = re.compile(r"[A-Za-z0-9 ._\-:/()#,@\[\]+=&;{}!$*]{1,255}")
IN_RULES = {
    "Fn::And", "Fn::Contains", "Fn::EachMemberEquals", "Fn::EachMemberIn", "Fn::Equals", "Fn::Not", "Fn::Or",
    "Fn::RefAll", "Fn::ValueOf", "Fn::ValueOfAll", "Ref",
}  # fmt: skip
ORIGINAL = {
    "KafkaExternalPort",
    "Environment",
    "DomainName",
    "KafkaUsername",
    "KafkaPassword",
    "WebhookUsername",
    "WebhookPassword",
}
OUTPUTS = {
    "WebhookUrl", "KafkaBootstrapServers", "AlbDnsName", "ClusterName", "IngestServiceName", "WorkerServiceName",
    "ConfigSecretArn", "SourcesSecretArn", "WebhookSecretArn", "DatabaseSecretArn", "DatabaseEndpoint", "AlarmTopicArn",
    "AccessLogsBucket", "DashboardUrl", "AdminTaskDefinition", "AdminSecurityGroup", "AdminSubnets",
    "BridgeSecurityGroupIds", "IngestTargetGroupArn",
}  # fmt: skip
FREE = {"AWS::EC2::VPC::Id", "List<AWS::EC2::Subnet::Id>"}  # AWS checks these itself


def every_parameter_explains_itself(found: Templates) -> Iterator[str]:
    """A description, a constraint and one group for each, so that the console of AWS is a form that helps."""
    for name, template in found.items():
        interface = template.get("Metadata", {}).get("AWS::CloudFormation::Interface", {})
        grouped = [one for group in interface.get("ParameterGroups", []) for one in group["Parameters"]]
        declared = template.get("Parameters", {})
        if sorted(grouped) != sorted(declared):
            yield f"{name}: grouped {sorted(set(grouped) ^ set(declared)) or 'twice'}"
        for parameter, at in declared.items():
            if len(at.get("Description", "")) < 10:
                yield f"{name}: {parameter} says nothing of itself"
            bounded = (
                {"AllowedPattern", "AllowedValues"} & at.keys()
                or {"MinValue", "MaxValue"} <= at.keys()
                or at["Type"] in FREE
            )
            if not bounded:
                yield f"{name}: {parameter} may be anything"
            if "AllowedPattern" in at and not at.get("ConstraintDescription"):
                yield f"{name}: {parameter} is refused with a pattern, not with words"
            pattern = at.get("AllowedPattern", "^$")
            if not (pattern.startswith("^") and pattern.endswith("$")) or (
                "|" in pattern and not re.fullmatch(r"\^\(.*\)\??\$|\^[^|()]*\(.*\)[^|()]*\$", pattern)
            ):
                yield f"{name}: {parameter}'s pattern is open at an end"
        for wrong in unfit(template, {}):
            if not wrong.endswith(": not given"):
                yield f"{name}: its own default does not fit, {wrong}"
    if lost := ORIGINAL - found["bridge"]["Parameters"].keys():
        yield f"bridge: the strategy's {sorted(lost)} are gone"


def passwords_are_not_echoed(found: Templates) -> Iterator[str]:
    """A parameter that holds a password has no default, is never shown, and is used in secrets alone."""
    for name, template in found.items():
        declared = template.get("Parameters", {})
        for parameter, at in declared.items():
            secret = re.search(r"Password|Token|Secret(?!Arn)", parameter) is not None
            if secret != (text(at.get("NoEcho", False)) == "true"):
                yield f"{name}: {parameter}: NoEcho is {at.get('NoEcho', False)}"
            if secret and at.get("Default") != "":
                yield f"{name}: {parameter} has a default"


def rule_7_names_and_passwords_are_harmless(found: Templates) -> Iterator[str]:
    """In JSON, in JAAS and in Kafka's super.users, where names are all that counts."""
    template = found["bridge"]
    name, password = re.compile(r"[a-z][a-z0-9._-]{0,62}"), re.compile(r"[A-Za-z0-9_.~-]{12,128}|")
    names = [
        "bridge",
        "a",
        "a.b_c-d",
        "ANONYMOUS",
        "User:x",
        "x;User:y",
        'x"',
        "x\\",
        "Bridge",
        "1x",
        "",
        "x" * 63,
        "x" * 64,
        "é",
        "a b",
        "a\n",
    ]
    words = [
        "",
        "Abcdefgh_1234",
        "short",
        'a"bcdefghijklmnop',
        "a\\bcdefghijklmnop",
        "a${b}cdefghijklmn",
        "a bcdefghijklmnop",
        "a;bcdefghijklmnop",
        "x" * 129,
        "abcdefghijkl\n",
    ]
    for parameter, pattern, values in (
        ("KafkaUsername", name, names), ("KafkaPassword", password, words), ("WebhookPassword", password, words),
    ):  # fmt: skip
        for value in values:
            if (fits := takes(template, parameter, value)) != bool(pattern.fullmatch(value)):
                yield f"{parameter} takes {value!r}" if fits else f"{parameter} refuses {value!r}"
    for parameter in ("WebhookUsername", "ConsoleUsername"):
        for value in ("a:b", 'a"b', "a\\b", "", "a b"):
            if takes(template, parameter, value):
                yield f"{parameter} takes {value!r}"


def takes(template: Template, parameter: str, value: str) -> bool:
    return not unfit({"Parameters": {parameter: template["Parameters"][parameter]}}, {parameter: value})


def references_are_never_to_nothing(found: Templates) -> Iterator[str]:
    for name, template in found.items():
        yield from (f"{name}: {one}" for one in dangling(template))


def nothing_is_declared_in_vain(found: Templates) -> Iterator[str]:
    """A parameter, a condition or a row of a mapping that nobody reads is a promise that nobody keeps."""
    for name, template in found.items():
        parts = {key: set(strings(template.get(key, {}))) for key in ("Rules", "Conditions", "Resources", "Outputs")}
        used = set().union(*parts.values())
        spoken = " ".join(used)
        for parameter in template.get("Parameters", {}):
            if parameter not in used and f"${{{parameter}}}" not in spoken:
                yield f"{name}: nobody reads the parameter {parameter}"
        conditions = template.get("Conditions", {})
        asked = {key: set(strings(one)) for key, one in conditions.items()}
        outside = parts["Resources"] | parts["Outputs"]
        for condition in conditions:
            if condition not in outside.union(*(asked[other] for other in conditions if other != condition)):
                yield f"{name}: nobody asks for the condition {condition}"
        for table, rows in template.get("Mappings", {}).items():
            for row, cells in rows.items():
                if cells.keys() != next(iter(rows.values())).keys():
                    yield f"{name}: {table}.{row} has other cells than its neighbours"
                for cell in cells:
                    if cell not in used:
                        yield f"{name}: nobody reads {table}.{row}.{cell}"


def rules_use_what_rules_may_use(found: Templates) -> Iterator[str]:
    for name, template in found.items():
        for rule, at in template.get("Rules", {}).items():
            for word in functions(at):
                if word not in IN_RULES:
                    yield f"{name}: {rule} calls {word}"


def functions(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, one in node.items():
            if key.startswith("Fn::") or key in {"Ref", "Condition"}:
                yield key
            yield from functions(one)
    elif isinstance(node, list):
        for one in node:
            yield from functions(one)


def templates_fit_into_cloudformation(found: Templates) -> Iterator[str]:
    most = {"Resources": 500, "Parameters": 200, "Outputs": 200, "Mappings": 200}
    for name, template in found.items():
        for part, limit in most.items():
            if len(template.get(part, {})) > limit:
                yield f"{name}: {len(template[part])} {part}, AWS takes {limit}"
        if len(template.get("Description", "")) > 1024 or not template.get("Description"):
            yield f"{name}: the description is missing, or longer than 1024"
        if len(json.dumps(template)) > 1_000_000:
            yield f"{name}: larger than 1 MB"
        if "Transform" in template:
            yield f"{name}: a transform; AWS::LanguageExtensions refuses RetainExceptOnCreate and is not needed for it"
        for policy in ("DeletionPolicy", "UpdateReplacePolicy"):
            for one, at in template["Resources"].items():
                if strange := set(functions(at.get(policy))) - {"Fn::If", "Fn::FindInMap", "Ref"}:
                    yield f"{name}: {policy} of {one} is computed by {sorted(strange)}"
        for one, at in template["Resources"].items():
            if "RetainExceptOnCreate" in strings(at.get("UpdateReplacePolicy", "")):
                yield f"{name}: {one} cannot be replaced with RetainExceptOnCreate"
        for output, at in template.get("Outputs", {}).items():
            if not at.get("Description"):
                yield f"{name}: {output} says nothing of itself"


def refused(template: Template, changes: dict[str, str], scene: Scene) -> bool:
    parameters = scene.bridge(EXISTING) | changes
    return bool(unfit(template, parameters) or refusals(template, parameters, facts(parameters)))


def rule_6_what_cannot_work_is_refused_beforehand(found: Templates) -> Iterator[str]:
    """By Rules, before anything is made; and what can work is not."""
    template = found["bridge"]
    single, plain, scram, mtls, iam = (
        Scene(kafka=kafka, own_vpc=False) for kafka in ("single", "plain", "scram", "mtls", "iam")
    )
    closed = Scene(kafka="scram", nat="none", own_vpc=False)
    cases: list[tuple[Scene, dict[str, str], bool]] = [
        *((scene, {}, False) for scene in (single, plain, scram, mtls, iam, closed)),
        (single, {"KafkaImage": ""}, True),
        (single, {"GuardImage": ""}, True),
        (single, {"HostedZoneId": "", "CertificateArn": ""}, True),
        (single, {"HostedZoneId": "", "CertificateArn": CERTIFICATE}, False),
        (scram, {"KafkaImage": ""}, False),
        (scram, {"KafkaBootstrapServers": ""}, True),
        (scram, {"KafkaClientSecretArn": "", "KafkaPassword": ""}, True),
        (plain, {"KafkaClientSecretArn": "", "KafkaPassword": ""}, True),
        (scram, {"KafkaSecurityProtocol": "SSL"}, True),
        (scram, {"KafkaSecurityProtocol": "PLAINTEXT"}, True),
        (mtls, {"KafkaSecurityProtocol": "SASL_SSL"}, True),
        (iam, {"MskClusterArn": ""}, True),
        (iam, {"KafkaSecurityProtocol": "SASL_PLAINTEXT"}, True),
        (closed, {"KafkaIsPrivate": "false"}, True),
        (Scene(nat="none", own_vpc=False), {"KafkaIsPrivate": "false"}, False),
        (single, {"KafkaClientSecretArn": CLIENT_SECRET}, True),
        (single, {"MskClusterArn": MSK}, True),
        (single, {"ConsoleCidr": ",".join(["203.0.113.0/30"] * 5)}, True),
        (single, {"ConsoleCidr": ",".join(["203.0.113.0/30"] * 4)}, False),
        (single, {"IngestMinTasks": "0"}, True),
        (single, {"DomainName": "localhost"}, True),
        (single, {"DomainName": "Hooks.example.com"}, True),
    ]  # fmt: skip
    for scene, changes, wanted in cases:
        if refused(template, changes, scene) != wanted:
            yield f"{scene} with {changes} is {'taken' if wanted else 'refused'}"
    parameters = single.bridge(EXISTING)
    for name in ("PublicSubnetIds", "PrivateSubnetIds"):
        known = {**facts(parameters), (name, "VpcId"): [EXISTING["VpcId"], "vpc-99999999999999999"]}
        if not refusals(template, parameters, known):
            yield f"{name} of another VPC are taken"


def rule_1_no_nat_needs_endpoints(found: Templates) -> Iterator[str]:
    for nat, endpoints, wanted in (
        ("none", "false", True),
        ("none", "true", False),
        ("single", "false", False),
        ("per-az", "true", False),
    ):
        parameters = {"Environment": "dev", "NatGateways": nat, "InterfaceEndpoints": endpoints}
        if bool(refusals(found["vpc"], parameters)) != wanted:
            yield f"NAT {nat} with endpoints {endpoints} is {'taken' if wanted else 'refused'}"


def rule_19_the_longest_domain_fits_into_a_certificate(found: Templates) -> Iterator[str]:
    """ACM takes no first name of more than 64 characters."""
    longest = int(found["bridge"]["Parameters"]["DomainName"].get("MaxLength", 4096))
    if longest + len("webhooks.") > 64:
        yield f"a domain of {longest} characters is taken, and its certificate is not"


def named(world: World) -> Iterator[tuple[str, str, str]]:
    """Type, logical id and name of everything that has one here."""
    for stack in filter(None, (world.vpc, world.bridge)):
        for one in stack.resources.values():
            if one.type in NAMES and one.get(NAMES[one.type][0]) is not None:
                yield one.type, one.id, text(one.get(NAMES[one.type][0]))


def names_are_those_of_the_stage_and_fit(world: World) -> Iterator[str]:
    """`$stage-webhooks-*`, and no longer than AWS takes: 32 for load balancers and target groups."""
    seen: dict[tuple[str, str], str] = {}
    for stack in filter(None, (world.vpc, world.bridge)):
        for one in stack.resources.values():
            if one.type in NAMES and one.type not in UNNAMED and one.get(NAMES[one.type][0]) is None:
                yield f"{one.id} has no name, and pages and rights go by names"
    for kind, name, value in named(world):
        _, longest, shape = NAMES[kind]
        if len(value) > longest:
            yield f"{name}: {value} has {len(value)} characters, AWS takes {longest}"
        elif not re.fullmatch(shape, value):
            yield f"{name}: AWS refuses the name {value}"
        if not re.match(rf"(/|alias/|/aws/\w+/\w+/)?{world.prefix}($|[-/.])", value):
            yield f"{name} is called {value}, not {world.prefix}-…"
        if seen.setdefault((kind, value), name) != name:
            yield f"{name} and {seen[(kind, value)]} are both called {value}"


def rule_14_one_stack_per_stage_account_and_region(world: World) -> Iterator[str]:
    """What is named in the whole account carries the region, too; and nothing is exported under a name."""
    for kind, name, value in named(world):
        if kind in GLOBAL and "ap-southeast-1" not in value:
            yield f"{name}: a second region would find {value} taken"
    for name, template in world.templates.items():
        if any("Export" in at for at in template.get("Outputs", {}).values()):
            yield f"{name} exports a value, which pins it while somebody imports it"


def nothing_waits_for_itself(world: World) -> Iterator[str]:
    """Each resource is made after those that it names."""
    for stack in filter(None, (world.registry, world.vpc, world.bridge)):
        waiting = {name: {*one.after, *one.uses} - {name} for name, one in stack.resources.items()}
        while ready := [name for name, others in waiting.items() if not others]:
            for name in ready:
                del waiting[name]
            for others in waiting.values():
                others.difference_update(ready)
        if waiting:
            yield f"in a circle, or after one: {sorted(waiting)}"


def words_of_security_groups_are_taken(world: World) -> Iterator[str]:
    for stack in filter(None, (world.vpc, world.bridge)):
        for one in stack.resources.values():
            if one.type not in {
                "AWS::EC2::SecurityGroup",
                "AWS::EC2::SecurityGroupIngress",
                "AWS::EC2::SecurityGroupEgress",
            }:
                continue
            said = [one.get("GroupDescription", one.get("Description", ""))]
            said += [
                rule.get("Description", "")
                for way in ("Ingress", "Egress")
                for rule in one.get(f"SecurityGroup{way}", [])
            ]
            for words in said:
                if not WORDS.fullmatch(words):
                    yield f"{one.id}: AWS refuses the description {words!r}"


def outputs_say_where_things_are(world: World) -> Iterator[str]:
    found = world.bridge.outputs
    wanted = OUTPUTS | (
        {"NlbDnsName", "KafkaServiceName", "KafkaSecretArn", "KafkaTargetGroupArn"} if world.single else set()
    )
    wanted |= (
        {"ConsoleUrl", "ConsoleServiceName", "ConsoleSecretArn", "ConsoleTargetGroupArn"}
        if world.scene.console
        else set()
    )
    if lost := wanted - found.keys():
        yield f"no outputs {sorted(lost)}"
    domain = text(world.bridge.parameters["DomainName"])
    if (
        found.get("WebhookUrl") != f"https://webhooks.{domain}"
        or found.get("ConsoleUrl", f"https://console.{domain}") != f"https://console.{domain}"
    ):
        yield f"{found.get('WebhookUrl')}, {found.get('ConsoleUrl')}"
    if (
        world.single
        and found.get("KafkaBootstrapServers") != f"kafka.{domain}:{world.bridge.parameters['KafkaExternalPort']}"
    ):
        yield f"Kafka at {found.get('KafkaBootstrapServers')}"
    for name, one in found.items():
        if not isinstance(one, (str, int)) or text(one) == "":
            yield f"{name} is {one!r}, no text"


def every_choice_is_taken(world: World) -> Iterator[str]:
    """Parameters fit, Rules agree: the choices of these tests are ones that CloudFormation takes."""
    yield from unfit(world.templates["bridge"], world.given)
    yield from world.bridge.refused
    if world.vpc is not None:
        yield from unfit(world.templates["vpc"], world.scene.vpc())
        yield from world.vpc.refused


OF_TEMPLATES = (
    every_parameter_explains_itself,
    nothing_is_declared_in_vain,
    passwords_are_not_echoed,
    references_are_never_to_nothing,
    rule_1_no_nat_needs_endpoints,
    rule_6_what_cannot_work_is_refused_beforehand,
    rule_7_names_and_passwords_are_harmless,
    rule_19_the_longest_domain_fits_into_a_certificate,
    rules_use_what_rules_may_use,
    templates_fit_into_cloudformation,
)
RULES = (
    every_choice_is_taken,
    names_are_those_of_the_stage_and_fit,
    nothing_waits_for_itself,
    outputs_say_where_things_are,
    rule_14_one_stack_per_stage_account_and_region,
    words_of_security_groups_are_taken,
)
