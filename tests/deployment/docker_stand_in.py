#!/usr/bin/env python3
"""A `docker` for the tests of tools/compose_env.py: it remembers what it was asked and what the servers then hold.

Its state is the JSON file $STAND_IN: `volumes`, `images`, `running`, `roles`, `held` (what each service last read of
its secrets), and `fail` or `kill`: the number of the call that fails, or that ends whoever called with SIGKILL, `after`
it was carried out or before. `up`, `build`: their exit status; `ps`, `logs`, `certificate`: what these commands say.
"""

import json
import os
import re
import signal
import sys
from pathlib import Path

STATE = Path(os.environ["STAND_IN"])
SERVICES = ["postgres", "kafka", "ingest", "worker", "console", "nginx"]
BRIDGE = ["kafka_password", "webhook_password", "database_url"]
SECRETS = {
    "ingest": BRIDGE, "worker": BRIDGE, "console": [*BRIDGE, "console_password"], "kafka": ["kafka_password"],
}  # fmt: skip


def main() -> int:
    state = json.loads(STATE.read_text())
    arguments = sys.argv[1:]
    state["calls"].append(arguments)
    number = len(state["calls"])
    if state.get("fail") == number:
        STATE.write_text(json.dumps(state))
        print("Error response from daemon: no", file=sys.stderr)
        return 1
    if state.get("kill") == number and not state.get("after"):
        STATE.write_text(json.dumps(state))
        os.kill(os.getppid(), signal.SIGKILL)
        return 1
    output, status = carry_out(state, arguments)
    STATE.write_text(json.dumps(state))
    if state.get("kill") == number:
        os.kill(os.getppid(), signal.SIGKILL)
    print(output)
    return status


def carry_out(state: dict, arguments: list) -> tuple:
    if arguments[:2] == ["volume", "ls"]:
        return "\n".join(state["volumes"]), 0
    if arguments[:2] == ["image", "inspect"]:
        return "sha256:1", 0 if arguments[-1] in state["images"] else 1
    if arguments[0] == "info":
        return "20.10.24", 0
    if arguments[:2] == ["compose", "version"]:
        return state.get("version", "2.40.3"), 0
    words = arguments[1:]
    if words[0] == "--env-file":
        assert Path(words[1]).is_file(), words
        words = words[2:]
    verb, running = words[0], state["running"]
    named = [word for word in words[1:] if not word.startswith("-") and word != "HUP"]
    if verb == "ps":
        return state["ps"] if "json" in words else "\n".join(running), 0
    if verb == "logs":
        return state["logs"], 0
    if verb == "run":
        return state.get("certificate", "{}"), 1 if "certificate" in state else 0
    if verb == "build":
        if not state.get("build"):
            state["images"] = ["kafka-webhook-bridge:local"]
        return "", state.get("build", 0)
    if verb == "exec":
        assert "postgres" in running
        state["roles"].update(re.findall(r"ALTER ROLE (\w+) PASSWORD '([^']+)';", sys.stdin.read()))
    elif verb == "kill":
        assert set(named) <= set(running), named
        load(state, named)
    elif verb == "restart":
        load(state, named)
    elif verb == "up":
        if not state.get("up"):
            started = [name for name in named or SERVICES if name not in running]
            state["running"] = sorted({*running, *started})
            load(state, started)
            if "postgres" in started and not state["roles"]:
                state["roles"] = {"postgres": secret("postgres_password"), "kwb": secret("database_password")}
        return "", state.get("up", 0)
    elif verb == "stop":
        state["running"] = [name for name in running if name not in named]
    elif verb == "down":
        state["running"] = []
        if "--volumes" in words:
            state["volumes"] = [name for name in state["volumes"] if not name.startswith("kwb_")]
    else:
        raise AssertionError(words)
    return "", 0


def load(state: dict, services: list) -> None:
    for name in services:
        if name in SECRETS:
            state["held"][name] = {one: secret(one) for one in SECRETS[name]}


def secret(name: str) -> str:
    return Path(".kwb/compose/secrets", name).read_text()


if __name__ == "__main__":
    sys.exit(main())
