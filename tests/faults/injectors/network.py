"""What is between the bridge and its stores."""

from __future__ import annotations

from typing import Any

from faults.injectors import Fault
from faults.proxy import Proxy
from faults.world import World, until
from kafka_webhook_bridge.stack.ports import free_ports


def wire(label: str, seconds: float, store: str = "kafka", **link: Any) -> Fault:
    """The proxy's link to a store is like this for a while; `down` and `cut` are words of their own."""

    def fault(world: World) -> None:
        proxy = world.ground.to_kafka if store == "kafka" else world.ground.to_postgres
        with world.fault(label):
            if link.get("down"):
                proxy.down()
            elif "cut" in link:
                proxy.cut(*link["cut"])
            else:
                proxy.shape(**link)
            world.last(seconds)
            proxy.clear()
            proxy.up()

    return fault


def cut_in_the_middle(times: int) -> Fault:
    """Connections to the broker end after a few kilobytes, again and again."""

    def fault(world: World) -> None:
        with world.fault("connections end in the middle"):
            world.ground.to_kafka.shape(limit_bytes=20_000, slice_bytes=1000)
            for _ in range(times):
                world.moment(0.3, 0.7)
                world.ground.to_kafka.reset()
            world.ground.to_kafka.clear()

    return fault


def new_address(world: World) -> None:
    """The broker comes back under another address; the one for the start of a connection stays."""
    ground = world.ground
    second = Proxy(free_ports(1)[0], ground.kafka.ports.internal).start()
    world.closing.callback(second.stop)
    with world.fault("another address"):
        ground.kafka.stop()
        ground.advertise(second.port)
        ground.kafka.start()
    until(lambda: second.connections > 0, "the bridge uses the new address")
