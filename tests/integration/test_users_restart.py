"""Users of a broker that starts again after one of them was removed."""

from __future__ import annotations

from pathlib import Path

from kafka_webhook_bridge.kafka.users import Users, check_name
from kafka_webhook_bridge.stack import Kafka


def place(name: str) -> int:
    """Where a java.util.HashMap of at most twelve entries has a String: lower ones come first."""
    value = 0
    for character in name:
        value = (31 * value + ord(character)) & 0xFFFFFFFF
    return (value ^ value >> 16) & 15


def test_a_user_that_was_removed_takes_no_other_with_it_at_a_restart(folder: Path) -> None:
    names = sorted((f"user-{number}" for number in range(40)), key=place)
    first, last = names[0], names[-1]
    assert place(first) < place(last)  # Kafka 4.4.0 loses the last without its placeholder
    kafka = Kafka(folder / "kafka")
    try:
        kafka.start()
        users = Users(kafka.settings)
        for name in (first, last):
            check_name(name)
            users.put(name, "a-password-of-the-test")
        assert users.names() == {first, last}
        users.delete(first)
        kafka.kill()
        kafka.start()
        assert Users(kafka.settings).names() == {last}
        assert [user.name for user in Users(kafka.settings).all()] == [last]
    finally:
        kafka.destroy()
