"""What breaks, and how it is healed: functions of a world, put into the table of scenarios.py, by what they break.

A function that takes arguments gives back the function of the world. Whatever it breaks it marks with `world.fault`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from faults.world import World

Fault = Callable[[World], None]
Around = Callable[[World], contextlib.AbstractContextManager[None]]


def nothing(world: World) -> None:
    """What there is to compare with."""
    with world.fault("nothing"):
        world.last(4)
