"""The packet filter after an engine of our own: its rules go, everybody else's stay."""

from pathlib import Path

from compose.engine import mounts_below, without_docker

RULES = """*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:DOCKER-USER - [0:0]
-A INPUT -s 192.0.2.1/32 -j DROP
-A FORWARD -j DOCKER-USER
-A FORWARD -i br-0123456789ab -o br-0123456789ab -j ACCEPT
-A DOCKER-USER -j RETURN
COMMIT
"""


def test_only_dockers_rules_are_taken_back() -> None:
    kept = without_docker(RULES, "ACCEPT")
    assert kept.splitlines() == [
        "*filter",
        ":INPUT ACCEPT [0:0]",
        ":FORWARD ACCEPT [0:0]",
        "-A INPUT -s 192.0.2.1/32 -j DROP",
        "COMMIT",
    ]


def test_what_an_engine_leaves_mounted_is_found_from_the_inside_out() -> None:
    places = ("/proc", "/tmp/e/exec", "/tmp/e/exec/netns/default", "/tmp/ex")
    mounts = "".join(f"nsfs {place} nsfs rw 0 0\n" for place in places)
    assert mounts_below(mounts, Path("/tmp/e")) == ["/tmp/e/exec/netns/default", "/tmp/e/exec"]
