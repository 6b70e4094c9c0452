"""`docker compose`: the installed one if it is new enough, else the Compose plugin built from its Go module, once.

It is found through a DOCKER_CONFIG folder of its own, so that nothing of the user's is touched. To read a file takes no
engine, and only Compose's loader of files, which is built in less than a minute: `config`.
"""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

VERSION = "v2.40.3"
VERSION_MIN = (2, 20)
CACHE = Path.home() / ".cache" / "kafka-webhook-bridge"
BUILD_SECONDS_MAX = 1800
LOADER = Path(__file__).parent / "config"
LOADER_BUILD_SECONDS_MAX = 240
MODULE = "github.com/docker/compose/v2/cmd"
# `go install …@version` refuses a module with replace lines; a module of our own that names it as a tool may build it.
TOOLS = f'//go:build tools\n\npackage tools\n\nimport _ "{MODULE}"\n'


def version(environment: dict[str, str]) -> str:
    """What `docker compose version` says; empty when there is no such command."""
    command = ["docker", "compose", "version", "--short"]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def is_new_enough(found: str) -> bool:
    """Whether a version such as `v2.40.3` or `2.40.3-desktop.1` understands the whole of compose.yaml."""
    parts = re.match(r"v?(\d+)\.(\d+)", found)
    return parts is not None and (int(parts[1]), int(parts[2])) >= VERSION_MIN


def plugin() -> Path:
    """The binary in the cache, built when it is missing (minutes, with Go and a network)."""
    binary = CACHE / f"docker-compose-{VERSION}"
    if binary.exists():
        return binary
    if shutil.which("go") is None:
        raise RuntimeError("Docker Compose is missing, and so is Go to build it: install docker-compose-plugin")
    print(f"building Docker Compose {VERSION}, once (minutes)", flush=True)
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="kwb-compose-build-", dir=CACHE) as folder:
        (Path(folder) / "tools.go").write_text(TOOLS)
        built = Path(folder) / "docker-compose"
        for command in (
            ["go", "mod", "init", "composebuild"],
            ["go", "get", f"{MODULE}@{VERSION}"],
            ["go", "mod", "tidy"],
            ["go", "build", "-o", str(built), MODULE],
        ):
            subprocess.run(command, cwd=folder, check=True, timeout=BUILD_SECONDS_MAX)
        built.replace(binary)
    return binary


def config(folder: Path, env_file: Path) -> subprocess.CompletedProcess[str]:
    """What `docker compose --env-file … config` says in `folder`: the file as JSON, warnings and errors.

    By the plugin that is installed or in the cache, else by its loader. Raises RuntimeError where none can be had.
    """
    environment = clean_environment()
    built = CACHE / f"docker-compose-{VERSION}"
    if is_new_enough(version(environment)):
        command = ["docker", "compose", "--env-file", str(env_file), "config", "--format", "json"]
    elif built.exists():  # it is a program of its own, too
        command = [str(built), "--env-file", str(env_file), "config", "--format", "json"]
    else:
        command = [str(loader()), str(env_file)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def loader() -> Path:
    """The binary of `config/main.go` in the cache, built when it is missing."""
    sources = [LOADER / name for name in ("go.mod", "go.sum", "main.go")]
    found = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
    binary = CACHE / f"compose-config-{found}"
    if binary.exists():
        return binary
    if shutil.which("go") is None:
        raise RuntimeError("neither Docker Compose 2.20 is here, nor Go to build its loader")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="kwb-compose-build-", dir=CACHE) as folder:
        built = Path(folder) / "compose-config"
        environment = {**os.environ, "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly"}
        try:
            done = subprocess.run(
                ["go", "build", "-o", str(built), "."],
                cwd=LOADER, env=environment, capture_output=True, text=True, timeout=LOADER_BUILD_SECONDS_MAX,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"Compose's loader was not built in {LOADER_BUILD_SECONDS_MAX} s") from None
        if done.returncode:
            said = (done.stderr.strip() or "no reason given").splitlines()[-1]
            raise RuntimeError(f"Compose's loader cannot be built: {said}")
        built.replace(binary)
    return binary


def with_compose(environment: dict[str, str], folder: Path) -> dict[str, str]:
    """`environment` in which `docker compose` works; `folder` takes the DOCKER_CONFIG if one has to be made."""
    if is_new_enough(version(environment)):
        return environment
    plugins = folder / "docker" / "cli-plugins"
    plugins.mkdir(parents=True)
    (plugins / "docker-compose").symlink_to(plugin())
    found = {**environment, "DOCKER_CONFIG": str(plugins.parent)}
    if not version(found):
        raise RuntimeError(f"{plugin()} does not run; remove it to have it built anew")
    return found


def clean_environment() -> dict[str, str]:
    """This process's environment less what would change the file's own defaults."""
    names = "DOMAIN_NAME|HTTPS_PORT|KWB_.*|COMPOSE_.*|.*_PASSWORD|.*_USERNAME|DATABASE_URL|HOST_[UG]ID|BRIDGE_.*"
    return {name: value for name, value in os.environ.items() if not re.fullmatch(names, name)}
