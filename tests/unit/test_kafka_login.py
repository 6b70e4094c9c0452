"""Who is told of a changed password (kafka/login.py)."""

from __future__ import annotations

from dataclasses import replace

from pydantic import SecretStr

from kafka_webhook_bridge.kafka import login
from kafka_webhook_bridge.settings import KafkaSettings


class Client:
    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def log_in(self, username: str, password: str) -> None:
        self.told.append((username, password))


def test_a_client_that_was_being_made_during_the_change_is_told_of_it() -> None:
    before = KafkaSettings(bootstrap_servers="made.test:1", username="u", password=SecretStr("old"))
    early, late = Client(), Client()
    login.follow(early, before)
    given = login.password_in_force(before)  # what the late one is made with
    assert login.change(replace(before, password=SecretStr("new")), before)
    login.follow(late, before)
    assert given is not None
    assert given.get_secret_value() == "old"
    assert (early.told, late.told) == ([("u", "new")], [("u", "new")])
