"""`make compose-up`, `down` and `clean` as a user runs them in a fresh clone."""

from __future__ import annotations

import fcntl
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from clone import EVERYTHING, Clone, refused

from compose_env import PASSWORDS


def test_compose_up_makes_what_is_missing_and_says_where_it_is(clone: Clone) -> None:
    done = clone.make("compose-up")
    assert done.returncode == 0, done.stderr
    assert clone.state()["running"] == EVERYTHING
    values = clone.env()
    for words in ("https://webhooks.localtest.me/demo", "https://console.localtest.me/", "kafka.localtest.me:29095",
                  "--cacert .kwb/compose/ca.pem", "kwb users create partner", "kwb tail demo"):  # fmt: skip
        assert words in done.stdout
    assert [name for name in PASSWORDS if values[name] in done.stdout] == []


def test_compose_up_prints_the_hosts_line_for_a_name_that_leads_elsewhere(clone: Clone) -> None:
    clone.make("env")
    clone.edit(DOMAIN_NAME="nowhere.invalid", HTTPS_PORT="8443")
    done = clone.make("compose-up")
    assert done.returncode == 0, done.stderr
    assert f"{clone.address} webhooks.nowhere.invalid console.nowhere.invalid kafka.nowhere.invalid" in done.stdout
    assert "https://webhooks.nowhere.invalid:8443/demo" in done.stdout


def test_names_that_lead_here_need_no_hosts_line() -> None:
    import local_stack

    assert local_stack.reaches_this_machine("localhost")
    assert not local_stack.reaches_this_machine("nowhere.invalid")
    assert not local_stack.reaches_this_machine("192.0.2.1"), "of a documentation network, so nobody's"


def test_compose_up_says_what_is_missing(clone: Clone) -> None:
    clone.state(version="2.17.0")
    refused(clone.make("compose-up"), "2.17.0", "2.20 or newer")
    clone.state(version="2.40.3", up=1, ps="[]")
    refused(clone.make("compose-up"), "not started", "What Docker says stands above")
    clone.docker.unlink()
    refused(clone.make("compose-up"), "docker is not here", "Install Docker Engine")


def test_an_image_that_was_not_built_is_said(clone: Clone) -> None:
    clone.state(images=[], build=1)
    refused(clone.make("compose-up"), "kafka-webhook-bridge:local was not built", "docs/howto/compose.md")
    assert clone.state()["running"] == []
    clone.state(build=0)
    assert clone.make("compose-up").returncode == 0
    assert [call[-1] for call in clone.state()["calls"] if "build" in call] == ["ingest", "ingest"], "and not again"


@pytest.mark.parametrize("port", [443, 8443, 29095])
def test_a_port_that_is_taken_is_said(clone: Clone, port: int) -> None:
    clone.make("env")
    if port != 29095:
        clone.edit(HTTPS_PORT=str(port))
    with socket.socket() as other:
        other.bind((clone.address, port))
        other.listen()
        refused(clone.make("compose-up"), f"port {port} of {clone.address} is taken", "ss -ltnp")
        assert clone.state()["running"] == []
        clone.state(running=["nginx"])
        assert clone.make("compose-up").returncode == 0, "it is the stack's own"


def test_what_the_environment_sets_is_checked_too(clone: Clone) -> None:
    refused(clone.make("compose-up", HTTPS_PORT="https"), "HTTPS_PORT must be a number")


def test_an_address_that_this_machine_has_not_is_said(clone: Clone) -> None:
    refused(clone.make("compose-up", KWB_BIND="192.0.2.1"), "192.0.2.1 is no address of this machine", "KWB_BIND")


