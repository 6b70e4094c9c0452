"""`make pin-images`: writes digests of the official images into compose.yaml and the Dockerfiles: `name:tag@sha256:…`.

A digest is only ever one that was looked up: Docker pulls the tag and says what it got. Needs Docker and a network.
A tag that has a digest already is looked up anew, so that the same command renews them.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# `image: name:tag` with a fixed name, and the defaults of base images.
IMAGE = re.compile(r"^(\s+image: |ARG \w+_IMAGE=)([a-z0-9./-]+:[\w.-]+)(@sha256:[0-9a-f]{64})?$", re.MULTILINE)
FILES = ("compose.yaml", "Dockerfile", "aws/kafka/Dockerfile")


def main() -> int:
    """0, or 2 when an image could not be looked up; then nothing is written."""
    texts = {path: path.read_text(encoding="utf-8") for path in (ROOT / name for name in FILES)}
    names = sorted({found[2] for text in texts.values() for found in IMAGE.finditer(text)})
    try:
        digests = {name: look_up(name) for name in names}
    except (OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        print("hint: this needs Docker and a network with its registry; nothing was changed.", file=sys.stderr)
        return 2
    for path, text in texts.items():
        path.write_text(IMAGE.sub(lambda found: f"{found[1]}{found[2]}@{digests[found[2]]}", text), encoding="utf-8")
    for name, digest in digests.items():
        print(f"{name}@{digest}")
    return 0


def look_up(name: str) -> str:
    """`sha256:…` of the tag, for all platforms. Raises RuntimeError, OSError."""
    docker("pull", "--quiet", name)
    found = docker("image", "inspect", "--format", "{{range .RepoDigests}}{{println .}}{{end}}", name).split()
    repository = name.rpartition(":")[0]
    for one in found:
        where, _, digest = one.partition("@")
        if where == repository and re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
            return digest
    raise RuntimeError(f"{name} has no digest of a registry: it was made on this machine")


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"docker {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
