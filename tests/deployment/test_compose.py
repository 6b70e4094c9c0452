"""compose.yaml keeps its rules, and every rule sees the mistakes that it is there for."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import compose_rules as rules
import pytest
import yaml
from compose_rules import RULES, Rule, load

from compose import plugin
from kafka_webhook_bridge import __version__
from kafka_webhook_bridge.settings import load_settings
from kafka_webhook_bridge.sources.config import load_sources


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_compose_yaml_keeps_its_rules(rule: Rule) -> None:
    assert list(rule(load())) == []


def put(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """A mutation: `a.b.c` becomes the value."""

    def mutate(compose: dict[str, Any]) -> None:
        *way, last = path.split("/")
        for part in way:
            compose = compose[part]
        assert compose.get(last) != value, "this mutant is the file itself"
        compose[last] = value

    return mutate


def drop(path: str) -> Callable[[dict[str, Any]], None]:
    def mutate(compose: dict[str, Any]) -> None:
        *way, last = path.split("/")
        for part in way:
            compose = compose[part]
        del compose[last]

    return mutate


S = "services/"
E = "environment/"
MUTANTS: list[tuple[Rule, Callable[[dict[str, Any]], None]]] = [
    (rules.only_nginx_publishes_443_and_29095, put(S + "ingest/ports", ["8080:8080"])),
    (rules.only_nginx_publishes_443_and_29095, put(S + "kafka/ports", ["127.0.0.1:9096:9096"])),
    (rules.only_nginx_publishes_443_and_29095, put(S + "nginx/ports", ["443:443", "29095:29095"])),
    (rules.only_nginx_publishes_443_and_29095, put(S + "worker/network_mode", "host")),
    (rules.only_nginx_publishes_443_and_29095, drop(S + "tls/network_mode")),
    (rules.everybody_is_in_its_networks_alone, put(S + "postgres/networks", ["front", "back"])),
    (rules.everybody_is_in_its_networks_alone, put(S + "kafka/networks", ["outside", "front", "back"])),
    (rules.everybody_is_in_its_networks_alone, put("networks/back", {})),
    (rules.everybody_is_in_its_networks_alone, put("networks/front", {"internal": False})),
    (rules.everybody_is_in_its_networks_alone, drop(S + "worker/networks")),
    (rules.everybody_is_in_its_networks_alone, put(S + "nginx/networks/outside", {"aliases": ["kafka.x"]})),
    (rules.everybody_is_in_its_networks_alone, put(S + "nginx/networks/front", {})),
    (rules.long_running_services_are_watched_and_bounded, drop(S + "worker/healthcheck")),
    (rules.long_running_services_are_watched_and_bounded, put(S + "kafka/healthcheck/test", ["CMD-SHELL", "true"])),
    (rules.long_running_services_are_watched_and_bounded, put(S + "kafka/healthcheck/start_interval", "1s")),
    (rules.long_running_services_are_watched_and_bounded, put(S + "postgres/restart", "no")),
    (rules.long_running_services_are_watched_and_bounded, put(S + "migrate/restart", "unless-stopped")),
    (rules.long_running_services_are_watched_and_bounded, drop(S + "console/deploy/resources/limits/memory")),
    (rules.long_running_services_are_watched_and_bounded, drop(S + "nginx/deploy/resources/limits/pids")),
    (rules.long_running_services_are_watched_and_bounded, drop(S + "ingest/logging")),
    (rules.long_running_services_are_watched_and_bounded, drop(S + "kafka/logging/options/max-size")),
    (rules.long_running_services_are_watched_and_bounded, drop(S + "kafka/stop_grace_period")),
    (rules.nobody_has_more_rights_than_it_needs, drop(S + "kafka/security_opt")),
    (rules.nobody_has_more_rights_than_it_needs, drop(S + "postgres/cap_drop")),
    (rules.nobody_has_more_rights_than_it_needs, put(S + "postgres/cap_add", ["DAC_READ_SEARCH"])),
    (rules.nobody_has_more_rights_than_it_needs, put(S + "nginx/privileged", True)),
    (rules.nobody_has_more_rights_than_it_needs, put(S + "ingest/user", "root")),
    (rules.nobody_has_more_rights_than_it_needs, drop(S + "nginx/user")),
    (rules.the_bridge_and_nginx_cannot_write, drop(S + "ingest/read_only")),
    (rules.the_bridge_and_nginx_cannot_write, put(S + "console/tmpfs", ["/tmp"])),
    (rules.every_mount_is_known, put(S + "postgres/volumes", ["postgres:/var/lib/postgresql/data"])),
    (rules.every_mount_is_known, put(S + "ingest/volumes", ["./deploy/compose/bridge:/etc/kwb"])),
    (rules.every_mount_is_known, put(S + "worker/volumes", ["/var/run/docker.sock:/var/run/docker.sock"])),
    (rules.every_mount_is_known, put(S + "nginx/volumes", ["authority:/authority:ro"])),
    (rules.every_mount_is_known, put(S + "tls/volumes", ["./.kwb/compose:/tls", "authority:/authority"])),
    (rules.every_mount_is_known, drop("volumes/kafka")),
    (rules.every_mount_is_known, drop(S + "kafka/tmpfs")),
    (rules.secrets_are_files_and_only_where_used, put("secrets/kafka_password", {"environment": "KAFKA_PASSWORD"})),
    (rules.secrets_are_files_and_only_where_used, put(S + "nginx/secrets", ["webhook_password"])),
    (rules.secrets_are_files_and_only_where_used, put(S + "migrate/secrets", [])),
    (rules.secrets_are_files_and_only_where_used, put(S + "worker/" + E + "KAFKA_PASSWORD", "bridge")),
    (rules.secrets_are_files_and_only_where_used, put(S + "postgres/" + E + "POSTGRES_PASSWORD", "postgres")),
    (
        rules.secrets_are_files_and_only_where_used,
        put(S + "migrate/" + E + "DATABASE_URL", "postgresql://kwb@postgres"),
    ),
    (rules.secrets_are_files_and_only_where_used, put(S + "worker/command", ["serve", "--password=x"])),
    (rules.every_variable_is_in_env, put(S + "worker/" + E + "KAFKA_PASSWORD", "${KAFKA_PASSWORD:-bridge}")),
    (rules.every_variable_is_in_env, put(S + "worker/" + E + "WEBHOOK_USERNAME", "${WEBHOOK_USERNAME:-webhook}")),
    (rules.every_variable_is_in_env, put(S + "worker/" + E + "ENVIRONMENT", "${STAGE:-local}")),
    (rules.every_variable_is_in_env, put(S + "worker/" + E + "ENVIRONMENT", "${ENVIRONMENT}")),
    (rules.every_variable_is_in_env, put(S + "nginx/ports", ["443:443", "29095:29095"])),
    (rules.images_are_official_exact_and_not_old, put(S + "nginx/image", "nginx:latest")),
    (rules.images_are_official_exact_and_not_old, put(S + "nginx/image", "nginx:1.30.6")),
    (rules.images_are_official_exact_and_not_old, put(S + "kafka/image", "apache/kafka:4.3.1")),
    (rules.images_are_official_exact_and_not_old, put(S + "kafka/image", "somebody/kafka:4.4.0")),
    (rules.images_are_official_exact_and_not_old, put(S + "postgres/image", "postgres:17.6")),
    (rules.images_are_official_exact_and_not_old, put(S + "kafka/platform", "linux/amd64")),
    (rules.images_are_official_exact_and_not_old, put(S + "worker/image", "kafka-webhook-bridge:other")),
    (rules.images_are_official_exact_and_not_old, drop(S + "worker/build/target")),
    (rules.services_wait_for_each_other, put(S + "ingest/depends_on/migrate/condition", "service_started")),
    (rules.services_wait_for_each_other, put(S + "nginx/depends_on/console/condition", "service_healthy")),
    (rules.services_wait_for_each_other, drop(S + "migrate/depends_on")),
    (rules.nginx_gets_every_variable_of_its_template, drop(S + "nginx/" + E + "EDGE_CONSOLE")),
    (rules.nginx_gets_every_variable_of_its_template, put(S + "nginx/" + E + "EDGE_OTHER", "x")),
    (rules.nginx_gets_every_variable_of_its_template, drop(S + "nginx/" + E + "NGINX_ENVSUBST_FILTER")),
    (rules.nginx_gets_every_variable_of_its_template, put(S + "nginx/" + E + "EDGE_INGEST", "postgres:8080")),
    (rules.the_settings_of_the_bridge_load, put(S + "ingest/" + E + "KWB_INGEST_HOSTS", "0.0.0.0")),
    (rules.the_settings_of_the_bridge_load, put(S + "worker/" + E + "KAFKA_USER", "bridge")),
    (rules.the_settings_of_the_bridge_load, put(S + "ingest/" + E + "KWB_KAFKA_SASL_MECHANISM", "NONE")),
    (rules.the_settings_of_the_bridge_load, put(S + "ingest/" + E + "KWB_MANAGEMENT_HOST", "0.0.0.0")),
    (rules.the_settings_of_the_bridge_load, drop(S + "console/" + E + "KWB_MANAGEMENT_HOST")),
    (rules.the_settings_of_the_bridge_load, drop(S + "ingest/" + E + "KWB_INGEST_HOST")),
    (rules.the_domain_is_that_of_env_everywhere, put(S + "nginx/" + E + "EDGE_DOMAIN", "localtest.me")),
    (rules.the_domain_is_that_of_env_everywhere, put(S + "ingest/" + E + "DOMAIN_NAME", "${DOMAIN_NAME:-localhost}")),
    (rules.the_domain_is_that_of_env_everywhere, drop(S + "worker/" + E + "DOMAIN_NAME")),
    (rules.doctor_finds_the_ca_that_snippets_name, drop(S + "worker/working_dir")),
    (rules.doctor_finds_the_ca_that_snippets_name, put(S + "worker/volumes", ["./deploy/compose/bridge:/etc/kwb:ro"])),
    (rules.doctor_finds_the_ca_that_snippets_name, put(S + "worker/" + E + "KWB_KAFKA_EXTERNAL_CA", "ca.pem")),
    (rules.the_image_says_its_version, put(S + "worker/build/args", {"VERSION": "${VERSION:-}"})),
    (rules.servers_are_started_with_what_protects_them, drop(S + "nginx/ulimits")),
    (rules.servers_are_started_with_what_protects_them, put(S + "nginx/ulimits", {"nofile": 1024})),
    (
        rules.servers_are_started_with_what_protects_them,
        put(S + "kafka/" + E + "KAFKA_CONFIG_PROVIDERS_SECRETS_PARAM_ALLOWED_PATHS", "/"),
    ),
    (rules.servers_are_started_with_what_protects_them, put(S + "kafka/" + E + "KAFKA_OPTS", "-Dx=y")),
    (
        rules.servers_are_started_with_what_protects_them,
        put(S + "kafka/healthcheck/test", ["CMD", "bash", "-c", "</dev/tcp/127.0.0.1/9094"]),
    ),
    (
        rules.servers_are_started_with_what_protects_them,
        put(S + "postgres/" + E + "POSTGRES_INITDB_ARGS", "--auth-host=trust --encoding=UTF8 --data-checksums"),
    ),
    (
        rules.servers_are_started_with_what_protects_them,
        put(S + "postgres/" + E + "POSTGRES_INITDB_ARGS", "--encoding=UTF8 --data-checksums"),
    ),
    (rules.nginx_gets_every_variable_of_its_template, put(S + "nginx/" + E + "EDGE_KAFKA", "kafka:9096")),
]


@pytest.mark.parametrize(
    ("rule", "mutate"), MUTANTS, ids=[f"{number}-{rule.__name__}" for number, (rule, _) in enumerate(MUTANTS)]
)
def test_each_rule_sees_what_it_is_there_for(rule: Rule, mutate: Callable[[dict[str, Any]], None]) -> None:
    mutant = load()
    mutate(mutant)
    assert list(rule(mutant)) != []


def test_every_rule_has_a_mutant() -> None:
    assert {rule for rule, _ in MUTANTS} == set(RULES)


def test_an_image_of_plain_docker_build_says_its_version() -> None:
    assert f'ARG VERSION="{__version__}"\n' in (rules.ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_nothing_but_yaml_is_needed_to_read_it() -> None:
    """No tag of Compose's own such as !reset, so that other tools read the same."""
    plain = yaml.safe_load((rules.ROOT / "compose.yaml").read_text())
    assert set(plain["services"]) == rules.BRIDGE | rules.LONG_RUNNING


