"""Topics deleted and made anew, or with other limits."""

from __future__ import annotations

from faults.injectors import Fault
from faults.world import World, until


def topic_deleted(source: str, seconds: float) -> Fault:
    """An operator deletes a topic and makes it anew later; the others go on."""

    def fault(world: World) -> None:
        name = world.facts()[source].topic
        with world.fault(f"the topic of {source} is deleted"):
            world.ground.delete_topics([name])
            world.last(seconds)
            world.ground.make_topics([name])

    return fault


def topic_recreated(source: str) -> Fault:
    """Deleted and made anew at once, several times: sequences and offsets start again behind the producers' back."""

    def fault(world: World) -> None:
        name = world.facts()[source].topic
        with world.fault(f"the topic of {source} is made anew"):
            for _ in range(3):
                world.ground.delete_topics([name])
                until(lambda: name not in world.ground.admin().list_topics(timeout=10).topics, "deleted")
                world.ground.make_topics([name])
                world.moment(1, 2)

    return fault


def too_large(source: str, bytes_max: int, seconds: float) -> Fault:
    """The topic's limit falls under what the bridge promised to its senders."""

    def fault(world: World) -> None:
        name = world.facts()[source].topic
        with world.fault(f"max.message.bytes of {source} is {bytes_max}"):
            world.ground.set_topic(name, max_message_bytes=str(bytes_max))
            world.last(seconds)
            world.ground.set_topic(name, max_message_bytes=str(16 * 1024**2))

    return fault
