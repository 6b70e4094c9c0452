"""The verification's judgements one by one: ECS, load balancers and the outside world are played here.

What is really there is met in test_verify.py.
"""

# ruff: noqa: N803  # arguments are called as AWS calls them

from __future__ import annotations

import http.client
import re
import socket
from collections.abc import Callable
from typing import Any

import pytest
from deployment.account import Account
from deployment.arguments import parse
from deployment.errors import Failed, Unverified
from deployment.output import Output
from deployment.tasks import Admin
from deployment.verify import Outside, Reach, Running
from rich.console import Console

from deployment import tasks, verify

NEW, OLD = "registry/bridge:new", "registry/bridge:old"
SERVICES = ("dev-webhooks-ingest", "dev-webhooks-worker")
GROUP = "arn:aws:elasticloadbalancing:eu-central-1:1:targetgroup/dev-webhooks-ingest-8080/1"


class World:
    """Services that run what they should, with a healthy target, until a test changes that."""

    def __init__(self) -> None:
        self.images = {name: [NEW] for name in SERVICES}
        self.services = {name: {"runningCount": 1, "desiredCount": 1} for name in SERVICES}
        self.deployments = {name: [{"status": "PRIMARY", "rolloutState": "COMPLETED"}] for name in SERVICES}
        self.targets = ["healthy"]
        self.account = Account("1", "eu-central-1", "who", None, {"ecs": self, "elbv2": self})

    def describe_services(self, cluster: str, services: list[str]) -> dict[str, Any]:
        rows = [
            {"serviceName": name, "status": "ACTIVE", "deployments": self.deployments[name], **self.services[name]}
            for name in services
        ]
        return {"services": rows}

    def list_tasks(self, cluster: str, serviceName: str) -> dict[str, Any]:
        return {"taskArns": [f"{serviceName}/{number}" for number in range(len(self.images[serviceName]))]}

    def describe_tasks(self, cluster: str, tasks: list[str]) -> dict[str, Any]:
        found = []
        for arn in tasks:
            service, _, number = arn.partition("/")
            container = service.rpartition("-")[2]
            image = self.images[service][int(number)]
            found.append({"containers": [{"name": container, "image": image}, {"name": "migrate", "image": OLD}]})
        return {"tasks": found}

    def describe_target_health(self, TargetGroupArn: str) -> dict[str, Any]:
        return {"TargetHealthDescriptions": [{"TargetHealth": {"State": state}} for state in self.targets]}

    def check(self) -> None:
        Running(self.account, Output(), "dev-webhooks", dict.fromkeys(SERVICES, NEW), (GROUP,), 0.01).check()


def old_image_of_the_second(world: World) -> None:
    world.images[SERVICES[1]] = [OLD]


def old_image_of_one_task(world: World) -> None:
    world.images[SERVICES[0]] = [NEW, OLD]


def no_target(world: World) -> None:
    world.targets = []


def targets_on_their_way_out_alone(world: World) -> None:
    world.targets = ["draining"]


def one_target_ill(world: World) -> None:
    world.targets = ["healthy", "unhealthy"]


def too_few_tasks(world: World) -> None:
    world.services[SERVICES[1]]["desiredCount"] = 2


def an_older_deployment(world: World) -> None:
    world.deployments[SERVICES[1]].append({"status": "ACTIVE", "rolloutState": "COMPLETED"})


@pytest.mark.parametrize(
    ("slip", "said"),
    [
        (old_image_of_the_second, f"dev-webhooks-worker runs {OLD}, and {NEW} was asked for"),
        (old_image_of_one_task, f"dev-webhooks-ingest runs {OLD}"),
        (no_target, "dev-webhooks-ingest-8080: no target"),
        (targets_on_their_way_out_alone, "dev-webhooks-ingest-8080: no target"),
        (one_target_ill, "dev-webhooks-ingest-8080: healthy, unhealthy"),
        (too_few_tasks, "dev-webhooks-worker: 1 of 2 tasks run"),
        (an_older_deployment, "dev-webhooks-worker is being deployed"),
    ],
)
def test_what_runs_is_judged_service_by_service(slip: Callable[[World], None], said: str) -> None:
    world = World()
    world.check()
    slip(world)
    with pytest.raises(Unverified, match=said):
        world.check()


# ── from outside ──────────────────────────────────────────────────────────────────────────────────────────────────────

TAKEN = b'{"event_id": "e-1", "stored": "kafka"}'


class Played(Outside):
    """`answers` to what is asked for: without a body, without credentials, with them; several in turn."""

    answers: dict[str, list[tuple[int, bytes] | Exception]]

    def _ask(self, method: str, path: str, body: bytes = b"", *, login: bool = False) -> tuple[int, bytes]:
        rows = self.answers["GET" if method == "GET" else "with" if login else "without"]
        found = rows.pop(0) if len(rows) > 1 else rows[0]
        if isinstance(found, Exception):
            raise found
        return found


def look(limit_s: float = 0.01, kafka: tuple[str, int] | None = None, **changed: Any) -> None:
    """A verification from outside."""
    # A class of its own, because Outside has slots.
    own = type(
        "Own", (Played,), {"answers": {"GET": [(200, b"")], "without": [(401, b"")], "with": [(200, TAKEN)], **changed}}
    )
    outside = own("example.test", "kwb-smoke", ("webhook", "x"), Reach(), kafka, limit_s=limit_s)
    outside.check(Admin(Account("1", "eu", "who", None), Output(), {}), "dev-webhooks/users/", Output())


