"""What runs, with what it is given: services, task definitions, containers. Each rule yields what is not so."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from resolver import Resource, strings, text
from world import (
    BRIDGES,
    CANARIES,
    CLIENT_SECRET,
    VERSIONS,
    World,
    environment,
    pairs,
    secrets,
)

# vCPU units → MiB that Fargate takes with them (the sizes up to 4 vCPU).
FARGATE = {
    256: [512, 1024, 2048],
    512: list(range(1024, 4097, 1024)),
    1024: list(range(2048, 8193, 1024)),
    2048: list(range(4096, 16385, 1024)),
    4096: list(range(8192, 30721, 1024)),
}
SIZES = {"ingest": (512, 1024), "worker": (512, 1024), "kafka": (1024, 4096)}
STOP_S = {"kafka": (120, 120), **dict.fromkeys(BRIDGES, (41, 120))}  # a bridge drains for 40 s
STOP_SOONER_S = {"worker/migrate": (2, 120), "kafka/guard": (2, 30)}
IMAGES = {"kafka/kafka": "KafkaImage", "kafka/guard": "GuardImage"}  # all others: BridgeImage
VALUE_FROM = re.compile(
    r"(?P<secret><\w+(?:\.Id)?>|arn:[^:]+(?::[^:]+){5})(?::(?P<key>[^:]*):(?P<stage>[^:]*):(?P<version>[^:]*))?"
)
FILES = {"ingest": 16384, "kafka": 65535, "guard": 16384}  # open at once, sockets among them
SECRET_NAME = re.compile(r"PASSWORD|SECRETS?_JSON|TOKEN|KWB_CONFIG$|(?<!PUBLIC)_KEY$")


def value_from(text_: str) -> dict[str, str]:
    """Secret, key, stage, version of what ECS puts into a variable. Raises KeyError."""
    found = VALUE_FROM.fullmatch(text_)
    if found is None:
        raise KeyError(f"{text_} is no reference to a secret")
    return {
        name: (one or "").removesuffix(".Id>") + (">" if (one or "").endswith(".Id>") else "")
        for name, one in found.groupdict().items()
    }


def bridges(world: World) -> Iterator[tuple[str, dict[str, Any]]]:
    """Role and container of everything that runs the bridge, but for the migration."""
    for role in BRIDGES:
        if role in world.tasks:
            yield role, world.container(role)


def changed(world: World, parameter: str) -> set[str]:
    """What a change set for another value would name: who reads it, and who uses a task definition that is replaced."""
    resources = world.bridge.resources
    found = {name for name, one in resources.items() if parameter in one.reads}
    replaced = {name for name in found if resources[name].type == "AWS::ECS::TaskDefinition"}
    return found | {name for name, one in resources.items() if one.uses & replaced} - replaced


def of_roles(world: World, *roles: str) -> set[str]:
    """Task definitions and services of roles."""
    found = {world.tasks[role].id for role in roles if role in world.tasks}
    return found | {world.services[role].id for role in roles if role in world.services}


def rule_2_configuration_comes_from_two_secrets(world: World) -> Iterator[str]:
    """With the version that the deployment names, so that it rolls out and back with the stack."""
    wanted = {
        "KWB_CONFIG": ("ConfigSecretArn", "ConfigVersion"),
        "KWB_SECRETS_JSON": ("SourcesSecretArn", "SourcesVersion"),
    }
    for role, container in bridges(world):
        for name, (output, parameter) in wanted.items():
            if name not in secrets(container):
                yield f"{role} has no {name}"
                continue
            found = value_from(secrets(container)[name])
            version = world.bridge.parameters[parameter]
            expected = {"secret": world.bridge.outputs.get(output), "key": "", "stage": "", "version": version}
            if found != expected:
                yield f"{role}: {name} from {found}, not {expected}"
    for output in ("ConfigSecretArn", "SourcesSecretArn"):
        at = world.bridge.at(world.bridge.outputs.get(output))
        if at is None or at.type != "AWS::SecretsManager::Secret":
            yield f"{output} is {world.bridge.outputs.get(output)}"


def rule_2_a_new_configuration_starts_new_tasks(world: World) -> Iterator[str]:
    for parameter in VERSIONS:
        if (found := changed(world, parameter)) != of_roles(world, *BRIDGES):
            yield f"another {parameter} changes {sorted(found)}"


def rule_3_the_admin_task_stands_where_the_worker_does(world: World) -> Iterator[str]:
    outputs, task = world.bridge.outputs, world.tasks["admin"]
    if outputs.get("AdminTaskDefinition") != f"<{task.id}>" and outputs.get("AdminTaskDefinition") != task.get(
        "Family"
    ):
        yield f"AdminTaskDefinition is {outputs.get('AdminTaskDefinition')}"
    if world.groups.get("admin") != world.groups.get("worker"):
        yield f"admin is in {world.groups.get('admin')}, the worker in {world.groups.get('worker')}"
    at = world.services["worker"].get("NetworkConfiguration.AwsvpcConfiguration.Subnets")
    if text(outputs.get("AdminSubnets")).split(",") != at:
        yield f"AdminSubnets are {outputs.get('AdminSubnets')}"
    prefix = {role: environment(one).get("KWB_USERS_SECRET_PREFIX") for role, one in bridges(world)}
    if prefix != {**dict.fromkeys(prefix), "admin": f"{world.prefix}/users/"}:
        yield f"passwords of new users go to {prefix}"


def rule_4_a_new_bridge_leaves_kafka_alone(world: World) -> Iterator[str]:
    wanted = {"BridgeImage": of_roles(world, *BRIDGES)}
    wanted |= dict.fromkeys(("KafkaImage", "GuardImage"), of_roles(world, "kafka"))
    for parameter, several in wanted.items():
        if (found := changed(world, parameter)) != several:
            yield f"another {parameter} changes {sorted(found)}"


def rule_4_tasks_run_the_images_and_processors_that_were_asked_for(world: World) -> Iterator[str]:
    for name, container in world.containers():
        wanted = world.bridge.parameters[IMAGES.get(name, "BridgeImage")]
        if container["Image"] != wanted:
            yield f"{name} runs {container['Image']}"
    for role, task in world.tasks.items():
        platform = {"CpuArchitecture": world.bridge.parameters["CpuArchitecture"], "OperatingSystemFamily": "LINUX"}
        if task.get("RuntimePlatform") != platform:
            yield f"{role} is for {task.get('RuntimePlatform')}"


def rule_6_the_bridge_logs_in_as_the_cluster_asks(world: World) -> Iterator[str]:
    kafka, parameters = world.scene.kafka, world.bridge.parameters
    own = (f"kafka.{world.prefix}.internal:9094", "SASL_PLAINTEXT", "PLAIN")
    theirs = tuple(
        parameters[name] for name in ("KafkaBootstrapServers", "KafkaSecurityProtocol", "KafkaSaslMechanism")
    )
    for role, container in bridges(world):
        given, hidden = environment(container), secrets(container)
        found = tuple(
            given.get(name, "NONE")
            for name in ("KAFKA_BOOTSTRAP_SERVERS", "KWB_KAFKA_SECURITY_PROTOCOL", "KWB_KAFKA_SASL_MECHANISM")
        )
        if found != (own if world.single else theirs):
            yield f"{role}: {found}"
        theirs_too = parameters["KafkaClientSecretArn"] == CLIENT_SECRET
        here = CLIENT_SECRET if theirs_too else world.bridge.outputs.get("KafkaSecretArn")
        # The variable → the key of the secret that is in it.
        keys = {name: value_from(one)["key"] for name, one in hidden.items() if value_from(one)["secret"] == here}
        login = {"KAFKA_PASSWORD": "password"} | ({"KAFKA_USERNAME": "username"} if theirs_too else {})
        mutual = {"KWB_KAFKA_SSL_CERT": "cert", "KWB_KAFKA_SSL_KEY": "key"}
        wanted = {"single": login, "plain": login, "scram": login, "mtls": mutual, "iam": {}}[kafka]
        if keys != wanted | ({"KWB_KAFKA_SSL_CA": "ca"} if theirs_too else {}):
            yield f"{role}: of Kafka's secret it gets {keys}"
        if kafka in {"mtls", "iam"} and {"KAFKA_PASSWORD", "KAFKA_USERNAME"} & {*given, *hidden}:
            yield f"{role} has a name or a password for a login without one"


def containers_are_told_what_the_parameters_say(world: World) -> Iterator[str]:
    """Under the names that the bridge reads; a default of its own might be another one."""
    parameters, kafka = world.bridge.parameters, world.scene.kafka
    own = world.single or (kafka in {"plain", "scram"} and parameters["KafkaClientSecretArn"] != CLIENT_SECRET)
    for name, container in world.containers(*BRIDGES):
        told = {"ENVIRONMENT": "Environment", "DOMAIN_NAME": "DomainName"}
        role = name.split("/")[1]
        if role != "migrate":
            told |= {"WEBHOOK_USERNAME": "WebhookUsername", "KAFKA_EXTERNAL_PORT": "KafkaExternalPort"}
            told |= {"KAFKA_USERNAME": "KafkaUsername"} if own else {}
            told |= {} if world.single else {"KWB_KAFKA_EXTERNAL_SERVERS": "KafkaBootstrapServers"}
        if role == "console":
            told |= {"CONSOLE_USERNAME": "ConsoleUsername"}
        found = {one: environment(container).get(one) for one in told}
        if found != {one: parameters[parameter] for one, parameter in told.items()}:
            yield f"{name} is told {found}"


def rule_9_ingest_makes_its_own_certificate(world: World) -> Iterator[str]:
    given = environment(world.container("ingest"))
    if given.get("KWB_INGEST_TLS_CERT") != "made" or given.get("KWB_INGEST_HOST") != "0.0.0.0":
        yield f"nobody speaks TLS to ingest: {given.get('KWB_INGEST_TLS_CERT')} on {given.get('KWB_INGEST_HOST')}"


def rule_11_tasks_have_their_sizes(world: World) -> Iterator[str]:
    """Pairs that Fargate knows, whatever the stage."""
    for role, task in world.tasks.items():
        size = (int(task.get("Cpu")), int(task.get("Memory")))
        if size[1] not in FARGATE.get(size[0], []):
            yield f"{role}: Fargate has no {size[0]} CPU units with {size[1]} MiB"
        elif size != SIZES.get(role, size):
            yield f"{role}: {size}, not {SIZES[role]}"


def rule_11_only_ingest_scales(world: World) -> Iterator[str]:
    ingest, target = world.services["ingest"], world.target("ingest")
    if ingest.get("DesiredCount") is not None:
        yield "each deployment sets ingest back to its DesiredCount"
    for role in set(world.services) - {"ingest"}:
        if text(world.services[role].get("DesiredCount")) != "1":
            yield f"{role} runs {world.services[role].get('DesiredCount')} times"
    scaled = world.bridge.of("ApplicationAutoScaling::ScalableTarget")
    cluster = ingest.get("Cluster")
    if [one.get("ResourceId") for one in scaled] != [f"service/{cluster}/<{ingest.id}.Name>"]:
        yield f"scaled: {[one.get('ResourceId') for one in scaled]}"
    for one in scaled:
        bounds = [one.get("MinCapacity"), one.get("MaxCapacity")]
        if bounds != [world.bridge.parameters["IngestMinTasks"], world.bridge.parameters["IngestMaxTasks"]]:
            yield f"from {bounds[0]} to {bounds[1]}"
        if one.get("ScalableDimension") != "ecs:service:DesiredCount" or one.get("ServiceNamespace") != "ecs":
            yield f"{one.id} scales {one.get('ServiceNamespace')} by {one.get('ScalableDimension')}"
    found = {}
    for one in world.bridge.of("ApplicationAutoScaling::ScalingPolicy"):
        at = one.get("TargetTrackingScalingPolicyConfiguration", {})
        metric = at.get("PredefinedMetricSpecification", {})
        found[metric.get("PredefinedMetricType")] = (int(at.get("TargetValue", 0)), metric.get("ResourceLabel"))
        if (at.get("ScaleOutCooldown"), at.get("ScaleInCooldown")) != (60, 300):
            yield f"{one.id} waits {at.get('ScaleOutCooldown')} s for more, {at.get('ScaleInCooldown')} s for fewer"
        if one.get("ScalingTargetId") != f"<{scaled[0].id}>":
            yield f"{one.id} scales something else"
    wanted = {
        "ECSServiceAverageCPUUtilization": (60, None),
        "ALBRequestCountPerTarget": (
            120_000,
            f"<{world.alb.id}.LoadBalancerFullName>/<{target.id}.TargetGroupFullName>",
        ),
    }
    if found != wanted:
        yield f"scaled on {found}"


def rule_12_the_database_is_verified(world: World) -> Iterator[str]:
    wanted = f"postgresql://bridge@<{world.database.id}.Endpoint.Address>:5432/bridge?sslmode=verify-full&sslrootcert=/app/rds.pem"
    url = wanted.replace(":5432/", f":<{world.database.id}.Endpoint.Port>/")
    for name, container in world.containers(*BRIDGES):
        if environment(container).get("DATABASE_URL") not in {wanted, url}:
            yield f"{name}: {environment(container).get('DATABASE_URL')}"


def tasks_stop_in_time(world: World) -> Iterator[str]:
    """Fargate kills after 120 s at the latest, whatever a task asks for."""
    for name, container in world.containers():
        low, high = STOP_SOONER_S.get(name, STOP_S[name.split("/")[0]])
        if not low <= int(container.get("StopTimeout", 30)) <= high:
            yield f"{name} is killed after {container.get('StopTimeout', 30)} s; {low} to {high} are wanted"


def containers_hold_little(world: World) -> Iterator[str]:
    """No root, no writable image, and a process that reaps others; nothing that Fargate refuses."""
    refused = {"Devices", "MaxSwap", "Swappiness", "SharedMemorySize", "Tmpfs"}
    for name, container in world.containers():
        user, readonly = ("1000:1000", "false") if name == "kafka/kafka" else ("10001:10001", "true")
        if container.get("User") != user:  # its image's; the broker's files are his
            yield f"{name} runs as {container.get('User', 'root')}"
        if text(container.get("ReadonlyRootFilesystem")) != readonly:  # Kafka's start script writes beside its programs
            yield f"{name} may write its image, or must and may not"
        if container.get("LinuxParameters", {}).get("Capabilities") != {"Drop": ["ALL"]}:
            yield f"{name} keeps capabilities: {container.get('LinuxParameters')}"
        linux = container.get("LinuxParameters", {})
        if text(linux.get("InitProcessEnabled")) != "true":
            yield f"{name} has no init process"
        if linux.keys() & refused:
            yield f"{name}: Fargate refuses {linux}"
        wrong = {"Privileged", "ExtraHosts", "Links", "Hostname", "DockerSecurityOptions", "DnsServers", "Interactive"}
        if found := wrong & {key for key, one in container.items() if one not in (False, [], "false")}:
            yield f"{name}: Fargate refuses {sorted(found)}"
        limits = [(one["Name"], one["SoftLimit"], one["HardLimit"]) for one in container.get("Ulimits", [])]
        files = FILES.get(name.split("/")[1])
        if limits != ([("nofile", files, files)] if files else []):
            yield f"{name}: {limits}"
        for port in container.get("PortMappings", []):
            if text(port.get("HostPort", port["ContainerPort"])) != text(port["ContainerPort"]):
                yield f"{name}: with its own address a task has its own ports, {port}"
    for role, task in world.tasks.items():
        for volume in task.get("Volumes", []):
            if volume.get("Host", {}).get("SourcePath") or "DockerVolumeConfiguration" in volume:
                yield f"{role}: Fargate has no host for {volume['Name']}"
        volumes = {volume["Name"] for volume in task.get("Volumes", [])}
        for name, container in world.containers(role):
            if not {point["SourceVolume"] for point in container.get("MountPoints", [])} <= volumes:
                yield f"{name} mounts what is no volume of its task"


def services_deploy_as_they_can(world: World) -> Iterator[str]:
    """Never two brokers on one log; a deployment that does not come up goes back by itself."""
    for role, service in world.services.items():
        at = service.get("DeploymentConfiguration", {})
        low, high = text(at.get("MinimumHealthyPercent")), text(at.get("MaximumPercent"))
        if (low, high) != (("0", "100") if role == "kafka" else ("100", "200")):
            yield f"{role} is deployed between {low} and {high} %"
        if {text(one) for one in at.get("DeploymentCircuitBreaker", {}).values()} != {"true"} or len(
            at.get("DeploymentCircuitBreaker", {})
        ) != 2:
            yield f"{role} does not go back by itself"
        if role == "kafka" and service.get("AvailabilityZoneRebalancing") != "DISABLED":
            yield "AWS starts a second broker to even out its zones"
        if text(service.get("EnableExecuteCommand", False)) != "false":
            yield f"{role} lets people in"


def services_wait_for_their_listener(world: World) -> Iterator[str]:
    """ECS refuses a service whose target group no load balancer uses yet; and who needs the schema waits for it."""
    for role in {"ingest", "console"} & set(world.services):
        if world.services["worker"].id not in before(world, world.services[role]):
            yield f"{role} may come before its schema, which the worker brings"
    for role, service in world.services.items():
        for one in service.get("LoadBalancers", []):
            users = {
                found.id
                for kind in ("Listener", "ListenerRule") for found in world.bridge.of(f"ElasticLoadBalancingV2::{kind}")
                if one["TargetGroupArn"] in strings([found.get("Actions", []), found.get("DefaultActions", [])])
            }  # fmt: skip
            if not users & before(world, service):
                yield f"{role} may come before {' and '.join(sorted(users)) or 'any listener'}"


def before(world: World, one: Resource) -> set[str]:
    """Everything that is made before a resource."""
    found: set[str] = set()
    waiting = {*one.after, *one.uses}
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting |= {*world.bridge.resources[name].after, *world.bridge.resources[name].uses}
    return found


def containers_do_one_thing_each(world: World) -> Iterator[str]:
    """Their names, their commands, and which of them end the task: all but the migration, before the worker."""
    wanted = {role: {role} for role in world.tasks} | {"worker": {"worker", "migrate"}, "kafka": {"kafka", "guard"}}
    for role in world.tasks:
        found = {name.split("/")[1]: one for name, one in world.containers(role)}
        if found.keys() != wanted[role]:
            yield f"the task of {role} has {sorted(found)}"
        for name, container in found.items():
            command = {
                "migrate": ["migrate"],
                **{one: ["serve", "--role", one] for one in ("ingest", "worker", "console")},
            }
            if name in command and container.get("Command") != command[name]:
                yield f"{role}/{name} runs {container.get('Command')}"
            if text(container.get("Essential", True)) != ("false" if name == "migrate" else "true"):
                yield f"{role}/{name}: essential is {container.get('Essential', True)}"
    after = {one["ContainerName"]: one["Condition"] for one in world.container("worker").get("DependsOn", [])}
    if after.get("migrate") not in {"COMPLETE", "SUCCESS"}:
        yield f"the worker does not wait for the migration: {after}"


def containers_are_watched(world: World) -> Iterator[str]:
    """By the probe of the image, without a shell; inside the times that ECS takes."""
    for name, container in world.containers(*world.services):
        check = container.get("HealthCheck", {})
        if name.endswith("/migrate"):
            continue
        if not check:
            yield f"{name} has no health check"
            continue
        if not name.startswith("kafka/") and check["Command"][:4] != [  # rules/kafka.py judges those
            "CMD",
            "python",
            "-m",
            "kafka_webhook_bridge.health",
        ]:
            yield f"{name}: {check['Command']}"
        found = {key: check.get(key) for key in ("Interval", "Timeout", "Retries")}
        if found != {"Interval": 15, "Timeout": 5, "Retries": 4 if name.startswith("kafka/") else 3}:
            yield f"{name} is asked {found}"
        if not 30 <= int(check.get("StartPeriod", 0)) <= 300:
            yield f"{name} is judged before it can have started, or later than ECS takes"


def secrets_reach_nobody_else(world: World) -> Iterator[str]:
    """A password is in a secret's text and in variables that ECS fills from there: nowhere else, and for whom it is."""
    known = {"KAFKA_PASSWORD", "WEBHOOK_PASSWORD", "DATABASE_PASSWORD", "KWB_CONFIG", "KWB_SECRETS_JSON"}
    if world.scene.kafka in {"mtls", "iam"}:
        known -= {"KAFKA_PASSWORD"}
    wanted = dict.fromkeys(BRIDGES, known) | {"migrate": {"DATABASE_PASSWORD"}, "kafka": {"BROKER_PASSWORD"}}
    wanted["guard"] = set()
    wanted["console"] = known | {"CONSOLE_PASSWORD"}
    for name, container in world.containers():
        plain = {one for one in environment(container) if SECRET_NAME.search(one)}
        if plain:
            yield f"{name}: {sorted(plain)} for everybody to read"
        role = name.split("/")[1]
        found = {one for one in secrets(container) if SECRET_NAME.search(one) and "_SSL_" not in one}
        if found != wanted[role]:
            yield f"{name} is given {sorted(found)}, not {sorted(wanted[role])}"
        if double := environment(container).keys() & secrets(container).keys():
            yield f"{name}: {sorted(double)} twice"
    for one in world.bridge.resources.values():
        own = {"AWS::SecretsManager::Secret": "SecretString", "AWS::RDS::DBInstance": "MasterUserPassword"}.get(
            one.type
        )
        shown = "\n".join(strings([one.metadata, *(value for key, value in one.properties.items() if key != own)]))
        if "{{resolve:" in shown or any(canary in shown for canary in CANARIES.values()):
            yield f"{one.id} shows a password"
    outputs = " ".join(strings(world.bridge.outputs))
    if "{{resolve:" in outputs or any(canary in outputs for canary in CANARIES.values()):
        yield "an output shows a password"


