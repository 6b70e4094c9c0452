"""A checkout of its own, a `docker` that stands in, and aws/*.sh as somebody types them against the emulator."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from emulator.server import REGION, Emulator

from bridge import eventually

ROOT = Path(__file__).parents[2]
DOMAIN = "example.test"
COMMANDS_S = 240
# Nothing of these may ever be seen; long and odd enough to be found anywhere.
KAFKA_PASSWORD, WEBHOOK_PASSWORD, SOURCE_SECRET = "canary-kafka-3f9a", "canary-webhook-77b1", "canary-source-c02e"


class Checkout:
    """A git checkout of what the scripts read. `bin` comes first on PATH."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "checkout"
        self.bin = folder / "bin"
        self.docker_log, self.argv_log = folder / "docker.jsonl", folder / "argv"
        self.root.mkdir()
        self.bin.mkdir()
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "aws", self.root / "aws", ignore=ignored)
        (self.root / "requirements").mkdir()
        shutil.copy(ROOT / "requirements/aws.txt", self.root / "requirements/aws.txt")
        (self.root / "src").symlink_to(ROOT / "src")
        shutil.copy(ROOT / ".gitignore", self.root / ".gitignore")
        self._environment()
        shutil.copy(Path(__file__).with_name("docker_stand_in.py"), self.bin / "docker")
        (self.bin / "docker").write_text(
            (self.bin / "docker").read_text().replace("#!/usr/bin/env python3", f"#!{sys.executable} -S")
        )
        (self.bin / "docker").chmod(0o755)
        self.git("init", "-q")
        self.first = self.commit("first")

    def _environment(self) -> None:
        """.venv-aws as lib.sh would make it, out of the environment of the tests, which has the same versions."""
        venv = self.root / ".venv-aws"
        (venv / "bin").mkdir(parents=True)
        _wrapper(venv / "bin/python", sys.executable, self.argv_log)
        with (self.root / "requirements/aws.txt").open() as lock:
            stamp = subprocess.run(["cksum"], stdin=lock, capture_output=True, text=True, check=True).stdout
        (venv / ".ready").write_text(stamp)

    def git(self, *words: str) -> str:
        who = ["-c", "user.name=t", "-c", "user.email=t@example.test", "-c", "commit.gpgsign=false"]
        return subprocess.run(
            ["git", "-C", str(self.root), *who, *words], capture_output=True, text=True, check=True
        ).stdout  # fmt: skip

    def commit(self, message: str) -> str:
        """Everything as it is now; the tag that deploy.sh gives it."""
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.git("rev-parse", "--short=12", "HEAD").strip()

    def restore(self) -> None:
        """As it was at first."""
        self.git("reset", "-q", "--hard", self.first)
        self.git("clean", "-fdq")

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.root / name
        text = path.read_text()
        assert text.count(old) >= 1, f"{old!r} is not in {name}"
        path.write_text(text.replace(old, new))

    def builds(self) -> list[str]:
        """Names of the images that docker was asked to build."""
        rows = [json.loads(line)["words"] for line in self.docker_log.read_text().splitlines()]
        return [row[row.index("--tag") + 1] for row in rows if row[:2] == ["buildx", "build"]]


def _wrapper(path: Path, program: str, log: Path) -> None:
    """Remembers what it was given as arguments: anybody on a machine may read those."""
    path.write_text(f'#!/bin/sh\nprintf "%s " "$@" >> "{log}"\nexec "{program}" "$@"\n')
    path.chmod(0o755)


