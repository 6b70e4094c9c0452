"""What must not be lost, and what becomes of it: database, file system, secrets, buckets, images."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from cfnlint.schema.manager import ProviderSchemaManager
from resolver import PSEUDO, Resource, Stack, refusals, text
from world import BRIDGES, World, facts, only, pairs, secrets

from rules.settings import checked, variables

KEPT = "RetainExceptOnCreate"  # a stack that never came up leaves nothing behind
WITHOUT_TLS = {"Bool": {"aws:SecureTransport": "false"}}
AES = [{"ServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]
DATABASE = {  # stage → days of backups, two zones, protected
    "dev": (1, "false", "false"),
    "staging": (7, "false", "false"),
    "prod": (30, "true", "true"),
}
CONNECTIONS_OF_A_TASK = 5
# Guarded against replacement, and what gives them a name of ours. A file system has none.
NAMED = {"AWS::RDS::DBInstance": "DBInstanceIdentifier", "AWS::ElasticLoadBalancingV2::LoadBalancer": "Name"}
SETTLED = {
    "MaxAllocatedStorage": "1000", "StorageType": "gp3", "AutoMinorVersionUpgrade": "true",
    "CopyTagsToSnapshot": "true", "CACertificateIdentifier": "rds-ca-rsa2048-g1",
    "EnableCloudwatchLogsExports": "['postgresql']",
    "EnablePerformanceInsights": "true", "PerformanceInsightsRetentionPeriod": "7", "Engine": "postgres",
}  # fmt: skip
NEW = {"EngineVersion": "18", "AllocatedStorage": "20"}  # a snapshot brings its own
CLASSES = {"dev": "db.t4g.micro", "staging": "db.t4g.small", "prod": "db.m7g.large"}
GENERATED = {"GenerateStringKey": "password", "PasswordLength": "40", "ExcludePunctuation": "true"}
REPOSITORIES = {"kafka-webhook-bridge", "kafka-webhook-bridge-kafka"}


def retained(world: World) -> list[Resource]:
    """What outlives a stack of prod: the broker's files, the configuration, the sources' secrets."""
    found = world.bridge.of("EFS::FileSystem")
    outputs = (world.bridge.outputs.get(name) for name in ("ConfigSecretArn", "SourcesSecretArn"))
    return found + [one for one in map(world.bridge.at, outputs) if one is not None]


def rule_10_the_database_leaves_a_snapshot(world: World) -> Iterator[str]:
    """When it is deleted, at every stage; and backups before."""
    one = world.database
    if one.deletion != "Snapshot":
        yield f"deleted with {one.deletion}"
    stage = world.scene.stage
    found = (int(one.get("BackupRetentionPeriod", 1)), text(one.get("MultiAZ")), text(one.get("DeletionProtection")))
    if found != DATABASE[stage]:
        yield f"{stage}: backups, zones and protection are {found}, not {DATABASE[stage]}"
    if text(one.get("DeleteAutomatedBackups", "false")) != "false" and stage == "prod":
        yield "its backups go with it"


def rule_10_data_stay_in_prod_and_go_in_dev(world: World) -> Iterator[str]:
    wanted = {"dev": {"Delete"}, "staging": {"Delete", KEPT}, "prod": {KEPT}}[world.scene.stage]
    for one in retained(world):
        if one.deletion not in wanted:
            yield f"{one.id} is deleted with {one.deletion} in {world.scene.stage}"
    kept = {one.id for one in retained(world)}
    own_id = PSEUDO["AWS::StackId"].rpartition("/")[2]
    names = set()
    for one in world.bridge.of("SecretsManager::Secret"):
        # A secret that stays must not hold a name that the next stack wants; one that goes is found by its name.
        if not text(one.get("Name")).startswith(f"{world.prefix}/"):
            yield f"{one.id} is called {one.get('Name')}, which is beside the stage's rights"
        elif one.id in kept:
            if not text(one.get("Name")).endswith(f"-{own_id}"):
                yield f"{one.id} stays and keeps its name, {one.get('Name')}"
            continue
        elif one.deletion != "Delete":
            yield f"{one.id}, {one.get('Name')}, is deleted with {one.deletion}"
        names.add(text(one.get("Name")).removeprefix(f"{world.prefix}/"))
    own = world.single or (
        world.scene.kafka in {"plain", "scram"} and not world.bridge.parameters["KafkaClientSecretArn"]
    )
    known = {"webhook", "database", *(["console"] if world.scene.console else []), *(["kafka"] if own else [])}
    if names != known:
        yield f"secrets: {sorted(names)}, not {sorted(known)}"


def rule_10_a_snapshot_brings_its_own_name_and_user(world: World) -> Iterator[str]:
    """RDS refuses both beside a snapshot; without one they are literals, since another value replaces the database.

    Its version and size may be beyond those of a new database, which CloudFormation would ask RDS to go back to.
    """
    one, snapshot = world.database, world.bridge.parameters["DatabaseSnapshotId"]
    names = ("DBSnapshotIdentifier", "DBName", "MasterUsername", "EngineVersion", "AllocatedStorage")
    found = {name: one.get(name) for name in names}
    wanted = (
        {**dict.fromkeys(names), "DBSnapshotIdentifier": snapshot}
        if snapshot
        else {**found, "DBSnapshotIdentifier": None, "DBName": "bridge", "MasterUsername": "bridge"}
    )
    if found != wanted:
        yield f"{found}, not {wanted}"


def rule_7_generated_passwords_are_harmless(world: World) -> Iterator[str]:
    """Long, and without what JSON, JAAS or a URL would take for their own; a secret has a first version."""
    for one in world.bridge.of("SecretsManager::Secret"):
        made = one.get("GenerateSecretString")
        if made and one.get("SecretString"):
            yield f"{one.id} is given a text and makes one, too"
        if made is None:
            if not one.get("SecretString"):
                yield f"{one.id} is empty, and no task starts with it"
            elif one.get("SecretString").startswith("{"):
                given = json.loads(one.get("SecretString"))  # that of the configuration is YAML
                if given and given.keys() != {"username", "password"}:
                    yield f"{one.id} has {sorted(given)}"
            continue
        # Another word here, and CloudFormation makes a new password that no task and no sender knows.
        if {name: text(made.get(name)) for name in made.keys() - {"SecretStringTemplate"}} != GENERATED:
            yield f"{one.id}: {made}"
        if not json.loads(made.get("SecretStringTemplate", "{}")).get("username"):
            yield f"{one.id} has no username: {made}"


def rule_12_the_database_takes_the_password_that_tasks_are_given(world: World) -> Iterator[str]:
    given = {secrets(one).get("DATABASE_PASSWORD") for _, one in world.containers(*BRIDGES)}
    secret = world.secret("database")
    wanted = f"{{{{resolve:secretsmanager:<{secret.id}>:SecretString:password}}}}"
    if world.database.get("MasterUserPassword") != wanted or given != {f"<{secret.id}>:password::"}:
        yield f"the database takes {world.database.get('MasterUserPassword')}, tasks have {given}"


def rule_12_the_database_insists_on_tls(world: World) -> Iterator[str]:
    group = world.bridge.at(world.database.get("DBParameterGroupName"))
    if group is None or text(group.get("Parameters", {}).get("rds.force_ssl")) != "1":
        yield "PostgreSQL takes connections without TLS"
    elif (version := world.database.get("EngineVersion")) and group.get("Family") != f"postgres{version.split('.')[0]}":
        yield f"its parameters are those of {group.get('Family')}"


def rule_11_the_database_is_as_large_as_its_stage_and_grows(world: World) -> Iterator[str]:
    """Each of its settings that no other rule asks for, as docs and costs have them."""
    wanted = {**SETTLED, "DBInstanceClass": CLASSES[world.scene.stage]}
    wanted |= {} if world.bridge.parameters["DatabaseSnapshotId"] else NEW
    found = {name: text(world.database.get(name)) for name in wanted}
    yield from (f"{name} is {found[name]}, not {one}" for name, one in wanted.items() if found[name] != one)
    group = world.bridge.at(world.database.get("DBParameterGroupName"))
    rest = {
        name: text(one)
        for name, one in (group.get("Parameters", {}) if group else {}).items()
        if name not in {"rds.force_ssl", "max_connections"}
    }
    if rest != {"log_min_duration_statement": "1000"}:
        yield f"PostgreSQL's parameters besides: {rest}"


def rule_17_what_is_replaced_is_kept(world: World) -> Iterator[str]:
    """The guard asks before; should it be passed, the old one stays, or a snapshot of it."""
    wanted = {"AWS::RDS::DBInstance": "Snapshot", "AWS::EFS::FileSystem": "Retain", "AWS::S3::Bucket": "Retain"}
    kept = {one.id for one in retained(world)}
    for one in world.bridge.resources.values():
        if one.replaced != wanted.get(one.type, "Retain" if one.id in kept else one.replaced):
            yield f"{one.id} is replaced with {one.replaced}"


def connections(ingest_tasks: int) -> int:
    """Five each, of twice as many tasks while a deployment runs; a migration, a one-off task and RDS's own besides."""
    return CONNECTIONS_OF_A_TASK * (2 * (ingest_tasks + len({"worker", "console"})) + 2) + 5


