"""What somebody with bad intentions, or none at all, would change: doors of resources, limits of rights, numbers."""

from __future__ import annotations

from typing import Any

from rules import access, data, doors, kafka, network, policies, settings, watch

from mutants import Mutant, add, both, container, drop, new, of, put, ref, sub, variable

B = "bridge/Resources/"


def everybody(*actions: str, resource: Any = None) -> dict[str, Any]:
    """A statement that lets in whoever asks."""
    found = {"Effect": "Allow", "Principal": "*", "Action": list(actions)}
    return {**found, "Resource": resource} if resource else found


def within(resource: str, rest: str = "", template: str = "bridge") -> str:
    """Path of what a resource's policy states."""
    return of(resource, "PolicyDocument/Statement" + rest, template)


ANYWHERE = {"Description": "slip", "IpProtocol": "-1", "CidrIp": "0.0.0.0/0"}
TRUST = "AssumeRolePolicyDocument/Statement/0/Principal"
REGIONAL = "arn:${AWS::Partition}:secretsmanager:${AWS::Region}:${AWS::AccountId}:secret:"

LET_IN: list[Mutant] = [
    (
        f"everybody-{name}",
        policies.nobody_else_is_let_in,
        change,
    )
    for name, change in {
        "owns-the-alarms-key": put(of("AlarmKey", "KeyPolicy/Statement/0/Principal"), {"AWS": "*"}),
        "uses-the-alarms-key": drop(of("AlarmKey", "KeyPolicy/Statement/1/Condition")),
        "tells-the-topic": both(
            put(within("AlarmTopicPolicy", "/0/Principal"), "*"), drop(within("AlarmTopicPolicy", "/0/Condition"))
        ),
        "tells-the-topic-through-cloudwatch": drop(within("AlarmTopicPolicy", "/0/Condition")),
        "tells-the-topic-but-one": both(
            drop(within("AlarmTopicPolicy", "/0/Principal")),
            new(within("AlarmTopicPolicy", "/0/NotPrincipal"), {"AWS": "123456789012"}),
        ),
        "reads-access-logs": add(
            within("AccessLogsPolicy"), everybody("s3:GetObject", resource=sub("${AccessLogs.Arn}/*"))
        ),
        "writes-access-logs": drop(within("AccessLogsPolicy", "/Sid=Nlb/Condition")),
        "reads-access-logs-through-elb": put(
            within("AccessLogsPolicy", "/Sid=Alb/Action"), ["s3:PutObject", "s3:GetObject"]
        ),
        "reads-releases": add(
            within("ArtifactsPolicy", template="registry"),
            everybody("s3:GetObject", resource=sub("${Artifacts.Arn}/*")),
        ),
        "pushes-images": new(
            of("BridgeRepository", "RepositoryPolicyText", "registry"), {"Statement": [everybody("ecr:*")]}
        ),
        "pulls-images-by-a-text": new(
            of("KafkaRepository", "RepositoryPolicyText", "registry"),
            '{"Statement": [{"Effect": "Allow", "Principal": {"AWS": ["*"]}, "Action": "ecr:BatchGetImage"}]}',
        ),
        "reads-a-secret": new(
            B + "Slip",
            {
                "Type": "AWS::SecretsManager::ResourcePolicy",
                "Properties": {
                    "SecretId": ref("DatabaseSecret"),
                    "ResourcePolicy": {"Statement": everybody("secretsmanager:GetSecretValue", resource="*")},
                },
            },
        ),
    }.items()
]