CLOSED = http.client.RemoteDisconnected("Remote end closed connection without response")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"GET": [CLOSED]}, "Remote end closed connection"),
        ({"GET": [(500, b"")]}, "/health answers 500"),
        ({"without": [CLOSED]}, "Remote end closed connection"),
        ({"without": [TimeoutError()]}, "TimeoutError"),
        ({"without": [(200, TAKEN)]}, "answered 200, and should be 401"),
        ({"without": [(403, b"")]}, "answered 403, and should be 401"),
        ({"with": [CLOSED]}, "Remote end closed connection"),
        ({"with": [ConnectionResetError(104, "reset by peer")]}, "reset by peer"),
        ({"with": [(503, b"")]}, "no durable place yet"),
        ({"with": [(401, b"who?")]}, "answered 401: who?"),
        ({"with": [(200, b"<html>hello</html>")]}, "answered 200, and not by the bridge: <html>hello"),
        ({"with": [(200, b"[]")]}, "and not by the bridge"),
        ({"with": [(202, b'{"event_id": "e-1"}')]}, "and not by the bridge"),
        ({"with": [(200, b"\xff")]}, "and not by the bridge"),
        ({"with": [(200, b'{"event_id": "e-1", "stored": "store"}')]}, "Kafka did not take the event in time"),
    ],
)
def test_whatever_the_outside_answers_is_a_verdict(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(Unverified, match=said):
        look(**changed)


def test_what_passes_is_asked_again() -> None:
    look()
    look(60, GET=[CLOSED, (200, b"")], without=[CLOSED, (401, b"")], **{"with": [CLOSED, (503, b""), (200, TAKEN)]})


class Consumer:
    """Lets everybody in."""

    def close(self) -> None:
        pass


def test_rule_7_a_wrong_password_is_refused_by_the_broker_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    from kafka.errors import KafkaTimeoutError, SaslAuthenticationFailedError

    monkeypatch.setattr(verify, "smoke_password", lambda *_: "right")
    monkeypatch.setattr(verify.Outside, "_read", lambda *_: None)
    monkeypatch.setattr(verify.Outside, "_consumer", lambda *_: Consumer())
    with pytest.raises(Unverified, match="let a wrong password in"):
        look(kafka=("127.0.0.1", 1))

    def refused(*_: object) -> None:
        verify.logging.getLogger("kafka.net.manager").warning("failed: %s", SaslAuthenticationFailedError())
        raise KafkaTimeoutError

    monkeypatch.setattr(verify.Outside, "_consumer", refused)
    look(kafka=("127.0.0.1", 1))
    monkeypatch.undo()
    monkeypatch.setattr(verify, "smoke_password", lambda *_: "right")
    monkeypatch.setattr(verify.Outside, "_read", lambda *_: None)
    monkeypatch.setattr(verify, "_REFUSED_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(Unverified, match="could not be seen: "):
        look(kafka=("127.0.0.1", port))


# ── a task ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Ecs:
    """Knows of a task `late` looks after it was started."""

    def __init__(self, late: int) -> None:
        self.late = late
        self.stopped = False

    def run_task(self, **_: Any) -> dict[str, Any]:
        return {"tasks": [{"taskArn": "arn:aws:ecs:eu-central-1:1:task/dev-webhooks/1"}], "failures": []}

    def describe_task_definition(self, taskDefinition: str) -> dict[str, Any]:
        return {"taskDefinition": {"containerDefinitions": [{"name": "admin"}]}}

    def describe_tasks(self, cluster: str, tasks: list[str]) -> dict[str, Any]:
        self.late -= 1
        if self.late >= 0:
            return {"tasks": [], "failures": [{"arn": tasks[0], "reason": "MISSING"}]}
        return {"tasks": [{"lastStatus": "STOPPED", "containers": [{"name": "admin", "exitCode": 7}]}]}

    def stop_task(self, **_: Any) -> None:
        self.stopped = True


def run(ecs: Ecs) -> int:
    outputs = dict.fromkeys(("ClusterName", "AdminTaskDefinition", "AdminSubnets", "AdminSecurityGroup"), "x")
    return Admin(Account("1", "eu", "who", None, {"ecs": ecs}), Output(), outputs).run(["doctor"], print)


def test_a_task_that_ecs_does_not_know_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_TAIL_S", 0.01)
    assert run(Ecs(3)) == 7
    monkeypatch.setattr(tasks, "START_S", 0.01)
    never = Ecs(1000)
    with pytest.raises(Failed, match="did not start"):
        run(never)
    assert never.stopped


# ── what a person sees ────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_table_that_is_too_wide_for_a_terminal_can_still_be_copied(capsys: pytest.CaptureFixture[str]) -> None:
    name, value = f"_{'a' * 40}.webhooks.bridge.example.com.", f"_{'b' * 40}.acm-validations.aws."
    for width, fits in ((80, False), (160, True)):
        out = Output()
        out._out = Console(force_terminal=True, width=width, highlight=False, soft_wrap=True, no_color=True)
        out.table(("name", "type", "value", "because of"), [(name, "CNAME", value, "")])
        said = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
        assert name in said
        assert value in said
        assert ("because of" in said) is fits
        assert all(len(line) <= width for line in said.splitlines())


def test_run_shows_how_it_is_typed(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--help"], ["example.test", "--help"]):
        with pytest.raises(SystemExit) as ended:
            parse(["run", *words], {})
        assert ended.value.code == 0
        assert "usage: run.sh [-h] subdomain -- kwb command" in capsys.readouterr().out
