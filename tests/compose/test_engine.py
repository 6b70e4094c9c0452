"""The packet filter after an engine of our own: its rules go, everybody else's stay."""

from compose.engine import without_docker

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
