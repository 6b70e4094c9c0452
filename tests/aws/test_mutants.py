"""Each rule sees what it is there for, and no other rule does: one small change, one name."""

from __future__ import annotations

import pytest
import rules
from mutants import Change, add, both, container, drop, ingress, mutant, of, put, ref, sub, variable
from rules import OF_TEMPLATES, RULES, access, data, doors, kafka, network, shape, tasks, watch
from world import Scene, templates

B = "bridge/"
# All of both templates exists in one of these, but for what only a given certificate or a snapshot brings.
SCENES = (
    Scene("prod", "single", "none"),
    Scene("staging", "plain", "per-az", console=False),
    Scene("dev", "iam", "single", own_vpc=False, more=(("AlarmEmail", "someone@example.com"),)),
    Scene("dev", "single", own_vpc=False, more=(("DatabaseSnapshotId", "before"), ("KafkaUsername", "carrier"))),
)

# These cfn-lint lets pass.
UNSEEN: list[tuple[str, object, Change]] = [
    (
        "tcp-on-alb",
        doors.balancers_have_the_listeners_that_they_can_have,
        both(
            put(of("KafkaListener", "LoadBalancerArn"), ref("Alb")),
            put(of("KafkaListener", "Protocol"), "TCP"),
            drop(of("KafkaListener", "Certificates")),
            drop(of("KafkaListener", "SslPolicy")),
        ),
    ),
    (
        "tls-on-alb",
        doors.balancers_have_the_listeners_that_they_can_have,
        put(of("KafkaListener", "LoadBalancerArn"), ref("Alb")),
    ),
    (
        "https-to-tcp",
        doors.listeners_forward_to_what_understands_them,
        both(
            put(of("ConsoleTargetGroup", "Protocol"), "TCP"),
            put(of("ConsoleTargetGroup", "HealthCheckProtocol"), "HTTP"),
        ),
    ),
    (
        "container-of-no-task",
        doors.balancers_send_to_a_port_that_listens,
        put(of("IngestService", "LoadBalancers/0/ContainerName"), "webhook"),
    ),
    (
        "port-of-nobody",
        doors.balancers_send_to_a_port_that_listens,
        put(of("IngestService", "LoadBalancers/0/ContainerPort"), 8090),
    ),
    (
        "name-of-33",
        shape.names_are_those_of_the_stage_and_fit,
        put(of("KafkaTargetGroup", "Name"), sub("${Environment}-webhooks-kafka-proxy-9096-tcp")),
    ),
    (
        "name-of-33-for-one-stage",
        shape.names_are_those_of_the_stage_and_fit,
        put(of("Alb", "Name"), sub("${Environment}-webhooks-alb-${AWS::Region}")),
    ),
    (
        "targets-are-instances",
        doors.listeners_forward_to_what_understands_them,
        put(of("KafkaTargetGroup", "TargetType"), "instance"),
    ),
    ("stop-after-300", tasks.tasks_stop_in_time, put(container("KafkaTask", "StopTimeout"), 300)),
    (
        "no-execution-role",
        tasks.every_task_names_its_roles_and_families,
        drop(of("IngestTask", "ExecutionRoleArn")),
    ),
    (
        "database-without-snapshot",
        data.rule_10_the_database_leaves_a_snapshot,
        drop(B + "Resources/Database/DeletionPolicy"),
    ),
    ("password-echoed", shape.passwords_are_not_echoed, drop(B + "Parameters/KafkaPassword/NoEcho")),
]