class Scene:
    """The emulator and a checkout; `deploy`, `update`, `run`, `destroy` are typed in it."""

    def __init__(self, emulator: Emulator, checkout: Checkout, **environ: str) -> None:
        self.emulator, self.checkout = emulator, checkout
        self.environ = {
            "PATH": f"{checkout.bin}:{os.environ.get('PATH', os.defpath)}", "HOME": str(checkout.root.parent),
            "STAND_IN": str(checkout.docker_log), "RES_OPTIONS": "timeout:1 attempts:1", "LC_ALL": "C.UTF-8",
            **emulator.environ, **environ,
        }  # fmt: skip
        self.said = ""

    def start(self, command: str, *words: str, **environ: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [f"./aws/{command}.sh", *words], cwd=self.checkout.root, env={**self.environ, **environ}, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def type(self, command: str, *words: str, expect: int = 0, **environ: str) -> str:
        """What it said, both streams; asserts its exit status, and that no secret is in it."""
        process = self.start(command, *words, **environ)
        said, _ = process.communicate(timeout=COMMANDS_S)
        assert process.returncode == expect, f"{command} {words}: {process.returncode}\n{said}"
        self.said += said
        for secret in (KAFKA_PASSWORD, WEBHOOK_PASSWORD, SOURCE_SECRET):
            assert secret not in said
        return said

    def deploy(self, *words: str, expect: int = 0, **environ: str) -> str:
        """ENVIRONMENT=dev ./aws/deploy.sh example.test"""
        return self.type(
            "deploy", DOMAIN, *words, expect=expect, **{"ENVIRONMENT": "dev", "SKIP_SMOKE": "1", **environ}
        )

    def update(self, *words: str, expect: int = 0, **environ: str) -> str:
        return self.type("update", DOMAIN, *words, expect=expect, **{"SKIP_SMOKE": "1", **environ})

    def zone(self, name: str = DOMAIN) -> str:
        """A public hosted zone; its id."""
        made = self.emulator.client("route53").create_hosted_zone(Name=name, CallerReference=os.urandom(4).hex())
        return made["HostedZone"]["Id"].rpartition("/")[2]

    def private_zone(self, name: str) -> None:
        """One that nobody outside sees."""
        vpc = self.emulator.client("ec2").create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        self.emulator.client("route53").create_hosted_zone(
            Name=name, CallerReference="private", HostedZoneConfig={"PrivateZone": True},
            VPC={"VPCRegion": REGION, "VPCId": vpc},
        )  # fmt: skip

    def parameters(self, stack: str = "dev-webhooks") -> dict[str, str]:
        return self.emulator.parameters(stack)

    def outputs(self, stack: str = "dev-webhooks") -> dict[str, str]:
        found = self.emulator.stack(stack)
        assert found is not None, stack
        return {row["OutputKey"]: row["OutputValue"] for row in found["Outputs"]}

    def changed(self, said: str) -> set[str]:
        """Logical ids in the change sets that a command showed."""
        rows = [line.split() for line in said.splitlines()]
        return {row[1] for row in rows if row[:1] and row[0] in ("Add", "Modify", "Remove", "Dynamic") and len(row) > 2}

    def releases(self, stack: str = "dev-webhooks", state: str = "done") -> list[dict[str, Any]]:
        """release.json of each in that state, oldest first."""
        s3, bucket = self.emulator.client("s3"), self.outputs("kafka-webhook-bridge-registry")["ArtifactsBucket"]
        keys = [
            row["Key"] for row in s3.list_objects_v2(Bucket=bucket, Prefix=f"releases/{stack}/").get("Contents", [])
        ]
        found = [key for key in sorted(keys) if key.endswith("release.json")]
        rows = [json.loads(s3.get_object(Bucket=bucket, Key=key)["Body"].read()) for key in found]
        return [row for row in rows if row.get("state", "done") == state]

    def interrupt(self, process: subprocess.Popen[str], until: Callable[[], bool]) -> str:
        """Ctrl-C at a command, once AWS is so far; what it had said."""
        eventually(until, "AWS is so far")
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=COMMANDS_S)
        assert process.returncode == 130, said
        return said

    def secret(self, output: str, version: str = "") -> str:
        client = self.emulator.client("secretsmanager")
        which = {"VersionId": version} if version else {}
        return client.get_secret_value(SecretId=self.outputs()[output], **which)["SecretString"]

    def config(self, **sources: Any) -> None:
        """aws/config/dev.yaml with these sources beside the smoke test's."""
        rows = {"kwb-smoke": {"topic": "kwb.smoke"}, **sources}
        (self.checkout.root / "aws/config").mkdir(exist_ok=True)
        (self.checkout.root / "aws/config/dev.yaml").write_text(yaml.safe_dump({"sources": rows}))


@contextmanager
def scene(folder: Path, task: Path | None = None) -> Iterator[Scene]:
    emulator = Emulator(folder, task)
    try:
        yield Scene(emulator, Checkout(folder))
    except BaseException:
        print(emulator.log.read_text()[-3000:])
        raise
    finally:
        emulator.close()
