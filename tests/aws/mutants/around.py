"""Slips in what is around them: the templates' own shape, data, rights, alarms."""

from __future__ import annotations

from rules import access, data, shape, watch

from mutants import Mutant, add, both, container, drop, new, of, put, ref, sub, variable

B = "bridge/"

# But those that something else in the template names, or reads for.
ALARMS = (
    "Edge5xxAlarm", "UnhealthyTargetsAlarm", "NoBrokerAlarm", "OutboxAlarm", "ArchiveLagAlarm", "RefusedAlarm",
    "DiskAlarm", "CertificateAlarm",
)  # fmt: skip

MUTANTS: list[Mutant] = [
    ("service-in-the-default-cluster", watch.the_cluster_is_observed, drop(of("WorkerService", "Cluster"))),
    ("insights-before-their-log", watch.logs_are_kept_for_a_while, drop(B + "Resources/Cluster/DependsOn")),
    (
        "disk-full-is-fine",
        watch.rule_13_alarms_are_red_when_the_table_says,
        put(of("DiskAlarm", "ComparisonOperator"), "GreaterThanThreshold"),
    ),
    (
        "disk-red-before-it-grows",
        watch.rule_13_alarms_are_red_when_the_table_says,
        put(of("DiskAlarm", "Threshold"), 4294967296),
    ),
    ("alarm-at-no-number", watch.rule_13_alarms_are_red_when_the_table_says, drop(of("OutboxAlarm", "Threshold"))),
    (
        "errors-of-the-console-too",
        watch.rule_18_only_errors_of_ingest_roll_back,
        drop(of("Ingest5xxAlarm", "Dimensions/Name=TargetGroup")),
    ),
    (
        "punctuation-in-passwords",
        data.rule_7_generated_passwords_are_harmless,
        put(of("DatabaseSecret", "GenerateSecretString/ExcludePunctuation"), False),
    ),
    (
        "secret-without-a-version",
        data.rule_7_generated_passwords_are_harmless,
        drop(of("SourcesSecret", "SecretString")),
    ),
    (
        "database-without-password",
        data.rule_12_the_database_takes_the_password_that_tasks_are_given,
        drop(of("Database", "MasterUserPassword")),
    ),
    (
        "configuration-lost-when-replaced",
        data.rule_17_what_is_replaced_is_kept,
        drop(B + "Resources/ConfigSecret/UpdateReplacePolicy"),
    ),
    (
        "holes-unseen",
        data.rule_4_tags_never_move_and_stay,
        drop(of("KafkaRepository", "ImageScanningConfiguration", "registry")),
    ),
    (
        "balancer-deleted-by-a-slip",
        data.rule_20_what_aws_cannot_empty_stays,
        drop(of("Nlb", "LoadBalancerAttributes/Key=deletion_protection.enabled")),
    ),
    # ---- shape
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
    ("password-echoed", shape.passwords_are_not_echoed, drop(B + "Parameters/KafkaPassword/NoEcho")),
    (
        "neither-nat-nor-endpoints",
        shape.rule_1_no_nat_needs_endpoints,
        drop("vpc/Rules/SomeWayToAws"),
    ),
    (
        "sasl-without-a-password",
        shape.rule_6_what_cannot_work_is_refused_beforehand,
        drop(B + "Rules/ExternalMode/Assertions/2"),
    ),
    (
        "no-way-to-the-cluster",
        shape.rule_6_what_cannot_work_is_refused_beforehand,
        put(B + "Rules/ExternalMode/Assertions/4/Assert/Fn::Or/1", {"Fn::Equals": [ref("KafkaIsPrivate"), "false"]}),
    ),
    (
        "user-named-anonymous",
        shape.rule_7_names_and_passwords_are_harmless,
        put(B + "Parameters/KafkaUsername/AllowedPattern", "^[A-Za-z][A-Za-z0-9._-]{0,62}$"),
    ),
    (
        "quote-in-a-password",
        shape.rule_7_names_and_passwords_are_harmless,
        put(B + "Parameters/WebhookPassword/AllowedPattern", "^([!-~]{12,128})?$"),
    ),
    (
        "role-without-region",
        shape.rule_14_one_stack_per_stage_account_and_region,
        put(of("TaskRole", "RoleName"), sub("${Environment}-webhooks-task")),
    ),
    (
        "domain-too-long-for-a-certificate",
        shape.rule_19_the_longest_domain_fits_into_a_certificate,
        put(B + "Parameters/DomainName/MaxLength", 64),
    ),
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
        both(*(new(B + f"Mappings/Stage/{stage}/Size", "1") for stage in ("dev", "staging", "prod"))),
    ),
    (
        "reference-under-the-wrong-condition",
        shape.references_are_never_to_nothing,
        new(B + "Outputs/Slip", {"Description": "Slip.", "Condition": "HasEmail", "Value": ref("ConsoleSecret")}),
    ),
    (
        "rule-calls-what-rules-cannot",
        shape.rules_use_what_rules_may_use,
        new(
            B + "Rules/Slip",
            {"Assertions": [{"Assert": {"Fn::Equals": [{"Fn::Join": ["", ["a"]]}, "a"]}, "AssertDescription": "-"}]},
        ),
    ),
    ("transform", shape.templates_fit_into_cloudformation, new(B + "Transform", "AWS::LanguageExtensions")),
    (
        "policy-computed-of-what-is-not-there-yet",
        shape.templates_fit_into_cloudformation,
        put(B + "Resources/ConfigSecret/UpdateReplacePolicy", {"Fn::Sub": "Retain"}),
    ),
    (
        "default-that-rules-refuse",
        shape.every_choice_is_taken,
        new(
            B + "Rules/Slip",
            {"Assertions": [{"Assert": {"Fn::Equals": [ref("AlarmEmail"), ""]}, "AssertDescription": "-"}]},
        ),
    ),
    (
        "groups-in-a-circle",
        shape.nothing_waits_for_itself,
        new(
            of("KafkaSecurityGroup", "SecurityGroupIngress"),
            [
                {
                    "IpProtocol": "tcp",
                    "FromPort": 9094,
                    "ToPort": 9094,
                    "SourceSecurityGroupId": ref("IngestSecurityGroup"),
                    "Description": "slip",
                }
            ],
        ),
    ),
    ("output-gone", shape.outputs_say_where_things_are, drop(B + "Outputs/DashboardUrl")),
    (
        "apostrophe",
        shape.words_of_security_groups_are_taken,
        put(of("KafkaSecurityGroup", "GroupDescription"), "Kafka's broker"),
    ),
    # ---- data
    (
        "database-without-snapshot",
        data.rule_10_the_database_leaves_a_snapshot,
        put(B + "Resources/Database/DeletionPolicy", "Delete"),
    ),
    (
        "tags-move",
        data.rule_4_tags_never_move_and_stay,
        put(of("BridgeRepository", "ImageTagMutability", "registry"), "MUTABLE"),
    ),
    (
        "old-images-expire",
        data.rule_4_tags_never_move_and_stay,
        put(
            of("KafkaRepository", "LifecyclePolicy/LifecyclePolicyText", "registry"),
            '{"rules":[{"rulePriority":1,"selection":{"tagStatus":"any","countType":"imageCountMoreThan",'
            '"countNumber":30},"action":{"type":"expire"}}]}',
        ),
    ),
    (
        "nfs-in-the-clear",
        data.rule_5_kafka_keeps_its_files,
        drop(of("KafkaTask", "Volumes/0/EFSVolumeConfiguration/TransitEncryption")),
    ),
    (
        "subnet-without-mount-target",
        data.rule_5_kafka_keeps_its_files,
        put(of("KafkaService", "NetworkConfiguration/AwsvpcConfiguration/Subnets"), ref("PrivateSubnetIds")),
    ),
    (
        "kafka-before-its-mount-target",
        data.rule_5_kafka_keeps_its_files,
        put(B + "Resources/KafkaService/DependsOn", ["KafkaListener", "MountTarget1"]),
    ),
    (
        "no-backups",
        data.rule_10_the_database_leaves_a_snapshot,
        put(B + "Mappings/Stage/prod/DatabaseBackupDays", 0),
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
    (
        "connections-for-fewer",
        data.rule_11_every_task_finds_its_connections,
        put(B + "Mappings/Stage/dev/DatabaseConnections", "84"),
    ),
    (
        "more-tasks-than-connections",
        data.rule_11_every_task_finds_its_connections,
        add(B + "Rules/ConnectionsInDev/Assertions/0/Assert/Fn::Contains/0", "7"),
    ),
    (
        "as-many-tasks-as-in-prod",
        data.rule_11_every_task_finds_its_connections,
        drop(B + "Rules/ConnectionsInStaging"),
    ),
    (
        "two-processes-in-a-task",
        data.rule_11_every_task_finds_its_connections,
        add(container("IngestTask", "Environment"), variable("KWB_INGEST_WORKERS", "2")),
    ),
    (
        "database-replaced-by-a-parameter",
        data.rule_17_no_parameter_replaces_what_has_a_name,
        new(of("Database", "KmsKeyId"), ref("AlarmEmail")),
    ),
    (
        "database-without-tls",
        data.rule_12_the_database_insists_on_tls,
        put(of("DatabaseParameters", "Parameters/rds.force_ssl"), "0"),
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
        new(of("Artifacts", "BucketName", "registry"), "kafka-webhook-bridge-artifacts"),
    ),
    (
        "replaced-without-snapshot",
        data.rule_17_what_is_replaced_is_kept,
        drop(B + "Resources/Database/UpdateReplacePolicy"),
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
    (
        "bucket-cannot-be-rolled-back",
        data.rule_20_what_aws_cannot_empty_stays,
        put(B + "Resources/AccessLogs/DeletionPolicy", "RetainExceptOnCreate"),
    ),
    (
        "denied-to-those-with-tls",
        data.data_at_rest_are_encrypted,
        put(
            of("ArtifactsPolicy", "PolicyDocument/Statement/0/Condition/Bool/aws:SecureTransport", "registry"),
            "true",
        ),
    ),
    (
        "files-denied-to-those-with-tls",
        data.data_at_rest_are_encrypted,
        put(of("FileSystem", "FileSystemPolicy/Statement/0/Condition/Bool/aws:SecureTransport"), "true"),
    ),
    ("database-in-the-clear", data.data_at_rest_are_encrypted, drop(of("Database", "StorageEncrypted"))),
    (
        "topic-with-the-key-of-aws",
        data.data_at_rest_are_encrypted,
        put(of("AlarmTopic", "KmsMasterKeyId"), "alias/aws/sns"),
    ),
    # ---- access
    (
        "admin-reads-passwords",
        access.rule_3_new_passwords_go_below_users_alone,
        add(of("AdminTaskRole", "Policies/0/PolicyDocument/Statement/0/Action"), "secretsmanager:GetSecretValue"),
    ),
    (
        "admin-writes-any-secret",
        (
            access.rule_3_new_passwords_go_below_users_alone,
            access.rule_21_roles_have_a_boundary_that_leaves_what_they_need,
        ),
        put(
            of("AdminTaskRole", "Policies/0/PolicyDocument/Statement/0/Resource"),
            sub(
                "arn:${AWS::Partition}:secretsmanager:${AWS::Region}:${AWS::AccountId}:secret:${Environment}-webhooks/*"
            ),
        ),
    ),
    (
        "one-repository-for-both",
        access.rule_4_the_images_have_their_repositories,
        put("registry/Outputs/KafkaRepositoryUri/Value", {"Fn::GetAtt": ["BridgeRepository", "RepositoryUri"]}),
    ),
    (
        "every-cluster-of-msk",
        access.rule_6_rights_in_msk_are_for_its_cluster,
        put(
            of("MskPolicy", "PolicyDocument/Statement/Sid=Cluster/Resource"),
            sub("arn:${AWS::Partition}:kafka:${AWS::Region}:${AWS::AccountId}:cluster/*"),
        ),
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
        (
            access.rule_21_tasks_have_no_rights_that_they_do_not_use,
            access.rule_21_roles_have_a_boundary_that_leaves_what_they_need,
        ),
        new(
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
        (access.rule_21_the_broker_may_mount_its_files, access.rule_21_the_boundary_leaves_no_more),
        put(
            of("KafkaTaskRole", "Policies/0/PolicyDocument/Statement/0/Action"),
            ["elasticfilesystem:ClientMount"],
        ),
    ),
    (
        "flow-logs-anywhere",
        (
            access.rule_21_wide_rights_have_reasons,
            access.rule_21_roles_have_a_boundary_that_leaves_what_they_need,
        ),
        put(of("FlowLogRole", "Policies/0/PolicyDocument/Statement/0/Resource", "vpc"), "*"),
    ),
    # ---- watch
    (
        "filter-of-another-line",
        watch.rule_13_status_lines_become_metrics,
        put(of("RefusedMetric", "FilterPattern"), "{ $.refused_requests = * }"),
    ),
    (
        "all-is-well-by-default",
        watch.rule_13_status_lines_become_metrics,
        new(of("OutboxMetric", "MetricTransformations/0/DefaultValue"), 0),
    ),
    (
        "silence-is-fine",
        watch.rule_13_alarms_are_red_when_the_table_says,
        put(of("OutboxAlarm", "TreatMissingData"), "notBreaching"),
    ),
    (
        "alarm-on-a-metric-of-nobody",
        watch.rule_13_alarms_are_on_what_there_is,
        put(of("ArchiveLagAlarm", "MetricName"), "ArchiveLagRows"),
    ),
    *((f"without-{name}", watch.rule_13_each_alarm_is_there, drop(f"bridge/Resources/{name}")) for name in ALARMS),
    (
        "alarm-without-balancer",
        watch.rule_13_each_alarm_is_there,
        drop(of("UnhealthyTargetsAlarm", "Dimensions/Name=LoadBalancer")),
    ),
    (
        "broker-undoes-a-deployment",
        watch.rule_18_only_errors_of_ingest_roll_back,
        new(
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
        "update-watches-the-disk",
        watch.rule_18_only_errors_of_ingest_roll_back,
        put(B + "Outputs/Ingest5xxAlarmArn/Value", {"Fn::GetAtt": ["DiskAlarm", "Arn"]}),
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
