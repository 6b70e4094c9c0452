"""What is held against the stack that runs. Each check says what it saw; AssertionError or NotRun otherwise.

They run in the order of CHECKS, each on what the ones before left.
"""

import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from compose import changes
from compose.scene import PARTNER, TOPIC, NotRun, Scene
from compose.stack import BRIDGE, KAFKA_PORT, ONCE, ROOT, RUNNING, until
from compose.standins import RECIPES


def healthy(scene: Scene) -> str:
    """Every service is healthy; what runs once has ended well."""
    stack = scene.stack
    for service in RUNNING:
        state = scene.stack.inspect(service)["State"]
        assert state["Health"]["Status"] == "healthy", f"{service}: {state['Health']}"
    for service in ONCE:
        state = scene.stack.inspect(service)["State"]
        assert (state["Status"], state["ExitCode"]) == ("exited", 0), f"{service}: {state}"
    probe = ("python", "-m", "kafka_webhook_bridge.health", "--path", "/health/ready")

    def ready(service: str) -> bool:
        return stack.done("docker", "compose", "exec", "-T", service, *probe).returncode == 0

    for service in ("ingest", "worker", "console"):  # healthy is alive; ready is more
        until(lambda service=service: ready(service), f"{service} is ready")
    return f"{len(RUNNING)} healthy, ingest, worker and console ready, {' and '.join(ONCE)} ended with 0"


def published(scene: Scene) -> str:
    """Only nginx is reachable, by two ports on loopback."""
    stack = scene.stack
    found = {}
    for service in (*RUNNING, *ONCE):
        ports = stack.inspect(service)["NetworkSettings"]["Ports"] or {}
        for port, bindings in ports.items():
            for binding in bindings or []:
                found[service, port] = f"{binding['HostIp']}:{binding['HostPort']}"
    assert found == {
        ("nginx", "443/tcp"): f"127.0.0.1:{stack.https_port}",
        ("nginx", f"{KAFKA_PORT}/tcp"): f"127.0.0.1:{KAFKA_PORT}",
    }, found
    return ", ".join(f"{service} {port} on {where}" for (service, port), where in found.items())


def webhook(scene: Scene) -> str:
    """A webhook by curl through HTTPS, found in the archive by the command in the container."""
    stack, values = scene.stack, scene.stack.values()
    host = f"webhooks.{stack.domain}"
    answer = stack.run(
        "curl", "--silent", "--show-error", "--cacert", str(stack.ca), "--resolve",
        f"{host}:{stack.https_port}:127.0.0.1", "--user", f"{values['WEBHOOK_USERNAME']}:{values['WEBHOOK_PASSWORD']}",
        "--header", "Content-Type: application/json", "--data", '{"order":{"id":1234,"text":"Grüße ✓"}}',
        "--write-out", "\n%{http_code} %{ssl_verify_result}", f"https://{host}:{stack.https_port}/{TOPIC}",
    )  # fmt: skip
    body, _, code = answer.rpartition("\n")
    assert code == "200 0", answer
    receipt = json.loads(body)
    assert receipt["stored"] == "kafka", receipt
    scene.marker = receipt["event_id"]
    stack.archived(scene.marker)
    found = stack.kwb("events", "search", "--source", TOPIC, "--json-contains", '{"order":{"id":1234}}')
    assert [event["event_id"] for event in found["events"]] == [scene.marker], found
    text = stack.inside("worker", "kwb", "events", "show", scene.marker, "--body")
    assert text == '{"order":{"id":1234,"text":"Grüße ✓"}}', text
    return f"200, {scene.marker}, byte for byte in the archive"


def edge(scene: Scene) -> str:
    """What nginx refuses by itself, and the console behind its login."""
    stack, values = scene.stack, scene.stack.values()

    def status(name: str, path: str, *more: str) -> str:
        return stack.run(
            "curl", "--silent", "--output", "/dev/null", "--cacert", str(stack.ca), "--resolve",
            f"{name}:{stack.https_port}:127.0.0.1", "--write-out", "%{http_code}", *more,
            f"https://{name}:{stack.https_port}{path}",
        )  # fmt: skip

    webhooks, console = f"webhooks.{stack.domain}", f"console.{stack.domain}"
    login = f"{values['CONSOLE_USERNAME']}:{values['CONSOLE_PASSWORD']}"
    seen = {
        "health is hidden": (status(webhooks, "/health/ready"), "404"),
        "wrong password": (status(webhooks, "/demo", "--user", "webhook:wrong", "--data", "{}"), "401"),
        "console without a login": (status(console, "/"), "401"),
        "console with one": (status(console, "/", "--user", login), "200"),
        "the console's data": (status(console, f"/api/v1/events/{scene.marker}", "--user", login), "200"),
    }
    assert all(got == wanted for got, wanted in seen.values()), seen
    context = ssl.create_default_context(cafile=stack.ca)
    try:
        with socket.create_connection(("127.0.0.1", stack.https_port), timeout=30) as plain:
            context.wrap_socket(plain, server_hostname="elsewhere.example")
        raise AssertionError("a handshake for a foreign name succeeded")
    except ssl.SSLError as error:
        alert = error.reason
    with socket.create_connection(("127.0.0.1", stack.https_port), timeout=30) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 400 " in plain.recv(100)
    return ", ".join(f"{what} {got}" for what, (got, _) in seen.items()) + f", foreign name {alert}, plain HTTP 400"


