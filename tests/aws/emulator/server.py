"""Starts the emulator for a test, and looks inside it as the AWS console would."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3

from kafka_webhook_bridge.stack.ports import free_ports

READY_S = 60.0
REGION = "eu-central-1"


class Emulator:
    """One on a free port of 127.0.0.1. `environ` is what a command needs to reach it, and nothing else of AWS."""

    def __init__(self, folder: Path, task: Path | None = None) -> None:
        (self.port,) = free_ports(1)
        self.folder = folder
        self.log = folder / "emulator.log"
        self._faults, self._requests = folder / "faults.json", folder / "requests.jsonl"
        self.url = f"http://127.0.0.1:{self.port}"
        self.environ = {
            "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": REGION,
            "AWS_ENDPOINT_URL": self.url, "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": str(folder / "none"), "AWS_SHARED_CREDENTIALS_FILE": str(folder / "none"),
        }  # fmt: skip
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "emulator"], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env={
                    "PATH": os.defpath, "PYTHONPATH": str(Path(__file__).parents[1]), "HOME": str(folder),
                    "GATEWAY_PORT": str(self.port), "BIND_HOST": "127.0.0.1", "TMPDIR": str(folder),
                    "IOT_MTLS_ENABLED": "0",
                    "EMULATOR_FAULTS": str(self._faults), "EMULATOR_REQUESTS": str(self._requests),
                    "EMULATOR_TASK": str(task or ""), "EMULATOR_BRIDGE": str(folder / "bridge.json"),
                    "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": REGION,
                },
            )  # fmt: skip
        self._wait()

    def _wait(self) -> None:
        end = time.monotonic() + READY_S
        while True:
            assert self.process.poll() is None, self.log.read_text()
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self._ask("GET", "/_ministack/health") == 200:
                    return
            assert time.monotonic() < end, "the emulator does not answer"
            time.sleep(0.05)

    def _ask(self, method: str, path: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path)
            return connection.getresponse().status

    def reset(self) -> None:
        """An empty account, without faults."""
        self.faults()
        self._requests.unlink(missing_ok=True)
        assert self._ask("POST", "/_ministack/reset") == 200

    def faults(self, **planned: Any) -> None:
        """These and no others; names as in faults.py, with `__` for the colon."""
        new = self._faults.with_suffix(".new")
        new.write_text(json.dumps({name.replace("__", ":"): value for name, value in planned.items()}))
        new.replace(self._faults)

    def requests(self) -> list[dict[str, str]]:
        """Every CreateChangeSet since the reset."""
        return [json.loads(line) for line in self._requests.read_text().splitlines()]

    def client(self, service: str) -> Any:
        """Of boto3. Tests may talk to nothing but loopback: this is the one place that makes clients for them."""
        assert urlsplit(self.url).hostname == "127.0.0.1"
        return boto3.client(
            service, endpoint_url=self.url, region_name=REGION, aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )  # fmt: skip

    def stack(self, name: str) -> dict[str, Any] | None:
        """As DescribeStacks has it; None when there is none."""
        client = self.client("cloudformation")
        with contextlib.suppress(client.exceptions.ClientError):
            return client.describe_stacks(StackName=name)["Stacks"][0]
        return None

    def status(self, name: str) -> str:
        found = self.stack(name)
        return found["StackStatus"] if found else "none"

    def parameters(self, name: str) -> dict[str, str]:
        found = self.stack(name)
        assert found is not None
        return {row["ParameterKey"]: row["ParameterValue"] for row in found.get("Parameters", [])}

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)
