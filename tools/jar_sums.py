"""Writes src/kafka_webhook_bridge/stack/jars.sha256: every jar that the embedded Kafka and its Java tools need.

Run it after a change of version, on a network that you trust, and read the diff.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from jgo.parse import Coordinate

from kafka_webhook_bridge.stack.jars import KAFKA_VERSION, JarSet, digest, download, maven

SUMS = Path(__file__).parents[1] / "src/kafka_webhook_bridge/stack/jars.sha256"
# log4j-slf4j-impl is resolved by itself: in one call with the broker its managed versions pull an older
# kafka-clients, and the broker dies with NoSuchMethodError.
LOG4J = "org.apache.logging.log4j:log4j-slf4j-impl:2.25.5"
COORDINATES: dict[JarSet, tuple[str, ...]] = {
    "broker": (f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}", LOG4J),
    "tools": (f"org.apache.kafka:kafka-tools:{KAFKA_VERSION}", LOG4J),
}


def main() -> None:
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        context = maven(Path(folder))
        for kind, coordinates in COORDINATES.items():
            artifacts: dict[str, Any] = {}
            for one in coordinates:
                coordinate = replace(Coordinate.parse(one), scope="compile")
                asked, needed = context.resolver.resolve([context.create_dependency(coordinate)])
                for dependency in [*asked, *(one for one in needed if one.scope in ("compile", "runtime"))]:
                    # The first wins: what the broker asks for stands before what the logger asks for.
                    artifacts.setdefault(dependency.artifact.filename, dependency.artifact)
            paths = sorted(path.relative_to(folder) for path in download(artifacts.values()))
            lines += [f"{digest(folder / path)}  {kind}/{path.as_posix()}\n" for path in paths]
    SUMS.write_text("".join(lines))
    print(f"{SUMS}: {len(lines)} jars")


if __name__ == "__main__":
    main()
