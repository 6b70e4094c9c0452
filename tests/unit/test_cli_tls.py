"""`kwb tls` as a stranger meets it, and as the container runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from authority import DAY, key_pem
from certificate_world import DOMAIN, NAMES, NOW, Place, shake

NOBODY = 65_534


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def kwb(*arguments: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "kafka_webhook_bridge.cli", "tls", *map(str, arguments)],
        env={"COLUMNS": "250"}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done


def test_the_command_makes_and_shows(place: Place) -> None:
    arguments = ("--domain", DOMAIN, "--folder", place.folder, "--authority", place.authority)
    made = json.loads(kwb("make", *arguments, "--json").stdout)
    assert len(made["done"]) == 3
    assert (set(made["names"]), made["own"], made["verified"], made["troubles"]) == (NAMES, False, True, [])
    shown = kwb("show", "--folder", place.folder)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert f"kafka.{DOMAIN}" in shown.stdout
    assert "in 395 days" in shown.stdout
    found = json.loads(kwb("show", "--folder", place.folder, "--json").stdout)
    assert found["days_left"] == 395
    assert {name: found[name] for name in made if name != "done"} == found


def test_show_ends_with_1_when_clients_refuse(place: Place) -> None:
    missing = kwb("show", "--folder", place.folder)
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "`kwb tls make` makes it." in missing.stderr
    place.make(now=NOW - 390 * DAY)
    soon = kwb("show", "--folder", place.folder)
    assert soon.returncode == 1
    assert "it expires on" in soon.stderr
    place.make(now=NOW - 390 * DAY, renew=True)
    place.make(renew=True)
    other = kwb("show", "--folder", place.folder, "--domain", "other.example", "--json")
    assert other.returncode == 1
    assert [trouble["what"] for trouble in json.loads(other.stdout)["troubles"]] == [
        f"{place.pem} is not for webhooks.other.example, kafka.other.example, console.other.example."
    ]
    place.key.write_bytes(key_pem(ec.generate_private_key(ec.SECP256R1())))
    assert "another certificate's key" in kwb("show", "--folder", place.folder).stderr


# The interpreter may stand where only root reads, so it imports everything before it becomes somebody else.
BECOME = f"""
import os, sys
from kafka_webhook_bridge.cli import main
scratch = sys.argv.pop(1)
assert main(["tls", "make", "--domain", "x", "--folder", scratch + "/f", "--authority", scratch + "/a"]) == 0
sys.stdout.flush()
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
print("—")
sys.exit(main(["tls", *sys.argv[1:]]))
"""


def as_nobody(place: Place, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`kwb tls make` as in the container: an arbitrary user, no home, nothing in the environment."""
    options = ("--domain", DOMAIN, "--folder", str(place.folder), "--authority", str(place.authority))
    done = subprocess.run(
        [sys.executable, "-B", "-c", BECOME, place.root / "scratch", "make", *options, *arguments],
        env={"COLUMNS": "250", "HOME": "/nowhere"}, cwd="/",
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    done.stdout = done.stdout.partition("—\n")[2]
    return done


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")


@pytest.fixture
def passable(place: Place) -> Place:
    """A place that another user gets to."""
    for parent in (place.root, *place.root.parents):
        if parent.stat().st_uid == 0 and parent != Path("/") and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    return place


@needs_root
def test_as_an_arbitrary_user_without_a_home(passable: Place) -> None:
    for folder in (passable.folder, passable.authority):
        folder.mkdir()
        os.chown(folder, NOBODY, NOBODY)
    done = as_nobody(passable)
    assert (done.returncode, done.stderr) == (0, "")
    assert {path.stat().st_uid for path in (passable.ca, passable.pem, passable.key)} == {NOBODY}
    assert "Nothing to do" in as_nobody(passable).stdout
    assert shake(passable, "localhost") == "TLSv1.3"


@needs_root
@pytest.mark.parametrize("closed", ["folder", "authority"])
def test_a_folder_that_cannot_be_written(passable: Place, closed: str) -> None:
    for folder in (passable.folder, passable.authority):
        folder.mkdir()
        os.chown(folder, NOBODY, NOBODY)
    path = getattr(passable, closed)
    os.chown(path, 0, 0)
    done = as_nobody(passable)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {path} cannot be used by user id {NOBODY}: Permission denied.\nhint: ")
    assert "HOST_UID" in done.stderr


@needs_root
def test_keys_of_another_user_are_told(passable: Place) -> None:
    passable.make()
    for folder in (passable.folder, passable.tls, passable.authority):
        os.chown(folder, NOBODY, NOBODY)
    done = as_nobody(passable)
    assert done.returncode == 1
    assert "cannot be" in done.stderr
    assert "Permission denied" in done.stderr
