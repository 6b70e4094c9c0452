"""One change of an outside user at a time: Kafka would mix two of them, and none of both would hear of it.

    on this machine   a lock on a file, where it has a folder for temporary ones
    everywhere else   a lock in PostgreSQL; the worker that ends users takes it, too

Without PostgreSQL commands on two machines do not see each other; then Users.create sees that its user became another.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kafka_webhook_bridge.cli.output import Output
from kafka_webhook_bridge.errors import KwbError, StoreError

if TYPE_CHECKING:
    from kafka_webhook_bridge.settings import Settings

_HINT = "Wait for its end; `kwb users list` shows what came of it."


@contextlib.contextmanager
def alone(settings: Settings, out: Output, name: str) -> Iterator[None]:
    """Nobody else changes the user `name` in this block. Raises KwbError while another command does."""
    busy = f"Another command is making, changing or deleting the user {name} now."
    with contextlib.ExitStack() as held:
        held.enter_context(_machine(name, busy))
        if settings.store.url is not None:
            try:
                mine = held.enter_context(_turn(settings, name))
            except StoreError as error:  # somebody must be able to end a user all the same
                out.note(f"Whether a command elsewhere changes {name}, too, is not known: {error.message}", "yellow")
            else:
                if not mine:
                    raise KwbError(busy, hint=_HINT)
        yield


def _machine(name: str, busy: str) -> contextlib.AbstractContextManager[None]:
    from kafka_webhook_bridge.stack.files import lock

    try:
        folder = Path(tempfile.gettempdir())
    except FileNotFoundError:  # a container that may write nowhere
        return contextlib.nullcontext()
    return lock(folder / f"kwb-users-{os.getuid()}-{name}.lock", busy, _HINT)


@contextlib.contextmanager
def _turn(settings: Settings, name: str) -> Iterator[bool]:
    """Whether the turn in the database is ours. Its connection stays open, and its loop still, while Kafka is asked."""
    from kafka_webhook_bridge.store import Store
    from kafka_webhook_bridge.store.users import changing

    held = contextlib.AsyncExitStack()

    async def take() -> bool:
        store = await held.enter_async_context(Store(settings.store))
        return await held.enter_async_context(changing(store, name))

    with asyncio.Runner() as runner:
        try:
            yield runner.run(take())
        finally:
            runner.run(held.aclose())


@contextlib.contextmanager
def unbroken() -> Iterator[Callable[[], None]]:
    """Ctrl-C, SIGTERM and a closed terminal wait in this block for the call that it gives, which raises them then.

    So they come between two steps, not while Kafka does what would have to be undone. A second one does not wait.
    """
    if threading.current_thread() is not threading.main_thread():  # others are never interrupted
        yield lambda: None
        return
    came: list[int] = []

    def go_on() -> None:
        if came:
            raise KeyboardInterrupt if came[0] == signal.SIGINT else SystemExit(128 + came[0])

    def handle(number: int, _frame: Any) -> None:
        came.append(number)
        if len(came) > 1:
            go_on()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: found for number in numbers if (found := signal.getsignal(number)) != signal.SIG_IGN}
    for number in before:
        signal.signal(number, handle)
    try:
        yield go_on
    finally:
        for number, old in before.items():
            signal.signal(number, old)
