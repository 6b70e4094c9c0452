"""Who may do what: IAM as AWS would weigh it, since no emulator does (rule 21)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

from resolver import Resource, Stack, strings, text
from world import BRIDGE_IMAGE, BRIDGES, CLIENT_SECRET, MSK, World, secrets

from rules.tasks import value_from

# Every action that a role has on more than one named thing, and why.
WIDE = {
    "ecr:GetAuthorizationToken": "names no resource: it is one login for the account",
    "kms:Decrypt": "the key of somebody else's secret is not known; the condition names the secret",
    "kafka-cluster:*": "topics and groups of the one cluster have names of their own",
    "secretsmanager:*": "one secret for each outside user, below the stage's own prefix",
}
HERE = "ap-southeast-1:123456789012"
IMAGE = ("BatchCheckLayerAvailability", "BatchGetImage", "GetDownloadUrlForLayer")
SERVICES = {"ecs-tasks.amazonaws.com", "vpc-flow-logs.amazonaws.com"}
USERS = f"arn:aws:secretsmanager:{HERE}:secret:{{prefix}}/users/*"
PATH = "/kafka-webhook-bridge/"  # of roles: whoever deploys may make them there alone
# What no role may do, whatever its policies say.
BEYOND = (
    ("ecr:BatchGetImage", f"arn:aws:ecr:{HERE}:repository/payroll"),
    ("elasticfilesystem:ClientMount", f"arn:aws:elasticfilesystem:{HERE}:file-system/fs-0f1e2d3c"),
    ("kms:Decrypt", f"arn:aws:kms:{HERE}:key/0f1e2d3c"),
    ("logs:PutLogEvents", f"arn:aws:logs:{HERE}:log-group:/payroll:*"),
    ("secretsmanager:GetSecretValue", f"arn:aws:secretsmanager:{HERE}:secret:payroll-AbCdEf"),
    ("secretsmanager:PutSecretValue", f"arn:aws:secretsmanager:{HERE}:secret:dev-webhooks/kafka-AbCdEf"),
)
LENT = "secretsmanager:ResourceTag/kafka-webhook-bridge"  # a secret of others has it, or no task reads it


@dataclass(frozen=True)
class Grant:
    """One statement that allows something."""

    role: str
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    conditions: Any

    def allows(self, action: str, resource: str) -> bool:
        return any(fnmatchcase(action, one) for one in self.actions) and any(
            fnmatchcase(resource, one) for one in self.resources
        )


def listed(value: Any) -> tuple[str, ...]:
    return tuple(map(text, value if isinstance(value, list) else [value]))


def statements(stack: Stack) -> Iterator[tuple[str, dict[str, Any]]]:
    """Logical id of each role, with each statement of its policies, inline and attached."""
    for role in stack.of("IAM::Role"):
        for policy in role.get("Policies", []):
            yield from ((role.id, one) for one in policy["PolicyDocument"]["Statement"])
    for kind in ("IAM::Policy", "IAM::ManagedPolicy", "IAM::RolePolicy"):
        for policy in stack.of(kind):
            for name in policy.get("Roles") or filter(None, [policy.get("RoleName")]):
                at = stack.at(name)
                yield from ((at.id if at else name, one) for one in policy.get("PolicyDocument.Statement"))


@lru_cache(maxsize=8)  # many rules ask for those of one stack, one after the other
def grants(stack: Stack) -> list[Grant]:
    return [
        Grant(role, listed(one["Action"]), listed(one["Resource"]), one.get("Condition"))
        for role, one in statements(stack)
        if one["Effect"] == "Allow" and "Action" in one and "Resource" in one
    ]


def grants_of(stack: Stack, role: Resource | None) -> list[Grant]:
    return [one for one in grants(stack) if role is not None and one.role == role.id]


def of_role(world: World, arn: Any) -> list[Grant]:
    return grants_of(world.bridge, world.bridge.at(arn))


def may(several: list[Grant], action: str, resource: str) -> bool:
    return any(one.allows(action, resource) for one in several)


def rule_3_new_passwords_go_below_users_alone(world: World) -> Iterator[str]:
    """Written by the admin task, which reads none back; no other task writes a secret."""
    users = USERS.format(prefix=world.prefix)
    found = of_role(world, world.tasks["admin"].get("TaskRoleArn"))
    for action in ("CreateSecret", "PutSecretValue"):
        if not may(found, f"secretsmanager:{action}", users.replace("*", "partner-AbCdEf")):
            yield f"admin may not {action} {users}"
    if may(found, "secretsmanager:GetSecretValue", users.replace("*", "partner-AbCdEf")):
        yield "admin may read the passwords of users"
    for role, task in world.tasks.items():
        for one in of_role(world, task.get("TaskRoleArn")):
            if any(action.startswith(("secretsmanager:", "*")) for action in one.actions) and (
                role != "admin" or set(one.resources) != {users}
            ):
                yield f"{role} may {', '.join(one.actions)} {', '.join(one.resources)}"


def rule_6_rights_in_msk_are_for_its_cluster(world: World) -> Iterator[str]:
    """And only where the bridge logs in with them."""
    name = MSK.split(":cluster/")[1]
    inside = {
        MSK,
        *(MSK.split(":cluster/")[0] + f":{kind}/{name}/*" for kind in ("topic", "group", "transactional-id")),
    }
    wanted = {
        "Connect": MSK,
        "CreateTopic": "topic",
        "WriteData": "topic",
        "ReadData": "topic",
        "AlterGroup": "group",
        "WriteDataIdempotently": MSK,
    }
    for one in grants(world.bridge):
        kafka = [action for action in one.actions if action.startswith("kafka")]
        if kafka and (world.scene.kafka != "iam" or not set(one.resources) <= inside):
            yield f"{one.role} may {', '.join(kafka)} {', '.join(one.resources)}"
    if world.scene.kafka == "iam":
        for role in {*BRIDGES} & {*world.tasks}:
            found = of_role(world, world.tasks[role].get("TaskRoleArn"))
            for action, what in wanted.items():
                resource = what if what == MSK else f"{MSK.split(':cluster/')[0]}:{what}/{name}/shop.orders"
                if not may(found, f"kafka-cluster:{action}", resource):
                    yield f"{role} may not {action}"


def rule_21_execution_roles_may_start_their_tasks_and_no_more(world: World) -> Iterator[str]:
    """Image, log and secrets of each container; no secret of another task's."""
    named: dict[str, set[str]] = {}
    for role, task in world.tasks.items():
        if task.get("ExecutionRoleArn") is None:
            continue
        arn = text(task.get("ExecutionRoleArn"))
        found = of_role(world, arn)
        for name, container in world.containers(role):
            for source in secrets(container).values():
                secret = value_from(source)["secret"]
                named.setdefault(arn, set()).add(secret)
                if not may(found, "secretsmanager:GetSecretValue", secret):
                    yield f"{name} cannot be given {secret}"
            repository = container["Image"].split("/", 1)[1].split(":")[0]
            where = f"arn:aws:ecr:ap-southeast-1:123456789012:repository/{repository}"
            if not all(may(found, f"ecr:{action}", where) for action in IMAGE):
                yield f"{name} cannot fetch {repository}"
            if not may(found, "ecr:GetAuthorizationToken", "*"):
                yield f"{name} cannot log in to ECR"
            group = world.bridge.at(container.get("LogConfiguration", {}).get("Options", {}).get("awslogs-group"))
            if group and not all(
                may(found, f"logs:{action}", f"<{group.id}.Arn>") for action in ("CreateLogStream", "PutLogEvents")
            ):
                yield f"{name} cannot write to {group.id}"
        if CLIENT_SECRET in named.get(arn, ()) and not any(
            one.allows("kms:Decrypt", f"arn:aws:kms:{HERE}:key/0f1e2d3c")
            and (one.conditions or {}).get("StringEquals", {}).get("kms:EncryptionContext:SecretARN") == CLIENT_SECRET
            for one in found
        ):
            yield f"{role} cannot decrypt the cluster's secret"
    for arn, several in named.items():
        let = {
            resource
            for one in of_role(world, arn)
            if "secretsmanager:GetSecretValue" in one.actions
            for resource in one.resources
        }
        if let - several:
            yield f"{arn} may read {sorted(let - several)} besides"


