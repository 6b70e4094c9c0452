"""What Kafka, PostgreSQL and the bridge have in common: a process on a folder that starts, ends and comes back."""

from __future__ import annotations

from abc import ABC, abstractmethod

from kafka_webhook_bridge.errors import StackError
from kafka_webhook_bridge.stack.process import Process


class Server(ABC):
    """One server. `start`, `stop` and `kill` may follow each other in any order; the data stays."""

    _process: Process

    @property
    def name(self) -> str:
        return self._process.name

    @property
    def alive(self) -> bool:
        return self._process.alive

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def start(self) -> None:
        """Start, and wait until it serves. Raises StackError with the reason when it does not."""
        self.launch()
        self.wait_ready()

    @abstractmethod
    def launch(self) -> None:
        """As `start`, without the wait."""

    @abstractmethod
    def wait_ready(self, timeout_s: float = ...) -> None:
        """Until it serves. Raises StackError when it ends or takes too long."""

    def stop(self, timeout_s: float | None = None) -> None:
        """Ask it to end, as it likes to be asked; by force after `timeout_s`, or its own limit."""
        self._process.stop(timeout_s)

    def kill(self) -> None:
        """SIGKILL, as a power cut would end it."""
        self._process.kill()

    def trim_log(self) -> None:
        """Bound what its process writes."""
        self._process.trim_log()

    @abstractmethod
    def failure(self) -> StackError:
        """Why it is not running, in a sentence."""
