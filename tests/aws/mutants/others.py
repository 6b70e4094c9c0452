"""What somebody with bad intentions, or none at all, would change: doors of resources, limits of rights, numbers."""

from __future__ import annotations

from typing import Any

from rules import access, data, doors, kafka, network, policies, settings, shape, tasks, watch

from mutants import Mutant, add, container, drop, new, of, put, ref, sub, variable

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
        "owns-the-alarms-key": add(of("AlarmKey", "KeyPolicy/Statement"), everybody("kms:*", resource="*")),
        "uses-the-alarms-key": drop(of("AlarmKey", "KeyPolicy/Statement/1/Condition")),
        "tells-the-topic": add(within("AlarmTopicPolicy"), everybody("sns:Publish", resource=ref("AlarmTopic"))),
        "tells-the-topic-through-cloudwatch": drop(within("AlarmTopicPolicy", "/0/Condition")),
        "tells-the-topic-but-one": add(
            within("AlarmTopicPolicy"),
            {"Effect": "Allow", "NotPrincipal": {"AWS": "123456789012"}, "Action": "sns:Publish", "Resource": "*"},
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
    (
        "key-of-nobody",
        policies.keys_and_files_can_be_kept_in_order,
        drop(of("AlarmKey", "KeyPolicy/Statement/0")),
    ),
    (
        "files-beyond-the-deployers-rights",
        policies.keys_and_files_can_be_kept_in_order,
        drop(of("FileSystem", "FileSystemTags/Key=kafka-webhook-bridge")),
    ),
    (
        "files-denied-nothing",
        data.data_at_rest_are_encrypted,
        put(of("FileSystem", "FileSystemPolicy/Statement/0/Action"), "elasticfilesystem:ClientRootAccess"),
    ),
    (
        "access-logs-without-tls",
        data.data_at_rest_are_encrypted,
        drop(within("AccessLogsPolicy", "/Sid=TlsOnly/Resource/1")),
    ),
    (
        "access-logs-for-years",
        data.rule_20_what_aws_cannot_empty_stays,
        put(of("AccessLogs", "LifecycleConfiguration/Rules/0/ExpirationInDays"), 631),
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
        add(
            within("ClientSecretKeyPolicy"),
            {
                "Effect": "Allow", "Action": "kms:Decrypt",
                "Resource": sub("arn:${AWS::Partition}:kms:${AWS::Region}:${AWS::AccountId}:key/*"),
                "Condition": {"StringEquals": {"kms:ViaService": sub("secretsmanager.${AWS::Region}.amazonaws.com")}},
            },
        ),
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
        "role-for-nobody",
        access.rule_21_roles_are_for_one_service_of_this_account,
        put(of("KafkaTaskRole", "AssumeRolePolicyDocument/Statement"), []),
    ),
    (
        "secret-of-the-cluster-under-another-key",
        (
            access.rule_21_execution_roles_may_start_their_tasks_and_no_more,
            access.rule_21_the_boundary_leaves_no_more,
        ),
        put(within("ClientSecretKeyPolicy"), []),
    ),
    (
        "role-for-machines",
        access.rule_21_roles_are_for_one_service_of_this_account,
        put(of("TaskRole", TRUST), {"Service": "ec2.amazonaws.com"}),
    ),
    # ---- tasks
    *(
        (f"container-{name}", tasks.containers_hold_little, change)
        for name, change in {
            "keeps-capabilities": drop(container("IngestTask", "LinuxParameters/Capabilities")),
            "is-somebody-else": put(container("KafkaTask", "User"), "1001:1001"),
            "of-kafka-cannot-write": put(container("KafkaTask", "ReadonlyRootFilesystem"), True),
        }.items()
    ),
    (
        "asked-every-five-minutes",
        tasks.containers_are_watched,
        put(container("WorkerTask", "HealthCheck/Interval", 1), 300),
    ),
    (
        "broker-alive-whatever-it-says",
        kafka.rule_5_the_broker_suits_its_file_system,
        put(container("KafkaTask", "HealthCheck/Command"), ["CMD", "bash", "-c", "</dev/tcp/127.0.0.1/9094"]),
    ),
    (
        "broker-reads-by-another-name",
        kafka.rule_7_one_super_user_and_scram_outside,
        put(container("KafkaTask", "Environment/Name=KAFKA_CONFIG_PROVIDERS/Value"), "environment"),
    ),
    *(
        (f"untold-{name}", tasks.containers_are_told_what_the_parameters_say, drop(container(task, place, number)))
        for name, task, place, number in (
            ("stage", "WorkerTask", "Environment/0", 0),
            ("console-user", "ConsoleTask", "Environment/Name=CONSOLE_USERNAME", 0),
            ("port", "WorkerTask", "Environment/Name=KAFKA_EXTERNAL_PORT", 1),
            ("brokers-of-others", "ConsoleTask", "Environment/13", 0),
        )
    ),
    (
        "authority-of-the-cluster-unknown",
        tasks.rule_6_the_bridge_logs_in_as_the_cluster_asks,
        drop(container("WorkerTask", "Secrets/7", 1)),
    ),
    (
        "key-in-the-certificates-place",
        tasks.rule_6_the_bridge_logs_in_as_the_cluster_asks,
        put(container("IngestTask", "Secrets/8/Fn::If/1/ValueFrom"), sub("${KafkaClientSecretArn}:key::")),
    ),
    (
        "password-of-one-version",
        tasks.rule_21_secrets_are_named_by_what_ecs_understands,
        put(container("ConsoleTask", "Secrets/Name=CONSOLE_PASSWORD/ValueFrom"), sub("${ConsoleSecret}:password::x")),
    ),
    ("few-files", tasks.containers_hold_little, drop(container("KafkaTask", "Ulimits"))),
    (
        "ingest-before-its-schema",
        tasks.services_wait_for_their_listener,
        put(B + "IngestService/DependsOn", "WebhooksRule"),
    ),
    (
        "fewer-at-once",
        tasks.rule_11_only_ingest_scales,
        put(of("IngestScalingByCpu", "TargetTrackingScalingPolicyConfiguration/ScaleInCooldown"), 0),
    ),
    (
        "files-of-everybody",
        data.rule_5_kafka_keeps_its_files,
        put(of("FileSystemAccess", "RootDirectory/CreationInfo/Permissions"), "0777"),
    ),
    (
        "password-in-no-json",
        data.rule_7_generated_passwords_are_harmless,
        put(of("WebhookSecret", "SecretString/Fn::If/2/Fn::Sub"), '{"username": "u", "password": "${WebhookPassword}"'),
    ),
    # ---- names
    *(
        (f"nameless-{name}", shape.names_are_those_of_the_stage_and_fit, drop(of(name, key)))
        for name, key in (("Alb", "Name"), ("AlarmTopic", "TopicName"), ("Dashboard", "DashboardName"))
    ),
    (
        "name-lost-with-its-targets",
        doors.rule_19_certificate_and_names_where_there_is_a_zone,
        put(of("WebhooksRecord", "AliasTarget/EvaluateTargetHealth"), True),
    ),
    (
        "nothing-found-in-html",
        doors.rule_8_each_request_gets_its_answer,
        put(of("HealthRule", "Actions/0/FixedResponseConfig/ContentType"), "text/html"),
    ),
    (
        "judged-after-a-quarter-of-an-hour",
        doors.balancers_send_to_a_port_that_listens,
        put(of("KafkaService", "HealthCheckGracePeriodSeconds"), 900),
    ),
    (
        "balancer-cannot-look",
        doors.balancers_write_their_logs,
        put(within("AccessLogsPolicy", "/Sid=NlbLooksFirst/Resource"), sub("${AccessLogs.Arn}/*")),
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
    (
        "alarm-on-a-service-of-nobody",
        watch.rule_13_each_alarm_is_there,
        put(of("DiskAlarm", "Namespace"), "AWS/Rds"),
    ),
    ("alarms-untold", watch.alarms_reach_somebody, drop("bridge/Resources/AlarmTopicPolicy")),
    (
        "alarms-told-to-no-topic",
        watch.alarms_reach_somebody,
        put(of("AlarmTopicPolicy", "Topics"), []),
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
