"""Kafka's jars: exactly those of jars.sha256, fetched once from a Maven repository and checked against its sums.

jars.sha256 is a lock file in the format of sha256sum: `<SHA-256>  <set>/<path in a Maven repository>`, made by
tools/jar_sums.py. Since it names every jar, a first start reads no POM and fetches all of them side by side.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from kafka_webhook_bridge.errors import StackError
from kafka_webhook_bridge.stack.files import lock
from kafka_webhook_bridge.stack.keeper import together

KAFKA_VERSION = "4.4.0"
JarSet = Literal["broker", "tools"]

_FETCHING = ".fetching-"
_DOWNLOADS_MAX = 8


@dataclass(frozen=True, slots=True)
class Jar:
    """One line of jars.sha256. `path` is that of a Maven repository: `group/as/folders/artifact/version/file.jar`."""

    path: PurePosixPath
    sha256: str

    @property
    def group(self) -> str:
        return ".".join(self.path.parts[:-3])

    @property
    def artifact(self) -> str:
        return self.path.parts[-3]

    @property
    def version(self) -> str:
        return self.path.parts[-2]


def default_cache() -> Path:
    """Where the jars are kept between projects."""
    return Path.home() / ".cache" / "kafka-webhook-bridge"


def locked(kind: JarSet) -> list[Jar]:
    """The jars of one set as committed."""
    text = resources.files("kafka_webhook_bridge.stack").joinpath("jars.sha256").read_text()
    lines = [line.split() for line in text.splitlines()]
    return [Jar(PurePosixPath(path).relative_to(kind), sha) for sha, path in lines if path.startswith(f"{kind}/")]


def jars(kind: JarSet, cache: Path | None = None, progress: Callable[[str], None] = lambda _: None) -> list[Path]:
    """The files of one set, in order, each known to have its committed sum.

    A file is hashed when it is new or its size or time has changed; otherwise a start costs one `stat` a jar.
    Raises StackError: no network, or a jar that is not the one expected.
    """
    wanted = locked(kind)
    cache = cache or default_cache()
    digest_of_all = hashlib.sha256(repr(wanted).encode()).hexdigest()
    folder = cache / f"kafka-{KAFKA_VERSION}-{kind}-{digest_of_all[:8]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StackError(
            f"The folder {folder} for Kafka's jars cannot be made: {error.strerror}.",
            hint="Name another one in KWB_STACK_CACHE_FOLDER.",
        ) from error
    # Several projects may start at once on a fresh machine; one fetches, the others wait for it.
    with lock(folder / "lock", "", "", wait=True):
        if missing := [jar for jar in wanted if not (folder / jar.path.name).exists()]:
            progress(f"Fetching Apache Kafka {KAFKA_VERSION}, once")
            _fetch(missing, folder)
        _check(wanted, folder)
    return [folder / jar.path.name for jar in wanted]


def _check(wanted: list[Jar], folder: Path) -> None:
    stamp = folder / "checked.json"
    stats = {jar.path.name: (folder / jar.path.name).stat() for jar in wanted}
    seen = {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}
    try:
        known = json.loads(stamp.read_text())
    except (OSError, ValueError):
        known = {}
    for jar in wanted:
        if known.get(jar.path.name) != seen[jar.path.name] and digest(folder / jar.path.name) != jar.sha256:
            stamp.unlink(missing_ok=True)
            raise StackError(
                f"{folder / jar.path.name} is not the file that was released: its SHA-256 is not the committed one.",
                hint=f"Remove {folder} and start again; if it happens again, the network or a mirror alters files.",
            )
    if known != seen:
        stamp.write_text(json.dumps(seen))


def _fetch(missing: list[Jar], folder: Path) -> None:
    for abandoned in folder.glob(f"{_FETCHING}*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    # jgo writes into its cache in place, so an interrupted download would stay: the cache is a folder that goes.
    with tempfile.TemporaryDirectory(prefix=_FETCHING, dir=folder) as temporary:
        context = maven(Path(temporary))
        for path in download(
            context.project(jar.group, jar.artifact).at_version(jar.version).artifact() for jar in missing
        ):
            path.replace(folder / path.name)


def maven(cache: Path) -> Any:
    """jgo's way to Maven repositories: the central one and those of its settings file (`[repositories]`)."""
    try:
        from jgo.config import GlobalSettings
        from jgo.constants import MAVEN_CENTRAL_URL
        from jgo.maven import MavenContext
    except ImportError:
        raise StackError(
            "The embedded servers are not installed.", hint="pip install 'kafka-webhook-bridge[embedded]'"
        ) from None
    repositories = {"central": MAVEN_CENTRAL_URL, **GlobalSettings.load().repositories}
    return MavenContext(repo_cache=cache, remote_repos=repositories)


def download(artifacts: Iterable[Any]) -> list[Path]:
    """The files of jgo's artifacts. Raises StackError when one cannot be had."""
    waiting = list(enumerate(artifacts))
    found: dict[int, Path] = {}

    def work() -> None:
        while waiting:
            with contextlib.suppress(IndexError):  # another thread took the last one
                number, artifact = waiting.pop(0)
                try:
                    found[number] = artifact.resolve()
                except BaseException:
                    waiting.clear()
                    raise

    try:
        together([work] * _DOWNLOADS_MAX)
    except (OSError, RuntimeError) as error:  # the errors of requests are OSErrors
        raise StackError(
            f"Apache Kafka could not be fetched: {_root_cause(error)}",
            hint="The first start needs a network (a proxy is taken from HTTPS_PROXY). Without one, copy "
            f"{default_cache()} from a machine that has started once.",
        ) from error
    return [found[number] for number in sorted(found)]


def _root_cause(error: BaseException) -> str:
    """The first thing that went wrong, on one line: what follows from it says less."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return " ".join(str(error).split())[:300] or type(error).__name__


def digest(path: Path) -> str:
    """SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
