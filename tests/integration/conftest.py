"""What the tests with real servers share."""

from __future__ import annotations

import pytest
from archive_world import World

from kafka_webhook_bridge.stack import Stack


@pytest.fixture
def world(stack: Stack, database: str, topic: str) -> World:
    return World(stack, database, topic)
