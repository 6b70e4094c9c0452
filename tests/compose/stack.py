"""The stack of compose.yaml under test: a fresh clone in a temporary folder, a project of its own, and ways into it."""

import http.client
import json
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CONSUMER = Path(__file__).with_name("consumer.py")
KAFKA_PORT = 29095
COMMAND_SECONDS_MAX = 300
DEADLINE_SECONDS = 90  # for a condition; nothing is judged by how long it took
BRIDGE = ("ingest", "worker", "console")
RUNNING = (*BRIDGE, "guard", "nginx", "kafka", "postgres")
ONCE = ("tls", "migrate")


def until(condition: Callable[[], Any], what: str, seconds: float = DEADLINE_SECONDS) -> Any:
    """The first true value of `condition`; AssertionError when it does not come."""
    deadline = time.monotonic() + seconds
    while True:
        if found := condition():
            return found
        assert time.monotonic() < deadline, f"within {seconds:.0f} s: {what}"
        time.sleep(0.2)


def is_free(port: int) -> bool:
    """Whether 127.0.0.1:port can be listened on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


class Compose:
    """`folder` becomes the clone. `environment` is for every command; `project` names containers and volumes."""

    def __init__(self, folder: Path, environment: dict[str, str], project: str) -> None:
        self.folder = folder
        self.project = project
        self.image = f"kafka-webhook-bridge:{project}"
        self.https_port = 443 if is_free(443) else _free_port()
        assert is_free(KAFKA_PORT), f"port {KAFKA_PORT} is taken on 127.0.0.1; compose.yaml has no other"
        self.environment = {
            **environment,
            "COMPOSE_PROJECT_NAME": project,
            "BRIDGE_IMAGE": self.image,
            "HTTPS_PORT": str(self.https_port),
            # Compose's own builder: the other needs a plugin that a bare engine does not have.
            "COMPOSE_BAKE": "false",
        }
        self.old_logs: list[str] = []
        self.secrets: set[str] = set()

    def clone(self) -> str:
        """The commit that is tested: HEAD as anybody would fetch it."""
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(self.folder)], check=True, timeout=120)
        head = ["git", "-C", str(self.folder), "rev-parse", "HEAD"]
        return subprocess.run(head, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    # --- commands -------------------------------------------------------------------------------------------------

    def run(self, *command: str, check: bool = True, stdin: str = "", seconds: float = COMMAND_SECONDS_MAX) -> str:
        """Standard output (and standard error, when it need not succeed) of a command in the clone."""
        done = self.done(*command, stdin=stdin, seconds=seconds)
        said = done.stdout if check else done.stdout + done.stderr
        assert not check or done.returncode == 0, (
            f"{' '.join(command)[:200]}: exit {done.returncode}\n{(done.stdout + done.stderr)[-2000:]}"
        )
        return said

    def done(
        self, *command: str, stdin: str = "", seconds: float = COMMAND_SECONDS_MAX
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, input=stdin, capture_output=True, text=True, timeout=seconds
        )

    def docker(self, *arguments: str, check: bool = True, stdin: str = "") -> str:
        return self.run("docker", *arguments, check=check, stdin=stdin)

    def compose(self, *arguments: str, check: bool = True, stdin: str = "") -> str:
        return self.run("docker", "compose", *arguments, check=check, stdin=stdin)

    def inside(self, service: str, *command: str, check: bool = True, stdin: str = "") -> str:
        return self.compose("exec", "-T", service, *command, check=check, stdin=stdin)

    def kwb(self, *arguments: str) -> Any:
        """What a command in the worker answers as JSON."""
        return json.loads(self.inside("worker", "kwb", *arguments, "--json"))

    # --- what is known of it ----------------------------------------------------------------------------------------

    def values(self) -> dict[str, str]:
        """`.env`. Its passwords are remembered, to be looked for where none may be."""
        lines = (self.folder / ".env").read_text().splitlines()
        found = dict(line.split("=", 1) for line in lines if re.match(r"[A-Z_]+=", line))
        found = {name: value.strip("'") for name, value in found.items()}
        self.secrets |= {value for name, value in found.items() if name.endswith("_PASSWORD")}
        return found

    @property
    def domain(self) -> str:
        return self.values()["DOMAIN_NAME"]

    @property
    def ca(self) -> Path:
        return self.folder / ".kwb" / "compose" / "ca.pem"

    def container(self, service: str) -> str:
        return self.compose("ps", "--all", "--quiet", service).strip()

    def inspect(self, service: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.docker("inspect", self.container(service)))[0]
        return found

    def address(self, service: str, network: str) -> str:
        networks = self.inspect(service)["NetworkSettings"]["Networks"]
        return str(networks[f"{self.project}_{network}"]["IPAddress"])

    def keep_logs(self) -> None:
        """Before containers go: what they wrote."""
        self.old_logs.append(self.compose("logs", "--no-color", check=False))

    # --- as a sender and as a partner -------------------------------------------------------------------------------

    def post(self, body: str, source: str = "demo", password: str | None = None) -> tuple[int, dict[str, Any]]:
        """Status and answer of one webhook over HTTPS with the certificate checked."""
        values = self.values()
        name = f"webhooks.{self.domain}"
        context = ssl.create_default_context(cafile=self.ca)
        with socket.create_connection(("127.0.0.1", self.https_port), timeout=30) as plain:
            connection = http.client.HTTPSConnection(name, self.https_port)
            connection.sock = context.wrap_socket(plain, server_hostname=name)
            token = _basic(values["WEBHOOK_USERNAME"], password or values["WEBHOOK_PASSWORD"])
            headers = {"Authorization": token, "Content-Type": "application/json"}
            connection.request("POST", f"/{source}", body.encode(), headers)
            answer = connection.getresponse()
            text = answer.read()
            connection.close()
        return answer.status, json.loads(text) if text else {}

    def accepted(self, body: str) -> dict[str, Any]:
        """The receipt of a webhook that must be taken."""
        status, answer = self.post(body)
        assert status == 200, f"{status} {answer}"
        return answer

    def archived(self, event_id: str) -> Any:
        """The row, once the worker has it."""

        def found() -> Any:
            done = self.done("docker", "compose", "exec", "-T", "worker", "kwb", "events", "show", event_id, "--json")
            return json.loads(done.stdout) if done.returncode == 0 else None

        return until(found, f"event {event_id} is in the archive")

    def partner(self, *arguments: str, bootstrap: str = "", ca: Path | None = None) -> list[str]:
        """Command of consumer.py on this machine, where kafka.<domain> means 127.0.0.1 to it and to nobody else."""
        command = [sys.executable, str(CONSUMER), *arguments, "--ca", str(ca or self.ca)]
        command += ["--bootstrap", bootstrap or f"localhost:{KAFKA_PORT}"]
        return [*self._own_hosts(), *command]

    def _own_hosts(self) -> list[str]:
        try:
            if socket.gethostbyname(f"kafka.{self.domain}") == "127.0.0.1":
                return []
        except OSError:
            pass
        hosts = self.folder.parent / "hosts"
        names = " ".join(f"{name}.{self.domain}" for name in ("kafka", "webhooks", "console"))
        hosts.write_text(f"{Path('/etc/hosts').read_text()}\n127.0.0.1 {names}\n")
        return ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(hosts)]

    def beside(self, *command: str, name: str = "", networks: Sequence[str] = ("outside",)) -> list[str]:
        """Command of a container on the network that outsiders may join; `python` is its entry point."""
        mounts = ["--volume", f"{self.ca}:/ca.pem:ro", "--volume", f"{CONSUMER}:/consumer.py:ro"]
        run = ["docker", "run", "--rm", "--interactive", "--network", f"{self.project}_{networks[0]}", *mounts]
        run += ["--env", "PARTNER_PASSWORD", "--label", f"com.docker.compose.project={self.project}"]
        return [*run, *(["--name", name] if name else []), "--entrypoint", "python", self.image, *command]


class Reader:
    """consumer.py in the background; its lines so far."""

    def __init__(self, command: list[str], password: str, stack: Compose) -> None:
        self._lines: list[dict[str, Any]] = []
        environment = {**stack.environment, "PARTNER_PASSWORD": password}
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment, cwd=stack.folder
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                self._lines.append(json.loads(line))

    @property
    def lines(self) -> list[dict[str, Any]]:
        return list(self._lines)

    @property
    def records(self) -> list[dict[str, Any]]:
        return [line for line in self.lines if "offset" in line]

    def await_value(self, part: str, seconds: float = DEADLINE_SECONDS) -> dict[str, Any]:
        """The record whose value has `part` in it."""

        def found() -> Any:
            return next((record for record in self.records if part in record["value"]), None)

        try:
            record: dict[str, Any] = until(found, f"the consumer reads {part}", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; its last lines: {self.lines[-5:]}") from None
        return record

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join(10)


class Load:
    """A few webhooks a second from one sender, each with a number of its own; every answer is kept."""

    INTERVAL_S = 0.2

    def __init__(self, stack: Compose, name: str) -> None:
        self._stack = stack
        self._name = name
        self._ended = threading.Event()
        self.answers: list[tuple[str, int, str]] = []  # body, status (0: none), where it is stored or what went wrong
        self._thread = threading.Thread(target=self._send, daemon=True)

    def _send(self) -> None:
        password = self._stack.values()["WEBHOOK_PASSWORD"]
        while not self._ended.wait(self.INTERVAL_S):
            body = json.dumps({"load": f"{self._name}-{len(self.answers)}."})
            try:
                status, answer = self._stack.post(body, password=password)
            except (OSError, http.client.HTTPException) as error:
                self.answers.append((body, 0, repr(error)))
                continue
            self.answers.append((body, status, answer.get("stored") or answer.get("code", "")))
            if status == 401:  # the one that is in force; .env has it only when a rotation is through
                password = (self._stack.folder / ".kwb/compose/secrets/webhook_password").read_text()

    def __enter__(self) -> "Load":
        self._thread.start()
        until(lambda: len(self.answers) >= 5, "the load runs")
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(60)

    def more(self, count: int = 5) -> None:
        """Wait for so many answers after now."""
        wanted = len(self.answers) + count
        until(lambda: len(self.answers) >= wanted, f"{count} more answers")

    def statuses(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for _, status, where in self.answers:
            key = f"{status} {where}"
            found[key] = found.get(key, 0) + 1
        return found

    def acked(self) -> list[str]:
        return [body for body, status, _ in self.answers if status == 200]


def _basic(user: str, password: str) -> str:
    import base64

    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def remove(stack: Compose) -> None:
    """Whatever a failed run left of the project, and its image."""
    label = f"label=com.docker.compose.project={stack.project}"
    for kind, listing, removing in (
        ("container", ["ps", "--all", "--quiet"], ["rm", "--force", "--volumes"]),
        ("network", ["network", "ls", "--quiet"], ["network", "rm"]),
        ("volume", ["volume", "ls", "--quiet"], ["volume", "rm", "--force"]),
    ):
        found = subprocess.run(
            ["docker", *listing, "--filter", label], env=stack.environment, capture_output=True, text=True, timeout=60
        ).stdout.split()
        if found:
            print(f"removing {len(found)} {kind}s of the test", flush=True)
            subprocess.run(["docker", *removing, *found], env=stack.environment, capture_output=True, timeout=120)
    subprocess.run(["docker", "image", "rm", stack.image], env=stack.environment, capture_output=True, timeout=60)
    shutil.rmtree(stack.folder, ignore_errors=True)
