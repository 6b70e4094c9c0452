"""Failpoints do what they are asked, in a process of their own, and nothing in a process that no harness started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

HIT = (
    "from kafka_webhook_bridge.observability.failpoints import failpoint\nfor n in range(3): failpoint('a.b'); print(n)"
)


def run(fail: str, **environ: str) -> subprocess.Popen[str]:
    environ |= {"PATH": os.defpath, "KWB_FAIL": fail}
    return subprocess.Popen(
        [sys.executable, "-uc", HIT], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_only_where_a_harness_started_the_process() -> None:
    assert run("a.b:kill").communicate()[0] == "0\n1\n2\n"


@pytest.mark.parametrize(("fail", "printed", "status"), [
    ("a.b:kill", "", -signal.SIGKILL),
    ("a.b:kill:3", "0\n1\n", -signal.SIGKILL),
    ("a.b:raise:2", "0\n", 1),
    ("a.b:raise:0.999999999999", "", 1),
    ("x.y:kill", "0\n1\n2\n", 0),
])  # fmt: skip
def test_at_the_hit_that_was_asked_for(fail: str, printed: str, status: int) -> None:
    process = run(fail, KWB_HARNESS_FD="0")
    assert process.communicate()[0] == printed
    assert process.returncode == status


def test_a_stopped_process_goes_on_where_it_was() -> None:
    process = run("a.b:stop:2", KWB_HARNESS_FD="0")
    while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert process.poll() is None
    process.send_signal(signal.SIGCONT)
    assert process.communicate()[0] == "0\n1\n2\n"
