"""Slips in what runs: tasks, containers, the broker."""

from __future__ import annotations

from rules import kafka, settings, tasks, watch

from mutants import Mutant, add, both, container, drop, new, of, put, ref, sub, variable

B = "bridge/"

MUTANTS: list[Mutant] = [
    (
        "scales-something-else",
        tasks.rule_11_only_ingest_scales,
        put(of("IngestScaling", "ScalableDimension"), "ecs:service:Tasks"),
    ),
    # ---- tasks
    ("stop-after-300", tasks.tasks_stop_in_time, put(container("KafkaTask", "StopTimeout"), 300)),
    (
        "no-execution-role",
        tasks.every_task_names_its_roles_and_families,
        drop(of("IngestTask", "ExecutionRoleArn")),
    ),
    (
        "configuration-without-version",
        tasks.rule_2_configuration_comes_from_two_secrets,
        put(container("IngestTask", "Secrets/Name=KWB_CONFIG/ValueFrom"), sub("${ConfigSecret}:::x${ConfigVersion}")),
    ),
    (
        "sources-do-not-roll-out",
        (tasks.rule_2_a_new_configuration_starts_new_tasks, tasks.rule_2_configuration_comes_from_two_secrets),
        put(container("WorkerTask", "Secrets/Name=KWB_SECRETS_JSON/ValueFrom", 1), ref("SourcesSecret")),
    ),
    (
        "kafka-follows-the-configuration",
        tasks.rule_2_a_new_configuration_starts_new_tasks,
        new(of("KafkaTask", "Tags"), [{"Key": "Configuration", "Value": ref("ConfigVersion")}]),
    ),
    (
        "admin-in-another-group",
        tasks.rule_3_the_admin_task_stands_where_the_worker_does,
        put(container("AdminTask", "Environment/Name=KWB_USERS_SECRET_PREFIX/Value"), sub("${Environment}-users/")),
    ),
    (
        "kafka-follows-the-bridge",
        tasks.rule_4_a_new_bridge_leaves_kafka_alone,
        new(of("KafkaTask", "Tags"), [{"Key": "Bridge", "Value": ref("BridgeImage")}]),
    ),
    (
        "guard-follows-the-bridge",
        tasks.rule_4_a_new_bridge_leaves_kafka_alone,
        new(container("KafkaTask", "DockerLabels", 1), {"bridge": ref("BridgeImage")}),
    ),
    (
        "guard-of-another-image",
        tasks.rule_4_tasks_run_the_images_and_processors_that_were_asked_for,
        put(container("KafkaTask", "Image", 1), sub("${GuardImage}-x")),
    ),
    (
        "always-x86",
        tasks.rule_4_tasks_run_the_images_and_processors_that_were_asked_for,
        put(of("ConsoleTask", "RuntimePlatform/CpuArchitecture"), "ARM64"),
    ),
    (
        "plain-everywhere",
        tasks.rule_6_the_bridge_logs_in_as_the_cluster_asks,
        put(container("WorkerTask", "Environment/Name=KWB_KAFKA_SECURITY_PROTOCOL/Value", 1), "SASL_PLAINTEXT"),
    ),
    (
        "ingest-without-certificate",
        tasks.rule_9_ingest_makes_its_own_certificate,
        drop(container("IngestTask", "Environment/Name=KWB_INGEST_TLS_CERT")),
    ),
    (
        "no-such-size",
        tasks.rule_11_tasks_have_their_sizes,
        put(of("AdminTask", "Memory"), "6144"),
    ),
    ("half-the-memory", tasks.rule_11_tasks_have_their_sizes, put(of("KafkaTask", "Memory"), "2048")),
    ("count-set-back", tasks.rule_11_only_ingest_scales, new(of("IngestService", "DesiredCount"), 2)),
    (
        "scaled-at-3000",
        tasks.rule_11_only_ingest_scales,
        put(of("IngestScalingByRequests", "TargetTrackingScalingPolicyConfiguration/TargetValue"), 3000),
    ),
    (
        "encrypted-to-anybody",
        tasks.rule_12_the_database_is_verified,
        put(
            container("ConsoleTask", "Environment/Name=DATABASE_URL/Value"),
            sub("postgresql://bridge@${Database.Endpoint.Address}:5432/bridge?sslmode=require"),
        ),
    ),
    (
        "secret-by-name",
        tasks.rule_21_secrets_are_named_by_what_ecs_understands,
        put(container("IngestTask", "Secrets/Name=WEBHOOK_PASSWORD/ValueFrom"), sub("${WebhookSecret}:secret::")),
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
        new(container("IngestTask", "LinuxParameters/Tmpfs"), [{"ContainerPath": "/tmp", "Size": 64}]),
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
        add(container("IngestTask", "Environment"), variable("ENVIRONMENT", ref("Environment"))),
    ),
    (
        "password-in-environment",
        tasks.secrets_reach_nobody_else,
        add(container("IngestTask", "Environment"), variable("CONSOLE_PASSWORD", ref("KafkaPassword"))),
    ),
    (
        "password-in-output",
        tasks.secrets_reach_nobody_else,
        new(B + "Outputs/Slip", {"Description": "Slip.", "Value": sub("{{resolve:secretsmanager:${WebhookSecret}}}")}),
    ),
    (
        "password-in-metadata",
        tasks.secrets_reach_nobody_else,
        new(B + "Resources/Cluster/Metadata", {"Note": ref("WebhookPassword")}),
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
    # ---- kafka
    (
        "data-end-with-the-task",
        kafka.rule_5_the_broker_suits_its_file_system,
        put(container("KafkaTask", "MountPoints/0/ContainerPath"), "/var/lib/kafka/other"),
    ),
    (
        "session-too-short-for-nfs",
        kafka.rule_5_the_broker_suits_its_file_system,
        add(container("KafkaTask", "Environment"), variable("KAFKA_BROKER_SESSION_TIMEOUT_MS", "3000")),
    ),
    (
        "topics-outlive-their-disk",
        kafka.rule_5_topics_of_the_bridge_go_when_the_brokers_would,
        drop(container("WorkerTask", "Environment/8", 1)),  # the one beside KWB_BRIDGE_OWN_BROKER
    ),
    (
        "topics-appear-by-themselves",
        kafka.rule_5_the_broker_is_otherwise_that_of_compose,
        put(container("KafkaTask", "Environment/Name=KAFKA_AUTO_CREATE_TOPICS_ENABLE/Value"), "true"),
    ),
    (
        "controller-off-loopback",
        kafka.rule_5_names_lead_to_the_listeners,
        put(
            container("KafkaTask", "Environment/Name=KAFKA_LISTENERS/Value"),
            "CONTROLLER://:9093,INTERNAL://0.0.0.0:9094,BROKER://0.0.0.0:9095,PROXY://127.0.0.1:9097",
        ),
    ),
    (
        "past-the-guard",
        kafka.rule_5_names_lead_to_the_listeners,
        put(
            container("KafkaTask", "Environment/Name=KAFKA_LISTENERS/Value"),
            "CONTROLLER://127.0.0.1:9093,INTERNAL://0.0.0.0:9094,BROKER://0.0.0.0:9095,PROXY://0.0.0.0:9097",
        ),
    ),
    (
        "guard-of-the-bridges-own-listener",
        kafka.outsiders_reach_the_broker_through_its_guard_alone,
        put(container("KafkaTask", "Command/4", 1), "127.0.0.1:9094"),
    ),
    (
        "healthy-without-a-broker",
        kafka.outsiders_reach_the_broker_through_its_guard_alone,
        put(container("KafkaTask", "DependsOn/0/Condition", 1), "START"),
    ),
    (
        "guard-takes-the-broker-along",
        kafka.outsiders_reach_the_broker_through_its_guard_alone,
        drop(container("KafkaTask", "RestartPolicy", 1)),
    ),
    (
        "broker-without-a-share",
        kafka.outsiders_reach_the_broker_through_its_guard_alone,
        drop(container("KafkaTask", "Cpu")),
    ),
    (
        "guard-takes-the-brokers-memory",
        kafka.outsiders_reach_the_broker_through_its_guard_alone,
        drop(container("KafkaTask", "Memory", 1)),
    ),
    (
        "advertised-by-the-name-of-aws",
        kafka.rule_5_names_lead_to_the_listeners,
        put(
            container("KafkaTask", "Environment/Name=KAFKA_ADVERTISED_LISTENERS/Value"),
            sub(
                "INTERNAL://kafka.${Environment}-webhooks.internal:9094,"
                "BROKER://kafka.${Environment}-webhooks.internal:9095,PROXY://${Nlb.DNSName}:${KafkaExternalPort}"
            ),
        ),
    ),
    (
        "every-user-is-super",
        kafka.rule_7_one_super_user_and_scram_outside,
        put(
            container("KafkaTask", "Environment/Name=KAFKA_SUPER_USERS/Value"), "User:bridge;User:admin;User:ANONYMOUS"
        ),
    ),
    (
        "whole-environment-readable",
        kafka.rule_7_one_super_user_and_scram_outside,
        put(
            container("KafkaTask", "Environment/Name=KAFKA_CONFIG_PROVIDERS_SECRETS_PARAM_ALLOWLIST_PATTERN/Value"),
            ".*",
        ),
    ),
    # ---- settings
    (
        "field-of-nobody",
        settings.rule_13_filters_read_what_each_role_writes,
        both(
            put(of("AtRiskMetric", "FilterPattern"), '{ $.event = "status" && $.at_risk = * }'),
            put(of("AtRiskMetric", "MetricTransformations/0/MetricValue"), "$.at_risk"),
        ),
    ),
    (
        "largest-of-what-is-new",
        watch.rule_13_alarms_are_red_when_the_table_says,
        put(of("RefusedAlarm", "Statistic"), "Maximum"),
    ),
    (
        "setting-of-nobody",
        settings.every_variable_is_a_setting_that_fits,
        add(container("WorkerTask", "Environment", 1), variable("KAFKA_USER", "bridge")),
    ),
    (
        "console-for-nobody",
        settings.every_variable_is_a_setting_that_fits,
        drop(container("ConsoleTask", "Environment/Name=KWB_MANAGEMENT_HOST")),
    ),
]