def rule_21_the_broker_may_mount_its_files(world: World) -> Iterator[str]:
    if not world.single:
        return
    role = world.tasks["kafka"].get("TaskRoleArn")
    for volume in world.tasks["kafka"].get("Volumes", []):
        at = volume.get("EFSVolumeConfiguration", {})
        if at.get("AuthorizationConfig", {}).get("IAM") != "ENABLED":
            continue
        system = world.bridge.at(at["FilesystemId"])
        arn = f"<{system.id}.Arn>" if system else ""
        if not all(
            may(of_role(world, role), f"elasticfilesystem:{action}", arn) for action in ("ClientMount", "ClientWrite")
        ):
            yield "the broker mounts by its role, which may not"
    if [one for one in world.bridge.of("EFS::FileSystem") if one.get("FileSystemPolicy")] and not any(
        one.get("EFSVolumeConfiguration", {}).get("AuthorizationConfig", {}).get("IAM") == "ENABLED"
        for one in world.tasks["kafka"].get("Volumes", [])
    ):
        yield "the file system asks for a role, and the broker mounts without"


def rule_21_wide_rights_have_reasons(world: World) -> Iterator[str]:
    """No action is a wildcard, and where a resource is one, WIDE says why."""
    for stack in filter(None, (world.registry, world.vpc, world.bridge)):
        for role, one in statements(stack):
            if {"NotAction", "NotResource"} & one.keys():
                yield f"{role}: everything but {one}"
                continue
            for action in listed(one["Action"]):
                if action.endswith(":*") or action == "*":
                    yield f"{role} may {action}"
                reason = action if action in WIDE else f"{action.split(':')[0]}:*"
                for resource in listed(one["Resource"]):
                    if "*" in resource and reason not in WIDE:
                        yield f"{role} may {action} {resource}, and nobody says why"
                    if resource == "*" and action != "ecr:GetAuthorizationToken":
                        yield f"{role} may {action} everywhere"
            if "kms:Decrypt" in listed(one["Action"]) and "kms:EncryptionContext:SecretARN" not in strings(
                one.get("Condition", {})
            ):
                yield f"{role} may decrypt with any key"


