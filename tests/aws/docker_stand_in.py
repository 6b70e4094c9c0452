#!/usr/bin/env python3
"""A `docker` for the tests of aws/*.sh, because the emulator keeps no layers.

A build that is pushed becomes an image of that name and platform in its repository, with a manifest as buildx writes
it. $STAND_IN is the log of its calls.
"""

import json
import os
import sys
from pathlib import Path

import boto3

words = sys.argv[1:]
typed = "" if sys.stdin.isatty() else sys.stdin.read() if words[0] == "login" else ""
with Path(os.environ["STAND_IN"]).open("a") as log:
    log.write(json.dumps({"words": words, "stdin": len(typed)}) + "\n")
if words[:2] == ["buildx", "build"]:
    if os.environ.get("STAND_IN_FAILS"):
        sys.exit("ERROR: failed to solve")
    name = words[words.index("--tag") + 1]
    architecture = words[words.index("--platform") + 1].partition("/")[2]
    repository, _, tag = name.partition("/")[2].rpartition(":")
    platform = {"architecture": architecture, "os": "linux"}
    attestation = {"architecture": "unknown", "os": "unknown"}
    manifest = {"schemaVersion": 2, "manifests": [{"platform": platform}, {"platform": attestation}], "of": name}
    boto3.client("ecr").put_image(repositoryName=repository, imageTag=tag, imageManifest=json.dumps(manifest))