def refused(world: World, ingest_tasks: int) -> set[str]:
    """What Rules say to so many as IngestMaxTasks."""
    given = {**world.given, "IngestMaxTasks": str(ingest_tasks)}
    return set(refusals(world.templates["bridge"], given, facts(given)))


def rule_11_every_task_finds_its_connections(world: World) -> Iterator[str]:
    """As many tasks as IngestMaxTasks may be at this stage, with a console; no Rule takes more, or fewer than fit."""
    group = world.bridge.at(world.database.get("DBParameterGroupName"))
    if group is None or group.get("Parameters.max_connections") is None:
        yield "how many connections there are is left to AWS"
        return
    most = int(group.get("Parameters.max_connections"))
    for name, container in world.containers(*BRIDGES):
        settings, _ = checked(tuple(variables(container).items()))
        if (needed := settings.ingest.workers * settings.store.connections_max) > CONNECTIONS_OF_A_TASK:
            yield f"{name} opens {needed} connections, {CONNECTIONS_OF_A_TASK} are counted"
    bound = int(world.templates["bridge"]["Parameters"]["IngestMaxTasks"]["MaxValue"])
    fits = max((number for number in range(bound + 1) if connections(number) <= most), default=0)
    for number in {fits, fits + 1, bound} & set(range(1, bound + 1)):
        if bool(refused(world, number) - refused(world, 1)) != (number > fits):
            verdict = "taken" if number > fits else "refused"
            yield f"{number} ingest tasks are {verdict}, with {most} connections, which are enough for {fits}"
    for alarm in world.bridge.of("CloudWatch::Alarm", MetricName="DatabaseConnections"):
        if not most // 2 <= int(alarm.get("Threshold")) < most:
            yield f"{alarm.id} is red from {alarm.get('Threshold')} of {most} on"