@pytest.mark.parametrize("one_a_line", [False, True])
@pytest.mark.parametrize(
    ("states", "words"),
    [
        (
            [("postgres", "running", "healthy", 0), ("tls", "exited", "", 2)],
            ["tls ended with 2", "is not a private key"],
        ),
        ([("tls", "exited", "", 0), ("kafka", "running", "unhealthy", 0)], ["kafka is not healthy", "logs kafka"]),
        ([("tls", "exited", "", 0), ("worker", "restarting", "", 1)], ["worker ended with 1", "logs worker"]),
        ([("tls", "exited", "", 0), ("nginx", "created", "", 0)], ["nginx was not started", "If a port is taken"]),
    ],
)
def test_what_did_not_start_is_named_with_its_last_words(
    clone: Clone, states: list[tuple[str, str, str, int]], words: list[str], one_a_line: bool
) -> None:
    names = ("Service", "State", "Health", "ExitCode")
    found = [dict(zip(names, state, strict=True)) for state in states]
    said = "\n".join(map(json.dumps, found)) if one_a_line else json.dumps(found)
    clone.state(up=1, ps=said, logs="server.key is not a private key in PEM.")
    refused(clone.make("compose-up"), *words)


def shown(folder: Path) -> str:
    """What `kwb tls show` says of a certificate for another domain."""
    where = ("--folder", str(folder / "tls"), "--json", "--domain")
    kwb = [sys.executable, "-m", "kafka_webhook_bridge.cli", "tls"]
    subprocess.run([*kwb, "make", "--authority", str(folder / "authority"), *where, "other.example"], check=True)
    done = subprocess.run([*kwb, "show", *where, "localtest.me"], capture_output=True, text=True)
    assert done.returncode == 1, done
    return done.stdout


def test_a_certificate_that_clients_refuse_is_no_success(clone: Clone, tmp_path: Path) -> None:
    clone.state(certificate=shown(tmp_path))
    done = clone.make("compose-up")
    assert done.returncode != 0
    assert clone.state()["running"] == EVERYTHING
    assert "server.pem is not for webhooks.localtest.me, kafka.localtest.me" in done.stdout
    assert "Run `kwb tls make`" in done.stdout
    assert "curl" not in done.stdout
    asked = next(call for call in clone.state()["calls"] if "run" in call)
    assert asked[asked.index("--domain") + 1] == "localtest.me", "without it a certificate of another name is good"
    clone.state(certificate="no JSON")
    assert clone.make("compose-up").returncode != 0


def test_down_keeps_the_data(running: Clone) -> None:
    before = running.state()["volumes"]
    for gone in (False, True):
        if gone:
            (running.root / ".env").unlink()
        running.state(running=EVERYTHING)
        assert running.make("down").returncode == 0
        assert running.state()["running"] == []
        assert running.state()["volumes"] == before


def test_clean_does_not_remove_data_that_nobody_was_asked_about(running: Clone) -> None:
    (running.root / ".pytest_cache").mkdir()
    before = running.state()["volumes"]
    done = running.make("clean")
    refused(done, "nobody is here to be asked", "YES=1")
    assert "volume kwb_postgres" in done.stdout
    assert running.state()["volumes"] == before
    assert (running.root / ".env").exists()
    assert (running.root / ".pytest_cache").exists()


def test_clean_with_yes_removes_the_stack_and_its_data_alone(running: Clone) -> None:
    running.state(volumes=[*running.state()["volumes"], "other_postgres"])
    (running.root / ".kwb/kafka").mkdir()
    (running.root / ".pytest_cache").mkdir()
    assert running.make("clean", YES="1").returncode == 0
    assert running.state()["volumes"] == ["other_postgres"]
    assert running.state()["running"] == []
    assert not any((running.root / name).exists() for name in (".env", ".kwb/compose", ".pytest_cache"))
    assert (running.root / ".kwb/kafka").exists(), "the data of make up"
    assert running.make("env").returncode == 0


def test_clean_without_a_stack_asks_nothing(clone: Clone) -> None:
    (clone.root / ".pytest_cache").mkdir()
    assert clone.make("clean").returncode == 0
    assert not (clone.root / ".pytest_cache").exists()


def test_clean_leaves_the_environment_of_a_make_up_that_runs(clone: Clone) -> None:
    (clone.root / ".venv").mkdir()
    (clone.root / ".kwb").mkdir()
    with (clone.root / ".kwb/lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused(clone.make("clean", YES="1"), "make up", "Ctrl-C")
        assert (clone.root / ".venv").exists()
    assert clone.make("clean", YES="1").returncode == 0
    assert not (clone.root / ".venv").exists()
