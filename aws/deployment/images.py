"""Images: what they are called, whether they are there, building and pushing them.

A tag never changes its content: the repositories refuse it. This checkout's tag is its commit, with the hash of the
changes that are not committed; Kafka's is its version and the hash of aws/kafka, so that a change of the bridge alone
leaves the broker running. A tag that was typed and is not in the repository is only built when it is this checkout's:
nothing is ever built under the name of something else.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import botocore.exceptions

from deployment.account import Account, code
from deployment.errors import Failed, Refused
from deployment.output import Output
from deployment.templates import AWS, ROOT

BRIDGE, KAFKA = "kafka-webhook-bridge", "kafka-webhook-bridge-kafka"
PLATFORMS = {"X86_64": "amd64", "ARM64": "arm64"}
_VERSION = re.compile(r"^ARG KAFKA_(?:IMAGE=\S*:|VERSION=)(\d[\w.]*)", re.MULTILINE)


# ── tags ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def checkout_tag() -> str:
    """`<commit>` or `<commit>-dirty-<hash>` of this checkout. Raises Refused where there is no git to ask."""
    try:
        commit = _git("rev-parse", "--short=12", "HEAD").strip()
        changed = _git("status", "--porcelain=v1", "-z", "--untracked-files=all")
    except (OSError, subprocess.CalledProcessError):
        raise Refused("This is no git checkout, so the image has no name of its own.", "Give an image_tag.") from None
    if not changed:
        return commit
    digest = hashlib.sha256(_git("diff", "--binary", "HEAD").encode("utf-8", "surrogateescape"))
    for name in sorted(_git("ls-files", "-z", "--others", "--exclude-standard").split("\0")):
        if name:
            digest.update(f"\0{name}\0".encode("utf-8", "surrogateescape"))
            digest.update((ROOT / name).read_bytes())
    return f"{commit}-dirty-{digest.hexdigest()[:12]}"


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, check=True, text=True, errors="surrogateescape"
    ).stdout  # fmt: skip


def kafka_tag(folder: Path = AWS / "kafka") -> str:
    """`<kafka version>-<hash of aws/kafka>`. Raises Refused when the Dockerfile names no exact version."""
    try:
        version = _VERSION.search((folder / "Dockerfile").read_text(encoding="utf-8"))
    except OSError:
        version = None
    if version is None:
        raise Refused("aws/kafka/Dockerfile names no exact version of Kafka.")
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        digest.update(f"\0{path.relative_to(folder).as_posix()}\0{path.stat().st_mode & 0o111:o}\0".encode())
        digest.update(path.read_bytes())
    return f"{version[1]}-{digest.hexdigest()[:12]}"


# ── in the repository ─────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Repository:
    """One of ECR. It need not exist before something is asked of it."""

    account: Account
    name: str

    @property
    def _client(self) -> Any:
        return self.account.client("ecr")

    def uri(self) -> str:
        found: str = self._client.describe_repositories(repositoryNames=[self.name])["repositories"][0]["repositoryUri"]
        return found

    def platforms(self, tag: str) -> frozenset[str] | None:
        """Architectures that the tag is for (`amd64`, `arm64`); None when there is no such tag, empty when unknown."""
        try:
            found = self._client.batch_get_image(repositoryName=self.name, imageIds=[{"imageTag": tag}])["images"]
        except botocore.exceptions.ClientError as error:
            if code(error) == "RepositoryNotFoundException":
                return None
            raise
        return self._platforms(json.loads(found[0]["imageManifest"])) if found else None

    def _platforms(self, manifest: dict[str, Any]) -> frozenset[str]:
        if "manifests" in manifest:
            rows = [row.get("platform", {}).get("architecture", "") for row in manifest["manifests"]]
            return frozenset(row for row in rows if row and row != "unknown")  # attestations have no platform
        digest = manifest.get("config", {}).get("digest")
        if not digest:
            return frozenset()
        with contextlib.suppress(OSError, ValueError, botocore.exceptions.ClientError):
            url = self._client.get_download_url_for_layer(repositoryName=self.name, layerDigest=digest)["downloadUrl"]
            with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310  # AWS's own address
                return frozenset(filter(None, [json.load(answer).get("architecture", "")]))
        return frozenset()

    def newest(self) -> list[str]:
        """A few tags, the newest first."""
        pages = self._client.get_paginator("describe_images").paginate(repositoryName=self.name)
        rows = [row for page in pages for row in page["imageDetails"] if row.get("imageTags")]
        rows.sort(key=lambda row: row["imagePushedAt"], reverse=True)
        return [tag for row in rows[:5] for tag in row["imageTags"]]


def ensure(repository: Repository, tag: str, *, own: bool, architecture: str, build: Sequence[str], out: Output) -> str:
    """The image's full name, in the repository for sure. `own`: the tag is this checkout's, so it may be built.

    `build` are the arguments of `docker build` beside platform and name. Raises Refused when the image is not there and
    cannot be built, or is for other processors; Failed when Docker fails.
    """
    wanted = PLATFORMS[architecture]
    found = repository.platforms(tag)
    if found is None:
        if not own:
            there = ", ".join(repository.newest()) or "none"
            raise Refused(
                f"There is no image {repository.name}:{tag}.", f"In the repository: {there}. Without a tag, this "
                "checkout is built.",
            )  # fmt: skip
        _build(repository, tag, wanted, build, out)
        found = repository.platforms(tag)
        if found is None:
            raise Failed(f"Docker said that it pushed {repository.name}:{tag}; the repository does not have it.")
    if found and wanted not in found:
        raise Refused(
            f"{repository.name}:{tag} is for {', '.join(sorted(found))}, and CpuArchitecture is {architecture}.",
            "A tag keeps its content: commit and build anew, or choose the other CpuArchitecture.",
        )
    if not found:
        out.warn(f"Which processors {repository.name}:{tag} is for could not be read.")
    return f"{repository.uri()}:{tag}"


def _build(repository: Repository, tag: str, platform: str, build: Sequence[str], out: Output) -> None:
    if shutil.which("docker") is None:
        raise Refused(
            f"There is no image {repository.name}:{tag}, and docker, which makes it, is not here.",
            "Install Docker Engine 20.10 or newer with buildx, or give the tag of an image that is there.",
        )
    if _docker("buildx", "version", quiet=True):
        raise Refused("`docker buildx` is not here.", "Install Docker's buildx plugin.")
    _log_in(repository.account)
    name = f"{repository.uri()}:{tag}"
    out.heading(f"Building {name} for linux/{platform}")
    if _docker("buildx", "build", "--platform", f"linux/{platform}", "--tag", name, "--push", *build):
        raise Failed(f"docker could not build and push {name}.", "What it says stands above.")


def _log_in(account: Account) -> None:
    """The password lasts twelve hours and goes by standard input."""
    found = account.client("ecr").get_authorization_token()["authorizationData"][0]
    user, _, password = base64.b64decode(found["authorizationToken"]).decode().partition(":")
    if _docker("login", "--username", user, "--password-stdin", found["proxyEndpoint"], stdin=password, quiet=True):
        raise Failed("docker could not log in to the repository of images.")


def _docker(*arguments: str, stdin: str | None = None, quiet: bool = False) -> int:
    """Exit status. What a build says is for the person who waits for it: it goes to standard error."""
    done = subprocess.run(
        ["docker", *arguments], cwd=ROOT, input=stdin, text=True, check=False,
        stdout=subprocess.DEVNULL if quiet else 2, stderr=subprocess.DEVNULL if quiet else None,
    )  # fmt: skip
    return done.returncode