def rule_17_no_parameter_replaces_what_has_a_name(world: World) -> Iterator[str]:
    """CloudFormation makes the new one before it removes the old one, so it cannot where both had the same name.

    Of what the guard of replacements looks at. Which properties replace stands in the schemas of AWS.
    """
    for one in world.bridge.resources.values():
        if one.type not in NAMED or one.get(NAMED[one.type]) is None:
            continue
        schema = ProviderSchemaManager().get_resource_schema("us-east-1", one.type).schema
        written = world.templates["bridge"]["Resources"][one.id]["Properties"]
        for path in schema["createOnlyProperties"]:
            name = path.removeprefix("/properties/")
            found = set(re.findall(r'"Ref": "(\w+)"|\$\{(\w+)[.}]', json.dumps(written.get(name))))
            named = {first or second for first, second in found} & world.templates["bridge"]["Parameters"].keys()
            if named - {"Environment"}:
                yield f"another {', '.join(sorted(named))} replaces {one.id}, whose name is taken"


def data_at_rest_are_encrypted(world: World) -> Iterator[str]:
    if not world.bridge.parameters["DatabaseSnapshotId"] and text(world.database.get("StorageEncrypted")) != "true":
        yield "the database is not encrypted"
    for one in world.bridge.of("EFS::FileSystem"):
        if text(one.get("Encrypted")) != "true":
            yield f"{one.id} is not encrypted"
        for statement in one.get("FileSystemPolicy.Statement", []):
            denied = {key: value for key, value in statement.items() if key != "Sid"}
            if statement["Effect"] == "Deny" and denied != {
                "Effect": "Deny",
                "Principal": {"AWS": "*"},
                "Action": "*",
                "Condition": WITHOUT_TLS,
            }:
                yield f"{one.id} does not deny itself to those without TLS alone: {denied}"
        if one.get("BackupPolicy.Status") != "ENABLED":
            yield f"{one.id} has no backup"
    for stack in (world.registry, world.bridge):
        for one in stack.of("S3::Bucket"):
            yield from closed(stack, one)
    for one in world.bridge.of("SNS::Topic"):
        key = world.bridge.at(one.get("KmsMasterKeyId"))
        if key is None or key.type not in {"AWS::KMS::Key", "AWS::KMS::Alias"}:
            yield f"{one.id} is not encrypted with a key of its own; alarms cannot use the one of AWS"


