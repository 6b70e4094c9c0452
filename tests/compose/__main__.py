"""`python -m compose`: compose.yaml on a Docker engine, checked, and a report of it. Exit 1 when any is red."""

import argparse
import json
import platform
import secrets
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import yaml

from compose import standins
from compose.checks import CHECKS
from compose.engine import EngineError, engine
from compose.plugin import clean_environment, version, with_compose
from compose.scene import NotRun, Scene
from compose.stack import Compose, remove

PROJECT = "kwbtest"


@dataclass
class Result:
    """One check. `state` is ok, RED or NOT RUN."""

    name: str
    state: str
    seen: str
    seconds: float


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m compose", description=__doc__)
    parser.add_argument("--report", type=Path, metavar="FILE", help="write what was seen there, as Markdown")
    given = parser.parse_args()
    with ExitStack() as closing:
        folder = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="kwb-compose-")))
        folder.chmod(0o711)
        environment = clean_environment()
        try:
            host = closing.enter_context(engine())
        except EngineError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        if host:
            environment["DOCKER_HOST"] = host
        environment = with_compose(environment, folder)
        stack = Compose(folder / "clone", environment, f"{PROJECT}{secrets.token_hex(3)}")
        closing.callback(remove, stack)
        scene = Scene(stack, stack.clone())
        if subprocess.run(["git", "status", "--porcelain"], cwd=standins.ROOT, capture_output=True).stdout:
            print("note: the last commit is tested; changes that are not committed are not in it", flush=True)
        replaced = standins.provide(stack.folder, environment)
        results = [_go("`make env`, `docker compose config`", _prepare, scene)]
        results.append(_go("the image is built", lambda s: _build(s, folder), scene))
        results.append(_go("`docker compose up --wait`", _up, scene))
        runs = all(result.state == "ok" for result in results)
        for name, check in CHECKS:
            results.append(_go(name, check, scene) if runs else Result(name, "NOT RUN", "the stack is not up", 0))
        if not runs:
            print(stack.compose("logs", "--no-color", "--tail", "30", check=False), flush=True)
        if scene.reader:
            scene.reader.stop()
        if given.report:
            given.report.write_text(_report(scene, results, replaced))
            print(f"written: {given.report}")
    red = [result.name for result in results if result.state == "RED"]
    print("red: " + ", ".join(red) if red else "no check is red")
    return 1 if red else 0


def _go(name: str, check, scene: Scene) -> Result:  # type: ignore[no-untyped-def]
    began = time.monotonic()
    try:
        state, seen = "ok", check(scene)
    except NotRun as reason:
        state, seen = "NOT RUN", str(reason)
    except (AssertionError, OSError, RuntimeError, KeyError, ValueError, StopIteration,
            subprocess.SubprocessError) as error:  # fmt: skip
        state, seen = "RED", f"{type(error).__name__}: {error}"
    result = Result(name, state, seen, time.monotonic() - began)
    print(f"{state:<8}{name} ({result.seconds:.0f} s): {seen}", flush=True)
    return result


def _prepare(scene: Scene) -> str:
    stack = scene.stack
    stack.run("make", "env")
    first = stack.values()
    mode = (stack.folder / ".env").stat().st_mode & 0o777
    assert mode == 0o600, oct(mode)
    stack.run("make", "env")
    assert stack.values() == first, "a second `make env` changed .env"
    stack.compose("config", "--quiet")
    left = stack.run("git", "status", "--porcelain").strip()
    assert not left, f"git sees what was made: {left}"
    return ".env made once (0600) and kept by a second `make env`; the file is sound"


def _build(scene: Scene, folder: Path) -> str:
    """Behind a mirror of packages its address comes as a secret of the build, from pip's configuration here."""
    stack = scene.stack
    given = dict(standins.pip_secrets(folder))
    override = folder / "build.yaml"
    build = {"network": "host", "secrets": list(given)}
    files = {name: {"file": str(path)} for name, path in given.items()}
    override.write_text(yaml.safe_dump({"services": {"ingest": {"build": build}}, "secrets": files}))
    version = stack.run("git", "describe", "--always", "--abbrev=12").strip()
    stack.environment |= {
        "VERSION": version,
        "REVISION": scene.commit,
        "CREATED": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
    }
    began = time.monotonic()
    stack.compose("--file", "compose.yaml", "--file", str(override), "build", "--quiet", "ingest")
    scene.numbers["build of the image, nothing cached"] = f"{time.monotonic() - began:.0f} s"
    return stack.image


def _up(scene: Scene) -> str:
    began = time.monotonic()
    scene.stack.compose("up", "--detach", "--wait")
    took = time.monotonic() - began
    scene.numbers["first start until all are healthy, images at hand"] = f"{took:.0f} s"
    return f"{took:.0f} s"


def _report(scene: Scene, results: list[Result], replaced: dict[str, str]) -> str:
    stack = scene.stack
    about = json.loads(stack.docker("version", "--format", "{{json .}}"))
    cells = {ok: sum(result.state == ok for result in results) for ok in ("ok", "RED", "NOT RUN")}
    lines = [
        "<!-- Made by `make compose-test`; changes here are lost. -->",
        "",
        "# compose.yaml on a Docker engine",
        "",
        f"{cells['ok']} checks are good, **{cells['RED']} are red**, {cells['NOT RUN']} did not run. A fresh "
        "clone, the whole file unchanged, a project of its own. How it is done: tests/compose.",
        "",
        f"Made on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {scene.commit[:12]}. Docker Engine "
        f"{about['Server']['Version']}, client {about['Client']['Version']}, Compose {_compose_version(stack)}, "
        f"Linux {platform.release()}, {platform.machine()}.",
        "",
    ]
    if replaced:
        lines += [
            "These official images could not be pulled. Stand-ins with the same names, users, paths and entry points "
            "took their places; so what is said here of nginx, PostgreSQL and Java is said of these versions:",
            "",
            "| image | here |",
            "|---|---|",
            *(f"| `{name}` | {what} |" for name, what in sorted(replaced.items())),
            "",
        ]
    else:
        lines += ["Every image is the official one.", ""]
    lines += ["| check | | what was seen | s |", "|---|---|---|---|"]
    lines += [f"| {r.name} | {r.state} | {_cell(r.seen, scene)} | {r.seconds:.0f} |" for r in results]
    lines += ["", "## Numbers", "", "One run each, on a machine with other work. They are no promise.", ""]
    lines += ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in scene.numbers.items()), ""]
    return "\n".join(lines)


def _cell(text: str, scene: Scene) -> str:
    for secret in scene.stack.secrets:
        text = text.replace(secret, "…")
    return " ".join(text.split()).replace("|", "\\|")[:600]


def _compose_version(stack: Compose) -> str:
    """A binary of our own says `dev`, whatever it was made from."""
    from compose.plugin import VERSION

    found = version(stack.environment)
    return f"{VERSION} (built from its module)" if found == "dev" else found


if __name__ == "__main__":
    sys.exit(main())
