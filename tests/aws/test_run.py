"""`./aws/run.sh` as somebody types it. The task is a process of this machine that the emulator starts in ECS's place,
with the environment and the secrets of the task definition; its log goes through CloudWatch Logs."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from scene import DOMAIN, Scene, scene

from bridge import eventually

TASK = """\
#!/bin/sh
case "$1" in
  exit) echo "one line"; echo "and another"; exit "$2" ;;
  say) shift; printf '%s|' "$@"; echo ;;
  show) shift; for name in "$@"; do eval "printf '%s\\n' \\"\\$$name\\""; done ;;
  colour) printf '\\033[2Jred\\n' ;;
  wait) echo waiting; exec sleep 600 ;;
esac
"""


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("run")
    task = folder / "task"
    task.write_text(TASK)
    task.chmod(0o755)
    with scene(folder, task) as found:
        found.zone()
        found.deploy()
        yield found


def run(dev: Scene, *words: str, expect: int = 0) -> str:
    return dev.type("run", DOMAIN, "--", *words, expect=expect)


@pytest.mark.parametrize("status", [0, 1, 7])
def test_rule_3_the_exit_status_is_the_commands_and_its_log_is_shown(dev: Scene, status: int) -> None:
    said = run(dev, "kwb", "exit", str(status), expect=status)
    assert "one line\nand another\n" in said
    assert f"stage dev  domain {DOMAIN}" in said


def test_words_arrive_as_they_were_typed(dev: Scene) -> None:
    assert "a b|--json|$HOME|'|" in run(dev, "say", "a b", "--json", "$HOME", "'")


def test_the_task_has_the_configuration_and_the_secrets_of_the_stack(dev: Scene) -> None:
    said = run(dev, "kwb", "show", "KWB_CONFIG", "KWB_SECRETS_JSON", "KWB_USERS_SECRET_PREFIX")
    assert "kwb-smoke: {topic: kwb.smoke}" in said
    assert "\n{}\ndev-webhooks/users/\n" in said


def test_a_log_cannot_move_the_cursor(dev: Scene) -> None:
    said = run(dev, "kwb", "colour")
    assert "\x1b" not in said
    assert "\\x1b[2Jred" in said


def test_ctrl_c_ends_the_task_too(dev: Scene) -> None:
    process = dev.start("run", DOMAIN, "--", "kwb", "wait")
    assert process.stdout is not None
    said = ""
    while "waiting" not in said:
        line = process.stdout.readline()
        assert line, said
        said += line
    process.send_signal(signal.SIGINT)
    said += process.communicate(timeout=60)[0]
    assert process.returncode == 130, said
    ecs = dev.emulator.client("ecs")

    def gone() -> bool:
        arns = ecs.list_tasks(cluster="dev-webhooks", family="dev-webhooks-admin", desiredStatus="RUNNING")["taskArns"]
        return not arns

    eventually(gone, "the task is stopped")


def test_wrong_use(dev: Scene) -> None:
    assert "No command is given" in dev.type("run", DOMAIN, expect=2)
    assert "No command is given" in dev.type("run", DOMAIN, "--", expect=2)
    assert "unrecognized arguments" in dev.type("run", DOMAIN, "doctor", expect=2)


def test_a_task_that_does_not_start_is_told(dev: Scene) -> None:
    dev.emulator.faults(task="CannotPullContainerError: no way to the repository")
    said = run(dev, "kwb", "exit", "0", expect=1)
    assert "The task did not run: CannotPullContainerError: no way to the repository" in said
    dev.emulator.faults()


def test_the_tests_of_this_folder_reach_nothing_but_loopback(dev: Scene) -> None:
    assert dev.environ["AWS_ENDPOINT_URL"].startswith("http://127.0.0.1:")
    assert not Path(dev.environ["AWS_SHARED_CREDENTIALS_FILE"]).exists()
    assert "AWS_PROFILE" not in dev.environ or os.environ.get("AWS_PROFILE") is None
