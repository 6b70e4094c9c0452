"""`make compose-up`, `make down` and `make clean`: the stack of compose.yaml for people. Any Python from 3.9 on.

up      .env where there is none, everything started and healthy, then where it is and what to copy
down    end it; data stay
clean   after a question: its data, its passwords, and with them what was in Kafka and PostgreSQL
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from compose_env import KAFKA_PORT, NAMES, PASSWORDS, ROOT, Docker, Refusal, alone, check, make, parse, read

SECRETS = ".kwb/compose/secrets"
IMAGE = "kafka-webhook-bridge:local"
# What compose.yaml asks for; any value does where nothing is started.
REQUIRED = ("WEBHOOK_USERNAME", "CONSOLE_USERNAME", "HOST_UID", "HOST_GID")
VOLUMES = ("authority", "kafka", "postgres")


def up() -> int:
    """0, or 1 where all runs and clients refuse the certificate. Raises Refusal that says what failed."""
    check_docker()
    written = make(ROOT)
    docker = Docker(ROOT, ROOT / ".env")
    others = [name for name in NAMES if name not in PASSWORDS and os.environ.get(name)]
    values = {**written, **{name: os.environ[name] for name in others}}  # as Compose does: the environment comes first
    check(values)
    if "nginx" not in docker.running():
        check_ports(values)
    build(docker, written)
    if compose("up", "--detach", "--wait"):
        raise why(docker)
    troubles = certificate_troubles(values["DOMAIN_NAME"])
    print(summary(values, reaches_this_machine(f"kafka.{values['DOMAIN_NAME']}"), troubles))
    return 1 if troubles else 0


def check_docker() -> None:
    docker = Docker(ROOT, ROOT / ".env")
    if not docker.installed:
        raise Refusal("docker is not here", "Install Docker Engine 20.10 or newer with Compose 2.20 or newer.")
    try:
        version = docker.run("compose", "version", "--short").strip().lstrip("v")
    except Refusal:
        raise Refusal("`docker compose` is not here", "Install Docker's Compose plugin, 2.20 or newer.") from None
    numbers = version.split(".")[:2]
    if all(part.isdigit() for part in numbers) and [int(part) for part in numbers] < [2, 20]:
        raise Refusal(f"Docker Compose is {version}", "2.20 or newer is needed.")
    docker.run("info", "--format", "{{.ServerVersion}}")


def check_ports(values: Mapping[str, str]) -> None:
    """Raises Refusal for a port that somebody else has, where Docker runs on this machine."""
    if not os.environ.get("DOCKER_HOST", "unix://").startswith("unix://"):
        return
    address = values["KWB_BIND"].strip("[]")
    for port in (int(values["HTTPS_PORT"]), KAFKA_PORT):
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            probe.settimeout(2)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
                continue
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    raise Refusal(
                        f"{address} is no address of this machine", "Change KWB_BIND in .env, then `make compose-up`."
                    ) from None
                if (
                    error.errno == errno.EACCES
                ):  # below 1024, which Docker may open and we may not: does somebody answer?
                    if probe.connect_ex((address, port)):
                        continue
                elif error.errno != errno.EADDRINUSE:
                    continue
        free = "Free it" if port == KAFKA_PORT else "Free it, or set HTTPS_PORT=8443 in .env"
        raise Refusal(
            f"port {port} of {address} is taken by something else",
            f"{free}, then `make compose-up`. `ss -ltnp` shows who has it.",
        )


def build(docker: Docker, values: Mapping[str, str]) -> None:
    """The bridge's image where there is none. Raises Refusal."""
    image = os.environ.get("BRIDGE_IMAGE") or values.get("BRIDGE_IMAGE") or IMAGE
    try:
        docker.run("image", "inspect", "--format", "{{.Id}}", image)
    except Refusal:
        pass
    else:
        return
    if compose("build", "ingest", environment=built_from()):
        raise Refusal(
            f"the image {image} was not built",
            "What Docker says stands above. If it cannot reach the package index: docs/howto/compose.md, "
            "`When it does not start`.",
        )