def closed(stack: Stack, bucket: Resource) -> Iterator[str]:
    """A bucket that nobody outside reads, and nobody without TLS."""
    if bucket.get("BucketEncryption.ServerSideEncryptionConfiguration") != AES:
        yield f"{bucket.id} is not encrypted"
    block = bucket.get("PublicAccessBlockConfiguration", {})
    if [text(one) for one in block.values()] != ["true"] * 4:
        yield f"{bucket.id} may become public"
    if bucket.get("OwnershipControls.Rules") != [{"ObjectOwnership": "BucketOwnerEnforced"}]:
        yield f"{bucket.id} knows access lists"
    policies = stack.of("S3::BucketPolicy", Bucket=f"<{bucket.id}>")
    statements = [one for policy in policies for one in policy.get("PolicyDocument.Statement")]
    denied = {
        "Effect": "Deny", "Principal": "*", "Action": "s3:*", "Condition": WITHOUT_TLS,
        "Resource": [f"<{bucket.id}.Arn>", f"<{bucket.id}.Arn>/*"],
    }  # fmt: skip
    if denied not in [{key: value for key, value in one.items() if key != "Sid"} for one in statements]:
        yield f"{bucket.id} answers without TLS"


def rule_4_tags_never_move_and_stay(world: World) -> Iterator[str]:
    found = {one.get("RepositoryName"): one for one in world.registry.of("ECR::Repository")}
    if found.keys() != REPOSITORIES:
        yield f"repositories: {sorted(found)}"
    for name, one in found.items():
        if one.get("ImageTagMutability") != "IMMUTABLE":
            yield f"{name}: a tag may move"
        if text(one.get("ImageScanningConfiguration.ScanOnPush")) != "true":
            yield f"{name}: nobody looks for holes"
        for rule in json.loads(one.get("LifecyclePolicy.LifecyclePolicyText"))["rules"]:
            if rule["selection"]["tagStatus"] != "untagged":
                yield f"{name}: images with a tag expire, {rule['selection']}"


def rule_15_templates_have_a_bucket(world: World) -> Iterator[str]:
    """By the output that the scripts read; it has no name that a second account would find taken."""
    bucket = world.registry.at(world.registry.outputs.get("ArtifactsBucket"))
    if bucket is None or bucket.type != "AWS::S3::Bucket":
        yield f"ArtifactsBucket is {world.registry.outputs.get('ArtifactsBucket')}"
    elif bucket.get("BucketName") is not None and "123456789012" not in bucket.get("BucketName"):
        yield f"buckets' names are the world's, and this one's is {bucket.get('BucketName')}"


def rule_16_releases_do_not_expire(world: World) -> Iterator[str]:
    for bucket in world.registry.of("S3::Bucket"):
        if bucket.get("VersioningConfiguration.Status") != "Enabled":
            yield f"{bucket.id}: what is overwritten is lost"
        for rule in bucket.get("LifecycleConfiguration.Rules", []):
            if {"ExpirationInDays", "ExpirationDate"} & rule.keys():
                yield f"{bucket.id}: {rule}"


def rule_20_the_shared_registry_outlives_its_stack(world: World) -> Iterator[str]:
    for one in world.registry.of("ECR::Repository") + world.registry.of("S3::Bucket"):
        if one.deletion not in {KEPT, "Retain"} or one.replaced != "Retain":
            yield f"{one.id}: deleted {one.deletion}, replaced {one.replaced}"
        if text(one.get("EmptyOnDelete", False)) != "false":
            yield f"{one.id} is emptied when it is deleted"


