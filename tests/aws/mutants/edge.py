"""Slips at the edge: security groups, the VPC, the load balancers."""

from __future__ import annotations

from rules import access, doors, network

from mutants import Mutant, both, drop, ingress, new, of, put, ref

B = "bridge/"

WAYS_IN = (
    "IngestFromAlb", "ConsoleFromAlb", "KafkaFromNlb", "KafkaFromIngest", "KafkaFromWorker", "KafkaFromConsole",
    "KafkaFromKafka", "DatabaseFromIngest", "DatabaseFromWorker", "DatabaseFromConsole", "FileSystemFromKafka",
)  # fmt: skip

MUTANTS: list[Mutant] = [
    # ---- network
    (
        "anybody-in-9094",
        network.rule_1_groups_let_in_what_the_table_says,
        new(B + "Resources/Slip", ingress("KafkaSecurityGroup", "0.0.0.0/0", 9094, Condition="SingleKafka")),
    ),
    (
        "controller-open",
        network.rule_1_groups_let_in_what_the_table_says,
        new(
            B + "Resources/Slip",
            ingress("KafkaSecurityGroup", ref("IngestSecurityGroup"), 9093, Condition="SingleKafka"),
        ),
    ),
    (
        "without-DatabaseFromWorker",
        network.rule_1_groups_let_in_what_the_table_says,
        drop(B + "Resources/DatabaseFromWorker"),
    ),
    *(
        (f"wider-{name}", network.rule_1_groups_let_in_what_the_table_says, put(of(name, "FromPort"), 1024))
        for name in WAYS_IN
    ),
    (
        "kafka-for-the-world",
        network.rule_1_groups_let_in_what_the_table_says,
        new(B + "Resources/Slip", ingress("NlbSecurityGroup", "0.0.0.0/0", 29095, Condition="SingleKafka")),
    ),
    (
        "egress-left-to-aws",
        network.rule_1_groups_let_out_what_the_table_says,
        drop(of("DatabaseSecurityGroup", "SecurityGroupEgress")),
    ),
    (
        "alb-not-let-out",
        network.rule_1_groups_let_out_what_the_table_says,
        drop(of("AlbSecurityGroup", "SecurityGroupEgress/0")),
    ),
    (
        "broker-cut-from-its-files",
        network.rule_1_groups_let_out_what_the_table_says,
        drop(of("KafkaSecurityGroup", "SecurityGroupEgress/1")),
    ),
    (
        "cut-from-aws",
        network.rule_1_groups_let_out_what_the_table_says,
        drop(of("IngestSecurityGroup", "SecurityGroupEgress/0")),
    ),
    (
        "cut-from-the-cluster",
        network.rule_1_groups_let_out_what_the_table_says,
        put(of("IngestSecurityGroup", "SecurityGroupEgress/2/Fn::If/2/FromPort"), 9443),
    ),
    (
        "mount-target-in-the-default-group",
        network.rule_1_everything_with_an_address_has_a_group,
        drop(of("MountTarget2", "SecurityGroups")),
    ),
    (
        "endpoint-in-the-default-group",
        network.rule_1_everything_with_an_address_has_a_group,
        drop(of("LogsEndpoint", "SecurityGroupIds", "vpc")),
    ),
    (
        "route-before-the-internet",
        network.rule_1_private_subnets_leave_through_nat_alone,
        drop("vpc/Resources/PublicDefaultRoute/DependsOn"),
    ),
    (
        "flow-log-may-not-write",
        (network.refused_connections_are_logged, access.rule_21_the_boundary_leaves_no_more),
        drop(of("FlowLogRole", "Policies", "vpc")),
    ),
    (
        "refused-connections-unseen",
        network.refused_connections_are_logged,
        put(of("FlowLog", "TrafficType", "vpc"), "ACCEPT"),
    ),
    (
        "database-in-the-default-vpc",
        network.network_interfaces_are_private_but_the_balancers,
        drop(of("Database", "DBSubnetGroupName")),
    ),
    (
        "worker-on-a-host",
        network.rule_1_everything_runs_on_fargate,
        put(of("WorkerService", "LaunchType"), "EC2"),
    ),
    (
        "name-of-no-broker",
        network.rule_1_external_mode_has_no_broker_parts,
        both(
            drop(B + "Resources/KafkaDiscovery/Condition"),
            put(
                of("KafkaDiscovery", "NamespaceId"),
                {"Fn::If": ["SingleKafka", ref("Namespace"), "ns-0a1b2c3d4e5f6071"]},
            ),
        ),
    ),
    (
        "groups-not-told",
        network.rule_1_external_mode_has_no_broker_parts,
        put(B + "Outputs/BridgeSecurityGroupIds/Value", ref("IngestSecurityGroup")),
    ),
    (
        "logs-without-a-way",
        network.rule_1_without_nat_the_endpoints_lead_out,
        drop("vpc/Resources/LogsEndpoint"),
    ),
    (
        "layers-without-a-way",
        network.rule_1_without_nat_the_endpoints_lead_out,
        put(of("S3Endpoint", "RouteTableIds", "vpc"), [ref("PrivateRoutes1")]),
    ),
    (
        "private-subnet-in-public",
        network.rule_1_private_subnets_leave_through_nat_alone,
        both(
            drop(of("PrivateDefaultRoute1", "NatGatewayId", "vpc")),
            new(of("PrivateDefaultRoute1", "GatewayId", "vpc"), ref("InternetGateway")),
        ),
    ),
    (
        "one-zone",
        network.rule_1_private_subnets_leave_through_nat_alone,
        put(of("PrivateSubnet2", "AvailabilityZone", "vpc"), {"Fn::Select": [0, {"Fn::GetAZs": ""}]}),
    ),
    (
        "balancer-inside",
        network.network_interfaces_are_private_but_the_balancers,
        put(of("WorkerService", "NetworkConfiguration/AwsvpcConfiguration/AssignPublicIp"), "ENABLED"),
    ),
    # ---- doors
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
        put(of("ConsoleTargetGroup", "Protocol"), "TCP"),
    ),
    (
        "container-of-no-task",
        doors.balancers_send_to_a_port_that_listens,
        put(of("IngestService", "LoadBalancers/0/ContainerName"), "webhook"),
    ),
    (
        "grace-without-a-judge",
        doors.balancers_send_to_a_port_that_listens,
        new(of("WorkerService", "HealthCheckGracePeriodSeconds"), 60),
    ),
    (
        "port-of-nobody",
        doors.balancers_send_to_a_port_that_listens,
        put(of("IngestService", "LoadBalancers/0/ContainerPort"), 8090),
    ),
    (
        "targets-are-instances",
        doors.listeners_forward_to_what_understands_them,
        put(of("KafkaTargetGroup", "TargetType"), "instance"),
    ),
    (
        "console-for-everybody",
        doors.rule_8_each_request_gets_its_answer,
        drop(of("ConsoleRule", "Conditions/1")),
    ),
    (
        "health-before-nothing",
        doors.rule_8_each_request_gets_its_answer,
        put(of("HealthRule", "Priority"), 50),
    ),
    (
        "any-host-is-webhooks",
        doors.rule_8_each_request_gets_its_answer,
        put(of("HttpsListener", "DefaultActions"), [{"Type": "forward", "TargetGroupArn": ref("IngestTargetGroup")}]),
    ),
    (
        "console-not-in-certificate",
        doors.rule_8_the_certificate_holds_every_name,
        both(
            drop(of("Certificate", "SubjectAlternativeNames/1")),
            drop(of("Certificate", "DomainValidationOptions/2")),
        ),
    ),
    ("policy-left-to-aws", doors.rule_9_both_doors_speak_modern_tls, drop(of("HttpsListener", "SslPolicy"))),
    (
        "policy-with-old-ciphers",
        doors.rule_9_both_doors_speak_modern_tls,
        put(of("KafkaListener", "SslPolicy"), "ELBSecurityPolicy-TLS13-1-2-2021-06"),
    ),
    (
        "http-to-ingest",
        doors.rule_9_the_balancer_speaks_https_to_ingest,
        both(
            put(of("IngestTargetGroup", "Protocol"), "HTTP"),
            put(of("IngestTargetGroup", "HealthCheckProtocol"), "HTTP"),
        ),
    ),
    (
        "health-asked-without-tls",
        doors.rule_9_the_balancer_speaks_https_to_ingest,
        drop(of("IngestTargetGroup", "HealthCheckProtocol")),
    ),
    (
        "idle-for-two-minutes",
        doors.the_balancer_hangs_up_first,
        put(of("Alb", "LoadBalancerAttributes/Key=idle_timeout.timeout_seconds/Value"), "120"),
    ),
    (
        "headers-dropped",
        doors.rule_9_headers_reach_ingest_as_they_came,
        put(
            of("Alb", "LoadBalancerAttributes/Key=routing.http.drop_invalid_header_fields.enabled/Value"),
            "true",
        ),
    ),
    (
        "client-addresses-kept",
        doors.the_guard_is_told_for_whom,
        drop(of("KafkaTargetGroup", "TargetGroupAttributes/Key=preserve_client_ip.enabled")),
    ),
    (
        "no-proxy-header",
        doors.the_guard_is_told_for_whom,
        drop(of("KafkaTargetGroup", "TargetGroupAttributes/Key=proxy_protocol_v2.enabled")),
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
        "ready-instead-of-live",
        doors.health_is_whether_a_process_answers,
        put(of("IngestTargetGroup", "HealthCheckPath"), "/health/ready"),
    ),
    (
        "logs-before-their-policy",
        doors.balancers_write_their_logs,
        drop(B + "Resources/Nlb/DependsOn"),
    ),
]