def compose(*arguments: str, environment: Mapping[str, str] | None = None) -> int:
    """Exit status; what it says is for the terminal."""
    command = ["docker", "compose", *arguments]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **(environment or {})}, check=False).returncode


def built_from() -> dict[str, str]:
    """For the labels of the image."""
    text = (ROOT / "src/kafka_webhook_bridge/__init__.py").read_text(encoding="utf-8")
    found = {"VERSION": text.split('__version__ = "')[1].split('"')[0]}
    if shutil.which("git"):
        command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        found["REVISION"] = done.stdout.strip()
    return {name: os.environ.get(name, value) for name, value in found.items()}


def why(docker: Docker) -> Refusal:
    """What did not start, after its last words."""
    try:
        states = containers(docker.compose("ps", "--all", "--format", "json"))
    except Refusal:
        states = []
    more = "docs/howto/compose.md, `When it does not start`."
    for found in states:
        name, state, code = found["Service"], found["State"], found.get("ExitCode", 0)
        if (state == "exited" and code) or state in ("restarting", "dead") or found.get("Health") == "unhealthy":
            print(f"\n{name} says:\n{last_words(docker, name)}", file=sys.stderr)
            how = "is not healthy" if found.get("Health") == "unhealthy" else f"ended with {code}"
            return Refusal(f"{name} {how}; its last words stand above", f"`docker compose logs {name}` has all; {more}")
    if any(found["Service"] == "nginx" and found["State"] == "created" for found in states):
        return Refusal(
            "nginx was not started",
            "What Docker says stands above. If a port is taken: `ss -ltnp` shows by whom; HTTPS_PORT is set in .env.",
        )
    return Refusal("the stack was not started", f"What Docker says stands above. `docker compose ps --all`; {more}")


def containers(text: str) -> list[dict[str, Any]]:
    """What `docker compose ps --format json` says: a list, and since 2.21 an object a line."""
    found = [json.loads(line) for line in text.splitlines() if line.strip()]
    return found[0] if found and isinstance(found[0], list) else found


def last_words(docker: Docker, name: str) -> str:
    try:
        return docker.compose("logs", "--no-color", "--no-log-prefix", "--tail", "10", name).rstrip()
    except Refusal as error:
        return str(error)


def certificate_troubles(domain: str) -> list[str]:
    """Why clients refuse what nginx serves, or will within a week, as `kwb tls show` tells it."""
    show = ["tls", "show", "--folder", "/tls", "--domain", domain, "--json"]
    command = ["docker", "compose", "run", "--rm", "--no-deps", "--no-TTY", "tls", *show]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if not done.returncode:
        return []
    try:
        return [f"{trouble['what']} {trouble['todo']}" for trouble in json.loads(done.stdout)["troubles"]]
    except (ValueError, KeyError, TypeError):
        return [" ".join(done.stderr.split())[-500:] or f"`{' '.join(command)}` ended with {done.returncode}"]


