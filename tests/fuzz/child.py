"""One target under atheris: `python -m fuzz.child TARGET FOLDER SECONDS`; needs atheris on the path.

An exception ends it with an input `crash-*` in FOLDER, as libFuzzer does. An input that takes longer than SLOW_S of
processor time, three times over, is kept as `slow-*`, and the search goes on.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
import time
from pathlib import Path
from typing import Any

SLOW_S = 0.05
SLOW_KEPT_MAX = 20


def main(name: str, folder: Path, seconds: int) -> None:
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["kafka_webhook_bridge"]):
        targets = importlib.import_module("fuzz.targets")
    target = targets.TARGETS[name]
    corpus = folder / f"corpus-{name}"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
        target.run(seed)  # what is made once is made before the clock counts
    kept = 0

    def one(data: bytes) -> None:
        nonlocal kept
        began = time.process_time()
        target.run(data)
        if time.process_time() - began > SLOW_S and kept < SLOW_KEPT_MAX and slow(target.run, data):
            kept += 1
            (folder / f"slow-{name}-{hashlib.sha256(data).hexdigest()[:16]}").write_bytes(data)

    options = [
        "fuzz", f"-max_total_time={seconds}", f"-max_len={target.bytes_max}", f"-artifact_prefix={folder}/{name}-",
        "-print_final_stats=1", "-rss_limit_mb=2048", "-timeout=30", "-verbosity=0", str(corpus),
    ]  # fmt: skip
    atheris.Setup(options, one)
    atheris.Fuzz()


def slow(run: Any, data: bytes) -> bool:
    """Whether each of three more runs takes longer than SLOW_S of processor time."""
    for _ in range(3):
        began = time.process_time()
        run(data)
        if time.process_time() - began <= SLOW_S:
            return False
    return True


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