def rule_21_secrets_are_named_by_what_ecs_understands(world: World) -> Iterator[str]:
    """Each ValueFrom is an ARN with a key of the secret: an emulator takes names, AWS takes those as parameters."""
    for name, container in world.containers():
        for variable, source in secrets(container).items():
            found = VALUE_FROM.fullmatch(source)
            if found is None:
                yield f"{name}: {variable} from {source}"
                continue
            versioned = variable in {"KWB_CONFIG", "KWB_SECRETS_JSON"}
            if found["stage"] or (found["version"] and not versioned):
                yield f"{name}: {variable} is of one version alone, {source}"
            at = world.bridge.at(found["secret"])
            if at is None:
                continue
            if at.type != "AWS::SecretsManager::Secret":
                yield f"{name}: {variable} from {at.id}, a {at.type}"
            elif found["key"] and found["key"] not in keys_of(at):
                yield f"{name}: {variable} is {found['key']} of {at.id}, which has {sorted(keys_of(at))}"


def keys_of(secret: Resource) -> set[str]:
    """Keys of the JSON in a secret that this stack writes."""
    generated = secret.get("GenerateSecretString", {})
    template = generated.get("SecretStringTemplate", secret.get("SecretString", ""))
    return {*re.findall(r'"(\w+)"\s*:', template), *filter(None, [generated.get("GenerateStringKey")])}