MUTANTS: list[Mutant] = [
    *LET_IN,
    # ---- files
    (
        "files-without-a-policy",
        policies.the_file_system_is_for_the_broker_alone,
        drop(of("FileSystem", "FileSystemPolicy")),
    ),
    (
        "files-for-whoever-reaches-them",
        (policies.the_file_system_is_for_the_broker_alone, policies.nobody_else_is_let_in),
        add(of("FileSystem", "FileSystemPolicy/Statement"), everybody("elasticfilesystem:ClientMount")),
    ),
    (
        "files-as-root",
        (
            policies.the_file_system_is_for_the_broker_alone,
            access.rule_21_roles_have_a_boundary_that_leaves_what_they_need,
        ),
        add(
            of("KafkaTaskRole", "Policies/0/PolicyDocument/Statement/0/Action"), "elasticfilesystem:ClientRootAccess"
        ),
    ),
    (
        "files-mounted-without-a-role",
        access.rule_21_the_broker_may_mount_its_files,
        put(of("KafkaTask", "Volumes/0/EFSVolumeConfiguration/AuthorizationConfig/IAM"), "DISABLED"),
    ),
    (
        "files-past-the-access-point",
        (
            policies.the_file_system_is_for_the_broker_alone,
            access.rule_21_roles_have_a_boundary_that_leaves_what_they_need,
        ),
        drop(of("KafkaTaskRole", "Policies/0/PolicyDocument/Statement/0/Condition")),
    ),
    ("files-lose-their-key", policies.what_stays_can_be_read, new(of("FileSystem", "KmsKeyId"), ref("AlarmKey"))),
    (
        "way-out-through-s3",
        policies.the_way_to_s3_leads_to_images_alone,
        put(of("S3Endpoint", "PolicyDocument/Statement/0/Resource", "vpc"), "*"),
    ),
    (
        "way-to-all-of-s3",
        policies.the_way_to_s3_leads_to_images_alone,
        drop(of("S3Endpoint", "PolicyDocument", "vpc")),
    ),
    # ---- the boundary
    (
        "role-without-boundary",
        access.rule_21_roles_have_a_boundary_that_leaves_what_they_need,
        drop(of("AdminTaskRole", "PermissionsBoundary")),
    ),
    (
        "flow-logs-beside-the-path",
        access.rule_21_roles_have_a_boundary_that_leaves_what_they_need,
        drop(of("FlowLogRole", "Path", "vpc")),
    ),
    (
        "boundary-of-nobody",
        access.rule_21_roles_have_a_boundary_that_leaves_what_they_need,
        put(of("RolesBoundary", "ManagedPolicyName", "registry"), "kafka-webhook-bridge-boundary"),
    ),
    (
        "boundary-takes-logs",
        access.rule_21_roles_have_a_boundary_that_leaves_what_they_need,
        drop(within("RolesBoundary", "/Sid=Logs", "registry")),
    ),
    (
        "boundary-takes-secrets-of-clusters",
        access.rule_21_roles_have_a_boundary_that_leaves_what_they_need,
        drop(within("RolesBoundary", "/Sid=SecretsOfClusters", "registry")),
    ),
    (
        "boundary-leaves-everything",
        access.rule_21_the_boundary_leaves_no_more,
        add(within("RolesBoundary", template="registry"), {"Effect": "Allow", "Action": "*", "Resource": "*"}),
    ),
    (
        "boundary-leaves-every-secret",
        access.rule_21_the_boundary_leaves_no_more,
        drop(within("RolesBoundary", "/Sid=SecretsOfClusters/Condition", "registry")),
    ),
    (
        "boundary-leaves-every-key",
        access.rule_21_the_boundary_leaves_no_more,
        drop(within("RolesBoundary", "/Sid=KeysOfSecrets/Condition", "registry")),
    ),
    (
        "boundary-leaves-secrets-to-be-written",
        access.rule_21_the_boundary_leaves_no_more,
        put(within("RolesBoundary", "/Sid=PasswordsOfUsers/Resource", "registry"), sub(REGIONAL + "*-webhooks/*")),
    ),
    (
        "decrypts-any-secret",
        access.rule_21_wide_rights_have_reasons,
        drop(within("ClientSecretKeyPolicy", "/0/Condition/StringEquals/kms:EncryptionContext:SecretARN")),
    ),
    (
        "task-writes-logs-itself",
        access.rule_21_tasks_have_no_rights_that_they_do_not_use,
        new(
            of("TaskRole", "Policies"),
            [
                {
                    "PolicyName": "more",
                    "PolicyDocument": {
                        "Statement": [
                            {
                                "Effect": "Allow", "Action": "logs:PutLogEvents",
                                "Resource": {"Fn::GetAtt": ["IngestLogs", "Arn"]},
                            }
                        ]
                    },
                }
            ],
        ),
    ),
    (
        "role-for-machines",
        access.rule_21_roles_are_for_one_service_of_this_account,
        put(of("TaskRole", TRUST), {"Service": "ec2.amazonaws.com"}),
    ),
    # ---- out of the VPC
    (
        "ingest-let-out-anywhere",
        network.rule_1_groups_let_out_what_the_table_says,
        put(of("IngestSecurityGroup", "SecurityGroupEgress"), [ANYWHERE]),
    ),
    (
        "broker-let-out-anywhere",
        network.rule_1_groups_let_out_what_the_table_says,
        add(of("KafkaSecurityGroup", "SecurityGroupEgress"), ANYWHERE),
    ),
    (
        "console-let-out-to-ssh",
        network.rule_1_groups_let_out_what_the_table_says,
        put(of("ConsoleSecurityGroup", "SecurityGroupEgress/0/FromPort"), 22),
    ),
    # ---- the balancers
    *(
        (
            f"balancer-{value}",
            doors.balancers_are_set_as_the_tables_say,
            put(of("Alb", f"LoadBalancerAttributes/Key=routing.http.{key}/Value"), value),
        )
        for key, value in (
            ("xff_header_processing.mode", "preserve"),
            ("desync_mitigation_mode", "monitor"),
        )
    ),
    (
        "balancer-with-an-attribute-more",
        doors.balancers_are_set_as_the_tables_say,
        add(of("Nlb", "LoadBalancerAttributes"), {"Key": "ipv6.deny_all_igw_traffic", "Value": "false"}),
    ),
    (
        "targets-linger",
        doors.balancers_are_set_as_the_tables_say,
        put(of("IngestTargetGroup", "TargetGroupAttributes/0/Value"), "3600"),
    ),
    (
        "connections-outlive-the-broker",
        doors.balancers_are_set_as_the_tables_say,
        drop(of("KafkaTargetGroup", "TargetGroupAttributes/Key=deregistration_delay.connection_termination.enabled")),
    ),
    (
        "dead-for-five-minutes",
        doors.balancers_are_set_as_the_tables_say,
        put(of("ConsoleTargetGroup", "UnhealthyThresholdCount"), 10),
    ),
    (
        "every-proxy-is-believed",
        settings.believed_proxies_are_the_balancers,
        put(container("IngestTask", "Environment/Name=KWB_INGEST_TRUSTED_PROXIES/Value"), "0.0.0.0/0"),
    ),
    (
        "worker-believes-proxies",
        settings.believed_proxies_are_the_balancers,
        add(container("WorkerTask", "Environment", 1), variable("KWB_INGEST_TRUSTED_PROXIES", ref("VpcCidr"))),
    ),
    # ---- the broker
    *(
        (f"name-known-{name}", kafka.rule_5_names_lead_to_the_listeners, change)
        for name, change in {
            "for-an-hour": put(of("KafkaDiscovery", "DnsConfig/DnsRecords/0/TTL"), 3600),
            "by-weight": put(of("KafkaDiscovery", "DnsConfig/RoutingPolicy"), "WEIGHTED"),
            "without-health": drop(of("KafkaDiscovery", "HealthCheckCustomConfig")),
        }.items()
    ),
    *(
        (
            f"broker-{name.removeprefix('KAFKA_').lower()}",
            kafka.rule_5_the_broker_is_otherwise_that_of_compose,
            put(container("KafkaTask", f"Environment/Name={name}/Value"), value),
        )
        for name, value in {
            "KAFKA_ALLOW_EVERYONE_IF_NO_ACL_FOUND": "true",
            "KAFKA_LISTENER_NAME_PROXY_SASL_ENABLED_MECHANISMS": "SCRAM-SHA-512,PLAIN",
            "KAFKA_LISTENER_NAME_PROXY_MAX_CONNECTIONS": "1000000",
            "KAFKA_LISTENER_NAME_PROXY_CONNECTIONS_MAX_REAUTH_MS": "0",
            "KAFKA_QUEUED_MAX_REQUEST_BYTES": "-1",
            "KAFKA_SASL_SERVER_MAX_RECEIVE_SIZE": "20971520",
        }.items()
    ),
    # ---- the database
    *(
        (f"database-{name}", data.rule_11_the_database_is_as_large_as_its_stage_and_grows, change)
        for name, change in {
            "does-not-grow": drop(of("Database", "MaxAllocatedStorage")),
            "on-old-disks": put(of("Database", "StorageType"), "standard"),
            "is-not-patched": put(of("Database", "AutoMinorVersionUpgrade"), False),
            "is-small-in-prod": put("bridge/Mappings/Stage/prod/DatabaseClass", "db.t4g.micro"),
            "says-everything": put(of("DatabaseParameters", "Parameters/log_min_duration_statement"), "0"),
            "says-who-connects": new(of("DatabaseParameters", "Parameters/log_connections"), "1"),
        }.items()
    ),
    (
        "password-made-anew",
        data.rule_7_generated_passwords_are_harmless,
        put(of("DatabaseSecret", "GenerateSecretString/PasswordLength"), 41),
    ),
    # ---- alarms and logs
    *(
        (f"alarm-{name}", watch.rule_13_alarms_are_red_when_the_table_says, change)
        for name, change in {
            "of-a-thousand-million": put(of("OutboxAlarm", "Threshold"), 10**9),
            "of-a-million-refused": put(of("RefusedAlarm", "Threshold"), 10**6),
            "after-a-day": put(of("Ingest5xxAlarm", "EvaluationPeriods"), 1440),
            "of-one-in-ten": new(of("ArchiveLagAlarm", "DatapointsToAlarm"), 1),
            "of-the-best": put(of("UnhealthyTargetsAlarm", "Statistic"), "Minimum"),
            "when-all-are-taken": put("bridge/Mappings/Stage/dev/DatabaseConnectionsAlarm", 99),
            "silent-of-the-disk": put(of("DiskAlarm", "TreatMissingData"), "ignore"),
            "of-none": new(
                B + "Slip",
                {
                    "Type": "AWS::CloudWatch::Alarm",
                    "Properties": {
                        "AlarmName": sub("${Environment}-webhooks-slip"), "AlarmDescription": "slip",
                        "Namespace": "AWS/Logs", "MetricName": "IncomingBytes", "Statistic": "Sum",
                        "AlarmActions": [ref("AlarmTopic")], "OKActions": [ref("AlarmTopic")],
                    },
                },
            ),
        }.items()
    ),
    ("alarm-stays-red-for-all-one-hears", watch.alarms_reach_somebody, drop(of("DiskAlarm", "OKActions"))),
    (
        "tasks-wait-for-their-log",
        watch.logs_are_kept_for_a_while,
        drop(container("IngestTask", "LogConfiguration/Options/mode")),
    ),
    (
        "lines-lost",
        watch.logs_are_kept_for_a_while,
        put(container("KafkaTask", "LogConfiguration/Options/max-buffer-size"), "1m"),
    ),
]  # fmt: skip