MUTANTS: list[tuple[str, object, Change]] = [
    *UNSEEN,
    # ---- rule 1
    (
        "anybody-in-9094",
        network.rule_01_groups_let_in_what_the_table_says,
        put(B + "Resources/Slip", ingress("KafkaSecurityGroup", "0.0.0.0/0", 9094, Condition="SingleKafka")),
    ),
    (
        "controller-open",
        network.rule_01_groups_let_in_what_the_table_says,
        put(
            B + "Resources/Slip",
            ingress("KafkaSecurityGroup", ref("IngestSecurityGroup"), 9093, Condition="SingleKafka"),
        ),
    ),
    (
        "range-of-ports",
        network.rule_01_groups_let_in_what_the_table_says,
        put(of("KafkaFromIngest", "FromPort"), 9093),
    ),
    (
        "worker-not-in-database",
        network.rule_01_groups_let_in_what_the_table_says,
        drop(B + "Resources/DatabaseFromWorker"),
    ),
    (
        "kafka-for-the-world",
        network.rule_01_groups_let_in_what_the_table_says,
        put(B + "Resources/Slip", ingress("NlbSecurityGroup", "0.0.0.0/0", 29095, Condition="SingleKafka")),
    ),
    (
        "egress-left-to-aws",
        network.rule_01_groups_let_out_what_the_table_says,
        drop(of("DatabaseSecurityGroup", "SecurityGroupEgress")),
    ),
    (
        "alb-not-let-out",
        network.rule_01_groups_let_out_what_the_table_says,
        drop(of("AlbSecurityGroup", "SecurityGroupEgress/0")),
    ),
    (
        "broker-cut-from-its-files",
        network.rule_01_groups_let_out_what_the_table_says,
        drop(of("KafkaSecurityGroup", "SecurityGroupEgress/1")),
    ),
    (
        "worker-on-a-host",
        network.rule_01_everything_runs_on_fargate,
        put(of("WorkerService", "LaunchType"), "EC2"),
    ),
    (
        "file-system-for-nobody",
        network.rule_01_external_mode_has_no_broker_parts,
        both(
            drop(B + "Resources/MountTarget2/Condition"),
            put(of("MountTarget2", "FileSystemId"), "fs-0a1b2c3d4e5f60718"),
            put(of("MountTarget2", "SecurityGroups"), []),
            put(of("MountTarget1", "SubnetId"), {"Fn::Select": [0, ref("PrivateSubnetIds")]}),
            put(
                of("KafkaService", "NetworkConfiguration/AwsvpcConfiguration/Subnets"),
                [{"Fn::Select": [0, ref("PrivateSubnetIds")]}],
            ),
        ),
    ),
    (
        "groups-not-told",
        network.rule_01_external_mode_has_no_broker_parts,
        put(B + "Outputs/BridgeSecurityGroupIds/Value", ref("IngestSecurityGroup")),
    ),
    (
        "logs-without-a-way",
        network.rule_01_without_nat_the_endpoints_lead_out,
        drop("vpc/Resources/LogsEndpoint"),
    ),
    (
        "layers-without-a-way",
        network.rule_01_without_nat_the_endpoints_lead_out,
        put(of("S3Endpoint", "RouteTableIds", "vpc"), [ref("PrivateRoutes1")]),
    ),
    (
        "private-subnet-in-public",
        network.rule_01_private_subnets_leave_through_nat_alone,
        both(
            drop(of("PrivateDefaultRoute1", "NatGatewayId", "vpc")),
            put(of("PrivateDefaultRoute1", "GatewayId", "vpc"), ref("InternetGateway")),
        ),
    ),
    (
        "one-zone",
        network.rule_01_private_subnets_leave_through_nat_alone,
        put(of("PrivateSubnet2", "AvailabilityZone", "vpc"), {"Fn::Select": [0, {"Fn::GetAZs": ""}]}),
    ),
    (
        "neither-nat-nor-endpoints",
        shape.rule_01_no_nat_needs_endpoints,
        drop("vpc/Rules/SomeWayToAws"),
    ),
    # ---- rules 2 and 3
    (
        "configuration-without-version",
        tasks.rule_02_configuration_comes_from_two_secrets,
        put(container("IngestTask", "Secrets/Name=KWB_CONFIG/ValueFrom"), sub("${ConfigSecret}:::x${ConfigVersion}")),
    ),
    (
        "sources-do-not-roll-out",
        tasks.rule_02_a_new_configuration_starts_new_tasks,
        put(container("WorkerTask", "Secrets/Name=KWB_SECRETS_JSON/ValueFrom", 1), ref("SourcesSecret")),
    ),
    (
        "admin-in-another-group",
        tasks.rule_03_the_admin_task_stands_where_the_worker_does,
        put(container("AdminTask", "Environment/Name=KWB_USERS_SECRET_PREFIX/Value"), sub("${Environment}-users/")),
    ),
    (
        "admin-writes-any-secret",
        access.rule_03_new_passwords_go_below_users_alone,
        put(
            of("AdminTaskRole", "Policies/0/PolicyDocument/Statement/0/Resource"),
            sub(
                "arn:${AWS::Partition}:secretsmanager:${AWS::Region}:${AWS::AccountId}:secret:${Environment}-webhooks/*"
            ),
        ),
    ),
    # ---- rule 4
    (
        "kafka-follows-the-bridge",
        tasks.rule_04_a_new_bridge_leaves_kafka_alone,
        put(of("KafkaTask", "Tags"), [{"Key": "Bridge", "Value": ref("BridgeImage")}]),
    ),
    (
        "always-x86",
        tasks.rule_04_tasks_run_the_images_and_processors_that_were_asked_for,
        put(of("ConsoleTask", "RuntimePlatform/CpuArchitecture"), "ARM64"),
    ),
    (
        "tags-move",
        data.rule_04_tags_never_move_and_stay,
        put(of("BridgeRepository", "ImageTagMutability", "registry"), "MUTABLE"),
    ),
    (
        "old-images-expire",
        data.rule_04_tags_never_move_and_stay,
        put(
            of("KafkaRepository", "LifecyclePolicy/LifecyclePolicyText", "registry"),
            '{"rules":[{"rulePriority":1,"selection":{"tagStatus":"any","countType":"imageCountMoreThan",'
            '"countNumber":30},"action":{"type":"expire"}}]}',
        ),
    ),
    (
        "one-repository-for-both",
        access.rule_04_the_images_have_their_repositories,
        put("registry/Outputs/KafkaRepositoryUri/Value", {"Fn::GetAtt": ["BridgeRepository", "RepositoryUri"]}),
    ),
    # ---- rule 5
    (
        "nfs-in-the-clear",
        data.rule_05_kafka_keeps_its_files,
        drop(of("KafkaTask", "Volumes/0/EFSVolumeConfiguration/TransitEncryption")),
    ),
    (
        "subnet-without-mount-target",
        data.rule_05_kafka_keeps_its_files,
        put(of("KafkaService", "NetworkConfiguration/AwsvpcConfiguration/Subnets"), ref("PrivateSubnetIds")),
    ),
    (
        "kafka-before-its-mount-target",
        data.rule_05_kafka_keeps_its_files,
        put(B + "Resources/KafkaService/DependsOn", ["KafkaListener", "MountTarget1"]),
    ),
    (
        "data-end-with-the-task",
        kafka.rule_05_the_broker_suits_its_file_system,
        put(container("KafkaTask", "MountPoints/0/ContainerPath"), "/var/lib/kafka/other"),
    ),
    (
        "session-too-short-for-nfs",
        kafka.rule_05_the_broker_suits_its_file_system,
        add(container("KafkaTask", "Environment"), variable("KAFKA_BROKER_SESSION_TIMEOUT_MS", "3000")),
    ),
    (
        "topics-appear-by-themselves",
        kafka.rule_05_the_broker_is_otherwise_that_of_compose,
        put(container("KafkaTask", "Environment/Name=KAFKA_AUTO_CREATE_TOPICS_ENABLE/Value"), "true"),
    ),
    (
        "controller-off-loopback",
        kafka.rule_05_the_broker_is_otherwise_that_of_compose,
        put(
            container("KafkaTask", "Environment/Name=KAFKA_LISTENERS/Value"),
            "CONTROLLER://:9093,INTERNAL://0.0.0.0:9094,BROKER://0.0.0.0:9095,PROXY://0.0.0.0:9096",
        ),
    ),
    (
        "advertised-by-the-name-of-aws",
        kafka.rule_05_names_lead_to_the_listeners,
        put(
            container("KafkaTask", "Environment/Name=KAFKA_ADVERTISED_LISTENERS/Value"),
            sub(
                "INTERNAL://kafka.${Environment}-webhooks.internal:9094,"
                "BROKER://kafka.${Environment}-webhooks.internal:9095,PROXY://${Nlb.DNSName}:${KafkaExternalPort}"
            ),
        ),
    ),
    # ---- rules 6 and 7
    (
        "plain-everywhere",
        tasks.rule_06_the_bridge_logs_in_as_the_cluster_asks,
        put(container("WorkerTask", "Environment/Name=KWB_KAFKA_SECURITY_PROTOCOL/Value", 1), "SASL_PLAINTEXT"),
    ),
    (
        "every-cluster-of-msk",
        access.rule_06_rights_in_msk_are_for_its_cluster,
        put(
            of("MskPolicy", "PolicyDocument/Statement/Sid=Cluster/Resource"),
            sub("arn:${AWS::Partition}:kafka:${AWS::Region}:${AWS::AccountId}:cluster/*"),
        ),
    ),
    (
        "sasl-without-a-password",
        shape.rule_06_what_cannot_work_is_refused_beforehand,
        drop(B + "Rules/ExternalMode/Assertions/2"),
    ),
    (
        "no-way-to-the-cluster",
        shape.rule_06_what_cannot_work_is_refused_beforehand,
        put(B + "Rules/ExternalMode/Assertions/4/Assert/Fn::Or/1", {"Fn::Equals": [ref("KafkaIsPrivate"), "false"]}),
    ),
    (
        "user-named-anonymous",
        shape.rule_07_names_and_passwords_are_harmless,
        put(B + "Parameters/KafkaUsername/AllowedPattern", "^[A-Za-z][A-Za-z0-9._-]{0,62}$"),
    ),
    (
        "quote-in-a-password",
        shape.rule_07_names_and_passwords_are_harmless,
        put(B + "Parameters/WebhookPassword/AllowedPattern", "^([!-~]{12,128})?$"),
    ),
    (
        "every-user-is-super",
        kafka.rule_07_one_super_user_and_scram_outside,
        put(
            container("KafkaTask", "Environment/Name=KAFKA_SUPER_USERS/Value"), "User:bridge;User:admin;User:ANONYMOUS"
        ),
    ),
    (
        "whole-environment-readable",
        kafka.rule_07_one_super_user_and_scram_outside,
        put(
            container("KafkaTask", "Environment/Name=KAFKA_CONFIG_PROVIDERS_SECRETS_PARAM_ALLOWLIST_PATTERN/Value"),
            ".*",
        ),
    ),
    # ---- rule 8
    (
        "console-for-everybody",
        doors.rule_08_each_request_gets_its_answer,
        drop(of("ConsoleRule", "Conditions/1")),
    ),
    (
        "health-before-nothing",
        doors.rule_08_each_request_gets_its_answer,
        put(of("HealthRule", "Priority"), 50),
    ),
    (
        "any-host-is-webhooks",
        doors.rule_08_each_request_gets_its_answer,
        put(of("HttpsListener", "DefaultActions"), [{"Type": "forward", "TargetGroupArn": ref("IngestTargetGroup")}]),
    ),
    (
        "console-not-in-certificate",
        doors.rule_08_the_certificate_holds_every_name,
        both(
            drop(of("Certificate", "SubjectAlternativeNames/1")),
            drop(of("Certificate", "DomainValidationOptions/2")),
        ),
    ),
    # ---- rule 9
    ("policy-left-to-aws", doors.rule_09_both_doors_speak_modern_tls, drop(of("HttpsListener", "SslPolicy"))),
    (
        "policy-with-old-ciphers",
        doors.rule_09_both_doors_speak_modern_tls,
        put(of("KafkaListener", "SslPolicy"), "ELBSecurityPolicy-TLS13-1-2-2021-06"),
    ),
    (
        "http-to-ingest",
        doors.rule_09_the_balancer_speaks_https_to_ingest,
        both(
            put(of("IngestTargetGroup", "Protocol"), "HTTP"),
            put(of("IngestTargetGroup", "HealthCheckProtocol"), "HTTP"),
        ),
    ),
    (
        "headers-dropped",
        doors.rule_09_headers_reach_ingest_as_they_came,
        put(
            of("Alb", "LoadBalancerAttributes/Key=routing.http.drop_invalid_header_fields.enabled/Value"),
            "true",
        ),
    ),
    (
        "client-addresses-kept",
        doors.rule_09_kafka_gets_its_bytes_and_no_header,
        drop(of("KafkaTargetGroup", "TargetGroupAttributes/Key=preserve_client_ip.enabled")),
    ),
    (
        "proxy-header",
        doors.rule_09_kafka_gets_its_bytes_and_no_header,
        put(of("KafkaTargetGroup", "TargetGroupAttributes/Key=proxy_protocol_v2.enabled/Value"), "true"),
    ),
    (
        "ingest-without-certificate",
        tasks.rule_09_ingest_makes_its_own_certificate,
        drop(container("IngestTask", "Environment/Name=KWB_INGEST_TLS_CERT")),
    ),
    # ---- rule 10
    (
        "no-backups",
        data.rule_10_the_database_leaves_a_snapshot,
        put(B + "Mappings/Stage/prod/DbBackupDays", 0),
    ),
    (
        "files-go-in-prod",
        data.rule_10_data_stay_in_prod_and_go_in_dev,
        put(B + "Resources/FileSystem/DeletionPolicy", "Delete"),
    ),
    (
        "files-stay-in-dev",
        data.rule_10_data_stay_in_prod_and_go_in_dev,
        put(B + "Resources/FileSystem/DeletionPolicy", "RetainExceptOnCreate"),
    ),
    (
        "kept-secret-keeps-its-name",
        data.rule_10_data_stay_in_prod_and_go_in_dev,
        put(of("ConfigSecret", "Name"), sub("${Environment}-webhooks/config")),
    ),
    (
        "user-beside-a-snapshot",
        data.rule_10_a_snapshot_brings_its_own_name_and_user,
        put(of("Database", "MasterUsername"), "bridge"),
    ),
    # ---- rule 11
    (
        "no-such-size",
        tasks.rule_11_tasks_have_their_sizes,
        put(of("AdminTask", "Memory"), "6144"),
    ),
    ("half-the-memory", tasks.rule_11_tasks_have_their_sizes, put(of("KafkaTask", "Memory"), "2048")),
    ("count-set-back", tasks.rule_11_only_ingest_scales, put(of("IngestService", "DesiredCount"), 2)),
    (
        "scaled-at-3000",
        tasks.rule_11_only_ingest_scales,
        put(of("IngestScalingByRequests", "TargetTrackingScalingPolicyConfiguration/TargetValue"), 3000),
    ),
    # ---- rule 12
    (
        "encrypted-to-anybody",
        tasks.rule_12_the_database_is_verified,
        put(
            container("ConsoleTask", "Environment/Name=DATABASE_URL/Value"),
            sub("postgresql://bridge@${Database.Endpoint.Address}:5432/bridge?sslmode=require"),
        ),
    ),
    (
        "database-without-tls",
        data.rule_12_the_database_insists_on_tls,
        put(of("DatabaseParameters", "Parameters/rds.force_ssl"), "0"),
    ),
    # ---- rule 13
    (
        "filter-of-another-line",
        watch.rule_13_status_lines_become_metrics,
        put(of("RefusedMetric", "FilterPattern"), "{ $.refused_requests = * }"),
    ),
    (
        "all-is-well-by-default",
        watch.rule_13_status_lines_become_metrics,
        put(of("OutboxMetric", "MetricTransformations/0/DefaultValue"), 0),
    ),
    (
        "silence-is-fine",
        watch.rule_13_silence_is_an_alarm,
        put(of("OutboxAlarm", "TreatMissingData"), "notBreaching"),
    ),
    (
        "alarm-on-a-metric-of-nobody",
        watch.rule_13_silence_is_an_alarm,
        put(of("ArchiveLagAlarm", "MetricName"), "ArchiveLagRows"),
    ),
    ("no-disk-alarm", watch.rule_13_each_alarm_is_there, drop(B + "Resources/DiskAlarm")),
    (
        "alarm-without-balancer",
        watch.rule_13_each_alarm_is_there,
        drop(of("UnhealthyTargetsAlarm", "Dimensions/Name=LoadBalancer")),
    ),
    # ---- rules 14 to 20
    (
        "role-without-region",
        shape.rule_14_one_stack_per_stage_account_and_region,
        put(of("TaskRole", "RoleName"), sub("${Environment}-webhooks-task")),
    ),
    (
        "releases-expire",
        data.rule_16_releases_do_not_expire,
        add(
            of("Artifacts", "LifecycleConfiguration/Rules", "registry"),
            {"Id": "old", "Status": "Enabled", "ExpirationInDays": 30},
        ),
    ),
    (
        "artifacts-by-one-name-for-the-world",
        data.rule_15_templates_have_a_bucket,
        put(of("Artifacts", "BucketName", "registry"), "kafka-webhook-bridge-artifacts"),
    ),
    (
        "replaced-without-snapshot",
        data.rule_17_what_is_replaced_is_kept,
        drop(B + "Resources/Database/UpdateReplacePolicy"),
    ),
    (
        "broker-undoes-a-deployment",
        watch.rule_18_only_errors_of_ingest_roll_back,
        put(
            of("WorkerService", "DeploymentConfiguration/Alarms"),
            {"Enable": True, "Rollback": True, "AlarmNames": [ref("OutboxAlarm")]},
        ),
    ),
    (
        "disk-undoes-a-deployment",
        watch.rule_18_only_errors_of_ingest_roll_back,
        put(of("IngestService", "DeploymentConfiguration/Alarms/AlarmNames"), [ref("DiskAlarm")]),
    ),
    (
        "certificate-waits-for-ever",
        doors.rule_19_certificate_and_names_where_there_is_a_zone,
        drop(of("Certificate", "DomainValidationOptions/1")),
    ),
    (
        "kafka-name-to-the-wrong-balancer",
        doors.rule_19_certificate_and_names_where_there_is_a_zone,
        put(of("KafkaRecord", "AliasTarget/DNSName"), {"Fn::GetAtt": ["Alb", "DNSName"]}),
    ),
    (
        "registry-goes-with-its-stack",
        data.rule_20_the_shared_registry_outlives_its_stack,
        put("registry/Resources/KafkaRepository/DeletionPolicy", "Delete"),
    ),
    (
        "bucket-cannot-be-deleted",
        data.rule_20_what_aws_cannot_empty_stays,
        put(B + "Resources/AccessLogs/DeletionPolicy", "Delete"),
    ),
    # ---- rule 21
    (
        "secret-by-name",
        tasks.rule_21_secrets_are_named_by_what_ecs_understands,
        put(container("IngestTask", "Secrets/Name=WEBHOOK_PASSWORD/ValueFrom"), sub("${WebhookSecret}:secret::")),
    ),
    (
        "secret-out-of-reach",
        access.rule_21_execution_roles_may_start_their_tasks_and_no_more,
        drop(of("ExecutionRole", "Policies/0/PolicyDocument/Statement/Sid=Secrets/Resource/3")),
    ),
    (
        "kafka-reads-the-database",
        access.rule_21_execution_roles_may_start_their_tasks_and_no_more,
        put(
            of("KafkaExecutionRole", "Policies/0/PolicyDocument/Statement/Sid=Secrets/Resource"),
            [ref("KafkaSecret"), ref("DatabaseSecret")],
        ),
    ),
    (
        "role-for-any-account",
        access.rule_21_roles_are_for_one_service_of_this_account,
        drop(of("TaskRole", "AssumeRolePolicyDocument/Statement/0/Condition")),
    ),
    (
        "task-lists-buckets",
        access.rule_21_tasks_have_no_rights_that_they_do_not_use,
        put(
            of("TaskRole", "Policies"),
            [
                {
                    "PolicyName": "more",
                    "PolicyDocument": {
                        "Statement": [
                            {
                                "Effect": "Allow",
                                "Action": "s3:ListBucket",
                                "Resource": {"Fn::GetAtt": ["AccessLogs", "Arn"]},
                            }
                        ]
                    },
                }
            ],
        ),
    ),
    (
        "broker-may-only-look",
        access.rule_21_the_broker_may_mount_its_files,
        put(
            of("KafkaTaskRole", "Policies/0/PolicyDocument/Statement/0/Action"),
            ["elasticfilesystem:ClientMount"],
        ),
    ),
    (
        "flow-logs-anywhere",
        access.rule_21_wide_rights_have_reasons,
        put(of("FlowLogRole", "Policies/0/PolicyDocument/Statement/0/Resource", "vpc"), "*"),
    ),
    # ---- what every template keeps
    ("parameter-without-words", shape.every_parameter_explains_itself, drop(B + "Parameters/DomainName/Description")),
    (
        "parameter-without-bound",
        shape.every_parameter_explains_itself,
        drop(B + "Parameters/BridgeImage/AllowedPattern"),
    ),
    (
        "parameter-in-no-group",
        shape.every_parameter_explains_itself,
        drop(B + "Metadata/AWS::CloudFormation::Interface/ParameterGroups/2/Parameters/2"),
    ),
    (
        "row-that-nobody-reads",
        shape.nothing_is_declared_in_vain,
        both(*(put(B + f"Mappings/Stage/{stage}/Size", "1") for stage in ("dev", "staging", "prod"))),
    ),
    (
        "reference-under-the-wrong-condition",
        shape.references_are_never_to_nothing,
        put(B + "Outputs/Slip", {"Description": "Slip.", "Condition": "FromSnapshot", "Value": ref("KafkaSecret")}),
    ),
    (
        "rule-calls-what-rules-cannot",
        shape.rules_use_what_rules_may_use,
        put(
            B + "Rules/Slip",
            {"Assertions": [{"Assert": {"Fn::Equals": [{"Fn::Join": ["", ["a"]]}, "a"]}, "AssertDescription": "-"}]},
        ),
    ),
    ("policy-computed-without-transform", shape.templates_fit_into_cloudformation, drop(B + "Transform")),
    (
        "default-that-rules-refuse",
        shape.every_choice_is_taken,
        put(
            B + "Rules/Slip",
            {"Assertions": [{"Assert": {"Fn::Equals": [ref("AlarmEmail"), ""]}, "AssertDescription": "-"}]},
        ),
    ),
    ("output-gone", shape.outputs_say_where_things_are, drop(B + "Outputs/DashboardUrl")),
    (
        "apostrophe",
        shape.words_of_security_groups_are_taken,
        put(of("KafkaSecurityGroup", "GroupDescription"), "Kafka's broker"),
    ),
    (
        "balancer-inside",
        network.network_interfaces_are_private_but_the_balancers,
        put(of("WorkerService", "NetworkConfiguration/AwsvpcConfiguration/AssignPublicIp"), "ENABLED"),
    ),
    (
        "ready-instead-of-live",
        doors.health_is_whether_a_process_answers,
        put(of("IngestTargetGroup", "HealthCheckPath"), "/health/ready"),
    ),
    (
        "logs-before-their-policy",
        doors.balancers_write_their_logs,
        drop(B + "Resources/Nlb/DependsOn"),
    ),
    (
        "service-before-its-rule",
        tasks.services_wait_for_their_listener,
        put(B + "Resources/IngestService/DependsOn", ["HttpsListener", "WorkerService"]),
    ),
    (
        "two-brokers-on-one-log",
        tasks.services_deploy_as_they_can,
        put(of("KafkaService", "DeploymentConfiguration/MaximumPercent"), 200),
    ),
    (
        "zones-evened-out",
        tasks.services_deploy_as_they_can,
        drop(of("KafkaService", "AvailabilityZoneRebalancing")),
    ),
    ("root", tasks.containers_hold_little, drop(container("WorkerTask", "User", 1))),
    (
        "tmpfs",
        tasks.containers_hold_little,
        put(container("IngestTask", "LinuxParameters/Tmpfs"), [{"ContainerPath": "/tmp", "Size": 64}]),
    ),
    (
        "ingest-migrates",
        tasks.containers_do_one_thing_each,
        put(container("WorkerTask", "Essential"), True),
    ),
    ("worker-does-not-wait", tasks.containers_do_one_thing_each, drop(container("WorkerTask", "DependsOn", 1))),
    ("unwatched", tasks.containers_are_watched, drop(container("ConsoleTask", "HealthCheck"))),
    (
        "variable-twice",
        tasks.every_variable_is_stated_once,
        add(container("IngestTask", "Environment"), variable("ENVIRONMENT", "dev")),
    ),
    (
        "password-in-environment",
        tasks.secrets_reach_nobody_else,
        add(container("IngestTask", "Environment"), variable("CLIENT_PASSWORD", ref("KafkaPassword"))),
    ),
    (
        "password-in-output",
        tasks.secrets_reach_nobody_else,
        put(B + "Outputs/Slip", {"Description": "Slip.", "Value": sub("{{resolve:secretsmanager:${WebhookSecret}}}")}),
    ),
    (
        "password-in-metadata",
        tasks.secrets_reach_nobody_else,
        put(B + "Resources/Cluster/Metadata", {"Note": ref("WebhookPassword")}),
    ),
    (
        "ingest-knows-the-console",
        tasks.secrets_reach_nobody_else,
        add(
            container("AdminTask", "Secrets"),
            {
                "Fn::If": [
                    "HasConsole",
                    {"Name": "CONSOLE_PASSWORD", "ValueFrom": sub("${ConsoleSecret}:password::")},
                    ref("AWS::NoValue"),
                ]
            },
        ),
    ),
    ("database-in-the-clear", data.data_at_rest_are_encrypted, drop(of("Database", "StorageEncrypted"))),
    (
        "topic-with-the-key-of-aws",
        data.data_at_rest_are_encrypted,
        put(of("AlarmTopic", "KmsMasterKeyId"), "alias/aws/sns"),
    ),
    ("alarm-tells-nobody", watch.alarms_reach_somebody, drop(of("CertificateAlarm", "AlarmActions"))),
    ("log-for-ever", watch.logs_are_kept_for_a_while, drop(of("AdminLogs", "RetentionInDays"))),
    (
        "log-to-nobodys-group",
        watch.logs_are_kept_for_a_while,
        put(container("WorkerTask", "LogConfiguration/Options/awslogs-group"), sub("/${Environment}-webhooks/migrate")),
    ),
    ("insights-off", watch.the_cluster_is_observed, drop(of("Cluster", "ClusterSettings"))),
    (
        "dashboard-is-no-json",
        watch.the_dashboard_shows_what_there_is,
        put(of("Dashboard", "DashboardBody"), '{"widgets": [}'),
    ),
]


def test_the_templates_keep_every_rule_under_the_choices_of_the_mutants() -> None:
    assert rules.broken(templates(), SCENES) == {}


@pytest.mark.parametrize(("name", "rule", "change"), MUTANTS, ids=[name for name, _, _ in MUTANTS])
def test_a_mutant_breaks_the_rule_that_is_there_for_it_and_no_other(name: str, rule: object, change: Change) -> None:
    found = mutant(templates(), change)
    assert found != templates(), "this mutant is the template itself"
    broken = rules.broken(found, SCENES)
    assert set(broken) == {rule.__name__}, broken  # type: ignore[attr-defined]


def test_what_cfn_lint_does_not_see_is_seen() -> None:
    """Twelve kinds of it, each above."""
    assert len(UNSEEN) == 12


def test_every_rule_has_a_mutant() -> None:
    assert {rule for _, rule, _ in MUTANTS} == {*RULES, *OF_TEMPLATES}
