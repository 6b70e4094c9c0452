"""No release below the floor: versions whose known weaknesses would open the doors that face outside."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kafka_webhook_bridge.stack.jars import KAFKA_VERSION, locked

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))

# Python packages that must be locked, and those that may be: the lowest release without a known weakness.
NEEDED = {"confluent-kafka": (2, 14, 2)}
IF_PRESENT = {"h11": (0, 16), "kafka-python": (2, 3, 2)}
# Before login, tagged fields fill the heap of Kafka 2.4.0-4.3.1 (CVE-2026-111115). 4.2.2 has the repair too.
KAFKA = (4, 3, 2)
NGINX = (1, 30, 7)


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def images(name: str) -> list[str]:
    """Tags of the image in compose.yaml; a digest or a variable around it does not hide the tag."""
    return re.findall(rf"image:.*\b{re.escape(name)}:(\d[\w.]*)", (ROOT / "compose.yaml").read_text())


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_locked_packages_keep_the_floor(lock: Path) -> None:
    found = dict(re.findall(r"(?m)^([a-z0-9._-]+)==([^\s;]+)", lock.read_text()))
    assert found
    for name, floor in {**NEEDED, **IF_PRESENT}.items():
        if name in found:
            assert numbers(found[name]) >= floor, f"{name} {found[name]} in {lock.name}"


def test_the_clients_are_locked() -> None:
    base = (ROOT / "requirements" / "base.txt").read_text()
    assert all(f"\n{name}==" in f"\n{base}" for name in NEEDED)


def test_the_jars_keep_the_floor() -> None:
    for kind in ("broker", "tools"):
        kafka = [jar for jar in locked(kind) if jar.group == "org.apache.kafka"]
        assert "kafka-clients" in {jar.artifact for jar in kafka}
        assert all(numbers(jar.version) >= KAFKA for jar in kafka)


def test_the_images_keep_the_floor() -> None:
    assert images("apache/kafka") == [KAFKA_VERSION], "the container's broker is the tested one"
    assert [numbers(tag) >= NGINX for tag in images("nginx")] == [True]
