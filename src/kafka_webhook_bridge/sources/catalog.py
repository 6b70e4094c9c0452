"""The catalog: every profile by name, the packaged ones and a user's own. Reads files and nothing else.

Packaged files are found by a scan of their text and parsed when a profile of theirs is asked for; a user's files are
parsed and checked at once. Every problem of them is collected, none raised, with file, line and the near match of a
word that is unknown, as those of bridge.yaml are.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from pydantic import ValidationError

from kafka_webhook_bridge.errors import ConfigError, Problem
from kafka_webhook_bridge.sources.document import Document
from kafka_webhook_bridge.sources.profile import CatalogFile, Profile
from kafka_webhook_bridge.sources.toml import find_lines, parse_toml
from kafka_webhook_bridge.sources.words import explain

PACKAGED = Path(__file__).parent / "catalog"
FILE_BYTES_MAX = 1024**2

_NAME = re.compile(r"^\[profiles\.([a-z0-9-]+)\]", re.MULTILINE)


class UnknownProfile(ValueError):
    """No profile has that name; the message says which is near."""


class Catalog:
    """Profiles by name. `problems` are those of the user's files, whose faulty profiles are not there.

    `paths` are files, or folders whose `*.toml` count. A profile of a user takes the place of a packaged one only if it
    says `replaces = true`.
    """

    def __init__(self, paths: Iterable[Path] = ()) -> None:
        self.problems: list[Problem] = []
        self._own: dict[str, Profile] = {}
        for path in paths:
            for file in self._files(path):
                self._read(file)

    def names(self) -> list[str]:
        """The names of all profiles, in order."""
        return sorted({*_index(), *self._own})

    def load(self, name: str) -> Profile:
        """The profile of that name. Raises UnknownProfile."""
        profile = self._own.get(name)
        if profile is None and (file := _index().get(name)) is not None:
            profile = _packaged(file).get(name)
        if profile is None:
            near = difflib.get_close_matches(name, self.names(), 1)
            hint = f"did you mean {near[0]}?" if near else "`kwb sources profiles` lists them"
            raise UnknownProfile(f"there is no profile {name!r}; {hint}")
        return profile

    def load_all(self) -> list[Profile]:
        """All profiles, by name."""
        return [self.load(name) for name in self.names()]

    def _files(self, path: Path) -> list[Path]:
        if not path.is_dir():
            return [path]
        found = sorted(path.glob("*.toml"))
        if not found:
            self.problems.append(Problem(str(path), "a folder without a file *.toml"))
        return found

    def _read(self, path: Path) -> None:
        try:
            if path.stat().st_size > FILE_BYTES_MAX:
                self.problems.append(Problem(str(path), f"larger than {FILE_BYTES_MAX // 1024**2} MiB"))
                return
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            self.problems.append(Problem(str(path), f"cannot be read: {error.strerror}"))
            return
        except UnicodeDecodeError as error:
            self.problems.append(Problem(str(path), f"is not UTF-8 text: {error.reason} at byte {error.start}"))
            return
        document, profiles = read_file(str(path), text, packaged=False)
        for name, profile in profiles.items():
            if what := self._why_not(profile):
                document.problem(("profiles", name), f"profiles.{name}: {what}")
            else:
                self._own[name] = profile
        self.problems += document.problems

    def _why_not(self, profile: Profile) -> str:
        taken = _index().get(profile.name)
        if profile.name in self._own:
            return f"the name stands in {self._own[profile.name].file} already"
        if taken and not profile.replaces:
            return f"the name is that of a packaged profile ({taken}.toml); another name, or `replaces = true`"
        if profile.replaces and not taken:
            near = difflib.get_close_matches(profile.name, _index(), 1)
            return "`replaces` but there is no packaged profile of that name" + (f", only {near[0]}" if near else "")
        return ""


def read_file(name: str, text: str, *, packaged: bool) -> tuple[Document, dict[str, Profile]]:
    """The profiles of one file, by name, and its document with what is wrong in it. With problems there are none."""
    document = parse_toml(name, text)
    if document.problems:
        return document, {}
    try:
        file = CatalogFile.model_validate(document.data)
    except ValidationError as invalid:
        document.lines = find_lines(text)
        for error in invalid.errors(include_url=False):
            document.problem(*explain(CatalogFile, (), error, whole=Path(name).name))
        document.problems.sort(key=lambda problem: int(problem.where.rpartition(":")[2]))
        return document, {}
    if not packaged:
        document.lines = find_lines(text)
    place = {"provider": file.provider, "docs": file.docs, "file": Path(name).stem, "packaged": packaged}
    return document, {
        # The row is valid, so what it has is taken over as it is.
        key: Profile.model_construct(_fields_set=None, **{**row.__dict__, **place, "name": key})
        for key, row in file.profiles.items()
    }


@cache
def _index() -> Mapping[str, str]:
    """Name of a packaged profile → its file's stem."""
    return {
        name: path.stem
        for path in sorted(PACKAGED.glob("*.toml"))
        for name in _NAME.findall(path.read_text(encoding="utf-8"))
    }


@cache
def _packaged(file: str) -> Mapping[str, Profile]:
    name = f"{file}.toml"
    document, profiles = read_file(name, (PACKAGED / name).read_text(encoding="utf-8"), packaged=True)
    if document.problems:
        raise ConfigError(document.problems, hint="Install the package anew: a file of its catalog is not as it was.")
    return profiles
