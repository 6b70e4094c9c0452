"""Writes src/kafka_webhook_bridge/stack/jars.sha256: the sums of every jar that the embedded Kafka and its tools need.

Run it after changing a version in stack/jars.py, on a network that you trust, and read the diff.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from kafka_webhook_bridge.stack.jars import COORDINATES, digest, resolve

SUMS = Path(__file__).parents[1] / "src/kafka_webhook_bridge/stack/jars.sha256"


def main() -> None:
    lines = []
    for kind in COORDINATES:
        with tempfile.TemporaryDirectory() as folder:
            resolve(kind, Path(folder))
            lines += [f"{digest(path)}  {kind}/{path.name}\n" for path in sorted(Path(folder).iterdir())]
    SUMS.write_text("".join(lines))
    print(f"{SUMS}: {len(lines)} sums")


if __name__ == "__main__":
    main()
