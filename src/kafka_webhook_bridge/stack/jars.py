"""Kafka's jars: fetched once from the Maven repository, then checked against the committed sums in jars.sha256.

log4j-slf4j-impl is resolved by itself: in one call with the broker its managed versions pull an older kafka-clients,
and the broker dies with NoSuchMethodError.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Literal

from kafka_webhook_bridge.errors import StackError
from kafka_webhook_bridge.stack.files import lock

KAFKA_VERSION = "4.4.0"
_LOG4J = "org.apache.logging.log4j:log4j-slf4j-impl:2.25.5"
JarSet = Literal["broker", "tools"]
COORDINATES: dict[JarSet, tuple[str, ...]] = {
    "broker": (f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}", _LOG4J),
    "tools": (f"org.apache.kafka:kafka-tools:{KAFKA_VERSION}", _LOG4J),
}


def default_cache() -> Path:
    """Where the jars are kept between projects."""
    return Path.home() / ".cache" / "kafka-webhook-bridge"


def sums() -> dict[str, str]:
    """`<set>/<file name>` → SHA-256 in hex, as committed."""
    text = resources.files("kafka_webhook_bridge.stack").joinpath("jars.sha256").read_text()
    return {name: digest for digest, name in (line.split() for line in text.splitlines() if line)}


def jars(kind: JarSet, cache: Path | None = None, progress: Callable[[str], None] = lambda _: None) -> list[Path]:
    """The jars of one set, in order, each known to have its committed sum.

    A file is hashed when it is new or its size or time has changed; otherwise a start costs one `stat` a jar.
    Raises StackError: no network, or a jar that is not the one expected.
    """
    wanted = {name.removeprefix(f"{kind}/"): digest for name, digest in sums().items() if name.startswith(f"{kind}/")}
    cache = cache or default_cache()
    folder = cache / f"kafka-{KAFKA_VERSION}-{_short(wanted)}" / kind
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in sorted(wanted)]
    # Several projects may start at once on a fresh machine; one fetches, the others wait for it.
    with lock(cache / "lock", "", "", wait=True):
        if not all(path.exists() for path in paths):
            progress("Fetching Apache Kafka, once (about 45 MB)")
            _fetch(kind, wanted, folder)
        _check(paths, wanted, folder)
    return paths


def _check(paths: list[Path], wanted: dict[str, str], folder: Path) -> None:
    stamp = folder / "checked.json"
    seen = {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in paths}
    try:
        known = json.loads(stamp.read_text())
    except (OSError, ValueError):
        known = {}
    for path in paths:
        if known.get(path.name) != seen[path.name] and digest(path) != wanted[path.name]:
            stamp.unlink(missing_ok=True)
            raise StackError(
                f"{path} is not the file that was released: its SHA-256 differs from the committed one.",
                hint=f"Remove {folder} and start again; if it happens again, the network or a mirror alters files.",
            )
    if known != seen:
        stamp.write_text(json.dumps(seen))


def _fetch(kind: JarSet, wanted: dict[str, str], folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder) as temporary:
        fresh = Path(temporary)
        resolve(kind, fresh)
        if missing := sorted(name for name in wanted if not (fresh / name).exists()):
            raise StackError(f"The Maven repository did not give {', '.join(missing)}.", hint="Try again later.")
        for name in wanted:
            (fresh / name).replace(folder / name)


def resolve(kind: JarSet, into: Path) -> None:
    """Put the jars of one set into the folder `into`, unchecked. Copies: nobody else's cache reaches ours later."""
    try:
        import jgo
    except ImportError:
        raise StackError(
            "The embedded servers are not installed.", hint="pip install 'kafka-webhook-bridge[embedded]'"
        ) from None
    with tempfile.TemporaryDirectory(prefix="kwb-jars-") as temporary:
        for number, coordinates in enumerate(COORDINATES[kind]):
            try:
                built = jgo.build(coordinates, cache_dir=Path(temporary) / str(number))
            except (OSError, RuntimeError) as error:  # the errors of requests are OSErrors
                raise StackError(
                    f"Apache Kafka could not be fetched: {str(error).strip().splitlines()[0]}",
                    hint="The first start needs a network (a proxy is taken from HTTPS_PROXY). Without one, copy "
                    f"{default_cache()} from a machine that has started once.",
                ) from error
            for path in built.all_jars:
                # The first wins: what the broker asks for stands before what the logger asks for.
                if not (into / path.name).exists():
                    shutil.copyfile(path, into / path.name)


def digest(path: Path) -> str:
    """SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _short(wanted: dict[str, str]) -> str:
    return hashlib.sha256(repr(sorted(wanted.items())).encode()).hexdigest()[:8]