def test_the_committed_bridge_yaml_is_accepted(tmp_path: Path) -> None:
    given = load()["services"]["ingest"]["environment"].items()
    environment = {name: rules.replaced(str(value), rules.SAMPLE) for name, value in given}
    environment = {name: value for name, value in environment.items() if not value.startswith("file:")}
    environment |= {
        "KWB_CONFIG": str(rules.ROOT / "deploy/compose/bridge/bridge.yaml"), "WEBHOOK_PASSWORD": "word",
        "KAFKA_PASSWORD": "word", "DATABASE_URL": "postgresql://kwb:word@postgres/kwb",
    }  # fmt: skip
    table = load_sources(load_settings(environment))
    assert table.trusted_proxies, "nginx is another container"


def test_docker_compose_reads_it_without_a_warning(tmp_path: Path) -> None:
    env = tmp_path / "env"
    env.write_text("".join(f"{name}={value}\n" for name, value in rules.SAMPLE.items()))
    done = read(rules.ROOT, env)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert set(found["services"]) == set(load()["services"])
    assert found["services"]["ingest"]["environment"]["DOMAIN_NAME"] == "hooks.example"
    done = read(rules.ROOT, Path("/dev/null"))
    assert done.returncode != 0
    assert "run 'make env' first" in done.stderr


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("    imag: x", "imag"),
        ("    image: x\n    volumes: ['kafka:/x']", "kafka"),
        ("    image: x\n    command: ['${NOBODY}']", "NOBODY"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, line: str, words: str) -> None:
    """A key that there is not, a volume that there is not, a variable that is not set: so the test above can fail."""
    (tmp_path / "compose.yaml").write_text(f"name: x\nservices:\n  one:\n{line}\n")
    assert words in read(tmp_path, Path("/dev/null")).stderr


def read(folder: Path, env: Path) -> subprocess.CompletedProcess[str]:
    try:
        return plugin.config(folder, env)
    except RuntimeError as error:
        pytest.skip(f"NOT RUN: {error}")
