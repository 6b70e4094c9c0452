"""Secrets Manager as far as `kwb users` speaks to it, with AWS's rules about names that exist or are being deleted."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class SecretsManager:
    """`secrets` maps names to texts by stage, `deleted` holds names within their days of recovery.

    `fail` maps an action to the error code that it ends with; `calls` are the actions in order.
    """

    def __init__(self) -> None:
        self.secrets: dict[str, dict[str, str]] = {}
        self.deleted: set[str] = set()
        self.fail: dict[str, str] = {}
        self.calls: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                action = self.headers["X-Amz-Target"].partition(".")[2]
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, answer = outer._answer(action, body)
                text = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/x-amz-json-1.1")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def environ(self) -> dict[str, str]:
        """For boto3, in the place of a task's role."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._server.server_port}", "AWS_REGION": "eu-north-1",
            "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_EC2_METADATA_DISABLED": "true",
        }  # fmt: skip

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def current(self, name: str) -> dict[str, Any]:
        """The secret's current version, read as JSON."""
        found: dict[str, Any] = json.loads(self.secrets[name]["AWSCURRENT"])
        return found

    def _answer(self, action: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.calls.append(action)
        if code := self.fail.get(action):
            return 400, {"__type": code, "message": "as the test wants it"}
        name = body.get("Name") or body["SecretId"]
        deleting = {"__type": "InvalidRequestException", "message": "this secret is scheduled for deletion."}
        if action == "CreateSecret":
            if name in self.deleted:
                return 400, deleting
            if name in self.secrets:
                return 400, {"__type": "ResourceExistsException", "message": "the secret already exists."}
            self.secrets[name] = {"AWSCURRENT": body["SecretString"]}
        elif name not in self.secrets:
            return 400, {"__type": "ResourceNotFoundException", "message": "can't find the specified secret."}
        elif action == "RestoreSecret":
            self.deleted.discard(name)
        elif action == "DeleteSecret":
            assert body["ForceDeleteWithoutRecovery"] is True
            del self.secrets[name]
        elif name in self.deleted:
            return 400, deleting
        elif action == "PutSecretValue":
            self.secrets[name].update(dict.fromkeys(body["VersionStages"], body["SecretString"]))
        else:
            return 400, {"__type": "UnknownOperationException", "message": action}
        return 200, {"Name": name}