def partner_made(scene: Scene) -> str:
    """One command makes an outside consumer."""
    stack = scene.stack
    command = ("kwb", "users", "create", PARTNER, "--topics", TOPIC, "--group-prefix", PARTNER, "--json")
    done = stack.done("docker", "compose", "exec", "-T", "worker", *command)
    if "No such command" in done.stderr:
        raise NotRun("this version has no `kwb users`")
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    scene.password = made["password"]
    stack.secrets.add(scene.password)
    return f"`{' '.join(command)}`"


def read_from_host(scene: Scene) -> str:
    """A stock client on this machine, by localhost:29095, with the name checked."""
    receipt = scene.stack.accepted('{"read":"from the host."}')
    record = scene.reading().await_value("from the host.")
    assert record["value"] == '{"read":"from the host."}'
    return f"{receipt['event_id']} at partition {record['partition']}, offset {record['offset']}"


def read_from_container(scene: Scene) -> str:
    """A container on the network `outside` reads by kafka.<domain>, and reaches nothing but nginx."""
    stack = scene.stack
    if not scene.password:
        raise NotRun("there is no partner")
    stack.accepted('{"read":"from a container."}')
    options = ["read", "--ca", "/ca.pem", "--user", PARTNER, "--topic", TOPIC, "--group", f"{PARTNER}.container"]
    options += ["--bootstrap", f"kafka.{stack.domain}:{KAFKA_PORT}", "--until", "from a container."]
    status, lines = scene.partner_ends(stack.beside("/consumer.py", *options))
    values = [line["value"] for line in lines if "value" in line]
    assert status == 0, lines
    assert '{"read":"from a container."}' in values, lines
    return f"{len(values)} records from the beginning, by kafka.{stack.domain}"


_DOORS = """
import json, socket, sys
def opens(host, port):
    try:
        socket.create_connection((host, port), timeout=3).close()
        return True
    except OSError:
        return False
print(json.dumps([where for where in json.loads(sys.argv[1]) if opens(*where)]))
"""


def outsiders(scene: Scene) -> str:
    """From `outside` nothing but nginx answers, neither by name nor by address; nginx itself cannot see PostgreSQL."""
    stack = scene.stack
    doors: list[tuple[str, int]] = [
        ("ingest", 8080),
        ("guard", 9096),
        ("kafka", 9094),
        ("kafka", 9096),
        ("postgres", 5432),
    ]
    for service, network, ports in (
        ("ingest", "front", (8080, 8081)), ("console", "front", (8081,)),
        ("guard", "front", (9096,)), ("kafka", "front", (9094, 9095, 9096)),
        ("kafka", "back", (9094,)), ("postgres", "back", (5432,)),
    ):  # fmt: skip
        doors += [(stack.address(service, network), port) for port in ports]
    control = ("nginx", 443)
    opened = json.loads(stack.run(*stack.beside("-c", _DOORS, json.dumps([control, *doors]))))
    assert opened == [list(control)], f"open from outside: {opened}"
    said = stack.inside("nginx", "curl", "-sS", "--max-time", "3", "telnet://postgres:5432", check=False)
    assert "resolve host" in said, said
    return f"{len(doors)} doors closed, nginx 443 open"