def every_task_names_its_roles_and_families(world: World) -> Iterator[str]:
    for role, task in world.tasks.items():
        if task.get("Family") != f"{world.prefix}-{role}":
            yield f"the family of {role} is {task.get('Family')}"
        at = world.bridge.at(task.get("ExecutionRoleArn"))
        if at is None or at.type != "AWS::IAM::Role":
            yield f"{role} has no execution role, and cannot fetch its image and secrets"
        if task.get("TaskRoleArn") is not None and task.get("TaskRoleArn") == task.get("ExecutionRoleArn"):
            yield f"{role} may read every secret of its task itself"


def every_variable_is_stated_once(world: World) -> Iterator[str]:
    for name, container in world.containers():
        for several in (container.get("Environment", []), container.get("Secrets", [])):
            if len(pairs(several, value="Name")) != len(several):
                yield f"{name}: a variable is given twice"


RULES = (
    rule_2_configuration_comes_from_two_secrets,
    rule_2_a_new_configuration_starts_new_tasks,
    rule_3_the_admin_task_stands_where_the_worker_does,
    rule_4_a_new_bridge_leaves_kafka_alone,
    rule_4_tasks_run_the_images_and_processors_that_were_asked_for,
    rule_6_the_bridge_logs_in_as_the_cluster_asks,
    rule_9_ingest_makes_its_own_certificate,
    rule_11_tasks_have_their_sizes,
    rule_11_only_ingest_scales,
    rule_12_the_database_is_verified,
    rule_21_secrets_are_named_by_what_ecs_understands,
    containers_are_told_what_the_parameters_say,
    containers_are_watched,
    containers_do_one_thing_each,
    containers_hold_little,
    every_task_names_its_roles_and_families,
    every_variable_is_stated_once,
    secrets_reach_nobody_else,
    services_deploy_as_they_can,
    services_wait_for_their_listener,
    tasks_stop_in_time,
)