def reaches_this_machine(name: str) -> bool:
    """Whether the name is an address of this machine."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_DGRAM)
    except OSError:
        return False
    for family, kind, protocol, _, address in found:
        with socket.socket(family, kind, protocol) as probe:
            try:
                probe.bind((address[0], 0))  # no other address can be bound
            except OSError:
                continue
            return True
    return False


def summary(values: Mapping[str, str], resolves: bool, troubles: list[str]) -> str:
    """Addresses, and lines to copy. The only passwords in it are names of variables."""
    domain, port, user = values["DOMAIN_NAME"], values["HTTPS_PORT"], values["WEBHOOK_USERNAME"]
    at = "" if port == "443" else f":{port}"
    lines = [
        "",
        f"  webhooks   https://webhooks.{domain}{at}/SOURCE",
        f"  console    https://console.{domain}{at}/   as {values['CONSOLE_USERNAME']}, {SECRETS}/console_password",
        f"  Kafka      kafka.{domain}:{KAFKA_PORT}   TLS, SCRAM-SHA-512",
        "  authority  .kwb/compose/ca.pem",
        "",
    ]
    if troubles:
        lines += [
            "It runs, but clients refuse its certificate, or will within a week (docs/howto/certificates.md):",
            *(f"  {trouble}" for trouble in troubles),
        ]
    else:
        lines += [
            "Send a webhook; the password can be read by you alone:",
            f'  curl --cacert .kwb/compose/ca.pem -u "{user}:$(cat {SECRETS}/webhook_password)" \\',
            f"    -d '{{\"order\":1234}}' https://webhooks.{domain}{at}/demo",
        ]
    lines += [
        "Let a partner read it; this prints what it needs:",
        "  docker compose exec worker kwb users create partner --topics demo --group-prefix partner",
        "Look inside:",
        "  docker compose exec worker kwb doctor",
        "  docker compose exec worker kwb tail demo --from beginning",
    ]
    if not resolves:
        address = values["KWB_BIND"] if values["KWB_BIND"] not in ("0.0.0.0", "[::]") else "127.0.0.1"
        lines += [
            "",
            f"kafka.{domain} does not lead to this machine. Put this line into /etc/hosts here and where consumers run"
            " (there with this machine's address):",
            f"  {address} webhooks.{domain} console.{domain} kafka.{domain}",
        ]
    return "\n".join(lines)


def down() -> int:
    """0. Raises Refusal."""
    check_docker()
    if compose("down", "--remove-orphans", environment=_enough()):
        raise Refusal("the stack was not ended", "What Docker says stands above.")
    return 0


def clean() -> int:
    """0. Raises Refusal where nobody can be asked."""
    check_up_has_ended()
    with alone(ROOT):
        _clean()
    return 0


def check_up_has_ended() -> None:
    """Raises Refusal while `make up` runs from the environment that `make clean` removes."""
    try:
        file = (ROOT / ".kwb/lock").open("a")
    except OSError:
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refusal("`make up` runs here, from what this removes", "End it with Ctrl-C.") from None


def _clean() -> None:
    docker = Docker(ROOT, ROOT / ".env")
    env = ROOT / ".env"
    values = parse(read(env))
    there = [path for path in (ROOT / ".kwb/compose", env, ROOT / ".env.new") if path.exists()]
    volumes = []
    try:
        names = docker.volumes()
        volumes = [name for v in VOLUMES if (name := f"{docker.project(values)}_{v}") in names]
    except Refusal as error:
        if there:
            raise
        print(f"{error}\nVolumes of compose.yaml, if there are any, stay.")
    if not there and not volumes:
        return
    listed = [*(f"volume {name}" for name in volumes), *(str(path.relative_to(ROOT)) for path in there)]
    print("This removes the stack of compose.yaml and its data for good:\n  " + "\n  ".join(listed))
    if os.environ.get("YES") != "1":
        if not sys.stdin.isatty():
            raise Refusal("nobody is here to be asked", "`make clean YES=1`, if they shall go.")
        if input("Type yes to go on: ").strip() != "yes":
            raise Refusal("nothing was removed")
    if docker.installed and compose("down", "--volumes", "--remove-orphans", environment=_enough()):
        raise Refusal("nothing was removed", "What Docker says stands above.")
    for path in there:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _enough() -> dict[str, str]:
    """Values without which compose.yaml cannot be read, when .env is gone."""
    return {} if (ROOT / ".env").exists() else dict.fromkeys(REQUIRED, "0")


def main() -> int:
    """0, 1 where `up` found a problem, or 2 after a refusal."""
    parser = argparse.ArgumentParser(description="The stack of compose.yaml.")
    parser.add_argument("command", choices=("up", "down", "clean"))
    command = {"up": up, "down": down, "clean": clean}[parser.parse_args().command]
    try:
        return command()
    except (Refusal, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        if hint := getattr(error, "hint", ""):
            print(f"hint: {hint}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
