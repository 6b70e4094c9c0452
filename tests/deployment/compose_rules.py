"""What compose.yaml must be, as rules over the parsed file. Each yields a sentence for each thing that is not so."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from kafka_webhook_bridge.settings import check_settings, rows

ROOT = Path(__file__).parents[2]
Compose = dict[str, Any]
Rule = Callable[[Compose], Iterator[str]]

BRIDGE = {"tls", "guard", "ingest", "worker", "console", "migrate"}
ONE_SHOT = {"tls", "migrate"}
LONG_RUNNING = {"nginx", "guard", "ingest", "worker", "console", "kafka", "postgres"}
PORTS = {
    "nginx": ["${KWB_BIND:-127.0.0.1}:${HTTPS_PORT:-443}:443", "${KWB_BIND:-127.0.0.1}:29095:29095"],
}
NETWORKS = {
    "tls": set(),
    "nginx": {"outside", "front"},
    "guard": {"front"},
    "ingest": {"front", "back"},
    "worker": {"front", "back"},
    "console": {"front", "back"},
    "migrate": {"back"},
    "kafka": {"front", "back"},
    "postgres": {"back"},
}
INTERNAL = {"outside": False, "front": True, "back": True}
DEPENDS = {
    "tls": {},
    "nginx": {"tls": "completed_successfully", "ingest": "healthy", "guard": "healthy", "console": "started"},
    "guard": {"kafka": "healthy"},
    "ingest": {"migrate": "completed_successfully", "kafka": "healthy"},
    "worker": {"migrate": "completed_successfully", "kafka": "healthy"},
    "console": {"migrate": "completed_successfully"},
    "migrate": {"postgres": "healthy"},
    "kafka": {},
    "postgres": {},
}
MOUNTS = {
    "tls": {"./.kwb/compose/ca:/tls", "./.kwb/compose/tls:/tls/tls", "authority:/authority"},
    "nginx": {"./deploy/nginx:/etc/nginx/templates:ro", "./.kwb/compose/tls:/etc/nginx/tls:ro"},
    "guard": set(),
    "ingest": {"./deploy/compose/bridge:/etc/kwb:ro"},
    "worker": {"./deploy/compose/bridge:/etc/kwb:ro", "./.kwb/compose/ca:/.kwb/compose:ro"},
    "console": {"./deploy/compose/bridge:/etc/kwb:ro"},
    "migrate": {"./deploy/compose/bridge:/etc/kwb:ro"},
    "kafka": {"kafka:/var/lib/kafka/data"},
    "postgres": {"postgres:/var/lib/postgresql", "./deploy/compose/postgres:/docker-entrypoint-initdb.d:ro"},
}
SECRETS = {
    "tls": set(),
    "nginx": set(),
    "guard": set(),
    "ingest": {"kafka_password", "database_url", "webhook_password"},
    "worker": {"kafka_password", "database_url", "webhook_password"},
    "console": {"kafka_password", "database_url", "webhook_password", "console_password"},
    "migrate": {"database_url"},
    "kafka": {"kafka_password"},
    "postgres": {"postgres_password", "database_password"},
}
# Below these are known holes; PostgreSQL's volume and data folder are those of 18.
FLOORS = {"nginx": (1, 30, 7), "apache/kafka": (4, 4, 0), "postgres": (18, 4)}
USERS = {
    **dict.fromkeys(BRIDGE - {"tls"}, "10001:10001"),
    **dict.fromkeys(("tls", "nginx"), "${HOST_UID:?run 'make env' first}:${HOST_GID:?run 'make env' first}"),
    "postgres": "postgres",
    "kafka": None,  # the image's own, appuser
}
OPTIONAL = {"ENVIRONMENT", "BRIDGE_IMAGE"}
VARIABLE = re.compile(r"\$\$|\$\{(\w+)(?:(:?[-?])([^}]*))?\}|\$(\w+)")


def load() -> Compose:
    """The file as it stands, its variables not replaced; nothing in it is shared."""
    found: Compose = json.loads(json.dumps(yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))))
    return found


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for one in value.values():
            yield from strings(one)
    elif isinstance(value, list):
        for one in value:
            yield from strings(one)
    elif isinstance(value, str):
        yield value


def replaced(text: str, values: Mapping[str, str]) -> str:
    """As Compose replaces variables. Raises KeyError for one that is needed and not given."""

    def one(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        name, how, word = found[1] or found[4], found[2] or "", found[3] or ""
        return values.get(name) or word if "?" not in how else values[name]

    return VARIABLE.sub(one, text)


def services(compose: Compose) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from compose["services"].items()


def only_nginx_publishes_443_and_29095(compose: Compose) -> Iterator[str]:
    for name, service in services(compose):
        if service.get("ports", []) != PORTS.get(name, []):
            yield f"{name} publishes {service.get('ports')}"
        if service.get("network_mode") not in ({None} if name != "tls" else {"none"}):
            yield f"{name}: network_mode {service.get('network_mode')}"


def everybody_is_in_its_networks_alone(compose: Compose) -> Iterator[str]:
    found = {name: bool((network or {}).get("internal")) for name, network in compose["networks"].items()}
    if found != INTERNAL:
        yield f"networks: {found}"
    for name, service in services(compose):
        if set(service.get("networks") or {}) != NETWORKS.get(name):
            yield f"{name} is in {service.get('networks')}"
    aliases = (compose["services"]["nginx"]["networks"]["outside"] or {}).get("aliases", [])
    if {alias.partition(".")[0] for alias in aliases} != {"webhooks", "kafka", "console"}:
        yield f"nginx is known outside as {aliases}"
    inside = (compose["services"]["nginx"]["networks"]["front"] or {}).get("aliases", [])
    if inside != ["kafka.${DOMAIN_NAME:-localtest.me}"]:
        yield f"nginx is known inside as {inside}"


def long_running_services_are_watched_and_bounded(compose: Compose) -> Iterator[str]:
    for name, service in services(compose):
        limits = service.get("deploy", {}).get("resources", {}).get("limits", {})
        if missing := {"cpus", "memory", "pids"} - limits.keys():
            yield f"{name} has no limit of {missing}"
        log = service.get("logging", {})
        if log.get("driver") != "json-file" or not {"max-size", "max-file"} <= log.get("options", {}).keys():
            yield f"{name}: its log grows for ever"
        check = service.get("healthcheck", {})
        if name in ONE_SHOT:
            if service.get("restart") != "no" or check != {"disable": True}:
                yield f"{name} is for once: no restart, no health check"
            continue
        if service.get("restart") != "unless-stopped":
            yield f"{name} stays down"
        times = {"interval", "timeout", "retries", "start_period"}
        if (check.get("test") or [""])[0] != "CMD" or not times <= check.keys():
            yield f"{name} has no health check without a shell, with times"
        if "start_interval" in check:
            yield f"{name}: start_interval is refused by engines before 25"
        if "stop_grace_period" not in service:
            yield f"{name} has no stop_grace_period"


def nobody_has_more_rights_than_it_needs(compose: Compose) -> Iterator[str]:
    for name, service in services(compose):
        if service.get("security_opt") != ["no-new-privileges:true"]:
            yield f"{name} may gain privileges"
        if service.get("cap_drop") != ["ALL"] or service.get("cap_add"):
            yield f"{name} has capabilities"
        for key in ("privileged", "pid", "ipc", "devices", "userns_mode", "extends", "env_file"):
            if service.get(key):
                yield f"{name}: {key}"
        if service.get("user") != USERS.get(name):
            yield f"{name} runs as {service.get('user')}"


def the_bridge_and_nginx_cannot_write(compose: Compose) -> Iterator[str]:
    for name in sorted(BRIDGE | {"nginx"}):
        service = compose["services"][name]
        if service.get("read_only") is not True:
            yield f"{name} may write its image"
        if service.get("tmpfs") != ["/tmp:size=64m,mode=1777"]:
            yield f"{name}: {service.get('tmpfs')}"


def every_mount_is_known(compose: Compose) -> Iterator[str]:
    if compose["volumes"] != {"authority": {}, "kafka": {}, "postgres": {}}:
        yield f"volumes: {compose['volumes']}"
    for name, service in services(compose):
        if set(service.get("volumes", [])) != MOUNTS.get(name):
            yield f"{name} mounts {service.get('volumes')}"
    if set(compose["services"]["kafka"].get("tmpfs", [])) != {"/etc/kafka/secrets", "/mnt/shared/config"}:
        yield "kafka: its image's other volumes are made without a name, again with every container"


def secrets_are_files_and_only_where_used(compose: Compose) -> Iterator[str]:
    for name, secret in compose["secrets"].items():
        if secret != {"file": f".kwb/compose/secrets/{name}"}:
            yield f"secret {name}: {secret}"
    for name, service in services(compose):
        granted = service.get("secrets", [])
        if sorted(granted) != sorted(SECRETS.get(name, set())):
            yield f"{name} may read {granted}"
        for variable, value in service.get("environment", {}).items():
            file = re.fullmatch(r"(?:file:)?/run/secrets/(\w+)", str(value))
            if re.search(r"PASSWORD(_FILE)?$|SECRET$|TOKEN$|DATABASE_URL$|_KEY$", variable) and not file:
                yield f"{name}: {variable} is not read from a secret's file"
            if file and file[1] not in granted:
                yield f"{name}: {variable} reads {file[1]}, which it is not given"
        for argument in strings(service.get("command", [])):
            if "password" in argument.lower():
                yield f"{name}: a password in its arguments"


def every_variable_is_in_env(compose: Compose) -> Iterator[str]:
    from compose_env import NAMES, PASSWORDS  # of tools/

    required = {"WEBHOOK_USERNAME", "CONSOLE_USERNAME", "HOST_UID", "HOST_GID"}
    seen = set()
    for text in strings(compose):
        for found in VARIABLE.finditer(text):
            name = found[1] or found[4]
            if name is None:
                continue
            seen.add(name)
            if name not in {*NAMES, *OPTIONAL}:
                yield f"{name} is not in .env"
            if name in PASSWORDS:
                yield f"{name} would be in the environment, for `docker inspect` to show"
            if name in required and found.group(2, 3) != (":?", "run 'make env' first"):
                yield f"{name} is needed, and its lack does not name make env"
            if name not in required and found[2] != ":-":
                yield f"{name} has no default"
    if lost := set(NAMES) - set(PASSWORDS) - seen:
        yield f"in .env, but not used: {sorted(lost)}"


def images_are_official_exact_and_not_old(compose: Compose) -> Iterator[str]:
    for name, service in services(compose):
        image = service.get("image", "")
        if name in BRIDGE:
            build = service["build"]
            if image != "${BRIDGE_IMAGE:-kafka-webhook-bridge:local}" or build["context"] != ".":
                yield f"{name}: {image}"
            if build.get("target") != "bridge":
                yield f"{name} is built with what AWS alone needs"
            continue
        match = re.fullmatch(r"([a-z/]+):(\d+(?:\.\d+)+)(@sha256:[0-9a-f]{64})?", image)
        if not match or match[1] not in FLOORS:
            yield f"{name}: {image} is no exact version of an image that is known"
        elif tuple(map(int, match[2].split("."))) < FLOORS[match[1]]:
            yield f"{name}: {image} has known holes"
        if "platform" in service:
            yield f"{name} is for one platform alone"


def services_wait_for_each_other(compose: Compose) -> Iterator[str]:
    for name, service in services(compose):
        found = {other: how["condition"] for other, how in service.get("depends_on", {}).items()}
        if found != {other: f"service_{how}" for other, how in DEPENDS.get(name, {}).items()}:
            yield f"{name} waits for {found}"


def nginx_gets_every_variable_of_its_template(compose: Compose) -> Iterator[str]:
    template = (ROOT / "deploy/nginx/nginx.conf.template").read_text(encoding="utf-8")
    wanted = set(re.findall(r"\$\{(EDGE_[A-Z_]+)\}", template))
    environment = compose["services"]["nginx"]["environment"]
    given = {name for name in environment if name.startswith("EDGE_")}
    if wanted != given:
        yield f"not given: {sorted(wanted - given)}; not asked for: {sorted(given - wanted)}"
    if not re.match(environment.get("NGINX_ENVSUBST_FILTER", "none"), "EDGE_X"):
        yield "the image's entry point leaves them alone"
    for name in ("EDGE_INGEST", "EDGE_CONSOLE", "EDGE_KAFKA"):
        host = str(environment.get(name)).partition(":")[0]
        if host == "kafka" or "front" not in NETWORKS.get(host, set()):  # consumers come to Kafka by the guard alone
            yield f"{name} leads to {environment.get(name)}, which nginx cannot reach"


def the_settings_of_the_bridge_load(compose: Compose) -> Iterator[str]:
    """As in the container, but for the secrets, which are any words here."""
    known = {row.env for row in rows()}
    for name in sorted(BRIDGE - {"tls", "guard"}):  # which know no settings
        environment = compose["services"][name]["environment"]
        for variable in environment:
            if variable not in known:
                yield f"{name}: {variable} is no setting"
        values = {variable: replaced(str(value), SAMPLE) for variable, value in environment.items()}
        for variable, value in values.items():
            if value.startswith("file:/run/secrets/"):
                values[variable] = "postgresql://kwb:word@postgres:5432/kwb" if variable == "DATABASE_URL" else "word"
        settings, _, problems = check_settings(values)
        yield from (f"{name}: {problem.where} {problem.what}" for problem in problems)
        open_to_nginx = settings.management.host == "0.0.0.0"
        if open_to_nginx != (name == "console"):
            yield f"{name}: management on {settings.management.host}"
        if name == "ingest" and settings.ingest.host != "0.0.0.0":
            yield "ingest: nginx cannot reach it"


def doctor_finds_the_ca_that_snippets_name(compose: Compose) -> Iterator[str]:
    worker = compose["services"]["worker"]
    ca = PurePosixPath(worker.get("working_dir", "")) / worker["environment"].get("KWB_KAFKA_EXTERNAL_CA", "")
    mounted = {volume.split(":")[1] for volume in worker["volumes"] if volume.startswith("./.kwb/compose/ca:")}
    if str(ca.parent) not in mounted or ca.name != "ca.pem":
        yield f"{ca} is not in the worker"


def the_image_says_its_version(compose: Compose) -> Iterator[str]:
    """An argument with an empty value would stand over the Dockerfile's own."""
    for name in sorted(BRIDGE):
        if compose["services"][name]["build"].get("args") != ["VERSION", "REVISION", "CREATED"]:
            yield f"{name}: {compose['services'][name]['build']}"


