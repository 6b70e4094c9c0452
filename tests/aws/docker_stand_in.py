#!/usr/bin/env python3
"""A `docker` for the tests of aws/*.sh, because the emulator keeps no layers.

A build that is pushed becomes an image of that name and platform in its repository, with a manifest as buildx writes
it. $STAND_IN is the log of its calls.
"""

import json
import os
import sys
from pathlib import Path

words = sys.argv[1:]
with Path(os.environ["STAND_IN"]).open("a") as log:
    log.write(json.dumps({"words": words}) + "\n")
if words[0] == "login":
    sys.exit(0 if sys.stdin.read() else "no password on standard input")
if words[:2] == ["buildx", "build"]:
    if os.environ.get("STAND_IN_FAILS"):
        sys.exit("ERROR: failed to solve")
    import http.client
    from urllib.parse import urlsplit

    name = words[words.index("--tag") + 1]
    architecture = words[words.index("--platform") + 1].partition("/")[2]
    repository, _, tag = name.partition("/")[2].rpartition(":")
    platform = {"architecture": architecture, "os": "linux"}
    attestation = {"architecture": "unknown", "os": "unknown"}
    manifest = {"schemaVersion": 2, "manifests": [{"platform": platform}, {"platform": attestation}], "of": name}
    image = {"repositoryName": repository, "imageTag": tag, "imageManifest": json.dumps(manifest)}
    region = os.environ["AWS_DEFAULT_REGION"]
    connection = http.client.HTTPConnection(urlsplit(os.environ["AWS_ENDPOINT_URL"]).netloc, timeout=60)
    connection.request(
        "POST", "/", json.dumps(image),
        {
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Target": "AmazonEC2ContainerRegistry_V20150921.PutImage",
            "Authorization": f"AWS4-HMAC-SHA256 Credential=testing/20260101/{region}/ecr/aws4_request",
        },
    )  # fmt: skip
    answer = connection.getresponse()
    sys.exit(0 if answer.status == 200 else answer.read().decode())