def rule_21_roles_are_for_one_service_of_this_account(world: World) -> Iterator[str]:
    for stack in filter(None, (world.vpc, world.bridge)):
        for role in stack.of("IAM::Role"):
            trusted = role.get("AssumeRolePolicyDocument.Statement")
            if [(one.get("Effect"), one.get("Action")) for one in trusted] != [("Allow", "sts:AssumeRole")]:
                yield f"{role.id} is given to nobody, or to several: {trusted}"
            for one in trusted:
                if list(one["Principal"]) != ["Service"] or one["Principal"]["Service"] not in SERVICES:
                    yield f"{role.id} is for {one['Principal']}"
                if "123456789012" not in listed(
                    one.get("Condition", {}).get("StringEquals", {}).get("aws:SourceAccount", "")
                ):
                    yield f"{role.id} may be borrowed for another account"
            if role.get("ManagedPolicyArns"):
                yield f"{role.id} has rights that AWS may widen: {role.get('ManagedPolicyArns')}"


def rule_21_tasks_have_no_rights_that_they_do_not_use(world: World) -> Iterator[str]:
    """Ingest, worker and console do nothing in AWS but speak to MSK; the broker mounts its files."""
    allowed = {"kafka": ("elasticfilesystem:Client",), "admin": ("secretsmanager:", "kafka-cluster:")}
    for role, task in world.tasks.items():
        for one in of_role(world, task.get("TaskRoleArn")):
            if wrong := [
                action for action in one.actions if not action.startswith(allowed.get(role, ("kafka-cluster:",)))
            ]:
                yield f"{role} may {', '.join(wrong)}"


def whole(stack: Stack, named: str) -> str:
    """What a token is called in IAM."""
    at = stack.at(named)
    if at is None:
        return named
    service, rest = {
        "AWS::ECR::Repository": ("ecr", f"repository/{at.get('RepositoryName')}"),
        "AWS::EFS::FileSystem": ("elasticfilesystem", "file-system/fs-0f1e2d3c"),
        "AWS::Logs::LogGroup": ("logs", f"log-group:{at.get('LogGroupName')}:*"),
        "AWS::SecretsManager::Secret": ("secretsmanager", f"secret:{at.get('Name')}-AbCdEf"),
    }.get(at.type, ("", named))
    return f"arn:aws:{service}:{HERE}:{rest}" if service else named