@contextmanager
def _world() -> Iterator[str]:
    """An address that this machine can route to, as the internet is for others; port 80 is open there."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        raise NotRun("needs root and an engine on this machine")
    here, there, space = "198.51.100.1", "198.51.100.2", "kwbworld"
    commands = (
        f"ip netns add {space}",
        f"ip link add kwbworld0 type veth peer name kwbworld1 netns {space}",
        f"ip address add {here}/30 dev kwbworld0",
        "ip link set kwbworld0 up",
        f"ip -n {space} address add {there}/30 dev kwbworld1",
        f"ip -n {space} link set kwbworld1 up",
    )
    try:
        for command in commands:
            subprocess.run(command.split(), check=True, capture_output=True, timeout=30)
        server = subprocess.Popen(
            ["ip", "netns", "exec", space, sys.executable, "-m", "http.server", "80", "--bind", there],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=RECIPES,
        )  # fmt: skip
        try:
            until(lambda: _opens(there, 80), "the world answers this machine")
            yield there
        finally:
            server.terminate()
            server.wait(10)
    finally:
        subprocess.run(["ip", "netns", "delete", space], capture_output=True, timeout=30)
        subprocess.run(["ip", "link", "delete", "kwbworld0"], capture_output=True, timeout=30)


def _opens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=3).close()
    except OSError:
        return False
    return True


def way_out(scene: Scene) -> str:
    """What `outside` reaches beyond this machine, no service inside does."""
    stack = scene.stack
    with _world() as world:
        opened = json.loads(stack.run(*stack.beside("-c", _DOORS, json.dumps([(world, 80)]))))
        assert opened == [[world, 80]], "a container on `outside` has no way out, so this would prove nothing"
        for service in (*BRIDGE, "guard"):
            opened = json.loads(stack.inside(service, "python", "-c", _DOORS, json.dumps([(world, 80)])))
            assert opened == [], f"{service} has a way out"
        for service in ("kafka", "postgres"):
            attempt = f"timeout 3 bash -c '</dev/tcp/{world}/80' && echo open || echo closed"
            said = stack.inside(service, "bash", "-c", attempt, check=False)
            assert said.strip().endswith("closed"), f"{service}: {said}"
    return "a container on `outside` reaches an address beyond this machine; the six services inside do not"


def refused(scene: Scene) -> str:
    """The partner may not produce; a wrong password, no TLS and another authority get nobody in."""
    stack = scene.stack
    if not scene.password:
        raise NotRun("there is no partner")
    common = ("--user", PARTNER, "--topic", TOPIC)
    assert scene.partner_ends(stack.partner("login", *common))[0] == 0
    status, lines = scene.partner_ends(stack.partner("produce", *common))
    refusal = next(line["refusal"] for line in lines if "refusal" in line)
    assert (status, refusal) == (1, "TOPIC_AUTHORIZATION_FAILED"), lines
    seen = [f"produce {refusal}"]
    foreign = stack.folder.parent / "foreign.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=foreign", "-days", "1"]
    stack.run(*command, "-keyout", "/dev/null", "-out", str(foreign))
    for what, arguments, password, expected in (
        ("wrong password", stack.partner("login", *common), "wrong", "_AUTHENTICATION"),
        ("no TLS", stack.partner("login", *common, "--protocol", "SASL_PLAINTEXT"), None, "_TRANSPORT"),
        ("another authority", stack.partner("login", *common, ca=foreign), None, "_SSL"),
    ):
        status, lines = scene.partner_ends(arguments, password)
        errors = {line.get("error") or line.get("refusal") for line in lines}
        assert status == 1, lines
        assert expected in errors, lines
        seen.append(f"{what} {expected}")
    _, lines = scene.partner_ends(stack.partner("login", *common))
    topics = next(line["topics"] for line in lines if "topics" in line)
    assert topics == [TOPIC], topics
    return ", ".join([*seen, f"it sees {topics}"])


def confined(scene: Scene) -> str:
    """Users, capabilities, privileges and file systems of the processes themselves."""
    stack = scene.stack
    host = stack.values()["HOST_UID"]
    users = {**dict.fromkeys((*BRIDGE, "guard"), "10001"), "nginx": host, "kafka": "1000", "postgres": "999"}
    for service, wanted in users.items():
        status = dict(
            line.split(":\t", 1)
            for line in stack.inside(service, "cat", "/proc/1/status").splitlines()
            if ":\t" in line
        )
        assert set(status["Uid"].split()) == {wanted}, f"{service}: Uid {status['Uid']}"
        for name in ("CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb"):
            assert int(status[name], 16) == 0, f"{service}: {name} {status[name]}"
        assert status["NoNewPrivs"] == "1", service
        mounts = [line.split() for line in stack.inside(service, "cat", "/proc/mounts").splitlines()]
        root = next(mount[3].split(",") for mount in mounts if mount[1] == "/")
        assert ("ro" in root) == (service in (*BRIDGE, "guard", "nginx")), f"{service}: / is {root[0]}"
        config = stack.inspect(service)["HostConfig"]
        assert config["Memory"] > 0, service
        assert config["NanoCpus"] > 0, service
        assert config["PidsLimit"] > 0, service
        assert config["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "3"}, service
    return (
        "uids "
        + ", ".join(f"{service} {uid}" for service, uid in users.items())
        + ("; CapEff, CapBnd 0 and NoNewPrivs 1 in all; / read-only in the bridge and nginx; limits and log rotation")
    )


def secrets_hidden(scene: Scene) -> str:
    """No password in any container's inspection, log or command line, nor in the image's history."""
    stack = scene.stack
    stack.values()
    listed = stack.docker("ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={stack.project}")
    containers = listed.split()
    places = {
        "docker inspect": stack.docker("inspect", *containers),
        "logs": "".join([*stack.old_logs, stack.compose("logs", "--no-color")]),
        "image": stack.docker("image", "inspect", stack.image) + stack.docker("history", "--no-trunc", stack.image),
        "command lines": "".join(stack.compose("top").splitlines(keepends=True)),
        "docker compose config": stack.compose("config"),
        "Kafka's settings": stack.inside("kafka", "cat", "/opt/kafka/config/server.properties"),
    }
    # Each place is one where something of the stack can be found, so that an empty text proves nothing.
    for where, known in (
        ("docker inspect", "DOMAIN_NAME"), ("logs", "topic made"), ("image", "10001"), ("command lines", "kwb"),
        ("docker compose config", "WEBHOOK_USERNAME"), ("Kafka's settings", "super.users"),
    ):  # fmt: skip
        assert known in places[where], f"{where}: {known} is not there"
    assert len(stack.secrets) >= 5
    for where, text in places.items():
        for secret in stack.secrets:
            assert secret not in text, f"{where}: a password is in it: …{text[max(0, text.find(secret) - 80) :][:80]}"
    return f"{len(stack.secrets)} passwords, old and new, in none of: {', '.join(places)}"


def image(scene: Scene) -> str:
    """Labels, user, list of parts; any user may run it, with nothing but reading."""
    stack = scene.stack
    found = json.loads(stack.docker("image", "inspect", stack.image))[0]
    config = found["Config"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["kwb"]
    label = "org.opencontainers.image."
    labels = {name.removeprefix(label): value for name, value in config["Labels"].items() if name.startswith(label)}
    assert labels["revision"] == scene.commit, labels
    assert labels["licenses"] == "Apache-2.0"
    assert labels["version"], labels
    assert config["Healthcheck"]["Test"][0] == "CMD", "the health check needs a shell"
    bare = ["run", "--rm", "--read-only", "--cap-drop", "ALL", "--network", "none"]
    version = stack.docker(*bare, "--user", "12345:12345", stack.image, "--version").strip()
    parts = json.loads(stack.docker(*bare, "--entrypoint", "cat", stack.image, "/app/sbom.cdx.json"))
    names = {part["name"] for part in parts["components"]}
    locked = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements/aws.txt").read_text(), re.MULTILINE))
    lacking = {name for name in locked if name.replace("-", "_") not in {n.lower().replace("-", "_") for n in names}}
    # Some of the lock is for other systems.
    assert len(lacking) <= 3, f"not in the list of parts: {lacking}"
    dockerfile = (stack.folder / "Dockerfile").read_text()
    base = re.search(r"^ARG PYTHON_IMAGE=(\S+)$", dockerfile, re.MULTILINE)
    assert base is not None
    below = json.loads(stack.docker("image", "inspect", base[1]))[0]
    ours = len(found["RootFS"]["Layers"]) - len(below["RootFS"]["Layers"])
    scene.numbers["our layers of the image"] = f"{ours} layers, {(found['Size'] - below['Size']) / 1e6:.0f} MB"
    scene.numbers["the whole image, on its base here"] = f"{found['Size'] / 1e6:.0f} MB"
    scene.numbers["parts in its SBOM"] = str(len(names))
    return f"`{version}` as uid 12345, read-only; revision {labels['revision'][:12]}; CycloneDX {parts['specVersion']}"


CHECKS: tuple[tuple[str, Callable[[Scene], str]], ...] = (
    ("all services are healthy", healthy),
    ("only nginx is published", published),
    ("a webhook through HTTPS, found in the archive", webhook),
    ("edge and console", edge),
    ("`kwb users create`", partner_made),
    ("read from this machine by localhost:29095", read_from_host),
    ("read from a second container", read_from_container),
    ("refused: produce, wrong password, no TLS, another authority", refused),
    ("nothing else answers from outside", outsiders),
    ("no way out of the internal networks", way_out),
    ("users, capabilities, read-only, limits", confined),
    ("a new certificate by reload of nginx", changes.reload),
    ("Kafka comes back at another address", changes.broker_moves),
    ("PostgreSQL is stopped", changes.postgres_away),
    ("Kafka is stopped", changes.kafka_away),
    ("`make env-rotate` under load", changes.rotated),
    ("`make down`, `make compose-up`", changes.down_and_up),
    ("passwords show nowhere", secrets_hidden),
    ("the image", image),
    ("`make clean`", changes.cleaned),
)
