"""What the checks share: the stack, the partner that reads through all of it, and numbers for the report."""

import json
import subprocess
from dataclasses import dataclass, field
from typing import Any

from compose.stack import Compose, Reader

PARTNER = "partner"
TOPIC = "demo"


class NotRun(Exception):
    """A part that a check needs is not there."""


@dataclass
class Scene:
    """The stack, and what checks leave for later ones and for the report."""

    stack: Compose
    commit: str
    password: str = ""
    reader: Reader | None = None
    marker: str = ""
    numbers: dict[str, str] = field(default_factory=dict)

    def reading(self) -> Reader:
        """The partner on this machine that reads from the first check to the last."""
        if not self.password:
            raise NotRun("there is no partner")
        if self.reader is None:
            command = self.stack.partner(
                "read", "--user", PARTNER, "--topic", TOPIC, "--group", f"{PARTNER}.host"
            )  # fmt: skip
            self.reader = Reader(command, self.password, self.stack)
        return self.reader

    def partner_ends(self, command: list[str], password: str | None = None) -> tuple[int, list[dict[str, Any]]]:
        """Exit status and lines of a partner that ends by itself."""
        environment = {**self.stack.environment, "PARTNER_PASSWORD": password or self.password}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        assert lines or done.returncode == 0, done.stderr[-1000:]
        return done.returncode, lines
