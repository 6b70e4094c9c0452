"""`make compose-up`, `make down` and `make clean`: the stack of compose.yaml for people. Any Python from 3.9 on.

up      .env where there is none, everything started and healthy, then where it is and what to copy
down    end it; data stay
clean   after a question: its data, its passwords, and with them what was in Kafka and PostgreSQL
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping

from compose_env import ROOT, Docker, Refusal, make, parse

KAFKA_PORT = 29095
SECRETS = ".kwb/compose/secrets"
# What compose.yaml asks for; any value does where nothing is started.
REQUIRED = ("WEBHOOK_USERNAME", "CONSOLE_USERNAME", "HOST_UID", "HOST_GID")
VOLUMES = ("authority", "kafka", "postgres")


def up() -> None:
    """Raises Refusal when something is missing or does not become healthy."""
    check_docker()
    values = make(ROOT)
    told = compose("up", "--detach", "--wait", environment=built_from())
    if told:
        raise Refusal("the stack is not healthy", "`docker compose ps --all`, then `docker compose logs NAME`.")
    print(summary(values, reaches_this_machine(f"kafka.{values['DOMAIN_NAME']}")))


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


def compose(*arguments: str, environment: Mapping[str, str]) -> int:
    """Exit status; what it says is for the terminal."""
    command = ["docker", "compose", *arguments]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, check=False).returncode


def built_from() -> dict[str, str]:
    """For the labels of the image, should it be built."""
    text = (ROOT / "src/kafka_webhook_bridge/__init__.py").read_text(encoding="utf-8")
    found = {"VERSION": text.split('__version__ = "')[1].split('"')[0]}
    if shutil.which("git"):
        command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        found["REVISION"] = done.stdout.strip()
    return {name: os.environ.get(name, value) for name, value in found.items()}


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


def summary(values: Mapping[str, str], resolves: bool) -> str:
    """Addresses, and lines to copy. The only passwords in it are names of variables."""
    domain, port = values["DOMAIN_NAME"], values["HTTPS_PORT"]
    at = "" if port == "443" else f":{port}"
    lines = [
        "",
        f"  webhooks   https://webhooks.{domain}{at}/SOURCE",
        f"  console    https://console.{domain}{at}/   as {values['CONSOLE_USERNAME']}, {SECRETS}/console_password",
        f"  Kafka      kafka.{domain}:{KAFKA_PORT}   TLS, SCRAM-SHA-512",
        "  authority  .kwb/compose/ca.pem",
        "",
        "Send a webhook:",
        f'  curl --cacert .kwb/compose/ca.pem -u "{values["WEBHOOK_USERNAME"]}:$(cat {SECRETS}/webhook_password)" \\',
        f"    -d '{{\"order\":1234}}' https://webhooks.{domain}{at}/demo",
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


def down() -> None:
    check_docker()
    if compose("down", "--remove-orphans", environment=_enough()):
        raise Refusal("the stack was not ended", "What Docker says stands above.")


def clean() -> None:
    """Raises Refusal where nobody can be asked."""
    docker = Docker(ROOT, ROOT / ".env")
    env = ROOT / ".env"
    values = parse(env.read_text(encoding="utf-8")) if env.exists() else {}
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
    """0, or 2 after a refusal."""
    parser = argparse.ArgumentParser(description="The stack of compose.yaml.")
    parser.add_argument("command", choices=("up", "down", "clean"))
    command = {"up": up, "down": down, "clean": clean}[parser.parse_args().command]
    try:
        command()
    except (Refusal, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        if hint := getattr(error, "hint", ""):
            print(f"hint: {hint}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