def boundary(world: World) -> tuple[str, list[Grant]]:
    """Its ARN, and what it leaves."""
    (policy,) = [one for one in world.registry.of("IAM::ManagedPolicy") if not one.get("Roles")]
    several = [
        Grant(
            policy.id, listed(one["Action"]), tuple(whole(world.registry, text(at)) for at in listed(one["Resource"])),
            one.get("Condition"),
        )
        for one in policy.get("PolicyDocument.Statement") if one["Effect"] == "Allow"
    ]  # fmt: skip
    return f"arn:aws:iam::123456789012:policy/{policy.get('ManagedPolicyName')}", several


def keys_of(conditions: Any) -> set[str]:
    return {key for keys in (conditions or {}).values() for key in keys}


def leaves(limit: Grant, action: str, resource: str, conditions: Any) -> bool:
    """Whether a statement of the boundary lets through what a role is given under its own conditions."""
    asked, known = keys_of(limit.conditions), keys_of(conditions)
    return limit.allows(action, resource) and asked <= known | ({LENT} if resource == CLIENT_SECRET else set())


def rule_21_roles_have_a_boundary_that_leaves_what_they_need(world: World) -> Iterator[str]:
    """And are where whoever deploys may make some: deployer-stacks-policy.json knows both."""
    arn, limits = boundary(world)
    for stack in filter(None, (world.vpc, world.bridge)):
        for role in stack.of("IAM::Role"):
            if role.get("PermissionsBoundary") != arn or role.get("Path") != PATH:
                yield f"{role.id} is at {role.get('Path', '/')}, within {role.get('PermissionsBoundary')}"
            for grant in grants_of(stack, role):
                for action in grant.actions:
                    for resource in (whole(stack, one) for one in grant.resources):
                        if not any(leaves(one, action, resource, grant.conditions) for one in limits):
                            yield f"{role.id} is given {action} {resource}, and its boundary takes it"


def rule_21_the_boundary_leaves_no_more(world: World) -> Iterator[str]:
    """Than the actions that roles of the templates are given, on things of the stages."""
    _, limits = boundary(world)
    resources = (one for name in ("vpc", "bridge") for one in world.templates[name]["Resources"].values())
    given = {word for one in resources if one["Type"].startswith("AWS::IAM::") for word in strings(one)}
    for limit in limits:
        if strange := [action for action in limit.actions if action not in given]:
            yield f"it leaves {', '.join(strange)}, which no role has"
        for action, resource in BEYOND:
            if limit.allows(action, resource) and not keys_of(limit.conditions):
                yield f"it leaves {action} {resource}"


def repository_of(image: str) -> str:
    return image.split("/", 1)[1].split(":")[0]


def rule_4_the_images_have_their_repositories(world: World) -> Iterator[str]:
    """Kafka's own, so that a new bridge does not touch it; deploy.sh finds both by output."""
    found = {name: world.registry.at(one) for name, one in world.registry.outputs.items()}
    of: dict[str, Resource | None] = {
        "BridgeRepositoryUri": found.get("BridgeRepositoryUri"),
        "KafkaRepositoryUri": found.get("KafkaRepositoryUri"),
    }
    names = {name: one.get("RepositoryName") if one else None for name, one in of.items()}
    if names != {
        "BridgeRepositoryUri": repository_of(BRIDGE_IMAGE),
        "KafkaRepositoryUri": f"{repository_of(BRIDGE_IMAGE)}-kafka",
    }:
        yield f"repositories: {names}"


RULES = (
    rule_3_new_passwords_go_below_users_alone,
    rule_4_the_images_have_their_repositories,
    rule_6_rights_in_msk_are_for_its_cluster,
    rule_21_execution_roles_may_start_their_tasks_and_no_more,
    rule_21_roles_have_a_boundary_that_leaves_what_they_need,
    rule_21_the_boundary_leaves_no_more,
    rule_21_roles_are_for_one_service_of_this_account,
    rule_21_tasks_have_no_rights_that_they_do_not_use,
    rule_21_the_broker_may_mount_its_files,
    rule_21_wide_rights_have_reasons,
)