SAMPLE = {
    "DOMAIN_NAME": "hooks.example", "WEBHOOK_USERNAME": "webhook", "CONSOLE_USERNAME": "console",
    "HOST_UID": "1000", "HOST_GID": "1000",
}  # fmt: skip


def the_domain_is_that_of_env_everywhere(compose: Compose) -> Iterator[str]:
    nothing = {**SAMPLE, "DOMAIN_NAME": ""}
    for text in strings(compose):
        if "localtest.me" in replaced(text, SAMPLE):
            yield f"{text}: the default domain whatever .env says"
        if "hooks.example" in replaced(text, SAMPLE) and "localtest.me" not in replaced(text, nothing):
            yield f"{text}: another default"
    uses = {
        name: sum("hooks.example" in replaced(text, SAMPLE) for text in strings(service))
        for name, service in services(compose)
    }
    wanted = {
        "tls": 1,
        "nginx": 5,
        "guard": 0,
        "ingest": 1,
        "worker": 1,
        "console": 1,
        "migrate": 0,
        "kafka": 1,
        "postgres": 0,
    }
    if uses != wanted:
        yield f"the domain is used {uses}"


def servers_are_started_with_what_protects_them(compose: Compose) -> Iterator[str]:
    """What is seen only when it is too late: everything runs without it."""
    nginx, kafka, postgres = (compose["services"][name] for name in ("nginx", "kafka", "postgres"))
    environment = kafka["environment"]
    template = (ROOT / "deploy/nginx/nginx.conf.template").read_text(encoding="utf-8")
    files = re.search(r"worker_rlimit_nofile (\d+);", template)
    if files is None or nginx.get("ulimits") != {"nofile": int(files[1])}:
        yield "nginx may not open the files that it is told to"
    if environment.get("KAFKA_CONFIG_PROVIDERS_SECRETS_PARAM_ALLOWED_PATHS") != "/run/secrets":
        yield "kafka: whoever changes its settings reads other files than its secrets"
    if "-XX:+ExitOnOutOfMemoryError" not in environment.get("KAFKA_OPTS", "").split():
        yield "kafka: a broker without memory goes on as if it lived"
    if "ask" not in " ".join(kafka["healthcheck"]["test"]):
        yield "kafka: an open port is no answer"
    wanted = {"--auth-host=scram-sha-256", "--encoding=UTF8", "--data-checksums"}
    if set(postgres["environment"].get("POSTGRES_INITDB_ARGS", "").split()) != wanted:
        yield "postgres: who comes by the network needs no password, or bad pages are not seen"


RULES: tuple[Rule, ...] = (
    only_nginx_publishes_443_and_29095,
    everybody_is_in_its_networks_alone,
    long_running_services_are_watched_and_bounded,
    nobody_has_more_rights_than_it_needs,
    the_bridge_and_nginx_cannot_write,
    every_mount_is_known,
    secrets_are_files_and_only_where_used,
    every_variable_is_in_env,
    images_are_official_exact_and_not_old,
    services_wait_for_each_other,
    nginx_gets_every_variable_of_its_template,
    the_settings_of_the_bridge_load,
    the_domain_is_that_of_env_everywhere,
    doctor_finds_the_ca_that_snippets_name,
    the_image_says_its_version,
    servers_are_started_with_what_protects_them,
)