def rule_20_what_aws_cannot_empty_stays(world: World) -> Iterator[str]:
    """A bucket with objects in it cannot be deleted: it would leave the stack in DELETE_FAILED.

    Nor when a creation failed: load balancers try their access as soon as they are made.
    """
    for one in world.bridge.of("S3::Bucket"):
        if one.deletion != "Retain":
            yield f"{one.id}: deleted with {one.deletion}"
        expires = [rule.get("ExpirationInDays") for rule in one.get("LifecycleConfiguration.Rules", [])]
        if expires != [90]:
            yield f"{one.id} keeps everything for {expires} days"
    for one in world.bridge.of("ElasticLoadBalancingV2::LoadBalancer"):
        attributes = pairs(one.get("LoadBalancerAttributes"), "Key")
        if text(attributes.get("deletion_protection.enabled", "false")) != DATABASE[world.scene.stage][2]:
            yield f"{one.id} is protected against deletion, or not, unlike the database"


def rule_5_kafka_keeps_its_files(world: World) -> Iterator[str]:
    """On a file system that it reaches encrypted and as its own user, through a mount target in each of its subnets."""
    if not world.single:
        return
    system, point = only(iter(world.bridge.of("EFS::FileSystem"))), only(iter(world.bridge.of("EFS::AccessPoint")))
    volumes = [one for one in world.tasks["kafka"].get("Volumes", []) if "EFSVolumeConfiguration" in one]
    if len(volumes) != 1:
        yield f"the broker has {len(volumes)} volumes on EFS"
        return
    at = volumes[0]["EFSVolumeConfiguration"]
    if at.get("TransitEncryption") != "ENABLED":
        yield f"its bytes travel in the clear: TransitEncryption {at.get('TransitEncryption')}"
    if (
        at.get("FilesystemId") != f"<{system.id}>"
        or at.get("AuthorizationConfig", {}).get("AccessPointId") != f"<{point.id}>"
    ):
        yield f"it mounts {at}"
    if at.get("RootDirectory", "/") != "/":
        yield "a root directory beside an access point is refused"
    if point.get("RootDirectory.Path") != world.bridge.parameters["KafkaDataPath"]:
        yield f"its data are in {point.get('RootDirectory.Path')}"
    user, made = point.get("PosixUser", {}), point.get("RootDirectory.CreationInfo", {})
    owner = {"OwnerUid": "1000", "OwnerGid": "1000", "Permissions": "0750"}
    if (user, made) != ({"Uid": "1000", "Gid": "1000"}, owner):
        yield f"its files belong to {user}, {made}"
    if point.get("FileSystemId") != f"<{system.id}>":
        yield f"its access point is of {point.get('FileSystemId')}"
    broker = world.container("kafka")
    mounted = {one["SourceVolume"]: one["ContainerPath"] for one in broker.get("MountPoints", [])}
    if volumes[0]["Name"] not in mounted or any(
        text(one.get("ReadOnly", False)) == "true" and one["SourceVolume"] == volumes[0]["Name"]
        for one in broker["MountPoints"]
    ):
        yield f"the broker cannot write there: {mounted}"
    service, targets = world.services["kafka"], world.bridge.of("EFS::MountTarget", FileSystemId=f"<{system.id}>")
    if {one.id for one in targets} - service.after:
        yield f"the service may come before {sorted({one.id for one in targets} - service.after)}"
    inside = set(service.get("NetworkConfiguration.AwsvpcConfiguration.Subnets"))
    if inside != {one.get("SubnetId") for one in targets}:
        yield f"mount targets are in {sorted(one.get('SubnetId') for one in targets)}, the broker in {sorted(inside)}"
    if system.get("ThroughputMode") != "elastic":
        yield f"throughput: {system.get('ThroughputMode')}"


RULES = (
    rule_4_tags_never_move_and_stay,
    rule_5_kafka_keeps_its_files,
    rule_10_the_database_leaves_a_snapshot,
    rule_10_data_stay_in_prod_and_go_in_dev,
    rule_10_a_snapshot_brings_its_own_name_and_user,
    rule_11_every_task_finds_its_connections,
    rule_11_the_database_is_as_large_as_its_stage_and_grows,
    rule_12_the_database_insists_on_tls,
    rule_12_the_database_takes_the_password_that_tasks_are_given,
    rule_7_generated_passwords_are_harmless,
    rule_15_templates_have_a_bucket,
    rule_16_releases_do_not_expire,
    rule_17_no_parameter_replaces_what_has_a_name,
    rule_17_what_is_replaced_is_kept,
    rule_20_the_shared_registry_outlives_its_stack,
    rule_20_what_aws_cannot_empty_stays,
    data_at_rest_are_encrypted,
)
