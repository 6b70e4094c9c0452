"""The bridge's login at the cluster, and its change while clients live.

    SIGHUP ──▶ change(settings) ──▶ every living client of that cluster and user, and those made later

A client logs in whenever it connects, so a password that was changed at the cluster is missed at the next connection,
not before. Rooms keep the settings that they were made with; what is in force is known here alone.
"""

from __future__ import annotations

import contextlib
import threading
from typing import Protocol
from weakref import WeakKeyDictionary

import confluent_kafka as ck
from pydantic import SecretStr

from kafka_webhook_bridge.settings import KafkaSettings


class Client(Protocol):
    """Whatever logs in. `log_in` is called in another thread than the client's own."""

    def log_in(self, username: str, password: str) -> None: ...


_Account = tuple[str, str]  # bootstrap servers and user
_lock = threading.Lock()
_changed: dict[_Account, SecretStr] = {}
_clients: WeakKeyDictionary[Client, _Account] = WeakKeyDictionary()


def _account(settings: KafkaSettings) -> _Account:
    return settings.bootstrap_servers, settings.username


def password_in_force(settings: KafkaSettings) -> SecretStr | None:
    """The password of these settings, or the one that it was changed to since they were read."""
    return _changed.get(_account(settings), settings.password)


def follow(client: Client, settings: KafkaSettings) -> None:
    """From now on the client is told of changes, as long as it lives."""
    with _lock:
        _clients[client] = _account(settings)
        changed = _changed.get(_account(settings))
    if changed is not None:  # perhaps since the client was given its password
        _log_in(client, settings.username, changed)


def change(settings: KafkaSettings, before: KafkaSettings) -> bool:
    """Use the password of `settings` from now on, also where there was another; whether it is another than before.

    `before` are the settings that the process began with. Another user or cluster needs a restart: nothing is done.
    """
    password = settings.password
    if password is None or _account(settings) != _account(before) or password == password_in_force(before):
        return False
    with _lock:
        _changed[_account(settings)] = password
        clients = [client for client, account in _clients.items() if account == _account(settings)]
    for client in clients:
        _log_in(client, settings.username, password)
    return True


def _log_in(client: Client, username: str, password: SecretStr) -> None:
    with contextlib.suppress(ck.KafkaException, RuntimeError):  # closed meanwhile
        client.log_in(username, password.get_secret_value())
